//! DaemonSets: one pod on each node that fits.
//!
//! `plan` decides; the scheduler binds, as the pods name their nodes by affinity. Upstream:
//! <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/daemon/daemon_controller.go>.

mod plan;
mod template;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use kobune_scheduler::labels;
use kobune_scheduler::recorder::Severity;
use kube::Resource;
use kube::api::{Api, PostParams};

use crate::clock;
use crate::context::{Context, enqueue_changes, enqueue_owners, enqueue_selecting};
use crate::object::{Cached, ObjectKey};
use crate::ownership::claim_all;
use crate::pod::{Phase, Pod, PodInput};
use crate::pod_control::{PodControl, namespace_is_terminating};
use crate::queue::{Doing, PassError, Queue, Revisit, is_not_found};
use crate::replica_set::next_change;
use crate::revisions::{Owner, REVISION_LABEL, hash};

use plan::plan;

/// Old revisions that are kept when the set does not say.
const HISTORY_LIMIT: i32 = 10;
/// Pods created in one pass, as upstream.
const BURST: usize = 250;
/// How long a pod that has ended stays, so that one which ends at once does not spin.
const PAUSE: SignedDuration = SignedDuration::from_secs(1);

/// Starts the controller.
pub fn start(context: &Arc<Context>) {
    let queue = Arc::<Queue>::default();
    let caches = &context.caches;
    enqueue_changes(&caches.daemon_sets, &queue);
    enqueue_owners(&caches.pods, "DaemonSet", &queue);
    enqueue_selecting(&caches.pods, &caches.daemon_sets, &queue, |set, pod| {
        set.spec.as_ref().is_some_and(|spec| labels::selects(&spec.selector, &pod.labels))
    });
    let (sets, wake) = (caches.daemon_sets.clone(), queue.clone());
    caches.nodes.on_change(move |before, after| {
        // Heartbeats change nothing that matters here.
        if before.map(|node| matters(node)) != after.map(|node| matters(node)) {
            sets.all().iter().for_each(|set| wake.add(set.key()));
        }
    });
    let control = PodControl {
        client: context.client.clone(),
        pods: caches.pods.clone(),
        recorder: context.recorder.for_component("daemonset-controller"),
    };
    let (pods, sets, nodes, revisions) =
        (caches.pods.clone(), caches.daemon_sets.clone(), caches.nodes.clone(), caches.controller_revisions.clone());
    let ready = async move {
        pods.synced().await;
        sets.synced().await;
        nodes.synced().await;
        revisions.synced().await;
    };
    let context_of_pass = context.clone();
    context.run_controller("daemonset", queue, ready, move |key| {
        let (context, control) = (context_of_pass.clone(), control.clone());
        async move { pass(&context, &control, key).await }
    });
}

/// What of a node decides whether it gets a pod.
fn matters(node: &Node) -> impl PartialEq + use<> {
    (node.metadata.labels.clone(), node.spec.as_ref().and_then(|spec| spec.taints.clone()))
}

async fn pass(context: &Context, control: &PodControl, key: ObjectKey) -> Result<Revisit, PassError> {
    let caches = &context.caches;
    let Some(set) = caches.daemon_sets.get(&key) else { return Ok(None) };
    let Some(spec) = set.spec.as_ref() else { return Ok(None) };
    let about = set.object_ref(&());
    if labels::is_empty(&spec.selector) {
        let message = "This daemon set is selecting all pods. A non-empty selector is required.";
        control.recorder.event(&about, Severity::Warning, "SelectingAll", message);
        return Ok(None);
    }
    if set.deleting() {
        return Ok(None);
    }
    let mut candidates = caches.pods.controlled_by(set.uid());
    candidates.extend(caches.pods.orphans(&key.namespace));
    let selector = spec.selector.clone();
    let pods = claim_all::<_, PodInput, _>(&context.client, &*set, &caches.pods, candidates, move |pod: &Pod| {
        labels::selects(&selector, &pod.labels)
    })
    .await?;
    let owner = Owner {
        object: &*set,
        template: &spec.template,
        selector: &spec.selector,
        collisions: set.status.as_ref().and_then(|status| status.collision_count),
        hash_in_revision_label: true,
    };
    let history = owner.history(context).await?;
    let hash_now = hash(&history.update).to_owned();
    let nodes = caches.nodes.all();
    let now = clock::now();
    let plan::Plan { create, delete, ended, .. } = plan(&set, &hash_now, &nodes, &pods, now);

    let (over, paused): (Vec<_>, Vec<_>) = ended.iter().partition(|pod| due(pod, now));
    for pod in &over {
        tell_ended(control, &about, pod);
    }
    let gone: Vec<&Arc<Pod>> = delete.iter().chain(over).collect();
    let deleted = join_all(gone.iter().map(|pod| control.delete(pod, &about))).await;
    let mut failure = deleted.into_iter().find_map(Result::err);
    if failure.is_none() {
        let new: Vec<_> = create.iter().take(BURST).map(|node| template::pod(&set, &hash_now, node)).collect();
        failure = control.create_slowly(&new.iter().collect::<Vec<_>>(), &about).await;
    }

    let pods = caches.pods.controlled_by(set.uid());
    let mut status = plan(&set, &hash_now, &nodes, &pods, now).status;
    status.collision_count = (history.collisions > 0).then_some(history.collisions).or(status.collision_count);
    if set.status.as_ref() != Some(&status) {
        let mut changed = (*set).clone();
        changed.status = Some(status);
        let api = Api::<DaemonSet>::namespaced(context.client.clone(), &key.namespace);
        match api.replace_status(&key.name, &PostParams::default(), &changed).await {
            Ok(written) => caches.daemon_sets.wrote(written),
            Err(error) if is_not_found(&error) => return Ok(None),
            Err(error) => return Err(error).doing("writing the status of a daemon set"),
        }
    }
    match failure {
        Some(error) if namespace_is_terminating(&error) => return Ok(None),
        Some(error) => return Err(error).doing("creating or deleting pods"),
        None => {}
    }
    let update = history.update.metadata.name.clone();
    let live = |revision: &ControllerRevision| {
        revision.metadata.name == update
            || pods.iter().any(|pod| pod.labels.get(REVISION_LABEL) == Some(hash(revision)))
    };
    history.clean_up(context, spec.revision_history_limit.unwrap_or(HISTORY_LIMIT), live).await?;
    let available = next_change(&pods, spec.min_ready_seconds.unwrap_or(0), now);
    let pause = (!paused.is_empty()).then_some(Duration::from_secs(1));
    Ok(available.into_iter().chain(pause).min())
}

/// Whether a pod that has ended has lain long enough.
fn due(pod: &Pod, now: Timestamp) -> bool {
    pod.finished.or(pod.created).and_then(|at| at.checked_add(PAUSE).ok()).is_none_or(|at| at <= now)
}

fn tell_ended(control: &PodControl, about: &ObjectReference, pod: &Pod) {
    let (reason, what, severity) = match pod.phase {
        Phase::Failed => ("FailedDaemonPod", "failed", Severity::Warning),
        _ => ("SucceededDaemonPod", "succeeded", Severity::Normal),
    };
    let node = pod.node.as_deref().unwrap_or_default();
    let (namespace, name) = (pod.namespace(), pod.name());
    let message = match pod.phase {
        Phase::Failed => format!("Found {what} daemon pod {namespace}/{name} on node {node}, will try to kill it"),
        _ => format!("Found {what} daemon pod {namespace}/{name} on node {node}, will try to delete it"),
    };
    control.recorder.event(about, severity, reason, message);
}
