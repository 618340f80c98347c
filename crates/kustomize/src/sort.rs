//! The order of the output: as it was read, or by kind so that what others need comes first.

use std::collections::HashMap;

use crate::id::Id;
use crate::resource::Resource;

/// Kinds that come first, in this order.
const FIRST: [&str; 22] = [
    "Namespace",
    "ResourceQuota",
    "StorageClass",
    "CustomResourceDefinition",
    "ServiceAccount",
    "PodSecurityPolicy",
    "Role",
    "ClusterRole",
    "RoleBinding",
    "ClusterRoleBinding",
    "ConfigMap",
    "Secret",
    "Endpoints",
    "Service",
    "LimitRange",
    "PriorityClass",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Deployment",
    "StatefulSet",
    "CronJob",
    "PodDisruptionBudget",
];

/// Kinds that come last, in this order.
const LAST: [&str; 2] = ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"];

/// Where a kind stands without options: below zero is early, above is late.
pub(crate) fn rank(kind: &str) -> i32 {
    let place = |list: &[&str]| list.iter().position(|known| *known == kind).and_then(|at| i32::try_from(at).ok());
    match (place(&FIRST), place(&LAST)) {
        (_, Some(at)) => at + 1,
        (Some(at), None) => at - 22,
        (None, None) => 0,
    }
}

/// Sorts by kind, then by group, version, kind, namespace and name.
pub(crate) fn legacy(resources: &mut [Resource], options: Option<&(Vec<String>, Vec<String>)>) {
    let ranks: Option<HashMap<&str, i32>> = options.map(|(first, last)| {
        let count = i32::try_from(first.len()).unwrap_or(i32::MAX);
        let first = first.iter().zip(0..).map(|(kind, at)| (kind.as_str(), at - count));
        first.chain(last.iter().zip(1..).map(|(kind, at)| (kind.as_str(), at))).collect()
    });
    let rank = |kind: &str| match &ranks {
        Some(ranks) => ranks.get(kind).copied().unwrap_or(0),
        None => rank(kind),
    };
    let or = |text: &str, none: &str| if text.is_empty() { none.to_owned() } else { text.to_owned() };
    // A Namespace of the core comes before its namesakes of other groups though their groups sort before its none.
    let group = |id: &Id| match (id.gvk.kind.as_str(), id.gvk.group.as_str()) {
        ("Namespace", "") => String::new(),
        (_, group) => or(group, "~G"),
    };
    resources.sort_by_cached_key(|resource| {
        let id = resource.id();
        let gvk = format!("{}_{}_{}", group(id), or(&id.gvk.version, "~V"), or(&id.gvk.kind, "~K"));
        (rank(&id.gvk.kind), gvk, format!("{}|{}|{}", id.gvk, or(&id.namespace, "~X"), or(&id.name, "~N")))
    });
}
