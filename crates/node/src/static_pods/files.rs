//! From the files of a folder to pods. What one file says wrong concerns no other.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Toleration};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{HASH, MIRROR, SOURCE};

/// A manifest longer than this is not read: nobody writes such a pod.
const LONGEST: u64 = 1 << 20;
/// More files than this are not looked at.
const MOST: usize = 1000;

/// Why a file is no pod.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It can't be read.
    #[error("it can't be read")]
    Read(#[source] io::Error),
    /// It is too long.
    #[error("it is longer than {LONGEST} bytes")]
    TooLong,
    /// It is neither YAML nor JSON.
    #[error("it is not YAML")]
    Yaml(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It describes something else.
    #[error("it is a {0:?}, not a Pod of v1")]
    Kind(String),
    /// It is a pod with a wrong field.
    #[error("it is not a Pod")]
    Pod(#[source] serde_json::Error),
    /// A pod without a name or containers.
    #[error("{0}")]
    Incomplete(&'static str),
}

/// The pods of a folder; files that are none are named in the log. Blocks.
pub fn read(folder: &Path, node: &str) -> io::Result<Vec<Pod>> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    paths.truncate(MOST);
    let mut pods: BTreeMap<(String, String), Pod> = BTreeMap::new();
    for path in paths {
        match read_one(&path, node) {
            Ok(Some(pod)) => {
                let key = (crate::pod::namespace(&pod).to_owned(), crate::pod::name(&pod).to_owned());
                match pods.entry(key) {
                    Entry::Vacant(place) => {
                        place.insert(pod);
                    }
                    Entry::Occupied(_) => {
                        tracing::warn!(file = %path.display(), "the static pod of this file has the name of another one");
                    }
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(file = %path.display(), error = &error as &dyn std::error::Error, "a file holds no static pod");
            }
        }
    }
    Ok(pods.into_values().collect())
}

/// `None` for an empty file: its writer is not done, and the end of the writing is told too.
fn read_one(path: &Path, node: &str) -> Result<Option<Pod>, FileError> {
    let length = fs::metadata(path).map_err(FileError::Read)?.len();
    if length > LONGEST {
        return Err(FileError::TooLong);
    }
    let text = fs::read_to_string(path).map_err(FileError::Read)?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    parse(&text, path, node).map(Some)
}

/// The pod of a manifest, as it is to run here. Pure but for the time that it notes.
fn parse(text: &str, path: &Path, node: &str) -> Result<Pod, FileError> {
    let value: Value = serde_saphyr::from_str(text).map_err(|error| FileError::Yaml(Box::new(error)))?;
    let field = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    if field("kind") != "Pod" || field("apiVersion") != "v1" {
        return Err(FileError::Kind(format!("{} {}", field("apiVersion"), field("kind")).trim().to_owned()));
    }
    let mut pod: Pod = serde_json::from_value(value.clone()).map_err(FileError::Pod)?;
    let spec = pod.spec.as_mut().filter(|spec| !spec.containers.is_empty());
    let spec = spec.ok_or(FileError::Incomplete("the pod has no containers"))?;
    let name = pod.metadata.name.clone().filter(|name| !name.is_empty());
    let name = name.ok_or(FileError::Incomplete("the pod has no name"))?;
    spec.node_name = Some(node.to_owned());
    // What the node itself is to run is not evicted from it by a taint.
    let everything = Toleration {
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        ..Toleration::default()
    };
    spec.tolerations.get_or_insert_default().push(everything);
    let hash = hash(node, path, &value);
    pod.status = None;
    let metadata = &mut pod.metadata;
    metadata.name = Some(format!("{name}-{}", node.to_lowercase()));
    metadata.namespace.get_or_insert_with(|| "default".to_owned());
    metadata.uid = Some(hash.clone());
    metadata.resource_version = None;
    metadata.generate_name = None;
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.remove(MIRROR);
    annotations.insert(HASH.to_owned(), hash);
    annotations.insert(SOURCE.to_owned(), "file".to_owned());
    annotations.insert("kubernetes.io/config.seen".to_owned(), Timestamp::now().to_string());
    Ok(pod)
}

/// The same for the same file with the same content on the same node, and for nothing else.
fn hash(node: &str, path: &Path, value: &Value) -> String {
    let digest = Sha256::digest(format!("{node}\0{}\0{value}", path.display()));
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod;

    const GOOD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}, annotations: {kubernetes.io/config.mirror: forged}}
spec: {containers: [{name: c, image: img}]}
";

    #[test]
    fn a_manifest_becomes_a_pod_of_this_node() {
        let path = Path::new("/m/web.yaml");
        let pod = parse(GOOD, path, "Node-1").expect("a pod");
        assert_eq!((pod::namespace(&pod), pod::name(&pod)), ("default", "web-node-1"));
        assert_eq!(pod::spec(&pod).node_name.as_deref(), Some("Node-1"));
        assert!(super::super::is_static(&pod) && super::super::mirrored(&pod).is_none());
        let uid = pod::uid(&pod);
        assert_eq!(uid, parse(GOOD, path, "Node-1").expect("a pod").metadata.uid.expect("a uid"));
        let others = [
            parse(GOOD, path, "node-2"),
            parse(GOOD, Path::new("/m/other.yaml"), "Node-1"),
            parse(&GOOD.replace("img", "img2"), path, "Node-1"),
        ];
        for other in others {
            assert_ne!(pod::uid(&other.expect("a pod")), uid);
        }
    }

    #[test]
    fn what_is_no_pod_is_told() {
        let check = |text: &str, expected: &str| {
            let error = parse(text, Path::new("/m/f"), "n").expect_err("it is no pod");
            assert!(error.to_string().contains(expected), "{text}: {error}");
        };
        check("a: [", "not YAML");
        check("just text", "not a Pod");
        check("{apiVersion: apps/v1, kind: Deployment}", "apps/v1 Deployment");
        check("{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: []}}", "no containers");
        check("{apiVersion: v1, kind: Pod, spec: {containers: [{name: a}]}}", "no name");
        check("{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: 3}}", "not a Pod");
    }

    #[test]
    fn one_bad_file_hides_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("written");
        write("good.yaml", GOOD);
        write("same-name.yaml", GOOD);
        write("bad.yaml", "a: [");
        write("empty.yaml", "");
        write(".hidden.yaml", &GOOD.replace("web", "hidden"));
        fs::create_dir(folder.path().join("folder")).expect("made");
        let names: Vec<String> = read(folder.path(), "n")
            .expect("the folder can be read")
            .iter()
            .map(|pod| pod::name(pod).to_owned())
            .collect();
        assert_eq!(names, ["web-n"]);
    }
}
