//! Whether a claim bears a taint of a device.

use k8s_openapi::api::resource::v1::{DeviceTaint, DeviceToleration};

/// Whether a toleration is about a taint, as `k8s.io/dynamic-resource-allocation/resourceclaim` has it.
pub fn tolerates(toleration: &DeviceToleration, taint: &DeviceTaint) -> bool {
    let empty_or =
        |given: &Option<String>, wanted: &str| given.as_deref().is_none_or(|given| given.is_empty() || given == wanted);
    let exists = toleration.operator.as_deref() == Some("Exists");
    let key = toleration.key.as_deref().unwrap_or_default();
    empty_or(&toleration.effect, &taint.effect)
        && ((key.is_empty() && exists) || key == taint.key)
        && (exists || toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default())
}
