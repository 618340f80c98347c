//! Whatever happens to services, steps lead where making all anew leads, and the kernel refuses none of them.

use std::sync::Arc;

use proptest::{collection, option, prelude::*, sample};

use super::*;
use crate::{
    cluster::{Endpoint, Hints, Service, ServicePort, Slice, Tables},
    network::{LocalPod, Protocol},
    services::{
        plan,
        simulated::{addresses, around, ip, place, put, whole},
    },
};

/// One thing that happens.
#[derive(Clone, Debug)]
enum Event {
    Service(u8, Option<Service>),
    Slice(u8, Option<Slice>),
    Pods(Vec<u8>),
    /// The rules are brought up to date.
    Step,
}

prop_compose! {
    fn services()(
        number in 0..4u8,
        two_families in any::<bool>(),
        node_port in option::of(0..2u16),
        external in option::of(0..2u8),
        guarded in any::<bool>(),
        affinity in option::of(1..3u32),
        locals in any::<(bool, bool)>(),
        udp in any::<bool>(),
        headless in sample::select(vec![false, false, false, true]),
    ) -> Service {
        let mut cluster_ips = vec![IpAddr::from([10, 96, 0, number])];
        if two_families {
            cluster_ips.push(ip(&format!("fd00:96::{number}")));
        }
        let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
        let port = |name: &str, port, node_port| ServicePort { name: name.into(), protocol, port, node_port };
        Service {
            cluster_ips,
            headless,
            external_ips: external.map(|last| IpAddr::from([192, 0, 2, last])).into_iter().collect(),
            source_ranges: guarded.then(|| "198.51.100.0/24".parse().expect("a range")).into_iter().collect(),
            ports: vec![port("a", 80, node_port.map(|port| 30_000 + port)), port("b", 81, None)],
            affinity_seconds: affinity,
            external_local: locals.0,
            internal_local: locals.1,
            ..Service::default()
        }
    }
}

prop_compose! {
    fn slices()(
        service in 0..3u8,
        udp in any::<bool>(),
        endpoints in collection::vec((0..6u8, any::<(bool, bool, bool, bool)>()), 0..5),
    ) -> Slice {
        let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
        let endpoint = |(last, (v4, ready, serving, here)): (u8, (bool, bool, bool, bool))| Endpoint {
            address: if v4 { IpAddr::from([10, 244, 0, last]) } else { ip(&format!("fd00:244::{last}")) },
            ready,
            serving,
            terminating: !ready,
            hostname: None,
            node: Some(Arc::from(if here { "here" } else { "there" })),
            hints: Hints::default(),
        };
        Slice {
            service: Arc::from(format!("service-{service}")),
            ports: vec![("a".into(), protocol, 8080), ("b".into(), protocol, 8081)],
            endpoints: endpoints.into_iter().map(endpoint).collect(),
        }
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let one = prop_oneof![
        3 => (0..3u8, option::weighted(0.8, services())).prop_map(|(name, service)| Event::Service(name, service)),
        4 => (0..4u8, option::weighted(0.8, slices())).prop_map(|(name, slice)| Event::Slice(name, slice)),
        1 => collection::vec(0..6u8, 0..4).prop_map(Event::Pods),
        3 => Just(Event::Step),
    ];
    collection::vec(one, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn steps_lead_where_making_all_anew_leads(events in events()) {
        let (place, mut tables) = (place(), Tables::default());
        let around = around(&place, &tables);
        let mut pods: Vec<LocalPod> = Vec::new();
        let mut table = plan::plan(&place, &tables, &[]).table;
        let mut current = Current::default();
        prop_assert!(tables.take_changes().is_none(), "before anybody asked, all may have changed");
        for event in events.into_iter().chain([Event::Step]) {
            match event {
                Event::Service(name, mut service) => {
                    // The API server gives no address twice.
                    for address in service.iter_mut().flat_map(|service| &mut service.cluster_ips) {
                        *address = match *address {
                            IpAddr::V4(v4) => IpAddr::from([10, 96, name, v4.octets()[3]]),
                            IpAddr::V6(v6) => ip(&format!("fd00:96::{name}:{}", v6.segments()[7])),
                        };
                    }
                    let key = (Arc::from("default"), Arc::from(format!("service-{name}")));
                    tables.set_service(key, service);
                }
                Event::Slice(name, slice) => {
                    let key = (Arc::from("default"), Arc::from(format!("slice-{name}")));
                    tables.set_slice(key, slice);
                }
                Event::Pods(ips) => {
                    let pod = |last: u8| LocalPod { ips: vec![IpAddr::from([10, 244, 0, last])], ..LocalPod::default() };
                    pods = ips.into_iter().map(pod).collect();
                }
                Event::Step => {
                    let changes = tables.take_changes().expect("somebody asked before");
                    let changes = changes.into_iter().map(|(key, before, after)| Change { key, before, after });
                    let step = current.step(&place, &around, changes, addresses(&pods));
                    put(&mut table, &step).map_err(TestCaseError::fail)?;
                    let mut expected = whole(&place, &tables, &pods).table;
                    // Chains that draw stay once they are made.
                    for (name, chain) in &table.chains {
                        if name.contains("spread") {
                            expected.chains.insert(name.clone(), chain.clone());
                        }
                    }
                    prop_assert_eq!(&table, &expected);
                    let again = current.step(&place, &around, Vec::new(), addresses(&pods));
                    prop_assert_eq!(again, Step::default());
                }
            }
        }
    }
}

#[test]
fn one_changed_endpoint_changes_one_element() {
    let endpoints = |last: &[u8]| -> Objects {
        let endpoint = |last: &u8| Endpoint {
            address: IpAddr::from([10, 244, 1, *last]),
            ready: true,
            serving: true,
            terminating: false,
            hostname: None,
            node: None,
            hints: Hints::default(),
        };
        let port = ServicePort { name: "a".into(), protocol: Protocol::Udp, port: 53, node_port: None };
        let service = Service { cluster_ips: vec![ip("10.96.0.7")], ports: vec![port], ..Service::default() };
        let ports = vec![("a".into(), Protocol::Udp, 5353)];
        let slice = Slice { service: Arc::from("web"), ports, endpoints: last.iter().map(endpoint).collect() };
        (Some(Arc::new(service)), vec![Arc::new(slice)])
    };
    let (place, mut current) = (place(), Current::default());
    let around = around(&place, &Tables::default());
    let key: Key = (Arc::from("default"), Arc::from("web"));
    let many: Vec<u8> = (0..200).collect();
    let first = from_nothing(vec![(key.clone(), endpoints(&many))]);
    assert_eq!(current.step(&place, &around, first, BTreeSet::new()).fresh.len(), 201);
    let mut other = many.clone();
    other[199] = 250;
    let change = Change { key, before: endpoints(&many), after: endpoints(&other) };
    let step = current.step(&place, &around, [change], BTreeSet::new());
    assert_eq!((step.gone.len(), step.fresh.len(), step.make.len(), step.spreads.len()), (1, 1, 0, 0));
    let gone = UdpPath { front: Some(ip("10.96.0.7")), port: 53, endpoint: (IpAddr::from([10, 244, 1, 199]), 5353) };
    assert_eq!(step.udp_gone, [gone]);
}
