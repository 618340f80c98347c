//! Volumes on the node's own disk: what the provisioner `local.kobune.dev` promises, made when a pod first needs it.
//!
//! ```text
//! <data>/volumes/<name>/data        the files of a volume with a file system; its size by project quota where there is one
//! <data>/volumes/<name>/disk        a volume that is a block device; attached to a loop device while pods use it
//! <data>/volumes/.deleting-<name>   on its way out: a deletion that was cut short goes on at the next start
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::{loops, quota};

/// The driver's name, which is also the provisioner's.
pub const DRIVER: &str = "local.kobune.dev";
/// Project numbers begin here, above what people number by hand.
const FIRST_PROJECT: u32 = 0x4b00_0000;
const DELETING: &str = ".deleting-";

/// Why a local volume can't be had. The texts are those of events.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The name would lead elsewhere.
    #[error("{0:?} is not a name of a local volume")]
    Name(String),
    /// A pod still has it.
    #[error("the volume is still in use by a pod")]
    InUse,
    /// A file or folder failed.
    #[error("failed to {action} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LocalError {
    let path = path.to_owned();
    move |source| LocalError::Io { action, path, source }
}

/// What pods get of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The folder, or the file behind the device.
    pub path: PathBuf,
    /// Whether it can't grow beyond its capacity.
    pub enforced: bool,
}

/// The local volumes of a node.
pub struct LocalVolumes {
    folder: PathBuf,
    /// One change at a time: project numbers must not be given twice.
    turn: Mutex<()>,
}

impl LocalVolumes {
    /// The volumes of an instance's data folder.
    pub fn of(data_dir: &Path) -> LocalVolumes {
        LocalVolumes::new(data_dir.join("volumes"))
    }

    /// The volumes below a folder, which need not exist.
    pub fn new(folder: PathBuf) -> LocalVolumes {
        LocalVolumes { folder, turn: Mutex::default() }
    }

    fn place(&self, name: &str) -> Result<PathBuf, LocalError> {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '.';
        if name.is_empty() || name.len() > 253 || name.starts_with('.') || !name.chars().all(plain) {
            return Err(LocalError::Name(name.to_owned()));
        }
        Ok(self.folder.join(name))
    }

    /// Makes the volume, or grows it to this size; it never shrinks. Blocks.
    pub fn ensure(&self, name: &str, bytes: u64, block: bool) -> Result<Made, LocalError> {
        let place = self.place(name)?;
        let _turn = self.turn.lock();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&place).map_err(failed("make", &place))?;
        if block { ensure_disk(&place.join("disk"), bytes) } else { self.ensure_folder(&place.join("data"), bytes) }
    }

    fn ensure_folder(&self, path: &Path, bytes: u64) -> Result<Made, LocalError> {
        if !path.is_dir() {
            fs::create_dir(path).map_err(failed("make", path))?;
            // Any user of any image may write; `fsGroup` narrows it where a pod asks for that.
            fs::set_permissions(path, fs::Permissions::from_mode(0o777)).map_err(failed("open up", path))?;
        }
        let own = quota::project(path).map_err(failed("look at", path))?;
        let project = if own == 0 { self.free_project()? } else { own };
        let enforced = quota::limit(path, project, bytes).map_err(failed("limit", path))?;
        Ok(Made { path: path.to_owned(), enforced })
    }

    fn free_project(&self) -> Result<u32, LocalError> {
        let mut highest = FIRST_PROJECT;
        for entry in fs::read_dir(&self.folder).map_err(failed("list", &self.folder))?.flatten() {
            let data = entry.path().join("data");
            if data.is_dir() {
                highest = highest.max(quota::project(&data).map_err(failed("look at", &data))?);
            }
        }
        Ok(highest + 1)
    }

    /// Deletes the volume with all that is in it; one that is not there is fine. Blocks.
    pub fn delete(&self, name: &str) -> Result<(), LocalError> {
        let place = self.place(name)?;
        let _turn = self.turn.lock();
        let leaving = self.folder.join(format!("{DELETING}{name}"));
        let disk = place.join("disk");
        if disk.exists() {
            loops::detach(&disk).map_err(failed("detach", &disk))?;
        }
        let data = place.join("data");
        if data.is_dir() {
            let project = quota::project(&data).map_err(failed("look at", &data))?;
            if project >= FIRST_PROJECT {
                quota::limit(&data, project, 0).map_err(failed("lift the limit of", &data))?;
            }
        }
        match fs::rename(&place, &leaving) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("rename", &place)(error)),
            _ => {}
        }
        remove(&leaving)
    }

    /// Detaches all devices, before everything is taken away. Blocks.
    pub fn detach_all(&self) -> Result<(), LocalError> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(failed("list", &self.folder))?,
        };
        for disk in entries.flatten().map(|entry| entry.path().join("disk")).filter(|disk| disk.exists()) {
            loops::detach(&disk).map_err(failed("detach", &disk))?;
        }
        Ok(())
    }

    /// Goes on with deletions that were cut short. Blocks.
    pub fn finish_deletions(&self) -> Result<(), LocalError> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(failed("list", &self.folder))?,
        };
        for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(DELETING)) {
            remove(&entry.path())?;
        }
        Ok(())
    }
}

fn ensure_disk(path: &Path, bytes: u64) -> Result<Made, LocalError> {
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(failed("make", path))?;
    let length = file.metadata().map_err(failed("look at", path))?.len();
    if length < bytes {
        file.set_len(bytes).map_err(failed("lengthen", path))?;
        loops::grow(path).map_err(failed("grow the device of", path))?;
    }
    Ok(Made { path: path.to_owned(), enforced: true })
}

fn remove(path: &Path) -> Result<(), LocalError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn volumes_come_grow_and_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let volumes = LocalVolumes::new(folder.path().join("volumes"));
        let made = volumes.ensure("pvc-1", 1 << 20, false).expect("made");
        assert_eq!(fs::metadata(&made.path).expect("there").mode() & 0o7777, 0o777);
        fs::write(made.path.join("kept"), "x").expect("written");
        assert_eq!(volumes.ensure("pvc-1", 2 << 20, false).expect("grown").path, made.path);
        assert!(made.path.join("kept").exists());
        let disk = volumes.ensure("pvc-2", 1 << 20, true).expect("made");
        let length = || fs::metadata(&disk.path).expect("there").len();
        assert_eq!((length(), disk.enforced), (1 << 20, true));
        volumes.ensure("pvc-2", 2 << 20, true).expect("grown");
        volumes.ensure("pvc-2", 1 << 20, true).expect("as it was");
        assert_eq!(length(), 2 << 20, "it never shrinks");
        for name in ["pvc-1", "pvc-2", "pvc-3"] {
            volumes.delete(name).expect("gone");
        }
        assert_eq!(fs::read_dir(folder.path().join("volumes")).expect("a folder").count(), 0);
    }

    #[test]
    fn a_deletion_that_was_cut_short_goes_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let volumes = LocalVolumes::new(folder.path().to_owned());
        volumes.ensure("pvc-1", 1, false).expect("made");
        fs::rename(folder.path().join("pvc-1"), folder.path().join(".deleting-pvc-1")).expect("renamed");
        volumes.ensure("pvc-2", 1, false).expect("made");
        volumes.finish_deletions().expect("finished");
        let left: Vec<_> =
            fs::read_dir(folder.path()).expect("a folder").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left, ["pvc-2"]);
    }

    #[test]
    fn names_stay_inside() {
        let folder = tempfile::tempdir().expect("a folder");
        let volumes = LocalVolumes::new(folder.path().to_owned());
        for name in ["", "..", ".deleting-x", "a/b", "/etc"] {
            assert!(matches!(volumes.ensure(name, 1, false), Err(LocalError::Name(_))), "{name}");
            assert!(matches!(volumes.delete(name), Err(LocalError::Name(_))), "{name}");
        }
    }
}
