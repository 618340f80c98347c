//! Lists: order, sums, positions, and the equality and addition of lists that are sets or maps.

use std::cmp::Ordering;

use crate::catalogue::{Arguments, Rows};
use crate::error::EvaluationError;
use crate::evaluate::LONGEST_LIST;
use crate::library::{compare, fail, length, mismatch, text};
use crate::meter::Price::{Compared, Fixed, Flatten, Items, Pairs, Walk};
use crate::schema::ListKind;
use crate::value::{Evaluated, List, Value};

type Compare<'f> = &'f dyn Fn(&Value<'_>, &Value<'_>) -> bool;

/// Equality of two lists of one length, by the kind of the first one or else the second one.
pub(crate) fn equal(a: &List<'_>, b: &List<'_>, same: Compare<'_>) -> bool {
    let kind = if a.schema.is_some() { a.kind() } else { b.kind() };
    let (Ok(a), Ok(b)) = (a.iter().collect::<Result<Vec<_>, _>>(), b.iter().collect::<Result<Vec<_>, _>>()) else {
        return false;
    };
    match kind {
        ListKind::Atomic => a.iter().zip(&b).all(|(a, b)| same(a, b)),
        ListKind::Set => a.iter().all(|a| b.iter().any(|b| same(a, b))),
        ListKind::Map(keys) => a.iter().all(|a| b.iter().find(|b| same_keys(a, b, keys)).is_some_and(|b| same(a, b))),
    }
}

fn same_keys(a: &Value<'_>, b: &Value<'_>, keys: &[Box<str>]) -> bool {
    let (Value::Map(a), Value::Map(b)) = (a, b) else { return false };
    keys.iter().all(|key| match (a.field(key), b.field(key)) {
        (Some(Ok(a)), Some(Ok(b))) => a.equals(&b),
        (None, None) => true,
        _ => false,
    })
}

/// `a + b`: what is new in a set is added, what has the same keys in a map is replaced.
pub(crate) fn concatenate<'a>(a: &List<'a>, b: &List<'a>) -> Evaluated<'a> {
    let mut items: Vec<Value<'a>> = a.iter().collect::<Result<_, _>>()?;
    let added = b.iter();
    match a.kind() {
        ListKind::Atomic => {
            for item in added {
                items.push(item?);
            }
        }
        ListKind::Set => {
            for item in added {
                let item = item?;
                if !items.iter().any(|own| own.equals(&item)) {
                    items.push(item);
                }
            }
        }
        ListKind::Map(keys) => {
            for item in added {
                let item = item?;
                match items.iter_mut().find(|own| same_keys(own, &item, keys)) {
                    Some(own) => *own = item,
                    None => items.push(item),
                }
            }
        }
    }
    let made = List::owned(items);
    Ok(Value::List(List { schema: a.schema, ..made }))
}

fn list_of<'c, 'a>(arguments: &'c Arguments<'_, 'a>) -> Result<&'c List<'a>, EvaluationError> {
    match arguments.values.first() {
        Some(Value::List(list)) => Ok(list),
        _ => Err(EvaluationError::no_such_overload()),
    }
}

fn size<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    match arguments.values {
        [Value::String(text)] => Ok(length(text.chars().count())),
        [Value::Bytes(bytes)] => Ok(length(bytes.len())),
        [Value::List(list)] => Ok(length(list.len())),
        [Value::Map(map)] => Ok(length(map.len())),
        _ => mismatch(),
    }
}

fn is_sorted<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let mut before: Option<Value<'a>> = None;
    for item in list_of(arguments)?.iter() {
        let item = item?;
        if let Some(before) = &before
            && compare::order(before, &item)?.is_gt()
        {
            return Ok(Value::Bool(false));
        }
        before = Some(item);
    }
    Ok(Value::Bool(true))
}

fn sum<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let mut total: Option<Value<'a>> = None;
    for item in list_of(arguments)?.iter() {
        let item = item?;
        let (Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::Duration(_)) = item else { return mismatch() };
        total = Some(match total {
            None => item,
            Some(sum) => super::arithmetic::sum(sum, item)?,
        });
    }
    // What an empty list sums to depends on a type that only the checker knows; zero compares with all of them.
    Ok(total.unwrap_or(Value::Int(0)))
}

fn extreme<'a>(arguments: &Arguments<'_, 'a>, name: &str, wanted: Ordering) -> Evaluated<'a> {
    let mut found: Option<Value<'a>> = None;
    for item in list_of(arguments)?.iter() {
        let item = item?;
        if match &found {
            None => true,
            Some(best) => compare::order(&item, best)? == wanted,
        } {
            found = Some(item);
        }
    }
    found.map_or_else(|| fail(format!("{name} called on empty list")), Ok)
}

fn max<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    extreme(arguments, "max", Ordering::Greater)
}

fn min<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    extreme(arguments, "min", Ordering::Less)
}

fn index_of<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let [Value::List(list), wanted] = arguments.values else { return text::index_of(arguments) };
    for (position, item) in list.iter().enumerate() {
        if item?.equals(wanted) {
            return Ok(length(position));
        }
    }
    Ok(Value::Int(-1))
}

fn last_index_of<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let [Value::List(list), wanted] = arguments.values else { return text::last_index_of(arguments) };
    for position in (0..list.len()).rev() {
        if list.get(position).transpose()?.is_some_and(|item| item.equals(wanted)) {
            return Ok(length(position));
        }
    }
    Ok(Value::Int(-1))
}

fn slice<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let [Value::List(list), Value::Int(start), Value::Int(end)] = arguments.values else { return mismatch() };
    let call = format!("cannot slice({start}, {end})");
    let (Ok(from), Ok(to)) = (usize::try_from(*start), usize::try_from(*end)) else {
        return fail(format!("{call}, negative indexes not supported"));
    };
    if from > to {
        return fail(format!("{call}, start index must be less than or equal to end index"));
    }
    if to > list.len() {
        return fail(format!("{call}, list is length {}", list.len()));
    }
    (from..to).filter_map(|index| list.get(index)).collect::<Result<_, _>>().map(Value::list)
}

fn flatten<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let (list, depth) = match arguments.values {
        [Value::List(list)] => (list, 1),
        [Value::List(_), Value::Int(depth)] if *depth < 0 => return fail("level must be non-negative"),
        [Value::List(list), Value::Int(depth)] => (list, *depth),
        _ => return mismatch(),
    };
    let mut items = Vec::new();
    flatten_into(list, depth.min(250), &mut items)?;
    Ok(Value::list(items))
}

fn flatten_into<'a>(list: &List<'a>, depth: i64, items: &mut Vec<Value<'a>>) -> Result<(), EvaluationError> {
    for item in list.iter() {
        match item? {
            Value::List(inner) if depth > 0 => flatten_into(&inner, depth - 1, items)?,
            item if items.len() < LONGEST_LIST => items.push(item),
            _ => return Err(EvaluationError::failed("list is too long")),
        }
    }
    Ok(())
}

fn range<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let [Value::Int(end)] = arguments.values else { return mismatch() };
    let end = usize::try_from(*end).unwrap_or(0);
    if end > LONGEST_LIST {
        return fail("list is too long");
    }
    Ok(Value::list((0..end).map(length).collect()))
}

fn reverse<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let mut items = list_of(arguments)?.iter().collect::<Result<Vec<_>, _>>()?;
    items.reverse();
    Ok(Value::list(items))
}

/// The longest list in which every item is compared with every other: a million pairs or so.
const LONGEST_COMPARED: usize = 4096;

fn distinct<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let list = list_of(arguments)?;
    if list.len() > LONGEST_COMPARED {
        return fail("list is too long to find what is distinct in it");
    }
    let mut items: Vec<Value<'a>> = Vec::new();
    for item in list.iter() {
        let item = item?;
        if !items.iter().any(|seen| seen.equals(&item)) {
            items.push(item);
        }
    }
    Ok(Value::list(items))
}

fn sort<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let items = list_of(arguments)?.iter().collect::<Result<Vec<_>, _>>()?;
    sort_by(items.clone(), items)
}

fn sort_by_keys<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let [Value::List(list), Value::List(keys)] = arguments.values else { return mismatch() };
    sort_by(list.iter().collect::<Result<_, _>>()?, keys.iter().collect::<Result<_, _>>()?)
}

fn sort_by<'a>(items: Vec<Value<'a>>, keys: Vec<Value<'a>>) -> Evaluated<'a> {
    if items.len() != keys.len() {
        return fail(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} elements respectively",
            items.len(),
            keys.len()
        ));
    }
    if let Some(first) = keys.first() {
        let name = first.type_of();
        for key in &keys {
            if key.type_of().runtime_name() != name.runtime_name() {
                return fail("list elements must have the same type");
            }
            if matches!(compare::order(first, key), Err(EvaluationError::Failed(words)) if words == "no such overload")
            {
                return fail("list elements must be comparable");
            }
        }
    }
    let mut pairs: Vec<(Value<'a>, Value<'a>)> = keys.into_iter().zip(items).collect();
    pairs.sort_by(|(a, _), (b, _)| compare::order(a, b).unwrap_or(Ordering::Equal));
    Ok(Value::list(pairs.into_iter().map(|(_, item)| item).collect()))
}

fn includes<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    match arguments.values {
        [Value::List(list), wanted] => {
            for item in list.iter() {
                if item?.equals(wanted) {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        [single, wanted] => Ok(Value::Bool(single.equals(wanted))),
        _ => mismatch(),
    }
}

macro_rules! of_comparable {
    ($price:expr, $($signature:literal),*) => { &[$(($signature, $price)),*] };
}

pub(crate) const FUNCTIONS: Rows = &[
    (
        "size",
        size,
        &[
            ("(bytes) int", Fixed(1)),
            ("bytes.() int", Fixed(1)),
            ("(list(A)) int", Fixed(1)),
            ("list(A).() int", Fixed(1)),
            ("(map(A, B)) int", Fixed(1)),
            ("map(A, B).() int", Fixed(1)),
            ("(string) int", Fixed(1)),
            ("string.() int", Fixed(1)),
        ],
    ),
    (
        "isSorted",
        is_sorted,
        of_comparable!(
            Walk,
            "list(int).() bool",
            "list(uint).() bool",
            "list(double).() bool",
            "list(bool).() bool",
            "list(duration).() bool",
            "list(timestamp).() bool",
            "list(string).() bool",
            "list(bytes).() bool"
        ),
    ),
    (
        "sum",
        sum,
        of_comparable!(
            Walk,
            "list(int).() int",
            "list(uint).() uint",
            "list(double).() double",
            "list(duration).() duration"
        ),
    ),
    (
        "max",
        max,
        of_comparable!(
            Walk,
            "list(int).() int",
            "list(uint).() uint",
            "list(double).() double",
            "list(bool).() bool",
            "list(duration).() duration",
            "list(timestamp).() timestamp",
            "list(string).() string",
            "list(bytes).() bytes"
        ),
    ),
    (
        "min",
        min,
        of_comparable!(
            Walk,
            "list(int).() int",
            "list(uint).() uint",
            "list(double).() double",
            "list(bool).() bool",
            "list(duration).() duration",
            "list(timestamp).() timestamp",
            "list(string).() string",
            "list(bytes).() bytes"
        ),
    ),
    (
        "indexOf",
        index_of,
        &[("list(A).(A) int", Walk), ("string.(string) int", Walk), ("string.(string, int) int", Walk)],
    ),
    (
        "lastIndexOf",
        last_index_of,
        &[("list(A).(A) int", Walk), ("string.(string) int", Walk), ("string.(string, int) int", Walk)],
    ),
    ("slice", slice, &[("list(A).(int, int) list(A)", Items)]),
    ("flatten", flatten, &[("list(list(A)).() list(A)", Flatten), ("list(dyn).(int) list(dyn)", Flatten)]),
    ("lists.range", range, &[("(int) list(int)", Items)]),
    ("reverse", reverse, &[("list(A).() list(A)", Items)]),
    ("distinct", distinct, &[("list(A).() list(A)", Compared)]),
    (
        "sort",
        sort,
        of_comparable!(
            Compared,
            "list(int).() list(int)",
            "list(uint).() list(uint)",
            "list(double).() list(double)",
            "list(bool).() list(bool)",
            "list(duration).() list(duration)",
            "list(timestamp).() list(timestamp)",
            "list(string).() list(string)",
            "list(bytes).() list(bytes)"
        ),
    ),
    (
        "@sortByAssociatedKeys",
        sort_by_keys,
        of_comparable!(
            Compared,
            "list(A).(list(int)) list(A)",
            "list(A).(list(uint)) list(A)",
            "list(A).(list(double)) list(A)",
            "list(A).(list(bool)) list(A)",
            "list(A).(list(duration)) list(A)",
            "list(A).(list(timestamp)) list(A)",
            "list(A).(list(string)) list(A)",
            "list(A).(list(bytes)) list(A)"
        ),
    ),
    ("includes", includes, &[("dyn.(dyn) bool", Walk)]),
    ("sets.contains", super::sets::contains, &[("(list(A), list(A)) bool", Pairs(1))]),
    ("sets.intersects", super::sets::intersects, &[("(list(A), list(A)) bool", Pairs(1))]),
    ("sets.equivalent", super::sets::equivalent, &[("(list(A), list(A)) bool", Pairs(2))]),
];
