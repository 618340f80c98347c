//! Where a container finds its volumes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::super::volume::descending;
use super::super::{Errors, one_of, required};
use super::Context;
use crate::field_error::FieldError;
use crate::path::{Path, flag, list, text};

/// Names of volumes with the paths at which one container has them.
fn places<'a>(container: &'a Value, field: &str, path: &str) -> BTreeMap<&'a str, &'a str> {
    list(container, field).iter().map(|use_of| (text(use_of, "name"), text(use_of, path))).collect()
}

/// `volumeMounts`.
pub(super) fn mounts(container: &Value, context: &Context<'_>, path: &Path<'_>, errors: &mut Errors) {
    let given = list(container, "volumeMounts");
    if given.is_empty() {
        return;
    }
    let path = path.child("volumeMounts");
    let devices = places(container, "volumeDevices", "devicePath");
    let mut seen = BTreeSet::new();
    for (index, mount) in given.iter().enumerate() {
        let place = path.index(index);
        let (name_of, at) = (text(mount, "name"), text(mount, "mountPath"));
        required(errors, &place, mount, "name");
        let volume = context.volumes.get(name_of);
        if volume.is_none() {
            errors.push(FieldError::not_found(place.child("name"), name_of));
        }
        required(errors, &place, mount, "mountPath");
        if !seen.insert(at) {
            errors.push(FieldError::invalid(place.child("mountPath"), at, "must be unique"));
        }
        if devices.contains_key(name_of) {
            errors.push(FieldError::invalid(place.child("name"), name_of, "must not already exist in volumeDevices"));
        }
        if devices.values().any(|device| *device == at) {
            let detail = "must not already exist as a path in volumeDevices";
            errors.push(FieldError::invalid(place.child("mountPath"), at, detail));
        }
        let (below, expression) = (text(mount, "subPath"), text(mount, "subPathExpr"));
        // Upstream names these without the mount's index.
        if !below.is_empty() {
            descending(below, &path.child("subPath"), errors);
        }
        if !expression.is_empty() {
            if !below.is_empty() {
                let detail = "subPathExpr and subPath are mutually exclusive";
                errors.push(FieldError::invalid(place.child("subPathExpr"), expression, detail));
            }
            descending(expression, &path.child("subPathExpr"), errors);
        }
        propagation(mount, container, &path, errors);
        recursive_read_only(mount, &path.child("recursiveReadOnly"), errors);
    }
}

fn propagation(mount: &Value, container: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("mountPropagation");
    one_of(errors, &path, &mount["mountPropagation"], &["Bidirectional", "HostToContainer", "None"]);
    if mount["mountPropagation"] == "Bidirectional" && !flag(container, "securityContext.privileged") {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errors.push(FieldError::forbidden(path, detail));
    }
}

fn recursive_read_only(mount: &Value, path: &Path<'_>, errors: &mut Errors) {
    match mount["recursiveReadOnly"].as_str() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if !flag(mount, "readOnly") {
                errors.push(FieldError::forbidden(path, "may only be specified when readOnly is true"));
            }
            if !matches!(mount["mountPropagation"].as_str(), None | Some("None")) {
                let detail = "may only be specified when mountPropagation is None or not specified";
                errors.push(FieldError::forbidden(path, detail));
            }
        }
        Some(other) => errors.push(FieldError::not_supported(path, other, &["Disabled", "Enabled", "IfPossible"])),
    }
}

/// `volumeDevices`.
pub(super) fn devices(container: &Value, context: &Context<'_>, path: &Path<'_>, errors: &mut Errors) {
    let given = list(container, "volumeDevices");
    if given.is_empty() {
        return;
    }
    let path = path.child("volumeDevices");
    let mounts = places(container, "volumeMounts", "mountPath");
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for (index, device) in given.iter().enumerate() {
        let path = path.index(index);
        let (name_of, at) = (text(device, "name"), text(device, "devicePath"));
        if required(errors, &path, device, "name") && !names.insert(name_of) {
            errors.push(FieldError::invalid(path.child("name"), name_of, "must be unique"));
        }
        match context.volumes.get(name_of) {
            Some(volume) if volume["persistentVolumeClaim"].is_null() && volume["ephemeral"].is_null() => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.push(FieldError::invalid(path.child("name"), name_of, detail));
            }
            Some(_) => {}
            None => errors.push(FieldError::not_found(path.child("name"), name_of)),
        }
        required(errors, &path, device, "devicePath");
        if paths.contains(at) {
            errors.push(FieldError::invalid(path.child("devicePath"), at, "must be unique"));
        }
        if at.split('/').any(|part| part == "..") {
            errors.push(FieldError::invalid(path.child("devicePath"), at, "can not contain backsteps ('..')"));
        } else {
            paths.insert(at);
        }
        if mounts.contains_key(name_of) {
            errors.push(FieldError::invalid(path.child("name"), name_of, "must not already exist in volumeMounts"));
        }
        if mounts.values().any(|mount| *mount == at) {
            let detail = "must not already exist as a path in volumeMounts";
            errors.push(FieldError::invalid(path.child("devicePath"), at, detail));
        }
    }
}
