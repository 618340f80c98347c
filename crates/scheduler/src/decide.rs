//! The decision about one pod: a node, or why there is none and what to do about it.

use std::borrow::Cow;
use std::sync::Arc;

use crate::cluster::{Cluster, NodeFacts, NodeState};
use crate::filter::{Question, Rejection, obstacle, unschedulable_message};
use crate::pod::{Constraints, PodInfo};
use crate::preempt::{self, Preemption};
use crate::score;

/// What is to happen with a pod.
#[derive(Clone, Debug)]
pub enum Decision {
    /// It goes to this node.
    Bind(Arc<str>),
    /// It fits nowhere now.
    Wait {
        /// Upstream's message for the condition and the event.
        message: String,
        /// What kept it back, as bits of `obstacle`.
        obstacles: u16,
        /// Pods that make room for it.
        preemption: Option<Preemption>,
        /// Whether room that was kept for it is given up.
        gives_up: bool,
    },
}

/// Fewer nodes than this are all looked at, as upstream.
const FEW_NODES: usize = 100;
/// The least share of the nodes that is looked for, of a hundred, as upstream.
const LEAST_SHARE: usize = 5;

/// How many nodes that fit are enough to choose from: the more nodes there are, the smaller the share of them.
fn enough(pod: &PodInfo, nodes: usize) -> usize {
    if nodes < FEW_NODES {
        return nodes;
    }
    let share = match usize::try_from(pod.profile.share_of_nodes).unwrap_or(0) {
        0 => 50_usize.saturating_sub(nodes / 125).max(LEAST_SHARE),
        given => given,
    };
    (nodes * share.min(100) / 100).max(FEW_NODES)
}

/// A node that fits, with what is known of it.
pub type Fitting<'c> = (&'c Arc<str>, &'c NodeState, &'c NodeFacts);

/// What a look at the nodes finds.
pub enum Search<'c> {
    /// There is nothing to choose from.
    Settled(Decision),
    /// These nodes fit, and those do not.
    Looked {
        /// The nodes to choose from.
        fitting: Vec<Fitting<'c>>,
        /// The others that were looked at, and why not.
        rejections: Vec<(Arc<str>, Rejection)>,
    },
}

/// Decides about one pod. The search for nodes begins at the place `from`, which moves on, so that all get their turn; `pick`
/// breaks ties between nodes.
pub fn decide(pod: &PodInfo, cluster: &Cluster, from: &mut usize, pick: impl FnOnce(usize) -> usize) -> Decision {
    match search(pod, cluster, from) {
        Search::Settled(decision) => decision,
        Search::Looked { fitting, rejections } => {
            let none = Constraints::default();
            let constraints = pod.constraints.as_deref().unwrap_or(&none);
            match score::best(pod, constraints, cluster, &fitting, pick) {
                Some(node) => Decision::Bind(node.clone()),
                None => refuse(pod, cluster, rejections),
            }
        }
    }
}

/// Whether a node fits, beside the room that is being made there for pods at least as important.
fn ask(question: &Question<'_>, cluster: &Cluster, (name, state, facts): Fitting<'_>) -> Result<(), Rejection> {
    let mut reserved = cluster.nominated_before(name, question.pod).peekable();
    if reserved.peek().is_some() {
        let mut crowded = NodeState::clone(state);
        reserved.for_each(|other| crowded.add(other.clone()));
        question.ask(name, &crowded, facts)
    } else {
        question.ask(name, state, facts)
    }
}

/// Whether a pod fits on a node now.
pub fn fits(pod: &PodInfo, cluster: &Cluster, node: &str) -> bool {
    if cluster.volumes.question(pod).is_err() || cluster.devices.question(pod).is_err() {
        return false;
    }
    let none = Constraints::default();
    let constraints = pod.constraints.as_deref().unwrap_or(&none);
    let question = Question::new(pod, constraints, cluster);
    let known = cluster.nodes.get_key_value(node).and_then(|(name, state)| Some((name, state, state.facts.as_ref()?)));
    known.is_some_and(|known| ask(&question, cluster, known).is_ok())
}

/// Looks for the nodes that a pod fits on.
pub fn search<'c>(pod: &PodInfo, cluster: &'c Cluster, from: &mut usize) -> Search<'c> {
    let nodes = cluster.known().count();
    if let Err(why) = cluster.volumes.question(pod)
        && nodes > 0
    {
        let message = format!(
            "0/{nodes} nodes are available: {why}. preemption: 0/{nodes} nodes are available: {nodes} Preemption is not \
             helpful for scheduling."
        );
        let obstacles = obstacle::VOLUMES;
        return Search::Settled(Decision::Wait { message, obstacles, preemption: None, gives_up: true });
    }
    if let Err(why) = cluster.devices.question(pod)
        && nodes > 0
    {
        let message = format!(
            "0/{nodes} nodes are available: {why}. preemption: 0/{nodes} nodes are available: {nodes} Preemption is not \
             helpful for scheduling."
        );
        let obstacles = obstacle::DEVICES;
        return Search::Settled(Decision::Wait { message, obstacles, preemption: None, gives_up: true });
    }
    let none = Constraints::default();
    let constraints = pod.constraints.as_deref().unwrap_or(&none);
    let question = Question::new(pod, constraints, cluster);
    let (mut fitting, mut rejections) = (Vec::new(), Vec::new());
    if let Some(own) = cluster.nomination(&pod.uid)
        && let Some((state, facts)) = cluster.nodes.get(own).and_then(|state| Some((state, state.facts.as_ref()?)))
        && ask(&question, cluster, (own, state, facts)).is_ok()
    {
        return Search::Settled(Decision::Bind(own.clone()));
    }
    let (first, wanted) = (if nodes == 0 { 0 } else { *from % nodes }, enough(pod, nodes));
    let mut looked_at = 0;
    for (name, state, facts) in cluster.known().skip(first).chain(cluster.known().take(first)) {
        if fitting.len() >= wanted {
            break;
        }
        looked_at += 1;
        match ask(&question, cluster, (name, state, facts)) {
            Ok(()) => fitting.push((name, state, facts)),
            Err(rejection) => rejections.push((name.clone(), rejection)),
        }
    }
    *from = first + looked_at;
    Search::Looked { fitting, rejections }
}

/// What becomes of a pod that none of these nodes does for.
pub fn refuse(pod: &PodInfo, cluster: &Cluster, rejections: Vec<(Arc<str>, Rejection)>) -> Decision {
    let none = Constraints::default();
    let constraints = pod.constraints.as_deref().unwrap_or(&none);
    if rejections.is_empty() {
        let message = "no nodes available to schedule pods".to_owned();
        return Decision::Wait { message, obstacles: obstacle::NO_NODES, preemption: None, gives_up: true };
    }
    refused(&rejections, preempt::plan(pod, constraints, cluster, &rejections))
}

/// The same once it is known who goes for it.
pub fn refused(rejections: &[(Arc<str>, Rejection)], preemption: Result<Preemption, preempt::Refusal>) -> Decision {
    let obstacles = rejections.iter().fold(0, |bits, (_, rejection)| bits | rejection.obstacle);
    let reasons = rejections.iter().flat_map(|(_, rejection)| rejection.reasons.iter().map(Cow::as_ref));
    let message = unschedulable_message(rejections.len(), reasons);
    match preemption {
        Ok(preemption) => Decision::Wait { message, obstacles, preemption: Some(preemption), gives_up: false },
        Err(refusal) => Decision::Wait {
            message: format!("{message} {}", refusal.message),
            obstacles,
            preemption: None,
            gives_up: !refusal.keeps_nomination,
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::tests::node;
    use crate::pod::tests::pod;

    #[test]
    fn decisions() {
        let mut cluster = Cluster::default();
        let asks = |cpu: &str| pod("p", json!({"containers": [{"resources": {"requests": {"cpu": cpu}}}]}));
        let message = |cluster: &Cluster, cpu: &str| match decide(&asks(cpu), cluster, &mut 0, |_| 0) {
            Decision::Bind(node) => node.to_string(),
            Decision::Wait { message, .. } => message,
        };
        assert_eq!(message(&cluster, "1"), "no nodes available to schedule pods");
        cluster.set_node(&node("n", json!({}), json!({}), json!({"cpu": "2", "pods": "10"})));
        assert_eq!(message(&cluster, "1"), "n");
        assert_eq!(
            message(&cluster, "3"),
            "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: \
             1 Preemption is not helpful for scheduling."
        );
    }

    #[test]
    fn of_many_nodes_some_are_looked_at() {
        let check = |share: i64, nodes: usize, expected: usize| {
            let mut asking = pod("p", json!({}));
            let mut profile = crate::Profile::default();
            profile.share_of_nodes = share;
            asking.profile = Arc::new(profile);
            assert_eq!(enough(&asking, nodes), expected, "{share} of {nodes}");
        };
        check(0, 99, 99);
        check(0, 100, 100);
        check(0, 1000, 420);
        check(0, 5000, 500);
        check(0, 20_000, 1000);
        check(70, 1000, 700);
        check(1, 1000, 100);
        check(100, 1000, 1000);

        // All nodes get their turn, and one that alone fits is found wherever the search begins.
        let mut cluster = Cluster::default();
        for number in 0..300 {
            let allocatable = json!({"cpu": if number == 7 { "4" } else { "2" }, "pods": "10"});
            cluster.set_node(&node(&format!("n{number:03}"), json!({}), json!({}), allocatable));
        }
        let asks = |cpu: &str| pod("p", json!({"containers": [{"resources": {"requests": {"cpu": cpu}}}]}));
        let mut from = 0;
        let mut chosen = std::collections::BTreeSet::new();
        for _ in 0..6 {
            let Decision::Bind(node) = decide(&asks("1"), &cluster, &mut from, |_| 0) else { panic!("there is room") };
            chosen.insert(node);
            let Decision::Bind(node) = decide(&asks("3"), &cluster, &mut from, |_| 0) else { panic!("n007 has room") };
            assert_eq!(&*node, "n007");
        }
        assert!(chosen.len() > 1, "{chosen:?}");
    }

    #[test]
    fn pods_wait_for_their_claims() {
        let mut cluster = Cluster::default();
        cluster.set_node(&node("n", json!({}), json!({}), json!({"cpu": "2", "pods": "10"})));
        let user = pod("p", json!({"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]}));
        let claim = |spec: serde_json::Value| {
            let mut spec = spec;
            spec["storageClassName"] = json!("gold");
            serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "default"}, "spec": spec}))
                .expect("a claim")
        };
        let word = |cluster: &Cluster| match decide(&user, cluster, &mut 0, |_| 0) {
            Decision::Bind(node) => node.to_string(),
            Decision::Wait { message, obstacles, .. } => {
                assert_eq!(obstacles, obstacle::VOLUMES);
                message
            }
        };
        assert_eq!(
            word(&cluster),
            "0/1 nodes are available: persistentvolumeclaim \"c\" not found. preemption: 0/1 nodes are available: \
             1 Preemption is not helpful for scheduling."
        );
        cluster.volumes.set_claim(claim(json!({})));
        assert!(word(&cluster).contains("pod has unbound immediate PersistentVolumeClaims"));
        let class = json!({"metadata": {"name": "gold"}, "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"});
        cluster.volumes.set_class(serde_json::from_value(class).expect("a class"));
        assert!(word(&cluster).starts_with(
            "0/1 nodes are available: 1 node(s) didn't find available persistent volumes to bind. preemption"
        ));
        let class = json!({"metadata": {"name": "gold"}, "provisioner": "local.kobune.dev", "volumeBindingMode": "WaitForFirstConsumer"});
        cluster.volumes.set_class(serde_json::from_value(class).expect("a class"));
        assert_eq!(word(&cluster), "n");
    }

    #[test]
    fn claims_of_one_pod_keep_others_away() {
        let mut cluster = Cluster::default();
        cluster.set_node(&node("n", json!({}), json!({}), json!({"cpu": "2", "pods": "10"})));
        let user =
            |name: &str| pod(name, json!({"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]}));
        let claim = json!({"metadata": {"name": "c", "namespace": "default", "annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
            "spec": {"volumeName": "v", "accessModes": ["ReadWriteOncePod"]}});
        cluster.volumes.set_claim(serde_json::from_value(claim).expect("a claim"));
        cluster
            .volumes
            .set_volume(serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": {}})).expect("a volume"));
        assert!(matches!(decide(&user("first"), &cluster, &mut 0, |_| 0), Decision::Bind(_)));
        let mut first = user("first");
        first.node = Some("n".into());
        cluster.place(Arc::new(first));
        let Decision::Wait { message, .. } = decide(&user("second"), &cluster, &mut 0, |_| 0) else {
            panic!("it is taken")
        };
        assert!(message.contains(crate::volumes::IN_USE), "{message}");
    }

    #[test]
    fn room_that_is_being_made_is_kept() {
        let mut cluster = Cluster::default();
        cluster.set_node(&node("n", json!({}), json!({}), json!({"cpu": "2", "pods": "10"})));
        let spec =
            |priority: i32| json!({"priority": priority, "containers": [{"resources": {"requests": {"cpu": "2"}}}]});
        let important = Arc::new(pod("important", spec(10)));
        cluster.nominate(&important, Some("n".into()));
        assert!(matches!(decide(&pod("late", spec(0)), &cluster, &mut 0, |_| 0), Decision::Wait { .. }));
        assert!(matches!(decide(&important, &cluster, &mut 0, |_| 0), Decision::Bind(_)));
    }
}
