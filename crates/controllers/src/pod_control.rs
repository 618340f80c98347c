//! Creating and deleting pods on behalf of a controller, with upstream's events, and keeping the cache as new as the answer.

use futures::future::join_all;
use k8s_openapi::api::core::v1::{ObjectReference, Pod as ApiPod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kobune_scheduler::recorder::{Recorder, Severity};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};

use crate::clock;
use crate::informer::Store;
use crate::object::{Cached, ObjectKey};
use crate::ownership::url;
use crate::pod::{Pod, PodInput};
use crate::queue::{is_already_exists, is_conflict, is_not_found};
use crate::replica_set::seconds;

/// Writes pods for one controller.
#[derive(Clone)]
pub struct PodControl {
    /// The API.
    pub client: kube::Client,
    /// The cache of pods.
    pub pods: std::sync::Arc<Store<Pod>>,
    /// Events of the controller.
    pub recorder: Recorder,
}

/// What a controller wants created.
pub struct NewPod {
    /// Namespace.
    pub namespace: String,
    /// The whole pod.
    pub pod: ApiPod,
}

impl NewPod {
    /// A pod from a template; named by the server after `owner`.
    pub fn from_template(template: &PodTemplateSpec, namespace: &str, owner: OwnerReference) -> Self {
        let meta = template.metadata.clone().unwrap_or_default();
        let metadata = ObjectMeta {
            generate_name: Some(prefix(&owner.name)),
            namespace: Some(namespace.to_owned()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        };
        Self { namespace: namespace.to_owned(), pod: ApiPod { metadata, spec: template.spec.clone(), status: None } }
    }
}

/// `<name>-`, cut as the server would cut it anyway.
fn prefix(name: &str) -> String {
    format!("{name}-")
}

/// Whether creating failed because the namespace is going away, which is no fault worth an event.
pub fn namespace_is_terminating(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.details.as_ref().is_some_and(|details| {
        details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
    }))
}

/// The text of an error that a person should read.
pub fn error_text(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Says in a pod's status why it is about to be deleted: reason and message of condition `DisruptionTarget`. Whether the pod
/// is still there.
pub async fn disrupt(client: &kube::Client, pod: &Pod, (reason, message): (&str, &str)) -> Result<bool, kube::Error> {
    if pod.disrupted {
        return Ok(true);
    }
    let now = Time(seconds(clock::now()));
    let change = serde_json::json!({"metadata": {"uid": &*pod.uid}, "status": {"conditions": [{
        "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message, "lastTransitionTime": now,
    }]}});
    let api = Api::<ApiPod>::namespaced(client.clone(), pod.namespace());
    match api.patch_status(pod.name(), &PatchParams::default(), &Patch::Strategic(change)).await {
        Ok(_) => Ok(true),
        // Another pod has the name by now, or none.
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

impl PodControl {
    /// Creates one pod and says nothing about it.
    pub async fn create_silently(&self, new: &NewPod) -> Result<Pod, kube::Error> {
        let body = serde_json::to_vec(&new.pod).map_err(kube::Error::SerdeError)?;
        let key = ObjectKey::new(&new.namespace, "");
        let request = kube::core::Request::new(url::<PodInput>(&key)).create(&PostParams::default(), body);
        let created = self.client.request::<PodInput>(request.map_err(kube::Error::BuildRequest)?).await?;
        let pod = Pod::from(created);
        self.pods.wrote(pod.clone());
        Ok(pod)
    }

    /// Creates one pod. `about` is the owner, for events.
    pub async fn create(&self, new: &NewPod, about: &ObjectReference) -> Result<Pod, kube::Error> {
        match self.create_silently(new).await {
            Ok(pod) => {
                let message = format!("Created pod: {}", pod.name());
                self.recorder.event(about, Severity::Normal, "SuccessfulCreate", message);
                Ok(pod)
            }
            Err(error) => {
                if !namespace_is_terminating(&error) && !is_already_exists(&error) {
                    let message = format!("Error creating: {}", error_text(&error));
                    self.recorder.event(about, Severity::Warning, "FailedCreate", message);
                }
                Err(error)
            }
        }
    }

    /// Creates pods in batches of 1, 2, 4 and so on, so that a template that cannot work is not tried a thousand times.
    /// Gives back the first failure; the batch that it is in is the last.
    pub async fn create_slowly(&self, pods: &[&NewPod], about: &ObjectReference) -> Option<kube::Error> {
        let (mut rest, mut batch) = (pods, 1);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(batch.min(rest.len()));
            let results = join_all(now.iter().map(|pod| self.create(pod, about))).await;
            if let Some(error) = results.into_iter().find_map(Result::err) {
                return Some(error);
            }
            (rest, batch) = (later, batch * 2);
        }
        None
    }

    /// Deletes one pod, gently.
    pub async fn delete(&self, pod: &Pod, about: &ObjectReference) -> Result<(), kube::Error> {
        let only_this = Preconditions { uid: Some(pod.uid.to_string()), resource_version: None };
        let params = DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() };
        match self.delete_with(pod, &params).await {
            Ok(()) => {
                self.recorder.event(
                    about,
                    Severity::Normal,
                    "SuccessfulDelete",
                    format!("Deleted pod: {}", pod.name()),
                );
                Ok(())
            }
            Err(error) => {
                self.recorder.event(
                    about,
                    Severity::Warning,
                    "FailedDelete",
                    format!("Error deleting: {}", error_text(&error)),
                );
                Err(error)
            }
        }
    }

    /// Deletes one pod in this manner. A pod that is gone already counts as done.
    pub async fn delete_with(&self, pod: &Pod, params: &DeleteParams) -> Result<(), kube::Error> {
        let key = pod.key();
        let request = kube::core::Request::new(url::<PodInput>(&key)).delete(&key.name, params);
        match self.client.request_status::<PodInput>(request.map_err(kube::Error::BuildRequest)?).await {
            Ok(answer) => {
                match answer.left() {
                    Some(left) if kube::Resource::meta(&left).deletion_timestamp.is_some() => self.pods.wrote(left),
                    _ => self.pods.removed(&key, &pod.uid),
                }
                Ok(())
            }
            Err(error) if is_not_found(&error) => {
                self.pods.removed(&key, &pod.uid);
                Ok(())
            }
            // Another pod has the name by now: ours is gone.
            Err(error) if is_conflict(&error) && params.preconditions.is_some() => Ok(()),
            Err(error) => Err(error),
        }
    }
}
