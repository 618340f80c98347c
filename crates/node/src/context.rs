//! What all workers of a node share.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::config::Config;
use crate::csi::drivers::Drivers;
use crate::csi::local::LocalDriver;
use crate::devices::Devices;
use crate::dra::Dra;
use crate::env::Surroundings;
use crate::events::Recorder;
use crate::eviction::Pressure;
use crate::ledger::{Ledger, Totals};
use crate::machine::Machine;
use crate::offline::Offline;
use crate::placement::Placement;
use crate::pod;
use crate::probe_counts::ProbeCounts;
use crate::quantity::Amount;
use crate::references::References;
use crate::resolv::Dns;
use crate::services::Services;
use crate::usage::Disks;
use crate::user_namespaces::{UserRanges, UsersError};
use crate::volumes::local::LocalVolumes;

/// What all workers of a node share.
pub struct Context {
    /// As the node was configured.
    pub config: Config,
    /// What the machine is.
    pub machine: Machine,
    /// Where events go.
    pub events: Recorder,
    /// Watched ConfigMaps and Secrets.
    pub references: Arc<References>,
    /// Watched Services.
    pub services: Services,
    /// What of the node is granted to which pod.
    pub ledger: Ledger,
    /// What is kept for a start without the API server.
    pub offline: Offline,
    /// What the machine is short of.
    pub pressure: Pressure,
    /// What containers have on disk.
    pub disks: Disks,
    /// Results of probes.
    pub probe_counts: Arc<ProbeCounts>,
    /// The TLS client for probes: probes do not check certificates.
    pub probe_tls: Arc<rustls::ClientConfig>,
    /// Volumes on the node's own disk.
    pub locals: Arc<LocalVolumes>,
    /// The same as a storage driver.
    pub local_driver: Arc<LocalDriver>,
    /// Storage drivers that have registered.
    pub drivers: Drivers,
    /// Devices of device plugins.
    pub devices: Devices,
    /// Devices of claims.
    pub dra: Dra,
    /// What is kept from pods.
    pub kept: Totals,
    /// Which CPUs containers run on.
    pub placement: Placement,
    /// Users of pods that have their own.
    pub users: UserRanges,
}

impl Context {
    /// The folder of a pod.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.config.node_dir().join("pods").join(uid)
    }

    /// The users of the host that the pod's are, where it has its own.
    pub fn users(&self, owner: &Pod) -> Result<Option<Range<u32>>, UsersError> {
        if pod::spec(owner).host_users != Some(false) {
            return Ok(None);
        }
        self.users.take(pod::uid(owner), &self.pod_dir(pod::uid(owner))).map(Some)
    }

    /// The folder of a pod's logs.
    pub fn log_dir(&self, owner: &Pod) -> PathBuf {
        let folder = format!("{}_{}_{}", pod::namespace(owner), pod::name(owner), pod::uid(owner));
        self.config.node_dir().join("logs").join(folder)
    }

    /// What the runtime calls itself, which ids of containers begin with: `kobune`, `containerd`.
    pub fn runtime_name(&self) -> String {
        let version = self.config.runtime.version();
        version.split_once("://").map_or(version.as_str(), |(name, _)| name).to_owned()
    }

    /// The node's addresses as text.
    pub fn host_ips(&self) -> Vec<String> {
        self.config.node_ips.iter().map(ToString::to_string).collect()
    }

    /// What the node can give to pods, by resource.
    pub fn allocatable(&self) -> BTreeMap<String, Amount> {
        let mut allocatable = BTreeMap::new();
        let reserved = self.kept;
        if let Some(cpus) = Amount::parse(&format!("{}m", self.machine.milli_cpus(reserved.cpu))) {
            allocatable.insert("cpu".to_owned(), cpus);
        }
        let memory = self.machine.free_memory(reserved.memory);
        if let Some(memory) = Amount::parse(&memory.to_string()) {
            allocatable.insert("memory".to_owned(), memory);
        }
        if let Some(disk) = crate::machine::disk(&self.config.data_dir)
            .and_then(|disk| Amount::parse(&disk.less(reserved.storage).to_string()))
        {
            allocatable.insert("ephemeral-storage".to_owned(), disk);
        }
        allocatable
    }

    /// What a pod's environment and downward API may mention.
    pub fn surroundings(&self, owner: &Pod, pod_ips: &[String]) -> Surroundings {
        let links = pod::spec(owner).enable_service_links.unwrap_or(true);
        Surroundings {
            host_ips: self.host_ips(),
            pod_ips: pod_ips.to_vec(),
            allocatable: self.allocatable(),
            services: self.services.variables(pod::namespace(owner), links),
        }
    }

    /// What the machine's own `resolv.conf` says.
    pub fn host_dns(&self) -> Dns {
        // systemd-resolved's stub does not answer in another network namespace; its upstream list does.
        let direct = std::fs::read_to_string("/run/systemd/resolve/resolv.conf");
        let usual = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let stub = Dns::parse(&usual).nameservers == ["127.0.0.53"];
        match direct {
            Ok(direct) if stub => Dns::parse(&direct),
            _ => Dns::parse(&usual),
        }
    }
}
