//! Lets volumes grow whose claims ask for more: the driver's controller first, then the node, if that has a part in it.
//!
//! ```text
//!  ControllerExpandVolume ─▶ (FileSystemResizePending on the claim) ─▶ capacity of the volume
//!                         ─▶ a pod has it: NodeExpandVolume there   ─▶ capacity of the claim
//! ```
//!
//! The claim's condition is written before the volume's capacity, so that whatever is cut short is begun again and the node is
//! never left out. Upstream: external-resizer, `pkg/controller/controller.go`.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{CSIPersistentVolumeSource, PersistentVolume, PersistentVolumeClaim};
use kobune_grpc::Code;
use kobune_grpc::csi::controller::{ControllerExpandVolumeRequest, ControllerExpandVolumeResponse};
use kobune_grpc::csi::node::{NodeExpandVolumeRequest, NodeExpandVolumeResponse};
use kobune_grpc::csi::{CapacityRange, VolumeCapability, controller_can};
use kobune_scheduler::recorder::Severity;
use kobune_scheduler::volume_match::{belongs_to, capacity, claim_ref, requested};
use kube::api::{Api, Patch, PatchParams};
use prost::Message;
use serde_json::{Value, json};

use super::call::ask;
use super::provision_plan::capability;
use super::tended::Controller;
use super::{Csi, LATER};
use crate::clock;
use crate::context::enqueue_changes;
use crate::local_provisioner::PROVISIONER;
use crate::local_provisioner::plan::told_capacity;
use crate::object::{Cached, ObjectKey};
use crate::persistent_volume::names::{BIND_COMPLETED, annotation};
use crate::queue::{Doing, PassError, Queue, Revisit};

const NAME: &str = "csi-resizer";
const PENDING: &str = "FileSystemResizePending";

/// Starts the controller. Keys are claims.
pub(super) fn start(csi: &Arc<Csi>) {
    let queue = Arc::<Queue>::default();
    let caches = &csi.context.caches;
    enqueue_changes(&caches.claims, &queue);
    let wake = queue.clone();
    caches.volumes.on_change(move |_, after| {
        if let Some(claim) = after.and_then(|volume| claim_ref(volume)) {
            let (namespace, name) = (claim.namespace.as_deref(), claim.name.as_deref());
            wake.add(ObjectKey::new(namespace.unwrap_or_default(), name.unwrap_or_default()));
        }
    });
    let (claims, wake) = (caches.claims.clone(), queue.clone());
    caches.pods.on_change(move |_, after| {
        for (pod, used) in after.into_iter().flat_map(|pod| pod.claims.iter().map(move |used| (pod, used))) {
            let key = ObjectKey::new(pod.namespace(), &used.claim);
            if claims.get(&key).is_some_and(|claim| is_pending(&claim)) {
                wake.add(key);
            }
        }
    });
    let (claims, wake) = (caches.claims.clone(), queue.clone());
    csi.nodes.on_change(move |_, _| claims.all().iter().for_each(|claim| wake.add(claim.key())));
    let (claims, volumes, pods, nodes) =
        (caches.claims.clone(), caches.volumes.clone(), caches.pods.clone(), csi.nodes.clone());
    let ready = async move {
        claims.synced().await;
        volumes.synced().await;
        pods.synced().await;
        nodes.synced().await;
    };
    let own = csi.clone();
    csi.context.run_controller(NAME, queue, ready, move |key| {
        let csi = own.clone();
        async move { csi.resize(key).await }
    });
}

/// Whether a node has still a part in the growth.
fn is_pending(claim: &PersistentVolumeClaim) -> bool {
    let conditions = claim.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == PENDING && condition.status == "True")
}

/// The claim's status while a node has a part in its growth.
fn pending(claim: &PersistentVolumeClaim) -> Value {
    let known = claim.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut conditions: Vec<Value> =
        known.filter(|known| !matches!(known.type_.as_str(), PENDING | "Resizing")).map(|known| json!(known)).collect();
    conditions.push(json!({
        "type": PENDING,
        "status": "True",
        "lastTransitionTime": clock::now(),
        "message": "Waiting for user to (re-)start a pod to finish file system resize of volume on node.",
    }));
    json!({"status": {"conditions": conditions}})
}

fn usage(volume: &PersistentVolume, source: &CSIPersistentVolumeSource) -> VolumeCapability {
    let spec = volume.spec.clone().unwrap_or_default();
    let block = spec.volume_mode.as_deref() == Some("Block");
    let flags = spec.mount_options.unwrap_or_default();
    let mode = spec.access_modes.unwrap_or_default().into_iter().next().unwrap_or_default();
    capability(block, source.fs_type.as_deref().unwrap_or_default(), &flags, &mode, false)
}

impl Csi {
    async fn resize(&self, key: ObjectKey) -> Result<Revisit, PassError> {
        let caches = &self.context.caches;
        let Some(claim) = caches.claims.get(&key) else { return Ok(None) };
        let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
        let Some(volume) = caches.volumes.get(&ObjectKey::new("", named)) else { return Ok(None) };
        let source = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref());
        let Some(source) = source.filter(|source| source.driver != PROVISIONER) else { return Ok(None) };
        let bound = annotation(&*claim, BIND_COMPLETED).is_some() && belongs_to(&volume, &claim);
        if !bound || claim.deleting() || volume.deleting() {
            return Ok(None);
        }
        let Some(controller) = self.controller(&source.driver, None) else { return Ok(None) };
        if !controller.can(controller_can::EXPAND_VOLUME) {
            return Ok(None);
        }
        let grows = requested(&claim) > capacity(&volume);
        let size = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get("storage"));
        let told = told_capacity(&claim, size);
        if !grows && told.is_none() {
            return Ok(None);
        }
        let Some(_turn) = self.turn(NAME, &source.driver) else { return Ok(Some(LATER)) };
        if grows {
            return self.expand(&controller, &claim, &volume, source).await.map(|()| None);
        }
        if is_pending(&claim) && !self.expand_on_node(&claim, &volume, source).await? {
            // A pod that has it wakes this again.
            return Ok(None);
        }
        if let Some(told) = told {
            self.patch_status(&claim, told).await?;
            let (reason, words) = if is_pending(&claim) {
                ("FileSystemResizeSuccessful", "MountVolume.NodeExpandVolume succeeded for volume")
            } else {
                ("VolumeResizeSuccessful", "Resize volume succeeded")
            };
            self.event(&*claim, Severity::Normal, reason, words.to_owned());
        }
        Ok(None)
    }

    async fn expand(
        &self,
        controller: &Controller,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
        source: &CSIPersistentVolumeSource,
    ) -> Result<(), PassError> {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let wanted = requested(claim);
        self.event(claim, Severity::Normal, "Resizing", format!("External resizer is resizing volume {name}"));
        let request = ControllerExpandVolumeRequest {
            volume_id: source.volume_handle.clone(),
            capacity_range: Some(CapacityRange { required_bytes: wanted, limit_bytes: 0 }),
            secrets: self.secret(source.controller_expand_secret_ref.as_ref()).await?,
            volume_capability: Some(usage(volume, source)),
        };
        let answer: Result<ControllerExpandVolumeResponse, _> =
            self.call(controller, &source.driver, "ControllerExpandVolume", &request).await;
        let answer = match answer {
            Ok(answer) if answer.capacity_bytes < wanted => {
                let what = format!("the driver has let the volume grow to {} bytes only", answer.capacity_bytes);
                let message = format!("resize volume \"{name}\" failed: {what}");
                self.event(claim, Severity::Warning, "VolumeResizeFailed", message);
                return Err(PassError::Object { what });
            }
            Ok(answer) => answer,
            Err(error) => {
                let message =
                    format!("resize volume \"{name}\" by resizer \"{}\" failed: {}", source.driver, error.words());
                self.event(claim, Severity::Warning, "VolumeResizeFailed", message);
                return Err(error.of("letting a volume grow"));
            }
        };
        if answer.node_expansion_required {
            self.patch_status(claim, pending(claim)).await?;
            let message = "Require file system resize of volume on node".to_owned();
            self.event(claim, Severity::Normal, "FileSystemResizeRequired", message);
        }
        let asked = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("storage"));
        let size =
            if answer.capacity_bytes == wanted { json!(asked) } else { json!(answer.capacity_bytes.to_string()) };
        let change = json!({
            "metadata": {"uid": volume.metadata.uid, "resourceVersion": volume.metadata.resource_version},
            "spec": {"capacity": {"storage": size}},
        });
        let api = Api::<PersistentVolume>::all(self.context.client.clone());
        let written = api.patch(name, &PatchParams::default(), &Patch::Merge(change)).await;
        // The volume's change brings this pass again, which tells the claim.
        self.context.caches.volumes.wrote(written.doing("writing the capacity of a volume")?);
        Ok(())
    }

    /// Lets the volume grow on the nodes whose pods have it; `false` when no pod has it mounted yet.
    async fn expand_on_node(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
        source: &CSIPersistentVolumeSource,
    ) -> Result<bool, PassError> {
        let key = claim.key();
        let pods = self.context.caches.pods.in_namespace(&key.namespace);
        let using = pods.iter().filter(|pod| pod.claims.iter().any(|used| *used.claim == *key.name));
        let nodes: std::collections::BTreeSet<Box<str>> = using.filter_map(|pod| pod.node.clone()).collect();
        let mut done = false;
        for node in nodes {
            let request = NodeExpandVolumeRequest {
                volume_id: source.volume_handle.clone(),
                capacity_range: Some(CapacityRange { required_bytes: capacity(volume), limit_bytes: 0 }),
                volume_capability: Some(usage(volume, source)),
                secrets: self.secret(source.node_expand_secret_ref.as_ref()).await?,
                ..NodeExpandVolumeRequest::default()
            };
            let answer: Result<NodeExpandVolumeResponse, _> =
                ask(&self.context.client, &node, &source.driver, "Node/NodeExpandVolume", request.encode_to_vec())
                    .await;
            match answer {
                Ok(_) => done = true,
                // A driver whose nodes have no part in it.
                Err(error) if error.code() == Code::Unimplemented => done = true,
                Err(error) if error.code() == Code::NotFound => {}
                Err(error) => {
                    let message = format!("MountVolume.NodeExpandVolume failed for volume: {}", error.words());
                    self.event(claim, Severity::Warning, "FileSystemResizeFailed", message);
                    return Err(error.of("letting a volume grow on its node"));
                }
            }
        }
        Ok(done)
    }

    async fn patch_status(&self, claim: &PersistentVolumeClaim, change: Value) -> Result<(), PassError> {
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        let api = Api::<PersistentVolumeClaim>::namespaced(self.context.client.clone(), namespace);
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let written = api.patch_status(name, &PatchParams::default(), &Patch::Merge(change)).await;
        self.context.caches.claims.wrote(written.doing("writing the status of a claim")?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_claim_says_so_once() {
        let claim = |conditions: Value| -> PersistentVolumeClaim {
            serde_json::from_value(json!({"metadata": {"name": "c"}, "status": {"conditions": conditions}}))
                .expect("a claim")
        };
        let plain = claim(json!([{"type": "Resizing", "status": "True"}, {"type": "Other", "status": "True"}]));
        assert!(!is_pending(&plain));
        let after = claim(pending(&plain)["status"]["conditions"].clone());
        assert!(is_pending(&after));
        let types = |value: Value| -> Vec<String> {
            let all = value["status"]["conditions"].as_array().expect("a list").clone();
            all.into_iter().map(|one| one["type"].as_str().unwrap_or_default().to_owned()).collect()
        };
        assert_eq!(types(pending(&after)), ["Other", PENDING]);
    }
}
