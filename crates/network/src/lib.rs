//! Pod links and addresses, service rules and DNS.
//!
//! Parts that share one instance of [`Network`]:
//!
//! - [`Network`] gives each pod a network namespace, a link, addresses and routes, and takes them away again.
//! - [`services`] keeps one nftables table in step with Services and EndpointSlices; [`policy`] adds NetworkPolicies.
//! - `node_routes` keeps a route to the pods of each other node, `overlay` leads where no link does.
//! - [`dns`] answers `cluster.local` from memory and forwards every other question.
//!
//! Or plug-ins of others attach pods ([`cni`]).
//!
//! [`run`] starts all but the first.
//!
//! Every pod hangs on a point-to-point link that the host routes; nothing is bridged. See [`network`] for why.

mod addresses;
mod bandwidth;
pub mod cluster;
pub mod cni;
mod config;
pub mod dns;
mod link_news;
mod links;
mod loopback;
mod namespace;
mod netlink;
pub mod network;
mod node_routes;
mod overlay;
pub mod policy;
pub mod services;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub use bandwidth::Bandwidth;
pub use config::Backend;
pub use loopback::raise_loopback;
pub use network::{Attachment, Config, HostPort, Network, NetworkError, Protocol, Wanted};

/// Keeps service rules and DNS current until `token` is cancelled, both fed by `cluster`.
///
/// Problems of the cluster's API or of a single rule are logged and retried; this fails at once when a socket for DNS
/// cannot be bound, and not later.
pub async fn run(
    network: Arc<Network>,
    cluster: Arc<cluster::Cluster>,
    client: kube::Client,
    node_name: String,
    dns: dns::Config,
    token: CancellationToken,
) -> Result<(), dns::DnsError> {
    let own_ranges = network.config().pod_cidrs.iter().chain(&network.config().service_cidrs).copied().collect();
    let server = dns::Server::bind(dns::Config { own_ranges, ..dns }).await?;
    let routes = node_routes::run(Arc::clone(&network), Arc::clone(&cluster), client, node_name.clone(), token.clone());
    let services = services::run(network, Arc::clone(&cluster), node_name, token.clone());
    tokio::join!(services, routes, server.run(cluster, token.clone()));
    Ok(())
}
