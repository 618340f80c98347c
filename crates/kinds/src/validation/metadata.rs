//! `metadata`: names, labels, annotations, finalizers, and what never changes.

use serde_json::Value;

use super::{Errors, invalid};
use crate::field_error::FieldError;
use crate::kind::Kind;
use crate::name;
use crate::path::{Path, entries, list, text};

/// All annotations together may have this many bytes.
const ANNOTATIONS_LIMIT: usize = 256 << 10;

/// The rule for a kind's names.
fn rule(collection: &str) -> fn(&str) -> Vec<String> {
    match collection {
        "core/namespaces" => name::dns1123_label,
        "core/services" => name::dns1035_label,
        "rbac.authorization.k8s.io/roles"
        | "rbac.authorization.k8s.io/clusterroles"
        | "rbac.authorization.k8s.io/rolebindings"
        | "rbac.authorization.k8s.io/clusterrolebindings"
        | "certificates.k8s.io/certificatesigningrequests"
        | "certificates.k8s.io/clustertrustbundles" => name::path_segment,
        "networking.k8s.io/ipaddresses" => name::ip,
        _ => name::dns1123_subdomain,
    }
}

pub(super) fn create(kind: &Kind, object: &Value, errors: &mut Errors) {
    let metadata = &object["metadata"];
    let path = Path::new("metadata");
    match metadata["name"].as_str().filter(|name| !name.is_empty()) {
        Some(given) => invalid(errors, &path.child("name"), &metadata["name"], rule(&kind.collection)(given)),
        None if text(metadata, "generateName").is_empty() => {
            errors.push(FieldError::required(path.child("name"), "name or generateName is required"));
        }
        None => {}
    }
    common(metadata, &path, errors);
}

pub(super) fn update(object: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("metadata");
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        let (now, before) = (&object["metadata"][field], &old["metadata"][field]);
        if now != before && !before.is_null() {
            errors.push(FieldError::invalid(path.child(field), now.clone(), "field is immutable"));
        }
    }
    common(&object["metadata"], &path, errors);
}

fn common(metadata: &Value, path: &Path<'_>, errors: &mut Errors) {
    labels(metadata, "labels", path, errors);
    let annotations = path.child("annotations");
    let mut size = 0;
    for (key, value) in entries(metadata, "annotations") {
        size += key.len() + value.as_str().map_or(0, str::len);
        invalid(errors, &annotations, &Value::from(key), name::qualified_name(&key.to_lowercase()));
    }
    if size > ANNOTATIONS_LIMIT {
        errors.push(FieldError::too_long(annotations, ANNOTATIONS_LIMIT));
    }
    let finalizers = path.child("finalizers");
    for finalizer in list(metadata, "finalizers") {
        invalid(errors, &finalizers, finalizer, name::qualified_name(finalizer.as_str().unwrap_or_default()));
    }
    let owners = path.child("ownerReferences");
    for (index, owner) in list(metadata, "ownerReferences").iter().enumerate() {
        let path = owners.index(index);
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, field).is_empty() {
                errors.push(FieldError::invalid(path.child(field), "", format!("{} must not be empty", words(field))));
            }
        }
    }
    let controllers = list(metadata, "ownerReferences").iter().filter(|owner| owner["controller"] == true).count();
    if controllers > 1 {
        let detail = "Only one reference can have Controller set to true".to_owned();
        errors.push(FieldError::invalid(owners, metadata["ownerReferences"].clone(), detail));
    }
}

fn words(field: &str) -> &str {
    if field == "apiVersion" { "version" } else { field }
}

/// A map of labels.
pub(super) fn labels(holder: &Value, field: &str, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child(field);
    for (key, value) in entries(holder, field) {
        invalid(errors, &path, &Value::from(key), name::qualified_name(key));
        invalid(errors, &path, value, name::label_value(value.as_str().unwrap_or_default()));
    }
}
