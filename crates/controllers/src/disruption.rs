//! PodDisruptionBudgets: how many pods may be evicted now.
//!
//! Upstream: <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/disruption/disruption.go>.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kobune_scheduler::labels;
use kobune_scheduler::recorder::Severity;
use kube::Resource;
use kube::api::{Api, PostParams};

use crate::clock;
use crate::context::{Caches, Context, enqueue_changes};
use crate::object::{Cached, ObjectKey};
use crate::pod::{Phase, Pod};
use crate::queue::{Doing, PassError, Queue, Revisit, is_not_found};
use crate::replica_set::seconds;
use crate::scale::Scales;
use crate::share::resolve;

/// How long an eviction may take until its pod is seen going; after that it counts as not done.
const EVICTION: SignedDuration = SignedDuration::from_mins(2);

/// Starts the controller.
pub fn start(context: &Arc<Context>) {
    let queue = Arc::<Queue>::default();
    let caches = &context.caches;
    enqueue_changes(&caches.disruption_budgets, &queue);
    let (budgets, wake) = (caches.disruption_budgets.clone(), queue.clone());
    caches.pods.on_change(move |before, after| {
        for pod in [before, after].into_iter().flatten() {
            for budget in budgets.in_namespace(pod.namespace()).iter().filter(|budget| covers(budget, pod)) {
                wake.add(budget.key());
            }
        }
    });
    wake_namespace(&caches.deployments, &caches.disruption_budgets, &queue);
    wake_namespace(&caches.replica_sets, &caches.disruption_budgets, &queue);
    wake_namespace(&caches.stateful_sets, &caches.disruption_budgets, &queue);
    wake_namespace(&caches.replication_controllers, &caches.disruption_budgets, &queue);
    let (pods, budgets, sets, deployments, stateful_sets, controllers) = (
        caches.pods.clone(),
        caches.disruption_budgets.clone(),
        caches.replica_sets.clone(),
        caches.deployments.clone(),
        caches.stateful_sets.clone(),
        caches.replication_controllers.clone(),
    );
    let ready = async move {
        pods.synced().await;
        budgets.synced().await;
        sets.synced().await;
        deployments.synced().await;
        stateful_sets.synced().await;
        controllers.synced().await;
    };
    let context_of_pass = context.clone();
    let scales = Arc::new(Scales::new(context.client.clone()));
    context.run_controller("disruption", queue, ready, move |key| {
        let (context, scales) = (context_of_pass.clone(), scales.clone());
        async move { pass(&context, &scales, key).await }
    });
}

/// Looks at the budgets of a namespace again when the size of something that has pods changes.
fn wake_namespace<K>(
    store: &crate::informer::Store<K>,
    budgets: &Arc<crate::informer::Store<PodDisruptionBudget>>,
    queue: &Arc<Queue>,
) where
    K: Resource<DynamicType = ()> + Send + Sync + 'static,
{
    let (budgets, queue) = (budgets.clone(), queue.clone());
    store.on_change(move |before, after| {
        let generation = |object: Option<&Arc<K>>| object.map(|object| Resource::meta(&**object).generation);
        let Some(object) = after.or(before).filter(|_| generation(before) != generation(after)) else { return };
        for budget in budgets.in_namespace(&Cached::key(&**object).namespace) {
            queue.add(budget.key());
        }
    });
}

/// Whether a budget is about a pod. A budget without a selector is about none, one with an empty selector about all.
fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| labels::selects(selector, &pod.labels))
}

async fn pass(context: &Context, scales: &Scales, key: ObjectKey) -> Result<Revisit, PassError> {
    let caches = &context.caches;
    let Some(budget) = caches.disruption_budgets.get(&key) else { return Ok(None) };
    let pods: Vec<Arc<Pod>> =
        caches.pods.in_namespace(&key.namespace).into_iter().filter(|pod| covers(&budget, pod)).collect();
    let now = clock::now();
    let recorder = context.recorder.for_component("controllermanager");
    if pods.is_empty() {
        recorder.event(&budget.object_ref(&()), Severity::Normal, "NoPods", "No matching pods found");
    }
    let foreign = foreign_sizes(scales, caches, &budget, &pods).await?;
    let scale = |pods: &[Arc<Pod>]| expected_scale(caches, &foreign, pods);
    let (status, unmanaged) = status(&budget, &pods, scale, now);
    if unmanaged {
        let message = "Pods selected by this PodDisruptionBudget were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.";
        recorder.event(&budget.object_ref(&()), Severity::Warning, "UnmanagedPods", message);
    }
    let revisit = next_look(&status, now);
    if budget.status.as_ref() != Some(&status) {
        let mut changed = (*budget).clone();
        changed.status = Some(status);
        let api = Api::<PodDisruptionBudget>::namespaced(context.client.clone(), &key.namespace);
        match api.replace_status(&key.name, &PostParams::default(), &changed).await {
            Ok(written) => caches.disruption_budgets.wrote(written),
            Err(error) if is_not_found(&error) => return Ok(None),
            Err(error) => return Err(error).doing("writing the status of a disruption budget"),
        }
    }
    Ok(revisit)
}

/// Asks owners of other kinds, those of custom resources above all, by their scale. By their uids.
async fn foreign_sizes(
    scales: &Scales,
    caches: &Caches,
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
) -> Result<BTreeMap<String, i32>, PassError> {
    let mut found = BTreeMap::new();
    let spec = budget.spec.clone().unwrap_or_default();
    // Only a share, or what may be missing, is counted from what the owners want.
    if spec.max_unavailable.is_none() && !matches!(spec.min_available, Some(IntOrString::String(_))) {
        return Ok(found);
    }
    let mut asked: BTreeSet<&str> = BTreeSet::new();
    for pod in pods {
        let Some(owner) = pod.controller().filter(|owner| asked.insert(&owner.uid)) else { continue };
        if size(caches, pod.namespace(), owner).is_some() {
            continue;
        }
        let scale = scales.get(pod.namespace(), &owner.api_version, &owner.kind, &owner.name).await;
        let scale = scale.doing("asking for the scale of what a budget covers")?;
        let same = |scale: &Scale| scale.metadata.uid.as_ref().is_none_or(|uid| *uid == owner.uid);
        if let Some(scale) = scale.filter(same) {
            found.insert(owner.uid.clone(), scale.spec.and_then(|spec| spec.replicas).unwrap_or(0));
        }
    }
    Ok(found)
}

/// How many pods their controllers want in all, and whether there are pods without one that could tell.
fn expected_scale(caches: &Caches, foreign: &BTreeMap<String, i32>, pods: &[Arc<Pod>]) -> (i32, bool) {
    let mut sizes: BTreeMap<String, i32> = BTreeMap::new();
    let mut unmanaged = false;
    for pod in pods {
        let known = pod.controller().and_then(|owner| {
            let known = size(caches, pod.namespace(), owner);
            known.or_else(|| Some((owner.uid.clone(), *foreign.get(&owner.uid)?)))
        });
        match known {
            Some((uid, size)) => drop(sizes.insert(uid, size)),
            None => unmanaged = true,
        }
    }
    (sizes.values().fold(0, |sum: i32, size| sum.saturating_add(*size)), unmanaged)
}

/// The uid and the size of what a pod's size is decided by.
fn size(caches: &Caches, namespace: &str, owner: &OwnerReference) -> Option<(String, i32)> {
    let key = ObjectKey::new(namespace, &owner.name);
    match owner.kind.as_str() {
        "ReplicaSet" => {
            let set = caches.replica_sets.get(&key).filter(|set| set.uid() == owner.uid)?;
            let deployment = set.controller().filter(|owner| owner.kind == "Deployment").and_then(|owner| {
                let found = caches.deployments.get(&ObjectKey::new(namespace, &owner.name))?;
                (found.uid() == owner.uid).then_some(found)
            });
            match deployment {
                Some(found) => Some((found.uid().to_owned(), found.spec.as_ref()?.replicas.unwrap_or(1))),
                None => Some((owner.uid.clone(), set.spec.as_ref()?.replicas.unwrap_or(1))),
            }
        }
        "StatefulSet" => {
            let set = caches.stateful_sets.get(&key).filter(|set| set.uid() == owner.uid)?;
            Some((owner.uid.clone(), set.spec.as_ref()?.replicas.unwrap_or(1)))
        }
        "ReplicationController" => {
            let found = caches.replication_controllers.get(&key).filter(|found| found.uid() == owner.uid)?;
            Some((owner.uid.clone(), found.spec.as_ref()?.replicas.unwrap_or(1)))
        }
        _ => None,
    }
}

/// How many pods there ought to be and how many must be well.
fn wanted(
    spec: &PodDisruptionBudgetSpec,
    pods: &[Arc<Pod>],
    scale: impl Fn(&[Arc<Pod>]) -> (i32, bool),
) -> (i32, i32, bool) {
    let present = i32::try_from(pods.len()).unwrap_or(i32::MAX);
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => {
            let (expected, unmanaged) = scale(pods);
            let healthy = expected.saturating_sub(resolve(Some(most), expected, true)).max(0);
            (expected, healthy, unmanaged)
        }
        (None, Some(IntOrString::Int(least))) => (present, *least, false),
        (None, Some(least)) => {
            let (expected, unmanaged) = scale(pods);
            (expected, resolve(Some(least), expected, true), unmanaged)
        }
        (None, None) => (present, 1, false),
    }
}

fn status(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    scale: impl Fn(&[Arc<Pod>]) -> (i32, bool),
    now: Timestamp,
) -> (PodDisruptionBudgetStatus, bool) {
    let spec = budget.spec.clone().unwrap_or_default();
    let old = budget.status.clone().unwrap_or_default();
    let (expected, desired, unmanaged) = wanted(&spec, pods, scale);
    let alive: BTreeSet<&str> = pods.iter().filter(|pod| pod.deletion.is_none()).map(|pod| pod.name()).collect();
    let disrupted: BTreeMap<String, Time> = old
        .disrupted_pods
        .clone()
        .unwrap_or_default()
        .into_iter()
        .filter(|(name, since)| {
            alive.contains(name.as_str()) && since.0.checked_add(EVICTION).is_ok_and(|end| end > now)
        })
        .collect();
    let healthy = pods.iter().filter(|pod| {
        pod.deletion.is_none()
            && pod.phase == Phase::Running
            && pod.ready.is_some()
            && !disrupted.contains_key(pod.name())
    });
    let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    let allowed = if expected <= 0 { 0 } else { healthy.saturating_sub(desired).max(0) };
    let (value, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let generation = budget.metadata.generation;
    let told = conditions.iter_mut().find(|condition| condition.type_ == "DisruptionAllowed");
    match told {
        Some(there) => {
            if there.status != value {
                there.last_transition_time = Time(seconds(now));
            }
            (there.status, there.reason, there.observed_generation) = (value.to_owned(), reason.to_owned(), generation);
            there.message.clear();
        }
        None => conditions.push(Condition {
            type_: "DisruptionAllowed".to_owned(),
            status: value.to_owned(),
            reason: reason.to_owned(),
            message: String::new(),
            last_transition_time: Time(seconds(now)),
            observed_generation: generation,
        }),
    }
    let status = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        observed_generation: generation,
        conditions: Some(conditions),
    };
    (status, unmanaged)
}

/// When an eviction that was not seen through stops to count.
fn next_look(status: &PodDisruptionBudgetStatus, now: Timestamp) -> Revisit {
    let ends = status.disrupted_pods.iter().flatten().filter_map(|(_, since)| since.0.checked_add(EVICTION).ok());
    let left = ends.min()?.duration_since(now);
    Some(Duration::try_from(left).unwrap_or_default() + Duration::from_millis(10))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::pod::tests::pod;

    #[test]
    fn budgets() {
        let ready = |name: &str| {
            Arc::new(pod(
                name,
                json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}),
            ))
        };
        let ill = Arc::new(pod("ill", json!({"status": {"phase": "Running"}})));
        let pods = [ready("a"), ready("b"), ready("c"), ill];
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().expect("a time");
        let check = |spec: Value, disrupted: Value, expected: (i32, i32, i32, i32)| {
            let budget: PodDisruptionBudget = serde_json::from_value(
                json!({"metadata": {"generation": 1}, "spec": spec, "status": {"disruptedPods": disrupted,
                    "currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0}}),
            )
            .expect("a budget");
            let (found, _) = status(&budget, &pods, |_| (5, false), now);
            let numbers =
                [found.expected_pods, found.desired_healthy, found.current_healthy, found.disruptions_allowed];
            let expected: (i32, i32, i32, i32) = expected;
            assert_eq!(numbers, [Some(expected.0), Some(expected.1), Some(expected.2), Some(expected.3)], "{spec}");
            found
        };
        check(json!({"minAvailable": 2}), json!({}), (4, 2, 3, 1));
        check(json!({"minAvailable": "50%"}), json!({}), (5, 3, 3, 0));
        check(json!({"maxUnavailable": 3}), json!({}), (5, 2, 3, 1));
        check(json!({"maxUnavailable": "100%"}), json!({}), (5, 0, 3, 3));
        let fresh = check(json!({"minAvailable": 2}), json!({"a": "2026-01-01T00:00:30Z"}), (4, 2, 2, 0));
        assert_eq!(next_look(&fresh, now), Some(Duration::from_millis(90_010)));
        let stale = check(
            json!({"minAvailable": 2}),
            json!({"a": "2025-01-01T00:00:00Z", "x": "2026-01-01T00:00:59Z"}),
            (4, 2, 3, 1),
        );
        assert_eq!(
            (stale.disrupted_pods, stale.conditions.expect("conditions")[0].reason.as_str()),
            (None, "SufficientPods")
        );
    }
}
