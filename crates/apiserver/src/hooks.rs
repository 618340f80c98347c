//! What single kinds need between decoding and storing beyond their data in `kinds`.

use kobune_kinds::{FieldError, Kind};
use serde_json::Value;

use crate::{certificates, custom_rules, device_taints, policy, security::User, services};

/// Completes a new object; `user` is who makes it, unless the server does so itself.
pub(crate) fn prepare_create(kind: &Kind, object: &mut Value, user: Option<&User>) {
    if &*kind.collection == "core/services" {
        services::complete_addresses(object);
    }
    if device_taints::concerns(kind) {
        device_taints::stamp(object, &Value::Null);
    }
    if let Some(user) = user.filter(|_| certificates::concerns(kind)) {
        certificates::identify(object, user);
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
    if device_taints::concerns(kind) {
        device_taints::stamp(object, old);
    }
}

/// Completes a changed object after its endpoint's rules were applied.
pub(crate) fn prepare_update(kind: &Kind, object: &mut Value, old: &Value) {
    if certificates::concerns(kind) {
        certificates::stamp(object, old);
    }
}

/// Mistakes that only this crate can find.
pub(crate) fn validate(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let mut errors = if certificates::concerns(kind) { certificates::validate(object) } else { Vec::new() };
    errors.extend(policy::validate(kind, object));
    errors.extend(custom_rules::check(kind, object));
    errors
}
