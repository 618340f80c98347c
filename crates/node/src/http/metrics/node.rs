//! `/metrics`, `/metrics/probes` and `/configz`: the node's own work.

use std::collections::BTreeMap;

use kobune_runtime::{ContainerState, SandboxState};
use serde_json::{Value, json};

use super::text::Text;
use crate::http::Server;
use crate::pod;

/// `/metrics`: how many pods and containers there are, and of which kind.
pub fn of_node(server: &Server) -> String {
    let runtime = &server.context.config.runtime;
    let mut out = Text::default();
    out.family("kubelet_node_name", "gauge", "[ALPHA] The node's name. The count is always 1.");
    out.value("kubelet_node_name", &[("node", &server.context.config.name)], 1, None);
    out.family("kubelet_desired_pods", "gauge", "[ALPHA] The number of pods the kubelet is being instructed to run.");
    let pods = server.pods.all();
    let from_files = pods.iter().filter(|owner| crate::static_pods::is_static(owner)).count();
    out.value("kubelet_desired_pods", &[("static", "")], pods.len() - from_files, None);
    out.value("kubelet_desired_pods", &[("static", "true")], from_files, None);
    let ready = runtime.pod_sandboxes().iter().filter(|sandbox| sandbox.state == SandboxState::Ready).count();
    out.family("kubelet_running_pods", "gauge", "[ALPHA] Number of pods that have a running pod sandbox");
    out.value("kubelet_running_pods", &[], ready, None);
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    for container in runtime.containers() {
        let state = match container.state {
            ContainerState::Created => "created",
            ContainerState::Running => "running",
            ContainerState::Exited => "exited",
            ContainerState::Unknown => "unknown",
        };
        *states.entry(state).or_default() += 1;
    }
    out.family("kubelet_running_containers", "gauge", "[ALPHA] Number of containers currently running");
    for (state, count) in states {
        out.value("kubelet_running_containers", &[("container_state", state)], count, None);
    }
    out.finish()
}

/// `/metrics/probes`: results of probes. Source: `pkg/kubelet/prober/prober_manager.go`.
pub fn probes(server: &Server) -> String {
    let mut out = Text::default();
    out.family(
        "prober_probe_total",
        "counter",
        "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.",
    );
    for owner in server.pods.all() {
        for (container, kind, counts) in server.context.probe_counts.of(pod::uid(&owner)) {
            for (result, count) in [("successful", counts.successful), ("failed", counts.failed)] {
                let labels = [
                    ("container", container.as_str()),
                    ("namespace", pod::namespace(&owner)),
                    ("pod", pod::name(&owner)),
                    ("pod_uid", pod::uid(&owner)),
                    ("probe_type", kind.as_str()),
                    ("result", result),
                ];
                out.value("prober_probe_total", &labels, count, None);
            }
        }
    }
    out.finish()
}

/// `/configz`: what is in force, in the words of upstream's `KubeletConfiguration`.
pub fn configz(server: &Server) -> Value {
    let config = &server.context.config;
    json!({"kubeletconfig": {
        "enableServer": true,
        "address": config.listen.ip().to_string(),
        "port": config.listen.port(),
        "clusterDomain": config.cluster_domain,
        "clusterDNS": config.cluster_dns.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "nodeStatusUpdateFrequency": "10s",
        "nodeStatusReportFrequency": "5m0s",
        "nodeLeaseDurationSeconds": 40,
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": true,
        "cpuManagerPolicy": "none",
        "memoryManagerPolicy": "None",
        "topologyManagerPolicy": "none",
        "cpuCFSQuota": true,
        "cpuCFSQuotaPeriod": "100ms",
        "maxPods": config.max_pods,
        "failSwapOn": false,
        "enableDebuggingHandlers": true,
    }})
}
