//! NamespaceLifecycle: objects are made in namespaces that exist and are not ending; some namespaces never end.

use serde_json::Value;

use super::{Operation, Request};
use crate::security::Refusal;
use crate::security::lookup::Lookup;

/// The namespaces without which a cluster does not work.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) async fn admit(lookup: &Lookup, request: &Request<'_>, object: Option<&Value>) -> Result<(), Refusal> {
    if request.group.is_empty() && request.resource == "namespaces" {
        if request.operation == Operation::Delete && request.subresource.is_empty() && IMMORTAL.contains(&request.name)
        {
            return Err(request.forbid(object, "this namespace may not be deleted"));
        }
        return Ok(());
    }
    // Reviews are questions about a namespace, also about one that is not there.
    if request.namespace.is_empty()
        || request.operation == Operation::Delete
        || request.resource == "localsubjectaccessreviews"
    {
        return Ok(());
    }
    let Some(namespace) = lookup.object("core/namespaces", "", request.namespace).await? else {
        return Err(Refusal::not_found("", "namespaces", request.namespace));
    };
    if !request.creates() || !is_ending(&namespace) {
        return Ok(());
    }
    let name = request.namespace;
    let why = format!("unable to create new content in namespace {name} because it is being terminated");
    let cause = format!("namespace {name} is being terminated");
    Err(request.forbid(object, why).with_cause("NamespaceTerminating", &cause, "metadata.namespace"))
}

/// The phase is set together with the deletion time; looking at both leaves no gap for namespaces of other writers.
fn is_ending(namespace: &Value) -> bool {
    namespace["status"]["phase"] == "Terminating" || namespace["metadata"]["deletionTimestamp"].is_string()
}
