//! What kinds the API server offers, for controllers that work on all of them.

use std::collections::HashSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::core::ApiResource;

use crate::queue::{Doing, PassError, is_not_found};

/// One kind that can be listed and deleted.
#[derive(Clone, Debug, PartialEq)]
pub struct Kind {
    /// How it is addressed.
    pub resource: ApiResource,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// What can be done with it.
    pub verbs: Vec<String>,
}

impl Kind {
    /// Whether this can be done with it.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }

    /// The path of its objects in a namespace; `None` for all.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let ApiResource { group, version, plural, .. } = &self.resource;
        let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        match namespace {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{plural}"),
            None => format!("{root}/{plural}"),
        }
    }
}

/// What discovery found.
#[derive(Debug, Default)]
pub struct Discovered {
    /// The kinds.
    pub kinds: Vec<Kind>,
    /// Groups with their versions whose kinds are not known, and why: usually those of an extension server that is away.
    pub failed: Vec<(String, kube::Error)>,
}

impl Discovered {
    /// Whether the kinds of a group may be more than those that were found.
    pub fn misses(&self, group: &str) -> bool {
        self.failed.iter().any(|(version, _)| version.split_once('/').map_or("", |(group, _)| group) == group)
    }
}

/// All kinds that can be listed and deleted, each in the version its group prefers. Events are the same in two groups and are
/// taken once. A group that does not answer keeps nobody from the others.
pub async fn deletable(client: &kube::Client) -> Result<Discovered, PassError> {
    let core = client.list_core_api_resources("v1").await.doing("discovering the core kinds")?;
    let mut found = Discovered { kinds: kinds_of("", "v1", &core), failed: Vec::new() };
    for group in client.list_api_groups().await.doing("discovering the groups")?.groups {
        let preferred = group.preferred_version.iter();
        let mut seen = HashSet::new();
        for version in preferred.chain(&group.versions) {
            if !seen.insert(version.version.clone()) {
                continue;
            }
            let list = match client.list_api_group_resources(&version.group_version).await {
                Ok(list) => list,
                // It has gone since the groups were listed.
                Err(error) if is_not_found(&error) => continue,
                Err(error) => {
                    found.failed.push((version.group_version.clone(), error));
                    continue;
                }
            };
            for kind in kinds_of(&group.name, &version.version, &list) {
                let known = |other: &Kind| {
                    other.resource.plural == kind.resource.plural && other.resource.group == kind.resource.group
                };
                let events_again = group.name == "events.k8s.io" && kind.resource.plural == "events";
                if !events_again && !found.kinds.iter().any(known) {
                    found.kinds.push(kind);
                }
            }
        }
    }
    Ok(found)
}

fn kinds_of(group: &str, version: &str, list: &APIResourceList) -> Vec<Kind> {
    let each = list.resources.iter().filter(|resource| !resource.name.contains('/')).map(|resource| Kind {
        resource: ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") },
            kind: resource.kind.clone(),
            plural: resource.name.clone(),
        },
        namespaced: resource.namespaced,
        verbs: resource.verbs.clone(),
    });
    each.filter(|kind| kind.can("list") && kind.can("delete")).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    pub(crate) fn kind(group: &str, kind: &str, plural: &str, namespaced: bool) -> Kind {
        let list = json!({"groupVersion": "x", "resources": [{"name": plural, "kind": kind, "namespaced": namespaced, "singularName": "",
            "verbs": ["list", "delete", "watch"]}, {"name": format!("{plural}/status"), "kind": kind, "namespaced": namespaced,
            "singularName": "", "verbs": ["get", "list", "delete"]}, {"name": "reviews", "kind": "Review", "namespaced": false,
            "singularName": "", "verbs": ["create"]}]});
        let mut kinds = kinds_of(group, "v1", &serde_json::from_value(list).expect("a list"));
        assert_eq!(kinds.len(), 1, "subresources and kinds that cannot be deleted do not count");
        kinds.remove(0)
    }

    #[test]
    fn paths() {
        let check = |group: &str, namespace: Option<&str>, expected: &str| {
            assert_eq!(kind(group, "Thing", "things", true).path(namespace), expected);
        };
        check("", None, "/api/v1/things");
        check("", Some("a"), "/api/v1/namespaces/a/things");
        check("apps", Some("a"), "/apis/apps/v1/namespaces/a/things");
    }
}
