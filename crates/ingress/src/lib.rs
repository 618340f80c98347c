//! Ingress: hosts, paths and certificates, served by a proxy in the node.
//!
//! ```text
//!   Ingress, IngressClass ──> objects ──> routes ───────────┐
//!   Secret (kubernetes.io/tls) ──> certificates ──┐          │
//!   :443 ── TLS, certificate by name ─────────────┴─> proxy ─┴─> an endpoint of the Service
//!   :80  ──────────────────────────────────────────────┘
//! ```
//!
//! [`routes`] is a pure table from host and path to a Service's port; [`proxy`] sends requests on to one of the ready
//! endpoints, which it knows from the network's own tables. Routes and certificates are exchanged while connections go on.
//! The proxy serves IngressClasses whose controller is [`CONTROLLER`]. It reads Secrets and therefore runs beside a
//! server, never on a machine that is only a node.

pub mod certificates;
pub mod follow;
pub mod objects;
pub mod proxy;
pub mod routes;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use kobune_network::cluster::Cluster;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The controller that IngressClasses name to be served here.
pub const CONTROLLER: &str = "kobune.dev/ingress";
/// The class that is made where there is none.
pub const CLASS: &str = "kobune";

/// Where the proxy listens and what it says of that.
#[derive(Clone, Debug)]
pub struct Config {
    /// The port of plain HTTP.
    pub http_port: u16,
    /// The port of HTTPS.
    pub https_port: u16,
    /// The node's addresses, which Ingresses get as theirs.
    pub addresses: Vec<IpAddr>,
}

/// Why the proxy cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port could not be opened.
    #[error("listen on port {port} for Ingress")]
    Listen {
        /// The port.
        port: u16,
        /// The cause.
        source: std::io::Error,
    },
    /// TLS could not be set up.
    #[error("set up TLS for Ingress")]
    Tls(#[source] rustls::Error),
}

/// Serves Ingresses until `token` is cancelled. Fails at once when a port cannot be opened, and not later.
pub async fn run(
    config: Config,
    client: kube::Client,
    cluster: Arc<Cluster>,
    token: CancellationToken,
) -> Result<(), Error> {
    let plain = listen(config.http_port).await?;
    let secure = listen(config.https_port).await?;
    let table = Arc::<follow::Table>::default();
    let acceptor = certificates::acceptor(Arc::clone(&table.certificates)).map_err(Error::Tls)?;
    let proxy = proxy::Proxy::new(Arc::clone(&table), cluster);
    let serving = async {
        tokio::join!(
            follow::run(table, client, config.addresses),
            Arc::clone(&proxy).serve(plain, None),
            Arc::clone(&proxy).serve(secure, Some(acceptor)),
        )
    };
    token.run_until_cancelled(serving).await;
    Ok(())
}

/// Every address of both families, or of the fourth where the machine has no other.
async fn listen(port: u16) -> Result<TcpListener, Error> {
    let bound = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
        }
        bound => bound,
    };
    bound.map_err(|source| Error::Listen { port, source })
}
