//! Loop devices: files that pods see as block devices.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

mod calls {
    #![expect(unsafe_code, reason = "ioctl has no safe form")]

    nix::ioctl_none_bad!(get_free_device, 0x4c82);
    nix::ioctl_write_int_bad!(set_backing, 0x4c00);
    nix::ioctl_none_bad!(clear_backing, 0x4c01);
    nix::ioctl_none_bad!(set_capacity, 0x4c07);

    /// `LOOP_CTL_GET_FREE`: the number of a device that is free now.
    pub(super) fn free(control: i32) -> nix::Result<i32> {
        // SAFETY: this request takes no argument.
        unsafe { get_free_device(control) }
    }

    /// `LOOP_SET_FD`.
    pub(super) fn attach(device: i32, file: i32) -> nix::Result<()> {
        // SAFETY: the argument is a file descriptor, which the kernel checks.
        unsafe { set_backing(device, file) }.map(drop)
    }

    /// `LOOP_CLR_FD`.
    pub(super) fn detach(device: i32) -> nix::Result<()> {
        // SAFETY: this request takes no argument.
        unsafe { clear_backing(device) }.map(drop)
    }

    /// `LOOP_SET_CAPACITY`: looks at the file's size again.
    pub(super) fn measure(device: i32) -> nix::Result<()> {
        // SAFETY: this request takes no argument.
        unsafe { set_capacity(device) }.map(drop)
    }
}

/// The device that a file is attached to.
pub fn device_of(file: &Path) -> io::Result<Option<PathBuf>> {
    let file = fs::canonicalize(file)?;
    for entry in fs::read_dir("/sys/block")?.flatten() {
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with("loop") {
            continue;
        }
        let backing = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if Path::new(backing.trim_end_matches('\n')) == file {
            return Ok(Some(Path::new("/dev").join(name)));
        }
    }
    Ok(None)
}

/// Attaches a file to a device, or finds the device that it is attached to.
pub fn attach(file: &Path) -> io::Result<PathBuf> {
    if let Some(device) = device_of(file)? {
        return Ok(device);
    }
    let backing = OpenOptions::new().read(true).write(true).open(file)?;
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
    // Somebody else may take the free device first; there are more.
    for _ in 0..16 {
        let path = PathBuf::from(format!("/dev/loop{}", calls::free(control.as_raw_fd())?));
        let device = OpenOptions::new().read(true).write(true).open(&path)?;
        match calls::attach(device.as_raw_fd(), backing.as_raw_fd()) {
            Ok(()) => return Ok(path),
            Err(nix::Error::EBUSY) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "no loop device stayed free long enough"))
}

/// Detaches a file from its device, if it has one. A device that is still open goes when it is closed.
pub fn detach(file: &Path) -> io::Result<()> {
    let Some(path) = device_of(file)? else { return Ok(()) };
    match calls::detach(File::open(path)?.as_raw_fd()) {
        Ok(()) | Err(nix::Error::ENXIO) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Lets the device of a file that has grown see it.
pub fn grow(file: &Path) -> io::Result<()> {
    match device_of(file)? {
        Some(path) => Ok(calls::measure(OpenOptions::new().read(true).write(true).open(path)?.as_raw_fd())?),
        None => Ok(()),
    }
}

/// Brings what was written to the device of a file into the file.
pub fn flush(file: &Path) -> io::Result<()> {
    match device_of(file)? {
        Some(path) => File::open(path)?.sync_all(),
        None => Ok(()),
    }
}
