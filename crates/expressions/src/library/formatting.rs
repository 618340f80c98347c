//! `'...'.format([...])`: the clauses `%s %d %f %e %b %x %X %o %%`.

use std::fmt::Write as _;

use crate::catalogue::Arguments;
use crate::error::EvaluationError;
use crate::library::{LONGEST_TEXT, convert, mismatch, time};
use crate::value::{Evaluated, List, Map, Value};

/// The most digits after the point; upstream's number.
const MOST_DIGITS: usize = 1000;
/// How many digits stand after the point when none are asked for.
const DIGITS: usize = 6;
/// How deep lists and maps are written out.
const DEEPEST: usize = 64;

pub(super) fn format<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let [Value::String(template), Value::List(values)] = arguments.values else { return mismatch() };
    render(template, values).map(Value::text)
}

fn failed(message: impl Into<std::borrow::Cow<'static, str>>) -> EvaluationError {
    EvaluationError::failed(message)
}

fn render(template: &str, values: &List<'_>) -> Result<String, EvaluationError> {
    let mut text = String::with_capacity(template.len() + 16);
    let mut next = 0;
    let mut rest = template;
    while let Some(at) = rest.find('%') {
        text.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            text.push('%');
            rest = after;
            continue;
        }
        let (digits, after) = precision(rest)?;
        let clause = after.chars().next().ok_or_else(|| failed("unexpected end of string"))?;
        rest = &after[clause.len_utf8()..];
        let value = values.get(next).ok_or_else(|| failed(format!("index {next} out of range")))??;
        next += 1;
        write_clause(&mut text, clause, digits, &value)?;
        if text.len() > LONGEST_TEXT {
            return Err(failed("string is too long"));
        }
    }
    text.push_str(rest);
    Ok(text)
}

/// `.3` before a clause.
fn precision(rest: &str) -> Result<(Option<usize>, &str), EvaluationError> {
    let Some(digits) = rest.strip_prefix('.') else { return Ok((None, rest)) };
    let end = digits.find(|c: char| !c.is_ascii_digit());
    let end = end.ok_or_else(|| failed("error while parsing precision: could not find end of precision specifier"))?;
    if end == 0 {
        return Ok((None, digits));
    }
    match digits[..end].parse::<usize>() {
        Ok(count) if count <= MOST_DIGITS => Ok((Some(count), &digits[end..])),
        _ => Err(failed(format!(
            "error while parsing precision: precision {} exceeds maximum allowed precision {MOST_DIGITS}",
            &digits[..end]
        ))),
    }
}

fn write_clause(
    text: &mut String,
    clause: char,
    digits: Option<usize>,
    value: &Value<'_>,
) -> Result<(), EvaluationError> {
    let wrong = |what: &str, allowed: &str| {
        let name = value.type_of();
        failed(format!(
            "error during formatting: {what} clause can only be used on {allowed}, was given {}",
            name.runtime_name()
        ))
    };
    let written = match (clause, value) {
        ('s', value) => {
            plain(text, value, DEEPEST)?;
            Ok(())
        }
        ('d', Value::Int(number)) => write!(text, "{number}"),
        ('d', Value::Uint(number)) => write!(text, "{number}"),
        ('d', _) => return Err(wrong("decimal", "integers")),
        ('f', value) => {
            let number = float(value).ok_or_else(|| wrong("fixed-point", "doubles"))?;
            text.push_str(&special(number).unwrap_or_else(|| format!("{number:.*}", digits.unwrap_or(DIGITS))));
            Ok(())
        }
        ('e', value) => {
            let number = float(value).ok_or_else(|| wrong("scientific", "doubles"))?;
            text.push_str(&special(number).unwrap_or_else(|| scientific(number, digits.unwrap_or(DIGITS))));
            Ok(())
        }
        ('b', Value::Int(number)) => write!(text, "{}{:b}", sign(*number), number.unsigned_abs()),
        ('b', Value::Uint(number)) => write!(text, "{number:b}"),
        ('b', Value::Bool(truth)) => write!(text, "{}", u8::from(*truth)),
        ('b', _) => {
            return Err(wrong("only integers and bools can be formatted as binary; binary", "integers and bools"));
        }
        ('x', Value::Int(number)) => write!(text, "{}{:x}", sign(*number), number.unsigned_abs()),
        ('X', Value::Int(number)) => write!(text, "{}{:X}", sign(*number), number.unsigned_abs()),
        ('x', Value::Uint(number)) => write!(text, "{number:x}"),
        ('X', Value::Uint(number)) => write!(text, "{number:X}"),
        ('x' | 'X', Value::String(value)) => hexadecimal(text, value.as_bytes(), clause == 'X'),
        ('x' | 'X', Value::Bytes(value)) => hexadecimal(text, value, clause == 'X'),
        ('x' | 'X', _) => return Err(wrong("hex", "integers, byte buffers, and strings")),
        ('o', Value::Int(number)) => write!(text, "{}{:o}", sign(*number), number.unsigned_abs()),
        ('o', Value::Uint(number)) => write!(text, "{number:o}"),
        ('o', _) => return Err(wrong("octal", "integers")),
        (other, _) => return Err(failed(format!("unrecognized formatting clause \"{other}\""))),
    };
    written.map_err(|_| failed("text could not be written"))
}

fn sign(number: i64) -> &'static str {
    if number < 0 { "-" } else { "" }
}

fn float(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Double(number) => Some(*number),
        Value::String(text) => match &**text {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

fn special(number: f64) -> Option<String> {
    if number.is_nan() {
        Some("NaN".to_owned())
    } else if number.is_infinite() {
        Some(if number > 0.0 { "∞" } else { "-∞" }.to_owned())
    } else {
        None
    }
}

/// `1.234560\u{202f}×\u{202f}10⁰³`: upstream prints for the locale en_US.
fn scientific(number: f64, digits: usize) -> String {
    let text = format!("{number:.digits$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (minus, exponent) = exponent.strip_prefix('-').map_or(("", exponent), |rest| ("⁻", rest));
    let raised: String = format!("{exponent:0>2}")
        .chars()
        .map(|digit| match digit {
            '1' => '¹',
            '2' => '²',
            '3' => '³',
            other => other.to_digit(10).and_then(|digit| char::from_u32(0x2070 + digit)).unwrap_or(other),
        })
        .collect();
    format!("{mantissa}\u{202f}×\u{202f}10{minus}{raised}")
}

fn hexadecimal(text: &mut String, bytes: &[u8], upper: bool) -> std::fmt::Result {
    bytes.iter().try_for_each(|byte| if upper { write!(text, "{byte:02X}") } else { write!(text, "{byte:02x}") })
}

/// The value as `%s` writes it.
fn plain(text: &mut String, value: &Value<'_>, depth: usize) -> Result<(), EvaluationError> {
    match value {
        Value::Null => text.push_str("null"),
        Value::List(_) | Value::Map(_) => nested(text, value, depth)?,
        Value::Held(_) | Value::Authorization(_) | Value::Optional(_) | Value::Object(_) | Value::Record(_) => {
            let name = value.type_of();
            return Err(failed(format!(
                "error during formatting: string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps, was given {}",
                name.runtime_name()
            )));
        }
        other => text.push_str(&convert::to_text(other)?),
    }
    Ok(())
}

/// The value inside a list or map, in the language's own notation.
fn nested(text: &mut String, value: &Value<'_>, depth: usize) -> Result<(), EvaluationError> {
    let depth = depth.checked_sub(1).ok_or_else(|| failed("value is nested too deeply"))?;
    if text.len() > LONGEST_TEXT {
        return Err(failed("string is too long"));
    }
    match value {
        Value::List(list) => {
            text.push('[');
            for (index, item) in list.iter().enumerate() {
                if index > 0 {
                    text.push_str(", ");
                }
                nested(text, &item?, depth)?;
            }
            text.push(']');
        }
        Value::Map(map) => write_map(text, map, depth)?,
        Value::String(inner) => text.push_str(&format!("{:?}", &**inner)),
        Value::Bytes(bytes) => text.push_str(&format!("b{:?}", String::from_utf8_lossy(bytes))),
        Value::Double(number) => {
            text.push_str(&special(*number).map_or_else(|| format!("{number:.6}"), |word| format!("\"{word}\"")));
        }
        Value::Timestamp(at) => text.push_str(&format!("timestamp({:?})", time::format_timestamp(*at))),
        Value::Duration(nanos) => text.push_str(&format!("duration({:?})", time::format_duration(*nanos))),
        other => plain(text, other, depth)?,
    }
    Ok(())
}

fn write_map(text: &mut String, map: &Map<'_>, depth: usize) -> Result<(), EvaluationError> {
    let mut entries = Vec::new();
    for key in map.keys() {
        let mut entry = (String::new(), String::new());
        nested(&mut entry.0, &key, depth)?;
        if let Some(value) = map.get(&key) {
            nested(&mut entry.1, &value?, depth)?;
        }
        entries.push(entry);
    }
    entries.sort();
    let entries: Vec<String> = entries.into_iter().map(|(key, value)| format!("{key}:{value}")).collect();
    text.push('{');
    text.push_str(&entries.join(", "));
    text.push('}');
    Ok(())
}
