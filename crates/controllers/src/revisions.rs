//! ControllerRevisions: the templates that a StatefulSet or DaemonSet has had, so that pods of each can be made and told apart.
//!
//! Upstream: <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/history/controller_history.go>.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kobune_scheduler::labels;
use kube::Resource;
use kube::api::{Api, DeleteParams, PostParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::context::Context;
use crate::hash::short_hash;
use crate::informer::Store;
use crate::object::{Cached, ObjectKey};
use crate::ownership::{claim_all, controller_reference};
use crate::queue::{Doing, PassError, is_already_exists, is_not_found};

/// The label of a pod, and of a DaemonSet's revision, that names its revision.
pub const REVISION_LABEL: &str = "controller-revision-hash";
/// The label of a StatefulSet's revision with its hash.
const HASH_LABEL: &str = "controller.kubernetes.io/hash";

/// The history of one owner.
pub struct History {
    /// Oldest first; the last is not always the one in force, see `update`.
    revisions: Vec<Arc<ControllerRevision>>,
    /// The revision of the present template.
    pub update: Arc<ControllerRevision>,
    /// How often two templates had the same hash.
    pub collisions: i32,
}

/// What makes the revisions of one kind of owner.
pub struct Owner<'o, K> {
    /// The owner.
    pub object: &'o K,
    /// Its pod template.
    pub template: &'o PodTemplateSpec,
    /// Which revisions and pods are its own.
    pub selector: &'o LabelSelector,
    /// `status.collisionCount`.
    pub collisions: Option<i32>,
    /// Whether the hash goes into [`REVISION_LABEL`], as a DaemonSet wants it.
    pub hash_in_revision_label: bool,
}

/// What a revision keeps: a strategic merge patch that puts the template back.
fn data(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    if let Some(fields) = template.as_object_mut() {
        fields.insert("$patch".to_owned(), "replace".into());
    }
    json!({"spec": {"template": template}})
}

/// The template that a revision keeps.
pub fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// The hash that a revision's name ends with.
pub fn hash(revision: &ControllerRevision) -> &str {
    let labels = revision.metadata.labels.as_ref();
    let label = |name| labels.and_then(|labels| labels.get(name)).map(String::as_str);
    label(HASH_LABEL).or_else(|| label(REVISION_LABEL)).unwrap_or_default()
}

impl<K> Owner<'_, K>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Send + Sync + 'static,
{
    fn revision(&self, number: i64, collisions: i32) -> ControllerRevision {
        let hash = short_hash(self.template, (collisions > 0).then_some(collisions));
        let meta = self.template.metadata.clone().unwrap_or_default();
        let mut labels: BTreeMap<String, String> = meta.labels.unwrap_or_default();
        let label = if self.hash_in_revision_label { REVISION_LABEL } else { HASH_LABEL };
        labels.insert(label.to_owned(), hash.clone());
        let name = Resource::meta(self.object).name.as_deref().unwrap_or_default();
        ControllerRevision {
            metadata: ObjectMeta {
                name: Some(format!("{name}-{hash}")),
                namespace: Resource::meta(self.object).namespace.clone(),
                labels: Some(labels),
                annotations: Resource::meta(self.object).annotations.clone(),
                owner_references: Some(vec![controller_reference(self.object)]),
                ..ObjectMeta::default()
            },
            data: Some(RawExtension(data(self.template))),
            revision: number,
        }
    }

    /// Claims the revisions of the owner and makes sure that there is one of the present template with the highest number.
    pub async fn history(&self, context: &Context) -> Result<History, PassError> {
        let store = &context.caches.controller_revisions;
        let key = Cached::key(self.object);
        let mut candidates = store.controlled_by(Cached::uid(self.object));
        candidates.extend(store.orphans(&key.namespace));
        let selector = self.selector;
        let mut revisions = claim_all::<_, ControllerRevision, _>(
            &context.client,
            self.object,
            store,
            candidates,
            move |revision: &ControllerRevision| {
                labels::selects(selector, revision.metadata.labels.as_ref().unwrap_or(&Default::default()))
            },
        )
        .await?;
        order(&mut revisions);
        let api = Api::<ControllerRevision>::namespaced(context.client.clone(), &key.namespace);
        let next = revisions.last().map_or(1, |last| last.revision + 1);
        let wanted = data(self.template);
        let same = |revision: &ControllerRevision| revision.data.as_ref().is_some_and(|data| data.0 == wanted);
        let mut collisions = self.collisions.unwrap_or(0);
        let newest_same = revisions.iter().rposition(|revision| same(revision));
        let update = match newest_same {
            Some(at) if at + 1 == revisions.len() => revisions[at].clone(),
            Some(at) => {
                // A template that was there before is in force again: its revision becomes the newest.
                let mut again = (*revisions[at]).clone();
                again.revision = next;
                let name = again.metadata.name.clone().unwrap_or_default();
                let written = api.replace(&name, &PostParams::default(), &again).await;
                let written = written.doing("renumbering a controller revision")?;
                store.wrote(written.clone());
                let written = Arc::new(written);
                revisions[at] = written.clone();
                order(&mut revisions);
                written
            }
            None => loop {
                let new = self.revision(next, collisions);
                match api.create(&PostParams::default(), &new).await {
                    Ok(created) => {
                        store.wrote(created.clone());
                        let created = Arc::new(created);
                        revisions.push(created.clone());
                        break created;
                    }
                    Err(error) if is_already_exists(&error) => {
                        let name = new.metadata.name.as_deref().unwrap_or_default();
                        let there = api.get(name).await.doing("looking up a controller revision")?;
                        if there.data == new.data
                            && there.controller().is_some_and(|own| own.uid == Cached::uid(self.object))
                        {
                            store.wrote(there.clone());
                            break Arc::new(there);
                        }
                        collisions += 1;
                    }
                    Err(error) => return Err(error).doing("creating a controller revision"),
                }
            },
        };
        Ok(History { revisions, update, collisions })
    }
}

fn order(revisions: &mut [Arc<ControllerRevision>]) {
    revisions.sort_by(|one, other| {
        let age = |revision: &ControllerRevision| revision.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (one.revision, age(one), &one.metadata.name).cmp(&(other.revision, age(other), &other.metadata.name))
    });
}

impl History {
    /// The revision with this name.
    pub fn by_name(&self, name: &str) -> Option<&Arc<ControllerRevision>> {
        self.revisions.iter().find(|revision| revision.metadata.name.as_deref() == Some(name))
    }

    /// Deletes the oldest revisions beyond `limit` that are not `live`.
    pub async fn clean_up(
        &self,
        context: &Context,
        limit: i32,
        live: impl Fn(&ControllerRevision) -> bool,
    ) -> Result<(), PassError> {
        let dead: Vec<_> = self.revisions.iter().filter(|revision| !live(revision)).collect();
        let surplus = dead.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        for revision in &dead[..surplus] {
            let key: ObjectKey = Cached::key(&***revision);
            let api = Api::<ControllerRevision>::namespaced(context.client.clone(), &key.namespace);
            match api.delete(&key.name, &DeleteParams::default()).await {
                Ok(_) => {}
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(error).doing("deleting an old controller revision"),
            }
            remove(&context.caches.controller_revisions, revision);
        }
        Ok(())
    }
}

fn remove(store: &Store<ControllerRevision>, revision: &ControllerRevision) {
    store.removed(&Cached::key(revision), Cached::uid(revision));
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::StatefulSet;

    use super::*;

    #[test]
    fn a_revision_keeps_its_template() {
        let set: StatefulSet = serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "default", "uid": "u", "annotations": {"a": "b"}},
            "spec": {"serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
                "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
        }))
        .expect("a stateful set");
        let spec = set.spec.as_ref().expect("a spec");
        let owner = |in_label: bool| Owner {
            object: &set,
            template: &spec.template,
            selector: &spec.selector,
            collisions: None,
            hash_in_revision_label: in_label,
        };
        let revision = owner(false).revision(3, 0);
        assert_eq!(template(&revision).as_ref(), Some(&spec.template));
        assert_eq!(revision.metadata.name, Some(format!("db-{}", hash(&revision))));
        assert!(labels::selects(&spec.selector, revision.metadata.labels.as_ref().expect("labels")));
        assert_ne!(owner(false).revision(3, 1).metadata.name, revision.metadata.name, "a collision changes the hash");
        let of_daemon_set = owner(true).revision(3, 0);
        assert_eq!(of_daemon_set.metadata.labels.expect("labels")[REVISION_LABEL], hash(&revision));
    }
}
