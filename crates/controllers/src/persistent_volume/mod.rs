//! Binds claims to volumes, and says what becomes of a volume whose claim has gone.
//!
//! ```text
//!  claim:   Pending ──a volume suits or is made──▶ Bound ──its volume vanishes──▶ Lost
//!  volume:  Available ──▶ Bound ──its claim goes──▶ Released ──▶ gone (Delete) | Failed | stays (Retain)
//! ```
//!
//! Binding takes four writes: the volume names the claim, the volume's phase, the claim names the volume, the claim's phase.
//! A pass does whichever are missing, so it may be cut short after any of them. Making and deleting what is behind a volume
//! is the work of provisioners (`local_provisioner`, or others outside), which read the annotations set here.
//!
//! Upstream: <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/volume/persistentvolume/pv_controller.go>.

mod claim;
pub mod names;
#[cfg(test)]
mod tests;
mod volume;
mod write;

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kobune_scheduler::recorder::{Recorder, Severity};
use kobune_scheduler::volume_match::{self, claim_class, claim_ref};
use kube::Resource;
use kube::api::Api;

use crate::clock;
use crate::context::Context;
use crate::object::{Cached, ObjectKey};
use crate::queue::{Doing, PassError, Queue, Revisit, is_not_found};
use claim::ClaimPlan;
use volume::VolumePlan;

/// What an event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    severity: Severity,
    reason: &'static str,
    message: String,
}

impl Note {
    fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Normal, reason, message: message.into() }
    }

    fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, reason, message: message.into() }
    }
}

/// The reference to an object that events and volumes carry.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        ..ObjectReference::default()
    }
}

struct Binder {
    context: Arc<Context>,
    recorder: Recorder,
    queue: Arc<Queue>,
    /// One claim chooses at a time: the next choice has to see it.
    turn: tokio::sync::Mutex<()>,
}

/// Starts the controller.
pub fn start(context: &Arc<Context>) {
    let queue = Arc::<Queue>::default();
    let caches = &context.caches;
    // Claims have a namespace, volumes have none: one queue tells them apart by their keys.
    let (volumes, wake) = (caches.volumes.clone(), queue.clone());
    caches.claims.on_change(move |before, after| {
        let Some(claim) = after.or(before) else { return };
        let key = claim.key();
        wake.add(key.clone());
        if let Some(name) = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()) {
            wake.add(ObjectKey::new("", name));
        }
        if before.is_none() || after.is_none() {
            let named = volumes.all().into_iter().filter(|volume| refers_to(volume, &key));
            named.for_each(|volume| wake.add(volume.key()));
        }
    });
    let (claims, wake) = (caches.claims.clone(), queue.clone());
    caches.volumes.on_change(move |before, after| {
        let Some(volume) = after.or(before) else { return };
        wake.add(volume.key());
        for reference in [before, after].into_iter().flatten().filter_map(|volume| claim_ref(volume)) {
            let (namespace, name) = (reference.namespace.as_deref(), reference.name.as_deref());
            wake.add(ObjectKey::new(namespace.unwrap_or_default(), name.unwrap_or_default()));
        }
        let name = volume.metadata.name.as_deref();
        for claim in claims.all() {
            let wants = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
            let waits = after.is_some_and(|volume| claim::is_unbound(&claim) && claim::may_suit(&claim, volume));
            if (wants.is_some() && wants == name) || waits {
                wake.add(claim.key());
            }
        }
    });
    let (claims, wake) = (caches.claims.clone(), queue.clone());
    caches.storage_classes.on_change(move |_, after| {
        let Some(class) = after else { return };
        for claim in claims.all() {
            let named = claim_class(&claim);
            if claim::is_unbound(&claim) && named.is_none_or(|named| Some(named) == class.metadata.name.as_deref()) {
                wake.add(claim.key());
            }
        }
    });
    let (claims, volumes, classes) = (caches.claims.clone(), caches.volumes.clone(), caches.storage_classes.clone());
    let ready = async move {
        claims.synced().await;
        volumes.synced().await;
        classes.synced().await;
    };
    let binder = Arc::new(Binder {
        context: context.clone(),
        recorder: context.recorder.for_component("persistentvolume-controller"),
        queue: queue.clone(),
        turn: tokio::sync::Mutex::default(),
    });
    context.run_controller("persistent-volume-binder", queue, ready, move |key| {
        let binder = binder.clone();
        async move { if key.namespace.is_empty() { binder.volume(key).await } else { binder.claim(key).await } }
    });
}

fn refers_to(volume: &PersistentVolume, key: &ObjectKey) -> bool {
    claim_ref(volume).is_some_and(|reference| {
        reference.namespace.as_deref() == Some(&*key.namespace) && reference.name.as_deref() == Some(&*key.name)
    })
}

impl Binder {
    fn tell<K: Resource<DynamicType = ()>>(&self, about: &K, note: Note) {
        self.recorder.event(&reference(about), note.severity, note.reason, note.message);
    }

    async fn claim(&self, key: ObjectKey) -> Result<Revisit, PassError> {
        let caches = &self.context.caches;
        let _turn = self.turn.lock().await;
        let Some(claim) = caches.claims.get(&key) else { return Ok(None) };
        let class_name = claim_class(&claim);
        let class = class_name.and_then(|name| caches.storage_classes.get(&ObjectKey::new("", name)));
        let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).filter(|name| !name.is_empty());
        let view = claim::View {
            claim: &claim,
            class: class.as_deref(),
            default_class: default_class(&caches.storage_classes.all()),
            volume: named.and_then(|name| caches.volumes.get(&ObjectKey::new("", name))),
            best: |delayed| {
                let volumes = caches.volumes.all();
                let class = class_name.unwrap_or_default();
                let all = volumes.iter().map(|volume| &**volume);
                let best = volume_match::best(&claim, class, all, &BTreeSet::new(), None, delayed)?;
                best.metadata.name.as_deref().and_then(|name| caches.volumes.get(&ObjectKey::new("", name)))
            },
        };
        match claim::plan(view) {
            ClaimPlan::Nothing => {}
            ClaimPlan::Bind(volume) => return self.bind(&volume, &claim).await,
            ClaimPlan::Pending(note) => {
                self.claim_phase(&claim, "Pending", None).await?;
                note.into_iter().for_each(|note| self.tell(&*claim, note));
            }
            ClaimPlan::Lost(note) => {
                if self.claim_phase(&claim, "Lost", None).await? {
                    self.tell(&*claim, note);
                }
            }
            ClaimPlan::AssignClass(class) => {
                let change = serde_json::json!({"spec": {"storageClassName": class}});
                self.patch_claim(&claim, change).await?;
            }
            ClaimPlan::Provision { provisioner, note } => {
                let claim = match write::provisioner(&claim, &provisioner) {
                    Some(change) => self.patch_claim(&claim, change).await?,
                    None => claim,
                };
                self.claim_phase(&claim, "Pending", None).await?;
                self.tell(&*claim, note);
            }
        }
        Ok(None)
    }

    async fn volume(&self, key: ObjectKey) -> Result<Revisit, PassError> {
        let caches = &self.context.caches;
        let Some(volume) = caches.volumes.get(&key) else { return Ok(None) };
        let claim = match claim_ref(&volume) {
            Some(reference) if reference.uid.as_ref().is_some_and(|uid| !uid.is_empty()) => {
                self.live_claim(reference).await?
            }
            _ => None,
        };
        match volume::plan(&volume, claim.as_deref()) {
            VolumePlan::Nothing => {}
            VolumePlan::WakeClaim(key) => self.queue.add(key),
            VolumePlan::Refuse(note) => self.tell(&*volume, note),
            VolumePlan::Phase { phase, message, note } => {
                let told = note.is_some();
                let written = self.volume_phase(&volume, phase, &message).await?;
                if written || told {
                    note.into_iter().for_each(|note| self.tell(&*volume, note));
                }
            }
            VolumePlan::Unbind => {
                let change = write::unbound(&volume);
                let volume = self.patch_volume(&volume, change).await?;
                self.volume_phase(&volume, "Available", "").await?;
            }
        }
        Ok(None)
    }

    /// The claim that a volume is bound to. Before one is taken for gone the API server is asked: a volume released by
    /// mistake may be deleted with all its data.
    async fn live_claim(&self, reference: &ObjectReference) -> Result<Option<Arc<PersistentVolumeClaim>>, PassError> {
        let namespace = reference.namespace.as_deref().unwrap_or_default();
        let name = reference.name.as_deref().unwrap_or_default();
        let is_meant = |claim: &PersistentVolumeClaim| claim.metadata.uid == reference.uid;
        let claims = &self.context.caches.claims;
        if let Some(claim) = claims.get(&ObjectKey::new(namespace, name)).filter(|claim| is_meant(claim)) {
            return Ok(Some(claim));
        }
        let api = Api::<PersistentVolumeClaim>::namespaced(self.context.client.clone(), namespace);
        let found = api.get_opt(name).await.doing("looking up the claim of a volume")?;
        Ok(found.filter(|claim| is_meant(claim)).map(Arc::new))
    }

    /// Does what is missing of a binding, in upstream's order.
    async fn bind(
        &self,
        volume: &Arc<PersistentVolume>,
        claim: &Arc<PersistentVolumeClaim>,
    ) -> Result<Revisit, PassError> {
        let volume = match write::volume_to_claim(volume, claim) {
            Some(change) => self.patch_volume(volume, change).await?,
            None => volume.clone(),
        };
        self.volume_phase(&volume, "Bound", "").await?;
        let claim = match write::claim_to_volume(claim, &volume) {
            Some(change) => self.patch_claim(claim, change).await?,
            None => claim.clone(),
        };
        self.claim_phase(&claim, "Bound", Some(&volume)).await?;
        Ok(None)
    }

    async fn patch_claim(
        &self,
        claim: &PersistentVolumeClaim,
        change: serde_json::Value,
    ) -> Result<Arc<PersistentVolumeClaim>, PassError> {
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        let api = Api::<PersistentVolumeClaim>::namespaced(self.context.client.clone(), namespace);
        let patch = write::guarded(claim, change);
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let written = api.patch(name, &Default::default(), &patch).await.doing("writing a claim")?;
        self.context.caches.claims.wrote(written.clone());
        Ok(Arc::new(written))
    }

    async fn patch_volume(
        &self,
        volume: &PersistentVolume,
        change: serde_json::Value,
    ) -> Result<Arc<PersistentVolume>, PassError> {
        let api = Api::<PersistentVolume>::all(self.context.client.clone());
        let patch = write::guarded(volume, change);
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let written = api.patch(name, &Default::default(), &patch).await.doing("writing a volume")?;
        self.context.caches.volumes.wrote(written.clone());
        Ok(Arc::new(written))
    }

    /// Writes a claim's phase if it differs; whether it did.
    async fn claim_phase(
        &self,
        claim: &PersistentVolumeClaim,
        phase: &str,
        volume: Option<&PersistentVolume>,
    ) -> Result<bool, PassError> {
        let Some(change) = write::claim_status(claim, phase, volume) else { return Ok(false) };
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        let api = Api::<PersistentVolumeClaim>::namespaced(self.context.client.clone(), namespace);
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        match api.patch_status(name, &Default::default(), &write::guarded(claim, change)).await {
            Ok(written) => self.context.caches.claims.wrote(written),
            Err(error) if is_not_found(&error) => return Ok(false),
            Err(error) => return Err(error).doing("writing a claim's phase"),
        }
        Ok(true)
    }

    /// Writes a volume's phase if it differs; whether it did.
    async fn volume_phase(&self, volume: &PersistentVolume, phase: &str, message: &str) -> Result<bool, PassError> {
        let Some(change) = write::volume_status(volume, phase, message, clock::now()) else {
            return Ok(false);
        };
        let api = Api::<PersistentVolume>::all(self.context.client.clone());
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        match api.patch_status(name, &Default::default(), &write::guarded(volume, change)).await {
            Ok(written) => self.context.caches.volumes.wrote(written),
            Err(error) if is_not_found(&error) => return Ok(false),
            Err(error) => return Err(error).doing("writing a volume's phase"),
        }
        Ok(true)
    }
}

/// The default class: the newest of several, then the one whose name comes first, as admission chooses it.
fn default_class(classes: &[Arc<StorageClass>]) -> Option<String> {
    let is_default = |class: &&Arc<StorageClass>| {
        let annotations = class.metadata.annotations.as_ref();
        names::DEFAULT_CLASS.iter().any(|key| annotations.and_then(|all| all.get(*key)).is_some_and(|is| is == "true"))
    };
    let newest = classes.iter().filter(is_default).min_by(|one, other| {
        let made = |class: &Arc<StorageClass>| class.metadata.creation_timestamp.as_ref().map(|time| time.0);
        made(other).cmp(&made(one)).then_with(|| one.metadata.name.cmp(&other.metadata.name))
    })?;
    newest.metadata.name.clone()
}
