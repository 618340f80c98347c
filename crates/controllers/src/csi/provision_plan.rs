//! From a claim and its class to CSI's request, and from the answer to a PersistentVolume. Pure.
//!
//! Source: external-provisioner, `pkg/controller/controller.go` and `topology.go`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, SecretReference, TopologySelectorTerm};
use k8s_openapi::api::storage::v1::StorageClass;
use kobune_grpc::csi::controller::{TopologyRequirement, Volume};
use kobune_grpc::csi::{AccessMode, MountVolume, Nothing, Topology, VolumeCapability, access};
use kobune_scheduler::volume_match::requested;
use serde_json::json;

use super::secrets;
use crate::local_provisioner::plan::object;
use crate::object::Cached;
use crate::persistent_volume::names::{
    BIND_COMPLETED, PROVISIONED_BY, PROVISIONER_FINALIZER, SELECTED_NODE, STORAGE_PROVISIONER, annotation,
};
use crate::persistent_volume::reference;
use crate::queue::PassError;

/// Parameters of a class that are for whoever provisions, not for the driver.
const OURS: &str = "csi.storage.k8s.io/";
/// The annotations that say which secret deletes a volume.
const DELETION_SECRET: [&str; 2] = [
    "volume.kubernetes.io/provisioner-deletion-secret-name",
    "volume.kubernetes.io/provisioner-deletion-secret-namespace",
];

/// The labels by which a driver tells places apart, with their values.
pub type Segments = BTreeMap<String, String>;

/// Whether a volume is to be made for a claim now; the class is one of a driver that is called from here.
pub fn is_due(claim: &PersistentVolumeClaim, class: &StorageClass) -> bool {
    let asked = STORAGE_PROVISIONER.iter().any(|key| annotation(claim, key) == Some(&class.provisioner));
    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
    let delayed = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
    asked
        && annotation(claim, BIND_COMPLETED).is_none()
        && !claim.deleting()
        && named.is_empty()
        && (!delayed || annotation(claim, SELECTED_NODE).is_some())
}

/// The volume's name, which is the same at each try.
pub fn volume_name(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or_default())
}

/// The class's parameters that are the driver's.
pub fn parameters(class: &StorageClass) -> impl Iterator<Item = (String, String)> + '_ {
    let all = class.parameters.iter().flatten().filter(|(key, _)| !key.starts_with(OURS));
    all.map(|(key, value)| (key.clone(), value.clone()))
}

fn file_system(class: &StorageClass) -> String {
    let named = class.parameters.as_ref().and_then(|all| all.get("csi.storage.k8s.io/fstype"));
    named.cloned().unwrap_or_default()
}

/// How a volume with these access modes is used; `fine` says that the driver tells one pod from several on a node.
pub fn capability(block: bool, fs_type: &str, flags: &[String], mode: &str, fine: bool) -> VolumeCapability {
    let mode = match (mode, fine) {
        ("ReadWriteMany", _) => access::MULTI_NODE_MULTI_WRITER,
        ("ReadOnlyMany", _) => access::MULTI_NODE_READER_ONLY,
        ("ReadWriteOncePod", true) => access::SINGLE_NODE_SINGLE_WRITER,
        (_, true) => access::SINGLE_NODE_MULTI_WRITER,
        (_, false) => access::SINGLE_NODE_WRITER,
    };
    let mount = MountVolume { fs_type: fs_type.to_owned(), mount_flags: flags.to_vec(), ..MountVolume::default() };
    VolumeCapability {
        block: block.then_some(Nothing {}),
        mount: (!block).then_some(mount),
        access_mode: Some(AccessMode { mode }),
    }
}

/// Whether a claim is for a device.
pub fn is_block(claim: &PersistentVolumeClaim) -> bool {
    claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()) == Some("Block")
}

/// All the ways in which a claim's volume is used.
pub fn capabilities(claim: &PersistentVolumeClaim, class: &StorageClass, fine: bool) -> Vec<VolumeCapability> {
    let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    let flags = class.mount_options.as_deref().unwrap_or_default();
    modes.iter().map(|mode| capability(is_block(claim), &file_system(class), flags, mode, fine)).collect()
}

/// Every combination that a class allows.
fn allowed(terms: &[TopologySelectorTerm]) -> Vec<Segments> {
    let one = |term: &TopologySelectorTerm| {
        let mut combinations = vec![Segments::new()];
        for label in term.match_label_expressions.iter().flatten() {
            let with = |value: &String, known: &Segments| {
                known.clone().into_iter().chain([(label.key.clone(), value.clone())]).collect()
            };
            let each = |known: &Segments| label.values.iter().map(|value| with(value, known)).collect::<Vec<_>>();
            combinations = combinations.iter().flat_map(each).collect();
        }
        combinations
    };
    terms.iter().flat_map(one).collect()
}

/// Where a volume may be, best place first: `nodes` are the places that have the driver, `selected` the one of the node that
/// the first pod will run on. An error says that no such place will do for that node.
pub fn places(
    class: &StorageClass,
    nodes: &[Segments],
    selected: Option<&Segments>,
) -> Result<Option<TopologyRequirement>, String> {
    let terms = class.allowed_topologies.as_deref().unwrap_or_default();
    let mut all = if terms.is_empty() { nodes.to_vec() } else { allowed(terms) };
    all.retain(|segments| !segments.is_empty());
    all.sort();
    all.dedup();
    if all.is_empty() {
        return Ok(None);
    }
    if let Some(selected) = selected {
        let holds = |place: &Segments| place.iter().all(|(key, value)| selected.get(key) == Some(value));
        all.sort_by_key(|place| !holds(place));
        if !all.first().is_some_and(holds) {
            return Err("the chosen node is in none of the class's allowed topologies".to_owned());
        }
    }
    let topology = |place: &Segments| Topology { segments: place.clone().into_iter().collect() };
    let preferred: Vec<Topology> = all.iter().map(topology).collect();
    Ok(Some(TopologyRequirement { requisite: preferred.clone(), preferred }))
}

/// The volume object for what the driver has made.
pub fn volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    made: Volume,
) -> Result<PersistentVolume, PassError> {
    let spec = claim.spec.clone().unwrap_or_default();
    let name = volume_name(claim);
    let none = BTreeMap::new();
    let parameters = class.parameters.as_ref().unwrap_or(&none);
    let secret = |purpose: &str| -> Result<Option<SecretReference>, PassError> {
        secrets::named(parameters, purpose, &name, claim).map_err(|what| PassError::Object { what })
    };
    let asked = spec.resources.and_then(|resources| resources.requests?.remove("storage"));
    let capacity = match made.capacity_bytes {
        0 => json!(asked),
        bytes if bytes == requested(claim) => json!(asked),
        bytes => json!(bytes.to_string()),
    };
    let policy = class.reclaim_policy.as_deref().unwrap_or("Delete");
    let finalizers: &[&str] = if policy == "Delete" { &[PROVISIONER_FINALIZER] } else { &[] };
    let mut annotations = BTreeMap::from([(PROVISIONED_BY, class.provisioner.clone())]);
    if let Some(SecretReference { name: Some(name), namespace: Some(namespace) }) = secret(secrets::PROVISIONER)? {
        annotations.extend(DELETION_SECRET.into_iter().zip([name, namespace]));
    }
    let terms: Vec<_> = made
        .accessible_topology
        .iter()
        .filter(|place| !place.segments.is_empty())
        .map(|place| {
            let sorted: BTreeMap<_, _> = place.segments.iter().collect();
            let label = |(key, value)| json!({"key": key, "operator": "In", "values": [value]});
            json!({"matchExpressions": sorted.into_iter().map(label).collect::<Vec<_>>()})
        })
        .collect();
    let mut volume = json!({
        "metadata": {"name": name, "annotations": annotations, "finalizers": finalizers},
        "spec": {
            "capacity": {"storage": capacity},
            "accessModes": spec.access_modes,
            "volumeMode": spec.volume_mode.as_deref().unwrap_or("Filesystem"),
            "persistentVolumeReclaimPolicy": policy,
            "storageClassName": class.metadata.name,
            "mountOptions": class.mount_options,
            "claimRef": reference(claim),
            "csi": {
                "driver": class.provisioner,
                "volumeHandle": made.volume_id,
                "volumeAttributes": made.volume_context,
                "controllerPublishSecretRef": secret(secrets::CONTROLLER_PUBLISH)?,
                "nodeStageSecretRef": secret(secrets::NODE_STAGE)?,
                "nodePublishSecretRef": secret(secrets::NODE_PUBLISH)?,
                "controllerExpandSecretRef": secret(secrets::CONTROLLER_EXPAND)?,
                "nodeExpandSecretRef": secret(secrets::NODE_EXPAND)?,
            },
        },
    });
    let fs_type = file_system(class);
    if !is_block(claim) && !fs_type.is_empty() {
        volume["spec"]["csi"]["fsType"] = json!(fs_type);
    }
    if !terms.is_empty() {
        volume["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": terms}});
    }
    object(volume)
}

/// The secret that deletes a volume.
pub fn deletion_secret(volume: &PersistentVolume) -> SecretReference {
    let [name, namespace] = DELETION_SECRET.map(|key| annotation(volume, key).map(str::to_owned));
    SecretReference { name, namespace }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn claim(change: impl FnOnce(&mut Value)) -> PersistentVolumeClaim {
        let mut claim = json!({
            "metadata": {"name": "c", "namespace": "ns", "uid": "u", "annotations": {STORAGE_PROVISIONER[0]: "d"}},
            "spec": {"accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "resources": {"requests": {"storage": "1Gi"}}},
        });
        change(&mut claim);
        serde_json::from_value(claim).expect("a claim")
    }

    fn class(change: impl FnOnce(&mut Value)) -> StorageClass {
        let mut class = json!({"metadata": {"name": "fast"}, "provisioner": "d", "volumeBindingMode": "Immediate",
            "mountOptions": ["noatime"],
            "parameters": {"type": "ssd", "csi.storage.k8s.io/fstype": "xfs",
                "csi.storage.k8s.io/provisioner-secret-name": "s-${pvc.name}",
                "csi.storage.k8s.io/provisioner-secret-namespace": "${pvc.namespace}"}});
        change(&mut class);
        serde_json::from_value(class).expect("a class")
    }

    #[test]
    fn claims_are_due_when_their_time_has_come() {
        let delayed = class(|class| class["volumeBindingMode"] = json!("WaitForFirstConsumer"));
        assert!(is_due(&claim(|_| {}), &class(|_| {})));
        assert!(!is_due(&claim(|_| {}), &delayed));
        assert!(is_due(&claim(|claim| claim["metadata"]["annotations"][SELECTED_NODE] = json!("n")), &delayed));
        assert!(!is_due(&claim(|claim| claim["spec"]["volumeName"] = json!("v")), &class(|_| {})));
        assert!(!is_due(
            &claim(|claim| claim["metadata"]["annotations"][STORAGE_PROVISIONER[0]] = json!("x")),
            &class(|_| {})
        ));
        assert!(!is_due(
            &claim(|claim| claim["metadata"]["annotations"][BIND_COMPLETED] = json!("yes")),
            &class(|_| {})
        ));
        assert!(!is_due(
            &claim(|claim| claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z")),
            &class(|_| {})
        ));
    }

    #[test]
    fn requests_say_how_the_volume_is_used() {
        let (claim, class) = (claim(|_| {}), class(|_| {}));
        assert_eq!(parameters(&class).collect::<Vec<_>>(), [("type".to_owned(), "ssd".to_owned())]);
        let mode = |capability: &VolumeCapability| capability.access_mode.as_ref().expect("a mode").mode;
        let modes = |fine| capabilities(&claim, &class, fine).iter().map(mode).collect::<Vec<_>>();
        assert_eq!((modes(false), modes(true)), (vec![1, 3], vec![7, 3]));
        let mount = capabilities(&claim, &class, false)[0].mount.clone().expect("a file system");
        assert_eq!((mount.fs_type.as_str(), mount.mount_flags.as_slice()), ("xfs", &["noatime".to_owned()][..]));
    }

    #[test]
    fn places_begin_with_the_chosen_node() {
        let place = |zone: &str| Segments::from([("zone".to_owned(), zone.to_owned())]);
        let nodes = [place("b"), place("a"), place("b")];
        let zones = |class: &StorageClass, selected: Option<&str>| {
            let selected = selected.map(place);
            let found = places(class, &nodes, selected.as_ref()).ok()?;
            Some(found.map_or_else(Vec::new, |found| {
                found.preferred.iter().map(|place| place.segments["zone"].clone()).collect()
            }))
        };
        let plain = class(|_| {});
        assert_eq!(zones(&plain, None).expect("places"), ["a", "b"]);
        assert_eq!(zones(&plain, Some("b")).expect("places"), ["b", "a"]);
        let narrow = class(|class| {
            class["allowedTopologies"] = json!([{"matchLabelExpressions": [{"key": "zone", "values": ["c", "b"]}]}]);
        });
        assert_eq!(zones(&narrow, Some("b")).expect("places"), ["b", "c"]);
        assert_eq!(zones(&narrow, Some("a")), None);
        assert_eq!(places(&plain, &[Segments::new()], None), Ok(None), "a driver without places");
    }

    #[test]
    fn volumes_are_what_the_driver_made() {
        let made = Volume {
            capacity_bytes: 2 << 30,
            volume_id: "handle".to_owned(),
            volume_context: [("a".to_owned(), "b".to_owned())].into(),
            content_source: None,
            accessible_topology: vec![Topology { segments: [("zone".to_owned(), "b".to_owned())].into() }],
        };
        let volume = volume(&claim(|_| {}), &class(|_| {}), made).expect("a volume");
        let secret = deletion_secret(&volume);
        assert_eq!((secret.name.as_deref(), secret.namespace.as_deref()), (Some("s-c"), Some("ns")));
        let volume = serde_json::to_value(volume).expect("JSON");
        assert_eq!(volume["spec"]["capacity"]["storage"], "2147483648");
        assert_eq!(volume["spec"]["csi"]["volumeHandle"], "handle");
        assert_eq!(volume["spec"]["csi"]["fsType"], "xfs");
        assert_eq!(
            volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0]["values"][0],
            "b"
        );
        assert_eq!(volume["metadata"]["annotations"][PROVISIONED_BY], "d");
    }
}
