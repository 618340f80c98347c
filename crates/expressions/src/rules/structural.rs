//! The schema of a definition as expressions see it.

use std::sync::Arc;

use serde_json::{Map, Value as Json};

use crate::schema::{ListKind, Property, Schema};

fn flag(fields: &Json, name: &str) -> bool {
    fields[name].as_bool().unwrap_or(false)
}

/// How a list's items are told apart.
pub(super) fn list_kind(fields: &Json) -> ListKind {
    match fields["x-kubernetes-list-type"].as_str() {
        Some("set") => ListKind::Set,
        Some("map") => {
            let keys = fields["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
            ListKind::Map(keys.filter_map(Json::as_str).map(Box::from).collect())
        }
        _ => ListKind::Atomic,
    }
}

/// The schema of a value; `None` for what expressions cannot see. Whole resources always have `apiVersion`, `kind` and
/// their names.
pub(super) fn schema(fields: &Json, resource: bool, name: &str) -> Option<Arc<Schema>> {
    let schema = shape(fields, resource, name)?;
    Some(Arc::new(schema.nullable(flag(fields, "nullable"))))
}

fn shape(fields: &Json, resource: bool, name: &str) -> Option<Schema> {
    let limit = |field: &str| fields[field].as_i64().map(|limit| u64::try_from(limit).unwrap_or(0));
    if flag(fields, "x-kubernetes-int-or-string") {
        let schema = Schema::int_or_string();
        return Some(limit("maxLength").map_or(schema.clone(), |most| schema.max_length(most)));
    }
    let embedded = |fields: &Json| flag(fields, "x-kubernetes-embedded-resource");
    let kind = fields["type"].as_str().unwrap_or_default();
    match kind {
        "array" => {
            let items = fields.get("items").filter(|items| items.is_object())?;
            let items = schema(items, embedded(items), &format!("{name}.@items"))?;
            Some(Schema::list(items, list_kind(fields), limit("maxItems")))
        }
        "object" => match fields.get("additionalProperties").filter(|values| values.is_object()) {
            Some(values) if !resource => {
                let values = schema(values, embedded(values), &format!("{name}.@values"))?;
                Some(Schema::map(values, limit("maxProperties")))
            }
            _ => Some(object(fields, resource, name)),
        },
        _ => {
            let format = fields["format"].as_str().unwrap_or_default();
            let schema = Schema::scalar(kind, format)?;
            Some(match (limit("maxLength"), longest_allowed(fields)) {
                (Some(most), _) => schema.max_length(most),
                (None, Some(longest)) if kind == "string" && format.is_empty() => schema.at_most(longest),
                _ => schema,
            })
        }
    }
}

fn longest_allowed(fields: &Json) -> Option<u64> {
    let allowed = fields["enum"].as_array().filter(|allowed| !allowed.is_empty())?;
    allowed.iter().map(|value| value.as_str().map_or(0, str::len) as u64).max()
}

fn object(fields: &Json, resource: bool, name: &str) -> Schema {
    let none = Map::new();
    let given = fields["properties"].as_object().unwrap_or(&none);
    let is_required = |name: &str| {
        fields["required"].as_array().into_iter().flatten().any(|required| required.as_str() == Some(name))
    };
    let text = || Schema::scalar("string", "").map(Arc::new);
    let mut properties = Vec::new();
    for (field, inner) in given {
        if resource && matches!(field.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        let embedded = flag(inner, "x-kubernetes-embedded-resource");
        let Some(schema) = schema(inner, embedded, &format!("{name}.{field}")) else { continue };
        let always_given = is_required(field) && inner.get("default").is_none();
        properties.push(Property { name: field.clone(), schema, always_given });
    }
    if resource && let Some(text) = text() {
        let field = |name: &str, schema: &Arc<Schema>| Property {
            name: name.to_owned(),
            schema: Arc::clone(schema),
            always_given: false,
        };
        let names = [field("name", &text), field("generateName", &text)];
        let metadata = Arc::new(Schema::object(&format!("{name}.metadata"), names));
        properties.extend([field("apiVersion", &text), field("kind", &text), field("metadata", &metadata)]);
    }
    Schema::object(name, properties)
}
