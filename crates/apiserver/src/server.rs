//! The parts of an API server and how they are put together.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use arc_swap::ArcSwap;
use kobune_kinds::Catalogue;
use kobune_pki::{Authority, ServiceAccountTokens};
use kobune_store::{CommitError, Key, Op, Store, StoreError, Write};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    Config, InProcess,
    aggregation::{Aggregation, PrepareError},
    call,
    conversion::Converter,
    create::{durability, metadata},
    custom_rules::CustomRules,
    definitions::{self, Definitions},
    document::Documents,
    encode, event_expiry,
    flow::FlowControl,
    metrics::Metrics,
    outgoing::trust::{Identity, TrustError},
    policy::AllPolicies,
    reservations::Reservations,
    security::{self, Security, User, bootstrap},
    servers::Servers,
    services::{Allocator, Cidr},
    spans::Traced,
    webhook::{WebhookClient, Webhooks},
};

/// Why an API server could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The address ranges of services are not understood.
    #[error("the service range {cidr:?} is not an address range")]
    ServiceRange {
        /// The range as configured.
        cidr: String,
    },
    /// There is no address range for services.
    #[error("there is no address range for services")]
    NoServiceRange,
    /// The keys could not be read or made.
    #[error("cannot prepare the keys of the API server")]
    Keys(#[source] kobune_pki::Error),
    /// Aggregation could not be prepared.
    #[error("cannot prepare for aggregated servers")]
    Aggregation(#[source] PrepareError),
    /// The certificate for webhooks cannot be used.
    #[error("cannot use the certificate for webhooks")]
    WebhookIdentity(#[source] TrustError),
    /// The store could not be read.
    #[error("cannot read the store")]
    Read(#[source] StoreError),
    /// The cluster's other servers could not be found out about.
    #[error("cannot join the cluster's other servers")]
    Servers(#[source] crate::servers::ServersError),
    /// An object that every cluster begins with could not be written.
    #[error("cannot write {what}")]
    Bootstrap {
        /// The resource and name.
        what: String,
        /// Why.
        #[source]
        source: CommitError,
    },
    /// A stored object of those that every cluster begins with is damaged.
    #[error("the stored object {what} is damaged")]
    Damaged {
        /// The resource and name.
        what: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// Who sends a request, as far as the connection tells.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// A part of this process, in the name of a user.
    Known(Arc<User>),
    /// A connection.
    Connection {
        /// The user of its client certificate, if it has one.
        certificate: Option<Arc<User>>,
        /// The other end.
        peer: IpAddr,
    },
}

impl Caller {
    /// Where requests come from.
    pub(crate) fn peer(&self) -> IpAddr {
        match self {
            Caller::Known(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Caller::Connection { peer, .. } => *peer,
        }
    }
}

/// The API server.
pub struct ApiServer {
    pub(crate) config: Config,
    pub(crate) store: Arc<dyn Store>,
    /// The kinds that are served now. Requests in flight keep the record that they began with.
    pub(crate) catalogue: ArcSwap<Catalogue>,
    pub(crate) definitions: Definitions,
    pub(crate) security: Arc<Security>,
    pub(crate) allocator: Allocator,
    pub(crate) reservations: Reservations,
    pub(crate) documents: Documents,
    pub(crate) metrics: Metrics,
    /// Who may be worked for at once.
    pub(crate) flows: FlowControl,
    /// The servers behind this one.
    pub(crate) aggregation: Arc<Aggregation>,
    /// The webhooks of others, and the client that calls them.
    pub(crate) webhooks: Webhooks,
    /// What converts custom resources between their versions.
    pub(crate) converter: Arc<Converter>,
    /// The admission policies that clients have written.
    pub(crate) policies: AllPolicies,
    /// The rules that definitions of custom resources carry.
    pub(crate) rules: CustomRules,
    /// How connections to nodes are made.
    pub(crate) node_client: Arc<rustls::ClientConfig>,
    /// Cancelled when watches have to end.
    pub(crate) shutdown: CancellationToken,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ApiServer").field("config", &self.config).finish_non_exhaustive()
    }
}

impl ApiServer {
    /// Puts a server together: reads or makes its keys under `<data_dir>/pki`, writes the objects that every cluster
    /// begins with, and counts the service addresses that are in use.
    pub async fn build(
        config: Config,
        store: Arc<dyn Store>,
        catalogue: Arc<Catalogue>,
    ) -> Result<Arc<Self>, BuildError> {
        let store: Arc<dyn Store> = match config.tracer {
            Some(_) => Arc::new(Traced(store)),
            None => store,
        };
        let ranges = config
            .service_cidrs
            .iter()
            .map(|cidr| Cidr::parse(cidr).ok_or_else(|| BuildError::ServiceRange { cidr: cidr.clone() }))
            .collect::<Result<Vec<_>, _>>()?;
        if ranges.is_empty() {
            return Err(BuildError::NoServiceRange);
        }
        let pki = config.data_dir.join("pki");
        let tokens =
            ServiceAccountTokens::load_or_create(&pki, &config.service_account_issuer).map_err(BuildError::Keys)?;
        let authority = Authority::load_or_create(&pki).map_err(BuildError::Keys)?;
        let aggregation = Aggregation::prepare(&pki, &config.guests).map_err(BuildError::Aggregation)?;
        let node_client = match &config.node_client {
            Some(client) => Arc::clone(client),
            None => {
                let pair = authority
                    .kept_client_certificate(
                        &pki,
                        "apiserver-kubelet-client",
                        "kube-apiserver-kubelet-client",
                        &["system:masters"],
                    )
                    .map_err(BuildError::Keys)?;
                let client = kobune_pki::tls::client_config(authority.certificate_pem(), Some(&pair))
                    .map_err(BuildError::Keys)?;
                Arc::new(client)
            }
        };
        let shutdown = CancellationToken::new();
        let mut server_addresses = vec![config.advertise_address];
        if config.shared_store {
            let mut servers =
                Servers::new(Arc::clone(&store), Arc::clone(&catalogue), config.advertise_address, config.port);
            let there = servers.join().await.map_err(BuildError::Servers)?;
            server_addresses = there.into_iter().collect();
            tokio::spawn(servers.run(shutdown.clone()));
        }
        let desired = bootstrap::objects(&bootstrap::Config {
            service_addresses: ranges.iter().map(|range| range.address(0)).collect(),
            dns_addresses: ranges.iter().filter(|range| range.has(9)).map(|range| range.address(9)).collect(),
            service_cidrs: config.service_cidrs.clone(),
            cluster_cidrs: config.cluster_cidrs.clone(),
            cluster_domain: config.cluster_domain.clone(),
            server_addresses,
            port: config.port,
            client_authority: authority.certificate_pem().to_owned(),
            front_proxy_authority: aggregation.authority().to_owned(),
            today: jiff::Timestamp::now().strftime("%F").to_string(),
        });
        for object in desired {
            // Another server of the cluster may be doing the same at this moment.
            while !write_desired(&*store, &catalogue, &object).await? {}
        }
        let allocator = Allocator::new(ranges, config.node_port_range.clone());
        let reservations = Reservations::new(Arc::clone(&store), &catalogue).expect("IPAddress is a built-in kind");
        reservations.adopt().await.map_err(BuildError::Read)?;
        tokio::spawn(reservations.clone().tidy(shutdown.clone()));
        if !config.event_ttl.is_zero() {
            tokio::spawn(event_expiry::expire(Arc::clone(&store), config.event_ttl, shutdown.clone()));
        }
        let security_config = security::Config {
            authentication: Arc::clone(&config.authentication),
            token_webhook: config.token_webhook.clone(),
            authorization: Arc::clone(&config.authorization),
            ..security::Config::new(&config.service_account_issuer)
        };
        let security = Security::start(security_config, Arc::clone(&store), Arc::new(tokens), shutdown.clone())
            .await
            .map_err(BuildError::Read)?;
        let identity =
            config.webhook_identity.as_ref().map(Identity::of).transpose().map_err(BuildError::WebhookIdentity)?;
        let webhook_client = Arc::new(WebhookClient::new(Arc::clone(&store), identity));
        let webhooks = Webhooks::new(Arc::clone(&webhook_client));
        let converter = Arc::new(Converter::new(webhook_client));
        let flows = FlowControl::new(most_at_once(&config));
        aggregation.follow(Arc::clone(&store), Arc::clone(&catalogue), shutdown.clone()).await;
        let server = Arc::new(Self {
            config,
            store,
            catalogue: ArcSwap::new(catalogue),
            definitions: Definitions::default(),
            security,
            allocator,
            reservations,
            documents: Documents::default(),
            metrics: Metrics::default(),
            aggregation,
            flows,
            webhooks,
            converter,
            policies: AllPolicies::default(),
            rules: CustomRules::default(),
            node_client,
            shutdown,
        });
        // Custom resources are known before the first request.
        definitions::start(&server).await.map_err(BuildError::Read)?;
        Ok(server)
    }

    /// The same road as the network's, for a part of this process that acts in the name of `user`.
    ///
    /// `kube::Client::new(server.service_as(user), "default")` is a client of it.
    #[must_use]
    pub fn service_as(self: &Arc<Self>, user: User) -> InProcess {
        InProcess::new(Arc::clone(self), user)
    }

    /// Ends all watches and lets `/readyz` fail. [`ApiServer::serve`] does so by itself when its token is cancelled.
    pub fn stop(&self) {
        self.shutdown.cancel();
    }
}

/// How many requests may be worked on at once; 0 when one of the limits is none.
fn most_at_once(config: &Config) -> usize {
    match (config.max_requests_in_flight, config.max_mutating_requests_in_flight) {
        (0, _) | (_, 0) => 0,
        (read, write) => read + write,
    }
}

/// Writes one of the objects that every cluster begins with, if what is stored differs from it. Answers whether it is
/// there now; otherwise somebody else was faster, and what is stored must be looked at again.
pub(crate) async fn write_desired(
    store: &dyn Store,
    catalogue: &Catalogue,
    desired: &bootstrap::Desired,
) -> Result<bool, BuildError> {
    let Some(kind) = catalogue.by_resource(desired.group, desired.version, desired.resource) else {
        tracing::error!(resource = desired.resource, "a bootstrap object is of an unknown kind");
        return Ok(true);
    };
    let text = |field: &str| desired.object["metadata"][field].as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (text("namespace"), text("name"));
    let what = format!("{} {name}", kind.plural);
    let key: Key = call::key(kind, &namespace, &name);
    let record = store.get(&key).await.map_err(BuildError::Read)?;
    let stored: Option<Value> = match &record {
        Some(record) => Some(
            serde_json::from_slice(&record.value)
                .map_err(|source| BuildError::Damaged { what: what.clone(), source })?,
        ),
        None => None,
    };
    let Some(mut object) = bootstrap::reconcile(&desired.object, stored.as_ref()) else { return Ok(true) };
    kind.default(&mut object);
    let op = match &record {
        None => {
            let fields = metadata(&mut object);
            fields.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
            fields.insert("creationTimestamp".into(), call::now_text().into());
            kind.prepare_create(&mut object);
            crate::hooks::prepare_create(kind, &mut object, None);
            Op::Create(encode::draft(kind, &object))
        }
        Some(record) => {
            if let Some(old) = &stored {
                kind.prepare_update(&mut object, old, None);
            }
            Op::Update { expected: record.revision, draft: encode::draft(kind, &object) }
        }
    };
    match store.commit(Write { key, op, durability: durability(kind) }).await {
        Ok(_) => Ok(true),
        Err(CommitError::Exists(_) | CommitError::Conflict { .. }) => Ok(false),
        Err(source) => Err(BuildError::Bootstrap { what, source }),
    }
}
