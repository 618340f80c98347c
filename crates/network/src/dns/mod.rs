//! The cluster's DNS server: `cluster.local` from memory, every other name from the host's resolvers.
//!
//! [`zone`] decides what a name in the cluster's domain answers, by the Kubernetes DNS specification 1.1. [`forward`]
//! asks others and remembers their answers for a short while. [`server`] speaks UDP and TCP.
//!
//! The server listens on the DNS service's own address, which the node's bridge carries, so that pods and the host
//! reach it without any rule, and a pod's first lookup does not wait for one.

pub mod forward;
pub mod server;
pub mod zone;

use std::{net::IpAddr, path::PathBuf};

use ipnet::IpNet;

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
