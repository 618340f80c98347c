//! Ends pods when the machine runs short of memory, disk, inodes or processes, before the kernel has to choose.
//!
//! Every ten seconds (as upstream; [`crate::Config::eviction_period`]) a few of the kernel's numbers are read. Below a threshold the node's condition says so, files that
//! nobody needs are taken away, and if that is not enough one pod goes at a time, by upstream's order ([`rank`]).
//! Pods that exceed their own limits of local storage go too ([`limits`]).

mod limits;
mod rank;
mod threshold;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kobune_runtime::usage_below;
use parking_lot::RwLock;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use threshold::{Signal, Threshold, ThresholdError, defaults};

use crate::context::Context;
use crate::events::Severity;
use crate::image_garbage::ImageGarbage;
use crate::machine;
use crate::pod;
use crate::pods::Pods;
use crate::quantity::Amount;
use crate::usage::{self, PodUsage};
use limits::OnDisk;
use rank::{Candidate, Part};
use threshold::{Observation, Seen, Tracker};

/// How often the local storage of pods with limits is looked at.
const STORAGE_EVERY: Duration = Duration::from_secs(60);

/// Why and how fast a pod has to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// For the pod's status.
    pub message: String,
    /// `None` is the pod's own grace period.
    pub grace: Option<Duration>,
}

/// The node's conditions of pressure that hold now.
#[derive(Debug, Default)]
pub struct Pressure {
    conditions: RwLock<BTreeSet<&'static str>>,
    changed: Notify,
}

impl Pressure {
    fn set(&self, conditions: BTreeSet<&'static str>) {
        let before = std::mem::replace(&mut *self.conditions.write(), conditions.clone());
        if before != conditions {
            self.changed.notify_one();
        }
    }

    /// Returns when the conditions have changed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The conditions that hold.
    pub fn all(&self) -> Vec<&'static str> {
        self.conditions.read().iter().copied().collect()
    }
}

fn look(context: &Context) -> Seen {
    let of = |available: i64, capacity: i64| Observation { available, capacity };
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let disk = machine::disk(&context.config.data_dir).unwrap_or_default();
    let pids = context.machine.pid_max;
    [
        (Signal::Memory, of(machine::memory_available(), context.machine.memory)),
        (Signal::Disk, of(signed(disk.available), signed(disk.size))),
        (Signal::Inodes, of(signed(disk.inodes_free), signed(disk.inodes))),
        (Signal::Pids, of(pids.saturating_sub(machine::tasks()), pids)),
    ]
    .into()
}

/// Looks after the machine until the token is cancelled.
pub async fn run(context: Arc<Context>, pods: Arc<Pods>, token: CancellationToken) {
    let mut tracker = Tracker::new(context.config.eviction.clone());
    let mut garbage = ImageGarbage::new(Instant::now());
    let mut storage_due = Instant::now() + STORAGE_EVERY;
    let mut ticks = tokio::time::interval(context.config.eviction_period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // Dropping the tick loses nothing.
        tokio::select! {
            () = token.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let now = Instant::now();
        let mut seen = look(&context);
        let mut due = tracker.observe(&seen, now);
        context.pressure.set(tracker.conditions(now));
        if due.as_ref().is_some_and(|due| matches!(due.signal, Signal::Disk | Signal::Inodes)) {
            // Files that nobody needs go before pods do.
            garbage.free(&context, u64::MAX).await;
            seen = look(&context);
            due = tracker.observe(&seen, Instant::now());
        }
        if let Some(due) = due {
            relieve(&context, &pods, &due, &seen).await;
        }
        garbage.look(&context).await;
        if now >= storage_due {
            storage_due = now + STORAGE_EVERY;
            enforce_limits(&context, &pods).await;
        }
    }
}

async fn read(context: &Arc<Context>, owners: Vec<Arc<Pod>>) -> Vec<PodUsage> {
    let context = Arc::clone(context);
    let work = move || usage::read(&*context.config.runtime, owners, Some(&context.disks));
    match tokio::task::spawn_blocking(work).await {
        Ok(used) => used,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "reading what pods use panicked");
            Vec::new()
        }
    }
}

/// Ends the pod that goes first.
async fn relieve(context: &Arc<Context>, pods: &Pods, due: &Threshold, seen: &Seen) {
    let running = pods.all().into_iter().filter(|owner| may_go(owner) && owner.metadata.deletion_timestamp.is_none());
    let candidates = read(context, running.collect()).await.iter().map(candidate).collect();
    let Some(chosen) = rank::first(due.signal, candidates) else {
        tracing::warn!(signal = due.signal.as_str(), "the node is short and there is no pod that may be evicted");
        return;
    };
    let seen = seen.get(&due.signal).copied().unwrap_or_default();
    let message = rank::message(due.signal, due.least(seen.capacity), seen.available, &chosen);
    // Beyond a hard threshold there is no time for grace.
    let grace = due.grace.is_none().then_some(Duration::from_secs(1));
    context.events.node(
        &context.config.name,
        Severity::Warning,
        "EvictionThresholdMet",
        format!("Attempting to reclaim {}", due.signal.resource()),
    );
    pods.evict(&chosen.uid, Eviction { message, grace });
}

/// What is critical to the node, and what has ended, stays.
fn may_go(owner: &Pod) -> bool {
    let critical = pod::is_critical(owner);
    !critical && !pod::is_terminal(owner)
}

fn request(owner: &Pod, container: &str, resource: &str) -> u64 {
    let spec = pod::spec(owner);
    let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let found = containers.find(|known| known.name == container);
    let requests = found.and_then(|container| container.resources.as_ref()?.requests.as_ref());
    let amount = requests.and_then(|requests| requests.get(resource)).map_or(0, |amount| Amount::of(amount).value());
    u64::try_from(amount).unwrap_or(0)
}

fn candidate(used: &PodUsage) -> Candidate {
    let parts = used.containers.iter().map(|container| Part {
        name: container.name.clone(),
        memory: container.stats.memory_working_set,
        memory_request: request(&used.pod, &container.name, "memory"),
        disk: container.disk.writable_layer.bytes + container.disk.log_bytes,
        disk_request: request(&used.pod, &container.name, "ephemeral-storage"),
        inodes: container.disk.writable_layer.inodes,
    });
    Candidate {
        uid: pod::uid(&used.pod).to_owned(),
        priority: pod::spec(&used.pod).priority.unwrap_or(0),
        parts: parts.collect(),
        processes: used.whole.as_ref().map_or(0, |whole| whole.pids),
    }
}

/// Bytes in a pod's volumes of kind `emptyDir`, by name. Blocks.
fn empty_dirs(pod_dir: &Path, owner: &Pod) -> Vec<(String, u64)> {
    let volumes = pod::spec(owner).volumes.iter().flatten().filter(|volume| {
        volume.empty_dir.as_ref().is_some_and(|volume| volume.medium.as_deref().unwrap_or_default().is_empty())
    });
    volumes
        .map(|volume| {
            let folder = pod_dir.join("volumes/kubernetes.io~empty-dir").join(&volume.name);
            (volume.name.clone(), usage_below(&folder).bytes)
        })
        .collect()
}

/// Ends pods that have more on disk than they may.
async fn enforce_limits(context: &Arc<Context>, pods: &Pods) {
    let limited: Vec<Arc<Pod>> =
        pods.all().into_iter().filter(|owner| may_go(owner) && limits::has_limits(owner)).collect();
    if limited.is_empty() {
        return;
    }
    for used in read(context, limited).await {
        let (owner, dir) = (Arc::clone(&used.pod), context.pod_dir(pod::uid(&used.pod)));
        let volumes = tokio::task::spawn_blocking(move || empty_dirs(&dir, &owner)).await.unwrap_or_default();
        let containers = used
            .containers
            .iter()
            .map(|used| (used.name.clone(), used.disk.writable_layer.bytes + used.disk.log_bytes))
            .collect();
        if let Some(message) = limits::exceeded(&used.pod, &OnDisk { containers, volumes }) {
            pods.evict(pod::uid(&used.pod), Eviction { message, grace: Some(Duration::from_secs(1)) });
        }
    }
}
