//! Service.
//!
//! Source: `ValidateService…` in `pkg/apis/core/validation/validation.go` of Kubernetes 1.36. Addresses and node ports are
//! given out after validation, so none of them has to be there yet.

mod addresses;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::metadata::labels;
use super::pod::port_number_or_name;
use super::{Errors, follows, invalid, one_of, required_one_of};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, has, list, text};

const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const MODE: &str = "service.kubernetes.io/topology-mode";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const ONLY_BALANCED: &str = "may only be used when `type` is 'LoadBalancer'";

/// Whether the service has no address of its own.
fn is_headless(service: &Value) -> bool {
    let spec = &service["spec"];
    text(spec, "clusterIP") == "None" || list(spec, "clusterIPs").first().is_some_and(|first| first == "None")
}

fn is_balanced(service: &Value) -> bool {
    service["spec"]["type"] == "LoadBalancer"
}

/// Whether something outside the cluster may reach the service.
fn is_external(spec: &Value) -> bool {
    matches!(text(spec, "type"), "LoadBalancer" | "NodePort")
        || (text(spec, "type") == "ClusterIP" && !list(spec, "externalIPs").is_empty())
}

fn needs_health_check(spec: &Value) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

/// What holds for a service at any time.
pub(super) fn service(service: &Value, errors: &mut Errors) {
    let annotations = &service["metadata"]["annotations"];
    if let (Some(mode), Some(hints)) = (annotations[MODE].as_str(), annotations[HINTS].as_str())
        && mode != hints
    {
        let detail = format!("must match annotations[{HINTS}] when both are specified");
        let path = Path::new("metadata");
        errors.push(FieldError::invalid(path.child("annotations").key(MODE), mode, detail));
    }
    let path = Path::new("spec");
    let spec = &service["spec"];
    let kind = text(spec, "type");
    let headless = is_headless(service);
    if list(spec, "ports").is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required(path.child("ports"), ""));
    }
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.push(FieldError::invalid(path.child("clusterIPs").index(0), "None", detail));
        }
        "ExternalName" => external_name(spec, &path, errors),
        _ => {}
    }
    ports(spec, &path, errors);
    labels(spec, "selector", &path, errors);
    affinity(spec, &path, errors);
    addresses::addresses(service, &path, errors);
    let external = path.child("externalIPs");
    for (index, address) in list(spec, "externalIPs").iter().enumerate() {
        let given = address.as_str().unwrap_or_default();
        let mut wrong = name::ip(given);
        if wrong.is_empty() {
            wrong = name::non_special_ip(given);
        }
        invalid(errors, &external.index(index), address, wrong);
    }
    required_one_of(
        errors,
        &path.child("type"),
        &spec["type"],
        &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
    );
    repeated_ports(spec, &path, errors);
    balancer(service, &path, errors);
    traffic(spec, &path, errors);
}

/// A service that is to replace `old`.
pub(super) fn update(now: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    addresses::update(now, old, &path, errors);
    if is_balanced(now) && is_balanced(old) {
        let (class, before) = (&now["spec"]["loadBalancerClass"], &old["spec"]["loadBalancerClass"]);
        if class != before {
            let place = path.child("loadBalancerClass");
            errors.push(FieldError::invalid(place, class.clone(), "may not change once set"));
        }
    }
    if needs_health_check(&now["spec"]) && needs_health_check(&old["spec"]) {
        let (port, before) = (&now["spec"]["healthCheckNodePort"], &old["spec"]["healthCheckNodePort"]);
        if port != before {
            errors.push(FieldError::forbidden(path.child("healthCheckNodePort"), "field is immutable"));
        }
    }
    service(now, errors);
}

/// `services/status`.
pub(super) fn status(service: &Value, errors: &mut Errors) {
    let path = Path::new("status");
    let path = path.child("loadBalancer");
    let path = path.child("ingress");
    let ingress = list(&service["status"], "loadBalancer.ingress");
    if !is_balanced(service) && !ingress.is_empty() {
        let detail = "may only be used when `spec.type` is 'LoadBalancer'";
        errors.push(FieldError::forbidden(path, detail));
        return;
    }
    for (index, point) in ingress.iter().enumerate() {
        let path = path.index(index);
        follows(errors, &path, point, "ip", name::ip);
        let (ip, mode) = (text(point, "ip"), &point["ipMode"]);
        let place = path.child("ipMode");
        match mode.as_str() {
            None if !ip.is_empty() => {
                errors.push(FieldError::required(place, "must be specified when `ip` is set"));
            }
            Some(_) if ip.is_empty() => {
                errors.push(FieldError::forbidden(place, "may not be specified when `ip` is not set"));
            }
            _ => one_of(errors, &place, mode, &["Proxy", "VIP"]),
        }
        follows(errors, &path, point, "hostname", name::dns1123_subdomain);
        let host = text(point, "hostname");
        if host.parse::<std::net::IpAddr>().is_ok() {
            let detail = "must be a DNS name, not an IP address";
            errors.push(FieldError::invalid(path.child("hostname"), host, detail));
        }
    }
}

fn external_name(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    for field in ["clusterIPs", "ipFamilies"] {
        if !list(spec, field).is_empty() {
            errors.push(FieldError::forbidden(path.child(field), "may not be set for ExternalName services"));
        }
    }
    if has(spec, "ipFamilyPolicy") {
        errors.push(FieldError::forbidden(path.child("ipFamilyPolicy"), "may not be set for ExternalName services"));
    }
    let target = text(spec, "externalName");
    let target = target.strip_suffix('.').unwrap_or(target);
    if target.is_empty() {
        errors.push(FieldError::required(path.child("externalName"), ""));
    } else {
        invalid(errors, &path.child("externalName"), &Value::from(target), name::dns1123_subdomain(target));
    }
}

fn ports(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("ports");
    let all = list(spec, "ports");
    let mut names = BTreeSet::new();
    for (index, port) in all.iter().enumerate() {
        let path = path.index(index);
        let name_of = text(port, "name");
        if !name_of.is_empty() {
            invalid(errors, &path.child("name"), &port["name"], name::dns1123_label(name_of));
            if !names.insert(name_of) {
                errors.push(FieldError::duplicate(path.child("name"), name_of));
            }
        } else if all.len() > 1 {
            errors.push(FieldError::required(path.child("name"), ""));
        }
        let number = port["port"].as_i64().unwrap_or(0);
        for message in name::port_number(number) {
            errors.push(FieldError::invalid(path.child("port"), number, message));
        }
        required_one_of(errors, &path.child("protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
        port_number_or_name(&port["targetPort"], &path.child("targetPort"), errors);
        if let Some(protocol) = port["appProtocol"].as_str() {
            invalid(errors, &path.child("appProtocol"), &port["appProtocol"], name::qualified_name(protocol));
        }
        if text(spec, "type") == "ClusterIP" && port["nodePort"].as_i64().unwrap_or(0) != 0 {
            let detail = "may not be used when `type` is 'ClusterIP'";
            errors.push(FieldError::forbidden(path.child("nodePort"), detail));
        }
    }
}

/// Neither a port nor a node port is there twice for one protocol.
fn repeated_ports(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("ports");
    let (mut nodes, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in list(spec, "ports").iter().enumerate() {
        let path = path.index(index);
        let protocol = text(port, "protocol");
        let node = port["nodePort"].as_i64().unwrap_or(0);
        if node != 0 && !nodes.insert((protocol, node)) {
            errors.push(FieldError::duplicate(path.child("nodePort"), node));
        }
        let number = port["port"].as_i64();
        if !numbers.insert((protocol, number)) {
            let shown = json!({"protocol": protocol, "port": number, "targetPort": 0});
            errors.push(FieldError::duplicate(path, shown));
        }
    }
}

fn affinity(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let config = &spec["sessionAffinityConfig"];
    let place = path.child("sessionAffinityConfig");
    required_one_of(errors, &path.child("sessionAffinity"), &spec["sessionAffinity"], &["ClientIP", "None"]);
    match text(spec, "sessionAffinity") {
        "ClientIP" => {
            let client = place.child("clientIP");
            let timeout = client.child("timeoutSeconds");
            let detail = "when session affinity type is ClientIP";
            if config.is_null() {
                errors.push(FieldError::required(place, detail));
            } else if config["clientIP"].is_null() {
                errors.push(FieldError::required(client, detail));
            } else if let Some(seconds) = config["clientIP"]["timeoutSeconds"].as_i64() {
                if !(1..=86400).contains(&seconds) {
                    let detail = "must be greater than 0 and less than 86400";
                    errors.push(FieldError::invalid(timeout, seconds, detail));
                }
            } else {
                errors.push(FieldError::required(timeout, detail));
            }
        }
        "None" if !config.is_null() => {
            errors.push(FieldError::forbidden(place, "must not be set when session affinity is None"));
        }
        _ => {}
    }
}

fn balancer(service: &Value, path: &Path<'_>, errors: &mut Errors) {
    let spec = &service["spec"];
    let balanced = is_balanced(service);
    let ranges = list(spec, "loadBalancerSourceRanges");
    let annotation = service["metadata"]["annotations"][SOURCE_RANGES].as_str();
    if !ranges.is_empty() {
        let path = path.child("LoadBalancerSourceRanges");
        if !balanced {
            errors.push(FieldError::forbidden(path, ONLY_BALANCED));
        }
        for (index, range) in ranges.iter().enumerate() {
            let range = range.as_str().unwrap_or_default().trim();
            invalid(errors, &path.index(index), &Value::from(range), name::cidr(range));
        }
    } else if let Some(ranges) = annotation {
        let path = Path::new("metadata");
        let path = path.child("annotations");
        let path = path.key(SOURCE_RANGES);
        if !balanced {
            errors.push(FieldError::forbidden(path, ONLY_BALANCED));
        }
        for range in ranges.split(',').map(str::trim).filter(|_| !ranges.trim().is_empty()) {
            invalid(errors, &path, &Value::from(range), name::cidr(range));
        }
    }
    if !spec["allocateLoadBalancerNodePorts"].is_null() && !balanced {
        errors.push(FieldError::forbidden(path.child("allocateLoadBalancerNodePorts"), ONLY_BALANCED));
    }
    if spec["allocateLoadBalancerNodePorts"].is_null() && balanced {
        errors.push(FieldError::required("allocateLoadBalancerNodePorts", ""));
    }
    let class = &spec["loadBalancerClass"];
    match class.as_str() {
        Some(given) if balanced => {
            invalid(errors, &path.child("loadBalancerClass"), class, name::qualified_name(given));
        }
        Some(_) => errors.push(FieldError::forbidden(path.child("loadBalancerClass"), ONLY_BALANCED)),
        None => {}
    }
}

fn traffic(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let policy = &spec["externalTrafficPolicy"];
    let place = path.child("externalTrafficPolicy");
    if is_external(spec) {
        required_one_of(errors, &place, policy, &["Cluster", "Local"]);
    } else if policy.as_str().is_some_and(|policy| !policy.is_empty()) {
        let detail = "may only be set for externally-accessible services";
        errors.push(FieldError::invalid(place, policy.clone(), detail));
    }
    let port = spec["healthCheckNodePort"].as_i64().unwrap_or(0);
    let place = path.child("healthCheckNodePort");
    if port != 0 {
        if needs_health_check(spec) {
            invalid(errors, &place, &spec["healthCheckNodePort"], name::port_number(port));
        } else {
            let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.push(FieldError::invalid(place, port, detail));
        }
    }
    let place = path.child("internalTrafficPolicy");
    match spec["internalTrafficPolicy"].as_str() {
        None if text(spec, "type") != "ExternalName" => errors.push(FieldError::required(place, "")),
        _ => one_of(errors, &place, &spec["internalTrafficPolicy"], &["Cluster", "Local"]),
    }
    one_of(
        errors,
        &path.child("trafficDistribution"),
        &spec["trafficDistribution"],
        &["PreferClose", "PreferSameNode", "PreferSameZone"],
    );
}
