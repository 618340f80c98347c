//! What a service's fields mean to each other when it is written: one address by two names, and fields of a type that it
//! no longer has.
//!
//! Source: `pkg/registry/core/service/storage/storage.go` and `pkg/registry/core/service/strategy.go` of Kubernetes 1.36.

use serde_json::{Value, json};

use crate::path::{has, list, size, text};

/// A client that knows only the singular field names the one address there.
pub(super) fn create(service: &mut Value) {
    let address = service["spec"]["clusterIP"].clone();
    if address.as_str().is_some_and(|address| !address.is_empty()) && size(service, "spec.clusterIPs") == 0 {
        service["spec"]["clusterIPs"] = json!([address]);
    }
}

pub(super) fn update(service: &mut Value, old: &Value) {
    if !service["spec"].is_object() {
        return;
    }
    addresses(service, old);
    drop_fields_of_old_type(service, old);
}

fn remove(service: &mut Value, field: &str) {
    if let Some(fields) = service["spec"].as_object_mut() {
        fields.remove(field);
    }
}

fn addresses(service: &mut Value, old: &Value) {
    let (single, before) = (text(service, "spec.clusterIP").to_owned(), text(old, "spec.clusterIP"));
    if size(service, "spec.clusterIPs") == 0 && size(old, "spec.clusterIPs") > 0 && single == before {
        service["spec"]["clusterIPs"] = old["spec"]["clusterIPs"].clone();
    }
    // The client changed the one and repeats the others: it knows only of the one.
    if single != before && list(service, "spec.clusterIPs") == list(old, "spec.clusterIPs") {
        if single.is_empty() {
            remove(service, "clusterIPs");
        } else {
            service["spec"]["clusterIPs"] = json!([single]);
        }
    }
}

fn is_balanced(service: &Value) -> bool {
    text(service, "spec.type") == "LoadBalancer"
}

fn is_named(service: &Value) -> bool {
    text(service, "spec.type") == "ExternalName"
}

fn has_node_ports(service: &Value) -> bool {
    match text(service, "spec.type") {
        "NodePort" => true,
        "LoadBalancer" => service["spec"]["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

fn has_health_port(service: &Value) -> bool {
    is_balanced(service) && text(service, "spec.externalTrafficPolicy") == "Local"
}

fn is_external(service: &Value) -> bool {
    match text(service, "spec.type") {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => size(service, "spec.externalIPs") > 0,
        _ => false,
    }
}

/// Whether a field means something for a service.
type Applies = fn(&Value) -> bool;

/// Fields that belong to the old type and that the client only repeats go with it.
fn drop_fields_of_old_type(service: &mut Value, old: &Value) {
    let same = |service: &Value, field: &str| service["spec"][field] == old["spec"][field];
    if !is_named(old) && is_named(service) && same(service, "clusterIP") && same(service, "clusterIPs") {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            remove(service, field);
        }
    }
    if has_node_ports(old) && !has_node_ports(service) {
        let ports = |service: &Value| -> Vec<Value> {
            list(service, "spec.ports").iter().map(|port| port["nodePort"].clone()).collect()
        };
        if ports(service) == ports(old) {
            for port in service["spec"]["ports"].as_array_mut().into_iter().flatten() {
                if let Some(port) = port.as_object_mut() {
                    port.remove("nodePort");
                }
            }
        }
    }
    let dependent: [(Applies, &str); 4] = [
        (has_health_port, "healthCheckNodePort"),
        (is_balanced, "allocateLoadBalancerNodePorts"),
        (is_balanced, "loadBalancerClass"),
        (is_external, "externalTrafficPolicy"),
    ];
    for (applies, field) in dependent {
        let given = has(service, &format!("spec.{field}"));
        if given && applies(old) && !applies(service) && same(service, field) {
            remove(service, field);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_take_their_fields_along() {
        let check = |spec: Value, old: Value, expected: Value| {
            let mut service = json!({"spec": spec});
            update(&mut service, &json!({"spec": old}));
            assert_eq!(service["spec"], expected);
        };
        check(
            json!({"type": "ExternalName", "clusterIP": "1.1.1.1", "clusterIPs": ["1.1.1.1"], "ipFamilies": ["IPv4"]}),
            json!({"type": "ClusterIP", "clusterIP": "1.1.1.1", "clusterIPs": ["1.1.1.1"], "ipFamilies": ["IPv4"]}),
            json!({"type": "ExternalName"}),
        );
        check(
            json!({"type": "ClusterIP", "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "nodePort": 30000}]}),
            json!({"type": "NodePort", "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "nodePort": 30000}]}),
            json!({"type": "ClusterIP", "ports": [{"port": 80}]}),
        );
        check(
            json!({"clusterIP": "2.2.2.2", "clusterIPs": ["1.1.1.1"]}),
            json!({"clusterIP": "1.1.1.1", "clusterIPs": ["1.1.1.1"]}),
            json!({"clusterIP": "2.2.2.2", "clusterIPs": ["2.2.2.2"]}),
        );
    }
}
