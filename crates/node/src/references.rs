//! ConfigMaps and Secrets that pods of this node mention.
//!
//! Each object that some pod mentions is watched by name (the node authorizer allows no more), once for all pods together,
//! as long as one of them holds it. A change wakes the pods that hold it; nobody polls.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::Api;
use kube::runtime::utils::Backoff;
use kube::runtime::{WatchStreamExt, watcher};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::offline::Offline;
use crate::pod;

/// What kind of object is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::ConfigMap => "configmap",
            Kind::Secret => "secret",
        }
    }
}

/// A ConfigMap or Secret on disk.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    type_: Option<String>,
    /// In base64.
    entries: BTreeMap<String, String>,
    #[serde(default)]
    binary: BTreeSet<String>,
}

/// The data of a ConfigMap or Secret.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Content {
    entries: Arc<BTreeMap<String, Bytes>>,
    /// The keys of a ConfigMap's `binaryData`, which volumes have and environments do not.
    binary: Arc<BTreeSet<String>>,
    /// For secrets: their type.
    pub type_: Option<Arc<str>>,
}

impl Content {
    fn of_config_map(object: ConfigMap) -> Content {
        let mut entries: BTreeMap<String, Bytes> =
            object.data.into_iter().flatten().map(|(key, value)| (key, Bytes::from(value))).collect();
        let mut binary = BTreeSet::new();
        for (key, value) in object.binary_data.into_iter().flatten() {
            binary.insert(key.clone());
            entries.insert(key, Bytes::from(value.0));
        }
        Content { entries: Arc::new(entries), binary: Arc::new(binary), type_: None }
    }

    fn of_secret(object: Secret) -> Content {
        let entries = object.data.into_iter().flatten().map(|(key, value)| (key, Bytes::from(value.0))).collect();
        Content { entries: Arc::new(entries), binary: Arc::default(), type_: object.type_.map(Into::into) }
    }

    /// As it is kept for a start without the API server.
    fn keep(&self) -> Kept {
        let encode = |(key, value): (&String, &Bytes)| (key.clone(), BASE64.encode(value));
        Kept {
            type_: self.type_.as_deref().map(str::to_owned),
            entries: self.entries.iter().map(encode).collect(),
            binary: (*self.binary).clone(),
        }
    }

    fn of_kept(kept: Kept) -> Content {
        let decode = |(key, value): (String, String)| Some((key, Bytes::from(BASE64.decode(value).ok()?)));
        let entries = kept.entries.into_iter().filter_map(decode).collect();
        Content { entries: Arc::new(entries), binary: Arc::new(kept.binary), type_: kept.type_.map(Into::into) }
    }

    /// Content from plain pairs.
    #[cfg(test)]
    pub fn from_pairs(pairs: &[(&str, &str)]) -> Content {
        let entries = pairs.iter().map(|(key, value)| ((*key).to_owned(), Bytes::from((*value).to_owned()))).collect();
        Content { entries: Arc::new(entries), binary: Arc::default(), type_: None }
    }

    /// One entry.
    pub fn get(&self, key: &str) -> Option<&Bytes> {
        self.entries.get(key)
    }

    /// All entries.
    pub fn entries(&self) -> &BTreeMap<String, Bytes> {
        &self.entries
    }

    /// All entries as text, without what is binary.
    pub fn text(&self) -> impl Iterator<Item = (&str, String)> {
        let entries = self.entries.iter().filter(|(key, _)| !self.binary.contains(*key));
        entries.map(|(key, value)| (key.as_str(), String::from_utf8_lossy(value).into_owned()))
    }

    /// One entry as text, if it is none that is binary.
    pub fn text_of(&self, key: &str) -> Option<String> {
        let bytes = self.entries.get(key).filter(|_| !self.binary.contains(key))?;
        Some(String::from_utf8_lossy(bytes).into_owned())
    }
}

/// How environments and volumes get at referenced objects; `Err` says that the object has not been read yet.
pub trait Lookup {
    /// A ConfigMap's content, `None` when it does not exist.
    fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Content>, String>;
    /// A Secret's content, `None` when it does not exist.
    fn secret(&self, namespace: &str, name: &str) -> Result<Option<Content>, String>;
}

type Key = (Kind, String, String);

/// The name of an object's record for a start without the API server.
fn record_name((kind, namespace, name): &Key) -> String {
    // A namespace has no dot in it.
    format!("{}.{namespace}.{name}", kind.as_str())
}

struct Entry {
    key: Key,
    state: watch::Sender<Option<Option<Content>>>,
    waiting: Mutex<Vec<Weak<Notify>>>,
    offline: Offline,
    _stop: DropGuard,
}

impl Entry {
    fn set(&self, content: Option<Content>) {
        let changed = self.state.send_if_modified(|state| {
            let changed = state.as_ref() != Some(&content);
            *state = Some(content);
            changed
        });
        if changed {
            self.keep();
            let mut waiting = self.waiting.lock();
            waiting.retain(|notify| notify.upgrade().inspect(|notify| notify.notify_one()).is_some());
        }
    }
}

impl Entry {
    /// Takes what an earlier run of kobune has kept, unless the API server has answered.
    fn restore(&self) {
        if self.state.borrow().is_some() {
            return;
        }
        if let Some(kept) = self.offline.read::<Kept>(&record_name(&self.key)) {
            let (_, namespace, name) = &self.key;
            tracing::info!(namespace, name, "the API server does not answer, going on with what was kept of an object");
            self.set(Some(Content::of_kept(kept)));
        }
    }

    fn keep(&self) {
        if !self.offline.keeps() {
            return;
        }
        let (offline, name) = (self.offline.clone(), record_name(&self.key));
        let kept = self.state.borrow().as_ref().and_then(Option::as_ref).map(Content::keep);
        tokio::task::spawn_blocking(move || offline.write(&name, kept.as_ref()));
    }
}

/// All watched objects of the node.
pub struct References {
    client: kube::Client,
    offline: Offline,
    /// After this long without an answer, what was kept is taken.
    patience: Duration,
    entries: Mutex<HashMap<Key, Weak<Entry>>>,
}

/// The objects that one pod holds. They are watched as long as this lives.
#[derive(Default, Clone)]
pub struct Held {
    entries: Vec<Arc<Entry>>,
}

impl References {
    /// Nothing is watched yet.
    pub fn new(client: kube::Client, offline: Offline, patience: Duration) -> Arc<References> {
        Arc::new(References { client, offline, patience, entries: Mutex::default() })
    }

    /// Takes away what is kept for pods that are no more. Blocks.
    pub fn keep_only<'a>(&self, pods: impl Iterator<Item = &'a Pod>) {
        let needed = pods.flat_map(mentioned).map(|key| record_name(&key)).collect();
        for kind in [Kind::ConfigMap, Kind::Secret] {
            self.offline.keep_only(&format!("{}.", kind.as_str()), &needed);
        }
    }

    /// Holds everything that the pod mentions; `wake` is notified when something of it changes.
    pub fn hold(self: &Arc<Self>, owner: &Pod, wake: &Arc<Notify>) -> Held {
        let entries = mentioned(owner).into_iter().map(|key| self.entry(key, wake)).collect();
        Held { entries }
    }

    fn entry(self: &Arc<Self>, key: Key, wake: &Arc<Notify>) -> Arc<Entry> {
        let mut entries = self.entries.lock();
        let entry = match entries.get(&key).and_then(Weak::upgrade) {
            Some(entry) => entry,
            None => {
                let token = CancellationToken::new();
                let entry = Arc::new(Entry {
                    key: key.clone(),
                    state: watch::Sender::new(None),
                    waiting: Mutex::default(),
                    offline: self.offline.clone(),
                    _stop: token.clone().drop_guard(),
                });
                entries.retain(|_, known| known.strong_count() > 0);
                entries.insert(key.clone(), Arc::downgrade(&entry));
                tokio::spawn(restore_late(Arc::downgrade(&entry), self.patience, token.clone()));
                tokio::spawn(follow(self.client.clone(), key, Arc::downgrade(&entry), token));
                entry
            }
        };
        let mut waiting = entry.waiting.lock();
        waiting.retain(|known| known.strong_count() > 0);
        if !waiting.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(wake))) {
            waiting.push(Arc::downgrade(wake));
        }
        drop(waiting);
        entry
    }
}

impl Held {
    /// Returns when every object has been read once, or found missing.
    pub async fn read(&self) {
        for entry in &self.entries {
            let mut state = entry.state.subscribe();
            if state.wait_for(Option::is_some).await.is_err() {
                return;
            }
        }
    }

    fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Option<Content>, String> {
        let entry =
            self.entries.iter().find(|entry| entry.key.0 == kind && entry.key.1 == namespace && entry.key.2 == name);
        let state = entry.and_then(|entry| entry.state.borrow().clone());
        let word = kind.as_str();
        state.ok_or_else(|| format!("failed to sync {word} cache: timed out waiting for the condition"))
    }
}

impl Lookup for Held {
    fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Content>, String> {
        self.get(Kind::ConfigMap, namespace, name)
    }

    fn secret(&self, namespace: &str, name: &str) -> Result<Option<Content>, String> {
        self.get(Kind::Secret, namespace, name)
    }
}

/// Delays between tries of a watch. The first are short: a node may hear of a pod a moment before the API server's
/// authorizer knows that the node needs what the pod mentions, and the pod waits for that.
struct Patience(Duration);

/// First and longest delay.
const DELAYS: (Duration, Duration) = (Duration::from_millis(25), Duration::from_secs(30));

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let delay = self.0;
        self.0 = (delay * 2).min(DELAYS.1);
        // Up to half as much again, by chance, so that watches that failed together do not come back together.
        let more = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
        Some(delay + delay / 2 * more / 256)
    }
}

impl Backoff for Patience {
    fn reset(&mut self) {
        self.0 = DELAYS.0;
    }
}

/// Takes what was kept when the API server has not answered in time.
async fn restore_late(entry: Weak<Entry>, patience: Duration, token: CancellationToken) {
    tokio::select! {
        () = token.cancelled() => return,
        () = tokio::time::sleep(patience) => {}
    }
    let Some(entry) = entry.upgrade().filter(|entry| entry.offline.keeps()) else { return };
    // The read is small, and a pod waits for it.
    tokio::task::spawn_blocking(move || entry.restore());
}

async fn follow(client: kube::Client, key: Key, entry: Weak<Entry>, token: CancellationToken) {
    let (kind, namespace, name) = key;
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    match kind {
        Kind::ConfigMap => {
            follow_as(Api::namespaced(client, &namespace), config, entry, token, Content::of_config_map).await
        }
        Kind::Secret => follow_as(Api::namespaced(client, &namespace), config, entry, token, Content::of_secret).await,
    }
}

async fn follow_as<K>(
    api: Api<K>,
    config: watcher::Config,
    entry: Weak<Entry>,
    token: CancellationToken,
    read: fn(K) -> Content,
) where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let mut events = std::pin::pin!(watcher(api, config).backoff(Patience(DELAYS.0)));
    let mut found = None;
    loop {
        // Dropping either future loses nothing: the stream keeps its place.
        let event = tokio::select! {
            () = token.cancelled() => return,
            event = events.try_next() => event,
        };
        let Some(entry) = entry.upgrade() else { return };
        match event {
            Ok(Some(watcher::Event::Init)) => found = None,
            Ok(Some(watcher::Event::InitApply(object))) => found = Some(read(object)),
            Ok(Some(watcher::Event::InitDone)) => entry.set(found.take()),
            Ok(Some(watcher::Event::Apply(object))) => entry.set(Some(read(object))),
            Ok(Some(watcher::Event::Delete(_))) => entry.set(None),
            Ok(None) => return,
            Err(error) => {
                let (_, namespace, name) = &entry.key;
                tracing::debug!(
                    namespace,
                    name,
                    error = &error as &dyn std::error::Error,
                    "watching a referenced object failed, trying again"
                );
            }
        }
    }
}

/// Everything a pod mentions, without duplicates.
pub fn mentioned(owner: &Pod) -> Vec<Key> {
    let spec = pod::spec(owner);
    let mut names: Vec<(Kind, String)> = Vec::new();
    for volume in spec.volumes.iter().flatten() {
        if let Some(source) = &volume.config_map {
            names.push((Kind::ConfigMap, source.name.clone()));
        }
        if let Some(name) = volume.secret.as_ref().and_then(|source| source.secret_name.clone()) {
            names.push((Kind::Secret, name));
        }
        for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            names.extend(source.config_map.iter().map(|source| (Kind::ConfigMap, source.name.clone())));
            names.extend(source.secret.iter().map(|source| (Kind::Secret, source.name.clone())));
        }
    }
    for member in pod::members(spec) {
        for source in member.container.env_from.iter().flatten() {
            names.extend(source.config_map_ref.iter().map(|source| (Kind::ConfigMap, source.name.clone())));
            names.extend(source.secret_ref.iter().map(|source| (Kind::Secret, source.name.clone())));
        }
        for source in member.container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            names.extend(source.config_map_key_ref.iter().map(|source| (Kind::ConfigMap, source.name.clone())));
            names.extend(source.secret_key_ref.iter().map(|source| (Kind::Secret, source.name.clone())));
        }
    }
    names.extend(spec.image_pull_secrets.iter().flatten().map(|reference| (Kind::Secret, reference.name.clone())));
    names.retain(|(_, name)| !name.is_empty());
    names.sort();
    names.dedup();
    let namespace = pod::namespace(owner);
    names.into_iter().map(|(kind, name)| (kind, namespace.to_owned(), name)).collect()
}

#[cfg(test)]
pub mod tests {
    //! A lookup with fixed answers for the tests of other modules, and the tests of this one.

    use serde_json::json;

    use super::*;

    /// Objects by name, in any namespace.
    #[derive(Default)]
    pub struct Fixed {
        config_maps: BTreeMap<String, Vec<(String, String)>>,
        secrets: BTreeMap<String, Vec<(String, String)>>,
    }

    impl Fixed {
        /// From triples of name, key and value.
        pub fn new(config_maps: &[(&str, &str, &str)], secrets: &[(&str, &str, &str)]) -> Fixed {
            let collect = |triples: &[(&str, &str, &str)]| {
                let mut map: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
                for (name, key, value) in triples {
                    map.entry((*name).to_owned()).or_default().push(((*key).to_owned(), (*value).to_owned()));
                }
                map
            };
            Fixed { config_maps: collect(config_maps), secrets: collect(secrets) }
        }
    }

    fn content(pairs: &[(String, String)]) -> Content {
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        Content::from_pairs(&pairs)
    }

    impl Lookup for Fixed {
        fn config_map(&self, _: &str, name: &str) -> Result<Option<Content>, String> {
            Ok(self.config_maps.get(name).map(|pairs| content(pairs)))
        }

        fn secret(&self, _: &str, name: &str) -> Result<Option<Content>, String> {
            Ok(self.secrets.get(name).map(|pairs| content(pairs)))
        }
    }

    #[test]
    fn patience_grows_to_its_end_and_starts_anew() {
        let mut patience = Patience(DELAYS.0);
        let first = patience.next().expect("no end");
        assert!(first >= DELAYS.0 && first < DELAYS.0 * 2, "{first:?}");
        let last = patience.nth(20).expect("no end");
        assert!(last >= DELAYS.1 && last < DELAYS.1 * 2, "{last:?}");
        patience.reset();
        assert!(patience.next().expect("no end") < DELAYS.0 * 2);
    }

    #[test]
    fn environments_have_nothing_binary() {
        let object = json!({"data": {"text": "x"}, "binaryData": {"bytes": "AAE="}});
        let content = Content::of_config_map(serde_json::from_value(object).expect("a ConfigMap"));
        for content in [Content::of_kept(content.keep()), content] {
            assert_eq!(content.text().collect::<Vec<_>>(), [("text", "x".to_owned())]);
            assert_eq!((content.text_of("text").as_deref(), content.text_of("bytes")), (Some("x"), None));
            assert_eq!(content.get("bytes").map(|bytes| bytes.len()), Some(2));
        }
    }

    #[test]
    fn finds_everything_a_pod_mentions() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"namespace": "ns"},
            "spec": {
                "imagePullSecrets": [{"name": "pull"}],
                "volumes": [
                    {"name": "a", "configMap": {"name": "cm"}},
                    {"name": "b", "secret": {"secretName": "s"}},
                    {"name": "c", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}, {"secret": {"name": "s"}}]}},
                ],
                "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "env"}}]}],
                "containers": [{"name": "c", "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}}]}],
            },
        }))
        .expect("a pod");
        let names: Vec<String> =
            mentioned(&pod).into_iter().map(|(kind, _, name)| format!("{kind:?}/{name}")).collect();
        assert_eq!(names, ["ConfigMap/cm", "ConfigMap/kube-root-ca.crt", "Secret/env", "Secret/pull", "Secret/s"]);
    }
}
