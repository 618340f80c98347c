//! Signs the approved requests of upstream's signers with the cluster's authority.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use kobune_pki::{Authority, SigningRequest, Validity};
use kube::api::{Api, PostParams};

use crate::certificates::{
    CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY, Requests, check_client, check_kubelet_client,
    check_kubelet_serving, has_condition,
};
use crate::clock;
use crate::context::{Context, enqueue_changes};
use crate::object::{Cached, ObjectKey};
use crate::queue::{Doing, PassError, Queue, Revisit, is_conflict, is_not_found};

/// How far before now a certificate begins, for peers whose clocks are behind.
const BACKDATE: i64 = 5 * 60;
/// The shortest life of a certificate, in seconds.
const SHORTEST: i64 = 10 * 60;
/// From this life on, the backdating is taken off the end: it is a hundredth of it.
const LONG: i64 = 8 * 60 * 60;

/// Starts the controller.
pub fn start(context: &Arc<Context>, requests: &Arc<Requests>, authority: Arc<Authority>) {
    let queue = Arc::<Queue>::default();
    enqueue_changes(&**requests, &queue);
    let (own, known, synced) = (context.clone(), requests.clone(), requests.clone());
    let ready = async move { synced.synced().await };
    context.run_controller("csrsigning", queue, ready, move |key| {
        pass(own.clone(), known.clone(), authority.clone(), key)
    });
}

/// What is to be done about a request.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// It is not approved, has its answer, or is another signer's.
    Nothing,
    /// It is not what its signer signs, for this reason.
    Fail(String),
    /// It gets its certificate.
    Sign(Box<SigningRequest>),
}

fn plan(csr: &CertificateSigningRequest) -> Plan {
    let answered = csr.status.as_ref().and_then(|status| status.certificate.as_ref()).is_some_and(|c| !c.0.is_empty());
    if answered || !has_condition(csr, "Approved") || has_condition(csr, "Denied") || has_condition(csr, "Failed") {
        return Plan::Nothing;
    }
    let usages = csr.spec.usages.as_deref().unwrap_or_default();
    let request = SigningRequest::from_pem(&csr.spec.request.0);
    let request = match (csr.spec.signer_name.as_str(), request) {
        (CLIENT | KUBELET_CLIENT | KUBELET_SERVING | LEGACY, Ok(request)) => request,
        (CLIENT | KUBELET_CLIENT | KUBELET_SERVING | LEGACY, Err(error)) => return Plan::Fail(error.to_string()),
        _ => return Plan::Nothing,
    };
    let checked = match csr.spec.signer_name.as_str() {
        KUBELET_CLIENT => check_kubelet_client(&request, usages),
        KUBELET_SERVING => check_kubelet_serving(&request, usages),
        CLIENT => check_client(usages),
        _ => Ok(()),
    };
    match checked {
        Ok(()) => Plan::Sign(Box::new(request)),
        Err(problem) => Plan::Fail(problem),
    }
}

/// When a certificate begins and ends that is asked for `wanted` seconds at `now`.
fn validity(wanted: Option<i32>, longest: Duration, now: i64) -> Validity {
    let longest = i64::try_from(longest.as_secs()).unwrap_or(i64::MAX / 2);
    let seconds = match wanted {
        None => longest,
        Some(seconds) => i64::from(seconds).max(SHORTEST).min(longest),
    };
    let taken_off = if seconds < LONG { 0 } else { BACKDATE };
    Validity { not_before: now - BACKDATE, not_after: now + seconds - taken_off }
}

async fn pass(
    context: Arc<Context>,
    requests: Arc<Requests>,
    authority: Arc<Authority>,
    key: ObjectKey,
) -> Result<Revisit, PassError> {
    let Some(csr) = requests.get(&key).filter(|csr| !csr.deleting()) else { return Ok(None) };
    let mut answered = (*csr).clone();
    let status = answered.status.get_or_insert_default();
    match plan(&csr) {
        Plan::Nothing => return Ok(None),
        Plan::Fail(message) => {
            status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
                type_: "Failed".to_owned(),
                status: "True".to_owned(),
                reason: Some("SignerValidationFailure".to_owned()),
                message: Some(message),
                ..CertificateSigningRequestCondition::default()
            });
        }
        Plan::Sign(request) => {
            let usages: Vec<&str> = csr.spec.usages.iter().flatten().map(String::as_str).collect();
            let longest = context.config.cluster_signing_duration;
            let validity = validity(csr.spec.expiration_seconds, longest, clock::now().as_second());
            let certificate = authority.sign_request(&request, &usages, validity).map_err(|error| {
                PassError::Object { what: format!("cannot sign the request {}: {error}", key.name) }
            })?;
            status.certificate = Some(ByteString(certificate.into_bytes()));
        }
    }
    let api: Api<CertificateSigningRequest> = Api::all(context.client.clone());
    match api.replace_status(&key.name, &PostParams::default(), &answered).await {
        Ok(written) => requests.wrote(written),
        // The watch tells of what is there now.
        Err(error) if is_conflict(&error) || is_not_found(&error) => {}
        Err(error) => return Err(error).doing("answering a signing request"),
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::testing::{csr, pem};

    fn with_conditions(mut csr: CertificateSigningRequest, conditions: &[&str]) -> CertificateSigningRequest {
        let conditions = conditions.iter().map(|kind| CertificateSigningRequestCondition {
            type_: (*kind).to_owned(),
            status: "True".to_owned(),
            ..CertificateSigningRequestCondition::default()
        });
        csr.status.get_or_insert_default().conditions = Some(conditions.collect());
        csr
    }

    #[test]
    fn plans() {
        let check = |signer: &str, usages: &[&str], conditions: &[&str], expected: &str| {
            let csr = with_conditions(csr(signer, usages, &pem("jane", &["dev"], &[])), conditions);
            let found = match plan(&csr) {
                Plan::Nothing => "nothing".to_owned(),
                Plan::Fail(problem) => problem,
                Plan::Sign(request) => format!("sign {}", request.subject.common_name),
            };
            assert_eq!(found, expected, "{signer} {conditions:?}");
        };
        check(CLIENT, &["client auth"], &["Approved"], "sign jane");
        check(CLIENT, &["client auth"], &[], "nothing");
        check(CLIENT, &["client auth"], &["Approved", "Failed"], "nothing");
        check(CLIENT, &["client auth"], &["Denied"], "nothing");
        check("example.com/mine", &["client auth"], &["Approved"], "nothing");
        check(KUBELET_CLIENT, &["client auth"], &["Approved"], "subject organization is not system:nodes");
        check(CLIENT, &["server auth"], &["Approved"], "invalid usage for client certificate: server auth");
    }

    #[test]
    fn lives() {
        let check = |wanted: Option<i32>, expected: i64| {
            let found = validity(wanted, Duration::from_secs(365 * 24 * 3600), 1_000_000);
            assert_eq!((found.not_before, found.not_after), (1_000_000 - 300, 1_000_000 + expected), "{wanted:?}");
        };
        check(None, 365 * 24 * 3600 - 300);
        check(Some(3600), 3600);
        check(Some(1), 600);
        check(Some(i32::MAX), 365 * 24 * 3600 - 300);
    }
}
