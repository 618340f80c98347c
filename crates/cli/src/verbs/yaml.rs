//! Objects as YAML and JSON in kubectl's bytes: both go through Go's libraries there, kustomize's emitter imitates the one,
//! the other is written here. Pure.

use anyhow::{Result, anyhow};
use kobune_kustomize::emit;
use kobune_kustomize::node::{Map, Node, Scalar};
use serde_json::Value;

/// An object as YAML: keys in the order in which people count, long texts folded.
pub fn yaml(value: &Value) -> Result<String> {
    emit::object(&node(value)).map_err(|(_, problem)| anyhow!("write YAML: {problem}"))
}

fn node(value: &Value) -> Node {
    match value {
        Value::Null => Node::Scalar(Scalar::open("null")),
        Value::Bool(value) => Node::Scalar(Scalar::open(value.to_string())),
        Value::Number(number) => Node::Scalar(Scalar::open(number.to_string())),
        Value::String(text) => Node::Scalar(Scalar::string(text.clone())),
        Value::Array(items) => Node::List(items.iter().map(node).collect()),
        Value::Object(fields) => {
            let entries = fields.iter().map(|(name, value)| (Scalar::string(name.clone()), node(value)));
            Node::Map(Map { entries: entries.collect() })
        }
    }
}

/// An object as JSON: four spaces, and what HTML would take for its own escaped.
pub fn json(value: &Value) -> Result<String> {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    serde::Serialize::serialize(value, &mut serializer)?;
    let text = String::from_utf8(out)?;
    let mut escaped = String::with_capacity(text.len() + 1);
    for letter in text.chars() {
        match letter {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => escaped.push_str(&format!("\\u{:04x}", u32::from(letter))),
            letter => escaped.push(letter),
        }
    }
    escaped.push('\n');
    Ok(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn as_go_writes_it() {
        let text = json(&json!({"a": ["<&>"], "b": {}})).unwrap();
        assert_eq!(text, "{\n    \"a\": [\n        \"\\u003c\\u0026\\u003e\"\n    ],\n    \"b\": {}\n}\n");
        let check =
            |value: Value, expected: &str| assert_eq!(yaml(&json!({"a": value})).unwrap(), format!("a: {expected}\n"));
        check(json!("10.0.0.1"), "10.0.0.1");
        check(json!("2026-11-24T01:16:29Z"), "\"2026-11-24T01:16:29Z\"");
        check(json!("1"), "\"1\"");
        check(json!("yes"), "\"yes\"");
        check(json!("*"), "'*'");
        check(json!("a: b"), "'a: b'");
        check(json!("a\nb\tc\n"), "\"a\\nb\\tc\\n\"");
        check(json!("a\nb\n"), "|\n  a\n  b");
        check(json!(1234567.5), "1.2345675e+06");
        check(json!(0.00001), "1e-05");
        check(json!(18446744073709551615_u64), "18446744073709551615");
        check(json!([]), "[]");
        assert_eq!(
            yaml(&json!({"a": [{"b": null}]})).unwrap(),
            "a:
- b: null
"
        );
    }
}
