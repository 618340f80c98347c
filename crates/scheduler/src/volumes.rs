//! Volumes of pods that wait for a node: which nodes their claims allow, and what has to be written before they may go there.
//!
//! ```text
//!  claims bound ──▶ the volumes' node affinity decides
//!  claims whose volume comes with the node ──▶ a volume that suits, or a provisioner ──▶ node chosen ──▶ writes
//!      ──▶ the pod waits, its room kept, until the binder has bound the claims ──▶ pod bound
//!                                    └─ the provisioner takes the choice of the node back ──▶ the pod waits in the queue
//! ```
//!
//! Upstream: <https://github.com/kubernetes/kubernetes/tree/master/pkg/scheduler/framework/plugins/volumebinding>,
//! `volumezone` and `volumerestrictions`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, TopologySelectorTerm};
use k8s_openapi::api::storage::v1::StorageClass;

use crate::claims::ClaimUse;
use crate::pod::PodInfo;
use crate::volume_match::{self, Place, claim_class};

/// On a claim: binding is complete.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On a claim: the node that its first pod will run on.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The provisioner of classes whose volumes people make.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// Labels of volumes that a node has to have too.
const ZONES: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

type Key = (Box<str>, Box<str>);

fn key(namespace: &str, name: &str) -> Key {
    (namespace.into(), name.into())
}

/// Claims, volumes and classes as the API has them, and what is promised to pods on their way to a node.
#[derive(Clone, Debug, Default)]
pub struct Volumes {
    claims: HashMap<Key, Arc<PersistentVolumeClaim>>,
    volumes: BTreeMap<Box<str>, Arc<PersistentVolume>>,
    classes: HashMap<Box<str>, Arc<StorageClass>>,
    /// Volumes chosen for pods that are not bound yet, each with the pod's uid.
    promised: HashMap<Box<str>, Arc<str>>,
}

/// What has to be written before a pod may be bound to the node that was chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Writes {
    /// Volumes that get a claim.
    pub bind: Vec<(Arc<PersistentVolume>, Arc<PersistentVolumeClaim>)>,
    /// Claims whose volume is to be made for the node.
    pub provision: Vec<Arc<PersistentVolumeClaim>>,
}

/// How far the claims of a pod are that waits for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All are bound.
    Bound,
    /// Some are not.
    Waiting,
    /// They will not be bound for this node.
    Failed(String),
}

/// Why a node's volumes do not do, in upstream's words.
pub const AFFINITY: &str = "node(s) didn't match PersistentVolume's node affinity";
const NOT_FOUND: &str = "node(s) unavailable due to PersistentVolumeClaim bound to non-existent persistentvolume(s)";
const NO_VOLUMES: &str = "node(s) didn't find available persistent volumes to bind";
const NO_ZONE: &str = "node(s) had no available volume zone";
/// Why a pod has to wait for the pod that has its volume.
pub const IN_USE: &str = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";

impl Volumes {
    /// Takes a claim as it is now.
    pub fn set_claim(&mut self, mut claim: PersistentVolumeClaim) {
        claim.metadata.managed_fields = None;
        let meta = &claim.metadata;
        let key = key(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
        self.claims.insert(key, Arc::new(claim));
    }

    /// Forgets a claim.
    pub fn remove_claim(&mut self, claim: &PersistentVolumeClaim) {
        let meta = &claim.metadata;
        self.claims
            .remove(&key(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default()));
    }

    /// Takes a volume as it is now.
    pub fn set_volume(&mut self, mut volume: PersistentVolume) {
        volume.metadata.managed_fields = None;
        let name = volume.metadata.name.as_deref().unwrap_or_default().into();
        self.volumes.insert(name, Arc::new(volume));
    }

    /// Forgets a volume.
    pub fn remove_volume(&mut self, name: &str) {
        self.volumes.remove(name);
    }

    /// Takes a class as it is now.
    pub fn set_class(&mut self, mut class: StorageClass) {
        class.metadata.managed_fields = None;
        let name = class.metadata.name.as_deref().unwrap_or_default().into();
        self.classes.insert(name, Arc::new(class));
    }

    /// Forgets a class.
    pub fn remove_class(&mut self, name: &str) {
        self.classes.remove(name);
    }

    /// After whole lists: forgets what they did not name.
    pub fn keep_claims(&mut self, listed: &BTreeSet<(String, String)>) {
        self.claims.retain(|(namespace, name), _| listed.contains(&(namespace.to_string(), name.to_string())));
    }

    /// The same for volumes.
    pub fn keep_volumes(&mut self, listed: &BTreeSet<String>) {
        self.volumes.retain(|name, _| listed.contains(&**name));
    }

    /// The same for classes.
    pub fn keep_classes(&mut self, listed: &BTreeSet<String>) {
        self.classes.retain(|name, _| listed.contains(&**name));
    }

    fn claim(&self, pod: &PodInfo, used: &ClaimUse) -> Option<&Arc<PersistentVolumeClaim>> {
        self.claims.get(&key(&pod.namespace, &used.claim))
    }

    fn class(&self, claim: &PersistentVolumeClaim) -> Option<&Arc<StorageClass>> {
        self.classes.get(claim_class(claim)?)
    }

    /// What a pod's claims ask of nodes; `Err` says why no node will do now.
    pub fn question(&self, pod: &PodInfo) -> Result<Question<'_>, String> {
        let mut question = Question { volumes: self, bound: Vec::new(), delayed: Vec::new() };
        for used in &pod.claims {
            let name = &used.claim;
            let Some(claim) = self.claim(pod, used) else {
                return Err(if used.ephemeral.is_some() {
                    format!("waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\"")
                } else {
                    format!("persistentvolumeclaim \"{name}\" not found")
                });
            };
            let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
            if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
                return Err(format!(
                    "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\""
                ));
            }
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
            let owners = claim.metadata.owner_references.iter().flatten();
            if used.ephemeral.is_some()
                && !owners.clone().any(|owner| owner.controller == Some(true) && *owner.uid == *pod.uid)
            {
                let (namespace, pod) = (&pod.namespace, &pod.name);
                return Err(format!(
                    "PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)"
                ));
            }
            let delayed = self
                .class(claim)
                .is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
            match is_bound(claim) {
                true => question.bound.push(volume),
                false if delayed && volume.is_empty() => question.delayed.push(claim),
                false => return Err("pod has unbound immediate PersistentVolumeClaims".to_owned()),
            }
        }
        // The smallest first: a large claim must not take the only volume that a small one could have.
        question.delayed.sort_by_key(|claim| volume_match::requested(claim));
        Ok(question)
    }

    /// Keeps what was chosen for a pod from others.
    pub fn promise(&mut self, uid: &Arc<str>, writes: &Writes) {
        for (volume, _) in &writes.bind {
            self.promised.insert(volume.metadata.name.as_deref().unwrap_or_default().into(), uid.clone());
        }
    }

    /// Gives back what was chosen for a pod.
    pub fn release(&mut self, uid: &str) {
        self.promised.retain(|_, holder| **holder != *uid);
    }

    /// How far a pod's claims are, for a pod on its way to a node.
    pub fn progress(&self, pod: &PodInfo, node: &str) -> Progress {
        for used in &pod.claims {
            let Some(claim) = self.claim(pod, used) else {
                return Progress::Failed(format!("PVC \"{}\" does not exist any more", used.claim));
            };
            if is_bound(claim) {
                continue;
            }
            let provisioned = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
            let bound_ahead = self.volumes.values().any(|volume| volume_match::belongs_to(volume, claim));
            let selected = annotation(claim, SELECTED_NODE);
            if provisioned.is_empty() && !bound_ahead && selected.is_some_and(|selected| selected != node) {
                return Progress::Failed(format!(
                    "selectedNode annotation value for PVC \"{}\" is another node",
                    used.claim
                ));
            }
            return Progress::Waiting;
        }
        Progress::Bound
    }

    /// Whether the choice of a node was taken back from a claim that had it.
    pub fn has_selected(&self, pod: &PodInfo, claim: &str) -> bool {
        self.claims.get(&key(&pod.namespace, claim)).is_some_and(|claim| annotation(claim, SELECTED_NODE).is_some())
    }

    /// Whether only one pod at a time may have one of the pod's claims, and which claims these are.
    pub fn exclusive<'p>(&self, pod: &'p PodInfo) -> Vec<&'p str> {
        let alone = |claim: &Arc<PersistentVolumeClaim>| {
            let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
            modes.iter().any(|mode| mode == "ReadWriteOncePod")
        };
        let used = pod.claims.iter().filter(|used| self.claim(pod, used).is_some_and(alone));
        used.map(|used| &*used.claim).collect()
    }
}

fn annotation<'c>(claim: &'c PersistentVolumeClaim, name: &str) -> Option<&'c str> {
    claim.metadata.annotations.as_ref()?.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
    !named.is_empty() && annotation(claim, BIND_COMPLETED).is_some()
}

/// What one pod's claims ask of nodes.
pub struct Question<'v> {
    volumes: &'v Volumes,
    /// Volumes that its claims are bound to.
    bound: Vec<&'v str>,
    /// Claims whose volume comes with the node.
    delayed: Vec<&'v Arc<PersistentVolumeClaim>>,
}

impl Question<'_> {
    /// Whether any answer depends on the node.
    pub fn is_free(&self) -> bool {
        self.bound.is_empty() && self.delayed.is_empty()
    }

    /// What has to be written before the pod may go to this node; `Err` says why it can't go there.
    pub fn ask(&self, place: Place<'_>) -> Result<Writes, &'static str> {
        for name in &self.bound {
            let volume = self.volumes.volumes.get(*name).ok_or(NOT_FOUND)?;
            if !volume_match::reaches(volume, place.name, place.labels) {
                return Err(AFFINITY);
            }
            if !in_zone(volume, place.labels) {
                return Err(NO_ZONE);
            }
        }
        let mut taken: BTreeSet<&str> = self.volumes.promised.keys().map(|name| &**name).collect();
        let mut writes = Writes::default();
        for claim in &self.delayed {
            if let Some(selected) = annotation(claim, SELECTED_NODE) {
                // Its volume is being made for that node already.
                if selected != place.name {
                    return Err(NO_VOLUMES);
                }
                writes.provision.push(Arc::clone(claim));
                continue;
            }
            let class = claim_class(claim).unwrap_or_default();
            let all = self.volumes.volumes.values().map(|volume| &**volume);
            match volume_match::best(claim, class, all, &taken, Some(place), true) {
                Some(found) => {
                    let name = found.metadata.name.as_deref().unwrap_or_default();
                    let Some((name, volume)) = self.volumes.volumes.get_key_value(name) else { return Err(NO_VOLUMES) };
                    taken.insert(name);
                    writes.bind.push((Arc::clone(volume), Arc::clone(claim)));
                }
                None if self.volumes.class(claim).is_some_and(|class| can_provision(class, place.labels)) => {
                    writes.provision.push(Arc::clone(claim));
                }
                None => return Err(NO_VOLUMES),
            }
        }
        Ok(writes)
    }
}

fn can_provision(class: &StorageClass, labels: &BTreeMap<String, String>) -> bool {
    let allowed = class.allowed_topologies.as_deref().unwrap_or_default();
    !class.provisioner.is_empty()
        && class.provisioner != NO_PROVISIONER
        && (allowed.is_empty() || allowed.iter().any(|term| topology_matches(term, labels)))
}

fn topology_matches(term: &TopologySelectorTerm, labels: &BTreeMap<String, String>) -> bool {
    let wanted = term.match_label_expressions.iter().flatten();
    wanted.clone().next().is_some()
        && wanted.clone().all(|wanted| labels.get(&wanted.key).is_some_and(|found| wanted.values.contains(found)))
}

/// Whether the node is in the zone and region that a volume's labels name; `__` separates several.
fn in_zone(volume: &PersistentVolume, labels: &BTreeMap<String, String>) -> bool {
    let named = volume.metadata.labels.iter().flatten().filter(|(key, _)| ZONES.contains(&key.as_str()));
    // Nodes without any of these labels are in one zone with everything.
    if !ZONES.iter().any(|zone| labels.contains_key(*zone)) {
        return true;
    }
    named.clone().all(|(key, zones)| {
        let current = key.replace("failure-domain.beta.kubernetes.io", "topology.kubernetes.io");
        let found = labels.get(key).or_else(|| labels.get(&current));
        found.is_some_and(|found| zones.split("__").any(|zone| zone == found))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::pod::tests::pod;

    fn volumes(claim: Value, volume: Value, class: Value) -> Volumes {
        let mut volumes = Volumes::default();
        let mut object = json!({"metadata": {"name": "c", "namespace": "default", "uid": "cu"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "gold"}});
        merge(&mut object, claim);
        if object["metadata"]["name"] == "c" {
            volumes.set_claim(serde_json::from_value(object).expect("a claim"));
        }
        if !volume.is_null() {
            let mut object = json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteOnce"], "storageClassName": "gold", "nodeAffinity": {"required": {"nodeSelectorTerms": [
                    {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]}}}, "status": {"phase": "Available"}});
            merge(&mut object, volume);
            volumes.set_volume(serde_json::from_value(object).expect("a volume"));
        }
        let mut object = json!({"metadata": {"name": "gold"}, "provisioner": NO_PROVISIONER, "volumeBindingMode": "WaitForFirstConsumer"});
        merge(&mut object, class);
        volumes.set_class(serde_json::from_value(object).expect("a class"));
        volumes
    }

    fn merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                for (key, value) in from {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, from) => *into = from,
        }
    }

    fn user() -> PodInfo {
        pod("p", json!({"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]}))
    }

    fn answer(volumes: &Volumes, node: &str) -> String {
        let labels = BTreeMap::from([("topology.kubernetes.io/zone".to_owned(), "z".to_owned())]);
        match volumes.question(&user()).map(|question| question.ask(Place { name: node, labels: &labels })) {
            Err(message) => message,
            Ok(Err(reason)) => reason.to_owned(),
            Ok(Ok(writes)) => format!("{} bound, {} made", writes.bind.len(), writes.provision.len()),
        }
    }

    #[test]
    fn claims_decide_about_nodes() {
        let check = |claim: Value, volume: Value, class: Value, node: &str, expected: &str| {
            assert_eq!(answer(&volumes(claim.clone(), volume, class), node), expected, "{claim}");
        };
        let none = || json!({});
        let bound = || json!({"metadata": {"annotations": {BIND_COMPLETED: "yes"}}, "spec": {"volumeName": "v"}});
        check(
            json!({"metadata": {"name": "other"}}),
            Value::Null,
            none(),
            "n",
            "persistentvolumeclaim \"c\" not found",
        );
        check(bound(), none(), none(), "n", "0 bound, 0 made");
        check(bound(), none(), none(), "m", AFFINITY);
        check(bound(), json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "y"}}}), none(), "n", NO_ZONE);
        check(
            bound(),
            json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "y__z"}}}),
            none(),
            "n",
            "0 bound, 0 made",
        );
        check(bound(), Value::Null, none(), "n", NOT_FOUND);
        let immediate = json!({"volumeBindingMode": "Immediate"});
        check(none(), none(), immediate, "n", "pod has unbound immediate PersistentVolumeClaims");
        check(
            json!({"spec": {"volumeName": "v"}}),
            none(),
            none(),
            "n",
            "pod has unbound immediate PersistentVolumeClaims",
        );
        check(
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            none(),
            none(),
            "n",
            "persistentvolumeclaim \"c\" is being deleted",
        );
        check(none(), none(), none(), "n", "1 bound, 0 made");
        check(none(), none(), none(), "m", NO_VOLUMES);
        check(none(), Value::Null, none(), "n", NO_VOLUMES);
        check(none(), Value::Null, json!({"provisioner": "p"}), "n", "0 bound, 1 made");
        let topology = |zone: &str| {
            json!({"provisioner": "p", "allowedTopologies": [{"matchLabelExpressions": [
            {"key": "topology.kubernetes.io/zone", "values": [zone]}]}]})
        };
        check(none(), Value::Null, topology("z"), "n", "0 bound, 1 made");
        check(none(), Value::Null, topology("y"), "n", NO_VOLUMES);
        let selected = || json!({"metadata": {"annotations": {SELECTED_NODE: "n"}}});
        check(selected(), Value::Null, json!({"provisioner": "p"}), "n", "0 bound, 1 made");
        check(selected(), Value::Null, json!({"provisioner": "p"}), "m", NO_VOLUMES);
    }

    #[test]
    fn what_is_promised_is_not_promised_again() {
        let mut volumes = volumes(json!({}), json!({}), json!({}));
        let labels = BTreeMap::new();
        let place = Place { name: "n", labels: &labels };
        let writes = volumes.question(&user()).expect("asked").ask(place).expect("a volume");
        volumes.promise(&"other".into(), &writes);
        assert_eq!(answer(&volumes, "n"), NO_VOLUMES);
        volumes.release("other");
        assert_eq!(answer(&volumes, "n"), "1 bound, 0 made");
    }

    #[test]
    fn progress_of_pods_that_wait() {
        let check = |claim: Value, expected: Progress| {
            assert_eq!(volumes(claim.clone(), Value::Null, json!({})).progress(&user(), "n"), expected, "{claim}");
        };
        check(
            json!({"metadata": {"annotations": {BIND_COMPLETED: "yes"}}, "spec": {"volumeName": "v"}}),
            Progress::Bound,
        );
        check(json!({"metadata": {"annotations": {SELECTED_NODE: "n"}}}), Progress::Waiting);
        check(
            json!({"metadata": {"annotations": {SELECTED_NODE: "m"}}}),
            Progress::Failed("selectedNode annotation value for PVC \"c\" is another node".to_owned()),
        );
        check(json!({"metadata": {"name": "gone"}}), Progress::Failed("PVC \"c\" does not exist any more".to_owned()));
    }
}
