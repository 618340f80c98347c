//! Label selectors, and whether they select what they have to.

use serde_json::Value;

use super::{Errors, invalid, metadata};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, list, size, text};
use crate::selector::LabelSelector;

/// A `metav1.LabelSelector`; null is fine.
pub(super) fn label_selector(selector: &Value, path: &Path<'_>, errors: &mut Errors) {
    selector_with(selector, path, false, errors);
}

/// A `metav1.LabelSelector` whose values may be no label values, when `lenient`: old objects may have such.
pub(super) fn selector_with(selector: &Value, path: &Path<'_>, lenient: bool, errors: &mut Errors) {
    metadata::labels(selector, "matchLabels", path, errors);
    let expressions = path.child("matchExpressions");
    for (index, expression) in list(selector, "matchExpressions").iter().enumerate() {
        let path = expressions.index(index);
        let values = path.child("values");
        let given = list(expression, "values");
        match text(expression, "operator") {
            "In" | "NotIn" if given.is_empty() => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(values, detail));
            }
            "In" | "NotIn" => {}
            "Exists" | "DoesNotExist" if !given.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(values, detail));
            }
            "Exists" | "DoesNotExist" => {}
            other => {
                errors.push(FieldError::invalid(path.child("operator"), other, "not a valid selector operator"));
            }
        }
        label_key(text(expression, "key"), &path.child("key"), errors);
        for (index, value) in given.iter().enumerate().filter(|_| !lenient) {
            invalid(errors, &values.index(index), value, name::label_value(value.as_str().unwrap_or_default()));
        }
    }
}

/// Whether a label selector has values that are no label values.
pub(super) fn has_invalid_values(selector: &Value) -> bool {
    list(selector, "matchExpressions")
        .iter()
        .flat_map(|term| list(term, "values"))
        .any(|value| !name::label_value(value.as_str().unwrap_or_default()).is_empty())
}

/// The key of a label.
pub(super) fn label_key(key: &str, path: &Path<'_>, errors: &mut Errors) {
    let wrong = name::qualified_name(key);
    if !wrong.is_empty() {
        invalid(errors, path, &Value::from(key), wrong);
    }
}

/// Whether a selector has no conditions at all.
pub(super) fn is_empty(selector: &Value) -> bool {
    size(selector, "matchLabels") + size(selector, "matchExpressions") == 0
}

/// What a selector that must select its own template gets wrong about it.
pub(super) fn selects_template(selector: &LabelSelector, template: &Value, path: &Path<'_>, errors: &mut Errors) {
    let labels = &template["metadata"]["labels"];
    if !selector.matches_labels(labels) {
        let detail = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid(path.child("metadata").child("labels"), labels.clone(), detail));
    }
}
