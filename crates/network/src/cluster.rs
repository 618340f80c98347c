//! Services and EndpointSlices in memory: one compact copy that service rules and DNS share.
//!
//! Two watches feed it. Objects are cut down to what the two readers need as soon as they arrive, so that labels,
//! annotations and managed fields take no memory.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use kube::{
    Api,
    runtime::{WatchStreamExt, watcher},
};
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::network::Protocol;

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
}

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
}

impl Service {
    fn of(object: core::Service) -> Service {
        let status = object.status;
        let Some(spec) = object.spec else { return Service::default() };
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
                })
            })
            .collect();
        Some(Slice { service: Arc::from(service), ports, endpoints })
    }
}

/// The services and slices at one moment.
#[derive(Debug, Default)]
pub struct Tables {
    services: HashMap<Key, Arc<Service>>,
    slices: HashMap<Key, Arc<Slice>>,
    /// Names of the slices of a service, in order so that what is made from them is the same each time.
    of_service: HashMap<Key, BTreeSet<Arc<str>>>,
    namespaces: HashMap<Arc<str>, usize>,
}

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

    /// Whether a service is in this namespace.
    pub fn has_services_in(&self, namespace: &str) -> bool {
        self.namespaces.contains_key(namespace)
    }

    /// Puts a service in, or takes it out. True when that changed anything.
    pub fn set_service(&mut self, key: Key, service: Option<Service>) -> bool {
        match service {
            Some(service) => {
                if self.services.get(&key).is_some_and(|old| **old == service) {
                    return false;
                }
                let namespace = Arc::clone(&key.0);
                if self.services.insert(key, Arc::new(service)).is_none() {
                    *self.namespaces.entry(namespace).or_default() += 1;
                }
                true
            }
            None => {
                let existed = self.services.remove(&key).is_some();
                if existed && let Some(count) = self.namespaces.get_mut(&key.0) {
                    *count -= 1;
                    if *count == 0 {
                        self.namespaces.remove(&key.0);
                    }
                }
                existed
            }
        }
    }

    /// Puts a slice in, or takes it out. True when that changed anything.
    pub fn set_slice(&mut self, key: Key, slice: Option<Slice>) -> bool {
        let old = self.slices.get(&key);
        if old.map(|old| &**old) == slice.as_ref() {
            return false;
        }
        if let Some(old) = old {
            let owner = (Arc::clone(&key.0), Arc::clone(&old.service));
            if let Some(names) = self.of_service.get_mut(&owner) {
                names.remove(&key.1);
                if names.is_empty() {
                    self.of_service.remove(&owner);
                }
            }
        }
        match slice {
            Some(slice) => {
                let owner = (Arc::clone(&key.0), Arc::clone(&slice.service));
                self.of_service.entry(owner).or_default().insert(Arc::clone(&key.1));
                self.slices.insert(key, Arc::new(slice));
            }
            None => {
                self.slices.remove(&key);
            }
        }
        true
    }
}

/// Services and EndpointSlices in memory, kept current by two watches.
pub struct Cluster {
    tables: RwLock<Tables>,
    /// Counts changes; readers wake when it rises.
    changed: watch::Sender<u64>,
    /// Which of the two lists have arrived at least once.
    synced: watch::Sender<(bool, bool)>,
}

impl Cluster {
    /// A cluster of fixed content, complete from the start.
    pub fn fixed(tables: Tables) -> Arc<Cluster> {
        Arc::new(Cluster {
            tables: RwLock::new(tables),
            changed: watch::channel(0).0,
            synced: watch::channel((true, true)).0,
        })
    }

    /// Starts the watches; they end with `token`.
    pub fn watch(client: kube::Client, token: &CancellationToken) -> Arc<Cluster> {
        let cluster = Arc::new(Cluster {
            tables: RwLock::default(),
            changed: watch::channel(0).0,
            synced: watch::channel((false, false)).0,
        });
        let (services, slices) = (Arc::clone(&cluster), Arc::clone(&cluster));
        let (client_two, token_one, token_two) = (client.clone(), token.clone(), token.clone());
        tokio::spawn(async move {
            let following = follow::<core::Service, _>(client, &services, Service::of_some, Part::Services);
            token_one.run_until_cancelled(following).await;
        });
        tokio::spawn(async move {
            let following = follow::<discovery::EndpointSlice, _>(client_two, &slices, Slice::of, Part::Slices);
            token_two.run_until_cancelled(following).await;
        });
        cluster
    }

    /// Reads the tables. The lock is held as long as `read` runs.
    pub fn read<T>(&self, read: impl FnOnce(&Tables) -> T) -> T {
        read(&self.tables.read())
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

    /// Whether both lists have arrived.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow() == (true, true)
    }

    /// Waits until both lists have arrived.
    pub async fn wait_synced(&self) {
        let mut synced = self.synced.subscribe();
        let waited = synced.wait_for(|state| *state == (true, true)).await;
        waited.expect("the sender is part of self");
    }
}

/// Which half of the tables a watch feeds.
#[derive(Clone, Copy)]
enum Part {
    Services,
    Slices,
}

/// Lets both kinds go through `follow`.
trait Put: Sized {
    fn put(tables: &mut Tables, key: Key, value: Option<Self>) -> bool;
    fn keys(tables: &Tables) -> Vec<Key>;
}

impl Put for Service {
    fn put(tables: &mut Tables, key: Key, value: Option<Self>) -> bool {
        tables.set_service(key, value)
    }
    fn keys(tables: &Tables) -> Vec<Key> {
        tables.services.keys().cloned().collect()
    }
}

impl Put for Slice {
    fn put(tables: &mut Tables, key: Key, value: Option<Self>) -> bool {
        tables.set_slice(key, value)
    }
    fn keys(tables: &Tables) -> Vec<Key> {
        tables.slices.keys().cloned().collect()
    }
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
async fn follow<K, V>(client: kube::Client, cluster: &Cluster, reduce: fn(K) -> Option<V>, part: Part)
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
    V: Put,
{
    let events = watcher(Api::<K>::all(client), watcher::Config::default()).default_backoff();
    let mut events =
        events.map_err(|error| tracing::warn!(kind = %K::kind(&()), %error, "watch failed, trying again")).boxed();
    let mut listed: Vec<(Key, V)> = Vec::new();
    while let Some(event) = events.next().await {
        // The failure is logged above, and the watch goes on by itself.
        let Ok(event) = event else { continue };
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
                    let kept: std::collections::HashSet<Key> = listed.iter().map(|(key, _)| key.clone()).collect();
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
                cluster.synced.send_if_modified(|(services, slices)| {
                    let mine = match part {
                        Part::Services => services,
                        Part::Slices => slices,
                    };
                    !std::mem::replace(mine, true)
                });
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
