//! The definitions of types: those that are referred to, and what these refer to in turn.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::catalogue::{Catalogue, type_name};
use crate::custom::Custom;
use crate::kind::Kind;
use crate::schema::{ListType, SchemaRef, Shape, Types, descriptions};

/// Which of the two specifications a document follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Swagger 2.0.
    V2,
    /// OpenAPI 3.0.
    V3,
}

pub(super) const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
pub(super) const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

/// A group, version and kind as extensions name it.
pub(super) fn group_version_kind(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

/// The definitions that one document needs so far.
pub(super) struct Definitions {
    pub(super) dialect: Dialect,
    prose: Vec<String>,
    kinds: BTreeMap<String, Vec<Value>>,
    /// The kinds that come from CustomResourceDefinitions, by the names of their types.
    custom: BTreeMap<String, Arc<Kind>>,
    done: Map<String, Value>,
    pending: BTreeSet<String>,
}

impl Definitions {
    pub(super) fn new(catalogue: &Catalogue, dialect: Dialect) -> Definitions {
        let mut kinds: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        let mut add = |name: String, group: &str, version: &str, kind: &str| {
            let entries = kinds.entry(name).or_default();
            let entry = group_version_kind(group, version, kind);
            if !entries.contains(&entry) {
                entries.push(entry);
            }
        };
        for kind in catalogue.kinds() {
            add(kind.type_name(), &kind.group, &kind.version, &kind.kind);
            // Every group and version takes these.
            add(DELETE_OPTIONS.to_owned(), &kind.group, &kind.version, "DeleteOptions");
            for sub in kind.subresources.iter().filter(|sub| sub.group != kind.group || kind.custom().is_none()) {
                add(type_name(&sub.group, &sub.version, &sub.kind), &sub.group, &sub.version, &sub.kind);
            }
        }
        add(STATUS.to_owned(), "", "v1", "Status");
        let custom = catalogue.kinds().iter().filter(|kind| kind.custom().is_some());
        let custom = custom.map(|kind| (kind.type_name(), Arc::clone(kind))).collect();
        Definitions { dialect, prose: descriptions(), kinds, custom, done: Map::new(), pending: BTreeSet::new() }
    }

    fn link(&mut self, name: &str) -> Value {
        if !self.done.contains_key(name) {
            self.pending.insert(name.to_owned());
        }
        match self.dialect {
            Dialect::V2 => Value::from(format!("#/definitions/{name}")),
            Dialect::V3 => Value::from(format!("#/components/schemas/{name}")),
        }
    }

    /// A reference to a type, which is rendered in the end.
    pub(super) fn reference(&mut self, name: &str) -> Value {
        let link = self.link(name);
        json!({"$ref": link})
    }

    /// A reference to the type of a kind's lists. The table has no such types: all of them are alike.
    pub(super) fn list(&mut self, kind: &Kind) -> Value {
        let own = kind.type_name();
        let name = format!("{}{}", &own[..own.len() - kind.kind.len()], kind.list_kind);
        let item = self.used_type(&own);
        let mut metadata = self.used_type(LIST_META);
        metadata.insert("description".to_owned(), "Standard list metadata.".into());
        let text = |description: &str| json!({"type": "string", "description": description});
        let definition = json!({
            "type": "object",
            "description": format!("{} is a list of {} objects.", kind.list_kind, kind.kind),
            "required": ["items"],
            "properties": {
                "apiVersion": text("APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values."),
                "kind": text("Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase."),
                "items": {"type": "array", "description": format!("List of {}.", kind.plural), "items": item},
                "metadata": metadata,
            },
            "x-kubernetes-group-version-kind": [group_version_kind(&kind.group, &kind.version, &kind.list_kind)],
        });
        self.done.insert(name.clone(), definition);
        self.reference(&name)
    }

    /// Renders all that is referred to.
    pub(super) fn finish(mut self) -> Map<String, Value> {
        while let Some(name) = self.pending.pop_first() {
            let custom = self.custom.get(&name).cloned();
            if let Some((kind, custom)) = custom.as_ref().and_then(|kind| Some((kind, kind.custom()?))) {
                let definition = self.custom_definition(kind, custom);
                self.done.insert(name, definition);
            } else if let Some(schema) = Types::builtin().named(&name) {
                // Entered first: types that contain themselves end here.
                self.done.insert(name.clone(), Value::Null);
                let definition = self.definition(&name, schema);
                self.done.insert(name, definition);
            }
        }
        self.done
    }

    /// The type of a kind that comes from a CustomResourceDefinition.
    fn custom_definition(&mut self, kind: &Kind, custom: &Custom) -> Value {
        let mut definition = match custom.schema_text() {
            Some(text) if self.dialect == Dialect::V3 || text["x-kubernetes-preserve-unknown-fields"] != true => {
                let mut schema = super::custom::schema(text, self.dialect);
                let metadata = Value::Object(self.used_type(OBJECT_META));
                super::custom::complete(&mut schema, &metadata, self.dialect);
                schema
            }
            // Properties beside unknown ones would make kubectl refuse the unknown ones.
            _ => json!({"type": "object"}),
        };
        let own = group_version_kind(&kind.group, &kind.version, &kind.kind);
        definition["x-kubernetes-group-version-kind"] = json!([own]);
        definition
    }

    fn describe(&self, position: usize) -> Option<Value> {
        self.prose.get(position).filter(|text| !text.is_empty()).map(|text| Value::from(text.as_str()))
    }

    fn definition(&mut self, name: &str, schema: SchemaRef<'_>) -> Value {
        let mut definition = self.body(schema);
        // These take any JSON, not only objects.
        if matches!(name.rsplit('.').next(), Some("JSON" | "CustomResourceSubresourceStatus")) {
            definition.remove("type");
        }
        let position = schema.type_description();
        if let Some(text) = position.and_then(|position| self.describe(position)) {
            definition.insert("description".to_owned(), text);
        }
        if schema.is_atomic() {
            definition.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
        }
        if let Some(kinds) = self.kinds.get(name) {
            definition.insert("x-kubernetes-group-version-kind".to_owned(), Value::Array(kinds.clone()));
        }
        if schema.shape() == Shape::Object {
            let mut properties = Map::new();
            let mut required = Vec::new();
            for (at, (name, field)) in schema.fields().enumerate() {
                let text = position.and_then(|position| self.describe(position + 1 + at));
                properties.insert(name.to_owned(), Value::Object(self.field(field, text)));
                if field.required() {
                    required.push(Value::from(name));
                }
            }
            if !properties.is_empty() {
                definition.insert("properties".to_owned(), Value::Object(properties));
            }
            if !required.is_empty() {
                definition.insert("required".to_owned(), Value::Array(required));
            }
        }
        Value::Object(definition)
    }

    fn field(&mut self, field: SchemaRef<'_>, text: Option<Value>) -> Map<String, Value> {
        let mut value = self.used(field);
        let mut set = |name: &str, fact: Value| value.insert(name.to_owned(), fact);
        if let Some(text) = text {
            set("description", text);
        }
        if let (Dialect::V3, Some(default)) = (self.dialect, field.default()) {
            set("default", default.clone());
        }
        if field.states_list_type() {
            let list_type = match field.list_type() {
                ListType::Atomic => "atomic",
                ListType::Set => "set",
                ListType::Map => "map",
            };
            set("x-kubernetes-list-type", list_type.into());
        }
        if !field.map_keys().is_empty() {
            set("x-kubernetes-list-map-keys", field.map_keys().iter().map(|key| Value::from(&**key)).collect());
        }
        if field.states_atomic() {
            set("x-kubernetes-map-type", "atomic".into());
        }
        let strategy = field.patch_strategy();
        let words: Vec<&str> =
            [(strategy.merge, "merge"), (strategy.replace, "replace"), (strategy.retain_keys, "retainKeys")]
                .into_iter()
                .filter_map(|(holds, word)| holds.then_some(word))
                .collect();
        if !words.is_empty() {
            set("x-kubernetes-patch-strategy", words.join(",").into());
        }
        if let Some(key) = field.patch_merge_key() {
            set("x-kubernetes-patch-merge-key", key.into());
        }
        value
    }

    /// A value as a field, list or map uses it: named types by reference.
    fn used(&mut self, schema: SchemaRef<'_>) -> Map<String, Value> {
        match schema.type_name() {
            Some(name) => self.used_type(name),
            None => self.body(schema),
        }
    }

    /// Version 3 forbids other words beside a reference, so it stands in an `allOf`.
    fn used_type(&mut self, name: &str) -> Map<String, Value> {
        let reference = self.reference(name);
        match reference {
            Value::Object(map) if self.dialect == Dialect::V2 => map,
            reference => Map::from_iter([("allOf".to_owned(), Value::Array(vec![reference]))]),
        }
    }

    fn body(&mut self, schema: SchemaRef<'_>) -> Map<String, Value> {
        let item = |this: &mut Self| schema.item().map(|item| this.used(item)).unwrap_or_default();
        let value = match schema.shape() {
            Shape::Object | Shape::Any => json!({"type": "object"}),
            Shape::Map => json!({"type": "object", "additionalProperties": item(self)}),
            Shape::List => json!({"type": "array", "items": item(self)}),
            Shape::String => json!({"type": "string"}),
            Shape::Integer => json!({"type": "integer", "format": "int32"}),
            Shape::Long => json!({"type": "integer", "format": "int64"}),
            Shape::Number => json!({"type": "number", "format": "double"}),
            Shape::Boolean => json!({"type": "boolean"}),
            Shape::Bytes => json!({"type": "string", "format": "byte"}),
            Shape::Time | Shape::MicroTime => json!({"type": "string", "format": "date-time"}),
            Shape::Quantity if self.dialect == Dialect::V3 => {
                json!({"oneOf": [{"type": "string"}, {"type": "number"}]})
            }
            Shape::Quantity => json!({"type": "string"}),
            Shape::IntOrString if self.dialect == Dialect::V3 => {
                json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"})
            }
            Shape::IntOrString => json!({"type": "string", "format": "int-or-string"}),
            Shape::Union => json!({}),
        };
        match value {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }
}
