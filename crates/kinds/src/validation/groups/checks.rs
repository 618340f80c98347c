//! Checks that several groups share: immutable fields, conditions, names with a form of their own.

use serde_json::Value;

use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, at, text};
use crate::validation::{self, Errors, invalid};

/// `field is immutable` at a dotted path, if the value there is not what it was.
pub(super) fn immutable(object: &Value, old: &Value, path: &str, errors: &mut Errors) {
    validation::immutable(errors, path, at(object, path), at(old, path));
}

/// A field that must have a text other than the empty one. Returns whether it has.
pub(super) fn required(object: &Value, field: &str, path: &Path<'_>, detail: &str, errors: &mut Errors) -> bool {
    let present = !text(object, field).is_empty();
    if !present {
        errors.push(FieldError::required(path.child(field), detail));
    }
    present
}

/// A text that follows a grammar where it is there.
pub(super) fn optional(
    object: &Value,
    field: &str,
    path: &Path<'_>,
    grammar: fn(&str) -> Vec<String>,
    errors: &mut Errors,
) {
    if let Some(text) = object[field].as_str() {
        invalid(errors, &path.child(field), &object[field], grammar(text));
    }
}

/// A text that must be one of a few; absent counts as the empty text.
pub(super) fn among(value: &Value, path: &Path<'_>, allowed: &[&str], errors: &mut Errors) {
    let given = value.as_str().unwrap_or_default();
    if !allowed.contains(&given) {
        errors.push(FieldError::not_supported(path, given, allowed));
    }
}

/// A list of `metav1.Condition`.
pub(super) fn conditions(conditions: &[Value], path: &Path<'_>, errors: &mut Errors) {
    let mut seen: Vec<&str> = Vec::new();
    for (index, condition) in conditions.iter().enumerate() {
        let path = path.index(index);
        let kind = text(condition, "type");
        if seen.contains(&kind) {
            errors.push(FieldError::duplicate(path, kind));
        }
        seen.push(kind);
        if required(condition, "type", &path, "is required", errors) {
            invalid(errors, &path.child("type"), &condition["type"], name::qualified_name(kind));
        }
        if required(condition, "status", &path, "", errors) {
            among(&condition["status"], &path.child("status"), &["False", "True", "Unknown"], errors);
        }
        if condition["observedGeneration"].as_i64().is_some_and(|generation| generation < 0) {
            let value = condition["observedGeneration"].clone();
            let detail = "must be greater than or equal to zero";
            errors.push(FieldError::invalid(path.child("observedGeneration"), value, detail));
        }
        required(condition, "lastTransitionTime", &path, "", errors);
        if required(condition, "reason", &path, "", errors) {
            let reason = text(condition, "reason");
            invalid(errors, &path.child("reason"), &condition["reason"], condition_reason(reason));
            if reason.len() > REASON_LIMIT {
                errors.push(FieldError::too_long(path.child("reason"), REASON_LIMIT));
            }
        }
        if text(condition, "message").len() > MESSAGE_LIMIT {
            errors.push(FieldError::too_long(path.child("message"), MESSAGE_LIMIT));
        }
    }
}

/// A condition's reason may have this many bytes.
const REASON_LIMIT: usize = 1 << 10;
/// A condition's message may have this many bytes.
const MESSAGE_LIMIT: usize = 32 << 10;

fn condition_reason(text: &str) -> Vec<String> {
    let bytes = text.as_bytes();
    let good = bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b',' | b':'))
        && bytes.last().is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    if good {
        return Vec::new();
    }
    vec![
        "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric \
         characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or \
         'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is \
         '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')"
            .to_owned(),
    ]
}

/// The name of a CSI or DRA driver: a subdomain of at most 63 bytes in any case.
pub(super) fn driver_name(driver: &str, path: &Path<'_>, errors: &mut Errors) {
    if driver.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    if driver.len() > 63 {
        errors.push(FieldError::too_long(path, 63));
    }
    invalid(errors, path, &driver.into(), name::dns1123_subdomain(&driver.to_ascii_lowercase()));
}

/// A domain, a slash and a path: `acme.io/foo`.
pub(super) fn domain_prefixed_path(value: &str, path: &Path<'_>, errors: &mut Errors) {
    let Some((host, rest)) = value.split_once('/').filter(|(host, rest)| !host.is_empty() && !rest.is_empty()) else {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        errors.push(FieldError::invalid(path, value, detail));
        return;
    };
    invalid(errors, path, &host.into(), name::dns1123_subdomain(host));
    let good = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
    if !rest.bytes().all(good) {
        let detail = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        errors.push(FieldError::invalid(path, rest, detail));
    }
}

/// A domain name of at least so many parts; a webhook's name has three.
pub(super) fn qualified_domain(value: &str, path: &Path<'_>, parts: usize, errors: &mut Errors) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let messages = name::dns1123_subdomain(value);
    if !messages.is_empty() {
        errors.push(FieldError::invalid(path, value, messages.join(",")));
    } else if value.split('.').count() < parts {
        let words = if parts == 2 { "two" } else { "three" };
        let detail = format!("should be a domain with at least {words} segments separated by dots");
        errors.push(FieldError::invalid(path, value, detail));
    }
}
