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
//! Where the configuration names CNI plug-ins, these attach pods in place of all that (`by_plugins`); the bridge then carries
//! the DNS addresses alone.
//!
//! What is attached is known from the kernel: a link of the right name and a namespace at the right path. A small
//! record beside them holds what the kernel does not (the uid, host ports). After a power cut links and mounts are
//! gone, so leftover files mean nothing and are removed; therefore records need no fsync.

mod by_plugins;
mod errors;
mod routes;
mod start;

use std::{
    collections::HashMap,
    fs, io,
    net::IpAddr,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use crate::config::Config;
pub use errors::{NetworkError, Step};
pub(crate) use routes::NodeRoute;

use crate::{
    addresses::Pool,
    bandwidth::{self, Bandwidth},
    cni::{Plugins, Told},
    links::{self, Target},
    namespace::{self, Pair},
    netlink::Netlink,
    policy::objects::PodFacts,
};

/// The host's end of every pod link has the same hardware address: the other end is alone with it.
const HOST_MAC: [u8; 6] = [0xee; 6];

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

/// What a pod wants of the network.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Ports on the node.
    pub host_ports: Vec<HostPort>,
    /// What policies select the pod by.
    pub facts: Option<PodFacts>,
    /// The host's users that those of the pod, from 0 on, are: its namespace then belongs to a user namespace of them. A
    /// namespace that is there already stays as it was made.
    pub users: Option<Range<u32>>,
    /// What plug-ins are told, where they attach pods.
    pub told: Told,
}

/// A pod's place in the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The pod's network namespace, bind-mounted here.
    pub netns: PathBuf,
    /// The pod's addresses, in the order of `Config::pod_cidrs`.
    pub ips: Vec<IpAddr>,
    /// The hardware address of the pod's `eth0`; zeros where a plug-in did not say.
    pub mac: [u8; 6],
}

/// What is kept about an attached pod across restarts.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    /// The host's end of the pod's link; empty where plug-ins made it.
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
    /// What the node's own programs send to Services from: the gateways, or the node's addresses.
    sources: Vec<IpAddr>,
    /// What attaches pods, unless this does.
    plugins: Option<Plugins>,
    /// Pods whose links were taken away at the start.
    dropped: Vec<String>,
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
        start::prepare(&config).await;
        blocking(move || Network::start_here(config)).await
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Other people's plug-ins, where these attach pods.
    pub fn plugins(&self) -> Option<&Plugins> {
        self.plugins.as_ref()
    }

    /// Pods, by uid, that an earlier run attached in the other way, by plug-ins or without: their links are no more, and
    /// what runs in them has no network.
    pub fn dropped(&self) -> &[String] {
        &self.dropped
    }

    /// The addresses on the bridge that are the pods' gateways, one for each of `Config::pod_cidrs`. A host program
    /// that listens there is reachable from every pod, also on a machine with no other address. None where plug-ins attach
    /// pods.
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
        let (config, gateways) = (self.config.clone(), self.gateways.clone());
        blocking(move || {
            let found = start::find_addresses(&config).map_err(Step::FindAddress.failed())?;
            let found = if found.is_empty() { gateways.into_iter().take(1).collect() } else { found };
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
        self.attach_as(uid, Wanted { host_ports: host_ports.to_vec(), facts, ..Wanted::default() }).await
    }

    /// As [`Network::attach`], with all that a pod may want.
    pub async fn attach_as(self: &Arc<Self>, uid: &str, wanted: Wanted) -> Result<Attachment, NetworkError> {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if uid.is_empty() || uid.len() > 200 || uid.starts_with('.') || !uid.bytes().all(valid) {
            return Err(NetworkError::Uid { uid: uid.to_owned() });
        }
        let lock = self.lock(uid);
        let guard = lock.lock().await;
        let result = match &self.plugins {
            Some(plugins) => self.attach_by(plugins, uid, wanted).await,
            None => self.attach_alone(uid, wanted).await,
        };
        drop(guard);
        self.unlock(uid, lock);
        result
    }

    async fn attach_alone(self: &Arc<Self>, uid: &str, wanted: Wanted) -> Result<Attachment, NetworkError> {
        let (network, uid) = (Arc::clone(self), uid.to_owned());
        let attached =
            blocking(move || network.attach_here(&uid, wanted.host_ports, wanted.facts, wanted.users)).await?;
        self.isolated().await?;
        Ok(attached)
    }

    /// Limits what an attached pod sends and receives. Without limits nothing is changed: links begin without any. Plug-ins
    /// were told when they attached the pod.
    pub async fn limit(self: &Arc<Self>, uid: &str, bandwidth: Bandwidth) -> Result<(), NetworkError> {
        if bandwidth == Bandwidth::default() || self.plugins.is_some() {
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
        let result = self.detach_here(uid).await;
        drop(guard);
        self.unlock(uid, lock);
        result
    }

    async fn detach_here(self: &Arc<Self>, uid: &str) -> Result<(), NetworkError> {
        self.detach_by_plugins(uid).await?;
        let (network, uid) = (Arc::clone(self), uid.to_owned());
        blocking(move || {
            let Some(record) = network.state.lock().pods.get(&uid).cloned() else { return Ok(()) };
            network.tear_down(&uid, &record.link)?;
            network.state.lock().pods.remove(&uid);
            network.release(&record.ips);
            network.pods_changed();
            Ok(())
        })
        .await
    }

    fn tear_down(&self, uid: &str, link: &str) -> Result<(), NetworkError> {
        if !link.is_empty() {
            let mut netlink = Netlink::open().map_err(Step::OpenNetlink.failed())?;
            links::delete(&mut netlink, link).map_err(Step::RemoveLink.failed())?;
        }
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
