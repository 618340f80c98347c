//! Facts about this machine, read from `/proc` and `/sys`. Nothing here changes anything.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What the node reports about its machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// CPUs that are online.
    pub cpus: usize,
    /// Memory in bytes.
    pub memory: i64,
    /// Swap in bytes.
    pub swap: i64,
    /// Memory in huge pages, by the resource's name (`hugepages-2Mi`), in bytes.
    pub hugepages: BTreeMap<String, i64>,
    /// Largest process id.
    pub pid_max: i64,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// The mainboard's uuid, or the machine id where there is none.
    pub system_uuid: String,
    /// Changes with each boot.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel: String,
    /// `PRETTY_NAME` of the distribution.
    pub os_image: String,
    /// As Go names it.
    pub architecture: String,
}

impl Machine {
    /// Thousandths of CPUs beside those that are reserved.
    pub fn milli_cpus(&self, reserved: i64) -> i64 {
        i64::try_from(self.cpus).unwrap_or(1).saturating_mul(1000).saturating_sub(reserved).max(0)
    }

    /// Bytes of memory beside huge pages and what is reserved.
    pub fn free_memory(&self, reserved: i64) -> i64 {
        // What is set aside is no memory for anything else.
        let set_aside: i64 = self.hugepages.values().sum();
        self.memory.saturating_sub(set_aside).saturating_sub(reserved).max(0)
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// A line of `/proc/meminfo` in bytes.
fn meminfo(text: &str, key: &str) -> Option<i64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse::<i64>().ok().map(|kibibytes| kibibytes * 1024)
}

/// What the machine has set aside as huge pages, also sizes of which there are none.
pub fn hugepages(folder: &Path) -> BTreeMap<String, i64> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let size = name.strip_prefix("hugepages-").and_then(|name| name.strip_suffix("kB")?.parse::<i64>().ok());
        let count = fs::read_to_string(entry.path().join("nr_hugepages")).ok();
        let count = count.and_then(|text| text.trim().parse::<i64>().ok());
        let (Some(kibibytes), Some(count)) = (size, count) else { continue };
        let size = match kibibytes {
            size if size >= 1 << 20 => format!("{}Gi", size >> 20),
            size if size >= 1 << 10 => format!("{}Mi", size >> 10),
            size => format!("{size}Ki"),
        };
        found.insert(format!("hugepages-{size}"), count.saturating_mul(kibibytes).saturating_mul(1024));
    }
    found
}

fn pretty_name(os_release: &str) -> Option<String> {
    let line = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(line.trim_matches('"').to_owned())
}

/// Reads everything. Facts that the machine does not tell stay empty.
pub fn read_machine() -> Machine {
    let memory = read("/proc/meminfo");
    let machine_id = read("/etc/machine-id");
    let uuid = read("/sys/class/dmi/id/product_uuid").to_lowercase();
    Machine {
        cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        memory: meminfo(&memory, "MemTotal").unwrap_or(0),
        swap: meminfo(&memory, "SwapTotal").unwrap_or(0),
        hugepages: hugepages(Path::new("/sys/kernel/mm/hugepages")),
        pid_max: read("/proc/sys/kernel/pid_max").parse().unwrap_or(32768),
        system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
        machine_id,
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        kernel: read("/proc/sys/kernel/osrelease"),
        os_image: pretty_name(&read("/etc/os-release")).unwrap_or_else(|| "Linux".to_owned()),
        architecture: match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
        .to_owned(),
    }
}

/// Free memory in bytes, caches counted as free.
pub fn memory_available() -> i64 {
    meminfo(&read("/proc/meminfo"), "MemAvailable").unwrap_or(i64::MAX)
}

/// Size, free bytes and free inodes of a file system with the number of its inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Bytes in all.
    pub size: u64,
    /// Bytes free for us.
    pub available: u64,
    /// Inodes in all, 0 where the file system does not count them.
    pub inodes: u64,
    /// Inodes free.
    pub inodes_free: u64,
}

impl Disk {
    /// Bytes in all beside those that are reserved.
    pub fn less(&self, reserved: i64) -> u64 {
        self.size.saturating_sub(u64::try_from(reserved).unwrap_or(0))
    }
}

/// Looks at the file system of a path.
pub fn disk(path: &Path) -> Option<Disk> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    Some(Disk {
        size: stat.blocks() * stat.fragment_size(),
        available: stat.blocks_available() * stat.fragment_size(),
        inodes: stat.files(),
        inodes_free: stat.files_available(),
    })
}

/// Number of processes and threads on the machine, from `/proc/loadavg`.
pub fn tasks() -> i64 {
    let loadavg = read("/proc/loadavg");
    loadavg
        .split_whitespace()
        .nth(3)
        .and_then(|part| part.split_once('/'))
        .and_then(|(_, all)| all.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_have_their_resource_names() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, count) in [("hugepages-2048kB", "4\n"), ("hugepages-1048576kB", "0\n"), ("hugepages-64kB", "1\n")] {
            fs::create_dir(folder.path().join(name)).expect("made");
            fs::write(folder.path().join(name).join("nr_hugepages"), count).expect("written");
        }
        let expected = [("hugepages-1Gi", 0), ("hugepages-2Mi", 8 << 20), ("hugepages-64Ki", 64 << 10)];
        let expected = expected.map(|(name, bytes)| (name.to_owned(), bytes));
        assert_eq!(hugepages(folder.path()), expected.into());
    }

    #[test]
    fn files_are_read() {
        assert_eq!(meminfo("MemTotal:       2048 kB\nSwapTotal: 1 kB\n", "MemTotal"), Some(2048 * 1024));
        assert_eq!(meminfo("MemTotalX: 1 kB\n", "MemTotal"), None);
        assert_eq!(pretty_name("NAME=x\nPRETTY_NAME=\"Debian 12\"\n"), Some("Debian 12".to_owned()));
        let machine = read_machine();
        assert!(machine.memory > 0 && machine.cpus > 0 && !machine.kernel.is_empty());
        assert!(tasks() > 0);
    }
}
