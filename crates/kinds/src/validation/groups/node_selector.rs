//! Node selectors and tolerations outside of pods.

use serde_json::Value;

use super::checks::among;
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, list, text};
use crate::validation::{Errors, invalid};

/// A `core/v1` `NodeSelector`.
pub(super) fn node_selector(selector: &Value, path: &Path<'_>, errors: &mut Errors) {
    let terms = list(selector, "nodeSelectorTerms");
    let place = path.child("nodeSelectorTerms");
    if terms.is_empty() {
        errors.push(FieldError::required(place, "must have at least one node selector term"));
    }
    for (index, term) in terms.iter().enumerate() {
        let path = place.index(index);
        let place = path.child("matchExpressions");
        for (index, expression) in list(term, "matchExpressions").iter().enumerate() {
            label_term(expression, &place.index(index), errors);
        }
        let place = path.child("matchFields");
        for (index, expression) in list(term, "matchFields").iter().enumerate() {
            field_term(expression, &place.index(index), errors);
        }
    }
}

fn label_term(term: &Value, path: &Path<'_>, errors: &mut Errors) {
    let values = list(term, "values");
    match text(term, "operator") {
        "In" | "NotIn" if values.is_empty() => {
            let detail = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(FieldError::required(path.child("values"), detail));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(path.child("values"), detail));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.push(FieldError::required(path.child("values"), detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.push(FieldError::invalid(path.child("operator"), other, "not a valid selector operator")),
    }
    let key = text(term, "key");
    invalid(errors, &path.child("key"), &key.into(), name::qualified_name(key));
    let place = path.child("values");
    for (index, value) in values.iter().enumerate() {
        invalid(errors, &place.index(index), value, name::label_value(value.as_str().unwrap_or_default()));
    }
}

fn field_term(term: &Value, path: &Path<'_>, errors: &mut Errors) {
    let values = list(term, "values");
    match text(term, "operator") {
        "In" | "NotIn" if values.len() != 1 => {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.push(FieldError::required(path.child("values"), detail));
        }
        "In" | "NotIn" => {}
        other => errors.push(FieldError::invalid(path.child("operator"), other, "not a valid selector operator")),
    }
    let key = text(term, "key");
    if key != "metadata.name" {
        errors.push(FieldError::invalid(path.child("key"), key, "not a valid field selector key"));
        return;
    }
    let place = path.child("values");
    for (index, value) in values.iter().enumerate() {
        invalid(errors, &place.index(index), value, name::dns1123_subdomain(value.as_str().unwrap_or_default()));
    }
}

/// A list of `core/v1` `Toleration`.
pub(super) fn tolerations(tolerations: &[Value], path: &Path<'_>, errors: &mut Errors) {
    for (index, toleration) in tolerations.iter().enumerate() {
        let path = path.index(index);
        let (key, operator, value) = (text(toleration, "key"), text(toleration, "operator"), text(toleration, "value"));
        if !key.is_empty() {
            invalid(errors, &path.child("key"), &key.into(), name::qualified_name(key));
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(path.child("operator"), operator, detail));
        }
        if !toleration["tolerationSeconds"].is_null() && text(toleration, "effect") != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(path.child("effect"), text(toleration, "effect"), detail));
        }
        match operator {
            "" | "Equal" => {
                let messages = name::label_value(value);
                if !messages.is_empty() {
                    errors.push(FieldError::invalid(path.child("operator"), value, messages.join(";")));
                }
            }
            "Exists" if !value.is_empty() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(path.child("operator"), toleration.clone(), detail));
            }
            "Exists" => {}
            other => errors.push(FieldError::not_supported(path.child("operator"), other, &["Equal", "Exists"])),
        }
        if !text(toleration, "effect").is_empty() {
            let allowed = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
            among(&toleration["effect"], &path.child("effect"), &allowed, errors);
        }
    }
}
