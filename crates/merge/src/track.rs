//! Managed fields of creates, updates and patches.

use jiff::Timestamp;
use kobune_kinds::SchemaRef;
use serde_json::Value;

use crate::compare;
use crate::managed::{self, Entry, Verb};
use crate::structure::Lens;

/// Notes in `new` what has changed since `old` as the manager's. Fields that went are nobody's any more.
///
/// The entry's time moves when the manager gave a value to any field, and only then: a write that changes nothing leaves
/// the entries as they were.
pub fn track_update(
    old: Option<&Value>,
    new: &mut Value,
    schema: SchemaRef<'_>,
    manager: &str,
    api_version: &str,
    subresource: Option<&str>,
    now: Timestamp,
) {
    let mut entries = managed::take(old, new, subresource);
    // An object without managed fields was reset, or is older than they are: the next one who applies starts them anew.
    if entries.is_empty() && old.is_some_and(|old| old["metadata"]["uid"].is_string()) {
        return managed::put(new, entries);
    }
    let mut changes = compare::objects(old, new, Lens::new(Some(schema)), subresource);
    let written = changes.written();
    // A new object has no other owners.
    if !entries.is_empty() {
        let mut gone = changes.removed;
        gone.unite(written.clone());
        for entry in &mut entries {
            if entry.owns_any(&gone) {
                entry.set().subtract(&gone);
            }
        }
    }
    if !written.is_empty() {
        let mut own = Entry::new(Verb::Update, manager, api_version, subresource);
        if let Some(index) = entries.iter().position(|entry| entry.same_owner(&own)) {
            own = entries.swap_remove(index);
        }
        own.set().unite(written);
        own.stamp(now);
        entries.push(own);
    }
    managed::put(new, entries);
}

#[cfg(test)]
mod tests;
