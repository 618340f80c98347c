//! CertificateSigningRequest, with what each of its endpoints may change. Whether the request is sound and signed is
//! for the API server to find out: this crate knows no cryptography.

use serde_json::Value;

use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, list, text};
use crate::validation::{Errors, same};

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
/// The signer of requests from before there were signers.
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
/// The shortest life of a certificate that may be asked for, in seconds.
const SHORTEST: i64 = 600;
/// Conditions that can only be true.
const DECISIONS: [&str; 3] = ["Approved", "Denied", "Failed"];

/// What an old object lets its successor keep.
#[derive(Clone, Copy)]
struct Rules {
    both_decisions: bool,
    legacy_signer: bool,
    repeated_conditions: bool,
    untyped_conditions: bool,
    repeated_usages: bool,
    unknown_usages: bool,
}

impl Rules {
    const NEW: Rules = Rules {
        both_decisions: false,
        legacy_signer: false,
        repeated_conditions: false,
        untyped_conditions: false,
        repeated_usages: false,
        unknown_usages: false,
    };

    fn after(old: &Value) -> Rules {
        let usages: Vec<&str> = list(old, "spec.usages").iter().filter_map(Value::as_str).collect();
        let types: Vec<&str> = list(old, "status.conditions").iter().map(|one| text(one, "type")).collect();
        Rules {
            both_decisions: types.contains(&"Approved") && types.contains(&"Denied"),
            legacy_signer: text(old, "spec.signerName") == LEGACY_SIGNER,
            repeated_conditions: has_twice(&types),
            untyped_conditions: types.contains(&""),
            repeated_usages: has_twice(&usages),
            unknown_usages: usages.iter().any(|usage| !USAGES.contains(usage)),
        }
    }
}

fn has_twice(texts: &[&str]) -> bool {
    texts.iter().enumerate().any(|(index, text)| texts[..index].contains(text))
}

pub(super) fn create(object: &Value, errors: &mut Errors) {
    whole(object, Rules::NEW, errors);
}

pub(super) fn update(object: &Value, old: &Value, subresource: Option<&str>, errors: &mut Errors) {
    whole(object, Rules::after(old), errors);
    let of = |object: &Value, kind: &str| -> Vec<Value> {
        list(object, "status.conditions").iter().filter(|one| text(one, "type") == kind).cloned().collect()
    };
    let conditions = "status.conditions";
    for kind in DECISIONS {
        if of(object, kind).len() < of(old, kind).len() {
            let detail = format!("updates may not remove a condition of type {kind:?}");
            errors.push(FieldError::forbidden(conditions, detail));
        }
    }
    if subresource != Some("approval") {
        for kind in ["Approved", "Denied"] {
            let (now, before) = (of(object, kind), of(old, kind));
            if now.len() > before.len() {
                let detail = format!("updates may not add a condition of type {kind:?}");
                errors.push(FieldError::forbidden(conditions, detail));
            } else if now.len() == before.len() && !now.iter().zip(&before).all(|(now, before)| same(now, before)) {
                let detail = format!("updates may not modify a condition of type {kind:?}");
                errors.push(FieldError::forbidden(conditions, detail));
            }
        }
    }
    let (now, before) = (text(object, "status.certificate"), text(old, "status.certificate"));
    if now != before {
        let path = "status.certificate";
        if subresource != Some("status") {
            errors.push(FieldError::forbidden(path, "updates may not set certificate content"));
        } else if !before.is_empty() {
            errors.push(FieldError::forbidden(path, "updates may not modify existing certificate content"));
        }
    }
}

fn whole(object: &Value, rules: Rules, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let place = path.child("usages");
    let usages: Vec<&str> = list(spec, "usages").iter().filter_map(Value::as_str).collect();
    if usages.is_empty() {
        errors.push(FieldError::required(place, ""));
    }
    for (index, usage) in usages.iter().copied().enumerate() {
        if !rules.unknown_usages && !USAGES.contains(&usage) {
            errors.push(FieldError::not_supported(place.index(index), usage, &USAGES));
        }
        if !rules.repeated_usages && usages[..index].contains(&usage) {
            errors.push(FieldError::duplicate(place.index(index), usage));
        }
    }
    let signer = text(spec, "signerName");
    if signer == LEGACY_SIGNER && !rules.legacy_signer {
        let detail = "the legacy signerName is not allowed via this API version";
        errors.push(FieldError::invalid(path.child("signerName"), signer, detail));
    } else {
        signer_name(signer, &path.child("signerName"), errors);
    }
    if let Some(seconds) = spec["expirationSeconds"].as_i64().filter(|seconds| *seconds < SHORTEST) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(FieldError::invalid(path.child("expirationSeconds"), seconds, detail));
    }
    conditions(list(object, "status.conditions"), rules, errors);
}

fn conditions(conditions: &[Value], rules: Rules, errors: &mut Errors) {
    let place = Path::new("status.conditions");
    let types: Vec<&str> = conditions.iter().map(|one| text(one, "type")).collect();
    for (index, condition) in conditions.iter().enumerate() {
        let (path, kind, status) = (place.index(index), types[index], text(condition, "status"));
        if kind.is_empty() && !rules.untyped_conditions {
            errors.push(FieldError::required(path.child("type"), ""));
        }
        let allowed: &[&str] = if DECISIONS.contains(&kind) { &["True"] } else { &["False", "True", "Unknown"] };
        if status.is_empty() {
            errors.push(FieldError::required(path.child("status"), ""));
        } else if !allowed.contains(&status) {
            errors.push(FieldError::not_supported(path.child("status"), status, allowed));
        }
        let opposite = match kind {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if !rules.both_decisions && !opposite.is_empty() && types[..index].contains(&opposite) {
            let detail = "Approved and Denied conditions are mutually exclusive";
            errors.push(FieldError::invalid(place, kind, detail));
        }
        if !rules.repeated_conditions && types[..index].contains(&kind) {
            errors.push(FieldError::duplicate(path.child("type"), kind));
        }
    }
}

/// A signer: a domain, a slash and a path of dots.
fn signer_name(signer: &str, path: &Path<'_>, errors: &mut Errors) {
    if signer.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    let parts: Vec<&str> = signer.split('/').collect();
    let [domain, rest] = parts.as_slice() else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(FieldError::invalid(path, signer, detail));
        return;
    };
    if domain.len() > 253 {
        errors.push(FieldError::too_long(path, 253));
    }
    let mut first_wrong = |part: &str, grammar: fn(&str) -> Vec<String>| {
        let wrong = part.split('.').map(|label| (label, grammar(label))).find(|(_, messages)| !messages.is_empty());
        let (label, messages) = wrong.unwrap_or_default();
        for message in messages {
            errors.push(FieldError::invalid(path, part, format!("validating label {label:?}: {message}")));
        }
    };
    first_wrong(domain, name::dns1123_label);
    first_wrong(rest, name::dns1123_subdomain);
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.push(FieldError::invalid(path, *domain, detail));
    }
    let longest = 253 + 1 + 63 * 5 + 2;
    if signer.len() > longest {
        errors.push(FieldError::too_long(path, longest));
    }
}
