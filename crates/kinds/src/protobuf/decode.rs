//! Protobuf to JSON values: the bodies of requests.

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{
    MAGIC,
    read::{Outcome, Reader, Wire, part, text},
};
use crate::schema::{
    SchemaRef, Shape,
    wire::{HERE, Way},
};

/// How deep messages may be nested: deeper than any type, but not as deep as a stack.
const DEEPEST: usize = 64;

/// Why a body could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// It does not begin as it should.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Prefix,
    /// It ends too early.
    #[error("unexpected EOF")]
    Truncated,
    /// A field is written in a way that there is not.
    #[error("proto: illegal wireType {0}")]
    WireType(u64),
    /// A text is none.
    #[error("proto: invalid UTF-8 in a string")]
    Text,
    /// A field that carries JSON does not.
    #[error("proto: invalid JSON in a raw field")]
    Raw,
    /// It would take too much stack to read.
    #[error("proto: messages are nested too deeply")]
    Depth,
}

/// Reads a body with its envelope; the object gets the envelope's `apiVersion` and `kind`.
pub fn decode(body: &[u8], schema: SchemaRef<'_>) -> Result<Value, ProtobufError> {
    let envelope = body.strip_prefix(MAGIC).ok_or(ProtobufError::Prefix)?;
    let raw = match part(envelope, 2)? {
        Some(Wire::Bytes(raw)) => raw,
        _ => &[],
    };
    let mut object = Map::new();
    read(raw, schema, HERE, &mut object, 0)?;
    if let Some(Wire::Bytes(meta)) = part(envelope, 1)? {
        for (number, name) in [(1, "apiVersion"), (2, "kind")] {
            let value = text(part(meta, number)?)?;
            if !value.is_empty() {
                object.insert(name.to_owned(), value.into());
            }
        }
    }
    Ok(Value::Object(object))
}

/// Reads a message of a type into an object; structs that JSON has inline read into the same object.
fn read(bytes: &[u8], schema: SchemaRef<'_>, way: Way, object: &mut Map<String, Value>, depth: usize) -> Outcome<()> {
    if depth > DEEPEST {
        return Err(ProtobufError::Depth);
    }
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        match (schema.numbered(way, number), wire) {
            (Some((name, place)), wire) => add(object, name, place, wire, depth)?,
            (None, Wire::Bytes(bytes)) => {
                if let Some(way) = schema.inline(way, number) {
                    read(bytes, schema, way, object, depth + 1)?;
                }
            }
            (None, Wire::Number(_)) => {}
        }
    }
    Ok(())
}

fn add(object: &mut Map<String, Value>, name: &str, place: SchemaRef<'_>, wire: Wire<'_>, depth: usize) -> Outcome<()> {
    match (place.shape(), place.item(), wire) {
        (Shape::List, Some(item), wire) => {
            let list = object.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(list) = list else { return Ok(()) };
            match wire {
                // Numbers may come packed.
                Wire::Bytes(bytes) if item.shape().is_varint() => {
                    let mut reader = Reader(bytes);
                    while !reader.0.is_empty() {
                        let number = Wire::Number(reader.varint()?);
                        list.extend(one(item, number, true, depth)?);
                    }
                }
                wire => list.extend(one(item, wire, true, depth)?),
            }
        }
        (Shape::Map, Some(item), Wire::Bytes(entry)) => {
            let key = text(part(entry, 1)?)?.to_owned();
            // An absent value is the type's zero.
            let absent = if item.shape().is_varint() { Wire::Number(0) } else { Wire::Bytes(&[]) };
            let value = one(item, part(entry, 2)?.unwrap_or(absent), true, depth)?.unwrap_or(Value::Null);
            let map = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(map) = map {
                map.insert(key, value);
            }
        }
        (_, _, wire) => {
            // Go writes the zero of every field that is no pointer, where JSON leaves out those that are optional.
            let keeps_zero = place.required() || place.number().is_some_and(|number| number.pointer);
            if let Some(value) = one(place, wire, keeps_zero, depth)? {
                // A message that comes in several parts is the sum of them.
                match (object.get_mut(name), value) {
                    (Some(Value::Object(known)), Value::Object(more)) => known.extend(more),
                    (_, value) => {
                        object.insert(name.to_owned(), value);
                    }
                }
            }
        }
    }
    Ok(())
}

/// One value, or nothing for a zero that JSON does not show.
fn one(place: SchemaRef<'_>, wire: Wire<'_>, keeps_zero: bool, depth: usize) -> Outcome<Option<Value>> {
    let value = match (place.shape(), wire) {
        (Shape::Boolean, Wire::Number(number)) => (number != 0 || keeps_zero).then(|| (number != 0).into()),
        (Shape::Number, Wire::Number(bits)) => {
            Some(f64::from_bits(bits)).filter(|number| *number != 0.0 || keeps_zero).map(Value::from)
        }
        // Negative numbers are sign-extended to 64 bits, also those of 32.
        (_, Wire::Number(number)) => {
            (number != 0 || keeps_zero).then(|| i64::from_ne_bytes(number.to_ne_bytes()).into())
        }
        (Shape::String, wire @ Wire::Bytes(bytes)) => {
            let text = text(Some(wire))?;
            (!bytes.is_empty() || keeps_zero).then(|| text.into())
        }
        (Shape::Bytes, Wire::Bytes(bytes)) => Some(STANDARD.encode(bytes).into()),
        // Times have whole seconds in JSON, so they have them here.
        (Shape::Time, Wire::Bytes(bytes)) => time(bytes, false)?.map(|time| time.to_string().into()),
        (Shape::MicroTime, Wire::Bytes(bytes)) => time(bytes, true)?.map(|time| format!("{time:.6}").into()),
        (Shape::Quantity, Wire::Bytes(bytes)) => Some(text(part(bytes, 1)?)?.into()),
        (Shape::IntOrString, Wire::Bytes(bytes)) => Some(int_or_string(bytes)?),
        // Named lists, such as the values of a user's `extra`, are messages with one repeated field.
        (Shape::List, Wire::Bytes(bytes)) => {
            let mut list = Vec::new();
            let mut reader = Reader(bytes);
            if let Some(item) = place.item() {
                while let Some((_, wire)) = reader.next()? {
                    list.extend(one(item, wire, true, depth)?);
                }
            }
            Some(Value::Array(list))
        }
        (Shape::Any, Wire::Bytes(_)) if !place.is_raw() => Some(Value::Object(Map::new())),
        (Shape::Any, Wire::Bytes(bytes)) => match part(bytes, 1)? {
            Some(Wire::Bytes(raw)) if !raw.is_empty() => {
                Some(serde_json::from_slice(raw).map_err(|_| ProtobufError::Raw)?)
            }
            _ => None,
        },
        (Shape::Union, Wire::Bytes(bytes)) => union(place, bytes, depth)?,
        (_, Wire::Bytes(bytes)) => {
            let mut object = Map::new();
            read(bytes, place, HERE, &mut object, depth + 1)?;
            Some(Value::Object(object))
        }
    };
    Ok(value)
}

/// The three types of a CRD's schema that are a schema or something else.
fn union(place: SchemaRef<'_>, bytes: &[u8], depth: usize) -> Outcome<Option<Value>> {
    let schema_number = if place.type_name().is_some_and(|name| name.ends_with("OrBool")) { 2 } else { 1 };
    let Some(schema) = place.item() else { return Ok(None) };
    let mut list = Vec::new();
    let mut reader = Reader(bytes);
    let mut allows = None;
    while let Some((number, wire)) = reader.next()? {
        match wire {
            Wire::Bytes(_) if number == schema_number => return one(schema, wire, true, depth + 1),
            Wire::Bytes(_) if place.type_name().is_some_and(|name| name.ends_with("OrStringArray")) => {
                list.push(text(Some(wire))?.into());
            }
            Wire::Bytes(_) => list.extend(one(schema, wire, true, depth + 1)?),
            Wire::Number(value) => allows = Some(Value::Bool(value != 0)),
        }
    }
    Ok(allows.or(Some(Value::Array(list))).filter(|value| *value != Value::Array(Vec::new())))
}

/// A time; no bytes at all are Go's zero time, which JSON has as `null` (apimachinery's `time_proto.go`).
fn time(bytes: &[u8], fraction: bool) -> Outcome<Option<Timestamp>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let number = |wire| match wire {
        Some(Wire::Number(number)) => i64::from_ne_bytes(u64::to_ne_bytes(number)),
        _ => 0,
    };
    let (seconds, nanoseconds) = (number(part(bytes, 1)?), number(part(bytes, 2)?));
    let nanoseconds = if fraction { i32::try_from(nanoseconds).unwrap_or(0) } else { 0 };
    Ok(Timestamp::new(seconds, nanoseconds).ok())
}

fn int_or_string(bytes: &[u8]) -> Outcome<Value> {
    Ok(match part(bytes, 1)? {
        Some(Wire::Number(1)) => text(part(bytes, 3)?)?.into(),
        _ => match part(bytes, 2)? {
            Some(Wire::Number(number)) => i64::from_ne_bytes(number.to_ne_bytes()).into(),
            _ => 0.into(),
        },
    })
}
