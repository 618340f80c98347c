//! Claims on devices: those that pods get out of templates, and who uses which.
//!
//! ```text
//!   pod with a template ──▶ claim, owned by the pod ──▶ its name in the pod's status ──▶ the scheduler gives it devices
//!   a user is over, or gone ──▶ taken off `reservedFor` ──▶ the last one: devices are free, the finalizer goes
//!                                                      └──▶ a claim made for that pod alone is deleted
//! ```
//!
//! Upstream: <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/resourceclaim/controller.go>.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod as ApiPod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kobune_scheduler::recorder::{Recorder, Severity};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::watcher;
use serde_json::json;

use crate::context::{Context, enqueue_changes};
use crate::informer::Store;
use crate::object::{Cached, ObjectKey};
use crate::pod::{DeviceClaim, Pod};
use crate::pod_control::error_text;
use crate::queue::{Doing, PassError, Queue, Revisit, is_conflict, is_not_found};

/// On a claim that is made out of a template: the name that the pod's containers use.
const POD_CLAIM_NAME: &str = "resource.kubernetes.io/pod-claim-name";
/// The finalizer that keeps a claim while it has devices.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// Pods that may use a claim at a time, as upstream.
const MOST_USERS: usize = 256;
/// What the API server leaves of a generated name before it adds five letters, hyphen included.
const LONGEST_BASE: usize = 57;

/// The claims of all namespaces.
pub type Claims = Arc<Store<ResourceClaim>>;

/// Starts the controller.
pub fn start(context: &Arc<Context>, claims: &Claims) {
    let (pods_queue, claims_queue) = (Arc::<Queue>::default(), Arc::<Queue>::default());
    let caches = &context.caches;
    let (of_pods, of_claims) = (pods_queue.clone(), claims_queue.clone());
    caches.pods.on_change(move |before, after| {
        for pod in [before, after].into_iter().flatten().filter(|pod| !pod.device_claims.is_empty()) {
            for claim in pod.device_claims.iter().filter_map(|used| used.claim.as_deref()) {
                of_claims.add(ObjectKey::new(pod.namespace(), claim));
            }
            of_pods.add(pod.key());
        }
    });
    enqueue_changes(claims, &claims_queue);
    let (pods, of_pods) = (caches.pods.clone(), pods_queue.clone());
    claims.on_change(move |before, after| {
        let Some(claim) = after.or(before) else { return };
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        // One that is gone is made anew; one that has got devices may have to be reserved for a pod that has a node.
        if let Some(owner) = claim.controller().filter(|owner| owner.kind == "Pod") {
            of_pods.add(ObjectKey::new(namespace, &owner.name));
        } else if after.is_some_and(|claim| allocated(claim) && users(claim).is_empty()) {
            let name = claim.metadata.name.as_deref();
            let uses = |pod: &&Arc<Pod>| pod.device_claims.iter().any(|used| used.claim.as_deref() == name);
            pods.in_namespace(namespace).iter().filter(uses).for_each(|pod| of_pods.add(pod.key()));
        }
    });
    for (task, queue) in [("resource-claim-pods", pods_queue), ("resource-claims", claims_queue)] {
        let (pods, known) = (caches.pods.clone(), claims.clone());
        let ready = async move {
            pods.synced().await;
            known.synced().await;
        };
        let (own, claims) = (context.clone(), claims.clone());
        let recorder = context.recorder.for_component("resource_claim");
        context.run_controller(task, queue, ready, move |key| {
            let (own, claims, recorder) = (own.clone(), claims.clone(), recorder.clone());
            async move {
                match task {
                    "resource-claim-pods" => pod_pass(&own, &claims, &recorder, key).await,
                    _ => claim_pass(&own, &claims, key).await,
                }
            }
        });
    }
}

/// Starts the watch of the claims; handlers have to be in place before.
pub fn follow(context: &Context, claims: &Claims) {
    context.follow_some::<ResourceClaim, _>("resourceclaims", watcher::Config::default(), claims);
}

/// Who uses a claim.
pub fn users(claim: &ResourceClaim) -> &[ResourceClaimConsumerReference] {
    claim.status.as_ref().and_then(|status| status.reserved_for.as_deref()).unwrap_or_default()
}

fn allocated(claim: &ResourceClaim) -> bool {
    claim.status.as_ref().is_some_and(|status| status.allocation.is_some())
}

/// Whether a pod does not need its devices any more: it has ended, or it goes away and never had a node.
fn is_done(pod: &Pod) -> bool {
    pod.ended() || (pod.deleting() && pod.node.is_none())
}

async fn pod_pass(
    context: &Context,
    claims: &Claims,
    recorder: &Recorder,
    key: ObjectKey,
) -> Result<Revisit, PassError> {
    let Some(pod) = context.caches.pods.get(&key).filter(|pod| !pod.deleting() && !pod.ended()) else {
        return Ok(None);
    };
    let mut told = Vec::new();
    for used in pod.device_claims.iter() {
        let Some(template) = &used.template else { continue };
        let known = used.claim.as_ref().and_then(|name| claims.get(&ObjectKey::new(&key.namespace, name)));
        if (used.told && used.claim.is_none()) || known.is_some_and(|claim| is_for(&claim, &pod, used)) {
            continue;
        }
        let found = claims.controlled_by(&pod.uid).into_iter().find(|claim| is_for(claim, &pod, used));
        let name = match found {
            Some(claim) => claim.metadata.name.clone().unwrap_or_default(),
            None => match make(context, claims, &pod, used, template).await {
                Ok(name) => name,
                Err(error) => {
                    let (name, why) = (&used.name, words(&error));
                    let message = format!("PodResourceClaim {name}: {why}");
                    recorder.event(&pod.reference(), Severity::Warning, "FailedResourceClaimCreation", message);
                    return Err(error);
                }
            },
        };
        told.push(json!({"name": used.name, "resourceClaimName": name}));
    }
    if !told.is_empty() {
        let change = json!({"metadata": {"uid": pod.uid}, "status": {"resourceClaimStatuses": told}});
        let api = Api::<ApiPod>::namespaced(context.client.clone(), &key.namespace);
        match api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(&change)).await {
            Ok(_) => {}
            Err(error) if is_not_found(&error) || is_conflict(&error) => return Ok(None),
            Err(error) => return Err(error).doing("telling a pod the names of its claims"),
        }
        return Ok(None);
    }
    // Who bound the pod past the scheduler has not reserved its claims.
    if pod.node.is_some() {
        for claim in pod.device_claims.iter().filter_map(|used| used.claim.as_deref()) {
            let Some(claim) = claims.get(&ObjectKey::new(&key.namespace, claim)) else { continue };
            if allocated(&claim) && !users(&claim).iter().any(|user| user.uid == *pod.uid) {
                reserve(context, claims, &claim, &pod).await?;
            }
        }
    }
    Ok(None)
}

fn words(error: &PassError) -> String {
    match error {
        PassError::Request { source, .. } => error_text(source),
        PassError::Object { what } => what.clone(),
    }
}

/// Whether a claim was made for this entry of this pod.
pub fn is_for(claim: &ResourceClaim, pod: &Pod, used: &DeviceClaim) -> bool {
    let named = claim.metadata.annotations.as_ref().and_then(|all| all.get(POD_CLAIM_NAME));
    claim.controller().is_some_and(|owner| owner.uid == *pod.uid)
        && named.is_some_and(|name| **name == *used.name)
        && !claim.deleting()
}

/// Makes the claim that a template asks for and gives its name.
async fn make(
    context: &Context,
    claims: &Claims,
    pod: &Pod,
    used: &DeviceClaim,
    template: &str,
) -> Result<String, PassError> {
    let templates = Api::<ResourceClaimTemplate>::namespaced(context.client.clone(), pod.namespace());
    let template = templates.get(template).await.doing("reading the template of a claim")?;
    let api = Api::<ResourceClaim>::namespaced(context.client.clone(), pod.namespace());
    let made = api.create(&PostParams::default(), &claim(pod, used, template)).await;
    let made = made.doing("making a claim out of its template")?;
    let name = made.metadata.name.clone().unwrap_or_default();
    claims.wrote(made);
    Ok(name)
}

fn claim(pod: &Pod, used: &DeviceClaim, template: ResourceClaimTemplate) -> ResourceClaim {
    let meta = template.spec.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(POD_CLAIM_NAME.to_owned(), used.name.to_string());
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod.name().to_owned(),
        uid: pod.uid.to_string(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    ResourceClaim {
        metadata: ObjectMeta {
            generate_name: Some(generate_name(pod.name(), &used.name)),
            namespace: Some(pod.namespace().to_owned()),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.spec,
        status: None,
    }
}

/// Pod and claim, each cut in proportion where both together are too long: of each something can be recognized.
fn generate_name(pod: &str, claim: &str) -> String {
    let length = pod.len() + 1 + claim.len();
    if length <= LONGEST_BASE {
        return format!("{pod}-{claim}-");
    }
    let part = |text: &str| text[..text.len() * LONGEST_BASE / length].to_owned();
    format!("{}-{}-", part(pod), part(claim))
}

async fn reserve(context: &Context, claims: &Claims, claim: &ResourceClaim, pod: &Pod) -> Result<(), PassError> {
    let mut all = users(claim).to_vec();
    if all.len() >= MOST_USERS {
        return Err(PassError::Object { what: "the claim of a pod has too many users already".to_owned() });
    }
    all.push(ResourceClaimConsumerReference {
        api_group: None,
        resource: "pods".to_owned(),
        name: pod.name().to_owned(),
        uid: pod.uid.to_string(),
    });
    write_status(context, claims, claim, json!({"reservedFor": all})).await.map(drop)
}

/// Writes a part of a claim's status onto the state that it was worked out from.
async fn write_status(
    context: &Context,
    claims: &Claims,
    claim: &ResourceClaim,
    status: serde_json::Value,
) -> Result<Option<ResourceClaim>, PassError> {
    let meta = &claim.metadata;
    let change = json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version}, "status": status});
    let key = claim.key();
    let api = Api::<ResourceClaim>::namespaced(context.client.clone(), &key.namespace);
    match api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&change)).await {
        Ok(written) => {
            claims.wrote(written.clone());
            Ok(Some(written))
        }
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error).doing("writing the status of a claim on devices"),
    }
}

/// What is to become of a claim.
#[derive(Clone, Debug, PartialEq)]
enum Plan {
    /// It is as it should be.
    Keep,
    /// These are its users; without any it gives its devices back.
    Use(Vec<ResourceClaimConsumerReference>),
    /// It goes away and has no devices: nothing holds it any more.
    Finish,
    /// Nobody needs it.
    Delete,
}

/// `lives` says whether a pod that uses the claim still does; `owner_done` whether the pod that it was made for is over.
fn plan(claim: &ResourceClaim, lives: impl Fn(&ResourceClaimConsumerReference) -> bool, owner_done: bool) -> Plan {
    let before = users(claim);
    let left: Vec<_> = before.iter().filter(|user| lives(user)).cloned().collect();
    let protected = claim.metadata.finalizers.iter().flatten().any(|name| name == FINALIZER);
    if left.len() < before.len() || (claim.deleting() && left.is_empty() && allocated(claim)) {
        Plan::Use(left)
    } else if claim.deleting() && left.is_empty() && protected {
        Plan::Finish
    } else if owner_done && left.is_empty() && !claim.deleting() {
        Plan::Delete
    } else {
        Plan::Keep
    }
}

async fn claim_pass(context: &Context, claims: &Claims, key: ObjectKey) -> Result<Revisit, PassError> {
    let Some(mut claim) = claims.get(&key) else { return Ok(None) };
    // One step after the other: users, then the finalizer, then the claim itself.
    for _ in 0..3 {
        let mut gone = Vec::new();
        for user in users(&claim).iter().filter(|user| is_pod(user)) {
            if !lives(context, &key.namespace, user).await? {
                gone.push(user.uid.clone());
            }
        }
        let owner = claim.controller().filter(|owner| owner.kind == "Pod");
        let owner = owner.and_then(|owner| {
            let pod = context.caches.pods.get(&ObjectKey::new(&key.namespace, &owner.name));
            pod.filter(|pod| *pod.uid == owner.uid)
        });
        match plan(&claim, |user| !gone.contains(&user.uid), owner.is_some_and(|pod| is_done(&pod))) {
            Plan::Keep => return Ok(None),
            Plan::Use(left) => {
                let free = left.is_empty();
                let status = match free {
                    true => json!({"reservedFor": null, "allocation": null, "devices": null}),
                    false => json!({"reservedFor": left}),
                };
                let Some(written) = write_status(context, claims, &claim, status).await? else { return Ok(None) };
                claim = Arc::new(written);
                if free {
                    match unprotect(context, claims, &claim).await? {
                        Some(written) => claim = Arc::new(written),
                        None => return Ok(None),
                    }
                }
            }
            Plan::Finish => {
                unprotect(context, claims, &claim).await?;
                return Ok(None);
            }
            Plan::Delete => {
                let api = Api::<ResourceClaim>::namespaced(context.client.clone(), &key.namespace);
                let only_this = Preconditions { uid: claim.metadata.uid.clone(), resource_version: None };
                let params = DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() };
                match api.delete(&key.name, &params).await {
                    Ok(_) => {}
                    Err(error) if is_not_found(&error) || is_conflict(&error) => {}
                    Err(error) => return Err(error).doing("deleting the claim of a pod that is over"),
                }
                return Ok(None);
            }
        }
    }
    Ok(None)
}

fn is_pod(user: &ResourceClaimConsumerReference) -> bool {
    user.resource == "pods" && user.api_group.as_deref().unwrap_or_default().is_empty()
}

/// Whether a pod that uses a claim still does. One that the cache does not know is asked for: devices are given away again
/// only when nobody has them.
async fn lives(context: &Context, namespace: &str, user: &ResourceClaimConsumerReference) -> Result<bool, PassError> {
    if let Some(pod) = context.caches.pods.get(&ObjectKey::new(namespace, &user.name))
        && *pod.uid == user.uid
    {
        return Ok(!is_done(&pod));
    }
    let api = Api::<ApiPod>::namespaced(context.client.clone(), namespace);
    let found = api.get_metadata_opt(&user.name).await.doing("looking for the user of a claim")?;
    Ok(found.is_some_and(|pod| pod.metadata.uid.as_deref() == Some(&user.uid)))
}

/// Takes the finalizer off a claim without devices; `None` when that was the end of it.
async fn unprotect(
    context: &Context,
    claims: &Claims,
    claim: &ResourceClaim,
) -> Result<Option<ResourceClaim>, PassError> {
    let meta = &claim.metadata;
    let left: Vec<&String> = meta.finalizers.iter().flatten().filter(|name| *name != FINALIZER).collect();
    if left.len() == meta.finalizers.as_ref().map_or(0, Vec::len) {
        return Ok(Some(claim.clone()));
    }
    let change = json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": left}});
    let key = claim.key();
    let api = Api::<ResourceClaim>::namespaced(context.client.clone(), &key.namespace);
    match api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&change)).await {
        Ok(written) => {
            claims.wrote(written.clone());
            Ok(Some(written))
        }
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error).doing("letting go of a claim on devices"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::tests::pod;

    fn claim_of(users: &[&str], allocated: bool, deleting: bool, protected: bool) -> ResourceClaim {
        let users: Vec<_> = users.iter().map(|name| json!({"resource": "pods", "name": name, "uid": name})).collect();
        serde_json::from_value(json!({
            "metadata": {"name": "c", "deletionTimestamp": deleting.then_some("2026-01-01T00:00:00Z"),
                "finalizers": if protected { vec![FINALIZER] } else { vec![] }},
            "spec": {}, "status": {"reservedFor": users, "allocation": allocated.then(|| json!({}))},
        }))
        .expect("a claim")
    }

    #[test]
    fn users_come_and_go() {
        let check = |claim: ResourceClaim, alive: &[&str], owner_done: bool, expected: &str| {
            let found = match plan(&claim, |user| alive.contains(&user.name.as_str()), owner_done) {
                Plan::Keep => "keep".to_owned(),
                Plan::Use(left) => format!("use {}", left.iter().map(|user| user.name.as_str()).collect::<String>()),
                Plan::Finish => "finish".to_owned(),
                Plan::Delete => "delete".to_owned(),
            };
            assert_eq!(found, expected, "{claim:?}");
        };
        check(claim_of(&["a", "b"], true, false, true), &["a", "b"], false, "keep");
        check(claim_of(&["a", "b"], true, false, true), &["b"], false, "use b");
        check(claim_of(&["a"], true, false, true), &[], false, "use ");
        check(claim_of(&[], true, false, true), &[], false, "keep");
        check(claim_of(&[], true, true, true), &[], false, "use ");
        check(claim_of(&[], false, true, true), &[], false, "finish");
        // The scheduler writes the finalizer before the devices.
        check(claim_of(&[], false, false, true), &[], false, "keep");
        check(claim_of(&["a"], true, true, true), &["a"], true, "keep");
        check(claim_of(&[], false, false, false), &[], true, "delete");
        check(claim_of(&[], false, true, false), &[], true, "keep");
    }

    #[test]
    fn claims_come_from_templates() {
        let owner = pod(
            "p",
            json!({"metadata": {"uid": "u"}, "spec": {"resourceClaims": [
                {"name": "gpu", "resourceClaimTemplateName": "t"}, {"name": "own", "resourceClaimName": "c"},
                {"name": "none", "resourceClaimTemplateName": "t"}]},
                "status": {"resourceClaimStatuses": [{"name": "none"}]}}),
        );
        let uses: Vec<_> = owner.device_claims.iter().map(|used| (used.claim.as_deref(), used.told)).collect();
        assert_eq!(uses, [(None, false), (Some("c"), false), (None, true)]);
        let template =
            json!({"metadata": {"name": "t"}, "spec": {"metadata": {"labels": {"a": "b"}}, "spec": {"devices": {}}}});
        let made = claim(&owner, &owner.device_claims[0], serde_json::from_value(template).expect("a template"));
        assert!(is_for(&made, &owner, &owner.device_claims[0]));
        assert!(!is_for(&made, &owner, &owner.device_claims[2]));
        assert_eq!(made.metadata.generate_name.as_deref(), Some("p-gpu-"));
        let long = generate_name(&"p".repeat(100), &"c".repeat(20));
        assert!(long.len() <= LONGEST_BASE + 2 && long.contains("p-c"), "{long}");
    }

    #[test]
    fn pods_that_need_no_devices() {
        let check = |object: serde_json::Value, expected: bool| {
            assert_eq!(is_done(&pod("p", object.clone())), expected, "{object}")
        };
        check(json!({}), false);
        check(json!({"status": {"phase": "Failed"}}), true);
        check(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), true);
        check(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"nodeName": "n"}}), false);
    }
}
