//! The question to a webhook, and its answer: `SubjectAccessReview`. Pure.

use kobune_kinds::selector::{FieldTerm, Operator, Requirement};
use serde_json::{Map, Value, json};

use super::config::SubjectAccessReviewVersion as Version;
use crate::security::{Attributes, Decision, User};

/// The `spec` of a review, in the form of v1. What is empty is left out.
pub(super) fn spec(user: &User, attributes: &Attributes<'_>) -> Value {
    let mut spec = Map::new();
    if attributes.resource.is_empty() {
        let path = texts([("path", attributes.path), ("verb", attributes.verb)]);
        spec.insert("nonResourceAttributes".to_owned(), path.into());
    } else {
        let mut resource = texts([
            ("namespace", attributes.namespace),
            ("verb", attributes.verb),
            ("group", attributes.group),
            ("version", attributes.version),
            ("resource", attributes.resource),
            ("subresource", attributes.subresource),
            ("name", attributes.name),
        ]);
        let mut put = |name: &str, requirements: Vec<Value>| {
            if !requirements.is_empty() {
                resource.insert(name.to_owned(), json!({ "requirements": requirements }));
            }
        };
        put("fieldSelector", attributes.field_selector.iter().map(of_field).collect());
        put("labelSelector", attributes.label_selector.iter().filter_map(of_label).collect());
        spec.insert("resourceAttributes".to_owned(), resource.into());
    }
    spec.extend(texts([("user", &user.name), ("uid", &user.uid)]));
    if !user.groups.is_empty() {
        spec.insert("groups".to_owned(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        spec.insert("extra".to_owned(), json!(user.extra));
    }
    spec.into()
}

fn texts<const N: usize>(pairs: [(&str, &str); N]) -> Map<String, Value> {
    pairs.into_iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| (name.to_owned(), text.into())).collect()
}

fn of_field(term: &FieldTerm) -> Value {
    let operator = if term.equals { "In" } else { "NotIn" };
    json!({ "key": term.field, "operator": operator, "values": [term.value] })
}

/// What reviews cannot say is left out: the question is then about more than what is asked for.
fn of_label(requirement: &Requirement) -> Option<Value> {
    let operator = match requirement.operator {
        Operator::In => "In",
        Operator::NotIn => "NotIn",
        Operator::Exists => return Some(json!({ "key": requirement.key, "operator": "Exists" })),
        Operator::DoesNotExist => return Some(json!({ "key": requirement.key, "operator": "DoesNotExist" })),
        Operator::GreaterThan | Operator::LessThan => return None,
    };
    Some(json!({ "key": requirement.key, "operator": operator, "values": requirement.values }))
}

/// The review that is sent.
pub(super) fn question(version: Version, mut spec: Value) -> Value {
    if version == Version::V1Beta1
        && let Some(fields) = spec.as_object_mut()
        && let Some(groups) = fields.remove("groups")
    {
        // The older version calls the groups a group.
        fields.insert("group".to_owned(), groups);
    }
    json!({
        "kind": "SubjectAccessReview",
        "apiVersion": version.api_version(),
        "metadata": {},
        "spec": spec,
        "status": {"allowed": false},
    })
}

/// Reads a review that was answered.
pub(super) fn answer(bytes: &[u8]) -> Result<Decision, String> {
    let review: Value = serde_json::from_slice(bytes).map_err(|error| format!("the answer is no JSON: {error}"))?;
    if review["kind"] != "SubjectAccessReview" {
        return Err("the answer is no SubjectAccessReview".to_owned());
    }
    let status = &review["status"];
    let flag = |name: &str| match &status[name] {
        Value::Null => Ok(false),
        Value::Bool(flag) => Ok(*flag),
        other => Err(format!("status.{name} of the answer is {other}")),
    };
    let (allowed, denied) = (flag("allowed")?, flag("denied")?);
    let reason = status["reason"].as_str().unwrap_or_default().to_owned();
    let error =
        (allowed && denied).then(|| "webhook subject access review returned both allow and deny response".into());
    Ok(Decision { allowed: allowed && !denied, denied, reason, error })
}

#[cfg(test)]
mod tests {
    use kobune_kinds::selector::{FieldSelector, LabelSelector};

    use super::*;

    #[test]
    fn questions_have_what_is_asked() {
        let mut user = User::new("jane", &["dev"]);
        user.uid = "7".to_owned();
        user.extra.insert("scope".to_owned(), vec!["a".to_owned()]);
        let fields = FieldSelector::parse("spec.nodeName=n1,status.phase!=Failed").expect("a selector");
        let labels = LabelSelector::parse("a in (x,y),b,!c,d>1").expect("a selector");
        let attributes = Attributes {
            verb: "list",
            version: "v1",
            resource: "pods",
            namespace: "ns",
            field_selector: fields.terms(),
            label_selector: labels.requirements(),
            ..Attributes::default()
        };
        assert_eq!(
            question(Version::V1Beta1, spec(&user, &attributes)),
            json!({
                "kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1beta1", "metadata": {},
                "spec": {
                    "resourceAttributes": {
                        "namespace": "ns", "verb": "list", "version": "v1", "resource": "pods",
                        "fieldSelector": {"requirements": [
                            {"key": "spec.nodeName", "operator": "In", "values": ["n1"]},
                            {"key": "status.phase", "operator": "NotIn", "values": ["Failed"]},
                        ]},
                        "labelSelector": {"requirements": [
                            {"key": "a", "operator": "In", "values": ["x", "y"]},
                            {"key": "b", "operator": "Exists"},
                            {"key": "c", "operator": "DoesNotExist"},
                        ]},
                    },
                    "user": "jane", "uid": "7", "group": ["dev", "system:authenticated"], "extra": {"scope": ["a"]},
                },
                "status": {"allowed": false},
            })
        );
        let path = Attributes { verb: "get", path: "/metrics", ..Attributes::default() };
        let question = question(Version::V1, spec(&User::new("joe", &[]), &path));
        assert_eq!(
            question["spec"],
            json!({
                "nonResourceAttributes": {"path": "/metrics", "verb": "get"},
                "user": "joe", "groups": ["system:authenticated"],
            })
        );
    }

    #[test]
    fn answers_are_read_strictly() {
        let check = |status: Value, expected: Result<(bool, bool, bool), &str>| {
            let review = json!({"kind": "SubjectAccessReview", "status": status}).to_string();
            let found = answer(review.as_bytes());
            let found = found.as_ref().map(|d| (d.allowed, d.denied, d.error.is_some())).map_err(String::as_str);
            assert_eq!(found, expected, "{review}");
        };
        check(json!({"allowed": true}), Ok((true, false, false)));
        check(json!({"allowed": false, "denied": true}), Ok((false, true, false)));
        check(json!({"allowed": true, "denied": true}), Ok((false, true, true)));
        check(json!({}), Ok((false, false, false)));
        check(json!({"allowed": "yes"}), Err("status.allowed of the answer is \"yes\""));
        assert!(answer(b"<html>").is_err());
        assert!(answer(br#"{"kind":"Status"}"#).is_err());
    }
}
