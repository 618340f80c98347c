//! The `scale` subresource, the same for every kind that has replicas.

use bytes::Bytes;
use kobune_kinds::{FieldError, selector::LabelSelector};
use serde_json::{Value, json};

use crate::{
    ApiServer,
    call::Call,
    create::{meta, metadata},
    error::{Answer, ApiError},
    respond::{self, Produced},
    specials,
    update::Changed,
};

/// The scale of an object.
fn of(object: &Value) -> Value {
    let selector = &object["spec"]["selector"];
    let text = if selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some() {
        LabelSelector::from_object(selector).map(|selector| selector.to_string()).unwrap_or_default()
    } else {
        LabelSelector::from_labels(selector).to_string()
    };
    let mut fields = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            fields[field] = value.clone();
        }
    }
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": fields,
        "spec": {"replicas": object["spec"]["replicas"].as_i64().unwrap_or(0)},
        "status": {"replicas": object["status"]["replicas"].as_i64().unwrap_or(0), "selector": text},
    })
}

/// Serves GET, PUT and PATCH.
pub(crate) async fn serve(server: &ApiServer, call: &Call, verb: &str, body: &Bytes) -> Answer<Value> {
    if verb == "get" {
        let record = server.read(&call.key()).await?.ok_or_else(|| ApiError::not_found(&call.kind, call.name()))?;
        return Ok(of(&respond::parse(&call.kind, &record)?));
    }
    let made = server
        .change(call, |current, _| {
            let shown = of(current);
            let scale = specials::changed_body(server, call, verb, body, &shown)?;
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
            object["spec"]["replicas"] = replicas.into();
            let version = meta(&scale, "resourceVersion");
            if !version.is_empty() {
                metadata(&mut object).insert("resourceVersion".into(), version.into());
            }
            Ok(Changed::of_spec(object))
        })
        .await?;
    match &made.produced {
        Produced::Stored(record) => Ok(of(&respond::parse(&call.kind, record)?)),
        Produced::Object(object) => Ok(of(object)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales() {
        let deployment = json!({
            "metadata": {"name": "web", "namespace": "a", "uid": "u", "resourceVersion": "7", "labels": {"x": "y"}},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}}, "status": {"replicas": 2},
        });
        assert_eq!(
            of(&deployment),
            json!({
                "kind": "Scale", "apiVersion": "autoscaling/v1",
                "metadata": {"name": "web", "namespace": "a", "uid": "u", "resourceVersion": "7"},
                "spec": {"replicas": 3}, "status": {"replicas": 2, "selector": "app=web"},
            })
        );
        assert_eq!(of(&json!({"metadata": {}, "spec": {"selector": {"app": "web"}}}))["status"]["selector"], "app=web");
    }
}
