//! What has changed between two states of an object, as sets of fields.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::element::{self, Element};
use crate::fieldset::FieldSet;
use crate::structure::{Form, Lens};

/// Fields of the metadata that are nobody's: the server sets them or they say which object it is.
const UNTRACKED: [&str; 9] = [
    "f:name",
    "f:namespace",
    "f:creationTimestamp",
    "f:selfLink",
    "f:uid",
    "f:clusterName",
    "f:generation",
    "f:managedFields",
    "f:resourceVersion",
];

/// The difference of two values.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) added: FieldSet,
    pub(crate) modified: FieldSet,
    pub(crate) removed: FieldSet,
}

impl Changes {
    fn add(&mut self, element: Element, below: Changes) {
        let Changes { added, modified, removed } = below;
        if !removed.is_empty() {
            self.removed.add(element.clone(), removed);
        }
        if !modified.is_empty() {
            self.modified.add(element.clone(), modified);
        }
        if !added.is_empty() {
            self.added.add(element, added);
        }
    }

    /// The fields that got a value: their owner is who wrote them.
    pub(crate) fn written(&mut self) -> FieldSet {
        let mut set = std::mem::take(&mut self.added);
        set.unite(std::mem::take(&mut self.modified));
        set
    }
}

/// Compares the states of an object, without the fields that are nobody's.
pub(crate) fn objects(old: Option<&Value>, new: &Value, lens: Lens<'_>, subresource: Option<&str>) -> Changes {
    // What upstream writes in an object whatever is in it was there before anybody set anything.
    let unset = if old.is_none() { lens.unset() } else { None };
    let mut changes = compare(old.or(unset.as_ref()), Some(new), lens, true);
    for set in [&mut changes.added, &mut changes.modified, &mut changes.removed] {
        untrack(set, subresource);
    }
    changes
}

/// Removes what is nobody's from a set: fields of the metadata, and the part that this subresource cannot write.
pub(crate) fn untrack(set: &mut FieldSet, subresource: Option<&str>) {
    set.member = false;
    set.cut("f:apiVersion");
    set.cut("f:kind");
    for field in UNTRACKED {
        set.remove(&["f:metadata", field]);
    }
    set.remove(&["f:metadata"]);
    match subresource {
        None => set.cut("f:status"),
        Some("status") => set.cut("f:spec"),
        Some(_) => {}
    }
}

/// Compares two values; `there` says that the place exists even when it is empty. A null is a value: only custom resources
/// have them, where their schema allows it.
fn compare(old: Option<&Value>, new: Option<&Value>, lens: Lens<'_>, there: bool) -> Changes {
    let mut changes = Changes::default();
    let (old, new) = match (old, new) {
        (None, None) => return changes,
        (None, Some(new)) => {
            changes.added = whole(new, lens, there);
            return changes;
        }
        (Some(old), None) => {
            changes.removed = whole(old, lens, there);
            return changes;
        }
        (Some(old), Some(new)) => (old, new),
    };
    // Where a null is an empty list or map, the other one tells which; two empty ones are compared as they are.
    let (empty_old, empty_new);
    let (old, new) = match (old, new) {
        (Value::Null, new) if lens.null_is_empty() && lens.form(new) != Form::Leaf && !is_empty(new) => {
            empty_old = empty_of(new);
            (&empty_old, new)
        }
        (old, Value::Null) if lens.null_is_empty() && lens.form(old) != Form::Leaf && !is_empty(old) => {
            empty_new = empty_of(old);
            (old, &empty_new)
        }
        both => both,
    };
    let form = lens.form(new);
    let form = if form == lens.form(old) { form } else { Form::Leaf };
    match (form, old, new) {
        (Form::Struct | Form::Map, Value::Object(old), Value::Object(new)) => {
            compare_maps(&mut changes, old, new, lens)
        }
        (Form::Keyed | Form::Set, Value::Array(old), Value::Array(new)) => {
            if old != new {
                compare_lists(&mut changes, old, new, lens, form);
            }
        }
        _ => changes.modified.member = old != new,
    }
    changes
}

pub(crate) fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

fn empty_of(value: &Value) -> Value {
    if value.is_array() { Value::Array(Vec::new()) } else { Value::Object(Map::new()) }
}

/// All fields of a value that was not there before, or is not there any more.
fn whole(value: &Value, lens: Lens<'_>, there: bool) -> FieldSet {
    let form = lens.form(value);
    let mut set = if there { FieldSet::default() } else { FieldSet::leaf() };
    match (form, value) {
        (Form::Struct | Form::Map, Value::Object(map)) => {
            for (name, value) in map {
                set.add(element::field(name), whole(value, lens.child(name), false));
            }
        }
        (Form::Keyed | Form::Set, Value::Array(items)) => {
            // A list whose items cannot be told apart is one field.
            let Some(elements) = lens.elements(form, items) else {
                return FieldSet::leaf();
            };
            let mut items: Vec<(Element, &Value)> = elements.into_iter().zip(items).collect();
            items.sort_by(|(a, _), (b, _)| a.cmp(b));
            for twins in items.chunk_by_mut(|(a, _), (b, _)| a == b) {
                let below = match twins {
                    [(_, item)] => whole(item, lens.item(), false),
                    _ => FieldSet::leaf(),
                };
                set.add(std::mem::take(&mut twins[0].0), below);
            }
        }
        _ => set.member = true,
    }
    set
}

fn compare_maps(changes: &mut Changes, old: &Map<String, Value>, new: &Map<String, Value>, lens: Lens<'_>) {
    let mut one = |name: &str, old: Option<&Value>, new: Option<&Value>| {
        let below = compare(old, new, lens.child(name), false);
        if !(below.added.is_empty() && below.modified.is_empty() && below.removed.is_empty()) {
            changes.add(element::field(name), below);
        }
    };
    for (name, value) in old {
        one(name, Some(value), new.get(name));
    }
    for (name, value) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
        one(name, None, Some(value));
    }
}

fn compare_lists(changes: &mut Changes, old: &[Value], new: &[Value], lens: Lens<'_>, form: Form) {
    let (Some(old_elements), Some(new_elements)) = (lens.elements(form, old), lens.elements(form, new)) else {
        changes.modified.member = true;
        return;
    };
    // Stored lists may hold an item twice; those are compared together.
    let mut items: BTreeMap<Element, [Vec<&Value>; 2]> = BTreeMap::new();
    for (side, (elements, list)) in [(old_elements, old), (new_elements, new)].into_iter().enumerate() {
        for (element, item) in elements.into_iter().zip(list) {
            items.entry(element).or_default()[side].push(item);
        }
    }
    for (element, [old, new]) in items {
        // Of twins only their place is owned.
        let below = match (old.as_slice(), new.as_slice()) {
            ([_, _, ..], [_, _, ..]) => {
                let mut below = Changes::default();
                below.modified.member = old != new;
                below
            }
            ([_, _, ..], _) => {
                let mut below = compare(None, new.first().copied(), lens.item(), false);
                below.removed.member = true;
                below
            }
            (_, [_, _, ..]) => {
                let mut below = compare(old.first().copied(), None, lens.item(), false);
                below.added.member = true;
                below
            }
            (old, new) => compare(old.first().copied(), new.first().copied(), lens.item(), false),
        };
        changes.add(element, below);
    }
}
