//! What a pass looks at when neither the repository nor the Sync has changed: one list a kind and namespace, of metadata alone
//! where a kind has nothing to be ready for. As long as nothing of it moves there is nothing to compare.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use http::Method;
use kube::Client;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::apply_set::PART_OF;
use crate::batch::AT_ONCE;
use crate::discovery::Resource;
use crate::object::ObjectRef;
use crate::readiness::{self, Readiness};
use crate::request;
use crate::targets::Target;

const METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// Kinds whose status says whether they are ready.
const GET_READY: [&str; 9] = [
    "Deployment",
    "StatefulSet",
    "DaemonSet",
    "ReplicaSet",
    "Job",
    "Pod",
    "CustomResourceDefinition",
    "APIService",
    "Service",
];

/// Where the members of a set are.
pub type Places = Vec<(Resource, Option<String>)>;

/// How the members of a set are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    /// Of everything about them that a manifest could have said, and of what is theirs alone.
    pub digest: String,
    /// What is not ready, in words.
    pub unready: Vec<String>,
}

/// The places of a batch's objects.
pub fn places<'t>(targets: impl Iterator<Item = &'t Target>) -> Places {
    let mut seen = BTreeSet::new();
    let mut places = Vec::new();
    for target in targets {
        if seen.insert((target.resource.name(), target.object.namespace.clone())) {
            places.push((target.resource.clone(), target.object.namespace.clone()));
        }
    }
    places
}

/// Looks at the members.
pub async fn look(client: &Client, set: &str, places: &Places) -> Result<Members> {
    let found: Vec<Vec<(String, Option<String>)>> = futures::stream::iter(places)
        .map(|(resource, namespace)| list(client, set, resource, namespace.as_deref()))
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    let mut lines: Vec<String> = Vec::new();
    let mut unready = Vec::new();
    for (line, trouble) in found.into_iter().flatten() {
        lines.push(line);
        unready.extend(trouble);
    }
    lines.sort_unstable();
    let mut hash = Sha256::new();
    for line in &lines {
        hash.update(line.as_bytes());
        hash.update([0]);
    }
    let digest = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Members { digest, unready })
}

async fn list(
    client: &Client,
    set: &str,
    resource: &Resource,
    namespace: Option<&str>,
) -> Result<Vec<(String, Option<String>)>> {
    let whole = GET_READY.contains(&resource.kind.as_str());
    let accept = if whole { "application/json" } else { METADATA };
    let selector = request::query(&format!("{PART_OF}={set}"));
    let mut found = Vec::new();
    let mut token = String::new();
    loop {
        let token_query = request::query(&token);
        let path = format!("{}?labelSelector={selector}&limit=500&continue={token_query}", resource.path(namespace));
        let page = request::send(client, Method::GET, &path, None, accept).await;
        let page = page.with_context(|| format!("list {}", resource.name()))?.body;
        found.extend(page["items"].as_array().into_iter().flatten().map(|item| seen(resource, item, whole)));
        token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() {
            return Ok(found);
        }
    }
}

/// What there is to remember of an object, and what keeps it from being ready.
fn seen(resource: &Resource, item: &Value, whole: bool) -> (String, Option<String>) {
    let metadata = &item["metadata"];
    // A status moves the version but not the generation; where there is no generation there is no status that moves.
    let version = match metadata["generation"].as_i64() {
        Some(generation) => generation.to_string(),
        None => metadata["resourceVersion"].as_str().unwrap_or_default().to_owned(),
    };
    let line = format!(
        "{} {} {version} {} {} {}",
        resource.name(),
        metadata["uid"],
        metadata["labels"],
        metadata["annotations"],
        metadata["deletionTimestamp"],
    );
    let trouble = match whole.then(|| readiness::of(&resource.kind, item)) {
        None | Some(Readiness::Ready) => None,
        Some(Readiness::Missing(words) | Readiness::Failed(words)) => {
            let name = metadata["name"].as_str().unwrap_or_default().to_owned();
            let namespace = metadata["namespace"].as_str().map(str::to_owned);
            let object =
                ObjectRef { api_version: resource.api_version(), kind: resource.kind.clone(), namespace, name };
            Some(format!("{object}: {words}"))
        }
    };
    (line, trouble)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_counts_as_moved() {
        let resource = |kind: &str| Resource {
            group: "apps".to_owned(),
            version: "v1".to_owned(),
            kind: kind.to_owned(),
            plural: format!("{}s", kind.to_lowercase()),
            singular: kind.to_lowercase(),
            short_names: Vec::new(),
            categories: Vec::new(),
            namespaced: true,
            verbs: Vec::new(),
            subresources: Vec::new(),
        };
        let object = |generation: i64, version: &str, ready: i64| {
            json!({"metadata": {"uid": "u", "name": "web", "generation": generation, "resourceVersion": version},
                   "spec": {"replicas": 1},
                   "status": {"observedGeneration": generation, "replicas": 1, "updatedReplicas": 1, "availableReplicas": ready}})
        };
        let deployment = resource("Deployment");
        let (line, trouble) = seen(&deployment, &object(1, "5", 1), true);
        assert_eq!(trouble, None);
        let (same, trouble) = seen(&deployment, &object(1, "6", 0), true);
        assert_eq!((same, trouble.as_deref()), (line.clone(), Some("deployment/web: 0 of 1 ready")), "only its status");
        assert_ne!(seen(&deployment, &object(2, "7", 1), true).0, line);
        let plain = |version: &str| json!({"metadata": {"uid": "u", "name": "a", "resourceVersion": version}});
        assert_ne!(seen(&resource("ConfigMap"), &plain("1"), false), seen(&resource("ConfigMap"), &plain("2"), false));
    }
}
