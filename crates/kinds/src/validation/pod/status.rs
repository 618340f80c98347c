//! What a node may write about its pods.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::super::selector::label_key;
use super::super::{Errors, immutable, invalid};
use super::update;
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, list, text};

/// `pods/status`.
pub(in crate::validation) fn status(pod: &Value, old: &Value, errors: &mut Errors) {
    update::annotations(pod, old, errors);
    let (now, before) = (&pod["status"], &old["status"]);
    // Upstream looks for the conditions below the metadata.
    let conditions = Path::new("metadata");
    let conditions = conditions.child("conditions");
    for (index, condition) in list(now, "conditions").iter().enumerate() {
        let kind = text(condition, "type");
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            label_key(kind, &conditions.index(index).child("Type"), errors);
        }
    }
    let path = Path::new("status");
    if pod["spec"]["nodeName"] != old["spec"]["nodeName"] {
        errors.push(FieldError::forbidden(path.child("nodeName"), "may not be changed directly"));
    }
    let nominated = text(now, "nominatedNodeName");
    if nominated != text(before, "nominatedNodeName") {
        super::follows(errors, &path, now, "nominatedNodeName", name::dns1123_subdomain);
    }
    immutable(errors, path.child("qosClass"), &now["qosClass"], &before["qosClass"]);
    let policy = text(old, "spec.restartPolicy");
    transitions(now, before, "containerStatuses", policy, &old["spec"], &path, errors);
    transitions(now, before, "initContainerStatuses", policy, &old["spec"], &path, errors);
    // Containers for debugging are never started again.
    transitions(now, before, "ephemeralContainerStatuses", "Never", &old["spec"], &path, errors);
    claims(now, &pod["spec"], &path.child("resourceClaimStatuses"), errors);
    addresses(now, "podIPs", &path, errors);
    let hosts = list(now, "hostIPs");
    if let Some(first) = hosts.first().filter(|first| text(first, "ip") != text(now, "hostIP")) {
        let place = path.child("hostIPs");
        let detail = "must be equal to `hostIP`";
        errors.push(FieldError::invalid(place.index(0).child("ip"), first["ip"].clone(), detail));
    }
    addresses(now, "hostIPs", &path, errors);
}

/// A container that has ended stays so, unless its restart policy brings it back.
fn transitions(
    now: &Value,
    before: &Value,
    field: &str,
    policy: &str,
    spec: &Value,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let mut all = ["containers", "initContainers"].into_iter().flat_map(|field| list(spec, field));
    // The end of one container may start all of them anew.
    let together = all.any(|container| {
        list(container, "restartPolicyRules").iter().any(|rule| text(rule, "action") == "RestartAllContainers")
    });
    if policy == "Always" || (together && field != "ephemeralContainerStatuses") {
        return;
    }
    let path = path.child(field);
    let of_spec = |name: &str| {
        let all = ["containers", "initContainers"].into_iter().flat_map(|field| list(spec, field));
        all.into_iter().find(|container| text(container, "name") == name)
    };
    for (index, old) in list(before, field).iter().enumerate() {
        let ended = &old["state"]["terminated"];
        let failed = ended["exitCode"].as_i64().unwrap_or(0) != 0;
        if ended.is_null() || (failed && policy == "OnFailure") {
            continue;
        }
        let name = text(old, "name");
        let own = of_spec(name).filter(|_| field != "ephemeralContainerStatuses");
        // A container's own policy and rules come before the pod's.
        let restarts = own.is_some_and(|container| {
            let rules = !list(container, "restartPolicyRules").is_empty();
            match text(container, "restartPolicy") {
                "Always" => true,
                "OnFailure" => failed || rules,
                _ => rules,
            }
        });
        if restarts {
            continue;
        }
        let back = |new: &&Value| text(new, "name") == name && new["state"]["terminated"].is_null();
        for _ in list(now, field).iter().filter(back) {
            let detail = "may not be transitioned to non-terminated state";
            errors.push(FieldError::forbidden(path.index(index).child("state"), detail));
        }
    }
}

fn claims(status: &Value, spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let known = list(spec, "resourceClaims");
    let mut seen = BTreeSet::new();
    for (index, claim) in list(status, "resourceClaimStatuses").iter().enumerate() {
        let path = path.index(index);
        let named = text(claim, "name");
        if !known.iter().any(|known| text(known, "name") == named) {
            let detail = "must match the name of an entry in `spec.resourceClaims`";
            errors.push(FieldError::invalid(path.child("name"), named, detail));
        }
        if !seen.insert(named) {
            errors.push(FieldError::duplicate(path.child("name"), named));
        }
        let made = text(claim, "resourceClaimName");
        if !made.is_empty() {
            invalid(errors, &path.child("name"), &claim["resourceClaimName"], name::dns1123_subdomain(made));
        }
    }
}

/// Addresses of a pod or its host: one of each family at most.
fn addresses(status: &Value, field: &str, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child(field);
    let given = list(status, field);
    let mut seen = BTreeSet::new();
    for (index, address) in given.iter().enumerate() {
        let path = path.index(index);
        let ip = text(address, "ip");
        invalid(errors, &path, &address["ip"], name::ip(ip));
        if !seen.insert(ip) {
            errors.push(FieldError::duplicate(path, address.clone()));
        }
    }
    if given.len() > 1 {
        let parsed: Vec<IpAddr> = given.iter().filter_map(|address| text(address, "ip").parse().ok()).collect();
        let families = parsed.iter().any(IpAddr::is_ipv4) && parsed.iter().any(IpAddr::is_ipv6);
        if !families || given.len() > 2 {
            let detail = "may specify no more than one IP for each IP family";
            errors.push(FieldError::invalid(path, status[field].clone(), detail));
        }
    }
}
