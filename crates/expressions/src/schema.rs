//! What is known of values before they are there: shapes, formats, sizes.
//!
//! A schema serves three purposes: it gives the checker a [`Type`], the cost estimate the greatest sizes, and the
//! evaluator the meaning of JSON (is this string a time, is this list a set?).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::names::{self, escape};
use crate::types::{ObjectType, Type};

/// The greatest request that upstream's estimates assume, in bytes. It is fixed, whatever the server's own limit.
pub const LARGEST_REQUEST: u64 = 3 * 1024 * 1024;

/// How a list's items are told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListKind {
    /// By their position.
    #[default]
    Atomic,
    /// By their value.
    Set,
    /// By the values of these fields.
    Map(Vec<Box<str>>),
}

/// What a value may be.
#[derive(Clone, Debug)]
pub enum Shape {
    /// Anything.
    Dynamic,
    /// A whole number or a string.
    IntOrString,
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Int,
    /// A number.
    Double,
    /// A string.
    String,
    /// A string that stands for bytes, in base64.
    Bytes,
    /// A string that stands for a length of time.
    Duration,
    /// A string that stands for a point in time.
    Timestamp,
    /// A string that stands for a day.
    Date,
    /// A list.
    List(Arc<Schema>, ListKind),
    /// An object with values of one schema.
    Map(Arc<Schema>),
    /// An object with fields, by the names that expressions use.
    Object(BTreeMap<Box<str>, Field>),
}

/// A declared field of an object.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its name in JSON.
    pub name: Box<str>,
    /// Its values.
    pub schema: Arc<Schema>,
}

/// A field for [`Schema::object`].
#[derive(Clone, Debug)]
pub struct Property {
    /// Its name in JSON.
    pub name: String,
    /// Its values.
    pub schema: Arc<Schema>,
    /// Whether it is always there because clients must give it: required, without default.
    pub always_given: bool,
}

/// What is known of a value.
#[derive(Clone, Debug)]
pub struct Schema {
    shape: Shape,
    nullable: bool,
    largest: Option<u64>,
    smallest_json: u64,
    declared: Type,
}

impl Schema {
    fn new(shape: Shape, declared: Type, smallest_json: u64) -> Schema {
        Schema { shape, nullable: false, largest: None, smallest_json, declared }
    }

    /// Anything: checked only when it is evaluated.
    pub fn dynamic() -> Schema {
        Schema::new(Shape::Dynamic, Type::Dyn, 1)
    }

    /// A value without parts, by OpenAPI's `type` and `format`; `None` for what is none.
    pub fn scalar(kind: &str, format: &str) -> Option<Schema> {
        let text = LARGEST_REQUEST - 2;
        Some(match (kind, format) {
            ("boolean", _) => Schema::new(Shape::Bool, Type::Bool, 4),
            ("integer", _) => Schema::new(Shape::Int, Type::Int, 1),
            ("number", _) => Schema::new(Shape::Double, Type::Double, 1),
            ("string", "byte") => Schema::new(Shape::Bytes, Type::Bytes, 2).at_most(text),
            ("string", "duration") => Schema::new(Shape::Duration, Type::Duration, 3).at_most(32),
            ("string", "date") => Schema::new(Shape::Date, Type::Timestamp, 12).at_most(12),
            ("string", "date-time") => Schema::new(Shape::Timestamp, Type::Timestamp, 21).at_most(32),
            ("string", _) => Schema::new(Shape::String, Type::String, 2).at_most(text),
            _ => return None,
        })
    }

    /// A value that is a whole number or a string.
    pub fn int_or_string() -> Schema {
        Schema::new(Shape::IntOrString, Type::Dyn, 1).at_most(LARGEST_REQUEST - 2)
    }

    /// A list. Without a limit of its own the largest request bounds it.
    pub fn list(items: Arc<Schema>, kind: ListKind, max_items: Option<u64>) -> Schema {
        let declared = Type::list(items.declared.clone());
        let largest = max_items.unwrap_or_else(|| (LARGEST_REQUEST - 2) / (items.smallest_json + 1));
        Schema::new(Shape::List(items, kind), declared, 2).at_most(largest)
    }

    /// An object whose values are of one schema, whatever their keys.
    pub fn map(values: Arc<Schema>, max_properties: Option<u64>) -> Schema {
        let declared = Type::map(Type::String, values.declared.clone());
        let largest = max_properties.unwrap_or_else(|| (LARGEST_REQUEST - 2) / (values.smallest_json + 6));
        Schema::new(Shape::Map(values), declared, 2).at_most(largest)
    }

    /// An object with declared fields. The name tells its type from others; fields that expressions cannot name are
    /// left out.
    pub fn object(name: &str, properties: impl IntoIterator<Item = Property>) -> Schema {
        let mut fields = BTreeMap::new();
        let mut types = BTreeMap::new();
        let mut smallest = 2;
        for property in properties {
            if property.always_given {
                smallest += property.name.len() as u64 + property.schema.smallest_json + 4;
            }
            let Some(escaped) = escape(&property.name) else { continue };
            let escaped: Box<str> = escaped.into();
            types.insert(escaped.clone(), property.schema.declared.clone());
            fields.insert(escaped, Field { name: property.name.into(), schema: property.schema });
        }
        let declared = Type::Object(Arc::new(ObjectType { name: name.into(), fields: types, open: false }));
        Schema::new(Shape::Object(fields), declared, smallest)
    }

    /// With a bound on its size: characters, bytes, items or properties.
    #[must_use]
    pub fn at_most(mut self, largest: u64) -> Schema {
        self.largest = Some(largest);
        self
    }

    /// With OpenAPI's `maxLength`, which counts characters where estimates count bytes.
    #[must_use]
    pub fn max_length(self, characters: u64) -> Schema {
        match self.shape {
            Shape::String | Shape::IntOrString => self.at_most(characters.saturating_mul(4)),
            Shape::Bytes => self.at_most(characters),
            _ => self,
        }
    }

    /// Where `null` is allowed.
    #[must_use]
    pub fn nullable(mut self, nullable: bool) -> Schema {
        self.nullable = nullable;
        self
    }

    /// The type of the value.
    pub fn declared(&self) -> &Type {
        &self.declared
    }

    /// What the value may be.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Whether `null` is allowed.
    pub fn is_nullable(&self) -> bool {
        self.nullable
    }

    /// The greatest size: characters, bytes, items or properties.
    pub fn largest(&self) -> Option<u64> {
        self.largest
    }

    /// The length of the shortest JSON that the value can be.
    pub fn smallest_json(&self) -> u64 {
        self.smallest_json
    }

    /// The schema of a declared field, by the name that expressions use.
    pub fn field(&self, escaped: &str) -> Option<&Field> {
        match &self.shape {
            Shape::Object(fields) => fields.get(escaped).or_else(|| fields.get(&*names::kept(escaped)?)),
            _ => None,
        }
    }
}
