//! The links, addresses, routes and neighbours that kobune makes, as netlink messages.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, BorrowedFd},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use rtnetlink::{
    LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressMessage},
        link::{InfoData, InfoVeth, LinkAttribute, LinkMessage, State},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType},
    },
};

use crate::netlink::{Existing, Netlink};

/// Marks routes as kobune's, so that stale ones can be told from other people's. The number is free in
/// `/etc/iproute2/rt_protos`.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(0x6b);

/// The metric of the routes that end traffic to addresses nobody has: any other route is better.
const LAST_RESORT: u32 = u32::MAX - 1;

/// A link as the kernel lists it.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
}

/// Every link of the namespace.
pub(crate) fn list(netlink: &mut Netlink) -> io::Result<Vec<Link>> {
    let answers = netlink.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(describe(link)),
            _ => None,
        })
        .collect())
}

fn describe(message: LinkMessage) -> Link {
    let mut link = Link { index: message.header.index, name: String::new(), mtu: 0 };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            _ => {}
        }
    }
    link
}

/// The number of the link with this name, in the namespace of the calling thread.
pub(crate) fn index(name: &str) -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex(name)?)
}

/// The number of the link with this name, in the namespace of the connection.
pub(crate) fn named(netlink: &mut Netlink, name: &str) -> io::Result<u32> {
    let mut question = LinkMessage::default();
    question.attributes.push(LinkAttribute::IfName(name.to_owned()));
    match netlink.get(RouteNetlinkMessage::GetLink(question))? {
        RouteNetlinkMessage::NewLink(link) => Ok(link.header.index),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel answered with something else than a link")),
    }
}

/// Makes a bridge. It has no ports: it is there to carry addresses, since this must also work on kernels without the
/// dummy link type.
pub(crate) fn add_bridge(netlink: &mut Netlink, name: &str, mtu: u32) -> io::Result<()> {
    let message = LinkBridge::new(name).mtu(mtu).up().build();
    netlink.create(RouteNetlinkMessage::NewLink(message), Existing::Refuse)
}

/// Takes a link up.
pub(crate) fn set_up(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    let message = LinkMessageBuilder::<LinkUnspec>::default().index(index).up().build();
    netlink.change(RouteNetlinkMessage::SetLink(message))
}

/// How long a link may take to pass packets once both its ends are up.
const LIVE_WITHIN: Duration = Duration::from_secs(2);

/// Waits until a link passes packets. Between the moment in which both ends are up and that one the kernel drops them:
/// it switches the queue on in a worker of its own. Newer kernels do it at once when they are asked for the link; others
/// take as long as they take.
pub(crate) fn wait_until_live(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    let start = Instant::now();
    loop {
        let mut question = LinkMessage::default();
        question.header.index = index;
        let RouteNetlinkMessage::NewLink(link) = netlink.get(RouteNetlinkMessage::GetLink(question))? else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the kernel answered with something else than a link",
            ));
        };
        if link.attributes.contains(&LinkAttribute::OperState(State::Up)) {
            return Ok(());
        }
        if start.elapsed() > LIVE_WITHIN {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the link is up but passes no packets"));
        }
        // This is a thread of its own, which nothing else runs on.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Makes a pair of links: `host` here, `eth0` in `namespace`, both up.
pub(crate) fn add_pair(
    netlink: &mut Netlink,
    host: &str,
    host_mac: [u8; 6],
    pod_mac: [u8; 6],
    mtu: u32,
    namespace: BorrowedFd<'_>,
) -> io::Result<()> {
    let peer = LinkMessageBuilder::<LinkUnspec>::default()
        .name("eth0")
        .mtu(mtu)
        .address(pod_mac.to_vec())
        .setns_by_fd(namespace.as_raw_fd())
        .build();
    let message = LinkVeth::new(host, "eth0")
        .mtu(mtu)
        .address(host_mac.to_vec())
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .up()
        .build();
    netlink.create(RouteNetlinkMessage::NewLink(message), Existing::Refuse)
}

/// Removes a link, and with it its pair, addresses, routes and neighbours. One that is not there is fine.
pub(crate) fn delete(netlink: &mut Netlink, name: &str) -> io::Result<()> {
    let message = LinkMessageBuilder::<LinkUnspec>::default().name(name).build();
    match netlink.change(RouteNetlinkMessage::DelLink(message)) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        other => other,
    }
}

fn host_prefix(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn address_message(index: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.index = index;
    message.header.prefix_len = host_prefix(address);
    message.attributes.push(AddressAttribute::Address(address));
    if address.is_ipv4() {
        message.attributes.push(AddressAttribute::Local(address));
    } else {
        // Detecting duplicates waits for a carrier, which a bridge without ports never has.
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

/// Gives a link one address, without a range of neighbours behind it.
pub(crate) fn add_address(netlink: &mut Netlink, index: u32, address: IpAddr) -> io::Result<()> {
    netlink.create(RouteNetlinkMessage::NewAddress(address_message(index, address)), Existing::Replace)
}

/// Takes an address away from a link.
pub(crate) fn delete_address(netlink: &mut Netlink, index: u32, address: IpAddr) -> io::Result<()> {
    netlink.change(RouteNetlinkMessage::DelAddress(address_message(index, address)))
}

/// The addresses of every link, as (link, address), without link-local ones.
pub(crate) fn addresses(netlink: &mut Netlink) -> io::Result<Vec<(u32, IpAddr)>> {
    let answers = netlink.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    let mut found = Vec::new();
    for answer in answers {
        let RouteNetlinkMessage::NewAddress(message) = answer else { continue };
        let mut address = None;
        for attribute in &message.attributes {
            match attribute {
                // On a point-to-point link `Address` is the other end and `Local` this one.
                AddressAttribute::Local(local) => address = Some(*local),
                AddressAttribute::Address(other) if address.is_none() => address = Some(*other),
                _ => {}
            }
        }
        match address {
            Some(IpAddr::V6(v6)) if v6.is_unicast_link_local() => {}
            Some(address) => found.push((message.header.index, address)),
            None => {}
        }
    }
    Ok(found)
}

/// Where a route leads.
pub(crate) enum Target {
    /// Out of a link whose other end has the address itself.
    Link { index: u32, source: Option<IpAddr> },
    /// To a gateway that is reachable through a link although no range says so.
    Gateway { index: u32, gateway: IpAddr },
    /// To a gateway that is on this link although its address is in no range of it.
    OnLink { index: u32, gateway: IpAddr, source: Option<IpAddr> },
    /// To another machine, on whichever link has its address.
    Node { gateway: IpAddr },
    /// Nowhere: the sender is told at once.
    Unreachable,
}

fn route_message(destination: IpNet, target: &Target) -> RouteMessage {
    let mut message = RouteMessageBuilder::<IpAddr>::new().protocol(PROTOCOL).build();
    let inner = |address: IpAddr| match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    };
    message.header.address_family = match destination {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.header.destination_prefix_length = destination.prefix_len();
    if destination.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(inner(destination.network())));
    }
    match target {
        Target::Link { index, source } => {
            message.header.scope = RouteScope::Link;
            message.attributes.push(RouteAttribute::Oif(*index));
            if let Some(source) = source {
                message.attributes.push(RouteAttribute::PrefSource(inner(*source)));
            }
        }
        Target::Gateway { index, gateway } => {
            message.attributes.push(RouteAttribute::Gateway(inner(*gateway)));
            message.attributes.push(RouteAttribute::Oif(*index));
        }
        Target::OnLink { index, gateway, source } => {
            message.header.flags = RouteFlags::Onlink;
            message.attributes.push(RouteAttribute::Gateway(inner(*gateway)));
            message.attributes.push(RouteAttribute::Oif(*index));
            if let Some(source) = source {
                message.attributes.push(RouteAttribute::PrefSource(inner(*source)));
            }
        }
        Target::Node { gateway } => message.attributes.push(RouteAttribute::Gateway(inner(*gateway))),
        Target::Unreachable => {
            message.header.kind = RouteType::Unreachable;
            message.attributes.push(RouteAttribute::Priority(LAST_RESORT));
        }
    }
    message
}

/// Makes a route, or puts it in the place of one to the same destination.
pub(crate) fn add_route(netlink: &mut Netlink, destination: IpNet, target: &Target) -> io::Result<()> {
    netlink.create(RouteNetlinkMessage::NewRoute(route_message(destination, target)), Existing::Replace)
}

/// kobune's routes by way of other machines.
pub(crate) fn node_routes(netlink: &mut Netlink) -> io::Result<Vec<(IpNet, IpAddr)>> {
    let outer = |address: &RouteAddress| match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    };
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        for answer in netlink.dump(RouteNetlinkMessage::GetRoute(question))? {
            let RouteNetlinkMessage::NewRoute(message) = answer else { continue };
            let (mut destination, mut gateway) = (None, None);
            for attribute in &message.attributes {
                match attribute {
                    RouteAttribute::Destination(address) => destination = outer(address),
                    RouteAttribute::Gateway(address) => gateway = outer(address),
                    _ => {}
                }
            }
            let (Some(destination), Some(gateway)) = (destination, gateway) else { continue };
            let range = IpNet::new(destination, message.header.destination_prefix_length);
            if let Ok(range) = range
                && message.header.protocol == PROTOCOL
            {
                found.push((range, gateway));
            }
        }
    }
    Ok(found)
}

/// Removes a route by way of another machine. One that is not there is fine.
pub(crate) fn delete_node_route(netlink: &mut Netlink, destination: IpNet, gateway: IpAddr) -> io::Result<()> {
    match netlink.change(RouteNetlinkMessage::DelRoute(route_message(destination, &Target::Node { gateway }))) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other,
    }
}

/// Removes a route out of a link. One that is not there is fine.
pub(crate) fn delete_link_route(netlink: &mut Netlink, destination: IpNet, index: u32) -> io::Result<()> {
    let target = Target::Link { index, source: None };
    match netlink.change(RouteNetlinkMessage::DelRoute(route_message(destination, &target))) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other,
    }
}

/// Removes kobune's unreachable route to a destination. One that is not there is fine.
pub(crate) fn delete_unreachable(netlink: &mut Netlink, destination: IpNet) -> io::Result<()> {
    match netlink.change(RouteNetlinkMessage::DelRoute(route_message(destination, &Target::Unreachable))) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other,
    }
}

/// Tells the kernel for good which hardware address a neighbour has, so that it never has to ask.
pub(crate) fn add_neighbour(netlink: &mut Netlink, index: u32, address: IpAddr, mac: [u8; 6]) -> io::Result<()> {
    let mut message = NeighbourMessage::default();
    message.header.family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::Destination(match address {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    }));
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    netlink.create(RouteNetlinkMessage::NewNeighbour(message), Existing::Replace)
}

/// What the default route says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DefaultRoute {
    pub index: u32,
    pub source: Option<IpAddr>,
}

/// The default route with the lowest metric, IPv4's before IPv6's.
pub(crate) fn default_route(netlink: &mut Netlink) -> io::Result<Option<DefaultRoute>> {
    match default_route_of(netlink, true)? {
        Some(route) => Ok(Some(route)),
        None => default_route_of(netlink, false),
    }
}

/// The default route of one family with the lowest metric.
pub(crate) fn default_route_of(netlink: &mut Netlink, v4: bool) -> io::Result<Option<DefaultRoute>> {
    let mut best: Option<(u32, DefaultRoute)> = None;
    let family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let mut question = RouteMessage::default();
    question.header.address_family = family;
    for answer in netlink.dump(RouteNetlinkMessage::GetRoute(question))? {
        let RouteNetlinkMessage::NewRoute(route) = answer else { continue };
        if route.header.destination_prefix_length != 0
            || route.header.kind != RouteType::Unicast
            || route.header.address_family != family
        {
            continue;
        }
        let (mut index, mut source, mut metric) = (None, None, 0);
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(oif) => index = Some(*oif),
                RouteAttribute::PrefSource(RouteAddress::Inet(v4)) => source = Some(IpAddr::V4(*v4)),
                RouteAttribute::PrefSource(RouteAddress::Inet6(v6)) => source = Some(IpAddr::V6(*v6)),
                RouteAttribute::Priority(priority) => metric = *priority,
                _ => {}
            }
        }
        let Some(index) = index else { continue };
        if best.as_ref().is_none_or(|(old_metric, _)| metric < *old_metric) {
            best = Some((metric, DefaultRoute { index, source }));
        }
    }
    Ok(best.map(|(_, route)| route))
}

/// The range that holds one address and no other.
pub(crate) fn only(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

/// The range of every address, of this address's family.
pub(crate) fn everything(address: IpAddr) -> IpNet {
    match address {
        IpAddr::V4(_) => IpNet::from(ipnet::Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
        IpAddr::V6(_) => IpNet::from(ipnet::Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
    }
}
