//! Regular expressions: RE2's syntax, and like RE2 in time that grows with the text only.

use regex::{Regex, RegexBuilder};

use crate::catalogue::{Arguments, Rows};
use crate::error::EvaluationError;
use crate::library::mismatch;
use crate::meter::Price::Pattern;
use crate::value::{Evaluated, Value};

/// The largest automaton of one expression, in bytes.
const LARGEST: usize = 1 << 20;

/// Compiles an expression.
pub(crate) fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).size_limit(LARGEST).nest_limit(200).build()
}

fn with<'a, T>(
    arguments: &Arguments<'_, 'a>,
    source: &str,
    use_it: impl FnOnce(&Regex) -> T,
) -> Result<T, EvaluationError> {
    match arguments.pattern {
        Some(regex) => Ok(use_it(regex)),
        None => match compile(source) {
            Ok(regex) => Ok(use_it(&regex)),
            Err(error) => Err(EvaluationError::failed(format!("error parsing regexp: {error}"))),
        },
    }
}

fn matches<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let [Value::String(text), Value::String(pattern)] = arguments.values else { return mismatch() };
    with(arguments, pattern, |regex| Value::Bool(regex.is_match(text)))
}

fn find<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let [Value::String(text), Value::String(pattern)] = arguments.values else { return mismatch() };
    with(arguments, pattern, |regex| Value::text(regex.find(text).map_or("", |found| found.as_str())))
}

fn find_all<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let (text, pattern, most) = match arguments.values {
        [Value::String(text), Value::String(pattern)] => (text, pattern, usize::MAX),
        [Value::String(text), Value::String(pattern), Value::Int(most)] => {
            (text, pattern, usize::try_from(*most).unwrap_or(usize::MAX))
        }
        _ => return mismatch(),
    };
    with(arguments, pattern, |regex| {
        Value::list(regex.find_iter(text).take(most).map(|found| Value::text(found.as_str())).collect())
    })
}

pub(crate) const FUNCTIONS: Rows = &[
    ("matches", matches, &[("(string, string) bool", Pattern), ("string.(string) bool", Pattern)]),
    ("find", find, &[("string.(string) string", Pattern)]),
    ("findAll", find_all, &[("string.(string) list(string)", Pattern), ("string.(string, int) list(string)", Pattern)]),
];
