//! What is to happen with claims and volumes of the local provisioner. Pure.

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kobune_scheduler::quantity;
use kobune_scheduler::volume_match::{capacity, requested};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::PROVISIONER;
use crate::object::Cached;
use crate::persistent_volume::names::{
    BIND_COMPLETED, DEFAULT_CLASS, PROVISIONED_BY, PROVISIONER_FINALIZER, SELECTED_NODE, STORAGE_PROVISIONER,
    annotation, has_finalizer,
};
use crate::persistent_volume::reference;
use crate::queue::PassError;

/// The label that a volume's node affinity names its node by.
const HOST_NAME: &str = "kubernetes.io/hostname";

/// What is to happen with a claim.
#[derive(Debug, PartialEq)]
pub enum ClaimStep {
    /// Nothing.
    Nothing,
    /// Its volume is made on this node.
    Make {
        /// The node.
        node: Box<Node>,
    },
    /// No volume can be made for it.
    Refuse {
        /// Why.
        message: String,
        /// Another node may do.
        choose_again: bool,
    },
    /// Its volume has to grow on its node.
    Grow {
        /// The volume.
        volume: Box<PersistentVolume>,
        /// The node.
        node: String,
        /// The size it is to have.
        bytes: i64,
    },
    /// Its volume has grown; this is its status.
    TellCapacity(Value),
}

/// What is to happen with a volume that nobody uses any more.
#[derive(Debug, PartialEq, Eq)]
pub enum VolumeStep {
    /// Nothing.
    Nothing,
    /// Files and object go.
    Delete,
    /// The object goes, the files stay.
    Forget,
}

/// Decides about a claim; `volume` is the volume of ours that it is bound to.
pub fn claim(
    claim: &PersistentVolumeClaim,
    class: Option<&StorageClass>,
    volume: Option<&PersistentVolume>,
    nodes: &[&Node],
) -> ClaimStep {
    if annotation(claim, BIND_COMPLETED).is_some() {
        return volume.map_or(ClaimStep::Nothing, |volume| grow(claim, class, volume));
    }
    let spec = claim.spec.clone().unwrap_or_default();
    let asked = STORAGE_PROVISIONER.iter().any(|key| annotation(claim, key) == Some(PROVISIONER));
    let Some(class) = class.filter(|class| class.provisioner == PROVISIONER && asked) else {
        return ClaimStep::Nothing;
    };
    if claim.deleting() || spec.volume_name.is_some_and(|name| !name.is_empty()) {
        return ClaimStep::Nothing;
    }
    let refuse = |message: String| ClaimStep::Refuse { message, choose_again: false };
    if spec.selector.is_some() {
        return refuse("claim Selector is not supported".to_owned());
    }
    let chosen = annotation(claim, SELECTED_NODE);
    let delayed = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
    let node = match chosen {
        Some(name) => nodes.iter().find(|node| node.metadata.name.as_deref() == Some(name)).copied(),
        None if delayed => return ClaimStep::Nothing,
        None => nodes.iter().find(|node| is_usable(node)).copied(),
    };
    let Some(node) = node else {
        let message = match chosen {
            Some(name) => format!("error getting target node: node \"{name}\" not found"),
            None => "no node is ready to hold the volume".to_owned(),
        };
        return ClaimStep::Refuse { message, choose_again: chosen.is_some() };
    };
    let wanted = requested(claim);
    let disk = node.status.as_ref().and_then(|status| status.capacity.as_ref()?.get("ephemeral-storage"));
    if disk.is_some_and(|disk| quantity::value(disk) < wanted) {
        let message = format!(
            "node \"{}\" has a disk of {}, which is too small",
            node.metadata.name.as_deref().unwrap_or_default(),
            disk.map(|disk| disk.0.as_str()).unwrap_or_default()
        );
        return ClaimStep::Refuse { message, choose_again: chosen.is_some() };
    }
    ClaimStep::Make { node: Box::new(node.clone()) }
}

fn is_usable(node: &Node) -> bool {
    let ready = |node: &Node| {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.clone().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    ready(node) && node.spec.as_ref().and_then(|spec| spec.unschedulable) != Some(true)
}

fn grow(claim: &PersistentVolumeClaim, class: Option<&StorageClass>, volume: &PersistentVolume) -> ClaimStep {
    let wanted = requested(claim);
    if claim.deleting() || volume.deleting() {
        return ClaimStep::Nothing;
    }
    if wanted > capacity(volume) {
        let allowed = class.and_then(|class| class.allow_volume_expansion) == Some(true);
        return match node_of(volume).filter(|_| allowed) {
            Some(node) => ClaimStep::Grow { volume: Box::new(volume.clone()), node: node.to_owned(), bytes: wanted },
            None => ClaimStep::Nothing,
        };
    }
    // The volume has grown and kobune was stopped before the claim was told.
    let size = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get("storage"));
    told_capacity(claim, size).map_or(ClaimStep::Nothing, ClaimStep::TellCapacity)
}

/// The status of a claim whose volume has grown to this size; `None` when it says so already.
pub fn told_capacity(claim: &PersistentVolumeClaim, size: Option<&Quantity>) -> Option<Value> {
    let known = claim.status.as_ref().and_then(|status| status.capacity.as_ref()?.get("storage"))?;
    let size = size?;
    if quantity::value(known) >= quantity::value(size) {
        return None;
    }
    let kept: Vec<Value> = claim
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .filter(|condition| !matches!(condition.type_.as_str(), "Resizing" | "FileSystemResizePending"))
        .map(|condition| json!(condition))
        .collect();
    Some(
        json!({"status": {"capacity": {"storage": size}, "conditions": kept, "allocatedResources": null, "allocatedResourceStatuses": null}}),
    )
}

/// Takes the choice of a node off a claim, so that the scheduler chooses again.
pub fn without_node() -> Value {
    json!({"metadata": {"annotations": {SELECTED_NODE: null}}})
}

/// The node that a volume is on.
pub fn node_of(volume: &PersistentVolume) -> Option<&str> {
    let source = volume.spec.as_ref()?.csi.as_ref().filter(|source| source.driver == PROVISIONER)?;
    source.volume_attributes.as_ref()?.get("node").map(String::as_str)
}

/// Decides about a volume of ours.
pub fn ending(volume: &PersistentVolume) -> VolumeStep {
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    let ours_to_delete = policy == Some("Delete");
    if phase == "Bound" {
        return VolumeStep::Nothing;
    }
    match (volume.deleting(), has_finalizer(volume, PROVISIONER_FINALIZER)) {
        (true, false) => VolumeStep::Nothing,
        (true, true) if ours_to_delete => VolumeStep::Delete,
        (true, true) => VolumeStep::Forget,
        (false, _) if ours_to_delete && matches!(phase, "Released" | "Failed") => VolumeStep::Delete,
        (false, _) => VolumeStep::Nothing,
    }
}

/// An object from its JSON form.
pub fn object<K: DeserializeOwned>(value: Value) -> Result<K, PassError> {
    serde_json::from_value(value)
        .map_err(|error| PassError::Object { what: format!("an object of ours is no object: {error}") })
}

/// Whether a class is the default.
pub fn is_default(class: &StorageClass) -> bool {
    DEFAULT_CLASS.iter().any(|key| annotation(class, key) == Some("true"))
}

/// The class of local volumes.
pub fn class(name: &str, default: bool) -> Result<StorageClass, PassError> {
    let mut class = json!({
        "metadata": {"name": name},
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": true,
    });
    if default {
        class["metadata"]["annotations"][DEFAULT_CLASS[0]] = json!("true");
    }
    object(class)
}

/// The volume for a claim on a node, bound to it in advance.
pub fn volume(
    claim: &PersistentVolumeClaim,
    class: Option<&StorageClass>,
    node: &Node,
) -> Result<PersistentVolume, PassError> {
    let spec = claim.spec.clone().unwrap_or_default();
    let uid = claim.metadata.uid.as_deref().unwrap_or_default();
    let node_name = node.metadata.name.as_deref().unwrap_or_default();
    let host = node.metadata.labels.as_ref().and_then(|labels| labels.get(HOST_NAME)).map_or(node_name, String::as_str);
    let name = format!("pvc-{uid}");
    let policy = class.and_then(|class| class.reclaim_policy.as_deref()).unwrap_or("Delete");
    let finalizers: &[&str] = if policy == "Delete" { &[PROVISIONER_FINALIZER] } else { &[] };
    object(json!({
        "metadata": {"name": name, "annotations": {PROVISIONED_BY: PROVISIONER}, "finalizers": finalizers},
        "spec": {
            "capacity": {"storage": spec.resources.and_then(|resources| resources.requests?.remove("storage"))},
            "accessModes": spec.access_modes,
            "volumeMode": spec.volume_mode.unwrap_or_else(|| "Filesystem".to_owned()),
            "persistentVolumeReclaimPolicy": policy,
            "storageClassName": class.and_then(|class| class.metadata.name.as_deref()),
            "claimRef": reference(claim),
            "csi": {"driver": PROVISIONER, "volumeHandle": name, "volumeAttributes": {"node": node_name}},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": HOST_NAME, "operator": "In", "values": [host]}]}]}},
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim_of(change: impl FnOnce(&mut Value)) -> PersistentVolumeClaim {
        let mut claim = json!({
            "metadata": {"name": "c", "namespace": "ns", "uid": "u", "annotations": {
                STORAGE_PROVISIONER[0]: PROVISIONER, SELECTED_NODE: "n"}},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "local"},
            "status": {"phase": "Pending"},
        });
        change(&mut claim);
        serde_json::from_value(claim).expect("a claim")
    }

    fn node() -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n", "labels": {HOST_NAME: "host"}},
            "status": {"capacity": {"ephemeral-storage": "10Gi"}, "conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .expect("a node")
    }

    fn step(change: impl FnOnce(&mut Value)) -> String {
        let class = class("local", true).expect("a class");
        match claim(&claim_of(change), Some(&class), None, &[&node()]) {
            ClaimStep::Nothing => "nothing".to_owned(),
            ClaimStep::Make { node } => format!("on {}", node.metadata.name.unwrap_or_default()),
            ClaimStep::Refuse { message, choose_again } => format!("{message} {choose_again}"),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn claims_get_volumes_once_their_node_is_chosen() {
        assert_eq!(step(|_| {}), "on n");
        assert_eq!(step(|claim| claim["metadata"]["annotations"][SELECTED_NODE] = json!("")), "nothing");
        assert_eq!(step(|claim| claim["metadata"]["annotations"][STORAGE_PROVISIONER[0]] = json!("other")), "nothing");
        assert_eq!(step(|claim| claim["spec"]["volumeName"] = json!("v")), "nothing");
        assert_eq!(
            step(|claim| claim["metadata"]["annotations"][SELECTED_NODE] = json!("gone")),
            "error getting target node: node \"gone\" not found true"
        );
        assert_eq!(step(|claim| claim["spec"]["selector"] = json!({})), "claim Selector is not supported false");
        assert_eq!(
            step(|claim| claim["spec"]["resources"]["requests"]["storage"] = json!("20Gi")),
            "node \"n\" has a disk of 10Gi, which is too small true"
        );
    }

    fn volume_of(phase: &str, policy: &str) -> PersistentVolume {
        let class = StorageClass { reclaim_policy: Some(policy.to_owned()), ..class("local", true).expect("a class") };
        let mut volume = volume(&claim_of(|_| {}), Some(&class), &node()).expect("a volume");
        volume.status = Some(serde_json::from_value(json!({"phase": phase})).expect("a status"));
        volume
    }

    #[test]
    fn volumes_name_their_node_and_claim() {
        let volume = volume_of("Pending", "Delete");
        assert_eq!((volume.metadata.name.as_deref(), node_of(&volume)), (Some("pvc-u"), Some("n")));
        assert_eq!(capacity(&volume), 1 << 30);
        let labels = [(HOST_NAME.to_owned(), "host".to_owned())].into();
        assert!(kobune_scheduler::volume_match::reaches(&volume, "n", &labels));
        assert!(!kobune_scheduler::volume_match::reaches(&volume, "n", &Default::default()));
    }

    #[test]
    fn volumes_go_when_their_policy_says_so() {
        let check = |phase: &str, policy: &str, deleting: bool, expected: VolumeStep| {
            let mut volume = volume_of(phase, policy);
            volume.metadata.deletion_timestamp =
                deleting.then(|| serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("a time"));
            assert_eq!(ending(&volume), expected, "{phase} {policy} {deleting}");
        };
        check("Pending", "Delete", false, VolumeStep::Nothing);
        check("Bound", "Delete", false, VolumeStep::Nothing);
        check("Bound", "Delete", true, VolumeStep::Nothing);
        check("Released", "Delete", false, VolumeStep::Delete);
        check("Released", "Delete", true, VolumeStep::Delete);
        check("Available", "Delete", true, VolumeStep::Delete);
        check("Released", "Retain", false, VolumeStep::Nothing);
        check("Released", "Retain", true, VolumeStep::Nothing);
    }

    #[test]
    fn claims_grow_with_their_volume() {
        let bound = |claim: &mut Value, asked: &str, has: &str| {
            claim["metadata"]["annotations"][BIND_COMPLETED] = json!("yes");
            claim["spec"]["resources"]["requests"]["storage"] = json!(asked);
            claim["status"] = json!({"phase": "Bound", "capacity": {"storage": has},
                "conditions": [{"type": "Resizing", "status": "True"}, {"type": "Other", "status": "True"}]});
        };
        let class = class("local", true).expect("a class");
        let volume = volume_of("Bound", "Delete");
        let step = |asked: &str, has: &str, class: Option<&StorageClass>| {
            claim(&claim_of(|claim| bound(claim, asked, has)), class, Some(&volume), &[])
        };
        assert_eq!(step("1Gi", "1Gi", Some(&class)), ClaimStep::Nothing);
        assert!(matches!(step("2Gi", "1Gi", Some(&class)), ClaimStep::Grow { bytes, .. } if bytes == 2 << 30));
        assert_eq!(step("2Gi", "1Gi", None), ClaimStep::Nothing);
        let ClaimStep::TellCapacity(change) = step("1Gi", "512Mi", Some(&class)) else { panic!("it has grown") };
        assert_eq!(change["status"]["capacity"]["storage"], "1Gi");
        assert_eq!(change["status"]["conditions"].as_array().map(Vec::len), Some(1));
    }
}
