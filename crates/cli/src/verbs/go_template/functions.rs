//! The functions of Go templates (`text/template/funcs.go`, `k8s.io/cli-runtime/pkg/printers/template.go`).

use std::cmp::Ordering;

use base64::Engine as _;
use serde_json::Value;

use super::{Datum, run::shown};
use crate::verbs::go;

/// All of them.
pub const NAMES: [&str; 21] = [
    "and",
    "or",
    "not",
    "len",
    "index",
    "slice",
    "print",
    "printf",
    "println",
    "html",
    "js",
    "urlquery",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "call",
    "exists",
    "base64decode",
];

/// Whether a value counts as true: it is there, and not empty.
pub fn truth(value: &Datum) -> bool {
    match value {
        Datum::Nothing | Datum::Value(Value::Null) => false,
        Datum::Int(number) => *number != 0,
        Datum::Value(Value::Bool(value)) => *value,
        Datum::Value(Value::Number(number)) => number.as_f64() != Some(0.0),
        Datum::Value(Value::String(text)) => !text.is_empty(),
        Datum::Value(Value::Array(items)) => !items.is_empty(),
        Datum::Value(Value::Object(fields)) => !fields.is_empty(),
    }
}

/// Calls a function; what is wrong is said in Go's words.
pub fn call(name: &str, arguments: &[Datum]) -> Result<Datum, String> {
    let (least, most) = match name {
        "not" | "len" | "base64decode" => (1, 1),
        "index" | "slice" | "printf" | "call" | "exists" => (1, usize::MAX),
        "eq" => (1, usize::MAX),
        "ne" | "lt" | "le" | "gt" | "ge" => (2, 2),
        _ => (0, usize::MAX),
    };
    let count = arguments.len();
    if count < least || count > most {
        let want = if least == most { least.to_string() } else { format!("at least {least}") };
        return Err(format!("wrong number of args for {name}: want {want} got {count}"));
    }
    let boolean = |value: bool| Ok(Datum::Value(value.into()));
    let text = |text: String| Ok(Datum::Value(text.into()));
    let called = match name {
        "not" => boolean(!truth(&arguments[0])),
        "len" => length(&arguments[0]),
        "index" => index(&arguments[0], &arguments[1..]),
        "slice" => slice(&arguments[0], &arguments[1..]),
        "print" => text(print(arguments)),
        "println" => text(arguments.iter().map(formatted).collect::<Vec<_>>().join(" ") + "\n"),
        "printf" => match &arguments[0] {
            Datum::Value(Value::String(format)) => text(printf(format, &arguments[1..])),
            other => return Err(format!("wrong type for value; expected string; got {}", kind(other))),
        },
        "html" => text(html(&print(arguments))),
        "js" => text(js(&print(arguments))),
        "urlquery" => text(urlquery(&print(arguments))),
        "eq" if count == 1 => Err("missing argument for comparison".to_owned()),
        "eq" => equal(&arguments[0], &arguments[1..]).and_then(boolean),
        "ne" => equal(&arguments[0], &arguments[1..]).and_then(|equal| boolean(!equal)),
        "lt" => order(arguments).and_then(|order| boolean(order == Ordering::Less)),
        "le" => order(arguments).and_then(|order| boolean(order != Ordering::Greater)),
        "gt" => order(arguments).and_then(|order| boolean(order == Ordering::Greater)),
        "ge" => order(arguments).and_then(|order| boolean(order != Ordering::Less)),
        "exists" => boolean(index(&arguments[0], &arguments[1..]).is_ok_and(|found| found != Datum::Nothing)),
        "base64decode" => decode(&arguments[0]),
        _ => Err("call of nil".to_owned()),
    };
    called.map_err(|words| format!("error calling {name}: {words}"))
}

/// A value's type in Go's words.
fn kind(value: &Datum) -> &'static str {
    match value {
        Datum::Nothing | Datum::Value(Value::Null) => "<nil>",
        Datum::Int(_) => "int",
        Datum::Value(Value::Bool(_)) => "bool",
        Datum::Value(Value::Number(_)) => "float64",
        Datum::Value(Value::String(_)) => "string",
        Datum::Value(Value::Array(_)) => "[]interface {}",
        Datum::Value(Value::Object(_)) => "map[string]interface {}",
    }
}

/// A value as `fmt` prints it, which knows nil where an action knows nothing.
fn formatted(value: &Datum) -> String {
    match value {
        Datum::Nothing => "<nil>".to_owned(),
        value => shown(value),
    }
}

/// `Sprint`: blanks between operands when neither of two is a text.
fn print(arguments: &[Datum]) -> String {
    let mut out = String::new();
    let is_text = |value: &Datum| matches!(value, Datum::Value(Value::String(_)));
    for (number, argument) in arguments.iter().enumerate() {
        if number > 0 && !is_text(argument) && !is_text(&arguments[number - 1]) {
            out.push(' ');
        }
        out.push_str(&formatted(argument));
    }
    out
}

fn length(value: &Datum) -> Result<Datum, String> {
    let length = match value {
        Datum::Nothing => return Err("reflect: call of reflect.Value.Type on zero Value".to_owned()),
        Datum::Value(Value::String(text)) => text.len(),
        Datum::Value(Value::Array(items)) => items.len(),
        Datum::Value(Value::Object(fields)) => fields.len(),
        other => return Err(format!("len of type {}", kind(other))),
    };
    Ok(Datum::Int(i64::try_from(length).unwrap_or(i64::MAX)))
}

fn position(value: &Datum, length: usize) -> Result<usize, String> {
    match value {
        Datum::Int(number) => {
            usize::try_from(*number).ok().filter(|at| *at <= length).ok_or(format!("index out of range: {number}"))
        }
        Datum::Nothing => Err("cannot index slice/array with nil".to_owned()),
        other => Err(format!("cannot index slice/array with type {}", kind(other))),
    }
}

fn index(value: &Datum, keys: &[Datum]) -> Result<Datum, String> {
    let mut here = value.clone();
    for key in keys {
        here = match (&here, key) {
            (Datum::Value(Value::Object(fields)), Datum::Value(Value::String(name))) => {
                fields.get(name).cloned().map_or(Datum::Nothing, Datum::from)
            }
            (Datum::Value(Value::Object(_)), key) => {
                return Err(format!("value has type {}; should be string", kind(key)));
            }
            (Datum::Value(Value::Array(items)), key) => {
                let at = position(key, items.len())?;
                let item = items.get(at).cloned().ok_or(format!("index out of range: {at}"))?;
                Datum::from(item)
            }
            (Datum::Value(Value::String(text)), key) => {
                let at = position(key, text.len())?;
                let byte = text.as_bytes().get(at).ok_or(format!("index out of range: {at}"))?;
                Datum::Int(i64::from(*byte))
            }
            (Datum::Nothing, _) => return Err("index of untyped nil".to_owned()),
            (other, _) => return Err(format!("can't index item of type {}", kind(other))),
        };
    }
    Ok(here)
}

fn slice(value: &Datum, bounds: &[Datum]) -> Result<Datum, String> {
    if bounds.len() > 3 {
        return Err(format!("too many slice indexes: {}", bounds.len()));
    }
    let length = match value {
        Datum::Value(Value::String(text)) => text.len(),
        Datum::Value(Value::Array(items)) => items.len(),
        Datum::Nothing => return Err("slice of untyped nil".to_owned()),
        other => return Err(format!("can't slice item of type {}", kind(other))),
    };
    let from = bounds.first().map_or(Ok(0), |bound| position(bound, length))?;
    let to = bounds.get(1).map_or(Ok(length), |bound| position(bound, length))?;
    if from > to {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    Ok(Datum::Value(match value {
        Datum::Value(Value::Array(items)) => Value::Array(items[from..to].to_vec()),
        Datum::Value(Value::String(text)) => String::from_utf8_lossy(&text.as_bytes()[from..to]).into_owned().into(),
        _ => Value::Null,
    }))
}

fn decode(value: &Datum) -> Result<Datum, String> {
    let Datum::Value(Value::String(text)) = value else {
        return Err(format!("wrong type for value; expected string; got {}", kind(value)));
    };
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|_| "base64 decode failed: illegal base64 data".to_owned())?;
    Ok(Datum::Value(String::from_utf8_lossy(&bytes).into_owned().into()))
}

fn equal(first: &Datum, others: &[Datum]) -> Result<bool, String> {
    for other in others {
        let same = match (first, other) {
            (Datum::Nothing, other) => *other == Datum::Nothing,
            (_, Datum::Nothing) => false,
            (first, other) if kind(first) != kind(other) => {
                return Err("incompatible types for comparison".to_owned());
            }
            (Datum::Value(Value::Array(_) | Value::Object(_)), _) => {
                return Err(format!("non-comparable type {}: {}", shown(first), kind(first)));
            }
            (Datum::Value(Value::Number(one)), Datum::Value(Value::Number(two))) => one.as_f64() == two.as_f64(),
            (first, other) => first == other,
        };
        if same {
            return Ok(true);
        }
    }
    Ok(false)
}

fn order(arguments: &[Datum]) -> Result<Ordering, String> {
    match (&arguments[0], &arguments[1]) {
        (Datum::Int(one), Datum::Int(two)) => Ok(one.cmp(two)),
        (Datum::Value(Value::String(one)), Datum::Value(Value::String(two))) => Ok(one.cmp(two)),
        (Datum::Value(Value::Number(one)), Datum::Value(Value::Number(two))) => {
            Ok(one.as_f64().partial_cmp(&two.as_f64()).unwrap_or(Ordering::Equal))
        }
        (one, two) if kind(one) != kind(two) => Err("incompatible types for comparison".to_owned()),
        _ => Err("invalid type for comparison".to_owned()),
    }
}

fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\0' => out.push('\u{fffd}'),
            letter => out.push(letter),
        }
    }
    out
}

fn js(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            '"' => out.push_str("\\\""),
            '<' | '>' | '&' | '=' => out.push_str(&format!("\\u{:04X}", u32::from(letter))),
            letter if letter.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(letter))),
            letter => out.push(letter),
        }
    }
    out
}

fn urlquery(text: &str) -> String {
    const KEPT: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b' ');
    percent_encoding::utf8_percent_encode(text, KEPT).to_string().replace(' ', "+")
}

/// How one value is to be printed: `%-08.3f`.
#[derive(Debug, Default)]
struct Verb {
    left: bool,
    plus: bool,
    zero: bool,
    sharp: bool,
    width: usize,
    precision: Option<usize>,
}

/// No line of a template's output needs more blanks.
const WIDEST: usize = 10_000;

fn printf(format: &str, arguments: &[Datum]) -> String {
    let mut out = String::new();
    let mut values = arguments.iter();
    let mut letters = format.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let mut verb = Verb::default();
        while let Some(flag) = letters.next_if(|letter| "-+0# ".contains(*letter)) {
            match flag {
                '-' => verb.left = true,
                '+' => verb.plus = true,
                '0' => verb.zero = true,
                '#' => verb.sharp = true,
                _ => {}
            }
        }
        let number = |letters: &mut std::iter::Peekable<std::str::Chars<'_>>| {
            let mut number = 0_usize;
            while let Some(digit) = letters.next_if(char::is_ascii_digit) {
                number = (number * 10 + digit.to_digit(10).unwrap_or(0) as usize).min(WIDEST);
            }
            number
        };
        verb.width = number(&mut letters);
        if letters.next_if_eq(&'.').is_some() {
            verb.precision = Some(number(&mut letters));
        }
        match letters.next() {
            None => out.push_str("%!(NOVERB)"),
            Some('%') => out.push('%'),
            Some(letter) => match values.next() {
                None => out.push_str(&format!("%!{letter}(MISSING)")),
                Some(value) => out.push_str(&padded(&verb, letter, value)),
            },
        }
    }
    let rest: Vec<String> = values.map(|value| format!("{}={}", kind(value), formatted(value))).collect();
    if !rest.is_empty() {
        out.push_str(&format!("%!(EXTRA {})", rest.join(", ")));
    }
    out
}

fn padded(verb: &Verb, letter: char, value: &Datum) -> String {
    let text = one(verb, letter, value);
    let missing = verb.width.saturating_sub(text.chars().count());
    let number = matches!(value, Datum::Int(_) | Datum::Value(Value::Number(_)));
    match (verb.left, verb.zero && number) {
        (true, _) => text + &" ".repeat(missing),
        (false, true) => {
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['-', '+'])));
            format!("{sign}{}{digits}", "0".repeat(missing))
        }
        (false, false) => " ".repeat(missing) + &text,
    }
}

fn one(verb: &Verb, letter: char, value: &Datum) -> String {
    let signed = |text: String, negative: bool| if verb.plus && !negative { format!("+{text}") } else { text };
    match (letter, value) {
        ('v', Datum::Value(Value::String(text))) if verb.sharp => go::quoted(text),
        ('v', value) => formatted(value),
        ('d', Datum::Int(number)) => signed(number.to_string(), *number < 0),
        ('b', Datum::Int(number)) => format!("{number:b}"),
        ('o', Datum::Int(number)) => format!("{number:o}"),
        ('x', Datum::Int(number)) => format!("{number:x}"),
        ('X', Datum::Int(number)) => format!("{number:X}"),
        ('c', Datum::Int(number)) => {
            u32::try_from(*number).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER).to_string()
        }
        ('f' | 'F', Datum::Value(Value::Number(number))) => {
            let number = number.as_f64().unwrap_or_default();
            signed(format!("{number:.*}", verb.precision.unwrap_or(6)), number < 0.0)
        }
        ('g', Datum::Value(Value::Number(number))) => go::float(number.as_f64().unwrap_or_default()),
        ('t', Datum::Value(Value::Bool(value))) => value.to_string(),
        ('s', Datum::Value(Value::String(text))) => text.chars().take(verb.precision.unwrap_or(usize::MAX)).collect(),
        ('q', Datum::Value(Value::String(text))) => go::quoted(text),
        ('x', Datum::Value(Value::String(text))) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        ('X', Datum::Value(Value::String(text))) => text.bytes().map(|byte| format!("{byte:02X}")).collect(),
        ('T', value) => kind(value).to_owned(),
        // A list is printed item by item, a map pair by pair.
        (letter, Datum::Value(Value::Array(items))) => {
            let items: Vec<String> = items.iter().map(|item| one(verb, letter, &Datum::from(item.clone()))).collect();
            format!("[{}]", items.join(" "))
        }
        (letter, Datum::Value(Value::Object(fields))) => {
            let plain = Verb::default();
            let pair = |(name, value): (&String, &Value)| {
                let name = one(&plain, letter, &Datum::Value(name.clone().into()));
                format!("{name}:{}", one(verb, letter, &Datum::from(value.clone())))
            };
            format!("map[{}]", fields.iter().map(pair).collect::<Vec<_>>().join(" "))
        }
        (letter, Datum::Nothing) => format!("%!{letter}(<nil>)"),
        (letter, value) => format!("%!{letter}({}={})", kind(value), formatted(value)),
    }
}
