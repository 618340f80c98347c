//! CronJob.

use serde_json::Value;

use super::super::{Errors, none_negative, required_one_of};
use crate::cron::Schedule;
use crate::field_error::FieldError;
use crate::path::{Path, text};

/// A new one.
pub(in crate::validation) fn create(job: &Value, errors: &mut Errors) {
    spec(&job["spec"], None, errors);
    // The controller adds eleven characters to make the names of jobs, which may have 63.
    let named = text(job, "metadata.name");
    if named.len() > 52 {
        errors.push(FieldError::invalid("metadata.name", named, "must be no more than 52 characters"));
    }
}

/// One that is to replace `old`.
pub(in crate::validation) fn update(job: &Value, old: &Value, errors: &mut Errors) {
    spec(&job["spec"], Some(&old["spec"]), errors);
}

fn spec(spec: &Value, old: Option<&Value>, errors: &mut Errors) {
    let path = Path::new("spec");
    let given = text(spec, "schedule");
    let place = path.child("schedule");
    if given.is_empty() {
        errors.push(FieldError::required(place, ""));
    } else {
        if let Err(error) = Schedule::parse(given) {
            errors.push(FieldError::invalid(place, given, error));
        }
        let allowed = old.is_some_and(|old| text(old, "schedule").contains("TZ"));
        let detail = match (given.contains("TZ"), allowed) {
            (true, true) if !spec["timeZone"].is_null() => {
                Some("cannot use both timeZone field and TZ or CRON_TZ in schedule")
            }
            (true, false) => Some("cannot use TZ or CRON_TZ in schedule, use timeZone field instead"),
            _ => None,
        };
        if let Some(detail) = detail {
            errors.push(FieldError::invalid(place, given, detail));
        }
    }
    if old.is_none_or(|old| old["timeZone"] != spec["timeZone"]) {
        time_zone(&spec["timeZone"], &path.child("timeZone"), errors);
    }
    let policies = ["Allow", "Forbid", "Replace"];
    required_one_of(errors, &path.child("concurrencyPolicy"), &spec["concurrencyPolicy"], &policies);
    let numbers = ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"];
    none_negative(errors, &path, spec, &numbers);
    let template = path.child("jobTemplate");
    let place = template.child("spec");
    let job = &spec["jobTemplate"]["spec"];
    super::spec(job, &place, errors);
    if !job["selector"].is_null() {
        let detail = "`selector` will be auto-generated";
        errors.push(FieldError::invalid(place.child("selector"), job["selector"].clone(), detail));
    }
    if job["manualSelector"] == true {
        errors.push(FieldError::not_supported(place.child("manualSelector"), true, &["nil", "false"]));
    }
}

fn time_zone(zone: &Value, path: &Path<'_>, errors: &mut Errors) {
    let Some(zone) = zone.as_str() else { return };
    if zone.is_empty() {
        errors.push(FieldError::invalid(path, zone, "timeZone must be nil or non-empty string"));
        return;
    }
    let good = |part: &str| {
        (1..=14).contains(&part.len())
            && !matches!(part, "." | "..")
            && !part.starts_with('-')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+'))
    };
    let unknown = || format!("unknown time zone {zone}");
    if !zone.split('/').all(good) {
        errors.push(FieldError::invalid(path, zone, unknown()));
        return;
    }
    if zone.eq_ignore_ascii_case("local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.push(FieldError::invalid(path, zone, detail));
    } else if jiff::tz::TimeZone::get(zone).is_err() {
        errors.push(FieldError::invalid(path, zone, unknown()));
    }
}
