//! Lists as sets.

use crate::catalogue::Arguments;
use crate::error::EvaluationError;
use crate::value::{Evaluated, List, Value};

/// The most pairs of items that one call compares.
const MOST_PAIRS: usize = 1 << 24;

fn two<'c, 'a>(arguments: &'c Arguments<'_, 'a>) -> Result<(&'c List<'a>, &'c List<'a>), EvaluationError> {
    match arguments.values {
        [Value::List(a), Value::List(b)] if a.len().saturating_mul(b.len()) <= MOST_PAIRS => Ok((a, b)),
        [Value::List(_), Value::List(_)] => Err(EvaluationError::failed("lists are too long to be compared")),
        _ => Err(EvaluationError::no_such_overload()),
    }
}

fn has(list: &List<'_>, wanted: &Value<'_>) -> Result<bool, EvaluationError> {
    for item in list.iter() {
        if item?.equals(wanted) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn includes(list: &List<'_>, sublist: &List<'_>) -> Result<bool, EvaluationError> {
    for item in sublist.iter() {
        if !has(list, &item?)? {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn contains<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let (list, sublist) = two(arguments)?;
    includes(list, sublist).map(Value::Bool)
}

pub(super) fn intersects<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let (a, b) = two(arguments)?;
    for item in a.iter() {
        if has(b, &item?)? {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

pub(super) fn equivalent<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let (a, b) = two(arguments)?;
    Ok(Value::Bool(includes(a, b)? && includes(b, a)?))
}
