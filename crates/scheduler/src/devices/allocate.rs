//! The search for devices: which of a node's devices satisfy all requests of a pod's claims together.
//!
//! Requests are taken in their order and devices in theirs, so that equal questions have equal answers; where a choice leads
//! nowhere the search goes back to it. Its length is bounded: a puzzle that cannot be solved in so many steps counts as one that
//! cannot be solved, and the pod waits instead of the scheduler.
//!
//! Upstream: <https://github.com/kubernetes/kubernetes/tree/master/staging/src/k8s.io/dynamic-resource-allocation/structured>.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::api::resource::v1::{
    AllocationResult, CapacityRequestPolicy, Device, DeviceAllocationConfiguration, DeviceAllocationResult,
    DeviceAttribute, DeviceConstraint, DeviceRequestAllocationResult, ResourceSlice,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::pools::{Id, Pools, Reach};
use super::request::{Alternative, Amount, Request, Wanted};
use super::selector::qualified;
use crate::volume_match::Place;

/// Devices of one claim at most, upstream's `AllocationResultsMaxSize`.
const MOST_RESULTS: usize = 32;
/// Devices tried for one node before the search is given up.
const STEPS: usize = 100_000;

/// What claims have of devices already.
#[derive(Clone, Debug, Default)]
pub struct InUse<'c> {
    /// Devices that belong to one claim alone.
    pub alone: BTreeSet<Id<'c>>,
    /// What is taken of devices that several claims share, in thousandths, by the capacity's name.
    pub shared: HashMap<Id<'c>, BTreeMap<&'c str, i128>>,
}

impl<'c> InUse<'c> {
    /// Counts what a claim has.
    pub fn add(&mut self, allocation: &'c AllocationResult) {
        for result in allocation.devices.iter().flat_map(|devices| devices.results.iter().flatten()) {
            if result.admin_access == Some(true) {
                continue;
            }
            let id = Id { driver: &result.driver, pool: &result.pool, device: &result.device };
            match &result.share_id {
                None => drop(self.alone.insert(id)),
                Some(_) => {
                    let taken = self.shared.entry(id).or_default();
                    for (name, amount) in result.consumed_capacity.iter().flatten() {
                        *taken.entry(name).or_default() += thousandths(amount);
                    }
                }
            }
        }
    }
}

fn thousandths(quantity: &Quantity) -> i128 {
    crate::quantity::milli_value(quantity).into()
}

fn quantity(thousandths: i128) -> Quantity {
    if thousandths % 1000 == 0 {
        Quantity((thousandths / 1000).to_string())
    } else {
        Quantity(format!("{thousandths}m"))
    }
}

/// A device that the node can have.
#[derive(Clone, Copy, Debug)]
struct Candidate<'c> {
    id: Id<'c>,
    slice: &'c ResourceSlice,
    device: &'c Device,
    usable: bool,
}

/// A device that was chosen.
#[derive(Clone, Debug)]
struct Chosen {
    request: usize,
    alternative: usize,
    candidate: usize,
    /// What is taken of a device that others share, in thousandths.
    consumed: Option<BTreeMap<String, i128>>,
}

/// The question for one node.
pub struct Search<'s, 'c> {
    wanted: &'s [Wanted<'c>],
    requests: &'s [Request<'c>],
    pools: &'s Pools<'c>,
    in_use: &'s InUse<'c>,
    candidates: Vec<Candidate<'c>>,
    chosen: Vec<Chosen>,
    /// Answers of selectors, by request, alternative and candidate.
    selected: HashMap<(usize, usize, usize), bool>,
    steps: usize,
    error: Option<String>,
}

impl<'s, 'c> Search<'s, 'c> {
    /// Looks at what the node can have.
    pub fn new(
        wanted: &'s [Wanted<'c>],
        requests: &'s [Request<'c>],
        pools: &'s Pools<'c>,
        in_use: &'s InUse<'c>,
        place: Place<'_>,
    ) -> Self {
        let mut candidates = Vec::new();
        for ((driver, name), pool) in pools {
            let within =
                pool.devices().filter(|(slice, device)| Reach::of(slice, device).is_some_and(|at| at.has(place)));
            let within: Vec<_> = within.collect();
            if within.is_empty() {
                continue;
            }
            let usable = pool.is_complete() && !pool.is_ambiguous();
            candidates.extend(within.into_iter().map(|(slice, device)| Candidate {
                id: Id { driver, pool: name, device: &device.name },
                slice,
                device,
                usable,
            }));
        }
        Self {
            wanted,
            requests,
            pools,
            in_use,
            candidates,
            chosen: Vec::new(),
            selected: HashMap::new(),
            steps: 0,
            error: None,
        }
    }

    /// What each claim gets; `Ok(None)` when the devices do not suffice, `Err` when a selector fails.
    pub fn run(mut self, node: &str) -> Result<Option<Vec<AllocationResult>>, String> {
        let found = self.request(0);
        match self.error.take() {
            Some(error) => Err(error),
            None if found => Ok(Some((0..self.wanted.len()).map(|claim| self.result(claim, node)).collect())),
            None => Ok(None),
        }
    }

    fn request(&mut self, request: usize) -> bool {
        let Some(asked) = self.requests.get(request) else { return true };
        let before = self.chosen.len();
        for (number, alternative) in asked.alternatives.iter().enumerate() {
            let found = match alternative.amount {
                Amount::Exactly(count) => self.some(request, number, count, 0),
                Amount::All => self.all(request, number) && self.request(request + 1),
            };
            if found {
                return true;
            }
            self.chosen.truncate(before);
            if self.error.is_some() {
                return false;
            }
        }
        false
    }

    /// Chooses `left` more devices, none before `from`, and then those of the requests that follow.
    fn some(&mut self, request: usize, alternative: usize, left: usize, from: usize) -> bool {
        if left == 0 {
            return self.request(request + 1);
        }
        for candidate in from..self.candidates.len() {
            self.steps += 1;
            if self.steps > STEPS {
                return false;
            }
            if !self.candidates[candidate].usable || !self.selects(request, alternative, candidate) {
                if self.error.is_some() {
                    return false;
                }
                continue;
            }
            if self.choose(request, alternative, candidate) {
                if self.some(request, alternative, left - 1, candidate + 1) {
                    return true;
                }
                self.chosen.pop();
                if self.error.is_some() {
                    return false;
                }
            }
        }
        false
    }

    /// Chooses all devices that are meant; one that cannot be had spoils it.
    fn all(&mut self, request: usize, alternative: usize) -> bool {
        let mut number = 0;
        for candidate in 0..self.candidates.len() {
            if !self.selects(request, alternative, candidate) {
                if self.error.is_some() {
                    return false;
                }
                continue;
            }
            if !self.candidates[candidate].usable || !self.choose(request, alternative, candidate) {
                return false;
            }
            number += 1;
        }
        number > 0
    }

    fn selects(&mut self, request: usize, alternative: usize, candidate: usize) -> bool {
        if let Some(known) = self.selected.get(&(request, alternative, candidate)) {
            return *known;
        }
        let Candidate { id, device, .. } = self.candidates[candidate];
        let answer = match self.requests[request].alternatives[alternative].selects(id.driver, device) {
            Ok(answer) => answer,
            Err(error) => {
                let claim = &self.wanted[self.requests[request].claim].claim.metadata;
                self.error = Some(format!(
                    "claim {}/{}, request {}, device {}/{}/{}: {error}",
                    claim.namespace.as_deref().unwrap_or_default(),
                    claim.name.as_deref().unwrap_or_default(),
                    self.requests[request].name,
                    id.driver,
                    id.pool,
                    id.device,
                ));
                false
            }
        };
        self.selected.insert((request, alternative, candidate), answer);
        answer
    }

    fn claim_of(&self, chosen: &Chosen) -> usize {
        self.requests[chosen.request].claim
    }

    fn alternative(&self, chosen: &Chosen) -> &'s Alternative<'c> {
        &self.requests[chosen.request].alternatives[chosen.alternative]
    }

    /// Chooses a device if it can be had together with all that was chosen before.
    fn choose(&mut self, request: usize, alternative: usize, candidate: usize) -> bool {
        let Candidate { id, device, .. } = self.candidates[candidate];
        let asked = &self.requests[request].alternatives[alternative];
        let claim = self.requests[request].claim;
        if self.chosen.iter().filter(|chosen| self.claim_of(chosen) == claim).count() >= MOST_RESULTS
            || !asked.tolerates(device)
        {
            return false;
        }
        let several = device.allow_multiple_allocations == Some(true);
        let Some(consumed) = consumption(device, asked) else { return false };
        if !asked.admin {
            let mine = self
                .chosen
                .iter()
                .filter(|chosen| self.candidates[chosen.candidate].id == id && !self.alternative(chosen).admin);
            let mut taken = self.in_use.shared.get(&id).cloned().unwrap_or_default();
            for chosen in mine {
                if !several {
                    return false;
                }
                for (name, amount) in chosen.consumed.iter().flatten() {
                    let total =
                        device.capacity.iter().flatten().find(|(known, _)| *known == name).map(|(known, _)| known);
                    if let Some(known) = total {
                        *taken.entry(known.as_str()).or_default() += amount;
                    }
                }
            }
            if self.in_use.alone.contains(&id) || (!several && self.in_use.shared.contains_key(&id)) {
                return false;
            }
            if several
                && !consumed.iter().all(|(name, amount)| {
                    let total = device.capacity.iter().flatten().find(|(known, _)| *known == name);
                    let total = total.map_or(0, |(_, capacity)| thousandths(&capacity.value));
                    taken.get(name.as_str()).copied().unwrap_or(0) + amount <= total
                })
            {
                return false;
            }
            if !self.counters_suffice(candidate) {
                return false;
            }
        }
        let consumed = several.then_some(consumed).filter(|_| !asked.admin);
        self.chosen.push(Chosen { request, alternative, candidate, consumed });
        if self.constraints_hold(claim) {
            return true;
        }
        self.chosen.pop();
        false
    }

    /// Whether the counters that devices of a pool draw on have enough left for one more.
    fn counters_suffice(&self, candidate: usize) -> bool {
        let Candidate { id, device, .. } = self.candidates[candidate];
        let Some(consumes) = &device.consumes_counters else { return true };
        let Some(pool) = self.pools.get(&(id.driver, id.pool)) else { return false };
        let drawn = |device: &Device, set: &str, counter: &str| -> i128 {
            let of_set = device.consumes_counters.iter().flatten().filter(|consumes| consumes.counter_set == set);
            of_set
                .filter_map(|consumes| consumes.counters.get(counter))
                .map(|counter| thousandths(&counter.value))
                .sum()
        };
        let used: Vec<&Device> = pool
            .devices()
            .map(|(_, other)| other)
            .filter(|other| {
                let other = Id { device: &other.name, ..id };
                // One that is shared draws once, however many have a part in it.
                other != id
                    && (self.in_use.alone.contains(&other)
                        || self.in_use.shared.contains_key(&other)
                        || self.chosen.iter().any(|chosen| {
                            self.candidates[chosen.candidate].id == other && !self.alternative(chosen).admin
                        }))
            })
            .collect();
        consumes.iter().all(|wanted| {
            let sets = pool.slices.iter().flat_map(|slice| slice.spec.shared_counters.iter().flatten());
            let Some(set) = sets.into_iter().find(|set| set.name == wanted.counter_set) else { return false };
            wanted.counters.keys().all(|counter| {
                let Some(total) = set.counters.get(counter) else { return false };
                let others: i128 = used.iter().map(|device| drawn(device, &set.name, counter)).sum();
                others + drawn(device, &set.name, counter) <= thousandths(&total.value)
            })
        })
    }

    /// Whether what was chosen for a claim so far has in common, or not, what the claim's constraints say.
    fn constraints_hold(&self, claim: usize) -> bool {
        self.wanted[claim].constraints.iter().all(|constraint| {
            let subject = |chosen: &&Chosen| {
                self.claim_of(chosen) == claim
                    && concerns(constraint, self.requests[chosen.request].name, &self.alternative(chosen).name)
            };
            let attributes = |name: &String| -> Option<Vec<&DeviceAttribute>> {
                let of = |chosen: &Chosen| lookup(&self.candidates[chosen.candidate], name);
                self.chosen.iter().filter(subject).map(of).collect()
            };
            let same = constraint
                .match_attribute
                .as_ref()
                .is_none_or(|name| attributes(name).is_some_and(|all| all.windows(2).all(|pair| pair[0] == pair[1])));
            let distinct = constraint.distinct_attribute.as_ref().is_none_or(|name| {
                attributes(name).is_some_and(|all| all.iter().enumerate().all(|(at, one)| !all[..at].contains(one)))
            });
            same && distinct
        })
    }

    /// What a claim gets.
    fn result(&self, claim: usize, node: &str) -> AllocationResult {
        let mine: Vec<&Chosen> = self.chosen.iter().filter(|chosen| self.claim_of(chosen) == claim).collect();
        let results = mine.iter().map(|chosen| {
            let (Candidate { id, .. }, asked) = (self.candidates[chosen.candidate], self.alternative(chosen));
            let consumed = chosen.consumed.as_ref();
            DeviceRequestAllocationResult {
                request: asked.name.clone(),
                driver: id.driver.to_owned(),
                pool: id.pool.to_owned(),
                device: id.device.to_owned(),
                admin_access: asked.admin.then_some(true),
                tolerations: (!asked.tolerations.is_empty()).then(|| asked.tolerations.to_vec()),
                consumed_capacity: consumed
                    .map(|amounts| amounts.iter().map(|(name, amount)| (name.clone(), quantity(*amount))).collect()),
                share_id: consumed.map(|_| share_id()),
                ..DeviceRequestAllocationResult::default()
            }
        });
        let results: Vec<_> = results.collect();
        let mut config = Vec::new();
        let mut told = BTreeSet::new();
        for chosen in &mine {
            let asked = self.alternative(chosen);
            if !told.insert(&asked.name) {
                continue;
            }
            config.extend(asked.class.spec.config.iter().flatten().map(|own| DeviceAllocationConfiguration {
                source: "FromClass".to_owned(),
                requests: Some(vec![asked.name.clone()]),
                opaque: own.opaque.clone(),
            }));
        }
        let spec = self.wanted[claim].claim.spec.devices.as_ref();
        let own = spec.and_then(|devices| devices.config.as_ref()).into_iter().flatten();
        // Of alternatives that were not taken nothing is told.
        let own = own.filter(|own| {
            let names = own.requests.as_deref().unwrap_or_default();
            names.is_empty()
                || names.iter().any(|name| {
                    mine.iter().any(|chosen| {
                        *name == self.alternative(chosen).name || name == self.requests[chosen.request].name
                    })
                })
        });
        config.extend(own.map(|own| DeviceAllocationConfiguration {
            source: "FromClaim".to_owned(),
            requests: own.requests.clone(),
            opaque: own.opaque.clone(),
        }));
        AllocationResult {
            devices: Some(DeviceAllocationResult {
                config: (!config.is_empty()).then_some(config),
                results: (!results.is_empty()).then_some(results),
            }),
            node_selector: self.node_selector(&mine, node),
            allocation_timestamp: None,
        }
    }

    /// The nodes where all chosen devices can be used; `None` for all nodes.
    fn node_selector(&self, chosen: &[&Chosen], node: &str) -> Option<NodeSelector> {
        let mut merged = NodeSelectorTerm::default();
        for chosen in chosen {
            let Candidate { slice, device, .. } = self.candidates[chosen.candidate];
            match Reach::of(slice, device) {
                Some(Reach::Node(_)) => {
                    let own = NodeSelectorRequirement {
                        key: "metadata.name".to_owned(),
                        operator: "In".to_owned(),
                        values: Some(vec![node.to_owned()]),
                    };
                    let term = NodeSelectorTerm { match_fields: Some(vec![own]), match_expressions: None };
                    return Some(NodeSelector { node_selector_terms: vec![term] });
                }
                Some(Reach::Selected(selector)) => {
                    // Validation lets a slice have one term.
                    for term in selector.node_selector_terms.iter().take(1) {
                        unite(&mut merged.match_expressions, term.match_expressions.as_ref());
                        unite(&mut merged.match_fields, term.match_fields.as_ref());
                    }
                }
                Some(Reach::Everywhere) | None => {}
            }
        }
        let says = merged.match_expressions.is_some() || merged.match_fields.is_some();
        says.then(|| NodeSelector { node_selector_terms: vec![merged] })
    }
}

fn unite(all: &mut Option<Vec<NodeSelectorRequirement>>, more: Option<&Vec<NodeSelectorRequirement>>) {
    for requirement in more.into_iter().flatten() {
        let all = all.get_or_insert_default();
        if !all.contains(requirement) {
            all.push(requirement.clone());
        }
    }
}

/// Whether a constraint is about a request; without names it is about all.
fn concerns(constraint: &DeviceConstraint, request: &str, alternative: &str) -> bool {
    let names = constraint.requests.as_deref().unwrap_or_default();
    names.is_empty() || names.iter().any(|name| name == request || name == alternative)
}

/// An attribute by its full name; the driver may leave its own domain out.
fn lookup<'c>(candidate: &Candidate<'c>, name: &str) -> Option<&'c DeviceAttribute> {
    let attributes = candidate.device.attributes.as_ref()?;
    let (domain, own) = qualified(candidate.id.driver, name);
    attributes.get(name).or_else(|| attributes.get(own).filter(|_| domain == candidate.id.driver))
}

/// What a request takes of a device's capacities, in thousandths; `None` when the device has not got it.
fn consumption(device: &Device, asked: &Alternative<'_>) -> Option<BTreeMap<String, i128>> {
    let requests = asked.capacity.and_then(|capacity| capacity.requests.as_ref());
    let capacities = device.capacity.as_ref();
    for name in requests.into_iter().flatten().map(|(name, _)| name) {
        capacities?.get(name)?;
    }
    let mut taken = BTreeMap::new();
    for (name, capacity) in capacities.into_iter().flatten() {
        let total = thousandths(&capacity.value);
        let request = requests.and_then(|requests| requests.get(name)).map(thousandths);
        let amount = match (&capacity.request_policy, request) {
            (Some(policy), None) => policy.default.as_ref().map_or(total, thousandths),
            (None, None) => total,
            (policy, Some(request)) => policy.as_ref().map_or(Some(request), |policy| allowed(policy, request))?,
        };
        if amount > total {
            return None;
        }
        taken.insert(name.clone(), amount);
    }
    Some(taken)
}

/// The least amount that a policy allows and that is not less than what is asked for.
fn allowed(policy: &CapacityRequestPolicy, asked: i128) -> Option<i128> {
    if let Some(values) = &policy.valid_values {
        return values.iter().map(thousandths).filter(|value| *value >= asked).min();
    }
    let Some(range) = &policy.valid_range else { return Some(asked) };
    let least = thousandths(&range.min);
    let mut amount = asked.max(least);
    if let Some(step) = range.step.as_ref().map(thousandths).filter(|step| *step > 0) {
        amount = least + (amount - least + step - 1) / step * step;
    }
    range.max.as_ref().is_none_or(|most| amount <= thousandths(most)).then_some(amount)
}

/// A new identity of a share.
fn share_id() -> String {
    let [mut high, mut low]: [u64; 2] = rand::random();
    // The bits that say how a UUID was made: by chance.
    high = high & !0xf000 | 0x4000;
    low = low & !(0b11 << 62) | 0b10 << 62;
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}
