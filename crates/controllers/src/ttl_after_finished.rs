//! Jobs that have ended go when their time to live is over.
//!
//! Upstream: <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/ttlafterfinished/ttlafterfinished_controller.go>.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use kube::api::{Api, DeleteParams, Preconditions, PropagationPolicy};

use crate::clock;
use crate::context::{Context, enqueue_changes};
use crate::object::{Cached, ObjectKey};
use crate::queue::{Doing, PassError, Queue, Revisit, is_conflict, is_not_found};

/// Starts the controller.
pub fn start(context: &Arc<Context>) {
    let queue = Arc::<Queue>::default();
    enqueue_changes(&context.caches.jobs, &queue);
    let jobs = context.caches.jobs.clone();
    let ready = async move { jobs.synced().await };
    let context_of_pass = context.clone();
    context.run_controller("ttl-after-finished", queue, ready, move |key| {
        let context = context_of_pass.clone();
        async move { pass(&context, key).await }
    });
}

async fn pass(context: &Context, key: ObjectKey) -> Result<Revisit, PassError> {
    let caches = &context.caches;
    let Some(job) = caches.jobs.get(&key).filter(|job| !job.deleting()) else { return Ok(None) };
    let Some(end) = end_of_life(&job) else { return Ok(None) };
    let left = Duration::try_from(end.duration_since(clock::now())).unwrap_or_default();
    if !left.is_zero() {
        return Ok(Some(left));
    }
    // The version too: whoever has just made the time longer is heard.
    let only_this =
        Preconditions { uid: job.metadata.uid.clone(), resource_version: job.metadata.resource_version.clone() };
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Foreground),
        preconditions: Some(only_this),
        ..DeleteParams::default()
    };
    let api = Api::<Job>::namespaced(context.client.clone(), &key.namespace);
    match api.delete(&key.name, &params).await {
        Ok(_) => Ok(None),
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(None),
        Err(error) => Err(error).doing("deleting a job that has ended"),
    }
}

/// When a Job that has ended is to go.
fn end_of_life(job: &Job) -> Option<Timestamp> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let conditions = job.status.as_ref()?.conditions.iter().flatten();
    let mut ends = conditions
        .filter(|condition| ["Complete", "Failed"].contains(&condition.type_.as_str()) && condition.status == "True");
    let ended = ends.next()?.last_transition_time.as_ref()?.0;
    ended.checked_add(SignedDuration::from_secs(i64::from(ttl))).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn ends() {
        let check = |ttl: Value, condition: &str, expected: Option<&str>| {
            let job: Job = serde_json::from_value(
                json!({"spec": {"ttlSecondsAfterFinished": ttl, "template": {}}, "status": {"conditions": [
                {"type": condition, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}),
            )
            .expect("a job");
            assert_eq!(end_of_life(&job).map(|at| at.to_string()).as_deref(), expected, "{condition}");
        };
        check(json!(100), "Complete", Some("2026-01-01T00:01:40Z"));
        check(json!(0), "Failed", Some("2026-01-01T00:00:00Z"));
        check(json!(0), "Suspended", None);
        check(Value::Null, "Complete", None);
    }
}
