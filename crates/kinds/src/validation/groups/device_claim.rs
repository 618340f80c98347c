//! ResourceClaim and ResourceClaimTemplate.

use std::collections::BTreeMap;

use serde_json::Value;

use super::device::{configuration, duplicates, fully_qualified_name, selectors, tolerations, too_many};
use super::device_class::CONFIGURATIONS;
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, entries, list, text};
use crate::validation::metadata::labels;
use crate::validation::{Errors, invalid, required_follows};

const REQUESTS: usize = 32;
const CONSTRAINTS: usize = 32;
const ALTERNATIVES: usize = 8;
const TOLERATIONS: usize = 16;

pub(super) fn claim(object: &Value, errors: &mut Errors) {
    devices(&object["spec"]["devices"], &Path::new("spec.devices"), errors);
}

pub(super) fn template(object: &Value, errors: &mut Errors) {
    let (metadata, path) = (&object["spec"]["metadata"], Path::new("spec.metadata"));
    labels(metadata, "labels", &path, errors);
    for (key, _) in entries(metadata, "annotations") {
        invalid(errors, &path.child("annotations"), &key.into(), name::qualified_name(&key.to_lowercase()));
    }
    devices(&object["spec"]["spec"]["devices"], &Path::new("spec.spec.devices"), errors);
}

/// The names of a claim's requests, each with those of its alternatives.
pub(super) struct Names<'c>(BTreeMap<&'c str, Vec<&'c str>>);

impl<'c> Names<'c> {
    pub(super) fn of(devices: &'c Value) -> Names<'c> {
        let alternatives =
            |request: &'c Value| list(request, "firstAvailable").iter().map(|one| text(one, "name")).collect();
        let requests = list(devices, "requests").iter();
        Names(requests.map(|request| (text(request, "name"), alternatives(request))).collect())
    }

    fn has(&self, reference: &str) -> bool {
        let (request, alternative) = reference.split_once('/').map_or((reference, None), |(r, a)| (r, Some(a)));
        self.0.get(request).is_some_and(|known| alternative.is_none_or(|alternative| known.contains(&alternative)))
    }

    /// A reference to a request, or to one of its alternatives.
    pub(super) fn reference(&self, reference: &str, path: &Path<'_>, errors: &mut Errors) {
        let detail = "must be the name of a request in the claim or the name of a request and a subrequest separated \
                      by '/'";
        if reference.matches('/').count() > 1 {
            errors.push(FieldError::invalid(path, reference, detail));
            return;
        }
        for part in reference.split('/') {
            invalid(errors, path, &part.into(), name::dns1123_label(part));
        }
        if !self.has(reference) {
            errors.push(FieldError::invalid(path, reference, detail));
        }
    }

    /// A list of references.
    pub(super) fn references(&self, holder: &Value, path: &Path<'_>, errors: &mut Errors) {
        let (place, references) = (path.child("requests"), list(holder, "requests"));
        if too_many(references.len(), REQUESTS, &place, errors) {
            return;
        }
        for (index, reference) in references.iter().enumerate() {
            self.reference(reference.as_str().unwrap_or_default(), &place.index(index), errors);
        }
        duplicates(references, Clone::clone, &place, errors);
    }
}

fn devices(devices: &Value, path: &Path<'_>, errors: &mut Errors) {
    let names = Names::of(devices);
    let (place, requests) = (path.child("requests"), list(devices, "requests"));
    if !too_many(requests.len(), REQUESTS, &place, errors) {
        for (index, one) in requests.iter().enumerate() {
            request(one, &place.index(index), errors);
        }
        duplicates(requests, |request| request["name"].clone(), &place, errors);
    }
    let (place, constraints) = (path.child("constraints"), list(devices, "constraints"));
    if !too_many(constraints.len(), CONSTRAINTS, &place, errors) {
        for (index, one) in constraints.iter().enumerate() {
            let path = place.index(index);
            names.references(one, &path, errors);
            match (one["matchAttribute"].as_str(), one["distinctAttribute"].as_str()) {
                (Some(attribute), _) => fully_qualified_name(attribute, &path.child("matchAttribute"), errors),
                (None, Some(attribute)) => fully_qualified_name(attribute, &path.child("distinctAttribute"), errors),
                (None, None) => {
                    let detail = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but \
                                  multiple fields are set";
                    errors.push(FieldError::required(path, detail));
                }
            }
        }
    }
    let (place, configs) = (path.child("config"), list(devices, "config"));
    if !too_many(configs.len(), CONFIGURATIONS, &place, errors) {
        for (index, one) in configs.iter().enumerate() {
            names.references(one, &place.index(index), errors);
            configuration(one, &place.index(index), false, errors);
        }
    }
}

fn request(request: &Value, path: &Path<'_>, errors: &mut Errors) {
    request_name(request, path, errors);
    let (alternatives, exactly) = (list(request, "firstAvailable"), &request["exactly"]);
    match (alternatives.is_empty(), exactly.is_null()) {
        (true, true) => {
            let detail = "exactly one of `exactly` or `firstAvailable` is required";
            errors.push(FieldError::required(path, detail));
        }
        (false, false) => {
            let detail = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.push(FieldError::invalid(path, Value::Null, detail));
        }
        (true, false) => exact(exactly, &path.child("exactly"), errors),
        (false, true) => {
            let place = path.child("firstAvailable");
            if too_many(alternatives.len(), ALTERNATIVES, &place, errors) {
                return;
            }
            for (index, one) in alternatives.iter().enumerate() {
                request_name(one, &place.index(index), errors);
                exact(one, &place.index(index), errors);
            }
            duplicates(alternatives, |one| one["name"].clone(), &place, errors);
        }
    }
}

fn request_name(request: &Value, path: &Path<'_>, errors: &mut Errors) {
    let given = text(request, "name");
    invalid(errors, &path.child("name"), &given.into(), name::dns1123_label(given));
}

fn exact(request: &Value, path: &Path<'_>, errors: &mut Errors) {
    required_follows(errors, path, request, "deviceClassName", name::dns1123_subdomain);
    selectors(list(request, "selectors"), &path.child("selectors"), errors);
    let (mode, count) = (text(request, "allocationMode"), request["count"].as_i64().unwrap_or(0));
    match mode {
        "All" if count != 0 => {
            let detail = "must not be specified when allocationMode is 'All'";
            errors.push(FieldError::invalid(path.child("count"), count, detail));
        }
        "All" => {}
        "ExactCount" if count <= 0 => {
            errors.push(FieldError::invalid(path.child("count"), count, "must be greater than zero"));
        }
        "ExactCount" => {}
        _ => errors.push(FieldError::not_supported(path.child("allocationMode"), mode, &["All", "ExactCount"])),
    }
    let (place, given) = (path.child("tolerations"), list(request, "tolerations"));
    if !too_many(given.len(), TOLERATIONS, &place, errors) {
        tolerations(given, &place, errors);
    }
}
