//! Takes and deletes snapshots of claims, where the cluster has snapshot.storage.k8s.io: what external-snapshotter and its sidecar
//! do, for local volumes and for drivers without sidecars.
//!
//! Nothing is watched for this: the garbage collector sees objects of all kinds and tells. A key is a namespace.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{CSIPersistentVolumeSource, ObjectReference};
use kobune_grpc::csi::controller::{CreateSnapshotRequest, SnapshotRequest, SnapshotResponse};
use kobune_grpc::csi::{Nothing, controller_can};
use kobune_scheduler::recorder::Severity;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Csi;
use super::snapshot_objects::{self as objects, CONTENT_FINALIZER, GROUP, NODE, SNAPSHOT_FINALIZER, annotation};
use super::tended::Controller;
use crate::clock;
use crate::local_provisioner::PROVISIONER;
use crate::object::ObjectKey;
use crate::queue::{Doing, PassError, Queue, Revisit, is_already_exists, is_not_found};

const NAME: &str = "csi-snapshotter";
/// When a driver is asked again whether a snapshot is ready.
const READY: Duration = Duration::from_secs(1);

/// Starts the controller.
pub(super) fn start(csi: &Arc<Csi>) {
    let queue = Arc::<Queue>::default();
    let known = Arc::<Mutex<HashSet<String>>>::default();
    let (wake, seen) = (queue.clone(), known.clone());
    csi.context.touched.on_touch(move |group, plural, namespace| {
        if group == GROUP && plural == "volumesnapshots" {
            seen.lock().insert(namespace.to_owned());
            wake.add(ObjectKey::new("", namespace));
        }
    });
    let wake = queue.clone();
    let caches = &csi.context.caches;
    // A snapshot may have been waiting for its claim.
    caches.claims.on_change(move |_, after| {
        let namespace = after.and_then(|claim| claim.metadata.namespace.as_deref()).unwrap_or_default();
        if known.lock().contains(namespace) {
            wake.add(ObjectKey::new("", namespace));
        }
    });
    let (claims, volumes, nodes) = (caches.claims.clone(), caches.volumes.clone(), csi.nodes.clone());
    let ready = async move {
        claims.synced().await;
        volumes.synced().await;
        nodes.synced().await;
    };
    let own = csi.clone();
    csi.context.run_controller(NAME, queue, ready, move |key| {
        let csi = own.clone();
        async move { csi.snapshots(&key.name).await }
    });
}

fn text<'v>(value: &'v Value, path: &str) -> Option<&'v str> {
    value.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn name(object: &DynamicObject) -> &str {
    object.metadata.name.as_deref().unwrap_or_default()
}

/// Puts a finalizer on or takes it off.
async fn mark(api: &Api<DynamicObject>, object: &DynamicObject, finalizer: &str, on: bool) -> Result<(), PassError> {
    let mut finalizers = object.metadata.finalizers.clone().unwrap_or_default();
    if finalizers.iter().any(|known| known == finalizer) == on {
        return Ok(());
    }
    finalizers.retain(|known| known != finalizer);
    if on {
        finalizers.push(finalizer.to_owned());
    }
    let meta = &object.metadata;
    let change =
        json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": finalizers}});
    match api.patch(name(object), &PatchParams::default(), &Patch::Merge(change)).await {
        Err(error) if !is_not_found(&error) => Err(error).doing("writing a finalizer"),
        _ => Ok(()),
    }
}

impl Csi {
    /// How the driver of a volume is reached, on the node that has it if it is a local one.
    fn reach(&self, source: &CSIPersistentVolumeSource) -> Option<Controller> {
        if source.driver != PROVISIONER {
            return self.controller(&source.driver, None);
        }
        let node = source.volume_attributes.as_ref()?.get("node")?;
        Some(Controller::local(node))
    }

    /// All snapshots of a namespace; one that fails holds up no other.
    async fn snapshots(&self, namespace: &str) -> Result<Revisit, PassError> {
        let api = objects::snapshots(&self.context.client, namespace);
        let all = match api.list(&ListParams::default()).await {
            // There are no snapshots in this cluster any more.
            Err(error) if is_not_found(&error) => return Ok(None),
            all => all.doing("listing snapshots")?,
        };
        let (mut again, mut failed) = (None, None);
        for snapshot in all {
            let done = if snapshot.metadata.deletion_timestamp.is_some() {
                self.end_snapshot(&api, &snapshot).await.map(|()| None)
            } else if snapshot.data["status"]["readyToUse"] == true {
                Ok(None)
            } else {
                self.take(&api, &snapshot).await
            };
            match done {
                Ok(revisit) => again = again.or(revisit),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(again), Err)
    }

    fn tell(&self, snapshot: &DynamicObject, severity: Severity, reason: &'static str, message: String) {
        let about = ObjectReference {
            api_version: Some(format!("{GROUP}/v1")),
            kind: Some("VolumeSnapshot".to_owned()),
            namespace: snapshot.metadata.namespace.clone(),
            name: snapshot.metadata.name.clone(),
            uid: snapshot.metadata.uid.clone(),
            resource_version: snapshot.metadata.resource_version.clone(),
            ..ObjectReference::default()
        };
        self.recorder.event(&about, severity, reason, message);
    }

    /// Writes a failure into the status, once: each change brings the pass again at once.
    async fn refuse(&self, api: &Api<DynamicObject>, snapshot: &DynamicObject, message: String) -> PassError {
        let what = format!("snapshot {}: {message}", name(snapshot));
        if snapshot.data["status"]["error"]["message"] != json!(message) {
            self.tell(snapshot, Severity::Warning, "SnapshotCreationFailed", message.clone());
            let status = json!({"status": {"readyToUse": false, "error": {"message": message, "time": clock::now()}}});
            if let Err(error) = api.patch_status(name(snapshot), &PatchParams::default(), &Patch::Merge(status)).await {
                return PassError::Request { doing: "writing the status of a snapshot", source: error };
            }
        }
        PassError::Object { what }
    }

    async fn take(&self, api: &Api<DynamicObject>, snapshot: &DynamicObject) -> Result<Revisit, PassError> {
        // One that was taken before is bound by whoever made its content known.
        let Some(claim) = text(&snapshot.data, "/spec/source/persistentVolumeClaimName") else { return Ok(None) };
        let caches = &self.context.caches;
        let namespace = snapshot.metadata.namespace.as_deref().unwrap_or_default();
        let found = caches.claims.get(&ObjectKey::new(namespace, claim));
        let named = found.and_then(|claim| claim.spec.as_ref()?.volume_name.clone()).unwrap_or_default();
        let Some(volume) = caches.volumes.get(&ObjectKey::new("", &named)) else {
            let message = format!("the claim {claim} does not exist or is not bound");
            return Err(self.refuse(api, snapshot, message).await);
        };
        let spec = volume.spec.as_ref();
        // Volumes of no driver, and of drivers with sidecars, are those' affair.
        let Some(source) = spec.and_then(|spec| spec.csi.as_ref()) else { return Ok(None) };
        let Some(controller) = self.reach(source).filter(|all| all.can(controller_can::CREATE_DELETE_SNAPSHOT)) else {
            return Ok(None);
        };
        let classes = objects::classes(&self.context.client).list(&ListParams::default()).await;
        let classes = classes.doing("listing the classes of snapshots")?.items;
        let class = text(&snapshot.data, "/spec/volumeSnapshotClassName");
        let class = match objects::class(&classes, class, &source.driver) {
            Ok(class) => class,
            Err(message) => return Err(self.refuse(api, snapshot, message).await),
        };
        let secret = match objects::secret(class) {
            Ok(secret) => secret,
            Err(message) => return Err(self.refuse(api, snapshot, message).await),
        };
        mark(api, snapshot, SNAPSHOT_FINALIZER, true).await?;
        let node = controller.nodes.first().map(String::as_str).unwrap_or_default();
        let mode = spec.and_then(|spec| spec.volume_mode.as_deref());
        let content = objects::content(snapshot, class, &source.volume_handle, mode, node);
        let contents = objects::contents(&self.context.client);
        let content: DynamicObject = serde_json::from_value(content)
            .map_err(|error| PassError::Object { what: format!("a content of ours is no object: {error}") })?;
        match contents.create(&PostParams::default(), &content).await {
            Err(error) if !is_already_exists(&error) => return Err(error).doing("making the content of a snapshot"),
            _ => {}
        }
        let parameters = class.data["parameters"].as_object().into_iter().flatten();
        let own = |key: &str| !key.starts_with("csi.storage.k8s.io/");
        let parameters = parameters.filter(|(key, _)| own(key));
        let request = CreateSnapshotRequest {
            source_volume_id: source.volume_handle.clone(),
            name: format!("snapshot-{}", snapshot.metadata.uid.as_deref().unwrap_or_default()),
            secrets: self.secret(secret.as_ref()).await?,
            parameters: parameters.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect(),
        };
        let answer: Result<SnapshotResponse, _> =
            self.call(&controller, &source.driver, "CreateSnapshot", &request).await;
        let taken = match answer {
            Ok(answer) => answer.snapshot.filter(|taken| !taken.snapshot_id.is_empty()),
            Err(error) => return Err(self.refuse(api, snapshot, error.words()).await),
        };
        let Some(taken) = taken else {
            return Err(self.refuse(api, snapshot, "the driver's answer names no snapshot".to_owned()).await);
        };
        let (of_content, of_snapshot) = objects::statuses(name(&content), &taken);
        let written = contents.patch_status(name(&content), &PatchParams::default(), &Patch::Merge(of_content)).await;
        written.doing("writing the status of a snapshot's content")?;
        let written = api.patch_status(name(snapshot), &PatchParams::default(), &Patch::Merge(of_snapshot)).await;
        written.doing("writing the status of a snapshot")?;
        if !taken.ready_to_use {
            return Ok(Some(READY));
        }
        let message = format!("Snapshot {namespace}/{} is ready to use.", name(snapshot));
        self.tell(snapshot, Severity::Normal, "SnapshotReady", message);
        Ok(None)
    }

    /// The end of a snapshot that was taken here; others' are left to others.
    async fn end_snapshot(&self, api: &Api<DynamicObject>, snapshot: &DynamicObject) -> Result<(), PassError> {
        let contents = objects::contents(&self.context.client);
        let content = contents.get_opt(&objects::content_name(snapshot)).await;
        if let Some(content) = content.doing("looking up the content of a snapshot")? {
            let Some(node) = annotation(&content, NODE) else { return Ok(()) };
            if content.data["spec"]["deletionPolicy"] == "Delete" {
                let driver = text(&content.data, "/spec/driver").unwrap_or_default();
                let controller = match driver {
                    PROVISIONER => Some(Controller::local(node)),
                    driver => self.controller(driver, Some(node)),
                };
                let missing = || PassError::Object { what: format!("no node has driver {driver}") };
                let controller = controller.ok_or_else(missing)?;
                if let Some(snapshot_id) = text(&content.data, "/status/snapshotHandle") {
                    let secrets = self.secret(Some(&objects::deletion_secret(&content))).await?;
                    let request = SnapshotRequest { snapshot_id: snapshot_id.to_owned(), secrets };
                    let done: Result<Nothing, _> = self.call(&controller, driver, "DeleteSnapshot", &request).await;
                    if let Err(error) = done {
                        self.tell(snapshot, Severity::Warning, "SnapshotDeleteError", error.words());
                        return Err(error.of("deleting a snapshot"));
                    }
                }
                mark(&contents, &content, CONTENT_FINALIZER, false).await?;
                match contents.delete(name(&content), &DeleteParams::default()).await {
                    Err(error) if !is_not_found(&error) => return Err(error).doing("deleting a snapshot's content"),
                    _ => {}
                }
            } else {
                // It stays, and whoever deletes it is not held up.
                mark(&contents, &content, CONTENT_FINALIZER, false).await?;
            }
        }
        mark(api, snapshot, SNAPSHOT_FINALIZER, false).await
    }
}
