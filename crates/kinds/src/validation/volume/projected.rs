//! Volumes that put several sources into one folder.

use std::collections::BTreeSet;

use serde_json::Value;

use super::local::downward_file;
use super::{Errors, invalid, key_to_path, mode, not_reserved, required};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, list, text};
use crate::validation::selector::label_selector;

pub(super) fn projected(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    mode(&source["defaultMode"], &path.child("defaultMode"), errors);
    let sources = path.child("sources");
    let mut paths = BTreeSet::new();
    for (index, projection) in list(source, "sources").iter().enumerate() {
        let place = sources.index(index);
        for field in ["secret", "configMap"] {
            let given = &projection[field];
            if given.is_null() {
                continue;
            }
            let place = place.child(field);
            required(errors, &place, given, "name");
            let items = place.child("items");
            for (index, item) in list(given, "items").iter().enumerate() {
                key_to_path(item, &items.index(index), errors);
                let target = text(item, "path");
                if !target.is_empty() && !paths.insert(target) {
                    errors.push(FieldError::invalid(path, text(given, "name"), CONFLICT));
                }
            }
        }
        let downward = &projection["downwardAPI"];
        for file in list(downward, "items") {
            downward_file(file, &place.child("downwardAPI"), errors);
            unique(text(file, "path"), &mut paths, path, errors);
        }
        if !projection["serviceAccountToken"].is_null() {
            token(&projection["serviceAccountToken"], path, &place.child("serviceAccountToken"), errors);
        }
        if !projection["clusterTrustBundle"].is_null() {
            let bundle = &projection["clusterTrustBundle"];
            trust_bundle(bundle, &place.child("clusterTrustBundle"), errors);
            unique(text(bundle, "path"), &mut paths, path, errors);
        }
        if !projection["podCertificate"].is_null() {
            let certificate = &projection["podCertificate"];
            pod_certificate(certificate, &place.child("podCertificate"), errors);
            for field in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
                unique(text(certificate, field), &mut paths, path, errors);
            }
        }
        if projection.as_object().is_some_and(|fields| fields.len() > 1) {
            errors.push(FieldError::forbidden(place, "may not specify more than 1 volume type per source"));
        }
    }
}

const CONFLICT: &str = "conflicting duplicate paths";

fn unique<'a>(target: &'a str, paths: &mut BTreeSet<&'a str>, path: &Path<'_>, errors: &mut Errors) {
    if !target.is_empty() && !paths.insert(target) {
        errors.push(FieldError::invalid(path, target, CONFLICT));
    }
}

/// The path of the token is named relative to the volume, as upstream does.
fn token(source: &Value, volume: &Path<'_>, path: &Path<'_>, errors: &mut Errors) {
    let seconds = source["expirationSeconds"].as_i64().unwrap_or(3600);
    let wrong = match seconds {
        ..600 => Some("may not specify a duration less than 10 minutes"),
        4_294_967_297.. => Some("may not specify a duration larger than 2^32 seconds"),
        _ => None,
    };
    if let Some(detail) = wrong {
        errors.push(FieldError::invalid(path.child("expirationSeconds"), seconds, detail));
    }
    if required(errors, volume, source, "path") {
        not_reserved(text(source, "path"), &volume.child("path"), errors);
    }
}

fn trust_bundle(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    match (&source["name"], &source["signerName"]) {
        (Value::Null, Value::Null) => {
            errors.push(FieldError::required(path, "either name or signerName must be specified"));
        }
        (Value::String(named), Value::Null) => {
            if named.is_empty() {
                errors.push(FieldError::required(path.child("name"), "must be a valid object name"));
            }
            for message in bundle_name(named) {
                let detail = format!("not a valid clustertrustbundlename: {message}");
                errors.push(FieldError::invalid(path.child("name"), named.as_str(), detail));
            }
            if !source["labelSelector"].is_null() {
                let detail = "labelSelector must be unset if name is specified";
                let value = source["labelSelector"].clone();
                errors.push(FieldError::invalid(path.child("labelSelector"), value, detail));
            }
        }
        (Value::Null, signer) => {
            if signer == "" {
                errors.push(FieldError::required(path.child("signerName"), "must be a valid signer name"));
            }
            signer_name(signer, &path.child("signerName"), errors);
            label_selector(&source["labelSelector"], &path.child("labelSelector"), errors);
        }
        _ => errors.push(FieldError::invalid(path, source.clone(), "only one of name and signerName may be used")),
    }
    required(errors, path, source, "path");
    not_reserved(text(source, "path"), &path.child("path"), errors);
}

/// The name of a bundle that belongs to a signer is `<domain>:<signer>:<rest>`; others have no colon.
fn bundle_name(named: &str) -> Vec<String> {
    match named.rsplit_once(':') {
        None => name::dns1123_subdomain(named),
        Some((_, rest)) => name::dns1123_subdomain(rest),
    }
}

/// The name of a signer: `<domain>/<path>`.
pub(in crate::validation) fn signer_name(value: &Value, path: &Path<'_>, errors: &mut Errors) {
    let signer = value.as_str().unwrap_or_default();
    if signer.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let Some((domain, rest)) = signer.split_once('/').filter(|(_, rest)| !rest.contains('/')) else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(FieldError::invalid(path, signer, detail));
        return;
    };
    if domain.len() + rest.len() > 571 {
        errors.push(FieldError::too_long(path, 571));
    }
    for message in name::dns1123_subdomain(domain) {
        errors.push(FieldError::invalid(path, domain, format!("validating label {domain:?}: {message}")));
    }
    if !domain.contains('.') {
        errors.push(FieldError::invalid(
            path,
            domain,
            "should be a domain with at least two segments separated by dots",
        ));
    }
    for message in name::dns1123_subdomain(rest) {
        errors.push(FieldError::invalid(path, rest, format!("validating label {rest:?}: {message}")));
    }
}

const KEY_TYPES: [&str; 6] = ["ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519", "RSA3072", "RSA4096"];

fn pod_certificate(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    signer_name(&source["signerName"], &path.child("signerName"), errors);
    super::one_of(errors, &path.child("keyType"), &source["keyType"], &KEY_TYPES);
    if source["keyType"].is_null() {
        errors.push(FieldError::not_supported(path.child("keyType"), "", &KEY_TYPES));
    }
    if let Some(seconds) = source["maxExpirationSeconds"].as_i64() {
        let most = if text(source, "signerName").starts_with("kubernetes.io/") { 86_400 } else { 7_862_400 };
        if !(3_600..=most).contains(&seconds) {
            let detail = format!("if provided, maxExpirationSeconds must be between 3600 and {most}");
            errors.push(FieldError::invalid(path.child("maxExpirationSeconds"), seconds, detail));
        }
    }
    let targets = ["credentialBundlePath", "keyPath", "certificateChainPath"];
    if targets.iter().all(|field| text(source, field).is_empty()) {
        let detail = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        errors.push(FieldError::required(path, detail));
    }
    for field in targets {
        let target = text(source, field);
        if !target.is_empty() {
            not_reserved(target, &path.child(field), errors);
        }
    }
    let annotations = path.child("userAnnotations");
    for (key, _) in crate::path::entries(source, "userAnnotations") {
        let wrong = name::qualified_name(&key.to_lowercase());
        if !wrong.is_empty() {
            invalid(errors, &annotations, &Value::from(key), wrong);
        }
    }
}
