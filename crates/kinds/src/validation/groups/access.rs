//! Roles and bindings.

use serde_json::Value;

use super::checks::required;
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, list, size, text};
use crate::validation::selector::selector_with;
use crate::validation::{Errors, invalid, required_follows, same};

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn cluster_role(object: &Value, errors: &mut Errors) {
    let rule = &object["aggregationRule"];
    if !rule.is_null() {
        let path = Path::new("aggregationRule.clusterRoleSelectors");
        let selectors = list(rule, "clusterRoleSelectors");
        if selectors.is_empty() {
            let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            errors.push(FieldError::required(path, detail));
        }
        for (index, selector) in selectors.iter().enumerate() {
            selector_with(selector, &path.index(index), false, errors);
        }
    }
    rules(object, false, errors);
}

pub(super) fn rules(object: &Value, namespaced: bool, errors: &mut Errors) {
    let place = Path::new("rules");
    for (index, rule) in list(object, "rules").iter().enumerate() {
        let path = place.index(index);
        if size(rule, "verbs") == 0 {
            errors.push(FieldError::required(path.child("verbs"), "verbs must contain at least one value"));
        }
        let count = |field| size(rule, field);
        if count("nonResourceURLs") > 0 {
            let mut wrong = |detail: &str| {
                let value = rule["nonResourceURLs"].clone();
                errors.push(FieldError::invalid(path.child("nonResourceURLs"), value, detail));
            };
            if namespaced {
                wrong("namespaced rules cannot apply to non-resource URLs");
            }
            if count("apiGroups") + count("resources") + count("resourceNames") > 0 {
                wrong("rules cannot apply to both regular resources and non-resource URLs");
            }
            continue;
        }
        if count("apiGroups") == 0 {
            let detail = "resource rules must supply at least one api group";
            errors.push(FieldError::required(path.child("apiGroups"), detail));
        }
        if count("resources") == 0 {
            let detail = "resource rules must supply at least one resource";
            errors.push(FieldError::required(path.child("resources"), detail));
        }
    }
}

/// A binding; one in a namespace may refer to a Role of it.
pub(super) fn binding(object: &Value, namespaced: bool, errors: &mut Errors) {
    let (role, path) = (&object["roleRef"], Path::new("roleRef"));
    if text(role, "apiGroup") != GROUP {
        errors.push(FieldError::not_supported(path.child("apiGroup"), text(role, "apiGroup"), &[GROUP]));
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&text(role, "kind")) {
        errors.push(FieldError::not_supported(path.child("kind"), text(role, "kind"), kinds));
    }
    required_follows(errors, &path, role, "name", name::path_segment);
    let place = Path::new("subjects");
    for (index, one) in list(object, "subjects").iter().enumerate() {
        subject(one, namespaced, &place.index(index), errors);
    }
}

fn subject(subject: &Value, namespaced: bool, path: &Path<'_>, errors: &mut Errors) {
    let has_name = required(subject, "name", path, "", errors);
    let group = text(subject, "apiGroup");
    match text(subject, "kind") {
        "ServiceAccount" => {
            if has_name {
                let name = text(subject, "name");
                invalid(errors, &path.child("name"), &subject["name"], name::dns1123_subdomain(name));
            }
            if !group.is_empty() {
                errors.push(FieldError::not_supported(path.child("apiGroup"), group, &[""]));
            }
            if !namespaced {
                required(subject, "namespace", path, "", errors);
            }
        }
        kind @ ("User" | "Group") => {
            if !has_name {
                let detail = format!("{} name cannot be empty", kind.to_lowercase());
                errors.push(FieldError::invalid(path.child("name"), "", detail));
            }
            if group != GROUP {
                errors.push(FieldError::not_supported(path.child("apiGroup"), group, &[GROUP]));
            }
        }
        other => {
            let kinds = ["ServiceAccount", "User", "Group"];
            errors.push(FieldError::not_supported(path.child("kind"), other, &kinds));
        }
    }
}

/// What a binding refers to never changes: a new binding is a new decision.
pub(super) fn binding_update(object: &Value, old: &Value, namespaced: bool, errors: &mut Errors) {
    binding(object, namespaced, errors);
    if !same(&object["roleRef"], &old["roleRef"]) {
        errors.push(FieldError::invalid("roleRef", object["roleRef"].clone(), "cannot change roleRef"));
    }
}
