//! Reviews: questions about users and rights, answered in the object that asks.

use serde_json::{Map, Value, json};

use super::Security;
use super::attributes::Attributes;
use super::authenticate::{TokenRefusal, token_user};
use super::refusal::Refusal;
use super::review_selectors::{self, Mistake};
use super::user::User;

pub(super) async fn review(
    security: &Security,
    user: &User,
    resource: &str,
    namespace: &str,
    mut body: Value,
) -> Result<Value, Refusal> {
    if !body.is_object() {
        return Err(Refusal::bad_request("the review is not an object"));
    }
    body["status"] = match resource {
        "tokenreviews" => token_review(security, &body).await?,
        "selfsubjectreviews" => json!({ "userInfo": user_info(user) }),
        "selfsubjectaccessreviews" => access(security, user, &body["spec"], "SelfSubjectAccessReview").await?,
        "subjectaccessreviews" => {
            let subject = subject(&body["spec"], "SubjectAccessReview")?;
            access(security, &subject, &body["spec"], "SubjectAccessReview").await?
        }
        "localsubjectaccessreviews" => local_access(security, namespace, &body).await?,
        "selfsubjectrulesreviews" => rules_review(security, user, &body)?,
        _ => return Err(Refusal::not_found("", resource, "")),
    };
    Ok(body)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn texts(value: &Value, key: &str) -> Vec<String> {
    let list = value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A user in the form of `authentication.k8s.io/v1 UserInfo`.
fn user_info(user: &User) -> Value {
    let mut info = json!({ "username": user.name });
    if !user.uid.is_empty() {
        info["uid"] = Value::from(user.uid.as_str());
    }
    if !user.groups.is_empty() {
        info["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

async fn token_review(security: &Security, body: &Value) -> Result<Value, Refusal> {
    let spec = &body["spec"];
    let token = text(spec, "token");
    if token.is_empty() {
        return Err(Refusal::bad_request("token is required for TokenReview in authentication"));
    }
    let mut wanted = texts(spec, "audiences");
    if wanted.is_empty() {
        wanted.clone_from(&security.config.api_audiences);
    }
    match token_user(security, token, &wanted).await {
        Ok(found) => Ok(json!({
            "authenticated": true, "user": user_info(&found.user), "audiences": found.audiences,
        })),
        Err(TokenRefusal::Store(refusal)) => Err(refusal),
        Err(error) => Ok(json!({ "user": {}, "error": format!("[invalid bearer token, {error}]") })),
    }
}

/// The subject that a review names.
fn subject(spec: &Value, kind: &str) -> Result<User, Refusal> {
    let mut user = User {
        name: text(spec, "user").to_owned(),
        uid: text(spec, "uid").to_owned(),
        groups: texts(spec, "groups"),
        ..User::default()
    };
    for (key, values) in spec.get("extra").and_then(Value::as_object).into_iter().flatten() {
        let values = values.as_array().map(Vec::as_slice).unwrap_or_default();
        user.extra.insert(key.clone(), values.iter().filter_map(Value::as_str).map(str::to_owned).collect());
    }
    if user.name.is_empty() && user.groups.is_empty() {
        let problem = "Invalid value: \"\": at least one of user or group must be specified";
        return Err(invalid(kind, "spec.user", problem));
    }
    Ok(user)
}

pub(super) fn invalid(kind: &str, field: &str, problem: &str) -> Refusal {
    Refusal::invalid("authorization.k8s.io", kind, "", field, "FieldValueInvalid", problem)
}

async fn access(security: &Security, user: &User, spec: &Value, kind: &str) -> Result<Value, Refusal> {
    let (on_resource, on_path) = (spec.get("resourceAttributes"), spec.get("nonResourceAttributes"));
    let (fields, labels);
    let mut problems = Vec::new();
    let attributes = match (on_resource.filter(|v| !v.is_null()), on_path.filter(|v| !v.is_null())) {
        (Some(_), Some(_)) => {
            let problem = "Invalid value: \"\": cannot be specified in combination with resourceAttributes";
            return Err(invalid(kind, "spec.nonResourceAttributes", problem));
        }
        (None, None) => {
            let problem =
                "Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified";
            return Err(invalid(kind, "spec.resourceAttributes", problem));
        }
        (Some(on), None) => {
            let wrong = |mistake: Mistake| mistake.refusal(kind);
            fields = review_selectors::fields(on.get("fieldSelector"), &mut problems).map_err(wrong)?;
            labels = review_selectors::labels(on.get("labelSelector"), &mut problems).map_err(wrong)?;
            Attributes {
                verb: text(on, "verb"),
                group: text(on, "group"),
                version: text(on, "version"),
                resource: text(on, "resource"),
                subresource: text(on, "subresource"),
                namespace: text(on, "namespace"),
                name: text(on, "name"),
                field_selector: &fields,
                label_selector: &labels,
                ..Attributes::default()
            }
        }
        (None, Some(on)) => Attributes { verb: text(on, "verb"), path: text(on, "path"), ..Attributes::default() },
    };
    let decision = security.explain(user, &attributes).await;
    let mut status = json!({ "allowed": decision.allowed });
    if decision.denied {
        status["denied"] = Value::from(true);
    }
    if !decision.reason.is_empty() {
        status["reason"] = Value::from(decision.reason);
    }
    problems.extend(decision.error);
    if !problems.is_empty() {
        status["evaluationError"] = Value::from(problems.join("\n"));
    }
    Ok(status)
}

async fn local_access(security: &Security, namespace: &str, body: &Value) -> Result<Value, Refusal> {
    let kind = "LocalSubjectAccessReview";
    let spec = &body["spec"];
    let asked = spec.pointer("/resourceAttributes/namespace").and_then(Value::as_str).unwrap_or_default();
    if asked != namespace {
        let message = format!("spec.resourceAttributes.namespace must match namespace: {namespace}");
        return Err(Refusal::bad_request(message));
    }
    access(security, &subject(spec, kind)?, spec, kind).await
}

fn rules_review(security: &Security, user: &User, body: &Value) -> Result<Value, Refusal> {
    let namespace = text(&body["spec"], "namespace");
    if namespace.is_empty() {
        return Err(Refusal::bad_request("no namespace on request"));
    }
    let (rules, unresolved) = if user.is_in(super::user::MASTERS) {
        // Masters need no role, so none is found; what they may do is everything.
        let any = || vec!["*".to_owned()];
        let everything = super::rbac::Rule { verbs: any(), api_groups: any(), resources: any(), ..Default::default() };
        let paths = super::rbac::Rule { verbs: any(), non_resource_urls: any(), ..Default::default() };
        (vec![everything, paths], Vec::new())
    } else {
        security.rbac.with_index(|index| index.rules_for(user, namespace))
    };
    let (on_paths, on_resources): (Vec<_>, Vec<_>) = rules.iter().partition(|rule| !rule.non_resource_urls.is_empty());
    let values = |rules: Vec<&super::rbac::Rule>| rules.into_iter().map(|rule| rule.to_value()).collect::<Vec<_>>();
    let mut status = Map::new();
    status.insert("resourceRules".into(), values(on_resources).into());
    status.insert("nonResourceRules".into(), values(on_paths).into());
    // The node authorizer's rights depend on pods, a webhook's on the webhook, and cannot be listed.
    let mut problems = Vec::new();
    if user.node().is_some() {
        problems.push("node authorizer does not support user rule resolution".to_owned());
    }
    if security.config.authorization.asks_others() && !user.is_in(super::user::MASTERS) {
        problems.push("webhook authorizer does not support user rule resolution".to_owned());
    }
    if !unresolved.is_empty() {
        problems.push(unresolved.join(", "));
    }
    status.insert("incomplete".into(), (!problems.is_empty()).into());
    if !problems.is_empty() {
        status.insert("evaluationError".into(), problems.join(", ").into());
    }
    Ok(Value::Object(status))
}
