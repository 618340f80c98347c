//! Ingress and IngressClass.

use serde_json::Value;

use super::address;
use super::checks::{among, domain_prefixed_path, immutable, optional, required};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, list, text};
use crate::validation::{Errors, invalid, required_follows};

/// The annotation that named a class before there was a field for it.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
/// The longest name of an ingress class' controller.
const CONTROLLER_LIMIT: usize = 250;

/// What an old object lets its successor keep.
#[derive(Clone, Copy, Default)]
struct Known {
    /// It named secrets that cannot be.
    secrets: bool,
    /// Its rules for wildcard hosts were wrong.
    wildcards: bool,
}

pub(super) fn create(object: &Value, errors: &mut Errors) {
    spec(&object["spec"], Known::default(), errors);
    let annotation = &object["metadata"]["annotations"][CLASS_ANNOTATION];
    let class = &object["spec"]["ingressClassName"];
    if annotation.is_string() && class.is_string() && annotation != class {
        let path = Path::new("annotations");
        let detail = "must match `ingressClassName` when both are specified";
        errors.push(FieldError::invalid(path.child(CLASS_ANNOTATION), annotation.clone(), detail));
    }
}

pub(super) fn update(object: &Value, old: &Value, errors: &mut Errors) {
    let tls = list(old, "spec.tls").iter().map(|tls| text(tls, "secretName"));
    let wrong = |rule: &Value| {
        let mut errors = Errors::new();
        http(rule, &Path::new(""), &mut errors);
        !errors.is_empty()
    };
    let known = Known {
        secrets: tls.into_iter().any(|name| !name.is_empty() && !name::dns1123_subdomain(name).is_empty()),
        wildcards: list(old, "spec.rules").iter().any(|rule| text(rule, "host").contains('*') && wrong(rule)),
    };
    spec(&object["spec"], known, errors);
}

fn host(host: &str, path: &Path<'_>, errors: &mut Errors) {
    let messages =
        if host.contains('*') { name::wildcard_dns1123_subdomain(host) } else { name::dns1123_subdomain(host) };
    invalid(errors, path, &host.into(), messages);
}

fn spec(spec: &Value, known: Known, errors: &mut Errors) {
    let path = Path::new("spec");
    let rules = list(spec, "rules");
    if rules.is_empty() && spec["defaultBackend"].is_null() {
        let detail = "either `defaultBackend` or `rules` must be specified";
        errors.push(FieldError::invalid(path, spec["rules"].clone(), detail));
    }
    if !spec["defaultBackend"].is_null() {
        backend(&spec["defaultBackend"], &path.child("defaultBackend"), errors);
    }
    let place = path.child("rules");
    for (index, rule) in rules.iter().enumerate() {
        let path = place.index(index);
        let name = text(rule, "host");
        if !name.is_empty() {
            if address::tolerant(name).is_some() {
                let detail = "must be a DNS name, not an IP address";
                errors.push(FieldError::invalid(path.child("host"), name, detail));
            }
            host(name, &path.child("host"), errors);
        }
        if !name.contains('*') || !known.wildcards {
            http(rule, &path, errors);
        }
    }
    let place = path.child("tls");
    for (index, tls) in list(spec, "tls").iter().enumerate() {
        let path = place.index(index);
        let hosts = path.child("hosts");
        for (index, name) in list(tls, "hosts").iter().enumerate() {
            host(name.as_str().unwrap_or_default(), &hosts.index(index), errors);
        }
        let secret = text(tls, "secretName");
        if !known.secrets && !secret.is_empty() {
            let messages = name::dns1123_subdomain(secret);
            invalid(errors, &path.child("secretName"), &tls["secretName"], messages);
        }
    }
    optional(spec, "ingressClassName", &path, name::dns1123_subdomain, errors);
}

fn http(rule: &Value, path: &Path<'_>, errors: &mut Errors) {
    if rule["http"].is_null() {
        return;
    }
    let http = path.child("http");
    let place = http.child("paths");
    let paths = list(rule, "http.paths");
    if paths.is_empty() {
        errors.push(FieldError::required(place, ""));
    }
    for (index, one) in paths.iter().enumerate() {
        http_path(one, &place.index(index), errors);
    }
}

fn http_path(http: &Value, path: &Path<'_>, errors: &mut Errors) {
    let Some(kind) = http["pathType"].as_str() else {
        errors.push(FieldError::required(path.child("pathType"), "pathType must be specified"));
        return;
    };
    let given = text(http, "path");
    let mut wrong = |detail: String| errors.push(FieldError::invalid(path.child("path"), given, detail));
    match kind {
        "Exact" | "Prefix" => {
            if !given.starts_with('/') {
                wrong("must be an absolute path".to_owned());
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"] {
                if given.contains(part) {
                    wrong(format!("must not contain '{part}'"));
                }
            }
            for end in ["/..", "/."] {
                if given.ends_with(end) {
                    wrong(format!("cannot end with '{end}'"));
                }
            }
        }
        "ImplementationSpecific" => {
            if !given.is_empty() && !given.starts_with('/') {
                wrong("must be an absolute path".to_owned());
            }
        }
        _ => among(&http["pathType"], &path.child("pathType"), &["Exact", "ImplementationSpecific", "Prefix"], errors),
    }
    backend(&http["backend"], &path.child("backend"), errors);
}

fn backend(backend: &Value, path: &Path<'_>, errors: &mut Errors) {
    match (&backend["resource"], &backend["service"]) {
        (Value::Null, Value::Null) => {
            errors.push(FieldError::invalid(path, "", "resource or service backend is required"));
        }
        (resource, Value::Null) => reference(resource, &path.child("resource"), errors),
        (Value::Null, service) => {
            let place = path.child("service");
            required_follows(errors, &place, service, "name", name::dns1123_label);
            let (port, number) = (text(service, "port.name"), service["port"]["number"].as_i64().unwrap_or(0));
            let place = place.child("port");
            match (port.is_empty(), number) {
                (false, 0) => invalid(errors, &place.child("name"), &port.into(), name::port_name(port)),
                (false, _) => {
                    errors.push(FieldError::invalid(path, "", "cannot set both port name & port number"));
                }
                (true, 0) => errors.push(FieldError::required(path, "port name or number is required")),
                (true, number) => {
                    invalid(errors, &place.child("number"), &number.into(), name::port_number(number));
                }
            }
        }
        _ => errors.push(FieldError::invalid(path, "", "cannot set both resource and service backends")),
    }
}

fn reference(reference: &Value, path: &Path<'_>, errors: &mut Errors) {
    optional(reference, "apiGroup", path, name::dns1123_subdomain, errors);
    required_follows(errors, path, reference, "kind", name::path_segment);
    required_follows(errors, path, reference, "name", name::path_segment);
}

pub(super) fn status(object: &Value, old: &Value, errors: &mut Errors) {
    let known: Vec<&str> = list(old, "status.loadBalancer.ingress").iter().map(|one| text(one, "ip")).collect();
    let place = Path::new("status.loadBalancer.ingress");
    for (index, one) in list(object, "status.loadBalancer.ingress").iter().enumerate() {
        let path = place.index(index);
        let (ip, hostname) = (text(one, "ip"), text(one, "hostname"));
        if !ip.is_empty() {
            address::legacy(ip, &path.child("ip"), &known, errors);
        }
        if !hostname.is_empty() {
            let path = path.child("hostname");
            invalid(errors, &path, &hostname.into(), name::dns1123_subdomain(hostname));
            if address::tolerant(hostname).is_some() {
                errors.push(FieldError::invalid(path, hostname, "must be a DNS name, not an IP address"));
            }
        }
    }
}

pub(super) fn class(object: &Value, errors: &mut Errors) {
    let spec = &object["spec"];
    let path = Path::new("spec");
    if required(spec, "controller", &path, "", errors) {
        let controller = text(spec, "controller");
        if controller.len() > CONTROLLER_LIMIT {
            errors.push(FieldError::too_long(path.child("controller"), CONTROLLER_LIMIT));
        }
        domain_prefixed_path(controller, &path.child("controller"), errors);
    }
    let parameters = &spec["parameters"];
    if parameters.is_null() {
        return;
    }
    let path = path.child("parameters");
    reference(parameters, &path, errors);
    let namespace = &parameters["namespace"];
    match parameters["scope"].as_str() {
        None => errors.push(FieldError::required(path.child("scope"), "")),
        Some("Namespace") => match namespace.as_str() {
            None => {
                let detail = "`parameters.scope` is set to 'Namespace'";
                errors.push(FieldError::required(path.child("namespace"), detail));
            }
            Some(name) => invalid(errors, &path.child("namespace"), namespace, name::dns1123_label(name)),
        },
        Some("Cluster") if !namespace.is_null() => {
            errors.push(FieldError::forbidden(path.child("namespace"), "`parameters.scope` is set to 'Cluster'"));
        }
        Some("Cluster") => {}
        Some(_) => among(&parameters["scope"], &path.child("scope"), &["Cluster", "Namespace"], errors),
    }
}

pub(super) fn class_update(object: &Value, old: &Value, errors: &mut Errors) {
    immutable(object, old, "spec.controller", errors);
    class(object, errors);
}
