//! Topology spread constraints.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use crate::cluster::{Cluster, NodeFacts};
use crate::labels;
use crate::node_match;
use crate::pod::{Constraints, PodInfo};

/// Pods like the one in question, by constraint and topology value.
pub struct Counts<'c> {
    hard: Vec<Counted<'c>>,
    soft: Vec<Counted<'c>>,
}

struct Counted<'c> {
    constraint: &'c TopologySpreadConstraint,
    by_value: HashMap<String, i64>,
    /// 1 when the pod itself is one of those it spreads with.
    itself: i64,
}

fn like(constraint: &TopologySpreadConstraint, pod: &PodInfo, other: &PodInfo) -> bool {
    let selected = constraint.label_selector.as_ref().is_some_and(|selector| labels::selects(selector, &other.labels));
    // Keys the pod itself does not have are ignored.
    let same = |key: &String| pod.labels.get(key).is_none_or(|value| other.labels.get(key) == Some(value));
    selected && constraint.match_label_keys.iter().flatten().all(same)
}

impl<'c> Counts<'c> {
    /// Counts once over the whole cluster, and not at all for a pod without constraints.
    pub fn new(pod: &'c PodInfo, constraints: &'c Constraints, cluster: &Cluster) -> Self {
        let count = |when: &str| {
            let wanted = constraints.spread.iter().filter(|constraint| constraint.when_unsatisfiable == when);
            wanted.map(|constraint| Self::count(constraint, pod, constraints, cluster)).collect()
        };
        Self { hard: count("DoNotSchedule"), soft: count("ScheduleAnyway") }
    }

    fn count(
        constraint: &'c TopologySpreadConstraint,
        pod: &PodInfo,
        asked: &Constraints,
        cluster: &Cluster,
    ) -> Counted<'c> {
        let mut by_value: HashMap<String, i64> = HashMap::new();
        for (name, state, facts) in cluster.known() {
            let Some(value) = facts.labels.get(&constraint.topology_key) else { continue };
            let by_affinity = constraint.node_affinity_policy.as_deref() == Some("Ignore") || {
                let affinity = asked.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
                node_match::node_selected(asked.node_selector.as_ref(), affinity, name, &facts.labels)
            };
            let by_taints = constraint.node_taints_policy.as_deref() != Some("Honor")
                || node_match::untolerated(&facts.taints, &asked.tolerations, &["NoSchedule", "NoExecute"]).is_none();
            if by_affinity && by_taints {
                let alike = state.pods.values().filter(|other| {
                    other.namespace == pod.namespace && !other.terminating && like(constraint, pod, other)
                });
                *by_value.entry(value.clone()).or_default() += i64::try_from(alike.count()).unwrap_or(i64::MAX);
            }
        }
        Counted { constraint, by_value, itself: i64::from(like(constraint, pod, pod)) }
    }

    /// Whether the node lacks a label that a hard constraint spreads over.
    pub fn lacks_label(&self, facts: &NodeFacts) -> bool {
        self.hard.iter().any(|counted| !facts.labels.contains_key(&counted.constraint.topology_key))
    }

    /// Whether all hard constraints hold with the pod on this node.
    pub fn satisfied(&self, _name: &str, facts: &NodeFacts) -> bool {
        self.hard.iter().all(|counted| {
            let Some(value) = facts.labels.get(&counted.constraint.topology_key) else { return false };
            let domains = i64::try_from(counted.by_value.len()).unwrap_or(i64::MAX);
            let enough = counted.constraint.min_domains.is_none_or(|wanted| domains >= i64::from(wanted));
            let least = if enough { counted.by_value.values().copied().min().unwrap_or(0) } else { 0 };
            let here = counted.by_value.get(value).copied().unwrap_or(0);
            here + counted.itself - least <= i64::from(counted.constraint.max_skew)
        })
    }

    /// Upstream's words for a node that does not do.
    pub fn reason(&self, facts: &NodeFacts) -> &'static str {
        if self.lacks_label(facts) {
            "node(s) didn't match pod topology spread constraints (missing required label)"
        } else {
            "node(s) didn't match pod topology spread constraints"
        }
    }

    /// How crowded this node's domains are by the soft constraints; less is better. `None` when there are no soft constraints.
    pub fn crowd(&self, labels: &BTreeMap<String, String>) -> Option<i64> {
        if self.soft.is_empty() {
            return None;
        }
        // A node that lacks the label counts as the most crowded one there is.
        let crowd = |counted: &Counted<'_>| match labels.get(&counted.constraint.topology_key) {
            Some(value) => counted.by_value.get(value).copied().unwrap_or(0),
            None => counted.by_value.values().copied().max().unwrap_or(0) + 1,
        };
        Some(self.soft.iter().map(crowd).sum())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::tests::node;
    use crate::pod::tests::labelled;

    #[test]
    fn skew() {
        let mut cluster = Cluster::default();
        for (name, labels) in [("n1", json!({"zone": "a"})), ("n2", json!({"zone": "b"})), ("n3", json!({}))] {
            cluster.set_node(&node(name, labels, json!({}), json!({"pods": "10"})));
        }
        let mut running = labelled("one", json!({"app": "web"}), json!({}));
        running.node = Some("n1".into());
        cluster.place(running.into());
        let constraint = |when: &str| {
            json!({"topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": when, "labelSelector": {"matchLabels": {"app": "web"}}}]})
        };
        let pod = labelled("p", json!({"app": "web"}), constraint("DoNotSchedule"));
        let counts = Counts::new(&pod, pod.constraints.as_deref().expect("pending"), &cluster);
        let found: Vec<bool> = cluster.known().map(|(name, _, facts)| counts.satisfied(name, facts)).collect();
        assert_eq!(found, [false, true, false]);
        let pod = labelled("p", json!({"app": "web"}), constraint("ScheduleAnyway"));
        let counts = Counts::new(&pod, pod.constraints.as_deref().expect("pending"), &cluster);
        let found: Vec<Option<i64>> = cluster.known().map(|(_, _, facts)| counts.crowd(&facts.labels)).collect();
        assert_eq!(found, [Some(1), Some(0), Some(2)]);
    }
}
