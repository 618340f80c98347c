//! Objects: JSON, YAML and protobuf, in every way in which they reach the server.

use std::sync::{Arc, LazyLock};

use kobune_kinds::{Catalogue, FieldValidation, Kind, Media, protobuf};
use serde_json::Value;

/// The kinds whose decoding has the most in it.
static KINDS: LazyLock<Vec<Arc<Kind>>> = LazyLock::new(|| {
    let catalogue = Catalogue::builtin();
    let wanted = [
        ("", "v1", "pods"),
        ("", "v1", "services"),
        ("", "v1", "secrets"),
        ("", "v1", "persistentvolumes"),
        ("apps", "v1", "statefulsets"),
        ("batch", "v1", "cronjobs"),
        ("apiextensions.k8s.io", "v1", "customresourcedefinitions"),
        ("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies"),
        ("networking.k8s.io", "v1", "networkpolicies"),
        ("autoscaling", "v2", "horizontalpodautoscalers"),
        ("resource.k8s.io", "v1", "resourceclaims"),
    ];
    let kinds = wanted.iter().filter_map(|(group, version, plural)| catalogue.by_resource(group, version, plural));
    kinds.cloned().collect()
});

/// The first byte says which kind and how strictly; the rest is the body.
pub(crate) fn kind_of(data: &[u8]) -> Option<(&'static Arc<Kind>, FieldValidation, &[u8])> {
    let (&first, body) = data.split_first()?;
    let mode = [FieldValidation::Warn, FieldValidation::Strict, FieldValidation::Ignore][usize::from(first >> 6) % 3];
    Some((&KINDS[usize::from(first & 63) % KINDS.len()], mode, body))
}

pub(crate) fn json(data: &[u8]) {
    if let Some((kind, mode, body)) = kind_of(data) {
        read(kind, body, Media::Json, mode);
    }
}

pub(crate) fn yaml(data: &[u8]) {
    if let Some((kind, mode, body)) = kind_of(data) {
        read(kind, body, Media::Yaml, mode);
    }
}

fn read(kind: &Arc<Kind>, body: &[u8], media: Media, mode: FieldValidation) {
    if let Ok(decoded) = kind.decode(body, media, mode) {
        let text = serde_json::to_vec(&decoded.object).expect("an object is writable");
        let again = kind.decode(&text, Media::Json, FieldValidation::Strict).expect("what was read can be read again");
        assert_eq!(again.object, decoded.object, "reading twice is reading once");
        live(kind, decoded.object);
    }
}

/// What happens to every object that is created.
fn live(kind: &Arc<Kind>, mut object: Value) {
    kind.default(&mut object);
    kind.prepare_create(&mut object);
    let errors = kind.validate(&object);
    let mut changed = object.clone();
    kind.prepare_update(&mut changed, &object, None);
    kind.validate_update(&changed, &object, None);
    kind.warnings(&object, None);
    kind.selectable(&object);
    kind.row(&object, jiff::Timestamp::UNIX_EPOCH);
    let mut defaulted = object.clone();
    kind.default(&mut defaulted);
    if errors.is_empty() {
        assert_eq!(defaulted, object, "defaults are given once");
    }
}

pub(crate) fn protobuf(data: &[u8]) {
    let Some((kind, _, body)) = kind_of(data) else { return };
    let mut framed = b"k8s\0".to_vec();
    framed.extend_from_slice(body);
    for body in [body, &framed] {
        let Ok(mut object) = protobuf::decode(body, kind.schema()) else { continue };
        if kind.check_shape(&mut object, FieldValidation::Ignore).is_err() {
            continue;
        }
        let json = serde_json::to_vec(&object).expect("an object is writable");
        let mut encoded = Vec::new();
        if protobuf::object(&mut encoded, &kind.api_version(), &kind.kind, kind.schema(), &json).is_err() {
            continue;
        }
        let mut again = protobuf::decode(&encoded, kind.schema()).expect("what was written can be read");
        kind.check_shape(&mut again, FieldValidation::Ignore).expect("what was written has its shape");
        for field in ["apiVersion", "kind"] {
            let filled = again.get(field).cloned();
            if let (Some(map), Some(value)) = (object.as_object_mut(), filled) {
                map.insert(field.to_owned(), value);
            }
        }
        assert_eq!(again, object, "writing and reading changes nothing");
        live(kind, object);
    }
}
