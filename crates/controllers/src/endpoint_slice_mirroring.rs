//! EndpointSlices that say what hand-made Endpoints of Services without a selector say.
//!
//! Upstream: <https://github.com/kubernetes/kubernetes/tree/master/pkg/controller/endpointslicemirroring>.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};

use crate::context::{Context, enqueue_changes, enqueue_owners};
use crate::object::{Cached, ObjectKey};
use crate::ownership::controller_reference;
use crate::queue::{PassError, Queue, Revisit};
use crate::service_endpoints::{HEADLESS_LABEL, Port, headless};
use crate::slice_packing::{self, Action, Frame, Group, MANAGED_BY, SERVICE_NAME, TRIGGER_TIME};

/// Us.
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Endpoints that are not to be mirrored say so.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints that were once used as a lock of a leader say so.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// What `kubectl apply` notes; it is about the Endpoints and says nothing of a slice.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Addresses that are mirrored of one subset, as upstream: what is past this is left out.
const MOST_OF_A_SUBSET: usize = 1000;

/// Starts the controller.
pub fn start(context: &Arc<Context>) {
    let queue = Arc::<Queue>::default();
    let caches = &context.caches;
    enqueue_changes(&caches.endpoints, &queue);
    enqueue_changes(&caches.services, &queue);
    enqueue_owners(&caches.endpoint_slices, "Endpoints", &queue);
    let (services, endpoints, slices) =
        (caches.services.clone(), caches.endpoints.clone(), caches.endpoint_slices.clone());
    let ready = async move {
        services.synced().await;
        endpoints.synced().await;
        slices.synced().await;
    };
    let shared = context.clone();
    context.run_controller("endpointslicemirroring", queue, ready, move |key| pass(shared.clone(), key));
}

async fn pass(context: Arc<Context>, key: ObjectKey) -> Result<Revisit, PassError> {
    let caches = &context.caches;
    let endpoints = caches.endpoints.get(&key).filter(|endpoints| !endpoints.deleting());
    let service = caches.services.get(&key).filter(|service| !service.deleting());
    let of_service = |slice: &Arc<EndpointSlice>| {
        slice
            .metadata
            .labels
            .as_ref()
            .is_some_and(|labels| labels.get(SERVICE_NAME).is_some_and(|it| **it == *key.name))
    };
    let mut present = slice_packing::kept_by(caches.endpoint_slices.in_namespace(&key.namespace), MANAGER);
    present.retain(of_service);
    let actions = match (endpoints, service) {
        (Some(endpoints), Some(service)) if is_mirrored(&endpoints, &service) => {
            slice_packing::plan(&frame(&endpoints, &service), wanted(&endpoints), &present)
        }
        _ => present.into_iter().map(Action::Delete).collect(),
    };
    slice_packing::carry_out(&context, &key.namespace, actions).await?;
    Ok(None)
}

fn is_mirrored(endpoints: &Endpoints, service: &Service) -> bool {
    let skipped =
        endpoints.metadata.labels.as_ref().is_some_and(|labels| labels.get(SKIP).is_some_and(|it| it == "true"));
    let lock = endpoints.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(LEADER));
    let selects = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).is_some_and(|it| !it.is_empty());
    !skipped && !lock && !selects
}

fn frame(endpoints: &Endpoints, service: &Service) -> Frame {
    let name = endpoints.metadata.name.clone().unwrap_or_default();
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name.clone());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if service.spec.as_ref().is_some_and(headless) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    } else {
        labels.remove(HEADLESS_LABEL);
    }
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.remove(LAST_APPLIED);
    let trigger = annotations.remove(TRIGGER_TIME);
    Frame {
        namespace: endpoints.metadata.namespace.clone(),
        name,
        owner: controller_reference(endpoints),
        labels,
        annotations,
        trigger,
    }
}

/// All endpoints there should be, by group: an address of one subset in each, since every subset has ports of its own.
fn wanted(endpoints: &Endpoints) -> BTreeMap<Group, Vec<Endpoint>> {
    let mut groups: BTreeMap<Group, HashMap<String, Endpoint>> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let mut ports: Vec<Port> = subset.ports.iter().flatten().map(port).collect();
        ports.sort();
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let waiting = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for (address, ready) in ready.chain(waiting).take(MOST_OF_A_SUBSET) {
            // Validation lets nothing else in; what an older server stored is left out as upstream does.
            let Ok(ip) = address.ip.parse::<IpAddr>() else { continue };
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            let group = groups.entry((family.to_owned(), ports.clone())).or_default();
            group.entry(address.ip.clone()).or_insert_with(|| mirrored(address, ready));
        }
    }
    let sorted = |group: HashMap<String, Endpoint>| {
        let mut list: Vec<Endpoint> = group.into_values().collect();
        list.sort_by(|one, other| one.addresses.cmp(&other.addresses));
        list
    };
    groups.into_iter().map(|(group, endpoints)| (group, sorted(endpoints))).collect()
}

fn port(port: &EndpointPort) -> Port {
    Port {
        name: port.name.clone().unwrap_or_default(),
        port: port.port,
        protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
        app_protocol: port.app_protocol.clone(),
    }
}

fn mirrored(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|hostname| !hostname.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn endpoints(metadata: Value, subsets: Value) -> Endpoints {
        let mut object = json!({"metadata": {"name": "db", "namespace": "shop", "uid": "e"}, "subsets": subsets});
        for (key, value) in metadata.as_object().expect("fields") {
            object["metadata"][key] = value.clone();
        }
        serde_json::from_value(object).expect("endpoints")
    }

    fn service(spec: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "shop"}, "spec": spec}))
            .expect("a service")
    }

    #[test]
    fn subsets_become_groups() {
        let check = |subsets: Value, expected: &[&str]| {
            let groups = wanted(&endpoints(json!({}), subsets));
            let lines: Vec<String> = groups
                .iter()
                .map(|((family, ports), endpoints)| {
                    let ports: Vec<String> = ports.iter().map(|port| format!("{}={}", port.name, port.port)).collect();
                    let ready = |endpoint: &Endpoint| endpoint.conditions.as_ref().and_then(|all| all.ready);
                    let endpoints: Vec<String> = endpoints
                        .iter()
                        .map(|endpoint| {
                            format!(
                                "{}{}",
                                if ready(endpoint) == Some(true) { "+" } else { "-" },
                                endpoint.addresses[0]
                            )
                        })
                        .collect();
                    format!("{family} {} {}", ports.join(","), endpoints.join(","))
                })
                .collect();
            assert_eq!(lines, expected);
        };
        check(json!([]), &[]);
        check(
            json!([{"addresses": [{"ip": "10.1.2.3"}, {"ip": "fd00::3"}], "notReadyAddresses": [{"ip": "10.1.2.4"}], "ports": [{"port": 80}]}]),
            &["IPv4 =80 +10.1.2.3,-10.1.2.4", "IPv6 =80 +fd00::3"],
        );
        check(
            json!([
                {"addresses": [{"ip": "10.1.2.3"}], "ports": [{"name": "a", "port": 8090}]},
                {"addresses": [{"ip": "10.1.2.3"}], "ports": [{"name": "b", "port": 9090}]},
                {"notReadyAddresses": [{"ip": "10.1.2.3"}], "ports": [{"name": "b", "port": 9090}]},
            ]),
            &["IPv4 a=8090 +10.1.2.3", "IPv4 b=9090 +10.1.2.3"],
        );
    }

    #[test]
    fn some_are_not_mirrored() {
        let plain = service(json!({"ports": [{"port": 80}]}));
        let check = |metadata: Value, service: &Service, expected: bool| {
            assert_eq!(is_mirrored(&endpoints(metadata.clone(), json!([])), service), expected, "{metadata}");
        };
        check(json!({}), &plain, true);
        check(json!({}), &service(json!({"selector": {"app": "db"}})), false);
        check(json!({"labels": {SKIP: "true"}}), &plain, false);
        check(json!({"labels": {SKIP: "false"}}), &plain, true);
        check(json!({"annotations": {LEADER: "{}"}}), &plain, false);
    }

    #[test]
    fn a_mirror_follows_create_update_and_loss() {
        let service = service(json!({"ports": [{"port": 80}], "clusterIP": "None"}));
        let of = |ip: &str| {
            endpoints(
                json!({"labels": {"app": "db"}, "annotations": {LAST_APPLIED: "x", "note": "y"}}),
                json!([{"addresses": [{"ip": ip}], "ports": [{"port": 80}]}]),
            )
        };
        let first = of("10.1.2.3");
        let actions = slice_packing::plan(&frame(&first, &service), wanted(&first), &[]);
        let [Action::Create(slice)] = actions.as_slice() else { panic!("{actions:?}") };
        let labels = slice.metadata.labels.as_ref().expect("labels");
        let expected = [("app", "db"), (MANAGED_BY, MANAGER), (SERVICE_NAME, "db"), (HEADLESS_LABEL, "")];
        assert_eq!(labels.len(), expected.len());
        for (key, value) in expected {
            assert_eq!(labels.get(key).map(String::as_str), Some(value), "{key}");
        }
        assert_eq!(slice.metadata.annotations, Some(BTreeMap::from([("note".to_owned(), "y".to_owned())])));
        assert_eq!(slice.metadata.owner_references.as_ref().expect("an owner")[0].kind, "Endpoints");
        let present = [Arc::new((**slice).clone())];
        assert_eq!(slice_packing::plan(&frame(&first, &service), wanted(&first), &present), []);
        let second = of("10.2.3.4");
        let actions = slice_packing::plan(&frame(&second, &service), wanted(&second), &present);
        assert!(matches!(actions.as_slice(), [Action::Update(_)]), "{actions:?}");
        let none = endpoints(json!({}), json!([]));
        let actions = slice_packing::plan(&frame(&none, &service), wanted(&none), &present);
        assert!(matches!(actions.as_slice(), [Action::Delete(_)]), "{actions:?}");
    }
}
