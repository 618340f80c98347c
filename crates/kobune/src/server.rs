//! The server part: store, API server, controllers and scheduler, and the kubeconfig of the administrator.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use futures::FutureExt;
use futures::future::BoxFuture;
use kobune_apiserver::security::{Authorization, User};
use kobune_apiserver::{ApiServer, Guest};
use kobune_pki::{Authority, San, ServiceAccountTokens, api_server_sans, cluster_info, kubeconfig, tls, write_private};
use kobune_store::Seal;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::authorization;
use crate::cli::Part;
use crate::election::{Candidate, Connect, Terms};
use crate::metrics::MetricsGuest;
use crate::settings::{ServerSettings, address_at, texts};
use crate::user_agent;

/// A server that answers in process and whose other parts are not started yet.
pub struct Server {
    settings: ServerSettings,
    host_name: String,
    authority: Arc<Authority>,
    api: Arc<ApiServer>,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    /// Where joining machines find this server.
    cluster_info: String,
    tokens: Arc<ServiceAccountTokens>,
    scheduling: kobune_scheduler::Config,
    authorization: Arc<Authorization>,
    /// Where other machines find this server.
    address: SocketAddr,
}

fn client_as(api: &Arc<ApiServer>, user: &str, groups: &[&str]) -> kube::Client {
    let tag = user_agent::tag(user_agent::of_user(user));
    let service = tower::ServiceBuilder::new().map_request(tag).service(api.service_as(user_of(user, groups)));
    kube::Client::new(service, "default")
}

impl Server {
    /// Opens the store, makes or reads keys and binds the socket.
    pub async fn build(settings: ServerSettings, host_name: &str, node_ip: IpAddr) -> Result<Self> {
        let scheduling = settings.scheduler.config()?;
        let listener = listen(settings.bind_address, settings.port).await?;
        let port = listener.local_addr().context("read the API server's address")?.port();
        let data_dir = &settings.names.data_dir;
        let authority = Authority::load_or_create(&data_dir.join("pki")).context("open the certificate authority")?;
        let mut addresses = vec![node_ip, IpAddr::from([127, 0, 0, 1]), Ipv6Addr::LOCALHOST.into()];
        addresses.extend(settings.service_cidrs.iter().map(|range| address_at(range, 1)));
        let mut sans = api_server_sans(&settings.cluster_domain, host_name, &addresses);
        sans.extend(settings.tls_san.iter().map(|name| San::parse(name)));
        let pair = authority.kept_server_certificate(&data_dir.join("pki"), "apiserver", &sans)?;
        let certificate = tls::ServingCertificate::new(&pair)?;
        let tls = tls::server_config(certificate, authority.certificate_pem())?;

        let catalogue = kobune_kinds::Catalogue::builtin();
        let options = settings.api.encryption.clone();
        let folder = data_dir.clone();
        // A key management service may take a while to answer.
        let encryption =
            tokio::task::spawn_blocking(move || options.load(&folder)).await.context("read the keys")??;
        let seal = encryption.clone().map(|encryption| encryption as Arc<dyn Seal>);
        let store = settings.storage.open(data_dir, &catalogue, seal).await?;
        let mut config = kobune_apiserver::Config::new(data_dir.clone(), node_ip, port);
        config.shared_store = settings.storage.is_shared();
        config.service_cidrs = settings.service_cidrs.iter().map(ToString::to_string).collect();
        config.cluster_cidrs = settings.cluster_cidrs.iter().map(ToString::to_string).collect();
        config.node_port_range = settings.node_ports.first..=settings.node_ports.last;
        config.cluster_domain.clone_from(&settings.cluster_domain);
        config.service_account_issuer = format!("https://kubernetes.default.svc.{}", settings.cluster_domain);
        settings.api.configure(&mut config)?;
        config.encryption = encryption;
        let metrics = Arc::new(MetricsGuest::default());
        config.guests.push(Arc::clone(&metrics) as Arc<dyn Guest>);
        let issuer = config.service_account_issuer.clone();
        let authorization = Arc::clone(&config.authorization);
        let api = ApiServer::build(config, store, catalogue).await.context("build the API server")?;
        let tokens = ServiceAccountTokens::load_or_create(&data_dir.join("pki"), &issuer)
            .context("read the key of service account tokens")?;
        let url = format!("https://{}", SocketAddr::new(node_ip, port));
        let cluster_info = cluster_info(&url, authority.certificate_pem());

        let server = Self {
            settings,
            host_name: host_name.to_owned(),
            authority: Arc::new(authority),
            api,
            listener,
            tls,
            cluster_info,
            tokens: Arc::new(tokens),
            scheduling,
            authorization,
            address: SocketAddr::new(node_ip, port),
        };
        metrics.begin(server.client_as("system:metrics-server", &["system:masters"]));
        server.write_admin_kubeconfig(node_ip, port)?;
        Ok(server)
    }

    fn write_admin_kubeconfig(&self, node_ip: IpAddr, port: u16) -> Result<()> {
        let data_dir = &self.settings.names.data_dir;
        let admin = self.authority.kept_client_certificate(
            &data_dir.join("pki"),
            "admin",
            "kubernetes-admin",
            &["system:masters"],
        )?;
        let url = format!("https://{}", SocketAddr::new(node_ip, port));
        let text = kubeconfig(&url, self.authority.certificate_pem(), &admin);
        let path = data_dir.join("admin.kubeconfig");
        if std::fs::read(&path).is_ok_and(|there| there == text.as_bytes()) {
            return Ok(());
        }
        write_private(&path, text.as_bytes()).context("write the administrator's kubeconfig")
    }

    /// The cluster's certificate authority.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// A client in the same process that acts in the name of a user.
    pub fn client_as(&self, user: &str, groups: &[&str]) -> kube::Client {
        client_as(&self.api, user, groups)
    }

    /// Does work that only one of several servers may do: always here when the store is not shared, else while the lease
    /// of this name is ours.
    fn lead<F>(
        &self,
        lease: &'static str,
        client: kube::Client,
        token: &CancellationToken,
        work: impl Fn(CancellationToken) -> F + Send + 'static,
    ) -> BoxFuture<'static, Result<()>>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let token = token.clone();
        if !self.settings.storage.is_shared() {
            return work(token).boxed();
        }
        let identity = format!("{}_{}", self.host_name, uuid::Uuid::new_v4());
        let servers = Some((self.address, self.connect()));
        Candidate::new(client, Terms::of(lease), identity, servers).run(token, work).boxed()
    }

    /// Clients for other servers of the cluster, which have the same authority.
    fn connect(&self) -> Connect {
        let authority = Arc::clone(&self.authority);
        Arc::new(move |server| {
            let pair = authority.client_certificate("system:kube-controller-manager", &["system:masters"]);
            let authority = authority.certificate_pem().to_owned();
            let connected = async move {
                let text = kubeconfig(&format!("https://{server}"), &authority, &pair?);
                let config = kube::config::Kubeconfig::from_yaml(&text)?;
                let mut config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await?;
                // Servers of one cluster reach each other.
                config.proxy_url = None;
                Ok(kube::Client::try_from(config)?)
            };
            connected.boxed()
        })
    }

    /// Starts to answer, and starts the controllers and the scheduler; each part's end is a result in `parts`.
    ///
    /// The controllers stop with `token`; the API server goes on until `serving` is cancelled, so that what stops can
    /// still write its last words. `own_pod_cidrs` are the ranges of the node beside it, which may be slower to come than a
    /// machine that joins.
    pub fn start(
        self,
        own_pod_cidrs: Vec<String>,
        parts: &mut JoinSet<(&'static str, Result<()>)>,
        token: &CancellationToken,
        serving: CancellationToken,
    ) {
        // One client for all controllers: upstream's split into a service account each needs the rights of all of them
        // together, and a garbage collector may touch every kind.
        let client = self.client_as("system:kube-controller-manager", &["system:masters"]);
        let config = kobune_controllers::Config {
            cluster_cidr: texts(&self.settings.cluster_cidrs),
            own_pod_cidrs,
            root_ca_pem: self.authority.certificate_pem().to_owned(),
            authority: Some(Arc::clone(&self.authority)),
            cluster_signing_duration: self.settings.api.cluster_signing_duration,
            cluster_info: Some(self.cluster_info.clone()),
            service_account_tokens: Some(Arc::clone(&self.tokens)),
            ..kobune_controllers::Config::default()
        };
        let without = |part: Part| self.settings.without.contains(&part);
        if !without(Part::Controllers) {
            let controllers = self.lead("kube-controller-manager", client.clone(), token, move |token| {
                let run = kobune_controllers::run(client.clone(), config.clone(), token);
                async { run.await.context("controllers") }
            });
            parts.spawn(async { ("controllers", controllers.await) });
        }
        if !without(Part::Scheduler) {
            let client = self.client_as("system:kube-scheduler", &[]);
            let scheduling = self.scheduling.clone();
            let scheduler = self.lead("kube-scheduler", client.clone(), token, move |token| {
                let run = kobune_scheduler::run(client.clone(), scheduling.clone(), token);
                async { run.await.context("scheduler") }
            });
            parts.spawn(async { ("scheduler", scheduler.await) });
        }
        if self.authorization.file().is_some() {
            let follow = authorization::follow(Arc::clone(&self.authorization), token.clone());
            parts.spawn(async { ("authorization", follow.await) });
        }
        if let Some(settings) = self.settings.sync.clone() {
            let own = self.client_as("system:kobune-sync", &["system:masters"]);
            let (api, client, url) = (Arc::clone(&self.api), own.clone(), "in process".to_owned());
            let client_as = move |user: &str, groups: &[&str]| client_as(&api, user, groups);
            let connect = kobune_cli::connect_in_process(url, own, client_as);
            let cache = self.settings.names.data_dir.join("sync");
            let syncs = self.lead("kobune-sync", client, token, move |token| {
                let (connect, settings, cache) = (Arc::clone(&connect), settings.clone(), cache.clone());
                async move { kobune_cli::run_sync(connect, &settings, &cache, None, token).await.context("syncs") }
            });
            parts.spawn(async { ("syncs", syncs.await) });
        }
        let serve = self.api.serve(self.listener, self.tls, serving);
        parts.spawn(async { ("API server", serve.await.context("API server")) });
    }
}

fn user_of(name: &str, groups: &[&str]) -> User {
    let groups = groups.iter().copied().chain(["system:authenticated"]).map(str::to_owned).collect();
    User { name: name.to_owned(), uid: String::new(), groups, extra: Default::default() }
}

/// Binds every address of both families where none is given, of one family where the machine has only that.
async fn listen(address: Option<IpAddr>, port: u16) -> Result<TcpListener> {
    let candidates = match address {
        Some(address) => vec![address],
        None => vec![Ipv6Addr::UNSPECIFIED.into(), IpAddr::from([0, 0, 0, 0])],
    };
    let mut last = None;
    for address in candidates {
        match TcpListener::bind(SocketAddr::new(address, port)).await {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                return Err(error).with_context(|| {
                    format!("listen on port {port}, which another program has: choose one with --port")
                });
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.expect("there is a candidate")).with_context(|| format!("listen on port {port}"))
}

/// This machine's address as the routing table would choose it; nothing is sent. Loopback where there is no route.
pub fn own_address() -> IpAddr {
    let towards = [(IpAddr::from([0, 0, 0, 0]), "192.0.2.1:9"), (Ipv6Addr::UNSPECIFIED.into(), "[2001:db8::1]:9")];
    for (from, to) in towards {
        let found = std::net::UdpSocket::bind(SocketAddr::new(from, 0))
            .and_then(|socket| socket.connect(to).and_then(|()| socket.local_addr()));
        if let Ok(address) = found {
            return address.ip();
        }
    }
    IpAddr::from([127, 0, 0, 1])
}
