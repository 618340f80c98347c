//! What happens to a custom resource between decoding and validation.

use serde_json::{Map, Value};

use crate::kind::Kind;

fn fields(object: &mut Value) -> Option<&mut Map<String, Value>> {
    object.as_object_mut()
}

fn set_generation(object: &mut Value, generation: i64) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("generation".to_owned(), generation.into());
    }
}

/// Generation 1, and no status where it has an endpoint of its own.
pub(crate) fn prepare_create(kind: &Kind, object: &mut Value) {
    if kind.subresource("status").is_some()
        && let Some(fields) = fields(object)
    {
        fields.remove("status");
    }
    set_generation(object, 1);
}

/// Keeps what the endpoint must not change and counts the generation.
pub(crate) fn prepare_update(kind: &Kind, object: &mut Value, old: &Value, subresource: Option<&str>) {
    let has_status = kind.subresource("status").is_some();
    if subresource == Some("status") {
        let status = object.get_mut("status").map(Value::take);
        let managed = object["metadata"]["managedFields"].take();
        let version = object["metadata"]["resourceVersion"].take();
        let mut next = old.clone();
        if let Some(fields) = next.as_object_mut() {
            match status {
                Some(status) => fields.insert("status".to_owned(), status),
                None => fields.remove("status"),
            };
        }
        for (name, value) in [("managedFields", managed), ("resourceVersion", version)] {
            if !value.is_null() {
                next["metadata"][name] = value;
            }
        }
        *object = next;
        return;
    }
    if has_status && let Some(fields) = fields(object) {
        match old.get("status") {
            Some(status) => fields.insert("status".to_owned(), status.clone()),
            None => fields.remove("status"),
        };
    }
    let content = |object: &Value| {
        let skipped = |key: &str| key == "metadata" || (has_status && key == "status");
        let fields = object.as_object().into_iter().flatten();
        fields.filter(|(key, _)| !skipped(key)).map(|(key, value)| (key.clone(), value.clone())).collect::<Vec<_>>()
    };
    let before = old["metadata"]["generation"].as_i64().unwrap_or(0);
    let deletion = |object: &Value| object["metadata"].get("deletionTimestamp").is_some_and(|time| !time.is_null());
    let changed = content(object) != content(old) || (deletion(object) && !deletion(old));
    set_generation(object, if changed { before + 1 } else { before });
}
