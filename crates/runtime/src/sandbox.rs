//! What a pod sandbox is asked to be, and what is known of one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::container::Resources;
use crate::id::SandboxId;

/// What the containers of one pod share.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxConfig {
    /// The pod's uid.
    pub uid: String,
    /// The pod's name.
    pub name: String,
    /// The pod's namespace.
    pub namespace: String,
    /// Which attempt at this pod's sandbox this is.
    pub attempt: u32,
    /// The name that `hostname` prints in the pod; ignored with `host_network`.
    pub hostname: String,
    /// Folder that relative log paths of containers start from.
    pub log_dir: PathBuf,
    /// Text of `/etc/resolv.conf`; `None` takes the host's.
    pub resolv_conf: Option<String>,
    /// Text of `/etc/hosts` for containers that bring no mount of their own for it.
    pub hosts: Option<String>,
    /// Kernel parameters of the pod's namespaces (`net.core.somaxconn` and so on).
    pub sysctls: BTreeMap<String, String>,
    /// Uses the host's network namespace.
    pub host_network: bool,
    /// Uses the host's process namespace.
    pub host_pid: bool,
    /// Uses the host's IPC namespace and `/dev/shm`.
    pub host_ipc: bool,
    /// One process namespace for all containers of the pod.
    pub share_process_namespace: bool,
    /// Folder between the runtime's cgroup and the pod's: `""` (guaranteed), `"burstable"` or `"besteffort"`.
    pub cgroup_qos: String,
    /// Limits of the pod's cgroup.
    pub resources: Resources,
    /// Labels, kept for the caller.
    pub labels: BTreeMap<String, String>,
    /// Annotations, kept for the caller.
    pub annotations: BTreeMap<String, String>,
    /// Which OCI runtime runs the pod's containers: one of [`crate::Config::handlers`], or empty for the linked-in one.
    pub runtime_handler: String,
    /// The host's users and groups that those of the pod, from 0 on, are; without it they are the host's. The network
    /// namespace has to belong to a user namespace of just this map.
    pub users: Option<Range<u32>>,
    /// Path of the pod's network namespace; needed unless `host_network`.
    pub network_namespace: Option<PathBuf>,
    /// The pod's addresses in it, for runtimes that want to be told.
    pub pod_ips: Vec<IpAddr>,
}

/// Whether a sandbox can take containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxState {
    /// Its shim answers and its namespaces exist.
    Ready,
    /// Stopped, or lost with its shim (reboot, power cut).
    NotReady,
}

/// What is known of a sandbox.
#[derive(Clone, Debug)]
pub struct SandboxStatus {
    /// Its name.
    pub id: SandboxId,
    /// What it was asked to be.
    pub config: SandboxConfig,
    /// Whether it can take containers.
    pub state: SandboxState,
    /// When it was made.
    pub created_at: Timestamp,
    /// The process that holds it, while it lives.
    pub shim_pid: Option<i32>,
    /// The pod's network namespace.
    pub network_namespace: Option<PathBuf>,
}
