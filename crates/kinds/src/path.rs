//! Reading JSON values along paths, and writing field paths as upstream does.

use std::fmt;

use serde_json::{Map, Value};

static NULL: Value = Value::Null;

/// The value at a dotted path; null where a step is missing.
pub(crate) fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    let mut here = value;
    for step in path.split('.') {
        match here.get(step) {
            Some(next) => here = next,
            None => return &NULL,
        }
    }
    here
}

/// The text at a dotted path; empty where there is none.
pub(crate) fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    at(value, path).as_str().unwrap_or_default()
}

/// The whole number at a dotted path.
pub(crate) fn int(value: &Value, path: &str) -> Option<i64> {
    at(value, path).as_i64()
}

/// Whether `true` stands at a dotted path.
pub(crate) fn flag(value: &Value, path: &str) -> bool {
    at(value, path).as_bool().unwrap_or(false)
}

/// The list at a dotted path; empty where there is none.
pub(crate) fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    at(value, path).as_array().map_or(&[], Vec::as_slice)
}

/// The entries of the object at a dotted path; none where there is no object.
pub(crate) fn entries<'a>(value: &'a Value, path: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    at(value, path).as_object().into_iter().flat_map(Map::iter).map(|(key, value)| (key.as_str(), value))
}

/// How many entries the object or list at a dotted path has.
pub(crate) fn size(value: &Value, path: &str) -> usize {
    match at(value, path) {
        Value::Array(items) => items.len(),
        Value::Object(entries) => entries.len(),
        _ => 0,
    }
}

/// Whether something other than null stands at a dotted path.
pub(crate) fn has(value: &Value, path: &str) -> bool {
    !at(value, path).is_null()
}

/// The place of a value, written only when an error needs it.
#[derive(Clone, Copy)]
pub(crate) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// A path of one step (which may have dots in it).
    pub(crate) fn new(name: &'a str) -> Path<'a> {
        Path { parent: None, step: Step::Field(name) }
    }

    /// The field `name` below this.
    pub(crate) fn child(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Field(name) }
    }

    /// The field `name` beside this.
    pub(crate) fn sibling(&self, name: &'a str) -> Path<'a> {
        Path { parent: self.parent, step: Step::Field(name) }
    }

    /// The list item at `index`.
    pub(crate) fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), step: Step::Index(index) }
    }

    /// The map entry `key`.
    pub(crate) fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut dot = false;
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
            dot = !matches!(parent.step, Step::Field(""));
        }
        match self.step {
            Step::Field(name) if dot => write!(f, ".{name}"),
            Step::Field(name) => f.write_str(name),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}
