//! What is wrong with an object: upstream's `Validate…` functions, with their field paths and words.
//!
//! Source: `pkg/apis/*/validation/validation.go` and `staging/src/k8s.io/apimachinery/pkg/api/validation` of Kubernetes 1.36.

mod autoscaler;
mod claim;
mod config;
mod definition;
mod endpoints;
mod event;
mod groups;
pub(crate) mod job;
mod limit_range;
pub(crate) mod metadata;
mod namespace;
mod node;
mod persistent_volume;
pub(crate) mod pod;
mod quota;
mod resources;
mod selector;
mod service;
mod volume;
mod workload;

use serde_json::Value;

use crate::field_error::FieldError;
use crate::kind::Kind;
use crate::path::{Path, text};

/// Collects what is found.
type Errors = Vec<FieldError>;

/// Where CustomResourceDefinitions are stored.
const DEFINITIONS: &str = "apiextensions.k8s.io/customresourcedefinitions";

pub(crate) fn create(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::new();
    metadata::create(kind, object, &mut errors);
    if let Some(custom) = kind.custom() {
        errors.extend(crate::custom::validate::object(object, None, custom.schema()));
        return errors;
    }
    create_content(kind, object, &mut errors);
    if &*kind.collection == DEFINITIONS {
        definition::definition(object, None, &mut errors);
    }
    groups::create(kind, object, &mut errors);
    errors
}

pub(crate) fn update(kind: &Kind, object: &Value, old: &Value, subresource: Option<&str>) -> Vec<FieldError> {
    let mut errors = Errors::new();
    metadata::update(kind, object, old, &mut errors);
    if let Some(custom) = kind.custom() {
        errors.extend(crate::custom::validate::object(object, Some(old), custom.schema()));
        return errors;
    }
    match subresource {
        None => update_content(kind, object, old, &mut errors),
        Some(part) => update_part(kind, object, old, part, &mut errors),
    }
    match subresource {
        _ if &*kind.collection != DEFINITIONS => {}
        None => definition::definition(object, Some(old), &mut errors),
        Some(_) => definition::status(object, &mut errors),
    }
    groups::update(kind, object, old, subresource, &mut errors);
    errors
}

/// What a new object must be like beyond its metadata.
fn create_content(kind: &Kind, object: &Value, errors: &mut Errors) {
    match kind.collection.as_ref() {
        "core/pods" => pod::create(object, errors),
        "batch/jobs" => job::create(object, errors),
        "batch/cronjobs" => job::cron::create(object, errors),
        "core/namespaces" => namespace::create(object, errors),
        "core/nodes" => node::create(object, errors),
        "core/events" => event::create(object, !kind.group.is_empty(), errors),
        _ => content(kind, object, errors),
    }
}

/// What holds for an object whether it is new or not.
fn content(kind: &Kind, object: &Value, errors: &mut Errors) {
    let spec = &object["spec"];
    let path = Path::new("spec");
    match kind.collection.as_ref() {
        "core/services" => service::service(object, errors),
        "core/endpoints" => endpoints::endpoints(object, errors),
        "core/configmaps" => config::config_map(object, errors),
        "core/secrets" => config::secret(object, errors),
        "core/limitranges" => limit_range::limit_range(object, errors),
        "core/resourcequotas" => quota::quota(object, errors),
        "core/persistentvolumes" => persistent_volume::volume(object, errors),
        "core/persistentvolumeclaims" => claim::spec(spec, &path, errors),
        "core/podtemplates" => pod::template(&object["template"], &Path::new("template"), errors),
        "core/replicationcontrollers" => workload::replication_controller(spec, &path, errors),
        "apps/deployments" => workload::deployment(spec, &path, errors),
        "apps/replicasets" => workload::replica_set(spec, &path, errors),
        "apps/daemonsets" => workload::daemon_set(spec, &path, errors),
        "apps/statefulsets" => workload::stateful_set::stateful_set(spec, &path, errors),
        "apps/controllerrevisions" => workload::controller_revision(object, errors),
        "autoscaling/horizontalpodautoscalers" => autoscaler::create(kind, object, errors),
        _ => {}
    }
}

/// What an object must be like that is to replace `old`.
fn update_content(kind: &Kind, object: &Value, old: &Value, errors: &mut Errors) {
    match kind.collection.as_ref() {
        "core/pods" => pod::update::update(object, old, errors),
        "core/services" => service::update(object, old, errors),
        "core/nodes" => node::update(object, old, errors),
        "core/namespaces" => {}
        "core/events" => event::update(object, old, !kind.group.is_empty(), errors),
        "core/resourcequotas" => quota::update(object, old, errors),
        "core/persistentvolumes" => persistent_volume::update(object, old, errors),
        "core/persistentvolumeclaims" => claim::update(object, old, errors),
        "apps/statefulsets" => workload::stateful_set::update(object, old, errors),
        "apps/controllerrevisions" => workload::controller_revision_update(object, old, errors),
        "batch/jobs" => job::update::update(object, old, errors),
        "batch/cronjobs" => job::cron::update(object, old, errors),
        "autoscaling/horizontalpodautoscalers" => autoscaler::update(kind, object, old, errors),
        collection => {
            content(kind, object, errors);
            match collection {
                "core/configmaps" => config::update(object, old, errors),
                "core/secrets" => {
                    config::secret_type(object, old, errors);
                    config::update(object, old, errors);
                }
                "apps/deployments" | "apps/replicasets" | "apps/daemonsets" => {
                    workload::selector_stays(object, old, errors);
                }
                _ => {}
            }
        }
    }
}

/// What the endpoint of one part of an object may write.
fn update_part(kind: &Kind, object: &Value, old: &Value, part: &str, errors: &mut Errors) {
    match (kind.collection.as_ref(), part) {
        ("core/pods", "status") => pod::status::status(object, old, errors),
        ("core/pods", "ephemeralcontainers") => pod::part::ephemeral_containers(object, old, errors),
        ("core/pods", "resize") => {
            let class = crate::strategy::quality_of_service(&object["spec"]);
            pod::part::resize(object, old, class, errors);
        }
        ("core/services", "status") => service::status(object, errors),
        ("core/nodes", "status") => node::update(object, old, errors),
        ("core/namespaces", "status") => namespace::status(object, errors),
        ("core/namespaces", "finalize") => namespace::finalize(object, errors),
        ("core/resourcequotas", "status") => quota::status(object, errors),
        ("core/persistentvolumeclaims", "status") => claim::status(object, errors),
        ("batch/jobs", "status") => job::status::status(object, old, errors),
        ("autoscaling/horizontalpodautoscalers", "status") => autoscaler::status(object, errors),
        (collection, "status") => {
            if let Some((numbers, parts)) = counted(collection) {
                workload::status(object, old, numbers, parts, errors);
            }
        }
        _ => {}
    }
}

/// The numbers in the status of a kind that makes pods, and which of them are parts of its replicas.
fn counted(collection: &str) -> Option<(&'static [&'static str], &'static [&'static str])> {
    Some(match collection {
        "apps/deployments" => (
            &[
                "observedGeneration",
                "replicas",
                "updatedReplicas",
                "readyReplicas",
                "availableReplicas",
                "unavailableReplicas",
                "terminatingReplicas",
                "collisionCount",
            ],
            &["updatedReplicas", "readyReplicas", "availableReplicas"],
        ),
        "apps/replicasets" | "core/replicationcontrollers" => (
            &[
                "replicas",
                "fullyLabeledReplicas",
                "readyReplicas",
                "availableReplicas",
                "terminatingReplicas",
                "observedGeneration",
            ],
            &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"],
        ),
        "apps/statefulsets" => (
            &[
                "replicas",
                "readyReplicas",
                "currentReplicas",
                "updatedReplicas",
                "availableReplicas",
                "observedGeneration",
                "collisionCount",
            ],
            &["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"],
        ),
        "apps/daemonsets" => (
            &[
                "currentNumberScheduled",
                "numberMisscheduled",
                "desiredNumberScheduled",
                "numberReady",
                "observedGeneration",
                "updatedNumberScheduled",
                "numberAvailable",
                "numberUnavailable",
                "collisionCount",
            ],
            &[],
        ),
        _ => return None,
    })
}

/// Adds one error for each message.
fn invalid(errors: &mut Errors, path: &Path<'_>, value: &Value, messages: Vec<String>) {
    errors.extend(messages.into_iter().map(|message| FieldError::invalid(path, value.clone(), message)));
}

/// A whole number that must not be below zero.
fn not_negative(errors: &mut Errors, path: &Path<'_>, value: &Value) {
    if value.as_i64().is_some_and(|number| number < 0) {
        errors.push(FieldError::invalid(path, value.clone(), "must be greater than or equal to 0"));
    }
}

/// The fields of `holder` that must not be below zero.
fn none_negative(errors: &mut Errors, path: &Path<'_>, holder: &Value, fields: &[&str]) {
    for field in fields {
        not_negative(errors, &path.child(field), &holder[*field]);
    }
}

/// A text that, where there is one, must be one of a few.
fn one_of(errors: &mut Errors, path: &Path<'_>, value: &Value, allowed: &[&str]) {
    if let Some(text) = value.as_str().filter(|text| !allowed.contains(text)) {
        errors.push(FieldError::not_supported(path, text, allowed));
    }
}

/// A text that must be there and be one of a few.
fn required_one_of(errors: &mut Errors, path: &Path<'_>, value: &Value, allowed: &[&str]) {
    match value.as_str().unwrap_or_default() {
        "" => errors.push(FieldError::required(path, "")),
        _ => one_of(errors, path, value, allowed),
    }
}

/// A text that must be there.
fn required(errors: &mut Errors, path: &Path<'_>, holder: &Value, field: &str) -> bool {
    let there = !text(holder, field).is_empty();
    if !there {
        errors.push(FieldError::required(path.child(field), ""));
    }
    there
}

/// A text that follows a grammar, where there is one.
fn follows(errors: &mut Errors, path: &Path<'_>, holder: &Value, field: &str, grammar: fn(&str) -> Vec<String>) {
    let given = text(holder, field);
    if !given.is_empty() {
        invalid(errors, &path.child(field), &holder[field], grammar(given));
    }
}

/// A text that must be there and follow a grammar.
fn required_follows(
    errors: &mut Errors,
    path: &Path<'_>,
    holder: &Value,
    field: &str,
    grammar: fn(&str) -> Vec<String>,
) {
    if required(errors, path, holder, field) {
        invalid(errors, &path.child(field), &holder[field], grammar(text(holder, field)));
    }
}

/// A value that must stay as it was.
fn immutable(errors: &mut Errors, path: impl std::fmt::Display, now: &Value, before: &Value) {
    if !same(now, before) {
        errors.push(FieldError::invalid(path, now.clone(), "field is immutable"));
    }
}

/// Whether two values are the same to upstream, which sees no difference between an empty list and none.
fn same(one: &Value, other: &Value) -> bool {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let null = Value::Null;
            one.iter().all(|(key, value)| same(value, other.get(key).unwrap_or(&null)))
                && other.iter().all(|(key, value)| one.contains_key(key) || empty(value))
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        _ => one == other || (empty(one) && empty(other)),
    }
}

#[cfg(test)]
mod tests;
