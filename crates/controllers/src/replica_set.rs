//! ReplicaSets, and ReplicationControllers, which are the same under an older name: as many pods of a template as wanted.
//!
//! Upstream: <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/replicaset/replica_set.go>.

use std::borrow::Cow;
use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use kobune_scheduler::labels;
use kube::Resource;
use kube::api::PostParams;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::clock;
use crate::context::{Caches, Context, enqueue_changes, enqueue_owners, enqueue_selecting};
use crate::informer::Store;
use crate::object::{Cached, ObjectKey};
use crate::ownership::{claim_all, controller_reference, url};
use crate::pod::{Phase, Pod, PodInput};
use crate::pod_control::{NewPod, PodControl, error_text, namespace_is_terminating};
use crate::queue::{Doing, PassError, Queue, Revisit, is_not_found};

/// Pods created or deleted in one pass, as upstream.
const BURST: usize = 500;

/// A kind that keeps a number of pods.
pub trait Replicated:
    Resource<DynamicType = ()> + Cached + DeserializeOwned + Serialize + Clone + Debug + Sized
{
    /// The component that events come from.
    const COMPONENT: &'static str;
    /// The name of the controller's task.
    const TASK: &'static str;
    /// Whether its status has a place for the number of pods that are ending.
    const TELLS_TERMINATING: bool;
    /// Where the objects are cached.
    fn store(caches: &Caches) -> &Arc<Store<Self>>;
    /// The object as a ReplicaSet.
    fn as_replica_set(&self) -> ReplicaSet;
    /// The object with the status of its ReplicaSet.
    fn with_status(&self, status: ReplicaSetStatus) -> Self;
}

impl Replicated for ReplicaSet {
    const COMPONENT: &'static str = "replicaset-controller";
    const TASK: &'static str = "replicaset";
    const TELLS_TERMINATING: bool = true;

    fn store(caches: &Caches) -> &Arc<Store<Self>> {
        &caches.replica_sets
    }

    fn as_replica_set(&self) -> ReplicaSet {
        self.clone()
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        Self { status: Some(status), ..self.clone() }
    }
}

impl Replicated for ReplicationController {
    const COMPONENT: &'static str = "replication-controller";
    const TASK: &'static str = "replicationcontroller";
    const TELLS_TERMINATING: bool = false;

    fn store(caches: &Caches) -> &Arc<Store<Self>> {
        &caches.replication_controllers
    }

    fn as_replica_set(&self) -> ReplicaSet {
        let spec = self.spec.clone().unwrap_or_default();
        let status = self.status.clone().map(|status| ReplicaSetStatus {
            available_replicas: status.available_replicas,
            conditions: status.conditions.map(|conditions| conditions.into_iter().map(to_set_condition).collect()),
            fully_labeled_replicas: status.fully_labeled_replicas,
            observed_generation: status.observed_generation,
            ready_replicas: status.ready_replicas,
            replicas: status.replicas,
            terminating_replicas: None,
        });
        ReplicaSet {
            metadata: self.metadata.clone(),
            spec: Some(ReplicaSetSpec {
                min_ready_seconds: spec.min_ready_seconds,
                replicas: spec.replicas,
                selector: LabelSelector { match_labels: spec.selector, match_expressions: None },
                template: spec.template,
            }),
            status,
        }
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        let conditions = status.conditions.map(|conditions| conditions.into_iter().map(from_set_condition).collect());
        let status = ReplicationControllerStatus {
            available_replicas: status.available_replicas,
            conditions,
            fully_labeled_replicas: status.fully_labeled_replicas,
            observed_generation: status.observed_generation,
            ready_replicas: status.ready_replicas,
            replicas: status.replicas,
        };
        Self { status: Some(status), ..self.clone() }
    }
}

fn to_set_condition(from: ReplicationControllerCondition) -> ReplicaSetCondition {
    let ReplicationControllerCondition { last_transition_time, message, reason, status, type_ } = from;
    ReplicaSetCondition { last_transition_time, message, reason, status, type_ }
}

fn from_set_condition(from: ReplicaSetCondition) -> ReplicationControllerCondition {
    let ReplicaSetCondition { last_transition_time, message, reason, status, type_ } = from;
    ReplicationControllerCondition { last_transition_time, message, reason, status, type_ }
}

/// Starts the controllers of both kinds.
pub fn start(context: &Arc<Context>) {
    enqueue_and_run::<ReplicaSet>(context);
    enqueue_and_run::<ReplicationController>(context);
}

fn enqueue_and_run<K: Replicated>(context: &Arc<Context>) {
    let queue = Arc::<Queue>::default();
    let caches = &context.caches;
    enqueue_changes(K::store(caches), &queue);
    enqueue_owners(&caches.pods, kind_name::<K>(), &queue);
    enqueue_selecting(&caches.pods, K::store(caches), &queue, |set, pod| {
        set.as_replica_set().spec.is_some_and(|spec| labels::selects(&spec.selector, &pod.labels))
    });
    let control = PodControl {
        client: context.client.clone(),
        pods: caches.pods.clone(),
        recorder: context.recorder.for_component(K::COMPONENT),
    };
    let (pods, sets) = (caches.pods.clone(), K::store(caches).clone());
    let ready = async move {
        pods.synced().await;
        sets.synced().await;
    };
    let context_of_pass = context.clone();
    context.run_controller(K::TASK, queue, ready, move |key| pass::<K>(context_of_pass.clone(), control.clone(), key));
}

/// The kind's name, which its type knows without allocating.
fn kind_name<K: Replicated>() -> &'static str {
    match K::kind(&()) {
        Cow::Borrowed(name) => name,
        Cow::Owned(_) => unreachable!("a kind that is known at compile time has a constant name"),
    }
}

async fn pass<K: Replicated>(context: Arc<Context>, control: PodControl, key: ObjectKey) -> Result<Revisit, PassError> {
    let caches = &context.caches;
    let Some(own) = K::store(caches).get(&key) else { return Ok(None) };
    let set = own.as_replica_set();
    let Some(spec) = set.spec.as_ref() else { return Ok(None) };
    let mut candidates = caches.pods.controlled_by(own.uid());
    candidates.extend(
        caches.pods.orphans(&key.namespace).into_iter().filter(|pod| labels::selects(&spec.selector, &pod.labels)),
    );
    // Ended pods are not adopted, as upstream.
    candidates.retain(|pod| pod.controller().is_some() || !pod.ended());
    let selector = spec.selector.clone();
    let pods = claim_all::<_, PodInput, _>(&context.client, &*own, &caches.pods, candidates, move |pod: &Pod| {
        labels::selects(&selector, &pod.labels)
    })
    .await?;

    let about = own.object_ref(&());
    let mut failure = None;
    if !set.deleting() {
        match plan(spec.replicas.unwrap_or(1), &pods, || nearby(&context, &set)) {
            Action::Nothing => {}
            Action::Create(count) => {
                let new = spec
                    .template
                    .as_ref()
                    .map(|template| NewPod::from_template(template, &key.namespace, controller_reference(&*own)));
                if let Some(new) = new {
                    let error = control.create_slowly(&vec![&new; count], &about).await;
                    failure = error.map(|error| ("FailedCreate", error));
                }
            }
            Action::Delete(victims) => {
                let results = join_all(victims.iter().map(|pod| control.delete(pod, &about))).await;
                failure = results.into_iter().find_map(Result::err).map(|error| ("FailedDelete", error));
            }
        }
    }

    // What was created or deleted just now is in the cache already.
    let pods: Vec<Arc<Pod>> = caches.pods.controlled_by(own.uid());
    let now = clock::now();
    let told = failure.as_ref().map(|(reason, error)| (*reason, error_text(error)));
    let mut status = status(&set, &pods, told, now);
    status.terminating_replicas = status.terminating_replicas.filter(|_| K::TELLS_TERMINATING);
    if set.status.as_ref() != Some(&status) {
        let changed = own.with_status(status);
        let path = url::<K>(&key);
        let body = serde_json::to_vec(&changed).map_err(kube::Error::SerdeError).doing("writing a status down")?;
        let request =
            kube::core::Request::new(path).replace_subresource("status", &key.name, &PostParams::default(), body);
        let request = request.map_err(kube::Error::BuildRequest).doing("building a request")?;
        match context.client.request::<K>(request).await {
            Ok(written) => K::store(caches).wrote(written),
            Err(error) if is_not_found(&error) => return Ok(None),
            Err(error) => return Err(error).doing("writing the status of a set of replicas"),
        }
    }
    match failure {
        Some((_, error)) if namespace_is_terminating(&error) => Ok(None),
        Some((_, error)) => Err(error).doing("creating or deleting pods"),
        None => Ok(next_change(&pods, spec.min_ready_seconds.unwrap_or(0), now)),
    }
}

/// When the next ready pod will count as available.
pub fn next_change(pods: &[Arc<Pod>], min_ready_seconds: i32, now: Timestamp) -> Revisit {
    let times = pods.iter().filter(|pod| pod.active()).filter_map(|pod| pod.available_at(min_ready_seconds));
    let left = times.filter(|at| *at > now).min()?.duration_since(now);
    Some(Duration::try_from(left).unwrap_or_default() + Duration::from_millis(10))
}

/// How many active pods of the same deployment each node has: the more, the sooner one of them goes.
fn nearby(context: &Context, set: &ReplicaSet) -> HashMap<Box<str>, usize> {
    let caches = &context.caches;
    let owner = set.controller().map(|owner| owner.uid.clone());
    let siblings = match &owner {
        Some(uid) => caches.replica_sets.controlled_by(uid).iter().map(|set| set.uid().to_owned()).collect(),
        None => vec![set.uid().to_owned()],
    };
    let mut counts: HashMap<Box<str>, usize> = HashMap::new();
    for pod in siblings.iter().flat_map(|uid| caches.pods.controlled_by(uid)).filter(|pod| pod.active()) {
        if let Some(node) = &pod.node {
            *counts.entry(node.clone()).or_default() += 1;
        }
    }
    counts
}

/// What one pass does to the pods.
#[derive(Clone, Debug, PartialEq)]
enum Action {
    Nothing,
    Create(usize),
    Delete(Vec<Arc<Pod>>),
}

/// Compares wanted and present pods.
fn plan(replicas: i32, pods: &[Arc<Pod>], nearby: impl FnOnce() -> HashMap<Box<str>, usize>) -> Action {
    let mut active: Vec<Arc<Pod>> = pods.iter().filter(|pod| pod.active()).cloned().collect();
    let wanted = usize::try_from(replicas).unwrap_or(0);
    match active.len().cmp(&wanted) {
        Ordering::Equal => Action::Nothing,
        Ordering::Less => Action::Create((wanted - active.len()).min(BURST)),
        Ordering::Greater => {
            let surplus = (active.len() - wanted).min(BURST);
            if wanted > 0 {
                let counts = nearby();
                let rank = |pod: &Pod| pod.node.as_ref().and_then(|node| counts.get(node)).copied().unwrap_or(0);
                active.sort_by_cached_key(|pod| worth(pod, rank(pod)));
            }
            active.truncate(surplus);
            Action::Delete(active)
        }
    }
}

/// The order in which pods go: the least goes first.
fn worth(pod: &Pod, rank: usize) -> impl Ord + use<> {
    let phase = match pod.phase {
        Phase::Pending => 0,
        Phase::Unknown => 1,
        _ => 2,
    };
    let cost: i32 = pod
        .annotations
        .get("controller.kubernetes.io/pod-deletion-cost")
        .and_then(|cost| cost.parse().ok())
        .unwrap_or(0);
    // Of two that are ready or made at different times the younger goes; one without a time is the youngest.
    (
        pod.node.is_some(),
        phase,
        pod.ready.is_some(),
        cost,
        Reverse(rank),
        Reverse(pod.ready),
        Reverse(pod.restarts),
        Reverse(pod.created),
    )
}

/// A count as upstream writes it: nothing at all for zero.
pub fn count(number: usize) -> Option<i32> {
    i32::try_from(number).ok().filter(|number| *number != 0)
}

fn status(
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    failure: Option<(&'static str, String)>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let spec = set.spec.clone().unwrap_or_default();
    let template =
        spec.template.and_then(|template| template.metadata).and_then(|meta| meta.labels).unwrap_or_default();
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let active: Vec<&Arc<Pod>> = pods.iter().filter(|pod| pod.active()).collect();
    let number = |wanted: &dyn Fn(&Pod) -> bool| count(active.iter().filter(|pod| wanted(pod)).count());
    let old = set.status.clone().unwrap_or_default();
    let mut conditions: Vec<ReplicaSetCondition> = old.conditions.clone().unwrap_or_default();
    let shown = conditions.iter().position(|condition| condition.type_ == "ReplicaFailure");
    match (failure, shown) {
        (Some((reason, message)), None) => conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".to_owned(),
            status: "True".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(Time(seconds(now))),
        }),
        (None, Some(at)) => drop(conditions.remove(at)),
        // As upstream: the first failure stays until there is none.
        (Some(_), Some(_)) | (None, None) => {}
    }
    ReplicaSetStatus {
        replicas: i32::try_from(active.len()).unwrap_or(i32::MAX),
        fully_labeled_replicas: number(&|pod| template.iter().all(|(key, value)| pod.labels.get(key) == Some(value))),
        ready_replicas: number(&|pod| pod.ready.is_some()),
        available_replicas: number(&|pod| pod.available(min_ready, now)),
        // Written also when there are none: it says that they are counted.
        terminating_replicas: i32::try_from(pods.iter().filter(|pod| pod.deleting() && !pod.ended()).count()).ok(),
        observed_generation: set.metadata.generation,
        conditions: (!conditions.is_empty()).then_some(conditions),
    }
}

/// Times in the API have whole seconds.
pub fn seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pod::tests::pod;

    fn running(name: &str, ready_at: &str) -> Arc<Pod> {
        Arc::new(pod(
            name,
            json!({"metadata": {"creationTimestamp": ready_at}, "spec": {"nodeName": "n"}, "status": {"phase": "Running",
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": ready_at}]}}),
        ))
    }

    #[test]
    fn plans() {
        let check = |replicas: i32, pods: &[Arc<Pod>], created: usize, deleted: &[&str]| {
            let found = match plan(replicas, pods, HashMap::new) {
                Action::Nothing => (0, Vec::new()),
                Action::Create(count) => (count, Vec::new()),
                Action::Delete(victims) => (0, victims.iter().map(|pod| pod.name().to_owned()).collect()),
            };
            assert_eq!(found, (created, deleted.iter().map(|name| (*name).to_owned()).collect()), "{replicas}");
        };
        let old = running("old", "2026-01-01T00:00:00Z");
        let young = running("young", "2026-01-02T00:00:00Z");
        let pending = Arc::new(pod("pending", json!({"status": {"phase": "Pending"}})));
        let failed = Arc::new(pod("failed", json!({"status": {"phase": "Failed"}})));
        let leaving = Arc::new(pod("leaving", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})));
        let cheap = Arc::new(pod(
            "cheap",
            json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "-5"}},
            "spec": {"nodeName": "n"}, "status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2025-01-01T00:00:00Z"}]}}),
        ));
        check(3, &[old.clone(), failed, leaving], 2, &[]);
        check(1, std::slice::from_ref(&old), 0, &[]);
        check(1, &[old.clone(), young.clone(), pending.clone()], 0, &["pending", "young"]);
        check(1, &[old.clone(), cheap], 0, &["cheap"]);
        check(1000, &[], 500, &[]);
        check(0, &[old], 0, &["old"]);
    }

    #[test]
    fn statuses() {
        let set: ReplicaSet =
            serde_json::from_value(json!({"metadata": {"generation": 3}, "spec": {"minReadySeconds": 10,
            "selector": {}, "template": {"metadata": {"labels": {}}}}}))
            .expect("a set");
        let now: Timestamp = "2026-01-01T00:00:05Z".parse().expect("a time");
        let pods = [running("a", "2026-01-01T00:00:00Z"), running("b", "2025-01-01T00:00:00Z")];
        let found = status(&set, &pods, Some(("FailedCreate", "quota".to_owned())), now);
        assert_eq!((found.replicas, found.ready_replicas, found.available_replicas), (2, Some(2), Some(1)));
        assert_eq!(found.conditions.as_ref().map(Vec::len), Some(1));
        let mut told = set.clone();
        told.status = Some(found.clone());
        assert_eq!(status(&told, &pods, Some(("FailedCreate", "other".to_owned())), now), found);
        assert_eq!(status(&told, &pods, None, now).conditions, None);
        assert_eq!(next_change(&pods, 10, now), Some(Duration::from_millis(5010)));
    }
}
