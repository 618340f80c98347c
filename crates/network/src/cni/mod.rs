//! Other people's network: pods are attached by plug-ins of the Container Network Interface in place of kobune's own links.
//!
//! ```text
//!   /etc/cni/net.d/10-x.conflist ──load──▶ List ──STATUS──▶ ready ──▶ ADD, CHECK, DEL for each pod, GC for what is left
//! ```
//!
//! Which network there is, is looked at when somebody says that the folder has changed, and which plug-ins work by calling
//! them; nothing is asked again and again but a network that says itself that it is not ready yet.
//!
//! Behaviour is that of libcni (`libcni/api.go`) below containerd (`internal/cri`): the arguments, the order of calls, the
//! words of errors. Source of the rest: the CNI specification 1.1.

mod answer;
mod cache;
mod invoke;
mod list;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

pub use list::ListError;

use answer::Answer;
use cache::{Cache, Entry};
use invoke::{Call, invoke};
use list::List;

use crate::{bandwidth::Bandwidth, network::HostPort};

/// As long as the kubelet waits for the runtime (`--runtime-request-timeout`).
const WITHIN: Duration = Duration::from_secs(120);

/// How long a question about the plug-in itself may take: it concerns no pod.
const ASKED_WITHIN: Duration = Duration::from_secs(10);

/// What containerd says while there is no network configuration.
const NOT_INITIALIZED: &str = "cni plugin not initialized";

/// Where configurations and programs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folders {
    /// Network configurations: `/etc/cni/net.d`.
    pub configurations: PathBuf,
    /// Programs: `/opt/cni/bin`.
    pub programs: Vec<PathBuf>,
}

/// What plug-ins are told about a pod besides its namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// The pod's namespace in the API.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's annotations.
    pub annotations: BTreeMap<String, String>,
    /// What its annotations limit its traffic to.
    pub bandwidth: Bandwidth,
    /// Resolvers that the pod asks.
    pub dns_servers: Vec<String>,
    /// Domains that names are looked for in.
    pub dns_searches: Vec<String>,
    /// Options of the resolver.
    pub dns_options: Vec<String>,
    /// The pod's control group.
    pub cgroup: String,
}

/// Why a pod was not attached by plug-ins, or not taken off.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// There is no network, or it says that it cannot be used.
    #[error("{message}")]
    NotReady {
        /// What is missing.
        message: String,
    },
    /// A plug-in failed.
    #[error("plugin type={plugin:?} failed ({command}): {message}")]
    Plugin {
        /// Its type.
        plugin: String,
        /// What it was called for, in lower case.
        command: String,
        /// What it said.
        message: String,
    },
    /// A plug-in answered something that is no result.
    #[error("plugin type={plugin:?} failed ({command}): unable to parse its result: {problem}")]
    Answer {
        /// Its type.
        plugin: String,
        /// What it was called for, in lower case.
        command: String,
        /// What is wrong.
        problem: String,
    },
    /// All plug-ins were content, but the pod has no address.
    #[error("the result of network {network:?} has no address for {}", answer::LINK)]
    NoAddress {
        /// The network.
        network: String,
    },
    /// What is on disk about an attachment cannot be read or written.
    #[error("the record of a pod's attachment")]
    Record {
        /// The cause.
        source: io::Error,
    },
}

/// What a pod got.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Added {
    pub ips: Vec<IpAddr>,
    pub mac: [u8; 6],
}

/// The plug-ins of a node.
pub struct Plugins {
    folders: Folders,
    cache: Cache,
    within: Duration,
    current: Mutex<Result<Arc<List>, String>>,
    /// Why the network cannot be used, if so.
    status: watch::Sender<Result<(), String>>,
    /// Held while something is attached: plug-ins that collect at that moment would not know of it.
    attaching: tokio::sync::RwLock<()>,
}

impl Plugins {
    pub(crate) fn new(folders: Folders, data_dir: &Path) -> Plugins {
        let nothing = || NOT_INITIALIZED.to_owned();
        Plugins {
            folders,
            cache: Cache::of(data_dir),
            within: WITHIN,
            current: Mutex::new(Err(nothing())),
            status: watch::channel(Err(nothing())).0,
            attaching: tokio::sync::RwLock::new(()),
        }
    }

    /// Where configurations and programs are.
    pub fn folders(&self) -> &Folders {
        &self.folders
    }

    /// Whether the network can be used, and if not, why, in the words of the node's condition.
    pub fn status(&self) -> watch::Receiver<Result<(), String>> {
        self.status.subscribe()
    }

    /// Looks at the configurations anew, asks the plug-ins whether they work, and says so in [`Plugins::status`]. Answers
    /// whether there is a network that says of itself that it is not ready.
    pub(crate) async fn reload(&self) -> bool {
        let folder = self.folders.configurations.clone();
        let loaded = tokio::task::spawn_blocking(move || list::load(&folder)).await;
        let loaded = match loaded {
            Ok(Ok(Some(list))) => Ok(list),
            Ok(Ok(None)) => {
                Err(format!("{NOT_INITIALIZED}: no network config found in {}", self.folders.configurations.display()))
            }
            Ok(Err(error)) => Err(format!("cni config load failed: {}", chain(&error))),
            Err(error) => Err(error.to_string()),
        };
        let (usable, ask_again) = match loaded {
            Ok(list) => {
                let usable = self.usable(list).await;
                let ask_again = usable.is_err();
                (usable, ask_again)
            }
            Err(message) => (Err(message), false),
        };
        let status = usable.as_ref().map(|_| ()).map_err(Clone::clone);
        *self.current.lock() = usable;
        self.status.send_if_modified(|known| {
            let changed = *known != status;
            *known = status;
            changed
        });
        ask_again
    }

    /// The list with the newest version that all its plug-ins speak, if they say that they work.
    async fn usable(&self, mut list: List) -> Result<Arc<List>, String> {
        if list.candidates.len() > 1 {
            self.agree_on_a_version(&mut list).await;
        }
        if list.speaks("1.1.0") {
            for plugin in &list.plugins {
                let input = configuration(&list, plugin, &Map::new(), None);
                let said = self.ask("STATUS", plugin, input).await;
                said.map_err(|error| format!("plugin status check failed: {}", chain(&error)))?;
            }
        }
        Ok(Arc::new(list))
    }

    /// A configuration may allow several versions: taken is the newest that every plug-in says it speaks. One that does not
    /// say has no part in that.
    async fn agree_on_a_version(&self, list: &mut List) {
        let mut candidates = list.candidates.clone();
        for plugin in &list.plugins {
            let input = json!({"cniVersion": list::VERSIONS.last()}).to_string();
            let spoken = match self.ask("VERSION", plugin, input).await {
                Ok(output) => serde_json::from_slice::<Value>(&output).ok(),
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "a plug-in does not say its versions");
                    None
                }
            };
            if let Some(spoken) = spoken.as_ref().and_then(|spoken| spoken["supportedVersions"].as_array()) {
                candidates.retain(|version| spoken.iter().any(|spoken| spoken == version));
            }
        }
        if let Some(newest) = candidates.into_iter().next() {
            list.version = newest;
        }
    }

    async fn ask(
        &self,
        command: &'static str,
        plugin: &Map<String, Value>,
        input: String,
    ) -> Result<Vec<u8>, CniError> {
        invoke(Call {
            command,
            plugin: type_of(plugin),
            folders: &self.folders.programs,
            container: None,
            netns: None,
            arguments: "",
            input,
            within: ASKED_WITHIN.min(self.within),
        })
        .await
    }

    /// Attaches a container's namespace. Whatever was attached under the same id before is taken back first.
    pub(crate) async fn add(
        &self,
        id: &str,
        netns: &Path,
        told: &Told,
        host_ports: &[HostPort],
    ) -> Result<Added, CniError> {
        let list = self.current.lock().clone().map_err(|message| CniError::NotReady { message })?;
        let _attaching = self.attaching.read().await;
        if let Err(error) = self.del(id, None).await {
            // A network of before may be gone with its programs; that must not keep pods down.
            tracing::warn!(id, error = %chain(&error), "a network plug-in did not take back what a pod had before");
        }
        let mut entry = Entry::new(id, &list.name, list.text());
        entry.cni_args = arguments(id, told);
        entry.capability_args = capabilities(told, host_ports);
        entry.bin_dirs.clone_from(&self.folders.programs);
        self.write(&entry).await?;
        let result = self.add_all(&list, &mut entry, netns).await;
        if result.is_err()
            && let Err(error) = self.del(id, Some(netns)).await
        {
            // The record stays; a later attempt takes back what is left.
            tracing::warn!(id, error = %chain(&error), "clearing up after a failed attachment did not finish");
        }
        result
    }

    async fn add_all(&self, list: &List, entry: &mut Entry, netns: &Path) -> Result<Added, CniError> {
        let mut answer: Option<Answer> = None;
        for plugin in &list.plugins {
            let input = configuration(list, plugin, &entry.capability_args, answer.as_ref().map(|answer| &answer.0));
            let output = invoke(self.call("ADD", plugin, entry, Some(netns), input)).await?;
            let parsed = Answer::parse(&output, &list.version);
            answer = Some(parsed.map_err(|problem| CniError::Answer {
                plugin: type_of(plugin).to_owned(),
                command: "add".to_owned(),
                problem,
            })?);
        }
        let no_address = || CniError::NoAddress { network: list.name.clone() };
        let last = answer.ok_or_else(no_address)?;
        entry.result = Some(last.0.clone());
        self.write(entry).await?;
        // In the form that says most about links and families.
        let newest = list::VERSIONS.last().expect("there are versions");
        let text = serde_json::to_vec(&last.0).expect("JSON");
        let last = Answer::parse(&text, newest).unwrap_or(last);
        let ips = last.pod_addresses();
        if ips.is_empty() {
            return Err(no_address());
        }
        Ok(Added { ips, mac: last.hardware_address().unwrap_or_default() })
    }

    fn call<'a>(
        &'a self,
        command: &'static str,
        plugin: &'a Map<String, Value>,
        entry: &'a Entry,
        netns: Option<&'a Path>,
        input: String,
    ) -> Call<'a> {
        Call {
            command,
            plugin: type_of(plugin),
            folders: if entry.bin_dirs.is_empty() { &self.folders.programs } else { &entry.bin_dirs },
            container: Some(&entry.container_id),
            netns,
            arguments: &entry.cni_args,
            input,
            within: self.within,
        }
    }

    /// Asks whether an attachment is as it was made. Networks before 0.4.0 cannot say.
    pub(crate) async fn check(&self, id: &str, netns: &Path) -> Result<(), CniError> {
        let Some(entry) = self.read(id).await? else { return Ok(()) };
        let Ok(list) = List::parse(entry.config.as_bytes()) else { return Ok(()) };
        if list.disable_check || !list.speaks("0.4.0") {
            return Ok(());
        }
        for plugin in &list.plugins {
            let input = configuration(&list, plugin, &entry.capability_args, entry.result.as_ref());
            invoke(self.call("CHECK", plugin, &entry, Some(netns), input)).await?;
        }
        Ok(())
    }

    /// Takes back what an attachment was given. One that is not known is fine.
    pub(crate) async fn del(&self, id: &str, netns: Option<&Path>) -> Result<(), CniError> {
        let Some(entry) = self.read(id).await? else { return Ok(()) };
        match List::parse(entry.config.as_bytes()) {
            Ok(list) => {
                let result = entry.result.as_ref().filter(|_| list.speaks("0.4.0"));
                for plugin in list.plugins.iter().rev() {
                    let input = configuration(&list, plugin, &entry.capability_args, result);
                    invoke(self.call("DEL", plugin, &entry, netns, input)).await?;
                }
            }
            Err(problem) => tracing::warn!(id, problem, "the network of an attachment is not known any more"),
        }
        let (cache, id) = (self.cache.clone(), id.to_owned());
        on_disk(move || cache.remove(&id)).await
    }

    /// The containers that something was given to.
    pub(crate) async fn attached(&self) -> Result<BTreeSet<String>, CniError> {
        let cache = self.cache.clone();
        on_disk(move || Ok(cache.list()?.into_keys().collect())).await
    }

    /// Has plug-ins drop what they hold for containers that nothing was given to. Another time, where something is being
    /// attached just now.
    pub(crate) async fn collect(&self) {
        let Ok(list) = self.current.lock().clone() else { return };
        if list.disable_gc || !list.speaks("1.1.0") {
            return;
        }
        let Ok(_alone) = self.attaching.try_write() else { return };
        let Ok(valid) = self.attached().await else { return };
        let valid: Vec<Value> = valid.iter().map(|id| json!({"containerID": id, "ifname": answer::LINK})).collect();
        for plugin in &list.plugins {
            let mut with_valid = plugin.clone();
            for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
                with_valid.insert(key.to_owned(), valid.clone().into());
            }
            let input = configuration(&list, &with_valid, &Map::new(), None);
            if let Err(error) = self.ask("GC", plugin, input).await {
                tracing::warn!(error = %chain(&error), "a network plug-in did not drop what nobody has any more");
            }
        }
    }

    async fn read(&self, id: &str) -> Result<Option<Entry>, CniError> {
        let (cache, id) = (self.cache.clone(), id.to_owned());
        on_disk(move || cache.read(&id)).await
    }

    async fn write(&self, entry: &Entry) -> Result<(), CniError> {
        let (cache, entry) = (self.cache.clone(), entry.clone());
        on_disk(move || cache.write(&entry)).await
    }
}

async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, CniError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(io::Error::other);
    done.and_then(|done| done).map_err(|source| CniError::Record { source })
}

/// Takes back everything that plug-ins gave on behalf of an instance; for when it goes, or attaches pods itself from now on.
/// What fails is said, and does not keep the rest.
pub(crate) async fn take_back_all(data_dir: &Path) {
    let none = Folders { configurations: PathBuf::new(), programs: Vec::new() };
    let plugins = Plugins::new(none, data_dir);
    let attached = plugins.attached().await.unwrap_or_else(|error| {
        tracing::warn!(error = %chain(&error), "what network plug-ins gave is not known");
        BTreeSet::new()
    });
    for id in attached {
        if let Err(error) = plugins.del(&id, None).await {
            tracing::warn!(id, error = %chain(&error), "a network plug-in did not take back what it gave");
        }
    }
}

fn type_of(plugin: &Map<String, Value>) -> &str {
    plugin.get("type").and_then(Value::as_str).expect("a list's plug-ins have types")
}

/// What one plug-in is given: its part of the list, with the list's name and version, what the runtime knows of what it can
/// do, and the result so far.
fn configuration(
    list: &List,
    plugin: &Map<String, Value>,
    known: &Map<String, Value>,
    before: Option<&Map<String, Value>>,
) -> String {
    let mut made = plugin.clone();
    made.insert("name".to_owned(), list.name.clone().into());
    made.insert("cniVersion".to_owned(), list.version.clone().into());
    let can = |name: &str| plugin.get("capabilities").is_some_and(|can| can[name] == true);
    let runtime: Map<String, Value> =
        known.iter().filter(|(name, _)| can(name)).map(|(name, value)| (name.clone(), value.clone())).collect();
    if !runtime.is_empty() {
        made.insert("runtimeConfig".to_owned(), runtime.into());
    }
    if let Some(before) = before {
        made.insert("prevResult".to_owned(), before.clone().into());
    }
    Value::Object(made).to_string()
}

/// `CNI_ARGS`, as every container runtime of Kubernetes sets it.
fn arguments(id: &str, told: &Told) -> String {
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID={id}",
        told.namespace, told.name
    )
}

/// What plug-ins with the capability of that name are told. Upstream: the conventions of `containernetworking/cni`
/// (`CONVENTIONS.md`) and containerd's `internal/cri/server/sandbox_run.go`.
fn capabilities(told: &Told, host_ports: &[HostPort]) -> Map<String, Value> {
    let mut made = Map::new();
    if !host_ports.is_empty() {
        let mapping = |port: &HostPort| {
            json!({"hostPort": port.host_port, "containerPort": port.container_port, "protocol": port.protocol.lower(),
                "hostIP": port.host_ip.map(|ip| ip.to_string()).unwrap_or_default()})
        };
        made.insert("portMappings".to_owned(), host_ports.iter().map(mapping).collect());
    }
    if told.bandwidth != Bandwidth::default() {
        // In bits; as large a burst as the kernel can count.
        let mut limits = Map::new();
        for (name, bytes) in [("ingress", told.bandwidth.to_pod), ("egress", told.bandwidth.from_pod)] {
            if let Some(bytes) = bytes {
                limits.insert(format!("{name}Rate"), bytes.saturating_mul(8).into());
                limits.insert(format!("{name}Burst"), u32::MAX.into());
            }
        }
        made.insert("bandwidth".to_owned(), limits.into());
    }
    if !told.dns_servers.is_empty() {
        let dns = json!({"servers": told.dns_servers, "searches": told.dns_searches, "options": told.dns_options});
        made.insert("dns".to_owned(), dns);
    }
    if !told.cgroup.is_empty() {
        made.insert("cgroupPath".to_owned(), told.cgroup.clone().into());
    }
    if !told.annotations.is_empty() {
        made.insert("io.kubernetes.cri.pod-annotations".to_owned(), json!(told.annotations));
    }
    made
}

/// Whether a container may have this id.
pub(crate) fn is_id(id: &str) -> bool {
    list::is_name(id)
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
