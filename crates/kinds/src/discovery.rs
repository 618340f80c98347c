//! Discovery documents, the legacy ones a group and version at a time and the aggregated one.

use base64::Engine as _;
use serde_json::{Map, Value, json};
use sha2::Digest as _;

use crate::catalogue::Catalogue;
use crate::kind::{Kind, Subresource, Verb, join};

/// The groups in order of discovery, each with its versions, preferred first. Core is the group without a name.
pub fn groups(catalogue: &Catalogue) -> Vec<(&str, Vec<&str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for kind in catalogue.kinds() {
        let at = groups.iter().position(|(group, _)| *group == &*kind.group).unwrap_or_else(|| {
            groups.push((&kind.group, Vec::new()));
            groups.len() - 1
        });
        if !groups[at].1.contains(&&*kind.version) {
            groups[at].1.push(&kind.version);
        }
    }
    groups
}

/// `/api`: `APIVersions`. The server's addresses are the caller's to fill in.
pub fn api_versions(catalogue: &Catalogue) -> Value {
    let versions = groups(catalogue).into_iter().find(|(group, _)| group.is_empty()).map(|(_, versions)| versions);
    json!({"kind": "APIVersions", "versions": versions.unwrap_or_default(), "serverAddressByClientCIDRs": []})
}

fn group_entry(group: &str, versions: &[&str]) -> Map<String, Value> {
    let entry = |version: &&str| json!({"groupVersion": join(group, version), "version": version});
    let mut fields = Map::new();
    fields.insert("name".to_owned(), Value::from(group));
    fields.insert("versions".to_owned(), versions.iter().map(entry).collect());
    fields.insert("preferredVersion".to_owned(), versions.first().map(entry).unwrap_or_default());
    fields
}

/// `/apis`: `APIGroupList`.
pub fn api_group_list(catalogue: &Catalogue) -> Value {
    let groups: Vec<Value> = groups(catalogue)
        .into_iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, versions)| Value::Object(group_entry(group, &versions)))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`: `APIGroup`.
pub fn api_group(catalogue: &Catalogue, group: &str) -> Option<Value> {
    let (group, versions) = groups(catalogue).into_iter().find(|(name, _)| *name == group && !name.is_empty())?;
    let mut fields = group_entry(group, &versions);
    fields.insert("kind".to_owned(), Value::from("APIGroup"));
    fields.insert("apiVersion".to_owned(), Value::from("v1"));
    Some(Value::Object(fields))
}

/// A hash of the version in which a resource is stored: clients notice by it that the storage has moved on.
pub fn storage_version_hash(kind: &Kind) -> Option<String> {
    if !kind.stored {
        return None;
    }
    let (group, version) = kind.stored_as();
    let digest = sha2::Sha256::digest(format!("{group}/{version}/{}", kind.kind));
    Some(base64::engine::general_purpose::STANDARD.encode(&digest[..8]))
}

fn verbs(verbs: &[Verb]) -> Value {
    verbs.iter().map(|verb| Value::from(verb.as_str())).collect()
}

fn strings(list: &[Box<str>]) -> Value {
    list.iter().map(|text| Value::from(&**text)).collect()
}

fn in_group_version<'a>(catalogue: &'a Catalogue, group_version: &str) -> Vec<&'a Kind> {
    let (group, version) = group_version.rsplit_once('/').unwrap_or(("", group_version));
    let mut kinds: Vec<&Kind> = catalogue
        .kinds()
        .iter()
        .map(|kind| &**kind)
        .filter(|kind| &*kind.group == group && &*kind.version == version && !kind.verbs.is_empty())
        .collect();
    kinds.sort_by(|a, b| a.plural.cmp(&b.plural));
    kinds
}

fn resource_entry(kind: &Kind) -> Value {
    let mut entry = json!({
        "name": &*kind.plural,
        "singularName": &*kind.singular,
        "namespaced": kind.namespaced,
        "kind": &*kind.kind,
        "verbs": verbs(&kind.verbs),
    });
    if !kind.short_names.is_empty() {
        entry["shortNames"] = strings(&kind.short_names);
    }
    if !kind.categories.is_empty() {
        entry["categories"] = strings(&kind.categories);
    }
    if let Some(hash) = storage_version_hash(kind) {
        entry["storageVersionHash"] = Value::from(hash);
    }
    entry
}

fn subresource_entry(kind: &Kind, sub: &Subresource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", kind.plural, sub.name),
        "singularName": "",
        "namespaced": kind.namespaced,
        "kind": &*sub.kind,
        "verbs": verbs(&sub.verbs),
    });
    if sub.group != kind.group || sub.version != kind.version {
        entry["group"] = Value::from(&*sub.group);
        entry["version"] = Value::from(&*sub.version);
    }
    entry
}

/// `/api/v1` and `/apis/<group>/<version>`: `APIResourceList`; `group_version` is `v1` or `apps/v1`.
pub fn api_resource_list(catalogue: &Catalogue, group_version: &str) -> Option<Value> {
    let kinds = in_group_version(catalogue, group_version);
    if kinds.is_empty() {
        return None;
    }
    let mut resources = Vec::new();
    for kind in kinds {
        resources.push(resource_entry(kind));
        resources.extend(kind.subresources.iter().map(|sub| subresource_entry(kind, sub)));
    }
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": resources,
    }))
}

fn discovered(kind: &Kind) -> Value {
    // Group and version are named only where they are not those of the list, as in the legacy documents.
    let own = json!({"group": "", "version": "", "kind": &*kind.kind});
    let subresources: Vec<Value> = kind
        .subresources
        .iter()
        .map(|sub| {
            let foreign = sub.group != kind.group || sub.version != kind.version;
            let (group, version) = if foreign { (&*sub.group, &*sub.version) } else { ("", "") };
            json!({
                "subresource": &*sub.name,
                "responseKind": {"group": group, "version": version, "kind": &*sub.kind},
                "verbs": verbs(&sub.verbs),
            })
        })
        .collect();
    let mut entry = json!({
        "resource": &*kind.plural,
        "responseKind": own,
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": &*kind.singular,
        "verbs": verbs(&kind.verbs),
    });
    if !kind.short_names.is_empty() {
        entry["shortNames"] = strings(&kind.short_names);
    }
    if !kind.categories.is_empty() {
        entry["categories"] = strings(&kind.categories);
    }
    if !subresources.is_empty() {
        entry["subresources"] = Value::Array(subresources);
    }
    entry
}

/// `/api` (`core`) or `/apis` as `APIGroupDiscoveryList` of `apidiscovery.k8s.io/v2`.
pub fn aggregated_v2(catalogue: &Catalogue, core: bool) -> Value {
    let items: Vec<Value> = groups(catalogue)
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .into_iter()
                .map(|version| {
                    let kinds = in_group_version(catalogue, &join(group, version));
                    let resources: Vec<Value> = kinds.into_iter().map(discovered).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = if core { json!({}) } else { json!({"name": group}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storage_hashes_are_upstreams() {
        let catalogue = Catalogue::builtin();
        let check = |api_version: &str, kind: &str, expected: &str| {
            let kind = catalogue.by_kind(api_version, kind).expect("built in");
            assert_eq!(storage_version_hash(kind).as_deref(), Some(expected), "{}", kind.kind);
        };
        // As any cluster's `kubectl get --raw /api/v1` shows them.
        check("v1", "Pod", "xPOwRZ+Yhw8=");
        check("v1", "ConfigMap", "qFsyl6wFWjQ=");
        check("apps/v1", "Deployment", "8aSe+NMegvE=");
    }

    #[test]
    fn lists_resources() {
        let catalogue = Catalogue::builtin();
        let core = api_resource_list(&catalogue, "v1").expect("core");
        let named = |name: &str| {
            let resources = core["resources"].as_array().expect("a list");
            resources.iter().find(|entry| entry["name"] == name).unwrap_or_else(|| panic!("{name}")).clone()
        };
        assert_eq!(named("pods")["shortNames"], json!(["po"]));
        assert_eq!(named("pods/eviction")["group"], "policy");
        assert_eq!(named("namespaces")["namespaced"], false);
        assert!(named("bindings").get("storageVersionHash").is_none());
        assert!(api_resource_list(&catalogue, "apps/v2").is_none());
        assert_eq!(api_group(&catalogue, "autoscaling").expect("a group")["preferredVersion"]["version"], "v2");
        assert!(api_group(&catalogue, "").is_none());
        assert_eq!(api_versions(&catalogue)["versions"], json!(["v1"]));
    }

    #[test]
    fn aggregates() {
        let catalogue = Catalogue::builtin();
        let core = aggregated_v2(&catalogue, true);
        assert_eq!(core["items"].as_array().map(Vec::len), Some(1));
        let groups = aggregated_v2(&catalogue, false);
        let apps = groups["items"].as_array().expect("a list").iter().find(|g| g["metadata"]["name"] == "apps");
        let resources = apps.expect("apps")["versions"][0]["resources"].as_array().expect("a list");
        let deployments = resources.iter().find(|entry| entry["resource"] == "deployments").expect("deployments");
        assert_eq!(deployments["subresources"][0]["responseKind"]["group"], "autoscaling");
        assert_eq!(deployments["scope"], "Namespaced");
    }
}
