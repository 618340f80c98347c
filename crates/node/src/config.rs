//! What a node is told when it is built.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kobune_network::Network;
use kobune_runtime::ContainerRuntime;

use crate::credential_provider::CredentialProviders;
use crate::eviction::Threshold;
use crate::placement::PlacementSettings;

/// Everything a node needs from the program around it.
#[derive(Clone)]
pub struct Config {
    /// The node's name, also the value of its label `kubernetes.io/hostname`.
    pub name: String,
    /// The cluster's API, as user `system:node:<name>`.
    pub client: kube::Client,
    /// Images, sandboxes and containers of this machine.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// Pod links and addresses of this machine.
    pub network: Arc<Network>,
    /// The addresses under which other machines and pods reach this one, its own first; of each family at most one.
    pub node_ips: Vec<IpAddr>,
    /// Where the node's HTTP API listens; port 0 takes any free port.
    pub listen: SocketAddr,
    /// TLS of the HTTP API: its certificate, and a verifier that asks for client certificates of the cluster's CA.
    pub tls: Arc<rustls::ServerConfig>,
    /// The folder of the whole instance; the node keeps its own things in `<data_dir>/node`.
    pub data_dir: PathBuf,
    /// Addresses of the cluster's DNS service, first one first in `resolv.conf`.
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's domain, without dots at its ends: `cluster.local`.
    pub cluster_domain: String,
    /// How many pods the node takes.
    pub max_pods: u32,
    /// The pod address ranges of this node, written to `spec.podCIDRs` when the node registers.
    pub pod_cidrs: Vec<String>,
    /// When pods are evicted because the machine runs short.
    pub eviction: Vec<Threshold>,
    /// What is kept from pods, and which CPUs containers get.
    pub placement: PlacementSettings,
    /// How often the machine is looked at for that.
    pub eviction_period: Duration,
    /// After this long without an answer of the API server, pods are started from what is on disk.
    pub offline_after: Duration,
    /// Keeps ConfigMaps, Secrets and Services of the node's pods on disk for that. Of no use where the API server is in the
    /// same process.
    pub offline_records: bool,
    /// The folder of the static pods' manifests; it is made when it is not there.
    pub static_pods: PathBuf,
    /// Programs that know credentials of registries.
    pub credential_providers: Arc<CredentialProviders>,
    /// The folders of CDI files, more important ones first.
    pub cdi_dirs: Vec<PathBuf>,
    /// Labels to register the node with besides the usual ones.
    pub labels: BTreeMap<String, String>,
    /// The Kubernetes version to report, like `v1.36.0+kobune.0.1.0`.
    pub version: String,
}

impl Config {
    /// The node's own folder.
    pub fn node_dir(&self) -> PathBuf {
        self.data_dir.join("node")
    }
}
