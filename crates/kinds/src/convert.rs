//! Conversion between served versions and the storage version.
//!
//! Events are one kind in two groups: stored as `v1`, also served as `events.k8s.io/v1`, with other names for the same
//! fields. Source: `pkg/apis/core/v1/conversion.go` and the field tags of `k8s.io/api/events/v1`.

mod autoscaler;

use serde_json::Value;

use crate::kind::Kind;

/// Names in `events.k8s.io/v1`, and in `v1`.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

pub(crate) fn to_storage(kind: &Kind, object: &mut Value) {
    if is_new_event(kind) {
        rename(object, EVENT_FIELDS);
    } else if is_first_autoscaler(kind) {
        autoscaler::to_second(object);
    }
    put_version(object, kind.storage_api_version());
}

pub(crate) fn from_storage(kind: &Kind, object: &mut Value) {
    if is_new_event(kind) {
        rename(object, EVENT_FIELDS.map(|(new, old)| (old, new)));
    } else if is_first_autoscaler(kind) {
        autoscaler::to_first(object);
    }
    put_version(object, kind.api_version());
}

fn put_version(object: &mut Value, version: String) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert("apiVersion".to_owned(), version.into());
    }
}

fn is_first_autoscaler(kind: &Kind) -> bool {
    &*kind.kind == "HorizontalPodAutoscaler" && &*kind.version == "v1"
}

fn is_new_event(kind: &Kind) -> bool {
    &*kind.group == "events.k8s.io" && &*kind.kind == "Event"
}

fn rename<const COUNT: usize>(object: &mut Value, names: [(&str, &str); COUNT]) {
    let Some(fields) = object.as_object_mut() else { return };
    for (from, to) in names {
        if let Some(value) = fields.remove(from) {
            fields.insert(to.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::catalogue::Catalogue;

    #[test]
    fn events_go_both_ways() {
        let catalogue = Catalogue::builtin();
        let kind = catalogue.by_kind("events.k8s.io/v1", "Event").expect("it is served").clone();
        let new = json!({"note": "n", "regarding": {"kind": "Pod"}, "reportingController": "c", "deprecatedCount": 2});
        let mut object = new.clone();
        kind.to_storage(&mut object);
        assert_eq!(object["message"], "n");
        assert_eq!(object["involvedObject"]["kind"], "Pod");
        assert_eq!(object["count"], 2);
        kind.from_storage(&mut object);
        for field in ["note", "regarding", "reportingController", "deprecatedCount"] {
            assert_eq!(object[field], new[field], "{field}");
        }
    }
}
