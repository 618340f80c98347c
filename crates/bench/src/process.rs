//! What processes cost, read from `/proc`.

use std::path::Path;

use anyhow::{Context, Result};
use kobune_testbed::Cluster;

/// A process of the cluster.
#[derive(Debug, Clone)]
pub struct Process {
    /// The process id.
    pub id: u32,
    /// Whether it is a pod's shim, otherwise it is kobune itself.
    pub shim: bool,
}

/// kobune and its shims: processes that run the cluster's executable and name its data folder.
pub fn of(cluster: &Cluster) -> Result<Vec<Process>> {
    let marker = cluster.data_dir().to_str().context("the data folder's path is text")?.to_owned();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(id) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process that ends meanwhile is not one to count.
        let Ok(line) = std::fs::read(path.join("cmdline")) else { continue };
        let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        let ours = words.iter().any(|word| word.contains(&marker));
        let command = words.get(1).map(|word| word.to_string()).unwrap_or_default();
        if ours && (command == "up" || command == "shim") {
            found.push(Process { id, shim: command == "shim" });
        }
    }
    Ok(found)
}

/// Proportional set size in bytes: shared pages counted by share.
pub fn proportional_set_size(id: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{id}/smaps_rollup"))?;
    field(&text, "Pss:").map(|kilobytes| kilobytes * 1024)
}

/// Memory that only this process has, in bytes.
pub fn private(id: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{id}/smaps_rollup"))?;
    Ok((field(&text, "Private_Clean:")? + field(&text, "Private_Dirty:")?) * 1024)
}

/// Processor time used until now, in seconds.
pub fn processor_time(id: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    let after = text.rsplit(')').next().context("the line has a command")?;
    let ticks: u64 = after.split_whitespace().skip(11).take(2).map(|word| word.parse::<u64>().unwrap_or(0)).sum();
    // USER_HZ is 100 on every architecture that kobune runs on.
    Ok(ticks as f64 / 100.0)
}

/// Bytes that this process caused to be written to storage until now.
pub fn bytes_written(id: u32) -> Result<u64> {
    field(&std::fs::read_to_string(Path::new("/proc").join(id.to_string()).join("io"))?, "write_bytes:")
}

fn field(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("{name} is missing"))?;
    line.split_whitespace().next().and_then(|word| word.parse().ok()).with_context(|| format!("{name} is not a number"))
}
