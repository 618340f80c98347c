//! LimitRange.

use std::collections::BTreeSet;

use serde_json::Value;

use super::resources::{limited_resource_name, may_overcommit, quantity};
use super::{Errors, invalid};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, entries, list, size, text};
use crate::quantity::Quantity;

pub(super) fn limit_range(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let path = path.child("limits");
    let mut types = BTreeSet::new();
    for (index, item) in list(&object["spec"], "limits").iter().enumerate() {
        let path = path.index(index);
        let of = text(item, "type");
        type_name(of, &path.child("type"), errors);
        if !types.insert(of) {
            errors.push(FieldError::duplicate(path.child("type"), of));
        }
        limit(item, of, &path, errors);
    }
}

fn type_name(of: &str, path: &Path<'_>, errors: &mut Errors) {
    let wrong = name::qualified_name(of);
    if !wrong.is_empty() {
        invalid(errors, path, &Value::from(of), wrong);
    } else if !of.contains('/') && !matches!(of, "Pod" | "Container" | "PersistentVolumeClaim") {
        errors.push(FieldError::invalid(path, of, "must be a standard limit type or fully qualified"));
    }
}

const FIELDS: [&str; 5] = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];

fn limit(item: &Value, of: &str, path: &Path<'_>, errors: &mut Errors) {
    let mut resources = BTreeSet::new();
    for field in FIELDS {
        let place = path.child(field);
        if of == "Pod" && field.starts_with("default") {
            if size(item, field) > 0 {
                errors.push(FieldError::forbidden(place, "may not be specified when `type` is 'Pod'"));
            }
            continue;
        }
        for (resource, _) in entries(item, field) {
            limited_resource_name(of, resource, &place.key(resource), errors);
            resources.insert(resource);
        }
    }
    if of == "PersistentVolumeClaim" && item["min"]["storage"].is_null() && item["max"]["storage"].is_null() {
        let detail = "either minimum or maximum storage value is required, but neither was provided";
        errors.push(FieldError::required(path.child("limits"), detail));
    }
    for resource in resources {
        compare(item, of, resource, path, errors);
    }
}

fn compare(item: &Value, of: &str, resource: &str, path: &Path<'_>, errors: &mut Errors) {
    let given = |field: &str| quantity(&item[field][resource]);
    let defaults = |field: &str| given(field).filter(|_| of != "Pod");
    let (least, most) = (given("min"), given("max"));
    let (limit, request) = (defaults("default"), defaults("defaultRequest"));
    // The value shown, the field, and what is said about the two that are in the wrong order.
    let mut ordered = |low: Option<Quantity>,
                       low_name: &str,
                       high: Option<Quantity>,
                       high_name: &str,
                       field: &str,
                       show_low: bool| {
        let (Some(low), Some(high)) = (low, high) else { return };
        if low > high {
            let detail = format!("{low_name} value {low} is greater than {high_name} value {high}");
            let shown = if show_low { low } else { high };
            errors.push(FieldError::invalid(path.child(field).key(resource), shown.to_string(), detail));
        }
    };
    ordered(least, "min", most, "max", "min", true);
    ordered(least, "min", request, "default request", "defaultRequest", false);
    ordered(request, "default request", most, "max", "defaultRequest", true);
    ordered(request, "default request", limit, "default limit", "defaultRequest", true);
    ordered(least, "min", limit, "default", "default", true);
    ordered(limit, "default", most, "max", "default", false);
    if let Some(ratio) = given("maxLimitRequestRatio") {
        let place = path.child("maxLimitRequestRatio");
        if ratio.milli_value() < 1000 {
            let detail = format!("ratio {ratio} is less than 1");
            errors.push(FieldError::invalid(place.key(resource), ratio.to_string(), detail));
        }
        if let (Some(least), Some(most)) = (least, most) {
            let bound = most.as_f64() / least.as_f64();
            if ratio.as_f64() > bound {
                let detail = format!("ratio {ratio} is greater than max/min = {bound:.6}");
                errors.push(FieldError::invalid(place.key(resource), ratio.to_string(), detail));
            }
        }
    }
    if let (Some(limit), Some(request)) = (limit, request)
        && limit != request
        && !may_overcommit(resource)
    {
        let detail = format!("default value {limit} must equal to defaultRequest value {request} in {resource}");
        let place = path.child("defaultRequest");
        errors.push(FieldError::invalid(place.key(resource), request.to_string(), detail));
    }
}
