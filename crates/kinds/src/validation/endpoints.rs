//! Endpoints.

use serde_json::Value;

use super::{Errors, follows, invalid, required_one_of};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, list, text};

pub(super) fn endpoints(object: &Value, errors: &mut Errors) {
    let subsets = Path::new("subsets");
    for (index, subset) in list(object, "subsets").iter().enumerate() {
        let path = subsets.index(index);
        let (ready, not_ready) = (list(subset, "addresses"), list(subset, "notReadyAddresses"));
        if ready.is_empty() && not_ready.is_empty() {
            errors.push(FieldError::required(path, "must specify `addresses` or `notReadyAddresses`"));
        }
        for (field, addresses) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
            let path = path.child(field);
            for (index, one) in addresses.iter().enumerate() {
                address(one, &path.index(index), errors);
            }
        }
        let all = list(subset, "ports");
        let path = path.child("ports");
        for (index, one) in all.iter().enumerate() {
            port(one, all.len() > 1, &path.index(index), errors);
        }
    }
}

fn address(address: &Value, path: &Path<'_>, errors: &mut Errors) {
    let ip = text(address, "ip");
    let place = path.child("ip");
    invalid(errors, &place, &Value::from(ip), name::ip(ip));
    follows(errors, path, address, "hostname", name::dns1123_label);
    if let Some(node) = address["nodeName"].as_str() {
        invalid(errors, &path.child("nodeName"), &address["nodeName"], name::dns1123_subdomain(node));
    }
    invalid(errors, &place, &Value::from(ip), name::non_special_ip(ip));
}

fn port(port: &Value, needs_name: bool, path: &Path<'_>, errors: &mut Errors) {
    if needs_name && text(port, "name").is_empty() {
        errors.push(FieldError::required(path.child("name"), ""));
    }
    follows(errors, path, port, "name", name::dns1123_label);
    let number = port["port"].as_i64().unwrap_or(0);
    for message in name::port_number(number) {
        errors.push(FieldError::invalid(path.child("port"), number, message));
    }
    required_one_of(errors, &path.child("protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
    if let Some(protocol) = port["appProtocol"].as_str() {
        invalid(errors, &path.child("appProtocol"), &port["appProtocol"], name::qualified_name(protocol));
    }
}
