//! What a StatefulSet needs next, as a pure function of it and its pods.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};

use super::identity::{ordinal, pod_name};
use crate::pod::{Phase, Pod};
use crate::replica_set::{count, next_change};
use crate::revisions::REVISION_LABEL;
use crate::share::resolve;

/// Which template a new pod gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Template {
    /// That of `status.currentRevision`.
    Current,
    /// That of `status.updateRevision`.
    Update,
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Makes a pod and its claims.
    Create {
        /// Its number.
        ordinal: i32,
        /// What it is made of.
        template: Template,
    },
    /// Makes claims of a pod that waits for them.
    Claims {
        /// Its number.
        ordinal: i32,
    },
    /// Deletes a pod.
    Delete {
        /// The pod.
        pod: Arc<Pod>,
        /// Why, when it is worth an event of its own: reason and message.
        said: Option<(&'static str, String)>,
    },
}

/// All that is to be done now.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Writes, in order.
    pub actions: Vec<Action>,
    /// The status it is to have before the writes.
    pub status: StatefulSetStatus,
    /// When a pod becomes available.
    pub revisit: Option<Duration>,
}

/// The names of the two revisions that matter.
#[derive(Clone, Copy, Debug)]
pub struct Revisions<'r> {
    /// That of the pods below the partition.
    pub current: &'r str,
    /// That of the present template.
    pub update: &'r str,
}

/// The number of the first pod.
pub fn start(spec: &StatefulSetSpec) -> i32 {
    spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0)
}

/// The numbers of the pods that are wanted. The last number there is ends them, however many more are asked for.
fn ordinals(spec: &StatefulSetSpec) -> RangeInclusive<i32> {
    let first = start(spec);
    match spec.replicas.unwrap_or(1) {
        // A range from a number to the one before it is empty.
        ..=0 => RangeInclusive::new(1, 0),
        wanted => first..=first.saturating_add(wanted - 1),
    }
}

/// Whether a number is one of the first `count` of the set.
fn below(ordinal: i32, spec: &StatefulSetSpec, count: i32) -> bool {
    i64::from(ordinal) < i64::from(start(spec)) + i64::from(count)
}

fn rolls(spec: &StatefulSetSpec) -> bool {
    spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete")
}

fn partition(spec: &StatefulSetSpec) -> Option<i32> {
    spec.update_strategy.as_ref()?.rolling_update.as_ref()?.partition
}

fn max_unavailable(spec: &StatefulSetSpec) -> i32 {
    let rolling = spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    let wanted = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
    wanted.map_or(1, |wanted| resolve(Some(wanted), spec.replicas.unwrap_or(1), true).max(1))
}

/// The revision of a pod.
pub fn revision_of(pod: &Pod) -> &str {
    pod.labels.get(REVISION_LABEL).unwrap_or_default()
}

struct View<'v> {
    name: &'v str,
    spec: &'v StatefulSetSpec,
    revisions: Revisions<'v>,
    now: Timestamp,
}

impl View<'_> {
    fn healthy(&self, pod: &Pod) -> bool {
        pod.phase == Phase::Running
            && pod.deletion.is_none()
            && pod.available(self.spec.min_ready_seconds.unwrap_or(0), self.now)
    }

    /// The template of a pod that is missing. `current` pods are of the current revision.
    fn template(&self, ordinal: i32, current: i32) -> Template {
        if !rolls(self.spec) {
            // The user replaces pods by deleting them: what is new is of the new template.
            return Template::Update;
        }
        let kept = partition(self.spec).unwrap_or(current);
        if below(ordinal, self.spec, kept) { Template::Current } else { Template::Update }
    }
}

/// Compares wanted and present pods.
pub fn plan(set: &StatefulSet, pods: &[Arc<Pod>], revisions: Revisions<'_>, collisions: i32, now: Timestamp) -> Plan {
    let spec = set.spec.clone().unwrap_or_default();
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let view = View { name, spec: &spec, revisions, now };
    let old_current = set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0);
    let mut slots: BTreeMap<i32, Option<&Arc<Pod>>> = ordinals(&spec).map(|ordinal| (ordinal, None)).collect();
    let mut condemned: BTreeMap<i32, &Arc<Pod>> = BTreeMap::new();
    for pod in pods {
        let Some(ordinal) = ordinal(name, pod.name()) else { continue };
        match slots.get_mut(&ordinal) {
            Some(slot) => *slot = Some(pod),
            None => drop(condemned.insert(ordinal, pod)),
        }
    }
    let status = status(set, pods, &view, collisions);
    let mut revisit = next_change(pods, spec.min_ready_seconds.unwrap_or(0), now);
    if set.metadata.deletion_timestamp.is_some() {
        return Plan { actions: Vec::new(), status, revisit: None };
    }
    let in_order = spec.pod_management_policy.as_deref() != Some("Parallel");
    let mut actions = Vec::new();
    let settled = fill(&view, &slots, old_current, in_order, &mut actions)
        && shrink(&view, &slots, &condemned, in_order, &mut actions);
    if settled && rolls(&spec) {
        roll(&view, &slots, &mut actions);
    }
    if !actions.is_empty() {
        revisit = None;
    }
    Plan { actions, status, revisit }
}

/// Makes what is missing. Whether the rest may go on.
fn fill(
    view: &View<'_>,
    slots: &BTreeMap<i32, Option<&Arc<Pod>>>,
    current: i32,
    in_order: bool,
    actions: &mut Vec<Action>,
) -> bool {
    let mut waits = false;
    for (ordinal, slot) in slots {
        let Some(pod) = slot else {
            actions.push(Action::Create { ordinal: *ordinal, template: view.template(*ordinal, current) });
            waits = true;
            if in_order {
                return false;
            }
            continue;
        };
        if pod.ended() {
            // The new one is made when the old one has gone.
            if pod.deletion.is_none() {
                let (reason, what) = match pod.phase {
                    Phase::Failed => ("RecreatingFailedPod", "failed"),
                    _ => ("RecreatingTerminatedPod", "terminated"),
                };
                let message =
                    format!("StatefulSet {}/{} is recreating {what} Pod {}", pod.namespace(), view.name, pod.name());
                actions.push(Action::Delete { pod: (*pod).clone(), said: Some((reason, message)) });
            }
            return false;
        }
        if pod.phase == Phase::Pending && pod.deletion.is_none() {
            actions.push(Action::Claims { ordinal: *ordinal });
        }
        if in_order && !view.healthy(pod) {
            return false;
        }
    }
    !waits
}

/// Takes away what is too much, the highest first. Whether the rest may go on.
fn shrink(
    view: &View<'_>,
    slots: &BTreeMap<i32, Option<&Arc<Pod>>>,
    condemned: &BTreeMap<i32, &Arc<Pod>>,
    in_order: bool,
    actions: &mut Vec<Action>,
) -> bool {
    let kept = slots.iter().filter_map(|(ordinal, slot)| slot.map(|pod| (*ordinal, pod)));
    let gone = condemned.iter().map(|(ordinal, pod)| (*ordinal, *pod));
    // The lowest pod that is not well may go although its elders wait.
    let first_unhealthy = kept.chain(gone).find(|(_, pod)| !view.healthy(pod)).map(|(ordinal, _)| ordinal);
    for (ordinal, pod) in condemned.iter().rev() {
        if pod.deletion.is_some() {
            if in_order {
                return false;
            }
            continue;
        }
        if in_order && !view.healthy(pod) && first_unhealthy != Some(*ordinal) {
            return false;
        }
        actions.push(Action::Delete { pod: (*pod).clone(), said: None });
        if in_order {
            return false;
        }
    }
    true
}

/// Replaces pods of older revisions, the highest first, while no more are missing than may be, whichever they are. One that does
/// not serve anyway costs nothing, so that an update which went wrong can be followed by a better one. (Upstream counts these,
/// too, and waits until somebody deletes them.)
fn roll(view: &View<'_>, slots: &BTreeMap<i32, Option<&Arc<Pod>>>, actions: &mut Vec<Action>) {
    let kept = partition(view.spec).unwrap_or(0);
    let most = max_unavailable(view.spec);
    let pods = slots.values().filter_map(|slot| *slot);
    let missing = pods.filter(|pod| !view.healthy(pod)).count();
    let mut spare = most.saturating_sub(i32::try_from(missing).unwrap_or(i32::MAX));
    let mut left = most;
    let rolled = slots.iter().rev().take_while(|(ordinal, _)| !below(**ordinal, view.spec, kept));
    for pod in rolled.filter_map(|(_, slot)| *slot) {
        if revision_of(pod) == view.revisions.update || pod.deletion.is_some() {
            continue;
        }
        let serves = pod.ready.is_some();
        if left <= 0 || (serves && spare <= 0) {
            return;
        }
        actions.push(Action::Delete { pod: pod.clone(), said: None });
        left -= 1;
        spare -= i32::from(serves);
    }
}

fn status(set: &StatefulSet, pods: &[Arc<Pod>], view: &View<'_>, collisions: i32) -> StatefulSetStatus {
    let Revisions { current, update } = view.revisions;
    let number = |wanted: &dyn Fn(&Pod) -> bool| pods.iter().filter(|pod| wanted(pod)).count();
    let min_ready = view.spec.min_ready_seconds.unwrap_or(0);
    let running = |pod: &Pod| pod.phase == Phase::Running && pod.ready.is_some();
    let of = |revision: &str| number(&|pod| pod.deletion.is_none() && revision_of(pod) == revision);
    let old = set.status.clone().unwrap_or_default();
    let mut status = StatefulSetStatus {
        replicas: i32::try_from(pods.len()).unwrap_or(i32::MAX),
        ready_replicas: count(number(&running)),
        available_replicas: Some(count(number(&|pod| running(pod) && pod.available(min_ready, view.now))).unwrap_or(0)),
        current_replicas: count(of(current)),
        updated_replicas: count(of(update)),
        current_revision: Some(current.to_owned()),
        update_revision: Some(update.to_owned()),
        observed_generation: set.metadata.generation,
        collision_count: Some(collisions),
        conditions: old.conditions,
    };
    let wanted = view.spec.replicas.unwrap_or(1);
    let complete = rolls(view.spec)
        && status.replicas == wanted
        && status.updated_replicas.unwrap_or(0) == wanted
        && status.ready_replicas.unwrap_or(0) == wanted;
    if complete {
        status.current_revision.clone_from(&status.update_revision);
        status.current_replicas = status.updated_replicas;
    }
    status
}

/// The names that the pods of the set are to have.
pub fn wanted_names(set: &StatefulSet) -> impl Iterator<Item = (i32, String)> {
    let spec = set.spec.clone().unwrap_or_default();
    let name = set.metadata.name.clone().unwrap_or_default();
    ordinals(&spec).map(move |ordinal| (ordinal, pod_name(&name, ordinal)))
}
