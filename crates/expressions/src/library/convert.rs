//! Conversions between types.

use crate::catalogue::{Arguments, Rows};
use crate::error::EvaluationError;
use crate::library::{fail, time};
use crate::meter::Price::{Fixed, Length};
use crate::types::Type;
use crate::value::{Evaluated, Value};

fn only<'c, 'a>(arguments: &'c Arguments<'_, 'a>) -> Result<&'c Value<'a>, EvaluationError> {
    match arguments.values {
        [value] => Ok(value),
        _ => Err(EvaluationError::no_such_overload()),
    }
}

fn impossible<'a>(from: &Value<'a>, to: &str) -> Evaluated<'a> {
    fail(format!("type conversion error from '{}' to '{to}'", from.type_of().runtime_name()))
}

/// The number as upstream prints it: the shortest digits, with an exponent where that is shorter.
pub(crate) fn show_double(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let text = format!("{number:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) || number == 0.0 {
        return format!("{number}");
    }
    format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// The value as `string()` gives it.
pub(crate) fn to_text(value: &Value<'_>) -> Result<String, EvaluationError> {
    Ok(match value {
        Value::String(text) => text.to_string(),
        Value::Bool(truth) => truth.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Uint(number) => number.to_string(),
        Value::Double(number) => show_double(*number),
        Value::Timestamp(at) => time::format_timestamp(*at),
        Value::Duration(nanos) => time::format_duration(*nanos),
        Value::Bytes(bytes) => String::from_utf8(bytes.to_vec())
            .map_err(|_| EvaluationError::failed("invalid UTF-8 in bytes, cannot convert to string"))?,
        Value::Type(found) => found.runtime_name().to_owned(),
        Value::Held(held) => held.to_string(),
        other => return impossible(other, "string").map(|_| String::new()),
    })
}

/// The value as error messages show it.
pub(crate) fn show(value: &Value<'_>) -> String {
    match value {
        Value::Null => "null".to_owned(),
        other => to_text(other).unwrap_or_else(|_| other.type_of().runtime_name().to_owned()),
    }
}

fn string<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    match only(arguments)? {
        text @ Value::String(_) => Ok(text.clone()),
        other => to_text(other).map(Value::text),
    }
}

fn int<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let value = only(arguments)?;
    match value {
        Value::Int(number) | Value::Duration(number) => Ok(Value::Int(*number)),
        Value::Uint(number) => match i64::try_from(*number) {
            Ok(number) => Ok(Value::Int(number)),
            Err(_) => fail("integer overflow"),
        },
        // Upstream refuses the ends of the range too, which a double cannot tell from what lies outside.
        Value::Double(number) if *number > -9.223_372_036_854_776e18 && *number < 9.223_372_036_854_776e18 => {
            Ok(Value::Int(*number as i64))
        }
        Value::Double(_) => fail("integer overflow"),
        Value::Timestamp(at) => Ok(Value::Int(at.as_second())),
        Value::String(text) => text.parse().map(Value::Int).or_else(|_| impossible(value, "int")),
        other => impossible(other, "int"),
    }
}

fn uint<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let value = only(arguments)?;
    match value {
        Value::Uint(number) => Ok(Value::Uint(*number)),
        Value::Int(number) => match u64::try_from(*number) {
            Ok(number) => Ok(Value::Uint(number)),
            Err(_) => fail("unsigned integer overflow"),
        },
        Value::Double(number) if *number >= 0.0 && *number < 1.844_674_407_370_955_2e19 => {
            Ok(Value::Uint(*number as u64))
        }
        Value::Double(_) => fail("unsigned integer overflow"),
        Value::String(text) => text.parse().map(Value::Uint).or_else(|_| impossible(value, "uint")),
        other => impossible(other, "uint"),
    }
}

fn double<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let value = only(arguments)?;
    match value {
        Value::Double(number) => Ok(Value::Double(*number)),
        Value::Int(number) => Ok(Value::Double(*number as f64)),
        Value::Uint(number) => Ok(Value::Double(*number as f64)),
        Value::String(text) => text.parse().map(Value::Double).or_else(|_| impossible(value, "double")),
        other => impossible(other, "double"),
    }
}

fn boolean<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let value = only(arguments)?;
    match value {
        Value::Bool(truth) => Ok(Value::Bool(*truth)),
        Value::String(text) => match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            _ => impossible(value, "bool"),
        },
        other => impossible(other, "bool"),
    }
}

fn bytes<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    match only(arguments)? {
        Value::Bytes(bytes) => Ok(Value::Bytes(bytes.clone())),
        Value::String(text) => Ok(Value::Bytes(text.as_bytes().into())),
        other => impossible(other, "bytes"),
    }
}

fn duration<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    match only(arguments)? {
        Value::Duration(nanos) => Ok(Value::Duration(*nanos)),
        Value::String(text) => time::parse_duration(text).map(Value::Duration),
        other => impossible(other, "google.protobuf.Duration"),
    }
}

fn timestamp<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    match only(arguments)? {
        Value::Timestamp(at) => Ok(Value::Timestamp(*at)),
        Value::String(text) => time::parse_timestamp(text).map(Value::Timestamp),
        Value::Int(seconds) => match jiff::Timestamp::from_second(*seconds) {
            Ok(at) if time::in_range(at) => Ok(Value::Timestamp(at)),
            _ => fail("timestamp overflow"),
        },
        other => impossible(other, "google.protobuf.Timestamp"),
    }
}

fn dynamic<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    only(arguments).cloned()
}

fn type_of<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let found: Type = only(arguments)?.type_of();
    Ok(Value::Type(found))
}

pub(crate) const FUNCTIONS: Rows = &[
    ("type", type_of, &[("(A) type(A)", Fixed(1))]),
    ("dyn", dynamic, &[("(A) dyn", Fixed(1))]),
    ("bool", boolean, &[("(bool) bool", Fixed(1)), ("(string) bool", Fixed(1))]),
    ("bytes", bytes, &[("(bytes) bytes", Fixed(1)), ("(string) bytes", Length(0, 0.1))]),
    (
        "double",
        double,
        &[
            ("(double) double", Fixed(1)),
            ("(int) double", Fixed(1)),
            ("(string) double", Fixed(1)),
            ("(uint) double", Fixed(1)),
        ],
    ),
    ("duration", duration, &[("(duration) duration", Fixed(1)), ("(string) duration", Fixed(1))]),
    (
        "int",
        int,
        &[
            ("(int) int", Fixed(1)),
            ("(double) int", Fixed(1)),
            ("(duration) int", Fixed(1)),
            ("(string) int", Fixed(1)),
            ("(timestamp) int", Fixed(1)),
            ("(uint) int", Fixed(1)),
        ],
    ),
    (
        "string",
        string,
        &[
            ("(string) string", Fixed(1)),
            ("(bool) string", Fixed(1)),
            ("(bytes) string", Length(0, 0.1)),
            ("(double) string", Fixed(1)),
            ("(duration) string", Fixed(1)),
            ("(int) string", Fixed(1)),
            ("(timestamp) string", Fixed(1)),
            ("(uint) string", Fixed(1)),
            ("(ip) string", Fixed(1)),
            ("(cidr) string", Fixed(1)),
        ],
    ),
    (
        "timestamp",
        timestamp,
        &[("(timestamp) timestamp", Fixed(1)), ("(int) timestamp", Fixed(1)), ("(string) timestamp", Fixed(1))],
    ),
    (
        "uint",
        uint,
        &[
            ("(uint) uint", Fixed(1)),
            ("(double) uint", Fixed(1)),
            ("(int) uint", Fixed(1)),
            ("(string) uint", Fixed(1)),
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_read_as_upstreams() {
        let check = |number: f64, expected: &str| assert_eq!(show_double(number), expected);
        check(1.0, "1");
        check(1.5, "1.5");
        check(-0.0, "-0");
        check(123_456.0, "123456");
        check(1_000_000.0, "1e+06");
        check(0.0001, "0.0001");
        check(0.000_01, "1e-05");
        check(1.25e100, "1.25e+100");
    }
}
