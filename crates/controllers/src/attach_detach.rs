//! Volumes of drivers that attach: an attachment for each volume and node while pods there use it.
//!
//! The object is all that is made here; the driver's own attacher acts on it and says when it is done. Nodes wait for that
//! before they mount. An attachment goes when the last pod of its node that uses the volume is gone and the node says that it
//! has unmounted it: a pod that was deleted by force is gone sooner. Attachments that others made stay untouched: ours are
//! known by their names.
//!
//! Upstream: <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/volume/attachdetach/attach_detach_controller.go>.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{CSIPersistentVolumeSource, Node, PersistentVolume};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kobune_scheduler::volume_match::claim_ref;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use sha2::{Digest, Sha256};

use crate::context::Context;
use crate::informer::Store;
use crate::local_provisioner::PROVISIONER;
use crate::object::{Cached, ObjectKey};
use crate::pod::Pod;
use crate::queue::{Doing, PassError, Queue, Revisit, is_already_exists, is_conflict, is_not_found};

/// How soon a node that still has a volume mounted is asked again.
const STILL_MOUNTED: Duration = Duration::from_secs(1);

/// What only this controller follows.
#[derive(Default)]
struct Followed {
    drivers: Arc<Store<CSIDriver>>,
    attachments: Arc<Store<VolumeAttachment>>,
}

/// Starts the controller. Keys are the names of volumes.
pub fn start(context: &Arc<Context>) {
    let queue = Arc::<Queue>::default();
    let (caches, followed) = (&context.caches, Followed::default());
    let wake = queue.clone();
    caches.volumes.on_change(move |before, after| {
        if let Some(volume) = after.or(before).filter(|volume| source(volume).is_some()) {
            wake.add(volume.key());
        }
    });
    let (claims, wake) = (caches.claims.clone(), queue.clone());
    caches.pods.on_change(move |before, after| {
        let node = |pod: Option<&Arc<Pod>>| pod.and_then(|pod| pod.node.clone());
        let Some(pod) = after.or(before).filter(|pod| !pod.claims.is_empty() && node(before) != node(after)) else {
            return;
        };
        for used in &pod.claims {
            let claim = claims.get(&ObjectKey::new(pod.namespace(), &used.claim));
            let volume = claim.as_ref().and_then(|claim| claim.spec.as_ref()?.volume_name.as_deref());
            volume.into_iter().for_each(|volume| wake.add(ObjectKey::new("", volume)));
        }
    });
    let wake = queue.clone();
    followed.attachments.on_change(move |before, after| {
        let attachment = after.or(before);
        let volume = attachment.and_then(|attachment| attachment.spec.source.persistent_volume_name.as_deref());
        volume.into_iter().for_each(|volume| wake.add(ObjectKey::new("", volume)));
    });
    let (volumes, wake) = (caches.volumes.clone(), queue.clone());
    followed.drivers.on_change(move |before, after| {
        let Some(driver) = after.or(before) else { return };
        let name = driver.metadata.name.as_deref();
        let of_driver = |volume: &&Arc<PersistentVolume>| source(volume).map(|source| source.driver.as_str()) == name;
        volumes.all().iter().filter(of_driver).for_each(|volume| wake.add(volume.key()));
    });
    context.follow_some::<CSIDriver, _>("csidrivers", Default::default(), &followed.drivers);
    context.follow_some::<VolumeAttachment, _>("volumeattachments", Default::default(), &followed.attachments);
    let (pods, claims, volumes) = (caches.pods.clone(), caches.claims.clone(), caches.volumes.clone());
    let (drivers, attachments) = (followed.drivers.clone(), followed.attachments.clone());
    let ready = async move {
        pods.synced().await;
        claims.synced().await;
        volumes.synced().await;
        drivers.synced().await;
        attachments.synced().await;
    };
    let (own, followed) = (context.clone(), Arc::new(followed));
    context.run_controller("attach-detach", queue, ready, move |key| pass(own.clone(), followed.clone(), key));
}

/// What a volume is to a driver outside of kobune.
fn source(volume: &PersistentVolume) -> Option<&CSIPersistentVolumeSource> {
    volume.spec.as_ref()?.csi.as_ref().filter(|source| source.driver != PROVISIONER)
}

/// The name that upstream gives an attachment, by which nodes find it.
fn name(handle: &str, driver: &str, node: &str) -> String {
    let mut hasher = Sha256::new();
    [handle, driver, node].iter().for_each(|part| hasher.update(part));
    let digits: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("csi-{digits}")
}

/// What is to be made (nodes) and what is to go (attachments). Pure.
fn plan<'a>(
    source: &CSIPersistentVolumeSource,
    attaches: bool,
    users: &BTreeSet<Box<str>>,
    attachments: &'a BTreeMap<String, Arc<VolumeAttachment>>,
) -> (Vec<Box<str>>, Vec<&'a Arc<VolumeAttachment>>) {
    let known = |node: &str| attachments.contains_key(&name(&source.volume_handle, &source.driver, node));
    let missing = users.iter().filter(|node| attaches && !known(node)).cloned().collect();
    let unused = attachments.iter().filter(|(own, attachment)| {
        let node = &attachment.spec.node_name;
        **own == name(&source.volume_handle, &source.driver, node)
            && !users.contains(node.as_str())
            && !attachment.deleting()
    });
    (missing, unused.map(|(_, attachment)| attachment).collect())
}

async fn pass(context: Arc<Context>, followed: Arc<Followed>, key: ObjectKey) -> Result<Revisit, PassError> {
    let caches = &context.caches;
    let Some(volume) = caches.volumes.get(&key) else { return Ok(None) };
    let Some(source) = source(&volume) else { return Ok(None) };
    let driver = followed.drivers.get(&ObjectKey::new("", &source.driver));
    // Without a word from the driver it attaches, as upstream has it.
    let attaches = driver.is_none_or(|driver| driver.spec.attach_required != Some(false));
    let claim = claim_ref(&volume).and_then(|claim| Some((claim.namespace.as_deref()?, claim.name.as_deref()?)));
    let users: BTreeSet<Box<str>> = match claim {
        Some((namespace, claim)) => {
            let pods = caches.pods.in_namespace(namespace);
            let using = pods.iter().filter(|pod| pod.claims.iter().any(|used| &*used.claim == claim));
            using.filter_map(|pod| pod.node.clone()).collect()
        }
        None => BTreeSet::new(),
    };
    let all = followed.attachments.all();
    let of_volume = all
        .into_iter()
        .filter(|attachment| attachment.spec.source.persistent_volume_name.as_deref() == Some(&*key.name));
    let attachments: BTreeMap<String, Arc<VolumeAttachment>> =
        of_volume.map(|attachment| (attachment.metadata.name.clone().unwrap_or_default(), attachment)).collect();
    let (missing, unused) = plan(source, attaches, &users, &attachments);
    let api = Api::<VolumeAttachment>::all(context.client.clone());
    for node in missing {
        let attachment = VolumeAttachment {
            metadata: ObjectMeta {
                name: Some(name(&source.volume_handle, &source.driver, &node)),
                ..ObjectMeta::default()
            },
            spec: VolumeAttachmentSpec {
                attacher: source.driver.clone(),
                node_name: node.to_string(),
                source: VolumeAttachmentSource {
                    persistent_volume_name: Some(key.name.to_string()),
                    ..VolumeAttachmentSource::default()
                },
            },
            status: None,
        };
        match api.create(&PostParams::default(), &attachment).await {
            Ok(made) => followed.attachments.wrote(made),
            Err(error) if is_already_exists(&error) => {}
            Err(error) => return Err(error).doing("attaching a volume"),
        }
    }
    let mut again = None;
    for attachment in unused {
        if still_mounted(&context, source, &attachment.spec.node_name).await? {
            again = Some(STILL_MOUNTED);
            continue;
        }
        let only_this = Preconditions { uid: attachment.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() };
        match api.delete(attachment.metadata.name.as_deref().unwrap_or_default(), &params).await {
            Ok(_) => {}
            Err(error) if is_not_found(&error) || is_conflict(&error) => {}
            Err(error) => return Err(error).doing("detaching a volume"),
        }
    }
    Ok(again)
}

/// Whether the node still has the volume mounted for a pod. A node that was taken out of the cluster has nothing any more.
async fn still_mounted(context: &Context, source: &CSIPersistentVolumeSource, node: &str) -> Result<bool, PassError> {
    let known = Api::<Node>::all(context.client.clone()).get_opt(node).await;
    let Some(known) = known.doing("looking up the node of an attachment")? else { return Ok(false) };
    let volume = format!("kubernetes.io/csi/{}^{}", source.driver, source.volume_handle);
    let path = format!("/api/v1/nodes/{node}/proxy/volumesInUse");
    let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError);
    let request = request.doing("asking a node for its volumes")?;
    match context.client.request::<BTreeSet<String>>(request).await {
        Ok(mounted) => Ok(mounted.contains(&volume)),
        // Not a node of ours: it says so in its status.
        Err(error) if is_not_found(&error) => {
            let listed = known.status.and_then(|status| status.volumes_in_use).unwrap_or_default();
            Ok(listed.contains(&volume))
        }
        Err(error) => Err(error).doing("asking a node for its volumes"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn attachment(name: &str, node: &str) -> (String, Arc<VolumeAttachment>) {
        let object = json!({"metadata": {"name": name}, "spec": {"attacher": "d", "nodeName": node, "source": {"persistentVolumeName": "v"}}});
        (name.to_owned(), Arc::new(serde_json::from_value(object).expect("an attachment")))
    }

    #[test]
    fn attachments_follow_the_pods() {
        let source: CSIPersistentVolumeSource =
            serde_json::from_value(json!({"driver": "d", "volumeHandle": "h"})).expect("a source");
        let check = |users: &[&str], attaches: bool, there: &[(&str, &str)], made: &[&str], gone: &[&str]| {
            let users = users.iter().map(|node| Box::from(*node)).collect();
            let there = there.iter().map(|(name, node)| attachment(name, node)).collect();
            let (missing, unused) = plan(&source, attaches, &users, &there);
            let missing: Vec<&str> = missing.iter().map(|node| &**node).collect();
            let mut unused: Vec<&str> = unused.iter().map(|attachment| attachment.spec.node_name.as_str()).collect();
            unused.sort_unstable();
            assert_eq!((missing.as_slice(), unused.as_slice()), (made, gone), "{there:?}");
        };
        let own = |node: &str| name("h", "d", node);
        let (on_a, on_b) = (own("a"), own("b"));
        check(&[], true, &[], &[], &[]);
        check(&["a"], true, &[], &["a"], &[]);
        check(&["a"], false, &[], &[], &[]);
        check(&["a"], true, &[(&on_a, "a")], &[], &[]);
        check(&["b"], true, &[(&on_a, "a")], &["b"], &["a"]);
        check(&[], true, &[(&on_a, "a"), (&on_b, "b")], &[], &["a", "b"]);
        check(&[], true, &[("made-by-hand", "a")], &[], &[]);
        check(&[], true, &[(&on_a, "b")], &[], &[]);
    }
}
