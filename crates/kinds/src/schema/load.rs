//! Reads the blobs that `build.rs` writes.
//!
//! The structure is text, one line a type or field, columns parted by tabs. `A name shape` is a name for a shape,
//! `T name atomic` an object, and the `F name shape flags collection keys strategy merge-key default number` lines
//! after it are its fields. A shape is one letter for a scalar, `*` for anything, `@n` for the n-th type, `|n` for a union with
//! it, `[` or `{` before the shape of a list's items or a map's values. Descriptions stand in the same order, parted by
//! NUL. The flags of a field are `r` for required, `z` for one that is left out when it is zero, `w` for one that is written
//! as the zero of its shape when nothing stands there, and `n` for one that is written as null then.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::OnceLock;

use super::{Body, Field, ListType, NONE, Node, PatchStrategy, Shape, Type, Types, Written};

fn inflate(bytes: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::ZlibDecoder::new(bytes)
        .read_to_string(&mut text)
        .expect("the blob is this crate's own, written by its build script");
    text
}

/// The prose of all types and fields, in the order of the table; [`super::SchemaRef::type_description`] and
/// [`super::SchemaRef::field_position`] index it. Megabytes: keep it only as long as a document is rendered.
pub fn descriptions() -> Vec<String> {
    let text = inflate(include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.z")));
    text.split('\0').map(str::to_owned).collect()
}

pub(super) fn builtin() -> &'static Types {
    static TYPES: OnceLock<Types> = OnceLock::new();
    TYPES.get_or_init(|| read(&inflate(include_bytes!(concat!(env!("OUT_DIR"), "/schema.z")))))
}

#[derive(Default)]
struct Reader {
    types: Types,
    names: HashMap<Box<str>, u32>,
    nodes: HashMap<String, u32>,
    keys: HashMap<Box<str>, u32>,
}

fn count(length: usize) -> u32 {
    u32::try_from(length).expect("the table has a few thousand entries")
}

impl Reader {
    fn name(&mut self, name: &str) -> u32 {
        if let Some(&index) = self.names.get(name) {
            return index;
        }
        let index = count(self.types.names.len());
        self.types.names.push(name.into());
        self.names.insert(name.into(), index);
        index
    }

    fn node(&mut self, text: &str) -> u32 {
        if let Some(&index) = self.nodes.get(text) {
            return index;
        }
        let (first, rest) = text.split_at(1);
        let number = || rest.parse().expect("the build script writes a number here");
        let node = match first {
            "s" => Node::Scalar(Shape::String),
            "i" => Node::Scalar(Shape::Integer),
            "l" => Node::Scalar(Shape::Long),
            "d" => Node::Scalar(Shape::Number),
            "b" => Node::Scalar(Shape::Boolean),
            "y" => Node::Scalar(Shape::Bytes),
            "t" => Node::Scalar(Shape::Time),
            "u" => Node::Scalar(Shape::MicroTime),
            "q" => Node::Scalar(Shape::Quantity),
            "x" => Node::Scalar(Shape::IntOrString),
            "@" => Node::Type(number()),
            "|" => Node::Union(number()),
            "[" => Node::List(self.node(rest)),
            "{" => Node::Map(self.node(rest)),
            _ => Node::Any,
        };
        let index = count(self.types.nodes.len());
        self.types.nodes.push(node);
        self.nodes.insert(text.to_owned(), index);
        index
    }

    fn keys(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return NONE;
        }
        if let Some(&index) = self.keys.get(text) {
            return index;
        }
        let index = count(self.types.keys.len());
        self.types.keys.push(text.split(',').map(|key| key.trim().into()).collect());
        self.keys.insert(text.into(), index);
        index
    }

    fn field(&mut self, columns: &[&str]) -> Field {
        let column = |at: usize| columns.get(at).copied().unwrap_or_default();
        let default = match column(8) {
            "" => NONE,
            text => {
                let value = serde_json::from_str(text).expect("merge-facts.tsv has JSON defaults");
                self.types.defaults.push(value);
                count(self.types.defaults.len() - 1)
            }
        };
        let strategy = column(6);
        Field {
            name: self.name(column(1)),
            node: self.node(column(2)),
            required: column(3).contains('r'),
            omits_zero: column(3).contains('z'),
            written: match column(3) {
                flags if flags.contains('w') => Written::AsZero,
                flags if flags.contains('n') => Written::AsNull,
                _ => Written::WhenSet,
            },
            list_type: match column(4) {
                "list:set" => ListType::Set,
                "list:map" => ListType::Map,
                _ => ListType::Atomic,
            },
            has_list_type: column(4).starts_with("list:"),
            atomic: column(4) == "map:atomic",
            granular: column(4) == "map:granular",
            strategy: PatchStrategy {
                merge: strategy.contains("merge"),
                replace: strategy.contains("replace"),
                retain_keys: strategy.contains("retainKeys"),
            },
            map_keys: self.keys(column(5)),
            merge_key: if column(7).is_empty() { NONE } else { self.name(column(7)) },
            default,
        }
    }
}

fn read(text: &str) -> Types {
    let mut reader = Reader::default();
    for (description, line) in text.lines().enumerate() {
        let columns: Vec<&str> = line.split('\t').collect();
        let start = count(reader.types.fields.len());
        let body = match columns[0] {
            "F" => {
                let field = reader.field(&columns);
                reader.types.numbers.push(columns.get(9).copied().unwrap_or_default());
                reader.types.fields.push(field);
                if let Some(Type { body: Body::Object { end, .. }, .. }) = reader.types.types.last_mut() {
                    *end = start + 1;
                }
                continue;
            }
            "A" => Body::Alias(reader.node(columns[2])),
            _ => Body::Object { start, end: start },
        };
        reader.types.types.push(Type {
            name: columns[1].into(),
            body,
            atomic: columns[2] == "1",
            description: count(description),
        });
    }
    let mut types = reader.types;
    let ranges = types.types.iter().filter_map(|t| match t.body {
        Body::Object { start, end } => Some(start..end),
        Body::Alias(_) => None,
    });
    types.numbers.sort(ranges);
    types.types.shrink_to_fit();
    types.fields.shrink_to_fit();
    types.nodes.shrink_to_fit();
    types.names.shrink_to_fit();
    types
}
