//! Claims, volumes and classes as they change, and pods that have a node but wait there for their claims to be bound.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::watcher::Event;
use serde_json::json;

use super::{Before, BindError, Outcome, Scheduler};
use crate::filter::obstacle;
use crate::pod::PodInfo;
use crate::volume_match::Place;
use crate::volumes::{Progress, SELECTED_NODE, Writes};

/// How long a pod waits for its claims before it goes back to the queue, upstream's `bindTimeoutSeconds`.
const PATIENCE: Duration = Duration::from_secs(600);

/// What the watches of volumes have shown so far.
#[derive(Debug, Default)]
pub(super) struct Known {
    claims: bool,
    volumes: bool,
    classes: bool,
    listed_claims: BTreeSet<(String, String)>,
    listed_volumes: BTreeSet<String>,
    listed_classes: BTreeSet<String>,
}

impl Known {
    /// Whether each watch has shown a whole list.
    pub(super) fn all(&self) -> bool {
        self.claims && self.volumes && self.classes
    }
}

struct Waiting {
    pod: Arc<PodInfo>,
    node: Arc<str>,
    until: Instant,
    /// Claims whose choice of a node we wrote, once the watch has shown it.
    selected: BTreeSet<Box<str>>,
}

/// Pods that have a node and wait there for their claims.
#[derive(Default)]
pub(super) struct Awaiting(HashMap<Arc<str>, Waiting>);

impl Awaiting {
    /// Forgets a pod.
    pub(super) fn remove(&mut self, uid: &str) {
        self.0.remove(uid);
    }

    /// When the patience with the first of them ends.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.0.values().map(|waiting| waiting.until).min()
    }
}

pub(super) fn name_of(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> String {
    meta.name.clone().unwrap_or_default()
}

impl Scheduler {
    pub(super) fn claim_event(&mut self, event: Event<PersistentVolumeClaim>) {
        match event {
            Event::Init => self.volumes_known.listed_claims.clear(),
            Event::InitApply(claim) => {
                let namespace = claim.metadata.namespace.clone().unwrap_or_default();
                self.volumes_known.listed_claims.insert((namespace, name_of(&claim.metadata)));
                self.cluster.volumes.set_claim(claim);
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.volumes_known.listed_claims);
                self.cluster.volumes.keep_claims(&listed);
                self.volumes_known.claims = true;
                self.volumes_changed();
            }
            Event::Apply(claim) => {
                self.cluster.volumes.set_claim(claim);
                self.volumes_changed();
            }
            Event::Delete(claim) => {
                self.cluster.volumes.remove_claim(&claim);
                self.volumes_changed();
            }
        }
    }

    pub(super) fn volume_event(&mut self, event: Event<PersistentVolume>) {
        match event {
            Event::Init => self.volumes_known.listed_volumes.clear(),
            Event::InitApply(volume) => {
                self.volumes_known.listed_volumes.insert(name_of(&volume.metadata));
                self.cluster.volumes.set_volume(volume);
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.volumes_known.listed_volumes);
                self.cluster.volumes.keep_volumes(&listed);
                self.volumes_known.volumes = true;
                self.volumes_changed();
            }
            Event::Apply(volume) => {
                self.cluster.volumes.set_volume(volume);
                self.volumes_changed();
            }
            Event::Delete(volume) => self.cluster.volumes.remove_volume(&name_of(&volume.metadata)),
        }
    }

    pub(super) fn class_event(&mut self, event: Event<StorageClass>) {
        match event {
            Event::Init => self.volumes_known.listed_classes.clear(),
            Event::InitApply(class) => {
                self.volumes_known.listed_classes.insert(name_of(&class.metadata));
                self.cluster.volumes.set_class(class);
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.volumes_known.listed_classes);
                self.cluster.volumes.keep_classes(&listed);
                self.volumes_known.classes = true;
                self.volumes_changed();
            }
            Event::Apply(class) => {
                self.cluster.volumes.set_class(class);
                self.volumes_changed();
            }
            Event::Delete(class) => self.cluster.volumes.remove_class(&name_of(&class.metadata)),
        }
    }

    fn volumes_changed(&mut self) {
        self.queue.helped(obstacle::VOLUMES, Instant::now());
        self.look_at_awaiting();
    }

    /// Sees to it that a pod's claims are bound for its node; whether the pod has to wait for that.
    pub(super) fn await_volumes(&mut self, pod: &Arc<PodInfo>, node: &Arc<str>) -> bool {
        if pod.claims.is_empty() {
            return false;
        }
        let empty = Default::default();
        let labels = self.cluster.nodes.get(node).and_then(|state| state.facts.as_ref()).map(|facts| &facts.labels);
        let place = Place { name: node, labels: labels.unwrap_or(&empty) };
        // The decision has just asked the same and got an answer.
        let Ok(Ok(writes)) = self.cluster.volumes.question(pod).map(|question| question.ask(place)) else {
            return false;
        };
        if writes == Writes::default() {
            return false;
        }
        self.cluster.volumes.promise(&pod.uid, &writes);
        let waiting = Waiting {
            pod: pod.clone(),
            node: node.clone(),
            until: Instant::now() + PATIENCE,
            selected: BTreeSet::new(),
        };
        self.awaiting.0.insert(pod.uid.clone(), waiting);
        self.write_choices(pod, node, writes);
        true
    }

    fn write_choices(&mut self, pod: &Arc<PodInfo>, node: &Arc<str>, writes: Writes) {
        for (volume, claim) in writes.bind {
            let api = Api::<PersistentVolume>::all(self.client.clone());
            let name = name_of(&volume.metadata);
            let meta = &claim.metadata;
            let change = json!({
                "metadata": {"uid": volume.metadata.uid, "resourceVersion": volume.metadata.resource_version,
                             "annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}},
                "spec": {"claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": meta.namespace,
                                      "name": meta.name, "uid": meta.uid, "resourceVersion": meta.resource_version}},
            });
            self.write_choice(pod, node, async move {
                api.patch(&name, &PatchParams::default(), &Patch::Merge(change)).await.map(drop)
            });
        }
        for claim in writes.provision {
            let known = claim.metadata.annotations.as_ref().and_then(|all| all.get(SELECTED_NODE));
            if known.is_some_and(|known| **known == **node) {
                continue;
            }
            let namespace = claim.metadata.namespace.clone().unwrap_or_default();
            let api = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &namespace);
            let name = name_of(&claim.metadata);
            let change = json!({
                "metadata": {"uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version,
                             "annotations": {SELECTED_NODE: &**node}},
            });
            self.write_choice(pod, node, async move {
                api.patch(&name, &PatchParams::default(), &Patch::Merge(change)).await.map(drop)
            });
        }
    }

    fn write_choice(
        &mut self,
        pod: &Arc<PodInfo>,
        node: &Arc<str>,
        write: impl Future<Output = kube::Result<()>> + Send + 'static,
    ) {
        let (pod, node) = (pod.clone(), node.clone());
        self.bindings.spawn(async move {
            Outcome { pod, node, before: Some(Before::Volumes), result: write.await.map_err(BindError::from) }
        });
    }

    /// Binds the pods whose claims are bound, and puts those back whose claims will not be.
    fn look_at_awaiting(&mut self) {
        let (mut ready, mut failed) = (Vec::new(), Vec::new());
        for (uid, waiting) in &mut self.awaiting.0 {
            for used in &waiting.pod.claims {
                if self.cluster.volumes.has_selected(&waiting.pod, &used.claim) {
                    waiting.selected.insert(used.claim.clone());
                }
            }
            let lost = waiting.selected.iter().find(|claim| !self.cluster.volumes.has_selected(&waiting.pod, claim));
            match self.cluster.volumes.progress(&waiting.pod, &waiting.node) {
                Progress::Bound => ready.push(uid.clone()),
                Progress::Failed(why) => failed.push((uid.clone(), why)),
                Progress::Waiting => {
                    if let Some(claim) = lost {
                        failed.push((uid.clone(), format!("selectedNode annotation reset for PVC \"{claim}\"")));
                    }
                }
            }
        }
        for uid in ready {
            if let Some(waiting) = self.awaiting.0.remove(&uid) {
                self.send_binding(waiting.pod, waiting.node);
            }
        }
        for (uid, why) in failed {
            self.volumes_failed(&uid, &why);
        }
    }

    /// Puts back pods whose claims were not bound in time.
    pub(super) fn expire_awaiting(&mut self) {
        let now = Instant::now();
        let late = self.awaiting.0.iter().filter(|(_, waiting)| waiting.until <= now);
        let late: Vec<Arc<str>> = late.map(|(uid, _)| uid.clone()).collect();
        for uid in late {
            self.volumes_failed(&uid, "timed out waiting for the condition");
        }
    }

    pub(super) fn volumes_failed(&mut self, uid: &Arc<str>, why: &str) {
        let Some(waiting) = self.awaiting.0.remove(uid) else { return };
        self.give_back(&waiting.pod);
        if let Some(shown) = self.queue.get(uid).map(|queued| queued.shown.clone()) {
            let message = format!("running PreBind plugin \"VolumeBinding\": binding volumes: {why}");
            self.unschedulable(&waiting.pod, &shown, obstacle::VOLUMES | obstacle::BINDING, "SchedulerError", message);
        }
    }
}
