//! The functions that expressions call, subject by subject. Each module ends in a table of its functions with their
//! overloads and prices.

pub(crate) mod arithmetic;
pub(crate) mod authorizer;
pub(crate) mod compare;
pub(crate) mod convert;
pub(crate) mod format;
mod formatting;
pub(crate) mod lists;
pub(crate) mod maps;
pub(crate) mod network;
pub(crate) mod opaque;
pub(crate) mod optional;
pub(crate) mod pattern;
pub(crate) mod quantity;
pub(crate) mod semver;
pub(crate) mod sets;
pub(crate) mod text;
pub(crate) mod time;
pub(crate) mod url;

use crate::catalogue::{Arguments, Rows};
use crate::error::EvaluationError;
use crate::value::{Evaluated, Value};

/// The tables of all libraries.
pub(crate) const ALL: &[Rows] = &[
    arithmetic::FUNCTIONS,
    authorizer::FUNCTIONS,
    compare::FUNCTIONS,
    convert::FUNCTIONS,
    format::FUNCTIONS,
    lists::FUNCTIONS,
    maps::FUNCTIONS,
    network::FUNCTIONS,
    optional::FUNCTIONS,
    pattern::FUNCTIONS,
    quantity::FUNCTIONS,
    semver::FUNCTIONS,
    text::FUNCTIONS,
    time::FUNCTIONS,
    url::FUNCTIONS,
];

/// The longest text that an operation may make, in bytes.
pub(crate) const LONGEST_TEXT: usize = 16 << 20;

/// The arguments do not fit what the function can do.
pub(crate) fn mismatch<'a>() -> Evaluated<'a> {
    Err(EvaluationError::no_such_overload())
}

/// An error with words of its own.
pub(crate) fn fail<'a>(message: impl Into<std::borrow::Cow<'static, str>>) -> Evaluated<'a> {
    Err(EvaluationError::failed(message))
}

/// A whole number from a length.
pub(crate) fn length<'a>(length: usize) -> Value<'a> {
    Value::Int(i64::try_from(length).unwrap_or(i64::MAX))
}

/// The function's only argument, as text.
pub(crate) fn only_text<'c, 'a>(arguments: &Arguments<'c, 'a>) -> Result<&'c str, EvaluationError> {
    match arguments.values {
        [Value::String(text)] => Ok(text),
        _ => Err(EvaluationError::no_such_overload()),
    }
}
