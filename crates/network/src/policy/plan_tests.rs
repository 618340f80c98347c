//! Whatever the policies, a packet passes exactly when the words of the API say so.

use proptest::{collection, option, prelude::*, sample};

use super::*;
use crate::policy::{admin::Pods, selector::Selector};

/// Whether `plan` lets the first packet of a connection pass.
fn passes(isolation: &Isolation, from: IpAddr, to: IpAddr, protocol: Protocol, port: u16) -> bool {
    let fits = |found: &Match, other: IpAddr| {
        let peer = match &found.peer {
            PeerMatch::Anyone => true,
            PeerMatch::Itself => from == to,
            PeerMatch::Pods(set) => isolation.pods[set].contains(&other),
            PeerMatch::Blocks(set) => {
                isolation.blocks[set].iter().any(|(first, last)| (*first..=*last).contains(&other))
            }
        };
        let port = match &found.port {
            PortMatch::Any => true,
            PortMatch::Numbers(of, spans) => {
                *of == protocol && spans.iter().any(|(first, last)| (*first..=*last).contains(&port))
            }
            PortMatch::Named(set) => isolation.named[set].contains(&(to, protocol, port)),
        };
        peer && port
    };
    let lets = |first: &String, other: IpAddr| {
        let mut chain = first;
        loop {
            let steps = &isolation.chains[chain];
            let found = steps.matches.iter().find(|(found, _)| fits(found, other));
            match found.map_or(&steps.otherwise, |(_, verdict)| verdict) {
                Verdict::Pass => return true,
                Verdict::Drop => return false,
                Verdict::Goto(next) => chain = next,
            }
        }
    };
    isolation.from.get(&from).is_none_or(|chain| lets(chain, to))
        && isolation.to.get(&to).is_none_or(|chain| lets(chain, from))
}

/// The same question asked of the policies themselves, as the API reference words it.
fn allowed(world: &World<'_>, from: IpAddr, to: IpAddr, protocol: Protocol, port: u16) -> bool {
    let pod_at = |address: IpAddr| world.pods.iter().find(|pod| pod.ips.contains(&address));
    let port_fits = |ports: &Ports| match ports {
        Ports::Numbers(of, first, last) => *of == protocol && (*first..=*last).contains(&port),
        Ports::Named(of, name) => {
            *of == protocol && pod_at(to).is_some_and(|pod| pod.ports.contains(&(name.clone(), protocol, port)))
        }
        Ports::None => false,
    };
    let rule_fits = |namespace: &str, rule: &Rule, other: IpAddr| {
        let peer = rule.peers.is_empty()
            || rule.peers.iter().any(|peer| match peer {
                Peer::Block { range, except } => {
                    range.contains(&other) && !except.iter().any(|hole| hole.contains(&other))
                }
                Peer::Pods { namespaces, pods } => pod_at(other).is_some_and(|pod| {
                    let there = match namespaces {
                        None => *pod.namespace == *namespace,
                        Some(selector) => {
                            world.namespaces.get(&*pod.namespace).is_some_and(|labels| selector.matches(labels))
                        }
                    };
                    there && pods.matches(&pod.labels)
                }),
            });
        peer && (rule.ports.is_empty() || rule.ports.iter().any(port_fits))
    };
    let in_pods = |pod: &PodFacts, meant: &Pods| {
        world.namespaces.get(&*pod.namespace).is_some_and(|labels| meant.namespaces.matches(labels))
            && meant.pods.matches(&pod.labels)
    };
    let admin_fits = |rule: &AdminRule, other: IpAddr| {
        let peer = rule.peers.iter().any(|peer| match peer {
            AdminPeer::Anyone => true,
            AdminPeer::Pods(meant) => pod_at(other).is_some_and(|pod| in_pods(pod, meant)),
            AdminPeer::Nodes(selector) => {
                world.nodes.iter().any(|node| selector.matches(&node.labels) && node.ips.contains(&other))
            }
            AdminPeer::Networks(ranges) => ranges.iter().any(|range| range.contains(&other)),
        });
        peer && (rule.ports.is_empty() || rule.ports.iter().any(port_fits))
    };
    // The first rule of a tier that fits, if any does.
    let decided = |tier: Tier, pod: &PodFacts, other: IpAddr, rules: fn(&AdminPolicy) -> &Vec<AdminRule>| {
        let mut policies: Vec<_> =
            world.admin.iter().filter(|(_, policy)| policy.tier == tier && in_pods(pod, &policy.subject)).collect();
        policies.sort_by_key(|(_, policy)| policy.priority);
        let mut rules = policies.into_iter().flat_map(|(_, policy)| rules(policy));
        rules.find(|rule| admin_fits(rule, other)).map(|rule| rule.action)
    };
    type Of<T> = fn(&T) -> &Vec<AdminRule>;
    let side = |own: IpAddr, other: IpAddr, rules: fn(&Policy) -> Option<&Vec<Rule>>, admin: Of<AdminPolicy>| {
        let Some(pod) = pod_at(own) else { return true };
        match decided(Tier::Admin, pod, other, admin) {
            Some(Action::Accept) => return true,
            Some(Action::Deny) => return false,
            Some(Action::Pass) | None => {}
        }
        let selecting: Vec<_> = world
            .policies
            .iter()
            .filter(|(key, policy)| *key.0 == *pod.namespace && policy.pods.matches(&pod.labels))
            .filter_map(|(_, policy)| rules(policy))
            .collect();
        if !selecting.is_empty() {
            let fits = |rules: &&Vec<Rule>| rules.iter().any(|rule| rule_fits(&pod.namespace, rule, other));
            // What it sends to itself through a Service.
            return own == other || selecting.iter().any(fits);
        }
        decided(Tier::Baseline, pod, other, admin) != Some(Action::Deny)
    };
    side(from, to, |policy| policy.egress.as_ref(), |policy| &policy.egress)
        && side(to, from, |policy| policy.ingress.as_ref(), |policy| &policy.ingress)
}

const NAMESPACES: [&str; 2] = ["shop", "bank"];

fn selector() -> impl Strategy<Value = Selector> {
    let label = (sample::select(vec!["app", "tier"]), sample::select(vec!["a", "b"]));
    let expression = (sample::select(vec!["In", "NotIn", "Exists", "DoesNotExist"]), label.clone());
    (option::of(label), option::of(expression)).prop_map(|(label, expression)| {
        let expression = expression.map(|(operator, (key, value))| {
            let values = if operator.contains("In") { vec![value] } else { Vec::new() };
            serde_json::json!({"key": key, "operator": operator, "values": values})
        });
        let labels = label.map(|(key, value)| serde_json::json!({key: value}));
        let parsed = serde_json::json!({"matchLabels": labels, "matchExpressions": expression.map(|one| vec![one])});
        Selector::of(&serde_json::from_value(parsed).expect("a selector"))
    })
}

fn range() -> impl Strategy<Value = IpNet> {
    (0..8u8, 28..=32u8).prop_map(|(last, length)| {
        IpNet::new(IpAddr::from([10, 0, 0, last * 2]), length).expect("a length of the family").trunc()
    })
}

fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        (option::of(selector()), selector()).prop_map(|(namespaces, pods)| Peer::Pods { namespaces, pods }),
        (range(), collection::vec(range(), 0..3)).prop_map(|(range, except)| Peer::Block { range, except }),
    ]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    sample::select(vec![Protocol::Tcp, Protocol::Udp])
}

fn ports() -> impl Strategy<Value = Ports> {
    prop_oneof![
        (protocol(), 1..6u16, 0..3u16).prop_map(|(protocol, first, more)| Ports::Numbers(
            protocol,
            first,
            first + more
        )),
        protocol().prop_map(|protocol| Ports::Numbers(protocol, 0, u16::MAX)),
        (protocol(), sample::select(vec!["http", "dns"]))
            .prop_map(|(protocol, name)| Ports::Named(protocol, name.into())),
        Just(Ports::None),
    ]
}

fn rules() -> impl Strategy<Value = Option<Vec<Rule>>> {
    let rule = (collection::vec(peer(), 0..3), collection::vec(ports(), 0..3));
    option::of(collection::vec(rule.prop_map(|(peers, ports)| Rule { peers, ports }), 0..3))
}

fn meant() -> impl Strategy<Value = Pods> {
    (selector(), selector()).prop_map(|(namespaces, pods)| Pods { namespaces, pods })
}

fn admin_rules() -> impl Strategy<Value = Vec<AdminRule>> {
    let peer = prop_oneof![
        3 => meant().prop_map(AdminPeer::Pods),
        1 => selector().prop_map(AdminPeer::Nodes),
        2 => collection::vec(range(), 1..3).prop_map(AdminPeer::Networks),
        1 => Just(AdminPeer::Anyone),
    ];
    let action = sample::select(vec![Action::Accept, Action::Deny, Action::Pass]);
    let rule = (action, collection::vec(peer, 1..3), collection::vec(ports(), 0..3));
    collection::vec(rule.prop_map(|(action, peers, ports)| AdminRule { action, peers, ports }), 0..4)
}

fn admin() -> impl Strategy<Value = AdminPolicy> {
    let tier = sample::select(vec![Tier::Admin, Tier::Baseline]);
    (tier, 0..3u16, meant(), admin_rules(), admin_rules())
        .prop_map(|(tier, priority, subject, ingress, egress)| AdminPolicy { tier, priority, subject, ingress, egress })
}

fn labels() -> impl Strategy<Value = Labels> {
    let value = || option::of(sample::select(vec!["a", "b"]));
    (value(), value()).prop_map(|(app, tier)| {
        let pairs = [("app", app), ("tier", tier)];
        pairs.into_iter().filter_map(|(key, value)| Some((Box::from(key), Box::from(value?)))).collect()
    })
}

proptest! {
    #[test]
    fn the_plan_says_what_the_policies_say(
        policies in collection::vec((sample::select(NAMESPACES.to_vec()), selector(), rules(), rules()), 0..5),
        admin in collection::vec(admin(), 0..4),
        node_labels in labels(),
        pods in collection::vec((sample::select(NAMESPACES.to_vec()), labels(), 1..6u16, protocol()), 1..6),
        namespace_labels in collection::vec(labels(), NAMESPACES.len()),
    ) {
        let policies: Vec<(Key, Policy)> = policies
            .into_iter()
            .enumerate()
            .map(|(number, (namespace, pods, ingress, egress))| {
                ((Arc::from(namespace), Arc::from(format!("p{number}"))), Policy { pods, ingress, egress })
            })
            .collect();
        let pods: Vec<PodFacts> = pods
            .into_iter()
            .enumerate()
            .map(|(number, (namespace, labels, port, protocol))| PodFacts {
                uid: format!("u{number}").into(),
                namespace: namespace.into(),
                name: format!("n{number}").into(),
                labels,
                ips: vec![IpAddr::from([10, 0, 0, number as u8 * 3 + 1]), format!("fd00::{number}").parse().expect("an address")],
                ports: vec![("http".into(), protocol, port)],
            })
            .collect();
        let outside = [IpAddr::from([10, 0, 0, 15]), IpAddr::from([192, 0, 2, 1])];
        let node = NodeFacts { labels: node_labels, ips: vec![outside[1]] };
        let admin: Vec<(Key, AdminPolicy)> = admin
            .into_iter()
            .enumerate()
            .map(|(number, policy)| ((Arc::from("ClusterNetworkPolicy"), Arc::from(format!("a{number}"))), policy))
            .collect();
        let world = World {
            admin: admin.iter().map(|(key, policy)| (key, policy)).collect(),
            nodes: vec![&node],
            policies: policies.iter().map(|(key, policy)| (key, policy)).collect(),
            pods: pods.iter().collect(),
            local: pods.iter().collect(),
            namespaces: NAMESPACES.into_iter().zip(&namespace_labels).collect(),
        };
        let isolation = plan(&world);
        let v4: Vec<IpAddr> = pods.iter().map(|pod| pod.ips[0]).chain(outside).collect();
        let v6: Vec<IpAddr> = pods.iter().map(|pod| pod.ips[1]).collect();
        for family in [v4, v6] {
            for (from, to) in family.iter().flat_map(|from| family.iter().map(move |to| (*from, *to))) {
                for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
                    for port in 1..8 {
                        let (is, should) = (
                            passes(&isolation, from, to, protocol, port),
                            allowed(&world, from, to, protocol, port),
                        );
                        prop_assert_eq!(is, should, "{} to {} {:?} {}", from, to, protocol, port);
                    }
                }
            }
        }
    }
}

#[test]
fn pods_of_the_same_policies_share_a_chain() {
    let pod = |number: u8| PodFacts {
        namespace: "shop".into(),
        ips: vec![IpAddr::from([10, 0, 0, number])],
        ..PodFacts::default()
    };
    let pods = [pod(1), pod(2), pod(3)];
    let key: Key = (Arc::from("shop"), Arc::from("deny"));
    let deny = Policy { ingress: Some(Vec::new()), ..Policy::default() };
    let world = World {
        policies: vec![(&key, &deny)],
        pods: pods.iter().collect(),
        local: pods.iter().take(2).collect(),
        ..World::default()
    };
    let isolation = plan(&world);
    assert_eq!(isolation.to.len(), 2, "the third is on another node");
    assert_eq!(isolation.chains.len(), 1);
    assert!(isolation.from.is_empty());
}
