//! Routes to Services and to the pods of other nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::{Network, NetworkError, Step, blocking};
use crate::{
    config::Backend,
    links::{self, Target},
    netlink::Netlink,
    overlay,
};

/// How the pods of another node are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeRoute {
    /// The node's address of the same family as its pods', if it has one.
    pub node: Option<IpAddr>,
    /// The address that nodes reach each other by.
    pub underlay: IpAddr,
    /// The node's hardware address in the overlay.
    pub mac: [u8; 6],
}

impl Network {
    /// Leads the ranges of Services to the bridge, where they end: an address that no rule takes must not leave the
    /// machine, and a machine without any other route must still find its Services.
    pub(crate) async fn set_service_routes(
        self: &Arc<Self>,
        before: &BTreeSet<IpNet>,
        wanted: &BTreeSet<IpNet>,
    ) -> Result<(), NetworkError> {
        let gone: Vec<IpNet> = before.difference(wanted).copied().collect();
        let fresh: Vec<IpNet> = wanted.difference(before).copied().collect();
        let own = Arc::clone(self);
        blocking(move || {
            let mut netlink = Netlink::open().map_err(Step::OpenNetlink.failed())?;
            let index = links::index(&own.config.bridge).map_err(Step::List.failed())?;
            for range in gone {
                links::delete_link_route(&mut netlink, range, index).map_err(Step::MakeRoute.failed())?;
            }
            for range in fresh {
                let v4 = range.addr().is_ipv4();
                let source = own.sources.iter().find(|source| source.is_ipv4() == v4).copied();
                let target = Target::Link { index, source };
                links::add_route(&mut netlink, range, &target).map_err(Step::MakeRoute.failed())?;
            }
            Ok(())
        })
        .await
    }

    /// Makes the routes to the pods of other nodes what is given, and takes away those that are not wanted any more.
    /// Gives back the ones that lead to machines on none of our links, where there is no overlay to lead there.
    pub(crate) async fn set_node_routes(
        self: &Arc<Self>,
        wanted: &BTreeMap<IpNet, NodeRoute>,
    ) -> Result<BTreeMap<IpNet, IpAddr>, NetworkError> {
        if self.config.backend == Backend::None {
            return Ok(BTreeMap::new());
        }
        let (own, wanted) = (Arc::clone(self), wanted.clone());
        blocking(move || {
            let mut netlink = Netlink::open().map_err(Step::OpenNetlink.failed())?;
            let there = links::node_routes(&mut netlink).map_err(Step::List.failed())?;
            for (range, gateway) in &there {
                let ours = own.config.cluster_cidrs.iter().any(|cluster| cluster.contains(range));
                let leads = wanted.get(range).is_some_and(|route| {
                    route.node == Some(*gateway) || (own.overlay.is_some() && overlay::gateway(range) == *gateway)
                });
                if ours && !leads {
                    links::delete_node_route(&mut netlink, *range, *gateway).map_err(Step::MakeRoute.failed())?;
                }
            }
            let mut unreachable = BTreeMap::new();
            for (range, route) in wanted {
                let plain = match route.node {
                    Some(gateway) if there.contains(&(range, gateway)) => Ok(()),
                    Some(gateway) => links::add_route(&mut netlink, range, &Target::Node { gateway }),
                    None => Err(io::Error::from_raw_os_error(libc::ENETUNREACH)),
                };
                match (plain, own.overlay) {
                    (Ok(()), _) => {}
                    (Err(error), overlay) if is_elsewhere(&error) => match overlay {
                        Some(index) => {
                            let v4 = range.network().is_ipv4();
                            let source = own.gateways.iter().find(|gateway| gateway.is_ipv4() == v4).copied();
                            overlay::add(&mut netlink, index, range, route.underlay, route.mac, source)
                                .map_err(Step::MakeOverlay.failed())?;
                        }
                        None => {
                            unreachable.insert(range, route.underlay);
                        }
                    },
                    (Err(error), _) => return Err(Step::MakeRoute.failed()(error)),
                }
            }
            Ok(unreachable)
        })
        .await
    }
}

/// Whether the kernel says that a gateway is on no link of this machine.
fn is_elsewhere(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EINVAL))
}
