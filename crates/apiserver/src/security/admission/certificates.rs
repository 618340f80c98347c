//! CertificateApproval, CertificateSigning and CertificateSubjectRestriction: who may decide about a signing request, who may
//! answer it, and which group nobody gets this way.

use base64::Engine as _;
use kobune_pki::SigningRequest;
use serde_json::Value;

use super::{Operation, Request};
use crate::security::user::MASTERS;
use crate::security::{Attributes, Refusal};

const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// A right on a signer, under its own name or under that of all signers of its domain: one of the two is enough.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Right {
    verb: &'static str,
    names: [String; 2],
}

impl Right {
    pub(super) fn questions(&self) -> impl Iterator<Item = Attributes<'_>> {
        self.names.iter().map(|name| Attributes {
            verb: self.verb,
            group: "certificates.k8s.io",
            version: "*",
            resource: "signers",
            name,
            ..Attributes::default()
        })
    }

    pub(super) fn refusal(&self, request: &Request<'_>, object: &Value) -> Refusal {
        let why = format!("user not permitted to {} requests with signerName {:?}", self.verb, self.names[0]);
        request.forbid(Some(object), why)
    }
}

/// The right that a write needs, if it needs one.
pub(super) fn validate(request: &Request<'_>, object: &Value, old: Option<&Value>) -> Result<Option<Right>, Refusal> {
    // Rights are those on the request as it is stored: nobody gets past by naming another signer.
    let signer = signer_name(old.unwrap_or(object));
    let needs = |verb| {
        let domain = signer.split('/').next().unwrap_or_default();
        Ok(Some(Right { verb, names: [signer.to_owned(), format!("{domain}/*")] }))
    };
    match (request.operation, request.subresource) {
        (Operation::Update, "approval") => needs("approve"),
        (Operation::Update, "status") => {
            let answers = |object: Option<&Value>| {
                let status = object.map_or(&Value::Null, |object| &object["status"]);
                (status["certificate"].clone(), status["conditions"].clone())
            };
            if answers(Some(object)) == answers(old) { Ok(None) } else { needs("sign") }
        }
        (Operation::Create, "") if signer == CLIENT_SIGNER && asks_for_masters(object) => {
            Err(request
                .forbid(Some(object), format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed")))
        }
        _ => Ok(None),
    }
}

fn signer_name(object: &Value) -> &str {
    object.pointer("/spec/signerName").and_then(Value::as_str).unwrap_or_default()
}

/// Whether the certificate would be for the group that may do everything. What is no request has been refused before.
fn asks_for_masters(object: &Value) -> bool {
    let text = object.pointer("/spec/request").and_then(Value::as_str).unwrap_or_default();
    let Ok(pem) = base64::engine::general_purpose::STANDARD.decode(text) else { return false };
    SigningRequest::from_pem(&pem).is_ok_and(|request| request.subject.organizations.iter().any(|one| one == MASTERS))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::security::User;

    #[test]
    fn signers_decide() {
        let user = User::new("jane", &[]);
        let check = |subresource: &str, rights: &[(&str, &str)], new: Value, expected: Option<&str>| {
            let request = Request {
                operation: Operation::Update,
                group: "certificates.k8s.io",
                version: "v1",
                resource: "certificatesigningrequests",
                subresource,
                kind: "CertificateSigningRequest",
                namespace: "",
                name: "a",
                user: &user,
                dry_run: false,
                trail: None,
            };
            let old = json!({"spec": {"signerName": "example.com/web"}, "status": {}});
            let mut object = json!({"spec": {"signerName": "free.example/x"}});
            object["status"] = new;
            let answer = validate(&request, &object, Some(&old)).and_then(|right| match right {
                Some(right) if !right.questions().any(|asked| rights.contains(&(asked.verb, asked.name))) => {
                    Err(right.refusal(&request, &object))
                }
                _ => Ok(()),
            });
            assert_eq!(answer.err().map(|refusal| refusal.message).as_deref(), expected, "{subresource} {rights:?}");
        };
        let approved = json!({"conditions": [{"type": "Approved"}]});
        let no = |what: &str| {
            format!(
                "certificatesigningrequests.certificates.k8s.io \"a\" is forbidden: user not permitted to {what} requests with signerName \"example.com/web\""
            )
        };
        check("approval", &[("approve", "example.com/web")], approved.clone(), None);
        check("approval", &[("approve", "example.com/*")], approved.clone(), None);
        check("approval", &[("approve", "free.example/x")], approved, Some(&no("approve")));
        check("status", &[], json!({"certificate": "YQ=="}), Some(&no("sign")));
        check("status", &[("sign", "example.com/*")], json!({"certificate": "YQ=="}), None);
        check("status", &[], json!({}), None);
        check("", &[], json!({}), None);
    }
}
