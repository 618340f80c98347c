//! Roles and their bindings.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::{Common, Made, named};
use crate::discovery::Discovery;
use crate::verbs::{SubjectFlags, from_server, outcome};

const GROUP: &str = "rbac.authorization.k8s.io";

const RESOURCE_VERBS: &[&str] = &[
    "*",
    "get",
    "delete",
    "list",
    "create",
    "update",
    "patch",
    "watch",
    "proxy",
    "deletecollection",
    "use",
    "bind",
    "escalate",
    "impersonate",
];

const URL_VERBS: &[&str] = &["*", "get", "post", "put", "delete", "patch", "head", "options"];

/// Verbs that mean something for a few resources only.
const SPECIAL_VERBS: &[(&str, &[(&str, &str)])] = &[
    ("use", &[("policy", "podsecuritypolicies"), ("extensions", "podsecuritypolicies")]),
    ("bind", &[(GROUP, "roles"), (GROUP, "clusterroles")]),
    ("escalate", &[(GROUP, "roles"), (GROUP, "clusterroles")]),
    ("impersonate", &[("", "users"), ("", "serviceaccounts"), ("", "groups"), ("authentication.k8s.io", "userextras")]),
];

/// What may be done with what.
#[derive(Debug, Clone, Args)]
pub struct Rights {
    /// What may be done
    #[arg(long, value_name = "VERB", value_delimiter = ',')]
    pub verb: Vec<String>,
    /// With what: TYPE[.GROUP][/SUBRESOURCE]
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    pub resource: Vec<String>,
    /// Only with objects of this name
    #[arg(long, value_name = "NAME")]
    pub resource_name: Vec<String>,
}

/// A resource as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    resource: String,
    group: String,
    below: Option<String>,
}

fn asked(text: &str) -> Asked {
    let (resource, below) = match text.split_once('/') {
        Some((resource, below)) => (resource, Some(below.to_owned())),
        None => (text, None),
    };
    let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
    Asked { resource: resource.to_owned(), group: group.to_owned(), below }
}

fn without_repeats(texts: &[String]) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for text in texts {
        if !kept.contains(text) {
            kept.push(text.clone());
        }
    }
    kept
}

impl Rights {
    fn verbs(&self) -> Vec<String> {
        if self.verb.iter().any(|verb| verb == "*") { vec!["*".to_owned()] } else { without_repeats(&self.verb) }
    }

    fn resources(&self) -> Vec<Asked> {
        let all = self.resource.iter().map(|text| asked(text));
        let everything = Asked { resource: "*".to_owned(), group: String::new(), below: None };
        let all: Vec<Asked> = all.collect();
        // After everything nothing more can be said.
        let whole = self.resource.iter().any(|text| text == "*");
        if whole { vec![everything] } else { all }
    }

    /// The rules, one a group.
    fn rules(&self, discovery: &Discovery) -> Result<Vec<Value>> {
        let verbs = self.verbs();
        let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut anything = false;
        for asked in self.resources() {
            if asked.resource.is_empty() {
                bail!("resource must be specified if apiGroup/subresource specified");
            }
            anything |= asked.resource == "*";
            let name = match asked.group.as_str() {
                "" => asked.resource.clone(),
                group => format!("{}.{group}", asked.resource),
            };
            let known = discovery.by_name(&name);
            let (group, mut plural) = known.map_or_else(
                || (asked.group.clone(), asked.resource.clone()),
                |it| (it.group.clone(), it.plural.clone()),
            );
            let mut special = false;
            for (verb, resources) in SPECIAL_VERBS.iter().filter(|(verb, _)| verbs.iter().any(|known| known == verb)) {
                special |= resources.contains(&(group.as_str(), plural.as_str()));
                if !anything && !resources.contains(&(group.as_str(), plural.as_str())) {
                    bail!("can not perform '{verb}' on '{plural}' in group '{group}'");
                }
            }
            if known.is_none() && !special && !anything {
                return Err(outcome::Bare(format!("the server doesn't have a resource type {name:?}")).into());
            }
            if let Some(below) = asked.below.filter(|below| !below.is_empty()) {
                plural = format!("{plural}/{below}");
            }
            let resources = groups.entry(group).or_default();
            if !resources.contains(&plural) {
                resources.push(plural);
            }
        }
        let names = without_repeats(&self.resource_name);
        let rule = |(group, resources): (String, Vec<String>)| {
            let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": resources});
            if !names.is_empty() {
                rule["resourceNames"] = names.clone().into();
            }
            rule
        };
        Ok(groups.into_iter().map(rule).collect())
    }

    fn warn(&self) {
        for verb in self.verbs().iter().filter(|verb| !RESOURCE_VERBS.contains(&verb.as_str())) {
            eprintln!("Warning: '{verb}' is not a standard resource verb");
        }
    }
}

async fn discovery(common: &Common) -> Result<Discovery> {
    let cluster = common.place.connect.connect().await?;
    Discovery::ask(&cluster.client).await.map_err(from_server)
}

/// The flags of `create role`.
#[derive(Debug, Clone, Args)]
pub struct RoleOptions {
    /// The Role's name
    pub name: String,
    /// What it allows.
    #[command(flatten)]
    pub rights: Rights,
    /// What is done with it.
    #[command(flatten)]
    pub common: Common,
}

impl RoleOptions {
    pub(super) async fn make(self) -> Result<(Common, Made)> {
        if self.rights.verb.is_empty() {
            bail!("at least one verb must be specified");
        }
        self.rights.warn();
        if self.rights.resource.is_empty() {
            bail!("at least one resource must be specified");
        }
        let mut object = named(&self.name);
        object["rules"] = self.rights.rules(&discovery(&self.common).await?)?.into();
        Ok((self.common, Made::new((GROUP, "v1", "roles", true), "Role", None, object)))
    }
}

/// The flags of `create clusterrole`.
#[derive(Debug, Clone, Args)]
pub struct ClusterRoleOptions {
    /// The ClusterRole's name
    pub name: String,
    /// What it allows.
    #[command(flatten)]
    pub rights: Rights,
    /// With what else: a path of the server
    #[arg(long = "non-resource-url", value_name = "PATH", value_delimiter = ',')]
    pub urls: Vec<String>,
    /// Allow what all ClusterRoles with these labels allow
    #[arg(long, value_name = "LABEL=VALUE", value_delimiter = ',')]
    pub aggregation_rule: Vec<String>,
    /// What is done with it.
    #[command(flatten)]
    pub common: Common,
}

impl ClusterRoleOptions {
    pub(super) async fn make(self) -> Result<(Common, Made)> {
        let mut object = named(&self.name);
        let rights = &self.rights;
        let verbs = rights.verbs();
        if !self.aggregation_rule.is_empty() {
            let more = [&self.urls, &rights.verb, &rights.resource, &rights.resource_name];
            if more.iter().any(|texts| !texts.is_empty()) {
                bail!("aggregation rule must be specified without nonResourceURLs, verbs, resources or resourceNames");
            }
            let mut labels = json!({});
            for pair in &self.aggregation_rule {
                let Some((name, value)) = pair.split_once('=') else { bail!("{pair} must be formatted as key=value") };
                labels[name] = value.into();
            }
            object["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": labels}]});
            object["rules"] = Value::Null;
        } else {
            if verbs.is_empty() {
                bail!("at least one verb must be specified");
            }
            if rights.resource.is_empty() && self.urls.is_empty() {
                bail!("one of resource or nonResourceURL must be specified");
            }
            let mut rules = Vec::new();
            if !rights.resource.is_empty() {
                rights.warn();
                rules = rights.rules(&discovery(&self.common).await?)?;
            }
            if !self.urls.is_empty() {
                check_urls(&self.urls, &verbs)?;
                rules.push(json!({"verbs": verbs, "nonResourceURLs": without_repeats(&self.urls)}));
            }
            object["rules"] = rules.into();
        }
        Ok((self.common, Made::new((GROUP, "v1", "clusterroles", false), "ClusterRole", None, object)))
    }
}

fn check_urls(urls: &[String], verbs: &[String]) -> Result<()> {
    if let Some(verb) = verbs.iter().find(|verb| !URL_VERBS.contains(&verb.as_str())) {
        bail!("invalid verb: '{verb}' for nonResourceURL");
    }
    for url in urls.iter().filter(|url| *url != "*") {
        if !url.starts_with('/') {
            bail!("nonResourceURL should start with /");
        }
        if url.trim_end_matches('*').contains('*') || url.ends_with("**") {
            bail!("nonResourceURL only supports wildcard matches when '*' is at the end");
        }
    }
    Ok(())
}

/// The common flags of bindings.
pub type BindingCommon = SubjectFlags<Common>;

/// Who gets rights.
#[derive(Debug, Clone, Args)]
pub struct Subjects {
    /// A user
    #[arg(long = "user", value_name = "NAME")]
    pub users: Vec<String>,
    /// A group
    #[arg(long = "group", value_name = "NAME")]
    pub groups: Vec<String>,
    /// A ServiceAccount
    #[arg(long = "serviceaccount", value_name = "NAMESPACE:NAME")]
    pub service_accounts: Vec<String>,
}

impl Subjects {
    fn list(&self) -> Result<Vec<Value>> {
        let mut subjects = Vec::new();
        for (kind, names) in [("User", &self.users), ("Group", &self.groups)] {
            subjects.extend(names.iter().map(|name| json!({"kind": kind, "apiGroup": GROUP, "name": name})));
        }
        for account in &self.service_accounts {
            match account.split(':').collect::<Vec<_>>().as_slice() {
                [namespace, name] if !namespace.is_empty() && !name.is_empty() => {
                    subjects.push(json!({"kind": "ServiceAccount", "name": name, "namespace": namespace}));
                }
                _ => bail!("serviceaccount must be <namespace>:<name>"),
            }
        }
        Ok(subjects)
    }
}

fn binding(name: &str, kind: &str, role: &str, subjects: &Subjects) -> Result<Value> {
    let mut object = named(name);
    let subjects = subjects.list()?;
    if !subjects.is_empty() {
        object["subjects"] = subjects.into();
    }
    object["roleRef"] = json!({"apiGroup": GROUP, "kind": kind, "name": role});
    Ok(object)
}

/// The flags of `create rolebinding`.
#[derive(Debug, Clone, Args)]
pub struct RoleBindingOptions {
    /// The RoleBinding's name
    pub name: String,
    /// The Role that is given
    #[arg(long, value_name = "NAME", conflicts_with = "cluster_role", required_unless_present = "cluster_role")]
    pub role: Option<String>,
    /// The ClusterRole that is given
    #[arg(long = "clusterrole", value_name = "NAME")]
    pub cluster_role: Option<String>,
    /// To whom.
    #[command(flatten)]
    pub subjects: Subjects,
    /// What is done with it.
    #[command(flatten)]
    pub common: BindingCommon,
}

impl RoleBindingOptions {
    pub(super) fn make(self) -> Result<(Common, Made)> {
        let (kind, role) = match (&self.role, &self.cluster_role) {
            (Some(role), _) => ("Role", role),
            (None, Some(role)) => ("ClusterRole", role),
            (None, None) => bail!("exactly one of clusterrole or role must be specified"),
        };
        let object = binding(&self.name, kind, role, &self.subjects)?;
        let failure = Some("failed to create rolebinding:");
        Ok((self.common.0, Made::new((GROUP, "v1", "rolebindings", true), "RoleBinding", failure, object)))
    }
}

/// The flags of `create clusterrolebinding`.
#[derive(Debug, Clone, Args)]
pub struct ClusterRoleBindingOptions {
    /// The ClusterRoleBinding's name
    pub name: String,
    /// The ClusterRole that is given
    #[arg(long = "clusterrole", value_name = "NAME")]
    pub cluster_role: String,
    /// To whom.
    #[command(flatten)]
    pub subjects: Subjects,
    /// What is done with it.
    #[command(flatten)]
    pub common: BindingCommon,
}

impl ClusterRoleBindingOptions {
    pub(super) fn make(self) -> Result<(Common, Made)> {
        let object = binding(&self.name, "ClusterRole", &self.cluster_role, &self.subjects)?;
        let failure = Some("failed to create clusterrolebinding:");
        let resource = (GROUP, "v1", "clusterrolebindings", false);
        Ok((self.common.0, Made::new(resource, "ClusterRoleBinding", failure, object)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for() {
        let check = |text: &str, expected: (&str, &str, Option<&str>)| {
            let got = asked(text);
            assert_eq!((got.resource.as_str(), got.group.as_str(), got.below.as_deref()), expected, "{text}");
        };
        check("pods", ("pods", "", None));
        check("pods/log", ("pods", "", Some("log")));
        check("deployments.apps/scale", ("deployments", "apps", Some("scale")));
        check("x.a.b", ("x", "a.b", None));
        let urls = |urls: &[&str], verbs: &[&str]| {
            let own = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
            check_urls(&own(urls), &own(verbs)).map_err(|error| error.to_string())
        };
        assert!(urls(&["*", "/a", "/b/*"], &["get"]).is_ok());
        assert!(urls(&["/a/*/b"], &["get"]).unwrap_err().contains("at the end"));
        assert!(urls(&["a"], &["get"]).unwrap_err().contains("start with /"));
        assert!(urls(&["/a"], &["list"]).unwrap_err().contains("invalid verb: 'list'"));
    }

    #[test]
    fn subjects() {
        let subjects = Subjects {
            users: vec!["u".to_owned()],
            groups: vec!["g".to_owned()],
            service_accounts: vec!["n:s".to_owned()],
        };
        assert_eq!(subjects.list().unwrap()[2], json!({"kind": "ServiceAccount", "name": "s", "namespace": "n"}));
        let wrong = Subjects { service_accounts: vec!["n".to_owned()], users: vec![], groups: vec![] };
        assert!(wrong.list().is_err());
    }
}
