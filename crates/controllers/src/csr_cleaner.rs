//! Removes signing requests that nobody needs any longer: answered ones after an hour, open ones after a day, and those whose
//! certificate has ended.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::{Api, DeleteParams};

use crate::certificates::{Requests, has_condition};
use crate::clock;
use crate::context::{Context, enqueue_changes};
use crate::object::{Cached, ObjectKey};
use crate::queue::{Doing, PassError, Queue, Revisit, is_conflict, is_not_found};

/// How long an approved request may be looked at, in seconds.
const APPROVED: i64 = 60 * 60;
/// How long a denied or failed one may.
const REFUSED: i64 = 60 * 60;
/// How long a request may wait for a decision.
const PENDING: i64 = 24 * 60 * 60;

/// Starts the controller.
pub fn start(context: &Arc<Context>, requests: &Arc<Requests>) {
    let queue = Arc::<Queue>::default();
    enqueue_changes(&**requests, &queue);
    let (own, known, synced) = (context.clone(), requests.clone(), requests.clone());
    let ready = async move { synced.synced().await };
    context.run_controller("csrcleaner", queue, ready, move |key| pass(own.clone(), known.clone(), key));
}

/// When a request is to go, in seconds since 1970.
fn due(csr: &CertificateSigningRequest) -> Option<i64> {
    let created = csr.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second());
    let since = |kind: &str| {
        let conditions = csr.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let condition = conditions.iter().find(|condition| condition.type_ == kind)?;
        condition.last_update_time.as_ref().map(|time| time.0.as_second()).or(created)
    };
    let certificate = csr.status.as_ref().and_then(|status| status.certificate.as_ref()).filter(|c| !c.0.is_empty());
    let mut times = Vec::new();
    if has_condition(csr, "Approved") {
        if let Some(certificate) = certificate {
            times.extend(since("Approved").map(|at| at + APPROVED));
            times.extend(kobune_pki::end_of_certificate(&certificate.0));
        }
        if has_condition(csr, "Failed") {
            times.extend(since("Failed").map(|at| at + REFUSED));
        }
    } else if has_condition(csr, "Denied") {
        times.extend(since("Denied").map(|at| at + REFUSED));
    } else {
        times.extend(created.map(|at| at + PENDING));
    }
    times.into_iter().min()
}

async fn pass(context: Arc<Context>, requests: Arc<Requests>, key: ObjectKey) -> Result<Revisit, PassError> {
    let Some(csr) = requests.get(&key).filter(|csr| !csr.deleting()) else { return Ok(None) };
    let Some(due) = due(&csr) else { return Ok(None) };
    let left = due - clock::now().as_second();
    if left > 0 {
        return Ok(Some(Duration::from_secs(left.unsigned_abs())));
    }
    let api: Api<CertificateSigningRequest> = Api::all(context.client.clone());
    let options = DeleteParams {
        preconditions: Some(kube::api::Preconditions {
            uid: csr.metadata.uid.clone(),
            resource_version: csr.metadata.resource_version.clone(),
        }),
        ..DeleteParams::default()
    };
    match api.delete(&key.name, &options).await {
        Ok(_) => requests.removed(&key, csr.uid()),
        // The watch tells of what is there now.
        Err(error) if is_conflict(&error) || is_not_found(&error) => {}
        Err(error) => return Err(error).doing("removing a signing request"),
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times() {
        let check = |status: serde_json::Value, expected: Option<i64>| {
            let object = json!({
                "metadata": {"creationTimestamp": "1970-01-01T01:00:00Z"},
                "spec": {"request": "", "signerName": "example.com/a", "usages": ["any"]},
                "status": status,
            });
            let csr = serde_json::from_value(object).expect("a request");
            assert_eq!(due(&csr), expected, "{status}");
        };
        let condition = |kind: &str| json!({"type": kind, "status": "True", "lastUpdateTime": "1970-01-01T02:00:00Z"});
        check(json!({}), Some(3600 + PENDING));
        check(json!({"conditions": [condition("Denied")]}), Some(7200 + REFUSED));
        check(json!({"conditions": [condition("Approved"), condition("Failed")]}), Some(7200 + REFUSED));
        check(json!({"conditions": [condition("Approved")]}), None);
        check(json!({"conditions": [condition("Approved")], "certificate": "YQ=="}), Some(7200 + APPROVED));
    }
}
