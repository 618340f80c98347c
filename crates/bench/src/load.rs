//! The API server under load: creates with watchers, gets, lists, patches.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt, stream};
use kobune_testbed::Cluster;
use serde_json::json;

use crate::client::{on_host, send};
use crate::statistics::percentile;
use crate::{print, process};

/// How many requests are under way at a time.
const CONCURRENCY: usize = 32;
/// How many watches follow the creates.
const WATCHERS: usize = 20;
/// How many connections carry the load.
const CONNECTIONS: usize = 8;

/// Puts the load on and measures.
pub fn measure(cluster: &Cluster, objects: usize) -> Result<()> {
    on_host(cluster, |config| async move {
        let clients =
            (0..CONNECTIONS).map(|_| kube::Client::try_from(config.clone())).collect::<Result<Vec<_>, _>>()?;
        let first = &clients[0];
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "load"}});
        send(first, "POST", "/api/v1/namespaces", Some(namespace.to_string())).await?;
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        // The controller may have been faster; either way the account is there.
        if send(first, "POST", "/api/v1/namespaces/load/serviceaccounts", Some(account.to_string())).await.is_err() {
            send(first, "GET", "/api/v1/namespaces/load/serviceaccounts/default", None).await?;
        }
        let seen = Arc::new(AtomicUsize::new(0));
        for _ in 0..WATCHERS {
            let (client, seen) = (kube::Client::try_from(config.clone())?, Arc::clone(&seen));
            tokio::spawn(async move { watch(&client, &seen).await });
        }
        create(&clients, objects, &seen).await?;
        rate("get_rate", &clients, objects.min(20_000), |index| {
            ("GET", format!("{PODS}/load-{:06}", (index * 7919) % objects), None)
        })
        .await?;
        for (name, query, times) in [("list_all", "", 10), ("list_by_label", "?labelSelector=shard%3Ds7", 100)] {
            let mut took = Vec::new();
            for _ in 0..times {
                let start = Instant::now();
                send(first, "GET", &format!("{PODS}{query}"), None).await?;
                took.push(start.elapsed().as_secs_f64() * 1e3);
            }
            print(&format!("{name}_p50"), percentile(&mut took, 0.5), "ms");
        }
        rate("merge_patch_rate", &clients, objects.min(5_000), |index| {
            let patch = json!({"metadata": {"labels": {"round": format!("r{index}")}}});
            ("PATCH", format!("{PODS}/load-{index:06}"), Some(patch.to_string()))
        })
        .await?;
        Ok(())
    })?;
    print("memory_after_load", process::proportional_set_size(cluster.process_id())? as f64 / 1e6, "MB");
    Ok(())
}

const PODS: &str = "/api/v1/namespaces/load/pods";

async fn create(clients: &[kube::Client], objects: usize, seen: &AtomicUsize) -> Result<()> {
    let start = Instant::now();
    let mut took: Vec<f64> = stream::iter(0..objects)
        .map(|index| async move {
            let start = Instant::now();
            send(&clients[index % clients.len()], "POST", PODS, Some(pod(index))).await?;
            anyhow::Ok(start.elapsed().as_secs_f64() * 1e3)
        })
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await?;
    print("create_rate", objects as f64 / start.elapsed().as_secs_f64(), "a second");
    print("create_p50", percentile(&mut took, 0.5), "ms");
    print("create_p99", percentile(&mut took, 0.99), "ms");
    let last = Instant::now();
    while seen.load(Ordering::Relaxed) < objects * WATCHERS {
        if last.elapsed() > Duration::from_secs(30) {
            bail!("watchers have seen {} events of {}", seen.load(Ordering::Relaxed), objects * WATCHERS);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    print("watch_lag_after_last_create", last.elapsed().as_secs_f64() * 1e3, "ms");
    Ok(())
}

async fn rate(
    name: &str,
    clients: &[kube::Client],
    count: usize,
    request: impl Fn(usize) -> (&'static str, String, Option<String>),
) -> Result<()> {
    let start = Instant::now();
    stream::iter(0..count)
        .map(|index| {
            let (method, path, body) = request(index);
            async move { send(&clients[index % clients.len()], method, &path, body).await.map(drop) }
        })
        .buffer_unordered(CONCURRENCY)
        .try_collect::<()>()
        .await?;
    print(name, count as f64 / start.elapsed().as_secs_f64(), "a second");
    Ok(())
}

/// Counts the events of a watch until it ends.
async fn watch(client: &kube::Client, seen: &AtomicUsize) -> Result<()> {
    let request = http::Request::get(format!("{PODS}?watch=1&timeoutSeconds=600")).body(Vec::new())?;
    let mut lines = client.request_stream(request).await?.lines();
    while lines.try_next().await?.is_some() {
        seen.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn pod(index: usize) -> String {
    let env: Vec<_> =
        (0..10).map(|key| json!({"name": format!("VAR_{key}"), "value": format!("value-{index}-{key}")})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("load-{index:06}"), "labels": {"app": "load", "shard": format!("s{}", index % 100)},
                     "annotations": {"example.com/note": "x".repeat(200)}},
        // A node that does not exist: the pods stay as they are, only the API works.
        "spec": {"nodeName": "no-such-node", "automountServiceAccountToken": false, "containers": [
            {"name": "c", "image": "registry.example/app:v1", "env": env, "ports": [{"containerPort": 8080}],
             "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "32Mi"}}}]}
    })
    .to_string()
}
