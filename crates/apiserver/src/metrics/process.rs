//! What the kernel says about this process, read when somebody asks.

use std::fs;

use super::text::Writer;

/// The kernel counts processor time in hundredths of a second on every platform that kobune runs on.
const TICKS: f64 = 100.0;
/// The size of a page; 64 KiB pages are not supported by the container runtime either.
const PAGE: u64 = 4096;

/// A few fields of `/proc/self/stat`.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    started_ticks: f64,
    virtual_bytes: u64,
    resident_bytes: u64,
}

/// Reads the line. The program's name may have blanks and brackets in it, so the fields are counted after the last one.
fn parse(line: &str) -> Option<Stat> {
    let fields: Vec<&str> = line[line.rfind(')')? + 1..].split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat {
        cpu_seconds: (number(11)? + number(12)?) as f64 / TICKS,
        started_ticks: number(19)? as f64 / TICKS,
        virtual_bytes: number(20)?,
        resident_bytes: number(21)? * PAGE,
    })
}

/// The second at which the machine started.
fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

/// The most files that may be open at once.
fn most_files() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find(|line| line.starts_with("Max open files"))?;
    line.split_ascii_whitespace().nth(3)?.parse().ok()
}

/// Writes what could be read; a system without `/proc` gets fewer values.
pub(super) fn write(out: &mut Writer) {
    if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().and_then(|line| parse(&line)) {
        let help = "Total user and system CPU time spent in seconds.";
        out.single("process_cpu_seconds_total", "counter", help, stat.cpu_seconds);
        out.single("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", stat.resident_bytes);
        out.single("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", stat.virtual_bytes);
        if let Some(booted) = boot_time() {
            let help = "Start time of the process since unix epoch in seconds.";
            out.single("process_start_time_seconds", "gauge", help, booted + stat.started_ticks);
        }
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        out.single("process_open_fds", "gauge", "Number of open file descriptors.", entries.count());
    }
    if let Some(most) = most_files() {
        out.single("process_max_fds", "gauge", "Maximum number of open file descriptors.", most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines() {
        let line = "7 (a ) b) S 1 7 7 0 -1 4194560 900 0 0 0 150 50 0 0 20 0 9 0 12345 1048576 256 184467";
        assert_eq!(
            parse(line),
            Some(Stat { cpu_seconds: 2.0, started_ticks: 123.45, virtual_bytes: 1 << 20, resident_bytes: 1 << 20 })
        );
        assert_eq!(parse(""), None);
        assert_eq!(parse("7 (a) S"), None);
        let mut out = Writer::default();
        write(&mut out);
        assert!(out.into_text().contains("process_resident_memory_bytes "), "this test runs on Linux");
    }
}
