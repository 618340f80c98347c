//! Text: parts, positions, cases. Positions count characters.

use crate::catalogue::{Arguments, Rows};
use crate::error::EvaluationError;
use crate::library::{LONGEST_TEXT, fail, formatting, length, mismatch, only_text};
use crate::meter::Price::{Fixed, Length, Result as OfResult, Search};
use crate::value::{Evaluated, Value};

fn two<'c>(arguments: &'c Arguments<'_, '_>) -> Result<(&'c str, &'c str), EvaluationError> {
    match arguments.values {
        [Value::String(a), Value::String(b)] => Ok((a, b)),
        _ => Err(EvaluationError::no_such_overload()),
    }
}

fn contains<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    two(arguments).map(|(text, part)| Value::Bool(text.contains(part)))
}

fn starts_with<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    two(arguments).map(|(text, part)| Value::Bool(text.starts_with(part)))
}

fn ends_with<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    two(arguments).map(|(text, part)| Value::Bool(text.ends_with(part)))
}

fn lower<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    Ok(Value::text(only_text(arguments)?.to_ascii_lowercase()))
}

fn upper<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    Ok(Value::text(only_text(arguments)?.to_ascii_uppercase()))
}

fn trim<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    Ok(Value::text(only_text(arguments)?.trim()))
}

fn out_of_range<'a>(index: i64) -> Evaluated<'a> {
    fail(format!("index out of range: {index}"))
}

fn char_at<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let [Value::String(text), Value::Int(index)] = arguments.values else { return mismatch() };
    let count = text.chars().count();
    match usize::try_from(*index) {
        Ok(at) if at == count => Ok(Value::text("")),
        Ok(at) if at < count => Ok(Value::text(text.chars().skip(at).take(1).collect::<String>())),
        _ => out_of_range(*index),
    }
}

/// The byte at which a character begins; the end of the text for the position after the last one.
fn byte_at(text: &str, position: usize) -> Option<usize> {
    text.char_indices().map(|(at, _)| at).chain([text.len()]).nth(position)
}

pub(super) fn index_of<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let (text, part, offset) = match arguments.values {
        [Value::String(text), Value::String(part)] => (text, part, 0),
        [Value::String(text), Value::String(part), Value::Int(offset)] => (text, part, *offset),
        _ => return mismatch(),
    };
    if part.is_empty() {
        return Ok(Value::Int(offset));
    }
    let Some(start) = usize::try_from(offset).ok().and_then(|offset| byte_at(text, offset)) else {
        return out_of_range(offset);
    };
    Ok(text[start..].find(&**part).map_or(Value::Int(-1), |at| length(text[..start + at].chars().count())))
}

pub(super) fn last_index_of<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let (text, part, offset) = match arguments.values {
        [Value::String(text), Value::String(part)] => (text, part, None),
        [Value::String(text), Value::String(part), Value::Int(offset)] => (text, part, Some(*offset)),
        _ => return mismatch(),
    };
    let count = text.chars().count();
    if part.is_empty() {
        return Ok(offset.map_or_else(|| length(count), Value::Int));
    }
    let latest = match offset {
        None => text.len(),
        Some(offset) => match usize::try_from(offset).ok().filter(|offset| *offset < count) {
            Some(position) => byte_at(text, position).unwrap_or(text.len()),
            None => return out_of_range(offset),
        },
    };
    let end = latest.saturating_add(part.len()).min(text.len());
    let end = text.floor_char_boundary(end);
    let found = text[..end].rfind(&**part).filter(|at| *at <= latest);
    Ok(found.map_or(Value::Int(-1), |at| length(text[..at].chars().count())))
}

fn replace<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let (text, from, to, count) = match arguments.values {
        [Value::String(text), Value::String(from), Value::String(to)] => (text, from, to, usize::MAX),
        [Value::String(text), Value::String(from), Value::String(to), Value::Int(count)] => {
            (text, from, to, usize::try_from(*count).unwrap_or(usize::MAX))
        }
        _ => return mismatch(),
    };
    let most = if from.is_empty() { text.len() + 1 } else { text.len() / from.len() }.min(count);
    if text.len().saturating_add(most.saturating_mul(to.len())) > LONGEST_TEXT
        && text.len().saturating_add(text.matches(&**from).count().min(count).saturating_mul(to.len())) > LONGEST_TEXT
    {
        return fail("string is too long");
    }
    Ok(Value::text(text.replacen(&**from, to, count)))
}

fn split<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let (text, separator, limit) = match arguments.values {
        [Value::String(text), Value::String(separator)] => (text, separator, -1),
        [Value::String(text), Value::String(separator), Value::Int(limit)] => (text, separator, *limit),
        _ => return mismatch(),
    };
    let most = match usize::try_from(limit) {
        Ok(0) => return Ok(Value::list(Vec::new())),
        Ok(most) => most,
        Err(_) => usize::MAX,
    };
    let parts: Vec<Value<'a>> = if separator.is_empty() {
        // Every character by itself; the last part has the rest.
        let mut parts = Vec::new();
        let mut rest: &str = text;
        while let Some(first) = rest.chars().next() {
            if parts.len() + 1 == most {
                parts.push(Value::text(rest));
                break;
            }
            parts.push(Value::text(&rest[..first.len_utf8()]));
            rest = &rest[first.len_utf8()..];
        }
        parts
    } else {
        text.splitn(most, &**separator).map(Value::text).collect()
    };
    Ok(Value::list(parts))
}

fn substring<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let (text, start, end) = match arguments.values {
        [Value::String(text), Value::Int(start)] => (text, *start, None),
        [Value::String(text), Value::Int(start), Value::Int(end)] => (text, *start, Some(*end)),
        _ => return mismatch(),
    };
    let place = |position: i64| usize::try_from(position).ok().and_then(|position| byte_at(text, position));
    if let Some(end) = end
        && start > end
    {
        return fail(format!("invalid substring range. start: {start}, end: {end}"));
    }
    let Some(from) = place(start) else { return out_of_range(start) };
    let to = match end {
        None => text.len(),
        Some(end) => match place(end) {
            Some(to) => to,
            None => return out_of_range(end),
        },
    };
    Ok(Value::text(&text[from..to]))
}

fn join<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let (list, separator) = match arguments.values {
        [Value::List(list)] => (list, ""),
        [Value::List(list), Value::String(separator)] => (list, &**separator),
        _ => return mismatch(),
    };
    let mut joined = String::new();
    for (index, item) in list.iter().enumerate() {
        let Value::String(item) = item? else { return mismatch() };
        if index > 0 {
            joined.push_str(separator);
        }
        joined.push_str(&item);
        if joined.len() > LONGEST_TEXT {
            return fail("string is too long");
        }
    }
    Ok(Value::text(joined))
}

fn quote<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let text = only_text(arguments)?;
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            '\\' => quoted.push_str("\\\\"),
            '"' => quoted.push_str("\\\""),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    Ok(Value::text(quoted))
}

pub(crate) const FUNCTIONS: Rows = &[
    ("contains", contains, &[("string.(string) bool", Search)]),
    ("startsWith", starts_with, &[("string.(string) bool", Length(0, 0.1))]),
    ("endsWith", ends_with, &[("string.(string) bool", Length(0, 0.1))]),
    ("charAt", char_at, &[("string.(int) string", Fixed(1))]),
    ("lowerAscii", lower, &[("string.() string", Length(0, 0.1))]),
    ("upperAscii", upper, &[("string.() string", Length(0, 0.1))]),
    ("trim", trim, &[("string.() string", Length(0, 0.1))]),
    (
        "replace",
        replace,
        &[("string.(string, string) string", Length(0, 0.2)), ("string.(string, string, int) string", Length(0, 0.2))],
    ),
    (
        "split",
        split,
        &[("string.(string) list(string)", Length(0, 0.2)), ("string.(string, int) list(string)", Length(0, 0.2))],
    ),
    ("substring", substring, &[("string.(int) string", Length(0, 0.1)), ("string.(int, int) string", Length(0, 0.1))]),
    ("join", join, &[("list(string).() string", OfResult(0.2)), ("list(string).(string) string", OfResult(0.2))]),
    ("strings.quote", quote, &[("(string) string", Length(0, 0.1))]),
    ("format", formatting::format, &[("string.(list(dyn)) string", Length(0, 0.1))]),
];
