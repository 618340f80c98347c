//! Which volume suits a claim best. Pure; shared by the volume binder and the scheduler.
//!
//! Upstream: <https://github.com/kubernetes/component-helpers/blob/master/storage/volume/pv_helpers.go> (`FindMatchingVolume`).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};

use crate::{labels, node_match, quantity};

/// The annotation that named a class before there was a field for it.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
/// Labels that took the place of older ones in node affinities.
const RENAMED: [(&str, &str); 5] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
];

/// The class a claim asks for; `None` when it leaves the choice to the cluster.
pub fn claim_class(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotated = claim.metadata.annotations.as_ref().and_then(|all| all.get(CLASS_ANNOTATION));
    annotated.or(claim.spec.as_ref()?.storage_class_name.as_ref()).map(String::as_str)
}

/// The class a volume belongs to; empty for none.
pub fn volume_class(volume: &PersistentVolume) -> &str {
    let annotated = volume.metadata.annotations.as_ref().and_then(|all| all.get(CLASS_ANNOTATION));
    let named = || volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_ref());
    annotated.or_else(named).map(String::as_str).unwrap_or_default()
}

/// What a volume says of the claim it belongs to.
pub fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// Whether the volume names this claim: by name alone when somebody chose it in advance, by uid too once it is bound.
pub fn belongs_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_ref(volume).is_some_and(|reference| {
        reference.name == claim.metadata.name
            && reference.namespace == claim.metadata.namespace
            && reference.uid.as_ref().is_none_or(|uid| uid.is_empty() || Some(uid) == claim.metadata.uid.as_ref())
    })
}

/// How many bytes a claim asks for.
pub fn requested(claim: &PersistentVolumeClaim) -> i64 {
    let spec = claim.spec.as_ref();
    let requests = spec.and_then(|spec| spec.resources.as_ref()).and_then(|resources| resources.requests.as_ref());
    requests.and_then(|requests| requests.get("storage")).map_or(0, quantity::value)
}

/// How many bytes a volume holds.
pub fn capacity(volume: &PersistentVolume) -> i64 {
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref());
    capacity.and_then(|capacity| capacity.get("storage")).map_or(0, quantity::value)
}

/// Whether both are of the same `volumeMode`.
pub fn same_mode(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let mode = |mode: Option<&String>| mode.is_some_and(|mode| mode == "Block");
    mode(volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_ref()))
        == mode(claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_ref()))
}

/// Whether the volume can be used in every way that the claim wants.
pub fn offers_access(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let offered = volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    let wanted = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    wanted.iter().all(|mode| offered.contains(mode))
}

/// Whether a volume's node affinity lets it be used on a node of this name with these labels.
pub fn reaches(volume: &PersistentVolume, node: &str, node_labels: &BTreeMap<String, String>) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let Some(required) = affinity.and_then(|affinity| affinity.required.as_ref()) else { return true };
    required.node_selector_terms.iter().any(|term| {
        let mut term = term.clone();
        for wanted in term.match_expressions.iter_mut().flatten() {
            if let Some((_, new)) = RENAMED.iter().find(|(old, _)| *old == wanted.key) {
                (*new).clone_into(&mut wanted.key);
            }
        }
        node_match::term_matches(&term, node, node_labels)
    })
}

/// The node that a pod would run on.
#[derive(Clone, Copy, Debug)]
pub struct Place<'n> {
    /// Its name.
    pub name: &'n str,
    /// Its labels.
    pub labels: &'n BTreeMap<String, String>,
}

/// The volume that suits the claim best: the one that names it, else the one with the fewest access modes too many and the
/// least capacity. `class` is the class the claim counts with, `taken` are volumes already promised to others.
///
/// Without a node only the binder asks; it leaves claims whose volume is to be chosen with their node (`delayed`) alone
/// unless a volume names them.
pub fn best<'v>(
    claim: &PersistentVolumeClaim,
    class: &str,
    volumes: impl IntoIterator<Item = &'v PersistentVolume>,
    taken: &BTreeSet<&str>,
    node: Option<Place<'_>>,
    delayed: bool,
) -> Option<&'v PersistentVolume> {
    let wanted = requested(claim);
    let spec = claim.spec.as_ref();
    let selector = spec.and_then(|spec| spec.selector.as_ref());
    let attributes = |name: Option<&String>| name.filter(|name| !name.is_empty()).cloned();
    let claim_attributes = attributes(spec.and_then(|spec| spec.volume_attributes_class_name.as_ref()));
    let mut found: Option<((usize, i64, &str), &PersistentVolume)> = None;
    for volume in volumes {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let named = belongs_to(volume, claim);
        let volume_attributes =
            attributes(volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_ref()));
        if taken.contains(name)
            || (claim_ref(volume).is_some() && !named)
            || capacity(volume) < wanted
            || !same_mode(volume, claim)
            || volume.metadata.deletion_timestamp.is_some()
            || volume_attributes != claim_attributes
        {
            continue;
        }
        let reachable = node.is_none_or(|node| reaches(volume, node.name, node.labels));
        if named {
            // Somebody has chosen this one; on a node that it does not reach nothing else will do.
            return reachable.then_some(volume);
        }
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        let none = BTreeMap::new();
        let selected =
            |labels: &BTreeMap<String, String>| selector.is_none_or(|wanted| labels::selects(wanted, labels));
        if (delayed && node.is_none())
            || phase != Some("Available")
            || !selected(volume.metadata.labels.as_ref().unwrap_or(&none))
            || volume_class(volume) != class
            || !reachable
            || !offers_access(volume, claim)
        {
            continue;
        }
        let modes = volume.spec.as_ref().and_then(|spec| spec.access_modes.as_ref()).map_or(0, Vec::len);
        let rank = (modes, capacity(volume), name);
        if found.as_ref().is_none_or(|(best, _)| rank < *best) {
            found = Some((rank, volume));
        }
    }
    found.map(|(_, volume)| volume)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn volume(name: &str, change: Value) -> PersistentVolume {
        let mut object = json!({
            "metadata": {"name": name, "labels": {"tier": "a"}},
            "spec": {"capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "c",
                     "volumeMode": "Filesystem", "hostPath": {"path": "/x"}},
            "status": {"phase": "Available"},
        });
        merge(&mut object, change);
        serde_json::from_value(object).expect("a volume")
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

    fn chosen(claim: Value, volumes: &[PersistentVolume], node: Option<&str>, delayed: bool) -> String {
        let mut object = json!({
            "metadata": {"name": "claim", "namespace": "ns", "uid": "u"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
                     "storageClassName": "c", "volumeMode": "Filesystem"},
        });
        merge(&mut object, claim);
        let claim: PersistentVolumeClaim = serde_json::from_value(object).expect("a claim");
        let class = claim_class(&claim).unwrap_or_default().to_owned();
        let labels: BTreeMap<String, String> =
            node.iter().map(|zone| ("zone".to_owned(), (*zone).to_owned())).collect();
        let place = node.map(|name| Place { name, labels: &labels });
        best(&claim, &class, volumes, &BTreeSet::from(["promised"]), place, delayed)
            .and_then(|volume| volume.metadata.name.clone())
            .unwrap_or_default()
    }

    #[test]
    fn the_smallest_that_does_is_taken() {
        let check = |claim: Value, volumes: &[PersistentVolume], expected: &str| {
            assert_eq!(chosen(claim.clone(), volumes, None, false), expected, "{claim}");
        };
        let plain = volume("plain", json!({}));
        let large = volume("large", json!({"spec": {"capacity": {"storage": "5Gi"}}}));
        let shared = volume("shared", json!({"spec": {"accessModes": ["ReadWriteOnce", "ReadWriteMany"]}}));
        let all = [large.clone(), shared, plain.clone()];
        check(json!({}), &all, "plain");
        check(json!({"spec": {"accessModes": ["ReadWriteMany"]}}), &all, "shared");
        check(json!({"spec": {"resources": {"requests": {"storage": "3Gi"}}}}), &all, "large");
        check(json!({"spec": {"resources": {"requests": {"storage": "9Gi"}}}}), &all, "");
        check(json!({"spec": {"storageClassName": ""}}), &all, "");
        check(json!({"spec": {"volumeMode": "Block"}}), &all, "");
        check(json!({"spec": {"selector": {"matchLabels": {"tier": "b"}}}}), &all, "");
        check(json!({"spec": {"selector": {"matchLabels": {"tier": "a"}}}}), &all, "plain");
        check(json!({}), &[volume("promised", json!({})), large.clone()], "large");
        for unfit in [
            json!({"status": {"phase": "Released"}}),
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            json!({"spec": {"claimRef": {"namespace": "ns", "name": "other"}}}),
            json!({"spec": {"claimRef": {"namespace": "ns", "name": "claim", "uid": "before"}}}),
            json!({"spec": {"volumeAttributesClassName": "gold"}}),
        ] {
            check(json!({}), &[volume("unfit", unfit)], "");
        }
        let named = json!({"spec": {"claimRef": {"namespace": "ns", "name": "claim"}, "capacity": {"storage": "7Gi"}}});
        check(json!({}), &[plain, volume("named", named)], "named");
    }

    #[test]
    fn nodes_and_delay() {
        let here = json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["z"]}]}]}}}});
        let local = [volume("local", here.clone())];
        assert_eq!(chosen(json!({}), &local, Some("z"), true), "local");
        assert_eq!(chosen(json!({}), &local, Some("y"), true), "");
        assert_eq!(chosen(json!({}), &local, None, true), "", "its volume comes with its node");
        let mut named = here;
        named["spec"]["claimRef"] = json!({"namespace": "ns", "name": "claim", "uid": "u"});
        let named = [volume("named", named), volume("plain", json!({}))];
        assert_eq!(chosen(json!({}), &named, None, true), "named");
        assert_eq!(chosen(json!({}), &named, Some("y"), true), "", "nothing else will do");
    }
}
