//! Taking away what the schema does not name.

use serde_json::{Map, Value};

use super::{Additional, Schema};

/// A step on the way to a value.
#[derive(Clone, Debug)]
pub(crate) enum Step<'a> {
    Field(&'a str),
    Index(usize),
}

/// Who hears of what is found on the walk.
pub(crate) trait Finder {
    /// A field that the schema does not name was taken away.
    fn unknown(&mut self, path: &[Step<'_>], name: &str);
    /// The metadata of the object or of one within; it is put back as it is when this returns.
    fn metadata(&mut self, path: &[Step<'_>], metadata: &mut Value);
    /// Whether nulls stay where the schema wants a value.
    fn keeps_nulls(&self) -> bool {
        false
    }
}

/// Walks an object and takes away what is unknown, and nulls that are neither allowed nor replaced by a default. Source:
/// `PruneNonNullableNullsWithoutDefaults` of `k8s.io/apiextensions-apiserver`.
pub(crate) fn prune(object: &mut Value, schema: &Schema, finder: &mut dyn Finder) {
    walk(object, schema, &mut Vec::new(), finder);
}

fn walk<'a>(value: &mut Value, schema: &'a Schema, path: &mut Vec<Step<'a>>, finder: &mut dyn Finder) {
    match value {
        Value::Object(fields) => object(fields, schema, path, finder),
        Value::Array(items) => {
            if let Some(schema) = schema.items() {
                for (index, item) in items.iter_mut().enumerate() {
                    path.push(Step::Index(index));
                    walk(item, schema, path, finder);
                    path.pop();
                }
            }
        }
        _ => {}
    }
}

fn object<'a>(fields: &mut Map<String, Value>, schema: &'a Schema, path: &mut Vec<Step<'a>>, finder: &mut dyn Finder) {
    let mut unknown: Vec<String> = Vec::new();
    for (name, value) in fields.iter_mut() {
        if schema.is_resource() && matches!(name.as_str(), "apiVersion" | "kind") {
            continue;
        }
        if schema.is_resource() && name == "metadata" {
            path.push(Step::Field("metadata"));
            finder.metadata(path, value);
            path.pop();
            continue;
        }
        if let Ok(at) = schema.properties().binary_search_by(|(known, _)| (**known).cmp(name)) {
            let (name, below) = &schema.properties()[at];
            path.push(Step::Field(name));
            walk(value, below, path, finder);
            path.pop();
            continue;
        }
        match schema.additional() {
            Additional::Any => {}
            Additional::Schema(below) => {
                let mut own: Vec<Step<'_>> = path.clone();
                own.push(Step::Field(name));
                // The key is not the schema's, so the way below it is a list of its own.
                walk_below(value, below, own, finder);
            }
            Additional::None if schema.preserves() => {}
            Additional::None => unknown.push(name.clone()),
        }
    }
    if !finder.keeps_nulls() && fields.values().any(Value::is_null) {
        let stays = |name: &str| {
            schema.is_resource() && matches!(name, "apiVersion" | "kind" | "metadata")
                || schema.child(name).is_none_or(|below| below.is_nullable() || below.default().is_some())
        };
        fields.retain(|name, value| !value.is_null() || stays(name));
    }
    for name in unknown {
        fields.remove(&name);
        finder.unknown(path, &name);
    }
}

fn walk_below<'a>(value: &mut Value, schema: &'a Schema, mut path: Vec<Step<'a>>, finder: &mut dyn Finder) {
    walk(value, schema, &mut path, finder);
}
