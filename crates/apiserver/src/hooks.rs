//! What single kinds need between decoding and storing beyond their data in `kinds`.

use kobune_kinds::Kind;
use serde_json::Value;

use crate::services;

/// Completes a new object.
pub(crate) fn prepare_create(kind: &Kind, object: &mut Value) {
    if &*kind.collection == "core/services" {
        services::default_families(object);
    }
}

/// Takes over from the stored object what the server had chosen and the client left out.
pub(crate) fn fill_from_old(kind: &Kind, object: &mut Value, old: &Value, subresource: Option<&str>) {
    if subresource.is_some() {
        return;
    }
    if &*kind.collection == "core/services" {
        services::keep_allocated(object, old);
    }
}
