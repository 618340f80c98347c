//! Pods: above all what their STATUS column says.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cell::{NONE, age, between, condition, flag, holds, int, list, name, text, text_or, time};
use super::{AGE, Column, NAME, Table};

pub(super) const TABLE: Table = (
    &[
        NAME,
        Column::string("Ready", "The aggregate readiness state of this pod for accepting traffic."),
        Column::string("Status", "The aggregate status of the containers in this pod."),
        Column::string(
            "Restarts",
            "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
        ),
        AGE,
        Column::string("IP", "podIP address allocated to the pod. Routable at least within the cluster. Empty if not yet allocated.").wide(),
        Column::string("Node", "NodeName indicates in which node this pod is scheduled. If empty, this pod is a candidate for scheduling by the scheduler defined in schedulerName.").wide(),
        Column::string("Nominated Node", "nominatedNodeName is set only when this pod preempts other pods on the node, but it cannot be scheduled right away as preemption victims receive their graceful termination periods.").wide(),
        Column::string("Readiness Gates", "If specified, all readiness gates will be evaluated for pod readiness. A pod is ready when all its containers are ready AND all conditions specified in the readiness gates have status equal to \"True\"").wide(),
    ],
    row,
);

/// The row's conditions: kubectl leaves out pods that have ended when it is told to.
pub(super) fn conditions(pod: &Value) -> Vec<Value> {
    let (reason, message) = match text(pod, "/status/phase") {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return Vec::new(),
    };
    vec![json!({"type": "Completed", "status": "True", "reason": reason, "message": message})]
}

#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += int(status, "/restartCount");
        self.last = self.last.max(time(status, "/lastState/terminated/finishedAt"));
    }
}

/// What a container's end is called.
fn ending(terminated: &Value) -> String {
    match (text(terminated, "/reason"), int(terminated, "/signal")) {
        ("", 0) => format!("ExitCode:{}", int(terminated, "/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn is_sidecar(container: &Value) -> bool {
    text(container, "/restartPolicy") == "Always"
}

fn row(pod: &Value, now: Timestamp) -> Vec<Value> {
    let phase = text(pod, "/status/phase");
    let mut reason = text_or(pod, "/status/reason", phase).to_owned();
    if condition(pod, "PodScheduled").is_some_and(|condition| condition["reason"] == "SchedulingGated") {
        "SchedulingGated".clone_into(&mut reason);
    }
    let init = list(pod, "/spec/initContainers");
    let sidecar = |name: &str| init.iter().any(|container| text(container, "/name") == name && is_sidecar(container));
    let total = list(pod, "/spec/containers").len() + init.iter().filter(|container| is_sidecar(container)).count();
    let (mut restarts, mut sidecar_restarts) = (Restarts::default(), Restarts::default());
    let (mut ready, mut initializing) = (0, false);
    for (at, status) in list(pod, "/status/initContainerStatuses").iter().enumerate() {
        restarts.add(status);
        let terminated = status.pointer("/state/terminated");
        let sidecar = sidecar(text(status, "/name"));
        if sidecar {
            sidecar_restarts.add(status);
        }
        if terminated.is_some_and(|end| int(end, "/exitCode") == 0) {
            continue;
        }
        if sidecar && flag(status, "/started") {
            ready += usize::from(flag(status, "/ready"));
            continue;
        }
        let waiting = text(status, "/state/waiting/reason");
        reason = match terminated {
            Some(end) => format!("Init:{}", ending(end)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
            None => format!("Init:{at}/{}", init.len()),
        };
        initializing = true;
        break;
    }
    if !initializing || holds(pod, "Initialized") {
        restarts = sidecar_restarts;
        let mut running = false;
        for status in list(pod, "/status/containerStatuses").iter().rev() {
            restarts.add(status);
            let waiting = text(status, "/state/waiting/reason");
            if !waiting.is_empty() {
                waiting.clone_into(&mut reason);
            } else if let Some(end) = status.pointer("/state/terminated") {
                reason = ending(end);
            } else if flag(status, "/ready") && status.pointer("/state/running").is_some() {
                running = true;
                ready += 1;
            }
        }
        // A pod of which something still runs has not completed.
        if reason == "Completed" && running {
            let word = if holds(pod, "Ready") { "Running" } else { "NotReady" };
            word.clone_into(&mut reason);
        }
    }
    if pod.pointer("/metadata/deletionTimestamp").is_some() {
        if text(pod, "/status/reason") == "NodeLost" {
            "Unknown".clone_into(&mut reason);
        } else if !matches!(phase, "Succeeded" | "Failed") {
            "Terminating".clone_into(&mut reason);
        }
    }
    let restarts = match restarts.last {
        Some(last) if restarts.count != 0 => format!("{} ({} ago)", restarts.count, between(last, now)),
        _ => restarts.count.to_string(),
    };
    let gates = list(pod, "/spec/readinessGates");
    let gates = match gates.len() {
        0 => NONE.to_owned(),
        all => {
            let open = gates.iter().filter(|gate| holds(pod, text(gate, "/conditionType"))).count();
            format!("{open}/{all}")
        }
    };
    let address = text_or(pod, "/status/podIPs/0/ip", text_or(pod, "/status/podIP", NONE));
    vec![
        name(pod),
        format!("{ready}/{total}").into(),
        reason.into(),
        restarts.into(),
        age(pod, now),
        address.into(),
        text_or(pod, "/spec/nodeName", NONE).into(),
        text_or(pod, "/status/nominatedNodeName", NONE).into(),
        gates.into(),
    ]
}
