//! Which nodes a pod wants or refuses, by their labels and by the pods that they have.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::selector::{label_key, label_selector};
use super::super::{Errors, invalid};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, entries, list, text};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(super) fn affinity(affinity: &Value, path: &Path<'_>, errors: &mut Errors) {
    let nodes = &affinity["nodeAffinity"];
    let place = path.child("nodeAffinity");
    if !nodes[REQUIRED].is_null() {
        node_selector(&nodes[REQUIRED], &place.child(REQUIRED), errors);
    }
    let preferred = place.child(PREFERRED);
    for (index, term) in list(nodes, PREFERRED).iter().enumerate() {
        let path = preferred.index(index);
        weight(term, &path, errors);
        // Values that are no labels can never match, which a mere preference may well do.
        node_term(&term["preference"], true, &path.child("preference"), errors);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let place = path.child(kind);
        let required = place.child(REQUIRED);
        for (index, term) in list(&affinity[kind], REQUIRED).iter().enumerate() {
            pod_term(term, &required.index(index), errors);
        }
        let preferred = place.child(PREFERRED);
        for (index, term) in list(&affinity[kind], PREFERRED).iter().enumerate() {
            let path = preferred.index(index);
            weight(term, &path, errors);
            pod_term(&term["podAffinityTerm"], &path.child("podAffinityTerm"), errors);
        }
    }
}

fn weight(term: &Value, path: &Path<'_>, errors: &mut Errors) {
    let weight = term["weight"].as_i64().unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.push(FieldError::invalid(path.child("weight"), weight, "must be in the range 1-100"));
    }
}

/// A `NodeSelector`, also that of a persistent volume.
pub(in crate::validation) fn node_selector(selector: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("nodeSelectorTerms");
    let terms = list(selector, "nodeSelectorTerms");
    if terms.is_empty() {
        errors.push(FieldError::required(path, "must have at least one node selector term"));
    }
    for (index, term) in terms.iter().enumerate() {
        node_term(term, false, &path.index(index), errors);
    }
}

fn node_term(term: &Value, any_value: bool, path: &Path<'_>, errors: &mut Errors) {
    let expressions = path.child("matchExpressions");
    for (index, requirement) in list(term, "matchExpressions").iter().enumerate() {
        node_requirement(requirement, any_value, &expressions.index(index), errors);
    }
    let fields = path.child("matchFields");
    for (index, requirement) in list(term, "matchFields").iter().enumerate() {
        node_field(requirement, &fields.index(index), errors);
    }
}

fn node_requirement(requirement: &Value, any_value: bool, path: &Path<'_>, errors: &mut Errors) {
    let values = path.child("values");
    let given = list(requirement, "values");
    match text(requirement, "operator") {
        "In" | "NotIn" if given.is_empty() => {
            errors.push(FieldError::required(values, "must be specified when `operator` is 'In' or 'NotIn'"));
        }
        "Exists" | "DoesNotExist" if !given.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(values, detail));
        }
        "Gt" | "Lt" if given.len() != 1 => {
            let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.push(FieldError::required(values, detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.push(FieldError::invalid(path.child("operator"), other, "not a valid selector operator")),
    }
    label_key(text(requirement, "key"), &path.child("key"), errors);
    if !any_value {
        for (index, value) in given.iter().enumerate() {
            invalid(errors, &values.index(index), value, name::label_value(value.as_str().unwrap_or_default()));
        }
    }
}

fn node_field(requirement: &Value, path: &Path<'_>, errors: &mut Errors) {
    let values = path.child("values");
    let given = list(requirement, "values");
    match text(requirement, "operator") {
        "In" | "NotIn" if given.len() != 1 => {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.push(FieldError::required(values, detail));
        }
        "In" | "NotIn" => {}
        other => errors.push(FieldError::invalid(path.child("operator"), other, "not a valid selector operator")),
    }
    let key = text(requirement, "key");
    if key != "metadata.name" {
        errors.push(FieldError::invalid(path.child("key"), key, "not a valid field selector key"));
        return;
    }
    for (index, value) in given.iter().enumerate() {
        invalid(errors, &values.index(index), value, name::dns1123_subdomain(value.as_str().unwrap_or_default()));
    }
}

fn pod_term(term: &Value, path: &Path<'_>, errors: &mut Errors) {
    label_selector(&term["labelSelector"], &path.child("labelSelector"), errors);
    label_selector(&term["namespaceSelector"], &path.child("namespaceSelector"), errors);
    for namespace in list(term, "namespaces") {
        let given = namespace.as_str().unwrap_or_default();
        invalid(errors, &path.child("namespace"), namespace, name::dns1123_label(given));
    }
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        keys(term, field, &path.child(field), errors);
    }
    keys_apart(term, path, errors);
    let topology = text(term, "topologyKey");
    if topology.is_empty() {
        errors.push(FieldError::required(path.child("topologyKey"), "can not be empty"));
    }
    label_key(topology, &path.child("topologyKey"), errors);
}

fn keys(term: &Value, field: &str, path: &Path<'_>, errors: &mut Errors) {
    let given = list(term, field);
    if !given.is_empty() && term["labelSelector"].is_null() {
        errors.push(FieldError::forbidden(path, "must not be specified when labelSelector is not set"));
        return;
    }
    for (index, key) in given.iter().enumerate() {
        label_key(key.as_str().unwrap_or_default(), &path.index(index), errors);
    }
}

/// A key is matched, or mismatched, or selected by the user, but not more than one of these.
fn keys_apart(term: &Value, path: &Path<'_>, errors: &mut Errors) {
    let matched = list(term, "matchLabelKeys");
    if matched.is_empty() {
        return;
    }
    let selector = &term["labelSelector"];
    let mut selected: BTreeSet<&str> = entries(selector, "matchLabels").map(|(key, _)| key).collect();
    for expression in list(selector, "matchExpressions") {
        let key = text(expression, "key");
        // The server itself has added one expression for each key: a second one is the user's.
        if !selected.insert(key)
            && let Some(index) = matched.iter().position(|matched| matched == key)
        {
            let detail = "exists in both matchLabelKeys and labelSelector";
            errors.push(FieldError::invalid(path.index(index), key, detail));
        }
    }
    let mismatched = list(term, "mismatchLabelKeys");
    let place = path.child("matchLabelKeys");
    for (index, key) in matched.iter().enumerate().filter(|(_, key)| mismatched.contains(key)) {
        let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
        errors.push(FieldError::invalid(place.index(index), key.clone(), detail));
    }
}
