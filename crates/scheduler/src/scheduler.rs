//! The one task that owns the scheduler's state: it takes watch events, decides, and starts the writes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Binding, Namespace, Node, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use rand::Rng;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Budget, Cluster};
use crate::decide::{Decision, decide};
use crate::devices;
use crate::extender::call::Caller;
use crate::extender::consult;
use crate::filter::obstacle;
use crate::labels::Labels;
use crate::pod::{PodInfo, PodInput, Shown, Stage, read};
use crate::preempt::Preemption;
use crate::queue::Queue;
use crate::recorder::{Recorder, Severity};
use crate::{Config, Error, Profile};

mod device_events;
mod extended;
mod volume_events;

use volume_events::Awaiting;

/// Bindings on their way at once; beyond that pods wait in the queue, where their order still counts.
const BINDINGS: usize = 128;
/// Pods decided about before watch events get their turn again.
const BATCH: usize = 64;

/// What is written before a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Volumes,
    Devices,
}

/// Why a pod was not bound.
#[derive(Debug, thiserror::Error)]
enum BindError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error(transparent)]
    Extender(#[from] crate::extender::call::CallError),
}

/// How a binding went, or a write of volumes that comes before it.
struct Outcome {
    pod: Arc<PodInfo>,
    node: Arc<str>,
    before: Option<Before>,
    result: Result<(), BindError>,
}

struct Scheduler {
    client: kube::Client,
    profiles: Vec<Arc<Profile>>,
    recorder: Recorder,
    cluster: Cluster,
    queue: Queue,
    bindings: JoinSet<Outcome>,
    writes: JoinSet<()>,
    extenders: Arc<[Caller]>,
    asking: extended::Asking,
    /// Pods we gave a node that the watch has not confirmed yet.
    assumed: HashSet<Arc<str>>,
    /// Pods that have a node and wait there for their claims.
    awaiting: Awaiting,
    volumes_known: volume_events::Known,
    devices_known: device_events::Known,
    /// What is to be written to claims on devices before a pod is bound, by its uid.
    device_writes: HashMap<Arc<str>, Vec<devices::Write>>,
    /// Where the search for nodes goes on.
    next_node: usize,
    /// What a restarted watch has named so far.
    listed_pods: HashSet<Arc<str>>,
    listed_nodes: HashSet<Arc<str>>,
    nodes_known: bool,
    pods_known: bool,
    budgets_known: bool,
}

fn steady<K>(
    stream: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
) -> impl Stream<Item = Event<K>> + Unpin + Send
where
    K: Send + 'static,
{
    let logged = stream.default_backoff().filter_map(|item| async {
        item.inspect_err(|error| {
            tracing::debug!(error = error as &dyn std::error::Error, "a watch of the scheduler is started again")
        })
        .ok()
    });
    Box::pin(logged)
}

/// Runs until `token` is cancelled.
pub(crate) async fn run(client: kube::Client, config: Config, token: CancellationToken) -> Result<(), Error> {
    let settings = watcher::Config::default;
    let mut pods = steady(watcher::watcher(Api::<PodInput>::all(client.clone()), settings()));
    let mut nodes = steady(watcher::watcher(Api::<Node>::all(client.clone()), settings()));
    let mut budgets = steady(watcher::watcher(Api::<PodDisruptionBudget>::all(client.clone()), settings()));
    let mut namespaces = steady(watcher::watcher(Api::<PartialObjectMeta<Namespace>>::all(client.clone()), settings()));
    let mut claims = steady(watcher::watcher(Api::<PersistentVolumeClaim>::all(client.clone()), settings()));
    let mut volumes = steady(watcher::watcher(Api::<PersistentVolume>::all(client.clone()), settings()));
    let mut classes = steady(watcher::watcher(Api::<StorageClass>::all(client.clone()), settings()));
    let mut device_claims = steady(watcher::watcher(Api::<ResourceClaim>::all(client.clone()), settings()));
    let mut slices = steady(watcher::watcher(Api::<ResourceSlice>::all(client.clone()), settings()));
    let mut device_classes = steady(watcher::watcher(Api::<DeviceClass>::all(client.clone()), settings()));
    let (recorder, writer) = Recorder::new(client.clone(), "default-scheduler");
    let mut extenders = Vec::new();
    for extender in config.extenders {
        let url = extender.url_prefix.clone();
        extenders.push(Caller::new(extender).await.map_err(|source| Error::Extender { url, source })?);
    }
    let mut scheduler = Scheduler {
        client,
        profiles: config.profiles.into_iter().map(Arc::new).collect(),
        recorder,
        cluster: Cluster::default(),
        queue: Queue::new(config.first_backoff, config.longest_backoff),
        bindings: JoinSet::new(),
        writes: JoinSet::new(),
        extenders: extenders.into(),
        asking: extended::Asking::default(),
        assumed: HashSet::new(),
        awaiting: Awaiting::default(),
        volumes_known: volume_events::Known::default(),
        devices_known: device_events::Known::default(),
        device_writes: HashMap::new(),
        next_node: 0,
        listed_pods: HashSet::new(),
        listed_nodes: HashSet::new(),
        nodes_known: false,
        pods_known: false,
        budgets_known: false,
    };
    scheduler.writes.spawn(writer);
    loop {
        let more = scheduler.schedule();
        let wake = scheduler.queue.next_wake().into_iter().chain(scheduler.awaiting.next_deadline()).min();
        scheduler.expire_awaiting();
        // Each arm is a stream, a join set or a timer: dropping it before it is ready loses nothing.
        tokio::select! {
            biased;
            () = token.cancelled() => return Ok(()),
            event = nodes.next() => scheduler.node_event(event.ok_or(Error::WatchEnded { kind: "nodes" })?),
            event = namespaces.next() => scheduler.namespace_event(event.ok_or(Error::WatchEnded { kind: "namespaces" })?),
            event = classes.next() => scheduler.class_event(event.ok_or(Error::WatchEnded { kind: "storageclasses" })?),
            event = volumes.next() => scheduler.volume_event(event.ok_or(Error::WatchEnded { kind: "persistentvolumes" })?),
            event = claims.next() => {
                scheduler.claim_event(event.ok_or(Error::WatchEnded { kind: "persistentvolumeclaims" })?);
            }
            event = device_classes.next() => {
                scheduler.device_class_event(event.ok_or(Error::WatchEnded { kind: "deviceclasses" })?);
            }
            event = slices.next() => scheduler.slice_event(event.ok_or(Error::WatchEnded { kind: "resourceslices" })?),
            event = device_claims.next() => {
                scheduler.device_claim_event(event.ok_or(Error::WatchEnded { kind: "resourceclaims" })?);
            }
            event = budgets.next() => {
                scheduler.budget_event(event.ok_or(Error::WatchEnded { kind: "poddisruptionbudgets" })?);
            }
            Some(outcome) = scheduler.bindings.join_next() => scheduler.bound(outcome),
            asked = scheduler.asking.next() => scheduler.extenders_said(asked),
            Some(done) = scheduler.writes.join_next() => {
                if let Err(error) = done {
                    tracing::error!(error = &error as &dyn std::error::Error, "a write of the scheduler panicked");
                }
            }
            event = pods.next() => scheduler.pod_event(event.ok_or(Error::WatchEnded { kind: "pods" })?),
            () = async {}, if more => {}
            () = sleep_until(wake), if wake.is_some() => {}
        }
    }
}

async fn sleep_until(wake: Option<Instant>) {
    let left = wake.map_or(Duration::MAX, |wake| wake.saturating_duration_since(Instant::now()));
    tokio::time::sleep(left).await;
}

/// What the API server said, or why it was not asked.
fn words(error: &BindError) -> String {
    match error {
        BindError::Api(kube::Error::Api(status)) => status.message.clone(),
        other => other.to_string(),
    }
}

impl Scheduler {
    fn node_event(&mut self, event: Event<Node>) {
        match event {
            Event::Init => self.listed_nodes.clear(),
            Event::InitApply(node) | Event::Apply(node) => {
                if let Some(name) = node.metadata.name.as_deref() {
                    self.listed_nodes.insert(name.into());
                }
                if self.cluster.set_node(&node) {
                    self.queue.helped(!obstacle::BINDING, Instant::now());
                }
            }
            Event::Delete(node) => self.cluster.remove_node(node.metadata.name.as_deref().unwrap_or_default()),
            Event::InitDone => {
                let gone: Vec<_> = self
                    .cluster
                    .known()
                    .map(|(name, ..)| name.clone())
                    .filter(|name| !self.listed_nodes.contains(name))
                    .collect();
                gone.iter().for_each(|name| self.cluster.remove_node(name));
                self.nodes_known = true;
            }
        }
    }

    fn budget_event(&mut self, event: Event<PodDisruptionBudget>) {
        let key = |budget: &PodDisruptionBudget| {
            let part = |text: Option<&String>| Arc::from(text.map_or("", String::as_str));
            (part(budget.metadata.namespace.as_ref()), part(budget.metadata.name.as_ref()))
        };
        match event {
            // Budgets only weigh victims against each other: between two lists none are better than old ones.
            Event::Init => self.cluster.budgets.clear(),
            Event::InitApply(budget) | Event::Apply(budget) => {
                self.cluster.budgets.insert(key(&budget), Budget::from(&budget));
            }
            Event::Delete(budget) => drop(self.cluster.budgets.remove(&key(&budget))),
            Event::InitDone => self.budgets_known = true,
        }
    }

    fn namespace_event(&mut self, event: Event<PartialObjectMeta<Namespace>>) {
        match event {
            Event::InitApply(namespace) | Event::Apply(namespace) => {
                let name = namespace.metadata.name.unwrap_or_default().into();
                let labels = Labels::from(namespace.metadata.labels.as_ref());
                if self.cluster.namespaces.insert(name, labels.clone()) != Some(labels) {
                    self.queue.helped(obstacle::POD_AFFINITY, Instant::now());
                }
            }
            Event::Delete(namespace) => {
                self.cluster.namespaces.remove(namespace.metadata.name.as_deref().unwrap_or_default());
            }
            Event::Init | Event::InitDone => {}
        }
    }

    fn pod_event(&mut self, event: Event<PodInput>) {
        match event {
            Event::Init => self.listed_pods.clear(),
            Event::InitApply(pod) => self.pod_applied(pod, true),
            Event::Apply(pod) => self.pod_applied(pod, false),
            Event::Delete(pod) => self.pod_gone(&read(pod, &self.profiles).1.uid),
            Event::InitDone => {
                let known = self.cluster.placed_uids().chain(self.queue.uids());
                // An assumed pod may be younger than the list; its own events will tell.
                let unlisted = known.filter(|uid| !self.listed_pods.contains(*uid) && !self.assumed.contains(*uid));
                let gone: Vec<_> = unlisted.cloned().collect();
                gone.iter().for_each(|uid| self.pod_gone(uid));
                self.listed_pods = HashSet::new();
                self.pods_known = true;
            }
        }
    }

    fn pod_applied(&mut self, pod: PodInput, listing: bool) {
        let (stage, info, shown) = read(pod, &self.profiles);
        if listing {
            self.listed_pods.insert(info.uid.clone());
        }
        let now = Instant::now();
        match stage {
            Stage::Pending => {
                // The watch may still show a pod without the node that we have given it.
                if !self.assumed.contains(&info.uid) {
                    if let Some(node) = shown.nominated.clone().filter(|_| self.cluster.nomination(&info.uid).is_none())
                    {
                        self.cluster.nominate(&Arc::new(info.clone()), Some(node.into()));
                    }
                    self.queue.set(info, shown, now);
                }
            }
            Stage::Bound => {
                self.assumed.remove(&info.uid);
                self.queue.remove(&info.uid);
                let before = self.cluster.placed(&info.uid).cloned();
                if before.as_deref() == Some(&info) {
                    return;
                }
                let lighter = before.as_ref().is_some_and(|before| before.requests != info.requests);
                let moved = before.as_ref().is_none_or(|before| before.labels != info.labels);
                self.cluster.place(Arc::new(info));
                let mut helped = 0;
                if lighter {
                    helped |= obstacle::RESOURCES;
                }
                if moved {
                    helped |= obstacle::POD_AFFINITY | obstacle::SPREAD;
                }
                if helped != 0 {
                    self.queue.helped(helped, now);
                }
            }
            Stage::Over => self.pod_gone(&info.uid),
        }
    }

    fn pod_gone(&mut self, uid: &Arc<str>) {
        self.asking.forget(uid);
        self.assumed.remove(uid);
        self.awaiting.remove(uid);
        self.cluster.volumes.release(uid);
        self.device_writes.remove(uid);
        if self.cluster.devices.release(uid) {
            self.queue.helped(obstacle::DEVICES, Instant::now());
        }
        self.queue.remove(uid);
        self.cluster.withdraw(uid);
        if self.cluster.unplace(uid).is_some() {
            self.queue.helped(
                obstacle::RESOURCES | obstacle::PORTS | obstacle::POD_AFFINITY | obstacle::SPREAD | obstacle::VOLUMES,
                Instant::now(),
            );
        }
    }

    /// Decides about waiting pods. Says whether more of them wait right now.
    fn schedule(&mut self) -> bool {
        // Without all nodes and pods any answer would be a guess, and without budgets preemption would be reckless.
        if !(self.nodes_known
            && self.pods_known
            && self.budgets_known
            && self.volumes_known.all()
            && self.devices_known.all())
        {
            return false;
        }
        let more = self.decide_some();
        self.ask_extenders();
        more
    }

    fn decide_some(&mut self) -> bool {
        for _ in 0..BATCH {
            if self.bindings.len() >= BINDINGS {
                // The next finished binding wakes the loop.
                return false;
            }
            let Some((pod, shown)) = self.queue.pop(Instant::now()) else { return false };
            if self.park(&pod, &shown) {
                continue;
            }
            let decision = decide(&pod, &self.cluster, &mut self.next_node, |count| rand::rng().random_range(0..count));
            self.carry_out(pod, &shown, decision);
        }
        true
    }

    /// Does what was decided about a pod.
    fn carry_out(&mut self, pod: Arc<PodInfo>, shown: &Shown, decision: Decision) {
        match decision {
            Decision::Bind(node) => self.bind(pod, node),
            Decision::Wait { message, obstacles, preemption, gives_up } => {
                if let Some(preemption) = preemption {
                    self.preempt(&pod, shown, preemption);
                } else if gives_up {
                    self.give_up(&pod, shown);
                }
                if obstacles & obstacle::DEVICES != 0 {
                    self.give_devices_back(&pod);
                }
                self.unschedulable(&pod, shown, obstacles, "Unschedulable", message);
            }
        }
    }

    fn bind(&mut self, pod: Arc<PodInfo>, node: Arc<str>) {
        let mut placed = (*pod).clone();
        placed.node = Some(node.clone());
        placed.settle();
        self.cluster.place(Arc::new(placed));
        self.assumed.insert(pod.uid.clone());
        self.assume_devices(&pod, &node);
        if self.await_volumes(&pod, &node) {
            return;
        }
        self.send_binding(pod, node);
    }

    fn send_binding(&mut self, pod: Arc<PodInfo>, node: Arc<str>) {
        let api = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace);
        let (client, extenders) = (self.client.clone(), self.extenders.clone());
        let writes = self.device_writes.remove(&pod.uid).unwrap_or_default();
        self.bindings.spawn(async move {
            for write in writes {
                if let Err(error) = device_events::write_claim(&client, &pod, &write).await {
                    return Outcome { pod, node, before: Some(Before::Devices), result: Err(error.into()) };
                }
            }
            match consult::bind(&extenders, &pod, &node).await {
                Ok(false) => {}
                Ok(true) => return Outcome { pod, node, before: None, result: Ok(()) },
                Err(error) => return Outcome { pod, node, before: None, result: Err(error.into()) },
            }
            let binding = Binding {
                metadata: ObjectMeta {
                    name: Some(pod.name.to_string()),
                    namespace: Some(pod.namespace.to_string()),
                    uid: Some(pod.uid.to_string()),
                    ..ObjectMeta::default()
                },
                target: ObjectReference {
                    kind: Some("Node".to_owned()),
                    name: Some(node.to_string()),
                    ..ObjectReference::default()
                },
            };
            let result = api
                .create_subresource::<Binding, kube::core::Status>(
                    "binding",
                    &pod.name,
                    &PostParams::default(),
                    &binding,
                )
                .await;
            Outcome { pod, node, before: None, result: result.map(drop).map_err(BindError::from) }
        });
    }

    fn bound(&mut self, outcome: Result<Outcome, tokio::task::JoinError>) {
        let Outcome { pod, node, before, result } = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a binding panicked");
                return;
            }
        };
        if before == Some(Before::Volumes) {
            // When it went well, the claims' own changes say how it goes on.
            if let Err(error) = result {
                self.volumes_failed(&pod.uid, &words(&error));
            }
            return;
        }
        match result {
            Ok(()) => {
                self.cluster.volumes.release(&pod.uid);
                self.queue.remove(&pod.uid);
                let message = format!("Successfully assigned {}/{} to {node}", pod.namespace, pod.name);
                self.recorder.event(&pod.reference(), Severity::Normal, "Scheduled", message);
            }
            Err(error) => {
                self.give_back(&pod);
                let gone = matches!(&error, BindError::Api(kube::Error::Api(status)) if status.is_not_found());
                if gone {
                    self.queue.remove(&pod.uid);
                    return;
                }
                let shown = self.queue.get(&pod.uid).map(|waiting| waiting.shown.clone());
                if let Some(shown) = shown {
                    let plugin = match before {
                        Some(_) => "running PreBind plugin \"DynamicResources\"",
                        None => "running Bind plugin \"DefaultBinder\"",
                    };
                    let message = format!("{plugin}: {}", words(&error));
                    self.unschedulable(&pod, &shown, obstacle::BINDING, "SchedulerError", message);
                }
            }
        }
    }

    /// Stops counting a pod on the node that it did not get to.
    fn give_back(&mut self, pod: &PodInfo) {
        self.cluster.volumes.release(&pod.uid);
        self.device_writes.remove(&pod.uid);
        if self.cluster.devices.release(&pod.uid) {
            self.queue.helped(obstacle::DEVICES, Instant::now());
        }
        // The watch may have confirmed it although the answer was lost.
        if self.assumed.remove(&pod.uid) {
            self.cluster.unplace(&pod.uid);
            self.queue.helped(obstacle::RESOURCES | obstacle::PORTS | obstacle::VOLUMES, Instant::now());
        }
    }

    /// Lets go of room that was kept for a pod, here and in its status.
    fn give_up(&mut self, pod: &Arc<PodInfo>, shown: &Shown) {
        self.cluster.withdraw(&pod.uid);
        if shown.nominated.is_some() {
            let change = serde_json::json!({"metadata": {"uid": &*pod.uid}, "status": {"nominatedNodeName": null}});
            self.patch_status(pod, change);
        }
    }

    fn preempt(&mut self, pod: &Arc<PodInfo>, shown: &Shown, preemption: Preemption) {
        // What was promised here to pods that matter less does not hold any more: they look for another place.
        for lesser in self.cluster.nominated_after(&preemption.node, pod) {
            let shown = self.queue.get(&lesser.uid).map(|waiting| waiting.shown.clone()).unwrap_or_default();
            self.give_up(&lesser, &shown);
            self.queue.retry(&lesser.uid, Instant::now());
        }
        self.cluster.nominate(pod, Some(preemption.node.clone()));
        if shown.nominated.as_deref() != Some(&preemption.node) {
            let change =
                serde_json::json!({"metadata": {"uid": &*pod.uid}, "status": {"nominatedNodeName": &*preemption.node}});
            self.patch_status(pod, change);
        }
        for victim in preemption.victims.into_iter().filter(|victim| !victim.terminating) {
            let message = format!("Preempted by pod {} on node {}", pod.uid, preemption.node);
            self.recorder.event(&victim.reference(), Severity::Normal, "Preempted", message);
            let api = Api::<Pod>::namespaced(self.client.clone(), &victim.namespace);
            let by = pod.profile.name.clone();
            self.writes.spawn(async move {
                let now = Timestamp::now();
                let condition = serde_json::json!({"metadata": {"uid": &*victim.uid}, "status": {"conditions": [{
                    "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
                    "message": format!("{by}: preempting to accommodate a higher priority pod"), "lastTransitionTime": now,
                }]}});
                let told = api.patch_status(&victim.name, &PatchParams::default(), &Patch::Strategic(condition)).await;
                let only_this = Preconditions { uid: Some(victim.uid.to_string()), resource_version: None };
                let params = DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() };
                let done = match told {
                    Ok(_) => api.delete(&victim.name, &params).await.map(|_| ()),
                    Err(error) => Err(error),
                };
                if let Err(error) = done {
                    tracing::warn!(pod = &*victim.name, error = &error as &dyn std::error::Error, "a pod could not be preempted");
                }
            });
        }
    }

    fn unschedulable(&mut self, pod: &Arc<PodInfo>, shown: &Shown, obstacles: u16, reason: &str, message: String) {
        self.queue.failed(&pod.uid, obstacles, Instant::now());
        self.recorder.event(&pod.reference(), Severity::Warning, "FailedScheduling", message.clone());
        if shown.reason == reason && shown.message == message {
            return;
        }
        let mut condition =
            serde_json::json!({"type": "PodScheduled", "status": "False", "reason": reason, "message": message});
        // Only a change of `status` is a transition.
        if shown.reason.is_empty() {
            condition["lastTransitionTime"] =
                serde_json::json!(Timestamp::now().round(jiff::Unit::Second).unwrap_or_default());
        }
        let change = serde_json::json!({"metadata": {"uid": &*pod.uid}, "status": {"conditions": [condition]}});
        self.patch_status(pod, change);
    }

    fn patch_status(&mut self, pod: &Arc<PodInfo>, change: serde_json::Value) {
        let api = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace);
        let name = pod.name.clone();
        self.writes.spawn(async move {
            match api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(change)).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
                Err(error) => tracing::warn!(
                    pod = &*name,
                    error = &error as &dyn std::error::Error,
                    "a pod's status could not be written"
                ),
            }
        });
    }
}
