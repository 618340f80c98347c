//! Services and endpoints.

use serde_json::{Value, json};

use super::{create, update};

fn base() -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x", "namespace": "default"},
        "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}})
}

#[track_caller]
fn spec(change: Value, expected: &[&str]) {
    create(&base(), json!({"spec": change}), expected);
}

#[test]
fn ports() {
    spec(json!({}), &[]);
    spec(json!({"ports": []}), &["spec.ports: Required value"]);
    spec(json!({"ports": [], "clusterIP": "None"}), &[]);
    spec(
        json!({"ports": [{"port": 99999}]}),
        &[
            "spec.ports[0].port: Invalid value: 99999: must be between 1 and 65535, inclusive",
            "spec.ports[0].targetPort: Invalid value: 99999: must be between 1 and 65535, inclusive",
        ],
    );
    spec(json!({"ports": [{"port": 1}, {"port": 2, "name": "b"}]}), &["spec.ports[0].name: Required value"]);
    spec(
        json!({"ports": [{"port": 1, "name": "a"}, {"port": 2, "name": "a"}]}),
        &["spec.ports[1].name: Duplicate value: \"a\""],
    );
    spec(
        json!({"ports": [{"port": 1, "protocol": "HTTP"}]}),
        &["spec.ports[0].protocol: Unsupported value: \"HTTP\": supported values: \"SCTP\", \"TCP\", \"UDP\""],
    );
    spec(
        json!({"ports": [{"port": 1, "nodePort": 30000}]}),
        &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
    );
}

#[test]
fn types() {
    spec(
        json!({"type": "Other", "internalTrafficPolicy": "Cluster"}),
        &[
            "spec.type: Unsupported value: \"Other\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
        ],
    );
    spec(json!({"type": "ExternalName"}), &["spec.externalName: Required value"]);
    spec(json!({"type": "ExternalName", "externalName": "example.com."}), &[]);
    spec(
        json!({"type": "LoadBalancer", "clusterIP": "None"}),
        &["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for LoadBalancer services"],
    );
    spec(
        json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 90000}}}),
        &[
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 90000: must be greater than 0 and less than 86400",
        ],
    );
    spec(
        json!({"trafficDistribution": "Far"}),
        &["spec.trafficDistribution: Unsupported value: \"Far\": supported values: …"],
    );
    spec(
        json!({"externalIPs": ["127.0.0.1"]}),
        &["spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)"],
    );
}

#[test]
fn addresses() {
    spec(json!({"ipFamilies": ["IPv4", "IPv4"]}), &["spec.ipFamilies[1]: Duplicate value: \"IPv4\""]);
    spec(json!({"clusterIP": "x"}), &["spec.clusterIPs[0]: Invalid value: \"x\": must be a valid IP address, …"]);
    spec(
        json!({"ipFamilyPolicy": "Many"}),
        &[
            "spec.ipFamilyPolicy: Unsupported value: \"Many\": supported values: \"PreferDualStack\", \"RequireDualStack\", \"SingleStack\"",
        ],
    );
}

#[test]
fn addresses_stay() {
    let mut with = base();
    with["spec"]["clusterIP"] = json!("10.0.0.1");
    with["spec"]["clusterIPs"] = json!(["10.0.0.1"]);
    update(&with, json!({"spec": {"selector": {"c": "d"}}}), None, &[]);
    update(
        &with,
        json!({"spec": {"clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.2"]}}),
        None,
        &["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"],
    );
    update(
        &with,
        json!({"spec": {"type": "ExternalName", "externalName": "x", "clusterIP": null, "clusterIPs": null}}),
        None,
        &[],
    );
    update(&with, json!({"spec": {"type": "NodePort"}}), None, &[]);
}

#[test]
fn status() {
    let mut balanced = base();
    balanced["spec"]["type"] = json!("LoadBalancer");
    let ingress = |fields: Value| json!({"status": {"loadBalancer": {"ingress": [fields]}}});
    update(&balanced, ingress(json!({"ip": "1.2.3.4", "ipMode": "VIP"})), Some("status"), &[]);
    update(
        &balanced,
        ingress(json!({"hostname": "1.2.3.4"})),
        Some("status"),
        &["status.loadBalancer.ingress[0].hostname: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address"],
    );
    update(
        &base(),
        ingress(json!({"ip": "1.2.3.4", "ipMode": "VIP"})),
        Some("status"),
        &["status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"],
    );
}

#[test]
fn endpoints() {
    let base = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "x", "namespace": "default"}});
    let subset = |addresses: Value, ports: Value| json!({"subsets": [{"addresses": addresses, "ports": ports}]});
    create(&base, subset(json!([{"ip": "10.0.0.1"}]), json!([{"port": 80}])), &[]);
    create(
        &base,
        subset(json!([]), json!([{"port": 80}])),
        &["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"],
    );
    create(
        &base,
        subset(json!([{"ip": "169.254.0.1"}]), json!([{"port": 0}])),
        &[
            "subsets[0].addresses[0].ip: Invalid value: \"169.254.0.1\": may not be in the link-local range (169.254.0.0/16, fe80::/10)",
            "subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ],
    );
}
