//! What a value is made of, for server-side apply: which parts have owners of their own.

use kobune_kinds::{ListType, SchemaRef, Shape};
use serde_json::Value;

use crate::element::{self, Element};

/// A place in the schema, or outside of any.
#[derive(Clone, Copy)]
pub(crate) struct Lens<'a> {
    schema: Option<SchemaRef<'a>>,
    /// Whether the root is a type of Kubernetes' own. Upstream sees those as Go structs.
    builtin: bool,
}

/// How a value divides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Not at all: it has one owner.
    Leaf,
    /// Into the fields that the schema names.
    Struct,
    /// Into keys that nobody has named before.
    Map,
    /// Into items with keys.
    Keyed,
    /// Into scalars.
    Set,
}

impl<'a> Lens<'a> {
    pub(crate) fn new(schema: Option<SchemaRef<'a>>) -> Lens<'a> {
        let builtin = schema.and_then(SchemaRef::type_name).is_some_and(|name| name.starts_with("io.k8s."));
        Lens { schema, builtin }
    }

    fn at(self, schema: Option<SchemaRef<'a>>) -> Lens<'a> {
        Lens { schema, builtin: self.builtin }
    }

    /// What stands below a field's or key's name.
    pub(crate) fn child(self, name: &str) -> Lens<'a> {
        self.at(self.schema.and_then(|schema| schema.child(name)))
    }

    /// What stands below a field's or key's name; `None` where the type of a built-in kind has no such field. What other
    /// schemas do not name is left to those who know what they preserve.
    pub(crate) fn place(self, name: &str) -> Option<Lens<'a>> {
        let below = self.child(name);
        (below.schema.is_some() || !self.builtin || self.schema.is_none()).then_some(below)
    }

    /// What a value may be here.
    pub(crate) fn shape(self) -> Shape {
        self.schema.map_or(Shape::Any, SchemaRef::shape)
    }

    /// What a list's items are.
    pub(crate) fn item(self) -> Lens<'a> {
        self.at(self.schema.and_then(SchemaRef::item))
    }

    /// Whether the schema names this field: then it exists without being anyone's.
    pub(crate) fn names(self, name: &str) -> bool {
        self.schema.is_some_and(|schema| schema.shape() == Shape::Object && schema.field(name).is_some())
    }

    /// The object of a type of Kubernetes' own before anything was set in it; `None` elsewhere.
    pub(crate) fn unset(self) -> Option<Value> {
        self.schema.filter(|_| self.builtin).map(SchemaRef::empty)
    }

    /// Whether a null is an empty list or map here, as it is in Go, and no value of its own.
    pub(crate) fn null_is_empty(self) -> bool {
        self.builtin
    }

    /// How a value divides here. Where the value does not fit the schema it does not divide.
    pub(crate) fn form(self, value: &Value) -> Form {
        let atomic = self.schema.is_some_and(SchemaRef::is_atomic);
        match (value, self.schema.map(SchemaRef::shape)) {
            (Value::Object(_), _) if atomic => Form::Leaf,
            (Value::Object(_), Some(Shape::Object)) => Form::Struct,
            (Value::Object(_), Some(Shape::Map) | None) => Form::Map,
            // Content that is not described divides by its own look in custom resources only, as upstream has it.
            (Value::Object(_), Some(Shape::Any)) if !self.builtin => Form::Map,
            (Value::Array(_), Some(Shape::List)) => match self.schema.map(SchemaRef::list_type) {
                Some(ListType::Map) => Form::Keyed,
                Some(ListType::Set) => Form::Set,
                _ => Form::Leaf,
            },
            _ => Form::Leaf,
        }
    }

    /// The element of a list's item; `None` if it has none.
    pub(crate) fn element(self, form: Form, item: &Value) -> Option<Element> {
        match form {
            Form::Set => element::set_item(item),
            Form::Keyed => {
                let keys = self.schema.map_or(&[][..], SchemaRef::map_keys);
                element::keyed_item(item, keys, self.item().schema)
            }
            Form::Leaf | Form::Struct | Form::Map => None,
        }
    }

    /// The elements of a list's items; `None` if one of them has none.
    pub(crate) fn elements(self, form: Form, items: &[Value]) -> Option<Vec<Element>> {
        items.iter().map(|item| self.element(form, item)).collect()
    }

    /// The names of the keys, for messages.
    pub(crate) fn keys(self) -> Vec<&'a str> {
        self.schema.map_or(&[][..], SchemaRef::map_keys).iter().map(|key| &**key).collect()
    }
}
