//! What to do next for a pod: a pure function of the pod, what runs, and the time.
//!
//! ```text
//!  no sandbox ──▶ init containers, one after the other (sidecars: until started) ──▶ containers, all
//!      ▲                        │ exit ≠ 0 and Never                                   │ all ended, none restarts
//!      └── sandbox lost         └───────────────▶ finished ◀──────────────────────────┘
//! ```

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, Pod};
use kobune_runtime::{ContainerId, ContainerState, ContainerStatus, SandboxId};

use crate::backoff::{Backoff, go_duration};
use crate::pod::{self, Member, Role};

/// Annotation of a container: the image as the pod's author wrote it. A different one asks for a new container.
pub const IMAGE_ANNOTATION: &str = "kobune.io/image";

/// Annotation of a container: how often all containers of its pod had been restarted together before it was made.
///
/// Counted, not timed: clocks step, and the count is there again after a restart of the node.
pub const ROUND_ANNOTATION: &str = "kobune.io/round";

const RESTART_ALL: &str = "RestartAllContainers";

/// What the worker knows of a container besides what the runtime tells.
#[derive(Clone, Debug, Default)]
pub struct Track {
    /// Why it is not running, as `state.waiting` shows it.
    pub waiting: Option<(String, String)>,
    /// An operation on it is under way: neither start nor kill it now.
    pub busy: bool,
    /// The container that the flags below are about.
    pub id: Option<ContainerId>,
    /// Its `postStart` hook is done and its startup probe has succeeded.
    pub started: bool,
    /// Its readiness probe says yes.
    pub ready: bool,
    /// A probe demands a restart; the text says which.
    pub unhealthy: Option<String>,
    /// Its new resources are had by a restart only, as its `resizePolicy` says.
    pub outgrown: bool,
    /// The container that was stopped so that another follows it, however it ends.
    pub replaced: Option<ContainerId>,
    /// Not before this time may it be tried again (image pulls).
    pub not_before: Option<Timestamp>,
}

impl Track {
    /// Whether the flags are about this container.
    pub fn is_about(&self, id: &ContainerId) -> bool {
        self.id.as_ref() == Some(id)
    }
}

/// What the plan is made from.
pub struct View<'a> {
    /// The pod as wanted.
    pub pod: &'a Pod,
    /// Its containers in order.
    pub members: &'a [Member],
    /// The sandbox that can take containers.
    pub sandbox: Option<&'a SandboxId>,
    /// All containers of the pod that the runtime knows.
    pub containers: &'a [ContainerStatus],
    /// What the worker knows besides.
    pub tracks: &'a HashMap<String, Track>,
    /// Delays by container name.
    pub backoff: &'a Backoff,
    /// The time.
    pub now: Timestamp,
}

impl View<'_> {
    fn round(&self) -> u32 {
        current_round(self.members, self.containers)
    }
}

/// A container to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Its index among the members.
    pub member: usize,
    /// Its number among the containers of this name.
    pub attempt: u32,
    /// When the one before it ended.
    pub after: Option<Timestamp>,
    /// How often all containers of the pod were restarted together before it.
    pub round: u32,
}

/// A container to stop so that a new one can start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    /// Its index among the members.
    pub member: usize,
    /// Which one.
    pub id: ContainerId,
    /// The text of the event.
    pub message: String,
    /// Another one follows, however this one ends.
    pub replace: bool,
    /// The pod's author has changed what it should be.
    pub redefined: bool,
    /// It goes with all the others: no `preStop`, and no time to speak of.
    pub abruptly: bool,
}

/// What to do next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// A sandbox has to be made first.
    pub needs_sandbox: bool,
    /// Containers to start, in order.
    pub start: Vec<Start>,
    /// Containers to stop for a restart.
    pub kill: Vec<Kill>,
    /// Containers that have to wait, with the reason to show.
    pub waiting: Vec<(String, String, String)>,
    /// When to look again although nothing happened.
    pub again_in: Option<Duration>,
    /// All containers are restarted together, and some of them still run.
    pub restarts_all: bool,
    /// All init containers are done (sidecars: started).
    pub initialized: bool,
    /// Nothing will run any more: stop what still runs (sidecars) and finish.
    pub finished: bool,
}

/// The newest container of a name.
pub fn latest<'a>(containers: &'a [ContainerStatus], name: &str) -> Option<&'a ContainerStatus> {
    containers
        .iter()
        .filter(|container| container.name == name)
        .max_by_key(|container| (container.attempt, container.created_at))
}

/// The newest ended container of a name besides `but`.
pub fn previous<'a>(
    containers: &'a [ContainerStatus],
    name: &str,
    but: Option<&ContainerId>,
) -> Option<&'a ContainerStatus> {
    containers
        .iter()
        .filter(|container| container.name == name && Some(&container.id) != but)
        .filter(|container| matches!(container.state, ContainerState::Exited | ContainerState::Unknown))
        .max_by_key(|container| (container.attempt, container.created_at))
}

/// Whether an ended container is to be started again.
pub fn restarts(owner: &Pod, member: &Member, exit_code: i32) -> bool {
    let own = &member.container;
    if member.role == Role::Ephemeral {
        return false;
    }
    if matching_rule(own, exit_code).is_some() {
        return true;
    }
    let policy =
        own.restart_policy.as_deref().or_else(|| pod::spec(owner).restart_policy.as_deref()).unwrap_or("Always");
    match (member.role, policy) {
        (Role::Sidecar, _) => true,
        (Role::Init, "Never") => false,
        (Role::Init, _) => exit_code != 0,
        (_, "Never") => false,
        (_, "OnFailure") => exit_code != 0,
        _ => true,
    }
}

/// Whether a container follows this ended one: by the rules, because it was stopped for that, or with all the others.
pub fn is_followed(
    owner: &Pod,
    member: &Member,
    container: &ContainerStatus,
    track: Option<&Track>,
    round: u32,
) -> bool {
    track.is_some_and(|track| track.replaced.as_ref() == Some(&container.id))
        || restarts(owner, member, exit_code(container))
        || (member.role != Role::Ephemeral && round_of(container) < round)
}

/// The first rule for an exit code.
fn matching_rule(container: &Container, exit_code: i32) -> Option<&ContainerRestartRule> {
    let mut rules = container.restart_policy_rules.iter().flatten();
    rules.find(|rule| matches!(rule.action.as_str(), "Restart" | RESTART_ALL) && rule_matches(rule, exit_code))
}

/// Whether an end of the container may restart the whole pod (KEP-5532).
pub fn may_restart_all(container: &Container) -> bool {
    container.restart_policy_rules.iter().flatten().any(|rule| rule.action == RESTART_ALL)
}

fn round_of(container: &ContainerStatus) -> u32 {
    container.annotations.get(ROUND_ANNOTATION).and_then(|round| round.parse().ok()).unwrap_or(0)
}

/// How often all containers of the pod were to be restarted together: once more than that is what the newest container
/// says that ended so.
pub fn current_round(members: &[Member], containers: &[ContainerStatus]) -> u32 {
    let restarts_all = |container: &ContainerStatus| {
        let member = members.iter().find(|member| member.container.name == container.name);
        let rule = member.and_then(|member| matching_rule(&member.container, exit_code(container)));
        ended(container) && rule.is_some_and(|rule| rule.action == RESTART_ALL)
    };
    containers.iter().map(|container| round_of(container) + u32::from(restarts_all(container))).max().unwrap_or(0)
}

/// Whether all containers are being restarted and none of them runs anew yet.
pub fn restarts_together(members: &[Member], containers: &[ContainerStatus]) -> bool {
    let round = current_round(members, containers);
    round > 0 && !containers.iter().any(|container| round_of(container) == round)
}

/// Whether a container that had to be stopped is started again. Its end does not count: it did not choose it.
fn is_replaced(owner: &Pod, member: &Member) -> bool {
    let policy = member.container.restart_policy.as_deref().or(pod::spec(owner).restart_policy.as_deref());
    member.role == Role::Sidecar || policy != Some("Never")
}

fn rule_matches(rule: &ContainerRestartRule, exit_code: i32) -> bool {
    rule.exit_codes.as_ref().is_some_and(|codes| {
        let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
        if codes.operator == "NotIn" { !listed } else { listed }
    })
}

fn ended(container: &ContainerStatus) -> bool {
    matches!(container.state, ContainerState::Exited | ContainerState::Unknown)
}

/// The exit code of an ended container; 137 when nobody saw its end.
pub fn exit_code(container: &ContainerStatus) -> i32 {
    container.exit_code.unwrap_or(137)
}

/// Makes the plan.
pub fn plan(view: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    let round = view.round();
    let stale = |container: &ContainerStatus| container.state == ContainerState::Running && round_of(container) < round;
    for (index, member) in view.members.iter().enumerate().filter(|(_, member)| member.role != Role::Ephemeral) {
        let Some(container) = latest(view.containers, &member.container.name).filter(|container| stale(container))
        else {
            continue;
        };
        // Nothing starts anew before everything has ended.
        plan.restarts_all = true;
        if !view.tracks.get(&member.container.name).is_some_and(|track| track.busy) {
            let message =
                format!("Container {} will be restarted with all containers of the pod", member.container.name);
            let id = container.id.clone();
            plan.kill.push(Kill { member: index, id, message, replace: true, redefined: false, abruptly: true });
        }
    }
    if plan.restarts_all {
        return plan;
    }
    let current =
        |container: &&ContainerStatus| Some(&container.sandbox) == view.sandbox && round_of(container) == round;
    let main_ran =
        view.members.iter().filter(|member| member.role == Role::Main).any(|member| {
            view.containers.iter().filter(current).any(|container| container.name == member.container.name)
        });
    plan.initialized = true;
    for (index, member) in view.members.iter().enumerate() {
        match member.role {
            Role::Init if main_ran => {}
            Role::Init | Role::Sidecar if plan.initialized => {
                let goes_on = init_step(view, index, member, &mut plan, main_ran);
                if plan.finished {
                    plan.initialized = false;
                    return plan;
                }
                plan.initialized &= goes_on || main_ran;
            }
            Role::Init | Role::Sidecar => {}
            Role::Main if plan.initialized => {
                consider(view, index, member, &mut plan);
            }
            Role::Main => {}
            Role::Ephemeral => {
                let known = view.containers.iter().any(|container| container.name == member.container.name);
                let track = view.tracks.get(&member.container.name);
                if !known && view.sandbox.is_some() && track.is_none_or(|track| !track.busy && track.waiting.is_none())
                {
                    plan.start.push(Start { member: index, attempt: 0, after: None, round });
                }
            }
        }
    }
    if plan.initialized {
        let mut mains = view.members.iter().filter(|member| member.role == Role::Main);
        plan.finished = mains.all(|member| {
            latest(view.containers, &member.container.name)
                .is_some_and(|container| ended(container) && !followed(view, member, container))
        }) && view.members.iter().any(|member| member.role == Role::Main);
    }
    if plan.finished {
        plan.start.clear();
        plan.kill.clear();
        plan.waiting.clear();
        return plan;
    }
    if view.sandbox.is_none() {
        plan.needs_sandbox = true;
    }
    plan
}

fn followed(view: &View<'_>, member: &Member, container: &ContainerStatus) -> bool {
    is_followed(view.pod, member, container, view.tracks.get(&member.container.name), view.round())
}

/// Looks at an init container; whether the ones after it may go on.
fn init_step(view: &View<'_>, index: usize, member: &Member, plan: &mut Plan, main_ran: bool) -> bool {
    let name = &member.container.name;
    let found = latest(view.containers, name)
        .filter(|container| Some(&container.sandbox) == view.sandbox || container.state == ContainerState::Running)
        .filter(|container| round_of(container) == view.round());
    match (member.role, found) {
        (Role::Init, Some(container)) if ended(container) => {
            let code = exit_code(container);
            if code == 0 {
                return true;
            }
            if followed(view, member, container) {
                consider(view, index, member, plan);
            } else {
                plan.finished = true;
            }
            false
        }
        // What failed for good in an earlier sandbox is not tried again in a new one.
        (Role::Init, None)
            if latest(view.containers, name).is_some_and(|container| {
                ended(container) && exit_code(container) != 0 && !followed(view, member, container)
            }) =>
        {
            plan.finished = true;
            false
        }
        (Role::Sidecar, Some(container)) if container.state == ContainerState::Running => {
            consider(view, index, member, plan);
            main_ran || view.tracks.get(name).is_some_and(|track| track.is_about(&container.id) && track.started)
        }
        _ => {
            consider(view, index, member, plan);
            false
        }
    }
}

/// Decides whether one container has to be started, restarted or left alone.
fn consider(view: &View<'_>, index: usize, member: &Member, plan: &mut Plan) {
    let name = &member.container.name;
    let track = view.tracks.get(name);
    if track.is_some_and(|track| track.busy) {
        return;
    }
    let newest = latest(view.containers, name);
    if let Some(container) = newest.filter(|container| container.state == ContainerState::Running) {
        if image_changed(&member.container, container) {
            let message = format!("Container {name} definition changed");
            plan.kill.push(Kill {
                member: index,
                id: container.id.clone(),
                message,
                replace: true,
                redefined: true,
                abruptly: false,
            });
        } else if let Some((message, replace)) = restart_reason(view.pod, member, container, track) {
            plan.kill.push(Kill {
                member: index,
                id: container.id.clone(),
                message,
                replace,
                redefined: false,
                abruptly: false,
            });
        }
        return;
    }
    let mut after = None;
    // A container that was made and not started failed to start; only ended ones count for the restart policy.
    if let Some(container) = newest.filter(|container| ended(container)) {
        let in_current = Some(&container.sandbox) == view.sandbox && round_of(container) == view.round();
        let again = match member.role {
            // In a new sandbox init containers run again, also those that succeeded.
            Role::Init if !in_current => true,
            _ => followed(view, member, container),
        };
        if !again {
            return;
        }
        let since = container.finished_at.unwrap_or(container.created_at);
        after = Some(since);
        if let Some((delay, left)) = view.backoff.waiting(name, since, view.now) {
            let message = format!(
                "back-off {} restarting failed container={name} pod={}",
                go_duration(delay),
                pod::full_name(view.pod)
            );
            plan.waiting.push((name.clone(), "CrashLoopBackOff".to_owned(), message));
            soonest(&mut plan.again_in, left);
            return;
        }
    }
    if let Some(until) = track.and_then(|track| track.not_before).filter(|until| *until > view.now) {
        soonest(&mut plan.again_in, crate::backoff::elapsed(view.now, until));
        return;
    }
    let attempt =
        newest.map_or(0, |container| container.attempt + u32::from(container.state != ContainerState::Created));
    plan.start.push(Start { member: index, attempt, after, round: view.round() });
}

fn soonest(again: &mut Option<Duration>, left: Duration) {
    *again = Some(again.map_or(left, |known| known.min(left)));
}

/// Why a running container has to go, and whether another follows it in any case.
fn restart_reason(
    owner: &Pod,
    member: &Member,
    container: &ContainerStatus,
    track: Option<&Track>,
) -> Option<(String, bool)> {
    let name = &member.container.name;
    let track = track.filter(|track| track.is_about(&container.id))?;
    if let Some(message) = &track.unhealthy {
        return Some((message.clone(), is_replaced(owner, member)));
    }
    track.outgrown.then(|| (format!("Container {name} resize requires restart"), true))
}

fn image_changed(wanted: &Container, container: &ContainerStatus) -> bool {
    container.annotations.get(IMAGE_ANNOTATION).is_some_and(|image| Some(image) != wanted.image.as_ref())
}

#[cfg(test)]
pub mod tests {
    //! Tables of pods and what should happen next; and containers for the tests of other modules.

    use serde_json::{Value, json};

    use super::*;

    /// A container as the runtime would tell of it: `running`, `created` or an exit code.
    pub fn container(name: &str, attempt: u32, state: &str) -> ContainerStatus {
        let at = |second: i64| Timestamp::from_second(second).expect("a time");
        let code = state.parse::<i32>().ok();
        ContainerStatus {
            id: ContainerId::from(format!("{name}-{attempt}")),
            sandbox: SandboxId::from("s"),
            pod_uid: "u".into(),
            name: name.into(),
            attempt,
            state: match state {
                "running" => ContainerState::Running,
                "created" => ContainerState::Created,
                _ => ContainerState::Exited,
            },
            created_at: at(100),
            started_at: (state != "created").then(|| at(100)),
            finished_at: code.map(|_| at(200)),
            exit_code: code,
            signal: None,
            oom_killed: false,
            pid: None,
            reason: match code {
                Some(0) => "Completed".into(),
                Some(_) => "Error".into(),
                None => String::new(),
            },
            message: String::new(),
            image: "img".into(),
            image_id: "sha256:1".into(),
            image_ref: "img@sha256:2".into(),
            log_path: None,
            labels: Default::default(),
            annotations: [(IMAGE_ANNOTATION.to_owned(), "img".to_owned())].into(),
            mounts: Vec::new(),
            image_mounts: Vec::new(),
            resources: Default::default(),
            user: (0, 0, Vec::new()),
        }
    }

    fn describe(plan: &Plan, members: &[Member]) -> String {
        let mut words = Vec::new();
        let name = |index: usize| members[index].container.name.clone();
        if plan.needs_sandbox {
            words.push("sandbox".to_owned());
        }
        words.extend(plan.start.iter().map(|start| format!("start {}#{}", name(start.member), start.attempt)));
        words.extend(plan.kill.iter().map(|kill| format!("kill {}", name(kill.member))));
        words.extend(plan.waiting.iter().map(|(name, reason, _)| format!("{reason} {name}")));
        if plan.finished {
            words.push("finished".to_owned());
        }
        words.join(", ")
    }

    #[test]
    fn plans() {
        let check =
            |spec: Value, containers: &[ContainerStatus], backoff: &[&str], started: &[&str], expected: &str| {
                let pod: Pod = serde_json::from_value(
                    json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec}),
                )
                .expect("a pod");
                let members = pod::members(pod::spec(&pod));
                let now = Timestamp::from_second(201).expect("a time");
                let mut delays = Backoff::default();
                for key in backoff {
                    delays.next(key, now, now);
                }
                let tracks = started
                    .iter()
                    .map(|name| {
                        let track = Track {
                            id: latest(containers, name.trim_start_matches('!')).map(|container| container.id.clone()),
                            started: !name.starts_with('!'),
                            unhealthy: name.starts_with('!').then(|| "unhealthy".to_owned()),
                            ..Track::default()
                        };
                        (name.trim_start_matches('!').to_owned(), track)
                    })
                    .collect();
                let sandbox = SandboxId::from("s");
                let has_sandbox = spec.get("sandbox") != Some(&json!(false));
                let view = View {
                    pod: &pod,
                    members: &members,
                    sandbox: has_sandbox.then_some(&sandbox),
                    containers,
                    tracks: &tracks,
                    backoff: &delays,
                    now,
                };
                assert_eq!(describe(&plan(&view), &members), expected, "{spec} {started:?}");
            };
        let c = container;
        let two = json!({"containers": [{"name": "a", "image": "img"}, {"name": "b", "image": "img"}]});
        let never = json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "img"}]});
        let on_failure = json!({"restartPolicy": "OnFailure", "containers": [{"name": "a", "image": "img"}]});
        let init = json!({"initContainers": [{"name": "i", "image": "img"}, {"name": "j", "image": "img"}], "containers": [{"name": "a", "image": "img"}]});
        let init_never = json!({"restartPolicy": "Never", "initContainers": [{"name": "i", "image": "img"}], "containers": [{"name": "a", "image": "img"}]});
        let side = json!({"restartPolicy": "Never", "initContainers": [{"name": "s", "image": "img", "restartPolicy": "Always"}, {"name": "i", "image": "img"}], "containers": [{"name": "a", "image": "img"}]});

        check(two.clone(), &[], &[], &[], "start a#0, start b#0");
        check(two.clone(), &[c("a", 0, "running"), c("b", 0, "running")], &[], &[], "");
        check(two.clone(), &[c("a", 0, "running"), c("b", 0, "1")], &[], &[], "start b#1");
        check(two.clone(), &[c("a", 0, "running"), c("b", 3, "0")], &["b"], &[], "CrashLoopBackOff b");
        check(two.clone(), &[c("a", 0, "running"), c("b", 0, "running")], &[], &["!b"], "kill b");
        check(two, &[c("a", 0, "running"), c("b", 0, "created")], &[], &[], "start b#0");
        check(never.clone(), &[c("a", 0, "1")], &[], &[], "finished");
        check(never, &[c("a", 0, "0")], &[], &[], "finished");
        check(on_failure.clone(), &[c("a", 0, "0")], &[], &[], "finished");
        check(on_failure, &[c("a", 0, "2")], &[], &[], "start a#1");
        check(init.clone(), &[], &[], &[], "start i#0");
        check(init.clone(), &[c("i", 0, "running")], &[], &[], "");
        check(init.clone(), &[c("i", 0, "0")], &[], &[], "start j#0");
        check(init.clone(), &[c("i", 0, "0"), c("j", 0, "1")], &[], &[], "start j#1");
        check(init.clone(), &[c("i", 0, "0"), c("j", 0, "1")], &["j"], &[], "CrashLoopBackOff j");
        check(init.clone(), &[c("i", 0, "0"), c("j", 0, "0")], &[], &[], "start a#0");
        check(init, &[c("a", 0, "1")], &[], &[], "start a#1");
        check(init_never, &[c("i", 0, "1")], &[], &[], "finished");
        check(side.clone(), &[], &[], &[], "start s#0");
        check(side.clone(), &[c("s", 0, "running")], &[], &[], "");
        check(side.clone(), &[c("s", 0, "running")], &[], &["s"], "start i#0");
        check(side.clone(), &[c("s", 0, "running"), c("i", 0, "0")], &[], &["s"], "start a#0");
        check(side.clone(), &[c("s", 0, "1"), c("i", 0, "0"), c("a", 0, "running")], &[], &[], "start s#1");
        check(side, &[c("s", 0, "running"), c("i", 0, "0"), c("a", 0, "0")], &[], &["s"], "finished");
        let changed = json!({"containers": [{"name": "a", "image": "other"}]});
        check(changed, &[c("a", 0, "running")], &[], &[], "kill a");
        let rules = json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "img", "restartPolicy": "Never",
            "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}]});
        check(rules.clone(), &[c("a", 0, "42")], &[], &[], "start a#1");
        check(rules, &[c("a", 0, "1")], &[], &[], "finished");

        let all = json!({"restartPolicy": "Never", "initContainers": [{"name": "i", "image": "img"}], "containers": [
            {"name": "a", "image": "img"},
            {"name": "b", "image": "img", "restartPolicyRules": [
                {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]}]});
        let again = |name: &str, attempt: u32, state: &str| {
            let mut container = c(name, attempt, state);
            container.annotations.insert(ROUND_ANNOTATION.to_owned(), "1".to_owned());
            container
        };
        let first = |a: &str| [c("i", 0, "0"), c("a", 0, a), c("b", 0, "42")];
        check(all.clone(), &[c("i", 0, "0"), c("a", 0, "running"), c("b", 0, "running")], &[], &[], "");
        check(all.clone(), &first("running"), &[], &[], "kill a");
        check(all.clone(), &first("137"), &[], &[], "start i#1");
        check(all.clone(), &first("0"), &["i"], &[], "CrashLoopBackOff i");
        let with = |more: &[ContainerStatus]| [first("137").as_slice(), more].concat();
        check(all.clone(), &with(&[again("i", 1, "running")]), &[], &[], "");
        check(all.clone(), &with(&[again("i", 1, "0")]), &[], &[], "start a#1, start b#1");
        check(
            all.clone(),
            &with(&[again("i", 1, "0"), again("a", 1, "running"), again("b", 1, "running")]),
            &[],
            &[],
            "",
        );
        check(all.clone(), &with(&[again("i", 1, "0"), again("a", 1, "0"), again("b", 1, "0")]), &[], &[], "finished");
        check(all, &with(&[again("i", 1, "0"), again("a", 1, "running"), again("b", 1, "42")]), &[], &[], "kill a");
    }
}
