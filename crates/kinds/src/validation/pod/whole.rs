//! Resources of the pod as a whole, and how they go with those of its containers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::super::{Errors, resources as amounts};
use crate::field_error::FieldError;
use crate::path::{Path, entries, list, text};
use crate::quantity::Quantity;

pub(super) fn resources(spec: &Value, claims: &BTreeSet<&str>, path: &Path<'_>, errors: &mut Errors) {
    let whole = &spec["resources"];
    if !whole["claims"].is_null() {
        let detail = "claims cannot be set for Resources at pod-level";
        errors.push(FieldError::forbidden(path.child("claims"), detail));
    }
    amounts::requirements(whole, amounts::pod_resource_name, claims, path, errors);
    let requests = path.child("requests");
    for (resource, asked) in requested(spec) {
        let given = amounts::quantity(&whole["requests"][resource]).unwrap_or_default();
        if asked > given {
            let detail = format!("must be greater than or equal to aggregate container requests of {asked}");
            errors.push(FieldError::invalid(requests.key(resource), given.to_string(), detail));
        }
    }
    let containers = path.child("containers");
    for (index, container) in list(spec, "containers").iter().enumerate() {
        for (resource, limit) in entries(&container["resources"], "limits") {
            let most = &whole["limits"][resource];
            let (Some(own), Some(whole)) = (amounts::quantity(limit), amounts::quantity(most)) else { continue };
            if own > whole {
                let detail = format!("must be less than or equal to pod limits of {whole}");
                let place = containers.index(index);
                errors.push(FieldError::invalid(place.key(resource).child("limits"), limit.clone(), detail));
            }
        }
    }
}

/// Amounts by resource.
pub(crate) type Amounts<'a> = BTreeMap<&'a str, Quantity>;

fn asked(container: &Value) -> impl Iterator<Item = (&str, Quantity)> {
    let given = entries(&container["resources"], "requests");
    given.filter_map(|(resource, value)| Some((resource, amounts::quantity(value)?)))
}

/// What the containers ask for together, at the time when they ask for most.
pub(crate) fn requested(spec: &Value) -> Amounts<'_> {
    let mut running = Amounts::new();
    for (resource, amount) in list(spec, "containers").iter().flat_map(asked) {
        let sum = running.entry(resource).or_default();
        *sum = *sum + amount;
    }
    let mut beside = Amounts::new();
    let mut starting = Amounts::new();
    for container in list(spec, "initContainers") {
        let sidecar = text(container, "restartPolicy") == "Always";
        for (resource, amount) in asked(container) {
            let already = beside.entry(resource).or_default();
            let most = starting.entry(resource).or_insert(amount);
            *most = (*most).max(*already + amount);
            if sidecar {
                *already = *already + amount;
                let sum = running.entry(resource).or_default();
                *sum = *sum + amount;
            }
        }
    }
    for (resource, amount) in starting {
        let most = running.entry(resource).or_default();
        *most = (*most).max(amount);
    }
    running
}
