//! `fieldPath`: where the failure of a rule is reported, `.spec.a` or `['a b']`.

use serde_json::Value as Json;

/// The path as errors write it; `None` when it does not lead to a field of the schema.
pub(super) fn normalize(path: &str, schema: &Json) -> Option<String> {
    let mut place = schema;
    let mut text = String::new();
    let mut rest = path;
    while !rest.is_empty() {
        let name;
        if let Some(after) = rest.strip_prefix("['") {
            let (quoted, after) = quoted(after)?;
            name = quoted;
            rest = after.strip_prefix(']')?;
        } else {
            let after = rest.strip_prefix('.')?;
            let end = after.find(['.', '[', ']']).unwrap_or(after.len());
            name = after[..end].to_owned();
            rest = &after[end..];
        }
        if name.is_empty() {
            return None;
        }
        if place["properties"].is_object() {
            place = place["properties"].get(&name)?;
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(&name);
        } else {
            place = place.get("additionalProperties").filter(|values| values.is_object())?;
            text.push_str(&format!("[{name}]"));
        }
    }
    (!text.is_empty()).then_some(text)
}

/// The text up to the closing quote, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\'' => return Some((name, &text[at + 1..])),
            '\\' => name.push(match characters.next()?.1 {
                'a' => '\u{7}',
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'v' => '\u{b}',
                same @ ('\'' | '\\') => same,
                _ => return None,
            }),
            other => name.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths() {
        let schema = json!({"properties": {
            "a": {"properties": {"b c": {"type": "string"}}},
            "m": {"additionalProperties": {"properties": {"x": {}}}},
        }});
        let check = |path: &str, expected: Option<&str>| {
            assert_eq!(normalize(path, &schema).as_deref(), expected, "{path}");
        };
        check(".a", Some("a"));
        check(".a['b c']", Some("a.b c"));
        check(".m['k\\'s'].x", Some("m[k's].x"));
        check("a", None);
        check(".missing", None);
        check(".a.", None);
        check(".a['b c'", None);
        check(".a[0]", None);
    }
}
