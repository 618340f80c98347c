//! What a node is told about reserving and placing.

use std::collections::BTreeMap;

use super::align::{AlignPolicy, AlignScope};
use super::cpu_set::CpuSet;
use super::cpus::CpuOptions;
use crate::ledger::Totals;
use crate::quantity::Amount;

/// What a node is told about reserving and placing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlacementSettings {
    /// `--cpu-manager-policy static` with its options; `None` for the policy `none`.
    pub cpus: Option<CpuOptions>,
    /// `--memory-manager-policy Static` with `--reserved-memory`; `None` for the policy `None`.
    pub memory: Option<ReservedMemory>,
    /// `--topology-manager-policy`.
    pub align: AlignPolicy,
    /// `--topology-manager-scope`.
    pub scope: AlignScope,
    /// `--reserved-cpus`.
    pub reserved_cpus: CpuSet,
    /// What `--system-reserved` and `--kube-reserved` keep from pods together.
    pub reserved: Reserved,
}

/// What each memory node keeps from pods, by resource in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReservedMemory(pub BTreeMap<u32, BTreeMap<String, i64>>);

/// A reservation of memory that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not NODE:RESOURCE=AMOUNT[,RESOURCE=AMOUNT...] with memory or huge pages, each but once")]
pub struct ReservedMemoryError(pub String);

impl std::str::FromStr for ReservedMemory {
    type Err = ReservedMemoryError;

    fn from_str(text: &str) -> Result<ReservedMemory, ReservedMemoryError> {
        let wrong = || ReservedMemoryError(text.to_owned());
        let mut nodes: BTreeMap<u32, BTreeMap<String, i64>> = BTreeMap::new();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let (node, list) = part.split_once(':').ok_or_else(wrong)?;
            let own = nodes.entry(node.trim().parse().map_err(|_| wrong())?).or_default();
            for pair in list.split(',') {
                let (resource, amount) = pair.split_once('=').ok_or_else(wrong)?;
                let is_memory = resource == "memory" || resource.starts_with("hugepages-");
                let bytes = Amount::parse(amount).map(Amount::value).filter(|bytes| *bytes >= 0 && is_memory);
                if own.insert(resource.to_owned(), bytes.ok_or_else(wrong)?).is_some() {
                    return Err(wrong());
                }
            }
        }
        Ok(ReservedMemory(nodes))
    }
}

/// Amounts that are kept from pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// Thousandths of a CPU.
    pub cpu: i64,
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of ephemeral storage.
    pub storage: i64,
}

/// A reservation that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReservedError {
    /// Only CPUs, memory and ephemeral storage are reserved.
    #[error("{0:?} can't be reserved: cpu, memory and ephemeral-storage can")]
    Resource(String),
    /// The amount can't be read, or is below zero.
    #[error("{amount:?} is no amount of {resource}")]
    Amount {
        /// The resource.
        resource: String,
        /// What was given.
        amount: String,
    },
}

impl Reserved {
    /// Adds `resource=amount`.
    pub fn add(&mut self, resource: &str, amount: &str) -> Result<(), ReservedError> {
        let wrong = || ReservedError::Amount { resource: resource.to_owned(), amount: amount.to_owned() };
        let read = Amount::parse(amount).filter(|read| read.milli() >= 0).ok_or_else(wrong)?;
        match resource {
            "cpu" => self.cpu = self.cpu.saturating_add(read.milli()),
            "memory" => self.memory = self.memory.saturating_add(read.value()),
            "ephemeral-storage" => self.storage = self.storage.saturating_add(read.value()),
            unknown => return Err(ReservedError::Resource(unknown.to_owned())),
        }
        Ok(())
    }
}

impl PlacementSettings {
    /// Everything that is kept from pods. Named CPUs stand in place of an amount, as with upstream's kubelet.
    pub fn reserved(&self) -> Totals {
        let named = i64::try_from(self.reserved_cpus.len()).unwrap_or(0).saturating_mul(1000);
        let cpu = if named > 0 { named } else { self.reserved.cpu };
        Totals { cpu, memory: self.reserved.memory, storage: self.reserved.storage }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_of_memory_are_read() {
        let check = |text: &str, expected: Option<&[(u32, &str, i64)]>| {
            let read: Option<ReservedMemory> = text.parse().ok();
            let list = read.map(|read| {
                let each = |(node, own): (u32, BTreeMap<String, i64>)| {
                    own.into_iter().map(move |(name, bytes)| (node, name, bytes))
                };
                read.0.into_iter().flat_map(each).collect::<Vec<_>>()
            });
            let list: Option<Vec<(u32, &str, i64)>> = list
                .as_ref()
                .map(|list| list.iter().map(|(node, name, bytes)| (*node, name.as_str(), *bytes)).collect());
            assert_eq!(list.as_deref(), expected, "{text}");
        };
        check("", Some(&[]));
        check(
            "0:memory=1Ki,hugepages-2Mi=2Mi;1:memory=1",
            Some(&[(0, "hugepages-2Mi", 2 << 20), (0, "memory", 1024), (1, "memory", 1)]),
        );
        check("0:memory=1;0:memory=1", None);
        check("0:cpu=1", None);
        check("memory=1", None);
        check("0:memory=-1", None);
    }

    #[test]
    fn reservations_add_up() {
        let mut reserved = Reserved::default();
        for (resource, amount) in [("cpu", "500m"), ("cpu", "1"), ("memory", "1Gi"), ("ephemeral-storage", "1k")] {
            reserved.add(resource, amount).expect("an amount");
        }
        assert_eq!(reserved, Reserved { cpu: 1500, memory: 1 << 30, storage: 1000 });
        let check = |resource: &str, amount: &str, expected: &str| {
            assert_eq!(Reserved::default().add(resource, amount).expect_err("wrong").to_string(), expected);
        };
        check("gpu", "1", "\"gpu\" can't be reserved: cpu, memory and ephemeral-storage can");
        check("cpu", "x", "\"x\" is no amount of cpu");
        check("memory", "-1", "\"-1\" is no amount of memory");
        let named = PlacementSettings { reserved_cpus: "0-1".parse().expect("a set"), reserved, ..Default::default() };
        assert_eq!(named.reserved().cpu, 2000);
    }
}
