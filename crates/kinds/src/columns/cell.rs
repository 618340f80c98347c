//! Reading objects for cells: absent values are empty, and what several tables write alike.

use jiff::Timestamp;
use serde_json::Value;

use crate::duration::human;

pub(super) const NONE: &str = "<none>";
pub(super) const UNKNOWN: &str = "<unknown>";
pub(super) const UNSET: &str = "<unset>";

/// The text at `pointer`.
pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The text at `pointer`, or `other` when there is none.
pub(super) fn text_or<'a>(object: &'a Value, pointer: &str, other: &'a str) -> &'a str {
    Some(text(object, pointer)).filter(|text| !text.is_empty()).unwrap_or(other)
}

/// The number at `pointer`.
pub(super) fn int(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// Whether `true` stands at `pointer`.
pub(super) fn flag(object: &Value, pointer: &str) -> bool {
    object.pointer(pointer).and_then(Value::as_bool).unwrap_or_default()
}

/// The list at `pointer`.
pub(super) fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The strings of the list at `pointer`.
pub(super) fn texts<'a>(object: &'a Value, pointer: &str) -> Vec<&'a str> {
    list(object, pointer).iter().filter_map(Value::as_str).collect()
}

/// How many entries the map or list at `pointer` has.
pub(super) fn count(object: &Value, pointer: &str) -> usize {
    match object.pointer(pointer) {
        Some(Value::Object(map)) => map.len(),
        Some(Value::Array(list)) => list.len(),
        _ => 0,
    }
}

/// A number or a string as a cell shows it.
pub(super) fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The scalar at `pointer` as text, or `other`.
pub(super) fn scalar_or(object: &Value, pointer: &str, other: &str) -> String {
    object.pointer(pointer).filter(|value| !value.is_null()).map_or_else(|| other.to_owned(), shown)
}

/// `text`, or `<none>` in the place of nothing.
pub(super) fn or_none(text: String) -> String {
    if text.is_empty() { NONE.to_owned() } else { text }
}

/// The first `max` entries and how many more there are.
pub(super) fn shortened(entries: &[String], max: usize) -> String {
    let shown = entries[..entries.len().min(max)].join(",");
    if entries.len() > max { format!("{shown} + {} more...", entries.len() - max) } else { shown }
}

pub(super) fn name(object: &Value) -> Value {
    text(object, "/metadata/name").into()
}

pub(super) fn time(object: &Value, pointer: &str) -> Option<Timestamp> {
    text(object, pointer).parse().ok()
}

/// How long ago the time at `pointer` was.
pub(super) fn since(object: &Value, pointer: &str, now: Timestamp) -> Option<String> {
    time(object, pointer).map(|then| between(then, now))
}

/// The length of time between two moments.
pub(super) fn between(from: Timestamp, to: Timestamp) -> String {
    human(to.duration_since(from).as_secs())
}

pub(super) fn age(object: &Value, now: Timestamp) -> Value {
    since(object, "/metadata/creationTimestamp", now).unwrap_or_else(|| UNKNOWN.to_owned()).into()
}

/// The condition of a type.
pub(super) fn condition<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    list(object, "/status/conditions").iter().find(|condition| condition["type"] == name)
}

/// Whether the condition of a type holds.
pub(super) fn holds(object: &Value, name: &str) -> bool {
    condition(object, name).is_some_and(|condition| condition["status"] == "True")
}

/// Names and images of the containers below `pointer` (a pod's `spec`).
pub(super) fn containers(object: &Value, pointer: &str) -> [Value; 2] {
    let all = list(object, &format!("{pointer}/containers"));
    let joined = |field: &str| all.iter().map(|each| text(each, field)).collect::<Vec<_>>().join(",").into();
    [joined("/name"), joined("/image")]
}

/// A map of labels: `a=b,c=d`.
pub(super) fn labels(map: Option<&Value>) -> String {
    let pairs = map.and_then(Value::as_object).into_iter().flatten();
    or_none(pairs.map(|(key, value)| format!("{key}={}", shown(value))).collect::<Vec<_>>().join(","))
}

/// A label selector: `a=b,c in (d,e)`.
pub(super) fn selector(selector: Option<&Value>) -> String {
    let Some(selector) = selector else { return NONE.to_owned() };
    let mut terms: Vec<(String, String)> = Vec::new();
    for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
        terms.push((key.clone(), format!("{key}={}", shown(value))));
    }
    for expression in list(selector, "/matchExpressions") {
        let key = text(expression, "/key");
        let mut values = texts(expression, "/values");
        values.sort_unstable();
        let values = values.join(",");
        let term = match text(expression, "/operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => return "<error>".to_owned(),
        };
        terms.push((key.to_owned(), term));
    }
    // As upstream's selectors are: sorted by key.
    terms.sort_by(|a, b| a.0.cmp(&b.0));
    or_none(terms.into_iter().map(|(_, term)| term).collect::<Vec<_>>().join(","))
}
