//! Kinds that make pods.

use serde_json::Value;

use super::{Errors, not_negative, one_of, pod};
use crate::field_error::FieldError;
use crate::path::{Path, size, text};
use crate::selector::LabelSelector;

/// Deployment, ReplicaSet, StatefulSet and DaemonSet.
pub(super) fn selected(collection: &str, spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    for field in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
        not_negative(errors, &path.child(field), &spec[field]);
    }
    if spec["progressDeadlineSeconds"]
        .as_i64()
        .is_some_and(|deadline| deadline <= spec["minReadySeconds"].as_i64().unwrap_or(0))
    {
        let value = spec["progressDeadlineSeconds"].clone();
        errors.push(FieldError::invalid(
            path.child("progressDeadlineSeconds"),
            value,
            "must be greater than minReadySeconds",
        ));
    }
    let selector = &spec["selector"];
    let empty = size(selector, "matchLabels") + size(selector, "matchExpressions") == 0;
    if selector.is_null() {
        errors.push(FieldError::required(path.child("selector"), ""));
    } else if empty {
        let kind = match collection {
            "apps/deployments" => "deployment",
            "apps/statefulsets" => "statefulset",
            "apps/daemonsets" => "daemonset",
            _ => "replicaset",
        };
        errors.push(FieldError::invalid(
            path.child("selector"),
            selector.clone(),
            format!("empty selector is invalid for {kind}"),
        ));
    } else {
        match LabelSelector::from_object(selector) {
            Ok(parsed) if !parsed.matches_labels(&spec["template"]["metadata"]["labels"]) => {
                let labels = spec["template"]["metadata"]["labels"].clone();
                let place = path.child("template");
                let place = place.child("metadata");
                errors.push(FieldError::invalid(
                    place.child("labels"),
                    labels,
                    "`selector` does not match template `labels`",
                ));
            }
            Ok(_) => {}
            Err(error) => errors.push(FieldError::invalid(path.child("selector"), selector.clone(), error.to_string())),
        }
    }
    pod::template(&spec["template"], &path.child("template"), &["Always"], errors);
    if collection == "apps/deployments" {
        let strategy = &spec["strategy"];
        let place = path.child("strategy");
        one_of(errors, &place.child("type"), &strategy["type"], &["Recreate", "RollingUpdate"]);
        if text(strategy, "type") == "Recreate" && !strategy["rollingUpdate"].is_null() {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(FieldError::forbidden(place.child("rollingUpdate"), detail));
        }
        let zero = |value: &Value| value.as_i64() == Some(0) || matches!(value.as_str(), Some("0" | "0%"));
        let rolling = &strategy["rollingUpdate"];
        if zero(&rolling["maxUnavailable"]) && zero(&rolling["maxSurge"]) {
            let detail = "may not be 0 when `maxSurge` is 0";
            let place = place.child("rollingUpdate");
            errors.push(FieldError::invalid(place.child("maxUnavailable"), rolling["maxUnavailable"].clone(), detail));
        }
    }
}

pub(super) fn replication_controller(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    not_negative(errors, &path.child("replicas"), &spec["replicas"]);
    if spec["template"].is_null() {
        errors.push(FieldError::required(path.child("template"), ""));
        return;
    }
    if size(spec, "selector") == 0 {
        errors.push(FieldError::required(path.child("selector"), ""));
    } else if !LabelSelector::from_labels(&spec["selector"]).matches_labels(&spec["template"]["metadata"]["labels"]) {
        let place = path.child("template");
        let place = place.child("metadata");
        let labels = spec["template"]["metadata"]["labels"].clone();
        errors.push(FieldError::invalid(place.child("labels"), labels, "`selector` does not match template `labels`"));
    }
    pod::template(&spec["template"], &path.child("template"), &["Always"], errors);
}

pub(super) fn job(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    for field in ["parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"] {
        not_negative(errors, &path.child(field), &spec[field]);
    }
    one_of(errors, &path.child("completionMode"), &spec["completionMode"], &["Indexed", "NonIndexed"]);
    if text(spec, "completionMode") == "Indexed" && spec["completions"].is_null() {
        errors.push(FieldError::required(path.child("completions"), "when completion mode is Indexed"));
    }
    let template = path.child("template");
    pod::template(&spec["template"], &template, &["Never", "OnFailure"], errors);
}

pub(super) fn cron_job(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    if text(spec, "schedule").is_empty() {
        errors.push(FieldError::required(path.child("schedule"), ""));
    }
    one_of(errors, &path.child("concurrencyPolicy"), &spec["concurrencyPolicy"], &["Allow", "Forbid", "Replace"]);
    for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        not_negative(errors, &path.child(field), &spec[field]);
    }
    let template = path.child("jobTemplate");
    job(&spec["jobTemplate"]["spec"], &template.child("spec"), errors);
}

pub(super) fn selector_stays(object: &Value, old: &Value, errors: &mut Errors) {
    let (now, before) = (&object["spec"]["selector"], &old["spec"]["selector"]);
    if now != before {
        errors.push(FieldError::invalid("spec.selector", now.clone(), "field is immutable"));
    }
}

pub(super) fn stateful_set_update(object: &Value, old: &Value, errors: &mut Errors) {
    const MAY_CHANGE: [&str; 7] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let strip = |set: &Value| {
        let mut spec = set["spec"].clone();
        if let Some(spec) = spec.as_object_mut() {
            spec.retain(|field, _| !MAY_CHANGE.contains(&field.as_str()));
        }
        spec
    };
    if strip(object) != strip(old) {
        errors.push(FieldError::forbidden(
            "spec",
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
             'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        ));
    }
}

pub(super) fn job_update(object: &Value, old: &Value, errors: &mut Errors) {
    let suspended = old["spec"]["suspend"] == true;
    for field in ["completionMode", "selector", "template", "podFailurePolicy", "backoffLimitPerIndex", "managedBy"] {
        let (now, before) = (&object["spec"][field], &old["spec"][field]);
        if now != before && !(field == "template" && suspended) {
            errors.push(FieldError::invalid(Path::new("spec").child(field), now.clone(), "field is immutable"));
        }
    }
    let indexed = text(&object["spec"], "completionMode") == "Indexed";
    if object["spec"]["completions"] != old["spec"]["completions"] && !indexed {
        errors.push(FieldError::invalid(
            "spec.completions",
            object["spec"]["completions"].clone(),
            "field is immutable",
        ));
    }
}
