//! Job.
//!
//! Source: `pkg/apis/batch/validation/validation.go` of Kubernetes 1.36.

pub(super) mod cron;
mod indexes;
mod policy;
pub(super) mod status;
pub(super) mod update;

use serde_json::Value;

use super::selector::{label_selector, selects_template};
use super::{Errors, invalid, none_negative, one_of, pod};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, has, int, text};
use crate::selector::LabelSelector;

const MAX_PARALLELISM: i64 = 100_000;
const MAX_FAILED_INDEXES: i64 = 100_000;
/// Above so many completions, more has to be said when failures are counted by index.
const MANY_COMPLETIONS: i64 = 100_000;
const MAX_WITH_MANY: i64 = 10_000;

/// The labels that a job puts on its pods: the job's uid and name, under their old names and the new ones.
pub(crate) const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
/// The labels with the job's name.
pub(crate) const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];

/// A new job.
pub(super) fn create(job: &Value, errors: &mut Errors) {
    generated_selector(job, errors);
    let path = Path::new("spec");
    with_selector(&job["spec"], &path, errors);
    let completions = int(job, "spec.completions").filter(|completions| *completions > 0);
    if let Some(completions) = completions.filter(|_| text(job, "spec.completionMode") == "Indexed") {
        let named = text(job, "metadata.name");
        let host = format!("{named}-{}", completions - 1);
        if !name::dns1123_label(&host).is_empty() {
            let detail = format!("will not able to create pod with invalid DNS label: {host}");
            errors.push(FieldError::invalid("metadata.name", named, detail));
        }
    }
}

/// Selector and labels that the server has made must be those of this job.
fn generated_selector(job: &Value, errors: &mut Errors) {
    let selector = &job["spec"]["selector"];
    if job["spec"]["manualSelector"] == true || selector.is_null() {
        return;
    }
    let (uid, named) = (text(job, "metadata.uid"), text(job, "metadata.name"));
    if uid.is_empty() {
        errors.push(FieldError::required("metadata.uid", ""));
    }
    let labels = &job["spec"]["template"]["metadata"]["labels"];
    let path = Path::new("spec.template.metadata");
    let path = path.child("labels");
    for (label, expected) in
        UID_LABELS.into_iter().map(|label| (label, uid)).chain(NAME_LABELS.into_iter().map(|label| (label, named)))
    {
        let detail = format!("must be '{expected}'");
        match labels[label].as_str() {
            None => errors.push(FieldError::required(path.key(label), detail)),
            Some(given) if given != expected => {
                errors.push(FieldError::invalid(path.key(label), labels.clone(), detail));
            }
            Some(_) => {}
        }
    }
    let of_this = |label: &str| {
        if UID_LABELS.contains(&label) {
            Some(uid)
        } else if NAME_LABELS.contains(&label) {
            Some(named)
        } else {
            None
        }
    };
    if LabelSelector::from_object(selector).is_ok_and(|parsed| !parsed.matches(of_this)) {
        errors.push(FieldError::invalid("spec.selector", selector.clone(), "`selector` not auto-generated"));
    }
}

/// The spec of a job that has its selector.
pub(super) fn with_selector(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    self::spec(spec, path, errors);
    let selector = &spec["selector"];
    let place = path.child("selector");
    if selector.is_null() {
        errors.push(FieldError::required(place, ""));
    } else {
        label_selector(selector, &place, errors);
    }
    if let Ok(parsed) = LabelSelector::from_object(selector) {
        selects_template(&parsed, &spec["template"], &path.child("template"), errors);
    }
}

/// The spec of a job, with or without a selector.
fn spec(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let numbers = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    none_negative(errors, path, spec, &numbers);
    if has(spec, "maxFailedIndexes") && !has(spec, "backoffLimitPerIndex") {
        let detail = "when maxFailedIndexes is specified";
        errors.push(FieldError::required(path.child("backoffLimitPerIndex"), detail));
    }
    if let Some(manager) = spec["managedBy"].as_str() {
        let place = path.child("managedBy");
        match name::domain_prefixed_path(manager) {
            None => errors.push(FieldError::required(place, "")),
            Some(wrong) => invalid(errors, &place, &spec["managedBy"], wrong),
        }
        if manager.len() > 63 {
            errors.push(FieldError::too_long(place, 63));
        }
    }
    one_of(errors, &path.child("completionMode"), &spec["completionMode"], &["NonIndexed", "Indexed"]);
    match text(spec, "completionMode") {
        "Indexed" => indexed(spec, path, errors),
        "" | "NonIndexed" => {
            for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
                if let Some(value) = spec[field].as_i64() {
                    errors.push(FieldError::invalid(path.child(field), value, "requires indexed completion mode"));
                }
            }
        }
        _ => {}
    }
    policy::policies(spec, path, errors);
    let template = path.child("template");
    pod::template(&spec["template"], &template, errors);
    restart_policy(spec, &template, errors);
}

fn indexed(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let completions = spec["completions"].as_i64();
    let failed = spec["maxFailedIndexes"].as_i64();
    if completions.is_none() {
        errors.push(FieldError::required(path.child("completions"), "when completion mode is Indexed"));
    }
    let at_most = |field: &str, most: i64, end: &str, errors: &mut Errors| {
        if let Some(value) = spec[field].as_i64().filter(|value| *value > most) {
            let detail = format!("must be less than or equal to {most}{end}");
            errors.push(FieldError::invalid(path.child(field), value, detail));
        }
    };
    at_most("parallelism", MAX_PARALLELISM, " when completion mode is Indexed", errors);
    if let (Some(completions), Some(failed)) = (completions, failed)
        && failed > completions
    {
        let detail = "must be less than or equal to completions";
        errors.push(FieldError::invalid(path.child("maxFailedIndexes"), failed, detail));
    }
    at_most("maxFailedIndexes", MAX_FAILED_INDEXES, "", errors);
    if completions.is_none_or(|completions| completions <= MANY_COMPLETIONS) || !has(spec, "backoffLimitPerIndex") {
        return;
    }
    if failed.is_none() {
        let detail = format!("must be specified when completions is above {MANY_COMPLETIONS}");
        errors.push(FieldError::required(path.child("maxFailedIndexes"), detail));
    }
    let end = format!(" when completions are above {MANY_COMPLETIONS} and used with backoff limit per index");
    at_most("parallelism", MAX_WITH_MANY, &end, errors);
    at_most("maxFailedIndexes", MAX_WITH_MANY, &end, errors);
}

/// Pods of a job end, so they cannot restart always.
fn restart_policy(spec: &Value, template: &Path<'_>, errors: &mut Errors) {
    let path = template.child("spec");
    let path = path.child("restartPolicy");
    let policy = text(&spec["template"], "spec.restartPolicy");
    match policy {
        "" | "Always" => {
            errors.push(FieldError::required(path, "valid values: \"OnFailure\", \"Never\""));
        }
        "Never" => {}
        "OnFailure" if !has(spec, "podFailurePolicy") => {}
        "OnFailure" => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.push(FieldError::invalid(path, policy, detail));
        }
        other => errors.push(FieldError::not_supported(path, other, &["OnFailure", "Never"])),
    }
}
