//! What an instance's network is configured to be, and the names that follow from its data folder.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;

use crate::{cni::Folders, network::NetworkError};

/// What an instance's network looks like.
#[derive(Clone, Debug)]
pub struct Config {
    /// The instance's data folder; network state lives in its subfolder `run`.
    pub data_dir: PathBuf,
    /// The name of the bridge that carries the gateway and DNS addresses, at most 15 bytes. The names of pod links
    /// are derived from it.
    pub bridge: String,
    /// The ranges this node's pods get addresses from: one, or one of each family.
    pub pod_cidrs: Vec<IpNet>,
    /// The ranges of all pods of the cluster. Traffic between these keeps its source address.
    pub cluster_cidrs: Vec<IpNet>,
    /// The ranges of service addresses.
    pub service_cidrs: Vec<IpNet>,
    /// The DNS service's addresses, carried by the bridge.
    pub dns_addresses: Vec<IpAddr>,
    /// The name of the instance's nftables table, of family `inet`.
    pub table: String,
    /// The links' MTU; found from the default route when absent.
    pub mtu: Option<u32>,
    /// How pods of other nodes are reached.
    pub backend: Backend,
    /// Where CNI plug-ins are, if these attach pods.
    pub plugins: Option<Folders>,
}

/// How pods of other nodes are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// By plain routes: the nodes share a link.
    #[default]
    Routes,
    /// By plain routes where nodes share a link, and by VXLAN elsewhere.
    Overlay,
    /// By what somebody else sets up.
    None,
}

impl Config {
    /// The defaults for a data folder: names derived from it, so that instances coexist; 10.244.0.0/24 out of
    /// 10.244.0.0/16 for pods, 10.96.0.0/16 for services, DNS at 10.96.0.10.
    ///
    /// Instances that share a host network need ranges of their own as well: `Network::start` refuses addresses that
    /// another link already has.
    pub fn for_data_dir(data_dir: &Path) -> Config {
        let name = format!("kobune-{:08x}", hash(data_dir.as_os_str().as_encoded_bytes()) as u32);
        let range = |text: &str| text.parse::<IpNet>().expect("a constant range parses");
        Config {
            data_dir: data_dir.to_owned(),
            bridge: name.clone(),
            pod_cidrs: vec![range("10.244.0.0/24")],
            cluster_cidrs: vec![range("10.244.0.0/16")],
            service_cidrs: vec![range("10.96.0.0/16")],
            dns_addresses: vec![IpAddr::from([10, 96, 0, 10])],
            table: name,
            mtu: None,
            backend: Backend::default(),
            plugins: None,
        }
    }

    /// The folder that pods' namespaces are mounted in.
    pub(crate) fn namespaces(&self) -> PathBuf {
        self.data_dir.join("run/netns")
    }

    /// The folder of the records of attached pods.
    pub(crate) fn records(&self) -> PathBuf {
        self.data_dir.join("run/network")
    }

    /// What the names of this instance's pod links begin with: `kb` and five hexadecimal digits.
    pub(crate) fn link_prefix(&self) -> String {
        format!("kb{:05x}", hash(self.bridge.as_bytes()) & 0xf_ffff)
    }

    /// The link that encapsulates: `kv` and five hexadecimal digits. It does not begin as pod links do, since what leaves
    /// by it leaves the machine.
    pub(crate) fn overlay_name(&self) -> String {
        format!("kv{:05x}", hash(self.bridge.as_bytes()) & 0xf_ffff)
    }

    /// The host's end of a pod's link. `attempt` tells apart the rare pods whose names would collide.
    pub(crate) fn link_name(&self, uid: &str, attempt: u32) -> String {
        let mut bytes = uid.as_bytes().to_vec();
        bytes.extend_from_slice(&attempt.to_be_bytes());
        format!("{}{:08x}", self.link_prefix(), hash(&bytes) as u32)
    }

    pub(crate) fn check(&self) -> Result<(), NetworkError> {
        let bad = |problem: String| Err(NetworkError::Config { problem });
        let plain = |name: &str| {
            name.starts_with(|first: char| first.is_ascii_alphabetic())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        if self.bridge.len() > 15 || !plain(&self.bridge) {
            return bad(format!("bridge name {:?} is not 1 to 15 letters, digits and hyphens", self.bridge));
        }
        if self.table.len() > 60 || !plain(&self.table) {
            return bad(format!("table name {:?} is not 1 to 60 letters, digits and hyphens", self.table));
        }
        let families = |ranges: &[IpNet]| {
            let v4 = ranges.iter().filter(|range| matches!(range, IpNet::V4(_))).count();
            (v4, ranges.len() - v4)
        };
        match families(&self.pod_cidrs) {
            (1, 0) | (0, 1) | (1, 1) => {}
            _ => return bad("pod ranges must be one, or one of each family".to_owned()),
        }
        for pod in &self.pod_cidrs {
            for service in &self.service_cidrs {
                if pod.contains(service) || service.contains(pod) {
                    return bad(format!("pod range {pod} and service range {service} overlap"));
                }
            }
        }
        for address in &self.dns_addresses {
            if !self.service_cidrs.iter().any(|range| range.contains(address)) {
                return bad(format!("DNS address {address} is not in a service range"));
            }
        }
        Ok(())
    }
}

/// FNV-1a: stable across builds and machines, which names of links and tables must be.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        state = (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    // The low bits of FNV mix little of the last bytes; fold the high ones in.
    state ^ (state >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernels_limit_and_differ_between_instances() {
        let one = Config::for_data_dir(Path::new("/var/lib/kobune"));
        let two = Config::for_data_dir(Path::new("/var/lib/other"));
        for config in [&one, &two] {
            config.check().expect("the defaults are right");
            assert_eq!(config.bridge.len(), 15);
            assert_eq!(config.link_name("7d1c2a0e-1111-2222-3333-444455556666", 0).len(), 15);
        }
        assert_ne!(one.bridge, two.bridge);
        assert_ne!(one.link_prefix(), two.link_prefix());
        assert_ne!(one.link_name("a", 0), one.link_name("a", 1));
    }

    #[test]
    fn mistakes_are_named() {
        let check = |change: fn(&mut Config), expected: &str| {
            let mut config = Config::for_data_dir(Path::new("/x"));
            change(&mut config);
            let error = config.check().expect_err("a mistake").to_string();
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        };
        check(|config| config.bridge = "much-too-long-a-name".to_owned(), "bridge name");
        check(|config| config.table = "a b".to_owned(), "table name");
        check(|config| config.pod_cidrs.clear(), "pod ranges");
        check(|config| config.service_cidrs = config.cluster_cidrs.clone(), "overlap");
        check(|config| config.dns_addresses = vec![IpAddr::from([10, 0, 0, 1])], "DNS address 10.0.0.1");
    }
}
