//! Kinds that keep pods running: Deployment, ReplicaSet, ReplicationController, DaemonSet, PodTemplate, ControllerRevision.
//!
//! Source: `pkg/apis/apps/validation/validation.go` of Kubernetes 1.36.

pub(super) mod stateful_set;

use serde_json::Value;

use super::selector::{is_empty, label_selector, selects_template};
use super::{Errors, immutable, invalid, none_negative, not_negative, pod};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, size, text};
use crate::selector::LabelSelector;

/// A selector that must be there, select something, and select the template below `spec`.
fn selected(spec: &Value, of: &str, detail: &str, path: &Path<'_>, errors: &mut Errors) -> bool {
    let selector = &spec["selector"];
    let place = path.child("selector");
    if selector.is_null() {
        errors.push(FieldError::required(place, ""));
    } else {
        label_selector(selector, &place, errors);
        if is_empty(selector) {
            errors.push(FieldError::invalid(place, selector.clone(), format!("empty selector is invalid for {of}")));
        }
    }
    match LabelSelector::from_object(selector) {
        Ok(parsed) => {
            selects_template(&parsed, &spec["template"], &path.child("template"), errors);
            true
        }
        Err(_) => {
            errors.push(FieldError::invalid(place, selector.clone(), detail));
            false
        }
    }
}

pub(super) fn replica_set(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    none_negative(errors, path, spec, &["replicas", "minReadySeconds"]);
    replicas(spec, path, errors);
}

/// What a Deployment and its ReplicaSets have in common.
fn replicas(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    if selected(spec, "deployment", "invalid label selector", path, errors) {
        pod::template(&spec["template"], &path.child("template"), errors);
        pod::always_restarts(&spec["template"], "ReplicaSet", &path.child("template"), errors);
    }
}

pub(super) fn deployment(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    not_negative(errors, &path.child("replicas"), &spec["replicas"]);
    replicas(spec, path, errors);
    let strategy = &spec["strategy"];
    let place = path.child("strategy");
    let rolling = place.child("rollingUpdate");
    match text(strategy, "type") {
        "Recreate" => {
            if !strategy["rollingUpdate"].is_null() {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                errors.push(FieldError::forbidden(rolling, detail));
            }
        }
        "RollingUpdate" if strategy["rollingUpdate"].is_null() => {
            errors.push(FieldError::required(rolling, "this should be defaulted and never be nil"));
        }
        "RollingUpdate" => {
            let update = &strategy["rollingUpdate"];
            let unavailable = rolling.child("maxUnavailable");
            number_or_percent(&update["maxUnavailable"], &unavailable, errors);
            number_or_percent(&update["maxSurge"], &rolling.child("maxSurge"), errors);
            if amount(&update["maxUnavailable"]) == 0 && amount(&update["maxSurge"]) == 0 {
                let value = update["maxUnavailable"].clone();
                errors.push(FieldError::invalid(unavailable, value, "may not be 0 when `maxSurge` is 0"));
            }
            at_most_all(&update["maxUnavailable"], &unavailable, errors);
        }
        _ => {
            let allowed = ["Recreate", "RollingUpdate"];
            errors.push(FieldError::not_supported(place, strategy.clone(), &allowed));
        }
    }
    none_negative(errors, path, spec, &["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"]);
    if let Some(deadline) = spec["progressDeadlineSeconds"].as_i64()
        && deadline <= spec["minReadySeconds"].as_i64().unwrap_or(0)
    {
        let place = path.child("progressDeadlineSeconds");
        errors.push(FieldError::invalid(place, deadline, "must be greater than minReadySeconds"));
    }
}

/// A whole number that is not negative, or a percentage.
fn number_or_percent(value: &Value, path: &Path<'_>, errors: &mut Errors) {
    match value {
        Value::String(text) => invalid(errors, path, value, name::percent(text)),
        value => not_negative(errors, path, value),
    }
}

/// The number in front of a percent sign, or the plain number.
fn amount(value: &Value) -> i64 {
    match value {
        Value::String(text) => {
            let digits = if name::percent(text).is_empty() { text.trim_end_matches('%') } else { text };
            digits.parse().unwrap_or(0)
        }
        value => value.as_i64().unwrap_or(0),
    }
}

fn at_most_all(value: &Value, path: &Path<'_>, errors: &mut Errors) {
    let percent = value.as_str().is_some_and(|text| name::percent(text).is_empty());
    if percent && amount(value) > 100 {
        errors.push(FieldError::invalid(path, value.clone(), "must not be greater than 100%"));
    }
}

pub(super) fn daemon_set(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let selector = &spec["selector"];
    let place = path.child("selector");
    label_selector(selector, &place, errors);
    if let Ok(parsed) = LabelSelector::from_object(selector) {
        selects_template(&parsed, &spec["template"], &path.child("template"), errors);
    }
    if !selector.is_null() && is_empty(selector) {
        errors.push(FieldError::invalid(place, selector.clone(), "empty selector is invalid for daemonset"));
    }
    pod::template(&spec["template"], &path.child("template"), errors);
    pod::always_restarts(&spec["template"], "DaemonSet", &path.child("template"), errors);
    not_negative(errors, &path.child("minReadySeconds"), &spec["minReadySeconds"]);
    daemon_set_strategy(&spec["updateStrategy"], &path.child("updateStrategy"), errors);
    not_negative(errors, &path.child("revisionHistoryLimit"), &spec["revisionHistoryLimit"]);
}

fn daemon_set_strategy(strategy: &Value, path: &Path<'_>, errors: &mut Errors) {
    let rolling = path.child("rollingUpdate");
    let update = &strategy["rollingUpdate"];
    match text(strategy, "type") {
        "OnDelete" => {}
        "RollingUpdate" if update.is_null() => errors.push(FieldError::required(rolling, "")),
        "RollingUpdate" => {
            for field in ["maxUnavailable", "maxSurge"] {
                number_or_percent(&update[field], &rolling.child(field), errors);
                at_most_all(&update[field], &rolling.child(field), errors);
            }
            match (amount(&update["maxUnavailable"]) != 0, amount(&update["maxSurge"]) != 0) {
                (true, true) => {
                    let detail = "may not be set when maxUnavailable is non-zero";
                    let value = update["maxSurge"].clone();
                    errors.push(FieldError::invalid(rolling.child("maxSurge"), value, detail));
                }
                (false, false) => {
                    let detail = "cannot be 0 when maxSurge is 0";
                    errors.push(FieldError::required(rolling.child("maxUnavailable"), detail));
                }
                _ => {}
            }
        }
        _ => {
            let allowed = ["RollingUpdate", "OnDelete"];
            errors.push(FieldError::not_supported(path, strategy.clone(), &allowed));
        }
    }
}

pub(super) fn replication_controller(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    not_negative(errors, &path.child("minReadySeconds"), &spec["minReadySeconds"]);
    if size(spec, "selector") == 0 {
        errors.push(FieldError::required(path.child("selector"), ""));
    }
    not_negative(errors, &path.child("replicas"), &spec["replicas"]);
    let template = path.child("template");
    if spec["template"].is_null() {
        errors.push(FieldError::required(template, ""));
        return;
    }
    selects_template(&LabelSelector::from_labels(&spec["selector"]), &spec["template"], &template, errors);
    pod::template(&spec["template"], &template, errors);
    pod::always_restarts(&spec["template"], "ReplicationController", &template, errors);
}

/// The selector says whose pods these are: it never changes.
pub(super) fn selector_stays(object: &Value, old: &Value, errors: &mut Errors) {
    immutable(errors, "spec.selector", &object["spec"]["selector"], &old["spec"]["selector"]);
}

pub(super) fn controller_revision(object: &Value, errors: &mut Errors) {
    if object["data"].is_null() {
        errors.push(FieldError::required("data", "data is mandatory"));
    }
    not_negative(errors, &Path::new("revision"), &object["revision"]);
}

pub(super) fn controller_revision_update(object: &Value, old: &Value, errors: &mut Errors) {
    controller_revision(object, errors);
    immutable(errors, "data", &object["data"], &old["data"]);
}

/// The numbers of a status: none is negative, and parts are not more than the whole.
pub(super) fn status(object: &Value, old: &Value, numbers: &[&str], parts: &[&str], errors: &mut Errors) {
    let path = Path::new("status");
    let (status, before) = (&object["status"], &old["status"]);
    none_negative(errors, &path, status, numbers);
    let number = |field: &str| status[field].as_i64().unwrap_or(0);
    for part in parts {
        if number(part) > number("replicas") {
            let detail = "cannot be greater than status.replicas";
            errors.push(FieldError::invalid(path.child(part), number(part), detail));
        }
    }
    if parts.contains(&"availableReplicas") && number("availableReplicas") > number("readyReplicas") {
        let whole = if numbers.contains(&"currentReplicas") { "status.readyReplicas" } else { "readyReplicas" };
        let detail = format!("cannot be greater than {whole}");
        errors.push(FieldError::invalid(path.child("availableReplicas"), number("availableReplicas"), detail));
    }
    if let Some(collisions) = before["collisionCount"].as_i64()
        && number("collisionCount") < collisions
    {
        let value = number("collisionCount");
        errors.push(FieldError::invalid(path.child("collisionCount"), value, "cannot be decremented"));
    }
}
