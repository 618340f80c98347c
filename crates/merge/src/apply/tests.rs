use super::*;
use crate::track_update;
use kobune_kinds::schema::Types;
use proptest::prelude::*;
use serde_json::json;

fn schema(name: &str) -> SchemaRef<'static> {
    Types::builtin().named(name).expect("built in")
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

fn map(live: Option<&Value>, data: Value, manager: &str, force: bool) -> Result<Value, String> {
    let configuration = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
    apply(live, &configuration, schema("io.k8s.api.core.v1.ConfigMap"), manager, force, None, at(1))
        .map_err(|error| error.to_string())
}

fn deployment(live: Option<&Value>, containers: Value, manager: &str, force: bool) -> Result<Value, String> {
    let configuration = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"},
        "spec": {"template": {"spec": {"containers": containers}}}});
    apply(live, &configuration, schema("io.k8s.api.apps.v1.Deployment"), manager, force, None, at(1))
        .map_err(|error| error.to_string())
}

fn fields(object: &Value, manager: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    entries.into_iter().find(|entry| entry["manager"] == manager).map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

#[test]
fn maps() {
    let one = map(None, json!({"colour": "red", "size": "1"}), "one", false).expect("created");
    assert_eq!(fields(&one, "one"), json!({"f:data": {"f:colour": {}, "f:size": {}}}));
    assert_eq!(
        map(Some(&one), json!({"colour": "blue"}), "two", false),
        Err("Apply failed with 1 conflict: conflict with \"one\": .data.colour".to_owned())
    );
    // An equal value is owned by both: it stays when the first lets it go.
    let both = map(Some(&one), json!({"colour": "red"}), "two", false).expect("no conflict");
    let left = map(Some(&both), json!({}), "one", false).expect("no conflict");
    assert_eq!(left["data"], json!({"colour": "red"}));
    let forced = map(Some(&both), json!({"colour": "blue"}), "two", true).expect("forced");
    assert_eq!(forced["data"], json!({"colour": "blue", "size": "1"}));
    assert_eq!(fields(&forced, "one"), json!({"f:data": {"f:size": {}}}));
}

#[test]
fn updates_conflict() {
    let mut live =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"colour": "red"}});
    let schema = schema("io.k8s.api.core.v1.ConfigMap");
    track_update(None, &mut live, schema, "kubectl", "v1", None, at(0));
    let conflict = "Apply failed with 1 conflict: conflict with \"kubectl\" using v1: .data.colour";
    assert_eq!(map(Some(&live), json!({"colour": "blue"}), "one", false), Err(conflict.to_owned()));
    live["metadata"]["managedFields"] = Value::Null;
    let conflict = "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.colour";
    assert_eq!(map(Some(&live), json!({"colour": "blue"}), "one", false), Err(conflict.to_owned()));
    assert!(map(Some(&live), json!({"colour": "red"}), "one", false).is_ok());
}

#[test]
fn kubectl_takes_over_from_its_own_client_side() {
    let annotation = "kubectl.kubernetes.io/last-applied-configuration";
    let mut live = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "annotations": {
        annotation: "{\"data\":{\"colour\":\"red\"}}"}}, "data": {"colour": "red", "size": "1"}});
    let schema = schema("io.k8s.api.core.v1.ConfigMap");
    track_update(None, &mut live, schema, "kubectl-client-side-apply", "v1", None, at(0));
    assert!(map(Some(&live), json!({"colour": "blue"}), "helm", false).is_err());
    assert!(map(Some(&live), json!({"size": "2"}), "kubectl", false).is_err());
    let taken = map(Some(&live), json!({"colour": "blue"}), "kubectl", false).expect("allowed");
    assert_eq!(taken["data"], json!({"colour": "blue", "size": "1"}));
    let kept = taken["metadata"]["annotations"][annotation].as_str().expect("kept");
    assert!(kept.contains("blue"), "{kept}");
    let again = map(Some(&taken), json!({"colour": "blue"}), "kubectl", false).expect("its own");
    assert_eq!(again, taken);
}

#[test]
fn keyed_lists() {
    let web = json!({"name": "web", "image": "i", "ports": [{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}]});
    let mut live = deployment(None, json!([web, {"name": "side", "image": "s"}]), "one", false).expect("created");
    // What the server adds by default is nobody's and goes with the item.
    live["spec"]["template"]["spec"]["containers"][1]["imagePullPolicy"] = "Always".into();
    live["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = "Always".into();
    let two = json!([{"name": "web", "env": [{"name": "A", "value": "1"}]}]);
    let both = deployment(Some(&live), two, "two", false).expect("no conflict");
    let left = deployment(Some(&both), json!([{"name": "web", "image": "j"}]), "one", false).expect("no conflict");
    assert_eq!(
        left["spec"]["template"]["spec"]["containers"],
        json!([{"name": "web", "image": "j", "imagePullPolicy": "Always", "env": [{"name": "A", "value": "1"}]}])
    );
    let conflict =
        "Apply failed with 1 conflict: conflict with \"one\": .spec.template.spec.containers[name=\"web\"].image";
    assert_eq!(deployment(Some(&left), json!([{"name": "web", "image": "k"}]), "two", false), Err(conflict.to_owned()));
    let twice = json!([{"name": "web"}, {"name": "web"}]);
    let invalid = ".spec.template.spec.containers: duplicate entries for key [name=\"web\"]";
    assert_eq!(deployment(Some(&left), twice, "two", false), Err(invalid.to_owned()));
    // The name of a container has a default for upstream: the empty one, which validation refuses.
    assert!(deployment(None, json!([{"image": "k"}]), "two", false).is_ok());
    assert!(deployment(None, json!([{"image": "k"}, {"name": ""}]), "two", false).is_err());
    // Order: the configuration's own, with the others where they stood.
    let live = deployment(None, json!([{"name": "a"}, {"name": "b"}, {"name": "x"}]), "one", false).expect("created");
    let sorted = deployment(Some(&live), json!([{"name": "b"}, {"name": "a"}]), "two", false).expect("no conflict");
    let names: Vec<_> = sorted["spec"]["template"]["spec"]["containers"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|item| item["name"].clone())
        .collect();
    assert_eq!(names, ["b", "x", "a"]);
}

#[test]
fn sets_and_struct_fields_go() {
    let finalizers = |live: Option<&Value>, metadata: Value, manager: &str| {
        let configuration = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata});
        apply(live, &configuration, schema("io.k8s.api.core.v1.ConfigMap"), manager, false, None, at(1))
            .expect("no conflict")
    };
    let one = finalizers(None, json!({"name": "a", "finalizers": ["a/a", "a/b"], "labels": {"x": "y"}}), "one");
    let two = finalizers(Some(&one), json!({"name": "a", "finalizers": ["a/c", "a/b"]}), "two");
    assert_eq!(two["metadata"]["finalizers"], json!(["a/a", "a/c", "a/b"]));
    let left = finalizers(Some(&two), json!({"name": "a"}), "one");
    assert_eq!(left["metadata"]["finalizers"], json!(["a/c", "a/b"]));
    assert_eq!(left["metadata"].get("labels"), None);
    assert_eq!(fields(&left, "one"), Value::Null);
}

#[test]
fn the_last_owner_of_metadata_leaves_the_object_its_name() {
    let configmap = |live: Option<&Value>, metadata: Value| {
        let configuration = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata});
        apply(live, &configuration, schema("io.k8s.api.core.v1.ConfigMap"), "one", false, None, at(1))
            .expect("no others")
    };
    let mut live = configmap(None, json!({"name": "a", "labels": {"x": "y"}}));
    live["metadata"]["uid"] = "u".into();
    let bare = configmap(Some(&live), json!({"name": "a"}));
    assert_eq!(bare["metadata"], json!({"name": "a", "uid": "u"}));
}

#[test]
fn kubectl_does_not_take_over_what_others_changed_since() {
    let annotation = "kubectl.kubernetes.io/last-applied-configuration";
    let schema = schema("io.k8s.api.core.v1.ConfigMap");
    let mut live = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "annotations": {
        annotation: "{\"data\":{\"colour\":\"red\"}}"}}, "data": {"colour": "red"}});
    track_update(None, &mut live, schema, "kubectl-client-side-apply", "v1", None, at(0));
    let mut edited = live.clone();
    edited["data"]["colour"] = "green".into();
    track_update(Some(&live), &mut edited, schema, "kubectl-edit", "v1", None, at(1));
    let conflict = "Apply failed with 1 conflict: conflict with \"kubectl-edit\" using v1: .data.colour";
    assert_eq!(map(Some(&edited), json!({"colour": "blue"}), "kubectl", false), Err(conflict.to_owned()));
}

fn data() -> impl Strategy<Value = Value> {
    proptest::collection::btree_map("[a-d]", "[xy]", 0..4).prop_map(|data| json!(data))
}

fn containers() -> impl Strategy<Value = Value> {
    proptest::collection::btree_map("[a-c]", ("[ij]", data()), 1..3).prop_map(|containers| {
        let item = |(name, (image, env)): (String, (String, Value))| {
            let env: Vec<Value> = env
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, value)| json!({"name": name, "value": value}))
                .collect();
            json!({"name": name, "image": image, "env": env})
        };
        containers.into_iter().map(item).collect()
    })
}

proptest! {
    #[test]
    fn applying_twice_is_applying_once(before in containers(), first in containers(), second in containers()) {
        let live = deployment(None, before, "other", true).expect("forced");
        let live = deployment(Some(&live), first, "one", true).expect("forced");
        let once = deployment(Some(&live), second.clone(), "one", true).expect("forced");
        let twice = deployment(Some(&once), second, "one", false).expect("it owns all of it");
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn owners_together_own_what_is_there(steps in proptest::collection::vec((0..3usize, containers()), 1..6)) {
        let mut live = None;
        for (manager, containers) in steps {
            let manager = ["one", "two", "three"][manager];
            live = Some(deployment(live.as_ref(), containers, manager, true).expect("forced"));
        }
        let live = live.expect("there was a step");
        let lens = Lens::new(Some(schema("io.k8s.api.apps.v1.Deployment")));
        let mut there = merge::set_of(&live, lens);
        compare::untrack(&mut there, None);
        let mut owned = FieldSet::default();
        for entry in &mut managed::of(Some(&live)) {
            owned.unite(entry.set().clone());
        }
        prop_assert_eq!(owned.to_fields(), there.to_fields());
    }

    #[test]
    fn what_is_dropped_goes(first in data(), second in data()) {
        let live = map(None, first, "one", false).expect("created");
        let now = map(Some(&live), second.clone(), "one", false).expect("no others");
        prop_assert_eq!(now.get("data").filter(|data| !data.is_null()).cloned().unwrap_or_else(|| json!({})), second);
    }

    #[test]
    fn disjoint_appliers_commute(one in data(), two in data()) {
        let prefixed = |data: &Value, prefix: &str| -> Value {
            data.as_object().into_iter().flatten().map(|(key, value)| (format!("{prefix}{key}"), value.clone())).collect()
        };
        let (one, two) = (prefixed(&one, "1"), prefixed(&two, "2"));
        let base = map(None, json!({"base": ""}), "base", false).expect("created");
        let run = |order: [(&str, &Value); 2]| {
            order.into_iter().fold(base.clone(), |live, (manager, data)| {
                map(Some(&live), data.clone(), manager, false).expect("disjoint")
            })
        };
        prop_assert_eq!(run([("one", &one), ("two", &two)]), run([("two", &two), ("one", &one)]));
    }
}

/// What upstream's own code does with the same objects, found by giving it the same random ones.
#[test]
fn corners_that_upstream_has() {
    let deployment = schema("io.k8s.api.apps.v1.Deployment");
    let object = |spec: Value, status: Value| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "uid": "u"}, "spec": spec,
            "status": status})
    };
    let applied = |live: Option<&Value>, spec: Value, manager: &str, second: i64| {
        apply(live, &object(spec, json!({})), deployment, manager, true, None, at(second)).expect("forced")
    };
    // Zeros and empty maps are owned as they are written.
    let one = applied(None, json!({"paused": false, "template": {"metadata": {"labels": {}}}}), "one", 1);
    assert_eq!(
        fields(&one, "one"),
        json!({"f:spec": {"f:paused": {}, "f:template": {"f:metadata": {"f:labels": {}}}}})
    );
    // Who comes to own what is there already has changed nothing, and so has no time.
    let two = applied(Some(&one), json!({"paused": false, "template": {"metadata": {"labels": {}}}}), "two", 2);
    let entries = two["metadata"]["managedFields"].as_array().expect("entries");
    let times: Vec<(&Value, &Value)> = entries.iter().map(|entry| (&entry["manager"], &entry["time"])).collect();
    assert_eq!(times, [(&json!("two"), &Value::Null), (&json!("one"), &json!("1970-01-01T00:00:01Z"))]);
    // What is emptied is not there any more.
    let emptied = applied(Some(&two), json!({"paused": false}), "one", 3);
    let emptied = applied(Some(&emptied), json!({}), "two", 4);
    assert_eq!(emptied["spec"], json!({"paused": false}));
    let bare = applied(Some(&emptied), json!({"template": {}}), "one", 5);
    assert_eq!(bare["spec"], json!({"template": {}}));
    // The status is not the main resource's, not even of what was there before.
    let before = object(json!({"replicas": 1}), json!({"replicas": 1}));
    let tracked = applied(Some(&before), json!({"paused": true}), "one", 1);
    assert_eq!(fields(&tracked, "before-first-apply"), json!({"f:spec": {"f:replicas": {}}}));

    // A claim that a volume is bound to divides, though references do not.
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "a"},
        "spec": {"claimRef": {"name": "c", "namespace": "n"}}});
    let made = apply(None, &volume, schema("io.k8s.api.core.v1.PersistentVolume"), "one", false, None, at(1));
    assert_eq!(
        fields(&made.expect("made"), "one"),
        json!({"f:spec": {"f:claimRef": {"f:name": {}, "f:namespace": {}}}})
    );
}
