//! What the containers of a pod get: CPUs, memory and devices, of the same memory nodes where that is wanted. Pure but for
//! reading the machine and the records at the start.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use super::align::{AlignPolicy, AlignScope, align};
use super::cpu_set::CpuSet;
use super::cpus::{Owners, StaticCpus, exclusive, exclusive_together};
use super::memory::{self, Block, Bytes, Memory, MemoryOwners, Reusable};
use super::settings::{PlacementSettings, ReservedMemory};
use super::topology::{self, Topology};
use super::{CPU_STATE, MEMORY_STATE, MOST_NODES, take};
use crate::devices::assign::Assigning;
use crate::ledger::{Rejection, Totals};
use crate::pod::{self, Role};

/// Where a running kernel tells of its CPUs.
const SYSTEM: &str = "/sys/devices/system";

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
    /// The choices would be too many.
    #[error("aligning and the static memory policy are unsupported on machines with more than 8 NUMA Nodes")]
    ManyNodes,
    /// Upstream excludes these two.
    #[error("Topology manager single-numa-node policy is incompatible with CPUManager align-by-socket policy option")]
    SocketOrNode,
    /// Memory is reserved on a node that is not there, or more than it has.
    #[error("{reserved} bytes of {resource} can't be reserved on memory node {node}, which has {has}")]
    Memory {
        /// The node.
        node: u32,
        /// The resource.
        resource: String,
        /// What is to be reserved.
        reserved: i64,
        /// What there is.
        has: i64,
    },
    /// What nodes reserve is not what the machine reserves.
    #[error(
        "the total amount {reserved} of type \"memory\" of --reserved-memory is not equal to the value {kept} determined by Node Allocatable, which is --system-reserved, --kube-reserved and the hard eviction threshold together"
    )]
    MemorySum {
        /// Of all nodes.
        reserved: i64,
        /// Of the machine.
        kept: i64,
    },
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
pub struct CpuState {
    /// `static`.
    pub policy_name: String,
    /// What is shared.
    pub default_cpu_set: String,
    /// By pod and container.
    #[serde(default)]
    pub entries: BTreeMap<String, BTreeMap<String, String>>,
}

/// The same for memory.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemoryState {
    /// `Static`.
    pub policy_name: String,
    /// By pod and container.
    #[serde(default)]
    pub entries: MemoryOwners,
}

/// What the node was told, on the machine that it is.
pub struct Policy {
    /// The machine.
    pub machine: Topology,
    /// Who gives CPUs away, if anybody does.
    pub cpus: Option<StaticCpus>,
    /// What each memory node can give.
    pub memory: Option<BTreeMap<u32, Bytes>>,
    /// How CPUs, memory and devices are to stand to each other.
    pub align: AlignPolicy,
    /// Whose.
    pub scope: AlignScope,
}

/// Who has what.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Given {
    /// CPUs.
    pub cpus: Owners,
    /// Memory.
    pub memory: MemoryOwners,
}

/// What the containers of one pod have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Own {
    /// CPUs by container.
    pub cpus: BTreeMap<String, CpuSet>,
    /// Memory by container.
    pub memory: BTreeMap<String, Vec<Block>>,
}

impl Given {
    /// Takes away what a pod has.
    pub fn take(&mut self, uid: &str) -> Own {
        Own { cpus: self.cpus.remove(uid).unwrap_or_default(), memory: self.memory.remove(uid).unwrap_or_default() }
    }

    /// Gives it to a pod.
    pub fn put(&mut self, uid: &str, own: Own) {
        if !own.cpus.is_empty() {
            self.cpus.insert(uid.to_owned(), own.cpus);
        }
        if !own.memory.is_empty() {
            self.memory.insert(uid.to_owned(), own.memory);
        }
    }
}

/// What is on record, if anything is.
fn read<T: serde::de::DeserializeOwned>(record: &Path) -> Option<T> {
    match std::fs::read(record).map(|text| serde_json::from_slice(&text)) {
        Ok(Ok(state)) => Some(state),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Ok(Err(_)) | Err(_) => {
            tracing::warn!(file = %record.display(), "which container has what for itself could not be read; it is found anew");
            None
        }
    }
}

impl Policy {
    /// Reads the machine.
    pub fn read(settings: &PlacementSettings, kept: Totals) -> Result<Policy, PlacementError> {
        let root = Path::new(SYSTEM);
        let wrong = |source| PlacementError::Topology { path: root.to_path_buf(), source };
        let allowed = topology::allowed().map_err(wrong)?;
        let machine = Topology::read(root, |number| allowed.contains(number)).map_err(wrong)?;
        Policy::of(settings, kept, machine)
    }

    /// What the node was told, on this machine.
    pub fn of(settings: &PlacementSettings, kept: Totals, machine: Topology) -> Result<Policy, PlacementError> {
        let cpus = match settings.cpus {
            Some(options) => Some(StaticCpus { reserved: reserved(settings, &machine)?, options }),
            None => None,
        };
        let (align, scope) = (settings.align, settings.scope);
        if machine.nodes.len() > MOST_NODES && (align != AlignPolicy::None || settings.memory.is_some()) {
            return Err(PlacementError::ManyNodes);
        }
        if align == AlignPolicy::SingleNumaNode && settings.cpus.is_some_and(|options| options.align_by_socket) {
            return Err(PlacementError::SocketOrNode);
        }
        let memory = match &settings.memory {
            Some(reserved) => Some(allocatable_memory(reserved, kept.memory, &machine)?),
            None => None,
        };
        Ok(Policy { machine, cpus, memory, align, scope })
    }

    /// What is on record, without what can't be: what is gone or reserved now, or what two pods would have.
    pub fn recall(&self, folder: &Path) -> Given {
        let mut given = Given::default();
        if let Some(cpus) = &self.cpus {
            let state: Option<CpuState> = read(&folder.join(CPU_STATE));
            for (uid, own) in state.map(|state| state.entries).unwrap_or_default() {
                let read = |(container, cpus): (String, String)| cpus.parse().ok().map(|cpus| (container, cpus));
                let own: Option<BTreeMap<String, CpuSet>> = own.into_iter().map(read).collect();
                let free = cpus.free(&self.machine, &given.cpus);
                match own {
                    Some(own) if own.values().all(|cpus| cpus.is_within(&free)) => drop(given.cpus.insert(uid, own)),
                    _ => tracing::warn!(uid, "a pod's CPUs are gone or reserved now; it gets others"),
                }
            }
        }
        if let Some(allocatable) = &self.memory {
            let state: Option<MemoryState> = read(&folder.join(MEMORY_STATE));
            let all: CpuSet = allocatable.keys().copied().collect();
            for (uid, own) in state.map(|state| state.entries).unwrap_or_default() {
                let there = |block: &Block| block.nodes.parse::<CpuSet>().is_ok_and(|nodes| nodes.is_within(&all));
                if own.values().flatten().all(there) {
                    given.memory.insert(uid, own);
                } else {
                    tracing::warn!(uid, "a pod's memory nodes are gone; it gets others");
                }
            }
        }
        given
    }
}

/// What each memory node can give beside what is reserved on it.
pub fn allocatable_memory(
    reserved: &ReservedMemory,
    kept: i64,
    machine: &Topology,
) -> Result<BTreeMap<u32, Bytes>, PlacementError> {
    let mut allocatable: BTreeMap<u32, Bytes> =
        machine.nodes.iter().map(|(node, memory)| (*node, memory.bytes.clone())).collect();
    for (node, own) in &reserved.0 {
        for (resource, bytes) in own {
            let has = allocatable.get_mut(node).and_then(|own| own.get_mut(resource));
            let known = has.as_ref().map_or(0, |has| **has);
            let has = has.filter(|has| **has >= *bytes).ok_or_else(|| PlacementError::Memory {
                node: *node,
                resource: resource.clone(),
                reserved: *bytes,
                has: known,
            })?;
            *has -= bytes;
        }
    }
    let sum: i64 = reserved.0.values().filter_map(|own| own.get("memory")).sum();
    if sum != kept {
        return Err(PlacementError::MemorySum { reserved: sum, kept });
    }
    Ok(allocatable)
}

/// Which CPUs nobody has for itself: those that are named, or as many as are reserved, of as few cores as possible.
pub fn reserved(settings: &PlacementSettings, machine: &Topology) -> Result<CpuSet, PlacementError> {
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

/// Gives a pod's containers their devices alone.
pub fn place_devices(owner: &Pod, devices: &mut Assigning) -> Result<Own, Rejection> {
    for member in pod::members(pod::spec(owner)).iter().filter(|member| member.role != Role::Ephemeral) {
        devices.give(member, None)?;
    }
    Ok(Own::default())
}

/// What a pod's containers get, one after the other; what they had before they keep.
pub fn place(
    policy: &Policy,
    others: &Given,
    owner: &Pod,
    had: &Own,
    devices: &mut Assigning,
    is_new: bool,
) -> Result<Own, Rejection> {
    let machine = &policy.machine;
    let nodes: CpuSet = machine.nodes.keys().copied().collect();
    // What runs is not sent away for standing badly.
    let alignment = if is_new { policy.align } else { AlignPolicy::None };
    let members = pod::members(pod::spec(owner));
    let mut free = policy.cpus.as_ref().map(|cpus| cpus.free(machine, &others.cpus)).unwrap_or_default();
    let none = BTreeMap::new();
    let mut memory = Memory {
        allocatable: policy.memory.as_ref().unwrap_or(&none),
        taken: others.memory.values().flat_map(BTreeMap::values).flatten().cloned().collect(),
    };
    let wanted_memory = |wanted: Bytes| if policy.memory.is_some() { wanted } else { Bytes::new() };
    let (mut again, mut memory_again) = (CpuSet::default(), Reusable::new());
    let for_pod = match policy.scope {
        AlignScope::Pod => {
            let mut hints = devices.hints_together(&members);
            if let Some(cpus) = &policy.cpus {
                hints.push(cpus.hints(machine, &free, exclusive_together(owner, &members), &again));
            }
            hints.push(memory.hints(&wanted_memory(memory::wanted_together(owner, &members)), &memory_again));
            Some(align(alignment, &nodes, &hints)?)
        }
        AlignScope::Container => None,
    };
    let mut own = Own::default();
    for member in members.iter().filter(|member| member.role != Role::Ephemeral) {
        let name = &member.container.name;
        let cpus_wanted = policy.cpus.as_ref().map_or(0, |_| exclusive(owner, &member.container));
        let memory_wanted = wanted_memory(memory::wanted(owner, &member.container));
        let chosen = match &for_pod {
            Some(chosen) => chosen.clone(),
            None => {
                let mut hints = devices.hints(member);
                hints.extend(policy.cpus.as_ref().map(|cpus| cpus.hints(machine, &free, cpus_wanted, &again)));
                hints.push(memory.hints(&memory_wanted, &memory_again));
                align(alignment, &nodes, &hints)?
            }
        };
        let near = chosen.as_ref().map(|hint| &hint.nodes);
        devices.give(member, near)?;
        if let Some(cpus) = policy.cpus.as_ref().filter(|_| cpus_wanted > 0) {
            let may_have = free.plus(&again);
            let before = had.cpus.get(name).filter(|own| own.len() == cpus_wanted && own.is_within(&may_have));
            let taken = match before {
                Some(own) => own.clone(),
                None => cpus.choose(machine, &free, cpus_wanted, &again, near)?,
            };
            free = free.without(&taken);
            // What an init container had, those after it may have again.
            again = if member.role == Role::Init { again.plus(&taken) } else { again.without(&taken) };
            own.cpus.insert(name.clone(), taken);
        }
        if !memory_wanted.is_empty() {
            let before = had.memory.get(name).and_then(|blocks| blocks.first()?.nodes.parse::<CpuSet>().ok());
            let nodes = match before {
                Some(nodes) => nodes,
                None => memory.choose(&memory_wanted, &memory_again, chosen.as_ref())?,
            };
            let blocks = memory::blocks(&nodes, &memory_wanted, member.role, &mut memory_again);
            memory.taken.extend(blocks.iter().cloned());
            own.memory.insert(name.clone(), blocks);
        }
    }
    Ok(own)
}
