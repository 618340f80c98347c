use super::*;
use kobune_kinds::schema::Types;
use serde_json::json;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

fn schema(name: &str) -> SchemaRef<'static> {
    Types::builtin().named(name).expect("built in")
}

fn update(old: Option<&Value>, mut new: Value, manager: &str, second: i64) -> Value {
    track_update(old, &mut new, schema("io.k8s.api.core.v1.ConfigMap"), manager, "v1", None, at(second));
    new
}

fn owners(object: &Value) -> Vec<(String, Value)> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    entries
        .into_iter()
        .map(|entry| (entry["manager"].as_str().unwrap_or_default().to_owned(), entry["fieldsV1"].clone()))
        .collect()
}

#[test]
fn ownership_follows_the_writer() {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "uid": "u"},
        "data": {"colour": "red", "size": "1"}});
    let made = update(None, object, "one", 10);
    assert_eq!(
        made["metadata"]["managedFields"],
        json!([{"manager": "one", "operation": "Update", "apiVersion": "v1", "time": "1970-01-01T00:00:10Z",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {".": {}, "f:colour": {}, "f:size": {}}}}])
    );
    assert_eq!(update(Some(&made), made.clone(), "two", 20), made, "nothing has changed");
    let mut forgetful = made.clone();
    forgetful["metadata"].as_object_mut().expect("a map").remove("managedFields");
    assert_eq!(update(Some(&made), forgetful, "two", 20), made, "leaving the list out keeps it");

    let mut changed = made.clone();
    changed["data"] = json!({"colour": "blue", "new": ""});
    let changed = update(Some(&made), changed, "two", 20);
    assert_eq!(
        owners(&changed),
        [
            ("one".to_owned(), json!({"f:data": {}})),
            ("two".to_owned(), json!({"f:data": {"f:colour": {}, "f:new": {}}})),
        ]
    );

    for unreadable in [json!({"f:data": 5}), json!({"f:data": {"f:colour": "x"}})] {
        let mut forged = changed.clone();
        forged["metadata"]["managedFields"][0]["fieldsV1"] = unreadable;
        assert_eq!(update(Some(&changed), forged, "two", 30), changed, "what cannot be read is not taken");
    }

    let mut reset = changed.clone();
    reset["metadata"]["managedFields"] = json!([{}]);
    assert!(owners(&update(Some(&changed), reset, "two", 30)).is_empty());
}

#[test]
fn lists_and_subresources() {
    let pod = schema("io.k8s.api.core.v1.Pod");
    let mut made = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"app": "a"}},
        "spec": {"containers": [{"name": "web", "image": "i", "ports": [{"containerPort": 80}]}]},
        "status": {"phase": "Pending"}});
    track_update(None, &mut made, pod, "one", "v1", None, at(1));
    assert_eq!(
        owners(&made)[0].1,
        json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {
            ".": {}, "f:name": {}, "f:image": {},
            "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}})
    );
    let mut new = made.clone();
    new["status"]["phase"] = "Running".into();
    track_update(Some(&made), &mut new, pod, "kubelet", "v1", Some("status"), at(2));
    assert_eq!(new["metadata"]["managedFields"][1]["subresource"], "status");
    assert_eq!(owners(&new)[1].1, json!({"f:status": {"f:phase": {}}}));
}

#[test]
fn old_updates_fold() {
    let mut object = update(None, json!({"data": {}}), "m00", 0);
    for index in 1..15 {
        let mut new = object.clone();
        new["data"][format!("k{index}")] = "x".into();
        object = update(Some(&object), new, &format!("m{index:02}"), index);
    }
    let owners = owners(&object);
    assert_eq!(owners.len(), 10);
    assert_eq!(owners[0].0, "ancient-changes");
    assert_eq!(owners[1].0, "m06");
    assert_eq!(owners[0].1["f:data"]["f:k5"], json!({}));
}

#[test]
fn what_is_always_there_is_nobodys() {
    let schema = schema("io.k8s.api.apps.v1.Deployment");
    let deployment = |spec: Value| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "uid": "u"}, "spec": spec,
            "status": {}})
    };
    let spec = |containers: Value| json!({"selector": null, "strategy": {}, "template": {"metadata": {}, "spec": {"containers": containers}}});
    let mut made = deployment(spec(json!([{"name": "c", "resources": {}}])));
    track_update(None, &mut made, schema, "one", "apps/v1", None, at(1));
    let container = json!({".": {}, "f:name": {}, "f:resources": {}});
    assert_eq!(
        owners(&made)[0].1,
        json!({"f:spec": {"f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": container}}}}})
    );
    // A null is an empty list: the items go with their owners, and nobody owns that none is there.
    let mut none = made.clone();
    none["spec"] = spec(Value::Null);
    track_update(Some(&made), &mut none, schema, "two", "apps/v1", None, at(2));
    assert_eq!(owners(&none), []);
}

#[test]
fn twins_are_owned_by_their_place() {
    let schema = schema("io.k8s.api.core.v1.PodSpec");
    let hosts = |hosts: Value| json!({"metadata": {"uid": "u"}, "imagePullSecrets": hosts});
    let mut one = hosts(json!([{"name": "a"}]));
    track_update(None, &mut one, schema, "one", "v1", None, at(1));
    let mut two = hosts(json!([{"name": "a"}, {"name": "a"}]));
    track_update(Some(&one), &mut two, schema, "two", "v1", None, at(2));
    assert_eq!(owners(&two)[1].1, json!({"f:imagePullSecrets": {"k:{\"name\":\"a\"}": {}}}));
    let mut three = hosts(json!([{"name": "a"}]));
    track_update(Some(&two), &mut three, schema, "three", "v1", None, at(3));
    assert_eq!(
        owners(&three),
        [
            ("one".to_owned(), json!({"f:imagePullSecrets": {}})),
            ("three".to_owned(), json!({"f:imagePullSecrets": {"k:{\"name\":\"a\"}": {}}})),
        ]
    );
}
