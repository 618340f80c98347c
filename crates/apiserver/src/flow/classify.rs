//! FlowSchemas: which requests they mean, and what tells the flows of one apart.

use std::hash::{DefaultHasher, Hash, Hasher};

use http::HeaderValue;
use serde_json::Value;

use crate::security::User;

/// What a request asks for, as rules see it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked<'a> {
    /// The verb.
    pub verb: &'a str,
    /// The API group.
    pub group: &'a str,
    /// The resource; empty when the request is for a path that is no resource.
    pub resource: &'a str,
    /// The subresource, or empty.
    pub subresource: &'a str,
    /// The namespace, or empty.
    pub namespace: &'a str,
    /// The path of a request that is not for a resource.
    pub path: &'a str,
}

/// What tells flows apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Distinguisher {
    None,
    User,
    Namespace,
}

/// One FlowSchema.
#[derive(Debug)]
pub(super) struct Schema {
    pub(super) name: String,
    pub(super) uid: HeaderValue,
    pub(super) precedence: i64,
    pub(super) level: String,
    distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

#[derive(Debug)]
enum Subject {
    User(String),
    Group(String),
    /// Of one name, or of all names of the namespace.
    ServiceAccount(String, String),
}

#[derive(Debug)]
struct ResourceRule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    cluster: bool,
}

#[derive(Debug)]
struct PathRule {
    verbs: Vec<String>,
    paths: Vec<String>,
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

fn each<T>(list: &Value, read: impl Fn(&Value) -> T) -> Vec<T> {
    list.as_array().into_iter().flatten().map(read).collect()
}

impl Schema {
    pub(super) fn of(object: &Value) -> Option<Self> {
        let spec = &object["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Some(Self {
            name: text(&object["metadata"]["name"]),
            uid: HeaderValue::from_str(object["metadata"]["uid"].as_str()?).ok()?,
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or(1000),
            level: text(&spec["priorityLevelConfiguration"]["name"]),
            distinguisher: match spec["distinguisherMethod"]["type"].as_str() {
                Some("ByUser") => Distinguisher::User,
                Some("ByNamespace") => Distinguisher::Namespace,
                _ => Distinguisher::None,
            },
            rules: each(&spec["rules"], Rule::of),
        })
    }

    pub(super) fn matches(&self, user: &User, asked: &Asked<'_>) -> bool {
        self.rules.iter().any(|rule| rule.matches(user, asked))
    }

    /// A number that is the same for all requests of a flow.
    pub(super) fn flow_hash(&self, user: &User, asked: &Asked<'_>) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.name.hash(&mut hasher);
        match self.distinguisher {
            Distinguisher::None => "",
            Distinguisher::User => &user.name,
            Distinguisher::Namespace => asked.namespace,
        }
        .hash(&mut hasher);
        hasher.finish()
    }
}

impl Rule {
    fn of(rule: &Value) -> Self {
        Self {
            subjects: rule["subjects"].as_array().into_iter().flatten().filter_map(Subject::of).collect(),
            resources: each(&rule["resourceRules"], |rule| ResourceRule {
                verbs: texts(&rule["verbs"]),
                groups: texts(&rule["apiGroups"]),
                resources: texts(&rule["resources"]),
                namespaces: texts(&rule["namespaces"]),
                cluster: rule["clusterScope"] == true,
            }),
            paths: each(&rule["nonResourceRules"], |rule| PathRule {
                verbs: texts(&rule["verbs"]),
                paths: texts(&rule["nonResourceURLs"]),
            }),
        }
    }

    fn matches(&self, user: &User, asked: &Asked<'_>) -> bool {
        if !self.subjects.iter().any(|subject| subject.is(user)) {
            return false;
        }
        if asked.resource.is_empty() {
            return self.paths.iter().any(|rule| rule.matches(asked));
        }
        self.resources.iter().any(|rule| rule.matches(asked))
    }
}

impl Subject {
    fn of(subject: &Value) -> Option<Self> {
        let name = |field: &str| subject[field]["name"].as_str().map(str::to_owned);
        match subject["kind"].as_str()? {
            "User" => name("user").map(Self::User),
            "Group" => name("group").map(Self::Group),
            "ServiceAccount" => {
                let namespace = subject["serviceAccount"]["namespace"].as_str()?.to_owned();
                name("serviceAccount").map(|name| Self::ServiceAccount(namespace, name))
            }
            _ => None,
        }
    }

    fn is(&self, user: &User) -> bool {
        match self {
            Self::User(name) => name == "*" || *name == user.name,
            Self::Group(name) => name == "*" || user.is_in(name),
            Self::ServiceAccount(namespace, name) => user
                .name
                .strip_prefix("system:serviceaccount:")
                .and_then(|rest| rest.split_once(':'))
                .is_some_and(|(own, own_name)| own == namespace && (name == "*" || own_name == name)),
        }
    }
}

impl ResourceRule {
    fn matches(&self, asked: &Asked<'_>) -> bool {
        let named = |pattern: &String| match pattern.split_once('/') {
            None => pattern == "*" || (asked.subresource.is_empty() && pattern == asked.resource),
            Some((resource, sub)) => resource == asked.resource && sub == asked.subresource,
        };
        let placed = if asked.namespace.is_empty() { self.cluster } else { has(&self.namespaces, asked.namespace) };
        placed && has(&self.verbs, asked.verb) && has(&self.groups, asked.group) && self.resources.iter().any(named)
    }
}

impl PathRule {
    fn matches(&self, asked: &Asked<'_>) -> bool {
        let covers = |pattern: &String| {
            let prefix = pattern.trim_end_matches('*').trim_end_matches('/');
            pattern == "*"
                || pattern == asked.path
                || asked.path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
        };
        has(&self.verbs, asked.verb) && self.paths.iter().any(covers)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema(rule: Value) -> Schema {
        Schema::of(&json!({
            "metadata": {"name": "s", "uid": "u"},
            "spec": {"rules": [rule], "distinguisherMethod": {"type": "ByUser"}, "priorityLevelConfiguration": {"name": "l"}},
        }))
        .expect("a schema")
    }

    #[test]
    fn rules() {
        let nodes = schema(json!({
            "subjects": [{"kind": "Group", "group": {"name": "system:nodes"}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": [""], "resources": ["nodes", "nodes/status"], "clusterScope": true}],
        }));
        let node = User::new("system:node:a", &["system:nodes"]);
        let asked = Asked { verb: "patch", resource: "nodes", subresource: "status", ..Asked::default() };
        assert!(nodes.matches(&node, &asked));
        assert!(!nodes.matches(&User::new("jane", &[]), &asked));
        assert!(!nodes.matches(&node, &Asked { resource: "pods", subresource: "", namespace: "a", ..asked }));
        let accounts = schema(json!({
            "subjects": [{"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": "*"}}],
            "resourceRules": [{"verbs": ["get"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}],
        }));
        let pods = Asked { verb: "get", resource: "pods", namespace: "a", ..Asked::default() };
        assert!(accounts.matches(&User::service_account("kube-system", "x", "u"), &pods));
        assert!(!accounts.matches(&User::service_account("kube-system2", "x", "u"), &pods));
        assert!(!accounts.matches(&User::service_account("kube-system", "x", "u"), &Asked { namespace: "", ..pods }));
        let paths = schema(json!({
            "subjects": [{"kind": "User", "user": {"name": "*"}}],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/api/*"]}],
        }));
        let check = |path: &str, expected: bool| {
            assert_eq!(paths.matches(&node, &Asked { verb: "get", path, ..Asked::default() }), expected, "{path}");
        };
        check("/healthz", true);
        check("/healthz/etcd", true);
        check("/healthzz", false);
        check("/api/v1", true);
        check("/apis", false);
    }

    #[test]
    fn flows_are_told_apart() {
        let one = schema(json!({}));
        let asked = Asked::default();
        let (jane, john) = (User::new("jane", &[]), User::new("john", &[]));
        assert_eq!(one.flow_hash(&jane, &asked), one.flow_hash(&jane, &asked));
        assert_ne!(one.flow_hash(&jane, &asked), one.flow_hash(&john, &asked));
    }
}
