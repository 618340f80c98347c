//! Cluster addresses and their families, and how they may change.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::super::{Errors, invalid, one_of};
use super::is_headless;
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, list, text};

const ONCE: &str = "may not change once set";

pub(super) fn addresses(service: &Value, path: &Path<'_>, errors: &mut Errors) {
    let spec = &service["spec"];
    if text(spec, "type") == "ExternalName" {
        return;
    }
    let (single, all) = (text(spec, "clusterIP"), list(spec, "clusterIPs"));
    let whole = || spec["clusterIPs"].clone();
    let place = path.child("clusterIPs");
    match all.first() {
        None if !single.is_empty() => errors.push(FieldError::required(place, "")),
        Some(_) if single.is_empty() => {
            let detail = "must be empty when `clusterIP` is not specified";
            errors.push(FieldError::invalid(place, whole(), detail));
        }
        Some(first) if first != single => {
            errors.push(FieldError::invalid(place, whole(), "first value must match `clusterIP`"));
        }
        _ => {}
    }
    families(spec, path, errors);
    let before = errors.len();
    for (index, address) in all.iter().enumerate() {
        if index == 0 && address == "None" {
            if all.len() > 1 {
                let detail = "'None' must be the first and only value";
                errors.push(FieldError::invalid(place, whole(), detail));
            }
            continue;
        }
        invalid(errors, &place.index(index), address, name::ip(address.as_str().unwrap_or_default()));
    }
    let good = errors.len() == before;
    if all.len() > 2 {
        errors.push(FieldError::invalid(place, whole(), "may only hold up to 2 values"));
    }
    if !good {
        return;
    }
    let parsed: Vec<IpAddr> = all.iter().filter_map(|address| address.as_str()?.parse().ok()).collect();
    if all.len() > 1 && !(parsed.iter().any(IpAddr::is_ipv4) && parsed.iter().any(IpAddr::is_ipv6)) {
        let detail = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid(place, whole(), detail));
    }
    if is_headless(service) {
        return;
    }
    for (index, (address, family)) in parsed.iter().zip(list(spec, "ipFamilies")).enumerate() {
        let family = family.as_str().unwrap_or_default();
        let own = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        if matches!(family, "IPv4" | "IPv6") && family != own {
            let detail = format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
            errors.push(FieldError::invalid(place.index(index), address.to_string(), detail));
        }
    }
}

fn families(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let place = path.child("ipFamilies");
    let mut seen = BTreeSet::new();
    for (index, family) in list(spec, "ipFamilies").iter().enumerate() {
        one_of(errors, &place.index(index), family, &["IPv4", "IPv6"]);
        if !seen.insert(family.as_str()) {
            errors.push(FieldError::duplicate(place.index(index), family.clone()));
        }
    }
    one_of(
        errors,
        &path.child("ipFamilyPolicy"),
        &spec["ipFamilyPolicy"],
        &["PreferDualStack", "RequireDualStack", "SingleStack"],
    );
}

/// A second address or family may come and go; the first stays, unless the service is or was only a name.
pub(super) fn update(now: &Value, old: &Value, path: &Path<'_>, errors: &mut Errors) {
    let named = |service: &Value| service["spec"]["type"] == "ExternalName";
    if named(now) || named(old) {
        return;
    }
    let (headless, was_headless) = (is_headless(now), is_headless(old));
    if !(headless && was_headless) {
        keeps_first(now, old, "clusterIPs", "clusterIP", path, errors);
    }
    if !headless && !was_headless {
        keeps_first(now, old, "ipFamilies", "ipFamily", path, errors);
    }
}

fn keeps_first(now: &Value, old: &Value, field: &str, singular: &str, path: &Path<'_>, errors: &mut Errors) {
    let (new, before) = (list(&now["spec"], field), list(&old["spec"], field));
    let place = path.child(field);
    let value = || Value::from(new.to_vec());
    if new.len() == before.len() {
        for (index, _) in new.iter().zip(before).enumerate().filter(|(_, (new, before))| new != before) {
            let index = if field == "ipFamilies" { 0 } else { index };
            errors.push(FieldError::invalid(place.index(index), value(), ONCE));
        }
        return;
    }
    match (new.first(), before.first()) {
        (None, Some(_)) => {
            let detail = format!("primary {singular} can not be unset");
            errors.push(FieldError::invalid(place.index(0), value(), detail));
        }
        (Some(new), Some(before)) if new != before => {
            errors.push(FieldError::invalid(place.index(0), value(), ONCE));
        }
        _ => {}
    }
    if before.len() > new.len() && new.len() == 1 && now["spec"]["ipFamilyPolicy"] != "SingleStack" {
        let detail = format!("must be set to 'SingleStack' when releasing the secondary {singular}");
        let policy = now["spec"]["ipFamilyPolicy"].clone();
        errors.push(FieldError::invalid(path.child("ipFamilyPolicy"), policy, detail));
    }
}
