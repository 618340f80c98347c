//! When a job's pods count as failed, when it counts as done, and when a pod is replaced.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::{Errors, not_negative};
use super::indexes;
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, list, text};

const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
const MAX_RULES: usize = 20;
const MAX_PATTERNS: usize = 20;
const MAX_EXIT_CODES: usize = 255;
/// The longest text of succeeded indexes.
const MAX_INDEXES_TEXT: usize = 64 << 10;

pub(super) fn policies(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    if !spec["podFailurePolicy"].is_null() {
        failure(spec, &path.child("podFailurePolicy"), errors);
    }
    let success = &spec["successPolicy"];
    let place = path.child("successPolicy");
    if !success.is_null() {
        if text(spec, "completionMode") == "Indexed" {
            self::success(spec, &place, errors);
        } else {
            errors.push(FieldError::invalid(place, success.clone(), "requires indexed completion mode"));
        }
    }
    if let Some(replacement) = spec["podReplacementPolicy"].as_str() {
        let allowed: &[&str] =
            if spec["podFailurePolicy"].is_null() { &["Failed", "TerminatingOrFailed"] } else { &["Failed"] };
        if !allowed.contains(&replacement) {
            errors.push(FieldError::not_supported(path.child("podReplacementPolicy"), replacement, allowed));
        }
    }
}

fn quoted(values: &[&str]) -> String {
    let quoted: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
    format!("valid values: [{}]", quoted.join(" "))
}

fn failure(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let rules = list(&spec["podFailurePolicy"], "rules");
    let path = path.child("rules");
    if rules.len() > MAX_RULES {
        errors.push(FieldError::too_many(path, rules.len(), MAX_RULES));
    }
    let template = &spec["template"]["spec"];
    let containers = ["containers", "initContainers"].into_iter().flat_map(|field| list(template, field));
    let containers: BTreeSet<&str> = containers.map(|container| text(container, "name")).collect();
    for (index, rule) in rules.iter().enumerate() {
        let path = path.index(index);
        let action = text(rule, "action");
        let place = path.child("action");
        if action.is_empty() {
            errors.push(FieldError::required(place, quoted(&ACTIONS)));
        } else if action == "FailIndex" && spec["backoffLimitPerIndex"].is_null() {
            errors.push(FieldError::invalid(place, action, "requires the backoffLimitPerIndex to be set"));
        } else if !ACTIONS.contains(&action) {
            errors.push(FieldError::not_supported(place, action, &ACTIONS));
        }
        let (codes, conditions) = (&rule["onExitCodes"], list(rule, "onPodConditions"));
        if !codes.is_null() {
            exit_codes(codes, &containers, &path.child("onExitCodes"), errors);
        }
        pod_conditions(conditions, &path.child("onPodConditions"), errors);
        let detail = match (codes.is_null(), conditions.is_empty()) {
            (false, false) => "specifying both OnExitCodes and OnPodConditions is not supported",
            (true, true) => "specifying one of OnExitCodes and OnPodConditions is required",
            _ => continue,
        };
        errors.push(FieldError::invalid_without_value(path, detail));
    }
}

fn pod_conditions(patterns: &[Value], path: &Path<'_>, errors: &mut Errors) {
    const STATUSES: [&str; 3] = ["False", "True", "Unknown"];
    if patterns.len() > MAX_PATTERNS {
        errors.push(FieldError::too_many(path, patterns.len(), MAX_PATTERNS));
    }
    for (index, pattern) in patterns.iter().enumerate() {
        let path = path.index(index);
        let kind = text(pattern, "type");
        for message in name::qualified_name(kind) {
            errors.push(FieldError::invalid(path.child("type"), kind, message));
        }
        let status = text(pattern, "status");
        if status.is_empty() {
            errors.push(FieldError::required(path.child("status"), quoted(&STATUSES)));
        } else if !STATUSES.contains(&status) {
            errors.push(FieldError::not_supported(path.child("status"), status, &STATUSES));
        }
    }
}

fn exit_codes(codes: &Value, containers: &BTreeSet<&str>, path: &Path<'_>, errors: &mut Errors) {
    const OPERATORS: [&str; 2] = ["In", "NotIn"];
    let operator = text(codes, "operator");
    if operator.is_empty() {
        errors.push(FieldError::required(path.child("operator"), quoted(&OPERATORS)));
    } else if !OPERATORS.contains(&operator) {
        errors.push(FieldError::not_supported(path.child("operator"), operator, &OPERATORS));
    }
    if let Some(container) = codes["containerName"].as_str().filter(|name| !containers.contains(name)) {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.push(FieldError::invalid(path.child("containerName"), container, detail));
    }
    let path = path.child("values");
    let values: Vec<i64> = list(codes, "values").iter().filter_map(Value::as_i64).collect();
    if values.is_empty() {
        errors.push(FieldError::invalid(path, codes["values"].clone(), "at least one value is required"));
    } else if values.len() > MAX_EXIT_CODES {
        errors.push(FieldError::too_many(path, values.len(), MAX_EXIT_CODES));
    }
    let mut seen = BTreeSet::new();
    for (index, value) in values.iter().enumerate() {
        if operator == "In" && *value == 0 {
            errors.push(FieldError::invalid(path.index(index), 0, "must not be 0 for the In operator"));
        }
        if !seen.insert(value) {
            errors.push(FieldError::duplicate(path.index(index), *value));
        }
    }
    if !values.is_sorted() {
        errors.push(FieldError::invalid(path, codes["values"].clone(), "must be ordered"));
    }
}

fn success(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let rules = list(&spec["successPolicy"], "rules");
    let path = path.child("rules");
    if rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        errors.push(FieldError::required(path, detail));
    }
    if rules.len() > MAX_RULES {
        errors.push(FieldError::too_many(path, rules.len(), MAX_RULES));
    }
    let completions = spec["completions"].as_i64().unwrap_or(0);
    for (index, rule) in rules.iter().enumerate() {
        let path = path.index(index);
        let (count, indexes) = (&rule["succeededCount"], rule["succeededIndexes"].as_str());
        if count.is_null() && indexes.is_none() {
            let detail = "at least one of succeededCount or succeededIndexes must be specified";
            errors.push(FieldError::required(path, detail));
        }
        let mut total = 0;
        if let Some(indexes) = indexes {
            let place = path.child("succeededIndexes");
            if indexes.len() > MAX_INDEXES_TEXT {
                errors.push(FieldError::too_long(place, MAX_INDEXES_TEXT));
            }
            match indexes::count(indexes, completions) {
                Ok(count) => total = count,
                Err(error) => {
                    let detail = format!("error parsing succeededIndexes: {error}");
                    errors.push(FieldError::invalid(place, indexes, detail));
                }
            }
        }
        if let Some(number) = count.as_i64() {
            let place = path.child("succeededCount");
            not_negative(errors, &place, count);
            if number > completions {
                let detail =
                    format!("must be less than or equal to {completions} (the number of specified completions)");
                errors.push(FieldError::invalid(place, number, detail));
            }
            if indexes.is_some() && number > total {
                let detail = format!(
                    "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes \
                     field)"
                );
                errors.push(FieldError::invalid(place, number, detail));
            }
        }
    }
}
