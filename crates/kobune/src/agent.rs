//! The node part: runtime, network, service rules, DNS and what a kubelet does.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kobune_cri::CriRuntime;
use kobune_network::Network;
use kobune_network::cluster::Cluster;
use kobune_node::{CredentialProviders, Node};
use kobune_pki::{Authority, San, tls};
use kobune_runtime::{ContainerRuntime, Images, Runtime};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::{AgentOptions, Backend};
use crate::join::{self, Membership, Renewal};
use crate::settings::{self, Names, NodeSettings};
use crate::{admin, image_folder, instance, up};

/// How often the machine is looked at for want of memory, disk, inodes or processes; the kubelet's figure.
const EVICTION_PERIOD: Duration = Duration::from_secs(10);

/// Pods on disk are started when the API server has not answered after this long.
const OFFLINE_AFTER: Duration = Duration::from_secs(5);

/// The parts of a node that need no cluster.
pub struct Machine {
    /// Containers.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// The images of the runtime built in, where pods are run by it.
    pub images: Option<Arc<Images>>,
    /// Links and addresses.
    pub network: Arc<Network>,
    /// The node's addresses, its own first; of each family at most one.
    pub ips: Vec<IpAddr>,
}

impl Machine {
    /// Opens runtime and network and takes over what runs.
    pub async fn open(names: &Names, node: &NodeSettings) -> Result<Self> {
        let mut config = names.network();
        config.pod_cidrs.clone_from(&node.pod_cidrs);
        config.cluster_cidrs.clone_from(&node.cluster_cidrs);
        config.service_cidrs.clone_from(&node.service_cidrs);
        config.dns_addresses = settings::dns_addresses(&node.service_cidrs);
        config.backend = match node.backend {
            Backend::HostGw => kobune_network::Backend::Routes,
            Backend::Vxlan => kobune_network::Backend::Overlay,
            Backend::None => kobune_network::Backend::None,
        };
        config.plugins.clone_from(&node.plugins);
        if config.plugins.is_some() {
            config.backend = kobune_network::Backend::None;
        }
        let network = Network::start(config).await.context("start the pod network")?;
        let ips = match node.ips.as_slice() {
            [] => network.node_addresses().await.context("find the node's address; give one with --node-ip")?,
            given => given.to_vec(),
        };
        let (runtime, images) = open_runtime(names, node).await.context("open the container runtime")?;
        // Who attaches pods has changed: those of before begin anew.
        for sandbox in runtime.pod_sandboxes() {
            if network.dropped().contains(&sandbox.config.uid) {
                let stopped = runtime.stop_pod_sandbox(&sandbox.id).await;
                stopped.with_context(|| format!("stop pod sandbox {}, which has lost its network", sandbox.id))?;
            }
        }
        Ok(Self { runtime, images, network, ips })
    }
}

/// The runtime built in with its images, or the one behind a socket. Pods that the other one may still run are nobody's then:
/// they have to be ended first.
async fn open_runtime(names: &Names, node: &NodeSettings) -> Result<(Arc<dyn ContainerRuntime>, Option<Arc<Images>>)> {
    let Some(socket) = &node.container_runtime else {
        if let Some(other) = kobune_cri::left_behind(&names.data_dir)? {
            bail!(
                "pods of this instance may still run in the container runtime at {}: give its \
                 --container-runtime-endpoint, or end them with `kobune down --data-dir {}`",
                other.display(),
                names.data_dir.display()
            );
        }
        let mut config = names.runtime();
        config.handlers.clone_from(&node.runtime_handlers);
        let runtime = Runtime::open(config).await?;
        let images = Arc::clone(runtime.images());
        return Ok((Arc::new(runtime), Some(images)));
    };
    let own = names.runtime();
    if tokio::task::spawn_blocking(move || Runtime::has_running_pods(&own)).await?? {
        bail!(
            "pods of this instance run in the runtime built in: end them with `kobune down --data-dir {}`",
            names.data_dir.display()
        );
    }
    Ok((CriRuntime::open(names.cri(socket)).await?, None))
}

/// Who a node is to the cluster.
pub struct Identity {
    /// A client that acts as `system:node:<name>`.
    pub client: kube::Client,
    /// A client that acts as `system:kube-proxy`, for service rules and DNS.
    pub proxy: kube::Client,
    /// How the node's HTTP API proves itself and whom it lets in.
    pub tls: Arc<rustls::ServerConfig>,
}

/// The certificate of a node's HTTP API by the cluster's authority.
pub fn serving_tls(
    authority: &Authority,
    names: &Names,
    name: &str,
    ips: &[IpAddr],
) -> Result<Arc<rustls::ServerConfig>> {
    let mut sans = vec![San::parse(name), San::Dns("localhost".to_owned()), San::Ip(IpAddr::from([127, 0, 0, 1]))];
    sans.splice(1..1, ips.iter().copied().map(San::Ip));
    let pair = authority.kept_server_certificate(&names.data_dir.join("pki"), "node", &sans)?;
    Ok(tls::server_config(tls::ServingCertificate::new(&pair)?, authority.certificate_pem())?)
}

/// Starts the node on a machine; each part's end is a result in `parts`. Answers what the node knows of Services.
pub async fn start(
    machine: &Machine,
    identity: Identity,
    names: &Names,
    settings: &NodeSettings,
    parts: &mut JoinSet<(&'static str, Result<()>)>,
    token: &CancellationToken,
) -> Result<Arc<Cluster>> {
    if let Some(images) = machine.images.clone() {
        let data_dir = names.data_dir.clone();
        // Before the first pod: one whose image is about to come should not fail to pull it.
        let loaded = tokio::task::spawn_blocking(move || {
            images.ensure_self().context("make kobune's own image")?;
            image_folder::load(&data_dir, &images)
        });
        loaded.await.context("load images")?.context("load images")?;
    }

    let dns = settings::dns_addresses(&settings.service_cidrs);
    let names_service = kobune_network::dns::Config {
        stubs: settings.dns_stubs.clone(),
        dns64: settings.dns64,
        ..kobune_network::dns::Config::new(dns.clone(), &settings.cluster_domain)
    };
    let cluster = Cluster::watch(identity.proxy.clone(), token);
    let rules = kobune_network::run(
        Arc::clone(&machine.network),
        Arc::clone(&cluster),
        identity.proxy,
        settings.name.clone(),
        names_service,
        token.clone(),
    );
    parts.spawn(async { ("network", rules.await.context("network")) });

    let credential_providers = match &settings.credential_providers {
        Some((config, programs)) => CredentialProviders::read(config, programs)?,
        None => CredentialProviders::default(),
    };
    // A socket for every address of the sixth family takes those of the fourth too.
    let v6 = machine.ips.iter().any(IpAddr::is_ipv6);
    let any = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { IpAddr::from([0, 0, 0, 0]) };
    let node = Node::build(kobune_node::Config {
        name: settings.name.clone(),
        client: identity.client,
        runtime: Arc::clone(&machine.runtime),
        network: Arc::clone(&machine.network),
        node_ips: machine.ips.clone(),
        listen: SocketAddr::new(settings.bind_address.unwrap_or(any), settings.port),
        tls: identity.tls,
        data_dir: names.data_dir.clone(),
        cluster_dns: dns,
        cluster_domain: settings.cluster_domain.clone(),
        max_pods: settings.max_pods,
        pod_cidrs: settings.pod_cidrs.iter().map(ToString::to_string).collect(),
        eviction: settings.eviction.clone(),
        placement: settings.placement.clone(),
        eviction_period: EVICTION_PERIOD,
        offline_after: OFFLINE_AFTER,
        offline_records: settings.offline_records,
        static_pods: settings.static_pods.clone(),
        credential_providers: Arc::new(credential_providers),
        cdi_dirs: vec!["/var/run/cdi".into(), "/etc/cdi".into()],
        labels: settings.labels.iter().cloned().collect::<BTreeMap<_, _>>(),
        version: settings::VERSION.to_owned(),
    })
    .await
    .context("start the node")?;
    let token = token.clone();
    parts.spawn(async { ("node", node.run(token).await.context("node")) });
    Ok(cluster)
}

/// `kobune agent`.
pub async fn run(options: AgentOptions, token: CancellationToken) -> Result<()> {
    let names = Names::of(&options.instance.data_dir)?;
    let _instance = instance::take(&names.data_dir)?;
    let name = settings::node_name(options.node.node_name.as_deref())?;
    let membership = tokio::select! {
        // Dropping the wait loses nothing: nothing is kept before all of it was gained.
        () = token.cancelled() => return Ok(()),
        membership = Membership::take_up(&options, &name) => membership?,
    };
    let facts = membership.network();
    let or = |given: Vec<ipnet::IpNet>, known: &[ipnet::IpNet]| if given.is_empty() { known.to_vec() } else { given };
    let eviction = settings::eviction(&options.node)?;
    let placement = options.node.placement.resolve()?;
    let runtime_handlers = settings::runtime_handlers(&options.node);
    let static_pods = settings::static_pods(&options.node, &names.data_dir);
    let credential_providers = settings::credential_providers(&options.node);
    let plugins = settings::plugins(&options.node);
    let settings = NodeSettings {
        name,
        eviction,
        placement,
        runtime_handlers,
        container_runtime: options.node.container_runtime_endpoint.clone(),
        static_pods,
        credential_providers,
        offline_records: true,
        ips: options.node.node_ip,
        backend: options.node.backend,
        plugins,
        dns_stubs: options.node.dns_stub_domain,
        dns64: options.node.dns64_prefix,
        bind_address: options.bind_address,
        port: options.node.node_port,
        labels: options.node.node_label,
        max_pods: options.node.max_pods,
        service_cidrs: or(options.service_cidr, &facts.service_cidrs),
        cluster_cidrs: or(options.cluster_cidr, &facts.cluster_cidrs),
        pod_cidrs: membership.pod_cidrs().to_vec(),
        cluster_domain: options.cluster_domain.as_deref().unwrap_or(&facts.cluster_domain).trim_matches('.').to_owned(),
    };
    let machine = Machine::open(&names, &settings).await?;
    // Until the cluster has signed a certificate for the node's HTTP API, one of its own has to do.
    let authority = Authority::load_or_create(&names.data_dir.join("pki"))?;
    let own_names = join::names(&settings.name, &machine.ips);
    let own = authority.kept_server_certificate(&names.data_dir.join("pki"), "node", &own_names)?;
    let serving = tls::ServingCertificate::new(&membership.serving(&own_names, own))?;
    let tls = tls::server_config(Arc::clone(&serving), membership.authority_pem())?;
    let (client, identity) = membership.client()?;
    let renewal = Renewal {
        name: settings.name.clone(),
        data_dir: names.data_dir.clone(),
        client: client.clone(),
        identity,
        serving,
        names: own_names,
    };
    let mut parts = JoinSet::new();
    start(&machine, Identity { proxy: client.clone(), client, tls }, &names, &settings, &mut parts, &token).await?;
    let certificates = membership.keep(renewal, token.clone());
    parts.spawn(async { ("certificates", certificates.await) });
    let admin = admin::serve(&names.data_dir, machine.images.clone(), token.clone())?;
    parts.spawn(async { ("admin socket", admin.await) });
    tracing::info!(node = settings.name, "the node runs");
    up::supervise(parts, &token, None).await
}
