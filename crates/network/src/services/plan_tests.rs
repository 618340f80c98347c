//! Tables of services and the rules that they become.

use super::*;
use crate::{
    cluster::Hints,
    policy::{
        objects::{Policy, Rule},
        selector::Labels,
    },
};

fn place() -> Place {
    let range = |text: &str| text.parse::<IpNet>().expect("a range");
    Place {
        table: "kobune".to_owned(),
        node: "here".to_owned(),
        pod_cidrs: vec![range("10.244.0.0/24"), range("fd00:244::/64")],
        cluster_cidrs: vec![range("10.244.0.0/16"), range("fd00:244::/56")],
        service_cidrs: vec![range("10.96.0.0/16"), range("fd00:96::/108")],
        dns_addresses: vec![ip("10.96.0.10")],
        gateways: vec![ip("10.244.0.1"), ip("fd00:244::1")],
        link_prefix: "kbabcde".to_owned(),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn key(name: &str) -> Key {
    (Arc::from("default"), Arc::from(name))
}

fn port(name: &str, protocol: Protocol, port: u16, node_port: Option<u16>) -> ServicePort {
    ServicePort { name: name.into(), protocol, port, node_port }
}

/// `+10.244.0.5@here` is ready there, `-` is not, `~` is ending but answers.
fn endpoint(text: &str) -> Endpoint {
    let (state, rest) = text.split_at(1);
    let (address, node) = rest.split_once('@').unwrap_or((rest, "here"));
    Endpoint {
        address: ip(address),
        ready: state == "+",
        serving: state != "-",
        terminating: state == "~",
        hostname: None,
        node: Some(Arc::from(node)),
        hints: Hints::default(),
    }
}

fn web(change: impl FnOnce(&mut Service)) -> Service {
    let mut service = Service {
        cluster_ips: vec![ip("10.96.0.7")],
        ports: vec![port("http", Protocol::Tcp, 80, None)],
        ..Service::default()
    };
    change(&mut service);
    service
}

fn planned(service: Service, endpoints: &[&str]) -> Plan {
    let mut tables = Tables::default();
    let ports = service.ports.iter().map(|port| (port.name.clone(), port.protocol, 8080)).collect();
    tables.set_service(key("web"), Some(service));
    let endpoints = endpoints.iter().map(|text| endpoint(text)).collect();
    tables.set_slice(key("web-1"), Some(Slice { service: Arc::from("web"), ports, endpoints }));
    plan(&place(), &tables, &[])
}

/// What a plan says beyond the frame: `set key : value` and `chain: rule`, without the hashes in names.
fn differences(plan: &Plan) -> Vec<String> {
    let frame = super::plan(&place(), &Tables::default(), &[]);
    let mut lines = Vec::new();
    for (name, set) in &plan.table.sets {
        if !frame.table.sets.contains_key(name) {
            lines.push(format!("set {name} {}", set.definition));
        }
        for (key, value) in &set.elements {
            match value {
                Some(value) => lines.push(format!("{name} {key} : {value}")),
                None => lines.push(format!("{name} {key}")),
            }
        }
    }
    for (name, chain) in &plan.table.chains {
        if frame.table.chains.get(name) != Some(chain) {
            lines.extend(chain.rules.iter().map(|rule| format!("{name}: {rule}")));
        }
    }
    let is_hash = |part: &str| part.len() == 8 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    lines.iter().map(|line| line.split('-').filter(|part| !is_hash(part)).collect::<Vec<_>>().join("-")).collect()
}

#[track_caller]
fn check(service: Service, endpoints: &[&str], expected: &[&str]) {
    assert_eq!(differences(&planned(service, endpoints)), expected);
}

#[test]
fn cluster_addresses() {
    let two = [
        "hairpins4 10.244.0.5 . 10.244.0.5",
        "service-ips4 10.96.0.7 . tcp . 80 : goto service4-default/web/tcp/80",
        "service4-default/web/tcp/80: meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.244.0.5 . 8080, 1 : 10.244.1.6 . 8080 }",
    ];
    check(web(|_| ()), &["+10.244.0.5", "+10.244.1.6@there"], &two);
    check(web(|_| ()), &["+10.244.0.5", "-10.244.0.9", "+10.244.1.6@there", "~10.244.0.8"], &two);
    check(web(|_| ()), &["-10.244.0.5"], &[]);
    check(web(|_| ()), &[], &[]);
    // A pod's own endpoints that end are better than none.
    check(
        web(|_| ()),
        &["-10.244.1.5", "~10.244.1.6"],
        &[
            "service-ips4 10.96.0.7 . tcp . 80 : goto service4-default/web/tcp/80",
            "service4-default/web/tcp/80: meta l4proto tcp dnat ip to 10.244.1.6:8080",
        ],
    );
    check(web(|service| service.headless = true), &["+10.244.0.5"], &[]);
    check(web(|service| service.external_name = Some("x.org".into())), &["+10.244.0.5"], &[]);
    // The DNS server answers on its address itself.
    let dns = web(|service| {
        service.cluster_ips = vec![ip("10.96.0.10")];
        service.ports = vec![port("dns", Protocol::Udp, 53, None)];
    });
    check(dns, &["+10.244.0.5"], &[]);
}

#[test]
fn both_families() {
    check(
        web(|service| service.cluster_ips = vec![ip("10.96.0.7"), ip("fd00:96::7")]),
        &["+10.244.1.5", "+fd00:244:0:1::5"],
        &[
            "service-ips4 10.96.0.7 . tcp . 80 : goto service4-default/web/tcp/80",
            "service-ips6 fd00:96::7 . tcp . 80 : goto service6-default/web/tcp/80",
            "service4-default/web/tcp/80: meta l4proto tcp dnat ip to 10.244.1.5:8080",
            "service6-default/web/tcp/80: meta l4proto tcp dnat ip6 to [fd00:244:0:1::5]:8080",
        ],
    );
}

#[test]
fn node_ports_and_policies() {
    let node_port = |change: fn(&mut Service)| {
        web(|service| {
            service.ports = vec![port("http", Protocol::Tcp, 80, Some(30080))];
            change(service);
        })
    };
    check(
        node_port(|_| ()),
        &["+10.244.1.6@there"],
        &[
            "node-ports4 tcp . 30080 : goto service4-default/web/tcp/80",
            "service-ips4 10.96.0.7 . tcp . 80 : goto service4-default/web/tcp/80",
            "service4-default/web/tcp/80: meta l4proto tcp dnat ip to 10.244.1.6:8080",
        ],
    );
    check(node_port(|_| ()), &[], &["idle-ports4 tcp . 30080 : goto refuse"]);
    // Local policies: another node's endpoints do not count, and where none is left packets are dropped.
    check(
        node_port(|service| service.external_local = true),
        &["+10.244.1.6@there"],
        &[
            "node-ports4 tcp . 30080 : drop",
            "service-ips4 10.96.0.7 . tcp . 80 : goto service4-default/web/tcp/80",
            "service4-default/web/tcp/80: meta l4proto tcp dnat ip to 10.244.1.6:8080",
        ],
    );
    check(
        node_port(|service| {
            service.external_local = true;
            service.internal_local = true;
        }),
        &["+10.244.1.6@there", "+10.244.0.5"],
        &[
            "hairpins4 10.244.0.5 . 10.244.0.5",
            "node-ports4 tcp . 30080 : goto local4-default/web/tcp/80",
            "service-ips4 10.96.0.7 . tcp . 80 : goto local4-default/web/tcp/80",
            "local4-default/web/tcp/80: meta l4proto tcp dnat ip to 10.244.0.5:8080",
        ],
    );
    check(
        web(|service| service.internal_local = true),
        &["+10.244.1.6@there"],
        &["service-ips4 10.96.0.7 . tcp . 80 : drop"],
    );
}

#[test]
fn external_addresses() {
    check(
        web(|service| {
            service.external_ips = vec![ip("192.0.2.7")];
            service.source_ranges = vec!["198.51.100.0/24".parse().expect("a range")];
        }),
        &["+10.244.1.6"],
        &[
            "service-ips4 10.96.0.7 . tcp . 80 : goto service4-default/web/tcp/80",
            "service-ips4 192.0.2.7 . tcp . 80 : goto guard4-default/web/tcp/80",
            "guard4-default/web/tcp/80: ip saddr != 198.51.100.0/24 drop",
            "guard4-default/web/tcp/80: goto service4-default/web/tcp/80",
            "service4-default/web/tcp/80: meta l4proto tcp dnat ip to 10.244.1.6:8080",
        ],
    );
    check(
        web(|service| service.external_ips = vec![ip("192.0.2.7")]),
        &[],
        &["idle-ips4 192.0.2.7 . tcp . 80 : goto refuse"],
    );
}

#[test]
fn affinity() {
    check(
        web(|service| service.affinity_seconds = Some(60)),
        &["+10.244.1.5", "+10.244.1.6"],
        &[
            "set clients4-default/web/tcp/80/10.244.1.5-8080/service/60 type ipv4_addr; flags dynamic,timeout; timeout 60s; size 65536;",
            "set clients4-default/web/tcp/80/10.244.1.6-8080/service/60 type ipv4_addr; flags dynamic,timeout; timeout 60s; size 65536;",
            "service-ips4 10.96.0.7 . tcp . 80 : goto service4-default/web/tcp/80",
            "endpoint4-default/web/tcp/80/10.244.1.5-8080/service: update @clients4-default/web/tcp/80/10.244.1.5-8080/service/60 { ip saddr }",
            "endpoint4-default/web/tcp/80/10.244.1.5-8080/service: meta l4proto tcp dnat ip to 10.244.1.5:8080",
            "endpoint4-default/web/tcp/80/10.244.1.6-8080/service: update @clients4-default/web/tcp/80/10.244.1.6-8080/service/60 { ip saddr }",
            "endpoint4-default/web/tcp/80/10.244.1.6-8080/service: meta l4proto tcp dnat ip to 10.244.1.6:8080",
            "service4-default/web/tcp/80: ip saddr @clients4-default/web/tcp/80/10.244.1.5-8080/service/60 goto endpoint4-default/web/tcp/80/10.244.1.5-8080/service",
            "service4-default/web/tcp/80: ip saddr @clients4-default/web/tcp/80/10.244.1.6-8080/service/60 goto endpoint4-default/web/tcp/80/10.244.1.6-8080/service",
            "service4-default/web/tcp/80: numgen random mod 2 vmap { 0 : goto endpoint4-default/web/tcp/80/10.244.1.5-8080/service, 1 : goto endpoint4-default/web/tcp/80/10.244.1.6-8080/service }",
        ],
    );
}

#[test]
fn host_ports() {
    let check = |host_ip: Option<&str>, expected: &[&str]| {
        let port = HostPort { host_ip: host_ip.map(ip), host_port: 8053, container_port: 53, protocol: Protocol::Udp };
        let pod = LocalPod { ips: vec![ip("10.244.0.5")], host_ports: vec![port], facts: None };
        let plan = plan(&place(), &Tables::default(), &[pod]);
        assert_eq!(differences(&plan), expected);
    };
    let hairpin = "hairpins4 10.244.0.5 . 10.244.0.5";
    check(None, &[hairpin, "host-ports4 udp . 8053 : 10.244.0.5 . 53"]);
    check(Some("0.0.0.0"), &[hairpin, "host-ports4 udp . 8053 : 10.244.0.5 . 53"]);
    check(Some("192.0.2.2"), &[hairpin, "host-address-ports4 192.0.2.2 . udp . 8053 : 10.244.0.5 . 53"]);
    check(Some("fd00::1"), &[]);
}

#[test]
fn udp_paths_are_remembered() {
    let service = web(|service| {
        service.ports = vec![port("dns", Protocol::Udp, 5353, Some(30053)), port("http", Protocol::Tcp, 80, None)];
    });
    let paths: Vec<UdpPath> = planned(service, &["+10.244.0.5"]).udp.into_iter().collect();
    let endpoint = (ip("10.244.0.5"), 8080);
    let expected = [
        UdpPath { front: None, port: 30053, endpoint },
        UdpPath { front: Some(ip("10.96.0.7")), port: 5353, endpoint },
    ];
    assert_eq!(paths, expected);
}

#[test]
fn one_changed_endpoint_changes_one_chain() {
    let before = planned(web(|_| ()), &["+10.244.1.5"]);
    let after = planned(web(|_| ()), &["+10.244.1.6"]);
    let commands = super::super::table::difference(Some(&before.table), &after.table);
    assert_eq!(commands.len(), 2, "{commands:?}");
}

#[test]
fn hints_choose_endpoints() {
    let check = |zone: Option<&str>, hints: &[(&[&str], &[&str])], expected: &[&str]| {
        let boxed = |names: &[&str]| names.iter().map(|name| Box::from(*name)).collect();
        let endpoints: Vec<Endpoint> = hints
            .iter()
            .enumerate()
            .map(|(number, (zones, nodes))| Endpoint {
                hints: Hints { zones: boxed(zones), nodes: boxed(nodes) },
                ..endpoint(&format!("+10.244.1.{number}@there"))
            })
            .collect();
        let place = place();
        let build = Build { place: &place, zone, plan: Plan::default() };
        let endpoints: Vec<(&Endpoint, u16)> = endpoints.iter().map(|endpoint| (endpoint, 80)).collect();
        let found: Vec<String> =
            build.near(&endpoints).iter().map(|(endpoint, _)| endpoint.address.to_string()).collect();
        assert_eq!(found, expected, "{zone:?} {hints:?}");
    };
    let two: &[(&[&str], &[&str])] = &[(&["east"], &[]), (&["west"], &[])];
    check(Some("east"), two, &["10.244.1.0"]);
    check(Some("north"), two, &["10.244.1.0", "10.244.1.1"]);
    check(None, two, &["10.244.1.0", "10.244.1.1"]);
    check(Some("east"), &[(&["east"], &[]), (&[], &[])], &["10.244.1.0", "10.244.1.1"]);
    check(Some("east"), &[(&["east"], &["there"]), (&["east"], &["here"])], &["10.244.1.1"]);
    check(Some("east"), &[(&["east"], &["there"]), (&["west"], &["other"])], &["10.244.1.0"]);
}

#[test]
fn policies_join_the_table() {
    let mut tables = Tables::default();
    let pods = |facts: &[(&str, &str)]| -> Vec<LocalPod> {
        let pod = |(address, app): &(&str, &str)| LocalPod {
            ips: vec![ip(address)],
            facts: Some(PodFacts {
                uid: (*address).into(),
                namespace: "default".into(),
                name: (*address).into(),
                labels: Labels::from([("app".into(), (*app).into())]),
                ..PodFacts::default()
            }),
            ..LocalPod::default()
        };
        facts.iter().map(pod).collect()
    };
    let local = pods(&[("10.244.0.5", "web"), ("10.244.0.6", "db")]);
    let before = plan(&place(), &tables, &local);
    assert_eq!(before, plan(&place(), &tables, &[]), "without policies pods leave no trace");
    let policy = Policy { ingress: Some(vec![Rule::default()]), egress: Some(Vec::new()), ..Policy::default() };
    tables.policies.insert(key("deny"), policy);
    let lines = differences(&plan(&place(), &tables, &local));
    let has = |part: &str| lines.iter().any(|line| line.contains(part));
    assert!(has("policy-from4 10.244.0.5 : goto from4-") && has("policy-to4 10.244.0.6 : goto to4-"), "{lines:#?}");
    assert!(lines.iter().any(|line| line.starts_with("forward: ") && line.ends_with("jump policy-from")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.starts_with("to4-") && line.ends_with(": accept")), "{lines:#?}");
    let removed = super::super::table::difference(Some(&plan(&place(), &tables, &local).table), &before.table);
    assert!(!removed.is_empty());
}
