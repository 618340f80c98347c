//! Which devices a node can have: those of the newest generation of each pool.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::NodeSelector;
use k8s_openapi::api::resource::v1::{Device, ResourceSlice};

use crate::node_match;
use crate::volume_match::Place;

/// A device by its driver, its pool and its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id<'c> {
    /// The driver.
    pub driver: &'c str,
    /// The pool.
    pub pool: &'c str,
    /// The name.
    pub device: &'c str,
}

/// The slices of a pool's newest generation.
#[derive(Debug, Default)]
pub struct Pool<'c> {
    generation: i64,
    /// The slices.
    pub slices: Vec<&'c ResourceSlice>,
}

impl<'c> Pool<'c> {
    /// Whether all slices are there that the driver says there are.
    pub fn is_complete(&self) -> bool {
        let wanted = self.slices.first().map_or(0, |slice| slice.spec.pool.resource_slice_count);
        i64::try_from(self.slices.len()).is_ok_and(|number| number >= wanted)
    }

    /// Whether two devices have one name, which makes both unusable.
    pub fn is_ambiguous(&self) -> bool {
        let mut names = BTreeSet::new();
        !self.devices().all(|(_, device)| names.insert(device.name.as_str()))
    }

    /// All devices, on whatever node.
    pub fn devices(&self) -> impl Iterator<Item = (&'c ResourceSlice, &'c Device)> {
        self.slices.iter().flat_map(|slice| slice.spec.devices.iter().flatten().map(|device| (*slice, device)))
    }
}

/// All pools by driver and name.
pub type Pools<'c> = BTreeMap<(&'c str, &'c str), Pool<'c>>;

/// Puts slices together to pools.
pub fn gather<'c>(slices: impl Iterator<Item = &'c Arc<ResourceSlice>>) -> Pools<'c> {
    let mut pools = Pools::new();
    for slice in slices {
        let (spec, pool) = (&slice.spec, &slice.spec.pool);
        let known: &mut Pool<'c> = pools.entry((&spec.driver, &pool.name)).or_default();
        if known.slices.is_empty() || pool.generation > known.generation {
            *known = Pool { generation: pool.generation, slices: vec![slice] };
        } else if pool.generation == known.generation {
            known.slices.push(slice);
        }
    }
    pools
}

/// Where a device can be used, as its slice or, where each device has a place of its own, the device says it.
#[derive(Clone, Copy, Debug)]
pub enum Reach<'c> {
    /// On one node.
    Node(&'c str),
    /// On the nodes that a selector means.
    Selected(&'c NodeSelector),
    /// On all nodes.
    Everywhere,
}

impl<'c> Reach<'c> {
    /// Where a device can be used; `None` when nobody says it.
    pub fn of(slice: &'c ResourceSlice, device: &'c Device) -> Option<Self> {
        let (node, selector, all) = if slice.spec.per_device_node_selection == Some(true) {
            (&device.node_name, &device.node_selector, device.all_nodes)
        } else {
            (&slice.spec.node_name, &slice.spec.node_selector, slice.spec.all_nodes)
        };
        match (node.as_deref().filter(|name| !name.is_empty()), selector) {
            (Some(node), _) => Some(Reach::Node(node)),
            (None, Some(selector)) => Some(Reach::Selected(selector)),
            (None, None) => (all == Some(true)).then_some(Reach::Everywhere),
        }
    }

    /// Whether a node is within reach.
    pub fn has(self, place: Place<'_>) -> bool {
        match self {
            Reach::Node(name) => name == place.name,
            Reach::Selected(selector) => selected(selector, place),
            Reach::Everywhere => true,
        }
    }
}

/// Whether a selector means a node.
pub fn selected(selector: &NodeSelector, place: Place<'_>) -> bool {
    selector.node_selector_terms.iter().any(|term| node_match::term_matches(term, place.name, place.labels))
}
