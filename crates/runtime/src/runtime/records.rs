//! What the runtime remembers of sandboxes and containers, in memory and on disk.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::container::{ContainerConfig, ContainerState, ContainerStatus};
use crate::id::{ContainerId, SandboxId};
use crate::protocol::Exit;
use crate::sandbox::{SandboxConfig, SandboxState, SandboxStatus};

/// `sandbox.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SandboxRecord {
    pub(super) id: SandboxId,
    pub(super) config: SandboxConfig,
    pub(super) created_at: Timestamp,
    /// The kernel's word for this boot: after the next one nothing of the sandbox can be left.
    pub(super) boot: String,
    pub(super) stopped: bool,
}

/// A sandbox in memory.
#[derive(Clone, Debug)]
pub(super) struct Sandbox {
    pub(super) record: SandboxRecord,
    pub(super) state: SandboxState,
    pub(super) shim_pid: Option<i32>,
    pub(super) pause_pid: Option<i32>,
}

/// `container.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ContainerRecord {
    pub(super) id: ContainerId,
    pub(super) sandbox: SandboxId,
    pub(super) pod_uid: String,
    pub(super) config: ContainerConfig,
    pub(super) created_at: Timestamp,
    pub(super) started_at: Option<Timestamp>,
    pub(super) image_id: String,
    pub(super) image_ref: String,
    pub(super) stop_signal: Option<String>,
    pub(super) user: (u32, u32, Vec<u32>),
    pub(super) group: String,
    pub(super) lowers: Vec<String>,
    pub(super) log: Option<PathBuf>,
}

/// A container in memory.
#[derive(Clone, Debug)]
pub(super) struct Container {
    pub(super) record: ContainerRecord,
    pub(super) pid: Option<i32>,
    pub(super) oom: bool,
    /// How it ended, for whoever waits.
    pub(super) exit: Arc<watch::Sender<Option<Exit>>>,
}

impl Sandbox {
    pub(super) fn status(&self) -> SandboxStatus {
        SandboxStatus {
            id: self.record.id.clone(),
            config: self.record.config.clone(),
            state: self.state,
            created_at: self.record.created_at,
            shim_pid: self.shim_pid,
            network_namespace: self.record.config.network_namespace.clone(),
        }
    }
}

impl Container {
    pub(super) fn new(record: ContainerRecord, exit: Option<Exit>) -> Self {
        Self { record, pid: None, oom: false, exit: Arc::new(watch::Sender::new(exit)) }
    }

    pub(super) fn state(&self) -> ContainerState {
        if self.exit.borrow().is_some() {
            ContainerState::Exited
        } else if self.pid.is_some() {
            ContainerState::Running
        } else {
            ContainerState::Created
        }
    }

    pub(super) fn status(&self) -> ContainerStatus {
        let record = &self.record;
        let exit = self.exit.borrow().clone();
        let oom_killed = exit.as_ref().map_or(self.oom, |exit| exit.oom_killed);
        let reason =
            exit.as_ref().map_or(String::new(), |exit| match (exit.reason.as_str(), exit.oom_killed, exit.code) {
                ("", true, _) => "OOMKilled".to_owned(),
                ("", false, 0) => "Completed".to_owned(),
                ("", false, _) => "Error".to_owned(),
                (given, _, _) => given.to_owned(),
            });
        ContainerStatus {
            id: record.id.clone(),
            sandbox: record.sandbox.clone(),
            pod_uid: record.pod_uid.clone(),
            name: record.config.name.clone(),
            attempt: record.config.attempt,
            state: self.state(),
            created_at: record.created_at,
            started_at: record.started_at,
            finished_at: exit.as_ref().map(|exit| exit.at),
            exit_code: exit.as_ref().map(|exit| exit.code),
            signal: exit.as_ref().and_then(|exit| exit.signal),
            oom_killed,
            pid: self.pid,
            reason,
            message: exit.map_or(String::new(), |exit| exit.message),
            image: record.config.image.clone(),
            image_id: record.image_id.clone(),
            image_ref: record.image_ref.clone(),
            log_path: record.log.clone(),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
            mounts: record.config.mounts.clone(),
            image_mounts: record.config.image_mounts.clone(),
            resources: record.config.resources.clone(),
            user: record.user.clone(),
        }
    }
}

/// The kernel's word for this boot.
pub(super) fn boot_id() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// An end that nobody saw.
pub(super) fn unknown_exit() -> Exit {
    Exit {
        code: 255,
        signal: None,
        oom_killed: false,
        at: Timestamp::now(),
        reason: "Unknown".to_owned(),
        message: "the container's end was not seen: its shim was lost".to_owned(),
    }
}

/// The number of a signal that is given by name (`SIGTERM`, `TERM`, `SIGRTMIN+3`) or number.
pub(super) fn signal_number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(rest) = name.strip_prefix("RTMIN") {
        let offset = if rest.is_empty() { 0 } else { rest.strip_prefix('+')?.parse::<i32>().ok()? };
        return (0..=30).contains(&offset).then_some(34 + offset);
    }
    format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, expected) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("0", None),
            ("SIGFOO", None),
            ("", None),
        ] {
            assert_eq!(signal_number(text), expected, "{text}");
        }
    }
}
