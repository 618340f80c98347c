//! What is to happen with a volume. Pure.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kobune_scheduler::volume_match::{claim_ref, same_mode};

use super::Note;
use super::names::{PROVISIONED_BY, annotation};
use crate::object::{Cached, ObjectKey};

/// What is to happen.
#[derive(Debug, PartialEq)]
pub enum VolumePlan {
    /// Nothing.
    Nothing,
    /// Its claim has to be looked at: binding is half done.
    WakeClaim(ObjectKey),
    /// It cannot be bound to the claim that it names.
    Refuse(Note),
    /// It is in this phase.
    Phase {
        /// The phase.
        phase: &'static str,
        /// `status.message`.
        message: String,
        /// What an event says, when the phase is a new one.
        note: Option<Note>,
    },
    /// Its claim is bound elsewhere: it is free again.
    Unbind,
}

fn phase(phase: &'static str) -> VolumePlan {
    VolumePlan::Phase { phase, message: String::new(), note: None }
}

/// Decides about a volume. `claim` is the very claim that it is bound to, by uid.
pub fn plan(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> VolumePlan {
    let Some(reference) = claim_ref(volume) else { return phase("Available") };
    if reference.uid.as_ref().is_none_or(String::is_empty) {
        // Kept for a claim that may come later; the claim's own pass binds it.
        return phase("Available");
    }
    let Some(claim) = claim else { return released(volume) };
    let bound_to = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
    if bound_to.is_empty() {
        if !same_mode(volume, claim) {
            let message =
                "Cannot bind PersistentVolume to requested PersistentVolumeClaim due to incompatible volumeMode.";
            return VolumePlan::Refuse(Note::warning("VolumeMismatch", message));
        }
        return VolumePlan::WakeClaim(claim.key());
    }
    if Some(bound_to) == volume.metadata.name.as_deref() {
        return phase("Bound");
    }
    // The claim got another volume meanwhile. One that was made for it alone is of no use to anybody else.
    if annotation(volume, PROVISIONED_BY).is_some() && policy(volume) == "Delete" {
        return released(volume);
    }
    VolumePlan::Unbind
}

fn policy(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()).unwrap_or("Retain")
}

/// The claim is gone. What nobody here can recycle or delete has failed, so that somebody looks at it.
fn released(volume: &PersistentVolume) -> VolumePlan {
    let now = volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    if !matches!(now, "Released" | "Failed") {
        return phase("Released");
    }
    let failed = |reason: &'static str, message: String| VolumePlan::Phase {
        phase: "Failed",
        note: (now != "Failed").then(|| Note::warning(reason, message.clone())),
        message,
    };
    match policy(volume) {
        "Recycle" => failed("VolumeFailedRecycle", "No recycler plugin found for the volume!".to_owned()),
        "Delete" if annotation(volume, PROVISIONED_BY).is_none() => {
            let name = volume.metadata.name.as_deref().unwrap_or_default();
            let message = format!(
                "error getting deleter volume plugin for volume \"{name}\": no deletable volume plugin matched"
            );
            failed("VolumeFailedDelete", message)
        }
        _ => VolumePlan::Nothing,
    }
}
