//! Reading and completing fields of objects that may lack any part.

use serde_json::{Map, Value};

/// A text field, or the empty text.
pub(super) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// A list field, or no items.
pub(super) fn items<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A label or annotation (`part` is `labels` or `annotations`).
pub(super) fn metadata<'a>(object: &'a Value, part: &str, key: &str) -> Option<&'a str> {
    object.get("metadata")?.get(part)?.get(key)?.as_str()
}

/// A field that is an object, made when it is not there. Nothing else can stand there after the check of shapes.
pub(super) fn object_mut<'a>(value: &'a mut Value, key: &str) -> &'a mut Value {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let field = &mut value[key];
    if !field.is_object() {
        *field = Value::Object(Map::new());
    }
    field
}

/// A field that is a list, made when it is not there.
pub(super) fn list_mut<'a>(value: &'a mut Value, key: &str) -> &'a mut Vec<Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let field = &mut value[key];
    if !field.is_array() {
        *field = Value::Array(Vec::new());
    }
    match field {
        Value::Array(list) => list,
        _ => unreachable!("it was made a list just before"),
    }
}

/// Whether a field is there and not null.
pub(super) fn is_set(value: &Value, key: &str) -> bool {
    value.get(key).is_some_and(|field| !field.is_null())
}
