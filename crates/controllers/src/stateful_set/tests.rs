use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::identity::{Retention, claim_owners, ordinal, pod};
use super::plan::{Action, Plan, Revisions, Template, plan};
use crate::pod::Pod;

fn set(more: Value) -> StatefulSet {
    let mut object = json!({
        "metadata": {"name": "db", "namespace": "default", "uid": "s", "generation": 2},
        "spec": {"serviceName": "db", "selector": {"matchLabels": {"app": "db"}}, "replicas": 3,
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    });
    for (key, value) in more.as_object().expect("an object") {
        object["spec"][key] = value.clone();
    }
    serde_json::from_value(object).expect("a stateful set")
}

fn member(ordinal: i32, revision: &str, state: &str) -> Arc<Pod> {
    let ready = ["ready", "leaving"].contains(&state);
    let phase = match state {
        "failed" => "Failed",
        "pending" => "Pending",
        _ => "Running",
    };
    let deletion = (state == "leaving").then_some("2026-01-01T00:00:00Z");
    Arc::new(crate::pod::tests::pod(
        &format!("db-{ordinal}"),
        json!({"metadata": {"labels": {"app": "db", "controller-revision-hash": revision}, "deletionTimestamp": deletion},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" },
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}),
    ))
}

const REVISIONS: Revisions<'_> = Revisions { current: "old", update: "new" };

fn now() -> Timestamp {
    "2026-01-02T00:00:00Z".parse().expect("a time")
}

fn decide(set: &StatefulSet, pods: &[Arc<Pod>]) -> Plan {
    plan(set, pods, REVISIONS, 0, now())
}

fn said(plan: &Plan) -> Vec<String> {
    let word = |action: &Action| match action {
        Action::Create { ordinal, template: Template::Current } => format!("+{ordinal} old"),
        Action::Create { ordinal, template: Template::Update } => format!("+{ordinal} new"),
        Action::Claims { ordinal } => format!("claims {ordinal}"),
        Action::Delete { pod, .. } => format!("-{}", pod.name().trim_start_matches("db-")),
    };
    plan.actions.iter().map(word).collect()
}

#[test]
fn plans() {
    let check = |more: Value, pods: &[(i32, &str, &str)], expected: &[&str]| {
        let pods: Vec<_> = pods.iter().map(|(ordinal, revision, state)| member(*ordinal, revision, state)).collect();
        assert_eq!(said(&decide(&set(more.clone()), &pods)), expected, "{more} {}", pods.len());
    };
    let ordered = json!({});
    let parallel = json!({"podManagementPolicy": "Parallel"});
    check(ordered.clone(), &[], &["+0 new"]);
    check(parallel.clone(), &[], &["+0 new", "+1 new", "+2 new"]);
    check(ordered.clone(), &[(0, "new", "pending")], &["claims 0"]);
    check(ordered.clone(), &[(0, "new", "ready")], &["+1 new"]);
    check(ordered.clone(), &[(0, "new", "failed")], &["-0"]);
    check(json!({"ordinals": {"start": 5}, "replicas": 1}), &[], &["+5 new"]);
    // There is a last number; what is asked for beyond it cannot be.
    let far = |replicas: i32| json!({"ordinals": {"start": i32::MAX - 1}, "replicas": replicas, "podManagementPolicy": "Parallel"});
    check(far(2), &[], &["+2147483646 new", "+2147483647 new"]);
    check(far(i32::MAX), &[(i32::MAX, "new", "ready")], &["+2147483646 new"]);
    check(far(2), &[(i32::MAX - 1, "new", "ready"), (i32::MAX, "old", "ready")], &["-2147483647"]);
    check(far(0), &[], &[]);
    // Scaling down goes from the top, one by one, and waits for a pod that is not well.
    let two_too_many = [(0, "new", "ready"), (1, "new", "ready"), (2, "new", "ready")];
    check(json!({"replicas": 1}), &two_too_many, &["-2"]);
    check(json!({"replicas": 1, "podManagementPolicy": "Parallel"}), &two_too_many, &["-2", "-1"]);
    check(json!({"replicas": 1}), &[(0, "new", "ready"), (1, "new", "ready"), (2, "new", "leaving")], &[]);
    check(json!({"replicas": 1}), &[(0, "new", "ready"), (1, "new", "ill"), (2, "new", "ready")], &["-2"]);
    check(json!({"replicas": 1}), &[(0, "new", "ready"), (1, "new", "ill"), (2, "new", "ill")], &[]);
    // Rolling goes from the top down to the partition.
    let all_old = [(0, "old", "ready"), (1, "old", "ready"), (2, "old", "ready")];
    check(ordered.clone(), &all_old, &["-2"]);
    check(ordered.clone(), &[(0, "old", "ready"), (1, "old", "ready"), (2, "new", "ready")], &["-1"]);
    let rolling = |rolling: Value| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling}});
    check(rolling(json!({"partition": 2})), &[(0, "old", "ready"), (1, "old", "ready"), (2, "new", "ready")], &[]);
    check(rolling(json!({"partition": 2})), &[(0, "old", "ready")], &["+1 old"]);
    check(rolling(json!({"partition": 9})), &all_old, &[]);
    check(rolling(json!({"maxUnavailable": 2})), &all_old, &["-2", "-1"]);
    check(json!({"updateStrategy": {"type": "OnDelete"}}), &all_old, &[]);
    check(json!({"updateStrategy": {"type": "OnDelete"}}), &all_old[..2], &["+2 new"]);
    // A pod that never became well does not hold up its replacement.
    check(parallel.clone(), &[(0, "old", "ready"), (1, "old", "ready"), (2, "old", "ill")], &["-2"]);
    // What is missing counts wherever it is, so that never more are missing than may be.
    check(parallel.clone(), &[(0, "new", "ill"), (1, "old", "ready"), (2, "old", "ready")], &[]);
    check(parallel.clone(), &[(0, "old", "ready"), (1, "old", "ready"), (2, "new", "ill")], &[]);
    let mut two = parallel;
    two["updateStrategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}});
    check(two.clone(), &[(0, "new", "ill"), (1, "old", "ready"), (2, "old", "ready")], &["-2"]);
    check(two, &[(0, "old", "ready"), (1, "old", "leaving"), (2, "old", "ready")], &["-2"]);
}

#[test]
fn statuses() {
    let pods = [member(0, "old", "ready"), member(1, "new", "ready"), member(2, "new", "leaving")];
    let status = decide(&set(json!({})), &pods).status;
    assert_eq!((status.replicas, status.ready_replicas, status.available_replicas), (3, Some(3), Some(3)));
    assert_eq!((status.current_replicas, status.updated_replicas), (Some(1), Some(1)));
    assert_eq!(status.current_revision.as_deref(), Some("old"));
    let pods = [member(0, "new", "ready"), member(1, "new", "ready"), member(2, "new", "ready")];
    let status = decide(&set(json!({})), &pods).status;
    assert_eq!((status.current_revision.as_deref(), status.current_replicas), (Some("new"), Some(3)));
}

#[test]
fn identities() {
    let check = |name: &str, expected: Option<i32>| assert_eq!(ordinal("db", name), expected, "{name}");
    check("db-0", Some(0));
    check("db-12", Some(12));
    check("db-01", None);
    check("db--1", None);
    check("db-", None);
    check("dbx-1", None);
    check("db-99999999999", None);
    let set = set(json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}));
    let made = pod(&set, &set.spec.as_ref().expect("spec").template, "r", 4);
    let spec = made.spec.expect("spec");
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("db-4"), Some("db")));
    let volume = &spec.volumes.expect("volumes")[0];
    assert_eq!(volume.persistent_volume_claim.as_ref().expect("a claim").claim_name, "data-db-4");
    assert_eq!(made.metadata.labels.expect("labels")["apps.kubernetes.io/pod-index"], "4");
}

#[test]
fn claims_go_with_what_the_policy_says() {
    let set = set(json!({}));
    let pod = k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference {
        kind: "Pod".to_owned(),
        name: "db-3".to_owned(),
        uid: "p".to_owned(),
        ..Default::default()
    };
    let owners = |with_set: bool, with_scale: bool, condemned: bool| {
        let retention = Retention { with_set, with_scale };
        let owners = claim_owners(&set, retention, condemned.then_some(&pod), "db-3", &[])?;
        Some(owners.iter().map(|owner| owner.uid.clone()).collect::<Vec<_>>().join(","))
    };
    assert_eq!(owners(false, false, true), None);
    assert_eq!(owners(true, false, false).as_deref(), Some("s"));
    assert_eq!(owners(true, true, true).as_deref(), Some("p"));
    assert_eq!(owners(false, true, false), None);
    let there = claim_owners(&set, Retention { with_set: true, with_scale: false }, None, "db-3", &[]).expect("owners");
    assert_eq!(claim_owners(&set, Retention { with_set: true, with_scale: false }, None, "db-3", &there), None);
    assert_eq!(
        claim_owners(&set, Retention { with_set: false, with_scale: false }, None, "db-3", &there),
        Some(vec![])
    );
}

proptest! {
    /// Whatever state the pods are in, an ordered set makes or takes at most one pod at a time, never takes a pod below
    /// the partition for its revision, and creates only what is missing.
    #[test]
    fn ordered_sets_take_one_step(
        states in prop::collection::vec((0_i32..6, prop::sample::select(vec!["old", "new"]),
            prop::sample::select(vec!["ready", "ill", "pending", "failed", "leaving"])), 0..6),
        replicas in 0_i32..6,
        partition in 0_i32..6,
    ) {
        let mut pods: Vec<Arc<Pod>> = Vec::new();
        for (ordinal, revision, state) in states {
            if !pods.iter().any(|pod| pod.name() == format!("db-{ordinal}")) {
                pods.push(member(ordinal, revision, state));
            }
        }
        let set = set(json!({"replicas": replicas, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}}));
        let plan = decide(&set, &pods);
        let steps: Vec<_> = plan.actions.iter().filter(|action| !matches!(action, Action::Claims { .. })).collect();
        prop_assert!(steps.len() <= 1, "{:?}", said(&plan));
        for step in steps {
            match step {
                Action::Create { ordinal, .. } => {
                    prop_assert!((0..replicas).contains(ordinal));
                    let name = super::identity::pod_name("db", *ordinal);
                    prop_assert!(pods.iter().all(|pod| pod.name() != name));
                }
                Action::Delete { pod, said } => {
                    let at = ordinal("db", pod.name()).expect("an ordinal");
                    prop_assert!(said.is_some() || at >= replicas.min(partition) || at >= replicas);
                    prop_assert!(pod.deletion.is_none());
                }
                Action::Claims { .. } => {}
            }
        }
    }

    /// However the pods are, an update takes no more of those that serve than leaves as many missing as may be.
    #[test]
    fn an_update_leaves_enough(
        states in prop::collection::vec((prop::sample::select(vec!["old", "new"]),
            prop::sample::select(vec!["ready", "ready", "ill", "pending", "leaving"])), 1..8),
        most in 1_i32..4,
    ) {
        let pods: Vec<Arc<Pod>> =
            states.iter().zip(0..).map(|((revision, state), ordinal)| member(ordinal, revision, state)).collect();
        let set = set(json!({"replicas": pods.len(), "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": most}}}));
        let plan = decide(&set, &pods);
        let serves = |pod: &Pod| pod.ready.is_some() && pod.deletion.is_none();
        let taken: Vec<&Arc<Pod>> = plan.actions.iter().filter_map(|action| match action {
            Action::Delete { pod, .. } => Some(pod),
            _ => None,
        }).collect();
        let serving = taken.iter().filter(|pod| serves(pod)).count();
        let missing = pods.iter().filter(|pod| !serves(pod)).count();
        prop_assert!(serving == 0 || missing + serving <= usize::try_from(most).expect("it is positive"), "{:?}", said(&plan));
        prop_assert!(taken.iter().all(|pod| pod.labels.get("controller-revision-hash") == Some("old")));
        // Something is always done while there is something to do.
        let stuck = pods.iter().any(|pod| pod.deletion.is_none() && pod.labels.get("controller-revision-hash") == Some("old"));
        let may = missing < usize::try_from(most).expect("it is positive");
        prop_assert!(!(stuck && may && taken.is_empty()), "{:?}", said(&plan));
    }
}
