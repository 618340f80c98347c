//! The seam between the node and whatever runs its pods: the runtime built in, or another one.
//!
//! What is known is answered at once from memory, so that the node's workers compare without waiting; what changes something
//! is waited for. The words and the meaning are CRI's.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::container::{ContainerConfig, ContainerStatus};
use crate::error::Result;
use crate::events::EventReceiver;
use crate::id::{ContainerId, SandboxId};
use crate::images::{Auth, Image, ImageError};
use crate::runtime::{Resize, ResizeError, Runtime};
use crate::sandbox::{SandboxConfig, SandboxStatus};
use crate::stats::{ContainerStats, DiskUsage};
use crate::streams::{ExecOptions, ExecResult, Streams};

/// What runs pods.
pub trait ContainerRuntime: Send + Sync + 'static {
    /// Name and version as a node's status has them: `containerd://2.1.0`.
    fn version(&self) -> String;

    /// Names by which a RuntimeClass can choose an OCI runtime; the empty one is the default. With `None` only the runtime
    /// itself knows, and says so when a sandbox is to be run.
    fn handlers(&self) -> Option<Vec<String>>;

    /// Why it can run no pods now.
    fn trouble(&self) -> Option<String>;

    /// A folder on the file system that images are kept on.
    fn image_folder(&self) -> PathBuf;

    /// Makes what the containers of a pod share.
    fn run_pod_sandbox(&self, config: SandboxConfig) -> BoxFuture<'_, Result<SandboxId>>;

    /// Ends all containers of a sandbox at once, and the sandbox. Idempotent.
    fn stop_pod_sandbox<'a>(&'a self, id: &'a SandboxId) -> BoxFuture<'a, Result<()>>;

    /// Stops a sandbox and forgets it, its containers and their files. Idempotent.
    fn remove_pod_sandbox<'a>(&'a self, id: &'a SandboxId) -> BoxFuture<'a, Result<()>>;

    /// All sandboxes.
    fn pod_sandboxes(&self) -> Vec<SandboxStatus>;

    /// One sandbox.
    fn pod_sandbox(&self, id: &SandboxId) -> Option<SandboxStatus>;

    /// Prepares a container. Nothing runs yet.
    fn create_container<'a>(
        &'a self,
        sandbox: &'a SandboxId,
        config: ContainerConfig,
    ) -> BoxFuture<'a, Result<ContainerId>>;

    /// Runs a created container. A program that cannot be started leaves the container Exited with code 128 and reason
    /// `StartError`, and is an error here.
    fn start_container<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<()>>;

    /// Asks a container to end and after `grace` ends it with everything in it. Returns when it has ended. Idempotent.
    fn stop_container<'a>(&'a self, id: &'a ContainerId, grace: Duration) -> BoxFuture<'a, Result<()>>;

    /// Ends a container if it runs and forgets it with its files, except its log. Idempotent.
    fn remove_container<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<()>>;

    /// All containers.
    fn containers(&self) -> Vec<ContainerStatus>;

    /// One container.
    fn container(&self, id: &ContainerId) -> Option<ContainerStatus>;

    /// Runs a command in a running container, waits for it and returns what it wrote. With a zero `timeout` it may take forever.
    fn exec_sync<'a>(
        &'a self,
        id: &'a ContainerId,
        command: Vec<String>,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<ExecResult>>;

    /// Runs a command in a running container with streams to it.
    fn exec<'a>(&'a self, id: &'a ContainerId, options: ExecOptions) -> BoxFuture<'a, Result<Streams>>;

    /// Streams of a running container's first process; output from now on. Of `options` the command does not count.
    fn attach<'a>(&'a self, id: &'a ContainerId, options: ExecOptions) -> BoxFuture<'a, Result<Streams>>;

    /// Changes limits of a running pod.
    fn resize<'a>(&'a self, id: &'a SandboxId, wanted: Resize) -> BoxFuture<'a, Result<(), ResizeError>>;

    /// Has a container run on these CPUs, and its memory come from these nodes, from now on.
    fn confine<'a>(
        &'a self,
        id: &'a ContainerId,
        cpus: Option<String>,
        nodes: Option<String>,
    ) -> BoxFuture<'a, Result<()>>;

    /// What a container uses now of CPU and memory. Blocks: never called from a task.
    fn stats(&self, id: &ContainerId) -> Result<ContainerStats>;

    /// What all of a pod uses now. Blocks: never called from a task.
    fn sandbox_stats(&self, id: &SandboxId) -> Result<ContainerStats>;

    /// What a container has on disk. Blocks, and may look at many files: not to be called often, and never from a task.
    fn disk_usage(&self, id: &ContainerId) -> Result<DiskUsage>;

    /// The cgroup of a container, as paths below the trees name it.
    fn cgroup_of(&self, id: &ContainerId) -> Option<String>;

    /// The control group of the pod of a uid, in the group of its quality of service.
    fn cgroup_of_pod(&self, qos: &str, uid: &str) -> String;

    /// What happens to containers from now on.
    fn events(&self) -> EventReceiver;

    /// The image of this id or name, if it is there.
    fn image_status<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<Image>, ImageError>>;

    /// All images, as they were when the runtime last answered.
    fn list_images(&self) -> BoxFuture<'_, Vec<Image>>;

    /// Gets an image from its registry.
    fn pull_image<'a>(&'a self, reference: &'a str, auth: Option<Auth>) -> BoxFuture<'a, Result<Image, ImageError>>;

    /// Removes an image with all its names.
    fn remove_image<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), ImageError>>;
}

/// The runtime built in. It is the shared pointer that is one, as its tasks hold the runtime too.
impl ContainerRuntime for Arc<Runtime> {
    fn version(&self) -> String {
        format!("kobune://{}", env!("CARGO_PKG_VERSION"))
    }

    fn handlers(&self) -> Option<Vec<String>> {
        Some(Runtime::handlers(self))
    }

    fn trouble(&self) -> Option<String> {
        None
    }

    fn image_folder(&self) -> PathBuf {
        self.data_dir().to_path_buf()
    }

    fn run_pod_sandbox(&self, config: SandboxConfig) -> BoxFuture<'_, Result<SandboxId>> {
        Runtime::run_pod_sandbox(self, config).boxed()
    }

    fn stop_pod_sandbox<'a>(&'a self, id: &'a SandboxId) -> BoxFuture<'a, Result<()>> {
        Runtime::stop_pod_sandbox(self, id).boxed()
    }

    fn remove_pod_sandbox<'a>(&'a self, id: &'a SandboxId) -> BoxFuture<'a, Result<()>> {
        Runtime::remove_pod_sandbox(self, id).boxed()
    }

    fn pod_sandboxes(&self) -> Vec<SandboxStatus> {
        Runtime::pod_sandboxes(self)
    }

    fn pod_sandbox(&self, id: &SandboxId) -> Option<SandboxStatus> {
        Runtime::pod_sandbox(self, id)
    }

    fn create_container<'a>(
        &'a self,
        sandbox: &'a SandboxId,
        config: ContainerConfig,
    ) -> BoxFuture<'a, Result<ContainerId>> {
        Runtime::create_container(self, sandbox, config).boxed()
    }

    fn start_container<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<()>> {
        Runtime::start_container(self, id).boxed()
    }

    fn stop_container<'a>(&'a self, id: &'a ContainerId, grace: Duration) -> BoxFuture<'a, Result<()>> {
        Runtime::stop_container(self, id, grace, None).boxed()
    }

    fn remove_container<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<()>> {
        Runtime::remove_container(self, id).boxed()
    }

    fn containers(&self) -> Vec<ContainerStatus> {
        Runtime::containers(self)
    }

    fn container(&self, id: &ContainerId) -> Option<ContainerStatus> {
        Runtime::container(self, id)
    }

    fn exec_sync<'a>(
        &'a self,
        id: &'a ContainerId,
        command: Vec<String>,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<ExecResult>> {
        Runtime::exec_sync(self, id, command, timeout).boxed()
    }

    fn exec<'a>(&'a self, id: &'a ContainerId, options: ExecOptions) -> BoxFuture<'a, Result<Streams>> {
        Runtime::exec(self, id, options).boxed()
    }

    fn attach<'a>(&'a self, id: &'a ContainerId, _options: ExecOptions) -> BoxFuture<'a, Result<Streams>> {
        Runtime::attach(self, id).boxed()
    }

    fn resize<'a>(&'a self, id: &'a SandboxId, wanted: Resize) -> BoxFuture<'a, Result<(), ResizeError>> {
        Runtime::resize(self, id, wanted).boxed()
    }

    fn confine<'a>(
        &'a self,
        id: &'a ContainerId,
        cpus: Option<String>,
        nodes: Option<String>,
    ) -> BoxFuture<'a, Result<()>> {
        Runtime::confine(self, id, cpus, nodes).boxed()
    }

    fn stats(&self, id: &ContainerId) -> Result<ContainerStats> {
        Runtime::stats(self, id)
    }

    fn sandbox_stats(&self, id: &SandboxId) -> Result<ContainerStats> {
        Runtime::sandbox_stats(self, id)
    }

    fn disk_usage(&self, id: &ContainerId) -> Result<DiskUsage> {
        Runtime::disk_usage(self, id)
    }

    fn cgroup_of(&self, id: &ContainerId) -> Option<String> {
        Runtime::cgroup_of(self, id)
    }

    fn cgroup_of_pod(&self, qos: &str, uid: &str) -> String {
        Runtime::cgroup_of_pod(self, qos, uid)
    }

    fn events(&self) -> EventReceiver {
        Runtime::events(self)
    }

    fn image_status<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<Image>, ImageError>> {
        futures::future::ready(Ok(self.images().get(reference))).boxed()
    }

    fn list_images(&self) -> BoxFuture<'_, Vec<Image>> {
        futures::future::ready(self.images().list()).boxed()
    }

    fn pull_image<'a>(&'a self, reference: &'a str, auth: Option<Auth>) -> BoxFuture<'a, Result<Image, ImageError>> {
        self.images().pull(reference, auth).boxed()
    }

    fn remove_image<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), ImageError>> {
        let (images, id) = (Arc::clone(self.images()), id.to_owned());
        async move {
            let reference = id.clone();
            let removed = tokio::task::spawn_blocking(move || images.remove(&id)).await;
            removed.unwrap_or_else(|error| Err(ImageError::Damaged { reference, cause: error.to_string() }))
        }
        .boxed()
    }
}
