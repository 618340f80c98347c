//! Which drivers there are: sockets that appear in the registry are asked, those that vanish are forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::objects;
use super::proto::{PluginInfo, RegistrationStatus};
use crate::context::Context;
use crate::devices;
use crate::dra;
use crate::folder_watch::FolderWatch;
use kobune_grpc::Code;
use kobune_grpc::client::{Client, QUESTION, words};
use kobune_grpc::csi::identity::{GetPluginCapabilitiesResponse, GetPluginInfoResponse};
use kobune_grpc::csi::node::NodeGetInfoResponse;
use kobune_grpc::csi::{CONTROLLER_SERVICE, Capabilities, Nothing, node_can};

/// How often a plugin that does not answer is asked again while its socket is there, first and last.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// As many bytes a node's id may have in a CSINode object.
const LONGEST_NODE_ID: usize = 192;

/// As many things a controller may be able to do.
const MOST_CAPABILITIES: usize = 64;

/// A registered driver.
#[derive(Clone)]
pub struct Driver {
    /// Its name.
    pub name: String,
    /// Its socket.
    pub client: Client,
    /// How it calls this node.
    pub node_id: String,
    /// Where it says this node is.
    pub topology: BTreeMap<String, String>,
    /// How many volumes it takes here; 0 for no limit.
    pub most: i64,
    /// Whether volumes are staged before they are published.
    pub stages: bool,
    /// Whether it gives files to the pod's group by itself.
    pub gives_to_group: bool,
    /// What its controller can do, by CSI's numbers; `None` where that is its sidecars' affair.
    pub controller: Option<Vec<i32>>,
}

/// The drivers of this node.
#[derive(Default)]
pub struct Drivers {
    /// By the socket that registered them.
    known: Mutex<BTreeMap<PathBuf, Arc<Driver>>>,
}

impl Drivers {
    /// A driver by its name.
    pub fn get(&self, name: &str) -> Option<Arc<Driver>> {
        self.known.lock().values().find(|driver| driver.name == name).cloned()
    }

    /// All drivers.
    pub fn all(&self) -> Vec<Arc<Driver>> {
        self.known.lock().values().cloned().collect()
    }
}

fn sockets(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_socket = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_socket());
    entries.filter(is_socket).map(|entry| entry.path()).collect()
}

/// Follows the registry until the token is cancelled.
pub async fn run(context: Arc<Context>, token: CancellationToken) {
    let folder = context.config.node_dir().join("plugins_registry");
    let watch = match FolderWatch::new(&folder) {
        Ok(watch) => watch,
        Err(error) => {
            tracing::error!(
                folder = %folder.display(),
                error = &error as &dyn std::error::Error,
                "storage drivers can't register: the folder can't be watched"
            );
            token.cancelled().await;
            return;
        }
    };
    let mut asked: BTreeMap<PathBuf, CancellationToken> = BTreeMap::new();
    let mut questions = JoinSet::new();
    loop {
        let there = sockets(&folder);
        let gone: Vec<PathBuf> = asked.keys().filter(|path| !there.contains(*path)).cloned().collect();
        let mut fewer = false;
        for path in gone {
            if let Some(question) = asked.remove(&path) {
                question.cancel();
            }
            dra::drivers::gone(&context, &path, &token);
            if let Some(driver) = context.drivers.known.lock().remove(&path) {
                tracing::info!(driver = driver.name, "a storage driver has gone");
                fewer = true;
            }
        }
        if fewer {
            objects::write(&context).await;
        }
        for path in there {
            if !asked.contains_key(&path) {
                let question = token.child_token();
                asked.insert(path.clone(), question.clone());
                questions.spawn(introduce(Arc::clone(&context), path, question));
            }
        }
        // Dropping any of these loses nothing: the folder is looked at anew each time.
        tokio::select! {
            () = token.cancelled() => break,
            changed = watch.changed() => if let Err(error) = changed {
                tracing::error!(error = &error as &dyn std::error::Error, "storage drivers are not followed any longer");
                token.cancelled().await;
                break;
            },
            Some(ended) = questions.join_next(), if !questions.is_empty() => if let Err(error) = ended {
                tracing::error!(error = &error as &dyn std::error::Error, "the registration of a storage driver panicked");
            },
        }
    }
    while questions.join_next().await.is_some() {}
}

/// Asks a plugin who it is until it says so or its socket is gone.
async fn introduce(context: Arc<Context>, socket: PathBuf, token: CancellationToken) {
    let mut wait = ASK_AGAIN.0;
    loop {
        let asked = tokio::select! {
            () = token.cancelled() => return,
            asked = ask(&context, &socket, &token) => asked,
        };
        match asked {
            Ok(None) => return,
            Ok(Some(driver)) => {
                tracing::info!(driver = driver.name, node_id = driver.node_id, "a storage driver has registered");
                context.drivers.known.lock().insert(socket, Arc::new(driver));
                objects::write(&context).await;
                return;
            }
            Err(message) => {
                tracing::warn!(socket = %socket.display(), message, "a plugin could not be registered, trying again");
            }
        }
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(ASK_AGAIN.1);
    }
}

/// One try; `None` for plugins of other kinds.
async fn ask(context: &Arc<Context>, socket: &Path, token: &CancellationToken) -> Result<Option<Driver>, String> {
    let registrar = Client::new(socket.to_owned());
    let said: Result<PluginInfo, _> =
        registrar.call("/pluginregistration.Registration/GetInfo", Nothing {}, QUESTION).await;
    let info = match said {
        // A driver that has no registrar beside it: its own socket was put here.
        Err(status) if status.code() == Code::Unimplemented => return meet_alone(socket, registrar).await.map(Some),
        said => said.map_err(|status| words(&status))?,
    };
    let endpoint = if info.endpoint.is_empty() { socket.to_owned() } else { PathBuf::from(&info.endpoint) };
    let made = match info.kind.as_str() {
        "CSIPlugin" => meet(&endpoint, &info, endpoint == socket).await.map(Some),
        "DevicePlugin" => {
            let versions = &info.supported_versions;
            devices::plugin::meet(context, &info.name, &endpoint, versions, token).await.map(|()| None)
        }
        "DRAPlugin" => context.dra.drivers.add(socket, &info.name, &endpoint, &info.supported_versions).map(|()| None),
        _ => return Ok(None),
    };
    let status =
        RegistrationStatus { plugin_registered: made.is_ok(), error: made.as_ref().err().cloned().unwrap_or_default() };
    let told: Result<Nothing, _> =
        registrar.call("/pluginregistration.Registration/NotifyRegistrationStatus", status, QUESTION).await;
    told.map_err(|status| words(&status))?;
    made
}

/// Does what a registrar would: asks the driver itself for its name.
async fn meet_alone(socket: &Path, client: Client) -> Result<Driver, String> {
    let said: Result<GetPluginInfoResponse, _> =
        client.call("/csi.v1.Identity/GetPluginInfo", Nothing {}, QUESTION).await;
    let said = said.map_err(|status| format!("neither a registrar nor a driver: {}", words(&status)))?;
    let info = PluginInfo {
        kind: "CSIPlugin".to_owned(),
        name: said.name,
        endpoint: String::new(),
        supported_versions: vec!["1.0.0".to_owned()],
    };
    meet(socket, &info, true).await
}

/// What the controller of a driver can do that comes without sidecars; those would act on the same objects.
async fn controller_of(client: &Client) -> Result<Option<Vec<i32>>, String> {
    let able: Result<GetPluginCapabilitiesResponse, _> =
        client.call("/csi.v1.Identity/GetPluginCapabilities", Nothing {}, QUESTION).await;
    let able = match able {
        Err(status) if status.code() == Code::Unimplemented => return Ok(None),
        able => able.map_err(|status| format!("GetPluginCapabilities failed: {}", words(&status)))?,
    };
    let mut services = able.capabilities.iter().filter_map(|able| able.service.as_ref());
    if !services.any(|service| service.kind == CONTROLLER_SERVICE) {
        return Ok(None);
    }
    let able: Result<Capabilities, _> =
        client.call("/csi.v1.Controller/ControllerGetCapabilities", Nothing {}, QUESTION).await;
    let able = able.map_err(|status| format!("ControllerGetCapabilities failed: {}", words(&status)))?;
    let mut kinds: Vec<i32> = able.capabilities.iter().filter_map(|able| Some(able.rpc.as_ref()?.kind)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    // It becomes part of an object of the cluster; CSI has some twenty of them.
    kinds.truncate(MOST_CAPABILITIES);
    Ok(Some(kinds))
}

async fn meet(endpoint: &Path, info: &PluginInfo, alone: bool) -> Result<Driver, String> {
    check(info)?;
    let client = Client::new(endpoint.to_owned());
    let controller = if alone { controller_of(&client).await? } else { None };
    let node: Result<NodeGetInfoResponse, _> = client.call("/csi.v1.Node/NodeGetInfo", Nothing {}, QUESTION).await;
    let node = node.map_err(|status| format!("NodeGetInfo failed: {}", words(&status)))?;
    check_place(&node)?;
    let able: Result<Capabilities, _> = client.call("/csi.v1.Node/NodeGetCapabilities", Nothing {}, QUESTION).await;
    let able = able.map_err(|status| format!("NodeGetCapabilities failed: {}", words(&status)))?;
    Ok(Driver {
        name: info.name.clone(),
        client,
        node_id: node.node_id,
        topology: node.accessible_topology.map(|place| place.segments.into_iter().collect()).unwrap_or_default(),
        most: node.max_volumes_per_node.max(0),
        stages: able.can(node_can::STAGE_UNSTAGE_VOLUME),
        gives_to_group: able.can(node_can::VOLUME_MOUNT_GROUP),
        controller,
    })
}

/// What a driver says of the node becomes part of objects that all drivers share: one that the API server refuses would keep
/// the others out too.
fn check_place(node: &NodeGetInfoResponse) -> Result<(), String> {
    if node.node_id.is_empty() || node.node_id.len() > LONGEST_NODE_ID {
        return Err(format!("NodeGetInfo gave {:?}, which is not a node id", node.node_id));
    }
    let plain = |text: &str| text.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter));
    let ends = |text: &str| {
        let edge = |letter: Option<char>| letter.is_some_and(|letter| letter.is_ascii_alphanumeric());
        edge(text.chars().next()) && edge(text.chars().last())
    };
    let word = |text: &str| text.len() <= 63 && plain(text) && ends(text);
    let prefix = |text: &str| {
        text.len() <= 253 && text == text.to_ascii_lowercase() && !text.contains('_') && plain(text) && ends(text)
    };
    for (key, value) in node.accessible_topology.iter().flat_map(|place| &place.segments) {
        let (before, name) = key.split_once('/').unwrap_or(("", key));
        let good_key = word(name) && (before.is_empty() != key.contains('/')) && (before.is_empty() || prefix(before));
        if !good_key || !(value.is_empty() || word(value)) {
            return Err(format!("NodeGetInfo gave {key:?}: {value:?}, which is not a label"));
        }
    }
    Ok(())
}

/// What a plugin says of itself has to make sense: its name becomes part of paths and of API objects.
fn check(info: &PluginInfo) -> Result<(), String> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.');
    let ends = |letter: Option<char>| letter.is_some_and(|letter| letter.is_ascii_alphanumeric());
    let name = &info.name;
    if name.len() > 63 || !name.chars().all(plain) || !ends(name.chars().next()) || !ends(name.chars().last()) {
        return Err(format!("{name:?} is not a driver name"));
    }
    if name == crate::volumes::local::DRIVER {
        return Err(format!("the driver name {name} is kobune's own"));
    }
    let first = |version: &String| version.trim_start_matches('v').split('.').next() == Some("1");
    if !info.supported_versions.iter().any(first) {
        return Err(format!("none of the versions {:?} is supported", info.supported_versions));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let judge = |id: &str, key: &str, value: &str, expected: bool| {
            let segments = [(key.to_owned(), value.to_owned())].into();
            let node = NodeGetInfoResponse {
                node_id: id.to_owned(),
                max_volumes_per_node: 0,
                accessible_topology: Some(kobune_grpc::csi::Topology { segments }),
            };
            assert_eq!(check_place(&node).is_ok(), expected, "{id} {key}={value}");
        };
        judge("n", "zone", "a", true);
        judge("n", "topology.example.com/zone", "a-1", true);
        judge("n", "topology.example.com/zone", "", true);
        judge("", "zone", "a", false);
        judge(&"n".repeat(193), "zone", "a", false);
        judge("n", "", "a", false);
        judge("n", "/zone", "a", false);
        judge("n", "Example.com/zone", "a", false);
        judge("n", "a/b/c", "a", false);
        judge("n", "zone", "with space", false);
        judge("n", "zone", "-a", false);
    }

    #[test]
    fn introductions() {
        let judge = |name: &str, versions: &[&str], expected: bool| {
            let info = PluginInfo {
                kind: "CSIPlugin".to_owned(),
                name: name.to_owned(),
                endpoint: String::new(),
                supported_versions: versions.iter().map(ToString::to_string).collect(),
            };
            assert_eq!(check(&info).is_ok(), expected, "{name} {versions:?}");
        };
        judge("disk.example.com", &["1.0.0"], true);
        judge("disk.example.com", &["v1.5", "0.3"], true);
        judge("disk.example.com", &["0.3.0"], false);
        judge("disk.example.com", &[], false);
        judge("../../etc", &["1.0.0"], false);
        judge("", &["1.0.0"], false);
        judge("a/b", &["1.0.0"], false);
        judge("local.kobune.dev", &["1.0.0"], false);
    }
}
