//! `/metrics/cadvisor`: the container metrics that dashboards and rules of the field look for, with cAdvisor's names.

use http::Response;
use kobune_runtime::{ContainerState, Pressures, Resources};

use super::text::{Text, seconds};
use super::used;
use crate::http::{Body, Refusal, Server, text};
use crate::pod;
use crate::usage::{ContainerUsage, PodUsage, Traffic, traffic};

/// One container with the labels that cAdvisor gives it.
struct Labelled<'a> {
    id: String,
    namespace: &'a str,
    pod: &'a str,
    used: &'a ContainerUsage,
    limits: Resources,
}

impl Labelled<'_> {
    fn labels(&self) -> [(&str, &str); 6] {
        [
            ("container", self.used.name.as_str()),
            ("id", self.id.as_str()),
            ("image", self.used.image.as_str()),
            ("name", self.used.id.as_str()),
            ("namespace", self.namespace),
            ("pod", self.pod),
        ]
    }
}

type Pick<'a> = &'a dyn Fn(&Labelled<'_>) -> Option<f64>;

/// `/metrics/cadvisor`.
pub async fn cadvisor(server: &Server) -> Result<Response<Body>, Refusal> {
    let pods = used(server, true).await?;
    let runtime = &server.context.config.runtime;
    let limits: std::collections::HashMap<_, _> = runtime
        .containers()
        .into_iter()
        .filter(|container| container.state == ContainerState::Running)
        .map(|container| (container.id, container.resources))
        .collect();
    let all: Vec<Labelled<'_>> = pods
        .iter()
        .flat_map(|of_pod| {
            let (namespace, pod) = (pod::namespace(&of_pod.pod), pod::name(&of_pod.pod));
            of_pod.containers.iter().map(move |used| (namespace, pod, used))
        })
        .map(|(namespace, pod, used)| Labelled {
            id: runtime.cgroup_of(&used.id).unwrap_or_default(),
            namespace,
            pod,
            used,
            limits: limits.get(&used.id).cloned().unwrap_or_default(),
        })
        .collect();
    let mut out = Text::default();
    containers(&mut out, &all);
    pressures(&mut out, &all);
    network(&mut out, &pods);
    out.family("machine_cpu_cores", "gauge", "Number of logical CPU cores.");
    out.value("machine_cpu_cores", &[], server.context.machine.cpus, None);
    out.family("machine_memory_bytes", "gauge", "Amount of memory installed on the machine.");
    out.value("machine_memory_bytes", &[], server.context.machine.memory, None);
    Ok(text(out.finish()))
}

fn containers(out: &mut Text, all: &[Labelled<'_>]) {
    let mut each = |name: &str, kind: &str, help: &str, pick: Pick<'_>| {
        out.family(name, kind, help);
        for one in all {
            if let Some(value) = pick(one) {
                out.value(name, &one.labels(), value, Some(one.used.stats.at.as_millisecond()));
            }
        }
    };
    each("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", &|one| {
        Some(seconds(one.used.stats.cpu_nanoseconds))
    });
    each("container_cpu_cfs_periods_total", "counter", "Number of elapsed enforcement period intervals.", &|one| {
        one.limits.cpu_quota.filter(|quota| *quota > 0).map(|_| one.used.stats.cpu_throttling.0 as f64)
    });
    each("container_cpu_cfs_throttled_periods_total", "counter", "Number of throttled period intervals.", &|one| {
        one.limits.cpu_quota.filter(|quota| *quota > 0).map(|_| one.used.stats.cpu_throttling.1 as f64)
    });
    each(
        "container_cpu_cfs_throttled_seconds_total",
        "counter",
        "Total time duration the container has been throttled.",
        &|one| one.limits.cpu_quota.filter(|quota| *quota > 0).map(|_| seconds(one.used.stats.cpu_throttling.2)),
    );
    let memory: [(&str, &str, Pick<'_>); 4] = [
        (
            "container_memory_usage_bytes",
            "Current memory usage in bytes, including all memory regardless of when it was accessed",
            &|one| Some(one.used.stats.memory_usage as f64),
        ),
        ("container_memory_working_set_bytes", "Current working set in bytes.", &|one| {
            Some(one.used.stats.memory_working_set as f64)
        }),
        ("container_memory_rss", "Size of RSS in bytes.", &|one| Some(one.used.stats.memory_rss as f64)),
        ("container_memory_cache", "Number of bytes of page cache memory.", &|one| {
            Some(one.used.stats.memory_cache as f64)
        }),
    ];
    for (name, help, pick) in memory {
        each(name, "gauge", help, pick);
    }
    each("container_memory_failures_total", "counter", "Cumulative count of memory allocation failures.", &|one| {
        Some(one.used.stats.page_faults as f64)
    });
    each("container_oom_events_total", "counter", "Count of out of memory events observed for the container", &|one| {
        Some(one.used.stats.oom_kills as f64)
    });
    let limits: [(&str, &str, Pick<'_>); 4] = [
        ("container_spec_cpu_period", "CPU period of the container.", &|one| {
            one.limits.cpu_period.map(|period| period as f64)
        }),
        ("container_spec_cpu_quota", "CPU quota of the container.", &|one| {
            one.limits.cpu_quota.map(|quota| quota as f64)
        }),
        ("container_spec_cpu_shares", "CPU share of the container.", &|one| {
            one.limits.cpu_shares.map(|shares| shares as f64)
        }),
        ("container_spec_memory_limit_bytes", "Memory limit for the container.", &|one| {
            Some(one.limits.memory_limit.filter(|limit| *limit > 0).unwrap_or(0) as f64)
        }),
    ];
    for (name, help, pick) in limits {
        each(name, "gauge", help, pick);
    }
    each("container_processes", "gauge", "Number of processes running inside the container.", &|one| {
        Some(one.used.stats.pids as f64)
    });
    each(
        "container_fs_usage_bytes",
        "gauge",
        "Number of bytes that are consumed by the container on this filesystem.",
        &|one| Some(one.used.disk.writable_layer.bytes as f64),
    );
    each("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds.", &|one| {
        Some(one.used.started.as_second() as f64)
    });
    each("container_last_seen", "gauge", "Last time a container was seen by the exporter", &|one| {
        Some(one.used.stats.at.as_second() as f64)
    });
}

/// Waiting, of each container where its cgroup tells, and of the whole machine as the root group `/`.
fn pressures(out: &mut Text, all: &[Labelled<'_>]) {
    let machine = Pressures::of_machine();
    for (index, kind) in ["cpu", "memory", "io"].into_iter().enumerate() {
        let of_kind = |of: &Pressures| [of.cpu, of.memory, of.io][index];
        for full in [true, false] {
            let (sort, what) = match full {
                true => ("stalled", "no tasks in the container could make progress"),
                false => ("waiting", "tasks in the container have waited"),
            };
            let name = format!("container_pressure_{kind}_{sort}_seconds_total");
            out.family(&name, "counter", &format!("Total time duration {what} due to {kind} congestion."));
            let lost = |of: &Pressures| {
                let stall = of_kind(of).map(|pressure| if full { pressure.full } else { pressure.some });
                stall.map(|stall| stall.total as f64 / 1e6)
            };
            if let Some(lost) = lost(&machine) {
                out.value(&name, &[("id", "/")], lost, None);
            }
            for one in all {
                if let Some(lost) = lost(&one.used.stats.pressures) {
                    out.value(&name, &one.labels(), lost, Some(one.used.stats.at.as_millisecond()));
                }
            }
        }
    }
}

fn network(out: &mut Text, pods: &[PodUsage]) {
    let links: Vec<(&PodUsage, Vec<Traffic>)> =
        pods.iter().filter_map(|used| Some((used, traffic(used.process?)))).collect();
    let words = ["bytes", "packets", "errors", "packets_dropped"];
    for (direction, pick) in [("receive", true), ("transmit", false)] {
        for (index, word) in words.iter().enumerate() {
            let name = format!("container_network_{direction}_{word}_total");
            out.family(&name, "counter", &format!("Cumulative count of {word} of this direction"));
            for (used, links) in &links {
                for link in links {
                    let value = if pick { link.received[index] } else { link.sent[index] };
                    let labels = [
                        ("interface", link.name.as_str()),
                        ("namespace", pod::namespace(&used.pod)),
                        ("pod", pod::name(&used.pod)),
                    ];
                    out.value(&name, &labels, value, None);
                }
            }
        }
    }
}
