//! `AdmissionReview`: the question that a webhook gets, and what its answer must look like.

use base64::Engine;
use serde_json::{Map, Value, json};

use super::hook::ReviewVersion;
use crate::security::User;

/// Group, version and kind of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct GroupVersionKind {
    pub group: String,
    pub version: String,
    pub kind: String,
}

impl GroupVersionKind {
    pub(super) fn object(&self) -> Value {
        json!({"group": self.group, "version": self.version, "kind": self.kind})
    }
}

/// What was decided about a request.
#[derive(Debug, PartialEq)]
pub(super) struct Verdict {
    pub(super) allowed: bool,
    /// A JSON patch, as the webhook wrote it.
    pub(super) patch: Vec<u8>,
    /// The `Status` that goes with a denial.
    pub(super) status: Value,
    pub(super) warnings: Vec<String>,
    /// Notes for the audit trail.
    pub(super) annotations: Vec<(String, String)>,
}

/// A user as `authentication.k8s.io/v1` writes one.
pub(crate) fn user_info(user: &User) -> Value {
    let mut info = Map::new();
    info.insert("username".into(), user.name.as_str().into());
    if !user.uid.is_empty() {
        info.insert("uid".into(), user.uid.as_str().into());
    }
    if !user.groups.is_empty() {
        info.insert("groups".into(), user.groups.iter().map(String::as_str).collect());
    }
    if !user.extra.is_empty() {
        info.insert("extra".into(), json!(user.extra));
    }
    Value::Object(info)
}

/// The text of a question. The objects come as JSON text, so that one encoding serves all webhooks that are asked.
pub(super) fn question(version: ReviewVersion, request: &Value, object: &str, old: &str) -> String {
    let head = request.to_string();
    let head = head.strip_suffix('}').unwrap_or(&head);
    let api_version = version.api_version();
    format!(
        r#"{{"kind":"AdmissionReview","apiVersion":"{api_version}","request":{head},"object":{object},"oldObject":{old}}}}}"#
    )
}

/// Reads an answer; the error is upstream's text for what is wrong with it.
pub(super) fn answer(version: ReviewVersion, uid: &str, mutating: bool, bytes: &[u8]) -> Result<Verdict, String> {
    let review: Value = serde_json::from_slice(bytes)
        .map_err(|error| format!("couldn't get version/kind; json parse error: {error}"))?;
    let response = &review["response"];
    if !response.is_object() {
        return Err("webhook response was absent".to_owned());
    }
    if version == ReviewVersion::V1 {
        let given = response["uid"].as_str().unwrap_or_default();
        if given != uid {
            return Err(format!("expected response.uid={uid:?}, got {given:?}"));
        }
        let text = |field: &str| review[field].as_str().unwrap_or_default();
        if text("apiVersion") != version.api_version() || text("kind") != "AdmissionReview" {
            return Err(format!(
                "expected webhook response of {}, Kind=AdmissionReview, got {}, Kind={}",
                version.api_version(),
                if text("apiVersion").is_empty() { "/" } else { text("apiVersion") },
                text("kind")
            ));
        }
    }
    let mut patch = match &response["patch"] {
        Value::Null => Vec::new(),
        Value::String(text) => base64::engine::general_purpose::STANDARD
            .decode(text)
            .map_err(|error| format!("response.patch is not base64: {error}"))?,
        _ => return Err("response.patch is not text".to_owned()),
    };
    let patch_type = response["patchType"].as_str();
    match (version, mutating, patch_type) {
        (ReviewVersion::V1, true, None) if !patch.is_empty() => {
            return Err("webhook returned response.patch but not response.patchType".to_owned());
        }
        (ReviewVersion::V1, true, Some(_)) if patch.is_empty() => {
            return Err("webhook returned response.patchType but not response.patch".to_owned());
        }
        (ReviewVersion::V1, true, Some("")) => {
            return Err("webhook returned invalid response.patchType of \"\"".to_owned());
        }
        (ReviewVersion::V1, true, Some(other)) if other != "JSONPatch" => {
            return Err(format!("unsupported patch type {other:?}"));
        }
        (ReviewVersion::V1, false, _) if !patch.is_empty() => {
            return Err("validating webhook may not return response.patch".to_owned());
        }
        (ReviewVersion::V1, false, Some(_)) => {
            return Err("validating webhook may not return response.patchType".to_owned());
        }
        (ReviewVersion::V1Beta1, false, _) => patch.clear(),
        _ => {}
    }
    let Some(allowed) = response.get("allowed").map_or(Some(false), Value::as_bool) else {
        return Err("response.allowed is not a boolean".to_owned());
    };
    Ok(Verdict {
        allowed,
        patch,
        status: response["status"].clone(),
        warnings: response["warnings"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|warning| warning.as_str().map(str::to_owned))
            .collect(),
        annotations: response["auditAnnotations"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect(),
    })
}

/// The warnings that a client gets: as upstream, long ones are cut once all together are long.
pub(super) fn bounded(warnings: Vec<String>) -> Vec<String> {
    const ALL: usize = 4096;
    const ONE: usize = 256;
    let total: usize = warnings.iter().map(String::len).sum();
    if total <= ALL {
        return warnings;
    }
    let mut left = ALL;
    let mut kept = Vec::new();
    for mut warning in warnings {
        let mut end = warning.len().min(ONE);
        while !warning.is_char_boundary(end) {
            end -= 1;
        }
        warning.truncate(end);
        if warning.len() > left {
            break;
        }
        left -= warning.len();
        kept.push(warning);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_whole() {
        let text = question(ReviewVersion::V1, &json!({"uid": "u", "name": "a"}), r#"{"x":1}"#, "null");
        let review: Value = serde_json::from_str(&text).expect("it is JSON");
        assert_eq!(
            review,
            json!({
                "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
                "request": {"uid": "u", "name": "a", "object": {"x": 1}, "oldObject": null},
            })
        );
    }

    fn check(mutating: bool, response: Value, expected: Result<bool, &str>) {
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
        let outcome = answer(ReviewVersion::V1, "u", mutating, review.to_string().as_bytes());
        assert_eq!(outcome.map(|verdict| verdict.allowed), expected.map_err(str::to_owned), "{review}");
    }

    #[test]
    fn answers() {
        check(false, json!({"uid": "u", "allowed": true}), Ok(true));
        check(false, json!({"uid": "u"}), Ok(false));
        check(false, Value::Null, Err("webhook response was absent"));
        check(false, json!({"uid": "v", "allowed": true}), Err("expected response.uid=\"u\", got \"v\""));
        check(
            false,
            json!({"uid": "u", "allowed": true, "patch": "W10="}),
            Err("validating webhook may not return response.patch"),
        );
        check(
            true,
            json!({"uid": "u", "allowed": true, "patch": "W10="}),
            Err("webhook returned response.patch but not response.patchType"),
        );
        check(
            true,
            json!({"uid": "u", "allowed": true, "patchType": "JSONPatch"}),
            Err("webhook returned response.patchType but not response.patch"),
        );
        check(
            true,
            json!({"uid": "u", "allowed": true, "patch": "W10=", "patchType": "Merge"}),
            Err("unsupported patch type \"Merge\""),
        );
        check(true, json!({"uid": "u", "allowed": true, "patch": "W10=", "patchType": "JSONPatch"}), Ok(true));
    }

    #[test]
    fn other_forms() {
        let words = |bytes: &[u8]| answer(ReviewVersion::V1, "u", false, bytes).expect_err("it is no answer");
        assert!(words(b"<html>").starts_with("couldn't get version/kind; json parse error: "));
        assert_eq!(
            words(br#"{"response":{"uid":"u","allowed":true}}"#),
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got /, Kind="
        );
        let old = answer(ReviewVersion::V1Beta1, "u", true, br#"{"response":{"allowed":true,"patch":"W10="}}"#);
        assert_eq!(old.map(|verdict| verdict.patch), Ok(b"[]".to_vec()));
    }

    #[test]
    fn warnings_are_bounded() {
        assert_eq!(bounded(vec!["x".repeat(4096)]), ["x".repeat(4096)]);
        let many = bounded(vec!["é".repeat(1000); 100]);
        assert_eq!((many.len(), many[0].len()), (16, 256));
    }
}
