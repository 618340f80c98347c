//! Tells the API server what became of a pod: a patch with only what changed, and the final delete.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Map, Value, json};

use crate::pod;

/// The strategic merge patch from one status to another, `None` when nothing differs. Pure.
pub fn patch(uid: &str, old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let as_map = |status: &PodStatus| match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    };
    let (old, new) = (as_map(old), as_map(new));
    let mut changes = Map::new();
    for (key, value) in &new {
        if key == "conditions" {
            let changed = changed_conditions(old.get(key), value);
            if !changed.is_empty() {
                changes.insert(key.clone(), Value::Array(changed));
            }
        } else if matches!(key.as_str(), "podIPs" | "hostIPs") && old.get(key) != Some(value) {
            // These lists merge by address: what is to go has to be named.
            let mut list: Vec<Value> = value.as_array().cloned().unwrap_or_default();
            let gone =
                old.get(key).and_then(Value::as_array).into_iter().flatten().filter(|entry| !list.contains(entry));
            let gone: Vec<Value> = gone.map(|entry| json!({"ip": entry["ip"], "$patch": "delete"})).collect();
            list.extend(gone);
            changes.insert(key.clone(), Value::Array(list));
        } else if old.get(key) != Some(value) {
            changes.insert(key.clone(), value.clone());
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        changes.insert(key.clone(), Value::Null);
    }
    (!changes.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": changes}))
}

fn changed_conditions(old: Option<&Value>, new: &Value) -> Vec<Value> {
    let old = old.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut changed = Vec::new();
    for condition in new.as_array().into_iter().flatten() {
        let before = old.iter().find(|before| before["type"] == condition["type"]);
        if before == Some(condition) {
            continue;
        }
        let mut condition = condition.clone();
        if let (Some(Value::Object(before)), Value::Object(fields)) = (before, &mut condition) {
            for key in before.keys() {
                // A field that merging would keep has to be taken away by name.
                fields.entry(key.clone()).or_insert(Value::Null);
            }
        }
        changed.push(condition);
    }
    // Conditions merge by type: one that is no more has to be taken away by name.
    let gone = old
        .iter()
        .filter(|before| !new.as_array().into_iter().flatten().any(|condition| condition["type"] == before["type"]));
    changed.extend(gone.map(|before| json!({"type": before["type"], "$patch": "delete"})));
    changed
}

/// How a report to the API server went.
#[derive(Debug)]
pub enum Told {
    /// The server has it; the pod as it is there now.
    Written(Box<Pod>),
    /// The pod (or this incarnation of it) is no longer there.
    Gone,
    /// Not now; try again.
    Failed,
}

/// Writes a status patch.
pub async fn write_status(client: &kube::Client, owner: &Pod, patch: &Value) -> Told {
    let api: Api<Pod> = Api::namespaced(client.clone(), pod::namespace(owner));
    match api.patch_status(pod::name(owner), &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(pod) => Told::Written(Box::new(pod)),
        Err(kube::Error::Api(status)) if status.code == 404 => Told::Gone,
        // The uid in the patch is of an earlier pod of this name.
        Err(kube::Error::Api(status)) if status.code == 409 => Told::Gone,
        Err(error) => {
            tracing::warn!(
                pod = pod::full_name(owner),
                error = &error as &dyn std::error::Error,
                "a pod's status was not written, trying again"
            );
            Told::Failed
        }
    }
}

/// The final delete: no grace, and only this incarnation.
pub async fn delete(client: &kube::Client, owner: &Pod) -> Told {
    let api: Api<Pod> = Api::namespaced(client.clone(), pod::namespace(owner));
    let parameters = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: owner.metadata.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    match api.delete(pod::name(owner), &parameters).await {
        Ok(_) => Told::Gone,
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Told::Gone,
        Err(error) => {
            tracing::warn!(
                pod = pod::full_name(owner),
                error = &error as &dyn std::error::Error,
                "an ended pod was not deleted, trying again"
            );
            Told::Failed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_hold_only_what_changed() {
        let check = |old: Value, new: Value, expected: Value| {
            let (old, new): (PodStatus, PodStatus) =
                (serde_json::from_value(old).expect("a status"), serde_json::from_value(new).expect("a status"));
            let made = patch("u", &old, &new).map_or(Value::Null, |patch| patch["status"].clone());
            assert_eq!(made, expected);
        };
        check(json!({"phase": "Running"}), json!({"phase": "Running"}), Value::Null);
        check(
            json!({"phase": "Pending", "podIP": "1"}),
            json!({"phase": "Running", "podIP": "1"}),
            json!({"phase": "Running"}),
        );
        check(json!({"reason": "x", "phase": "a"}), json!({"phase": "a"}), json!({"reason": null}));
        check(
            json!({"conditions": [{"type": "Ready", "status": "False", "reason": "r"}, {"type": "x", "status": "True"}]}),
            json!({"conditions": [{"type": "Ready", "status": "True"}, {"type": "x", "status": "True"}]}),
            json!({"conditions": [{"type": "Ready", "status": "True", "reason": null}]}),
        );
        check(
            json!({"conditions": [{"type": "PodResizePending", "status": "True"}, {"type": "x", "status": "True"}]}),
            json!({"conditions": [{"type": "x", "status": "True"}]}),
            json!({"conditions": [{"type": "PodResizePending", "$patch": "delete"}]}),
        );
        check(
            json!({"podIPs": [{"ip": "1"}]}),
            json!({"podIPs": [{"ip": "2"}]}),
            json!({"podIPs": [{"ip": "2"}, {"ip": "1", "$patch": "delete"}]}),
        );
    }
}
