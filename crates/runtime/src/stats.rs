//! What a container uses, read from its cgroup's files.

use jiff::Timestamp;

use crate::pressure::Pressures;

/// What a container or a pod uses.
#[derive(Clone, Debug, Default)]
pub struct ContainerStats {
    /// When it was read.
    pub at: Timestamp,
    /// CPU time used since the start, in nanoseconds.
    pub cpu_nanoseconds: u64,
    /// Memory in use, caches included, in bytes.
    pub memory_usage: u64,
    /// Memory in use without inactive file caches: what eviction and `kubectl top` look at.
    pub memory_working_set: u64,
    /// Anonymous memory.
    pub memory_rss: u64,
    /// Page faults since the start.
    pub page_faults: u64,
    /// Page faults that read from disk.
    pub major_page_faults: u64,
    /// The memory limit, if there is one.
    pub memory_limit: Option<u64>,
    /// Caches of files, in bytes.
    pub memory_cache: u64,
    /// Number of processes and threads.
    pub pids: u64,
    /// Periods of the CPU limit that have passed, those in which it was reached, and how long processes had to wait.
    pub cpu_throttling: (u64, u64, u64),
    /// How often the kernel ended a process because memory ran out.
    pub oom_kills: u64,
    /// How long processes had to wait.
    pub pressures: Pressures,
}

/// What a container has on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// What the container wrote into its own layer.
    pub writable_layer: FilesystemUsage,
    /// Size of the log files.
    pub log_bytes: u64,
}

/// Space used below a folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilesystemUsage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Files and folders.
    pub inodes: u64,
}
