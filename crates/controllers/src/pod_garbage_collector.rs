//! Pods that nobody else would ever end: those bound to nodes that do not exist, those that were deleted before they got a
//! node, those that hang on a node that is out of service, and the oldest of too many that have ended.
//!
//! Upstream: <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/podgc/gc_controller.go>.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod as ApiPod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clock;
use crate::context::Context;
use crate::object::{Cached, ObjectKey};
use crate::pod::Pod;
use crate::queue::{Doing, PassError, Queue, Revisit, is_conflict, is_not_found};

/// How long a node has to be absent, as upstream: it may only be registering anew.
const QUARANTINE: Duration = Duration::from_secs(40);
/// So many pods that have ended may lie about, as upstream.
const ENDED: usize = 12_500;
/// The taint by which a person says that a node is down for good.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Since when nodes are absent.
type Absent = Arc<Mutex<HashMap<Box<str>, Instant>>>;

/// Starts the controller.
pub fn start(context: &Arc<Context>) {
    let queue = Arc::<Queue>::default();
    let caches = &context.caches;
    let (nodes, wake, ended) = (caches.nodes.clone(), queue.clone(), Mutex::new(0_usize));
    let pods = caches.pods.clone();
    caches.pods.on_change(move |before, after| {
        if let Some(pod) = after {
            let node = pod.node.as_deref().map(|node| nodes.get(&ObjectKey::new("", node)));
            let doubtful = match node {
                None => pod.deleting(),
                Some(None) => true,
                Some(Some(node)) => pod.deleting() && is_out_of_service(&node),
            };
            if doubtful {
                wake.add(pod.key());
            }
        }
        let over = |pod: Option<&Arc<Pod>>| usize::from(pod.is_some_and(|pod| pod.ended()));
        let mut ended = ended.lock();
        *ended = (*ended + over(after)).saturating_sub(over(before));
        if *ended > ENDED && over(after) > over(before) {
            oldest_ended(&pods.all(), *ended - ENDED).iter().for_each(|pod| wake.add(pod.key()));
        }
    });
    let absent = Absent::default();
    let (pods, wake, back) = (caches.pods.clone(), queue.clone(), absent.clone());
    caches.nodes.on_change(move |before, after| {
        if let Some(node) = after {
            back.lock().remove(&*node.key().name);
        }
        let fails =
            after.is_none_or(|node| is_out_of_service(node) && before.is_none_or(|old| !is_out_of_service(old)));
        let Some(node) = before.or(after).filter(|_| fails) else { return };
        let name = node.key().name;
        pods.all().iter().filter(|pod| pod.node.as_deref() == Some(&*name)).for_each(|pod| wake.add(pod.key()));
    });
    let (pods, nodes) = (caches.pods.clone(), caches.nodes.clone());
    let ready = async move {
        pods.synced().await;
        nodes.synced().await;
    };
    let own = context.clone();
    context.run_controller("pod-garbage-collector", queue, ready, move |key| pass(own.clone(), absent.clone(), key));
}

/// Whether somebody has said that the node is down, and it is not ready either.
fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    !ready && taints.iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

/// The pods that ended first.
fn oldest_ended(pods: &[Arc<Pod>], number: usize) -> Vec<Arc<Pod>> {
    let mut ended: Vec<Arc<Pod>> = pods.iter().filter(|pod| pod.ended() && !pod.deleting()).cloned().collect();
    ended.sort_by(|one, other| (one.created, one.name()).cmp(&(other.created, other.name())));
    ended.truncate(number);
    ended
}

/// Why a pod goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// Its node does not exist.
    Orphaned,
    /// It was deleted before it had a node.
    Unscheduled,
    /// Its node is out of service.
    OutOfService,
    /// It is one of too many that have ended.
    Ended,
}

/// What is to be done about a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    Keep,
    /// Its node may come back until then.
    Wait(Duration),
    Delete(Cause),
}

/// What is known of a pod's node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Nowhere,
    There,
    OutOfService,
    /// For so long.
    Absent(Duration),
}

fn plan(pod: &Pod, place: Place, too_many: bool) -> Plan {
    match place {
        Place::Absent(since) if since < QUARANTINE => Plan::Wait(QUARANTINE - since),
        Place::Absent(_) => Plan::Delete(Cause::Orphaned),
        Place::Nowhere if pod.deleting() => Plan::Delete(Cause::Unscheduled),
        Place::OutOfService if pod.deleting() => Plan::Delete(Cause::OutOfService),
        _ if too_many && pod.ended() && !pod.deleting() => Plan::Delete(Cause::Ended),
        _ => Plan::Keep,
    }
}

fn place(context: &Context, pod: &Pod, absent: &Absent) -> Place {
    let Some(name) = pod.node.as_deref() else { return Place::Nowhere };
    match context.caches.nodes.get(&ObjectKey::new("", name)) {
        Some(node) if is_out_of_service(&node) => Place::OutOfService,
        Some(_) => Place::There,
        None => {
            let now = Instant::now();
            Place::Absent(now.duration_since(*absent.lock().entry(name.into()).or_insert(now)))
        }
    }
}

async fn pass(context: Arc<Context>, absent: Absent, key: ObjectKey) -> Result<Revisit, PassError> {
    let caches = &context.caches;
    let Some(pod) = caches.pods.get(&key) else { return Ok(None) };
    let too_many = || {
        let all = caches.pods.all();
        let surplus = all.iter().filter(|pod| pod.ended()).count().saturating_sub(ENDED);
        surplus > 0 && oldest_ended(&all, surplus).iter().any(|other| other.uid == pod.uid)
    };
    let place = place(&context, &pod, &absent);
    let cause = match plan(&pod, place, pod.ended() && too_many()) {
        Plan::Keep => return Ok(None),
        Plan::Wait(left) => return Ok(Some(left)),
        Plan::Delete(cause) => cause,
    };
    let node = pod.node.as_deref().unwrap_or_default();
    if cause == Cause::Orphaned
        && Api::<Node>::all(context.client.clone()).get_opt(node).await.doing("looking up a node")?.is_some()
    {
        return Ok(None);
    }
    if !fail(&context, &pod, cause).await.doing("marking a pod that is collected")? {
        return Ok(None);
    }
    let only_this = Preconditions { uid: Some(pod.uid.to_string()), resource_version: None };
    let params = DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() }.grace_period(0);
    match Api::<ApiPod>::namespaced(context.client.clone(), &key.namespace).delete(&key.name, &params).await {
        Ok(_) => tracing::info!(pod = %key, node, ?cause, "a pod was collected"),
        Err(error) if is_not_found(&error) || is_conflict(&error) => {}
        Err(error) => return Err(error).doing("deleting a pod that nobody else ends"),
    }
    Ok(None)
}

/// Says in the status of a pod that has not ended that it has: nobody else can. Whether it is still there.
async fn fail(context: &Context, pod: &Pod, cause: Cause) -> Result<bool, kube::Error> {
    if pod.ended() {
        return Ok(true);
    }
    let mut status = serde_json::json!({"phase": "Failed"});
    if cause == Cause::Orphaned && !pod.disrupted {
        let now = crate::replica_set::seconds(clock::now());
        status["conditions"] = serde_json::json!([{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
            "message": "PodGC: node no longer exists", "lastTransitionTime": now}]);
    }
    let change = serde_json::json!({"metadata": {"uid": &*pod.uid}, "status": status});
    let api = Api::<ApiPod>::namespaced(context.client.clone(), pod.namespace());
    match api.patch_status(pod.name(), &PatchParams::default(), &Patch::Strategic(change)).await {
        Ok(_) => Ok(true),
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pod::tests::pod;

    #[test]
    fn plans() {
        let check = |object: serde_json::Value, place: Place, too_many: bool, expected: Plan| {
            assert_eq!(plan(&pod("p", object.clone()), place, too_many), expected, "{object} {place:?}");
        };
        let leaving = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let ended = json!({"status": {"phase": "Succeeded"}});
        check(json!({}), Place::Nowhere, false, Plan::Keep);
        check(leaving.clone(), Place::Nowhere, false, Plan::Delete(Cause::Unscheduled));
        check(leaving.clone(), Place::There, false, Plan::Keep);
        check(leaving, Place::OutOfService, false, Plan::Delete(Cause::OutOfService));
        check(json!({}), Place::OutOfService, false, Plan::Keep);
        check(json!({}), Place::Absent(Duration::ZERO), false, Plan::Wait(QUARANTINE));
        check(json!({}), Place::Absent(QUARANTINE), false, Plan::Delete(Cause::Orphaned));
        check(ended.clone(), Place::There, false, Plan::Keep);
        check(ended, Place::There, true, Plan::Delete(Cause::Ended));
    }

    #[test]
    fn the_oldest_go_first() {
        let at = |name: &str, day: u32, phase: &str| {
            let created = format!("2026-01-{day:02}T00:00:00Z");
            Arc::new(pod(name, json!({"metadata": {"creationTimestamp": created}, "status": {"phase": phase}})))
        };
        let pods =
            [at("young", 3, "Failed"), at("old", 1, "Succeeded"), at("runs", 1, "Running"), at("middle", 2, "Failed")];
        let names: Vec<String> = oldest_ended(&pods, 2).iter().map(|pod| pod.name().to_owned()).collect();
        assert_eq!(names, ["old", "middle"]);
    }

    #[test]
    fn out_of_service_needs_both() {
        let check = |ready: &str, taint: &str, expected: bool| {
            let node: Node = serde_json::from_value(json!({"metadata": {},
                "spec": {"taints": [{"key": taint, "effect": "NoExecute"}]},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
            .expect("a node");
            assert_eq!(is_out_of_service(&node), expected, "{ready} {taint}");
        };
        check("Unknown", OUT_OF_SERVICE, true);
        check("True", OUT_OF_SERVICE, false);
        check("Unknown", "other", false);
    }
}
