//! Values that may be missing.

use std::rc::Rc;

use crate::catalogue::{Arguments, Rows};
use crate::error::EvaluationError;
use crate::library::{fail, mismatch};
use crate::meter::Price::Fixed;
use crate::value::{Evaluated, Value};

/// What an optional part of a list, map or object adds.
pub(crate) fn take(value: Value<'_>) -> Result<Option<Value<'_>>, EvaluationError> {
    match value {
        Value::Optional(inner) => Ok(inner.map(Rc::unwrap_or_clone)),
        _ => Err(EvaluationError::no_such_overload()),
    }
}

fn some(value: &Value<'_>) -> Result<bool, EvaluationError> {
    match value {
        Value::Optional(inner) => Ok(inner.is_some()),
        _ => Err(EvaluationError::no_such_overload()),
    }
}

fn of<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let [value] = arguments.values else { return mismatch() };
    Ok(Value::Optional(Some(Rc::new(value.clone()))))
}

fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(truth) => !truth,
        Value::Int(number) | Value::Duration(number) => *number == 0,
        Value::Uint(number) => *number == 0,
        Value::Double(number) => *number == 0.0,
        Value::String(text) => text.is_empty(),
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::List(list) => list.is_empty(),
        Value::Map(map) => map.is_empty(),
        Value::Optional(inner) => inner.is_none(),
        Value::Object(object) => object.fields.is_empty(),
        _ => false,
    }
}

fn of_non_zero<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let [value] = arguments.values else { return mismatch() };
    Ok(Value::Optional((!is_zero(value)).then(|| Rc::new(value.clone()))))
}

fn none<'a>(_: &Arguments<'_, 'a>) -> Evaluated<'a> {
    Ok(Value::Optional(None))
}

fn has_value<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let [value] = arguments.values else { return mismatch() };
    some(value).map(Value::Bool)
}

fn value<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    match arguments.values {
        [Value::Optional(Some(inner))] => Ok((**inner).clone()),
        [Value::Optional(None)] => fail("optional.none() dereference"),
        _ => mismatch(),
    }
}

fn or<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let [first, other] = arguments.values else { return mismatch() };
    Ok(if some(first)? { first.clone() } else { other.clone() })
}

fn or_value<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let [first, other] = arguments.values else { return mismatch() };
    Ok(take(first.clone())?.unwrap_or_else(|| other.clone()))
}

fn first<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let [Value::List(list)] = arguments.values else { return mismatch() };
    Ok(Value::Optional(list.get(0).transpose()?.map(Rc::new)))
}

fn last<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let [Value::List(list)] = arguments.values else { return mismatch() };
    let last = list.len().checked_sub(1).and_then(|index| list.get(index));
    Ok(Value::Optional(last.transpose()?.map(Rc::new)))
}

fn unwrap<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let [Value::List(list)] = arguments.values else { return mismatch() };
    let mut items = Vec::new();
    for item in list.iter() {
        items.extend(take(item?)?);
    }
    Ok(Value::list(items))
}

pub(crate) const FUNCTIONS: Rows = &[
    ("optional.of", of, &[("(A) optional(A)", Fixed(1))]),
    ("optional.ofNonZeroValue", of_non_zero, &[("(A) optional(A)", Fixed(1))]),
    ("optional.none", none, &[("() optional(A)", Fixed(1))]),
    ("hasValue", has_value, &[("optional(A).() bool", Fixed(1))]),
    ("value", value, &[("optional(A).() A", Fixed(1))]),
    ("or", or, &[("optional(A).(optional(A)) optional(A)", Fixed(1))]),
    ("orValue", or_value, &[("optional(A).(A) A", Fixed(1))]),
    ("first", first, &[("list(A).() optional(A)", Fixed(1))]),
    ("last", last, &[("list(A).() optional(A)", Fixed(1))]),
    ("optional.unwrap", unwrap, &[("(list(optional(A))) list(A)", Fixed(1))]),
    ("unwrapOpt", unwrap, &[("list(optional(A)).() list(A)", Fixed(1))]),
];
