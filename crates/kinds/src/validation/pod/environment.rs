//! Environment variables and where their values come from.

use serde_json::Value;

use super::super::volume::not_reserved;
use super::super::{Errors, invalid, required, required_follows};
use super::Context;
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, list, text};

const VARIABLE_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// The fields of a pod that a volume can show.
pub(in crate::validation) const DOWNWARD_VOLUME_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// `env`.
pub(super) fn variables(container: &Value, context: &Context<'_>, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("env");
    for (index, variable) in list(container, "env").iter().enumerate() {
        let path = path.index(index);
        required_follows(errors, &path, variable, "name", name::env_var_name);
        let from = &variable["valueFrom"];
        if !from.is_null() {
            value_from(from, text(variable, "value"), context, &path.child("valueFrom"), errors);
        }
    }
}

fn value_from(from: &Value, value: &str, context: &Context<'_>, path: &Path<'_>, errors: &mut Errors) {
    let mut count = 0;
    for (field, source) in from.as_object().into_iter().flatten() {
        let path = path.child(field);
        count += 1;
        match field.as_str() {
            "fieldRef" => field_selector(source, &VARIABLE_FIELDS, &path, errors),
            "resourceFieldRef" => resource_selector(source, false, &path, errors),
            "fileKeyRef" => file_key(source, context, &path, errors),
            _ => {
                invalid(errors, &path.child("name"), &source["name"], name::dns1123_subdomain(text(source, "name")));
                required_follows(errors, &path, source, "key", name::config_map_key);
            }
        }
    }
    let detail = match count {
        0 => "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        _ if !value.is_empty() => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    errors.push(FieldError::invalid(path, "", detail));
}

fn file_key(source: &Value, context: &Context<'_>, path: &Path<'_>, errors: &mut Errors) {
    required_follows(errors, path, source, "key", name::env_var_name);
    required_follows(errors, path, source, "volumeName", name::dns1123_label);
    if required(errors, path, source, "path") {
        not_reserved(text(source, "path"), &path.child("path"), errors);
    }
    let volume = text(source, "volumeName");
    if !volume.is_empty() {
        match context.volumes.get(volume) {
            None => errors.push(FieldError::not_found(path.child("volumeName"), volume)),
            Some(found) if found["emptyDir"].is_null() => {
                let detail = "referenced volume must be of type emptyDir";
                errors.push(FieldError::invalid(path.child("volumeName"), volume, detail));
            }
            Some(_) => {}
        }
    }
}

/// A field of the pod, one of `known` or one label or annotation.
pub(in crate::validation) fn field_selector(source: &Value, known: &[&str], path: &Path<'_>, errors: &mut Errors) {
    if !required(errors, path, source, "apiVersion") || !required(errors, path, source, "fieldPath") {
        return;
    }
    let field = text(source, "fieldPath");
    let subscript = field.strip_suffix("']").and_then(|field| field.split_once("['"));
    let place = path.child("fieldPath");
    let label_unknown = |errors: &mut Errors| {
        let detail = format!("error converting fieldPath: field label not supported: {field}");
        errors.push(FieldError::invalid(place, field, detail));
    };
    if text(source, "apiVersion") != "v1" {
        let version = text(source, "apiVersion");
        let detail = format!("error converting fieldPath: unsupported pod version: {version}");
        errors.push(FieldError::invalid(place, field, detail));
        return;
    }
    match subscript {
        Some(("metadata.annotations", key)) => {
            let wrong = name::qualified_name(&key.to_lowercase());
            if !wrong.is_empty() {
                invalid(errors, path, &Value::from(key.to_lowercase()), wrong);
            }
        }
        Some(("metadata.labels", key)) => super::super::selector::label_key(key, path, errors),
        Some(_) => label_unknown(errors),
        None if known.contains(&field) => {}
        // These exist, but not everywhere.
        None if VARIABLE_FIELDS.contains(&field)
            || DOWNWARD_VOLUME_FIELDS.contains(&field)
            || matches!(field, "spec.restartPolicy" | "spec.schedulerName" | "spec.hostNetwork" | "status.phase") =>
        {
            errors.push(FieldError::not_supported(place, field, known));
        }
        None => label_unknown(errors),
    }
}

/// A resource of a container, in a volume or a variable.
pub(in crate::validation) fn resource_selector(source: &Value, volume: bool, path: &Path<'_>, errors: &mut Errors) {
    let resource = text(source, "resource");
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if volume && text(source, "containerName").is_empty() {
        errors.push(FieldError::required(path.child("containerName"), ""));
    } else if required(errors, path, source, "resource") && !huge && !RESOURCES.contains(&resource) {
        errors.push(FieldError::not_supported(path.child("resource"), resource, &RESOURCES));
    }
    let divisor = text(source, "divisor");
    if matches!(divisor, "" | "0") {
        return;
    }
    let (allowed, of) = match resource {
        "limits.cpu" | "requests.cpu" => (&["1m", "1"][..], "cpu resource"),
        "limits.memory" | "requests.memory" => (&BYTES[..], "memory resource"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => (&BYTES[..], "local ephemeral storage resource"),
        _ if huge => (&BYTES[..], "hugepages resource"),
        _ => return,
    };
    if !allowed.contains(&divisor) {
        let values = if allowed.len() == 2 { "1m and 1".to_owned() } else { allowed.join(", ") };
        let detail = format!("only divisor's values {values} are supported with the {of}");
        errors.push(FieldError::invalid(path.child("divisor"), resource, detail));
    }
}

const BYTES: [&str; 13] = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// `envFrom`.
pub(super) fn sources(container: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("envFrom");
    for (index, source) in list(container, "envFrom").iter().enumerate() {
        let place = path.index(index);
        super::follows(errors, &place, source, "prefix", name::env_var_name);
        let mut count = 0;
        for field in ["configMapRef", "secretRef"] {
            if !source[field].is_null() {
                count += 1;
                required_follows(errors, &place.child(field), &source[field], "name", name::dns1123_subdomain);
            }
        }
        let detail = match count {
            0 => "must specify one of: `configMapRef` or `secretRef`",
            1 => continue,
            _ => "may not have more than one field specified at a time",
        };
        errors.push(FieldError::invalid(path, "", detail));
    }
}
