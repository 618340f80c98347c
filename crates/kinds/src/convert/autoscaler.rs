//! HorizontalPodAutoscaler: stored as `autoscaling/v2`, also served as `v1`, which knows one target only.
//!
//! What `v1` has no field for travels in annotations, in a form of their own that is flatter than the second version's.
//! Source: `pkg/apis/autoscaling/v1/conversion.go` and `pkg/apis/autoscaling/annotations.go` of Kubernetes 1.36.

use serde_json::{Map, Value, json};

use crate::catalogue::Catalogue;
use crate::decode::FieldValidation;
use crate::path::text;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOUR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const ANNOTATIONS: [&str; 4] = [METRICS, CURRENT_METRICS, CONDITIONS, BEHAVIOUR];

/// The field of a metric that describes it, by the metric's type.
const SOURCES: [&str; 5] = ["object", "pods", "resource", "containerResource", "external"];

/// The annotations of an object; made when they are missing.
fn annotations(object: &mut Value) -> Option<&mut Map<String, Value>> {
    let metadata = object.get_mut("metadata")?.as_object_mut()?;
    metadata.entry("annotations").or_insert_with(|| json!({})).as_object_mut()
}

fn take(object: &mut Value, field: &str) -> Value {
    object.as_object_mut().and_then(|fields| fields.remove(field)).unwrap_or_default()
}

/// Puts a value where there is one to put.
fn put(object: &mut Value, field: &str, value: Value) {
    if value.is_null() {
        return;
    }
    if let Some(fields) = object.as_object_mut() {
        fields.insert(field.to_owned(), value);
    }
}

/// Removes the annotations in which parts travel, and gives those that can be read.
fn parts(object: &mut Value) -> [Value; 4] {
    let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) else {
        return Default::default();
    };
    let read = ANNOTATIONS.map(|name| {
        let text = annotations.remove(name);
        // What cannot be read is passed over, as upstream passes over it.
        text.and_then(|text| serde_json::from_str(text.as_str()?).ok()).unwrap_or_default()
    });
    if annotations.is_empty()
        && let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
    {
        metadata.remove("annotations");
    }
    read
}

/// From the first version to the second. Anybody can write annotations: parts that are not of the second version's shape
/// are passed over.
pub(super) fn to_second(object: &mut Value) {
    let parts = parts(object);
    let plain = object.clone();
    assemble(object, parts);
    let mut shaped = object.clone();
    put(&mut shaped, "apiVersion", Value::from("autoscaling/v2"));
    let catalogue = Catalogue::builtin();
    let second = catalogue.by_kind("autoscaling/v2", "HorizontalPodAutoscaler").expect("the table has it");
    if second.check_shape(&mut shaped, FieldValidation::Ignore).is_ok() {
        *object = shaped;
    } else {
        *object = plain;
        assemble(object, [const { Value::Null }; 4]);
    }
}

fn assemble(object: &mut Value, parts: [Value; 4]) {
    let [metrics, current, conditions, behaviour] = parts;
    let mut wanted: Vec<Value> = metrics.as_array().into_iter().flatten().map(|metric| raise(metric, true)).collect();
    if let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) {
        let percent = take(spec, "targetCPUUtilizationPercentage");
        if !percent.is_null() {
            wanted.push(json!({"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": percent}}}));
        }
        if !wanted.is_empty() {
            put(spec, "metrics", Value::from(wanted));
        }
        if behaviour.as_object().is_some_and(|behaviour| !behaviour.is_empty()) {
            put(spec, "behavior", behaviour);
        }
        // The second version is never without metrics.
        crate::defaults::autoscaler(spec);
    }
    if let Some(status) = object.get_mut("status").filter(|status| status.is_object()) {
        let percent = take(status, "currentCPUUtilizationPercentage");
        if let Some(current) = current.as_array() {
            put(status, "currentMetrics", current.iter().map(|metric| raise(metric, false)).collect());
        } else if !percent.is_null() {
            let metric = json!({"type": "Resource", "resource": {"name": "cpu",
                "current": {"averageUtilization": percent}}});
            put(status, "currentMetrics", json!([metric]));
        }
        if conditions.is_array() {
            put(status, "conditions", conditions);
        }
    }
}

/// From the second version to the first.
pub(super) fn to_first(object: &mut Value) {
    parts(object);
    let mut carried: Vec<(&str, Value)> = Vec::new();
    if let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) {
        let metrics = take(spec, "metrics");
        let metrics = metrics.as_array().cloned().unwrap_or_default();
        if let Some(percent) = metrics.iter().find_map(|metric| utilization(metric, "target")) {
            put(spec, "targetCPUUtilizationPercentage", percent);
        }
        let others = metrics.iter().filter(|metric| utilization(metric, "target").is_none());
        let others: Vec<Value> = others.map(|metric| lower(metric, true)).collect();
        if !others.is_empty() {
            carried.push((METRICS, Value::from(others)));
        }
        let behaviour = take(spec, "behavior");
        if !behaviour.is_null() {
            carried.push((BEHAVIOUR, behaviour));
        }
    }
    if let Some(status) = object.get_mut("status").filter(|status| status.is_object()) {
        let current = take(status, "currentMetrics");
        let current = current.as_array().cloned().unwrap_or_default();
        if let Some(percent) = current.iter().find_map(|metric| utilization(metric, "current")) {
            put(status, "currentCPUUtilizationPercentage", percent);
        }
        if !current.is_empty() {
            let current: Vec<Value> = current.iter().map(|metric| lower(metric, false)).collect();
            carried.push((CURRENT_METRICS, Value::from(current)));
        }
        let conditions = take(status, "conditions");
        if conditions.as_array().is_some_and(|conditions| !conditions.is_empty()) {
            carried.push((CONDITIONS, conditions));
        }
    }
    if carried.is_empty() {
        return;
    }
    if let Some(annotations) = annotations(object) {
        annotations.extend(carried.into_iter().map(|(name, part)| (name.to_owned(), part.to_string().into())));
    }
}

/// The percentage of a metric that the first version has a field for.
fn utilization(metric: &Value, field: &str) -> Option<Value> {
    let resource = &metric["resource"];
    let percent = &resource[field]["averageUtilization"];
    (text(metric, "type") == "Resource" && text(resource, "name") == "cpu" && !percent.is_null())
        .then(|| percent.clone())
}

/// The names of the amounts in the flat form: those wanted begin with `target`, those found with `current`.
fn names(wanted: bool) -> [(&'static str, &'static str); 3] {
    match wanted {
        true => [
            ("value", "targetValue"),
            ("averageValue", "targetAverageValue"),
            ("averageUtilization", "targetAverageUtilization"),
        ],
        false => [
            ("value", "currentValue"),
            ("averageValue", "currentAverageValue"),
            ("averageUtilization", "currentAverageUtilization"),
        ],
    }
}

/// The name of the average: an object's has none in front.
fn flat<'n>(source: &str, name: &'n str, flat: &'n str) -> &'n str {
    if source == "object" && name == "averageValue" { name } else { flat }
}

/// A metric of the second version in the flat form.
fn lower(metric: &Value, wanted: bool) -> Value {
    let mut out = json!({"type": metric["type"]});
    for source in SOURCES.into_iter().filter(|source| !metric[*source].is_null()) {
        let given = &metric[source];
        let mut flattened = json!({});
        for field in ["name", "container"] {
            put(&mut flattened, field, given[field].clone());
        }
        put(&mut flattened, "target", given["describedObject"].clone());
        put(&mut flattened, "metricName", given["metric"]["name"].clone());
        let selector = if source == "external" { "metricSelector" } else { "selector" };
        put(&mut flattened, selector, given["metric"]["selector"].clone());
        let amounts = &given[if wanted { "target" } else { "current" }];
        for (name, flat_name) in names(wanted) {
            put(&mut flattened, flat(source, name, flat_name), amounts[name].clone());
        }
        for field in required(source, wanted) {
            if flattened[*field].is_null() {
                put(&mut flattened, field, Value::from("0"));
            }
        }
        put(&mut out, source, flattened);
    }
    out
}

/// Amounts that the flat form always has.
fn required(source: &str, wanted: bool) -> &'static [&'static str] {
    match (source, wanted) {
        ("object", true) => &["targetValue"],
        ("pods", true) => &["targetAverageValue"],
        ("object" | "external", false) => &["currentValue"],
        ("pods" | "resource" | "containerResource", false) => &["currentAverageValue"],
        _ => &[],
    }
}

/// A metric of the flat form in the second version.
fn raise(metric: &Value, wanted: bool) -> Value {
    let mut out = json!({"type": metric["type"]});
    for source in SOURCES.into_iter().filter(|source| metric[*source].is_object()) {
        let given = &metric[source];
        let mut raised = json!({});
        for field in ["name", "container"] {
            put(&mut raised, field, given[field].clone());
        }
        put(&mut raised, "describedObject", given["target"].clone());
        if !given["metricName"].is_null() {
            let selector = if source == "external" { "metricSelector" } else { "selector" };
            let mut identifier = json!({"name": given["metricName"]});
            put(&mut identifier, "selector", given[selector].clone());
            put(&mut raised, "metric", identifier);
        }
        let mut amounts = json!({});
        for (name, flat_name) in names(wanted) {
            put(&mut amounts, name, given[flat(source, name, flat_name)].clone());
        }
        if wanted {
            let kind = match source {
                "object" if amounts["averageValue"].is_null() => "Value",
                "external" if !amounts["value"].is_null() => "Value",
                "resource" | "containerResource" if !amounts["averageUtilization"].is_null() => "Utilization",
                _ => "AverageValue",
            };
            // Of an object's two amounts, the flat form writes the one that is not meant as nothing.
            if source == "object" && kind == "AverageValue" && amounts["value"] == "0" {
                take(&mut amounts, "value");
            }
            put(&mut amounts, "type", Value::from(kind));
        }
        put(&mut raised, if wanted { "target" } else { "current" }, amounts);
        put(&mut out, source, raised);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(second: &Value) -> (Value, Value) {
        let catalogue = Catalogue::builtin();
        let kind = catalogue.by_kind("autoscaling/v1", "HorizontalPodAutoscaler").expect("it is served");
        let mut first = second.clone();
        kind.from_storage(&mut first);
        let mut again = first.clone();
        kind.to_storage(&mut again);
        (first, again)
    }

    /// With what is written whatever was set.
    fn whole(mut second: Value) -> Value {
        let catalogue = Catalogue::builtin();
        let kind = catalogue.by_kind("autoscaling/v2", "HorizontalPodAutoscaler").expect("a built-in kind");
        kind.check_shape(&mut second, FieldValidation::Strict).expect("it has its shape");
        second
    }

    #[test]
    fn a_plain_one_needs_no_annotations() {
        let second = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
            "spec": {"minReplicas": 1, "maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"},
                "metrics": [{"type": "Resource", "resource": {"name": "cpu",
                    "target": {"type": "Utilization", "averageUtilization": 50}}}]},
            "status": {"currentReplicas": 1}});
        let (first, again) = both(&second);
        assert_eq!(
            first,
            json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
                "spec": {"minReplicas": 1, "maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"},
                    "targetCPUUtilizationPercentage": 50}, "status": {"currentReplicas": 1}})
        );
        assert_eq!(again, whole(second));
    }

    #[test]
    fn the_rest_travels_in_annotations() {
        let second = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"annotations": {"mine": "x"}},
            "spec": {"maxReplicas": 3, "minReplicas": 2,
                "behavior": {"scaleDown": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 5}],
                    "selectPolicy": "Max"}, "scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 5}],
                    "selectPolicy": "Max", "stabilizationWindowSeconds": 0}},
                "metrics": [
                    {"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"},
                        "metric": {"name": "rps", "selector": {"matchLabels": {"a": "b"}}},
                        "target": {"type": "AverageValue", "averageValue": "5"}}},
                    {"type": "Pods", "pods": {"metric": {"name": "m"},
                        "target": {"type": "AverageValue", "averageValue": "1k"}}},
                    {"type": "External", "external": {"metric": {"name": "q"},
                        "target": {"type": "Value", "value": "30"}}},
                    {"type": "ContainerResource", "containerResource": {"name": "memory", "container": "c",
                        "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
                    {"type": "Resource", "resource": {"name": "cpu",
                        "target": {"type": "Utilization", "averageUtilization": 50}}}]},
            "status": {"conditions": [{"type": "AbleToScale", "status": "True"}],
                "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu",
                    "current": {"averageUtilization": 12, "averageValue": "3m"}}}]}});
        let (first, again) = both(&second);
        assert_eq!(first["spec"]["targetCPUUtilizationPercentage"], 50);
        assert_eq!(first["status"], json!({"currentCPUUtilizationPercentage": 12}));
        let metrics: Value =
            serde_json::from_str(first["metadata"]["annotations"][METRICS].as_str().expect("a text")).expect("JSON");
        assert_eq!(
            metrics[0],
            json!({"type": "Object", "object": {"target": {"kind": "Service", "name": "s"}, "metricName": "rps",
                "selector": {"matchLabels": {"a": "b"}}, "averageValue": "5", "targetValue": "0"}})
        );
        assert_eq!(again, whole(second));
    }

    #[test]
    fn what_cannot_be_read_is_passed_over() {
        for behaviour in ["[]", "{\"scaleUp\": 5}", "{\"scaleUp\": {\"policies\": [{\"value\": \"x\"}]}}", "{"] {
            let mut object = json!({"metadata": {"annotations": {METRICS: "{", BEHAVIOUR: behaviour}}, "spec": {}});
            to_second(&mut object);
            assert_eq!(object["metadata"], json!({}));
            let default = json!({"type": "Utilization", "averageUtilization": 80});
            assert_eq!(object["spec"]["metrics"][0]["resource"]["target"], default, "{behaviour}");
            assert!(object["spec"]["behavior"].is_null(), "{behaviour}");
        }
    }
}
