//! Mirror pods: what the API server shows of static pods. Made, replaced and taken away to follow the files; nothing that
//! happens to a mirror changes what runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{HASH, MIRROR, annotation, mirrored};
use crate::context::Context;
use crate::pod;

/// How soon what failed is tried again, first and last.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Namespace and name.
pub type Key = (String, String);

/// The key of a pod.
pub fn key(owner: &Pod) -> Key {
    (pod::namespace(owner).to_owned(), pod::name(owner).to_owned())
}

#[derive(Default)]
struct Known {
    /// Static pods that run or still end.
    own: BTreeMap<Key, Arc<Pod>>,
    /// Their mirrors, and mirrors of what is no more.
    mirrors: BTreeMap<Key, Arc<Pod>>,
}

/// Static pods and their mirrors as they are known now.
#[derive(Default)]
pub struct Mirrors {
    known: Mutex<Known>,
    changed: Notify,
}

/// What to do about one name.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Create(Arc<Pod>),
    /// The mirror with this uid has to go; what is wanted in its place follows when it is gone.
    Delete(Key, String),
}

impl Mirrors {
    /// A static pod runs.
    pub fn add(&self, own: Arc<Pod>) {
        self.known.lock().own.insert(key(&own), own);
        self.changed.notify_one();
    }

    /// A static pod has ended; nothing of it is left.
    pub fn remove(&self, uid: &str) {
        self.known.lock().own.retain(|_, own| pod::uid(own) != uid);
        self.changed.notify_one();
    }

    /// A mirror is in the API server in this state.
    pub fn seen(&self, mirror: Arc<Pod>) {
        self.known.lock().mirrors.insert(key(&mirror), mirror);
        self.changed.notify_one();
    }

    /// A mirror is there no more.
    pub fn lost(&self, mirror: &Pod) {
        let mut known = self.known.lock();
        if known.mirrors.get(&key(mirror)).is_some_and(|known| pod::uid(known) == pod::uid(mirror)) {
            known.mirrors.remove(&key(mirror));
        }
        self.changed.notify_one();
    }

    /// After a whole list: only these mirrors are there.
    pub fn keep_only(&self, listed: &std::collections::HashSet<String>) -> Vec<Arc<Pod>> {
        let mut known = self.known.lock();
        let gone: Vec<Arc<Pod>> =
            known.mirrors.values().filter(|mirror| !listed.contains(pod::uid(mirror))).cloned().collect();
        known.mirrors.retain(|_, mirror| listed.contains(pod::uid(mirror)));
        self.changed.notify_one();
        gone
    }

    fn steps(&self) -> Vec<Step> {
        let known = self.known.lock();
        steps(&known.own, &known.mirrors)
    }

    /// Makes and takes away mirrors until the token is cancelled.
    pub async fn run(&self, context: Arc<Context>, token: CancellationToken) {
        let mut wait = RETRY.0;
        loop {
            // Both keep their news when the wait is dropped.
            tokio::select! {
                () = token.cancelled() => return,
                () = self.changed.notified() => {}
            }
            loop {
                let mut failed = None;
                for step in self.steps() {
                    if let Err(error) = take(&context, &step).await {
                        failed = Some(error);
                    }
                }
                let Some(error) = failed else { break };
                // Without an API server that is how it has to be.
                tracing::debug!(error = &error as &dyn std::error::Error, "a mirror pod was not written, trying again");
                tokio::select! {
                    () = token.cancelled() => return,
                    () = tokio::time::sleep(wait) => {}
                }
                wait = (wait * 2).min(RETRY.1);
            }
            wait = RETRY.0;
        }
    }
}

/// What has to be done. Pure.
fn steps(own: &BTreeMap<Key, Arc<Pod>>, mirrors: &BTreeMap<Key, Arc<Pod>>) -> Vec<Step> {
    let mut steps = Vec::new();
    for (key, mirror) in mirrors {
        let wanted = own.get(key).and_then(|own| annotation(own, HASH));
        if wanted != mirrored(mirror) || mirror.metadata.deletion_timestamp.is_some() {
            steps.push(Step::Delete(key.clone(), pod::uid(mirror).to_owned()));
        }
    }
    steps.extend(
        own.iter().filter(|(key, _)| !mirrors.contains_key(*key)).map(|(_, own)| Step::Create(Arc::clone(own))),
    );
    steps
}

/// A static pod as the API server is to show it.
fn mirror(own: &Pod, node: &str, node_uid: &str) -> Pod {
    let mut mirror = own.clone();
    mirror.status = None;
    let metadata = &mut mirror.metadata;
    metadata.uid = None;
    metadata.resource_version = None;
    metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.to_owned(),
        uid: node_uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    let hash = annotation(own, HASH).unwrap_or_default().to_owned();
    metadata.annotations.get_or_insert_default().insert(MIRROR.to_owned(), hash);
    mirror
}

async fn take(context: &Context, step: &Step) -> Result<(), kube::Error> {
    let client = context.config.client.clone();
    match step {
        Step::Create(own) => {
            let name = &context.config.name;
            let node = Api::<Node>::all(client.clone()).get(name).await?;
            let api: Api<Pod> = Api::namespaced(client, pod::namespace(own));
            let mirror = mirror(own, name, node.metadata.uid.as_deref().unwrap_or_default());
            match api.create(&PostParams::default(), &mirror).await {
                Ok(_) => Ok(()),
                // The watch is about to tell of it.
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => {
                    tracing::warn!(
                        pod = pod::full_name(own),
                        message = status.message,
                        "the API server does not take the mirror of a static pod"
                    );
                    // It runs nevertheless. A write of the file is the next chance.
                    if status.code == 403 { Err(kube::Error::Api(status)) } else { Ok(()) }
                }
                Err(error) => Err(error),
            }
        }
        Step::Delete((namespace, name), uid) => {
            let api: Api<Pod> = Api::namespaced(client, namespace);
            let parameters = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions { uid: Some(uid.clone()), resource_version: None }),
                ..DeleteParams::default()
            };
            match api.delete(name, &parameters).await {
                Ok(_) => Ok(()),
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
                Err(error) => Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn made(uid: &str, annotations: &Value, deleted: bool) -> Arc<Pod> {
        let deletion = deleted.then_some("2026-01-01T00:00:00Z");
        let meta = json!({"name": "p", "namespace": "ns", "uid": uid, "annotations": annotations, "deletionTimestamp": deletion});
        Arc::new(serde_json::from_value(json!({"metadata": meta})).expect("a pod"))
    }

    #[test]
    fn mirrors_follow_their_pods() {
        let own = |hash: &str| made(hash, &json!({HASH: hash}), false);
        let seen = |hash: &str, deleted: bool| made("m", &json!({HASH: hash, MIRROR: hash}), deleted);
        let check = |own: Option<Arc<Pod>>, seen: Option<Arc<Pod>>, expected: &str| {
            let map = |pod: Option<Arc<Pod>>| pod.into_iter().map(|pod| (key(&pod), pod)).collect::<BTreeMap<_, _>>();
            let words = steps(&map(own), &map(seen)).into_iter().map(|step| match step {
                Step::Create(own) => format!("create {}", pod::uid(&own)),
                Step::Delete(_, uid) => format!("delete {uid}"),
            });
            assert_eq!(words.collect::<Vec<_>>().join(", "), expected);
        };
        check(Some(own("1")), None, "create 1");
        check(Some(own("1")), Some(seen("1", false)), "");
        check(Some(own("2")), Some(seen("1", false)), "delete m");
        check(Some(own("1")), Some(seen("1", true)), "delete m");
        check(None, Some(seen("1", false)), "delete m");
        check(None, None, "");
    }

    #[test]
    fn a_mirror_belongs_to_its_node() {
        let shown = mirror(&made("1", &json!({HASH: "1"}), false), "n", "node-uid");
        let owner =
            shown.metadata.owner_references.as_ref().map(|owners| (owners[0].uid.as_str(), owners[0].controller));
        assert_eq!((mirrored(&shown), owner, &shown.metadata.uid), (Some("1"), Some(("node-uid", Some(true))), &None));
    }
}
