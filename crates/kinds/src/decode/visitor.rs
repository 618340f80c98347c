//! The visitor that walks a body and the schema side by side.

use std::fmt;

use base64::Engine as _;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::FieldValidation;
use crate::quantity;
use crate::schema::{SchemaRef, Shape};

/// What one pass gathers.
pub(super) struct State<'a> {
    /// Unknown and duplicate fields, in upstream's words, in the order of the body.
    pub(super) findings: Vec<String>,
    /// Why the body is refused: the words of a type error, which serde's own error would hide behind a line number.
    pub(super) failure: Option<String>,
    collect: bool,
    pub(super) path: Vec<Step<'a>>,
}

pub(super) enum Step<'a> {
    Field(&'a str),
    Index(usize),
    Key(String),
}

impl<'a> State<'a> {
    pub(super) fn new(mode: FieldValidation) -> State<'a> {
        State { findings: Vec::new(), failure: None, collect: mode != FieldValidation::Ignore, path: Vec::new() }
    }

    /// What happens on what is found.
    pub(super) fn mode(&self) -> FieldValidation {
        if self.collect { FieldValidation::Warn } else { FieldValidation::Ignore }
    }

    /// The place as findings write it, with indices.
    fn place(&self, last: &str) -> String {
        let mut text = String::new();
        for step in &self.path {
            match step {
                Step::Index(index) => text.push_str(&format!("[{index}]")),
                Step::Field(name) => push_name(&mut text, name),
                Step::Key(name) => push_name(&mut text, name),
            }
        }
        push_name(&mut text, last);
        text
    }

    /// The place as type errors write it: Go's decoder knows neither indices nor keys.
    fn go_path(&self) -> String {
        let mut text = String::new();
        for step in &self.path {
            if let Step::Field(name) = step {
                push_name(&mut text, name);
            }
        }
        text
    }

    pub(super) fn find(&mut self, what: &str, name: &str) {
        // Upstream stops counting too: a body of nonsense should not make a message of megabytes.
        if self.collect && self.findings.len() < 100 {
            let place = self.place(name);
            let finding = format!("{what} field {place:?}");
            if !self.findings.contains(&finding) {
                self.findings.push(finding);
            }
        }
    }
}

fn push_name(text: &mut String, name: &str) {
    if !text.is_empty() {
        text.push('.');
    }
    text.push_str(name);
}

/// A place in the schema that reads the value standing there.
pub(super) struct Seed<'s, 'a> {
    state: &'s mut State<'a>,
    schema: SchemaRef<'a>,
    shape: Shape,
    /// The Go name of the struct that the value is in.
    parent: &'a str,
}

fn short(type_name: Option<&str>) -> &str {
    type_name.and_then(|name| name.rsplit('.').next()).unwrap_or("")
}

/// The Go type that upstream's message would name.
fn go_type(schema: SchemaRef<'_>) -> String {
    let item = || schema.item().map(go_type).unwrap_or_default();
    match schema.shape() {
        Shape::String => "string".to_owned(),
        Shape::Integer => "int32".to_owned(),
        Shape::Long => "int64".to_owned(),
        Shape::Number => "float64".to_owned(),
        Shape::Boolean => "bool".to_owned(),
        Shape::Bytes => "[]uint8".to_owned(),
        Shape::List => format!("[]{}", item()),
        Shape::Map => format!("map[string]{}", item()),
        Shape::Quantity => "resource.Quantity".to_owned(),
        Shape::IntOrString => "intstr.IntOrString".to_owned(),
        _ => {
            let name = schema.type_name().unwrap_or_default();
            let mut parts = name.rsplit('.');
            let (last, package) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            format!("{package}.{last}")
        }
    }
}

impl<'s, 'a> Seed<'s, 'a> {
    pub(super) fn new(state: &'s mut State<'a>, schema: SchemaRef<'a>) -> Seed<'s, 'a> {
        Seed { state, schema, shape: schema.shape(), parent: "" }
    }

    fn below(state: &'s mut State<'a>, schema: SchemaRef<'a>, parent: &'a str) -> Seed<'s, 'a> {
        Seed { state, schema, shape: schema.shape(), parent }
    }

    fn fail<E: Error>(self, message: String) -> E {
        let error = E::custom(&message);
        self.state.failure.get_or_insert(message);
        error
    }

    /// The error for a value of a type that does not belong here; `found` is Go's word for it.
    fn mismatch<E: Error>(self, found: &str) -> E {
        let path = self.state.go_path();
        let message = match self.shape {
            // These have readers of their own upstream, which know nothing of the field.
            Shape::Time | Shape::MicroTime => format!("json: cannot unmarshal {found} into Go value of type string"),
            Shape::IntOrString => format!("json: cannot unmarshal {found} into Go value of type int32"),
            Shape::Quantity => quantity::QuantityError::Format.to_string(),
            _ if path.is_empty() => {
                format!("json: cannot unmarshal {found} into Go value of type {}", go_type(self.schema))
            }
            _ => format!(
                "json: cannot unmarshal {found} into Go struct field {}.{path} of type {}",
                self.parent,
                go_type(self.schema)
            ),
        };
        self.fail(message)
    }

    fn text<E: Error>(self, text: &str, owned: Option<String>) -> Result<Value, E> {
        let keep = || owned.unwrap_or_else(|| text.to_owned());
        match self.shape {
            Shape::String | Shape::IntOrString | Shape::Union => Ok(Value::String(keep())),
            Shape::Quantity => match quantity::canonical(text) {
                Ok(canonical) => Ok(Value::String(canonical)),
                Err(error) => Err(self.fail(error.to_string())),
            },
            Shape::Time | Shape::MicroTime => match canonical_time(text, self.shape) {
                Some(canonical) => Ok(Value::String(canonical)),
                None => {
                    let layout = if self.shape == Shape::Time { "05" } else { "05.000000" };
                    let layout = format!("2006-01-02T15:04:{layout}Z07:00");
                    Err(self.fail(format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\"")))
                }
            },
            Shape::Bytes => {
                let joined: String = match text.contains(['\r', '\n']) {
                    true => text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect(),
                    false => keep(),
                };
                match base64::engine::general_purpose::STANDARD.decode(&joined) {
                    Ok(_) => Ok(Value::String(joined)),
                    Err(error) => {
                        // Go counts to the first byte of the group that it could not read, or to the wrong letter.
                        let at = match error {
                            base64::DecodeError::InvalidByte(at, _) => at,
                            base64::DecodeError::InvalidLastSymbol(at, _) => at,
                            _ => joined.len() / 4 * 4,
                        };
                        Err(self.fail(format!("illegal base64 data at input byte {at}")))
                    }
                }
            }
            _ => Err(self.mismatch("string")),
        }
    }

    fn whole<E: Error>(self, number: Number) -> Result<Value, E> {
        let narrow = number.as_i64().is_some_and(|value| i32::try_from(value).is_ok());
        match self.shape {
            Shape::Integer | Shape::IntOrString if narrow => Ok(Value::Number(number)),
            Shape::Long if number.is_i64() => Ok(Value::Number(number)),
            Shape::Number | Shape::Union => Ok(Value::Number(number)),
            Shape::Quantity => self.text(&number.to_string(), None),
            Shape::Integer | Shape::Long | Shape::IntOrString => Err(self.mismatch(&format!("number {number}"))),
            _ => Err(self.mismatch("number")),
        }
    }

    /// What Go's decoder leaves where a list or map has a null.
    fn zero(schema: SchemaRef<'_>) -> Value {
        match schema.shape() {
            Shape::Object => schema.empty(),
            Shape::String | Shape::Bytes => Value::from(""),
            Shape::Quantity => Value::from("0"),
            Shape::Integer | Shape::Long | Shape::Number | Shape::IntOrString => Value::from(0),
            Shape::Boolean => Value::from(false),
            _ => Value::Null,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.shape {
            Shape::Any => serde::Deserialize::deserialize(deserializer),
            _ => deserializer.deserialize_any(self),
        }
    }
}

/// A field's key: looked up while it is still borrowed from the body.
enum Key<'a> {
    Known(&'a str, SchemaRef<'a>),
    Unknown(String),
}

struct KeySeed<'a>(SchemaRef<'a>);

impl<'de, 'a> DeserializeSeed<'de> for KeySeed<'a> {
    type Value = Key<'a>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key<'a>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a> Visitor<'_> for KeySeed<'a> {
    type Value = Key<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Key<'a>, E> {
        Ok(match self.0.field(name) {
            Some(schema) => Key::Known(schema.field_name().unwrap_or_default(), schema),
            None => Key::Unknown(name.to_owned()),
        })
    }
}

impl<'de, 'a> Visitor<'de> for Seed<'_, 'a> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", go_type(self.schema))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        match self.shape {
            Shape::Boolean | Shape::Union => Ok(Value::Bool(value)),
            _ => Err(self.mismatch("bool")),
        }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.whole(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.whole(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        match self.shape {
            Shape::Number | Shape::Union => Ok(Value::from(value)),
            Shape::Quantity => self.text(&value.to_string(), None),
            Shape::Integer | Shape::Long | Shape::IntOrString => Err(self.mismatch(&format!("number {value:?}"))),
            _ => Err(self.mismatch("number")),
        }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.text(value, None)
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        match self.shape {
            // A value that is parsed already gives its text away; nothing has to be copied.
            Shape::String | Shape::IntOrString => Ok(Value::String(value)),
            _ => self.text(&value, None),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let Some(item) = self.schema.item().filter(|_| matches!(self.shape, Shape::List | Shape::Union)) else {
            return Err(self.mismatch("array"));
        };
        // The items of a union that are no objects (the strings of `items: [..]`) are read as unions themselves.
        let item = if self.shape == Shape::Union { self.schema } else { item };
        let mut items = Vec::with_capacity(list.size_hint().unwrap_or(0).min(64));
        loop {
            self.state.path.push(Step::Index(items.len()));
            let read = list.next_element_seed(Seed::below(&mut *self.state, item, self.parent))?;
            self.state.path.pop();
            match read {
                Some(Value::Null) => items.push(Seed::zero(item)),
                Some(value) => items.push(value),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        match self.shape {
            Shape::Object | Shape::Union => {
                let name = match self.shape {
                    Shape::Union => self.schema.item().and_then(SchemaRef::type_name),
                    _ => self.schema.type_name(),
                };
                let parent = short(name);
                while let Some(key) = map.next_key_seed(KeySeed(self.schema))? {
                    match key {
                        Key::Known(name, schema) => {
                            self.state.path.push(Step::Field(name));
                            let value = map.next_value_seed(Seed::below(&mut *self.state, schema, parent))?;
                            self.state.path.pop();
                            let empty = vanishes(&value, schema);
                            if fields.contains_key(name) {
                                self.state.find("duplicate", name);
                            }
                            if empty {
                                fields.remove(name);
                            } else {
                                fields.insert(name.to_owned(), value);
                            }
                        }
                        Key::Unknown(name) => {
                            map.next_value::<IgnoredAny>()?;
                            self.state.find("unknown", &name);
                        }
                    }
                }
                if self.shape == Shape::Object {
                    self.schema.complete(&mut fields);
                }
            }
            Shape::Map => {
                let Some(item) = self.schema.item() else { return Err(self.mismatch("object")) };
                let scalar = item.shape().is_scalar();
                while let Some(key) = map.next_key::<String>()? {
                    if !scalar {
                        self.state.path.push(Step::Key(key.clone()));
                    }
                    let mut value = map.next_value_seed(Seed::below(&mut *self.state, item, self.parent))?;
                    if !scalar {
                        self.state.path.pop();
                    }
                    if value.is_null() {
                        value = Seed::zero(item);
                    }
                    if fields.contains_key(&key) {
                        self.state.find("duplicate", &key);
                    }
                    fields.insert(key, value);
                }
            }
            _ => return Err(self.mismatch("object")),
        }
        Ok(Value::Object(fields))
    }
}

/// Whether upstream's types would not write the value of a field.
pub(super) fn vanishes(value: &Value, schema: SchemaRef<'_>) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty() && goes_when_empty(schema),
        Value::Object(entries) => entries.is_empty() && goes_when_empty(schema),
        Value::Bool(false) => schema.omits_zero(),
        Value::String(text) => {
            text.is_empty() && (schema.omits_zero() || schema.shape() == Shape::Bytes && !schema.null_when_unset())
        }
        Value::Number(number) => number.as_i64() == Some(0) && schema.omits_zero(),
        Value::Bool(true) => false,
    }
}

/// A time as upstream writes it: in seconds, or in microseconds. `None` for what is no time.
pub(super) fn canonical_time(text: &str, shape: Shape) -> Option<String> {
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(if shape == Shape::Time { format!("{time:.0}") } else { format!("{time:.6}") })
}

/// Upstream's types leave out empty lists and maps with `omitempty` when they are written; empty structs stay.
fn goes_when_empty(schema: SchemaRef<'_>) -> bool {
    !schema.null_when_unset() && matches!(schema.shape(), Shape::List | Shape::Map)
}
