//! Images for machines without a registry: archives in `<data folder>/image-archives` are loaded when the node starts.
//!
//! What was loaded is noted with its size and time, so that a start reads nothing twice. The images are pinned, like those
//! of `kobune image load`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use kobune_runtime::Images;

/// The folder of archives, in the data folder.
const FOLDER: &str = "image-archives";
/// The note of what was loaded, in the same folder; hidden, so that it is no archive itself.
const NOTE: &str = ".loaded.json";

/// By the archive's name: its size, and when it was written in milliseconds.
type Loaded = BTreeMap<String, (u64, u128)>;

/// Loads the archives that are new or have changed. One that can't be loaded is told and holds up no other. Blocks.
pub fn load(data_dir: &Path, images: &Images) -> Result<()> {
    let folder = data_dir.join(FOLDER);
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let before = read(&folder)?;
    let mut loaded = Loaded::new();
    for (name, size, written) in archives(&folder)? {
        let stamp = (size, written);
        if before.get(&name) == Some(&stamp) {
            loaded.insert(name, stamp);
            continue;
        }
        match fs::File::open(folder.join(&name)).map_err(anyhow::Error::from).and_then(|file| Ok(images.load(file)?)) {
            Ok(names) => {
                tracing::info!(archive = name, images = names.join(", "), "loaded images");
                loaded.insert(name, stamp);
            }
            Err(error) => tracing::error!(archive = name, "the images of an archive were not loaded: {error:#}"),
        }
    }
    if loaded != before {
        let next = folder.join(format!("{NOTE}.new"));
        fs::write(&next, serde_json::to_vec(&loaded)?).with_context(|| format!("write {}", next.display()))?;
        fs::rename(&next, folder.join(NOTE)).with_context(|| format!("rename {}", next.display()))?;
    }
    Ok(())
}

fn read(folder: &Path) -> Result<Loaded> {
    match fs::read(folder.join(NOTE)) {
        // A damaged note means that everything is loaded once more.
        Ok(text) => Ok(serde_json::from_slice(&text).unwrap_or_default()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Loaded::new()),
        Err(error) => Err(error).with_context(|| format!("read {}", folder.join(NOTE).display())),
    }
}

fn archives(folder: &Path) -> Result<Vec<(String, u64, u128)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Links are followed: an archive may lie on another disk.
        let metadata = fs::metadata(entry.path()).with_context(|| format!("look at {}", entry.path().display()))?;
        if name.starts_with('.') || !metadata.is_file() {
            continue;
        }
        let written = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        found.push((name, metadata.len(), written.as_millis()));
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_known_by_size_and_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("written");
        write("b.tar", "bb");
        write("a.tar.gz", "a");
        write(".loaded.json", "{\"a.tar.gz\": [1, 2]}");
        fs::create_dir(folder.path().join("folder")).expect("made");
        let found: Vec<(String, u64)> =
            archives(folder.path()).expect("a list").into_iter().map(|(name, size, _)| (name, size)).collect();
        assert_eq!(found, [("a.tar.gz".to_owned(), 1), ("b.tar".to_owned(), 2)]);
        assert_eq!(read(folder.path()).expect("a note"), Loaded::from([("a.tar.gz".to_owned(), (1, 2))]));
        write(".loaded.json", "{");
        assert!(read(folder.path()).expect("a note").is_empty(), "everything is loaded once more");
    }
}
