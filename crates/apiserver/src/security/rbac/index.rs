//! Roles and bindings in the form that decisions need: bindings by subject, roles by name.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::rule::{Rule, rules_of};
use crate::security::attributes::{Attributes, Decision};
use crate::security::user::{SERVICE_ACCOUNT_PREFIX, User};

/// The collections that the index is made of.
pub(crate) const COLLECTIONS: [&str; 4] = [
    "rbac.authorization.k8s.io/clusterroles",
    "rbac.authorization.k8s.io/roles",
    "rbac.authorization.k8s.io/clusterrolebindings",
    "rbac.authorization.k8s.io/rolebindings",
];

/// A role as stored.
#[derive(Debug, Default)]
struct Role {
    rules: Vec<Rule>,
    labels: HashMap<String, String>,
    /// The selectors of the roles whose rules this one has too.
    aggregation: Vec<Value>,
}

/// A binding: who gets which role.
#[derive(Debug)]
struct Binding {
    namespace: String,
    name: String,
    role: RoleReference,
    subjects: Vec<Subject>,
}

/// The role that a binding names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RoleReference {
    /// Whether it is a ClusterRole.
    pub(crate) cluster: bool,
    /// The role's name; a Role is in the binding's namespace.
    pub(crate) name: String,
}

/// Who a binding is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
}

/// The bindings of one namespace, or of the whole cluster, by subject.
#[derive(Debug, Default)]
struct BySubject {
    users: HashMap<String, Vec<Arc<Binding>>>,
    groups: HashMap<String, Vec<Arc<Binding>>>,
    all: HashMap<String, Arc<Binding>>,
}

/// All roles and bindings. An empty namespace stands for the cluster.
#[derive(Debug, Default)]
pub(crate) struct Index {
    cluster_roles: HashMap<String, Role>,
    roles: HashMap<String, HashMap<String, Role>>,
    bindings: HashMap<String, BySubject>,
    /// The effective rules of ClusterRoles with an aggregation rule; computed anew when any ClusterRole changes.
    aggregated: HashMap<String, Arc<Vec<Rule>>>,
}

impl Binding {
    /// The subject by which the binding is a user's, in upstream's words.
    fn subject_of(&self, user: &User) -> String {
        let own = self.subjects.iter().find(|subject| match subject {
            Subject::User(name) => *name == user.name,
            Subject::Group(name) => user.is_in(name),
        });
        match own {
            Some(Subject::User(name)) => {
                match name.strip_prefix(SERVICE_ACCOUNT_PREFIX).and_then(|rest| rest.split_once(':')) {
                    Some((namespace, account)) => format!("ServiceAccount {:?}", format!("{account}/{namespace}")),
                    None => format!("User {name:?}"),
                }
            }
            Some(Subject::Group(name)) => format!("Group {name:?}"),
            None => String::new(),
        }
    }
}

impl BySubject {
    fn insert(&mut self, binding: Binding) {
        self.remove(&binding.name);
        let binding = Arc::new(binding);
        for subject in &binding.subjects {
            let list = match subject {
                Subject::User(name) => self.users.entry(name.clone()).or_default(),
                Subject::Group(name) => self.groups.entry(name.clone()).or_default(),
            };
            // A subject that stands twice in a binding gets it once.
            if !list.iter().any(|known| Arc::ptr_eq(known, &binding)) {
                list.push(binding.clone());
            }
        }
        self.all.insert(binding.name.clone(), binding);
    }

    fn remove(&mut self, name: &str) {
        let Some(binding) = self.all.remove(name) else { return };
        for subject in &binding.subjects {
            let (map, key) = match subject {
                Subject::User(name) => (&mut self.users, name),
                Subject::Group(name) => (&mut self.groups, name),
            };
            if let Some(list) = map.get_mut(key) {
                list.retain(|known| !Arc::ptr_eq(known, &binding));
                if list.is_empty() {
                    map.remove(key);
                }
            }
        }
    }

    fn of<'a>(&'a self, user: &'a User) -> impl Iterator<Item = &'a Arc<Binding>> {
        let named = self.users.get(&user.name).into_iter().flatten();
        named.chain(user.groups.iter().filter_map(|group| self.groups.get(group)).flatten())
    }
}

impl Index {
    /// Puts an object in, or in place of its earlier state. `collection` is one of [`COLLECTIONS`].
    pub(crate) fn insert(&mut self, collection: &str, namespace: &str, name: &str, object: &Value) {
        match collection {
            "rbac.authorization.k8s.io/clusterroles" => {
                self.cluster_roles.insert(name.to_owned(), read_role(object));
                self.aggregate();
            }
            "rbac.authorization.k8s.io/roles" => {
                self.roles.entry(namespace.to_owned()).or_default().insert(name.to_owned(), read_role(object));
            }
            _ => {
                let binding = read_binding(namespace, name, object);
                self.bindings.entry(namespace.to_owned()).or_default().insert(binding);
            }
        }
    }

    /// Takes an object out.
    pub(crate) fn remove(&mut self, collection: &str, namespace: &str, name: &str) {
        match collection {
            "rbac.authorization.k8s.io/clusterroles" => {
                self.cluster_roles.remove(name);
                self.aggregate();
            }
            "rbac.authorization.k8s.io/roles" => {
                if let Some(roles) = self.roles.get_mut(namespace) {
                    roles.remove(name);
                    if roles.is_empty() {
                        self.roles.remove(namespace);
                    }
                }
            }
            _ => {
                if let Some(bindings) = self.bindings.get_mut(namespace) {
                    bindings.remove(name);
                    if bindings.all.is_empty() {
                        self.bindings.remove(namespace);
                    }
                }
            }
        }
    }

    /// Computes what aggregated ClusterRoles allow: the rules of all roles they select, which may be aggregated themselves
    /// (`admin` selects `edit`, which selects `view`). The rules stored in an aggregated role are only a copy of that sum for
    /// people to read; not counting them means that a role that is added or taken away counts at once.
    fn aggregate(&mut self) {
        let mut effective = HashMap::new();
        for (name, role) in &self.cluster_roles {
            if role.aggregation.is_empty() {
                continue;
            }
            let mut seen = vec![name.as_str()];
            let mut rules: Vec<Rule> = Vec::new();
            let mut next = 0;
            while next < seen.len() {
                let Some(role) = self.cluster_roles.get(seen[next]) else { break };
                next += 1;
                let own = if role.aggregation.is_empty() { role.rules.as_slice() } else { &[] };
                for rule in own {
                    if !rules.contains(rule) {
                        rules.push(rule.clone());
                    }
                }
                for (other, candidate) in &self.cluster_roles {
                    if !seen.contains(&other.as_str())
                        && role.aggregation.iter().any(|one| selects(one, &candidate.labels))
                    {
                        seen.push(other);
                    }
                }
            }
            effective.insert(name.clone(), Arc::new(rules));
        }
        self.aggregated = effective;
    }

    /// The rules of a role, or `None` when there is no such role.
    pub(crate) fn rules(&self, namespace: &str, role: &RoleReference) -> Option<&[Rule]> {
        if !role.cluster {
            return Some(&self.roles.get(namespace)?.get(&role.name)?.rules);
        }
        match self.aggregated.get(&role.name) {
            Some(rules) => Some(rules),
            None => Some(&self.cluster_roles.get(&role.name)?.rules),
        }
    }

    /// Decides, and names the binding that decided, as upstream's audit trail does.
    pub(crate) fn authorize(&self, user: &User, attributes: &Attributes<'_>) -> Decision {
        let mut missing = Vec::new();
        for (place, binding) in self.bindings_of(user, attributes.namespace) {
            match self.rules(place, &binding.role) {
                Some(rules) => {
                    if rules.iter().any(|rule| rule.allows(attributes)) {
                        return Decision::allow("");
                    }
                }
                None => missing.push(missing_role(&binding.role)),
            }
        }
        missing.dedup();
        let reason = match missing.as_slice() {
            [] => String::new(),
            [one] => format!("RBAC: {one}"),
            many => format!("RBAC: [{}]", many.join(", ")),
        };
        Decision::no_opinion(reason)
    }

    /// [`Index::authorize`], with the words of upstream's audit trail about the binding that allows it.
    pub(crate) fn explain(&self, user: &User, attributes: &Attributes<'_>) -> Decision {
        let allows = |role: &RoleReference, place: &str| {
            self.rules(place, role).is_some_and(|rules| rules.iter().any(|rule| rule.allows(attributes)))
        };
        let found = self.bindings_of(user, attributes.namespace).find(|(place, binding)| allows(&binding.role, place));
        let Some((place, binding)) = found else { return self.authorize(user, attributes) };
        let (kind, full_name) = if place.is_empty() {
            ("ClusterRoleBinding", binding.name.clone())
        } else {
            ("RoleBinding", format!("{}/{place}", binding.name))
        };
        let role = if binding.role.cluster { "ClusterRole" } else { "Role" };
        let subject = binding.subject_of(user);
        let reason = format!("RBAC: allowed by {kind} {full_name:?} of {role} {:?} to {subject}", binding.role.name);
        Decision::allow(reason)
    }

    /// All rules that a user has in a namespace (with those of the whole cluster), and what could not be resolved.
    pub(crate) fn rules_for(&self, user: &User, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let mut found = Vec::new();
        let mut missing = Vec::new();
        for (place, binding) in self.bindings_of(user, namespace) {
            match self.rules(place, &binding.role) {
                Some(rules) => found.extend_from_slice(rules),
                None => missing.push(missing_role(&binding.role)),
            }
        }
        (found, missing)
    }

    fn bindings_of<'a>(
        &'a self,
        user: &'a User,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a Arc<Binding>)> {
        let cluster = self.bindings.get("").into_iter().flat_map(move |bindings| bindings.of(user));
        let local = (!namespace.is_empty()).then(|| self.bindings.get(namespace)).flatten();
        let local = local.into_iter().flat_map(move |bindings| bindings.of(user));
        cluster.map(|binding| ("", binding)).chain(local.map(|binding| (binding.namespace.as_str(), binding)))
    }
}

fn missing_role(role: &RoleReference) -> String {
    let kind = if role.cluster { "clusterrole" } else { "role" };
    format!("{kind}.rbac.authorization.k8s.io {:?} not found", role.name)
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn read_role(object: &Value) -> Role {
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
    let labels = labels.into_iter().flatten();
    let labels = labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
    let aggregation = object.pointer("/aggregationRule/clusterRoleSelectors").and_then(Value::as_array);
    Role { rules: rules_of(object), labels, aggregation: aggregation.cloned().unwrap_or_default() }
}

/// The role that a binding object names.
pub(crate) fn role_reference(binding: &Value) -> RoleReference {
    let reference = binding.get("roleRef").unwrap_or(&Value::Null);
    RoleReference { cluster: text(reference, "kind") == "ClusterRole", name: text(reference, "name").to_owned() }
}

fn read_binding(namespace: &str, name: &str, object: &Value) -> Binding {
    let subjects = object.get("subjects").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let subjects = subjects.iter().filter_map(|subject| {
        let name = text(subject, "name").to_owned();
        match text(subject, "kind") {
            "User" => Some(Subject::User(name)),
            "Group" => Some(Subject::Group(name)),
            "ServiceAccount" => {
                let own = text(subject, "namespace");
                let place = if own.is_empty() { namespace } else { own };
                (!place.is_empty()).then(|| Subject::User(format!("{SERVICE_ACCOUNT_PREFIX}{place}:{name}")))
            }
            _ => None,
        }
    });
    Binding {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        role: role_reference(object),
        subjects: subjects.collect(),
    }
}

/// Whether a `metav1.LabelSelector` object selects these labels. An empty selector of an aggregation rule selects all.
fn selects(selector: &Value, labels: &HashMap<String, String>) -> bool {
    let equal = selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten();
    let mut equal = equal.map(|(key, value)| labels.get(key).map(String::as_str) == value.as_str());
    let expressions = selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten();
    let mut expressions = expressions.map(|expression| {
        let own = labels.get(text(expression, "key"));
        let values = expression.get("values").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let listed = own.is_some_and(|own| values.iter().any(|value| value.as_str() == Some(own)));
        match text(expression, "operator") {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => own.is_some(),
            "DoesNotExist" => own.is_none(),
            _ => false,
        }
    });
    equal.all(|fits| fits) && expressions.all(|fits| fits)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const GROUP: &str = "rbac.authorization.k8s.io";

    fn index(objects: &[Value]) -> Index {
        let mut index = Index::default();
        for object in objects {
            put(&mut index, object);
        }
        index
    }

    fn put(index: &mut Index, object: &Value) {
        let collection = format!("{GROUP}/{}s", text(object, "kind").to_lowercase());
        let metadata = &object["metadata"];
        index.insert(&collection, text(metadata, "namespace"), text(metadata, "name"), object);
    }

    fn role(kind: &str, namespace: &str, name: &str, resource: &str) -> Value {
        json!({
            "kind": kind, "metadata": {"namespace": namespace, "name": name},
            "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": [resource]}],
        })
    }

    fn binding(kind: &str, namespace: &str, role_kind: &str, role: &str, subject: Value) -> Value {
        json!({
            "kind": kind, "metadata": {"namespace": namespace, "name": format!("{role}-binding")},
            "roleRef": {"kind": role_kind, "name": role}, "subjects": [subject, subject],
        })
    }

    fn check(index: &Index, user: &User, namespace: &str, resource: &str, expected: Result<(), &str>) {
        let attributes = Attributes { verb: "get", namespace, resource, ..Attributes::default() };
        let decision = index.authorize(user, &attributes);
        let answer = if decision.allowed { Ok(()) } else { Err(decision.reason.as_str()) };
        assert_eq!(answer, expected, "{} on {resource} in {namespace:?}", user.name);
    }

    #[test]
    fn bindings_reach_as_far_as_they_should() {
        let index = index(&[
            role("ClusterRole", "", "node-reader", "nodes"),
            role("ClusterRole", "", "pod-reader", "pods"),
            role("Role", "a", "secret-reader", "secrets"),
            binding("ClusterRoleBinding", "", "ClusterRole", "node-reader", json!({"kind": "Group", "name": "ops"})),
            binding("RoleBinding", "a", "ClusterRole", "pod-reader", json!({"kind": "User", "name": "jane"})),
            binding("RoleBinding", "a", "Role", "secret-reader", json!({"kind": "ServiceAccount", "name": "bot"})),
            binding("RoleBinding", "b", "Role", "secret-reader", json!({"kind": "User", "name": "jane"})),
        ]);
        let ops = User::new("olga", &["ops"]);
        let jane = User::new("jane", &[]);
        let bot = User::service_account("a", "bot", "u");
        check(&index, &ops, "", "nodes", Ok(()));
        check(&index, &ops, "a", "nodes", Ok(()));
        check(&index, &ops, "a", "pods", Err(""));
        check(&index, &jane, "a", "pods", Ok(()));
        check(&index, &jane, "", "pods", Err(""));
        check(&index, &jane, "b", "pods", Err("RBAC: role.rbac.authorization.k8s.io \"secret-reader\" not found"));
        check(&index, &bot, "a", "secrets", Ok(()));
        check(&index, &bot, "b", "secrets", Err(""));
    }

    #[test]
    fn decisions_are_explained() {
        let index = index(&[
            role("ClusterRole", "", "pod-reader", "pods"),
            role("Role", "a", "secret-reader", "secrets"),
            binding("ClusterRoleBinding", "", "ClusterRole", "pod-reader", json!({"kind": "Group", "name": "ops"})),
            binding(
                "RoleBinding",
                "a",
                "Role",
                "secret-reader",
                json!({"kind": "ServiceAccount", "name": "bot", "namespace": "b"}),
            ),
        ]);
        let check = |user: &User, resource: &str, expected: &str| {
            let attributes = Attributes { verb: "get", namespace: "a", resource, ..Attributes::default() };
            assert_eq!(index.explain(user, &attributes).reason, expected);
        };
        check(
            &User::new("olga", &["ops"]),
            "pods",
            r#"RBAC: allowed by ClusterRoleBinding "pod-reader-binding" of ClusterRole "pod-reader" to Group "ops""#,
        );
        check(
            &User::service_account("b", "bot", "u"),
            "secrets",
            r#"RBAC: allowed by RoleBinding "secret-reader-binding/a" of Role "secret-reader" to ServiceAccount "bot/b""#,
        );
        check(&User::new("olga", &["ops"]), "secrets", "");
    }

    #[test]
    fn changes_count_at_once() {
        let jane = User::new("jane", &[]);
        let mut index = index(&[
            role("ClusterRole", "", "pod-reader", "pods"),
            binding("RoleBinding", "a", "ClusterRole", "pod-reader", json!({"kind": "User", "name": "jane"})),
        ]);
        check(&index, &jane, "a", "pods", Ok(()));
        put(&mut index, &role("ClusterRole", "", "pod-reader", "services"));
        check(&index, &jane, "a", "pods", Err(""));
        check(&index, &jane, "a", "services", Ok(()));
        put(
            &mut index,
            &binding("RoleBinding", "a", "ClusterRole", "pod-reader", json!({"kind": "User", "name": "joe"})),
        );
        check(&index, &jane, "a", "services", Err(""));
        index.remove(COLLECTIONS[3], "a", "pod-reader-binding");
        check(&index, &User::new("joe", &[]), "a", "services", Err(""));
        assert!(index.bindings.is_empty(), "nothing stays behind");
    }

    #[test]
    fn aggregated_roles_have_the_rules_of_those_they_select() {
        let aggregated = |name: &str, label: &str| {
            json!({
                "kind": "ClusterRole", "metadata": {"name": name, "labels": {format!("to-{name}-parent"): "true"}},
                "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]}, "rules": null,
            })
        };
        let labelled = |name: &str, label: &str, resource: &str| {
            let mut role = role("ClusterRole", "", name, resource);
            role["metadata"]["labels"] = json!({label: "true"});
            role
        };
        let mut index = index(&[
            aggregated("admin", "to-edit-parent"),
            aggregated("edit", "to-edit"),
            labelled("x", "to-edit", "pods"),
            binding("ClusterRoleBinding", "", "ClusterRole", "admin", json!({"kind": "User", "name": "jane"})),
        ]);
        let jane = User::new("jane", &[]);
        check(&index, &jane, "", "pods", Ok(()));
        check(&index, &jane, "", "crontabs", Err(""));
        put(&mut index, &labelled("y", "to-edit", "crontabs"));
        check(&index, &jane, "", "crontabs", Ok(()));
        index.remove(COLLECTIONS[0], "", "y");
        check(&index, &jane, "", "crontabs", Err(""));
    }
}
