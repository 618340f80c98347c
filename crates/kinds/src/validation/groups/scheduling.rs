//! PriorityClass, RuntimeClass and Lease.

use serde_json::Value;

use super::checks::immutable;
use super::node_selector::tolerations;
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, entries, list, text};
use crate::quantity::Quantity;
use crate::validation::metadata::labels;
use crate::validation::{Errors, invalid, not_negative};

/// The highest priority that users may define.
const HIGHEST: i64 = 1_000_000_000;
/// The classes that the system defines.
const SYSTEM: [(&str, i64); 2] = [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

pub(super) fn priority_class(object: &Value, errors: &mut Errors) {
    let (name, value) = (text(object, "metadata.name"), object["value"].as_i64().unwrap_or(0));
    if name.starts_with("system-") {
        let problem = match SYSTEM.iter().find(|(known, _)| *known == name) {
            None => Some(format!("{name} is not a known system priority class")),
            Some((_, fixed)) if *fixed != value => Some(format!("value of {name} PriorityClass must be {fixed}")),
            Some(_) if object["globalDefault"] == true => {
                Some(format!("globalDefault of {name} PriorityClass must be false"))
            }
            Some(_) => None,
        };
        if let Some(problem) = problem {
            let detail = format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {problem}"
            );
            errors.push(FieldError::forbidden("metadata.name", detail));
        }
    } else if value > HIGHEST {
        let detail = format!("maximum allowed value of a user defined priority is {HIGHEST}");
        errors.push(FieldError::forbidden("value", detail));
    }
    match object["preemptionPolicy"].as_str() {
        None | Some("PreemptLowerPriority" | "Never") => {}
        Some("") => errors.push(FieldError::required("preemptionPolicy", "")),
        Some(other) => {
            let allowed = ["PreemptLowerPriority", "Never"];
            errors.push(FieldError::not_supported("preemptionPolicy", other, &allowed));
        }
    }
}

pub(super) fn priority_class_update(object: &Value, old: &Value, errors: &mut Errors) {
    if object["value"].as_i64().unwrap_or(0) != old["value"].as_i64().unwrap_or(0) {
        errors.push(FieldError::forbidden("value", "may not be changed in an update."));
    }
    immutable(object, old, "preemptionPolicy", errors);
}

pub(super) fn runtime_class(object: &Value, errors: &mut Errors) {
    let handler = text(object, "handler");
    invalid(errors, &Path::new("handler"), &handler.into(), name::dns1123_label(handler));
    // Upstream checks the overhead as if it were the limits of a container.
    let limits = Path::new("overhead.limits");
    for (resource, amount) in entries(object, "overhead.podFixed") {
        let path = limits.key(resource);
        invalid(errors, &path, &resource.into(), name::qualified_name(resource));
        if amount.as_str().is_some_and(|text| text.parse::<Quantity>().is_ok_and(|amount| amount.is_negative())) {
            errors.push(FieldError::invalid(path, amount.clone(), "must be greater than or equal to 0"));
        }
    }
    let (scheduling, path) = (&object["scheduling"], Path::new("scheduling"));
    labels(scheduling, "nodeSelector", &path, errors);
    tolerations(list(scheduling, "tolerations"), &path.child("tolerations"), errors);
}

pub(super) fn runtime_class_update(object: &Value, old: &Value, errors: &mut Errors) {
    immutable(object, old, "handler", errors);
}

pub(super) fn lease(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    if let Some(seconds) = spec["leaseDurationSeconds"].as_i64().filter(|seconds| *seconds <= 0) {
        let path = path.child("leaseDurationSeconds");
        errors.push(FieldError::invalid(path, seconds, "must be greater than 0"));
    }
    not_negative(errors, &path.child("leaseTransitions"), &spec["leaseTransitions"]);
    if let Some(strategy) = spec["strategy"].as_str() {
        let path = path.child("strategy");
        let path = path.child("strategy");
        if !strategy.contains('/') {
            if strategy != "OldestEmulationVersion" {
                errors.push(FieldError::not_supported(path, strategy, &["OldestEmulationVersion"]));
            }
        } else {
            invalid(errors, &path, &strategy.into(), name::qualified_name(strategy));
        }
    }
    if !text(spec, "preferredHolder").is_empty() && text(spec, "strategy").is_empty() {
        let detail = "may only be specified if `strategy` is defined";
        errors.push(FieldError::forbidden(path.child("preferredHolder"), detail));
    }
}
