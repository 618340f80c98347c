//! The copy of what the runtime has: reading its answers, and finding out what has happened between two of them. Pure.

use std::collections::HashMap;

use jiff::Timestamp;
use kobune_runtime::{
    ContainerEvent, ContainerEventKind, ContainerId, ContainerState, ContainerStatus, Resources, SandboxConfig,
    SandboxId, SandboxState, SandboxStatus,
};

use crate::container_config::{KEPT, Kept};
use crate::proto::container::{self, state};
use crate::proto::sandbox::{PodSandboxStatusResponse, READY};
use crate::resources::merged;
use crate::sandbox_config::ASKED;

/// What is known.
#[derive(Default)]
pub(crate) struct State {
    pub sandboxes: HashMap<SandboxId, SandboxStatus>,
    pub containers: HashMap<ContainerId, ContainerStatus>,
    /// Limits that were changed since the container was made: CRI tells them late or not at all.
    resized: HashMap<ContainerId, Resources>,
}

fn time(nanoseconds: i64) -> Option<Timestamp> {
    (nanoseconds > 0).then(|| Timestamp::from_nanosecond(nanoseconds.into()).ok()).flatten()
}

/// A sandbox as the runtime describes it.
pub(crate) fn sandbox(answer: &PodSandboxStatusResponse) -> Option<SandboxStatus> {
    let status = answer.status.as_ref()?;
    let metadata = status.metadata.clone().unwrap_or_default();
    let kept = status.annotations.get(ASKED).and_then(|text| serde_json::from_str::<SandboxConfig>(text).ok());
    let mut config = kept.unwrap_or_default();
    // What CRI says itself comes before what an annotation says.
    config.uid = metadata.uid;
    config.name = metadata.name;
    config.namespace = metadata.namespace;
    config.attempt = metadata.attempt;
    let details = answer.info.get("info").and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
    let pid = details.as_ref().and_then(|details| details["pid"].as_i64()).and_then(|pid| i32::try_from(pid).ok());
    let state = if status.state == READY { SandboxState::Ready } else { SandboxState::NotReady };
    Some(SandboxStatus {
        id: SandboxId::from(status.id.as_str()),
        state,
        created_at: time(status.created_at).unwrap_or_default(),
        shim_pid: pid.filter(|pid| *pid > 0 && state == SandboxState::Ready),
        network_namespace: config.network_namespace.clone(),
        config,
    })
}

/// A container as the runtime describes it. Its pod comes from the sandbox.
pub(crate) fn container(status: &container::ContainerStatus, sandbox: &SandboxStatus) -> ContainerStatus {
    let metadata = status.metadata.clone().unwrap_or_default();
    let kept = status.annotations.get(KEPT).and_then(|text| serde_json::from_str::<Kept>(text).ok());
    let kept = kept.unwrap_or_default();
    let exited = status.state == state::EXITED;
    let narrow = |value: i64| u32::try_from(value).unwrap_or(0);
    let told = status.user.as_ref().and_then(|user| user.linux.as_ref());
    let user = match told {
        Some(user) => {
            (narrow(user.uid), narrow(user.gid), user.supplemental_groups.iter().map(|group| narrow(*group)).collect())
        }
        None => (kept.user.unwrap_or(0), kept.group.unwrap_or(0), kept.groups),
    };
    ContainerStatus {
        id: ContainerId::from(status.id.as_str()),
        sandbox: sandbox.id.clone(),
        pod_uid: sandbox.config.uid.clone(),
        name: metadata.name,
        attempt: metadata.attempt,
        state: match status.state {
            state::CREATED => ContainerState::Created,
            state::RUNNING => ContainerState::Running,
            state::EXITED => ContainerState::Exited,
            _ => ContainerState::Unknown,
        },
        created_at: time(status.created_at).unwrap_or_default(),
        started_at: time(status.started_at),
        finished_at: time(status.finished_at).filter(|_| exited),
        exit_code: exited.then_some(status.exit_code),
        signal: None,
        oom_killed: status.reason == "OOMKilled",
        pid: None,
        reason: status.reason.clone(),
        message: status.message.clone(),
        image: status.image.as_ref().map(|image| image.image.clone()).unwrap_or_default(),
        image_id: kept.image,
        image_ref: status.image_ref.clone(),
        log_path: kept.log_path.or_else(|| (!status.log_path.is_empty()).then(|| status.log_path.clone().into())),
        labels: status.labels.clone().into_iter().collect(),
        annotations: status.annotations.clone().into_iter().filter(|(key, _)| key != KEPT).collect(),
        mounts: kept.mounts,
        image_mounts: kept.image_mounts,
        resources: kept.resources,
        user,
    }
}

impl State {
    /// Takes note of a sandbox; tells when it was lost.
    pub(crate) fn note_sandbox(&mut self, new: SandboxStatus) -> Option<ContainerEvent> {
        let before = self.sandboxes.get(&new.id).map(|known| known.state);
        let lost = before == Some(SandboxState::Ready) && new.state == SandboxState::NotReady;
        let event = lost.then(|| ContainerEvent {
            // Nobody asks which of its containers it was.
            id: ContainerId::from(new.id.as_str()),
            sandbox: new.id.clone(),
            pod_uid: new.config.uid.clone(),
            kind: ContainerEventKind::SandboxLost,
        });
        let mut new = new;
        if let Some(known) = self.sandboxes.get(&new.id) {
            // The annotation does not know of later changes.
            new.config.resources = known.config.resources.clone();
        }
        self.sandboxes.insert(new.id.clone(), new);
        event
    }

    /// Takes note of a container; tells what has happened to it.
    pub(crate) fn note_container(&mut self, mut new: ContainerStatus) -> Vec<ContainerEvent> {
        if let Some(resized) = self.resized.get(&new.id) {
            new.resources = resized.clone();
        }
        let before = self.containers.get(&new.id).map_or(ContainerState::Created, |known| known.state);
        if before == ContainerState::Exited && new.state != before {
            // An answer that was under way when it ended: nothing starts twice.
            return Vec::new();
        }
        let mut kinds = Vec::new();
        if before != new.state {
            match new.state {
                ContainerState::Running => kinds.push(ContainerEventKind::Started),
                ContainerState::Exited => {
                    if new.oom_killed {
                        kinds.push(ContainerEventKind::Oom);
                    }
                    kinds.push(ContainerEventKind::Exited(new.exit_code.unwrap_or(255)));
                }
                ContainerState::Created => {}
                ContainerState::Unknown => kinds.push(ContainerEventKind::SandboxLost),
            }
        }
        let event = |kind| ContainerEvent {
            id: new.id.clone(),
            sandbox: new.sandbox.clone(),
            pod_uid: new.pod_uid.clone(),
            kind,
        };
        let events = kinds.into_iter().map(event).collect();
        self.containers.insert(new.id.clone(), new);
        events
    }

    /// Forgets a container that is gone; tells if that was not seen before.
    pub(crate) fn forget_container(&mut self, id: &ContainerId) -> Option<ContainerEvent> {
        self.resized.remove(id);
        let known = self.containers.remove(id)?;
        (known.state == ContainerState::Running).then_some(ContainerEvent {
            id: known.id,
            sandbox: known.sandbox,
            pod_uid: known.pod_uid,
            kind: ContainerEventKind::SandboxLost,
        })
    }

    /// Forgets a sandbox and its containers.
    pub(crate) fn forget_sandbox(&mut self, id: &SandboxId) -> Option<ContainerEvent> {
        let of_it: Vec<ContainerId> =
            self.containers.values().filter(|known| known.sandbox == *id).map(|known| known.id.clone()).collect();
        for container in of_it {
            self.forget_container(&container);
        }
        let known = self.sandboxes.remove(id)?;
        (known.state == SandboxState::Ready).then(|| ContainerEvent {
            id: ContainerId::from(id.as_str()),
            sandbox: known.id,
            pod_uid: known.config.uid,
            kind: ContainerEventKind::SandboxLost,
        })
    }

    /// Takes note of new limits of a container.
    pub(crate) fn note_limits(&mut self, id: &ContainerId, limits: &Resources) {
        if let Some(known) = self.containers.get_mut(id) {
            known.resources = merged(&known.resources, limits);
            self.resized.insert(id.clone(), known.resources.clone());
        }
    }

    /// Takes note of new limits of a pod.
    pub(crate) fn note_pod_limits(&mut self, id: &SandboxId, limits: &Resources) {
        if let Some(known) = self.sandboxes.get_mut(id) {
            known.config.resources = merged(&known.config.resources, limits);
        }
    }

    /// Whether anything is there that can end by itself.
    pub(crate) fn anything_runs(&self) -> bool {
        self.sandboxes.values().any(|sandbox| sandbox.state == SandboxState::Ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::container::ContainerMetadata;
    use crate::proto::image::ImageSpec;
    use crate::proto::sandbox::{PodSandboxMetadata, PodSandboxStatus};

    fn sandbox_answer(state: i32) -> PodSandboxStatusResponse {
        PodSandboxStatusResponse {
            status: Some(PodSandboxStatus {
                id: "s".into(),
                metadata: Some(PodSandboxMetadata { uid: "u".into(), name: "p".into(), ..Default::default() }),
                state,
                created_at: 5,
                annotations: [(ASKED.to_owned(), r#"{"uid":"forged","cgroup_qos":"burstable"}"#.to_owned())].into(),
                ..Default::default()
            }),
            info: [("info".to_owned(), r#"{"pid":42}"#.to_owned())].into(),
        }
    }

    fn container_answer(state: i32, reason: &str) -> container::ContainerStatus {
        container::ContainerStatus {
            id: "c".into(),
            metadata: Some(ContainerMetadata { name: "main".into(), attempt: 1 }),
            state,
            created_at: i64::MAX,
            started_at: -1,
            exit_code: 3,
            image: Some(ImageSpec { image: "i".into(), ..Default::default() }),
            reason: reason.into(),
            annotations: [(KEPT.to_owned(), "not JSON".to_owned())].into(),
            ..Default::default()
        }
    }

    #[test]
    fn sandboxes_are_read() {
        let read = sandbox(&sandbox_answer(READY)).expect("a sandbox");
        assert_eq!((read.config.uid.as_str(), read.config.cgroup_qos.as_str()), ("u", "burstable"));
        assert_eq!((read.shim_pid, read.state), (Some(42), SandboxState::Ready));
        assert!(sandbox(&PodSandboxStatusResponse::default()).is_none(), "an answer without a status");
        let mut odd = sandbox_answer(77);
        odd.info.insert("info".into(), "[".into());
        let read = sandbox(&odd).expect("a sandbox");
        assert_eq!((read.shim_pid, read.state), (None, SandboxState::NotReady));
    }

    #[test]
    fn a_containers_life_is_told() {
        let pod = sandbox(&sandbox_answer(READY)).expect("a sandbox");
        let mut known = State::default();
        let mut note = |state: i32, reason: &str| -> Vec<ContainerEventKind> {
            let events = known.note_container(container(&container_answer(state, reason), &pod));
            events.into_iter().map(|event| event.kind).collect()
        };
        assert_eq!(note(state::CREATED, ""), []);
        assert_eq!(note(state::RUNNING, ""), [ContainerEventKind::Started]);
        assert_eq!(note(state::RUNNING, ""), []);
        assert_eq!(note(state::EXITED, "OOMKilled"), [ContainerEventKind::Oom, ContainerEventKind::Exited(3)]);
        assert_eq!(note(state::EXITED, "OOMKilled"), []);
        assert_eq!(note(state::RUNNING, ""), [], "an answer from before");
        let status = &known.containers[&ContainerId::from("c")];
        assert_eq!((status.started_at, status.name.as_str()), (None, "main"));
        assert_eq!((status.state, status.created_at.as_nanosecond()), (ContainerState::Exited, i64::MAX.into()));
    }

    #[test]
    fn limits_outlive_answers_that_do_not_know_them() {
        let pod = sandbox(&sandbox_answer(READY)).expect("a sandbox");
        let mut known = State::default();
        known.note_container(container(&container_answer(state::RUNNING, ""), &pod));
        let limits = Resources { memory_limit: Some(9), ..Resources::default() };
        known.note_limits(&ContainerId::from("c"), &limits);
        known.note_container(container(&container_answer(state::RUNNING, ""), &pod));
        assert_eq!(known.containers[&ContainerId::from("c")].resources.memory_limit, Some(9));
    }

    #[test]
    fn what_vanishes_is_told_once() {
        let mut known = State::default();
        let pod = sandbox(&sandbox_answer(READY)).expect("a sandbox");
        assert!(known.note_sandbox(pod.clone()).is_none());
        known.note_container(container(&container_answer(state::RUNNING, ""), &pod));
        assert!(known.forget_container(&ContainerId::from("c")).is_some());
        assert!(known.forget_container(&ContainerId::from("c")).is_none());
        assert!(known.anything_runs());
        assert!(known.note_sandbox(sandbox(&sandbox_answer(1)).expect("a sandbox")).is_some(), "it was lost");
        assert!(known.forget_sandbox(&pod.id).is_none() && !known.anything_runs());
    }
}
