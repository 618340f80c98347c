//! What the node's pods use: their cgroups when somebody asks, their disks no more often than once a minute.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kobune_runtime::{
    ContainerId, ContainerRuntime, ContainerState, ContainerStats, ContainerStatus, DiskUsage, SandboxState,
};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::plan::IMAGE_ANNOTATION;
use crate::pod;

/// Looking through a container's layer reads every file's metadata: an answer is good for this long.
const DISK_FOR: Duration = Duration::from_secs(60);

/// What one container uses.
pub struct ContainerUsage {
    /// Its name in the pod.
    pub name: String,
    /// Its id.
    pub id: ContainerId,
    /// The image as it was asked for.
    pub image: String,
    /// When it was started.
    pub started: Timestamp,
    /// CPU and memory.
    pub stats: ContainerStats,
    /// Disk, if that was asked for.
    pub disk: DiskUsage,
}

/// What one pod uses.
pub struct PodUsage {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its running containers.
    pub containers: Vec<ContainerUsage>,
    /// Its whole cgroup; `None` when it has none any more.
    pub whole: Option<ContainerStats>,
    /// A process in its network namespace.
    pub process: Option<i32>,
}

/// What containers had on disk when it was last looked at.
#[derive(Debug, Default)]
pub struct Disks {
    known: Mutex<HashMap<ContainerId, (Instant, DiskUsage)>>,
}

impl Disks {
    /// What a container has on disk, looked at within the last minute. Blocks.
    fn of(&self, runtime: &dyn ContainerRuntime, id: &ContainerId) -> DiskUsage {
        let now = Instant::now();
        if let Some((_, known)) = self.known.lock().get(id).filter(|(at, _)| now - *at < DISK_FOR) {
            return *known;
        }
        // It may have ended a moment ago: then it has nothing.
        let found = runtime.disk_usage(id).unwrap_or_default();
        let mut known = self.known.lock();
        known.retain(|_, (at, _)| now - *at < 2 * DISK_FOR);
        known.insert(id.clone(), (now, found));
        found
    }
}

/// Reads the cgroups of all running containers of these pods, and with `disks` their layers. Blocks.
pub fn read(runtime: &dyn ContainerRuntime, pods: Vec<Arc<Pod>>, disks: Option<&Disks>) -> Vec<PodUsage> {
    let running: Vec<ContainerStatus> =
        runtime.containers().into_iter().filter(|container| container.state == ContainerState::Running).collect();
    let sandboxes = runtime.pod_sandboxes();
    let of_container = |container: &ContainerStatus| match runtime.stats(&container.id) {
        Ok(stats) => Some(ContainerUsage {
            name: container.name.clone(),
            id: container.id.clone(),
            image: container.annotations.get(IMAGE_ANNOTATION).unwrap_or(&container.image).clone(),
            started: container.started_at.unwrap_or(container.created_at),
            stats,
            disk: disks.map(|disks| disks.of(runtime, &container.id)).unwrap_or_default(),
        }),
        // It may have ended a moment ago.
        Err(error) => {
            tracing::debug!(container = %container.id, error = &error as &dyn std::error::Error, "no stats of a container");
            None
        }
    };
    let of_pod = |owner: Arc<Pod>| {
        let uid = pod::uid(&owner);
        let sandbox =
            sandboxes.iter().find(|sandbox| sandbox.config.uid == uid && sandbox.state == SandboxState::Ready);
        PodUsage {
            containers: running.iter().filter(|container| container.pod_uid == uid).filter_map(of_container).collect(),
            whole: sandbox.and_then(|sandbox| runtime.sandbox_stats(&sandbox.id).ok()),
            process: sandbox.filter(|sandbox| !sandbox.config.host_network).and_then(|sandbox| sandbox.shim_pid),
            pod: owner,
        }
    };
    pods.into_iter().map(of_pod).collect()
}

/// What went through an interface since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// The interface.
    pub name: String,
    /// Bytes, packets, errors and drops that came in.
    pub received: [u64; 4],
    /// The same of what went out.
    pub sent: [u64; 4],
}

/// The interfaces of a process's network namespace, without its loopback.
pub fn traffic(process: i32) -> Vec<Traffic> {
    parse_traffic(&std::fs::read_to_string(format!("/proc/{process}/net/dev")).unwrap_or_default())
}

fn parse_traffic(text: &str) -> Vec<Traffic> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines
        .filter(|(name, _)| name.trim() != "lo")
        .filter_map(|(name, numbers)| {
            let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            let four = |from: usize| numbers.get(from..from + 4)?.try_into().ok();
            Some(Traffic { name: name.trim().to_owned(), received: four(0)?, sent: four(8)? })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes\n\
            \x20   lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 100 2 3 4 0 0 0 0 200 5 6 7 0 0 0 0\n";
        let expected = Traffic { name: "eth0".to_owned(), received: [100, 2, 3, 4], sent: [200, 5, 6, 7] };
        assert_eq!(parse_traffic(text), [expected]);
    }
}
