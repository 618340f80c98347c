//! Policies of administrators: what of ClusterNetworkPolicies, and of the AdminNetworkPolicies that they replace, matters.
//!
//! They are custom resources of the group `policy.networking.k8s.io`, whose definitions users install. Both forms become
//! the same: rules of a tier in an order, of which the first that fits a connection decides. Upstream:
//! <https://network-policy-api.sigs.k8s.io/reference/spec/>.

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;
use serde_json::Value;

use super::{objects::Ports, selector::Selector};
use crate::network::Protocol;

/// The group of the definitions.
pub const GROUP: &str = "policy.networking.k8s.io";

/// The kinds that are read, with the names of their resources and the versions that are known, newest first.
pub const KINDS: [(&str, &str, &[&str]); 3] = [
    ("ClusterNetworkPolicy", "clusternetworkpolicies", &["v1beta1", "v1alpha2"]),
    ("AdminNetworkPolicy", "adminnetworkpolicies", &["v1alpha1"]),
    ("BaselineAdminNetworkPolicy", "baselineadminnetworkpolicies", &["v1alpha1"]),
];

/// When a policy is asked: before NetworkPolicies, or where these say nothing of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Before NetworkPolicies.
    Admin,
    /// Where no NetworkPolicy isolates the pod.
    Baseline,
}

/// A policy of an administrator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminPolicy {
    /// Its tier.
    pub tier: Tier,
    /// Its place in the tier: less comes first. Among equals the name decides, which upstream leaves open.
    pub priority: u16,
    /// The pods that it is about.
    pub subject: Pods,
    /// What comes in.
    pub ingress: Vec<AdminRule>,
    /// What goes out.
    pub egress: Vec<AdminRule>,
}

/// Pods in namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Pods {
    /// The namespaces.
    pub namespaces: Selector,
    /// The pods in them.
    pub pods: Selector,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It is let through, whatever later tiers say.
    Accept,
    /// It is dropped.
    Deny,
    /// The next tier decides.
    Pass,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminRule {
    /// What becomes of what fits.
    pub action: Action,
    /// The other side.
    pub peers: Vec<AdminPeer>,
    /// The receiver's ports; empty for all of all protocols.
    pub ports: Vec<Ports>,
}

/// Who is on the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminPeer {
    /// Pods.
    Pods(Pods),
    /// Nodes, by all their addresses.
    Nodes(Selector),
    /// Addresses.
    Networks(Vec<IpNet>),
    /// Everybody: what a rule that cannot be understood denies.
    Anyone,
}

/// A node, as peers select it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its labels.
    pub labels: super::selector::Labels,
    /// Its addresses.
    pub ips: Vec<std::net::IpAddr>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    tier: Option<String>,
    #[serde(default)]
    priority: u16,
    subject: Option<Value>,
    #[serde(default)]
    ingress: Vec<RuleInput>,
    #[serde(default)]
    egress: Vec<RuleInput>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RuleInput {
    action: String,
    #[serde(default, alias = "to")]
    from: Vec<Value>,
    /// Of a ClusterNetworkPolicy.
    protocols: Option<Vec<Value>>,
    /// Of an AdminNetworkPolicy.
    ports: Option<Vec<Value>>,
}

/// From the API's object of one of [`KINDS`]. None for one that has no form that could be acted upon, which validation by the
/// definition does not let in.
pub fn of(kind: &str, spec: &Value) -> Option<AdminPolicy> {
    let spec = Spec::deserialize(spec)
        .inspect_err(|error| tracing::warn!(kind, %error, "a network policy cannot be read and has no effect"))
        .ok()?;
    let tier = match (kind, spec.tier.as_deref()) {
        ("AdminNetworkPolicy", _) | (_, Some("Admin")) => Tier::Admin,
        ("BaselineAdminNetworkPolicy", _) | (_, Some("Baseline")) => Tier::Baseline,
        _ => return None,
    };
    Some(AdminPolicy {
        tier,
        priority: spec.priority,
        subject: pods(&spec.subject?)?,
        ingress: spec.ingress.into_iter().filter_map(rule).collect(),
        egress: spec.egress.into_iter().filter_map(rule).collect(),
    })
}

/// A rule that says something unknown is of a later version. It then lets nothing through that it might not mean to: one that
/// accepts accepts nothing, any other denies everything.
fn rule(input: RuleInput) -> Option<AdminRule> {
    let action = match input.action.as_str() {
        "Accept" | "Allow" => Some(Action::Accept),
        "Deny" => Some(Action::Deny),
        "Pass" => Some(Action::Pass),
        _ => None,
    };
    let peers: Option<Vec<AdminPeer>> = input.from.iter().map(peer).collect();
    let ports = input.protocols.or(input.ports).unwrap_or_default();
    let ports: Option<Vec<Vec<Ports>>> = ports.iter().map(ports_of).collect();
    match (action, peers.filter(|peers| !peers.is_empty()), ports) {
        (Some(action), Some(peers), Some(ports)) => Some(AdminRule { action, peers, ports: ports.concat() }),
        (Some(Action::Accept), _, _) => None,
        _ => Some(AdminRule { action: Action::Deny, peers: vec![AdminPeer::Anyone], ports: Vec::new() }),
    }
}

fn selector(value: &Value) -> Option<Selector> {
    LabelSelector::deserialize(value).ok().map(|selector| Selector::of(&selector))
}

/// `namespaces`, or `pods` with selectors of both.
fn pods(value: &Value) -> Option<Pods> {
    if let Some(namespaces) = value.get("namespaces") {
        return Some(Pods { namespaces: selector(namespaces)?, pods: Selector::default() });
    }
    let both = value.get("pods")?;
    let namespaces = both.get("namespaceSelector").map_or(Some(Selector::default()), selector)?;
    Some(Pods { namespaces, pods: selector(both.get("podSelector")?)? })
}

fn peer(value: &Value) -> Option<AdminPeer> {
    if let Some(pods) = pods(value) {
        return Some(AdminPeer::Pods(pods));
    }
    if let Some(nodes) = value.get("nodes") {
        return selector(nodes).map(AdminPeer::Nodes);
    }
    let ranges = value.get("networks")?.as_array()?;
    let ranges: Option<Vec<IpNet>> = ranges.iter().map(|range| range.as_str()?.parse().ok()).collect();
    ranges.map(AdminPeer::Networks)
}

/// An item of `protocols` or of `ports`. A port that is only named is of any protocol.
fn ports_of(value: &Value) -> Option<Vec<Ports>> {
    if let Some(name) = value.get("destinationNamedPort").or(value.get("namedPort")) {
        let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        return Some(all.map(|protocol| Ports::Named(protocol, name.as_str().unwrap_or_default().into())).to_vec());
    }
    let number = |value: &Value, key: &str| value.get(key)?.as_u64().and_then(|port| u16::try_from(port).ok());
    let range = |value: &Value| Some((number(value, "start")?, number(value, "end")?));
    if let Some(one) = value.get("portNumber") {
        let port = number(one, "port")?;
        return Some(vec![Ports::Numbers(protocol(one)?, port, port)]);
    }
    if let Some(several) = value.get("portRange") {
        let (first, last) = range(several)?;
        return Some(vec![Ports::Numbers(protocol(several)?, first, last)]);
    }
    for (key, protocol) in [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("sctp", Protocol::Sctp)] {
        let Some(of_protocol) = value.get(key) else { continue };
        let Some(port) = of_protocol.get("destinationPort") else {
            return Some(vec![Ports::Numbers(protocol, 0, u16::MAX)]);
        };
        let (first, last) = match number(port, "number") {
            Some(port) => (port, port),
            None => range(port.get("range")?)?,
        };
        return Some(vec![Ports::Numbers(protocol, first, last)]);
    }
    None
}

fn protocol(value: &Value) -> Option<Protocol> {
    Protocol::parse(value.get("protocol").and_then(Value::as_str))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_of_both_forms() {
        let everywhere = || Pods::default();
        let check = |rule: Value, expected: Option<AdminRule>| {
            let spec = json!({"tier": "Admin", "priority": 5, "subject": {"namespaces": {}}, "egress": [rule]});
            let policy = of("ClusterNetworkPolicy", &spec).expect("a policy");
            assert_eq!((policy.tier, policy.priority, policy.subject), (Tier::Admin, 5, everywhere()));
            assert_eq!(policy.egress, expected.into_iter().collect::<Vec<_>>(), "{rule}");
        };
        let made = |action, peer, ports: Vec<Ports>| Some(AdminRule { action, peers: vec![peer], ports });
        let web: Value = json!({"matchLabels": {"app": "web"}});
        let web_pods = Pods { namespaces: Selector::default(), pods: selector(&web).expect("a selector") };
        check(
            json!({"action": "Accept", "to": [{"namespaces": {}}]}),
            made(Action::Accept, AdminPeer::Pods(everywhere()), Vec::new()),
        );
        check(
            json!({"action": "Pass", "to": [{"pods": {"namespaceSelector": {}, "podSelector": web}}],
                "protocols": [{"tcp": {"destinationPort": {"number": 80}}}, {"udp": {"destinationPort": {"range": {"start": 1, "end": 9}}}}]}),
            made(
                Action::Pass,
                AdminPeer::Pods(web_pods),
                vec![Ports::Numbers(Protocol::Tcp, 80, 80), Ports::Numbers(Protocol::Udp, 1, 9)],
            ),
        );
        check(
            json!({"action": "Allow", "to": [{"nodes": {}}], "ports": [{"portNumber": {"port": 53, "protocol": "UDP"}},
                {"portRange": {"start": 1, "end": 9}}]}),
            made(
                Action::Accept,
                AdminPeer::Nodes(Selector::default()),
                vec![Ports::Numbers(Protocol::Udp, 53, 53), Ports::Numbers(Protocol::Tcp, 1, 9)],
            ),
        );
        check(
            json!({"action": "Deny", "to": [{"networks": ["10.0.0.0/8"]}], "protocols": [{"sctp": {}}]}),
            made(
                Action::Deny,
                AdminPeer::Networks(vec!["10.0.0.0/8".parse().expect("a range")]),
                vec![Ports::Numbers(Protocol::Sctp, 0, u16::MAX)],
            ),
        );
        let named = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(|of| Ports::Named(of, "http".into())).to_vec();
        for ports in
            [json!({"ports": [{"namedPort": "http"}]}), json!({"protocols": [{"destinationNamedPort": "http"}]})]
        {
            let mut rule = json!({"action": "Accept", "to": [{"namespaces": {}}]});
            rule.as_object_mut().expect("an object").extend(ports.as_object().expect("an object").clone());
            check(rule, made(Action::Accept, AdminPeer::Pods(everywhere()), named.clone()));
        }

        // What is not understood lets nothing through.
        let closed = || made(Action::Deny, AdminPeer::Anyone, Vec::new());
        check(json!({"action": "Accept", "to": [{"domainNames": ["a.example"]}]}), None);
        check(json!({"action": "Deny", "to": [{"later": {}}]}), closed());
        check(json!({"action": "Pass", "to": [{"namespaces": {}}, {"later": {}}]}), closed());
        check(json!({"action": "Deny", "to": [{"networks": ["x"]}]}), closed());
        check(json!({"action": "Pass", "to": [{"namespaces": {}}], "protocols": [{"icmp": {}}]}), closed());
        check(
            json!({"action": "Accept", "to": [{"namespaces": {}}], "protocols": [{"tcp": {"destinationPort": {}}}]}),
            None,
        );
        check(json!({"action": "Later", "to": [{"namespaces": {}}]}), closed());
    }

    #[test]
    fn tiers_of_kinds() {
        let check = |kind: &str, spec: Value, expected: Option<Tier>| {
            assert_eq!(of(kind, &spec).map(|policy| policy.tier), expected, "{kind} {spec}");
        };
        let subject = json!({"pods": {"podSelector": {}}});
        check("AdminNetworkPolicy", json!({"priority": 1, "subject": subject}), Some(Tier::Admin));
        check("BaselineAdminNetworkPolicy", json!({"subject": subject}), Some(Tier::Baseline));
        check("ClusterNetworkPolicy", json!({"tier": "Baseline", "subject": subject}), Some(Tier::Baseline));
        check("ClusterNetworkPolicy", json!({"tier": "Later", "subject": subject}), None);
        check("ClusterNetworkPolicy", json!({"tier": "Admin", "subject": {}}), None);
        check("ClusterNetworkPolicy", json!({"tier": "Admin", "priority": -1, "subject": subject}), None);
    }
}
