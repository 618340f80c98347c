//! What the controllers of signing requests share: the cache, the signers' names, and what each signer's requests must look like.

use std::collections::BTreeSet;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kobune_pki::SigningRequest;

use crate::informer::Store;

/// The cache of signing requests.
pub type Requests = Store<CertificateSigningRequest>;

/// Signs certificates for clients of the API.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Signs certificates with which node agents are clients of the API.
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signs certificates of the nodes' own HTTP API.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// Signs anything, for requests from before signers had names.
pub const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// Whether a request has this condition.
pub fn has_condition(csr: &CertificateSigningRequest, kind: &str) -> bool {
    let conditions = csr.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

/// Whether somebody has approved or denied a request.
pub fn decided(csr: &CertificateSigningRequest) -> bool {
    has_condition(csr, "Approved") || has_condition(csr, "Denied")
}

/// Whether usages are exactly those, `key encipherment` being left to RSA keys.
fn match_usages(usages: &[String], last: &str) -> Result<(), String> {
    let given: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    let short = BTreeSet::from(["digital signature", last]);
    let long = BTreeSet::from(["digital signature", "key encipherment", last]);
    if given == short || given == long {
        return Ok(());
    }
    let mut names: Vec<&str> = long.into_iter().collect();
    names.sort_unstable();
    Err(format!("usages did not match [{}]", names.join(" ")))
}

fn check_node_subject(request: &SigningRequest) -> Result<(), String> {
    if !request.subject.common_name.starts_with("system:node:") {
        return Err("subject common name does not begin with system:node:".to_owned());
    }
    Ok(())
}

fn refuse(given: bool, what: &str) -> Result<(), String> {
    if given { Err(format!("{what} subjectAltNames are not allowed")) } else { Ok(()) }
}

fn check_organization(request: &SigningRequest) -> Result<(), String> {
    if request.subject.organizations != ["system:nodes"] {
        return Err("subject organization is not system:nodes".to_owned());
    }
    Ok(())
}

/// Whether a request is for a node agent's client certificate.
pub fn check_kubelet_client(request: &SigningRequest, usages: &[String]) -> Result<(), String> {
    check_organization(request)?;
    refuse(!request.dns_names.is_empty(), "DNS")?;
    refuse(!request.email_addresses.is_empty(), "Email")?;
    refuse(!request.ip_addresses.is_empty(), "IP")?;
    refuse(!request.uris.is_empty(), "URI")?;
    check_node_subject(request)?;
    match_usages(usages, "client auth")
}

/// Whether a request is for the certificate of a node's HTTP API.
pub fn check_kubelet_serving(request: &SigningRequest, usages: &[String]) -> Result<(), String> {
    check_organization(request)?;
    if request.dns_names.is_empty() && request.ip_addresses.is_empty() {
        return Err("DNS or IP subjectAltName is required".to_owned());
    }
    refuse(!request.email_addresses.is_empty(), "Email")?;
    refuse(!request.uris.is_empty(), "URI")?;
    match_usages(usages, "server auth")?;
    check_node_subject(request)
}

/// Whether usages are those of a client certificate.
pub fn check_client(usages: &[String]) -> Result<(), String> {
    let optional = ["digital signature", "key encipherment", "client auth"];
    if let Some(other) = usages.iter().find(|usage| !optional.contains(&usage.as_str())) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    if !usages.iter().any(|usage| usage == "client auth") {
        return Err("missing required usage for client certificate: client auth".to_owned());
    }
    Ok(())
}

#[cfg(test)]
pub mod testing {
    //! Signing requests for tests.

    use k8s_openapi::ByteString;
    use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    /// The PEM of a request.
    pub fn pem(common_name: &str, organizations: &[&str], names: &[&str]) -> String {
        let mut parameters = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
            .expect("names are good");
        let mut name = DistinguishedName::new();
        for organization in organizations {
            name.push(DnType::OrganizationName, *organization);
        }
        name.push(DnType::CommonName, common_name);
        parameters.distinguished_name = name;
        let key = KeyPair::generate().expect("a key");
        parameters.serialize_request(&key).and_then(|request| request.pem()).expect("a request")
    }

    /// The object with a request.
    pub fn csr(signer: &str, usages: &[&str], pem: &str) -> CertificateSigningRequest {
        CertificateSigningRequest {
            spec: CertificateSigningRequestSpec {
                request: ByteString(pem.as_bytes().to_vec()),
                signer_name: signer.to_owned(),
                usages: Some(usages.iter().map(|usage| (*usage).to_owned()).collect()),
                ..CertificateSigningRequestSpec::default()
            },
            ..CertificateSigningRequest::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::pem;
    use super::*;

    fn texts(usages: &[&str]) -> Vec<String> {
        usages.iter().map(|usage| (*usage).to_owned()).collect()
    }

    #[test]
    fn requests_of_nodes() {
        let check = |subject: (&str, &[&str]), names: &[&str], usages: &[&str], client: &str, serving: &str| {
            let request = SigningRequest::from_pem(pem(subject.0, subject.1, names).as_bytes()).unwrap();
            let usages = texts(usages);
            assert_eq!(check_kubelet_client(&request, &usages).err().unwrap_or_default(), client);
            assert_eq!(check_kubelet_serving(&request, &usages).err().unwrap_or_default(), serving);
        };
        let node = ("system:node:a", &["system:nodes"] as &[&str]);
        let (client, server) =
            (["digital signature", "client auth"], ["digital signature", "key encipherment", "server auth"]);
        check(node, &[], &client, "", "DNS or IP subjectAltName is required");
        check(node, &["10.0.0.1"], &server, "IP subjectAltNames are not allowed", "");
        check(
            node,
            &["a"],
            &client,
            "DNS subjectAltNames are not allowed",
            "usages did not match [digital signature key encipherment server auth]",
        );
        let organization = "subject organization is not system:nodes";
        check(("system:node:a", &["system:masters"]), &["a"], &client, organization, organization);
        let name = "subject common name does not begin with system:node:";
        check(("jane", &["system:nodes"]), &[], &client, name, "DNS or IP subjectAltName is required");
    }

    #[test]
    fn usages_of_clients() {
        let check = |usages: &[&str], expected: &str| {
            assert_eq!(check_client(&texts(usages)).err().unwrap_or_default(), expected, "{usages:?}");
        };
        check(&["client auth"], "");
        check(&["client auth", "digital signature", "key encipherment"], "");
        check(&["digital signature"], "missing required usage for client certificate: client auth");
        check(&["client auth", "server auth"], "invalid usage for client certificate: server auth");
    }
}
