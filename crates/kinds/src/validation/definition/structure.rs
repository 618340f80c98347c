//! Structural schemas: every value has a type outside of `allOf`, `anyOf`, `oneOf` and `not`, which only narrow it.
//!
//! Source: `pkg/apiserver/schema/validation.go` and `pkg/apis/apiextensions/validation/validation.go`.

use serde_json::{Map, Value};

use crate::custom::{self, Schema};
use crate::field_error::FieldError;
use crate::path::{list, text};
use crate::validation::Errors;

/// What a schema may not say at all.
const UNKNOWN: [&str; 6] = ["$ref", "definitions", "dependencies", "patternProperties", "additionalItems", "id"];

/// So deep may a schema go.
const DEEPEST: usize = 100;

/// The schema of whole objects.
pub(super) fn check(schema: &Value, path: &str, errors: &mut Errors) {
    match text(schema, "type") {
        "object" => {}
        "" => errors.push(FieldError::required(format!("{path}.type"), "must not be empty at the root")),
        other => errors.push(FieldError::invalid(format!("{path}.type"), other, "must be object at the root")),
    }
    if schema["nullable"] == true {
        errors.push(FieldError::forbidden(format!("{path}.nullable"), "nullable cannot be true at the root"));
    }
    if schema["x-kubernetes-int-or-string"] == true {
        let detail = "must not be true at the root";
        errors.push(FieldError::invalid(format!("{path}.x-kubernetes-int-or-string"), true, detail));
    }
    place(schema, path, Position::Root, 0, errors);
}

#[derive(Clone, Copy, PartialEq)]
enum Position {
    Root,
    Field,
    Item,
}

fn place(schema: &Value, path: &str, position: Position, depth: usize, errors: &mut Errors) {
    let Some(fields) = schema.as_object() else { return };
    if depth > DEEPEST {
        errors.push(FieldError::forbidden(path, "the schema is nested too deeply"));
        return;
    }
    for name in UNKNOWN.iter().filter(|name| fields.get(**name).is_some_and(|value| !value.is_null())) {
        errors.push(FieldError::forbidden(format!("{path}.{name}"), format!("{name} is not supported")));
    }
    let kind = text(schema, "type");
    let is = |flag: &str| fields.get(flag).is_some_and(|value| *value == true);
    if kind.is_empty()
        && position != Position::Root
        && !is("x-kubernetes-int-or-string")
        && !is("x-kubernetes-preserve-unknown-fields")
    {
        let detail = match position {
            Position::Item => "must not be empty for specified array items",
            _ => "must not be empty for specified object fields",
        };
        errors.push(FieldError::required(format!("{path}.type"), detail));
    }
    match kind {
        "" | "object" | "array" | "string" | "integer" | "number" | "boolean" => {}
        "null" => {
            let detail = "type cannot be set to null, use nullable as an alternative";
            errors.push(FieldError::forbidden(format!("{path}.type"), detail));
        }
        other => errors.push(FieldError::not_supported(
            format!("{path}.type"),
            other,
            &["array", "boolean", "integer", "number", "object", "string"],
        )),
    }
    if is("uniqueItems") {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(FieldError::forbidden(format!("{path}.uniqueItems"), detail));
    }
    if fields.get("additionalProperties") == Some(&Value::Bool(false)) {
        let detail = "additionalProperties cannot be set to false";
        errors.push(FieldError::forbidden(format!("{path}.additionalProperties"), detail));
    }
    let additional = fields.get("additionalProperties").is_some_and(|value| !value.is_null());
    if additional && fields.get("properties").and_then(Value::as_object).is_some_and(|map| !map.is_empty()) {
        let detail = "additionalProperties and properties are mutual exclusive";
        errors.push(FieldError::forbidden(format!("{path}.additionalProperties"), detail));
    }
    if additional && position == Position::Root {
        errors.push(FieldError::forbidden(format!("{path}.additionalProperties"), "must not be used at the root"));
    }
    if fields.get("items").is_some_and(Value::is_array) {
        let detail = "items must be a schema object and not an array";
        errors.push(FieldError::forbidden(format!("{path}.items"), detail));
    }
    if kind == "array" && fields.get("items").is_none_or(Value::is_null) && !is("x-kubernetes-preserve-unknown-fields")
    {
        errors.push(FieldError::required(format!("{path}.items"), "must be specified"));
    }
    pattern(fields, path, errors);
    extensions(schema, fields, kind, path, errors);
    default(schema, fields, path, position, errors);
    if position == Position::Root || is("x-kubernetes-embedded-resource") {
        metadata(schema, path, errors);
    }
    for (name, below) in fields.get("properties").and_then(Value::as_object).into_iter().flatten() {
        place(below, &format!("{path}.properties[{name}]"), Position::Field, depth + 1, errors);
    }
    if let Some(items) = fields.get("items") {
        place(items, &format!("{path}.items"), Position::Item, depth + 1, errors);
    }
    if let Some(additional) = fields.get("additionalProperties") {
        place(additional, &format!("{path}.additionalProperties"), Position::Field, depth + 1, errors);
    }
    for junctor in ["allOf", "anyOf", "oneOf"] {
        for (index, below) in list(schema, junctor).iter().enumerate() {
            narrowed(
                below,
                schema,
                &format!("{path}.{junctor}[{index}]"),
                is("x-kubernetes-int-or-string"),
                depth,
                errors,
            );
        }
    }
    if let Some(not) = fields.get("not").filter(|not| not.is_object()) {
        narrowed(not, schema, &format!("{path}.not"), false, depth, errors);
    }
}

fn pattern(fields: &Map<String, Value>, path: &str, errors: &mut Errors) {
    if let Some(pattern) = fields.get("pattern").and_then(Value::as_str)
        && let Err(error) = regex::Regex::new(pattern)
    {
        let reason = error.to_string().lines().last().unwrap_or_default().to_owned();
        let detail = format!("must be a valid regular expression, but isn't: {reason}");
        errors.push(FieldError::invalid(format!("{path}.pattern"), pattern, detail));
    }
}

/// A default must be what the schema itself takes.
fn default(schema: &Value, fields: &Map<String, Value>, path: &str, position: Position, errors: &mut Errors) {
    let Some(default) = fields.get("default").filter(|value| !value.is_null()) else { return };
    if position == Position::Root {
        errors.push(FieldError::forbidden(format!("{path}.default"), "must not be set at the root"));
        return;
    }
    let whole = serde_json::json!({"type": "object", "properties": {"default": schema}});
    let object = serde_json::json!({"default": default});
    let compiled = Schema::root(&whole);
    let mut pruned = object.clone();
    crate::decode::prune_stored(&mut pruned, &compiled);
    if pruned != object {
        let detail = "must not have unknown fields";
        errors.push(FieldError::invalid(format!("{path}.default"), default.clone(), detail));
    }
    for error in custom::validate::object(&object, None, &compiled) {
        let field = error
            .field
            .strip_prefix("default")
            .map_or_else(|| error.field.clone(), |rest| format!("{path}.default{rest}"));
        errors.push(FieldError { field, ..error });
    }
}

/// Metadata is implied; a schema may only narrow names.
fn metadata(schema: &Value, path: &str, errors: &mut Errors) {
    let Some(metadata) = schema["properties"].get("metadata") else { return };
    let path = format!("{path}.properties[metadata]");
    if text(metadata, "type") != "object" {
        errors.push(FieldError::invalid(format!("{path}.type"), text(metadata, "type"), "must be object"));
    }
    let extra = metadata["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .any(|(name, _)| name != "name" && name != "generateName");
    let other = metadata
        .as_object()
        .into_iter()
        .flatten()
        .any(|(key, _)| !matches!(key.as_str(), "type" | "properties" | "description"));
    if extra || other {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.push(FieldError::forbidden(path, detail));
    }
}

fn extensions(schema: &Value, fields: &Map<String, Value>, kind: &str, path: &str, errors: &mut Errors) {
    let is = |flag: &str| fields.get(flag).is_some_and(|value| *value == true);
    if fields.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        let detail = "must be true or undefined";
        errors.push(FieldError::invalid(format!("{path}.x-kubernetes-preserve-unknown-fields"), false, detail));
    }
    if is("x-kubernetes-int-or-string") && !kind.is_empty() {
        let detail = "must be empty if x-kubernetes-int-or-string is true";
        errors.push(FieldError::invalid(format!("{path}.type"), kind, detail));
    }
    if is("x-kubernetes-embedded-resource") {
        if kind != "object" {
            let detail = "must be object if x-kubernetes-embedded-resource is true";
            errors.push(if kind.is_empty() {
                FieldError::required(format!("{path}.type"), detail)
            } else {
                FieldError::invalid(format!("{path}.type"), kind, detail)
            });
        }
        if !is("x-kubernetes-preserve-unknown-fields") && !schema["properties"].is_object() {
            let detail = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
            errors.push(FieldError::required(format!("{path}.properties"), detail));
        }
    }
    if let Some(map_type) = fields.get("x-kubernetes-map-type").and_then(Value::as_str) {
        let place = format!("{path}.x-kubernetes-map-type");
        if !matches!(map_type, "atomic" | "granular") {
            errors.push(FieldError::not_supported(place, map_type, &["atomic", "granular"]));
        } else if kind != "object" {
            let detail = "must be object if x-kubernetes-map-type is specified";
            errors.push(FieldError::invalid(format!("{path}.type"), kind, detail));
        }
    }
    let keys = list(schema, "x-kubernetes-list-map-keys");
    let Some(list_type) = fields.get("x-kubernetes-list-type").and_then(Value::as_str) else {
        if !keys.is_empty() {
            let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
            errors.push(FieldError::required(format!("{path}.x-kubernetes-list-type"), detail));
        }
        return;
    };
    let place = format!("{path}.x-kubernetes-list-type");
    if !matches!(list_type, "atomic" | "map" | "set") {
        errors.push(FieldError::not_supported(place, list_type, &["atomic", "map", "set"]));
        return;
    }
    if kind != "array" {
        let detail = "must be array if x-kubernetes-list-type is specified";
        errors.push(FieldError::invalid(format!("{path}.type"), kind, detail));
    }
    if list_type != "map" {
        if !keys.is_empty() {
            let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
            errors.push(FieldError::invalid(place, list_type, detail));
        }
        return;
    }
    let place = format!("{path}.x-kubernetes-list-map-keys");
    if keys.is_empty() {
        errors.push(FieldError::required(&place, "must not be empty if x-kubernetes-list-type is map"));
    }
    let items = &schema["items"];
    if text(items, "type") != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        errors.push(FieldError::invalid(format!("{path}.items.type"), text(items, "type"), detail));
    }
    for (index, key) in keys.iter().enumerate() {
        let name = key.as_str().unwrap_or_default();
        let Some(property) = items["properties"].get(name) else {
            let detail = "entries must all be names of item properties";
            errors.push(FieldError::invalid(format!("{place}[{index}]"), name, detail));
            continue;
        };
        let below = format!("{path}.items.properties[{name}]");
        if matches!(text(property, "type"), "array" | "object") {
            let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            errors.push(FieldError::invalid(format!("{below}.type"), text(property, "type"), detail));
        }
        if property["default"].is_null() && !list(items, "required").contains(key) {
            let detail =
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.push(FieldError::required(format!("{below}.default"), detail));
        }
    }
    if keys.iter().enumerate().any(|(at, key)| keys[..at].contains(key)) {
        errors.push(FieldError::invalid(place, Value::from(keys), "must not contain duplicate entries"));
    }
}

/// A schema inside of a junctor: it may only narrow what is there. `int_or_string` allows upstream's own pattern for such
/// values.
fn narrowed(schema: &Value, whole: &Value, path: &str, int_or_string: bool, depth: usize, errors: &mut Errors) {
    let Some(fields) = schema.as_object() else { return };
    if depth > DEEPEST {
        return;
    }
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        let place = || format!("{path}.{name}");
        match name.as_str() {
            "type" if int_or_string && matches!(value.as_str(), Some("integer" | "string")) => {}
            "type" | "title" | "description" => {
                errors.push(FieldError::forbidden(place(), "must be empty to be structural"))
            }
            "default" | "additionalProperties" => {
                errors.push(FieldError::forbidden(place(), "must be undefined to be structural"));
            }
            "nullable" | "x-kubernetes-embedded-resource" | "x-kubernetes-int-or-string" if *value == true => {
                errors.push(FieldError::forbidden(place(), "must be false to be structural"));
            }
            "x-kubernetes-preserve-unknown-fields"
            | "x-kubernetes-list-type"
            | "x-kubernetes-list-map-keys"
            | "x-kubernetes-map-type" => {
                errors.push(FieldError::forbidden(place(), "must be undefined to be structural"));
            }
            _ => {}
        }
    }
    pattern(fields, path, errors);
    for (name, below) in fields.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let place = format!("{path}.properties[{name}]");
        match whole["properties"].get(name) {
            Some(known) => {
                narrowed(below, known, &place, known["x-kubernetes-int-or-string"] == true, depth + 1, errors)
            }
            None if whole["additionalProperties"].is_object() => {
                narrowed(below, &whole["additionalProperties"], &place, false, depth + 1, errors);
            }
            None => {
                let detail = format!("because it is defined in {place}");
                errors.push(FieldError::required(outside(path, name), detail));
            }
        }
    }
    if let Some(items) = fields.get("items").filter(|items| items.is_object()) {
        narrowed(items, &whole["items"], &format!("{path}.items"), false, depth + 1, errors);
    }
    for junctor in ["allOf", "anyOf", "oneOf"] {
        for (index, below) in list(schema, junctor).iter().enumerate() {
            narrowed(below, whole, &format!("{path}.{junctor}[{index}]"), int_or_string, depth + 1, errors);
        }
    }
    if let Some(not) = fields.get("not").filter(|not| not.is_object()) {
        narrowed(not, whole, &format!("{path}.not"), false, depth + 1, errors);
    }
}

/// Where a property that a junctor names should stand: the same way without the junctors.
fn outside(path: &str, name: &str) -> String {
    let steps = path.split('.').filter(|step| {
        !(*step == "not" || ["allOf[", "anyOf[", "oneOf["].iter().any(|junctor| step.starts_with(junctor)))
    });
    format!("{}.properties[{name}]", steps.collect::<Vec<_>>().join("."))
}
