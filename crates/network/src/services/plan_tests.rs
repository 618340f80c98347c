//! Host ports and policies, and the table that they become.

use super::*;
use crate::{
    policy::{
        objects::{Policy, Rule},
        selector::Labels,
    },
    services::simulated::{differences, ip, place},
};

fn key(name: &str) -> Key {
    (Arc::from("default"), Arc::from(name))
}

#[test]
fn host_ports() {
    let check = |host_ip: Option<&str>, expected: &[&str]| {
        let port = HostPort { host_ip: host_ip.map(ip), host_port: 8053, container_port: 53, protocol: Protocol::Udp };
        let pod = LocalPod { ips: vec![ip("10.244.0.5")], host_ports: vec![port], facts: None };
        let plan = plan(&place(), &Tables::default(), &[pod]);
        assert_eq!(differences(&plan), expected);
    };
    check(None, &["host-ports4 udp . 8053 : 10.244.0.5 . 53"]);
    check(Some("0.0.0.0"), &["host-ports4 udp . 8053 : 10.244.0.5 . 53"]);
    check(Some("192.0.2.2"), &["host-address-ports4 192.0.2.2 . udp . 8053 : 10.244.0.5 . 53"]);
    check(Some("fd00::1"), &[]);
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
