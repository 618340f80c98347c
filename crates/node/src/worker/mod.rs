//! A pod's worker: one task a pod, woken by events, which compares what is wanted with what runs and acts.
//!
//! ```text
//!  Running ──deleted, deadline, all done──▶ Stopping ──all ended──▶ Cleaning ──▶ Ended ──gone from the API──▶ Forgetting
//! ```
//!
//! A pass never waits: what takes time is an operation, a task of its own that reports its end as [`Progress`]. So a slow
//! pull or hook holds up nothing but itself, and there are never two passes over one pod.

mod bandwidth;
mod ending;
pub mod manifest;
mod outcome;
mod probing;
mod report;
mod resizing;
mod sandbox;
mod start;
mod starting;
mod stop;
mod termination;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use kobune_runtime::{ContainerId, ContainerState, ContainerStatus, SandboxId, SandboxState};
use tokio::sync::{Mutex, Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::allocation::Book;
use crate::backoff::{Backoff, elapsed};
use crate::context::Context;
use crate::events::Severity;
use crate::eviction::Eviction;
use crate::plan::{self, Track, latest};
use crate::pod::{self, Member};
use crate::probes::ProbeKind;
use crate::references::Held;
use crate::static_pods;
use crate::status;
use crate::volumes::tokens::Tokens;

use probing::Probing;
use report::Told;
use resizing::Resizing;
use start::StartFailure;

pub use stop::{clean_up, forget};

/// A first status that only says "pending" waits this long: most pods run by then, and one write is saved.
const FIRST_STATUS: Duration = Duration::from_millis(300);
/// A failed pull shows its error this long before it shows that it backs off.
const PULL_ERROR_SHOWN: Duration = Duration::from_secs(2);
/// How long a container whose configuration is wrong waits for another try, unless something it mentions changes.
const CONFIG_RETRY: Duration = Duration::from_secs(10);
/// First and longest delay for operations that failed for reasons outside of the pod.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// A container whose definition has changed is replaced within this time almost always; until then the status is that of
/// the one before. Upstream takes as long to see that a container has ended (`plegRelistPeriod`).
const REPLACED_WITHIN: Duration = Duration::from_secs(1);
/// More reports than this are never under way for one pod.
const PROGRESS_QUEUE: usize = 64;

/// What the API (or the disk) wants of a pod.
#[derive(Clone)]
pub struct Desired {
    /// The pod.
    pub pod: Arc<Pod>,
    /// It is no longer there.
    pub gone: bool,
    /// The node wants it to go.
    pub evicted: Option<Eviction>,
    /// Uid of the mirror of a static pod, while it is in the API server.
    pub mirror: Option<String>,
}

/// What an operation reports.
enum Progress {
    Volumes(Result<(), String>),
    Sandbox(Result<(SandboxId, Vec<String>), String>),
    Attached(Result<Vec<String>, String>),
    Started { name: String, id: ContainerId, resources: ResourceRequirements },
    StartDone { name: String, result: Result<ContainerId, StartFailure> },
    Killed { name: String },
    Resized(Result<(), String>),
    Stopped(bool),
    CleanedUp(Result<(), String>),
    Told(Told),
    Deleted(Told),
    Forgotten(Result<(), String>),
    Removed(ContainerId),
    Probe { id: ContainerId, kind: ProbeKind, success: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Running,
    Stopping,
    Cleaning,
    Ended,
    Forgetting,
    Forgotten,
}

/// Something that is tried again after a growing delay.
#[derive(Default)]
struct Retry {
    busy: bool,
    delay: Duration,
    not_before: Option<Instant>,
}

impl Retry {
    fn may_start(&self) -> bool {
        !self.busy && self.not_before.is_none_or(|at| at <= Instant::now())
    }

    fn begin(&mut self) {
        self.busy = true;
    }

    fn end(&mut self, success: bool) {
        self.busy = false;
        if success {
            (self.delay, self.not_before) = (Duration::ZERO, None);
        } else {
            self.delay = (self.delay * 2).clamp(RETRY.0, RETRY.1);
            self.not_before = Some(Instant::now() + self.delay);
        }
    }
}

/// A pod's worker.
pub struct Worker {
    context: Arc<Context>,
    desired: watch::Receiver<Desired>,
    /// Notified when the runtime tells something about the pod.
    wake: Arc<Notify>,
    /// Notified when a ConfigMap or Secret that the pod mentions changes.
    changed: Arc<Notify>,
    progress: (mpsc::Sender<Progress>, mpsc::Receiver<Progress>),
    operations: JoinSet<()>,
    /// The pod as the API has it.
    pod: Arc<Pod>,
    /// The pod with the resources that the node has granted: what runs.
    granted: Arc<Pod>,
    book: Arc<Book>,
    resizing: Resizing,
    /// The node did not take the pod in.
    rejected: bool,
    /// Until when the status waits for containers that are replaced.
    replaced_by: Option<Instant>,
    members: Vec<Member>,
    gone: bool,
    /// Uid of the mirror of a static pod, while it is in the API server.
    mirror: Option<String>,
    stage: Stage,
    born: Instant,
    first_seen: Timestamp,
    held: Held,
    tokens: Arc<Mutex<Tokens>>,
    tokens_due: Option<Instant>,
    volumes_ready: bool,
    volumes_stale: bool,
    volumes: Retry,
    sandbox: Option<SandboxId>,
    sandboxes: Retry,
    pod_ips: Vec<String>,
    tracks: HashMap<String, Track>,
    probing: HashMap<String, Probing>,
    messages: HashMap<ContainerId, String>,
    removing: HashSet<ContainerId>,
    backoff: Backoff,
    pull_backoff: Backoff,
    pull_failed: HashMap<String, (Timestamp, String)>,
    starting: usize,
    start_token: CancellationToken,
    stopping: usize,
    stop_retry: Retry,
    grace: Option<Duration>,
    verdict: Option<(String, String)>,
    /// How long a pod that the node ended has, if not as long as it wants.
    verdict_grace: Option<Duration>,
    cleaning: Retry,
    telling: Retry,
    untold: Option<String>,
    /// The last patch, and the pod's resource version after the API server took it.
    told: (serde_json::Value, Option<String>),
    reported: bool,
    deleting: Retry,
    forgetting: Retry,
    again: Option<Instant>,
}

/// Runs a pod's worker until the pod is forgotten (`true`) or the token is cancelled.
pub async fn run(
    context: Arc<Context>,
    desired: watch::Receiver<Desired>,
    wake: Arc<Notify>,
    token: CancellationToken,
) -> bool {
    let mut worker = Worker::new(context, desired, wake);
    loop {
        worker.again = None;
        worker.pass();
        if worker.stage == Stage::Forgotten {
            return true;
        }
        let again = worker.again;
        let timer = async {
            match again {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        // Each arm only waits for news that stay where they are when the wait is dropped.
        tokio::select! {
            () = token.cancelled() => return false,
            () = worker.wake.notified() => {}
            () = worker.changed.notified() => worker.references_changed(),
            result = worker.desired.changed() => {
                if result.is_err() {
                    return false;
                }
            }
            progress = worker.progress.1.recv() => {
                if let Some(progress) = progress {
                    worker.take(progress);
                }
            }
            Some(ended) = worker.operations.join_next(), if !worker.operations.is_empty() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(pod = pod::full_name(&worker.pod), error = &error as &dyn std::error::Error, "an operation of a pod panicked");
                    worker.recover();
                }
            }
            () = timer => {}
        }
        // More news may be waiting: one pass for all of them.
        while let Ok(progress) = worker.progress.1.try_recv() {
            worker.take(progress);
        }
    }
}

impl Worker {
    fn new(context: Arc<Context>, desired: watch::Receiver<Desired>, wake: Arc<Notify>) -> Worker {
        let first = desired.borrow().clone();
        let changed = Arc::new(Notify::new());
        let held = context.references.hold(&first.pod, &changed);
        let mut worker = Worker {
            desired,
            wake,
            changed,
            progress: mpsc::channel(PROGRESS_QUEUE),
            operations: JoinSet::new(),
            granted: Arc::clone(&first.pod),
            book: Arc::default(),
            resizing: Resizing::default(),
            rejected: false,
            replaced_by: None,
            members: Vec::new(),
            gone: first.gone,
            mirror: first.mirror,
            stage: Stage::Running,
            born: Instant::now(),
            first_seen: Timestamp::now(),
            held,
            tokens: Arc::default(),
            tokens_due: None,
            volumes_ready: false,
            volumes_stale: true,
            volumes: Retry::default(),
            sandbox: None,
            sandboxes: Retry::default(),
            pod_ips: Vec::new(),
            tracks: HashMap::new(),
            probing: HashMap::new(),
            messages: HashMap::new(),
            removing: HashSet::new(),
            backoff: Backoff::default(),
            pull_backoff: Backoff::default(),
            pull_failed: HashMap::new(),
            starting: 0,
            start_token: CancellationToken::new(),
            stopping: 0,
            stop_retry: Retry::default(),
            grace: None,
            verdict: None,
            verdict_grace: None,
            cleaning: Retry::default(),
            telling: Retry::default(),
            untold: None,
            told: Default::default(),
            reported: first.pod.status.as_ref().is_some_and(|status| status.start_time.is_some()),
            deleting: Retry::default(),
            forgetting: Retry::default(),
            again: None,
            pod: first.pod,
            context,
        };
        worker.save();
        worker.enter();
        worker.adopt();
        worker
    }

    /// Takes over what already runs for this pod.
    fn adopt(&mut self) {
        self.sandbox = self.ready_sandbox();
        if self.sandbox.is_some() {
            self.sandboxes.begin();
            let (context, owner) = (Arc::clone(&self.context), Arc::clone(&self.pod));
            self.spawn(async move { Progress::Attached(sandbox::attach_again(&context, &owner).await) });
            // What runs has its volumes; they are brought up to date beside.
            self.volumes_ready = true;
            // Probes of what runs begin at once and need the address.
            self.pod_ips = self.known_ips();
        }
        let now = Timestamp::now();
        let containers = self.containers();
        for member in &self.members {
            let newest = latest(&containers, &member.container.name);
            if let Some(container) = newest.filter(|container| container.attempt > 0) {
                let since = container.finished_at.or(container.started_at).unwrap_or(now);
                self.backoff.resume(&container.name, container.attempt, since);
            }
        }
    }

    /// The pod's addresses as the API (or the disk) has them.
    fn known_ips(&self) -> Vec<String> {
        if pod::spec(&self.pod).host_network.unwrap_or(false) {
            return self.context.host_ips();
        }
        let ips = self.pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
        ips.map(|ip| ip.ip.clone()).collect()
    }

    fn ready_sandbox(&self) -> Option<SandboxId> {
        let uid = pod::uid(&self.pod);
        let sandboxes = self.context.config.runtime.pod_sandboxes().into_iter();
        let ready = sandboxes.filter(|sandbox| sandbox.config.uid == uid && sandbox.state == SandboxState::Ready);
        ready.max_by_key(|sandbox| sandbox.config.attempt).map(|sandbox| sandbox.id)
    }

    fn spawn(&mut self, operation: impl Future<Output = Progress> + Send + 'static) {
        let sender = self.progress.0.clone();
        self.operations.spawn(async move {
            let progress = operation.await;
            // Without a receiver the worker is gone, and nobody wants to know.
            drop(sender.send(progress).await);
        });
    }

    /// After a panic nobody reports: let everything be tried again.
    fn recover(&mut self) {
        for retry in [
            &mut self.volumes,
            &mut self.sandboxes,
            &mut self.cleaning,
            &mut self.telling,
            &mut self.deleting,
            &mut self.forgetting,
            &mut self.stop_retry,
            &mut self.resizing.retry,
        ] {
            if retry.busy {
                retry.end(false);
            }
        }
        self.starting = 0;
        self.stopping = 0;
        for track in self.tracks.values_mut() {
            track.busy = false;
        }
    }

    fn containers(&self) -> Vec<ContainerStatus> {
        let uid = pod::uid(&self.pod);
        self.context.config.runtime.containers().into_iter().filter(|container| container.pod_uid == uid).collect()
    }

    fn wake_at(&mut self, at: Instant) {
        self.again = Some(self.again.map_or(at, |known| known.min(at)));
    }

    fn wake_in(&mut self, delay: Duration) {
        self.wake_at(Instant::now() + delay);
    }

    /// One pass: read, compare, act.
    fn pass(&mut self) {
        let now = Timestamp::now();
        self.take_desired();
        let containers = self.containers();
        self.look_at(&containers, now);
        self.decide_end(now);
        match self.stage {
            Stage::Running => self.drive(&containers, now),
            Stage::Stopping => self.drive_stop(&containers),
            Stage::Cleaning => self.drive_clean_up(),
            Stage::Ended | Stage::Forgetting | Stage::Forgotten => {}
        }
        self.collect(&containers);
        let told = self.report(&containers, now);
        if matches!(self.stage, Stage::Ended | Stage::Forgetting) {
            self.drive_ended(told);
        }
    }

    fn take_desired(&mut self) {
        let desired = self.desired.borrow_and_update().clone();
        if desired.gone && !self.gone {
            // The scheduler counts it no longer, so neither may the node.
            self.gone = true;
            self.leave();
        }
        if let Some(eviction) = desired.evicted.filter(|_| self.verdict.is_none()) {
            self.context.events.pod(&self.pod, Severity::Warning, "Evicted", eviction.message.clone());
            self.verdict = Some(("Evicted".to_owned(), eviction.message));
            self.verdict_grace = eviction.grace;
        }
        self.mirror = desired.mirror;
        self.accept(desired.pod);
    }

    /// The uid under which the API server knows the pod, if it does.
    fn api_uid(&self) -> Option<&str> {
        if static_pods::is_static(&self.pod) { self.mirror.as_deref() } else { Some(pod::uid(&self.pod)) }
    }

    /// Takes a newer state of the pod.
    fn accept(&mut self, newer: Arc<Pod>) {
        if Arc::ptr_eq(&newer, &self.pod) || revision(&newer) < revision(&self.pod) {
            return;
        }
        let old = std::mem::replace(&mut self.pod, newer);
        let before = std::mem::take(&mut self.members);
        self.take_grant();
        for member in &self.members {
            let name = &member.container.name;
            let known = before.iter().find(|before| before.container.name == *name);
            if known.is_some_and(|known| known.container.image != member.container.image) {
                // The delays were those of the other image.
                self.pull_backoff.reset(name);
                self.pull_failed.remove(name);
                self.tracks.entry(name.clone()).or_default().not_before = None;
            }
        }
        if old.spec != self.pod.spec {
            self.held = self.context.references.hold(&self.pod, &self.changed);
        }
        // The downward API shows labels and annotations.
        self.volumes_stale |= old.metadata.labels != self.pod.metadata.labels
            || old.metadata.annotations != self.pod.metadata.annotations;
        if old.spec != self.pod.spec || old.metadata.deletion_timestamp != self.pod.metadata.deletion_timestamp {
            self.save();
        }
    }

    /// Keeps the pod on disk for a start without the API server.
    fn save(&mut self) {
        let (context, owner) = (Arc::clone(&self.context), Arc::clone(&self.pod));
        self.operations.spawn(async move {
            let name = pod::full_name(&owner);
            let written =
                tokio::task::spawn_blocking(move || manifest::write(&context.pod_dir(pod::uid(&owner)), &owner)).await;
            if let Ok(Err(error)) = written {
                tracing::warn!(pod = name, error = &error as &dyn std::error::Error, "a pod was not saved to disk");
            }
        });
    }

    fn references_changed(&mut self) {
        self.volumes_stale = true;
        self.volumes.not_before = None;
        for track in self.tracks.values_mut() {
            if track.waiting.as_ref().is_some_and(|(reason, _)| reason == "CreateContainerConfigError") {
                track.not_before = None;
            }
        }
    }

    fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.container.name == name)
    }

    /// Notices ends, reads what they left, and sees that what runs is probed.
    fn look_at(&mut self, containers: &[ContainerStatus], now: Timestamp) {
        let pod_dir = self.context.pod_dir(pod::uid(&self.pod));
        for container in containers {
            let over = matches!(container.state, ContainerState::Exited | ContainerState::Unknown);
            if over && !self.messages.contains_key(&container.id) {
                let message = self
                    .member(&container.name)
                    .map(|member| termination::message(&pod_dir, &member.container, container));
                self.messages.insert(container.id.clone(), message.unwrap_or_default());
            }
        }
        self.messages.retain(|id, _| containers.iter().any(|container| container.id == *id));
        let names: Vec<String> = self.members.iter().map(|member| member.container.name.clone()).collect();
        for name in names {
            let newest = latest(containers, &name).filter(|container| container.state == ContainerState::Running);
            let track = self.tracks.entry(name.clone()).or_default();
            match newest {
                // Without an address every probe would fail; it comes with the sandbox.
                Some(container) if !track.is_about(&container.id) && !track.busy && !self.pod_ips.is_empty() => {
                    // It ran before this worker did: its hook is done.
                    let id = container.id.clone();
                    self.begin_probing(&name, &id, container.started_at.unwrap_or(now), true);
                }
                Some(_) => {}
                None => {
                    if self.probing.remove(&name).is_some() {
                        (track.started, track.ready, track.unhealthy) = (false, false, None);
                    }
                }
            }
        }
    }

    /// Moves to stopping when the pod was deleted, is final or has run out of time. Nothing else does.
    fn decide_end(&mut self, now: Timestamp) {
        let spec = pod::spec(&self.pod);
        let usual = spec.termination_grace_period_seconds.unwrap_or(30);
        let wanted = if self.gone || self.pod.metadata.deletion_timestamp.is_some() {
            let seconds = self.pod.metadata.deletion_grace_period_seconds.unwrap_or(usual).max(1);
            Some(Duration::from_secs(seconds.unsigned_abs()))
        } else if pod::is_terminal(&self.pod) || self.verdict.is_some() {
            let usual = Duration::from_secs(usual.max(0).unsigned_abs());
            Some(self.verdict_grace.map_or(usual, |grace| grace.min(usual)))
        } else if let Some(limit) = spec.active_deadline_seconds {
            let begun = self
                .pod
                .status
                .as_ref()
                .and_then(|status| status.start_time.as_ref())
                .map_or(self.first_seen, |time| time.0);
            let limit = Duration::from_secs(limit.max(0).unsigned_abs());
            let active = elapsed(begun, now);
            if active >= limit {
                let message = "Pod was active on the node longer than the specified deadline";
                self.context.events.pod(&self.pod, Severity::Normal, "DeadlineExceeded", message);
                self.verdict = Some(("DeadlineExceeded".to_owned(), message.to_owned()));
                Some(Duration::from_secs(usual.max(0).unsigned_abs()))
            } else {
                self.wake_in(limit - active);
                None
            }
        } else {
            None
        };
        let Some(grace) = wanted else { return };
        self.stop_within(grace);
    }

    fn stop_within(&mut self, grace: Duration) {
        match self.stage {
            Stage::Running => {
                self.stage = Stage::Stopping;
                self.grace = Some(grace);
                self.probing.values_mut().for_each(Probing::end_restarting);
                self.start_token.cancel();
            }
            // A shorter period counts at once; a longer one never does.
            Stage::Stopping if self.grace.is_some_and(|known| grace < known) => {
                self.grace = Some(grace);
                if self.stopping > 0 {
                    self.spawn_stop(grace);
                }
            }
            _ => {}
        }
    }

    fn drive(&mut self, containers: &[ContainerStatus], now: Timestamp) {
        if self.sandbox.is_some() && !self.sandboxes.busy {
            let ready = self.ready_sandbox();
            if ready != self.sandbox {
                self.sandbox = ready;
            }
        }
        self.flip_pull_errors(now);
        self.drive_resize(containers, now);
        let plan = plan::plan(&plan::View {
            pod: &self.pod,
            members: &self.members,
            sandbox: self.sandbox.as_ref(),
            containers,
            tracks: &self.tracks,
            backoff: &self.backoff,
            now,
        });
        if plan.finished {
            let usual = pod::spec(&self.pod).termination_grace_period_seconds.unwrap_or(30).max(0).unsigned_abs();
            self.stop_within(Duration::from_secs(usual));
            self.drive_stop(containers);
            return;
        }
        self.drive_volumes();
        if plan.needs_sandbox && self.sandboxes.may_start() {
            self.spawn_sandbox();
        } else if plan.needs_sandbox && !self.sandboxes.busy {
            self.wake_at(self.sandboxes.not_before.unwrap_or_else(Instant::now));
        }
        if let Some(delay) = plan.again_in {
            // A little later, so that the delay is surely over.
            self.wake_in(delay + Duration::from_millis(1));
        }
        self.act(plan, now);
    }

    /// Writes the status if it changed; whether the API server has it.
    fn report(&mut self, containers: &[ContainerStatus], now: Timestamp) -> bool {
        if self.gone {
            return true;
        }
        let replaces = self.tracks.values().any(|track| track.busy || track.replaced.is_some());
        self.replaced_by = self.replaced_by.filter(|until| replaces && *until > Instant::now());
        if let Some(until) = self.replaced_by.filter(|_| self.stage == Stage::Running) {
            self.wake_at(until);
            return false;
        }
        if let Some(until) = self.resizing.settles_by() {
            // Almost always new limits are in force in a moment: one write tells that, and no half-way state.
            self.wake_at(until);
            return false;
        }
        let host_ips = self.context.host_ips();
        let resources = self.book.record();
        let devices = self.context.devices.health(pod::uid(&self.pod));
        let made = status::status(&status::View {
            pod: &self.pod,
            members: &self.members,
            containers,
            tracks: &self.tracks,
            messages: &self.messages,
            ending: self.stage != Stage::Running,
            verdict: self.verdict.as_ref(),
            rejected: self.rejected,
            resources: &resources,
            devices: &devices,
            resize: self.resizing.state(),
            sandbox_ready: self.sandbox.is_some()
                && !self.pod_ips.is_empty()
                && matches!(self.stage, Stage::Running | Stage::Stopping),
            runtime: &self.context.runtime_name(),
            host_ips: &host_ips,
            pod_ips: &self.pod_ips,
            start_time: self.first_seen,
            now,
        });
        if matches!(made.phase.as_deref(), Some("Succeeded" | "Failed")) {
            // Before the scheduler hears of it.
            self.leave();
        }
        let Some(uid) = self.api_uid() else { return true };
        let known = self.pod.status.clone().unwrap_or_default();
        let Some(patch) = report::patch(uid, &known, &made) else { return true };
        if self.untold.is_some() && self.untold == self.pod.metadata.resource_version {
            return true;
        }
        // What the server took and shows differently is not sent again and again.
        if self.told.1.is_some() && self.told.1 == self.pod.metadata.resource_version && self.told.0 == patch {
            return true;
        }
        let quiet =
            made.phase.as_deref() == Some("Pending") && self.tracks.values().all(|track| track.waiting.is_none());
        let first = self.born + FIRST_STATUS;
        if !self.reported && quiet && self.stage == Stage::Running && first > Instant::now() {
            self.wake_at(first);
            return false;
        }
        if self.telling.may_start() {
            self.telling.begin();
            self.reported = true;
            let (client, owner) = (self.context.config.client.clone(), Arc::clone(&self.pod));
            self.told = (patch.clone(), None);
            self.spawn(async move { Progress::Told(report::write_status(&client, &owner, &patch).await) });
        } else if let Some(at) = self.telling.not_before.filter(|_| !self.telling.busy) {
            self.wake_at(at);
        }
        false
    }
}

/// The resource version as a number; they rise within one object. A pod from disk may have none.
fn revision(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}
