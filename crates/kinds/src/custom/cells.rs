//! The columns of custom resources: `additionalPrinterColumns`, or the age where there are none.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Custom, JsonPath};
use crate::duration::human;

/// One column.
#[derive(Debug)]
pub(crate) struct Heading {
    name: Box<str>,
    column_type: Box<str>,
    format: Box<str>,
    description: Box<str>,
    priority: i64,
    path: Option<JsonPath>,
}

impl Heading {
    pub(crate) fn read(column: &Value) -> Heading {
        let text = |key: &str| column[key].as_str().unwrap_or_default();
        Heading {
            name: text("name").into(),
            column_type: text("type").into(),
            format: text("format").into(),
            description: match text("description") {
                "" => format!("Custom resource definition column (in JSONPath format): {}", text("jsonPath")).into(),
                given => given.into(),
            },
            priority: column["priority"].as_i64().unwrap_or(0),
            path: JsonPath::parse(text("jsonPath")),
        }
    }
}

/// The definitions of all columns, the name's first. `plain` are those of kinds that say nothing.
pub(crate) fn headings(custom: &Custom, plain: Value) -> Value {
    let mut headings = plain.as_array().cloned().unwrap_or_default();
    if !custom.columns.is_empty() {
        headings.truncate(1);
    } else if let Some(age) = headings.get_mut(1) {
        age["type"] = "date".into();
    }
    headings.extend(custom.columns.iter().map(|column| {
        json!({
            "name": column.name, "type": column.column_type, "format": column.format,
            "description": column.description, "priority": column.priority,
        })
    }));
    Value::Array(headings)
}

/// The cells of one object.
pub(crate) fn row(custom: &Custom, object: &Value, now: Timestamp) -> Vec<Value> {
    let mut cells = vec![object["metadata"]["name"].clone()];
    if custom.columns.is_empty() {
        cells.push(cell("date", &object["metadata"]["creationTimestamp"], now));
    }
    cells.extend(custom.columns.iter().map(|column| {
        let found = column.path.as_ref().and_then(|path| path.first(object));
        found.map_or(Value::Null, |value| cell(&column.column_type, value, now))
    }));
    cells
}

/// A value as a column of a type shows it; null for one that does not fit.
fn cell(column_type: &str, value: &Value, now: Timestamp) -> Value {
    match (column_type, value) {
        ("string", Value::String(_)) | ("boolean", Value::Bool(_)) | ("number", Value::Number(_)) => value.clone(),
        ("string", Value::Null) => Value::Null,
        ("string", other) => other.to_string().into(),
        ("integer", Value::Number(number)) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => whole.into(),
            #[expect(clippy::cast_possible_truncation, reason = "a column shows the whole part, as upstream's does")]
            (None, Some(real)) => (real as i64).into(),
            (None, None) => Value::Null,
        },
        ("date", Value::String(text)) => match text.parse::<Timestamp>() {
            Ok(then) => human(now.duration_since(then).as_secs()).into(),
            Err(_) => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}
