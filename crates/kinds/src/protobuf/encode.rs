//! JSON text to protobuf, in one pass.
//!
//! The JSON parser drives: each value is written as soon as it is read. Only structs that JSON has inline take a buffer
//! of their own, because their fields may come in any order among those of the struct around them.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::write;
use crate::schema::{
    SchemaRef, Shape, Types,
    wire::{HERE, Way},
};

/// Why an object could not be written.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// Its JSON does not fit its type.
    #[error("the object does not fit its type")]
    Content(#[from] serde_json::Error),
    /// There is no protobuf form of such objects.
    #[error("no protobuf form of {api_version} {kind} is known")]
    Unknown {
        /// The object's `apiVersion`.
        api_version: String,
        /// The object's `kind`.
        kind: String,
    },
}

/// Writes the fields of an object of a type.
pub(super) fn message(out: &mut Vec<u8>, schema: SchemaRef<'_>, json: &[u8]) -> Result<(), EncodeError> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    Message { out, schema }.deserialize(&mut deserializer)?;
    Ok(deserializer.end()?)
}

/// Writes only an object's metadata, as the one field of a `PartialObjectMetadata`.
pub(super) fn metadata(out: &mut Vec<u8>, json: &[u8]) -> Result<(), EncodeError> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    deserializer.deserialize_map(OnlyMetadata { out })?;
    Ok(deserializer.end()?)
}

/// The name of the type of every object's metadata.
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

struct OnlyMetadata<'o> {
    out: &'o mut Vec<u8>,
}

impl<'de> Visitor<'de> for OnlyMetadata<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let place = Types::builtin().named(OBJECT_META).ok_or_else(|| A::Error::custom("ObjectMeta is unknown"))?;
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if key == "metadata" {
                map.next_value_seed(Field { out: self.out, place, number: 1 })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// The fields of an object, without a head.
struct Message<'o, 's> {
    out: &'o mut Vec<u8>,
    schema: SchemaRef<'s>,
}

impl<'de> DeserializeSeed<'de> for Message<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Message<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut inline = Inline(Vec::new());
        while let Some(place) = map.next_key_seed(FieldName(self.schema))? {
            match place.and_then(|place| Some((place, place.number()?))) {
                Some((place, number)) => {
                    let out = if number.way == HERE { &mut *self.out } else { inline.buffer(number.way) };
                    map.next_value_seed(Field { out, place, number: number.number })?;
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        inline.finish(self.schema, self.out);
        Ok(())
    }
}

/// The messages of one object that JSON has inline, each with the way to it.
struct Inline(Vec<(Way, Vec<u8>)>);

impl Inline {
    fn buffer(&mut self, way: Way) -> &mut Vec<u8> {
        let index = self.0.iter().position(|(known, _)| *known == way).unwrap_or_else(|| {
            self.0.push((way, Vec::new()));
            self.0.len() - 1
        });
        &mut self.0[index].1
    }

    /// Puts each message into the one around it. A longer way has a greater number, so the last one goes first.
    fn finish(mut self, schema: SchemaRef<'_>, out: &mut Vec<u8>) {
        while let Some(last) = (0..self.0.len()).max_by_key(|&index| self.0[index].0) {
            let (way, content) = self.0.swap_remove(last);
            let (around, number) = schema.step(way);
            let around = if around == HERE { &mut *out } else { self.buffer(around) };
            write::bytes(around, number, &content);
        }
    }
}

/// Finds the field that a key names.
struct FieldName<'s>(SchemaRef<'s>);

impl<'de, 's> DeserializeSeed<'de> for FieldName<'s> {
    type Value = Option<SchemaRef<'s>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'s> Visitor<'_> for FieldName<'s> {
    type Value = Option<SchemaRef<'s>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the name of a field")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.field(name))
    }
}

/// One value of a field, with its head. A null writes nothing.
struct Field<'o, 's> {
    out: &'o mut Vec<u8>,
    place: SchemaRef<'s>,
    number: u16,
}

impl<'de> DeserializeSeed<'de> for Field<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.place.shape() != Shape::Any {
            return deserializer.deserialize_any(self);
        }
        let raw: &RawValue = serde::Deserialize::deserialize(deserializer)?;
        if raw.get() == "null" {
            return Ok(());
        }
        write::nested(self.out, self.number, |out| {
            if self.place.is_raw() {
                write::bytes(out, 1, raw.get().as_bytes());
            }
            Ok(())
        })
    }
}

impl Field<'_, '_> {
    fn misfit<E: Error>(&self, found: &str) -> E {
        E::custom(format_args!("{} cannot be {found}", self.place.field_name().unwrap_or("a value")))
    }

    /// Whether the type is that union of a schema and something else.
    fn is_union(&self, ending: &str) -> bool {
        self.place.type_name().is_some_and(|name| name.ends_with(ending))
    }

    fn whole<E: Error>(self, value: i64) -> Result<(), E> {
        match self.place.shape() {
            Shape::Integer | Shape::Long => write::integer(self.out, self.number, value),
            Shape::Number => write::double(self.out, self.number, value as f64),
            Shape::Quantity => return self.quantity(&value.to_string()),
            Shape::IntOrString => write::nested(self.out, self.number, |out| {
                write::integer(out, 1, 0);
                write::integer(out, 2, value);
                Ok(())
            })?,
            _ => return Err(self.misfit("a number")),
        }
        Ok(())
    }

    fn quantity<E: Error>(self, text: &str) -> Result<(), E> {
        write::nested(self.out, self.number, |out| {
            write::bytes(out, 1, text.as_bytes());
            Ok(())
        })
    }

    fn time<E: Error>(self, text: &str) -> Result<(), E> {
        let time: Timestamp = text.parse().map_err(|_| self.misfit(&format!("the time {text:?}")))?;
        let nanoseconds = if self.place.shape() == Shape::MicroTime { time.subsec_nanosecond() } else { 0 };
        write::nested(self.out, self.number, |out| {
            write::integer(out, 1, time.as_second());
            write::integer(out, 2, nanoseconds.into());
            Ok(())
        })
    }
}

impl<'de> Visitor<'de> for Field<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value that fits the field")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        match self.place.shape() {
            Shape::Boolean => write::integer(self.out, self.number, value.into()),
            Shape::Union if self.is_union("OrBool") => write::nested(self.out, self.number, |out| {
                write::integer(out, 1, value.into());
                Ok(())
            })?,
            _ => return Err(self.misfit("a boolean")),
        }
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.whole(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        match i64::try_from(value) {
            Ok(value) => self.whole(value),
            Err(_) => Err(self.misfit("so large")),
        }
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        match self.place.shape() {
            Shape::Number => write::double(self.out, self.number, value),
            Shape::Quantity => return self.quantity(&value.to_string()),
            _ => return Err(self.misfit("a fraction")),
        }
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        match self.place.shape() {
            Shape::String => write::bytes(self.out, self.number, text.as_bytes()),
            Shape::Bytes => {
                let bytes = STANDARD.decode(text).map_err(|_| self.misfit("other than base64"))?;
                write::bytes(self.out, self.number, &bytes);
            }
            Shape::Time | Shape::MicroTime => return self.time(text),
            Shape::Quantity => return self.quantity(text),
            Shape::IntOrString => write::nested(self.out, self.number, |out| {
                write::integer(out, 1, 1);
                write::bytes(out, 3, text.as_bytes());
                Ok(())
            })?,
            // A property that depends on others, in the schema of a CRD.
            Shape::Object if self.is_union(".JSONSchemaProps") => {
                write::bytes(self.out, self.number, text.as_bytes());
            }
            _ => return Err(self.misfit("a string")),
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Some(place) = self.place.item() else { return Err(self.misfit("a list")) };
        match self.place.shape() {
            Shape::List => {
                while list.next_element_seed(Field { out: self.out, place, number: self.number })?.is_some() {}
                Ok(())
            }
            Shape::Union => write::nested(self.out, self.number, |out| {
                while list.next_element_seed(Field { out, place, number: 2 })?.is_some() {}
                Ok(())
            }),
            _ => Err(self.misfit("a list")),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        match self.place.shape() {
            Shape::Object => {
                write::nested(self.out, self.number, |out| Message { out, schema: self.place }.visit_map(map))
            }
            Shape::Map => {
                let Some(place) = self.place.item() else { return Err(self.misfit("a map")) };
                while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                    write::nested(self.out, self.number, |out| {
                        write::bytes(out, 1, key.as_bytes());
                        // A list that is a map's value is a message with one repeated field.
                        if place.shape() == Shape::List {
                            write::nested(out, 2, |out| map.next_value_seed(Field { out, place, number: 1 }))
                        } else {
                            map.next_value_seed(Field { out, place, number: 2 })
                        }
                    })?;
                }
                Ok(())
            }
            Shape::Union => {
                let Some(schema) = self.place.item() else { return Err(self.misfit("a map")) };
                let or_bool = self.is_union("OrBool");
                write::nested(self.out, self.number, |out| {
                    if or_bool {
                        write::integer(out, 1, 1);
                    }
                    let number = if or_bool { 2 } else { 1 };
                    write::nested(out, number, |out| Message { out, schema }.visit_map(map))
                })
            }
            _ => Err(self.misfit("a map")),
        }
    }
}
