//! `os`, and what belongs to one system only.

use serde_json::Value;

use super::super::{Errors, invalid};
use super::each_container;
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, flag, has, text};

/// `windowsOptions` of a security context.
pub(super) fn options(options: &Value, path: &Path<'_>, errors: &mut Errors) {
    if options.is_null() {
        return;
    }
    let named = &options["gmsaCredentialSpecName"];
    if let Some(given) = named.as_str() {
        invalid(errors, &path.child("gmsaCredentialSpecName"), named, name::dns1123_subdomain(given));
    }
    let place = path.child("gmsaCredentialSpec");
    match options["gmsaCredentialSpec"].as_str() {
        Some("") => errors.push(FieldError::invalid(place, "", "gmsaCredentialSpec cannot be an empty string")),
        Some(spec) if spec.len() > 64 << 10 => {
            errors.push(FieldError::invalid(place, spec, "gmsaCredentialSpec size must be under 64 KiB"));
        }
        _ => {}
    }
    if let Some(user) = options["runAsUserName"].as_str() {
        for detail in user_name(user) {
            errors.push(FieldError::invalid(path.child("runAsUserName"), user, detail));
        }
    }
}

fn is_domain(domain: &str) -> bool {
    let length = domain.chars().count();
    let net_bios = (1..=15).contains(&length)
        && !domain.starts_with('.')
        && !domain.contains(['\\', '/', ':', '*', '?', '"', '<', '>', '|']);
    let label = |label: &str| {
        let bytes = label.as_bytes();
        (1..=63).contains(&bytes.len())
            && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    };
    net_bios || domain.split('.').all(label)
}

fn user_name(given: &str) -> Vec<&'static str> {
    if given.is_empty() {
        return vec!["runAsUserName cannot be an empty string"];
    }
    if given.chars().any(|c| c.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters"];
    }
    let (domain, user) = match given.split_once('\\') {
        Some((_, rest)) if rest.contains('\\') => {
            return vec!["runAsUserName cannot contain more than one backslash"];
        }
        Some((domain, user)) => (Some(domain), user),
        None => (None, given),
    };
    let mut errors = Vec::new();
    if domain.is_some_and(|domain| domain.len() >= 256) {
        errors.push("runAsUserName's Domain length must be under 256 characters");
    }
    if domain.is_some_and(|domain| !is_domain(domain)) {
        errors.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format");
    }
    match user.len() {
        0 => errors.push("runAsUserName's User cannot be empty"),
        1..=104 => {}
        _ => errors.push("runAsUserName's User length must not be longer than 104 characters"),
    }
    if !user.is_empty() && user.bytes().all(|b| matches!(b, b'.' | b' ')) {
        errors.push("runAsUserName's User cannot contain only periods or spaces");
    }
    if user.contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']) {
        errors.push(r#"runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]"#);
    }
    errors
}

/// If one container is a process of the host, all are.
pub(super) fn host_process(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let of = |holder: &Value| holder["securityContext"]["windowsOptions"]["hostProcess"].as_bool();
    let whole = of(spec);
    let (mut all, mut processes) = (0, 0);
    each_container(spec, path, |container, place| {
        all += 1;
        let own = of(container);
        if let (Some(whole), Some(own)) = (whole, own)
            && whole != own
        {
            let place = place.child("securityContext");
            let place = place.child("windowsOptions");
            let detail = format!("pod hostProcess value must be identical if both are specified, was {whole}");
            errors.push(FieldError::invalid(place.child("hostProcess"), own, detail));
        }
        if own.or(whole) == Some(true) {
            processes += 1;
        }
    });
    if processes == 0 {
        return;
    }
    if processes != all {
        let detail = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.push(FieldError::invalid(path, "", detail));
    }
    if !flag(spec, "hostNetwork") {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.push(FieldError::invalid(path.child("hostNetwork"), false, detail));
    }
}

/// Parts of a pod's security context that Windows knows nothing of, and of its spec.
const LINUX_CONTEXT: [&str; 11] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];

const LINUX_CONTAINER: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

/// `os` and the fields that do not belong to it.
pub(super) fn system(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    if spec["os"].is_null() {
        return;
    }
    match text(&spec["os"], "name") {
        "" => errors.push(FieldError::required(path.child("os").child("name"), "cannot be empty")),
        "linux" => {
            let detail = "windows options cannot be set for a linux pod";
            let mut check = |holder: &Value, path: &Path<'_>| {
                if has(holder, "securityContext.windowsOptions") {
                    errors.push(FieldError::forbidden(path.child("securityContext").child("windowsOptions"), detail));
                }
            };
            check(spec, path);
            each_container(spec, path, check);
        }
        "windows" => {
            let detail = "cannot be set for a windows pod";
            let set = |value: &Value| !value.is_null() && *value != false;
            for field in ["hostPID", "hostIPC"].into_iter().filter(|field| set(&spec[*field])) {
                errors.push(FieldError::forbidden(path.child(field), detail));
            }
            for field in ["hostUsers", "shareProcessNamespace"].into_iter().filter(|field| !spec[*field].is_null()) {
                errors.push(FieldError::forbidden(path.child(field), detail));
            }
            let mut check = |holder: &Value, path: &Path<'_>, fields: &[&str]| {
                for field in fields.iter().filter(|field| !holder["securityContext"][**field].is_null()) {
                    errors.push(FieldError::forbidden(path.child("securityContext").child(field), detail));
                }
            };
            check(spec, path, &LINUX_CONTEXT);
            each_container(spec, path, |container, path| check(container, path, &LINUX_CONTAINER));
        }
        other => errors.push(FieldError::not_supported(path.child("os"), other, &["linux", "windows"])),
    }
}
