//! What a client should be told about an object that is taken: fields that do nothing any more, values that do not do
//! what they seem to.
//!
//! Source: `pkg/api/*/warnings.go` and the `WarningsOn…` functions of `pkg/registry/*/strategy.go` of Kubernetes 1.36.

mod network;
mod paths;
mod pod;
mod service;
mod storage;

use serde_json::Value;

use crate::kind::Kind;
use crate::name;
use crate::path::{Path, has, int, list, text};
use crate::quantity::Quantity;

/// Collects what is to be said.
type Warnings = Vec<String>;

/// What is to be said about a new object, or about one that is to replace `old`.
pub(crate) fn of(kind: &Kind, object: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = Warnings::new();
    let spec = Path::new("spec");
    let template = spec.child("template");
    match kind.collection.as_ref() {
        // Pods are updated often, and rarely by people.
        "core/pods" if old.is_none() => {
            host_name(object, "this is used in the Pod's hostname", &mut warnings);
            pod::pod(object, &Path::new(""), &mut warnings);
        }
        "apps/deployments" | "apps/replicasets" | "core/replicationcontrollers" => {
            host_name_of_pods(object, old, &mut warnings);
            pod_template(object, old, &template, &mut warnings);
        }
        "apps/daemonsets" => pod_template(object, old, &template, &mut warnings),
        "apps/statefulsets" => {
            pod_template(object, old, &template, &mut warnings);
            let claims = spec.child("volumeClaimTemplates");
            for (index, claim) in list(&object["spec"], "volumeClaimTemplates").iter().enumerate() {
                storage::claim_spec(&claim["spec"], &claims.index(index).child("spec"), &mut warnings);
            }
            if int(object, "spec.revisionHistoryLimit").is_some_and(|limit| limit < 0) {
                let place = spec.child("revisionHistoryLimit");
                warnings.push(format!(
                    "{place}: a negative value retains all historical revisions; a value >= 0 is recommended"
                ));
            }
        }
        "core/podtemplates" => pod::pod(&object["template"], &Path::new("template"), &mut warnings),
        "batch/jobs" => {
            host_name_of_pods(object, old, &mut warnings);
            pod_template(object, old, &template, &mut warnings);
            many_indexes(&object["spec"], &mut warnings);
        }
        "batch/cronjobs" => {
            host_name_of_pods(object, old, &mut warnings);
            let job = spec.child("jobTemplate");
            let job = job.child("spec");
            if changed(object, old) {
                let template = &object["spec"]["jobTemplate"]["spec"]["template"];
                pod::pod(template, &job.child("template"), &mut warnings);
            }
            many_indexes(&object["spec"]["jobTemplate"]["spec"], &mut warnings);
            if text(object, "spec.schedule").contains("TZ") {
                warnings.push(
                    "CRON_TZ or TZ used in spec.schedule is not officially supported, see \
                     https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
                        .to_owned(),
                );
            }
        }
        "core/services" => service::service(object, &mut warnings),
        "core/persistentvolumes" => storage::volume(object, &mut warnings),
        "core/persistentvolumeclaims" => storage::claim(object, &mut warnings),
        "discovery.k8s.io/endpointslices" => network::endpoint_slice(object, &mut warnings),
        "networking.k8s.io/ingresses" if old.is_none() => network::ingress(object, &mut warnings),
        "networking.k8s.io/networkpolicies" => network::policy(object, &mut warnings),
        "node.k8s.io/runtimeclasses" => storage::runtime_class(object, &mut warnings),
        "storage.k8s.io/csistoragecapacities" => {
            storage::label_terms(&object["nodeTopology"], &Path::new("nodeTopology"), &mut warnings);
        }
        "storage.k8s.io/storageclasses" => storage::class(object, &mut warnings),
        "core/serviceaccounts" => {
            let annotation = "kubernetes.io/enforce-mountable-secrets";
            if has_annotation(object, annotation) && !old.is_some_and(|old| has_annotation(old, annotation)) {
                warnings.push(format!(
                    "metadata.annotations[{annotation}]: deprecated in v1.32+; prefer separate namespaces to isolate \
                     access to mounted secrets"
                ));
            }
        }
        _ if kind.custom().is_some() => finalizers(object, old, &mut warnings),
        _ => {}
    }
    warnings
}

/// Finalizers of custom resources that a newcomer could take too. Source: `validateKubeFinalizerName` of
/// `k8s.io/apiextensions-apiserver`.
fn finalizers(object: &Value, old: Option<&Value>, warnings: &mut Warnings) {
    const STANDARD: [&str; 3] = ["orphan", "foregroundDeletion", "kubernetes"];
    let known = old.map_or(&[][..], |old| list(&old["metadata"], "finalizers"));
    let mut added: Vec<&str> = list(&object["metadata"], "finalizers")
        .iter()
        .filter(|finalizer| !known.contains(finalizer))
        .filter_map(Value::as_str)
        .collect();
    added.sort_unstable();
    added.dedup();
    for finalizer in added {
        for wrong in name::qualified_name(finalizer) {
            warnings.push(format!("metadata.finalizers: {finalizer:?}: {wrong}"));
        }
        if !finalizer.contains('/') && !STANDARD.contains(&finalizer) {
            let path = if finalizer.contains('.') { " including a path (/)" } else { "" };
            warnings.push(format!(
                "metadata.finalizers: {finalizer:?}: prefer a domain-qualified finalizer name{path} to avoid accidental \
                 conflicts with other finalizer writers"
            ));
        }
    }
}

fn has_annotation(object: &Value, annotation: &str) -> bool {
    !object["metadata"]["annotations"][annotation].is_null()
}

/// Only a change of the spec is worth another word about it.
fn changed(object: &Value, old: Option<&Value>) -> bool {
    old.is_none_or(|old| object["metadata"]["generation"] != old["metadata"]["generation"])
}

fn pod_template(object: &Value, old: Option<&Value>, path: &Path<'_>, warnings: &mut Warnings) {
    if changed(object, old) {
        pod::pod(&object["spec"]["template"], path, warnings);
    }
}

fn host_name(object: &Value, used: &str, warnings: &mut Warnings) {
    let wrong = name::dns1123_label(text(object, "metadata.name"));
    if !wrong.is_empty() {
        warnings.push(format!(
            "metadata.name: {used}, which can result in surprising behavior; a DNS label is recommended: [{}]",
            wrong.join(" ")
        ));
    }
}

fn host_name_of_pods(object: &Value, old: Option<&Value>, warnings: &mut Warnings) {
    if old.is_none() {
        host_name(object, "this is used in Pod names and hostnames", warnings);
    }
}

fn many_indexes(spec: &Value, warnings: &mut Warnings) {
    let more = |field: &str, than: i64| int(spec, field).is_some_and(|number| number > than);
    let indexed = text(spec, "completionMode") == "Indexed";
    if indexed && more("completions", 100_000) && more("parallelism", 10_000) && !has(spec, "backoffLimitPerIndex") {
        warnings.push(
            "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, \
             Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
                .to_owned(),
        );
    }
}

/// Bytes are whole.
fn fractional(value: &Value, path: &Path<'_>, warnings: &mut Warnings) {
    let Some(given) = value.as_str() else { return };
    if given.parse::<Quantity>().is_ok_and(|quantity| quantity.milli_value() % 1000 != 0) {
        warnings.push(format!("{path}: fractional byte value {given:?} is invalid, must be an integer"));
    }
}

/// What took the place of a node's label.
fn replaced_label(key: &str) -> Option<&'static str> {
    Some(match key {
        "beta.kubernetes.io/arch" => "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
        "beta.kubernetes.io/os" => "deprecated since v1.14; use \"kubernetes.io/os\" instead",
        "failure-domain.beta.kubernetes.io/region" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead"
        }
        "failure-domain.beta.kubernetes.io/zone" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"
        }
        "beta.kubernetes.io/instance-type" => {
            "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"
        }
        _ => return None,
    })
}

/// One term of a node selector; a preference may name values that no label can have.
fn node_term(term: &Value, preference: bool, path: &Path<'_>, warnings: &mut Warnings) {
    let path = path.child("matchExpressions");
    for (index, expression) in list(term, "matchExpressions").iter().enumerate() {
        let path = path.index(index);
        let key = text(expression, "key");
        if let Some(message) = replaced_label(key) {
            warnings.push(format!("{}: {key} is {message}", path.child("key")));
        }
        if preference {
            let values = path.child("values");
            for (index, value) in list(expression, "values").iter().enumerate() {
                for message in name::label_value(value.as_str().unwrap_or_default()) {
                    warnings.push(format!("{}: {message}", values.index(index)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
