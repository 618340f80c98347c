//! Equality and order. Numbers compare by value across their types; other types compare with their own kind.

use std::cmp::Ordering;

use crate::catalogue::{Arguments, Rows};
use crate::error::EvaluationError;
use crate::library::{fail, lists, mismatch};
use crate::meter::Price::{Fixed, Shorter};
use crate::value::{Evaluated, Items, Map, Value};

/// How deep values are compared; deeper than any object that is accepted.
const DEEPEST: usize = 256;

impl PartialEq for Value<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.equals(other)
    }
}

impl Value<'_> {
    /// Equality as `==` has it.
    pub fn equals(&self, other: &Value<'_>) -> bool {
        equal(self, other, DEEPEST)
    }
}

fn equal(a: &Value<'_>, b: &Value<'_>, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else { return false };
    match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Int(_) | Value::Uint(_) | Value::Double(_), _) => numbers(a, b) == Some(Ordering::Equal),
        (Value::String(a), Value::String(b)) => **a == **b,
        (Value::Bytes(a), Value::Bytes(b)) => a == b,
        (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
        (Value::Duration(a), Value::Duration(b)) => a == b,
        (Value::List(a), Value::List(b)) => {
            if let (Items::Json(a), Items::Json(b)) = (&a.items, &b.items)
                && std::ptr::eq(*a, *b)
            {
                return true;
            }
            a.len() == b.len() && lists::equal(a, b, &|a, b| equal(a, b, depth))
        }
        (Value::Map(a), Value::Map(b)) => maps(a, b, depth),
        (Value::Type(a), Value::Type(b)) => a.runtime_name() == b.runtime_name(),
        (Value::Optional(a), Value::Optional(b)) => match (a, b) {
            (Some(a), Some(b)) => equal(a, b, depth),
            (a, b) => a.is_none() && b.is_none(),
        },
        (Value::Held(a), Value::Held(b)) => a == b,
        (Value::Object(a), Value::Object(b)) => {
            let other = |name: &str| b.fields.iter().find(|(field, _)| &**field == name).map(|(_, value)| value);
            a.name == b.name
                && a.fields.len() == b.fields.len()
                && a.fields.iter().all(|(name, a)| other(name).is_some_and(|b| equal(a, b, depth)))
        }
        _ => false,
    }
}

fn maps(a: &Map<'_>, b: &Map<'_>, depth: usize) -> bool {
    if let (Map::Json(a, _), Map::Json(b, _)) = (a, b)
        && std::ptr::eq(*a, *b)
    {
        return true;
    }
    let keys = a.keys();
    keys.len() == b.keys().len()
        && keys.iter().all(|key| match (a.get(key), b.get(key)) {
            (Some(Ok(a)), Some(Ok(b))) => equal(&a, &b, depth),
            _ => false,
        })
}

/// The order of two numbers by value; `None` when one is no number, or not a number.
pub(crate) fn numbers(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    let whole = |value: &Value<'_>| match value {
        Value::Int(number) => Some(i128::from(*number)),
        Value::Uint(number) => Some(i128::from(*number)),
        _ => None,
    };
    match (a, b) {
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Double(a), b) => mixed(*a, whole(b)?),
        (a, Value::Double(b)) => mixed(*b, whole(a)?).map(Ordering::reverse),
        _ => Some(whole(a)?.cmp(&whole(b)?)),
    }
}

/// The order of a floating-point and a whole number, without rounding either.
fn mixed(a: f64, b: i128) -> Option<Ordering> {
    if a.is_nan() {
        return None;
    }
    if a.abs() >= 2e19 {
        return Some(if a > 0.0 { Ordering::Greater } else { Ordering::Less });
    }
    // Below 2e19 the whole part is exact in an i128.
    Some((a.trunc() as i128).cmp(&b).then_with(|| a.fract().partial_cmp(&0.0).unwrap_or(Ordering::Equal)))
}

/// The order of two values of one kind.
pub(crate) fn order(a: &Value<'_>, b: &Value<'_>) -> Result<Ordering, EvaluationError> {
    Ok(match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::String(a), Value::String(b)) => (**a).cmp(&**b),
        (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
        (Value::Timestamp(a), Value::Timestamp(b)) => a.cmp(b),
        (Value::Duration(a), Value::Duration(b)) => a.cmp(b),
        (Value::Int(_) | Value::Uint(_) | Value::Double(_), Value::Int(_) | Value::Uint(_) | Value::Double(_)) => {
            numbers(a, b).ok_or_else(|| EvaluationError::failed("NaN values cannot be ordered"))?
        }
        _ => return Err(EvaluationError::no_such_overload()),
    })
}

fn compare<'a>(arguments: &Arguments<'_, 'a>, wanted: fn(Ordering) -> bool) -> Evaluated<'a> {
    let [a, b] = arguments.values else { return mismatch() };
    order(a, b).map(|order| Value::Bool(wanted(order)))
}

fn less<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    compare(arguments, Ordering::is_lt)
}

fn less_or_equal<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    compare(arguments, Ordering::is_le)
}

fn greater<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    compare(arguments, Ordering::is_gt)
}

fn greater_or_equal<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    compare(arguments, Ordering::is_ge)
}

fn equals<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let [a, b] = arguments.values else { return mismatch() };
    Ok(Value::Bool(a.equals(b)))
}

fn differs<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let [a, b] = arguments.values else { return mismatch() };
    Ok(Value::Bool(!a.equals(b)))
}

fn contains<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    match arguments.values {
        [wanted, Value::List(list)] => {
            for item in list.iter() {
                if item?.equals(wanted) {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        [Value::String(key), Value::Map(map)] => Ok(Value::Bool(map.has(key))),
        [key, Value::Map(map)] => Ok(Value::Bool(map.get(key).is_some())),
        _ => mismatch(),
    }
}

fn index<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let (target, key) = match arguments.values {
        [Value::Optional(Some(inner)), key] => {
            return Ok(Value::Optional(find(inner, key)?.map(std::rc::Rc::new)));
        }
        [Value::Optional(None), _] => return Ok(Value::Optional(None)),
        [target, key] => (target, key),
        _ => return mismatch(),
    };
    match (find(target, key)?, target) {
        (Some(found), _) => Ok(found),
        (None, Value::List(_)) => fail(format!("index out of bounds: {}", super::convert::show(key))),
        (None, _) => fail(format!("no such key: {}", super::convert::show(key))),
    }
}

/// The item or entry, if it is there.
pub(crate) fn find<'a>(target: &Value<'a>, key: &Value<'a>) -> Result<Option<Value<'a>>, EvaluationError> {
    match (target, key) {
        (Value::List(list), Value::Int(_) | Value::Uint(_) | Value::Double(_)) => {
            let position = match key {
                Value::Int(number) => usize::try_from(*number).ok(),
                Value::Uint(number) => usize::try_from(*number).ok(),
                Value::Double(number) if number.fract() == 0.0 && *number >= 0.0 => Some(*number as usize),
                _ => None,
            };
            position.and_then(|position| list.get(position)).transpose()
        }
        (Value::Map(map), key) => map.get(key).transpose(),
        _ => Err(EvaluationError::no_such_overload()),
    }
}

fn optional_index<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let found = match arguments.values {
        [Value::Optional(None), _] => None,
        [Value::Optional(Some(inner)), key] => find(inner, key)?,
        [target, key] => find(target, key)?,
        _ => return mismatch(),
    };
    Ok(Value::Optional(found.map(std::rc::Rc::new)))
}

macro_rules! ordered {
    () => {
        &[
            ("(bool, bool) bool", Fixed(1)),
            ("(int, int) bool", Fixed(1)),
            ("(int, double) bool", Fixed(1)),
            ("(int, uint) bool", Fixed(1)),
            ("(uint, uint) bool", Fixed(1)),
            ("(uint, double) bool", Fixed(1)),
            ("(uint, int) bool", Fixed(1)),
            ("(double, double) bool", Fixed(1)),
            ("(double, int) bool", Fixed(1)),
            ("(double, uint) bool", Fixed(1)),
            ("(string, string) bool", Shorter),
            ("(bytes, bytes) bool", Shorter),
            ("(timestamp, timestamp) bool", Fixed(1)),
            ("(duration, duration) bool", Fixed(1)),
        ]
    };
}

pub(crate) const FUNCTIONS: Rows = &[
    ("_==_", equals, &[("(A, A) bool", Shorter)]),
    ("_!=_", differs, &[("(A, A) bool", Shorter)]),
    ("_<_", less, ordered!()),
    ("_<=_", less_or_equal, ordered!()),
    ("_>_", greater, ordered!()),
    ("_>=_", greater_or_equal, ordered!()),
    ("@in", contains, &[("(A, list(A)) bool", crate::meter::Price::Membership), ("(A, map(A, B)) bool", Fixed(1))]),
    (
        "_[_]",
        index,
        &[
            ("(list(A), int) A", Fixed(1)),
            ("(map(A, B), A) B", Fixed(1)),
            ("(optional(list(A)), int) optional(A)", Fixed(1)),
            ("(optional(map(A, B)), A) optional(B)", Fixed(1)),
        ],
    ),
    (
        "_[?_]",
        optional_index,
        &[
            ("(list(A), int) optional(A)", Fixed(1)),
            ("(optional(list(A)), int) optional(A)", Fixed(1)),
            ("(map(A, B), A) optional(B)", Fixed(1)),
            ("(optional(map(A, B)), A) optional(B)", Fixed(1)),
        ],
    ),
];
