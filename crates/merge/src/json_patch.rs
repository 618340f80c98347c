//! JSON patch (RFC 6902) and JSON merge patch (RFC 7386).

use json_patch::jsonptr::Pointer;
use json_patch::{Patch, PatchErrorKind, PatchOperation};
use serde_json::Value;

use crate::error::PatchError;

/// Upstream's limit, which keeps a small request from costing much work.
const MOST_OPERATIONS: usize = 10_000;

/// Applies a JSON patch, all of it or nothing.
pub fn json_patch(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let operations = patch.as_array().ok_or_else(|| PatchError::malformed("a JSON patch is a list of operations"))?;
    if operations.len() > MOST_OPERATIONS {
        return Err(PatchError::TooManyOperations { most: MOST_OPERATIONS, count: operations.len() });
    }
    let patch: Patch = serde::Deserialize::deserialize(&with_values(operations))
        .map_err(|error| PatchError::malformed(error.to_string()))?;
    let mut result = object.clone();
    match json_patch::patch_unsafe(&mut result, &patch) {
        Ok(()) => Ok(result),
        Err(error) => {
            let words = words(&result, &patch.0[error.operation], &error.kind);
            Err(PatchError::unprocessable(words))
        }
    }
}

/// Operations that need a value and have none get null, as upstream's library reads them: Go clients leave out empty maps.
fn with_values(operations: &[Value]) -> Value {
    let with_value = |operation: &Value| {
        let mut operation = operation.clone();
        if let Value::Object(fields) = &mut operation
            && matches!(fields.get("op").and_then(Value::as_str), Some("add" | "replace" | "test"))
        {
            fields.entry("value").or_insert(Value::Null);
        }
        operation
    };
    operations.iter().map(with_value).collect()
}

/// What upstream's library says of a failed operation.
fn words(object: &Value, operation: &PatchOperation, kind: &PatchErrorKind) -> String {
    let path = operation.path();
    let parent_is_there = |path: &Pointer| path.parent().is_some_and(|parent| parent.resolve(object).is_ok());
    let missing = |what: &str, key: &Pointer| {
        if parent_is_there(key) {
            format!("{what} operation does not apply: doc is missing key: {key}: missing value")
        } else {
            format!("{what} operation does not apply: doc is missing path: {key}: missing value")
        }
    };
    match (operation, kind) {
        (_, PatchErrorKind::TestFailed) => format!("testing value {path} failed: test failed"),
        (PatchOperation::Test(_), _) => format!("error in test for path: '{path}': missing value"),
        (PatchOperation::Add(_), _) => {
            format!("add operation does not apply: doc is missing path: \"{path}\": missing value")
        }
        (PatchOperation::Remove(_), _) if parent_is_there(path) => {
            let key = path.last().map(|token| token.decoded().into_owned()).unwrap_or_default();
            format!("error in remove for path: '{path}': Unable to remove nonexistent key: {key}: missing value")
        }
        (PatchOperation::Remove(_), _) => {
            format!("remove operation does not apply: doc is missing path: \"{path}\": missing value")
        }
        (PatchOperation::Replace(_), _) => missing("replace", path),
        (PatchOperation::Move(change), PatchErrorKind::InvalidFromPointer) => missing("move", &change.from),
        (PatchOperation::Copy(change), PatchErrorKind::InvalidFromPointer) => missing("copy", &change.from),
        (PatchOperation::Move(_), PatchErrorKind::CannotMoveInsideItself) => {
            format!("error in move for path: '{path}': cannot move the value inside itself")
        }
        (PatchOperation::Move(_), _) => missing("move", path),
        (PatchOperation::Copy(_), _) => missing("copy", path),
    }
}

/// Applies a merge patch: maps merge, nulls remove, everything else replaces.
pub fn merge_patch(object: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = Value::Object(serde_json::Map::new());
    }
    let Value::Object(object) = object else {
        return;
    };
    for (key, change) in patch {
        if change.is_null() {
            object.remove(key);
        } else {
            merge_patch(object.entry(key.as_str()).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_patches() {
        let check = |patch: Value, expected: Result<Value, &str>| {
            let object = json!({"a": {"b": 1}, "l": [1, 2]});
            let result = json_patch(&object, &patch).map_err(|error| error.to_string());
            assert_eq!(result, expected.map_err(str::to_owned), "{patch}");
        };
        check(
            json!([{"op": "test", "path": "/a/b", "value": 1}, {"op": "replace", "path": "/a/b", "value": 2}]),
            Ok(json!({"a": {"b": 2}, "l": [1, 2]})),
        );
        check(json!([{"op": "replace", "path": "/a"}]), Ok(json!({"a": null, "l": [1, 2]})));
        check(json!([{"op": "add", "path": "/a/c"}]), Ok(json!({"a": {"b": 1, "c": null}, "l": [1, 2]})));
        check(json!([{"op": "add", "path": "/l/-", "value": 3}]), Ok(json!({"a": {"b": 1}, "l": [1, 2, 3]})));
        check(json!([{"op": "remove", "path": "/a"}]), Ok(json!({"l": [1, 2]})));
        check(json!([{"op": "move", "from": "/a/b", "path": "/c"}]), Ok(json!({"a": {}, "c": 1, "l": [1, 2]})));
        check(json!([{"op": "test", "path": "/a/b", "value": 2}]), Err("testing value /a/b failed: test failed"));
        check(
            json!([{"op": "remove", "path": "/x"}]),
            Err("error in remove for path: '/x': Unable to remove nonexistent key: x: missing value"),
        );
        check(
            json!([{"op": "remove", "path": "/x/y"}]),
            Err("remove operation does not apply: doc is missing path: \"/x/y\": missing value"),
        );
        check(
            json!([{"op": "replace", "path": "/a/x", "value": 1}]),
            Err("replace operation does not apply: doc is missing key: /a/x: missing value"),
        );
        check(
            json!([{"op": "add", "path": "/x/y", "value": 1}]),
            Err("add operation does not apply: doc is missing path: \"/x/y\": missing value"),
        );
        check(json!({"op": "add"}), Err("a JSON patch is a list of operations"));
        let many = Value::Array(vec![json!({"op": "test", "path": "/a/b", "value": 1}); MOST_OPERATIONS + 1]);
        check(many, Err("The allowed maximum operations in a JSON patch is 10000, got 10001"));
        assert!(json_patch(&json!({}), &json!([{"op": "what", "path": "/a"}])).is_err());
        assert!(json_patch(&json!({}), &json!([{"op": "add", "path": "a", "value": 1}])).is_err());
    }

    #[test]
    fn merge_patches() {
        let check = |mut object: Value, patch: Value, expected: Value| {
            merge_patch(&mut object, &patch);
            assert_eq!(object, expected, "{patch}");
        };
        // The table of RFC 7386.
        check(json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"}));
        check(json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"}));
        check(json!({"a": "b"}), json!({"a": null}), json!({}));
        check(json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"}));
        check(json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}}));
        check(json!({"a": "foo"}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}}));
        check(json!(["a"]), json!({"a": 1}), json!({"a": 1}));
        check(json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1}));
    }
}
