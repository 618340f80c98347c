//! `pods/binding`: the scheduler's word that a pod goes to a node.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    ApiServer,
    admit::Operation,
    call::{self, Call},
    create::meta,
    decode,
    error::{Answer, ApiError},
    respond::{Made, Produced},
    specials,
    update::Changed,
};

/// Assigns a pod to the node that the binding names.
pub(crate) async fn create(server: &ApiServer, call: &Call, body: &Bytes) -> Answer<Made> {
    let (binding, warnings) = if call.subresource().is_some() {
        specials::body_of_subresource(server, call, body)?
    } else {
        let decoded = decode::object(&call.kind, call, body)?;
        (decoded.object, decoded.warnings)
    };
    let mut call = call.clone();
    if call.target.name.is_none() {
        // The old path: the binding itself is posted to the namespace and names the pod.
        call.target.name = Some(meta(&binding, "name").to_owned());
        let pods = server.catalogue.load().by_resource("", "v1", "pods").cloned().ok_or_else(ApiError::no_such_path)?;
        call.kind = std::sync::Arc::clone(&pods);
        call.target.subresource = Some("binding".to_owned());
    }
    let given = meta(&binding, "name");
    if !given.is_empty() && given != call.name() {
        return Err(ApiError::bad_request("name in URL does not match name in Binding object"));
    }
    let mut binding = binding;
    let mut warnings = warnings;
    warnings.extend(server.admit_body(&call, Operation::Create, &mut binding, None).await?);
    let target = &binding["target"];
    let problem = |field: &str, text: &str| {
        ApiError::new(422, "Invalid", format!("Binding \"{}\" is invalid: {field}: {text}", call.name()))
    };
    if !matches!(target["kind"].as_str(), None | Some("" | "Node")) {
        return Err(problem(
            "target.kind",
            &format!("Unsupported value: {}: supported values: \"Node\", \"<empty>\"", target["kind"]),
        ));
    }
    let node = target["name"].as_str().unwrap_or_default().to_owned();
    if node.is_empty() {
        return Err(problem("target.name", "Required value"));
    }
    let uid = meta(&binding, "uid").to_owned();
    let labels = binding["metadata"]["labels"].clone();
    let annotations = binding["metadata"]["annotations"].clone();
    server
        .change(&call, |pod, _| {
            if !uid.is_empty() && uid != meta(pod, "uid") {
                let text = format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                    meta(pod, "uid")
                );
                return Err(ApiError::conflict(&call.kind, call.name(), &text));
            }
            if pod.pointer("/metadata/deletionTimestamp").is_some() {
                return Err(bound_conflict(
                    &call,
                    &format!("pod {} is being deleted, cannot be assigned to a host", call.name()),
                ));
            }
            if let Some(existing) = pod["spec"]["nodeName"].as_str().filter(|existing| !existing.is_empty()) {
                return Err(bound_conflict(
                    &call,
                    &format!("pod {} is already assigned to node \"{existing}\"", call.name()),
                ));
            }
            if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
                return Err(bound_conflict(&call, &format!("pod {} has non-empty .spec.schedulingGates", call.name())));
            }
            let mut pod = pod.clone();
            pod["spec"]["nodeName"] = node.as_str().into();
            for (field, added) in [("labels", &labels), ("annotations", &annotations)] {
                for (key, value) in added.as_object().into_iter().flatten() {
                    pod["metadata"][field][key] = value.clone();
                }
            }
            mark_scheduled(&mut pod);
            Ok(Changed::internal(pod))
        })
        .await?;
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(Made::created(Produced::Object(status)).with_warnings(warnings))
}

fn bound_conflict(call: &Call, text: &str) -> ApiError {
    let mut shown = call.kind.group_resource();
    shown.push_str("/binding");
    ApiError::new(409, "Conflict", format!("Operation cannot be fulfilled on {shown} \"{}\": {text}", call.name()))
}

/// Sets the condition `PodScheduled`.
fn mark_scheduled(pod: &mut Value) {
    if !pod["status"].is_object() {
        pod["status"] = json!({});
    }
    if !pod["status"]["conditions"].is_array() {
        pod["status"]["conditions"] = json!([]);
    }
    let generation = pod["metadata"]["generation"].clone();
    let Some(conditions) = pod["status"]["conditions"].as_array_mut() else { return };
    let mut condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": call::now_text()});
    if generation.is_number() {
        condition["observedGeneration"] = generation;
    }
    match conditions.iter_mut().find(|condition| condition["type"] == "PodScheduled") {
        Some(existing) if existing["status"] == "True" => {}
        Some(existing) => *existing = condition,
        None => conditions.push(condition),
    }
}
