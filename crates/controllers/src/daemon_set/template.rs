//! A DaemonSet's pods: one template, bound to its node by affinity, tolerating what befalls nodes.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Toleration,
};

use crate::ownership::controller_reference;
use crate::pod_control::NewPod;
use crate::revisions::REVISION_LABEL;

/// Taints that daemons stay and start under; the last only those on the host's network.
const TOLERATED: [(&str, &str, bool); 7] = [
    ("node.kubernetes.io/not-ready", "NoExecute", false),
    ("node.kubernetes.io/unreachable", "NoExecute", false),
    ("node.kubernetes.io/disk-pressure", "NoSchedule", false),
    ("node.kubernetes.io/memory-pressure", "NoSchedule", false),
    ("node.kubernetes.io/pid-pressure", "NoSchedule", false),
    ("node.kubernetes.io/unschedulable", "NoSchedule", false),
    ("node.kubernetes.io/network-unavailable", "NoSchedule", true),
];

/// The template's tolerations and those of every daemon.
pub fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let on_host = spec.host_network == Some(true);
    let mut all = spec.tolerations.clone().unwrap_or_default();
    for (key, effect, host_only) in TOLERATED {
        let there = |toleration: &Toleration| {
            toleration.key.as_deref() == Some(key) && toleration.effect.as_deref() == Some(effect)
        };
        if (on_host || !host_only) && !all.iter().any(there) {
            all.push(Toleration {
                key: Some(key.to_owned()),
                operator: Some("Exists".to_owned()),
                effect: Some(effect.to_owned()),
                ..Toleration::default()
            });
        }
    }
    all
}

/// The pod of one node. Its affinity names the node, in place of the template's required terms, which the node met.
pub fn pod(set: &DaemonSet, hash: &str, node: &str) -> NewPod {
    let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let namespace = set.metadata.namespace.clone().unwrap_or_default();
    let mut new = NewPod::from_template(&template, &namespace, controller_reference(set));
    new.pod.metadata.labels.get_or_insert_default().insert(REVISION_LABEL.to_owned(), hash.to_owned());
    let spec = new.pod.spec.get_or_insert_default();
    spec.tolerations = Some(tolerations(spec));
    let affinity: &mut NodeAffinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_fields: Some(vec![NodeSelectorRequirement {
                key: "metadata.name".to_owned(),
                operator: "In".to_owned(),
                values: Some(vec![node.to_owned()]),
            }]),
            match_expressions: None,
        }],
    });
    new
}
