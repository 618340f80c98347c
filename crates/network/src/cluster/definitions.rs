//! Policies of administrators are custom resources: they can be followed only while somebody has installed their definitions.
//! Those are heard of by one watch of the metadata of all definitions.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::StreamExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind},
    core::PartialObjectMeta,
    runtime::{WatchStreamExt, watcher},
};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{Cluster, Key, is_forbidden};
use crate::policy::admin::{self, GROUP, KINDS};

/// A definition that cannot be read is asked for again after this long.
const RETRY: Duration = Duration::from_secs(5);

/// A kind: its name, its resource's, its versions.
type Kind = (&'static str, &'static str, &'static [&'static str]);

/// One kind that is followed.
struct Following {
    token: CancellationToken,
    /// Comes when the first list is complete.
    listed: Option<oneshot::Receiver<()>>,
}

/// Follows the definitions, and the policies of those that there are.
pub(super) async fn follow(cluster: Arc<Cluster>, client: kube::Client, token: CancellationToken) {
    let definitions = Api::<PartialObjectMeta<CustomResourceDefinition>>::all(client.clone());
    let mut events = watcher(definitions, watcher::Config::default()).default_backoff().boxed();
    let mut following: HashMap<&'static str, Following> = HashMap::new();
    let (mut seen, mut refused) = (Vec::new(), false);
    let known = |name: &str| KINDS.into_iter().find(|(_, plural, _)| name == format!("{plural}.{GROUP}"));
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => seen.clear(),
            Ok(watcher::Event::InitApply(definition)) => seen.extend(known(&definition.name_any())),
            Ok(watcher::Event::InitDone) => {
                for (kind, ..) in KINDS.iter().filter(|kind| !seen.contains(kind)) {
                    end(&cluster, &mut following, kind);
                }
                for kind in seen.drain(..) {
                    following.entry(kind.0).or_insert_with(|| begin(&cluster, &client, kind, &token));
                }
                let lists: Vec<_> = following.values_mut().filter_map(|one| one.listed.take()).collect();
                let cluster = Arc::clone(&cluster);
                let complete = async move {
                    // One that ends meanwhile has nothing to say.
                    futures::future::join_all(lists).await;
                    is_synced(&cluster);
                };
                let token = token.clone();
                tokio::spawn(async move { token.run_until_cancelled(complete).await });
            }
            Ok(watcher::Event::Apply(definition)) => {
                if let Some(kind) = known(&definition.name_any()) {
                    following.entry(kind.0).or_insert_with(|| begin(&cluster, &client, kind, &token));
                }
            }
            Ok(watcher::Event::Delete(definition)) => {
                if let Some((kind, ..)) = known(&definition.name_any()) {
                    end(&cluster, &mut following, kind);
                }
            }
            Err(error) if is_forbidden(&error) => {
                if !std::mem::replace(&mut refused, true) {
                    tracing::error!(%error, "definitions may not be read here: policies of administrators have no effect");
                }
                is_synced(&cluster);
            }
            Err(error) => tracing::warn!(%error, "the watch of definitions failed, trying again"),
        }
    }
}

fn is_synced(cluster: &Cluster) {
    cluster.synced.send_if_modified(|synced| !std::mem::replace(&mut synced.admin, true));
}

fn begin(cluster: &Arc<Cluster>, client: &kube::Client, kind: Kind, token: &CancellationToken) -> Following {
    let (token, (done, listed)) = (token.child_token(), oneshot::channel());
    let (ends, cluster, client) = (token.clone(), Arc::clone(cluster), client.clone());
    tokio::spawn(async move { ends.run_until_cancelled(follow_kind(cluster, client, kind, done)).await });
    Following { token, listed: Some(listed) }
}

fn end(cluster: &Cluster, following: &mut HashMap<&'static str, Following>, kind: &str) {
    if let Some(gone) = following.remove(kind) {
        gone.token.cancel();
        replace(cluster, kind, Vec::new());
    }
}

/// Makes the policies of a kind what is given.
fn replace(cluster: &Cluster, kind: &str, listed: Vec<(Key, Option<admin::AdminPolicy>)>) {
    cluster.update(|tables| {
        let known: Vec<Key> = tables.admin.keys().filter(|key| *key.0 == *kind).cloned().collect();
        let gone: Vec<Key> = known.into_iter().filter(|key| listed.iter().all(|(kept, _)| kept != key)).collect();
        let mut changed = false;
        for key in gone {
            changed |= tables.set_admin(key, None);
        }
        for (key, policy) in listed {
            changed |= tables.set_admin(key, policy);
        }
        changed
    });
}

/// The newest version that is served and known here.
async fn version(client: &kube::Client, (kind, plural, versions): Kind) -> &'static str {
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    loop {
        match definitions.get(&format!("{plural}.{GROUP}")).await {
            Ok(definition) => {
                let served = |version: &&&str| {
                    definition.spec.versions.iter().any(|known| known.served && known.name == **version)
                };
                if let Some(version) = versions.iter().find(served) {
                    return version;
                }
                tracing::error!(kind, "no version of this definition is known: its policies have no effect");
                return std::future::pending().await;
            }
            Err(error) => tracing::warn!(kind, %error, "a definition was not read, trying again"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn follow_kind(cluster: Arc<Cluster>, client: kube::Client, kind: Kind, done: oneshot::Sender<()>) {
    let (name, plural, _) = kind;
    let version = version(&client, kind).await;
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, version, name), plural);
    let api = Api::<DynamicObject>::all_with(client, &resource);
    let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
    let cut = |object: &DynamicObject| -> (Key, Option<admin::AdminPolicy>) {
        let spec = object.data.get("spec").unwrap_or(&Value::Null);
        ((Arc::from(name), Arc::from(object.name_any())), admin::of(name, spec))
    };
    let (mut listed, mut done) = (Vec::new(), Some(done));
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(object)) => listed.push(cut(&object)),
            Ok(watcher::Event::InitDone) => {
                replace(&cluster, name, std::mem::take(&mut listed));
                if let Some(done) = done.take() {
                    // Nobody waits for a kind that was defined later.
                    let _ = done.send(());
                }
            }
            Ok(watcher::Event::Apply(object)) => {
                let (key, policy) = cut(&object);
                cluster.update(|tables| tables.set_admin(key, policy));
            }
            Ok(watcher::Event::Delete(object)) => {
                let (key, _) = cut(&object);
                cluster.update(|tables| tables.set_admin(key, None));
            }
            Err(error) => tracing::warn!(kind = name, %error, "watch failed, trying again"),
        }
    }
}
