mod arbitrary;
mod cluster;
mod job;
mod pod;
mod pod_update;
mod service;
mod storage;
mod workload;

use std::sync::Arc;

use serde_json::{Value, json};

use crate::catalogue::Catalogue;
use crate::kind::Kind;

fn kind_of(object: &Value) -> Arc<Kind> {
    let text = |field: &str| object[field].as_str().expect("a text");
    let catalogue = Catalogue::builtin();
    Arc::clone(catalogue.by_kind(text("apiVersion"), text("kind")).expect("a built-in kind"))
}

/// The object as it is when it is judged: with defaults, and prepared for creation.
fn prepared(mut object: Value) -> Value {
    let kind = kind_of(&object);
    kind.default(&mut object);
    object["metadata"]["uid"] = json!("u");
    kind.prepare_create(&mut object);
    object
}

/// A JSON merge patch.
fn merge(base: &mut Value, change: Value) {
    match change {
        Value::Object(fields) => {
            if !base.is_object() {
                *base = json!({});
            }
            for (key, value) in fields {
                if value.is_null() {
                    base.as_object_mut().expect("it is an object").remove(&key);
                } else {
                    merge(&mut base[&key], value);
                }
            }
        }
        value => *base = value,
    }
}

#[track_caller]
fn compare(found: Vec<crate::FieldError>, expected: &[&str], about: &Value) {
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), expected.len(), "{found:#?}\nabout {about}");
    for (found, expected) in found.iter().zip(expected) {
        // A long message may be given by how it begins.
        let alike = match expected.strip_suffix('…') {
            Some(beginning) => found.starts_with(beginning),
            None => found == expected,
        };
        assert!(alike, "{found}\nis not\n{expected}\nabout {about}");
    }
}

/// Creates `base` with a change, and compares what is wrong with it.
#[track_caller]
fn create(base: &Value, change: Value, expected: &[&str]) {
    let mut object = base.clone();
    merge(&mut object, change.clone());
    let object = prepared(object);
    compare(kind_of(&object).validate(&object), expected, &change);
}

/// Creates `base` and changes it, by an endpoint, and compares what is wrong with that.
#[track_caller]
fn update(base: &Value, change: Value, subresource: Option<&str>, expected: &[&str]) {
    let old = prepared(base.clone());
    let mut object = old.clone();
    merge(&mut object, change.clone());
    let kind = kind_of(&old);
    kind.default(&mut object);
    compare(kind.validate_update(&object, &old, subresource), expected, &change);
}
