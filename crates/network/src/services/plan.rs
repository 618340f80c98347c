//! The part of the table that does not depend on services: its frame, host ports and policies. Pure.
//!
//! ```text
//!  prerouting ┐                 address . protocol . port ─map─> one endpoint, at random
//!             ├─> services ──>  local address: protocol . port ─map─> the same
//!  output     ┘                 local address: protocol . port ─map─> host port of a pod
//!  postrouting    back to itself: from the gateway; leaving the cluster: from the node
//!  input, forward, output   services without endpoints, and service addresses that nobody has: refused
//!  forward        policies, where there are any: see [`crate::policy`]
//! ```
//!
//! Maps are hash tables, so that a packet costs the same with ten services and with ten thousand, and only the first
//! packet of a connection comes here. No packet marks are used: they are the machine's own and others use them too.
//! What services put into the maps is planned in [`super::serve`].
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
    cluster::{Key, Tables},
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
    /// CNI plug-ins attach pods: their links have any name, and what pods send to the world is theirs to translate.
    pub plugins: bool,
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

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Internet Protocol version 4.
    V4,
    /// Internet Protocol version 6.
    V6,
}

impl Family {
    /// An address's.
    pub fn of(address: &IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    pub(super) fn of_range(range: &IpNet) -> Family {
        Family::of(&range.addr())
    }

    /// What names of sets and chains end in.
    pub fn digit(self) -> char {
        match self {
            Family::V4 => '4',
            Family::V6 => '6',
        }
    }

    /// The protocol's name in rules: `ip daddr`, `dnat ip6 to`.
    pub fn word(self) -> &'static str {
        match self {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        }
    }

    pub(super) fn data_type(self) -> &'static str {
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

/// Both.
pub(super) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// An address or range in the words of rules: `10.0.0.1`, `10.0.0.0/8` or `{ a, b }`.
pub(super) fn any_of<T: ToString>(items: impl Iterator<Item = T>) -> Option<String> {
    let items: Vec<String> = items.map(|item| item.to_string()).collect();
    match items.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(format!("{{ {} }}", many.join(", "))),
    }
}

/// Makes the wanted state, but for what services put into it.
pub fn plan(place: &Place, tables: &Tables, pods: &[LocalPod]) -> Plan {
    let mut build = Build { place, plan: Plan::default() };
    build.plan.table.name = place.table.clone();
    build.frame(&service_ranges(place, tables));
    let mut ports: Vec<(&HostPort, &[IpAddr])> =
        pods.iter().flat_map(|pod| pod.host_ports.iter().map(|port| (port, pod.ips.as_slice()))).collect();
    // Where two claim the same, which the scheduler prevents, it is always the same one that has it.
    ports.sort();
    for (port, addresses) in ports {
        build.host_port(port, addresses);
    }
    if tables.has_policies() {
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
            admin: tables.admin.iter().collect(),
            nodes: tables.node_facts.values().collect(),
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
            // By its type a number that is drawn can be no part of a key; by its kind of expression it can.
            let numbered = format!("meta l4proto . th dport . numgen random mod 2 : {ip} daddr . th dport;");
            let of_address = format!("typeof {ip} daddr . {numbered}");
            self.set(format!("service-ends{digit}"), SetKind::Map, of_address);
            self.set(format!("node-ends{digit}"), SetKind::Map, format!("typeof {numbered}"));
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
            let outside = if place.plugins {
                // The addresses of this node's pods are known, each beside itself; their links are not.
                format!("{ip} daddr . {ip} daddr != @hairpins{digit}")
            } else {
                format!("oifname != \"{}*\"", place.link_prefix)
            };
            if let Some(gateway) = gateway {
                // What comes from the loopback address could not be answered by a pod.
                postrouting.push(format!("ct status dnat {ip} saddr {} snat {ip} to {gateway}", family.loopback()));
                // A pod that reaches itself through a service must not see its own address as the sender.
                postrouting
                    .push(format!("ct status dnat {ip} saddr . {ip} daddr @hairpins{digit} snat {ip} to {gateway}"));
            }
            if place.plugins {
                let back = "masquerade fully-random";
                postrouting.push(format!("ct status dnat {ip} saddr {} {back}", family.loopback()));
                postrouting.push(format!("ct status dnat {ip} saddr . {ip} daddr @hairpins{digit} {back}"));
                if let Some(cluster) = &cluster {
                    // The node's own programs too: their address need not be known where plug-ins lead.
                    postrouting.push(format!("ct status dnat {outside} {ip} saddr != {cluster} {back}"));
                }
            } else if let Some(cluster) = cluster {
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
            if port.protocol == Protocol::Udp {
                let endpoint = (*address, port.container_port);
                self.plan.udp.insert(UdpPath { front: unspecified, port: port.host_port, endpoint });
            }
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
