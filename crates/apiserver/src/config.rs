//! What an API server is told at start.

use std::{net::IpAddr, ops::RangeInclusive, path::PathBuf, sync::Arc, time::Duration};

use crate::{
    Guest, Tracer,
    audit::Auditor,
    security::{Authorization, TokenWebhook, encryption::Encryption, jwt::Authentication},
};

/// The settings of an [`crate::ApiServer`].
#[derive(Clone, Debug)]
pub struct Config {
    /// The address that clients inside the cluster reach this server at (the `kubernetes` endpoints).
    pub advertise_address: IpAddr,
    /// The port of the HTTPS listener, also written into the `kubernetes` endpoints.
    pub port: u16,
    /// Whether other servers of the cluster use the same store, each of which is an endpoint of its own.
    pub shared_store: bool,
    /// The ranges that cluster addresses of services come from, the first one being the default family.
    pub service_cidrs: Vec<String>,
    /// The ranges of all pods: what machines that join are told.
    pub cluster_cidrs: Vec<String>,
    /// The ports given to services of type `NodePort` and `LoadBalancer`.
    pub node_port_range: RangeInclusive<u16>,
    /// The folder of this instance; keys and certificates are under `pki/`.
    pub data_dir: PathBuf,
    /// The domain of services, `cluster.local` unless told otherwise.
    pub cluster_domain: String,
    /// The issuer of service account tokens.
    pub service_account_issuer: String,
    /// How the server connects to the HTTP API of nodes; `None` makes one from the authority in `data_dir`.
    pub node_client: Option<Arc<rustls::ClientConfig>>,
    /// The certificate that the server shows to webhooks that ask for one; none unless told, as upstream.
    pub webhook_identity: Option<kobune_pki::Pair>,
    /// How many requests that only read may be worked on at once, watches and streams aside; more are answered with 429.
    /// 0 for no limit.
    pub max_requests_in_flight: usize,
    /// How many requests that write may be worked on at once.
    pub max_mutating_requests_in_flight: usize,
    /// How long a request may take, watches and streams aside.
    pub request_timeout: Duration,
    /// How long events live after they were last written; zero for ever.
    pub event_ttl: Duration,
    /// The other issuers of tokens, as in OpenID Connect.
    pub authentication: Arc<Authentication>,
    /// Who is asked about tokens that nothing here knows.
    pub token_webhook: Option<Arc<TokenWebhook>>,
    /// Who decides what users may do.
    pub authorization: Arc<Authorization>,
    /// Parts of the same process that answer for groups of their own.
    pub guests: Vec<Arc<dyn Guest>>,
    /// What encrypts objects on disk, whose services are part of this server's health.
    pub encryption: Option<Arc<Encryption>>,
    /// What writes the audit trail.
    pub auditor: Option<Arc<Auditor>>,
    /// What makes traces of requests.
    pub tracer: Option<Arc<Tracer>>,
}

impl Config {
    /// The defaults of a one-node cluster whose files are in `data_dir` and that is reached at the given address.
    #[must_use]
    pub fn new(data_dir: PathBuf, advertise_address: IpAddr, port: u16) -> Self {
        Self {
            advertise_address,
            port,
            shared_store: false,
            service_cidrs: vec!["10.96.0.0/16".to_owned()],
            cluster_cidrs: vec!["10.244.0.0/16".to_owned()],
            node_port_range: 30000..=32767,
            data_dir,
            cluster_domain: "cluster.local".to_owned(),
            service_account_issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            node_client: None,
            webhook_identity: None,
            max_requests_in_flight: 400,
            max_mutating_requests_in_flight: 200,
            request_timeout: Duration::from_secs(60),
            event_ttl: Duration::from_secs(60 * 60),
            authentication: Arc::default(),
            token_webhook: None,
            authorization: Arc::default(),
            guests: Vec::new(),
            encryption: None,
            auditor: None,
            tracer: None,
        }
    }
}
