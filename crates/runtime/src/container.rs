//! What a container is asked to be, and what is known of one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{ContainerId, SandboxId};

/// One run of one image, as the pod's author and the kubelet's rules want it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// The container's name in the pod.
    pub name: String,
    /// Counts the restarts of this name.
    pub attempt: u32,
    /// Image id (`sha256:...`) or any reference that the image store knows.
    pub image: String,
    /// Replaces the image's entrypoint; its `Cmd` is then dropped too, as Kubernetes says.
    pub command: Option<Vec<String>>,
    /// Replaces the image's `Cmd`.
    pub args: Option<Vec<String>>,
    /// Variables, later ones win; those of the image come first.
    pub env: Vec<(String, String)>,
    /// Replaces the image's working folder.
    pub working_dir: Option<String>,
    /// Folders and files of the host to show in the container.
    pub mounts: Vec<Mount>,
    /// Images whose files the container sees.
    pub image_mounts: Vec<ImageMount>,
    /// Devices of the host to show in the container.
    pub devices: Vec<Device>,
    /// Programs of the host to run at points of the container's life.
    pub hooks: Vec<Hook>,
    /// Labels, kept for the caller.
    pub labels: BTreeMap<String, String>,
    /// Annotations, kept for the caller.
    pub annotations: BTreeMap<String, String>,
    /// Log file, absolute or below the sandbox's `log_dir`. `None` discards the output.
    pub log_path: Option<PathBuf>,
    /// Gives the container a terminal.
    pub tty: bool,
    /// Keeps the container's standard input open for `attach`.
    pub stdin: bool,
    /// Closes standard input when the first attached client goes.
    pub stdin_once: bool,
    /// Limits.
    pub resources: Resources,
    /// Who the process is and what it may do.
    pub security: SecurityContext,
    /// Overrides the image's stop signal (`SIGTERM`, `TERM` or a number).
    pub stop_signal: Option<String>,
    /// A running container of the same sandbox whose process namespace this one enters (`targetContainerName`).
    pub process_target: Option<ContainerId>,
}

/// Something of the host that the container sees.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Path on the host; it must exist.
    pub host_path: PathBuf,
    /// Absolute path in the container.
    pub container_path: PathBuf,
    /// Shown read-only.
    pub read_only: bool,
    /// Read-only also for mounts below it.
    pub recursive_read_only: bool,
    /// Whether later mounts below it pass in or out.
    pub propagation: MountPropagation,
}

/// The files of an image, shown read-only in a container of another image (Kubernetes' image volumes).
///
/// They are mounted where only the container sees them, and are gone with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageMount {
    /// The volume's name in the pod, kept for the caller.
    pub volume: String,
    /// Image id (`sha256:...`) or any reference that the image store knows.
    pub image: String,
    /// The image's name with the digest of its manifest, kept for the caller.
    pub image_ref: String,
    /// A folder or file of the image; empty for all of it.
    pub sub_path: String,
    /// Absolute path in the container.
    pub container_path: PathBuf,
}

/// Kubernetes' `mountPropagation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountPropagation {
    /// `None`: nothing passes.
    #[default]
    Private,
    /// Later mounts of the host appear in the container.
    HostToContainer,
    /// Mounts pass both ways; for privileged containers.
    Bidirectional,
}

/// A device node for a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Path on the host.
    pub host_path: PathBuf,
    /// Path in the container.
    pub container_path: PathBuf,
    /// Any of `rwm`.
    pub permissions: String,
}

/// A program that the OCI runtime runs at a point of a container's life; devices bring some.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hook {
    /// `prestart`, `createRuntime`, `createContainer`, `startContainer`, `poststart` or `poststop`.
    pub stage: String,
    /// Its absolute path.
    pub path: PathBuf,
    /// Its arguments, its own name first.
    pub args: Vec<String>,
    /// Its variables, `KEY=value`.
    pub env: Vec<String>,
    /// How many seconds it may take.
    pub timeout: Option<i64>,
}

/// Limits of a container or of a pod. `None` leaves the kernel's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// CPU weight in cgroup v1's unit: 1024 is one whole CPU's worth.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU time a period; -1 takes the limit away.
    pub cpu_quota: Option<i64>,
    /// Length of a period in microseconds.
    pub cpu_period: Option<u64>,
    /// CPUs that may be used (`0-1,3`).
    pub cpuset_cpus: Option<String>,
    /// Memory nodes that may be used.
    pub cpuset_mems: Option<String>,
    /// Memory in bytes; -1 takes the limit away.
    pub memory_limit: Option<i64>,
    /// Memory and swap together in bytes.
    pub memory_swap_limit: Option<i64>,
    /// Number of processes.
    pub pids_limit: Option<i64>,
    /// How early the kernel ends the container when memory runs out, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// Limits of huge pages: page size as the kernel names it (`2MB`), bytes.
    pub hugepage_limits: BTreeMap<String, u64>,
    /// cgroup v2 files to write as they are (`memory.high`).
    pub unified: BTreeMap<String, String>,
}

/// Who the container's process is and what it may do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecurityContext {
    /// Numeric user; wins over `run_as_username` and over the image's.
    pub run_as_user: Option<u32>,
    /// Numeric group.
    pub run_as_group: Option<u32>,
    /// User by name or number, looked up in the image's `/etc/passwd`.
    pub run_as_username: Option<String>,
    /// More groups.
    pub supplemental_groups: Vec<u32>,
    /// Leaves out the groups that the image's `/etc/group` gives the user (`supplementalGroupsPolicy: Strict`).
    pub supplemental_groups_strict: bool,
    /// All capabilities, all devices, nothing masked.
    pub privileged: bool,
    /// Capabilities to add to the default set, with or without `CAP_`; `ALL` for all.
    pub add_capabilities: Vec<String>,
    /// Capabilities to take from it first.
    pub drop_capabilities: Vec<String>,
    /// Forbids gaining rights through set-user-id files.
    pub no_new_privileges: bool,
    /// The root file system cannot be written.
    pub read_only_root: bool,
    /// Which system calls are allowed.
    pub seccomp: SeccompProfile,
    /// AppArmor profile name; ignored where the kernel has no AppArmor.
    pub apparmor: Option<String>,
    /// Shows all of `/proc` (`procMount: Unmasked`).
    pub unmasked_proc: bool,
}

/// Which system calls a container may use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum SeccompProfile {
    /// All of them: what Kubernetes does when nothing is said.
    #[default]
    Unconfined,
    /// The runtime's list.
    RuntimeDefault,
    /// A profile in OCI's or Docker's JSON at this path of the host.
    Localhost(PathBuf),
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Its first process runs.
    Running,
    /// Its first process has ended.
    Exited,
    /// Its shim is gone without a word and the process cannot be seen.
    Unknown,
}

/// What is known of a container.
#[derive(Clone, Debug)]
pub struct ContainerStatus {
    /// Its name.
    pub id: ContainerId,
    /// The sandbox it belongs to.
    pub sandbox: SandboxId,
    /// Uid of the pod.
    pub pod_uid: String,
    /// The container's name in the pod.
    pub name: String,
    /// Counts the restarts of this name.
    pub attempt: u32,
    /// Where it is in its life.
    pub state: ContainerState,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Exit code, 128 + signal when a signal ended it.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The kernel ended a process of it because its memory ran out.
    pub oom_killed: bool,
    /// Its first process, while it runs.
    pub pid: Option<i32>,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerStatusUnknown` or empty.
    pub reason: String,
    /// More about the reason.
    pub message: String,
    /// The image as it was asked for.
    pub image: String,
    /// The image's id (`sha256:...` of its config).
    pub image_id: String,
    /// The image's name with the manifest's digest, or its id when it came without a registry.
    pub image_ref: String,
    /// Absolute path of the log file.
    pub log_path: Option<PathBuf>,
    /// Labels as given.
    pub labels: BTreeMap<String, String>,
    /// Annotations as given.
    pub annotations: BTreeMap<String, String>,
    /// Mounts as given.
    pub mounts: Vec<Mount>,
    /// Images it sees, as given.
    pub image_mounts: Vec<ImageMount>,
    /// Limits in force.
    pub resources: Resources,
    /// The user that the process runs as: user, group, more groups.
    pub user: (u32, u32, Vec<u32>),
}
