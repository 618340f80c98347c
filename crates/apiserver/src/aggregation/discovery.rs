//! What other servers serve, shown in discovery beside this server's own kinds.

use std::sync::Arc;

use kobune_kinds::openapi;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{Aggregation, Registry, Service};
use crate::compress;

/// What a server said of itself.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Learned {
    /// The `resources` of its `APIGroupDiscovery`, made of its `APIResourceList`.
    pub(super) resources: Vec<Value>,
    /// Its entry in `/openapi/v3`, when it has one.
    pub(super) open_api: Option<Value>,
    /// What it adds to `/openapi/v2`.
    pub(super) open_api_v2: Option<Arc<OpenApiV2>>,
}

/// The part of another server's `/openapi/v2` that is about an APIService. It is asked for seldom and kept compressed.
#[derive(Debug, PartialEq)]
pub(crate) struct OpenApiV2 {
    /// The tag of the whole document; empty when the server gives none.
    pub(super) tag: String,
    /// The part, nothing when the document says nothing about the APIService.
    compressed: Vec<u8>,
    /// What it is known by.
    fingerprint: [u8; 32],
}

impl OpenApiV2 {
    /// The part of a document that is about a group and version.
    pub(super) fn of(document: &[u8], tag: String, group: &str, version: &str) -> Result<Self, String> {
        let document: Value = serde_json::from_slice(document).map_err(|error| error.to_string())?;
        let part = openapi::merge::part(&document, group, version).map(|part| part.to_string()).unwrap_or_default();
        let compressed = compress::whole(part.as_bytes()).map_err(|error| error.to_string())?;
        Ok(Self { tag, compressed, fingerprint: Sha256::digest(&part).into() })
    }

    fn part(&self) -> Option<Value> {
        let bytes = match compress::expanded(&self.compressed) {
            Ok(bytes) if bytes.is_empty() => return None,
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!(%error, "the kept document of an aggregated server is damaged");
                return None;
            }
        };
        serde_json::from_slice(&bytes).ok()
    }
}

/// What all servers add to `/openapi/v2`, those of the highest priority first.
pub(crate) struct AddedV2(Vec<Arc<OpenApiV2>>);

impl AddedV2 {
    /// What is known of the servers of all APIServices that there are.
    pub(crate) fn of(registry: &Registry, aggregation: &Aggregation) -> Self {
        let learned = registry.remotes().into_iter().filter_map(|service| aggregation.learned(&service.name));
        Self(learned.filter_map(|learned| learned.open_api_v2.clone()).collect())
    }

    /// Something that is another when anything of it is another.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        self.0.iter().for_each(|one| digest.update(one.fingerprint));
        digest.finalize().into()
    }

    /// Adds everything to this server's own document.
    pub(crate) fn join(&self, document: &mut Value) {
        self.0.iter().filter_map(|one| one.part()).for_each(|part| openapi::merge::join(document, part));
    }
}

/// The resources of an `APIResourceList` as aggregated discovery lists them: subresources below their resource.
pub(super) fn resources(list: &Value, group: &str, version: &str) -> Vec<Value> {
    let mut found: Vec<Value> = Vec::new();
    let of = |resource: &Value, field: &str, or: &str| match resource[field].as_str() {
        None | Some("") => or.to_owned(),
        Some(text) => text.to_owned(),
    };
    for resource in list["resources"].as_array().into_iter().flatten() {
        let name = resource["name"].as_str().unwrap_or_default();
        let response = json!({
            "group": of(resource, "group", group), "version": of(resource, "version", version), "kind": resource["kind"],
        });
        if let Some((parent, sub)) = name.split_once('/') {
            let entry = json!({"subresource": sub, "responseKind": response, "verbs": resource["verbs"]});
            let Some(parent) = found.iter_mut().find(|known| known["resource"] == parent) else { continue };
            if !parent["subresources"].is_array() {
                parent["subresources"] = json!([]);
            }
            if let Some(subs) = parent["subresources"].as_array_mut() {
                subs.push(entry);
            }
            continue;
        }
        let scope = if resource["namespaced"] == true { "Namespaced" } else { "Cluster" };
        let mut entry = json!({
            "resource": name, "responseKind": response, "scope": scope,
            "singularResource": of(resource, "singularName", ""), "verbs": resource["verbs"],
        });
        for field in ["shortNames", "categories"] {
            if resource[field].is_array() {
                entry[field] = resource[field].clone();
            }
        }
        found.push(entry);
    }
    found
}

/// The place of a group among others: before the first of lower priority, or of the same and a later name.
fn place(groups: &[Value], name: impl Fn(&Value) -> String, registry: &Registry, group: &str) -> usize {
    let key = |group: &str| (-registry.priority(group), group.to_owned());
    let wanted = key(group);
    groups.iter().position(|known| key(&name(known)) > wanted).unwrap_or(groups.len())
}

fn version_entry(service: &Service) -> Value {
    json!({"groupVersion": format!("{}/{}", service.group, service.version), "version": service.version})
}

fn group_of(service: &Service) -> Value {
    json!({
        "name": service.group, "versions": [version_entry(service)], "preferredVersion": version_entry(service),
    })
}

fn add_version(group: &mut Value, service: &Service) {
    let known = |versions: &Vec<Value>| versions.iter().any(|version| version["version"] == service.version.as_str());
    if let Some(versions) = group["versions"].as_array_mut()
        && !known(versions)
    {
        versions.push(version_entry(service));
    }
}

/// Adds the foreign groups to an `APIGroupList`.
pub(crate) fn add_groups(list: &mut Value, registry: &Registry) {
    let Some(groups) = list["groups"].as_array_mut() else { return };
    for service in registry.remotes() {
        match groups.iter_mut().find(|group| group["name"] == service.group.as_str()) {
            Some(group) => add_version(group, service),
            None => {
                let name = |group: &Value| group["name"].as_str().unwrap_or_default().to_owned();
                groups.insert(place(groups, name, registry, &service.group), group_of(service));
            }
        }
    }
}

/// The `APIGroup` of a group, of which this server knows what is `own`.
pub(crate) fn group(own: Option<Value>, group: &str, registry: &Registry) -> Option<Value> {
    let mut found = own;
    for service in registry.remotes().into_iter().filter(|service| service.group == group) {
        match &mut found {
            Some(group) => add_version(group, service),
            None => {
                let mut fresh = group_of(service);
                fresh["kind"] = "APIGroup".into();
                fresh["apiVersion"] = "v1".into();
                found = Some(fresh);
            }
        }
    }
    found
}

/// Adds the foreign groups to an `APIGroupDiscoveryList`. What a server once said stays when it is gone, marked stale.
pub(crate) fn add_aggregated(list: &mut Value, registry: &Registry, aggregation: &Aggregation) {
    let Some(items) = list["items"].as_array_mut() else { return };
    for service in registry.remotes() {
        let learned = aggregation.learned(&service.name);
        let fresh = service.available && learned.is_some();
        let entry = json!({
            "version": service.version,
            "resources": learned.map(|learned| learned.resources.clone()).unwrap_or_default(),
            "freshness": if fresh { "Current" } else { "Stale" },
        });
        match items.iter_mut().find(|item| item["metadata"]["name"] == service.group.as_str()) {
            Some(item) => {
                if let Some(versions) = item["versions"].as_array_mut() {
                    versions.retain(|version| version["version"] != service.version.as_str());
                    versions.push(entry);
                }
            }
            None => {
                let name = |item: &Value| item["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                let at = place(items, name, registry, &service.group);
                items.insert(at, json!({"metadata": {"name": service.group}, "versions": [entry]}));
            }
        }
    }
}

/// Adds what other servers publish to the index of `/openapi/v3`.
pub(crate) fn add_open_api(index: &mut Value, registry: &Registry, aggregation: &Aggregation) {
    for service in registry.remotes() {
        if let Some(entry) = aggregation.learned(&service.name).and_then(|learned| learned.open_api.clone()) {
            index["paths"][format!("apis/{}/{}", service.group, service.version)] = entry;
        }
    }
}

/// The entry of a group and version in another server's `/openapi/v3`.
pub(super) fn open_api_entry(index: &Value, group: &str, version: &str) -> Option<Value> {
    let entry = index["paths"].as_object()?.get(&format!("apis/{group}/{version}"))?;
    let address = entry["serverRelativeURL"].as_str()?;
    // It is fetched from here, so it must lead to what is passed on to that server.
    let ours = format!("/openapi/v3/apis/{group}/{version}");
    let rest = address.strip_prefix(&ours)?;
    (rest.is_empty() || rest.starts_with('?')).then(|| {
        let mut kept = Map::new();
        kept.insert("serverRelativeURL".into(), address.into());
        Value::Object(kept)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(group: &str, version: &str, priority: i64) -> Service {
        Service::of(&json!({
            "metadata": {"name": format!("{version}.{group}")},
            "spec": {
                "group": group, "version": version, "groupPriorityMinimum": priority, "versionPriority": 10,
                "service": {"namespace": "a", "name": "b"},
            },
        }))
    }

    #[test]
    fn groups_are_merged_by_priority() {
        let local = Service::of(
            &json!({"metadata": {"name": "v1.apps"}, "spec": {"group": "apps", "version": "v1", "groupPriorityMinimum": 17800}}),
        );
        let registry = Registry::of(vec![
            local,
            service("low.example", "v1", 100),
            service("high.example", "v1", 20000),
            service("apps", "v9", 100),
        ]);
        let mut list = json!({"groups": [{"name": "apps", "versions": [{"version": "v1"}]}]});
        add_groups(&mut list, &registry);
        let names: Vec<&Value> =
            list["groups"].as_array().expect("groups").iter().map(|group| &group["name"]).collect();
        assert_eq!(names, ["high.example", "apps", "low.example"]);
        assert_eq!(list["groups"][1]["versions"][1]["groupVersion"], "apps/v9");
        let found = group(None, "low.example", &registry).expect("a group");
        assert_eq!((&found["kind"], &found["preferredVersion"]["version"]), (&"APIGroup".into(), &"v1".into()));
        assert_eq!(group(None, "nobody.example", &registry), None);
    }

    #[test]
    fn lists_become_aggregated() {
        let list = json!({"resources": [
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get"], "shortNames": ["f"]},
            {"name": "flunders/scale", "namespaced": true, "group": "autoscaling", "version": "v1", "kind": "Scale", "verbs": ["get"]},
            {"name": "orphans/status", "kind": "X", "verbs": []},
        ]});
        assert_eq!(
            resources(&list, "wardle.example.com", "v1alpha1"),
            [json!({
                "resource": "flunders", "singularResource": "flunder", "scope": "Namespaced", "verbs": ["get"],
                "responseKind": {"group": "wardle.example.com", "version": "v1alpha1", "kind": "Flunder"},
                "shortNames": ["f"],
                "subresources": [{
                    "subresource": "scale", "verbs": ["get"],
                    "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"},
                }],
            })]
        );
    }

    #[test]
    fn documents_lead_to_their_server() {
        let check = |address: &str, expected: bool| {
            let index = json!({"paths": {"apis/g/v1": {"serverRelativeURL": address}}});
            assert_eq!(open_api_entry(&index, "g", "v1").is_some(), expected, "{address}");
        };
        check("/openapi/v3/apis/g/v1?hash=1", true);
        check("/openapi/v3/apis/g/v1", true);
        check("/openapi/v3/apis/apps/v1?hash=1", false);
        check("/openapi/v3/apis/g/v1/../x", false);
        check("https://elsewhere.example/", false);
    }
}
