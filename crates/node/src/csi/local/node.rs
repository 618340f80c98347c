//! The node's calls: volumes are made ready, bound for pods, and unbound.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use kobune_grpc::Status;
use kobune_grpc::csi::node::{
    NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetInfoResponse, NodeGetVolumeStatsRequest,
    NodeGetVolumeStatsResponse, NodePublishVolumeRequest, NodeStageVolumeRequest, NodeUnpublishVolumeRequest,
    NodeUnstageVolumeRequest, VolumeUsage,
};
use kobune_grpc::csi::{Capabilities, Nothing, access, node_can};
use nix::mount::{MntFlags, MsFlags};

use super::check::Usage;
use super::uses::{Use, UseError, Uses, failed as use_of, mount_points};
use super::{LocalDriver, check, failed, use_failed};
use crate::volumes::local::{LocalError, Volume};
use crate::volumes::loops;

/// CSI's numbers of what is counted.
const BYTES: i32 = 1;
const INODES: i32 = 2;

pub(super) fn capabilities() -> Capabilities {
    Capabilities::of(&[
        node_can::STAGE_UNSTAGE_VOLUME,
        node_can::GET_VOLUME_STATS,
        node_can::EXPAND_VOLUME,
        node_can::SINGLE_NODE_MULTI_WRITER,
    ])
}

fn wanted(usage: Usage, read_only: bool) -> Use {
    Use { read_only: read_only || usage.flags.contains(MsFlags::MS_RDONLY), mode: usage.mode }
}

impl LocalDriver {
    pub(super) fn node_info(&self) -> NodeGetInfoResponse {
        NodeGetInfoResponse {
            node_id: self.node.clone(),
            max_volumes_per_node: 0,
            accessible_topology: Some(self.place()),
        }
    }

    /// The volume with its folder and where it is used, if it can be used so.
    fn usable(&self, id: &str, usage: Usage) -> Result<(Volume, PathBuf, Uses), Status> {
        let volume = self.volume(id)?;
        if volume.block != usage.block {
            return Err(Status::invalid_argument("the volume is of the other mode, block or mount"));
        }
        let place = self.volumes.place(id).map_err(|error| failed(&error))?;
        let uses = Uses::of(&place).map_err(|error| use_failed(&error))?;
        Ok((volume, place, uses))
    }

    pub(super) fn stage(&self, request: &NodeStageVolumeRequest) -> Result<Nothing, Status> {
        check::given(&request.volume_id, "volume_id")?;
        let path = &real(check::path(&request.staging_target_path, "staging_target_path")?);
        let usage = check::usage(request.volume_capability.as_ref())?;
        let _turn = self.changing.lock();
        let (volume, place, mut uses) = self.usable(&request.volume_id, usage)?;
        let wanted = wanted(usage, false);
        match uses.staged.get(path) {
            Some(known) if *known == wanted => return Ok(Nothing {}),
            Some(_) => return Err(Status::already_exists("the volume is staged there for another use")),
            None => uses.staged.insert(path.clone(), wanted),
        };
        let made = self.volumes.ensure(&request.volume_id, volume.bytes, volume.block);
        let made = made.map_err(|error| failed(&error))?;
        let done = uses.keep(&place).and_then(|()| {
            if volume.block {
                return loops::attach(&made.path).map(drop).map_err(use_of("attach to a loop device", &made.path));
            }
            make_folder(path)?;
            bind(&made.path, path, usage.flags)
        });
        done.map(|()| Nothing {}).map_err(|error| use_failed(&error))
    }

    pub(super) fn unstage(&self, request: &NodeUnstageVolumeRequest) -> Result<Nothing, Status> {
        let id = check::given(&request.volume_id, "volume_id")?;
        let path = &real(check::path(&request.staging_target_path, "staging_target_path")?);
        let _turn = self.changing.lock();
        let place = self.there(id)?;
        let mut uses =
            place.as_deref().map_or_else(|| Ok(Uses::default()), Uses::of).map_err(|error| use_failed(&error))?;
        if !uses.published.is_empty() {
            return Err(Status::failed_precondition("the volume is still published"));
        }
        let known = uses.staged.remove(path).is_some();
        let undo = || {
            unmount(path)?;
            let Some(place) = place.filter(|_| known) else { return Ok(()) };
            let disk = place.join("disk");
            if uses.staged.is_empty() && disk.exists() {
                loops::detach(&disk).map_err(use_of("detach", &disk))?;
            }
            uses.keep(&place)
        };
        undo().map(|()| Nothing {}).map_err(|error| use_failed(&error))
    }

    pub(super) fn publish(&self, request: &NodePublishVolumeRequest) -> Result<Nothing, Status> {
        check::given(&request.volume_id, "volume_id")?;
        let target = &real(check::path(&request.target_path, "target_path")?);
        let usage = check::usage(request.volume_capability.as_ref())?;
        let _turn = self.changing.lock();
        let (volume, place, mut uses) = self.usable(&request.volume_id, usage)?;
        let staging = &real(Path::new(&request.staging_target_path));
        let Some(staged) = uses.staged.get(staging).cloned() else {
            return Err(Status::failed_precondition("the volume is not staged at staging_target_path"));
        };
        let wanted = wanted(usage, request.readonly || staged.read_only);
        match uses.published.get(target) {
            Some(known) if *known == wanted => return Ok(Nothing {}),
            Some(_) => return Err(Status::already_exists("the volume is published there for another use")),
            None => {}
        }
        let alone = |mode: i32| mode == access::SINGLE_NODE_SINGLE_WRITER;
        if !uses.published.is_empty() && (alone(wanted.mode) || uses.published.values().any(|other| alone(other.mode)))
        {
            return Err(Status::failed_precondition("the volume has its single writer already"));
        }
        let read_only = wanted.read_only;
        uses.published.insert(target.clone(), wanted);
        let flags = if read_only { usage.flags | MsFlags::MS_RDONLY } else { usage.flags };
        let done = uses.keep(&place).and_then(|()| {
            if volume.block {
                let disk = place.join("disk");
                let device = loops::attach(&disk).map_err(use_of("attach to a loop device", &disk))?;
                make_file(target)?;
                return bind(&device, target, flags);
            }
            make_folder(target)?;
            bind(staging, target, flags)
        });
        done.map(|()| Nothing {}).map_err(|error| use_failed(&error))
    }

    pub(super) fn unpublish(&self, request: &NodeUnpublishVolumeRequest) -> Result<Nothing, Status> {
        let id = check::given(&request.volume_id, "volume_id")?;
        let target = &real(check::path(&request.target_path, "target_path")?);
        let _turn = self.changing.lock();
        // A volume that was deleted underneath is unmounted all the same: its pod could never end otherwise.
        let place = self.there(id)?;
        let undo = || {
            unmount(target)?;
            remove_target(target)?;
            let Some(place) = place else { return Ok(()) };
            let mut uses = Uses::of(&place)?;
            uses.published.remove(target);
            uses.keep(&place)
        };
        undo().map(|()| Nothing {}).map_err(|error| use_failed(&error))
    }

    /// The folder of a volume, if there is one.
    fn there(&self, id: &str) -> Result<Option<PathBuf>, Status> {
        match self.volumes.place(id) {
            Ok(place) => Ok(Some(place).filter(|place| place.exists())),
            Err(LocalError::Name(_)) => Ok(None),
            Err(error) => Err(failed(&error)),
        }
    }

    /// The volume, if it is at this path.
    fn at(&self, id: &str, path: &str) -> Result<Volume, Status> {
        check::given(id, "volume_id")?;
        let path = &real(Path::new(check::given(path, "volume_path")?));
        let volume = self.volume(id)?;
        let place = self.volumes.place(id).map_err(|error| failed(&error))?;
        let uses = Uses::of(&place).map_err(|error| use_failed(&error))?;
        if uses.published.contains_key(path) || uses.staged.contains_key(path) {
            return Ok(volume);
        }
        Err(Status::not_found(format!("volume {id:?} is not at {}", path.display())))
    }

    pub(super) fn stats(&self, request: &NodeGetVolumeStatsRequest) -> Result<NodeGetVolumeStatsResponse, Status> {
        let volume = self.at(&request.volume_id, &request.volume_path)?;
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        if volume.block {
            let usage = vec![VolumeUsage { total: signed(volume.bytes), unit: BYTES, ..VolumeUsage::default() }];
            return Ok(NodeGetVolumeStatsResponse { usage });
        }
        // Where a quota holds, the kernel answers with it for the folder.
        let room = nix::sys::statvfs::statvfs(Path::new(&request.volume_path));
        let room = room.map_err(|error| Status::internal(format!("the volume can't be looked at: {error}")))?;
        let unit = room.fragment_size();
        let usage = |total: u64, free: u64, available: u64, of: i32| VolumeUsage {
            available: signed(available),
            total: signed(total),
            used: signed(total.saturating_sub(free)),
            unit: of,
        };
        let bytes = usage(room.blocks() * unit, room.blocks_free() * unit, room.blocks_available() * unit, BYTES);
        let inodes = usage(room.files(), room.files_free(), room.files_available(), INODES);
        Ok(NodeGetVolumeStatsResponse { usage: vec![bytes, inodes] })
    }

    pub(super) fn node_expand(&self, request: &NodeExpandVolumeRequest) -> Result<NodeExpandVolumeResponse, Status> {
        let volume = self.at(&request.volume_id, &request.volume_path)?;
        let range = check::range(request.capacity_range.as_ref())?;
        let bytes = self.grow(&request.volume_id, &volume, range)?;
        Ok(NodeExpandVolumeResponse { capacity_bytes: i64::try_from(bytes).unwrap_or(i64::MAX) })
    }
}

/// The path as the table of mounts has it: without links, but for the last name, which may not be there yet.
fn real(path: &Path) -> PathBuf {
    let found = path.ancestors().skip(1).find_map(|above| {
        let real = above.canonicalize().ok()?;
        path.strip_prefix(above).ok().map(|below| real.join(below))
    });
    found.unwrap_or_else(|| path.to_owned())
}

fn make_folder(path: &Path) -> Result<(), UseError> {
    fs::DirBuilder::new().recursive(true).mode(0o750).create(path).map_err(use_of("make", path))
}

fn make_file(path: &Path) -> Result<(), UseError> {
    if let Some(parent) = path.parent() {
        make_folder(parent)?;
    }
    match fs::File::create_new(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(use_of("make", path)(error)),
        _ => Ok(()),
    }
}

fn bind(from: &Path, to: &Path, flags: MsFlags) -> Result<(), UseError> {
    if mount_points()?.contains(to) {
        // What a call that was cut short has left may have other flags.
        unmount(to)?;
    }
    let mount = |flags: MsFlags| nix::mount::mount(Some(from), to, None::<&str>, flags, None::<&str>);
    mount(MsFlags::MS_BIND).map_err(|errno| use_of("mount at", to)(errno.into()))?;
    if flags.is_empty() {
        return Ok(());
    }
    // Flags of a bind are taken by a second call only.
    let set = mount(MsFlags::MS_BIND | MsFlags::MS_REMOUNT | flags);
    set.map_err(|errno| use_of("set the mount flags of", to)(errno.into()))
}

fn unmount(path: &Path) -> Result<(), UseError> {
    while mount_points()?.contains(path) {
        nix::mount::umount2(path, MntFlags::UMOUNT_NOFOLLOW).map_err(|errno| use_of("unmount", path)(errno.into()))?;
    }
    Ok(())
}

/// Takes away what `NodePublishVolume` made: an empty folder, or an empty file.
fn remove_target(path: &Path) -> Result<(), UseError> {
    let about = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        about => about.map_err(use_of("look at", path))?,
    };
    if about.is_dir() {
        return fs::remove_dir(path).map_err(use_of("remove", path));
    }
    if about.is_file() && about.len() == 0 {
        return fs::remove_file(path).map_err(use_of("remove", path));
    }
    Err(use_of("remove", path)(io::Error::other("it is not what the driver made")))
}
