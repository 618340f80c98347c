//! LimitRanger: defaults and bounds for the resources of containers, pods and claims of a namespace.
//!
//! Facts: upstream's `plugin/pkg/admission/limitranger/admission.go`.

use std::collections::BTreeMap;

use kobune_kinds::quota::{Resources, pod_total, resources};
use serde_json::Value;

use super::fields::{items, object_mut, text};
use super::{Operation, Request};
use crate::security::Refusal;
use crate::security::lookup::Lookup;

const COLLECTION: &str = "core/limitranges";

/// Puts default requests and limits into the containers of a new pod.
pub(super) async fn set_defaults(lookup: &Lookup, request: &Request<'_>, pod: &mut Value) -> Result<(), Refusal> {
    for range in lookup.all(COLLECTION, Some(request.namespace)).await? {
        complete(pod, &range);
    }
    Ok(())
}

/// Refuses a new pod or a claim that is out of bounds.
pub(super) async fn validate(
    lookup: &Lookup,
    request: &Request<'_>,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), Refusal> {
    let is_pod = request.is_for("", "pods") && request.creates();
    let is_claim = request.is_for("", "persistentvolumeclaims");
    if !is_pod && !is_claim {
        return Ok(());
    }
    if request.operation == Operation::Update && old.is_some_and(|old| old["spec"] == object["spec"]) {
        return Ok(());
    }
    for range in lookup.all(COLLECTION, Some(request.namespace)).await? {
        let problems = if is_pod { pod_problems(object, &range) } else { claim_problems(object, &range) };
        match problems.as_slice() {
            [] => {}
            [one] => return Err(request.forbid(Some(object), one)),
            many => return Err(request.forbid(Some(object), format!("[{}]", many.join(", ")))),
        }
    }
    Ok(())
}

fn limits_of<'a>(range: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    items(&range["spec"], "limits").iter().filter(move |limit| text(limit, "type") == kind)
}

fn complete(pod: &mut Value, range: &Value) {
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    for limit in limits_of(range, "Container") {
        // The more particular fields win over those from which upstream derives them.
        for (target, sources) in
            [(&mut limits, ["default", "max", "max"]), (&mut requests, ["defaultRequest", "default", "min"])]
        {
            for source in sources {
                for (name, quantity) in limit.get(source).and_then(Value::as_object).into_iter().flatten() {
                    target.entry(name.clone()).or_insert_with(|| quantity.clone());
                }
            }
        }
    }
    if requests.is_empty() && limits.is_empty() {
        return;
    }
    let mut notes = Vec::new();
    for (list, kind) in [("containers", "container"), ("initContainers", "init container")] {
        let Some(containers) = pod["spec"].get_mut(list).and_then(Value::as_array_mut) else { continue };
        for container in containers {
            let name = text(container, "name").to_owned();
            for (field, word, defaults) in [("requests", "request", &requests), ("limits", "limit", &limits)] {
                let own = container.get("resources").and_then(|resources| resources.get(field));
                let missing = |key: &&String| own.and_then(|own| own.get(key.as_str())).is_none();
                let set: Vec<String> = defaults.keys().filter(missing).cloned().collect();
                if set.is_empty() {
                    continue;
                }
                let target = object_mut(object_mut(container, "resources"), field);
                for key in &set {
                    target[key] = defaults[key].clone();
                }
                notes.push(format!("{} {word} for {kind} {name}", set.join(", ")));
            }
        }
    }
    if !notes.is_empty() {
        let note = format!("LimitRanger plugin set: {}", notes.join("; "));
        object_mut(object_mut(pod, "metadata"), "annotations")["kubernetes.io/limit-ranger"] = note.into();
    }
}

fn pod_problems(pod: &Value, range: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    let spec = &pod["spec"];
    for limit in limits_of(range, "Container") {
        for container in items(spec, "containers").iter().chain(items(spec, "initContainers")) {
            let own = |field: &str| resources(container.get("resources").and_then(|all| all.get(field)));
            check(limit, "Container", &own("requests"), &own("limits"), &mut problems);
        }
    }
    for limit in limits_of(range, "Pod") {
        check(limit, "Pod", &pod_total(spec, "requests"), &pod_total(spec, "limits"), &mut problems);
    }
    problems
}

fn check(limit: &Value, kind: &str, requests: &Resources, limits: &Resources, problems: &mut Vec<String>) {
    for (name, bound) in resources(limit.get("min")) {
        let start = format!("minimum {name} usage per {kind} is {bound}");
        match (requests.get(&name), limits.get(&name)) {
            (None, _) => problems.push(format!("{start}.  No request is specified")),
            (Some(own), _) if *own < bound => problems.push(format!("{start}, but request is {own}")),
            (_, Some(own)) if *own < bound => problems.push(format!("{start}, but limit is {own}")),
            _ => {}
        }
    }
    for (name, bound) in resources(limit.get("max")) {
        let start = format!("maximum {name} usage per {kind} is {bound}");
        match (limits.get(&name), requests.get(&name)) {
            (None, _) => problems.push(format!("{start}.  No limit is specified")),
            (Some(own), _) if *own > bound => problems.push(format!("{start}, but limit is {own}")),
            (_, Some(own)) if *own > bound => problems.push(format!("{start}, but request is {own}")),
            _ => {}
        }
    }
    for (name, bound) in resources(limit.get("maxLimitRequestRatio")) {
        let start = format!("{name} max limit to request ratio per {kind} is {bound}");
        let set = |own: &Resources| own.get(&name).copied().filter(|own| !own.is_zero());
        match (set(requests), set(limits)) {
            (None, _) => problems.push(format!("{start}, but no request is specified or request is 0")),
            (_, None) => problems.push(format!("{start}, but no limit is specified or limit is 0")),
            (Some(request), Some(limit)) => {
                let ratio = limit.as_f64() / request.as_f64();
                if ratio > bound.as_f64() {
                    problems.push(format!("{start}, but provided ratio is {ratio:.6}"));
                }
            }
        }
    }
}

fn claim_problems(claim: &Value, range: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    let requests = resources(claim.pointer("/spec/resources/requests"));
    for limit in limits_of(range, "PersistentVolumeClaim") {
        for (name, bound) in resources(limit.get("min")) {
            match requests.get(&name) {
                Some(own) if *own >= bound => {}
                Some(own) => problems
                    .push(format!("minimum {name} usage per PersistentVolumeClaim is {bound}, but request is {own}")),
                None => problems.push(format!(
                    "minimum {name} usage per PersistentVolumeClaim is {bound}.  No request is specified"
                )),
            }
        }
        for (name, bound) in resources(limit.get("max")) {
            match requests.get(&name) {
                Some(own) if *own <= bound => {}
                Some(own) => problems
                    .push(format!("maximum {name} usage per PersistentVolumeClaim is {bound}, but request is {own}")),
                None => problems.push(format!(
                    "maximum {name} usage per PersistentVolumeClaim is {bound}. No request is specified"
                )),
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn range(limit: Value) -> Value {
        json!({ "spec": { "limits": [limit] } })
    }

    #[test]
    fn defaults() {
        let range = range(json!({
            "type": "Container", "default": { "cpu": "1", "memory": "1Gi" }, "defaultRequest": { "cpu": "500m" },
        }));
        let mut pod = json!({ "metadata": { "name": "p" }, "spec": { "containers": [
            { "name": "a" }, { "name": "b", "resources": { "limits": { "cpu": "2" }, "requests": { "cpu": "2" } } },
        ] } });
        complete(&mut pod, &range);
        let containers = &pod["spec"]["containers"];
        assert_eq!(
            containers[0]["resources"],
            json!({ "limits": { "cpu": "1", "memory": "1Gi" }, "requests": { "cpu": "500m", "memory": "1Gi" } })
        );
        assert_eq!(
            containers[1]["resources"],
            json!({ "limits": { "cpu": "2", "memory": "1Gi" }, "requests": { "cpu": "2", "memory": "1Gi" } })
        );
        assert_eq!(
            pod["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
            "LimitRanger plugin set: cpu, memory request for container a; cpu, memory limit for container a; \
             memory request for container b; memory limit for container b"
        );
    }

    #[test]
    fn bounds() {
        let check = |limit: Value, resources: Value, expected: &[&str]| {
            let pod = json!({ "spec": { "containers": [{ "name": "a", "resources": resources }, { "name": "b", "resources": resources }] } });
            let mut found = pod_problems(&pod, &range(limit));
            found.dedup();
            assert_eq!(found, expected);
        };
        let container = |key: &str, value: &str| json!({ "type": "Container", key: { "cpu": value } });
        let both = |request: &str, limit: &str| json!({ "requests": { "cpu": request }, "limits": { "cpu": limit } });
        check(container("min", "100m"), both("100m", "200m"), &[]);
        check(
            container("min", "100m"),
            both("50m", "200m"),
            &["minimum cpu usage per Container is 100m, but request is 50m"],
        );
        check(
            container("min", "100m"),
            json!({}),
            &["minimum cpu usage per Container is 100m.  No request is specified"],
        );
        check(container("max", "1"), both("50m", "2"), &["maximum cpu usage per Container is 1, but limit is 2"]);
        check(
            container("maxLimitRequestRatio", "2"),
            both("100m", "300m"),
            &["cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000"],
        );
        let pod = json!({ "type": "Pod", "max": { "cpu": "1" } });
        check(pod.clone(), both("400m", "500m"), &[]);
        check(pod, both("400m", "600m"), &["maximum cpu usage per Pod is 1, but limit is 1200m"]);
    }
}
