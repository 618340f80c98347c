//! The text of a pod's `/etc/resolv.conf` and `/etc/hosts`, as upstream writes them.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

use crate::pod;

/// The most searched domains and their length together that are written, upstream's limits.
const SEARCH_COUNT: usize = 32;
const SEARCH_LENGTH: usize = 2048;
/// The resolver of the C library reads no more.
const NAMESERVER_COUNT: usize = 3;

/// What a `resolv.conf` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Addresses of name servers.
    pub nameservers: Vec<String>,
    /// Domains to try.
    pub searches: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

impl Dns {
    /// Reads the text of a `resolv.conf`.
    pub fn parse(text: &str) -> Dns {
        let mut dns = Dns::default();
        for line in text.lines() {
            let line = line.trim();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => dns.nameservers.extend(words.next().map(str::to_owned)),
                Some("search") => dns.searches = words.map(str::to_owned).collect(),
                Some("options") => dns.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        dns
    }

    /// The text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            text.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for nameserver in &self.nameservers {
            text.push_str(&format!("nameserver {nameserver}\n"));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

/// What a pod's `resolv.conf` says, from its `dnsPolicy` and `dnsConfig`.
pub fn pod_dns(owner: &Pod, host: &Dns, cluster_dns: &[IpAddr], domain: &str) -> Dns {
    let spec = pod::spec(owner);
    let host_network = spec.host_network.unwrap_or(false);
    let cluster_first = match spec.dns_policy.as_deref() {
        Some("None") => None,
        Some("Default") => Some(false),
        Some("ClusterFirstWithHostNet") => Some(true),
        _ => Some(!host_network),
    };
    let mut dns = match cluster_first {
        None => Dns::default(),
        Some(true) if !cluster_dns.is_empty() => {
            let namespace = pod::namespace(owner);
            let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
            searches.extend(host.searches.iter().filter(|search| *search != ".").cloned());
            Dns {
                nameservers: cluster_dns.iter().map(ToString::to_string).collect(),
                searches,
                options: vec!["ndots:5".to_owned()],
            }
        }
        Some(_) => host.clone(),
    };
    if let Some(config) = &spec.dns_config {
        dns.nameservers.extend(config.nameservers.iter().flatten().cloned());
        dns.searches.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            dns.options.retain(|known| known.split(':').next() != Some(name));
            dns.options.push(match option.value.as_deref() {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.clone(),
            });
        }
    }
    for list in [&mut dns.nameservers, &mut dns.searches] {
        let mut seen = Vec::new();
        list.retain(|item| {
            !seen.contains(item) && {
                seen.push(item.clone());
                true
            }
        });
    }
    dns.nameservers.truncate(NAMESERVER_COUNT);
    dns.searches.truncate(SEARCH_COUNT);
    while dns.searches.join(" ").len() > SEARCH_LENGTH {
        dns.searches.pop();
    }
    dns
}

/// The name that `hostname` prints in the pod, and its domain if it has one.
pub fn host_name(owner: &Pod, domain: &str) -> (String, Option<String>) {
    let spec = pod::spec(owner);
    if let Some(name) = spec.hostname_override.as_deref().filter(|name| !name.is_empty()) {
        return (name.to_owned(), None);
    }
    let name = spec.hostname.as_deref().filter(|name| !name.is_empty()).unwrap_or_else(|| pod::name(owner));
    let short = name.get(..63).unwrap_or(name).trim_end_matches(['-', '.']).to_owned();
    let subdomain = spec.subdomain.as_deref().filter(|subdomain| !subdomain.is_empty());
    (short, subdomain.map(|subdomain| format!("{subdomain}.{}.svc.{domain}", pod::namespace(owner))))
}

/// The text of a pod's `/etc/hosts`. With the host's network, `host` is the text of the machine's own file.
pub fn hosts_file(owner: &Pod, ips: &[IpAddr], domain: &str, host: Option<&str>) -> String {
    let spec = pod::spec(owner);
    let mut text = match host {
        Some(host) => format!("# Kubernetes-managed hosts file (host network).\n{host}"),
        None => {
            let mut text = String::from("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n");
            text.push_str("::1\tlocalhost ip6-localhost ip6-loopback\n");
            text.push_str(
                "fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
            );
            let (name, domain) = host_name(owner, domain);
            for ip in ips {
                match &domain {
                    Some(domain) => text.push_str(&format!("{ip}\t{name}.{domain}\t{name}\n")),
                    None => text.push_str(&format!("{ip}\t{name}\n")),
                }
            }
            text
        }
    };
    if let Some(aliases) = spec.host_aliases.as_ref().filter(|aliases| !aliases.is_empty()) {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web-0", "namespace": "ns"}, "spec": spec})).expect("a pod")
    }

    #[test]
    fn resolv_conf() {
        let host = Dns::parse("# made by hand\nnameserver 192.0.2.1\nsearch example.org\noptions edns0\n");
        let check = |spec: Value, expected: &str| {
            let mut spec = spec;
            spec["containers"] = json!([]);
            let dns = pod_dns(&pod(spec.clone()), &host, &["10.96.0.10".parse().expect("an address")], "cluster.local");
            assert_eq!(dns.text(), expected, "{spec}");
        };
        let cluster = "search ns.svc.cluster.local svc.cluster.local cluster.local example.org\nnameserver 10.96.0.10\noptions ndots:5\n";
        let hosts = "search example.org\nnameserver 192.0.2.1\noptions edns0\n";
        check(json!({"dnsPolicy": "ClusterFirst"}), cluster);
        check(json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}), hosts);
        check(json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}), cluster);
        check(json!({"dnsPolicy": "Default"}), hosts);
        check(
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}, {"name": "debug"}]}}),
            "search a.b\nnameserver 1.1.1.1\noptions ndots:2 debug\n",
        );
        check(
            json!({"dnsPolicy": "ClusterFirst", "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]}}),
            "search ns.svc.cluster.local svc.cluster.local cluster.local example.org\nnameserver 10.96.0.10\noptions ndots:2\n",
        );
    }

    #[test]
    fn hosts() {
        let ips = ["10.0.0.9".parse().expect("an address")];
        let plain = hosts_file(&pod(json!({"containers": []})), &ips, "cluster.local", None);
        assert!(
            plain.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n")
                && plain.ends_with("\n10.0.0.9\tweb-0\n"),
            "{plain}"
        );
        let spec =
            json!({"containers": [], "subdomain": "sub", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]});
        let aliased = hosts_file(&pod(spec), &ips, "cluster.local", None);
        assert!(
            aliased.ends_with(
                "10.0.0.9\tweb-0.sub.ns.svc.cluster.local\tweb-0\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"
            ),
            "{aliased}"
        );
    }
}
