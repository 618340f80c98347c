//! EndpointSlices of Services with a selector: at most 100 endpoints each, and as few writes as possible.
//!
//! Upstream: <https://github.com/kubernetes/kubernetes/tree/master/staging/src/k8s.io/endpointslice>.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, PostParams};

use crate::context::{Context, enqueue_owners};
use crate::object::{Cached, ObjectKey};
use crate::ownership::controller_reference;
use crate::pod::Pod;
use crate::pod_control::namespace_is_terminating;
use crate::queue::{Doing, PassError, Queue, Revisit, is_not_found};
use crate::service_endpoints::{self, HEADLESS_LABEL, Port, headless, hostname, ports, selects, selects_pods, zone};

/// Names the Service of a slice.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Says who keeps a slice.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Us.
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Endpoints in one slice, as upstream.
const MOST: usize = 100;

/// Starts the controller.
pub fn start(context: &Arc<Context>) {
    let queue = Arc::<Queue>::default();
    service_endpoints::enqueue(context, &queue);
    let caches = &context.caches;
    enqueue_owners(&caches.endpoint_slices, "Service", &queue);
    let (pods, services) = (caches.pods.clone(), caches.services.clone());
    let (slices, nodes) = (caches.endpoint_slices.clone(), caches.nodes.clone());
    let ready = async move {
        pods.synced().await;
        services.synced().await;
        slices.synced().await;
        nodes.synced().await;
    };
    let shared = context.clone();
    context.run_controller("endpointslice", queue, ready, move |key| pass(shared.clone(), key));
}

async fn pass(context: Arc<Context>, key: ObjectKey) -> Result<Revisit, PassError> {
    let caches = &context.caches;
    // Slices of a Service that is gone go with it, by their owner reference.
    let Some(service) = caches.services.get(&key).filter(|service| !service.deleting()) else { return Ok(None) };
    let Some(spec) = service.spec.as_ref().filter(|spec| selects_pods(spec)) else { return Ok(None) };
    let pods: Vec<Arc<Pod>> =
        caches.pods.in_namespace(&key.namespace).into_iter().filter(|pod| selects(spec, pod)).collect();
    let present: Vec<Arc<EndpointSlice>> = caches
        .endpoint_slices
        .controlled_by(service.uid())
        .into_iter()
        .filter(|slice| {
            slice.metadata.labels.as_ref().is_some_and(|labels| labels.get(MANAGED_BY).is_some_and(|by| by == MANAGER))
        })
        .collect();
    let nodes: HashMap<Box<str>, Arc<Node>> = pods
        .iter()
        .filter_map(|pod| {
            let name = pod.node.clone()?;
            let node = caches.nodes.get(&ObjectKey::new("", &name))?;
            Some((name, node))
        })
        .collect();
    let api = Api::<EndpointSlice>::namespaced(context.client.clone(), &key.namespace);
    for action in plan(&service, &pods, &nodes, &present) {
        match action {
            Action::Create(slice) => match api.create(&PostParams::default(), &slice).await {
                Ok(created) => caches.endpoint_slices.wrote(slim(created)),
                Err(error) if namespace_is_terminating(&error) => return Ok(None),
                Err(error) => return Err(error).doing("creating an endpoint slice"),
            },
            Action::Update(slice) => {
                let name = slice.metadata.name.clone().unwrap_or_default();
                let written =
                    api.replace(&name, &PostParams::default(), &slice).await.doing("updating an endpoint slice")?;
                caches.endpoint_slices.wrote(slim(written));
            }
            Action::Delete(slice) => match api.delete(&slice.key().name, &DeleteParams::default()).await {
                Ok(_) => caches.endpoint_slices.removed(&slice.key(), slice.uid()),
                Err(error) if is_not_found(&error) => caches.endpoint_slices.removed(&slice.key(), slice.uid()),
                Err(error) => return Err(error).doing("deleting an endpoint slice"),
            },
        }
    }
    Ok(None)
}

fn slim(mut slice: EndpointSlice) -> EndpointSlice {
    slice.metadata.managed_fields = None;
    slice
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
enum Action {
    Create(Box<EndpointSlice>),
    Update(Box<EndpointSlice>),
    Delete(Arc<EndpointSlice>),
}

/// Address type and ports: endpoints that share a slice share these.
type Group = (String, Vec<Port>);

fn is_family(address: &str, family: &str) -> bool {
    address.contains(':') == (family == "IPv6")
}

fn endpoint(service: &Service, pod: &Pod, node: Option<&Node>, address: &str) -> Endpoint {
    let publish = service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false);
    let (ready, terminating) = (pod.ready.is_some(), pod.deletion.is_some());
    Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(publish || (ready && !terminating)),
            serving: Some(publish || ready),
            terminating: Some(terminating),
        }),
        hostname: hostname(service, pod),
        node_name: pod.node.as_deref().map(str::to_owned),
        target_ref: Some(pod.reference()),
        zone: zone(node),
        ..Endpoint::default()
    }
}

/// All endpoints there should be, by group.
fn wanted(
    service: &Service,
    pods: &[Arc<Pod>],
    nodes: &HashMap<Box<str>, Arc<Node>>,
) -> BTreeMap<Group, Vec<Endpoint>> {
    let mut groups: BTreeMap<Group, Vec<Endpoint>> = BTreeMap::new();
    let Some(spec) = service.spec.as_ref() else { return groups };
    let families =
        spec.ip_families.clone().filter(|families| !families.is_empty()).unwrap_or_else(|| vec!["IPv4".to_owned()]);
    for family in &families {
        for pod in pods.iter().filter(|pod| !pod.ended()) {
            let Some(address) = pod.ips.iter().find(|address| is_family(address, family)) else { continue };
            let node = pod.node.as_ref().and_then(|name| nodes.get(name)).map(|node| &**node);
            groups.entry((family.clone(), ports(spec, pod))).or_default().push(endpoint(service, pod, node, address));
        }
        // A family without endpoints keeps one empty slice, so that everybody sees that there are none.
        if !groups.keys().any(|(other, _)| other == family) {
            groups.insert((family.clone(), Vec::new()), Vec::new());
        }
    }
    groups
}

fn group_of(slice: &EndpointSlice) -> Group {
    let mut ports: Vec<Port> = slice
        .ports
        .iter()
        .flatten()
        .map(|port| Port {
            name: port.name.clone().unwrap_or_default(),
            port: port.port.unwrap_or(0),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            app_protocol: port.app_protocol.clone(),
        })
        .collect();
    ports.sort();
    (slice.address_type.clone(), ports)
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    for reserved in [SERVICE_NAME, MANAGED_BY, HEADLESS_LABEL] {
        labels.remove(reserved);
    }
    labels.insert(SERVICE_NAME.to_owned(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if service.spec.as_ref().is_some_and(headless) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels
}

/// What tells one endpoint from another.
fn identity(endpoint: &Endpoint) -> (Option<String>, Option<String>) {
    (endpoint.target_ref.as_ref().and_then(|target| target.uid.clone()), endpoint.addresses.first().cloned())
}

/// Compares slices with pods: what fits stays where it is, the rest goes where there is room.
fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    nodes: &HashMap<Box<str>, Arc<Node>>,
    present: &[Arc<EndpointSlice>],
) -> Vec<Action> {
    let mut wanted = wanted(service, pods, nodes);
    let labels = labels(service);
    let mut actions = Vec::new();
    let mut kept: Vec<(Arc<EndpointSlice>, EndpointSlice, Group)> = Vec::new();
    for slice in present.iter().filter(|slice| !slice.deleting()) {
        let group = group_of(slice);
        let Some(endpoints) = wanted.get_mut(&group) else {
            actions.push(Action::Delete(slice.clone()));
            continue;
        };
        let mut changed = (**slice).clone();
        let mut by_identity: HashMap<_, _> =
            endpoints.iter().map(|endpoint| (identity(endpoint), endpoint.clone())).collect();
        let mine: Vec<Endpoint> =
            slice.endpoints.iter().flatten().filter_map(|old| by_identity.remove(&identity(old))).collect();
        let taken: HashSet<_> = mine.iter().map(identity).collect();
        endpoints.retain(|endpoint| !taken.contains(&identity(endpoint)));
        if slice.endpoints.as_deref().unwrap_or_default() != mine {
            changed.endpoints = Some(mine);
        }
        if changed.metadata.labels.as_ref() != Some(&labels) {
            changed.metadata.labels = Some(labels.clone());
        }
        kept.push((slice.clone(), changed, group));
    }
    // Slices that are written anyway are filled first, then the fullest, so that few are written.
    for (group, endpoints) in &mut wanted {
        let mut candidates: Vec<&mut (Arc<EndpointSlice>, EndpointSlice, Group)> =
            kept.iter_mut().filter(|(_, _, other)| other == group).collect();
        candidates.sort_by_key(|(old, new, _)| {
            (**old == *new, std::cmp::Reverse(new.endpoints.as_ref().map_or(0, Vec::len)))
        });
        for (_, slice, _) in candidates {
            let list = slice.endpoints.get_or_insert_default();
            let room = MOST.saturating_sub(list.len()).min(endpoints.len());
            list.extend(endpoints.drain(..room));
        }
        let any = kept.iter().any(|(_, _, other)| other == group);
        while !endpoints.is_empty() || (!any && endpoints.is_empty() && group.1.is_empty()) {
            let rest = endpoints.drain(..endpoints.len().min(MOST)).collect::<Vec<_>>();
            let empty = rest.is_empty();
            actions.push(Action::Create(Box::new(new_slice(service, group, rest, &labels))));
            if empty {
                break;
            }
            if endpoints.is_empty() {
                break;
            }
        }
    }
    // An emptied slice goes, unless it is the last one to say that there is nothing.
    let counts = kept.iter().fold(HashMap::<Group, usize>::new(), |mut counts, (_, slice, group)| {
        *counts.entry(group.clone()).or_default() +=
            usize::from(slice.endpoints.as_ref().is_some_and(|list| !list.is_empty()));
        counts
    });
    let mut placeholders: HashSet<Group> = HashSet::new();
    for (old, new, group) in kept {
        let empty = new.endpoints.as_ref().is_none_or(Vec::is_empty);
        let placeholder = empty && counts.get(&group).copied().unwrap_or(0) == 0 && placeholders.insert(group);
        if empty && !placeholder {
            actions.push(Action::Delete(old));
        } else if *old != new {
            actions.push(Action::Update(Box::new(new)));
        }
    }
    actions.sort_by_key(|action| match action {
        Action::Create(_) => 0,
        Action::Update(_) => 1,
        Action::Delete(_) => 2,
    });
    actions
}

fn new_slice(
    service: &Service,
    group: &Group,
    endpoints: Vec<Endpoint>,
    labels: &BTreeMap<String, String>,
) -> EndpointSlice {
    let (family, ports) = group;
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", service.metadata.name.as_deref().unwrap_or_default())),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels.clone()),
            owner_references: Some(vec![controller_reference(service)]),
            ..ObjectMeta::default()
        },
        address_type: family.clone(),
        endpoints: Some(endpoints),
        ports: Some(
            ports
                .iter()
                .map(|port| EndpointPort {
                    name: Some(port.name.clone()),
                    port: Some(port.port),
                    protocol: Some(port.protocol.clone()),
                    app_protocol: port.app_protocol.clone(),
                })
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pod::tests::pod;

    fn service(extra: serde_json::Value) -> Service {
        let mut spec =
            json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}], "ipFamilies": ["IPv4"]});
        for (key, value) in extra.as_object().expect("fields") {
            spec[key] = value.clone();
        }
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "default", "uid": "s"}, "spec": spec}))
            .expect("a service")
    }

    fn web(number: usize, ready: bool, deleting: bool) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        Arc::new(pod(
            &format!("web-{number:03}"),
            json!({"metadata": {"labels": {"app": "web"}, "deletionTimestamp": deleting.then_some("2026-01-01T00:00:00Z")},
                "spec": {"nodeName": "n", "hostname": "h", "subdomain": "web", "containers": [{"ports": [{"name": "http", "containerPort": 8080}]}]},
                "status": {"phase": "Running", "podIP": format!("10.0.{}.{}", number / 200, number % 200),
                    "conditions": [{"type": "Ready", "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}),
        ))
    }

    /// Carries actions out on a list of slices.
    fn apply(actions: Vec<Action>, present: &mut Vec<Arc<EndpointSlice>>) -> usize {
        let count = actions.len();
        for action in actions {
            match action {
                Action::Create(mut slice) => {
                    // A name that no slice has had: deletions shorten the list.
                    let highest = present
                        .iter()
                        .filter_map(|slice| slice.metadata.name.as_deref()?.strip_prefix("web-")?.parse().ok())
                        .max();
                    slice.metadata.name = Some(format!("web-{}", highest.map_or(0, |highest: usize| highest + 1)));
                    slice.metadata.uid = slice.metadata.name.clone();
                    present.push(Arc::new(*slice));
                }
                Action::Update(slice) => {
                    let place = present.iter_mut().find(|old| old.metadata.name == slice.metadata.name).expect("known");
                    *place = Arc::new(*slice);
                }
                Action::Delete(slice) => present.retain(|old| old.metadata.name != slice.metadata.name),
            }
        }
        count
    }

    fn sizes(present: &[Arc<EndpointSlice>]) -> Vec<usize> {
        present.iter().map(|slice| slice.endpoints.as_ref().map_or(0, Vec::len)).collect()
    }

    #[test]
    fn slices_follow_pods_with_few_writes() {
        let (service, nodes) = (service(json!({})), HashMap::new());
        let mut present = Vec::new();
        assert_eq!(apply(plan(&service, &[], &nodes, &present), &mut present), 1);
        assert_eq!(sizes(&present), [0], "an empty slice says that there is nothing");
        assert_eq!(plan(&service, &[], &nodes, &present), []);
        let mut pods: Vec<_> = (0..150).map(|number| web(number, true, false)).collect();
        apply(plan(&service, &pods, &nodes, &present), &mut present);
        assert_eq!(sizes(&present), [100, 50]);
        assert_eq!(plan(&service, &pods, &nodes, &present), []);
        pods[3] = web(3, false, false);
        assert_eq!(apply(plan(&service, &pods, &nodes, &present), &mut present), 1);
        pods.push(web(150, true, false));
        pods.remove(0);
        assert_eq!(
            apply(plan(&service, &pods, &nodes, &present), &mut present),
            1,
            "the slice that loses one gets the new one"
        );
        assert_eq!(sizes(&present), [100, 50]);
        apply(plan(&service, &[], &nodes, &present), &mut present);
        assert_eq!(sizes(&present), [0]);
        assert_eq!(plan(&service, &[], &nodes, &present), []);
    }

    #[test]
    fn conditions() {
        let check = |extra: serde_json::Value, ready: bool, deleting: bool, expected: [bool; 3]| {
            let pods = [web(1, ready, deleting)];
            let groups = wanted(&service(extra), &pods, &HashMap::new());
            let (group, endpoints) = groups.first_key_value().expect("one group");
            assert_eq!(group.1[0].port, 8080);
            let conditions = endpoints[0].conditions.clone().expect("conditions");
            let found =
                [conditions.ready, conditions.serving, conditions.terminating].map(|found| found.expect("given"));
            assert_eq!(found, expected);
            assert_eq!(endpoints[0].hostname.as_deref(), Some("h"));
        };
        check(json!({}), true, false, [true, true, false]);
        check(json!({}), false, false, [false, false, false]);
        check(json!({}), true, true, [false, true, true]);
        check(json!({"publishNotReadyAddresses": true}), false, true, [true, true, true]);
    }
}
