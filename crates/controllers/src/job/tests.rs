use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::failure_policy::Verdict;
use super::plan::{FINALIZER, Ledger, Plan, plan, tracked};
use super::template;
use crate::pod::Pod;

fn job(more: Value, status: Value) -> Job {
    let mut object = json!({
        "metadata": {"name": "sum", "namespace": "default", "uid": "j"},
        "spec": {"selector": {"matchLabels": {"job": "sum"}}, "backoffLimit": 6, "completions": 1, "parallelism": 1,
            "template": {"metadata": {"labels": {"job": "sum"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}},
        "status": status,
    });
    for (key, value) in more.as_object().expect("an object") {
        object["spec"][key] = value.clone();
    }
    serde_json::from_value(object).expect("a job")
}

/// A pod by words: its phase, `ready`, `leaving`, `counted` (no finalizer), `index=<n>`, `failures=<n>`, `at=<second>`.
fn member(name: &str, words: &str) -> Arc<Pod> {
    let mut object = json!({"metadata": {"finalizers": [FINALIZER], "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {}},
        "status": {"phase": "Running"}});
    for word in words.split(' ') {
        match word.split_once('=').unwrap_or((word, "")) {
            ("leaving", _) => object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into(),
            ("ready", _) => object["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]),
            ("counted", _) => object["metadata"]["finalizers"] = json!([]),
            ("index", index) => {
                object["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] = index.into()
            }
            ("failures", times) => {
                object["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"] = times.into();
            }
            ("at", second) => {
                let time = format!("2026-01-01T00:00:{second}Z");
                object["status"]["containerStatuses"] =
                    json!([{"restartCount": 0, "state": {"terminated": {"finishedAt": time}}}]);
            }
            ("restarts", times) => {
                let times: i32 = times.parse().expect("a number");
                object["status"]["containerStatuses"] = json!([{"restartCount": times, "state": {}}]);
            }
            (phase, _) => object["status"]["phase"] = phase.into(),
        }
    }
    Arc::new(crate::pod::tests::pod(name, object))
}

fn members(words: &[&str]) -> Vec<Arc<Pod>> {
    words.iter().enumerate().map(|(at, words)| member(&format!("p{at}"), words)).collect()
}

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().expect("a time")
}

/// Counts until nothing is left to count, as passes without a crash do, and plans.
fn run(job: &Job, pods: &mut [Arc<Pod>]) -> Plan {
    let spec = job.spec.as_ref().expect("a spec");
    let mut ledger = Ledger::of(spec, job.status.clone().unwrap_or_default());
    ledger.settle(pods);
    let (succeeded, failed) = ledger.unnoted(pods);
    let judged: Vec<_> = failed.iter().map(|pod| (*pod, Verdict::Count)).collect();
    ledger.note(&succeeded, &judged);
    let ended: Vec<_> = succeeded.iter().chain(&failed).map(|pod| pod.uid.clone()).collect();
    let status = ledger.into_status();
    for pod in pods.iter_mut().filter(|pod| ended.contains(&pod.uid)) {
        Arc::make_mut(pod).finalizers = Box::default();
    }
    let mut ledger = Ledger::of(spec, status);
    ledger.settle(pods);
    let plan = plan(job, ledger, pods, None, now());
    // The API server takes no status with more ready pods than active ones.
    assert!(plan.status.ready.unwrap_or(0) <= plan.status.active.unwrap_or(0), "{:?}", plan.status);
    plan
}

fn words(plan: &Plan) -> String {
    let conditions = plan.status.conditions.iter().flatten().filter(|condition| condition.status == "True");
    let mut words: Vec<String> = conditions.map(|condition| condition.type_.clone()).collect();
    for new in &plan.create {
        words.push(new.index.map_or("+".to_owned(), |index| format!("+{index}")));
    }
    words.extend(plan.drop.iter().map(|pod| format!("drop {}", pod.name())));
    words.extend(plan.kill.iter().map(|pod| format!("kill {}", pod.name())));
    words.join(" ")
}

#[test]
fn plans() {
    let check = |more: Value, pods: &[&str], expected: &str| {
        let found = words(&run(&job(more.clone(), json!({})), &mut members(pods)));
        assert_eq!(found, expected, "{more} {pods:?}");
    };
    check(json!({}), &[], "+");
    check(json!({}), &["Running"], "");
    check(json!({}), &["Succeeded"], "SuccessCriteriaMet Complete");
    check(json!({"completions": 5, "parallelism": 3}), &[], "+ + +");
    check(json!({"completions": 5, "parallelism": 3}), &["Succeeded", "Succeeded", "Succeeded", "Running"], "+");
    check(json!({"completions": 5, "parallelism": 1}), &["Running", "Pending"], "drop p1");
    check(json!({"completions": null, "parallelism": 2}), &["Running"], "+");
    check(json!({"completions": null, "parallelism": 2}), &["Succeeded", "Running"], "");
    check(json!({"completions": null, "parallelism": 2}), &["Succeeded", "Succeeded"], "SuccessCriteriaMet Complete");
    check(json!({"parallelism": 0}), &["Running"], "drop p0");
    // Failing.
    check(json!({"backoffLimit": 1}), &["Failed", "Running"], "");
    check(json!({"backoffLimit": 0}), &["Failed"], "FailureTarget Failed");
    check(
        json!({"backoffLimit": 0, "completions": 2, "parallelism": 2}),
        &["Failed", "Running"],
        "FailureTarget kill p1",
    );
    check(json!({"backoffLimit": 0}), &["Failed", "Running leaving"], "FailureTarget");
    let on_failure = json!({"backoffLimit": 2, "template": {"spec": {"restartPolicy": "OnFailure", "containers": []}}});
    check(on_failure.clone(), &["Running restarts=1"], "");
    check(on_failure, &["Running restarts=2"], "FailureTarget kill p0");
    // Pods that are deleted by somebody are replaced at once, or when they have ended.
    check(json!({}), &["Running leaving"], "+");
    check(json!({"podReplacementPolicy": "Failed"}), &["Running leaving"], "");
    check(json!({"suspend": true}), &["Running"], "Suspended drop p0");
    // Indexes.
    let indexed = |more: Value| {
        let mut spec = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 2});
        more.as_object().expect("an object").iter().for_each(|(key, value)| spec[key] = value.clone());
        spec
    };
    check(indexed(json!({})), &[], "+0 +1");
    check(indexed(json!({})), &["Succeeded index=0", "Running index=2"], "+1");
    check(indexed(json!({})), &["Running index=1", "Running index=1"], "drop p1");
    check(
        indexed(json!({})),
        &["Succeeded index=0", "Succeeded index=1", "Succeeded index=2"],
        "SuccessCriteriaMet Complete",
    );
    let per_index = || indexed(json!({"backoffLimitPerIndex": 1, "backoffLimit": 2147483647}));
    check(per_index(), &["Failed index=0 failures=1", "Succeeded index=1"], "+2");
    check(
        per_index(),
        &["Failed index=0 failures=1", "Succeeded index=1", "Succeeded index=2"],
        "FailureTarget Failed",
    );
    let early = || indexed(json!({"successPolicy": {"rules": [{"succeededIndexes": "1-2", "succeededCount": 1}]}}));
    check(early(), &["Running ready index=0", "Succeeded index=2"], "SuccessCriteriaMet kill p0");
    check(json!({"suspend": true}), &["Running ready"], "Suspended drop p0");
    check(json!({"parallelism": 0}), &["Running ready"], "drop p0");
    check(early(), &["Succeeded index=0", "Running index=2"], "+1");
}

#[test]
fn failures_make_pauses_longer() {
    let check = |pods: &[&str], expected: Option<u64>| {
        let job = job(json!({"activeDeadlineSeconds": null}), json!({}));
        let mut pods = members(pods);
        let mut ledger = Ledger::of(job.spec.as_ref().expect("a spec"), JobStatus::default());
        ledger.settle(&pods);
        for pod in &mut pods {
            Arc::make_mut(pod).finalizers = Box::default();
        }
        let at: Timestamp = "2026-01-01T00:00:30Z".parse().expect("a time");
        let plan = plan(&job, ledger, &pods, None, at);
        assert_eq!(plan.revisit.map(|pause| pause.as_secs()), expected);
        assert_eq!(plan.create.is_empty(), expected.is_some());
    };
    check(&["Failed at=25"], Some(5));
    check(&["Failed at=10"], None);
    check(&["Failed at=10", "Failed at=20"], Some(10));
    check(&["Failed at=10", "Failed at=20", "Failed at=29"], Some(39));
}

#[test]
fn a_deadline_ends_a_job() {
    let status = json!({"startTime": "2026-01-01T00:00:00Z"});
    let late = job(json!({"activeDeadlineSeconds": 3600}), status.clone());
    let found = run(&late, &mut members(&["Running"]));
    assert_eq!(words(&found), "FailureTarget kill p0");
    assert_eq!(found.status.conditions.expect("conditions")[0].reason.as_deref(), Some("DeadlineExceeded"));
    let in_time = job(json!({"activeDeadlineSeconds": 3610}), status);
    let found = run(&in_time, &mut members(&["Running"]));
    assert_eq!((words(&found).as_str(), found.revisit.map(|left| left.as_secs())), ("", Some(10)));
}

#[test]
fn resuming_starts_the_clock_again() {
    let suspended = json!({"conditions": [{"type": "Suspended", "status": "True"}]});
    let found = run(&job(json!({}), suspended), &mut []);
    assert_eq!(words(&found), "+");
    assert!(found.status.start_time.is_some());
    assert_eq!(found.said, [("Resumed", "Job resumed".to_owned(), false)]);
}

#[test]
fn pods_know_their_index() {
    let job = job(json!({"completionMode": "Indexed"}), json!({}));
    let made = template::pod(&job, &super::plan::New { index: Some(3), index_failures: Some(1) }).pod;
    let spec = made.spec.expect("a spec");
    assert_eq!(spec.hostname.as_deref(), Some("sum-3"));
    assert_eq!(spec.containers[0].env.as_ref().expect("variables")[0].name, "JOB_COMPLETION_INDEX");
    assert_eq!(made.metadata.generate_name.as_deref(), Some("sum-3-"));
    assert_eq!(made.metadata.annotations.expect("annotations").len(), 2);
}

proptest! {
    /// However passes are cut short, each pod is counted exactly once.
    #[test]
    fn pods_are_counted_once(
        ends in prop::collection::vec(prop::bool::ANY, 1..12),
        cuts in prop::collection::vec((0_u8..4, 0_usize..12), 0..40),
    ) {
        let job = job(json!({"completions": 1000, "parallelism": 1000, "backoffLimit": 1000}), json!({}));
        let spec = job.spec.as_ref().expect("a spec");
        let mut pods: Vec<Arc<Pod>> = ends
            .iter()
            .enumerate()
            .map(|(at, well)| member(&format!("p{at}"), if *well { "Succeeded" } else { "Failed" }))
            .collect();
        // What is stored: the status, and which pods have their finalizer.
        let mut stored = JobStatus::default();
        let pass = |stored: &mut JobStatus, pods: &mut Vec<Arc<Pod>>, until: u8, released: usize, gone: bool| {
            let mut ledger = Ledger::of(spec, stored.clone());
            ledger.settle(pods);
            let (succeeded, failed) = ledger.unnoted(pods);
            let judged: Vec<_> = failed.iter().map(|pod| (*pod, Verdict::Count)).collect();
            ledger.note(&succeeded, &judged);
            if until == 0 {
                return;
            }
            *stored = ledger.into_status();
            let notes = stored.uncounted_terminated_pods.clone().unwrap_or_default();
            let noted: Vec<String> = notes.succeeded.into_iter().flatten().chain(notes.failed.into_iter().flatten()).collect();
            for pod in pods.iter_mut().filter(|pod| noted.iter().any(|uid| **uid == *pod.uid)).take(released) {
                Arc::make_mut(pod).finalizers = Box::default();
            }
            if gone {
                // Somebody deletes what is counted no more.
                pods.retain(|pod| tracked(pod));
            }
            if until < 3 {
                return;
            }
            let mut ledger = Ledger::of(spec, stored.clone());
            ledger.settle(pods);
            *stored = plan(&job, ledger, pods, None, now()).status;
        };
        for (until, released) in cuts {
            pass(&mut stored, &mut pods, until, released, released % 2 == 0);
        }
        pass(&mut stored, &mut pods, 3, usize::MAX, false);
        pass(&mut stored, &mut pods, 3, usize::MAX, true);
        let well = ends.iter().filter(|well| **well).count();
        prop_assert_eq!(stored.succeeded.unwrap_or(0) as usize, well);
        prop_assert_eq!(stored.failed.unwrap_or(0) as usize, ends.len() - well);
    }
}
