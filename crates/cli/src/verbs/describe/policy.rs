//! What bounds others: Namespaces with their quotas and limits, PodDisruptionBudgets and HorizontalPodAutoscalers.

use std::collections::BTreeSet;

use jiff::Timestamp;
use kobune_kinds::quantity::Quantity;
use serde_json::Value;

use super::read::{int, int_or_string, is_empty, items, quantity, quantity_text, selector, text, text_or, texts};
use super::writer::Writer;
use super::{Related, metadata};
use crate::verbs::go;

/// A Namespace.
pub fn namespace(w: &mut Writer, object: &Value, related: &Related, _: Timestamp) {
    metadata::name(w, object);
    metadata::labels_and_annotations(w, object);
    w.field(0, "Status", text(&object["status"]["phase"]));
    if !items(&object["status"]["conditions"]).is_empty() {
        metadata::conditions_with_messages(w, object);
    }
    if let Some(quotas) = &related.quotas {
        w.line(0, "");
        quotas_of(w, quotas);
    }
    if let Some(ranges) = &related.limit_ranges {
        w.line(0, "");
        if ranges.is_empty() {
            w.line(0, "No LimitRange resource.");
            return;
        }
        w.line(
            0,
            "Resource Limits\n Type\tResource\tMin\tMax\tDefault Request\tDefault Limit\tMax Limit/Request Ratio",
        );
        w.line(0, " ----\t--------\t---\t---\t---------------\t-------------\t-----------------------");
        for range in ranges {
            limits(w, range, " ");
        }
    }
}

fn quotas_of(w: &mut Writer, quotas: &[Value]) {
    if quotas.is_empty() {
        w.line(0, "No resource quota.");
        return;
    }
    let mut quotas: Vec<&Value> = quotas.iter().collect();
    quotas.sort_by_key(|quota| text(&quota["metadata"]["name"]));
    w.line(0, "Resource Quotas");
    for quota in quotas {
        w.field(1, "Name", text(&quota["metadata"]["name"]));
        scopes(w, quota, 1, "");
        w.line(1, "Resource\tUsed\tHard");
        w.line(1, "--------\t---\t---");
        for (name, hard) in amounts(&quota["status"]["hard"]) {
            let used = quantity_text(&quota["status"]["used"][name]);
            w.line(1, format!("{name}\t{used}\t{}", quantity_text(hard)));
        }
    }
}

fn amounts(map: &Value) -> Vec<(&String, &Value)> {
    let mut amounts: Vec<(&String, &Value)> = map.as_object().into_iter().flatten().collect();
    amounts.sort_by_key(|(name, _)| *name);
    amounts
}

fn scopes(w: &mut Writer, quota: &Value, level: usize, indent: &str) {
    let mut scopes = texts(&quota["spec"]["scopes"]);
    if scopes.is_empty() {
        return;
    }
    scopes.sort();
    w.field(level, "Scopes", scopes.join(", "));
    for scope in &scopes {
        let words = match scope.as_str() {
            "Terminating" => {
                "Matches all pods that have an active deadline. These pods have a limited lifespan on a node before being actively terminated by the system."
            }
            "NotTerminating" => {
                "Matches all pods that do not have an active deadline. These pods usually include long running pods whose container command is not expected to terminate."
            }
            "BestEffort" => {
                "Matches all pods that do not have resource requirements set. These pods have a best effort quality of service."
            }
            "NotBestEffort" => {
                "Matches all pods that have at least one resource requirement set. These pods have a burstable or guaranteed quality of service."
            }
            _ => continue,
        };
        w.line(level, format!("{indent}* {words}"));
    }
}

/// A ResourceQuota.
pub fn quota(w: &mut Writer, object: &Value, _: &Related, _: Timestamp) {
    metadata::name_and_namespace(w, object);
    scopes(w, object, 0, " ");
    w.line(0, "Resource\tUsed\tHard");
    w.line(0, "--------\t----\t----");
    for (name, hard) in amounts(&object["status"]["hard"]) {
        let used = &object["status"]["used"][name];
        let (format, amount) = (quantity(hard).format(), quantity(used));
        // Both are shown in one family of suffixes.
        let used = match amount.format() == format {
            true => quantity_text(used),
            false => Quantity::new(amount.value(), format).to_string(),
        };
        w.line(0, format!("{name}\t{used}\t{}", quantity_text(hard)));
    }
}

/// A LimitRange.
pub fn limit_range(w: &mut Writer, object: &Value, _: &Related, _: Timestamp) {
    metadata::name_and_namespace(w, object);
    w.line(0, "Type\tResource\tMin\tMax\tDefault Request\tDefault Limit\tMax Limit/Request Ratio");
    w.line(0, "----\t--------\t---\t---\t---------------\t-------------\t-----------------------");
    limits(w, object, "");
}

/// The rows of a LimitRange. kubectl shows a type's resources in no order at all; here they are sorted.
fn limits(w: &mut Writer, range: &Value, indent: &str) {
    const SIDES: [&str; 5] = ["min", "max", "defaultRequest", "default", "maxLimitRequestRatio"];
    for limit in items(&range["spec"]["limits"]) {
        let names: BTreeSet<&String> = SIDES
            .iter()
            .flat_map(|side| limit[*side].as_object().into_iter().flatten())
            .map(|(name, _)| name)
            .collect();
        for name in names {
            let values = SIDES.map(|side| match limit[side].get(name) {
                Some(amount) => quantity_text(amount),
                None => "-".to_owned(),
            });
            w.line(0, format!("{indent}{}\t{name}\t{}", text(&limit["type"]), values.join("\t")));
        }
    }
}

/// A PodDisruptionBudget.
pub fn disruption_budget(w: &mut Writer, object: &Value, related: &Related, now: Timestamp) {
    let (spec, status) = (&object["spec"], &object["status"]);
    metadata::name_and_namespace(w, object);
    if !spec["minAvailable"].is_null() {
        w.field(0, "Min available", int_or_string(&spec["minAvailable"]));
    } else if !spec["maxUnavailable"].is_null() {
        w.field(0, "Max unavailable", int_or_string(&spec["maxUnavailable"]));
    }
    let chosen = &spec["selector"];
    w.field(0, "Selector", if chosen.is_null() { "<unset>".to_owned() } else { selector(chosen) });
    w.line(0, "Status:");
    for (title, field) in [
        ("Allowed disruptions", "disruptionsAllowed"),
        ("Current", "currentHealthy"),
        ("Desired", "desiredHealthy"),
        ("Total", "expectedPods"),
    ] {
        w.field(2, title, int(&status[field]).to_string());
    }
    metadata::events(w, related.events(), now);
}

/// A HorizontalPodAutoscaler of `autoscaling/v2`.
pub fn autoscaler(w: &mut Writer, object: &Value, related: &Related, now: Timestamp) {
    let (spec, status) = (&object["spec"], &object["status"]);
    let target = &spec["scaleTargetRef"];
    metadata::name_and_namespace(w, object);
    metadata::labels_and_annotations(w, object);
    metadata::creation(w, object);
    w.field(0, "Reference", format!("{}/{}", text(&target["kind"]), text(&target["name"])));
    w.line(0, "Metrics:\t( current / target )");
    for (index, metric) in items(&spec["metrics"]).iter().enumerate() {
        let now = items(&status["currentMetrics"]).get(index).unwrap_or(&Value::Null);
        metric_line(w, metric, now);
    }
    w.field(0, "Min replicas", text_or(&spec["minReplicas"], "<unset>"));
    w.field(0, "Max replicas", int(&spec["maxReplicas"]).to_string());
    let behaviour = &spec["behavior"];
    if !behaviour.is_null() {
        w.line(0, "Behavior:");
        direction(w, "Scale Up", &behaviour["scaleUp"]);
        direction(w, "Scale Down", &behaviour["scaleDown"]);
    }
    w.put(0, format!("{} pods:\t", text(&target["kind"])));
    w.line(0, format!("{} current / {} desired", int(&status["currentReplicas"]), int(&status["desiredReplicas"])));
    let conditions = items(&status["conditions"]);
    if !conditions.is_empty() {
        w.line(0, "Conditions:");
        w.line(1, "Type\tStatus\tReason\tMessage");
        w.line(1, "----\t------\t------\t-------");
    }
    for condition in conditions {
        let [kind, status, reason, message] =
            ["type", "status", "reason", "message"].map(|field| text(&condition[field]));
        w.line(1, format!("{kind}\t{status}\t{reason}\t{message}"));
    }
    metadata::events(w, related.events(), now);
}

fn metric_line(w: &mut Writer, metric: &Value, now: &Value) {
    const UNKNOWN: &str = "<unknown>";
    let amount = |value: &Value| quantity_text(value);
    let of = |field: &str| (&metric[field], &now[field]["current"], !now[field].is_null());
    let (average, value) = ("averageValue", "value");
    match text(&metric["type"]).as_str() {
        "External" => {
            let (external, current, _) = of("external");
            let name = go::quoted(&text(&external["metric"]["name"]));
            let (field, words) = match external["target"][average].is_null() {
                true => (value, "target value"),
                false => (average, "target average value"),
            };
            let shown = match (field == average, &current[field], current.is_null()) {
                (true, Value::Null, _) | (false, _, true) => UNKNOWN.to_owned(),
                (_, found, _) => amount(found),
            };
            w.line(1, format!("{name} ({words}):\t{shown} / {}", amount(&external["target"][field])));
        }
        "Pods" => {
            let (pods, current, known) = of("pods");
            let shown = if known { amount(&current[average]) } else { UNKNOWN.to_owned() };
            let name = go::quoted(&text(&pods["metric"]["name"]));
            w.line(1, format!("{name} on pods:\t{shown} / {}", amount(&pods["target"][average])));
        }
        "Object" => {
            let (object, current, known) = of("object");
            let described = &object["describedObject"];
            w.put(
                1,
                format!(
                    "\"{}\" on {}/{} ",
                    text(&object["metric"]["name"]),
                    text(&described["kind"]),
                    text(&described["name"])
                ),
            );
            let (field, words) = match object["target"]["type"] == "AverageValue" {
                true => (average, "target average value"),
                false => (value, "target value"),
            };
            let shown = if known { amount(&current[field]) } else { UNKNOWN.to_owned() };
            w.line(0, format!("({words}):\t{shown} / {}", amount(&object["target"][field])));
        }
        kind @ ("Resource" | "ContainerResource") => {
            let (resource, current, known) = of(if kind == "Resource" { "resource" } else { "containerResource" });
            let container = match kind {
                "Resource" => String::new(),
                _ => format!(" of container \"{}\"", text(&resource["container"])),
            };
            w.put(1, format!("resource {}{container} on pods", text(&resource["name"])));
            let target = &resource["target"];
            if !target[average].is_null() {
                let shown = if known { amount(&current[average]) } else { UNKNOWN.to_owned() };
                w.line(0, format!(":\t{shown} / {}", amount(&target[average])));
                return;
            }
            let used = &current["averageUtilization"];
            let shown = match used {
                Value::Null => UNKNOWN.to_owned(),
                used => format!("{}% ({})", int(used), amount(&current[average])),
            };
            let wanted = match &target["averageUtilization"] {
                Value::Null => "<auto>".to_owned(),
                wanted => format!("{}%", int(wanted)),
            };
            w.line(1, format!("(as a percentage of request):\t{shown} / {wanted}"));
        }
        other => w.line(1, format!("<unknown metric type {}>", go::quoted(other))),
    }
}

fn direction(w: &mut Writer, title: &str, rules: &Value) {
    if rules.is_null() || is_empty(rules) {
        if rules.is_object() {
            w.line(1, format!("{title}:"));
        }
        return;
    }
    w.line(1, format!("{title}:"));
    if !rules["stabilizationWindowSeconds"].is_null() {
        w.line(2, format!("Stabilization Window: {} seconds", int(&rules["stabilizationWindowSeconds"])));
    }
    let policies = items(&rules["policies"]);
    if !policies.is_empty() {
        w.line(2, format!("Select Policy: {}", text_or(&rules["selectPolicy"], "Max")));
        w.line(2, "Policies:");
    }
    for policy in policies {
        w.line(
            3,
            format!(
                "- Type: {}\tValue: {}\tPeriod: {} seconds",
                text(&policy["type"]),
                int(&policy["value"]),
                int(&policy["periodSeconds"])
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn metrics() {
        let check = |metric: Value, now: Value, expected: &str| {
            let mut w = Writer::new();
            metric_line(&mut w, &metric, &now);
            assert_eq!(w.finish(), format!("{expected}\n"), "{metric}");
        };
        let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 50}}});
        check(cpu.clone(), Value::Null, "  resource cpu on pods  (as a percentage of request):  <unknown> / 50%");
        let now = json!({"resource": {"current": {"averageUtilization": 30, "averageValue": "300m"}}});
        check(cpu, now, "  resource cpu on pods  (as a percentage of request):  30% (300m) / 50%");
        check(
            json!({"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"averageValue": "1k"}}}),
            Value::Null,
            "  \"rps\" on pods:  <unknown> / 1k",
        );
        check(
            json!({"type": "External", "external": {"metric": {"name": "q"}, "target": {"value": "5"}}}),
            json!({"external": {"current": {"value": "3"}}}),
            "  \"q\" (target value):  3 / 5",
        );
        check(json!({"type": "Odd"}), Value::Null, "  <unknown metric type \"Odd\">");
    }

    #[test]
    fn amounts_of_one_family() {
        let mut w = Writer::new();
        let object = json!({"metadata": {"name": "q", "namespace": "n"},
            "status": {"hard": {"memory": "1Gi"}, "used": {"memory": "0"}}});
        quota(&mut w, &object, &Related::default(), Timestamp::UNIX_EPOCH);
        let text = w.finish();
        assert!(text.ends_with("memory      0     1Gi\n"), "{text}");
    }
}
