//! Keeps claims while pods use them, and volumes while they are bound: a finalizer on each, taken off when nothing holds it.
//!
//! A pod that has ended still counts; one without a node does not, since no node starts a pod whose claim is going away.
//!
//! Upstream: <https://github.com/kubernetes/kubernetes/tree/master/pkg/controller/volume/pvcprotection> and `pvprotection`.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::Resource;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::context::{Context, enqueue_changes};
use crate::informer::Store;
use crate::object::{Cached, ObjectKey};
use crate::persistent_volume::names::{CLAIM_PROTECTION, VOLUME_PROTECTION, has_finalizer};
use crate::pod::{Pod, PodInput};
use crate::queue::{Doing, PassError, Queue, Revisit, is_not_found};

/// Starts both controllers.
pub fn start(context: &Arc<Context>) {
    let caches = &context.caches;
    let queue = Arc::<Queue>::default();
    enqueue_changes(&caches.claims, &queue);
    let wake = queue.clone();
    caches.pods.on_change(move |before, after| {
        if let (Some(pod), None) = (before, after) {
            pod.claims.iter().for_each(|used| wake.add(ObjectKey::new(pod.namespace(), &used.claim)));
        }
    });
    let (claims, pods) = (caches.claims.clone(), caches.pods.clone());
    let ready = async move {
        claims.synced().await;
        pods.synced().await;
    };
    let own = context.clone();
    context.run_controller("pvc-protection", queue, ready, move |key| claim(own.clone(), key));

    let queue = Arc::<Queue>::default();
    enqueue_changes(&caches.volumes, &queue);
    let volumes = caches.volumes.clone();
    let own = context.clone();
    let ready = async move { volumes.synced().await };
    context.run_controller("pv-protection", queue, ready, move |key| volume(own.clone(), key));
}

fn uses(pod: &Pod, claim: &str) -> bool {
    pod.node.is_some() && pod.claims.iter().any(|used| &*used.claim == claim)
}

async fn claim(context: Arc<Context>, key: ObjectKey) -> Result<Revisit, PassError> {
    let caches = &context.caches;
    let Some(claim) = caches.claims.get(&key) else { return Ok(None) };
    let api = Api::<PersistentVolumeClaim>::namespaced(context.client.clone(), &key.namespace);
    match (claim.deleting(), has_finalizer(&*claim, CLAIM_PROTECTION)) {
        (false, false) => set(&api, &caches.claims, &*claim, CLAIM_PROTECTION, true).await?,
        (true, true) => {
            if caches.pods.in_namespace(&key.namespace).iter().any(|pod| uses(pod, &key.name)) {
                return Ok(None);
            }
            // The cache may be behind: a pod that came in just before the deletion must not lose its data.
            let pods = Api::<PodInput>::namespaced(context.client.clone(), &key.namespace);
            let pods = pods.list(&ListParams::default()).await.doing("listing the pods that may use a claim")?;
            if !pods.items.into_iter().map(Pod::from).any(|pod| uses(&pod, &key.name)) {
                set(&api, &caches.claims, &*claim, CLAIM_PROTECTION, false).await?;
            }
        }
        _ => {}
    }
    Ok(None)
}

async fn volume(context: Arc<Context>, key: ObjectKey) -> Result<Revisit, PassError> {
    let volumes = &context.caches.volumes;
    let Some(volume) = volumes.get(&key) else { return Ok(None) };
    let api = Api::<PersistentVolume>::all(context.client.clone());
    let bound = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    match (volume.deleting(), has_finalizer(&*volume, VOLUME_PROTECTION)) {
        (false, false) => set(&api, volumes, &*volume, VOLUME_PROTECTION, true).await?,
        (true, true) if !bound => set(&api, volumes, &*volume, VOLUME_PROTECTION, false).await?,
        _ => {}
    }
    Ok(None)
}

/// Puts a finalizer on or takes it off; refused when the object has changed since.
pub async fn set<K>(api: &Api<K>, store: &Store<K>, object: &K, finalizer: &str, on: bool) -> Result<(), PassError>
where
    K: Resource<DynamicType = ()> + Cached + Clone + DeserializeOwned + std::fmt::Debug,
{
    let meta = object.meta();
    let mut finalizers = meta.finalizers.clone().unwrap_or_default();
    finalizers.retain(|known| known != finalizer);
    if on {
        finalizers.push(finalizer.to_owned());
    }
    let last = finalizers.is_empty() && object.deleting();
    let change =
        json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": finalizers}});
    let name = meta.name.as_deref().unwrap_or_default();
    match api.patch(name, &PatchParams::default(), &Patch::Merge(change)).await {
        // With its last finalizer a deleted object goes.
        Ok(_) if last => store.removed(&object.key(), object.uid()),
        Ok(written) => store.wrote(written),
        Err(error) if is_not_found(&error) => {}
        Err(error) => return Err(error).doing("writing a finalizer"),
    }
    Ok(())
}
