//! From creating a pod to Running, one at a time and many at once, and what a pod's shim costs.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt};
use kobune_testbed::Cluster;
use kube::api::{Api, DynamicObject, WatchEvent, WatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::json;

use crate::client::{on_host, send};
use crate::statistics::percentile;
use crate::{print, process};

const PODS: &str = "/api/v1/namespaces/default/pods";

/// Measures pods.
pub fn measure(cluster: &Cluster) -> Result<()> {
    let mut one_by_one = run(cluster, "single", 20, false)?;
    print("pod_running_p50", percentile(&mut one_by_one, 0.5), "ms");
    print("pod_running_p90", percentile(&mut one_by_one, 0.9), "ms");
    let shims: Vec<_> = process::of(cluster)?.into_iter().filter(|process| process.shim).collect();
    let private = shims.iter().map(|shim| process::private(shim.id)).sum::<Result<u64>>()?;
    let shared = shims.iter().map(|shim| process::proportional_set_size(shim.id)).sum::<Result<u64>>()?;
    print("shim_private_memory", private as f64 / shims.len() as f64 / 1e6, "MB a pod");
    print("shim_memory", shared as f64 / shims.len() as f64 / 1e6, "MB a pod");
    clear(cluster)?;
    let mut burst = run(cluster, "burst", 50, true)?;
    print("pod_burst_of_50", percentile(&mut burst, 1.0), "ms until the last is Running");
    let start = Instant::now();
    clear(cluster)?;
    print("pod_deletion_of_50", start.elapsed().as_secs_f64() * 1e3, "ms until the last is gone");
    Ok(())
}

/// Creates `count` pods and gives the milliseconds that each took to be Running.
fn run(cluster: &Cluster, prefix: &str, count: usize, at_once: bool) -> Result<Vec<f64>> {
    on_host(cluster, |config| async move {
        let client = kube::Client::try_from(config)?;
        let api = pods(&client);
        let version =
            api.list_metadata(&Default::default()).await?.metadata.resource_version.context("a list has a version")?;
        let mut events = api.watch(&WatchParams::default(), &version).await?.boxed();
        let mut started = HashMap::new();
        let mut took = Vec::new();
        let mut created = 0;
        while took.len() < count {
            while created < count && (at_once || created == took.len()) {
                let name = format!("{prefix}-{created}");
                started.insert(name.clone(), Instant::now());
                send(&client, "POST", PODS, Some(pod(&name))).await?;
                created += 1;
            }
            let event = tokio::time::timeout(Duration::from_secs(120), events.try_next()).await;
            let Some(event) = event.context("no pod became Running for two minutes")?? else {
                bail!("the watch ended")
            };
            if let WatchEvent::Modified(pod) = event {
                let running = pod.data["status"]["phase"] == "Running";
                if let Some(start) = pod.metadata.name.filter(|_| running).and_then(|name| started.remove(&name)) {
                    took.push(start.elapsed().as_secs_f64() * 1e3);
                }
            }
        }
        Ok(took)
    })
}

/// Deletes all pods in one request and waits until the last is gone. kubectl would ask for each of them and hold back
/// its own requests.
fn clear(cluster: &Cluster) -> Result<()> {
    on_host(cluster, |config| async move {
        let client = kube::Client::try_from(config)?;
        let api = pods(&client);
        let before = api.list_metadata(&Default::default()).await?;
        let version = before.metadata.resource_version.context("a list has a version")?;
        let mut left = before.items.len();
        let mut events = api.watch(&WatchParams::default(), &version).await?.boxed();
        send(&client, "DELETE", PODS, None).await?;
        while left > 0 {
            let event = tokio::time::timeout(Duration::from_secs(120), events.try_next()).await;
            match event.context("no pod went for two minutes")?? {
                Some(WatchEvent::Deleted(_)) => left -= 1,
                Some(_) => {}
                None => bail!("the watch ended"),
            }
        }
        Ok(())
    })
}

fn pods(client: &kube::Client) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), "default", &ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Pod")))
}

fn pod(name: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false, "containers": [
            {"name": "c", "image": "kobune.local/kobune", "imagePullPolicy": "Never", "command": ["sleep", "infinity"]}]}
    })
    .to_string()
}
