//! Control groups, version 1 (one tree a controller, also hybrid) and version 2 (one tree).
//!
//! Paths are absolute below a tree's mount, never relative to where kobune itself was put: every sandbox has
//! `<parent>/<qos>/pod<uid>`, every container one folder in it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::container::Resources;
use crate::pressure::Pressures;
use crate::stats::ContainerStats;

/// The trees of this machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Cgroups {
    /// Version 1: for each mount the controllers in it.
    V1 {
        /// Controllers (a named tree is `name=...`) and where they are mounted.
        trees: Vec<(Vec<String>, PathBuf)>,
    },
    /// Version 2 at this path.
    V2 {
        /// Where it is mounted.
        root: PathBuf,
    },
}

/// Why a cgroup could not be changed.
#[derive(Debug, thiserror::Error)]
#[error("failed to {action} {}", path.display())]
pub(crate) struct CgroupError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl From<CgroupError> for crate::error::Error {
    fn from(error: CgroupError) -> Self {
        crate::error::Error::Io { action: error.action, path: error.path, source: error.source }
    }
}

type Result<T> = std::result::Result<T, CgroupError>;

fn fail(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_path_buf();
    move |source| CgroupError { action, path, source }
}

/// How often and how long to wait for a dying process to leave its group: 10 s in all.
const REMOVE_ATTEMPTS: u32 = 400;
const REMOVE_PAUSE: Duration = Duration::from_millis(25);

/// Stands for the tree of version 2 on a machine of version 1: kobune keeps nothing there, but runc does, and it is removed
/// with the rest.
const HYBRID: &str = "cgroup2";

impl Cgroups {
    /// Finds the trees in the mount table.
    pub(crate) fn detect() -> Result<Self> {
        let path = Path::new("/proc/self/mountinfo");
        let table = fs::read_to_string(path).map_err(fail("read", path))?;
        Self::from_mounts(&table).ok_or_else(|| fail("find cgroups in", path)(io::ErrorKind::NotFound.into()))
    }

    fn from_mounts(table: &str) -> Option<Self> {
        let mut trees: Vec<(Vec<String>, PathBuf)> = Vec::new();
        let mut unified = None;
        for line in table.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let mut right = right.split(' ');
            let kind = right.next().unwrap_or("");
            let mount = PathBuf::from(left.split(' ').nth(4).unwrap_or(""));
            match kind {
                "cgroup" => {
                    let options = right.nth(1).unwrap_or("");
                    let names: Vec<String> = options
                        .split(',')
                        .filter(|name| {
                            !matches!(*name, "rw" | "ro" | "xattr" | "noprefix" | "clone_children")
                                && !name.starts_with("release_agent")
                        })
                        .map(str::to_owned)
                        .collect();
                    if !trees.iter().any(|(known, _)| *known == names) {
                        trees.push((names, mount));
                    }
                }
                "cgroup2" if unified.is_none() => unified = Some(mount),
                _ => {}
            }
        }
        if trees.iter().any(|(names, _)| names.iter().any(|name| name == "memory" || name == "cpu" || name == "pids")) {
            trees.extend(unified.map(|mount| (vec![HYBRID.to_owned()], mount)));
            return Some(Self::V1 { trees });
        }
        unified.map(|root| Self::V2 { root })
    }

    /// Whether this is version 2.
    pub(crate) fn unified(&self) -> bool {
        matches!(self, Self::V2 { .. })
    }

    /// The folder of a group in the tree of a controller.
    pub(crate) fn folder(&self, controller: &str, group: &str) -> Option<PathBuf> {
        match self {
            Self::V2 { root } => Some(below(root, group)),
            Self::V1 { trees } => trees
                .iter()
                .find(|(names, _)| names.iter().any(|name| name == controller))
                .map(|(_, mount)| below(mount, group)),
        }
    }

    /// The group's folders in all trees; in version 1 named trees are left out, as no limits live there.
    pub(crate) fn folders(&self, group: &str) -> Vec<PathBuf> {
        match self {
            Self::V2 { root } => vec![below(root, group)],
            Self::V1 { trees } => {
                trees.iter().filter(|(names, _)| has_limits(names)).map(|(_, mount)| below(mount, group)).collect()
            }
        }
    }

    /// Name in the tree's folder and real folder, for showing a container its own groups (version 1).
    pub(crate) fn named_folders(&self, group: &str) -> Vec<(String, PathBuf)> {
        match self {
            Self::V2 { .. } => Vec::new(),
            Self::V1 { trees } => trees
                .iter()
                .filter(|(names, _)| has_limits(names))
                .filter_map(|(_, mount)| Some((mount.file_name()?.to_string_lossy().into_owned(), below(mount, group))))
                // Programs look for `cpu`; where it shares a tree with another controller the host has a link there.
                .flat_map(|(name, folder)| {
                    let parts = name.split(',').filter(|part| *part != name).map(str::to_owned).collect::<Vec<_>>();
                    parts.into_iter().chain([name]).map(move |name| (name, folder.clone()))
                })
                .collect(),
        }
    }

    /// Makes a group in all trees and sets its limits.
    pub(crate) fn create(&self, group: &str, resources: &Resources) -> Result<()> {
        match self {
            Self::V2 { root } => {
                let mut current = root.clone();
                for component in group.split('/').filter(|part| !part.is_empty()) {
                    enable_controllers(&current)?;
                    current.push(component);
                    make(&current)?;
                }
            }
            Self::V1 { trees } => {
                for folder in self.folders(group) {
                    fs::create_dir_all(&folder).map_err(fail("create", &folder))?;
                }
                if let Some((_, mount)) = trees.iter().find(|(names, _)| names.iter().any(|name| name == "cpuset")) {
                    inherit_cpuset(mount, group)?;
                }
            }
        }
        self.apply(group, resources)
    }

    /// Sets the limits that are given.
    pub(crate) fn apply(&self, group: &str, resources: &Resources) -> Result<()> {
        let set = |controller: &str, file: &str, value: String| -> Result<()> {
            let Some(folder) = self.folder(controller, group) else {
                tracing::debug!(controller, file, "no such controller on this machine; the limit is not enforced");
                return Ok(());
            };
            write(&folder.join(file), &value)
        };
        let limit = |value: i64| if value < 0 { "max".to_owned() } else { value.to_string() };
        if self.unified() {
            if let Some(shares) = resources.cpu_shares {
                set("cpu", "cpu.weight", weight(shares).to_string())?;
            }
            if resources.cpu_quota.is_some() || resources.cpu_period.is_some() {
                let quota = resources
                    .cpu_quota
                    .filter(|quota| *quota > 0)
                    .map_or_else(|| "max".to_owned(), |quota| quota.to_string());
                set("cpu", "cpu.max", format!("{quota} {}", resources.cpu_period.unwrap_or(100_000)))?;
            }
            if let Some(memory) = resources.memory_limit.filter(|memory| *memory != 0) {
                if let Some(swap) = resources.memory_swap_limit.filter(|swap| *swap != 0) {
                    set(
                        "memory",
                        "memory.swap.max",
                        if swap < 0 { limit(swap) } else { (swap - memory.max(0)).max(0).to_string() },
                    )?;
                }
                set("memory", "memory.max", limit(memory))?;
            }
        } else {
            if let Some(shares) = resources.cpu_shares.filter(|shares| *shares > 0) {
                set("cpu", "cpu.shares", shares.max(2).to_string())?;
            }
            if let Some(period) = resources.cpu_period.filter(|period| *period > 0) {
                set("cpu", "cpu.cfs_period_us", period.to_string())?;
            }
            if let Some(quota) = resources.cpu_quota.filter(|quota| *quota != 0) {
                set("cpu", "cpu.cfs_quota_us", quota.to_string())?;
            }
            if let Some(memory) = resources.memory_limit.filter(|memory| *memory != 0) {
                set("memory", "memory.limit_in_bytes", memory.to_string())?;
            }
        }
        if let Some(pids) = resources.pids_limit.filter(|pids| *pids != 0) {
            set("pids", "pids.max", limit(pids))?;
        }
        if let Some(cpus) = resources.cpuset_cpus.as_ref().filter(|cpus| !cpus.is_empty()) {
            set("cpuset", "cpuset.cpus", cpus.clone())?;
        }
        if let Some(mems) = resources.cpuset_mems.as_ref().filter(|mems| !mems.is_empty()) {
            set("cpuset", "cpuset.mems", mems.clone())?;
        }
        for (size, bytes) in &resources.hugepage_limits {
            let file =
                if self.unified() { format!("hugetlb.{size}.max") } else { format!("hugetlb.{size}.limit_in_bytes") };
            set("hugetlb", &file, bytes.to_string())?;
        }
        if self.unified() {
            for (file, value) in resources.unified.iter().filter(|(file, _)| !file.contains('/')) {
                set("memory", file, value.clone())?;
            }
        }
        Ok(())
    }

    /// Moves a process into a group.
    pub(crate) fn join(&self, group: &str, pid: i32) -> Result<()> {
        for folder in self.folders(group) {
            write(&folder.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// Moves a process out of whatever service manager's group it was started in, so that stopping kobune's service does not
    /// end it: in version 1 only the named trees, in version 2 the one tree.
    pub(crate) fn set_apart(&self, group: &str, pid: i32) -> Result<()> {
        match self {
            Self::V2 { .. } => {
                self.create(group, &Resources::default())?;
                self.join(group, pid)
            }
            Self::V1 { trees } => {
                for (_, mount) in trees.iter().filter(|(names, _)| names.iter().any(|name| name.starts_with("name="))) {
                    let folder = below(mount, group);
                    fs::create_dir_all(&folder).map_err(fail("create", &folder))?;
                    write(&folder.join("cgroup.procs"), &pid.to_string())?;
                }
                Ok(())
            }
        }
    }

    /// All processes of a group and of the groups in it.
    pub(crate) fn processes(&self, group: &str) -> Vec<i32> {
        let limits = self.folder("pids", group).or_else(|| self.folders(group).into_iter().next());
        // The shims are only in the named trees.
        let named = match self {
            Self::V1 { trees } => trees
                .iter()
                .filter(|(names, _)| names.iter().any(|name| name.starts_with("name=")))
                .map(|(_, mount)| below(mount, group))
                .collect(),
            Self::V2 { .. } => Vec::new(),
        };
        let mut pids = Vec::new();
        for folder in limits.into_iter().chain(named) {
            collect_processes(&folder, &mut pids);
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Sends SIGKILL to everything in a group.
    pub(crate) fn kill(&self, group: &str) {
        if let Self::V2 { root } = self
            && write(&below(root, group).join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        for pid in self.processes(group) {
            // That it has gone meanwhile is what is wanted.
            if let Err(error) =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
            {
                tracing::trace!(pid, %error, "a process was gone before it was killed");
            }
        }
    }

    /// Ends everything in a group and removes it with the groups in it. Blocks until the processes have gone.
    pub(crate) fn remove(&self, group: &str) -> Result<()> {
        let mut folders = match self {
            Self::V1 { trees } => trees.iter().map(|(_, mount)| below(mount, group)).collect(),
            Self::V2 { .. } => self.folders(group),
        };
        for attempt in 0..REMOVE_ATTEMPTS {
            self.kill(group);
            let mut last = None;
            folders.retain(|folder| match remove_tree(folder) {
                Ok(()) => false,
                Err(error) => {
                    last = Some(fail("remove", folder)(error));
                    true
                }
            });
            match last {
                None => return Ok(()),
                Some(error) if attempt + 1 == REMOVE_ATTEMPTS => return Err(error),
                Some(_) => std::thread::sleep(if attempt < 20 { Duration::from_millis(2) } else { REMOVE_PAUSE }),
            }
        }
        Ok(())
    }

    /// How many processes of the group the kernel has ended because memory ran out.
    pub(crate) fn oom_kills(&self, group: &str) -> u64 {
        let file = if self.unified() { "memory.events" } else { "memory.oom_control" };
        self.folder("memory", group)
            .and_then(|folder| fs::read_to_string(folder.join(file)).ok())
            .and_then(|text| keyed(&text, "oom_kill"))
            .unwrap_or(0)
    }

    /// What the group uses now.
    pub(crate) fn stats(&self, group: &str) -> Result<ContainerStats> {
        let read = |controller: &str, file: &str| -> Result<String> {
            let path = self.folder(controller, group).unwrap_or_default().join(file);
            match fs::read_to_string(&path) {
                Ok(text) => Ok(text),
                // A controller that this machine lacks counts nothing.
                Err(_) if self.folder(controller, group).is_none() => Ok(String::new()),
                Err(error) => Err(fail("read", &path)(error)),
            }
        };
        let number = |text: &str| text.trim().parse::<u64>().unwrap_or(0);
        let mut stats = ContainerStats { at: jiff::Timestamp::now(), ..ContainerStats::default() };
        let memory = read("memory", "memory.stat")?;
        let (inactive, rss, cache, faults, major, usage, limit) = if self.unified() {
            stats.cpu_nanoseconds = keyed(&read("cpu", "cpu.stat")?, "usage_usec").unwrap_or(0) * 1000;
            ("inactive_file", "anon", "file", "pgfault", "pgmajfault", "memory.current", "memory.max")
        } else {
            stats.cpu_nanoseconds = number(&read("cpuacct", "cpuacct.usage")?);
            (
                "total_inactive_file",
                "total_rss",
                "total_cache",
                "total_pgfault",
                "total_pgmajfault",
                "memory.usage_in_bytes",
                "memory.limit_in_bytes",
            )
        };
        stats.memory_usage = number(&read("memory", usage)?);
        stats.memory_working_set = stats.memory_usage.saturating_sub(keyed(&memory, inactive).unwrap_or(0));
        stats.memory_rss = keyed(&memory, rss).unwrap_or(0);
        stats.page_faults = keyed(&memory, faults).unwrap_or(0);
        stats.major_page_faults = keyed(&memory, major).unwrap_or(0);
        // Version 1 says "no limit" with a number close to 2^63.
        stats.memory_limit = read("memory", limit)?.trim().parse::<u64>().ok().filter(|bytes| *bytes < 1 << 62);
        stats.memory_cache = keyed(&memory, cache).unwrap_or(0);
        stats.pids = number(&read("pids", "pids.current")?);
        let cpu = read("cpu", "cpu.stat")?;
        let periods = |key: &str| keyed(&cpu, key).unwrap_or(0);
        let waited = if self.unified() { periods("throttled_usec") * 1000 } else { periods("throttled_time") };
        stats.cpu_throttling = (periods("nr_periods"), periods("nr_throttled"), waited);
        stats.oom_kills = self.oom_kills(group);
        if self.unified()
            && let Some(folder) = self.folder("cpu", group)
        {
            stats.pressures = Pressures::read(&folder, ".pressure");
        }
        Ok(stats)
    }
}

fn below(mount: &Path, group: &str) -> PathBuf {
    mount.join(group.trim_start_matches('/'))
}

fn write(path: &Path, value: &str) -> Result<()> {
    use std::io::Write;
    // Not created: a file that does not exist must be an error, not a plain file.
    let mut file = fs::OpenOptions::new().write(true).open(path).map_err(fail("open", path))?;
    file.write_all(value.as_bytes()).map_err(fail("write", path))
}

fn make(folder: &Path) -> Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(fail("create", folder)(error)),
        _ => Ok(()),
    }
}

/// Lets the groups below use the controllers that this one has.
fn enable_controllers(folder: &Path) -> Result<()> {
    let path = folder.join("cgroup.controllers");
    let available = fs::read_to_string(&path).map_err(fail("read", &path))?;
    let path = folder.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&path).map_err(fail("read", &path))?;
    for controller in ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"] {
        let has = |list: &str| list.split_whitespace().any(|name| name == controller);
        if has(&available) && !has(&enabled) {
            write(&path, &format!("+{controller}"))?;
        }
    }
    Ok(())
}

/// A new cpuset has no CPUs at all, and nothing can enter it: take over what is above.
fn inherit_cpuset(mount: &Path, group: &str) -> Result<()> {
    let mut current = mount.to_path_buf();
    for component in group.split('/').filter(|part| !part.is_empty()) {
        let parent = current.clone();
        current.push(component);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let path = current.join(file);
            let own = fs::read_to_string(&path).map_err(fail("read", &path))?;
            if own.trim().is_empty() {
                let above = fs::read_to_string(parent.join(file)).map_err(fail("read", &parent))?;
                write(&path, above.trim())?;
            }
        }
    }
    Ok(())
}

fn collect_processes(folder: &Path, pids: &mut Vec<i32>) {
    if let Ok(text) = fs::read_to_string(folder.join("cgroup.procs")) {
        pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_processes(&entry.path(), pids);
        }
    }
}

/// Whether a tree of version 1 has controllers.
fn has_limits(names: &[String]) -> bool {
    !names.iter().any(|name| name == HYBRID || name.starts_with("name="))
}

fn remove_tree(folder: &Path) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    match fs::remove_dir(folder) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) || error.raw_os_error() == Some(libc::ENOTEMPTY) => {}
        other => return gone(other),
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    gone(fs::remove_dir(folder))
}

fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Version 2's weight (1 to 10,000) for version 1's shares (2 to 262,144), as the kubelet's documents map them.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_machines_count_as_version_one() {
        let table = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                     35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:3 - cgroup cgroup rw,memory\n\
                     40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                     41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let cgroups = Cgroups::from_mounts(table).expect("there are cgroups");
        assert_eq!(cgroups.folder("cpuacct", "/a/b"), Some("/sys/fs/cgroup/cpu/a/b".into()));
        assert_eq!(cgroups.folders("/x").len(), 2);
        assert_eq!(cgroups.folder(HYBRID, "/x"), Some("/sys/fs/cgroup/unified/x".into()), "runc leaves groups there");
        assert_eq!(cgroups.folder("hugetlb", "/a"), None);
    }

    #[test]
    fn one_tree_is_version_two() {
        let cgroups =
            Cgroups::from_mounts("41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n").expect("there are cgroups");
        assert_eq!(cgroups.folder("memory", "/a"), Some("/sys/fs/cgroup/a".into()));
        assert_eq!(Cgroups::from_mounts("1 1 0:1 / / rw - ext4 /dev/vda rw\n"), None);
    }

    #[test]
    fn shares_become_weights() {
        for (shares, expected) in [(0, 1), (2, 1), (1024, 39), (262_144, 10_000), (1 << 40, 10_000)] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
    }

    #[test]
    fn keyed_files_are_read_by_whole_key() {
        assert_eq!(keyed("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "oom_kill"), Some(3));
        assert_eq!(keyed("a 1\n", "b"), None);
    }
}
