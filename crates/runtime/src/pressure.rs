//! Pressure stall information: how long processes had to wait for CPU, memory or disk.
//!
//! Source: `Documentation/accounting/psi.rst` of the kernel. Cgroups of version 1 have none; the whole machine has it in either.

use std::path::Path;

/// How much time was lost, and how much of the last 10, 60 and 300 seconds, in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stall {
    /// Lost since the start, in microseconds.
    pub total: u64,
    /// Of the last ten seconds.
    pub avg10: f64,
    /// Of the last minute.
    pub avg60: f64,
    /// Of the last five minutes.
    pub avg300: f64,
}

/// Waiting for one kind of resource.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// While at least one process waited.
    pub some: Stall,
    /// While all of them did.
    pub full: Stall,
}

/// Waiting for CPU, memory and disk, each where the kernel tells.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressures {
    /// For a CPU.
    pub cpu: Option<Pressure>,
    /// For memory.
    pub memory: Option<Pressure>,
    /// For disks.
    pub io: Option<Pressure>,
}

impl Pressures {
    /// The whole machine's.
    pub fn of_machine() -> Pressures {
        Pressures::read(Path::new("/proc/pressure"), "")
    }

    /// From the files of a folder: `cpu`, `memory` and `io` with this ending. A kernel that does not keep them has no files,
    /// or files that cannot be read.
    pub(crate) fn read(folder: &Path, ending: &str) -> Pressures {
        let read = |name: &str| parse(&std::fs::read_to_string(folder.join(format!("{name}{ending}"))).ok()?);
        Pressures { cpu: read("cpu"), memory: read("memory"), io: read("io") }
    }
}

/// The two lines of a file. Older kernels tell no `full` of the CPU.
fn parse(text: &str) -> Option<Pressure> {
    let line = |kind: &str| -> Option<Stall> {
        let words = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
        let value = |key: &str| words.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        let average = |key: &str| value(key)?.parse().ok();
        Some(Stall {
            total: value("total")?.parse().ok()?,
            avg10: average("avg10")?,
            avg60: average("avg60")?,
            avg300: average("avg300")?,
        })
    };
    Some(Pressure { some: line("some")?, full: line("full").unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
        write("cpu.pressure", "some avg10=1.50 avg60=2.00 avg300=0.25 total=77\n");
        write(
            "memory.pressure",
            "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\nfull avg10=0.00 avg60=0.00 avg300=12.00 total=3\n",
        );
        write("io.pressure", "some avg10=x avg60=0.00 avg300=0.00 total=5\n");
        let read = Pressures::read(folder.path(), ".pressure");
        let cpu = read.cpu.expect("it is told");
        assert_eq!(cpu.some, Stall { total: 77, avg10: 1.5, avg60: 2.0, avg300: 0.25 });
        assert_eq!(cpu.full, Stall::default());
        let memory = read.memory.expect("it is told");
        assert_eq!((memory.some.total, memory.full.total, memory.full.avg300), (5, 3, 12.0));
        assert_eq!(read.io, None, "what is malformed is not told");
        assert_eq!(Pressures::read(folder.path(), ""), Pressures::default());
    }
}
