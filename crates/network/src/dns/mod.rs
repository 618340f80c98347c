//! The cluster's DNS server: `cluster.local` from memory, every other name from the host's resolvers.
//!
//! [`zone`] decides what a name in the cluster's domain answers, by the Kubernetes DNS specification 1.1. [`forward`]
//! asks others and remembers their answers for a short while. [`server`] speaks UDP and TCP.
//!
//! The server listens on the DNS service's own address, which the node's bridge carries, so that pods and the host
//! reach it without any rule, and a pod's first lookup does not wait for one.

pub mod dns64;
pub mod forward;
pub mod server;
pub mod zone;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use hickory_proto::rr::Name;
use ipnet::{IpNet, Ipv6Net};

pub use server::Server;

/// What the DNS server answers and where.
#[derive(Clone, Debug)]
pub struct Config {
    /// The addresses to listen on, UDP and TCP: the DNS service's, carried by the bridge.
    pub addresses: Vec<IpAddr>,
    /// The port, 53 but for tests.
    pub port: u16,
    /// The cluster's domain, `cluster.local`.
    pub domain: String,
    /// The file that names the resolvers other questions go to, `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// Ranges whose reverse names are nobody else's business: pods and services.
    pub own_ranges: Vec<IpNet>,
    /// Domains that other resolvers than the host's know about.
    pub stubs: Vec<Stub>,
    /// The prefix of the network's NAT64: names that have only addresses of the fourth version get some of the sixth.
    pub dns64: Option<Ipv6Net>,
}

/// A domain and the resolvers that know about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stub {
    /// The domain, with all below it.
    pub domain: Name,
    /// Its resolvers, in the order in which they are asked.
    pub servers: Vec<SocketAddr>,
}

/// Why a text names no stub domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StubError {
    /// Not of that form.
    #[error("a stub domain is written DOMAIN=ADDRESS[,ADDRESS...]")]
    Form,
    /// The domain is not a name.
    #[error("{0:?} is not a domain name")]
    Domain(String),
    /// Not an address.
    #[error("{0:?} is not an address, or an address and a port")]
    Server(String),
}

/// `corp.example=10.0.0.53,[fd00::53]:5353`: the port is 53 where none is given.
impl FromStr for Stub {
    type Err = StubError;

    fn from_str(text: &str) -> Result<Stub, StubError> {
        let (domain, servers) = text.split_once('=').ok_or(StubError::Form)?;
        let mut name = Name::from_ascii(domain.trim()).map_err(|_| StubError::Domain(domain.to_owned()))?;
        name.set_fqdn(true);
        let server = |text: &str| {
            let text = text.trim();
            let plain = text.parse().map(|address: IpAddr| SocketAddr::new(address, 53));
            plain.or_else(|_| text.parse()).map_err(|_| StubError::Server(text.to_owned()))
        };
        let servers = servers.split(',').map(server).collect::<Result<Vec<SocketAddr>, StubError>>()?;
        if name.is_root() {
            Err(StubError::Domain(domain.to_owned()))
        } else {
            Ok(Stub { domain: name.to_lowercase(), servers })
        }
    }
}

impl Config {
    /// The usual server for these addresses: port 53, the host's resolvers.
    pub fn new(addresses: Vec<IpAddr>, domain: &str) -> Config {
        Config {
            addresses,
            port: 53,
            domain: domain.trim_matches('.').to_ascii_lowercase(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            own_ranges: Vec::new(),
            stubs: Vec::new(),
            dns64: None,
        }
    }
}

/// Why the DNS server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// A socket could not be bound.
    #[error("bind {address} port {port} for DNS")]
    Bind {
        /// The address.
        address: IpAddr,
        /// The port.
        port: u16,
        /// The cause.
        source: std::io::Error,
    },
    /// The domain is not a name.
    #[error("cluster domain {domain:?} is not a domain name")]
    Domain {
        /// The domain.
        domain: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stubs_are_read() {
        let check = |text: &str, expected: Result<(&str, &[&str]), StubError>| {
            let found = text.parse::<Stub>().map(|stub| {
                let servers: Vec<String> = stub.servers.iter().map(SocketAddr::to_string).collect();
                (stub.domain.to_string(), servers)
            });
            let expected = expected.map(|(domain, servers)| {
                (domain.to_owned(), servers.iter().map(|server| (*server).to_owned()).collect::<Vec<_>>())
            });
            assert_eq!(found, expected, "{text}");
        };
        check("Corp.example=10.0.0.53", Ok(("corp.example.", &["10.0.0.53:53"])));
        check(
            "corp.=10.0.0.53:5353, fd00::1,[fd00::2]:54",
            Ok(("corp.", &["10.0.0.53:5353", "[fd00::1]:53", "[fd00::2]:54"])),
        );
        check("corp", Err(StubError::Form));
        check("corp=", Err(StubError::Server(String::new())));
        check("corp=x", Err(StubError::Server("x".to_owned())));
        check(".=10.0.0.53", Err(StubError::Domain(".".to_owned())));
    }
}
