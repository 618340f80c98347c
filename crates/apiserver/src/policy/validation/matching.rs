//! What is wrong with what a policy or binding means: selectors and rules.

use std::collections::HashSet;

use kobune_kinds::{FieldError, name, selector::LabelSelector};
use serde_json::Value;

use super::{Errors, list, one_of, text};

pub(super) fn selector(errors: &mut Errors, path: String, selector: Option<&Value>) {
    match selector {
        None => errors.push(FieldError::required(path, "")),
        Some(selector) => {
            if let Err(error) = LabelSelector::from_object(selector) {
                errors.push(FieldError::invalid(path, selector.clone(), error.to_string()));
            }
        }
    }
}

pub(super) fn match_resources(errors: &mut Errors, path: &str, resources: &Value) {
    one_of(errors, format!("{path}.matchPolicy"), &resources["matchPolicy"], &["Equivalent", "Exact"]);
    for field in ["namespaceSelector", "objectSelector"] {
        selector(errors, format!("{path}.{field}"), resources.get(field));
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        for (index, rule) in list(&resources[field]).enumerate() {
            rule_with_operations(errors, &format!("{path}.{field}[{index}]"), rule);
        }
    }
}

fn rule_with_operations(errors: &mut Errors, path: &str, rule: &Value) {
    let mut names = HashSet::new();
    for (index, resource_name) in list(&rule["resourceNames"]).enumerate() {
        let place = format!("{path}.resourceNames[{index}]");
        let resource_name = text(resource_name);
        let problems = name::path_segment(resource_name);
        errors.extend(problems.into_iter().map(|words| FieldError::invalid(&place, resource_name, words)));
        if !names.insert(resource_name) {
            errors.push(FieldError::duplicate(&place, resource_name));
        }
    }
    for field in ["apiGroups", "apiVersions", "resources"] {
        texts(errors, &format!("{path}.{field}"), &rule[field], field != "apiGroups");
    }
    resource_patterns(errors, &format!("{path}.resources"), &rule["resources"]);
    let operations = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
    let place = format!("{path}.operations");
    texts(errors, &place, &rule["operations"], false);
    for (index, operation) in list(&rule["operations"]).enumerate() {
        if !operations.contains(&text(operation)) {
            errors.push(FieldError::not_supported(format!("{place}[{index}]"), text(operation), &operations));
        }
    }
    if rule.get("scope").is_some() && !["*", "Cluster", "Namespaced"].contains(&text(&rule["scope"])) {
        let allowed = ["*", "Cluster", "Namespaced"];
        errors.push(FieldError::not_supported(format!("{path}.scope"), text(&rule["scope"]), &allowed));
    }
}

/// A list that may not be empty, and in which a wildcard stands alone.
fn texts(errors: &mut Errors, path: &str, given: &Value, filled: bool) {
    let count = list(given).count();
    if count == 0 {
        errors.push(FieldError::required(path, ""));
    }
    for (index, item) in list(given).enumerate() {
        if filled && text(item).is_empty() {
            errors.push(FieldError::required(format!("{path}[{index}]"), ""));
        }
    }
    let wildcard = list(given).any(|item| text(item) == "*");
    if wildcard && count > 1 && !path.ends_with("resources") {
        let words = "if '*' is present, must not specify other values";
        errors.push(FieldError::invalid(path, given.clone(), words));
    }
}

/// Patterns of resources that other patterns contain already.
fn resource_patterns(errors: &mut Errors, path: &str, given: &Value) {
    let all: Vec<&str> = list(given).map(text).collect();
    if all.contains(&"*/*") && all.len() > 1 {
        let words = "if '*/*' is present, must not specify other resources";
        errors.push(FieldError::invalid(path, given.clone(), words));
    } else if all.contains(&"*") && all.iter().any(|pattern| *pattern != "*" && !pattern.contains('/')) {
        let words = "if '*' is present, must not specify other resources without subresources";
        errors.push(FieldError::invalid(path, given.clone(), words));
    }
    for (index, pattern) in all.iter().enumerate() {
        let Some((resource, subresource)) = pattern.split_once('/') else { continue };
        let place = format!("{path}[{index}]");
        if subresource != "*" && all.contains(&format!("{resource}/*").as_str()) {
            let words = format!("if '{resource}/*' is present, must not specify {pattern}");
            errors.push(FieldError::invalid(place, *pattern, words));
        } else if resource != "*" && all.contains(&format!("*/{subresource}").as_str()) {
            let words = format!("if '*/{subresource}' is present, must not specify {pattern}");
            errors.push(FieldError::invalid(place, *pattern, words));
        }
    }
}
