//! What makes a StatefulSet's pod itself: its number, its names, its volumes.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod as ApiPod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::ownership::controller_reference;
use crate::revisions::REVISION_LABEL;

/// A pod's own name as a label, so that a Service can select one pod.
const POD_NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
/// A pod's number as a label.
const POD_INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// The name of a pod.
pub fn pod_name(set: &str, ordinal: i32) -> String {
    format!("{set}-{ordinal}")
}

/// The number of a pod, if its name is one that a pod of the set has.
pub fn ordinal(set: &str, pod: &str) -> Option<i32> {
    let digits = pod.strip_prefix(set)?.strip_prefix('-')?;
    let ordinal: i32 = digits.parse().ok()?;
    // No sign, no leading zeros: the name must be the one that we would give.
    (ordinal >= 0 && ordinal.to_string() == digits).then_some(ordinal)
}

/// The pod with this number.
pub fn pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> ApiPod {
    let set_name = set.metadata.name.as_deref().unwrap_or_default();
    let name = pod_name(set_name, ordinal);
    let meta = template.metadata.clone().unwrap_or_default();
    let mut labels: BTreeMap<String, String> = meta.labels.unwrap_or_default();
    labels.insert(POD_NAME_LABEL.to_owned(), name.clone());
    labels.insert(POD_INDEX_LABEL.to_owned(), ordinal.to_string());
    labels.insert(REVISION_LABEL.to_owned(), revision.to_owned());
    let mut spec = template.spec.clone().unwrap_or_default();
    spec.hostname = Some(name.clone());
    spec.subdomain = set.spec.as_ref().and_then(|spec| spec.service_name.clone()).filter(|name| !name.is_empty());
    let claimed = claims(set, ordinal);
    if !claimed.is_empty() {
        let volumes = spec.volumes.get_or_insert_default();
        volumes.retain(|volume| claimed.iter().all(|(template, _)| *template != volume.name));
        volumes.extend(claimed.into_iter().map(|(template, claim)| Volume {
            name: template,
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.metadata.name.unwrap_or_default(),
                read_only: None,
            }),
            ..Volume::default()
        }));
    }
    ApiPod {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: set.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_reference(set)]),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    }
}

/// The claims of the pod with this number, each after the name of its template.
pub fn claims(set: &StatefulSet, ordinal: i32) -> Vec<(String, PersistentVolumeClaim)> {
    let Some(spec) = set.spec.as_ref() else { return Vec::new() };
    let set_name = set.metadata.name.as_deref().unwrap_or_default();
    let templates = spec.volume_claim_templates.iter().flatten();
    let claim = |template: &PersistentVolumeClaim| {
        let name = template.metadata.name.clone().unwrap_or_default();
        let mut claim = template.clone();
        claim.metadata.name = Some(format!("{name}-{}", pod_name(set_name, ordinal)));
        claim.metadata.namespace.clone_from(&set.metadata.namespace);
        let labels = claim.metadata.labels.get_or_insert_default();
        labels.extend(spec.selector.match_labels.clone().unwrap_or_default());
        claim.status = None;
        (name, claim)
    };
    templates.map(claim).collect()
}

/// What happens to the claims of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// They go with the set.
    pub with_set: bool,
    /// They go with their pod when the set is scaled down.
    pub with_scale: bool,
}

impl Retention {
    /// What `spec.persistentVolumeClaimRetentionPolicy` says.
    pub fn of(set: &StatefulSet) -> Self {
        let policy = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
        let deletes = |word: Option<&String>| word.is_some_and(|word| word == "Delete");
        Self {
            with_set: deletes(policy.and_then(|policy| policy.when_deleted.as_ref())),
            with_scale: deletes(policy.and_then(|policy| policy.when_scaled.as_ref())),
        }
    }
}

/// The owners that a claim is to have: the set, the pod, both of which would delete it, or neither. `None` when they are
/// right already. Owners that are none of ours stay.
pub fn claim_owners(
    set: &StatefulSet,
    retention: Retention,
    condemned: Option<&OwnerReference>,
    pod_name: &str,
    now: &[OwnerReference],
) -> Option<Vec<OwnerReference>> {
    let own = controller_reference(set);
    let is_set = |owner: &OwnerReference| owner.kind == "StatefulSet" && owner.name == own.name;
    let is_pod = |owner: &OwnerReference| owner.kind == "Pod" && owner.name == pod_name;
    let mut wanted: Vec<OwnerReference> =
        now.iter().filter(|owner| !is_set(owner) && !is_pod(owner)).cloned().collect();
    match condemned.filter(|_| retention.with_scale) {
        Some(pod) => wanted.push(pod.clone()),
        None if retention.with_set => {
            wanted.push(OwnerReference { controller: Some(true), block_owner_deletion: Some(true), ..own });
        }
        None => {}
    }
    let uids = |owners: &[OwnerReference]| {
        let mut uids: Vec<String> = owners.iter().map(|owner| owner.uid.clone()).collect();
        uids.sort();
        uids
    };
    (uids(&wanted) != uids(now)).then_some(wanted)
}
