//! What may change about a pod once it is there.

use serde_json::Value;

use super::super::{Errors, same};
use super::annotations::{APP_ARMOR, MIRROR};
use super::{container, metadata_and_spec};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, entries, list, size, text};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// A pod that is to replace `old`.
pub(in crate::validation) fn update(pod: &Value, old: &Value, errors: &mut Errors) {
    metadata_and_spec(pod, errors);
    annotations(pod, old, errors);
    let path = Path::new("spec");
    let (now, before) = (&pod["spec"], &old["spec"]);
    for field in ["containers", "initContainers"] {
        let path = path.child(field);
        if list(now, field).len() != list(before, field).len() {
            errors.push(FieldError::forbidden(path, "pod updates may not add or remove containers"));
            return;
        }
        for (index, one) in list(now, field).iter().enumerate() {
            let path = path.index(index);
            super::super::required(errors, &path, one, "image");
            container::trimmed_image(one, &path, errors);
        }
    }
    if deadline(now, before, &path.child("activeDeadlineSeconds"), errors) {
        return;
    }
    if !same(&now["tolerations"], &before["tolerations"]) {
        tolerations(now, before, &path.child("tolerations"), errors);
    }
    gates(now, before, &path.child("schedulingGates"), errors);
    if same(now, before) {
        return;
    }
    let rest = with_mutable_parts_of(now, before, &path, errors);
    if !same(&rest, before) {
        errors.push(FieldError::forbidden(
            path,
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
             `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
             `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        ));
    }
}

/// Annotations that say what a node has made of a pod stay as they are.
pub(super) fn annotations(pod: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("metadata");
    let path = path.child("annotations");
    let (now, before) = (&pod["metadata"]["annotations"], &old["metadata"]["annotations"]);
    for (key, value) in entries(&old["metadata"], "annotations") {
        if now[key] == *value {
            continue;
        }
        if key.starts_with(APP_ARMOR) {
            errors.push(FieldError::forbidden(path.key(key), "may not remove or update AppArmor annotations"));
        }
        if key == MIRROR {
            errors.push(FieldError::forbidden(path.key(key), "may not remove or update mirror pod annotation"));
        }
    }
    for (key, _) in entries(&pod["metadata"], "annotations").filter(|(key, _)| before[*key].is_null()) {
        if key.starts_with(APP_ARMOR) {
            errors.push(FieldError::forbidden(path.key(key), "may not add AppArmor annotations"));
        }
        if key == MIRROR {
            errors.push(FieldError::forbidden(path.key(key), "may not add mirror pod annotation"));
        }
    }
}

/// A deadline may come and may get closer. Says whether to stop.
fn deadline(now: &Value, before: &Value, path: &Path<'_>, errors: &mut Errors) -> bool {
    let (now, before) = (&now["activeDeadlineSeconds"], &before["activeDeadlineSeconds"]);
    match (now.as_i64(), before.as_i64()) {
        (Some(seconds), _) if !(0..=i64::from(i32::MAX)).contains(&seconds) => {
            let detail = name::inclusive_range(0, i64::from(i32::MAX));
            errors.push(FieldError::invalid(path, seconds, detail));
            true
        }
        (Some(seconds), Some(before)) if seconds > before => {
            errors.push(FieldError::invalid(path, seconds, "must be less than or equal to previous value"));
            true
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(path, Value::Null, detail));
            false
        }
        _ => false,
    }
}

fn tolerations(now: &Value, before: &Value, path: &Path<'_>, errors: &mut Errors) {
    let alike = |one: &Value, other: &Value| {
        ["key", "operator", "value", "effect"].iter().all(|field| text(one, field) == text(other, field))
    };
    let now = list(now, "tolerations");
    let kept = |old: &Value| now.iter().any(|other| alike(old, other));
    if !list(before, "tolerations").iter().all(kept) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden(path, detail));
    }
}

fn gates(now: &Value, before: &Value, path: &Path<'_>, errors: &mut Errors) {
    let before = list(before, "schedulingGates");
    for (index, gate) in list(now, "schedulingGates").iter().enumerate() {
        let gate = text(gate, "name");
        if !before.iter().any(|old| text(old, "name") == gate) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{gate}'");
            errors.push(FieldError::forbidden(path.index(index).child("name"), detail));
        }
    }
}

/// The new spec, in which everything that may change is as it was before.
fn with_mutable_parts_of(now: &Value, before: &Value, path: &Path<'_>, errors: &mut Errors) -> Value {
    let mut rest = now.clone();
    for field in ["containers", "initContainers"] {
        let old = list(before, field);
        for (container, old) in rest[field].as_array_mut().into_iter().flatten().zip(old) {
            container["image"] = old["image"].clone();
        }
        drop_null(&mut rest, field);
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        put(&mut rest, field, &before[field]);
    }
    let grace = "terminationGracePeriodSeconds";
    if before[grace].as_i64().is_some_and(|seconds| seconds < 0) && now[grace] == 1 {
        put(&mut rest, grace, &before[grace]);
    }
    if !list(before, "schedulingGates").is_empty() {
        gated(&mut rest, now, before, path, errors);
    }
    rest
}

/// A pod that waits at a gate may still narrow down where it goes.
fn gated(rest: &mut Value, now: &Value, before: &Value, path: &Path<'_>, errors: &mut Errors) {
    if now["nodeSelector"] != before["nodeSelector"] {
        if entries(before, "nodeSelector").any(|(key, value)| now["nodeSelector"][key] != *value) {
            let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            errors.push(FieldError::invalid(path.child("nodeSelector"), now["nodeSelector"].clone(), detail));
        }
        put(rest, "nodeSelector", &before["nodeSelector"]);
    }
    let (new, old) = (&now["affinity"]["nodeAffinity"], &before["affinity"]["nodeAffinity"]);
    if new == old {
        return;
    }
    let place = path.child("affinity");
    node_affinity(new, old, &place.child("nodeAffinity"), errors);
    if before["affinity"].is_null() && size(now, "affinity") == 1 {
        put(rest, "affinity", &Value::Null);
    } else {
        if rest["affinity"].is_null() {
            rest["affinity"] = serde_json::json!({});
        }
        put(&mut rest["affinity"], "nodeAffinity", old);
    }
}

fn node_affinity(new: &Value, old: &Value, path: &Path<'_>, errors: &mut Errors) {
    let terms = |affinity: &'_ Value| list(&affinity[REQUIRED], "nodeSelectorTerms").to_vec();
    let (before, now) = (terms(old), terms(new));
    let path = path.child(REQUIRED);
    let path = path.child("nodeSelectorTerms");
    if !before.is_empty() && before.len() != now.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.push(FieldError::invalid(path, Value::from(now), detail));
        return;
    }
    for (index, (old, new)) in before.iter().zip(&now).enumerate() {
        let parts = ["matchExpressions", "matchFields"];
        let grown = parts.iter().all(|part| list(new, part).starts_with(list(old, part)));
        let empty = |term: &Value| parts.iter().all(|part| list(term, part).is_empty());
        if !grown || (empty(old) && !empty(new)) {
            let detail = "only additions are allowed (no mutations or deletions)";
            errors.push(FieldError::invalid(path.index(index), new.clone(), detail));
        }
    }
}

fn put(holder: &mut Value, field: &str, value: &Value) {
    if let Some(fields) = holder.as_object_mut() {
        if value.is_null() {
            fields.remove(field);
        } else {
            fields.insert(field.to_owned(), value.clone());
        }
    }
}

fn drop_null(holder: &mut Value, field: &str) {
    if holder[field].is_null() {
        put(holder, field, &Value::Null);
    }
}
