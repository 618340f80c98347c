//! Topology spread constraints, those of the pod and those that pods of one owner keep by default.
//!
//! Upstream: <https://github.com/kubernetes/kubernetes/tree/master/pkg/scheduler/framework/plugins/podtopologyspread>.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use crate::cluster::{Cluster, HOSTNAME, NodeFacts, ZONE};
use crate::labels;
use crate::node_match;
use crate::pod::{Constraints, PodInfo};
use crate::profile::SpreadDefaults;

/// How pods of one owner spread when they do not say: topology key and skew, as upstream's defaults of the cluster.
const DEFAULTS: [(&str, i32); 2] = [(HOSTNAME, 3), (ZONE, 5)];
/// The best score.
const BEST: i64 = 100;

/// Which constraints are counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Those that must hold.
    Hard,
    /// Those that should.
    Soft,
}

/// Pods like the one in question, by constraint and topology value.
pub struct Counts<'c> {
    hard: Vec<Counted<'c>>,
    soft: Vec<Counted<'c>>,
}

struct Counted<'c> {
    key: &'c str,
    max_skew: i32,
    min_domains: Option<i32>,
    by_value: Tally<'c>,
    /// 1 when the pod itself is one of those it spreads with.
    itself: i64,
    /// Whether the pod asked for it; then nodes that lack a label do not count.
    asked: bool,
}

/// How many pods there are by topology value.
enum Tally<'c> {
    /// Counted for this pod.
    Counted(HashMap<&'c str, i64>),
    /// Kept by the cluster.
    Kept(&'c HashMap<Arc<str>, u32>),
}

impl Tally<'_> {
    fn at(&self, value: &str) -> i64 {
        match self {
            Tally::Counted(counts) => counts.get(value).copied().unwrap_or(0),
            Tally::Kept(counts) => counts.get(value).copied().unwrap_or(0).into(),
        }
    }

    fn domains(&self) -> usize {
        match self {
            Tally::Counted(counts) => counts.len(),
            Tally::Kept(counts) => counts.len(),
        }
    }

    fn least(&self) -> i64 {
        match self {
            Tally::Counted(counts) => counts.values().copied().min().unwrap_or(0),
            Tally::Kept(counts) => counts.values().copied().min().unwrap_or(0).into(),
        }
    }
}

fn like(constraint: &TopologySpreadConstraint, pod: &PodInfo, other: &PodInfo) -> bool {
    let selected = constraint.label_selector.as_ref().is_some_and(|selector| labels::selects(selector, &other.labels));
    // Keys the pod itself does not have are ignored.
    let same = |key: &String| pod.labels.get(key).is_none_or(|value| other.labels.get(key) == Some(value));
    selected && constraint.match_label_keys.iter().flatten().all(same)
}

impl<'c> Counts<'c> {
    /// Counts once over the whole cluster, for what must hold or for what should; for a pod without constraints only what its
    /// owner has.
    pub fn new(pod: &'c PodInfo, constraints: &'c Constraints, cluster: &'c Cluster, side: Side) -> Self {
        let count = |when: &str| -> Vec<Counted<'c>> {
            let wanted = || constraints.spread.iter().filter(|constraint| constraint.when_unsatisfiable == when);
            let keys: Vec<&str> = wanted().map(|constraint| constraint.topology_key.as_str()).collect();
            wanted().map(|constraint| Self::count(constraint, &keys, pod, constraints, cluster)).collect()
        };
        let (mut hard, mut soft) = match side {
            Side::Hard => (count("DoNotSchedule"), Vec::new()),
            Side::Soft => (Vec::new(), count("ScheduleAnyway")),
        };
        if constraints.spread.is_empty()
            && let Some(owner) = &pod.owner
        {
            match &pod.profile.spread {
                SpreadDefaults::System if side == Side::Soft => {
                    soft.extend(DEFAULTS.map(|(key, max_skew)| Self::of_owner(owner, key, max_skew, cluster)));
                }
                SpreadDefaults::System => {}
                SpreadDefaults::List(list) => {
                    for one in list {
                        if (one.when_unsatisfiable == "DoNotSchedule") != (side == Side::Hard) {
                            continue;
                        }
                        if side == Side::Soft {
                            soft.push(Self::of_owner(owner, &one.topology_key, one.max_skew, cluster));
                            continue;
                        }
                        let (mut counts, counted) = Self::count_owner(owner, &one.topology_key, one.max_skew, cluster);
                        // Domains without a pod count as well: they are the least crowded.
                        let domains = cluster.known().filter_map(|(_, _, facts)| facts.labels.get(&one.topology_key));
                        for value in domains {
                            counts.entry(value).or_default();
                        }
                        hard.push(Counted { by_value: Tally::Counted(counts), ..counted });
                    }
                }
            }
        }
        Self { hard, soft }
    }

    fn count(
        constraint: &'c TopologySpreadConstraint,
        keys: &[&str],
        pod: &PodInfo,
        asked: &Constraints,
        cluster: &'c Cluster,
    ) -> Counted<'c> {
        let mut by_value: HashMap<&'c str, i64> = HashMap::new();
        for (name, state, facts) in cluster.known() {
            let Some(value) = facts.labels.get(&constraint.topology_key) else { continue };
            // A node outside of one of the topologies is outside of all.
            if !keys.iter().all(|key| facts.labels.contains_key(*key)) {
                continue;
            }
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
                *by_value.entry(value).or_default() += i64::try_from(alike.count()).unwrap_or(i64::MAX);
            }
        }
        Counted {
            key: &constraint.topology_key,
            max_skew: constraint.max_skew,
            min_domains: constraint.min_domains,
            by_value: Tally::Counted(by_value),
            itself: i64::from(like(constraint, pod, pod)),
            asked: true,
        }
    }

    /// Where the pods of one owner are. Upstream also counts pods that only a Service has in common; one owner's are nearly
    /// always the same, and cost no watch of Services.
    fn of_owner(owner: &str, key: &'c str, max_skew: i32, cluster: &'c Cluster) -> Counted<'c> {
        if let Some(kept) = cluster.owned_by_domain(owner, key) {
            return Counted { key, max_skew, min_domains: None, by_value: Tally::Kept(kept), itself: 1, asked: false };
        }
        let (counts, counted) = Self::count_owner(owner, key, max_skew, cluster);
        Counted { by_value: Tally::Counted(counts), ..counted }
    }

    fn count_owner(
        owner: &str,
        key: &'c str,
        max_skew: i32,
        cluster: &'c Cluster,
    ) -> (HashMap<&'c str, i64>, Counted<'c>) {
        let mut by_value: HashMap<&'c str, i64> = HashMap::new();
        for (node, number) in cluster.owned(owner) {
            let facts = cluster.nodes.get(node).and_then(|state| state.facts.as_ref());
            if let Some(value) = facts.and_then(|facts| facts.labels.get(key)) {
                *by_value.entry(value).or_default() += i64::from(number);
            }
        }
        let nothing = Tally::Counted(HashMap::new());
        (by_value, Counted { key, max_skew, min_domains: None, by_value: nothing, itself: 1, asked: false })
    }

    /// Whether there is a hard constraint.
    pub fn is_constrained(&self) -> bool {
        !self.hard.is_empty()
    }

    /// Whether the node lacks a label that a hard constraint spreads over.
    pub fn lacks_label(&self, facts: &NodeFacts) -> bool {
        self.hard.iter().any(|counted| !facts.labels.contains_key(counted.key))
    }

    /// Whether all hard constraints hold with the pod on this node.
    pub fn satisfied(&self, _name: &str, facts: &NodeFacts) -> bool {
        self.hard.iter().all(|counted| {
            let Some(value) = facts.labels.get(counted.key) else { return false };
            let domains = i64::try_from(counted.by_value.domains()).unwrap_or(i64::MAX);
            let enough = counted.min_domains.is_none_or(|wanted| domains >= i64::from(wanted));
            let least = if enough { counted.by_value.least() } else { 0 };
            let here = counted.by_value.at(value);
            here + counted.itself - least <= i64::from(counted.max_skew)
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

    /// How well each of these nodes keeps the soft constraints, 0 to 100; the weight of a topology grows with the number of
    /// its domains, so that many small ones count as much as few large ones.
    pub fn scores(&self, nodes: &[&NodeFacts]) -> Vec<i64> {
        if self.soft.is_empty() {
            return vec![0; nodes.len()];
        }
        let outside =
            |facts: &NodeFacts| self.soft.iter().any(|soft| soft.asked && !facts.labels.contains_key(soft.key));
        let weights: Vec<f64> = self
            .soft
            .iter()
            .map(|soft| {
                let inside = nodes.iter().filter(|facts| !outside(facts));
                let domains: HashSet<&str> =
                    inside.filter_map(|facts| facts.labels.get(soft.key)).map(String::as_str).collect();
                (domains.len() as f64 + 2.0).ln()
            })
            .collect();
        let crowds: Vec<Option<i64>> = nodes
            .iter()
            .map(|facts| {
                if outside(facts) {
                    return None;
                }
                let of = |(soft, weight): (&Counted<'_>, &f64)| {
                    let value = facts.labels.get(soft.key)?;
                    let here = soft.by_value.at(value);
                    Some(here as f64 * weight + f64::from(soft.max_skew - 1))
                };
                Some(self.soft.iter().zip(&weights).filter_map(of).sum::<f64>().round() as i64)
            })
            .collect();
        let (least, most) =
            (crowds.iter().flatten().copied().min().unwrap_or(0), crowds.iter().flatten().copied().max().unwrap_or(0));
        let score = |crowd: &Option<i64>| match crowd {
            None => 0,
            Some(_) if most == 0 => BEST,
            Some(crowd) => BEST * (most + least - crowd) / most,
        };
        crowds.iter().map(score).collect()
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
        let counts = Counts::new(&pod, pod.constraints.as_deref().expect("pending"), &cluster, Side::Hard);
        let found: Vec<bool> = cluster.known().map(|(name, _, facts)| counts.satisfied(name, facts)).collect();
        assert_eq!(found, [false, true, false]);
        let pod = labelled("p", json!({"app": "web"}), constraint("ScheduleAnyway"));
        let counts = Counts::new(&pod, pod.constraints.as_deref().expect("pending"), &cluster, Side::Soft);
        let nodes: Vec<_> = cluster.known().map(|(_, _, facts)| facts).collect();
        assert_eq!(counts.scores(&nodes), [0, 100, 0], "crowded, free, outside of the topology");
    }

    #[test]
    fn nodes_outside_of_one_topology_count_for_none() {
        let mut cluster = Cluster::default();
        let full = |name: &str, zone: &str| json!({"zone": zone, "host": name});
        for (name, labels) in [("n1", full("n1", "a")), ("n2", full("n2", "b")), ("n3", json!({"host": "n3"}))] {
            cluster.set_node(&node(name, labels, json!({}), json!({"pods": "10"})));
        }
        for (name, on) in [("one", "n1"), ("two", "n2")] {
            let mut running = labelled(name, json!({"app": "web"}), json!({}));
            running.node = Some(on.into());
            cluster.place(running.into());
        }
        let over = |key: &str| {
            json!({"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": "web"}}})
        };
        let check = |keys: &[&str], expected: [bool; 3]| {
            let constraints: Vec<_> = keys.iter().map(|key| over(key)).collect();
            let pod = labelled("p", json!({"app": "web"}), json!({"topologySpreadConstraints": constraints}));
            let counts = Counts::new(&pod, pod.constraints.as_deref().expect("pending"), &cluster, Side::Hard);
            let found: Vec<bool> = cluster.known().map(|(name, _, facts)| counts.satisfied(name, facts)).collect();
            assert_eq!(found, expected, "{keys:?}");
        };
        check(&["host"], [false, false, true]);
        // The empty third host is no domain when zones matter as well.
        check(&["host", "zone"], [true, true, false]);
    }

    #[test]
    fn pods_of_one_owner_keep_apart() {
        let mut cluster = Cluster::default();
        for name in ["n1", "n2", "n3"] {
            let labels = json!({"kubernetes.io/hostname": name});
            cluster.set_node(&node(name, labels, json!({}), json!({"pods": "10"})));
        }
        for (name, on) in [("one", "n1"), ("two", "n1"), ("three", "n2")] {
            let mut running = labelled(name, json!({}), json!({}));
            (running.node, running.owner) = (Some(on.into()), Some("set".into()));
            cluster.place(running.into());
        }
        let mut pod = labelled("p", json!({}), json!({}));
        let scores = |pod: &PodInfo| {
            let counts = Counts::new(pod, pod.constraints.as_deref().expect("pending"), &cluster, Side::Soft);
            let nodes: Vec<_> = cluster.known().map(|(_, _, facts)| facts).collect();
            counts.scores(&nodes)
        };
        assert_eq!(scores(&pod), [0, 0, 0], "without an owner there is nothing to spread");
        pod.owner = Some("set".into());
        let found = scores(&pod);
        assert!(found[0] < found[1] && found[1] < found[2], "{found:?}");
    }
}
