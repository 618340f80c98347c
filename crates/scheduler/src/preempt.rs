//! Which pods of lower priority would have to go so that a pod fits.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::cluster::Cluster;
use crate::filter::{Question, Rejection, unschedulable_message};
use crate::pod::{Constraints, PodInfo};

/// A node, and what has to go from it.
#[derive(Clone, Debug)]
pub struct Preemption {
    /// The node that is made room on.
    pub node: Arc<str>,
    /// The pods that go.
    pub victims: Vec<Arc<PodInfo>>,
}

/// Finds the cheapest preemption, or upstream's sentence for why there is none.
pub fn plan(
    pod: &PodInfo,
    constraints: &Constraints,
    cluster: &Cluster,
    rejections: &[(Arc<str>, Rejection)],
) -> Result<Preemption, String> {
    if constraints.never_preempts {
        return Err("preemption: not eligible due to preemptionPolicy=Never.".to_owned());
    }
    let mut reasons = Vec::new();
    let mut candidates = Vec::new();
    for (name, rejection) in rejections {
        if !rejection.resolvable {
            reasons.push("Preemption is not helpful for scheduling");
            continue;
        }
        match victims(pod, constraints, cluster, name) {
            Some(victims) => candidates.push(Preemption { node: name.clone(), victims }),
            None => reasons.push("No preemption victims found for incoming pod"),
        }
    }
    // Fewest sacrifices: lowest greatest priority, then lowest sum, then fewest pods, then those that began last.
    let cheapest = candidates.into_iter().min_by_key(|candidate| {
        let priorities = candidate.victims.iter().map(|victim| i64::from(victim.priority));
        let earliest = candidate.victims.iter().filter_map(|victim| victim.started).min();
        (priorities.clone().max(), priorities.sum::<i64>(), candidate.victims.len(), Reverse(earliest))
    });
    cheapest.ok_or_else(|| format!("preemption: {}", unschedulable_message(rejections.len(), reasons.into_iter())))
}

/// The fewest important pods that have to go from one node, or `None` when even removing all lower ones does not help.
fn victims(pod: &PodInfo, constraints: &Constraints, cluster: &Cluster, name: &str) -> Option<Vec<Arc<PodInfo>>> {
    let state = cluster.nodes.get(name)?;
    let mut lower: Vec<Arc<PodInfo>> =
        state.pods.values().filter(|other| other.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return None;
    }
    // The most important get their place back first; of equals, those that have run longest.
    lower.sort_by(|a, b| b.priority.cmp(&a.priority).then(a.started.cmp(&b.started)).then(a.uid.cmp(&b.uid)));
    let mut trial = cluster.clone();
    for other in &lower {
        trial.unplace(&other.uid);
    }
    let fits = |trial: &Cluster| {
        let Some(state) = trial.nodes.get(name) else { return false };
        let Some(facts) = state.facts.as_ref() else { return false };
        Question::new(pod, constraints, trial).ask(name, state, facts).is_ok()
    };
    if !fits(&trial) {
        return None;
    }
    let mut victims = Vec::new();
    for other in lower {
        trial.place(other.clone());
        if !fits(&trial) {
            trial.unplace(&other.uid);
            victims.push(other);
        }
    }
    (!victims.is_empty()).then_some(victims)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::tests::node;
    use crate::pod::tests::pod;

    #[test]
    fn plans() {
        let asks = |cpu: &str, priority: i32| json!({"priority": priority, "containers": [{"resources": {"requests": {"cpu": cpu}}}]});
        let check = |spec: serde_json::Value, running: &[(&str, &str, i32)], expected: Result<&[&str], &str>| {
            let mut cluster = Cluster::default();
            cluster.set_node(&node("n", json!({}), json!({}), json!({"cpu": "2", "pods": "10"})));
            for (name, cpu, priority) in running {
                let mut info = pod(name, asks(cpu, *priority));
                info.node = Some("n".into());
                cluster.place(info.into());
            }
            let pod = pod("p", spec.clone());
            let constraints = pod.constraints.as_deref().expect("pending");
            let question = Question::new(&pod, constraints, &cluster);
            let rejections: Vec<_> = cluster
                .known()
                .filter_map(|(name, state, facts)| Some((name.clone(), question.ask(name, state, facts).err()?)))
                .collect();
            let found = plan(&pod, constraints, &cluster, &rejections);
            let names = found.as_ref().map(|plan| plan.victims.iter().map(|victim| &*victim.name).collect::<Vec<_>>());
            assert_eq!(names.as_deref().map_err(|text| text.as_str()), expected, "{spec}");
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
    }
}
