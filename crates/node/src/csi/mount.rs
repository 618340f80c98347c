//! Mounting and unmounting volumes of CSI drivers for pods.
//!
//! Upstream: <https://github.com/kubernetes/kubernetes/blob/master/pkg/volume/csi/csi_mounter.go> and `csi_attacher.go`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{CSIPersistentVolumeSource, CSIVolumeSource, PersistentVolumeSpec, Pod, Secret};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use kube::Api;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::drivers::Driver;
use crate::context::Context;
use crate::errors::chain;
use crate::pod;
use crate::volumes::claims::{self, Found, Source};
use kobune_grpc::client::{WORK, words};
use kobune_grpc::csi::node::{
    NodePublishVolumeRequest, NodeStageVolumeRequest, NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest,
};
use kobune_grpc::csi::{AccessMode, MountVolume, Nothing, VolumeCapability};

/// A Secret that a driver gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretName {
    namespace: String,
    name: String,
}

/// A volume of a CSI driver, as pods or persistent volumes describe it. Secrets are named, not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CsiVolume {
    /// The driver's name.
    pub driver: String,
    /// How the driver calls the volume.
    pub handle: String,
    /// Whether it lives and dies with its pod.
    pub ephemeral: bool,
    fs_type: String,
    attributes: BTreeMap<String, String>,
    options: Vec<String>,
    mode: i32,
    single_writer: bool,
    /// Whether it is a block device.
    #[serde(default)]
    block: bool,
    stage_secret: Option<SecretName>,
    publish_secret: Option<SecretName>,
}

fn hash(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// CSI's number for how a volume is used: the widest of the claim's modes.
fn access_mode(modes: &[String]) -> i32 {
    let has = |mode: &str| modes.iter().any(|known| known == mode);
    if has("ReadWriteMany") {
        5
    } else if has("ReadOnlyMany") && (has("ReadWriteOnce") || has("ReadWriteOncePod")) {
        4
    } else if has("ReadOnlyMany") {
        3
    } else {
        1
    }
}

impl CsiVolume {
    /// From a persistent volume.
    pub fn persistent(source: &CSIPersistentVolumeSource, spec: &PersistentVolumeSpec) -> CsiVolume {
        let modes = spec.access_modes.as_deref().unwrap_or_default();
        let secret = |reference: &Option<k8s_openapi::api::core::v1::SecretReference>| {
            let reference = reference.as_ref()?;
            Some(SecretName { namespace: reference.namespace.clone()?, name: reference.name.clone()? })
        };
        CsiVolume {
            driver: source.driver.clone(),
            handle: source.volume_handle.clone(),
            ephemeral: false,
            fs_type: source.fs_type.clone().unwrap_or_default(),
            attributes: source.volume_attributes.clone().unwrap_or_default(),
            options: spec.mount_options.clone().unwrap_or_default(),
            mode: access_mode(modes),
            single_writer: modes.iter().all(|mode| mode.starts_with("ReadWriteOnce")),
            block: spec.volume_mode.as_deref() == Some("Block"),
            stage_secret: secret(&source.node_stage_secret_ref),
            publish_secret: secret(&source.node_publish_secret_ref),
        }
    }

    /// From a volume that a pod describes itself.
    pub fn inline(source: &CSIVolumeSource, owner: &Pod, volume: &str) -> CsiVolume {
        CsiVolume {
            driver: source.driver.clone(),
            handle: format!("csi-{}", hash(&[pod::uid(owner), volume])),
            ephemeral: true,
            fs_type: source.fs_type.clone().unwrap_or_default(),
            attributes: source.volume_attributes.clone().unwrap_or_default(),
            options: Vec::new(),
            mode: 1,
            single_writer: true,
            block: false,
            stage_secret: None,
            publish_secret: source.node_publish_secret_ref.as_ref().map(|reference| SecretName {
                namespace: pod::namespace(owner).to_owned(),
                name: reference.name.clone(),
            }),
        }
    }

    /// Where it is made ready on the node.
    pub fn staging(&self, context: &Context) -> PathBuf {
        let folder = context.config.node_dir().join("plugins/kubernetes.io/csi").join(&self.driver);
        folder.join(hash(&[&self.handle])).join("globalmount")
    }

    fn capability(&self, group: Option<u32>) -> VolumeCapability {
        let mount = MountVolume {
            fs_type: self.fs_type.clone(),
            mount_flags: self.options.clone(),
            volume_mount_group: group.map(|group| group.to_string()).unwrap_or_default(),
        };
        VolumeCapability {
            block: self.block.then_some(Nothing {}),
            mount: (!self.block).then_some(mount),
            access_mode: Some(AccessMode { mode: self.mode }),
        }
    }

    /// The name of the object that says that the volume is attached to a node.
    fn attachment(&self, node: &str) -> String {
        format!("csi-{}", hash(&[&self.handle, &self.driver, node]))
    }
}

/// Where a pod's containers find the volume. `name` is that of the persistent volume, or of the pod's volume.
pub fn target(pod_dir: &Path, name: &str, block: bool) -> PathBuf {
    pod_dir.join("volumes/kubernetes.io~csi").join(name).join(if block { "device" } else { "mount" })
}

fn folder(path: &Path) -> Result<(), String> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o750).create(path);
    made.map_err(|error| format!("failed to make {}: {error}", path.display()))
}

async fn secrets(context: &Context, name: Option<&SecretName>) -> Result<HashMap<String, String>, String> {
    let Some(SecretName { namespace, name }) = name else { return Ok(HashMap::new()) };
    let api = Api::<Secret>::namespaced(context.config.client.clone(), namespace);
    let secret = api
        .get(name)
        .await
        .map_err(|error| format!("fetching NodePublishSecretRef {namespace}/{name} failed: {}", chain(&error)))?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(secret.data.into_iter().flatten().map(|(key, value)| (key, text(value.0))).collect())
}

/// What attaching the volume said; nothing when the driver needs no attaching.
async fn attached(context: &Context, volume: &CsiVolume) -> Result<HashMap<String, String>, String> {
    let name = volume.attachment(&context.config.name);
    let api = Api::<VolumeAttachment>::all(context.config.client.clone());
    let found = api.get_opt(&name).await.map_err(|error| chain(&error))?;
    let found = found.ok_or_else(|| format!("volumeattachments.storage.k8s.io \"{name}\" not found"))?;
    match found.status.filter(|status| status.attached) {
        Some(status) => Ok(status.attachment_metadata.unwrap_or_default().into_iter().collect()),
        None => Err(format!("volume attachment is being waited for: {name} is not attached")),
    }
}

fn pod_attributes(owner: &Pod, volume: &CsiVolume) -> [(String, String); 5] {
    let account = pod::spec(owner).service_account_name.clone().unwrap_or_default();
    [
        ("pod.name", pod::name(owner).to_owned()),
        ("pod.namespace", pod::namespace(owner).to_owned()),
        ("pod.uid", pod::uid(owner).to_owned()),
        ("serviceAccount.name", account),
        ("ephemeral", volume.ephemeral.to_string()),
    ]
    .map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), value))
}

fn missing(name: &str) -> String {
    format!("driver name {name} not found in the list of registered CSI drivers")
}

/// Mounts the volume for a pod, and says which group its files are to be given to. What is to be undone was kept before.
pub async fn set_up(context: &Context, owner: &Pod, volume: &CsiVolume, found: &Found) -> Result<Option<u32>, String> {
    let driver = context.drivers.get(&volume.driver).ok_or_else(|| missing(&volume.driver))?;
    let about = Api::<CSIDriver>::all(context.config.client.clone()).get_opt(&volume.driver).await;
    let about = about.map_err(|error| chain(&error))?.map(|about| about.spec);
    if volume.ephemeral {
        let modes = about.as_ref().and_then(|about| about.volume_lifecycle_modes.as_deref()).unwrap_or_default();
        if !modes.iter().any(|mode| mode == "Ephemeral") {
            let name = &volume.driver;
            return Err(match about {
                Some(_) => {
                    format!("volume mode \"Ephemeral\" not supported by driver {name} (only supports {modes:?})")
                }
                None => format!("volume mode \"Ephemeral\" not supported by driver {name} (no CSIDriver object)"),
            });
        }
    }
    let attaches = !volume.ephemeral && about.as_ref().and_then(|about| about.attach_required) != Some(false);
    let publish_context = if attaches { attached(context, volume).await? } else { HashMap::new() };
    let security = pod::spec(owner).security_context.as_ref();
    let wanted = security.and_then(|security| security.fs_group).and_then(|group| u32::try_from(group).ok());
    let policy = about.as_ref().and_then(|about| about.fs_group_policy.as_deref()).unwrap_or("ReadWriteOnceWithFSType");
    let group = wanted.filter(|_| match policy {
        _ if volume.block => false,
        "None" => false,
        "File" => true,
        _ => !volume.fs_type.is_empty() && volume.single_writer,
    });
    let by_driver = group.filter(|_| driver.gives_to_group);
    let by_node = group.filter(|_| by_driver.is_none() && !found.read_only);
    let again = about.as_ref().and_then(|about| about.requires_republish).unwrap_or(false);
    let (path, known) = (found.path.clone(), tokio::task::spawn_blocking(mount_points).await);
    let known = known.map_err(|error| error.to_string())?.map_err(|error| format!("failed to list mounts: {error}"))?;
    if known.contains(&path) && !again {
        return Ok(by_node);
    }
    let staging = if driver.stages && !volume.ephemeral {
        let staging = volume.staging(context);
        folder(&staging)?;
        let request = NodeStageVolumeRequest {
            volume_id: volume.handle.clone(),
            publish_context: publish_context.clone(),
            staging_target_path: staging.to_string_lossy().into_owned(),
            volume_capability: Some(volume.capability(by_driver)),
            secrets: secrets(context, volume.stage_secret.as_ref()).await?,
            volume_context: volume.attributes.clone().into_iter().collect(),
        };
        work(&driver, "/csi.v1.Node/NodeStageVolume", "MountVolume.MountDevice", request).await?;
        staging.to_string_lossy().into_owned()
    } else {
        String::new()
    };
    let mut volume_context: HashMap<String, String> = volume.attributes.clone().into_iter().collect();
    if about.as_ref().and_then(|about| about.pod_info_on_mount).unwrap_or(false) {
        volume_context.extend(pod_attributes(owner, volume));
    }
    if let Some(parent) = found.path.parent() {
        folder(parent)?;
    }
    let request = NodePublishVolumeRequest {
        volume_id: volume.handle.clone(),
        publish_context,
        staging_target_path: staging,
        target_path: found.path.to_string_lossy().into_owned(),
        volume_capability: Some(volume.capability(by_driver)),
        readonly: found.read_only,
        secrets: secrets(context, volume.publish_secret.as_ref()).await?,
        volume_context,
    };
    work(&driver, "/csi.v1.Node/NodePublishVolume", "MountVolume.SetUp", request).await?;
    let there = fs::metadata(&found.path)
        .is_ok_and(|about| if volume.block { about.file_type().is_block_device() } else { about.is_dir() });
    if !there {
        let what = if volume.block { "a device" } else { "a folder" };
        return Err(format!("the driver says that it has mounted {}, which is not {what}", found.path.display()));
    }
    Ok(by_node)
}

/// Everything that is mounted. Blocks.
fn mount_points() -> io::Result<HashSet<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table.lines().filter_map(|line| line.split(' ').nth(4).map(PathBuf::from)).collect())
}

async fn work<Q>(driver: &Driver, method: &'static str, what: &str, request: Q) -> Result<(), String>
where
    Q: prost::Message + Send + Sync + 'static,
{
    let done: Result<Nothing, _> = driver.client.call(method, request, WORK).await;
    done.map(drop).map_err(|status| format!("{what} failed: {}", words(&status)))
}

/// Unmounts the volumes of a pod whose containers are gone. Idempotent; what can't be undone now is tried again by the caller.
pub async fn tear_down(context: &Context, pod_dir: &Path) -> Result<(), String> {
    let folder = pod_dir.to_owned();
    let found = tokio::task::spawn_blocking(move || claims::all(&folder)).await.map_err(|error| error.to_string())?;
    for found in found {
        let Source::Csi(volume) = &found.source else { continue };
        let driver = context.drivers.get(&volume.driver).ok_or_else(|| missing(&volume.driver))?;
        let target_path = found.path.to_string_lossy().into_owned();
        let request = NodeUnpublishVolumeRequest { volume_id: volume.handle.clone(), target_path };
        work(&driver, "/csi.v1.Node/NodeUnpublishVolume", "UnmountVolume.TearDown", request).await?;
        remove_empty(&found.path)?;
        if !driver.stages || volume.ephemeral {
            continue;
        }
        let (pods_dir, own) = (context.config.node_dir().join("pods"), pod_dir.to_owned());
        let same = volume.clone();
        let others = tokio::task::spawn_blocking(move || {
            claims::any_pod_has(&pods_dir, Some(&own), |other| match &other.source {
                Source::Csi(other) => other.driver == same.driver && other.handle == same.handle,
                _ => false,
            })
        });
        if others.await.map_err(|error| error.to_string())? {
            continue;
        }
        let staging = volume.staging(context);
        let staging_target_path = staging.to_string_lossy().into_owned();
        let request = NodeUnstageVolumeRequest { volume_id: volume.handle.clone(), staging_target_path };
        work(&driver, "/csi.v1.Node/NodeUnstageVolume", "UnmountDevice", request).await?;
        remove_empty(&staging)?;
    }
    Ok(())
}

/// Removes a folder, or a device's file, that nothing is mounted on any more. It has to be empty: what a driver left mounted is
/// never deleted.
fn remove_empty(path: &Path) -> Result<(), String> {
    let is_empty_file = fs::symlink_metadata(path).is_ok_and(|about| about.is_file() && about.len() == 0);
    match if is_empty_file { fs::remove_file(path) } else { fs::remove_dir(path) } {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("the driver has left something at {}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn access_modes() {
        let check = |modes: &[&str], expected: i32| {
            let modes: Vec<String> = modes.iter().map(ToString::to_string).collect();
            assert_eq!(access_mode(&modes), expected, "{modes:?}");
        };
        check(&["ReadWriteOnce"], 1);
        check(&["ReadWriteOncePod"], 1);
        check(&["ReadOnlyMany"], 3);
        check(&["ReadWriteOnce", "ReadOnlyMany"], 4);
        check(&["ReadWriteOnce", "ReadWriteMany"], 5);
    }

    #[test]
    fn volumes_are_read_and_named_as_upstream_does() {
        let spec: PersistentVolumeSpec = serde_json::from_value(json!({
            "accessModes": ["ReadWriteOnce"], "mountOptions": ["noatime"],
            "csi": {"driver": "d", "volumeHandle": "h", "fsType": "ext4", "nodeStageSecretRef": {"name": "s", "namespace": "ns"}},
        }))
        .expect("a spec");
        let volume = CsiVolume::persistent(spec.csi.as_ref().expect("a source"), &spec);
        assert_eq!((volume.mode, volume.single_writer, volume.ephemeral), (1, true, false));
        assert_eq!(volume.stage_secret, Some(SecretName { namespace: "ns".to_owned(), name: "s".to_owned() }));
        assert_eq!(volume.capability(Some(7)).mount.expect("a file system").volume_mount_group, "7");
        let device = PersistentVolumeSpec { volume_mode: Some("Block".to_owned()), ..spec.clone() };
        let device = CsiVolume::persistent(spec.csi.as_ref().expect("a source"), &device).capability(Some(7));
        assert!(device.block.is_some() && device.mount.is_none());
        assert_eq!(volume.attachment("n"), format!("csi-{}", hash(&["hdn"])));
        let owner: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"containers": []}}),
        )
        .expect("a pod");
        let source =
            serde_json::from_value(json!({"driver": "d", "nodePublishSecretRef": {"name": "s"}})).expect("a source");
        let inline = CsiVolume::inline(&source, &owner, "v");
        assert_eq!((inline.handle.as_str(), inline.ephemeral), (format!("csi-{}", hash(&["uv"])).as_str(), true));
        assert!(
            pod_attributes(&owner, &inline).contains(&("csi.storage.k8s.io/ephemeral".to_owned(), "true".to_owned()))
        );
    }
}
