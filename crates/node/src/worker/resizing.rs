//! A pod's resources: taken in when the pod is new, granted anew when it asks for others, and brought into force.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use kobune_runtime::{ContainerStatus, Resize};
use serde_json::json;
use tokio::time::Instant;

use super::{Progress, Retry, Worker};
use crate::admission;
use crate::allocation::{self, Allocation, Book, Record, changed};
use crate::app_armor;
use crate::errors::chain;
use crate::events::Severity;
use crate::ledger::{Answer, Claim, Rank, Rejection};
use crate::pod;
use crate::resize::{self, Plan};
use crate::resources::{QosClass, qos_class, requests};
use crate::status::ResizeState;

/// So long a status waits for new limits to be in force, which takes a millisecond or two.
const SETTLES_WITHIN: Duration = Duration::from_millis(100);

/// How a resize stands.
#[derive(Default)]
pub struct Resizing {
    /// Writing limits.
    pub retry: Retry,
    /// Why it is not granted, and since when.
    pending: Option<(&'static str, String, Timestamp)>,
    /// When the grant was given that is not in force yet, and for which generation.
    begun: Option<(Instant, Option<i64>)>,
    /// What went wrong.
    error: Option<String>,
}

impl Resizing {
    /// Until when a status is better not written.
    pub fn settles_by(&self) -> Option<Instant> {
        let (begun, _) = self.begun.filter(|_| self.retry.busy && self.error.is_none())?;
        Some(begun + SETTLES_WITHIN).filter(|until| *until > Instant::now())
    }

    /// For the status.
    pub fn state(&self) -> ResizeState<'_> {
        ResizeState {
            pending: self.pending.as_ref().map(|(reason, message, _)| (*reason, message.as_str())),
            in_progress: self.begun.map(|(_, generation)| (generation, self.error.as_deref())),
        }
    }
}

/// What a pod takes of the node.
fn claim(owner: &Pod) -> Claim {
    let spec = pod::spec(owner);
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ports = containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
        let number = u16::try_from(port.host_port?).ok().filter(|number| *number != 0)?;
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        Some((port.host_ip.clone().unwrap_or_default(), protocol, number))
    });
    Claim { totals: requests(owner), ports: ports.collect() }
}

impl Worker {
    /// Takes the pod in: with what it was granted before, or as one that is new here.
    pub(super) fn enter(&mut self) {
        let uid = pod::uid(&self.pod).to_owned();
        let wanted = Allocation::of(pod::spec(&self.pod));
        let known = allocation::read(&self.context.pod_dir(&uid)).unwrap_or_else(|error| {
            tracing::warn!(
                pod = pod::full_name(&self.pod),
                error = &error as &dyn std::error::Error,
                "what a pod was granted could not be read; it has what it asks for"
            );
            None
        });
        let is_new = known.is_none();
        self.book = Arc::new(Book::new(known.unwrap_or(Record { allocated: wanted, actuated: Allocation::default() })));
        self.take_grant();
        let runs = self.context.config.runtime.pod_sandboxes().iter().any(|sandbox| sandbox.config.uid == uid);
        if self.gone || pod::is_terminal(&self.pod) {
            return;
        }
        if !is_new || runs || self.pod.metadata.deletion_timestamp.is_some() {
            self.context.ledger.adopt(&uid, claim(&self.granted), &self.wake);
            if let Err(Rejection { message, .. }) = self.place(&uid, false) {
                // What runs goes on, on the CPUs that everybody shares; a container that starts again says what it lacks.
                tracing::warn!(
                    pod = pod::full_name(&self.pod),
                    message,
                    "a pod's devices, CPUs or memory were not found again"
                );
            }
        } else if let Err(rejection) = self.admit(&uid) {
            self.reject(rejection);
        } else {
            self.save_book();
        }
    }

    fn admit(&self, uid: &str) -> Result<(), Rejection> {
        admission::admit_under_pressure(&self.granted, &self.context.pressure.all())?;
        admission::admit(&self.granted, &self.context.machine)?;
        app_armor::admit(&self.granted, app_armor::Host::look)?;
        self.context.ledger.admit(uid, claim(&self.granted), &self.wake)?;
        self.place(uid, true).inspect_err(|_| self.context.ledger.release(uid))
    }

    /// Gives the containers what they have for themselves.
    fn place(&self, uid: &str, is_new: bool) -> Result<(), Rejection> {
        let context = &self.context;
        context.placement.enter(&self.granted, &context.pod_dir(uid), &context.devices, is_new)
    }

    fn reject(&mut self, Rejection { reason, message }: Rejection) {
        self.context.events.pod(&self.pod, Severity::Warning, &reason, message.clone());
        self.verdict = Some((reason, format!("Pod was rejected: {message}")));
        self.rejected = true;
    }

    /// The pod uses nothing of the node any more, or will not for long.
    pub(super) fn leave(&self) {
        self.context.ledger.release(pod::uid(&self.pod));
        self.context.devices.leave(pod::uid(&self.pod));
        self.context.placement.leave(pod::uid(&self.pod));
    }

    /// Looks at the pod with the eyes of what it was granted.
    pub(super) fn take_grant(&mut self) {
        let record = self.book.record();
        self.granted = if record.allocated == Allocation::of(pod::spec(&self.pod)) {
            Arc::clone(&self.pod)
        } else {
            Arc::new(record.allocated.overlay(&self.pod))
        };
        self.members = pod::members(pod::spec(&self.granted));
    }

    fn save_book(&mut self) {
        let (book, pod_dir) = (Arc::clone(&self.book), self.context.pod_dir(pod::uid(&self.pod)));
        let name = pod::full_name(&self.pod);
        self.operations.spawn(async move {
            if let Err(error) = book.save(&pod_dir).await {
                tracing::warn!(pod = name, error = &error as &dyn std::error::Error, "a pod's grant was not saved");
            }
        });
    }

    /// A container runs with what it was granted when it was started.
    pub(super) fn started_with(&mut self, name: String, resources: ResourceRequirements) {
        let known = self.book.record().actuated.containers.get(&name) == Some(&resources);
        if !known {
            self.book.change(|record| drop(record.actuated.containers.insert(name, resources)));
            self.save_book();
        }
    }

    /// Asks for what the pod asks for, and brings into force what it was granted.
    pub(super) fn drive_resize(&mut self, containers: &[ContainerStatus], now: Timestamp) {
        self.ask_for_grant(now);
        let plan = self.plan_resize(containers);
        // A container that grows starts in a group that is wide enough already.
        for (name, track) in &mut self.tracks {
            track.outgrown = plan.pod.is_none() && plan.restart.contains(name);
        }
        if plan.is_done() {
            self.resize_done();
            return;
        }
        if self.resizing.begun.is_none() {
            self.resizing.begun = Some((Instant::now(), self.pod.metadata.generation));
        }
        if plan.update.is_empty() && plan.pod.is_none() {
            return;
        }
        if self.resizing.retry.may_start() {
            self.spawn_resize(plan);
        } else if let Some(at) = self.resizing.retry.not_before.filter(|_| !self.resizing.retry.busy) {
            self.wake_at(at);
        }
    }

    fn ask_for_grant(&mut self, now: Timestamp) {
        let wanted = Allocation::of(pod::spec(&self.pod));
        if self.book.record().allocated == wanted {
            self.resizing.pending = None;
            return;
        }
        let since = self.resizing.pending.as_ref().map_or(now, |(_, _, since)| *since);
        if let Some(message) = self.not_resizable(&wanted) {
            self.not_granted("Infeasible", message, since);
            return;
        }
        let rank = Rank::new(pod::spec(&self.pod).priority.unwrap_or(0), qos_class(&self.pod), since);
        match self.context.ledger.resize(pod::uid(&self.pod), requests(&self.pod), rank) {
            Answer::Granted => {
                self.book.change(|record| record.allocated = wanted);
                self.take_grant();
                self.resizing.pending = None;
                self.resizing.error = None;
                self.resizing.retry.not_before = None;
                self.resizing.begun = Some((Instant::now(), self.pod.metadata.generation));
                self.resize_event(Severity::Normal, "ResizeStarted", "started");
            }
            Answer::Deferred(message) => self.not_granted("Deferred", message, since),
            Answer::Infeasible(message) => self.not_granted("Infeasible", message, since),
        }
    }

    /// Why the node never grants this, whatever room there is: what a pod has for itself does not change.
    ///
    /// Source: `canResizePod` in `pkg/kubelet/allocation/allocation_manager.go`.
    fn not_resizable(&self, wanted: &Allocation) -> Option<String> {
        let allocated = self.book.record().allocated;
        let changes = |resource: &str| {
            let mut changed = wanted.containers.iter().filter_map(|(name, resources)| {
                allocated.containers.get(name).map(|before| changed(before, resources).contains(&resource))
            });
            changed.any(|changed| changed)
        };
        let placement = &self.context.placement;
        if qos_class(&self.pod) != QosClass::Guaranteed {
            return None;
        }
        let policy = match () {
            () if placement.pins_cpus() && changes("cpu") => "CPU Manager policy \"static\"",
            () if placement.pins_memory() && changes("memory") => "Memory Manager policy \"Static\"",
            () => return None,
        };
        Some(format!("Resize is infeasible for Guaranteed Pods alongside {policy}"))
    }

    fn not_granted(&mut self, reason: &'static str, message: String, since: Timestamp) {
        let known = self.resizing.pending.as_ref().is_some_and(|(known, text, _)| *known == reason && *text == message);
        if !known {
            let text = format!("Pod resize {reason}: {message}");
            self.context.events.pod(&self.pod, Severity::Warning, &format!("Resize{reason}"), text);
        }
        self.resizing.pending = Some((reason, message, since));
    }

    /// Upstream's text: what became of it, and the grant as JSON.
    fn resize_event(&self, severity: Severity, reason: &str, what: &str) {
        let allocated = self.book.record().allocated;
        let containers: Vec<_> = allocated
            .containers
            .iter()
            .map(|(name, resources)| json!({"name": name, "resources": resources}))
            .collect();
        let grant = json!({"containers": containers, "generation": self.pod.metadata.generation});
        self.context.events.pod(&self.pod, severity, reason, format!("Pod resize {what}: {grant}"));
    }

    fn plan_resize(&self, containers: &[ContainerStatus]) -> Plan {
        let in_force = self
            .sandbox
            .as_ref()
            .and_then(|id| self.context.config.runtime.pod_sandbox(id))
            .map(|sandbox| sandbox.config.resources);
        resize::plan(&resize::View {
            pod: &self.granted,
            members: &self.members,
            containers,
            tracks: &self.tracks,
            actuated: &self.book.record().actuated,
            in_force: in_force.as_ref(),
            memory_capacity: self.context.machine.memory,
        })
    }

    fn spawn_resize(&mut self, plan: Plan) {
        let Some(sandbox) = self.sandbox.clone() else { return };
        self.resizing.retry.begin();
        let (runtime, book) = (Arc::clone(&self.context.config.runtime), Arc::clone(&self.book));
        let pod_dir = self.context.pod_dir(pod::uid(&self.pod));
        let granted = book.record().allocated;
        let name = pod::full_name(&self.pod);
        self.spawn(async move {
            let names: Vec<String> = plan.update.iter().map(|(_, name, _)| name.clone()).collect();
            let containers = plan.update.into_iter().map(|(id, _, limits)| (id, limits)).collect();
            let result = runtime.resize(&sandbox, Resize { pod: plan.pod, containers }).await;
            if result.is_ok() {
                book.change(|record| {
                    record.actuated.pod.clone_from(&granted.pod);
                    for name in names {
                        if let Some(resources) = granted.containers.get(&name) {
                            record.actuated.containers.insert(name, resources.clone());
                        }
                    }
                });
            }
            // A kobune that ends here finds the limits in the groups' records and writes them once more.
            if let Err(error) = book.save(&pod_dir).await {
                tracing::warn!(pod = name, error = &error as &dyn std::error::Error, "a pod's grant was not saved");
            }
            Progress::Resized(result.map_err(|error| chain(&error)))
        });
    }

    pub(super) fn resized(&mut self, result: Result<(), String>) {
        self.resizing.retry.end(result.is_ok());
        let Err(message) = result else {
            self.resizing.error = None;
            return;
        };
        if self.resizing.error.as_ref() != Some(&message) {
            let text = format!("Pod resize error: {message}");
            self.context.events.pod(&self.pod, Severity::Warning, "ResizeError", text);
        }
        self.resizing.error = Some(message);
    }

    fn resize_done(&mut self) {
        if self.resizing.begun.take().is_some() {
            self.resizing.error = None;
            self.resize_event(Severity::Normal, "ResizeCompleted", "completed");
        }
    }
}
