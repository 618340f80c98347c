//! certificates.k8s.io.

use base64::Engine as _;
use serde_json::{Value, json};

use super::{change, create};

const CERTIFICATES: &str = "certificates.k8s.io/v1";

fn encoded(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn request(spec: Value, status: Value) -> Value {
    let mut object = json!({"metadata": {"name": "A:b"}, "spec": {"request": encoded("request"),
        "signerName": "example.com/s", "usages": ["client auth"]}, "status": status});
    for (field, value) in spec.as_object().into_iter().flatten() {
        object["spec"][field] = value.clone();
    }
    object
}

#[test]
fn requests() {
    let check = |spec: Value, expected: &[&str]| {
        create(CERTIFICATES, "CertificateSigningRequest", request(spec, json!({})), expected);
    };
    check(json!({}), &[]);
    check(
        json!({"usages": ["client auth", "client auth"], "signerName": "kubernetes.io/legacy-unknown", "expirationSeconds": 599}),
        &[
            "spec.usages[1]: Duplicate value: \"client auth\"",
            "spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed via this API version",
            "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)",
        ],
    );
    check(
        json!({"signerName": "a"}),
        &[
            "spec.signerName: Invalid value: \"a\": must be a fully qualified domain and path of the form 'example.com/signer-name'",
        ],
    );
    check(
        json!({"signerName": "a/b"}),
        &["spec.signerName: Invalid value: \"a\": should be a domain with at least two segments separated by dots"],
    );
}

#[test]
fn endpoints() {
    let check = |subresource: Option<&str>, old: Value, new: Value, expected: &[&str]| {
        let (old, new) = (request(json!({}), old), request(json!({}), new));
        change(CERTIFICATES, "CertificateSigningRequest", subresource, old, new, expected);
    };
    let decided = |kind: &str| json!({"conditions": [{"type": kind, "status": "True"}]});
    check(Some("approval"), json!({}), decided("Approved"), &[]);
    check(
        Some("status"),
        json!({}),
        decided("Approved"),
        &["status.conditions: Forbidden: updates may not add a condition of type \"Approved\""],
    );
    check(
        Some("approval"),
        decided("Approved"),
        json!({}),
        &["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""],
    );
    check(
        Some("approval"),
        json!({}),
        json!({"conditions": [{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "False"}]}),
        &[
            "status.conditions[1].status: Unsupported value: \"False\": supported values: \"True\"",
            "status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive",
        ],
    );
    let issued = |text: &str| json!({"certificate": encoded(text)});
    check(Some("status"), json!({}), issued("a"), &[]);
    check(
        Some("status"),
        issued("a"),
        issued("b"),
        &["status.certificate: Forbidden: updates may not modify existing certificate content"],
    );
    check(
        Some("approval"),
        json!({}),
        issued("a"),
        &["status.certificate: Forbidden: updates may not set certificate content"],
    );
}
