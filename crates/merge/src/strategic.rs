//! Strategic merge patch: a merge patch whose lists merge as the kind's schema says, with directives.

mod list;

use kobune_kinds::SchemaRef;
use serde_json::{Map, Value};

use crate::error::PatchError;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

/// What `$patch` says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Directive {
    Merge,
    Replace,
    Delete,
}

/// Applies a strategic merge patch.
pub fn strategic_merge_patch(object: &Value, patch: &Value, schema: SchemaRef<'_>) -> Result<Value, PatchError> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::malformed("a strategic merge patch is an object"));
    };
    let original = object.as_object().cloned().unwrap_or_default();
    merge_map(original, patch, Some(schema)).map(Value::Object)
}

fn directive(patch: &Map<String, Value>, place: &str) -> Result<Option<Directive>, PatchError> {
    match patch.get(PATCH) {
        None => Ok(None),
        Some(Value::String(word)) => match word.as_str() {
            "merge" => Ok(Some(Directive::Merge)),
            "replace" => Ok(Some(Directive::Replace)),
            "delete" => Ok(Some(Directive::Delete)),
            other => Err(PatchError::malformed(format!("unknown patch type found: {other:?} in {place}"))),
        },
        Some(other) => Err(PatchError::malformed(format!("unexpected patch type found: {other}"))),
    }
}

fn merge_map(
    mut original: Map<String, Value>,
    patch: &Map<String, Value>,
    schema: Option<SchemaRef<'_>>,
) -> Result<Map<String, Value>, PatchError> {
    match directive(patch, "map")? {
        Some(Directive::Delete) => return Ok(Map::new()),
        Some(Directive::Replace) => {
            let mut replacement = patch.clone();
            replacement.remove(PATCH);
            return Ok(replacement);
        }
        Some(Directive::Merge) => {
            return Err(PatchError::malformed(format!(
                "unknown patch type: merge in map: {}",
                Value::Object(patch.clone())
            )));
        }
        None => {}
    }
    retain_keys(&mut original, patch)?;
    for (key, change) in patch {
        if let Some(name) = key.strip_prefix(DELETE_PRIMITIVES) {
            let gone = list::of_scalars(change)?;
            if let Some(Value::Array(items)) = original.get_mut(name) {
                items.retain(|item| !gone.contains(item));
            }
        }
    }
    for (key, change) in patch {
        if key.starts_with('$') && (key == PATCH || key == RETAIN_KEYS || key.starts_with(DELETE_PRIMITIVES)) {
            continue;
        }
        if let Some(name) = key.strip_prefix(SET_ORDER) {
            // Together with the list's own patch if there is one.
            if !patch.contains_key(name)
                && let Some(Value::Array(items)) = original.get_mut(name)
            {
                let merge_key = child(schema, name).and_then(SchemaRef::patch_merge_key);
                let server = std::mem::take(items);
                *items = list::in_order(server.clone(), list::items(change)?, &server, merge_key);
            }
            continue;
        }
        let below = child(schema, key);
        let order = match patch.get(&format!("{SET_ORDER}{key}")) {
            Some(order) => Some(list::items(order)?),
            None => None,
        };
        let strategy = below.map(SchemaRef::patch_strategy).unwrap_or_default();
        let value = match (original.remove(key), change) {
            (_, Value::Null) => continue,
            (Some(Value::Object(old)), Value::Object(change)) if !strategy.replace => {
                Value::Object(merge_map(old, change, below)?)
            }
            (Some(Value::Array(old)), Value::Array(change)) if strategy.merge => {
                Value::Array(list::merge(old, change, order, below)?)
            }
            (Some(Value::Object(_)), Value::Object(_)) | (Some(Value::Array(_)), Value::Array(_)) => change.clone(),
            // Where nothing of the kind is, there is nothing to merge with either.
            (_, change) => match without_directives(change) {
                Some(value) => value,
                None => continue,
            },
        };
        original.insert(key.clone(), value);
    }
    Ok(original)
}

/// What a patch says where there is nothing to be patched; `None` where it is an instruction alone. Nulls say nothing.
fn without_directives(patch: &Value) -> Option<Value> {
    Some(match patch {
        Value::Object(fields) if fields.contains_key(PATCH) => return None,
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(name, value)| !value.is_null() && !is_directive(name));
            Value::Object(kept.filter_map(|(name, value)| Some((name.clone(), without_directives(value)?))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().filter_map(without_directives).collect()),
        scalar => scalar.clone(),
    })
}

fn is_directive(name: &str) -> bool {
    name == RETAIN_KEYS || name.starts_with(SET_ORDER) || name.starts_with(DELETE_PRIMITIVES)
}

fn child<'a>(schema: Option<SchemaRef<'a>>, name: &str) -> Option<SchemaRef<'a>> {
    schema.and_then(|schema| schema.child(name))
}

/// `$retainKeys`: fields that the directive does not name go.
fn retain_keys(original: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), PatchError> {
    let Some(retained) = patch.get(RETAIN_KEYS) else {
        return Ok(());
    };
    let wrong = || PatchError::malformed("invalid patch format of retainKeys");
    let retained = retained.as_array().ok_or_else(wrong)?;
    let is_retained = |key: &str| retained.iter().any(|name| name.as_str() == Some(key));
    if !patch.iter().all(|(key, value)| key.starts_with('$') || value.is_null() || is_retained(key)) {
        return Err(wrong());
    }
    original.retain(|key, _| is_retained(key));
    Ok(())
}

#[cfg(test)]
mod tests;
