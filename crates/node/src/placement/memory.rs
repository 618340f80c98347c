//! The static memory policy: memory and huge pages of Guaranteed containers come from as few memory nodes as can be, and no
//! node promises more than it has. Pure.
//!
//! A node serves either containers that are on it alone or one group of nodes, never both, so that what is promised is there.
//! Source of the rules and texts: `pkg/kubelet/cm/memorymanager/policy_static.go`, KEP-1769.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use serde::{Deserialize, Serialize};

use super::align::{Hint, Hints, narrowness, prefer, subsets};
use super::cpu_set::CpuSet;
use crate::ledger::Rejection;
use crate::pod::{self, Member, Role};
use crate::quantity::Amount;
use crate::resources::{QosClass, qos_class};

/// Memory of one kind that a container has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// On which nodes, as a list.
    pub nodes: String,
    /// `memory` or `hugepages-2Mi`.
    pub resource: String,
    /// Bytes.
    pub size: i64,
    /// Bytes of it that no init container before had.
    pub fresh: i64,
}

/// Who has memory: by pod and container.
pub type MemoryOwners = BTreeMap<String, BTreeMap<String, Vec<Block>>>;

/// Bytes by resource.
pub type Bytes = BTreeMap<String, i64>;

/// Why a container can't have memory. The words are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// No nodes have so much.
    #[error("[memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available")]
    NoNodes,
    /// The nodes that the other resources chose do not suffice, nor do others with them.
    #[error("[memorymanager] failed to find NUMA nodes to extend the current topology hint")]
    NoExtension,
    /// What suffices is worse than what was chosen.
    #[error("[memorymanager] failed to find the extended preferred hint")]
    NoPreferredExtension,
    /// The nodes serve others in another grouping.
    #[error("[memorymanager] preferred hint violates NUMA node allocation")]
    Grouping,
}

impl From<MemoryError> for Rejection {
    fn from(error: MemoryError) -> Rejection {
        Rejection {
            reason: "UnexpectedAdmissionError".to_owned(),
            message: format!("Allocate failed due to {error}, which is unexpected"),
        }
    }
}

/// What a container is to have for itself; nothing when it is not placed.
pub fn wanted(owner: &Pod, container: &Container) -> Bytes {
    if qos_class(owner) != QosClass::Guaranteed || pod::spec(owner).resources.is_some() {
        return Bytes::new();
    }
    let resources = container.resources.as_ref();
    let limits = resources.and_then(|own| own.limits.as_ref()).into_iter().flatten();
    let requests = resources.and_then(|own| own.requests.as_ref()).into_iter().flatten();
    limits
        .chain(requests)
        .filter(|(name, _)| *name == "memory" || name.starts_with("hugepages-"))
        .map(|(name, amount)| (name.clone(), Amount::of(amount).value()))
        .filter(|(_, bytes)| *bytes > 0)
        .collect()
}

/// What the containers of a pod want together at any time.
pub fn wanted_together(owner: &Pod, members: &[Member]) -> Bytes {
    let (mut most, mut sidecars, mut mains) = (Bytes::new(), Bytes::new(), Bytes::new());
    let add = |sum: &mut Bytes, own: &Bytes| {
        for (resource, bytes) in own {
            *sum.entry(resource.clone()).or_default() += bytes;
        }
    };
    let raise = |most: &mut Bytes, sum: &Bytes| {
        for (resource, bytes) in sum {
            let known = most.entry(resource.clone()).or_default();
            *known = (*known).max(*bytes);
        }
    };
    for member in members {
        let own = wanted(owner, &member.container);
        match member.role {
            Role::Init => {
                let mut with = sidecars.clone();
                add(&mut with, &own);
                raise(&mut most, &with);
            }
            Role::Sidecar => add(&mut sidecars, &own),
            Role::Main => add(&mut mains, &own),
            Role::Ephemeral => {}
        }
    }
    add(&mut mains, &sidecars);
    raise(&mut most, &mains);
    most
}

/// The memory nodes and who has what of them.
#[derive(Clone, Debug)]
pub struct Memory<'a> {
    /// What each node can give, by resource.
    pub allocatable: &'a BTreeMap<u32, Bytes>,
    /// All blocks that others have.
    pub taken: Vec<Block>,
}

/// What init containers had, by nodes and resource.
pub type Reusable = BTreeMap<(String, String), i64>;

impl Memory<'_> {
    /// All nodes.
    pub fn nodes(&self) -> CpuSet {
        self.allocatable.keys().copied().collect()
    }

    fn sum(&self, nodes: &CpuSet, resource: &str) -> i64 {
        nodes.iter().filter_map(|node| self.allocatable.get(&node)?.get(resource)).sum()
    }

    /// The groups of nodes in use.
    fn groups(&self) -> Vec<CpuSet> {
        self.taken.iter().filter_map(|block| block.nodes.parse().ok()).collect()
    }

    /// Whether nodes in use elsewhere stand in the way.
    fn is_barred(&self, nodes: &CpuSet) -> bool {
        self.groups().iter().any(|group| group != nodes && !group.both(nodes).is_empty())
    }

    fn free(&self, nodes: &CpuSet, resource: &str) -> i64 {
        let within = |block: &&Block| {
            block.resource == resource && block.nodes.parse::<CpuSet>().is_ok_and(|own| !own.both(nodes).is_empty())
        };
        let used: i64 = self.taken.iter().filter(within).map(|block| block.fresh).sum();
        self.sum(nodes, resource) - used
    }

    fn suffices(&self, nodes: &CpuSet, wanted: &Bytes, reusable: &Reusable) -> bool {
        wanted.iter().all(|(resource, bytes)| {
            let again = reusable.get(&(nodes.to_string(), resource.clone())).copied().unwrap_or(0);
            self.free(nodes, resource) + again >= *bytes
        })
    }

    /// Which nodes could serve.
    pub fn hints(&self, wanted: &Bytes, reusable: &Reusable) -> Hints {
        if wanted.is_empty() {
            return None;
        }
        let all = self.nodes();
        let has = |nodes: &CpuSet| wanted.iter().all(|(resource, bytes)| self.sum(nodes, resource) >= *bytes);
        let able: Vec<CpuSet> = subsets(&all).into_iter().filter(has).collect();
        let fewest = able.iter().map(CpuSet::len).min().unwrap_or(all.len());
        let could = able.into_iter().filter(|nodes| !self.is_barred(nodes) && self.suffices(nodes, wanted, reusable));
        Some(prefer(could.collect(), fewest))
    }

    /// Chooses nodes; those that the other resources have chosen, or more with them where they do not suffice.
    pub fn choose(&self, wanted: &Bytes, reusable: &Reusable, chosen: Option<&Hint>) -> Result<CpuSet, MemoryError> {
        let hints = self.hints(wanted, reusable).unwrap_or_default();
        let best = |hints: &mut dyn Iterator<Item = &Hint>| {
            hints.min_by_key(|hint| (!hint.preferred, narrowness(&hint.nodes))).cloned()
        };
        let Some(chosen) = chosen else {
            return best(&mut hints.iter()).map(|hint| hint.nodes).ok_or(MemoryError::NoNodes);
        };
        let mut nodes = chosen.nodes.clone();
        if !self.suffices(&nodes, wanted, reusable) {
            let wider = best(&mut hints.iter().filter(|hint| nodes.is_within(&hint.nodes)));
            let wider = wider.ok_or(MemoryError::NoExtension)?;
            if chosen.preferred && !wider.preferred {
                return Err(MemoryError::NoPreferredExtension);
            }
            nodes = wider.nodes;
        }
        // One node alone may serve although a group has it, as upstream has it: what was chosen for CPUs wins.
        if nodes.len() > 1 && self.is_barred(&nodes) { Err(MemoryError::Grouping) } else { Ok(nodes) }
    }
}

/// The blocks of a container on the nodes that were chosen. What earlier init containers had there is had again.
pub fn blocks(nodes: &CpuSet, wanted: &Bytes, role: Role, reusable: &mut Reusable) -> Vec<Block> {
    let block = |(resource, bytes): (&String, &i64)| {
        let again = reusable.entry((nodes.to_string(), resource.clone())).or_default();
        let fresh = (bytes - *again).max(0);
        // An init container leaves what it had; what goes on running keeps it.
        *again = if role == Role::Init { (*again).max(*bytes) } else { (*again - bytes).max(0) };
        Block { nodes: nodes.to_string(), resource: resource.clone(), size: *bytes, fresh }
    };
    wanted.iter().map(block).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: i64 = 1 << 30;

    fn machine(nodes: u32, gibibytes: i64) -> BTreeMap<u32, Bytes> {
        (0..nodes).map(|node| (node, [("memory".to_owned(), gibibytes * GIB)].into())).collect()
    }

    fn gib(gibibytes: i64) -> Bytes {
        [("memory".to_owned(), gibibytes * GIB)].into()
    }

    fn taken(list: &[(&str, i64)]) -> Vec<Block> {
        let block = |(nodes, gibibytes): &(&str, i64)| Block {
            nodes: (*nodes).to_owned(),
            resource: "memory".to_owned(),
            size: gibibytes * GIB,
            fresh: gibibytes * GIB,
        };
        list.iter().map(block).collect()
    }

    #[test]
    fn nodes_are_chosen() {
        let check = |others: &[(&str, i64)], wanted: i64, chosen: Option<(&str, bool)>, expected: &str| {
            let allocatable = machine(2, 4);
            let memory = Memory { allocatable: &allocatable, taken: taken(others) };
            let chosen = chosen.map(|(nodes, preferred)| Hint { nodes: nodes.parse().expect("a set"), preferred });
            let got = memory.choose(&gib(wanted), &Reusable::new(), chosen.as_ref());
            assert_eq!(
                got.map_or_else(|error| error.to_string(), |nodes| nodes.to_string()),
                expected,
                "{others:?} {wanted}"
            );
        };
        check(&[], 3, None, "0");
        check(&[("0", 2)], 3, None, "1");
        check(&[], 5, None, "0-1");
        // A node that serves one container alone is in no group.
        check(&[("0", 1)], 5, None, &MemoryError::NoNodes.to_string());
        check(&[("0-1", 5)], 3, None, "0-1");
        check(&[("0-1", 5)], 4, None, &MemoryError::NoNodes.to_string());
        check(&[], 3, Some(("1", true)), "1");
        check(&[], 5, Some(("1", false)), "0-1");
        check(&[("1", 3)], 2, Some(("1", true)), &MemoryError::NoExtension.to_string());
        check(&[("0", 1), ("1", 1)], 3, Some(("0-1", true)), &MemoryError::Grouping.to_string());
    }

    #[test]
    fn init_containers_leave_their_memory() {
        let nodes: CpuSet = "0".parse().expect("a set");
        let mut reusable = Reusable::new();
        let mut fresh = |gibibytes: i64, role| blocks(&nodes, &gib(gibibytes), role, &mut reusable)[0].fresh / GIB;
        assert_eq!(fresh(2, Role::Init), 2);
        assert_eq!(fresh(3, Role::Init), 1);
        assert_eq!(fresh(1, Role::Sidecar), 0);
        assert_eq!(fresh(1, Role::Main), 0);
        assert_eq!(fresh(2, Role::Main), 1);
    }

    proptest! {
        #[test]
        fn no_node_promises_more_than_it_has(steps in prop::collection::vec((0_usize..8, 1_i64..12), 1..30)) {
            let allocatable = machine(3, 4);
            let mut pods: BTreeMap<usize, Block> = BTreeMap::new();
            for (pod, gibibytes) in steps {
                if pods.remove(&pod).is_some() {
                    continue;
                }
                let memory = Memory { allocatable: &allocatable, taken: pods.values().cloned().collect() };
                if let Ok(nodes) = memory.choose(&gib(gibibytes), &Reusable::new(), None) {
                    pods.insert(pod, blocks(&nodes, &gib(gibibytes), Role::Main, &mut Reusable::new()).remove(0));
                }
                let mut groups: BTreeMap<&str, i64> = BTreeMap::new();
                for block in pods.values() {
                    *groups.entry(&block.nodes).or_default() += block.size;
                }
                let mut seen = CpuSet::default();
                for (nodes, bytes) in groups {
                    let nodes: CpuSet = nodes.parse().expect("a set");
                    prop_assert!(nodes.both(&seen).is_empty(), "a node is in two groups");
                    prop_assert!(bytes <= 4 * GIB * i64::try_from(nodes.len()).expect("few"));
                    seen = seen.plus(&nodes);
                }
            }
        }
    }
}
