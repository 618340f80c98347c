//! How a machine becomes a node of a cluster, and stays one.
//!
//! ```text
//!   token ──cluster-info, signed by the token──> authority ─┐
//!   kubeconfig ─────────────────────────────────────────────┴─> signing request ──> certificate of system:node:<name>
//!        ──> Node, which is given its range of pod addresses ──> node runs ──> certificate of its HTTP API
//! ```
//!
//! What was gained is kept in `<data-dir>/agent`, so that a later start needs neither token nor server. Both certificates
//! are asked for anew when two thirds of their life are over, and take effect without a restart. Upstream: KEP 43
//! (kubelet TLS bootstrap) and <https://kubernetes.io/docs/reference/setup-tools/kubeadm/kubeadm-join/>.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kobune_pki::{Pair, San, new_request, tls, write_private};
use kube::api::{Api, ObjectMeta, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::cli::AgentOptions;
use crate::discovery::{self, BootstrapToken};

/// How long something may wait for a person before it is said what it waits for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait after a failure.
const RETRY: Duration = Duration::from_secs(10);
/// How often it is looked whether a certificate is to be renewed: time may jump, so not just once at the right time.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// What a machine knows of its cluster once it has joined.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Membership {
    /// The API server's address.
    server: String,
    /// The cluster's authority.
    authority_pem: String,
    /// Proves that this is the node.
    client: Held,
    /// Proves it to those who call the node; absent until the first was approved.
    serving: Option<Held>,
    /// The ranges of this node's pods.
    pod_cidrs: Vec<IpNet>,
    /// What the cluster says of its network; kobunes that joined before it did have the defaults of then.
    #[serde(default)]
    network: NetworkFacts,
}

/// What all nodes of a cluster agree on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkFacts {
    /// The ranges of Services.
    pub service_cidrs: Vec<IpNet>,
    /// The ranges of all pods.
    pub cluster_cidrs: Vec<IpNet>,
    /// The domain of Services.
    pub cluster_domain: String,
}

impl Default for NetworkFacts {
    fn default() -> Self {
        let range = |text: &str| vec![text.parse().expect("a constant range parses")];
        Self {
            service_cidrs: range("10.96.0.0/16"),
            cluster_cidrs: range("10.244.0.0/16"),
            cluster_domain: "cluster.local".to_owned(),
        }
    }
}

impl NetworkFacts {
    /// Asks the cluster. One that does not say, since it is not kobune's or an older one, has the defaults.
    async fn read(client: &kube::Client) -> Result<Self> {
        let maps = Api::<ConfigMap>::namespaced(client.clone(), "kube-system");
        let map = match maps.get_opt("kobune-network").await {
            Ok(map) => map,
            Err(kube::Error::Api(status)) if status.is_forbidden() => None,
            Err(error) => return Err(error).context("read what the cluster says of its network"),
        };
        let Some(data) = map.and_then(|map| map.data) else { return Ok(Self::default()) };
        let ranges = |key: &str| -> Result<Vec<IpNet>> {
            let text = data.get(key).with_context(|| format!("the cluster's network has no {key}"))?;
            let ranges: std::result::Result<Vec<IpNet>, _> = text.split(',').map(str::parse).collect();
            ranges.with_context(|| format!("{key} of the cluster's network is {text:?}"))
        };
        Ok(Self {
            service_cidrs: ranges("service-cidr")?,
            cluster_cidrs: ranges("cluster-cidr")?,
            cluster_domain: data.get("cluster-domain").cloned().unwrap_or_else(|| Self::default().cluster_domain),
        })
    }
}

/// A certificate that was signed for us.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Held {
    certificate_pem: String,
    key_pem: String,
    /// When a new one is asked for, in seconds since 1970.
    renew_at: i64,
    /// The names that it is for; empty for a client's.
    names: Vec<String>,
}

impl Held {
    fn new(certificate_pem: String, key_pem: String, names: Vec<String>) -> Self {
        let now = now();
        let end = kobune_pki::end_of_certificate(certificate_pem.as_bytes()).unwrap_or(now);
        Self { certificate_pem, key_pem, renew_at: now + (end - now).max(0) / 3 * 2, names }
    }

    fn pair(&self) -> Pair {
        Pair { cert_pem: self.certificate_pem.clone(), key_pem: self.key_pem.clone() }
    }

    fn is_due(&self) -> bool {
        now() >= self.renew_at
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The place where a membership is kept.
fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("agent").join("membership.json")
}

impl Membership {
    /// Takes up the membership that is there, or joins as the options say.
    pub async fn take_up(options: &AgentOptions, name: &str) -> Result<Self> {
        let path = file(&options.instance.data_dir);
        match std::fs::read(&path) {
            Ok(bytes) => {
                let known: Self = serde_json::from_slice(&bytes)
                    .with_context(|| format!("read {}; remove it to join anew", path.display()))?;
                return Ok(known);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        }
        let (server, authority_pem, bootstrap) = introduction(options).await?;
        tracing::info!(server, node = name, "joining the cluster");
        let held = client_certificate(&bootstrap, name).await.context("get a certificate as a node")?;
        let identity = tls::ClientIdentity::new(&held.pair())?;
        let client = client(&server, &authority_pem, identity)?;
        let pod_cidrs = match options.pod_cidr.as_slice() {
            [] => pod_ranges(&client, name).await.context("get a range of pod addresses")?,
            given => given.to_vec(),
        };
        let network = NetworkFacts::read(&client).await?;
        let membership = Self { server, authority_pem, client: held, serving: None, pod_cidrs, network };
        membership.save(&options.instance.data_dir)?;
        Ok(membership)
    }

    fn save(&self, data_dir: &Path) -> Result<()> {
        let path = file(data_dir);
        let folder = path.parent().expect("the file is in a folder");
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let text = serde_json::to_vec_pretty(self).context("write down the membership")?;
        write_private(&path, &text).with_context(|| format!("write {}", path.display()))
    }

    /// The cluster's authority.
    pub fn authority_pem(&self) -> &str {
        &self.authority_pem
    }

    /// The ranges of this node's pods.
    pub fn pod_cidrs(&self) -> &[IpNet] {
        &self.pod_cidrs
    }

    /// What all nodes of the cluster agree on.
    pub fn network(&self) -> &NetworkFacts {
        &self.network
    }

    /// A client that acts as the node, and what to change when its certificate is renewed.
    pub fn client(&self) -> Result<(kube::Client, Arc<tls::ClientIdentity>)> {
        let identity = tls::ClientIdentity::new(&self.client.pair())?;
        Ok((client(&self.server, &self.authority_pem, identity.clone())?, identity))
    }

    /// What the node's HTTP API shows until the cluster has signed a certificate for these names.
    pub fn serving(&self, names: &[San], fallback: Pair) -> Pair {
        match &self.serving {
            Some(held) if held.names == texts(names) => held.pair(),
            _ => fallback,
        }
    }

    /// Keeps both certificates current until `token` is cancelled.
    pub async fn keep(mut self, node: Renewal, token: CancellationToken) -> Result<()> {
        loop {
            let wait = match self.renew(&node).await {
                Ok(()) => LOOK_EVERY,
                Err(error) => {
                    tracing::warn!("a certificate was not renewed, trying again: {error:#}");
                    RETRY
                }
            };
            // Dropping the timer loses nothing.
            tokio::select! {
                () = token.cancelled() => return Ok(()),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn renew(&mut self, node: &Renewal) -> Result<()> {
        let names = texts(&node.names);
        if self.serving.as_ref().is_none_or(|held| held.is_due() || held.names != names) {
            registered(&node.client, &node.name).await?;
            let user = format!("system:node:{}", node.name);
            let (request, key) = new_request(&user, "system:nodes", &node.names)?;
            let signer = "kubernetes.io/kubelet-serving";
            let signed =
                signed(&node.client, &node.name, signer, &["digital signature", "server auth"], request).await?;
            let held = Held::new(signed, key, names);
            node.serving.replace(&held.pair())?;
            self.serving = Some(held);
            self.save(&node.data_dir)?;
            tracing::info!(node = node.name, "the node's HTTP API has a certificate of the cluster");
        }
        if self.client.is_due() {
            let held = client_certificate(&node.client, &node.name).await?;
            node.identity.replace(&held.pair())?;
            self.client = held;
            self.save(&node.data_dir)?;
            tracing::info!(node = node.name, "the node's own certificate was renewed");
        }
        Ok(())
    }
}

/// What renewal needs to know and to change.
pub struct Renewal {
    /// The node's name.
    pub name: String,
    /// Where the membership is kept.
    pub data_dir: PathBuf,
    /// Acts as the node.
    pub client: kube::Client,
    /// The certificate of that client.
    pub identity: Arc<tls::ClientIdentity>,
    /// The certificate of the node's HTTP API.
    pub serving: Arc<tls::ServingCertificate>,
    /// The names for which it answers.
    pub names: Vec<San>,
}

/// The names for which a node's HTTP API answers.
pub fn names(node: &str, ips: &[IpAddr]) -> Vec<San> {
    [San::parse(node)].into_iter().chain(ips.iter().copied().map(San::Ip)).collect()
}

fn texts(names: &[San]) -> Vec<String> {
    let text = |name: &San| match name {
        San::Dns(name) => name.clone(),
        San::Ip(ip) => ip.to_string(),
    };
    names.iter().map(text).collect()
}

/// Where the server is, whom to trust, and a client that may ask for a certificate.
async fn introduction(options: &AgentOptions) -> Result<(String, String, kube::Client)> {
    if let Some(path) = &options.kubeconfig {
        let kubeconfig =
            kube::config::Kubeconfig::read_from(path).with_context(|| format!("read {}", path.display()))?;
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default())
            .await
            .with_context(|| format!("use {}", path.display()))?;
        kobune_cli::settle_proxy(&mut config);
        let root = config.root_cert.as_ref().and_then(|roots| roots.first());
        let authority = kobune_pki::certificate_pem(root.context("the kubeconfig names no certificate authority")?);
        let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let client = kube::Client::try_from(config).context("make a client of the cluster")?;
        return Ok((server, authority, client));
    }
    let (Some(server), Some(token)) = (&options.server, &options.token) else {
        bail!("this machine is in no cluster yet: give --server and --token, or --kubeconfig");
    };
    let token: BootstrapToken = token.parse()?;
    let server = server.trim_end_matches('/').to_owned();
    let pins = &options.discovery_token_ca_cert_hash;
    let authority =
        discovery::authority(&server, &token, pins).await.with_context(|| format!("learn about {server}"))?;
    let client = discovery::client(&server, Some(&authority), Some(&token))?;
    Ok((server, authority, client))
}

/// A client whose certificate can be replaced.
fn client(server: &str, authority_pem: &str, identity: Arc<tls::ClientIdentity>) -> Result<kube::Client> {
    use kube::client::ConfigExt;
    let config = kube::Config::new(server.parse().with_context(|| format!("read the address {server}"))?);
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls::client_config_of(authority_pem, identity)?)
        .https_only()
        .enable_http1()
        .build();
    let executor = hyper_util::rt::TokioExecutor::new();
    let http = hyper_util::client::legacy::Client::builder(executor).build(connector);
    let service = tower::ServiceBuilder::new()
        .map_request(crate::user_agent::tag(crate::user_agent::of_part("kubelet")))
        .layer(config.base_uri_layer())
        .service(http);
    Ok(kube::Client::new(service, "default"))
}

async fn client_certificate(client: &kube::Client, name: &str) -> Result<Held> {
    let (request, key) = new_request(&format!("system:node:{name}"), "system:nodes", &[])?;
    let signer = "kubernetes.io/kube-apiserver-client-kubelet";
    let certificate = signed(client, name, signer, &["digital signature", "client auth"], request).await?;
    Ok(Held::new(certificate, key, Vec::new()))
}

/// Asks for a certificate and waits for it, however long a person takes to approve.
async fn signed(
    client: &kube::Client,
    node: &str,
    signer: &str,
    usages: &[&str],
    request_pem: String,
) -> Result<String> {
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let request = CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some(format!("node-csr-{node}-")), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(request_pem.into_bytes()),
            signer_name: signer.to_owned(),
            usages: Some(usages.iter().map(|usage| (*usage).to_owned()).collect()),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    let created = api.create(&PostParams::default(), &request).await.context("create a certificate signing request")?;
    let name = created.metadata.name.context("the request has no name")?;
    let one = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut states = std::pin::pin!(watcher(api, one).default_backoff().applied_objects());
    let mut told = false;
    loop {
        let state = match tokio::time::timeout(PATIENCE, states.try_next()).await {
            Ok(state) => state.context("wait for a certificate")?.context("the watch of the request ended")?,
            Err(_) => {
                if !told {
                    tracing::info!("{name} waits to be approved: kubectl certificate approve {name}");
                }
                told = true;
                continue;
            }
        };
        let status = state.status.unwrap_or_default();
        if let Some(certificate) = status.certificate {
            return String::from_utf8(certificate.0).context("the certificate is no text");
        }
        let refusal = status
            .conditions
            .iter()
            .flatten()
            .find(|condition| ["Denied", "Failed"].contains(&condition.type_.as_str()));
        if let Some(refusal) = refusal {
            bail!("{name} was refused ({}): {}", refusal.type_, refusal.message.as_deref().unwrap_or_default());
        }
    }
}

/// Waits until the node says its addresses, against which its names are checked.
async fn registered(client: &kube::Client, name: &str) -> Result<()> {
    let has_addresses = |node: &Node| {
        node.status.as_ref().and_then(|status| status.addresses.as_ref()).is_some_and(|all| !all.is_empty())
    };
    until(client, name, |node| has_addresses(node).then_some(())).await
}

/// Makes the Node, if it is not there, and waits until it has been given its ranges.
async fn pod_ranges(client: &kube::Client, name: &str) -> Result<Vec<IpNet>> {
    let api: Api<Node> = Api::all(client.clone());
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    match api.create(&PostParams::default(), &Node { metadata, ..Node::default() }).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        Err(error) => return Err(error).context("register the node"),
    }
    until(client, name, |node| {
        let ranges = node.spec.as_ref().and_then(|spec| spec.pod_cidrs.as_ref()).filter(|ranges| !ranges.is_empty())?;
        Some(ranges.iter().map(|range| range.parse::<IpNet>()).collect::<std::result::Result<Vec<_>, _>>())
    })
    .await?
    .context("read the node's pod ranges")
}

async fn until<T>(client: &kube::Client, name: &str, answer: impl Fn(&Node) -> Option<T>) -> Result<T> {
    let one = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let nodes = watcher(Api::<Node>::all(client.clone()), one).default_backoff().applied_objects();
    let mut nodes = std::pin::pin!(nodes.filter_map(|node| async {
        node.inspect_err(|error| tracing::debug!(%error, "the watch of the node is tried again")).ok()
    }));
    while let Some(node) = nodes.next().await {
        if let Some(found) = answer(&node) {
            return Ok(found);
        }
    }
    bail!("the watch of the node ended")
}
