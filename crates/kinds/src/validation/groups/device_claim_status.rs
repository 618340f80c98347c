//! The status of a ResourceClaim: what is allocated to it, for whom, and what drivers say about the devices.

use serde_json::{Value, json};

use super::address::interface;
use super::checks::{among, conditions, driver_name, immutable, required};
use super::device::{binding_conditions, configuration, duplicates, pool_name, raw, tolerations, too_many, uid};
use super::device_claim::Names;
use super::device_class::CONFIGURATIONS;
use super::node_selector::node_selector;
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, list, text};
use crate::validation::{Errors, invalid};

const RESERVED_FOR: usize = 256;
const RESULTS: usize = 32;
const CONDITIONS: usize = 8;
const DATA_BYTES: usize = 10 << 10;
const ADDRESSES: usize = 16;
const INTERFACE_NAME_BYTES: usize = 256;
const HARDWARE_ADDRESS_BYTES: usize = 128;

pub(super) fn update(object: &Value, old: &Value, errors: &mut Errors) {
    let (status, path) = (&object["status"], Path::new("status"));
    let names = Names::of(&object["spec"]["devices"]);
    let allocation = &status["allocation"];
    let (place, reserved) = (path.child("reservedFor"), list(status, "reservedFor"));
    if !too_many(reserved.len(), RESERVED_FOR, &place, errors) {
        for (index, consumer) in reserved.iter().enumerate() {
            let path = place.index(index);
            for field in ["resource", "name", "uid"] {
                required(consumer, field, &path, "", errors);
            }
        }
        duplicates(reserved, |consumer| consumer["uid"].clone(), &place, errors);
    }
    let allocated: Vec<Value> = list(allocation, "devices.results").iter().map(device_id).collect();
    let (devices, reports) = (path.child("devices"), list(status, "devices"));
    for (index, report) in reports.iter().enumerate() {
        device(report, &allocated, &devices.index(index), errors);
    }
    duplicates(reports, device_id, &devices, errors);
    if !reserved.is_empty() {
        let before = list(old, "status.reservedFor");
        if allocation.is_null() {
            let detail = "may not be specified when `allocated` is not set";
            errors.push(FieldError::forbidden(place, detail));
        } else if !object["metadata"]["deletionTimestamp"].is_null()
            && reserved.iter().any(|consumer| !before.contains(consumer))
        {
            let detail = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            errors.push(FieldError::forbidden(place, detail));
        }
    }
    if allocation.is_null() {
        return;
    }
    if old["status"]["allocation"].is_null() {
        self::allocation(allocation, &names, &path.child("allocation"), errors);
    } else {
        immutable(object, old, "status.allocation", errors);
    }
}

/// What tells an allocated device from others.
fn device_id(device: &Value) -> Value {
    let share = device.get("shareID").filter(|share| !share.is_null());
    let mut id = json!({"driver": device["driver"], "pool": device["pool"], "device": device["device"]});
    if let Some(share) = share {
        id["shareID"] = share.clone();
    }
    id
}

fn names_of_device(device: &Value, path: &Path<'_>, errors: &mut Errors) {
    driver_name(text(device, "driver"), &path.child("driver"), errors);
    pool_name(text(device, "pool"), &path.child("pool"), errors);
    let given = text(device, "device");
    invalid(errors, &path.child("device"), &given.into(), name::dns1123_label(given));
    if let Some(share) = device["shareID"].as_str() {
        uid(share, &path.child("shareID"), errors);
    }
}

fn device(device: &Value, allocated: &[Value], path: &Path<'_>, errors: &mut Errors) {
    names_of_device(device, path, errors);
    let id = device_id(device);
    if !allocated.contains(&id) {
        errors.push(FieldError::invalid(path, id, "must be an allocated device in the claim"));
    }
    let (place, given) = (path.child("conditions"), list(device, "conditions"));
    too_many(given.len(), CONDITIONS, &place, errors);
    conditions(given, &place, errors);
    if !device["data"].is_null() {
        raw(&device["data"], DATA_BYTES, &path.child("data"), errors);
    }
    let (network, path) = (&device["networkData"], path.child("networkData"));
    for (field, limit) in [("interfaceName", INTERFACE_NAME_BYTES), ("hardwareAddress", HARDWARE_ADDRESS_BYTES)] {
        if text(network, field).len() > limit {
            errors.push(FieldError::too_long(path.child(field), limit));
        }
    }
    let (place, addresses) = (path.child("ips"), list(network, "ips"));
    if !too_many(addresses.len(), ADDRESSES, &place, errors) {
        for (index, address) in addresses.iter().enumerate() {
            interface(address.as_str().unwrap_or_default(), &place.index(index), errors);
        }
        duplicates(addresses, Clone::clone, &place, errors);
    }
}

fn allocation(allocation: &Value, names: &Names<'_>, path: &Path<'_>, errors: &mut Errors) {
    let devices = path.child("devices");
    let (place, results) = (devices.child("results"), list(allocation, "devices.results"));
    if !too_many(results.len(), RESULTS, &place, errors) {
        for (index, result) in results.iter().enumerate() {
            let path = place.index(index);
            names.reference(text(result, "request"), &path.child("request"), errors);
            names_of_device(result, &path, errors);
            binding_conditions(result, &path, errors);
            tolerations(list(result, "tolerations"), &path.child("tolerations"), errors);
        }
    }
    let (place, configs) = (devices.child("config"), list(allocation, "devices.config"));
    // Those of the class and those of the claim.
    if !too_many(configs.len(), 2 * CONFIGURATIONS, &place, errors) {
        for (index, config) in configs.iter().enumerate() {
            let path = place.index(index);
            if required(config, "source", &path, "", errors) {
                among(&config["source"], &path.child("source"), &["FromClaim", "FromClass"], errors);
            }
            names.references(config, &path, errors);
            configuration(config, &path, true, errors);
        }
    }
    if !allocation["nodeSelector"].is_null() {
        node_selector(&allocation["nodeSelector"], &path.child("nodeSelector"), errors);
    }
}
