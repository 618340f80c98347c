//! From one service and its endpoints to what serves it. Pure.
//!
//! A service is elements of the table's maps ([`super::elements`]) and nothing else, unless it asks for session affinity or
//! restricts who may come through a load balancer: those have chains of their own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    elements::{self, Front, Verdict, Way},
    plan::{FAMILIES, Family, Place, UdpPath, any_of},
    table::{Chain, Set, SetKind},
};
use crate::{
    cluster::{Endpoint, Key, Service, ServicePort, Slice},
    config::hash,
    network::Protocol,
};

/// What one service asks of the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Fronts that nobody else can have: the service's own addresses.
    pub own: BTreeMap<Front, Way>,
    /// Fronts that others may claim as well: external addresses, ports of the node.
    pub shared: BTreeMap<Front, Way>,
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
    /// Sets by name.
    pub sets: BTreeMap<String, Set>,
}

/// What is the same for every service at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// The zone that this node is in.
    pub zone: Option<Box<str>>,
    /// Every range that services have addresses of. No external address of a service may be one of another's.
    pub ranges: BTreeSet<IpNet>,
}

/// A service and its slices as they are at one moment; no service, no slices: it is not there.
pub type Objects = (Option<Arc<Service>>, Vec<Arc<Slice>>);

/// Plans one service.
pub fn serve(place: &Place, around: &Surroundings, key: &Key, objects: &Objects) -> Served {
    let mut build = Build { place, around, served: Served::default() };
    let (Some(service), slices) = objects else { return build.served };
    let nothing_to_serve = service.headless || service.external_name.is_some() || service.cluster_ips.is_empty();
    if nothing_to_serve || service.served_elsewhere {
        return build.served;
    }
    for port in &service.ports {
        for family in FAMILIES {
            build.port(key, service, port, slices, family);
        }
    }
    build.served
}

impl Served {
    /// The UDP paths that these ways are.
    pub fn udp_paths<'a>(ways: impl Iterator<Item = (&'a Front, &'a Way)>) -> impl Iterator<Item = UdpPath> {
        ways.filter(|(front, _)| front.protocol() == Protocol::Udp).flat_map(|(front, way)| {
            let path = |endpoint| UdpPath { front: front.address(), port: front.port(), endpoint };
            way.endpoints.iter().copied().map(path)
        })
    }
}

struct Build<'a> {
    place: &'a Place,
    around: &'a Surroundings,
    served: Served,
}

/// The endpoints of a front, and the chain that names them, where there is one.
#[derive(Clone)]
struct Targets {
    endpoints: Arc<[elements::Endpoint]>,
    chain: Option<Arc<str>>,
}

impl Build<'_> {
    fn port(&mut self, key: &Key, service: &Service, port: &ServicePort, slices: &[Arc<Slice>], family: Family) {
        let protocol = port.protocol;
        let of_family = |address: &&IpAddr| Family::of(address) == family;
        let fronts: Vec<IpAddr> = service
            .cluster_ips
            .iter()
            .filter(of_family)
            .filter(|address| !(self.place.dns_addresses.contains(address) && port.port == 53))
            .copied()
            .collect();
        let free = |address: &&IpAddr| !self.around.ranges.iter().any(|range| range.contains(*address));
        let externals: Vec<IpAddr> = service.external_ips.iter().filter(of_family).filter(free).copied().collect();
        let has_family = service.cluster_ips.iter().any(|address| Family::of(address) == family);
        if !has_family || (fronts.is_empty() && externals.is_empty() && port.node_port.is_none()) {
            return;
        }
        let endpoints: Vec<(&Endpoint, u16)> = slices
            .iter()
            .flat_map(|slice| {
                let number = slice.ports.iter().find(|(name, proto, _)| *name == port.name && *proto == protocol);
                let endpoints = slice.endpoints.iter().filter(|endpoint| Family::of(&endpoint.address) == family);
                number.into_iter().flat_map(move |(_, _, number)| endpoints.clone().map(|endpoint| (endpoint, *number)))
            })
            .collect();
        let nobody = usable(endpoints.iter().copied()).is_empty();
        let here = |(endpoint, _): &(&Endpoint, u16)| endpoint.node.as_deref() == Some(self.place.node.as_str());
        let here = usable(endpoints.iter().copied().filter(here));
        let near = usable(self.near(&endpoints).into_iter());
        let (namespace, name) = key;
        let label = format!("{namespace}/{name}/{}/{}", protocol.lower(), port.port);
        let targets = |build: &mut Self, local: bool| {
            let (kind, set) = if local { ("local", &here) } else { ("service", &near) };
            let chain = match service.affinity_seconds {
                Some(seconds) if !set.is_empty() => Some(build.sticky(kind, &label, protocol, family, seconds, set)),
                _ => None,
            };
            Targets { endpoints: set.iter().copied().collect(), chain }
        };

        // A policy that excludes every endpoint drops, as upstream does; a service with none at all refuses.
        let empty = |local: bool| if local && !nobody { Verdict::Drop } else { Verdict::Refuse };
        let inner = targets(self, service.internal_local);
        let way = inner.way(empty(service.internal_local));
        for address in fronts {
            // Addresses of services that no rule takes are refused anyway.
            if way.verdict != Verdict::Refuse {
                self.served.own.insert(Front::Address(address, protocol, port.port), way.clone());
            }
        }
        if externals.is_empty() && port.node_port.is_none() {
            return;
        }
        let outer = match service.external_local == service.internal_local {
            true => inner,
            false => targets(self, service.external_local),
        };
        let way = outer.way(empty(service.external_local));
        if let Some(node_port) = port.node_port {
            self.served.shared.insert(Front::Node(family, protocol, node_port), way.clone());
        }
        if externals.is_empty() {
            return;
        }
        let guarded = match (&way.verdict, guard(&label, family, &service.source_ranges)) {
            (Verdict::Refuse | Verdict::Drop, _) | (_, None) => way,
            (verdict, Some((name, rule))) => {
                let target = match verdict {
                    Verdict::Chain(chain) => chain.to_string(),
                    _ => elements::Spread { family, node: false, count: way.endpoints.len() as u32 }.chain(),
                };
                let rules = vec![rule, format!("goto {target}")];
                self.served.chains.insert(name.clone(), Chain { base: None, rules });
                Way { verdict: Verdict::Chain(Arc::from(name)), ..way }
            }
        };
        for address in externals {
            self.served.shared.insert(Front::Address(address, protocol, port.port), guarded.clone());
        }
    }

    /// The endpoints that are meant for this node, where the Service asks for that and there are any; else all of them.
    /// Upstream: `pkg/proxy/topology.go`.
    fn near<'e>(&self, endpoints: &[(&'e Endpoint, u16)]) -> Vec<(&'e Endpoint, u16)> {
        let ready = || endpoints.iter().filter(|(endpoint, _)| endpoint.ready);
        let choose = |meant: &dyn Fn(&Endpoint) -> Option<bool>| {
            // One endpoint without a hint means that the hints are not complete yet.
            let complete = ready().all(|(endpoint, _)| meant(endpoint).is_some());
            let chosen: Vec<_> = ready().filter(|(endpoint, _)| meant(endpoint) == Some(true)).copied().collect();
            (complete && !chosen.is_empty()).then_some(chosen)
        };
        let on_node = |endpoint: &Endpoint| {
            let nodes = &endpoint.hints.nodes;
            (!nodes.is_empty()).then(|| nodes.iter().any(|node| **node == *self.place.node))
        };
        let in_zone = |endpoint: &Endpoint| {
            let zones = &endpoint.hints.zones;
            (!zones.is_empty()).then(|| zones.iter().any(|zone| Some(zone) == self.around.zone.as_ref()))
        };
        choose(&on_node).or_else(|| choose(&in_zone)).unwrap_or_else(|| endpoints.to_vec())
    }

    /// Makes the chain that sends a client to the endpoint it had before, or to one of them.
    fn sticky(
        &mut self,
        kind: &str,
        label: &str,
        protocol: Protocol,
        family: Family,
        seconds: u32,
        endpoints: &BTreeSet<elements::Endpoint>,
    ) -> Arc<str> {
        let name = chain_name(kind, family, label);
        let (ip, proto) = (family.word(), protocol.lower());
        let mut rules = Vec::new();
        let mut targets = Vec::new();
        for endpoint in endpoints {
            let own = format!("{label}/{}/{kind}", socket(endpoint).replace(['[', ']', ':'], "-"));
            let chain = chain_name("endpoint", family, &own);
            // A set's timeout cannot be changed: another one makes another set.
            let clients = chain_name("clients", family, &format!("{own}/{seconds}"));
            let definition =
                format!("type {}; flags dynamic,timeout; timeout {seconds}s; size 65536;", family.data_type());
            let set = Set { kind: SetKind::Set, definition, elements: BTreeMap::new() };
            self.served.sets.insert(clients.clone(), set);
            let remember = format!("update @{clients} {{ {ip} saddr }}");
            let send = format!("meta l4proto {proto} dnat {ip} to {}", socket(endpoint));
            self.served.chains.insert(chain.clone(), Chain { base: None, rules: vec![remember, send] });
            rules.push(format!("{ip} saddr @{clients} goto {chain}"));
            targets.push(format!("goto {chain}"));
        }
        match targets.as_slice() {
            [only] => rules.push(only.clone()),
            many => {
                let pairs: Vec<String> =
                    many.iter().enumerate().map(|(number, target)| format!("{number} : {target}")).collect();
                rules.push(format!("numgen random mod {} vmap {{ {} }}", many.len(), pairs.join(", ")));
            }
        }
        self.served.chains.insert(name.clone(), Chain { base: None, rules });
        Arc::from(name)
    }
}

impl Targets {
    fn way(&self, empty: Verdict) -> Way {
        let verdict = match (&self.chain, self.endpoints.len()) {
            (_, 0) => empty,
            (Some(chain), _) => Verdict::Chain(Arc::clone(chain)),
            (None, count) => Verdict::Spread(count as u32),
        };
        let numbered = matches!(verdict, Verdict::Spread(_));
        Way { verdict, endpoints: Arc::clone(&self.endpoints), numbered }
    }
}

/// The chain name and rule that keep out who is not in `loadBalancerSourceRanges`.
fn guard(label: &str, family: Family, ranges: &[IpNet]) -> Option<(String, String)> {
    if ranges.is_empty() {
        return None;
    }
    let name = chain_name("guard", family, label);
    let rule = match any_of(ranges.iter().filter(|range| Family::of_range(range) == family)) {
        Some(allowed) => format!("{} saddr != {allowed} drop", family.word()),
        None => "drop".to_owned(),
    };
    Some((name, rule))
}

/// The endpoints that take connections: the ready ones, or else those that still answer while they end.
fn usable<'a>(endpoints: impl Iterator<Item = (&'a Endpoint, u16)> + Clone) -> BTreeSet<elements::Endpoint> {
    let pick = |wanted: fn(&Endpoint) -> bool| -> BTreeSet<elements::Endpoint> {
        endpoints
            .clone()
            .filter(|(endpoint, _)| wanted(endpoint))
            .map(|(endpoint, port)| (endpoint.address, port))
            .collect()
    };
    let ready = pick(|endpoint| endpoint.ready);
    if ready.is_empty() { pick(|endpoint| endpoint.serving && endpoint.terminating) } else { ready }
}

fn socket(endpoint: &elements::Endpoint) -> String {
    match endpoint {
        (IpAddr::V4(v4), port) => format!("{v4}:{port}"),
        (IpAddr::V6(v6), port) => format!("[{v6}]:{port}"),
    }
}

/// A name that says whose chain it is. nft takes up to 127 bytes; the hash keeps shortened ones apart.
fn chain_name(kind: &str, family: Family, label: &str) -> String {
    let mut name = format!("{kind}{}-{:08x}-{label}", family.digit(), hash(label.as_bytes()) as u32);
    name.truncate(120);
    name
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
