//! networking.k8s.io, discovery.k8s.io and policy.

use serde_json::{Value, json};

use super::{change, create};

const NETWORKING: &str = "networking.k8s.io/v1";

#[test]
fn network_policies() {
    let check = |spec: Value, expected: &[&str]| create(NETWORKING, "NetworkPolicy", json!({"spec": spec}), expected);
    let peers = |peers: Value| json!({"ingress": [{"from": peers}]});
    check(json!({}), &[]);
    check(json!({"ingress": [{"ports": [{"port": 80, "endPort": 90}, {"port": "http"}, {}]}]}), &[]);
    check(
        json!({"ingress": [{"ports": [{"protocol": "ICMP", "port": 0}, {"port": 80, "endPort": 79},
            {"port": "http", "endPort": 1}, {"endPort": 1}]}]}),
        &[
            "spec.ingress[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"TCP\", \"UDP\", \"SCTP\"",
            "spec.ingress[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ingress[0].ports[1].endPort: Invalid value: 79: must be greater than or equal to `port`",
            "spec.ingress[0].ports[2].endPort: Invalid value: 1: may not be specified when `port` is non-numeric",
            "spec.ingress[0].ports[3].endPort: Invalid value: 1: may not be specified when `port` is not specified",
        ],
    );
    check(
        peers(json!([{}, {"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}, {"ipBlock": {}}])),
        &[
            "spec.ingress[0].from[0]: Required value: must specify a peer",
            "spec.ingress[0].from[1]: Forbidden: may not specify both ipBlock and another peer",
            "spec.ingress[0].from[2].ipBlock.cidr: Required value",
        ],
    );
    check(
        peers(
            json!([{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "11.0.0.0/16", "10.0.0.0/8", "x"]}}]),
        ),
        &[
            "spec.ingress[0].from[0].ipBlock.except[1]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
            "spec.ingress[0].from[0].ipBlock.except[2]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`",
            "spec.ingress[0].from[0].ipBlock.except[3]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        ],
    );
    check(
        json!({"policyTypes": ["Ingress", "Egres"]}),
        &["spec.policyTypes[1]: Unsupported value: \"Egres\": supported values: \"Ingress\", \"Egress\""],
    );
    check(
        json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}, {"key": "b", "operator": "Has"}]}}),
        &[
            "spec.podSelector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            "spec.podSelector.matchExpressions[1].operator: Invalid value: \"Has\": not a valid selector operator",
        ],
    );
    // What an old object has may stay, wherever it goes.
    let with = |cidr: &str| json!({"spec": {"egress": [{"to": [{"ipBlock": {"cidr": cidr}}]}]}});
    change(NETWORKING, "NetworkPolicy", None, with("010.0.0.0/8"), with("010.0.0.0/8"), &[]);
    change(
        NETWORKING,
        "NetworkPolicy",
        None,
        with("10.0.0.0/8"),
        with("10.0.0.1/8"),
        &[
            "spec.egress[0].to[0].ipBlock.cidr: Invalid value: \"10.0.0.1/8\": must not have bits set beyond the prefix length",
        ],
    );
}

#[test]
fn ingresses() {
    let check = |spec: Value, expected: &[&str]| create(NETWORKING, "Ingress", json!({"spec": spec}), expected);
    let service = |port: Value| json!({"service": {"name": "web", "port": port}});
    let path = |path: Value| json!({"rules": [{"host": "a.b", "http": {"paths": [path]}}]});
    check(json!({"defaultBackend": service(json!({"number": 80}))}), &[]);
    check(json!({}), &["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"]);
    check(
        json!({"defaultBackend": {}}),
        &["spec.defaultBackend: Invalid value: \"\": resource or service backend is required"],
    );
    check(
        json!({"defaultBackend": service(json!({}))}),
        &["spec.defaultBackend: Required value: port name or number is required"],
    );
    check(
        json!({"defaultBackend": service(json!({"name": "http", "number": 80}))}),
        &["spec.defaultBackend: Invalid value: \"\": cannot set both port name & port number"],
    );
    check(
        json!({"defaultBackend": {"resource": {"kind": "", "name": "a/b", "apiGroup": "x.io"}}}),
        &[
            "spec.defaultBackend.resource.kind: Required value",
            "spec.defaultBackend.resource.name: Invalid value: \"a/b\": may not contain '/'",
        ],
    );
    let backend = service(json!({"number": 80}));
    check(path(json!({"path": "/a", "pathType": "Prefix", "backend": backend})), &[]);
    check(
        path(json!({"path": "/a", "backend": backend})),
        &["spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified"],
    );
    check(
        path(json!({"path": "a//b/.", "pathType": "Exact", "backend": backend})),
        &[
            "spec.rules[0].http.paths[0].path: Invalid value: \"a//b/.\": must be an absolute path",
            "spec.rules[0].http.paths[0].path: Invalid value: \"a//b/.\": must not contain '//'",
            "spec.rules[0].http.paths[0].path: Invalid value: \"a//b/.\": cannot end with '/.'",
        ],
    );
    check(
        path(json!({"path": "/", "pathType": "Regex", "backend": backend})),
        &[
            "spec.rules[0].http.paths[0].pathType: Unsupported value: \"Regex\": supported values: \"Exact\", \"ImplementationSpecific\", \"Prefix\"",
        ],
    );
    check(
        json!({"rules": [{"host": "1.2.3.4", "http": {}}]}),
        &[
            "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
            "spec.rules[0].http.paths: Required value",
        ],
    );
    create(
        NETWORKING,
        "Ingress",
        json!({"metadata": {"name": "a", "namespace": "b", "annotations": {"kubernetes.io/ingress.class": "x"}},
            "spec": {"ingressClassName": "y", "defaultBackend": backend}}),
        &[
            "annotations.kubernetes.io/ingress.class: Invalid value: \"x\": must match `ingressClassName` when both are specified",
        ],
    );
    change(
        NETWORKING,
        "Ingress",
        Some("status"),
        json!({}),
        json!({"status": {"loadBalancer": {"ingress": [{"ip": "1.2.3"}, {"hostname": "1.2.3.4"}, {"ip": "1.2.3.4"}]}}}),
        &[
            "status.loadBalancer.ingress[0].ip: Invalid value: \"1.2.3\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            "status.loadBalancer.ingress[1].hostname: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
        ],
    );
}

#[test]
fn ingress_classes() {
    let class = |spec: Value| json!({"spec": spec});
    let check = |spec: Value, expected: &[&str]| create(NETWORKING, "IngressClass", class(spec), expected);
    check(json!({"controller": "example.com/c"}), &[]);
    check(json!({}), &["spec.controller: Required value"]);
    check(
        json!({"controller": "example"}),
        &["spec.controller: Invalid value: \"example\": must be a domain-prefixed path (such as \"acme.io/foo\")"],
    );
    check(
        json!({"controller": "a.b/c", "parameters": {"kind": "K", "name": "n", "scope": "Namespace"}}),
        &["spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'"],
    );
    check(
        json!({"controller": "a.b/c", "parameters": {"kind": "K", "name": "n", "namespace": "x"}}),
        &["spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'"],
    );
    change(
        NETWORKING,
        "IngressClass",
        None,
        class(json!({"controller": "a.b/c"})),
        class(json!({"controller": "a.b/d"})),
        &["spec.controller: Invalid value: \"a.b/d\": field is immutable"],
    );
}

#[test]
fn service_ranges() {
    let range = |cidrs: Value| json!({"spec": {"cidrs": cidrs}});
    let check = |cidrs: Value, expected: &[&str]| create(NETWORKING, "ServiceCIDR", range(cidrs), expected);
    check(json!(["10.0.0.0/24", "fd00::/112"]), &[]);
    check(json!([]), &["spec.cidrs: Required value: at least one CIDR required"]);
    check(
        json!(["10.0.0.0/24", "10.1.0.0/24"]),
        &[
            "spec.cidrs: Invalid value: [\"10.0.0.0/24\",\"10.1.0.0/24\"]: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
        ],
    );
    let update = |old: Value, new: Value, expected: &[&str]| {
        change(NETWORKING, "ServiceCIDR", None, range(old), range(new), expected);
    };
    update(json!(["10.0.0.0/24"]), json!(["10.0.0.0/24", "fd00::/112"]), &[]);
    update(
        json!(["10.0.0.0/24"]),
        json!(["10.0.1.0/24"]),
        &["spec.cidrs[0]: Invalid value: \"10.0.1.0/24\": field is immutable"],
    );
    update(
        json!(["10.0.0.0/24", "fd00::/112"]),
        json!(["10.0.0.0/24"]),
        &["spec.cidrs: Invalid value: [\"10.0.0.0/24\"]: field is immutable"],
    );
    create(
        NETWORKING,
        "IPAddress",
        json!({"metadata": {"name": "10.0.0.01"}, "spec": {}}),
        &["metadata.name: Invalid value: \"10.0.0.01\": must not have leading 0s", "spec.parentRef: Required value"],
    );
    create(
        NETWORKING,
        "IPAddress",
        json!({"metadata": {"name": "10.0.0.1"}, "spec": {"parentRef": {"resource": "services", "name": "a", "namespace": "b"}}}),
        &[],
    );
}

#[test]
fn endpoint_slices() {
    let slice = |kind: &str, endpoints: Value| json!({"addressType": kind, "endpoints": endpoints});
    let check = |object: Value, expected: &[&str]| create("discovery.k8s.io/v1", "EndpointSlice", object, expected);
    check(slice("IPv4", json!([{"addresses": ["10.1.2.3"]}])), &[]);
    check(json!({"endpoints": []}), &["addressType: Required value"]);
    check(
        slice("IP", json!([])),
        &["addressType: Unsupported value: \"IP\": supported values: \"FQDN\", \"IPv4\", \"IPv6\""],
    );
    check(
        slice("IPv4", json!([{"addresses": []}, {"addresses": ["fd00::1", "127.0.0.1", "0.0.0.0", "169.254.1.1"]}])),
        &[
            "endpoints[0].addresses: Required value: must contain at least 1 address",
            "endpoints[1].addresses[0]: Invalid value: \"fd00::1\": must be an IPv4 address",
            "endpoints[1].addresses[1]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            "endpoints[1].addresses[2]: Invalid value: \"0.0.0.0\": may not be unspecified (0.0.0.0)",
            "endpoints[1].addresses[3]: Invalid value: \"169.254.1.1\": may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        ],
    );
    check(
        slice("FQDN", json!([{"addresses": ["example"]}])),
        &[
            "endpoints[0].addresses[0]: Invalid value: \"example\": should be a domain with at least two segments separated by dots",
        ],
    );
    check(
        json!({"addressType": "IPv4", "endpoints": [], "ports": [{"name": "a", "port": 1}, {"name": "a", "port": 2, "protocol": "QUIC"}]}),
        &[
            "ports[1].name: Duplicate value: \"a\"",
            "ports[1].protocol: Unsupported value: \"QUIC\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ],
    );
    check(
        slice("IPv4", json!([{"addresses": ["10.1.2.3"], "hints": {"forZones": [{"name": "z"}, {"name": "z"}]}}])),
        &["endpoints[0].hints.forZones[1].name: Duplicate value: \"z\""],
    );
    let many: Vec<Value> = (0..1001).map(|_| json!({"addresses": ["10.1.2.3"]})).collect();
    check(slice("IPv4", json!(many)), &["endpoints: Too many: 1001: must have at most 1000 items"]);
    change(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        None,
        slice("IPv4", json!([])),
        slice("IPv6", json!([])),
        &["addressType: Invalid value: \"IPv6\": field is immutable"],
    );
}

#[test]
fn disruption_budgets() {
    let check =
        |spec: Value, expected: &[&str]| create("policy/v1", "PodDisruptionBudget", json!({"spec": spec}), expected);
    check(json!({"minAvailable": "50%"}), &[]);
    check(
        json!({"minAvailable": 1, "maxUnavailable": 1}),
        &[
            "spec: Invalid value: {\"maxUnavailable\":1,\"minAvailable\":1}: minAvailable and maxUnavailable cannot be both set",
        ],
    );
    check(json!({"minAvailable": -1}), &["spec.minAvailable: Invalid value: -1: must be greater than or equal to 0"]);
    check(
        json!({"minAvailable": "101%"}),
        &["spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%"],
    );
    check(
        json!({"maxUnavailable": "x"}),
        &["spec.maxUnavailable: Invalid value: \"x\": a valid percent string must be a numeric string followed by an \
           ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"],
    );
    check(
        json!({"unhealthyPodEvictionPolicy": "Never"}),
        &[
            "spec.unhealthyPodEvictionPolicy: Unsupported value: \"Never\": supported values: \"AlwaysAllow\", \"IfHealthyBudget\"",
        ],
    );
    change(
        "policy/v1",
        "PodDisruptionBudget",
        Some("status"),
        json!({}),
        json!({"status": {"expectedPods": -1, "conditions": [{"type": "a", "status": "Maybe", "reason": "r r"}]}}),
        &[
            "status.conditions[0].status: Unsupported value: \"Maybe\": supported values: \"False\", \"True\", \"Unknown\"",
            "status.conditions[0].lastTransitionTime: Required value",
            "status.conditions[0].reason: Invalid value: \"r r\": a condition reason must start with alphabetic \
             character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an \
             alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or \
             'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')",
            "status.expectedPods: Invalid value: -1: must be greater than or equal to 0",
        ],
    );
}
