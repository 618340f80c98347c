//! Starting a container: image, environment, mounts, create, start, `postStart`. Each failure has upstream's reason and events.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use tokio_util::sync::CancellationToken;

use kobune_runtime::{
    ContainerConfig, ContainerId, ContainerState, ContainerStatus, Device, Image, ImageError, Mount, Reference,
    SandboxId,
};

use crate::app_armor;
use crate::backoff::go_duration;
use crate::context::Context;
use crate::env::environment;
use crate::errors::chain;
use crate::events::Severity;
use crate::image::{PullPolicy, credentials, is_local};
use crate::plan::{IMAGE_ANNOTATION, ROUND_ANNOTATION};
use crate::pod::{self, Member};
use crate::probes::Target;
use crate::references::{Held, Lookup};
use crate::resources::container_resources;
use crate::security::security_context;
use crate::{dra, hooks, volumes};

/// Why a container did not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartFailure {
    /// As `state.waiting.reason` shows it.
    pub reason: &'static str,
    /// As `state.waiting.message` shows it.
    pub message: String,
    /// The image could not be had; more tries wait longer and longer.
    pub pull: bool,
}

/// What a start needs.
pub struct Starter {
    pub context: Arc<Context>,
    pub pod: Arc<Pod>,
    pub sandbox: SandboxId,
    pub pod_ips: Vec<String>,
    pub held: Held,
    /// Cancelled when the pod is to end: whatever is not created by then is not started.
    pub token: CancellationToken,
}

fn failure(reason: &'static str, message: impl Into<String>) -> StartFailure {
    StartFailure { reason, message: message.into(), pull: false }
}

/// Where a container's termination message is on the host.
pub fn termination_file(pod_dir: &Path, container: &str, attempt: u32) -> PathBuf {
    pod_dir.join("containers").join(container).join(format!("{attempt}.termination"))
}

impl Starter {
    fn event(&self, member: &Member, severity: Severity, reason: &str, message: impl Into<String>) {
        self.context.events.container(&self.pod, member.role, &member.container.name, severity, reason, message);
    }

    /// Gets the image, makes the container and starts it.
    pub async fn start(&self, member: &Member, attempt: u32, round: u32) -> Result<ContainerId, StartFailure> {
        let given_up = || failure("ContainerCreating", "the pod is to end");
        // Dropping a pull leaves whole layers only; they are of use to the next one.
        let (image, volumes) = tokio::select! {
            images = self.images(member) => images?,
            () = self.token.cancelled() => return Err(given_up()),
        };
        if self.token.is_cancelled() {
            return Err(given_up());
        }
        let mut config = self.config(member, attempt, &image, &volumes).await.inspect_err(|failure| {
            self.event(member, Severity::Warning, "Failed", format!("Error: {}", failure.message));
        })?;
        let pod_dir = self.context.pod_dir(pod::uid(&self.pod));
        let (cdi_dirs, name) = (&self.context.config.cdi_dirs, &member.container.name);
        let wrong = |message: String| {
            self.event(member, Severity::Warning, "Failed", format!("Error: {message}"));
            failure("CreateContainerConfigError", message)
        };
        self.context.devices.give(&self.pod, &pod_dir, cdi_dirs, name, &mut config).await.map_err(wrong)?;
        dra::give(&self.pod, &pod_dir, cdi_dirs, name, &mut config).await.map_err(wrong)?;
        if round > 0 {
            config.annotations.insert(ROUND_ANNOTATION.to_owned(), round.to_string());
        }
        let runtime = &self.context.config.runtime;
        let id = runtime.create_container(&self.sandbox, config).await.map_err(|error| {
            let message = chain(&error);
            self.event(member, Severity::Warning, "Failed", format!("Error: {message}"));
            failure("CreateContainerError", message)
        })?;
        self.event(member, Severity::Normal, "Created", format!("Created container: {}", member.container.name));
        // Somebody may have come or gone since its limits were made.
        self.context.placement.settle(&**runtime, &id).await;
        runtime.start_container(&id).await.map_err(|error| {
            let message = chain(&error);
            self.event(member, Severity::Warning, "Failed", format!("Error: {message}"));
            failure("RunContainerError", message)
        })?;
        self.event(member, Severity::Normal, "Started", format!("Started container {}", member.container.name));
        Ok(id)
    }

    /// Runs `postStart`; a failure stops the container.
    pub async fn post_start(&self, member: &Member, id: &ContainerId) -> Result<(), StartFailure> {
        let Some(handler) = member.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref())
        else {
            return Ok(());
        };
        let target = self.target(member, id);
        let result = tokio::select! {
            result = hooks::run(&target, handler) => result,
            // The container is stopped together with all others.
            () = self.token.cancelled() => return Ok(()),
        };
        let Err(message) = result else { return Ok(()) };
        self.event(member, Severity::Warning, "FailedPostStartHook", format!("PostStartHook failed: {message}"));
        let name = &member.container.name;
        self.event(
            member,
            Severity::Normal,
            "Killing",
            format!("FailedPostStartHook: container {name} will be killed"),
        );
        let grace = pod::spec(&self.pod).termination_grace_period_seconds.unwrap_or(30).max(0).unsigned_abs();
        let grace = Duration::from_secs(grace);
        if let Err(error) = self.context.config.runtime.stop_container(id, grace).await {
            tracing::warn!(container = %id, error = &error as &dyn std::error::Error, "a container whose postStart failed was not stopped");
        }
        Err(failure("PostStartHookError", message))
    }

    /// What probes and hooks look at.
    pub fn target(&self, member: &Member, id: &ContainerId) -> Target {
        Target {
            runtime: Arc::clone(&self.context.config.runtime),
            tls: Arc::clone(&self.context.probe_tls),
            pod: Arc::clone(&self.pod),
            container: Arc::new(member.container.clone()),
            id: id.clone(),
            ip: self.pod_ips.first().and_then(|ip| ip.parse().ok()),
        }
    }

    /// The container's image, and those of the image volumes that it mounts, each with its mount.
    async fn images(&self, member: &Member) -> Result<(Image, Vec<(VolumeMount, Image)>), StartFailure> {
        let container = &member.container;
        let wanted = container.image.clone().unwrap_or_default();
        let image = self.image(member, &wanted, PullPolicy::of(container)).await?;
        let mut volumes = Vec::new();
        for (mount, source) in volumes::images::wanted(&self.pod, container) {
            let wanted = source.reference.clone().unwrap_or_default();
            let policy = PullPolicy::parse(source.pull_policy.as_deref(), &wanted);
            volumes.push((mount.clone(), self.image(member, &wanted, policy).await?));
        }
        Ok((image, volumes))
    }

    async fn image(&self, member: &Member, wanted: &str, policy: PullPolicy) -> Result<Image, StartFailure> {
        if let Err(error) = Reference::parse(wanted) {
            let message = format!(
                "Failed to apply default image tag \"{wanted}\": couldn't parse image name \"{wanted}\": {}",
                error.reason
            );
            self.event(member, Severity::Warning, "InspectFailed", message.clone());
            self.event(member, Severity::Warning, "Failed", "Error: InvalidImageName");
            return Err(failure("InvalidImageName", message));
        }
        // No tag means "always ask the registry" to the API; these have none.
        let policy = match policy {
            PullPolicy::Always if is_local(wanted) => PullPolicy::IfNotPresent,
            policy => policy,
        };
        let present = self.context.config.runtime.image_status(wanted).await.map_err(|error| {
            let message = format!("Failed to inspect image \"{wanted}\": {}", chain(&error));
            self.event(member, Severity::Warning, "InspectFailed", message.clone());
            self.event(member, Severity::Warning, "Failed", "Error: ImageInspectError");
            failure("ImageInspectError", message)
        })?;
        match (policy, present) {
            (PullPolicy::IfNotPresent | PullPolicy::Never, Some(image)) => {
                self.event(
                    member,
                    Severity::Normal,
                    "Pulled",
                    format!("Container image \"{wanted}\" already present on machine"),
                );
                Ok(image)
            }
            (PullPolicy::Never, None) => {
                let message = format!("Container image \"{wanted}\" is not present with pull policy of Never");
                self.event(member, Severity::Warning, "ErrImageNeverPull", message.clone());
                self.event(member, Severity::Warning, "Failed", "Error: ErrImageNeverPull");
                Err(failure("ErrImageNeverPull", message))
            }
            (PullPolicy::Always | PullPolicy::IfNotPresent, _) => self.pull(member, wanted).await,
        }
    }

    async fn pull(&self, member: &Member, wanted: &str) -> Result<Image, StartFailure> {
        self.event(member, Severity::Normal, "Pulling", format!("Pulling image \"{wanted}\""));
        let namespace = pod::namespace(&self.pod);
        let secrets: Vec<_> = pod::spec(&self.pod)
            .image_pull_secrets
            .iter()
            .flatten()
            // A pull secret that does not exist is not an error: the image may be public.
            .filter_map(|reference| self.held.secret(namespace, &reference.name).ok().flatten())
            .collect();
        let mut tries: Vec<Option<_>> = credentials(wanted, &secrets).into_iter().map(Some).collect();
        tries.extend(self.context.config.credential_providers.credentials(wanted).await.into_iter().map(Some));
        if tries.is_empty() {
            tries.push(None);
        }
        let begun = Instant::now();
        let runtime = &self.context.config.runtime;
        let mut last: Option<ImageError> = None;
        for auth in tries {
            match runtime.pull_image(wanted, auth).await {
                Ok(image) => {
                    let took = go_duration(begun.elapsed());
                    let message = format!(
                        "Successfully pulled image \"{wanted}\" in {took} ({took} including waiting). Image size: {} bytes.",
                        image.size
                    );
                    self.event(member, Severity::Normal, "Pulled", message);
                    return Ok(image);
                }
                Err(error) => last = Some(error),
            }
        }
        let cause = last.map(|error| chain(&error)).unwrap_or_default();
        self.event(member, Severity::Warning, "Failed", format!("Failed to pull image \"{wanted}\": {cause}"));
        self.event(member, Severity::Warning, "Failed", "Error: ErrImagePull");
        Err(StartFailure { reason: "ErrImagePull", message: cause, pull: true })
    }

    async fn config(
        &self,
        member: &Member,
        attempt: u32,
        image: &Image,
        image_volumes: &[(VolumeMount, Image)],
    ) -> Result<ContainerConfig, StartFailure> {
        let container = &member.container;
        let bad = |message: String| failure("CreateContainerConfigError", message);
        let around = self.context.surroundings(&self.pod, &self.pod_ips);
        let (env, skipped) =
            environment(&self.pod, container, &around, &self.held).map_err(|error| bad(error.to_string()))?;
        if !skipped.is_empty() {
            let message = format!(
                "Keys [{}] from the EnvFrom sources were skipped since they are considered invalid environment variable names.",
                skipped.join(", ")
            );
            self.event(member, Severity::Warning, "InvalidEnvironmentVariableNames", message);
        }
        let seccomp_root = self.context.config.node_dir().join("seccomp");
        let mut security = security_context(&self.pod, container, &image.config.user, &seccomp_root)
            .map_err(|error| bad(error.to_string()))?;
        let profile = app_armor::Host::look().profile(&app_armor::Wanted::by(&self.pod, container));
        security.apparmor = profile.map_err(|why| bad(format!("Cannot enforce AppArmor: {why}")))?;
        let uid = pod::uid(&self.pod);
        let pod_dir = self.context.pod_dir(uid);
        let (owner, wanted, for_mounts, blocking_dir) =
            (Arc::clone(&self.pod), container.clone(), env.clone(), pod_dir.clone());
        let mounts = tokio::task::spawn_blocking(move || {
            let mut mounts =
                volumes::mounts(&blocking_dir, &owner, &wanted, &for_mounts).map_err(|error| error.to_string())?;
            mounts.extend(
                termination_mount(&blocking_dir, &wanted, attempt, &mounts).map_err(|error| error.to_string())?,
            );
            let devices = volumes::devices(&blocking_dir, &owner, &wanted).map_err(|error| error.to_string())?;
            Ok::<(Vec<Mount>, Vec<Device>), String>((mounts, devices))
        });
        let (mounts, devices) = mounts.await.map_err(|error| bad(error.to_string()))?.map_err(bad)?;
        let image_mounts: Result<Vec<_>, _> =
            image_volumes.iter().map(|(mount, image)| volumes::images::mount(mount, image, &env)).collect();
        let image_mounts = image_mounts.map_err(|error| bad(error.to_string()))?;
        let lookup = |name: &str| env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        let words = |list: &Option<Vec<String>>| -> Option<Vec<String>> {
            let list = list.as_ref().filter(|list| !list.is_empty())?;
            Some(list.iter().map(|word| crate::env::expand(word, lookup)).collect())
        };
        let mut resources = container_resources(&self.pod, container, self.context.machine.memory);
        self.context.placement.confine(uid, &container.name, &mut resources);
        let mut annotations = BTreeMap::new();
        annotations.insert(IMAGE_ANNOTATION.to_owned(), container.image.clone().unwrap_or_default());
        let log = self.context.log_dir(&self.pod).join(&container.name);
        fs::create_dir_all(&log)
            .map_err(|error| failure("CreateContainerError", format!("failed to make the log folder: {error}")))?;
        Ok(ContainerConfig {
            name: container.name.clone(),
            attempt,
            image: image.id.clone(),
            command: words(&container.command),
            args: words(&container.args),
            working_dir: container.working_dir.clone().filter(|folder| !folder.is_empty()),
            mounts,
            image_mounts,
            hooks: Vec::new(),
            devices,
            labels: [
                ("io.kubernetes.container.name", container.name.clone()),
                ("io.kubernetes.pod.name", pod::name(&self.pod).to_owned()),
                ("io.kubernetes.pod.namespace", pod::namespace(&self.pod).to_owned()),
                ("io.kubernetes.pod.uid", uid.to_owned()),
            ]
            .map(|(key, value)| (key.to_owned(), value))
            .into(),
            annotations,
            log_path: Some(log.join(format!("{attempt}.log"))),
            tty: container.tty.unwrap_or(false),
            stdin: container.stdin.unwrap_or(false),
            stdin_once: container.stdin_once.unwrap_or(false),
            resources,
            security,
            stop_signal: container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone()),
            process_target: self.process_target(&container.name)?,
            env,
        })
    }
}

impl Starter {
    /// The running container whose processes one for debugging wants to see (`targetContainerName`).
    fn process_target(&self, name: &str) -> Result<Option<ContainerId>, StartFailure> {
        let ephemeral = pod::spec(&self.pod).ephemeral_containers.iter().flatten();
        let target = ephemeral
            .filter(|container| container.name == name)
            .find_map(|container| container.target_container_name.as_deref())
            .filter(|target| !target.is_empty());
        let Some(target) = target else { return Ok(None) };
        let own = |container: &ContainerStatus| {
            container.sandbox == self.sandbox && container.name == target && container.state == ContainerState::Running
        };
        let found = self.context.config.runtime.containers().into_iter().find(own);
        // Upstream's text.
        let missing = || {
            let message = format!("unable to find target container \"{target}\"");
            failure("CreateContainerError", message)
        };
        found.map(|container| Some(container.id)).ok_or_else(missing)
    }
}

/// The mount for the termination message, unless the container mounts something there itself.
fn termination_mount(
    pod_dir: &Path,
    container: &Container,
    attempt: u32,
    mounts: &[Mount],
) -> std::io::Result<Option<Mount>> {
    let path =
        container.termination_message_path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/dev/termination-log");
    if mounts.iter().any(|mount| mount.container_path == Path::new(path)) {
        return Ok(None);
    }
    let file = termination_file(pod_dir, &container.name, attempt);
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&file, "")?;
    // Any user of the container may write it, whatever the umask of this process.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666))?;
    Ok(Some(Mount { host_path: file, container_path: path.into(), ..Mount::default() }))
}
