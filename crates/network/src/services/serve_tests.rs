//! Services and the elements and chains that serve them.

use super::*;
use crate::{
    cluster::{Hints, Tables},
    services::{
        plan::Plan,
        simulated::{around, differences, ip, place, whole},
    },
};

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
    whole(&place(), &tables, &[])
}

#[track_caller]
fn check(service: Service, endpoints: &[&str], expected: &[&str]) {
    assert_eq!(differences(&planned(service, endpoints)), expected);
}

#[test]
fn cluster_addresses() {
    let two = [
        "service-ends4 10.96.0.7 . tcp . 80 . 0 : 10.244.0.5 . 8080",
        "service-ends4 10.96.0.7 . tcp . 80 . 1 : 10.244.1.6 . 8080",
        "service-ips4 10.96.0.7 . tcp . 80 : goto spread4-2",
    ];
    check(web(|_| ()), &["+10.244.0.5", "+10.244.1.6@there"], &two);
    check(web(|_| ()), &["+10.244.0.5", "-10.244.0.9", "+10.244.1.6@there", "~10.244.0.8"], &two);
    check(web(|_| ()), &["-10.244.0.5"], &[]);
    check(web(|_| ()), &[], &[]);
    // Slices that say the same twice.
    check(web(|_| ()), &["+10.244.0.5", "+10.244.1.6@there", "+10.244.0.5@there", "-10.244.0.5"], &two);
    // A pod's own endpoints that end are better than none.
    check(
        web(|_| ()),
        &["-10.244.1.5", "~10.244.1.6"],
        &[
            "service-ends4 10.96.0.7 . tcp . 80 . 0 : 10.244.1.6 . 8080",
            "service-ips4 10.96.0.7 . tcp . 80 : goto spread4-1",
        ],
    );
    check(web(|service| service.headless = true), &["+10.244.0.5"], &[]);
    check(web(|service| service.external_name = Some("x.org".into())), &["+10.244.0.5"], &[]);
    check(web(|service| service.served_elsewhere = true), &["+10.244.0.5"], &[]);
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
            "service-ends4 10.96.0.7 . tcp . 80 . 0 : 10.244.1.5 . 8080",
            "service-ends6 fd00:96::7 . tcp . 80 . 0 : fd00:244:0:1::5 . 8080",
            "service-ips4 10.96.0.7 . tcp . 80 : goto spread4-1",
            "service-ips6 fd00:96::7 . tcp . 80 : goto spread6-1",
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
            "node-ends4 tcp . 30080 . 0 : 10.244.1.6 . 8080",
            "node-ports4 tcp . 30080 : goto node-spread4-1",
            "service-ends4 10.96.0.7 . tcp . 80 . 0 : 10.244.1.6 . 8080",
            "service-ips4 10.96.0.7 . tcp . 80 : goto spread4-1",
        ],
    );
    check(node_port(|_| ()), &[], &["idle-ports4 tcp . 30080 : goto refuse"]);
    // Local policies: another node's endpoints do not count, and where none is left packets are dropped.
    check(
        node_port(|service| service.external_local = true),
        &["+10.244.1.6@there"],
        &[
            "node-ports4 tcp . 30080 : drop",
            "service-ends4 10.96.0.7 . tcp . 80 . 0 : 10.244.1.6 . 8080",
            "service-ips4 10.96.0.7 . tcp . 80 : goto spread4-1",
        ],
    );
    check(
        node_port(|service| {
            service.external_local = true;
            service.internal_local = true;
        }),
        &["+10.244.1.6@there", "+10.244.0.5"],
        &[
            "node-ends4 tcp . 30080 . 0 : 10.244.0.5 . 8080",
            "node-ports4 tcp . 30080 : goto node-spread4-1",
            "service-ends4 10.96.0.7 . tcp . 80 . 0 : 10.244.0.5 . 8080",
            "service-ips4 10.96.0.7 . tcp . 80 : goto spread4-1",
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
            "service-ends4 10.96.0.7 . tcp . 80 . 0 : 10.244.1.6 . 8080",
            "service-ends4 192.0.2.7 . tcp . 80 . 0 : 10.244.1.6 . 8080",
            "service-ips4 10.96.0.7 . tcp . 80 : goto spread4-1",
            "service-ips4 192.0.2.7 . tcp . 80 : goto guard4-default/web/tcp/80",
            "guard4-default/web/tcp/80: ip saddr != 198.51.100.0/24 drop",
            "guard4-default/web/tcp/80: goto spread4-1",
        ],
    );
    check(
        web(|service| service.external_ips = vec![ip("192.0.2.7")]),
        &[],
        &["idle-ips4 192.0.2.7 . tcp . 80 : goto refuse"],
    );
    // Nobody takes another service's address as an external one of its own.
    check(web(|service| service.external_ips = vec![ip("10.96.3.3")]), &[], &[]);
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
fn udp_paths_are_known() {
    let service = web(|service| {
        service.ports = vec![port("dns", Protocol::Udp, 5353, Some(30053)), port("http", Protocol::Tcp, 80, None)];
    });
    let ports = service.ports.iter().map(|port| (port.name.clone(), port.protocol, 8080)).collect();
    let slice = Slice { service: Arc::from("web"), ports, endpoints: vec![endpoint("+10.244.0.5")] };
    let objects = (Some(Arc::new(service)), vec![Arc::new(slice)]);
    let served = serve(&place(), &around(&place(), &Tables::default()), &key("web"), &objects);
    let paths: BTreeSet<UdpPath> = Served::udp_paths(served.own.iter().chain(&served.shared)).collect();
    let endpoint = (ip("10.244.0.5"), 8080);
    let expected = [
        UdpPath { front: None, port: 30053, endpoint },
        UdpPath { front: Some(ip("10.96.0.7")), port: 5353, endpoint },
    ];
    assert_eq!(Vec::from_iter(paths), expected);
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
        let around = Surroundings { zone: zone.map(Box::from), ranges: BTreeSet::new() };
        let build = Build { place: &place, around: &around, served: Served::default() };
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
