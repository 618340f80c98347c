//! EndpointSlice.

use std::net::IpAddr;

use serde_json::Value;

use super::address;
use super::checks::{among, immutable, optional, qualified_domain};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, list, size, text};
use crate::validation::metadata::labels;
use crate::validation::{Errors, invalid};

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
const MAX_TOPOLOGY_LABELS: usize = 16;
const MAX_HINTS: usize = 8;

pub(super) fn create(object: &Value, errors: &mut Errors) {
    slice(object, &[], &["FQDN", "IPv4", "IPv6"], errors);
}

pub(super) fn update(object: &Value, old: &Value, errors: &mut Errors) {
    let known: Vec<&str> = list(old, "endpoints")
        .iter()
        .flat_map(|endpoint| list(endpoint, "addresses"))
        .filter_map(Value::as_str)
        .collect();
    slice(object, &known, &["FQDN", "IP", "IPv4", "IPv6"], errors);
    immutable(object, old, "addressType", errors);
}

fn slice(object: &Value, known: &[&str], types: &[&str], errors: &mut Errors) {
    let kind = text(object, "addressType");
    if kind.is_empty() {
        errors.push(FieldError::required("addressType", ""));
    } else {
        among(&object["addressType"], &Path::new("addressType"), types, errors);
    }
    let (path, given) = (Path::new("endpoints"), list(object, "endpoints"));
    if given.len() > MAX_ENDPOINTS {
        errors.push(FieldError::too_many(path, given.len(), MAX_ENDPOINTS));
    } else {
        for (index, one) in given.iter().enumerate() {
            endpoint(one, kind, known, &path.index(index), errors);
        }
    }
    let (path, given) = (Path::new("ports"), list(object, "ports"));
    if given.len() > MAX_PORTS {
        errors.push(FieldError::too_many(path, given.len(), MAX_PORTS));
    } else {
        ports(given, &path, errors);
    }
}

fn endpoint(endpoint: &Value, kind: &str, known: &[&str], path: &Path<'_>, errors: &mut Errors) {
    let addresses = list(endpoint, "addresses");
    let place = path.child("addresses");
    if addresses.is_empty() {
        errors.push(FieldError::required(place, "must contain at least 1 address"));
    } else if addresses.len() > MAX_ADDRESSES {
        errors.push(FieldError::too_many(place, addresses.len(), MAX_ADDRESSES));
    }
    for (index, one) in addresses.iter().enumerate() {
        let (path, one) = (place.index(index), one.as_str().unwrap_or_default());
        match kind {
            "IPv4" | "IPv6" => {
                let before = errors.len();
                let found = address::legacy(one, &path, known, errors).filter(|_| errors.len() == before);
                let Some(found) = found else { continue };
                if matches!(found, IpAddr::V4(_)) != (kind == "IPv4") {
                    let detail = format!("must be an {kind} address");
                    errors.push(FieldError::invalid(path, one, detail));
                }
                if !known.contains(&one) {
                    address::not_special(found, &path, one, errors);
                }
            }
            "IP" => {
                address::legacy(one, &path, known, errors);
            }
            "FQDN" => qualified_domain(one.strip_suffix('.').unwrap_or(one), &path, 2, errors),
            _ => {}
        }
    }
    optional(endpoint, "nodeName", path, name::dns1123_subdomain, errors);
    let topology = size(endpoint, "deprecatedTopology");
    if topology > MAX_TOPOLOGY_LABELS {
        errors.push(FieldError::too_many(path.child("deprecatedTopology"), topology, MAX_TOPOLOGY_LABELS));
    }
    labels(endpoint, "deprecatedTopology", path, errors);
    optional(endpoint, "hostname", path, name::dns1123_label, errors);
    let place = path.child("hints");
    hints(&endpoint["hints"], "forZones", name::label_value, &place, errors);
    hints(&endpoint["hints"], "forNodes", name::dns1123_subdomain, &place, errors);
}

fn hints(hints: &Value, field: &str, grammar: fn(&str) -> Vec<String>, path: &Path<'_>, errors: &mut Errors) {
    let (place, given) = (path.child(field), list(hints, field));
    if given.len() > MAX_HINTS {
        errors.push(FieldError::too_many(place, given.len(), MAX_HINTS));
        return;
    }
    let mut seen = Vec::new();
    for (index, hint) in given.iter().enumerate() {
        let (path, name) = (place.index(index), text(hint, "name"));
        if seen.contains(&name) {
            errors.push(FieldError::duplicate(path.child("name"), name));
        }
        seen.push(name);
        invalid(errors, &path.child("name"), &name.into(), grammar(name));
    }
}

fn ports(ports: &[Value], place: &Path<'_>, errors: &mut Errors) {
    let mut seen = std::collections::HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let (path, given) = (place.index(index), text(port, "name"));
        if !given.is_empty() {
            invalid(errors, &path.child("name"), &given.into(), name::dns1123_label(given));
        }
        if !seen.insert(given) {
            errors.push(FieldError::duplicate(path.child("name"), given));
        }
        if port["protocol"].is_null() {
            errors.push(FieldError::required(path.child("protocol"), ""));
        } else {
            among(&port["protocol"], &path.child("protocol"), &["SCTP", "TCP", "UDP"], errors);
        }
        optional(port, "appProtocol", &path, name::qualified_name, errors);
    }
}
