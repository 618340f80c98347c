//! The audit policy: `audit.k8s.io/v1 Policy`, whose first matching rule says how much is written about a request.

use std::path::Path;

use serde::Deserialize;

use crate::config_file::{self, ConfigError, Problems};
use crate::security::User;

/// How much is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) enum Level {
    /// Nothing.
    None,
    /// Who asked for what, and how it ended.
    Metadata,
    /// Also the body of the request.
    Request,
    /// Also the body of the response.
    RequestResponse,
}

impl Level {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

/// When something is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum Stage {
    /// Before the request is worked on.
    RequestReceived,
    /// Once the headers of a watch or stream are sent.
    ResponseStarted,
    /// At the end.
    ResponseComplete,
    /// When a mistake of ours ended it.
    Panic,
}

impl Stage {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Stage::RequestReceived => "RequestReceived",
            Stage::ResponseStarted => "ResponseStarted",
            Stage::ResponseComplete => "ResponseComplete",
            Stage::Panic => "Panic",
        }
    }
}

/// What rules look at.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Subject<'a> {
    /// The verb, or the method of a path in lower case.
    pub verb: &'a str,
    /// The API group.
    pub group: &'a str,
    /// The resource; empty for paths that are none.
    pub resource: &'a str,
    /// The subresource.
    pub subresource: &'a str,
    /// The namespace.
    pub namespace: &'a str,
    /// The name.
    pub name: &'a str,
    /// The path.
    pub path: &'a str,
}

/// What is written about one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// How much.
    pub level: Level,
    /// When nothing is written.
    pub omit_stages: Vec<Stage>,
    /// Whether managed fields are left out of objects.
    pub omit_managed_fields: bool,
}

/// The rules of a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Policy {
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<GroupResources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct GroupResources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

impl Policy {
    /// Reads a policy file.
    pub(crate) fn load(path: &Path) -> Result<Policy, ConfigError> {
        let policy: Policy = config_file::read(path, "Policy", &["audit.k8s.io/v1"])?;
        let mut problems = Problems::default();
        if policy.rules.is_empty() {
            problems.add("rules", "loaded illegal policy with 0 rules");
        }
        for (index, rule) in policy.rules.iter().enumerate() {
            rule.check(&format!("rules[{index}]"), &mut problems);
        }
        problems.into_result(path, policy)
    }

    /// What the first matching rule says; without one nothing is written.
    pub(crate) fn judge(&self, user: Option<&User>, subject: &Subject<'_>) -> Verdict {
        let Some(rule) = self.rules.iter().find(|rule| rule.matches(user, subject)) else {
            return Verdict { level: Level::None, omit_stages: Vec::new(), omit_managed_fields: false };
        };
        Verdict {
            level: rule.level,
            omit_stages: self.omit_stages.iter().chain(&rule.omit_stages).copied().collect(),
            omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
        }
    }
}

impl Rule {
    fn check(&self, path: &str, problems: &mut Problems) {
        let on_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if on_resources && !self.non_resource_urls.is_empty() {
            let why = "Invalid value: rules cannot apply to both regular resources and non-resource URLs";
            problems.add(format_args!("{path}.nonResourceURLs"), why);
        }
        for (index, url) in self.non_resource_urls.iter().enumerate() {
            let field = format!("{path}.nonResourceURLs[{index}]");
            if url != "*" && !url.starts_with('/') {
                problems.add(
                    field,
                    format_args!("Invalid value: {url:?}: non-resource URL rules must begin with a '/' character"),
                );
            } else if url.len() > 1 && url[..url.len() - 1].contains('*') {
                problems.add(
                    field,
                    format_args!(
                        "Invalid value: {url:?}: non-resource URL wildcards '*' must be the final character of the rule"
                    ),
                );
            }
        }
        for (index, resources) in self.resources.iter().enumerate() {
            if !resources.resource_names.is_empty() && resources.resources.is_empty() {
                let field = format!("{path}.resources[{index}].resourceNames");
                problems.add(field, "Invalid value: using resourceNames requires at least one resource");
            }
        }
    }

    fn matches(&self, user: Option<&User>, subject: &Subject<'_>) -> bool {
        let names = |list: &[String], value: &str| list.iter().any(|one| one == value);
        if !self.users.is_empty() && !user.is_some_and(|user| names(&self.users, &user.name)) {
            return false;
        }
        let in_group = |user: &User| user.groups.iter().any(|group| names(&self.user_groups, group));
        if !self.user_groups.is_empty() && !user.is_some_and(in_group) {
            return false;
        }
        if !self.verbs.is_empty() && !names(&self.verbs, subject.verb) {
            return false;
        }
        if !(self.namespaces.is_empty() && self.resources.is_empty()) {
            return self.matches_resource(subject);
        }
        if self.non_resource_urls.is_empty() {
            return true;
        }
        subject.resource.is_empty()
            && self.non_resource_urls.iter().any(|url| match url.strip_suffix('*') {
                Some(prefix) => subject.path.starts_with(prefix),
                None => subject.path == url,
            })
    }

    fn matches_resource(&self, subject: &Subject<'_>) -> bool {
        if subject.resource.is_empty() {
            return false;
        }
        if !self.namespaces.is_empty() && !self.namespaces.iter().any(|one| one == subject.namespace) {
            return false;
        }
        self.resources.is_empty()
            || self.resources.iter().any(|one| {
                one.group == subject.group
                    && (one.resource_names.is_empty() || one.resource_names.iter().any(|name| name == subject.name))
                    && (one.resources.is_empty()
                        || one.resources.iter().any(|pattern| names_resource(pattern, subject)))
            })
    }
}

/// `pods`, `pods/log`, `pods/*`, `*/status` or `*`; a resource alone does not stand for its subresources.
fn names_resource(pattern: &str, subject: &Subject<'_>) -> bool {
    match pattern.split_once('/') {
        None => pattern == "*" || (pattern == subject.resource && subject.subresource.is_empty()),
        Some((resource, subresource)) => {
            (resource == "*" || resource == subject.resource)
                && !subject.subresource.is_empty()
                && (subresource == "*" || subresource == subject.subresource)
                || (subresource == "*" && resource == subject.resource)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Result<Policy, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.yaml");
        std::fs::write(&path, format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{text}")).unwrap();
        Policy::load(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let policy = policy(
            r"
omitStages: [RequestReceived]
rules:
- {level: None, users: ['system:kube-proxy'], verbs: [watch], resources: [{group: '', resources: [endpoints, services]}]}
- {level: None, userGroups: ['system:authenticated'], nonResourceURLs: ['/api*', /version]}
- {level: Request, resources: [{group: '', resources: [configmaps]}], namespaces: [kube-system]}
- {level: RequestResponse, resources: [{group: '', resources: ['pods/*']}], omitStages: [ResponseStarted]}
- {level: Metadata, resources: [{group: '', resources: [secrets, configmaps], resourceNames: [one]}]}
- {level: Request, resources: [{group: apps}], omitManagedFields: true}
",
        )
        .unwrap();
        let proxy = User::new("system:kube-proxy", &[]);
        let jane = User::new("jane", &[]);
        let check = |user: &User, subject: Subject<'_>, expected: Level| {
            assert_eq!(policy.judge(Some(user), &subject).level, expected, "{subject:?}");
        };
        let on = |verb, resource, subresource, namespace, name| Subject {
            verb,
            resource,
            subresource,
            namespace,
            name,
            ..Subject::default()
        };
        check(&proxy, on("watch", "services", "", "", ""), Level::None);
        check(&jane, on("watch", "services", "", "", ""), Level::None);
        check(&jane, Subject { verb: "get", path: "/api/v1", ..Subject::default() }, Level::None);
        check(&jane, on("update", "configmaps", "", "kube-system", "one"), Level::Request);
        check(&jane, on("update", "configmaps", "", "default", "one"), Level::Metadata);
        check(&jane, on("update", "configmaps", "", "default", "two"), Level::None);
        check(&jane, on("create", "pods", "exec", "default", "a"), Level::RequestResponse);
        check(&jane, on("create", "pods", "", "default", "a"), Level::RequestResponse);
        check(
            &jane,
            Subject { verb: "get", group: "apps", resource: "deployments", ..Subject::default() },
            Level::Request,
        );
        let verdict = policy.judge(Some(&jane), &on("create", "pods", "log", "default", "a"));
        assert_eq!(verdict.omit_stages, [Stage::RequestReceived, Stage::ResponseStarted]);
        let verdict = policy.judge(None, &Subject { group: "apps", resource: "deployments", ..Subject::default() });
        assert!(verdict.omit_managed_fields);
    }

    #[test]
    fn resources_are_named() {
        let check = |pattern: &str, resource: &str, subresource: &str, expected: bool| {
            let subject = Subject { resource, subresource, ..Subject::default() };
            assert_eq!(names_resource(pattern, &subject), expected, "{pattern} {resource}/{subresource}");
        };
        check("*", "pods", "log", true);
        check("pods", "pods", "", true);
        check("pods", "pods", "log", false);
        check("pods/log", "pods", "log", true);
        check("pods/log", "pods", "", false);
        check("pods/*", "pods", "log", true);
        check("pods/*", "pods", "", true);
        check("*/status", "pods", "status", true);
        check("*/status", "pods", "", false);
    }

    #[test]
    fn mistakes_are_named() {
        let check = |text: &str, expected: &str| {
            let problem = policy(text).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        };
        check("rules: []", "0 rules");
        check("rules: [{level: Everything}]", "unknown variant `Everything`");
        check("rules: [{level: None, nonResourceURLs: [version]}]", "must begin with a '/'");
        check("rules: [{level: None, nonResourceURLs: ['/a*/b']}]", "must be the final character");
        check("rules: [{level: None, nonResourceURLs: [/a], namespaces: [b]}]", "cannot apply to both");
        check("rules: [{level: None, resources: [{resourceNames: [a]}]}]", "requires at least one resource");
    }
}
