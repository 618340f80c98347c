//! Volumes behind claims: from a pod's claim to the persistent volume to what containers mount.
//!
//! What was found is kept in `<pod>/claims/<volume>.json` until the pod's volumes are taken away, so that neither a start
//! without the API server nor the end of a pod has to ask again.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, Pod, Volume};
use kube::Api;
use serde::{Deserialize, Serialize};

use super::local::{self, LocalVolumes};
use super::{VolumeError, host_path, loops, ownership};
use crate::csi::mount::CsiVolume;
use crate::errors::chain;
use crate::pod;
use crate::quantity::Amount;

const FOLDER: &str = "claims";

/// Where the data of a persistent volume are on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A path of the node, for what it is.
    HostPath {
        /// The path.
        path: PathBuf,
        /// What it has to be, as in pods.
        kind: String,
    },
    /// A folder or a block device that somebody prepared.
    Local {
        /// The path.
        path: PathBuf,
    },
    /// A volume that this node makes itself.
    Own {
        /// Its name.
        name: String,
        /// The size it is to have at least.
        bytes: u64,
    },
    /// A volume of a CSI driver.
    Csi(CsiVolume),
}

/// A claim's volume on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The persistent volume's name.
    pub volume: String,
    /// Whether containers get a device instead of files.
    pub block: bool,
    /// Whether nobody may write.
    pub read_only: bool,
    /// Where the data are.
    pub source: Source,
    /// What containers mount: a folder, or the device.
    pub path: PathBuf,
    /// The group that the files have been given to.
    pub group: Option<u32>,
}

/// The claim that a volume of a pod stands for.
pub fn claim_name(owner: &Pod, volume: &Volume) -> Option<String> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", pod::name(owner), volume.name)),
        (None, None) => None,
    }
}

/// What a volume of a pod stands for, `None` for volumes of other kinds: asks the API server for a claim and its volume. The
/// texts of failures are upstream's.
pub async fn look_up(client: &kube::Client, owner: &Pod, volume: &Volume) -> Result<Option<Found>, String> {
    if let Some(source) = &volume.csi {
        return Ok(Some(Found {
            volume: volume.name.clone(),
            block: false,
            read_only: source.read_only.unwrap_or(false),
            source: Source::Csi(CsiVolume::inline(source, owner, &volume.name)),
            path: PathBuf::new(),
            group: None,
        }));
    }
    let Some(name) = claim_name(owner, volume) else { return Ok(None) };
    let namespace = pod::namespace(owner);
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
    let claim = claims.get_opt(&name).await.map_err(|error| chain(&error))?;
    let claim = claim.ok_or_else(|| format!("persistentvolumeclaim \"{name}\" not found"))?;
    let volume_name = check_claim(owner, volume, &claim)?;
    let volumes = Api::<PersistentVolume>::all(client.clone());
    let found = volumes.get_opt(&volume_name).await.map_err(|error| chain(&error))?;
    let found = found.ok_or_else(|| format!("persistentvolume \"{volume_name}\" not found"))?;
    let only_read = volume.persistent_volume_claim.as_ref().and_then(|source| source.read_only).unwrap_or(false);
    let node = pod::spec(owner).node_name.as_deref().unwrap_or_default();
    interpret(&claim, &found, only_read, node).map(Some)
}

/// The name of the volume that a claim is bound to, if the pod may use it.
fn check_claim(owner: &Pod, volume: &Volume, claim: &PersistentVolumeClaim) -> Result<String, String> {
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    let namespace = pod::namespace(owner);
    if volume.ephemeral.is_some() {
        let owners = claim.metadata.owner_references.iter().flatten();
        if !owners.clone().any(|known| known.controller == Some(true) && known.uid == pod::uid(owner)) {
            return Err(format!(
                "PVC {namespace}/{name} was not created for pod {namespace}/{} (pod is not owner)",
                pod::name(owner)
            ));
        }
    }
    // The protection of claims in use has no eyes for pods that have not started: they must not start any more.
    if claim.metadata.deletion_timestamp.is_some() {
        return Err("can't start pod because PVC is being deleted".to_owned());
    }
    let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).filter(|name| !name.is_empty());
    named.filter(|_| bound).ok_or_else(|| "PVC is not bound".to_owned())
}

fn interpret(
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
    only_read: bool,
    node: &str,
) -> Result<Found, String> {
    let name = volume.metadata.name.clone().unwrap_or_default();
    let none = PersistentVolumeSpec::default();
    let spec = volume.spec.as_ref().unwrap_or(&none);
    let Some(reference) = &spec.claim_ref else { return Err(format!("PV {name} has nil ClaimRef")) };
    if reference.uid != claim.metadata.uid {
        return Err(format!(
            "PV {name} claimRef.UID {} does not match expected PVC UID {}",
            reference.uid.as_deref().unwrap_or_default(),
            claim.metadata.uid.as_deref().unwrap_or_default()
        ));
    }
    let capacity = spec.capacity.as_ref().and_then(|capacity| capacity.get("storage"));
    let source = if let Some(host) = &spec.host_path {
        Source::HostPath { path: host.path.clone().into(), kind: host.type_.clone().unwrap_or_default() }
    } else if let Some(local) = &spec.local {
        Source::Local { path: local.path.clone().into() }
    } else if let Some(own) = spec.csi.as_ref().filter(|source| source.driver == local::DRIVER) {
        // A pod that was bound past the scheduler must not find an empty volume here while its data are elsewhere.
        let place = own.volume_attributes.as_ref().and_then(|attributes| attributes.get("node"));
        if let Some(place) = place.filter(|place| **place != node) {
            return Err(format!(
                "MountVolume.NodeAffinity check failed for volume \"{name}\": it is on node \"{place}\""
            ));
        }
        let bytes = capacity.map(Amount::of).map_or(0, Amount::value);
        Source::Own { name: own.volume_handle.clone(), bytes: u64::try_from(bytes).unwrap_or(0) }
    } else if let Some(csi) = &spec.csi {
        Source::Csi(CsiVolume::persistent(csi, spec))
    } else {
        return Err(format!("no volume plugin matched for volume {name}"));
    };
    Ok(Found {
        volume: name,
        block: spec.volume_mode.as_deref() == Some("Block"),
        read_only: only_read || spec.csi.as_ref().and_then(|source| source.read_only).unwrap_or(false),
        source,
        path: PathBuf::new(),
        group: None,
    })
}

/// Makes ready what was found and keeps it for the pod. Blocks.
pub fn set_up(
    pod_dir: &Path,
    owner: &Pod,
    volume: &Volume,
    mut found: Found,
    locals: &LocalVolumes,
) -> Result<(), VolumeError> {
    found.path = match &found.source {
        Source::HostPath { path, .. } | Source::Local { path } if found.block => device(path)?,
        Source::HostPath { path, kind } => {
            host_path::prepare(&path.to_string_lossy(), kind)?;
            path.clone()
        }
        Source::Local { path } => {
            let meta = fs::metadata(path).map_err(super::failed("look at", path))?;
            if !meta.is_dir() {
                return Err(VolumeError::Unsupported("a file system on a local block device"));
            }
            path.clone()
        }
        Source::Own { name, bytes } => {
            let made = locals.ensure(name, *bytes, found.block)?;
            if found.block { device(&made.path)? } else { made.path }
        }
        // The driver has mounted it.
        Source::Csi(_) => found.path,
    };
    let security = pod::spec(owner).security_context.as_ref();
    let group = security.and_then(|security| security.fs_group).and_then(|group| u32::try_from(group).ok());
    let takes_group = match found.source {
        Source::Local { .. } | Source::Own { .. } => !found.block && !found.read_only,
        // Nobody changes whose the host's files are; drivers have a policy, which was followed already.
        Source::HostPath { .. } | Source::Csi(_) => false,
    };
    if let Some(group) = group.filter(|group| takes_group && found.group != Some(*group)) {
        give_to_group(owner, &found.path, group)?;
        found.group = Some(group);
    }
    keep(pod_dir, &volume.name, &found).map_err(super::failed("keep what is known of", &found.path))
}

/// Gives a volume's files to the pod's group, by the pod's policy. Blocks.
pub fn give_to_group(owner: &Pod, path: &Path, group: u32) -> Result<(), VolumeError> {
    let security = pod::spec(owner).security_context.as_ref();
    let policy = security.and_then(|security| security.fs_group_change_policy.as_deref());
    ownership::give_to_group(path, group, policy == Some("OnRootMismatch"))
        .map_err(super::failed("give the files to the group in", path))
}

/// The block device at a path, or one that stands for the file there.
fn device(path: &Path) -> Result<PathBuf, VolumeError> {
    use std::os::unix::fs::FileTypeExt;
    let kind = fs::metadata(path).map_err(super::failed("look at", path))?.file_type();
    if kind.is_block_device() {
        return Ok(path.to_owned());
    }
    loops::attach(path).map_err(super::failed("attach to a loop device", path))
}

fn record(pod_dir: &Path, volume: &str) -> PathBuf {
    pod_dir.join(FOLDER).join(format!("{volume}.json"))
}

/// Keeps what was found for a volume of a pod. Blocks.
pub fn keep(pod_dir: &Path, volume: &str, found: &Found) -> io::Result<()> {
    let path = record(pod_dir, volume);
    let text = serde_json::to_vec(found)?;
    if fs::read(&path).is_ok_and(|known| known == text) {
        return Ok(());
    }
    fs::create_dir_all(pod_dir.join(FOLDER))?;
    let next = path.with_extension("new");
    let mut file = fs::File::create(&next)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&next, &path)
}

/// What was found before for a volume of a pod. Blocks.
pub fn known(pod_dir: &Path, volume: &str) -> io::Result<Option<Found>> {
    match fs::read(record(pod_dir, volume)) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// All that was found for the volumes of a pod; a damaged record is left out and named in the log. Blocks.
pub fn all(pod_dir: &Path) -> Vec<Found> {
    let entries = fs::read_dir(pod_dir.join(FOLDER)).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        name.strip_suffix(".json").map(str::to_owned)
    });
    names
        .filter_map(|name| match known(pod_dir, &name) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(
                    volume = name,
                    error = &error as &dyn std::error::Error,
                    "what is known of a volume can't be read"
                );
                None
            }
        })
        .collect()
}

/// Whether any pod of the node has a volume that the question is true for. Blocks.
pub fn any_pod_has(pods_dir: &Path, except: Option<&Path>, mut question: impl FnMut(&Found) -> bool) -> bool {
    let entries = fs::read_dir(pods_dir).into_iter().flatten().flatten();
    let others = entries.map(|entry| entry.path()).filter(|path| Some(path.as_path()) != except);
    others.flat_map(|path| all(&path)).any(|found| question(&found))
}

/// Lets go of the volumes of a pod whose containers are gone. Blocks.
pub fn tear_down(pod_dir: &Path) -> Result<(), VolumeError> {
    for found in all(pod_dir) {
        let file = match &found.source {
            Source::Own { .. } if found.block => loop_file(&found.path)?,
            Source::Local { path } | Source::HostPath { path, .. } if found.block && *path != found.path => {
                Some(path.clone())
            }
            _ => None,
        };
        let Some(file) = file else { continue };
        let pods_dir = pod_dir.parent().unwrap_or(pod_dir);
        if !any_pod_has(pods_dir, Some(pod_dir), |other| other.volume == found.volume) {
            loops::detach(&file).map_err(super::failed("detach", &file))?;
        }
    }
    let folder = pod_dir.join(FOLDER);
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(super::failed("remove", &folder)(error)),
        _ => Ok(()),
    }
}

/// The file behind a loop device, `None` when it is not attached any more.
fn loop_file(device: &Path) -> Result<Option<PathBuf>, VolumeError> {
    let Some(name) = device.file_name() else { return Ok(None) };
    let path = Path::new("/sys/block").join(name).join("loop/backing_file");
    match fs::read_to_string(&path) {
        Ok(file) => Ok(Some(PathBuf::from(file.trim_end_matches('\n')))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(super::failed("read", &path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "ns", "uid": "pu"}, "spec": {"containers": []}}),
        )
        .expect("a pod")
    }

    fn claim(change: impl FnOnce(&mut Value)) -> PersistentVolumeClaim {
        let mut claim = json!({"metadata": {"name": "c", "namespace": "ns", "uid": "cu"},
            "spec": {"volumeName": "v"}, "status": {"phase": "Bound"}});
        change(&mut claim);
        serde_json::from_value(claim).expect("a claim")
    }

    #[test]
    fn only_bound_claims_that_stay_are_used() {
        let plain: Volume = serde_json::from_value(json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}))
            .expect("a volume");
        let own: Volume = serde_json::from_value(json!({"name": "v", "ephemeral": {}})).expect("a volume");
        assert_eq!(claim_name(&pod(), &plain).as_deref(), Some("c"));
        assert_eq!(claim_name(&pod(), &own).as_deref(), Some("p-v"));
        let check = |volume: &Volume, claim: PersistentVolumeClaim, expected: Result<&str, &str>| {
            let found = check_claim(&pod(), volume, &claim);
            assert_eq!(found.as_deref().map_err(String::as_str), expected);
        };
        check(&plain, claim(|_| {}), Ok("v"));
        check(&plain, claim(|claim| claim["status"]["phase"] = json!("Pending")), Err("PVC is not bound"));
        check(&plain, claim(|claim| claim["spec"]["volumeName"] = json!("")), Err("PVC is not bound"));
        check(
            &plain,
            claim(|claim| claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z")),
            Err("can't start pod because PVC is being deleted"),
        );
        check(&own, claim(|_| {}), Err("PVC ns/c was not created for pod ns/p (pod is not owner)"));
        let owned = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "pu", "controller": true}]);
        check(&own, claim(|claim| claim["metadata"]["ownerReferences"] = owned), Ok("v"));
    }

    #[test]
    fn sources() {
        let check = |spec: Value, expected: Result<Source, &str>| {
            let mut whole = json!({"capacity": {"storage": "1Mi"}, "claimRef": {"uid": "cu"}});
            for (key, value) in spec.as_object().expect("a map") {
                whole[key] = value.clone();
            }
            let volume = serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": whole})).expect("a volume");
            let found = interpret(&claim(|_| {}), &volume, false, "n").map(|found| found.source);
            assert_eq!(found, expected.map_err(str::to_owned), "{spec}");
        };
        check(json!({"hostPath": {"path": "/a"}}), Ok(Source::HostPath { path: "/a".into(), kind: String::new() }));
        check(json!({"local": {"path": "/a"}}), Ok(Source::Local { path: "/a".into() }));
        check(
            json!({"csi": {"driver": "local.kobune.dev", "volumeHandle": "pvc-1"}}),
            Ok(Source::Own { name: "pvc-1".to_owned(), bytes: 1 << 20 }),
        );
        check(
            json!({"csi": {"driver": "local.kobune.dev", "volumeHandle": "pvc-1", "volumeAttributes": {"node": "m"}}}),
            Err("MountVolume.NodeAffinity check failed for volume \"v\": it is on node \"m\""),
        );
        check(
            json!({"hostPath": {"path": "/a"}, "claimRef": {"uid": "other"}}),
            Err("PV v claimRef.UID other does not match expected PVC UID cu"),
        );
    }

    #[test]
    fn what_was_found_is_kept_until_the_pod_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        let pod_dir = folder.path().join("pods/pu");
        let locals = LocalVolumes::new(folder.path().join("volumes"));
        let volume: Volume = serde_json::from_value(json!({"name": "data"})).expect("a volume");
        let found = Found {
            volume: "pvc-1".to_owned(),
            block: false,
            read_only: false,
            source: Source::Own { name: "pvc-1".to_owned(), bytes: 1 },
            path: PathBuf::new(),
            group: None,
        };
        set_up(&pod_dir, &pod(), &volume, found, &locals).expect("set up");
        let kept = known(&pod_dir, "data").expect("read").expect("kept");
        assert_eq!(kept.path, folder.path().join("volumes/pvc-1/data"));
        assert!(any_pod_has(&folder.path().join("pods"), None, |found| found.volume == "pvc-1"));
        assert!(!any_pod_has(&folder.path().join("pods"), Some(&pod_dir), |found| found.volume == "pvc-1"));
        tear_down(&pod_dir).expect("torn down");
        assert_eq!(known(&pod_dir, "data").expect("read"), None);
        assert!(kept.path.is_dir(), "the data stay");
    }
}
