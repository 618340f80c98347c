//! `/stats/summary`. Source of the shape: `k8s.io/kubelet/pkg/apis/stats/v1alpha1`.

use http::{Response, StatusCode};
use jiff::Timestamp;
use kobune_runtime::{ContainerStats, Pressure, Pressures, Stall};
use serde_json::{Value, json};

use super::{machine_cpu, used};
use crate::http::{Body, Refusal, Server, answer};
use crate::machine;
use crate::pod;
use crate::usage::{ContainerUsage, PodUsage, traffic};

fn cpu(time: &str, nanoseconds: u64, pressures: &Pressures) -> Value {
    let mut made = json!({"time": time, "usageCoreNanoSeconds": nanoseconds});
    waiting(&mut made, pressures.cpu);
    made
}

/// `psi` of CPU, memory or disk, where the kernel tells (KEP-4205).
fn waiting(of: &mut Value, pressure: Option<Pressure>) {
    let stall = |stall: Stall| json!({"total": stall.total, "avg10": stall.avg10, "avg60": stall.avg60, "avg300": stall.avg300});
    if let Some(pressure) = pressure {
        of["psi"] = json!({"full": stall(pressure.full), "some": stall(pressure.some)});
    }
}

/// The waiting for disks, which has a place of its own.
fn io(of: &mut Value, time: &str, pressures: &Pressures) {
    if pressures.io.is_some() {
        of["io"] = json!({"time": time});
        waiting(&mut of["io"], pressures.io);
    }
}

fn memory(time: &str, stats: &ContainerStats) -> Value {
    let mut made = json!({
        "time": time, "usageBytes": stats.memory_usage, "workingSetBytes": stats.memory_working_set,
        "rssBytes": stats.memory_rss, "pageFaults": stats.page_faults, "majorPageFaults": stats.major_page_faults,
    });
    if let Some(limit) = stats.memory_limit {
        made["availableBytes"] = json!(limit.saturating_sub(stats.memory_working_set));
    }
    waiting(&mut made, stats.pressures.memory);
    made
}

fn container(used: &ContainerUsage) -> Value {
    let time = used.stats.at.to_string();
    let layer = used.disk.writable_layer;
    let mut made = json!({
        "name": used.name, "startTime": used.started.to_string(),
        "cpu": cpu(&time, used.stats.cpu_nanoseconds, &used.stats.pressures),
        "memory": memory(&time, &used.stats),
        "rootfs": {"time": time, "usedBytes": layer.bytes, "inodesUsed": layer.inodes},
        "logs": {"time": time, "usedBytes": used.disk.log_bytes},
    });
    io(&mut made, &time, &used.stats.pressures);
    made
}

fn pod_stats(used: &PodUsage) -> Value {
    let whole = used.whole.clone().unwrap_or_default();
    let time = whole.at.to_string();
    let start = used.pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0.to_string());
    let layers = || used.containers.iter().map(|used| used.disk);
    let bytes: u64 = layers().map(|disk| disk.writable_layer.bytes + disk.log_bytes).sum();
    let inodes: u64 = layers().map(|disk| disk.writable_layer.inodes).sum();
    let mut made = json!({
        "podRef": {"name": pod::name(&used.pod), "namespace": pod::namespace(&used.pod), "uid": pod::uid(&used.pod)},
        "startTime": start, "containers": used.containers.iter().map(container).collect::<Vec<_>>(),
        "cpu": cpu(&time, whole.cpu_nanoseconds, &whole.pressures), "memory": memory(&time, &whole),
        "ephemeral-storage": {"time": time, "usedBytes": bytes, "inodesUsed": inodes},
        "process_stats": {"process_count": whole.pids},
    });
    io(&mut made, &time, &whole.pressures);
    if let Some(process) = used.process {
        let interfaces: Vec<Value> = traffic(process)
            .iter()
            .map(|link| {
                json!({"name": link.name, "rxBytes": link.received[0], "rxErrors": link.received[2],
                    "txBytes": link.sent[0], "txErrors": link.sent[2]})
            })
            .collect();
        let mut network = interfaces.first().cloned().unwrap_or_else(|| json!({}));
        network["time"] = json!(time);
        network["interfaces"] = json!(interfaces);
        made["network"] = network;
    }
    made
}

/// `/stats/summary`.
pub async fn summary(server: &Server) -> Result<Response<Body>, Refusal> {
    let pods: Vec<Value> = used(server, true).await?.iter().map(pod_stats).collect();
    let now = Timestamp::now().to_string();
    let disk = machine::disk(&server.context.config.data_dir).unwrap_or_default();
    let available = u64::try_from(machine::memory_available()).unwrap_or(0);
    let total = u64::try_from(server.context.machine.memory).unwrap_or(0);
    let busy = total.saturating_sub(available);
    let file_system = json!({"time": now, "capacityBytes": disk.size, "availableBytes": disk.available,
        "usedBytes": disk.size.saturating_sub(disk.available), "inodes": disk.inodes, "inodesFree": disk.inodes_free,
        "inodesUsed": disk.inodes.saturating_sub(disk.inodes_free)});
    let pressures = Pressures::of_machine();
    let mut summary = json!({
        "node": {
            "nodeName": server.context.config.name, "cpu": cpu(&now, machine_cpu(), &pressures),
            "memory": {"time": now, "usageBytes": busy, "workingSetBytes": busy, "availableBytes": available},
            "fs": file_system, "runtime": {"imageFs": file_system, "containerFs": file_system},
            "rlimit": {"time": now, "maxpid": server.context.machine.pid_max, "curproc": machine::tasks()},
        },
        "pods": pods,
    });
    waiting(&mut summary["node"]["memory"], pressures.memory);
    io(&mut summary["node"], &now, &pressures);
    Ok(answer(StatusCode::OK, "application/json", summary.to_string()))
}
