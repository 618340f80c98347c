//! Pod ranges: `spec.podCIDR` of each node, out of the cluster's ranges.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};

use crate::Error;
use crate::context::{Context, enqueue_changes};
use crate::object::{Cached, ObjectKey};
use crate::queue::{Doing, PassError, Queue, Revisit, is_not_found};

/// Prefix length of one node's IPv6 range, as upstream.
const IPV6_MASK: u8 = 64;

/// A cluster range and what a node gets out of it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Range {
    first: u128,
    width: u8,
    prefix: u8,
    node_prefix: u8,
}

/// Starts the controller.
pub fn start(context: &Arc<Context>) -> Result<(), Error> {
    let ranges = parse(&context.config.cluster_cidr, context.config.node_cidr_mask_size);
    let ranges = ranges.ok_or_else(|| Error::ClusterCidr { value: context.config.cluster_cidr.clone() })?;
    let queue = Arc::<Queue>::default();
    enqueue_changes(&context.caches.nodes, &queue);
    let nodes = context.caches.nodes.clone();
    let ready = async move { nodes.synced().await };
    // One range is chosen and written at a time: the next choice has to see it.
    let turn = Arc::<tokio::sync::Mutex<()>>::default();
    let (own, ranges) = (context.clone(), Arc::<[Range]>::from(ranges));
    context.run_controller("node-ipam", queue, ready, move |key| pass(own.clone(), ranges.clone(), turn.clone(), key));
    Ok(())
}

async fn pass(
    context: Arc<Context>,
    ranges: Arc<[Range]>,
    turn: Arc<tokio::sync::Mutex<()>>,
    key: ObjectKey,
) -> Result<Revisit, PassError> {
    let nodes = &context.caches.nodes;
    let own = |node: &Node| {
        node.spec.as_ref().and_then(|spec| spec.pod_cidrs.clone().or(spec.pod_cidr.clone().map(|one| vec![one])))
    };
    let missing = || nodes.get(&key).is_some_and(|node| own(&node).is_none_or(|all| all.is_empty()));
    if !missing() {
        return Ok(None);
    }
    let _turn = turn.lock().await;
    if !missing() {
        return Ok(None);
    }
    // Whoever has its turn gives ranges to all nodes that wait: what is in use is looked at once.
    let mut used: HashSet<String> = context.config.own_pod_cidrs.iter().cloned().collect();
    let mut waiting = Vec::new();
    for node in nodes.all() {
        match own(&node).filter(|all| !all.is_empty()) {
            Some(all) => used.extend(all),
            None => waiting.push(node.key()),
        }
    }
    let mut from = vec![0; ranges.len()];
    let api = Api::<Node>::all(context.client.clone());
    for node in waiting {
        let Some(chosen) = choose(&ranges, &used, &mut from) else {
            return Err(PassError::Object { what: "the cluster CIDR has no range left for another node".to_owned() });
        };
        let change = serde_json::json!({"spec": {"podCIDR": chosen.first(), "podCIDRs": chosen}});
        match api.patch(&node.name, &PatchParams::default(), &Patch::Strategic(&change)).await {
            Ok(written) => nodes.wrote(written),
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(error).doing("giving a node its pod range"),
        }
        used.extend(chosen);
    }
    Ok(None)
}

fn parse(text: &str, ipv4_mask: u8) -> Option<Vec<Range>> {
    let one = |text: &str| {
        let (address, prefix) = text.trim().split_once('/')?;
        let prefix: u8 = prefix.parse().ok()?;
        let (bits, width, node_prefix) = match address.parse().ok()? {
            IpAddr::V4(address) => (u128::from(u32::from(address)), 32, ipv4_mask),
            IpAddr::V6(address) => (u128::from(address), 128, IPV6_MASK),
        };
        let host_bits = u32::from(u8::checked_sub(width, prefix)?);
        let first = bits.checked_shr(host_bits).unwrap_or(0).checked_shl(host_bits).unwrap_or(0);
        (prefix <= node_prefix && node_prefix <= width).then_some(Range { first, width, prefix, node_prefix })
    };
    text.split(',').map(one).collect()
}

/// The lowest free range of each cluster range. `from` says which are known to be in use, all below it; it moves on.
fn choose(ranges: &[Range], used: &HashSet<String>, from: &mut [u128]) -> Option<Vec<String>> {
    let one = |(range, from): (&Range, &mut u128)| {
        let count = 1u128 << (range.node_prefix - range.prefix).min(16);
        let step = u32::from(range.width - range.node_prefix);
        let mut texts = (*from..count).map(|index| {
            let bits = range.first + (index << step);
            let address = match u32::try_from(bits) {
                Ok(bits) if range.width == 32 => IpAddr::V4(bits.into()),
                _ => IpAddr::V6(bits.into()),
            };
            (index, format!("{address}/{}", range.node_prefix))
        });
        let (index, text) = texts.find(|(_, text)| !used.contains(text))?;
        *from = index;
        Some(text)
    };
    ranges.iter().zip(from).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_ranges() {
        let check = |cluster: &str, mask: u8, used: &[&str], expected: Option<&[&str]>| {
            let used = used.iter().map(|text| (*text).to_owned()).collect();
            let found = parse(cluster, mask).and_then(|ranges| choose(&ranges, &used, &mut vec![0; ranges.len()]));
            assert_eq!(found, expected.map(|all| all.iter().map(|text| (*text).to_owned()).collect()), "{cluster}");
        };
        check("10.244.0.0/16", 24, &[], Some(&["10.244.0.0/24"]));
        check("10.244.0.0/16", 24, &["10.244.0.0/24", "10.244.2.0/24"], Some(&["10.244.1.0/24"]));
        check("10.244.0.0/16,fd00::/48", 24, &["fd00::/64"], Some(&["10.244.0.0/24", "fd00:0:0:1::/64"]));
        check("10.244.0.0/24", 24, &["10.244.0.0/24"], None);
        check("10.244.0.0/25", 24, &[], None);
        check("nonsense", 24, &[], None);
    }
}
