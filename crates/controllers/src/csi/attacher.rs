//! Attaches volumes to nodes and detaches them, as VolumeAttachments say.
//!
//! A finalizer keeps an attachment until the driver has detached the volume. A driver that does not attach is answered for at
//! once. Upstream: external-attacher, `pkg/controller/csi_handler.go` and `trivial_handler.go`.

use std::sync::Arc;

use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kobune_grpc::csi::controller::{
    ControllerPublishVolumeRequest, ControllerPublishVolumeResponse, ControllerUnpublishVolumeRequest,
};
use kobune_grpc::csi::{Nothing, controller_can};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use super::provision_plan::capability;
use super::tended::{Controller, on_node};
use super::{Csi, LATER};
use crate::clock;
use crate::context::enqueue_changes;
use crate::object::{Cached, ObjectKey};
use crate::persistent_volume::names::{annotation, has_finalizer};
use crate::queue::{Doing, PassError, Queue, Revisit, is_not_found};
use crate::volume_protection;

const NAME: &str = "csi-attacher";
/// How the driver calls the node, as external-attacher writes it down.
const NODE_ID: &str = "csi.alpha.kubernetes.io/node-id";
/// How the driver calls the volume.
const HANDLE: &str = "csi.kobune.dev/volume-handle";
/// A driver's words in a status are cut here; upstream refuses objects with longer ones.
const LONGEST_ERROR: usize = 1024;

/// Starts the controller.
pub(super) fn start(csi: &Arc<Csi>) {
    let queue = Arc::<Queue>::default();
    enqueue_changes(&csi.attachments, &queue);
    let (attachments, wake) = (csi.attachments.clone(), queue.clone());
    csi.nodes.on_change(move |_, _| attachments.all().iter().for_each(|attachment| wake.add(attachment.key())));
    let (volumes, nodes, attachments) =
        (csi.context.caches.volumes.clone(), csi.nodes.clone(), csi.attachments.clone());
    let ready = async move {
        volumes.synced().await;
        nodes.synced().await;
        attachments.synced().await;
    };
    let own = csi.clone();
    csi.context.run_controller(NAME, queue, ready, move |key| {
        let csi = own.clone();
        async move { csi.attachment(key).await }
    });
}

/// The finalizer of a driver's attachments, as external-attacher has it.
fn finalizer(driver: &str) -> String {
    format!("external-attacher/{}", driver.replace('.', "-"))
}

impl Csi {
    async fn attachment(&self, key: ObjectKey) -> Result<Revisit, PassError> {
        let Some(attachment) = self.attachments.get(&key) else { return Ok(None) };
        let (driver, node) = (attachment.spec.attacher.as_str(), attachment.spec.node_name.as_str());
        let Some(controller) = self.controller(driver, Some(node)) else { return Ok(None) };
        let finalizer = finalizer(driver);
        let ours = has_finalizer(&*attachment, &finalizer);
        let attached = attachment.status.as_ref().is_some_and(|status| status.attached);
        // It goes and nothing of it is ours to undo, or all is done.
        if attachment.deleting() && !ours || !attachment.deleting() && attached {
            return Ok(None);
        }
        let Some(_turn) = self.turn(NAME, driver) else { return Ok(Some(LATER)) };
        let api = Api::<VolumeAttachment>::all(self.context.client.clone());
        if attachment.deleting() {
            if controller.can(controller_can::PUBLISH_UNPUBLISH_VOLUME)
                && let Err((message, error)) = self.detach(&controller, driver, &attachment).await
            {
                self.say(&api, &key, failure("detachError", &message)).await?;
                return Err(error);
            }
            return volume_protection::set(&api, &self.attachments, &*attachment, &finalizer, false)
                .await
                .map(|()| None);
        }
        if !controller.can(controller_can::PUBLISH_UNPUBLISH_VOLUME) {
            self.say(&api, &key, json!({"attached": true})).await?;
            return Ok(None);
        }
        if !ours {
            match self.ends(driver, &attachment) {
                Ok((volume, node_id)) => self.begin(&api, &attachment, &finalizer, &volume, &node_id).await?,
                Err(what) => {
                    self.say(&api, &key, failure("attachError", &what)).await?;
                    return Err(PassError::Object { what });
                }
            }
            // The change comes back as news.
            return Ok(None);
        }
        match self.attach(&controller, driver, &attachment).await {
            Ok(answer) => {
                let metadata = answer.publish_context;
                self.say(&api, &key, json!({"attached": true, "attachmentMetadata": metadata, "attachError": null}))
                    .await?;
                Ok(None)
            }
            Err((message, error)) => {
                self.say(&api, &key, failure("attachError", &message)).await?;
                Err(error)
            }
        }
    }

    /// Writes down what detaching will need, when perhaps neither volume nor node are there any more.
    async fn begin(
        &self,
        api: &Api<VolumeAttachment>,
        attachment: &VolumeAttachment,
        finalizer: &str,
        volume: &PersistentVolume,
        node_id: &str,
    ) -> Result<(), PassError> {
        let meta = &attachment.metadata;
        let handle = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref()).map(|csi| &csi.volume_handle);
        let mut finalizers = meta.finalizers.clone().unwrap_or_default();
        finalizers.push(finalizer.to_owned());
        let change = json!({"metadata": {
            "uid": meta.uid,
            "resourceVersion": meta.resource_version,
            "finalizers": finalizers,
            "annotations": {NODE_ID: node_id, HANDLE: handle},
        }});
        let name = meta.name.as_deref().unwrap_or_default();
        let written = api.patch(name, &PatchParams::default(), &Patch::Merge(change)).await;
        self.attachments.wrote(written.doing("writing a finalizer")?);
        Ok(())
    }

    /// Writes a status; a failure that is known already is not written again, since each change brings the pass again at once.
    async fn say(&self, api: &Api<VolumeAttachment>, key: &ObjectKey, mut status: Value) -> Result<(), PassError> {
        let known = self.attachments.get(key).map(|known| json!(known.status)).unwrap_or_default();
        let same =
            |field: &str| status[field]["message"].is_string() && status[field]["message"] == known[field]["message"];
        if same("attachError") || same("detachError") {
            return Ok(());
        }
        if status.get("attached").is_none() {
            status["attached"] =
                json!(self.attachments.get(key).and_then(|now| Some(now.status.as_ref()?.attached)).unwrap_or(false));
        }
        match api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(json!({"status": status}))).await {
            Ok(written) => self.attachments.wrote(written),
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(error).doing("writing the status of an attachment"),
        }
        Ok(())
    }

    /// The volume of an attachment and how its driver calls the node.
    fn ends(&self, driver: &str, attachment: &VolumeAttachment) -> Result<(Arc<PersistentVolume>, String), String> {
        let name = attachment.spec.source.persistent_volume_name.as_deref();
        let name = name.ok_or("attachments without a PersistentVolume are not supported")?;
        let volume = self.context.caches.volumes.get(&ObjectKey::new("", name));
        let volume = volume.ok_or_else(|| format!("persistentvolume \"{name}\" not found"))?;
        let node = &attachment.spec.node_name;
        let known = self.nodes.get(&ObjectKey::new("", node));
        let id = known.as_ref().and_then(|known| on_node(known, driver)).map(|(id, _)| id.to_owned());
        let id = id.ok_or_else(|| format!("node \"{node}\" does not have driver {driver}"))?;
        Ok((volume, id))
    }

    async fn attach(
        &self,
        controller: &Controller,
        driver: &str,
        attachment: &VolumeAttachment,
    ) -> Result<ControllerPublishVolumeResponse, (String, PassError)> {
        let wrong = |what: String| (what.clone(), PassError::Object { what });
        let (volume, node_id) = self.ends(driver, attachment).map_err(wrong)?;
        let spec = volume.spec.clone().unwrap_or_default();
        let csi = spec.csi.ok_or_else(|| wrong("the volume is of no driver".to_owned()))?;
        let fine = controller.can(controller_can::SINGLE_NODE_MULTI_WRITER);
        let modes = spec.access_modes.unwrap_or_default();
        let widest = ["ReadWriteMany", "ReadOnlyMany", "ReadWriteOncePod"];
        let mode = widest.into_iter().find(|mode| modes.iter().any(|known| known == mode)).unwrap_or("ReadWriteOnce");
        let block = spec.volume_mode.as_deref() == Some("Block");
        let flags = spec.mount_options.unwrap_or_default();
        let fs_type = csi.fs_type.as_deref().unwrap_or_default();
        let secrets = self.secret(csi.controller_publish_secret_ref.as_ref()).await;
        let request = ControllerPublishVolumeRequest {
            volume_id: csi.volume_handle.clone(),
            node_id,
            volume_capability: Some(capability(block, fs_type, &flags, mode, fine)),
            readonly: csi.read_only.unwrap_or(false) && controller.can(controller_can::PUBLISH_READONLY),
            secrets: secrets.map_err(|error| (error.to_string(), error))?,
            volume_context: csi.volume_attributes.unwrap_or_default().into_iter().collect(),
        };
        let answer = self.call(controller, driver, "ControllerPublishVolume", &request).await;
        answer.map_err(|error| (error.words(), error.of("attaching a volume")))
    }

    async fn detach(
        &self,
        controller: &Controller,
        driver: &str,
        attachment: &VolumeAttachment,
    ) -> Result<(), (String, PassError)> {
        let wrong = |what: String| (what.clone(), PassError::Object { what });
        let written = [HANDLE, NODE_ID].map(|key| annotation(attachment, key).map(str::to_owned));
        let name = attachment.spec.source.persistent_volume_name.as_deref().unwrap_or_default();
        let volume = self.context.caches.volumes.get(&ObjectKey::new("", name));
        let csi = volume.as_ref().and_then(|volume| volume.spec.as_ref()?.csi.as_ref());
        let [Some(volume_id), Some(node_id)] = written else {
            return Err(wrong("the attachment has lost what the driver calls volume and node".to_owned()));
        };
        let secrets = self.secret(csi.and_then(|csi| csi.controller_publish_secret_ref.as_ref())).await;
        let request = ControllerUnpublishVolumeRequest {
            volume_id,
            node_id,
            secrets: secrets.map_err(|error| (error.to_string(), error))?,
        };
        let answer: Result<Nothing, _> = self.call(controller, driver, "ControllerUnpublishVolume", &request).await;
        answer.map(drop).map_err(|error| (error.words(), error.of("detaching a volume")))
    }
}

fn failure(field: &str, message: &str) -> Value {
    let message: String = message.chars().take(LONGEST_ERROR).collect();
    json!({field: {"message": message, "time": clock::now()}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_short() {
        assert_eq!(finalizer("disk.example.com"), "external-attacher/disk-example-com");
        let said = failure("attachError", &"ü".repeat(5000));
        assert_eq!(said["attachError"]["message"].as_str().map(|text| text.chars().count()), Some(LONGEST_ERROR));
    }
}
