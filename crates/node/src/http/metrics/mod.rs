//! What the node tells of itself and of its pods: `/stats/summary` and the metrics below `/metrics`, with upstream's names.

mod cadvisor;
mod node;
mod resource;
mod summary;
mod text;

pub use cadvisor::cadvisor;
pub use node::{configz, of_node, probes};
pub use resource::resource;
pub use summary::summary;

use std::sync::Arc;

use super::{Refusal, Server};
use crate::usage::{self, PodUsage};

/// Reads what all pods use.
async fn used(server: &Server, with_disks: bool) -> Result<Vec<PodUsage>, Refusal> {
    let context = Arc::clone(&server.context);
    let pods = server.pods.all();
    let read = tokio::task::spawn_blocking(move || {
        usage::read(&*context.config.runtime, pods, with_disks.then_some(&context.disks))
    });
    read.await.map_err(|error| Refusal::internal(error.to_string()))
}

/// CPU time that the whole machine has used, in nanoseconds. The kernel counts in hundredths of a second.
fn machine_cpu() -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    // user, nice, system, (idle, iowait,) irq, softirq, steal
    [0, 1, 2, 5, 6, 7].into_iter().filter_map(|index| ticks.get(index)).sum::<u64>().saturating_mul(10_000_000)
}
