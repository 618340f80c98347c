//! OpenAPI v2 as gnostic's protobuf: the form in which client-go asks for `/openapi/v2`.
//!
//! The messages of gnostic's `OpenAPIv2.proto` are a table here, and one walk writes a rendered document by it. Fields
//! that no document of this crate has are left out.

use std::convert::Infallible;

use serde_json::{Map, Value};

use crate::protobuf::write;

/// How a JSON value becomes a field.
enum Part {
    Text,
    Flag,
    Texts,
    /// Any value, as its YAML.
    Any,
    Anys,
    /// A message.
    One(&'static Message),
    /// Several of them.
    Many(&'static Message),
    /// A message around one field with this number, such as a choice.
    Around(u16, &'static Part),
    /// The entries of a map as messages with a name and a value, inside a message under this number.
    Named(u16, &'static Part),
    /// One of two messages: the second if there is a `$ref`.
    OrReference(&'static Part),
    /// A parameter, which is a message by its place.
    Parameter,
    /// `type`, which may be one text or several.
    Type,
    /// A schema or a flag.
    SchemaOrFlag,
}

/// A message: its fields by their names in JSON.
struct Message {
    fields: &'static [(&'static str, u16, Part)],
    /// The number of `x-` fields.
    extensions: u16,
}

use Part::{Any, Anys, Around, Flag, Many, Named, One, OrReference, Parameter, SchemaOrFlag, Text, Texts, Type};

static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Text),
        ("info", 2, One(&INFO)),
        ("paths", 8, Named(2, &One(&PATH_ITEM))),
        ("definitions", 9, Named(1, &One(&SCHEMA))),
        ("security", 12, Many(&SECURITY_REQUIREMENT)),
        ("securityDefinitions", 13, Named(1, &Around(2, &One(&API_KEY)))),
    ],
    extensions: 16,
};

static INFO: Message =
    Message { fields: &[("title", 1, Text), ("version", 2, Text), ("description", 3, Text)], extensions: 7 };

/// Its one field is a map, whose entries are fields of the message itself: see [`message`].
static SECURITY_REQUIREMENT: Message = Message { fields: &[("*", 1, Around(1, &Texts))], extensions: 0 };

static API_KEY: Message = Message {
    fields: &[("type", 1, Text), ("name", 2, Text), ("in", 3, Text), ("description", 4, Text)],
    extensions: 5,
};

static PATH_ITEM: Message = Message {
    fields: &[
        ("get", 2, One(&OPERATION)),
        ("put", 3, One(&OPERATION)),
        ("post", 4, One(&OPERATION)),
        ("delete", 5, One(&OPERATION)),
        ("options", 6, One(&OPERATION)),
        ("head", 7, One(&OPERATION)),
        ("patch", 8, One(&OPERATION)),
        ("parameters", 9, Parameter),
    ],
    extensions: 10,
};

static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, Texts),
        ("summary", 2, Text),
        ("description", 3, Text),
        ("operationId", 5, Text),
        ("produces", 6, Texts),
        ("consumes", 7, Texts),
        ("parameters", 8, Parameter),
        ("responses", 9, Named(1, &OrReference(&One(&RESPONSE)))),
        ("schemes", 10, Texts),
        ("deprecated", 11, Flag),
    ],
    extensions: 13,
};

static RESPONSE: Message =
    Message { fields: &[("description", 1, Text), ("schema", 2, Around(1, &One(&SCHEMA)))], extensions: 5 };

static BODY: Message = Message {
    fields: &[
        ("description", 1, Text),
        ("name", 2, Text),
        ("in", 3, Text),
        ("required", 4, Flag),
        ("schema", 5, One(&SCHEMA)),
    ],
    extensions: 6,
};

static QUERY: Message = Message {
    fields: &[
        ("required", 1, Flag),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 6, Text),
        ("format", 7, Text),
        ("uniqueItems", 20, Flag),
    ],
    extensions: 23,
};

/// Of headers and paths, whose numbers agree.
static HEADER: Message = Message {
    fields: &[
        ("required", 1, Flag),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 5, Text),
        ("format", 6, Text),
        ("uniqueItems", 19, Flag),
    ],
    extensions: 22,
};

static REFERENCE: Message = Message { fields: &[("$ref", 1, Text), ("description", 2, Text)], extensions: 0 };

static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Text),
        ("format", 2, Text),
        ("title", 3, Text),
        ("description", 4, Text),
        ("default", 5, Any),
        ("pattern", 13, Text),
        ("uniqueItems", 16, Flag),
        ("required", 19, Texts),
        ("enum", 20, Anys),
        ("additionalProperties", 21, SchemaOrFlag),
        ("type", 22, Type),
        ("items", 23, Around(1, &One(&SCHEMA))),
        ("allOf", 24, Many(&SCHEMA)),
        ("properties", 25, Named(1, &One(&SCHEMA))),
        ("readOnly", 27, Flag),
        ("example", 30, Any),
    ],
    extensions: 31,
};

static BODY_PARAMETER: Part = Around(1, &One(&BODY));
static HEADER_PARAMETER: Part = Around(2, &Around(1, &One(&HEADER)));
static QUERY_PARAMETER: Part = Around(2, &Around(3, &One(&QUERY)));
static PATH_PARAMETER: Part = Around(2, &Around(4, &One(&HEADER)));
static SOME_SCHEMA: Part = Around(1, &One(&SCHEMA));

/// A rendered document as protobuf.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    message(&mut out, &DOCUMENT, document);
    out
}

fn nested(out: &mut Vec<u8>, number: u16, content: impl FnOnce(&mut Vec<u8>)) {
    let Ok(()) = write::nested(out, number, |out| {
        content(out);
        Ok::<(), Infallible>(())
    });
}

/// An entry of a map.
fn named(out: &mut Vec<u8>, number: u16, name: &str, value: impl FnOnce(&mut Vec<u8>)) {
    nested(out, number, |out| {
        write::bytes(out, 1, name.as_bytes());
        value(out);
    });
}

fn message(out: &mut Vec<u8>, message: &Message, value: &Value) {
    let empty = Map::new();
    for (name, value) in value.as_object().unwrap_or(&empty) {
        match message.fields.iter().find(|(known, ..)| known == name || *known == "*") {
            Some(("*", number, kind)) => named(out, *number, name, |out| part(out, 2, kind, value)),
            Some((_, number, kind)) => part(out, *number, kind, value),
            None if name.starts_with("x-") && message.extensions > 0 => {
                named(out, message.extensions, name, |out| part(out, 2, &Any, value));
            }
            // Gnostic has no place for it.
            None => {}
        }
    }
}

fn text(out: &mut Vec<u8>, number: u16, value: &Value) {
    if let Some(text) = value.as_str() {
        write::bytes(out, number, text.as_bytes());
    }
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn part(out: &mut Vec<u8>, number: u16, kind: &Part, value: &Value) {
    match kind {
        Text => text(out, number, value),
        Flag => write::integer(out, number, value.as_bool().unwrap_or_default().into()),
        Texts => items(value).iter().for_each(|value| text(out, number, value)),
        // JSON is YAML.
        Any => nested(out, number, |out| write::bytes(out, 2, format!("{value}\n").as_bytes())),
        Anys => items(value).iter().for_each(|value| part(out, number, &Any, value)),
        One(of) => nested(out, number, |out| message(out, of, value)),
        Many(of) => items(value).iter().for_each(|value| part(out, number, &One(of), value)),
        Around(inner, kind) => nested(out, number, |out| part(out, *inner, kind, value)),
        Named(inner, kind) => nested(out, number, |out| {
            for (name, value) in value.as_object().into_iter().flatten() {
                named(out, *inner, name, |out| part(out, 2, kind, value));
            }
        }),
        OrReference(kind) => nested(out, number, |out| match value.get("$ref") {
            Some(_) => part(out, 2, &One(&REFERENCE), value),
            None => part(out, 1, kind, value),
        }),
        Parameter => items(value).iter().for_each(|value| {
            nested(out, number, |out| match value.get("in").and_then(Value::as_str) {
                None => part(out, 2, &One(&REFERENCE), value),
                Some("body") => part(out, 1, &BODY_PARAMETER, value),
                Some("header") => part(out, 1, &HEADER_PARAMETER, value),
                Some("path") => part(out, 1, &PATH_PARAMETER, value),
                Some(_) => part(out, 1, &QUERY_PARAMETER, value),
            });
        }),
        Type => nested(out, number, |out| match value {
            Value::Array(types) => types.iter().for_each(|value| text(out, 1, value)),
            value => text(out, 1, value),
        }),
        SchemaOrFlag => match value {
            Value::Bool(_) => part(out, number, &Around(2, &Flag), value),
            value => part(out, number, &SOME_SCHEMA, value),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{catalogue::Catalogue, openapi::v2_document};

    /// Everything in a document has a place in gnostic's messages, or is lost to clients.
    fn knows(of: &Message, value: &Value, path: &str) {
        for (name, value) in value.as_object().expect(path) {
            let path = format!("{path}/{name}");
            match of.fields.iter().find(|(known, ..)| known == name || *known == "*") {
                Some((.., kind)) => knows_part(kind, value, &path),
                None => assert!(name.starts_with("x-") && of.extensions > 0, "{path}"),
            }
        }
    }

    fn knows_part(kind: &Part, value: &Value, path: &str) {
        match kind {
            Text => assert!(value.is_string(), "{path}"),
            Flag => assert!(value.is_boolean(), "{path}"),
            Texts => assert!(items(value).iter().all(Value::is_string), "{path}"),
            Any | Type => {}
            Anys => assert!(value.is_array(), "{path}"),
            One(of) => knows(of, value, path),
            Many(of) => items(value).iter().for_each(|value| knows(of, value, path)),
            Around(_, kind) => knows_part(kind, value, path),
            Named(_, kind) => value.as_object().expect(path).values().for_each(|value| knows_part(kind, value, path)),
            OrReference(kind) => match value.get("$ref") {
                Some(_) => knows(&REFERENCE, value, path),
                None => knows_part(kind, value, path),
            },
            Parameter => items(value).iter().for_each(|value| {
                let of = match value["in"].as_str() {
                    None => &REFERENCE,
                    Some("body") => &BODY,
                    Some("header" | "path") => &HEADER,
                    Some(_) => &QUERY,
                };
                knows(of, value, path);
            }),
            SchemaOrFlag => {
                if !value.is_boolean() {
                    knows(&SCHEMA, value, path);
                }
            }
        }
    }

    #[test]
    fn nothing_of_the_document_is_lost() {
        let document = v2_document(&Catalogue::builtin());
        knows(&DOCUMENT, &document, "");
        assert!(encode(&document).len() > 500_000);
    }

    #[test]
    fn messages() {
        let check = |document: Value, expected: &[u8]| assert_eq!(encode(&document), expected, "{document}");
        check(json!({"swagger": "2.0"}), b"\x0a\x032.0");
        check(json!({"security": [{"B": []}]}), b"\x62\x07\x0a\x05\x0a\x01B\x12\0");
        check(json!({"definitions": {"a": {"$ref": "r"}}}), b"\x4a\x0a\x0a\x08\x0a\x01a\x12\x03\x0a\x01r");
        check(
            json!({"definitions": {"a": {"type": "t", "additionalProperties": true}}}),
            b"\x4a\x12\x0a\x10\x0a\x01a\x12\x0b\xaa\x01\x02\x10\x01\xb2\x01\x03\x0a\x01t",
        );
        check(
            json!({"definitions": {"a": {"x-k": [1]}}}),
            b"\x4a\x17\x0a\x15\x0a\x01a\x12\x10\xfa\x01\x0d\x0a\x03x-k\x12\x06\x12\x04[1]\n",
        );
    }
}
