//! When many nodes fall silent at once it is more likely the network, or this server's own, than the nodes: then their pods
//! are left where they are.
//!
//! | nodes that are not ready | what becomes of their pods |
//! |---|---|
//! | all of the cluster | nothing; taints that evict are taken off again |
//! | more than two and at least 55 % of a zone | of a zone of more than 50 nodes one goes each 100 s, otherwise none |
//! | fewer, or all of a zone while another one is well | one node each 10 s |
//!
//! Upstream: <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/nodelifecycle/node_lifecycle_controller.go>
//! (`handleDisruption`, `ComputeZoneState`), with its default rates and thresholds.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use tokio::time::Instant;

/// Nodes with this label do not count.
const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";
const LABELS: [&str; 2] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];
/// As few nodes may be silent in any zone.
const FEW: usize = 2;
/// From this share of a zone's nodes on, in percent, it is disrupted.
const UNHEALTHY: usize = 55;
/// A zone with more nodes goes on slowly when it is disrupted.
const LARGE: usize = 50;
const USUAL: Duration = Duration::from_secs(10);
const SLOW: Duration = Duration::from_secs(100);

/// Region and zone.
pub type Zone = [String; 2];

/// The zone of a node.
pub fn zone(node: &Node) -> Zone {
    LABELS.map(|label| node.metadata.labels.as_ref().and_then(|all| all.get(label)).cloned().unwrap_or_default())
}

/// Whether a node says that it is ready.
pub fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// How fast nodes of a zone get taints that evict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// None has one.
    Never,
    /// None gets one that has none yet.
    Held,
    /// One node each so long.
    Every(Duration),
}

/// How fast nodes of a zone get taints that evict, as the cluster's nodes are now.
pub fn pace<'n>(nodes: impl Iterator<Item = &'n Node>, of: &Zone) -> Pace {
    let mut zones: BTreeMap<Zone, (usize, usize)> = BTreeMap::new();
    let excluded = |node: &Node| node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(EXCLUDED));
    for node in nodes.filter(|node| !excluded(node)) {
        let (ready, silent) = zones.entry(zone(node)).or_default();
        *if is_ready(node) { ready } else { silent } += 1;
    }
    if !zones.is_empty() && zones.values().all(|(ready, silent)| *ready == 0 && *silent > 0) {
        return Pace::Never;
    }
    match zones.get(of) {
        Some((ready, silent)) if *ready > 0 && *silent > FEW && silent * 100 >= (ready + silent) * UNHEALTHY => {
            if ready + silent > LARGE { Pace::Every(SLOW) } else { Pace::Held }
        }
        _ => Pace::Every(USUAL),
    }
}

/// How long a node that is not ready waits for others to be found so, too: those that are cut off at the same moment fall silent
/// within the ten seconds in which each of them reports.
const SETTLE: Duration = Duration::from_secs(15);

/// When each zone had its last turn, and since when each node is known not to be ready.
#[derive(Debug)]
pub struct Turns {
    /// From then on all nodes that are silent have been found so.
    from: Instant,
    zones: HashMap<Zone, Instant>,
    silent: HashMap<Arc<str>, Instant>,
}

impl Turns {
    /// Turns of a process that takes so long to find nodes silent.
    pub fn new(grace: Duration, now: Instant) -> Self {
        Self { from: now + grace + SETTLE, zones: HashMap::new(), silent: HashMap::new() }
    }

    /// A node is ready, or gone.
    pub fn forget(&mut self, node: &str) {
        self.silent.remove(node);
    }

    /// Takes the zone's turn for a node that is not ready, or says how long it is to wait for.
    pub fn take(&mut self, node: &Arc<str>, zone: Zone, every: Duration, now: Instant) -> Result<(), Duration> {
        let since = *self.silent.entry(node.clone()).or_insert(now);
        let last = self.zones.get(&zone).map(|last| *last + every);
        let due = [Some(self.from), Some(since + SETTLE), last].into_iter().flatten().max().unwrap_or(now);
        if due > now {
            return Err(due.duration_since(now));
        }
        self.zones.insert(zone, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn nodes(zones: &[(&str, usize, usize)]) -> Vec<Node> {
        let node = |zone: &str, ready: bool| {
            let status = if ready { "True" } else { "Unknown" };
            serde_json::from_value(json!({"metadata": {"labels": {LABELS[1]: zone}},
                "status": {"conditions": [{"type": "Ready", "status": status}]}}))
            .expect("a node")
        };
        let each = zones.iter().flat_map(|(zone, ready, silent)| {
            (0..*ready).map(move |_| node(zone, true)).chain((0..*silent).map(move |_| node(zone, false)))
        });
        each.collect()
    }

    #[test]
    fn paces() {
        let check = |zones: &[(&str, usize, usize)], expected: Pace| {
            let of = [String::new(), "a".to_owned()];
            assert_eq!(pace(nodes(zones).iter(), &of), expected, "{zones:?}");
        };
        check(&[("a", 2, 1)], Pace::Every(USUAL));
        check(&[("a", 1, 2)], Pace::Every(USUAL));
        check(&[("a", 2, 3)], Pace::Held);
        check(&[("a", 3, 3)], Pace::Every(USUAL));
        check(&[("a", 20, 40)], Pace::Every(SLOW));
        check(&[("a", 0, 1)], Pace::Never);
        check(&[("a", 0, 9), ("b", 0, 3)], Pace::Never);
        check(&[("a", 0, 9), ("b", 1, 3)], Pace::Every(USUAL));
        check(&[("a", 1, 0), ("b", 0, 3)], Pace::Every(USUAL));
        let mut some = nodes(&[("a", 0, 2)]);
        some[0].metadata.labels.get_or_insert_default().insert(EXCLUDED.to_owned(), String::new());
        assert_eq!(pace(some.iter(), &zone(&some[1])), Pace::Never);
    }

    #[test]
    fn turns() {
        let start = Instant::now();
        let mut turns = Turns::new(Duration::from_secs(40), start);
        let mut check = |second: u64, node: &str, zone: &str, expected: Result<(), u64>| {
            let now = start + Duration::from_secs(second);
            let found = turns.take(&node.into(), [String::new(), zone.to_owned()], USUAL, now);
            assert_eq!(found, expected.map_err(Duration::from_secs), "{node} after {second} s");
        };
        check(10, "n1", "a", Err(45));
        check(54, "n2", "a", Err(15));
        check(55, "n1", "a", Ok(()));
        check(55, "n3", "b", Err(15));
        check(64, "n2", "a", Err(5));
        check(69, "n2", "a", Ok(()));
        check(69, "n1", "a", Err(10));
        check(70, "n3", "b", Ok(()));
    }
}
