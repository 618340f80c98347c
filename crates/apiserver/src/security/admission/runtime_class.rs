//! RuntimeClass: a pod pays for the overhead of its runtime and runs where its runtime is.

use serde_json::Value;

use super::Request;
use super::fields::{is_set, items, list_mut, object_mut, text};
use crate::security::Refusal;
use crate::security::lookup::Lookup;

pub(super) async fn admit(lookup: &Lookup, request: &Request<'_>, pod: &mut Value) -> Result<(), Refusal> {
    let name = text(&pod["spec"], "runtimeClassName").to_owned();
    if name.is_empty() {
        if is_set(&pod["spec"], "overhead") {
            let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
            return Err(request.forbid(Some(pod), why));
        }
        return Ok(());
    }
    let Some(class) = lookup.object("node.k8s.io/runtimeclasses", "", &name).await? else {
        return Err(request.forbid(Some(pod), format!("pod rejected: RuntimeClass {name:?} not found")));
    };
    complete(pod, &class).map_err(|why| request.forbid(Some(pod), format!("pod rejected: {why}")))
}

fn complete(pod: &mut Value, class: &Value) -> Result<(), String> {
    let spec = &mut pod["spec"];
    let overhead = class.get("overhead").and_then(|overhead| overhead.get("podFixed"));
    match (overhead, spec.get("overhead").filter(|own| !own.is_null())) {
        (None, Some(_)) => {
            return Err("Pod Overhead set without corresponding RuntimeClass defined Overhead".to_owned());
        }
        (Some(overhead), Some(own)) if own != overhead => {
            return Err("Pod's Overhead doesn't match RuntimeClass's defined Overhead".to_owned());
        }
        (Some(overhead), None) => spec["overhead"] = overhead.clone(),
        _ => {}
    }
    let Some(scheduling) = class.get("scheduling") else { return Ok(()) };
    for (key, value) in scheduling.get("nodeSelector").and_then(Value::as_object).into_iter().flatten() {
        let selector = object_mut(spec, "nodeSelector");
        match selector.get(key) {
            Some(own) if own != value => {
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                    value.as_str().unwrap_or_default(),
                    own.as_str().unwrap_or_default()
                ));
            }
            _ => selector[key] = value.clone(),
        }
    }
    for toleration in items(scheduling, "tolerations") {
        let own = list_mut(spec, "tolerations");
        if !own.contains(toleration) {
            own.push(toleration.clone());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn classes_complete_pods() {
        let class = json!({
            "overhead": { "podFixed": { "memory": "64Mi" } },
            "scheduling": { "nodeSelector": { "vm": "yes" }, "tolerations": [{ "key": "vm" }] },
        });
        let check = |spec: Value, expected: Result<Value, &str>| {
            let mut pod = json!({ "spec": spec });
            let answer = complete(&mut pod, &class).map(|()| pod["spec"].take());
            assert_eq!(answer, expected.map_err(str::to_owned));
        };
        let full = json!({
            "overhead": { "memory": "64Mi" }, "nodeSelector": { "vm": "yes" }, "tolerations": [{ "key": "vm" }],
        });
        check(json!({}), Ok(full.clone()));
        check(full.clone(), Ok(full));
        check(
            json!({ "nodeSelector": { "vm": "no" } }),
            Err("conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no"),
        );
        check(json!({ "overhead": {} }), Err("Pod's Overhead doesn't match RuntimeClass's defined Overhead"));
    }
}
