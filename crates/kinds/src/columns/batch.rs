//! Jobs and cron jobs.

use jiff::Timestamp;
use serde_json::Value;

use super::cell::{NONE, UNSET, age, between, containers, holds, int, name, selector, since, text, text_or, time};
use super::workload::{CONTAINERS, IMAGES, SELECTOR};
use super::{AGE, Column, NAME, Table};

pub(super) const JOBS: Table = (
    &[
        NAME,
        Column::string("Status", "Status of the job."),
        Column::string("Completions", "Successful pods of the job, of those it wants."),
        Column::string("Duration", "Time required to complete the job."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    job,
);

fn job(job: &Value, now: Timestamp) -> Vec<Value> {
    let conditions = [
        ("Complete", "Complete"),
        ("Failed", "Failed"),
        ("Terminating", "Terminating"),
        ("Suspended", "Suspended"),
        ("FailureTarget", "FailureTarget"),
        ("SuccessCriteriaMet", "SuccessCriteriaMet"),
    ];
    let applies = |name: &str| match name {
        "Terminating" => job.pointer("/metadata/deletionTimestamp").is_some(),
        name => holds(job, name),
    };
    let status = conditions.into_iter().find(|(name, _)| applies(name)).map_or("Running", |(_, word)| word);
    let succeeded = int(job, "/status/succeeded");
    let completions = match (job.pointer("/spec/completions").and_then(Value::as_i64), int(job, "/spec/parallelism")) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallel @ 2..) => format!("{succeeded}/1 of {parallel}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let duration = time(job, "/status/startTime")
        .map(|start| between(start, time(job, "/status/completionTime").unwrap_or(now)))
        .unwrap_or_default();
    let [names, images] = containers(job, "/spec/template/spec");
    let selected = selector(job.pointer("/spec/selector"));
    vec![name(job), status.into(), completions.into(), duration.into(), age(job, now), names, images, selected.into()]
}

pub(super) const CRON_JOBS: Table = (
    &[
        NAME,
        Column::string("Schedule", "The schedule in Cron format, see https://en.wikipedia.org/wiki/Cron."),
        Column::string(
            "Timezone",
            "The time zone name for the given schedule, see https://en.wikipedia.org/wiki/List_of_tz_database_time_zones.",
        ),
        Column::new(
            "Suspend",
            "boolean",
            "This flag tells the controller to suspend subsequent executions, it does not apply to already started executions. Defaults to false.",
        ),
        Column::integer("Active", "A list of pointers to currently running jobs."),
        Column::string("Last Schedule", "Information when was the last time the job was successfully scheduled."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    |object, now| {
        let suspend = match object.pointer("/spec/suspend").and_then(Value::as_bool) {
            Some(true) => "True",
            Some(false) => "False",
            None => UNSET,
        };
        let [names, images] = containers(object, "/spec/jobTemplate/spec/template/spec");
        vec![
            name(object),
            text(object, "/spec/schedule").into(),
            text_or(object, "/spec/timeZone", NONE).into(),
            suspend.into(),
            super::cell::count(object, "/status/active").into(),
            since(object, "/status/lastScheduleTime", now).unwrap_or_else(|| NONE.to_owned()).into(),
            age(object, now),
            names,
            images,
            selector(object.pointer("/spec/jobTemplate/spec/selector")).into(),
        ]
    },
);
