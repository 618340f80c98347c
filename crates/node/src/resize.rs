//! What has to change for a pod to run with what it was granted: a pure function of the grant and of what is in force.
//!
//! Source: KEP-1287 and `computePodResizeAction` of upstream's kubelet.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Pod;
use kobune_runtime::{ContainerId, ContainerState, ContainerStatus, Resources};

use crate::allocation::{Allocation, changed};
use crate::plan::{Track, latest};
use crate::pod::{Member, Role};
use crate::resources::{container_resources, pod_resources};

/// What a plan is made from.
pub struct View<'a> {
    /// The pod with what it was granted.
    pub pod: &'a Pod,
    /// Its containers, with what they were granted.
    pub members: &'a [Member],
    /// All containers of the pod that the runtime knows.
    pub containers: &'a [ContainerStatus],
    /// What the worker knows besides.
    pub tracks: &'a HashMap<String, Track>,
    /// What is in force.
    pub actuated: &'a Allocation,
    /// The limits of the pod's group, when it exists.
    pub in_force: Option<&'a Resources>,
    /// The machine's memory.
    pub memory_capacity: i64,
}

/// What has to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Containers that get new limits as they run.
    pub update: Vec<(ContainerId, String, Resources)>,
    /// Containers that have to be started again, as their `resizePolicy` wants it.
    pub restart: Vec<String>,
    /// New limits of the pod's group.
    pub pod: Option<Resources>,
    /// Some container is being started or stopped; whether it fits is seen after that.
    pub unsettled: bool,
}

impl Plan {
    /// Whether all is as granted.
    pub fn is_done(&self) -> bool {
        self.update.is_empty() && self.restart.is_empty() && self.pod.is_none() && !self.unsettled
    }
}

/// A limit for comparing: none is written as -1 where there was one before.
fn limit(value: Option<i64>) -> Option<i64> {
    value.filter(|value| *value >= 0)
}

fn same(one: &Resources, other: &Resources) -> bool {
    one.cpu_shares == other.cpu_shares
        && limit(one.cpu_quota) == limit(other.cpu_quota)
        && limit(one.memory_limit) == limit(other.memory_limit)
}

/// The wider of two groups' limits, for as long as a container still runs with the old ones.
fn wider(one: &Resources, other: &Resources) -> Resources {
    let wide = |one: Option<i64>, other: Option<i64>| limit(one).zip(limit(other)).map(|(one, other)| one.max(other));
    Resources {
        cpu_shares: one.cpu_shares.max(other.cpu_shares),
        cpu_quota: wide(one.cpu_quota, other.cpu_quota),
        cpu_period: other.cpu_period.or(one.cpu_period),
        memory_limit: wide(one.memory_limit, other.memory_limit),
        ..other.clone()
    }
}

/// Makes the plan.
pub fn plan(view: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    for member in view.members.iter().filter(|member| member.role != Role::Ephemeral) {
        let container = &member.container;
        let Some(running) =
            latest(view.containers, &container.name).filter(|found| found.state == ContainerState::Running)
        else {
            continue;
        };
        let granted = container.resources.clone().unwrap_or_default();
        // What is not on record was started by a kobune that kept none, and runs with what it was granted.
        let changed = view.actuated.containers.get(&container.name).map(|known| changed(known, &granted));
        let changed = changed.unwrap_or_default();
        // A process keeps the score that it was started with, as upstream's does.
        let limits = container_resources(view.pod, container, view.memory_capacity);
        let limits = Resources { oom_score_adj: None, ..limits };
        // Limits of the whole pod are those of a container that has none of its own.
        if changed.is_empty() && same(&running.resources, &limits) {
            continue;
        }
        if view.tracks.get(&container.name).is_some_and(|track| track.busy) {
            plan.unsettled = true;
            continue;
        }
        let wants_restart = |name: &&str| {
            let mut policies = container.resize_policy.iter().flatten();
            policies.any(|policy| policy.resource_name == **name && policy.restart_policy == "RestartContainer")
        };
        if changed.iter().any(wants_restart) {
            plan.restart.push(container.name.clone());
        } else {
            plan.update.push((running.id.clone(), container.name.clone(), limits));
        }
    }
    if let Some(in_force) = view.in_force {
        let wanted = pod_resources(view.pod);
        let waits = plan.unsettled || !plan.restart.is_empty();
        let wanted = if waits { wider(in_force, &wanted) } else { wanted };
        if !same(in_force, &wanted) {
            plan.pod = Some(wanted);
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plan::tests::container;
    use crate::pod;

    fn pod(cpu: [&str; 2], policy: &str) -> Pod {
        let one = |name: &str, cpu: &str| {
            json!({"name": name, "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu, "memory": "64Mi"}},
                "resizePolicy": [{"resourceName": "cpu", "restartPolicy": policy}]})
        };
        let containers: Vec<Value> = vec![one("a", cpu[0]), one("b", cpu[1])];
        serde_json::from_value(json!({"spec": {"containers": containers}})).expect("a pod")
    }

    fn check(before: [&str; 2], after: [&str; 2], policy: &str, expected: &str) {
        let (old, new) = (pod(before, policy), pod(after, policy));
        let members = pod::members(pod::spec(&new));
        let in_force = pod_resources(&old);
        let runs = |index: usize, name: &str| {
            let resources = container_resources(&old, &pod::spec(&old).containers[index], 1 << 30);
            ContainerStatus { resources, ..container(name, 0, "running") }
        };
        let made = plan(&View {
            pod: &new,
            members: &members,
            containers: &[runs(0, "a"), runs(1, "b")],
            tracks: &HashMap::new(),
            actuated: &Allocation::of(pod::spec(&old)),
            in_force: Some(&in_force),
            memory_capacity: 1 << 30,
        });
        let mut words: Vec<String> = made
            .update
            .iter()
            .map(|(_, name, limits)| format!("{name}={}", limits.cpu_quota.unwrap_or(-1)))
            .chain(made.restart.iter().map(|name| format!("restart {name}")))
            .collect();
        words.extend(made.pod.as_ref().map(|limits| format!("pod={}", limits.cpu_quota.unwrap_or(-1))));
        assert_eq!(words.join(" "), expected, "{before:?} {after:?} {policy}");
        assert_eq!(made.is_done(), expected.is_empty());
    }

    #[test]
    fn plans() {
        check(["100m", "100m"], ["100m", "0.1"], "NotRequired", "");
        check(["100m", "100m"], ["200m", "100m"], "NotRequired", "a=20000 pod=30000");
        check(["100m", "100m"], ["200m", "50m"], "NotRequired", "a=20000 b=5000 pod=25000");
        check(["100m", "100m"], ["200m", "0"], "NotRequired", "a=20000 b=-1 pod=-1");
        check(["100m", "100m"], ["200m", "100m"], "RestartContainer", "restart a pod=30000");
        // The pod's group is narrowed only after the container that runs with more has ended.
        check(["100m", "100m"], ["50m", "100m"], "RestartContainer", "restart a");
    }
}
