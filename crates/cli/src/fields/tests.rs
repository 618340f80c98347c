//! Tables for paths, differences and owners.

use serde_json::json;

use super::*;

fn shown(old: Value, new: Value, fields: Value) -> Vec<String> {
    let side = |value: &Option<Value>| value.as_ref().map_or("-".to_owned(), Value::to_string);
    differences(&old, &new, &fields)
        .iter()
        .map(|it| format!("{}: {} > {}", show(&it.path), side(&it.old), side(&it.new)))
        .collect()
}

#[test]
fn what_differs() {
    let check = |old: Value, new: Value, fields: Value, expected: &[&str]| {
        assert_eq!(shown(old.clone(), new.clone(), fields), expected, "{old} {new}");
    };
    let none = json!({});
    check(
        json!({"a": {"b": 1, "c": 2}}),
        json!({"a": {"b": 1, "c": 3, "d": 4}}),
        none.clone(),
        &["a.c: 2 > 3", "a.d: - > 4"],
    );
    check(json!({"labels": {"x.io/a": "1"}}), json!({"labels": {}}), none.clone(), &["labels[x.io/a]: \"1\" > -"]);
    // Keys that the managed fields know.
    let ports = json!({"f:ports": {"k:{\"containerPort\":53,\"protocol\":\"UDP\"}": {".": {}}}});
    check(
        json!({"ports": [{"containerPort": 53, "protocol": "TCP"}]}),
        json!({"ports": [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53, "protocol": "TCP", "name": "t"}]}),
        ports,
        &[
            "ports[containerPort=53,protocol=TCP].name: - > \"t\"",
            "ports[containerPort=53,protocol=UDP]: - > {\"containerPort\":53,\"protocol\":\"UDP\"}",
        ],
    );
    // Keys that are guessed, sets, and lists that are one value.
    check(
        json!({"env": [{"name": "A", "value": "1"}]}),
        json!({"env": [{"name": "A", "value": "2"}]}),
        none.clone(),
        &["env[A].value: \"1\" > \"2\""],
    );
    check(
        json!({"finalizers": ["a", "b"]}),
        json!({"finalizers": ["b", "c"]}),
        json!({"f:finalizers": {"v:\"a\"": {}}}),
        &["finalizers[a]: \"a\" > -", "finalizers[c]: - > \"c\""],
    );
    check(json!({"args": ["a"]}), json!({"args": ["b"]}), none.clone(), &["args: [\"a\"] > [\"b\"]"]);
    check(
        json!({"c": [{"name": "a"}, {"name": "b"}]}),
        json!({"c": [{"name": "b"}, {"name": "a"}]}),
        none,
        &["c: [{\"name\":\"a\"},{\"name\":\"b\"}] > [{\"name\":\"b\"},{\"name\":\"a\"}]"],
    );
}

#[test]
fn who_owns() {
    let object = json!({
        "metadata": {"managedFields": [
            {"manager": "kobune", "operation": "Apply", "fieldsV1": {"f:spec": {"f:replicas": {},
                "f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:name": {}, "f:image": {}}}, "f:selector": {}}}},
            {"manager": "scaler", "operation": "Update", "subresource": "scale", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
        ]},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "containers": [{"name": "web", "image": "x", "tty": true}]},
    });
    let field = |name: &str| Element::Field(name.to_owned());
    let web = || Element::Item(vec![("name".to_owned(), json!("web"))]);
    let check = |path: &[Element], expected: &[&str]| {
        let got: Vec<String> = owners(&object, path).iter().map(Owner::to_string).collect();
        assert_eq!(got, expected, "{}", show(path));
    };
    check(&[field("spec"), field("replicas")], &["kobune", "scaler through scale"]);
    check(&[field("spec"), field("containers"), web(), field("image")], &["kobune"]);
    check(&[field("spec"), field("containers"), web(), field("tty")], &[]);
    check(&[field("spec"), field("containers"), web()], &["kobune"]);
    // A member without children is atomic: it owns everything below.
    check(&[field("spec"), field("selector"), field("matchLabels"), field("a")], &["kobune"]);
    check(&[field("spec"), field("paused")], &[]);
    assert_eq!(
        show_as_conflict(&[field("spec"), field("containers"), web(), field("image")]),
        ".spec.containers[name=\"web\"].image"
    );
}

#[test]
fn sets_of_fields_unite() {
    let check = |mut left: Value, right: Value, expected: Value| {
        unite(&mut left, &right);
        assert_eq!(left, expected);
    };
    check(json!({"f:a": {}}), json!({"f:b": {}}), json!({"f:a": {}, "f:b": {}}));
    check(json!({"f:a": {}}), json!({"f:a": {"f:b": {}}}), json!({"f:a": {".": {}, "f:b": {}}}));
    check(json!({"f:a": {"f:b": {}}}), json!({"f:a": {}}), json!({"f:a": {".": {}, "f:b": {}}}));
    check(
        json!({"f:a": {".": {}, "f:b": {}}}),
        json!({"f:a": {"f:c": {}}}),
        json!({"f:a": {".": {}, "f:b": {}, "f:c": {}}}),
    );
}

#[test]
fn a_manifest_over_a_live_object() {
    let fields = json!({"f:c": {"k:{\"name\":\"a\"}": {}}});
    let live = json!({"c": [{"name": "a", "x": 1}, {"name": "b"}], "args": ["1"], "kept": true});
    let manifest = json!({"c": [{"name": "a", "y": 2}, {"name": "n"}], "args": ["2"]});
    assert_eq!(
        overlay(&live, &manifest, Some(&fields)),
        json!({"c": [{"name": "a", "x": 1, "y": 2}, {"name": "b"}, {"name": "n"}], "args": ["2"], "kept": true})
    );
}
