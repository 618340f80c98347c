//! Which devices which container gets. Pure.
//!
//! Source of the rules: `pkg/kubelet/cm/devicemanager/manager.go`: what an init container had, later ones may have again.

use std::collections::{BTreeMap, BTreeSet};

use crate::pod::{Member, Role};
use crate::quantity::Amount;

/// Devices by the resource's name.
pub type ByResource = BTreeMap<String, BTreeSet<String>>;

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

/// Chooses devices for the containers of `members` that `had` has nothing of yet; `free` is what nobody has.
pub fn assign(
    members: &[Member],
    known: impl Fn(&str) -> bool,
    mut free: ByResource,
    had: &BTreeMap<String, ByResource>,
) -> Result<BTreeMap<String, ByResource>, Short> {
    let mut given: BTreeMap<String, ByResource> = BTreeMap::new();
    let mut reusable = ByResource::new();
    for member in members.iter().filter(|member| member.role != Role::Ephemeral) {
        let name = &member.container.name;
        for (resource, count) in wanted(member, &known) {
            let before = had.get(name).and_then(|had| had.get(&resource)).filter(|ids| ids.len() == count);
            let ids = match before {
                Some(ids) => ids.clone(),
                None => {
                    let again = reusable.get(&resource).into_iter().flatten();
                    let fresh = free.get(&resource).into_iter().flatten();
                    let ids: BTreeSet<String> = again.chain(fresh).take(count).cloned().collect();
                    if ids.len() < count {
                        return Err(Short { resource, wanted: count, free: ids.len() });
                    }
                    ids
                }
            };
            if let Some(free) = free.get_mut(&resource) {
                free.retain(|id| !ids.contains(id));
            }
            let pool = reusable.entry(resource.clone()).or_default();
            if member.role == Role::Init {
                pool.extend(ids.iter().cloned());
            } else {
                pool.retain(|id| !ids.contains(id));
            }
            given.entry(name.clone()).or_default().insert(resource, ids);
        }
    }
    Ok(given)
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

    fn pool(count: usize) -> ByResource {
        [(GPU.to_owned(), (0..count).map(|number| format!("d{number}")).collect())].into()
    }

    #[test]
    fn devices_of_init_containers_are_had_again() {
        let check = |list: &[(&str, Role, usize)], count: usize, expected: &str| {
            let words = match assign(&members(list), |name| name == GPU, pool(count), &BTreeMap::new()) {
                Ok(given) => given
                    .iter()
                    .map(|(name, own)| {
                        let ids: Vec<&str> = own[GPU].iter().map(String::as_str).collect();
                        format!("{name}={}", ids.join("+"))
                    })
                    .collect::<Vec<_>>()
                    .join(" "),
                Err(short) => format!("{} of {}", short.free, short.wanted),
            };
            assert_eq!(words, expected, "{list:?}");
        };
        check(&[("a", Role::Main, 1), ("b", Role::Main, 2)], 3, "a=d0 b=d1+d2");
        check(&[("a", Role::Main, 1), ("b", Role::Main, 2)], 2, "1 of 2");
        check(&[("i", Role::Init, 2), ("a", Role::Main, 1), ("b", Role::Main, 1)], 2, "a=d0 b=d1 i=d0+d1");
        check(&[("s", Role::Sidecar, 1), ("a", Role::Main, 1)], 1, "0 of 1");
        check(&[("a", Role::Main, 0)], 0, "");
    }

    proptest! {
        #[test]
        fn nobody_shares_a_device(mains in prop::collection::vec(0_usize..4, 1..5), count in 0_usize..10) {
            let names: Vec<String> = (0..mains.len()).map(|index| format!("c{index}")).collect();
            let list: Vec<_> = names.iter().zip(&mains).map(|(name, count)| (name.as_str(), Role::Main, *count)).collect();
            let given = assign(&members(&list), |name| name == GPU, pool(count), &BTreeMap::new());
            let sum: usize = mains.iter().sum();
            prop_assert_eq!(given.is_ok(), sum <= count);
            if let Ok(given) = given {
                let all: Vec<&String> = given.values().flat_map(|own| own.values().flatten()).collect();
                let distinct: BTreeSet<&&String> = all.iter().collect();
                prop_assert_eq!((all.len(), distinct.len()), (sum, sum));
                // What was given stays so, whoever asks again.
                prop_assert_eq!(assign(&members(&list), |name| name == GPU, pool(0), &given), Ok(given));
            }
        }
    }
}
