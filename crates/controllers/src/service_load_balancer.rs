//! Addresses for Services of type LoadBalancer: those of the nodes themselves.
//!
//! A cluster of small machines has nobody in front of it that could balance. Every node's service rules take in packets
//! for its own addresses, so that a Service is reached at any of them. One number can lead to one Service only: the oldest
//! has it. Ports that the nodes need themselves lead to none. Services with a `loadBalancerClass` are somebody else's.
//!
//! With `externalTrafficPolicy: Local` only nodes that have an endpoint are named, since the others would drop packets.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, LoadBalancerIngress, Node, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kobune_scheduler::recorder::Severity;
use kube::Resource;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use crate::context::Context;
use crate::object::{Cached, ObjectKey};
use crate::queue::{Doing, PassError, Queue, Revisit, is_not_found};
use crate::slice_packing::SERVICE_NAME;

/// Nodes that are not to be balanced to say so. Upstream: `k8s.io/api/core/v1/well_known_labels.go`.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// The port by which machines are administered: a Service that took it would lock the administrator out.
const SSH: (&str, i32) = ("TCP", 22);

/// Starts the controller.
pub fn start(context: &Arc<Context>) {
    let queue = Arc::<Queue>::default();
    let caches = &context.caches;
    // Which Service has a port depends on all of them, so that all are looked at together.
    let wake = queue.clone();
    caches.services.on_change(move |before, after| {
        if [before, after].into_iter().flatten().any(|service| concerns(service)) {
            wake.add(all());
        }
    });
    let wake = queue.clone();
    caches.nodes.on_change(move |before, after| {
        let shown = |node: Option<&Arc<Node>>| node.map(|node| (addresses(node), balances(node)));
        if shown(before) != shown(after) {
            wake.add(all());
        }
    });
    let (services, wake) = (caches.services.clone(), queue.clone());
    caches.endpoint_slices.on_change(move |before, after| {
        let Some(slice) = after.or(before) else { return };
        let name = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        let service = name.and_then(|name| services.get(&ObjectKey::new(namespace, name)));
        if service.is_some_and(|service| service.spec.as_ref().is_some_and(is_local)) {
            wake.add(all());
        }
    });
    let (services, nodes) = (caches.services.clone(), caches.nodes.clone());
    let (slices, endpoints) = (caches.endpoint_slices.clone(), caches.endpoints.clone());
    let ready = async move {
        services.synced().await;
        nodes.synced().await;
        slices.synced().await;
        endpoints.synced().await;
    };
    let shared = context.clone();
    context.run_controller("service-lb", queue, ready, move |_| pass(shared.clone()));
}

fn all() -> ObjectKey {
    ObjectKey::new("", "all")
}

async fn pass(context: Arc<Context>) -> Result<Revisit, PassError> {
    let caches = &context.caches;
    let recorder = context.recorder.for_component("service-controller");
    let servers = caches.endpoints.get(&ObjectKey::new("default", "kubernetes"));
    let (services, nodes) = (caches.services.all(), caches.nodes.all());
    let slices = caches.endpoint_slices.all();
    for decision in plan(&services, &nodes, &slices, servers.as_deref()) {
        if let Some(port) = &decision.refused {
            let message = format!("port {port} is in use on the nodes' addresses");
            recorder.event(&decision.service.object_ref(&()), Severity::Warning, "SyncLoadBalancerFailed", message);
        }
        let present = decision.service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let present = present.and_then(|balancer| balancer.ingress.clone()).unwrap_or_default();
        if present == decision.ingress {
            continue;
        }
        let key = decision.service.key();
        let ingress = if decision.ingress.is_empty() { json!(null) } else { json!(decision.ingress) };
        let change = json!({"status": {"loadBalancer": {"ingress": ingress}}});
        let api = Api::<Service>::namespaced(context.client.clone(), &key.namespace);
        match api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&change)).await {
            Ok(written) => caches.services.wrote(written),
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(error).doing("writing the addresses of a load balancer"),
        }
    }
    Ok(None)
}

fn is_balanced(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none()
}

fn is_local(spec: &ServiceSpec) -> bool {
    is_balanced(spec) && spec.external_traffic_policy.as_deref() == Some("Local")
}

/// Whether the Service gets addresses, or has some that it must give back.
fn concerns(service: &Service) -> bool {
    let Some(spec) = &service.spec else { return false };
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let has = balancer.is_some_and(|balancer| balancer.ingress.as_ref().is_some_and(|all| !all.is_empty()));
    is_balanced(spec) || (has && spec.type_.as_deref() != Some("LoadBalancer"))
}

/// A node's addresses for the world outside: the external ones where it has some, else the internal ones.
fn addresses(node: &Node) -> Vec<IpAddr> {
    let known = || node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let of = |kind: &str| -> Vec<IpAddr> {
        known().filter(|address| address.type_ == kind).filter_map(|address| address.address.parse().ok()).collect()
    };
    Some(of("ExternalIP")).filter(|external| !external.is_empty()).unwrap_or_else(|| of("InternalIP"))
}

/// Whether the node is there and takes traffic.
fn balances(node: &Node) -> bool {
    let excluded = node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(EXCLUDED));
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.clone().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && !excluded && !node.deleting()
}

/// What becomes of one Service.
#[derive(Debug)]
struct Decision {
    service: Arc<Service>,
    ingress: Vec<LoadBalancerIngress>,
    /// The port that keeps it from having an address.
    refused: Option<String>,
}

/// Decides for every Service that is concerned; the oldest chooses first.
fn plan(
    services: &[Arc<Service>],
    nodes: &[Arc<Node>],
    slices: &[Arc<EndpointSlice>],
    servers: Option<&Endpoints>,
) -> Vec<Decision> {
    let mut taken: HashSet<(IpAddr, String, i32)> = HashSet::new();
    for node in nodes {
        let kubelet = node.status.as_ref().and_then(|status| status.daemon_endpoints.as_ref());
        let kubelet = kubelet.and_then(|endpoints| endpoints.kubelet_endpoint.as_ref()).map(|endpoint| endpoint.port);
        for address in addresses(node) {
            taken.insert((address, SSH.0.to_owned(), SSH.1));
            taken.extend(kubelet.map(|port| (address, "TCP".to_owned(), port)));
        }
    }
    for subset in servers.iter().flat_map(|servers| servers.subsets.iter().flatten()) {
        let ips = subset.addresses.iter().flatten().filter_map(|address| address.ip.parse::<IpAddr>().ok());
        for (ip, port) in ips.flat_map(|ip| subset.ports.iter().flatten().map(move |port| (ip, port.port))) {
            taken.insert((ip, "TCP".to_owned(), port));
        }
    }
    let mut by_age: Vec<&Arc<Service>> = services.iter().filter(|service| concerns(service)).collect();
    by_age.sort_by_key(|service| (service.metadata.creation_timestamp.as_ref().map(|time| time.0), service.key()));
    by_age.into_iter().map(|service| decide(service, nodes, slices, &mut taken)).collect()
}

fn decide(
    service: &Arc<Service>,
    nodes: &[Arc<Node>],
    slices: &[Arc<EndpointSlice>],
    taken: &mut HashSet<(IpAddr, String, i32)>,
) -> Decision {
    let nothing = |refused| Decision { service: service.clone(), ingress: Vec::new(), refused };
    let Some(spec) = service.spec.as_ref().filter(|spec| is_balanced(spec) && !service.deleting()) else {
        return nothing(None);
    };
    let with_endpoints = is_local(spec).then(|| nodes_with_endpoints(service, slices));
    let wanted: Option<IpAddr> = spec.load_balancer_ip.as_deref().and_then(|ip| ip.parse().ok());
    let families = spec.ip_families.as_deref().unwrap_or_default();
    let has_family = |address: &IpAddr| {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        families.is_empty() || families.iter().any(|known| known == family)
    };
    let chosen: BTreeSet<IpAddr> = nodes
        .iter()
        .filter(|node| balances(node))
        .filter(|node| with_endpoints.as_ref().is_none_or(|names| names.contains(&*node.key().name)))
        .flat_map(|node| addresses(node))
        .filter(|address| has_family(address) && wanted.is_none_or(|wanted| wanted == *address))
        .collect();
    let ports: Vec<(String, i32)> = spec
        .ports
        .iter()
        .flatten()
        .map(|port| (port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), port.port))
        .collect();
    let claims = || chosen.iter().flat_map(|ip| ports.iter().map(|(protocol, port)| (*ip, protocol.clone(), *port)));
    if let Some((ip, protocol, port)) = claims().find(|claim| taken.contains(claim)) {
        return nothing(Some(format!("{port}/{protocol} at {ip}")));
    }
    taken.extend(claims().collect::<Vec<_>>());
    let ingress = chosen.iter().map(|ip| LoadBalancerIngress {
        ip: Some(ip.to_string()),
        ip_mode: Some("VIP".to_owned()),
        ..LoadBalancerIngress::default()
    });
    Decision { service: service.clone(), ingress: ingress.collect(), refused: None }
}

/// The nodes on which something stands ready behind the Service.
fn nodes_with_endpoints(service: &Service, slices: &[Arc<EndpointSlice>]) -> BTreeSet<String> {
    let name = service.metadata.name.as_ref();
    let of_service = |slice: &&Arc<EndpointSlice>| {
        slice.metadata.namespace == service.metadata.namespace
            && slice.metadata.labels.as_ref().map(|labels: &BTreeMap<String, String>| labels.get(SERVICE_NAME))
                == Some(name)
    };
    let endpoints = slices.iter().filter(of_service).flat_map(|slice| slice.endpoints.iter().flatten());
    let ready = endpoints
        .filter(|endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true));
    ready.filter_map(|endpoint| endpoint.node_name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn node(name: &str, external: Option<&str>, internal: &str, ready: bool) -> Arc<Node> {
        let addresses: Vec<Value> = external
            .map(|ip| json!({"type": "ExternalIP", "address": ip}))
            .into_iter()
            .chain([json!({"type": "InternalIP", "address": internal})])
            .collect();
        let condition = json!({"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let object = json!({"metadata": {"name": name}, "status": {"addresses": addresses, "conditions": [condition],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}}});
        Arc::new(serde_json::from_value(object).expect("a node"))
    }

    fn service(name: &str, age: u8, spec: Value) -> Arc<Service> {
        let mut all = json!({"type": "LoadBalancer", "ports": [{"port": 80}]});
        for (key, value) in spec.as_object().expect("fields") {
            all[key] = value.clone();
        }
        let object = json!({"metadata": {"name": name, "namespace": "default", "creationTimestamp": format!("2026-01-01T00:00:{age:02}Z")}, "spec": all});
        Arc::new(serde_json::from_value(object).expect("a service"))
    }

    fn lines(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> Vec<String> {
        let nodes = [
            node("a", None, "192.0.2.1", true),
            node("b", Some("198.51.100.2"), "192.0.2.2", true),
            node("c", None, "192.0.2.3", false),
            node("d", None, "2001:db8::4", true),
        ];
        let servers: Endpoints = serde_json::from_value(
            json!({"metadata": {}, "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 6443}]}]}),
        )
        .expect("endpoints");
        plan(services, &nodes, slices, Some(&servers))
            .iter()
            .map(|decision| {
                let ips: Vec<&str> = decision.ingress.iter().filter_map(|ingress| ingress.ip.as_deref()).collect();
                let refused = decision.refused.as_deref().map(|port| format!("refused {port}"));
                format!("{} {}{}", decision.service.key().name, ips.join(","), refused.unwrap_or_default())
            })
            .collect()
    }

    #[test]
    fn node_addresses_are_given() {
        let check = |services: &[Arc<Service>], expected: &[&str]| assert_eq!(lines(services, &[]), expected);
        let v4 = json!({"ipFamilies": ["IPv4"]});
        check(&[service("web", 1, v4.clone())], &["web 192.0.2.1,198.51.100.2"]);
        check(&[service("web", 1, json!({"ipFamilies": ["IPv6"]}))], &["web 2001:db8::4"]);
        check(&[service("web", 1, json!({"loadBalancerIP": "192.0.2.1"}))], &["web 192.0.2.1"]);
        check(&[service("web", 1, json!({"loadBalancerClass": "example.com/vip"}))], &[]);
        check(&[service("web", 1, json!({"type": "NodePort"}))], &[]);
        // The oldest has the port, whatever the order of the list.
        let two = [service("late", 9, v4.clone()), service("first", 1, v4)];
        check(&two, &["first 192.0.2.1,198.51.100.2", "late refused 80/TCP at 192.0.2.1"]);
        for port in [22, 6443, 10250] {
            let ports = json!({"ipFamilies": ["IPv4"], "ports": [{"port": port}]});
            check(&[service("web", 1, ports)], &[&format!("web refused {port}/TCP at 192.0.2.1")]);
        }
    }

    #[test]
    fn local_policy_names_nodes_with_endpoints() {
        let slice: EndpointSlice =
            serde_json::from_value(json!({"metadata": {"namespace": "default", "labels": {SERVICE_NAME: "web"}},
            "addressType": "IPv4", "endpoints": [
                {"addresses": ["10.244.0.5"], "nodeName": "a", "conditions": {"ready": true}},
                {"addresses": ["10.244.1.5"], "nodeName": "b", "conditions": {"ready": false}},
            ]}))
            .expect("a slice");
        let local = service("web", 1, json!({"externalTrafficPolicy": "Local", "ipFamilies": ["IPv4"]}));
        assert_eq!(lines(&[local], &[Arc::new(slice)]), ["web 192.0.2.1"]);
    }

    #[test]
    fn what_is_no_longer_balanced_gives_back() {
        let mut gone = (*service("web", 1, json!({"type": "ClusterIP"}))).clone();
        gone.status = Some(
            serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}})).expect("a status"),
        );
        assert_eq!(lines(&[Arc::new(gone)], &[]), ["web "]);
    }
}
