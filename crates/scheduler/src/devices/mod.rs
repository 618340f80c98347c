//! Devices of pods that wait for a node: which nodes their claims allow, what is chosen there, and what has to be written first.
//!
//! ```text
//!   claim allocated ──▶ its node selector decides
//!   claim not allocated ──▶ search among the node's devices ──▶ node chosen ──▶ kept from others here ──▶ written to the claim,
//!       with the pod as its user ──▶ pod bound
//! ```
//!
//! Upstream: <https://github.com/kubernetes/kubernetes/tree/master/pkg/scheduler/framework/plugins/dynamicresources>.

pub mod allocate;
pub mod pools;
pub mod request;
pub mod selector;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::NodeSelector;
use k8s_openapi::api::resource::v1::{AllocationResult, DeviceClass, ResourceClaim, ResourceSlice};

use crate::pod::PodInfo;
use crate::volume_match::Place;
use allocate::{InUse, Search};
use pools::Pools;
use request::{Request, Wanted};

/// Pods that may use a claim at a time, upstream's `ResourceClaimReservedForMaxSize`.
const MOST_USERS: usize = 256;
/// The finalizer that keeps a claim while it has devices.
pub const FINALIZER: &str = "resource.kubernetes.io/delete-protection";

/// A claim on devices that a pod names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceClaimUse {
    /// The claim's name, once it is known; a claim out of a template has none before its controller has made it.
    pub claim: Option<Box<str>>,
    /// Whether it is made out of a template for this pod alone.
    pub generated: bool,
}

type Key = (Box<str>, Box<str>);

/// An allocation that is on its way to its claim.
#[derive(Clone, Debug)]
struct Assumed {
    allocation: AllocationResult,
    pod: Arc<str>,
}

/// What the cluster has of devices, and who has them.
#[derive(Clone, Debug, Default)]
pub struct Devices {
    slices: HashMap<Box<str>, Arc<ResourceSlice>>,
    classes: HashMap<Box<str>, Arc<DeviceClass>>,
    claims: HashMap<Key, Arc<ResourceClaim>>,
    /// By the claim's uid.
    assumed: HashMap<Box<str>, Assumed>,
}

/// What is to be written to a claim before its pod is bound.
#[derive(Clone, Debug)]
pub struct Write {
    /// The claim as it is known.
    pub claim: Arc<ResourceClaim>,
    /// What it gets; `None` when it has its devices already.
    pub allocation: Option<AllocationResult>,
}

/// What one pod's claims ask of nodes.
#[derive(Debug)]
pub struct Question<'c> {
    /// Claims that have their devices, with the nodes where these are.
    allocated: Vec<&'c NodeSelector>,
    wanted: Vec<Wanted<'c>>,
    requests: Vec<Request<'c>>,
    pools: Pools<'c>,
    in_use: InUse<'c>,
}

fn uid(claim: &ResourceClaim) -> &str {
    claim.metadata.uid.as_deref().unwrap_or_default()
}

fn name(claim: &ResourceClaim) -> &str {
    claim.metadata.name.as_deref().unwrap_or_default()
}

fn allocation(claim: &ResourceClaim) -> Option<&AllocationResult> {
    claim.status.as_ref()?.allocation.as_ref()
}

fn users(claim: &ResourceClaim) -> impl Iterator<Item = &str> {
    let users = claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten());
    users.map(|user| user.uid.as_str())
}

impl Devices {
    /// Takes a slice as it is now. Says whether it differs.
    pub fn set_slice(&mut self, slice: ResourceSlice) -> bool {
        let name = slice.metadata.name.clone().unwrap_or_default().into();
        let changed = self.slices.get(&name).is_none_or(|known| known.spec != slice.spec);
        self.slices.insert(name, Arc::new(slice));
        changed
    }

    /// Forgets a slice.
    pub fn remove_slice(&mut self, name: &str) {
        self.slices.remove(name);
    }

    /// Takes a class as it is now.
    pub fn set_class(&mut self, class: DeviceClass) {
        self.classes.insert(class.metadata.name.clone().unwrap_or_default().into(), Arc::new(class));
    }

    /// Forgets a class.
    pub fn remove_class(&mut self, name: &str) {
        self.classes.remove(name);
    }

    /// Takes a claim as it is now.
    pub fn set_claim(&mut self, claim: ResourceClaim) {
        if allocation(&claim).is_some() {
            self.assumed.remove(uid(&claim));
        }
        let namespace = claim.metadata.namespace.clone().unwrap_or_default();
        self.claims.insert((namespace.into(), name(&claim).into()), Arc::new(claim));
    }

    /// Forgets a claim.
    pub fn remove_claim(&mut self, namespace: &str, name: &str) {
        if let Some(claim) = self.claims.remove(&(namespace.into(), name.into())) {
            self.assumed.remove(uid(&claim));
        }
    }

    /// After a complete list: forgets the slices that it does not name.
    pub fn keep_slices(&mut self, listed: &BTreeSet<String>) {
        self.slices.retain(|name, _| listed.contains(&**name));
    }

    /// The same for classes.
    pub fn keep_classes(&mut self, listed: &BTreeSet<String>) {
        self.classes.retain(|name, _| listed.contains(&**name));
    }

    /// The same for claims.
    pub fn keep_claims(&mut self, listed: &BTreeSet<(String, String)>) {
        self.claims.retain(|(namespace, name), _| listed.contains(&(namespace.to_string(), name.to_string())));
        let known: BTreeSet<&str> = self.claims.values().map(|claim| uid(claim)).collect();
        self.assumed.retain(|uid, _| known.contains(&**uid));
    }

    /// The claims of a pod; `Err` says why it cannot run anywhere now.
    fn claims_of(&self, pod: &PodInfo) -> Result<Vec<&Arc<ResourceClaim>>, String> {
        let mut found = Vec::new();
        for used in &pod.device_claims {
            let Some(wanted) = &used.claim else {
                return Err(format!("pod \"{}/{}\": ResourceClaim not created yet", pod.namespace, pod.name));
            };
            let Some(claim) = self.claims.get(&(pod.namespace.as_ref().into(), wanted.clone())) else {
                return Err(format!("resourceclaim.resource.k8s.io \"{wanted}\" not found"));
            };
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(format!("resourceclaim \"{wanted}\" is being deleted"));
            }
            let mut owners = claim.metadata.owner_references.iter().flatten();
            if used.generated && !owners.any(|owner| owner.controller == Some(true) && *owner.uid == *pod.uid) {
                return Err(format!(
                    "ResourceClaim {}/{wanted} was not created for pod {}/{} (pod is not owner)",
                    pod.namespace, pod.namespace, pod.name
                ));
            }
            found.push(claim);
        }
        Ok(found)
    }

    /// What a pod's claims ask of nodes; `Err` says why no node will do now, `None` that they ask for nothing.
    pub fn question(&self, pod: &PodInfo) -> Result<Option<Question<'_>>, String> {
        let claims = self.claims_of(pod)?;
        if claims.is_empty() {
            return Ok(None);
        }
        let (mut allocated, mut wanted) = (Vec::new(), Vec::new());
        for claim in claims {
            if let Some(found) = allocation(claim) {
                let mine = users(claim).any(|user| *user == *pod.uid);
                if !mine && users(claim).count() >= MOST_USERS {
                    return Err(format!("resourceclaim \"{}\" in use", name(claim)));
                }
                allocated.extend(found.node_selector.as_ref());
            } else if self.assumed.contains_key(uid(claim)) {
                return Err(format!("resourceclaim \"{}\" is in the process of being allocated", name(claim)));
            } else {
                let constraints = claim.spec.devices.as_ref().and_then(|devices| devices.constraints.as_deref());
                wanted.push(Wanted { claim, constraints: constraints.unwrap_or_default() });
            }
        }
        let requests = request::read(&wanted, &self.classes)?;
        let (mut pools, mut in_use) = (Pools::new(), InUse::default());
        if !wanted.is_empty() {
            pools = pools::gather(self.slices.values());
            // Slices have no order of their own; their names give one.
            pools.values_mut().for_each(|pool| pool.slices.sort_by_key(|slice| slice.metadata.name.as_deref()));
            self.claims.values().filter_map(|claim| allocation(claim)).for_each(|allocation| in_use.add(allocation));
            self.assumed.values().for_each(|assumed| in_use.add(&assumed.allocation));
        }
        Ok(Some(Question { allocated, wanted, requests, pools, in_use }))
    }

    /// Keeps what was chosen for a pod from others, and says what is to be written.
    pub fn assume(&mut self, pod: &PodInfo, place: Place<'_>) -> Result<Vec<Write>, String> {
        let Some(question) = self.question(pod)? else { return Ok(Vec::new()) };
        let chosen = question.ask(place)?;
        let mut chosen: HashMap<Box<str>, AllocationResult> =
            question.wanted.iter().map(|wanted| uid(wanted.claim).into()).zip(chosen).collect();
        let claims: Vec<Arc<ResourceClaim>> = self.claims_of(pod)?.into_iter().cloned().collect();
        let mut writes = Vec::new();
        for claim in claims {
            let allocation = chosen.remove(uid(&claim));
            if let Some(allocation) = &allocation {
                let assumed = Assumed { allocation: allocation.clone(), pod: pod.uid.clone() };
                self.assumed.insert(uid(&claim).into(), assumed);
            }
            if allocation.is_some() || !users(&claim).any(|user| *user == *pod.uid) {
                writes.push(Write { claim, allocation });
            }
        }
        Ok(writes)
    }

    /// A pod did not get to its node: what was kept for it is free again.
    pub fn release(&mut self, pod: &str) -> bool {
        let before = self.assumed.len();
        self.assumed.retain(|_, assumed| *assumed.pod != *pod);
        self.assumed.len() != before
    }

    /// A claim of a pod that fits nowhere, whose devices nobody uses: giving them back may help, since others may be nearer.
    pub fn to_give_back(&self, pod: &PodInfo) -> Option<Arc<ResourceClaim>> {
        let claims = self.claims_of(pod).ok()?;
        let mut idle = claims.into_iter().filter(|claim| {
            allocation(claim).is_some_and(|found| found.node_selector.is_some())
                && users(claim).all(|user| *user == *pod.uid)
        });
        idle.next().cloned()
    }
}

impl Question<'_> {
    /// What each claim without devices gets on a node, in upstream's words why the node will not do.
    pub fn ask(&self, place: Place<'_>) -> Result<Vec<AllocationResult>, String> {
        if !self.allocated.iter().all(|selector| pools::selected(selector, place)) {
            return Err("resourceclaim not available on the node".to_owned());
        }
        if self.wanted.is_empty() {
            return Ok(Vec::new());
        }
        let name = place.name;
        let search = Search::new(&self.wanted, &self.requests, &self.pools, &self.in_use, place);
        search.run(name)?.ok_or_else(|| "cannot allocate all claims".to_owned())
    }
}
