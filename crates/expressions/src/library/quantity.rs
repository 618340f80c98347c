//! Resource quantities.

use std::cmp::Ordering;
use std::rc::Rc;

use kobune_kinds::quantity::Quantity;

use crate::catalogue::{Arguments, Rows};
use crate::error::EvaluationError;
use crate::library::opaque::Held;
use crate::library::{fail, mismatch, only_text};
use crate::meter::Price::{Fixed, Length};
use crate::value::{Evaluated, Value};

fn of(value: &Value<'_>) -> Result<Quantity, EvaluationError> {
    match value {
        Value::Held(inner) => match &**inner {
            Held::Quantity(quantity) => Ok(*quantity),
            _ => Err(EvaluationError::no_such_overload()),
        },
        Value::Int(number) => Ok(Quantity::new(*number, kobune_kinds::quantity::Format::DecimalSi)),
        _ => Err(EvaluationError::no_such_overload()),
    }
}

fn one(arguments: &Arguments<'_, '_>) -> Result<Quantity, EvaluationError> {
    match arguments.values {
        [value] => of(value),
        _ => Err(EvaluationError::no_such_overload()),
    }
}

fn two(arguments: &Arguments<'_, '_>) -> Result<(Quantity, Quantity), EvaluationError> {
    match arguments.values {
        [a, b] => Ok((of(a)?, of(b)?)),
        _ => Err(EvaluationError::no_such_overload()),
    }
}

fn held<'a>(quantity: Quantity) -> Value<'a> {
    Value::Held(Rc::new(Held::Quantity(quantity)))
}

fn quantity<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    match only_text(arguments)?.parse::<Quantity>() {
        Ok(quantity) => Ok(held(quantity)),
        Err(error) => fail(error.to_string()),
    }
}

fn is_quantity<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    Ok(Value::Bool(only_text(arguments)?.parse::<Quantity>().is_ok()))
}

fn sign<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    one(arguments).map(|own| {
        Value::Int(if own.is_zero() {
            0
        } else if own.is_negative() {
            -1
        } else {
            1
        })
    })
}

fn is_integer<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    one(arguments).map(|own| Value::Bool(own.is_integer()))
}

fn as_integer<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let own = one(arguments)?;
    if own.is_integer() { Ok(Value::Int(own.value())) } else { fail("cannot convert value to integer") }
}

fn as_float<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    one(arguments).map(|own| Value::Double(own.as_f64()))
}

fn add<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    two(arguments).map(|(a, b)| held(a + b))
}

fn subtract<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    two(arguments).map(|(a, b)| held(a - b))
}

/// The order of two quantities or of two versions: their methods share names.
fn order(arguments: &Arguments<'_, '_>) -> Result<Ordering, EvaluationError> {
    if let [Value::Held(a), Value::Held(b)] = arguments.values
        && let (Held::Semver(a), Held::Semver(b)) = (&**a, &**b)
    {
        return Ok(super::semver::order(a, b));
    }
    two(arguments).map(|(a, b)| a.cmp(&b))
}

fn compare_to<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    order(arguments).map(|order| Value::Int(order as i64))
}

fn is_greater_than<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    order(arguments).map(|order| Value::Bool(order.is_gt()))
}

fn is_less_than<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    if arguments.values.len() != 2 {
        return mismatch();
    }
    order(arguments).map(|order| Value::Bool(order.is_lt()))
}

pub(crate) const FUNCTIONS: Rows = &[
    ("quantity", quantity, &[("(string) quantity", Length(0, 0.1))]),
    ("isQuantity", is_quantity, &[("(string) bool", Length(0, 0.1))]),
    ("sign", sign, &[("quantity.() int", Fixed(1))]),
    ("isInteger", is_integer, &[("quantity.() bool", Fixed(1))]),
    ("asInteger", as_integer, &[("quantity.() int", Fixed(1))]),
    ("asApproximateFloat", as_float, &[("quantity.() double", Fixed(1))]),
    ("add", add, &[("quantity.(quantity) quantity", Fixed(1)), ("quantity.(int) quantity", Fixed(1))]),
    ("sub", subtract, &[("quantity.(quantity) quantity", Fixed(1)), ("quantity.(int) quantity", Fixed(1))]),
    ("compareTo", compare_to, &[("quantity.(quantity) int", Fixed(1)), ("semver.(semver) int", Fixed(1))]),
    ("isGreaterThan", is_greater_than, &[("quantity.(quantity) bool", Fixed(1)), ("semver.(semver) bool", Fixed(1))]),
    ("isLessThan", is_less_than, &[("quantity.(quantity) bool", Fixed(1)), ("semver.(semver) bool", Fixed(1))]),
];
