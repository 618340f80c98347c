//! What a Deployment needs next, as a pure function of it and its ReplicaSets.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};

use super::replica_sets::{
    DESIRED_REPLICAS, MAX_REPLICAS, REVISION, annotation, changed_annotations, new_replica_set, revision,
    same_template, size_annotations,
};
use super::status;
use crate::share::resolve;

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Makes the ReplicaSet of the present template.
    Create {
        /// Its first size.
        replicas: i32,
        /// The number of the rollout.
        revision: i64,
    },
    /// Changes a ReplicaSet.
    Change {
        /// Its name.
        name: String,
        /// The version that was decided on.
        version: Option<String>,
        /// Its size before and after.
        replicas: Option<(i32, i32)>,
        /// Annotations to set.
        annotations: BTreeMap<String, String>,
        /// New `minReadySeconds`.
        min_ready_seconds: Option<i32>,
    },
    /// Deletes an old ReplicaSet.
    Delete {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
}

/// All that is to be done now.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Writes to ReplicaSets, in order.
    pub actions: Vec<Action>,
    /// Annotations of the Deployment that change.
    pub annotations: Option<BTreeMap<String, String>>,
    /// The status it is to have.
    pub status: DeploymentStatus,
    /// When the progress deadline passes.
    pub revisit: Option<Duration>,
}

fn replicas_wanted(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// Whether the strategy is Recreate.
pub fn recreates(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

/// maxSurge and maxUnavailable as numbers; both 0 would stand still, so the latter is 1 then.
fn fenceposts(deployment: &Deployment) -> (i32, i32) {
    if recreates(deployment) {
        return (0, 0);
    }
    let rolling = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.strategy.as_ref())
        .and_then(|strategy| strategy.rolling_update.as_ref());
    let wanted = replicas_wanted(deployment);
    let surge = resolve(rolling.and_then(|rolling| rolling.max_surge.as_ref()), wanted, true);
    let unavailable = resolve(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), wanted, false);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// How many pods there may be beyond the wanted ones.
pub fn max_surge(deployment: &Deployment) -> i32 {
    fenceposts(deployment).0
}

/// How many of the wanted pods may be missing.
pub fn max_unavailable(deployment: &Deployment) -> i32 {
    let wanted = replicas_wanted(deployment);
    if wanted == 0 { 0 } else { fenceposts(deployment).1.min(wanted) }
}

fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

fn created(set: &ReplicaSet) -> (Option<Timestamp>, Option<&str>) {
    (set.metadata.creation_timestamp.as_ref().map(|time| time.0), set.metadata.name.as_deref())
}

struct Planner<'p> {
    deployment: &'p Deployment,
    wanted: i32,
    surge: i32,
    new: Option<&'p Arc<ReplicaSet>>,
    old: Vec<&'p Arc<ReplicaSet>>,
    actions: Vec<Action>,
    /// Sizes as they will be after the actions.
    sizes: BTreeMap<String, i32>,
    /// Size of a new set that is made by the actions.
    made: Option<i32>,
}

impl<'p> Planner<'p> {
    fn size(&self, set: &ReplicaSet) -> i32 {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        self.sizes.get(name).copied().unwrap_or_else(|| size(set))
    }

    fn all(&self) -> Vec<&'p Arc<ReplicaSet>> {
        self.old.iter().copied().chain(self.new).collect()
    }

    fn total(&self) -> i32 {
        self.all().into_iter().map(|set| self.size(set)).sum::<i32>() + self.made.unwrap_or(0)
    }

    /// Gives a set another size; the annotations about sizes follow. Says whether anything changes.
    fn scale(&mut self, set: &'p Arc<ReplicaSet>, to: i32) -> bool {
        let from = self.size(set);
        let name = set.metadata.name.clone().unwrap_or_default();
        let mut annotations = size_annotations(self.deployment);
        annotations.retain(|key, value| annotation(&set.metadata, key) != Some(value));
        if from == to && annotations.is_empty() {
            return false;
        }
        self.sizes.insert(name.clone(), to);
        let mut replicas = (from != to).then_some((from, to));
        let mut all_annotations = annotations;
        let mut seconds = None;
        // One write a set: a change planned before becomes part of this one.
        let planned = |action: &Action| matches!(action, Action::Change { name: other, .. } if *other == name);
        if let Some(at) = self.actions.iter().position(planned)
            && let Action::Change { replicas: earlier, annotations: mut merged, min_ready_seconds, .. } =
                self.actions.remove(at)
        {
            replicas = match (earlier, replicas) {
                (Some((first, _)), Some((_, last))) => Some((first, last)),
                (earlier, later) => later.or(earlier),
            };
            merged.append(&mut all_annotations);
            all_annotations = merged;
            seconds = min_ready_seconds;
        }
        let version = set.metadata.resource_version.clone();
        self.actions.push(Action::Change {
            name,
            version,
            replicas,
            annotations: all_annotations,
            min_ready_seconds: seconds,
        });
        from != to
    }

    /// The size the new set may have now.
    fn new_size(&self, current: i32) -> i32 {
        if recreates(self.deployment) {
            return self.wanted;
        }
        let most = self.wanted + self.surge;
        let total = self.total();
        if total >= most { current } else { current + (most - total).min(self.wanted - current) }
    }

    fn active(&self) -> Vec<&'p Arc<ReplicaSet>> {
        self.all().into_iter().filter(|set| self.size(set) > 0).collect()
    }

    /// Scaling while paused, or because `spec.replicas` changed.
    fn proportional(&mut self) {
        let active = self.active();
        let lone = match active.as_slice() {
            [] => self.new.or_else(|| self.old.iter().copied().max_by_key(|set| created(set))),
            [only] => Some(*only),
            _ => None,
        };
        if let Some(lone) = lone {
            self.scale(lone, self.wanted);
            return;
        }
        let saturated = self.new.is_some_and(|new| {
            self.size(new) == self.wanted
                && annotation(&new.metadata, DESIRED_REPLICAS) == Some(self.wanted.to_string().as_str())
                && available(new) == self.wanted
        });
        if saturated {
            for set in self.old.clone() {
                if self.size(set) > 0 {
                    self.scale(set, 0);
                }
            }
            return;
        }
        if recreates(self.deployment) {
            return;
        }
        let allowed = if self.wanted > 0 { self.wanted + self.surge } else { 0 };
        let to_add = allowed - active.iter().map(|set| self.size(set)).sum::<i32>();
        let mut sets = active;
        if to_add > 0 {
            sets.sort_by_key(|set| (Reverse(self.size(set)), Reverse(created(set))));
        } else {
            sets.sort_by_key(|set| (Reverse(self.size(set)), created(set)));
        }
        let mut added = 0;
        let mut sizes: Vec<i32> = Vec::new();
        for set in &sets {
            let share = if to_add == 0 || self.size(set) == 0 || to_add == added {
                0
            } else {
                let fraction = self.fraction(set);
                if to_add > 0 { fraction.min(to_add - added) } else { fraction.max(to_add - added) }
            };
            added += share;
            sizes.push(self.size(set) + share);
        }
        for (at, set) in sets.iter().enumerate() {
            let leftover = if at == 0 { to_add - added } else { 0 };
            self.scale(set, (sizes[at] + leftover).max(0));
        }
    }

    fn fraction(&self, set: &ReplicaSet) -> i32 {
        let current = self.size(set);
        if self.wanted == 0 {
            return -current;
        }
        let shown = self.deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
        let before = annotation(&set.metadata, MAX_REPLICAS).and_then(|text| text.parse().ok()).unwrap_or(shown);
        if before == 0 {
            return 0;
        }
        let exact = f64::from(current) * f64::from(self.wanted + self.surge) / f64::from(before);
        exact.round() as i32 - current
    }

    /// Scales old sets down as far as availability allows. Says whether anything changes.
    fn shrink_old(&mut self) -> bool {
        let old_total: i32 = self.old.iter().map(|set| self.size(set)).sum();
        if old_total == 0 {
            return false;
        }
        let least = self.wanted - max_unavailable(self.deployment);
        let new_missing = self.new.map_or(self.made.unwrap_or(0), |new| self.size(new) - available(new));
        let mut most = self.total() - least - new_missing;
        if most <= 0 {
            return false;
        }
        let mut changed = false;
        let mut oldest_first = self.old.clone();
        oldest_first.sort_by_key(|set| created(set));
        // Pods that do not serve anyway go first.
        for set in &oldest_first {
            let unhealthy = self.size(set) - available(set);
            let down = most.min(unhealthy);
            if down > 0 {
                most -= down;
                changed |= self.scale(set, self.size(set) - down);
            }
        }
        // A set that is to have fewer pods than its status still counts loses the difference. (Upstream believes the status, and
        // can take too many in a row that way.)
        let serving: i32 = self.all().into_iter().map(|set| available(set).min(self.size(set))).sum();
        let mut spare = serving - least;
        for set in &oldest_first {
            let down = spare.min(self.size(set));
            if down > 0 {
                spare -= down;
                changed |= self.scale(set, self.size(set) - down);
            }
        }
        changed
    }

    /// Deletes old sets beyond the history limit.
    fn clean_up(&mut self) {
        let Some(limit) = self.deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit) else { return };
        let mut old: Vec<_> = self.old.iter().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        old.sort_by_key(|set| (revision(&set.metadata), created(set)));
        for set in old.into_iter().take(surplus) {
            let shown = set.status.as_ref();
            let idle = shown.is_none_or(|status| status.replicas == 0) && size(set) == 0;
            let observed = set.metadata.generation <= shown.and_then(|status| status.observed_generation).or(Some(0));
            if idle && observed {
                let (name, uid) =
                    (set.metadata.name.clone().unwrap_or_default(), set.metadata.uid.clone().unwrap_or_default());
                self.actions.push(Action::Delete { name, uid });
            }
        }
    }
}

/// Decides what a Deployment with these ReplicaSets needs.
pub fn plan(deployment: &Deployment, sets: &[Arc<ReplicaSet>], old_pods_run: bool, now: Timestamp) -> Plan {
    let wanted = replicas_wanted(deployment);
    let new = sets.iter().filter(|set| same_template(deployment, set)).min_by_key(|set| created(set));
    let old: Vec<_> = sets.iter().filter(|set| new.is_none_or(|new| !Arc::ptr_eq(new, set))).collect();
    let mut planner = Planner {
        deployment,
        wanted,
        surge: max_surge(deployment),
        new,
        old,
        actions: Vec::new(),
        sizes: BTreeMap::new(),
        made: None,
    };
    let mut status = deployment.status.clone().unwrap_or_default();
    if deployment.metadata.deletion_timestamp.is_some() {
        let (all, total) = (planner.all(), planner.total());
        let status = status::calculate(deployment, &all, new, total, now);
        return Plan { actions: Vec::new(), annotations: None, status, revisit: None };
    }

    let paused = deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false);
    status::pause(deployment, &mut status, paused, now);

    // The revision of the present template is one above all others.
    let highest_old = planner.old.iter().map(|set| revision(&set.metadata)).max().unwrap_or(0);
    let new_revision = highest_old + 1;
    let mut shown_revision = None;
    if let Some(new) = new {
        let annotations = changed_annotations(deployment, new, new_revision);
        let seconds = deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        let min_ready_seconds = (new.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
            != seconds.unwrap_or(0))
        .then_some(seconds.unwrap_or(0));
        shown_revision = Some(revision(&new.metadata).max(new_revision));
        if !annotations.is_empty() || min_ready_seconds.is_some() {
            let (name, version) =
                (new.metadata.name.clone().unwrap_or_default(), new.metadata.resource_version.clone());
            planner.actions.push(Action::Change { name, version, replicas: None, annotations, min_ready_seconds });
        }
        status::new_set(deployment, &mut status, new.metadata.name.as_deref().unwrap_or_default(), false, now);
    }

    let active = planner.active();
    // Several sets in a Deployment that recreates are left of a rolling update, and have no proportions that could be kept:
    // what is old goes, whatever the size. (Upstream's waits for ever there.)
    let resized = !(recreates(deployment) && active.len() > 1)
        && active
            .iter()
            .any(|set| annotation(&set.metadata, DESIRED_REPLICAS).is_some_and(|text| text.parse() != Ok(wanted)));
    let rolls = !(paused || resized);
    let make_new = |planner: &mut Planner<'_>, status: &mut DeploymentStatus| {
        let replicas = planner.new_size(0);
        planner.made = Some(replicas);
        planner.actions.push(Action::Create { replicas, revision: new_revision });
        let name = new_replica_set(deployment, replicas, new_revision).metadata.name.unwrap_or_default();
        status::new_set(deployment, status, &name, true, now);
    };
    if !rolls {
        planner.proportional();
        if paused {
            planner.clean_up();
        }
    } else if recreates(deployment) {
        let mut stopped = false;
        for set in planner.old.clone() {
            if planner.size(set) > 0 {
                stopped |= planner.scale(set, 0);
            }
        }
        if !stopped && !old_pods_run {
            match new {
                Some(new) => drop(planner.scale(new, wanted)),
                None => {
                    make_new(&mut planner, &mut status);
                    shown_revision = Some(new_revision);
                }
            }
        }
    } else {
        let grew = match new {
            None => {
                make_new(&mut planner, &mut status);
                shown_revision = Some(new_revision);
                planner.made != Some(0)
            }
            Some(new) if planner.size(new) > wanted => planner.scale(new, wanted),
            Some(new) => {
                let to = planner.new_size(planner.size(new));
                planner.scale(new, to)
            }
        };
        if !grew {
            planner.shrink_old();
        }
    }

    let (all, total) = (planner.all(), planner.total());
    let with_conditions = Deployment { status: Some(status.clone()), ..deployment.clone() };
    let mut status = status::calculate(&with_conditions, &all, new, total, now);
    if rolls {
        status::progress(&with_conditions, &mut status, &all, new, now);
        if status::complete(deployment, &status)
            && deployment.status.as_ref().is_some_and(|old| status::complete(deployment, old))
        {
            planner.clean_up();
        }
    }
    if status.conditions.as_ref().is_some_and(Vec::is_empty) {
        status.conditions = None;
    }
    let revisit = status::deadline(deployment)
        .filter(|_| rolls && !status::complete(deployment, &status))
        .and_then(|deadline| status::deadline_at(status::condition(&status, "Progressing"), deadline))
        .map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default() + Duration::from_secs(1));
    let shown = annotation(&deployment.metadata, REVISION);
    let annotations = shown_revision
        .map(|revision| revision.to_string())
        .filter(|revision| shown != Some(revision.as_str()))
        .map(|revision| BTreeMap::from([(REVISION.to_owned(), revision)]));
    Plan { actions: planner.actions, annotations, status, revisit }
}
