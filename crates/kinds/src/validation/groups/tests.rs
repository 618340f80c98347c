//! What is said about wrong objects, kind by kind.

mod access;
mod admission;
mod certificates;
mod devices;
mod flow;
mod network;
mod storage;

use serde_json::{Value, json};

use crate::catalogue::Catalogue;

/// Fills in what every object has.
fn named(mut object: Value) -> Value {
    if object["metadata"].is_null() {
        object["metadata"] = json!({"name": "a.b", "namespace": "default"});
    }
    object
}

fn shown(errors: Vec<crate::FieldError>) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// What is wrong with a new object, after its defaults.
#[track_caller]
fn create(api_version: &str, kind: &str, object: Value, expected: &[&str]) {
    let catalogue = Catalogue::builtin();
    let kind = catalogue.by_kind(api_version, kind).expect("a built-in kind");
    let mut object = named(object);
    kind.default(&mut object);
    assert_eq!(shown(kind.validate(&object)), expected, "{object}");
}

/// What is wrong with a change, by way of the object or a subresource.
#[track_caller]
fn change(api_version: &str, kind: &str, subresource: Option<&str>, old: Value, new: Value, expected: &[&str]) {
    let catalogue = Catalogue::builtin();
    let kind = catalogue.by_kind(api_version, kind).expect("a built-in kind");
    let (mut old, mut new) = (named(old), named(new));
    kind.default(&mut old);
    kind.default(&mut new);
    assert_eq!(shown(kind.validate_update(&new, &old, subresource)), expected, "{new}");
}
