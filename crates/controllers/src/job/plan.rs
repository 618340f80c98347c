//! What a Job needs next, as a pure function of it and its pods.
//!
//! A pod carries a finalizer until it has been counted. Counting goes in steps, each of which may be the last before a
//! power cut, and none of which counts a pod twice:
//!
//! ```text
//!   ended, finalizer, not noted ──(status: noted)──> ended, finalizer, noted ──(pod: finalizer off)──>
//!   ended, no finalizer, noted ──(status: counted, note off)──> done
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::failure_policy::Verdict;
use super::indexes::Indexes;
use crate::pod::{Phase, Pod};
use crate::replica_set::{count, seconds};

/// The finalizer of a pod that has not been counted.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// A pod's index.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How often an index had failed before a pod was made for it.
pub const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// Pods created or deleted in one pass, as upstream.
const BURST: usize = 500;
/// The first pause after a failed pod; it doubles.
const FIRST_PAUSE: i64 = 10;
/// The longest pause after a failed pod, in seconds.
const LONGEST_PAUSE: i64 = 600;

/// A pod to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct New {
    /// Its index, in an indexed Job.
    pub index: Option<u32>,
    /// How often this index has failed, where each index has a limit of its own.
    pub index_failures: Option<u32>,
}

/// All that is to be done after counting.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Pods to make.
    pub create: Vec<New>,
    /// Pods that are too many: they go without being counted.
    pub drop: Vec<Arc<Pod>>,
    /// Pods of a Job that ends: they go and count as failed.
    pub kill: Vec<Arc<Pod>>,
    /// The status it is to have.
    pub status: JobStatus,
    /// Events: reason and message, and whether it is a warning.
    pub said: Vec<(&'static str, String, bool)>,
    /// When to look again.
    pub revisit: Option<Duration>,
}

/// Whether a condition is True.
pub fn has(status: &JobStatus, condition: &str) -> bool {
    status.conditions.iter().flatten().any(|found| found.type_ == condition && found.status == "True")
}

/// Whether the Job has ended.
pub fn finished(job: &Job) -> bool {
    job.status.as_ref().is_some_and(|status| has(status, "Complete") || has(status, "Failed"))
}

/// Whether each pod has an index.
pub fn indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

fn completions(spec: &JobSpec) -> u32 {
    spec.completions.and_then(|count| u32::try_from(count).ok()).unwrap_or(0)
}

fn replaces_failed_only(spec: &JobSpec) -> bool {
    match spec.pod_replacement_policy.as_deref() {
        Some(policy) => policy == "Failed",
        None => spec.pod_failure_policy.is_some(),
    }
}

/// The index of a pod, when it is one of the Job's.
pub fn index_of(spec: &JobSpec, pod: &Pod) -> Option<u32> {
    let index: u32 = pod.annotations.get(INDEX)?.parse().ok()?;
    (index < completions(spec)).then_some(index)
}

fn failed(spec: &JobSpec, pod: &Pod) -> bool {
    match pod.phase {
        Phase::Failed => true,
        Phase::Succeeded => false,
        // One that is deleted may never get as far as failing.
        _ => pod.deletion.is_some() && !replaces_failed_only(spec),
    }
}

/// Whether a pod still has to be counted.
pub fn tracked(pod: &Pod) -> bool {
    pod.finalizers.iter().any(|finalizer| finalizer == FINALIZER)
}

/// What counting works on.
pub struct Ledger<'l> {
    spec: &'l JobSpec,
    status: JobStatus,
}

impl<'l> Ledger<'l> {
    /// The books as the Job's status has them.
    pub fn of(spec: &'l JobSpec, status: JobStatus) -> Self {
        Self { spec, status }
    }

    /// The status with what was counted.
    pub fn into_status(self) -> JobStatus {
        self.status
    }

    fn completed(&self) -> Indexes {
        Indexes::parse(self.status.completed_indexes.as_deref().unwrap_or_default(), completions(self.spec))
    }

    fn failed_indexes(&self) -> Indexes {
        Indexes::parse(self.status.failed_indexes.as_deref().unwrap_or_default(), completions(self.spec))
    }

    /// Pods that ended and are neither counted nor noted, the failed ones apart, since a policy may judge them.
    pub fn unnoted<'p>(&self, pods: &'p [Arc<Pod>]) -> (Vec<&'p Arc<Pod>>, Vec<&'p Arc<Pod>>) {
        let notes = self.status.uncounted_terminated_pods.clone().unwrap_or_default();
        let noted: BTreeSet<String> =
            notes.succeeded.into_iter().flatten().chain(notes.failed.into_iter().flatten()).collect();
        let open = |pod: &&Arc<Pod>| tracked(pod) && !noted.contains(&*pod.uid);
        let succeeded = pods.iter().filter(open).filter(|pod| pod.phase == Phase::Succeeded).take(BURST).collect();
        let failed = pods.iter().filter(open).filter(|pod| failed(self.spec, pod)).take(BURST).collect();
        (succeeded, failed)
    }

    /// Notes pods that have ended. An index is counted at once: it is in the set or not, however often that is written.
    pub fn note(&mut self, succeeded: &[&Arc<Pod>], failed: &[(&Arc<Pod>, Verdict)]) {
        let mut notes = self.status.uncounted_terminated_pods.clone().unwrap_or_default();
        if indexed(self.spec) {
            let mut done = self.completed();
            let mut lost = self.failed_indexes();
            succeeded.iter().filter_map(|pod| index_of(self.spec, pod)).for_each(|index| {
                if !lost.contains(index) {
                    done.insert(index);
                }
            });
            for (pod, verdict) in failed {
                let Some(index) = index_of(self.spec, pod).filter(|index| !done.contains(*index)) else { continue };
                let times = index_failures(pod).saturating_add(1);
                let limit = self.spec.backoff_limit_per_index.and_then(|limit| u32::try_from(limit).ok());
                let beyond = *verdict == Verdict::Count && limit.is_some_and(|limit| times > limit);
                if limit.is_some() && (*verdict == Verdict::FailIndex || beyond) {
                    lost.insert(index);
                }
            }
            self.status.succeeded = i32::try_from(done.len()).ok().filter(|done| *done > 0);
            self.status.completed_indexes = (!done.is_empty()).then(|| done.to_string());
            if self.spec.backoff_limit_per_index.is_some() {
                self.status.failed_indexes = Some(lost.to_string());
            }
        } else {
            notes.succeeded.get_or_insert_default().extend(succeeded.iter().map(|pod| pod.uid.to_string()));
        }
        let counted = failed.iter().filter(|(_, verdict)| *verdict != Verdict::Ignore);
        notes.failed.get_or_insert_default().extend(counted.map(|(pod, _)| pod.uid.to_string()));
        self.keep(notes);
    }

    /// Counts what was noted and has lost its finalizer, or is gone altogether.
    pub fn settle(&mut self, pods: &[Arc<Pod>]) {
        let mut notes = self.status.uncounted_terminated_pods.clone().unwrap_or_default();
        let open: BTreeSet<&str> = pods.iter().filter(|pod| tracked(pod)).map(|pod| &*pod.uid).collect();
        let take = |notes: &mut Option<Vec<String>>| {
            let list = notes.get_or_insert_default();
            let before = list.len();
            list.retain(|uid| open.contains(uid.as_str()));
            i32::try_from(before - list.len()).unwrap_or(0)
        };
        let (succeeded, failed) = (take(&mut notes.succeeded), take(&mut notes.failed));
        let add = |to: &mut Option<i32>, number: i32| {
            *to = Some(to.unwrap_or(0).saturating_add(number)).filter(|number| *number > 0);
        };
        add(&mut self.status.succeeded, succeeded);
        add(&mut self.status.failed, failed);
        self.keep(notes);
    }

    fn keep(&mut self, mut notes: UncountedTerminatedPods) {
        notes.succeeded = notes.succeeded.filter(|list| !list.is_empty());
        notes.failed = notes.failed.filter(|list| !list.is_empty());
        // An empty record says that the Job is tracked by finalizers, as upstream has it.
        self.status.uncounted_terminated_pods = Some(notes);
    }

    fn noted(&self) -> (i32, i32) {
        let notes = self.status.uncounted_terminated_pods.as_ref();
        let number = |list: Option<&Vec<String>>| list.map_or(0, |list| i32::try_from(list.len()).unwrap_or(i32::MAX));
        let (succeeded, failed) = (
            number(notes.and_then(|notes| notes.succeeded.as_ref())),
            number(notes.and_then(|notes| notes.failed.as_ref())),
        );
        (
            self.status.succeeded.unwrap_or(0).saturating_add(if indexed(self.spec) { 0 } else { succeeded }),
            self.status.failed.unwrap_or(0).saturating_add(failed),
        )
    }
}

fn index_failures(pod: &Pod) -> u32 {
    pod.annotations.get(INDEX_FAILURES).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn set_condition(
    status: &mut JobStatus,
    type_: &str,
    value: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> bool {
    let conditions = status.conditions.get_or_insert_default();
    let time = Some(Time(seconds(now)));
    let wanted = JobCondition {
        type_: type_.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: time.clone(),
        last_transition_time: time,
    };
    match conditions.iter_mut().find(|condition| condition.type_ == type_) {
        Some(there) if there.status == value => false,
        Some(there) => {
            *there = wanted;
            true
        }
        // A condition that was never True need not be said to be False.
        None if value == "False" => false,
        None => {
            conditions.push(wanted);
            true
        }
    }
}

/// Why a Job ends.
struct End {
    reason: &'static str,
    message: String,
}

struct View<'v> {
    spec: &'v JobSpec,
    pods: &'v [Arc<Pod>],
    active: Vec<&'v Arc<Pod>>,
    terminating: usize,
    now: Timestamp,
}

/// Decides about a Job whose ended pods were noted and, as far as their finalizers are off, counted. `policy_failure` is
/// what a failure policy said.
pub fn plan(job: &Job, ledger: Ledger<'_>, pods: &[Arc<Pod>], policy_failure: Option<String>, now: Timestamp) -> Plan {
    let spec = ledger.spec;
    let active: Vec<_> = pods.iter().filter(|pod| pod.active()).collect();
    let terminating = pods.iter().filter(|pod| pod.deleting_alive()).count();
    let view = View { spec, pods, active, terminating, now };
    let (succeeded, failed) = ledger.noted();
    let (done, lost) = (ledger.completed(), ledger.failed_indexes());
    let mut plan = Plan { status: ledger.into_status(), ..Plan::default() };
    let suspended = spec.suspend == Some(true);
    if plan.status.start_time.is_none() && !suspended {
        plan.status.start_time = Some(Time(seconds(now)));
    }

    if !has(&plan.status, "FailureTarget") && !has(&plan.status, "SuccessCriteriaMet") {
        if let Some(end) = view.failure(&plan.status, policy_failure, failed, &done, &lost) {
            set_condition(&mut plan.status, "FailureTarget", "True", end.reason, &end.message, now);
        } else if let Some(end) = view.success(succeeded, &done) {
            set_condition(&mut plan.status, "SuccessCriteriaMet", "True", end.reason, &end.message, now);
        }
    }
    let ending = ["FailureTarget", "SuccessCriteriaMet"].into_iter().find(|condition| has(&plan.status, condition));
    if let Some(target) = ending {
        plan.kill = view.active.iter().map(|pod| (*pod).clone()).collect();
        if view.active.is_empty() && view.terminating == 0 && !view.pods.iter().any(|pod| tracked(pod)) {
            view.finish(target, &mut plan);
        }
    } else if suspended {
        plan.drop = view.active.iter().map(|pod| (*pod).clone()).collect();
        if set_condition(&mut plan.status, "Suspended", "True", "JobSuspended", "Job suspended", now) {
            plan.said.push(("Suspended", "Job suspended".to_owned(), false));
        }
        plan.status.start_time = None;
    } else {
        if set_condition(&mut plan.status, "Suspended", "False", "JobResumed", "Job resumed", now) {
            plan.said.push(("Resumed", "Job resumed".to_owned(), false));
            plan.status.start_time = Some(Time(seconds(now)));
        }
        if job.metadata.deletion_timestamp.is_none() {
            view.manage(succeeded, &done, &lost, &mut plan);
        }
        plan.revisit = plan.revisit.into_iter().chain(view.deadline(&plan.status)).min();
    }
    view.numbers(&mut plan);
    plan
}

impl View<'_> {
    fn failure(
        &self,
        status: &JobStatus,
        policy_failure: Option<String>,
        failed: i32,
        done: &Indexes,
        lost: &Indexes,
    ) -> Option<End> {
        let end = |reason: &'static str, message: &str| Some(End { reason, message: message.to_owned() });
        if let Some(message) = policy_failure {
            return Some(End { reason: "PodFailurePolicy", message });
        }
        let limit =
            self.spec.backoff_limit.unwrap_or(if self.spec.backoff_limit_per_index.is_some() { i32::MAX } else { 6 });
        if failed > limit || self.restarted_too_often(limit) {
            return end("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        if self.spec.suspend != Some(true) && self.deadline(status).is_some_and(|left| left.is_zero()) {
            return end("DeadlineExceeded", "Job was active longer than specified deadline");
        }
        if indexed(self.spec) && self.spec.backoff_limit_per_index.is_some() {
            let most = self.spec.max_failed_indexes.and_then(|most| u32::try_from(most).ok());
            if most.is_some_and(|most| lost.len() > most) {
                return end(
                    "MaxFailedIndexesExceeded",
                    "Job has exceeded the specified maximal number of failed indexes",
                );
            }
            if !lost.is_empty() && lost.len().saturating_add(done.len()) >= completions(self.spec) {
                return end("FailedIndexes", "Job has failed indexes");
            }
        }
        None
    }

    /// Whether containers that are started again in place have used up the limit.
    fn restarted_too_often(&self, limit: i32) -> bool {
        let policy = self.spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
        if policy != Some("OnFailure") {
            return false;
        }
        let restarts = self.active.iter().fold(0_i32, |sum, pod| sum.saturating_add(pod.all_restarts));
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    /// How long the Job may go on; zero when its time is over.
    fn deadline(&self, status: &JobStatus) -> Option<Duration> {
        let allowed = SignedDuration::from_secs(self.spec.active_deadline_seconds?);
        let end = status.start_time.as_ref()?.0.checked_add(allowed).ok()?;
        Some(Duration::try_from(end.duration_since(self.now)).unwrap_or_default())
    }

    fn success(&self, succeeded: i32, done: &Indexes) -> Option<End> {
        if indexed(self.spec)
            && let Some(policy) = &self.spec.success_policy
        {
            for (at, rule) in policy.rules.iter().enumerate() {
                let enough = rule.succeeded_count.and_then(|count| u32::try_from(count).ok());
                let met = match &rule.succeeded_indexes {
                    Some(text) => {
                        let wanted = Indexes::parse(text, completions(self.spec));
                        done.overlap(&wanted) >= enough.unwrap_or(wanted.len())
                    }
                    None => enough.is_some_and(|enough| done.len() >= enough),
                };
                if met {
                    return Some(End { reason: "SuccessPolicy", message: format!("Matched rules at index {at}") });
                }
            }
        }
        let complete = match self.spec.completions {
            Some(wanted) => succeeded >= wanted,
            None => succeeded > 0,
        };
        (complete && self.active.is_empty()).then(|| End {
            reason: "CompletionsReached",
            message: "Reached expected number of succeeded pods".to_owned(),
        })
    }

    /// Says that a Job is over, once no pod runs and all are counted.
    fn finish(&self, target: &str, plan: &mut Plan) {
        let because = plan.status.conditions.iter().flatten().find(|condition| condition.type_ == target).cloned();
        let (reason, message) = because
            .map(|condition| (condition.reason.unwrap_or_default(), condition.message.unwrap_or_default()))
            .unwrap_or_default();
        if target == "SuccessCriteriaMet" {
            set_condition(&mut plan.status, "Complete", "True", &reason, &message, self.now);
            plan.status.completion_time = Some(Time(seconds(self.now)));
            plan.said.push(("Completed", "Job completed".to_owned(), false));
        } else {
            set_condition(&mut plan.status, "Failed", "True", &reason, &message, self.now);
            let known = [
                "PodFailurePolicy",
                "BackoffLimitExceeded",
                "DeadlineExceeded",
                "MaxFailedIndexesExceeded",
                "FailedIndexes",
            ];
            let reason = known.into_iter().find(|known| *known == reason).unwrap_or("Failed");
            plan.said.push((reason, message, true));
        }
    }

    fn manage(&self, succeeded: i32, done: &Indexes, lost: &Indexes, plan: &mut Plan) {
        let parallelism = self.spec.parallelism.unwrap_or(1);
        let active = i32::try_from(self.active.len()).unwrap_or(i32::MAX);
        let wanted = match self.spec.completions {
            // A work queue: once one has succeeded, no more are started.
            None if succeeded > 0 => active.min(parallelism),
            None => parallelism,
            Some(completions) => completions.saturating_sub(succeeded).clamp(0, parallelism.max(0)),
        };
        let number = |count: i32| usize::try_from(count).unwrap_or(0);
        let mut surplus = self.surplus(done, lost, number(wanted));
        surplus.truncate(BURST);
        if !surplus.is_empty() {
            plan.drop = surplus;
            return;
        }
        let waiting = if replaces_failed_only(self.spec) { self.terminating } else { 0 };
        let missing = number(wanted).saturating_sub(self.active.len()).saturating_sub(waiting).min(BURST);
        if missing == 0 {
            return;
        }
        if self.spec.backoff_limit_per_index.is_none()
            && let Some(pause) = self.pause(self.pods.iter())
        {
            plan.revisit = Some(pause);
            return;
        }
        if indexed(self.spec) {
            self.create_indexes(missing, done, lost, plan);
        } else {
            plan.create = vec![New::default(); missing];
        }
    }

    /// Pods beyond the wanted number, and in an indexed Job those whose index is done, lost or held by another pod.
    fn surplus(&self, done: &Indexes, lost: &Indexes, wanted: usize) -> Vec<Arc<Pod>> {
        let mut active: Vec<&Arc<Pod>> = self.active.clone();
        // Those that have got furthest stay.
        active.sort_by_key(|pod| (pod.ready.is_none(), pod.node.is_none(), pod.created));
        let mut taken = BTreeSet::new();
        let (mut kept, mut surplus) = (0, Vec::new());
        for pod in active {
            let useful = !indexed(self.spec)
                || index_of(self.spec, pod)
                    .is_some_and(|index| !done.contains(index) && !lost.contains(index) && taken.insert(index));
            if useful && kept < wanted {
                kept += 1;
            } else {
                surplus.push(pod.clone());
            }
        }
        surplus
    }

    fn create_indexes(&self, missing: usize, done: &Indexes, lost: &Indexes, plan: &mut Plan) {
        let mut taken: BTreeSet<u32> = self.active.iter().filter_map(|pod| index_of(self.spec, pod)).collect();
        if replaces_failed_only(self.spec) {
            let leaving = self.pods.iter().filter(|pod| pod.deleting_alive());
            taken.extend(leaving.filter_map(|pod| index_of(self.spec, pod)));
        }
        let per_index = self.spec.backoff_limit_per_index.is_some();
        let mut failures: BTreeMap<u32, Vec<&Arc<Pod>>> = BTreeMap::new();
        if per_index {
            for pod in self.pods.iter().filter(|pod| failed(self.spec, pod)) {
                if let Some(index) = index_of(self.spec, pod) {
                    failures.entry(index).or_default().push(pod);
                }
            }
        }
        let free = (0..completions(self.spec))
            .filter(|index| !done.contains(*index) && !lost.contains(*index) && !taken.contains(index));
        for index in free {
            if plan.create.len() >= missing {
                return;
            }
            let before = failures.get(&index).map(Vec::as_slice).unwrap_or_default();
            if let Some(pause) = self.pause(before.iter().copied()) {
                plan.revisit = plan.revisit.into_iter().chain([pause]).min();
                continue;
            }
            let times = before.iter().map(|pod| index_failures(pod).saturating_add(1)).max().unwrap_or(0);
            plan.create.push(New { index: Some(index), index_failures: per_index.then_some(times) });
        }
    }

    /// How long to wait before another pod, after those that failed since the last one succeeded.
    fn pause<'p>(&self, pods: impl Iterator<Item = &'p Arc<Pod>>) -> Option<Duration> {
        let ended = |pod: &Pod| pod.finished.or(pod.deletion).or(pod.created);
        let success = self.pods.iter().filter(|pod| pod.phase == Phase::Succeeded).filter_map(|pod| ended(pod)).max();
        let failures = pods
            .filter(|pod| pod.phase == Phase::Failed)
            .filter_map(|pod| ended(pod))
            .filter(|at| success.is_none_or(|success| *at > success));
        let (times, last) = failures.fold((0_u32, None), |(times, last), at| (times + 1, Some(at).max(last)));
        let doublings = times.checked_sub(1)?.min(10);
        let pause = FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
        let end = last?.checked_add(SignedDuration::from_secs(pause)).ok()?;
        Duration::try_from(end.duration_since(self.now)).ok().filter(|left| !left.is_zero())
    }

    fn numbers(&self, plan: &mut Plan) {
        let gone = plan.kill.len() + plan.drop.len();
        plan.status.active = count(self.active.len().saturating_sub(gone));
        // Those that go now are not ready any more: there are never more ready than active.
        let goes = |pod: &Pod| plan.kill.iter().chain(&plan.drop).any(|gone| gone.uid == pod.uid);
        let ready = self.active.iter().filter(|pod| pod.ready.is_some() && !goes(pod)).count();
        plan.status.ready = i32::try_from(ready).ok();
        plan.status.terminating = i32::try_from(self.terminating).ok();
    }
}
