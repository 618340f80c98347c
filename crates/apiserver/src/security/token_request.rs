//! Tokens on request: `create serviceaccounts/token`.

use jiff::{Timestamp, ToSpan};
use kobune_pki::{Bound, Claims, Reference};
use serde::Deserialize;
use serde_json::Value;

use super::Security;
use super::refusal::Refusal;
use super::user::User;

/// The least that a token may live.
const MINIMUM_SECONDS: i64 = 10 * 60;
/// The most that may be asked for (the largest 32-bit number, as upstream).
const MAXIMUM_SECONDS: i64 = 1 << 32;
/// What a token lives when nothing is asked for.
const DEFAULT_SECONDS: i64 = 60 * 60;
/// The expiration that the projected token volume of every pod asks for. Such tokens live a year in truth, for clients
/// that never read the file again, and carry a note of when a client should have done so.
const WARN_ONLY_SECONDS: i64 = 60 * 60 + 7;
const EXTENDED_SECONDS: i64 = 365 * 24 * 60 * 60;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    audiences: Option<Vec<String>>,
    bound_object_ref: Option<BoundObject>,
    expiration_seconds: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct BoundObject {
    kind: String,
    api_version: String,
    name: String,
    uid: String,
}

pub(super) async fn request_token(
    security: &Security,
    user: &User,
    namespace: &str,
    service_account: &str,
    mut body: Value,
) -> Result<Value, Refusal> {
    let spec = body.get("spec").cloned().unwrap_or_default();
    let spec: Option<Spec> = serde_json::from_value(spec).map_err(|error| Refusal::bad_request(error.to_string()))?;
    let spec = spec.unwrap_or_default();
    let account = security.lookup.identity("core/serviceaccounts", namespace, service_account).await?;
    let account = account.ok_or_else(|| Refusal::not_found("", "serviceaccounts", service_account))?;

    let seconds = spec.expiration_seconds.unwrap_or(DEFAULT_SECONDS);
    let invalid = |problem: &str| {
        let problem = format!("Invalid value: {seconds}: {problem}");
        let group = "authentication.k8s.io";
        Refusal::invalid(group, "TokenRequest", "", "spec.expirationSeconds", "FieldValueInvalid", &problem)
    };
    if seconds < MINIMUM_SECONDS {
        return Err(invalid("may not specify a duration less than 10 minutes"));
    }
    if seconds > MAXIMUM_SECONDS {
        return Err(invalid("may not specify a duration larger than 2^32 seconds"));
    }
    let mut audiences = spec.audiences.unwrap_or_default();
    if audiences.is_empty() {
        audiences.clone_from(&security.config.api_audiences);
    }

    let mut bound = Bound {
        namespace: namespace.to_owned(),
        serviceaccount: Reference { name: service_account.to_owned(), uid: account.uid },
        ..Bound::default()
    };
    if let Some(object) = &spec.bound_object_ref {
        bind(security, namespace, service_account, object, &mut bound).await?;
    }
    restrict_node(user, &bound)?;

    let now = Timestamp::now();
    let iat = now.as_second();
    // What the client is told about the end is what it asked for; see WARN_ONLY_SECONDS.
    let mut exp = iat + seconds;
    let told = now.checked_add(seconds.seconds()).map_err(Refusal::internal)?;
    if bound.pod.is_some() && seconds == WARN_ONLY_SECONDS && audiences == security.config.api_audiences {
        bound.warnafter = Some(exp);
        exp = iat + EXTENDED_SECONDS;
    }
    let claims = Claims {
        aud: audiences.clone(),
        exp,
        iat,
        iss: security.tokens.issuer().to_owned(),
        jti: uuid::Uuid::new_v4().to_string(),
        bound,
        nbf: iat,
        sub: format!("system:serviceaccount:{namespace}:{service_account}"),
    };
    let token = security.tokens.sign(&claims).map_err(Refusal::internal)?;

    if !body.is_object() {
        body = Value::Object(serde_json::Map::new());
    }
    body["apiVersion"] = "authentication.k8s.io/v1".into();
    body["kind"] = "TokenRequest".into();
    if !body["metadata"].is_object() {
        body["metadata"] = Value::Object(serde_json::Map::new());
    }
    body["metadata"]["name"] = service_account.into();
    body["metadata"]["namespace"] = namespace.into();
    body["metadata"]["creationTimestamp"] = seconds_only(now).into();
    if !body["spec"].is_object() {
        body["spec"] = Value::Object(serde_json::Map::new());
    }
    body["spec"]["audiences"] = audiences.into();
    body["spec"]["expirationSeconds"] = seconds.into();
    if body["spec"].get("boundObjectRef").is_none() {
        body["spec"]["boundObjectRef"] = Value::Null;
    }
    body["status"] = serde_json::json!({ "token": token, "expirationTimestamp": seconds_only(told) });
    Ok(body)
}

/// The form of `metav1.Time`.
fn seconds_only(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Binds the claims to the pod, secret or node that the request names.
async fn bind(
    security: &Security,
    namespace: &str,
    service_account: &str,
    object: &BoundObject,
    bound: &mut Bound,
) -> Result<(), Refusal> {
    let (collection, resource, place) = match (object.api_version.as_str(), object.kind.as_str()) {
        ("v1", "Pod") => ("core/pods", "pods", namespace),
        ("v1", "Secret") => ("core/secrets", "secrets", namespace),
        ("v1", "Node") => ("core/nodes", "nodes", ""),
        (version, kind) => {
            return Err(Refusal::bad_request(format!("cannot bind token to object of type {version}, Kind={kind}")));
        }
    };
    let found: Option<Value> = security.lookup.once(collection, place, &object.name).await?;
    let found = found.ok_or_else(|| Refusal::not_found("", resource, &object.name))?;
    let text = |pointer: &str| found.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let uid = text("/metadata/uid");
    if !object.uid.is_empty() && object.uid != uid {
        let message = format!(
            "Operation cannot be fulfilled on {} {:?}: the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
            object.kind, object.name, object.uid
        );
        return Err(Refusal { code: 409, reason: "Conflict", message, details: Value::Null });
    }
    let reference = Reference { name: object.name.clone(), uid };
    match resource {
        "pods" => {
            let runs_as = text("/spec/serviceAccountName");
            if runs_as != service_account {
                return Err(Refusal::bad_request(format!(
                    "cannot bind token for serviceaccount {service_account:?} to pod running with different serviceaccount name."
                )));
            }
            bound.pod = Some(reference);
            let node = text("/spec/nodeName");
            if !node.is_empty() {
                // The node's identity is a note for the token's readers; a node that is gone leaves its name.
                let identity = security.lookup.identity("core/nodes", "", &node).await?;
                bound.node = Some(Reference { name: node, uid: identity.unwrap_or_default().uid });
            }
        }
        "secrets" => bound.secret = Some(reference),
        _ => bound.node = Some(reference),
    }
    Ok(())
}

/// NodeRestriction: a node agent gets tokens for pods on its own node only.
fn restrict_node(user: &User, bound: &Bound) -> Result<(), Refusal> {
    let Some(node) = user.node() else { return Ok(()) };
    let refuse = |why: String| Err(Refusal::forbidden("", "serviceaccounts", &bound.serviceaccount.name, why));
    if bound.pod.is_none() {
        return refuse(format!("node requested token not bound to a pod: {node:?}"));
    }
    match &bound.node {
        Some(own) if own.name == node => Ok(()),
        _ => refuse("node requested token bound to a pod scheduled on a different node".to_owned()),
    }
}
