//! Project quotas: how much a folder may hold, enforced by the file system (ext4 and xfs, when mounted with `prjquota`).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// `struct fsxattr` of `linux/fs.h`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// New files below a folder belong to its project.
const INHERIT: u32 = 0x200;
/// `Q_SETQUOTA` for projects, as `QCMD` packs it.
const SET_QUOTA: libc::c_long = (0x80_0008 << 8) | 2;
/// Only the limits of space are given (`QIF_BLIMITS`).
const SPACE: u32 = 1;
/// Limits are in units of this many bytes.
const UNIT: u64 = 1024;

mod calls {
    #![expect(unsafe_code, reason = "ioctl and quotactl_fd have no safe form")]

    use super::Attributes;

    nix::ioctl_read!(get_attributes, b'X', 31, Attributes);
    nix::ioctl_write_ptr!(set_attributes, b'X', 32, Attributes);

    /// `FS_IOC_FSGETXATTR`.
    pub(super) fn get(file: i32, attributes: &mut Attributes) -> nix::Result<()> {
        // SAFETY: the kernel writes one `struct fsxattr`, which is what the reference leads to.
        unsafe { get_attributes(file, attributes) }.map(drop)
    }

    /// `FS_IOC_FSSETXATTR`.
    pub(super) fn set(file: i32, attributes: &Attributes) -> nix::Result<()> {
        // SAFETY: the kernel only reads one `struct fsxattr`, which is what the reference leads to.
        unsafe { set_attributes(file, attributes) }.map(drop)
    }

    /// `quotactl_fd`.
    pub(super) fn quota(file: i32, command: libc::c_long, project: u32, limits: &libc::dqblk) -> nix::Result<()> {
        // SAFETY: the kernel only reads one `struct dqblk`, which is what the reference leads to.
        let result =
            unsafe { libc::syscall(libc::SYS_quotactl_fd, file, command, project, std::ptr::from_ref(limits)) };
        nix::errno::Errno::result(result).map(drop)
    }
}

/// The project that a folder belongs to; 0 when none, or when the file system knows no projects.
pub fn project(folder: &Path) -> io::Result<u32> {
    let file = File::open(folder)?;
    let mut attributes = Attributes::default();
    match calls::get(file.as_raw_fd(), &mut attributes) {
        Ok(()) => Ok(attributes.project),
        Err(nix::Error::ENOTTY | nix::Error::EOPNOTSUPP) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Makes a folder hold at most so many bytes, as this project; 0 lifts the limit. `false` when the file system can't.
pub fn limit(folder: &Path, project: u32, bytes: u64) -> io::Result<bool> {
    let file = File::open(folder)?;
    let mut attributes = Attributes::default();
    let marked = calls::get(file.as_raw_fd(), &mut attributes).and_then(|()| {
        if attributes.project == project && attributes.flags & INHERIT != 0 {
            return Ok(());
        }
        attributes.project = project;
        attributes.flags |= INHERIT;
        calls::set(file.as_raw_fd(), &attributes)
    });
    let limits = libc::dqblk {
        dqb_bhardlimit: bytes.div_ceil(UNIT),
        dqb_bsoftlimit: 0,
        dqb_curspace: 0,
        dqb_ihardlimit: 0,
        dqb_isoftlimit: 0,
        dqb_curinodes: 0,
        dqb_btime: 0,
        dqb_itime: 0,
        dqb_valid: SPACE,
    };
    let set = marked.and_then(|()| calls::quota(file.as_raw_fd(), SET_QUOTA, project, &limits));
    match set {
        Ok(()) => Ok(true),
        // No projects here, quotas are off, an old kernel, or too few rights: the volume works, without a limit.
        Err(
            nix::Error::ENOTTY
            | nix::Error::EOPNOTSUPP
            | nix::Error::ESRCH
            | nix::Error::ENOSYS
            | nix::Error::EPERM
            | nix::Error::EINVAL,
        ) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
