//! ServiceAccount `default` in each active namespace.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Api, ObjectMeta, PostParams};
use kube::runtime::watcher;

use crate::context::{Context, enqueue_changes};
use crate::informer::Store;
use crate::object::{Cached, ObjectKey};
use crate::pod_control::namespace_is_terminating;
use crate::queue::{Doing, PassError, Queue, Revisit, is_already_exists, is_not_found};

/// Starts the controller.
pub fn start(context: &Arc<Context>) {
    let queue = Arc::<Queue>::default();
    let accounts = Arc::<Store<ServiceAccount>>::default();
    enqueue_changes(&context.caches.namespaces, &queue);
    enqueue_namespaces(&accounts, &queue);
    context.follow_some::<ServiceAccount, _>(
        "serviceaccounts",
        watcher::Config::default().fields("metadata.name=default"),
        &accounts,
    );
    let (namespaces, known) = (context.caches.namespaces.clone(), accounts.clone());
    let ready = async move {
        namespaces.synced().await;
        known.synced().await;
    };
    let own = context.clone();
    context.run_controller("serviceaccount", queue, ready, move |key| pass(own.clone(), accounts.clone(), key));
}

/// Puts the namespace of each changed object into `queue`.
pub fn enqueue_namespaces<C: Cached>(store: &Store<C>, queue: &Arc<Queue>) {
    let queue = queue.clone();
    store.on_change(move |before, after| {
        if let Some(object) = after.or(before) {
            queue.add(ObjectKey::new("", &object.key().namespace));
        }
    });
}

/// Whether a namespace takes new objects.
pub fn active(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    !namespace.deleting() && phase != Some("Terminating")
}

async fn pass(
    context: Arc<Context>,
    accounts: Arc<Store<ServiceAccount>>,
    key: ObjectKey,
) -> Result<Revisit, PassError> {
    let present = accounts.get(&ObjectKey::new(&key.name, "default")).is_some();
    if present || !context.caches.namespaces.get(&key).is_some_and(|namespace| active(&namespace)) {
        return Ok(None);
    }
    let account = ServiceAccount {
        metadata: ObjectMeta { name: Some("default".to_owned()), ..ObjectMeta::default() },
        ..ServiceAccount::default()
    };
    match Api::namespaced(context.client.clone(), &key.name).create(&PostParams::default(), &account).await {
        Ok(written) => accounts.wrote(written),
        Err(error) if is_already_exists(&error) || is_not_found(&error) || namespace_is_terminating(&error) => {}
        Err(error) => return Err(error).doing("creating the default service account"),
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn active_namespaces() {
        let check = |object: serde_json::Value, expected: bool| {
            assert_eq!(active(&serde_json::from_value(object.clone()).expect("a namespace")), expected, "{object}");
        };
        check(json!({"metadata": {}}), true);
        check(json!({"metadata": {}, "status": {"phase": "Active"}}), true);
        check(json!({"metadata": {}, "status": {"phase": "Terminating"}}), false);
        check(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), false);
    }
}
