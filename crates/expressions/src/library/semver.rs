//! Semantic versions.

use std::cmp::Ordering;
use std::rc::Rc;

use semver::Version;

use crate::catalogue::{Arguments, Rows};
use crate::error::EvaluationError;
use crate::library::opaque::Held;
use crate::library::{fail, mismatch};
use crate::meter::Price::{Fixed, Length};
use crate::value::{Evaluated, Value};

/// The order of two versions; build metadata does not count.
pub(super) fn order(a: &Version, b: &Version) -> Ordering {
    a.cmp_precedence(b)
}

/// Leading `v`, leading zeros and missing parts are forgiven.
fn normalize(text: &str) -> String {
    let text = text.strip_prefix('v').unwrap_or(text);
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (numbers, rest) = text.split_at(end);
    let mut parts: Vec<&str> = numbers
        .splitn(3, '.')
        .map(|part| match part.trim_start_matches('0') {
            "" if !part.is_empty() => "0",
            trimmed => trimmed,
        })
        .collect();
    if rest.is_empty() {
        parts.resize(parts.len().max(3), "0");
    }
    format!("{}{rest}", parts.join("."))
}

fn parse(arguments: &Arguments<'_, '_>) -> Result<Result<Version, semver::Error>, EvaluationError> {
    match arguments.values {
        [Value::String(text)] => Ok(Version::parse(text)),
        [Value::String(text), Value::Bool(lenient)] => {
            Ok(if *lenient { Version::parse(&normalize(text)) } else { Version::parse(text) })
        }
        _ => Err(EvaluationError::no_such_overload()),
    }
}

fn version<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    match parse(arguments)? {
        Ok(version) => Ok(Value::Held(Rc::new(Held::Semver(version)))),
        Err(error) => fail(error.to_string()),
    }
}

fn is_version<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    parse(arguments).map(|version| Value::Bool(version.is_ok()))
}

fn part<'a>(arguments: &Arguments<'_, 'a>, part: fn(&Version) -> u64) -> Evaluated<'a> {
    match arguments.values {
        [Value::Held(held)] => match &**held {
            Held::Semver(version) => Ok(Value::Int(i64::try_from(part(version)).unwrap_or(i64::MAX))),
            _ => mismatch(),
        },
        _ => mismatch(),
    }
}

fn major<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    part(arguments, |version| version.major)
}

fn minor<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    part(arguments, |version| version.minor)
}

fn patch<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    part(arguments, |version| version.patch)
}

pub(crate) const FUNCTIONS: Rows = &[
    ("semver", version, &[("(string) semver", Length(0, 0.1)), ("(string, bool) semver", Length(0, 0.1))]),
    ("isSemver", is_version, &[("(string) bool", Length(0, 0.1)), ("(string, bool) bool", Length(0, 0.1))]),
    ("major", major, &[("semver.() int", Fixed(1))]),
    ("minor", minor, &[("semver.() int", Fixed(1))]),
    ("patch", patch, &[("semver.() int", Fixed(1))]),
];
