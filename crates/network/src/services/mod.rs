//! Keeping the machine's nftables table in step with Services, EndpointSlices, NetworkPolicies and this node's pods.
//!
//! [`plan`] decides what the table should be, [`table`] finds the smallest transaction that leads there, [`nft`] runs
//! it. Each change wakes the loop; a few milliseconds later everything that changed meanwhile goes into one
//! transaction. The rules stay when kobune ends or is killed, and the first transaction of the next run replaces the
//! whole table at once.

pub mod conntrack;
pub mod health;
pub mod nft;
pub mod plan;
pub mod table;

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{Network, cluster::Cluster};
use plan::{Place, Plan};

/// How long to gather changes before a transaction: a rollout changes several objects in a row.
const GATHER: Duration = Duration::from_millis(4);

/// How long to wait before trying a refused transaction again.
const RETRY: Duration = Duration::from_secs(2);

/// Keeps the table current until `token` is cancelled. The rules stay in place afterwards.
pub async fn run(network: Arc<Network>, cluster: Arc<Cluster>, node_name: String, token: CancellationToken) {
    token.run_until_cancelled(follow(network, cluster, node_name)).await;
}

async fn follow(network: Arc<Network>, cluster: Arc<Cluster>, node: String) {
    network.expect_rules();
    let config = network.config();
    let place = Place {
        table: config.table.clone(),
        node,
        pod_cidrs: config.pod_cidrs.clone(),
        cluster_cidrs: config.cluster_cidrs.clone(),
        service_cidrs: config.service_cidrs.clone(),
        dns_addresses: config.dns_addresses.clone(),
        gateways: network.gateways().to_vec(),
        link_prefix: config.link_prefix(),
    };
    let mut objects = cluster.changes();
    let mut pods = network.pod_changes();
    let mut health = health::Ports::default();
    let mut ranges = place.service_cidrs.iter().map(ipnet::IpNet::trunc).collect();
    // What the kernel has; none until this run has made the table, and after a failure.
    let mut applied: Option<Plan> = None;
    loop {
        // Until the lists are complete the rules of the former run are the best there are.
        // So are they while the first policy has pods and namespaces listed.
        cluster.wait_synced().await;
        objects.mark_unchanged();
        let generation = *pods.borrow_and_update();
        let local = network.local_pods();
        let (wanted, checks, all_ranges) = cluster.read(|tables| {
            let wanted = plan::plan(&place, tables, &local);
            (wanted, health::plan(tables, &place.node), plan::service_ranges(&place, tables))
        });
        if ranges != all_ranges {
            match network.set_service_routes(&ranges, &all_ranges).await {
                Ok(()) => ranges = all_ranges,
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "the routes to Services were not set");
                }
            }
        }
        health.set(checks).await;
        let commands = table::difference(applied.as_ref().map(|plan| &plan.table), &wanted.table);
        if !commands.is_empty() {
            let text = table::render(&wanted.table.name, &commands);
            if let Err(error) = nft::apply(&text).await {
                tracing::error!(error = &error as &dyn std::error::Error, "service rules could not be changed");
                applied = None;
                tokio::time::sleep(RETRY).await;
                continue;
            }
        }
        network.rules_are_in_force(generation, cluster.read(|tables| !tables.policies.is_empty()));
        let gone: Vec<plan::UdpPath> =
            applied.iter().flat_map(|plan| plan.udp.difference(&wanted.udp)).copied().collect();
        applied = Some(wanted);
        if !gone.is_empty() {
            let forgotten = tokio::task::spawn_blocking(move || conntrack::forget(&gone)).await;
            match forgotten {
                Ok(Ok(count)) => tracing::debug!(count, "forgot UDP connections to endpoints that are gone"),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "UDP connections to endpoints that are gone stay until they time out")
                }
                Err(error) => tracing::warn!(%error, "forgetting UDP connections did not finish"),
            }
        }
        tokio::select! {
            // Both only mark what `mark_unchanged` resets, so that dropping either loses nothing.
            changed = objects.changed() => if changed.is_err() { return },
            changed = pods.changed() => if changed.is_err() { return },
        }
        tokio::time::sleep(GATHER).await;
    }
}
