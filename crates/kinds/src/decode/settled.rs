//! Whether an object that is parsed already has its shape, so that it need not be built anew.
//!
//! Patches change little of an object that has its shape, and most of what they make has it too. Whoever finds that out by
//! looking alone spares the copy. What is not certain at a glance is left to the visitor, which knows all rules.

use serde_json::{Map, Value};

use super::visitor::{canonical_time, vanishes};
use crate::quantity;
use crate::schema::{SchemaRef, Shape};

/// Whether the visitor would leave a value as it is and find nothing to say about it. A `false` says nothing.
pub(super) fn is_settled(value: &Value, schema: SchemaRef<'_>) -> bool {
    match (schema.shape(), value) {
        (Shape::Any, _)
        | (Shape::String | Shape::IntOrString, Value::String(_))
        | (Shape::Boolean, Value::Bool(_))
        | (Shape::Number, Value::Number(_)) => true,
        (Shape::Integer | Shape::IntOrString, Value::Number(number)) => {
            number.as_i64().is_some_and(|number| i32::try_from(number).is_ok())
        }
        (Shape::Long, Value::Number(number)) => number.is_i64(),
        (Shape::Quantity, Value::String(text)) => quantity::canonical(text).is_ok_and(|canonical| canonical == *text),
        (shape @ (Shape::Time | Shape::MicroTime), Value::String(text)) => {
            canonical_time(text, shape).is_some_and(|canonical| canonical == *text)
        }
        (Shape::Object, Value::Object(fields)) => {
            let settled = fields.iter().all(|(name, value)| {
                schema.field(name).is_some_and(|field| match value {
                    Value::Null => field.null_when_unset(),
                    value => !vanishes(value, field) && is_settled(value, field),
                })
            });
            settled && schema.always_written().all(|(name, _)| fields.contains_key(name))
        }
        (Shape::Map, Value::Object(entries)) => all_settled(Map::values(entries), schema),
        (Shape::List, Value::Array(items)) => all_settled(items, schema),
        _ => false,
    }
}

fn all_settled<'v>(values: impl IntoIterator<Item = &'v Value>, schema: SchemaRef<'_>) -> bool {
    schema.item().is_some_and(|item| values.into_iter().all(|value| is_settled(value, item)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::catalogue::Catalogue;

    #[test]
    fn what_is_settled() {
        let check = |kind: &str, object: Value, expected: bool| {
            let catalogue = Catalogue::builtin();
            let kind = catalogue.by_kind("v1", kind).expect("a built-in kind");
            assert_eq!(is_settled(&object, kind.schema()), expected, "{object}");
        };
        let pod =
            |container: Value| json!({"metadata": {"name": "a"}, "spec": {"containers": [container]}, "status": {}});
        check("Pod", pod(json!({"name": "c", "resources": {"limits": {"cpu": "500m"}}, "tty": true})), true);
        check("Pod", pod(json!({"name": "c", "resources": {}, "ports": [{"containerPort": 80}]})), true);
        check("Pod", pod(json!({"name": "c", "resources": {"limits": {"cpu": "0.5"}}})), false);
        check("Pod", pod(json!({"name": "c", "resources": {"limits": {"cpu": 1}}})), false);
        check("Pod", pod(json!({"name": "c", "resources": {}, "tty": false})), false);
        check("Pod", pod(json!({"name": "c", "resources": {}, "image": null})), false);
        check("Pod", pod(json!({"name": "c", "resources": {}, "imag": "x"})), false);
        check("Pod", pod(json!({"name": "c", "resources": {}, "args": []})), false);
        check("Pod", pod(json!({"name": 1, "resources": {}})), false);
        check("Pod", pod(Value::Null), false);
        let meta = |metadata: Value| json!({"metadata": metadata});
        check("ConfigMap", meta(json!({"creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1})), true);
        check("ConfigMap", meta(json!({"creationTimestamp": "2026-01-01T00:00:00.5Z"})), false);
        check("ConfigMap", meta(json!({"creationTimestamp": "2026-01-01T01:00:00+01:00"})), false);
        check("ConfigMap", meta(json!({"labels": {"a": null}})), false);
        check("ConfigMap", meta(json!({"managedFields": [{"manager": "m", "fieldsV1": {"f:a": {}}}]})), true);
        check("ConfigMap", json!({"metadata": {}, "data": {"a": "b"}}), true);
        // What is written whatever was set has to be there.
        check("ConfigMap", json!({"data": {"a": "b"}}), false);
        check("Pod", pod(json!({"name": "c"})), false);
        check("ConfigMap", json!([]), false);
    }
}
