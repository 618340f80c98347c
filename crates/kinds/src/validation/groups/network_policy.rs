//! NetworkPolicy.

use serde_json::Value;

use super::address;
use super::checks::among;
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, list, text};
use crate::validation::selector::{has_invalid_values, selector_with};
use crate::validation::{Errors, invalid};

/// What an old object lets its successor keep.
#[derive(Default)]
struct Known<'o> {
    /// Its selector had values that are no label values.
    lenient: bool,
    /// Its networks.
    networks: Vec<&'o str>,
}

pub(super) fn create(object: &Value, errors: &mut Errors) {
    spec(&object["spec"], &Known::default(), errors);
}

pub(super) fn update(object: &Value, old: &Value, errors: &mut Errors) {
    let networks = [("ingress", "from"), ("egress", "to")]
        .into_iter()
        .flat_map(|(direction, side)| list(&old["spec"], direction).iter().flat_map(move |rule| list(rule, side)))
        .flat_map(|peer| {
            let except = list(peer, "ipBlock.except").iter().filter_map(Value::as_str);
            except.chain([text(peer, "ipBlock.cidr")])
        })
        .collect();
    let known = Known { lenient: has_invalid_values(&old["spec"]["podSelector"]), networks };
    spec(&object["spec"], &known, errors);
}

fn spec(spec: &Value, known: &Known<'_>, errors: &mut Errors) {
    let path = Path::new("spec");
    selector_with(&spec["podSelector"], &path.child("podSelector"), known.lenient, errors);
    for (direction, side) in [("ingress", "from"), ("egress", "to")] {
        let rules = path.child(direction);
        for (index, rule) in list(spec, direction).iter().enumerate() {
            let path = rules.index(index);
            let ports = path.child("ports");
            for (index, one) in list(rule, "ports").iter().enumerate() {
                port(one, &ports.index(index), errors);
            }
            let peers = path.child(side);
            for (index, one) in list(rule, side).iter().enumerate() {
                peer(one, &peers.index(index), known, errors);
            }
        }
    }
    let types = path.child("policyTypes");
    let given = list(spec, "policyTypes");
    if given.len() > 2 {
        let detail = "may not specify more than two policyTypes";
        errors.push(FieldError::invalid(types, spec["policyTypes"].clone(), detail));
        return;
    }
    for (index, one) in given.iter().enumerate() {
        among(one, &types.index(index), &["Ingress", "Egress"], errors);
    }
}

fn port(port: &Value, path: &Path<'_>, errors: &mut Errors) {
    if !port["protocol"].is_null() {
        among(&port["protocol"], &path.child("protocol"), &["TCP", "UDP", "SCTP"], errors);
    }
    let end = &port["endPort"];
    let refuse_end = |detail: &str, errors: &mut Errors| {
        if !end.is_null() {
            errors.push(FieldError::invalid(path.child("endPort"), end.clone(), detail));
        }
    };
    match &port["port"] {
        Value::Number(number) => {
            let number = number.as_i64().unwrap_or_default();
            invalid(errors, &path.child("port"), &port["port"], name::port_number(number));
            if let Some(last) = end.as_i64() {
                if last < number {
                    refuse_end("must be greater than or equal to `port`", errors);
                }
                invalid(errors, &path.child("endPort"), end, name::port_number(last));
            }
        }
        Value::String(named) => {
            refuse_end("may not be specified when `port` is non-numeric", errors);
            invalid(errors, &path.child("port"), &port["port"], name::port_name(named));
        }
        _ => refuse_end("may not be specified when `port` is not specified", errors),
    }
}

fn peer(peer: &Value, path: &Path<'_>, known: &Known<'_>, errors: &mut Errors) {
    let mut given = 0;
    for selector in ["podSelector", "namespaceSelector"] {
        if !peer[selector].is_null() {
            given += 1;
            selector_with(&peer[selector], &path.child(selector), known.lenient, errors);
        }
    }
    let block = &peer["ipBlock"];
    if !block.is_null() {
        given += 1;
        self::block(block, &path.child("ipBlock"), known, errors);
    }
    if given == 0 {
        errors.push(FieldError::required(path, "must specify a peer"));
    } else if given > 1 && !block.is_null() {
        errors.push(FieldError::forbidden(path, "may not specify both ipBlock and another peer"));
    }
}

fn block(block: &Value, path: &Path<'_>, known: &Known<'_>, errors: &mut Errors) {
    let whole = text(block, "cidr");
    if whole.is_empty() {
        errors.push(FieldError::required(path.child("cidr"), ""));
        return;
    }
    let Some(whole) = address::legacy_network(whole, &path.child("cidr"), &known.networks, errors) else { return };
    let except = path.child("except");
    for (index, one) in list(block, "except").iter().enumerate() {
        let path = except.index(index);
        let one = one.as_str().unwrap_or_default();
        let Some(part) = address::legacy_network(one, &path, &known.networks, errors) else { continue };
        if !whole.contains(part.first) || whole.length >= part.length {
            errors.push(FieldError::invalid(path, one, "must be a strict subset of `cidr`"));
        }
    }
}
