//! Nobody hands out rights that it does not have: the check on writes to roles and bindings.

use serde_json::Value;

use super::index::{RoleReference, role_reference};
use super::rule::{list_missing, rules_of, uncovered};
use super::{Index, Rule};
use crate::security::attributes::Attributes;
use crate::security::refusal::Refusal;
use crate::security::user::{MASTERS, User};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Checks a create or update of a Role, ClusterRole, RoleBinding or ClusterRoleBinding (`resource` in the plural).
///
/// The user needs every right that the object grants, or the verb `escalate` on the role, or `bind` on the role that a
/// binding names.
pub(crate) fn check_escalation(
    index: &Index,
    user: &User,
    resource: &str,
    namespace: &str,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), Refusal> {
    if user.is_in(MASTERS) {
        return Ok(());
    }
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    match resource {
        "roles" | "clusterroles" => {
            let unchanged = old.is_some_and(|old| {
                old.get("rules") == object.get("rules") && old.get("aggregationRule") == object.get("aggregationRule")
            });
            if unchanged || may(index, user, "escalate", resource, namespace, name) {
                return Ok(());
            }
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
            let unchanged = old.is_some_and(|old| {
                old.get("roleRef") == object.get("roleRef") && old.get("subjects") == object.get("subjects")
            });
            let role = role_reference(object);
            if unchanged || may_bind(index, user, namespace, &role) {
                return Ok(());
            }
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

fn may_bind(index: &Index, user: &User, namespace: &str, role: &RoleReference) -> bool {
    let resource = if role.cluster { "clusterroles" } else { "roles" };
    may(index, user, "bind", resource, namespace, &role.name)
}

fn may(index: &Index, user: &User, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
    let attributes =
        Attributes { verb, group: GROUP, version: "v1", resource, namespace, name, ..Attributes::default() };
    index.authorize(user, &attributes).allowed
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
                check_escalation(index, &User::new(user, &[]), resource, "a", &object, old.as_ref())
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
            check_escalation(index, &User::new("jane", &[]), "rolebindings", "a", &object, None)
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
