//! The driver of local volumes: CSI 1.x on a socket, over the same folders that the node's own provisioner uses.
//!
//! ```text
//!  CreateVolume, CreateSnapshot, ... ─▶ volumes::local (folders, files, copies)
//!  NodeStageVolume   ─▶ a folder: bound to the staging path; a device: attached to a loop device
//!  NodePublishVolume ─▶ bound to the target path; what is bound where is on record first (`uses`)
//! ```
//!
//! The node serves it at `<node>/plugins/local.kobune.dev/csi.sock`, `kobune csi` anywhere. Error codes are those of the
//! specification: <https://github.com/container-storage-interface/spec/blob/master/spec.md>.

mod check;
mod controller;
mod node;
#[cfg(test)]
mod tests;
mod uses;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use kobune_grpc::csi::identity::{BoolValue, GetPluginCapabilitiesResponse, GetPluginInfoResponse};
use kobune_grpc::csi::identity::{PluginCapability, ProbeResponse};
use kobune_grpc::csi::{
    CONTROLLER_SERVICE, CapabilityKind, Nothing, ONLINE_EXPANSION, Topology, VOLUME_ACCESSIBILITY_CONSTRAINTS,
};
use kobune_grpc::server::{Service, decode, encode};
use kobune_grpc::{Code, Status};
use prost::Message;
use tokio_util::sync::CancellationToken;

use crate::errors::chain;
use crate::volumes::local::{DRIVER, LocalError, LocalVolumes};
use uses::UseError;

/// The key that says on which node a volume is.
pub const TOPOLOGY: &str = "topology.local.kobune.dev/node";

/// Where a node's driver is called, below the node's folder.
pub fn socket(node_dir: &Path) -> PathBuf {
    node_dir.join("plugins").join(DRIVER).join("csi.sock")
}

/// The driver.
pub struct LocalDriver {
    volumes: Arc<LocalVolumes>,
    node: String,
    /// The node's pods, which use volumes without this driver's help.
    pods_dir: PathBuf,
    /// One change of where volumes are used at a time.
    changing: parking_lot::Mutex<()>,
}

impl LocalDriver {
    /// The driver of a node's volumes; `node` is the node's name.
    pub fn new(volumes: Arc<LocalVolumes>, node: String, node_dir: &Path) -> LocalDriver {
        LocalDriver { volumes, node, pods_dir: node_dir.join("pods"), changing: Default::default() }
    }

    /// Answers a call. Blocks.
    fn act(&self, method: &str, message: Bytes) -> Result<Bytes, Status> {
        match method {
            "/csi.v1.Identity/GetPluginInfo" => on(message, |Nothing {}| Ok(info())),
            "/csi.v1.Identity/GetPluginCapabilities" => on(message, |Nothing {}| Ok(capabilities())),
            "/csi.v1.Identity/Probe" => {
                on(message, |Nothing {}| Ok(ProbeResponse { ready: Some(BoolValue { value: true }) }))
            }
            "/csi.v1.Controller/ControllerGetCapabilities" => on(message, |Nothing {}| Ok(controller::capabilities())),
            "/csi.v1.Controller/CreateVolume" => on(message, |request| self.create_volume(request)),
            "/csi.v1.Controller/DeleteVolume" => on(message, |request| self.delete_volume(&request)),
            "/csi.v1.Controller/ValidateVolumeCapabilities" => on(message, |request| self.validate(request)),
            "/csi.v1.Controller/ListVolumes" => on(message, |request| self.list_volumes(&request)),
            "/csi.v1.Controller/ControllerGetVolume" => on(message, |request| self.get_volume(&request)),
            "/csi.v1.Controller/GetCapacity" => on(message, |request| self.capacity(&request)),
            "/csi.v1.Controller/CreateSnapshot" => on(message, |request| self.create_snapshot(request)),
            "/csi.v1.Controller/DeleteSnapshot" => on(message, |request| self.delete_snapshot(&request)),
            "/csi.v1.Controller/GetSnapshot" => on(message, |request| self.get_snapshot(&request)),
            "/csi.v1.Controller/ListSnapshots" => on(message, |request| self.list_snapshots(&request)),
            "/csi.v1.Controller/ControllerExpandVolume" => on(message, |request| self.expand(&request)),
            "/csi.v1.Node/NodeGetInfo" => on(message, |Nothing {}| Ok(self.node_info())),
            "/csi.v1.Node/NodeGetCapabilities" => on(message, |Nothing {}| Ok(node::capabilities())),
            "/csi.v1.Node/NodeStageVolume" => on(message, |request| self.stage(&request)),
            "/csi.v1.Node/NodeUnstageVolume" => on(message, |request| self.unstage(&request)),
            "/csi.v1.Node/NodePublishVolume" => on(message, |request| self.publish(&request)),
            "/csi.v1.Node/NodeUnpublishVolume" => on(message, |request| self.unpublish(&request)),
            "/csi.v1.Node/NodeGetVolumeStats" => on(message, |request| self.stats(&request)),
            "/csi.v1.Node/NodeExpandVolume" => on(message, |request| self.node_expand(&request)),
            _ => Err(Status::unimplemented(format!("{method} is not a call of this driver"))),
        }
    }

    /// Where its volumes can be reached from.
    fn place(&self) -> Topology {
        Topology { segments: [(TOPOLOGY.to_owned(), self.node.clone())].into() }
    }
}

/// A call with its messages decoded and encoded.
fn on<Q: Message + Default, A: Message>(
    message: Bytes,
    answer: impl FnOnce(Q) -> Result<A, Status>,
) -> Result<Bytes, Status> {
    Ok(encode(&answer(decode(message)?)?))
}

fn info() -> GetPluginInfoResponse {
    GetPluginInfoResponse {
        name: DRIVER.to_owned(),
        vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
        manifest: Default::default(),
    }
}

fn capabilities() -> GetPluginCapabilitiesResponse {
    let service = |kind| PluginCapability { service: Some(CapabilityKind { kind }), volume_expansion: None };
    let growth = PluginCapability { service: None, volume_expansion: Some(CapabilityKind { kind: ONLINE_EXPANSION }) };
    let capabilities = vec![service(CONTROLLER_SERVICE), service(VOLUME_ACCESSIBILITY_CONSTRAINTS), growth];
    GetPluginCapabilitiesResponse { capabilities }
}

/// A failure in CSI's codes; names that lead elsewhere are refused before.
fn failed(error: &LocalError) -> Status {
    let code = match error {
        LocalError::Name(_) | LocalError::Missing(_) => Code::NotFound,
        LocalError::InUse => Code::FailedPrecondition,
        LocalError::Busy(_) => Code::Aborted,
        LocalError::Io { source, .. } => match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Code::ResourceExhausted,
            _ => Code::Internal,
        },
    };
    Status::new(code, chain(error))
}

fn use_failed(error: &UseError) -> Status {
    Status::internal(chain(error))
}

/// The driver as a service: calls that copy take long and hold up nobody else.
pub struct Called(pub Arc<LocalDriver>);

impl Service for Called {
    async fn call(&self, method: &str, message: Bytes) -> Result<Bytes, Status> {
        let (driver, method) = (Arc::clone(&self.0), method.to_owned());
        let done = tokio::task::spawn_blocking(move || {
            let done = driver.act(&method, message);
            if let Err(status) = done.as_ref()
                && status.code() == Code::Internal
            {
                tracing::warn!(method, message = status.message(), "the driver of local volumes failed");
            }
            done
        });
        done.await.map_err(|error| Status::internal(error.to_string()))?
    }
}

/// Why the driver can't be called.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Somebody else is there.
    #[error("another process answers at {}", .0.display())]
    Taken(PathBuf),
    /// The socket can't be made.
    #[error("failed to listen at {}", path.display())]
    Listen {
        /// Its path.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// Answers calls at a socket until the token is cancelled. A socket that an earlier process left is replaced.
pub async fn serve(path: PathBuf, driver: Arc<LocalDriver>, token: CancellationToken) -> Result<(), ServeError> {
    if tokio::net::UnixStream::connect(&path).await.is_ok() {
        return Err(ServeError::Taken(path));
    }
    let listener = kobune_grpc::server::listen(&path).map_err(|source| ServeError::Listen { path, source })?;
    kobune_grpc::server::serve(listener, Arc::new(Called(driver)), token).await;
    Ok(())
}

/// The same within the node: a failure is told, and costs nothing but the socket.
pub async fn serve_in_node(path: PathBuf, driver: Arc<LocalDriver>, token: CancellationToken) {
    if let Err(error) = serve(path, driver, token).await {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the driver of local volumes can't be called from outside"
        );
    }
}
