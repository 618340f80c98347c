//! What of NetworkPolicies, pods and namespaces matters to policy, cut down as soon as it arrives.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::{
    api::{
        core::v1::{ContainerPort, Namespace, Node, Pod, PodIP},
        networking::v1 as networking,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kobune_partial::Partial;
use serde::{Deserialize, Serialize};

use super::{
    admin::NodeFacts,
    selector::{Labels, Selector},
};
use crate::network::Protocol;

/// A NetworkPolicy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The pods of its namespace that it isolates.
    pub pods: Selector,
    /// What may come in; none when it says nothing of that.
    pub ingress: Option<Vec<Rule>>,
    /// What may go out; none when it says nothing of that.
    pub egress: Option<Vec<Rule>>,
}

/// One rule: who, and at which ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// The others; empty for everybody.
    pub peers: Vec<Peer>,
    /// The ports of the receiving side; empty for all ports of all protocols.
    pub ports: Vec<Ports>,
}

/// Who is on the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Pods.
    Pods {
        /// In these namespaces; in the policy's own when absent.
        namespaces: Option<Selector>,
        /// With these labels.
        pods: Selector,
    },
    /// Addresses.
    Block {
        /// In this range,
        range: IpNet,
        /// but not in these.
        except: Vec<IpNet>,
    },
}

/// Some ports of one protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// From one number to another; 0 to 65535 are all of the protocol.
    Numbers(Protocol, u16, u16),
    /// The port that the receiving pod calls so.
    Named(Protocol, Box<str>),
    /// One that cannot be: it allows nothing.
    None,
}

/// A pod, as peers and policies select it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodFacts {
    /// Its uid.
    pub uid: Box<str>,
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses, as far as they are known.
    pub ips: Vec<IpAddr>,
    /// Its ports that have names.
    pub ports: Vec<(Box<str>, Protocol, u16)>,
}

impl Policy {
    /// From the API's object.
    pub fn of(object: networking::NetworkPolicy) -> Policy {
        let Some(spec) = object.spec else { return Policy::default() };
        let types = spec.policy_types.unwrap_or_default();
        let says = |direction: &str| types.iter().any(|known| known == direction);
        // The API server fills the types in; without them, upstream's rule holds.
        let ingress = types.is_empty() || says("Ingress");
        let egress =
            says("Egress") || (types.is_empty() && spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()));
        let incoming = spec.ingress.into_iter().flatten().map(|rule| Rule::of(rule.from, rule.ports));
        let outgoing = spec.egress.into_iter().flatten().map(|rule| Rule::of(rule.to, rule.ports));
        Policy {
            pods: spec.pod_selector.as_ref().map(Selector::of).unwrap_or_default(),
            ingress: ingress.then(|| incoming.collect()),
            egress: egress.then(|| outgoing.collect()),
        }
    }
}

impl Rule {
    fn of(
        peers: Option<Vec<networking::NetworkPolicyPeer>>,
        ports: Option<Vec<networking::NetworkPolicyPort>>,
    ) -> Rule {
        let peers = peers.into_iter().flatten().map(|peer| match peer.ip_block {
            // A range that cannot be read is one that validation would have refused; it must not become "everybody".
            Some(block) => {
                let except = block.except.iter().flatten();
                let except = except.map(|range| range.parse::<IpNet>()).collect::<Result<Vec<_>, _>>();
                match (block.cidr.parse::<IpNet>(), except) {
                    (Ok(range), Ok(except)) => Peer::Block { range, except },
                    _ => Peer::Block { range: IpNet::from(IpAddr::from([0, 0, 0, 0])), except: Vec::new() },
                }
            }
            None => Peer::Pods {
                namespaces: peer.namespace_selector.as_ref().map(Selector::of),
                pods: peer.pod_selector.as_ref().map(Selector::of).unwrap_or_default(),
            },
        });
        let ports = ports.into_iter().flatten().map(|port| {
            let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else { return Ports::None };
            let number = |port: i32| u16::try_from(port).ok();
            match port.port {
                None => Ports::Numbers(protocol, 0, u16::MAX),
                Some(IntOrString::String(name)) => Ports::Named(protocol, name.into_boxed_str()),
                Some(IntOrString::Int(first)) => match (number(first), number(port.end_port.unwrap_or(first))) {
                    (Some(first), Some(last)) if first <= last => Ports::Numbers(protocol, first, last),
                    _ => Ports::None,
                },
            }
        });
        Rule { peers: peers.collect(), ports: ports.collect() }
    }
}

/// The labels of a namespace.
pub(crate) fn namespace_labels(object: Namespace) -> Option<Labels> {
    Some(labels(object.metadata.labels))
}

/// What peers select a node by.
pub(crate) fn node_facts(object: Node) -> Option<NodeFacts> {
    let addresses = object.status.into_iter().flat_map(|status| status.addresses.into_iter().flatten());
    Some(NodeFacts {
        labels: labels(object.metadata.labels),
        ips: addresses.filter_map(|address| address.address.parse().ok()).collect(),
    })
}

fn labels(labels: Option<std::collections::BTreeMap<String, String>>) -> Labels {
    labels.into_iter().flatten().map(|(key, value)| (key.into_boxed_str(), value.into_boxed_str())).collect()
}

impl PodFacts {
    /// What a node knows of a pod before anybody else does: all but its addresses.
    pub fn of_pod(pod: &Pod) -> PodFacts {
        let spec = pod.spec.as_ref();
        let containers = spec.into_iter().flat_map(|spec| &spec.containers);
        let sidecars = spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten());
        let ports = containers.chain(sidecars).flat_map(|container| container.ports.iter().flatten());
        PodFacts {
            uid: pod.metadata.uid.clone().unwrap_or_default().into_boxed_str(),
            namespace: pod.metadata.namespace.as_deref().unwrap_or_default().into(),
            name: pod.metadata.name.as_deref().unwrap_or_default().into(),
            labels: labels(pod.metadata.labels.clone()),
            ips: Vec::new(),
            ports: ports.filter_map(named).collect(),
        }
    }
}

fn named(port: &ContainerPort) -> Option<(Box<str>, Protocol, u16)> {
    let name = port.name.clone()?.into_boxed_str();
    Some((name, Protocol::parse(port.protocol.as_deref())?, u16::try_from(port.container_port).ok()?))
}

/// The fields of a Pod that the watch decodes: every pod of the cluster comes by here.
pub(crate) type PodInput = Partial<Pod, SpecInput, StatusInput>;

/// What policy reads of a pod's `spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct SpecInput {
    host_network: bool,
    containers: Vec<ContainerInput>,
    init_containers: Option<Vec<ContainerInput>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ContainerInput {
    ports: Option<Vec<ContainerPort>>,
}

/// What policy reads of a pod's `status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct StatusInput {
    phase: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIP>>,
}

/// None for a pod that has no address of its own: it is in the node's network, or it has ended.
pub(crate) fn facts(pod: PodInput) -> Option<PodFacts> {
    if pod.spec.host_network || matches!(pod.status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let containers = pod.spec.containers.iter().chain(pod.spec.init_containers.iter().flatten());
    let ports = containers.flat_map(|container| container.ports.iter().flatten()).filter_map(named).collect();
    Some(PodFacts {
        uid: pod.metadata.uid.unwrap_or_default().into_boxed_str(),
        namespace: pod.metadata.namespace.unwrap_or_default().into(),
        name: pod.metadata.name.unwrap_or_default().into(),
        labels: labels(pod.metadata.labels),
        ips: pod.status.pod_ips.iter().flatten().filter_map(|ip| ip.ip.parse().ok()).collect(),
        ports,
    })
}
