//! `/stats/summary`, `/metrics` and `/metrics/resource`: what pods and the node use.

use std::sync::Arc;

use http::{Response, StatusCode};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kobune_runtime::{ContainerState, ContainerStats};
use serde_json::{Value, json};

use super::{Body, Refusal, Server, answer, text};
use crate::machine;
use crate::pod;

fn line(out: &mut String, text: String) {
    out.push_str(&text);
    out.push('\n');
}

/// What one pod's containers use.
struct Usage {
    pod: Arc<Pod>,
    containers: Vec<(String, Timestamp, ContainerStats)>,
}

/// Reads the cgroups of all running containers.
async fn usage(server: &Server) -> Result<Vec<Usage>, Refusal> {
    let runtime = Arc::clone(&server.context.config.runtime);
    let pods = server.pods.all();
    let read = tokio::task::spawn_blocking(move || {
        let running: Vec<_> =
            runtime.containers().into_iter().filter(|container| container.state == ContainerState::Running).collect();
        let of_pod = |owner: Arc<Pod>| {
            let own = running.iter().filter(|container| container.pod_uid == pod::uid(&owner));
            let containers = own
                .filter_map(|container| match runtime.stats(&container.id) {
                    Ok(stats) => Some((container.name.clone(), container.started_at.unwrap_or(container.created_at), stats)),
                    // It may have ended a moment ago.
                    Err(error) => {
                        tracing::debug!(container = %container.id, error = &error as &dyn std::error::Error, "no stats of a container");
                        None
                    }
                })
                .collect();
            Usage { pod: owner, containers }
        };
        pods.into_iter().map(of_pod).collect::<Vec<_>>()
    });
    read.await.map_err(|error| Refusal::internal(error.to_string()))
}

fn cpu_and_memory(at: Timestamp, cpu: u64, working_set: u64, usage: u64, rss: u64) -> (Value, Value) {
    let time = at.to_string();
    (
        json!({"time": time, "usageCoreNanoSeconds": cpu}),
        json!({"time": time, "usageBytes": usage, "workingSetBytes": working_set, "rssBytes": rss}),
    )
}

/// CPU time that the whole machine has used, in nanoseconds. The kernel counts in hundredths of a second.
fn machine_cpu() -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    // user, nice, system, (idle, iowait,) irq, softirq, steal
    [0, 1, 2, 5, 6, 7].into_iter().filter_map(|index| ticks.get(index)).sum::<u64>().saturating_mul(10_000_000)
}

/// `/stats/summary`.
pub async fn summary(server: &Server) -> Result<Response<Body>, Refusal> {
    let used = usage(server).await?;
    let now = Timestamp::now();
    let disk = machine::disk(&server.context.config.data_dir).unwrap_or_default();
    let pods: Vec<Value> = used
        .iter()
        .map(|used| {
            let containers: Vec<Value> = used
                .containers
                .iter()
                .map(|(name, started, stats)| {
                    let (cpu, memory) =
                        cpu_and_memory(stats.at, stats.cpu_nanoseconds, stats.memory_working_set, stats.memory_usage, stats.memory_rss);
                    json!({
                        "name": name, "startTime": started.to_string(), "cpu": cpu, "memory": memory,
                        "rootfs": {"time": stats.at.to_string(), "usedBytes": stats.writable_layer.bytes, "inodesUsed": stats.writable_layer.inodes},
                        "logs": {"time": stats.at.to_string(), "usedBytes": stats.log_bytes},
                    })
                })
                .collect();
            let sum = |pick: fn(&ContainerStats) -> u64| used.containers.iter().map(|(_, _, stats)| pick(stats)).sum::<u64>();
            let (cpu, memory) = cpu_and_memory(
                now,
                sum(|stats| stats.cpu_nanoseconds),
                sum(|stats| stats.memory_working_set),
                sum(|stats| stats.memory_usage),
                sum(|stats| stats.memory_rss),
            );
            let start = used.pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0.to_string());
            json!({
                "podRef": {"name": pod::name(&used.pod), "namespace": pod::namespace(&used.pod), "uid": pod::uid(&used.pod)},
                "startTime": start, "containers": containers, "cpu": cpu, "memory": memory,
                "process_stats": {"process_count": sum(|stats| stats.pids)},
            })
        })
        .collect();
    let available = u64::try_from(machine::memory_available()).unwrap_or(0);
    let total = u64::try_from(server.context.machine.memory).unwrap_or(0);
    let (cpu, mut memory) =
        cpu_and_memory(now, machine_cpu(), total.saturating_sub(available), total.saturating_sub(available), 0);
    memory["availableBytes"] = json!(available);
    let file_system = json!({"time": now.to_string(), "capacityBytes": disk.size, "availableBytes": disk.available,
        "usedBytes": disk.size.saturating_sub(disk.available), "inodes": disk.inodes, "inodesFree": disk.inodes_free});
    let summary = json!({
        "node": {"nodeName": server.context.config.name, "cpu": cpu, "memory": memory, "fs": file_system,
            "runtime": {"imageFs": file_system}},
        "pods": pods,
    });
    Ok(answer(StatusCode::OK, "application/json", summary.to_string()))
}

/// `/metrics/resource`: what metrics-server reads.
pub async fn resource(server: &Server) -> Result<Response<Body>, Refusal> {
    let used = usage(server).await?;
    let now = Timestamp::now().as_millisecond();
    let mut out = String::new();
    let seconds = |nanoseconds: u64| nanoseconds as f64 / 1e9;
    let mut family = |name: &str, help: &str, kind: &str, value: &dyn Fn(&ContainerStats) -> String| {
        line(&mut out, format!("# HELP container_{name} [STABLE] {help}\n# TYPE container_{name} {kind}"));
        for used in &used {
            let (namespace, name_of_pod) = (pod::namespace(&used.pod), pod::name(&used.pod));
            for (container, _, stats) in &used.containers {
                let at = stats.at.as_millisecond();
                let value = value(stats);
                line(
                    &mut out,
                    format!(
                        "container_{name}{{container=\"{container}\",namespace=\"{namespace}\",pod=\"{name_of_pod}\"}} {value} {at}"
                    ),
                );
            }
        }
    };
    family(
        "cpu_usage_seconds_total",
        "Cumulative cpu time consumed by the container in core-seconds",
        "counter",
        &|stats| seconds(stats.cpu_nanoseconds).to_string(),
    );
    family("memory_working_set_bytes", "Current working set of the container in bytes", "gauge", &|stats| {
        stats.memory_working_set.to_string()
    });
    let start = |started: &Timestamp| started.as_millisecond() as f64 / 1000.0;
    line(
        &mut out,
        String::from(
            "# HELP container_start_time_seconds [STABLE] Start time of the container since unix epoch in seconds\n# TYPE container_start_time_seconds gauge",
        ),
    );
    for used in &used {
        let (namespace, name) = (pod::namespace(&used.pod), pod::name(&used.pod));
        for (container, started, _) in &used.containers {
            let value = start(started);
            line(
                &mut out,
                format!(
                    "container_start_time_seconds{{container=\"{container}\",namespace=\"{namespace}\",pod=\"{name}\"}} {value}"
                ),
            );
        }
    }
    for (kind, name, help) in [
        ("counter", "cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds"),
        ("gauge", "memory_working_set_bytes", "Current working set of the pod in bytes"),
    ] {
        line(&mut out, format!("# HELP pod_{name} [STABLE] {help}\n# TYPE pod_{name} {kind}"));
        for used in &used {
            let stats = || used.containers.iter().map(|(_, _, stats)| stats);
            let value = if kind == "counter" {
                seconds(stats().map(|stats| stats.cpu_nanoseconds).sum()).to_string()
            } else {
                stats().map(|stats| stats.memory_working_set).sum::<u64>().to_string()
            };
            let (namespace, of_pod) = (pod::namespace(&used.pod), pod::name(&used.pod));
            line(&mut out, format!("pod_{name}{{namespace=\"{namespace}\",pod=\"{of_pod}\"}} {value} {now}"));
        }
    }
    let memory = server.context.machine.memory.saturating_sub(machine::memory_available());
    line(
        &mut out,
        format!(
            "# HELP node_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the node in core-seconds\n# TYPE node_cpu_usage_seconds_total counter\nnode_cpu_usage_seconds_total {} {now}\n# HELP node_memory_working_set_bytes [STABLE] Current working set of the node in bytes\n# TYPE node_memory_working_set_bytes gauge\nnode_memory_working_set_bytes {memory} {now}\n# HELP resource_scrape_error [STABLE] 1 if there was an error while getting container metrics, 0 otherwise\n# TYPE resource_scrape_error gauge\nresource_scrape_error 0",
            seconds(machine_cpu())
        ),
    );
    Ok(text(out))
}

/// `/metrics`: how many pods and containers there are.
pub fn of_node(server: &Server) -> String {
    let pods = server.pods.all().len();
    let running = server
        .context
        .config
        .runtime
        .containers()
        .iter()
        .filter(|container| container.state == ContainerState::Running)
        .count();
    format!(
        "# HELP kubelet_node_name [ALPHA] The node's name. The count is always 1.\n# TYPE kubelet_node_name gauge\nkubelet_node_name{{node=\"{}\"}} 1\n# HELP kubelet_desired_pods [ALPHA] The number of pods the kubelet is being instructed to run.\n# TYPE kubelet_desired_pods gauge\nkubelet_desired_pods {pods}\n# HELP kubelet_running_containers [ALPHA] Number of containers currently running\n# TYPE kubelet_running_containers gauge\nkubelet_running_containers{{container_state=\"running\"}} {running}\n",
        server.context.config.name
    )
}
