//! Keeping the machine's nftables table in step with Services, EndpointSlices, NetworkPolicies and this node's pods.
//!
//! What depends on no service ([`plan`]) is planned whole and compared ([`table`]); services, which can be many, are
//! planned one by one from what changed ([`serve`], [`current`]). [`nft`] applies chains and rules, [`batch`] the elements
//! of maps, which are all that most changes consist of. Each change wakes the loop; a few milliseconds later everything
//! that changed meanwhile goes in together. The rules stay when kobune ends or is killed, and the first transaction of the
//! next run replaces the whole table at once.

pub mod batch;
pub mod conntrack;
pub mod current;
pub mod elements;
pub mod health;
mod lost;
pub(crate) mod netfilter;
pub mod nft;
pub mod plan;
pub mod serve;
#[cfg(test)]
mod simulated;
pub mod table;

use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use crate::{
    Network,
    cluster::{Cluster, Tables},
};
use current::{Change, Current, Step, from_nothing};
use lost::Lost;
use plan::{Place, Plan};
use serve::Surroundings;

/// How long to gather changes before a transaction: a rollout changes several objects in a row.
const GATHER: Duration = Duration::from_millis(4);

/// How long to wait before trying a refused transaction again.
const RETRY: Duration = Duration::from_secs(2);

/// Why the kernel's rules are not what they should be.
#[derive(Debug, thiserror::Error)]
enum RulesError {
    /// Chains or rules.
    #[error("change chains and rules")]
    Chains {
        /// The cause.
        #[from]
        source: nft::NftError,
    },
    /// Elements of maps.
    #[error("change elements of maps")]
    Elements {
        /// The cause.
        #[from]
        source: io::Error,
    },
}

/// Keeps the table current until `token` is cancelled. The rules stay in place afterwards.
pub async fn run(network: Arc<Network>, cluster: Arc<Cluster>, node_name: String, token: CancellationToken) {
    token.run_until_cancelled(follow(network, cluster, node_name)).await;
}

/// What the kernel's table was made from.
struct Applied {
    /// What depends on no service.
    plan: Plan,
    /// The counts that `plan` follows.
    counts: (u64, u64),
    around: Surroundings,
    current: Current,
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
        plugins: config.plugins.is_some(),
    };
    let mut objects = cluster.changes();
    let mut pods = network.pod_changes();
    let mut health = health::Ports::default();
    let mut ranges: BTreeSet<IpNet> = place.service_cidrs.iter().map(IpNet::trunc).collect();
    // None until this run has made the table, and after a failure.
    let mut applied: Option<Applied> = None;
    let mut lost = match Lost::open(&place.table) {
        Ok(lost) => Some(lost),
        Err(error) => {
            tracing::warn!(%error, "whether somebody takes the rules away is not noticed");
            None
        }
    };
    loop {
        // Until the lists are complete the rules of the former run are the best there are.
        // So are they while the first policy has pods and namespaces listed.
        cluster.wait_synced().await;
        objects.mark_unchanged();
        let generation = *pods.borrow_and_update();
        let local = network.local_pods();
        let addresses: BTreeSet<_> = local.iter().flat_map(|pod| pod.ips.iter().copied()).collect();
        let (counts, around, changes) = cluster.take(|tables| {
            let around = Surroundings { zone: tables.zone.clone(), ranges: plan::service_ranges(&place, tables) };
            let counts = (generation, tables.policy_changes());
            // What surrounds services has a part in each: without the former one, all are made anew.
            let same = applied.as_ref().is_some_and(|applied| applied.around == around);
            (counts, around, tables.take_changes().filter(|_| same))
        });
        if ranges != around.ranges {
            match network.set_service_routes(&ranges, &around.ranges).await {
                Ok(()) => ranges = around.ranges.clone(),
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "the routes to Services were not set");
                }
            }
        }
        let known = applied.is_some();
        let result = match (applied.take(), changes) {
            (Some(mut applied), Some(changes)) => {
                let fresh =
                    (applied.counts != counts).then(|| cluster.read(|tables| plan::plan(&place, tables, &local)));
                let changes = changes.into_iter().map(|(key, before, after)| Change { key, before, after });
                let step = applied.current.step(&place, &around, changes, addresses);
                let gone = change(&place, &applied.plan, fresh.as_ref(), step).await;
                gone.map(|mut gone| {
                    if let Some(fresh) = fresh {
                        gone.extend(applied.plan.udp.difference(&fresh.udp));
                        applied.plan = fresh;
                    }
                    (Applied { counts, ..applied }, gone)
                })
            }
            (before, _) => {
                let (plan, all) = cluster.read(|tables| (plan::plan(&place, tables, &local), tables.all_objects()));
                let mut current = Current::default();
                let step = current.step(&place, &around, from_nothing(all), addresses);
                // Which of the paths of before are gone is not known one by one; a zone or a range that changes is rare.
                let gone = before.iter().flat_map(|before| before.plan.udp.difference(&plan.udp)).copied().collect();
                let made = replace(&plan, step).await;
                made.map(|()| (Applied { plan, counts, around, current }, gone))
            }
        };
        let gone = match result {
            Ok((now, gone)) => {
                applied = Some(now);
                gone
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "service rules could not be changed");
                // A change that does not fit what the kernel has is no reason to wait: making all anew may do at once.
                if !known {
                    tokio::time::sleep(RETRY).await;
                }
                continue;
            }
        };
        health.set(cluster.read(|tables| health::plan(tables, &place.node))).await;
        network.rules_are_in_force(generation, cluster.read(Tables::has_policies));
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
            Ok(()) = heard(lost.as_mut()) => {}
        }
        tokio::time::sleep(GATHER).await;
        if lost.as_mut().is_some_and(Lost::is_gone) {
            tracing::warn!(table = %place.table, "somebody took the rules away; they are made anew");
            applied = None;
        }
    }
}

/// Returns when something is heard of tables; never without a listener.
async fn heard(lost: Option<&mut Lost>) -> io::Result<()> {
    match lost {
        Some(lost) => lost.hear().await,
        None => std::future::pending().await,
    }
}

/// Makes the whole table anew, in one transaction.
async fn replace(plan: &Plan, step: Step) -> Result<(), RulesError> {
    let name = &plan.table.name;
    let mut text = table::render(name, &table::difference(None, &plan.table));
    let spreads: Vec<table::Command> = step.spreads.iter().flat_map(|spread| spread.commands()).collect();
    text.push_str(&table::render(name, &spreads));
    text.push_str(&table::render(name, &step.make));
    table::render_elements(&mut text, name, &step.fresh);
    drop(step);
    Ok(nft::apply(&text).await?)
}

/// Changes what is to change, and answers which UDP paths of services are no more.
async fn change(
    place: &Place,
    before: &Plan,
    fresh: Option<&Plan>,
    step: Step,
) -> Result<Vec<plan::UdpPath>, RulesError> {
    if !step.spreads.is_empty() {
        batch::make(&place.table, &step.spreads)?;
    }
    let mut commands = fresh.map(|fresh| table::difference(Some(&before.table), &fresh.table)).unwrap_or_default();
    commands.extend(step.make);
    if !commands.is_empty() {
        nft::apply(&table::render(&place.table, &commands)).await?;
    }
    if !step.gone.is_empty() || !step.fresh.is_empty() {
        // The kernel answers within the call, and a usual change takes it less than handing the work to another thread.
        batch::apply(&place.table, &step.gone, &step.fresh)?;
    }
    if !step.clear.is_empty() {
        nft::apply(&table::render(&place.table, &step.clear)).await?;
    }
    Ok(step.udp_gone)
}
