//! Which objects belong to a controller: adoption of matching orphans, release of what matches no longer.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use kube::core::params::PatchParams;
use serde::de::DeserializeOwned;

use crate::informer::Store;
use crate::object::{Cached, ObjectKey};
use crate::queue::{Doing, PassError, is_not_found};

/// What is to happen with one candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is ours and stays ours.
    Keep,
    /// It belongs to nobody and becomes ours.
    Adopt,
    /// It is ours and becomes nobody's.
    Release,
    /// It is none of our business.
    Ignore,
}

/// Decides about a candidate of an owner that has this uid.
pub fn claim(candidate: &impl Cached, owner_uid: &str, owner_deleting: bool, matches: bool) -> Claim {
    match candidate.controller() {
        Some(controller) if controller.uid != owner_uid => Claim::Ignore,
        Some(_) if matches => Claim::Keep,
        Some(_) if owner_deleting => Claim::Ignore,
        Some(_) => Claim::Release,
        None if matches && !owner_deleting && !candidate.deleting() => Claim::Adopt,
        None => Claim::Ignore,
    }
}

/// The reference by which `owner` controls an object, deletion blocked as upstream's controllers do.
pub fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The path of one object.
pub fn url<K: Resource<DynamicType = ()>>(key: &ObjectKey) -> String {
    let namespace = (!key.namespace.is_empty()).then_some(&*key.namespace);
    K::url_path(&(), namespace)
}

/// Merges `change` into an object strategically and puts the answer into the cache. An object that is gone counts as done.
pub async fn patch<K, C>(
    client: &kube::Client,
    store: &Store<C>,
    key: &ObjectKey,
    change: &serde_json::Value,
) -> Result<(), PassError>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
    C: Cached + From<K>,
{
    let patch = kube::api::Patch::Strategic(change);
    let request = kube::core::Request::new(url::<K>(key)).patch(&key.name, &PatchParams::default(), &patch);
    let request = request.map_err(kube::Error::BuildRequest).doing("building a patch")?;
    match client.request::<K>(request).await {
        Ok(object) => {
            store.wrote(object);
            Ok(())
        }
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(error).doing("patching an owner reference"),
    }
}

/// The patch that makes `owner` the controller of the object with this uid, and puts the owner's finalizer on it.
pub fn adoption(owner: &OwnerReference, uid: &str, finalizer: Option<&str>) -> serde_json::Value {
    let mut change = serde_json::json!({"metadata": {"uid": uid, "ownerReferences": [owner]}});
    if let Some(finalizer) = finalizer {
        change["metadata"]["finalizers"] = serde_json::json!([finalizer]);
    }
    change
}

/// The patch that takes `owner` and its finalizer off the object with this uid.
pub fn release(owner: &OwnerReference, uid: &str, finalizer: Option<&str>) -> serde_json::Value {
    let mut change =
        serde_json::json!({"metadata": {"uid": uid, "ownerReferences": [{"$patch": "delete", "uid": owner.uid}]}});
    if let Some(finalizer) = finalizer {
        change["metadata"]["$deleteFromPrimitiveList/finalizers"] = serde_json::json!([finalizer]);
    }
    change
}

/// Whether the owner still exists under this uid and is not being deleted, asked live before anything is adopted.
pub async fn may_adopt<K>(client: &kube::Client, owner: &K) -> Result<bool, PassError>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Send + Sync + 'static,
{
    let key = Cached::key(owner);
    let request = kube::core::Request::new(url::<K>(&key)).get(&key.name, &kube::core::params::GetParams::default());
    let request = request.map_err(kube::Error::BuildRequest).doing("building a request")?;
    match client.request::<K>(request).await {
        Ok(live) => Ok(live.uid() == owner.uid() && !live.deleting()),
        Err(error) if is_not_found(&error) => Ok(false),
        Err(error) => Err(error).doing("looking up an owner"),
    }
}

/// Claims candidates for `owner`: gives back those that are its own afterwards.
pub async fn claim_all<K, I, C>(
    client: &kube::Client,
    owner: &K,
    store: &Store<C>,
    candidates: Vec<std::sync::Arc<C>>,
    matches: impl Fn(&C) -> bool + Send,
) -> Result<Vec<std::sync::Arc<C>>, PassError>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Send + Sync + 'static,
    I: Resource<DynamicType = ()> + DeserializeOwned,
    C: Cached + From<I>,
{
    claim_all_with::<K, I, C>(client, owner, store, candidates, matches, None).await
}

/// The same for an owner that keeps a finalizer on what it owns.
pub async fn claim_all_with<K, I, C>(
    client: &kube::Client,
    owner: &K,
    store: &Store<C>,
    candidates: Vec<std::sync::Arc<C>>,
    matches: impl Fn(&C) -> bool + Send,
    finalizer: Option<&str>,
) -> Result<Vec<std::sync::Arc<C>>, PassError>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Send + Sync + 'static,
    I: Resource<DynamicType = ()> + DeserializeOwned,
    C: Cached + From<I>,
{
    let reference = controller_reference(owner);
    let mut ours = Vec::new();
    let mut confirmed = None;
    for candidate in candidates {
        match claim(&*candidate, &reference.uid, owner.deleting(), matches(&candidate)) {
            Claim::Keep => ours.push(candidate),
            Claim::Ignore => {}
            Claim::Release => {
                patch::<I, C>(client, store, &candidate.key(), &release(&reference, candidate.uid(), finalizer)).await?
            }
            Claim::Adopt => {
                let allowed = match confirmed {
                    Some(allowed) => allowed,
                    None => *confirmed.insert(may_adopt(client, owner).await?),
                };
                if allowed {
                    patch::<I, C>(client, store, &candidate.key(), &adoption(&reference, candidate.uid(), finalizer))
                        .await?;
                    ours.extend(store.get(&candidate.key()));
                }
            }
        }
    }
    Ok(ours)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pod::tests::pod;

    #[test]
    fn claims() {
        let check = |owner: Option<&str>, pod_deleting: bool, owner_deleting: bool, matches: bool, expected: Claim| {
            let owners = owner
                .map(|uid| json!([{"apiVersion": "v1", "kind": "X", "name": "x", "uid": uid, "controller": true}]));
            let deletion = pod_deleting.then_some("2026-01-01T00:00:00Z");
            let candidate = pod("p", json!({"metadata": {"ownerReferences": owners, "deletionTimestamp": deletion}}));
            assert_eq!(claim(&candidate, "me", owner_deleting, matches), expected, "{owner:?} {matches}");
        };
        check(Some("me"), false, false, true, Claim::Keep);
        check(Some("me"), true, false, true, Claim::Keep);
        check(Some("me"), false, false, false, Claim::Release);
        check(Some("me"), false, true, false, Claim::Ignore);
        check(Some("other"), false, false, true, Claim::Ignore);
        check(None, false, false, true, Claim::Adopt);
        check(None, true, false, true, Claim::Ignore);
        check(None, false, true, true, Claim::Ignore);
        check(None, false, false, false, Claim::Ignore);
    }

    #[test]
    fn a_finalizer_comes_and_goes_with_the_owner() {
        let owner = OwnerReference { uid: "u".to_owned(), ..OwnerReference::default() };
        assert_eq!(adoption(&owner, "p", Some("x/y"))["metadata"]["finalizers"], json!(["x/y"]));
        assert_eq!(
            release(&owner, "p", Some("x/y"))["metadata"]["$deleteFromPrimitiveList/finalizers"],
            json!(["x/y"])
        );
        assert_eq!(adoption(&owner, "p", None)["metadata"].get("finalizers"), None);
    }
}
