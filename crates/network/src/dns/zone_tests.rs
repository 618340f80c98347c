//! Questions and what the zone answers.

use super::*;
use crate::cluster::{Hints, ServicePort};

fn key(name: &str) -> Key {
    (Arc::from("shop"), Arc::from(name))
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn endpoint(address: &str, hostname: Option<&str>, ready: bool) -> Endpoint {
    Endpoint {
        address: ip(address),
        ready,
        serving: ready,
        terminating: false,
        hostname: hostname.map(Into::into),
        node: None,
        hints: Hints::default(),
    }
}

fn tables() -> Tables {
    let mut tables = Tables::default();
    let http = ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None };
    let web = Service {
        cluster_ips: vec![ip("10.96.0.7"), ip("fd00:96::7")],
        ports: vec![http.clone()],
        ..Service::default()
    };
    tables.set_service(key("web"), Some(web));
    let db = Service { headless: true, ports: vec![http.clone()], ..Service::default() };
    tables.set_service(key("db"), Some(db.clone()));
    tables.set_service(key("empty"), Some(db));
    let out = |target: &str| Service { external_name: Some(target.into()), ..Service::default() };
    tables.set_service(key("out"), Some(out("Example.org")));
    tables.set_service(key("inside"), Some(out("web.shop.svc.cluster.local")));
    tables.set_service(key("round"), Some(out("round.shop.svc.cluster.local")));
    let slice = Slice {
        service: Arc::from("db"),
        ports: vec![("http".into(), Protocol::Tcp, 5432)],
        endpoints: vec![
            endpoint("10.244.0.5", Some("db-0"), true),
            endpoint("10.244.0.6", Some("db-1"), true),
            endpoint("10.244.0.7", None, true),
            endpoint("10.244.0.8", Some("db-3"), false),
        ],
    };
    tables.set_slice(key("db-x"), Some(slice));
    let slice = Slice {
        service: Arc::from("web"),
        ports: vec![("http".into(), Protocol::Tcp, 8080)],
        endpoints: vec![endpoint("10.244.0.9", None, true)],
    };
    tables.set_slice(key("web-x"), Some(slice));
    tables
}

fn zone() -> Zone {
    let ranges = ["10.244.0.0/16", "10.96.0.0/16"].map(|text| text.parse().expect("a range"));
    Zone::new("cluster.local", vec![ip("10.96.0.10")], ranges.to_vec()).expect("a domain")
}

fn show(record: &Record) -> String {
    let data = match &record.data {
        RData::A(a) => a.to_string(),
        RData::AAAA(aaaa) => aaaa.to_string(),
        RData::CNAME(name) => name.to_string(),
        RData::PTR(name) => name.to_string(),
        RData::NS(name) => name.to_string(),
        RData::SRV(srv) => format!("{} {} {} {}", srv.priority, srv.weight, srv.port, srv.target),
        RData::TXT(text) => text.to_string(),
        other => format!("{:?}", other.record_type()),
    };
    format!("{} {} {data}", record.name, record.record_type())
}

/// The answer in lines: records, `+` additionals, `> name` to be asked elsewhere; or one word.
fn ask(name: &str, kind: RecordType, turn: usize) -> Vec<String> {
    let name = Name::from_ascii(name).expect("a name");
    match zone().answer(&tables(), &name, kind, turn) {
        Answer::NotOurs => vec!["not ours".to_owned()],
        Answer::NoSuchName => vec!["no such name".to_owned()],
        Answer::Found(found) => {
            let mut lines: Vec<String> = found.answers.iter().map(show).collect();
            lines.extend(found.additionals.iter().map(|record| format!("+{}", show(record))));
            lines.extend(found.elsewhere.map(|name| format!("> {name}")));
            lines
        }
    }
}

#[track_caller]
fn check(name: &str, kind: RecordType, expected: &[&str]) {
    assert_eq!(ask(name, kind, 0), expected, "{name} {kind}");
}

#[test]
fn services_with_an_address() {
    check("web.shop.svc.cluster.local.", RecordType::A, &["web.shop.svc.cluster.local. A 10.96.0.7"]);
    check("web.shop.svc.cluster.local.", RecordType::AAAA, &["web.shop.svc.cluster.local. AAAA fd00:96::7"]);
    // The client's spelling comes back.
    check("Web.Shop.svc.Cluster.Local.", RecordType::A, &["Web.Shop.svc.Cluster.Local. A 10.96.0.7"]);
    check("web.shop.svc.cluster.local.", RecordType::TXT, &[]);
    check("missing.shop.svc.cluster.local.", RecordType::A, &["no such name"]);
    check("web.other.svc.cluster.local.", RecordType::A, &["no such name"]);
    check("shop.svc.cluster.local.", RecordType::A, &[]);
    check("other.svc.cluster.local.", RecordType::A, &["no such name"]);
    check("svc.cluster.local.", RecordType::A, &[]);
    check("www.google.com.shop.svc.cluster.local.", RecordType::A, &["no such name"]);
    check("a.b.c.d.e.web.shop.svc.cluster.local.", RecordType::A, &["no such name"]);
}

#[test]
fn headless_services() {
    check(
        "db.shop.svc.cluster.local.",
        RecordType::A,
        &[
            "db.shop.svc.cluster.local. A 10.244.0.5",
            "db.shop.svc.cluster.local. A 10.244.0.6",
            "db.shop.svc.cluster.local. A 10.244.0.7",
        ],
    );
    assert_eq!(ask("db.shop.svc.cluster.local.", RecordType::A, 1)[0], "db.shop.svc.cluster.local. A 10.244.0.6");
    check("db.shop.svc.cluster.local.", RecordType::AAAA, &[]);
    for name in ["empty", "_tcp.empty", "_http._tcp.empty"] {
        check(&format!("{name}.shop.svc.cluster.local."), RecordType::A, &["no such name"]);
    }
    check("db-0.db.shop.svc.cluster.local.", RecordType::A, &["db-0.db.shop.svc.cluster.local. A 10.244.0.5"]);
    check("db-3.db.shop.svc.cluster.local.", RecordType::A, &["no such name"]);
    check(
        "10-244-0-7.db.shop.svc.cluster.local.",
        RecordType::A,
        &["10-244-0-7.db.shop.svc.cluster.local. A 10.244.0.7"],
    );
}

#[test]
fn ports() {
    check(
        "_http._tcp.web.shop.svc.cluster.local.",
        RecordType::SRV,
        &[
            "_http._tcp.web.shop.svc.cluster.local. SRV 0 100 80 web.shop.svc.cluster.local.",
            "+web.shop.svc.cluster.local. A 10.96.0.7",
            "+web.shop.svc.cluster.local. AAAA fd00:96::7",
        ],
    );
    check(
        "_http._tcp.db.shop.svc.cluster.local.",
        RecordType::SRV,
        &[
            "_http._tcp.db.shop.svc.cluster.local. SRV 0 33 5432 db-0.db.shop.svc.cluster.local.",
            "_http._tcp.db.shop.svc.cluster.local. SRV 0 33 5432 db-1.db.shop.svc.cluster.local.",
            "_http._tcp.db.shop.svc.cluster.local. SRV 0 33 5432 10-244-0-7.db.shop.svc.cluster.local.",
            "+db-0.db.shop.svc.cluster.local. A 10.244.0.5",
            "+db-1.db.shop.svc.cluster.local. A 10.244.0.6",
            "+10-244-0-7.db.shop.svc.cluster.local. A 10.244.0.7",
        ],
    );
    check("_http._tcp.web.shop.svc.cluster.local.", RecordType::A, &[]);
    check("_tcp.web.shop.svc.cluster.local.", RecordType::SRV, &[]);
    check("_https._tcp.web.shop.svc.cluster.local.", RecordType::SRV, &["no such name"]);
    check("_http._udp.web.shop.svc.cluster.local.", RecordType::SRV, &["no such name"]);
    assert_eq!(ask("web.shop.svc.cluster.local.", RecordType::SRV, 0).len(), 3);
}

#[test]
fn aliases() {
    check(
        "out.shop.svc.cluster.local.",
        RecordType::A,
        &["out.shop.svc.cluster.local. CNAME Example.org.", "> Example.org."],
    );
    check("out.shop.svc.cluster.local.", RecordType::CNAME, &["out.shop.svc.cluster.local. CNAME Example.org."]);
    check(
        "inside.shop.svc.cluster.local.",
        RecordType::A,
        &[
            "inside.shop.svc.cluster.local. CNAME web.shop.svc.cluster.local.",
            "web.shop.svc.cluster.local. A 10.96.0.7",
        ],
    );
    assert_eq!(ask("round.shop.svc.cluster.local.", RecordType::A, 0).len(), LONGEST_CHAIN);
}

#[test]
fn pods_and_the_zone_itself() {
    check("10-244-0-5.shop.pod.cluster.local.", RecordType::A, &["10-244-0-5.shop.pod.cluster.local. A 10.244.0.5"]);
    check("fd00--5.shop.pod.cluster.local.", RecordType::AAAA, &["fd00--5.shop.pod.cluster.local. AAAA fd00::5"]);
    check("nonsense.shop.pod.cluster.local.", RecordType::A, &["no such name"]);
    check("dns-version.cluster.local.", RecordType::TXT, &["dns-version.cluster.local. TXT 1.1.0"]);
    check("cluster.local.", RecordType::SOA, &["cluster.local. SOA SOA"]);
    check("cluster.local.", RecordType::NS, &["cluster.local. NS ns.dns.cluster.local."]);
    check("ns.dns.cluster.local.", RecordType::A, &["ns.dns.cluster.local. A 10.96.0.10"]);
    check("cluster.local.", RecordType::A, &[]);
    check("example.org.", RecordType::A, &["not ours"]);
    check("notcluster.local.", RecordType::A, &["not ours"]);
    check("local.", RecordType::A, &["not ours"]);
}

#[test]
fn reverse_names() {
    check("7.0.96.10.in-addr.arpa.", RecordType::PTR, &["7.0.96.10.in-addr.arpa. PTR web.shop.svc.cluster.local."]);
    check(
        "5.0.244.10.in-addr.arpa.",
        RecordType::PTR,
        &["5.0.244.10.in-addr.arpa. PTR db-0.db.shop.svc.cluster.local."],
    );
    check(
        "7.0.244.10.in-addr.arpa.",
        RecordType::PTR,
        &["7.0.244.10.in-addr.arpa. PTR 10-244-0-7.db.shop.svc.cluster.local."],
    );
    check("9.0.244.10.in-addr.arpa.", RecordType::PTR, &["no such name"]);
    check("99.0.96.10.in-addr.arpa.", RecordType::PTR, &["no such name"]);
    check("7.0.96.10.in-addr.arpa.", RecordType::A, &[]);
    check("0.96.10.in-addr.arpa.", RecordType::PTR, &[]);
    check("1.2.0.192.in-addr.arpa.", RecordType::PTR, &["not ours"]);
}
