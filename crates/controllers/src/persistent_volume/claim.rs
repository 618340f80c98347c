//! What is to happen with a claim. Pure.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kobune_scheduler::volume_match::{
    belongs_to, capacity, claim_class, claim_ref, offers_access, requested, same_mode, volume_class,
};

use super::Note;
use super::names::{BIND_COMPLETED, NO_PROVISIONER, SELECTED_NODE, annotation};

/// What the decision is made from.
pub struct View<'c, B> {
    /// The claim.
    pub claim: &'c PersistentVolumeClaim,
    /// The class that it names, if there is such a class.
    pub class: Option<&'c StorageClass>,
    /// The name of the cluster's default class.
    pub default_class: Option<String>,
    /// The volume that it names, if there is such a volume.
    pub volume: Option<Arc<PersistentVolume>>,
    /// Finds the volume that suits it best; the argument says whether the choice is the scheduler's.
    pub best: B,
}

/// What is to happen.
#[derive(Debug, PartialEq)]
pub enum ClaimPlan {
    /// Nothing.
    Nothing,
    /// It waits, for a reason that may be worth an event.
    Pending(Option<Note>),
    /// It named no class and gets this one.
    AssignClass(String),
    /// It is bound to this volume, as far as it is not yet.
    Bind(Arc<PersistentVolume>),
    /// This provisioner is to make its volume.
    Provision {
        /// As the class names it.
        provisioner: String,
        /// What the claim's event says.
        note: Note,
    },
    /// Its volume is gone, and with it the data.
    Lost(Note),
}

/// Whether the claim has no volume yet.
pub fn is_unbound(claim: &PersistentVolumeClaim) -> bool {
    annotation(claim, BIND_COMPLETED).is_none()
}

/// Whether a volume's change can matter to an unbound claim.
pub fn may_suit(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let free = claim_ref(volume).is_none();
    belongs_to(volume, claim) || (free && claim_class(claim).unwrap_or_default() == volume_class(volume))
}

/// Whether the class has volumes chosen together with the node.
fn waits_for_consumer(class: Option<&StorageClass>) -> bool {
    class.and_then(|class| class.volume_binding_mode.as_deref()) == Some("WaitForFirstConsumer")
}

/// Decides about a claim.
pub fn plan<B>(view: View<'_, B>) -> ClaimPlan
where
    B: FnOnce(bool) -> Option<Arc<PersistentVolume>>,
{
    let named = view.claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
    if !is_unbound(view.claim) {
        return bound(view.claim, named, view.volume);
    }
    if view.claim.metadata.deletion_timestamp.is_some() {
        return ClaimPlan::Nothing;
    }
    if named.is_empty() { choose(view) } else { chosen_in_advance(view.claim, view.volume) }
}

fn choose<B>(view: View<'_, B>) -> ClaimPlan
where
    B: FnOnce(bool) -> Option<Arc<PersistentVolume>>,
{
    let delayed = waits_for_consumer(view.class);
    if let Some(volume) = (view.best)(delayed) {
        return ClaimPlan::Bind(volume);
    }
    let named = claim_class(view.claim);
    if let (None, Some(default)) = (named, view.default_class) {
        return ClaimPlan::AssignClass(default);
    }
    if delayed && annotation(view.claim, SELECTED_NODE).is_none() {
        let message = "waiting for first consumer to be created before binding";
        return ClaimPlan::Pending(Some(Note::normal("WaitForFirstConsumer", message)));
    }
    match (named.unwrap_or_default(), view.class) {
        ("", _) => {
            let message = "no persistent volumes available for this claim and no storage class is set";
            ClaimPlan::Pending(Some(Note::normal("FailedBinding", message)))
        }
        (name, None) => {
            let message = format!("storageclass.storage.k8s.io \"{name}\" not found");
            ClaimPlan::Pending(Some(Note::warning("ProvisioningFailed", message)))
        }
        (_, Some(class)) if class.provisioner == NO_PROVISIONER => {
            let message = format!("no volume plugin matched name: {NO_PROVISIONER}");
            ClaimPlan::Pending(Some(Note::warning("ProvisioningFailed", message)))
        }
        (_, Some(class)) => {
            let provisioner = class.provisioner.clone();
            let message = format!(
                "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the \
                 system administrator. If volume creation is delayed, please verify that the provisioner is running and \
                 correctly registered."
            );
            ClaimPlan::Provision { provisioner, note: Note::normal("ExternalProvisioning", message) }
        }
    }
}

/// Somebody has named the claim's volume.
fn chosen_in_advance(claim: &PersistentVolumeClaim, volume: Option<Arc<PersistentVolume>>) -> ClaimPlan {
    // It may be made later.
    let Some(volume) = volume else { return ClaimPlan::Pending(None) };
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    if claim_ref(&volume).is_none() {
        return match mismatch(&volume, claim) {
            None => ClaimPlan::Bind(volume),
            Some(why) => {
                let message = format!("Cannot bind to requested volume \"{name}\": {why}");
                ClaimPlan::Pending(Some(Note::warning("VolumeMismatch", message)))
            }
        };
    }
    if belongs_to(&volume, claim) {
        return ClaimPlan::Bind(volume);
    }
    let message = format!("volume \"{name}\" already bound to a different claim.");
    ClaimPlan::Pending(Some(Note::warning("FailedBinding", message)))
}

/// Why a volume that somebody chose does not do.
fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<&'static str> {
    if capacity(volume) < requested(claim) {
        Some("requested PV is too small")
    } else if volume_class(volume) != claim_class(claim).unwrap_or_default() {
        Some("storageClassName does not match")
    } else if !same_mode(volume, claim) {
        Some("incompatible volumeMode")
    } else if !offers_access(volume, claim) {
        Some("incompatible accessMode")
    } else {
        None
    }
}

fn bound(claim: &PersistentVolumeClaim, named: &str, volume: Option<Arc<PersistentVolume>>) -> ClaimPlan {
    let lost = |reason, message: &str| ClaimPlan::Lost(Note::warning(reason, message));
    if named.is_empty() {
        return lost("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!");
    }
    let Some(volume) = volume else {
        return lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!");
    };
    match claim_ref(&volume) {
        // The volume has lost its half, perhaps by a restore from a backup: the claim's half counts.
        None => ClaimPlan::Bind(volume),
        Some(_) if belongs_to(&volume, claim) => ClaimPlan::Bind(volume),
        Some(_) => lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly"),
    }
}
