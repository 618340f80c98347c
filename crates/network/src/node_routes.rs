//! Routes to the pods of other nodes: each node's range by way of the node's address, or through the overlay.
//!
//! A node that is not on a link of this machine cannot be routed to plainly; without an overlay that is said once and left
//! alone. What this
//! node's own object says of its zone goes to whoever chooses endpoints.
//!
//! Routes go with the link that they lead by; when links change, what is missing is put back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::link_news::LinkNews;
use crate::network::NodeRoute;
use crate::{Network, overlay};

/// How long to wait before a route that the kernel refused is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// By node, where its pods are and how they are reached.
type Wanted = BTreeMap<String, Vec<(IpNet, NodeRoute)>>;

/// Keeps the routes current until `token` is cancelled. They stay in place afterwards.
pub async fn run(
    network: Arc<Network>,
    cluster: Arc<Cluster>,
    client: kube::Client,
    own_name: String,
    token: CancellationToken,
) {
    token.run_until_cancelled(follow(network, cluster, client, own_name)).await;
}

async fn follow(network: Arc<Network>, cluster: Arc<Cluster>, client: kube::Client, own_name: String) {
    let stream = watcher(Api::<Node>::all(client), watcher::Config::default()).default_backoff();
    let mut stream = std::pin::pin!(stream);
    let mut wanted = Wanted::new();
    let mut listed: Option<BTreeSet<String>> = None;
    let mut told = BTreeSet::new();
    let mut failed = false;
    let mut news = match LinkNews::open() {
        Ok(news) => Some(news),
        Err(error) => {
            tracing::warn!(%error, "routes that go with a link are not noticed");
            None
        }
    };
    loop {
        let event = tokio::select! {
            // Dropping an arm loses nothing: the stream keeps its events, and the others only say "again".
            event = stream.next() => event,
            () = tokio::time::sleep(RETRY), if failed => Some(Ok(watcher::Event::InitDone)),
            Ok(()) = heard(news.as_mut()), if !wanted.is_empty() && listed.is_none() => {
                Some(Ok(watcher::Event::InitDone))
            }
        };
        if let Some(Ok(watcher::Event::InitApply(node) | watcher::Event::Apply(node))) = &event
            && node.name_any() == own_name
        {
            note_zone(&cluster, node);
        }
        let changed = match event {
            None => return,
            Some(Err(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "the watch of nodes is started again");
                false
            }
            Some(Ok(watcher::Event::Init)) => {
                listed = Some(BTreeSet::new());
                false
            }
            Some(Ok(watcher::Event::InitApply(node))) => {
                if let Some(listed) = &mut listed {
                    listed.insert(node.name_any());
                }
                note(&mut wanted, &own_name, &node);
                false
            }
            Some(Ok(watcher::Event::InitDone)) => {
                if let Some(listed) = listed.take() {
                    wanted.retain(|name, _| listed.contains(name));
                }
                true
            }
            Some(Ok(watcher::Event::Apply(node))) => note(&mut wanted, &own_name, &node),
            Some(Ok(watcher::Event::Delete(node))) => wanted.remove(&node.name_any()).is_some(),
        };
        // Before the first list is whole, a route that is there may belong to a node that was not named yet.
        if !changed || listed.is_some() {
            continue;
        }
        failed = false;
        let routes: BTreeMap<IpNet, NodeRoute> = wanted.values().flatten().copied().collect();
        match network.set_node_routes(&routes).await {
            Ok(unreachable) => {
                for (range, gateway) in &unreachable {
                    failed = true;
                    if told.insert(*range) {
                        tracing::warn!(%range, %gateway, "the pods of a node cannot be routed to: it is on no link of this machine");
                    }
                }
                told.retain(|range| unreachable.contains_key(range));
            }
            Err(error) => {
                failed = true;
                tracing::warn!(error = &error as &dyn std::error::Error, "the routes to other nodes were not set");
            }
        }
    }
}

/// Returns when links have changed; never without a listener.
async fn heard(news: Option<&mut LinkNews>) -> std::io::Result<()> {
    match news {
        Some(news) => news.changed().await,
        None => std::future::pending().await,
    }
}

/// Takes over the zone that this node is in.
fn note_zone(cluster: &Cluster, node: &Node) {
    let labels = node.metadata.labels.as_ref();
    let zone = labels.and_then(|labels| labels.get("topology.kubernetes.io/zone")).map(|zone| Box::from(zone.as_str()));
    cluster.update(|tables| std::mem::replace(&mut tables.zone, zone.clone()) != zone);
}

/// Takes over what a node says of itself. Whether that changed anything.
fn note(wanted: &mut Wanted, own_name: &str, node: &Node) -> bool {
    let name = node.name_any();
    if name == own_name {
        return false;
    }
    let routes = routes_of(node);
    if wanted.get(&name).map_or(routes.is_empty(), |known| *known == routes) {
        return false;
    }
    wanted.insert(name, routes);
    true
}

/// The ranges of a node's pods, each with how it is reached.
fn routes_of(node: &Node) -> Vec<(IpNet, NodeRoute)> {
    let spec = node.spec.as_ref();
    let ranges = spec.and_then(|spec| spec.pod_cidrs.clone().or_else(|| spec.pod_cidr.clone().map(|one| vec![one])));
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    let internal: Vec<IpAddr> = addresses
        .into_iter()
        .flatten()
        .filter(|address| address.type_ == "InternalIP")
        .filter_map(|address| address.address.parse().ok())
        .collect();
    let ranges: Vec<IpNet> = ranges.unwrap_or_default().iter().filter_map(|range| range.parse().ok()).collect();
    let (Some(underlay), Some(first)) = (internal.first().copied(), ranges.first()) else { return Vec::new() };
    let mac = overlay::mac(overlay::gateway(first));
    let route = |range: &IpNet| {
        let node = internal.iter().find(|address| address.is_ipv4() == range.network().is_ipv4()).copied();
        (*range, NodeRoute { node, underlay, mac })
    };
    ranges.iter().map(route).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nodes_say_where_their_pods_are() {
        let node = |name: &str, ranges: &[&str], addresses: &[&str]| -> Node {
            let addresses: Vec<_> =
                addresses.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"podCIDRs": ranges},
                "status": {"addresses": addresses}}))
            .expect("a node")
        };
        let mut wanted = Wanted::new();
        assert!(note(&mut wanted, "own", &node("a", &["10.244.1.0/24", "fd00:1::/64"], &["192.0.2.1", "2001:db8::1"])));
        assert!(!note(
            &mut wanted,
            "own",
            &node("a", &["10.244.1.0/24", "fd00:1::/64"], &["192.0.2.1", "2001:db8::1"])
        ));
        assert!(!note(&mut wanted, "own", &node("own", &["10.244.0.0/24"], &["192.0.2.9"])));
        assert!(!note(&mut wanted, "own", &node("b", &[], &[])), "one without a range changes nothing");
        assert!(note(&mut wanted, "own", &node("c", &["fd00:2::/64", "x"], &["192.0.2.2"])));
        let via = |route: &NodeRoute| {
            route.node.map_or_else(|| format!("only behind {}", route.underlay), |node| node.to_string())
        };
        let text: Vec<String> =
            wanted.values().flatten().map(|(range, route)| format!("{range} {}", via(route))).collect();
        assert_eq!(text, ["10.244.1.0/24 192.0.2.1", "fd00:1::/64 2001:db8::1", "fd00:2::/64 only behind 192.0.2.2"]);
        assert!(note(&mut wanted, "own", &node("a", &["10.244.1.0/24"], &["192.0.2.7"])), "a new address counts");
    }
}
