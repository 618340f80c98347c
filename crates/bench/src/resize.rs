//! How long after the API's answer to a resize the new limit is in the container's cgroup.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kobune_testbed::Cluster;
use serde_json::{Value, json};

use crate::client::{on_host, send};
use crate::print;
use crate::statistics::percentile;

const PODS: &str = "/api/v1/namespaces/default/pods";
/// Limits that the pod gets in turn, in thousandths of a CPU.
const LIMITS: [u32; 2] = [300, 200];
const ROUNDS: usize = 100;
const PATIENCE: Duration = Duration::from_secs(60);

/// Where cgroups limit CPUs, and the file that says how much: version 1 or 2.
fn tree() -> (PathBuf, &'static str) {
    let first = PathBuf::from("/sys/fs/cgroup/cpu");
    if first.is_dir() { (first, "cpu.cfs_quota_us") } else { ("/sys/fs/cgroup".into(), "cpu.max") }
}

/// The only folder below `folder` whose name ends so.
fn find(folder: &Path, end: &str) -> Option<PathBuf> {
    for entry in std::fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if path.file_name()?.to_string_lossy().ends_with(end) {
                return Some(path);
            }
            if let Some(found) = find(&path, end) {
                return Some(found);
            }
        }
    }
    None
}

/// Measures resizes of one pod without a restart.
pub fn measure(cluster: &Cluster) -> Result<()> {
    let mut took = on_host(cluster, |config| async move {
        let client = kube::Client::try_from(config)?;
        let limits = |cpu: u32| json!({"requests": {"cpu": "10m"}, "limits": {"cpu": format!("{cpu}m")}});
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "resized"},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [
                {"name": "c", "image": "kobune.local/kobune", "imagePullPolicy": "Never",
                 "command": ["sleep", "infinity"], "resources": limits(LIMITS[1])}]}});
        send(&client, "POST", PODS, Some(pod.to_string())).await?;
        let path = format!("{PODS}/resized");
        let begun = Instant::now();
        let pod: Value = loop {
            let pod: Value = serde_json::from_str(&send(&client, "GET", &path, None).await?)?;
            if pod["status"]["phase"] == "Running" {
                break pod;
            }
            ensure!(begun.elapsed() < PATIENCE, "the pod does not run: {}", pod["status"]);
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let uid = pod["metadata"]["uid"].as_str().context("a pod has a uid")?;
        let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().context("a container has an id")?;
        let (root, file) = tree();
        let group = find(&root, &format!("pod{uid}")).context("the pod has a cgroup")?;
        let file = group.join(id.trim_start_matches("kobune://")).join(file);
        let mut took = Vec::new();
        for limit in LIMITS.iter().cycle().take(ROUNDS) {
            let patch = json!({"spec": {"containers": [{"name": "c", "image": "kobune.local/kobune", "resources": limits(*limit)}]}});
            send(&client, "PATCH", &format!("{path}/resize"), Some(patch.to_string())).await?;
            let answered = Instant::now();
            let wanted = (limit * 100).to_string();
            while std::fs::read_to_string(&file)?.split_whitespace().next() != Some(&wanted) {
                if answered.elapsed() > PATIENCE {
                    bail!("the limit is not in {}", file.display());
                }
            }
            took.push(answered.elapsed().as_secs_f64() * 1e3);
        }
        send(&client, "DELETE", &path, None).await?;
        Ok(took)
    })?;
    print("resize_p50", percentile(&mut took, 0.5), "ms from the API's answer to the limit in the cgroup");
    print("resize_p99", percentile(&mut took, 0.99), "ms from the API's answer to the limit in the cgroup");
    Ok(())
}
