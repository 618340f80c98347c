//! HorizontalPodAutoscaler in its second version, and Scale.
//!
//! Source: `pkg/apis/autoscaling/validation/validation.go` of Kubernetes 1.36.

use serde_json::Value;

use super::resources::{container_resource_name, quantity};
use super::{Errors, none_negative, one_of, required_follows};
use crate::field_error::FieldError;
use crate::kind::Kind;
use crate::name;
use crate::path::{Path, has, list, text};

/// The longest period over which a policy may look back, in seconds.
const MAX_PERIOD: i64 = 1800;
/// The longest time for which a recommendation is remembered, in seconds.
const MAX_WINDOW: i64 = 3600;

/// The type of a metric, and the field that describes it, in the order in which upstream looks.
const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];

const TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];

/// A new one; the first version is judged as the second that it becomes.
pub(super) fn create(kind: &Kind, object: &Value, errors: &mut Errors) {
    spec(kind, object, 1, errors);
}

/// One that is to replace `old`, which may have been allowed to scale to nothing.
pub(super) fn update(kind: &Kind, object: &Value, old: &Value, errors: &mut Errors) {
    let least = if old["spec"]["minReplicas"] == 0 { 0 } else { 1 };
    spec(kind, object, least, errors);
}

fn spec(kind: &Kind, object: &Value, least: i64, errors: &mut Errors) {
    if kind.is_storage_version() {
        return autoscaler(&object["spec"], least, errors);
    }
    let mut second = object.clone();
    kind.to_storage(&mut second);
    autoscaler(&second["spec"], least, errors);
}

/// The spec; `least` is the smallest number of replicas.
fn autoscaler(spec: &Value, least: i64, errors: &mut Errors) {
    let path = Path::new("spec");
    let most = spec["maxReplicas"].as_i64().unwrap_or(0);
    let few = spec["minReplicas"].as_i64();
    if let Some(few) = few.filter(|few| *few < least) {
        let detail = format!("must be greater than or equal to {least}");
        errors.push(FieldError::invalid(path.child("minReplicas"), few, detail));
    }
    if most < 1 {
        errors.push(FieldError::invalid(path.child("maxReplicas"), most, "must be greater than 0"));
    }
    if few.is_some_and(|few| most < few) {
        let detail = "must be greater than or equal to `minReplicas`";
        errors.push(FieldError::invalid(path.child("maxReplicas"), most, detail));
    }
    reference(&spec["scaleTargetRef"], &path.child("scaleTargetRef"), errors);
    let metrics = path.child("metrics");
    let all = list(spec, "metrics");
    for (index, one) in all.iter().enumerate() {
        metric(one, &metrics.index(index), errors);
    }
    let wakes = all.iter().any(|metric| matches!(text(metric, "type"), "Object" | "External"));
    if spec["minReplicas"] == 0 && !wakes {
        let detail = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.push(FieldError::forbidden(metrics, detail));
    }
    let behaviour = path.child("behavior");
    for direction in ["scaleUp", "scaleDown"] {
        let rules = &spec["behavior"][direction];
        if !rules.is_null() {
            scaling(rules, &behaviour.child(direction), errors);
        }
    }
}

/// `horizontalpodautoscalers/status`.
pub(super) fn status(object: &Value, errors: &mut Errors) {
    let path = Path::new("status");
    none_negative(errors, &path, &object["status"], &["currentReplicas", "desiredReplicas"]);
}

fn reference(target: &Value, path: &Path<'_>, errors: &mut Errors) {
    required_follows(errors, path, target, "kind", name::path_segment);
    required_follows(errors, path, target, "name", name::path_segment);
}

fn scaling(rules: &Value, path: &Path<'_>, errors: &mut Errors) {
    if let Some(window) = rules["stabilizationWindowSeconds"].as_i64() {
        let place = path.child("stabilizationWindowSeconds");
        if window < 0 {
            errors.push(FieldError::invalid(place, window, "must be greater than or equal to zero"));
        }
        if window > MAX_WINDOW {
            let detail = format!("must be less than or equal to {MAX_WINDOW}");
            errors.push(FieldError::invalid(place, window, detail));
        }
    }
    one_of(errors, &path.child("selectPolicy"), &rules["selectPolicy"], &["Disabled", "Max", "Min"]);
    let policies = path.child("policies");
    let all = list(rules, "policies");
    if all.is_empty() {
        errors.push(FieldError::required(policies, "must specify at least one Policy"));
    }
    for (index, policy) in all.iter().enumerate() {
        let path = policies.index(index);
        let kind = text(policy, "type");
        if !matches!(kind, "Pods" | "Percent") {
            errors.push(FieldError::not_supported(path.child("type"), kind, &["Percent", "Pods"]));
        }
        for field in ["value", "periodSeconds"] {
            let number = policy[field].as_i64().unwrap_or(0);
            if number <= 0 {
                errors.push(FieldError::invalid(path.child(field), number, "must be greater than zero"));
            }
            if field == "periodSeconds" && number > MAX_PERIOD {
                let detail = format!("must be less than or equal to {MAX_PERIOD}");
                errors.push(FieldError::invalid(path.child(field), number, detail));
            }
        }
    }
    let tolerance = &rules["tolerance"];
    if quantity(tolerance).is_some_and(crate::quantity::Quantity::is_negative) {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(path.child("tolerance"), tolerance.clone(), detail));
    }
}

fn metric(metric: &Value, path: &Path<'_>, errors: &mut Errors) {
    let kind = text(metric, "type");
    if kind.is_empty() {
        errors.push(FieldError::required(path.child("type"), "must specify a metric source type"));
    }
    let expected = SOURCES.iter().find(|(of, _)| *of == kind).map(|(_, field)| *field);
    if expected.is_none() {
        errors.push(FieldError::not_supported(path.child("type"), kind, &TYPES));
    }
    let present: Vec<&str> =
        SOURCES.iter().map(|(_, field)| *field).filter(|field| !metric[*field].is_null()).collect();
    if let Some(first) = present.first() {
        source(&metric[*first], first, &path.child(first), errors);
    }
    match expected {
        Some(field) if metric[field].is_null() => {
            let detail = "must populate information for the given metric source";
            errors.push(FieldError::required(path.child(field), detail));
        }
        Some(_) => {}
        None => errors.push(FieldError::not_supported(path.child("type"), kind, &TYPES)),
    }
    if present.len() != 1 {
        for other in present.iter().filter(|field| Some(**field) != expected) {
            let detail = "must populate the given metric source only";
            errors.push(FieldError::forbidden(path.child(other), detail));
        }
    }
}

fn source(source: &Value, field: &str, path: &Path<'_>, errors: &mut Errors) {
    let target = path.child("target");
    match field {
        "object" => {
            reference(&source["describedObject"], &path.child("describedObject"), errors);
            identifier(&source["metric"], &path.child("metric"), errors);
        }
        "external" | "pods" => identifier(&source["metric"], &path.child("metric"), errors),
        _ => {
            let named = text(source, "name");
            if named.is_empty() {
                errors.push(FieldError::required(path.child("name"), "must specify a resource name"));
            } else if field == "containerResource" {
                container_resource_name(named, &path.child("name"), errors);
            }
            if field == "containerResource" {
                let container = text(source, "container");
                if container.is_empty() {
                    errors.push(FieldError::required(path.child("container"), "must specify a container"));
                } else {
                    super::follows(errors, path, source, "container", name::dns1123_label);
                }
            }
        }
    }
    let wanted = &source["target"];
    self::target(wanted, &target, errors);
    let (value, average, utilization) =
        (has(wanted, "value"), has(wanted, "averageValue"), has(wanted, "averageUtilization"));
    let missing = match field {
        "object" if !value && !average => ("averageValue", "must set either a target value or averageValue"),
        "external" if !value && !average => {
            ("averageValue", "must set either a target value for metric or a per-pod target")
        }
        "pods" if !average => ("averageValue", "must specify a positive target averageValue"),
        "resource" | "containerResource" if !utilization && !average => {
            ("averageUtilization", "must set either a target raw value or a target utilization")
        }
        _ => ("", ""),
    };
    if !missing.0.is_empty() {
        errors.push(FieldError::required(target.child(missing.0), missing.1));
    }
    match field {
        "external" if value && average => {
            let detail = "may not set both a target value for metric and a per-pod target";
            errors.push(FieldError::forbidden(target.child("value"), detail));
        }
        "resource" | "containerResource" if utilization && average => {
            let detail = "may not set both a target raw value and a target utilization";
            errors.push(FieldError::forbidden(target.child("averageValue"), detail));
        }
        _ => {}
    }
}

fn identifier(metric: &Value, path: &Path<'_>, errors: &mut Errors) {
    if text(metric, "name").is_empty() {
        errors.push(FieldError::required(path.child("name"), "must specify a metric name"));
    } else {
        super::follows(errors, path, metric, "name", name::path_segment);
    }
}

fn target(target: &Value, path: &Path<'_>, errors: &mut Errors) {
    let kind = text(target, "type");
    if kind.is_empty() {
        errors.push(FieldError::required(path.child("type"), "must specify a metric target type"));
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        let detail = "must be either Utilization, Value, or AverageValue";
        errors.push(FieldError::invalid(path.child("type"), kind, detail));
    }
    for field in ["value", "averageValue"] {
        if quantity(&target[field]).is_some_and(|amount| amount.is_zero() || amount.is_negative()) {
            errors.push(FieldError::invalid(path.child(field), target[field].clone(), "must be positive"));
        }
    }
    if let Some(percent) = target["averageUtilization"].as_i64().filter(|percent| *percent < 1) {
        errors.push(FieldError::invalid(path.child("averageUtilization"), percent, "must be greater than 0"));
    }
}
