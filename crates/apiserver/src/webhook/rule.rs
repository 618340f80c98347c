//! Which requests a webhook wants to see: operations, groups, versions, resources, scope.

use serde_json::Value;

use crate::admit::Operation;

/// The resource that a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resource<'a> {
    /// The API group, empty for the core.
    pub group: &'a str,
    /// The version.
    pub version: &'a str,
    /// The plural.
    pub resource: &'a str,
    /// The subresource, or empty.
    pub subresource: &'a str,
}

/// One of the `rules` of a webhook or policy.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: Scope,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    All,
    Cluster,
    Namespaced,
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

/// What `AdmissionRequest.operation` calls an operation.
pub(crate) fn operation_name(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

impl Rule {
    /// Reads a `RuleWithOperations`.
    pub(crate) fn from_object(rule: &Value) -> Self {
        Self {
            operations: texts(&rule["operations"]),
            groups: texts(&rule["apiGroups"]),
            versions: texts(&rule["apiVersions"]),
            resources: texts(&rule["resources"]),
            scope: match rule["scope"].as_str() {
                Some("Cluster") => Scope::Cluster,
                Some("Namespaced") => Scope::Namespaced,
                _ => Scope::All,
            },
        }
    }

    /// Whether a request is meant; `namespace` is that of the object, and the name of a namespace itself.
    pub(crate) fn matches(&self, operation: Operation, resource: Resource<'_>, namespace: &str) -> bool {
        let of_cluster = namespace.is_empty() || (resource.group.is_empty() && resource.resource == "namespaces");
        let in_scope = match self.scope {
            Scope::All => true,
            Scope::Cluster => of_cluster,
            Scope::Namespaced => !of_cluster,
        };
        in_scope
            && has(&self.operations, operation_name(operation))
            && has(&self.groups, resource.group)
            && has(&self.versions, resource.version)
            && self.resources.iter().any(|pattern| {
                let (name, sub) = pattern.split_once('/').unwrap_or((pattern, ""));
                (name == "*" || name == resource.resource) && (sub == "*" || sub == resource.subresource)
            })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules() {
        let check = |resources: &str, scope: &str, resource: &str, sub: &str, namespace: &str, expected: bool| {
            let rule = Rule::from_object(&json!({
                "operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": [resources], "scope": scope,
            }));
            let asked = Resource { group: "", version: "v1", resource, subresource: sub };
            assert_eq!(
                rule.matches(Operation::Create, asked, namespace),
                expected,
                "{resources} {scope} {resource}/{sub}"
            );
            assert!(!rule.matches(Operation::Delete, asked, namespace));
            assert!(!rule.matches(Operation::Create, Resource { group: "apps", ..asked }, namespace));
            assert!(!rule.matches(Operation::Create, Resource { version: "v2", ..asked }, namespace));
        };
        check("pods", "*", "pods", "", "a", true);
        check("pods", "*", "pods", "status", "a", false);
        check("pods/*", "*", "pods", "status", "a", true);
        // As upstream's: a pattern with a wildcard subresource takes the resource itself along.
        check("pods/*", "*", "pods", "", "a", true);
        check("*/status", "*", "pods", "status", "a", true);
        check("*", "*", "pods", "status", "a", false);
        check("*/*", "*", "pods", "exec", "a", true);
        check("*/*", "Namespaced", "pods", "exec", "a", true);
        check("*/*", "Cluster", "pods", "exec", "a", false);
        check("*", "Cluster", "namespaces", "", "a", true);
        check("*", "Namespaced", "namespaces", "", "a", false);
        check("*", "Cluster", "nodes", "", "", true);
    }

    #[test]
    fn wildcards() {
        let all = Rule::from_object(&json!({
            "operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"],
        }));
        let asked = Resource { group: "x.example", version: "v1alpha1", resource: "things", subresource: "" };
        assert!(all.matches(Operation::Connect, asked, ""));
        assert!(!Rule::from_object(&json!({})).matches(Operation::Connect, asked, ""));
    }
}
