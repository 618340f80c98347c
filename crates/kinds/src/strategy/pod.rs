//! What a pod is born with: its class, the condition that it waits at gates, and selectors completed by its own labels.
//!
//! Source: `PrepareForCreate` in `pkg/registry/core/pod/strategy.go` of Kubernetes 1.36.

use serde_json::{Value, json};

use crate::path::list;

pub(super) fn create(pod: &mut Value) {
    pod["status"]["qosClass"] = Value::from(super::quality_of_service(&pod["spec"]));
    if !list(&pod["spec"], "schedulingGates").is_empty() {
        pod["status"]["conditions"] = json!([{
            "type": "PodScheduled",
            // A pod is born with this generation.
            "observedGeneration": 1,
            "status": "False",
            "lastProbeTime": null,
            "lastTransitionTime": null,
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
        }]);
    }
    complete_selectors(pod);
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Keys whose values a term takes from the pod itself become conditions of its selector.
fn complete_selectors(pod: &mut Value) {
    let labels = pod["metadata"]["labels"].clone();
    let spec = &mut pod["spec"];
    for constraint in items(spec, "topologySpreadConstraints") {
        complete(constraint, "matchLabelKeys", "In", &labels);
    }
    let Some(affinity) = spec.get_mut("affinity") else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = affinity.get_mut(kind) else { continue };
        for term in items(affinity, REQUIRED) {
            complete_term(term, &labels);
        }
        for weighted in items(affinity, PREFERRED) {
            if let Some(term) = weighted.get_mut("podAffinityTerm") {
                complete_term(term, &labels);
            }
        }
    }
}

fn items<'a>(holder: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    holder.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

fn complete_term(term: &mut Value, labels: &Value) {
    complete(term, "matchLabelKeys", "In", labels);
    complete(term, "mismatchLabelKeys", "NotIn", labels);
}

fn complete(term: &mut Value, field: &str, operator: &str, labels: &Value) {
    let keys: Vec<Value> = list(term, field).to_vec();
    if keys.is_empty() || !term["labelSelector"].is_object() {
        return;
    }
    for key in keys.iter().filter_map(Value::as_str) {
        let Some(value) = labels.get(key) else { continue };
        let condition = json!({"key": key, "operator": operator, "values": [value]});
        let expressions = &mut term["labelSelector"]["matchExpressions"];
        match expressions.as_array_mut() {
            Some(expressions) => expressions.push(condition),
            None => *expressions = json!([condition]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_and_keys() {
        let mut pod = json!({"metadata": {"labels": {"app": "a", "hash": "1"}}, "status": {}, "spec": {
            "schedulingGates": [{"name": "g"}], "containers": [],
            "topologySpreadConstraints": [{"matchLabelKeys": ["hash", "none"], "labelSelector": {}}],
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"mismatchLabelKeys": ["hash"], "labelSelector": {"matchLabels": {"app": "a"}}}]}}}});
        create(&mut pod);
        assert_eq!(pod["status"]["conditions"][0]["reason"], "SchedulingGated");
        assert_eq!(
            pod["spec"]["topologySpreadConstraints"][0]["labelSelector"],
            json!({"matchExpressions": [{"key": "hash", "operator": "In", "values": ["1"]}]})
        );
        let term = &pod["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0];
        assert_eq!(term["labelSelector"]["matchExpressions"][0]["operator"], "NotIn");
    }
}
