//! `pods/eviction`: a deletion that disruption budgets may refuse.

use std::sync::Arc;

use bytes::Bytes;
use kobune_kinds::selector::LabelSelector;
use kobune_store::{At, Range};
use serde_json::{Value, json};

use crate::{
    ApiServer,
    admit::Operation,
    call::{self, Call},
    create::meta,
    delete::Options,
    error::{Answer, ApiError},
    path::Target,
    respond::{self, Made, Produced},
    specials,
    update::Changed,
};

/// Evicts a pod if its budgets allow it.
pub(crate) async fn create(server: &ApiServer, call: &Call, body: &Bytes) -> Answer<Made> {
    let (mut eviction, mut warnings) = specials::body_of_subresource(server, call, body)?;
    let given = meta(&eviction, "name");
    if !given.is_empty() && given != call.name() {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    warnings.extend(server.admit_body(call, Operation::Create, &mut eviction, None).await?);
    let mut options = match eviction.get("deleteOptions") {
        Some(options) if options.is_object() => Options::from_object(options)?,
        _ => Options::default(),
    };
    options.dry_run |= call.dry_run;
    let record = server.read(&call.key()).await?.ok_or_else(|| ApiError::not_found(&call.kind, call.name()))?;
    let pod = respond::parse(&call.kind, &record)?;
    if !can_ignore_budgets(&pod)
        && let Some(budget) = budget_of(server, call, &pod).await?
    {
        spend(server, call, &budget, &pod, options.dry_run).await?;
        if options.version.is_none() && options.uid.is_none() {
            // The budget was spent on this very pod, not on one that takes its name meanwhile.
            options.uid = Some(meta(&pod, "uid").to_owned());
        }
    }
    if !options.dry_run {
        mark(server, call, &mut options).await?;
    }
    server.delete(call, &options).await?;
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(Made::created(Produced::Object(status)).with_warnings(warnings))
}

/// Says in the pod's status why it goes; whoever replaces it may want to know. What the caller demanded of the pod is
/// demanded before.
///
/// Upstream: `addConditionAndDeletePod` in
/// <https://github.com/kubernetes/kubernetes/blob/master/pkg/registry/core/pod/storage/eviction.go>.
async fn mark(server: &ApiServer, call: &Call, options: &mut Options) -> Answer<()> {
    let mut change = call.clone();
    change.target = Target { subresource: Some("status".to_owned()), ..call.target.clone() };
    let made = server
        .change(&change, |pod, _| {
            let differs = |wanted: &Option<String>, field: &str| {
                wanted.as_deref().is_some_and(|wanted| !wanted.is_empty() && wanted != meta(pod, field))
            };
            if differs(&options.uid, "uid") || differs(&options.version, "resourceVersion") {
                return Err(ApiError::conflict(&call.kind, call.name(), "the object has been modified or replaced"));
            }
            Ok(Changed::internal(disrupted(pod)))
        })
        .await?;
    if options.version.is_some()
        && let Produced::Stored(record) = &made.produced
    {
        // The write above is no change that the caller has to know of.
        options.version = Some(meta(&respond::parse(&call.kind, record)?, "resourceVersion").to_owned());
    }
    Ok(())
}

/// The pod with condition `DisruptionTarget`.
fn disrupted(pod: &Value) -> Value {
    let mut pod = pod.clone();
    if !pod["status"]["conditions"].is_array() {
        pod["status"]["conditions"] = json!([]);
    }
    let Some(conditions) = pod["status"]["conditions"].as_array_mut() else { return pod };
    let is_ours = |condition: &Value| condition["type"] == "DisruptionTarget";
    if conditions.iter().any(|condition| is_ours(condition) && condition["status"] == "True") {
        return pod;
    }
    conditions.retain(|condition| !is_ours(condition));
    conditions.push(json!({
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
        "lastTransitionTime": call::now_text(),
    }));
    pod
}

/// Pods that run nothing, or are on their way out, disturb nobody.
fn can_ignore_budgets(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Pending") | None)
        || pod.pointer("/metadata/deletionTimestamp").is_some()
}

/// The budget that covers a pod. More than one is upstream's 500.
async fn budget_of(server: &ApiServer, call: &Call, pod: &Value) -> Answer<Option<Value>> {
    let range = Range::namespace("policy/poddisruptionbudgets", call.namespace());
    let listing = server.store.list(&range, At::Latest).await.map_err(|error| ApiError::from_store(&error))?;
    let mut found = None;
    for record in listing.iter() {
        let budget: Value = serde_json::from_slice(&record.value).map_err(|error| ApiError::internal(&error))?;
        let selector =
            LabelSelector::from_object(&budget["spec"]["selector"]).map_err(|error| ApiError::internal(&error))?;
        if !selector.matches_labels(&pod["metadata"]["labels"]) {
            continue;
        }
        if found.is_some() {
            return Err(ApiError::internal_words(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
        found = Some(budget);
    }
    Ok(found)
}

fn is_ready(pod: &Value) -> bool {
    pod["status"]["conditions"].as_array().is_some_and(|conditions| {
        conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    })
}

/// Takes one disruption from a budget, or says that there is none.
async fn spend(server: &ApiServer, call: &Call, budget: &Value, pod: &Value, dry_run: bool) -> Answer<()> {
    // A pod that is not ready is no loss to a budget that is met (or to one that always lets it go).
    let healthy = budget["status"]["currentHealthy"].as_i64().unwrap_or(0);
    let desired = budget["status"]["desiredHealthy"].as_i64().unwrap_or(0);
    if !is_ready(pod)
        && (budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" || (healthy >= desired && desired > 0))
    {
        return Ok(());
    }
    let kind = server
        .catalogue
        .load()
        .by_resource("policy", "v1", "poddisruptionbudgets")
        .cloned()
        .ok_or_else(|| ApiError::internal_words("there are no disruption budgets"))?;
    let name = meta(budget, "name").to_owned();
    let mut change = call.clone();
    change.kind = Arc::clone(&kind);
    change.dry_run = dry_run;
    change.target = Target { name: Some(name.clone()), subresource: Some("status".to_owned()), ..call.target.clone() };
    server
        .change(&change, |budget, _| {
            let status = &budget["status"];
            if status["observedGeneration"].as_i64().unwrap_or(0)
                < budget["metadata"]["generation"].as_i64().unwrap_or(0)
            {
                return Err(refused(
                    "Cannot evict pod as it would violate the pod's disruption budget.",
                    &format!("The disruption budget {name} is still being processed by the server."),
                ));
            }
            let allowed = status["disruptionsAllowed"].as_i64().unwrap_or(0);
            if allowed <= 0 {
                let (desired, healthy) =
                    (status["desiredHealthy"].as_i64().unwrap_or(0), status["currentHealthy"].as_i64().unwrap_or(0));
                return Err(refused(
                    "Cannot evict pod as it would violate the pod's disruption budget.",
                    &format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently"),
                ));
            }
            let mut budget = budget.clone();
            budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
            if !budget["status"]["disruptedPods"].is_object() {
                budget["status"]["disruptedPods"] = json!({});
            }
            budget["status"]["disruptedPods"][meta(pod, "name")] = call::now_text().into();
            Ok(Changed::internal(budget))
        })
        .await?;
    Ok(())
}

fn refused(message: &str, cause: &str) -> ApiError {
    ApiError::new(429, "TooManyRequests", message)
        .with_details(json!({"causes": [{"reason": "DisruptionBudget", "message": cause}]}))
}
