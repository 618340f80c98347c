//! Namespaces that are deleted: first their pods, then all else in them, then the namespace itself.
//!
//! Upstream: <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/namespace/deletion/namespaced_resources_deleter.go>.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Namespace;
use kube::core::params::{DeleteParams, ListParams, PostParams};
use kube::core::{ObjectList, PartialObjectMeta};
use parking_lot::Mutex;

use crate::context::{Context, enqueue_changes};
use crate::discovery::{Kind, deletable};
use crate::object::{Cached, ObjectKey};
use crate::queue::{Doing, PassError, Queue, Revisit, is_conflict, is_not_found};

/// First and longest wait for finalizers of what is in the namespace.
const WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// The finalizer of this controller, in `spec.finalizers`.
const FINALIZER: &str = "kubernetes";

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

async fn pass(context: Arc<Context>, tries: Tries, key: ObjectKey) -> Result<Revisit, PassError> {
    let namespaces = &context.caches.namespaces;
    let Some(namespace) = namespaces.get(&key).filter(|namespace| namespace.deleting()) else {
        tries.lock().remove(&key.name);
        return Ok(None);
    };
    let Some(left) = finalized(&namespace) else { return Ok(None) };
    let kinds = deletable(&context.client).await?;
    let (pods, others): (Vec<Kind>, Vec<Kind>) = kinds
        .into_iter()
        .filter(|kind| kind.namespaced)
        .partition(|kind| kind.resource.group.is_empty() && kind.resource.plural == "pods");
    // Pods go first: they may need what else is there to end well.
    for part in [pods, others] {
        let remaining = try_join_all(part.iter().map(|kind| empty(&context.client, kind, &key.name))).await?;
        if remaining.iter().any(|count| *count > 0) {
            let mut tries = tries.lock();
            let count = tries.entry(key.name.clone()).or_default();
            *count += 1;
            return Ok(Some(wait(*count - 1)));
        }
    }
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
        Ok(_) => {}
        Err(error) if is_not_found(&error) => {}
        Err(error) => return Err(error).doing("finalizing a namespace"),
    }
    tries.lock().remove(&key.name);
    Ok(None)
}

/// Deletes all objects of a kind in a namespace and tells how many are still there.
async fn empty(client: &kube::Client, kind: &Kind, namespace: &str) -> Result<usize, PassError> {
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
        return Ok(0);
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
    Ok(list().await?.len())
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
}
