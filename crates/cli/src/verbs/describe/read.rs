//! Reading objects as Go's typed decoding would: what is missing is empty, whatever is of the wrong type is shown as it is.
//! Nothing here fails, so that no object can keep the rest of a description from being printed.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use kobune_kinds::quantity::Quantity;
use serde_json::Value;

use crate::verbs::go;

/// A text; of anything else what Go's `%v` prints.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => go::value(other),
    }
}

/// A text, or what stands for none.
pub fn text_or(value: &Value, none: &str) -> String {
    let text = text(value);
    if text.is_empty() { none.to_owned() } else { text }
}

/// A whole number.
pub fn int(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// Whether a field is set and true.
pub fn is(value: &Value) -> bool {
    value.as_bool().unwrap_or(false)
}

/// A list; of anything else none.
pub fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The texts of a list.
pub fn texts(value: &Value) -> Vec<String> {
    items(value).iter().map(text).collect()
}

/// Names and texts of a map, by name.
pub fn pairs(value: &Value) -> Vec<(&str, String)> {
    let mut pairs: Vec<(&str, String)> =
        value.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), text(value))).collect();
    pairs.sort_by(|one, other| one.0.cmp(other.0));
    pairs
}

/// Whether a map has nothing in it.
pub fn is_empty(value: &Value) -> bool {
    value.as_object().is_none_or(serde_json::Map::is_empty)
}

/// A number or a text, as `IntOrString` prints it.
pub fn int_or_string(value: &Value) -> String {
    if value.is_null() { "<nil>".to_owned() } else { text(value) }
}

/// A quantity in its canonical form; none is zero.
pub fn quantity_text(value: &Value) -> String {
    match value {
        Value::Null => "0".to_owned(),
        value => {
            let written = text(value);
            kobune_kinds::quantity::canonical(&written).unwrap_or(written)
        }
    }
}

/// A quantity; what is none counts as zero.
pub fn quantity(value: &Value) -> Quantity {
    text(value).parse().unwrap_or_default()
}

/// `True` or `False`.
pub fn yes(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

/// `True`, `False`, or that it is not set.
pub fn yes_or_unset(value: &Value) -> &'static str {
    if value.is_null() { "<unset>" } else { yes(is(value)) }
}

/// A point in time.
pub fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// A point in time in the form of RFC 1123 with the machine's own zone.
pub fn moment(value: &Value) -> String {
    match time(value) {
        Some(time) => time.to_zoned(TimeZone::system()).strftime("%a, %d %b %Y %H:%M:%S %z").to_string(),
        None => "Mon, 01 Jan 0001 00:00:00 +0000".to_owned(),
    }
}

/// A point in time as Go prints it without being asked for a form.
pub fn go_moment(value: &Value) -> String {
    match time(value) {
        Some(time) => {
            let zoned = time.to_zoned(TimeZone::system());
            let fraction = zoned.subsec_nanosecond();
            let fraction =
                if fraction == 0 { String::new() } else { format!(".{fraction:09}").trim_end_matches('0').to_owned() };
            format!("{}{fraction} {}", zoned.strftime("%Y-%m-%d %H:%M:%S"), zoned.strftime("%z %Z"))
        }
        None => "0001-01-01 00:00:00 +0000 UTC".to_owned(),
    }
}

/// How long ago something was.
pub fn since(value: &Value, now: Timestamp) -> String {
    match time(value) {
        Some(time) => kobune_kinds::duration::human(seconds_between(time, now)),
        None => "<unknown>".to_owned(),
    }
}

/// Whole seconds from one point in time to a later one.
pub fn seconds_between(from: Timestamp, to: Timestamp) -> i64 {
    ((to.as_nanosecond() - from.as_nanosecond()) / 1_000_000_000).try_into().unwrap_or(i64::MAX)
}

/// A `metav1.LabelSelector` as text (`metav1.FormatLabelSelector`).
pub fn selector(value: &Value) -> String {
    let text = selector_query(value).unwrap_or_else(|| "<error>".to_owned());
    if text.is_empty() { "<none>".to_owned() } else { text }
}

/// A `metav1.LabelSelector` as a query; none if it is wrong, empty for nothing and for everything.
pub fn selector_query(value: &Value) -> Option<String> {
    let mut requirements: Vec<(String, String)> = Vec::new();
    for (key, value) in pairs(&value["matchLabels"]) {
        requirements.push((key.to_owned(), format!("{key}={value}")));
    }
    for expression in items(&value["matchExpressions"]) {
        let key = text(&expression["key"]);
        let mut values = texts(&expression["values"]);
        values.sort();
        let values = values.join(",");
        let shown = match expression["operator"].as_str()? {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.clone(),
            "DoesNotExist" => format!("!{key}"),
            _ => return None,
        };
        requirements.push((key, shown));
    }
    requirements.sort_by(|one, other| one.0.cmp(&other.0));
    Some(requirements.into_iter().map(|(_, shown)| shown).collect::<Vec<_>>().join(","))
}

/// Labels in one line (`labels.FormatLabels`).
pub fn labels(value: &Value) -> String {
    let pairs: Vec<String> = pairs(value).into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

/// The owner that controls an object.
pub fn controller(object: &Value) -> Option<&Value> {
    items(&object["metadata"]["ownerReferences"]).iter().find(|owner| is(&owner["controller"]))
}

/// A text of at most so many bytes, and three dots when there was more.
pub fn shortened(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}...", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors() {
        let check = |value: Value, expected: &str| assert_eq!(selector(&value), expected, "{value}");
        check(Value::Null, "<none>");
        check(json!({}), "<none>");
        check(json!({"matchLabels": {"b": "c", "a": "d"}}), "a=d,b=c");
        check(
            json!({"matchLabels": {"m": "n"}, "matchExpressions": [
                {"key": "z", "operator": "In", "values": ["y", "x"]}, {"key": "a", "operator": "DoesNotExist"},
                {"key": "q", "operator": "Exists"}, {"key": "k", "operator": "NotIn", "values": ["v"]}]}),
            "!a,k notin (v),m=n,q,z in (x,y)",
        );
        check(json!({"matchExpressions": [{"key": "z", "operator": "Gt"}]}), "<error>");
        check(json!([1]), "<none>");
    }

    #[test]
    fn odd_values() {
        assert_eq!(text(&json!([1, {"a": null}])), "[1 map[a:<nil>]]");
        assert_eq!(quantity_text(&json!("0.5")), "500m");
        assert_eq!(quantity_text(&json!("many")), "many");
        assert_eq!(moment(&json!(7)), "Mon, 01 Jan 0001 00:00:00 +0000");
        assert_eq!(since(&Value::Null, Timestamp::UNIX_EPOCH), "<unknown>");
        assert_eq!(since(&json!("1970-01-01T00:00:00Z"), Timestamp::from_second(125).unwrap()), "2m5s");
        assert_eq!(shortened("aöb", 2), "a...");
    }
}
