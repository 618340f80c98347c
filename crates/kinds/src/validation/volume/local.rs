//! Volumes that the node makes from what it has: folders, config maps, secrets, claims, images.

use serde_json::Value;

use super::super::pod::environment::{DOWNWARD_VOLUME_FIELDS, field_selector, resource_selector};
use super::{Errors, descending, items, mode, no_backsteps, not_reserved, one_of, required, resources};
use crate::field_error::FieldError;
use crate::path::{Path, list, text};

pub(super) fn empty_dir(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    if resources::quantity(&source["sizeLimit"]).is_some_and(crate::quantity::Quantity::is_negative) {
        let detail = "SizeLimit field must be a valid resource quantity";
        errors.push(FieldError::forbidden(path.child("sizeLimit"), detail));
    }
}

pub(in crate::validation) fn host_path(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    if !required(errors, path, source, "path") {
        return;
    }
    no_backsteps(text(source, "path"), &path.child("path"), errors);
    one_of(
        errors,
        &path.child("type"),
        &source["type"],
        &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"],
    );
}

pub(super) fn git_repo(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    required(errors, path, source, "repository");
    descending(text(source, "directory"), &path.child("directory"), errors);
}

pub(super) fn secret(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    required(errors, path, source, "secretName");
    mode(&source["defaultMode"], &path.child("defaultMode"), errors);
    items(source, path, errors);
}

pub(super) fn config_map(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    required(errors, path, source, "name");
    mode(&source["defaultMode"], &path.child("defaultMode"), errors);
    items(source, path, errors);
}

pub(super) fn persistent_volume_claim(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    required(errors, path, source, "claimName");
}

pub(super) fn downward_api(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    mode(&source["defaultMode"], &path.child("defaultMode"), errors);
    for file in list(source, "items") {
        downward_file(file, path, errors);
    }
}

/// One field of the pod, and the file that it becomes.
pub(super) fn downward_file(file: &Value, path: &Path<'_>, errors: &mut Errors) {
    required(errors, path, file, "path");
    not_reserved(text(file, "path"), &path.child("path"), errors);
    match (&file["fieldRef"], &file["resourceFieldRef"]) {
        (Value::Null, Value::Null) => {
            errors.push(FieldError::required(path, "one of fieldRef and resourceFieldRef is required"));
        }
        (Value::Null, resource) => resource_selector(resource, true, &path.child("resourceFieldRef"), errors),
        (field, resource) => {
            field_selector(field, &DOWNWARD_VOLUME_FIELDS, &path.child("fieldRef"), errors);
            if !resource.is_null() {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(FieldError::invalid(path, "resource", detail));
            }
        }
    }
    mode(&file["mode"], &path.child("mode"), errors);
}

pub(super) fn image(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    super::pull_policy(&source["pullPolicy"], &path.child("pullPolicy"), errors);
}
