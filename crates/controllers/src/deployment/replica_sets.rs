//! The ReplicaSets of a Deployment: which one is new, how it is named and annotated.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::plan::max_surge;
use crate::hash::short_hash;
use crate::ownership::controller_reference;

/// The label that keeps the pods of one template apart.
pub const HASH_LABEL: &str = "pod-template-hash";
/// The number of a rollout.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Earlier numbers of a ReplicaSet that was rolled back to.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// `spec.replicas` of the Deployment when the ReplicaSet was last scaled.
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// The same with the surge on top.
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of a Deployment that are its own business.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];
/// Longest revision history in characters, as upstream.
const HISTORY_LENGTH: usize = 2000;

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(meta) = template.metadata.as_mut() {
        meta.creation_timestamp = None;
        if let Some(labels) = meta.labels.as_mut() {
            labels.remove(HASH_LABEL);
            if labels.is_empty() {
                meta.labels = None;
            }
        }
    }
    if template.metadata.as_ref() == Some(&ObjectMeta::default()) {
        template.metadata = None;
    }
    template
}

/// Whether the set was made from the deployment's template as it is now.
pub fn same_template(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let wanted = deployment.spec.as_ref().map(|spec| &spec.template);
    let found = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    match (wanted, found) {
        (Some(wanted), Some(found)) => without_hash(wanted) == without_hash(found),
        _ => false,
    }
}

/// The number of a rollout; 0 for none.
pub fn revision(meta: &ObjectMeta) -> i64 {
    annotation(meta, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// An annotation's text.
pub fn annotation<'m>(meta: &'m ObjectMeta, name: &str) -> Option<&'m str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Annotations that say how large the deployment was when the set was scaled.
pub fn size_annotations(deployment: &Deployment) -> BTreeMap<String, String> {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    BTreeMap::from([
        (DESIRED_REPLICAS.to_owned(), wanted.to_string()),
        (MAX_REPLICAS.to_owned(), (wanted + max_surge(deployment)).to_string()),
    ])
}

/// What has to change in the annotations of an existing new set.
pub fn changed_annotations(deployment: &Deployment, set: &ReplicaSet, new_revision: i64) -> BTreeMap<String, String> {
    let mut changed = BTreeMap::new();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) && annotation(&set.metadata, key) != Some(value) {
            changed.insert(key.clone(), value.clone());
        }
    }
    let old_revision = revision(&set.metadata);
    if old_revision < new_revision {
        changed.insert(REVISION.to_owned(), new_revision.to_string());
        if old_revision > 0 {
            let history = annotation(&set.metadata, REVISION_HISTORY).unwrap_or_default();
            let mut numbers: Vec<&str> = history.split(',').filter(|number| !number.is_empty()).collect();
            let old = old_revision.to_string();
            numbers.push(&old);
            while numbers.join(",").len() > HISTORY_LENGTH {
                numbers.remove(0);
            }
            changed.insert(REVISION_HISTORY.to_owned(), numbers.join(","));
        }
    }
    changed
}

/// The ReplicaSet of the deployment's template as it is now.
pub fn new_replica_set(deployment: &Deployment, replicas: i32, revision: i64) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = short_hash(&spec.template, collisions);
    let mut template = spec.template;
    let meta = template.metadata.get_or_insert_default();
    meta.labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    let labels = meta.labels.clone();
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    let mut annotations = size_annotations(deployment);
    annotations.insert(REVISION.to_owned(), revision.to_string());
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.metadata.name.as_deref().unwrap_or_default())),
            namespace: deployment.metadata.namespace.clone(),
            labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_and_templates() {
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "d", "annotations": {"a": "b", REVISION: "4"}},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "replicas": 4, "strategy": {"rollingUpdate": {"maxSurge": "25%"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
        }))
        .expect("a deployment");
        let set = new_replica_set(&deployment, 3, 5);
        let hash = set.metadata.labels.as_ref().expect("labels")[HASH_LABEL].clone();
        assert_eq!(set.metadata.name.as_deref(), Some(format!("web-{hash}").as_str()));
        assert!(same_template(&deployment, &set));
        let annotations = set.metadata.annotations.clone().expect("annotations");
        let wanted = [("a", "b"), (REVISION, "5"), (DESIRED_REPLICAS, "4"), (MAX_REPLICAS, "5")];
        assert_eq!(annotations, wanted.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        let mut collided = deployment.clone();
        collided.status.get_or_insert_default().collision_count = Some(1);
        assert_ne!(new_replica_set(&collided, 3, 5).metadata.name, set.metadata.name);
        let mut changed = deployment.clone();
        changed.spec.as_mut().expect("spec").template.spec.as_mut().expect("spec").containers[0].image =
            Some("j".into());
        assert!(!same_template(&changed, &set));
        let rolled_back = changed_annotations(&deployment, &set, 7);
        assert_eq!(
            rolled_back,
            [(REVISION, "7"), (REVISION_HISTORY, "5")].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
        );
    }
}
