//! Names and amounts of resources.
//!
//! Source: `pkg/apis/core/helper/helpers.go` and the `Validate…Resource…` functions of Kubernetes 1.36.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Errors, invalid};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, entries, list, text};
use crate::quantity::Quantity;

const HUGE_PAGES: &str = "hugepages-";

/// What a quota may count and that is counted in whole numbers.
const COUNTED: [&str; 9] = [
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];

/// What a quota may limit otherwise.
const MEASURED: [&str; 10] = [
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
];

/// The quantity that a value writes; the shape check has seen to it that it writes one.
pub(super) fn quantity(value: &Value) -> Option<Quantity> {
    value.as_str()?.parse().ok()
}

/// Whether Kubernetes itself knows the resource.
pub(super) fn is_native(resource: &str) -> bool {
    !resource.contains('/') || resource.contains("kubernetes.io/")
}

/// Whether somebody else advertises the resource: `example.com/gpu`.
pub(super) fn is_extended(resource: &str) -> bool {
    !is_native(resource)
        && !resource.starts_with("requests.")
        && name::qualified_name(&format!("requests.{resource}")).is_empty()
}

/// Whether the resource is huge pages of some size.
pub(super) fn is_huge_pages(resource: &str) -> bool {
    resource.starts_with(HUGE_PAGES)
}

/// Whether more may be promised than there is.
pub(super) fn may_overcommit(resource: &str) -> bool {
    is_native(resource) && !is_huge_pages(resource)
}

fn is_for_containers(resource: &str) -> bool {
    matches!(resource, "cpu" | "memory" | "ephemeral-storage") || is_huge_pages(resource)
}

/// Whether a quota may limit the resource under this plain name.
pub(super) fn is_for_quotas(resource: &str) -> bool {
    COUNTED.contains(&resource)
        || MEASURED.contains(&resource)
        || is_huge_pages(resource)
        || resource.starts_with("requests.hugepages-")
}

fn is_standard(resource: &str) -> bool {
    resource == "storage" || is_for_quotas(resource)
}

fn resource_name(resource: &str, path: &Path<'_>, errors: &mut Errors) -> bool {
    let wrong = name::qualified_name(resource);
    if !wrong.is_empty() {
        invalid(errors, path, &Value::from(resource), wrong);
        return false;
    }
    if !resource.contains('/') && !is_standard(resource) {
        let detail = "must be a standard resource type or fully qualified";
        errors.push(FieldError::invalid(path, resource, detail));
        return false;
    }
    true
}

/// A resource that containers may ask for.
pub(super) fn container_resource_name(resource: &str, path: &Path<'_>, errors: &mut Errors) {
    if is_for_containers(resource) && !is_huge_pages(resource) {
        return;
    }
    resource_name(resource, path, errors);
    if !resource.contains('/') {
        if !is_for_containers(resource) {
            errors.push(FieldError::invalid(path, resource, "must be a standard resource for containers"));
        }
    } else if !is_native(resource) && !is_extended(resource) {
        errors.push(FieldError::invalid(path, resource, "doesn't follow extended resource name standard"));
    }
}

/// A resource that a pod as a whole may ask for.
pub(super) fn pod_resource_name(resource: &str, path: &Path<'_>, errors: &mut Errors) {
    if resource_name(resource, path, errors) && !matches!(resource, "cpu" | "memory") && !is_huge_pages(resource) {
        errors.push(FieldError::not_supported(path, resource, &["cpu", "hugepages-", "memory"]));
    }
}

/// A resource that a limit range may bound for things of a type.
pub(super) fn limited_resource_name(of: &str, resource: &str, path: &Path<'_>, errors: &mut Errors) {
    if matches!(of, "Pod" | "Container") {
        container_resource_name(resource, path, errors);
    } else {
        resource_name(resource, path, errors);
    }
}

/// A resource that a quota may limit.
pub(super) fn quota_resource_name(resource: &str, path: &Path<'_>, errors: &mut Errors) {
    resource_name(resource, path, errors);
    if !resource.contains('/') && !is_for_quotas(resource) {
        errors.push(FieldError::invalid(path, resource, "must be a standard resource for quota"));
    }
}

/// An amount that is not negative, and whole where only whole ones can be given out.
pub(super) fn amount(resource: &str, value: &Value, path: &Path<'_>, errors: &mut Errors) {
    let Some(given) = quantity(value) else { return };
    if given.is_negative() {
        errors.push(FieldError::invalid(path, value.clone(), "must be greater than or equal to 0"));
    }
    let whole = COUNTED.contains(&resource) || is_extended(resource);
    if whole && given.milli_value() % 1000 != 0 {
        errors.push(FieldError::invalid(path, value.clone(), "must be an integer"));
    }
}

/// An amount that is more than nothing.
pub(super) fn positive(value: &Value, path: &Path<'_>, errors: &mut Errors) {
    if quantity(value).is_some_and(|given| given.is_negative() || given.is_zero()) {
        errors.push(FieldError::invalid(path, value.clone(), "must be greater than zero"));
    }
}

/// An amount of a volume's capacity.
pub(super) fn basic(value: &Value, path: &Path<'_>, errors: &mut Errors) {
    if let Some(given) = quantity(value).filter(|given| given.value() < 0) {
        errors.push(FieldError::invalid(path, given.value(), "must be a valid resource quantity"));
    }
}

fn huge_pages(resource: &str, value: &Value, path: &Path<'_>, errors: &mut Errors) {
    let size = resource.strip_prefix(HUGE_PAGES).and_then(|size| size.parse::<Quantity>().ok());
    let size = size.filter(|size| size.is_integer() && size.value() > 0).map(Quantity::value);
    let divides = |size: i64| quantity(value).is_some_and(|given| given.value() % size == 0);
    if !size.is_some_and(divides) {
        let given = value.as_str().unwrap_or_default();
        let detail = format!("{given} is not positive integer multiple of {resource}");
        errors.push(FieldError::invalid(path, value.clone(), detail));
    }
}

/// The sort of name check that requirements need: a container's, or a whole pod's.
pub(super) type NameCheck = fn(&str, &Path<'_>, &mut Errors);

/// `resources` of a container or a pod.
pub(super) fn requirements(
    resources: &Value,
    check_name: NameCheck,
    claims: &BTreeSet<&str>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let (limits, requests) = (path.child("limits"), path.child("requests"));
    let (mut basics, mut pages) = (false, false);
    let mut each = |resource: &str, value: &Value, path: &Path<'_>, errors: &mut Errors| {
        check_name(resource, path, errors);
        amount(resource, value, path, errors);
        if is_huge_pages(resource) {
            pages = true;
            huge_pages(resource, value, path, errors);
        }
        basics |= matches!(resource, "cpu" | "memory");
    };
    for (resource, value) in entries(resources, "limits") {
        each(resource, value, &limits.key(resource), errors);
    }
    for (resource, value) in entries(resources, "requests") {
        each(resource, value, &requests.key(resource), errors);
        let limit = &resources["limits"][resource];
        let overcommit = may_overcommit(resource);
        match (quantity(value), quantity(limit)) {
            (Some(asked), Some(most)) if asked != most && !overcommit => {
                let detail = format!("must be equal to {resource} limit of {}", limit.as_str().unwrap_or_default());
                errors.push(FieldError::invalid(requests, value.clone(), detail));
            }
            (Some(asked), Some(most)) if asked > most => {
                let limit = limit.as_str().unwrap_or_default();
                let detail = format!("must be less than or equal to {resource} limit of {limit}");
                errors.push(FieldError::invalid(requests, value.clone(), detail));
            }
            (Some(_), None) if !overcommit => {
                let detail = "Limit must be set for non overcommitable resources";
                errors.push(FieldError::required(limits, detail));
            }
            _ => {}
        }
    }
    if pages && !basics {
        errors.push(FieldError::forbidden(path, "HugePages require cpu or memory"));
    }
    claim_names(resources, claims, &path.child("claims"), errors);
}

/// Each claim that a container names must be one of its pod's, and be named once.
fn claim_names(resources: &Value, claims: &BTreeSet<&str>, path: &Path<'_>, errors: &mut Errors) {
    let mut seen: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (index, claim) in list(resources, "claims").iter().enumerate() {
        let path = path.index(index);
        let (named, request) = (text(claim, "name"), text(claim, "request"));
        if named.is_empty() {
            errors.push(FieldError::required(path, ""));
            continue;
        }
        super::follows(errors, &path, claim, "request", name::dns1123_label);
        if seen.contains(&(named, "")) || (request.is_empty() && seen.iter().any(|(other, _)| *other == named)) {
            errors.push(FieldError::duplicate(path, named));
        } else if !seen.insert((named, request)) {
            errors.push(FieldError::duplicate(path, format!("{named}/{request}")));
        }
        if !claims.contains(named) {
            let mut error = FieldError::not_found(path, named);
            let known: Vec<&str> = claims.iter().copied().collect();
            error.detail = match known.is_empty() {
                true => "must be one of the names in pod.spec.resourceClaims which is empty".to_owned(),
                false => format!("must be one of the names in pod.spec.resourceClaims: {}", known.join(", ")),
            };
            errors.push(error);
        }
    }
}
