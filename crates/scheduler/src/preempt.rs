//! Which pods of lower priority would have to go so that a pod fits.
//!
//! Upstream: <https://github.com/kubernetes/kubernetes/tree/master/pkg/scheduler/framework/preemption> and
//! `plugins/defaultpreemption` beside it.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cluster::{Cluster, NodeState};
use crate::filter::{Question, Rejection, unschedulable_message};
use crate::labels;
use crate::pod::{Constraints, PodInfo};

/// Nodes that are tried out at least, where so many could do; beyond that a tenth of all nodes, as upstream.
const CANDIDATES: usize = 100;

/// A node, and what has to go from it.
#[derive(Clone, Debug)]
pub struct Preemption {
    /// The node that is made room on.
    pub node: Arc<str>,
    /// The pods that go.
    pub victims: Vec<Arc<PodInfo>>,
}

/// Why nothing is preempted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Upstream's sentence.
    pub message: String,
    /// Whether room that was promised to the pod before stays promised: what was preempted for it is on its way out.
    pub keeps_nomination: bool,
}

/// The pods that would go from one node.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The node.
    pub node: Arc<str>,
    /// The pods.
    pub victims: Vec<Arc<PodInfo>>,
    /// How many of them a disruption budget would rather keep.
    pub violations: usize,
}

fn refuse(message: &str, keeps_nomination: bool) -> Refusal {
    Refusal { message: format!("preemption: {message}"), keeps_nomination }
}

/// Finds the cheapest preemption, or upstream's sentence for why there is none.
pub fn plan(
    pod: &PodInfo,
    constraints: &Constraints,
    cluster: &Cluster,
    rejections: &[(Arc<str>, Rejection)],
) -> Result<Preemption, Refusal> {
    cheapest(candidates(pod, constraints, cluster, rejections)?, rejections)
}

/// The cheapest of the candidates. There is none when somebody else has struck all of them out.
pub fn cheapest(candidates: Vec<Candidate>, rejections: &[(Arc<str>, Rejection)]) -> Result<Preemption, Refusal> {
    match candidates.into_iter().min_by_key(cost) {
        Some(Candidate { node, victims, .. }) => Ok(Preemption { node, victims }),
        None => Err(refuse(&unschedulable_message(rejections.len(), std::iter::empty()), false)),
    }
}

/// The nodes on which the going of others would help, or upstream's sentence for why there are none.
pub fn candidates(
    pod: &PodInfo,
    constraints: &Constraints,
    cluster: &Cluster,
    rejections: &[(Arc<str>, Rejection)],
) -> Result<Vec<Candidate>, Refusal> {
    if constraints.never_preempts {
        return Err(refuse("not eligible due to preemptionPolicy=Never.", false));
    }
    if waits_for_victims(pod, cluster, rejections) {
        return Err(refuse("not eligible due to a terminating pod on the nominated node.", true));
    }
    let mut reasons: Vec<Cow<'static, str>> = Vec::new();
    let mut candidates: Vec<Candidate> = Vec::new();
    let enough = CANDIDATES.max(rejections.len() / 10);
    for (name, rejection) in rejections {
        if !rejection.resolvable {
            reasons.push("Preemption is not helpful for scheduling".into());
        } else if candidates.len() < enough {
            match victims(pod, constraints, cluster, name) {
                Ok(candidate) => candidates.push(candidate),
                Err(why) => reasons.extend(why),
            }
        }
    }
    if candidates.is_empty() {
        let message = unschedulable_message(rejections.len(), reasons.iter().map(Cow::as_ref));
        return Err(refuse(&message, false));
    }
    Ok(candidates)
}

/// Whether pods that were preempted for this one are still going: then it has only to wait.
fn waits_for_victims(pod: &PodInfo, cluster: &Cluster, rejections: &[(Arc<str>, Rejection)]) -> bool {
    let Some(nominated) = cluster.nomination(&pod.uid) else { return false };
    let hopeless = rejections.iter().any(|(name, rejection)| name == nominated && !rejection.resolvable);
    let goes = |other: &Arc<PodInfo>| other.terminating && other.priority < pod.priority;
    !hopeless && cluster.nodes.get(nominated).is_some_and(|state| state.pods.values().any(goes))
}

/// What is least of: broken budgets, the greatest priority of a victim, their sum, their number; and of those that are alike
/// the one whose most important victims began last.
fn cost(candidate: &Candidate) -> impl Ord + use<> {
    let greatest = candidate.victims.iter().map(|victim| victim.priority).max();
    // Raised above zero, so that of many victims with negative priorities the fewest are chosen.
    let sum: i64 = candidate.victims.iter().map(|victim| i64::from(victim.priority) + (1 << 31)).sum();
    let most_important = candidate.victims.iter().filter(|victim| Some(victim.priority) == greatest);
    let earliest = most_important.filter_map(|victim| victim.started).min();
    (candidate.violations, greatest, sum, candidate.victims.len(), Reverse(earliest))
}

/// A cluster without the pods that may have to go from one node.
struct Trial<'c> {
    name: &'c str,
    pod: &'c PodInfo,
    constraints: &'c Constraints,
    /// The whole cluster where rules between pods matter, otherwise nothing of it.
    cluster: Option<Cluster>,
    original: &'c Cluster,
    state: NodeState,
    /// The answer to what is the same whoever goes.
    question: Question<'c>,
}

impl Trial<'_> {
    fn put_out(&mut self, uid: &str) {
        self.state.remove(uid);
        if let Some(cluster) = &mut self.cluster {
            cluster.unplace(uid);
        }
    }

    fn put_back(&mut self, pod: &Arc<PodInfo>) {
        self.state.add(pod.clone());
        if let Some(cluster) = &mut self.cluster {
            cluster.place(pod.clone());
        }
    }

    /// Whether the pod fits beside what is there and what room is promised to.
    fn asks(&self) -> Result<(), Rejection> {
        let facts = self.state.facts.as_ref();
        let Some(facts) = facts else { return Ok(()) };
        let mut crowded = self.state.clone();
        self.original.nominated_before(self.name, self.pod).for_each(|other| crowded.add(other.clone()));
        match &self.cluster {
            Some(cluster) => Question::new(self.pod, self.constraints, cluster).ask(self.name, &crowded, facts),
            None => self.question.ask(self.name, &crowded, facts),
        }
    }
}

/// The fewest important pods that have to go from one node, or why even removing all lower ones does not help.
fn victims(
    pod: &PodInfo,
    constraints: &Constraints,
    cluster: &Cluster,
    name: &Arc<str>,
) -> Result<Candidate, Vec<Cow<'static, str>>> {
    let nobody = || vec!["No preemption victims found for incoming pod".into()];
    let Some(state) = cluster.nodes.get(name).filter(|state| state.facts.is_some()) else { return Err(nobody()) };
    let mut lower: Vec<Arc<PodInfo>> =
        state.pods.values().filter(|other| other.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return Err(nobody());
    }
    // The most important get their place back first; of equals, those that have run longest.
    lower.sort_by(|a, b| b.priority.cmp(&a.priority).then(a.started.cmp(&b.started)).then(a.uid.cmp(&b.uid)));
    let question = Question::new(pod, constraints, cluster);
    let around = question.looks_around() || cluster.affine().next().is_some();
    let mut trial = Trial {
        name,
        pod,
        constraints,
        cluster: around.then(|| cluster.clone()),
        original: cluster,
        state: state.clone(),
        question,
    };
    lower.iter().for_each(|other| trial.put_out(&other.uid));
    if let Err(rejection) = trial.asks() {
        return Err(rejection.reasons);
    }
    let (protected, others) = protected(cluster, lower);
    let mut candidate = Candidate { node: name.clone(), victims: Vec::new(), violations: 0 };
    let budgeted = protected.len();
    for (at, other) in protected.into_iter().chain(others).enumerate() {
        trial.put_back(&other);
        if trial.asks().is_err() {
            trial.put_out(&other.uid);
            candidate.violations += usize::from(at < budgeted);
            candidate.victims.push(other);
        }
    }
    if candidate.victims.is_empty() { Err(nobody()) } else { Ok(candidate) }
}

/// Parts pods, the most important first, into those whose going would break a disruption budget and the others.
fn protected(cluster: &Cluster, pods: Vec<Arc<PodInfo>>) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let mut left: BTreeMap<_, i32> = BTreeMap::new();
    pods.into_iter().partition(|pod| {
        let mut breaks = false;
        for (key, budget) in &cluster.budgets {
            let covered = key.0 == pod.namespace
                && budget
                    .selector
                    .as_ref()
                    .is_some_and(|selector| !labels::is_empty(selector) && labels::selects(selector, &pod.labels));
            // One that the budget has let go already costs it nothing more.
            if !covered || budget.disrupted.iter().any(|name| *name == pod.name) {
                continue;
            }
            let left = left.entry(key).or_insert(budget.allowed);
            *left -= 1;
            breaks |= *left < 0;
        }
        breaks
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::cluster::Budget;
    use crate::cluster::tests::node;
    use crate::pod::tests::{labelled, pod};

    fn asks(cpu: &str, priority: i32) -> serde_json::Value {
        json!({"priority": priority, "containers": [{"resources": {"requests": {"cpu": cpu}}}]})
    }

    fn rejections(pod: &PodInfo, cluster: &Cluster) -> Vec<(Arc<str>, Rejection)> {
        let question = Question::new(pod, pod.constraints.as_deref().expect("pending"), cluster);
        let asked = cluster
            .known()
            .filter_map(|(name, state, facts)| Some((name.clone(), question.ask(name, state, facts).err()?)));
        asked.collect()
    }

    fn names(found: Result<Preemption, Refusal>) -> Result<Vec<String>, String> {
        found
            .map(|plan| plan.victims.iter().map(|victim| victim.name.to_string()).collect())
            .map_err(|refusal| refusal.message)
    }

    fn try_plan(pod: &PodInfo, cluster: &Cluster) -> Result<Vec<String>, String> {
        names(plan(pod, pod.constraints.as_deref().expect("pending"), cluster, &rejections(pod, cluster)))
    }

    #[test]
    fn plans() {
        let check = |spec: serde_json::Value, running: &[(&str, &str, i32)], expected: Result<&[&str], &str>| {
            let mut cluster = Cluster::default();
            cluster.set_node(&node("n", json!({}), json!({}), json!({"cpu": "2", "pods": "10"})));
            for (name, cpu, priority) in running {
                let mut info = pod(name, asks(cpu, *priority));
                info.node = Some("n".into());
                cluster.place(info.into());
            }
            let found = try_plan(&pod("p", spec.clone()), &cluster);
            let expected = expected.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
            assert_eq!(found, expected.map_err(str::to_owned), "{spec}");
        };
        check(asks("1", 10), &[("a", "1", 0), ("b", "1", 5)], Ok(&["a"]));
        check(asks("2", 10), &[("a", "1", 0), ("b", "1", 5)], Ok(&["b", "a"]));
        check(
            asks("1", 0),
            &[("a", "2", 0)],
            Err("preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."),
        );
        check(
            asks("3", 10),
            &[("a", "1", 0)],
            Err("preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."),
        );
        check(
            asks("2", 5),
            &[("a", "1", 0), ("b", "1", 5)],
            Err("preemption: 0/1 nodes are available: 1 Insufficient cpu."),
        );
        let mut never = asks("1", 10);
        never["preemptionPolicy"] = "Never".into();
        check(never, &[("a", "2", 0)], Err("preemption: not eligible due to preemptionPolicy=Never."));
    }

    #[test]
    fn budgets_are_spared() {
        let mut cluster = Cluster::default();
        for (name, app) in [("n1", "precious"), ("n2", "cheap")] {
            cluster.set_node(&node(name, json!({}), json!({}), json!({"cpu": "2", "pods": "10"})));
            let mut running =
                labelled(&format!("on-{name}"), json!({"app": app}), asks("2", if app == "cheap" { 5 } else { 0 }));
            running.node = Some(name.into());
            cluster.place(running.into());
        }
        let asking = pod("p", asks("1", 10));
        assert_eq!(try_plan(&asking, &cluster), Ok(vec!["on-n1".to_owned()]), "the least priority goes");
        let selector = serde_json::from_value(json!({"matchLabels": {"app": "precious"}})).expect("a selector");
        let budget = Budget { selector: Some(selector), allowed: 0, disrupted: Vec::new() };
        cluster.budgets.insert(("default".into(), "b".into()), budget.clone());
        assert_eq!(try_plan(&asking, &cluster), Ok(vec!["on-n2".to_owned()]), "unless a budget keeps it");
        cluster.budgets.insert(("default".into(), "b".into()), Budget { allowed: 1, ..budget });
        assert_eq!(try_plan(&asking, &cluster), Ok(vec!["on-n1".to_owned()]));
    }

    #[test]
    fn victims_on_their_way_are_waited_for() {
        let mut cluster = Cluster::default();
        cluster.set_node(&node("n", json!({}), json!({}), json!({"cpu": "2", "pods": "10"})));
        let mut leaving = pod("leaving", asks("1", 0));
        (leaving.node, leaving.terminating) = (Some("n".into()), true);
        let mut staying = pod("staying", asks("1", 0));
        staying.node = Some("n".into());
        cluster.place(leaving.into());
        cluster.place(staying.into());
        let asking = Arc::new(pod("p", asks("1", 10)));
        assert!(try_plan(&asking, &cluster).is_ok());
        cluster.nominate(&asking, Some("n".into()));
        let found =
            plan(&asking, asking.constraints.as_deref().expect("pending"), &cluster, &rejections(&asking, &cluster));
        let refusal = found.expect_err("it waits");
        assert!(refusal.keeps_nomination, "{}", refusal.message);
        // Room that is promised to somebody more important is not there for others.
        let middle = pod("middle", asks("2", 5));
        assert_eq!(
            try_plan(&middle, &cluster),
            Err("preemption: 0/1 nodes are available: 1 Insufficient cpu.".to_owned())
        );
    }

    proptest! {
        /// Whoever runs: victims are less important than the pod, without them it fits, and with any one of them back it
        /// does not.
        #[test]
        fn minimal(running in prop::collection::vec((100_u32..900, 0_i32..6), 1..12), cpu in 100_u32..2000, priority in 0_i32..8) {
            let mut cluster = Cluster::default();
            cluster.set_node(&node("n", json!({}), json!({}), json!({"cpu": "2", "pods": "20"})));
            let mut used = 0;
            for (at, (cpu, priority)) in running.iter().enumerate() {
                if used + cpu > 2000 {
                    break;
                }
                used += cpu;
                let mut info = pod(&format!("r{at}"), asks(&format!("{cpu}m"), *priority));
                info.node = Some("n".into());
                cluster.place(info.into());
            }
            let asking = pod("p", asks(&format!("{cpu}m"), priority));
            let rejected = rejections(&asking, &cluster);
            prop_assume!(!rejected.is_empty());
            if let Ok(found) = plan(&asking, asking.constraints.as_deref().expect("pending"), &cluster, &rejected) {
                for victim in &found.victims {
                    prop_assert!(victim.priority < priority);
                    cluster.unplace(&victim.uid);
                }
                prop_assert!(rejections(&asking, &cluster).is_empty());
                for victim in &found.victims {
                    cluster.place(victim.clone());
                    prop_assert!(!rejections(&asking, &cluster).is_empty());
                    cluster.unplace(&victim.uid);
                }
            }
        }
    }
}
