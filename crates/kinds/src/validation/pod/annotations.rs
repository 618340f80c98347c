//! Annotations of pods that mean something.

use serde_json::Value;

use super::super::Errors;
use super::super::volume::descending;
use super::each_container;
use crate::field_error::FieldError;
use crate::path::{Path, entries, list, text};

/// Marks the pod of a manifest on the node.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
pub(super) const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// Checks the annotations in `metadata`; `path` leads to them.
pub(super) fn annotations(metadata: &Value, spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    for (key, value) in entries(metadata, "annotations") {
        let value = value.as_str().unwrap_or_default();
        match key {
            MIRROR if text(spec, "nodeName").is_empty() => {
                let detail = "must set spec.nodeName if mirror pod annotation is set";
                errors.push(FieldError::invalid(path.key(key), value, detail));
            }
            DELETION_COST if !is_cost(value) => {
                errors.push(FieldError::invalid(path.key(key), value, "must be a 32bit integer"));
            }
            SECCOMP_POD => seccomp(value, &path.child(key), errors),
            _ if key.starts_with(SECCOMP_CONTAINER) => seccomp(value, &path.child(key), errors),
            _ => {}
        }
        if let Some(container) = key.strip_prefix(APP_ARMOR) {
            let all = ["initContainers", "containers", "ephemeralContainers"];
            let mut all = all.into_iter().flat_map(|field| list(spec, field));
            if !all.any(|other| text(other, "name") == container) {
                errors.push(FieldError::invalid(path.key(key), container, "container not found"));
            }
            if !matches!(value, "" | "runtime/default" | "unconfined") && !value.starts_with("localhost/") {
                let detail = format!("invalid AppArmor profile name: {value:?}");
                errors.push(FieldError::invalid(path.key(key), value, detail));
            }
        }
    }
}

/// A whole number written in the one way that there is.
fn is_cost(value: &str) -> bool {
    let digits = value.strip_prefix('-').unwrap_or(value);
    value.parse::<i32>().is_ok() && !value.starts_with('+') && (digits == "0" || !digits.starts_with('0'))
}

fn seccomp(profile: &str, path: &Path<'_>, errors: &mut Errors) {
    match profile {
        "runtime/default" | "docker/default" | "unconfined" => {}
        _ => match profile.strip_prefix("localhost/") {
            Some(file) => descending(file, path, errors),
            None => errors.push(FieldError::invalid(path, profile, "must be a valid seccomp profile")),
        },
    }
}

/// A profile that is given by annotation and by field must be the same one.
pub(super) fn match_fields(metadata: &Value, spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let annotations = &metadata["annotations"];
    if annotations.is_null() {
        return;
    }
    let whole = &spec["securityContext"];
    if let Some(annotation) = annotations[SECCOMP_POD].as_str() {
        let path = path.child("securityContext");
        same_profile(annotation, &whole["seccompProfile"], "seccomp", &path.child("seccompProfile"), errors);
    }
    let windows = spec["os"]["name"] == "windows";
    each_container(spec, path, |container, path| {
        let own = &container["securityContext"];
        let path = path.child("securityContext");
        let name_of = text(container, "name");
        if let Some(annotation) = annotations[format!("{SECCOMP_CONTAINER}{name_of}")].as_str() {
            same_profile(annotation, &own["seccompProfile"], "seccomp", &path.child("seccompProfile"), errors);
        }
        if let Some(annotation) = annotations[format!("{APP_ARMOR}{name_of}")].as_str().filter(|_| !windows) {
            let profile = match &own["appArmorProfile"] {
                Value::Null => &whole["appArmorProfile"],
                profile => profile,
            };
            same_profile(annotation, profile, "apparmor", &path.child("appArmorProfile"), errors);
        }
    });
}

fn same_profile(annotation: &str, profile: &Value, kind: &str, path: &Path<'_>, errors: &mut Errors) {
    let same_kind = match text(profile, "type") {
        "Unconfined" => annotation == "unconfined",
        "RuntimeDefault" => annotation == "runtime/default" || (kind == "seccomp" && annotation == "docker/default"),
        "Localhost" => match annotation.strip_prefix("localhost/") {
            Some(file) if profile["localhostProfile"] == file => true,
            Some(_) => {
                let detail = format!("{kind} profile in annotation and field must match");
                errors.push(FieldError::forbidden(path.child("localhostProfile"), detail));
                true
            }
            None => false,
        },
        _ => true,
    };
    if !same_kind {
        let detail = format!("{kind} type in annotation and field must match");
        errors.push(FieldError::forbidden(path.child("type"), detail));
    }
}
