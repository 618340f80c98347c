//! The `scale` subresource, the same for every kind that has replicas.

use bytes::Bytes;
use kobune_kinds::{FieldError, Kind, custom, selector::LabelSelector};
use serde_json::{Value, json};

use crate::{
    ApiServer,
    accept::Form,
    admit::Operation,
    call::Call,
    create::{meta, metadata},
    error::{Answer, ApiError},
    respond::{self, Produced},
    specials,
    update::Changed,
};

/// How often a change is tried again when the object changes meanwhile; upstream's number.
const ATTEMPTS: usize = 5;

/// The replicas of an object and its selector.
fn numbers(kind: &Kind, object: &Value) -> (i64, i64, String) {
    if let Some(paths) = kind.custom().and_then(|custom| custom.scale.as_ref()) {
        let number = |path: &[Box<str>]| custom::at(object, path).and_then(Value::as_i64).unwrap_or(0);
        let selector = paths.selector.as_ref().and_then(|path| custom::at(object, path)).and_then(Value::as_str);
        return (number(&paths.spec), number(&paths.status), selector.unwrap_or_default().to_owned());
    }
    let selector = &object["spec"]["selector"];
    let text = if selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some() {
        LabelSelector::from_object(selector).map(|selector| selector.to_string()).unwrap_or_default()
    } else {
        LabelSelector::from_labels(selector).to_string()
    };
    let number = |part: &str| object[part]["replicas"].as_i64().unwrap_or(0);
    (number("spec"), number("status"), text)
}

/// The scale of an object.
fn of(kind: &Kind, object: &Value) -> Value {
    let (wanted, found, selector) = numbers(kind, object);
    let mut status = json!({"replicas": found});
    if !selector.is_empty() || kind.custom().is_none() {
        status["selector"] = selector.into();
    }
    let mut fields = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            fields[field] = value.clone();
        }
    }
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": fields,
        "spec": {"replicas": wanted}, "status": status,
    })
}

/// Serves GET, PUT and PATCH.
pub(crate) async fn serve(server: &ApiServer, call: &Call, verb: &str, body: &Bytes) -> Answer<Value> {
    if verb == "get" {
        let record = server.read_as(&call.kind, &call.key()).await?;
        let record = record.ok_or_else(|| ApiError::not_found(&call.kind, call.name()))?;
        let object = respond::parse(&call.kind, &record)?;
        if let Some(paths) = call.kind.custom().and_then(|custom| custom.scale.as_ref())
            && custom::at(&object, &paths.spec).is_none()
        {
            let words = format!("the spec replicas field \".{}\" does not exist", paths.spec.join("."));
            return Err(ApiError::internal_words(&words));
        }
        return Ok(of(&call.kind, &object));
    }
    for _ in 0..ATTEMPTS {
        let record = server.read_as(&call.kind, &call.key()).await?;
        let record = record.ok_or_else(|| ApiError::not_found(&call.kind, call.name()))?;
        let shown = of(&call.kind, &respond::parse(&call.kind, &record)?);
        let mut scale = specials::changed_body(server, call, verb, body, &shown)?;
        // Webhooks see the scale, not the object behind it.
        let warnings = server.admit_body(call, Operation::Update, &mut scale, Some(&shown)).await?;
        let mut raced = false;
        let outcome = server
            .change(call, |current, now| {
                raced = now.revision != record.revision;
                if raced {
                    return Err(ApiError::stale(&call.kind, call.name()));
                }
                let object = rescaled(call, current, &scale)?;
                Ok(Changed { warnings: warnings.clone(), ..Changed::of_spec(object) })
            })
            .await;
        match outcome {
            Err(_) if raced => {}
            Err(error) => return Err(error),
            Ok(made) => {
                return match &server.showable(&call.kind, Form::Object, made).await?.produced {
                    Produced::Stored(record) => Ok(of(&call.kind, &respond::parse(&call.kind, record)?)),
                    Produced::Object(object) => Ok(of(&call.kind, object)),
                };
            }
        }
    }
    Err(ApiError::stale(&call.kind, call.name()))
}

/// The object with the replicas of a scale.
fn rescaled(call: &Call, current: &Value, scale: &Value) -> Answer<Value> {
    let replicas = match &scale["spec"]["replicas"] {
        Value::Null => 0,
        Value::Number(number) => number.as_i64().unwrap_or(-1),
        _ => return Err(ApiError::bad_request("spec.replicas is not a number")),
    };
    if replicas < 0 {
        let error = FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0");
        return Err(ApiError::invalid_kind("autoscaling", "Scale", call.name(), &[error]));
    }
    let mut object = current.clone();
    match call.kind.custom().and_then(|custom| custom.scale.as_ref()) {
        Some(paths) => custom::put(&mut object, &paths.spec, replicas.into()),
        None => object["spec"]["replicas"] = replicas.into(),
    }
    let version = meta(scale, "resourceVersion");
    if !version.is_empty() {
        metadata(&mut object).insert("resourceVersion".into(), version.into());
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales() {
        let catalogue = kobune_kinds::Catalogue::builtin();
        let kind = catalogue.by_kind("apps/v1", "Deployment").cloned().expect("a built-in kind");
        let deployment = json!({
            "metadata": {"name": "web", "namespace": "a", "uid": "u", "resourceVersion": "7", "labels": {"x": "y"}},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}}, "status": {"replicas": 2},
        });
        assert_eq!(
            of(&kind, &deployment),
            json!({
                "kind": "Scale", "apiVersion": "autoscaling/v1",
                "metadata": {"name": "web", "namespace": "a", "uid": "u", "resourceVersion": "7"},
                "spec": {"replicas": 3}, "status": {"replicas": 2, "selector": "app=web"},
            })
        );
        assert_eq!(
            of(&kind, &json!({"metadata": {}, "spec": {"selector": {"app": "web"}}}))["status"]["selector"],
            "app=web"
        );
    }
}
