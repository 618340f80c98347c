//! ConfigMap `kube-root-ca.crt` in each active namespace, restored when somebody changes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::runtime::watcher;

use crate::context::{Context, enqueue_changes};
use crate::informer::Store;
use crate::object::ObjectKey;
use crate::pod_control::namespace_is_terminating;
use crate::queue::{Doing, PassError, Queue, Revisit, is_already_exists, is_not_found};
use crate::service_account::{active, enqueue_namespaces};

const NAME: &str = "kube-root-ca.crt";

/// Starts the controller.
pub fn start(context: &Arc<Context>) {
    let queue = Arc::<Queue>::default();
    let maps = Arc::<Store<ConfigMap>>::default();
    enqueue_changes(&context.caches.namespaces, &queue);
    enqueue_namespaces(&maps, &queue);
    context.follow_some::<ConfigMap, _>(
        "configmaps",
        watcher::Config::default().fields("metadata.name=kube-root-ca.crt"),
        &maps,
    );
    let (namespaces, known) = (context.caches.namespaces.clone(), maps.clone());
    let ready = async move {
        namespaces.synced().await;
        known.synced().await;
    };
    let own = context.clone();
    context
        .run_controller("root-ca-certificate-publisher", queue, ready, move |key| pass(own.clone(), maps.clone(), key));
}

/// What is to be written, if anything.
fn plan(present: Option<&ConfigMap>, root_ca_pem: &str) -> Option<ConfigMap> {
    let data = BTreeMap::from([("ca.crt".to_owned(), root_ca_pem.to_owned())]);
    match present {
        Some(map) if map.data.as_ref() == Some(&data) => None,
        Some(map) => Some(ConfigMap { data: Some(data), binary_data: None, ..map.clone() }),
        None => {
            let about = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the \
                         internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes \
                         clusters.";
            let annotations = BTreeMap::from([("kubernetes.io/description".to_owned(), about.to_owned())]);
            let metadata =
                ObjectMeta { name: Some(NAME.to_owned()), annotations: Some(annotations), ..ObjectMeta::default() };
            Some(ConfigMap { metadata, data: Some(data), ..ConfigMap::default() })
        }
    }
}

async fn pass(context: Arc<Context>, maps: Arc<Store<ConfigMap>>, key: ObjectKey) -> Result<Revisit, PassError> {
    if !context.caches.namespaces.get(&key).is_some_and(|namespace| active(&namespace)) {
        return Ok(None);
    }
    let present = maps.get(&ObjectKey::new(&key.name, NAME));
    let Some(wanted) = plan(present.as_deref(), &context.config.root_ca_pem) else { return Ok(None) };
    let api = Api::namespaced(context.client.clone(), &key.name);
    let result = match present {
        None => api.create(&PostParams::default(), &wanted).await,
        Some(_) => api.replace(NAME, &PostParams::default(), &wanted).await,
    };
    match result {
        Ok(written) => maps.wrote(written),
        // The watch tells of what is there now.
        Err(error) if is_already_exists(&error) || is_not_found(&error) || namespace_is_terminating(&error) => {}
        Err(error) => return Err(error).doing("publishing the root certificate"),
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans() {
        let made = plan(None, "pem").expect("a map");
        assert_eq!(made.metadata.name.as_deref(), Some(NAME));
        assert_eq!(plan(Some(&made), "pem"), None);
        let restored = plan(Some(&made), "other").and_then(|map| map.data).expect("a restored map");
        assert_eq!(restored.get("ca.crt").map(String::as_str), Some("other"));
    }
}
