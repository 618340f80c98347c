//! `/metrics/resource`: what metrics-server, and kobune's own `metrics.k8s.io`, read.
//!
//! Names, help and stability are upstream's (`pkg/kubelet/metrics/collectors/resource_metrics.go`).

use http::Response;
use jiff::Timestamp;

use super::text::{Text, seconds};
use super::{machine_cpu, used};
use crate::http::{Body, Refusal, Server, text};
use crate::machine;
use crate::pod;
use crate::usage::PodUsage;

/// `/metrics/resource`.
pub async fn resource(server: &Server) -> Result<Response<Body>, Refusal> {
    let pods = used(server, false).await?;
    let now = Timestamp::now().as_millisecond();
    let mut out = Text::default();
    containers(&mut out, &pods);
    whole_pods(&mut out, &pods);
    let memory = server.context.machine.memory.saturating_sub(machine::memory_available());
    out.family(
        "node_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
    );
    out.value("node_cpu_usage_seconds_total", &[], seconds(machine_cpu()), Some(now));
    out.family("node_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the node in bytes");
    out.value("node_memory_working_set_bytes", &[], memory, Some(now));
    out.family(
        "resource_scrape_error",
        "gauge",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
    );
    out.value("resource_scrape_error", &[], 0, None);
    Ok(text(out.finish()))
}

fn containers(out: &mut Text, pods: &[PodUsage]) {
    let mut each =
        |name: &str, kind: &str, help: &str, value: &dyn Fn(&crate::usage::ContainerUsage) -> (f64, bool)| {
            out.family(name, kind, help);
            for used in pods {
                let (namespace, of_pod) = (pod::namespace(&used.pod), pod::name(&used.pod));
                for container in &used.containers {
                    let (value, timed) = value(container);
                    let labels = [("container", container.name.as_str()), ("namespace", namespace), ("pod", of_pod)];
                    out.value(name, &labels, value, timed.then(|| container.stats.at.as_millisecond()));
                }
            }
        };
    each(
        "container_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
        &|used| (seconds(used.stats.cpu_nanoseconds), true),
    );
    each(
        "container_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the container in bytes",
        &|used| (used.stats.memory_working_set as f64, true),
    );
    each(
        "container_start_time_seconds",
        "gauge",
        "[STABLE] Start time of the container since unix epoch in seconds",
        &|used| (used.started.as_millisecond() as f64 / 1000.0, false),
    );
}

fn whole_pods(out: &mut Text, pods: &[PodUsage]) {
    let mut each = |name: &str, kind: &str, help: &str, value: &dyn Fn(&kobune_runtime::ContainerStats) -> f64| {
        out.family(name, kind, help);
        for used in pods {
            let Some(stats) = &used.whole else { continue };
            let labels = [("namespace", pod::namespace(&used.pod)), ("pod", pod::name(&used.pod))];
            out.value(name, &labels, value(stats), Some(stats.at.as_millisecond()));
        }
    };
    each(
        "pod_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
        &|stats| seconds(stats.cpu_nanoseconds),
    );
    each("pod_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the pod in bytes", &|stats| {
        stats.memory_working_set as f64
    });
}
