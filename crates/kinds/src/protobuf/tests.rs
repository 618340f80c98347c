//! Both directions over every kind, and what damaged bodies do.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::{
    catalogue::Catalogue,
    schema::{SchemaRef, Shape},
};

/// Random objects of a type, from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn text(&mut self) -> String {
        ["a", "kobune", "小舟", "with \"quotes\"\nand lines", "x-1.y/z"][self.roll(5) as usize].to_owned()
    }

    /// An object, the fuller the nearer it is to the root.
    fn object(&mut self, schema: SchemaRef<'_>, depth: u64) -> Value {
        let mut object = Map::new();
        for (name, place) in schema.fields() {
            let Some(number) = place.number() else { continue };
            if self.roll(12) > 1 + depth.min(8) {
                continue;
            }
            let shows_zero = number.pointer || place.required();
            if let Some(value) = self.value(place, shows_zero, depth) {
                object.insert(name.to_owned(), value);
            }
        }
        Value::Object(object)
    }

    fn value(&mut self, place: SchemaRef<'_>, shows_zero: bool, depth: u64) -> Option<Value> {
        let zero = shows_zero && self.roll(4) == 0;
        Some(match place.shape() {
            Shape::Boolean => json!(!zero),
            Shape::Integer if zero => json!(0),
            Shape::Integer => json!([1, -1, 300, i32::MIN, i32::MAX][self.roll(5) as usize]),
            Shape::Long => json!([1, -1, 70_000_000_000_i64, i64::MIN, i64::MAX][self.roll(5) as usize]),
            Shape::Number => json!([0.5, -2.0, 1e300][self.roll(3) as usize]),
            Shape::String if zero => json!(""),
            Shape::String => self.text().into(),
            Shape::Bytes => json!(["", "AA==", "a29idW5l"][self.roll(3) as usize]),
            Shape::Time => json!(["2026-01-02T03:04:05Z", "1960-01-01T00:00:00Z"][self.roll(2) as usize]),
            Shape::MicroTime => json!("2026-01-02T03:04:05.000006Z"),
            Shape::Quantity => json!(["100m", "1Gi", "0"][self.roll(3) as usize]),
            Shape::IntOrString => [json!(0), json!(8080), json!("50%"), json!("")][self.roll(4) as usize].clone(),
            Shape::Any if place.is_raw() => json!({"f:metadata": {"f:a\u{7f}": {}}, "x": [1, 2.5, null]}),
            Shape::Any => json!({}),
            _ if depth == 0 => return None,
            Shape::Object => self.object(place, depth - 1),
            Shape::List => {
                let item = place.item()?;
                let items: Vec<Value> = (0..=self.roll(2)).filter_map(|_| self.value(item, true, depth - 1)).collect();
                if items.is_empty() {
                    return None;
                }
                items.into()
            }
            Shape::Map => {
                let item = place.item()?;
                let value = self.value(item, true, depth - 1)?;
                let mut map = Map::new();
                map.insert(self.text(), value);
                Value::Object(map)
            }
            Shape::Union => {
                let name = place.type_name().unwrap_or_default();
                match self.roll(2) {
                    0 => self.object(place.item()?, depth - 1),
                    _ if name.ends_with("OrBool") => json!(!zero),
                    _ if name.ends_with("OrStringArray") => json!(["a", "b"]),
                    _ => json!([{"type": "string"}, {}]),
                }
            }
        })
    }
}

fn encoded(kind: &crate::Kind, object: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let text = object.to_string();
    super::object(&mut out, &kind.api_version(), &kind.kind, kind.schema(), text.as_bytes())
        .unwrap_or_else(|error| panic!("{}: {error:?}\n{text}", kind.kind));
    out
}

/// Notes the places of fields that have no number, each type once.
fn unnumbered(schema: SchemaRef<'_>, path: &str, seen: &mut BTreeSet<String>, found: &mut Vec<String>) {
    let Some(inner) = schema.item().or((schema.shape() == Shape::Object).then_some(schema)) else { return };
    if inner.shape() != Shape::Object {
        return unnumbered(inner, path, seen, found);
    }
    let fields: Vec<(&str, SchemaRef<'_>)> = inner.fields().collect();
    if !seen.insert(format!("{:?}", fields.iter().map(|(name, _)| name).collect::<Vec<_>>())) {
        return;
    }
    for (name, field) in fields {
        let path = format!("{path}.{name}");
        if field.number().is_none() {
            found.push(path.clone());
        }
        unnumbered(field, &path, seen, found);
    }
}

#[test]
fn every_field_has_a_number() {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for kind in Catalogue::builtin().kinds() {
        assert!(kind.schema().has_numbers(), "{}", kind.kind);
        for (name, field) in kind.schema().fields().filter(|(name, _)| !["apiVersion", "kind"].contains(name)) {
            let path = format!("{}.{name}", kind.kind);
            if field.number().is_none() {
                found.push(path.clone());
            }
            unnumbered(field, &path, &mut seen, &mut found);
        }
    }
    // Upstream has what an embedded object says of itself in JSON only.
    assert_eq!(
        found,
        ["StatefulSet.spec.volumeClaimTemplates.apiVersion", "StatefulSet.spec.volumeClaimTemplates.kind"]
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn every_kind_comes_back(seed: u64) {
        for kind in Catalogue::builtin().kinds() {
            let mut dice = Dice(seed);
            let mut object = dice.object(kind.schema(), 7);
            object["apiVersion"] = kind.api_version().into();
            object["kind"] = kind.kind.to_string().into();
            let bytes = encoded(kind, &object);
            let again = decode(&bytes, kind.schema());
            prop_assert_eq!(again.as_ref(), Ok(&object), "{}", kind.kind);
            let mut by_name = Vec::new();
            value(&mut by_name, &object).expect("it says what it is");
            prop_assert!(bytes == by_name);
        }
    }

    #[test]
    fn damage_is_no_panic(seed: u64, cut: u16, flips in prop::collection::vec((any::<u16>(), any::<u8>()), 1..8)) {
        let catalogue = Catalogue::builtin();
        let kinds = catalogue.kinds();
        let mut dice = Dice(seed);
        let kind = &kinds[dice.roll(kinds.len() as u64) as usize];
        let object = dice.object(kind.schema(), 6);
        let mut bytes = encoded(kind, &object);
        let length = bytes.len();
        prop_assert!(bytes.starts_with(MAGIC));
        for (at, value) in flips {
            bytes[4 + usize::from(at) % (length - 4)] ^= value;
        }
        bytes.truncate(4 + usize::from(cut) % length);
        // Either outcome is right; what counts is that there is one.
        if let Ok(object) = decode(&bytes, kind.schema()) {
            prop_assert!(object.is_object());
        }
    }
}

#[test]
fn bytes_as_upstream_writes_them() {
    let catalogue = Catalogue::builtin();
    let kind = catalogue.by_kind("v1", "Pod").expect("built in");
    let object = json!({"spec": {"containers": [{"livenessProbe": {"httpGet": {"port": 80}, "timeoutSeconds": 5}}]}});
    let port = [0x08, 0, 0x10, 80];
    let get = [&[0x12, 4][..], &port].concat();
    let handler = [&[0x12, 6][..], &get].concat();
    let probe = [&[0x18, 5, 0x0a, 8][..], &handler].concat();
    let expected = [&b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12\x12\x12\x10\x12\x0e\x52\x0c"[..], &probe].concat();
    assert_eq!(encoded(kind, &object), expected);
}

#[test]
fn lists_and_partial_objects() {
    let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "data": {"k": "AA=="}});
    let mut whole = Vec::new();
    value(
        &mut whole,
        &json!({"apiVersion": "v1", "kind": "SecretList", "metadata": {"resourceVersion": "7"}, "items": [object]}),
    )
    .expect("a list");
    let secret = b"\x12\x06\x0a\x01k\x12\x01\0\x0a\x03\x0a\x01a";
    let expected =
        [&b"k8s\0\x0a\x10\x0a\x02v1\x12\x0aSecretList\x12\x14\x0a\x03\x12\x017\x12\x0d"[..], secret].concat();
    assert_eq!(whole, expected);
    let mut out = Vec::new();
    partial(&mut out, "meta.k8s.io/v1", object.to_string().as_bytes()).expect("an object");
    assert_eq!(out, b"k8s\0\x0a\x27\x0a\x0emeta.k8s.io/v1\x12\x15PartialObjectMetadata\x12\x05\x0a\x03\x0a\x01a");
    let mut frame = Vec::new();
    watch_frame(&mut frame, "ADDED", b"xyz");
    assert_eq!(frame, b"\0\0\0\x0e\x0a\x05ADDED\x12\x05\x0a\x03xyz");
}

/// client-go reads the legacy discovery documents with whatever media type it was given.
#[test]
fn discovery_documents() {
    let mut out = Vec::new();
    let resource = json!({"name": "pods", "verbs": ["get", "list"]});
    let list = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "v1", "resources": [resource]});
    value(&mut out, &list).expect("a list of resources");
    // The verbs are a message of their own, with one repeated field.
    let verbs = b"\x22\x0b\x0a\x03get\x0a\x04list";
    let resource = [&b"\x0a\x04pods"[..], verbs].concat();
    let expected =
        [&b"k8s\0\x0a\x15\x0a\x02v1\x12\x0fAPIResourceList\x12\x19\x0a\x02v1\x12\x13"[..], &resource].concat();
    assert_eq!(out, expected);
    let mut out = Vec::new();
    value(&mut out, &json!({"kind": "APIVersions", "versions": ["v1"]})).expect("the versions");
    assert_eq!(out, b"k8s\0\x0a\x11\x0a\x02v1\x12\x0bAPIVersions\x12\x04\x0a\x02v1");
}

#[test]
fn what_does_not_fit_is_an_error() {
    let catalogue = Catalogue::builtin();
    let kind = catalogue.by_kind("v1", "Pod").expect("built in");
    for wrong in [
        &br#"{"spec": 1}"#[..],
        br#"{"metadata": {"name": 1}}"#,
        br#"{"metadata": {"creationTimestamp": "yesterday"}}"#,
        br#"{"metadata": "#,
    ] {
        assert!(object(&mut Vec::new(), "v1", "Pod", kind.schema(), wrong).is_err());
    }
    assert!(value(&mut Vec::new(), &json!({"apiVersion": "example.com/v1", "kind": "Boat"})).is_err());
}

#[test]
fn damaged_bodies_are_errors() {
    let catalogue = Catalogue::builtin();
    let schema = catalogue.by_kind("v1", "Pod").expect("built in").schema();
    assert_eq!(decode(b"{}", schema), Err(ProtobufError::Prefix));
    for damaged in [
        &b"k8s\0\x12\x05ab"[..],
        b"k8s\0\x0f",
        b"k8s\0\x12\x02\x0a\x7f",
        b"k8s\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        assert!(decode(damaged, schema).is_err(), "{damaged:?}");
    }
}

#[test]
fn zeros_of_go_clients() {
    let catalogue = Catalogue::builtin();
    let kind = catalogue.by_kind("v1", "ConfigMap").expect("built in");
    // An empty namespace and a generation of zero are what Go writes for absent ones; `immutable` is a pointer.
    let raw = b"k8s\0\x12\x15\x0a\x09\x0a\x01a\x1a\0\x38\0\x42\0\x12\x06\x0a\x01k\x12\x01v\x20\0";
    assert_eq!(
        decode(raw, kind.schema()),
        Ok(json!({"metadata": {"name": "a"}, "data": {"k": "v"}, "immutable": false}))
    );
}
