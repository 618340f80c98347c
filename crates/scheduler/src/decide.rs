//! The decision about one pod: a node, or why there is none and what to do about it.

use std::borrow::Cow;
use std::sync::Arc;

use crate::cluster::Cluster;
use crate::filter::{Question, obstacle, unschedulable_message};
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

/// Decides about one pod. `pick` breaks ties between nodes.
pub fn decide(pod: &PodInfo, cluster: &Cluster, pick: impl FnOnce(usize) -> usize) -> Decision {
    let nodes = cluster.known().count();
    if let Err(why) = cluster.volumes.question(pod)
        && nodes > 0
    {
        let message = format!(
            "0/{nodes} nodes are available: {why}. preemption: 0/{nodes} nodes are available: {nodes} Preemption is not \
             helpful for scheduling."
        );
        return Decision::Wait { message, obstacles: obstacle::VOLUMES, preemption: None, gives_up: true };
    }
    if let Err(why) = cluster.devices.question(pod)
        && nodes > 0
    {
        let message = format!(
            "0/{nodes} nodes are available: {why}. preemption: 0/{nodes} nodes are available: {nodes} Preemption is not \
             helpful for scheduling."
        );
        return Decision::Wait { message, obstacles: obstacle::DEVICES, preemption: None, gives_up: true };
    }
    let none = Constraints::default();
    let constraints = pod.constraints.as_deref().unwrap_or(&none);
    let question = Question::new(pod, constraints, cluster);
    let (mut fitting, mut rejections) = (Vec::new(), Vec::new());
    for (name, state, facts) in cluster.known() {
        // Room that is being made for a pod at least as important is not free for this one.
        let mut reserved = cluster.nominated_before(name, pod).peekable();
        let answer = if reserved.peek().is_some() {
            let mut crowded = state.clone();
            reserved.for_each(|other| crowded.add(other.clone()));
            question.ask(name, &crowded, facts)
        } else {
            question.ask(name, state, facts)
        };
        match answer {
            Ok(()) => fitting.push((name, state, facts)),
            Err(rejection) => rejections.push((name.clone(), rejection)),
        }
    }
    if let Some(own) = cluster.nomination(&pod.uid).filter(|own| fitting.iter().any(|(name, ..)| name == own)) {
        return Decision::Bind(own.clone());
    }
    if let Some(node) = score::best(pod, constraints, cluster, &fitting, pick) {
        return Decision::Bind(node.clone());
    }
    if rejections.is_empty() {
        let message = "no nodes available to schedule pods".to_owned();
        return Decision::Wait { message, obstacles: obstacle::NO_NODES, preemption: None, gives_up: true };
    }
    let obstacles = rejections.iter().fold(0, |bits, (_, rejection)| bits | rejection.obstacle);
    let reasons = rejections.iter().flat_map(|(_, rejection)| rejection.reasons.iter().map(Cow::as_ref));
    let message = unschedulable_message(rejections.len(), reasons);
    match preempt::plan(pod, constraints, cluster, &rejections) {
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
        let message = |cluster: &Cluster, cpu: &str| match decide(&asks(cpu), cluster, |_| 0) {
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
        let word = |cluster: &Cluster| match decide(&user, cluster, |_| 0) {
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
        assert!(matches!(decide(&user("first"), &cluster, |_| 0), Decision::Bind(_)));
        let mut first = user("first");
        first.node = Some("n".into());
        cluster.place(Arc::new(first));
        let Decision::Wait { message, .. } = decide(&user("second"), &cluster, |_| 0) else { panic!("it is taken") };
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
        assert!(matches!(decide(&pod("late", spec(0)), &cluster, |_| 0), Decision::Wait { .. }));
        assert!(matches!(decide(&important, &cluster, |_| 0), Decision::Bind(_)));
    }
}
