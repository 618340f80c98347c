//! Between nodes and JSON, for JSON patches and for hashes.

use std::fmt::Write;

use serde_json::{Map as JsonMap, Value};

use crate::node::{Map, Node, Place, Scalar, Style, Tag};
use crate::scalar::{self, Dialect, Resolved};

type Wrong = (Place, String);

/// A node as JSON.
pub(crate) fn value(node: &Node) -> Result<Value, Wrong> {
    convert(node, &|scalar| scalar.value().map_err(|problem| (scalar.place, problem)))
}

/// A node as JSON by the rules of YAML 1.1, as patches and configurations are read.
pub(crate) fn value_1_1(node: &Node) -> Result<Value, Wrong> {
    convert(node, &|scalar| {
        Ok(match scalar.tag {
            Tag::Binary => scalar.value().map_err(|problem| (scalar.place, problem))?,
            _ if scalar.style != Style::Plain || (scalar.tagged && scalar.tag == Tag::Str) => Resolved::Str,
            _ => match scalar::resolve(&scalar.text, Dialect::Yaml11) {
                Resolved::Timestamp(_) => Resolved::Str,
                resolved => resolved,
            },
        })
    })
}

fn convert(node: &Node, resolve: &dyn Fn(&Scalar) -> Result<Resolved, Wrong>) -> Result<Value, Wrong> {
    Ok(match node {
        Node::Scalar(scalar) => match resolve(scalar)? {
            Resolved::Null => Value::Null,
            Resolved::Bool(value) => value.into(),
            Resolved::Int(value) => value.into(),
            Resolved::Uint(value) => value.into(),
            Resolved::Float(value) => {
                let number = serde_json::Number::from_f64(value);
                Value::Number(number.ok_or((scalar.place, format!("{} cannot be written as JSON", scalar.text)))?)
            }
            Resolved::Str | Resolved::Merge => scalar.text.clone().into(),
            Resolved::Text(text) | Resolved::Timestamp(text) => text.into(),
        },
        Node::List(items) => {
            let items = items.iter().map(|item| convert(item, resolve));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        Node::Map(map) => {
            let mut fields = JsonMap::new();
            for (key, value) in &map.entries {
                fields.insert(key.text.clone(), convert(value, resolve)?);
            }
            Value::Object(fields)
        }
    })
}

/// JSON as a node, the way Go brings it in: every number passes through a float of 64 bits.
pub(crate) fn node(value: &Value) -> Node {
    let scalar = |text: String, tag: Tag| Node::Scalar(Scalar { tag, ..Scalar::open(text) });
    match value {
        Value::Null => Node::null(),
        Value::Bool(value) => scalar(value.to_string(), Tag::Bool),
        Value::Number(number) => {
            let text = scalar::shortest(number.as_f64().unwrap_or_default());
            let tag = if text.contains(['.', 'e']) { Tag::Float } else { Tag::Int };
            scalar(text, tag)
        }
        Value::String(text) => Node::string(text.as_str()),
        Value::Array(items) => Node::List(items.iter().map(node).collect()),
        Value::Object(fields) => {
            let mut entries: Vec<_> =
                fields.iter().map(|(key, value)| (Scalar::string(key.as_str()), node(value))).collect();
            entries.sort_by(|(one, _): &(Scalar, Node), (other, _)| one.text.cmp(&other.text));
            Node::Map(Map { entries })
        }
    }
}

/// A JSON value as Go writes it: keys in order, and what means something in HTML escaped.
pub(crate) fn write(value: &Value, out: &mut String) {
    match value {
        Value::String(text) => quoted(text, out),
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(key, _)| key.as_str());
            out.push('{');
            for (at, (key, value)) in fields.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                quoted(key, out);
                out.push(':');
                write(value, out);
            }
            out.push('}');
        }
        Value::Number(number) if number.is_f64() => {
            let value = number.as_f64().unwrap_or_default();
            let text = scalar::float(value).unwrap_or_default();
            out.push_str(&text);
        }
        other => {
            let _ = write!(out, "{other}");
        }
    }
}

fn quoted(text: &str, out: &mut String) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(letter));
            }
            letter => out.push(letter),
        }
    }
    out.push('"');
}

/// The same over many lines, indented by two blanks.
pub(crate) fn write_pretty(value: &Value, depth: usize, out: &mut String) {
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.push_str(&"  ".repeat(depth));
    };
    match value {
        Value::Array(items) if !items.is_empty() => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                line(out, depth + 1);
                write_pretty(item, depth + 1, out);
            }
            line(out, depth);
            out.push(']');
        }
        Value::Object(fields) if !fields.is_empty() => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(key, _)| key.as_str());
            out.push('{');
            for (at, (key, value)) in fields.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                line(out, depth + 1);
                quoted(key, out);
                out.push_str(": ");
                write_pretty(value, depth + 1, out);
            }
            line(out, depth);
            out.push('}');
        }
        other => write(other, out),
    }
}
