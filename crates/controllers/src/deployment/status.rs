//! The status of a Deployment: counts, and conditions Available, Progressing and ReplicaFailure in upstream's words.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::plan::max_unavailable;
use crate::replica_set::seconds;

/// The condition of that type.
pub fn condition<'s>(status: &'s DeploymentStatus, kind: &str) -> Option<&'s DeploymentCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

fn new_condition(kind: &str, status: &str, reason: &str, message: String, now: Timestamp) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(Time(seconds(now))),
        last_transition_time: Some(Time(seconds(now))),
    }
}

fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = status.conditions.as_mut() {
        conditions.retain(|condition| condition.type_ != kind);
    }
}

/// Sets a condition; one that says the same already stays as it is.
fn set(status: &mut DeploymentStatus, mut new: DeploymentCondition) {
    if let Some(old) = condition(status, &new.type_) {
        if old.status == new.status && old.reason == new.reason {
            return;
        }
        if old.status == new.status {
            new.last_transition_time = old.last_transition_time.clone();
        }
    }
    remove(status, &new.type_);
    status.conditions.get_or_insert_default().push(new);
}

fn set_progressing(status: &mut DeploymentStatus, state: &str, reason: &str, message: String, now: Timestamp) {
    set(status, new_condition("Progressing", state, reason, message, now));
}

/// The deadline for progress; upstream takes the greatest number for none.
pub fn deadline(deployment: &Deployment) -> Option<i32> {
    deployment.spec.as_ref()?.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)
}

fn sum(
    sets: &[&Arc<ReplicaSet>],
    number: impl Fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> Option<i32>,
) -> i32 {
    sets.iter().filter_map(|set| number(set.status.as_ref()?)).sum()
}

/// How many pods are ending; nothing while a set has not said how many of its own. One that nobody has looked at has none.
fn terminating(sets: &[&Arc<ReplicaSet>]) -> Option<i32> {
    let seen = |set: &&&Arc<ReplicaSet>| {
        set.status
            .as_ref()
            .is_some_and(|status| status.observed_generation.unwrap_or(0) != 0 || status.terminating_replicas.is_some())
    };
    let mut numbers = sets.iter().filter(seen).map(|set| set.status.as_ref()?.terminating_replicas);
    numbers.try_fold(0_i32, |sum, number| Some(sum.saturating_add(number?)))
}

fn counted(number: i32) -> Option<i32> {
    (number != 0).then_some(number)
}

/// Counts and the Available condition; all other conditions are kept.
pub fn calculate(
    deployment: &Deployment,
    all: &[&Arc<ReplicaSet>],
    new: Option<&Arc<ReplicaSet>>,
    wanted: i32,
    now: Timestamp,
) -> DeploymentStatus {
    let old = deployment.status.clone().unwrap_or_default();
    let available = sum(all, |status| status.available_replicas);
    let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: counted(sum(all, |status| Some(status.replicas))),
        updated_replicas: counted(new.map_or(0, |new| sum(&[new], |status| Some(status.replicas)))),
        ready_replicas: counted(sum(all, |status| status.ready_replicas)),
        available_replicas: counted(available),
        unavailable_replicas: counted((wanted - available).max(0)),
        terminating_replicas: terminating(all),
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    let (state, reason, message) = if available >= replicas - max_unavailable(deployment) {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set(&mut status, new_condition("Available", state, reason, message.to_owned(), now));
    status
}

/// Whether all replicas are new and available, and no old ones are left.
pub fn complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && status.observed_generation >= deployment.metadata.generation
}

/// Conditions Progressing and ReplicaFailure of a rollout that goes on.
pub fn progress(
    deployment: &Deployment,
    status: &mut DeploymentStatus,
    all: &[&Arc<ReplicaSet>],
    new: Option<&Arc<ReplicaSet>>,
    now: Timestamp,
) {
    let old = deployment.status.clone().unwrap_or_default();
    let subject = match new.and_then(|new| new.metadata.name.as_deref()) {
        Some(name) => format!("ReplicaSet {name:?}"),
        None => format!("Deployment {:?}", deployment.metadata.name.as_deref().unwrap_or_default()),
    };
    let current = condition(status, "Progressing").cloned();
    let reason_is = |reason: &str| current.as_ref().is_some_and(|current| current.reason.as_deref() == Some(reason));
    let stays_complete = status.replicas == status.updated_replicas && reason_is("NewReplicaSetAvailable");
    match deadline(deployment) {
        None => remove(status, "Progressing"),
        Some(_) if stays_complete => {}
        Some(deadline) => {
            let number = |count: Option<i32>| count.unwrap_or(0);
            let older = |status: &DeploymentStatus| number(status.replicas) - number(status.updated_replicas);
            let progressing = number(status.updated_replicas) > number(old.updated_replicas)
                || older(status) < older(&old)
                || number(status.ready_replicas) > number(old.ready_replicas)
                || number(status.available_replicas) > number(old.available_replicas);
            if complete(deployment, status) {
                set_progressing(
                    status,
                    "True",
                    "NewReplicaSetAvailable",
                    format!("{subject} has successfully progressed."),
                    now,
                );
            } else if progressing {
                let mut fresh = new_condition(
                    "Progressing",
                    "True",
                    "ReplicaSetUpdated",
                    format!("{subject} is progressing."),
                    now,
                );
                if let Some(current) = current.as_ref().filter(|current| current.status == "True") {
                    fresh.last_transition_time = current.last_transition_time.clone();
                }
                remove(status, "Progressing");
                set(status, fresh);
            } else if timed_out(current.as_ref(), deadline, now) {
                set_progressing(
                    status,
                    "False",
                    "ProgressDeadlineExceeded",
                    format!("{subject} has timed out progressing."),
                    now,
                );
            }
        }
    }
    let failures = |set: &&Arc<ReplicaSet>| {
        set.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "ReplicaFailure").cloned()
    };
    match new.and_then(|new| failures(&new)).or_else(|| all.iter().find_map(failures)) {
        None => remove(status, "ReplicaFailure"),
        Some(failure) => set(
            status,
            DeploymentCondition {
                type_: "ReplicaFailure".to_owned(),
                status: failure.status,
                reason: failure.reason,
                message: failure.message,
                last_update_time: failure.last_transition_time.clone(),
                last_transition_time: failure.last_transition_time,
            },
        ),
    }
}

/// When the deadline passes, counted from the last sign of progress.
pub fn deadline_at(progressing: Option<&DeploymentCondition>, deadline: i32) -> Option<Timestamp> {
    let from = progressing.filter(|condition| condition.status != "False")?.last_update_time.as_ref()?.0;
    from.checked_add(SignedDuration::from_secs(i64::from(deadline))).ok()
}

fn timed_out(progressing: Option<&DeploymentCondition>, deadline: i32, now: Timestamp) -> bool {
    match progressing.and_then(|condition| condition.reason.as_deref()) {
        Some("NewReplicaSetAvailable") | None => false,
        Some("ProgressDeadlineExceeded") => true,
        Some(_) => deadline_at(progressing, deadline).is_some_and(|at| at < now),
    }
}

/// Says that a pause began or ended, once.
pub fn pause(deployment: &Deployment, status: &mut DeploymentStatus, paused: bool, now: Timestamp) {
    if deadline(deployment).is_none() {
        return;
    }
    let shown = condition(status, "Progressing").and_then(|condition| condition.reason.as_deref());
    match (paused, shown) {
        (_, Some("ProgressDeadlineExceeded")) => {}
        (true, Some("DeploymentPaused")) => {}
        (true, _) => set_progressing(status, "Unknown", "DeploymentPaused", "Deployment is paused".to_owned(), now),
        (false, Some("DeploymentPaused")) => {
            set_progressing(status, "Unknown", "DeploymentResumed", "Deployment is resumed".to_owned(), now);
        }
        (false, _) => {}
    }
}

/// Says that a new ReplicaSet was made or found.
pub fn new_set(deployment: &Deployment, status: &mut DeploymentStatus, name: &str, created: bool, now: Timestamp) {
    if deadline(deployment).is_none() {
        return;
    }
    if created {
        set_progressing(status, "True", "NewReplicaSetCreated", format!("Created new replica set {name:?}"), now);
    } else if condition(status, "Progressing").is_none() {
        set_progressing(status, "True", "FoundNewReplicaSet", format!("Found new replica set {name:?}"), now);
    }
}

/// The status after the new ReplicaSet was refused.
pub fn create_failed(
    deployment: &Deployment,
    mut status: DeploymentStatus,
    message: &str,
    now: Timestamp,
) -> DeploymentStatus {
    if deadline(deployment).is_some() {
        // The plan took success for granted; what was shown before decides about the transition.
        status.conditions = deployment.status.as_ref().and_then(|status| status.conditions.clone());
        set_progressing(&mut status, "False", "ReplicaSetCreateError", message.to_owned(), now);
    }
    status
}

/// The status after the name of the new ReplicaSet was found taken: the next name has another hash.
pub fn collided(mut status: DeploymentStatus) -> DeploymentStatus {
    status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
    status
}
