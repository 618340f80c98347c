//! Watches Syncs and keeps a task for each: never two passes over one at once, and none holds up another.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::StreamExt as _;
use http::Method;
use kube::api::{Api, DynamicObject};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::pass::{self, Context, Memory, Progressing};
use super::spec::{GROUP, MANAGER, REQUESTED_AT, VERSION};
use super::status::{self, Event, Report};
use crate::request;

/// A Sync's uid.
type Uid = String;

/// Runs until the token is cancelled.
pub async fn run(context: Arc<Context>, namespace: Option<String>, token: CancellationToken) {
    let kind = GroupVersionKind::gvk(GROUP, VERSION, "Sync");
    let resource = ApiResource::from_gvk_with_plural(&kind, "syncs");
    let api: Api<DynamicObject> = match &namespace {
        Some(namespace) => Api::namespaced_with(context.own.clone(), namespace, &resource),
        None => Api::all_with(context.own.clone(), &resource),
    };
    let mut changes = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
    let mut tasks = JoinSet::new();
    let mut known: HashMap<Uid, watch::Sender<Value>> = HashMap::new();
    let mut listed: HashSet<Uid> = HashSet::new();
    loop {
        let change = tokio::select! {
            () = token.cancelled() => break,
            // Ends of tasks are only collected; dropping the wait for one loses nothing.
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended {
                    tracing::error!("the task of a Sync panicked: {error}");
                }
                continue;
            }
            change = changes.next() => change,
        };
        match change {
            Some(Ok(watcher::Event::Init)) => listed.clear(),
            Some(Ok(watcher::Event::InitApply(sync))) => {
                listed.extend(sync.metadata.uid.clone());
                wanted(&context, &mut known, &mut tasks, &token, &sync);
            }
            Some(Ok(watcher::Event::Apply(sync))) => wanted(&context, &mut known, &mut tasks, &token, &sync),
            // Without its sender a task ends.
            Some(Ok(watcher::Event::Delete(sync))) => drop(sync.metadata.uid.and_then(|uid| known.remove(&uid))),
            Some(Ok(watcher::Event::InitDone)) => {
                known.retain(|uid, _| listed.contains(uid));
                sweep(&context, &known, namespace.is_some());
            }
            Some(Err(error)) => tracing::debug!(%error, "Syncs are not watched"),
            None => break,
        }
    }
    known.clear();
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!("the task of a Sync panicked: {error}");
        }
    }
}

/// Tells a Sync's task what it is now, and starts it where there is none.
fn wanted(
    context: &Arc<Context>,
    known: &mut HashMap<Uid, watch::Sender<Value>>,
    tasks: &mut JoinSet<()>,
    token: &CancellationToken,
    sync: &DynamicObject,
) {
    let (Some(uid), Ok(sync)) = (sync.metadata.uid.clone(), serde_json::to_value(sync)) else { return };
    if let Some(sender) = known.get(&uid) {
        sender.send_if_modified(|before| {
            let other = asks(before) != asks(&sync);
            *before = sync;
            other
        });
        // A task that has panicked is gone; the next change begins another one.
        if !sender.is_closed() {
            return;
        }
        known.remove(&uid);
        return;
    }
    let (sender, receiver) = watch::channel(sync);
    known.insert(uid.clone(), sender);
    tasks.spawn_local(tend(Arc::clone(context), uid, receiver, token.clone()));
}

/// What of a Sync asks for a pass when it changes: its status does not.
fn asks(sync: &Value) -> (&Value, &Value, bool) {
    let metadata = &sync["metadata"];
    (&metadata["generation"], &metadata["annotations"][REQUESTED_AT], metadata["deletionTimestamp"].is_string())
}

/// Removes copies of repositories whose Syncs are gone. A controller of one namespace does not know whose the others are.
fn sweep(context: &Context, known: &HashMap<Uid, watch::Sender<Value>>, partial: bool) {
    if partial {
        return;
    }
    // Where nothing was ever fetched there is no folder.
    let Ok(entries) = std::fs::read_dir(&context.cache) else { return };
    for entry in entries.flatten() {
        let is_copy = entry.file_name().to_str().is_some_and(|name| name.len() == 36 && !known.contains_key(name));
        if is_copy && let Err(error) = std::fs::remove_dir_all(entry.path()) {
            tracing::warn!("{}: {error}", entry.path().display());
        }
    }
}

/// Writes what is known of a Sync into its status.
struct Writer<'a> {
    context: &'a Context,
    sync: Value,
}

impl Progressing for Writer<'_> {
    async fn begins(&mut self, report: Report) {
        if let Err(error) = self.write(&report, None).await {
            tracing::warn!("{}: {error:#}", self.name());
        }
    }
}

impl Writer<'_> {
    fn name(&self) -> String {
        let text = |field: &str| self.sync["metadata"][field].as_str().unwrap_or_default().to_owned();
        format!("{}/{}", text("namespace"), text("name"))
    }

    async fn write(&mut self, report: &Report, requested: Option<&str>) -> Result<()> {
        let generation = self.sync["metadata"]["generation"].as_i64().unwrap_or(0);
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let status = status::after(&self.sync["status"], report, generation, requested, &now);
        let event = status::event(&self.sync["status"], report);
        if status != self.sync["status"] {
            let path = format!("{}/status?fieldManager={MANAGER}", super::path_of(&self.sync));
            let patch = json!({"status": status});
            request::write(&self.context.own, Method::PATCH, &path, request::MERGE_PATCH, &patch).await?;
            self.sync["status"] = status;
        }
        if let Some(event) = event {
            self.tell(&event, &now).await?;
        }
        Ok(())
    }

    async fn tell(&self, event: &Event, now: &str) -> Result<()> {
        let metadata = &self.sync["metadata"];
        let kind = if event.warning { "Warning" } else { "Normal" };
        let name = self.name();
        match event.warning {
            true => tracing::warn!("{name}: {}: {}", event.reason, event.message),
            false => tracing::info!("{name}: {}: {}", event.reason, event.message),
        }
        let body = json!({
            "apiVersion": "v1", "kind": "Event", "type": kind, "reason": event.reason,
            // The API server takes a kilobyte.
            "message": status::short(&event.message, 1000),
            "metadata": {"generateName": format!("{}.", metadata["name"].as_str().unwrap_or_default()), "namespace": metadata["namespace"]},
            "involvedObject": {
                "apiVersion": format!("{GROUP}/{VERSION}"), "kind": "Sync", "name": metadata["name"],
                "namespace": metadata["namespace"], "uid": metadata["uid"],
            },
            "source": {"component": MANAGER}, "reportingComponent": MANAGER,
            "firstTimestamp": now, "lastTimestamp": now, "count": 1,
        });
        let namespace = request::query(metadata["namespace"].as_str().unwrap_or_default());
        let path = format!("/api/v1/namespaces/{namespace}/events");
        request::write(&self.context.own, Method::POST, &path, "application/json", &body).await?;
        Ok(())
    }
}

/// The life of one Sync.
async fn tend(context: Arc<Context>, uid: Uid, mut receiver: watch::Receiver<Value>, token: CancellationToken) {
    let mut memory = Memory::default();
    let mut failures = 0;
    let mut status = receiver.borrow()["status"].clone();
    loop {
        let mut sync = receiver.borrow_and_update().clone();
        // What this task has written is newer than what the watch may have brought.
        sync["status"] = status;
        let mut writer = Writer { context: &context, sync: sync.clone() };
        if pass::is_ending(&sync) {
            match pass::end(&context, &sync, &mut memory).await {
                Ok(()) => break,
                Err(error) => tracing::warn!("{}: its objects are still there: {error:#}", writer.name()),
            }
        } else if let Err(error) = pass::hold(&context, &sync).await {
            tracing::warn!("{}: {error:#}", writer.name());
        }
        let (stop, _) = watch::channel(false);
        let report = if sync["metadata"]["deletionTimestamp"].is_string() {
            Some(Report { failed: true, ..Report::default() })
        } else {
            let mut work = std::pin::pin!(pass::pass(&context, &sync, &mut memory, &stop, &mut writer));
            let mut leaving = false;
            loop {
                tokio::select! {
                    report = &mut work => break report,
                    // What is under way comes to its end, or to the next place where it can stop.
                    changed = receiver.changed(), if !leaving => {
                        leaving = changed.is_err();
                        stop.send_replace(true);
                        receiver.mark_changed();
                        if !leaving {
                            break (&mut work).await;
                        }
                    }
                    () = token.cancelled(), if !leaving => {
                        leaving = true;
                        stop.send_replace(true);
                    }
                }
            }
        };
        let gone = token.is_cancelled() || receiver.has_changed().is_err();
        if gone {
            break;
        }
        let interval = super::spec::Spec::read(&sync).map_or(Duration::from_secs(300), |spec| spec.interval);
        let Some(report) = report else {
            status = writer.sync["status"].clone();
            continue;
        };
        failures = if report.failed { failures + 1 } else { 0 };
        let requested = sync["metadata"]["annotations"][REQUESTED_AT].as_str();
        let mut delay = if report.failed { pass::patience(failures, interval) } else { interval };
        if let Err(error) = writer.write(&report, requested).await {
            tracing::warn!("{}: its status is not written: {error:#}", writer.name());
            delay = pass::patience(failures.max(1), interval);
        }
        status = writer.sync["status"].clone();
        // Many that begin together must not go on together.
        let delay = delay.mul_f64(rand::random_range(0.9..1.1));
        let waited = tokio::select! {
            () = tokio::time::sleep(delay) => true,
            changed = receiver.changed() => changed.is_ok(),
            () = token.cancelled() => false,
        };
        if !waited {
            break;
        }
    }
    // A copy is kept over a restart of the controller, but not longer than its Sync.
    if !token.is_cancelled()
        && let Err(error) = std::fs::remove_dir_all(context.cache.join(&uid))
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!("{uid}: {error}");
    }
}
