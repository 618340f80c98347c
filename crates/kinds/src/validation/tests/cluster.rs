//! Nodes, namespaces, quotas, limits, configuration and events.

use serde_json::{Value, json};

use super::{create, update};

fn base(kind: &str, fields: Value) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "x", "namespace": "default"}});
    super::merge(&mut object, fields);
    object
}

#[test]
fn config_maps() {
    let base = base("ConfigMap", json!({}));
    create(
        &base,
        json!({"data": {"a b": ""}}),
        &["data[a b]: Invalid value: \"a b\": a valid config key must consist of…"],
    );
    create(
        &base,
        json!({"data": {"a": "x"}, "binaryData": {"a": "eA=="}}),
        &["data[a]: Invalid value: \"a\": duplicate of key present in binaryData"],
    );
    let mut fixed = base.clone();
    fixed["immutable"] = json!(true);
    update(&fixed, json!({"data": {"a": "b"}}), None, &["data: Forbidden: field is immutable when `immutable` is set"]);
    update(
        &fixed,
        json!({"immutable": null}),
        None,
        &["immutable: Forbidden: field is immutable when `immutable` is set"],
    );
}

#[test]
fn secrets() {
    let base = base("Secret", json!({}));
    create(&base, json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}), &["data[tls.key]: Required value"]);
    create(&base, json!({"type": "kubernetes.io/dockercfg"}), &["data[.dockercfg]: Required value"]);
    create(
        &base,
        json!({"type": "kubernetes.io/basic-auth"}),
        &["data[username]: Required value", "data[password]: Required value"],
    );
    update(&base, json!({"type": "a/b"}), None, &["type: Invalid value: \"a/b\": field is immutable"]);
}

#[test]
fn nodes() {
    let mut base = base("Node", json!({"spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"]}}));
    base["metadata"]["namespace"].take();
    base["metadata"].as_object_mut().expect("an object").remove("namespace");
    create(&base, json!({}), &[]);
    create(
        &base,
        json!({"spec": {"taints": [{"key": "a", "effect": "Never"}]}}),
        &[
            "metadata.taints[0].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
        ],
    );
    create(
        &base,
        json!({"spec": {"taints": [{"key": "a", "effect": "NoExecute"}, {"key": "a", "effect": "NoExecute"}]}}),
        &[
            "metadata.taints[1]: Duplicate value: {\"effect\":\"NoExecute\",\"key\":\"a\"}: taints must be unique by key and effect pair",
        ],
    );
    update(
        &base,
        json!({"spec": {"podCIDR": "10.0.1.0/24", "podCIDRs": ["10.0.1.0/24"]}}),
        None,
        &["spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"],
    );
    update(&base, json!({"spec": {"unschedulable": true}}), None, &[]);
    update(&base, json!({"spec": {"providerID": "p"}}), None, &[]);
}

#[test]
fn namespaces() {
    let base = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}});
    create(&base, json!({}), &[]);
    create(
        &base,
        json!({"metadata": {"name": "a.b"}}),
        &["metadata.name: Invalid value: \"a.b\": must not contain dots"],
    );
    update(
        &base,
        json!({"spec": {"finalizers": ["a"]}}),
        Some("finalize"),
        &[
            "spec.finalizers[0]: Invalid value: \"a\": name is neither a standard finalizer name nor is it fully qualified",
        ],
    );
}

#[test]
fn quotas() {
    let base = base("ResourceQuota", json!({"spec": {"hard": {"pods": "1"}}}));
    create(&base, json!({}), &[]);
    create(
        &base,
        json!({"spec": {"hard": {"pods": "1500m"}}}),
        &["spec.hard[pods]: Invalid value: \"1500m\": must be an integer"],
    );
    create(
        &base,
        json!({"spec": {"hard": {"pods": "-1"}}}),
        &["spec.hard[pods]: Invalid value: \"-1\": must be greater than or equal to 0"],
    );
    create(
        &base,
        json!({"spec": {"scopes": ["BestEffort", "NotBestEffort"]}}),
        &["spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes"],
    );
    update(
        &base,
        json!({"spec": {"scopes": ["BestEffort"]}}),
        None,
        &["spec.scopes: Invalid value: [\"BestEffort\"]: field is immutable"],
    );
}

#[test]
fn limit_ranges() {
    let base = base("LimitRange", json!({}));
    let limits = |fields: Value, expected: &[&str]| create(&base, json!({"spec": {"limits": [fields]}}), expected);
    limits(json!({"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1"}}), &[]);
    limits(
        json!({"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "2"}, "default": {"cpu": "1"},
        "defaultRequest": {"cpu": "1"}}),
        &[
            "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
            "spec.limits[0].defaultRequest[cpu]: Invalid value: \"1\": min value 2 is greater than default request value 1",
            "spec.limits[0].default[cpu]: Invalid value: \"2\": min value 2 is greater than default value 1",
        ],
    );
    limits(
        json!({"type": "Pod", "default": {"cpu": "1"}}),
        &["spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'"],
    );
}

#[test]
fn events() {
    let core = base("Event", json!({"involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}}));
    create(&core, json!({}), &[]);
    create(
        &core,
        json!({"involvedObject": {"namespace": "other"}}),
        &["involvedObject.namespace: Invalid value: \"other\": does not match event.namespace"],
    );
    let new = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"name": "x", "namespace": "default"},
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "action": "a", "reason": "r", "type": "Normal",
        "reportingController": "k.io/c", "reportingInstance": "i"});
    create(&new, json!({}), &[]);
    create(&new, json!({"action": null}), &["action: Required value"]);
    update(&new, json!({"reason": "other"}), None, &["reason: Invalid value: \"other\": field is immutable"]);
}
