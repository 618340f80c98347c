//! Objects to stored bytes: canonical JSON, written once, with what selectors need taken out beside it.

use std::{collections::HashMap, sync::Arc};

use kobune_kinds::{Catalogue, Kind};
use kobune_store::{Draft, Facets, Key, Record};
use serde_json::Value;

/// Writes an object as canonical JSON whose `metadata.resourceVersion` is empty, and finds where the store has to put
/// the revision's digits.
pub(crate) fn canonical(object: &Value) -> (Vec<u8>, usize) {
    let mut out = Vec::with_capacity(4096);
    let mut splice = 0;
    out.push(b'{');
    let mut metadata_seen = false;
    if let Value::Object(fields) = object {
        let mut first = true;
        for (key, value) in fields {
            // The map is sorted, so a missing `metadata` belongs before the first greater key.
            if !metadata_seen && key.as_str() > "metadata" {
                separate(&mut out, &mut first);
                out.extend_from_slice(b"\"metadata\":");
                splice = write_metadata(&mut out, None);
                metadata_seen = true;
            }
            separate(&mut out, &mut first);
            write_key(&mut out, key);
            if key == "metadata" {
                splice = write_metadata(&mut out, Some(value));
                metadata_seen = true;
            } else {
                write_value(&mut out, value);
            }
        }
        if !metadata_seen {
            separate(&mut out, &mut first);
            out.extend_from_slice(b"\"metadata\":");
            splice = write_metadata(&mut out, None);
        }
    }
    out.push(b'}');
    (out, splice)
}

fn separate(out: &mut Vec<u8>, first: &mut bool) {
    if *first {
        *first = false;
    } else {
        out.push(b',');
    }
}

fn write_key(out: &mut Vec<u8>, key: &str) {
    serde_json::to_writer(&mut *out, key).expect("writing to memory does not fail");
    out.push(b':');
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    serde_json::to_writer(&mut *out, value).expect("a JSON value is always writable to memory");
}

/// Writes the metadata and answers where the digits of the resource version go.
fn write_metadata(out: &mut Vec<u8>, metadata: Option<&Value>) -> usize {
    let mut splice = None;
    let mut first = true;
    out.push(b'{');
    if let Some(Value::Object(fields)) = metadata {
        for (key, value) in fields {
            if key == "resourceVersion" {
                continue;
            }
            if splice.is_none() && key.as_str() > "resourceVersion" {
                separate(out, &mut first);
                splice = Some(write_version(out));
            }
            separate(out, &mut first);
            write_key(out, key);
            write_value(out, value);
        }
    }
    let splice = splice.unwrap_or_else(|| {
        separate(out, &mut first);
        write_version(out)
    });
    out.push(b'}');
    splice
}

fn write_version(out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(b"\"resourceVersion\":\"");
    let splice = out.len();
    out.push(b'"');
    splice
}

/// What selectors can ask about an object. The name and the namespace are in its key and are not repeated.
pub(crate) fn facets(kind: &Kind, object: &Value) -> Facets {
    let fields = kind.selectable(object);
    let fields = fields
        .iter()
        .filter(|(field, _)| !matches!(*field, "metadata.name" | "metadata.namespace"))
        .map(|(field, value)| (*field, value.as_str()));
    Facets::new(labels(object), fields)
}

fn labels(object: &Value) -> Vec<(&str, &str)> {
    match object.pointer("/metadata/labels") {
        Some(Value::Object(map)) => {
            map.iter().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?))).collect()
        }
        _ => Vec::new(),
    }
}

/// The object as the store takes it.
pub(crate) fn draft(kind: &Kind, object: &Value) -> Draft {
    let (bytes, splice) = canonical(object);
    Draft { bytes, splice, facets: facets(kind, object) }
}

/// A stored object once more as the store takes it, for a write that changes nothing in it but its revision. `None` when
/// the place of the revision cannot be found.
pub(crate) fn redraft(record: &Record) -> Option<Draft> {
    let place = kobune_store::version_place(&record.value)?;
    let mut bytes = Vec::with_capacity(record.value.len() - place.len());
    bytes.extend_from_slice(&record.value[..place.start]);
    bytes.extend_from_slice(&record.value[place.end..]);
    Some(Draft { bytes, splice: place.start, facets: (*record.facets).clone() })
}

/// What a store needs when it reads its file at start: the facets of stored bytes.
pub fn stored_facets(catalogue: &Catalogue) -> impl Fn(&Key, &[u8]) -> Facets + Send + Sync + use<> {
    let kinds: HashMap<Arc<str>, Arc<Kind>> = catalogue
        .kinds()
        .iter()
        .filter(|kind| kind.stored && kind.is_storage_version())
        .map(|kind| (Arc::clone(&kind.collection), Arc::clone(kind)))
        .collect();
    move |key, bytes| match (kinds.get(&key.collection), serde_json::from_slice::<Value>(bytes)) {
        (Some(kind), Ok(object)) => facets(kind, &object),
        // Custom resources: their definitions are not known yet. Fields that they let clients select by are looked up in
        // the objects when they are asked for.
        (None, Ok(object)) => Facets::new(labels(&object), []),
        (_, Err(error)) => {
            tracing::error!(%key, %error, "a stored object is unreadable");
            Facets::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use kobune_store::Revision;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_stored_object_is_drafted_again() {
        let object = json!({"kind": "Pod", "metadata": {"name": "a", "labels": {"a": "b"}, "uid": "u"}, "spec": {}});
        let (bytes, splice) = canonical(&object);
        let mut stored = bytes.clone();
        stored.splice(splice..splice, *b"123");
        let facets = Arc::new(Facets::new([("a", "b")], []));
        let record = Record::new(Key::new("core/pods", "n", "a"), Revision(123), stored.into(), Arc::clone(&facets));
        let draft = redraft(&record).expect("it has a revision");
        assert_eq!((draft.bytes, draft.splice, draft.facets), (bytes, splice, (*facets).clone()));
    }

    #[test]
    fn canonical_bytes_and_splice() {
        let check = |object: Value, expected: &str| {
            let (bytes, splice) = canonical(&object);
            let mut text = String::from_utf8(bytes).expect("JSON is UTF-8");
            text.insert(splice, '7');
            assert_eq!(text, expected);
            assert!(serde_json::from_str::<Value>(&text).is_ok());
        };
        check(json!({}), r#"{"metadata":{"resourceVersion":"7"}}"#);
        check(
            json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a", "uid": "u", "resourceVersion": "3"}, "spec": {}}),
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","resourceVersion":"7","uid":"u"},"spec":{}}"#,
        );
        check(json!({"metadata": {"name": "a"}}), r#"{"metadata":{"name":"a","resourceVersion":"7"}}"#);
        check(json!({"spec": 1}), r#"{"metadata":{"resourceVersion":"7"},"spec":1}"#);
    }
}
