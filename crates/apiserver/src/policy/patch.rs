//! What a mutation's expression gives, and what that makes of an object.

use kobune_expressions::{Object, Value};
use kobune_kinds::{FieldValidation, Kind};
use serde_json::{Map, Value as Json};

/// How an expression says what to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PatchType {
    /// It gives an `Object` that is merged as an apply would.
    ApplyConfiguration,
    /// It gives a list of `JSONPatch`.
    JsonPatch,
}

/// Applies what the expression gave to an object of a kind.
pub(super) fn apply(sort: PatchType, value: &Value<'_>, object: &Json, kind: &Kind) -> Result<Json, String> {
    match sort {
        PatchType::ApplyConfiguration => merge(value, object, kind),
        PatchType::JsonPatch => patch(value, object),
    }
}

fn merge(value: &Value<'_>, object: &Json, kind: &Kind) -> Result<Json, String> {
    let Value::Object(made) = value else {
        return Err("unsupported return type from ApplyConfiguration expression".to_owned());
    };
    check_names(made, "Object").map_err(|problem| format!("type mismatch: {problem}"))?;
    let mut configuration = value.to_json().map_err(|error| error.to_string())?;
    configuration["apiVersion"] = object["apiVersion"].clone();
    configuration["kind"] = object["kind"].clone();
    let apply = |problem: String| format!("error applying patch: {problem}");
    // What the kind does not have cannot be set: the same check that a body of a request passes.
    kind.check_configuration(&mut configuration, FieldValidation::Strict)
        .map_err(|error| apply(format!("failed to convert patch object to typed object: {error}")))?;
    kobune_merge::merge_configuration(object, &configuration, kind.schema())
        .map_err(|error| apply(format!("invalid ApplyConfiguration: {}", error.to_string().trim_start_matches(": "))))
}

/// An object inside another one carries the name of its place: `Object.spec` in the field `spec`.
fn check_names(object: &Object<'_>, place: &str) -> Result<(), String> {
    if &*object.name != place {
        return Err(format!(
            "unexpected type name {:?}, expected {place:?}, which matches field name path from root Object type",
            object.name
        ));
    }
    object.fields.iter().try_for_each(|(field, value)| check_value(value, &format!("{place}.{field}")))
}

fn check_value(value: &Value<'_>, place: &str) -> Result<(), String> {
    match value {
        Value::Object(inner) => check_names(inner, place),
        Value::List(list) => {
            list.iter().try_for_each(|item| check_value(&item.map_err(|error| error.to_string())?, place))
        }
        _ => Ok(()),
    }
}

fn patch(value: &Value<'_>, object: &Json) -> Result<Json, String> {
    let Value::List(list) = value else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array".to_owned());
    };
    let mut operations = Vec::with_capacity(list.len());
    for item in list.iter() {
        let Value::Object(made) = item.map_err(|error| error.to_string())? else {
            return Err("type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch".to_owned());
        };
        let mut operation = Map::new();
        for (field, value) in &made.fields {
            if &**field == "value"
                && let Value::Object(inner) = value
            {
                let root = inner.name.to_string();
                check_names(inner, &root).map_err(|problem| format!("type mismatch: {problem}"))?;
            }
            let value = value.to_json().map_err(|error| {
                format!("JSONPath valueExpression evaluated to a type that could not marshal to JSON: {error}")
            })?;
            if !(&**field == "from" && value == "") {
                operation.insert(field.to_string(), value);
            }
        }
        operations.push(Json::Object(operation));
    }
    if !passes_tests(object, &operations) {
        // A test that fails means that the patch is not for this object.
        return Ok(object.clone());
    }
    kobune_merge::json_patch(object, &Json::Array(operations)).map_err(|error| format!("JSON Patch: {error}"))
}

/// Whether the tests of a patch hold, each at its place among the other operations.
fn passes_tests(object: &Json, operations: &[Json]) -> bool {
    let tests = operations.iter().enumerate().filter(|(_, operation)| operation["op"] == "test");
    tests.into_iter().all(|(index, test)| {
        let before = Json::Array(operations[..index].to_vec());
        let Ok(state) = kobune_merge::json_patch(object, &before) else { return true };
        let path = test["path"].as_str().unwrap_or_default();
        state.pointer(path).unwrap_or(&Json::Null) == &test["value"]
    })
}
