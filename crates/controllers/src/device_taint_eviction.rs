//! Evicts pods that use devices with a `NoExecute` taint which their claims do not bear, or not any longer.
//!
//! Taints stand in ResourceSlices, put there by drivers with the time since when they count; tolerations stand in a claim's
//! allocation. Rules of administrators (`DeviceTaintRule`) are off by default in 1.36 and absent here. Upstream: KEP-5055,
//! <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/devicetainteviction/device_taint_eviction.go>.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod as ApiPod;
use k8s_openapi::api::resource::v1::{
    DeviceRequestAllocationResult, DeviceTaint, DeviceToleration, ResourceClaim, ResourceSlice,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kobune_scheduler::device_match::tolerates;
use kobune_scheduler::recorder::{Recorder, Severity};
use kube::api::{Api, DeleteParams, Preconditions};
use kube::runtime::watcher;
use parking_lot::Mutex;

use crate::clock;
use crate::context::Context;
use crate::informer::Store;
use crate::object::{Cached, ObjectKey};
use crate::pod::Pod;
use crate::pod_control::disrupt;
use crate::queue::{Doing, PassError, Queue, Revisit, is_conflict, is_not_found};
use crate::resource_claim::{Claims, is_for, users};

/// The longest wait before the clock is looked at again: a machine that slept has a wrong idea of how long it has waited.
const LONGEST_WAIT: Duration = Duration::from_secs(60 * 60);

/// What of a ResourceSlice matters: in which pool it is, and which of its devices are tainted.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    name: Box<str>,
    uid: Box<str>,
    version: u64,
    driver: Box<str>,
    pool: Box<str>,
    generation: i64,
    tainted: Vec<(Box<str>, DeviceTaint)>,
}

impl From<ResourceSlice> for Slice {
    fn from(slice: ResourceSlice) -> Self {
        let (uid, version) = (slice.uid().into(), slice.revision());
        let devices = slice.spec.devices.into_iter().flatten();
        let tainted = devices.flat_map(|device| {
            let taints = device.taints.into_iter().flatten().filter(|taint| taint.effect == "NoExecute");
            taints.map(move |taint| (device.name.as_str().into(), taint))
        });
        Self {
            name: slice.metadata.name.unwrap_or_default().into(),
            uid,
            version,
            driver: slice.spec.driver.into(),
            pool: slice.spec.pool.name.into(),
            generation: slice.spec.pool.generation,
            tainted: tainted.collect(),
        }
    }
}

impl Cached for Slice {
    fn key(&self) -> ObjectKey {
        ObjectKey::new("", &self.name)
    }

    fn uid(&self) -> &str {
        &self.uid
    }

    fn revision(&self) -> u64 {
        self.version
    }

    fn owners(&self) -> &[OwnerReference] {
        &[]
    }

    fn deleting(&self) -> bool {
        false
    }
}

/// What the passes share.
#[derive(Clone)]
struct Known {
    slices: Arc<Store<Slice>>,
    claims: Claims,
    /// The pods that wait to be evicted, by their uid.
    waiting: Arc<Mutex<HashSet<Box<str>>>>,
    recorder: Recorder,
}

/// Starts the controller.
pub fn start(context: &Arc<Context>, claims: &Claims) {
    let queue = Arc::<Queue>::default();
    let known = Known {
        slices: Arc::default(),
        claims: claims.clone(),
        waiting: Arc::default(),
        recorder: context.recorder.for_component("device-taint-eviction-controller"),
    };
    let (wake, waits) = (queue.clone(), known.waiting.clone());
    context.caches.pods.on_change(move |before, after| {
        let Some(pod) = after.or(before).filter(|pod| !pod.device_claims.is_empty()) else { return };
        let of = |pod: &Arc<Pod>| (pod.node.clone(), pod.device_claims.clone(), pod.deleting());
        if before.map(of) != after.map(of) || waits.lock().contains(&pod.uid) {
            wake.add(pod.key());
        }
    });
    let wake = queue.clone();
    claims.on_change(move |before, after| {
        for claim in [before, after].into_iter().flatten() {
            enqueue_users(claim, &wake);
        }
    });
    let (wake, all) = (queue.clone(), claims.clone());
    known.slices.on_change(move |before, after| {
        let Some(slice) = after.or(before) else { return };
        let of = |slice: &Arc<Slice>| (slice.tainted.clone(), slice.generation);
        // An older slice that goes, or a newer one that comes, may lay bare what is tainted.
        if before.map(of) != after.map(of) {
            for claim in all.all().iter().filter(|claim| devices(claim).any(|device| slice.is_of(device))) {
                enqueue_users(claim, &wake);
            }
        }
    });
    let (pods, of_claims, of_slices) = (context.caches.pods.clone(), claims.clone(), known.slices.clone());
    let ready = async move {
        pods.synced().await;
        of_claims.synced().await;
        of_slices.synced().await;
    };
    context.follow_some::<ResourceSlice, _>("resourceslices", watcher::Config::default(), &known.slices);
    let own = context.clone();
    context.run_controller("device-taint-eviction", queue, ready, move |key| pass(own.clone(), known.clone(), key));
}

fn devices(claim: &ResourceClaim) -> impl Iterator<Item = &DeviceRequestAllocationResult> {
    let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref());
    allocation
        .and_then(|allocation| allocation.devices.as_ref())
        .and_then(|found| found.results.as_ref())
        .into_iter()
        .flatten()
}

fn enqueue_users(claim: &ResourceClaim, queue: &Queue) {
    let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
    for user in users(claim).iter().filter(|user| user.resource == "pods") {
        queue.add(ObjectKey::new(namespace, &user.name));
    }
}

impl Slice {
    /// Whether a device that was given out may stand in this slice.
    fn is_of(&self, device: &DeviceRequestAllocationResult) -> bool {
        *self.driver == *device.driver && *self.pool == *device.pool
    }
}

/// When the first of these devices is not borne any longer, if ever. Of a pool only the newest generation counts.
fn due<'c>(
    devices: impl Iterator<Item = &'c DeviceRequestAllocationResult>,
    slices: &[Arc<Slice>],
) -> Option<Timestamp> {
    let each = devices.filter_map(|device| {
        let pool = || slices.iter().filter(|slice| slice.is_of(device));
        let newest = pool().map(|slice| slice.generation).max()?;
        let taints = pool().filter(|slice| slice.generation == newest).flat_map(|slice| &slice.tainted);
        let taints = taints.filter(|(name, _)| **name == *device.device);
        let tolerations = device.tolerations.as_deref().unwrap_or_default();
        taints.filter_map(|(_, taint)| end_of_tolerance(taint, tolerations)).min()
    });
    each.min()
}

/// When a taint is not borne any longer; never when one of the tolerations that are about it has no end.
fn end_of_tolerance(taint: &DeviceTaint, tolerations: &[DeviceToleration]) -> Option<Timestamp> {
    let since = taint.time_added.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let mut about = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).peekable();
    if about.peek().is_none() {
        return Some(since);
    }
    let mut shortest = i64::MAX;
    for toleration in about {
        shortest = shortest.min(toleration.toleration_seconds?.max(0));
    }
    Some(since.saturating_add(SignedDuration::from_secs(shortest)).unwrap_or(Timestamp::MAX))
}

/// When a pod is to go: by the claims that it names, that are reserved for it and, where they were made for it, its own.
fn due_of(pod: &Pod, known: &Known) -> Option<Timestamp> {
    pod.node.as_ref()?;
    let claims = pod.device_claims.iter().filter_map(|used| {
        let claim = known.claims.get(&ObjectKey::new(pod.namespace(), used.claim.as_deref()?))?;
        let own = used.template.is_none() || is_for(&claim, pod, used);
        let reserved = users(&claim).iter().any(|user| *user.uid == *pod.uid);
        (own && reserved).then_some(claim)
    });
    let slices = known.slices.all();
    claims.filter_map(|claim| due(devices(&claim), &slices)).min()
}

async fn pass(context: Arc<Context>, known: Known, key: ObjectKey) -> Result<Revisit, PassError> {
    let Some(pod) = context.caches.pods.get(&key) else { return Ok(None) };
    if pod.deleting() || pod.ended() {
        known.waiting.lock().remove(&pod.uid);
        return Ok(None);
    }
    let Some(due) = due_of(&pod, &known) else {
        if known.waiting.lock().remove(&pod.uid) {
            let message = "Cancelling deletion";
            known.recorder.event(&pod.reference(), Severity::Normal, "DeviceTaintManagerEviction", message.to_owned());
        }
        return Ok(None);
    };
    let left = due.duration_since(clock::now());
    if left.is_positive() {
        known.waiting.lock().insert(pod.uid.clone());
        return Ok(Some(left.unsigned_abs().min(LONGEST_WAIT)));
    }
    let message = "Marking for deletion";
    known.recorder.event(&pod.reference(), Severity::Normal, "DeviceTaintManagerEviction", message.to_owned());
    let reason = ("DeletionByDeviceTaintManager", "Device Taint manager: deleting due to NoExecute taint");
    if disrupt(&context.client, &pod, reason).await.doing("marking a pod for eviction")? {
        let only_this = Preconditions { uid: Some(pod.uid.to_string()), resource_version: None };
        let params = DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() };
        match Api::<ApiPod>::namespaced(context.client.clone(), &key.namespace).delete(&key.name, &params).await {
            Ok(_) => {}
            Err(error) if is_not_found(&error) || is_conflict(&error) => {}
            Err(error) => return Err(error).doing("evicting a pod from a tainted device"),
        }
    }
    known.waiting.lock().remove(&pod.uid);
    Ok(None)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn times() {
        let check = |slices: &[(i64, Value)], tolerations: Value, expected: Option<&str>| {
            let made: Vec<Arc<Slice>> = slices
                .iter()
                .map(|(generation, taints)| {
                    let slice = json!({"metadata": {"name": "s"}, "spec": {"driver": "d", "nodeName": "n",
                        "pool": {"name": "p", "generation": generation, "resourceSliceCount": 1},
                        "devices": [{"name": "good"}, {"name": "bad", "taints": taints}]}});
                    let slice: ResourceSlice = serde_json::from_value(slice).expect("a slice");
                    Arc::new(slice.into())
                })
                .collect();
            let device = |name: &str| -> DeviceRequestAllocationResult {
                serde_json::from_value(json!({"driver": "d", "pool": "p", "device": name, "request": "r",
                    "tolerations": tolerations}))
                .expect("a device")
            };
            let (good, bad) = (device("good"), device("bad"));
            assert_eq!(due([&good].into_iter(), &made), None);
            let expected = expected.map(|time| time.parse().expect("a time"));
            assert_eq!(due([&good, &bad].into_iter(), &made), expected, "{slices:?} {tolerations}");
        };
        let taint =
            |key: &str, effect: &str| json!([{"key": key, "effect": effect, "timeAdded": "2026-01-01T00:00:00Z"}]);
        let broken = || taint("broken", "NoExecute");
        let bears = |seconds: Value| json!([{"key": "broken", "operator": "Exists", "tolerationSeconds": seconds}]);
        let begins = Some("2026-01-01T00:00:00Z");
        check(&[], json!([]), None);
        check(&[(1, taint("broken", "NoSchedule"))], json!([]), None);
        check(&[(1, broken())], json!([]), begins);
        check(&[(1, broken())], bears(Value::Null), None);
        check(&[(1, broken())], bears(json!(60)), Some("2026-01-01T00:01:00Z"));
        check(&[(1, broken())], bears(json!(-60)), begins);
        check(&[(1, broken())], json!([{"key": "other", "operator": "Exists"}]), begins);
        check(&[(1, broken())], json!([{"key": "broken", "value": "x"}]), begins);
        check(&[(1, broken())], json!([{"operator": "Exists", "effect": "NoSchedule"}]), begins);
        let both =
            json!([{"operator": "Exists", "tolerationSeconds": 90}, {"operator": "Exists", "tolerationSeconds": 30}]);
        check(&[(1, broken())], both, Some("2026-01-01T00:00:30Z"));
        check(&[(1, broken()), (2, json!([]))], json!([]), None);
        check(&[(2, broken()), (1, json!([]))], json!([]), begins);
    }
}
