//! From host and path to a Service's port. Pure.
//!
//! The most specific rule that fits serves a request: a host's own rules before those of a wildcard before those of every
//! host, and of those the longest path, an exact one before a prefix of the same length. Upstream:
//! <https://kubernetes.io/docs/concepts/services-networking/ingress/#multiple-matches>.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use kobune_network::{Protocol, cluster::Tables};

use crate::objects::{Backend, Facts, Path, Port};

/// The routes of all Ingresses.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// By host; wildcards without the star, every host as the empty name.
    hosts: HashMap<String, Vec<Path>>,
    default: Option<Backend>,
}

impl Routes {
    /// The routes of these Ingresses; where two claim the same, the first has it.
    pub fn new<'a>(ingresses: impl Iterator<Item = &'a Facts>) -> Routes {
        let mut routes = Routes::default();
        for ingress in ingresses {
            for rule in &ingress.rules {
                let host = rule.host.strip_prefix('*').unwrap_or(&rule.host);
                routes.hosts.entry(host.to_owned()).or_default().extend(rule.paths.iter().cloned());
            }
            if routes.default.is_none() {
                routes.default.clone_from(&ingress.default);
            }
        }
        for paths in routes.hosts.values_mut() {
            // A stable sort keeps the first of two that claim the same in front.
            paths.sort_by_key(|path| (std::cmp::Reverse(path.path.trim_end_matches('/').len()), !path.exact));
        }
        routes
    }

    /// What serves a request to this `Host` header and path.
    pub fn find(&self, host: &str, path: &str) -> Option<&Backend> {
        let host = bare(host);
        // A star stands for one label.
        let wildcard = host.find('.').map(|dot| &host[dot..]);
        let candidates = [Some(host.as_str()), wildcard, Some("")];
        let of_host = |host: &str| self.hosts.get(host)?.iter().find(|rule| fits(rule, path));
        let found = candidates.into_iter().flatten().find_map(of_host);
        found.map(|rule| &rule.backend).or(self.default.as_ref())
    }
}

/// The name in a `Host` header: in lower case, without port and final dot.
fn bare(host: &str) -> String {
    let name = match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    };
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// Whether a rule is for a path: a prefix counts in whole elements.
fn fits(rule: &Path, path: &str) -> bool {
    if rule.exact {
        return rule.path == path;
    }
    let prefix = rule.path.trim_end_matches('/');
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// One of the endpoints that are ready behind a backend; `turn` goes round among them.
pub fn endpoint(tables: &Tables, backend: &Backend, turn: usize) -> Option<SocketAddr> {
    let service = tables.service(&backend.service)?;
    let port = service.ports.iter().find(|port| {
        port.protocol == Protocol::Tcp
            && match &backend.port {
                Port::Number(number) => port.port == *number,
                Port::Name(name) => *port.name == **name,
            }
    })?;
    let mut all: Vec<(IpAddr, u16)> = Vec::new();
    for slice in tables.slices(&backend.service) {
        let number = slice.ports.iter().find(|(name, of, _)| *name == port.name && *of == Protocol::Tcp);
        let Some((_, _, number)) = number else { continue };
        all.extend(
            slice.endpoints.iter().filter(|endpoint| endpoint.ready).map(|endpoint| (endpoint.address, *number)),
        );
    }
    all.sort_unstable();
    all.dedup();
    let (address, port) = all.get(turn.checked_rem(all.len())?)?;
    Some(SocketAddr::new(*address, *port))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kobune_network::cluster::{Endpoint, Hints, Service, ServicePort, Slice};

    use super::*;
    use crate::objects::Rule;

    fn backend(name: &str) -> Backend {
        Backend { service: (Arc::from("shop"), Arc::from(name)), port: Port::Number(80) }
    }

    /// `host=path:service,…`; a path that ends in `$` is exact.
    fn ingress(rules: &[&str], default: Option<&str>) -> Facts {
        let rule = |text: &&str| {
            let (host, paths) = text.split_once('=').expect("a host");
            let path = |text: &str| {
                let (path, service) = text.split_once(':').expect("a service");
                let (path, exact) = path.strip_suffix('$').map_or((path, false), |path| (path, true));
                Path { exact, path: path.to_owned(), backend: backend(service) }
            };
            Rule { host: host.to_owned(), paths: paths.split(',').map(path).collect() }
        };
        Facts { rules: rules.iter().map(rule).collect(), default: default.map(backend), ..Facts::default() }
    }

    #[test]
    fn the_most_specific_rule_serves() {
        let ingresses = [
            ingress(&["a.example=/:root,/api:api,/api/v2/:two,/api$:exact", "*.example=/:star,/only:only"], None),
            ingress(&["=/any:any", "a.example=/api:late"], Some("rest")),
        ];
        let routes = Routes::new(ingresses.iter());
        let check = |host: &str, path: &str, expected: &str| {
            let found = routes.find(host, path).map(|backend| backend.service.1.to_string());
            assert_eq!(found.as_deref(), Some(expected), "{host}{path}");
        };
        check("a.example", "/", "root");
        check("A.Example.:8080", "/x", "root");
        check("a.example", "/api", "exact");
        check("a.example", "/api/", "api");
        check("a.example", "/api/v1", "api");
        check("a.example", "/api/v2", "two");
        check("a.example", "/api/v2/x", "two");
        check("a.example", "/apis", "root");
        check("b.example", "/", "star");
        check("b.example", "/only/x", "only");
        check("c.b.example", "/", "rest");
        check("example", "/", "rest");
        check("[::1]:80", "/any/x", "any");
        assert!(Routes::new(ingresses[..1].iter()).find("other.org", "/").is_none());
    }

    #[test]
    fn endpoints_go_round() {
        let mut tables = Tables::default();
        let key = || (Arc::from("shop"), Arc::from("web"));
        let port =
            |name: &str, port: u16| ServicePort { name: name.into(), protocol: Protocol::Tcp, port, node_port: None };
        tables.set_service(
            key(),
            Some(Service { ports: vec![port("http", 80), port("admin", 81)], ..Service::default() }),
        );
        let endpoint_at = |last: u8, ready: bool| Endpoint {
            address: IpAddr::from([10, 244, 0, last]),
            ready,
            serving: ready,
            terminating: false,
            hostname: None,
            node: None,
            hints: Hints::default(),
        };
        let slice = Slice {
            service: Arc::from("web"),
            ports: vec![("http".into(), Protocol::Tcp, 8080), ("admin".into(), Protocol::Tcp, 9090)],
            endpoints: vec![endpoint_at(1, true), endpoint_at(2, false), endpoint_at(3, true)],
        };
        tables.set_slice(key(), Some(slice));
        let check = |port: Port, turn: usize, expected: Option<&str>| {
            let found = endpoint(&tables, &Backend { service: key(), port }, turn).map(|found| found.to_string());
            assert_eq!(found.as_deref(), expected);
        };
        check(Port::Number(80), 0, Some("10.244.0.1:8080"));
        check(Port::Number(80), 1, Some("10.244.0.3:8080"));
        check(Port::Number(80), 2, Some("10.244.0.1:8080"));
        check(Port::Name("admin".to_owned()), 0, Some("10.244.0.1:9090"));
        check(Port::Number(82), 0, None);
        assert_eq!(endpoint(&tables, &backend("none"), 0), None);
    }
}
