//! Namespace.

use serde_json::Value;

use super::Errors;
use super::metadata::finalizer;
use crate::field_error::FieldError;
use crate::path::{Path, list, text};

/// A new namespace.
pub(super) fn create(namespace: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let path = path.child("finalizers");
    for given in list(&namespace["spec"], "finalizers") {
        finalizer(given, &path, &path, errors);
    }
}

/// `namespaces/finalize`.
pub(super) fn finalize(namespace: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let path = path.child("finalizers");
    for (index, given) in list(&namespace["spec"], "finalizers").iter().enumerate() {
        let path = path.index(index);
        finalizer(given, &path, &path, errors);
    }
}

/// `namespaces/status`.
pub(super) fn status(namespace: &Value, errors: &mut Errors) {
    let path = Path::new("status");
    let phase = text(&namespace["status"], "phase");
    let (expected, detail) = match namespace["metadata"]["deletionTimestamp"].is_null() {
        true => ("Active", "may only be 'Active' if `deletionTimestamp` is empty"),
        false => ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty"),
    };
    if phase != expected {
        errors.push(FieldError::invalid(path.child("Phase"), phase, detail));
    }
}
