//! Device plugins (v1beta1): which devices there are, who has which, and what a container needs for its own.
//!
//! ```text
//!  plugin ─▶ Register (kubelet.sock, or plugins_registry) ─▶ ListAndWatch ─▶ the node's capacity
//!  pod comes ─▶ devices chosen (or the pod rejected) ─▶ container starts ─▶ Allocate ─▶ devices, mounts, variables
//! ```
//!
//! What was answered to `Allocate` is kept beside the pod: a container starts again also while its plugin is away.

pub mod assign;
pub mod plugin;
pub mod pod_resources;
pub mod proto;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use kobune_runtime::{ContainerConfig, Device, Mount};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::cdi;
use crate::ledger::Rejection;
use crate::placement::CpuSet;
use crate::pod;
use assign::{Assigning, ByResource, Places};
use kobune_grpc::client::{Client, QUESTION, WORK, words};
use proto::{AllocateRequest, AllocateResponse, ContainerNeeds, DeviceList, HEALTHY, Ids, PluginDevice, PluginOptions};

/// The record beside a pod.
const RECORD: &str = "devices.json";

/// What a plugin says of a device.
#[derive(Clone, Debug, Default, PartialEq)]
struct Known {
    /// It can be used.
    healthy: bool,
    /// The memory nodes that it is close to.
    nodes: CpuSet,
}

struct Plugin {
    /// How to reach it, while it is there.
    client: Option<Client>,
    options: PluginOptions,
    /// Its devices.
    devices: BTreeMap<String, Known>,
    /// Counts registrations: what an earlier one tells no longer counts.
    turn: u64,
}

/// Devices of one resource that a container has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// Their names.
    pub ids: BTreeSet<String>,
    /// What the plugin said a container needs for them, once it was asked.
    needs: Option<Needs>,
}

/// What a container needs for its devices.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Needs {
    env: BTreeMap<String, String>,
    /// Path in the container, path on the host, read-only.
    mounts: Vec<(PathBuf, PathBuf, bool)>,
    /// Path in the container, path on the host, permissions.
    devices: Vec<(PathBuf, PathBuf, String)>,
    annotations: BTreeMap<String, String>,
    cdi: Vec<String>,
}

/// How devices are (`Healthy`, `Unhealthy`, `Unknown`), by container, resource and name.
pub type Health = BTreeMap<String, BTreeMap<String, BTreeMap<String, &'static str>>>;

/// What the containers of a pod have, by container and resource.
pub type Grants = BTreeMap<String, BTreeMap<String, Grant>>;

#[derive(Default)]
struct State {
    plugins: BTreeMap<String, Plugin>,
    pods: BTreeMap<String, Grants>,
}

/// All devices of the node.
#[derive(Default)]
pub struct Devices {
    state: Mutex<State>,
    changed: Notify,
    /// Names of resources that once had a plugin: a pod that wants one does not start without it.
    record: PathBuf,
}

impl From<ContainerNeeds> for Needs {
    fn from(needs: ContainerNeeds) -> Needs {
        Needs {
            env: needs.envs.into_iter().collect(),
            mounts: needs
                .mounts
                .into_iter()
                .map(|mount| (mount.container_path.into(), mount.host_path.into(), mount.read_only))
                .collect(),
            devices: needs
                .devices
                .into_iter()
                .map(|device| (device.container_path.into(), device.host_path.into(), device.permissions))
                .collect(),
            annotations: needs.annotations.into_iter().collect(),
            cdi: needs.cdi_devices.into_iter().map(|device| device.name).collect(),
        }
    }
}

impl State {
    /// What nobody has and can be used.
    fn free(&self, but: &str) -> ByResource {
        let mut free: ByResource = BTreeMap::new();
        for (resource, plugin) in &self.plugins {
            let healthy = plugin.devices.iter().filter(|(_, known)| known.healthy).map(|(id, _)| id.clone());
            free.insert(resource.clone(), healthy.collect());
        }
        for grants in self.pods.iter().filter(|(uid, _)| *uid != but).flat_map(|(_, grants)| grants.values()) {
            for (resource, grant) in grants {
                if let Some(free) = free.get_mut(resource) {
                    free.retain(|id| !grant.ids.contains(id));
                }
            }
        }
        free
    }
}

impl State {
    /// Where the devices are.
    fn places(&self) -> Places {
        let places =
            |plugin: &Plugin| plugin.devices.iter().map(|(id, known)| (id.clone(), known.nodes.clone())).collect();
        self.plugins.iter().map(|(resource, plugin)| (resource.clone(), places(plugin))).collect()
    }
}

impl Devices {
    /// Nothing is known yet but which resources plugins had before.
    pub fn open(record: PathBuf) -> Devices {
        let names: Vec<String> = match std::fs::read(&record).map(|text| serde_json::from_slice(&text)) {
            Ok(Ok(names)) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Ok(Err(_)) | Err(_) => {
                tracing::warn!(file = %record.display(), "which device plugins there were could not be read");
                Vec::new()
            }
        };
        let gone = |name| {
            let plugin = Plugin { client: None, options: PluginOptions::default(), devices: BTreeMap::new(), turn: 0 };
            (name, plugin)
        };
        let state = State { plugins: names.into_iter().map(gone).collect(), pods: BTreeMap::new() };
        Devices { state: Mutex::new(state), changed: Notify::new(), record }
    }

    /// Returns when the number of devices has changed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// By resource, how many devices there are and how many of them can be used.
    pub fn amounts(&self) -> BTreeMap<String, (usize, usize)> {
        let state = self.state.lock();
        let count =
            |plugin: &Plugin| (plugin.devices.len(), plugin.devices.values().filter(|known| known.healthy).count());
        state.plugins.iter().map(|(resource, plugin)| (resource.clone(), count(plugin))).collect()
    }

    /// What a pod's containers have.
    pub fn grants(&self, uid: &str) -> Grants {
        self.state.lock().pods.get(uid).cloned().unwrap_or_default()
    }

    /// Where all devices are, by resource and name.
    pub fn places(&self) -> Places {
        self.state.lock().places()
    }

    /// The pods that have devices of a resource.
    pub fn holders(&self, resource: &str) -> Vec<String> {
        let state = self.state.lock();
        let has = |grants: &Grants| grants.values().any(|own| own.contains_key(resource));
        state.pods.iter().filter(|(_, grants)| has(grants)).map(|(uid, _)| uid.clone()).collect()
    }

    /// How the devices of a pod's containers are.
    pub fn health(&self, uid: &str) -> Health {
        let state = self.state.lock();
        let word =
            |resource: &str, id: &String| match state.plugins.get(resource).and_then(|plugin| plugin.devices.get(id)) {
                Some(known) if known.healthy => "Healthy",
                Some(_) => "Unhealthy",
                None => "Unknown",
            };
        let of = |own: &BTreeMap<String, Grant>| {
            let each = |(resource, grant): (&String, &Grant)| {
                (resource.clone(), grant.ids.iter().map(|id| (id.clone(), word(resource, id))).collect())
            };
            own.iter().map(each).collect()
        };
        let grants = state.pods.get(uid).into_iter().flatten();
        grants.map(|(container, own)| (container.clone(), of(own))).collect()
    }

    /// A plugin has registered; the number of this registration.
    fn register(&self, resource: &str, client: Client, options: PluginOptions) -> u64 {
        let mut state = self.state.lock();
        let is_new = !state.plugins.contains_key(resource);
        let plugin = state.plugins.entry(resource.to_owned()).or_insert(Plugin {
            client: None,
            options,
            devices: BTreeMap::new(),
            turn: 0,
        });
        (plugin.client, plugin.options) = (Some(client), options);
        plugin.turn += 1;
        let turn = plugin.turn;
        let names: Vec<&String> = state.plugins.keys().collect();
        if is_new && let Err(error) = keep(&self.record, &names) {
            tracing::warn!(error = &error as &dyn std::error::Error, "which device plugins there are was not kept");
        }
        turn
    }

    /// A plugin tells of its devices; whether it is still the one that counts.
    fn tell(&self, resource: &str, turn: u64, list: DeviceList) -> bool {
        let mut state = self.state.lock();
        let Some(plugin) = state.plugins.get_mut(resource).filter(|plugin| plugin.turn == turn) else { return false };
        let known = |device: PluginDevice| {
            let nodes = device.topology.into_iter().flat_map(|place| place.nodes);
            let nodes = nodes.filter_map(|node| u32::try_from(node.id).ok()).collect();
            (device.id, Known { healthy: device.health == HEALTHY, nodes })
        };
        let devices = list.devices.into_iter().map(known).collect();
        if plugin.devices != devices {
            plugin.devices = devices;
            self.changed.notify_one();
        }
        true
    }

    /// A plugin has gone: its devices are there, but can't be used. `for_good`: they are not there any more either.
    fn lose(&self, resource: &str, turn: u64, for_good: bool) {
        let mut state = self.state.lock();
        let Some(plugin) = state.plugins.get_mut(resource).filter(|plugin| plugin.turn == turn) else { return };
        plugin.client = None;
        if for_good {
            plugin.devices.clear();
        } else {
            plugin.devices.values_mut().for_each(|known| known.healthy = false);
        }
        self.changed.notify_one();
    }

    /// Has `place` choose the devices of a pod's containers; those that they have they keep.
    pub fn enter(
        &self,
        owner: &Pod,
        pod_dir: &Path,
        place: impl FnOnce(&mut Assigning) -> Result<(), Rejection>,
    ) -> Result<(), Rejection> {
        let members = pod::members(pod::spec(owner));
        let mut state = self.state.lock();
        let known = |name: &str| state.plugins.contains_key(name);
        if !members.iter().any(|member| !assign::wanted(member, known).is_empty()) {
            return place(&mut Assigning::new(ByResource::new(), BTreeMap::new(), Places::new()));
        }
        let uid = pod::uid(owner);
        let had = read(pod_dir).unwrap_or_else(|error| {
            tracing::warn!(
                pod = pod::full_name(owner),
                error = &error as &dyn std::error::Error,
                "which devices a pod has could not be read"
            );
            Grants::new()
        });
        let plain = |own: &BTreeMap<String, Grant>| -> ByResource {
            own.iter().map(|(resource, grant)| (resource.clone(), grant.ids.clone())).collect()
        };
        let before = had.iter().map(|(name, own)| (name.clone(), plain(own))).collect();
        let mut assigning = Assigning::new(state.free(uid), before, state.places());
        place(&mut assigning)?;
        let given = assigning.given();
        let with_needs = |name: &str, resource: &String, ids: BTreeSet<String>| {
            let before = had.get(name).and_then(|own| own.get(resource)).filter(|grant| grant.ids == ids).cloned();
            before.unwrap_or(Grant { ids, needs: None })
        };
        let grants: Grants = given
            .into_iter()
            .map(|(name, own)| {
                let own = own.into_iter().map(|(resource, ids)| {
                    let grant = with_needs(&name, &resource, ids);
                    (resource, grant)
                });
                let own = own.collect();
                (name, own)
            })
            .collect();
        state.pods.insert(uid.to_owned(), grants);
        Ok(())
    }

    /// A pod has its devices no longer.
    pub fn leave(&self, uid: &str) {
        self.state.lock().pods.remove(uid);
    }

    /// Gives a container what it needs for its devices. Asks the plugin the first time, and before each start if it wants that.
    pub async fn give(
        &self,
        owner: &Pod,
        pod_dir: &Path,
        cdi_dirs: &[PathBuf],
        container: &str,
        config: &mut ContainerConfig,
    ) -> Result<(), String> {
        let uid = pod::uid(owner);
        let own = self.grants(uid).remove(container).unwrap_or_default();
        for (resource, grant) in own {
            let (client, options) = {
                let state = self.state.lock();
                let plugin = state.plugins.get(&resource);
                (
                    plugin.and_then(|plugin| plugin.client.clone()),
                    plugin.map(|plugin| plugin.options).unwrap_or_default(),
                )
            };
            let ids = Ids { ids: grant.ids.iter().cloned().collect() };
            let needs = match (grant.needs, &client) {
                (Some(needs), _) => needs,
                (None, None) => return Err(format!("the device plugin of {resource} is not there")),
                (None, Some(client)) => {
                    let request = AllocateRequest { containers: vec![ids.clone()] };
                    let answer: AllocateResponse =
                        client
                            .call("/v1beta1.DevicePlugin/Allocate", request, WORK)
                            .await
                            .map_err(|status| format!("Allocate failed due to {}", words(&status)))?;
                    let needs = Needs::from(answer.containers.into_iter().next().unwrap_or_default());
                    self.remember(uid, pod_dir, container, &resource, &needs).await?;
                    needs
                }
            };
            if options.pre_start_required {
                let client = client.ok_or_else(|| format!("the device plugin of {resource} is not there"))?;
                let ready: Result<kobune_grpc::csi::Nothing, _> =
                    client.call("/v1beta1.DevicePlugin/PreStartContainer", ids, QUESTION).await;
                ready.map_err(|status| format!("PreStartContainer of {resource} failed: {}", words(&status)))?;
            }
            apply(needs, cdi_dirs, config)?;
        }
        Ok(())
    }

    async fn remember(
        &self,
        uid: &str,
        pod_dir: &Path,
        container: &str,
        resource: &str,
        needs: &Needs,
    ) -> Result<(), String> {
        let grants = {
            let mut state = self.state.lock();
            let Some(grants) = state.pods.get_mut(uid) else { return Ok(()) };
            if let Some(grant) = grants.get_mut(container).and_then(|own| own.get_mut(resource)) {
                grant.needs = Some(needs.clone());
            }
            grants.clone()
        };
        let path = pod_dir.join(RECORD);
        let kept = tokio::task::spawn_blocking(move || keep(&path, &grants)).await;
        let kept = kept.map_err(|error| error.to_string())?;
        kept.map_err(|error| format!("which devices the pod has can't be kept: {error}"))
    }
}

/// Puts what a container needs into its configuration; what its author wrote wins.
fn apply(needs: Needs, cdi_dirs: &[PathBuf], config: &mut ContainerConfig) -> Result<(), String> {
    config.env.splice(0..0, needs.env);
    config.mounts.extend(needs.mounts.into_iter().map(|(container_path, host_path, read_only)| Mount {
        host_path,
        container_path,
        read_only,
        ..Mount::default()
    }));
    config.devices.extend(needs.devices.into_iter().map(|(container_path, host_path, permissions)| Device {
        host_path,
        container_path,
        permissions,
    }));
    config.annotations.extend(needs.annotations);
    cdi::inject(cdi_dirs, &needs.cdi, config).map_err(|error| error.to_string())
}

/// Temporary name, fsync, rename.
pub fn keep(path: &Path, record: &impl Serialize) -> io::Result<()> {
    let next = path.with_extension("new");
    let mut file = std::fs::File::create(&next)?;
    io::Write::write_all(&mut file, &serde_json::to_vec(record)?)?;
    file.sync_all()?;
    std::fs::rename(next, path)
}

fn read(pod_dir: &Path) -> io::Result<Grants> {
    match std::fs::read(pod_dir.join(RECORD)) {
        Ok(text) => Ok(serde_json::from_slice(&text)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Grants::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::proto::PluginDevice;
    use super::*;

    fn owner(uid: &str, count: usize) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"uid": uid}, "spec": {"containers": [
            {"name": "c", "resources": {"limits": {"example.com/dev": count.to_string()}}}]}}))
        .expect("a pod")
    }

    fn list(healthy: &[bool]) -> DeviceList {
        let device = |(index, healthy): (usize, &bool)| PluginDevice {
            id: format!("d{index}"),
            health: if *healthy { HEALTHY } else { "Unhealthy" }.to_owned(),
            topology: None,
        };
        DeviceList { devices: healthy.iter().enumerate().map(device).collect() }
    }

    fn enter(devices: &Devices, owner: &Pod, folder: &Path) -> Result<(), Rejection> {
        devices.enter(owner, folder, |assigning| {
            for member in pod::members(pod::spec(owner)) {
                assigning.give(&member, None)?;
            }
            Ok(())
        })
    }

    #[tokio::test]
    async fn devices_come_and_go_with_plugins_and_pods() {
        let folder = tempfile::tempdir().expect("a folder");
        let record = folder.path().join("plugins.json");
        let devices = Devices::open(record.clone());
        let name = "example.com/dev";
        // What no plugin ever had is somebody else's business.
        enter(&devices, &owner("early", 1), folder.path()).expect("let in");
        let turn = devices.register(name, Client::new("/none".into()), PluginOptions::default());
        assert!(devices.tell(name, turn, list(&[true, true, false])));
        assert_eq!(devices.amounts()[name], (3, 2));
        enter(&devices, &owner("a", 2), folder.path()).expect("there are two");
        let refused = enter(&devices, &owner("b", 1), folder.path()).expect_err("none is free");
        assert_eq!(refused.reason, "UnexpectedAdmissionError");
        devices.leave("a");
        enter(&devices, &owner("b", 1), folder.path()).expect("free again");
        let next = devices.register(name, Client::new("/none".into()), PluginOptions::default());
        assert!(!devices.tell(name, turn, list(&[])), "the earlier registration does not count");
        devices.lose(name, turn, true);
        assert_eq!(devices.amounts()[name], (3, 2));
        devices.lose(name, next, false);
        assert_eq!(devices.amounts()[name], (3, 0));
        devices.lose(name, next, true);
        assert_eq!(devices.amounts()[name], (0, 0), "the node says that there are none");
        let later = Devices::open(record);
        enter(&later, &owner("c", 1), folder.path()).expect_err("its plugin is not there yet");
    }
}
