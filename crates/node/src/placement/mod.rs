//! Which CPUs a container runs on, and which nodes its memory comes from.
//!
//! ```text
//!  pod comes ─▶ its containers get CPUs, memory, devices (or the pod is rejected) ─▶ container starts on them
//!                     └─▶ the shared CPUs shrink ─▶ every container that shares is moved, running or not
//! ```
//!
//! Decisions are pure and made under one lock when a pod comes or goes; one task writes them to `cpu_manager_state`,
//! `memory_manager_state` and the control groups.

mod align;
mod cpu_set;
mod cpus;
mod memory;
mod policy;
mod settings;
mod take;
mod topology;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kobune_runtime::{ContainerId, ContainerRuntime, ContainerState, Resources};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::devices::{Devices, keep};
use crate::errors::chain;
use crate::ledger::{Rejection, Totals};
use crate::pod;
use policy::{CpuState, Given, MemoryState, Own, Policy, place, place_devices};

pub use align::{AlignPolicy, AlignScope, Hint, Hints, subsets};
pub use cpu_set::{CpuSet, CpuSetError};
pub use cpus::{CpuOptions, CpuOptionsError};
pub use memory::{Block, Bytes};
pub use policy::PlacementError;
pub use settings::{PlacementSettings, Reserved, ReservedError, ReservedMemory, ReservedMemoryError};

/// The record below the node's folder, with upstream's name.
const CPU_STATE: &str = "cpu_manager_state";
/// Likewise.
const MEMORY_STATE: &str = "memory_manager_state";
/// With more memory nodes the choices grow too many; upstream's limit.
pub const MOST_NODES: usize = 8;

/// Where the node's containers run.
pub struct Placement {
    /// `None`: containers run where the kernel puts them.
    policy: Option<Policy>,
    given: Mutex<Given>,
    changed: Notify,
    /// The folder of the records.
    folder: PathBuf,
}

impl Placement {
    /// Reads the machine and what was given away before. `kept` is all that is kept from pods.
    pub fn open(settings: &PlacementSettings, kept: Totals, folder: &Path) -> Result<Placement, PlacementError> {
        let wanted = settings.cpus.is_some() || settings.memory.is_some() || settings.align != AlignPolicy::None;
        let policy = if wanted { Some(Policy::read(settings, kept)?) } else { None };
        let given = policy.as_ref().map(|policy| policy.recall(folder)).unwrap_or_default();
        Ok(Placement { policy, given: Mutex::new(given), changed: Notify::new(), folder: folder.to_path_buf() })
    }

    /// Gives the containers of a pod what they are to have for themselves; what they have they keep. A pod that is new here
    /// is rejected when that can't be done as the node wants it.
    pub fn enter(&self, owner: &Pod, pod_dir: &Path, devices: &Devices, is_new: bool) -> Result<(), Rejection> {
        let uid = pod::uid(owner);
        let mut given = self.given.lock();
        let had = given.take(uid);
        let mut own = Own::default();
        let placed = devices.enter(owner, pod_dir, |devices| {
            own = match &self.policy {
                Some(policy) => place(policy, &given, owner, &had, devices, is_new)?,
                None => place_devices(owner, devices)?,
            };
            Ok(())
        });
        if placed.is_err() {
            // Without devices nothing else is of use.
            own = Own::default();
        }
        let changed = own != had;
        given.put(uid, own);
        if changed {
            self.changed.notify_one();
        }
        placed
    }

    /// A pod has nothing for itself any more.
    pub fn leave(&self, uid: &str) {
        if self.given.lock().take(uid) != Own::default() {
            self.changed.notify_one();
        }
    }

    /// Only these pods are left.
    pub fn keep_only(&self, uids: &HashSet<String>) {
        let mut given = self.given.lock();
        let before = given.clone();
        given.cpus.retain(|uid, _| uids.contains(uid));
        given.memory.retain(|uid, _| uids.contains(uid));
        if *given != before {
            self.changed.notify_one();
        }
    }

    /// Whether the CPUs of Guaranteed pods may not change while they run.
    pub fn pins_cpus(&self) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy.cpus.is_some())
    }

    /// Whether the memory of Guaranteed pods may not change while they run.
    pub fn pins_memory(&self) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy.memory.is_some())
    }

    /// The CPUs that can be given away, had by somebody or not.
    pub fn allocatable_cpus(&self) -> CpuSet {
        let policy = self.policy.as_ref().and_then(|policy| Some((policy, policy.cpus.as_ref()?)));
        policy.map(|(policy, cpus)| policy.machine.all().without(&cpus.reserved)).unwrap_or_default()
    }

    /// The memory that can be given away, by node.
    pub fn allocatable_memory(&self) -> BTreeMap<u32, Bytes> {
        self.policy.as_ref().and_then(|policy| policy.memory.clone()).unwrap_or_default()
    }

    /// The CPUs that a container has for itself.
    pub fn own_cpus(&self, uid: &str, container: &str) -> CpuSet {
        self.given.lock().cpus.get(uid).and_then(|own| own.get(container)).cloned().unwrap_or_default()
    }

    /// The memory that a container has for itself.
    pub fn own_memory(&self, uid: &str, container: &str) -> Vec<Block> {
        self.given.lock().memory.get(uid).and_then(|own| own.get(container)).cloned().unwrap_or_default()
    }

    /// Where a container is to run; `None` when nobody says.
    fn cpus(&self, uid: &str, container: &str) -> Option<String> {
        let policy = self.policy.as_ref()?;
        let cpus = policy.cpus.as_ref()?;
        let given = self.given.lock();
        let own = given.cpus.get(uid).and_then(|own| own.get(container)).cloned();
        Some(own.unwrap_or_else(|| cpus.shared(&policy.machine, &given.cpus)).to_string())
    }

    /// Where a container's memory is to come from; `None` when nobody says.
    fn memory_nodes(&self, uid: &str, container: &str) -> Option<String> {
        let blocks = self.own_memory(uid, container);
        let nodes = blocks.iter().filter_map(|block| block.nodes.parse::<CpuSet>().ok());
        let nodes = nodes.reduce(|one, other| one.plus(&other))?;
        Some(nodes.to_string())
    }

    /// Says in a container's limits where it is to run.
    pub fn confine(&self, uid: &str, container: &str, resources: &mut Resources) {
        resources.cpuset_cpus = self.cpus(uid, container);
        resources.cpuset_mems = self.memory_nodes(uid, container);
    }

    /// Moves a container to where it is to run now, if that is not where it is.
    pub async fn settle(&self, runtime: &dyn ContainerRuntime, id: &ContainerId) {
        let Some(known) = runtime.container(id) else { return };
        let (had, had_nodes) = (known.resources.cpuset_cpus, known.resources.cpuset_mems);
        let wanted = self.cpus(&known.pod_uid, &known.name);
        let nodes = self.memory_nodes(&known.pod_uid, &known.name);
        // What is confined and should not be was so by another policy.
        let cpus = wanted.or_else(|| topology::allowed().ok().filter(|_| had.is_some()).map(|all| all.to_string()));
        let nodes =
            nodes.or_else(|| topology::memory_nodes().ok().filter(|_| had_nodes.is_some()).map(|all| all.to_string()));
        let cpus = cpus.filter(|cpus| Some(cpus) != had.as_ref());
        let nodes = nodes.filter(|nodes| Some(nodes) != had_nodes.as_ref());
        if cpus.is_none() && nodes.is_none() {
            return;
        }
        if let Err(error) = runtime.confine(id, cpus.clone(), nodes.clone()).await {
            tracing::warn!(
                container = known.name,
                pod = known.pod_uid,
                cpus,
                nodes,
                error = chain(&error),
                "a container was not moved to its CPUs"
            );
        }
    }

    async fn settle_all(&self, runtime: &dyn ContainerRuntime) {
        let alive = |state| matches!(state, ContainerState::Created | ContainerState::Running);
        // Those that share leave a CPU before the one comes that has it for itself.
        let mut list: Vec<_> = runtime.containers().into_iter().filter(|container| alive(container.state)).collect();
        list.sort_by_key(|container| !self.own_cpus(&container.pod_uid, &container.name).is_empty());
        for container in list {
            self.settle(runtime, &container.id).await;
        }
    }

    async fn save(&self) {
        let Some(policy) = &self.policy else { return };
        let given = self.given.lock().clone();
        if let Some(cpus) = &policy.cpus {
            let words = |own: &BTreeMap<String, CpuSet>| {
                own.iter().map(|(container, cpus)| (container.clone(), cpus.to_string())).collect()
            };
            let state = CpuState {
                policy_name: "static".to_owned(),
                default_cpu_set: cpus.shared(&policy.machine, &given.cpus).to_string(),
                entries: given.cpus.iter().map(|(uid, own)| (uid.clone(), words(own))).collect(),
            };
            save(self.folder.join(CPU_STATE), state).await;
        }
        if policy.memory.is_some() {
            let state = MemoryState { policy_name: "Static".to_owned(), entries: given.memory };
            save(self.folder.join(MEMORY_STATE), state).await;
        }
    }
}

async fn save(path: PathBuf, state: impl Serialize + Send + 'static) {
    let shown = path.clone();
    match tokio::task::spawn_blocking(move || keep(&path, &state)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(
            path = %shown.display(),
            error = &error as &dyn std::error::Error,
            "which container has what for itself was not kept"
        ),
        Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "keeping a record panicked"),
    }
}

/// Keeps the record and moves containers, whenever something was given or given back.
pub async fn run(context: Arc<Context>, token: CancellationToken) {
    let (placement, runtime) = (&context.placement, &context.config.runtime);
    loop {
        placement.save().await;
        placement.settle_all(&**runtime).await;
        // Without a policy nothing changes any more.
        if placement.policy.is_none() {
            return;
        }
        tokio::select! {
            () = token.cancelled() => return,
            // A note that is not waited for stays until the next wait.
            () = placement.changed.notified() => {}
        }
    }
}

#[cfg(test)]
mod tests;
