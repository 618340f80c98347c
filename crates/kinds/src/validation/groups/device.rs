//! What claims, classes and slices of devices share.

use serde_json::Value;

use super::checks::{among, driver_name};
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, list, text};
use crate::validation::{Errors, invalid};

/// A selector's CEL expression may have this many bytes.
const EXPRESSION_BYTES: usize = 10 << 10;
/// The parameters of a driver may have this many bytes.
const PARAMETERS_BYTES: usize = 10 << 10;
/// The part of a qualified name that is no domain may have this many bytes.
const IDENTIFIER_BYTES: usize = 32;
const SELECTORS: usize = 32;
const BINDING_CONDITIONS: usize = 4;
const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];

/// Whether a list is longer than it may be; then the items are not looked at.
pub(super) fn too_many(given: usize, limit: usize, path: &Path<'_>, errors: &mut Errors) -> bool {
    if given > limit {
        errors.push(FieldError::too_many(path, given, limit));
    }
    given > limit
}

/// Duplicates in a list, by a key.
pub(super) fn duplicates<'v>(
    items: &'v [Value],
    key: impl Fn(&'v Value) -> Value,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let mut seen = std::collections::HashSet::new();
    for (index, item) in items.iter().enumerate() {
        let key = key(item);
        if !seen.insert(key.to_string()) {
            errors.push(FieldError::duplicate(path.index(index), key));
        }
    }
}

/// The name of a pool: subdomains between slashes.
pub(super) fn pool_name(pool: &str, path: &Path<'_>, errors: &mut Errors) {
    if pool.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    if pool.len() > 253 {
        errors.push(FieldError::too_long(path, 253));
    }
    for part in pool.split('/') {
        invalid(errors, path, &part.into(), name::dns1123_subdomain(part));
    }
}

/// The name of an attribute or capacity: an identifier, with or without a domain before it.
pub(super) fn qualified_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    let parts: Vec<&str> = name.split('/').collect();
    match parts.as_slice() {
        [id] => identifier(id, path, errors),
        [domain, id] => {
            if domain.is_empty() {
                errors.push(FieldError::invalid(path, "", "the domain must not be empty"));
            } else {
                driver_name(domain, path, errors);
            }
            if id.is_empty() {
                errors.push(FieldError::invalid(path, "", "the name must not be empty"));
            } else {
                identifier(id, path, errors);
            }
        }
        _ => errors.push(FieldError::invalid(path, name, "must not contain more than one slash")),
    }
}

/// A qualified name that has a domain.
pub(super) fn fully_qualified_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    qualified_name(name, path, errors);
    if !name.contains('/') {
        let detail = "a fully qualified name must be a domain and a name separated by a slash";
        errors.push(FieldError::invalid(path, name, detail));
    }
}

fn identifier(id: &str, path: &Path<'_>, errors: &mut Errors) {
    if id.len() > IDENTIFIER_BYTES {
        errors.push(FieldError::too_long(path, IDENTIFIER_BYTES));
    }
    let bytes = id.as_bytes();
    let good = bytes.first().is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_')
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_');
    if !good {
        let detail = "a valid C identifier must start with alphabetic character or '_', followed by a string of \
                      alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for \
                      validation is '[A-Za-z_][A-Za-z0-9_]*')";
        errors.push(FieldError::invalid(path, id, detail));
    }
}

/// The selectors of a class or request. Whether their CEL compiles is not judged here.
pub(super) fn selectors(selectors: &[Value], place: &Path<'_>, errors: &mut Errors) {
    if too_many(selectors.len(), SELECTORS, place, errors) {
        return;
    }
    for (index, selector) in selectors.iter().enumerate() {
        let path = place.index(index);
        let cel = path.child("cel");
        if selector["cel"].is_null() {
            errors.push(FieldError::required(cel, ""));
        } else if text(selector, "cel.expression").len() > EXPRESSION_BYTES {
            errors.push(FieldError::too_long(cel.child("expression"), EXPRESSION_BYTES));
        }
    }
}

/// The parameters that a driver gets. What was stored may be larger than what is new.
pub(super) fn configuration(config: &Value, path: &Path<'_>, stored: bool, errors: &mut Errors) {
    let place = path.child("opaque");
    if config["opaque"].is_null() {
        errors.push(FieldError::required(place, ""));
        return;
    }
    driver_name(text(config, "opaque.driver"), &place.child("driver"), errors);
    let limit = if stored { usize::MAX } else { PARAMETERS_BYTES };
    raw(&config["opaque"]["parameters"], limit, &place.child("parameters"), errors);
}

/// An object of any form.
pub(super) fn raw(value: &Value, limit: usize, path: &Path<'_>, errors: &mut Errors) {
    if value.is_null() {
        errors.push(FieldError::required(path, ""));
    } else if limit != usize::MAX && value.to_string().len() > limit {
        errors.push(FieldError::too_long(path, limit));
    } else if !value.is_object() {
        errors.push(FieldError::invalid(path, "<value omitted>", "must be a valid JSON object"));
    }
}

pub(super) fn taint(taint: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (key, value) = (text(taint, "key"), text(taint, "value"));
    invalid(errors, &path.child("key"), &key.into(), name::qualified_name(key));
    invalid(errors, &path.child("value"), &value.into(), name::label_value(value));
    if text(taint, "effect").is_empty() {
        errors.push(FieldError::required(path.child("effect"), ""));
    } else {
        among(&taint["effect"], &path.child("effect"), &EFFECTS, errors);
    }
}

pub(super) fn tolerations(tolerations: &[Value], place: &Path<'_>, errors: &mut Errors) {
    for (index, toleration) in tolerations.iter().enumerate() {
        let path = place.index(index);
        let (key, value) = (text(toleration, "key"), text(toleration, "value"));
        if !key.is_empty() {
            invalid(errors, &path.child("key"), &key.into(), name::qualified_name(key));
        }
        match text(toleration, "operator") {
            "Exists" if !value.is_empty() => {
                let detail = "must be empty for operator `Exists`";
                errors.push(FieldError::invalid(path.child("value"), value, detail));
            }
            "Exists" => {}
            "Equal" => invalid(errors, &path.child("value"), &value.into(), name::label_value(value)),
            "" => errors.push(FieldError::required(path.child("operator"), "")),
            other => errors.push(FieldError::not_supported(path.child("operator"), other, &["Equal", "Exists"])),
        }
        if !text(toleration, "effect").is_empty() {
            among(&toleration["effect"], &path.child("effect"), &EFFECTS, errors);
        }
    }
}

/// Conditions that must hold, or must not, before a pod is bound to the device's node.
pub(super) fn binding_conditions(holder: &Value, path: &Path<'_>, errors: &mut Errors) {
    let fields = ["bindingConditions", "bindingFailureConditions"];
    let [wanted, failing] = fields.map(|field| list(holder, field));
    for (field, conditions) in fields.into_iter().zip([wanted, failing]) {
        let place = path.child(field);
        if !too_many(conditions.len(), BINDING_CONDITIONS, &place, errors) {
            for (index, condition) in conditions.iter().enumerate() {
                let messages = name::qualified_name(condition.as_str().unwrap_or_default());
                invalid(errors, &place.index(index), condition, messages);
            }
        }
        duplicates(conditions, Clone::clone, &place, errors);
    }
    let place = path.child(fields[1]);
    for (index, condition) in failing.iter().enumerate().filter(|(_, condition)| wanted.contains(condition)) {
        let detail = "bindingFailureConditions must not overlap with bindingConditions";
        errors.push(FieldError::invalid(place.index(index), condition.clone(), detail));
    }
    for (one, other, missing) in [
        (fields[0], fields[1], wanted.is_empty() && !failing.is_empty()),
        (fields[1], fields[0], failing.is_empty() && !wanted.is_empty()),
    ] {
        if missing {
            let detail = format!("{one} are required to use {other}");
            errors.push(FieldError::invalid(path.child(one), holder[one].clone(), detail));
        }
    }
}

/// A uid in its normal spelling.
pub(super) fn uid(uid: &str, path: &Path<'_>, errors: &mut Errors) {
    let groups: Vec<&str> = uid.split('-').collect();
    let lengths = groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]);
    if !lengths || !groups.iter().all(|group| group.bytes().all(|b| b.is_ascii_hexdigit())) {
        errors.push(FieldError::invalid(path, uid, "error validating uid: invalid UUID format"));
    } else if uid.bytes().any(|b| b.is_ascii_uppercase()) {
        let detail = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase \
                      hexadecimal characters";
        errors.push(FieldError::invalid(path, uid, detail));
    }
}
