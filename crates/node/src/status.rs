//! A pod's status, computed as upstream's kubelet does: phase, conditions and the state of each container. Pure.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus as ApiContainerStatus, ContainerUser, HostIP, ImageVolumeStatus, LinuxContainerUser, Pod,
    PodCondition, PodIP, PodStatus, ResourceHealth, ResourceStatus, VolumeMount, VolumeMountStatus, VolumeStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kobune_runtime::{ContainerId, ContainerState, ContainerStatus};

use crate::allocation::Record;
use crate::devices::Health;
use crate::plan::{
    Track, current_round, exit_code, is_followed, latest, may_restart_all, previous, restarts, restarts_together,
};
use crate::pod::{self, Member, Role};
use crate::resources::qos_class;

/// What a status is computed from.
pub struct View<'a> {
    /// The pod, with the status that the API has.
    pub pod: &'a Pod,
    /// Its containers in order.
    pub members: &'a [Member],
    /// All containers of the pod that the runtime knows.
    pub containers: &'a [ContainerStatus],
    /// What the worker knows besides.
    pub tracks: &'a HashMap<String, Track>,
    /// What containers left as their termination message.
    pub messages: &'a HashMap<ContainerId, String>,
    /// Nothing of the pod will be started any more.
    pub ending: bool,
    /// Why the node ended it, if it did (`DeadlineExceeded`, `Evicted`), with a message.
    pub verdict: Option<&'a (String, String)>,
    /// The node did not take it in: none of its containers was ever looked at.
    pub rejected: bool,
    /// Resources that the node has granted, and those in force.
    pub resources: &'a Record,
    /// How the devices of its containers are.
    pub devices: &'a Health,
    /// How a resize stands.
    pub resize: ResizeState<'a>,
    /// The sandbox exists and has its network.
    pub sandbox_ready: bool,
    /// What the runtime calls itself: `kobune`, `containerd`.
    pub runtime: &'a str,
    /// Addresses of the node.
    pub host_ips: &'a [String],
    /// Addresses of the pod.
    pub pod_ips: &'a [String],
    /// When the node first saw the pod.
    pub start_time: Timestamp,
    /// The time.
    pub now: Timestamp,
}

/// How a resize stands, as conditions show it.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResizeState<'a> {
    /// `Deferred` or `Infeasible`, with a message.
    pub pending: Option<(&'a str, &'a str)>,
    /// It was granted for this generation and is not in force everywhere yet; with what went wrong.
    pub in_progress: Option<(Option<i64>, Option<&'a str>)>,
}

/// Conditions that are there only as long as a resize is.
const RESIZE_CONDITIONS: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

/// A time with whole seconds, as the API writes it.
pub fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// Computes the status.
pub fn status(view: &View<'_>) -> PodStatus {
    let empty = PodStatus::default();
    let old = view.pod.status.as_ref().unwrap_or(&empty);
    let of_role = |roles: &[Role]| -> Vec<ApiContainerStatus> {
        let members = view.members.iter().filter(|member| roles.contains(&member.role) && !view.rejected);
        members.map(|member| container_status(view, member, old)).collect()
    };
    let init = of_role(&[Role::Init, Role::Sidecar]);
    let main = of_role(&[Role::Main]);
    let ephemeral: Vec<_> = of_role(&[Role::Ephemeral]);
    let running =
        init.iter().chain(&main).any(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()));
    let mut phase = phase(view, &init, &main);
    if matches!(old.phase.as_deref(), Some("Failed" | "Succeeded")) {
        phase = old.phase.clone().unwrap_or_default();
    } else if matches!(phase.as_str(), "Failed" | "Succeeded") && running {
        phase = old.phase.clone().filter(|phase| !phase.is_empty()).unwrap_or_else(|| "Running".to_owned());
    }
    let (mut reason, mut message) = (old.reason.clone(), old.message.clone());
    if let Some((why, text)) = view.verdict {
        (reason, message) = (Some(why.clone()), Some(text.clone()));
        if !running {
            phase = "Failed".to_owned();
        }
    }
    let generation = view.pod.metadata.generation;
    let mut conditions = Vec::new();
    let ready_to_start = (if view.sandbox_ready { "True" } else { "False" }, None, None);
    conditions.push(("PodReadyToStartContainers", ready_to_start));
    conditions.push(("Initialized", initialized_condition(view, &init, &main, &phase)));
    let containers_ready = containers_ready_condition(view, &init, &main, &phase);
    conditions.push(("Ready", ready_condition(view, old, &containers_ready)));
    conditions.push(("ContainersReady", containers_ready));
    conditions.push(("PodScheduled", ("True", None, None)));
    conditions.extend(all_restarting_condition(view, &phase).map(|verdict| ("AllContainersRestarting", verdict)));
    if let Some((_, message)) = view.verdict.filter(|(reason, _)| reason == "Evicted" && !view.rejected) {
        conditions.push(("DisruptionTarget", ("True", Some("TerminationByKubelet"), Some(message.clone()))));
    }
    let mut conditions = merge_conditions(old, conditions, generation, view.now);
    conditions.extend(resize_conditions(view, old));
    let whole = view.pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let ips = |ips: &[String]| ips.first().cloned();
    let none_if_empty = |list: Vec<ApiContainerStatus>| (!list.is_empty()).then_some(list);
    PodStatus {
        phase: Some(phase),
        reason,
        message,
        conditions: Some(conditions),
        container_statuses: none_if_empty(main),
        init_container_statuses: none_if_empty(init),
        ephemeral_container_statuses: none_if_empty(ephemeral),
        host_ip: ips(view.host_ips),
        host_ips: Some(view.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: ips(view.pod_ips).or_else(|| old.pod_ip.clone()),
        pod_ips: match view.pod_ips {
            [] => old.pod_ips.clone(),
            ips => Some(ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect()),
        },
        qos_class: Some(qos_class(view.pod).as_str().to_owned()),
        start_time: Some(old.start_time.clone().unwrap_or_else(|| time(view.start_time))),
        observed_generation: generation,
        nominated_node_name: old.nominated_node_name.clone(),
        resize: old.resize.clone(),
        resource_claim_statuses: old.resource_claim_statuses.clone(),
        extended_resource_claim_status: old.extended_resource_claim_status.clone(),
        node_allocatable_resource_claim_statuses: old.node_allocatable_resource_claim_statuses.clone(),
        allocated_resources: whole
            .and_then(|whole| view.resources.allocated.pod.as_ref().unwrap_or(whole).requests.clone()),
        resources: whole.map(|whole| view.resources.actuated.pod.as_ref().unwrap_or(whole).clone()),
    }
}

fn resize_conditions(view: &View<'_>, old: &PodStatus) -> Vec<PodCondition> {
    let make = |kind: &str, reason: Option<&str>, message: Option<&str>, generation: Option<i64>| {
        let before = old.conditions.iter().flatten().find(|condition| condition.type_ == kind);
        PodCondition {
            type_: kind.to_owned(),
            status: "True".to_owned(),
            reason: reason.map(str::to_owned),
            message: message.map(str::to_owned),
            last_transition_time: before
                .and_then(|before| before.last_transition_time.clone())
                .or_else(|| Some(time(view.now))),
            last_probe_time: None,
            observed_generation: generation,
        }
    };
    let [pending, in_progress] = RESIZE_CONDITIONS;
    let generation = view.pod.metadata.generation;
    let pending = view.resize.pending.map(|(reason, message)| make(pending, Some(reason), Some(message), generation));
    let in_progress =
        view.resize.in_progress.map(|(generation, error)| make(in_progress, error.map(|_| "Error"), error, generation));
    pending.into_iter().chain(in_progress).collect()
}

fn waiting(reason: &str, message: Option<&str>) -> ApiState {
    let message = message.filter(|message| !message.is_empty()).map(str::to_owned);
    ApiState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..ApiState::default()
    }
}

/// How the API names a container: `runtime://id`.
pub fn container_uri(runtime: &str, id: &ContainerId) -> String {
    format!("{runtime}://{id}")
}

fn terminated(view: &View<'_>, container: &ContainerStatus) -> ApiState {
    let left = view.messages.get(&container.id).filter(|message| !message.is_empty());
    let message = left.cloned().or_else(|| Some(container.message.clone())).filter(|message| !message.is_empty());
    let code = exit_code(container);
    let reason = match container.reason.as_str() {
        "" if container.state == ContainerState::Unknown => "ContainerStatusUnknown",
        "" if container.oom_killed => "OOMKilled",
        "" if code == 0 => "Completed",
        "" => "Error",
        reason => reason,
    };
    ApiState {
        terminated: Some(ContainerStateTerminated {
            exit_code: code,
            reason: Some(reason.to_owned()),
            message,
            signal: None,
            started_at: Some(time(container.started_at.unwrap_or(container.created_at))),
            finished_at: Some(time(container.finished_at.unwrap_or(container.created_at))),
            container_id: Some(container_uri(view.runtime, &container.id)),
        }),
        ..ApiState::default()
    }
}

/// What of the devices of a container is known. Source: KEP-4680.
fn device_status(view: &View<'_>, container: &str) -> Option<Vec<ResourceStatus>> {
    let own = view.devices.get(container).filter(|own| !own.is_empty())?;
    let health = |(id, health): (&String, &&str)| ResourceHealth {
        resource_id: id.clone(),
        health: Some((*health).to_owned()),
        ..ResourceHealth::default()
    };
    let resource = |(name, ids): (&String, &BTreeMap<String, &'static str>)| ResourceStatus {
        name: name.clone(),
        resources: Some(ids.iter().map(health).collect()),
    };
    Some(own.iter().map(resource).collect())
}

fn container_status(view: &View<'_>, member: &Member, old: &PodStatus) -> ApiContainerStatus {
    let name = &member.container.name;
    let newest = latest(view.containers, name);
    let track = view.tracks.get(name);
    let told = track.and_then(|track| track.waiting.as_ref());
    let before = [&old.container_statuses, &old.init_container_statuses, &old.ephemeral_container_statuses]
        .into_iter()
        .flat_map(|list| list.iter().flatten())
        .find(|status| status.name == *name);
    let mut status = ApiContainerStatus {
        name: name.clone(),
        image: member.container.image.clone().unwrap_or_default(),
        image_id: String::new(),
        started: Some(false),
        ..ApiContainerStatus::default()
    };
    status.allocated_resources_status = device_status(view, name);
    if member.role != Role::Ephemeral {
        // Who resizes looks here, also while the container does not run.
        let granted = member.container.resources.clone().unwrap_or_default();
        let in_force = view.resources.actuated.containers.get(name).filter(|_| is_running(newest));
        status.allocated_resources = granted.requests.clone();
        status.resources = Some(in_force.cloned().unwrap_or(granted));
    }
    let starting = || {
        let initializes = view.members.iter().any(|member| matches!(member.role, Role::Init | Role::Sidecar));
        let reason =
            if initializes && member.role != Role::Ephemeral { "PodInitializing" } else { "ContainerCreating" };
        waiting(reason, None)
    };
    let Some(container) = newest else {
        status.state = Some(match told {
            Some((reason, message)) => waiting(reason, Some(message)),
            // An init container that ran before its record was cleaned away keeps its end.
            None if before
                .is_some_and(|before| before.state.as_ref().is_some_and(|state| state.terminated.is_some())) =>
            {
                status = before.cloned().unwrap_or_default();
                return status;
            }
            None if view.ending
                && before.is_some_and(|before| before.state.as_ref().is_some_and(|state| state.running.is_some())) =>
            {
                ApiState {
                    terminated: Some(ContainerStateTerminated {
                        exit_code: 137,
                        reason: Some("ContainerStatusUnknown".to_owned()),
                        message: Some("The container could not be located when the pod was terminated".to_owned()),
                        ..ContainerStateTerminated::default()
                    }),
                    ..ApiState::default()
                }
            }
            None => starting(),
        });
        if let Some(before) = before {
            status.restart_count = before.restart_count;
            status.last_state = before.last_state.clone();
        }
        return status;
    };
    status.image_id = container.image_ref.clone();
    status.container_id = Some(container_uri(view.runtime, &container.id));
    status.restart_count = i32::try_from(container.attempt).unwrap_or(i32::MAX);
    status.stop_signal = member.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone());
    let last = previous(view.containers, name, Some(&container.id)).map(|last| terminated(view, last));
    status.last_state = last.or_else(|| {
        let before = before.filter(|before| before.container_id == status.container_id)?;
        before.last_state.clone()
    });
    match container.state {
        ContainerState::Running => {
            let own = track.filter(|track| track.is_about(&container.id));
            let started = own.is_some_and(|track| track.started);
            status.state = Some(ApiState {
                running: Some(ContainerStateRunning {
                    started_at: Some(time(container.started_at.unwrap_or(container.created_at))),
                }),
                ..ApiState::default()
            });
            status.started = Some(started);
            status.ready = match member.role {
                Role::Main | Role::Sidecar => started && own.is_some_and(|track| track.ready),
                Role::Init | Role::Ephemeral => false,
            };
            let (uid, gid, groups) = &container.user;
            status.user = Some(ContainerUser {
                linux: Some(LinuxContainerUser {
                    uid: i64::from(*uid),
                    gid: i64::from(*gid),
                    supplemental_groups: (!groups.is_empty())
                        .then(|| groups.iter().map(|group| i64::from(*group)).collect()),
                }),
            });
        }
        ContainerState::Created => {
            status.state = Some(told.map_or_else(starting, |(reason, message)| waiting(reason, Some(message))));
        }
        ContainerState::Exited | ContainerState::Unknown => {
            let end = terminated(view, container);
            match told {
                Some((reason, message)) if !view.ending && may_run_again(view, member, container) => {
                    status.last_state = Some(end);
                    status.state = Some(waiting(reason, Some(message)));
                }
                _ => {
                    status.state = Some(end);
                    status.ready = member.role == Role::Init && exit_code(container) == 0;
                }
            }
        }
    }
    status.volume_mounts = volume_mounts(member, container);
    status
}

fn is_running(container: Option<&ContainerStatus>) -> bool {
    container.is_some_and(|container| container.state == ContainerState::Running)
}

fn may_run_again(view: &View<'_>, member: &Member, container: &ContainerStatus) -> bool {
    let round = current_round(view.members, view.containers);
    is_followed(view.pod, member, container, view.tracks.get(&member.container.name), round)
}

/// How the restart of all containers stands, on pods that may have one.
///
/// Source: `GenerateAllContainersRestartingCondition` in `pkg/kubelet/status/generate.go`.
fn all_restarting_condition(view: &View<'_>, phase: &str) -> Option<Verdict> {
    view.members.iter().find(|member| may_restart_all(&member.container))?;
    Some(match phase {
        "Succeeded" => ("False", Some("PodCompleted"), None),
        "Failed" => ("False", Some("PodFailed"), None),
        _ if !view.ending && restarts_together(view.members, view.containers) => {
            let message = "container exited with restart policy rule".to_owned();
            ("True", Some("RestartAllContainersStarted"), Some(message))
        }
        _ => ("False", None, None),
    })
}

fn volume_mounts(member: &Member, container: &ContainerStatus) -> Option<Vec<VolumeMountStatus>> {
    let image = |wanted: &VolumeMount| {
        let mount = container.image_mounts.iter().find(|mount| mount.volume == wanted.name)?;
        Some(ImageVolumeStatus { image_ref: mount.image_ref.clone() })
    };
    let mounts: Vec<VolumeMountStatus> = member
        .container
        .volume_mounts
        .iter()
        .flatten()
        .map(|mount| {
            let read_only = mount.read_only.unwrap_or(false);
            VolumeMountStatus {
                name: mount.name.clone(),
                mount_path: mount.mount_path.clone(),
                read_only: read_only.then_some(true),
                recursive_read_only: read_only.then(|| match mount.recursive_read_only.as_deref() {
                    Some("Enabled" | "IfPossible") => "Enabled".to_owned(),
                    _ => "Disabled".to_owned(),
                }),
                volume_status: image(mount).map(|image| VolumeStatus { image: Some(image) }),
            }
        })
        .collect();
    (!mounts.is_empty()).then_some(mounts)
}

fn state_of(status: &ApiContainerStatus) -> (bool, Option<i32>, bool, Option<i32>) {
    let end = |state: Option<&ApiState>| state.and_then(|state| state.terminated.as_ref()).map(|end| end.exit_code);
    let state = status.state.as_ref();
    (
        state.is_some_and(|state| state.running.is_some()),
        end(state),
        state.is_some_and(|state| state.waiting.is_some()),
        end(status.last_state.as_ref()),
    )
}

fn phase(view: &View<'_>, init: &[ApiContainerStatus], main: &[ApiContainerStatus]) -> String {
    let roles =
        |role: Role| view.members.iter().filter(move |member| member.role == role).map(|member| &member.container.name);
    let find = |name: &String| init.iter().chain(main).find(|status| status.name == *name);
    let (mut pending_init, mut failed_for_good) = (0, 0);
    for name in roles(Role::Init) {
        let Some(status) = find(name) else {
            pending_init += 1;
            continue;
        };
        let member = view.members.iter().find(|member| member.container.name == *name);
        match state_of(status) {
            (_, Some(0), _, _) => {}
            (_, Some(code), _, _) => {
                let again = member.is_some_and(|member| match latest(view.containers, name) {
                    Some(newest) => may_run_again(view, member, newest),
                    None => restarts(view.pod, member, code),
                });
                if again {
                    pending_init += 1;
                } else {
                    failed_for_good += 1;
                }
            }
            _ => pending_init += 1,
        }
    }
    let main_started = main.iter().any(|status| {
        let (running, end, _, last) = state_of(status);
        running || end.is_some() || last.is_some()
    });
    let (mut running, mut waiting, mut stopped, mut succeeded, mut pending_sidecars) = (0, 0, 0, 0, 0);
    for name in roles(Role::Sidecar) {
        match find(name).map(state_of) {
            Some((true, ..)) => {
                running += 1;
                pending_sidecars += usize::from(find(name).is_some_and(|status| status.started != Some(true)));
            }
            Some((_, Some(_), ..)) => {}
            Some((_, _, true, Some(_))) => {}
            _ => {
                pending_sidecars += 1;
                waiting += 1;
            }
        }
    }
    for status in main {
        match state_of(status) {
            (true, ..) => running += 1,
            (_, Some(code), ..) => {
                stopped += 1;
                succeeded += usize::from(code == 0);
            }
            (_, _, true, Some(_)) => stopped += 1,
            _ => waiting += 1,
        }
    }
    if failed_for_good > 0 {
        return "Failed".to_owned();
    }
    let policy = pod::spec(view.pod).restart_policy.as_deref().unwrap_or("Always");
    let all_done = || {
        view.members.iter().filter(|member| member.role == Role::Main).all(|member| {
            latest(view.containers, &member.container.name).is_some_and(|container| {
                matches!(container.state, ContainerState::Exited | ContainerState::Unknown)
                    && !may_run_again(view, member, container)
            })
        })
    };
    // By its own policy and rules, or with all the others: the pod's policy says nothing about that.
    let any_follows = || {
        view.members.iter().filter(|member| member.role == Role::Main).any(|member| {
            latest(view.containers, &member.container.name).is_some_and(|container| {
                matches!(container.state, ContainerState::Exited | ContainerState::Unknown)
                    && may_run_again(view, member, container)
            })
        })
    };
    let initialized = main_started || (pending_init == 0 && pending_sidecars == 0);
    if !initialized || waiting > 0 {
        return if view.ending && view.pod.metadata.deletion_timestamp.is_some() && running == 0 && stopped > 0 {
            "Failed".to_owned()
        } else {
            "Pending".to_owned()
        };
    }
    let phase = if running > 0 {
        "Running"
    } else if stopped == 0 {
        "Pending"
    } else if view.ending || all_done() {
        if stopped == succeeded { "Succeeded" } else { "Failed" }
    } else if policy == "Always" || any_follows() {
        "Running"
    } else if stopped == succeeded {
        "Succeeded"
    } else if policy == "Never" {
        "Failed"
    } else {
        "Running"
    };
    phase.to_owned()
}

type Verdict = (&'static str, Option<&'static str>, Option<String>);

fn bracketed(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn containers_ready_condition(
    view: &View<'_>,
    init: &[ApiContainerStatus],
    main: &[ApiContainerStatus],
    phase: &str,
) -> Verdict {
    match phase {
        "Succeeded" => return ("False", Some("PodCompleted"), None),
        "Failed" => return ("False", Some("PodFailed"), None),
        _ => {}
    }
    let long_running = view.members.iter().filter(|member| matches!(member.role, Role::Sidecar | Role::Main));
    let unready: Vec<&str> = long_running
        .map(|member| member.container.name.as_str())
        .filter(|name| !init.iter().chain(main).any(|status| status.name == *name && status.ready))
        .collect();
    if unready.is_empty() {
        return ("True", None, None);
    }
    ("False", Some("ContainersNotReady"), Some(format!("containers with unready status: {}", bracketed(&unready))))
}

fn ready_condition(view: &View<'_>, old: &PodStatus, containers: &Verdict) -> Verdict {
    if containers.0 != "True" {
        return containers.clone();
    }
    let mut unready = Vec::new();
    for gate in pod::spec(view.pod).readiness_gates.iter().flatten() {
        let kind = &gate.condition_type;
        match old.conditions.iter().flatten().find(|condition| condition.type_ == *kind) {
            None => unready.push(format!("corresponding condition of pod readiness gate \"{kind}\" does not exist.")),
            Some(condition) if condition.status != "True" => {
                unready.push(format!(
                    "the status of pod readiness gate \"{kind}\" is not \"True\", but {}",
                    condition.status
                ));
            }
            Some(_) => {}
        }
    }
    if unready.is_empty() {
        return ("True", None, None);
    }
    ("False", Some("ReadinessGatesNotReady"), Some(unready.join(", ")))
}

fn initialized_condition(
    view: &View<'_>,
    init: &[ApiContainerStatus],
    main: &[ApiContainerStatus],
    phase: &str,
) -> Verdict {
    if phase == "Succeeded" {
        return ("True", Some("PodCompleted"), None);
    }
    let ran = main.iter().any(|status| {
        let (running, end, _, last) = state_of(status);
        running || end.is_some() || last.is_some()
    });
    if ran {
        return ("True", None, None);
    }
    let incomplete: Vec<&str> = view
        .members
        .iter()
        .filter(|member| {
            let status = init.iter().find(|status| status.name == member.container.name);
            match member.role {
                Role::Init => status.is_none_or(|status| !status.ready),
                Role::Sidecar => status.is_none_or(|status| status.started != Some(true)),
                Role::Main | Role::Ephemeral => false,
            }
        })
        .map(|member| member.container.name.as_str())
        .collect();
    if incomplete.is_empty() {
        return ("True", None, None);
    }
    (
        "False",
        Some("ContainersNotInitialized"),
        Some(format!("containers with incomplete status: {}", bracketed(&incomplete))),
    )
}

/// Own conditions over the old ones: foreign ones stay, and the time of a transition changes only with the status.
fn merge_conditions(
    old: &PodStatus,
    own: Vec<(&str, Verdict)>,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<PodCondition> {
    let known = |kind: &str| old.conditions.iter().flatten().find(|condition| condition.type_ == kind);
    let mut conditions: Vec<PodCondition> = own
        .iter()
        .map(|(kind, (status, reason, message))| {
            let before = known(kind);
            if let Some(before) = before.filter(|before| *kind == "PodScheduled" && before.status == "True") {
                return PodCondition { observed_generation: generation, ..before.clone() };
            }
            let same =
                before.filter(|before| before.status == *status).and_then(|before| before.last_transition_time.clone());
            PodCondition {
                type_: (*kind).to_owned(),
                status: (*status).to_owned(),
                reason: reason.map(str::to_owned),
                message: message.clone(),
                last_transition_time: Some(same.unwrap_or_else(|| time(now))),
                last_probe_time: None,
                observed_generation: generation,
            }
        })
        .collect();
    let foreign = old.conditions.iter().flatten().filter(|condition| {
        !own.iter().any(|(kind, _)| *kind == condition.type_) && !RESIZE_CONDITIONS.contains(&condition.type_.as_str())
    });
    conditions.extend(foreign.cloned());
    conditions
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plan::tests::container;

    struct Case<'a> {
        spec: Value,
        old: Value,
        containers: &'a [ContainerStatus],
        ready: &'a [&'a str],
        waiting: &'a [(&'a str, &'a str)],
        ending: bool,
    }

    impl Default for Case<'_> {
        fn default() -> Self {
            Case { spec: json!({}), old: json!({}), containers: &[], ready: &[], waiting: &[], ending: false }
        }
    }

    fn compute(case: &Case<'_>) -> PodStatus {
        let meta = json!({"name": "p", "namespace": "ns", "uid": "u", "generation": 1});
        let pod: Pod =
            serde_json::from_value(json!({"metadata": meta, "spec": case.spec, "status": case.old})).expect("a pod");
        let members = pod::members(pod::spec(&pod));
        let mut tracks: HashMap<String, Track> = HashMap::new();
        for name in case.ready {
            let id = latest(case.containers, name).map(|container| container.id.clone());
            tracks.insert((*name).to_owned(), Track { id, started: true, ready: true, ..Track::default() });
        }
        for (name, reason) in case.waiting {
            tracks.entry((*name).to_owned()).or_default().waiting = Some(((*reason).to_owned(), "why".to_owned()));
        }
        status(&View {
            pod: &pod,
            members: &members,
            containers: case.containers,
            tracks: &tracks,
            messages: &HashMap::new(),
            ending: case.ending,
            verdict: None,
            rejected: false,
            resources: &Record::default(),
            devices: &Health::new(),
            resize: ResizeState::default(),
            sandbox_ready: true,
            runtime: "kobune",
            host_ips: &["192.0.2.1".to_owned()],
            pod_ips: &["10.0.0.2".to_owned()],
            start_time: Timestamp::from_second(50).expect("a time"),
            now: Timestamp::from_second(300).expect("a time"),
        })
    }

    fn short(state: Option<&ApiState>) -> String {
        let Some(state) = state else { return "-".into() };
        if state.running.is_some() {
            return "running".into();
        }
        let of_waiting = state.waiting.as_ref().and_then(|waiting| waiting.reason.clone());
        let of_end =
            state.terminated.as_ref().map(|end| format!("{}({})", end.reason.as_deref().unwrap_or("?"), end.exit_code));
        of_waiting.or(of_end).unwrap_or_else(|| "-".into())
    }

    fn describe(status: &PodStatus) -> String {
        let mut words = vec![status.phase.clone().unwrap_or_default()];
        for container in status.init_container_statuses.iter().chain(&status.container_statuses).flatten() {
            let ready = if container.ready { "+" } else { "-" };
            words.push(format!(
                "{}{ready}{}/{}",
                container.name,
                short(container.state.as_ref()),
                short(container.last_state.as_ref())
            ));
        }
        for condition in status
            .conditions
            .iter()
            .flatten()
            .filter(|condition| matches!(condition.type_.as_str(), "Initialized" | "Ready"))
        {
            words.push(format!(
                "{}={}{}",
                condition.type_,
                condition.status,
                condition.reason.as_deref().map(|reason| format!(":{reason}")).unwrap_or_default()
            ));
        }
        words.join(" ")
    }

    #[test]
    fn statuses() {
        let check = |case: Case<'_>, expected: &str| assert_eq!(describe(&compute(&case)), expected, "{}", case.spec);
        let c = container;
        let one = json!({"containers": [{"name": "a", "image": "img"}]});
        let never = json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "img"}]});
        let init =
            json!({"initContainers": [{"name": "i", "image": "img"}], "containers": [{"name": "a", "image": "img"}]});
        let side = json!({"initContainers": [{"name": "s", "image": "img", "restartPolicy": "Always"}], "containers": [{"name": "a", "image": "img"}]});
        check(
            Case { spec: one.clone(), ..Case::default() },
            "Pending a-ContainerCreating/- Initialized=True Ready=False:ContainersNotReady",
        );
        check(
            Case { spec: one.clone(), containers: &[c("a", 0, "running")], ready: &["a"], ..Case::default() },
            "Running a+running/- Initialized=True Ready=True",
        );
        check(
            Case { spec: one.clone(), containers: &[c("a", 0, "running")], ..Case::default() },
            "Running a-running/- Initialized=True Ready=False:ContainersNotReady",
        );
        check(
            Case {
                spec: one.clone(),
                containers: &[c("a", 0, "1"), c("a", 1, "running")],
                ready: &["a"],
                ..Case::default()
            },
            "Running a+running/Error(1) Initialized=True Ready=True",
        );
        check(
            Case {
                spec: one.clone(),
                containers: &[c("a", 1, "1")],
                waiting: &[("a", "CrashLoopBackOff")],
                ..Case::default()
            },
            "Running a-CrashLoopBackOff/Error(1) Initialized=True Ready=False:ContainersNotReady",
        );
        check(
            Case { spec: one.clone(), waiting: &[("a", "ErrImagePull")], ..Case::default() },
            "Pending a-ErrImagePull/- Initialized=True Ready=False:ContainersNotReady",
        );
        check(
            Case { spec: never.clone(), containers: &[c("a", 0, "0")], ending: true, ..Case::default() },
            "Succeeded a-Completed(0)/- Initialized=True:PodCompleted Ready=False:PodCompleted",
        );
        check(
            Case { spec: never, containers: &[c("a", 0, "3")], ending: true, ..Case::default() },
            "Failed a-Error(3)/- Initialized=True Ready=False:PodFailed",
        );
        check(
            Case { spec: init.clone(), containers: &[c("i", 0, "running")], ..Case::default() },
            "Pending i-running/- a-PodInitializing/- Initialized=False:ContainersNotInitialized Ready=False:ContainersNotReady",
        );
        check(
            Case {
                spec: init.clone(),
                containers: &[c("i", 0, "0"), c("a", 0, "running")],
                ready: &["a"],
                ..Case::default()
            },
            "Running i+Completed(0)/- a+running/- Initialized=True Ready=True",
        );
        check(
            Case {
                spec: init,
                containers: &[c("i", 0, "1")],
                waiting: &[("i", "CrashLoopBackOff")],
                ..Case::default()
            },
            "Pending i-CrashLoopBackOff/Error(1) a-PodInitializing/- Initialized=False:ContainersNotInitialized Ready=False:ContainersNotReady",
        );
        check(
            Case {
                spec: side,
                containers: &[c("s", 0, "running"), c("a", 0, "running")],
                ready: &["s", "a"],
                ..Case::default()
            },
            "Running s+running/- a+running/- Initialized=True Ready=True",
        );
        let rules = json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "img", "restartPolicy": "Never",
            "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}]});
        check(
            Case { spec: rules.clone(), containers: &[c("a", 0, "42")], ..Case::default() },
            "Running a-Error(42)/- Initialized=True Ready=False:ContainersNotReady",
        );
        check(
            Case { spec: rules, containers: &[c("a", 0, "1")], ..Case::default() },
            "Failed a-Error(1)/- Initialized=True Ready=False:PodFailed",
        );
        let deleted = Case { spec: one, containers: &[c("a", 0, "137")], ending: true, ..Case::default() };
        check(deleted, "Failed a-Error(137)/- Initialized=True Ready=False:PodFailed");
    }

    #[test]
    fn foreign_conditions_and_transition_times_stay() {
        let spec =
            json!({"containers": [{"name": "a", "image": "img"}], "readinessGates": [{"conditionType": "x.io/gate"}]});
        let old = json!({"conditions": [
            {"type": "Ready", "status": "False", "lastTransitionTime": "2020-01-01T00:00:00Z"},
            {"type": "x.io/gate", "status": "False", "lastTransitionTime": "2020-01-01T00:00:00Z"},
        ]});
        let made =
            compute(&Case { spec, old, containers: &[container("a", 0, "running")], ready: &["a"], ..Case::default() });
        let find = |kind: &str| {
            made.conditions.iter().flatten().find(|condition| condition.type_ == kind).expect("the condition").clone()
        };
        assert_eq!(find("x.io/gate").status, "False");
        let ready = find("Ready");
        assert_eq!(
            ready.message.as_deref(),
            Some("the status of pod readiness gate \"x.io/gate\" is not \"True\", but False")
        );
        assert_eq!(ready.last_transition_time, Some(Time("2020-01-01T00:00:00Z".parse().expect("a time"))));
        assert_eq!(find("ContainersReady").status, "True");
    }
}
