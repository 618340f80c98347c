//! Where packets to services come in and where they go, as elements of the table's maps. Pure.
//!
//! ```text
//!   service-ips4      address . protocol . port            : goto spread4-2 │ goto a chain of the service's own │ drop
//!   service-ends4     address . protocol . port . number   : address . port of an endpoint
//!   idle-ips4         address . protocol . port            : goto refuse
//!   node-ports4, node-ends4, idle-ports4: the same without the address, for ports of the node's own addresses
//! ```
//!
//! The chain `spread4-2` draws one of two numbers and looks the endpoint up by it. So a service is a few elements, no
//! chain and no rule, and a change of one is a change of those elements whatever else there is.

use std::{collections::BTreeMap, fmt::Write, net::IpAddr, sync::Arc};

use super::plan::Family;
use crate::network::Protocol;

/// An address and port that answers.
pub type Endpoint = (IpAddr, u16);

/// Where packets come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Front {
    /// At an address.
    Address(IpAddr, Protocol, u16),
    /// At every address of the node.
    Node(Family, Protocol, u16),
}

/// What becomes of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// What the front's element says.
    pub verdict: Verdict,
    /// The endpoints, each once, in order.
    pub endpoints: Arc<[Endpoint]>,
    /// Whether endpoints are looked up by number: not where the service has a chain that names them.
    pub numbered: bool,
}

/// What the element of a front says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody is there.
    Refuse,
    /// A policy leaves nobody.
    Drop,
    /// One of that many endpoints.
    Spread(u32),
    /// What a chain of the service's own says.
    Chain(Arc<str>),
}

/// The key of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// A front that leads somewhere.
    Served(Front),
    /// A front that leads nowhere.
    Idle(Front),
    /// One of a front's endpoints by number.
    End(Front, u32),
    /// A pod of this node, which must not see its own address as the sender when it reaches itself.
    Hairpin(IpAddr),
}

/// What an element leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A verdict.
    Verdict(Verdict),
    /// An endpoint.
    Endpoint(Endpoint),
    /// Nothing: a set has it.
    None,
}

/// A chain that draws one of that many endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spread {
    /// The family of the endpoints.
    pub family: Family,
    /// Whether the front is a port of the node.
    pub node: bool,
    /// How many there are.
    pub count: u32,
}

impl Front {
    /// The family of the packets.
    pub fn family(&self) -> Family {
        match self {
            Front::Address(address, ..) => Family::of(address),
            Front::Node(family, ..) => *family,
        }
    }

    /// The protocol.
    pub fn protocol(&self) -> Protocol {
        match self {
            Front::Address(_, protocol, _) | Front::Node(_, protocol, _) => *protocol,
        }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Front::Address(.., port) | Front::Node(.., port) => *port,
        }
    }

    /// The address, if it is one.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Front::Address(address, ..) => Some(*address),
            Front::Node(..) => None,
        }
    }

    fn is_node(&self) -> bool {
        matches!(self, Front::Node(..))
    }

    /// The chain that draws one of its `count` endpoints.
    pub fn spread(&self, count: u32) -> Spread {
        Spread { family: self.family(), node: self.is_node(), count }
    }

    fn text(&self, out: &mut String) {
        if let Some(address) = self.address() {
            write!(out, "{address} . ").expect("writing to a string cannot fail");
        }
        write!(out, "{} . {}", self.protocol().lower(), self.port()).expect("writing to a string cannot fail");
    }

    fn bytes(&self, out: &mut Vec<u8>) {
        if let Some(address) = self.address() {
            octets(&address, out);
        }
        out.extend_from_slice(&[self.protocol().number(), 0, 0, 0]);
        port(self.port(), out);
    }
}

/// Each part of a key begins at a multiple of four bytes.
fn octets(address: &IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
    }
}

fn port(port: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(&port.to_be_bytes());
    out.extend_from_slice(&[0; 2]);
}

impl Way {
    /// Puts the elements that lead `front` this way.
    pub fn elements(&self, front: Front, out: &mut BTreeMap<Element, Value>) {
        match &self.verdict {
            Verdict::Refuse => out.insert(Element::Idle(front), Value::Verdict(Verdict::Refuse)),
            verdict => out.insert(Element::Served(front), Value::Verdict(verdict.clone())),
        };
        if self.numbered {
            for (number, endpoint) in (0..).zip(self.endpoints.iter()) {
                out.insert(Element::End(front, number), Value::Endpoint(*endpoint));
            }
        }
    }

    /// The chain that draws one of its endpoints, where there is one.
    pub fn spread(&self, front: &Front) -> Option<Spread> {
        self.numbered.then(|| front.spread(self.endpoints.len() as u32))
    }
}

impl Element {
    /// The name of the set that has it.
    pub fn set(&self) -> &'static str {
        let (front, four, six) = match self {
            Element::Served(front) if front.is_node() => (front, "node-ports4", "node-ports6"),
            Element::Served(front) => (front, "service-ips4", "service-ips6"),
            Element::Idle(front) if front.is_node() => (front, "idle-ports4", "idle-ports6"),
            Element::Idle(front) => (front, "idle-ips4", "idle-ips6"),
            Element::End(front, _) if front.is_node() => (front, "node-ends4", "node-ends6"),
            Element::End(front, _) => (front, "service-ends4", "service-ends6"),
            Element::Hairpin(address) => return if address.is_ipv4() { "hairpins4" } else { "hairpins6" },
        };
        if front.family() == Family::V4 { four } else { six }
    }

    /// In the words of rules.
    pub fn text(&self, out: &mut String) {
        match self {
            Element::Served(front) | Element::Idle(front) => front.text(out),
            Element::End(front, number) => {
                front.text(out);
                write!(out, " . {number}").expect("writing to a string cannot fail");
            }
            Element::Hairpin(address) => {
                write!(out, "{address} . {address}").expect("writing to a string cannot fail");
            }
        }
    }

    /// As the kernel has it.
    pub fn bytes(&self, out: &mut Vec<u8>) {
        match self {
            Element::Served(front) | Element::Idle(front) => front.bytes(out),
            Element::End(front, number) => {
                front.bytes(out);
                // Numbers that are drawn have the machine's own order of bytes.
                out.extend_from_slice(&number.to_ne_bytes());
            }
            Element::Hairpin(address) => {
                octets(address, out);
                octets(address, out);
            }
        }
    }

    /// The chain that a verdict of this element leads to; none for `drop`.
    pub fn target(&self, verdict: &Verdict) -> Option<Arc<str>> {
        match (verdict, self) {
            (Verdict::Drop, _) | (_, Element::Hairpin(_)) => None,
            (Verdict::Refuse, _) => Some(Arc::from("refuse")),
            (Verdict::Chain(name), _) => Some(Arc::clone(name)),
            (Verdict::Spread(count), Element::Served(front) | Element::Idle(front) | Element::End(front, _)) => {
                Some(Arc::from(front.spread(*count).chain()))
            }
        }
    }

    /// What it leads to, in the words of rules.
    pub fn value_text(&self, value: &Value) -> Option<String> {
        match value {
            Value::None => None,
            Value::Endpoint((address, port)) => Some(format!("{address} . {port}")),
            Value::Verdict(verdict) => {
                Some(self.target(verdict).map_or_else(|| "drop".to_owned(), |chain| format!("goto {chain}")))
            }
        }
    }
}

/// An endpoint as the kernel has it.
pub fn endpoint_bytes((address, number): &Endpoint, out: &mut Vec<u8>) {
    octets(address, out);
    port(*number, out);
}

impl Spread {
    /// The chain's name.
    pub fn chain(&self) -> String {
        let node = if self.node { "node-" } else { "" };
        format!("{node}spread{}-{}", self.family.digit(), self.count)
    }

    /// The map that endpoints are looked up in.
    pub fn map(&self) -> String {
        let kind = if self.node { "node" } else { "service" };
        format!("{kind}-ends{}", self.family.digit())
    }

    /// Out of how many each rule of the chain draws, in order. A packet that comes while the rules change may draw the
    /// number of an endpoint that has just gone: the first endpoint is there as long as there is any.
    pub fn draws(&self) -> Vec<u32> {
        if self.count > 1 { vec![self.count, 1] } else { vec![1] }
    }

    /// The chain's rules.
    pub fn rules(&self) -> Vec<String> {
        let (ip, map) = (self.family.word(), self.map());
        let key = if self.node { String::new() } else { format!("{ip} daddr . ") };
        let draw = |count: u32| {
            let key = format!("{key}meta l4proto . th dport . numgen random mod {count}");
            format!("meta l4proto {{ tcp, udp, sctp }} dnat {ip} to {key} map @{map}")
        };
        self.draws().into_iter().map(draw).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_padded_to_words() {
        let check = |element: Element, text: &str, expected: &[u8]| {
            let (mut found, mut bytes) = (String::new(), Vec::new());
            element.text(&mut found);
            element.bytes(&mut bytes);
            assert_eq!((found.as_str(), bytes.as_slice()), (text, expected));
        };
        let front = Front::Address(IpAddr::from([10, 96, 0, 7]), Protocol::Udp, 0x1234);
        check(Element::Served(front), "10.96.0.7 . udp . 4660", &[10, 96, 0, 7, 17, 0, 0, 0, 0x12, 0x34, 0, 0]);
        let number = 3u32.to_ne_bytes();
        check(
            Element::End(Front::Node(Family::V6, Protocol::Sctp, 256), 3),
            "sctp . 256 . 3",
            &[&[132, 0, 0, 0, 1, 0, 0, 0][..], &number].concat(),
        );
        check(Element::Hairpin(IpAddr::from([10, 0, 0, 1])), "10.0.0.1 . 10.0.0.1", &[10, 0, 0, 1, 10, 0, 0, 1]);
    }
}
