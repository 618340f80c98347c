//! Volumes that live elsewhere: disks of clouds, network file systems, drivers. Pods and persistent volumes share them.

use serde_json::Value;

use super::{Errors, follows, no_backsteps, one_of, required};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, entries, list, text};

/// What is wrong when portal and volume name together are too long for the initiator.
pub(in crate::validation) const PORTAL_TOO_LONG: &str = "Total length of <volume name>:<iscsi.targetPortal> must be \
                                                         under 64 characters if iscsi.initiatorName is specified.";

fn all(errors: &mut Errors, path: &Path<'_>, source: &Value, fields: &[&str]) {
    for field in fields {
        required(errors, path, source, field);
    }
}

fn within(errors: &mut Errors, path: &Path<'_>, source: &Value, field: &str, message: (i64, i64)) {
    if source[field].as_i64().is_some_and(|number| !(0..=255).contains(&number)) {
        let detail = name::inclusive_range(message.0, message.1);
        errors.push(FieldError::invalid(path.child(field), source[field].clone(), detail));
    }
}

pub(in crate::validation) fn gce_persistent_disk(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    // Upstream calls the field by a shorter name in what is wrong about its parts.
    let path = &path.sibling("persistentDisk");
    all(errors, path, source, &["pdName"]);
    within(errors, path, source, "partition", (1, 255));
}

pub(in crate::validation) fn aws_elastic_block_store(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    all(errors, path, source, &["volumeID"]);
    within(errors, path, source, "partition", (1, 255));
}

pub(in crate::validation) fn nfs(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    all(errors, path, source, &["server", "path"]);
    if !text(source, "path").starts_with('/') {
        errors.push(FieldError::invalid(path.child("path"), text(source, "path"), "must be an absolute path"));
    }
}

fn is_qualified_name(text: &str) -> Option<bool> {
    let alphanumeric =
        |rest: &str, length: usize| rest.len() == length && rest.bytes().all(|b| b.is_ascii_alphanumeric());
    if let Some(rest) = text.strip_prefix("iqn") {
        // `iqn.yyyy-mm.reversed.domain:name`
        let good = rest.strip_prefix('.').and_then(|rest| rest.split_once('.')).is_some_and(|(date, rest)| {
            let date = date.as_bytes();
            let dated = date.len() == 7
                && date[4] == b'-'
                && date.iter().enumerate().all(|(index, b)| index == 4 || b.is_ascii_digit());
            dated
                && rest.split_once(':').is_some_and(|(domain, name)| {
                    let domain_good = !domain.is_empty()
                        && domain.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
                    let bad = |c: char| ",;*&$|".contains(c) || c.is_whitespace();
                    domain_good && !name.is_empty() && !name.contains(bad)
                })
        });
        return Some(good);
    }
    if let Some(rest) = text.strip_prefix("eui") {
        return Some(rest.len() > 1 && alphanumeric(rest.get(1..).unwrap_or_default(), 16));
    }
    let rest = text.strip_prefix("naa")?;
    Some(rest.len() > 1 && alphanumeric(rest.get(1..).unwrap_or_default(), 32))
}

pub(in crate::validation) fn iscsi(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    all(errors, path, source, &["targetPortal", "iqn"]);
    let mut judge = |field: &str, shown: &str| {
        let given = text(source, field);
        let detail = match is_qualified_name(given) {
            Some(true) => return,
            Some(false) => "must be valid format",
            None => "must be valid format starting with iqn, eui, or naa",
        };
        errors.push(FieldError::invalid(path.child(shown), given, detail));
    };
    if !text(source, "iqn").is_empty() {
        judge("iqn", "iqn");
    }
    if !source["initiatorName"].is_null() {
        judge("initiatorName", "initiatorname");
    }
    within(errors, path, source, "lun", (0, 255));
    let authenticates = source["chapAuthDiscovery"] == true || source["chapAuthSession"] == true;
    if authenticates && source["secretRef"].is_null() {
        errors.push(FieldError::required(path.child("secretRef"), ""));
    }
}

pub(in crate::validation) fn glusterfs(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    all(errors, path, source, &["endpoints", "path"]);
    match source["endpointsNamespace"].as_str() {
        Some("") => {
            let detail = "if the endpointnamespace is set, it must be a valid namespace name";
            errors.push(FieldError::invalid(path.child("endpointsNamespace"), "", detail));
        }
        _ => follows(errors, path, source, "endpointsNamespace", name::dns1123_label),
    }
}

pub(in crate::validation) fn flocker(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    match (text(source, "datasetName"), text(source, "datasetUUID")) {
        ("", "") => errors.push(FieldError::required(path, "one of datasetName and datasetUUID is required")),
        ("", _) | (_, "") => {}
        _ => {
            let detail = "datasetName and datasetUUID can not be specified simultaneously";
            errors.push(FieldError::invalid(path, "resource", detail));
        }
    }
    if text(source, "datasetName").contains('/') {
        let given = source["datasetName"].clone();
        errors.push(FieldError::invalid(path.child("datasetName"), given, "must not contain '/'"));
    }
}

fn monitors(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    if list(source, "monitors").is_empty() {
        errors.push(FieldError::required(path.child("monitors"), ""));
    }
}

pub(in crate::validation) fn rbd(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    monitors(source, path, errors);
    all(errors, path, source, &["image"]);
}

pub(in crate::validation) fn cephfs(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    monitors(source, path, errors);
}

/// The secret of a volume, if it has one, needs a name.
fn secret_name(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    if !source["secretRef"].is_null() {
        required(errors, &path.child("secretRef"), &source["secretRef"], "name");
    }
}

pub(in crate::validation) fn cinder(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    all(errors, path, source, &["volumeID"]);
    secret_name(source, path, errors);
}

pub(in crate::validation) fn quobyte(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = text(source, "registry");
    if registry.is_empty() {
        errors.push(FieldError::required(path.child("registry"), PAIRS));
    } else if text(source, "tenant").len() >= 65 {
        let detail = "must be a UUID and may not exceed a length of 64 characters";
        errors.push(FieldError::required(path.child("tenant"), detail));
    } else {
        for _ in registry.split(',').filter(|pair| !pair.contains(':')) {
            errors.push(FieldError::invalid(path.child("registry"), registry, PAIRS));
        }
    }
    all(errors, path, source, &["volume"]);
}

pub(in crate::validation) fn fibre_channel(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (names, ids) = (list(source, "targetWWNs"), list(source, "wwids"));
    let place = path.child("targetWWNs");
    if names.is_empty() && ids.is_empty() {
        errors.push(FieldError::required(place, "must specify either targetWWNs or wwids, but not both"));
    }
    if names.is_empty() {
        return;
    }
    if !ids.is_empty() {
        let detail = "targetWWNs and wwids can not be specified simultaneously";
        errors.push(FieldError::invalid(place, source["targetWWNs"].clone(), detail));
    }
    if source["lun"].is_null() {
        errors.push(FieldError::required(path.child("lun"), "lun is required if targetWWNs is specified"));
    }
    within(errors, path, source, "lun", (0, 255));
}

pub(in crate::validation) fn flex_volume(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    all(errors, path, source, &["driver"]);
    let options = path.child("options");
    for (key, _) in entries(source, "options") {
        let namespace = key.split_once('/').map_or(key, |(namespace, _)| namespace);
        let namespace = format!(".{}", namespace.to_lowercase());
        if namespace.ends_with(".kubernetes.io") || namespace.ends_with(".k8s.io") {
            let detail = "kubernetes.io and k8s.io namespaces are reserved";
            errors.push(FieldError::invalid(options.key(key), key, detail));
        }
    }
}

pub(in crate::validation) fn azure_file(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    all(errors, path, source, &["secretName", "shareName"]);
    if source["secretNamespace"] == "" {
        errors.push(FieldError::required(path.child("secretNamespace"), ""));
    }
}

pub(in crate::validation) fn azure_disk(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    all(errors, path, source, &["diskName", "diskURI"]);
    one_of(errors, &path.child("cachingMode"), &source["cachingMode"], &["None", "ReadOnly", "ReadWrite"]);
    one_of(errors, &path.child("kind"), &source["kind"], &["Dedicated", "Managed", "Shared"]);
    let (begin, form) = match source["kind"].as_str() {
        None => return,
        Some("Managed") => (
            "/subscriptions/",
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
        ),
        Some(_) => ("https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"),
    };
    if !text(source, "diskURI").starts_with(begin) {
        errors.push(FieldError::not_supported(path.child("diskURI"), text(source, "diskURI"), &[form]));
    }
}

pub(in crate::validation) fn vsphere_volume(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    all(errors, path, source, &["volumePath"]);
}

pub(in crate::validation) fn photon_persistent_disk(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    all(errors, path, source, &["pdID"]);
}

pub(in crate::validation) fn portworx_volume(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    all(errors, path, source, &["volumeID"]);
}

pub(in crate::validation) fn scale_io(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    all(errors, path, source, &["gateway", "system", "volumeName"]);
}

pub(in crate::validation) fn storage_os(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    super::super::required_follows(errors, path, source, "volumeName", name::dns1123_label);
    follows(errors, path, source, "volumeNamespace", name::dns1123_label);
    secret_name(source, path, errors);
}

/// The name of a storage driver.
pub(in crate::validation) fn driver_name(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    let driver = text(source, "driver");
    required(errors, path, source, "driver");
    if driver.len() > 63 {
        errors.push(FieldError::too_long(path.child("driver"), 63));
    }
    for message in name::dns1123_subdomain(&driver.to_lowercase()) {
        errors.push(FieldError::invalid(path.child("driver"), driver, message));
    }
}

pub(in crate::validation) fn csi(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    driver_name(source, path, errors);
    let secret = &source["nodePublishSecretRef"];
    if !secret.is_null() && required(errors, &path.child("nodePublishSecretRef"), secret, "name") {
        follows(errors, path, secret, "name", name::dns1123_subdomain);
    }
}

/// A folder or disk of one node.
pub(in crate::validation) fn local(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    if required(errors, path, source, "path") {
        no_backsteps(text(source, "path"), &path.child("path"), errors);
    }
}
