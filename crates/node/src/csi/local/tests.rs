//! The driver as its callers have it: over its socket.
//!
//! The cases are those of kubernetes-csi's `csi-sanity`, each on its own, and faults that it does not try.

mod controller;
mod node;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kobune_grpc::client::Client;
use kobune_grpc::csi::controller::{CreateVolumeRequest, CreateVolumeResponse, Volume};
use kobune_grpc::csi::identity::{GetPluginCapabilitiesResponse, GetPluginInfoResponse, ProbeResponse};
use kobune_grpc::csi::{
    AccessMode, Capabilities, CapacityRange, MountVolume, Nothing, VolumeCapability, access, controller_can, node_can,
};
use kobune_grpc::{Code, Status};
use prost::Message;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{LocalDriver, ServeError, serve};
use crate::volumes::local::LocalVolumes;

const PATIENCE: Duration = Duration::from_secs(60);
const SIZE: i64 = 1 << 20;

/// A driver that answers, until this is dropped.
struct Running {
    client: Client,
    folder: TempDir,
    volumes: Arc<LocalVolumes>,
    token: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

impl Running {
    /// A driver of a folder of its own.
    fn start() -> Running {
        let folder = tempfile::tempdir().expect("a folder");
        let volumes = folder.path().join("volumes");
        Running::over(folder, volumes)
    }

    /// A driver whose volumes are there.
    fn over(folder: TempDir, volumes: PathBuf) -> Running {
        let volumes = Arc::new(LocalVolumes::new(volumes));
        let driver = Arc::new(LocalDriver::new(Arc::clone(&volumes), "here".to_owned(), folder.path()));
        let (socket, token) = (folder.path().join("csi.sock"), CancellationToken::new());
        let client = Client::new(socket.clone());
        // Bound before anybody calls: `serve` itself would race with the first call.
        let listener = kobune_grpc::server::listen(&socket).expect("a socket");
        let called = Arc::new(super::Called(driver));
        tokio::spawn(kobune_grpc::server::serve(listener, called, token.clone()));
        Running { client, folder, volumes, token }
    }

    async fn call<Q, A>(&self, method: &'static str, request: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.client.call(method, request, PATIENCE).await
    }

    async fn create(&self, request: CreateVolumeRequest) -> Result<Volume, Status> {
        let made: CreateVolumeResponse = self.call("/csi.v1.Controller/CreateVolume", request).await?;
        Ok(made.volume.expect("an answer has a volume"))
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().canonicalize().expect("there").join(name).to_string_lossy().into_owned()
    }
}

fn code<A: std::fmt::Debug>(answer: Result<A, Status>) -> Code {
    answer.map_or_else(|status| status.code(), |_| Code::Ok)
}

fn as_mode(block: bool, mode: i32) -> VolumeCapability {
    VolumeCapability {
        block: block.then_some(Nothing {}),
        mount: (!block).then(MountVolume::default),
        access_mode: Some(AccessMode { mode }),
    }
}

fn as_files() -> VolumeCapability {
    as_mode(false, access::SINGLE_NODE_WRITER)
}

fn as_device() -> VolumeCapability {
    as_mode(true, access::SINGLE_NODE_WRITER)
}

fn volume(name: &str) -> CreateVolumeRequest {
    CreateVolumeRequest {
        name: name.to_owned(),
        capacity_range: Some(CapacityRange { required_bytes: SIZE, limit_bytes: 0 }),
        volume_capabilities: vec![as_files()],
        ..CreateVolumeRequest::default()
    }
}

fn device(name: &str) -> CreateVolumeRequest {
    CreateVolumeRequest { volume_capabilities: vec![as_device()], ..volume(name) }
}

#[tokio::test]
async fn the_driver_says_who_it_is_and_what_it_can() {
    let driver = Running::start();
    let info: GetPluginInfoResponse =
        driver.call("/csi.v1.Identity/GetPluginInfo", Nothing {}).await.expect("an answer");
    assert_eq!(info.name, "local.kobune.dev");
    assert!(!info.vendor_version.is_empty());
    let probe: ProbeResponse = driver.call("/csi.v1.Identity/Probe", Nothing {}).await.expect("an answer");
    assert!(probe.ready.expect("a word").value);
    let able: GetPluginCapabilitiesResponse =
        driver.call("/csi.v1.Identity/GetPluginCapabilities", Nothing {}).await.expect("an answer");
    let services = able.capabilities.iter().filter_map(|able| able.service.as_ref());
    assert_eq!(services.map(|service| service.kind).collect::<Vec<_>>(), [1, 2]);
    let able: Capabilities =
        driver.call("/csi.v1.Controller/ControllerGetCapabilities", Nothing {}).await.expect("an answer");
    assert!(able.can(controller_can::CREATE_DELETE_SNAPSHOT) && !able.can(controller_can::PUBLISH_UNPUBLISH_VOLUME));
    let able: Capabilities = driver.call("/csi.v1.Node/NodeGetCapabilities", Nothing {}).await.expect("an answer");
    assert!(able.can(node_can::STAGE_UNSTAGE_VOLUME) && !able.can(node_can::VOLUME_MOUNT_GROUP));
    let unknown = driver.call::<_, Nothing>("/csi.v1.Controller/ControllerModifyVolume", Nothing {}).await;
    assert_eq!(code(unknown), Code::Unimplemented);
}

#[tokio::test]
async fn a_message_that_is_none_is_refused() {
    let driver = Running::start();
    // A string where CreateVolume expects a message.
    let wrong = kobune_grpc::csi::node::NodeUnstageVolumeRequest {
        volume_id: "a".to_owned(),
        staging_target_path: "not a message".to_owned(),
    };
    let answer = driver.call::<_, CreateVolumeResponse>("/csi.v1.Controller/CreateVolume", wrong).await;
    assert_eq!(code(answer), Code::InvalidArgument);
}

#[tokio::test]
async fn a_socket_that_is_served_is_not_taken() {
    let driver = Running::start();
    let path = driver.folder.path().join("csi.sock");
    let other = LocalDriver::new(Arc::clone(&driver.volumes), "here".to_owned(), driver.folder.path());
    let refused = serve(path.clone(), Arc::new(other), CancellationToken::new()).await;
    assert!(matches!(refused, Err(ServeError::Taken(taken)) if taken == path));
}
