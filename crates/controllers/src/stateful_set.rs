//! StatefulSets: pods with numbers, each with a name, a place in the order and volumes of its own.
//!
//! ```text
//!   fill 0..n in order ──> shrink from the top ──> roll from the top down to the partition
//! ```
//!
//! In order (`OrderedReady`) each step waits until the pods before it are well; `Parallel` does not wait. `plan` decides;
//! upstream: <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/statefulset/stateful_set_control.go>.

mod identity;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolumeClaim, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kobune_scheduler::labels;
use kobune_scheduler::recorder::{Recorder, Severity};
use kube::Resource;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::clock;
use crate::context::{Context, enqueue_changes, enqueue_owners, enqueue_selecting};
use crate::object::{Cached, ObjectKey};
use crate::ownership::claim_all;
use crate::pod::{Pod, PodInput};
use crate::pod_control::{NewPod, PodControl, error_text, namespace_is_terminating};
use crate::queue::{Doing, PassError, Queue, Revisit, is_already_exists, is_not_found};
use crate::revisions::{History, Owner, template};

use identity::{Retention, claim_owners, claims, ordinal, pod_name};
use plan::{Action, Plan, Revisions, Template, plan, revision_of};

/// Old revisions that are kept when the set does not say.
const HISTORY_LIMIT: i32 = 10;

/// Starts the controller.
pub fn start(context: &Arc<Context>) {
    let queue = Arc::<Queue>::default();
    let caches = &context.caches;
    enqueue_changes(&caches.stateful_sets, &queue);
    enqueue_owners(&caches.pods, "StatefulSet", &queue);
    enqueue_selecting(&caches.pods, &caches.stateful_sets, &queue, |set, pod| {
        set.spec.as_ref().is_some_and(|spec| labels::selects(&spec.selector, &pod.labels))
    });
    let control = PodControl {
        client: context.client.clone(),
        pods: caches.pods.clone(),
        recorder: context.recorder.for_component("statefulset-controller"),
    };
    let (pods, sets, claims, revisions) =
        (caches.pods.clone(), caches.stateful_sets.clone(), caches.claims.clone(), caches.controller_revisions.clone());
    let ready = async move {
        pods.synced().await;
        sets.synced().await;
        claims.synced().await;
        revisions.synced().await;
    };
    let context_of_pass = context.clone();
    context.run_controller("statefulset", queue, ready, move |key| {
        let (context, control) = (context_of_pass.clone(), control.clone());
        async move { pass(&context, &control, key).await }
    });
}

async fn pass(context: &Context, control: &PodControl, key: ObjectKey) -> Result<Revisit, PassError> {
    let caches = &context.caches;
    let Some(set) = caches.stateful_sets.get(&key) else { return Ok(None) };
    let Some(spec) = set.spec.as_ref() else { return Ok(None) };
    let about = set.object_ref(&());
    if labels::is_empty(&spec.selector) {
        let message = "This statefulset is selecting all pods. A non-empty selector is required.";
        control.recorder.event(&about, Severity::Warning, "SelectingAll", message);
        return Ok(None);
    }
    let pods = claim_pods(context, &set).await?;
    if set.deleting() {
        return Ok(None);
    }
    let owner = Owner {
        object: &*set,
        template: &spec.template,
        selector: &spec.selector,
        collisions: set.status.as_ref().and_then(|status| status.collision_count),
        hash_in_revision_label: false,
    };
    let history = owner.history(context).await?;
    let recorded = set.status.as_ref().and_then(|status| status.current_revision.as_deref()).unwrap_or_default();
    let current = history.by_name(recorded).unwrap_or(&history.update).clone();
    let revisions = Revisions { current: name(&current), update: name(&history.update) };
    let carrier = Carrier {
        context,
        control,
        set: &set,
        about: &about,
        current: template(&current).unwrap_or_else(|| spec.template.clone()),
        revisions,
    };
    let Plan { actions, status, revisit } = plan(&set, &pods, revisions, history.collisions, clock::now());
    let mut failure = None;
    for action in actions {
        if let Err(error) = carrier.carry_out(action).await {
            failure = Some(error);
            break;
        }
    }
    carrier.keep_claims(&pods).await?;
    // What the writes changed is in the cache already, so the status is of the state after them.
    let pods = caches.pods.controlled_by(set.uid());
    let after = plan(&set, &pods, revisions, history.collisions, clock::now());
    let status = if failure.is_some() { status } else { after.status };
    let live_current = status.current_revision.clone();
    if set.status.as_ref() != Some(&status) {
        let mut changed = (*set).clone();
        changed.status = Some(status);
        let api = Api::<StatefulSet>::namespaced(context.client.clone(), &key.namespace);
        match api.replace_status(&key.name, &PostParams::default(), &changed).await {
            Ok(written) => caches.stateful_sets.wrote(written),
            Err(error) if is_not_found(&error) => return Ok(None),
            Err(error) => return Err(error).doing("writing the status of a stateful set"),
        }
    }
    if let Some(error) = failure {
        return Err(error);
    }
    clean_up(context, &history, &pods, live_current.as_deref(), spec.revision_history_limit).await?;
    Ok(revisit.or(after.revisit))
}

fn name(revision: &ControllerRevision) -> &str {
    revision.metadata.name.as_deref().unwrap_or_default()
}

async fn claim_pods(context: &Context, set: &StatefulSet) -> Result<Vec<Arc<Pod>>, PassError> {
    let caches = &context.caches;
    let Some(spec) = set.spec.as_ref() else { return Ok(Vec::new()) };
    let set_name = set.metadata.name.clone().unwrap_or_default();
    let mut candidates = caches.pods.controlled_by(Cached::uid(set));
    candidates.extend(caches.pods.orphans(set.metadata.namespace.as_deref().unwrap_or_default()));
    let selector = spec.selector.clone();
    claim_all::<_, PodInput, _>(&context.client, set, &caches.pods, candidates, move |pod: &Pod| {
        ordinal(&set_name, pod.name()).is_some() && labels::selects(&selector, &pod.labels)
    })
    .await
}

async fn clean_up(
    context: &Context,
    history: &History,
    pods: &[Arc<Pod>],
    current: Option<&str>,
    limit: Option<i32>,
) -> Result<(), PassError> {
    let live = |revision: &ControllerRevision| {
        let name = name(revision);
        name == self::name(&history.update) || current == Some(name) || pods.iter().any(|pod| revision_of(pod) == name)
    };
    history.clean_up(context, limit.unwrap_or(HISTORY_LIMIT), live).await
}

/// Carries out what was planned for one set.
struct Carrier<'c> {
    context: &'c Context,
    control: &'c PodControl,
    set: &'c StatefulSet,
    about: &'c ObjectReference,
    current: PodTemplateSpec,
    revisions: Revisions<'c>,
}

impl Carrier<'_> {
    fn recorder(&self) -> &Recorder {
        &self.control.recorder
    }

    fn namespace(&self) -> &str {
        self.set.metadata.namespace.as_deref().unwrap_or_default()
    }

    async fn carry_out(&self, action: Action) -> Result<(), PassError> {
        match action {
            Action::Claims { ordinal } => self.make_claims(ordinal).await,
            Action::Create { ordinal, template } => {
                self.make_claims(ordinal).await?;
                self.create(ordinal, template).await
            }
            Action::Delete { pod, said } => {
                if let Some((reason, message)) = said {
                    self.recorder().event(self.about, Severity::Warning, reason, message);
                }
                let set = self.about.name.as_deref().unwrap_or_default();
                let only_this = kube::api::Preconditions { uid: Some(pod.uid.to_string()), resource_version: None };
                let params = kube::api::DeleteParams { preconditions: Some(only_this), ..Default::default() };
                match self.control.delete_with(&pod, &params).await {
                    Ok(()) => {
                        let message = format!("delete Pod {} in StatefulSet {set} successful", pod.name());
                        self.recorder().event(self.about, Severity::Normal, "SuccessfulDelete", message);
                        Ok(())
                    }
                    Err(error) => {
                        let text = error_text(&error);
                        let message = format!("delete Pod {} in StatefulSet {set} failed error: {text}", pod.name());
                        self.recorder().event(self.about, Severity::Warning, "FailedDelete", message);
                        Err(error).doing("deleting a pod")
                    }
                }
            }
        }
    }

    async fn create(&self, ordinal: i32, which: Template) -> Result<(), PassError> {
        let spec = self.set.spec.as_ref();
        let (template, revision) = match (which, spec) {
            (Template::Update, Some(spec)) => (&spec.template, self.revisions.update),
            _ => (&self.current, self.revisions.current),
        };
        let pod = identity::pod(self.set, template, revision, ordinal);
        let set = self.about.name.as_deref().unwrap_or_default();
        let name = pod.metadata.name.clone().unwrap_or_default();
        match self.control.create_silently(&NewPod { namespace: self.namespace().to_owned(), pod }).await {
            Ok(_) => {
                let message = format!("create Pod {name} in StatefulSet {set} successful");
                self.recorder().event(self.about, Severity::Normal, "SuccessfulCreate", message);
                Ok(())
            }
            Err(error) if namespace_is_terminating(&error) => Ok(()),
            Err(error) => {
                let message = format!("create Pod {name} in StatefulSet {set} failed error: {}", error_text(&error));
                self.recorder().event(self.about, Severity::Warning, "FailedCreate", message);
                Err(error).doing("creating a pod")
            }
        }
    }

    async fn make_claims(&self, ordinal: i32) -> Result<(), PassError> {
        let api = Api::<PersistentVolumeClaim>::namespaced(self.context.client.clone(), self.namespace());
        for (_, claim) in claims(self.set, ordinal) {
            let name = claim.metadata.name.clone().unwrap_or_default();
            if self.context.caches.claims.get(&ObjectKey::new(self.namespace(), &name)).is_some() {
                continue;
            }
            let set = self.about.name.as_deref().unwrap_or_default();
            let pod = pod_name(set, ordinal);
            match api.create(&PostParams::default(), &claim).await {
                Ok(created) => {
                    self.context.caches.claims.wrote(created);
                    let message = format!("create Claim {name} Pod {pod} in StatefulSet {set} success");
                    self.recorder().event(self.about, Severity::Normal, "SuccessfulCreate", message);
                }
                Err(error) if is_already_exists(&error) => {}
                Err(error) if namespace_is_terminating(&error) => return Ok(()),
                Err(error) => {
                    let text = error_text(&error);
                    let message =
                        format!("create Claim {name} for Pod {pod} in StatefulSet {set} failed error: {text}");
                    self.recorder().event(self.about, Severity::Warning, "FailedCreate", message);
                    return Err(error).doing("creating a claim");
                }
            }
        }
        Ok(())
    }

    /// Makes the claims of the set belong to what they are to go with.
    async fn keep_claims(&self, pods: &[Arc<Pod>]) -> Result<(), PassError> {
        let Some(spec) = self.set.spec.as_ref() else { return Ok(()) };
        if spec.volume_claim_templates.iter().flatten().next().is_none() {
            return Ok(());
        }
        let retention = Retention::of(self.set);
        let set_name = self.about.name.as_deref().unwrap_or_default();
        let kept: Vec<i32> = plan::wanted_names(self.set).map(|(ordinal, _)| ordinal).collect();
        let present = pods.iter().filter_map(|pod| Some((ordinal(set_name, pod.name())?, pod)));
        for (ordinal, pod) in present {
            let condemned = (!kept.contains(&ordinal)).then(|| OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Pod".to_owned(),
                name: pod.name().to_owned(),
                uid: pod.uid.to_string(),
                ..OwnerReference::default()
            });
            for (_, wanted) in claims(self.set, ordinal) {
                let name = wanted.metadata.name.unwrap_or_default();
                let Some(claim) = self.context.caches.claims.get(&ObjectKey::new(self.namespace(), &name)) else {
                    continue;
                };
                let owners = claim_owners(self.set, retention, condemned.as_ref(), pod.name(), Cached::owners(&*claim));
                let Some(owners) = owners else { continue };
                let change = json!({"metadata": {"uid": Cached::uid(&*claim), "resourceVersion": claim.metadata.resource_version,
                    "ownerReferences": owners}});
                let api = Api::<PersistentVolumeClaim>::namespaced(self.context.client.clone(), self.namespace());
                match api.patch(&name, &PatchParams::default(), &Patch::Merge(&change)).await {
                    Ok(written) => self.context.caches.claims.wrote(written),
                    Err(error) if is_not_found(&error) => {}
                    Err(error) => return Err(error).doing("writing the owners of a claim"),
                }
            }
        }
        Ok(())
    }
}
