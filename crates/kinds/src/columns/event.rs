//! Events, in both of the groups that show them.

use jiff::Timestamp;
use serde_json::Value;

use super::cell::{UNKNOWN, int, name, since, text, text_or};
use super::{Column, NAME, Table};

const NAME_LAST: Column = Column { priority: 1, ..NAME };

pub(super) const TABLE: Table = (
    &[
        Column::string("Last Seen", "The time at which the most recent occurrence of this event was recorded."),
        Column::string("Type", "Type of this event (Normal, Warning), new types could be added in the future"),
        Column::string(
            "Reason",
            "This should be a short, machine understandable string that gives the reason for the transition into the object's current status.",
        ),
        Column::string("Object", "The object that this event is about."),
        Column::string("Subobject", "The part of the object that this event is about.").wide(),
        Column::string(
            "Source",
            "The component reporting this event. Should be a short machine understandable string.",
        )
        .wide(),
        Column::string("Message", "A human-readable description of the status of this operation."),
        Column::string(
            "First Seen",
            "The time at which the event was first recorded. (Time of server receipt is in TypeMeta.)",
        )
        .wide(),
        Column::integer("Count", "The number of times this event has occurred.").wide(),
        NAME_LAST,
    ],
    row,
);

/// The field as `core` names it, or as `events.k8s.io` does.
fn either<'a>(event: &'a Value, core: &str, events: &str) -> &'a str {
    text_or(event, core, text(event, events))
}

fn row(event: &Value, now: Timestamp) -> Vec<Value> {
    let ago = |pointers: &[&str]| pointers.iter().find_map(|pointer| since(event, pointer, now));
    let first = ago(&["/firstTimestamp", "/deprecatedFirstTimestamp", "/eventTime"]);
    let mut last = ago(&["/lastTimestamp", "/deprecatedLastTimestamp"]).or_else(|| first.clone());
    let mut count = int(event, "/count").max(int(event, "/deprecatedCount"));
    if event.get("series").is_some_and(Value::is_object) {
        last = ago(&["/series/lastObservedTime"]);
        count = int(event, "/series/count");
    } else if count == 0 {
        // An event of the new kind without a series has happened once.
        count = 1;
    }
    let mut object = either(event, "/involvedObject/kind", "/regarding/kind").to_lowercase();
    let target = either(event, "/involvedObject/name", "/regarding/name");
    if !target.is_empty() {
        object = format!("{object}/{target}");
    }
    let component =
        text_or(event, "/source/component", either(event, "/deprecatedSource/component", "/reportingController"));
    let component = text_or(event, "/source/component", text_or(event, "/reportingComponent", component));
    let host = text_or(event, "/source/host", either(event, "/deprecatedSource/host", "/reportingInstance"));
    let source = if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") };
    let unknown = |moment: Option<String>| Value::from(moment.unwrap_or_else(|| UNKNOWN.to_owned()));
    vec![
        unknown(last),
        text(event, "/type").into(),
        text(event, "/reason").into(),
        object.into(),
        either(event, "/involvedObject/fieldPath", "/regarding/fieldPath").into(),
        source.into(),
        either(event, "/message", "/note").trim().into(),
        unknown(first),
        count.into(),
        name(event),
    ]
}
