//! Where a volume is bound to: on record before it is bound and until it is unbound, beside the volume.
//!
//! A record may say more than is so, after a crash or a reboot, never less; the table of mounts decides.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::volumes::loops;

/// How it is bound there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Use {
    /// Nobody may write.
    pub read_only: bool,
    /// CSI's number of who uses it at once.
    pub mode: i32,
}

/// Where a volume is used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uses {
    /// Where it was made ready.
    pub staged: BTreeMap<PathBuf, Use>,
    /// Where pods have it.
    pub published: BTreeMap<PathBuf, Use>,
}

/// Why it can't be bound or unbound.
#[derive(Debug, thiserror::Error)]
#[error("failed to {action} {}", path.display())]
pub struct UseError {
    /// What was attempted.
    pub action: &'static str,
    /// On what.
    pub path: PathBuf,
    /// What the kernel said.
    pub source: io::Error,
}

/// The failure of something attempted on a path.
pub fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> UseError {
    let path = path.to_owned();
    move |source| UseError { action, path, source }
}

fn record(place: &Path) -> PathBuf {
    place.join("uses.json")
}

impl Uses {
    /// What is so of what is on record.
    pub fn of(place: &Path) -> Result<Uses, UseError> {
        let path = record(place);
        let mut uses: Uses = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| failed("read", &path)(error.into()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Uses::default()),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let mounted = mount_points()?;
        uses.published.retain(|path, _| mounted.contains(path));
        let disk = place.join("disk");
        let attached =
            disk.exists() && loops::device_of(&disk).map_err(failed("look for the device of", &disk))?.is_some();
        uses.staged.retain(|path, _| attached || mounted.contains(path));
        Ok(uses)
    }

    /// Writes it down.
    pub fn keep(&self, place: &Path) -> Result<(), UseError> {
        let path = record(place);
        let next = path.with_extension("new");
        let write = || {
            let mut file = fs::File::create(&next)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            file.sync_all()?;
            fs::rename(&next, &path)
        };
        write().map_err(failed("write", &path))
    }

    /// Whether it is used anywhere.
    pub fn any(&self) -> bool {
        !self.staged.is_empty() || !self.published.is_empty()
    }
}

/// Everything that is mounted.
pub fn mount_points() -> Result<HashSet<PathBuf>, UseError> {
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(table).map_err(failed("read", table))?;
    Ok(text.lines().filter_map(|line| line.split(' ').nth(4)).map(|path| PathBuf::from(unescape(path))).collect())
}

/// The kernel writes blanks and the like as `\040`.
fn unescape(path: &str) -> String {
    let mut plain = Vec::with_capacity(path.len());
    let bytes = path.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let code = path.get(at + 1..at + 4).filter(|_| *byte == b'\\');
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(letter) => {
                plain.push(letter);
                at += 4;
            }
            None => {
                plain.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_mounts() {
        for (line, expected) in
            [("/a/b", "/a/b"), ("/with\\040blank", "/with blank"), ("/\\134040", "/\\040"), ("/ü", "/ü")]
        {
            assert_eq!(unescape(line), expected);
        }
    }

    #[test]
    fn what_is_not_mounted_is_not_used() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut uses = Uses::default();
        uses.published.insert(folder.path().join("target"), Use { read_only: false, mode: 1 });
        uses.published.insert("/proc".into(), Use { read_only: true, mode: 1 });
        uses.keep(folder.path()).expect("written");
        let found = Uses::of(folder.path()).expect("read");
        assert_eq!(found.published.keys().collect::<Vec<_>>(), [Path::new("/proc")]);
        assert!(found.any() && !Uses::of(&folder.path().join("none")).expect("none").any());
    }
}
