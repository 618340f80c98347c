//! Which pods stand behind a Service, at which ports: what EndpointSlices and Endpoints have in common.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Service, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use parking_lot::Mutex;

use crate::context::Context;
use crate::object::{Cached, ObjectKey};
use crate::pod::Pod;
use crate::queue::Queue;

/// Marks slices and Endpoints of Services without a cluster address.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// A port as endpoints carry it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// Name of the Service's port; empty when it has none.
    pub name: String,
    /// Number at the pod.
    pub port: i32,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// `appProtocol` of the Service's port.
    pub app_protocol: Option<String>,
}

/// Whether the Service has no cluster address.
pub fn headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}

/// Whether a controller has to fill in endpoints: there is a selector, and there are addresses at all.
pub fn selects_pods(spec: &ServiceSpec) -> bool {
    spec.selector.as_ref().is_some_and(|selector| !selector.is_empty()) && spec.type_.as_deref() != Some("ExternalName")
}

/// Whether the Service selects the pod.
pub fn selects(spec: &ServiceSpec, pod: &Pod) -> bool {
    selects_pods(spec) && spec.selector.iter().flatten().all(|(key, value)| pod.labels.get(key) == Some(value))
}

/// The pod's ports by which the Service reaches it. A port name that the pod does not have is left out.
pub fn ports(spec: &ServiceSpec, pod: &Pod) -> Vec<Port> {
    let mut ports: Vec<Port> = Vec::new();
    for port in spec.ports.iter().flatten() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let number = match &port.target_port {
            Some(IntOrString::Int(number)) if *number > 0 => Some(*number),
            Some(IntOrString::String(name)) if !name.is_empty() => {
                let named = pod.ports.iter().find(|named| *named.name == **name && *named.protocol == *protocol);
                named.map(|named| named.port)
            }
            _ => Some(port.port),
        };
        if let Some(number) = number {
            ports.push(Port {
                name: port.name.clone().unwrap_or_default(),
                port: number,
                protocol: protocol.to_owned(),
                app_protocol: port.app_protocol.clone(),
            });
        }
    }
    ports.sort();
    ports
}

/// Whether a pod has a DNS name of its own under the Service.
pub fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let name = service.metadata.name.as_deref()?;
    (pod.subdomain.as_deref() == Some(name)).then_some(())?;
    pod.hostname.as_deref().map(str::to_owned)
}

/// The zone that the node says it is in.
pub fn zone(node: Option<&Node>) -> Option<String> {
    node?.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone").cloned()
}

/// When what a Service's endpoints show happened. Upstream: `staging/src/k8s.io/endpointslice/util/trigger_time_tracker.go`;
/// kept here is one time a Service, not one a pod.
#[derive(Debug, Default)]
pub struct TriggerTimes(Mutex<HashMap<ObjectKey, Timestamp>>);

impl TriggerTimes {
    /// The earliest of the changes that came after the last call for this Service: pods that became ready, and at first the
    /// Service itself. None when nothing of that sort has happened.
    pub fn next(&self, key: &ObjectKey, service: &Service, pods: &[Arc<Pod>]) -> Option<String> {
        let created = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let times = || pods.iter().filter_map(|pod| pod.ready).chain(created);
        let mut seen = self.0.lock();
        let last = seen.get(key).copied();
        let first = times().filter(|time| last.is_none_or(|last| *time > last)).min();
        if let Some(newest) = times().max().filter(|newest| last.is_none_or(|last| *newest > last)) {
            seen.insert(key.clone(), newest);
        }
        first.map(|time| time.to_string())
    }

    /// The Service is gone.
    pub fn forget(&self, key: &ObjectKey) {
        self.0.lock().remove(key);
    }
}

/// What of a pod endpoints show.
fn shown(pod: &Pod) -> impl PartialEq + use<'_> {
    (
        &pod.ips,
        &pod.labels,
        &pod.node,
        pod.ready.is_some(),
        pod.deletion.is_some(),
        pod.ended(),
        (&pod.hostname, &pod.subdomain, &pod.ports),
    )
}

/// Wakes `queue` for Services that change and for those whose pods or nodes change in a way that shows.
pub fn enqueue(context: &Context, queue: &Arc<Queue>) {
    let caches = &context.caches;
    crate::context::enqueue_changes(&caches.services, queue);
    let (services, wake) = (caches.services.clone(), queue.clone());
    caches.pods.on_change(move |before, after| {
        if before.zip(after).is_some_and(|(before, after)| shown(before) == shown(after)) {
            return;
        }
        let Some(pod) = after.or(before) else { return };
        for service in services.in_namespace(pod.namespace()) {
            let Some(spec) = &service.spec else { continue };
            if [before, after].into_iter().flatten().any(|pod| selects(spec, pod)) {
                wake.add(service.key());
            }
        }
    });
    let (services, wake) = (caches.services.clone(), queue.clone());
    caches.nodes.on_change(move |before, after| {
        let zone_of = |node: Option<&Arc<Node>>| zone(node.map(|node| &**node));
        if zone_of(before) != zone_of(after) {
            services.all().iter().for_each(|service| wake.add(service.key()));
        }
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pod::tests::pod;

    #[test]
    fn trigger_times() {
        let service: Service =
            serde_json::from_value(json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}}))
                .expect("a service");
        let ready = |name: &str, since: &str| {
            let condition = json!({"type": "Ready", "status": "True", "lastTransitionTime": since});
            Arc::new(pod(name, json!({"status": {"conditions": [condition]}})))
        };
        let (times, key) = (TriggerTimes::default(), ObjectKey::new("default", "web"));
        let mut pods = vec![ready("a", "2026-01-01T00:00:05Z")];
        assert_eq!(times.next(&key, &service, &pods).as_deref(), Some("2026-01-01T00:00:00Z"));
        assert_eq!(times.next(&key, &service, &pods), None, "nothing new");
        pods.extend([ready("b", "2026-01-01T00:00:09Z"), ready("c", "2026-01-01T00:00:07Z")]);
        assert_eq!(times.next(&key, &service, &pods).as_deref(), Some("2026-01-01T00:00:07Z"));
        times.forget(&key);
        assert_eq!(times.next(&key, &service, &pods).as_deref(), Some("2026-01-01T00:00:00Z"));
    }

    #[test]
    fn target_ports() {
        let web = pod(
            "p",
            json!({"spec": {"containers": [{"ports": [
            {"name": "http", "containerPort": 8080}, {"name": "dns", "containerPort": 5353, "protocol": "UDP"}]}]}}),
        );
        let check = |port: serde_json::Value, expected: Option<i32>| {
            let spec: ServiceSpec = serde_json::from_value(json!({"ports": [port]})).expect("a spec");
            assert_eq!(ports(&spec, &web).first().map(|port| port.port), expected, "{port}");
        };
        check(json!({"port": 80}), Some(80));
        check(json!({"port": 80, "targetPort": 81}), Some(81));
        check(json!({"port": 80, "targetPort": "http"}), Some(8080));
        check(json!({"port": 80, "targetPort": "dns"}), None);
        check(json!({"port": 80, "targetPort": "dns", "protocol": "UDP"}), Some(5353));
        check(json!({"port": 80, "targetPort": "none"}), None);
    }
}
