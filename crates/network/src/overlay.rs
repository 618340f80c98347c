//! VXLAN to nodes that are on no link of this machine.
//!
//! ```text
//!   pod 10.244.0.5 ──> host: 10.244.1.0/24 via 10.244.1.1 dev kv… onlink
//!                                          │ neighbour 10.244.1.1 is 0a:59:0a:f4:01:01
//!                                          │ 0a:59:0a:f4:01:01 is behind 198.51.100.7
//!                                          └─> UDP 8472 to 198.51.100.7 ──> kv… there ──> pod 10.244.1.9
//! ```
//!
//! A node's place in the overlay is its pods' gateway, and its hardware address is made from that: every node can say it
//! of every other from the Node object alone, and nobody has to ask or to learn. The kernel encapsulates; nothing of
//! kobune is on the way. The port and the number are those that flannel has, so that firewalls know them.

use std::{io, net::IpAddr};

use ipnet::IpNet;
use rtnetlink::{
    LinkMessageBuilder, LinkVxlan,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    },
};

use crate::{
    links::{self, Target},
    netlink::{Existing, Netlink},
};

/// Linux' own port for VXLAN, from before there was an official one.
const PORT: u16 = 8472;
/// The network's number.
const NUMBER: u32 = 1;

/// What encapsulation takes of each packet: Ethernet, VXLAN, UDP and IP headers.
pub(crate) fn overhead(underlay_v6: bool) -> u32 {
    14 + 8 + 8 + if underlay_v6 { 40 } else { 20 }
}

/// The first address of a range: its node's pods have it as their gateway.
pub(crate) fn gateway(range: &IpNet) -> IpAddr {
    match range.network() {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) + 1).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) + 1).into()),
    }
}

/// The hardware address of the node whose pods have this gateway: locally administered, and another one for each.
pub(crate) fn mac(gateway: IpAddr) -> [u8; 6] {
    let [a, b, c, d] = match gateway {
        IpAddr::V4(v4) => v4.octets(),
        // The part that tells nodes apart: ranges of one node have 64 bits.
        IpAddr::V6(v6) => [v6.octets()[4], v6.octets()[5], v6.octets()[6], v6.octets()[7]],
    };
    [0x0a, 0x59, a, b, c, d]
}

/// Makes the link, or leaves the one that is there. `own` are this node's gateways; `underlay_v6` says how nodes reach
/// each other.
pub(crate) fn make(netlink: &mut Netlink, name: &str, own: &[IpAddr], underlay_v6: bool, mtu: u32) -> io::Result<u32> {
    if links::index(name).is_err() {
        let mut link = LinkVxlan::new(name, NUMBER).port(PORT).learning(false).mtu(mtu);
        if let Some(first) = own.first() {
            link = link.address(mac(*first).to_vec());
        }
        if underlay_v6 {
            link = link.local6(std::net::Ipv6Addr::UNSPECIFIED);
        }
        netlink.create(RouteNetlinkMessage::NewLink(link.up().build()), Existing::Refuse)?;
    }
    let index = links::index(name)?;
    let up = LinkMessageBuilder::<rtnetlink::LinkUnspec>::default().index(index).mtu(mtu).up().build();
    netlink.change(RouteNetlinkMessage::SetLink(up))?;
    Ok(index)
}

/// Leads a range of pods to the node at `remote`. `own_gateway` is what this machine's own packets come from.
pub(crate) fn add(
    netlink: &mut Netlink,
    index: u32,
    range: IpNet,
    remote: IpAddr,
    hardware: [u8; 6],
    own_gateway: Option<IpAddr>,
) -> io::Result<()> {
    let gateway = gateway(&range);
    links::add_neighbour(netlink, index, gateway, hardware)?;
    netlink.create(RouteNetlinkMessage::NewNeighbour(forwarding(index, hardware, remote)), Existing::Replace)?;
    links::add_route(netlink, range, &Target::OnLink { index, gateway, source: own_gateway })
}

/// The entry that says behind which machine a hardware address is.
fn forwarding(index: u32, hardware: [u8; 6], remote: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(hardware.to_vec()));
    message.attributes.push(NeighbourAttribute::Destination(match remote {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    }));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_the_overlay() {
        let check = |range: &str, expected: &str, hardware: [u8; 6]| {
            let gateway = gateway(&range.parse().expect("a range"));
            assert_eq!((gateway.to_string().as_str(), mac(gateway)), (expected, hardware));
        };
        check("10.244.1.0/24", "10.244.1.1", [0x0a, 0x59, 10, 244, 1, 1]);
        check("fd00:244:0:1::/64", "fd00:244:0:1::1", [0x0a, 0x59, 0, 0, 0, 1]);
        assert_eq!((overhead(false), overhead(true)), (50, 70));
    }
}
