//! How a machine's CPUs belong together, read from `/sys`: threads in cores, cores around caches, caches in sockets and
//! memory nodes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::cpu_set::CpuSet;

/// Where a CPU is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// The core, by its lowest CPU.
    pub core: u32,
    /// The cores that share the last cache, by their lowest CPU.
    pub cache: u32,
    /// The socket.
    pub socket: u32,
    /// The memory (NUMA) node.
    pub node: u32,
}

/// Memory of one kind on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeMemory {
    /// Bytes by resource: `memory` (what is not set aside as huge pages) and `hugepages-2Mi`.
    pub bytes: BTreeMap<String, i64>,
}

/// The CPUs and memory nodes of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// By number.
    pub cpus: BTreeMap<u32, Cpu>,
    /// Memory nodes by number; at least one.
    pub nodes: BTreeMap<u32, NodeMemory>,
}

fn list(path: &Path) -> io::Result<CpuSet> {
    let text = fs::read_to_string(path)?;
    text.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// A number of a file; machines that have no answer say -1 or lack the file.
fn number(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn lowest(path: &Path) -> Option<u32> {
    list(path).ok()?.iter().next()
}

/// The lowest CPU of those that share the third cache with one.
fn cache(cpu: &Path) -> Option<u32> {
    let entries = fs::read_dir(cpu.join("cache")).ok()?.flatten();
    let mut caches = entries.map(|entry| entry.path()).filter(|path| number(&path.join("level")) == Some(3));
    lowest(&caches.next()?.join("shared_cpu_list"))
}

/// A node's memory as its own `meminfo` and its huge pages tell it.
fn node_memory(folder: &Path) -> NodeMemory {
    let text = fs::read_to_string(folder.join("meminfo")).unwrap_or_default();
    let total = text.lines().find_map(|line| {
        let (_, rest) = line.split_once("MemTotal:")?;
        rest.split_whitespace().next()?.parse::<i64>().ok().map(|kibibytes| kibibytes * 1024)
    });
    let mut bytes = crate::machine::hugepages(&folder.join("hugepages"));
    let set_aside: i64 = bytes.values().sum();
    bytes.insert("memory".to_owned(), total.unwrap_or(0).saturating_sub(set_aside).max(0));
    NodeMemory { bytes }
}

impl Topology {
    /// Reads `root`, which is `/sys/devices/system` on a running machine. Only the CPUs that `allowed` holds for count.
    pub fn read(root: &Path, allowed: impl Fn(u32) -> bool) -> io::Result<Topology> {
        let online = list(&root.join("cpu/online"))?.filter(allowed);
        let mut nodes = BTreeMap::new();
        let mut node_of = BTreeMap::new();
        for entry in fs::read_dir(root.join("node")).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let Some(number) = name.strip_prefix("node").and_then(|number| number.parse::<u32>().ok()) else {
                continue;
            };
            for cpu in list(&entry.path().join("cpulist"))?.iter() {
                node_of.insert(cpu, number);
            }
            nodes.insert(number, node_memory(&entry.path()));
        }
        if nodes.is_empty() {
            // A kernel without NUMA: everything is one node.
            let memory = crate::machine::read_machine();
            let mut bytes = memory.hugepages.clone();
            bytes.insert("memory".to_owned(), memory.memory - memory.hugepages.values().sum::<i64>());
            nodes.insert(0, NodeMemory { bytes });
        }
        let cpus = online.iter().map(|number| {
            let folder = root.join(format!("cpu/cpu{number}"));
            let topology = folder.join("topology");
            let siblings = lowest(&topology.join("core_cpus_list"));
            let core = siblings.or_else(|| lowest(&topology.join("thread_siblings_list"))).unwrap_or(number);
            let socket = self::number(&topology.join("physical_package_id")).unwrap_or(0);
            let node = node_of.get(&number).copied().unwrap_or(0);
            (number, (Cpu { core, cache: 0, socket, node }, cache(&folder)))
        });
        let known: BTreeMap<u32, (Cpu, Option<u32>)> = cpus.collect();
        let first_of = |socket: u32| known.iter().find(|(_, (cpu, _))| cpu.socket == socket).map(|(number, _)| *number);
        let cpus = known
            .iter()
            .map(|(number, (cpu, cache))| {
                // Where no such cache is known, a socket counts as one.
                let cache = cache.or_else(|| first_of(cpu.socket)).unwrap_or(0);
                (*number, Cpu { cache, ..*cpu })
            })
            .collect();
        Ok(Topology { cpus, nodes })
    }

    /// All CPUs.
    pub fn all(&self) -> CpuSet {
        self.cpus.keys().copied().collect()
    }

    /// Those of a set that are on some memory nodes.
    pub fn on_nodes(&self, set: &CpuSet, nodes: &CpuSet) -> CpuSet {
        set.filter(|number| self.cpus.get(&number).is_some_and(|cpu| nodes.contains(cpu.node)))
    }

    /// How many different ones there are of what `part` tells of a CPU.
    pub fn count(&self, part: impl Fn(&Cpu) -> u32) -> usize {
        self.cpus.values().map(part).collect::<CpuSet>().len()
    }

    /// Threads in a core.
    pub fn threads(&self) -> usize {
        self.cpus.len().checked_div(self.count(|cpu| cpu.core)).unwrap_or(1).max(1)
    }
}

/// The memory nodes that this process may use, likewise.
pub fn memory_nodes() -> io::Result<CpuSet> {
    status_list("Mems_allowed_list:")
}

/// Which CPUs this process may run on, from `/proc/self/status`: a machine may be a container on a larger one.
pub fn allowed() -> io::Result<CpuSet> {
    status_list("Cpus_allowed_list:")
}

fn status_list(key: &str) -> io::Result<CpuSet> {
    let text = fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    line.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A machine of sockets, each with nodes, each with cores of some threads. Threads of a core are numbered far apart,
    /// as Linux does on x86. A node's cores share one cache.
    pub fn machine(sockets: u32, nodes: u32, cores: u32, threads: u32) -> Topology {
        let all_cores = sockets * nodes * cores;
        let cpus = (0..all_cores * threads).map(|number| {
            let core = number % all_cores;
            let node = core / cores;
            (number, Cpu { core, cache: node * cores, socket: node / nodes, node })
        });
        let memory = || NodeMemory { bytes: [("memory".to_owned(), 8 << 30)].into() };
        Topology { cpus: cpus.collect(), nodes: (0..sockets * nodes).map(|node| (node, memory())).collect() }
    }

    fn write(root: &Path, name: &str, text: &str) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }

    #[test]
    fn files_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        write(root, "cpu/online", "0-3\n");
        for (cpu, core, socket) in [(0, "0,2", "0"), (1, "1,3", "1"), (2, "0,2", "0"), (3, "1,3", "1")] {
            write(root, &format!("cpu/cpu{cpu}/topology/core_cpus_list"), core);
            write(root, &format!("cpu/cpu{cpu}/topology/physical_package_id"), socket);
        }
        write(root, "cpu/cpu0/cache/index3/level", "3");
        write(root, "cpu/cpu0/cache/index3/shared_cpu_list", "0,2");
        for (node, cpus) in [(0, "0,2"), (1, "1,3")] {
            write(root, &format!("node/node{node}/cpulist"), cpus);
            write(root, &format!("node/node{node}/meminfo"), &format!("Node {node} MemTotal:  4096 kB\n"));
            write(root, &format!("node/node{node}/hugepages/hugepages-2048kB/nr_hugepages"), &node.to_string());
        }
        let read = Topology::read(root, |_| true).expect("read");
        assert_eq!(read.cpus[&2], Cpu { core: 0, cache: 0, socket: 0, node: 0 });
        assert_eq!(read.cpus[&3], Cpu { core: 1, cache: 1, socket: 1, node: 1 });
        assert_eq!(read.nodes[&0].bytes["memory"], 4 << 20);
        assert_eq!((read.nodes[&1].bytes["memory"], read.nodes[&1].bytes["hugepages-2Mi"]), (2 << 20, 2 << 20));
        assert_eq!(read.threads(), 2);
        assert_eq!(Topology::read(root, |cpu| cpu < 2).expect("read").all().to_string(), "0-1");
    }

    #[test]
    fn this_machine_is_read() {
        let allowed = allowed().expect("it says so");
        let read = Topology::read(Path::new("/sys/devices/system"), |cpu| allowed.contains(cpu)).expect("read");
        assert!(!read.cpus.is_empty() && read.nodes.values().any(|node| node.bytes["memory"] > 0), "{read:?}");
    }
}
