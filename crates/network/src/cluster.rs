//! Services, EndpointSlices and NetworkPolicies in memory: one compact copy that rules and DNS share.
//!
//! A watch of each kind feeds it. Objects are cut down to what the readers need as soon as they arrive, so that labels,
//! annotations and managed fields take no memory. Pods, namespaces and nodes are followed only while there are policies;
//! policies of administrators only where their definitions are (`definitions`).

mod definitions;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use futures::StreamExt;
use ipnet::IpNet;
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery, networking::v1 as networking};
use kube::{
    Api,
    runtime::{WatchStreamExt, watcher},
};
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    network::Protocol,
    policy::{
        admin::{AdminPolicy, NodeFacts},
        objects::{self, PodFacts, PodInput, Policy},
        selector::Labels,
    },
    services::serve::Objects,
};

/// A namespace and a name in it.
pub type Key = (Arc<str>, Arc<str>);

/// What of a Service matters to the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// `spec.clusterIPs`; empty for headless and external services.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.clusterIP: None`.
    pub headless: bool,
    /// `spec.externalName` of a service of type ExternalName.
    pub external_name: Option<Box<str>>,
    /// `spec.externalIPs` and the addresses a load balancer gave.
    pub external_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`.
    pub source_ranges: Vec<IpNet>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// The seconds a client stays with its endpoint, when `sessionAffinity` is ClientIP.
    pub affinity_seconds: Option<u32>,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `spec.publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// `spec.healthCheckNodePort`.
    pub health_check_port: Option<u16>,
    /// Labels leave it to another proxy, or to none: it has a name, but no rules.
    pub served_elsewhere: bool,
}

/// Labels of Services that kube-proxy leaves alone, whatever their value. Upstream: `cmd/kube-proxy/app/server.go`.
const SERVED_ELSEWHERE: [&str; 2] = ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];

/// One of a Service's ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty when it is the only one and has none.
    pub name: Box<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port on the service's addresses.
    pub port: u16,
    /// The port on the nodes' addresses.
    pub node_port: Option<u16>,
}

/// What of an EndpointSlice matters to the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// The Service it belongs to, in its own namespace.
    pub service: Arc<str>,
    /// Name, protocol and number of the ports of every endpoint.
    pub ports: Vec<(Box<str>, Protocol, u16)>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// One address behind a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// Takes new connections.
    pub ready: bool,
    /// Answers, though perhaps while it ends.
    pub serving: bool,
    /// Is ending.
    pub terminating: bool,
    /// The pod's `hostname`, when it has a name of its own in DNS.
    pub hostname: Option<Box<str>>,
    /// The node it is on.
    pub node: Option<Arc<str>>,
    /// Whom it is meant for, where the Service's `trafficDistribution` says so.
    pub hints: Hints,
}

/// The clients that an endpoint is meant for, by where they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Those in these zones.
    pub zones: Box<[Box<str>]>,
    /// Those on these nodes.
    pub nodes: Box<[Box<str>]>,
}

impl Service {
    fn of(object: core::Service) -> Service {
        let status = object.status;
        let Some(spec) = object.spec else { return Service::default() };
        let labels = object.metadata.labels.unwrap_or_default();
        let is_ip = |text: &String| text.parse::<IpAddr>().ok();
        let mut cluster_ips: Vec<IpAddr> = spec.cluster_ips.iter().flatten().filter_map(is_ip).collect();
        if cluster_ips.is_empty() {
            cluster_ips.extend(spec.cluster_ip.iter().filter_map(is_ip));
        }
        let external = spec.type_.as_deref() == Some("ExternalName");
        let ingress = status.and_then(|status| status.load_balancer).and_then(|balancer| balancer.ingress);
        // An ingress of mode Proxy means that the balancer wants the traffic to pass through it.
        let balanced = ingress
            .iter()
            .flatten()
            .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
            .filter_map(|ingress| ingress.ip.as_ref().and_then(is_ip));
        let affinity = spec.session_affinity.as_deref() == Some("ClientIP");
        let seconds = spec
            .session_affinity_config
            .as_ref()
            .and_then(|config| config.client_ip.as_ref())
            .and_then(|client_ip| client_ip.timeout_seconds)
            .and_then(|seconds| u32::try_from(seconds).ok())
            .unwrap_or(10_800);
        Service {
            headless: spec.cluster_ip.as_deref() == Some("None"),
            external_name: if external { spec.external_name.map(String::into_boxed_str) } else { None },
            external_ips: spec.external_ips.iter().flatten().filter_map(is_ip).chain(balanced).collect(),
            source_ranges: spec
                .load_balancer_source_ranges
                .iter()
                .flatten()
                .filter_map(|text| text.trim().parse().ok())
                .collect(),
            ports: spec
                .ports
                .iter()
                .flatten()
                .filter_map(|port| {
                    Some(ServicePort {
                        name: port.name.clone().unwrap_or_default().into_boxed_str(),
                        protocol: Protocol::parse(port.protocol.as_deref())?,
                        port: u16::try_from(port.port).ok()?,
                        node_port: port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0),
                    })
                })
                .collect(),
            affinity_seconds: affinity.then_some(seconds),
            external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            publish_not_ready: spec.publish_not_ready_addresses == Some(true),
            health_check_port: spec
                .health_check_node_port
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port != 0),
            served_elsewhere: SERVED_ELSEWHERE.iter().any(|label| labels.contains_key(*label)),
            cluster_ips: if external { Vec::new() } else { cluster_ips },
        }
    }
}

impl Slice {
    /// None for a slice that belongs to no Service, or whose addresses are names.
    fn of(object: discovery::EndpointSlice) -> Option<Slice> {
        let service = object.metadata.labels?.remove("kubernetes.io/service-name")?;
        if !matches!(object.address_type.as_str(), "IPv4" | "IPv6") {
            return None;
        }
        let ports = object
            .ports
            .iter()
            .flatten()
            .filter_map(|port| {
                let name = port.name.clone().unwrap_or_default().into_boxed_str();
                Some((name, Protocol::parse(port.protocol.as_deref())?, u16::try_from(port.port?).ok()?))
            })
            .collect();
        let endpoints = object
            .endpoints
            .into_iter()
            .flatten()
            .filter_map(|endpoint| {
                let conditions = endpoint.conditions.unwrap_or_default();
                // "A nil value should be interpreted as true" for ready, and serving follows ready.
                let ready = conditions.ready.unwrap_or(true);
                Some(Endpoint {
                    // Upstream also uses only the first: the list is one long in practice.
                    address: endpoint.addresses.first()?.parse().ok()?,
                    ready,
                    serving: conditions.serving.unwrap_or(ready),
                    terminating: conditions.terminating.unwrap_or(false),
                    hostname: endpoint.hostname.map(String::into_boxed_str),
                    node: endpoint.node_name.map(Arc::from),
                    hints: endpoint.hints.map(Hints::of).unwrap_or_default(),
                })
            })
            .collect();
        Some(Slice { service: Arc::from(service), ports, endpoints })
    }
}

impl Hints {
    fn of(hints: discovery::EndpointHints) -> Hints {
        let zones = hints.for_zones.into_iter().flatten().map(|zone| zone.name.into_boxed_str());
        let nodes = hints.for_nodes.into_iter().flatten().map(|node| node.name.into_boxed_str());
        Hints { zones: zones.collect(), nodes: nodes.collect() }
    }
}

/// The services, slices and policies at one moment.
#[derive(Debug, Default)]
pub struct Tables {
    /// The zone that this node is in.
    pub zone: Option<Box<str>>,
    /// Policies, in order so that what is made from them is the same each time.
    pub(crate) policies: BTreeMap<Key, Policy>,
    /// Policies of administrators, whose key has their kind in place of a namespace.
    pub(crate) admin: BTreeMap<Key, AdminPolicy>,
    /// Nodes, whose key has no namespace; only while there are policies.
    pub(crate) node_facts: BTreeMap<Key, NodeFacts>,
    /// Pods that have addresses of their own; only while there are policies.
    pub(crate) pods: BTreeMap<Key, PodFacts>,
    /// The ranges of ServiceCIDRs, whose key has no namespace: those that the cluster began with among them.
    pub service_ranges: BTreeMap<Key, Vec<IpNet>>,
    /// The labels of namespaces, whose key has no namespace; only while there are policies.
    pub(crate) namespace_labels: BTreeMap<Key, Labels>,
    services: HashMap<Key, Arc<Service>>,
    slices: HashMap<Key, Arc<Slice>>,
    /// Names of the slices of a service, in order so that what is made from them is the same each time.
    of_service: HashMap<Key, Vec<Arc<str>>>,
    /// Namespaces that have services, each text once, and how many.
    namespaces: HashMap<Arc<str>, usize>,
    /// Names of nodes that endpoints are on, each text once.
    nodes: HashSet<Arc<str>>,
    /// What the services that changed were before the rules last asked; none when they have not asked yet, or when it
    /// became too much.
    before: Option<HashMap<Key, Objects>>,
    /// Counts changes of policies, and of the pods and namespaces that they select.
    policy_changes: u64,
}

/// Changes that the rules have not asked for, before all is made anew instead.
const REMEMBERED: usize = 50_000;

impl Tables {
    /// A service.
    pub fn service(&self, key: &Key) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// All services.
    pub fn services(&self) -> impl Iterator<Item = (&Key, &Arc<Service>)> {
        self.services.iter()
    }

    /// The slices of a service.
    pub fn slices(&self, key: &Key) -> impl Iterator<Item = &Arc<Slice>> {
        let namespace = Arc::clone(&key.0);
        let names = self.of_service.get(key).into_iter().flatten();
        names.filter_map(move |name| self.slices.get(&(Arc::clone(&namespace), Arc::clone(name))))
    }

    /// All slices.
    pub fn all_slices(&self) -> impl Iterator<Item = (&Key, &Arc<Slice>)> {
        self.slices.iter()
    }

    /// A service and its slices.
    pub fn objects(&self, key: &Key) -> Objects {
        (self.services.get(key).cloned(), self.slices(key).cloned().collect())
    }

    /// Every service and its slices.
    pub fn all_objects(&self) -> Vec<(Key, Objects)> {
        self.services.keys().map(|key| (key.clone(), self.objects(key))).collect()
    }

    /// The services that changed since this was last called, what they were then and what they are. None when that is not
    /// known: all may have changed.
    pub fn take_changes(&mut self) -> Option<Vec<(Key, Objects, Objects)>> {
        let before = self.before.replace(HashMap::new())?;
        Some(before.into_iter().map(|(key, before)| (key.clone(), before, self.objects(&key))).collect())
    }

    /// Puts a policy in, or takes it out. True when that changed anything.
    pub fn set_policy(&mut self, key: Key, value: Option<Policy>) -> bool {
        let changed = set(&mut self.policies, key, value);
        self.policy_changes += u64::from(changed);
        changed
    }

    /// Puts a policy of an administrator in, or takes it out; the key has its kind in place of a namespace. True when that
    /// changed anything.
    pub fn set_admin(&mut self, key: Key, value: Option<AdminPolicy>) -> bool {
        let changed = set(&mut self.admin, key, value);
        self.policy_changes += u64::from(changed);
        changed
    }

    /// Puts a node in, or takes it out. True when that changed anything.
    pub fn set_node(&mut self, key: Key, value: Option<NodeFacts>) -> bool {
        let changed = set(&mut self.node_facts, key, value);
        self.policy_changes += u64::from(changed);
        changed
    }

    /// Whether there are policies of any kind.
    pub fn has_policies(&self) -> bool {
        !self.policies.is_empty() || !self.admin.is_empty()
    }

    /// Puts a pod in, or takes it out. True when that changed anything.
    pub fn set_pod(&mut self, key: Key, value: Option<PodFacts>) -> bool {
        let changed = set(&mut self.pods, key, value);
        self.policy_changes += u64::from(changed);
        changed
    }

    /// Puts the labels of a namespace in, or takes it out. True when that changed anything.
    pub fn set_namespace(&mut self, key: Key, value: Option<Labels>) -> bool {
        let changed = set(&mut self.namespace_labels, key, value);
        self.policy_changes += u64::from(changed);
        changed
    }

    /// Rises when policies change, or what they select.
    pub fn policy_changes(&self) -> u64 {
        self.policy_changes
    }

    /// A service is about to change.
    fn remember(&mut self, key: &Key) {
        let Some(before) = &self.before else { return };
        if before.contains_key(key) {
            return;
        }
        let objects = self.objects(key);
        if before.len() >= REMEMBERED {
            self.before = None;
        } else if let Some(before) = &mut self.before {
            before.insert(key.clone(), objects);
        }
    }

    /// The same name of a node, with its text shared.
    fn node(&mut self, name: &Arc<str>) -> Arc<str> {
        if let Some(known) = self.nodes.get(name) {
            return Arc::clone(known);
        }
        // Nodes come and go; names that nobody has any more go when their number doubles.
        if self.nodes.len() >= 64 && self.nodes.len().is_power_of_two() {
            self.nodes.retain(|name| Arc::strong_count(name) > 1);
        }
        self.nodes.insert(Arc::clone(name));
        Arc::clone(name)
    }

    /// The same key, with the namespace's text shared.
    fn shared(&self, key: Key) -> Key {
        match self.namespaces.get_key_value(&key.0) {
            Some((namespace, _)) => (Arc::clone(namespace), key.1),
            None => key,
        }
    }

    /// Whether a service is in this namespace.
    pub fn has_services_in(&self, namespace: &str) -> bool {
        self.namespaces.contains_key(namespace)
    }

    /// Puts a service in, or takes it out. True when that changed anything.
    pub fn set_service(&mut self, key: Key, service: Option<Service>) -> bool {
        if self.services.get(&key).map(|old| &**old) == service.as_ref() {
            return false;
        }
        self.remember(&key);
        let key = self.shared(key);
        match service {
            Some(mut service) => {
                service.cluster_ips.shrink_to_fit();
                service.external_ips.shrink_to_fit();
                service.ports.shrink_to_fit();
                let namespace = Arc::clone(&key.0);
                if self.services.insert(key, Arc::new(service)).is_none() {
                    *self.namespaces.entry(namespace).or_default() += 1;
                }
            }
            None => {
                self.services.remove(&key);
                if let Some(count) = self.namespaces.get_mut(&key.0) {
                    *count -= 1;
                    if *count == 0 {
                        self.namespaces.remove(&key.0);
                    }
                }
            }
        }
        true
    }

    /// Puts a slice in, or takes it out. True when that changed anything.
    pub fn set_slice(&mut self, key: Key, slice: Option<Slice>) -> bool {
        let key = self.shared(key);
        let old = self.slices.get(&key).cloned();
        if old.as_deref() == slice.as_ref() {
            return false;
        }
        if let Some(old) = old {
            let owner = (Arc::clone(&key.0), Arc::clone(&old.service));
            self.remember(&owner);
            if let Some(names) = self.of_service.get_mut(&owner) {
                names.retain(|name| *name != key.1);
                if names.is_empty() {
                    self.of_service.remove(&owner);
                }
            }
            self.slices.remove(&key);
        }
        if let Some(mut slice) = slice {
            let owner = (Arc::clone(&key.0), Arc::clone(&slice.service));
            self.remember(&owner);
            // Its text is there already, most of the time.
            let owner = self.services.get_key_value(&owner).map_or(owner, |(known, _)| known.clone());
            slice.service = Arc::clone(&owner.1);
            let names = self.of_service.entry(owner).or_default();
            names.insert(names.partition_point(|name| *name < key.1), Arc::clone(&key.1));
            names.shrink_to_fit();
            for node in slice.endpoints.iter_mut().filter_map(|endpoint| endpoint.node.as_mut()) {
                *node = self.node(node);
            }
            slice.endpoints.shrink_to_fit();
            slice.ports.shrink_to_fit();
            self.slices.insert(key, Arc::new(slice));
        }
        true
    }
}

/// Which lists have arrived at least once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Synced {
    services: bool,
    slices: bool,
    policies: bool,
    ranges: bool,
    pods: bool,
    namespaces: bool,
    nodes: bool,
    /// The definitions of administrators' policies, and those policies.
    admin: bool,
}

/// Services, EndpointSlices and NetworkPolicies in memory, kept current by watches.
pub struct Cluster {
    tables: RwLock<Tables>,
    /// Counts changes; readers wake when it rises.
    changed: watch::Sender<u64>,
    synced: watch::Sender<Synced>,
}

impl Cluster {
    /// A cluster of fixed content, complete from the start.
    pub fn fixed(tables: Tables) -> Arc<Cluster> {
        let synced = Synced {
            services: true,
            slices: true,
            policies: true,
            ranges: true,
            pods: true,
            namespaces: true,
            nodes: true,
            admin: true,
        };
        Arc::new(Cluster {
            tables: RwLock::new(tables),
            changed: watch::channel(0).0,
            synced: watch::channel(synced).0,
        })
    }

    /// Starts the watches; they end with `token`.
    pub fn watch(client: kube::Client, token: &CancellationToken) -> Arc<Cluster> {
        let cluster = Arc::new(Cluster {
            tables: RwLock::default(),
            changed: watch::channel(0).0,
            synced: watch::channel(Synced::default()).0,
        });
        cluster.start::<core::Service, _>(&client, Service::of_some, token);
        cluster.start::<discovery::EndpointSlice, _>(&client, Slice::of, token);
        cluster.start::<networking::ServiceCIDR, _>(&client, ranges_of, token);
        cluster.start::<networking::NetworkPolicy, _>(&client, |policy| Some(Policy::of(policy)), token);
        let (own, of_admin, ends) = (Arc::clone(&cluster), client.clone(), token.clone());
        tokio::spawn(async move { ends.clone().run_until_cancelled(definitions::follow(own, of_admin, ends)).await });
        let (own, token) = (Arc::clone(&cluster), token.clone());
        tokio::spawn(async move { token.clone().run_until_cancelled(own.follow_peers(client, token)).await });
        cluster
    }

    fn start<K, V>(self: &Arc<Self>, client: &kube::Client, reduce: fn(K) -> Option<V>, token: &CancellationToken)
    where
        K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
        V: Put + Send + 'static,
    {
        let (own, client, token) = (Arc::clone(self), client.clone(), token.clone());
        tokio::spawn(async move {
            token.run_until_cancelled(follow::<K, V>(client, &own, reduce)).await;
        });
    }

    /// Follows pods, namespaces and nodes as long as there are policies: every pod of the cluster is a peer for somebody.
    async fn follow_peers(self: Arc<Self>, client: kube::Client, token: CancellationToken) {
        let mut changes = self.changes();
        loop {
            self.until(&mut changes, Tables::has_policies).await;
            let watches = token.child_token();
            self.start::<PodInput, _>(&client, objects::facts, &watches);
            self.start::<core::Namespace, _>(&client, objects::namespace_labels, &watches);
            self.start::<core::Node, _>(&client, objects::node_facts, &watches);
            self.until(&mut changes, |tables| !tables.has_policies()).await;
            watches.cancel();
            self.synced.send_modify(|synced| (synced.pods, synced.namespaces, synced.nodes) = (false, false, false));
            self.update(|tables| {
                tables.pods.clear();
                tables.namespace_labels.clear();
                tables.node_facts.clear();
                tables.policy_changes += 1;
                true
            });
        }
    }

    async fn until(&self, changes: &mut watch::Receiver<u64>, reached: fn(&Tables) -> bool) {
        loop {
            changes.mark_unchanged();
            if self.read(reached) {
                return;
            }
            changes.changed().await.expect("the sender is part of self");
        }
    }

    /// Reads the tables. The lock is held as long as `read` runs.
    pub fn read<T>(&self, read: impl FnOnce(&Tables) -> T) -> T {
        read(&self.tables.read())
    }

    /// Reads the tables and takes note that their changes are known.
    pub(crate) fn take<T>(&self, take: impl FnOnce(&mut Tables) -> T) -> T {
        take(&mut self.tables.write())
    }

    /// Changes the tables and wakes whoever follows them, unless `change` says that nothing changed.
    pub fn update(&self, change: impl FnOnce(&mut Tables) -> bool) {
        if change(&mut self.tables.write()) {
            self.changed.send_modify(|count| *count += 1);
        }
    }

    /// Wakes when something changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Whether all that names stand for is known.
    pub fn is_synced(&self) -> bool {
        let synced = *self.synced.borrow();
        synced.services && synced.slices
    }

    /// Waits until all that rules are made from is known: pods, namespaces and nodes only where there are policies.
    pub async fn wait_synced(&self) {
        let mut synced = self.synced.subscribe();
        let complete = |state: &Synced| {
            let peers = state.pods && state.namespaces && state.nodes;
            state.services
                && state.slices
                && state.policies
                && state.ranges
                && state.admin
                && (peers || !self.read(Tables::has_policies))
        };
        let waited = synced.wait_for(complete).await;
        waited.expect("the sender is part of self");
    }
}

fn is_forbidden(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 403)
}

/// Lets every kind go through `follow`.
trait Put: Sized {
    /// Whether the node does its work also where it may not read the kind.
    const OPTIONAL: bool = false;
    fn put(tables: &mut Tables, key: Key, value: Option<Self>) -> bool;
    fn keys(tables: &Tables) -> Vec<Key>;
    fn synced(synced: &mut Synced) -> &mut bool;
}

impl Put for Service {
    fn put(tables: &mut Tables, key: Key, value: Option<Self>) -> bool {
        tables.set_service(key, value)
    }
    fn keys(tables: &Tables) -> Vec<Key> {
        tables.services.keys().cloned().collect()
    }
    fn synced(synced: &mut Synced) -> &mut bool {
        &mut synced.services
    }
}

impl Put for Slice {
    fn put(tables: &mut Tables, key: Key, value: Option<Self>) -> bool {
        tables.set_slice(key, value)
    }
    fn keys(tables: &Tables) -> Vec<Key> {
        tables.slices.keys().cloned().collect()
    }
    fn synced(synced: &mut Synced) -> &mut bool {
        &mut synced.slices
    }
}

impl Put for Policy {
    const OPTIONAL: bool = true;
    fn put(tables: &mut Tables, key: Key, value: Option<Self>) -> bool {
        tables.set_policy(key, value)
    }
    fn keys(tables: &Tables) -> Vec<Key> {
        tables.policies.keys().cloned().collect()
    }
    fn synced(synced: &mut Synced) -> &mut bool {
        &mut synced.policies
    }
}

impl Put for Vec<IpNet> {
    const OPTIONAL: bool = true;
    fn put(tables: &mut Tables, key: Key, value: Option<Self>) -> bool {
        set(&mut tables.service_ranges, key, value)
    }
    fn keys(tables: &Tables) -> Vec<Key> {
        tables.service_ranges.keys().cloned().collect()
    }
    fn synced(synced: &mut Synced) -> &mut bool {
        &mut synced.ranges
    }
}

impl Put for PodFacts {
    fn put(tables: &mut Tables, key: Key, value: Option<Self>) -> bool {
        tables.set_pod(key, value)
    }
    fn keys(tables: &Tables) -> Vec<Key> {
        tables.pods.keys().cloned().collect()
    }
    fn synced(synced: &mut Synced) -> &mut bool {
        &mut synced.pods
    }
}

impl Put for NodeFacts {
    const OPTIONAL: bool = true;
    fn put(tables: &mut Tables, key: Key, value: Option<Self>) -> bool {
        tables.set_node(key, value)
    }
    fn keys(tables: &Tables) -> Vec<Key> {
        tables.node_facts.keys().cloned().collect()
    }
    fn synced(synced: &mut Synced) -> &mut bool {
        &mut synced.nodes
    }
}

impl Put for Labels {
    fn put(tables: &mut Tables, key: Key, value: Option<Self>) -> bool {
        tables.set_namespace(key, value)
    }
    fn keys(tables: &Tables) -> Vec<Key> {
        tables.namespace_labels.keys().cloned().collect()
    }
    fn synced(synced: &mut Synced) -> &mut bool {
        &mut synced.namespaces
    }
}

/// The ranges of a ServiceCIDR. One that is going away still has Services.
fn ranges_of(object: networking::ServiceCIDR) -> Option<Vec<IpNet>> {
    let ranges = object.spec?.cidrs.into_iter().flatten();
    Some(ranges.filter_map(|range| range.parse().ok()).collect())
}

/// Puts something in, or takes it out. True when that changed anything.
fn set<V: PartialEq>(map: &mut BTreeMap<Key, V>, key: Key, value: Option<V>) -> bool {
    if map.get(&key) == value.as_ref() {
        return false;
    }
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
    true
}

impl Service {
    fn of_some(object: core::Service) -> Option<Service> {
        Some(Service::of(object))
    }
}

fn key_of<K: kube::Resource>(object: &K) -> Key {
    let meta = object.meta();
    (Arc::from(meta.namespace.as_deref().unwrap_or_default()), Arc::from(meta.name.as_deref().unwrap_or_default()))
}

/// Keeps one kind current for ever. A list replaces all at once; until it is complete the former state holds.
async fn follow<K, V>(client: kube::Client, cluster: &Cluster, reduce: fn(K) -> Option<V>)
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
    V: Put,
{
    let events = watcher(Api::<K>::all(client), watcher::Config::default()).default_backoff();
    let mut refused = false;
    let mut events = events.boxed();
    let mut listed: Vec<(Key, V)> = Vec::new();
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                let kind = K::kind(&());
                if is_forbidden(&error) && V::OPTIONAL {
                    // A server that does not know this right yet, or not any more, must not cost the node its services.
                    if !std::mem::replace(&mut refused, true) {
                        tracing::error!(%kind, %error, "this kind may not be read here, so that nothing follows from it");
                    }
                    cluster.synced.send_if_modified(|synced| !std::mem::replace(V::synced(synced), true));
                } else {
                    tracing::warn!(%kind, %error, "watch failed, trying again");
                }
                continue;
            }
        };
        match event {
            watcher::Event::Init => listed.clear(),
            watcher::Event::InitApply(object) => {
                let key = key_of(&object);
                if let Some(value) = reduce(object) {
                    listed.push((key, value));
                }
            }
            watcher::Event::InitDone => {
                let listed = std::mem::take(&mut listed);
                cluster.update(|tables| {
                    let mut changed = false;
                    let kept: HashSet<Key> = listed.iter().map(|(key, _)| key.clone()).collect();
                    for key in V::keys(tables) {
                        if !kept.contains(&key) {
                            changed |= V::put(tables, key, None);
                        }
                    }
                    for (key, value) in listed {
                        changed |= V::put(tables, key, Some(value));
                    }
                    changed
                });
                cluster.synced.send_if_modified(|synced| !std::mem::replace(V::synced(synced), true));
            }
            watcher::Event::Apply(object) => {
                let key = key_of(&object);
                let value = reduce(object);
                cluster.update(|tables| V::put(tables, key, value));
            }
            watcher::Event::Delete(object) => {
                let key = key_of(&object);
                cluster.update(|tables| V::put(tables, key, None));
            }
        }
    }
}
