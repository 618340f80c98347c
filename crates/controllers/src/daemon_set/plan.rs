//! What a DaemonSet needs next, as a pure function of it, the nodes and its pods.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, PodSpec};
use kobune_scheduler::node_match::{node_selected, untolerated};

use super::template::tolerations;
use crate::pod::{Phase, Pod};
use crate::replica_set::count;
use crate::revisions::REVISION_LABEL;
use crate::share::resolve;

/// Whether pods of a set belong on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// A new pod may start there.
    pub starts: bool,
    /// A pod that is there may stay.
    pub stays: bool,
}

/// All that is to be done now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Nodes that get a pod.
    pub create: Vec<String>,
    /// Pods that go.
    pub delete: Vec<Arc<Pod>>,
    /// Pods that have ended and go after a pause.
    pub ended: Vec<Arc<Pod>>,
    /// The status it is to have.
    pub status: DaemonSetStatus,
}

/// Whether pods of a set belong on a node.
pub fn placement(spec: &PodSpec, node: &Node) -> Placement {
    let nowhere = Placement { starts: false, stays: false };
    let name = node.metadata.name.as_deref().unwrap_or_default();
    if spec.node_name.as_deref().is_some_and(|wanted| !wanted.is_empty() && wanted != name) {
        return nowhere;
    }
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    if !node_selected(spec.node_selector.as_ref(), affinity, name, &labels) {
        return nowhere;
    }
    let mut taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    taints.retain(|taint| taint.effect != "PreferNoSchedule");
    let tolerated = tolerations(spec);
    Placement {
        starts: untolerated(&taints, &tolerated, &["NoSchedule", "NoExecute"]).is_none(),
        stays: untolerated(&taints, &tolerated, &["NoExecute"]).is_none(),
    }
}

/// The pods of one node.
struct Place<'p> {
    name: &'p str,
    placement: Placement,
    /// Oldest first, without those that have ended.
    pods: Vec<&'p Arc<Pod>>,
}

struct View<'v> {
    spec: &'v DaemonSetSpec,
    hash: &'v str,
    now: Timestamp,
}

impl View<'_> {
    fn available(&self, pod: &Pod) -> bool {
        pod.deletion.is_none() && pod.available(self.spec.min_ready_seconds.unwrap_or(0), self.now)
    }

    fn updated(&self, pod: &Pod) -> bool {
        pod.labels.get(REVISION_LABEL) == Some(self.hash)
    }

    fn rolls(&self) -> bool {
        self.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete")
    }

    /// maxSurge and maxUnavailable for this many nodes; both 0 would stand still, so the latter is 1 then.
    fn fenceposts(&self, desired: usize) -> (usize, usize) {
        let rolling = self.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        let desired = i32::try_from(desired).unwrap_or(i32::MAX);
        let of = |value: Option<&_>, default: i32| value.map_or(default, |value| resolve(Some(value), desired, true));
        let surge = of(rolling.and_then(|rolling| rolling.max_surge.as_ref()), 0);
        let unavailable = of(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), 1);
        let number = |value: i32| usize::try_from(value).unwrap_or(0);
        if surge <= 0 && unavailable <= 0 { (0, 1) } else { (number(surge), number(unavailable)) }
    }
}

/// Compares wanted and present pods.
pub fn plan(set: &DaemonSet, hash: &str, nodes: &[Arc<Node>], pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let spec = set.spec.clone().unwrap_or_default();
    let view = View { spec: &spec, hash, now };
    let template = spec.template.spec.clone().unwrap_or_default();
    let mut by_node: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in pods {
        // One without a node is on its way to the one that its affinity names.
        if let Some(node) = pod.node.as_deref().or(pod.target.as_deref()) {
            by_node.entry(node).or_default().push(pod);
        }
    }
    let mut plan = Plan::default();
    let mut places = Vec::new();
    for node in nodes {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let mut here = by_node.remove(name).unwrap_or_default();
        here.sort_by(|one, other| (one.created, one.name()).cmp(&(other.created, other.name())));
        places.push(Place { name, placement: placement(&template, node), pods: here });
    }
    plan.status = status(set, &view, &places);
    if set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let desired = places.iter().filter(|place| place.placement.starts).count();
    let (surge, unavailable) = view.fenceposts(desired);
    let surge = if view.rolls() { surge } else { 0 };
    for place in &mut places {
        manage(&view, place, surge, &mut plan);
    }
    // Pods of nodes that are gone are the pod garbage collector's.
    if view.rolls() {
        if surge == 0 {
            roll(&view, &places, unavailable, &mut plan)
        } else {
            roll_over(&view, &places, surge, &mut plan)
        }
    }
    plan
}

/// Brings one node to one pod, or to an old and a new one while the new one gets ready.
fn manage(view: &View<'_>, place: &mut Place<'_>, surge: usize, plan: &mut Plan) {
    let Placement { starts, stays } = place.placement;
    if !stays {
        plan.delete.extend(place.pods.iter().filter(|pod| pod.deletion.is_none()).map(|pod| (*pod).clone()));
        place.pods.clear();
        return;
    }
    let (ended, alive): (Vec<_>, Vec<_>) = place.pods.iter().copied().partition(|pod| pod.ended());
    plan.ended.extend(ended.iter().filter(|pod| pod.deletion.is_none()).map(|pod| (*pod).clone()));
    place.pods = alive;
    if place.pods.is_empty() {
        // One that has ended is replaced when it has gone.
        if starts && ended.is_empty() {
            plan.create.push(place.name.to_owned());
        }
        return;
    }
    let staying: Vec<&Arc<Pod>> = place.pods.iter().copied().filter(|pod| pod.deletion.is_none()).collect();
    let mut surplus: Vec<&Arc<Pod>> = Vec::new();
    if surge == 0 {
        surplus.extend(staying.iter().skip(1));
    } else {
        let (new, old): (Vec<_>, Vec<_>) = staying.iter().copied().partition(|pod| view.updated(pod));
        surplus.extend(new.iter().skip(1));
        let replaced = new.first().is_some_and(|pod| view.available(pod));
        surplus.extend(old.iter().skip(usize::from(!replaced)));
    }
    plan.delete.extend(surplus.iter().map(|pod| (*pod).clone()));
    place.pods.retain(|pod| !surplus.iter().any(|gone| gone.uid == pod.uid));
}

/// Deletes old pods while no more nodes are without a pod than may be.
fn roll(view: &View<'_>, places: &[Place<'_>], max_unavailable: usize, plan: &mut Plan) {
    let (mut unavailable, mut candidates) = (0, Vec::new());
    for place in places.iter().filter(|place| place.placement.starts) {
        let staying = place.pods.iter().find(|pod| pod.deletion.is_none());
        match staying {
            Some(pod) if view.updated(pod) => unavailable += usize::from(!view.available(pod)),
            // One that serves nobody costs nothing.
            Some(pod) if !view.available(pod) => {
                unavailable += 1;
                plan.delete.push((*pod).clone());
            }
            Some(pod) => candidates.push((*pod).clone()),
            None => unavailable += 1,
        }
    }
    plan.delete.extend(candidates.into_iter().take(max_unavailable.saturating_sub(unavailable)));
}

/// Starts new pods beside old ones; `manage` takes the old ones away when the new ones are available.
fn roll_over(view: &View<'_>, places: &[Place<'_>], max_surge: usize, plan: &mut Plan) {
    let (mut surging, mut candidates) = (0, Vec::new());
    for place in places.iter().filter(|place| place.placement.starts) {
        let staying: Vec<_> = place.pods.iter().filter(|pod| pod.deletion.is_none()).collect();
        let new = staying.iter().find(|pod| view.updated(pod));
        let old = staying.iter().find(|pod| !view.updated(pod));
        match (old, new) {
            (Some(_), Some(_)) => surging += 1,
            (Some(old), None) if !view.available(old) => {
                plan.delete.push((**old).clone());
                plan.create.push(place.name.to_owned());
            }
            (Some(_), None) => candidates.push(place.name.to_owned()),
            (None, _) => {}
        }
    }
    plan.create.extend(candidates.into_iter().take(max_surge.saturating_sub(surging)));
}

fn status(set: &DaemonSet, view: &View<'_>, places: &[Place<'_>]) -> DaemonSetStatus {
    let old = set.status.clone().unwrap_or_default();
    let (mut desired, mut current, mut astray, mut ready, mut available, mut updated) = (0, 0, 0, 0, 0, 0_usize);
    for place in places {
        if !place.placement.starts {
            astray += usize::from(!place.pods.is_empty());
            continue;
        }
        desired += 1;
        if place.pods.is_empty() {
            continue;
        }
        current += 1;
        let any = |wanted: &dyn Fn(&Pod) -> bool| usize::from(place.pods.iter().any(|pod| wanted(pod)));
        let serves = |pod: &Pod| pod.phase != Phase::Failed && pod.deletion.is_none() && pod.ready.is_some();
        ready += any(&serves);
        available += any(&|pod| serves(pod) && view.available(pod));
        updated += any(&|pod| pod.deletion.is_none() && view.updated(pod));
    }
    let number = |value: usize| i32::try_from(value).unwrap_or(i32::MAX);
    DaemonSetStatus {
        desired_number_scheduled: number(desired),
        current_number_scheduled: number(current),
        number_misscheduled: number(astray),
        number_ready: number(ready),
        number_available: count(available),
        number_unavailable: count(desired.saturating_sub(available)),
        updated_number_scheduled: count(updated),
        observed_generation: set.metadata.generation,
        collision_count: old.collision_count,
        conditions: old.conditions,
    }
}
