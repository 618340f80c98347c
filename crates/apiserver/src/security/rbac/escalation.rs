//! Nobody hands out rights that it does not have: the check on writes to roles and bindings.

use serde_json::Value;

use super::index::role_reference;
use super::rule::{list_missing, rules_of, uncovered};
use super::{Index, Rule};
use crate::security::attributes::Attributes;
use crate::security::refusal::Refusal;
use crate::security::user::{MASTERS, User};

const GROUP: &str = "rbac.authorization.k8s.io";

/// The right to write a role or binding whatever it grants: `escalate` on the role, `bind` on the role that a binding names.
#[derive(Debug)]
pub(crate) struct Right {
    verb: &'static str,
    resource: &'static str,
    namespace: String,
    name: String,
}

impl Right {
    pub(crate) fn attributes(&self) -> Attributes<'_> {
        Attributes {
            verb: self.verb,
            group: GROUP,
            version: "v1",
            resource: self.resource,
            namespace: &self.namespace,
            name: &self.name,
            ..Attributes::default()
        }
    }
}

/// The right by which a create or update of a Role, ClusterRole, RoleBinding or ClusterRoleBinding (`resource` in the plural)
/// needs no [`check_escalation`]; `None` when it grants nothing that was not granted before.
pub(crate) fn escalation_right(resource: &str, namespace: &str, object: &Value, old: Option<&Value>) -> Option<Right> {
    let same =
        |fields: [&str; 2]| old.is_some_and(|old| fields.iter().all(|field| old.get(field) == object.get(field)));
    let (verb, resource, name) = match resource {
        "roles" | "clusterroles" if !same(["rules", "aggregationRule"]) => {
            let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
            ("escalate", if resource == "roles" { "roles" } else { "clusterroles" }, name.to_owned())
        }
        "rolebindings" | "clusterrolebindings" if !same(["roleRef", "subjects"]) => {
            let role = role_reference(object);
            ("bind", if role.cluster { "clusterroles" } else { "roles" }, role.name)
        }
        _ => return None,
    };
    Some(Right { verb, resource, namespace: namespace.to_owned(), name })
}

/// Checks a create or update of a role or binding by somebody who lacks the [`escalation_right`]: the user needs every right
/// that the object grants.
pub(crate) fn check_escalation(
    index: &Index,
    user: &User,
    resource: &str,
    namespace: &str,
    object: &Value,
) -> Result<(), Refusal> {
    if user.is_in(MASTERS) {
        return Ok(());
    }
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    match resource {
        "roles" | "clusterroles" => {
            if resource == "clusterroles" && has_aggregation(object) {
                // Whoever aggregates gets rules that do not stand here: only one who may do everything can.
                let everything = Rule {
                    verbs: vec!["*".into()],
                    api_groups: vec!["*".into()],
                    resources: vec!["*".into()],
                    ..Rule::default()
                };
                let paths = Rule { verbs: vec!["*".into()], non_resource_urls: vec!["*".into()], ..Rule::default() };
                let (owned, _) = index.rules_for(user, "");
                if !uncovered(&owned, &[everything, paths]).is_empty() {
                    let why = "must have cluster-admin privileges to use the aggregationRule";
                    return Err(Refusal::forbidden(GROUP, resource, name, why));
                }
            }
            covered(index, user, resource, namespace, name, &rules_of(object))
        }
        "rolebindings" | "clusterrolebindings" => {
            let role = role_reference(object);
            let Some(rules) = index.rules(namespace, &role) else {
                let kind = if role.cluster { "clusterroles" } else { "roles" };
                return Err(Refusal::not_found(GROUP, kind, &role.name));
            };
            covered(index, user, resource, namespace, name, rules)
        }
        _ => Ok(()),
    }
}

fn has_aggregation(object: &Value) -> bool {
    object.get("aggregationRule").is_some_and(|rule| !rule.is_null())
}

fn covered(
    index: &Index,
    user: &User,
    resource: &str,
    namespace: &str,
    name: &str,
    wanted: &[Rule],
) -> Result<(), Refusal> {
    let (owned, unresolved) = index.rules_for(user, namespace);
    let missing = uncovered(&owned, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let mut why = format!(
        "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        user.groups,
        list_missing(&missing)
    );
    if !unresolved.is_empty() {
        why.push_str(&format!("; resolution errors: {unresolved:?}"));
    }
    Err(Refusal::forbidden(GROUP, resource, name, why))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::security::rbac::{COLLECTIONS, Rbac};

    #[test]
    fn rights_that_one_has_can_be_given_on() {
        let rules = |verbs: Value| json!([{"verbs": verbs, "apiGroups": [""], "resources": ["pods"]}]);
        let bind =
            json!([{"verbs": ["bind"], "apiGroups": [GROUP], "resources": ["clusterroles"], "resourceNames": ["all"]}]);
        let binding = |name: &str, role: &str, user: &str| {
            json!({
                "metadata": {"name": name, "namespace": "a"}, "roleRef": {"kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "User", "name": user}],
            })
        };
        let rbac = Rbac::of(&[
            (COLLECTIONS[0], json!({"metadata": {"name": "all"}, "rules": rules(json!(["*"]))})),
            (COLLECTIONS[0], json!({"metadata": {"name": "read"}, "rules": rules(json!(["get", "list"]))})),
            (COLLECTIONS[0], json!({"metadata": {"name": "binder"}, "rules": bind})),
            (COLLECTIONS[3], binding("r", "read", "jane")),
            (COLLECTIONS[3], binding("b", "binder", "boris")),
        ]);
        let check = |user: &str, resource: &str, object: Value, old: Option<Value>, expected: &str| {
            let answer = rbac.with_index(|index| {
                let user = User::new(user, &[]);
                match escalation_right(resource, "a", &object, old.as_ref()) {
                    Some(right) if !index.authorize(&user, &right.attributes()).allowed => {
                        check_escalation(index, &user, resource, "a", &object)
                    }
                    _ => Ok(()),
                }
            });
            let answer = answer.err().map(|refusal| refusal.message).unwrap_or_default();
            assert_eq!(answer, expected, "{user} {resource} {object}");
        };
        let role = |verbs: Value| json!({"metadata": {"name": "mine", "namespace": "a"}, "rules": rules(verbs)});
        check("jane", "roles", role(json!(["get"])), None, "");
        check(
            "jane",
            "roles",
            role(json!(["get", "delete"])),
            None,
            "roles.rbac.authorization.k8s.io \"mine\" is forbidden: user \"jane\" (groups=[\"system:authenticated\"]) is \
             attempting to grant RBAC permissions not currently held:\n\
             {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}",
        );
        check("jane", "roles", role(json!(["delete"])), Some(role(json!(["delete"]))), "");
        check("jane", "rolebindings", binding("new", "read", "joe"), None, "");
        check("boris", "rolebindings", binding("new", "all", "joe"), None, "");
        let refused = rbac.with_index(|index| {
            let object = binding("new", "all", "joe");
            check_escalation(index, &User::new("jane", &[]), "rolebindings", "a", &object)
        });
        assert!(refused.unwrap_err().message.ends_with("{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"*\"]}"));
        check(
            "jane",
            "rolebindings",
            binding("new", "none", "joe"),
            None,
            "clusterroles.rbac.authorization.k8s.io \"none\" not found",
        );
        check(
            "jane",
            "clusterroles",
            json!({"metadata": {"name": "sum"}, "aggregationRule": {"clusterRoleSelectors": []}}),
            None,
            "clusterroles.rbac.authorization.k8s.io \"sum\" is forbidden: must have cluster-admin privileges to use the \
             aggregationRule",
        );
    }
}
