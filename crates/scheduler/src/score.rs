//! Which of the nodes that fit is best. Weights and formulas are upstream's defaults; each part gives 0 to 100.

use std::sync::Arc;

use crate::cluster::{Cluster, NodeFacts, NodeState};
use crate::node_match;
use crate::pod::{Constraints, PodInfo};
use crate::profile::Strategy;
use crate::{pod_affinity, spread};

const BEST: i64 = 100;
/// An image below this size on a node saves nothing worth counting.
const SMALL_IMAGE: i64 = 23 * 1024 * 1024;
/// An image of this size, a container, counts fully.
const LARGE_IMAGE: i64 = 1000 * 1024 * 1024;

/// Stretches `scores` so that the greatest is 100; turned round when less is better.
fn normalize(scores: &mut [i64], less_is_better: bool) {
    let greatest = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let stretched = if greatest == 0 { 0 } else { *score * BEST / greatest };
        *score = if less_is_better { BEST - stretched } else { stretched };
    }
}

/// Stretches `scores` between the least and the greatest.
fn normalize_range(scores: &mut [i64]) {
    let (least, greatest) = (scores.iter().copied().min().unwrap_or(0), scores.iter().copied().max().unwrap_or(0));
    for score in scores {
        *score = if greatest == least { 0 } else { (*score - least) * BEST / (greatest - least) };
    }
}

/// What of a resource would be in use on a node with the pod there, and what there is; `None` when it plays no part.
fn in_use(name: &str, pod: &PodInfo, state: &NodeState, facts: &NodeFacts) -> Option<(i64, i64)> {
    let (used, total) = match name {
        "cpu" => (state.weight.0 + pod.weight.0, facts.allocatable.cpu),
        "memory" => (state.weight.1 + pod.weight.1, facts.allocatable.memory),
        "ephemeral-storage" => {
            (state.used.ephemeral_storage + pod.requests.ephemeral_storage, facts.allocatable.ephemeral_storage)
        }
        // Those that the pod does not ask for say nothing about it.
        other if pod.requests.other(other) == 0 => return None,
        other => (state.used.other(other) + pod.requests.other(other), facts.allocatable.other(other)),
    };
    (total > 0).then_some((used, total))
}

/// How well a node's fill suits the profile.
fn fit(pod: &PodInfo, state: &NodeState, facts: &NodeFacts) -> i64 {
    let (mut sum, mut weights) = (0, 0);
    for (name, weight) in &pod.profile.resources {
        let Some((used, total)) = in_use(name, pod, state, facts) else { continue };
        let score = match &pod.profile.strategy {
            Strategy::LeastAllocated if used > total => 0,
            Strategy::LeastAllocated => (total - used) * BEST / total,
            Strategy::MostAllocated => used.min(total) * BEST / total,
            Strategy::RequestedToCapacityRatio(shape) => along(shape, (used * BEST / total).min(BEST)),
        };
        if score > 0 || !matches!(pod.profile.strategy, Strategy::RequestedToCapacityRatio(_)) {
            sum += score * weight;
            weights += weight;
        }
    }
    if weights == 0 { 0 } else { sum / weights }
}

/// The score at a utilization, straight between the points of a shape.
fn along(shape: &[(i64, i64)], utilization: i64) -> i64 {
    let after = shape.partition_point(|(at, _)| *at < utilization);
    match (after.checked_sub(1).and_then(|before| shape.get(before)), shape.get(after)) {
        (Some((from, low)), Some((to, high))) => low + (high - low) * (utilization - from) / (to - from),
        (Some((_, only)), None) | (None, Some((_, only))) => *only,
        (None, None) => 0,
    }
}

fn balanced(pod: &PodInfo, state: &NodeState, facts: &NodeFacts) -> i64 {
    if facts.allocatable.cpu <= 0 || facts.allocatable.memory <= 0 {
        return 0;
    }
    let share = |wanted: i64, total: i64| (wanted as f64 / total as f64).min(1.0);
    let cpu = share(state.used.cpu + pod.requests.cpu, facts.allocatable.cpu);
    let memory = share(state.used.memory + pod.requests.memory, facts.allocatable.memory);
    ((1.0 - (cpu - memory).abs() / 2.0) * BEST as f64) as i64
}

fn preferred_node(constraints: &Constraints, name: &str, facts: &NodeFacts) -> i64 {
    let affinity = constraints.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let terms = affinity.and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref());
    terms
        .into_iter()
        .flatten()
        .filter(|term| {
            let nothing = term.preference.match_expressions.is_none() && term.preference.match_fields.is_none();
            nothing || node_match::term_matches(&term.preference, name, &facts.labels)
        })
        .map(|term| i64::from(term.weight))
        .sum()
}

fn avoided_taints(constraints: &Constraints, facts: &NodeFacts) -> i64 {
    let borne = |taint: &&_| constraints.tolerations.iter().any(|toleration| node_match::tolerates(toleration, taint));
    let avoided =
        facts.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule").filter(|taint| !borne(taint)).count();
    i64::try_from(avoided).unwrap_or(i64::MAX)
}

/// An image that few nodes have counts less: else all pods of one image would go where the first went.
fn images(constraints: &Constraints, state: &NodeState, cluster: &Cluster) -> i64 {
    let share = |image: &String| {
        let size = *state.images.get(image.as_str())?;
        Some((size as f64 * cluster.image_share(image)) as i64)
    };
    let present: i64 = constraints.images.iter().filter_map(share).sum();
    let most = LARGE_IMAGE * i64::try_from(constraints.images.len()).unwrap_or(1).max(1);
    (present.clamp(SMALL_IMAGE, most) - SMALL_IMAGE) * BEST / (most - SMALL_IMAGE)
}

/// The best of the nodes that fit; `pick` breaks ties: it gets how many are equal and says which.
pub fn best<'c>(
    pod: &PodInfo,
    constraints: &Constraints,
    cluster: &Cluster,
    fitting: &[(&'c Arc<str>, &'c NodeState, &'c NodeFacts)],
    pick: impl FnOnce(usize) -> usize,
) -> Option<&'c Arc<str>> {
    if let [(only, ..)] = fitting {
        return Some(only);
    }
    let totals = totals(pod, constraints, cluster, fitting);
    let greatest = totals.iter().copied().max()?;
    let equal: Vec<usize> = (0..totals.len()).filter(|at| totals[*at] == greatest).collect();
    let chosen = equal.get(pick(equal.len())).or(equal.first())?;
    Some(fitting[*chosen].0)
}

/// The score of each node that fits, by the weights of the pod's profile.
pub fn totals(
    pod: &PodInfo,
    constraints: &Constraints,
    cluster: &Cluster,
    fitting: &[(&Arc<str>, &NodeState, &NodeFacts)],
) -> Vec<i64> {
    let liked = pod_affinity::preferences(pod, constraints, cluster);
    let crowding = spread::Counts::new(pod, constraints, cluster, spread::Side::Soft);
    let each = |score: &dyn Fn(&Arc<str>, &NodeState, &NodeFacts) -> i64| -> Vec<i64> {
        fitting.iter().map(|(name, state, facts)| score(name, state, facts)).collect()
    };
    let mut taints = each(&|_, _, facts| avoided_taints(constraints, facts));
    normalize(&mut taints, true);
    let mut preferred = each(&|name, _, facts| preferred_node(constraints, name, facts));
    normalize(&mut preferred, false);
    let crowd = crowding.scores(&fitting.iter().map(|(_, _, facts)| *facts).collect::<Vec<_>>());
    let mut near = each(&|_, _, facts| {
        liked.iter().filter(|((key, value), _)| facts.labels.get(key) == Some(value)).map(|(_, weight)| weight).sum()
    });
    normalize_range(&mut near);
    let free = each(&|_, state, facts| fit(pod, state, facts));
    let balance = each(&|_, state, facts| balanced(pod, state, facts));
    let local = each(&|_, state, _| images(constraints, state, cluster));
    let parts = [
        ("TaintToleration", taints),
        ("NodeAffinity", preferred),
        ("PodTopologySpread", crowd),
        ("InterPodAffinity", near),
        ("NodeResourcesFit", free),
        ("NodeResourcesBalancedAllocation", balance),
        ("ImageLocality", local),
    ];
    let weighed: Vec<(i64, Vec<i64>)> =
        parts.into_iter().map(|(plugin, scores)| (pod.profile.weight(plugin), scores)).collect();
    (0..fitting.len()).map(|at| weighed.iter().map(|(weight, scores)| weight * scores[at]).sum()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::cluster::tests::node;
    use crate::pod::tests::pod;
    use crate::profile::Strategy;

    #[test]
    fn choices() {
        let check = |spec: serde_json::Value, second_spec: serde_json::Value, load: &str, expected: &str| {
            let mut cluster = Cluster::default();
            let allocatable = json!({"cpu": "4", "memory": "4Gi", "pods": "10"});
            cluster.set_node(&node("n1", json!({"disk": "hdd"}), json!({}), allocatable.clone()));
            cluster.set_node(&node("n2", json!({"disk": "ssd"}), second_spec, allocatable));
            let mut running =
                pod("r", json!({"containers": [{"resources": {"requests": {"cpu": "2", "memory": "2Gi"}}}]}));
            running.node = Some(load.into());
            cluster.place(running.into());
            let pod = pod("p", spec.clone());
            let fitting: Vec<_> = cluster.known().collect();
            let found =
                best(&pod, pod.constraints.as_deref().expect("pending"), &cluster, &fitting, |_| 0).map(|name| &**name);
            assert_eq!(found, Some(expected), "{spec}");
        };
        check(json!({"containers": [{}]}), json!({}), "n1", "n2");
        check(json!({"containers": [{}]}), json!({}), "n2", "n1");
        let prefers_ssd = json!({"containers": [{}], "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}}]}}});
        check(prefers_ssd, json!({}), "n2", "n2");
        check(json!({"containers": [{}]}), json!({"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}), "n1", "n1");
    }

    #[test]
    fn strategies() {
        let mut cluster = Cluster::default();
        let allocatable = json!({"cpu": "4", "memory": "4Gi", "pods": "10"});
        cluster.set_node(&node("n", json!({}), json!({}), allocatable));
        let asks = json!({"containers": [{"resources": {"requests": {"cpu": "1", "memory": "2Gi"}}}]});
        let check = |strategy: Strategy, expected: i64| {
            let mut pod = pod("p", asks.clone());
            let mut profile = crate::Profile::default();
            profile.strategy.clone_from(&strategy);
            pod.profile = Arc::new(profile);
            let (_, state, facts) = cluster.known().next().expect("a node");
            assert_eq!(fit(&pod, state, facts), expected, "{strategy:?}");
        };
        check(Strategy::LeastAllocated, 62);
        check(Strategy::MostAllocated, 37);
        check(Strategy::RequestedToCapacityRatio(vec![(0, 0), (100, 100)]), 37);
        check(Strategy::RequestedToCapacityRatio(vec![(0, 100), (50, 0)]), 50);
    }

    proptest! {
        #[test]
        fn shapes_stay_between_their_points(middle in 1_i64..100, scores in prop::array::uniform3(0_i64..=100), at in 0_i64..=100) {
            let shape = [(0, scores[0]), (middle, scores[1]), (100, scores[2])];
            let (from, to) = if at <= middle { (scores[0], scores[1]) } else { (scores[1], scores[2]) };
            let found = along(&shape, at);
            prop_assert!((from.min(to)..=from.max(to)).contains(&found), "{found} at {at} of {shape:?}");
        }
    }
}
