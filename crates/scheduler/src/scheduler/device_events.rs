//! Device claims, slices and classes as they change, and what is written to claims before a pod is bound.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::watcher::Event;
use serde_json::json;

use super::Scheduler;
use super::volume_events::name_of;
use crate::devices::{FINALIZER, Write};
use crate::filter::obstacle;
use crate::pod::PodInfo;
use crate::volume_match::Place;

/// Which lists are complete, and what the one under way has named.
#[derive(Default)]
pub(super) struct Known {
    claims: bool,
    slices: bool,
    classes: bool,
    listed_claims: BTreeSet<(String, String)>,
    listed_slices: BTreeSet<String>,
    listed_classes: BTreeSet<String>,
}

impl Known {
    pub(super) fn all(&self) -> bool {
        self.claims && self.slices && self.classes
    }
}

impl Scheduler {
    pub(super) fn device_claim_event(&mut self, event: Event<ResourceClaim>) {
        match event {
            Event::Init => self.devices_known.listed_claims.clear(),
            Event::InitApply(mut claim) => {
                let namespace = claim.metadata.namespace.clone().unwrap_or_default();
                self.devices_known.listed_claims.insert((namespace, name_of(&claim.metadata)));
                claim.metadata.managed_fields = None;
                self.cluster.devices.set_claim(claim);
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.devices_known.listed_claims);
                self.cluster.devices.keep_claims(&listed);
                self.devices_known.claims = true;
                self.devices_changed();
            }
            Event::Apply(mut claim) => {
                claim.metadata.managed_fields = None;
                self.cluster.devices.set_claim(claim);
                self.devices_changed();
            }
            Event::Delete(claim) => {
                let namespace = claim.metadata.namespace.clone().unwrap_or_default();
                self.cluster.devices.remove_claim(&namespace, &name_of(&claim.metadata));
                self.devices_changed();
            }
        }
    }

    pub(super) fn slice_event(&mut self, event: Event<ResourceSlice>) {
        match event {
            Event::Init => self.devices_known.listed_slices.clear(),
            Event::InitApply(mut slice) => {
                self.devices_known.listed_slices.insert(name_of(&slice.metadata));
                slice.metadata.managed_fields = None;
                self.cluster.devices.set_slice(slice);
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.devices_known.listed_slices);
                self.cluster.devices.keep_slices(&listed);
                self.devices_known.slices = true;
                self.devices_changed();
            }
            Event::Apply(mut slice) => {
                slice.metadata.managed_fields = None;
                if self.cluster.devices.set_slice(slice) {
                    self.devices_changed();
                }
            }
            // A slice that is gone may complete its pool: the driver has fewer now.
            Event::Delete(slice) => {
                self.cluster.devices.remove_slice(&name_of(&slice.metadata));
                self.devices_changed();
            }
        }
    }

    pub(super) fn device_class_event(&mut self, event: Event<DeviceClass>) {
        match event {
            Event::Init => self.devices_known.listed_classes.clear(),
            Event::InitApply(class) => {
                self.devices_known.listed_classes.insert(name_of(&class.metadata));
                self.cluster.devices.set_class(class);
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.devices_known.listed_classes);
                self.cluster.devices.keep_classes(&listed);
                self.devices_known.classes = true;
                self.devices_changed();
            }
            Event::Apply(class) => {
                self.cluster.devices.set_class(class);
                self.devices_changed();
            }
            Event::Delete(class) => self.cluster.devices.remove_class(&name_of(&class.metadata)),
        }
    }

    fn devices_changed(&mut self) {
        self.queue.helped(obstacle::DEVICES, Instant::now());
    }

    /// Chooses devices for a pod that goes to a node, and keeps what has to be written until it is bound.
    pub(super) fn assume_devices(&mut self, pod: &Arc<PodInfo>, node: &Arc<str>) {
        if pod.device_claims.is_empty() {
            return;
        }
        let empty = Default::default();
        let labels = self.cluster.nodes.get(node).and_then(|state| state.facts.as_ref()).map(|facts| &facts.labels);
        let place = Place { name: node, labels: labels.unwrap_or(&empty) };
        // The decision has just asked the same and got an answer; without one the pod's claims stay as they are, and the
        // node refuses it.
        let writes = self.cluster.devices.assume(pod, place).unwrap_or_default();
        if !writes.is_empty() {
            self.device_writes.insert(pod.uid.clone(), writes);
        }
    }

    /// Nobody uses the devices of a pod that fits nowhere: it may fit when it gets others.
    pub(super) fn give_devices_back(&mut self, pod: &Arc<PodInfo>) {
        let Some(claim) = self.cluster.devices.to_give_back(pod) else { return };
        let api = claims(&self.client, &claim);
        self.writes.spawn(async move {
            let change = json!({
                "metadata": {"uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version},
                "status": {"allocation": null, "reservedFor": null, "devices": null},
            });
            let name = name_of(&claim.metadata);
            match api.patch_status(&name, &PatchParams::default(), &Patch::Merge(change)).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
                Err(error) => tracing::warn!(
                    claim = name,
                    error = &error as &dyn std::error::Error,
                    "the devices of a claim could not be given back"
                ),
            }
        });
    }
}

fn claims(client: &kube::Client, claim: &ResourceClaim) -> Api<ResourceClaim> {
    Api::namespaced(client.clone(), claim.metadata.namespace.as_deref().unwrap_or_default())
}

/// Writes devices and user of a claim, each onto the state that the choice was made from.
pub(super) async fn write_claim(client: &kube::Client, pod: &PodInfo, write: &Write) -> Result<(), kube::Error> {
    let claim = &write.claim;
    let (api, name) = (claims(client, claim), name_of(&claim.metadata));
    let mut version = claim.metadata.resource_version.clone();
    let mut finalizers = claim.metadata.finalizers.clone().unwrap_or_default();
    if write.allocation.is_some() && !finalizers.iter().any(|known| known == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
        let change =
            json!({"metadata": {"uid": claim.metadata.uid, "resourceVersion": version, "finalizers": finalizers}});
        version = api.patch(&name, &PatchParams::default(), &Patch::Merge(change)).await?.metadata.resource_version;
    }
    let mut users = claim.status.as_ref().and_then(|status| status.reserved_for.clone()).unwrap_or_default();
    users.push(k8s_openapi::api::resource::v1::ResourceClaimConsumerReference {
        api_group: None,
        resource: "pods".to_owned(),
        name: pod.name.to_string(),
        uid: pod.uid.to_string(),
    });
    let mut status = json!({"reservedFor": users});
    if let Some(allocation) = &write.allocation {
        status["allocation"] = json!(allocation);
    }
    let change = json!({"metadata": {"uid": claim.metadata.uid, "resourceVersion": version}, "status": status});
    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(change)).await.map(drop)
}
