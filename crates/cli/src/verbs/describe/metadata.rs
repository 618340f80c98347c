//! What every description has: name, labels, annotations, owner, conditions and events.

use jiff::Timestamp;
use serde_json::Value;

use super::read::{int, items, moment, pairs, since, text};
use super::writer::Writer;

/// Longer annotations stand on lines of their own, cut.
pub const LONGEST: usize = 140;

/// What client-side apply keeps in an annotation is of no interest to people.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// `Name:`.
pub fn name(w: &mut Writer, object: &Value) {
    w.field(0, "Name", text(&object["metadata"]["name"]));
}

/// `Name:` and `Namespace:`.
pub fn name_and_namespace(w: &mut Writer, object: &Value) {
    name(w, object);
    w.field(0, "Namespace", text(&object["metadata"]["namespace"]));
}

/// `Labels:` and `Annotations:`.
pub fn labels_and_annotations(w: &mut Writer, object: &Value) {
    labels(w, "Labels", &object["metadata"]["labels"]);
    annotations(w, "Annotations", &object["metadata"]["annotations"]);
}

/// A map of texts, one a line.
pub fn labels(w: &mut Writer, title: &str, labels: &Value) {
    labels_indented(w, "", title, labels);
}

/// The same with blanks before every line.
pub fn labels_indented(w: &mut Writer, indent: &str, title: &str, labels: &Value) {
    w.put(0, format!("{indent}{title}:\t"));
    let pairs = pairs(labels);
    if pairs.is_empty() {
        w.end("<none>");
        return;
    }
    for (index, (name, value)) in pairs.into_iter().enumerate() {
        if index > 0 {
            w.put(0, indent);
            w.put(0, "\t");
        }
        w.line(0, format!("{name}={value}"));
    }
}

/// Annotations, one a line; long ones and those of several lines stand below their names.
pub fn annotations(w: &mut Writer, title: &str, annotations: &Value) {
    w.put(0, format!("{title}:\t"));
    let pairs: Vec<(&str, String)> = pairs(annotations).into_iter().filter(|(name, _)| *name != LAST_APPLIED).collect();
    if pairs.is_empty() {
        w.end("<none>");
        return;
    }
    for (index, (name, value)) in pairs.into_iter().enumerate() {
        if index > 0 {
            w.put(0, "\t");
        }
        let value = value.strip_suffix('\n').unwrap_or(&value);
        if value.len() + name.len() + 2 > LONGEST || value.contains('\n') {
            w.line(0, format!("{name}:"));
            for line in value.split('\n') {
                w.line(0, format!("\t  {}", super::read::shortened(line, LONGEST - 2)));
            }
        } else {
            w.line(0, format!("{name}: {value}"));
        }
    }
}

/// `Created By`'s successor: who controls the object.
pub fn controlled_by(w: &mut Writer, object: &Value) {
    if let Some(owner) = super::read::controller(object) {
        w.field(0, "Controlled By", format!("{}/{}", text(&owner["kind"]), text(&owner["name"])));
    }
}

/// When the object was made.
pub fn creation(w: &mut Writer, object: &Value) {
    w.field(0, "CreationTimestamp", moment(&object["metadata"]["creationTimestamp"]));
}

/// Conditions of workloads: type, status, reason.
pub fn conditions_with_reasons(w: &mut Writer, object: &Value) {
    let conditions = items(&object["status"]["conditions"]);
    if conditions.is_empty() {
        return;
    }
    w.line(0, "Conditions:\n  Type\tStatus\tReason");
    w.line(1, "----\t------\t------");
    for condition in conditions {
        let [kind, status, reason] = ["type", "status", "reason"].map(|field| text(&condition[field]));
        w.line(1, format!("{kind} \t{status}\t{reason}"));
    }
}

/// Conditions with the times of their changes and messages.
pub fn conditions_with_messages(w: &mut Writer, object: &Value) {
    w.line(0, "Conditions:");
    w.line(1, "Type\tStatus\tLastTransitionTime\tReason\tMessage");
    w.line(1, "----\t------\t------------------\t------\t-------");
    for condition in items(&object["status"]["conditions"]) {
        let [kind, status, reason, message] =
            ["type", "status", "reason", "message"].map(|field| text(&condition[field]));
        let changed = moment(&condition["lastTransitionTime"]);
        w.line(1, format!("{kind}\t{status}\t{changed}\t{reason}\t{message}"));
    }
}

/// What happened to an object; nothing where it is not to be shown.
pub fn events(w: &mut Writer, events: Option<&[Value]>, now: Timestamp) {
    let Some(events) = events else { return };
    if events.is_empty() {
        w.line(0, "Events:\t<none>");
        return;
    }
    w.flush();
    let mut events: Vec<&Value> = events.iter().collect();
    events.sort_by_key(|event| super::read::time(&event["lastTimestamp"]));
    w.line(0, "Events:\n  Type\tReason\tAge\tFrom\tMessage");
    w.line(1, "----\t------\t----\t----\t-------");
    for event in events {
        let first = match &event["eventTime"] {
            Value::Null => since(&event["firstTimestamp"], now),
            time => since(time, now),
        };
        let series = &event["series"];
        let age = if series.is_object() {
            format!("{} (x{} over {first})", since(&series["lastObservedTime"], now), int(&series["count"]))
        } else if int(&event["count"]) > 1 {
            format!("{} (x{} over {first})", since(&event["lastTimestamp"], now), int(&event["count"]))
        } else {
            first
        };
        let mut source = text(&event["source"]["component"]);
        if source.is_empty() {
            source = text(&event["reportingComponent"]);
        }
        let mut message = text(&event["message"]).trim().to_owned();
        let part = text(&event["involvedObject"]["fieldPath"]);
        if !part.is_empty() {
            message = format!("{part}: {message}");
        }
        w.line(1, format!("{}\t{}\t{age}\t{source}\t{message}", text(&event["type"]), text(&event["reason"])));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn written(body: impl FnOnce(&mut Writer)) -> String {
        let mut writer = Writer::new();
        body(&mut writer);
        writer.finish()
    }

    #[test]
    fn maps() {
        let check = |map: Value, expected: &str| assert_eq!(written(|w| labels(w, "Labels", &map)), expected, "{map}");
        check(Value::Null, "Labels:  <none>\n");
        check(json!({"b": "c", "a": "d"}), "Labels:  a=d\n         b=c\n");
        let check = |map: Value, expected: &str| {
            assert_eq!(written(|w| annotations(w, "Annotations", &map)), expected, "{map}");
        };
        check(json!({"kubectl.kubernetes.io/last-applied-configuration": "x"}), "Annotations:  <none>\n");
        check(
            json!({"a": "b\n", "c": "d\ne"}),
            "Annotations:  a: b\n              c:\n                d\n                e\n",
        );
        let long = "x".repeat(150);
        check(json!({"a": long}), &format!("Annotations:  a:\n                {}...\n", "x".repeat(138)));
    }

    #[test]
    fn what_happened() {
        let now = Timestamp::from_second(1000).unwrap();
        let check = |list: Option<&[Value]>, expected: &str| assert_eq!(written(|w| events(w, list, now)), expected);
        check(None, "");
        check(Some(&[]), "Events:  <none>\n");
        let list = [
            json!({"type": "Normal", "reason": "B", "firstTimestamp": "1970-01-01T00:10:00Z", "lastTimestamp": "1970-01-01T00:16:00Z",
                "count": 3, "source": {"component": "kubelet"}, "message": " hi ", "involvedObject": {"fieldPath": "spec.x"}}),
            json!({"type": "Warning", "reason": "A", "eventTime": "1970-01-01T00:16:30.000000Z", "reportingComponent": "sched",
                "message": "no", "series": {"count": 2, "lastObservedTime": "1970-01-01T00:16:35.000000Z"}}),
        ];
        check(
            Some(&list),
            "Events:\n  Type     Reason  Age                  From     Message\n  \
             ----     ------  ----                 ----     -------\n  \
             Warning  A       5s (x2 over 10s)     sched    no\n  \
             Normal   B       40s (x3 over 6m40s)  kubelet  spec.x: hi\n",
        );
    }
}
