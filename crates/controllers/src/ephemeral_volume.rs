//! Generic ephemeral volumes: a claim for each such volume of a pod, owned by the pod.
//!
//! Upstream: <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/volume/ephemeral/controller.go>.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod as ApiPod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kobune_scheduler::recorder::Severity;
use kube::api::{Api, PostParams};

use crate::context::Context;
use crate::object::{Cached, ObjectKey};
use crate::pod::Pod;
use crate::queue::{Doing, PassError, Queue, Revisit};

/// Starts the controller.
pub fn start(context: &Arc<Context>) {
    let queue = Arc::<Queue>::default();
    let caches = &context.caches;
    let wake = queue.clone();
    caches.pods.on_change(move |_, after| {
        if let Some(pod) = after.filter(|pod| wants_claims(pod)) {
            wake.add(pod.key());
        }
    });
    let (pods, wake) = (caches.pods.clone(), queue.clone());
    caches.claims.on_change(move |before, after| {
        // A claim that is gone is made anew for a pod that still needs it.
        let Some(claim) = before.filter(|_| after.is_none()) else { return };
        let owners = claim.owners().iter().filter(|owner| owner.kind == "Pod");
        for owner in owners {
            let key = ObjectKey::new(claim.metadata.namespace.as_deref().unwrap_or_default(), &owner.name);
            if pods.get(&key).is_some_and(|pod| wants_claims(&pod)) {
                wake.add(key);
            }
        }
    });
    let (pods, claims) = (caches.pods.clone(), caches.claims.clone());
    let ready = async move {
        pods.synced().await;
        claims.synced().await;
    };
    let own = context.clone();
    context.run_controller("ephemeral-volume", queue, ready, move |key| pass(own.clone(), key));
}

fn wants_claims(pod: &Pod) -> bool {
    !pod.deleting() && !pod.ended() && pod.claims.iter().any(|used| used.ephemeral.is_some())
}

async fn pass(context: Arc<Context>, key: ObjectKey) -> Result<Revisit, PassError> {
    let caches = &context.caches;
    let Some(pod) = caches.pods.get(&key).filter(|pod| wants_claims(pod)) else { return Ok(None) };
    let mut whole: Option<ApiPod> = None;
    for used in pod.claims.iter().filter(|used| used.ephemeral.is_some()) {
        let claim_key = ObjectKey::new(&key.namespace, &used.claim);
        if let Some(claim) = caches.claims.get(&claim_key) {
            if !is_for(&claim, &pod) {
                let message = format!("PVC {claim_key} was not created for pod {key} (pod is not owner)");
                let recorder = context.recorder.for_component("ephemeral_volume");
                recorder.event(
                    &pod.reference(),
                    Severity::Warning,
                    "FailedBinding",
                    format!("ephemeral volume: {message}"),
                );
                return Err(PassError::Object { what: message });
            }
            continue;
        }
        // The cache keeps little of a pod; the template is read when it is needed.
        if whole.is_none() {
            let api = Api::<ApiPod>::namespaced(context.client.clone(), &key.namespace);
            whole = api.get_opt(&key.name).await.doing("reading a pod with ephemeral volumes")?;
        }
        let Some(owner) = whole.as_ref().filter(|owner| owner.metadata.uid.as_deref() == Some(&*pod.uid)) else {
            return Ok(None);
        };
        let Some(claim) = claim(owner, used.ephemeral.as_deref().unwrap_or_default(), &used.claim) else { continue };
        let api = Api::<PersistentVolumeClaim>::namespaced(context.client.clone(), &key.namespace);
        let made = api.create(&PostParams::default(), &claim).await.doing("making the claim of an ephemeral volume")?;
        caches.claims.wrote(made);
    }
    Ok(None)
}

fn is_for(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    claim.controller().is_some_and(|owner| owner.uid == *pod.uid)
}

/// The claim that a volume's template asks for.
fn claim(owner: &ApiPod, volume: &str, name: &str) -> Option<PersistentVolumeClaim> {
    let volumes = owner.spec.as_ref()?.volumes.iter().flatten();
    let source = volumes.filter(|known| known.name == volume).find_map(|known| known.ephemeral.as_ref())?;
    let template = source.volume_claim_template.as_ref()?;
    let meta = template.metadata.clone().unwrap_or_default();
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: owner.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Pod".to_owned(),
                name: owner.metadata.name.clone()?,
                uid: owner.metadata.uid.clone()?,
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pod::tests::pod;

    #[test]
    fn claims_come_from_templates() {
        let object = json!({"metadata": {"name": "p", "namespace": "default", "uid": "p"}, "spec": {"containers": [], "volumes": [
            {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}}},
            {"name": "data", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "tmp", "emptyDir": {}}]}});
        let kept = pod("p", object.clone());
        let uses: Vec<(&str, Option<&str>)> =
            kept.claims.iter().map(|used| (&*used.claim, used.ephemeral.as_deref())).collect();
        assert_eq!(uses, [("p-scratch", Some("scratch")), ("c", None)]);
        assert!(wants_claims(&kept));
        let whole: ApiPod = serde_json::from_value(object).expect("a pod");
        let made = claim(&whole, "scratch", "p-scratch").expect("a claim");
        assert!(is_for(&made, &kept));
        assert_eq!(made.metadata.labels.expect("labels")["a"], "b");
        let gone = pod(
            "p",
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"volumes": [{"name": "v", "ephemeral": {}}]}}),
        );
        assert!(!wants_claims(&gone));
    }
}
