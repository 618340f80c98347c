use super::*;
use kobune_kinds::schema::Types;
use proptest::prelude::*;
use serde_json::json;

fn patched(object: &Value, patch: &Value, name: &str) -> Result<Value, String> {
    let schema = Types::builtin().named(name).expect("built in");
    strategic_merge_patch(object, patch, schema).map_err(|error| error.to_string())
}

fn check(object: Value, patch: Value, expected: Result<Value, &str>) {
    let result = patched(&object, &patch, "io.k8s.api.core.v1.PodSpec");
    assert_eq!(result, expected.map_err(str::to_owned), "{patch}");
}

#[test]
fn maps_and_directives() {
    check(
        json!({"nodeName": "a", "hostname": "h"}),
        json!({"nodeName": null, "hostname": "i"}),
        Ok(json!({"hostname": "i"})),
    );
    check(
        json!({"securityContext": {"runAsUser": 1}}),
        json!({"securityContext": {"$patch": "replace", "runAsGroup": 2}}),
        Ok(json!({"securityContext": {"runAsGroup": 2}})),
    );
    check(
        json!({"securityContext": {"runAsUser": 1}}),
        json!({"securityContext": {"$patch": "delete"}}),
        Ok(json!({"securityContext": {}})),
    );
    check(json!({}), json!({"securityContext": {"runAsUser": null}}), Ok(json!({"securityContext": {}})));
    check(
        json!({"securityContext": {}}),
        json!({"securityContext": {"$patch": "merge"}}),
        Err("unknown patch type: merge in map: {\"$patch\":\"merge\"}"),
    );
    check(json!({}), json!({"$patch": "what"}), Err("unknown patch type found: \"what\" in map"));
    let strategy = json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}});
    let patch = json!({"strategy": {"$retainKeys": ["type"], "type": "Recreate"}});
    let recreate = json!({"strategy": {"type": "Recreate"}});
    assert_eq!(patched(&strategy, &patch, "io.k8s.api.apps.v1.DeploymentSpec"), Ok(recreate));
    let wrong = json!({"strategy": {"$retainKeys": [], "type": "Recreate"}});
    assert!(patched(&strategy, &wrong, "io.k8s.api.apps.v1.DeploymentSpec").is_err());
}

#[test]
fn keyed_lists() {
    let pod = || json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]});
    check(
        pod(),
        json!({"containers": [{"name": "b", "image": "3", "tty": null}]}),
        Ok(json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "3"}]})),
    );
    check(
        pod(),
        json!({"containers": [{"name": "a", "$patch": "delete"}]}),
        Ok(json!({"containers": [{"name": "b", "image": "2"}]})),
    );
    check(
        pod(),
        json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}),
        Ok(json!({"containers": [{"name": "c"}]})),
    );
    check(
        pod(),
        json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}),
        Ok(json!({"containers": [{"name": "b", "image": "2"}, {"name": "a", "image": "1"}]})),
    );
    check(
        pod(),
        json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}], "containers": [{"name": "c"}]}),
        Ok(json!({"containers": [{"name": "c"}, {"name": "a", "image": "1"}, {"name": "b", "image": "2"}]})),
    );
    check(
        pod(),
        json!({"containers": [{"image": "x"}]}),
        Err("map: {\"image\":\"x\"} does not contain declared merge key: name"),
    );
    // A list without a strategy is replaced.
    check(
        json!({"tolerations": [{"key": "a"}]}),
        json!({"tolerations": [{"key": "b"}]}),
        Ok(json!({"tolerations": [{"key": "b"}]})),
    );
}

#[test]
fn lists_of_scalars() {
    let meta = |object: Value, patch: Value, expected: Value| {
        assert_eq!(
            patched(&object, &patch, "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"),
            Ok(expected),
            "{patch}"
        );
    };
    meta(json!({"finalizers": ["a", "b"]}), json!({"finalizers": ["c", "a"]}), json!({"finalizers": ["c", "a", "b"]}));
    meta(
        json!({"finalizers": ["a", "b"]}),
        json!({"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["b"]}),
        json!({"finalizers": ["b"]}),
    );
    meta(
        json!({"finalizers": ["a", "b"]}),
        json!({"$setElementOrder/finalizers": ["c", "b", "a"], "finalizers": ["c"]}),
        json!({"finalizers": ["c", "b", "a"]}),
    );
}

/// The patch that kubectl would make of two pod specs: containers and their variables by name, and their order.
fn difference(old: &Value, new: &Value, lists: &[&str]) -> Value {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return new.clone();
    };
    let mut patch = Map::new();
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, new) in new.iter().filter(|(name, new)| old.get(*name) != Some(new)) {
        let change = match (old.get(name), new) {
            (Some(Value::Array(old)), Value::Array(new)) if lists.contains(&name.as_str()) => {
                let named =
                    |list: &[Value], item: &Value| list.iter().find(|other| other["name"] == item["name"]).cloned();
                let mut items: Vec<Value> = new
                    .iter()
                    .filter(|item| named(old, item).as_ref() != Some(item))
                    .map(|item| {
                        let mut change = difference(&named(old, item).unwrap_or_else(|| json!({})), item, lists);
                        change["name"] = item["name"].clone();
                        change
                    })
                    .collect();
                let gone = old.iter().filter(|item| named(new, item).is_none());
                items.extend(gone.map(|item| json!({"name": item["name"], "$patch": "delete"})));
                let order = new.iter().map(|item| json!({"name": item["name"]})).collect();
                patch.insert(format!("{SET_ORDER}{name}"), order);
                Value::Array(items)
            }
            (Some(old @ Value::Object(_)), Value::Object(_)) => difference(old, new, lists),
            _ => new.clone(),
        };
        patch.insert(name.clone(), change);
    }
    Value::Object(patch)
}

fn named(names: &'static str, rest: impl Strategy<Value = Value> + 'static) -> impl Strategy<Value = Value> {
    proptest::collection::btree_map(names, rest, 0..4)
        .prop_map(|items| -> Vec<Value> {
            let with_name = |(name, mut item): (String, Value)| {
                item["name"] = Value::from(name);
                item
            };
            items.into_iter().map(with_name).collect()
        })
        .prop_shuffle()
        .prop_map(Value::Array)
}

fn pod_spec() -> impl Strategy<Value = Value> {
    let env = named("[A-D]", "[xy]".prop_map(|value| json!({"value": value})));
    let container = ("[ij]", env, any::<bool>()).prop_map(|(image, env, tty)| {
        if tty { json!({"image": image, "env": env, "tty": true}) } else { json!({"image": image, "env": env}) }
    });
    (named("[a-d]", container), proptest::option::of("[mn]"), 0..3u8).prop_map(|(containers, node, user)| {
        let mut spec = json!({"containers": containers, "securityContext": {"runAsUser": user}});
        if let Some(node) = node {
            spec["nodeName"] = Value::from(node);
        }
        spec
    })
}

proptest! {
    #[test]
    fn the_patch_of_a_difference_gives_the_target(old in pod_spec(), new in pod_spec()) {
        let patch = difference(&old, &new, &["containers", "env"]);
        prop_assert_eq!(patched(&old, &patch, "io.k8s.api.core.v1.PodSpec"), Ok(new));
    }
}
