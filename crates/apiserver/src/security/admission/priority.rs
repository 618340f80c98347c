//! Priority: the number of a pod's priority class, and one default class at most.

use std::sync::Arc;

use serde_json::Value;

use super::fields::{is_set, text};
use super::{Operation, Request};
use crate::security::Refusal;
use crate::security::lookup::Lookup;

const COLLECTION: &str = "scheduling.k8s.io/priorityclasses";
const DEFAULT_POLICY: &str = "PreemptLowerPriority";

/// What a pod gets from its class.
struct Computed {
    class: String,
    value: i64,
    policy: String,
}

/// Puts the priority into a pod.
pub(super) async fn admit_pod(
    lookup: &Lookup,
    request: &Request<'_>,
    pod: &mut Value,
    old: Option<&Value>,
) -> Result<(), Refusal> {
    if request.operation == Operation::Update {
        // An update that leaves the computed fields out does not take them away.
        if let Some(old) = old {
            for key in ["priority", "preemptionPolicy"] {
                if !is_set(&pod["spec"], key) && is_set(&old["spec"], key) {
                    pod["spec"][key] = old["spec"][key].clone();
                }
            }
        }
        return Ok(());
    }
    let name = text(&pod["spec"], "priorityClassName").to_owned();
    let class = if name.is_empty() {
        default_class(&lookup.all(COLLECTION, None).await?)
    } else {
        let class = lookup.object(COLLECTION, "", &name).await?;
        let why = || format!("no PriorityClass with name {name} was found");
        Some(class.ok_or_else(|| request.forbid(Some(pod), why()))?)
    };
    let computed = compute(class.as_deref());
    put(pod, &computed).map_err(|why| request.forbid(Some(pod), why))
}

fn compute(class: Option<&Value>) -> Computed {
    let Some(class) = class else {
        return Computed { class: String::new(), value: 0, policy: DEFAULT_POLICY.to_owned() };
    };
    let policy = match text(class, "preemptionPolicy") {
        "" => DEFAULT_POLICY,
        policy => policy,
    };
    Computed {
        class: text(&class["metadata"], "name").to_owned(),
        value: class.get("value").and_then(Value::as_i64).unwrap_or_default(),
        policy: policy.to_owned(),
    }
}

fn put(pod: &mut Value, computed: &Computed) -> Result<(), String> {
    let spec = &mut pod["spec"];
    if let Some(own) = spec.get("priority").and_then(Value::as_i64)
        && own != computed.value
    {
        return Err(format!(
            "the integer value of priority ({own}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
            computed.value
        ));
    }
    let own = text(spec, "preemptionPolicy");
    if !own.is_empty() && own != computed.policy {
        return Err(format!(
            "the string value of PreemptionPolicy ({own}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
            computed.policy
        ));
    }
    if !computed.class.is_empty() {
        spec["priorityClassName"] = computed.class.as_str().into();
    }
    spec["priority"] = computed.value.into();
    spec["preemptionPolicy"] = computed.policy.as_str().into();
    Ok(())
}

/// The class of pods that name none: of several, the one with the lowest value, as upstream.
fn default_class(classes: &[Arc<Value>]) -> Option<Arc<Value>> {
    let defaults = classes.iter().filter(|class| class["globalDefault"] == true);
    defaults.min_by_key(|class| class.get("value").and_then(Value::as_i64).unwrap_or_default()).cloned()
}

/// Only one class may be the default.
pub(super) async fn validate_class(lookup: &Lookup, request: &Request<'_>, class: &Value) -> Result<(), Refusal> {
    if !request.is_for("scheduling.k8s.io", "priorityclasses") || class["globalDefault"] != true {
        return Ok(());
    }
    let own = text(&class["metadata"], "name");
    match default_class(&lookup.all(COLLECTION, None).await?) {
        Some(other) if text(&other["metadata"], "name") != own => {
            let name = text(&other["metadata"], "name");
            let why = format!("PriorityClass {name} is already marked as default. Only one default can exist");
            Err(request.forbid(Some(class), why))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn priorities() {
        let class = |name: &str, value: i64, default: bool| {
            Arc::new(json!({ "metadata": { "name": name }, "value": value, "globalDefault": default }))
        };
        let classes = [class("a", 5, false), class("b", 9, true), class("c", 7, true)];
        let check = |mut spec: Value, class: Option<&Value>, expected: Result<Value, &str>| {
            let mut pod = json!({ "spec": spec.take() });
            let answer = put(&mut pod, &compute(class)).map(|()| pod["spec"].take());
            assert_eq!(answer, expected.map_err(str::to_owned));
        };
        check(json!({}), None, Ok(json!({ "priority": 0, "preemptionPolicy": "PreemptLowerPriority" })));
        check(
            json!({}),
            default_class(&classes).as_deref(),
            Ok(json!({ "priority": 7, "priorityClassName": "c", "preemptionPolicy": "PreemptLowerPriority" })),
        );
        check(
            json!({ "priority": 5 }),
            Some(&classes[1]),
            Err(
                "the integer value of priority (5) must not be provided in pod spec; priority admission controller computed 9 from the given PriorityClass name",
            ),
        );
        let never = json!({ "metadata": { "name": "n" }, "value": 3, "preemptionPolicy": "Never" });
        check(
            json!({ "priorityClassName": "n", "priority": 3 }),
            Some(&never),
            Ok(json!({ "priorityClassName": "n", "priority": 3, "preemptionPolicy": "Never" })),
        );
    }
}
