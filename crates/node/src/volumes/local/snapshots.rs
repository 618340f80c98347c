//! Snapshots of local volumes: copies that nobody changes.
//!
//! A block volume's snapshot is of one moment where the file system shares blocks (one `FICLONE`). Elsewhere, and of files, it is
//! taken one file after the other: what a pod writes meanwhile may be in it or not, as with any copy of files in use.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    DELETING, LocalError, LocalVolumes, MAKING, check_name, copy, failed, leave, make_folder, names, read_record,
    remove, sync, sync_all, write_record,
};

/// The folder of snapshots below that of volumes; no volume's name begins with a dot.
pub(super) const FOLDER: &str = ".snapshots";
const RECORD: &str = "snapshot.json";

/// What is known of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// How whoever asked for it calls it.
    pub name: String,
    /// The volume it is of.
    pub volume: String,
    /// The size of that volume.
    pub bytes: u64,
    /// Whether it is of a block device.
    pub block: bool,
    /// When it was taken, in seconds since 1970.
    pub taken: i64,
}

impl Snapshot {
    pub(super) fn content(&self) -> &'static str {
        if self.block { "disk" } else { "data" }
    }
}

/// How work on a snapshot is told from work on a volume of the same name.
pub(super) fn key(name: &str) -> String {
    format!("{FOLDER}/{name}")
}

impl LocalVolumes {
    /// The folder of a snapshot, which need not exist.
    pub(super) fn snapshot_place(&self, name: &str) -> Result<PathBuf, LocalError> {
        check_name(name)?;
        Ok(self.folder.join(FOLDER).join(name))
    }

    /// What is known of a snapshot; `None` when there is none. Blocks.
    pub fn snapshot(&self, name: &str) -> Result<Option<Snapshot>, LocalError> {
        read_record(&self.snapshot_place(name)?.join(RECORD))
    }

    /// All snapshots with their names, in the order of these. Blocks.
    pub fn snapshots(&self) -> Result<Vec<(String, Snapshot)>, LocalError> {
        let mut snapshots = Vec::new();
        for name in names(&self.folder.join(FOLDER))?.into_iter().filter(|name| check_name(name).is_ok()) {
            if let Some(snapshot) = self.snapshot(&name)? {
                snapshots.push((name, snapshot));
            }
        }
        Ok(snapshots)
    }

    /// Takes a snapshot of a volume: all of it is on the disk before it has its name. Blocks, for as long as a copy takes.
    pub fn take_snapshot(&self, name: &str, of: &str, called: &str, now: i64) -> Result<Snapshot, LocalError> {
        let place = self.snapshot_place(name)?;
        let volume = self.get(of)?.ok_or_else(|| LocalError::Missing(of.to_owned()))?;
        let _claim = self.claim(&[&key(name), of])?;
        let snapshot = Snapshot {
            name: called.to_owned(),
            volume: of.to_owned(),
            bytes: volume.bytes,
            block: volume.block,
            taken: now,
        };
        let making = self.folder.join(FOLDER).join(format!("{MAKING}{name}"));
        let from = self.place(of)?.join(volume.content());
        let fill = || {
            remove(&making)?;
            make_folder(&making)?;
            let to = making.join(snapshot.content());
            if snapshot.block {
                // What the pod has written to the device may still be on its way to the file.
                super::loops::flush(&from).map_err(failed("flush", &from))?;
                copy::file(&from, &to).map_err(failed("copy to", &to))?;
            } else {
                fs::create_dir(&to).map_err(failed("make", &to))?;
                copy::tree(&from, &to).map_err(failed("copy to", &to))?;
            }
            sync_all(&making)?;
            write_record(&making.join(RECORD), &snapshot)?;
            fs::rename(&making, &place).map_err(failed("rename", &making))?;
            sync(&self.folder.join(FOLDER))
        };
        if let Err(error) = fill() {
            // What could not be taken takes up no room.
            remove(&making)?;
            return Err(error);
        }
        Ok(snapshot)
    }

    /// Deletes a snapshot; one that is not there is fine. Blocks.
    pub fn delete_snapshot(&self, name: &str) -> Result<(), LocalError> {
        let place = self.snapshot_place(name)?;
        let _claim = self.claim(&[&key(name)])?;
        let leaving = self.folder.join(FOLDER).join(format!("{DELETING}{name}"));
        leave(&place, &leaving)?;
        remove(&leaving)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Origin, Volume};
    use super::*;

    fn volumes() -> (tempfile::TempDir, LocalVolumes) {
        let folder = tempfile::tempdir().expect("a folder");
        let volumes = LocalVolumes::new(folder.path().join("volumes"));
        (folder, volumes)
    }

    #[test]
    fn a_snapshot_stays_as_it_was_taken() {
        let (_folder, volumes) = volumes();
        let made = volumes.ensure("one", 1 << 20, false).expect("made");
        fs::write(made.path.join("file"), "before").expect("written");
        let taken = volumes.take_snapshot("snap", "one", "called", 7).expect("taken");
        assert_eq!((taken.volume.as_str(), taken.bytes, taken.taken), ("one", 1 << 20, 7));
        fs::write(made.path.join("file"), "after").expect("written");
        let volume = |origin| Volume { name: "two".to_owned(), bytes: 1 << 20, block: false, origin: Some(origin) };
        let restored = volumes.make("two", &volume(Origin::Snapshot("snap".to_owned()))).expect("restored");
        assert_eq!(fs::read_to_string(restored.path.join("file")).expect("read"), "before");
        let cloned = volumes.make("three", &volume(Origin::Volume("one".to_owned()))).expect("cloned");
        assert_eq!(fs::read_to_string(cloned.path.join("file")).expect("read"), "after");
        // The snapshot outlives its volume, and what was made from it outlives the snapshot.
        volumes.delete("one").expect("deleted");
        assert_eq!(volumes.snapshots().expect("listed").len(), 1);
        volumes.delete_snapshot("snap").expect("deleted");
        volumes.delete_snapshot("snap").expect("it is gone already");
        assert_eq!(volumes.snapshots().expect("listed"), []);
        assert_eq!(fs::read_to_string(restored.path.join("file")).expect("read"), "before");
        let names: Vec<String> = volumes.list().expect("listed").into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["three", "two"]);
    }

    #[test]
    fn devices_are_copied_and_may_be_larger() {
        let (_folder, volumes) = volumes();
        let disk = volumes.ensure("disk", 1 << 20, true).expect("made");
        let write = |text: &str| {
            use std::os::unix::fs::FileExt;
            let file = fs::OpenOptions::new().write(true).open(&disk.path).expect("open");
            file.write_all_at(text.as_bytes(), 4096).expect("written");
        };
        write("before");
        volumes.take_snapshot("snap", "disk", "snap", 0).expect("taken");
        write("after!");
        let origin = Some(Origin::Snapshot("snap".to_owned()));
        let larger = Volume { name: "larger".to_owned(), bytes: 2 << 20, block: true, origin };
        let made = volumes.make("larger", &larger).expect("made");
        let bytes = fs::read(&made.path).expect("read");
        assert_eq!((bytes.len(), &bytes[4096..4102]), (2 << 20, &b"before"[..]));
    }

    #[test]
    fn what_was_cut_short_is_taken_away_and_done_again() {
        let (folder, volumes) = volumes();
        let made = volumes.ensure("one", 1, false).expect("made");
        fs::write(made.path.join("file"), "text").expect("written");
        // A power cut in the middle of copies leaves this.
        let root = folder.path().join("volumes");
        for half in [".making-two/data", ".snapshots/.making-snap/data", ".snapshots/.deleting-old/data"] {
            fs::create_dir_all(root.join(half)).expect("a folder");
            fs::write(root.join(half).join("half"), "te").expect("written");
        }
        assert_eq!(volumes.list().expect("listed").len(), 1, "nobody sees what is not whole");
        assert_eq!(volumes.snapshots().expect("listed"), []);
        volumes.take_snapshot("snap", "one", "snap", 0).expect("taken over what was left");
        volumes.finish_deletions().expect("finished");
        assert_eq!(names(&root).expect("listed"), [".snapshots", "one"]);
        assert_eq!(names(&root.join(FOLDER)).expect("listed"), ["snap"]);
        assert!(!root.join(".snapshots/snap/data/half").exists());
    }

    #[test]
    fn a_source_that_is_copied_can_not_be_deleted() {
        let (_folder, volumes) = volumes();
        volumes.ensure("one", 1, false).expect("made");
        let claim = volumes.claim(&[&key("snap"), "one"]).expect("claimed");
        assert!(matches!(volumes.delete("one"), Err(LocalError::Busy(_))));
        assert!(matches!(volumes.take_snapshot("snap", "one", "snap", 0), Err(LocalError::Busy(_))));
        assert!(matches!(volumes.delete_snapshot("snap"), Err(LocalError::Busy(_))));
        drop(claim);
        volumes.delete("one").expect("deleted");
        assert!(matches!(volumes.take_snapshot("snap", "one", "snap", 0), Err(LocalError::Missing(_))));
    }
}
