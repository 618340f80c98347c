//! EndpointSlices of Services with a selector.
//!
//! Upstream: <https://github.com/kubernetes/kubernetes/tree/master/staging/src/k8s.io/endpointslice>.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointHints, EndpointSlice, ForNode, ForZone};
use kobune_scheduler::recorder::{Recorder, Severity};
use parking_lot::Mutex;

use crate::context::{Context, enqueue_owners};
use crate::object::{Cached, ObjectKey};
use crate::ownership::controller_reference;
use crate::pod::Pod;
use crate::queue::{PassError, Queue, Revisit};
use crate::service_endpoints::{
    self, HEADLESS_LABEL, TriggerTimes, headless, hostname, ports, selects, selects_pods, zone,
};
use crate::slice_packing::{self, Frame, Group, MANAGED_BY, SERVICE_NAME};
use crate::topology_hints::{self, Shares, Without};

/// Us.
const MANAGER: &str = "endpointslice-controller.k8s.io";

/// For each family of addresses of a Service that asks for hints, why it has none.
type Outcome = BTreeMap<String, Option<Without>>;
/// What was said last about the hints of Services.
type Said = Mutex<HashMap<ObjectKey, Outcome>>;

/// Starts the controller.
pub fn start(context: &Arc<Context>) {
    let queue = Arc::<Queue>::default();
    service_endpoints::enqueue(context, &queue);
    let caches = &context.caches;
    enqueue_owners(&caches.endpoint_slices, "Service", &queue);
    // Where the processors are says how much traffic each zone sends.
    let (services, wake) = (caches.services.clone(), queue.clone());
    caches.nodes.on_change(move |before, after| {
        let weight = |node: Option<&Arc<Node>>| node.and_then(|node| topology_hints::weight(node));
        if weight(before) != weight(after) {
            let asking = services.all().into_iter().filter(|service| topology_hints::asked(service));
            asking.for_each(|service| wake.add(service.key()));
        }
    });
    let (pods, services) = (caches.pods.clone(), caches.services.clone());
    let (slices, nodes) = (caches.endpoint_slices.clone(), caches.nodes.clone());
    let ready = async move {
        pods.synced().await;
        services.synced().await;
        slices.synced().await;
        nodes.synced().await;
    };
    let shared = context.clone();
    let triggers = Arc::<TriggerTimes>::default();
    let (said, recorder) = (Arc::<Said>::default(), context.recorder.for_component("endpoint-slice-controller"));
    context.run_controller("endpointslice", queue, ready, move |key| {
        pass(shared.clone(), triggers.clone(), said.clone(), recorder.clone(), key)
    });
}

async fn pass(
    context: Arc<Context>,
    triggers: Arc<TriggerTimes>,
    said: Arc<Said>,
    recorder: Recorder,
    key: ObjectKey,
) -> Result<Revisit, PassError> {
    let caches = &context.caches;
    // Slices of a Service that is gone go with it, by their owner reference.
    let Some(service) = caches.services.get(&key).filter(|service| !service.deleting()) else {
        triggers.forget(&key);
        said.lock().remove(&key);
        return Ok(None);
    };
    let Some(spec) = service.spec.as_ref().filter(|spec| selects_pods(spec)) else { return Ok(None) };
    let pods: Vec<Arc<Pod>> =
        caches.pods.in_namespace(&key.namespace).into_iter().filter(|pod| selects(spec, pod)).collect();
    let present = slice_packing::kept_by(caches.endpoint_slices.controlled_by(service.uid()), MANAGER);
    let nodes: HashMap<Box<str>, Arc<Node>> = pods
        .iter()
        .filter_map(|pod| {
            let name = pod.node.clone()?;
            let node = caches.nodes.get(&ObjectKey::new("", &name))?;
            Some((name, node))
        })
        .collect();
    let trigger = triggers.next(&key, &service, &pods);
    let all = || topology_hints::shares(caches.nodes.all().iter().map(|node| &**node));
    let shares = topology_hints::asked(&service).then(all);
    let (actions, outcome) = plan(&service, &pods, &nodes, shares.as_ref(), &present, trigger);
    slice_packing::carry_out(&context, &key.namespace, actions).await?;
    tell(&service, &said, outcome, &recorder);
    Ok(None)
}

/// Tells what has become of hints that were asked for, when that is another thing than before.
fn tell(service: &Service, said: &Said, outcome: Outcome, recorder: &Recorder) {
    let key = service.key();
    let before = match outcome.is_empty() {
        true => said.lock().remove(&key),
        false => said.lock().insert(key, outcome.clone()),
    }
    .unwrap_or_default();
    let about = kube::Resource::object_ref(service, &());
    for (family, without) in outcome.iter().filter(|(family, without)| before.get(*family) != Some(without)) {
        let (severity, reason, message) = match without {
            None => (Severity::Normal, "TopologyAwareHintsEnabled", "Topology Aware Hints has been enabled".to_owned()),
            Some(why) => (Severity::Warning, "TopologyAwareHintsDisabled", why.to_string()),
        };
        recorder.event(&about, severity, reason, format!("{message}, addressType: {family}"));
    }
}

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

/// Which zones or nodes an endpoint is meant for, by the Service's `trafficDistribution`; only for those that take
/// traffic. Upstream: `staging/src/k8s.io/endpointslice/trafficdist` (KEP-2433, KEP-3015).
fn hints(service: &Service, endpoint: &Endpoint) -> Option<EndpointHints> {
    if topology_hints::asked(service) {
        return None;
    }
    let distribution = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).filter(|ready| *ready)?;
    let for_zones = || endpoint.zone.clone().map(|name| vec![ForZone { name }]);
    match distribution {
        "PreferClose" | "PreferSameZone" => Some(EndpointHints { for_zones: Some(for_zones()?), for_nodes: None }),
        "PreferSameNode" => {
            let name = endpoint.node_name.clone()?;
            Some(EndpointHints { for_nodes: Some(vec![ForNode { name }]), for_zones: for_zones() })
        }
        _ => None,
    }
}

/// Gives all ready endpoints of each family the zones that they are to serve, where that can be done.
fn share_out(groups: &mut BTreeMap<Group, Vec<Endpoint>>, shares: &Result<Shares, Without>) -> Outcome {
    let mut families: BTreeMap<String, Vec<&mut Endpoint>> = BTreeMap::new();
    for ((family, _), endpoints) in groups {
        let ready = |endpoint: &&mut Endpoint| endpoint.conditions.as_ref().and_then(|all| all.ready) == Some(true);
        families.entry(family.clone()).or_default().extend(endpoints.iter_mut().filter(ready));
    }
    let give = |endpoints: &mut Vec<&mut Endpoint>| {
        let shares = shares.as_ref().map_err(Clone::clone)?;
        endpoints.sort_by(|one, other| one.addresses.cmp(&other.addresses));
        let own: Vec<_> = endpoints.iter().map(|endpoint| endpoint.zone.clone()).collect();
        for (endpoint, name) in endpoints.iter_mut().zip(topology_hints::assign(shares, &own)?) {
            endpoint.hints = Some(EndpointHints { for_zones: Some(vec![ForZone { name }]), for_nodes: None });
        }
        Ok(())
    };
    families.into_iter().map(|(family, mut endpoints)| (family, give(&mut endpoints).err())).collect()
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
            let mut endpoint = endpoint(service, pod, node, address);
            endpoint.hints = hints(service, &endpoint);
            groups.entry((family.clone(), ports(spec, pod))).or_default().push(endpoint);
        }
        // A family without endpoints keeps one empty slice, so that everybody sees that there are none.
        if !groups.keys().any(|(other, _)| other == family) {
            groups.insert((family.clone(), Vec::new()), Vec::new());
        }
    }
    groups
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

fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    nodes: &HashMap<Box<str>, Arc<Node>>,
    shares: Option<&Result<Shares, Without>>,
    present: &[Arc<EndpointSlice>],
    trigger: Option<String>,
) -> (Vec<slice_packing::Action>, Outcome) {
    let frame = Frame {
        namespace: service.metadata.namespace.clone(),
        name: service.metadata.name.clone().unwrap_or_default(),
        owner: controller_reference(service),
        labels: labels(service),
        annotations: BTreeMap::new(),
        trigger,
    };
    let mut groups = wanted(service, pods, nodes);
    let outcome = shares.map(|shares| share_out(&mut groups, shares)).unwrap_or_default();
    (slice_packing::plan(&frame, groups, present), outcome)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pod::tests::pod;
    use crate::slice_packing::{Action, TRIGGER_TIME};

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

    fn plan(
        service: &Service,
        pods: &[Arc<Pod>],
        nodes: &HashMap<Box<str>, Arc<Node>>,
        present: &[Arc<EndpointSlice>],
        trigger: Option<String>,
    ) -> Vec<Action> {
        super::plan(service, pods, nodes, None, present, trigger).0
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
        assert_eq!(apply(plan(&service, &[], &nodes, &present, None), &mut present), 1);
        assert_eq!(sizes(&present), [0], "an empty slice says that there is nothing");
        assert_eq!(plan(&service, &[], &nodes, &present, None), []);
        let mut pods: Vec<_> = (0..150).map(|number| web(number, true, false)).collect();
        apply(plan(&service, &pods, &nodes, &present, None), &mut present);
        assert_eq!(sizes(&present), [100, 50]);
        assert_eq!(plan(&service, &pods, &nodes, &present, None), []);
        pods[3] = web(3, false, false);
        assert_eq!(apply(plan(&service, &pods, &nodes, &present, None), &mut present), 1);
        pods.push(web(150, true, false));
        pods.remove(0);
        assert_eq!(
            apply(plan(&service, &pods, &nodes, &present, None), &mut present),
            1,
            "the slice that loses one gets the new one"
        );
        assert_eq!(sizes(&present), [100, 50]);
        apply(plan(&service, &[], &nodes, &present, None), &mut present);
        assert_eq!(sizes(&present), [0]);
        assert_eq!(plan(&service, &[], &nodes, &present, None), []);
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

    #[test]
    fn what_is_written_says_when_it_happened() {
        let (service, nodes) = (service(json!({})), HashMap::new());
        let mut present = Vec::new();
        let when = || Some("2026-01-01T00:00:01Z".to_owned());
        apply(plan(&service, &[web(1, true, false)], &nodes, &present, when()), &mut present);
        let trigger = |slice: &EndpointSlice| slice.metadata.annotations.as_ref()?.get(TRIGGER_TIME).cloned();
        assert_eq!(trigger(&present[0]), when());
        assert_eq!(plan(&service, &[web(1, true, false)], &nodes, &present, None), [], "no write for its sake");
        apply(plan(&service, &[], &nodes, &present, None), &mut present);
        assert_eq!(trigger(&present[0]), None);
    }

    #[test]
    fn traffic_distribution() {
        let node: Node = serde_json::from_value(
            json!({"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "east"}}}),
        )
        .expect("a node");
        let nodes = HashMap::from([(Box::from("n"), Arc::new(node))]);
        let check = |distribution: &str, ready: bool, expected: serde_json::Value| {
            let service = service(json!({"trafficDistribution": distribution}));
            let groups = wanted(&service, &[web(1, ready, false)], &nodes);
            let hints = groups.values().next().expect("one group")[0].hints.clone();
            assert_eq!(serde_json::to_value(hints).expect("JSON"), expected, "{distribution}");
        };
        check("PreferClose", true, json!({"forZones": [{"name": "east"}]}));
        check("PreferSameZone", true, json!({"forZones": [{"name": "east"}]}));
        check("PreferSameZone", false, json!(null));
        check("PreferSameNode", true, json!({"forNodes": [{"name": "n"}], "forZones": [{"name": "east"}]}));
    }

    #[test]
    fn hints_of_zones() {
        let mut service = service(json!({"trafficDistribution": "PreferSameNode"}));
        service.metadata.annotations =
            Some([("service.kubernetes.io/topology-mode".to_owned(), "Auto".to_owned())].into());
        let node: Node = serde_json::from_value(
            json!({"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "east"}}}),
        )
        .expect("a node");
        let nodes = HashMap::from([(Box::from("n"), Arc::new(node))]);
        let pods: Vec<_> = (0..5).map(|number| web(number, number != 4, false)).collect();
        let served = |shares: &Result<Shares, Without>| {
            let (actions, outcome) = super::plan(&service, &pods, &nodes, Some(shares), &[], None);
            let mut present = Vec::new();
            apply(actions, &mut present);
            let mut endpoints = present[0].endpoints.clone().expect("endpoints");
            endpoints.sort_by(|one, other| one.addresses.cmp(&other.addresses));
            let zone = |endpoint: &Endpoint| Some(endpoint.hints.as_ref()?.for_zones.as_ref()?[0].name.clone());
            (endpoints.iter().map(zone).collect::<Vec<_>>(), outcome["IPv4"].clone())
        };
        let even: Result<Shares, Without> = Ok([("east".to_owned(), 0.5), ("west".to_owned(), 0.5)].into());
        let zones = ["east", "east", "west", "west"].map(|zone| Some(zone.to_owned()));
        // All are in the east; the one that is not ready serves nobody. Where a Service runs says nothing beside its annotation.
        assert_eq!(served(&even), ([zones.as_slice(), &[None]].concat(), None));
        assert_eq!(served(&Err(Without::OneZone)), (vec![None; 5], Some(Without::OneZone)));
    }
}
