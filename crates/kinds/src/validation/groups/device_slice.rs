//! ResourceSlice: the devices of a pool.

use serde_json::Value;

use super::checks::{driver_name, immutable, required};
use super::device::{binding_conditions, duplicates, pool_name, qualified_name, taint, too_many};
use super::node_selector::node_selector;
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, at, entries, list, size, text};
use crate::quantity::Quantity;
use crate::validation::{Errors, invalid, same};

const DEVICES: usize = 128;
/// Devices with taints or counters are larger, so there may be fewer of them.
const LARGE_DEVICES: usize = 64;
const COUNTER_SETS: usize = 8;
const COUNTERS: usize = 32;
const CONSUMED_SETS: usize = 2;
const ATTRIBUTES: usize = 32;
const ATTRIBUTE_VALUES: usize = 48;
const VALUE_BYTES: usize = 64;
const TAINTS: usize = 16;
const OPTIONS: usize = 10;

pub(super) fn create(object: &Value, errors: &mut Errors) {
    spec(&object["spec"], &Value::Null, errors);
}

pub(super) fn update(object: &Value, old: &Value, errors: &mut Errors) {
    spec(&object["spec"], &old["spec"], errors);
    for field in ["spec.pool.name", "spec.driver", "spec.nodeName"] {
        immutable(object, old, field, errors);
    }
}

fn node_name(node: &str, path: &Path<'_>, errors: &mut Errors) {
    invalid(errors, path, &node.into(), name::dns1123_subdomain(node));
}

/// A truth that is either unset or true. Returns whether it is true.
fn set(holder: &Value, field: &str, path: &Path<'_>, errors: &mut Errors) -> bool {
    if holder[field] == false {
        errors.push(FieldError::invalid(path.child(field), false, "must be either unset or set to true"));
    }
    holder[field] == true
}

fn spec(spec: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    driver_name(text(spec, "driver"), &path.child("driver"), errors);
    let place = path.child("pool");
    pool_name(text(spec, "pool.name"), &place.child("name"), errors);
    let number = |field: &str| spec["pool"][field].as_i64().unwrap_or(0);
    if number("resourceSliceCount") <= 0 {
        let (path, given) = (place.child("resourceSliceCount"), number("resourceSliceCount"));
        errors.push(FieldError::invalid(path, given, "must be greater than zero"));
    }
    if number("generation") < 0 {
        let detail = "must be greater than or equal to zero";
        errors.push(FieldError::invalid(place.child("generation"), number("generation"), detail));
    }
    let mut places = Vec::new();
    if let Some(node) = spec["nodeName"].as_str() {
        if node.is_empty() {
            let detail = "must be either unset or set to a non-empty string";
            errors.push(FieldError::invalid(path.child("nodeName"), node, detail));
        } else {
            places.push("`nodeName`");
            node_name(node, &path.child("nodeName"), errors);
        }
    }
    if !spec["nodeSelector"].is_null() {
        places.push("`nodeSelector`");
        let place = path.child("nodeSelector");
        node_selector(&spec["nodeSelector"], &place, errors);
        if size(spec, "nodeSelector.nodeSelectorTerms") != 1 {
            let given = at(spec, "nodeSelector.nodeSelectorTerms").clone();
            let detail = "must have exactly one node selector term";
            errors.push(FieldError::invalid(place.child("nodeSelectorTerms"), given, detail));
        }
    }
    for (field, shown) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")] {
        if set(spec, field, &path, errors) {
            places.push(shown);
        }
    }
    let one_of = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match places.len() {
        0 => errors.push(FieldError::required(path, one_of)),
        1 => {}
        _ => {
            let detail = format!("{one_of}, but multiple fields are set");
            errors.push(FieldError::invalid(path, format!("{{{}}}", places.join(", ")), detail));
        }
    }
    if !spec["sharedCounters"].is_null() && !spec["devices"].is_null() {
        errors.push(FieldError::invalid(path, "", "only one of `sharedCounters` or `devices` is allowed"));
    }
    devices(spec, old, &path.child("devices"), errors);
    let (place, sets) = (path.child("sharedCounters"), list(spec, "sharedCounters"));
    if !too_many(sets.len(), COUNTER_SETS, &place, errors) {
        for (index, one) in sets.iter().enumerate() {
            counters(one, "name", &place.index(index), errors);
        }
        duplicates(sets, |one| one["name"].clone(), &place, errors);
    }
}

/// A named set of counters.
fn counters(holder: &Value, name_field: &str, path: &Path<'_>, errors: &mut Errors) {
    if required(holder, name_field, path, "", errors) {
        let given = text(holder, name_field);
        invalid(errors, &path.child(name_field), &given.into(), name::dns1123_label(given));
    }
    let place = path.child("counters");
    match size(holder, "counters") {
        0 => errors.push(FieldError::required(place, "")),
        count => {
            if !too_many(count, COUNTERS, &place, errors) {
                for (counter, _) in entries(holder, "counters") {
                    invalid(errors, &place, &counter.into(), name::dns1123_label(counter));
                }
            }
        }
    }
}

fn devices(spec: &Value, old: &Value, place: &Path<'_>, errors: &mut Errors) {
    let devices = list(spec, "devices");
    let is_large = |device: &Value| size(device, "taints") + size(device, "consumesCounters") > 0;
    let limit = if devices.iter().any(is_large) { LARGE_DEVICES } else { DEVICES };
    if too_many(devices.len(), limit, place, errors) {
        return;
    }
    for (index, one) in devices.iter().enumerate() {
        let before = list(old, "devices").iter().find(|before| before["name"] == one["name"]);
        device(one, before, spec["perDeviceNodeSelection"] == true, &place.index(index), errors);
    }
    duplicates(devices, |device| device["name"].clone(), place, errors);
}

fn device(device: &Value, before: Option<&Value>, chooses_nodes: bool, path: &Path<'_>, errors: &mut Errors) {
    let given = text(device, "name");
    invalid(errors, &path.child("name"), &given.into(), name::dns1123_label(given));
    let count = size(device, "attributes") + size(device, "capacity");
    if count > ATTRIBUTES {
        let detail = format!("the total number of attributes and capacities must not exceed {ATTRIBUTES}");
        errors.push(FieldError::invalid(path, count, detail));
    }
    let lists = ["bools", "ints", "strings", "versions"];
    let values = |attribute: &Value| lists.iter().map(|list| size(attribute, list)).sum::<usize>().max(1);
    let count: usize = entries(device, "attributes").map(|(_, attribute)| values(attribute)).sum();
    if count > ATTRIBUTE_VALUES {
        let detail = format!("the total number of attribute values must not exceed {ATTRIBUTE_VALUES}");
        errors.push(FieldError::invalid(path, count, detail));
    }
    let place = path.child("attributes");
    for (key, value) in entries(device, "attributes") {
        qualified_name(key, &place, errors);
        attribute(value, &place.key(key), errors);
    }
    let unchanged = |field: &str| before.is_some_and(|before| same(&before[field], &device[field]));
    if !unchanged("capacity") {
        let place = path.child("capacity");
        for (key, value) in entries(device, "capacity") {
            qualified_name(key, &place, errors);
            let path = place.key(key);
            let path = path.child("requestPolicy");
            match (&value["requestPolicy"], device["allowMultipleAllocations"] == true) {
                (Value::Null, _) => {}
                (policy, true) => request_policy(text(value, "value"), policy, &path, errors),
                (_, false) => errors.push(FieldError::forbidden(path, "allowMultipleAllocations must be true")),
            }
        }
    }
    let (place, taints) = (path.child("taints"), list(device, "taints"));
    if !unchanged("taints") && !too_many(taints.len(), TAINTS, &place, errors) {
        for (index, one) in taints.iter().enumerate() {
            taint(one, &place.index(index), errors);
        }
    }
    let (place, consumed) = (path.child("consumesCounters"), list(device, "consumesCounters"));
    if !too_many(consumed.len(), CONSUMED_SETS, &place, errors) {
        for (index, one) in consumed.iter().enumerate() {
            counters(one, "counterSet", &place.index(index), errors);
        }
        duplicates(consumed, |one| one["counterSet"].clone(), &place, errors);
    }
    nodes(device, chooses_nodes, path, errors);
    binding_conditions(device, path, errors);
}

fn nodes(device: &Value, chooses: bool, path: &Path<'_>, errors: &mut Errors) {
    if !chooses {
        if ["nodeName", "nodeSelector", "allNodes"].iter().any(|field| !device[field].is_null()) {
            let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is \
                          set to true in the ResourceSlice spec";
            errors.push(FieldError::invalid(path, Value::Null, detail));
        }
        return;
    }
    let mut places = Vec::new();
    match device["nodeName"].as_str() {
        None => {}
        Some("") => errors.push(FieldError::invalid(path.child("nodeName"), "", "must not be empty")),
        Some(node) => {
            places.push("`nodeName`");
            node_name(node, &path.child("nodeName"), errors);
        }
    }
    if !device["nodeSelector"].is_null() {
        places.push("`nodeSelector`");
        node_selector(&device["nodeSelector"], &path.child("nodeSelector"), errors);
    }
    if set(device, "allNodes", path, errors) {
        places.push("`allNodes`");
    }
    let detail = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` \
                  is set to true in the ResourceSlice spec";
    match places.len() {
        0 => errors.push(FieldError::required(path, detail)),
        1 => {}
        _ => errors.push(FieldError::invalid(path, format!("{{{}}}", places.join(", ")), detail)),
    }
}

fn attribute(attribute: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut given = 0;
    for field in ["bool", "int", "string", "version", "bools", "ints", "strings", "versions"] {
        let value = &attribute[field];
        if value.is_null() {
            continue;
        }
        given += 1;
        let place = path.child(field);
        match value {
            Value::String(text) => attribute_text(text, field == "version", &place, errors),
            Value::Array(items) if items.is_empty() => {
                errors.push(FieldError::invalid(place, value.clone(), "must not be empty if specified"));
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    if let Some(text) = item.as_str() {
                        attribute_text(text, field == "versions", &place.index(index), errors);
                    }
                }
            }
            _ => {}
        }
    }
    if given != 1 {
        let value = if given == 0 { Value::from("") } else { attribute.clone() };
        errors.push(FieldError::invalid(path, value, "exactly one value must be specified"));
    }
}

fn attribute_text(text: &str, version: bool, path: &Path<'_>, errors: &mut Errors) {
    if version && !is_semantic_version(text) {
        let detail = "must be a string compatible with semver.org spec 2.0.0";
        errors.push(FieldError::invalid(path, text, detail));
    }
    if text.len() > VALUE_BYTES {
        errors.push(FieldError::too_long(path, VALUE_BYTES));
    }
}

fn is_semantic_version(text: &str) -> bool {
    let identifier = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let number = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) && (part == "0" || !part.starts_with('0'))
    };
    let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
    let (core, release) = text.split_once('-').map_or((text, None), |(core, release)| (core, Some(release)));
    core.split('.').count() == 3
        && core.split('.').all(number)
        && release.is_none_or(|release| {
            release.split('.').all(|part| identifier(part) && (!all_digits(part) || number(part)))
        })
        && build.is_none_or(|build| build.split('.').all(identifier))
}

fn quantity(value: &Value) -> Option<Quantity> {
    value.as_str()?.parse().ok()
}

/// How much of a capacity a claim may ask for.
fn request_policy(most: &str, policy: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (options, range) = (list(policy, "validValues"), &policy["validRange"]);
    let (Ok(most_amount), default) = (most.parse::<Quantity>(), quantity(&policy["default"])) else { return };
    match (options.is_empty(), range.is_null()) {
        (true, true) => {}
        (false, false) => {
            let detail = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at \
                          the same time";
            errors.push(FieldError::forbidden(path, detail));
        }
        (listed, _) => {
            let field = if listed { "validRange" } else { "validValues" };
            let Some(default) = default else {
                let detail = format!("required when {field} is defined");
                errors.push(FieldError::required(path.child("default"), detail));
                return;
            };
            let shown = text(policy, "default");
            if listed {
                request_range(range, (default, shown), (most_amount, most), &path.child("validRange"), errors);
            } else {
                request_options(options, (default, shown), (most_amount, most), &path.child("validValues"), errors);
            }
        }
    }
}

/// An amount and how it is written.
type Amount<'t> = (Quantity, &'t str);

fn request_options(options: &[Value], default: Amount<'_>, most: Amount<'_>, place: &Path<'_>, errors: &mut Errors) {
    let amounts: Vec<Option<Quantity>> = options.iter().map(quantity).collect();
    for (index, pair) in amounts.windows(2).enumerate() {
        if pair[0] > pair[1] {
            let (path, value) = (place.index(index + 1), options[index + 1].clone());
            errors.push(FieldError::invalid(path, value, "values must be sorted in ascending order"));
        }
    }
    if too_many(options.len(), OPTIONS, place, errors) {
        return;
    }
    for (index, option) in options.iter().enumerate() {
        if amounts[index].is_some_and(|amount| amount > most.0) {
            let detail = format!("option is larger than capacity value: {}", most.1);
            errors.push(FieldError::invalid(place.index(index), option.clone(), detail));
        }
        if amounts[..index].contains(&amounts[index]) {
            errors.push(FieldError::duplicate(place.index(index), option.clone()));
        }
    }
    if !amounts.contains(&Some(default.0)) {
        let detail = "default value is not valid according to the requestPolicy";
        errors.push(FieldError::invalid(place, default.1, detail));
    }
}

fn request_range(range: &Value, default: Amount<'_>, most: Amount<'_>, path: &Path<'_>, errors: &mut Errors) {
    let Some(least) = quantity(&range["min"]) else {
        errors.push(FieldError::required(path.child("min"), "required when validRange is defined"));
        return;
    };
    let least_text = text(range, "min");
    let mut wrong = |field: &str, value: &str, detail: String| {
        errors.push(FieldError::invalid(path.child(field), value, detail));
    };
    if least > most.0 {
        wrong("min", least_text, format!("min is larger than capacity value: {}", most.1));
    }
    if default.0 < least {
        wrong("default", default.1, format!("default is less than min: {least_text}"));
    }
    let upper = quantity(&range["max"]);
    let upper_text = text(range, "max");
    if let Some(upper) = upper {
        if least > upper {
            wrong("max", least_text, format!("min is larger than max: {upper_text}"));
        }
        if upper > most.0 {
            wrong("max", upper_text, format!("max is larger than capacity value: {}", most.1));
        }
        if default.0 > upper {
            wrong("default", default.1, format!("default is more than max: {upper_text}"));
        }
    }
    let Some(step) = quantity(&range["step"]) else { return };
    let step_text = text(range, "step");
    if step.is_negative() || step.is_zero() {
        wrong("step", step_text, "must be greater than zero".to_owned());
        return;
    }
    if least + step > most.0 {
        let sum = least + step;
        wrong("step", step_text, format!("one step {sum} is larger than capacity value: {}", most.1));
    }
    let by = step.value().max(1);
    let values = [Some(default), upper.map(|upper| (upper, upper_text))];
    for (value, shown) in values.into_iter().flatten() {
        if value.value().saturating_sub(least.value()) % by != 0 {
            let detail = format!("value is not a multiple of a given step ({step_text}) from ({least_text})");
            wrong("step", shown, detail);
        }
    }
}
