//! Lists of a strategic merge patch whose items merge: by key, or as a set of scalars.

use kobune_kinds::SchemaRef;
use serde_json::{Map, Value};

use super::{Directive, directive, merge_map};
use crate::error::PatchError;

/// The items of a directive's list.
pub(super) fn items(value: &Value) -> Result<&[Value], PatchError> {
    value
        .as_array()
        .map(Vec::as_slice)
        .ok_or_else(|| PatchError::malformed("invalid patch format of setElementOrder list"))
}

/// The items of a list of scalars to delete.
pub(super) fn of_scalars(value: &Value) -> Result<&[Value], PatchError> {
    value
        .as_array()
        .filter(|items| items.iter().all(|item| !item.is_object() && !item.is_array()))
        .map(Vec::as_slice)
        .ok_or_else(|| PatchError::malformed("invalid patch format of primitive list"))
}

/// Merges a list into another one.
pub(super) fn merge(
    original: Vec<Value>,
    patch: &[Value],
    order: Option<&[Value]>,
    schema: Option<SchemaRef<'_>>,
) -> Result<Vec<Value>, PatchError> {
    let of_maps = patch.iter().chain(&original).any(Value::is_object);
    if patch.iter().chain(&original).any(|item| item.is_object() != of_maps) {
        return Err(PatchError::unprocessable("list element types are not identical"));
    }
    if !of_maps {
        let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
        for item in original.iter().chain(patch) {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        return Ok(in_order(merged, order.unwrap_or(patch), &original, None));
    }
    let Some(key) = schema.and_then(SchemaRef::patch_merge_key) else {
        return Err(PatchError::unprocessable("cannot merge lists without merge key"));
    };
    let item_schema = schema.and_then(SchemaRef::item);
    let mut merged = original.clone();
    let mut changes: Vec<Map<String, Value>> = Vec::with_capacity(patch.len());
    let mut replace = false;
    for item in patch {
        let Value::Object(item) = item else { continue };
        match directive(item, "list")? {
            None => changes.push(item.clone()),
            // Whatever stands beside the directive says nothing.
            Some(Directive::Replace) => replace = true,
            Some(Directive::Delete) => {
                let value = key_of(item, key)?;
                merged.retain(|candidate| candidate.get(key) != Some(value));
            }
            Some(Directive::Merge) => {
                return Err(PatchError::malformed("merging lists cannot yet be specified in the patch"));
            }
        }
    }
    if replace {
        return Ok(changes.into_iter().map(Value::Object).collect());
    }
    for change in &changes {
        let value = key_of(change, key)?;
        if let Some(found) = merged.iter_mut().find(|candidate| candidate.get(key) == Some(value)) {
            let old = match found.take() {
                Value::Object(old) => old,
                _ => Map::new(),
            };
            *found = Value::Object(merge_map(old, change, item_schema)?);
        } else {
            merged.push(Value::Object(merge_map(Map::new(), change, item_schema)?));
        }
    }
    Ok(in_order(merged, order.unwrap_or(patch), &original, Some(key)))
}

fn key_of<'a>(item: &'a Map<String, Value>, key: &str) -> Result<&'a Value, PatchError> {
    item.get(key).ok_or_else(|| {
        let shown = Value::Object(item.clone());
        PatchError::unprocessable(format!("map: {shown} does not contain declared merge key: {key}"))
    })
}

/// What tells an item from the others of its list.
fn identity<'a>(item: &'a Value, key: Option<&str>) -> Option<&'a Value> {
    match key {
        Some(key) => item.get(key),
        None => Some(item),
    }
}

/// Orders the items: those that `order` names as it names them, the others as the server has them. Where both meet, an
/// item of the server's own goes first if it stood first before.
pub(super) fn in_order(merged: Vec<Value>, order: &[Value], server: &[Value], key: Option<&str>) -> Vec<Value> {
    let position = |list: &[Value], item: &Value| {
        let wanted = identity(item, key)?;
        list.iter().position(|candidate| identity(candidate, key) == Some(wanted))
    };
    let (mut named, mut own): (Vec<_>, Vec<_>) = merged
        .into_iter()
        .map(|item| (position(order, &item), position(server, &item), item))
        .partition(|(at, ..)| at.is_some());
    named.sort_by_key(|(at, ..)| *at);
    own.sort_by_key(|(_, at, _)| at.unwrap_or(usize::MAX));
    let mut result = Vec::with_capacity(named.len() + own.len());
    let (mut named, mut own) = (named.into_iter().peekable(), own.into_iter().peekable());
    loop {
        let own_first = match (own.peek(), named.peek()) {
            (None, None) => return result,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some((_, a, _)), Some((_, b, _))) => matches!((a, b), (Some(a), Some(b)) if a < b),
        };
        let next = if own_first { own.next() } else { named.next() };
        result.extend(next.map(|(_, _, item)| item));
    }
}
