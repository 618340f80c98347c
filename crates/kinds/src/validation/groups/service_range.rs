//! IPAddress and ServiceCIDR: the addresses that services get.

use serde_json::Value;

use super::address;
use super::checks::immutable;
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, list, text};
use crate::validation::{Errors, invalid, required_follows};

pub(super) fn address(object: &Value, errors: &mut Errors) {
    let parent = &object["spec"]["parentRef"];
    let path = Path::new("spec.parentRef");
    if parent.is_null() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    for (field, grammar) in [
        ("group", name::dns1123_subdomain as fn(&str) -> Vec<String>),
        ("namespace", name::path_segment as fn(&str) -> Vec<String>),
    ] {
        let value = text(parent, field);
        if !value.is_empty() {
            invalid(errors, &path.child(field), &value.into(), grammar(value));
        }
    }
    required_follows(errors, &path, parent, "resource", name::path_segment);
    required_follows(errors, &path, parent, "name", name::path_segment);
}

pub(super) fn address_update(object: &Value, old: &Value, errors: &mut Errors) {
    immutable(object, old, "spec.parentRef", errors);
}

pub(super) fn range(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec.cidrs");
    let ranges = list(object, "spec.cidrs");
    if ranges.is_empty() {
        errors.push(FieldError::required(path, "at least one CIDR required"));
        return;
    }
    if ranges.len() > 2 {
        errors.push(FieldError::invalid(path, object["spec"].clone(), "may only hold up to 2 values"));
        return;
    }
    let networks: Vec<_> = ranges
        .iter()
        .enumerate()
        .filter_map(|(index, range)| {
            address::strict_network(range.as_str().unwrap_or_default(), &path.index(index), errors)
        })
        .collect();
    if let [one, other] = networks.as_slice()
        && one.first.is_ipv4() == other.first.is_ipv4()
    {
        let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.push(FieldError::invalid(path, object["spec"]["cidrs"].clone(), detail));
    }
}

pub(super) fn range_update(object: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec.cidrs");
    let (now, before) = (list(object, "spec.cidrs"), list(old, "spec.cidrs"));
    let immutable = "field is immutable";
    let fixed = match (before.len(), now.len()) {
        // A second family may come, but what is there stays.
        (1, 2) => 1,
        (before, now) if before == now => before,
        _ => {
            errors.push(FieldError::invalid(path, object["spec"]["cidrs"].clone(), immutable));
            return;
        }
    };
    for (index, (now, _)) in now.iter().zip(before).take(fixed).enumerate().filter(|(_, (now, before))| now != before) {
        errors.push(FieldError::invalid(path.index(index), now.clone(), immutable));
    }
    if now.len() > before.len() {
        range(object, errors);
    }
}

/// The rule for the names of IPAddress objects: the address itself, in its canonical spelling.
pub(in crate::validation) fn address_name(text: &str) -> Vec<String> {
    let mut errors = Errors::new();
    address::strict(text, &Path::new(""), &mut errors);
    errors.into_iter().map(|error| error.detail).collect()
}
