//! Values of expressions. JSON is looked into only where an expression asks, and is never copied.

use std::collections::BTreeMap;
use std::rc::Rc;

use jiff::Timestamp;
use serde_json::Value as Json;

use crate::error::EvaluationError;
use crate::library::authorizer::Authorization;
use crate::library::{network, opaque::Held, time};
use crate::meter::Meter;
use crate::schema::{ListKind, Schema, Shape};
use crate::syntax::Literal;
use crate::types::Type;

/// What an operation gives.
pub type Evaluated<'a> = Result<Value<'a>, EvaluationError>;

/// A value of an expression; `'a` is how long the objects live that it was taken from.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A signed whole number.
    Int(i64),
    /// An unsigned whole number.
    Uint(u64),
    /// A floating-point number.
    Double(f64),
    /// Text.
    String(Text<'a>),
    /// Bytes.
    Bytes(Rc<[u8]>),
    /// A point in time.
    Timestamp(Timestamp),
    /// A length of time, in nanoseconds.
    Duration(i64),
    /// A list.
    List(List<'a>),
    /// A map, or an object from JSON.
    Map(Map<'a>),
    /// A type.
    Type(Type),
    /// A value that may be missing.
    Optional(Option<Rc<Value<'a>>>),
    /// An object that the expression made, or one that the program lends it.
    Object(Rc<Object<'a>>),
    /// What a library works with.
    Held(Rc<Held>),
    /// A step of an authorization check.
    Authorization(Rc<Authorization<'a>>),
    /// Fields that are worked out when they are asked for.
    Record(Rc<dyn Record<'a> + 'a>),
}

/// Fields that are worked out when they are asked for: `variables` of a policy.
pub trait Record<'a>: std::fmt::Debug {
    /// The value of a field; `None` when there is no such field. What it costs is charged to the meter.
    fn field(&self, name: &str, meter: &mut Meter) -> Option<Evaluated<'a>>;
}

/// Text, from JSON, from the source, or new.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    /// Somebody else's.
    Borrowed(&'a str),
    /// Made by an operation.
    Owned(Rc<str>),
}

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Owned(text) => text,
        }
    }
}

/// A list.
#[derive(Clone, Debug)]
pub struct List<'a> {
    pub(crate) items: Items<'a>,
    /// The schema of the whole list, where there is one.
    pub(crate) schema: Option<&'a Schema>,
}

#[derive(Clone, Debug)]
pub(crate) enum Items<'a> {
    Json(&'a [Json]),
    Owned(Rc<Vec<Value<'a>>>),
}

/// A map.
#[derive(Clone, Debug)]
pub enum Map<'a> {
    /// An object from JSON, with its schema where there is one.
    Json(&'a serde_json::Map<String, Json>, Option<&'a Schema>),
    /// Made by an operation.
    Owned(Rc<BTreeMap<Key, (Value<'a>, Value<'a>)>>),
}

/// A key in a form in which equal keys are the same: numbers by their value, whatever their type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A boolean.
    Bool(bool),
    /// A whole number of any type.
    Number(i128),
    /// Text.
    String(Box<str>),
}

/// An object that the expression made.
#[derive(Clone, Debug)]
pub struct Object<'a> {
    /// The name of its type.
    pub name: Box<str>,
    /// Its fields in the order of the source.
    pub fields: Vec<(Box<str>, Value<'a>)>,
}

impl Key {
    pub(crate) fn of(value: &Value<'_>) -> Option<Key> {
        Some(match value {
            Value::Bool(truth) => Key::Bool(*truth),
            Value::Int(number) => Key::Number(i128::from(*number)),
            Value::Uint(number) => Key::Number(i128::from(*number)),
            Value::Double(number) if number.fract() == 0.0 && number.abs() < 2e19 => Key::Number(*number as i128),
            Value::String(text) => Key::String((**text).into()),
            _ => return None,
        })
    }
}

impl<'a> List<'a> {
    pub(crate) fn owned(items: Vec<Value<'a>>) -> List<'a> {
        List { items: Items::Owned(Rc::new(items)), schema: None }
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        match &self.items {
            Items::Json(items) => items.len(),
            Items::Owned(items) => items.len(),
        }
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The item at a position.
    pub fn get(&self, index: usize) -> Option<Evaluated<'a>> {
        match &self.items {
            Items::Json(items) => {
                let item = items.get(index)?;
                Some(self.item_schema().map_or_else(|| Ok(Value::untyped(item)), |schema| Value::typed(item, schema)))
            }
            Items::Owned(items) => items.get(index).cloned().map(Ok),
        }
    }

    /// All items in order.
    pub fn iter(&self) -> impl Iterator<Item = Evaluated<'a>> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    fn item_schema(&self) -> Option<&'a Schema> {
        match self.schema?.shape() {
            Shape::List(items, _) => Some(items),
            _ => None,
        }
    }

    pub(crate) fn kind(&self) -> &'a ListKind {
        match self.schema.map(Schema::shape) {
            Some(Shape::List(_, kind)) => kind,
            _ => &ListKind::Atomic,
        }
    }
}

impl<'a> Map<'a> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        match self {
            Map::Json(entries, _) => entries.len(),
            Map::Owned(entries) => entries.len(),
        }
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a text key. Fields of JSON objects with a schema go by the names that expressions use.
    pub fn field(&self, name: &str) -> Option<Evaluated<'a>> {
        match self {
            Map::Json(entries, None) => entries.get(name).map(|value| Ok(Value::untyped(value))),
            Map::Json(entries, Some(schema)) => match schema.shape() {
                Shape::Object(fields) => {
                    let field = fields.get(name)?;
                    entries.get(&*field.name).map(|value| Value::typed(value, &field.schema))
                }
                Shape::Map(values) => entries.get(name).map(|value| Value::typed(value, values)),
                _ => None,
            },
            Map::Owned(entries) => entries.get(&Key::String(name.into())).map(|(_, value)| Ok(value.clone())),
        }
    }

    pub(crate) fn get(&self, key: &Value<'_>) -> Option<Evaluated<'a>> {
        match (self, key) {
            (_, Value::String(name)) => self.field(name),
            (Map::Json(..), _) => None,
            (Map::Owned(entries), key) => entries.get(&Key::of(key)?).map(|(_, value)| Ok(value.clone())),
        }
    }

    /// The keys, in no particular order.
    pub fn keys(&self) -> Vec<Value<'a>> {
        match self {
            Map::Json(entries, schema) => match schema.map(Schema::shape) {
                Some(Shape::Object(fields)) => fields
                    .iter()
                    .filter(|(_, field)| entries.contains_key(&*field.name))
                    .map(|(name, _)| Value::String(Text::Borrowed(name)))
                    .collect(),
                _ => entries.keys().map(|key| Value::String(Text::Borrowed(key))).collect(),
            },
            Map::Owned(entries) => entries.values().map(|(key, _)| key.clone()).collect(),
        }
    }
}

impl<'a> Value<'a> {
    /// New text.
    pub fn text(text: impl Into<Rc<str>>) -> Value<'a> {
        Value::String(Text::Owned(text.into()))
    }

    /// A list of values.
    pub fn list(items: Vec<Value<'a>>) -> Value<'a> {
        Value::List(List::owned(items))
    }

    /// JSON of which nothing is known: numbers are whole if they are written so, strings stay strings.
    pub fn untyped(json: &'a Json) -> Value<'a> {
        match json {
            Json::Null => Value::Null,
            Json::Bool(truth) => Value::Bool(*truth),
            Json::Number(number) => match number.as_i64() {
                Some(whole) => Value::Int(whole),
                None => Value::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::String(Text::Borrowed(text)),
            Json::Array(items) => Value::List(List { items: Items::Json(items), schema: None }),
            Json::Object(entries) => Value::Map(Map::Json(entries, None)),
        }
    }

    /// JSON by its schema. What does not fit the schema is an error.
    pub fn typed(json: &'a Json, schema: &'a Schema) -> Evaluated<'a> {
        let invalid = |wanted: &str| {
            Err(EvaluationError::failed(format!("invalid data, expected {wanted} type but got {}", sort_of(json))))
        };
        let text = |read: &dyn Fn(&str) -> Evaluated<'a>| match json {
            Json::String(text) => read(text),
            _ => invalid("string"),
        };
        if json.is_null() && !matches!(schema.shape(), Shape::Dynamic) {
            if schema.is_nullable() {
                return Ok(Value::Null);
            }
            return Err(EvaluationError::failed("invalid data, got null for schema with nullable=false"));
        }
        match (schema.shape(), json) {
            (Shape::Dynamic, _) => Ok(Value::untyped(json)),
            (Shape::IntOrString, Json::String(_) | Json::Number(_)) => Ok(Value::untyped(json)),
            (Shape::IntOrString, _) => invalid("int or string"),
            (Shape::Bool, Json::Bool(truth)) => Ok(Value::Bool(*truth)),
            (Shape::Bool, _) => invalid("bool"),
            (Shape::Int, Json::Number(number)) => match (number.as_i64(), number.as_f64()) {
                (Some(whole), _) => Ok(Value::Int(whole)),
                (None, Some(number)) if number.fract() == 0.0 && number.abs() < 9.2e18 => Ok(Value::Int(number as i64)),
                _ => invalid("int"),
            },
            (Shape::Int, _) => invalid("int"),
            (Shape::Double, Json::Number(number)) => Ok(Value::Double(number.as_f64().unwrap_or(f64::NAN))),
            (Shape::Double, _) => invalid("double"),
            (Shape::String, Json::String(text)) => Ok(Value::String(Text::Borrowed(text))),
            (Shape::String, _) => invalid("string"),
            (Shape::Bytes, _) => text(&|text| {
                network::base64(text)
                    .map(|bytes| Value::Bytes(bytes.into()))
                    .ok_or_else(|| EvaluationError::failed("invalid data, byte format string is no base64"))
            }),
            (Shape::Duration, _) => text(&|text| time::parse_duration(text).map(Value::Duration)),
            (Shape::Timestamp, _) => text(&|text| time::parse_timestamp(text).map(Value::Timestamp)),
            (Shape::Date, _) => text(&|text| time::parse_date(text).map(Value::Timestamp)),
            (Shape::List(..), Json::Array(items)) => {
                Ok(Value::List(List { items: Items::Json(items), schema: Some(schema) }))
            }
            (Shape::List(..), _) => invalid("array"),
            (Shape::Map(_) | Shape::Object(_), Json::Object(entries)) => {
                Ok(Value::Map(Map::Json(entries, Some(schema))))
            }
            (Shape::Map(_) | Shape::Object(_), _) => invalid("map"),
        }
    }

    pub(crate) fn literal(literal: &'a Literal) -> Value<'a> {
        match literal {
            Literal::Null => Value::Null,
            Literal::Bool(truth) => Value::Bool(*truth),
            Literal::Int(number) => Value::Int(*number),
            Literal::Uint(number) => Value::Uint(*number),
            Literal::Double(number) => Value::Double(*number),
            Literal::String(text) => Value::String(Text::Borrowed(text)),
            Literal::Bytes(bytes) => Value::Bytes(Rc::from(&**bytes)),
        }
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The truth, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(truth) => Some(*truth),
            _ => None,
        }
    }

    /// The type that `type()` gives.
    pub fn type_of(&self) -> Type {
        match self {
            Value::Null => Type::Null,
            Value::Bool(_) => Type::Bool,
            Value::Int(_) => Type::Int,
            Value::Uint(_) => Type::Uint,
            Value::Double(_) => Type::Double,
            Value::String(_) => Type::String,
            Value::Bytes(_) => Type::Bytes,
            Value::Timestamp(_) => Type::Timestamp,
            Value::Duration(_) => Type::Duration,
            Value::List(_) => Type::list(Type::Dyn),
            Value::Map(Map::Json(_, Some(schema))) => schema.declared().clone(),
            Value::Map(_) | Value::Record(_) => Type::map(Type::Dyn, Type::Dyn),
            Value::Type(_) => Type::Type(None),
            Value::Optional(_) => Type::optional(Type::Dyn),
            Value::Object(object) => Type::object(&object.name, []),
            Value::Held(held) => Type::Opaque(held.kind()),
            Value::Authorization(step) => Type::Opaque(step.kind()),
        }
    }
}

fn sort_of(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "bool",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }
}
