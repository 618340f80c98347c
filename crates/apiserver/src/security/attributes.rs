//! What a request wants to do, as the authorizers see it, and what they decide.

use kobune_kinds::selector::{FieldTerm, Requirement};

use super::refusal::Refusal;
use super::user::User;

/// What a request wants to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// The verb: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, `proxy`,
    /// `impersonate` and so on for resources; the HTTP method in lower case for paths.
    pub verb: &'a str,
    /// The API group, empty for the core.
    pub group: &'a str,
    /// The API version.
    pub version: &'a str,
    /// The resource in the plural; empty when the request is for a path that is no resource.
    pub resource: &'a str,
    /// The subresource, or empty.
    pub subresource: &'a str,
    /// The namespace, or empty.
    pub namespace: &'a str,
    /// The object's name, or empty (also on create, where only the body knows it).
    pub name: &'a str,
    /// The path of a request that is not for a resource.
    pub path: &'a str,
    /// What a list, watch or deletion of many is narrowed to by fields: the node authorizer and webhooks look at it.
    pub field_selector: &'a [FieldTerm],
    /// The same by labels, for webhooks.
    pub label_selector: &'a [Requirement],
}

/// An authorizer's answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// Whether the request may go on.
    pub allowed: bool,
    /// Whether an authorizer refused it so that no further one was asked.
    pub denied: bool,
    /// Why, as far as there is something to say.
    pub reason: String,
    /// What could not be found out.
    pub error: Option<String>,
}

impl Decision {
    /// The request may go on.
    pub(crate) fn allow(reason: impl Into<String>) -> Decision {
        Decision { allowed: true, reason: reason.into(), ..Decision::default() }
    }

    /// Somebody else may still allow it.
    pub(crate) fn no_opinion(reason: impl Into<String>) -> Decision {
        Decision { reason: reason.into(), ..Decision::default() }
    }
}

impl Attributes<'_> {
    /// The 403 that upstream gives for a request that nothing allows; the 500 where that could not be found out.
    pub fn refusal(&self, user: &User, decision: &Decision) -> Refusal {
        if let Some(error) = &decision.error {
            return Refusal::internal(error);
        }
        let mut why = if self.resource.is_empty() {
            format!("User {:?} cannot {} path {:?}", user.name, self.verb, self.path)
        } else {
            let mut resource = self.resource.to_owned();
            if !self.subresource.is_empty() {
                resource.push('/');
                resource.push_str(self.subresource);
            }
            let place = if self.namespace.is_empty() {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace {:?}", self.namespace)
            };
            let (name, verb, group) = (&user.name, self.verb, self.group);
            format!("User {name:?} cannot {verb} resource {resource:?} in API group {group:?} {place}")
        };
        if !decision.reason.is_empty() {
            why.push_str(": ");
            why.push_str(&decision.reason);
        }
        Refusal::forbidden(self.group, self.resource, self.name, why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_as_upstreams() {
        let user = User::new("jane", &[]);
        let check = |attributes: Attributes<'_>, expected: &str| {
            assert_eq!(attributes.refusal(&user, &Decision::default()).message, expected);
        };
        check(
            Attributes { verb: "list", resource: "pods", namespace: "default", ..Attributes::default() },
            r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default""#,
        );
        check(
            Attributes {
                verb: "update",
                group: "apps",
                resource: "deployments",
                subresource: "scale",
                namespace: "a",
                name: "web",
                ..Attributes::default()
            },
            r#"deployments.apps "web" is forbidden: User "jane" cannot update resource "deployments/scale" in API group "apps" in the namespace "a""#,
        );
        check(
            Attributes { verb: "get", resource: "nodes", name: "n1", ..Attributes::default() },
            r#"nodes "n1" is forbidden: User "jane" cannot get resource "nodes" in API group "" at the cluster scope"#,
        );
        check(
            Attributes { verb: "get", path: "/metrics", ..Attributes::default() },
            r#"forbidden: User "jane" cannot get path "/metrics""#,
        );
    }
}
