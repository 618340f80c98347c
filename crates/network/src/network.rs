//! Attaching pods to the network and taking them off again.
//!
//! ```text
//!   pod's namespace                     host
//!   eth0 10.244.0.5/32 ───veth─── kb1a2b3...      route 10.244.0.5 dev kb1a2b3...
//!     default via 10.244.0.1            │
//!                                 kobune-1a2b3c4d (a bridge without ports)
//!                                   10.244.0.1   every pod's gateway
//!                                   10.96.0.10   the DNS server
//!                                   route 10.96.0.0/16: service addresses end here
//! ```
//!
//! Each pod hangs on a point-to-point link and the host routes between them. On one shared segment, an answer to a
//! connection that was redirected to a pod on the same node would go straight to the sender and bypass the
//! translation back, unless bridged frames are sent through the firewall, which is a setting of the whole machine.
//! Routed, every packet passes the rules exactly once, a pod that talks to itself through a service needs no special
//! link, and pods cannot take each other's address.
//!
//! What is attached is known from the kernel: a link of the right name and a namespace at the right path. A small
//! record beside them holds what the kernel does not (the uid, host ports). After a power cut links and mounts are
//! gone, so leftover files mean nothing and are removed; therefore records need no fsync.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt, fs, io,
    net::IpAddr,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use crate::config::Config;
use crate::{
    addresses::Pool,
    bandwidth::{self, Bandwidth},
    config::Backend,
    links::{self, Target},
    namespace::{self, Pair},
    netlink::Netlink,
    overlay,
    policy::objects::PodFacts,
    services::nft,
};

/// The host's end of every pod link has the same hardware address: the other end is alone with it.
const HOST_MAC: [u8; 6] = [0xee; 6];

/// The default route's link says how large packets may be; without one, Ethernet's usual size.
const USUAL_MTU: u32 = 1500;

/// How long a pod waits for the rules that isolate it. They take milliseconds, unless the kernel refuses them.
const RULES_WITHIN: Duration = Duration::from_secs(10);

/// How long pods wait after a start to hear whether there are policies at all. A server that is there says so in a
/// fraction of a second; one that is not must not keep pods down.
const KNOWN_WITHIN: Duration = Duration::from_secs(3);

/// A transport protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP, the default.
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP")]
    Udp,
    /// SCTP.
    #[serde(rename = "SCTP")]
    Sctp,
}

impl Protocol {
    /// From the spelling of the API; absent means TCP.
    pub fn parse(text: Option<&str>) -> Option<Protocol> {
        match text {
            None | Some("TCP" | "") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(_) => None,
        }
    }

    /// In lower case, as nftables and DNS spell it.
    pub fn lower(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }

    /// Its number in IP headers.
    pub(crate) fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

/// A container port that is also reachable on the node's own addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostPort {
    /// The one node address to listen on; every address when absent.
    pub host_ip: Option<IpAddr>,
    /// The port on the node.
    pub host_port: u16,
    /// The port in the pod.
    pub container_port: u16,
    /// The protocol of both.
    pub protocol: Protocol,
}

/// A pod's place in the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The pod's network namespace, bind-mounted here.
    pub netns: PathBuf,
    /// The pod's addresses, in the order of `Config::pod_cidrs`.
    pub ips: Vec<IpAddr>,
    /// The hardware address of the pod's `eth0`.
    pub mac: [u8; 6],
}

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

/// What is kept about an attached pod across restarts.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    link: String,
    ips: Vec<IpAddr>,
    mac: [u8; 6],
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    host_ports: Vec<HostPort>,
    /// What policies select the pod by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    facts: Option<PodFacts>,
}

/// A pod of this node, as rules see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalPod {
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Its host ports.
    pub host_ports: Vec<HostPort>,
    /// What policies select it by, where that is known.
    pub facts: Option<PodFacts>,
}

struct State {
    pods: HashMap<String, Record>,
    pools: Vec<Pool>,
}

/// The links, addresses and namespaces of this node's pods.
pub struct Network {
    config: Config,
    gateways: Vec<IpAddr>,
    mtu: u32,
    /// The link that encapsulates, where there is one.
    overlay: Option<u32>,
    state: Mutex<State>,
    /// Serializes work on one pod, so that a detach never meets an attach half way.
    busy: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Counts changes of this node's pods; rules are made anew when it rises.
    pods_changed: watch::Sender<u64>,
    in_force: watch::Sender<InForce>,
}

/// Which rules the kernel has.
#[derive(Clone, Copy, Debug, Default)]
struct InForce {
    /// Whether somebody makes rules, and is expected to do so at once.
    expected: bool,
    /// Whether rules were made since this program began; before, nobody knows whether there are policies.
    known: bool,
    /// The state of `pods_changed` that they were made from.
    generation: u64,
    /// Whether there are policies.
    policies: bool,
}

impl Network {
    /// Makes the bridge and its routes, adopts what an earlier run left running and clears what is stale.
    pub async fn start(config: Config) -> Result<Arc<Network>, NetworkError> {
        config.check()?;
        blocking(move || Network::start_here(config)).await
    }

    fn start_here(config: Config) -> Result<Arc<Network>, NetworkError> {
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
        let mut pools: Vec<Pool> = config.pod_cidrs.iter().map(|range| Pool::new(*range)).collect();
        let gateways: Vec<IpAddr> = pools.iter().map(Pool::gateway).collect();
        // A network namespace begins with its loopback link down, and then nothing on the host reaches the host.
        let lo = links::index("lo").map_err(Step::List.failed())?;
        links::set_up(&mut netlink, lo).map_err(Step::MakeBridge.failed())?;
        forward_packets(&config)?;
        make_bridge(&mut netlink, &config, &links, &gateways, mtu)?;
        let pods = adopt(&mut netlink, &config, &links, &mut pools)?;
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
            mtu,
            overlay,
            state: Mutex::new(State { pods, pools }),
            busy: Mutex::new(HashMap::new()),
            pods_changed: watch::channel(1).0,
            in_force: watch::channel(InForce::default()).0,
        }))
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The addresses on the bridge that are the pods' gateways, one for each of `Config::pod_cidrs`. A host program
    /// that listens there is reachable from every pod, also on a machine with no other address.
    pub fn gateways(&self) -> &[IpAddr] {
        &self.gateways
    }

    /// The MTU of pod links.
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    /// The addresses other machines reach this node by, one of each family that pods have: the one of the default route,
    /// else the first of another link than loopback and kobune's own, else the gateway. A second family that the machine
    /// has no address of is left out.
    pub async fn node_addresses(&self) -> Result<Vec<IpAddr>, NetworkError> {
        let own = [self.config.bridge.clone(), self.config.overlay_name()];
        let gateways = self.gateways.clone();
        blocking(move || {
            let find = || -> io::Result<Vec<IpAddr>> {
                let mut netlink = Netlink::open()?;
                let links = links::list(&mut netlink)?;
                let addresses = links::addresses(&mut netlink)?;
                let mut found = Vec::new();
                for v4 in gateways.iter().map(IpAddr::is_ipv4) {
                    let route = links::default_route_of(&mut netlink, v4)?;
                    let of_link = |index: u32| {
                        let mut all = addresses.iter().filter(|(_, address)| address.is_ipv4() == v4);
                        all.find(|(link, _)| *link == index).map(|(_, found)| *found)
                    };
                    let is_own = |index: u32| links.iter().any(|link| link.index == index && own.contains(&link.name));
                    let other = || {
                        let mut all = addresses.iter().filter(|(_, address)| address.is_ipv4() == v4);
                        let other = all.find(|(link, address)| !is_own(*link) && !address.is_loopback());
                        other.map(|(_, address)| *address)
                    };
                    let source = route.and_then(|route| route.source.or_else(|| of_link(route.index)));
                    found.extend(source.or_else(other));
                }
                Ok(if found.is_empty() { gateways.iter().take(1).copied().collect() } else { found })
            };
            let found = find().map_err(Step::FindAddress.failed())?;
            if found.is_empty() {
                let missing = io::Error::new(io::ErrorKind::AddrNotAvailable, "no link has an address");
                return Err(Step::FindAddress.failed()(missing));
            }
            Ok(found)
        })
        .await
    }

    /// Gives the pod a namespace with `lo` and `eth0` up, addresses and routes. Attaching again gives the same
    /// answer, with the host ports and facts of the latest call in force.
    ///
    /// Where there are NetworkPolicies, this waits until the rules count the pod in, so that its first packet meets them.
    pub async fn attach(
        self: &Arc<Self>,
        uid: &str,
        host_ports: &[HostPort],
        facts: Option<PodFacts>,
    ) -> Result<Attachment, NetworkError> {
        self.attach_as(uid, host_ports, facts, None).await
    }

    /// As [`Network::attach`], with a namespace that belongs to a user namespace in which these users of the host are the
    /// pod's, from 0 on. A namespace that is there already stays as it was made.
    pub async fn attach_as(
        self: &Arc<Self>,
        uid: &str,
        host_ports: &[HostPort],
        facts: Option<PodFacts>,
        users: Option<Range<u32>>,
    ) -> Result<Attachment, NetworkError> {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if uid.is_empty() || uid.len() > 200 || uid.starts_with('.') || !uid.bytes().all(valid) {
            return Err(NetworkError::Uid { uid: uid.to_owned() });
        }
        let lock = self.lock(uid);
        let guard = lock.lock().await;
        let network = Arc::clone(self);
        let (uid_here, ports) = (uid.to_owned(), host_ports.to_vec());
        let mut result = blocking(move || network.attach_here(&uid_here, ports, facts, users)).await;
        if result.is_ok()
            && let Err(error) = self.isolated().await
        {
            result = Err(error);
        }
        drop(guard);
        self.unlock(uid, lock);
        result
    }

    /// Limits what an attached pod sends and receives. Without limits nothing is changed: links begin without any.
    pub async fn limit(self: &Arc<Self>, uid: &str, bandwidth: Bandwidth) -> Result<(), NetworkError> {
        if bandwidth == Bandwidth::default() {
            return Ok(());
        }
        let lock = self.lock(uid);
        let guard = lock.lock().await;
        let link = self.state.lock().pods.get(uid).map(|record| record.link.clone());
        let netns = self.config.namespaces().join(uid);
        let result = match link {
            Some(link) => {
                let limit = move || bandwidth::limit(&netns, &link, bandwidth).map_err(Step::LimitBandwidth.failed());
                blocking(limit).await
            }
            // It was detached meanwhile.
            None => Ok(()),
        };
        drop(guard);
        self.unlock(uid, lock);
        result
    }

    /// Waits until the rules were made from this node's pods as they are now, if there are policies at all. Where that is
    /// not known in time, since the server is away, pods come back without it: the rules of the former run still hold.
    async fn isolated(&self) -> Result<(), NetworkError> {
        let wanted = *self.pods_changed.borrow();
        let mut in_force = self.in_force.subscribe();
        let enough =
            |rules: &InForce| !rules.expected || (rules.known && (!rules.policies || rules.generation >= wanted));
        let limit = if self.in_force.borrow().known { RULES_WITHIN } else { KNOWN_WITHIN };
        if let Ok(reached) = tokio::time::timeout(limit, in_force.wait_for(enough)).await {
            reached.expect("the sender is part of self");
            return Ok(());
        }
        let given_up = self.in_force.send_if_modified(|rules| {
            let unknown = !rules.known;
            rules.expected &= !unknown;
            unknown
        });
        if !given_up {
            return Err(NetworkError::Rules);
        }
        tracing::warn!("it is not known whether there are network policies: pods start without the newest");
        Ok(())
    }

    fn attach_here(
        &self,
        uid: &str,
        host_ports: Vec<HostPort>,
        facts: Option<PodFacts>,
        users: Option<Range<u32>>,
    ) -> Result<Attachment, NetworkError> {
        let existing = self.state.lock().pods.get(uid).cloned();
        if let Some(mut record) = existing {
            if record.host_ports != host_ports || record.facts != facts {
                (record.host_ports, record.facts) = (host_ports, facts);
                answer_at_loopback(&record)?;
                self.write_record(uid, &record)?;
                self.state.lock().pods.insert(uid.to_owned(), record.clone());
                self.pods_changed();
            }
            return Ok(self.attachment(uid, &record));
        }

        let record = self.reserve(uid, host_ports, facts)?;
        match self.build(uid, &record, users) {
            Ok(()) => {
                let attachment = self.attachment(uid, &record);
                self.state.lock().pods.insert(uid.to_owned(), record);
                // Also without policies: one may come into force at this moment, from a look at the pods before this one.
                self.pods_changed();
                Ok(attachment)
            }
            Err(error) => {
                if let Err(second) = self.tear_down(uid, &record.link) {
                    tracing::warn!(uid, error = %second, "clearing up after a failed attach did not finish");
                }
                self.release(&record.ips);
                Err(error)
            }
        }
    }

    /// Takes addresses and a link name that nobody has.
    fn reserve(&self, uid: &str, host_ports: Vec<HostPort>, facts: Option<PodFacts>) -> Result<Record, NetworkError> {
        let mut state = self.state.lock();
        let mut ips = Vec::with_capacity(state.pools.len());
        for (position, range) in self.config.pod_cidrs.iter().enumerate() {
            match state.pools[position].take() {
                Some(address) => ips.push(address),
                None => {
                    for address in ips {
                        state.pools.iter_mut().for_each(|pool| pool.release(address));
                    }
                    return Err(NetworkError::AddressesExhausted { range: range.to_string() });
                }
            }
        }
        let link = (0..)
            .map(|attempt| self.config.link_name(uid, attempt))
            .find(|name| state.pods.values().all(|other| other.link != *name))
            .expect("there are more names than pods");
        // Locally administered, and never two alike among pods, since addresses are not.
        let mut mac = [0x0a, 0x58, 0, 0, 0, 0];
        match ips[0] {
            IpAddr::V4(v4) => mac[2..].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => mac[2..].copy_from_slice(&v6.octets()[12..]),
        }
        Ok(Record { link, ips, mac, host_ports, facts })
    }

    fn build(&self, uid: &str, record: &Record, users: Option<Range<u32>>) -> Result<(), NetworkError> {
        let path = self.config.namespaces().join(uid);
        // Whatever is there belongs to no record: an attach that a kill interrupted.
        namespace::remove(&path).map_err(Step::RemoveNamespace.failed())?;
        let mut netlink = Netlink::open().map_err(Step::OpenNetlink.failed())?;
        if links::index(&record.link).is_ok() {
            links::delete(&mut netlink, &record.link).map_err(Step::RemoveLink.failed())?;
        }
        let pair = Pair {
            host_link: record.link.clone(),
            host_mac: HOST_MAC,
            pod_mac: record.mac,
            mtu: self.mtu,
            addresses: record.ips.iter().copied().zip(self.gateways.iter().copied()).collect(),
            users,
        };
        namespace::create(&path, pair)?;
        let host_side = |netlink: &mut Netlink| -> io::Result<()> {
            let index = links::index(&record.link)?;
            for (address, gateway) in record.ips.iter().zip(&self.gateways) {
                links::add_neighbour(netlink, index, *address, record.mac)?;
                let target = Target::Link { index, source: Some(*gateway) };
                links::add_route(netlink, links::only(*address), &target)?;
            }
            Ok(())
        };
        host_side(&mut netlink).map_err(Step::MakeRoute.failed())?;
        answer_at_loopback(record)?;
        self.write_record(uid, record)
    }

    fn write_record(&self, uid: &str, record: &Record) -> Result<(), NetworkError> {
        let path = self.config.records().join(uid);
        let temporary = self.config.records().join(format!(".{uid}"));
        let text = serde_json::to_vec(record).expect("a record has only string keys");
        fs::write(&temporary, text).map_err(file("write", &temporary))?;
        fs::rename(&temporary, &path).map_err(file("replace", &path))
    }

    fn attachment(&self, uid: &str, record: &Record) -> Attachment {
        Attachment { netns: self.config.namespaces().join(uid), ips: record.ips.clone(), mac: record.mac }
    }

    fn release(&self, ips: &[IpAddr]) {
        let mut state = self.state.lock();
        for address in ips {
            state.pools.iter_mut().for_each(|pool| pool.release(*address));
        }
    }

    /// Takes away all that `attach` made. A pod that is not attached is fine.
    pub async fn detach(self: &Arc<Self>, uid: &str) -> Result<(), NetworkError> {
        let lock = self.lock(uid);
        let guard = lock.lock().await;
        let network = Arc::clone(self);
        let uid_here = uid.to_owned();
        let result = blocking(move || {
            let Some(record) = network.state.lock().pods.get(&uid_here).cloned() else { return Ok(()) };
            network.tear_down(&uid_here, &record.link)?;
            network.state.lock().pods.remove(&uid_here);
            network.release(&record.ips);
            network.pods_changed();
            Ok(())
        })
        .await;
        drop(guard);
        self.unlock(uid, lock);
        result
    }

    fn tear_down(&self, uid: &str, link: &str) -> Result<(), NetworkError> {
        let mut netlink = Netlink::open().map_err(Step::OpenNetlink.failed())?;
        links::delete(&mut netlink, link).map_err(Step::RemoveLink.failed())?;
        namespace::remove(&self.config.namespaces().join(uid)).map_err(Step::RemoveNamespace.failed())?;
        remove_file(&self.config.records().join(uid))
    }

    /// The attached pods by uid.
    pub fn list(&self) -> Vec<(String, Attachment)> {
        let state = self.state.lock();
        state.pods.iter().map(|(uid, record)| (uid.clone(), self.attachment(uid, record))).collect()
    }

    /// This node's pods, in a fixed order.
    pub(crate) fn local_pods(&self) -> Vec<LocalPod> {
        let state = self.state.lock();
        let pod = |record: &Record| LocalPod {
            ips: record.ips.clone(),
            host_ports: record.host_ports.clone(),
            facts: record.facts.clone(),
        };
        let mut pods: Vec<LocalPod> = state.pods.values().map(pod).collect();
        pods.sort_by(|one, other| one.ips.cmp(&other.ips));
        pods
    }

    /// Rises when `local_pods` has another answer.
    pub(crate) fn pod_changes(&self) -> watch::Receiver<u64> {
        self.pods_changed.subscribe()
    }

    fn pods_changed(&self) {
        self.pods_changed.send_modify(|count| *count += 1);
    }

    /// The kernel has the rules that were made from this state of `pod_changes`.
    pub(crate) fn rules_are_in_force(&self, generation: u64, policies: bool) {
        self.in_force.send_replace(InForce { expected: true, known: true, generation, policies });
    }

    /// Somebody makes rules from now on: pods wait for the first.
    pub(crate) fn expect_rules(&self) {
        self.in_force.send_modify(|rules| rules.expected = true);
    }

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
                let source = own.gateways.iter().find(|gateway| gateway.is_ipv4() == v4).copied();
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

    /// Removes everything an instance made: table, links, routes, namespaces, state files. Needs no running instance;
    /// what is not there is fine. Forwarding of packets stays on: other programs may have come to need it.
    pub async fn purge(config: &Config) -> Result<(), NetworkError> {
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

    fn lock(&self, uid: &str) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.busy.lock().entry(uid.to_owned()).or_default())
    }

    /// Forgets the lock when nobody else waits for it.
    fn unlock(&self, uid: &str, lock: Arc<tokio::sync::Mutex<()>>) {
        let mut busy = self.busy.lock();
        drop(lock);
        if busy.get(uid).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            busy.remove(uid);
        }
    }
}

/// Lets what the node's own programs send to a host port at the loopback address go out on the pod's link, and the answers
/// come back. The rules let nobody else use that.
fn answer_at_loopback(record: &Record) -> Result<(), NetworkError> {
    let at_loopback = |port: &HostPort| port.host_ip.is_none_or(|ip| ip.is_unspecified() || ip.is_loopback());
    if !record.host_ports.iter().any(at_loopback) || !record.ips.iter().any(IpAddr::is_ipv4) {
        return Ok(());
    }
    let path = format!("/proc/sys/net/ipv4/conf/{}/route_localnet", record.link);
    fs::write(path, "1").map_err(Step::MakeLink.failed())
}

/// A pod link's name is the prefix and eight hexadecimal digits; other people's links may begin alike.
fn is_pod_link(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.len() == 8 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NetworkError {
    let path = path.to_owned();
    move |source| NetworkError::File { action, path, source }
}

fn remove_file(path: &Path) -> Result<(), NetworkError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file("remove", path)(error)),
        _ => Ok(()),
    }
}

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

/// Whether the kernel says that a gateway is on no link of this machine.
fn is_elsewhere(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EINVAL))
}

/// Runs system calls on a thread that may wait for them.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(Step::OpenNetlink.failed()(io::Error::other(error))),
        },
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

fn make_bridge(
    netlink: &mut Netlink,
    config: &Config,
    existing: &[links::Link],
    gateways: &[IpAddr],
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
            // A pod that is gone, or not there yet, is answered here and not by the world outside.
            links::add_route(netlink, *range, &Target::Unreachable)?;
        }
        for range in &config.service_cidrs {
            let source = gateways.iter().find(|gateway| gateway.is_ipv4() == range.addr().is_ipv4()).copied();
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
) -> Result<HashMap<String, Record>, NetworkError> {
    let mut pods: HashMap<String, Record> = HashMap::new();
    let folder = config.records();
    for (uid, path) in namespace::list(&folder).map_err(file("list", &folder))? {
        match read_record(&path) {
            Some(record)
                if !uid.starts_with('.')
                    && record.ips.len() == pools.len()
                    && links.iter().any(|link| link.name == record.link)
                    && namespace::is_pinned(&config.namespaces().join(&uid))
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
    Ok(pods)
}

/// A record that cannot be read is one that a power cut left: its pod is gone as well.
fn read_record(path: &Path) -> Option<Record> {
    let text = fs::read(path).inspect_err(|error| tracing::warn!(path = %path.display(), %error, "unreadable record"));
    serde_json::from_slice(&text.ok()?).ok()
}
