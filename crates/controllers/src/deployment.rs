//! Deployments: a rollout from one ReplicaSet to the next.
//!
//! ```text
//!            ┌── paused or replicas changed ──> scale in proportion
//!   observe ─┤── Recreate ────> old to 0 ──> wait until their pods are gone ──> new to full
//!            └── RollingUpdate ──> new up by maxSurge ──> old down by maxUnavailable ──> complete ──> clean up history
//! ```
//!
//! Everything is decided by `plan`. Upstream:
//! <https://github.com/kubernetes/kubernetes/tree/master/pkg/controller/deployment>.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kobune_scheduler::labels;
use kobune_scheduler::recorder::{Recorder, Severity};
use kube::Resource;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, PropagationPolicy};

use crate::clock;
use crate::context::{Context, enqueue_changes, enqueue_owners};
use crate::object::{Cached, ObjectKey};
use crate::ownership::claim_all;
use crate::pod::Phase;
use crate::pod_control::{error_text, namespace_is_terminating};
use crate::queue::{Doing, PassError, Queue, Revisit, is_already_exists, is_not_found};

mod plan;
mod replica_sets;
mod status;
#[cfg(test)]
mod tests;

pub use plan::{Action, Plan, plan};
use replica_sets::{new_replica_set, same_template};

/// Starts the controller.
pub fn start(context: &Arc<Context>) {
    let queue = Arc::<Queue>::default();
    let caches = &context.caches;
    enqueue_changes(&caches.deployments, &queue);
    enqueue_owners(&caches.replica_sets, "Deployment", &queue);
    let (deployments, wake) = (caches.deployments.clone(), queue.clone());
    caches.replica_sets.on_change(move |_, after| {
        let Some(set) = after.filter(|set| set.controller().is_none() && !set.deleting()) else { return };
        let own = set.metadata.labels.clone().unwrap_or_default();
        for deployment in deployments.in_namespace(set.metadata.namespace.as_deref().unwrap_or_default()) {
            if deployment.spec.as_ref().is_some_and(|spec| labels::selects(&spec.selector, &own)) {
                wake.add(deployment.key());
            }
        }
    });
    // Recreate waits for the last old pod to go; nothing else here looks at pods.
    let (deployments, sets, wake) = (caches.deployments.clone(), caches.replica_sets.clone(), queue.clone());
    caches.pods.on_change(move |before, after| {
        let Some(pod) = before.filter(|_| after.is_none()) else { return };
        let Some(owner) = pod.controller().filter(|owner| owner.kind == "ReplicaSet") else { return };
        let Some(set) = sets.get(&ObjectKey::new(pod.namespace(), &owner.name)) else { return };
        let Some(owner) = set.controller().filter(|owner| owner.kind == "Deployment") else { return };
        let key = ObjectKey::new(pod.namespace(), &owner.name);
        if deployments.get(&key).is_some_and(|deployment| plan::recreates(&deployment)) {
            wake.add(key);
        }
    });
    let recorder = context.recorder.for_component("deployment-controller");
    let (pods, sets, deployments) = (caches.pods.clone(), caches.replica_sets.clone(), caches.deployments.clone());
    let ready = async move {
        pods.synced().await;
        sets.synced().await;
        deployments.synced().await;
    };
    let context_of_pass = context.clone();
    context.run_controller("deployment", queue, ready, move |key| pass(context_of_pass.clone(), recorder.clone(), key));
}

async fn pass(context: Arc<Context>, recorder: Recorder, key: ObjectKey) -> Result<Revisit, PassError> {
    let caches = &context.caches;
    let Some(deployment) = caches.deployments.get(&key) else { return Ok(None) };
    let Some(spec) = deployment.spec.as_ref() else { return Ok(None) };
    let about = deployment.object_ref(&());
    if labels::is_empty(&spec.selector) {
        let message = "This deployment is selecting all pods. A non-empty selector is required.";
        recorder.event(&about, Severity::Warning, "SelectingAll", message);
        return Ok(None);
    }
    let mut candidates = caches.replica_sets.controlled_by(deployment.uid());
    candidates.extend(caches.replica_sets.orphans(&key.namespace));
    let selector = spec.selector.clone();
    let sets = claim_all::<_, ReplicaSet, _>(
        &context.client,
        &*deployment,
        &caches.replica_sets,
        candidates,
        move |set: &ReplicaSet| labels::selects(&selector, set.metadata.labels.as_ref().unwrap_or(&Default::default())),
    )
    .await?;
    let old_pods_run = plan::recreates(&deployment) && {
        let old = sets.iter().filter(|set| !same_template(&deployment, set));
        old.flat_map(|set| caches.pods.controlled_by(set.uid()))
            .any(|pod| !matches!(pod.phase, Phase::Failed | Phase::Succeeded))
    };
    let now = clock::now();
    let Plan { actions, annotations, status, revisit } = plan(&deployment, &sets, old_pods_run, now);
    let mut carrier = Carrier { context: &context, recorder: &recorder, deployment: &deployment, key: &key };
    let mut failure = None;
    for action in actions {
        if let Err(error) = carrier.carry_out(action).await {
            failure = Some(error);
            break;
        }
    }
    let api = Api::<Deployment>::namespaced(context.client.clone(), &key.namespace);
    // The number of a rollout whose ReplicaSet could not be made is nobody's yet.
    let began = !matches!(failure, Some(Failure::Create(_) | Failure::Collision));
    if let Some(annotations) = annotations.filter(|_| began) {
        let change = serde_json::json!({"metadata": {"annotations": annotations}});
        let written = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&change)).await;
        match written {
            Ok(written) => caches.deployments.wrote(slim(written)),
            Err(error) if is_not_found(&error) => return Ok(None),
            Err(error) => return Err(error).doing("writing the revision of a deployment"),
        }
    }
    let status = match &failure {
        Some(Failure::Create(message)) => status::create_failed(&deployment, status, message, now),
        Some(Failure::Collision) => status::collided(status),
        Some(Failure::Pass(_)) | None => status,
    };
    if deployment.status.as_ref() != Some(&status) {
        // The annotations may just have been written, which makes the object newer than the one we read.
        let mut changed =
            caches.deployments.get(&key).map_or_else(|| (*deployment).clone(), |newest| (*newest).clone());
        changed.status = Some(status);
        match api.replace_status(&key.name, &PostParams::default(), &changed).await {
            Ok(written) => caches.deployments.wrote(slim(written)),
            Err(error) if is_not_found(&error) => return Ok(None),
            Err(error) => return Err(error).doing("writing the status of a deployment"),
        }
    }
    match failure {
        None => Ok(revisit),
        Some(Failure::Pass(error)) => Err(error),
        Some(Failure::Collision) => Ok(Some(Duration::ZERO)),
        Some(Failure::Create(what)) => Err(PassError::Object { what }),
    }
}

fn slim<K: Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}

/// Why an action did not work.
enum Failure {
    /// The name of the new ReplicaSet is taken by one with another template.
    Collision,
    /// The new ReplicaSet was refused, with this message.
    Create(String),
    /// Something else; the pass is tried again.
    Pass(PassError),
}

impl From<PassError> for Failure {
    fn from(error: PassError) -> Self {
        Self::Pass(error)
    }
}

/// Carries actions out.
struct Carrier<'c> {
    context: &'c Context,
    recorder: &'c Recorder,
    deployment: &'c Deployment,
    key: &'c ObjectKey,
}

impl Carrier<'_> {
    async fn carry_out(&mut self, action: Action) -> Result<(), Failure> {
        let about = self.deployment.object_ref(&());
        let sets = &self.context.caches.replica_sets;
        let api = Api::<ReplicaSet>::namespaced(self.context.client.clone(), &self.key.namespace);
        match action {
            Action::Create { replicas, revision } => {
                let set = new_replica_set(self.deployment, replicas, revision);
                let name = set.metadata.name.clone().unwrap_or_default();
                match api.create(&PostParams::default(), &set).await {
                    Ok(created) => {
                        sets.wrote(slim(created));
                        if replicas > 0 {
                            let message = format!("Scaled up replica set {name} from 0 to {replicas}");
                            self.recorder.event(&about, Severity::Normal, "ScalingReplicaSet", message);
                        }
                        Ok(())
                    }
                    Err(error) if is_already_exists(&error) => {
                        let taken = api.get(&name).await.doing("looking up a replica set")?;
                        let ours = taken.controller().is_some_and(|owner| owner.uid == self.deployment.uid());
                        if ours && same_template(self.deployment, &taken) {
                            sets.wrote(slim(taken));
                            return Ok(());
                        }
                        Err(Failure::Collision)
                    }
                    // The namespace goes away and this deployment with it.
                    Err(error) if namespace_is_terminating(&error) => Ok(()),
                    Err(error) => {
                        let message = format!("Failed to create new replica set {name:?}: {}", error_text(&error));
                        self.recorder.event(&about, Severity::Warning, "ReplicaSetCreateError", message);
                        Err(Failure::Create(error_text(&error)))
                    }
                }
            }
            Action::Change { name, version, replicas, annotations, min_ready_seconds } => {
                let mut change = serde_json::json!({"metadata": {"resourceVersion": version}});
                if !annotations.is_empty() {
                    change["metadata"]["annotations"] = serde_json::json!(annotations);
                }
                if let Some((_, to)) = replicas {
                    change["spec"]["replicas"] = to.into();
                }
                if let Some(seconds) = min_ready_seconds {
                    change["spec"]["minReadySeconds"] = seconds.into();
                }
                let written = api.patch(&name, &PatchParams::default(), &Patch::Merge(&change)).await;
                sets.wrote(slim(written.doing("scaling a replica set")?));
                if let Some((from, to)) = replicas {
                    let direction = if to > from { "up" } else { "down" };
                    let message = format!("Scaled {direction} replica set {name} from {from} to {to}");
                    self.recorder.event(&about, Severity::Normal, "ScalingReplicaSet", message);
                }
                Ok(())
            }
            Action::Delete { name, uid } => {
                let params = DeleteParams {
                    propagation_policy: Some(PropagationPolicy::Background),
                    preconditions: Some(kube::api::Preconditions { uid: Some(uid.clone()), resource_version: None }),
                    ..DeleteParams::default()
                };
                match api.delete(&name, &params).await {
                    Ok(answer) => {
                        let key = ObjectKey::new(&self.key.namespace, &name);
                        match answer.left() {
                            Some(left) if left.deleting() => sets.wrote(slim(left)),
                            _ => sets.removed(&key, &uid),
                        }
                        Ok(())
                    }
                    Err(error) if is_not_found(&error) => Ok(()),
                    Err(error) => Err(error).doing("deleting an old replica set").map_err(Failure::from),
                }
            }
        }
    }
}
