//! Service.

use std::collections::BTreeSet;

use serde_json::Value;

use super::metadata::labels;
use super::{Errors, invalid, one_of};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, list, text};

pub(super) fn spec(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let kind = text(spec, "type");
    let ports = list(spec, "ports");
    one_of(errors, &path.child("type"), &spec["type"], &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    one_of(errors, &path.child("sessionAffinity"), &spec["sessionAffinity"], &["ClientIP", "None"]);
    one_of(errors, &path.child("externalTrafficPolicy"), &spec["externalTrafficPolicy"], &["Cluster", "Local"]);
    one_of(errors, &path.child("internalTrafficPolicy"), &spec["internalTrafficPolicy"], &["Cluster", "Local"]);
    let headless = text(spec, "clusterIP") == "None";
    if ports.is_empty() && kind != "ExternalName" && !headless {
        errors.push(FieldError::required(path.child("ports"), ""));
    }
    if kind == "ExternalName" {
        let target = text(spec, "externalName").trim_end_matches('.');
        if target.is_empty() {
            errors.push(FieldError::required(path.child("externalName"), ""));
        } else {
            invalid(errors, &path.child("externalName"), &spec["externalName"], name::dns1123_subdomain(target));
        }
    }
    if headless && matches!(kind, "NodePort" | "LoadBalancer") {
        let detail = format!("may not be set to 'None' for {kind} services");
        errors.push(FieldError::invalid(path.child("clusterIPs").index(0), "None", detail));
    }
    labels(spec, "selector", path, errors);
    let ports_path = path.child("ports");
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let path = ports_path.index(index);
        let name_of = text(port, "name");
        if name_of.is_empty() {
            if ports.len() > 1 {
                errors.push(FieldError::required(path.child("name"), ""));
            }
        } else {
            invalid(errors, &path.child("name"), &port["name"], name::dns1123_label(name_of));
            if !names.insert(name_of) {
                errors.push(FieldError::duplicate(path.child("name"), name_of));
            }
        }
        invalid(errors, &path.child("port"), &port["port"], name::port_number(port["port"].as_i64().unwrap_or(0)));
        one_of(errors, &path.child("protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
        match &port["targetPort"] {
            Value::Number(number) => {
                invalid(
                    errors,
                    &path.child("targetPort"),
                    &port["targetPort"],
                    name::port_number(number.as_i64().unwrap_or(0)),
                );
            }
            Value::String(named) => {
                invalid(errors, &path.child("targetPort"), &port["targetPort"], name::port_name(named))
            }
            _ => {}
        }
        if !numbers.insert((text(port, "protocol"), port["port"].as_i64())) {
            errors.push(FieldError::duplicate(path, port.clone()));
        }
        let node_port = port["nodePort"].as_i64().unwrap_or(0);
        if node_port != 0 && !matches!(kind, "NodePort" | "LoadBalancer") {
            errors.push(FieldError::forbidden(path.child("nodePort"), "may not be used when `type` is 'ClusterIP'"));
        }
    }
    let external = path.child("externalIPs");
    for (index, address) in list(spec, "externalIPs").iter().enumerate() {
        invalid(errors, &external.index(index), address, name::ip(address.as_str().unwrap_or_default()));
    }
}

pub(super) fn update(object: &Value, old: &Value, errors: &mut Errors) {
    // A Service keeps its address while it stays of a type that has one.
    let has_address = |service: &Value| text(service, "spec.type") != "ExternalName";
    let before = text(old, "spec.clusterIP");
    if has_address(object) && has_address(old) && !before.is_empty() && text(object, "spec.clusterIP") != before {
        let path = Path::new("spec");
        let value = object["spec"]["clusterIPs"].clone();
        errors.push(FieldError::invalid(path.child("clusterIPs").index(0), value, "may not change once set"));
    }
}
