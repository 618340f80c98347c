//! The rules of aggregated ClusterRoles: the sum of the rules of all roles that their selectors choose, in order of names.
//!
//! Operators add to `view`, `edit` and `admin` this way: they bring a role with a label such as
//! `rbac.authorization.k8s.io/aggregate-to-view`.

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{AggregationRule, ClusterRole, PolicyRule};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kobune_scheduler::labels::selects;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::watcher;
use serde_json::json;

use crate::context::Context;
use crate::informer::Store;
use crate::object::{Cached, ObjectKey};
use crate::queue::{Doing, PassError, Queue, Revisit, is_not_found};

/// The manager of the rules that are written here; upstream's name.
const MANAGER: &str = "clusterrole-aggregation-controller";

/// What the cache keeps of a role: annotations and managed fields are of no use here.
struct Role {
    metadata: ObjectMeta,
    aggregation: Option<AggregationRule>,
    rules: Vec<PolicyRule>,
}

impl From<ClusterRole> for Role {
    fn from(role: ClusterRole) -> Self {
        let given = role.metadata;
        let metadata = ObjectMeta {
            name: given.name,
            uid: given.uid,
            resource_version: given.resource_version,
            labels: given.labels,
            deletion_timestamp: given.deletion_timestamp,
            ..ObjectMeta::default()
        };
        Role { metadata, aggregation: role.aggregation_rule, rules: role.rules.unwrap_or_default() }
    }
}

impl Role {
    fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }
}

impl Cached for Role {
    fn key(&self) -> ObjectKey {
        ObjectKey::new("", self.name())
    }

    fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    fn revision(&self) -> u64 {
        self.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
    }

    fn owners(&self) -> &[OwnerReference] {
        &[]
    }

    fn deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }
}

/// Starts the controller.
pub fn start(context: &Arc<Context>) {
    let queue = Arc::<Queue>::default();
    let roles = Arc::<Store<Role>>::default();
    let (known, waiting) = (Arc::downgrade(&roles), queue.clone());
    roles.on_change(move |_, _| {
        // Any role may be chosen by any aggregated one, or no longer be.
        let all = known.upgrade().map(|roles| roles.all()).unwrap_or_default();
        all.iter().filter(|role| role.aggregation.is_some()).for_each(|role| waiting.add(role.key()));
    });
    context.follow_some::<ClusterRole, _>("clusterroles", watcher::Config::default(), &roles);
    let (own, synced) = (context.clone(), roles.clone());
    let ready = async move { synced.synced().await };
    context.run_controller("clusterrole-aggregation", queue, ready, move |key| pass(own.clone(), roles.clone(), key));
}

/// The rules that an aggregated role must have, if it has others.
fn plan(role: &Role, all: &[Arc<Role>]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation.as_ref()?.cluster_role_selectors.as_deref().unwrap_or_default();
    let none = std::collections::BTreeMap::new();
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors {
        let chosen = |other: &&Arc<Role>| selects(selector, other.metadata.labels.as_ref().unwrap_or(&none));
        // The cache gives roles in order of names, so that the sum does not depend on chance.
        for other in all.iter().filter(|other| other.name() != role.name()).filter(chosen) {
            for rule in &other.rules {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    (rules != role.rules).then_some(rules)
}

async fn pass(context: Arc<Context>, roles: Arc<Store<Role>>, key: ObjectKey) -> Result<Revisit, PassError> {
    let Some(role) = roles.get(&key).filter(|role| !role.deleting()) else { return Ok(None) };
    let Some(rules) = plan(&role, &roles.all()) else { return Ok(None) };
    let wanted = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": &*key.name}, "rules": rules,
    });
    let api: Api<ClusterRole> = Api::all(context.client.clone());
    match api.patch(&key.name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&wanted)).await {
        Ok(written) => roles.wrote(written),
        Err(error) if is_not_found(&error) => {}
        Err(error) => return Err(error).doing("writing the rules of an aggregated role"),
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, label: &str, rules: &[&str], selects: &[&str]) -> Arc<Role> {
        let rule = |resource: &&str| json!({"verbs": ["get"], "apiGroups": [""], "resources": [resource]});
        let mut object = json!({"metadata": {"name": name}, "rules": rules.iter().map(rule).collect::<Vec<_>>()});
        if !label.is_empty() {
            object["metadata"]["labels"][label] = "true".into();
        }
        if !selects.is_empty() {
            let selector = |label: &&str| json!({"matchLabels": {*label: "true"}});
            object["aggregationRule"]["clusterRoleSelectors"] = selects.iter().map(selector).collect();
        }
        Arc::new(serde_json::from_value::<ClusterRole>(object).expect("a role").into())
    }

    #[test]
    fn plans() {
        let check = |roles: &[Arc<Role>], expected: Option<&[&str]>| {
            let resources = |rules: Vec<PolicyRule>| -> Vec<String> {
                rules.into_iter().flat_map(|rule| rule.resources.unwrap_or_default()).collect()
            };
            let found = plan(&roles[0], roles).map(resources);
            assert_eq!(found, expected.map(|all| all.iter().map(|one| (*one).to_owned()).collect()));
        };
        let view = |rules: &[&str]| role("view", "to-edit", rules, &["to-view"]);
        let pods = role("a", "to-view", &["pods", "services"], &[]);
        let jobs = role("b", "to-view", &["services", "jobs"], &[]);
        check(std::slice::from_ref(&pods), None);
        check(&[view(&[]), pods.clone(), jobs.clone()], Some(&["pods", "services", "jobs"]));
        check(&[view(&["pods", "services", "jobs"]), pods.clone(), jobs.clone()], None);
        check(&[view(&["pods", "services", "jobs"]), pods.clone()], Some(&["pods", "services"]));
        check(&[view(&["pods"])], Some(&[]));
        // A role does not add to itself, and roles that are aggregated themselves add what they have.
        let edit = role("edit", "to-edit", &["x"], &["to-edit"]);
        check(&[edit, view(&["pods"])], Some(&["pods"]));
        // Two selectors that choose the same role add its rules once.
        check(&[role("all", "", &[], &["to-view", "to-view"]), pods], Some(&["pods", "services"]));
    }
}
