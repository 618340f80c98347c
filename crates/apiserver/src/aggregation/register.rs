//! An APIService for every group and version that this server itself serves.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::future::try_join_all;
use kobune_kinds::{Catalogue, discovery};
use kobune_store::{At, CommitError, Durability, Key, Op, Range, Record, Store, StoreError, Write};
use serde_json::{Value, json};

use super::{
    COLLECTION, Guest,
    guest::{GUEST, name_of},
    service::condition,
};
use crate::{call::now_text, encode};

/// The label that says who looks after an APIService.
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// Custom resources.
pub(super) const DEFINITIONS: &str = "apiextensions.k8s.io/customresourcedefinitions";

/// The priorities of custom resources' groups and versions.
const CUSTOM: (i64, i64) = (1000, 100);

/// The priorities of the groups, and of their versions where upstream's are not the usual 15.
const PRIORITIES: [(&str, i64); 20] = [
    ("", 18000),
    ("apps", 17800),
    ("events.k8s.io", 17750),
    ("authentication.k8s.io", 17700),
    ("authorization.k8s.io", 17600),
    ("autoscaling", 17500),
    ("batch", 17400),
    ("certificates.k8s.io", 17300),
    ("networking.k8s.io", 17200),
    ("policy", 17100),
    ("rbac.authorization.k8s.io", 17000),
    ("storage.k8s.io", 16800),
    ("apiextensions.k8s.io", 16700),
    ("admissionregistration.k8s.io", 16700),
    ("scheduling.k8s.io", 16600),
    ("coordination.k8s.io", 16500),
    ("node.k8s.io", 16300),
    ("discovery.k8s.io", 16200),
    ("flowcontrol.apiserver.k8s.io", 16100),
    ("resource.k8s.io", 15900),
];

/// Why the APIServices could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub(super) enum RegisterError {
    #[error("cannot read APIServices and custom resources")]
    Read(#[from] StoreError),
    #[error("cannot write APIService {name}")]
    Write { name: String, source: CommitError },
}

/// What should be there.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Wanted {
    group: String,
    version: String,
    priorities: (i64, i64),
    managed: &'static str,
    guest: bool,
}

/// The groups and versions of guests, with metrics-server's priorities.
fn guests(guests: &[Arc<dyn Guest>]) -> BTreeMap<String, Wanted> {
    let wanted = |guest: &Arc<dyn Guest>| Wanted {
        group: guest.group().to_owned(),
        version: guest.version().to_owned(),
        priorities: (100, 100),
        managed: "onstart",
        guest: true,
    };
    guests.iter().map(|guest| (name_of(&**guest), wanted(guest))).collect()
}

/// The groups and versions that are built in.
fn builtin(catalogue: &Catalogue) -> BTreeMap<String, Wanted> {
    let mut wanted = BTreeMap::new();
    for (group, versions) in discovery::groups(catalogue) {
        // The group of APIServices itself is always there and has none.
        let Some((_, priority)) = PRIORITIES.iter().find(|(known, _)| *known == group) else { continue };
        for version in versions {
            let version_priority = match (group, version) {
                ("", _) => 1,
                ("autoscaling", "v2") => 30,
                ("flowcontrol.apiserver.k8s.io", "v1") => 21,
                ("resource.k8s.io", "v1") => 20,
                (_, "v1") => 15,
                _ => 9,
            };
            let one = Wanted {
                group: group.to_owned(),
                version: version.to_owned(),
                priorities: (*priority, version_priority),
                managed: "onstart",
                guest: false,
            };
            wanted.insert(format!("{version}.{group}"), one);
        }
    }
    wanted
}

/// The groups and versions of custom resources.
fn custom(definitions: &[Record]) -> BTreeMap<String, Wanted> {
    let mut wanted = BTreeMap::new();
    for record in definitions {
        let Ok(definition) = serde_json::from_slice::<Value>(&record.value) else {
            tracing::error!(key = %record.key, "a stored custom resource definition is unreadable");
            continue;
        };
        let established = definition["status"]["conditions"].as_array().is_some_and(|conditions| {
            conditions.iter().any(|condition| condition["type"] == "Established" && condition["status"] == "True")
        });
        let group = definition["spec"]["group"].as_str().unwrap_or_default();
        for version in definition["spec"]["versions"].as_array().into_iter().flatten() {
            if established && version["served"] == true {
                let version = version["name"].as_str().unwrap_or_default();
                let one = Wanted {
                    group: group.to_owned(),
                    version: version.to_owned(),
                    priorities: CUSTOM,
                    managed: "true",
                    guest: false,
                };
                wanted.insert(format!("{version}.{group}"), one);
            }
        }
    }
    wanted
}

/// The condition of what this server serves itself.
fn local(old: Option<&Value>) -> Option<Value> {
    let is_set = old.and_then(condition).is_some_and(|condition| condition["status"] == "True");
    let fresh = json!({
        "type": "Available", "status": "True", "lastTransitionTime": now_text(), "reason": "Local",
        "message": "Local APIServices are always available",
    });
    (!is_set).then_some(fresh)
}

/// Writes what is missing, and removes what stood for custom resources that are gone. At start, built-in groups are
/// written too.
pub(super) async fn reconcile(
    store: &dyn Store,
    catalogue: &Catalogue,
    invited: &[Arc<dyn Guest>],
    at_start: bool,
) -> Result<(), RegisterError> {
    let Some(kind) = catalogue.by_resource("apiregistration.k8s.io", "v1", "apiservices") else { return Ok(()) };
    let definitions: Vec<Record> = store.list(&Range::all(DEFINITIONS), At::Latest).await?.iter().cloned().collect();
    let mut wanted = custom(&definitions);
    // Also when it is taken away later, as with a metrics server that is uninstalled.
    wanted.extend(guests(invited));
    let builtin = builtin(catalogue);
    if at_start {
        wanted.extend(builtin);
    }
    let present: Vec<Record> = store.list(&Range::all(COLLECTION), At::Latest).await?.iter().cloned().collect();
    let mut seen = BTreeSet::new();
    for record in &present {
        let name = &*record.key.name;
        seen.insert(name.to_owned());
        let Ok(mut object) = serde_json::from_slice::<Value>(&record.value) else { continue };
        let stale = object["metadata"]["labels"][MANAGED] == "true" && !wanted.contains_key(name);
        let op = if stale {
            Op::Delete { expected: record.revision, last: encode::draft(kind, &object) }
        } else if object["spec"]["service"].is_object() {
            continue;
        } else if let Some(fresh) = local(Some(&object)) {
            set_condition(&mut object, fresh);
            Op::Update { expected: record.revision, draft: encode::draft(kind, &object) }
        } else {
            continue;
        };
        write(store, record.key.clone(), op).await?;
    }
    // Written together, so that they share one batch of the store.
    let mut writes = Vec::new();
    for (name, one) in wanted.into_iter().filter(|(name, _)| !seen.contains(name)) {
        let mut object = json!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {
                "name": name, "labels": {MANAGED: one.managed}, "uid": uuid::Uuid::new_v4().to_string(),
                "creationTimestamp": now_text(),
            },
            "spec": {"version": one.version, "groupPriorityMinimum": one.priorities.0, "versionPriority": one.priorities.1},
            "status": {},
        });
        if !one.group.is_empty() {
            object["spec"]["group"] = one.group.into();
        }
        if one.guest {
            object["metadata"]["labels"][GUEST] = "true".into();
        }
        if let Some(fresh) = local(None) {
            set_condition(&mut object, fresh);
        }
        writes.push(write(store, Key::new(COLLECTION, "", &name), Op::Create(encode::draft(kind, &object))));
    }
    try_join_all(writes).await?;
    Ok(())
}

/// Puts a condition in the place of the one of its type; the others belong to others.
pub(super) fn set_condition(object: &mut Value, fresh: Value) {
    if !object["status"].is_object() {
        object["status"] = json!({});
    }
    if !object["status"]["conditions"].is_array() {
        object["status"]["conditions"] = json!([]);
    }
    let Some(conditions) = object["status"]["conditions"].as_array_mut() else { return };
    match conditions.iter_mut().find(|condition| condition["type"] == fresh["type"]) {
        Some(found) => *found = fresh,
        None => conditions.push(fresh),
    }
}

async fn write(store: &dyn Store, key: Key, op: Op) -> Result<(), RegisterError> {
    let name = key.name.to_string();
    match store.commit(Write { key, op, durability: Durability::Synced }).await {
        // Somebody else was faster; the event of that brings us back here.
        Ok(_) | Err(CommitError::Conflict { .. } | CommitError::Exists(_)) => Ok(()),
        Err(source) => Err(RegisterError::Write { name, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_group_has_its_place() {
        let catalogue = Catalogue::builtin();
        let wanted = builtin(&catalogue);
        assert_eq!(wanted["v1."].priorities, (18000, 1));
        assert_eq!(wanted["v2.autoscaling"].priorities, (17500, 30));
        for (group, versions) in discovery::groups(&catalogue) {
            for version in versions {
                let expected = group != "apiregistration.k8s.io";
                assert_eq!(wanted.contains_key(&format!("{version}.{group}")), expected, "{group}/{version}");
            }
        }
    }

    #[test]
    fn conditions_of_others_stay() {
        let mut object =
            json!({"status": {"conditions": [{"type": "StatusUpdated"}, {"type": "Available", "status": "False"}]}});
        let fresh = local(Some(&object)).expect("it is not available yet");
        set_condition(&mut object, fresh);
        assert_eq!(object["status"]["conditions"][0]["type"], "StatusUpdated");
        assert_eq!(object["status"]["conditions"][1]["reason"], "Local");
        assert_eq!(local(Some(&object)), None);
    }
}
