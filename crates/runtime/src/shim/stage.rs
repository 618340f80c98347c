//! Prepares what a container with users of its own will see, in the mount namespace of its start.
//!
//! Its first process has no rights over the host's folders: it could neither follow the way to a volume nor give files to
//! its users. So everything is brought to a *stage*, a small file system of this mount namespace alone at a place that
//! everybody can reach, with owners mapped (`MOUNT_ATTR_IDMAP`): what root owns on disk belongs to the container's root.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use libcontainer::syscall::linux::{
    AT_EMPTY_PATH, AT_RECURSIVE, MOUNT_ATTR_RDONLY, MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH, MountAttr,
};
use libcontainer::syscall::syscall::create_syscall;
use libcontainer::syscall::{Syscall, SyscallError};
use nix::mount::{MsFlags, mount};

use crate::protocol::{MappedBind, MappedPlan};

/// From `linux/mount.h`.
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// Mounts that are made and not yet anywhere.
pub(super) struct Stage<'a> {
    plan: &'a MappedPlan,
    syscall: Box<dyn Syscall>,
    users: File,
}

impl<'a> Stage<'a> {
    /// `users` is the pod's user namespace.
    pub(super) fn open(plan: &'a MappedPlan, users: &Path) -> Result<Self, String> {
        let users = File::open(users).map_err(|error| format!("failed to open the pod's user namespace: {error}"))?;
        Ok(Self { plan, syscall: create_syscall(), users })
    }

    /// A copy of a mount, detached.
    fn copy(&self, source: &Path, map: bool, read_only: Option<bool>) -> Result<OwnedFd, String> {
        let text = source.to_str().ok_or_else(|| format!("the path {} is not UTF-8", source.display()))?;
        let flags = (libc::OPEN_TREE_CLOEXEC | libc::OPEN_TREE_CLONE) | AT_RECURSIVE;
        let fail = |error: SyscallError| format!("failed to copy the mount of {text}: {error}");
        let tree = self.syscall.open_tree(libc::AT_FDCWD, Some(text), flags).map_err(fail)?;
        let set = |attributes: u64, recursive: bool| {
            let userns_fd = if attributes & MOUNT_ATTR_IDMAP == 0 { 0 } else { self.users.as_raw_fd().unsigned_abs() };
            let attributes =
                MountAttr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: u64::from(userns_fd) };
            let flags = AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
            let size = size_of::<MountAttr>();
            self.syscall.mount_setattr(tree.as_fd(), Path::new(""), flags, &attributes, size)
        };
        if map {
            set(MOUNT_ATTR_IDMAP, false).map_err(|error| match error {
                SyscallError::Nix(errno) if [libc::EINVAL, libc::EPERM].contains(&(errno as i32)) => format!(
                    "the file system of {text} cannot map owners, which a pod with hostUsers: false needs (ext4, xfs, \
                     btrfs can; tmpfs from Linux 6.3 on)"
                ),
                other => format!("failed to map the owners of {text}: {other}"),
            })?;
        }
        if let Some(recursive) = read_only {
            set(MOUNT_ATTR_RDONLY, recursive).map_err(|error| format!("failed to make {text} read-only: {error}"))?;
        }
        Ok(tree)
    }

    fn place(&self, tree: &OwnedFd, name: &str) -> Result<(), String> {
        let place = self.plan.stage.join(name);
        let fail = |error: String| format!("failed to mount at {}: {error}", place.display());
        let metadata = File::from(tree.try_clone().map_err(|error| fail(error.to_string()))?).metadata();
        let folder = metadata.map_err(|error| fail(error.to_string()))?.is_dir();
        let made = if folder { fs::create_dir(&place) } else { fs::write(&place, "") };
        made.map_err(|error| fail(error.to_string()))?;
        let place = File::open(&place).map_err(|error| fail(error.to_string()))?;
        let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
        let moved = self.syscall.move_mount(tree.as_fd(), None, place.as_fd(), None, flags);
        moved.map_err(|error| fail(error.to_string()))
    }

    /// Sets the stage up: the layers at `layers`, an empty folder for the root at `root`, what does not come out of images
    /// under its number.
    pub(super) fn set_up(&self, snapshots: &Path) -> Result<(), String> {
        let layers = self.copy(snapshots, true, None)?;
        // The stage may hide where these come from, so all are taken before it is there.
        let copies = self.copies(|bind| bind.map)?;
        let stage = &self.plan.stage;
        mount(Some("tmpfs"), stage, Some("tmpfs"), MsFlags::empty(), Some("mode=755,size=1m"))
            .map_err(|error| format!("failed to mount the stage at {}: {error}", stage.display()))?;
        self.place(&layers, "layers")?;
        fs::create_dir(stage.join("root")).map_err(|error| format!("failed to make the root's folder: {error}"))?;
        for (name, copy) in &copies {
            self.place(copy, name)?;
        }
        Ok(())
    }

    /// Brings what comes out of images, whose owners are mapped because those of the layers are.
    pub(super) fn set_up_images(&self) -> Result<(), String> {
        for (name, copy) in &self.copies(|bind| !bind.map)? {
            self.place(copy, name)?;
        }
        Ok(())
    }

    fn copies(&self, wanted: impl Fn(&MappedBind) -> bool) -> Result<Vec<(String, OwnedFd)>, String> {
        let binds = self.plan.binds.iter().enumerate().filter(|(_, bind)| wanted(bind));
        binds.map(|(index, bind)| Ok((index.to_string(), self.copy(&bind.source, bind.map, bind.read_only)?))).collect()
    }
}
