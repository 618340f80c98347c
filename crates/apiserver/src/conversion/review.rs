//! `ConversionReview`: the question that a webhook gets, and what its answer must look like.
//!
//! Source: `pkg/apiserver/conversion/webhook_converter.go` of apiextensions-apiserver, Kubernetes 1.36.

use kobune_kinds::custom;
use serde_json::{Map, Value};

/// Which form of `ConversionReview` a webhook reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReviewVersion {
    V1,
    V1Beta1,
}

impl ReviewVersion {
    /// The first of a webhook's versions that is known here.
    pub(super) fn first_of(versions: &[String]) -> Option<Self> {
        versions.iter().find_map(|version| match version.as_str() {
            "v1" => Some(Self::V1),
            "v1beta1" => Some(Self::V1Beta1),
            _ => None,
        })
    }

    fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "apiextensions.k8s.io/v1",
            Self::V1Beta1 => "apiextensions.k8s.io/v1beta1",
        }
    }
}

/// The text of a question about objects that are JSON already.
pub(super) fn question(version: ReviewVersion, uid: &str, desired: &str, objects: &[&[u8]]) -> Vec<u8> {
    let length = objects.iter().map(|object| object.len() + 1).sum::<usize>();
    let mut out = Vec::with_capacity(length + 256);
    let head = format!(
        r#"{{"kind":"ConversionReview","apiVersion":"{}","request":{{"uid":"{uid}","desiredAPIVersion":{},"objects":["#,
        version.api_version(),
        Value::from(desired)
    );
    out.extend_from_slice(head.as_bytes());
    for (index, object) in objects.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(object);
    }
    out.extend_from_slice(b"]}}");
    out
}

/// Reads an answer; the error is upstream's text for what is wrong with it.
pub(super) fn answer(version: ReviewVersion, uid: &str, bytes: &[u8]) -> Result<Vec<Value>, String> {
    let mut review: Value = serde_json::from_slice(bytes)
        .map_err(|error| format!("couldn't get version/kind; json parse error: {error}"))?;
    // The older form was never checked for whom it answers, and webhooks rely on that.
    if version == ReviewVersion::V1 {
        let text = |field: &str| review[field].as_str().unwrap_or_default();
        if text("apiVersion") != version.api_version() || text("kind") != "ConversionReview" {
            return Err(format!(
                "expected webhook response of {}, Kind=ConversionReview, got {}, Kind={}",
                version.api_version(),
                if text("apiVersion").is_empty() { "/" } else { text("apiVersion") },
                text("kind")
            ));
        }
    }
    let response = &mut review["response"];
    if !response.is_object() {
        return Err("no response provided".to_owned());
    }
    if version == ReviewVersion::V1 {
        let given = response["uid"].as_str().unwrap_or_default();
        if given != uid {
            return Err(format!("expected response.uid={uid:?}, got {given:?}"));
        }
    }
    let result = &response["result"];
    let status = result["status"].as_str().unwrap_or_default();
    if status != "Success" {
        return Err(match result["message"].as_str().unwrap_or_default() {
            "" => format!("response.result.status was '{status}', not 'Success'"),
            message => message.to_owned(),
        });
    }
    match response["convertedObjects"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

/// Makes what a webhook gave for an object fit to be it: in the wanted version, of the same identity, with the metadata of
/// the original except for labels and annotations, which are the webhook's to change. The error follows the words
/// "returned".
pub(super) fn restore(original: &Value, converted: &mut Value, desired: &str) -> Result<(), String> {
    fn text<'v>(object: &'v Value, field: &str) -> &'v str {
        object[field].as_str().unwrap_or_default()
    }
    if !converted.is_object() {
        return Err("invalid object: it is no object".to_owned());
    }
    let given = text(converted, "apiVersion");
    if given != desired {
        return Err(format!("invalid object: invalid groupVersion (expected {desired}, received {given})"));
    }
    let (expected, given) = (text(original, "kind"), text(converted, "kind"));
    if given != expected {
        return Err(format!("invalid object: invalid kind (expected {expected}, received {given})"));
    }
    let Some(mut metadata) = converted.get_mut("metadata").map(Value::take) else {
        return Err("invalid metadata: missing metadata in converted object".to_owned());
    };
    if !metadata.is_object() {
        return Err("invalid metadata: metadata of the converted object is no object".to_owned());
    }
    for (field, word) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let (expected, given) = (text(&original["metadata"], field), text(&metadata, field));
        if given != expected {
            return Err(format!("invalid object: must have the same {word}: {expected} != {given}"));
        }
    }
    let mut kept = original.get("metadata").cloned().unwrap_or_else(|| Value::Object(Map::new()));
    let Some(fields) = kept.as_object_mut() else {
        return Err("invalid metadata: metadata of the original object is no object".to_owned());
    };
    let mut changed = false;
    for field in ["labels", "annotations"] {
        let new = match metadata[field].take() {
            Value::Null => {
                fields.remove(field);
                continue;
            }
            Value::Object(new) => new,
            _ => return Err(format!("invalid metadata: invalid metadata.{field} in converted object: it is no map")),
        };
        if let Some((key, _)) = new.iter().find(|(_, value)| !value.is_string()) {
            return Err(format!("invalid metadata: metadata.{field}[{key}] must be a string in converted object"));
        }
        let new = Value::Object(new);
        changed |= fields.get(field) != Some(&new);
        fields.insert(field.to_owned(), new);
    }
    if changed && let Some(error) = custom::check_converted(&kept).first() {
        return Err(format!("invalid metadata: {error}"));
    }
    converted["metadata"] = kept;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn versions(list: &[&str]) -> Option<ReviewVersion> {
        ReviewVersion::first_of(&list.iter().map(|version| (*version).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_first_known_version_is_spoken() {
        assert_eq!(versions(&["v7", "v1beta1", "v1"]), Some(ReviewVersion::V1Beta1));
        assert_eq!(versions(&["v1"]), Some(ReviewVersion::V1));
        assert_eq!(versions(&["v7"]), None);
    }

    #[test]
    fn questions_carry_objects_as_they_are() {
        let text = question(ReviewVersion::V1, "u", "x.io/v2", &[br#"{"a":1}"#, br#"{"b":2}"#]);
        let review: Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(
            review,
            json!({
                "kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1",
                "request": {"uid": "u", "desiredAPIVersion": "x.io/v2", "objects": [{"a": 1}, {"b": 2}]},
            })
        );
    }

    #[test]
    fn answers_are_checked() {
        let check = |version: ReviewVersion, review: Value, expected: Result<Vec<Value>, &str>| {
            let found = answer(version, "u", review.to_string().as_bytes());
            assert_eq!(found, expected.map_err(str::to_owned), "{review}");
        };
        let v1 = |response: Value| json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": response});
        let good = json!({"uid": "u", "result": {"status": "Success"}, "convertedObjects": [{"a": 1}]});
        check(ReviewVersion::V1, v1(good.clone()), Ok(vec![json!({"a": 1})]));
        check(ReviewVersion::V1, v1(Value::Null), Err("no response provided"));
        let other = json!({"uid": "w", "result": {"status": "Success"}});
        check(ReviewVersion::V1, v1(other.clone()), Err(r#"expected response.uid="u", got "w""#));
        check(ReviewVersion::V1Beta1, json!({"response": other}), Ok(Vec::new()));
        let failed = json!({"uid": "u", "result": {"status": "Failed", "message": "no way"}});
        check(ReviewVersion::V1, v1(failed), Err("no way"));
        let failed = json!({"uid": "u", "result": {"status": "Failed"}});
        check(ReviewVersion::V1, v1(failed), Err("response.result.status was 'Failed', not 'Success'"));
        let words = "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got /, Kind=";
        check(ReviewVersion::V1, json!({"response": good}), Err(words));
    }

    #[test]
    fn what_comes_back_keeps_its_identity() {
        let original = json!({
            "apiVersion": "x.io/v1", "kind": "Boat", "hostPort": "h:1",
            "metadata": {"name": "a", "uid": "u", "generation": 3, "labels": {"a": "b"}, "annotations": {"x": "y"}},
        });
        let check = |change: &dyn Fn(&mut Value), expected: Result<Value, &str>| {
            let mut converted = json!({
                "apiVersion": "x.io/v2", "kind": "Boat", "host": "h",
                "metadata": {"name": "a", "uid": "u", "labels": {"c": "d"}},
            });
            change(&mut converted);
            let outcome = restore(&original, &mut converted, "x.io/v2").map(|()| converted["metadata"].clone());
            assert_eq!(outcome, expected.map_err(str::to_owned));
        };
        check(&|_| {}, Ok(json!({"name": "a", "uid": "u", "generation": 3, "labels": {"c": "d"}})));
        check(
            &|object| object["apiVersion"] = "x.io/v1".into(),
            Err("invalid object: invalid groupVersion (expected x.io/v2, received x.io/v1)"),
        );
        check(
            &|object| object["kind"] = "Ship".into(),
            Err("invalid object: invalid kind (expected Boat, received Ship)"),
        );
        check(
            &|object| object["metadata"]["name"] = "b".into(),
            Err("invalid object: must have the same name: a != b"),
        );
        check(&|object| object["metadata"]["uid"] = "w".into(), Err("invalid object: must have the same UID: u != w"));
        check(
            &|object| object["metadata"]["labels"] = json!({"c": 1}),
            Err("invalid metadata: metadata.labels[c] must be a string in converted object"),
        );
        check(
            &|object| object["metadata"] = Value::Null,
            Err("invalid metadata: metadata of the converted object is no object"),
        );
        let mut wrong = json!({
            "apiVersion": "x.io/v2", "kind": "Boat", "metadata": {"name": "a", "uid": "u", "labels": {"c": "a b"}},
        });
        let problem = restore(&original, &mut wrong, "x.io/v2").expect_err("a bad label");
        assert!(problem.starts_with("invalid metadata: metadata.labels: Invalid value: \"a b\""), "{problem}");
    }
}
