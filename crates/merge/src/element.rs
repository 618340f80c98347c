//! Path elements in the form in which managedFields writes them: `f:name`, `k:{"name":"web"}`, `v:"value"`.
//!
//! The written form is the identity of an element: it is always made in the same, canonical way.

use std::borrow::Cow;

use kobune_kinds::SchemaRef;
use serde_json::{Map, Value};

/// A path element, as written.
pub(crate) type Element = Box<str>;

/// A field of a struct or a key of a map.
pub(crate) fn field(name: &str) -> Element {
    let mut element = String::with_capacity(2 + name.len());
    element.push_str("f:");
    element.push_str(name);
    element.into_boxed_str()
}

/// An item of a set; `None` if it is no scalar.
pub(crate) fn set_item(item: &Value) -> Option<Element> {
    match item {
        Value::Null | Value::Array(_) | Value::Object(_) => None,
        Value::String(text) => {
            let mut element = String::with_capacity(4 + text.len());
            element.push_str("v:");
            write_text(text, &mut element);
            Some(element.into_boxed_str())
        }
        scalar => Some(format!("v:{scalar}").into_boxed_str()),
    }
}

/// An item of a list whose items have keys; `None` if it is no object or has none of the keys. A key that the item lacks
/// takes its default from the schema.
pub(crate) fn keyed_item(item: &Value, keys: &[Box<str>], schema: Option<SchemaRef<'_>>) -> Option<Element> {
    let item = item.as_object()?;
    // Upstream's schema has the zero of a field that is always written as its default.
    let value_of = |key: &str| -> Option<Cow<'_, Value>> {
        item.get(key).map(Cow::Borrowed).or_else(|| {
            let field = schema.and_then(|schema| schema.field(key))?;
            let zero = || field.zero().filter(|zero| !zero.is_null()).map(Cow::Owned);
            field.default().map(Cow::Borrowed).or_else(zero)
        })
    };
    let mut element = String::with_capacity(32);
    element.push_str("k:{");
    let mut write = |key: &str| {
        if let Some(value) = value_of(key) {
            if element.len() > 3 {
                element.push(',');
            }
            write_text(key, &mut element);
            element.push(':');
            match &*value {
                Value::String(text) => write_text(text, &mut element),
                value => element.push_str(&value.to_string()),
            }
        }
    };
    if keys.is_sorted() {
        keys.iter().for_each(|key| write(key));
    } else {
        let mut sorted: Vec<&str> = keys.iter().map(|key| &**key).collect();
        sorted.sort_unstable();
        sorted.into_iter().for_each(&mut write);
    }
    let found = element.len() > 3;
    element.push('}');
    found.then(|| element.into_boxed_str())
}

/// Writes a JSON string as Go does, which escapes what HTML could take for markup; most need no escapes.
fn write_text(text: &str, out: &mut String) {
    let plain = |byte: u8| byte >= 0x20 && !matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&' | 0xE2);
    if text.bytes().all(plain) {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        for character in Value::from(text).to_string().chars() {
            match character {
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(character))),
                other => out.push(other),
            }
        }
    }
}

/// Reads an element that a client has written, bringing it into canonical form. `None` for forms that are not known.
pub(crate) fn read(written: &str) -> Option<Element> {
    let (kind, rest) = written.split_at_checked(2)?;
    match kind {
        "f:" => Some(written.into()),
        "i:" => rest.parse::<i64>().ok().map(|_| written.into()),
        "k:" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).ok()?;
            let names: Vec<Box<str>> = keys.keys().map(|name| name.as_str().into()).collect();
            keyed_item(&Value::Object(keys), &names, None).or_else(|| Some("k:{}".into()))
        }
        "v:" => {
            let value: Value = serde_json::from_str(rest).ok()?;
            set_item(&value).or_else(|| Some(format!("v:{value}").into_boxed_str()))
        }
        _ => None,
    }
}

/// Appends the element as conflicts show it: `.name`, `[name="web"]`, `[="value"]`.
pub(crate) fn show(element: &str, path: &mut String) {
    let (kind, rest) = element.split_at(2);
    match kind {
        "f:" => {
            path.push('.');
            path.push_str(rest);
        }
        "k:" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            path.push_str(&format!("[{}]", keys.join(",")));
        }
        // The value without the escapes that Go writes in JSON.
        "v:" => match serde_json::from_str::<Value>(rest) {
            Ok(value) => path.push_str(&format!("[={value}]")),
            Err(_) => path.push_str(&format!("[={rest}]")),
        },
        _ => path.push_str(&format!("[{rest}]")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_have_one_form() {
        let check = |written: &str, canonical: Option<&str>, shown: &str| {
            let element = read(written);
            assert_eq!(element.as_deref(), canonical);
            if let Some(element) = element {
                let mut path = String::new();
                show(&element, &mut path);
                assert_eq!(path, shown);
            }
        };
        check("f:spec", Some("f:spec"), ".spec");
        check(
            r#"k:{"protocol":"TCP", "port":80}"#,
            Some(r#"k:{"port":80,"protocol":"TCP"}"#),
            r#"[port=80,protocol="TCP"]"#,
        );
        check("v: \"a\"", Some("v:\"a\""), "[=\"a\"]");
        check(r#"k:{"a":"x<5%"}"#, Some(r#"k:{"a":"x\u003c5%"}"#), r#"[a="x<5%"]"#);
        check(r#"v:"a&b""#, Some(r#"v:"a\u0026b""#), r#"[="a&b"]"#);
        check("i:3", Some("i:3"), "[3]");
        for wrong in ["", "f", "k:[]", "k:{", "v:", "i:x", "z:1", "é:1"] {
            check(wrong, None, "");
        }
    }
}
