//! Why network operations fail.

use std::{fmt, io, net::IpAddr, path::PathBuf};

use super::RULES_WITHIN;
use crate::{cni::CniError, services::nft};

/// Why a network operation failed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A call to the kernel failed.
    #[error("{step}")]
    Kernel {
        /// What was attempted.
        step: Step,
        /// The cause.
        source: io::Error,
    },
    /// A file could not be read, written or removed.
    #[error("{action} {}", path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The configuration contradicts itself.
    #[error("network configuration: {problem}")]
    Config {
        /// What is wrong.
        problem: String,
    },
    /// Another link has an address that this instance needs.
    #[error("address {address} is already on link {link}; instances on one machine need different ranges")]
    AddressInUse {
        /// The address.
        address: IpAddr,
        /// The link that has it.
        link: String,
    },
    /// No address is free.
    #[error("no free pod address in {range}")]
    AddressesExhausted {
        /// The range that is full.
        range: String,
    },
    /// The pod's uid cannot be a file name.
    #[error("pod uid {uid:?} is not letters, digits, hyphens, dots and underscores")]
    Uid {
        /// The uid.
        uid: String,
    },
    /// Plug-ins did not attach the pod, or did not take it off.
    #[error("failed to {action} network for sandbox {uid:?}")]
    Plugins {
        /// `setup` or `destroy`.
        action: &'static str,
        /// The pod.
        uid: String,
        /// The cause.
        source: CniError,
    },
    /// The rules that NetworkPolicies ask for are not in force for the pod.
    #[error("the rules of network policies did not come into force within {} s", RULES_WITHIN.as_secs())]
    Rules,
    /// The program that applies rules failed.
    #[error("remove nftables table {table}")]
    Table {
        /// The table's name.
        table: String,
        /// The cause.
        source: nft::NftError,
    },
}

/// What was attempted when the kernel refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Open a netlink socket.
    OpenNetlink,
    /// List links, addresses or routes.
    List,
    /// Make or change the bridge.
    MakeBridge,
    /// Let the machine forward packets.
    EnableForwarding,
    /// Make a route of the node.
    MakeRoute,
    /// Make and mount a network namespace.
    MakeNamespace,
    /// Unmount a network namespace.
    RemoveNamespace,
    /// Make a pod's pair of links.
    MakeLink,
    /// Set addresses and routes inside the pod.
    ConfigurePod,
    /// Limit what a pod sends and receives.
    LimitBandwidth,
    /// Remove a link.
    RemoveLink,
    /// Find an address to be reached by.
    FindAddress,
    /// Make the link that encapsulates, or what leads to it.
    MakeOverlay,
}

impl Step {
    pub(crate) fn failed<E: Into<io::Error>>(self) -> impl FnOnce(E) -> NetworkError {
        move |source| NetworkError::Kernel { step: self, source: source.into() }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::OpenNetlink => "open a netlink socket",
            Step::List => "list links, addresses and routes",
            Step::MakeBridge => "make the bridge",
            Step::EnableForwarding => "enable forwarding of packets",
            Step::MakeRoute => "make a route",
            Step::MakeNamespace => "make a network namespace",
            Step::RemoveNamespace => "remove a network namespace",
            Step::MakeLink => "make a pod's links",
            Step::ConfigurePod => "set addresses and routes in a pod's network namespace",
            Step::LimitBandwidth => "limit a pod's bandwidth",
            Step::RemoveLink => "remove a link",
            Step::FindAddress => "find the node's address",
            Step::MakeOverlay => "make the VXLAN link",
        })
    }
}
