//! The node's pods: one watch, one worker a pod, and the runtime's events to the worker they are about.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::eviction::Eviction;
use crate::folder_watch::FolderWatch;
use crate::pod;
use crate::static_pods::{self, files, mirrors, mirrors::Mirrors};
use crate::worker::{self, Desired, manifest};

struct Entry {
    desired: watch::Sender<Desired>,
    wake: Arc<Notify>,
}

impl Entry {
    fn is_static(&self) -> bool {
        static_pods::is_static(&self.desired.borrow().pod)
    }
}

/// The node's pods by uid.
#[derive(Default)]
pub struct Pods {
    entries: Mutex<HashMap<String, Entry>>,
}

impl Pods {
    /// A pod by namespace and name; the newest when an older one is still ending.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let entries = self.entries.lock();
        let pods = entries.values().map(|entry| Arc::clone(&entry.desired.borrow().pod));
        pods.filter(|owner| pod::namespace(owner) == namespace && pod::name(owner) == name)
            .max_by_key(|owner| owner.metadata.creation_timestamp.as_ref().map(|time| time.0))
    }

    /// All pods.
    pub fn all(&self) -> Vec<Arc<Pod>> {
        self.entries.lock().values().map(|entry| Arc::clone(&entry.desired.borrow().pod)).collect()
    }

    /// Wants a pod to go.
    pub fn evict(&self, uid: &str, eviction: Eviction) {
        if let Some(entry) = self.entries.lock().get(uid) {
            entry.desired.send_modify(|desired| desired.evicted = desired.evicted.take().or(Some(eviction)));
        }
    }

    fn wake(&self, uid: Option<&str>) {
        let entries = self.entries.lock();
        match uid {
            Some(uid) => entries.get(uid).into_iter().for_each(|entry| entry.wake.notify_one()),
            None => entries.values().for_each(|entry| entry.wake.notify_one()),
        }
    }
}

/// Runs the watch, the workers and the distribution of events until the token is cancelled.
pub async fn run(context: Arc<Context>, pods: Arc<Pods>, token: CancellationToken) {
    let (forgotten, forgotten_pods) = mpsc::channel(64);
    let mirrors = Arc::new(Mirrors::default());
    let source = Source {
        context: Arc::clone(&context),
        pods: Arc::clone(&pods),
        workers: JoinSet::new(),
        forgotten,
        token: token.clone(),
        mirrors: Arc::clone(&mirrors),
        from_files: Vec::new(),
    };
    tokio::join!(
        source.run(forgotten_pods),
        mirrors.run(Arc::clone(&context), token.clone()),
        forward_events(Arc::clone(&context), pods, token)
    );
}

/// Wakes workers when the runtime tells something about their pods.
async fn forward_events(context: Arc<Context>, pods: Arc<Pods>, token: CancellationToken) {
    let mut events = context.config.runtime.events();
    loop {
        // Dropping the receive loses nothing.
        let event = tokio::select! {
            () = token.cancelled() => return,
            event = events.next() => event,
        };
        match event {
            Ok(Some(event)) => pods.wake(Some(&event.pod_uid)),
            Ok(None) => pods.wake(None),
            Err(_gone) => return,
        }
    }
}

struct Source {
    context: Arc<Context>,
    pods: Arc<Pods>,
    workers: JoinSet<()>,
    forgotten: mpsc::Sender<String>,
    token: CancellationToken,
    mirrors: Arc<Mirrors>,
    /// The static pods that the files ask for.
    from_files: Vec<Pod>,
}

/// Waits for news of a folder; for ever when it can't be watched.
async fn news(watch: Option<&FolderWatch>) {
    if let Some(watch) = watch
        && let Ok(()) = watch.changed().await
    {
        return;
    }
    std::future::pending().await
}

impl Source {
    async fn run(mut self, mut forgotten: mpsc::Receiver<String>) {
        let api: Api<Pod> = Api::all(self.context.config.client.clone());
        let config = watcher::Config::default().fields(&format!("spec.nodeName={}", self.context.config.name));
        let mut events = std::pin::pin!(watcher(api, config).default_backoff());
        let mut listed: HashSet<String> = HashSet::new();
        let mut synced = false;
        let offline = tokio::time::sleep(self.context.config.offline_after);
        let mut offline = std::pin::pin!(offline);
        let mut tried_disk = false;
        let folder = self.context.config.static_pods.clone();
        // Watched before it is read: nothing is missed in between.
        let watch = FolderWatch::new(&folder).inspect_err(|error| {
            tracing::error!(
                folder = %folder.display(),
                error = error as &dyn std::error::Error,
                "there are no static pods: their folder can't be watched"
            );
        });
        let watch = watch.ok();
        if watch.is_some() {
            self.read_files().await;
        }
        loop {
            // The stream and the channel keep their news when a wait is dropped.
            let event = tokio::select! {
                () = self.token.cancelled() => break,
                event = events.try_next() => event,
                uid = forgotten.recv() => {
                    if let Some(uid) = uid {
                        self.pods.entries.lock().remove(&uid);
                        self.mirrors.remove(&uid);
                        self.start_from_files();
                    }
                    continue;
                }
                () = news(watch.as_ref()) => {
                    self.read_files().await;
                    continue;
                }
                Some(_ended) = self.workers.join_next(), if !self.workers.is_empty() => continue,
                () = &mut offline, if !synced && !tried_disk => {
                    tried_disk = true;
                    self.start_from_disk().await;
                    continue;
                }
            };
            match event {
                Ok(Some(watcher::Event::Init)) => listed.clear(),
                Ok(Some(watcher::Event::InitApply(pod))) => {
                    listed.insert(pod::uid(&pod).to_owned());
                    self.told(pod);
                }
                Ok(Some(watcher::Event::InitDone)) => {
                    self.vanish(&listed);
                    if !synced {
                        synced = true;
                        self.remove_orphans(&listed);
                    }
                    listed.clear();
                }
                Ok(Some(watcher::Event::Apply(pod))) => self.told(pod),
                Ok(Some(watcher::Event::Delete(pod))) if static_pods::mirrored(&pod).is_some() => {
                    self.mirrors.lost(&pod);
                    self.reflect(&pod, false);
                }
                Ok(Some(watcher::Event::Delete(pod))) => self.gone(Some(&pod), pod::uid(&pod)),
                Ok(None) => break,
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "watching the node's pods failed, trying again"
                ),
            }
        }
        // The token is cancelled: the workers see it too, and their processes go on.
        while self.workers.join_next().await.is_some() {}
    }

    /// Takes what the API server says of a pod.
    fn told(&mut self, mut pod: Pod) {
        if static_pods::mirrored(&pod).is_none() {
            self.apply(pod);
            return;
        }
        pod.metadata.managed_fields = None;
        self.reflect(&pod, true);
        self.mirrors.seen(Arc::new(pod));
    }

    /// Shows a static pod's worker its mirror, or that it is no more.
    fn reflect(&self, mirror: &Pod, there: bool) {
        let entries = self.pods.entries.lock();
        let Some(entry) = static_pods::mirrored(mirror).and_then(|hash| entries.get(hash)) else { return };
        let uid = mirror.metadata.uid.clone();
        entry.desired.send_if_modified(|desired| {
            if !there {
                let own = desired.mirror == uid;
                desired.mirror = desired.mirror.take().filter(|_| !own);
                return own;
            }
            desired.pod = Arc::new(static_pods::with_mirror(&desired.pod, mirror));
            desired.mirror = uid;
            true
        });
    }

    /// Reads the static pods' files and follows them.
    async fn read_files(&mut self) {
        let (folder, node) = (self.context.config.static_pods.clone(), self.context.config.name.clone());
        let read = tokio::task::spawn_blocking(move || files::read(&folder, &node)).await;
        match read {
            Ok(Ok(pods)) => self.from_files = pods,
            // What runs goes on: a folder that can't be read asks for nothing to end.
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the static pods' folder was not read");
                return;
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "reading the static pods' folder panicked");
                return;
            }
        }
        let wanted: HashSet<&str> = self.from_files.iter().map(pod::uid).collect();
        let entries = self.pods.entries.lock();
        let own: Vec<String> = entries
            .iter()
            .filter(|(uid, entry)| !wanted.contains(uid.as_str()) && entry.is_static())
            .map(|(uid, _)| uid.clone())
            .collect();
        drop(entries);
        for uid in own {
            self.gone(None, &uid);
        }
        self.start_from_files();
    }

    /// Starts the static pods that have no worker. One whose name another one has still waits for the end of that.
    fn start_from_files(&mut self) {
        for own in self.from_files.clone() {
            let name = mirrors::key(&own);
            let taken = {
                let entries = self.pods.entries.lock();
                entries.values().any(|entry| mirrors::key(&entry.desired.borrow().pod) == name && entry.is_static())
            };
            if !taken {
                self.mirrors.add(Arc::new(own.clone()));
                self.apply(own);
            }
        }
    }

    fn apply(&mut self, mut pod: Pod) {
        // Who owns which field is of no use here and is a good part of a pod.
        pod.metadata.managed_fields = None;
        let uid = pod::uid(&pod).to_owned();
        let pod = Arc::new(pod);
        let mut entries = self.pods.entries.lock();
        if let Some(entry) = entries.get(&uid) {
            entry.desired.send_modify(|desired| (desired.pod, desired.gone) = (pod, false));
            return;
        }
        let (sender, receiver) = watch::channel(Desired { pod, gone: false, evicted: None, mirror: None });
        let wake = Arc::new(Notify::new());
        entries.insert(uid.clone(), Entry { desired: sender, wake: Arc::clone(&wake) });
        let (context, forgotten, token) = (Arc::clone(&self.context), self.forgotten.clone(), self.token.clone());
        self.workers.spawn(supervise(context, receiver, wake, token, forgotten, uid));
    }

    fn gone(&self, last: Option<&Pod>, uid: &str) {
        let entries = self.pods.entries.lock();
        let Some(entry) = entries.get(uid) else { return };
        entry.desired.send_modify(|desired| {
            desired.gone = true;
            if let Some(last) = last {
                let mut last = last.clone();
                last.metadata.managed_fields = None;
                desired.pod = Arc::new(last);
            }
        });
    }

    /// After a whole list: pods that are not in it are gone.
    fn vanish(&self, listed: &HashSet<String>) {
        for mirror in self.mirrors.keep_only(listed) {
            self.reflect(&mirror, false);
        }
        let entries = self.pods.entries.lock();
        let missing = entries.iter().filter(|(uid, entry)| !listed.contains(*uid) && !entry.is_static());
        let missing: Vec<String> = missing.map(|(uid, _)| uid.clone()).collect();
        drop(entries);
        for uid in missing {
            self.gone(None, &uid);
        }
    }

    /// Brings back the pods on disk that have no worker.
    async fn start_from_disk(&mut self) {
        let pods_dir = self.context.config.node_dir().join("pods");
        match tokio::task::spawn_blocking(move || manifest::read_all(&pods_dir)).await {
            Ok(pods) => {
                if !pods.is_empty() {
                    tracing::info!(
                        count = pods.len(),
                        "the API server does not answer, going on with the pods on disk"
                    );
                }
                // Static pods are what their files say.
                for pod in pods.into_iter().filter(|pod| !static_pods::is_static(pod)) {
                    let known = self.pods.entries.lock().contains_key(pod::uid(&pod));
                    if !known {
                        self.apply(pod);
                    }
                }
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "reading the pods on disk panicked")
            }
        }
    }

    /// After the first whole list: what runs or lies about for pods that no longer exist is taken away.
    fn remove_orphans(&mut self, listed: &HashSet<String>) {
        let known: HashSet<String> = self.pods.entries.lock().keys().cloned().collect();
        let context = Arc::clone(&self.context);
        context.placement.keep_only(&listed.union(&known).cloned().collect());
        let pods = self.pods.all();
        let listed = listed.clone();
        self.workers.spawn(async move {
            let mut orphans: HashSet<String> =
                context.config.runtime.pod_sandboxes().into_iter().map(|sandbox| sandbox.config.uid).collect();
            orphans.extend(context.config.network.list().into_iter().map(|(uid, _)| uid));
            let pods_dir = context.config.node_dir().join("pods");
            let folders = tokio::task::spawn_blocking(move || -> Vec<String> {
                let entries = std::fs::read_dir(&pods_dir).into_iter().flatten().flatten();
                entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
            });
            orphans.extend(folders.await.unwrap_or_default());
            let (references, offline_pods) = (Arc::clone(&context.references), pods);
            let tidied = tokio::task::spawn_blocking(move || {
                references.keep_only(offline_pods.iter().map(|pod| &**pod));
            });
            if let Err(error) = tidied.await {
                tracing::error!(error = &error as &dyn std::error::Error, "tidying what is kept panicked");
            }
            for uid in orphans.into_iter().filter(|uid| !listed.contains(uid) && !known.contains(uid)) {
                let logs = context
                    .config
                    .runtime
                    .pod_sandboxes()
                    .into_iter()
                    .find(|sandbox| sandbox.config.uid == uid)
                    .map(|sandbox| sandbox.config.log_dir);
                tracing::info!(uid, "taking away what is left of a pod that no longer exists");
                let result = async {
                    worker::clean_up(&context, &uid).await?;
                    worker::forget(&context, &uid, logs).await
                };
                if let Err(message) = result.await {
                    tracing::warn!(uid, message, "what is left of a pod was not taken away");
                }
            }
        });
    }
}

/// Runs a worker; one that panics is started again, with the same pod.
async fn supervise(
    context: Arc<Context>,
    desired: watch::Receiver<Desired>,
    wake: Arc<Notify>,
    token: CancellationToken,
    forgotten: mpsc::Sender<String>,
    uid: String,
) {
    loop {
        let run = worker::run(Arc::clone(&context), desired.clone(), Arc::clone(&wake), token.clone());
        match tokio::spawn(run).await {
            Ok(true) => {
                // Without a receiver the node is shutting down.
                drop(forgotten.send(uid).await);
                return;
            }
            Ok(false) => return,
            Err(error) => {
                tracing::error!(
                    uid,
                    error = &error as &dyn std::error::Error,
                    "a pod's worker panicked, starting it again"
                );
                // A worker that panics at once must not keep a CPU busy.
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        }
    }
}
