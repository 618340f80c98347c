//! CSIDriver and CSINode.

use serde_json::Value;

use super::checks::{among, driver_name, immutable, required};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, list, text};
use crate::validation::{self, Errors, invalid, not_negative};

/// The shortest life of a token that a driver may ask for, in seconds.
const SHORTEST_TOKEN: i64 = 600;
/// The longest, in seconds.
const LONGEST_TOKEN: i64 = 1 << 32;
/// The longest identity of a node.
const NODE_ID_LIMIT: usize = 256;

pub(super) fn driver(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    // Upstream's path is not the field's name.
    for (field, shown) in [
        ("attachRequired", "attachedRequired"),
        ("podInfoOnMount", "podInfoOnMount"),
        ("storageCapacity", "storageCapacity"),
    ] {
        if spec[field].is_null() {
            errors.push(FieldError::required(path.child(shown), ""));
        }
    }
    if !spec["fsGroupPolicy"].is_null() {
        let allowed = ["File", "None", "ReadWriteOnceWithFSType"];
        among(&spec["fsGroupPolicy"], &path.child("fsGroupPolicy"), &allowed, errors);
    }
    let mut audiences = Vec::new();
    let place = path.child("tokenRequests");
    for (index, request) in list(spec, "tokenRequests").iter().enumerate() {
        let path = place.index(index);
        let audience = text(request, "audience");
        if audiences.contains(&audience) {
            errors.push(FieldError::duplicate(path.child("audience"), audience));
            continue;
        }
        audiences.push(audience);
        let Some(seconds) = request["expirationSeconds"].as_i64() else { continue };
        let mut wrong = |detail| errors.push(FieldError::invalid(path.child("expirationSeconds"), seconds, detail));
        if seconds < SHORTEST_TOKEN {
            wrong("may not specify a duration less than 10 minutes");
        }
        if seconds > LONGEST_TOKEN {
            wrong("may not specify a duration larger than 2^32 seconds");
        }
    }
    for mode in list(spec, "volumeLifecycleModes") {
        among(mode, &path.child("volumeLifecycleModes"), &["Persistent", "Ephemeral"], errors);
    }
    if spec["seLinuxMount"].is_null() {
        errors.push(FieldError::required(path.child("seLinuxMount"), ""));
    }
    if let Some(period) = spec["nodeAllocatableUpdatePeriodSeconds"].as_i64().filter(|period| *period < 10) {
        let path = path.child("nodeAllocatableUpdatePeriodSeconds");
        errors.push(FieldError::invalid(path, period, "must be greater than or equal to 10 seconds"));
    }
    if spec["serviceAccountTokenInSecrets"] == true && list(spec, "tokenRequests").is_empty() {
        let path = path.child("serviceAccountTokenInSecrets");
        errors.push(FieldError::invalid(path, true, "may only be set when tokenRequests is specified"));
    }
}

pub(super) fn driver_update(object: &Value, old: &Value, errors: &mut Errors) {
    driver(object, errors);
    let now = &object["spec"]["attachRequired"];
    if now != &old["spec"]["attachRequired"] {
        errors.push(FieldError::invalid("spec.attachedRequired", now.clone(), "field is immutable"));
    }
    immutable(object, old, "spec.volumeLifecycleModes", errors);
}

pub(super) fn node(object: &Value, errors: &mut Errors) {
    let place = Path::new("spec.drivers");
    let mut seen = Vec::new();
    for (index, driver) in list(object, "spec.drivers").iter().enumerate() {
        let (path, name) = (place.index(index), text(driver, "name"));
        driver_name(name, &path.child("name"), errors);
        required(driver, "nodeID", &path, "", errors);
        let id = text(driver, "nodeID");
        if id.len() > NODE_ID_LIMIT {
            let detail = format!("must be {NODE_ID_LIMIT} characters or less");
            errors.push(FieldError::invalid(path.child("nodeID"), id, detail));
        }
        let allocatable = path.child("allocatable");
        not_negative(errors, &allocatable.child("count"), &driver["allocatable"]["count"]);
        if seen.contains(&name) {
            errors.push(FieldError::duplicate(path.child("name"), name));
        }
        seen.push(name);
        let mut keys = Vec::new();
        for key in list(driver, "topologyKeys").iter().filter_map(Value::as_str) {
            if key.is_empty() {
                errors.push(FieldError::required(path, ""));
            }
            if keys.contains(&key) {
                errors.push(FieldError::duplicate(path, key));
            }
            keys.push(key);
            invalid(errors, &path, &key.into(), name::qualified_name(key));
        }
    }
}

pub(super) fn node_update(object: &Value, old: &Value, errors: &mut Errors) {
    node(object, errors);
    // How many volumes a node takes may change; who the driver is may not.
    let fixed = |driver: &Value| {
        let mut driver = driver.clone();
        driver["allocatable"] = Value::Null;
        driver
    };
    for before in list(old, "spec.drivers") {
        let same_name = |now: &&Value| now["name"] == before["name"];
        for now in list(object, "spec.drivers").iter().filter(same_name) {
            validation::immutable(errors, "spec.drivers", &fixed(now), &fixed(before));
        }
    }
}
