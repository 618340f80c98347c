//! `kobune simulate`: a whole cluster whose nodes are not there.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, Result, bail};
use clap::Args;
use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::UpOptions;
use crate::server::{self, Server};
use crate::{instance, settings, up};

/// Pods of one Deployment that `--pods` makes.
const PODS_A_DEPLOYMENT: u32 = 1_000;
/// The namespace of the pods that `--pods` makes.
const NAMESPACE: &str = "simulated";
/// A node of the fourth family has a range of 256 addresses.
const MOST_PODS: u32 = 250;

/// The flags of `simulate`.
#[derive(Debug, Clone, Args)]
#[command(mut_arg("cluster_cidr", |cidr| cidr.default_value("10.128.0.0/9")))]
pub struct SimulateOptions {
    /// How many nodes
    #[arg(long, value_name = "COUNT", env = "KOBUNE_SIMULATE_NODES", default_value_t = 10)]
    pub nodes: u32,
    /// How many pods to begin with, in Deployments of a thousand in the namespace simulated
    #[arg(long, value_name = "COUNT", env = "KOBUNE_SIMULATE_PODS", default_value_t = 0)]
    pub pods: u32,
    /// The processors of each node
    #[arg(long, value_name = "QUANTITY", env = "KOBUNE_SIMULATE_NODE_CPU", default_value = "32")]
    pub node_cpu: String,
    /// The memory of each node
    #[arg(long, value_name = "QUANTITY", env = "KOBUNE_SIMULATE_NODE_MEMORY", default_value = "256Gi")]
    pub node_memory: String,
    /// How many zones the nodes are in
    #[arg(long, value_name = "COUNT", env = "KOBUNE_SIMULATE_ZONES", default_value_t = 3)]
    pub zones: u32,
    /// Flags as those of `server`; --max-pods and --node-label are for each node
    #[command(flatten)]
    pub up: UpOptions,
}

/// Runs until `token` is cancelled or a part fails.
pub async fn run(options: SimulateOptions, token: CancellationToken) -> Result<()> {
    let (server_settings, node_settings) = settings::resolve(&options.up)?;
    if node_settings.max_pods > MOST_PODS {
        bail!("--max-pods {}: a node has addresses for {MOST_PODS} pods", node_settings.max_pods);
    }
    let names = server_settings.names.clone();
    let start = std::time::Instant::now();
    let _instance = instance::take(&names.data_dir)?;
    let ip = node_settings.ips.first().copied().unwrap_or_else(server::own_address);
    let server = Server::build(server_settings, &node_settings.name, ip).await?;
    // One client for all nodes: a kubelet's rights end at its own node.
    let client = server.client_as("system:kobune-simulator", &["system:masters"]);
    let mut parts = JoinSet::new();
    let serving = CancellationToken::new();
    server.start(Vec::new(), &mut parts, &token, serving.clone());
    let simulation = kobune_simulator::run(
        client.clone(),
        kobune_simulator::Config {
            nodes: options.nodes,
            size: kobune_simulator::Size {
                cpu: options.node_cpu,
                memory: options.node_memory,
                pods: node_settings.max_pods,
            },
            zones: options.zones,
            labels: node_settings.labels.into_iter().collect(),
            version: settings::VERSION.to_owned(),
        },
        token.clone(),
    );
    parts.spawn(async { ("simulation", simulation.await.context("simulation")) });
    let ready = async {
        if options.pods > 0 {
            nodes_ready(client.clone(), options.nodes as usize).await?;
        }
        make_pods(client, options.pods).await
    };
    tokio::select! {
        made = ready => made?,
        () = token.cancelled() => {}
    }
    up::announce(ip, options.up.port, &names, start);
    up::supervise(parts, &token, Some(serving)).await
}

/// Waits until pods can run on this many nodes: pods that come before find only the first of them, and stay there.
async fn nodes_ready(client: kube::Client, count: usize) -> Result<()> {
    let nodes = watcher(Api::<Node>::all(client), watcher::Config::default()).default_backoff().applied_objects();
    let mut nodes = std::pin::pin!(nodes);
    let mut ready = HashSet::new();
    while ready.len() < count {
        match nodes.next().await {
            Some(Ok(node)) => {
                let name = node.metadata.name.unwrap_or_default();
                let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
                // Any other taint is what somebody wants.
                if taints.iter().any(|taint| taint.key == "node.kubernetes.io/not-ready") {
                    ready.remove(&name);
                } else {
                    ready.insert(name);
                }
            }
            Some(Err(error)) => tracing::debug!(%error, "the simulated nodes are not watched"),
            None => bail!("the watch of the simulated nodes ended"),
        }
    }
    Ok(())
}

/// Wants this many pods; what was wanted in an earlier run is changed to that.
async fn make_pods(client: kube::Client, pods: u32) -> Result<()> {
    if pods == 0 {
        return Ok(());
    }
    let apply = PatchParams::apply("kobune-simulate").force();
    let namespace = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    let namespaces = Api::<Namespace>::all(client.clone());
    namespaces.patch(NAMESPACE, &apply, &Patch::Apply(&namespace)).await.context("make the namespace of --pods")?;
    let deployments = Api::<Deployment>::namespaced(client, NAMESPACE);
    for (number, replicas) in shares(pods).into_iter().enumerate() {
        let name = format!("simulated-{number}");
        let labels = BTreeMap::from([("app", &name)]);
        let deployment = serde_json::json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": labels},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels},
                "spec": {"automountServiceAccountToken": false, "containers": [{"name": "simulated", "image": "kobune.local/kobune",
                    "resources": {"requests": {"cpu": "100m", "memory": "100Mi"}}}]},
            }},
        });
        deployments.patch(&name, &apply, &Patch::Apply(&deployment)).await.context("make the pods of --pods")?;
    }
    Ok(())
}

/// The replicas of each Deployment.
fn shares(pods: u32) -> Vec<u32> {
    let whole = std::iter::repeat_n(PODS_A_DEPLOYMENT, (pods / PODS_A_DEPLOYMENT) as usize);
    whole.chain(Some(pods % PODS_A_DEPLOYMENT).filter(|rest| *rest > 0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_shared_out() {
        assert_eq!(shares(0), Vec::<u32>::new());
        assert_eq!(shares(1), [1]);
        assert_eq!(shares(2000), [1000, 1000]);
        assert_eq!(shares(2001), [1000, 1000, 1]);
    }
}
