//! Objects as KYAML (KEP-5295): YAML in flow style, in which texts are always quoted and no blank means anything. Pure.

use serde_json::Value;

/// An object as a document.
pub fn kyaml(value: &Value) -> String {
    let mut out = "---\n".to_owned();
    node(value, 0, &mut out);
    out.push('\n');
    out
}

fn indent(count: usize, out: &mut String) {
    (0..count).for_each(|_| out.push_str("  "));
}

fn node(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(&value.to_string()),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(text) => quoted(text, Some(depth + 1), out),
        Value::Array(items) if items.is_empty() => out.push_str("[]"),
        Value::Object(fields) if fields.is_empty() => out.push_str("{}"),
        // Brackets of lists and maps in a list stand together.
        Value::Array(items) if items.iter().all(|item| item.is_array() || item.is_object()) => {
            for (number, item) in items.iter().enumerate() {
                out.push_str(if number == 0 { "[" } else { ", " });
                node(item, depth, out);
            }
            out.push(']');
        }
        Value::Array(items) => {
            out.push_str("[\n");
            for item in items {
                indent(depth + 1, out);
                node(item, depth + 1, out);
                out.push_str(",\n");
            }
            indent(depth, out);
            out.push(']');
        }
        Value::Object(fields) => {
            out.push_str("{\n");
            for (name, value) in fields {
                indent(depth + 1, out);
                if is_plain(name) {
                    out.push_str(name);
                } else {
                    quoted(name, None, out);
                }
                out.push_str(": ");
                node(value, depth + 1, out);
                out.push_str(",\n");
            }
            indent(depth, out);
            out.push('}');
        }
    }
}

/// Whether a name needs no quotes: nobody takes it for anything but a text.
fn is_plain(name: &str) -> bool {
    let last = name.chars().count().saturating_sub(1);
    let fits = |(at, letter): (usize, char)| {
        letter.is_alphanumeric() || letter == '_' || (at > 0 && at < last && matches!(letter, '-' | '.' | '/'))
    };
    let lower = name.to_lowercase();
    let word = ["null", "true", "false", "t", "f", "y", "yes", "on", "n", "no", "off"].contains(&lower.as_str());
    !name.is_empty() && name.chars().enumerate().all(fits) && !word && !is_number(&lower) && !is_date(name)
}

fn is_number(text: &str) -> bool {
    let digits = text.replace('_', "");
    let radix = |prefix: &str, radix: u32| {
        digits.strip_prefix(prefix).is_some_and(|digits| u64::from_str_radix(digits, radix).is_ok())
    };
    digits.parse::<f64>().is_ok() || radix("0x", 16) || radix("0o", 8) || radix("0b", 2)
}

/// `2026-1-2` is a date, and so is `2026-01-02` with a time behind it.
fn is_date(text: &str) -> bool {
    let day = text.split(['T', 't', ' ']).next().unwrap_or_default();
    let parts: Vec<&str> = day.split('-').collect();
    parts.len() == 3 && parts[0].len() == 4 && parts.iter().all(|part| part.parse::<u32>().is_ok())
}

/// A text in quotes; one of several lines is written in lines, where there is a depth to write it at.
fn quoted(text: &str, depth: Option<usize>, out: &mut String) {
    let lines = depth.filter(|_| text.contains('\n'));
    out.push('"');
    let mut at_start = false;
    let fold = |out: &mut String| out.push_str("\\\n");
    if lines.is_some() {
        fold(out);
        at_start = true;
    }
    for letter in text.chars() {
        if at_start && let Some(depth) = lines {
            indent(depth, out);
            // Blanks at the start of a line would be lost; others get one before them, so that all stand below each other.
            out.push(if letter.is_whitespace() && letter != '\n' { '\\' } else { ' ' });
        }
        at_start = false;
        match letter {
            '\n' if lines.is_some() => {
                out.push_str("\\n");
                fold(out);
                at_start = true;
            }
            '\n' => out.push_str("\\n"),
            '\t' if depth.is_some() => out.push('\t'),
            '\t' => out.push_str("\\t"),
            '"' | '\\' => {
                out.push('\\');
                out.push(letter);
            }
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            '\u{b}' => out.push_str("\\v"),
            '\0' => out.push_str("\\0"),
            '\u{1b}' => out.push_str("\\e"),
            '\u{85}' => out.push_str("\\N"),
            '\u{a0}' => out.push_str("\\_"),
            '\u{2028}' => out.push_str("\\L"),
            '\u{2029}' => out.push_str("\\P"),
            letter if letter < ' ' || letter == '\u{7f}' => out.push_str(&format!("\\x{:02x}", u32::from(letter))),
            letter if letter.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(letter))),
            letter => out.push(letter),
        }
    }
    if let Some(depth) = lines {
        if !at_start {
            fold(out);
        }
        indent(depth, out);
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn documents() {
        let check = |value: Value, expected: &str| assert_eq!(kyaml(&json!({"a": value})), expected);
        check(json!(1), "---\n{\n  a: 1,\n}\n");
        check(json!("x\ty"), "---\n{\n  a: \"x\ty\",\n}\n");
        check(json!([1, "b"]), "---\n{\n  a: [\n    1,\n    \"b\",\n  ],\n}\n");
        check(json!([{"b": []}, {"c": {}}]), "---\n{\n  a: [{\n    b: [],\n  }, {\n    c: {},\n  }],\n}\n");
        check(json!("one\n two\n"), "---\n{\n  a: \"\\\n     one\\n\\\n    \\ two\\n\\\n    \",\n}\n");
        let keys = json!({"app.io/x": 0, "yes": 0, "1": 0, "2026-01-02": 0, "x-": 0, "null": 0});
        let text = kyaml(&keys);
        for key in ["app.io/x:", "\"yes\":", "\"1\":", "\"2026-01-02\":", "\"x-\":", "\"null\":"] {
            assert!(text.contains(key), "{key} {text}");
        }
    }
}
