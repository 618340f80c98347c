//! OpenAPI documents, rendered on demand from the schema table.
//!
//! Nothing of a document is kept here: the prose stays compressed until one is asked for.

mod custom;
mod definitions;
mod gnostic;
pub mod merge;
mod paths;

use serde_json::{Map, Value, json};
use sha2::Digest as _;

use crate::catalogue::Catalogue;
use crate::kind::Kind;
use definitions::{Definitions, Dialect};

/// Path of a group and version below `/` and below `/openapi/v3/`: `api/v1`, `apis/apps/v1`.
fn group_version_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn kinds_at<'a>(catalogue: &'a Catalogue, path: &str) -> Vec<&'a Kind> {
    let served = catalogue.kinds().iter().map(|kind| &**kind);
    served.filter(|kind| group_version_path(&kind.group, &kind.version) == path).collect()
}

/// What a document depends on, as a hash: it stands for the content, which is too large to render for an index.
fn hash(kinds: &[&Kind]) -> String {
    let mut digest = sha2::Sha256::new();
    digest.update(env!("CARGO_PKG_VERSION"));
    digest.update(include_bytes!(concat!(env!("OUT_DIR"), "/schema.z")));
    digest.update(include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.z")));
    digest.update(include_bytes!("openapi/definitions.rs"));
    digest.update(include_bytes!("openapi/paths.rs"));
    digest.update(include_bytes!("openapi/paths/connect.rs"));
    for kind in kinds {
        digest
            .update(format!("{}/{}/{}/{:?}/{:?};", kind.group, kind.version, kind.kind, kind.verbs, kind.subresources));
        if let Some(custom) = kind.custom() {
            digest.update(custom.fingerprint);
        }
    }
    digest.finalize().iter().map(|byte| format!("{byte:02X}")).collect()
}

/// `/openapi/v3`.
pub fn v3_index(catalogue: &Catalogue) -> Value {
    let mut paths = Map::new();
    for (group, versions) in crate::discovery::groups(catalogue) {
        for version in versions {
            let path = group_version_path(group, version);
            let hash = hash(&kinds_at(catalogue, &path));
            let address = format!("/openapi/v3/{path}?hash={hash}");
            paths.insert(path, json!({"serverRelativeURL": address}));
        }
    }
    json!({"paths": paths})
}

fn security() -> Value {
    json!({"BearerToken": {
        "type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication",
    }})
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": "v1.36.0"})
}

/// `/openapi/v3/<path>`, where the path is `api/v1`, `apis/apps/v1` and so on.
pub fn v3_document(catalogue: &Catalogue, group_version_path: &str) -> Option<Value> {
    let kinds = kinds_at(catalogue, group_version_path);
    if kinds.is_empty() {
        return None;
    }
    let mut definitions = Definitions::new(catalogue, Dialect::V3);
    let paths = paths::render(&kinds, &mut definitions);
    Some(json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths,
        "components": {"schemas": definitions.finish(), "securitySchemes": security()},
    }))
}

/// `/openapi/v2`.
pub fn v2_document(catalogue: &Catalogue) -> Value {
    let kinds: Vec<&Kind> = catalogue.kinds().iter().map(|kind| &**kind).collect();
    let mut definitions = Definitions::new(catalogue, Dialect::V2);
    let paths = paths::render(&kinds, &mut definitions);
    json!({
        "swagger": "2.0",
        "info": info(),
        "paths": paths,
        "definitions": definitions.finish(),
        "securityDefinitions": security(),
        "security": [{"BearerToken": []}],
    })
}

/// A document of `/openapi/v2` in gnostic's protobuf.
pub fn v2_protobuf(document: &Value) -> Vec<u8> {
    gnostic::encode(document)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_leads_to_documents() {
        let catalogue = Catalogue::builtin();
        let index = v3_index(&catalogue);
        let address = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().expect("an address");
        assert!(address.starts_with("/openapi/v3/apis/apps/v1?hash="), "{address}");
        for path in index["paths"].as_object().expect("a map").keys() {
            let document = v3_document(&catalogue, path).unwrap_or_else(|| panic!("{path}"));
            references_exist(&document, &document);
        }
        assert!(v3_document(&catalogue, "apis/apps/v9").is_none());
    }

    /// Follows every `$ref` that is a reference (and not the property of that name).
    fn references_exist(document: &Value, at: &Value) {
        match at {
            Value::Object(map) => {
                if let Some(Value::String(target)) = map.get("$ref") {
                    assert!(document.pointer(&target[1..]).is_some(), "{target}");
                }
                map.values().for_each(|value| references_exist(document, value));
            }
            Value::Array(list) => list.iter().for_each(|value| references_exist(document, value)),
            _ => {}
        }
    }

    #[test]
    fn version_3_describes_deployments() {
        let document = v3_document(&Catalogue::builtin(), "apis/apps/v1").expect("apps");
        let schemas = &document["components"]["schemas"];
        let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
        let gvk = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
        assert_eq!(deployment["x-kubernetes-group-version-kind"], json!([gvk]));
        assert_eq!(deployment["description"], "Deployment enables declarative updates for Pods and ReplicaSets.");
        assert_eq!(
            deployment["properties"]["spec"]["allOf"][0]["$ref"],
            "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec"
        );
        assert_eq!(schemas["io.k8s.api.apps.v1.DeploymentSpec"]["required"], json!(["selector", "template"]));
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-list-type"], "map");
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
        assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(
            schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["nodeSelector"]["x-kubernetes-map-type"],
            "atomic"
        );
        assert_eq!(
            schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["volumes"]["x-kubernetes-patch-strategy"],
            "merge,retainKeys"
        );
        assert!(schemas.get("io.k8s.api.core.v1.Node").is_none());
        let item = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
        let patch = &item["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"], gvk);
        assert_eq!(patch["x-kubernetes-action"], "patch");
        assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
        let names: Vec<&Value> =
            patch["parameters"].as_array().expect("a list").iter().map(|parameter| &parameter["name"]).collect();
        assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
        assert!(patch["requestBody"]["content"].get("application/apply-patch+yaml").is_some());
    }

    #[test]
    fn operations_have_upstreams_names() {
        let document = v2_document(&Catalogue::builtin());
        let check = |path: &str, method: &str, expected: &str, parameters: &[&str]| {
            let item = &document["paths"][path];
            let operation = &item[method];
            assert_eq!(operation["operationId"], expected, "{path}");
            let of = |holder: &Value| -> Vec<String> {
                let list = holder["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
                list.iter().filter_map(|each| each["name"].as_str().map(str::to_owned)).collect()
            };
            let names: Vec<String> = of(operation).into_iter().chain(of(item)).collect();
            for parameter in parameters {
                assert!(names.iter().any(|name| name == parameter), "{path} takes {parameter}: {names:?}");
            }
        };
        let pods = "/api/v1/namespaces/{namespace}/pods";
        check(pods, "delete", "deleteCoreV1CollectionNamespacedPod", &["labelSelector", "gracePeriodSeconds", "body"]);
        check(pods, "get", "listCoreV1NamespacedPod", &["namespace", "watch"]);
        check("/api/v1/pods", "get", "listCoreV1PodForAllNamespaces", &["limit"]);
        let pod = |rest: &str| format!("{pods}/{{name}}/{rest}");
        check(&pod("exec"), "post", "connectCoreV1PostNamespacedPodExec", &["command", "stdin", "name", "namespace"]);
        check(&pod("log"), "get", "readCoreV1NamespacedPodLog", &["container", "follow", "tailLines", "pretty"]);
        check(&pod("proxy"), "head", "connectCoreV1HeadNamespacedPodProxy", &["path"]);
        check(&pod("proxy/{path}"), "put", "connectCoreV1PutNamespacedPodProxyWithPath", &["path", "name"]);
        check(&pod("eviction"), "post", "createCoreV1NamespacedPodEviction", &["dryRun"]);
        let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
        check(roles, "delete", "deleteRbacAuthorizationV1CollectionClusterRole", &["continue"]);
        check("/apis/apps/v1/", "get", "getAppsV1APIResources", &[]);
        let scale = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale";
        check(scale, "get", "readAppsV1NamespacedDeploymentScale", &["name"]);
        assert_eq!(document["paths"][scale]["get"]["description"], "read scale of the specified Deployment");
        let produced = |path: &str| document["paths"][path]["get"]["produces"].clone();
        assert_eq!(produced("/api/v1/pods")[3], "application/json;stream=watch");
        assert_eq!(produced(&pod("log"))[0], "text/plain");
    }

    #[test]
    fn version_2_is_whole() {
        let document = v2_document(&Catalogue::builtin());
        references_exist(&document, &document);
        let patch = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
        assert_eq!(patch["consumes"][3], "application/apply-patch+yaml");
        assert_eq!(document["definitions"]["io.k8s.apimachinery.pkg.api.resource.Quantity"]["type"], "string");
        let list = &document["definitions"]["io.k8s.api.core.v1.PodList"];
        assert_eq!(list["properties"]["items"]["items"]["$ref"], "#/definitions/io.k8s.api.core.v1.Pod");
    }
}
