//! Affinity and anti-affinity between pods, as rules and as preferences.

use std::collections::{BTreeMap, HashMap, HashSet};

use k8s_openapi::api::core::v1::PodAffinityTerm;

use crate::cluster::Cluster;
use crate::labels;
use crate::pod::{Constraints, PodInfo};

type Domain = (String, String);

/// Whether `term`, which belongs to a pod in `own_namespace`, means `other`.
fn means(term: &PodAffinityTerm, own_namespace: &str, other: &PodInfo, cluster: &Cluster) -> bool {
    let listed = term.namespaces.as_deref().unwrap_or_default();
    let in_namespace = match &term.namespace_selector {
        None if listed.is_empty() => other.namespace.as_ref() == own_namespace,
        None => listed.iter().any(|name| **name == *other.namespace),
        Some(selector) => {
            listed.iter().any(|name| **name == *other.namespace)
                || labels::is_empty(selector)
                || cluster.namespaces.get(&other.namespace).is_some_and(|found| labels::selects(selector, found))
        }
    };
    in_namespace && term.label_selector.as_ref().is_some_and(|selector| labels::selects(selector, &other.labels))
}

fn required_affinity(constraints: &Constraints) -> &[PodAffinityTerm] {
    let affinity = constraints.affinity.as_ref().and_then(|affinity| affinity.pod_affinity.as_ref());
    affinity
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default()
}

fn required_anti_affinity(constraints: &Constraints) -> &[PodAffinityTerm] {
    let affinity = constraints.affinity.as_ref().and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    affinity
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default()
}

/// Terms the pod prefers, those to keep away from with a negative weight.
fn preferred(constraints: &Constraints) -> impl Iterator<Item = (&PodAffinityTerm, i64)> {
    let affinity = constraints.affinity.as_ref();
    let near = affinity.and_then(|affinity| {
        affinity.pod_affinity.as_ref()?.preferred_during_scheduling_ignored_during_execution.as_ref()
    });
    let away = affinity.and_then(|affinity| {
        affinity.pod_anti_affinity.as_ref()?.preferred_during_scheduling_ignored_during_execution.as_ref()
    });
    let near = near.into_iter().flatten().map(|term| (&term.pod_affinity_term, i64::from(term.weight)));
    near.chain(away.into_iter().flatten().map(|term| (&term.pod_affinity_term, -i64::from(term.weight))))
}

/// What the pods of the cluster mean for one pod, by topology domain.
pub struct Counts {
    /// For each required affinity term: its topology key and the values where a pod it means runs.
    near: Vec<(String, HashSet<String>)>,
    /// Whether the pod means itself with all its affinity terms, so that it may be the first of its group.
    first_of_group: bool,
    away: HashSet<Domain>,
    away_keys: HashSet<Domain>,
}

impl Counts {
    /// Looks at all pods once, and at none when nobody has affinity.
    pub fn new(pod: &PodInfo, constraints: &Constraints, cluster: &Cluster) -> Self {
        let (near_terms, away_terms) = (required_affinity(constraints), required_anti_affinity(constraints));
        let mut near: Vec<(String, HashSet<String>)> =
            near_terms.iter().map(|term| (term.topology_key.clone(), HashSet::new())).collect();
        let (mut away, mut kept_away) = (HashSet::new(), HashSet::new());
        if !near_terms.is_empty() || !away_terms.is_empty() {
            for (_, state, facts) in cluster.known() {
                for other in state.pods.values() {
                    // A pod counts for the affinity only where it meets all terms, as upstream.
                    if !near_terms.is_empty()
                        && near_terms.iter().all(|term| means(term, &pod.namespace, other, cluster))
                    {
                        for (key, values) in &mut near {
                            values.extend(facts.labels.get(key).cloned());
                        }
                    }
                    for term in away_terms.iter().filter(|term| means(term, &pod.namespace, other, cluster)) {
                        away.extend(
                            facts
                                .labels
                                .get(&term.topology_key)
                                .map(|value| (term.topology_key.clone(), value.clone())),
                        );
                    }
                }
            }
        }
        for (node, other) in cluster.affine() {
            let Some(facts) = cluster.nodes.get(node).and_then(|state| state.facts.as_ref()) else { continue };
            let Some(theirs) = other.constraints.as_deref() else { continue };
            for term in required_anti_affinity(theirs).iter().filter(|term| means(term, &other.namespace, pod, cluster))
            {
                kept_away.extend(
                    facts.labels.get(&term.topology_key).map(|value| (term.topology_key.clone(), value.clone())),
                );
            }
        }
        let nobody_yet = near.iter().all(|(_, values)| values.is_empty());
        let first_of_group = nobody_yet && near_terms.iter().all(|term| means(term, &pod.namespace, pod, cluster));
        Self { near, first_of_group, away, away_keys: kept_away }
    }

    /// Why a node with these labels does not do, and whether removing pods could help.
    pub fn obstacle(&self, node_labels: &BTreeMap<String, String>) -> Option<(&'static str, bool)> {
        let lies_in =
            |domains: &HashSet<Domain>| domains.iter().any(|(key, value)| node_labels.get(key) == Some(value));
        let has_keys = self.near.iter().all(|(key, _)| node_labels.contains_key(key));
        let near = has_keys
            && (self.first_of_group
                || self
                    .near
                    .iter()
                    .all(|(key, values)| node_labels.get(key).is_some_and(|value| values.contains(value))));
        if !near {
            return Some(("node(s) didn't match pod affinity rules", false));
        }
        if lies_in(&self.away) {
            return Some(("node(s) didn't match pod anti-affinity rules", true));
        }
        lies_in(&self.away_keys).then_some(("node(s) didn't satisfy existing pods anti-affinity rules", true))
    }
}

/// How much each topology domain is liked for the pod: its own preferences, and those of the pods that run.
pub fn preferences(pod: &PodInfo, constraints: &Constraints, cluster: &Cluster) -> HashMap<Domain, i64> {
    let mut liked: HashMap<Domain, i64> = HashMap::new();
    let mut count = |key: &str, labels: &BTreeMap<String, String>, weight: i64| {
        if let Some(value) = labels.get(key) {
            *liked.entry((key.to_owned(), value.clone())).or_default() += weight;
        }
    };
    if preferred(constraints).next().is_some() {
        for (_, state, facts) in cluster.known() {
            for other in state.pods.values() {
                for (term, weight) in
                    preferred(constraints).filter(|(term, _)| means(term, &pod.namespace, other, cluster))
                {
                    count(&term.topology_key, &facts.labels, weight);
                }
            }
        }
    }
    for (node, other) in cluster.affine() {
        let Some(facts) = cluster.nodes.get(node).and_then(|state| state.facts.as_ref()) else { continue };
        let Some(theirs) = other.constraints.as_deref() else { continue };
        let hard = required_affinity(theirs).iter().map(|term| (term, pod.profile.hard_pod_affinity_weight));
        for (term, weight) in
            preferred(theirs).chain(hard).filter(|(term, _)| means(term, &other.namespace, pod, cluster))
        {
            count(&term.topology_key, &facts.labels, weight);
        }
    }
    liked
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::tests::node;
    use crate::pod::tests::labelled;

    #[test]
    fn rules() {
        let mut cluster = Cluster::default();
        for (name, zone) in [("n1", "a"), ("n2", "b")] {
            cluster.set_node(&node(name, json!({"zone": zone}), json!({}), json!({"pods": "10"})));
        }
        let near = |app: &str| {
            json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": app}}}]}}})
        };
        let away = |app: &str| {
            json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": app}}}]}}})
        };
        let mut db = labelled("db", json!({"app": "db"}), away("noisy"));
        db.node = Some("n1".into());
        db.settle();
        cluster.place(db.into());
        let check = |labels: serde_json::Value, spec: serde_json::Value, expected: [Option<&str>; 2]| {
            let pod = labelled("p", labels, spec.clone());
            let counts = Counts::new(&pod, pod.constraints.as_deref().expect("pending"), &cluster);
            let found: Vec<Option<&str>> =
                cluster.known().map(|(_, _, facts)| counts.obstacle(&facts.labels).map(|found| found.0)).collect();
            assert_eq!(found, expected, "{spec}");
        };
        check(json!({}), json!({}), [None, None]);
        check(json!({}), near("db"), [None, Some("node(s) didn't match pod affinity rules")]);
        check(json!({}), near("none"), [Some("node(s) didn't match pod affinity rules"); 2]);
        check(json!({"app": "web"}), near("web"), [None, None]);
        check(json!({}), away("db"), [Some("node(s) didn't match pod anti-affinity rules"), None]);
        check(
            json!({"app": "noisy"}),
            json!({}),
            [Some("node(s) didn't satisfy existing pods anti-affinity rules"), None],
        );
    }
}
