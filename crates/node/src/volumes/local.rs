//! Volumes on the node's own disk: what the provisioner `local.kobune.dev` promises, made when a pod first needs it, and what
//! the driver of that name makes for those who call it.
//!
//! ```text
//! <data>/volumes/<name>/data          the files of a volume with a file system; its size by project quota where there is one
//! <data>/volumes/<name>/disk          a volume that is a block device; attached to a loop device while pods use it
//! <data>/volumes/<name>/volume.json   its size, and how whoever asked for it calls it
//! <data>/volumes/.snapshots/<name>    the same of a snapshot, with snapshot.json
//! .making-<name>, .deleting-<name>    on their way in or out: what was cut short is taken away at the next start
//! ```
//!
//! Whatever takes long (copies, deletions) happens under such a name; a rename ends it, after all of it has reached the disk.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use parking_lot::{Mutex, MutexGuard};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{copy, loops, quota};

mod snapshots;

pub use snapshots::Snapshot;

/// The driver's name, which is also the provisioner's.
pub const DRIVER: &str = "local.kobune.dev";
/// Project numbers begin here, above what people number by hand.
const FIRST_PROJECT: u32 = 0x4b00_0000;
const DELETING: &str = ".deleting-";
const MAKING: &str = ".making-";
const RECORD: &str = "volume.json";

/// Why a local volume can't be had. The texts are those of events.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The name would lead elsewhere.
    #[error("{0:?} is not a name of a local volume")]
    Name(String),
    /// A pod still has it.
    #[error("the volume is still in use by a pod")]
    InUse,
    /// Something else is being done with it.
    #[error("{0} is being worked on")]
    Busy(String),
    /// There is no such volume, or no such snapshot.
    #[error("{0} does not exist")]
    Missing(String),
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

/// What a volume begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// A snapshot.
    Snapshot(String),
    /// Another volume.
    Volume(String),
}

/// What is known of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// How whoever asked for it calls it.
    pub name: String,
    /// Its size in bytes; 0 when nothing was written down.
    pub bytes: u64,
    /// Whether it is a block device.
    pub block: bool,
    /// What it began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

impl Volume {
    /// The file or folder below the volume's folder that pods get.
    fn content(&self) -> &'static str {
        if self.block { "disk" } else { "data" }
    }
}

/// The local volumes of a node.
pub struct LocalVolumes {
    folder: PathBuf,
    /// One change at a time: project numbers must not be given twice.
    turn: Mutex<()>,
    /// Pods that share a volume may come for it at once: the second one finds it made.
    ensuring: Mutex<()>,
    /// What is being copied, and from what.
    busy: Mutex<BTreeSet<String>>,
}

/// The right to change something, here and among other processes that work on the same folder.
struct Turn<'a> {
    _here: MutexGuard<'a, ()>,
    _everywhere: Flock<fs::File>,
}

/// Names that are worked on until this is dropped.
struct Claim<'a> {
    volumes: &'a LocalVolumes,
    names: Vec<String>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut busy = self.volumes.busy.lock();
        self.names.iter().for_each(|name| {
            busy.remove(name);
        });
    }
}

impl LocalVolumes {
    /// The volumes of an instance's data folder.
    pub fn of(data_dir: &Path) -> LocalVolumes {
        LocalVolumes::new(data_dir.join("volumes"))
    }

    /// The volumes below a folder, which need not exist.
    pub fn new(folder: PathBuf) -> LocalVolumes {
        LocalVolumes { folder, turn: Mutex::default(), ensuring: Mutex::default(), busy: Mutex::default() }
    }

    /// The folder that holds all volumes.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of a volume, which need not exist.
    pub fn place(&self, name: &str) -> Result<PathBuf, LocalError> {
        check_name(name)?;
        Ok(self.folder.join(name))
    }

    fn turn(&self) -> Result<Turn<'_>, LocalError> {
        let here = self.turn.lock();
        make_folder(&self.folder)?;
        let file = fs::File::open(&self.folder).map_err(failed("open", &self.folder))?;
        let everywhere = Flock::lock(file, FlockArg::LockExclusive);
        let everywhere = everywhere.map_err(|(_, errno)| failed("lock", &self.folder)(errno.into()))?;
        Ok(Turn { _here: here, _everywhere: everywhere })
    }

    /// Takes names for a piece of work that is too long for a turn.
    fn claim(&self, names: &[&str]) -> Result<Claim<'_>, LocalError> {
        let mut busy = self.busy.lock();
        if let Some(taken) = names.iter().find(|name| busy.contains(**name)) {
            return Err(LocalError::Busy((*taken).to_owned()));
        }
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        busy.extend(names.iter().cloned());
        Ok(Claim { volumes: self, names })
    }

    /// What is known of a volume; `None` when there is none. Blocks.
    pub fn get(&self, name: &str) -> Result<Option<Volume>, LocalError> {
        let place = self.place(name)?;
        if let Some(volume) = read_record(&place.join(RECORD))? {
            return Ok(Some(volume));
        }
        // One from before records were kept.
        let disk = place.join("disk");
        let (bytes, block) = match fs::metadata(&disk) {
            Ok(about) => (about.len(), true),
            Err(error) if error.kind() == io::ErrorKind::NotFound && place.join("data").is_dir() => (0, false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("look at", &disk)(error)),
        };
        Ok(Some(Volume { name: name.to_owned(), bytes, block, origin: None }))
    }

    /// All volumes with their names, in the order of these. Blocks.
    pub fn list(&self) -> Result<Vec<(String, Volume)>, LocalError> {
        let mut volumes = Vec::new();
        for name in names(&self.folder)?.into_iter().filter(|name| check_name(name).is_ok()) {
            // One that is deleted meanwhile is not there any more.
            if let Some(volume) = self.get(&name)? {
                volumes.push((name, volume));
            }
        }
        Ok(volumes)
    }

    /// Makes the volume, or grows it to this size; it never shrinks. Blocks.
    pub fn ensure(&self, name: &str, bytes: u64, block: bool) -> Result<Made, LocalError> {
        let place = self.place(name)?;
        let _ensuring = self.ensuring.lock();
        if !place.exists() {
            return self.make(name, &Volume { name: name.to_owned(), bytes, block, origin: None });
        }
        let _turn = self.turn()?;
        let made = self.ensure_content(&place, bytes, block)?;
        let known = self.get(name)?;
        let known = known.unwrap_or_else(|| Volume { name: name.to_owned(), bytes: 0, block, origin: None });
        if known.bytes < bytes || !place.join(RECORD).exists() {
            write_record(&place.join(RECORD), &Volume { bytes: known.bytes.max(bytes), ..known })?;
        }
        Ok(made)
    }

    /// Makes a volume that is not there yet, with what it begins with. Blocks, for as long as a copy takes.
    pub fn make(&self, name: &str, volume: &Volume) -> Result<Made, LocalError> {
        let place = self.place(name)?;
        let (key, from) = match &volume.origin {
            None => (None, None),
            Some(Origin::Snapshot(id)) => {
                let from = self.snapshot(id)?.ok_or_else(|| LocalError::Missing(id.clone()))?;
                (Some(snapshots::key(id)), Some(self.snapshot_place(id)?.join(from.content())))
            }
            Some(Origin::Volume(id)) => {
                let from = self.get(id)?.ok_or_else(|| LocalError::Missing(id.clone()))?;
                (Some(id.clone()), Some(self.place(id)?.join(from.content())))
            }
        };
        let _claim = self.claim(&[&[name], key.as_deref().as_slice()].concat())?;
        let making = self.folder.join(format!("{MAKING}{name}"));
        let made = self.fill(&making, volume, from.as_deref());
        let made = made.and_then(|made| {
            let _turn = self.turn()?;
            fs::rename(&making, &place).map_err(failed("rename", &making))?;
            sync(&self.folder)?;
            Ok(Made { path: place.join(volume.content()), ..made })
        });
        if made.is_err() {
            // What could not be made takes up no room.
            remove(&making)?;
        }
        made
    }

    fn fill(&self, making: &Path, volume: &Volume, from: Option<&Path>) -> Result<Made, LocalError> {
        {
            let _turn = self.turn()?;
            remove(making)?;
        }
        make_folder(making)?;
        let content = making.join(volume.content());
        let made = match from.filter(|_| volume.block) {
            Some(from) => {
                copy::file(from, &content).map_err(failed("copy to", &content))?;
                ensure_disk(&content, volume.bytes)?
            }
            None => {
                let _turn = self.turn()?;
                self.ensure_content(making, volume.bytes, volume.block)?
            }
        };
        if let Some(from) = from {
            if !volume.block {
                copy::tree(from, &content).map_err(failed("copy to", &content))?;
            }
            sync_all(making)?;
        }
        write_record(&making.join(RECORD), volume)?;
        Ok(made)
    }

    fn ensure_content(&self, place: &Path, bytes: u64, block: bool) -> Result<Made, LocalError> {
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
        let _claim = self.claim(&[name])?;
        let leaving = self.folder.join(format!("{DELETING}{name}"));
        {
            let _turn = self.turn()?;
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
            leave(&place, &leaving)?;
        }
        remove(&leaving)
    }

    /// Detaches all devices, before everything is taken away. Blocks.
    pub fn detach_all(&self) -> Result<(), LocalError> {
        let disks = names(&self.folder)?.into_iter().map(|name| self.folder.join(name).join("disk"));
        for disk in disks.filter(|disk| disk.exists()) {
            loops::detach(&disk).map_err(failed("detach", &disk))?;
        }
        Ok(())
    }

    /// Takes away what was being made or deleted when an earlier process ended. Blocks.
    pub fn finish_deletions(&self) -> Result<(), LocalError> {
        let unfinished = |name: &String| name.starts_with(DELETING) || name.starts_with(MAKING);
        for folder in [self.folder.clone(), self.folder.join(snapshots::FOLDER)] {
            for name in names(&folder)?.into_iter().filter(unfinished) {
                // What this process makes itself has been taken for work.
                let own = name.strip_prefix(MAKING).unwrap_or_default();
                if !self.busy.lock().iter().any(|busy| busy == own || *busy == snapshots::key(own)) {
                    remove(&folder.join(name))?;
                }
            }
        }
        Ok(())
    }
}

/// The names below a folder, in order; none when it does not exist.
fn names(folder: &Path) -> Result<Vec<String>, LocalError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed("list", folder))?,
    };
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    Ok(names)
}

/// Names become those of folders.
fn check_name(name: &str) -> Result<(), LocalError> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '.';
    // With what is put in front of it while it is made or deleted, a name has to fit into 255 bytes.
    if name.is_empty() || name.len() > 240 || name.starts_with('.') || !name.chars().all(plain) {
        return Err(LocalError::Name(name.to_owned()));
    }
    Ok(())
}

fn make_folder(path: &Path) -> Result<(), LocalError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make", path))
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

/// What is written down beside a volume or a snapshot, if anything.
fn read_record<R: DeserializeOwned>(path: &Path) -> Result<Option<R>, LocalError> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| failed("read", path)(error.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// Replaces a record; it is on the disk before the old one is gone.
fn write_record(path: &Path, record: &impl Serialize) -> Result<(), LocalError> {
    let next = path.with_extension("new");
    let write = || {
        let mut file = fs::File::create(&next)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        file.sync_all()?;
        fs::rename(&next, path)
    };
    write().map_err(failed("write", path))
}

fn sync(folder: &Path) -> Result<(), LocalError> {
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync", folder))
}

/// Brings everything below a folder to the disk: one call for the file system, instead of one for each file.
fn sync_all(folder: &Path) -> Result<(), LocalError> {
    let synced = fs::File::open(folder).and_then(|folder| Ok(nix::unistd::syncfs(folder)?));
    synced.map_err(failed("sync", folder))
}

/// Renames what is to go, if it is there.
fn leave(place: &Path, leaving: &Path) -> Result<(), LocalError> {
    remove(leaving)?;
    match fs::rename(place, leaving) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("rename", place)(error)),
        _ => Ok(()),
    }
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
