//! What containers use, as the runtime counts it. Pure.

use jiff::Timestamp;
use kobune_runtime::{ContainerStats, DiskUsage, FilesystemUsage};

use crate::proto::{UInt64Value, stats};

fn number(value: &Option<UInt64Value>) -> u64 {
    value.as_ref().map_or(0, |value| value.value)
}

/// CPU and memory. What CRI has no words for is zero.
pub(crate) fn read(stats: &stats::ContainerStats, memory_limit: Option<i64>) -> ContainerStats {
    let (cpu, memory) = (stats.cpu.clone().unwrap_or_default(), stats.memory.clone().unwrap_or_default());
    let working_set = number(&memory.working_set_bytes);
    ContainerStats {
        at: Timestamp::from_nanosecond(cpu.timestamp.into()).unwrap_or_else(|_| Timestamp::now()),
        cpu_nanoseconds: number(&cpu.usage_core_nano_seconds),
        memory_usage: number(&memory.usage_bytes).max(working_set),
        memory_working_set: working_set,
        memory_rss: number(&memory.rss_bytes),
        page_faults: number(&memory.page_faults),
        major_page_faults: number(&memory.major_page_faults),
        memory_limit: memory_limit.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0),
        ..ContainerStats::default()
    }
}

/// The container's own layer, and its log.
pub(crate) fn disk(stats: &stats::ContainerStats, log_bytes: u64) -> DiskUsage {
    let layer = stats.writable_layer.clone().unwrap_or_default();
    DiskUsage {
        writable_layer: FilesystemUsage { bytes: number(&layer.used_bytes), inodes: number(&layer.inodes_used) },
        log_bytes,
    }
}
