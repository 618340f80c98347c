//! What names in the cluster's domain answer, by the Kubernetes DNS specification 1.1. Pure.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{CNAME, NS, PTR, SOA, SRV, TXT},
};
use ipnet::IpNet;

use crate::{
    cluster::{Endpoint, Key, Service, Slice, Tables},
    network::Protocol,
};

/// How long clients may keep an answer, in seconds: short, because pods come and go. Upstream's CoreDNS says the same.
const TTL: u32 = 5;

/// How many aliases in a row are followed inside the domain.
const LONGEST_CHAIN: usize = 8;

/// The cluster's domain.
#[derive(Clone, Debug)]
pub struct Zone {
    origin: Name,
    addresses: Vec<IpAddr>,
    own_ranges: Vec<IpNet>,
}

/// What a question gets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Records of the asked name and type, perhaps after an alias.
    pub answers: Vec<Record>,
    /// Addresses that the answers' targets have.
    pub additionals: Vec<Record>,
    /// The name that the last alias leads to, outside of the domain: someone else has to be asked.
    pub elsewhere: Option<Name>,
}

/// The answer of the zone.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The name exists; without records, it has none of this type.
    Found(Found),
    /// No such name.
    NoSuchName,
    /// The name is not of this zone.
    NotOurs,
}

/// What a name in the domain stands for.
enum Node {
    /// Exists only because longer names do.
    Empty,
    Addresses(Vec<IpAddr>),
    Alias(Name),
    Services(Vec<(u16, Name, Vec<IpAddr>)>),
    Text(&'static str),
    Apex,
}

impl Zone {
    /// The zone of a domain; none when the domain is not a name. `addresses` are the server's own, and `own_ranges`
    /// those whose reverse names are answered here or nowhere.
    pub fn new(domain: &str, addresses: Vec<IpAddr>, own_ranges: Vec<IpNet>) -> Option<Zone> {
        let mut origin = Name::from_ascii(domain.to_ascii_lowercase()).ok()?;
        origin.set_fqdn(true);
        Some(Zone { origin, addresses, own_ranges })
    }

    /// The record that goes with a negative answer and says how long it may be kept.
    pub fn start_of_authority(&self) -> Record {
        let server = self.server_name();
        let mailbox = self.name(&["hostmaster"]);
        // The serial would have to rise with every change; nobody transfers this zone, so that it stays.
        let soa = SOA::new(server, mailbox, 1, 7200, 1800, 86_400, TTL);
        Record::from_rdata(self.origin.clone(), TTL, RData::SOA(soa))
    }

    /// Answers a question. `turn` rotates equal answers, so that clients that take the first share the work.
    pub fn answer(&self, tables: &Tables, question: &Name, kind: RecordType, turn: usize) -> Answer {
        let name = question.to_lowercase();
        if let Ok(range) = name.parse_arpa_name() {
            return self.reverse(tables, question, kind, range);
        }
        if !self.origin.zone_of(&name) {
            return Answer::NotOurs;
        }
        let mut found = Found::default();
        let mut current = name;
        // The owner of the first record is spelled as the client spelled it: some compare.
        let mut owner = question.clone();
        for _ in 0..LONGEST_CHAIN {
            let Some(node) = self.node(tables, &current) else {
                return if found.answers.is_empty() { Answer::NoSuchName } else { Answer::Found(found) };
            };
            let record = |data: RData| Record::from_rdata(owner.clone(), TTL, data);
            match node {
                Node::Alias(target) => {
                    found.answers.push(record(RData::CNAME(CNAME(target.clone()))));
                    if kind == RecordType::CNAME {
                        break;
                    }
                    if !self.origin.zone_of(&target) {
                        found.elsewhere = Some(target);
                        break;
                    }
                    owner = target.clone();
                    current = target.to_lowercase();
                    continue;
                }
                Node::Addresses(mut addresses) => {
                    if !addresses.is_empty() {
                        let middle = turn % addresses.len();
                        addresses.rotate_left(middle);
                    }
                    let of_kind = addresses.into_iter().filter_map(|address| match (kind, address) {
                        (RecordType::A, IpAddr::V4(v4)) => Some(RData::A(v4.into())),
                        (RecordType::AAAA, IpAddr::V6(v6)) => Some(RData::AAAA(v6.into())),
                        _ => None,
                    });
                    found.answers.extend(of_kind.map(record));
                    if kind == RecordType::SRV {
                        self.services_of(tables, &current, &owner, &mut found);
                    }
                }
                Node::Services(targets) if kind == RecordType::SRV => {
                    self.put_services(&owner, targets, &mut found);
                }
                Node::Text(text) if kind == RecordType::TXT => {
                    found.answers.push(record(RData::TXT(TXT::new(vec![text.to_owned()]))));
                }
                Node::Apex if kind == RecordType::SOA => found.answers.push(self.start_of_authority()),
                Node::Apex if kind == RecordType::NS => {
                    found.answers.push(record(RData::NS(NS(self.server_name()))));
                }
                Node::Empty | Node::Services(_) | Node::Text(_) | Node::Apex => {}
            }
            break;
        }
        Answer::Found(found)
    }

    fn server_name(&self) -> Name {
        self.name(&["ns", "dns"])
    }

    /// A name in the domain, from its labels. Labels come from objects that the API has checked, or from a question.
    fn name(&self, labels: &[&str]) -> Name {
        let head = Name::from_labels(labels.iter().map(|label| label.as_bytes())).unwrap_or_else(|_| Name::root());
        head.append_domain(&self.origin).unwrap_or_else(|_| self.origin.clone())
    }

    /// What the name stands for; none when it does not exist.
    fn node(&self, tables: &Tables, name: &Name) -> Option<Node> {
        let count = name.iter().count() - self.origin.iter().count();
        let labels: Vec<&str> = name.iter().take(count).map(std::str::from_utf8).collect::<Result<_, _>>().ok()?;
        match labels.as_slice() {
            [] => Some(Node::Apex),
            ["svc" | "pod" | "dns"] => Some(Node::Empty),
            ["dns-version"] => Some(Node::Text("1.1.0")),
            ["ns", "dns"] => Some(Node::Addresses(self.addresses.clone())),
            [rest @ .., "svc"] => self.service_node(tables, rest),
            [_namespace, "pod"] => Some(Node::Empty),
            // As CoreDNS answers with `pods insecure`, kubeadm's choice: the name says the address, whoever has it.
            [address, _namespace, "pod"] => dashed(address).map(|address| Node::Addresses(vec![address])),
            _ => None,
        }
    }

    fn service_node(&self, tables: &Tables, labels: &[&str]) -> Option<Node> {
        let find = |namespace: &str, service: &str| {
            let key: Key = (Arc::from(namespace), Arc::from(service));
            tables.service(&key).map(|found| (key, Arc::clone(found)))
        };
        match labels {
            [namespace] => tables.has_services_in(namespace).then_some(Node::Empty),
            [service, namespace] => {
                let (key, service) = find(namespace, service)?;
                if let Some(target) = &service.external_name {
                    // Some put an address there; a name that is one leads nowhere, as upstream warns.
                    let mut target = Name::from_ascii(&**target).ok()?;
                    target.set_fqdn(true);
                    return Some(Node::Alias(target));
                }
                if !service.headless {
                    return Some(Node::Addresses(service.cluster_ips.clone()));
                }
                // Without an endpoint that is ready there is nothing of that name, says the specification (2.4.1).
                let ready = ready(tables, &key);
                (!ready.is_empty()).then_some(Node::Addresses(ready))
            }
            [protocol, service, namespace] if matches!(*protocol, "_tcp" | "_udp" | "_sctp") => {
                let (key, service) = find(namespace, service)?;
                (!service.headless || endpoints(tables, &key).next().is_some()).then_some(Node::Empty)
            }
            [host, service, namespace] => {
                let (key, service) = find(namespace, service)?;
                if service.external_name.is_some() {
                    return None;
                }
                let addresses: Vec<IpAddr> = endpoints(tables, &key)
                    .filter(|endpoint| endpoint_label(endpoint).eq_ignore_ascii_case(host))
                    .map(|endpoint| endpoint.address)
                    .collect();
                (!addresses.is_empty()).then_some(Node::Addresses(unique(addresses)))
            }
            [port, protocol, service, namespace] => {
                let port = port.strip_prefix('_')?;
                let protocol = match *protocol {
                    "_tcp" => Protocol::Tcp,
                    "_udp" => Protocol::Udp,
                    "_sctp" => Protocol::Sctp,
                    _ => return None,
                };
                let (key, service) = find(namespace, service)?;
                let targets = self.targets(tables, &key, &service, Some((port, protocol)));
                (!targets.is_empty()).then_some(Node::Services(targets))
            }
            _ => None,
        }
    }

    /// Ports with the names to reach them at, for SRV: the service's own name, or each endpoint's when headless.
    fn targets(
        &self,
        tables: &Tables,
        key: &Key,
        service: &Service,
        only: Option<(&str, Protocol)>,
    ) -> Vec<(u16, Name, Vec<IpAddr>)> {
        let (namespace, name) = (&*key.0, &*key.1);
        let wanted = |port: &str, protocol: Protocol| {
            only.is_none_or(|(only, kind)| port.eq_ignore_ascii_case(only) && protocol == kind)
        };
        if !service.headless {
            let own = self.name(&[name, namespace, "svc"]);
            let ports = service.ports.iter().filter(|port| wanted(&port.name, port.protocol));
            return ports.map(|port| (port.port, own.clone(), service.cluster_ips.clone())).collect();
        }
        let mut targets: Vec<(u16, Name, Vec<IpAddr>)> = Vec::new();
        for slice in tables.slices(key) {
            for (_, _, number) in slice.ports.iter().filter(|(port, protocol, _)| wanted(port, *protocol)) {
                for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.ready) {
                    let target = self.name(&[&endpoint_label(endpoint), name, namespace, "svc"]);
                    match targets.iter_mut().find(|(port, name, _)| port == number && *name == target) {
                        Some((_, _, addresses)) if addresses.contains(&endpoint.address) => {}
                        Some((_, _, addresses)) => addresses.push(endpoint.address),
                        None => targets.push((*number, target, vec![endpoint.address])),
                    }
                }
            }
        }
        targets
    }

    /// SRV for a service's plain name: all of its ports, as CoreDNS answers.
    fn services_of(&self, tables: &Tables, name: &Name, owner: &Name, found: &mut Found) {
        let mut labels = name.iter().map(|label| std::str::from_utf8(label).unwrap_or_default());
        let (Some(service), Some(namespace), Some("svc")) = (labels.next(), labels.next(), labels.next()) else {
            return;
        };
        let key: Key = (Arc::from(namespace), Arc::from(service));
        if let Some(service) = tables.service(&key) {
            let targets = self.targets(tables, &key, service, None);
            self.put_services(owner, targets, found);
        }
    }

    fn put_services(&self, owner: &Name, targets: Vec<(u16, Name, Vec<IpAddr>)>, found: &mut Found) {
        // Weights of one priority share 100 evenly, as CoreDNS computes them.
        let weight = u16::try_from(100 / targets.len().max(1)).unwrap_or_default().max(1);
        for (port, target, addresses) in targets {
            for address in addresses {
                let data = match address {
                    IpAddr::V4(v4) => RData::A(v4.into()),
                    IpAddr::V6(v6) => RData::AAAA(v6.into()),
                };
                let record = Record::from_rdata(target.clone(), TTL, data);
                if !found.additionals.contains(&record) {
                    found.additionals.push(record);
                }
            }
            let data = RData::SRV(SRV::new(0, weight, port, target));
            found.answers.push(Record::from_rdata(owner.clone(), TTL, data));
        }
    }

    /// Names of addresses: a service's, or those of endpoints of headless services.
    fn reverse(&self, tables: &Tables, question: &Name, kind: RecordType, range: IpNet) -> Answer {
        let ours = self.own_ranges.iter().any(|own| own.contains(&range));
        if range.prefix_len() != range.max_prefix_len() {
            return if ours { Answer::Found(Found::default()) } else { Answer::NotOurs };
        }
        let address = range.addr();
        let mut names = Vec::new();
        for ((namespace, name), service) in tables.services() {
            if service.cluster_ips.contains(&address) {
                names.push(self.name(&[name, namespace, "svc"]));
            }
        }
        if names.is_empty() {
            for ((namespace, _), slice) in tables.all_slices() {
                let key: Key = (Arc::clone(namespace), Arc::clone(&slice.service));
                for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.ready && endpoint.address == address)
                {
                    let headless = tables.service(&key).is_some_and(|service| service.headless);
                    if headless || endpoint.hostname.is_some() {
                        names.push(self.name(&[&endpoint_label(endpoint), &slice.service, namespace, "svc"]));
                    }
                }
            }
        }
        names.sort();
        names.dedup();
        match (names.is_empty(), ours) {
            (true, true) => Answer::NoSuchName,
            (true, false) => Answer::NotOurs,
            (false, _) => {
                let records =
                    names.into_iter().map(|name| Record::from_rdata(question.clone(), TTL, RData::PTR(PTR(name))));
                let answers = if kind == RecordType::PTR { records.collect() } else { Vec::new() };
                Answer::Found(Found { answers, ..Found::default() })
            }
        }
    }
}

/// The ready endpoints of a service.
fn endpoints<'a>(tables: &'a Tables, key: &Key) -> impl Iterator<Item = &'a Endpoint> {
    let slices: Vec<&'a Arc<Slice>> = tables.slices(key).collect();
    slices.into_iter().flat_map(|slice| slice.endpoints.iter()).filter(|endpoint| endpoint.ready)
}

fn ready(tables: &Tables, key: &Key) -> Vec<IpAddr> {
    unique(endpoints(tables, key).map(|endpoint| endpoint.address).collect())
}

fn unique(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    addresses.sort();
    addresses.dedup();
    addresses
}

/// The label of an endpoint: the pod's hostname, or its address with dashes.
fn endpoint_label(endpoint: &Endpoint) -> String {
    match &endpoint.hostname {
        Some(hostname) => hostname.to_string(),
        None => endpoint.address.to_string().replace(['.', ':'], "-"),
    }
}

/// The address that `10-244-0-5` or `fd00--5` spells.
fn dashed(label: &str) -> Option<IpAddr> {
    label
        .replace('-', ".")
        .parse::<Ipv4Addr>()
        .map(IpAddr::V4)
        .ok()
        .or_else(|| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6).ok())
}

#[cfg(test)]
#[path = "zone_tests.rs"]
mod tests;
