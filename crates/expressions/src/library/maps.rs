//! Maps that grow: what the `transformMap` macros become.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::catalogue::{Arguments, Rows};
use crate::error::EvaluationError;
use crate::library::{convert, fail, mismatch};
use crate::meter::Price::Fixed;
use crate::value::{Evaluated, Key, Map, Value};

type Entries<'a> = Rc<BTreeMap<Key, (Value<'a>, Value<'a>)>>;

/// Two entries have one key.
pub(crate) fn duplicate(key: &Value<'_>) -> EvaluationError {
    EvaluationError::failed(format!("insert failed: key {} already exists", convert::show(key)))
}

/// Adds an entry, in place where nobody else holds the map.
pub(crate) fn insert<'a>(mut entries: Entries<'a>, key: Value<'a>, value: Value<'a>) -> Evaluated<'a> {
    let Some(place) = Key::of(&key) else { return fail("unsupported key type") };
    if entries.contains_key(&place) {
        return Err(duplicate(&key));
    }
    Rc::make_mut(&mut entries).insert(place, (key, value));
    Ok(Value::Map(Map::Owned(entries)))
}

/// Adds all entries of another map.
pub(crate) fn insert_all<'a>(entries: Entries<'a>, added: &Value<'a>) -> Evaluated<'a> {
    let Value::Map(added) = added else { return mismatch() };
    let mut grown = Value::Map(Map::Owned(entries));
    for key in added.keys() {
        let Some(value) = added.get(&key) else { continue };
        let Value::Map(Map::Owned(entries)) = grown else { return mismatch() };
        grown = insert(entries, key, value?)?;
    }
    Ok(grown)
}

fn map_insert<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    match arguments.values {
        [Value::Map(Map::Owned(entries)), key, value] => insert(entries.clone(), key.clone(), value.clone()),
        [Value::Map(Map::Owned(entries)), added] => insert_all(entries.clone(), added),
        _ => mismatch(),
    }
}

pub(crate) const FUNCTIONS: Rows = &[(
    "cel.@mapInsert",
    map_insert,
    &[("(map(A, B), A, B) map(A, B)", Fixed(1)), ("(map(A, B), map(A, B)) map(A, B)", Fixed(1))],
)];
