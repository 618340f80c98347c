//! Event of both groups, which are one kind in two spellings.
//!
//! Source: `pkg/apis/core/validation/events.go` of Kubernetes 1.36.

use serde_json::Value;

use super::{Errors, immutable, invalid};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, text};

/// How long the free text may be, and the single words.
const NOTE: usize = 1024;
const WORD: usize = 128;

/// The names of the fields in one of the groups.
struct Spelling {
    /// Whether it is `events.k8s.io`, which asks for more.
    new: bool,
    about: &'static str,
    note: &'static str,
    controller: &'static str,
}

fn spelling(new: bool) -> Spelling {
    match new {
        true => Spelling { new, about: "regarding", note: "note", controller: "reportingController" },
        false => Spelling { new, about: "involvedObject", note: "message", controller: "reportingComponent" },
    }
}

/// A new event, as one of the groups spells it.
pub(super) fn create(event: &Value, new: bool, errors: &mut Errors) {
    let spelling = spelling(new);
    common(event, &spelling, errors);
    if !spelling.new {
        return;
    }
    series(event, errors);
    if event["eventTime"].is_null() {
        errors.push(FieldError::required("eventTime", ""));
    }
    if !matches!(text(event, "type"), "Normal" | "Warning") {
        errors.push(FieldError::invalid("type", "", format!("has invalid value: {}", text(event, "type"))));
    }
    for (field, shown) in [
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedCount", "count"),
        ("deprecatedSource", "source"),
    ] {
        let unset = match &event[field] {
            Value::Null => true,
            Value::Object(fields) => fields.is_empty(),
            value => *value == 0,
        };
        if !unset {
            errors.push(FieldError::invalid(shown, "", "needs to be unset"));
        }
    }
}

fn common(event: &Value, spelling: &Spelling, errors: &mut Errors) {
    let namespace = text(&event["metadata"], "namespace");
    let about_in = text(&event[spelling.about], "namespace");
    let timed = !event["eventTime"].is_null();
    // What is about something in no namespace is kept in `default`.
    let matches = match (timed, about_in) {
        (false, "") => matches!(namespace, "" | "default"),
        (false, about_in) => namespace == about_in,
        (true, "") => matches!(namespace, "default" | "kube-system"),
        (true, _) => true,
    };
    if !matches {
        let path = Path::new("involvedObject");
        errors.push(FieldError::invalid(path.child("namespace"), about_in, "does not match event.namespace"));
    }
    if timed {
        let controller = text(event, spelling.controller);
        let path = Path::new(spelling.controller);
        if controller.is_empty() {
            errors.push(FieldError::required(path, ""));
        }
        invalid(errors, &path, &Value::from(controller), name::qualified_name(controller));
        word(event, "reportingInstance", "repotingIntance", errors);
        word(event, "action", "action", errors);
        word(event, "reason", "reason", errors);
        if text(event, spelling.note).len() > NOTE {
            errors.push(FieldError::invalid("message", "", format!("can have at most {NOTE} characters")));
        }
    }
    invalid(errors, &Path::new("namespace"), &Value::from(namespace), name::dns1123_subdomain(namespace));
}

/// A text that must be there and short; upstream spells one of the fields its own way when it is too long.
fn word(event: &Value, field: &str, shown: &str, errors: &mut Errors) {
    match text(event, field).len() {
        0 => errors.push(FieldError::required(field, "")),
        1..=WORD => {}
        _ => errors.push(FieldError::invalid(shown, "", format!("can have at most {WORD} characters"))),
    }
}

fn series(event: &Value, errors: &mut Errors) {
    let series = &event["series"];
    if series.is_null() {
        return;
    }
    if series["count"].as_i64().unwrap_or(0) < 2 {
        errors.push(FieldError::invalid("series.count", "", "should be at least 2"));
    }
    if series["lastObservedTime"].is_null() {
        errors.push(FieldError::required("series.lastObservedTime", ""));
    }
}

/// An event that is to replace `old`: of a new one, only the series goes on.
pub(super) fn update(event: &Value, old: &Value, new: bool, errors: &mut Errors) {
    let spelling = spelling(new);
    common(event, &spelling, errors);
    if !spelling.new {
        return;
    }
    for (field, shown) in [
        ("regarding", "involvedObject"),
        ("reason", "reason"),
        ("note", "message"),
        ("deprecatedSource", "source"),
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedCount", "count"),
        ("type", "type"),
        ("eventTime", "eventTime"),
        ("action", "action"),
        ("related", "related"),
        ("reportingController", "reportingController"),
        ("reportingInstance", "reportingInstance"),
    ] {
        immutable(errors, shown, &event[field], &old[field]);
    }
    series(event, errors);
}
