//! `certificates.k8s.io`: signing requests and trust bundles. Whether the request itself is sound and signed is for the
//! API server to find out: this crate knows no cryptography.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Errors;
use crate::field_error::FieldError;
use crate::name;
use crate::path::{Path, int, list, text};

/// The usages that a signing request may name.
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

/// The shortest life that may be asked for, in seconds.
const SHORTEST: i64 = 600;

/// The signer that only old API versions know.
const LEGACY: &str = "kubernetes.io/legacy-unknown";

pub(super) fn signing_request(object: &Value, errors: &mut Errors) {
    let spec = Path::new("spec");
    let usages = list(object, "spec.usages");
    let path = spec.child("usages");
    if usages.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    let mut seen = BTreeSet::new();
    for (index, usage) in usages.iter().enumerate() {
        let usage = usage.as_str().unwrap_or_default();
        if !USAGES.contains(&usage) {
            errors.push(FieldError::not_supported(path.index(index), usage, &USAGES));
        }
        if !seen.insert(usage) {
            errors.push(FieldError::duplicate(path.index(index), usage));
        }
    }
    let signer = text(object, "spec.signerName");
    if signer == LEGACY {
        let problem = "the legacy signerName is not allowed via this API version";
        errors.push(FieldError::invalid(spec.child("signerName"), signer, problem));
    } else {
        signer_name(&spec.child("signerName"), signer, errors);
    }
    if let Some(seconds) = int(object, "spec.expirationSeconds").filter(|seconds| *seconds < SHORTEST) {
        let problem = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(FieldError::invalid(spec.child("expirationSeconds"), seconds, problem));
    }
    conditions(object, errors);
}

/// `example.com/signer-name`.
fn signer_name(path: &Path<'_>, signer: &str, errors: &mut Errors) {
    if signer.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let invalid = |problem: String| FieldError::invalid(path, signer, problem);
    let parts: Vec<&str> = signer.split('/').collect();
    let &[domain, rest] = parts.as_slice() else {
        let problem = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(invalid(problem.to_owned()));
        return;
    };
    // A length limit of its own: domain, slash, and one label less than the longest name.
    if signer.len() > 571 {
        errors.push(FieldError::too_long(path, 571));
    }
    for problem in name::dns1123_subdomain(domain) {
        errors.push(invalid(problem));
    }
    if domain.split('.').count() < 2 {
        errors.push(invalid("should be a domain with at least two segments separated by dots".to_owned()));
    }
    if rest.is_empty() {
        errors.push(invalid("validating label \"\": must not be empty".to_owned()));
    }
    for label in rest.split('.').filter(|_| !rest.is_empty()) {
        for problem in name::dns1123_subdomain(label) {
            errors.push(invalid(format!("validating label {label:?}: {problem}")));
        }
    }
}

fn conditions(object: &Value, errors: &mut Errors) {
    let status = Path::new("status");
    let path = status.child("conditions");
    let mut seen = BTreeSet::new();
    for (index, condition) in list(object, "status.conditions").iter().enumerate() {
        let place = path.index(index);
        let kind = text(condition, "type");
        if kind.is_empty() {
            errors.push(FieldError::required(place.child("type"), ""));
        } else if !seen.insert(kind) {
            errors.push(FieldError::duplicate(place.child("type"), kind));
        }
        let allowed: &[&str] = match kind {
            "Approved" | "Denied" | "Failed" => &["True"],
            _ => &["True", "False", "Unknown"],
        };
        match text(condition, "status") {
            "" => errors.push(FieldError::required(place.child("status"), "")),
            value if allowed.contains(&value) => {}
            value => errors.push(FieldError::not_supported(place.child("status"), value, allowed)),
        }
    }
    if seen.contains("Approved") && seen.contains("Denied") {
        let both = Value::from("Approved,Denied");
        errors.push(FieldError::invalid(path, both, "Approved and Denied conditions are mutually exclusive"));
    }
}

/// What was decided about a request stays, and so does the certificate.
pub(super) fn signing_request_update(object: &Value, old: &Value, subresource: Option<&str>, errors: &mut Errors) {
    let status = Path::new("status");
    let has = |object: &Value, kind: &str| {
        list(object, "status.conditions").iter().any(|condition| text(condition, "type") == kind)
    };
    for kind in ["Approved", "Denied", "Failed"] {
        if has(old, kind) && !has(object, kind) {
            let problem = format!("updates may not remove a condition of type {kind:?}");
            errors.push(FieldError::forbidden(status.child("conditions"), problem));
        }
    }
    let (before, now) = (text(old, "status.certificate"), text(object, "status.certificate"));
    if subresource == Some("status") && !before.is_empty() && before != now {
        let problem = "updates may not modify existing certificate content";
        errors.push(FieldError::forbidden(status.child("certificate"), problem));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(errors: Errors) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn requests() {
        let check = |spec: Value, status: Value, expected: &[&str]| {
            let mut errors = Errors::new();
            signing_request(&json!({"spec": spec, "status": status}), &mut errors);
            assert_eq!(found(errors), expected, "{spec} {status}");
        };
        let good = json!({"signerName": "example.com/serving", "usages": ["client auth", "digital signature"]});
        check(good.clone(), Value::Null, &[]);
        check(
            json!({"usages": ["client auth", "client auth"], "expirationSeconds": 599}),
            Value::Null,
            &[
                "spec.usages[1]: Duplicate value: \"client auth\"",
                "spec.signerName: Required value",
                "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)",
            ],
        );
        check(
            json!({"signerName": "serving", "usages": []}),
            Value::Null,
            &[
                "spec.usages: Required value",
                "spec.signerName: Invalid value: \"serving\": must be a fully qualified domain and path of the form 'example.com/signer-name'",
            ],
        );
        check(
            json!({"signerName": LEGACY, "usages": ["any"]}),
            Value::Null,
            &[
                "spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed via this API version",
            ],
        );
        check(
            json!({"signerName": "com/a", "usages": ["any"]}),
            Value::Null,
            &[
                "spec.signerName: Invalid value: \"com/a\": should be a domain with at least two segments separated by dots",
            ],
        );
        check(
            good,
            json!({"conditions": [
                {"type": "Approved", "status": "False"}, {"type": "Denied", "status": "True"},
                {"type": "Denied", "status": ""}, {"type": "Mine", "status": "False"},
            ]}),
            &[
                "status.conditions[0].status: Unsupported value: \"False\": supported values: \"True\"",
                "status.conditions[2].type: Duplicate value: \"Denied\"",
                "status.conditions[2].status: Required value",
                "status.conditions: Invalid value: \"Approved,Denied\": Approved and Denied conditions are mutually exclusive",
            ],
        );
    }

    #[test]
    fn decisions_stay() {
        let check = |old: Value, new: Value, expected: &[&str]| {
            let mut errors = Errors::new();
            signing_request_update(&json!({"status": new}), &json!({"status": old}), Some("status"), &mut errors);
            assert_eq!(found(errors), expected);
        };
        let approved = json!({"conditions": [{"type": "Approved", "status": "True"}]});
        check(json!({}), approved.clone(), &[]);
        check(
            approved,
            json!({}),
            &["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""],
        );
        check(
            json!({"certificate": "YQ=="}),
            json!({"certificate": "Yg=="}),
            &["status.certificate: Forbidden: updates may not modify existing certificate content"],
        );
        check(json!({}), json!({"certificate": "Yg=="}), &[]);
    }
}
