//! The bridge and its routes, what an earlier run left, and taking all of it away.

use std::{collections::HashMap, fs, io, net::IpAddr, path::Path, sync::Arc};

use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{InForce, Network, NetworkError, Record, State, Step, blocking, file, is_pod_link, remove_file};
use crate::{
    addresses::Pool,
    cni::{self, Plugins},
    config::{Backend, Config},
    links::{self, Target},
    namespace,
    netlink::Netlink,
    overlay,
    services::nft,
};

/// The default route's link says how large packets may be; without one, Ethernet's usual size.
const USUAL_MTU: u32 = 1500;

/// What has to come before the start and needs plug-ins: an instance that attaches pods itself takes back what plug-ins gave
/// for an earlier run.
pub(super) async fn prepare(config: &Config) {
    if config.plugins.is_none() {
        cni::take_back_all(&config.data_dir).await;
    }
}

/// The node's addresses as [`Network::node_addresses`] describes them, without the gateways.
pub(super) fn find_addresses(config: &Config) -> io::Result<Vec<IpAddr>> {
    let own = [&config.bridge, &config.overlay_name()];
    let mut netlink = Netlink::open()?;
    let links = links::list(&mut netlink)?;
    let addresses = links::addresses(&mut netlink)?;
    let mut found = Vec::new();
    for v4 in config.pod_cidrs.iter().map(|range| range.addr().is_ipv4()) {
        let route = links::default_route_of(&mut netlink, v4)?;
        let of_link = |index: u32| {
            let mut all = addresses.iter().filter(|(_, address)| address.is_ipv4() == v4);
            all.find(|(link, _)| *link == index).map(|(_, found)| *found)
        };
        let is_own = |index: u32| links.iter().any(|link| link.index == index && own.contains(&&link.name));
        let other = || {
            let mut all = addresses.iter().filter(|(_, address)| address.is_ipv4() == v4);
            let other = all.find(|(link, address)| !is_own(*link) && !address.is_loopback());
            other.map(|(_, address)| *address)
        };
        let source = route.and_then(|route| route.source.or_else(|| of_link(route.index)));
        found.extend(source.or_else(other));
    }
    Ok(found)
}

impl Network {
    pub(super) fn start_here(config: Config) -> Result<Arc<Network>, NetworkError> {
        for folder in [config.namespaces(), config.records()] {
            fs::create_dir_all(&folder).map_err(file("make folder", &folder))?;
        }
        let mut netlink = Netlink::open().map_err(Step::OpenNetlink.failed())?;
        let links = links::list(&mut netlink).map_err(Step::List.failed())?;
        let route = links::default_route(&mut netlink).map_err(Step::List.failed())?;
        let of_route = route.and_then(|route| links.iter().find(|link| link.index == route.index));
        let outside = of_route.map_or(USUAL_MTU, |link| link.mtu.clamp(1280, 65_535));
        // Nodes reach each other by IPv4 where this one has a way out by it.
        let v4 = links::default_route_of(&mut netlink, true).map_err(Step::List.failed())?.is_some();
        let underlay_v6 = !v4 && route.is_some();
        let mtu = match (config.mtu, config.backend) {
            (Some(mtu), _) => mtu,
            (None, Backend::Overlay) => outside - overlay::overhead(underlay_v6),
            (None, Backend::Routes | Backend::None) => outside,
        };
        let plugins = config.plugins.clone().map(|folders| Plugins::new(folders, &config.data_dir));
        // Where plug-ins attach pods, addresses and gateways are theirs.
        let own_ranges = if plugins.is_some() { &[][..] } else { &config.pod_cidrs };
        let mut pools: Vec<Pool> = own_ranges.iter().map(|range| Pool::new(*range)).collect();
        let gateways: Vec<IpAddr> = pools.iter().map(Pool::gateway).collect();
        let sources = match &plugins {
            Some(_) => find_addresses(&config).map_err(Step::FindAddress.failed())?,
            None => gateways.clone(),
        };
        // A network namespace begins with its loopback link down, and then nothing on the host reaches the host.
        let lo = links::index("lo").map_err(Step::List.failed())?;
        links::set_up(&mut netlink, lo).map_err(Step::MakeBridge.failed())?;
        forward_packets(&config)?;
        remember_connections();
        if plugins.is_some() {
            filter_bridged();
        }
        make_bridge(&mut netlink, &config, &links, (&gateways, &sources), mtu)?;
        let (pods, dropped) = adopt(&mut netlink, &config, &links, &mut pools)?;
        let name = config.overlay_name();
        let overlay = match config.backend {
            Backend::Overlay => {
                let made = overlay::make(&mut netlink, &name, &gateways, underlay_v6, mtu);
                Some(made.map_err(Step::MakeOverlay.failed())?)
            }
            // One that an earlier run made would lead traffic to nowhere.
            Backend::Routes | Backend::None => {
                links::delete(&mut netlink, &name).map_err(Step::RemoveLink.failed())?;
                None
            }
        };
        Ok(Arc::new(Network {
            config,
            gateways,
            sources,
            plugins,
            dropped,
            mtu,
            overlay,
            state: Mutex::new(State { pods, pools }),
            busy: Mutex::new(HashMap::new()),
            pods_changed: watch::channel(1).0,
            in_force: watch::channel(InForce::default()).0,
        }))
    }

    /// Removes everything an instance made: table, links, routes, namespaces, state files. Needs no running instance;
    /// what is not there is fine. Forwarding of packets stays on: other programs may have come to need it.
    pub async fn purge(config: &Config) -> Result<(), NetworkError> {
        cni::take_back_all(&config.data_dir).await;
        let here = config.clone();
        blocking(move || {
            let mut netlink = Netlink::open().map_err(Step::OpenNetlink.failed())?;
            for folder in [here.namespaces(), here.records()] {
                if !folder.exists() {
                    continue;
                }
                for (_, path) in namespace::list(&folder).map_err(file("list", &folder))? {
                    namespace::remove(&path).map_err(Step::RemoveNamespace.failed())?;
                }
                fs::remove_dir(&folder).map_err(file("remove folder", &folder))?;
            }
            let prefix = here.link_prefix();
            for link in links::list(&mut netlink).map_err(Step::List.failed())? {
                if [&here.bridge, &here.overlay_name()].contains(&&link.name) || is_pod_link(&link.name, &prefix) {
                    links::delete(&mut netlink, &link.name).map_err(Step::RemoveLink.failed())?;
                }
            }
            for (range, gateway) in links::node_routes(&mut netlink).map_err(Step::List.failed())? {
                if here.cluster_cidrs.iter().any(|cluster| cluster.contains(&range)) {
                    links::delete_node_route(&mut netlink, range, gateway).map_err(Step::MakeRoute.failed())?;
                }
            }
            for range in &here.pod_cidrs {
                links::delete_unreachable(&mut netlink, *range).map_err(Step::MakeRoute.failed())?;
            }
            Ok(())
        })
        .await?;
        nft::remove_table(&config.table)
            .await
            .map_err(|source| NetworkError::Table { table: config.table.clone(), source })
    }
}

/// Lets the machine pass packets between pods and links. Writes only when it must: IPv6's switch has side effects on
/// how the machine learns its own routes.
fn forward_packets(config: &Config) -> Result<(), NetworkError> {
    let switch = |path: &str| -> Result<(), NetworkError> {
        let current = fs::read_to_string(path).map_err(Step::EnableForwarding.failed())?;
        if current.trim() == "1" {
            return Ok(());
        }
        fs::write(path, "1").map_err(Step::EnableForwarding.failed())
    };
    let (mut v4, mut v6) = (false, false);
    for range in &config.pod_cidrs {
        v4 |= matches!(range, IpNet::V4(_));
        v6 |= matches!(range, IpNet::V6(_));
    }
    if v4 {
        switch("/proc/sys/net/ipv4/ip_forward")?;
    }
    if v6 {
        switch("/proc/sys/net/ipv6/conf/all/forwarding")?;
    }
    Ok(())
}

/// How long the kernel remembers translated connections that are silent, in seconds: of kube-proxy
/// (`pkg/proxy/apis/config/v1alpha1/defaults.go`). The kernel forgets those that one side has closed after a minute, and
/// whoever still sends is cut off; it remembers open ones for five days.
const REMEMBERED: [(&str, &str); 2] =
    [("nf_conntrack_tcp_timeout_established", "86400"), ("nf_conntrack_tcp_timeout_close_wait", "3600")];

fn remember_connections() {
    for (name, seconds) in REMEMBERED {
        let path = Path::new("/proc/sys/net/netfilter").join(name);
        let set = match fs::read_to_string(&path) {
            Ok(text) if text.trim() == seconds => Ok(()),
            Ok(_) => fs::write(&path, seconds),
            Err(error) => Err(error),
        };
        if let Err(error) = set {
            tracing::warn!(%error, "net.netfilter.{name} stays as it is");
        }
    }
}

/// Lets rules see what a bridge passes on, as Kubernetes asks of machines whose pods are on one: an answer to a connection that
/// was redirected to a pod on the same bridge has to pass the translation back.
fn filter_bridged() {
    for name in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
        let path = Path::new("/proc/sys/net/bridge").join(name);
        match fs::read_to_string(&path) {
            Ok(text) if text.trim() == "1" => {}
            Ok(_) => match fs::write(&path, "1") {
                Ok(()) => tracing::info!("set net.bridge.{name}: services need it where plug-ins put pods on a bridge"),
                Err(error) => tracing::warn!(%error, "net.bridge.{name} stays off"),
            },
            Err(_) => tracing::warn!(
                "the kernel has no br_netfilter: services do not work between pods that a plug-in puts on one bridge"
            ),
        }
    }
}

fn make_bridge(
    netlink: &mut Netlink,
    config: &Config,
    existing: &[links::Link],
    (gateways, sources): (&[IpAddr], &[IpAddr]),
    mtu: u32,
) -> Result<(), NetworkError> {
    let wanted: Vec<IpAddr> = gateways.iter().chain(&config.dns_addresses).copied().collect();
    let addresses = links::addresses(netlink).map_err(Step::List.failed())?;
    let own = existing.iter().find(|link| link.name == config.bridge).map(|link| link.index);
    for (index, address) in &addresses {
        if Some(*index) != own && wanted.contains(address) {
            let link = existing.iter().find(|link| link.index == *index).map_or("?", |link| link.name.as_str());
            return Err(NetworkError::AddressInUse { address: *address, link: link.to_owned() });
        }
    }
    let index = match own {
        Some(index) => index,
        None => {
            links::add_bridge(netlink, &config.bridge, mtu).map_err(Step::MakeBridge.failed())?;
            links::index(&config.bridge).map_err(Step::MakeBridge.failed())?
        }
    };
    let set = |netlink: &mut Netlink| -> io::Result<()> {
        links::set_up(netlink, index)?;
        for (link, address) in &addresses {
            if *link == index && !wanted.contains(address) {
                links::delete_address(netlink, index, *address)?;
            }
        }
        for address in &wanted {
            if !addresses.contains(&(index, *address)) {
                links::add_address(netlink, index, *address)?;
            }
        }
        Ok(())
    };
    set(netlink).map_err(Step::MakeBridge.failed())?;
    let routes = |netlink: &mut Netlink| -> io::Result<()> {
        for range in &config.pod_cidrs {
            if config.plugins.is_some() {
                // Which addresses pods have, and who answers for the others, is the plug-ins' business.
                links::delete_unreachable(netlink, *range)?;
                continue;
            }
            // A pod that is gone, or not there yet, is answered here and not by the world outside.
            links::add_route(netlink, *range, &Target::Unreachable)?;
        }
        for range in &config.service_cidrs {
            let source = sources.iter().find(|source| source.is_ipv4() == range.addr().is_ipv4()).copied();
            links::add_route(netlink, *range, &Target::Link { index, source })?;
        }
        Ok(())
    };
    routes(netlink).map_err(Step::MakeRoute.failed())
}

/// Takes over the pods of an earlier run and removes what is left of those that did not survive.
fn adopt(
    netlink: &mut Netlink,
    config: &Config,
    links: &[links::Link],
    pools: &mut [Pool],
) -> Result<(HashMap<String, Record>, Vec<String>), NetworkError> {
    let mut pods: HashMap<String, Record> = HashMap::new();
    let mut dropped = Vec::new();
    let folder = config.records();
    for (uid, path) in namespace::list(&folder).map_err(file("list", &folder))? {
        let record = read_record(&path);
        let is_pinned = namespace::is_pinned(&config.namespaces().join(&uid));
        match record {
            // By plug-ins before and now; what they gave is in records of their own.
            Some(record) if record.link.is_empty() && config.plugins.is_some() && is_pinned => {
                pods.insert(uid, record);
            }
            Some(record) if record.link.is_empty() != config.plugins.is_some() => {
                if is_pinned {
                    dropped.push(uid);
                }
                remove_file(&path)?;
            }
            Some(record)
                if !uid.starts_with('.')
                    && record.ips.len() == pools.len()
                    && links.iter().any(|link| link.name == record.link)
                    && is_pinned
                    && pods.values().all(|other| other.ips != record.ips)
                    && record.ips.iter().zip(pools.iter_mut()).all(|(address, pool)| pool.adopt(*address)) =>
            {
                pods.insert(uid, record);
            }
            _ => remove_file(&path)?,
        }
    }
    let folder = config.namespaces();
    for (uid, path) in namespace::list(&folder).map_err(file("list", &folder))? {
        if !pods.contains_key(&uid) {
            namespace::remove(&path).map_err(Step::RemoveNamespace.failed())?;
        }
    }
    let prefix = config.link_prefix();
    for link in links {
        if is_pod_link(&link.name, &prefix) && pods.values().all(|record| record.link != link.name) {
            links::delete(netlink, &link.name).map_err(Step::RemoveLink.failed())?;
        }
    }
    Ok((pods, dropped))
}

/// A record that cannot be read is one that a power cut left: its pod is gone as well.
fn read_record(path: &Path) -> Option<Record> {
    let text = fs::read(path).inspect_err(|error| tracing::warn!(path = %path.display(), %error, "unreadable record"));
    serde_json::from_slice(&text.ok()?).ok()
}
