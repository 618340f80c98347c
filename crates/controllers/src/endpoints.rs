//! Endpoints of Services with a selector, for clients that do not read EndpointSlices yet.
//!
//! Upstream:
//! <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/endpoint/endpoints_controller.go>.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, PostParams};

use crate::context::Context;
use crate::object::{Cached, ObjectKey};
use crate::pod::Pod;
use crate::pod_control::namespace_is_terminating;
use crate::queue::{Doing, PassError, Queue, Revisit, is_already_exists, is_not_found};
use crate::service_endpoints::{self, HEADLESS_LABEL, Port, headless, hostname, ports, selects, selects_pods};

/// Says who keeps the object.
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
/// Us.
const MANAGER: &str = "endpoint-controller";
/// Marks an object that holds fewer addresses than there are.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses in one object, as upstream.
const MOST: usize = 1000;

/// Starts the controller.
pub fn start(context: &Arc<Context>) {
    let queue = Arc::<Queue>::default();
    service_endpoints::enqueue(context, &queue);
    let caches = &context.caches;
    let wake = queue.clone();
    caches.endpoints.on_change(move |before, after| {
        if let Some(endpoints) = after.or(before).filter(|endpoints| ours(endpoints)) {
            wake.add(endpoints.key());
        }
    });
    let (pods, services, endpoints) = (caches.pods.clone(), caches.services.clone(), caches.endpoints.clone());
    let ready = async move {
        pods.synced().await;
        services.synced().await;
        endpoints.synced().await;
    };
    let shared = context.clone();
    context.run_controller("endpoints", queue, ready, move |key| pass(shared.clone(), key));
}

fn ours(endpoints: &Endpoints) -> bool {
    endpoints.metadata.labels.as_ref().is_some_and(|labels| labels.get(MANAGED_BY).is_some_and(|by| by == MANAGER))
}

async fn pass(context: Arc<Context>, key: ObjectKey) -> Result<Revisit, PassError> {
    let caches = &context.caches;
    let api = Api::<Endpoints>::namespaced(context.client.clone(), &key.namespace);
    let present = caches.endpoints.get(&key);
    let Some(service) = caches.services.get(&key) else {
        // Upstream deletes hand-made Endpoints with their Service too.
        if let Some(present) = present {
            match api.delete(&key.name, &DeleteParams::default()).await {
                Ok(_) => caches.endpoints.removed(&key, present.uid()),
                Err(error) if is_not_found(&error) => caches.endpoints.removed(&key, present.uid()),
                Err(error) => return Err(error).doing("deleting endpoints"),
            }
        }
        return Ok(None);
    };
    let Some(spec) = service.spec.as_ref().filter(|spec| selects_pods(spec)) else { return Ok(None) };
    let pods: Vec<Arc<Pod>> =
        caches.pods.in_namespace(&key.namespace).into_iter().filter(|pod| selects(spec, pod)).collect();
    let Some(wanted) = plan(&service, &pods, present.as_deref()) else { return Ok(None) };
    let written = if present.is_some() {
        api.replace(&key.name, &PostParams::default(), &wanted).await
    } else {
        api.create(&PostParams::default(), &wanted).await
    };
    match written {
        Ok(mut written) => {
            written.metadata.managed_fields = None;
            caches.endpoints.wrote(written);
            Ok(None)
        }
        Err(error) if namespace_is_terminating(&error) || is_already_exists(&error) => Ok(None),
        Err(error) => Err(error).doing("writing endpoints"),
    }
}

/// The object to write; `None` when it says the right thing already.
fn plan(service: &Service, pods: &[Arc<Pod>], present: Option<&Endpoints>) -> Option<Endpoints> {
    let (mut subsets, truncated) = subsets(service, pods);
    truncated.then(|| truncate(&mut subsets));
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if service.spec.as_ref().is_some_and(headless) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    let mut wanted = present.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    wanted.metadata.labels = Some(labels);
    wanted.subsets = (!subsets.is_empty()).then_some(subsets);
    let annotations = wanted.metadata.annotations.get_or_insert_default();
    if truncated {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    if annotations.is_empty() {
        wanted.metadata.annotations = None;
    }
    (present != Some(&wanted)).then_some(wanted)
}

type Order = (Option<IpAddr>, String);

/// Addresses by the set of ports they share, ready and not ready ones apart, in a fixed order; and whether there are too many.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let Some(spec) = service.spec.as_ref() else { return (Vec::new(), false) };
    let publish = spec.publish_not_ready_addresses.unwrap_or(false);
    let v6 = spec.ip_families.as_ref().and_then(|families| families.first()).is_some_and(|family| family == "IPv6");
    // First which ports each address has, then which addresses have the same ports.
    let mut by_address: BTreeMap<(Order, bool), (EndpointAddress, BTreeSet<Port>)> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| !pod.ended() && (publish || pod.deletion.is_none())) {
        let Some(ip) = pod.ips.iter().find(|ip| ip.contains(':') == v6) else { continue };
        let address = EndpointAddress {
            ip: ip.to_string(),
            hostname: hostname(service, pod),
            node_name: pod.node.as_deref().map(str::to_owned),
            target_ref: Some(pod.reference()),
        };
        let ready = publish || pod.ready.is_some();
        let found = ports(spec, pod);
        // Without a single port there is nothing to reach, unless the Service is headless and asks for none.
        if found.is_empty() && !(spec.ports.as_ref().is_none_or(Vec::is_empty) && headless(spec)) {
            continue;
        }
        let order = (ip.parse().ok(), pod.uid.to_string());
        by_address.entry((order, ready)).or_insert_with(|| (address, BTreeSet::new())).1.extend(found);
    }
    let total = by_address.len();
    let mut groups: BTreeMap<BTreeSet<Port>, (Vec<EndpointAddress>, Vec<EndpointAddress>)> = BTreeMap::new();
    for ((_, ready), (address, ports)) in by_address {
        let (serving, waiting) = groups.entry(ports).or_default();
        if ready { serving.push(address) } else { waiting.push(address) }
    }
    let some = |list: Vec<EndpointAddress>| (!list.is_empty()).then_some(list);
    let subsets = groups
        .into_iter()
        .map(|(ports, (serving, waiting))| EndpointSubset {
            addresses: some(serving),
            not_ready_addresses: some(waiting),
            ports: (!ports.is_empty()).then(|| {
                let name = |port: &Port| (!port.name.is_empty()).then(|| port.name.clone());
                let port = |port: Port| EndpointPort {
                    name: name(&port),
                    port: port.port,
                    protocol: Some(port.protocol),
                    app_protocol: port.app_protocol,
                };
                ports.into_iter().map(port).collect()
            }),
        })
        .collect();
    (subsets, total > MOST)
}

/// Keeps the first thousand, ready ones before others.
fn truncate(subsets: &mut Vec<EndpointSubset>) {
    let mut left = MOST;
    let mut cut = |list: &mut Option<Vec<EndpointAddress>>| {
        if let Some(addresses) = list {
            addresses.truncate(left);
            left -= addresses.len();
            if addresses.is_empty() {
                *list = None;
            }
        }
    };
    subsets.iter_mut().for_each(|subset| cut(&mut subset.addresses));
    subsets.iter_mut().for_each(|subset| cut(&mut subset.not_ready_addresses));
    subsets.retain(|subset| subset.addresses.is_some() || subset.not_ready_addresses.is_some());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pod::tests::pod;

    #[test]
    fn subsets_by_readiness() {
        let service: Service = serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "default"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}}))
        .expect("a service");
        let web = |number: usize, ready: bool| {
            let status = if ready { "True" } else { "False" };
            Arc::new(pod(
                &format!("w{number}"),
                json!({"status": {"podIP": format!("10.0.{}.{}", number / 250, number % 250), "conditions": [{"type": "Ready", "status": status}]}}),
            ))
        };
        let first = plan(&service, &[web(2, true), web(1, true), web(3, false)], None).expect("new");
        let subset = &first.subsets.as_ref().expect("one")[0];
        let ips = |list: &Option<Vec<EndpointAddress>>| {
            list.iter().flatten().map(|address| address.ip.clone()).collect::<Vec<_>>()
        };
        assert_eq!(
            (ips(&subset.addresses), ips(&subset.not_ready_addresses)),
            (vec!["10.0.0.1".into(), "10.0.0.2".into()], vec!["10.0.0.3".into()])
        );
        assert_eq!(subset.ports.as_ref().expect("ports")[0].port, 8080);
        assert_eq!(plan(&service, &[web(3, false), web(1, true), web(2, true)], Some(&first)), None);
        let many: Vec<_> = (0..1200).map(|number| web(number, number % 2 == 0)).collect();
        let cut = plan(&service, &many, None).expect("new");
        let subset = &cut.subsets.as_ref().expect("one")[0];
        assert_eq!((ips(&subset.addresses).len(), ips(&subset.not_ready_addresses).len()), (600, 400));
        assert!(cut.metadata.annotations.is_some_and(|annotations| annotations.contains_key(OVER_CAPACITY)));
        let none = plan(&service, &[], Some(&first)).expect("changed");
        assert_eq!(none.subsets, None);
    }
}
