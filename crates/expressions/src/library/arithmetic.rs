//! `+ - * / %` and the logical operators. What does not fit 64 bits is an error, never a wrapped number.

use crate::catalogue::{Arguments, Rows};
use crate::error::EvaluationError;
use crate::evaluate::LONGEST_LIST;
use crate::library::{LONGEST_TEXT, fail, lists, mismatch};
use crate::meter::Price::{Both, Fixed, Length};
use crate::value::{Evaluated, Value};

fn checked<'a, T>(result: Option<T>, sort: &'static str, make: fn(T) -> Value<'a>) -> Evaluated<'a> {
    result.map(make).ok_or_else(|| EvaluationError::failed(format!("{sort} overflow")))
}

fn at<'a>(time: Result<jiff::Timestamp, jiff::Error>) -> Evaluated<'a> {
    match time {
        Ok(time) if super::time::in_range(time) => Ok(Value::Timestamp(time)),
        _ => fail("timestamp overflow"),
    }
}

fn add<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    match arguments.values {
        [Value::Int(a), Value::Int(b)] => checked(a.checked_add(*b), "integer", Value::Int),
        [Value::Uint(a), Value::Uint(b)] => checked(a.checked_add(*b), "unsigned integer", Value::Uint),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a + b)),
        [Value::String(a), Value::String(b)] => {
            if a.len() + b.len() > LONGEST_TEXT {
                return fail("string is too long");
            }
            let mut text = String::with_capacity(a.len() + b.len());
            text.push_str(a);
            text.push_str(b);
            Ok(Value::text(text))
        }
        [Value::Bytes(a), Value::Bytes(b)] if a.len() + b.len() <= LONGEST_TEXT => {
            Ok(Value::Bytes([&**a, &**b].concat().into()))
        }
        [Value::List(a), Value::List(b)] if a.len() + b.len() <= LONGEST_LIST => lists::concatenate(a, b),
        [Value::List(_), Value::List(_)] => fail("list is too long"),
        [Value::Duration(a), Value::Duration(b)] => checked(a.checked_add(*b), "duration", Value::Duration),
        [Value::Timestamp(time), Value::Duration(nanos)] | [Value::Duration(nanos), Value::Timestamp(time)] => {
            at(time.checked_add(jiff::SignedDuration::from_nanos(*nanos)))
        }
        _ => mismatch(),
    }
}

/// The sum of two numbers or lengths of time of one type.
pub(crate) fn sum<'a>(a: Value<'a>, b: Value<'a>) -> Evaluated<'a> {
    add(&Arguments { values: &[a, b], pattern: None })
}

fn subtract<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    match arguments.values {
        [Value::Int(a), Value::Int(b)] => checked(a.checked_sub(*b), "integer", Value::Int),
        [Value::Uint(a), Value::Uint(b)] => checked(a.checked_sub(*b), "unsigned integer", Value::Uint),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a - b)),
        [Value::Duration(a), Value::Duration(b)] => checked(a.checked_sub(*b), "duration", Value::Duration),
        [Value::Timestamp(time), Value::Duration(nanos)] => {
            at(time.checked_sub(jiff::SignedDuration::from_nanos(*nanos)))
        }
        [Value::Timestamp(a), Value::Timestamp(b)] => {
            checked(i64::try_from(a.as_nanosecond() - b.as_nanosecond()).ok(), "duration", Value::Duration)
        }
        _ => mismatch(),
    }
}

fn multiply<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    match arguments.values {
        [Value::Int(a), Value::Int(b)] => checked(a.checked_mul(*b), "integer", Value::Int),
        [Value::Uint(a), Value::Uint(b)] => checked(a.checked_mul(*b), "unsigned integer", Value::Uint),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a * b)),
        _ => mismatch(),
    }
}

fn divide<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    match arguments.values {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => fail("division by zero"),
        [Value::Int(a), Value::Int(b)] => checked(a.checked_div(*b), "integer", Value::Int),
        [Value::Uint(a), Value::Uint(b)] => checked(a.checked_div(*b), "unsigned integer", Value::Uint),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a / b)),
        _ => mismatch(),
    }
}

fn modulo<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    match arguments.values {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => fail("modulus by zero"),
        [Value::Int(a), Value::Int(b)] => checked(a.checked_rem(*b), "integer", Value::Int),
        [Value::Uint(a), Value::Uint(b)] => checked(a.checked_rem(*b), "unsigned integer", Value::Uint),
        _ => mismatch(),
    }
}

fn negate<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    match arguments.values {
        [Value::Int(number)] => checked(number.checked_neg(), "integer", Value::Int),
        [Value::Double(number)] => Ok(Value::Double(-number)),
        _ => mismatch(),
    }
}

fn not<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    match arguments.values {
        [Value::Bool(truth)] => Ok(Value::Bool(!truth)),
        _ => mismatch(),
    }
}

/// What evaluation does by itself, because not every argument is wanted, is in the table for the checker only.
fn never<'a>(_: &Arguments<'_, 'a>) -> Evaluated<'a> {
    mismatch()
}

pub(crate) const FUNCTIONS: Rows = &[
    ("_?_:_", never, &[("(bool, A, A) A", Fixed(0))]),
    ("_&&_", never, &[("(bool, bool) bool", Fixed(0))]),
    ("_||_", never, &[("(bool, bool) bool", Fixed(0))]),
    ("@not_strictly_false", never, &[("(bool) bool", Fixed(1))]),
    ("_?._", never, &[("(dyn, string) optional(A)", Fixed(1))]),
    ("!_", not, &[("(bool) bool", Fixed(1))]),
    ("-_", negate, &[("(double) double", Fixed(1)), ("(int) int", Fixed(1))]),
    (
        "_+_",
        add,
        &[
            ("(bytes, bytes) bytes", Both),
            ("(double, double) double", Fixed(1)),
            ("(duration, duration) duration", Fixed(1)),
            ("(duration, timestamp) timestamp", Fixed(1)),
            ("(timestamp, duration) timestamp", Fixed(1)),
            ("(int, int) int", Fixed(1)),
            ("(list(A), list(A)) list(A)", Fixed(1)),
            ("(string, string) string", Both),
            ("(uint, uint) uint", Fixed(1)),
        ],
    ),
    (
        "_-_",
        subtract,
        &[
            ("(double, double) double", Fixed(1)),
            ("(duration, duration) duration", Fixed(1)),
            ("(int, int) int", Fixed(1)),
            ("(timestamp, duration) timestamp", Fixed(1)),
            ("(timestamp, timestamp) duration", Fixed(1)),
            ("(uint, uint) uint", Fixed(1)),
        ],
    ),
    (
        "_*_",
        multiply,
        &[("(double, double) double", Fixed(1)), ("(int, int) int", Fixed(1)), ("(uint, uint) uint", Fixed(1))],
    ),
    (
        "_/_",
        divide,
        &[("(double, double) double", Fixed(1)), ("(int, int) int", Fixed(1)), ("(uint, uint) uint", Fixed(1))],
    ),
    ("_%_", modulo, &[("(int, int) int", Fixed(1)), ("(uint, uint) uint", Fixed(1))]),
    ("jsonpatch.escapeKey", escape_key, &[("(string) string", Length(0, 0.1))]),
];

/// A key as a part of a JSON pointer.
fn escape_key<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let text = super::only_text(arguments)?;
    Ok(Value::text(text.replace('~', "~0").replace('/', "~1")))
}
