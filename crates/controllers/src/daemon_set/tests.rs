use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Node;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::plan::{Plan, plan};
use super::template;
use crate::pod::{Pod, PodInput};

fn set(more: Value) -> DaemonSet {
    let mut object = json!({
        "metadata": {"name": "logs", "namespace": "default", "uid": "s", "generation": 2},
        "spec": {"selector": {"matchLabels": {"app": "logs"}},
            "template": {"metadata": {"labels": {"app": "logs"}}, "spec": {"nodeSelector": {"os": "linux"},
                "containers": [{"name": "c", "image": "i"}]}}},
    });
    for (key, value) in more.as_object().expect("an object") {
        object["spec"][key] = value.clone();
    }
    serde_json::from_value(object).expect("a daemon set")
}

fn node(name: &str, more: Value) -> Arc<Node> {
    let object = json!({"metadata": {"name": name, "labels": {"os": "linux"}}, "spec": more});
    Arc::new(serde_json::from_value(object).expect("a node"))
}

fn member(name: &str, node: &str, revision: &str, state: &str) -> Arc<Pod> {
    let phase = match state {
        "failed" => "Failed",
        "pending" => "Pending",
        _ => "Running",
    };
    let ready = if ["ready", "leaving"].contains(&state) { "True" } else { "False" };
    let deletion = (state == "leaving").then_some("2026-01-01T00:00:00Z");
    Arc::new(crate::pod::tests::pod(
        name,
        json!({"metadata": {"labels": {"app": "logs", "controller-revision-hash": revision}, "deletionTimestamp": deletion,
                "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": node},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready,
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}),
    ))
}

fn decide(set: &DaemonSet, nodes: &[Arc<Node>], pods: &[Arc<Pod>]) -> Plan {
    let now: Timestamp = "2026-01-02T00:00:00Z".parse().expect("a time");
    plan(set, "new", nodes, pods, now)
}

fn said(plan: &Plan) -> Vec<String> {
    let created = plan.create.iter().map(|node| format!("+{node}"));
    let deleted = plan.delete.iter().map(|pod| format!("-{}", pod.name()));
    created.chain(deleted).chain(plan.ended.iter().map(|pod| format!("ended {}", pod.name()))).collect()
}

#[test]
fn plans() {
    let three = || ["a", "b", "c"].map(|name| node(name, json!({}))).to_vec();
    let check = |more: Value, nodes: Vec<Arc<Node>>, pods: &[(&str, &str, &str)], expected: &[&str]| {
        let members: Vec<_> = pods
            .iter()
            .enumerate()
            .map(|(at, (node, revision, state))| member(&format!("p{at}"), node, revision, state))
            .collect();
        assert_eq!(said(&decide(&set(more.clone()), &nodes, &members)), expected, "{more} {pods:?}");
    };
    let plain = || json!({});
    check(plain(), three(), &[], &["+a", "+b", "+c"]);
    check(plain(), three(), &[("a", "new", "ready"), ("b", "new", "pending"), ("c", "new", "ready")], &[]);
    // A pod on a node that does not fit goes; one on a node that only takes no new pods stays.
    let tainted = |effect: &str| node("a", json!({"taints": [{"key": "k", "effect": effect}]}));
    check(plain(), vec![tainted("NoSchedule")], &[], &[]);
    check(plain(), vec![tainted("NoSchedule")], &[("a", "new", "ready")], &[]);
    check(plain(), vec![tainted("NoExecute")], &[("a", "new", "ready")], &["-p0"]);
    let unschedulable = json!({"taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]});
    check(plain(), vec![node("a", unschedulable)], &[], &["+a"]);
    check(plain(), vec![Arc::new(Node::default())], &[], &[]);
    // Doubles go, the older stays; what has ended is replaced after it has gone.
    check(plain(), vec![node("a", json!({}))], &[("a", "new", "ready"), ("a", "new", "ready")], &["-p1"]);
    check(plain(), vec![node("a", json!({}))], &[("a", "new", "failed")], &["ended p0"]);
    check(plain(), vec![node("a", json!({}))], &[("a", "new", "leaving")], &[]);
    // Rolling: one at a time, ill ones for nothing.
    let old = [("a", "old", "ready"), ("b", "old", "ready"), ("c", "old", "ready")];
    check(plain(), three(), &old, &["-p0"]);
    check(plain(), three(), &[("a", "new", "pending"), ("b", "old", "ready"), ("c", "old", "ready")], &[]);
    check(plain(), three(), &[("a", "new", "ready"), ("b", "old", "ill"), ("c", "old", "ready")], &["-p1"]);
    check(json!({"updateStrategy": {"type": "OnDelete"}}), three(), &old, &[]);
    let rolling = |rolling: Value| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling}});
    check(rolling(json!({"maxUnavailable": "60%"})), three(), &old, &["-p0", "-p1"]);
    let surge = || rolling(json!({"maxSurge": 1, "maxUnavailable": 0}));
    check(surge(), three(), &old, &["+a"]);
    let mut beside = old.to_vec();
    beside.push(("a", "new", "pending"));
    check(surge(), three(), &beside, &[]);
    beside[3].2 = "ready";
    check(surge(), three(), &beside, &["+b", "-p0"]);
}

#[test]
fn statuses() {
    let nodes = [
        node("a", json!({})),
        node("b", json!({})),
        node("c", json!({"taints": [{"key": "k", "effect": "NoSchedule"}]})),
    ];
    let pods = [member("p0", "a", "new", "ready"), member("p1", "c", "old", "ready")];
    let status = decide(&set(json!({})), &nodes, &pods).status;
    assert_eq!(
        (status.desired_number_scheduled, status.current_number_scheduled, status.number_misscheduled),
        (2, 1, 1)
    );
    assert_eq!((status.number_ready, status.number_available, status.number_unavailable), (1, Some(1), Some(1)));
    assert_eq!(status.updated_number_scheduled, Some(1));
}

#[test]
fn pods_name_their_node() {
    let mut set = set(json!({}));
    let spec = set.spec.as_mut().expect("a spec").template.spec.as_mut().expect("a pod spec");
    spec.affinity = serde_json::from_value(json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [{"matchExpressions": [{"key": "x", "operator": "Exists"}]}]}}}))
    .expect("an affinity");
    let made = template::pod(&set, "h", "far").pod;
    let text = serde_json::to_value(&made).expect("json");
    let read = Pod::from(serde_json::from_value::<PodInput>(text).expect("a pod"));
    assert_eq!(read.target.as_deref(), Some("far"));
    assert_eq!(made.spec.expect("spec").tolerations.expect("tolerations").len(), 6);
}

proptest! {
    /// Whatever state the pods are in, a rolling update takes no more available pods than may be missing.
    #[test]
    fn rolling_stays_within_bounds(
        states in prop::collection::vec((prop::sample::select(vec!["old", "new"]),
            prop::sample::select(vec!["ready", "ill", "pending", "leaving"])), 1..8),
        max_unavailable in 1_usize..4,
    ) {
        let nodes: Vec<_> = (0..states.len()).map(|at| node(&format!("n{at}"), json!({}))).collect();
        let pods: Vec<_> = states
            .iter()
            .enumerate()
            .map(|(at, (revision, state))| member(&format!("p{at}"), &format!("n{at}"), revision, state))
            .collect();
        let rolling = json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": max_unavailable}}});
        let plan = decide(&set(rolling), &nodes, &pods);
        let ready = |pod: &Arc<Pod>| pod.ready.is_some() && pod.deletion.is_none();
        let missing = pods.iter().filter(|pod| !ready(pod)).count();
        let taken = plan.delete.iter().filter(|pod| ready(pod)).count();
        prop_assert!(taken == 0 || missing + taken <= max_unavailable, "{missing} missing, {taken} taken");
        prop_assert!(plan.create.is_empty());
    }
}
