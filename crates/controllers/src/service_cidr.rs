//! ServiceCIDRs: says which are ready, and keeps those that Services still have addresses of from going away.
//!
//! Upstream: <https://github.com/kubernetes/kubernetes/tree/master/pkg/controller/servicecidrs> (KEP-1880).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::runtime::watcher;
use serde_json::{Value, json};

use crate::clock;
use crate::context::{Context, enqueue_changes};
use crate::informer::Store;
use crate::object::{Cached, ObjectKey};
use crate::queue::{Doing, PassError, Queue, Revisit, is_not_found};

/// Keeps a range until nobody has an address of it.
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// Marks the addresses that the API server gave to Services.
const ALLOCATED: &str = "ipaddress.kubernetes.io/managed-by=ipallocator";
/// How long until a range that is going away is looked at again: the API server frees an address a little after its
/// Service has gone, and nobody tells.
const AGAIN: Duration = Duration::from_secs(2);

type Ranges = Store<ServiceCIDR>;

/// Starts the controller and its watch.
pub fn start(context: &Arc<Context>) {
    let (ranges, queue) = (Arc::<Ranges>::default(), Arc::<Queue>::default());
    enqueue_changes(&ranges, &queue);
    // A range that becomes ready may cover what kept another one.
    let (all, wake) = (ranges.clone(), queue.clone());
    ranges.on_change(move |_, _| wake_leaving(&all, &wake));
    let (all, wake) = (ranges.clone(), queue.clone());
    context.caches.services.on_change(move |_, after| {
        if after.is_none() {
            wake_leaving(&all, &wake);
        }
    });
    let known = ranges.clone();
    let ready = async move { known.synced().await };
    let (shared, store) = (context.clone(), ranges.clone());
    context.run_controller("servicecidr", queue, ready, move |key| pass(shared.clone(), store.clone(), key));
    context.follow_some::<ServiceCIDR, _>("servicecidrs", watcher::Config::default(), &ranges);
}

fn wake_leaving(ranges: &Ranges, queue: &Queue) {
    ranges.all().iter().filter(|range| range.deleting()).for_each(|range| queue.add(range.key()));
}

async fn pass(context: Arc<Context>, ranges: Arc<Ranges>, key: ObjectKey) -> Result<Revisit, PassError> {
    let Some(range) = ranges.get(&key) else { return Ok(None) };
    let api = Api::<ServiceCIDR>::all(context.client.clone());
    let held = if range.deleting() {
        let list = Api::<IPAddress>::all(context.client.clone()).list(&ListParams::default().labels(ALLOCATED)).await;
        let addresses = list.doing("listing the addresses of services")?.items;
        let addresses: Vec<IpAddr> =
            addresses.iter().filter_map(|address| address.metadata.name.as_deref()?.parse().ok()).collect();
        is_held(&range, &ranges.all(), &addresses)
    } else {
        false
    };
    for change in plan(&range, held) {
        let written = match change {
            Change::Finalizers(finalizers) => {
                let change =
                    json!({"metadata": {"finalizers": finalizers, "resourceVersion": range.metadata.resource_version}});
                api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&change)).await
            }
            Change::Status(status) => {
                api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&json!({"status": status}))).await
            }
        };
        match written {
            Ok(written) => ranges.wrote(written),
            Err(error) if is_not_found(&error) => return Ok(None),
            Err(error) => return Err(error).doing("writing a ServiceCIDR"),
        }
    }
    Ok(held.then_some(AGAIN))
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
enum Change {
    Finalizers(Vec<String>),
    Status(Value),
}

fn parsed(range: &ServiceCIDR) -> Vec<IpNet> {
    range.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten()).filter_map(|text| text.parse().ok()).collect()
}

/// Whether one of the addresses is in this range and in no other that stays.
fn is_held(range: &ServiceCIDR, all: &[Arc<ServiceCIDR>], addresses: &[IpAddr]) -> bool {
    let own = parsed(range);
    let others: Vec<IpNet> = all
        .iter()
        .filter(|other| other.uid() != range.uid() && !other.deleting())
        .flat_map(|other| parsed(other))
        .collect();
    let covers = |ranges: &[IpNet], address: &IpAddr| ranges.iter().any(|range| range.contains(address));
    addresses.iter().any(|address| covers(&own, address) && !covers(&others, address))
}

/// What is to be written of a range. `held` only counts when it is going away.
fn plan(range: &ServiceCIDR, held: bool) -> Vec<Change> {
    let mut finalizers = range.metadata.finalizers.clone().unwrap_or_default();
    let kept = finalizers.iter().any(|finalizer| finalizer == FINALIZER);
    let conditions = range.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let says = conditions.clone().find(|condition| condition.type_ == "Ready").map(|condition| &*condition.status);
    let ready = |status: &str, reason: &str, message: &str| {
        let now = clock::now();
        Change::Status(json!({"conditions": [{
            "type": "Ready", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }]}))
    };
    let mut changes = Vec::new();
    match (range.deleting(), held) {
        (false, _) => {
            if !kept {
                finalizers.push(FINALIZER.to_owned());
                changes.push(Change::Finalizers(finalizers));
            }
            if says != Some("True") {
                changes.push(ready("True", "", "Kubernetes Service CIDR is ready"));
            }
        }
        (true, true) => {
            if says != Some("False") {
                let message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
                changes.push(ready("False", "Terminating", message));
            }
        }
        (true, false) if kept => {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
            changes.push(Change::Finalizers(finalizers));
        }
        (true, false) => {}
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(uid: &str, cidr: &str, finalizers: &[&str], ready: Option<&str>, deleted: bool) -> ServiceCIDR {
        let conditions = ready.map(|status| {
            json!([{"type": "Ready", "status": status, "reason": "", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}])
        });
        serde_json::from_value(json!({
            "metadata": {"name": uid, "uid": uid, "finalizers": finalizers, "deletionTimestamp": deleted.then_some("2026-01-01T00:00:00Z")},
            "spec": {"cidrs": [cidr]}, "status": {"conditions": conditions},
        }))
        .expect("a ServiceCIDR")
    }

    #[test]
    fn writes() {
        let check = |finalizers: &[&str], ready: Option<&str>, deleted: bool, held: bool, expected: &[&str]| {
            let found: Vec<String> = plan(&range("a", "10.0.0.0/24", finalizers, ready, deleted), held)
                .iter()
                .map(|change| match change {
                    Change::Finalizers(all) => format!("finalizers {}", all.join(",")),
                    Change::Status(status) => format!("ready {}", status["conditions"][0]["status"]),
                })
                .collect();
            assert_eq!(found, expected);
        };
        let added = format!("finalizers {FINALIZER}");
        check(&[], None, false, false, &[&added, "ready \"True\""]);
        check(&[FINALIZER], Some("True"), false, false, &[]);
        check(&[FINALIZER], Some("False"), false, false, &["ready \"True\""]);
        check(&["other", FINALIZER], Some("True"), true, false, &["finalizers other"]);
        check(&[FINALIZER], Some("True"), true, true, &["ready \"False\""]);
        check(&[FINALIZER], Some("False"), true, true, &[]);
        check(&[], Some("True"), true, false, &[]);
    }

    #[test]
    fn addresses_hold_their_range() {
        let own = range("a", "10.0.0.0/24", &[], None, true);
        let check = |others: Vec<ServiceCIDR>, address: &str, expected: bool| {
            let all: Vec<Arc<ServiceCIDR>> = others.into_iter().chain([own.clone()]).map(Arc::new).collect();
            assert_eq!(is_held(&own, &all, &[address.parse().expect("an address")]), expected, "{address}");
        };
        check(vec![], "10.0.0.9", true);
        check(vec![], "10.0.1.9", false);
        check(vec![range("b", "10.0.0.0/16", &[], None, false)], "10.0.0.9", false);
        check(vec![range("b", "10.0.0.0/16", &[], None, true)], "10.0.0.9", true);
    }
}
