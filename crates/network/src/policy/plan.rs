//! From policies, pods and namespaces to what each pod of this node may send and receive. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    admin::{Action, AdminPeer, AdminPolicy, AdminRule, NodeFacts, Tier},
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
    /// Those of administrators, in a fixed order.
    pub admin: Vec<(&'a Key, &'a AdminPolicy)>,
    /// Nodes.
    pub nodes: Vec<&'a NodeFacts>,
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
    /// The chain that packets from a pod go through of which policies say something.
    pub from: BTreeMap<IpAddr, String>,
    /// The chain that packets to a pod go through of which policies say something.
    pub to: BTreeMap<IpAddr, String>,
    /// What becomes of packets in each chain.
    pub chains: BTreeMap<String, Steps>,
    /// Sets of pods and nodes.
    pub pods: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Sets of ranges, first and last address.
    pub blocks: BTreeMap<String, Vec<(IpAddr, IpAddr)>>,
    /// Sets of ports that have names.
    pub named: BTreeMap<String, BTreeSet<(IpAddr, Protocol, u16)>>,
}

/// What becomes of packets in a chain: the first that fits counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steps {
    /// Which packets, and what becomes of them.
    pub matches: Vec<(Match, Verdict)>,
    /// What becomes of all others.
    pub otherwise: Verdict,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// This side lets it through.
    Pass,
    /// It is dropped.
    Drop,
    /// Another chain decides.
    Goto(String),
}

/// Packets of which something is said: both halves have to fit.
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
    /// The pod itself, through a Service: what it sends to its own address does not leave it.
    Itself,
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
    let mut admin = world.admin.clone();
    admin.sort_by_key(|(_, policy)| (policy.tier, policy.priority));
    for pod in &world.local {
        let policies = by_namespace.get(&*pod.namespace).into_iter().flatten();
        let selecting: Vec<(&Key, &Policy)> =
            policies.filter(|(_, policy)| policy.pods.matches(&pod.labels)).copied().collect();
        let about = |policy: &AdminPolicy| {
            let there = world.namespaces.get(&*pod.namespace);
            there.is_some_and(|labels| policy.subject.namespaces.matches(labels))
                && policy.subject.pods.matches(&pod.labels)
        };
        let admin: Vec<(&Key, &AdminPolicy)> = admin.iter().filter(|(_, policy)| about(policy)).copied().collect();
        for direction in [Direction::From, Direction::To] {
            let rules: Vec<(&Key, &Vec<Rule>)> = selecting
                .iter()
                .filter_map(|(key, policy)| match direction {
                    Direction::From => Some((*key, policy.egress.as_ref()?)),
                    Direction::To => Some((*key, policy.ingress.as_ref()?)),
                })
                .collect();
            let of_tier = |tier: Tier| -> Vec<(&Key, &Vec<AdminRule>)> {
                let of_tier = admin.iter().filter(|(_, policy)| policy.tier == tier);
                let rules = of_tier.map(|(key, policy)| match direction {
                    Direction::From => (*key, &policy.egress),
                    Direction::To => (*key, &policy.ingress),
                });
                rules.filter(|(_, rules)| !rules.is_empty()).collect()
            };
            let (before, behind) = (of_tier(Tier::Admin), of_tier(Tier::Baseline));
            for address in &pod.ips {
                let v4 = address.is_ipv4();
                let mut verdict = if !rules.is_empty() {
                    Verdict::Goto(build.chain(direction, v4, &rules))
                } else if !behind.is_empty() {
                    Verdict::Goto(build.tier(direction, v4, &behind, Verdict::Pass))
                } else {
                    Verdict::Pass
                };
                if !before.is_empty() {
                    verdict = Verdict::Goto(build.tier(direction, v4, &before, verdict));
                }
                let Verdict::Goto(chain) = verdict else { continue };
                match direction {
                    Direction::From => build.isolation.from.insert(*address, chain),
                    Direction::To => build.isolation.to.insert(*address, chain),
                };
            }
        }
    }
    build.isolation
}

impl Direction {
    fn word(self) -> &'static str {
        match self {
            Direction::From => "from",
            Direction::To => "to",
        }
    }
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
        let name = format!("{}{}-{:016x}", direction.word(), digit(v4), hash(label.join(" ").as_bytes()));
        if !self.isolation.chains.contains_key(&name) {
            // No NetworkPolicy keeps a pod from itself; administrators may.
            let mut matches = vec![Match { peer: PeerMatch::Itself, port: PortMatch::Any }];
            for (key, rules) in policies {
                for rule in *rules {
                    self.matches(&key.0, rule, v4, &mut matches);
                }
            }
            matches.dedup();
            let matches = matches.into_iter().map(|found| (found, Verdict::Pass)).collect();
            self.isolation.chains.insert(name.clone(), Steps { matches, otherwise: Verdict::Drop });
        }
        name
    }

    /// The chain of the rules of one tier, of whose packets `next` decides where no rule does.
    fn tier(&mut self, direction: Direction, v4: bool, policies: &[(&Key, &Vec<AdminRule>)], next: Verdict) -> String {
        let label: Vec<String> = policies.iter().map(|((kind, name), _)| format!("{kind}/{name}")).collect();
        let label = format!("{} then {next:?}", label.join(" "));
        let name = format!("{}{}-{:016x}", direction.word(), digit(v4), hash(label.as_bytes()));
        if !self.isolation.chains.contains_key(&name) {
            let mut matches = Vec::new();
            for rule in policies.iter().flat_map(|(_, rules)| *rules) {
                let verdict = match rule.action {
                    Action::Accept => Verdict::Pass,
                    Action::Deny => Verdict::Drop,
                    Action::Pass => next.clone(),
                };
                let found = self.matches_of_admin(rule, v4);
                matches.extend(found.into_iter().map(|found| (found, verdict.clone())));
            }
            self.isolation.chains.insert(name.clone(), Steps { matches, otherwise: next });
        }
        name
    }

    fn matches_of_admin(&mut self, rule: &AdminRule, v4: bool) -> Vec<Match> {
        let mut peers = Vec::new();
        let mut blocks: Vec<(&IpNet, &[IpNet])> = Vec::new();
        for peer in &rule.peers {
            match peer {
                AdminPeer::Anyone => peers.push(PeerMatch::Anyone),
                AdminPeer::Pods(meant) => {
                    let peer = Peer::Pods { namespaces: Some(meant.namespaces.clone()), pods: meant.pods.clone() };
                    peers.push(PeerMatch::Pods(self.pods(&Arc::from(""), &peer, v4)));
                }
                AdminPeer::Nodes(selector) => {
                    let name = format!("nodes{}-{:016x}", digit(v4), hash(format!("{selector:?}").as_bytes()));
                    let meant = self.world.nodes.iter().filter(|node| selector.matches(&node.labels));
                    let members = meant.flat_map(|node| &node.ips).filter(|ip| ip.is_ipv4() == v4).copied().collect();
                    self.isolation.pods.insert(name.clone(), members);
                    peers.push(PeerMatch::Pods(name));
                }
                AdminPeer::Networks(ranges) => blocks.extend(ranges.iter().map(|range| (range, &[][..]))),
            }
        }
        peers.extend(self.blocks(blocks, v4));
        let ports = self.ports(&rule.ports, v4);
        let with_ports =
            |peer: PeerMatch| ports.iter().map(move |port| Match { peer: peer.clone(), port: port.clone() });
        peers.into_iter().flat_map(with_ports).collect()
    }

    /// The set of what is in these blocks, if anything is.
    fn blocks(&mut self, blocks: Vec<(&IpNet, &[IpNet])>, v4: bool) -> Option<PeerMatch> {
        let blocks = ranges::without(blocks.into_iter(), v4);
        if blocks.is_empty() {
            return None;
        }
        let name = format!("blocks{}-{:016x}", digit(v4), hash(format!("{blocks:?}").as_bytes()));
        self.isolation.blocks.insert(name.clone(), blocks);
        Some(PeerMatch::Blocks(name))
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
        peers.extend(self.blocks(blocks, v4));
        let ports = self.ports(&rule.ports, v4);
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

    fn ports(&mut self, ports: &[Ports], v4: bool) -> Vec<PortMatch> {
        if ports.is_empty() {
            return vec![PortMatch::Any];
        }
        let mut numbers: BTreeMap<Protocol, Vec<(u16, u16)>> = BTreeMap::new();
        let mut found = Vec::new();
        for port in ports {
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
