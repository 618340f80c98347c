//! StorageClass, VolumeAttributesClass, VolumeAttachment and CSIStorageCapacity.

use std::collections::BTreeMap;

use serde_json::Value;

use super::checks::{among, driver_name, immutable};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, entries, list, size, text};
use crate::quantity::Quantity;
use crate::validation::selector::selector_with;
use crate::validation::{Errors, invalid, same};

/// A class may have this many parameters.
const PARAMETERS: usize = 512;
/// A class' parameters, or an attachment's metadata, may have this many bytes.
const BYTES: usize = 256 << 10;
/// The message of an attachment's error may have this many bytes.
const MESSAGE_BYTES: usize = 1024;

pub(super) fn class(object: &Value, errors: &mut Errors) {
    provisioner(object, "provisioner", errors);
    parameters(object, true, errors);
    let policy = &object["reclaimPolicy"];
    if !text(object, "reclaimPolicy").is_empty() {
        among(policy, &Path::new("reclaimPolicy"), &["Delete", "Retain"], errors);
    }
    let mode = Path::new("volumeBindingMode");
    if object["volumeBindingMode"].is_null() {
        errors.push(FieldError::required(mode, ""));
    } else {
        among(&object["volumeBindingMode"], &mode, &["Immediate", "WaitForFirstConsumer"], errors);
    }
    topologies(list(object, "allowedTopologies"), &Path::new("allowedTopologies"), errors);
}

fn provisioner(object: &Value, field: &str, errors: &mut Errors) {
    let (path, given) = (Path::new(field), text(object, field));
    if given.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else {
        let lower = given.to_lowercase();
        invalid(errors, &path, &lower.as_str().into(), name::qualified_name(&lower));
    }
}

fn parameters(object: &Value, may_be_empty: bool, errors: &mut Errors) {
    let path = Path::new("parameters");
    let count = size(object, "parameters");
    if count > PARAMETERS {
        errors.push(FieldError::too_long(path, PARAMETERS));
        return;
    }
    let mut bytes = 0;
    for (key, value) in entries(object, "parameters") {
        if key.is_empty() {
            errors.push(FieldError::invalid(path, "", "field can not be empty."));
        }
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > BYTES {
        errors.push(FieldError::too_long(path, BYTES));
    }
    if !may_be_empty && count == 0 {
        errors.push(FieldError::required(path, "must contain at least one key/value pair"));
    }
}

fn topologies(terms: &[Value], place: &Path<'_>, errors: &mut Errors) {
    let mut seen: Vec<BTreeMap<&str, Vec<&str>>> = Vec::new();
    for (index, term) in terms.iter().enumerate() {
        let path = place.index(index);
        let place = path.child("matchLabelExpressions");
        let mut keys = BTreeMap::new();
        for (index, expression) in list(term, "matchLabelExpressions").iter().enumerate() {
            let path = place.index(index);
            let key = text(expression, "key");
            let mut values: Vec<&str> = Vec::new();
            if list(expression, "values").is_empty() {
                errors.push(FieldError::required(path.child("values"), ""));
            }
            for (index, value) in list(expression, "values").iter().filter_map(Value::as_str).enumerate() {
                if values.contains(&value) {
                    errors.push(FieldError::duplicate(path.child("values").index(index), value));
                }
                values.push(value);
            }
            invalid(errors, &path.child("key"), &key.into(), name::qualified_name(key));
            values.sort_unstable();
            if keys.insert(key, values).is_some() {
                errors.push(FieldError::duplicate(path.child("key"), key));
            }
        }
        if seen.contains(&keys) {
            errors.push(FieldError::duplicate(place, ""));
        }
        seen.push(keys);
    }
}

fn forbid_change(object: &Value, old: &Value, field: &str, errors: &mut Errors) {
    if !same(&object[field], &old[field]) {
        errors.push(FieldError::forbidden(field, format!("updates to {field} are forbidden.")));
    }
}

pub(super) fn class_update(object: &Value, old: &Value, errors: &mut Errors) {
    for field in ["parameters", "provisioner", "reclaimPolicy"] {
        forbid_change(object, old, field, errors);
    }
    immutable(object, old, "volumeBindingMode", errors);
}

pub(super) fn attributes_class(object: &Value, errors: &mut Errors) {
    provisioner(object, "driverName", errors);
    parameters(object, false, errors);
}

pub(super) fn attributes_class_update(object: &Value, old: &Value, errors: &mut Errors) {
    for field in ["driverName", "parameters"] {
        forbid_change(object, old, field, errors);
    }
    attributes_class(object, errors);
}

pub(super) fn attachment(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    driver_name(text(spec, "attacher"), &path.child("attacher"), errors);
    let (source, place) = (&spec["source"], path.child("source"));
    let exactly_one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (source["persistentVolumeName"].as_str(), source["inlineVolumeSpec"].is_null()) {
        (None, true) => errors.push(FieldError::required(place, exactly_one)),
        (Some(_), false) => errors.push(FieldError::forbidden(place, exactly_one)),
        (Some(volume), true) => {
            let path = place.child("persistentVolumeName");
            if volume.is_empty() {
                errors.push(FieldError::required(path, "must specify non empty persistentVolumeName"));
            } else {
                invalid(errors, &path, &volume.into(), name::dns1123_subdomain(volume));
            }
        }
        (None, false) => {}
    }
    let node = text(spec, "nodeName");
    invalid(errors, &path.child("nodeName"), &node.into(), name::dns1123_subdomain(node));
    let (status, path) = (&object["status"], Path::new("status"));
    let bytes: usize =
        entries(status, "attachmentMetadata").map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if bytes > BYTES {
        errors.push(FieldError::too_long(path.child("attachmentMetadata"), BYTES));
    }
    for field in ["attachError", "detachError"] {
        let (error, path) = (&status[field], path.child(field));
        if text(error, "message").len() > MESSAGE_BYTES {
            errors.push(FieldError::too_long(path.child("message"), BYTES));
        }
        if let Some(code) = error["errorCode"].as_i64().filter(|code| *code < 0) {
            let detail = "must be between 0 and 2147483647, inclusive";
            errors.push(FieldError::invalid(path.child("errorCode"), code, detail));
        }
    }
}

pub(super) fn attachment_update(object: &Value, old: &Value, errors: &mut Errors) {
    attachment(object, errors);
    immutable(object, old, "spec", errors);
}

pub(super) fn capacity(object: &Value, errors: &mut Errors) {
    selector_with(&object["nodeTopology"], &Path::new("nodeTopology"), false, errors);
    let class = text(object, "storageClassName");
    invalid(errors, &Path::new("storageClassName"), &class.into(), name::dns1123_subdomain(class));
    let amount = &object["capacity"];
    if text(object, "capacity").parse::<Quantity>().is_ok_and(|amount| amount.is_negative()) {
        errors.push(FieldError::invalid("capacity", amount.clone(), "must be greater than or equal to 0"));
    }
}

pub(super) fn capacity_update(object: &Value, old: &Value, errors: &mut Errors) {
    for field in ["nodeTopology", "storageClassName"] {
        immutable(object, old, field, errors);
    }
}
