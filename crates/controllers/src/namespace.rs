//! Namespaces that are deleted: first their pods, then all else in them, then the namespace itself.
//!
//! Upstream: <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/namespace/deletion/namespaced_resources_deleter.go>.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, Patch, PatchParams};
use kube::core::params::{DeleteParams, ListParams, PostParams};
use kube::core::{ObjectList, PartialObjectMeta};
use parking_lot::Mutex;

use crate::clock;
use crate::context::{Context, enqueue_changes};
use crate::discovery::{Kind, deletable};
use crate::object::{Cached, ObjectKey};
use crate::pod_control::error_text;
use crate::queue::{Doing, PassError, Queue, Revisit, is_conflict, is_not_found};
use crate::replica_set::seconds;

/// First and longest wait for finalizers of what is in the namespace.
const WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// The finalizer of this controller, in `spec.finalizers`.
const FINALIZER: &str = "kubernetes";

/// The conditions of a namespace that goes, with reason and message while nothing is wrong; upstream's words, of
/// <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/namespace/deletion/status_condition_utils.go>.
const WELL: [(&str, &str, &str); 5] = [
    ("NamespaceDeletionDiscoveryFailure", "ResourcesDiscovered", "All resources successfully discovered"),
    ("NamespaceDeletionGroupVersionParsingFailure", "ParsedGroupVersions", "All legacy kube types successfully parsed"),
    (
        "NamespaceDeletionContentFailure",
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization",
    ),
    ("NamespaceContentRemaining", "ContentRemoved", "All content successfully removed"),
    ("NamespaceFinalizersRemaining", "ContentHasNoFinalizers", "All content-preserving finalizers finished"),
];

/// How often a namespace was found not empty yet.
type Tries = Arc<Mutex<HashMap<Arc<str>, u32>>>;

/// Starts the controller.
pub fn start(context: &Arc<Context>) {
    let queue = Arc::<Queue>::default();
    let caches = &context.caches;
    enqueue_changes(&caches.namespaces, &queue);
    let (pods, namespaces, wake) = (caches.pods.clone(), caches.namespaces.clone(), queue.clone());
    caches.pods.on_change(move |before, after| {
        let Some(pod) = before.filter(|_| after.is_none()) else { return };
        let key = ObjectKey::new("", pod.namespace());
        if namespaces.get(&key).is_some_and(|namespace| namespace.deleting())
            && pods.in_namespace(pod.namespace()).is_empty()
        {
            wake.add(key);
        }
    });
    let namespaces = caches.namespaces.clone();
    let ready = async move { namespaces.synced().await };
    let (own, tries) = (context.clone(), Tries::default());
    context.run_controller("namespace", queue, ready, move |key| pass(own.clone(), tries.clone(), key));
}

/// `spec.finalizers` without ours; `None` when ours is not there.
fn finalized(namespace: &Namespace) -> Option<Vec<String>> {
    let present = namespace.spec.as_ref()?.finalizers.as_ref()?;
    present
        .iter()
        .any(|name| name == FINALIZER)
        .then(|| present.iter().filter(|name| *name != FINALIZER).cloned().collect())
}

fn wait(tries: u32) -> Duration {
    (WAITS.0 * (1 << tries.min(10))).min(WAITS.1)
}

/// What one look at the content of a namespace found.
#[derive(Debug, Default)]
struct Report {
    /// Groups whose kinds are not known, with the reason.
    undiscovered: Vec<String>,
    /// What could not be listed or deleted, with the reason.
    failures: Vec<String>,
    /// How many objects of a kind are left, by upstream's `resource.group`.
    left: BTreeMap<String, usize>,
    /// How many of them a finalizer keeps.
    finalizers: BTreeMap<String, usize>,
}

impl Report {
    fn is_clean(&self) -> bool {
        self.undiscovered.is_empty() && self.failures.is_empty() && self.left.is_empty()
    }

    fn add(&mut self, kind: &Kind, found: Result<Left, PassError>) {
        let name = format!("{}.{}", kind.resource.plural, kind.resource.group);
        match found {
            Ok(left) => {
                if left.objects > 0 {
                    self.left.insert(name, left.objects);
                }
                for (finalizer, number) in left.finalizers {
                    *self.finalizers.entry(finalizer).or_default() += number;
                }
            }
            Err(error) => self.failures.push(told(&error)),
        }
    }

    /// Reason and message of a condition that is True, or `None` when all is well.
    fn trouble(&self, condition: &str) -> Option<(&'static str, String)> {
        let listed = |numbers: &BTreeMap<String, usize>, words: &str| {
            let parts: Vec<String> =
                numbers.iter().map(|(name, number)| format!("{name} {words} {number} resource instances")).collect();
            parts.join(", ")
        };
        match condition {
            "NamespaceDeletionDiscoveryFailure" if !self.undiscovered.is_empty() => Some((
                "DiscoveryFailed",
                format!(
                    "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
                    self.undiscovered.len(),
                    self.undiscovered.join(", ")
                ),
            )),
            "NamespaceDeletionContentFailure" if !self.failures.is_empty() => Some((
                "ContentDeletionFailed",
                format!(
                    "Failed to delete all resource types, {} remaining: {}",
                    self.failures.len(),
                    self.failures.join(", ")
                ),
            )),
            "NamespaceContentRemaining" if !self.left.is_empty() => {
                Some(("SomeResourcesRemain", format!("Some resources are remaining: {}", listed(&self.left, "has"))))
            }
            "NamespaceFinalizersRemaining" if !self.finalizers.is_empty() => Some((
                "SomeFinalizersRemain",
                format!("Some content in the namespace has finalizers remaining: {}", listed(&self.finalizers, "in")),
            )),
            _ => None,
        }
    }
}

/// The message of an error with its causes, as a person should read it.
fn told(error: &PassError) -> String {
    match error {
        PassError::Request { doing, source } => format!("{doing}: {}", error_text(source)),
        PassError::Object { what } => what.clone(),
    }
}

/// The conditions that a namespace is to have; `None` when it has them. Conditions of others are kept.
fn conditions(namespace: &Namespace, report: &Report, now: Timestamp) -> Option<Vec<NamespaceCondition>> {
    let old = namespace.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let mut all = old.clone();
    for (name, reason, message) in WELL {
        let (status, reason, message) = match report.trouble(name) {
            Some((reason, message)) => ("True", reason, message),
            None => ("False", reason, message.to_owned()),
        };
        let wanted = NamespaceCondition {
            type_: name.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(Time(seconds(now))),
        };
        match all.iter_mut().find(|condition| condition.type_ == name) {
            None => all.push(wanted),
            Some(there)
                if there.status == wanted.status
                    && there.reason == wanted.reason
                    && there.message == wanted.message => {}
            Some(there) => *there = wanted,
        }
    }
    (all != old).then_some(all)
}

async fn pass(context: Arc<Context>, tries: Tries, key: ObjectKey) -> Result<Revisit, PassError> {
    let namespaces = &context.caches.namespaces;
    let Some(namespace) = namespaces.get(&key).filter(|namespace| namespace.deleting()) else {
        tries.lock().remove(&key.name);
        return Ok(None);
    };
    let Some(left) = finalized(&namespace) else { return Ok(None) };
    let found = deletable(&context.client).await?;
    let mut report = Report::default();
    report.undiscovered.extend(found.failed.iter().map(|(version, error)| format!("{version}: {}", error_text(error))));
    let (pods, others): (Vec<Kind>, Vec<Kind>) = found
        .kinds
        .into_iter()
        .filter(|kind| kind.namespaced)
        .partition(|kind| kind.resource.group.is_empty() && kind.resource.plural == "pods");
    // Pods go first: they may need what else is there to end well.
    for part in [pods, others] {
        let emptied = join_all(part.iter().map(|kind| empty(&context.client, kind, &key.name))).await;
        part.iter().zip(emptied).for_each(|(kind, left)| report.add(kind, left));
        if !(report.left.is_empty() && report.failures.is_empty()) {
            break;
        }
    }
    // A namespace that goes now needs no last words.
    if !(report.is_clean() && left.is_empty())
        && let Some(conditions) = conditions(&namespace, &report, clock::now())
    {
        let change =
            serde_json::json!({"metadata": {"uid": namespace.metadata.uid}, "status": {"conditions": conditions}});
        let api = Api::<Namespace>::all(context.client.clone());
        match api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&change)).await {
            Ok(written) => namespaces.wrote(written),
            Err(error) if is_not_found(&error) => return Ok(None),
            Err(error) => return Err(error).doing("writing the conditions of a namespace"),
        }
    }
    if !report.is_clean() {
        let mut tries = tries.lock();
        let count = tries.entry(key.name.clone()).or_default();
        *count += 1;
        return Ok(Some(wait(*count - 1)));
    }
    finalize(&context, &key, left).await?;
    tries.lock().remove(&key.name);
    Ok(None)
}

/// Takes our finalizer off, which ends the namespace unless there are others.
async fn finalize(context: &Context, key: &ObjectKey, left: Vec<String>) -> Result<(), PassError> {
    let Some(namespace) = context.caches.namespaces.get(key) else { return Ok(()) };
    let mut changed = (*namespace).clone();
    changed.spec.get_or_insert_default().finalizers = Some(left);
    let body = serde_json::to_vec(&changed).map_err(kube::Error::SerdeError).doing("writing a namespace")?;
    let request = kube::core::Request::new("/api/v1/namespaces").replace_subresource(
        "finalize",
        &key.name,
        &PostParams::default(),
        body,
    );
    match context
        .client
        .request::<Namespace>(request.map_err(kube::Error::BuildRequest).doing("building a request")?)
        .await
    {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(error).doing("finalizing a namespace"),
    }
}

/// What is left of a kind.
#[derive(Debug, Default)]
struct Left {
    objects: usize,
    finalizers: BTreeMap<String, usize>,
}

/// Deletes all objects of a kind in a namespace and tells what is still there.
async fn empty(client: &kube::Client, kind: &Kind, namespace: &str) -> Result<Left, PassError> {
    let path = kind.path(Some(namespace));
    let list = || async {
        let request = kube::core::Request::new(path.clone()).list_metadata(&ListParams::default());
        let request = request.map_err(kube::Error::BuildRequest).doing("building a request")?;
        match client.request::<ObjectList<PartialObjectMeta>>(request).await {
            Ok(list) => Ok(list.items),
            Err(error) if is_not_found(&error) => Ok(Vec::new()),
            Err(error) => Err(error).doing("listing what is in a namespace"),
        }
    };
    let present = list().await?;
    if present.is_empty() {
        return Ok(Left::default());
    }
    let background = DeleteParams::background();
    if kind.can("deletecollection") {
        let request = kube::core::Request::new(path.clone()).delete_collection(&background, &ListParams::default());
        let request = request.map_err(kube::Error::BuildRequest).doing("building a request")?;
        match client.request_text(request).await {
            Ok(_) => {}
            Err(error) if is_not_found(&error) || is_conflict(&error) => {}
            Err(error) => return Err(error).doing("deleting what is in a namespace"),
        }
    } else {
        for object in present.iter().filter(|object| object.metadata.deletion_timestamp.is_none()) {
            let name = object.metadata.name.as_deref().unwrap_or_default();
            let request = kube::core::Request::new(path.clone()).delete(name, &background);
            match client.request_text(request.map_err(kube::Error::BuildRequest).doing("building a request")?).await {
                Ok(_) => {}
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(error).doing("deleting what is in a namespace"),
            }
        }
    }
    let remaining = list().await?;
    let mut left = Left { objects: remaining.len(), finalizers: BTreeMap::new() };
    for finalizer in remaining.into_iter().flat_map(|object| object.metadata.finalizers.unwrap_or_default()) {
        *left.finalizers.entry(finalizer).or_default() += 1;
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finalizers() {
        let check = |finalizers: &[&str], expected: Option<&[&str]>| {
            let namespace = serde_json::from_value(json!({"metadata": {}, "spec": {"finalizers": finalizers}}))
                .expect("a namespace");
            assert_eq!(finalized(&namespace), expected.map(|all| all.iter().map(|name| (*name).to_owned()).collect()));
        };
        check(&["kubernetes"], Some(&[]));
        check(&["own", "kubernetes"], Some(&["own"]));
        check(&["own"], None);
        check(&[], None);
        assert_eq!((wait(0), wait(2), wait(60)), (WAITS.0, WAITS.0 * 4, WAITS.1));
    }
    #[test]
    fn conditions_tell_what_is_left() {
        let mut namespace: Namespace = serde_json::from_value(
            json!({"metadata": {}, "status": {"conditions": [{"type": "Other", "status": "True"}]}}),
        )
        .expect("a namespace");
        let mut report = Report::default();
        let pods = crate::discovery::tests::kind("", "Pod", "pods", true);
        let finalizers = BTreeMap::from([("example.com/wait".to_owned(), 1)]);
        report.add(&pods, Ok(Left { objects: 2, finalizers }));
        report.add(&pods, Err(PassError::Object { what: "no".to_owned() }));
        let now = Timestamp::UNIX_EPOCH;
        let found = conditions(&namespace, &report, now).expect("a change");
        let told: Vec<String> = found
            .iter()
            .skip(1)
            .filter(|condition| condition.status == "True")
            .map(|condition| condition.message.clone().unwrap_or_default())
            .collect();
        assert_eq!(
            told,
            [
                "Failed to delete all resource types, 1 remaining: no",
                "Some resources are remaining: pods. has 2 resource instances",
                "Some content in the namespace has finalizers remaining: example.com/wait in 1 resource instances",
            ]
        );
        assert_eq!((found.len(), found[0].type_.as_str()), (6, "Other"));
        namespace.status.get_or_insert_default().conditions = Some(found);
        assert_eq!(conditions(&namespace, &report, now), None);
        let well = conditions(&namespace, &Report::default(), now).expect("a change");
        assert!(well.iter().skip(1).all(|condition| condition.status == "False"));
    }
}
