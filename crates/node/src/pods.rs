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
use crate::pod;
use crate::worker::{self, Desired, manifest};

struct Entry {
    desired: watch::Sender<Desired>,
    wake: Arc<Notify>,
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
    let source = Source {
        context: Arc::clone(&context),
        pods: Arc::clone(&pods),
        workers: JoinSet::new(),
        forgotten,
        token: token.clone(),
    };
    tokio::join!(source.run(forgotten_pods), forward_events(context, pods, token));
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
        loop {
            // The stream and the channel keep their news when a wait is dropped.
            let event = tokio::select! {
                () = self.token.cancelled() => break,
                event = events.try_next() => event,
                uid = forgotten.recv() => {
                    if let Some(uid) = uid {
                        self.pods.entries.lock().remove(&uid);
                    }
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
                    self.apply(pod);
                }
                Ok(Some(watcher::Event::InitDone)) => {
                    self.vanish(&listed);
                    if !synced {
                        synced = true;
                        self.remove_orphans(&listed);
                    }
                    listed.clear();
                }
                Ok(Some(watcher::Event::Apply(pod))) => self.apply(pod),
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
        let (sender, receiver) = watch::channel(Desired { pod, gone: false, evicted: None });
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
        let missing: Vec<String> =
            self.pods.entries.lock().keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
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
                for pod in pods {
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
