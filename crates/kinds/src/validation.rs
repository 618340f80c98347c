//! What is wrong with an object: upstream's `Validate…` functions, with their field paths and words.
//!
//! Source: `pkg/apis/*/validation/validation.go` and `staging/src/k8s.io/apimachinery/pkg/api/validation` of Kubernetes 1.36.

mod certificates;
mod config;
mod metadata;
mod pod;
mod service;
mod volume;
mod workload;

use serde_json::Value;

use crate::field_error::FieldError;
use crate::kind::Kind;
use crate::path::Path;

/// Collects what is found.
type Errors = Vec<FieldError>;

pub(crate) fn create(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::new();
    metadata::create(kind, object, &mut errors);
    spec(kind, object, &mut errors);
    errors
}

pub(crate) fn update(kind: &Kind, object: &Value, old: &Value, subresource: Option<&str>) -> Vec<FieldError> {
    let mut errors = Errors::new();
    metadata::update(object, old, &mut errors);
    if kind.collection.as_ref() == "certificates.k8s.io/certificatesigningrequests" {
        // What its endpoints write is the status, which has rules of its own.
        certificates::signing_request(object, &mut errors);
        certificates::signing_request_update(object, old, subresource, &mut errors);
        return errors;
    }
    if subresource.is_some() {
        return errors;
    }
    spec(kind, object, &mut errors);
    match kind.collection.as_ref() {
        "core/pods" => pod::update(object, old, &mut errors),
        "core/services" => service::update(object, old, &mut errors),
        "core/configmaps" | "core/secrets" => config::update(object, old, &mut errors),
        "apps/deployments" | "apps/replicasets" | "apps/daemonsets" => {
            workload::selector_stays(object, old, &mut errors)
        }
        "apps/statefulsets" => workload::stateful_set_update(object, old, &mut errors),
        "batch/jobs" => workload::job_update(object, old, &mut errors),
        _ => {}
    }
    errors
}

fn spec(kind: &Kind, object: &Value, errors: &mut Errors) {
    let spec = Path::new("spec");
    match kind.collection.as_ref() {
        "core/pods" => pod::spec(&object["spec"], &spec, errors),
        "core/services" => service::spec(&object["spec"], &spec, errors),
        "core/configmaps" => config::config_map(object, errors),
        "core/secrets" => config::secret(object, errors),
        "apps/deployments" | "apps/replicasets" | "apps/statefulsets" | "apps/daemonsets" => {
            workload::selected(kind.collection.as_ref(), &object["spec"], &spec, errors);
        }
        "core/replicationcontrollers" => workload::replication_controller(&object["spec"], &spec, errors),
        "batch/jobs" => workload::job(&object["spec"], &spec, errors),
        "batch/cronjobs" => workload::cron_job(&object["spec"], &spec, errors),
        "certificates.k8s.io/certificatesigningrequests" => certificates::signing_request(object, errors),
        _ => {}
    }
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

/// A text that must be one of a few.
fn one_of(errors: &mut Errors, path: &Path<'_>, value: &Value, allowed: &[&str]) {
    if let Some(text) = value.as_str().filter(|text| !allowed.contains(text)) {
        errors.push(FieldError::not_supported(path, text, allowed));
    }
}

#[cfg(test)]
mod tests;
