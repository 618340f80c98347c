//! Node.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::pod::taint_effect;
use super::selector::label_key;
use super::{Errors, follows, invalid, required, resources};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, entries, list, text};

/// A new node.
pub(super) fn create(node: &Value, errors: &mut Errors) {
    taints(node, errors);
    amounts(node, errors);
    let path = Path::new("spec");
    let path = path.child("podCIDRs");
    let ranges = list(&node["spec"], "podCIDRs");
    let mut seen = BTreeSet::new();
    for (index, range) in ranges.iter().enumerate() {
        invalid(errors, &path.index(index), range, name::cidr(range.as_str().unwrap_or_default()));
        if !seen.insert(range.as_str()) {
            errors.push(FieldError::duplicate(path.index(index), range.clone()));
        }
    }
    if ranges.len() > 1 {
        let parsed = ranges.iter().filter_map(|range| name::parse_cidr(range.as_str()?));
        let networks: Vec<IpAddr> = parsed.map(|(network, _)| network).collect();
        let both = networks.iter().any(IpAddr::is_ipv4) && networks.iter().any(IpAddr::is_ipv6);
        if !both || ranges.len() > 2 {
            let detail = "may specify no more than one CIDR for each IP family";
            errors.push(FieldError::invalid(path, node["spec"]["podCIDRs"].clone(), detail));
        }
    }
}

/// A node that is to replace `old`, or its status.
pub(super) fn update(node: &Value, old: &Value, errors: &mut Errors) {
    amounts(node, errors);
    let path = Path::new("status");
    let path = path.child("addresses");
    let mut seen = BTreeSet::new();
    for (index, address) in list(&node["status"], "addresses").iter().enumerate() {
        if !seen.insert((text(address, "type"), text(address, "address"))) {
            errors.push(FieldError::duplicate(path.index(index), address.clone()));
        }
    }
    let path = Path::new("spec");
    let (now, before) = (&node["spec"], &old["spec"]);
    if !list(before, "podCIDRs").is_empty() && now["podCIDRs"] != before["podCIDRs"] {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(FieldError::forbidden(path.child("podCIDRs"), detail));
    }
    let provider = text(before, "providerID");
    if !provider.is_empty() && text(now, "providerID") != provider {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errors.push(FieldError::forbidden(path.child("providerID"), detail));
    }
    if !now["configSource"].is_null() {
        config_source(&now["configSource"], &path.child("configSource"), errors);
    }
    taints(node, errors);
    if text(now, "externalID") != text(before, "externalID") {
        errors.push(FieldError::forbidden(path.child("externalID"), "may not be updated"));
    }
}

fn amounts(node: &Value, errors: &mut Errors) {
    let path = Path::new("status");
    for field in ["capacity", "allocatable"] {
        let path = path.child(field);
        for (resource, value) in entries(&node["status"], field) {
            resources::amount(resource, value, &path.child(resource), errors);
        }
    }
}

/// Upstream looks for taints below the metadata.
fn taints(node: &Value, errors: &mut Errors) {
    let path = Path::new("metadata");
    let path = path.child("taints");
    let mut seen = BTreeSet::new();
    for (index, taint) in list(&node["spec"], "taints").iter().enumerate() {
        let path = path.index(index);
        label_key(text(taint, "key"), &path.child("key"), errors);
        let wrong = name::label_value(text(taint, "value"));
        if !wrong.is_empty() {
            errors.push(FieldError::invalid(path.child("value"), text(taint, "value"), wrong.join(";")));
        }
        taint_effect(text(taint, "effect"), &path.child("effect"), errors);
        if !seen.insert((text(taint, "key"), text(taint, "effect"))) {
            let mut error = FieldError::duplicate(path, taint.clone());
            error.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(error);
        }
    }
}

/// A field that nothing reads any more; it is checked as long as it is there.
fn config_source(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    let map = &source["configMap"];
    if map.is_null() {
        let detail = "exactly one reference subfield must be non-nil";
        errors.push(FieldError::invalid(path, source.clone(), detail));
        return;
    }
    let path = path.child("configMap");
    for field in ["uid", "resourceVersion"] {
        if !text(map, field).is_empty() {
            errors.push(FieldError::forbidden(path.child(field), format!("{field} must not be set in spec")));
        }
    }
    for field in ["namespace", "name", "kubeletConfigKey"] {
        required(errors, &path, map, field);
    }
    follows(errors, &path, map, "namespace", name::dns1123_label);
    follows(errors, &path, map, "name", name::dns1123_subdomain);
    follows(errors, &path, map, "kubeletConfigKey", name::config_map_key);
}
