use serde_json::{Value, json};

use crate::catalogue::Catalogue;

#[track_caller]
fn check(object: Value, expected: &[&str]) {
    let catalogue = Catalogue::builtin();
    let text = |field: &str| object[field].as_str().expect("a text");
    let kind = catalogue.by_kind(text("apiVersion"), text("kind")).expect("a built-in kind");
    assert_eq!(kind.warnings(&object, None), expected, "{object:#}");
}

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec})
}

#[test]
fn pods() {
    let container = |fields: Value| pod(json!({"containers": [fields]}));
    check(container(json!({"name": "c"})), &[]);
    check(
        container(json!({"name": "c", "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"},
            {"name": "A", "value": "3"}]})),
        &["spec.containers[0].env[2]: hides previous definition of \"A\", which may be dropped when using apply"],
    );
    check(
        container(json!({"name": "c", "resources": {"limits": {"memory": "100m", "cpu": "100m"}}})),
        &["spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer"],
    );
    check(
        container(json!({"name": "c", "ports": [{"containerPort": 80, "protocol": "TCP"},
            {"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "TCP", "hostPort": 8080}]})),
        &[
            "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
            "spec.containers[0].ports[2]: overlapping port definition with spec.containers[0].ports[0]",
            "spec.containers[0].ports[2]: overlapping port definition with spec.containers[0].ports[1]",
        ],
    );
    check(
        pod(json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}, "terminationGracePeriodSeconds": -1,
            "hostAliases": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.1"}],
            "topologySpreadConstraints": [{"topologyKey": "a"}]})),
        &[
            "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
            "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
            "spec.hostAliases[1].ip: duplicate ip \"1.1.1.1\"",
            "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
        ],
    );
    check(
        pod(json!({"volumes": [{"name": "v", "configMap": {"name": "m", "items": [{"path": "a"}, {"path": "a/b"},
            {"path": "ab"}]}}, {"name": "r", "rbd": {}}]})),
        &[
            "spec.volumes[1].rbd: deprecated in v1.28, non-functional in v1.31+",
            "volume \"v\" (ConfigMap \"m\"): overlapping paths: \"a/b\" with \"a\"",
        ],
    );
    let mut dotted = pod(json!({}));
    dotted["metadata"]["name"] = json!("a.b");
    check(
        dotted,
        &[
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is \
           recommended: [must not contain dots]",
        ],
    );
}

#[test]
fn others() {
    check(
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": {"template": {
            "metadata": {"annotations": {"scheduler.alpha.kubernetes.io/critical-pod": ""}}, "spec": {}}}}),
        &["spec.template.metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; \
           use the \"priorityClassName\" field instead"],
    );
    check(
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"},
            "spec": {"type": "ClusterIP", "externalName": "a.b", "externalIPs": ["FD00::1"]}}),
        &[
            "spec.externalIPs[0]: IPv6 address \"FD00::1\" should be in RFC 5952 canonical format (\"fd00::1\")",
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
            "spec.externalName is ignored when spec.type is not \"ExternalName\"",
        ],
    );
    check(
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "x",
            "annotations": {"volume.beta.kubernetes.io/storage-class": "a"}},
            "spec": {"resources": {"requests": {"storage": "1500m"}}}}),
        &[
            "metadata.annotations[volume.beta.kubernetes.io/storage-class]: deprecated since v1.8; use \
             \"storageClassName\" attribute instead",
            "spec.resources.requests[storage]: fractional byte value \"1500m\" is invalid, must be an integer",
        ],
    );
}

#[test]
fn other_groups() {
    let of = |api_version: &str, kind: &str, mut object: Value, expected: &[&str]| {
        object["apiVersion"] = api_version.into();
        object["kind"] = kind.into();
        check(object, expected);
    };
    of(
        "networking.k8s.io/v1",
        "Ingress",
        json!({"metadata": {"annotations": {"kubernetes.io/ingress.class": "a"}}}),
        &["annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead"],
    );
    of(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        json!({"spec": {"egress": [{"to": [{"ipBlock": {"cidr": "FD00::/8", "except": ["fd00:1::/32"]}}]}]}}),
        &[
            "spec.egress[0].to[0].ipBlock.cidr: IPv6 CIDR value \"FD00::/8\" should be in RFC 5952 canonical format (\"fd00::/8\")",
        ],
    );
    of(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        json!({"addressType": "IPv6", "endpoints": [{"addresses": ["FD00::1"]}]}),
        &["endpoints[0].addresses[0]: IPv6 address \"FD00::1\" should be in RFC 5952 canonical format (\"fd00::1\")"],
    );
    let beta = "failure-domain.beta.kubernetes.io/zone";
    of(
        "storage.k8s.io/v1",
        "StorageClass",
        json!({"allowedTopologies": [{"matchLabelExpressions": [{"key": beta, "values": ["a"]}]}]}),
        &["allowedTopologies[0].matchLabelExpressions[0].key: failure-domain.beta.kubernetes.io/zone is deprecated \
           since v1.17; use \"topology.kubernetes.io/zone\" instead"],
    );
    of(
        "node.k8s.io/v1",
        "RuntimeClass",
        json!({"scheduling": {"nodeSelector": {"beta.kubernetes.io/os": "linux"}}, "overhead": {"podFixed": {"memory": "1m"}}}),
        &[
            "scheduling.nodeSelector[beta.kubernetes.io/os]: beta.kubernetes.io/os is deprecated since v1.14; use \
             \"kubernetes.io/os\" instead",
            "overhead.podFixed[memory]: fractional byte value \"1m\" is invalid, must be an integer",
        ],
    );
}
