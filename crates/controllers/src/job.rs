//! Jobs: pods that end, counted exactly once.
//!
//! A pass notes what ended, takes the finalizers off, counts, and then makes or takes pods; see `plan` for why in this order.
//! Upstream: <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/job/job_controller.go>.

mod failure_policy;
mod indexes;
mod plan;
mod template;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::{ObjectReference, Pod as ApiPod};
use kobune_scheduler::labels;
use kobune_scheduler::recorder::Severity;
use kube::Resource;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use serde_json::json;

use crate::clock;
use crate::context::{Context, enqueue_changes, enqueue_owners, enqueue_selecting};
use crate::object::{Cached, ObjectKey};
use crate::ownership::{claim_all_with, patch};
use crate::pod::{Pod, PodInput};
use crate::pod_control::{PodControl, namespace_is_terminating};
use crate::queue::{Doing, PassError, Queue, Revisit, is_not_found};

use failure_policy::{Verdict, judge};
use plan::{FINALIZER, Ledger, Plan, plan, tracked};

pub use plan::finished;

/// Lets go of pods that no Job will ever count, so that nothing keeps them when they are deleted.
///
/// Upstream: `syncOrphanPod`.
async fn release_orphan(context: &Context, key: ObjectKey) -> Result<Revisit, PassError> {
    let caches = &context.caches;
    let Some(pod) = caches.pods.get(&key).filter(|pod| tracked(pod)) else { return Ok(None) };
    let owner = pod.controller().filter(|owner| owner.kind == "Job");
    let counted = owner.is_some_and(|owner| {
        let job = caches.jobs.get(&ObjectKey::new(pod.namespace(), &owner.name));
        job.is_some_and(|job| Cached::uid(&*job) == owner.uid)
    });
    if !counted {
        release(context, std::iter::once(&pod)).await?;
    }
    Ok(None)
}

/// Jobs with another value here are somebody else's.
const OUR_NAME: &str = "kubernetes.io/job-controller";

/// Starts the controller.
pub fn start(context: &Arc<Context>) {
    let queue = Arc::<Queue>::default();
    let caches = &context.caches;
    enqueue_changes(&caches.jobs, &queue);
    enqueue_owners(&caches.pods, "Job", &queue);
    enqueue_selecting(&caches.pods, &caches.jobs, &queue, |job, pod| {
        let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.is_some_and(|selector| labels::selects(selector, &pod.labels))
    });
    let control = PodControl {
        client: context.client.clone(),
        pods: caches.pods.clone(),
        recorder: context.recorder.for_component("job-controller"),
    };
    let orphans = Arc::<Queue>::default();
    let wake = orphans.clone();
    caches.pods.on_change(move |_, after| {
        if let Some(pod) = after.filter(|pod| tracked(pod) && pod.controller().is_none()) {
            wake.add(pod.key());
        }
    });
    let ready = || {
        let (pods, jobs) = (caches.pods.clone(), caches.jobs.clone());
        async move {
            pods.synced().await;
            jobs.synced().await;
        }
    };
    let context_of_pass = context.clone();
    context.run_controller("job-orphans", orphans, ready(), move |key| {
        let context = context_of_pass.clone();
        async move { release_orphan(&context, key).await }
    });
    let context_of_pass = context.clone();
    context.run_controller("job", queue, ready(), move |key| {
        let (context, control) = (context_of_pass.clone(), control.clone());
        async move { pass(&context, &control, key).await }
    });
}

async fn pass(context: &Context, control: &PodControl, key: ObjectKey) -> Result<Revisit, PassError> {
    let caches = &context.caches;
    let Some(job) = caches.jobs.get(&key) else {
        // Pods of a Job that is gone are nobody's to count.
        let of_key =
            |pod: &Arc<Pod>| pod.controller().is_some_and(|owner| owner.kind == "Job" && *owner.name == *key.name);
        let left: Vec<_> = caches.pods.in_namespace(&key.namespace).into_iter().filter(of_key).collect();
        release(context, left.iter()).await?;
        return Ok(None);
    };
    let Some(spec) = job.spec.as_ref() else { return Ok(None) };
    if spec.managed_by.as_deref().is_some_and(|name| name != OUR_NAME) {
        return Ok(None);
    }
    let pods = claim_pods(context, &job, spec).await?;
    if finished(&job) {
        release(context, pods.iter()).await?;
        return Ok(None);
    }
    let about = job.object_ref(&());

    let mut ledger = Ledger::of(spec, job.status.clone().unwrap_or_default());
    ledger.settle(&pods);
    let (succeeded, failed) = ledger.unnoted(&pods);
    let judged = judge_all(context, spec, &failed).await?;
    let policy_failure = judged.iter().find_map(|(_, verdict)| match verdict {
        Verdict::FailJob(message) => Some(message.clone()),
        _ => None,
    });
    ledger.note(&succeeded, &judged);
    let noted = ledger.into_status();
    let Some(job) = write_status(context, &job, noted.clone()).await? else { return Ok(None) };
    let ended = succeeded.into_iter().chain(failed).cloned().collect::<Vec<_>>();
    let still_noted = pods.iter().filter(|pod| is_noted(&noted, pod));
    release(context, ended.iter().chain(still_noted)).await?;

    let Some(spec) = job.spec.as_ref() else { return Ok(None) };
    let pods = caches.pods.controlled_by(job.uid());
    let mut ledger = Ledger::of(spec, job.status.clone().unwrap_or_default());
    ledger.settle(&pods);
    let Plan { create, drop, kill, status, said, revisit } = plan(&job, ledger, &pods, policy_failure, clock::now());
    // Why the Job ends is written before pods are killed for it: after a restart these look as if they had failed.
    let conditions = |status: Option<&JobStatus>| status.and_then(|status| status.conditions.clone());
    let mut job = job;
    if !kill.is_empty() && conditions(Some(&status)) != conditions(job.status.as_ref()) {
        match write_status(context, &job, status.clone()).await? {
            Some(written) => job = written,
            None => return Ok(None),
        }
    }
    let failure = carry_out(context, control, &job, &about, &create, &drop, &kill).await;
    // Pods that were just made are active; others may have ended meanwhile, and there are never more ready than active.
    let mut status = status;
    let mut active = caches.pods.controlled_by(job.uid());
    active.retain(|pod| pod.active());
    status.active = crate::replica_set::count(active.len());
    status.ready = i32::try_from(active.iter().filter(|pod| pod.ready.is_some()).count()).ok();
    if write_status(context, &job, status).await?.is_none() {
        return Ok(None);
    }
    for (reason, message, warning) in said {
        let severity = if warning { Severity::Warning } else { Severity::Normal };
        control.recorder.event(&about, severity, reason, message);
    }
    match failure {
        Some(error) if namespace_is_terminating(&error) => Ok(None),
        Some(error) => Err(error).doing("creating or deleting pods"),
        None => Ok(revisit),
    }
}

async fn claim_pods(context: &Context, job: &Job, spec: &JobSpec) -> Result<Vec<Arc<Pod>>, PassError> {
    let caches = &context.caches;
    let Some(selector) = spec.selector.clone() else { return Ok(caches.pods.controlled_by(Cached::uid(job))) };
    let mut candidates = caches.pods.controlled_by(Cached::uid(job));
    if !finished(job) {
        candidates.extend(caches.pods.orphans(job.metadata.namespace.as_deref().unwrap_or_default()));
    }
    let matches = move |pod: &Pod| labels::selects(&selector, &pod.labels);
    let finalizer = Some(FINALIZER);
    claim_all_with::<_, PodInput, _>(&context.client, job, &caches.pods, candidates, matches, finalizer).await
}

/// Lets a failure policy say what failed pods mean. It looks at exit codes, so it reads the pods themselves.
async fn judge_all<'p>(
    context: &Context,
    spec: &JobSpec,
    failed: &[&'p Arc<Pod>],
) -> Result<Vec<(&'p Arc<Pod>, Verdict)>, PassError> {
    let Some(policy) = &spec.pod_failure_policy else {
        return Ok(failed.iter().map(|pod| (*pod, Verdict::Count)).collect());
    };
    let mut judged = Vec::with_capacity(failed.len());
    for pod in failed {
        let api = Api::<ApiPod>::namespaced(context.client.clone(), pod.namespace());
        let verdict = match api.get_opt(pod.name()).await.doing("reading a failed pod")? {
            Some(read) if read.metadata.uid.as_deref() == Some(&*pod.uid) => judge(policy, &read),
            _ => Verdict::Count,
        };
        judged.push((*pod, verdict));
    }
    Ok(judged)
}

fn is_noted(status: &JobStatus, pod: &Pod) -> bool {
    let notes = status.uncounted_terminated_pods.as_ref();
    let lists = notes.into_iter().flat_map(|notes| [&notes.succeeded, &notes.failed]);
    lists.flatten().flatten().any(|uid| **uid == *pod.uid)
}

/// Takes the finalizer off pods that have it.
async fn release(context: &Context, pods: impl Iterator<Item = &Arc<Pod>>) -> Result<(), PassError> {
    let releases = pods.filter(|pod| tracked(pod)).map(|pod| {
        let change = json!({"metadata": {"uid": &*pod.uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
        let key = pod.key();
        async move { patch::<PodInput, Pod>(&context.client, &context.caches.pods, &key, &change).await }
    });
    join_all(releases).await.into_iter().collect()
}

/// Writes the status when it differs, and gives the newest state of the Job; `None` when it is gone.
async fn write_status(context: &Context, job: &Arc<Job>, status: JobStatus) -> Result<Option<Arc<Job>>, PassError> {
    if job.status.as_ref() == Some(&status) {
        return Ok(Some(job.clone()));
    }
    let mut changed = (**job).clone();
    changed.status = Some(status);
    let key = Cached::key(&**job);
    let api = Api::<Job>::namespaced(context.client.clone(), &key.namespace);
    match api.replace_status(&key.name, &PostParams::default(), &changed).await {
        Ok(written) => {
            context.caches.jobs.wrote(written.clone());
            Ok(Some(Arc::new(written)))
        }
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error).doing("writing the status of a job"),
    }
}

/// Makes and takes pods. Gives the first failure.
async fn carry_out(
    context: &Context,
    control: &PodControl,
    job: &Job,
    about: &ObjectReference,
    create: &[plan::New],
    drop: &[Arc<Pod>],
    kill: &[Arc<Pod>],
) -> Option<kube::Error> {
    if let Err(PassError::Request { source, .. }) = release(context, drop.iter()).await {
        return Some(source);
    }
    let gone = join_all(drop.iter().chain(kill).map(|pod| async move {
        let only_this = Preconditions { uid: Some(pod.uid.to_string()), resource_version: None };
        let params = DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() };
        control.delete_with(pod, &params).await?;
        let message = format!("Deleted pod: {}", pod.name());
        control.recorder.event(about, Severity::Normal, "SuccessfulDelete", message);
        Ok(())
    }));
    if let Some(error) = gone.await.into_iter().find_map(Result::err) {
        return Some(error);
    }
    let made: Vec<_> = create.iter().map(|new| template::pod(job, new)).collect();
    control.create_slowly(&made.iter().collect::<Vec<_>>(), about).await
}
