//! From services, endpoints, policies and this node's pods to the table that serves them. Pure.
//!
//! ```text
//!  prerouting ┐                 address . protocol . port ─map─> service chain ─> one endpoint, at random
//!             ├─> services ──>  local address: protocol . port ─map─> the same chain
//!  output     ┘                 local address: protocol . port ─map─> host port of a pod
//!  postrouting    back to itself: from the gateway; leaving the cluster: from the node
//!  input, forward, output   services without endpoints, and service addresses that nobody has: refused
//!  forward        policies, where there are any: see [`crate::policy`]
//! ```
//!
//! Maps are hash tables, so that a packet costs the same with ten services and with ten thousand, and only the first
//! packet of a connection comes here. No packet marks are used: they are the machine's own and others use them too.
//!
//! Other tables' chains on the same hooks have their own say: a packet that another firewall drops stays dropped, and
//! an `accept` here overrules nothing there. A host whose own forward chain drops by default must accept kobune's
//! links itself (their names begin with the prefix that `nft list table inet <table>` shows).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::table::{Chain, Set, SetKind, Table};
use crate::{
    cluster::{Endpoint, Key, Service, ServicePort, Slice, Tables},
    config::hash,
    network::{HostPort, LocalPod, Protocol},
    policy::{self, objects::PodFacts, plan::World},
};

/// What is the same for every service.
#[derive(Clone, Debug)]
pub struct Place {
    /// The table's name.
    pub table: String,
    /// This node's name, as endpoints spell it.
    pub node: String,
    /// The ranges of this node's pods.
    pub pod_cidrs: Vec<IpNet>,
    /// The ranges of all pods of the cluster.
    pub cluster_cidrs: Vec<IpNet>,
    /// The ranges of service addresses.
    pub service_cidrs: Vec<IpNet>,
    /// The DNS server's addresses, which the node itself has.
    pub dns_addresses: Vec<IpAddr>,
    /// The pods' gateways.
    pub gateways: Vec<IpAddr>,
    /// What the names of pod links begin with.
    pub link_prefix: String,
}

/// A UDP service address and port, or only a port on every node address, and one endpoint behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UdpPath {
    /// The service's address; none for node ports and host ports.
    pub front: Option<IpAddr>,
    /// The port there.
    pub port: u16,
    /// Where packets go.
    pub endpoint: (IpAddr, u16),
}

/// The wanted state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The table.
    pub table: Table,
    /// Which UDP paths exist: the kernel remembers each for minutes after it is gone, unless told.
    pub udp: BTreeSet<UdpPath>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn of(address: &IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    fn of_range(range: &IpNet) -> Family {
        Family::of(&range.addr())
    }

    fn digit(self) -> char {
        match self {
            Family::V4 => '4',
            Family::V6 => '6',
        }
    }

    /// The protocol's name in rules: `ip daddr`, `dnat ip6 to`.
    fn word(self) -> &'static str {
        match self {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        }
    }

    fn data_type(self) -> &'static str {
        match self {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        }
    }

    /// Addresses that services never answer on: a packet from there cannot leave the loopback link.
    fn loopback(self) -> &'static str {
        match self {
            Family::V4 => "127.0.0.0/8",
            Family::V6 => "::1",
        }
    }
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// An address or range in the words of rules: `10.0.0.1`, `10.0.0.0/8` or `{ a, b }`.
fn any_of<T: ToString>(items: impl Iterator<Item = T>) -> Option<String> {
    let items: Vec<String> = items.map(|item| item.to_string()).collect();
    match items.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(format!("{{ {} }}", many.join(", "))),
    }
}

/// Makes the wanted state.
pub fn plan(place: &Place, tables: &Tables, pods: &[LocalPod]) -> Plan {
    let mut build = Build { place, zone: tables.zone.as_deref(), plan: Plan::default() };
    build.plan.table.name = place.table.clone();
    build.frame(&service_ranges(place, tables));
    let mut services: Vec<(&Key, &Arc<Service>)> = tables.services().collect();
    services.sort_by(|left, right| left.0.cmp(right.0));
    for (key, service) in services {
        if service.headless || service.external_name.is_some() || service.cluster_ips.is_empty() {
            continue;
        }
        let slices: Vec<&Arc<Slice>> = tables.slices(key).collect();
        for port in &service.ports {
            for family in FAMILIES {
                build.service_port(key, service, port, &slices, family);
            }
        }
    }
    let mut ports: Vec<(&HostPort, &[IpAddr])> =
        pods.iter().flat_map(|pod| pod.host_ports.iter().map(|port| (port, pod.ips.as_slice()))).collect();
    // Where two claim the same, which the scheduler prevents, it is always the same one that has it.
    ports.sort();
    for (port, addresses) in ports {
        build.host_port(port, addresses);
    }
    if !tables.policies.is_empty() {
        build.policies(tables, pods);
    }
    build.plan
}

/// Every range that Services have addresses of.
pub fn service_ranges(place: &Place, tables: &Tables) -> BTreeSet<IpNet> {
    place.service_cidrs.iter().chain(tables.service_ranges.values().flatten()).map(IpNet::trunc).collect()
}

/// What is known of this node's pods, newest first: labels as the API has them now, or as they were when the pod came.
fn local_facts(tables: &Tables, pods: &[LocalPod]) -> Vec<PodFacts> {
    let facts = pods.iter().filter_map(|pod| {
        let own = pod.facts.as_ref()?;
        let key: Key = (Arc::from(&*own.namespace), Arc::from(&*own.name));
        let known = tables.pods.get(&key).filter(|known| known.uid == own.uid).unwrap_or(own);
        Some(PodFacts { ips: pod.ips.clone(), ..known.clone() })
    });
    facts.collect()
}

struct Build<'a> {
    place: &'a Place,
    zone: Option<&'a str>,
    plan: Plan,
}

impl Build<'_> {
    fn set(&mut self, name: String, kind: SetKind, definition: String) {
        self.plan.table.sets.insert(name, Set { kind, definition, elements: BTreeMap::new() });
    }

    fn chain(&mut self, name: &str, base: Option<&str>, rules: Vec<String>) {
        let chain = Chain { base: base.map(str::to_owned), rules };
        self.plan.table.chains.insert(name.to_owned(), chain);
    }

    fn element(&mut self, set: &str, family: Family, key: String, value: Option<String>) {
        let name = format!("{set}{}", family.digit());
        let set = self.plan.table.sets.get_mut(&name).expect("the frame makes every set that elements go to");
        set.elements.insert(key, value);
    }

    /// What NetworkPolicies say of this node's pods.
    fn policies(&mut self, tables: &Tables, pods: &[LocalPod]) {
        let local = local_facts(tables, pods);
        let is_local = |pod: &&PodFacts| local.iter().any(|own| own.uid == pod.uid);
        let elsewhere = tables.pods.values().filter(|pod| !is_local(pod));
        let world = World {
            policies: tables.policies.iter().collect(),
            pods: elsewhere.chain(&local).collect(),
            local: local.iter().collect(),
            namespaces: tables.namespace_labels.iter().map(|((_, name), labels)| (&**name, labels)).collect(),
        };
        policy::rules::add(&mut self.plan.table, &policy::plan::plan(&world));
        let forward = self.plan.table.chains.get_mut("forward").expect("the frame makes every base chain");
        forward.rules.push(format!("jump {}", policy::rules::ENTRY));
    }

    /// The sets and base chains, which depend on nothing but the place and the ranges of Services.
    fn frame(&mut self, service_ranges: &BTreeSet<IpNet>) {
        let place = self.place;
        let mut services = Vec::new();
        let mut postrouting = Vec::new();
        let mut input = Vec::new();
        let mut forward = Vec::new();
        let mut output = Vec::new();
        for family in FAMILIES {
            let (digit, ip, address) = (family.digit(), family.word(), family.data_type());
            let front = format!("type {address} . inet_proto . inet_service");
            self.set(format!("service-ips{digit}"), SetKind::Map, format!("{front} : verdict;"));
            self.set(format!("idle-ips{digit}"), SetKind::Map, format!("{front} : verdict;"));
            self.set(
                format!("host-address-ports{digit}"),
                SetKind::Map,
                format!("{front} : {address} . inet_service;"),
            );
            let port = "type inet_proto . inet_service";
            self.set(format!("node-ports{digit}"), SetKind::Map, format!("{port} : verdict;"));
            self.set(format!("idle-ports{digit}"), SetKind::Map, format!("{port} : verdict;"));
            self.set(format!("host-ports{digit}"), SetKind::Map, format!("{port} : {address} . inet_service;"));
            self.set(format!("hairpins{digit}"), SetKind::Set, format!("type {address} . {address};"));

            let local = format!("fib daddr type local {ip} daddr != {}", family.loopback());
            let transports = "meta l4proto { tcp, udp, sctp }";
            services.push(format!("{ip} daddr . meta l4proto . th dport vmap @service-ips{digit}"));
            services.push(format!("{local} meta l4proto . th dport vmap @node-ports{digit}"));
            // Host ports, unlike node ports, are also there for the node's own programs at the loopback address.
            let here = "fib daddr type local";
            services.push(format!(
                "{here} {transports} dnat {ip} to {ip} daddr . meta l4proto . th dport map @host-address-ports{digit}"
            ));
            services.push(format!("{here} {transports} dnat {ip} to meta l4proto . th dport map @host-ports{digit}"));

            let of_family = |range: &&IpNet| Family::of_range(range) == family;
            let pods = any_of(place.pod_cidrs.iter().filter(of_family));
            let cluster = any_of(place.cluster_cidrs.iter().filter(of_family));
            let ranges = any_of(service_ranges.iter().filter(of_family));
            let gateway = place.gateways.iter().find(|gateway| Family::of(gateway) == family);
            let names = any_of(place.dns_addresses.iter().filter(|address| Family::of(address) == family));
            let outside = format!("oifname != \"{}*\"", place.link_prefix);
            if let Some(gateway) = gateway {
                // What comes from the loopback address could not be answered by a pod.
                postrouting.push(format!("ct status dnat {ip} saddr {} snat {ip} to {gateway}", family.loopback()));
                // A pod that reaches itself through a service must not see its own address as the sender.
                postrouting
                    .push(format!("ct status dnat {ip} saddr . {ip} daddr @hairpins{digit} snat {ip} to {gateway}"));
            }
            if let Some(cluster) = cluster {
                // An endpoint on another machine must answer to this one, which knows the connection. Local endpoints
                // see the client's own address: their answers pass here anyway.
                postrouting.push(format!(
                    "ct status dnat {outside} {ip} saddr != {cluster} fib saddr type != local masquerade fully-random"
                ));
                if let Some(pods) = pods {
                    postrouting
                        .push(format!("{ip} saddr {pods} {ip} daddr != {cluster} {outside} masquerade fully-random"));
                }
            }

            if let Some(names) = &names {
                // The node's own programs that listen on every address are not for pods to find here.
                input.push(format!("{ip} daddr {names} {transports} th dport != 53 goto refuse"));
            }
            input.push(format!("{ip} daddr != {} meta l4proto . th dport vmap @idle-ports{digit}", family.loopback()));
            let idle = format!("{ip} daddr . meta l4proto . th dport vmap @idle-ips{digit}");
            forward.push(idle.clone());
            output.push(idle);
            if let Some(ranges) = ranges {
                let reach = format!("{ip} daddr {ranges}");
                forward.push(format!("{reach} goto refuse"));
                match names {
                    Some(names) => output.push(format!("{reach} {ip} daddr != {names} goto refuse")),
                    None => output.push(format!("{reach} goto refuse")),
                }
            }
        }
        let nat = |hook: &str, priority: &str| format!("type nat hook {hook} priority {priority}; policy accept;");
        let filter = |hook: &str| format!("type filter hook {hook} priority 0; policy accept;");
        let with_connections_first = |rules: Vec<String>| {
            let mut all = vec!["ct state established,related accept".to_owned()];
            all.extend(rules);
            all
        };
        let to_services = || vec!["goto services".to_owned()];
        self.chain("prerouting", Some(&nat("prerouting", "-100")), to_services());
        self.chain("local-output", Some(&nat("output", "-100")), to_services());
        self.chain("postrouting", Some(&nat("postrouting", "100")), postrouting);
        self.chain("input", Some(&filter("input")), with_connections_first(input));
        self.chain("forward", Some(&filter("forward")), with_connections_first(forward));
        self.chain("output", Some(&filter("output")), with_connections_first(output));
        self.chain("services", None, services);
        // Links of pods with host ports take packets for the loopback address, but only as answers: nobody may send there.
        let raw = "type filter hook prerouting priority -300; policy accept;";
        let loopback = format!("iifname \"{}*\" ip daddr {} drop", place.link_prefix, Family::V4.loopback());
        self.chain("loopback", Some(raw), vec![loopback]);
        let refuse = ["meta l4proto tcp reject with tcp reset", "reject with icmpx port-unreachable"];
        self.chain("refuse", None, refuse.map(str::to_owned).to_vec());
    }

    fn service_port(
        &mut self,
        key: &Key,
        service: &Service,
        port: &ServicePort,
        slices: &[&Arc<Slice>],
        family: Family,
    ) {
        let protocol = port.protocol;
        let of_family = |address: &&IpAddr| Family::of(address) == family;
        let fronts: Vec<IpAddr> = service
            .cluster_ips
            .iter()
            .filter(of_family)
            .filter(|address| !(self.place.dns_addresses.contains(address) && port.port == 53))
            .copied()
            .collect();
        let externals: Vec<IpAddr> = service.external_ips.iter().filter(of_family).copied().collect();
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
        let everywhere = usable(endpoints.iter().copied());
        let here = usable(
            endpoints
                .iter()
                .copied()
                .filter(|(endpoint, _)| endpoint.node.as_deref() == Some(self.place.node.as_str())),
        );
        let (namespace, name) = key;
        let label = format!("{namespace}/{name}/{}/{}", protocol.lower(), port.port);
        let (internal, external) = (service.internal_local, service.external_local);
        let reached_from_outside = !externals.is_empty() || port.node_port.is_some();

        let near = usable(self.near(&endpoints).into_iter());
        let internal_set = if internal { &here } else { &near };
        let external_set = if external { &here } else { &near };
        let mut made: Vec<(&'static str, String)> = Vec::new();
        let mut chain_for = |build: &mut Self, local: bool, set: &BTreeSet<(IpAddr, u16)>| -> Option<String> {
            if set.is_empty() {
                return None;
            }
            let kind = if local { "local" } else { "service" };
            if let Some((_, name)) = made.iter().find(|(other, _)| *other == kind) {
                return Some(name.clone());
            }
            let name = build.balance(kind, &label, protocol, family, service.affinity_seconds, set);
            made.push((kind, name.clone()));
            Some(name)
        };

        // A policy that excludes every endpoint drops, as upstream does; a service with none at all refuses.
        let dropped = |policy_local: bool| (policy_local && !everywhere.is_empty()).then(|| "drop".to_owned());
        let inner = chain_for(self, internal, internal_set).map(|chain| format!("goto {chain}"));
        for front in &fronts {
            if let Some(verdict) = inner.clone().or_else(|| dropped(internal)) {
                let element = format!("{front} . {} . {}", protocol.lower(), port.port);
                self.element("service-ips", family, element, Some(verdict));
            }
            self.remember(Some(*front), port.port, protocol, internal_set);
        }
        if reached_from_outside {
            let plain = chain_for(self, external, external_set);
            let outer = plain.clone().map(|chain| format!("goto {chain}")).or_else(|| dropped(external));
            if let Some(node_port) = port.node_port {
                let element = format!("{} . {node_port}", protocol.lower());
                match &outer {
                    Some(verdict) => self.element("node-ports", family, element, Some(verdict.clone())),
                    None => self.element("idle-ports", family, element, Some("goto refuse".to_owned())),
                }
                self.remember(None, node_port, protocol, external_set);
            }
            let guarded = match (plain, self.guard(&label, family, &service.source_ranges)) {
                (Some(target), Some((guard, rule))) => {
                    self.chain(&guard, None, vec![rule, format!("goto {target}")]);
                    Some(format!("goto {guard}"))
                }
                _ => outer,
            };
            for address in externals {
                let element = format!("{address} . {} . {}", protocol.lower(), port.port);
                match &guarded {
                    Some(verdict) => self.element("service-ips", family, element, Some(verdict.clone())),
                    None => self.element("idle-ips", family, element, Some("goto refuse".to_owned())),
                }
                self.remember(Some(address), port.port, protocol, external_set);
            }
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
            (!zones.is_empty()).then(|| zones.iter().any(|zone| Some(&**zone) == self.zone))
        };
        choose(&on_node).or_else(|| choose(&in_zone)).unwrap_or_else(|| endpoints.to_vec())
    }

    /// The chain name and rule that keep out who is not in `loadBalancerSourceRanges`.
    fn guard(&self, label: &str, family: Family, ranges: &[IpNet]) -> Option<(String, String)> {
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

    /// Makes the chain that sends a connection to one of the endpoints, and answers its name.
    fn balance(
        &mut self,
        kind: &str,
        label: &str,
        protocol: Protocol,
        family: Family,
        affinity: Option<u32>,
        endpoints: &BTreeSet<(IpAddr, u16)>,
    ) -> String {
        let name = chain_name(kind, family, label);
        let (ip, proto) = (family.word(), protocol.lower());
        for (address, _) in endpoints {
            if self.place.pod_cidrs.iter().any(|range| range.contains(address)) {
                self.element("hairpins", family, format!("{address} . {address}"), None);
            }
        }
        let mut rules = Vec::new();
        if let Some(seconds) = affinity {
            let mut targets = Vec::new();
            for endpoint in endpoints {
                let own = format!("{label}/{}/{}", socket(endpoint).replace(['[', ']', ':'], "-"), kind);
                let chain = chain_name("endpoint", family, &own);
                // A set's timeout cannot be changed: another one makes another set.
                let clients = chain_name("clients", family, &format!("{own}/{seconds}"));
                let definition =
                    format!("type {}; flags dynamic,timeout; timeout {seconds}s; size 65536;", family.data_type());
                self.set(clients.clone(), SetKind::Set, definition);
                let remember = format!("update @{clients} {{ {ip} saddr }}");
                let send = format!("meta l4proto {proto} dnat {ip} to {}", socket(endpoint));
                self.chain(&chain, None, vec![remember, send]);
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
        } else if endpoints.len() == 1 {
            let only = endpoints.first().map(socket).unwrap_or_default();
            rules.push(format!("meta l4proto {proto} dnat {ip} to {only}"));
        } else {
            let pairs: Vec<String> = endpoints
                .iter()
                .enumerate()
                .map(|(number, (address, port))| format!("{number} : {address} . {port}"))
                .collect();
            rules.push(format!(
                "meta l4proto {proto} dnat {ip} to numgen random mod {} map {{ {} }}",
                endpoints.len(),
                pairs.join(", ")
            ));
        }
        self.chain(&name, None, rules);
        name
    }

    fn host_port(&mut self, port: &HostPort, addresses: &[IpAddr]) {
        for address in addresses {
            let family = Family::of(address);
            let unspecified = port.host_ip.filter(|ip| !ip.is_unspecified());
            if unspecified.is_some_and(|ip| Family::of(&ip) != family) {
                continue;
            }
            let proto = port.protocol.lower();
            let target = Some(format!("{address} . {}", port.container_port));
            match unspecified {
                Some(ip) => {
                    let key = format!("{ip} . {proto} . {}", port.host_port);
                    self.element("host-address-ports", family, key, target);
                }
                None => self.element("host-ports", family, format!("{proto} . {}", port.host_port), target),
            }
            self.element("hairpins", family, format!("{address} . {address}"), None);
            if port.protocol == Protocol::Udp {
                let endpoint = (*address, port.container_port);
                self.plan.udp.insert(UdpPath { front: unspecified, port: port.host_port, endpoint });
            }
        }
    }

    fn remember(&mut self, front: Option<IpAddr>, port: u16, protocol: Protocol, endpoints: &BTreeSet<(IpAddr, u16)>) {
        if protocol == Protocol::Udp {
            self.plan.udp.extend(endpoints.iter().map(|endpoint| UdpPath { front, port, endpoint: *endpoint }));
        }
    }
}

/// The endpoints that take connections: the ready ones, or else those that still answer while they end.
fn usable<'a>(endpoints: impl Iterator<Item = (&'a Endpoint, u16)> + Clone) -> BTreeSet<(IpAddr, u16)> {
    let pick = |wanted: fn(&Endpoint) -> bool| -> BTreeSet<(IpAddr, u16)> {
        endpoints
            .clone()
            .filter(|(endpoint, _)| wanted(endpoint))
            .map(|(endpoint, port)| (endpoint.address, port))
            .collect()
    };
    let ready = pick(|endpoint| endpoint.ready);
    if ready.is_empty() { pick(|endpoint| endpoint.serving && endpoint.terminating) } else { ready }
}

fn socket(endpoint: &(IpAddr, u16)) -> String {
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
#[path = "plan_tests.rs"]
mod tests;
