//! ResourceQuota.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Errors;
use super::resources::{amount, is_for_quotas, quota_resource_name};
use crate::field_error::FieldError;
use crate::path::{Path, entries, list, text};

const SCOPES: [&str; 7] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

/// What holds for a quota at any time.
pub(super) fn quota(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = &object["spec"];
    amounts(spec, "hard", &path, errors);
    let hard: Vec<&str> = entries(spec, "hard").map(|(resource, _)| resource).collect();
    let scopes: BTreeSet<&str> = list(spec, "scopes").iter().filter_map(Value::as_str).collect();
    let place = path.child("scopes");
    let wrong = |detail: &str| FieldError::invalid(place, spec["scopes"].clone(), detail);
    for scope in list(spec, "scopes").iter().filter_map(Value::as_str) {
        if !SCOPES.contains(&scope) {
            errors.push(wrong("unsupported scope"));
        }
        for _ in hard.iter().filter(|resource| is_for_quotas(resource) && !applies(scope, resource)) {
            errors.push(wrong("unsupported scope applied to resource"));
        }
    }
    for _ in conflicts(&scopes) {
        errors.push(wrong("conflicting scopes"));
    }
    if !spec["scopeSelector"].is_null() {
        selector(spec, &hard, &path.child("scopeSelector"), errors);
    }
}

/// A quota that is to replace `old`.
pub(super) fn update(object: &Value, old: &Value, errors: &mut Errors) {
    quota(object, errors);
    let scopes = |object: &'_ Value| -> BTreeSet<String> {
        list(&object["spec"], "scopes").iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    if scopes(object) != scopes(old) {
        let path = Path::new("spec");
        let value = object["spec"]["scopes"].clone();
        errors.push(FieldError::invalid(path.child("scopes"), value, "field is immutable"));
    }
}

/// `resourcequotas/status`.
pub(super) fn status(object: &Value, errors: &mut Errors) {
    let path = Path::new("status");
    amounts(&object["status"], "hard", &path, errors);
    amounts(&object["status"], "used", &path, errors);
}

fn amounts(holder: &Value, field: &str, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child(field);
    for (resource, value) in entries(holder, field) {
        let path = path.key(resource);
        quota_resource_name(resource, &path, errors);
        amount(resource, value, &path, errors);
    }
}

fn applies(scope: &str, resource: &str) -> bool {
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => {
            matches!(
                resource,
                "pods" | "cpu" | "memory" | "limits.cpu" | "limits.memory" | "requests.cpu" | "requests.memory"
            )
        }
        _ => true,
    }
}

fn conflicts(scopes: &BTreeSet<&str>) -> impl Iterator<Item = ()> {
    let pairs = [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")];
    let count = pairs.iter().filter(|(one, other)| scopes.contains(one) && scopes.contains(other)).count();
    std::iter::repeat_n((), count)
}

fn selector(spec: &Value, hard: &[&str], path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("matchExpressions");
    let mut scopes = BTreeSet::new();
    for expression in list(&spec["scopeSelector"], "matchExpressions") {
        let (scope, operator) = (text(expression, "scopeName"), text(expression, "operator"));
        if !SCOPES.contains(&scope) {
            errors.push(FieldError::invalid(path.child("scopeName"), scope, "unsupported scope"));
        }
        for _ in hard.iter().filter(|resource| is_for_quotas(resource) && !applies(scope, resource)) {
            let detail = "unsupported scope applied to resource";
            errors.push(FieldError::invalid(path, spec["scopeSelector"].clone(), detail));
        }
        let takes_values = matches!(scope, "PriorityClass" | "VolumeAttributesClass") || !SCOPES.contains(&scope);
        if !takes_values && operator != "Exists" {
            let detail = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
                          ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
                          ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            errors.push(FieldError::invalid(path.child("operator"), operator, detail));
        }
        let values = list(expression, "values");
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.push(FieldError::required(path.child("values"), detail));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.push(FieldError::invalid(path.child("values"), expression["values"].clone(), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                errors.push(FieldError::invalid(path.child("operator"), other, "not a valid selector operator"));
            }
        }
        scopes.insert(scope);
    }
    for () in conflicts(&scopes) {
        errors.push(FieldError::invalid(path, spec["scopes"].clone(), "conflicting scopes"));
    }
}
