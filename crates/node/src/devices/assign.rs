//! Which devices which container gets. Pure.
//!
//! Source of the rules: `pkg/kubelet/cm/devicemanager/manager.go`: what an init container had, later ones may have again; what
//! is close to the chosen memory nodes comes first.

use std::collections::{BTreeMap, BTreeSet};

use crate::ledger::Rejection;
use crate::placement::{CpuSet, Hint, Hints, MOST_NODES, subsets};
use crate::pod::{Member, Role};
use crate::quantity::Amount;

/// Devices by the resource's name.
pub type ByResource = BTreeMap<String, BTreeSet<String>>;

/// All devices by the resource's name, each with the memory nodes that it is close to.
pub type Places = BTreeMap<String, BTreeMap<String, CpuSet>>;

/// Not enough of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Short {
    /// Its name.
    pub resource: String,
    /// How many a container wants.
    pub wanted: usize,
    /// How many are free.
    pub free: usize,
}

impl From<Short> for Rejection {
    fn from(short: Short) -> Rejection {
        Rejection {
            reason: "UnexpectedAdmissionError".to_owned(),
            // Upstream's text.
            message: format!(
                "Allocate failed due to requested number of devices unavailable for {}. Requested: {}, Available: {}, which is unexpected",
                short.resource, short.wanted, short.free
            ),
        }
    }
}

/// What a container wants of resources that plugins have. `known` says which those are.
pub fn wanted<'a>(member: &Member, known: impl Fn(&str) -> bool + 'a) -> Vec<(String, usize)> {
    let limits = member.container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let count = |amount| usize::try_from(Amount::of(amount).value()).unwrap_or(0);
    limits
        .into_iter()
        .flatten()
        .filter(|(name, _)| known(name))
        .map(|(name, amount)| (name.clone(), count(amount)))
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// Devices on their way to the containers of a pod, one container after the other.
pub struct Assigning {
    /// What nobody has.
    free: ByResource,
    /// What the containers had before.
    had: BTreeMap<String, ByResource>,
    /// All devices.
    places: Places,
    reusable: ByResource,
    given: BTreeMap<String, ByResource>,
}

impl Assigning {
    /// Nothing is given yet. `places` has every resource that a plugin has or had.
    pub fn new(free: ByResource, had: BTreeMap<String, ByResource>, places: Places) -> Assigning {
        Assigning { free, had, places, reusable: ByResource::new(), given: BTreeMap::new() }
    }

    fn before(&self, name: &str, resource: &str, count: usize) -> Option<&BTreeSet<String>> {
        self.had.get(name).and_then(|had| had.get(resource)).filter(|ids| ids.len() == count)
    }

    fn candidates(&self, resource: &str) -> BTreeSet<String> {
        let again = self.reusable.get(resource).into_iter().flatten();
        again.chain(self.free.get(resource).into_iter().flatten()).cloned().collect()
    }

    /// Which memory nodes have enough of each resource that a container wants.
    pub fn hints(&self, member: &Member) -> Vec<Hints> {
        let known = |name: &str| self.places.contains_key(name);
        let each = |(resource, count): (String, usize)| {
            let candidates = self.before(&member.container.name, &resource, count).cloned();
            self.could(&resource, count, &candidates.unwrap_or_else(|| self.candidates(&resource)))
        };
        wanted(member, known).into_iter().map(each).collect()
    }

    /// Which memory nodes have enough for all containers of a pod together.
    pub fn hints_together(&self, members: &[Member]) -> Vec<Hints> {
        let known = |name: &str| self.places.contains_key(name);
        let (mut init, mut sum) = (BTreeMap::<String, usize>::new(), BTreeMap::<String, usize>::new());
        for member in members.iter().filter(|member| member.role != Role::Ephemeral) {
            for (resource, count) in wanted(member, known) {
                if member.role == Role::Init {
                    let most = init.entry(resource).or_default();
                    *most = (*most).max(count);
                } else {
                    *sum.entry(resource).or_default() += count;
                }
            }
        }
        for (resource, most) in init {
            let sum = sum.entry(resource).or_default();
            *sum = (*sum).max(most);
        }
        sum.into_iter().map(|(resource, count)| self.could(&resource, count, &self.candidates(&resource))).collect()
    }

    fn could(&self, resource: &str, count: usize, candidates: &BTreeSet<String>) -> Hints {
        let places = self.places.get(resource)?;
        if places.values().all(CpuSet::is_empty) {
            return None;
        }
        let near = |nodes: &CpuSet, id: &String| places.get(id).is_some_and(|place| !place.both(nodes).is_empty());
        // A plugin may name any number; the choices must stay few.
        let nodes: CpuSet = places.values().flat_map(CpuSet::iter).collect();
        let nodes: CpuSet = nodes.iter().take(MOST_NODES).collect();
        let able: Vec<CpuSet> = subsets(&nodes)
            .into_iter()
            .filter(|nodes| places.keys().filter(|id| near(nodes, id)).count() >= count)
            .collect();
        let fewest = able.iter().map(CpuSet::len).min().unwrap_or(nodes.len());
        let could = able.into_iter().filter(|nodes| candidates.iter().filter(|id| near(nodes, id)).count() >= count);
        Some(could.map(|nodes| Hint { preferred: nodes.len() == fewest, nodes }).collect())
    }

    /// Gives a container what it wants; what it had before it has again.
    pub fn give(&mut self, member: &Member, nodes: Option<&CpuSet>) -> Result<(), Short> {
        let name = &member.container.name;
        for (resource, count) in wanted(member, |name| self.places.contains_key(name)) {
            let ids = match self.before(name, &resource, count) {
                Some(ids) => ids.clone(),
                None => self.choose(&resource, count, nodes)?,
            };
            if let Some(free) = self.free.get_mut(&resource) {
                free.retain(|id| !ids.contains(id));
            }
            let pool = self.reusable.entry(resource.clone()).or_default();
            if member.role == Role::Init {
                pool.extend(ids.iter().cloned());
            } else {
                pool.retain(|id| !ids.contains(id));
            }
            self.given.entry(name.clone()).or_default().insert(resource, ids);
        }
        Ok(())
    }

    fn choose(&self, resource: &str, count: usize, nodes: Option<&CpuSet>) -> Result<BTreeSet<String>, Short> {
        let places = self.places.get(resource);
        let again = self.reusable.get(resource);
        // First what an init container had, then what is near, then what is far, then what is nowhere.
        let rank = |id: &String| {
            let is_far = match (nodes, places.and_then(|places| places.get(id))) {
                (None, _) => 0,
                (Some(nodes), Some(place)) if !place.both(nodes).is_empty() => 0,
                (Some(_), Some(place)) if !place.is_empty() => 1,
                (Some(_), _) => 2,
            };
            (!again.is_some_and(|again| again.contains(id)), is_far)
        };
        let mut list: Vec<String> = self.candidates(resource).into_iter().collect();
        list.sort_by_key(rank);
        if list.len() < count {
            return Err(Short { resource: resource.to_owned(), wanted: count, free: list.len() });
        }
        Ok(list.into_iter().take(count).collect())
    }

    /// What the containers have now.
    pub fn given(self) -> BTreeMap<String, ByResource> {
        self.given
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodSpec;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const GPU: &str = "example.com/gpu";

    fn members(list: &[(&str, Role, usize)]) -> Vec<Member> {
        let of = |role: Role| -> Vec<_> {
            let chosen = list.iter().filter(|(_, own, _)| *own == role);
            let policy = (role == Role::Sidecar).then_some("Always");
            chosen
                .map(|(name, _, count)| {
                    json!({"name": name, "restartPolicy": policy, "resources": {"limits": {GPU: count.to_string(), "cpu": "1"}}})
                })
                .collect()
        };
        let init = [of(Role::Init), of(Role::Sidecar)].concat();
        let spec: PodSpec =
            serde_json::from_value(json!({"initContainers": init, "containers": of(Role::Main)})).expect("a spec");
        crate::pod::members(&spec)
    }

    /// Devices by turns on two nodes, or nowhere.
    fn places(count: usize, somewhere: bool) -> Places {
        let place = |number: usize| {
            if somewhere { u32::try_from(number % 2).ok().into_iter().collect() } else { CpuSet::default() }
        };
        [(GPU.to_owned(), (0..count).map(|number| (format!("d{number}"), place(number))).collect())].into()
    }

    fn assign(
        members: &[Member],
        free: usize,
        had: BTreeMap<String, ByResource>,
        nodes: Option<&CpuSet>,
    ) -> Result<BTreeMap<String, ByResource>, Short> {
        let all = places(10, nodes.is_some());
        let pool = [(GPU.to_owned(), (0..free).map(|number| format!("d{number}")).collect())].into();
        let mut assigning = Assigning::new(pool, had, all);
        for member in members {
            assigning.give(member, nodes)?;
        }
        Ok(assigning.given())
    }

    fn words(given: Result<BTreeMap<String, ByResource>, Short>) -> String {
        let word = |(name, own): (&String, &ByResource)| {
            format!("{name}={}", own[GPU].iter().map(String::as_str).collect::<Vec<_>>().join("+"))
        };
        match given {
            Ok(given) => given.iter().map(word).collect::<Vec<_>>().join(" "),
            Err(short) => format!("{} of {}", short.free, short.wanted),
        }
    }

    #[test]
    fn devices_of_init_containers_are_had_again() {
        let check = |list: &[(&str, Role, usize)], count: usize, expected: &str| {
            assert_eq!(words(assign(&members(list), count, BTreeMap::new(), None)), expected, "{list:?}");
        };
        check(&[("a", Role::Main, 1), ("b", Role::Main, 2)], 3, "a=d0 b=d1+d2");
        check(&[("a", Role::Main, 1), ("b", Role::Main, 2)], 2, "1 of 2");
        check(&[("i", Role::Init, 2), ("a", Role::Main, 1), ("b", Role::Main, 1)], 2, "a=d0 b=d1 i=d0+d1");
        check(&[("s", Role::Sidecar, 1), ("a", Role::Main, 1)], 1, "0 of 1");
        check(&[("a", Role::Main, 0)], 0, "");
    }

    #[test]
    fn near_devices_come_first() {
        let check = |count: usize, node: u32, expected: &str| {
            let nodes = [node].into_iter().collect();
            let list = [("a", Role::Main, count)];
            assert_eq!(words(assign(&members(&list), 5, BTreeMap::new(), Some(&nodes))), expected);
        };
        check(2, 0, "a=d0+d2");
        check(2, 1, "a=d1+d3");
        check(3, 1, "a=d0+d1+d3");
    }

    #[test]
    fn nodes_that_could_serve() {
        let check = |free: &[usize], somewhere: bool, count: usize, expected: &str| {
            let pool = [(GPU.to_owned(), free.iter().map(|number| format!("d{number}")).collect())].into();
            let assigning = Assigning::new(pool, BTreeMap::new(), places(4, somewhere));
            let list = members(&[("a", Role::Main, count)]);
            let hints = assigning.hints(&list[0]);
            assert_eq!(hints, assigning.hints_together(&list), "one container is the whole pod");
            let word = |hint: &Hint| format!("{}{}", hint.nodes, if hint.preferred { "!" } else { "" });
            let list = hints[0].as_ref().map(|hints| hints.iter().map(word).collect::<Vec<_>>().join(" "));
            assert_eq!(list.unwrap_or_else(|| "any".to_owned()), expected, "{count} of {free:?}");
        };
        check(&[0, 1, 2, 3], true, 2, "0! 1! 0-1");
        check(&[0, 1, 3], true, 2, "1! 0-1");
        check(&[0, 1], true, 2, "0-1");
        check(&[0], true, 2, "");
        check(&[0, 1], false, 2, "any");
    }

    proptest! {
        #[test]
        fn nobody_shares_a_device(mains in prop::collection::vec(0_usize..4, 1..5), count in 0_usize..10) {
            let names: Vec<String> = (0..mains.len()).map(|index| format!("c{index}")).collect();
            let list: Vec<_> = names.iter().zip(&mains).map(|(name, count)| (name.as_str(), Role::Main, *count)).collect();
            let given = assign(&members(&list), count, BTreeMap::new(), None);
            let sum: usize = mains.iter().sum();
            prop_assert_eq!(given.is_ok(), sum <= count);
            if let Ok(given) = given {
                let all: Vec<&String> = given.values().flat_map(|own| own.values().flatten()).collect();
                let distinct: BTreeSet<&&String> = all.iter().collect();
                prop_assert_eq!((all.len(), distinct.len()), (sum, sum));
                // What was given stays so, whoever asks again.
                prop_assert_eq!(assign(&members(&list), 0, given.clone(), None), Ok(given));
            }
        }
    }
}
