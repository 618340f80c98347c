//! The runtime behind a CRI socket, as the node sees it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use kobune_grpc::{Code, Status};
use kobune_runtime::{
    Auth, ContainerConfig, ContainerEvent, ContainerId, ContainerRuntime, ContainerState, ContainerStats,
    ContainerStatus, DiskUsage, Error, EventReceiver, ExecOptions, ExecResult, Image, ImageError, PodGroups, Resize,
    ResizeError, Resources, Result, SandboxConfig, SandboxId, SandboxStatus, Streams, log_size,
};
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::calls::{Calls, QUESTION};
use crate::failure::{self, unless_gone};
use crate::proto::container::{
    AttachRequest, CreateContainerRequest, ExecRequest, ExecSyncRequest, StopContainerRequest,
    UpdateContainerResourcesRequest,
};
use crate::proto::sandbox::RunPodSandboxRequest;
use crate::proto::{ById, Nothing, SYSTEMD, StatusRequest, VersionRequest};
use crate::state::State;
use crate::{
    Config, OpenError, cni, container_config, images, io_error, log_rotation, own_image, purge, resources,
    sandbox_config, stats, streaming, watch as following,
};

/// How long a runtime that is not there yet is waited for: it may be starting together with kobune.
const START_PATIENCE: Duration = Duration::from_secs(120);
/// How often it is looked for meanwhile.
const START_PAUSE: Duration = Duration::from_millis(500);
/// How many events a slow receiver may be behind before it is told to look at everything again.
const EVENT_BACKLOG: usize = 1024;

/// Pods run by another container runtime.
pub struct CriRuntime {
    inner: Arc<Inner>,
    _over: DropGuard,
}

/// What the tasks share with [`CriRuntime`].
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) calls: Calls,
    pub(crate) state: RwLock<State>,
    pub(crate) images: Mutex<images::Known>,
    /// Told whenever something was started or stopped.
    pub(crate) changed: watch::Sender<()>,
    pub(crate) over: CancellationToken,
    groups: PodGroups,
    events: broadcast::Sender<ContainerEvent>,
    trouble: RwLock<Option<String>>,
    version: String,
    handlers: Option<Vec<String>>,
    image_folder: PathBuf,
    tokio: Handle,
}

fn by_id(id: &impl ToString) -> ById {
    ById { id: id.to_string(), verbose: false }
}

impl CriRuntime {
    /// Finds out whether the runtime can be used, sets its network up and takes over what runs. Must be called in a tokio
    /// runtime.
    pub async fn open(config: Config) -> Result<Arc<CriRuntime>, OpenError> {
        let calls = Calls::new(config.socket.clone());
        let version = reach(&config, &calls).await?;
        let status = calls.status(StatusRequest { verbose: true }).await;
        let status = status.map_err(|status| OpenError::Setup(failure::text(&status)))?;
        // Runtimes before Kubernetes 1.28 don't say; then the first sandbox does.
        if let Ok(answer) = calls.runtime_config(Nothing {}).await
            && answer.linux.is_some_and(|linux| linux.cgroup_driver == SYSTEMD)
        {
            return Err(OpenError::Setup(format!(
                "{version} leaves control groups to systemd, kobune keeps its own: set SystemdCgroup = false for \
                 containerd's runtime handlers, or cgroup_manager = \"cgroupfs\" for CRI-O"
            )));
        }
        purge::remember(&config)?;
        cni::install(&config, &cni::places(&status.info))?;
        let image_folder = match calls.image_fs_info(Nothing {}).await {
            Ok(answer) => answer.image_filesystems.into_iter().find_map(|found| Some(found.fs_id?.mountpoint.into())),
            Err(status) => {
                tracing::warn!("where the container runtime keeps images is not known: {}", failure::text(&status));
                None
            }
        };
        let handlers: Vec<String> = status.runtime_handlers.into_iter().map(|handler| handler.name).collect();
        let over = CancellationToken::new();
        let inner = Arc::new(Inner {
            groups: PodGroups::detect()?,
            image_folder: image_folder.unwrap_or_else(|| config.data_dir.clone()),
            calls,
            state: RwLock::default(),
            images: Mutex::default(),
            changed: watch::Sender::new(()),
            over: over.clone(),
            events: broadcast::Sender::new(EVENT_BACKLOG),
            trouble: RwLock::default(),
            version,
            handlers: Some(handlers).filter(|handlers| !handlers.is_empty()),
            tokio: Handle::current(),
            config,
        });
        inner.list_all().await.map_err(|status| OpenError::Setup(failure::text(&status)))?;
        own_image::provide(&inner).await;
        tokio::spawn(following::run(Arc::downgrade(&inner)));
        tokio::spawn(log_rotation::run(Arc::downgrade(&inner)));
        let (version, sandboxes) = (&inner.version, inner.state.read().sandboxes.len());
        tracing::info!(version, sandboxes, "pods are run by another container runtime");
        Ok(Arc::new(CriRuntime { inner, _over: over.drop_guard() }))
    }
}

/// The name and version of a runtime that speaks CRI v1.
async fn reach(config: &Config, calls: &Calls) -> Result<String, OpenError> {
    let begun = tokio::time::Instant::now();
    let mut said = false;
    loop {
        match calls.version(VersionRequest { version: "v1".to_owned() }).await {
            Ok(answer) => {
                let (name, version) = (answer.runtime_name, answer.runtime_version);
                if answer.runtime_api_version != "v1" {
                    let cause = format!("{name} {version} speaks version {:?}", answer.runtime_api_version);
                    return Err(OpenError::NoCri { socket: config.socket.clone(), cause });
                }
                return Ok(format!("{name}://{version}"));
            }
            Err(status) if status.code() == Code::Unavailable && begun.elapsed() < START_PATIENCE => {
                if !said {
                    tracing::info!(socket = %config.socket.display(), "waiting for the container runtime");
                    said = true;
                }
                tokio::time::sleep(START_PAUSE).await;
            }
            Err(status) if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) => {
                let cause = status.message().to_owned();
                return Err(OpenError::Unreachable { socket: config.socket.clone(), cause });
            }
            Err(status) => {
                return Err(OpenError::NoCri { socket: config.socket.clone(), cause: failure::text(&status) });
            }
        }
    }
}

/// Runs what blocks.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Error::Remote(error.to_string())))
}

fn remote(status: Status) -> Error {
    failure::of(&status)
}

impl Inner {
    pub(crate) fn tell(&self, events: impl IntoIterator<Item = ContainerEvent>) {
        for event in events {
            if self.events.send(event).is_err() {
                tracing::trace!("nobody listens to container events");
            }
        }
    }

    /// Takes note of what is wrong with the runtime; whether that is news.
    pub(crate) fn set_trouble(&self, trouble: Option<String>) -> bool {
        let mut known = self.trouble.write();
        let news = known.is_some() != trouble.is_some();
        *known = trouble;
        news
    }

    pub(crate) fn is_in_trouble(&self) -> bool {
        self.trouble.read().is_some()
    }

    fn group(&self, config: &SandboxConfig) -> String {
        PodGroups::name(&self.config.cgroup_parent, &config.cgroup_qos, &config.uid)
    }

    fn sandbox_config(&self, id: &SandboxId) -> Result<SandboxConfig> {
        let known = self.state.read().sandboxes.get(id).map(|known| known.config.clone());
        known.ok_or_else(|| Error::SandboxNotFound(id.to_string()))
    }

    fn container_state(&self, id: &ContainerId) -> Option<ContainerState> {
        self.state.read().containers.get(id).map(|known| known.state)
    }

    async fn run_pod_sandbox(&self, config: SandboxConfig) -> Result<SandboxId> {
        let group = self.group(&config);
        let message = sandbox_config::message(&config, &group, &self.config.instance)?;
        let (groups, limits, path) = (self.groups.clone(), config.resources.clone(), group.clone());
        let hosts = (self.config.hosts_file(&config.uid), config.hosts.clone());
        let hand_over = cni::record(&self.config, &config)?;
        blocking(move || {
            groups.create(&path, &limits)?;
            if let (path, Some(text)) = &hosts {
                write(path, text)?;
            }
            hand_over.iter().try_for_each(|(path, text)| write(path, text))
        })
        .await?;
        let asked = RunPodSandboxRequest { config: Some(message), runtime_handler: config.runtime_handler.clone() };
        let answer = match self.calls.run_pod_sandbox(asked).await {
            Ok(answer) => answer,
            Err(status) => {
                self.tidy(&config).await;
                return Err(remote(status));
            }
        };
        let id = SandboxId::from(answer.pod_sandbox_id);
        self.look_at_sandbox(&id).await?;
        self.changed.send_replace(());
        // An answer of another shape than the question would leave a sandbox that nobody knows.
        self.sandbox_config(&id).map(|_| id)
    }

    /// Takes away what was made beside a pod's sandbox, once the pod has none any more.
    async fn tidy(&self, config: &SandboxConfig) {
        if self.state.read().sandboxes.values().any(|other| other.config.uid == config.uid) {
            return;
        }
        let (groups, group) = (self.groups.clone(), self.group(config));
        let mut files = vec![self.config.hosts_file(&config.uid)];
        files.push(cni::record_file(&self.config, &config.namespace, &config.name));
        let done = blocking(move || {
            for file in files {
                match std::fs::remove_file(&file) {
                    Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                        return Err(Error::Io { action: "remove", path: file, source });
                    }
                    _ => {}
                }
            }
            groups.remove(&group)
        });
        if let Err(error) = done.await {
            tracing::warn!(pod = config.name, error = &error as &dyn std::error::Error, "a pod's leftovers stay");
        }
    }

    async fn stop_pod_sandbox(&self, id: &SandboxId) -> Result<()> {
        if !self.state.read().sandboxes.contains_key(id) {
            return Ok(());
        }
        unless_gone(self.calls.stop_pod_sandbox(by_id(id)).await)?;
        let of_it: Vec<ContainerId> = {
            let known = self.state.read();
            known.containers.values().filter(|known| known.sandbox == *id).map(|known| known.id.clone()).collect()
        };
        for container in of_it {
            self.look_at_container(&container).await?;
        }
        self.look_at_sandbox(id).await?;
        self.changed.send_replace(());
        Ok(())
    }

    async fn remove_pod_sandbox(&self, id: &SandboxId) -> Result<()> {
        let Ok(config) = self.sandbox_config(id) else { return Ok(()) };
        unless_gone(self.calls.stop_pod_sandbox(by_id(id)).await)?;
        unless_gone(self.calls.remove_pod_sandbox(by_id(id)).await)?;
        let event = self.state.write().forget_sandbox(id);
        self.tell(event);
        self.tidy(&config).await;
        self.changed.send_replace(());
        Ok(())
    }

    async fn create_container(&self, sandbox: &SandboxId, asked: ContainerConfig) -> Result<ContainerId> {
        let config = self.sandbox_config(sandbox)?;
        let hosts = Some(self.config.hosts_file(&config.uid)).filter(|path| path.exists());
        let message = container_config::message(&asked, &config, hosts.as_deref(), &self.config.instance)?;
        let sandbox_config = sandbox_config::message(&config, &self.group(&config), &self.config.instance)?;
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_string(),
            config: Some(message),
            sandbox_config: Some(sandbox_config),
        };
        let answer = self.calls.create_container(request).await.map_err(remote)?;
        let id = ContainerId::from(answer.container_id);
        self.adopt_container(&id, sandbox).await?;
        if self.container_state(&id).is_none() {
            return Err(Error::ContainerNotFound(id.to_string()));
        }
        Ok(id)
    }

    async fn start_container(&self, id: &ContainerId) -> Result<()> {
        let started = self.calls.start_container(by_id(id)).await;
        let looked = self.look_at_container(id).await;
        self.changed.send_replace(());
        started.map_err(remote)?;
        looked
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<()> {
        if self.container_state(id) != Some(ContainerState::Running) {
            return Ok(());
        }
        let seconds = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
        let request =
            StopContainerRequest { container_id: id.to_string(), timeout: i64::try_from(seconds).unwrap_or(i64::MAX) };
        unless_gone(self.calls.stop_container(request, grace).await)?;
        self.look_at_container(id).await?;
        self.changed.send_replace(());
        Ok(())
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<()> {
        if self.container_state(id).is_none() {
            return Ok(());
        }
        unless_gone(self.calls.remove_container(by_id(id)).await)?;
        let event = self.state.write().forget_container(id);
        self.tell(event);
        Ok(())
    }

    async fn exec_sync(&self, id: &ContainerId, command: Vec<String>, timeout: Duration) -> Result<ExecResult> {
        let seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
        let request = ExecSyncRequest {
            container_id: id.to_string(),
            cmd: command,
            timeout: i64::try_from(seconds).unwrap_or(i64::MAX),
        };
        match self.calls.exec_sync(request, timeout).await {
            Ok(answer) => Ok(ExecResult { exit_code: answer.exit_code, stdout: answer.stdout, stderr: answer.stderr }),
            Err(status) if status.code() == Code::DeadlineExceeded && !timeout.is_zero() => {
                Err(Error::Timeout(timeout))
            }
            Err(status) => Err(remote(status)),
        }
    }

    async fn exec(&self, id: &ContainerId, options: ExecOptions) -> Result<Streams> {
        let request = ExecRequest {
            container_id: id.to_string(),
            cmd: options.command.clone(),
            tty: options.tty,
            stdin: options.stdin,
            stdout: options.stdout,
            stderr: options.stderr && !options.tty,
        };
        let answer = self.calls.exec(request).await.map_err(remote)?;
        streaming::open(&answer.url, &options).await
    }

    async fn attach(&self, id: &ContainerId, options: ExecOptions) -> Result<Streams> {
        let request = AttachRequest {
            container_id: id.to_string(),
            stdin: options.stdin,
            tty: options.tty,
            stdout: options.stdout,
            stderr: options.stderr && !options.tty,
        };
        let answer = self.calls.attach(request).await.map_err(remote)?;
        streaming::open(&answer.url, &options).await
    }

    /// The pod's group is kobune's own, those of containers are the runtime's: the former is widened first and narrowed last.
    async fn resize(&self, id: &SandboxId, wanted: Resize) -> Result<(), ResizeError> {
        let config = self.sandbox_config(id)?;
        let group = self.group(&config);
        let apply = async |limits: Resources| {
            let (groups, group) = (self.groups.clone(), group.clone());
            blocking(move || groups.apply(&group, &limits)).await
        };
        let pod = wanted.pod.map(|after| resources::replacing(&config.resources, after));
        let mut changes = Vec::new();
        for (container, after) in wanted.containers {
            let before = self.state.read().containers.get(&container).map(|known| known.resources.clone());
            let before = before.ok_or_else(|| Error::ContainerNotFound(container.to_string()))?;
            self.refuse_below_use(&container, &before, &after).await?;
            changes.push((container, resources::replacing(&before, after)));
        }
        if let Some(after) = &pod {
            apply(resources::wider(&config.resources, after)).await?;
        }
        for (container, limits) in changes {
            let request = UpdateContainerResourcesRequest {
                container_id: container.to_string(),
                linux: Some(resources::limits(&limits)),
            };
            self.calls.update_container_resources(request).await.map_err(remote)?;
            self.state.write().note_limits(&container, &limits);
        }
        if let Some(after) = pod {
            apply(after.clone()).await?;
            self.state.write().note_pod_limits(id, &after);
        }
        Ok(())
    }

    async fn confine(&self, id: &ContainerId, cpus: Option<String>, nodes: Option<String>) -> Result<()> {
        if cpus.is_none() && nodes.is_none() {
            return Ok(());
        }
        let limits = Resources { cpuset_cpus: cpus, cpuset_mems: nodes, ..Resources::default() };
        let request =
            UpdateContainerResourcesRequest { container_id: id.to_string(), linux: Some(resources::limits(&limits)) };
        self.calls.update_container_resources(request).await.map_err(remote)?;
        self.state.write().note_limits(id, &limits);
        Ok(())
    }

    async fn refuse_below_use(
        &self,
        id: &ContainerId,
        before: &Resources,
        after: &Resources,
    ) -> Result<(), ResizeError> {
        let limit = after.memory_limit.filter(|limit| *limit > 0);
        let Some(limit) = limit.filter(|limit| before.memory_limit.is_none_or(|old| old <= 0 || old > *limit)) else {
            return Ok(());
        };
        let answer = self.calls.container_stats(by_id(id)).await.map_err(remote)?;
        let usage = stats::read(&answer.stats.unwrap_or_default(), None).memory_working_set;
        if usage > limit.unsigned_abs() {
            let name = self.state.read().containers.get(id).map(|known| known.name.clone()).unwrap_or_default();
            return Err(ResizeError::BelowUsage { what: format!("container \"{name}\""), limit, usage });
        }
        Ok(())
    }

    /// Asks from a thread that may block.
    fn ask_stats(&self, id: &ContainerId) -> Result<crate::proto::stats::ContainerStats> {
        let question = tokio::time::timeout(QUESTION, self.calls.container_stats(by_id(id)));
        let answer = self.tokio.block_on(question).map_err(|_| Error::Timeout(QUESTION))?.map_err(remote)?;
        answer.stats.ok_or_else(|| Error::Remote("the container runtime has no statistics".to_owned()))
    }
}

fn write(path: &std::path::Path, text: &str) -> Result<()> {
    let fail = |source| Error::Io { action: "write", path: path.to_path_buf(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(fail)?;
    }
    std::fs::write(path, text).map_err(fail)
}

impl Config {
    /// Where the instance keeps what it needs for another runtime.
    pub(crate) fn folder(&self) -> PathBuf {
        self.data_dir.join("cri")
    }

    fn hosts_file(&self, uid: &str) -> PathBuf {
        self.folder().join("hosts").join(uid)
    }

    pub(crate) fn make_folder(&self) -> Result<(), OpenError> {
        let folder = self.folder();
        std::fs::create_dir_all(&folder).map_err(io_error("make", &folder))
    }
}

impl ContainerRuntime for CriRuntime {
    fn version(&self) -> String {
        self.inner.version.clone()
    }

    fn handlers(&self) -> Option<Vec<String>> {
        self.inner.handlers.clone()
    }

    fn trouble(&self) -> Option<String> {
        self.inner.trouble.read().clone()
    }

    fn image_folder(&self) -> PathBuf {
        self.inner.image_folder.clone()
    }

    fn run_pod_sandbox(&self, config: SandboxConfig) -> BoxFuture<'_, Result<SandboxId>> {
        self.inner.run_pod_sandbox(config).boxed()
    }

    fn stop_pod_sandbox<'a>(&'a self, id: &'a SandboxId) -> BoxFuture<'a, Result<()>> {
        self.inner.stop_pod_sandbox(id).boxed()
    }

    fn remove_pod_sandbox<'a>(&'a self, id: &'a SandboxId) -> BoxFuture<'a, Result<()>> {
        self.inner.remove_pod_sandbox(id).boxed()
    }

    fn pod_sandboxes(&self) -> Vec<SandboxStatus> {
        self.inner.state.read().sandboxes.values().cloned().collect()
    }

    fn pod_sandbox(&self, id: &SandboxId) -> Option<SandboxStatus> {
        self.inner.state.read().sandboxes.get(id).cloned()
    }

    fn create_container<'a>(
        &'a self,
        sandbox: &'a SandboxId,
        config: ContainerConfig,
    ) -> BoxFuture<'a, Result<ContainerId>> {
        self.inner.create_container(sandbox, config).boxed()
    }

    fn start_container<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<()>> {
        self.inner.start_container(id).boxed()
    }

    fn stop_container<'a>(&'a self, id: &'a ContainerId, grace: Duration) -> BoxFuture<'a, Result<()>> {
        self.inner.stop_container(id, grace).boxed()
    }

    fn remove_container<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<()>> {
        self.inner.remove_container(id).boxed()
    }

    fn containers(&self) -> Vec<ContainerStatus> {
        self.inner.state.read().containers.values().cloned().collect()
    }

    fn container(&self, id: &ContainerId) -> Option<ContainerStatus> {
        self.inner.state.read().containers.get(id).cloned()
    }

    fn exec_sync<'a>(
        &'a self,
        id: &'a ContainerId,
        command: Vec<String>,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<ExecResult>> {
        self.inner.exec_sync(id, command, timeout).boxed()
    }

    fn exec<'a>(&'a self, id: &'a ContainerId, options: ExecOptions) -> BoxFuture<'a, Result<Streams>> {
        self.inner.exec(id, options).boxed()
    }

    fn attach<'a>(&'a self, id: &'a ContainerId, options: ExecOptions) -> BoxFuture<'a, Result<Streams>> {
        self.inner.attach(id, options).boxed()
    }

    fn resize<'a>(&'a self, id: &'a SandboxId, wanted: Resize) -> BoxFuture<'a, Result<(), ResizeError>> {
        self.inner.resize(id, wanted).boxed()
    }

    fn confine<'a>(
        &'a self,
        id: &'a ContainerId,
        cpus: Option<String>,
        nodes: Option<String>,
    ) -> BoxFuture<'a, Result<()>> {
        self.inner.confine(id, cpus, nodes).boxed()
    }

    fn stats(&self, id: &ContainerId) -> Result<ContainerStats> {
        let limit = self.container(id).and_then(|known| known.resources.memory_limit);
        Ok(stats::read(&self.inner.ask_stats(id)?, limit))
    }

    fn sandbox_stats(&self, id: &SandboxId) -> Result<ContainerStats> {
        let config = self.inner.sandbox_config(id)?;
        self.inner.groups.stats(&self.inner.group(&config))
    }

    fn disk_usage(&self, id: &ContainerId) -> Result<DiskUsage> {
        let log = self.container(id).and_then(|known| known.log_path);
        Ok(stats::disk(&self.inner.ask_stats(id)?, log.as_deref().map_or(0, log_size)))
    }

    fn cgroup_of(&self, id: &ContainerId) -> Option<String> {
        let known = self.inner.state.read();
        let sandbox = known.sandboxes.get(&known.containers.get(id)?.sandbox)?;
        Some(format!("{}/{id}", self.inner.group(&sandbox.config)))
    }

    fn cgroup_of_pod(&self, qos: &str, uid: &str) -> String {
        PodGroups::name(&self.inner.config.cgroup_parent, qos, uid)
    }

    fn events(&self) -> EventReceiver {
        EventReceiver::new(self.inner.events.subscribe())
    }

    fn image_status<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<Image>, ImageError>> {
        self.inner.image_status(reference).boxed()
    }

    fn list_images(&self) -> BoxFuture<'_, Vec<Image>> {
        self.inner.list_images().boxed()
    }

    fn pull_image<'a>(&'a self, reference: &'a str, auth: Option<Auth>) -> BoxFuture<'a, Result<Image, ImageError>> {
        self.inner.pull_image(reference, auth).boxed()
    }

    fn remove_image<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), ImageError>> {
        self.inner.remove_image(id).boxed()
    }
}
