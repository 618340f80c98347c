//! Pods bound to nodes that do not exist: nobody else would ever end them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod as ApiPod};
use kube::api::{Api, DeleteParams, Preconditions};
use parking_lot::Mutex;

use crate::context::Context;
use crate::object::{Cached, ObjectKey};
use crate::pod::Pod;
use crate::queue::{Doing, PassError, Queue, Revisit, is_conflict, is_not_found};

/// How long a node has to be absent, as upstream: it may only be registering anew.
const QUARANTINE: Duration = Duration::from_secs(40);

/// Since when nodes are absent.
type Absent = Arc<Mutex<HashMap<Box<str>, Instant>>>;

/// Starts the controller.
pub fn start(context: &Arc<Context>) {
    let queue = Arc::<Queue>::default();
    let caches = &context.caches;
    let (nodes, wake) = (caches.nodes.clone(), queue.clone());
    caches.pods.on_change(move |_, after| {
        if let Some(pod) = after
            && pod.node.as_deref().is_some_and(|node| nodes.get(&ObjectKey::new("", node)).is_none())
        {
            wake.add(pod.key());
        }
    });
    let absent = Absent::default();
    let (pods, wake, back) = (caches.pods.clone(), queue.clone(), absent.clone());
    caches.nodes.on_change(move |before, after| match (before, after) {
        (_, Some(node)) => drop(back.lock().remove(&*node.key().name)),
        (Some(node), None) => {
            let name = node.key().name;
            pods.all().iter().filter(|pod| pod.node.as_deref() == Some(&*name)).for_each(|pod| wake.add(pod.key()));
        }
        (None, None) => {}
    });
    let (pods, nodes) = (caches.pods.clone(), caches.nodes.clone());
    let ready = async move {
        pods.synced().await;
        nodes.synced().await;
    };
    let own = context.clone();
    context.run_controller("pod-garbage-collector", queue, ready, move |key| pass(own.clone(), absent.clone(), key));
}

/// How much longer a pod stays; `None` when nothing is wrong with it.
fn plan(pod: &Pod, node_exists: impl Fn(&str) -> bool, absent: &Absent, now: Instant) -> Revisit {
    let node = pod.node.as_deref().filter(|node| !node_exists(node))?;
    let since = *absent.lock().entry(node.into()).or_insert(now);
    Some(QUARANTINE.saturating_sub(now.duration_since(since)))
}

async fn pass(context: Arc<Context>, absent: Absent, key: ObjectKey) -> Result<Revisit, PassError> {
    let caches = &context.caches;
    let Some(pod) = caches.pods.get(&key) else { return Ok(None) };
    let exists = |node: &str| caches.nodes.get(&ObjectKey::new("", node)).is_some();
    match plan(&pod, exists, &absent, Instant::now()) {
        None => return Ok(None),
        Some(left) if !left.is_zero() => return Ok(Some(left)),
        Some(_) => {}
    }
    let node = pod.node.as_deref().unwrap_or_default();
    if Api::<Node>::all(context.client.clone()).get_opt(node).await.doing("looking up a node")?.is_some() {
        return Ok(None);
    }
    let only_this = Preconditions { uid: Some(pod.uid.to_string()), resource_version: None };
    let params = DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() }.grace_period(0);
    match Api::<ApiPod>::namespaced(context.client.clone(), &key.namespace).delete(&key.name, &params).await {
        Ok(_) => tracing::info!(pod = %key, node, "a pod was deleted because its node does not exist"),
        Err(error) if is_not_found(&error) || is_conflict(&error) => {}
        Err(error) => return Err(error).doing("deleting a pod of an absent node"),
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pod::tests::pod;

    #[test]
    fn plans() {
        let (absent, now) = (Absent::default(), Instant::now());
        let bound = pod("p", json!({"spec": {"nodeName": "n"}}));
        assert_eq!(plan(&pod("p", json!({})), |_| false, &absent, now), None);
        assert_eq!(plan(&bound, |_| true, &absent, now), None);
        assert_eq!(plan(&bound, |_| false, &absent, now), Some(QUARANTINE));
        assert_eq!(plan(&bound, |_| false, &absent, now + QUARANTINE), Some(Duration::ZERO));
    }
}
