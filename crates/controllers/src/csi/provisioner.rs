//! Volumes for claims, and their end.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kobune_grpc::csi::controller::{
    CreateVolumeRequest, CreateVolumeResponse, DeleteVolumeRequest, TopologyRequirement, Volume,
};
use kobune_grpc::csi::{CapacityRange, Nothing, controller_can};
use kobune_grpc::{Code, Status};
use kobune_scheduler::quantity;
use kobune_scheduler::recorder::Severity;
use kobune_scheduler::volume_match::{claim_class, requested};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use super::call::CallError;
use super::provision_plan::{self as plan, Segments};
use super::tended::{Controller, on_node};
use super::{Csi, LATER, secrets, source};
use crate::context::enqueue_changes;
use crate::local_provisioner::{self, PROVISIONER, plan::VolumeStep};
use crate::object::{Cached, ObjectKey};
use crate::persistent_volume::names::{PROVISIONED_BY, SELECTED_NODE, annotation};
use crate::queue::{Doing, PassError, Queue, Revisit, is_already_exists};

const NAME: &str = "csi-provisioner";

/// Starts the controller. Claims have a namespace, volumes have none.
pub(super) fn start(csi: &Arc<Csi>) {
    let queue = Arc::<Queue>::default();
    let caches = &csi.context.caches;
    enqueue_changes(&caches.claims, &queue);
    enqueue_changes(&caches.volumes, &queue);
    let wake = queue.clone();
    csi.attachments.on_change(move |before, after| {
        let attachment = after.or(before);
        let volume = attachment.and_then(|attachment| attachment.spec.source.persistent_volume_name.as_deref());
        volume.into_iter().for_each(|volume| wake.add(ObjectKey::new("", volume)));
    });
    let (claims, volumes) = (caches.claims.clone(), caches.volumes.clone());
    let wake = queue.clone();
    let everything = move || {
        claims.all().iter().for_each(|claim| wake.add(claim.key()));
        volumes.all().iter().for_each(|volume| wake.add(volume.key()));
    };
    let again = everything.clone();
    csi.nodes.on_change(move |_, _| everything());
    caches.storage_classes.on_change(move |_, _| again());
    let (claims, volumes, classes) = (caches.claims.clone(), caches.volumes.clone(), caches.storage_classes.clone());
    let (nodes, own_nodes, attachments) = (caches.nodes.clone(), csi.nodes.clone(), csi.attachments.clone());
    let ready = async move {
        claims.synced().await;
        volumes.synced().await;
        classes.synced().await;
        nodes.synced().await;
        own_nodes.synced().await;
        attachments.synced().await;
    };
    let own = csi.clone();
    csi.context.run_controller(NAME, queue, ready, move |key| {
        let csi = own.clone();
        async move { if key.namespace.is_empty() { csi.end(key).await } else { csi.provision(key).await } }
    });
}

impl Csi {
    async fn provision(&self, key: ObjectKey) -> Result<Revisit, PassError> {
        let caches = &self.context.caches;
        let Some(claim) = caches.claims.get(&key) else { return Ok(None) };
        let class = claim_class(&claim).and_then(|name| caches.storage_classes.get(&ObjectKey::new("", name)));
        let Some(class) = class.filter(|class| plan::is_due(&claim, class)) else { return Ok(None) };
        let driver = class.provisioner.as_str();
        let selected = annotation(&*claim, SELECTED_NODE);
        let Some(controller) = self.controller(driver, selected) else { return Ok(None) };
        if !controller.can(controller_can::CREATE_DELETE_VOLUME) {
            return Ok(None);
        }
        let Some(_turn) = self.turn(NAME, driver) else { return Ok(Some(LATER)) };
        let refuse = |message: String| {
            let message = format!("failed to provision volume with StorageClass \"{}\": {message}", class.name());
            self.event(&*claim, Severity::Warning, "ProvisioningFailed", message);
        };
        if claim.spec.as_ref().is_some_and(|spec| spec.selector.is_some()) {
            refuse("claim Selector is not supported".to_owned());
            return Ok(None);
        }
        let places = match self.places(&class, driver, selected) {
            Ok(places) => places,
            Err(message) => {
                refuse(message);
                self.choose_again(&claim).await?;
                return Ok(None);
            }
        };
        let made = match self.make(&claim, &class, &controller, places).await {
            Ok(made) => made,
            Err(Failed::Driver(error)) => {
                refuse(error.words());
                // There is no room where the pod was to run: another node may have some.
                if error.code() == Code::ResourceExhausted && selected.is_some() {
                    self.choose_again(&claim).await?;
                }
                return Err(error.of("making a volume"));
            }
            Err(Failed::Words(message)) => {
                refuse(message.clone());
                return Err(PassError::Object { what: message });
            }
            Err(Failed::Pass(error)) => return Err(error),
        };
        let volume = plan::volume(&claim, &class, made)?;
        let name = volume.metadata.name.clone().unwrap_or_default();
        let api = Api::<PersistentVolume>::all(self.context.client.clone());
        match api.create(&PostParams::default(), &volume).await {
            Ok(made) => {
                caches.volumes.wrote(made);
                let message = format!("Successfully provisioned volume {name}");
                self.event(&*claim, Severity::Normal, "ProvisioningSucceeded", message);
                Ok(None)
            }
            Err(error) if is_already_exists(&error) => Ok(None),
            // The same names give the same volume at the next try.
            Err(error) => {
                refuse(format!("failed to save the volume: {error}"));
                Err(error).doing("saving a volume")
            }
        }
    }

    /// Where the volume may be, as the driver tells places apart.
    fn places(
        &self,
        class: &StorageClass,
        driver: &str,
        selected: Option<&str>,
    ) -> Result<Option<TopologyRequirement>, String> {
        let segments = |name: &str, keys: &[String]| -> Option<Segments> {
            let node: Arc<Node> = self.context.caches.nodes.get(&ObjectKey::new("", name))?;
            let labels = node.metadata.labels.as_ref()?;
            keys.iter().map(|key| Some((key.clone(), labels.get(key)?.clone()))).collect()
        };
        let nodes = self.nodes.all();
        let all = nodes.iter().filter_map(|node| {
            let name = node.metadata.name.as_deref()?;
            let (_, keys) = on_node(node, driver)?;
            Some((name, segments(name, keys)?))
        });
        let all: Vec<(&str, Segments)> = all.collect();
        let chosen = match selected {
            Some(name) => {
                let found = all.iter().find(|(node, _)| *node == name);
                Some(found.ok_or_else(|| format!("node \"{name}\" does not have driver {driver}"))?)
            }
            None => None,
        };
        let places: Vec<Segments> = all.iter().map(|(_, segments)| segments.clone()).collect();
        plan::places(class, &places, chosen.map(|(_, segments)| segments))
    }

    async fn make(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
        controller: &Controller,
        places: Option<TopologyRequirement>,
    ) -> Result<Volume, Failed> {
        let name = plan::volume_name(claim);
        let none = Default::default();
        let parameters = class.parameters.as_ref().unwrap_or(&none);
        let secret = secrets::named(parameters, secrets::PROVISIONER, &name, claim).map_err(Failed::Words)?;
        let limits = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.limits.as_ref()?.get("storage"));
        let origin = source::of(&self.context, claim, &class.provisioner).await.map_err(Failed::Words)?;
        let source = origin.map(|origin| origin.content);
        let fine = controller.can(controller_can::SINGLE_NODE_MULTI_WRITER);
        let request = CreateVolumeRequest {
            name,
            capacity_range: Some(CapacityRange {
                required_bytes: requested(claim),
                limit_bytes: limits.map_or(0, quantity::value),
            }),
            volume_capabilities: plan::capabilities(claim, class, fine),
            parameters: plan::parameters(class).collect(),
            secrets: self.secret(secret.as_ref()).await.map_err(Failed::Pass)?,
            volume_content_source: source.clone(),
            accessibility_requirements: places,
            mutable_parameters: Default::default(),
        };
        let driver = class.provisioner.as_str();
        let made: CreateVolumeResponse =
            self.call(controller, driver, "CreateVolume", &request).await.map_err(Failed::Driver)?;
        let malformed = |words: &str| Failed::Driver(CallError::Refused(Status::internal(words)));
        let made = made.volume.filter(|volume| !volume.volume_id.is_empty());
        let made = made.ok_or_else(|| malformed("the driver's answer names no volume"))?;
        if made.capacity_bytes != 0 && made.capacity_bytes < requested(claim) {
            return Err(malformed("the driver's volume is smaller than what was asked for"));
        }
        if source.is_some() && made.content_source.is_none() {
            return Err(malformed("the driver's volume does not have the content that was asked for"));
        }
        Ok(made)
    }

    /// Takes the choice of a node off a claim, so that the scheduler chooses again.
    async fn choose_again(&self, claim: &PersistentVolumeClaim) -> Result<(), PassError> {
        if annotation(claim, SELECTED_NODE).is_none() {
            return Ok(());
        }
        let mut change = local_provisioner::plan::without_node();
        change["metadata"]["resourceVersion"] = json!(claim.metadata.resource_version);
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        let api = Api::<PersistentVolumeClaim>::namespaced(self.context.client.clone(), namespace);
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let written = api.patch(name, &PatchParams::default(), &Patch::Merge(change)).await;
        self.context.caches.claims.wrote(written.doing("taking the choice of a node off a claim")?);
        Ok(())
    }

    /// Deletes what is behind a volume that nobody uses any more, when its policy says so.
    async fn end(&self, key: ObjectKey) -> Result<Revisit, PassError> {
        let Some(volume) = self.context.caches.volumes.get(&key) else { return Ok(None) };
        let driver = annotation(&*volume, PROVISIONED_BY).filter(|driver| *driver != PROVISIONER);
        let Some(driver) = driver else { return Ok(None) };
        let Some(controller) = self.controller(driver, None) else { return Ok(None) };
        match local_provisioner::plan::ending(&volume) {
            VolumeStep::Nothing => Ok(None),
            VolumeStep::Forget => local_provisioner::forget(&self.context, &volume).await,
            VolumeStep::Delete => {
                let of_volume = |name: Option<&str>| name == Some(&*key.name);
                let attached = self
                    .attachments
                    .all()
                    .iter()
                    .any(|attachment| of_volume(attachment.spec.source.persistent_volume_name.as_deref()));
                let handle = volume.spec.as_ref().and_then(|spec| Some(spec.csi.as_ref()?.volume_handle.clone()));
                // The end of the attachment wakes this again.
                let Some(volume_id) = handle.filter(|_| !attached) else { return Ok(None) };
                let Some(_turn) = self.turn(NAME, driver) else { return Ok(Some(LATER)) };
                let secrets = self.secret(Some(&plan::deletion_secret(&volume))).await?;
                let request = DeleteVolumeRequest { volume_id, secrets };
                let done: Result<Nothing, _> = self.call(&controller, driver, "DeleteVolume", &request).await;
                if let Err(error) = done {
                    self.event(&*volume, Severity::Warning, "VolumeFailedDelete", error.words());
                    return Err(error.of("deleting a volume"));
                }
                local_provisioner::forget(&self.context, &volume).await
            }
        }
    }
}

/// Why no volume was made.
enum Failed {
    Driver(CallError),
    Words(String),
    Pass(PassError),
}

trait Named {
    fn name(&self) -> &str;
}

impl Named for StorageClass {
    fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }
}
