//! `metadata`: names, labels, annotations, finalizers, and what never changes.
//!
//! Source: `staging/src/k8s.io/apimachinery/pkg/api/validation/objectmeta.go` of Kubernetes 1.36.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Errors, invalid};
use crate::field_error::FieldError;
use crate::kind::Kind;
use crate::name;
use crate::path::{Path, entries, list, text};

/// All annotations together may have this many bytes.
const ANNOTATIONS_LIMIT: usize = 256 << 10;

/// The rule for a kind's names.
fn rule(kind: &Kind) -> fn(&str) -> Vec<String> {
    match &*kind.collection {
        "core/namespaces" | "apps/statefulsets" => name::dns1123_label,
        "core/services" => name::dns1035_label,
        "rbac.authorization.k8s.io/roles"
        | "rbac.authorization.k8s.io/clusterroles"
        | "rbac.authorization.k8s.io/rolebindings"
        | "rbac.authorization.k8s.io/clusterrolebindings"
        | "apiregistration.k8s.io/apiservices"
        | "certificates.k8s.io/certificatesigningrequests" => name::path_segment,
        "networking.k8s.io/ipaddresses" => super::groups::address_name,
        // The old group takes whatever can stand in a path.
        "core/events" if kind.group.is_empty() => name::path_segment,
        _ => name::dns1123_subdomain,
    }
}

/// A name whose end is to come: a dash before it is none at the end.
fn beginning(given: &str) -> String {
    match given.strip_suffix('-').filter(|rest| !rest.is_empty()) {
        Some(rest) => format!("{}a", rest.get(..rest.len() - 1).unwrap_or_default()),
        None => given.to_owned(),
    }
}

pub(super) fn create(kind: &Kind, object: &Value, errors: &mut Errors) {
    let metadata = &object["metadata"];
    let path = Path::new("metadata");
    let rule = rule(kind);
    let generated = text(metadata, "generateName");
    if !generated.is_empty() {
        invalid(errors, &path.child("generateName"), &metadata["generateName"], rule(&beginning(generated)));
    }
    match text(metadata, "name") {
        "" if generated.is_empty() => {
            errors.push(FieldError::required(path.child("name"), "name or generateName is required"));
        }
        "" => {}
        given => invalid(errors, &path.child("name"), &metadata["name"], rule(given)),
    }
    finalizers(metadata, &path, errors);
    common(kind, metadata, &path, errors);
}

pub(super) fn update(kind: &Kind, object: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("metadata");
    let (now, before) = (&object["metadata"], &old["metadata"]);
    if !before["deletionTimestamp"].is_null() {
        let kept = list(before, "finalizers");
        let added: BTreeSet<&str> = list(now, "finalizers")
            .iter()
            .filter(|finalizer| !kept.contains(finalizer))
            .filter_map(Value::as_str)
            .collect();
        if !added.is_empty() {
            let shown: Vec<String> = added.iter().map(|finalizer| format!("{finalizer:?}")).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                shown.join(", ")
            );
            errors.push(FieldError::forbidden(path.child("finalizers"), detail));
        }
    }
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        let (now, before) = (&now[field], &before[field]);
        if now != before && !before.is_null() {
            errors.push(FieldError::invalid(path.child(field), now.clone(), "field is immutable"));
        }
    }
    if now["finalizers"] != before["finalizers"] {
        finalizers(now, &path, errors);
    }
    common(kind, now, &path, errors);
}

/// Labels and annotations alone: what a conversion may change.
pub(crate) fn labels_and_annotations(metadata: &Value) -> Errors {
    let path = Path::new("metadata");
    let mut errors = Errors::new();
    labels(metadata, "labels", &path, &mut errors);
    annotations(metadata, &path, &mut errors);
    errors
}

fn common(kind: &Kind, metadata: &Value, path: &Path<'_>, errors: &mut Errors) {
    labels(metadata, "labels", path, errors);
    annotations(metadata, path, errors);
    owners(metadata, path, errors);
    if matches!(&*kind.group, "" | "apps" | "batch" | "autoscaling") {
        let place = path.child("finalizers");
        for (index, given) in list(metadata, "finalizers").iter().enumerate() {
            standard_finalizer(given.as_str().unwrap_or_default(), &place.index(index), errors);
        }
    }
}

fn finalizers(metadata: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("finalizers");
    let all = list(metadata, "finalizers");
    for given in all {
        invalid(errors, &path, given, name::qualified_name(given.as_str().unwrap_or_default()));
    }
    let has = |name: &str| all.iter().any(|given| given == name);
    if has("orphan") && has("foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(path, metadata["finalizers"].clone(), detail));
    }
}

/// A finalizer's name, which upstream looks at twice: whether it is a name, and whether it may do without a domain.
pub(super) fn finalizer(given: &Value, path: &Path<'_>, standard: &Path<'_>, errors: &mut Errors) {
    let text = given.as_str().unwrap_or_default();
    invalid(errors, path, given, name::qualified_name(text));
    standard_finalizer(text, standard, errors);
}

fn standard_finalizer(given: &str, path: &Path<'_>, errors: &mut Errors) {
    if !given.contains('/') && !matches!(given, "kubernetes" | "orphan" | "foregroundDeletion") {
        let detail = "name is neither a standard finalizer name nor is it fully qualified";
        errors.push(FieldError::invalid(path, given, detail));
    }
}

fn owners(metadata: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("ownerReferences");
    let mut controller: Option<(&str, &str)> = None;
    for owner in list(metadata, "ownerReferences") {
        if text(owner, "apiVersion").is_empty() {
            errors.push(FieldError::invalid(path.child("apiVersion"), "", "version must not be empty"));
        }
        for field in ["kind", "name", "uid"] {
            if text(owner, field).is_empty() {
                errors.push(FieldError::invalid(path.child(field), "", "must not be empty"));
            }
        }
        let own = (text(owner, "kind"), text(owner, "name"));
        if own.0 == "Event" && text(owner, "apiVersion") == "v1" {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(path, owner.clone(), detail));
        }
        if owner["controller"] == true {
            match controller {
                None => controller = Some(own),
                Some((kind, name)) => {
                    let detail = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for \
                         {kind}/{name} and {}/{}",
                        own.0, own.1
                    );
                    errors.push(FieldError::invalid(path, metadata["ownerReferences"].clone(), detail));
                }
            }
        }
    }
}

/// `annotations` of the metadata at `path`.
pub(super) fn annotations(metadata: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("annotations");
    let mut size = 0;
    for (key, value) in entries(metadata, "annotations") {
        size += key.len() + value.as_str().map_or(0, str::len);
        let wrong = match key.bytes().any(|b| b.is_ascii_uppercase()) {
            // The rule is that of labels, except that capital letters don't matter.
            true => name::qualified_name(&key.to_lowercase()),
            false => name::qualified_name(key),
        };
        if !wrong.is_empty() {
            invalid(errors, &path, &Value::from(key), wrong);
        }
    }
    if size > ANNOTATIONS_LIMIT {
        errors.push(FieldError::too_long(path, ANNOTATIONS_LIMIT));
    }
}

/// A map of labels.
pub(super) fn labels(holder: &Value, field: &str, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child(field);
    for (key, value) in entries(holder, field) {
        let wrong = name::qualified_name(key);
        if !wrong.is_empty() {
            invalid(errors, &path, &Value::from(key), wrong);
        }
        invalid(errors, &path, value, name::label_value(value.as_str().unwrap_or_default()));
    }
}
