use serde_json::{Value, json};

use crate::catalogue::Catalogue;

fn created(object: Value) -> Vec<String> {
    let catalogue = Catalogue::builtin();
    let kind =
        catalogue.by_kind(object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap()).unwrap().clone();
    let mut object = object;
    kind.default(&mut object);
    object["metadata"]["uid"] = json!("u");
    kind.prepare_create(&mut object);
    kind.validate(&object).iter().map(ToString::to_string).collect()
}

fn pod(container: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": "default"}, "spec": {"containers": [container]}})
}

#[track_caller]
fn check(object: Value, expected: &[&str]) {
    let got = created(object.clone());
    assert_eq!(got.len(), expected.len(), "{got:#?}");
    for (got, expected) in got.iter().zip(expected) {
        assert!(got.starts_with(expected), "{got}\nis not\n{expected}");
    }
}

#[test]
fn pods() {
    check(pod(json!({"name": "c", "image": "i"})), &[]);
    check(pod(json!({"name": "c"})), &["spec.containers[0].image: Required value"]);
    check(pod(json!({"image": "i"})), &["spec.containers[0].name: Required value"]);
    check(
        pod(json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}})),
        &[r#"spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1"#],
    );
    check(
        pod(json!({"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]})),
        &[r#"spec.containers[0].volumeMounts[0].name: Not found: "v""#],
    );
    check(
        pod(json!({"name": "c", "image": "i", "livenessProbe": {}})),
        &["spec.containers[0].livenessProbe: Required value: must specify a handler type"],
    );
    let mut upper = pod(json!({"name": "c", "image": "i"}));
    upper["metadata"]["name"] = json!("UPPER");
    check(upper, &[r#"metadata.name: Invalid value: "UPPER": a lowercase RFC 1123 subdomain"#]);
}

#[test]
fn services_and_workloads() {
    check(
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"ports": [{"port": 99999}]}}),
        &["spec.ports[0].port: Invalid value: 99999", "spec.ports[0].targetPort: Invalid value: 99999"],
    );
    check(
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {}}),
        &["spec.ports: Required value"],
    );
    check(
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"clusterIP": "None"}}),
        &[],
    );
    check(
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "c"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}}),
        &["spec.template.metadata.labels: Invalid value:"],
    );
    check(
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a b": ""}}),
        &["data[a b]: Invalid value:"],
    );
    check(
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}, "type": "kubernetes.io/tls", "data": {"tls.crt": ""}}),
        &["data[tls.key]: Required value"],
    );
}

#[test]
fn updates() {
    let catalogue = Catalogue::builtin();
    let kind = catalogue.by_kind("v1", "Pod").unwrap().clone();
    let mut old = pod(json!({"name": "c", "image": "i"}));
    kind.default(&mut old);
    let mut new = old.clone();
    new["spec"]["containers"][0]["image"] = json!("j");
    assert!(kind.validate_update(&new, &old, None).is_empty());
    new["spec"]["containers"][0]["command"] = json!(["x"]);
    let errors = kind.validate_update(&new, &old, None);
    assert!(
        errors[0].to_string().starts_with("spec: Forbidden: pod updates may not change fields other than"),
        "{errors:?}"
    );
}
