//! Settings in force: flags, environment and defaults resolved once into plain values.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipnet::{IpNet, Ipv6Net};
use kobune_network::cni::Folders;
use kobune_network::dns::Stub;
use kobune_node::{PlacementSettings, Threshold};
use sha2::{Digest, Sha256};

use crate::api_options::ApiOptions;
use clap::ValueEnum;

use crate::cli::{Backend, NodeOptions, Part, PodNetwork, PortRange, UpOptions};
use crate::scheduler_options::SchedulerOptions;
use crate::storage::StorageOptions;

/// The Kubernetes version that kobune speaks, with its own behind it.
pub const VERSION: &str = concat!("v1.36.0+kobune.", env!("CARGO_PKG_VERSION"));

/// Names that belong to one data folder, so that instances beside each other never meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The absolute data folder.
    pub data_dir: PathBuf,
    /// The instance's name, which its control groups and nftables table carry: `kobune-` and eight digits.
    pub instance: String,
    /// The link that carries the node's pod gateway and DNS addresses.
    pub link: String,
}

impl Names {
    /// The names of the instance in a data folder, whether or not the folder is there.
    pub fn of(data_dir: &Path) -> Result<Self> {
        let absolute = std::path::absolute(data_dir).with_context(|| format!("data folder {}", data_dir.display()))?;
        // Links in the path are followed where the folder is there, so that two spellings are one instance.
        let data_dir = std::fs::canonicalize(&absolute).unwrap_or(absolute);
        let digest = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
        let short: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { data_dir, instance: format!("kobune-{short}"), link: format!("kb-{short}") })
    }

    /// How the runtime of this instance is arranged.
    pub fn runtime(&self) -> kobune_runtime::Config {
        kobune_runtime::Config::new(&self.data_dir, format!("/{}", self.instance))
    }

    /// How this instance uses the container runtime behind a socket.
    pub fn cri(&self, socket: &Path) -> kobune_cri::Config {
        let own = self.runtime();
        kobune_cri::Config {
            socket: socket.to_path_buf(),
            data_dir: self.data_dir.clone(),
            instance: self.instance.clone(),
            cgroup_parent: own.cgroup_parent,
            executable: own.executable,
        }
    }

    /// How the network of this instance is arranged, with default ranges. `purge` needs no more than this.
    pub fn network(&self) -> kobune_network::Config {
        let mut config = kobune_network::Config::for_data_dir(&self.data_dir);
        config.bridge.clone_from(&self.link);
        config.table.clone_from(&self.instance);
        config
    }
}

/// What a server needs to know.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    pub names: Names,
    pub port: u16,
    pub bind_address: Option<IpAddr>,
    pub tls_san: Vec<String>,
    pub service_cidrs: Vec<IpNet>,
    pub node_ports: PortRange,
    pub cluster_cidrs: Vec<IpNet>,
    pub cluster_domain: String,
    pub api: ApiOptions,
    pub scheduler: SchedulerOptions,
    pub storage: StorageOptions,
    /// What may be done for Syncs, where they are tended here.
    pub sync: Option<kobune_cli::SyncSettings>,
    /// What runs elsewhere.
    pub without: Vec<Part>,
}

/// What a node needs to know.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    pub name: String,
    /// The node's addresses, the first one being its own; empty to find them.
    pub ips: Vec<IpAddr>,
    pub backend: Backend,
    /// Where CNI plug-ins are, if these attach pods.
    pub plugins: Option<Folders>,
    pub dns_stubs: Vec<Stub>,
    pub dns64: Option<Ipv6Net>,
    pub bind_address: Option<IpAddr>,
    pub port: u16,
    pub labels: Vec<(String, String)>,
    pub max_pods: u32,
    pub service_cidrs: Vec<IpNet>,
    pub cluster_cidrs: Vec<IpNet>,
    pub pod_cidrs: Vec<IpNet>,
    pub eviction: Vec<Threshold>,
    /// What is kept from pods, and which CPUs containers get.
    pub placement: PlacementSettings,
    pub runtime_handlers: BTreeMap<String, PathBuf>,
    /// The socket of the container runtime that runs pods instead of the one built in.
    pub container_runtime: Option<PathBuf>,
    pub static_pods: PathBuf,
    /// The kubelet's configuration of credential providers, and the folder of the programs.
    pub credential_providers: Option<(PathBuf, PathBuf)>,
    /// The API server is elsewhere: what pods need of it is kept for times without it.
    pub offline_records: bool,
    pub cluster_domain: String,
}

/// Resolves the flags of `up` and `server`, reporting every mistake at once.
pub fn resolve(options: &UpOptions) -> Result<(ServerSettings, NodeSettings)> {
    let mut mistakes = Vec::new();
    for (flag, ranges) in [("--service-cidr", &options.service_cidr), ("--cluster-cidr", &options.cluster_cidr)] {
        let v4 = ranges.iter().filter(|range| range.addr().is_ipv4()).count();
        if ranges.is_empty() || v4 > 1 || ranges.len() - v4 > 1 {
            mistakes.push(format!("{flag} {} is neither one range nor one of each family", texts(ranges)));
        }
    }
    if families(&options.service_cidr) != families(&options.cluster_cidr) {
        mistakes.push(format!(
            "--service-cidr {} and --cluster-cidr {} are of different families",
            texts(&options.service_cidr),
            texts(&options.cluster_cidr)
        ));
    }
    for range in &options.service_cidr {
        if range.prefix_len() > range.max_prefix_len() - 4 {
            mistakes.push(format!("--service-cidr {range} is smaller than sixteen addresses"));
        }
        for other in options.cluster_cidr.iter().filter(|other| overlap(range, other)) {
            mistakes.push(format!("--service-cidr {range} and --cluster-cidr {other} overlap"));
        }
    }
    let mut pod_cidrs = Vec::new();
    for range in &options.cluster_cidr {
        match first_node_range(range) {
            Some(first) => pod_cidrs.push(first),
            None => mistakes.push(format!("--cluster-cidr {range} is smaller than one node's range")),
        }
    }
    let name = node_name(options.node.node_name.as_deref())?;
    let eviction = eviction(&options.node).unwrap_or_else(|error| {
        mistakes.push(format!("{error:#}"));
        Vec::new()
    });
    let placement = options.node.placement.resolve().unwrap_or_else(|error| {
        mistakes.push(format!("{error:#}"));
        PlacementSettings::default()
    });
    if !mistakes.is_empty() {
        bail!("{}", mistakes.join("; "));
    }
    let server = ServerSettings {
        names: Names::of(&options.instance.data_dir)?,
        port: options.port,
        bind_address: options.bind_address,
        tls_san: options.tls_san.clone(),
        service_cidrs: options.service_cidr.clone(),
        node_ports: options.service_node_port_range,
        cluster_cidrs: options.cluster_cidr.clone(),
        cluster_domain: options.cluster_domain.trim_matches('.').to_owned(),
        api: options.api.clone(),
        scheduler: options.scheduler.clone(),
        storage: options.storage.clone(),
        sync: options.sync.then(|| options.sync_settings.clone()),
        without: options.without.clone(),
    };
    let node = NodeSettings {
        name,
        ips: options.node.node_ip.clone(),
        backend: options.node.backend,
        plugins: plugins(&options.node),
        dns_stubs: options.node.dns_stub_domain.clone(),
        dns64: options.node.dns64_prefix,
        bind_address: options.bind_address,
        port: options.node.node_port,
        labels: options.node.node_label.clone(),
        max_pods: options.node.max_pods,
        service_cidrs: options.service_cidr.clone(),
        cluster_cidrs: options.cluster_cidr.clone(),
        pod_cidrs,
        eviction,
        placement,
        runtime_handlers: runtime_handlers(&options.node),
        container_runtime: options.node.container_runtime_endpoint.clone(),
        static_pods: static_pods(&options.node, &server.names.data_dir),
        credential_providers: credential_providers(&options.node),
        offline_records: false,
        cluster_domain: server.cluster_domain.clone(),
    };
    Ok((server, node))
}

/// The node's name: as given, or the host name in the form that an object's name may have.
pub fn node_name(given: Option<&str>) -> Result<String> {
    let name = match given {
        Some(name) => name.to_owned(),
        None => nix::unistd::gethostname().context("read the host name")?.to_string_lossy().trim().to_lowercase(),
    };
    let problems = kobune_kinds::name::dns1123_subdomain(&name);
    if !problems.is_empty() {
        bail!("{name:?} cannot be a node's name ({}): give one with --node-name", problems.join("; "));
    }
    Ok(name)
}

/// The address at a place in a range: the API's Service has the first, DNS the tenth.
pub fn address_at(range: &IpNet, place: u8) -> IpAddr {
    match range.network() {
        IpAddr::V4(first) => IpAddr::V4((u32::from(first) + u32::from(place)).into()),
        IpAddr::V6(first) => IpAddr::V6((u128::from(first) + u128::from(place)).into()),
    }
}

/// The DNS server's address in each service range.
pub fn dns_addresses(ranges: &[IpNet]) -> Vec<IpAddr> {
    ranges.iter().map(|range| address_at(range, 10)).collect()
}

/// Ranges as they are given.
pub fn texts(ranges: &[IpNet]) -> String {
    ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn families(ranges: &[IpNet]) -> Vec<bool> {
    let mut families: Vec<bool> = ranges.iter().map(|range| range.addr().is_ipv4()).collect();
    families.sort_unstable();
    families
}

/// OCI runtimes by name: those that are installed, and those that are given.
pub fn runtime_handlers(options: &NodeOptions) -> BTreeMap<String, PathBuf> {
    let mut handlers = kobune_runtime::installed_handlers();
    handlers.extend(options.runtime_handler.iter().cloned());
    handlers
}

/// The folder of static pods' manifests.
pub fn static_pods(options: &NodeOptions, data_dir: &Path) -> PathBuf {
    options.pod_manifest_path.clone().unwrap_or_else(|| data_dir.join("manifests"))
}

/// Where the programs are that know credentials of registries, and what says which to ask.
pub fn credential_providers(options: &NodeOptions) -> Option<(PathBuf, PathBuf)> {
    options.image_credential_provider_config.clone().zip(options.image_credential_provider_bin_dir.clone())
}

/// Where CNI plug-ins are, if these attach pods.
pub fn plugins(options: &NodeOptions) -> Option<Folders> {
    (options.network == PodNetwork::Cni)
        .then(|| Folders { configurations: options.cni_conf_dir.clone(), programs: options.cni_bin_dir.clone() })
}

/// When pods are evicted because the machine runs short.
pub fn eviction(options: &NodeOptions) -> Result<Vec<Threshold>> {
    let read = |flag: &str, text: &str, grace: Option<Duration>| -> Result<Vec<Threshold>> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let read = parts.map(|part| Threshold::parse(part, grace)).collect::<Result<_, _>>();
        read.with_context(|| format!("--{flag}"))
    };
    let mut thresholds = match &options.eviction_hard {
        Some(text) => read("eviction-hard", text, None)?,
        None => kobune_node::default_eviction(),
    };
    let grace = Duration::from_secs(options.eviction_soft_grace_period);
    thresholds.extend(read("eviction-soft", options.eviction_soft.as_deref().unwrap_or_default(), Some(grace))?);
    Ok(thresholds)
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// The part of the cluster's range that its first node gets: 256 addresses of the fourth version, 2^64 of the sixth.
fn first_node_range(cluster: &IpNet) -> Option<IpNet> {
    let length = if cluster.network().is_ipv4() { 24 } else { 64 };
    (cluster.prefix_len() <= length).then(|| IpNet::new(cluster.network(), length).expect("the length fits the family"))
}

/// `kobune config show`.
pub fn show(options: UpOptions) -> Result<()> {
    let (server, node) = resolve(&options)?;
    println!("data-dir: {}", server.names.data_dir.display());
    println!("instance: {}", server.names.instance);
    println!("port: {}", server.port);
    println!(
        "bind-address: {}",
        server.bind_address.map_or_else(|| "every address".to_owned(), |address| address.to_string())
    );
    println!("tls-san: [{}]", server.tls_san.join(", "));
    println!("service-cidr: {}", texts(&server.service_cidrs));
    println!("service-node-port-range: {}", server.node_ports);
    println!("cluster-cidr: {}", texts(&server.cluster_cidrs));
    println!("cluster-domain: {}", server.cluster_domain);
    println!("sync: {}", options.sync);
    println!("sync-require-service-account: {}", options.sync_settings.sync_require_service_account);
    println!("sync-allow-remote-bases: {}", options.sync_settings.sync_allow_remote_bases);
    println!("sync-allow-local-repositories: {}", options.sync_settings.sync_allow_local_repositories);
    println!("sync-largest-repository: {}", options.sync_settings.sync_largest_repository);
    println!("without: [{}]", server.without.iter().map(|part| part.name()).collect::<Vec<_>>().join(", "));
    println!("ingress: {}", options.ingress.ingress);
    println!("ingress-http-port: {}", options.ingress.ingress_http_port);
    println!("ingress-https-port: {}", options.ingress.ingress_https_port);
    for (key, value) in server.storage.show().into_iter().chain(server.api.show()).chain(server.scheduler.show()) {
        println!("{key}: {value}");
    }
    println!("node-name: {}", node.name);
    println!(
        "node-ip: {}",
        match node.ips.as_slice() {
            [] => "those of the default route's link".to_owned(),
            ips => ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        }
    );
    match &node.plugins {
        None => println!("backend: {}", backend_name(node.backend)),
        Some(folders) => {
            let programs: Vec<_> = folders.programs.iter().map(|folder| folder.display().to_string()).collect();
            println!("network: cni");
            println!("cni-conf-dir: {}", folders.configurations.display());
            println!("cni-bin-dir: [{}]", programs.join(", "));
        }
    }
    let stubs = node.dns_stubs.iter().map(|stub| {
        let servers: Vec<String> = stub.servers.iter().map(ToString::to_string).collect();
        format!("{}={}", stub.domain, servers.join(","))
    });
    println!("dns-stub-domain: [{}]", stubs.collect::<Vec<_>>().join("; "));
    println!("dns64-prefix: {}", node.dns64.map_or_else(|| "none".to_owned(), |prefix| prefix.to_string()));
    println!("node-port: {}", node.port);
    println!(
        "node-label: [{}]",
        node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
    );
    println!("max-pods: {}", node.max_pods);
    println!("pod-manifest-path: {}", node.static_pods.display());
    println!("pod-cidr: {}", texts(&node.pod_cidrs));
    println!(
        "container-runtime-endpoint: {}",
        node.container_runtime
            .as_ref()
            .map_or_else(|| "the runtime built in".to_owned(), |socket| format!("unix://{}", socket.display()))
    );
    let handlers = node.runtime_handlers.iter().map(|(name, path)| format!("{name}={}", path.display()));
    println!("runtime-handler: [{}]", handlers.collect::<Vec<_>>().join(", "));
    for (key, value) in options.node.placement.show() {
        println!("{key}: {value}");
    }
    println!("eviction: [{}]", node.eviction.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    Ok(())
}

fn backend_name(backend: Backend) -> String {
    backend.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_ranges() {
        let check = |range: &str, place: u8, expected: &str| {
            assert_eq!(address_at(&range.parse().unwrap(), place).to_string(), expected);
        };
        check("10.96.0.0/16", 1, "10.96.0.1");
        check("10.96.0.0/16", 10, "10.96.0.10");
        check("fd00:96::/112", 10, "fd00:96::a");
    }

    #[test]
    fn a_node_gets_the_first_part() {
        let check = |cluster: &str, expected: Option<&str>| {
            let got = first_node_range(&cluster.parse().unwrap()).map(|range| range.to_string());
            assert_eq!(got.as_deref(), expected, "{cluster}");
        };
        check("10.244.0.0/16", Some("10.244.0.0/24"));
        check("10.244.3.0/24", Some("10.244.3.0/24"));
        check("10.244.3.0/25", None);
        check("fd00:244::/48", Some("fd00:244::/64"));
    }

    #[test]
    fn names_differ_by_folder() {
        let one = Names::of(Path::new("/nowhere/one")).unwrap();
        let two = Names::of(Path::new("/nowhere/two")).unwrap();
        assert_ne!(one.instance, two.instance);
        assert!(one.link.len() <= 15, "a link's name has at most 15 bytes");
    }
}
