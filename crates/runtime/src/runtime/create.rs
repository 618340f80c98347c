//! Makes sandboxes and containers: folders, files, groups, specifications.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use jiff::Timestamp;

use super::Runtime;
use super::adopt::blocking;
use super::mounts;
use super::records::{Container, ContainerRecord, Sandbox, SandboxRecord};
use crate::config::OWN_HANDLERS;
use crate::container::{ContainerConfig, MountPropagation};
use crate::disk::{self, Durability};
use crate::error::{Error, Result};
use crate::id::{ContainerId, SandboxId};
use crate::images::Image;
use crate::mapped;
use crate::protocol::{ContainerPlan, ImagePlan, ShimConfig};
use crate::sandbox::{SandboxConfig, SandboxState};
use crate::spec::{self, Surroundings};
use crate::users::{self, Wanted};

/// Every pod may bind low ports and ping, as with containerd.
const DEFAULT_SYSCTLS: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

impl Runtime {
    pub(super) async fn make_sandbox(self: &Arc<Self>, config: SandboxConfig) -> Result<SandboxId> {
        if config.uid.is_empty() || config.uid.contains('/') || config.uid.starts_with('.') {
            return Err(Error::Invalid(format!("{:?} is not a pod uid", config.uid)));
        }
        if !config.host_network && config.network_namespace.is_none() {
            return Err(Error::Invalid("a sandbox needs a network namespace or the host's network".to_owned()));
        }
        if config.users.is_some() && (config.host_network || config.host_pid || config.host_ipc) {
            return Err(Error::Invalid("a sandbox with users of its own shares no namespace with the host".to_owned()));
        }
        self.handler(&config.runtime_handler)?;
        let id = SandboxId::random();
        let record = SandboxRecord {
            id: id.clone(),
            config,
            created_at: Timestamp::now(),
            boot: self.boot.clone(),
            stopped: false,
        };
        let (runtime, prepared) = (self.clone(), record.clone());
        let started = blocking(move || runtime.start_shim(&prepared)).await;
        let sandbox = Sandbox { record, state: SandboxState::Ready, shim_pid: None, pause_pid: None };
        self.state.write().sandboxes.insert(id.clone(), sandbox);
        let result = match started {
            Ok(()) => self.watch_shim(&id).await,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            if let Err(second) = self.remove_pod_sandbox(&id).await {
                tracing::warn!(sandbox = %id, error = %second, "what is left of a failed sandbox cannot be removed");
            }
            return Err(error);
        }
        Ok(id)
    }

    /// The program of a handler; `None` for the linked-in runtime. The error's words are containerd's.
    fn handler(&self, name: &str) -> Result<Option<PathBuf>> {
        if OWN_HANDLERS.contains(&name) {
            return Ok(None);
        }
        let found = self.config.handlers.get(name).cloned();
        let missing = || {
            let known: Vec<&str> =
                OWN_HANDLERS[1..].iter().copied().chain(self.config.handlers.keys().map(String::as_str)).collect();
            Error::Invalid(format!("no runtime for {name:?} is configured; there are {}", known.join(", ")))
        };
        found.map(Some).ok_or_else(missing)
    }

    fn start_shim(&self, record: &SandboxRecord) -> Result<()> {
        let config = &record.config;
        let folder = self.sandbox_folder(&record.id);
        let write = |path: PathBuf, text: &str| std::fs::write(&path, text).map_err(Error::io("write", &path));
        std::fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        // The record comes first: whatever else appears can then be found and taken away.
        let path = folder.join("sandbox.json");
        disk::write_json(&path, record, Durability::Relaxed).map_err(Error::io("write", &path))?;
        self.cgroups.create(&self.pod_group(config), &config.resources)?;
        write(folder.join("hostname"), &format!("{}\n", hostname(config)))?;
        let resolv_conf = match &config.resolv_conf {
            Some(text) => text.clone(),
            None => std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
        };
        write(folder.join("resolv.conf"), &resolv_conf)?;
        if let Some(hosts) = &config.hosts {
            write(folder.join("hosts"), hosts)?;
        }
        if !config.host_ipc {
            let shm = folder.join("shm");
            std::fs::create_dir_all(&shm).map_err(Error::io("create", &shm))?;
            mounts::mount_shm(&shm)?;
        }
        let mut sysctls: Vec<(String, String)> = Vec::new();
        if !config.host_network {
            let defaults = DEFAULT_SYSCTLS.iter().filter(|(name, _)| !config.sysctls.contains_key(*name));
            sysctls.extend(defaults.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        }
        sysctls.extend(config.sysctls.clone());
        let shim = ShimConfig {
            sandbox: record.id.to_string(),
            socket: self.socket(&record.id),
            hostname: (!config.host_network).then(|| hostname(config)),
            network_namespace: config.network_namespace.clone().filter(|_| !config.host_network),
            ipc: !config.host_ipc,
            shared_pid: config.share_process_namespace && !config.host_pid,
            own_users: config.users.is_some(),
            sysctls,
            cgroups: self.cgroups.clone(),
            own_group: format!("{}/shims", self.config.cgroup_parent),
        };
        let path = folder.join("shim.json");
        disk::write_json(&path, &shim, Durability::Relaxed).map_err(Error::io("write", &path))?;
        let output = Command::new(&self.config.executable)
            .args(&self.config.shim_args)
            .arg(&folder)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .map_err(Error::io("start", &self.config.executable))?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::ShimStart(if message.is_empty() { output.status.to_string() } else { message }));
        }
        Ok(())
    }

    pub(super) async fn make_container(
        self: &Arc<Self>,
        sandbox: &SandboxId,
        config: ContainerConfig,
    ) -> Result<ContainerId> {
        let sandbox = self
            .state
            .read()
            .sandboxes
            .get(sandbox)
            .cloned()
            .ok_or_else(|| Error::SandboxNotFound(sandbox.to_string()))?;
        if sandbox.state != SandboxState::Ready {
            return Err(Error::SandboxNotReady(sandbox.record.id.to_string()));
        }
        let id = ContainerId::random();
        let (runtime, name) = (self.clone(), id.clone());
        blocking(move || {
            let result = runtime.prepare_container(&sandbox, &name, config);
            if result.is_err() {
                let folder = runtime.container_folder(&name);
                runtime.cgroups.remove(&format!("{}/{name}", runtime.pod_group(&sandbox.record.config)))?;
                disk::remove(&folder).map_err(Error::io("remove", &folder))?;
            }
            result
        })
        .await?;
        Ok(id)
    }

    fn prepare_container(&self, sandbox: &Sandbox, id: &ContainerId, config: ContainerConfig) -> Result<()> {
        let lowers = self.images.lowers(&config.image)?;
        let layers: Vec<PathBuf> = lowers.names.iter().map(|name| self.images.snapshot_folder().join(name)).collect();
        let identity = identity(&config, &lowers.image, &layers)?;
        let folder = self.container_folder(id);
        let group = format!("{}/{id}", self.pod_group(&sandbox.record.config));
        for part in ["upper", "work", "root", "empty", "oci"] {
            let path = folder.join(part);
            std::fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
        }
        let log = config.log_path.as_ref().map(|path| sandbox.record.config.log_dir.join(path));
        if let Some(log) = &log {
            // The log must be there before anything can be written to it: readers look for it at once.
            crate::log::Log::open(log).map_err(Error::io("create", log))?;
        }
        let images = self.image_plans(&config, &folder)?;
        let mut held = lowers.names.clone();
        held.extend(images.iter().flat_map(|image| image.lowers.clone()));
        let pod = &sandbox.record.config;
        let around = Surroundings {
            namespaces: self.namespaces(sandbox, config.process_target.as_ref())?,
            shared: self.shared_files(sandbox),
            hostname: hostname(pod),
            group: &group,
            cgroups: &self.cgroups,
            available: self.capabilities,
            root: folder.join("root"),
            apparmor: self.apparmor,
            images: images.iter().map(ImagePlan::source).collect(),
        };
        let mut specification =
            spec::build(&config, &lowers.image.config, &identity, &around).map_err(Error::Invalid)?;
        let mapped = match &pod.users {
            Some(users) => {
                let needed = [&*self.config.data_dir, &*self.config.state_dir];
                let plan = mapped::apply(&mut specification, users, &needed, &around.images).map_err(Error::Invalid)?;
                let upper = folder.join("upper");
                std::os::unix::fs::chown(&upper, Some(users.start), Some(users.start))
                    .map_err(Error::io("give away", &upper))?;
                Some(plan)
            }
            None => None,
        };
        for mount in &config.mounts {
            // libcontainer would say it too, but only at the start and in its own words.
            std::fs::metadata(&mount.host_path).map_err(Error::io("mount", &mount.host_path))?;
        }
        self.cgroups.create(&group, &config.resources)?;
        let plan = ContainerPlan {
            id: id.to_string(),
            log: log.clone(),
            tty: config.tty,
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            snapshots: self.images.snapshot_folder().to_path_buf(),
            lowers: lowers.names.clone(),
            user: pod.users.as_ref().map_or(0, |users| users.start).saturating_add(identity.uid),
            group: group.clone(),
            oom_score_adj: config.resources.oom_score_adj,
            runtime: self.handler(&pod.runtime_handler)?,
            images,
            mapped,
            mounts_out: config.mounts.iter().any(|mount| mount.propagation == MountPropagation::Bidirectional),
        };
        let image_ref = lowers.image.digests.first().cloned().unwrap_or_else(|| lowers.image.id.clone());
        let record = ContainerRecord {
            id: id.clone(),
            sandbox: sandbox.record.id.clone(),
            pod_uid: pod.uid.clone(),
            stop_signal: config.stop_signal.clone().or_else(|| lowers.image.config.stop_signal.clone()),
            config,
            created_at: Timestamp::now(),
            started_at: None,
            image_id: lowers.image.id.clone(),
            image_ref,
            user: (identity.uid, identity.gid, identity.groups),
            group,
            lowers: held,
            log,
        };
        let write = |name: &str, value: &serde_json::Value| {
            let path = folder.join(name);
            disk::write_json(&path, value, Durability::Relaxed).map_err(Error::io("write", &path))
        };
        write("config.json", &specification)?;
        let value = |value: serde_json::Result<serde_json::Value>| {
            value.map_err(|source| Error::Damaged { path: folder.clone(), source })
        };
        write("shim.json", &value(serde_json::to_value(&plan))?)?;
        write("container.json", &value(serde_json::to_value(&record))?)?;
        self.images.hold(&record.lowers);
        self.state.write().containers.insert(id.clone(), Container::new(record, None));
        Ok(())
    }

    /// What the shim is to mount for image volumes, with the folders for it.
    fn image_plans(&self, config: &ContainerConfig, folder: &Path) -> Result<Vec<ImagePlan>> {
        let mut plans = Vec::new();
        for (index, mount) in config.image_mounts.iter().enumerate() {
            let lowers = self.images.lowers(&mount.image)?.names;
            let place = folder.join("images").join(index.to_string());
            let root = place.join("root");
            std::fs::create_dir_all(&root).map_err(Error::io("create", &root))?;
            plans.push(ImagePlan { lowers, place, sub_path: mount.sub_path.clone() });
        }
        Ok(plans)
    }

    fn namespaces(
        &self,
        sandbox: &Sandbox,
        target: Option<&ContainerId>,
    ) -> Result<Vec<(&'static str, Option<PathBuf>)>> {
        let config = &sandbox.record.config;
        let shim = sandbox.shim_pid.ok_or_else(|| Error::SandboxNotReady(sandbox.record.id.to_string()))?;
        let of = |pid: i32, kind: &str| Some(PathBuf::from(format!("/proc/{pid}/ns/{kind}")));
        let mut namespaces = vec![("mount", None)];
        // Who has entered the pod's users can no longer look into the shim, but into the process that holds them.
        let shim = match (&config.users, sandbox.pause_pid) {
            (None, _) => shim,
            (Some(_), Some(holder)) => {
                namespaces.push(("user", of(holder, "user")));
                holder
            }
            (Some(_), None) => return Err(Error::SandboxNotReady(sandbox.record.id.to_string())),
        };
        if !config.host_network {
            namespaces.push(("network", of(shim, "net")));
            namespaces.push(("uts", of(shim, "uts")));
        }
        if !config.host_ipc {
            namespaces.push(("ipc", of(shim, "ipc")));
        }
        if !config.host_pid {
            let shared = match (sandbox.pause_pid.filter(|_| config.share_process_namespace), target) {
                (Some(pause), _) => Some(pause),
                (None, None) => None,
                (None, Some(target)) => {
                    let wrong =
                        || Error::WrongState { id: target.to_string(), state: "not running", wanted: "running" };
                    Some(self.find(target)?.pid.ok_or_else(wrong)?)
                }
            };
            namespaces.push(("pid", shared.and_then(|pid| of(pid, "pid"))));
        }
        if self.cgroups.unified() {
            namespaces.push(("cgroup", None));
        }
        Ok(namespaces)
    }

    fn shared_files(&self, sandbox: &Sandbox) -> Vec<(PathBuf, &'static str)> {
        let folder = self.sandbox_folder(&sandbox.record.id);
        let config = &sandbox.record.config;
        let shm = if config.host_ipc { PathBuf::from("/dev/shm") } else { folder.join("shm") };
        let mut shared = vec![
            (shm, "/dev/shm"),
            (folder.join("hostname"), "/etc/hostname"),
            (folder.join("resolv.conf"), "/etc/resolv.conf"),
        ];
        if config.hosts.is_some() {
            shared.push((folder.join("hosts"), "/etc/hosts"));
        }
        shared
    }
}

fn hostname(config: &SandboxConfig) -> String {
    if config.host_network || config.hostname.is_empty() {
        let own = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
        own.unwrap_or_else(|_| "localhost".to_owned())
    } else {
        config.hostname.clone()
    }
}

fn identity(config: &ContainerConfig, image: &Image, layers: &[PathBuf]) -> Result<users::Identity> {
    let security = &config.security;
    let number = security.run_as_user.map(|user| user.to_string());
    let user = number.as_deref().or(security.run_as_username.as_deref()).unwrap_or(&image.config.user);
    let read = |path: &str| {
        users::read_file(layers, path)
            .map(Option::unwrap_or_default)
            .map_err(Error::io("read the image's", Path::new(path)))
    };
    let wanted = Wanted { user, group: security.run_as_group, strict_groups: security.supplemental_groups_strict };
    users::resolve(&wanted, &read("etc/passwd")?, &read("etc/group")?).map_err(Error::Invalid)
}
