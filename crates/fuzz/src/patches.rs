//! Patches of every form, onto objects of every shape.

use jiff::Timestamp;
use kobune_kinds::FieldValidation;
use serde_json::Value;

use crate::objects::kind_of;

/// The body is an object and a patch, each a JSON value, one after the other.
pub(crate) fn run(data: &[u8]) {
    let Some((kind, _, body)) = kind_of(data) else { return };
    let mut values = serde_json::Deserializer::from_slice(body).into_iter::<Value>();
    let (Some(Ok(mut object)), Some(Ok(patch))) = (values.next(), values.next()) else { return };
    if let Ok(patched) = kobune_merge::json_patch(&object, &patch) {
        drop(patched);
    }
    let mut merged = object.clone();
    kobune_merge::merge_patch(&mut merged, &patch);
    let mut twice = merged.clone();
    kobune_merge::merge_patch(&mut twice, &patch);
    assert_eq!(twice, merged, "a merge patch has its effect once");
    if kind.check_shape(&mut object, FieldValidation::Ignore).is_err() || !object.is_object() {
        return;
    }
    // Nothing is stored without its managed fields having been read.
    kobune_merge::track_update(None, &mut object, kind.schema(), "old", &kind.api_version(), None, Timestamp::MIN);
    if patch.is_object()
        && let Ok(mut patched) = kobune_merge::strategic_merge_patch(&object, &patch, kind.schema())
        && kind.check_shape(&mut patched, FieldValidation::Ignore).is_ok()
        && patched.is_object()
    {
        track(kind, &object, patched);
    }
    apply(kind, &object, patch);
}

fn track(kind: &kobune_kinds::Kind, old: &Value, mut new: Value) {
    let (version, now) = (kind.api_version(), Timestamp::UNIX_EPOCH);
    kobune_merge::track_update(Some(old), &mut new, kind.schema(), "fuzz", &version, None, now);
    let before = new.clone();
    kobune_merge::track_update(Some(&before), &mut new, kind.schema(), "fuzz", &version, None, Timestamp::MAX);
    assert_eq!(new, before, "a write that changes nothing moves nothing");
}

fn apply(kind: &kobune_kinds::Kind, live: &Value, mut configuration: Value) {
    if kind.check_shape(&mut configuration, FieldValidation::Ignore).is_err() || !configuration.is_object() {
        return;
    }
    if let Some(metadata) = configuration.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    let now = Timestamp::UNIX_EPOCH;
    let once = kobune_merge::apply(Some(live), &configuration, kind.schema(), "fuzz", true, None, now);
    let Ok(once) = once else { return };
    let again = kobune_merge::apply(Some(&once), &configuration, kind.schema(), "fuzz", false, None, now)
        .expect("who has applied has no conflict with himself");
    assert_eq!(again, once, "applied twice is applied once");
}
