//! Merging a configuration into an object, and the set of fields that it names.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::compare::is_empty;
use crate::element::{self, Element};
use crate::fieldset::FieldSet;
use crate::structure::{Form, Lens};

/// The fields that a configuration names. A null names its field. Items without an element are nobody's.
pub(super) fn set_of(value: &Value, lens: Lens<'_>) -> FieldSet {
    let form = lens.form(value);
    let mut set = FieldSet::default();
    match (form, value) {
        (Form::Struct | Form::Map, Value::Object(map)) => {
            for (name, value) in map {
                let mut below = set_of(value, lens.child(name));
                let is_empty_map = value.as_object().is_some_and(Map::is_empty);
                below.member |= is_empty_map || !lens.names(name);
                set.add(element::field(name), below);
            }
        }
        (Form::Keyed | Form::Set, Value::Array(items)) => {
            for item in items {
                let Some(element) = lens.element(form, item) else { continue };
                let mut below = if form == Form::Set { FieldSet::leaf() } else { set_of(item, lens.item()) };
                below.member = true;
                set.add(element, below);
            }
        }
        _ => set.member = true,
    }
    set
}

/// The live value with the configuration's fields in it.
pub(super) fn merge(live: Option<&Value>, configuration: &Value, lens: Lens<'_>) -> Value {
    let form = lens.form(configuration);
    let live = live.filter(|live| lens.form(live) == form);
    match (form, live, configuration) {
        (Form::Struct | Form::Map, _, Value::Object(configuration)) => {
            let live = live.and_then(Value::as_object);
            let mut merged = live.cloned().unwrap_or_default();
            for (name, value) in configuration {
                let (old, lens) = (live.and_then(|live| live.get(name)), lens.child(name));
                // A null says nothing of the fields of others below it. Where there are none it is a value like any other.
                if value.is_null() && old.is_some_and(|old| lens.form(old) != Form::Leaf && !is_empty(old)) {
                    continue;
                }
                // An empty list has no fields that anyone could own, so it must not come and go with those of others.
                let names_nothing = value.as_array().is_some_and(Vec::is_empty) && lens.form(value) != Form::Leaf;
                if old.is_some() || !names_nothing {
                    merged.insert(name.clone(), merge(old, value, lens));
                }
            }
            Value::Object(merged)
        }
        (Form::Keyed | Form::Set, live, Value::Array(configuration)) => {
            let live = live.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            merge_lists(live, configuration, lens, form)
        }
        _ => configuration.clone(),
    }
}

/// Merges lists in upstream's order: the configuration's items in their order, the others where they stood.
fn merge_lists(live: &[Value], configuration: &[Value], lens: Lens<'_>, form: Form) -> Value {
    let (Some(left), Some(right)) = (lens.elements(form, live), lens.elements(form, configuration)) else {
        return Value::Array(configuration.to_vec());
    };
    let mut at: BTreeMap<&Element, &Value> = BTreeMap::new();
    for (element, item) in left.iter().zip(live) {
        at.entry(element).or_insert(item);
    }
    let wanted: BTreeSet<&Element> = right.iter().collect();
    let mut taken: BTreeSet<&Element> = BTreeSet::new();
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let (mut l, mut r) = (0, 0);
    while l < left.len() || r < right.len() {
        if let Some(element) = left.get(l) {
            if !wanted.contains(element) {
                merged.push(live[l].clone());
                l += 1;
                continue;
            }
            // A shared item has its place where the configuration has it: here only if it is the next one there.
            let next = right[r..].iter().find(|element| at.contains_key(element));
            if taken.contains(element) || next != Some(element) {
                l += 1;
                continue;
            }
        }
        if let Some(element) = right.get(r) {
            merged.push(merge(at.get(element).copied(), &configuration[r], lens.item()));
            taken.insert(element);
            r += 1;
        }
    }
    Value::Array(merged)
}
