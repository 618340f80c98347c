//! Takes over what runs when the data folder is opened, and ends what has lost its shim.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::broadcast;

use super::records::{Container, ContainerRecord, Sandbox, SandboxRecord, boot_id, unknown_exit};
use super::{Runtime, State};
use crate::cgroup::Cgroups;
use crate::config::Config;
use crate::disk::{self, Durability};
use crate::error::{Error, Result};
use crate::events::EVENT_BACKLOG;
use crate::id::{ContainerId, SandboxId};
use crate::images::Images;
use crate::protocol::{Exit, Message, Request};
use crate::sandbox::SandboxState;
use crate::shim_client::ShimConnection;

pub(super) async fn open(config: Config) -> Result<Arc<Runtime>> {
    for folder in [config.data_dir.join("sandboxes"), config.data_dir.join("containers"), config.state_dir.join("shim")]
    {
        std::fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    }
    // Shims start elsewhere and mount options have no way to say `,` or `:`.
    let mut config = config;
    config.data_dir = config.data_dir.canonicalize().map_err(Error::io("resolve", &config.data_dir))?;
    config.state_dir = config.state_dir.canonicalize().map_err(Error::io("resolve", &config.state_dir))?;
    if config.data_dir.to_string_lossy().contains([',', ':', '\\']) {
        return Err(Error::Invalid(format!(
            "the data folder's path {} must not have , : or \\ in it",
            config.data_dir.display()
        )));
    }
    super::mounts::keep_private(&config.data_dir.join("containers"))?;
    let images = {
        let config = config.clone();
        blocking(move || Ok(Images::open(&config)?)).await?
    };
    let boot = boot_id().map_err(Error::io("read", "/proc/sys/kernel/random/boot_id"))?;
    let runtime = Arc::new(Runtime {
        cgroups: Cgroups::detect()?,
        images: Arc::new(images),
        capabilities: own_capabilities(),
        apparmor: std::fs::read_to_string("/sys/module/apparmor/parameters/enabled")
            .is_ok_and(|text| text.starts_with('Y')),
        boot,
        state: parking_lot::RwLock::new(State::default()),
        events: broadcast::Sender::new(EVENT_BACKLOG),
        oom_score_said: std::sync::Once::new(),
        config,
    });
    runtime.adopt().await?;
    runtime.images.collect_garbage();
    Ok(runtime)
}

/// Whether there is a pod of this boot that was not stopped.
pub(super) fn has_running_pods(config: &Config) -> Result<bool> {
    let folder = config.data_dir.join("sandboxes");
    if !folder.exists() {
        return Ok(false);
    }
    let boot = boot_id().map_err(Error::io("read", "/proc/sys/kernel/random/boot_id"))?;
    for name in disk::names(&folder).map_err(Error::io("read", &folder))? {
        let record = disk::read_json::<SandboxRecord>(&folder.join(name).join("sandbox.json"));
        if matches!(record, Ok(Some(record)) if !record.stopped && record.boot == boot) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Runs something that blocks beside the async threads.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Invalid(format!("the work was given up: {error}"))),
    }
}

/// What this process may do, as bits.
fn own_capabilities() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0)
    };
    set("CapPrm:") & set("CapBnd:")
}

impl Runtime {
    async fn adopt(self: &Arc<Self>) -> Result<()> {
        let folder = self.config.data_dir.join("sandboxes");
        for name in disk::names(&folder).map_err(Error::io("read", &folder))? {
            let place = folder.join(&name);
            match disk::read_json::<SandboxRecord>(&place.join("sandbox.json")) {
                Ok(Some(record)) => self.adopt_sandbox(record).await,
                found => {
                    tracing::warn!(sandbox = name, error = ?found.err(), "a sandbox has no readable record and is taken away");
                    super::mounts::unmount_below(&place)?;
                    disk::remove(&place).map_err(Error::io("remove", &place))?;
                }
            }
        }
        let folder = self.config.data_dir.join("containers");
        for name in disk::names(&folder).map_err(Error::io("read", &folder))? {
            let place = folder.join(&name);
            let record = disk::read_json::<ContainerRecord>(&place.join("container.json"));
            match record {
                Ok(Some(record)) if self.state.read().sandboxes.contains_key(&record.sandbox) => {
                    self.adopt_container(record, &place)?
                }
                found => {
                    tracing::warn!(container = name, error = ?found.err(), "a container has no readable record or sandbox and is taken away");
                    disk::remove(&place).map_err(Error::io("remove", &place))?;
                }
            }
        }
        // Every container is known now: from here on the shims may tell what happens.
        let adopted: Vec<SandboxId> = self
            .state
            .read()
            .sandboxes
            .values()
            .filter(|sandbox| sandbox.state == SandboxState::Ready)
            .map(|sandbox| sandbox.record.id.clone())
            .collect();
        for id in adopted {
            if let Err(error) = self.watch_shim(&id).await {
                tracing::warn!(sandbox = %id, %error, "a shim has gone");
                self.lost(&id);
            }
        }
        let lost: Vec<SandboxId> = self
            .state
            .read()
            .sandboxes
            .values()
            .filter(|sandbox| sandbox.state == SandboxState::NotReady)
            .map(|sandbox| sandbox.record.id.clone())
            .collect();
        for id in lost {
            self.end_leftovers(&id).await?;
        }
        Ok(())
    }

    async fn adopt_sandbox(self: &Arc<Self>, record: SandboxRecord) {
        let alive =
            !record.stopped && record.boot == self.boot && ShimConnection::connect(&self.socket(&record.id)).is_ok();
        let state = if alive { SandboxState::Ready } else { SandboxState::NotReady };
        let id = record.id.clone();
        self.state.write().sandboxes.insert(id, Sandbox { record, state, shim_pid: None, pause_pid: None });
    }

    fn adopt_container(&self, record: ContainerRecord, place: &Path) -> Result<()> {
        let exit = match disk::read_json::<Exit>(&place.join("exit.json")) {
            Ok(exit) => exit,
            Err(error) => {
                tracing::warn!(container = %record.id, %error, "the record of a container's end is damaged");
                Some(unknown_exit())
            }
        };
        self.images.hold(&record.lowers);
        self.state.write().containers.insert(record.id.clone(), Container::new(record, exit));
        Ok(())
    }

    /// Listens to a shim, and brings what it says about its containers into the records.
    pub(super) async fn watch_shim(self: &Arc<Self>, id: &SandboxId) -> Result<()> {
        let gone = |source| Error::ShimGone { sandbox: id.to_string(), source };
        let connection = ShimConnection::connect(&self.socket(id)).map_err(gone)?;
        connection.send(&Request::Subscribe, &[]).await.map_err(gone)?;
        let (message, _) = connection.receive().await.map_err(gone)?;
        let Message::State { shim_pid, pause_pid, containers } = message else {
            return Err(Error::Shim(format!("the shim of sandbox {id} gave an unexpected answer")));
        };
        {
            let mut state = self.state.write();
            if let Some(sandbox) = state.sandboxes.get_mut(id) {
                sandbox.shim_pid = Some(shim_pid);
                sandbox.pause_pid = pause_pid;
            }
            for (name, pid, exit) in &containers {
                if let Some(container) = state.containers.get_mut(&ContainerId::from(name.as_str())) {
                    container.pid = *pid;
                    container.record.started_at.get_or_insert(container.record.created_at);
                    if exit.is_some() && container.exit.borrow().is_none() {
                        container.exit.send_replace(exit.clone());
                    }
                }
            }
            // Started, but the shim does not know it: its start was cut short.
            for container in state.containers.values_mut().filter(|container| container.record.sandbox == *id) {
                let known = containers.iter().any(|(name, _, _)| name == container.record.id.as_str());
                if !known && container.record.started_at.is_some() && container.exit.borrow().is_none() {
                    container.exit.send_replace(Some(unknown_exit()));
                }
            }
        }
        let (runtime, id) = (Arc::downgrade(self), id.clone());
        tokio::spawn(async move {
            loop {
                let message = connection.receive().await;
                let Some(runtime) = runtime.upgrade() else { return };
                match message {
                    Ok((Message::Exited { id: container, exit }, _)) => runtime.exited(&container.into(), exit),
                    Ok((Message::Oom { id: container }, _)) => runtime.out_of_memory(&container.into()),
                    Ok(_) => {}
                    Err(_) => {
                        runtime.lost(&id);
                        return;
                    }
                }
            }
        });
        Ok(())
    }

    /// Ends what a sandbox without a shim may have left: processes whose shim was killed, mounts, groups.
    async fn end_leftovers(self: &Arc<Self>, id: &SandboxId) -> Result<()> {
        let containers: Vec<Container> = self
            .state
            .read()
            .containers
            .values()
            .filter(|container| container.record.sandbox == *id)
            .cloned()
            .collect();
        let groups: Vec<String> = containers.iter().map(|container| container.record.group.clone()).collect();
        let (cgroups, place) = (self.cgroups.clone(), self.sandbox_folder(id));
        blocking(move || {
            for group in groups {
                cgroups.remove(&group)?;
            }
            super::mounts::unmount_below(&place)
        })
        .await?;
        for container in containers {
            if container.exit.borrow().is_none() {
                let exit = unknown_exit();
                let path = self.container_folder(&container.record.id).join("exit.json");
                disk::write_json(&path, &exit, Durability::Relaxed).map_err(Error::io("write", &path))?;
                container.exit.send_replace(Some(exit));
            }
        }
        Ok(())
    }
}
