//! CronJobs: a Job at each time of a schedule.
//!
//! The clock may be wrong and may jump: a last schedule time that lies in the future says nothing, and however many times
//! were missed, one Job is made. Upstream:
//! <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/cronjob/cronjob_controllerv2.go>.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kobune_kinds::cron::Schedule;
use kobune_scheduler::recorder::{Recorder, Severity};
use kube::Resource;
use kube::api::{Api, DeleteParams, PostParams, Preconditions, PropagationPolicy};

use crate::clock;
use crate::context::{Context, enqueue_changes, enqueue_owners};
use crate::job::finished;
use crate::object::{Cached, ObjectKey};
use crate::ownership::controller_reference;
use crate::pod_control::{error_text, namespace_is_terminating};
use crate::queue::{Doing, PassError, Queue, Revisit, is_already_exists, is_not_found};

/// The time for which a Job was made.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// Beyond so many missed times the clock or the deadline is suspect.
const MANY: usize = 100;
/// How much later than due a Job is looked at, so that the time has surely come.
const SLACK: Duration = Duration::from_millis(100);

/// Starts the controller.
pub fn start(context: &Arc<Context>) {
    let queue = Arc::<Queue>::default();
    let caches = &context.caches;
    enqueue_changes(&caches.cron_jobs, &queue);
    enqueue_owners(&caches.jobs, "CronJob", &queue);
    let recorder = context.recorder.for_component("cronjob-controller");
    let (cron_jobs, jobs) = (caches.cron_jobs.clone(), caches.jobs.clone());
    let ready = async move {
        cron_jobs.synced().await;
        jobs.synced().await;
    };
    let context_of_pass = context.clone();
    context.run_controller("cronjob", queue, ready, move |key| {
        let (context, recorder) = (context_of_pass.clone(), recorder.clone());
        async move { pass(&context, &recorder, key).await }
    });
}

async fn pass(context: &Context, recorder: &Recorder, key: ObjectKey) -> Result<Revisit, PassError> {
    let caches = &context.caches;
    let Some(cron_job) = caches.cron_jobs.get(&key) else { return Ok(None) };
    let spec = &cron_job.spec;
    if cron_job.deleting() {
        return Ok(None);
    }
    let about = cron_job.object_ref(&());
    let jobs = caches.jobs.controlled_by(cron_job.uid());
    let keeper = Keeper { context, recorder, cron_job: &cron_job, about: &about };
    keeper.clean_up(&jobs, spec).await?;
    let mut status = keeper.status(&jobs);
    let mut revisit = None;
    let mut failure = None;
    match plan(&cron_job, &jobs, clock::now()) {
        Plan::Rest => {}
        Plan::Broken { reason, message } => recorder.event(&about, Severity::Warning, reason, message),
        Plan::Wait(until) => revisit = Some(until),
        Plan::Skip { reason, message, next } => {
            recorder.event(
                &about,
                if reason == "MissSchedule" { Severity::Warning } else { Severity::Normal },
                reason,
                message,
            );
            revisit = next;
        }
        Plan::Run { at, zone, replaced, many, next } => {
            revisit = next;
            if many {
                let message =
                    "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
                recorder.event(&about, Severity::Warning, "TooManyMissedTimes", message);
            }
            for job in &replaced {
                keeper.delete(job, "SuccessfulDelete").await?;
            }
            match keeper.run(spec, at, &zone).await {
                Ok(started) => {
                    status = keeper.status(&caches.jobs.controlled_by(cron_job.uid()));
                    if started {
                        status.last_schedule_time = Some(Time(at));
                    }
                }
                Err(error) => failure = Some(error),
            }
        }
    }
    if cron_job.status.as_ref().unwrap_or(&CronJobStatus::default()) != &status {
        let mut changed = (*cron_job).clone();
        changed.status = Some(status);
        let api = Api::<CronJob>::namespaced(context.client.clone(), &key.namespace);
        match api.replace_status(&key.name, &PostParams::default(), &changed).await {
            Ok(written) => caches.cron_jobs.wrote(written),
            Err(error) if is_not_found(&error) => return Ok(None),
            Err(error) => return Err(error).doing("writing the status of a cron job"),
        }
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(revisit),
    }
}

/// What to do now.
#[derive(Debug, PartialEq)]
enum Plan {
    /// Nothing until something changes.
    Rest,
    /// The schedule or the zone is no good.
    Broken { reason: &'static str, message: String },
    /// Nothing until a time.
    Wait(Duration),
    /// A time has come and no Job is made.
    Skip { reason: &'static str, message: String, next: Revisit },
    /// A Job is made.
    Run { at: Timestamp, zone: TimeZone, replaced: Vec<Arc<Job>>, many: bool, next: Revisit },
}

/// The zone of a schedule.
fn zone_of(spec: &CronJobSpec) -> Result<TimeZone, String> {
    match spec.time_zone.as_deref() {
        Some(name) => TimeZone::get(name).map_err(|_| format!("invalid timeZone: unknown time zone {name}")),
        // Upstream's is that of the controller manager's machine, which in a container is UTC.
        None => Ok(TimeZone::UTC),
    }
}

fn plan(cron_job: &CronJob, jobs: &[Arc<Job>], now: Timestamp) -> Plan {
    let spec = &cron_job.spec;
    if spec.suspend == Some(true) {
        return Plan::Rest;
    }
    let zone = match zone_of(spec) {
        Ok(zone) => zone,
        Err(message) => return Plan::Broken { reason: "UnknownTimeZone", message },
    };
    let schedule = match Schedule::parse(&spec.schedule) {
        Ok(schedule) => schedule,
        Err(error) => {
            let message = format!("unparseable schedule {:?}: {error}", spec.schedule);
            return Plan::Broken { reason: "UnparseableSchedule", message };
        }
    };
    let last = cron_job.status.as_ref().and_then(|status| status.last_schedule_time.as_ref()).map(|time| time.0);
    let created = cron_job.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    // A time in the future was written under a wrong clock.
    let known = last.filter(|last| *last <= now).unwrap_or(created).min(now);
    let deadline = spec.starting_deadline_seconds.map(SignedDuration::from_secs);
    let earliest = deadline.and_then(|deadline| now.checked_sub(deadline).ok()).map_or(known, |bound| bound.max(known));
    let next = until(&schedule, &zone, now);
    let Some((at, many)) = latest(&schedule, &zone, earliest, now) else {
        return next.map_or_else(
            || Plan::Broken {
                reason: "InvalidSchedule",
                message: format!("invalid schedule: {} : there is no such time", spec.schedule),
            },
            Plan::Wait,
        );
    };
    let too_late = deadline.is_some_and(|deadline| at.checked_add(deadline).is_ok_and(|end| end < now));
    if too_late {
        let message = format!("Missed scheduled time to start a job: {at}");
        return Plan::Skip { reason: "MissSchedule", message, next };
    }
    let active: Vec<Arc<Job>> = jobs.iter().filter(|job| !finished(job)).cloned().collect();
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            Plan::Skip { reason: "JobAlreadyActive", message: message.to_owned(), next }
        }
        Some("Replace") => Plan::Run { at, zone, replaced: active, many, next },
        _ => Plan::Run { at, zone, replaced: Vec::new(), many, next },
    }
}

fn until(schedule: &Schedule, zone: &TimeZone, now: Timestamp) -> Revisit {
    let next = schedule.next(now, zone)?;
    Some(Duration::try_from(next.duration_since(now)).unwrap_or_default() + SLACK)
}

/// The latest time of the schedule after `earliest` that is not after `now`, and whether many were missed.
///
/// Looks back in growing spans, so that decades of missed minutes cost no more than a day of them.
fn latest(schedule: &Schedule, zone: &TimeZone, earliest: Timestamp, now: Timestamp) -> Option<(Timestamp, bool)> {
    let due = |from: Timestamp| schedule.next(from, zone).filter(|at| *at <= now);
    let first = due(earliest)?;
    if let Some(span) = schedule.interval() {
        let passed = now.duration_since(earliest).as_secs() / span.as_secs().max(1);
        let at = earliest.checked_add(SignedDuration::from_secs(passed * span.as_secs())).ok()?;
        return Some((at, passed > MANY as i64));
    }
    let mut span = SignedDuration::from_mins(1);
    let mut from = earliest;
    while let Ok(start) = now.checked_sub(span) {
        if start <= earliest {
            break;
        }
        if due(start).is_some() {
            from = start;
            break;
        }
        span = span.saturating_mul(2);
    }
    let mut at = due(from)?;
    while let Some(later) = due(at) {
        at = later;
    }
    let missed = std::iter::successors(Some(first), |at| due(*at)).take(MANY + 1).count();
    Some((at, missed > MANY))
}

/// Carries out what was planned for one cron job.
struct Keeper<'k> {
    context: &'k Context,
    recorder: &'k Recorder,
    cron_job: &'k CronJob,
    about: &'k ObjectReference,
}

impl Keeper<'_> {
    fn api(&self) -> Api<Job> {
        let namespace = self.cron_job.metadata.namespace.as_deref().unwrap_or_default();
        Api::namespaced(self.context.client.clone(), namespace)
    }

    /// Which Jobs run, and when one was last well; says what has ended since.
    fn status(&self, jobs: &[Arc<Job>]) -> CronJobStatus {
        let mut status = self.cron_job.status.clone().unwrap_or_default();
        let listed = |uid: &str| status.active.iter().flatten().any(|active| active.uid.as_deref() == Some(uid));
        for job in jobs.iter().filter(|job| finished(job) && listed(job.uid())) {
            let name = job.metadata.name.as_deref().unwrap_or_default();
            let how = if completed(job).is_some() { "Complete" } else { "Failed" };
            self.recorder.event(
                self.about,
                Severity::Normal,
                "SawCompletedJob",
                format!("Saw completed job: {name}, condition: {how}"),
            );
        }
        let successes = jobs.iter().filter_map(|job| completed(job));
        status.last_successful_time = successes.chain(status.last_successful_time.map(|time| time.0)).max().map(Time);
        let mut active: Vec<ObjectReference> =
            jobs.iter().filter(|job| !finished(job)).map(|job| job.object_ref(&())).collect();
        active.sort_by(|one, other| one.name.cmp(&other.name));
        status.active = (!active.is_empty()).then_some(active);
        status
    }

    /// Deletes the oldest of the Jobs that have ended, beyond what is to be kept.
    async fn clean_up(&self, jobs: &[Arc<Job>], spec: &CronJobSpec) -> Result<(), PassError> {
        let limits = [
            (spec.successful_jobs_history_limit.unwrap_or(3), true),
            (spec.failed_jobs_history_limit.unwrap_or(1), false),
        ];
        for (limit, well) in limits {
            let ended = jobs.iter().filter(|job| finished(job) && completed(job).is_some() == well && !job.deleting());
            let mut ended: Vec<_> = ended.collect();
            ended.sort_by_key(|job| {
                let start = job.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
                (start, job.metadata.name.clone())
            });
            let surplus = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
            for job in &ended[..surplus] {
                self.delete(job, "SuccessfulDelete").await?;
            }
        }
        Ok(())
    }

    async fn delete(&self, job: &Job, reason: &'static str) -> Result<(), PassError> {
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            preconditions: Some(Preconditions { uid: job.metadata.uid.clone(), resource_version: None }),
            ..DeleteParams::default()
        };
        match self.api().delete(name, &params).await {
            Ok(answer) => {
                match answer.left() {
                    Some(left) if left.metadata.deletion_timestamp.is_some() => self.context.caches.jobs.wrote(left),
                    _ => self.context.caches.jobs.removed(&Cached::key(job), Cached::uid(job)),
                }
                self.recorder.event(self.about, Severity::Normal, reason, format!("Deleted job {name}"));
                Ok(())
            }
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => {
                let message = format!("Deleted job: {}", error_text(&error));
                self.recorder.event(self.about, Severity::Warning, "FailedDelete", message);
                Err(error).doing("deleting a job")
            }
        }
    }

    /// Makes the Job of a time. Whether it is there now.
    async fn run(&self, spec: &CronJobSpec, at: Timestamp, zone: &TimeZone) -> Result<bool, PassError> {
        let job = job(self.cron_job, spec, at, zone);
        let name = job.metadata.name.clone().unwrap_or_default();
        match self.api().create(&PostParams::default(), &job).await {
            Ok(created) => {
                self.context.caches.jobs.wrote(created);
                let message = format!("Created job {name}");
                self.recorder.event(self.about, Severity::Normal, "SuccessfulCreate", message);
                Ok(true)
            }
            // Made before a crash that kept us from writing it down.
            Err(error) if is_already_exists(&error) => Ok(true),
            Err(error) if namespace_is_terminating(&error) => Ok(false),
            Err(error) => {
                let message = format!("Error creating job: {}", error_text(&error));
                self.recorder.event(self.about, Severity::Warning, "FailedCreate", message);
                Err(error).doing("creating a job")
            }
        }
    }
}

/// When a Job was completed.
fn completed(job: &Job) -> Option<Timestamp> {
    let status = job.status.as_ref()?;
    let complete = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "Complete" && condition.status == "True")?;
    let at = status.completion_time.as_ref().or(complete.last_transition_time.as_ref())?;
    Some(at.0)
}

/// The Job of a time. Its name is made of the time, so that there is one.
fn job(cron_job: &CronJob, spec: &CronJobSpec, at: Timestamp, zone: &TimeZone) -> Job {
    let template = spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(
        SCHEDULED.to_owned(),
        at.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string().replace("+00:00", "Z"),
    );
    let name = cron_job.metadata.name.as_deref().unwrap_or_default();
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{}", at.as_second().div_euclid(60))),
            namespace: cron_job.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(cron_job)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn cron_job(more: Value, last: Option<&str>) -> CronJob {
        let mut object = json!({
            "metadata": {"name": "tick", "namespace": "default", "uid": "c", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"schedule": "*/10 * * * *", "jobTemplate": {"spec": {"template": {}}}},
            "status": {"lastScheduleTime": last},
        });
        more.as_object().expect("an object").iter().for_each(|(key, value)| object["spec"][key] = value.clone());
        serde_json::from_value(object).expect("a cron job")
    }

    fn running() -> Vec<Arc<Job>> {
        vec![Arc::new(serde_json::from_value(json!({"metadata": {"name": "tick-1", "uid": "j"}})).expect("a job"))]
    }

    #[test]
    fn plans() {
        let check = |more: Value, last: Option<&str>, jobs: &[Arc<Job>], now: &str, expected: &str| {
            let found = match plan(&cron_job(more.clone(), last), jobs, now.parse().expect("a time")) {
                Plan::Rest => "rest".to_owned(),
                Plan::Broken { reason, .. } => reason.to_owned(),
                Plan::Wait(time) => format!("wait {}", time.as_secs()),
                Plan::Skip { reason, .. } => reason.to_owned(),
                Plan::Run { at, replaced, many, .. } => {
                    format!("run {at} {}{}", replaced.len(), if many { " many" } else { "" })
                }
            };
            assert_eq!(found, expected, "{more} {now}");
        };
        let none: &[Arc<Job>] = &[];
        check(json!({}), None, none, "2026-01-01T00:05:00Z", "wait 300");
        check(json!({}), None, none, "2026-01-01T00:10:00Z", "run 2026-01-01T00:10:00Z 0");
        check(json!({}), Some("2026-01-01T00:10:00Z"), none, "2026-01-01T00:10:01Z", "wait 599");
        check(json!({}), Some("2026-01-01T00:10:00Z"), none, "2026-01-01T00:35:00Z", "run 2026-01-01T00:30:00Z 0");
        check(json!({"suspend": true}), None, none, "2026-01-01T00:10:00Z", "rest");
        check(json!({"schedule": "* * 31 2 *"}), None, none, "2026-01-01T00:10:00Z", "InvalidSchedule");
        check(json!({"schedule": "x"}), None, none, "2026-01-01T00:10:00Z", "UnparseableSchedule");
        check(json!({"timeZone": "Mars/Olympus"}), None, none, "2026-01-01T00:10:00Z", "UnknownTimeZone");
        check(json!({"concurrencyPolicy": "Forbid"}), None, &running(), "2026-01-01T00:10:00Z", "JobAlreadyActive");
        check(
            json!({"concurrencyPolicy": "Replace"}),
            None,
            &running(),
            "2026-01-01T00:10:00Z",
            "run 2026-01-01T00:10:00Z 1",
        );
        check(
            json!({"concurrencyPolicy": "Allow"}),
            None,
            &running(),
            "2026-01-01T00:10:00Z",
            "run 2026-01-01T00:10:00Z 0",
        );
        check(json!({"startingDeadlineSeconds": 60}), None, none, "2026-01-01T00:15:00Z", "wait 300");
        // A clock that was decades ahead, and one that jumps decades ahead.
        check(json!({}), Some("2040-01-01T00:00:00Z"), none, "2026-01-01T00:10:00Z", "run 2026-01-01T00:10:00Z 0");
        check(json!({"schedule": "* * * * *"}), None, none, "2040-01-01T00:00:30Z", "run 2040-01-01T00:00:00Z 0 many");
        check(json!({"schedule": "@every 1h"}), None, none, "2026-01-01T02:30:00Z", "run 2026-01-01T02:00:00Z 0");
    }

    #[test]
    fn jobs_are_named_after_their_time() {
        let cron_job = cron_job(json!({"timeZone": "Europe/Berlin"}), None);
        let spec = &cron_job.spec;
        let at = "2026-01-01T00:10:00Z".parse().expect("a time");
        let made = job(&cron_job, spec, at, &zone_of(spec).expect("a zone"));
        assert_eq!(made.metadata.name.as_deref(), Some("tick-29453770"));
        assert_eq!(made.metadata.annotations.expect("annotations")[SCHEDULED], "2026-01-01T01:10:00+01:00");
    }
}
