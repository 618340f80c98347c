//! What a new volume begins with: another claim's volume, or a snapshot.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, TypedLocalObjectReference};
use kobune_grpc::csi::controller::{
    CreateVolumeRequest, CreateVolumeResponse, SnapshotSource, VolumeContentSource, VolumeSource,
};
use kobune_grpc::csi::{AccessMode, CapacityRange, MountVolume, Nothing, VolumeCapability, access};
use kobune_scheduler::volume_match::requested;
use prost::Message;

use super::call::ask;
use super::provision_plan::{is_block, volume_name};
use super::snapshot_objects::{self as objects, GROUP};
use crate::context::Context;
use crate::local_provisioner::{PROVISIONER, plan::node_of};
use crate::object::ObjectKey;

/// Where a volume's content comes from.
#[derive(Debug, PartialEq)]
pub struct Origin {
    /// As drivers are told.
    pub content: VolumeContentSource,
    /// The node that has it, where it is a local volume's.
    pub node: Option<String>,
}

/// The claim's data source, if it names one.
fn named(claim: &PersistentVolumeClaim) -> Option<TypedLocalObjectReference> {
    let spec = claim.spec.clone()?;
    spec.data_source.or_else(|| {
        let wanted = spec.data_source_ref?;
        Some(TypedLocalObjectReference { api_group: wanted.api_group, kind: wanted.kind, name: wanted.name })
    })
}

/// Looks up what the claim's volume begins with; `None` for an empty one.
pub async fn of(context: &Context, claim: &PersistentVolumeClaim, driver: &str) -> Result<Option<Origin>, String> {
    let Some(wanted) = named(claim) else { return Ok(None) };
    let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
    let group = wanted.api_group.as_deref().unwrap_or_default();
    match (group, wanted.kind.as_str()) {
        ("", "PersistentVolumeClaim") => of_claim(context, namespace, &wanted.name, driver).map(Some),
        (GROUP, "VolumeSnapshot") => of_snapshot(context, namespace, &wanted.name, driver, claim).await.map(Some),
        (group, kind) => Err(format!("a data source of kind {kind}.{group} is not supported")),
    }
}

fn of_claim(context: &Context, namespace: &str, name: &str, driver: &str) -> Result<Origin, String> {
    let caches = &context.caches;
    let other = caches.claims.get(&ObjectKey::new(namespace, name));
    let other = other.ok_or_else(|| format!("the source claim {name} does not exist"))?;
    let named = other.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
    let volume = caches.volumes.get(&ObjectKey::new("", named));
    let volume = volume.ok_or_else(|| format!("the source claim {name} is not bound"))?;
    let csi = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref());
    let csi = csi.filter(|csi| csi.driver == driver);
    let csi = csi.ok_or_else(|| format!("the source claim {name} has a volume of another driver"))?;
    let from = Some(VolumeSource { volume_id: csi.volume_handle.clone() });
    let content = VolumeContentSource { snapshot: None, volume: from };
    Ok(Origin { content, node: node_of(&volume).map(str::to_owned) })
}

async fn of_snapshot(
    context: &Context,
    namespace: &str,
    name: &str,
    driver: &str,
    claim: &PersistentVolumeClaim,
) -> Result<Origin, String> {
    let look_up = |error: kube::Error| format!("the snapshot {name} can't be looked up: {error}");
    let missing = || format!("the snapshot {name} does not exist");
    let snapshot = objects::snapshots(&context.client, namespace).get_opt(name).await.map_err(look_up)?;
    let status = snapshot.ok_or_else(missing)?.data["status"].take();
    let content = status["boundVolumeSnapshotContentName"].as_str().filter(|_| status["readyToUse"] == true);
    let content = content.ok_or_else(|| format!("the snapshot {name} is not ready to use"))?;
    let content = objects::contents(&context.client).get_opt(content).await.map_err(look_up)?.ok_or_else(missing)?;
    if content.data["spec"]["driver"] != driver {
        return Err(format!("the snapshot {name} is of another driver"));
    }
    let handle = content.data["status"]["snapshotHandle"].as_str().ok_or_else(missing)?;
    let size = content.data["status"]["restoreSize"].as_i64().unwrap_or(0);
    if requested(claim) < size {
        return Err(format!(
            "requested volume size {} is less than the size {size} for the source snapshot",
            requested(claim)
        ));
    }
    let from = Some(SnapshotSource { snapshot_id: handle.to_owned() });
    let node = objects::annotation(&content, objects::NODE).map(str::to_owned);
    Ok(Origin { content: VolumeContentSource { snapshot: from, volume: None }, node })
}

/// Why a local volume can't have the content that it is to have.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// Another node has it.
    #[error("its source is on node \"{0}\"")]
    Elsewhere(String),
    /// There is no such content, or no room for it.
    #[error("{0}")]
    Refused(String),
}

/// Makes a local volume with what its claim wants in it, on the node that has that; nothing for an empty one.
pub async fn fill(context: &Context, claim: &PersistentVolumeClaim, node: &str) -> Result<(), FillError> {
    let Some(origin) = of(context, claim, PROVISIONER).await.map_err(FillError::Refused)? else { return Ok(()) };
    if origin.node.as_deref() != Some(node) {
        return Err(FillError::Elsewhere(origin.node.unwrap_or_default()));
    }
    let block = is_block(claim);
    let capability = VolumeCapability {
        block: block.then_some(Nothing {}),
        mount: (!block).then(MountVolume::default),
        access_mode: Some(AccessMode { mode: access::SINGLE_NODE_MULTI_WRITER }),
    };
    let request = CreateVolumeRequest {
        name: volume_name(claim),
        capacity_range: Some(CapacityRange { required_bytes: requested(claim), limit_bytes: 0 }),
        volume_capabilities: vec![capability],
        volume_content_source: Some(origin.content),
        ..CreateVolumeRequest::default()
    };
    let answer = ask(&context.client, node, PROVISIONER, "Controller/CreateVolume", request.encode_to_vec()).await;
    answer.map(|_: CreateVolumeResponse| ()).map_err(|error| FillError::Refused(error.words()))
}
