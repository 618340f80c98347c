//! Approves the client certificates of node agents: their first one, and later ones for themselves, where the sender has the
//! right to have it approved (`create certificatesigningrequests/nodeclient` and `…/selfnodeclient`).
//!
//! The certificate of a node's HTTP API is approved too, where upstream leaves that to people or add-ons: a node may have
//! one for its own name and for the addresses that its Node says it has. Nobody is on site to approve by hand.

use std::sync::Arc;

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::api::core::v1::Node;
use kobune_pki::SigningRequest;
use kube::api::{Api, PostParams};

use crate::certificates::{
    KUBELET_CLIENT, KUBELET_SERVING, Requests, check_kubelet_client, check_kubelet_serving, decided,
};
use crate::context::{Context, enqueue_changes};
use crate::object::{Cached, ObjectKey};
use crate::queue::{Doing, PassError, Queue, Revisit, is_conflict, is_not_found};

/// Starts the controller.
pub fn start(context: &Arc<Context>, requests: &Arc<Requests>) {
    let queue = Arc::<Queue>::default();
    enqueue_changes(&**requests, &queue);
    // A request that came before the node said its addresses is looked at again.
    let (waiting, wake) = (requests.clone(), queue.clone());
    context.caches.nodes.on_change(move |before, after| {
        let addresses = |node: Option<&Arc<Node>>| node.and_then(|node| node.status.as_ref()?.addresses.clone());
        if addresses(before) != addresses(after) {
            waiting.all().iter().filter(|csr| !decided(csr)).for_each(|csr| wake.add(csr.key()));
        }
    });
    let (own, known, synced) = (context.clone(), requests.clone(), requests.clone());
    let nodes = context.caches.nodes.clone();
    let ready = async move {
        synced.synced().await;
        nodes.synced().await;
    };
    context.run_controller("csrapproving", queue, ready, move |key| pass(own.clone(), known.clone(), key));
}

/// A right that lets a request be approved, and what is said then.
#[derive(Debug, PartialEq, Eq)]
struct Rule {
    subresource: &'static str,
    message: &'static str,
}

/// The rules that apply to a request, the first one that its sender has the right for being used.
fn rules(csr: &CertificateSigningRequest, request: &SigningRequest) -> Vec<Rule> {
    let usages = csr.spec.usages.as_deref().unwrap_or_default();
    if csr.spec.signer_name != KUBELET_CLIENT || check_kubelet_client(request, usages).is_err() {
        return Vec::new();
    }
    let mut rules = Vec::new();
    if csr.spec.username.as_deref() == Some(request.subject.common_name.as_str()) {
        rules.push(Rule {
            subresource: "selfnodeclient",
            message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
        });
    }
    rules.push(Rule {
        subresource: "nodeclient",
        message: "Auto approving kubelet client certificate after SubjectAccessReview.",
    });
    rules
}

async fn pass(context: Arc<Context>, requests: Arc<Requests>, key: ObjectKey) -> Result<Revisit, PassError> {
    let Some(csr) = requests.get(&key).filter(|csr| !csr.deleting() && !decided(csr)) else { return Ok(None) };
    // What does not parse was written before validation was this strict; nobody approves it here.
    let Ok(request) = SigningRequest::from_pem(&csr.spec.request.0) else { return Ok(None) };
    for rule in rules(&csr, &request) {
        if allowed(&context, &csr, rule.subresource).await? {
            approve(&context, &requests, &csr, rule.message).await?;
            return Ok(None);
        }
    }
    if let Some(node) = serving_node(&csr, &request) {
        // The addresses are written by the node before it asks; a request that names others waits for a person.
        let known = context.caches.nodes.get(&ObjectKey::new("", node));
        if known.is_some_and(|known| names_are_of(&known, &request)) {
            approve(
                &context,
                &requests,
                &csr,
                "Auto approving kubelet serving certificate for the node's own addresses.",
            )
            .await?;
        }
    }
    Ok(None)
}

/// The node that asks for the certificate of its own HTTP API.
fn serving_node<'r>(csr: &CertificateSigningRequest, request: &'r SigningRequest) -> Option<&'r str> {
    let usages = csr.spec.usages.as_deref().unwrap_or_default();
    let fits = csr.spec.signer_name == KUBELET_SERVING && check_kubelet_serving(request, usages).is_ok();
    let user = request.subject.common_name.as_str();
    (fits && csr.spec.username.as_deref() == Some(user)).then(|| user.strip_prefix("system:node:")).flatten()
}

/// Whether every name of a request is the node's name or an address that the node says is its own.
fn names_are_of(node: &Node, request: &SigningRequest) -> bool {
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    let own: Vec<&str> = addresses
        .into_iter()
        .flatten()
        .map(|address| address.address.as_str())
        .chain(node.metadata.name.as_deref())
        .collect();
    request.dns_names.iter().all(|name| own.contains(&name.as_str()))
        && request.ip_addresses.iter().all(|address| own.contains(&address.to_string().as_str()))
}

async fn approve(
    context: &Context,
    requests: &Requests,
    csr: &CertificateSigningRequest,
    message: &str,
) -> Result<(), PassError> {
    let mut approved = csr.clone();
    let condition = CertificateSigningRequestCondition {
        type_: "Approved".to_owned(),
        status: "True".to_owned(),
        reason: Some("AutoApproved".to_owned()),
        message: Some(message.to_owned()),
        ..CertificateSigningRequestCondition::default()
    };
    approved.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
    let api: Api<CertificateSigningRequest> = Api::all(context.client.clone());
    let name = csr.metadata.name.as_deref().unwrap_or_default();
    match api.replace_subresource("approval", name, &PostParams::default(), &approved).await {
        Ok(written) => requests.wrote(written),
        // The watch tells of what is there now.
        Err(error) if is_conflict(&error) || is_not_found(&error) => {}
        Err(error) => return Err(error).doing("approving a signing request"),
    }
    Ok(())
}

/// Asks the API server whether the sender of a request has a right.
async fn allowed(context: &Context, csr: &CertificateSigningRequest, subresource: &str) -> Result<bool, PassError> {
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: csr.spec.username.clone(),
            uid: csr.spec.uid.clone(),
            groups: csr.spec.groups.clone(),
            extra: csr.spec.extra.clone(),
            resource_attributes: Some(ResourceAttributes {
                group: Some("certificates.k8s.io".to_owned()),
                resource: Some("certificatesigningrequests".to_owned()),
                subresource: Some(subresource.to_owned()),
                verb: Some("create".to_owned()),
                ..ResourceAttributes::default()
            }),
            non_resource_attributes: None,
        },
        ..SubjectAccessReview::default()
    };
    let api: Api<SubjectAccessReview> = Api::all(context.client.clone());
    let answer = api.create(&PostParams::default(), &review).await.doing("asking for a sender's rights")?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::testing::{csr, pem};

    #[test]
    fn rules_by_request() {
        let check = |sender: &str, signer: &str, usages: &[&str], expected: &[&str]| {
            let mut csr = csr(signer, usages, &pem("system:node:a", &["system:nodes"], &[]));
            csr.spec.username = Some(sender.to_owned());
            let request = SigningRequest::from_pem(&csr.spec.request.0).unwrap();
            let found: Vec<&str> = rules(&csr, &request).iter().map(|rule| rule.subresource).collect();
            assert_eq!(found, expected, "{sender} {signer} {usages:?}");
        };
        let usages = ["digital signature", "client auth"];
        check("system:node:a", KUBELET_CLIENT, &usages, &["selfnodeclient", "nodeclient"]);
        check("system:bootstrap:x", KUBELET_CLIENT, &usages, &["nodeclient"]);
        check("system:node:a", "kubernetes.io/kubelet-serving", &usages, &[]);
        check("system:node:a", KUBELET_CLIENT, &["server auth"], &[]);
    }

    #[test]
    fn serving_certificates_are_for_the_node_itself() {
        let node: Node =
            serde_json::from_value(serde_json::json!({"metadata": {"name": "a"}, "status": {"addresses": [
            {"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "a.example"}]}}))
            .unwrap();
        let check = |sender: &str, names: &[&str], expected: bool| {
            let usages = ["digital signature", "server auth"];
            let mut csr = csr(KUBELET_SERVING, &usages, &pem("system:node:a", &["system:nodes"], names));
            csr.spec.username = Some(sender.to_owned());
            let request = SigningRequest::from_pem(&csr.spec.request.0).unwrap();
            let approved = serving_node(&csr, &request) == Some("a") && names_are_of(&node, &request);
            assert_eq!(approved, expected, "{sender} {names:?}");
        };
        check("system:node:a", &["a", "192.0.2.1"], true);
        check("system:node:a", &["a.example"], true);
        check("system:node:a", &["a", "192.0.2.2"], false);
        check("system:node:a", &["b"], false);
        check("system:node:b", &["a"], false);
        check("system:node:a", &[], false);
    }
}
