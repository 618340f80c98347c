//! The schemas of custom resources as OpenAPI shows them. Version 2 cannot say all that they say: what it cannot, goes,
//! in upstream's way, so that clients do not refuse what the server takes.

use serde_json::{Map, Value, json};

use super::definitions::Dialect;

const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA: &str = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// A definition's schema in a dialect.
pub(super) fn schema(text: Value, dialect: Dialect) -> Value {
    let mut schema = text;
    if dialect == Dialect::V2 {
        reduce(&mut schema);
    }
    schema
}

/// Takes away what version 2 cannot say.
fn reduce(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    for junctor in ["allOf", "anyOf", "oneOf", "not"] {
        fields.remove(junctor);
    }
    let preserves = fields.get("x-kubernetes-preserve-unknown-fields").is_some_and(|flag| flag == true);
    let nullable = fields.remove("nullable").is_some_and(|flag| flag == true);
    if nullable {
        fields.remove("type");
    }
    if nullable || preserves {
        fields.remove("items");
        fields.remove("properties");
    }
    let is = |fields: &Map<String, Value>, kind: &str| fields.get("type").is_some_and(|found| found == kind);
    if (is(fields, "array") && !fields.contains_key("items")) || (preserves && is(fields, "object")) {
        fields.remove("type");
    }
    let is_nullable = |schema: &Value| schema["nullable"] == true;
    let optional: Vec<String> = fields
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(_, property)| is_nullable(property))
        .map(|(name, _)| name.clone())
        .collect();
    let all_optional = fields.get("additionalProperties").is_some_and(is_nullable);
    if let Some(required) = fields.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| !all_optional && !optional.iter().any(|optional| name == optional));
        if required.is_empty() {
            fields.remove("required");
        }
    }
    for part in ["items", "additionalProperties"] {
        if let Some(part) = fields.get_mut(part) {
            reduce(part);
        }
    }
    for property in fields.get_mut("properties").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
        reduce(property);
    }
}

/// Adds the fields that every object has, also to objects within. `metadata` refers to its type.
pub(super) fn complete(schema: &mut Value, metadata: &Value, dialect: Dialect) {
    add(schema, metadata);
    embedded(schema, metadata, dialect);
}

fn add(schema: &mut Value, metadata: &Value) {
    let mut metadata = metadata.clone();
    metadata["description"] = METADATA.into();
    if !schema["properties"].is_object() {
        schema["properties"] = json!({});
    }
    schema["properties"]["apiVersion"] = json!({"type": "string", "description": API_VERSION});
    schema["properties"]["kind"] = json!({"type": "string", "description": KIND});
    schema["properties"]["metadata"] = metadata;
}

fn embedded(schema: &mut Value, metadata: &Value, dialect: Dialect) {
    let Some(fields) = schema.as_object_mut() else { return };
    for part in ["items", "additionalProperties"] {
        if let Some(part) = fields.get_mut(part) {
            embedded(part, metadata, dialect);
        }
    }
    for property in fields.get_mut("properties").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
        embedded(property, metadata, dialect);
    }
    let open = dialect == Dialect::V2 && schema["x-kubernetes-preserve-unknown-fields"] == true;
    if !open && schema["x-kubernetes-embedded-resource"] == true {
        add(schema, metadata);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_says_less() {
        let check = |text: Value, expected: Value| assert_eq!(schema(text, Dialect::V2), expected);
        let plain = json!({"type": "object", "description": "d", "required": ["a"], "properties": {
            "a": {"type": "string", "enum": ["x"], "pattern": "y"}, "l": {"type": "array", "items": {"type": "string"}}}});
        check(plain.clone(), plain);
        check(
            json!({"type": "object", "required": ["n", "a"], "properties": {
                "n": {"type": "object", "nullable": true, "properties": {"x": {"type": "string"}}},
                "a": {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]},
                "p": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"x": {"type": "string"}}},
                "l": {"type": "array", "x-kubernetes-preserve-unknown-fields": true, "items": {"type": "object"}}}}),
            json!({"type": "object", "required": ["a"], "properties": {
                "n": {}, "a": {"type": "string"}, "p": {"x-kubernetes-preserve-unknown-fields": true},
                "l": {"x-kubernetes-preserve-unknown-fields": true}}}),
        );
    }
}
