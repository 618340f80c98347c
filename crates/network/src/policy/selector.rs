//! Label selectors. Pure.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Labels, sorted by key.
pub type Labels = BTreeMap<Box<str>, Box<str>>;

/// What selects objects by their labels. The empty one selects all.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector(Vec<Requirement>);

/// One thing that labels have to fulfil.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Requirement {
    In(Box<str>, Vec<Box<str>>),
    NotIn(Box<str>, Vec<Box<str>>),
    Exists(Box<str>),
    Absent(Box<str>),
    /// An operator that this version does not know: it selects nothing.
    Unknown,
}

impl Selector {
    /// From the API's form.
    pub fn of(selector: &LabelSelector) -> Selector {
        let boxed = |text: &String| text.clone().into_boxed_str();
        let labels = selector.match_labels.iter().flatten();
        let mut all: Vec<Requirement> =
            labels.map(|(key, value)| Requirement::In(boxed(key), vec![boxed(value)])).collect();
        for expression in selector.match_expressions.iter().flatten() {
            let mut values: Vec<Box<str>> = expression.values.iter().flatten().map(boxed).collect();
            values.sort();
            let key = boxed(&expression.key);
            all.push(match expression.operator.as_str() {
                "In" => Requirement::In(key, values),
                "NotIn" => Requirement::NotIn(key, values),
                "Exists" => Requirement::Exists(key),
                "DoesNotExist" => Requirement::Absent(key),
                _ => Requirement::Unknown,
            });
        }
        all.sort();
        Selector(all)
    }

    /// Whether these labels fulfil it.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::Absent(key) => !labels.contains_key(key),
            Requirement::Unknown => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn selects() {
        let labels: Labels = [("app", "web"), ("tier", "front")].map(|(key, value)| (key.into(), value.into())).into();
        let check = |selector: Value, expected: bool| {
            let parsed: LabelSelector = serde_json::from_value(selector.clone()).expect("a selector");
            assert_eq!(Selector::of(&parsed).matches(&labels), expected, "{selector}");
        };
        let expression = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        check(json!({}), true);
        check(json!({"matchLabels": {"app": "web"}}), true);
        check(json!({"matchLabels": {"app": "web", "tier": "back"}}), false);
        check(expression("app", "In", &["db", "web"]), true);
        check(expression("app", "NotIn", &["db"]), true);
        check(expression("app", "NotIn", &["web"]), false);
        check(expression("other", "NotIn", &["web"]), true);
        check(expression("other", "In", &["web"]), false);
        check(expression("tier", "Exists", &[]), true);
        check(expression("tier", "DoesNotExist", &[]), false);
        check(expression("other", "DoesNotExist", &[]), true);
        check(expression("app", "Gt", &["1"]), false);
    }
}
