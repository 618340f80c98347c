//! Shared caches: one watch a kind for all controllers of the process.
//!
//! A `Store` keeps the newest known state of each object. Two things make it newer: the watch, and our own writes, whose answers
//! are put in at once (`wrote`, `removed`), so that no pass sees a state older than what it wrote itself. Versions decide which
//! of two states is newer.
//!
//! ```text
//!   watch ──Apply/Delete──> Store <──wrote/removed── passes
//!                             │ (before, after)
//!                             v
//!                    handlers put keys into queues
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Debug;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::api::Api;
use kube::core::params::GetParams;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::object::{Cached, ObjectKey};

type Handler<C> = Box<dyn Fn(Option<&Arc<C>>, Option<&Arc<C>>) + Send + Sync>;

/// The cache of one kind.
pub struct Store<C> {
    state: RwLock<State<C>>,
    handlers: RwLock<Vec<Handler<C>>>,
    synced: watch::Sender<bool>,
}

struct State<C> {
    objects: BTreeMap<ObjectKey, Arc<C>>,
    /// Keys by the uid of the controlling owner; empty for objects without one.
    by_controller: HashMap<Box<str>, BTreeSet<ObjectKey>>,
    /// Our writes that the watch has not shown yet; for an object that we removed, its last version. What is older is stale.
    unconfirmed: HashMap<ObjectKey, u64>,
    /// The same by version; what was confirmed meanwhile is left in until the watch has come that far.
    unconfirmed_by_version: BTreeMap<u64, ObjectKey>,
    /// Uids we removed, until the watch says so too.
    buried: HashSet<Box<str>>,
    /// The watch has shown everything up to this version.
    shown: u64,
}

impl<C> Default for Store<C> {
    fn default() -> Self {
        let state = State {
            objects: BTreeMap::new(),
            by_controller: HashMap::new(),
            unconfirmed: HashMap::new(),
            unconfirmed_by_version: BTreeMap::new(),
            buried: HashSet::new(),
            shown: 0,
        };
        Self { state: RwLock::new(state), handlers: RwLock::default(), synced: watch::Sender::new(false) }
    }
}

impl<C: Cached> State<C> {
    fn controller(object: &C) -> &str {
        object.controller().map_or("", |owner| owner.uid.as_str())
    }

    fn put(&mut self, key: ObjectKey, object: Arc<C>) -> Option<Arc<C>> {
        let before = self.objects.insert(key.clone(), object.clone());
        if let Some(before) = &before {
            if Self::controller(before) == Self::controller(&object) {
                return Some(before.clone());
            }
            self.unindex(&key, before);
        }
        self.by_controller.entry(Self::controller(&object).into()).or_default().insert(key);
        before
    }

    fn take(&mut self, key: &ObjectKey) -> Option<Arc<C>> {
        let before = self.objects.remove(key)?;
        self.unindex(key, &before);
        Some(before)
    }

    fn unindex(&mut self, key: &ObjectKey, object: &C) {
        let controller = Self::controller(object);
        if let Some(keys) = self.by_controller.get_mut(controller) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_controller.remove(controller);
            }
        }
    }
}

impl<C: Cached> Store<C> {
    /// Calls `handler` with the state before and after each change, under no lock of the store. It must not block.
    pub fn on_change(&self, handler: impl Fn(Option<&Arc<C>>, Option<&Arc<C>>) + Send + Sync + 'static) {
        self.handlers.write().push(Box::new(handler));
    }

    fn tell(&self, before: Option<&Arc<C>>, after: Option<&Arc<C>>) {
        for handler in self.handlers.read().iter() {
            handler(before, after);
        }
    }

    /// The object with this key.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<C>> {
        self.state.read().objects.get(key).cloned()
    }

    /// All objects.
    pub fn all(&self) -> Vec<Arc<C>> {
        self.state.read().objects.values().cloned().collect()
    }

    /// All objects of a namespace.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<C>> {
        let start = ObjectKey::new(namespace, "");
        let state = self.state.read();
        let from = state.objects.range((Bound::Included(start), Bound::Unbounded));
        from.take_while(|(key, _)| *key.namespace == *namespace).map(|(_, object)| object.clone()).collect()
    }

    /// All objects whose controlling owner has this uid.
    pub fn controlled_by(&self, uid: &str) -> Vec<Arc<C>> {
        let state = self.state.read();
        state.by_controller.get(uid).into_iter().flatten().filter_map(|key| state.objects.get(key).cloned()).collect()
    }

    /// All objects of a namespace without a controlling owner.
    pub fn orphans(&self, namespace: &str) -> Vec<Arc<C>> {
        let start = ObjectKey::new(namespace, "");
        let state = self.state.read();
        let Some(keys) = state.by_controller.get("") else { return Vec::new() };
        let from =
            keys.range((Bound::Included(start), Bound::Unbounded)).take_while(|key| *key.namespace == *namespace);
        from.filter_map(|key| state.objects.get(key).cloned()).collect()
    }

    /// The watch has come to this version. Told before what it shows is taken, so that no answer slips in between.
    ///
    /// It shows versions in their order, or begins with a list of what is there: a write of ours that it has passed by was gone
    /// when that list was made.
    fn shown(&self, version: u64) {
        let mut gone = Vec::new();
        {
            let mut state = self.state.write();
            state.shown = state.shown.max(version);
            while let Some(first) = state.unconfirmed_by_version.first_entry().filter(|first| *first.key() < version) {
                let (written, key) = first.remove_entry();
                if state.unconfirmed.get(&key) == Some(&written) {
                    state.unconfirmed.remove(&key);
                    gone.extend(state.take(&key));
                }
            }
        }
        gone.iter().for_each(|object| self.tell(Some(object), None));
    }

    /// Takes a state of an object unless a newer one is known.
    fn apply(&self, object: C, ours: bool) {
        let (key, version) = (object.key(), object.revision());
        let object = Arc::new(object);
        let before = {
            let mut state = self.state.write();
            if !ours && state.unconfirmed.get(&key).is_some_and(|waiting| *waiting <= version) {
                state.unconfirmed.remove(&key);
            }
            if state.buried.contains(object.uid())
                || state.unconfirmed.get(&key).is_some_and(|waiting| version < *waiting)
                || state.objects.get(&key).is_some_and(|known| known.revision() >= version)
            {
                return;
            }
            // An answer may come later than the watch: what the watch has shown and is not there has gone since.
            if ours && version <= state.shown && !state.objects.contains_key(&key) {
                return;
            }
            if ours {
                state.unconfirmed.insert(key.clone(), version);
                state.unconfirmed_by_version.insert(version, key.clone());
            }
            state.put(key, object.clone())
        };
        self.tell(before.as_ref(), Some(&object));
    }

    /// Puts in the answer to a write of ours.
    pub fn wrote(&self, object: impl Into<C>) {
        self.apply(object.into(), true);
    }

    /// Takes out an object that an answer to us said is gone.
    pub fn removed(&self, key: &ObjectKey, uid: &str) {
        let before = {
            let mut state = self.state.write();
            let Some(last) = state.objects.get(key).filter(|known| known.uid() == uid).map(|known| known.revision())
            else {
                return;
            };
            state.buried.insert(uid.into());
            if last > state.shown {
                state.unconfirmed.insert(key.clone(), last);
                state.unconfirmed_by_version.insert(last, key.clone());
            } else {
                state.unconfirmed.remove(key);
            }
            state.take(key)
        };
        self.tell(before.as_ref(), None);
    }

    fn deleted(&self, last: &C) {
        let key = last.key();
        let before = {
            let mut state = self.state.write();
            state.buried.remove(last.uid());
            if state.objects.get(&key).is_none_or(|known| known.uid() != last.uid()) {
                return;
            }
            state.unconfirmed.remove(&key);
            state.take(&key)
        };
        self.tell(before.as_ref(), None);
    }

    /// Keys that a complete list did not name; those of unconfirmed writes come apart, since they may be younger than the list.
    fn unlisted(&self, listed: &HashSet<ObjectKey>) -> (Vec<Arc<C>>, Vec<ObjectKey>) {
        let mut state = self.state.write();
        state.buried.clear();
        let mut gone = Vec::new();
        let mut doubtful = Vec::new();
        for (key, object) in state.objects.iter().filter(|(key, _)| !listed.contains(*key)) {
            if state.unconfirmed.contains_key(key) { doubtful.push(key.clone()) } else { gone.push(object.clone()) }
        }
        (gone, doubtful)
    }

    /// Waits until the first complete list is in.
    pub async fn synced(&self) {
        let mut synced = self.synced.subscribe();
        // The sender lives in `self`, so the channel cannot close while we wait.
        if synced.wait_for(|synced| *synced).await.is_err() {
            tracing::error!("a cache went away while somebody waited for it");
        }
    }
}

/// How long a watch that fails waits before it is begun again: kube's times, but without chance in them, so that what happened
/// in a simulation happens again.
#[derive(Debug)]
pub struct Pauses(Duration);

impl Pauses {
    const FIRST: Duration = Duration::from_millis(800);
    const LONGEST: Duration = Duration::from_secs(30);
}

impl Default for Pauses {
    fn default() -> Self {
        Self(Self::FIRST)
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(Self::LONGEST);
        Some(pause)
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0 = Self::FIRST;
    }
}

/// Keeps `store` current from a watch until `token` is cancelled.
pub async fn follow<K, C>(
    client: kube::Client,
    settings: watcher::Config,
    store: Arc<Store<C>>,
    token: CancellationToken,
) where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    C: Cached + From<K>,
{
    let stream = watcher::watcher(Api::<K>::all(client.clone()), settings).backoff(Pauses::default());
    let mut stream = std::pin::pin!(stream);
    let mut listed: HashSet<ObjectKey> = HashSet::new();
    let mut newest_listed = 0;
    let kind = K::plural(&());
    loop {
        let event = tokio::select! {
            biased;
            () = token.cancelled() => return,
            event = stream.next() => event,
        };
        match event {
            None => return,
            Some(Err(error)) => {
                tracing::debug!(%kind, error = &error as &dyn std::error::Error, "a watch is started again");
            }
            Some(Ok(Event::Init)) => listed.clear(),
            Some(Ok(Event::InitApply(object))) => {
                let object: C = slim(object);
                listed.insert(object.key());
                newest_listed = object.revision().max(newest_listed);
                store.apply(object, false);
            }
            Some(Ok(Event::Apply(object))) => {
                let object: C = slim(object);
                store.shown(object.revision());
                store.apply(object, false);
            }
            Some(Ok(Event::Delete(object))) => {
                let object: C = slim(object);
                store.shown(object.revision());
                store.deleted(&object);
            }
            Some(Ok(Event::InitDone)) => {
                let (gone, doubtful) = store.unlisted(&listed);
                gone.iter().for_each(|object| store.deleted(object));
                for key in doubtful {
                    settle::<K, C>(&client, &store, &key).await;
                }
                store.shown(newest_listed);
                listed = HashSet::new();
                store.synced.send_replace(true);
            }
        }
    }
}

/// Takes off what no controller reads before anything is kept.
fn slim<K: kube::Resource, C: From<K>>(mut object: K) -> C {
    object.meta_mut().managed_fields = None;
    object.into()
}

/// Asks whether an object that we wrote is still there.
async fn settle<K, C>(client: &kube::Client, store: &Store<C>, key: &ObjectKey)
where
    K: kube::Resource<DynamicType = ()> + DeserializeOwned,
    C: Cached + From<K>,
{
    let namespace = (!key.namespace.is_empty()).then_some(&*key.namespace);
    let request = kube::core::Request::new(K::url_path(&(), namespace)).get(&key.name, &GetParams::default());
    let request = match request {
        Ok(request) => request,
        Err(error) => {
            tracing::error!(%key, error = &error as &dyn std::error::Error, "a request could not be built");
            return;
        }
    };
    match client.request::<K>(request).await {
        Ok(object) => store.apply(slim(object), false),
        Err(kube::Error::Api(status)) if status.is_not_found() => {
            if let Some(known) = store.get(key) {
                store.deleted(&known);
            }
        }
        // It stays unconfirmed; the next list asks again.
        Err(error) => {
            tracing::debug!(%key, error = &error as &dyn std::error::Error, "an object could not be looked up")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(name: &str, uid: &str, version: u64, owner: &str) -> ConfigMap {
        let owners = if owner.is_empty() {
            serde_json::json!([])
        } else {
            serde_json::json!([{"apiVersion": "v1", "kind": "X", "name": "x", "uid": owner, "controller": true}])
        };
        serde_json::from_value(serde_json::json!({"metadata": {
            "name": name, "namespace": "default", "uid": uid, "resourceVersion": version.to_string(), "ownerReferences": owners,
        }}))
        .expect("an object")
    }

    #[test]
    fn newest_state_wins() {
        let store = Store::<ConfigMap>::default();
        let changes = Arc::new(AtomicUsize::new(0));
        let counted = changes.clone();
        store.on_change(move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let key = ObjectKey::new("default", "a");
        let version = || store.get(&key).map(|found| found.revision());
        store.apply(object("a", "1", 5, ""), false);
        store.wrote(object("a", "1", 9, "o"));
        store.apply(object("a", "1", 7, ""), false);
        assert_eq!((version(), changes.load(Ordering::Relaxed)), (Some(9), 2));
        assert_eq!((store.controlled_by("o").len(), store.orphans("default").len()), (1, 0));
        store.apply(object("a", "1", 9, "o"), false);
        store.deleted(&object("a", "0", 4, ""));
        assert_eq!(version(), Some(9), "the end of an earlier object of that name is not this one's");
        store.removed(&key, "1");
        store.apply(object("a", "1", 12, ""), false);
        assert_eq!(version(), None, "what we removed does not come back");
        store.deleted(&object("a", "1", 13, ""));
        store.apply(object("a", "2", 14, ""), false);
        assert_eq!(version(), Some(14));
        assert_eq!(store.in_namespace("default").len(), 1);
        assert_eq!(store.in_namespace("defaul").len(), 0);
    }

    #[test]
    fn a_late_answer_brings_nothing_back() {
        let store = Store::<ConfigMap>::default();
        let key = ObjectKey::new("default", "a");
        store.apply(object("a", "1", 5, ""), false);
        // Somebody else ends it between our write and the answer to it.
        store.shown(7);
        store.deleted(&object("a", "1", 7, ""));
        store.wrote(object("a", "1", 6, ""));
        assert!(store.get(&key).is_none());
        store.wrote(object("a", "2", 8, ""));
        assert_eq!(store.get(&key).map(|found| found.revision()), Some(8), "what the watch has yet to show is there");
    }

    #[test]
    fn a_list_ends_what_it_does_not_name_except_own_writes() {
        let store = Store::<ConfigMap>::default();
        store.apply(object("old", "1", 5, ""), false);
        store.wrote(object("new", "2", 6, ""));
        let (gone, doubtful) = store.unlisted(&HashSet::new());
        assert_eq!(gone.iter().map(|object| object.uid()).collect::<Vec<_>>(), ["1"]);
        assert_eq!(doubtful, [ObjectKey::new("default", "new")]);
    }

    /// What the API server would have and say, for a cache that is told late.
    #[derive(Default)]
    struct Server {
        revision: u64,
        objects: BTreeMap<String, ConfigMap>,
        /// What the watch has not shown yet; `true` for an end.
        events: std::collections::VecDeque<(bool, ConfigMap)>,
        /// Answers to us that are on their way; `true` for an end.
        answers: Vec<(bool, ConfigMap)>,
    }

    impl Server {
        /// Makes or changes an object, as us or as somebody else.
        fn write(&mut self, name: &str, ours: bool) {
            self.revision += 1;
            let uid = match self.objects.get(name) {
                Some(there) => there.uid().to_owned(),
                None => format!("{name}-{}", self.revision),
            };
            let written = object(name, &uid, self.revision, "");
            self.objects.insert(name.to_owned(), written.clone());
            self.events.push_back((false, written.clone()));
            if ours {
                self.answers.push((false, written));
            }
        }

        fn delete(&mut self, name: &str, ours: bool) {
            let Some(there) = self.objects.remove(name) else { return };
            self.revision += 1;
            self.events.push_back((true, object(name, there.uid(), self.revision, "")));
            if ours {
                self.answers.push((true, there));
            }
        }
    }

    fn show(store: &Store<ConfigMap>, (ended, object): (bool, ConfigMap)) {
        store.shown(object.revision());
        if ended { store.deleted(&object) } else { store.apply(object, false) }
    }

    fn answer(store: &Store<ConfigMap>, (ended, object): (bool, ConfigMap)) {
        if ended { store.removed(&object.key(), object.uid()) } else { store.wrote(object) }
    }

    /// The watch starts anew: what it has not shown is lost, and a list takes its place.
    fn list(store: &Store<ConfigMap>, server: &mut Server) {
        server.events.clear();
        for object in server.objects.values() {
            store.apply(object.clone(), false);
        }
        let (gone, doubtful) = store.unlisted(&server.objects.values().map(|object| object.key()).collect());
        gone.iter().for_each(|object| store.deleted(object));
        for key in doubtful {
            match server.objects.get(&*key.name) {
                Some(there) => store.apply(there.clone(), false),
                None => drop(store.get(&key).map(|known| store.deleted(&known))),
            }
        }
        store.shown(server.objects.values().map(|object| object.revision()).max().unwrap_or(0));
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(4_000))]

        /// However late events and answers come, in whatever order among each other, and however often the watch breaks: in the
        /// end the cache has what the server has, and on the way no object goes back behind our own newest write to it.
        #[test]
        fn the_cache_gets_there(steps in proptest::collection::vec((0_u8..9, 0_usize..3, 0_usize..8), 1..80)) {
            let (store, mut server) = (Store::<ConfigMap>::default(), Server::default());
            let mut told: HashMap<String, u64> = HashMap::new();
            for (step, which, pick) in steps {
                let name = ["a", "b", "c"][which];
                match step {
                    0 | 1 => server.write(name, true),
                    2 => server.write(name, false),
                    3 => server.delete(name, true),
                    4 => server.delete(name, false),
                    5 | 6 => drop(server.events.pop_front().map(|event| show(&store, event))),
                    7 if !server.answers.is_empty() => {
                        let late = server.answers.remove(pick % server.answers.len());
                        let (ended, written) = (late.0, late.1.clone());
                        answer(&store, late);
                        if !ended {
                            told.insert(written.uid().to_owned(), written.revision());
                        }
                    }
                    8 if pick == 0 => list(&store, &mut server),
                    _ => {}
                }
                for known in store.all() {
                    let ours = told.get(known.uid()).copied().unwrap_or(0);
                    proptest::prop_assert!(known.revision() >= ours, "{} is behind {ours}", known.revision());
                }
            }
            server.answers.drain(..).for_each(|late| answer(&store, late));
            // Something else happens in the end, which shows how far the watch has come.
            server.write("d", false);
            while let Some(event) = server.events.pop_front() {
                show(&store, event);
            }
            let cached: Vec<_> = store.all().iter().map(|known| (name_of(known), known.revision())).collect();
            let there: Vec<_> = server.objects.values().map(|object| (name_of(object), object.revision())).collect();
            proptest::prop_assert_eq!(cached, there);
        }
    }

    fn name_of(object: &ConfigMap) -> String {
        object.metadata.name.clone().unwrap_or_default()
    }
}
