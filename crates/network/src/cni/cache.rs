//! What is on disk about each attachment, so that it can be taken back whatever happens between: the configuration it was
//! made with and the result. The form is libcni's (`libcni/api.go`, `cachedInfo`), with the folders of programs added.
//!
//! Addresses that plug-ins give are on disk too, and stay given across a reboot until somebody takes them back. So a
//! record is written and flushed before the first plug-in is called.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The kind that libcni writes.
const KIND: &str = "cniCacheV1";

/// One attachment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    kind: String,
    pub container_id: String,
    /// The list, as text. libcni has it in base64; nobody but its owner reads a cache.
    pub config: String,
    pub if_name: String,
    pub network_name: String,
    #[serde(default)]
    pub cni_args: String,
    #[serde(default)]
    pub capability_args: Map<String, Value>,
    /// The last plug-in's result; none while it is not known how far it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Map<String, Value>>,
    /// Where the plug-ins were.
    #[serde(default)]
    pub bin_dirs: Vec<PathBuf>,
}

impl Entry {
    pub fn new(container_id: &str, network_name: &str, config: String) -> Entry {
        Entry {
            kind: KIND.to_owned(),
            container_id: container_id.to_owned(),
            config,
            if_name: super::answer::LINK.to_owned(),
            network_name: network_name.to_owned(),
            cni_args: String::new(),
            capability_args: Map::new(),
            result: None,
            bin_dirs: Vec::new(),
        }
    }
}

/// The folder of records.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
}

impl Cache {
    pub fn of(data_dir: &Path) -> Cache {
        Cache { folder: data_dir.join("cni/results") }
    }

    /// Ids are checked to be plain names before they come here.
    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(id)
    }

    pub fn write(&self, entry: &Entry) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let temporary = self.folder.join(format!(".{}", entry.container_id));
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(entry)?)?;
        file.sync_all()?;
        fs::rename(&temporary, self.path(&entry.container_id))?;
        File::open(&self.folder)?.sync_all()
    }

    pub fn remove(&self, id: &str) -> io::Result<()> {
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The record of one attachment, if there is one.
    pub fn read(&self, id: &str) -> io::Result<Option<Entry>> {
        match fs::read(self.path(id)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All records by container. One that cannot be read is left where it is, and said.
    pub fn list(&self) -> io::Result<BTreeMap<String, Entry>> {
        let mut found = BTreeMap::new();
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let Ok(id) = entry.file_name().into_string() else { continue };
            if id.starts_with('.') {
                // A write that was cut short: what it was to replace is still there.
                fs::remove_file(entry.path())?;
                continue;
            }
            match self.read(&id) {
                Ok(Some(record)) => drop(found.insert(id, record)),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(path = %entry.path().display(), %error, "an attachment's record cannot be read");
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_outlive_the_program() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::of(folder.path());
        assert!(cache.list().expect("a list").is_empty());
        assert_eq!(cache.read("a").expect("read"), None);
        cache.remove("a").expect("nothing to remove");
        let mut entry = Entry::new("a", "net", "{}".to_owned());
        cache.write(&entry).expect("written");
        entry.result = Some(Map::from_iter([("cniVersion".to_owned(), "1.0.0".into())]));
        cache.write(&entry).expect("written again");
        assert_eq!(cache.read("a").expect("read"), Some(entry.clone()));
        let path = folder.path().join("cni/results");
        fs::write(path.join(".b"), "half").expect("written");
        fs::write(path.join("c"), "{").expect("written");
        assert_eq!(cache.list().expect("a list"), BTreeMap::from([("a".to_owned(), entry)]));
        assert!(!path.join(".b").exists());
        assert!(cache.read("c").is_err());
        cache.remove("a").expect("removed");
        assert!(cache.list().expect("a list").is_empty());
    }
}
