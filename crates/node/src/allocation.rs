//! The resources that this node has granted to a pod. They differ from what the pod asks for while a resize waits.
//!
//! What was granted and what is in force is kept beside the pod's manifest (`allocation.json`), so that kobune, started
//! again, neither grants twice nor forgets. Source: KEP-1287, "Kubelet Checkpoints".

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use k8s_openapi::api::core::v1::{Pod, PodSpec, ResourceRequirements};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::quantity::Amount;

const NAME: &str = "allocation.json";

/// Requests and limits of a pod, of each of its containers and of the whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Allocation {
    /// Of the pod as a whole, if it says so.
    pub pod: Option<ResourceRequirements>,
    /// By the container's name.
    pub containers: BTreeMap<String, ResourceRequirements>,
}

impl Allocation {
    /// What a specification asks for.
    pub fn of(spec: &PodSpec) -> Allocation {
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        Allocation {
            pod: spec.resources.clone(),
            containers: containers
                .map(|container| (container.name.clone(), container.resources.clone().unwrap_or_default()))
                .collect(),
        }
    }

    /// The pod with these resources instead of those that it asks for.
    pub fn overlay(&self, pod: &Pod) -> Pod {
        let mut pod = pod.clone();
        if let Some(spec) = &mut pod.spec {
            spec.resources.clone_from(&self.pod);
            for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
                if let Some(own) = self.containers.get(&container.name) {
                    container.resources = Some(own.clone());
                }
            }
        }
        pod
    }
}

/// Which of the resources that can change while a container runs differ.
pub fn changed(before: &ResourceRequirements, after: &ResourceRequirements) -> Vec<&'static str> {
    let amount = |map: Option<&BTreeMap<String, _>>, name: &str| map.and_then(|map| map.get(name)).map(Amount::of);
    let differs = |name: &&str| {
        amount(before.requests.as_ref(), name) != amount(after.requests.as_ref(), name)
            || amount(before.limits.as_ref(), name) != amount(after.limits.as_ref(), name)
    };
    ["cpu", "memory"].into_iter().filter(differs).collect()
}

/// What is kept of one pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// What the node has granted.
    pub allocated: Allocation,
    /// What is in force; a container that never ran is not in it.
    pub actuated: Allocation,
}

/// Reads what is kept of a pod; `None` when the pod is new here. Blocks for one small read.
pub fn read(pod_dir: &Path) -> io::Result<Option<Record>> {
    match std::fs::read(pod_dir.join(NAME)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Not forced to disk: it has to survive the end of this program, and after a power cut everything starts anew.
fn write(pod_dir: &Path, record: &Record) -> io::Result<()> {
    let bytes = serde_json::to_vec(record)?;
    std::fs::create_dir_all(pod_dir)?;
    let next = pod_dir.join("allocation.json.new");
    std::fs::write(&next, bytes)?;
    std::fs::rename(next, pod_dir.join(NAME))
}

/// A pod's record in memory, written to disk in order.
#[derive(Debug, Default)]
pub struct Book {
    record: Mutex<Record>,
    writing: tokio::sync::Mutex<()>,
}

impl Book {
    /// A book that begins with this.
    pub fn new(record: Record) -> Book {
        Book { record: Mutex::new(record), writing: tokio::sync::Mutex::default() }
    }

    /// The record as it is now.
    pub fn record(&self) -> Record {
        self.record.lock().clone()
    }

    /// Changes the record; [`Book::save`] brings it to disk.
    pub fn change(&self, change: impl FnOnce(&mut Record)) {
        change(&mut self.record.lock());
    }

    /// Writes the newest record. Saves never overtake each other.
    pub async fn save(&self, pod_dir: &Path) -> io::Result<()> {
        let _turn = self.writing.lock().await;
        let (record, pod_dir) = (self.record(), pod_dir.to_path_buf());
        tokio::task::spawn_blocking(move || write(&pod_dir, &record)).await?
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_runs_with_what_it_was_granted() {
        let pod = |cpu: &str| -> Pod {
            serde_json::from_value(json!({"spec": {"containers": [
                {"name": "a", "resources": {"requests": {"cpu": cpu}}}, {"name": "b"}]}}))
            .expect("a pod")
        };
        let granted = Allocation::of(pod("1").spec.as_ref().expect("spec"));
        let mut runs = granted.overlay(&pod("2"));
        assert_eq!(Allocation::of(runs.spec.as_ref().expect("spec")), granted);
        runs.spec.as_mut().expect("spec").containers[1].resources = None;
        assert_eq!(runs, pod("1"));
    }

    #[test]
    fn spelling_is_no_change() {
        let resources =
            |text: serde_json::Value| -> ResourceRequirements { serde_json::from_value(text).expect("resources") };
        let before = resources(json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2"}}));
        let check =
            |after: serde_json::Value, expected: &[&str]| assert_eq!(changed(&before, &resources(after)), expected);
        check(json!({"requests": {"cpu": "1000m", "memory": "1024Mi"}, "limits": {"cpu": "2000m"}}), &[]);
        check(json!({"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"cpu": "2"}}), &["memory"]);
        check(
            json!({"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "1Gi"}}),
            &["cpu", "memory"],
        );
    }

    #[tokio::test]
    async fn records_survive() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(read(folder.path()).expect("it can be read"), None);
        let book = Book::default();
        book.change(|record| drop(record.allocated.containers.insert("a".to_owned(), ResourceRequirements::default())));
        book.save(folder.path()).await.expect("it is written");
        assert_eq!(read(folder.path()).expect("it can be read"), Some(book.record()));
    }
}
