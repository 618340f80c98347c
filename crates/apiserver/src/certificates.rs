//! What a CertificateSigningRequest needs on its way beyond the kind's data: who asks, the request's own signature, and
//! the times of conditions.

use kobune_kinds::{FieldError, Kind};
use kobune_pki::SigningRequest;
use serde_json::{Map, Value, json};

use crate::{call, security::User};

/// Whether this is the kind.
pub(crate) fn concerns(kind: &Kind) -> bool {
    &*kind.collection == "certificates.k8s.io/certificatesigningrequests"
}

/// Writes down who asks; what the client says about it counts for nothing.
pub(crate) fn identify(object: &mut Value, user: &User) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for field in ["username", "uid", "groups", "extra"] {
        spec.remove(field);
    }
    spec.insert("username".into(), user.name.as_str().into());
    if !user.uid.is_empty() {
        spec.insert("uid".into(), user.uid.as_str().into());
    }
    if !user.groups.is_empty() {
        spec.insert("groups".into(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        spec.insert("extra".into(), json!(user.extra));
    }
}

/// What is wrong with the request and the certificate, which are PEM texts in base64.
pub(crate) fn validate(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let request = object.pointer("/spec/request").unwrap_or(&Value::Null);
    if let Err(problem) = decoded(request).and_then(|text| SigningRequest::from_pem(&text).map_err(|e| e.to_string())) {
        errors.push(FieldError::invalid("spec.request", request.clone(), problem));
    }
    let certificate = object.pointer("/status/certificate").unwrap_or(&Value::Null);
    if certificate.as_str().is_some_and(|text| !text.is_empty())
        && let Err(problem) = decoded(certificate).and_then(|text| certificates(&text))
    {
        errors.push(FieldError::invalid("status.certificate", "<certificate data>", problem));
    }
    errors
}

fn decoded(value: &Value) -> Result<Vec<u8>, String> {
    use base64::Engine as _;
    let text = value.as_str().unwrap_or_default();
    base64::engine::general_purpose::STANDARD.decode(text).map_err(|error| error.to_string())
}

fn certificates(pem: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(pem).map_err(|error| error.to_string())?;
    kobune_pki::check_certificates(text).map_err(|error| error.to_string())
}

/// Gives conditions the times that their writer left out.
pub(crate) fn stamp(object: &mut Value, old: &Value) {
    let before = old.pointer("/status/conditions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let Some(conditions) = object.pointer_mut("/status/conditions").and_then(Value::as_array_mut) else { return };
    for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
        let same = before.iter().find(|known| Some(&known["type"]) == condition.get("type"));
        let missing = |condition: &Map<String, Value>, field: &str| condition.get(field).is_none_or(Value::is_null);
        if missing(condition, "lastUpdateTime") {
            condition.insert("lastUpdateTime".into(), call::now_text().into());
        }
        if missing(condition, "lastTransitionTime") {
            let kept = same
                .filter(|known| Some(&known["status"]) == condition.get("status"))
                .map(|known| known["lastTransitionTime"].clone())
                .filter(|time| !time.is_null());
            condition.insert("lastTransitionTime".into(), kept.unwrap_or_else(|| call::now_text().into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_asks_as_somebody_else() {
        let mut object = json!({"spec": {"username": "admin", "groups": ["system:masters"], "uid": "1", "extra": {}}});
        identify(&mut object, &User::new("jane", &["dev"]));
        assert_eq!(object, json!({"spec": {"username": "jane", "groups": ["dev", "system:authenticated"]}}));
    }

    #[test]
    fn requests_must_be_requests() {
        let check = |object: Value, expected: &[&str]| {
            let found: Vec<String> = validate(&object).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected);
        };
        check(
            json!({"spec": {"request": "bm9uc2Vuc2U="}, "status": {"certificate": "bm9uc2Vuc2U="}}),
            &[
                "spec.request: Invalid value: \"bm9uc2Vuc2U=\": PEM block type must be CERTIFICATE REQUEST",
                "status.certificate: Invalid value: \"<certificate data>\": the certificate is malformed: it has no certificate",
            ],
        );
    }

    #[test]
    fn conditions_get_times() {
        let condition = |status: &str| json!({"type": "Approved", "status": status});
        let mut old = json!({"status": {"conditions": [condition("True")]}});
        old["status"]["conditions"][0]["lastTransitionTime"] = "2020-01-01T00:00:00Z".into();
        let mut new = json!({"status": {"conditions": [condition("True")]}});
        stamp(&mut new, &old);
        let stamped = &new["status"]["conditions"][0];
        assert_eq!(stamped["lastTransitionTime"], "2020-01-01T00:00:00Z");
        assert!(stamped["lastUpdateTime"].is_string());
    }
}
