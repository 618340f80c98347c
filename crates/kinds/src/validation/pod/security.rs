//! Security contexts of pods and containers.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::volume::descending;
use super::super::{Errors, invalid, one_of};
use super::windows;
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, flag, list, text};

const PROFILES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];

/// `securityContext` of a pod; `path` leads to its spec.
pub(super) fn pod(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let context = &spec["securityContext"];
    let place = path.child("securityContext");
    ids(context, &["fsGroup", "runAsUser", "runAsGroup"], &place, errors);
    let groups = place.child("supplementalGroups");
    for (index, group) in list(context, "supplementalGroups").iter().enumerate() {
        id(group, &groups.index(index), errors);
    }
    if flag(spec, "shareProcessNamespace") && flag(spec, "hostPID") {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(place.child("shareProcessNamespace"), true, detail));
    }
    sysctls(spec, &place.child("sysctls"), errors);
    for (field, allowed) in [
        ("fsGroupChangePolicy", ["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", ["Merge", "Strict"]),
        ("seLinuxChangePolicy", ["MountOption", "Recursive"]),
    ] {
        one_of(errors, &place.child(field), &context[field], &allowed);
    }
    profiles(context, &place, errors);
}

/// `securityContext` of a container.
pub(super) fn container(context: &Value, host_users: bool, path: &Path<'_>, errors: &mut Errors) {
    if context.is_null() {
        return;
    }
    ids(context, &["runAsUser", "runAsGroup"], path, errors);
    let mount = &context["procMount"];
    one_of(errors, &path.child("procMount"), mount, &["Default", "Unmasked"]);
    if host_users && mount == "Unmasked" {
        let detail = "`hostUsers` must be false to use `Unmasked`";
        errors.push(FieldError::invalid(path.child("procMount"), "Unmasked", detail));
    }
    if context["allowPrivilegeEscalation"] == false {
        if flag(context, "privileged") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(FieldError::invalid(path, context.clone(), detail));
        }
        for _ in list(context, "capabilities.add").iter().filter(|added| *added == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(FieldError::invalid(path, context.clone(), detail));
        }
    }
    profiles(context, path, errors);
}

fn id(value: &Value, path: &Path<'_>, errors: &mut Errors) {
    if let Some(number) = value.as_i64() {
        invalid(errors, path, value, name::user_or_group_id(number));
    }
}

fn ids(context: &Value, fields: &[&str], path: &Path<'_>, errors: &mut Errors) {
    for field in fields {
        id(&context[*field], &path.child(field), errors);
    }
}

/// What pods and containers confine alike.
fn profiles(context: &Value, path: &Path<'_>, errors: &mut Errors) {
    if !context["seccompProfile"].is_null() {
        seccomp(&context["seccompProfile"], &path.child("seccompProfile"), errors);
    }
    windows::options(&context["windowsOptions"], &path.child("windowsOptions"), errors);
    if !context["appArmorProfile"].is_null() {
        app_armor(&context["appArmorProfile"], &path.child("appArmorProfile"), errors);
    }
}

fn seccomp(profile: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (kind, local) = (text(profile, "type"), &profile["localhostProfile"]);
    if kind.is_empty() {
        errors.push(FieldError::required(path.child("type"), "type is required when seccompProfile is set"));
    } else {
        one_of(errors, &path.child("type"), &profile["type"], &PROFILES);
    }
    let path = path.child("localhostProfile");
    match local.as_str() {
        None if kind == "Localhost" => {
            errors.push(FieldError::required(path, "must be set when seccomp type is Localhost"));
        }
        Some(local) if kind == "Localhost" => descending(local, &path, errors),
        None => {}
        Some(_) => {
            let detail = "can only be set when seccomp type is Localhost";
            errors.push(FieldError::invalid(path, profile.clone(), detail));
        }
    }
}

fn app_armor(profile: &Value, path: &Path<'_>, errors: &mut Errors) {
    let local = &profile["localhostProfile"];
    let place = path.child("localhostProfile");
    match text(profile, "type") {
        "Localhost" => {
            let given = local.as_str().unwrap_or_default();
            if given.trim().is_empty() && given.trim() == given {
                errors.push(FieldError::required(place, "must be set when AppArmor type is Localhost"));
            } else if given.trim() != given {
                errors.push(FieldError::invalid(place, given, "must not be padded with whitespace"));
            }
            if given.len() > 4095 {
                errors.push(FieldError::too_long(place, 4095));
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if !local.is_null() {
                let detail = "can only be set when AppArmor type is Localhost";
                errors.push(FieldError::invalid(place, local.clone(), detail));
            }
        }
        "" => errors.push(FieldError::required(path.child("type"), "type is required when appArmorProfile is set")),
        other => errors.push(FieldError::not_supported(path.child("type"), other, &PROFILES)),
    }
}

const SYSCTL: &str = "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

fn is_sysctl(given: &str) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let segment = |part: &str| {
        let bytes = part.as_bytes();
        bytes.first().is_some_and(|&b| good(b))
            && bytes.last().is_some_and(|&b| good(b))
            && bytes.iter().all(|&b| good(b) || matches!(b, b'-' | b'_'))
    };
    given.len() <= 253 && given.split(['.', '/']).all(segment)
}

fn sysctls(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (index, sysctl) in list(&spec["securityContext"], "sysctls").iter().enumerate() {
        let path = path.index(index);
        let path = path.child("name");
        let given = text(sysctl, "name");
        if given.is_empty() {
            errors.push(FieldError::required(path, ""));
        } else if !is_sysctl(given) {
            let detail = format!("must have at most 253 characters and match regex {SYSCTL}");
            errors.push(FieldError::invalid(path, given, detail));
        } else if !seen.insert(given) {
            errors.push(FieldError::duplicate(path, given));
        }
        // The parts are parted by whichever of the two comes first.
        let dotted = match given.find(['.', '/']).map(|at| &given[at..=at]) {
            Some("/") => given.replace('/', "."),
            _ => given.to_owned(),
        };
        let message_queue = dotted.starts_with("fs.mqueue.")
            || dotted.starts_with("kernel.shm")
            || dotted.starts_with("kernel.msg")
            || dotted == "kernel.sem";
        if flag(spec, "hostNetwork") && dotted.starts_with("net.") {
            errors.push(FieldError::invalid(path, given, "may not be specified when 'hostNetwork' is true"));
        } else if flag(spec, "hostIPC") && message_queue {
            errors.push(FieldError::invalid(path, given, "may not be specified when 'hostIPC' is true"));
        }
    }
}
