//! What may change about a job.

use serde_json::{Value, json};

use super::super::{Errors, immutable, same};
use super::with_selector;
use crate::field_error::FieldError;
use crate::path::{Path, int, list, text};

const FIXED: [&str; 6] =
    ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy", "selector"];

/// Whether a condition of the job is true.
pub(super) fn is_true(job: &Value, condition: &str) -> bool {
    let conditions = list(&job["status"], "conditions");
    conditions.iter().any(|one| text(one, "type") == condition && text(one, "status") == "True")
}

pub(in crate::validation) fn update(job: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let (now, before) = (&job["spec"], &old["spec"]);
    with_selector(now, &path, errors);
    completions(now, before, &path, errors);
    template(job, old, &path, errors);
    for field in FIXED {
        immutable(errors, path.child(field), &now[field], &before[field]);
    }
}

/// Completions of an indexed job follow its parallelism; others are fixed.
fn completions(now: &Value, before: &Value, path: &Path<'_>, errors: &mut Errors) {
    let place = path.child("completions");
    let given = &now["completions"];
    if text(now, "completionMode") != "Indexed" {
        immutable(errors, place, given, &before["completions"]);
    } else if given != &before["completions"] && !given.is_null() && *given != now["parallelism"] {
        let detail = "can only be modified in tandem with spec.parallelism";
        errors.push(FieldError::invalid(place, given.clone(), detail));
    }
}

/// Where pods go, and what they ask for, may be changed while the job is suspended.
fn template(job: &Value, old: &Value, path: &Path<'_>, errors: &mut Errors) {
    let now = &job["spec"]["template"];
    let mut before = old["spec"]["template"].clone();
    if same(now, &before) {
        return;
    }
    let suspended = old["spec"]["suspend"] == true && job["spec"]["suspend"] == true;
    let resumes = old["spec"]["suspend"] == true && old["status"]["startTime"].is_null();
    let stands_still = suspended && (is_true(old, "Suspended") || int(old, "status.active").unwrap_or(0) == 0);
    if resumes || stands_still {
        for field in ["labels", "annotations"] {
            take(&mut before, now, &["metadata", field]);
        }
        for field in ["nodeSelector", "tolerations", "schedulingGates"] {
            take(&mut before, now, &["spec", field]);
        }
        take(&mut before, now, &["spec", "affinity", "nodeAffinity"]);
        for field in ["containers", "initContainers"] {
            let new = list(&now["spec"], field);
            for (old, new) in before["spec"][field].as_array_mut().into_iter().flatten().zip(new) {
                take(old, new, &["resources"]);
            }
        }
    }
    if !same(&without_nulls(now), &without_nulls(&before)) {
        errors.push(FieldError::invalid(path.child("template"), now.clone(), "field is immutable"));
    }
}

/// Makes the part of `target` at `path` the same as in `source`.
fn take(target: &mut Value, source: &Value, path: &[&str]) {
    let [field, rest @ ..] = path else { return };
    if rest.is_empty() {
        if let Some(fields) = target.as_object_mut() {
            fields.insert((*field).to_owned(), source[*field].clone());
        }
        return;
    }
    if target[*field].is_null() {
        if source[*field].is_null() {
            return;
        }
        target[*field] = json!({});
    }
    take(&mut target[*field], &source[*field], rest);
}

/// The value without what is null, and without an affinity that says nothing.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(_, value)| !value.is_null());
            let kept = kept.map(|(key, value)| (key.clone(), without_nulls(value)));
            Value::Object(kept.filter(|(key, value)| key != "affinity" || *value != json!({})).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        value => value.clone(),
    }
}
