//! Taking objects over from who applied them before: kubectl's client-side apply, helm, Argo CD, Flux.
//!
//! The fields of the former managers become fields that `kobune` applied (as kubectl's own move to server-side apply does
//! it, `client-go/util/csaupgrade`). The next apply then removes those that the manifest does not have, and with them the
//! annotations and labels by which the former managers found their objects.

use http::Method;
use kube::Client;
use serde_json::{Value, json};

use crate::fields;
use crate::request::{self, RequestError};

/// How often something is tried that an object in motion keeps from being done.
pub const ATTEMPTS: usize = 5;

/// Names that people know, and the managers behind them.
const KNOWN: [(&str, &[&str]); 5] = [
    (
        "kubectl",
        &["kubectl-client-side-apply", "kubectl", "kubectl-create", "kubectl-edit", "kubectl-patch", "kubectl-replace"],
    ),
    ("helm", &["helm", "Helm"]),
    ("argocd", &["argocd-controller", "argocd-application-controller", "argocd"]),
    ("flux", &["kustomize-controller", "helm-controller"]),
    ("terraform", &["Terraform", "terraform-provider-kubernetes"]),
];

/// The managers that a `--take-over` means.
pub fn managers(names: &[String]) -> Vec<String> {
    let of = |name: &String| match KNOWN.iter().find(|(known, _)| known == name) {
        Some((_, managers)) => managers.iter().map(|&manager| manager.to_owned()).collect(),
        None => vec![name.clone()],
    };
    names.iter().flat_map(of).collect()
}

/// What to give `--take-over` for the owner of a field.
pub fn name_of(manager: &str) -> &str {
    KNOWN.iter().find(|(_, managers)| managers.contains(&manager)).map_or(manager, |(name, _)| name)
}

fn is_of(entry: &Value, managers: &[String]) -> bool {
    let subresource = entry["subresource"].as_str().unwrap_or_default();
    let manager = entry["manager"].as_str().unwrap_or_default();
    subresource.is_empty() && managers.iter().any(|known| known == manager)
}

/// Which of the managers hold fields of an object.
pub fn held(live: &Value, managers: &[String]) -> Vec<String> {
    let mut held: Vec<String> = fields::managed(live)
        .filter(|entry| is_of(entry, managers))
        .filter_map(|entry| entry["manager"].as_str().map(str::to_owned))
        .collect();
    held.sort();
    held.dedup();
    held
}

/// Managed fields in which everything that the former managers hold is what `manager` applied.
pub fn migrated(live: &Value, manager: &str, from: &[String]) -> Vec<Value> {
    let own = |entry: &Value| {
        entry["manager"] == manager
            && entry["operation"] == "Apply"
            && entry["subresource"].as_str().unwrap_or_default().is_empty()
    };
    let mut merged = json!({
        "manager": manager, "operation": "Apply", "apiVersion": live["apiVersion"], "fieldsType": "FieldsV1", "fieldsV1": {},
    });
    let mut rest = Vec::new();
    for entry in fields::managed(live) {
        if own(entry) || is_of(entry, from) {
            fields::unite(&mut merged["fieldsV1"], &entry["fieldsV1"]);
            if merged.get("time").is_none() && !entry["time"].is_null() {
                merged["time"] = entry["time"].clone();
            }
        } else {
            rest.push(entry.clone());
        }
    }
    rest.insert(0, merged);
    rest
}

/// Writes that. It changes nothing but who owns what.
pub async fn migrate(
    client: &Client,
    path: &str,
    live: &Value,
    manager: &str,
    from: &[String],
) -> Result<Value, RequestError> {
    let address = format!("{path}?fieldManager={}", request::query(manager));
    let mut live = live.clone();
    let mut attempts = ATTEMPTS;
    loop {
        let patch = json!([
            {"op": "replace", "path": "/metadata/resourceVersion", "value": live["metadata"]["resourceVersion"]},
            {"op": "replace", "path": "/metadata/managedFields", "value": migrated(&live, manager, from)},
        ]);
        match request::write(client, Method::PATCH, &address, request::JSON_PATCH, &patch).await {
            // Most often only its status has moved.
            Err(error) if error.is(409) && attempts > 1 => {
                attempts -= 1;
                live = request::get(client, path).await?.ok_or(error)?;
            }
            answer => return Ok(answer?.body),
        }
    }
}

/// What is left of an object once the fields are gone that only the former managers (or an earlier apply) held and that an
/// apply of the manifest, of which `result` came, does not have.
///
/// What the manifest has is read out of what the apply came to own: the manifest itself may leave out a part of a list item's key
/// that has a default, as a port's protocol.
pub fn without_left_behind(live: &Value, result: &Value, manager: &str, from: &[String]) -> Value {
    let former = migrated(live, manager, from);
    let others: Vec<&Value> = former.iter().skip(1).map(|entry| &entry["fieldsV1"]).collect();
    let mut after = result.clone();
    strip(&mut after, &former[0]["fieldsV1"], fields::applied_by(result, manager), &others);
    after
}

/// Removes from a value what `fields` has, except what was applied or somebody else holds.
fn strip(value: &mut Value, fields: &Value, applied: Option<&Value>, others: &[&Value]) {
    for (element, below) in fields.as_object().into_iter().flatten() {
        let theirs: Vec<&Value> = others.iter().filter_map(|other| other.get(element)).collect();
        let written = applied.and_then(|applied| applied.get(element));
        if let Some(name) = element.strip_prefix("f:") {
            let Some(object) = value.as_object_mut() else { return };
            match (object.get_mut(name), written.is_some() || !theirs.is_empty()) {
                (Some(inner), true) => strip(inner, below, written, &theirs),
                (Some(inner), false) => {
                    // A field that only holds others goes when nothing is left in it.
                    let is_member = below.as_object().is_some_and(|below| below.is_empty() || below.contains_key("."));
                    strip(inner, below, None, &theirs);
                    let is_empty = match inner {
                        Value::Object(map) => map.is_empty(),
                        Value::Array(list) => list.is_empty(),
                        _ => true,
                    };
                    if is_member || is_empty {
                        object.remove(name);
                    }
                }
                (None, _) => {}
            }
        } else if let Some(list) = value.as_array_mut() {
            let matches = |item: &Value| match element.split_once(':') {
                Some(("k", keys)) => serde_json::from_str::<Value>(keys).is_ok_and(|keys| {
                    keys.as_object().is_some_and(|keys| keys.iter().all(|(name, key)| item.get(name) == Some(key)))
                }),
                Some(("v", text)) => serde_json::from_str::<Value>(text).is_ok_and(|member| member == *item),
                _ => false,
            };
            let Some(index) = list.iter().position(matches) else { continue };
            if written.is_some() || !theirs.is_empty() {
                strip(&mut list[index], below, written, &theirs);
            } else {
                list.remove(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live() -> Value {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"annotations": {"last": "x", "kept": "y"}, "managedFields": [
                {"manager": "kubectl-client-side-apply", "operation": "Update", "time": "t",
                 "fieldsV1": {"f:metadata": {"f:annotations": {".": {}, "f:last": {}}}, "f:data": {".": {}, "f:a": {}, "f:b": {}}}},
                {"manager": "other", "operation": "Update", "fieldsV1": {"f:metadata": {"f:annotations": {"f:kept": {}}}}},
                {"manager": "status", "operation": "Update", "subresource": "status", "fieldsV1": {"f:status": {}}},
            ]},
            "data": {"a": "1", "b": "2"},
        })
    }

    #[test]
    fn owners_move() {
        let from = managers(&["kubectl".to_owned()]);
        assert_eq!(held(&live(), &from), ["kubectl-client-side-apply"]);
        let entries = migrated(&live(), "kobune", &from);
        let names: Vec<&str> = entries.iter().filter_map(|entry| entry["manager"].as_str()).collect();
        assert_eq!(names, ["kobune", "other", "status"]);
        assert_eq!(entries[0]["operation"], "Apply");
        assert_eq!(entries[0]["fieldsV1"]["f:data"], json!({".": {}, "f:a": {}, "f:b": {}}));
        assert_eq!(name_of("kubectl-client-side-apply"), "kubectl");
        assert_eq!(managers(&["mine".to_owned()]), ["mine"]);
    }

    #[test]
    fn what_is_left_behind_goes() {
        let from = managers(&["kubectl".to_owned()]);
        let mut result = live();
        result["data"]["a"] = "3".into();
        if let Some(entries) = result["metadata"]["managedFields"].as_array_mut() {
            entries.push(json!({"manager": "kobune", "operation": "Apply", "fieldsV1": {"f:data": {"f:a": {}}}}));
        }
        let after = without_left_behind(&live(), &result, "kobune", &from);
        assert_eq!(after["data"], json!({"a": "3"}));
        assert_eq!(after["metadata"]["annotations"], json!({"kept": "y"}));
    }

    #[test]
    fn items_stay_whose_keys_the_manifest_does_not_say_whole() {
        let ports = json!({"f:spec": {"f:ports": {r#"k:{"port":80,"protocol":"TCP"}"#: {".": {}, "f:port": {}},
            r#"k:{"port":80,"protocol":"UDP"}"#: {".": {}, "f:port": {}}}}});
        let applied = json!({"f:spec": {"f:ports": {r#"k:{"port":80,"protocol":"TCP"}"#: {".": {}, "f:port": {}}}}});
        let object = |entries: Value| {
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"managedFields": entries},
                "spec": {"ports": [{"port": 80, "protocol": "TCP"}, {"port": 80, "protocol": "UDP"}]}})
        };
        let helm = json!({"manager": "helm", "operation": "Apply", "fieldsV1": ports});
        let own = json!({"manager": "kobune", "operation": "Apply", "fieldsV1": applied});
        let after =
            without_left_behind(&object(json!([helm])), &object(json!([helm, own])), "kobune", &["helm".to_owned()]);
        assert_eq!(after["spec"]["ports"], json!([{"port": 80, "protocol": "TCP"}]));
    }
}
