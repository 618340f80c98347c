//! Pods on disk, so that a reboot brings them back before (or without) the API server.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;

const NAME: &str = "pod.json";

/// Writes a pod's manifest when it differs from what is there: temporary name, fsync, rename. Blocks.
pub fn write(pod_dir: &Path, pod: &Pod) -> io::Result<()> {
    let text = serde_json::to_vec(pod)?;
    let path = pod_dir.join(NAME);
    if fs::read(&path).is_ok_and(|known| known == text) {
        return Ok(());
    }
    fs::create_dir_all(pod_dir)?;
    let next = pod_dir.join("pod.json.new");
    let mut file = fs::File::create(&next)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&next, &path)?;
    fs::File::open(pod_dir)?.sync_all()
}

/// All pods on disk. A damaged one is left out and named in the log: the API server has it. Blocks.
pub fn read_all(pods_dir: &Path) -> Vec<Pod> {
    let entries = match fs::read_dir(pods_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "the pods on disk could not be listed");
            return Vec::new();
        }
    };
    let mut pods = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path().join(NAME);
        let read = fs::read(&path).and_then(|text| serde_json::from_slice::<Pod>(&text).map_err(io::Error::from));
        match read {
            Ok(pod) => pods.push(pod),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %path.display(), error = &error as &dyn std::error::Error, "a pod on disk could not be read")
            }
        }
    }
    pods
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_survive_on_disk() {
        let folder = tempfile::tempdir().expect("a folder");
        let pod: Pod =
            serde_json::from_value(serde_json::json!({"metadata": {"name": "p", "uid": "u"}})).expect("a pod");
        write(&folder.path().join("u"), &pod).expect("written");
        fs::create_dir(folder.path().join("empty")).expect("made");
        fs::create_dir(folder.path().join("bad")).expect("made");
        fs::write(folder.path().join("bad/pod.json"), "{").expect("written");
        assert_eq!(read_all(folder.path()), [pod]);
        assert!(read_all(&folder.path().join("none")).is_empty());
    }
}
