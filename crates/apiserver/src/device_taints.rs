//! When a device was tainted: upstream's defaults put the time where a driver says nothing, and eviction counts from it.

use kobune_kinds::Kind;
use serde_json::Value;

use crate::call;

/// Whether objects of this kind have devices with taints.
pub(crate) fn concerns(kind: &Kind) -> bool {
    &*kind.collection == "resource.k8s.io/resourceslices"
}

fn devices(slice: &Value) -> impl Iterator<Item = &Value> {
    slice["spec"]["devices"].as_array().into_iter().flatten()
}

fn since<'o>(old: &'o Value, device: &Value, taint: &Value) -> Option<&'o Value> {
    let same = |known: &&Value| ["key", "value", "effect"].iter().all(|field| known.get(field) == taint.get(field));
    let device = devices(old).find(|known| known["name"] == device["name"])?;
    device["taints"].as_array()?.iter().find(same)?.get("timeAdded").filter(|time| !time.is_null())
}

/// Puts the time on taints that have none. One that was there before keeps its time, so that a driver which writes the same
/// again changes nothing.
pub(crate) fn stamp(object: &mut Value, old: &Value) {
    let Some(all) = object["spec"]["devices"].as_array_mut() else { return };
    for device in all {
        let named = serde_json::json!({"name": device["name"]});
        let Some(taints) = device.get_mut("taints").and_then(Value::as_array_mut) else { continue };
        for taint in taints {
            if taint.get("timeAdded").is_none_or(Value::is_null) {
                let time = since(old, &named, taint).cloned().unwrap_or_else(|| call::now_text().into());
                if let Some(fields) = taint.as_object_mut() {
                    fields.insert("timeAdded".to_owned(), time);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn taints_keep_their_time() {
        let slice = |taints: Value| json!({"spec": {"devices": [{"name": "d"}, {"name": "e", "taints": taints}]}});
        let time = |slice: &Value, at: usize| slice["spec"]["devices"][1]["taints"][at]["timeAdded"].clone();
        let mut made = slice(json!([{"key": "a", "effect": "NoExecute"}]));
        stamp(&mut made, &Value::Null);
        assert!(time(&made, 0).as_str().is_some_and(|time| time.parse::<jiff::Timestamp>().is_ok()), "{made}");
        let old = slice(json!([{"key": "a", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}]));
        let mut changed = slice(json!([
            {"key": "b", "effect": "NoExecute", "timeAdded": "2026-02-02T00:00:00Z"},
            {"key": "a", "effect": "NoExecute"},
            {"key": "a", "effect": "NoSchedule"},
        ]));
        stamp(&mut changed, &old);
        assert_eq!(time(&changed, 0), "2026-02-02T00:00:00Z", "what a driver says counts");
        assert_eq!(time(&changed, 1), "2026-01-01T00:00:00Z", "what was there stays");
        assert!(time(&changed, 2).as_str().is_some_and(|time| time > "2026-02"), "another effect is another taint");
    }
}
