//! What is not a plain verb on a stored object: subresources, and kinds that are only answered.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use kobune_kinds::{protobuf, schema::Types};
use serde_json::{Value, json};

use crate::{
    ApiServer, Body,
    accept::{OFFERED, media_type},
    admit::Operation,
    binding,
    call::Call,
    create::meta,
    decode,
    error::{Answer, ApiError},
    eviction,
    patch::{self, Patch},
    respond::{self, Made, Produced},
    scale, table,
};

/// Serves a subresource or a kind that is not stored.
pub(crate) async fn serve(server: &Arc<ApiServer>, call: Call, verb: &str, body: &Bytes) -> Answer<Response<Body>> {
    let include = table::Include::of(&call.query)?;
    let subresource = call.target.subresource.clone().unwrap_or_default();
    let made = match (&*call.kind.plural, subresource.as_str()) {
        (_, "scale") => {
            let object = scale::serve(server, &call, verb, body).await?;
            return respond::value(StatusCode::OK, &object, call.accept);
        }
        ("pods", "binding") | ("bindings", "") => binding::create(server, &call, body).await?,
        ("pods", "eviction") => eviction::create(server, &call, body).await?,
        ("serviceaccounts", "token") => token(server, &call, body).await?,
        (_, "") => review(server, &call, verb, body).await?,
        _ => match verb {
            "get" => {
                let record = server.read_as(&call.kind, &call.key()).await?;
                let record = record.ok_or_else(|| ApiError::not_found(&call.kind, call.name()))?;
                Made::ok(Produced::Stored(record))
            }
            "update" => {
                let decoded = decode::object(&call.kind, &call, body)?;
                server.replace(&call, decoded.object, decoded.warnings).await?
            }
            "patch" => server.patch(&call, body).await?,
            _ => return Err(ApiError::method_not_allowed()),
        },
    };
    server.settle_definition(&call, &made).await;
    let made = server.showable(&call.kind, call.accept.form, made).await?;
    respond::made(&call.kind, made, call.accept, include)
}

/// Decodes the body of a subresource that has a kind of its own.
pub(crate) fn body_of_subresource(server: &ApiServer, call: &Call, body: &Bytes) -> Answer<(Value, Vec<String>)> {
    let subresource =
        call.subresource().and_then(|name| call.kind.subresource(name)).ok_or_else(ApiError::no_such_path)?;
    let api_version = if subresource.group.is_empty() {
        subresource.version.to_string()
    } else {
        format!("{}/{}", subresource.group, subresource.version)
    };
    let catalogue = server.catalogue.load();
    match catalogue.by_kind(&api_version, &subresource.kind) {
        Some(kind) => {
            let decoded = decode::object(kind, call, body)?;
            Ok((decoded.object, decoded.warnings))
        }
        None if media_type(&call.content_type) == protobuf::MEDIA => {
            // Bodies that are no resources of their own: their type is in the schema all the same.
            let package = subresource.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core");
            let schema = Types::builtin()
                .named(&format!("io.k8s.api.{package}.{}.{}", subresource.version, subresource.kind))
                .ok_or_else(|| ApiError::unsupported_media_type(OFFERED))?;
            let object = protobuf::decode(body, schema).map_err(|error| ApiError::bad_request(error.to_string()))?;
            Ok((object, Vec::new()))
        }
        None => Ok((decode::any(body, decode::media(&call.content_type)?)?, Vec::new())),
    }
}

/// `serviceaccounts/token`.
async fn token(server: &ApiServer, call: &Call, body: &Bytes) -> Answer<Made> {
    let (mut request, mut warnings) = body_of_subresource(server, call, body)?;
    warnings.extend(server.admit_body(call, Operation::Create, &mut request, None).await?);
    let answer = server.security.request_token(&call.user, call.namespace(), call.name(), request).await?;
    Ok(Made::created(Produced::Object(answer)).with_warnings(warnings))
}

/// Reviews of authentication and authorization.
async fn review(server: &ApiServer, call: &Call, verb: &str, body: &Bytes) -> Answer<Made> {
    if verb != "create" {
        return component_statuses(call, verb);
    }
    let mut decoded = decode::object(&call.kind, call, body)?;
    if call.kind.namespaced {
        crate::create::settle_namespace(&call.kind, &mut decoded.object, call.namespace())?;
    }
    let warnings = server.review(call, Operation::Create, "", Some(&decoded.object), None).await?;
    let answer = server.security.review(&call.user, &call.kind.plural, call.namespace(), decoded.object).await?;
    Ok(Made::created(Produced::Object(answer)).with_warnings(decoded.warnings).with_warnings(warnings))
}

/// `componentstatuses` has been deprecated for years and says only that the parts of this process run.
fn component_statuses(call: &Call, verb: &str) -> Answer<Made> {
    let warning = vec!["v1 ComponentStatus is deprecated in v1.19+".to_owned()];
    let component = |name: &str| {
        json!({
            "kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name},
            "conditions": [{"type": "Healthy", "status": "True", "message": "ok"}],
        })
    };
    let names = ["scheduler", "controller-manager", "etcd-0"];
    let object = match verb {
        "get" => match names.iter().find(|name| **name == call.name()) {
            Some(name) => component(name),
            None => return Err(ApiError::not_found(&call.kind, call.name())),
        },
        "list" => {
            let items: Vec<Value> = names.iter().map(|name| component(name)).collect();
            json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": items})
        }
        _ => return Err(ApiError::method_not_allowed()),
    };
    Ok(Made::ok(Produced::Object(object)).with_warnings(warning))
}

/// A body of a PUT or the result of a patch on an object that is shown but not stored, such as a scale.
pub(crate) fn changed_body(
    server: &ApiServer,
    call: &Call,
    verb: &str,
    body: &Bytes,
    current: &Value,
) -> Answer<Value> {
    match verb {
        "update" => {
            let (object, _) = body_of_subresource(server, call, body)?;
            let given = meta(&object, "name");
            if !given.is_empty() && given != call.name() {
                return Err(ApiError::bad_request(format!(
                    "the name of the object ({given}) does not match the name on the URL ({})",
                    call.name()
                )));
            }
            Ok(object)
        }
        _ => match Patch::read(call, body)? {
            Patch::Json(patch) => kobune_merge::json_patch(current, &patch).map_err(|error| patch::refused(&error)),
            Patch::Merge(patch) | Patch::Strategic(patch) | Patch::Apply { configuration: patch, .. } => {
                let mut object = current.clone();
                kobune_merge::merge_patch(&mut object, &patch);
                Ok(object)
            }
        },
    }
}
