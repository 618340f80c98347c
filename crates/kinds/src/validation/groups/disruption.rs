//! PodDisruptionBudget.

use serde_json::Value;

use super::checks::{among, conditions};
use crate::field_error::FieldError;
use crate::path::{Path, list};
use crate::validation::selector::{has_invalid_values, selector_with};
use crate::validation::{Errors, not_negative};

pub(super) fn create(object: &Value, errors: &mut Errors) {
    spec(&object["spec"], false, errors);
}

pub(super) fn update(object: &Value, old: &Value, errors: &mut Errors) {
    spec(&object["spec"], has_invalid_values(&old["spec"]["selector"]), errors);
}

fn spec(spec: &Value, lenient: bool, errors: &mut Errors) {
    let path = Path::new("spec");
    if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
        let detail = "minAvailable and maxUnavailable cannot be both set";
        errors.push(FieldError::invalid(path, spec.clone(), detail));
    }
    for field in ["minAvailable", "maxUnavailable"] {
        amount(&spec[field], &path.child(field), errors);
    }
    selector_with(&spec["selector"], &path.child("selector"), lenient, errors);
    if !spec["unhealthyPodEvictionPolicy"].is_null() {
        let path = path.child("unhealthyPodEvictionPolicy");
        among(&spec["unhealthyPodEvictionPolicy"], &path, &["AlwaysAllow", "IfHealthyBudget"], errors);
    }
}

/// A number that is not negative, or a percentage of at most 100.
fn amount(value: &Value, path: &Path<'_>, errors: &mut Errors) {
    not_negative(errors, path, value);
    let Some(text) = value.as_str() else { return };
    let digits =
        text.strip_suffix('%').filter(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()));
    match digits {
        None => {
            let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or \
                          '93%', regex used for validation is '[0-9]+%')";
            errors.push(FieldError::invalid(path, text, detail));
        }
        // More digits than a number can have are more than 100 in any case.
        Some(digits) if digits.parse::<u64>().map_or(true, |percent| percent > 100) => {
            errors.push(FieldError::invalid(path, text, "must not be greater than 100%"));
        }
        Some(_) => {}
    }
}

pub(super) fn status(object: &Value, errors: &mut Errors) {
    let (status, path) = (&object["status"], Path::new("status"));
    conditions(list(status, "conditions"), &path.child("conditions"), errors);
    for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        not_negative(errors, &path.child(field), &status[field]);
    }
}
