//! Amounts of resources: what pods ask for and what nodes have.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity;

/// An amount of each resource. CPU is in thousandths, everything else in whole units (bytes, pieces).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// CPU in thousandths of a core.
    pub cpu: i64,
    /// Memory in bytes.
    pub memory: i64,
    /// Ephemeral storage in bytes.
    pub ephemeral_storage: i64,
    /// Extended resources, huge pages and everything else that is counted, sorted by name.
    pub others: Vec<(Arc<str>, i64)>,
}

impl Resources {
    /// Reads a resource list. `pods` is left out: it is a limit on the count, not something a pod asks for.
    pub fn from_list(list: Option<&BTreeMap<String, Quantity>>) -> Self {
        let mut resources = Self::default();
        for (name, amount) in list.into_iter().flatten() {
            match name.as_str() {
                "cpu" => resources.cpu = quantity::milli_value(amount),
                "memory" => resources.memory = quantity::value(amount),
                "ephemeral-storage" => resources.ephemeral_storage = quantity::value(amount),
                "pods" => {}
                other => resources.others.push((other.into(), quantity::value(amount))),
            }
        }
        resources
    }

    /// The amount of a resource other than CPU, memory and ephemeral storage.
    pub fn other(&self, name: &str) -> i64 {
        self.others.binary_search_by(|(other, _)| other.as_ref().cmp(name)).map_or(0, |at| self.others[at].1)
    }

    fn combine(&mut self, more: &Self, combine: impl Fn(i64, i64) -> i64) {
        self.cpu = combine(self.cpu, more.cpu);
        self.memory = combine(self.memory, more.memory);
        self.ephemeral_storage = combine(self.ephemeral_storage, more.ephemeral_storage);
        for (name, amount) in &more.others {
            match self.others.binary_search_by(|(other, _)| other.cmp(name)) {
                Ok(at) => self.others[at].1 = combine(self.others[at].1, *amount),
                Err(at) => self.others.insert(at, (name.clone(), combine(0, *amount))),
            }
        }
    }

    /// Adds `more`.
    pub fn add(&mut self, more: &Self) {
        self.combine(more, i64::saturating_add);
    }

    /// Takes `less` away.
    pub fn subtract(&mut self, less: &Self) {
        self.combine(less, i64::saturating_sub);
    }

    /// Raises each amount to at least that of `other`.
    pub fn raise_to(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }
}
