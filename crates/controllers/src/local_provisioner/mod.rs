//! Makes, grows and deletes volumes on the nodes' own disks, for classes of provisioner `local.kobune.dev`.
//!
//! ```text
//!  claim with its node chosen ──▶ PersistentVolume, which the node's first mount fills ──▶ bound by the binder
//!  claim asks for more ──▶ the node grows it ──▶ capacity of volume and claim
//!  volume Released, policy Delete ──▶ the node deletes it ──▶ volume deleted
//! ```
//!
//! The volume object comes first and the files second, so that whatever is cut short leaves no files that nothing knows of.
//! Nodes are told through the API server (`nodes/proxy`); they make what a volume says when a pod first mounts it.

mod node;
pub mod plan;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIDriver, StorageClass};
use kobune_scheduler::recorder::{Recorder, Severity};
use kobune_scheduler::volume_match::claim_class;
use kube::Resource;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;

use crate::context::{Context, enqueue_changes};
use crate::csi;
use crate::object::{Cached, ObjectKey};
use crate::persistent_volume::names::{PROVISIONED_BY, PROVISIONER_FINALIZER, SELECTED_NODE, annotation};
use crate::persistent_volume::reference;
use crate::queue::{Doing, PassError, Queue, Revisit, is_already_exists, is_conflict, is_not_found};
use crate::volume_protection;
use plan::{ClaimStep, VolumeStep};

/// The provisioner's name, and that of the driver that nodes know such volumes by.
pub const PROVISIONER: &str = "local.kobune.dev";
/// The class that is made where there is none of this provisioner.
const CLASS: &str = "local";

struct Provisioner {
    context: Arc<Context>,
    recorder: Recorder,
}

/// Starts the controller.
pub fn start(context: &Arc<Context>) {
    let queue = Arc::<Queue>::default();
    let caches = &context.caches;
    // Claims have a namespace, volumes have none: one queue tells them apart by their keys.
    enqueue_changes(&caches.claims, &queue);
    let wake = queue.clone();
    caches.volumes.on_change(move |_, after| {
        if let Some(volume) = after.filter(|volume| is_ours(volume)) {
            wake.add(volume.key());
        }
    });
    let (claims, wake) = (caches.claims.clone(), queue.clone());
    caches.storage_classes.on_change(move |_, after| {
        let Some(class) = after.filter(|class| class.provisioner == PROVISIONER) else { return };
        let named = |claim: &&Arc<PersistentVolumeClaim>| claim_class(claim) == class.metadata.name.as_deref();
        claims.all().iter().filter(named).for_each(|claim| wake.add(claim.key()));
    });
    let (claims, volumes, classes) = (caches.claims.clone(), caches.volumes.clone(), caches.storage_classes.clone());
    let nodes = caches.nodes.clone();
    let own = context.clone();
    let ready = async move {
        claims.synced().await;
        volumes.synced().await;
        classes.synced().await;
        nodes.synced().await;
        if let Err(error) = install(&own).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the class of local volumes was not made");
        }
    };
    let recorder = context.recorder.for_component(PROVISIONER);
    let provisioner = Arc::new(Provisioner { context: context.clone(), recorder });
    context.run_controller("local-provisioner", queue, ready, move |key| {
        let provisioner = provisioner.clone();
        async move {
            if key.namespace.is_empty() { provisioner.volume(key).await } else { provisioner.claim(key).await }
        }
    });
}

fn is_ours(volume: &PersistentVolume) -> bool {
    annotation(volume, PROVISIONED_BY) == Some(PROVISIONER)
}

/// Makes the driver's object and, where no class of this provisioner exists, one: the default unless another is.
async fn install(context: &Context) -> Result<(), PassError> {
    let drivers = Api::<CSIDriver>::all(context.client.clone());
    let driver: CSIDriver = plan::object(json!({
        "metadata": {"name": PROVISIONER},
        "spec": {"attachRequired": false, "podInfoOnMount": false, "fsGroupPolicy": "File", "storageCapacity": false,
                 "volumeLifecycleModes": ["Persistent"]},
    }))?;
    match drivers.create(&PostParams::default(), &driver).await {
        Err(error) if !is_already_exists(&error) => return Err(error).doing("making the driver of local volumes"),
        _ => {}
    }
    let api = Api::<StorageClass>::all(context.client.clone());
    let classes = api.list(&ListParams::default()).await.doing("listing storage classes")?;
    if classes.iter().any(|class| class.provisioner == PROVISIONER) {
        return Ok(());
    }
    let class = plan::class(CLASS, !classes.iter().any(plan::is_default))?;
    match api.create(&PostParams::default(), &class).await {
        Err(error) if !is_already_exists(&error) => Err(error).doing("making the class of local volumes"),
        _ => Ok(()),
    }
}

impl Provisioner {
    fn event<K: Resource<DynamicType = ()>>(
        &self,
        about: &K,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.recorder.event(&reference(about), severity, reason, message);
    }

    async fn claim(&self, key: ObjectKey) -> Result<Revisit, PassError> {
        let caches = &self.context.caches;
        let Some(claim) = caches.claims.get(&key) else { return Ok(None) };
        let class = claim_class(&claim).and_then(|name| caches.storage_classes.get(&ObjectKey::new("", name)));
        let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
        let volume = caches.volumes.get(&ObjectKey::new("", named)).filter(|volume| is_ours(volume));
        let nodes = caches.nodes.all();
        let nodes: Vec<&Node> = nodes.iter().map(|node| &**node).collect();
        match plan::claim(&claim, class.as_deref(), volume.as_deref(), &nodes) {
            ClaimStep::Nothing => Ok(None),
            ClaimStep::Make { node } => self.make(&claim, class.as_deref(), &node).await,
            ClaimStep::Refuse { message, choose_again } => {
                self.event(&*claim, Severity::Warning, "ProvisioningFailed", message);
                if choose_again {
                    self.patch_claim(&claim, plan::without_node()).await?;
                }
                Ok(None)
            }
            ClaimStep::Grow { volume, node, bytes } => self.grow(&claim, &volume, &node, bytes).await,
            ClaimStep::TellCapacity(change) => {
                self.patch_claim_status(&claim, change).await?;
                self.event(&*claim, Severity::Normal, "VolumeResizeSuccessful", "Resize volume succeeded");
                Ok(None)
            }
        }
    }

    async fn make(
        &self,
        claim: &PersistentVolumeClaim,
        class: Option<&StorageClass>,
        node: &Node,
    ) -> Result<Revisit, PassError> {
        // Content comes first: its name is the same at the next try, and whoever reads the volume finds it whole.
        let node_name = node.metadata.name.as_deref().unwrap_or_default();
        if let Err(error) = csi::fill(&self.context, claim, node_name).await {
            self.event(claim, Severity::Warning, "ProvisioningFailed", format!("failed to provision volume: {error}"));
            if matches!(error, csi::FillError::Elsewhere(_)) && annotation(claim, SELECTED_NODE).is_some() {
                self.patch_claim(claim, plan::without_node()).await?;
            }
            return Err(PassError::Object { what: error.to_string() });
        }
        let volume = plan::volume(claim, class, node)?;
        let name = volume.metadata.name.clone().unwrap_or_default();
        let api = Api::<PersistentVolume>::all(self.context.client.clone());
        match api.create(&PostParams::default(), &volume).await {
            Ok(made) => {
                self.context.caches.volumes.wrote(made);
                let message = format!("Successfully provisioned volume {name}");
                self.event(claim, Severity::Normal, "ProvisioningSucceeded", message);
                Ok(None)
            }
            Err(error) if is_already_exists(&error) => Ok(None),
            Err(error) => {
                self.event(
                    claim,
                    Severity::Warning,
                    "ProvisioningFailed",
                    format!("failed to save the volume: {error}"),
                );
                Err(error).doing("making a local volume")
            }
        }
    }

    async fn grow(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
        node: &str,
        bytes: i64,
    ) -> Result<Revisit, PassError> {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        self.event(claim, Severity::Normal, "Resizing", format!("External resizer is resizing volume {name}"));
        let block = volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()) == Some("Block");
        if let Err(error) = node::ensure(&self.context.client, node, name, bytes, block).await {
            let message = format!("resize volume \"{name}\" failed: {error}");
            self.event(claim, Severity::Warning, "VolumeResizeFailed", message);
            return Err(error).doing("growing a local volume on its node");
        }
        // The claim's pass, woken by this, writes its status.
        let asked = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("storage"));
        let change = json!({
            "metadata": {"uid": volume.metadata.uid, "resourceVersion": volume.metadata.resource_version},
            "spec": {"capacity": {"storage": asked}},
        });
        let api = Api::<PersistentVolume>::all(self.context.client.clone());
        let written = api.patch(name, &PatchParams::default(), &Patch::Merge(change)).await;
        self.context.caches.volumes.wrote(written.doing("writing the capacity of a volume")?);
        let now = self.context.caches.claims.get(&claim.key());
        match now.as_deref().and_then(|claim| plan::told_capacity(claim, asked)) {
            Some(change) => {
                self.patch_claim_status(claim, change).await?;
                self.event(claim, Severity::Normal, "VolumeResizeSuccessful", "Resize volume succeeded");
                Ok(None)
            }
            None => Ok(None),
        }
    }

    async fn volume(&self, key: ObjectKey) -> Result<Revisit, PassError> {
        let Some(volume) = self.context.caches.volumes.get(&key) else { return Ok(None) };
        match plan::ending(&volume) {
            VolumeStep::Nothing => Ok(None),
            VolumeStep::Forget => forget(&self.context, &volume).await,
            VolumeStep::Delete => {
                let name = volume.metadata.name.as_deref().unwrap_or_default();
                if let Some(node) = plan::node_of(&volume)
                    && self.node_exists(node).await?
                    && let Err(error) = node::delete(&self.context.client, node, name).await
                {
                    self.event(&*volume, Severity::Warning, "VolumeFailedDelete", error.to_string());
                    return Err(error).doing("deleting a local volume on its node");
                }
                forget(&self.context, &volume).await
            }
        }
    }

    /// A node that was taken out of the cluster has taken its volumes along.
    async fn node_exists(&self, node: &str) -> Result<bool, PassError> {
        if self.context.caches.nodes.get(&ObjectKey::new("", node)).is_some() {
            return Ok(true);
        }
        let found = Api::<Node>::all(self.context.client.clone()).get_opt(node).await;
        let exists = found.doing("looking up the node of a local volume")?.is_some();
        if !exists {
            tracing::warn!(node, "the node of a local volume no longer exists; its files are out of reach");
        }
        Ok(exists)
    }

    async fn patch_claim(&self, claim: &PersistentVolumeClaim, mut change: serde_json::Value) -> Result<(), PassError> {
        change["metadata"]["resourceVersion"] = json!(claim.metadata.resource_version);
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        let api = Api::<PersistentVolumeClaim>::namespaced(self.context.client.clone(), namespace);
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let written = api.patch(name, &PatchParams::default(), &Patch::Merge(change)).await.doing("writing a claim")?;
        self.context.caches.claims.wrote(written);
        Ok(())
    }

    async fn patch_claim_status(
        &self,
        claim: &PersistentVolumeClaim,
        change: serde_json::Value,
    ) -> Result<(), PassError> {
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        let api = Api::<PersistentVolumeClaim>::namespaced(self.context.client.clone(), namespace);
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let written = api.patch_status(name, &PatchParams::default(), &Patch::Merge(change)).await;
        self.context.caches.claims.wrote(written.doing("writing the capacity of a claim")?);
        Ok(())
    }
}

/// Deletes the object of a volume whose content is gone, and takes the provisioner's finalizer off.
pub async fn forget(context: &Context, volume: &PersistentVolume) -> Result<Revisit, PassError> {
    let api = Api::<PersistentVolume>::all(context.client.clone());
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    if !volume.deleting() {
        let only_this = Preconditions { uid: volume.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() };
        match api.delete(name, &params).await {
            Ok(answer) => {
                if let Some(dying) = answer.left() {
                    context.caches.volumes.wrote(dying);
                }
            }
            Err(error) if is_not_found(&error) || is_conflict(&error) => {}
            Err(error) => return Err(error).doing("deleting a volume"),
        }
        // What is left of it comes back as a change.
        return Ok(None);
    }
    volume_protection::set(&api, &context.caches.volumes, volume, PROVISIONER_FINALIZER, false).await?;
    Ok(None)
}
