//! What a node needs to start its pods again after a reboot while the API server cannot be reached: the ConfigMaps and
//! Secrets that they mention, and the Services.
//!
//! Kept in `<node>/offline`, for root's eyes only, and only by nodes whose API server is elsewhere. What is read from here
//! is replaced as soon as the API server answers.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A folder of records by name.
#[derive(Clone, Debug)]
pub struct Offline {
    folder: Option<PathBuf>,
}

impl Offline {
    /// Keeps records in this folder; without one it keeps nothing.
    pub fn new(folder: Option<PathBuf>) -> Offline {
        Offline { folder }
    }

    /// Whether anything is kept at all.
    pub fn keeps(&self) -> bool {
        self.folder.is_some()
    }

    /// Reads a record; `None` when there is none. One that cannot be read is named in the log. Blocks for one small read.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let path = self.folder.as_ref()?.join(name);
        match fs::read(&path).and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from)) {
            Ok(record) => Some(record),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(path = %path.display(), error = &error as &dyn std::error::Error, "what was kept for a start without the API server cannot be read");
                None
            }
        }
    }

    /// Writes a record, or takes it away. Blocks until it is on disk.
    pub fn write<T: Serialize>(&self, name: &str, record: Option<&T>) {
        let Some(folder) = &self.folder else { return };
        if let Err(error) = store(folder, name, record) {
            tracing::warn!(
                name,
                error = &error as &dyn std::error::Error,
                "nothing is kept of this for a start without the API server"
            );
        }
    }

    /// Takes records away whose name begins with `prefix` and that nobody needs any more. Blocks.
    pub fn keep_only(&self, prefix: &str, needed: &HashSet<String>) {
        let Some(folder) = &self.folder else { return };
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with(prefix) && !needed.contains(&name) {
                self.write::<()>(&name, None);
            }
        }
    }
}

fn store<T: Serialize>(folder: &Path, name: &str, record: Option<&T>) -> io::Result<()> {
    let path = folder.join(name);
    let Some(record) = record else {
        return match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    };
    let text = serde_json::to_vec(record)?;
    if fs::read(&path).is_ok_and(|known| known == text) {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let next = folder.join(format!(".{name}.new"));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(next, path)?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    type Kept = BTreeMap<String, String>;

    #[test]
    fn records_are_kept_as_long_as_they_are_needed() {
        let folder = tempfile::tempdir().expect("a folder");
        let offline = Offline::new(Some(folder.path().join("offline")));
        let record = Kept::from([("k".to_owned(), "v".to_owned())]);
        offline.write("secret.ns.a", Some(&record));
        offline.write("secret.ns.b", Some(&record));
        offline.write("services", Some(&record));
        assert_eq!(offline.read("secret.ns.a"), Some(record.clone()));
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(folder.path().join("offline/secret.ns.a")).expect("the file").permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
        offline.keep_only("secret.", &HashSet::from(["secret.ns.b".to_owned()]));
        assert_eq!(offline.read::<Kept>("secret.ns.a"), None);
        assert_eq!(offline.read("services"), Some(record.clone()));
        let nothing = Offline::new(None);
        nothing.write("secret.ns.b", Some(&record));
        assert_eq!(nothing.read::<Kept>("secret.ns.b"), None);
    }
}
