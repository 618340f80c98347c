//! Which of the nodes that fit is best. Weights and formulas are upstream's defaults; each part gives 0 to 100.

use std::sync::Arc;

use crate::cluster::{Cluster, NodeFacts, NodeState};
use crate::node_match;
use crate::pod::{Constraints, PodInfo};
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

fn least_allocated(pod: &PodInfo, state: &NodeState, facts: &NodeFacts) -> i64 {
    let free = |wanted: i64, total: i64| if total <= 0 || wanted > total { 0 } else { (total - wanted) * BEST / total };
    let cpu = free(state.weight.0 + pod.weight.0, facts.allocatable.cpu);
    let memory = free(state.weight.1 + pod.weight.1, facts.allocatable.memory);
    i64::midpoint(cpu, memory)
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
    let liked = pod_affinity::preferences(pod, constraints, cluster);
    let crowding = spread::Counts::new(pod, constraints, cluster);
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
    let free = each(&|_, state, facts| least_allocated(pod, state, facts));
    let balance = each(&|_, state, facts| balanced(pod, state, facts));
    let local = each(&|_, state, _| images(constraints, state, cluster));
    let totals: Vec<i64> = (0..fitting.len())
        .map(|at| {
            3 * taints[at] + 2 * preferred[at] + 2 * crowd[at] + 2 * near[at] + free[at] + balance[at] + local[at]
        })
        .collect();
    let greatest = totals.iter().copied().max()?;
    let equal: Vec<usize> = (0..totals.len()).filter(|at| totals[*at] == greatest).collect();
    let chosen = equal.get(pick(equal.len())).or(equal.first())?;
    Some(fitting[*chosen].0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::tests::node;
    use crate::pod::tests::pod;

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
}
