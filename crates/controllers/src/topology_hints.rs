//! Services with the annotation `service.kubernetes.io/topology-mode: Auto`: which zone each endpoint is to serve, so that traffic
//! stays in its zone and no endpoint gets much more of it than the others.
//!
//! A zone sends as much as its nodes have processors. It gets so many endpoints that none of them is loaded by more than a fifth
//! above the average; its own first, and what it lacks from zones that have more than they need. Where that cannot be done,
//! no endpoint has a hint, and everybody uses all. Upstream:
//! <https://github.com/kubernetes/kubernetes/tree/master/staging/src/k8s.io/endpointslice/topologycache>.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Service};
use kobune_scheduler::quantity::milli_value;

use crate::service_endpoints::zone;
use crate::zone_disruption::is_ready;

/// How much more than the average an endpoint may get, as upstream.
const OVERLOAD: f64 = 0.2;
/// Nodes that send no traffic of pods.
const CONTROL_PLANE: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];
/// The annotation, and what it was called before.
const ANNOTATIONS: [&str; 2] = ["service.kubernetes.io/topology-mode", "service.kubernetes.io/topology-aware-hints"];

/// Why endpoints have no hints; upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Without {
    /// A node does not say where it is, or what it has.
    #[error("Insufficient Node information: allocatable CPU or zone not specified on one or more nodes")]
    NodeInformation,
    /// There is nothing to choose.
    #[error("Nodes only ready in one zone")]
    OneZone,
    /// Not every zone can have one.
    #[error("Insufficient number of endpoints ({endpoints} endpoints, {zones} zones)")]
    FewEndpoints {
        /// How many endpoints are ready.
        endpoints: usize,
        /// How many zones there are.
        zones: usize,
    },
    /// An endpoint's node does not say where it is.
    #[error("One or more endpoints do not have a zone specified")]
    EndpointZone,
    /// Small zones would leave too few for the large ones.
    #[error(
        "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold ({endpoints} endpoints, {zones} zones)"
    )]
    Overload {
        /// How many endpoints are ready.
        endpoints: usize,
        /// How many zones there are.
        zones: usize,
    },
}

/// Whether a Service asks for hints.
pub fn asked(service: &Service) -> bool {
    let annotations = service.metadata.annotations.as_ref();
    let value = annotations.and_then(|all| ANNOTATIONS.iter().find_map(|name| all.get(*name)));
    value.is_some_and(|value| value == "Auto" || value == "auto")
}

/// What a node adds to its zone: its name and thousandths of processors. Nothing for one that is not ready or that runs the control
/// plane; an empty name or no processors when it does not say.
pub fn weight(node: &Node) -> Option<(String, i64)> {
    let labels = node.metadata.labels.as_ref();
    let excluded = labels.is_some_and(|labels| CONTROL_PLANE.iter().any(|label| labels.contains_key(*label)));
    if excluded || !is_ready(node) {
        return None;
    }
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    let cpu = allocatable.and_then(|all| all.get("cpu")).map_or(0, milli_value);
    Some((zone(Some(node)).unwrap_or_default(), cpu))
}

/// Each zone's share of the processors.
pub type Shares = BTreeMap<String, f64>;

/// Each zone's share of the processors.
pub fn shares<'n>(nodes: impl Iterator<Item = &'n Node>) -> Result<Shares, Without> {
    let mut zones: BTreeMap<String, i64> = BTreeMap::new();
    for (zone, cpu) in nodes.filter_map(weight) {
        if zone.is_empty() || cpu <= 0 {
            return Err(Without::NodeInformation);
        }
        *zones.entry(zone).or_default() += cpu;
    }
    let total: i64 = zones.values().sum();
    match zones.len() {
        0 => Err(Without::NodeInformation),
        1 => Err(Without::OneZone),
        _ => Ok(zones.into_iter().map(|(zone, cpu)| (zone, cpu as f64 / total as f64)).collect()),
    }
}

/// How many endpoints a zone has to get, and how many it should.
#[derive(Clone, Copy, Default)]
struct Due {
    least: usize,
    wanted: f64,
}

/// The zone that each endpoint is to serve. `zones` are those of the ready endpoints, in an order that does not change by itself: of
/// those of a zone that gives some away the last ones go.
pub fn assign(shares: &Shares, zones: &[Option<String>]) -> Result<Vec<String>, Without> {
    let endpoints = zones.len();
    if shares.len() > endpoints {
        return Err(Without::FewEndpoints { endpoints, zones: shares.len() });
    }
    let mut serves: Vec<String> = Vec::with_capacity(endpoints);
    for zone in zones {
        serves.push(zone.clone().filter(|zone| !zone.is_empty()).ok_or(Without::EndpointZone)?);
    }
    let due = |share: f64| {
        let wanted = share * endpoints as f64;
        let least = (wanted / (1.0 + OVERLOAD)).ceil() as usize;
        Due { least, wanted: wanted.max(least as f64) }
    };
    let dues: BTreeMap<&str, Due> = shares.iter().map(|(zone, share)| (zone.as_str(), due(*share))).collect();
    if dues.values().map(|due| due.least).sum::<usize>() > endpoints {
        return Err(Without::Overload { endpoints, zones: shares.len() });
    }
    let mut counts: BTreeMap<String, usize> = shares.keys().map(|zone| (zone.clone(), 0)).collect();
    for zone in &serves {
        *counts.entry(zone.clone()).or_default() += 1;
    }
    let due_of = |zone: &str| dues.get(zone).copied().unwrap_or_default();
    // Each step takes one from a zone that can do without to one that cannot. As all that zones need is no more than there is, there
    // is always such a zone, and after as many steps as there are endpoints nobody lacks any.
    for _ in 0..endpoints {
        let missing = |(zone, count): &(&String, &usize)| due_of(zone).wanted - **count as f64;
        let poorest = counts.iter().filter(|(zone, count)| **count < due_of(zone).least);
        let Some((poorest, _)) = poorest.max_by(|one, other| missing(one).total_cmp(&missing(other))) else { break };
        let spare = |(zone, count): &(&String, &usize)| **count as f64 - due_of(zone).wanted;
        let richest = counts.iter().filter(|(zone, count)| **count > due_of(zone).least);
        let Some((richest, _)) = richest.max_by(|one, other| spare(one).total_cmp(&spare(other))) else { break };
        let (poorest, richest) = (poorest.clone(), richest.clone());
        // Its own endpoints: those that came from elsewhere are not passed on, since a zone that lacked some has no more than it needs.
        let Some(moved) = serves.iter_mut().rev().find(|zone| **zone == richest) else { break };
        *moved = poorest.clone();
        *counts.entry(richest).or_default() -= 1;
        *counts.entry(poorest).or_default() += 1;
    }
    Ok(serves)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn node(zone: &str, cpu: &str, ready: bool, label: Option<&str>) -> Node {
        let mut labels = json!({"topology.kubernetes.io/zone": zone});
        if let Some(label) = label {
            labels[label] = "".into();
        }
        serde_json::from_value(json!({"metadata": {"labels": labels}, "status": {"allocatable": {"cpu": cpu},
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}}))
        .expect("a node")
    }

    #[test]
    fn zones_by_their_processors() {
        let check = |nodes: &[Node], expected: Result<&[(&str, f64)], Without>| {
            let found = shares(nodes.iter()).map(|shares| shares.into_iter().collect::<Vec<_>>());
            let expected = expected.map(|all| all.iter().map(|(zone, share)| ((*zone).to_owned(), *share)).collect());
            assert_eq!(found, expected);
        };
        let plain = |zone: &str, cpu: &str| node(zone, cpu, true, None);
        check(&[plain("a", "3"), plain("b", "500m"), plain("b", "500m")], Ok(&[("a", 0.75), ("b", 0.25)]));
        check(&[plain("a", "1"), node("b", "1", false, None)], Err(Without::OneZone));
        check(&[plain("a", "1"), node("b", "1", true, Some(CONTROL_PLANE[0]))], Err(Without::OneZone));
        check(&[plain("a", "1"), plain("", "1")], Err(Without::NodeInformation));
        check(&[plain("a", "1"), plain("b", "0")], Err(Without::NodeInformation));
        check(&[], Err(Without::NodeInformation));
    }

    #[test]
    fn services_ask_by_annotation() {
        let check = |annotations: serde_json::Value, expected: bool| {
            let service = serde_json::from_value(json!({"metadata": {"annotations": annotations}})).expect("a service");
            assert_eq!(asked(&service), expected, "{annotations}");
        };
        check(json!(null), false);
        check(json!({"service.kubernetes.io/topology-mode": "Auto"}), true);
        check(json!({"service.kubernetes.io/topology-mode": "auto"}), true);
        check(json!({"service.kubernetes.io/topology-aware-hints": "auto"}), true);
        check(json!({"service.kubernetes.io/topology-mode": "Disabled"}), false);
    }

    #[test]
    fn endpoints_are_shared_out() {
        let check = |shares: &[(&str, f64)], zones: &str, expected: Result<&str, Without>| {
            let shares = shares.iter().map(|(zone, share)| ((*zone).to_owned(), *share)).collect();
            let zones: Vec<_> = zones.chars().map(|zone| (zone != '-').then(|| zone.to_string())).collect();
            let found = assign(&shares, &zones).map(|zones| zones.concat());
            assert_eq!(found, expected.map(str::to_owned), "{zones:?}");
        };
        let even: &[(&str, f64)] = &[("a", 0.5), ("b", 0.5)];
        check(even, "aabb", Ok("aabb"));
        check(even, "aaaa", Ok("aabb"));
        check(even, "aaab", Ok("aabb"));
        // A little more than its share is no reason to send traffic elsewhere.
        check(even, "aaaaaabbbbb", Ok("aaaaaabbbbb"));
        // A zone without nodes has nobody to serve.
        check(even, "ccab", Ok("abab"));
        check(even, "a", Err(Without::FewEndpoints { endpoints: 1, zones: 2 }));
        check(even, "ab-", Err(Without::EndpointZone));
        let thirds: &[(&str, f64)] = &[("a", 0.34), ("b", 0.33), ("c", 0.33)];
        check(thirds, "aaaabbbbcccc", Ok("aaaabbbbcccc"));
        check(&[("a", 0.8), ("b", 0.1), ("c", 0.1)], "aab", Err(Without::Overload { endpoints: 3, zones: 3 }));
    }

    proptest! {
        /// Whatever zones there are, no endpoint is loaded by more than a fifth above the average, and none serves another zone
        /// without need.
        #[test]
        fn nobody_is_overloaded(cpus in prop::collection::vec(1_u32..50, 2..5), zones in prop::collection::vec(0_usize..6, 1..40)) {
            let total: u32 = cpus.iter().sum();
            let name = |number: usize| format!("z{number}");
            let shares: BTreeMap<String, f64> =
                cpus.iter().enumerate().map(|(at, cpu)| (name(at), f64::from(*cpu) / f64::from(total))).collect();
            let own: Vec<Option<String>> = zones.iter().map(|zone| Some(name(*zone))).collect();
            if let Ok(serves) = assign(&shares, &own) {
                let count = |all: &mut dyn Iterator<Item = &String>, zone: &str| all.filter(|one| *one == zone).count();
                let mut needy = false;
                for (zone, share) in &shares {
                    let served = count(&mut serves.iter(), zone) as f64;
                    let wanted = share * zones.len() as f64;
                    prop_assert!(wanted / served <= 1.0 + OVERLOAD + 1e-9, "{zone} has {served} of {wanted}");
                    needy |= (count(&mut own.iter().flatten(), zone) as f64) * (1.0 + OVERLOAD) < wanted - 1e-9;
                }
                prop_assert!(needy || serves.iter().zip(&own).all(|(serves, own)| Some(serves) == own.as_ref()));
                prop_assert_eq!(serves.len(), own.len());
            }
        }
    }
}
