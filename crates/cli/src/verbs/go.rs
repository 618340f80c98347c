//! Values as Go's `fmt` prints them, where kubectl's output shows them so. Pure.

use serde_json::Value;

/// `%v` of a decoded JSON value.
pub fn value(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => whole.to_string(),
            (_, Some(float)) => self::float(float),
            _ => number.to_string(),
        },
        Value::Array(items) => format!("[{}]", items.iter().map(self::value).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|(name, value)| format!("{name}:{}", self::value(value))).collect();
            format!("map[{}]", fields.join(" "))
        }
    }
}

/// The same where every number is a floating-point one, as Go's `encoding/json` reads them.
pub fn decoded(value: &Value) -> String {
    match value {
        Value::Number(number) => number.as_f64().map_or_else(|| number.to_string(), float),
        Value::Array(items) => format!("[{}]", items.iter().map(decoded).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => {
            let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}:{}", decoded(value))).collect();
            format!("map[{}]", fields.join(" "))
        }
        other => self::value(other),
    }
}

/// `%v` of a floating-point number: the shortest text, with an exponent for the very small and the very large.
pub fn float(number: f64) -> String {
    let magnitude = number.abs();
    if magnitude != 0.0 && !(1e-4..1e6).contains(&magnitude) {
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    number.to_string()
}

/// `%v` of a list of texts.
pub fn list(texts: &[String]) -> String {
    format!("[{}]", texts.join(" "))
}

/// `%v` of a map of texts.
pub fn map<'p>(pairs: impl IntoIterator<Item = (&'p str, String)>) -> String {
    let pairs: Vec<String> = pairs.into_iter().map(|(name, value)| format!("{name}:{value}")).collect();
    format!("map[{}]", pairs.join(" "))
}

/// `%q` of a text.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            letter if u32::from(letter) < 0x20 || letter == '\u{7f}' => {
                out.push_str(&format!("\\x{:02x}", u32::from(letter)));
            }
            letter if letter.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(letter))),
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn as_go_prints() {
        let check = |given: Value, expected: &str| assert_eq!(value(&given), expected, "{given}");
        check(Value::Null, "<nil>");
        check(json!(true), "true");
        check(json!(12), "12");
        check(json!(0.5), "0.5");
        check(json!(1e21), "1e+21");
        check(json!(999999.5), "999999.5");
        check(json!(1e6), "1e+06");
        check(json!(1.5e-7), "1.5e-07");
        check(json!(2.0), "2");
        check(json!(["a", 1, null]), "[a 1 <nil>]");
        check(json!({"b": [1], "a": {}}), "map[a:map[] b:[1]]");
        assert_eq!(quoted("a\"b\\\n\u{1b}ö"), "\"a\\\"b\\\\\\n\\x1bö\"");
    }
}
