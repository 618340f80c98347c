//! A pod's volumes: made before its containers start, kept current while they run, taken away after they are gone.
//!
//! Below `<node>/pods/<uid>/volumes/<plugin>/<name>`. Volumes with secrets are file systems in memory, so that nothing of
//! them touches the disk.

pub mod atomic;
pub mod claims;
pub mod content;
mod copy;
pub mod host_path;
pub mod images;
pub mod local;
pub mod loops;
mod ownership;
mod quota;
pub mod tokens;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, Volume, VolumeMount};
use kobune_runtime::{Device, Mount, MountPropagation};
use nix::mount::MsFlags;

use crate::env::expand;
use crate::pod;
use crate::quantity::Amount;
use content::{ContentError, Sources};

/// Why a volume can't be made. The texts follow upstream's events.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// Its files can't be made.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The host's path is not what the volume says.
    #[error(transparent)]
    HostPath(#[from] host_path::HostPathError),
    /// A volume on the node's own disk can't be had.
    #[error(transparent)]
    Local(#[from] local::LocalError),
    /// A folder, file or mount failed.
    #[error("failed to {action} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// What is mounted in a volume can't be unmounted.
    #[error("failed to unmount what is in the pod's volumes")]
    Unmount(#[source] kobune_runtime::Error),
    /// A kind of volume this node does not have.
    #[error("volume plugin for {0} is not available on this node")]
    Unsupported(&'static str),
    /// The volume does not say which huge pages, and the pod asks for none or for several sizes.
    #[error("the pod does not request huge pages of exactly one size, and medium HugePages does not say which")]
    PageSize,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let path = path.to_owned();
    move |source| VolumeError::Io { action, path, source }
}

/// The folder of a volume below the pod's folder; `None` for host paths, claims and images, which have none.
fn folder(pod_dir: &Path, volume: &Volume) -> Result<Option<PathBuf>, VolumeError> {
    let plugin = if volume.empty_dir.is_some() {
        "kubernetes.io~empty-dir"
    } else if volume.config_map.is_some() {
        "kubernetes.io~configmap"
    } else if volume.secret.is_some() {
        "kubernetes.io~secret"
    } else if volume.downward_api.is_some() {
        "kubernetes.io~downward-api"
    } else if volume.projected.is_some() {
        "kubernetes.io~projected"
    } else if volume.host_path.is_some()
        || volume.persistent_volume_claim.is_some()
        || volume.ephemeral.is_some()
        || volume.csi.is_some()
        || volume.image.is_some()
    {
        return Ok(None);
    } else {
        return Err(VolumeError::Unsupported(plugin_name(volume)));
    };
    Ok(Some(pod_dir.join("volumes").join(plugin).join(&volume.name)))
}

fn plugin_name(volume: &Volume) -> &'static str {
    if volume.nfs.is_some() { "nfs" } else { "this source" }
}

/// Makes a volume or brings its files up to date. Blocks.
pub fn set_up(pod_dir: &Path, owner: &Pod, volume: &Volume, sources: &Sources<'_>) -> Result<(), VolumeError> {
    if let Some(source) = &volume.host_path {
        return Ok(host_path::prepare(&source.path, source.type_.as_deref().unwrap_or_default())?);
    }
    let Some(path) = folder(pod_dir, volume)? else { return Ok(()) };
    let group = pod::spec(owner).security_context.as_ref().and_then(|context| context.fs_group);
    let group = group.and_then(|group| u32::try_from(group).ok());
    if let Some(source) = &volume.empty_dir {
        let fresh = !path.exists();
        make_folder(&path)?;
        let medium = source.medium.as_deref().unwrap_or_default();
        let huge = medium.starts_with("HugePages");
        let memory = medium == "Memory" || huge;
        let mounted = memory && is_mount(&path)?;
        if huge && !mounted {
            mount_hugepages(&path, &page_size(owner, medium)?)?;
        } else if memory && !mounted {
            let limit = source.size_limit.as_ref().map(Amount::of).map(Amount::value).filter(|limit| *limit > 0);
            mount_tmpfs(&path, limit, "1777")?;
        }
        if fresh || (memory && !mounted) {
            // Memory keeps the sticky bit that the kernel gives it, as upstream's does.
            let mode = if memory && !huge { 0o1777 } else { 0o777 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(failed("open up", &path))?;
            if let Some(group) = group {
                chown(&path, None, Some(group)).map_err(failed("give a group to", &path))?;
                let mode = mode | 0o2000;
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(failed("open up", &path))?;
            }
        }
        return Ok(());
    }
    // The payload comes first: a missing object leaves no half-made volume.
    let Some(payload) = content::payload(owner, volume, sources)? else { return Ok(()) };
    make_folder(&path)?;
    if (volume.secret.is_some() || volume.projected.is_some()) && !is_mount(&path)? {
        mount_tmpfs(&path, None, "0755")?;
    }
    atomic::write(&path, &payload, group).map_err(failed("write the files of", &path))?;
    Ok(())
}

fn make_folder(path: &Path) -> Result<(), VolumeError> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(failed("make", path))?;
    Ok(())
}

/// Whether something is mounted exactly here: the folder is on another device than its parent.
fn is_mount(path: &Path) -> Result<bool, VolumeError> {
    let own = fs::metadata(path).map_err(failed("look at", path))?;
    let parent = path.parent().unwrap_or(path);
    let parent = fs::metadata(parent).map_err(failed("look at", parent))?;
    Ok(own.dev() != parent.dev())
}

fn mount_tmpfs(path: &Path, size: Option<i64>, mode: &str) -> Result<(), VolumeError> {
    let options = match size {
        Some(size) => format!("mode={mode},size={size}"),
        None => format!("mode={mode}"),
    };
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    nix::mount::mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options.as_str()))
        .map_err(|errno| failed("mount memory at", path)(errno.into()))
}

/// The size of the huge pages of a medium: `HugePages-2Mi` says it, `HugePages` means the only one that the pod asks for.
///
/// Source: `getPageSizeMountOption` in `pkg/volume/emptydir/empty_dir.go`.
fn page_size(owner: &Pod, medium: &str) -> Result<String, VolumeError> {
    if let Some(size) = medium.strip_prefix("HugePages-") {
        return Ok(size.to_owned());
    }
    let spec = pod::spec(owner);
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let requests = all.filter_map(|container| container.resources.as_ref()?.requests.as_ref());
    let names = requests.flat_map(|requests| requests.keys()).filter_map(|name| name.strip_prefix("hugepages-"));
    let sizes: std::collections::BTreeSet<&str> = names.collect();
    let only = (sizes.len() == 1).then(|| sizes.first()).flatten();
    only.map(|size| (*size).to_owned()).ok_or(VolumeError::PageSize)
}

fn mount_hugepages(path: &Path, size: &str) -> Result<(), VolumeError> {
    // The kernel's units are those of Kubernetes without the `i`.
    let options = format!("pagesize={}", size.trim_end_matches('i'));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    nix::mount::mount(Some("nodev"), path, Some("hugetlbfs"), flags, Some(options.as_str()))
        .map_err(|errno| failed("mount huge pages at", path)(errno.into()))
}

/// Unmounts and removes everything below a pod's `volumes`, and lets go of its claims. Blocks.
pub fn tear_down(pod_dir: &Path) -> Result<(), VolumeError> {
    claims::tear_down(pod_dir)?;
    let volumes = pod_dir.join("volumes");
    // Whatever is mounted below, by us, by a driver or by a container that may mount for the host: it must be away before
    // anything is removed, since removing goes through mounts.
    kobune_runtime::unmount_below(&volumes).map_err(VolumeError::Unmount)?;
    match fs::remove_dir_all(&volumes) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &volumes)(error)),
        _ => Ok(()),
    }
}

/// Why a container's mounts can't be made; becomes `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The container mounts a volume the pod has not.
    #[error("cannot find volume \"{volume}\" to mount into container \"{container}\"")]
    NoVolume {
        /// The volume.
        volume: String,
        /// The container.
        container: String,
    },
    /// The sub path leads out of the volume.
    #[error("subPath \"{path}\" is not allowed")]
    SubPath {
        /// The path.
        path: String,
    },
    /// A sub path mentions a variable that does not exist.
    #[error("missing value for \"{name}\"")]
    Variable {
        /// The variable.
        name: String,
    },
    /// The sub path can't be made.
    #[error("failed to prepare subPath for volumeMount \"{volume}\" of container \"{container}\": {source}")]
    Prepare {
        /// The volume.
        volume: String,
        /// The container.
        container: String,
        /// What failed.
        source: io::Error,
    },
    /// A kind of volume this node does not have.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// A volume of files is wanted as a device, or the other way round.
    #[error("volume {volume} has volumeMode {mode}, but is specified in {list}")]
    Mode {
        /// The volume.
        volume: String,
        /// What it is.
        mode: &'static str,
        /// Where the container mentions it.
        list: &'static str,
    },
}

/// What a volume's claim stands for; it was looked up when the pod's volumes were set up.
fn claimed(pod_dir: &Path, volume: &Volume) -> Result<claims::Found, VolumeError> {
    let known = claims::known(pod_dir, &volume.name).and_then(|found| {
        found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("volume {} is not set up", volume.name)))
    });
    known.map_err(failed("read what is known of the volumes in", pod_dir))
}

/// The block devices of a container for the runtime. Blocks.
pub fn devices(pod_dir: &Path, owner: &Pod, container: &Container) -> Result<Vec<Device>, MountError> {
    let volumes = pod::spec(owner).volumes.as_deref().unwrap_or_default();
    let wanted = container.volume_devices.iter().flatten();
    wanted
        .map(|wanted| {
            let volume = volumes.iter().find(|volume| volume.name == wanted.name).ok_or_else(|| {
                MountError::NoVolume { volume: wanted.name.clone(), container: container.name.clone() }
            })?;
            let found = claimed(pod_dir, volume)?;
            if !found.block {
                let volume = volume.name.clone();
                return Err(MountError::Mode { volume, mode: "Filesystem", list: "volumeDevices" });
            }
            Ok(Device {
                host_path: found.path,
                container_path: PathBuf::from(&wanted.device_path),
                permissions: if found.read_only { "r" } else { "mrw" }.to_owned(),
            })
        })
        .collect()
}

/// The mounts of a container for the runtime; makes sub paths that do not exist. Blocks.
pub fn mounts(
    pod_dir: &Path,
    owner: &Pod,
    container: &Container,
    env: &[(String, String)],
) -> Result<Vec<Mount>, MountError> {
    let volumes: BTreeMap<&str, &Volume> =
        pod::spec(owner).volumes.iter().flatten().map(|volume| (volume.name.as_str(), volume)).collect();
    let of_image = |mount: &VolumeMount| volumes.get(mount.name.as_str()).is_some_and(|volume| volume.image.is_some());
    let wanted = container.volume_mounts.iter().flatten().filter(|mount| !of_image(mount));
    wanted.map(|mount| one_mount(pod_dir, &volumes, container, mount, env)).collect()
}

fn one_mount(
    pod_dir: &Path,
    volumes: &BTreeMap<&str, &Volume>,
    container: &Container,
    wanted: &VolumeMount,
    env: &[(String, String)],
) -> Result<Mount, MountError> {
    let volume = volumes
        .get(wanted.name.as_str())
        .ok_or_else(|| MountError::NoVolume { volume: wanted.name.clone(), container: container.name.clone() })?;
    let mut locked = false;
    let root = match &volume.host_path {
        Some(source) => PathBuf::from(&source.path),
        None => match folder(pod_dir, volume)? {
            Some(folder) => folder,
            None => {
                let found = claimed(pod_dir, volume)?;
                if found.block {
                    return Err(MountError::Mode { volume: volume.name.clone(), mode: "Block", list: "volumeMounts" });
                }
                locked = found.read_only;
                found.path
            }
        },
    };
    let files = volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some();
    let host_path = match wanted_part(wanted, env)? {
        None => root,
        Some(sub) => {
            let source =
                |source| MountError::Prepare { volume: wanted.name.clone(), container: container.name.clone(), source };
            sub_path(&root, &sub).map_err(source)?.ok_or(MountError::SubPath { path: sub })?
        }
    };
    let read_only = wanted.read_only.unwrap_or(false) || files || locked;
    Ok(Mount {
        host_path,
        container_path: container_path(wanted),
        read_only,
        recursive_read_only: read_only
            && matches!(wanted.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")),
        propagation: match wanted.mount_propagation.as_deref() {
            Some("HostToContainer") => MountPropagation::HostToContainer,
            Some("Bidirectional") => MountPropagation::Bidirectional,
            _ => MountPropagation::Private,
        },
    })
}

/// Where a container sees a volume; a relative path starts at its root.
fn container_path(wanted: &VolumeMount) -> PathBuf {
    Path::new("/").join(&wanted.mount_path)
}

/// The part of a volume that is mounted, if not all of it.
fn wanted_part(wanted: &VolumeMount, env: &[(String, String)]) -> Result<Option<String>, MountError> {
    match wanted.sub_path_expr.as_deref().filter(|path| !path.is_empty()) {
        Some(expression) => Ok(Some(expand_strictly(expression, env)?)),
        None => Ok(wanted.sub_path.clone().filter(|path| !path.is_empty())),
    }
}

/// Whether a path below a volume leads out of it by itself.
fn leads_out(sub: &str) -> bool {
    sub.starts_with('/') || sub.split('/').any(|part| part == "..")
}

fn expand_strictly(expression: &str, env: &[(String, String)]) -> Result<String, MountError> {
    let missing = std::cell::RefCell::new(None);
    let expanded = expand(expression, |name| {
        let found = env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        if found.is_none() {
            missing.borrow_mut().get_or_insert(name.to_owned());
        }
        found
    });
    match missing.into_inner() {
        Some(name) => Err(MountError::Variable { name }),
        None => Ok(expanded),
    }
}

/// The path below a volume, made as a folder when it does not exist; `None` when it leads out of the volume.
fn sub_path(root: &Path, sub: &str) -> io::Result<Option<PathBuf>> {
    if leads_out(sub) {
        return Ok(None);
    }
    let root = fs::canonicalize(root)?;
    let mut path = root.clone();
    let mode = fs::metadata(&root)?.mode() & 0o7777;
    for part in sub.split('/').filter(|part| !part.is_empty() && *part != ".") {
        let next = path.join(part);
        let next = match fs::canonicalize(&next) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::DirBuilder::new().mode(mode).create(&next)?;
                fs::set_permissions(&next, fs::Permissions::from_mode(mode))?;
                next
            }
            Err(error) => return Err(error),
        };
        if !next.starts_with(&root) {
            return Ok(None);
        }
        path = next;
    }
    Ok(Some(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_paths_stay_inside() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = fs::canonicalize(folder.path()).expect("a path");
        fs::create_dir(root.join("in")).expect("made");
        std::os::unix::fs::symlink("/etc", root.join("out")).expect("linked");
        std::os::unix::fs::symlink("in", root.join("link")).expect("linked");
        let check = |sub: &str, expected: Option<&str>| {
            let actual = sub_path(&root, sub).expect("no failure");
            assert_eq!(actual, expected.map(|path| root.join(path)), "{sub}");
        };
        check("in", Some("in"));
        check("link", Some("in"));
        check("link/new", Some("in/new"));
        check("a/b", Some("a/b"));
        check("out", None);
        check("out/passwd", None);
        check("../x", None);
        check("/etc", None);
    }
}
