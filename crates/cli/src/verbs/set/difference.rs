//! The strategic merge patch that makes one object of another, as far as `set` changes objects: containers and variables are lists
//! by name, everything else is replaced. Pure.

use serde_json::{Map, Value, json};

/// The lists whose items are merged by their names.
const BY_NAME: [&str; 4] = ["containers", "initContainers", "ephemeralContainers", "env"];

/// The patch; nothing where nothing changes.
pub fn patch(before: &Value, after: &Value) -> Option<Value> {
    let empty = Map::new();
    let (old, new) = (before.as_object().unwrap_or(&empty), after.as_object().unwrap_or(&empty));
    let mut patch = Map::new();
    for (name, value) in new {
        match (old.get(name), value) {
            (Some(old), value) if old == value => {}
            (Some(old @ Value::Object(_)), value @ Value::Object(_)) => {
                patch.extend(self::patch(old, value).map(|inner| (name.clone(), inner)));
            }
            (Some(Value::Array(old)), Value::Array(new)) if BY_NAME.contains(&name.as_str()) => {
                let items = list(old, new);
                if !items.is_empty() {
                    patch.insert(name.clone(), items.into());
                }
                let order = |items: &[Value]| -> Vec<Value> {
                    items.iter().map(|item| json!({"name": item["name"]})).collect()
                };
                if order(old) != order(new) {
                    patch.insert(format!("$setElementOrder/{name}"), order(new).into());
                }
            }
            (_, value) => {
                patch.insert(name.clone(), value.clone());
            }
        }
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    (!patch.is_empty()).then(|| patch.into())
}

fn list(old: &[Value], new: &[Value]) -> Vec<Value> {
    let named = |items: &'_ [Value], name: &Value| items.iter().find(|item| item["name"] == *name).cloned();
    let mut items = Vec::new();
    for item in new {
        match named(old, &item["name"]) {
            None => items.push(item.clone()),
            Some(known) => items.extend(patch(&known, item).map(|mut patch| {
                patch["name"] = item["name"].clone();
                patch
            })),
        }
    }
    let gone = old.iter().filter(|item| named(new, &item["name"]).is_none());
    items.extend(gone.map(|item| json!({"$patch": "delete", "name": item["name"]})));
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use kobune_kinds::Catalogue;
    use kobune_merge::strategic_merge_patch;

    #[test]
    fn a_patch_makes_one_of_the_other() {
        let pod = Catalogue::builtin().by_kind("v1", "Pod").expect("a kind of Kubernetes").clone();
        let schema = pod.schema();
        let before = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [
            {"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}, {"name": "b", "image": "i"}]}});
        for after in [
            json!({"containers": [{"name": "a", "env": [{"name": "Y", "value": "3"}]}, {"name": "b", "image": "i"}]}),
            json!({"containers": [{"name": "a", "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                {"name": "Y", "value": "2"}, {"name": "Z", "value": "4"}]}, {"name": "b", "image": "j"}]}),
            json!({"containers": [{"name": "b", "image": "i"}, {"name": "a"}], "serviceAccountName": "robot"}),
        ] {
            let mut wanted = before.clone();
            wanted["spec"] = after;
            let patch = patch(&before, &wanted).expect("something changes");
            assert_eq!(strategic_merge_patch(&before, &patch, schema).unwrap(), wanted, "{patch}");
        }
        assert_eq!(patch(&before, &before), None);
    }
}
