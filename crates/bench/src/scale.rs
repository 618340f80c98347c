//! Many nodes that are not there: how fast pods get to them, and what the cluster takes for it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt};
use kobune_testbed::Cluster;
use kube::api::{Api, DynamicObject, WatchEvent, WatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use crate::client::{on_host, send};
use crate::{print, process};

/// Pods of each Deployment.
const A_DEPLOYMENT: usize = 1_000;
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(600);
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

/// Measures a cluster of so many nodes.
pub fn measure(executable: &Path, nodes: u32, deployments: usize) -> Result<()> {
    let cluster = Cluster::builder(executable).simulated(nodes).start()?;
    let name = |what: &str| format!("nodes_{nodes}_{what}");
    let id = cluster.process_id();
    on_host(&cluster, |config| async move {
        let client = kube::Client::try_from(config)?;
        until(&client, "", "v1", "Node", nodes as usize, |node| {
            node["spec"]["podCIDR"].is_string()
                && node["status"]["conditions"].as_array().is_some_and(|all| {
                    all.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
                })
        })
        .await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let before = process::proportional_set_size(id)?;
        print(&name("memory"), before as f64 / 1e6, "MB");

        let pods = deployments * A_DEPLOYMENT;
        let clock = Clock::start(id)?;
        for number in 0..deployments {
            send(&client, "POST", DEPLOYMENTS, Some(deployment(&format!("load-{number}"), "first").to_string()))
                .await?;
        }
        until(&client, "", "v1", "Pod", pods, |pod| pod["spec"]["nodeName"].is_string()).await?;
        let scheduled = clock.begin.elapsed().as_secs_f64();
        print(&name("pods_scheduled"), pods as f64 / scheduled, "a second");
        until(&client, "apps", "v1", "Deployment", deployments, all_available).await?;
        clock.print(&name(&format!("{pods}_pods_ready")))?;
        tokio::time::sleep(Duration::from_secs(15)).await;
        let after = process::proportional_set_size(id)?;
        print(&name("memory_with_pods"), after as f64 / 1e6, "MB");
        print(&name("memory_a_pod"), after.saturating_sub(before) as f64 / 1e3 / pods as f64, "kB");

        let clock = Clock::start(id)?;
        send(&client, "POST", DEPLOYMENTS, Some(deployment("one", "first").to_string())).await?;
        until(&client, "apps", "v1", "Deployment", deployments + 1, all_available).await?;
        clock.print(&name("deployment_of_1000_ready"))?;

        let clock = Clock::start(id)?;
        let change = deployment("one", "second");
        send(&client, "PATCH", &format!("{DEPLOYMENTS}/one"), Some(json!({"spec": change["spec"]}).to_string()))
            .await?;
        until(&client, "apps", "v1", "Deployment", deployments + 1, all_available).await?;
        clock.print(&name("rolling_update_of_1000"))?;

        let (first, begin) = (requests(&client).await?, Instant::now());
        tokio::time::sleep(Duration::from_secs(60)).await;
        let second = requests(&client).await?;
        // The two readings of the counters are requests themselves, of which the first is counted.
        print(&name("idle_requests_but_leases"), second - first - 1.0, "a minute");
        eprintln!("idle for {:?}", begin.elapsed());

        fill(&client).await?;
        let clock = Clock::start(id)?;
        send(&client, "DELETE", "/api/v1/namespaces/full", None).await?;
        let gone = Instant::now();
        while send(&client, "GET", "/api/v1/namespaces/full", None).await.is_ok() {
            if gone.elapsed() > LIMIT {
                bail!("the namespace is still there");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        clock.print(&name("namespace_of_5000_gone"))?;
        Ok(())
    })
}

/// Time and processor time since a moment.
struct Clock {
    id: u32,
    begin: Instant,
    used: f64,
}

impl Clock {
    fn start(id: u32) -> Result<Self> {
        Ok(Self { id, begin: Instant::now(), used: process::processor_time(id)? })
    }

    fn print(&self, name: &str) -> Result<()> {
        print(name, self.begin.elapsed().as_secs_f64(), "s");
        print(&format!("{name}_cpu"), process::processor_time(self.id)? - self.used, "s of a core");
        Ok(())
    }
}

/// Fills a namespace with five thousand objects: a thousand pods with their Deployment, the rest ConfigMaps.
async fn fill(client: &kube::Client) -> Result<()> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "full"}});
    send(client, "POST", "/api/v1/namespaces", Some(namespace.to_string())).await?;
    let path = "/apis/apps/v1/namespaces/full/deployments";
    send(client, "POST", path, Some(deployment("full", "first").to_string())).await?;
    futures::stream::iter(0..4_000 - 2)
        .map(|number| async move {
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m-{number}")}, "data": {"a": "b"}});
            send(client, "POST", "/api/v1/namespaces/full/configmaps", Some(map.to_string())).await
        })
        .buffer_unordered(32)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    until(client, "apps", "v1", "Deployment", 1, |one| one["metadata"]["namespace"] == "full" && all_available(one))
        .await
}

fn deployment(name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": A_DEPLOYMENT, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "c", "image": image, "resources": {"requests": {"cpu": "10m", "memory": "10Mi"}}}]},
        }},
    })
}

fn all_available(deployment: &Value) -> bool {
    let status = &deployment["status"];
    let wanted = &deployment["spec"]["replicas"];
    status["observedGeneration"] == deployment["metadata"]["generation"]
        && [&status["replicas"], &status["updatedReplicas"], &status["availableReplicas"]]
            .iter()
            .all(|found| *found == wanted)
}

/// Waits until `count` objects of a kind are as wanted.
async fn until(
    client: &kube::Client,
    group: &str,
    version: &str,
    kind: &str,
    count: usize,
    wanted: impl Fn(&Value) -> bool,
) -> Result<()> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let api = Api::<DynamicObject>::all_with(client.clone(), &resource);
    let there = api.list(&Default::default()).await?;
    let mut seen = std::collections::HashSet::new();
    let mut take = |object: DynamicObject| {
        let value = serde_json::to_value(&object)?;
        let key = (object.metadata.namespace, object.metadata.name);
        if wanted(&value) {
            seen.insert(key)
        } else {
            seen.remove(&key)
        };
        anyhow::Ok(seen.len())
    };
    let mut number = 0;
    for object in there.items {
        number = take(object)?;
    }
    let mut from = there.metadata.resource_version.context("a list has a version")?;
    while number < count {
        let mut events = api.watch(&WatchParams::default(), &from).await?.boxed();
        while number < count {
            let event = tokio::time::timeout(LIMIT, events.try_next()).await;
            match event.with_context(|| format!("{number} of {count} {kind}s are as wanted"))?? {
                Some(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                    from = object.metadata.resource_version.clone().context("an object has a version")?;
                    number = take(object)?;
                }
                Some(WatchEvent::Error(status)) => bail!("the watch says: {}", status.message),
                Some(_) => {}
                None => break,
            }
        }
    }
    Ok(())
}

/// Requests answered until now, those about leases and watches left aside.
async fn requests(client: &kube::Client) -> Result<f64> {
    let text = send(client, "GET", "/metrics", None).await?;
    let lines = text.lines().filter(|line| line.starts_with("apiserver_request_total{"));
    let counted = lines.filter(|line| !line.contains("resource=\"leases\"") && !line.contains("verb=\"WATCH\""));
    Ok(counted.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}
