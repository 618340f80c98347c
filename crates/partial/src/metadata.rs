//! Metadata as those read it who follow many objects.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde::{Deserialize, Deserializer};

/// The metadata of an object but its managed fields.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct MetadataInput {
    annotations: Option<BTreeMap<String, String>>,
    creation_timestamp: Option<Time>,
    deletion_grace_period_seconds: Option<i64>,
    deletion_timestamp: Option<Time>,
    finalizers: Option<Vec<String>>,
    generate_name: Option<String>,
    generation: Option<i64>,
    labels: Option<BTreeMap<String, String>>,
    name: Option<String>,
    namespace: Option<String>,
    owner_references: Option<Vec<OwnerReference>>,
    resource_version: Option<String>,
    self_link: Option<String>,
    uid: Option<String>,
}

impl From<MetadataInput> for ObjectMeta {
    fn from(input: MetadataInput) -> Self {
        Self {
            annotations: input.annotations,
            creation_timestamp: input.creation_timestamp,
            deletion_grace_period_seconds: input.deletion_grace_period_seconds,
            deletion_timestamp: input.deletion_timestamp,
            finalizers: input.finalizers,
            generate_name: input.generate_name,
            generation: input.generation,
            labels: input.labels,
            managed_fields: None,
            name: input.name,
            namespace: input.namespace,
            owner_references: input.owner_references,
            resource_version: input.resource_version,
            self_link: input.self_link,
            uid: input.uid,
        }
    }
}

/// Reads metadata without its managed fields. They are often half of an object's text and make a tree of hundreds of
/// parts, which those who only follow objects would build for every event and throw away.
///
/// For `#[serde(deserialize_with)]`.
///
/// # Errors
///
/// Those of metadata that is not well formed.
pub fn without_managed_fields<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    MetadataInput::deserialize(deserializer).map(ObjectMeta::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_but_managed_fields() {
        let text = serde_json::json!({
            "annotations": {"a": "b"}, "creationTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 3,
            "deletionTimestamp": "2026-01-01T00:00:03Z", "finalizers": ["x/y"], "generateName": "a-", "generation": 2,
            "labels": {"c": "d"}, "name": "a-b", "namespace": "n", "resourceVersion": "7", "selfLink": "s", "uid": "u",
            "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "o", "uid": "v", "controller": true}],
            "managedFields": [{"manager": "m", "operation": "Update", "fieldsV1": {"f:spec": {}}}],
        });
        let mut whole: ObjectMeta = serde_json::from_value(text.clone()).expect("metadata");
        assert!(whole.managed_fields.take().is_some());
        assert_eq!(without_managed_fields(text).expect("metadata"), whole);
    }
}
