//! What sidecars do for storage drivers, done for drivers that come without any.
//!
//! ```text
//!  claim without a volume ─▶ CreateVolume ─▶ PersistentVolume          `provisioner` (external-provisioner)
//!  volume Released        ─▶ DeleteVolume ─▶ volume gone
//!  VolumeAttachment       ─▶ ControllerPublishVolume, undone at its end `attacher` (external-attacher)
//!  claim asks for more    ─▶ ControllerExpandVolume ─▶ NodeExpandVolume `resizer` (external-resizer)
//!  VolumeSnapshot         ─▶ CreateSnapshot, DeleteSnapshot             `snapshotter` (external-snapshotter)
//! ```
//!
//! Which drivers these are stands in an annotation of the CSINodes ([`CONTROLLERS`]); calls go through such a node
//! (`nodes/proxy`), so that a controller needs no socket and runs anywhere. Every pass repeats calls with the same names and
//! ids, which drivers answer with what is there already. A driver that does not answer is asked again with growing delays, and
//! holds up no other: it gets no more than a few of the passes at a time.
//!
//! [`CONTROLLERS`]: kobune_grpc::csi::CONTROLLERS

mod attacher;
mod call;
mod provision_plan;
mod provisioner;
mod resizer;
mod secrets;
mod snapshot_objects;
mod snapshotter;
mod source;
mod tended;

pub use source::{FillError, fill};

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::storage::v1::{CSINode, VolumeAttachment};
use kobune_scheduler::recorder::{Recorder, Severity};
use kube::Resource;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::context::Context;
use crate::informer::Store;
use crate::persistent_volume::reference;

/// Of the passes of one controller a single driver gets so many.
const AT_ONCE: usize = 2;
/// When a pass comes again that had to leave its driver to others.
const LATER: Duration = Duration::from_millis(500);

/// What the controllers share.
struct Csi {
    context: Arc<Context>,
    nodes: Arc<Store<CSINode>>,
    attachments: Arc<Store<VolumeAttachment>>,
    recorder: Recorder,
    turns: Mutex<HashMap<(&'static str, String), Arc<Semaphore>>>,
}

impl Csi {
    fn event<K: Resource<DynamicType = ()>>(
        &self,
        about: &K,
        severity: Severity,
        reason: &'static str,
        message: String,
    ) {
        self.recorder.event(&reference(about), severity, reason, message);
    }

    /// The driver's turn in a controller; `None` when it has too much to do there already.
    fn turn(&self, controller: &'static str, driver: &str) -> Option<OwnedSemaphorePermit> {
        let mut turns = self.turns.lock();
        let turn = turns.entry((controller, driver.to_owned())).or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE)));
        Arc::clone(turn).try_acquire_owned().ok()
    }

    /// How a driver's controller is reached, through this node if it can be.
    fn controller(&self, driver: &str, preferred: Option<&str>) -> Option<tended::Controller> {
        tended::controller(&self.nodes.all(), driver, preferred)
    }
}

/// Starts the controllers.
pub fn start(context: &Arc<Context>) {
    let csi = Arc::new(Csi {
        context: context.clone(),
        nodes: Arc::default(),
        attachments: Arc::default(),
        recorder: context.recorder.for_component("kobune-csi"),
        turns: Mutex::default(),
    });
    provisioner::start(&csi);
    attacher::start(&csi);
    resizer::start(&csi);
    snapshotter::start(&csi);
    context.follow_some::<CSINode, _>("csinodes", Default::default(), &csi.nodes);
    context.follow_some::<VolumeAttachment, _>("volumeattachments of drivers", Default::default(), &csi.attachments);
}
