//! From policies, pods and namespaces to what each pod of this node may send and receive. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    objects::{Peer, PodFacts, Policy, Ports, Rule},
    ranges,
    selector::Labels,
};
use crate::{cluster::Key, config::hash, network::Protocol};

/// What policy is decided from.
#[derive(Clone, Debug, Default)]
pub struct World<'a> {
    /// The policies, in a fixed order.
    pub policies: Vec<(&'a Key, &'a Policy)>,
    /// Every pod that can be a peer, this node's among them.
    pub pods: Vec<&'a PodFacts>,
    /// This node's pods.
    pub local: Vec<&'a PodFacts>,
    /// The labels of namespaces.
    pub namespaces: HashMap<&'a str, &'a Labels>,
}

/// What may pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Isolation {
    /// The chain that packets from an isolated pod go through.
    pub from: BTreeMap<IpAddr, String>,
    /// The chain that packets to an isolated pod go through.
    pub to: BTreeMap<IpAddr, String>,
    /// What each chain lets pass; nothing else.
    pub chains: BTreeMap<String, Vec<Match>>,
    /// Sets of pods.
    pub pods: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Sets of ranges, first and last address.
    pub blocks: BTreeMap<String, Vec<(IpAddr, IpAddr)>>,
    /// Sets of ports that have names.
    pub named: BTreeMap<String, BTreeSet<(IpAddr, Protocol, u16)>>,
}

/// Packets that are let pass: both halves have to fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// The other side.
    pub peer: PeerMatch,
    /// The receiver's port.
    pub port: PortMatch,
}

/// Who the other side may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMatch {
    /// Everybody.
    Anyone,
    /// Who is in this set of pods.
    Pods(String),
    /// Who is in this set of ranges.
    Blocks(String),
}

/// Which ports of the receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortMatch {
    /// All, of all protocols.
    Any,
    /// Some of one protocol.
    Numbers(Protocol, Vec<(u16, u16)>),
    /// Those in this set of named ports.
    Named(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Direction {
    From,
    To,
}

/// Decides.
pub fn plan(world: &World<'_>) -> Isolation {
    let mut build = Build { world, isolation: Isolation::default(), made: BTreeSet::new() };
    let mut by_namespace: HashMap<&str, Vec<(&Key, &Policy)>> = HashMap::new();
    for (key, policy) in &world.policies {
        by_namespace.entry(&key.0).or_default().push((key, policy));
    }
    for pod in &world.local {
        let Some(policies) = by_namespace.get(&*pod.namespace) else { continue };
        let selecting: Vec<(&Key, &Policy)> =
            policies.iter().filter(|(_, policy)| policy.pods.matches(&pod.labels)).copied().collect();
        for direction in [Direction::From, Direction::To] {
            let rules: Vec<(&Key, &Vec<Rule>)> = selecting
                .iter()
                .filter_map(|(key, policy)| match direction {
                    Direction::From => Some((*key, policy.egress.as_ref()?)),
                    Direction::To => Some((*key, policy.ingress.as_ref()?)),
                })
                .collect();
            if rules.is_empty() {
                continue;
            }
            for address in &pod.ips {
                let chain = build.chain(direction, address.is_ipv4(), &rules);
                match direction {
                    Direction::From => build.isolation.from.insert(*address, chain),
                    Direction::To => build.isolation.to.insert(*address, chain),
                };
            }
        }
    }
    build.isolation
}

struct Build<'a> {
    world: &'a World<'a>,
    isolation: Isolation,
    /// Sets that are made already, among them those that came out empty.
    made: BTreeSet<String>,
}

fn digit(v4: bool) -> char {
    if v4 { '4' } else { '6' }
}

impl Build<'_> {
    /// The chain for pods that are isolated by the same policies, made when it is first asked for.
    fn chain(&mut self, direction: Direction, v4: bool, policies: &[(&Key, &Vec<Rule>)]) -> String {
        let label: Vec<String> = policies.iter().map(|((namespace, name), _)| format!("{namespace}/{name}")).collect();
        let word = match direction {
            Direction::From => "from",
            Direction::To => "to",
        };
        let name = format!("{word}{}-{:016x}", digit(v4), hash(label.join(" ").as_bytes()));
        if !self.isolation.chains.contains_key(&name) {
            let mut matches = Vec::new();
            for (key, rules) in policies {
                for rule in *rules {
                    self.matches(&key.0, rule, v4, &mut matches);
                }
            }
            matches.dedup();
            self.isolation.chains.insert(name.clone(), matches);
        }
        name
    }

    fn matches(&mut self, namespace: &Arc<str>, rule: &Rule, v4: bool, found: &mut Vec<Match>) {
        let mut peers = Vec::new();
        if rule.peers.is_empty() {
            peers.push(PeerMatch::Anyone);
        }
        let mut blocks: Vec<(&IpNet, &[IpNet])> = Vec::new();
        for peer in &rule.peers {
            match peer {
                Peer::Pods { .. } => peers.push(PeerMatch::Pods(self.pods(namespace, peer, v4))),
                Peer::Block { range, except } => blocks.push((range, except)),
            }
        }
        let blocks = ranges::without(blocks.into_iter(), v4);
        if !blocks.is_empty() {
            let name = format!("blocks{}-{:016x}", digit(v4), hash(format!("{blocks:?}").as_bytes()));
            self.isolation.blocks.insert(name.clone(), blocks);
            peers.push(PeerMatch::Blocks(name));
        }
        let ports = self.ports(rule, v4);
        for peer in peers {
            found.extend(ports.iter().map(|port| Match { peer: peer.clone(), port: port.clone() }));
        }
    }

    /// The set of the pods that a peer means.
    fn pods(&mut self, own_namespace: &Arc<str>, peer: &Peer, v4: bool) -> String {
        let Peer::Pods { namespaces, pods } = peer else { return String::new() };
        let scope = match namespaces {
            Some(selector) => format!("{selector:?}"),
            None => own_namespace.to_string(),
        };
        let name = format!("peers{}-{:016x}", digit(v4), hash(format!("{scope} {pods:?}").as_bytes()));
        if self.made.insert(name.clone()) {
            let meant = |pod: &&&PodFacts| {
                let namespace = match namespaces {
                    Some(selector) => {
                        self.world.namespaces.get(&*pod.namespace).is_some_and(|labels| selector.matches(labels))
                    }
                    None => *pod.namespace == **own_namespace,
                };
                namespace && pods.matches(&pod.labels)
            };
            let members = self.world.pods.iter().filter(meant).flat_map(|pod| &pod.ips).copied();
            let members = members.filter(|address| address.is_ipv4() == v4).collect();
            self.isolation.pods.insert(name.clone(), members);
        }
        name
    }

    fn ports(&mut self, rule: &Rule, v4: bool) -> Vec<PortMatch> {
        if rule.ports.is_empty() {
            return vec![PortMatch::Any];
        }
        let mut numbers: BTreeMap<Protocol, Vec<(u16, u16)>> = BTreeMap::new();
        let mut found = Vec::new();
        for port in &rule.ports {
            match port {
                Ports::Numbers(protocol, first, last) => numbers.entry(*protocol).or_default().push((*first, *last)),
                Ports::Named(protocol, name) => found.push(PortMatch::Named(self.named(*protocol, name, v4))),
                Ports::None => {}
            }
        }
        found.extend(
            numbers.into_iter().map(|(protocol, ports)| PortMatch::Numbers(protocol, ranges::merged_ports(&ports))),
        );
        found
    }

    /// The set of every pod's port of that name.
    fn named(&mut self, protocol: Protocol, port: &str, v4: bool) -> String {
        let name = format!("named{}-{}-{:016x}", digit(v4), protocol.lower(), hash(port.as_bytes()));
        if self.made.insert(name.clone()) {
            let mut members = BTreeSet::new();
            for pod in &self.world.pods {
                for (_, _, number) in pod.ports.iter().filter(|(known, of, _)| **known == *port && *of == protocol) {
                    let addresses = pod.ips.iter().filter(|address| address.is_ipv4() == v4);
                    members.extend(addresses.map(|address| (*address, protocol, *number)));
                }
            }
            self.isolation.named.insert(name.clone(), members);
        }
        name
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
