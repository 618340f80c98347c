//! PersistentVolumeClaim, on its own and in templates.

use serde_json::Value;

use super::selector::label_selector;
use super::{Errors, follows, immutable, invalid, one_of, required, resources, same};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, entries, list, text};

const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The spec of a claim.
pub(super) fn spec(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    if list(spec, "accessModes").is_empty() {
        errors.push(FieldError::required(path.child("accessModes"), "at least 1 access mode is required"));
    }
    label_selector(&spec["selector"], &path.child("selector"), errors);
    access_modes(spec, path, errors);
    let place = path.child("resources");
    let place = place.key("storage");
    let amount = &spec["resources"]["requests"]["storage"];
    if amount.is_null() {
        errors.push(FieldError::required(place, ""));
    } else {
        resources::positive(amount, &place, errors);
    }
    follows(errors, path, spec, "storageClassName", name::dns1123_subdomain);
    one_of(errors, &path.child("volumeMode"), &spec["volumeMode"], &["Block", "Filesystem"]);
    let (source, reference) = (&spec["dataSource"], &spec["dataSourceRef"]);
    for (field, source) in [("dataSource", source), ("dataSourceRef", reference)] {
        if !source.is_null() {
            data_source(source, &path.child(field), errors);
        }
    }
    if !source.is_null() && !reference.is_null() {
        let elsewhere = !text(reference, "namespace").is_empty();
        let differ = ["apiGroup", "kind", "name"].iter().any(|field| source[*field] != reference[*field]);
        let shown = format!("{}", path.child("dataSource"));
        if elsewhere {
            let detail = "may not be specified when dataSourceRef.namespace is specified";
            errors.push(FieldError::invalid(path, shown, detail));
        } else if differ {
            errors.push(FieldError::invalid(path, shown, "must match dataSourceRef"));
        }
    }
    follows(errors, path, spec, "volumeAttributesClassName", name::dns1123_subdomain);
}

/// How many nodes or pods may use a volume at once.
pub(super) fn access_modes(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    let path = path.child("accessModes");
    let modes = list(spec, "accessModes");
    for mode in modes {
        one_of(errors, &path, mode, &MODES);
    }
    let alone = modes.iter().any(|mode| mode == "ReadWriteOncePod");
    if alone && modes.iter().filter_map(Value::as_str).any(|mode| MODES[..3].contains(&mode)) {
        errors.push(FieldError::forbidden(path, "may not use ReadWriteOncePod with other access modes"));
    }
}

fn data_source(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    required(errors, path, source, "name");
    required(errors, path, source, "kind");
    if text(source, "apiGroup").is_empty() && text(source, "kind") != "PersistentVolumeClaim" {
        let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errors.push(FieldError::invalid(path, text(source, "kind"), detail));
    }
    follows(errors, path, source, "apiGroup", name::dns1123_subdomain);
    follows(errors, path, source, "namespace", name::dns1123_label);
}

/// A claim that is to replace `old`: once made, it can hardly change.
pub(super) fn update(claim: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let (now, before) = (&claim["spec"], &old["spec"]);
    spec(now, &path, errors);
    let annotation = |claim: &Value| claim["metadata"]["annotations"][BETA_CLASS].clone();
    let (class, old_class) = (&now["storageClassName"], &before["storageClassName"]);
    let (annotated, old_annotated) = (annotation(claim), annotation(old));
    let mut rest = now.clone();
    // A class may move from the old annotation to its field, and be chosen once.
    let moves = !old_annotated.is_null()
        && old_class.is_null()
        && *class == old_annotated
        && (annotated.is_null() || annotated == old_annotated);
    if !moves {
        let place = Path::new("metadata");
        let place = place.child("annotations");
        immutable(errors, place.child(BETA_CLASS), &annotated, &old_annotated);
    }
    let chosen = !class.is_null() && old_class.is_null() && (old_annotated.is_null() || *class == old_annotated);
    if moves || chosen {
        set(&mut rest, "storageClassName", old_class);
    }
    if text(before, "volumeName").is_empty() {
        set(&mut rest, "volumeName", &before["volumeName"]);
    }
    let storage = |claim: &Value| claim["spec"]["resources"]["requests"]["storage"].clone();
    if text(claim, "status.phase") == "Bound" {
        if !rest["resources"]["requests"].is_null() {
            set(&mut rest["resources"]["requests"], "storage", &storage(old));
        }
        if !now["volumeAttributesClassName"].is_null() {
            set(&mut rest, "volumeAttributesClassName", &before["volumeAttributesClassName"]);
        }
    }
    if !same(&rest, before) {
        let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for \
                      bound claims\n";
        errors.push(FieldError::forbidden(path, detail));
    }
    let amount = |value: &Value| resources::quantity(value).unwrap_or_default();
    let capacity = amount(&old["status"]["capacity"]["storage"]);
    if amount(&storage(claim)) < amount(&storage(old)) && amount(&storage(claim)) <= capacity {
        let place = path.child("resources");
        let place = place.child("requests");
        errors.push(FieldError::forbidden(place.child("storage"), "field can not be less than status.capacity"));
    }
    immutable(errors, "volumeMode", &now["volumeMode"], &before["volumeMode"]);
    let (attributes, old_attributes) = (&now["volumeAttributesClassName"], &before["volumeAttributesClassName"]);
    if attributes != old_attributes && !old_attributes.is_null() {
        let detail = match attributes.as_str() {
            None => "update from non-nil value to nil is forbidden",
            Some("") => "update from non-nil value to an empty string is forbidden",
            Some(_) => return,
        };
        errors.push(FieldError::forbidden(path.child("volumeAttributesClassName"), detail));
    }
}

fn set(holder: &mut Value, field: &str, value: &Value) {
    if let Some(fields) = holder.as_object_mut() {
        if value.is_null() {
            fields.remove(field);
        } else {
            fields.insert(field.to_owned(), value.clone());
        }
    }
}

/// `persistentvolumeclaims/status`.
pub(super) fn status(claim: &Value, errors: &mut Errors) {
    const STATES: [&str; 5] = [
        "ControllerResizeInProgress",
        "ControllerResizeInfeasible",
        "NodeResizeInProgress",
        "NodeResizeInfeasible",
        "NodeResizePending",
    ];
    if list(&claim["spec"], "accessModes").is_empty() {
        errors.push(FieldError::required("Spec.accessModes", ""));
    }
    let path = Path::new("status");
    let status = &claim["status"];
    let capacity = path.child("capacity");
    for (resource, value) in entries(status, "capacity") {
        resources::basic(value, &capacity.key(resource), errors);
    }
    let states = path.child("allocatedResourceStatus");
    for (resource, state) in entries(status, "allocatedResourceStatuses") {
        resource_key(resource, &states, errors);
        if !state.as_str().is_some_and(|state| STATES.contains(&state)) {
            errors.push(FieldError::not_supported(states, resource, &STATES));
        }
    }
    let allocated = path.child("allocatedResources");
    for (resource, value) in entries(status, "allocatedResources") {
        if resource_key(resource, &allocated, errors) {
            resources::basic(value, &allocated.key(resource), errors);
            resources::amount("storage", value, &allocated.key(resource), errors);
        }
    }
}

fn resource_key(resource: &str, path: &Path<'_>, errors: &mut Errors) -> bool {
    let wrong = name::qualified_name(resource);
    let good = wrong.is_empty();
    invalid(errors, path, &Value::from(resource), wrong);
    if good && resources::is_native(resource) && resource != "storage" {
        errors.push(FieldError::not_supported(path, resource, &["storage"]));
        return false;
    }
    good
}
