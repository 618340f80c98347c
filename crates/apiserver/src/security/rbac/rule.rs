//! A policy rule and what it allows.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::security::attributes::Attributes;

/// One rule of a Role or ClusterRole.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Rule {
    /// The verbs, or `*`.
    #[serde(deserialize_with = "list")]
    pub(crate) verbs: Vec<String>,
    /// The API groups, or `*`.
    #[serde(deserialize_with = "list")]
    pub(crate) api_groups: Vec<String>,
    /// The resources: `pods`, `pods/log`, `*/scale`, `*`.
    #[serde(deserialize_with = "list")]
    pub(crate) resources: Vec<String>,
    /// The names that the rule is limited to; all when empty.
    #[serde(deserialize_with = "list")]
    pub(crate) resource_names: Vec<String>,
    /// Paths, which may end with `*`.
    #[serde(rename = "nonResourceURLs", deserialize_with = "list")]
    pub(crate) non_resource_urls: Vec<String>,
}

/// Absent, null and empty lists mean the same.
fn list<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == wanted)
}

fn has_or_all(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == "*" || one == wanted)
}

impl Rule {
    /// Whether the rule allows a request.
    pub(crate) fn allows(&self, attributes: &Attributes<'_>) -> bool {
        if attributes.resource.is_empty() {
            return has_or_all(&self.verbs, attributes.verb) && self.covers_path(attributes.path);
        }
        has_or_all(&self.verbs, attributes.verb)
            && has_or_all(&self.api_groups, attributes.group)
            && self.covers_resource(attributes.resource, attributes.subresource)
            && (self.resource_names.is_empty() || has(&self.resource_names, attributes.name))
    }

    /// Upstream knows three forms: `*` for all, the exact `resource/subresource`, and `*/subresource`.
    fn covers_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|rule| {
            if rule == "*" {
                return true;
            }
            if subresource.is_empty() {
                return rule == resource;
            }
            rule.strip_suffix(subresource)
                .and_then(|rest| rest.strip_suffix('/'))
                .is_some_and(|rest| rest == resource || rest == "*")
        })
    }

    fn covers_path(&self, path: &str) -> bool {
        self.non_resource_urls.iter().any(|rule| {
            rule == "*" || rule == path || (rule.ends_with('*') && path.starts_with(rule.trim_end_matches('*')))
        })
    }

    /// Whether this rule alone allows everything that `part` allows; `part` has one verb and one resource or path.
    fn covers_part(&self, part: &Rule) -> bool {
        let all = |own: &[String], wanted: &[String]| has(own, "*") || wanted.iter().all(|one| has(own, one));
        let resources = || {
            has(&self.resources, "*")
                || part.resources.iter().all(|wanted| {
                    has(&self.resources, wanted)
                        || wanted.split_once('/').is_some_and(|(_, subresource)| {
                            self.resources.iter().any(|own| own.strip_prefix("*/") == Some(subresource))
                        })
                })
        };
        let names = || {
            self.resource_names.is_empty()
                || (!part.resource_names.is_empty()
                    && part.resource_names.iter().all(|name| has(&self.resource_names, name)))
        };
        let paths = || part.non_resource_urls.iter().all(|wanted| self.covers_path(wanted));
        all(&self.verbs, &part.verbs)
            && if part.non_resource_urls.is_empty() {
                all(&self.api_groups, &part.api_groups) && resources() && names()
            } else {
                paths()
            }
    }

    /// The rule as parts of one verb and one group, resource and name, or one path, each.
    fn parts(&self) -> Vec<Rule> {
        let one = |value: &String| vec![value.clone()];
        let mut parts = Vec::new();
        for verb in &self.verbs {
            for url in &self.non_resource_urls {
                parts.push(Rule { verbs: one(verb), non_resource_urls: one(url), ..Rule::default() });
            }
            for group in &self.api_groups {
                for resource in &self.resources {
                    let part =
                        Rule { verbs: one(verb), api_groups: one(group), resources: one(resource), ..Rule::default() };
                    if self.resource_names.is_empty() {
                        parts.push(part);
                        continue;
                    }
                    for name in &self.resource_names {
                        parts.push(Rule { resource_names: one(name), ..part.clone() });
                    }
                }
            }
        }
        parts
    }

    /// The rule as it stands in a review's answer.
    pub(crate) fn to_value(&self) -> Value {
        let mut value = json!({ "verbs": self.verbs });
        for (key, list) in [
            ("apiGroups", &self.api_groups),
            ("resources", &self.resources),
            ("resourceNames", &self.resource_names),
            ("nonResourceURLs", &self.non_resource_urls),
        ] {
            if !list.is_empty() {
                value[key] = json!(list);
            }
        }
        value
    }

    /// The rule in Go's notation with braces, as upstream's escalation message shows it.
    fn braces(&self) -> String {
        let mut text = String::from("{");
        for (key, list) in [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("ResourceNames", &self.resource_names),
            ("NonResourceURLs", &self.non_resource_urls),
            ("Verbs", &self.verbs),
        ] {
            if !list.is_empty() {
                if text.len() > 1 {
                    text.push_str(", ");
                }
                text.push_str(&format!("{key}:{list:?}"));
            }
        }
        text.push('}');
        text
    }
}

/// The rules of a Role or ClusterRole object.
pub(crate) fn rules_of(role: &Value) -> Vec<Rule> {
    let rules = role.get("rules").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    // A rule of the wrong shape cannot pass the API server's check of shapes; it allows nothing.
    rules.iter().filter_map(|rule| Rule::deserialize(rule).ok()).collect()
}

/// What of `wanted` is not covered by `owned`, joined as far as it is equal but for the verb; empty when all is.
pub(crate) fn uncovered(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let mut missing: Vec<Rule> = Vec::new();
    for part in wanted.iter().flat_map(Rule::parts) {
        if owned.iter().any(|rule| rule.covers_part(&part)) {
            continue;
        }
        let same = missing.iter_mut().find(|other| {
            other.api_groups == part.api_groups
                && other.resources == part.resources
                && other.resource_names == part.resource_names
                && other.non_resource_urls == part.non_resource_urls
        });
        match same {
            Some(other) => {
                if !has(&other.verbs, &part.verbs[0]) {
                    other.verbs.extend(part.verbs);
                }
            }
            None => missing.push(part),
        }
    }
    missing
}

/// The missing rules as upstream's message lists them, one a line.
pub(crate) fn list_missing(missing: &[Rule]) -> String {
    let mut lines: Vec<String> = missing.iter().map(Rule::braces).collect();
    lines.sort();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(verbs: &str, groups: &str, resources: &str, names: &str, urls: &str) -> Rule {
        let list = |text: &str| -> Vec<String> {
            if text == "-" { Vec::new() } else { text.split(',').map(str::to_owned).collect() }
        };
        Rule {
            verbs: list(verbs),
            api_groups: list(groups),
            resources: list(resources),
            resource_names: list(names),
            non_resource_urls: list(urls),
        }
    }

    fn want<'a>(
        verb: &'a str,
        group: &'a str,
        resource: &'a str,
        subresource: &'a str,
        name: &'a str,
    ) -> Attributes<'a> {
        Attributes { verb, group, resource, subresource, name, ..Attributes::default() }
    }

    #[test]
    fn rules_match_as_upstreams() {
        let check = |rule: Rule, attributes: Attributes<'_>, expected: bool| {
            assert_eq!(rule.allows(&attributes), expected, "{rule:?} on {attributes:?}");
        };
        let get_pods = rule("get", "", "pods", "-", "-");
        check(get_pods.clone(), want("get", "", "pods", "", "a"), true);
        check(get_pods.clone(), want("list", "", "pods", "", ""), false);
        check(get_pods.clone(), want("get", "apps", "pods", "", "a"), false);
        check(get_pods, want("get", "", "pods", "log", "a"), false);
        check(rule("*", "*", "*", "-", "-"), want("approve", "x", "y", "z", ""), true);
        check(rule("*", "*", "*/scale", "-", "-"), want("get", "apps", "deployments", "scale", "a"), true);
        check(rule("*", "*", "*/scale", "-", "-"), want("get", "apps", "deployments", "", "a"), false);
        check(rule("*", "*", "pods/*", "-", "-"), want("get", "", "pods", "log", "a"), false);
        check(rule("get", "", "pods/log", "-", "-"), want("get", "", "pods", "log", "a"), true);
        check(rule("get", "", "secrets", "a,b", "-"), want("get", "", "secrets", "", "b"), true);
        check(rule("get", "", "secrets", "a,b", "-"), want("get", "", "secrets", "", "c"), false);
        check(rule("list", "", "secrets", "a", "-"), want("list", "", "secrets", "", ""), false);
        let path = |path| Attributes { verb: "get", path, ..Attributes::default() };
        check(rule("get", "-", "-", "-", "/healthz,/api/*"), path("/healthz"), true);
        check(rule("get", "-", "-", "-", "/healthz,/api/*"), path("/api/v1"), true);
        check(rule("get", "-", "-", "-", "/healthz,/api/*"), path("/healthz/etcd"), false);
        check(rule("*", "-", "-", "-", "*"), path("/metrics"), true);
        check(rule("*", "*", "*", "-", "-"), path("/metrics"), false);
    }

    #[test]
    fn covering() {
        let check = |owned: &[Rule], wanted: Rule, expected: &str| {
            assert_eq!(list_missing(&uncovered(owned, &[wanted])), expected);
        };
        let all = rule("*", "*", "*", "-", "-");
        check(std::slice::from_ref(&all), rule("get,list", "apps", "deployments", "-", "-"), "");
        check(&[all], rule("get", "-", "-", "-", "/x"), r#"{NonResourceURLs:["/x"], Verbs:["get"]}"#);
        let halves = [rule("get", "", "pods", "-", "-"), rule("list", "", "pods,services", "-", "-")];
        check(&halves, rule("get,list", "", "pods", "-", "-"), "");
        check(
            &halves,
            rule("get,list,watch", "", "pods,services", "-", "-"),
            "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"watch\"]}\n{APIGroups:[\"\"], Resources:[\"services\"], Verbs:[\"get\", \"watch\"]}",
        );
        check(&[rule("get", "", "secrets", "a", "-")], rule("get", "", "secrets", "a", "-"), "");
        check(
            &[rule("get", "", "secrets", "a", "-")],
            rule("get", "", "secrets", "-", "-"),
            r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}"#,
        );
        check(&[rule("get", "", "*/status", "-", "-")], rule("get", "", "pods/status", "-", "-"), "");
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        let some = |words: &'static [&'static str], least: usize| {
            proptest::sample::subsequence(words, least..=words.len())
                .prop_map(|words| words.into_iter().map(str::to_owned).collect::<Vec<_>>())
        };
        (
            some(&["get", "list", "*"], 1),
            some(&["", "apps", "*"], 1),
            some(&["pods", "pods/log", "*/log", "*"], 1),
            some(&["a", "b"], 0),
        )
            .prop_map(|(verbs, api_groups, resources, resource_names)| Rule {
                verbs,
                api_groups,
                resources,
                resource_names,
                non_resource_urls: Vec::new(),
            })
    }

    proptest! {
        /// Whoever covers a rule may do everything that the rule allows: otherwise the escalation check has a hole.
        #[test]
        fn what_covers_allows(
            owned in proptest::collection::vec(any_rule(), 0..4),
            wanted in any_rule(),
        ) {
            if uncovered(&owned, std::slice::from_ref(&wanted)).is_empty() {
                for verb in ["get", "list", "watch"] {
                    for group in ["", "apps", "batch"] {
                        for (resource, subresource) in [("pods", ""), ("pods", "log"), ("jobs", "log"), ("jobs", "")] {
                            for name in ["", "a", "b", "c"] {
                                let attributes = want(verb, group, resource, subresource, name);
                                if wanted.allows(&attributes) {
                                    prop_assert!(owned.iter().any(|rule| rule.allows(&attributes)), "{attributes:?}");
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
