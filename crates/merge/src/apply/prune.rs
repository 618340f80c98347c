//! Removing what a manager applied before and does not apply any more.

use serde_json::Value;

use crate::compare::is_empty;
use crate::element;
use crate::fieldset::FieldSet;
use crate::structure::{Form, Lens};

/// Removes the fields of `last` that nobody owns now.
pub(super) fn prune(value: &mut Value, last: &FieldSet, owned: &FieldSet, lens: Lens<'_>) {
    let form = lens.form(value);
    if is_empty(value) {
        return;
    }
    match (form, &mut *value) {
        (Form::Struct | Form::Map, Value::Object(map)) => map.retain(|name, value| {
            let element = element::field(name);
            keep(value, last.get(&element), owned.get(&element), lens.child(name), lens.names(name))
        }),
        (Form::Keyed | Form::Set, Value::Array(items)) => items.retain_mut(|item| {
            let Some(element) = lens.element(form, item) else {
                return true;
            };
            keep(item, last.get(&element), owned.get(&element), lens.item(), false)
        }),
        _ => return,
    }
    // Upstream leaves nothing of what it has emptied, not an empty one.
    if is_empty(value) {
        *value = Value::Null;
    }
}

/// Whether a value stays; it is pruned if it does. A field that the schema names lives as long as anything in it is
/// owned, a key or an item as long as it is owned itself.
fn keep(value: &mut Value, last: Option<&FieldSet>, owned: Option<&FieldSet>, lens: Lens<'_>, named: bool) -> bool {
    let Some(last) = last else {
        return true;
    };
    let is_leaf = lens.form(value) == Form::Leaf;
    let goes = if named && !is_leaf {
        owned.is_none()
    } else {
        last.member && !owned.is_some_and(|owned| owned.member || (is_leaf && named))
    };
    if goes {
        return false;
    }
    let nothing = FieldSet::default();
    prune(value, last, owned.unwrap_or(&nothing), lens);
    true
}
