//! A pod's volumes.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Errors, invalid, one_of};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, list, text};

/// Checks the volumes and gives their names.
pub(super) fn volumes<'a>(spec: &'a Value, path: &Path<'_>, errors: &mut Errors) -> BTreeSet<&'a str> {
    let path = path.child("volumes");
    let mut names = BTreeSet::new();
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        let path = path.index(index);
        let name_of = text(volume, "name");
        if name_of.is_empty() {
            errors.push(FieldError::required(path.child("name"), ""));
        } else {
            invalid(errors, &path.child("name"), &volume["name"], name::dns1123_label(name_of));
            if !names.insert(name_of) {
                errors.push(FieldError::duplicate(path.child("name"), name_of));
            }
        }
        let sources: Vec<&String> =
            volume.as_object().map_or_else(Vec::new, |entries| entries.keys().filter(|key| *key != "name").collect());
        match sources.as_slice() {
            [] => errors.push(FieldError::required(path, "must specify a volume type")),
            [_] => {}
            [_, others @ ..] => errors.extend(
                others
                    .iter()
                    .map(|other| FieldError::forbidden(path.child(other), "may not specify more than 1 volume type")),
            ),
        }
        source(volume, &path, errors);
    }
    names
}

fn source(volume: &Value, path: &Path<'_>, errors: &mut Errors) {
    let required = |errors: &mut Errors, source: &str, field: &str| {
        if !volume[source].is_null() && text(&volume[source], field).is_empty() {
            errors.push(FieldError::required(path.child(source).child(field), ""));
        }
    };
    required(errors, "configMap", "name");
    required(errors, "secret", "secretName");
    required(errors, "hostPath", "path");
    required(errors, "persistentVolumeClaim", "claimName");
    one_of(
        errors,
        &path.child("hostPath").child("type"),
        &volume["hostPath"]["type"],
        &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"],
    );
    if text(&volume["hostPath"], "path").split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(
            path.child("hostPath").child("path"),
            volume["hostPath"]["path"].clone(),
            "must not contain '..'",
        ));
    }
    for field in ["configMap", "secret", "downwardAPI"] {
        let source = path.child(field);
        mode(&volume[field]["defaultMode"], &source.child("defaultMode"), errors);
        items(&volume[field], &source, errors);
    }
    let projected = path.child("projected");
    mode(&volume["projected"]["defaultMode"], &projected.child("defaultMode"), errors);
    let sources = projected.child("sources");
    for (index, source) in list(&volume["projected"], "sources").iter().enumerate() {
        let path = sources.index(index);
        for field in ["configMap", "secret", "downwardAPI"] {
            items(&source[field], &path.child(field), errors);
        }
        let token = &source["serviceAccountToken"];
        if !token.is_null() {
            let path = path.child("serviceAccountToken");
            if text(token, "path").is_empty() {
                errors.push(FieldError::required(path.child("path"), ""));
            }
            let seconds = token["expirationSeconds"].as_i64().unwrap_or(3600);
            if seconds < 600 {
                errors.push(FieldError::invalid(
                    path.child("expirationSeconds"),
                    seconds,
                    "may not specify a duration less than 10 minutes",
                ));
            }
        }
    }
}

fn items(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("items");
    for (index, item) in list(source, "items").iter().enumerate() {
        let path = path.index(index);
        let target = text(item, "path");
        if target.is_empty() {
            errors.push(FieldError::required(path.child("path"), ""));
        } else if target.starts_with('/') {
            errors.push(FieldError::invalid(path.child("path"), target, "must be a relative path"));
        } else if target.split('/').any(|part| part == "..") {
            errors.push(FieldError::invalid(path.child("path"), target, "must not contain '..'"));
        }
        mode(&item["mode"], &path.child("mode"), errors);
    }
}

fn mode(value: &Value, path: &Path<'_>, errors: &mut Errors) {
    if value.as_i64().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
        errors.push(FieldError::invalid(
            path,
            value.clone(),
            "must be a number between 0 and 0777 (octal), both inclusive",
        ));
    }
}
