//! Server-side apply: a manager says which fields it wants to have which values.

mod client_side;
mod configuration;
mod merge;
mod prune;
mod typed;

pub use configuration::merge_configuration;
pub use typed::{mistakes, printed};

use jiff::Timestamp;
use kobune_kinds::SchemaRef;
use serde_json::Value;

use crate::compare;
use crate::conflict::Conflict;
use crate::element;
use crate::error::ApplyError;
use crate::fieldset::FieldSet;
use crate::managed::{self, Entry, Verb};
use crate::structure::Lens;

/// Who owns what was there before anybody's fields were tracked.
const BEFORE: &str = "before-first-apply";

/// Applies a configuration to a live object, or to nothing. The result carries the new managed fields.
///
/// The fields of the configuration become the manager's. Those that it owned before and does not name any more go, unless
/// somebody else owns them too. Fields that somebody else owns and that would get another value are conflicts; `force`
/// takes them over.
pub fn apply(
    live: Option<&Value>,
    configuration: &Value,
    schema: SchemaRef<'_>,
    manager: &str,
    force: bool,
    subresource: Option<&str>,
    now: Timestamp,
) -> Result<Value, ApplyError> {
    let lens = Lens::new(Some(schema));
    let api_version = configuration.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    typed::check(configuration, schema)?;
    let mut set = merge::set_of(configuration, lens);
    compare::untrack(&mut set, subresource);

    let mut others = managed::of(live);
    if let Some(live) = live
        && others.is_empty()
    {
        let mut before = Entry::new(Verb::Update, BEFORE, api_version, None);
        *before.set() = compare::objects(None, live, lens, subresource).written();
        before.stamp(now);
        others.push(before);
    }
    let mut own = Entry::new(Verb::Apply, manager, api_version, subresource);
    let last = others.iter().position(|entry| entry.same_owner(&own)).map(|index| others.swap_remove(index));
    let (last_set, last_time) = last.map_or_else(Default::default, |mut last| (std::mem::take(last.set()), last.time));

    let mut merged = merge::merge(live, configuration, lens);
    if let Some(metadata) = merged.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    if !last_set.is_empty() {
        let mut last_set = last_set.clone();
        compare::untrack(&mut last_set, subresource);
        let mut owned = set.clone();
        for entry in &mut others {
            owned.unite(entry.set().clone());
        }
        // Which object it is says its metadata, also when nobody owns any of it.
        owned.add(element::field("metadata"), FieldSet::leaf());
        prune::prune(&mut merged, &last_set, &owned, lens);
    }

    let mut changes = compare::objects(live, &merged, lens, subresource);
    let written = changes.written();
    let changed = live.is_none_or(|live| !is_same(live, &merged));
    let allowed = if force { FieldSet::default() } else { client_side::allowed(live, manager, schema) };
    release(&mut others, &written, &changes.removed, (!force).then_some(&allowed))?;
    // Who comes to own fields and changes none has no time, as upstream has it.
    if changed {
        own.stamp(now);
    } else {
        own.time = last_time;
    }
    *own.set() = set;
    others.push(own);
    client_side::follow(&mut merged, live, configuration, manager);
    managed::put(&mut merged, others);
    Ok(merged)
}

/// Whether two states of an object are one, whoever owns what in them.
fn is_same(live: &Value, merged: &Value) -> bool {
    let parts = |object: &'_ Value| -> Option<(usize, usize)> {
        let fields = object.as_object()?;
        let metadata = fields.get("metadata").and_then(Value::as_object)?;
        Some((fields.len(), metadata.len() - usize::from(metadata.contains_key("managedFields"))))
    };
    let same = |(name, value): (&String, &Value)| match merged.get(name) {
        Some(Value::Object(other)) if name == "metadata" => value.as_object().is_some_and(|metadata| {
            metadata.iter().all(|(name, value)| name == "managedFields" || other.get(name) == Some(value))
        }),
        other => other == Some(value),
    };
    parts(live) == parts(merged) && live.as_object().is_some_and(|fields| fields.iter().all(same))
}

/// Takes fields from their other owners: those that went, and those that got another value. The latter are conflicts
/// unless they are allowed; `None` allows all.
fn release(
    others: &mut [Entry],
    written: &FieldSet,
    removed: &FieldSet,
    allowed: Option<&FieldSet>,
) -> Result<(), ApplyError> {
    let mut conflicts = Vec::new();
    for entry in others.iter_mut() {
        if entry.owns_any(written) {
            if let Some(allowed) = allowed {
                let mut contested = entry.set().intersect(written);
                contested.subtract(allowed);
                conflicts.extend(contested.paths().into_iter().map(|path| Conflict::new(entry, path)));
            }
            entry.set().subtract(written);
        }
        if entry.owns_any(removed) {
            entry.set().subtract(removed);
        }
    }
    if conflicts.is_empty() {
        return Ok(());
    }
    conflicts.sort_by(|a, b| {
        (&a.manager, &a.subresource, &a.api_version).cmp(&(&b.manager, &b.subresource, &b.api_version))
    });
    Err(ApplyError::Conflicts { conflicts })
}

#[cfg(test)]
mod tests;
