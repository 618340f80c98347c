//! The writes of a binding as merge patches; `None` where nothing is left to write. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kobune_scheduler::volume_match::claim_ref;
use kube::Resource;
use kube::api::Patch;
use serde_json::{Value, json};

use super::names::{BIND_COMPLETED, BOUND_BY_CONTROLLER, STORAGE_PROVISIONER, annotation};
use super::reference;

/// A merge patch that is refused when the object has changed since it was read.
pub fn guarded<K: Resource>(object: &K, mut change: Value) -> Patch<Value> {
    let meta = object.meta();
    change["metadata"]["uid"] = json!(meta.uid);
    change["metadata"]["resourceVersion"] = json!(meta.resource_version);
    Patch::Merge(change)
}

/// The volume names the claim.
pub fn volume_to_claim(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<Value> {
    let known = claim_ref(volume);
    if known.is_some_and(|known| known.uid.is_some() && known.uid == claim.metadata.uid) {
        return None;
    }
    let mut change = json!({"spec": {"claimRef": reference(claim)}});
    if known.is_none() {
        change["metadata"]["annotations"][BOUND_BY_CONTROLLER] = json!("yes");
    }
    Some(change)
}

/// The claim names the volume, and says that all is done.
pub fn claim_to_volume(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<Value> {
    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).filter(|name| !name.is_empty());
    let complete = annotation(claim, BIND_COMPLETED).is_some();
    if complete && named == volume.metadata.name.as_deref() {
        return None;
    }
    let mut change = json!({"metadata": {"annotations": {BIND_COMPLETED: "yes"}}});
    if named.is_none() {
        change["spec"]["volumeName"] = json!(volume.metadata.name);
        change["metadata"]["annotations"][BOUND_BY_CONTROLLER] = json!("yes");
    }
    Some(change)
}

/// A claim's status; with its volume when it is bound.
pub fn claim_status(claim: &PersistentVolumeClaim, phase: &str, volume: Option<&PersistentVolume>) -> Option<Value> {
    let status = claim.status.clone().unwrap_or_default();
    let mut change = json!({});
    if status.phase.as_deref() != Some(phase) {
        change["phase"] = json!(phase);
    }
    match volume.and_then(|volume| volume.spec.as_ref()) {
        Some(spec) => {
            if status.access_modes != spec.access_modes {
                change["accessModes"] = json!(spec.access_modes);
            }
            // Once bound the two may differ: the file system may be smaller than the volume while it is grown.
            let storage = spec.capacity.as_ref().and_then(|capacity| capacity.get("storage"));
            let known = status.capacity.as_ref().and_then(|capacity| capacity.get("storage"));
            if status.phase.as_deref() != Some(phase) && storage.is_some() && storage != known {
                change["capacity"]["storage"] = json!(storage);
            }
        }
        None => {
            if status.access_modes.is_some() {
                change["accessModes"] = Value::Null;
            }
            if status.capacity.is_some() {
                change["capacity"] = Value::Null;
            }
        }
    }
    (change != json!({})).then(|| json!({"status": change}))
}

/// A volume's phase.
pub fn volume_status(volume: &PersistentVolume, phase: &str, message: &str, now: Timestamp) -> Option<Value> {
    let known = volume.status.as_ref();
    if known.and_then(|status| status.phase.as_deref()) == Some(phase) {
        return None;
    }
    let message = if message.is_empty() { Value::Null } else { json!(message) };
    let now = now.round(jiff::Unit::Second).unwrap_or(now);
    Some(json!({"status": {"phase": phase, "message": message, "lastPhaseTransitionTime": now}}))
}

/// A volume without its claim; one that somebody kept for a claim by name stays kept.
pub fn unbound(volume: &PersistentVolume) -> Value {
    if annotation(volume, BOUND_BY_CONTROLLER).is_some() {
        json!({"metadata": {"annotations": {BOUND_BY_CONTROLLER: null}}, "spec": {"claimRef": null}})
    } else {
        json!({"spec": {"claimRef": {"uid": null, "resourceVersion": null}}})
    }
}

/// Who is to make the claim's volume, for provisioners to read.
pub fn provisioner(claim: &PersistentVolumeClaim, provisioner: &str) -> Option<Value> {
    if STORAGE_PROVISIONER.iter().all(|key| annotation(claim, key) == Some(provisioner)) {
        return None;
    }
    let mut change = json!({});
    for key in STORAGE_PROVISIONER {
        change["metadata"]["annotations"][key] = json!(provisioner);
    }
    Some(change)
}
