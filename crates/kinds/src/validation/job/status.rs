//! What may be written about a job's progress, by the built-in controller or another one.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::{Errors, none_negative};
use super::indexes;
use super::update::is_true;
use crate::field_error::FieldError;
use crate::path::{Path, has, int, list, text};

/// The two states of a job, and which parts of them differ: what was wrong before may stay so.
struct Change<'a> {
    job: &'a Value,
    old: &'a Value,
}

impl Change<'_> {
    fn of(&self, field: &str) -> bool {
        self.job["status"][field] != self.old["status"][field]
    }

    fn of_condition(&self, condition: &str) -> bool {
        is_true(self.job, condition) != is_true(self.old, condition)
    }

    fn of_end(&self) -> bool {
        ended(self.job) != ended(self.old)
    }
}

fn ended(job: &Value) -> bool {
    is_true(job, "Complete") || is_true(job, "Failed")
}

/// `jobs/status`.
pub(in crate::validation) fn status(job: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("status");
    let status = &job["status"];
    none_negative(errors, &path, status, &["active", "succeeded", "failed", "ready", "terminating"]);
    uncounted(status, &path.child("uncountedTerminatedPods"), errors);
    let change = Change { job, old };
    conditions(&change, &path, errors);
    times(&change, &path, errors);
    counts(&change, &path, errors);
    index_texts(&change, &path, errors);
    transitions(job, old, &path, errors);
}

fn uncounted(status: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for field in ["succeeded", "failed"] {
        let path = path.child(field);
        for (index, uid) in list(&status["uncountedTerminatedPods"], field).iter().enumerate() {
            let uid = uid.as_str().unwrap_or_default();
            if uid.is_empty() {
                errors.push(FieldError::invalid(path.index(index), "", "must not be empty"));
            } else if !seen.insert(uid) {
                errors.push(FieldError::duplicate(path.index(index), uid));
            }
        }
    }
}

fn conditions(change: &Change<'_>, path: &Path<'_>, errors: &mut Errors) {
    let is = |condition: &str| is_true(change.job, condition);
    let changed = |condition: &str| change.of_condition(condition);
    let mut wrong = |when: bool, detail: &str| {
        if when {
            errors.push(FieldError::invalid_without_value(path.child("conditions"), detail));
        }
    };
    let (complete, failed) = (is("Complete"), is("Failed"));
    let (criteria, target) = (is("SuccessCriteriaMet"), is("FailureTarget"));
    wrong(
        (changed("Complete") || changed("Failed")) && complete && failed,
        "cannot set Complete=True and Failed=true conditions",
    );
    wrong(
        (changed("Complete") || changed("FailureTarget")) && complete && target,
        "cannot set Complete=True and FailureTarget=true conditions",
    );
    wrong(
        (changed("Failed") || changed("FailureTarget")) && failed && !target,
        "cannot set Failed=True condition without the FailureTarget=true condition",
    );
    wrong(
        (changed("Complete") || changed("SuccessCriteriaMet")) && complete && !criteria,
        "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
    );
    wrong(criteria && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions");
    wrong(criteria && target, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions");
    wrong(
        has(change.job, "spec.successPolicy") && !criteria && complete,
        "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
    );
}

fn times(change: &Change<'_>, path: &Path<'_>, errors: &mut Errors) {
    let (start, end) = (text(change.job, "status.startTime"), text(change.job, "status.completionTime"));
    let complete = is_true(change.job, "Complete");
    let place = path.child("completionTime");
    if change.of_condition("Complete") || change.of("completionTime") {
        if !end.is_empty() && !complete {
            let detail = "cannot set completionTime when there is no Complete=True condition";
            errors.push(FieldError::invalid(place, end, detail));
        }
        if end.is_empty() && complete {
            errors.push(FieldError::required(place, "completionTime is required for Complete jobs"));
        }
    }
    // Both are of the same length and in UTC, so that they compare as texts.
    if (change.of("startTime") || change.of("completionTime")) && !start.is_empty() && !end.is_empty() && end < start {
        errors.push(FieldError::invalid(place, end, "completionTime cannot be set before startTime"));
    }
    if (change.of_end() || change.of("startTime")) && start.is_empty() && ended(change.job) {
        errors.push(FieldError::required(path.child("startTime"), "startTime is required for finished job"));
    }
}

fn counts(change: &Change<'_>, path: &Path<'_>, errors: &mut Errors) {
    let status = &change.job["status"];
    let number = |field: &str| int(status, field).unwrap_or(0);
    let ends = |field: &str| (change.of_end() || change.of(field)) && ended(change.job);
    if ends("active") && number("active") > 0 {
        let detail = "active>0 is invalid for finished job";
        errors.push(FieldError::invalid(path.child("active"), number("active"), detail));
    }
    if ends("terminating") && number("terminating") > 0 {
        let detail = "terminating>0 is invalid for finished job";
        errors.push(FieldError::invalid(path.child("terminating"), number("terminating"), detail));
    }
    let uncounted = &status["uncountedTerminatedPods"];
    let waiting = ["failed", "succeeded"].iter().any(|field| !list(uncounted, field).is_empty());
    if ends("uncountedTerminatedPods") && waiting {
        let detail = "uncountedTerminatedPods needs to be empty for finished job";
        errors.push(FieldError::invalid(path.child("uncountedTerminatedPods"), uncounted.clone(), detail));
    }
    if (change.of("ready") || change.of("active")) && number("ready") > number("active") {
        let detail = "cannot set more ready pods than active";
        errors.push(FieldError::invalid(path.child("ready"), number("ready"), detail));
    }
}

fn index_texts(change: &Change<'_>, path: &Path<'_>, errors: &mut Errors) {
    let (spec, status) = (&change.job["spec"], &change.job["status"]);
    let completed = text(status, "completedIndexes");
    let failed = status["failedIndexes"].as_str();
    let completions = int(spec, "completions");
    let per_index = has(spec, "backoffLimitPerIndex");
    if change.of("completedIndexes") {
        let place = path.child("completedIndexes");
        if let Some(error) = completions.and_then(|completions| indexes::count(completed, completions).err()) {
            let detail = format!("error parsing completedIndexes: {error}");
            errors.push(FieldError::invalid(place, completed, detail));
        }
        if !completed.is_empty() && text(spec, "completionMode") != "Indexed" {
            let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
            errors.push(FieldError::invalid(place, completed, detail));
        }
    }
    let Some(failed) = failed else { return };
    let place = path.child("failedIndexes");
    if change.of("failedIndexes") {
        let counted = completions.filter(|_| per_index).and_then(|most| indexes::count(failed, most).err());
        if let Some(error) = counted {
            let detail = format!("error parsing failedIndexes: {error}");
            errors.push(FieldError::invalid(place, failed, detail));
        }
        if !per_index {
            let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
            errors.push(FieldError::invalid(place, failed, detail));
        }
    }
    if (change.of("failedIndexes") || change.of("completedIndexes"))
        && let Some(error) = completions.and_then(|most| indexes::apart(completed, failed, most).err())
    {
        errors.push(FieldError::invalid(place, failed, error.to_string()));
    }
}

fn transitions(job: &Value, old: &Value, path: &Path<'_>, errors: &mut Errors) {
    let conditions = path.child("conditions");
    for condition in ["Failed", "Complete", "FailureTarget"] {
        if is_true(old, condition) && !is_true(job, condition) {
            let detail = format!("cannot disable the terminal {condition}=True condition");
            errors.push(FieldError::invalid_without_value(conditions, detail));
        }
    }
    let number = |job: &Value, field: &str| job["status"][field].as_i64().unwrap_or(0);
    // An indexed job that is as parallel as it is long can shrink, and then forgets what succeeded.
    let elastic = text(job, "spec.completionMode") == "Indexed"
        && job["spec"]["completions"] == job["spec"]["parallelism"]
        && has(job, "spec.completions");
    for field in ["failed", "succeeded"] {
        if number(job, field) < number(old, field) && !(field == "succeeded" && elastic) {
            let detail = format!("cannot decrease the {field} counter");
            errors.push(FieldError::invalid(path.child(field), number(job, field), detail));
        }
    }
    let (end, old_end) = (&job["status"]["completionTime"], &old["status"]["completionTime"]);
    if !end.is_null() && !old_end.is_null() && end != old_end {
        let detail = "completionTime cannot be mutated";
        errors.push(FieldError::invalid(path.child("completionTime"), end.clone(), detail));
    }
    let (start, old_start) = (&job["status"]["startTime"], &old["status"]["startTime"]);
    if !old_start.is_null() && start != old_start && job["spec"]["suspend"] != true {
        let detail = "startTime cannot be removed for unsuspended job";
        errors.push(FieldError::required(path.child("startTime"), detail));
    }
    let criteria = "SuccessCriteriaMet";
    if is_true(old, criteria) && !is_true(job, criteria) {
        let detail = "cannot disable the SuccessCriteriaMet=True condition";
        errors.push(FieldError::invalid_without_value(conditions, detail));
    }
    if is_true(old, "Complete") && !is_true(old, criteria) && is_true(job, criteria) {
        let detail = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        errors.push(FieldError::invalid_without_value(conditions, detail));
    }
}
