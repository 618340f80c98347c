//! Validating and mutating admission policies and their bindings, without the CEL in them.

use serde_json::Value;

use super::admission::{match_conditions, rule_with_operations};
use super::checks::{among, conditions, required};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, list, text};
use crate::validation::selector::selector_with;
use crate::validation::{Errors, invalid, required_follows};

const AUDIT_ANNOTATIONS: usize = 20;
const AUDIT_EXPRESSION_BYTES: usize = 5 << 10;
const RESERVED: [&str; 20] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
];

pub(super) fn policy(kind: &str, object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    enumeration(spec, "failurePolicy", &["Fail", "Ignore"], &path, errors);
    if !spec["paramKind"].is_null() {
        param_kind(&spec["paramKind"], &path.child("paramKind"), errors);
    }
    let place = path.child("matchConstraints");
    if spec["matchConstraints"].is_null() {
        errors.push(FieldError::required(place, ""));
    } else {
        match_resources(&spec["matchConstraints"], &place, errors);
        if list(spec, "matchConstraints.resourceRules").is_empty() {
            errors.push(FieldError::required(place.child("resourceRules"), ""));
        }
    }
    match_conditions(list(spec, "matchConditions"), &path.child("matchConditions"), errors);
    let place = path.child("variables");
    for (index, variable) in list(spec, "variables").iter().enumerate() {
        let (path, name) = (place.index(index), text(variable, "name"));
        if name.trim().is_empty() {
            errors.push(FieldError::required(path.child("name"), "name is not specified"));
        } else if !is_identifier(name) {
            errors.push(FieldError::invalid(path.child("name"), name, "name is not a valid CEL identifier"));
        }
        specified(variable, "expression", &path, errors);
    }
    if kind == "MutatingAdmissionPolicy" {
        mutations(spec, &path, errors);
    } else {
        validations(text(object, "metadata.name"), spec, &path, errors);
    }
}

/// An enumeration that must be there.
fn enumeration(object: &Value, field: &str, allowed: &[&str], path: &Path<'_>, errors: &mut Errors) {
    if object[field].is_null() {
        errors.push(FieldError::required(path.child(field), ""));
    } else {
        among(&object[field], &path.child(field), allowed, errors);
    }
}

/// An expression that must be there.
fn specified(object: &Value, field: &str, path: &Path<'_>, errors: &mut Errors) {
    if text(object, field).trim().is_empty() {
        errors.push(FieldError::required(path.child(field), format!("{field} is not specified")));
    }
}

fn is_identifier(name: &str) -> bool {
    let bytes = name.as_bytes();
    let starts = bytes.first().is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_');
    starts
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_')
        && !RESERVED.contains(&name)
        && name != "while"
}

fn validations(name: &str, spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (validations, annotations) = (list(spec, "validations"), list(spec, "auditAnnotations"));
    let (place, audit) = (path.child("validations"), path.child("auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        let detail = "validations or auditAnnotations must contain at least one item";
        errors.push(FieldError::required(place, detail));
        errors.push(FieldError::required(audit, detail));
        return;
    }
    for (index, validation) in validations.iter().enumerate() {
        let path = place.index(index);
        specified(validation, "expression", &path, errors);
        let blank = |field: &str| {
            let given = text(validation, field);
            !given.is_empty() && given.trim().is_empty()
        };
        let mut wrong = |field: &str, detail: &str| {
            errors.push(FieldError::invalid(path.child(field), validation[field].clone(), detail));
        };
        if blank("messageExpression") {
            wrong("messageExpression", "must be non-empty if specified");
        }
        if blank("message") {
            wrong("message", "message must be non-empty if specified");
        } else if text(validation, "message").trim().contains(['\n', '\r']) {
            wrong("message", "message must not contain line breaks");
        }
        if !validation["reason"].is_null() {
            // `Unauthorized` is upstream's own word for what it supports besides.
            let allowed = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
            among(&validation["reason"], &path.child("reason"), &allowed, errors);
        }
    }
    if annotations.len() > AUDIT_ANNOTATIONS {
        let detail = format!("must not have more than {AUDIT_ANNOTATIONS} auditAnnotations");
        errors.push(FieldError::invalid(audit, spec["auditAnnotations"].clone(), detail));
    }
    let mut keys = Vec::new();
    for (index, annotation) in annotations.iter().enumerate() {
        let (path, key) = (audit.index(index), text(annotation, "key"));
        let whole = format!("{name}/{key}");
        invalid(errors, &path.child("key"), &whole.as_str().into(), name::qualified_name(&whole));
        if text(annotation, "valueExpression").trim().len() > AUDIT_EXPRESSION_BYTES {
            let detail = format!("must not exceed {AUDIT_EXPRESSION_BYTES} bytes in length");
            errors.push(FieldError::required(path.child("valueExpression"), detail));
        }
        specified(annotation, "valueExpression", &path, errors);
        if keys.contains(&key) {
            errors.push(FieldError::duplicate(path.child("key"), key));
        }
        keys.push(key);
    }
}

fn mutations(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    enumeration(spec, "reinvocationPolicy", &["IfNeeded", "Never"], path, errors);
    let (place, mutations) = (path.child("mutations"), list(spec, "mutations"));
    if mutations.is_empty() {
        errors.push(FieldError::required(place, "mutations must contain at least one item"));
    }
    for (index, mutation) in mutations.iter().enumerate() {
        let path = place.index(index);
        let kind = text(mutation, "patchType");
        let (own, other) = match kind {
            "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
            "JSONPatch" => ("jsonPatch", "applyConfiguration"),
            "" => {
                errors.push(FieldError::required(path.child("patchType"), ""));
                continue;
            }
            _ => {
                let allowed = ["ApplyConfiguration", "JSONPatch"];
                errors.push(FieldError::not_supported(path.child("patchType"), kind, &allowed));
                continue;
            }
        };
        if mutation[own].is_null() {
            let detail = format!("must be specified when patchType is {kind}");
            errors.push(FieldError::required(path.child(own), detail));
        } else {
            specified(&mutation[own], "expression", &path.child(own), errors);
        }
        if !mutation[other].is_null() {
            let detail = format!("must not be specified when patchType is {kind}");
            errors.push(FieldError::invalid(path.child(other), mutation[other].clone(), detail));
        }
    }
}

fn param_kind(kind: &Value, path: &Path<'_>, errors: &mut Errors) {
    let place = path.child("apiVersion");
    let given = text(kind, "apiVersion");
    if required(kind, "apiVersion", path, "", errors) {
        if given.matches('/').count() > 1 {
            errors.push(FieldError::invalid(place, given, format!("unexpected GroupVersion string: {given}")));
        } else {
            let (group, version) = given.split_once('/').unwrap_or(("", given));
            for (part, messages) in [
                (group, if group.is_empty() { Vec::new() } else { name::dns1123_subdomain(group) }),
                (version, if version.is_empty() { Vec::new() } else { name::dns1035_label(version) }),
            ] {
                if !messages.is_empty() {
                    errors.push(FieldError::invalid(place, part, messages.join(",")));
                }
            }
            if version.is_empty() {
                errors.push(FieldError::invalid(place, given, "version must be specified"));
            }
        }
    }
    if required(kind, "kind", path, "", errors) {
        let messages = name::dns1035_label(&text(kind, "kind").to_lowercase());
        if !messages.is_empty() {
            let detail = format!("may have mixed case, but should otherwise match: {}", messages.join(","));
            errors.push(FieldError::invalid(path.child("kind"), text(kind, "kind"), detail));
        }
    }
}

fn match_resources(resources: &Value, path: &Path<'_>, errors: &mut Errors) {
    enumeration(resources, "matchPolicy", &["Equivalent", "Exact"], path, errors);
    for selector in ["namespaceSelector", "objectSelector"] {
        if resources[selector].is_null() {
            errors.push(FieldError::required(path.child(selector), ""));
        }
        selector_with(&resources[selector], &path.child(selector), false, errors);
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        let place = path.child(field);
        for (index, rule) in list(resources, field).iter().enumerate() {
            let path = place.index(index);
            let (place, names) = (path.child("resourceNames"), list(rule, "resourceNames"));
            for (index, name) in names.iter().enumerate() {
                let messages = name::path_segment(name.as_str().unwrap_or_default());
                invalid(errors, &place.index(index), name, messages);
                if names[..index].contains(name) {
                    errors.push(FieldError::duplicate(place.index(index), name.clone()));
                }
            }
            rule_with_operations(rule, &path, errors);
        }
    }
}

pub(super) fn binding(kind: &str, object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    required_follows(errors, &path, spec, "policyName", name::dns1123_subdomain);
    if !spec["paramRef"].is_null() {
        param_ref(&spec["paramRef"], &path.child("paramRef"), errors);
    }
    if !spec["matchResources"].is_null() {
        // The path is spelled as upstream spells it.
        match_resources(&spec["matchResources"], &path.child("matchResouces"), errors);
    }
    if kind != "ValidatingAdmissionPolicyBinding" {
        return;
    }
    let (place, actions) = (path.child("validationActions"), list(spec, "validationActions"));
    for (index, action) in actions.iter().enumerate() {
        among(action, &place.index(index), &["Audit", "Deny", "Warn"], errors);
        if actions[..index].contains(action) {
            errors.push(FieldError::duplicate(place.index(index), action.clone()));
        }
    }
    let has = |wanted: &str| actions.iter().any(|action| action == wanted);
    if has("Deny") && has("Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the \
                      API response and headers serves no purpose)";
        errors.push(FieldError::invalid(place, spec["validationActions"].clone(), detail));
    }
    if actions.is_empty() {
        errors.push(FieldError::required(place, "at least one validation action is required"));
    }
}

fn param_ref(reference: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (name, selector) = (text(reference, "name"), &reference["selector"]);
    let both = "name and selector are mutually exclusive";
    if !name.is_empty() {
        invalid(errors, &path.child("name"), &name.into(), name::path_segment(name));
        if !selector.is_null() {
            errors.push(FieldError::forbidden(path.child("name"), both));
        }
    }
    if !selector.is_null() {
        selector_with(selector, &path.child("selector"), false, errors);
        if !name.is_empty() {
            errors.push(FieldError::forbidden(path.child("selector"), both));
        }
    } else if name.is_empty() {
        errors.push(FieldError::required(path, "one of name or selector must be specified"));
    }
    if required(reference, "parameterNotFoundAction", path, "", errors) {
        let place = path.child("parameterNotFoundAction");
        among(&reference["parameterNotFoundAction"], &place, &["Deny", "Allow"], errors);
    }
}

pub(super) fn status(object: &Value, errors: &mut Errors) {
    let (status, path) = (&object["status"], Path::new("status"));
    let place = path.child("typeChecking");
    let place = place.child("expressionWarnings");
    for (index, warning) in list(status, "typeChecking.expressionWarnings").iter().enumerate() {
        let path = place.index(index);
        required(warning, "warning", &path, "", errors);
        if text(warning, "fieldRef").trim().is_empty() {
            errors.push(FieldError::required(path.child("fieldRef"), ""));
        }
    }
    conditions(list(status, "conditions"), &path.child("conditions"), errors);
}
