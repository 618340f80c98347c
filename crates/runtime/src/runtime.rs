//! The runtime: records of sandboxes and containers, and the conversations with their shims.

mod adopt;
mod command;
mod create;
mod mounts;
mod purge;
mod records;
mod resize;

pub use mounts::unmount_below;
pub use resize::{Resize, ResizeError};

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::broadcast;
use tokio::time::timeout;

use crate::cgroup::Cgroups;
use crate::config::Config;
use crate::container::{ContainerConfig, ContainerState, ContainerStatus, Resources};
use crate::disk::{self, Durability};
use crate::error::{Error, Result};
use crate::events::{ContainerEvent, ContainerEventKind, EventReceiver};
use crate::id::{ContainerId, SandboxId};
use crate::images::Images;
use crate::pod_groups::PodGroups;
use crate::protocol::{Exit, Message, Request};
use crate::sandbox::{SandboxConfig, SandboxState, SandboxStatus};
use crate::shim_client::ShimConnection;
use crate::stats::{ContainerStats, DiskUsage, FilesystemUsage};
use crate::streams::{ExecOptions, ExecResult, Streams};
use adopt::blocking;
use records::{Container, Sandbox, signal_number, unknown_exit};

/// How long a process that was sent SIGKILL may take to go; one in a hanging system call takes longer.
const KILL_WAIT: Duration = Duration::from_secs(30);

#[derive(Default)]
struct State {
    sandboxes: HashMap<SandboxId, Sandbox>,
    containers: HashMap<ContainerId, Container>,
}

/// Images, sandboxes and containers of one data folder.
pub struct Runtime {
    config: Config,
    cgroups: Cgroups,
    images: Arc<Images>,
    /// What kobune may do and so can give, as bits.
    capabilities: u64,
    apparmor: bool,
    boot: String,
    state: parking_lot::RwLock<State>,
    events: broadcast::Sender<ContainerEvent>,
    oom_score_said: Once,
}

impl Runtime {
    /// Opens the data folder and takes over what runs. Must be called in a tokio runtime.
    pub async fn open(config: Config) -> Result<Arc<Runtime>> {
        adopt::open(config).await
    }

    /// Names by which a RuntimeClass can choose an OCI runtime; the empty one is the default.
    pub fn handlers(&self) -> Vec<String> {
        let own = crate::config::OWN_HANDLERS.iter().map(|name| (*name).to_owned());
        own.chain(self.config.handlers.keys().cloned()).collect()
    }

    /// The folder that everything is kept in.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.config.data_dir
    }

    /// The image store.
    pub fn images(&self) -> &Arc<Images> {
        &self.images
    }

    /// Starts a pod's shim with its namespaces.
    pub async fn run_pod_sandbox(self: &Arc<Self>, config: SandboxConfig) -> Result<SandboxId> {
        self.make_sandbox(config).await
    }

    /// Ends all containers of a sandbox at once and its shim. Idempotent.
    pub async fn stop_pod_sandbox(self: &Arc<Self>, id: &SandboxId) -> Result<()> {
        let Some(mut record) = self.state.read().sandboxes.get(id).map(|sandbox| sandbox.record.clone()) else {
            return Ok(());
        };
        if !record.stopped {
            record.stopped = true;
            let path = self.sandbox_folder(id).join("sandbox.json");
            disk::write_json(&path, &record, Durability::Relaxed).map_err(Error::io("write", &path))?;
            if let Some(sandbox) = self.state.write().sandboxes.get_mut(id) {
                sandbox.record.stopped = true;
                sandbox.state = SandboxState::NotReady;
            }
        }
        if let Ok(connection) = ShimConnection::connect(&self.socket(id)) {
            let gone = |source| Error::ShimGone { sandbox: id.to_string(), source };
            connection.send(&Request::Shutdown, &[]).await.map_err(gone)?;
            // It answers when all containers have ended; one that hangs is dealt with through the cgroups below.
            if timeout(KILL_WAIT, connection.receive()).await.is_err() {
                tracing::warn!(sandbox = %id, "the shim did not end in time");
            }
        }
        let groups: Vec<String> = self
            .state
            .read()
            .containers
            .values()
            .filter(|container| container.record.sandbox == *id)
            .map(|container| container.record.group.clone())
            .collect();
        let (cgroups, folder) = (self.cgroups.clone(), self.sandbox_folder(id));
        blocking(move || {
            for group in groups {
                cgroups.remove(&group)?;
            }
            unmount_below(&folder)
        })
        .await?;
        self.take_over_exits(id);
        Ok(())
    }

    /// Stops a sandbox and forgets it, its containers and their files. Idempotent.
    pub async fn remove_pod_sandbox(self: &Arc<Self>, id: &SandboxId) -> Result<()> {
        self.stop_pod_sandbox(id).await?;
        let containers: Vec<ContainerId> = self
            .state
            .read()
            .containers
            .values()
            .filter(|container| container.record.sandbox == *id)
            .map(|container| container.record.id.clone())
            .collect();
        for container in containers {
            self.remove_container(&container).await?;
        }
        let Some(sandbox) = self.state.read().sandboxes.get(id).cloned() else { return Ok(()) };
        let group = self.pod_group(&sandbox.record.config);
        let shared = self
            .state
            .read()
            .sandboxes
            .values()
            .any(|other| other.record.id != *id && self.pod_group(&other.record.config) == group);
        let (cgroups, folder, socket) = (self.cgroups.clone(), self.sandbox_folder(id), self.socket(id));
        blocking(move || {
            if !shared {
                cgroups.remove(&group)?;
            }
            disk::remove(&socket).map_err(Error::io("remove", &socket))?;
            disk::remove(&folder).map_err(Error::io("remove", &folder))
        })
        .await?;
        self.state.write().sandboxes.remove(id);
        Ok(())
    }

    /// All sandboxes.
    pub fn pod_sandboxes(&self) -> Vec<SandboxStatus> {
        self.state.read().sandboxes.values().map(Sandbox::status).collect()
    }

    /// One sandbox.
    pub fn pod_sandbox(&self, id: &SandboxId) -> Option<SandboxStatus> {
        self.state.read().sandboxes.get(id).map(Sandbox::status)
    }

    /// Prepares a container: its layers, its files and its specification. Nothing runs yet.
    pub async fn create_container(
        self: &Arc<Self>,
        sandbox: &SandboxId,
        config: ContainerConfig,
    ) -> Result<ContainerId> {
        self.make_container(sandbox, config).await
    }

    /// Runs a created container. A program that cannot be started leaves the container Exited with code 128 and reason
    /// `StartError`, and is an error here.
    pub async fn start_container(self: &Arc<Self>, id: &ContainerId) -> Result<()> {
        let container = self.find(id)?;
        if container.state() != ContainerState::Created {
            let state = if container.pid.is_some() { "running" } else { "exited" };
            return Err(Error::WrongState { id: id.to_string(), state, wanted: "created" });
        }
        let answer = self.ask(&container.record.sandbox, &Request::Start { folder: self.container_folder(id) }).await;
        match answer {
            Ok(Message::Started { pid, oom_score_refused }) => {
                if oom_score_refused {
                    self.oom_score_said.call_once(|| {
                        tracing::warn!("this machine does not let kobune lower out-of-memory scores; going without")
                    });
                }
                let record = {
                    let mut state = self.state.write();
                    let Some(container) = state.containers.get_mut(id) else {
                        return Err(Error::ContainerNotFound(id.to_string()));
                    };
                    container.record.started_at = Some(Timestamp::now());
                    if container.exit.borrow().is_none() {
                        container.pid = Some(pid);
                    }
                    container.record.clone()
                };
                let path = self.container_folder(id).join("container.json");
                disk::write_json(&path, &record, Durability::Relaxed).map_err(Error::io("write", &path))?;
                self.tell(id, ContainerEventKind::Started);
                Ok(())
            }
            Ok(_) => Err(Error::Shim("the shim gave an unexpected answer".to_owned())),
            Err(error) => {
                let exit = Exit {
                    code: 128,
                    signal: None,
                    oom_killed: false,
                    at: Timestamp::now(),
                    reason: "StartError".to_owned(),
                    message: error.to_string(),
                };
                let path = self.container_folder(id).join("exit.json");
                disk::write_json(&path, &exit, Durability::Relaxed).map_err(Error::io("write", &path))?;
                self.exited(id, exit);
                Err(error)
            }
        }
    }

    /// Asks a container to end (with `signal`, else its own stop signal), and after `grace` ends it with everything in it.
    /// Returns when it has ended. Idempotent.
    pub async fn stop_container(&self, id: &ContainerId, grace: Duration, signal: Option<&str>) -> Result<()> {
        let Some(container) = self.state.read().containers.get(id).cloned() else { return Ok(()) };
        if container.state() != ContainerState::Running {
            return Ok(());
        }
        let mut exit = container.exit.subscribe();
        if !grace.is_zero() {
            let wanted = signal
                .or(container.record.stop_signal.as_deref())
                .filter(|signal| !signal.is_empty())
                .unwrap_or("SIGTERM");
            let number = signal_number(wanted).ok_or_else(|| Error::Invalid(format!("{wanted:?} is not a signal")))?;
            self.ask(&container.record.sandbox, &Request::Signal { id: id.to_string(), signal: number, all: false })
                .await?;
            if timeout(grace, exit.wait_for(Option::is_some)).await.is_ok() {
                return Ok(());
            }
        }
        let kill = Request::Signal { id: id.to_string(), signal: libc::SIGKILL, all: true };
        if let Err(error) = self.ask(&container.record.sandbox, &kill).await {
            // The shim may have gone between the look and the word; then the record says so soon.
            if container.exit.borrow().is_none() {
                return Err(error);
            }
        }
        match timeout(KILL_WAIT, exit.wait_for(Option::is_some)).await {
            Ok(_) => Ok(()),
            Err(_elapsed) => Err(Error::Timeout(KILL_WAIT)),
        }
    }

    /// Ends a container if it runs and forgets it with its files, except its log. Idempotent.
    pub async fn remove_container(&self, id: &ContainerId) -> Result<()> {
        let Some(container) = self.state.read().containers.get(id).cloned() else { return Ok(()) };
        self.stop_container(id, Duration::ZERO, None).await?;
        let sandbox_ready = self
            .state
            .read()
            .sandboxes
            .get(&container.record.sandbox)
            .is_some_and(|sandbox| sandbox.state == SandboxState::Ready);
        if sandbox_ready {
            self.ask(&container.record.sandbox, &Request::Forget { id: id.to_string() }).await?;
        }
        let (cgroups, group, folder) =
            (self.cgroups.clone(), container.record.group.clone(), self.container_folder(id));
        blocking(move || {
            cgroups.remove(&group)?;
            disk::remove(&folder).map_err(Error::io("remove", &folder))
        })
        .await?;
        if self.state.write().containers.remove(id).is_some() {
            self.images.release(&container.record.lowers);
        }
        Ok(())
    }

    /// All containers.
    pub fn containers(&self) -> Vec<ContainerStatus> {
        self.state.read().containers.values().map(Container::status).collect()
    }

    /// One container.
    pub fn container(&self, id: &ContainerId) -> Option<ContainerStatus> {
        self.state.read().containers.get(id).map(Container::status)
    }

    /// Resolves when a container has ended, with its exit code.
    pub async fn wait_container(&self, id: &ContainerId) -> Result<i32> {
        let mut exit = self.find(id)?.exit.subscribe();
        let ended = exit.wait_for(Option::is_some).await.map_err(|_| Error::ContainerNotFound(id.to_string()))?;
        Ok(ended.as_ref().map_or(255, |exit| exit.code))
    }

    /// Runs a command in a running container, waits for it and returns what it wrote. With a zero `timeout` it may take forever.
    pub async fn exec_sync(&self, id: &ContainerId, command: Vec<String>, timeout: Duration) -> Result<ExecResult> {
        self.run_command_to_end(id, command, timeout).await
    }

    /// Runs a command in a running container with streams to it.
    pub async fn exec(&self, id: &ContainerId, options: ExecOptions) -> Result<Streams> {
        self.run_command(id, options).await
    }

    /// Streams of a running container's first process; output from now on.
    pub async fn attach(&self, id: &ContainerId) -> Result<Streams> {
        self.attach_client(id).await
    }

    /// What a container uses now of CPU and memory. Blocks for a few reads of the kernel's files.
    pub fn stats(&self, id: &ContainerId) -> Result<ContainerStats> {
        Ok(self.cgroups.stats(&self.find(id)?.record.group)?)
    }

    /// What a container has on disk. Looks at every file of its own layer: call it from a blocking thread and not often.
    pub fn disk_usage(&self, id: &ContainerId) -> Result<DiskUsage> {
        let container = self.find(id)?;
        Ok(DiskUsage {
            writable_layer: usage_below(&self.container_folder(id).join("upper")),
            log_bytes: container.record.log.as_deref().map_or(0, crate::log::total_size),
        })
    }

    /// The cgroup of a container, as paths below the trees name it.
    pub fn cgroup_of(&self, id: &ContainerId) -> Option<String> {
        self.state.read().containers.get(id).map(|container| container.record.group.clone())
    }

    /// What all of a pod uses now.
    pub fn sandbox_stats(&self, id: &SandboxId) -> Result<ContainerStats> {
        let sandbox =
            self.state.read().sandboxes.get(id).cloned().ok_or_else(|| Error::SandboxNotFound(id.to_string()))?;
        Ok(self.cgroups.stats(&self.pod_group(&sandbox.record.config))?)
    }

    /// Opens the log file again after somebody moved it.
    pub async fn reopen_container_log(&self, id: &ContainerId) -> Result<()> {
        let container = self.find(id)?;
        self.ask(&container.record.sandbox, &Request::ReopenLog { id: id.to_string() }).await.map(drop)
    }

    /// What happens from now on.
    pub fn events(&self) -> EventReceiver {
        EventReceiver(self.events.subscribe())
    }

    /// Ends everything that was ever started for this data folder and takes away processes, mounts, cgroups and files.
    /// Needs no open runtime and must not be called beside one. Blocks.
    pub fn purge(config: &Config) -> Result<()> {
        purge::purge(config)
    }

    /// Whether pods were started for this data folder and not stopped. Needs no open runtime. Blocks.
    pub fn has_running_pods(config: &Config) -> Result<bool> {
        adopt::has_running_pods(config)
    }

    fn find(&self, id: &ContainerId) -> Result<Container> {
        self.state.read().containers.get(id).cloned().ok_or_else(|| Error::ContainerNotFound(id.to_string()))
    }

    /// One question to a shim.
    async fn ask(&self, sandbox: &SandboxId, request: &Request) -> Result<Message> {
        let gone = |source| Error::ShimGone { sandbox: sandbox.to_string(), source };
        let connection = ShimConnection::connect(&self.socket(sandbox)).map_err(gone)?;
        connection.send(request, &[]).await.map_err(gone)?;
        match connection.receive().await.map_err(gone)? {
            (Message::Failed(message), _) => Err(Error::Shim(message)),
            (message, _) => Ok(message),
        }
    }

    fn tell(&self, id: &ContainerId, kind: ContainerEventKind) {
        let event = self.state.read().containers.get(id).map(|container| ContainerEvent {
            id: id.clone(),
            sandbox: container.record.sandbox.clone(),
            pod_uid: container.record.pod_uid.clone(),
            kind,
        });
        if let Some(event) = event
            && self.events.send(event).is_err()
        {
            tracing::trace!("nobody listens to container events");
        }
    }

    /// A container has ended.
    fn exited(&self, id: &ContainerId, exit: Exit) {
        let code = exit.code;
        let new = {
            let mut state = self.state.write();
            let Some(container) = state.containers.get_mut(id) else { return };
            container.pid = None;
            let new = container.exit.borrow().is_none();
            if new {
                container.exit.send_replace(Some(exit));
            }
            new
        };
        if new {
            self.tell(id, ContainerEventKind::Exited(code));
        }
    }

    fn out_of_memory(&self, id: &ContainerId) {
        if let Some(container) = self.state.write().containers.get_mut(id) {
            container.oom = true;
        }
        self.tell(id, ContainerEventKind::Oom);
    }

    /// A shim has gone: by request, or killed. Without it nothing of its sandbox can be trusted any more.
    fn lost(self: &Arc<Self>, id: &SandboxId) {
        let stopped = {
            let mut state = self.state.write();
            let Some(sandbox) = state.sandboxes.get_mut(id) else { return };
            sandbox.state = SandboxState::NotReady;
            sandbox.shim_pid = None;
            sandbox.record.stopped
        };
        if stopped {
            self.take_over_exits(id);
            return;
        }
        tracing::warn!(sandbox = %id, "a sandbox's shim is gone; its containers are ended");
        let groups: Vec<String> = self
            .state
            .read()
            .containers
            .values()
            .filter(|container| container.record.sandbox == *id)
            .map(|container| container.record.group.clone())
            .collect();
        let (runtime, id) = (self.clone(), id.clone());
        tokio::task::spawn_blocking(move || {
            for group in groups {
                if let Err(error) = runtime.cgroups.remove(&group) {
                    tracing::warn!(group, error = %Error::from(error), "the group of a lost container cannot be removed");
                }
            }
            runtime.take_over_exits(&id);
            let first = runtime
                .state
                .read()
                .containers
                .values()
                .find(|container| container.record.sandbox == id)
                .map(|container| container.record.id.clone());
            if let Some(container) = first {
                runtime.tell(&container, ContainerEventKind::SandboxLost);
            }
        });
    }

    /// Reads how the containers of a gone shim ended; what is not on record nobody has seen.
    fn take_over_exits(&self, id: &SandboxId) {
        let open: Vec<ContainerId> = self
            .state
            .read()
            .containers
            .values()
            .filter(|container| container.record.sandbox == *id && container.exit.borrow().is_none())
            .map(|container| container.record.id.clone())
            .collect();
        for container in open {
            let path = self.container_folder(&container).join("exit.json");
            let exit = match disk::read_json::<Exit>(&path) {
                Ok(Some(exit)) => exit,
                _ => {
                    let exit = unknown_exit();
                    if let Err(error) = disk::write_json(&path, &exit, Durability::Relaxed) {
                        tracing::warn!(%container, %error, "a container's end cannot be put on record");
                    }
                    exit
                }
            };
            self.exited(&container, exit);
        }
    }

    fn pod_group(&self, config: &SandboxConfig) -> String {
        self.cgroup_of_pod(&config.cgroup_qos, &config.uid)
    }

    /// The control group of the pod of a uid, in the group of its quality of service.
    pub fn cgroup_of_pod(&self, qos: &str, uid: &str) -> String {
        PodGroups::name(&self.config.cgroup_parent, qos, uid)
    }

    fn sandbox_folder(&self, id: &SandboxId) -> PathBuf {
        self.config.data_dir.join("sandboxes").join(id.as_str())
    }

    fn container_folder(&self, id: &ContainerId) -> PathBuf {
        self.config.data_dir.join("containers").join(id.as_str())
    }

    fn socket(&self, id: &SandboxId) -> PathBuf {
        let name = id.as_str();
        self.config.state_dir.join("shim").join(format!("{}.sock", name.get(..32).unwrap_or(name)))
    }
}

impl Resources {
    fn merge(&mut self, other: Resources) {
        let Resources {
            cpu_shares,
            cpu_quota,
            cpu_period,
            cpuset_cpus,
            cpuset_mems,
            memory_limit,
            memory_swap_limit,
            pids_limit,
            ..
        } = other;
        self.cpu_shares = cpu_shares.or(self.cpu_shares);
        self.cpu_quota = cpu_quota.or(self.cpu_quota);
        self.cpu_period = cpu_period.or(self.cpu_period);
        self.cpuset_cpus = cpuset_cpus.or(self.cpuset_cpus.take());
        self.cpuset_mems = cpuset_mems.or(self.cpuset_mems.take());
        self.memory_limit = memory_limit.or(self.memory_limit);
        self.memory_swap_limit = memory_swap_limit.or(self.memory_swap_limit);
        self.pids_limit = pids_limit.or(self.pids_limit);
        self.hugepage_limits.extend(other.hugepage_limits);
        self.unified.extend(other.unified);
    }
}

/// Space on disk below a folder. Files that vanish meanwhile do not count. Blocks.
pub fn usage_below(folder: &Path) -> FilesystemUsage {
    use std::os::unix::fs::MetadataExt;
    let mut total = FilesystemUsage::default();
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            total.bytes += metadata.blocks() * 512;
            total.inodes += 1;
            if metadata.is_dir() {
                open.push(entry.path());
            }
        }
    }
    total
}
