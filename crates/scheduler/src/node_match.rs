//! Rules between one pod and one node: taints and tolerations, node selector and node affinity.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeAffinity, NodeSelectorTerm, Taint, Toleration};

/// The taint that stands for `spec.unschedulable`.
pub const TAINT_UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Whether `toleration` tolerates `taint`.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    if given(&toleration.effect) && toleration.effect.as_deref() != Some(taint.effect.as_str()) {
        return false;
    }
    if given(&toleration.key) && toleration.key.as_deref() != Some(taint.key.as_str()) {
        return false;
    }
    let wanted = toleration.value.as_deref().unwrap_or_default();
    let found = taint.value.as_deref().unwrap_or_default();
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => wanted == found && given(&toleration.key),
        "Exists" => true,
        operator @ ("Lt" | "Gt") => match (found.parse::<i64>(), wanted.parse::<i64>()) {
            (Ok(found), Ok(wanted)) if operator == "Lt" => found < wanted,
            (Ok(found), Ok(wanted)) => found > wanted,
            _ => false,
        },
        _ => false,
    }
}

/// The first taint with one of `effects` that no toleration covers.
pub fn untolerated<'t>(taints: &'t [Taint], tolerations: &[Toleration], effects: &[&str]) -> Option<&'t Taint> {
    taints
        .iter()
        .filter(|taint| effects.contains(&taint.effect.as_str()))
        .find(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

fn requirement(key: &str, operator: &str, values: &[String], found: Option<&str>) -> bool {
    let among = || found.is_some_and(|found| values.iter().any(|value| value == found));
    let compared = |order: std::cmp::Ordering| match (
        found.map(str::parse::<i64>),
        values.first().map(|value| value.parse::<i64>()),
    ) {
        (Some(Ok(found)), Some(Ok(wanted))) => found.cmp(&wanted) == order,
        _ => false,
    };
    debug_assert!(!key.is_empty(), "the API server lets no requirement without a key in");
    match operator {
        "In" => among(),
        "NotIn" => !among(),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => compared(std::cmp::Ordering::Greater),
        "Lt" => compared(std::cmp::Ordering::Less),
        _ => false,
    }
}

/// Whether a node with this name and these labels meets one term; a term that asks for nothing is met by no node.
pub fn term_matches(term: &NodeSelectorTerm, name: &str, labels: &BTreeMap<String, String>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let by_labels = expressions.iter().all(|wanted| {
        let found = labels.get(&wanted.key).map(String::as_str);
        requirement(&wanted.key, &wanted.operator, wanted.values.as_deref().unwrap_or_default(), found)
    });
    by_labels
        && fields.iter().all(|wanted| {
            let found = (wanted.key == "metadata.name").then_some(name);
            requirement(&wanted.key, &wanted.operator, wanted.values.as_deref().unwrap_or_default(), found)
        })
}

/// Whether the node meets the pod's node selector and its required node affinity.
pub fn node_selected(
    node_selector: Option<&BTreeMap<String, String>>,
    affinity: Option<&NodeAffinity>,
    name: &str,
    labels: &BTreeMap<String, String>,
) -> bool {
    if !node_selector.into_iter().flatten().all(|(key, value)| labels.get(key) == Some(value)) {
        return false;
    }
    match affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref()) {
        Some(required) => required.node_selector_terms.iter().any(|term| term_matches(term, name, labels)),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints() {
        let check = |toleration: serde_json::Value, expected: bool| {
            let taint: Taint =
                serde_json::from_value(serde_json::json!({"key": "gpu", "value": "5", "effect": "NoSchedule"}))
                    .expect("a taint");
            let parsed: Toleration = serde_json::from_value(toleration.clone()).expect("a toleration");
            assert_eq!(tolerates(&parsed, &taint), expected, "{toleration}");
        };
        check(serde_json::json!({"operator": "Exists"}), true);
        check(serde_json::json!({"key": "gpu", "operator": "Exists"}), true);
        check(serde_json::json!({"key": "gpu", "value": "5"}), true);
        check(serde_json::json!({"key": "gpu", "value": "6"}), false);
        check(serde_json::json!({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}), false);
        check(serde_json::json!({"key": "gpu", "operator": "Lt", "value": "6"}), true);
        check(serde_json::json!({"key": "gpu", "operator": "Gt", "value": "6"}), false);
    }

    #[test]
    fn affinity() {
        let labels: BTreeMap<String, String> =
            [("zone".to_owned(), "a".to_owned()), ("cpus".to_owned(), "8".to_owned())].into();
        let check = |term: serde_json::Value, expected: bool| {
            let parsed: NodeSelectorTerm = serde_json::from_value(term.clone()).expect("a term");
            assert_eq!(term_matches(&parsed, "n1", &labels), expected, "{term}");
        };
        check(serde_json::json!({}), false);
        check(serde_json::json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}), true);
        check(serde_json::json!({"matchExpressions": [{"key": "cpus", "operator": "Gt", "values": ["4"]}]}), true);
        check(serde_json::json!({"matchExpressions": [{"key": "cpus", "operator": "Lt", "values": ["4"]}]}), false);
        check(serde_json::json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}), true);
        check(
            serde_json::json!({"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n1"]}]}),
            false,
        );
    }
}
