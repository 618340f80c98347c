//! Defaults of custom resources.

use serde_json::Value;

use super::Schema;

/// Puts the schema's defaults where values are absent, or null where null is not allowed.
pub(crate) fn set(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(fields) => {
            for (name, property) in schema.properties() {
                if let Some(default) = property.default() {
                    let absent = match fields.get(&**name) {
                        None => true,
                        Some(Value::Null) => !property.is_nullable(),
                        Some(_) => false,
                    };
                    if absent {
                        fields.insert(name.to_string(), default.clone());
                    }
                }
            }
            for (name, value) in fields.iter_mut() {
                // Metadata has its own type, here and in objects within.
                if schema.is_resource() && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                    continue;
                }
                if let Some(below) = schema.child(name) {
                    if value.is_null()
                        && !below.is_nullable()
                        && let Some(default) = below.default()
                    {
                        *value = default.clone();
                    }
                    set(value, below);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.items() {
                for item in items {
                    if item.is_null()
                        && !schema.is_nullable()
                        && let Some(default) = schema.default()
                    {
                        *item = default.clone();
                    }
                    set(item, schema);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn absent_and_null_values_get_defaults() {
        let schema = Schema::root(&json!({"type": "object", "properties": {
            "a": {"type": "integer", "default": 1},
            "n": {"type": "integer", "default": 1, "nullable": true},
            "o": {"type": "object", "default": {}, "properties": {"b": {"type": "string", "default": "x"}}},
            "l": {"type": "array", "items": {"type": "object", "properties": {"c": {"type": "boolean", "default": true}}}},
            "m": {"type": "object", "additionalProperties": {"type": "object", "properties": {"d": {"type": "integer", "default": 0}}}},
        }}));
        let check = |mut object: Value, expected: Value| {
            set(&mut object, &schema);
            assert_eq!(object, expected);
        };
        check(json!({}), json!({"a": 1, "n": 1, "o": {"b": "x"}}));
        check(
            json!({"a": null, "n": null, "o": {"b": "y"}, "l": [{}, {"c": false}], "m": {"k": {}}}),
            json!({"a": 1, "n": null, "o": {"b": "y"}, "l": [{"c": true}, {"c": false}], "m": {"k": {"d": 0}}}),
        );
    }
}
