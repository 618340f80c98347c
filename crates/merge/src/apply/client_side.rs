//! Coming from `kubectl apply` without `--server-side`: what its annotation names, `kubectl` may take over.

use kobune_kinds::SchemaRef;
use serde_json::Value;

use super::{merge, typed};
use crate::compare;
use crate::fieldset::FieldSet;
use crate::structure::Lens;

/// Where kubectl keeps what it applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The manager of `kubectl apply --server-side`. With another name users opt out.
const KUBECTL: &str = "kubectl";

/// Upstream's limit for all annotations: what is longer is not kept.
const MOST_BYTES: usize = 256 * 1024;

fn last_applied(object: Option<&Value>) -> Option<&str> {
    object?.get("metadata")?.get("annotations")?.get(LAST_APPLIED)?.as_str()
}

/// The fields about which the manager cannot be in conflict.
pub(super) fn allowed(live: Option<&Value>, manager: &str, schema: SchemaRef<'_>) -> FieldSet {
    let read = || {
        // An annotation that is no configuration allows nothing: the conflict is told instead.
        let configuration: Value = serde_json::from_str(last_applied(live)?).ok()?;
        let lens = Lens::new(Some(schema));
        typed::check(&configuration, schema).ok()?;
        let mut set = merge::set_of(&configuration, lens);
        // What somebody has changed since is not kubectl's any more, though the annotation still names it.
        let mut since = compare::objects(Some(&configuration), live?, lens, Some(""));
        set.subtract(&since.written());
        set.subtract(&since.removed);
        Some(set)
    };
    if manager == KUBECTL { read().unwrap_or_default() } else { FieldSet::default() }
}

/// Keeps the annotation in step, so that `kubectl apply` on the client's side can be gone back to.
pub(super) fn follow(merged: &mut Value, live: Option<&Value>, configuration: &Value, manager: &str) {
    if manager != KUBECTL || last_applied(live).is_none() {
        return;
    }
    let mut configuration = configuration.clone();
    if let Some(annotations) = configuration.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
    let mut text = configuration.to_string();
    text.push('\n');
    if let Some(annotations) = merged.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)
        && annotations.contains_key(LAST_APPLIED)
    {
        if text.len() > MOST_BYTES {
            annotations.remove(LAST_APPLIED);
        } else {
            annotations.insert(LAST_APPLIED.to_owned(), Value::String(text));
        }
    }
}
