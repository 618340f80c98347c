//! Which CPUs a container runs on.
//!
//! ```text
//!  pod comes ─▶ its containers get CPUs (or the pod is rejected) ─▶ container starts on them
//!                     └─▶ the shared CPUs shrink ─▶ every container that shares is moved, running or not
//! ```
//!
//! Decisions are pure and made under one lock when a pod comes or goes; one task writes them to `cpu_manager_state` and to the
//! control groups.

mod cpu_set;
mod cpus;
mod settings;
mod take;
mod topology;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kobune_runtime::{ContainerId, ContainerRuntime, ContainerState, Resources};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::devices::keep;
use crate::errors::chain;
use crate::ledger::Rejection;
use crate::pod::{self, Role};
use cpus::{Owners, StaticCpus, exclusive};
use topology::Topology;

pub use cpu_set::{CpuSet, CpuSetError};
pub use cpus::{CpuOptions, CpuOptionsError};
pub use settings::{PlacementSettings, Reserved, ReservedError};

/// Where a running kernel tells of its CPUs.
const SYSTEM: &str = "/sys/devices/system";
/// The record below the node's folder, with upstream's name.
const CPU_STATE: &str = "cpu_manager_state";

/// Why a node can't place containers as it was told to.
#[derive(Debug, thiserror::Error)]
pub enum PlacementError {
    /// What the machine is could not be read.
    #[error("failed to read which CPUs and memory nodes there are below {}", path.display())]
    Topology {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Reserved CPUs do not exist.
    #[error("reserved CPUs {reserved} are not all among the CPUs of this machine, {all}")]
    Missing {
        /// What was given.
        reserved: CpuSet,
        /// What there is.
        all: CpuSet,
    },
    /// Without reserved CPUs nothing is left for pods that share, nor for the machine.
    #[error("the static policy requires --reserved-cpus, or CPUs in --system-reserved or --kube-reserved")]
    NothingReserved,
    /// More is reserved than there is.
    #[error("unable to reserve the required amount of CPUs: {wanted} of {all}")]
    TooMuchReserved {
        /// How many.
        wanted: usize,
        /// What there is.
        all: CpuSet,
    },
}

/// What is kept on disk, in the shape of upstream's file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CpuState {
    policy_name: String,
    default_cpu_set: String,
    #[serde(default)]
    entries: BTreeMap<String, BTreeMap<String, String>>,
}

struct Policy {
    machine: Topology,
    cpus: StaticCpus,
}

/// Where the node's containers run.
pub struct Placement {
    /// `None`: containers run where the kernel puts them.
    policy: Option<Policy>,
    owners: Mutex<Owners>,
    changed: Notify,
    record: PathBuf,
}

impl Placement {
    /// Reads the machine and what was given away before.
    pub fn open(settings: &PlacementSettings, folder: &Path) -> Result<Placement, PlacementError> {
        let record = folder.join(CPU_STATE);
        let policy = match settings.cpus {
            Some(options) => {
                let root = Path::new(SYSTEM);
                let wrong = |source| PlacementError::Topology { path: root.to_path_buf(), source };
                let allowed = topology::allowed().map_err(wrong)?;
                let machine = Topology::read(root, |number| allowed.contains(number)).map_err(wrong)?;
                let reserved = reserved(settings, &machine)?;
                Some(Policy { machine, cpus: StaticCpus { reserved, options } })
            }
            None => None,
        };
        let placement = Placement { policy, owners: Mutex::default(), changed: Notify::new(), record };
        let known = placement.policy.as_ref().map(|policy| recall(&placement.record, policy)).unwrap_or_default();
        *placement.owners.lock() = known;
        Ok(placement)
    }

    /// Gives the containers of a pod CPUs of their own where they are to have some; those that they have they keep.
    pub fn enter(&self, owner: &Pod) -> Result<(), Rejection> {
        let Some(policy) = &self.policy else { return Ok(()) };
        let uid = pod::uid(owner);
        let mut owners = self.owners.lock();
        let had = owners.remove(uid).unwrap_or_default();
        match place(policy, &owners, owner, &had) {
            Ok(own) => {
                let changed = own != had;
                if !own.is_empty() {
                    owners.insert(uid.to_owned(), own);
                }
                if changed {
                    self.changed.notify_one();
                }
                Ok(())
            }
            Err(error) => {
                if !had.is_empty() {
                    self.changed.notify_one();
                }
                Err(error)
            }
        }
    }

    /// A pod has no CPUs of its own any more.
    pub fn leave(&self, uid: &str) {
        if self.owners.lock().remove(uid).is_some() {
            self.changed.notify_one();
        }
    }

    /// Only these pods are left.
    pub fn keep_only(&self, uids: &HashSet<String>) {
        let mut owners = self.owners.lock();
        let before = owners.len();
        owners.retain(|uid, _| uids.contains(uid));
        if owners.len() != before {
            self.changed.notify_one();
        }
    }

    /// Whether a pod's CPUs may not change while it runs.
    pub fn pins_cpus(&self) -> bool {
        self.policy.is_some()
    }

    /// The CPUs that a container has for itself.
    pub fn own_cpus(&self, uid: &str, container: &str) -> CpuSet {
        self.owners.lock().get(uid).and_then(|own| own.get(container)).cloned().unwrap_or_default()
    }

    /// Where a container is to run; `None` when nobody says.
    fn cpus(&self, uid: &str, container: &str) -> Option<String> {
        let policy = self.policy.as_ref()?;
        let owners = self.owners.lock();
        let own = owners.get(uid).and_then(|own| own.get(container)).cloned();
        Some(own.unwrap_or_else(|| policy.cpus.shared(&policy.machine, &owners)).to_string())
    }

    /// Says in a container's limits where it is to run.
    pub fn confine(&self, uid: &str, container: &str, resources: &mut Resources) {
        resources.cpuset_cpus = self.cpus(uid, container);
    }

    /// Moves a container to where it is to run now, if that is not where it is.
    pub async fn settle(&self, runtime: &dyn ContainerRuntime, id: &ContainerId) {
        let Some(known) = runtime.container(id) else { return };
        let mut wanted = self.cpus(&known.pod_uid, &known.name);
        if wanted.is_none() && known.resources.cpuset_cpus.is_some() {
            // The policy was another one before.
            wanted = topology::allowed().ok().map(|all| all.to_string());
        }
        if wanted.is_none() || wanted == known.resources.cpuset_cpus {
            return;
        }
        if let Err(error) = runtime.confine(id, wanted.clone()).await {
            tracing::warn!(
                container = known.name,
                pod = known.pod_uid,
                cpus = wanted,
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
        let owners = self.owners.lock().clone();
        let words = |own: &BTreeMap<String, CpuSet>| {
            own.iter().map(|(container, cpus)| (container.clone(), cpus.to_string())).collect()
        };
        let state = CpuState {
            policy_name: "static".to_owned(),
            default_cpu_set: policy.cpus.shared(&policy.machine, &owners).to_string(),
            entries: owners.iter().map(|(uid, own)| (uid.clone(), words(own))).collect(),
        };
        let path = self.record.clone();
        match tokio::task::spawn_blocking(move || keep(&path, &state)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(
                path = %self.record.display(),
                error = &error as &dyn std::error::Error,
                "which container has which CPUs was not kept"
            ),
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "keeping a record panicked"),
        }
    }
}

/// Which CPUs nobody has for itself: those that are named, or as many as are reserved, of as few cores as possible.
fn reserved(settings: &PlacementSettings, machine: &Topology) -> Result<CpuSet, PlacementError> {
    let all = machine.all();
    if !settings.reserved_cpus.is_empty() {
        let reserved = settings.reserved_cpus.clone();
        return if reserved.is_within(&all) { Ok(reserved) } else { Err(PlacementError::Missing { reserved, all }) };
    }
    let wanted = usize::try_from((settings.reserved.cpu + 999) / 1000).unwrap_or(usize::MAX);
    if wanted == 0 {
        return Err(PlacementError::NothingReserved);
    }
    let taken = take::take(machine, &all, wanted, take::How::default());
    taken.map_err(|_| PlacementError::TooMuchReserved { wanted, all })
}

/// CPUs of a pod's containers; what they had before they keep.
fn place(
    policy: &Policy,
    others: &Owners,
    owner: &Pod,
    had: &BTreeMap<String, CpuSet>,
) -> Result<BTreeMap<String, CpuSet>, Rejection> {
    let mut free = policy.cpus.free(&policy.machine, others);
    let mut reusable = CpuSet::default();
    let mut given = BTreeMap::new();
    for member in pod::members(pod::spec(owner)).iter().filter(|member| member.role != Role::Ephemeral) {
        let wanted = exclusive(owner, &member.container);
        if wanted == 0 {
            continue;
        }
        let may_have = free.plus(&reusable);
        let before = had.get(&member.container.name).filter(|own| own.len() == wanted && own.is_within(&may_have));
        let own = match before {
            Some(own) => own.clone(),
            None => policy.cpus.choose(&policy.machine, &free, wanted, &reusable, None)?,
        };
        free = free.without(&own);
        // What an init container had, those after it may have again.
        reusable = if member.role == Role::Init { reusable.plus(&own) } else { reusable.without(&own) };
        given.insert(member.container.name.clone(), own);
    }
    Ok(given)
}

/// What is on record, without what can't be: CPUs that are gone or reserved now, or that two pods would have.
fn recall(record: &Path, policy: &Policy) -> Owners {
    let state: CpuState = match std::fs::read(record).map(|text| serde_json::from_slice(&text)) {
        Ok(Ok(state)) => state,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Owners::new(),
        Ok(Err(_)) | Err(_) => {
            tracing::warn!(file = %record.display(), "which container has which CPUs could not be read; it is found anew");
            return Owners::new();
        }
    };
    let mut owners = Owners::new();
    for (uid, own) in state.entries {
        let read = |(container, cpus): (String, String)| cpus.parse::<CpuSet>().ok().map(|cpus| (container, cpus));
        let own: Option<BTreeMap<String, CpuSet>> = own.into_iter().map(read).collect();
        let free = policy.cpus.free(&policy.machine, &owners);
        match own {
            Some(own) if own.values().all(|cpus| cpus.is_within(&free)) => drop(owners.insert(uid, own)),
            _ => tracing::warn!(uid, "a pod's CPUs are gone or reserved now; it gets others"),
        }
    }
    owners
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
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::topology::tests::machine;
    use super::*;

    fn open(machine: Topology, reserved: &str, record: PathBuf) -> Placement {
        let cpus = StaticCpus { reserved: reserved.parse().expect("a set"), options: CpuOptions::default() };
        let policy = Policy { machine, cpus };
        let owners = recall(&record, &policy);
        Placement { policy: Some(policy), owners: Mutex::new(owners), changed: Notify::new(), record }
    }

    fn pod(uid: &str, init: &[u32], main: &[u32]) -> Pod {
        let of = |prefix: &str, list: &[u32]| -> Vec<Value> {
            let container = |(index, cpus): (usize, &u32)| {
                json!({"name": format!("{prefix}{index}"),
                    "resources": {"limits": {"cpu": cpus.to_string(), "memory": "1Mi"}}})
            };
            list.iter().enumerate().map(container).collect()
        };
        let spec = json!({"initContainers": of("i", init), "containers": of("c", main)});
        serde_json::from_value(json!({"metadata": {"uid": uid}, "spec": spec})).expect("a pod")
    }

    #[tokio::test]
    async fn cpus_come_and_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let record = folder.path().join(CPU_STATE);
        let placement = open(machine(1, 1, 4, 1), "0", record.clone());
        let cpus = |placement: &Placement, uid: &str, name: &str| placement.cpus(uid, name).expect("a policy");
        placement.enter(&pod("a", &[2], &[1, 1])).expect("there is room");
        assert_eq!((cpus(&placement, "a", "c0"), cpus(&placement, "a", "c1")), ("1".to_owned(), "2".to_owned()));
        assert_eq!((cpus(&placement, "a", "i0"), cpus(&placement, "b", "x")), ("1-2".to_owned(), "0,3".to_owned()));
        let rejected = placement.enter(&pod("b", &[], &[2])).expect_err("no room");
        assert_eq!(
            (rejected.reason.as_str(), rejected.message.as_str()),
            (
                "UnexpectedAdmissionError",
                "Allocate failed due to not enough cpus available to satisfy request: requested=2, available=1, which is unexpected"
            )
        );
        placement.enter(&pod("b", &[], &[1])).expect("there is room");
        assert_eq!((cpus(&placement, "b", "c0"), cpus(&placement, "d", "x")), ("3".to_owned(), "0".to_owned()));
        placement.save().await;
        placement.leave("a");
        assert_eq!(cpus(&placement, "d", "x"), "0-2");
        // A start later all is as it was kept; where a CPU is reserved meanwhile, its pod gets another one.
        let again = open(machine(1, 1, 4, 1), "0", record.clone());
        again.enter(&pod("a", &[2], &[1, 1])).expect("it has them");
        assert_eq!((cpus(&again, "a", "c1"), cpus(&again, "b", "c0")), ("2".to_owned(), "3".to_owned()));
        again.keep_only(&["b".to_owned()].into());
        assert_eq!(cpus(&again, "d", "x"), "0-2");
        let narrower = open(machine(1, 1, 4, 1), "0,3", record);
        narrower.enter(&pod("b", &[], &[1])).expect_err("the other pod has the rest");
        narrower.leave("a");
        narrower.enter(&pod("b", &[], &[1])).expect("there is room");
        assert_eq!(cpus(&narrower, "b", "c0"), "1");
    }

    #[test]
    fn reserved_cpus_are_found() {
        let check = |named: &str, milli: i64, expected: &str| {
            let settings = PlacementSettings {
                reserved_cpus: named.parse().expect("a set"),
                reserved: Reserved { cpu: milli, ..Reserved::default() },
                ..PlacementSettings::default()
            };
            let got = reserved(&settings, &machine(1, 1, 4, 2));
            assert_eq!(got.map_or_else(|error| error.to_string(), |set| set.to_string()), expected);
        };
        check("", 1500, "0,4");
        check("1-2", 0, "1-2");
        check("7-8", 0, "reserved CPUs 7-8 are not all among the CPUs of this machine, 0-7");
        check("", 0, "the static policy requires --reserved-cpus, or CPUs in --system-reserved or --kube-reserved");
        check("", 9000, "unable to reserve the required amount of CPUs: 9 of 0-7");
    }

    proptest! {
        #[test]
        fn nobody_shares_what_is_given_away(
            steps in prop::collection::vec((0_u32..6, 0_u32..4, prop::collection::vec(0_u32..4, 1..3), any::<bool>()), 1..40),
        ) {
            let folder = tempfile::tempdir().expect("a folder");
            let placement = open(machine(2, 1, 3, 2), "0,6", folder.path().join(CPU_STATE));
            let reserved: CpuSet = "0,6".parse().expect("a set");
            for (number, init, main, leaves) in steps {
                let uid = number.to_string();
                if leaves {
                    placement.leave(&uid);
                } else {
                    drop(placement.enter(&pod(&uid, &[init], &main)));
                }
                let owners = placement.owners.lock().clone();
                let mut seen = CpuSet::default();
                for own in owners.values() {
                    let mains = own.iter().filter(|(name, _)| name.starts_with('c')).map(|(_, cpus)| cpus);
                    let count: usize = mains.clone().map(CpuSet::len).sum();
                    let main: CpuSet = mains.flat_map(CpuSet::iter).collect();
                    prop_assert_eq!(count, main.len(), "two containers of a pod have one CPU");
                    let all: CpuSet = own.values().flat_map(CpuSet::iter).collect();
                    prop_assert!(all.both(&seen).is_empty(), "two pods have one CPU");
                    seen = seen.plus(&all);
                }
                prop_assert!(seen.both(&reserved).is_empty(), "what is reserved was given away");
                let shared: CpuSet = placement.cpus("nobody", "x").expect("a policy").parse().expect("a set");
                prop_assert!(shared.both(&seen).is_empty() && reserved.is_within(&shared));
            }
        }
    }
}
