//! What a simulated pod does next, as a pure function of what the API server shows of it.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kobune_partial::Partial;
use serde::Deserialize;
use serde_json::{Value, json};

const READY_AFTER: &str = "simulator.kobune.dev/ready-after";
const RUN_FOR: &str = "simulator.kobune.dev/run-for";
const STOP_AFTER: &str = "simulator.kobune.dev/stop-after";
const EXIT_CODE: &str = "simulator.kobune.dev/exit-code";
/// How long a Job's pod runs that does not say it, as kwok's.
const JOB_RUNS_FOR: i64 = 1;

/// The exit code of a process that SIGTERM ends.
const KILLED: i64 = 143;

/// A pod as the simulator reads it.
pub type Input = Partial<Pod, Spec, Status>;

/// What is read of `spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec {
    /// The node it is bound to.
    pub node_name: Option<String>,
    /// It has the node's addresses.
    pub host_network: bool,
    restart_policy: Option<String>,
    containers: Vec<Container>,
    init_containers: Option<Vec<Container>>,
    readiness_gates: Option<Vec<Gate>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    name: String,
    image: Option<String>,
    restart_policy: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Gate {
    condition_type: String,
}

/// What is read of `status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    phase: Option<String>,
    conditions: Option<Vec<Condition>>,
    /// Its addresses.
    #[serde(rename = "podIPs")]
    pub pod_ips: Option<Vec<Address>>,
}

/// An address of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Address {
    /// The address.
    pub ip: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    last_transition_time: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until it changes.
    Nothing,
    /// Nothing before this time.
    Wait(Timestamp),
    /// It runs from now on: its status is to be written, with its addresses.
    Start,
    /// This status is to be written.
    Write(Value),
    /// It is gone.
    Delete,
}

/// The next step of a pod that is bound to one of our nodes.
pub fn plan(pod: &Input, now: Timestamp) -> Step {
    let number = |name: &str| pod.metadata.annotations.as_ref()?.get(name)?.trim_end_matches('s').parse::<i64>().ok();
    let after = |from: Timestamp, seconds: i64| from.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(from);
    let wait = |until: Timestamp, step: Step| if until > now { Step::Wait(until) } else { step };
    let created = pod.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    if let Some(deletion) = &pod.metadata.deletion_timestamp {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        let asked = after(deletion.0, -grace);
        // Whose finalizers keep it shows how it ended, as the kubelet has it say before it goes.
        let kept = pod.metadata.finalizers.as_ref().is_some_and(|all| !all.is_empty());
        let step = match pod.status.phase.as_deref() {
            Some("Running") if kept => Step::Write(ended(pod, KILLED, created, now)),
            _ => Step::Delete,
        };
        return wait(after(asked, number(STOP_AFTER).unwrap_or(0).clamp(0, grace.max(0))), step);
    }
    match pod.status.phase.as_deref() {
        None | Some("" | "Pending") => {
            let bound = condition(pod, "PodScheduled").and_then(since).unwrap_or(created);
            wait(after(bound, number(READY_AFTER).unwrap_or(0)), Step::Start)
        }
        Some("Running") => {
            let begun = condition(pod, "ContainersReady").and_then(since).unwrap_or(created);
            let of_job = pod.metadata.owner_references.iter().flatten().any(|owner| owner.kind == "Job");
            let code = number(EXIT_CODE).unwrap_or(0);
            let ends = match pod.spec.restart_policy.as_deref() {
                Some("Never") => true,
                Some("OnFailure") => code == 0,
                _ => false,
            };
            match number(RUN_FOR).or(of_job.then_some(JOB_RUNS_FOR)).filter(|_| ends) {
                Some(seconds) if after(begun, seconds) <= now => Step::Write(ended(pod, code, begun, now)),
                end => match gated_readiness(pod, now) {
                    Some(change) => Step::Write(change),
                    None => end.map_or(Step::Nothing, |seconds| Step::Wait(after(begun, seconds))),
                },
            }
        }
        Some(_) => Step::Nothing,
    }
}

fn condition<'p>(pod: &'p Input, kind: &str) -> Option<&'p Condition> {
    pod.status.conditions.iter().flatten().find(|condition| condition.kind == kind && condition.status == "True")
}

fn since(condition: &Condition) -> Option<Timestamp> {
    condition.last_transition_time.as_ref().map(|time| time.0)
}

/// Whether all that others have to say before it counts as ready is said.
fn gates_open(pod: &Input) -> bool {
    pod.spec.readiness_gates.iter().flatten().all(|gate| condition(pod, &gate.condition_type).is_some())
}

/// The change of condition `Ready` when gates have opened or closed.
fn gated_readiness(pod: &Input, now: Timestamp) -> Option<Value> {
    let (open, shown) = (gates_open(pod), condition(pod, "Ready").is_some());
    (open != shown).then(|| json!({"conditions": [ready(open, now)]}))
}

fn truth(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

fn whole(now: Timestamp) -> Timestamp {
    now.round(jiff::Unit::Second).unwrap_or(now)
}

fn ready(open: bool, now: Timestamp) -> Value {
    let mut condition = json!({"type": "Ready", "status": truth(open), "lastTransitionTime": whole(now)});
    if !open {
        condition["reason"] = "ReadinessGatesNotReady".into();
    }
    condition
}

/// Statuses of containers; `states` gives the state of one that runs on and of one that has ended before.
fn containers(list: &[Container], state: impl Fn(&Container) -> (Value, bool)) -> Value {
    let one = |container: &Container| {
        let (state, running) = state(container);
        let image = container.image.as_deref().unwrap_or_default();
        json!({"name": container.name, "image": image, "imageID": image, "containerID": format!("simulated://{}", container.name),
            "ready": running || state["terminated"]["exitCode"] == 0, "started": running, "restartCount": 0, "state": state})
    };
    list.iter().map(one).collect()
}

/// The status of a pod that begins to run.
pub fn running(pod: &Input, node: IpAddr, addresses: &[IpAddr], now: Timestamp) -> Value {
    let now = whole(now);
    let running = |_: &Container| (json!({"running": {"startedAt": now}}), true);
    let over = json!({"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now}});
    let before = |container: &Container| match container.restart_policy.as_deref() {
        Some("Always") => running(container),
        _ => (over.clone(), false),
    };
    let simple = ["PodReadyToStartContainers", "Initialized", "ContainersReady"]
        .map(|kind| json!({"type": kind, "status": "True", "lastTransitionTime": now}));
    let mut conditions = Vec::from(simple);
    conditions.push(ready(gates_open(pod), now));
    let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    let mut status = json!({
        "phase": "Running", "startTime": now, "hostIP": node, "hostIPs": [{"ip": node}], "podIP": addresses.first(), "podIPs": ips,
        "conditions": conditions, "containerStatuses": containers(&pod.spec.containers, running),
    });
    if let Some(generation) = pod.metadata.generation {
        status["observedGeneration"] = generation.into();
    }
    if let Some(init) = pod.spec.init_containers.as_ref().filter(|init| !init.is_empty()) {
        status["initContainerStatuses"] = containers(init, before);
    }
    status
}

/// The status of a pod that a node has no place for, as the kubelet refuses it.
pub fn refused(now: Timestamp) -> Value {
    json!({"phase": "Failed", "reason": "OutOfpods", "startTime": whole(now),
        "message": "Pod was rejected: Node didn't have enough resource: pods"})
}

fn ended(pod: &Input, code: i64, begun: Timestamp, now: Timestamp) -> Value {
    let now = whole(now);
    let reason = if code == 0 { "Completed" } else { "Error" };
    let state = json!({"terminated": {"exitCode": code, "reason": reason, "startedAt": begun, "finishedAt": now}});
    let completed = if code == 0 { "PodCompleted" } else { "PodFailed" };
    let conditions = ["Ready", "ContainersReady"]
        .map(|kind| json!({"type": kind, "status": "False", "reason": completed, "lastTransitionTime": now}));
    json!({
        "phase": if code == 0 { "Succeeded" } else { "Failed" }, "conditions": conditions,
        "containerStatuses": containers(&pod.spec.containers, |_| (state.clone(), false)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn time(second: i64) -> String {
        at(second).to_string()
    }

    #[test]
    fn lives() {
        let check = |name: &str, pod: Value, expected: Step| {
            let pod: Input = serde_json::from_value(pod).expect("a pod");
            let found = match plan(&pod, at(100)) {
                Step::Write(status) => Step::Write(status["phase"].clone()),
                other => other,
            };
            assert_eq!(found, expected, "{name}");
        };
        let created = json!({"name": "p", "creationTimestamp": time(90)});
        check("bound", json!({"metadata": created}), Step::Start);
        let with = |annotations: Value| {
            let mut metadata = created.clone();
            metadata["annotations"] = annotations;
            metadata
        };
        check("slow", json!({"metadata": with(json!({READY_AFTER: "30"}))}), Step::Wait(at(120)));
        check("slow, long ago", json!({"metadata": with(json!({READY_AFTER: "10s"}))}), Step::Start);
        let shows = |begun: i64| {
            json!({"phase": "Running", "conditions": [{"type": "ContainersReady", "status": "True", "lastTransitionTime": time(begun)},
                {"type": "Ready", "status": "True"}]})
        };
        check("runs", json!({"metadata": created, "status": shows(95)}), Step::Nothing);
        let never = json!({"restartPolicy": "Never"});
        check("runs without an end", json!({"metadata": created, "spec": never, "status": shows(95)}), Step::Nothing);
        let timed = with(json!({RUN_FOR: "5", EXIT_CODE: "3"}));
        check("fails", json!({"metadata": timed, "spec": never, "status": shows(95)}), Step::Write("Failed".into()));
        check("will fail", json!({"metadata": timed, "spec": never, "status": shows(97)}), Step::Wait(at(102)));
        let retried = json!({"restartPolicy": "OnFailure"});
        check("is started again", json!({"metadata": timed, "spec": retried, "status": shows(95)}), Step::Nothing);
        let mut of_job = created.clone();
        of_job["ownerReferences"] = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "u"}]);
        check(
            "a job's",
            json!({"metadata": of_job, "spec": never, "status": shows(99)}),
            Step::Write("Succeeded".into()),
        );
        check("ended", json!({"metadata": of_job, "spec": never, "status": {"phase": "Succeeded"}}), Step::Nothing);
    }

    #[test]
    fn deletions() {
        let check = |annotations: Value, expected: Step| {
            let pod = json!({"metadata": {"name": "p", "annotations": annotations, "deletionGracePeriodSeconds": 30,
                "deletionTimestamp": time(120)}, "status": {"phase": "Running"}});
            assert_eq!(plan(&serde_json::from_value(pod).expect("a pod"), at(100)), expected);
        };
        check(json!({}), Step::Delete);
        check(json!({STOP_AFTER: "10"}), Step::Delete);
        check(json!({STOP_AFTER: "15"}), Step::Wait(at(105)));
        check(json!({STOP_AFTER: "500"}), Step::Wait(at(120)));
        let mut kept = json!({"metadata": {"name": "p", "finalizers": ["f"], "deletionGracePeriodSeconds": 0,
            "deletionTimestamp": time(100)}, "status": {"phase": "Running"}});
        let next = |pod: &Value| plan(&serde_json::from_value(pod.clone()).expect("a pod"), at(100));
        let Step::Write(status) = next(&kept) else { panic!("it says how it ended") };
        assert_eq!(status["phase"], "Failed");
        kept["status"] = status;
        assert_eq!(next(&kept), Step::Delete);
    }

    #[test]
    fn gates_hold_readiness_back() {
        let pod = |gate: &str| -> Input {
            let pod = json!({"metadata": {"name": "p"}, "spec": {"readinessGates": [{"conditionType": "g"}], "containers": [{"name": "c"}],
                "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]},
                "status": {"phase": "Running", "conditions": [{"type": "g", "status": gate}]}});
            serde_json::from_value(pod).expect("a pod")
        };
        assert_eq!(plan(&pod("False"), at(1)), Step::Nothing);
        let Step::Write(change) = plan(&pod("True"), at(1)) else { panic!("it is ready now") };
        assert_eq!(change["conditions"][0]["status"], "True");
        let node = IpAddr::from([192, 0, 2, 1]);
        let status = running(&pod("False"), node, &[node], at(1));
        assert_eq!(status["conditions"][3]["status"], "False");
        assert_eq!(status["initContainerStatuses"][0]["ready"], true);
        assert!(status["initContainerStatuses"][1]["state"]["running"].is_object());
    }
}
