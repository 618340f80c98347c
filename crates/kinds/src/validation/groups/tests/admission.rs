//! admissionregistration.k8s.io.

use serde_json::{Value, json};

use super::{change, create};

const ADMISSION: &str = "admissionregistration.k8s.io/v1";

fn hook(changes: &Value) -> Value {
    let mut hook = json!({"name": "a.b.c", "admissionReviewVersions": ["v1"], "sideEffects": "None",
        "clientConfig": {"url": "https://x.io/y"},
        "rules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}]});
    for (field, value) in changes.as_object().into_iter().flatten() {
        hook[field] = value.clone();
    }
    json!({"webhooks": [hook]})
}

#[test]
fn webhooks() {
    let check = |changes: Value, expected: &[&str]| {
        for kind in ["ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"] {
            create(ADMISSION, kind, hook(&changes), expected);
        }
    };
    check(json!({}), &[]);
    check(
        json!({"name": "a.b", "sideEffects": "Some", "timeoutSeconds": 31, "admissionReviewVersions": ["v3"]}),
        &[
            "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots",
            "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
            "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
            "webhooks[0].admissionReviewVersions: Invalid value: [\"v3\"]: must include at least one of v1, v1beta1",
        ],
    );
    check(
        json!({"clientConfig": {}}),
        &["webhooks[0].clientConfig: Required value: exactly one of url or service is required"],
    );
    check(
        json!({"clientConfig": {"url": "http://u@/?q#f"}}),
        &[
            "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
            "webhooks[0].clientConfig.url: Invalid value: \"\": host must be specified; desired format: https://host[/path]",
            "webhooks[0].clientConfig.url: Invalid value: \"u\": user information is not permitted in the URL",
            "webhooks[0].clientConfig.url: Invalid value: \"f\": fragments are not permitted in the URL",
            "webhooks[0].clientConfig.url: Invalid value: \"q\": query parameters are not permitted in the URL",
        ],
    );
    check(
        json!({"clientConfig": {"service": {"name": "s", "path": "é//b"}}}),
        &[
            "webhooks[0].clientConfig.service.namespace: Required value",
            "webhooks[0].clientConfig.service.path: Invalid value: \"é//b\": must start with a '/'",
            "webhooks[0].clientConfig.service.path: Invalid value: \"é//b\": segment[0] may not be empty",
            "webhooks[0].clientConfig.service.path: Invalid value: \"é//b\": segment[1] may not be empty",
        ],
    );
    check(
        json!({"rules": [{"operations": ["CREATE", "*"], "apiGroups": [""], "apiVersions": [""], "resources": ["pods/*", "pods/status", "*", "pods"]}]}),
        &[
            "webhooks[0].rules[0].operations: Invalid value: [\"CREATE\",\"*\"]: if '*' is present, must not specify other operations",
            "webhooks[0].rules[0].apiVersions[0]: Required value",
            "webhooks[0].rules[0].resources[1]: Invalid value: \"pods/status\": if 'pods/*' is present, must not specify pods/status",
            "webhooks[0].rules[0].resources: Invalid value: [\"pods/*\",\"pods/status\",\"*\",\"pods\"]: if '*' is present, must not specify other resources without subresources",
        ],
    );
    check(
        json!({"matchConditions": [{"name": "a", "expression": " "}, {"name": "a", "expression": "true"}]}),
        &[
            "webhooks[0].matchConditions[0].expression: Required value",
            "webhooks[0].matchConditions[1].name: Duplicate value: \"a\"",
        ],
    );
    // What was allowed once may stay.
    let old = hook(&json!({"sideEffects": "Some"}));
    change(ADMISSION, "ValidatingWebhookConfiguration", None, old.clone(), old, &[]);
}

fn policy(changes: &Value) -> Value {
    let mut spec = json!({
        "matchConstraints": {"resourceRules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]},
        "validations": [{"expression": "true"}]});
    for (field, value) in changes.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    json!({"metadata": {"name": "p"}, "spec": spec})
}

#[test]
fn policies() {
    let check =
        |changes: Value, expected: &[&str]| create(ADMISSION, "ValidatingAdmissionPolicy", policy(&changes), expected);
    check(json!({}), &[]);
    check(
        json!({"validations": []}),
        &[
            "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
            "spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item",
        ],
    );
    check(
        json!({"validations": [{"expression": "", "message": "a\nb", "reason": "Odd"}], "matchConstraints": {},
            "variables": [{"name": "for", "expression": "1"}], "paramKind": {"apiVersion": "a/b/c"}}),
        &[
            "spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
            "spec.paramKind.kind: Required value",
            "spec.matchConstraints.resourceRules: Required value",
            "spec.variables[0].name: Invalid value: \"for\": name is not a valid CEL identifier",
            "spec.validations[0].expression: Required value: expression is not specified",
            "spec.validations[0].message: Invalid value: \"a\\nb\": message must not contain line breaks",
            "spec.validations[0].reason: Unsupported value: \"Odd\": supported values: \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\", \"Unauthorized\"",
        ],
    );
    let mutating = |mutation: Value| {
        let changes = json!({"validations": null, "reinvocationPolicy": "Never", "mutations": [mutation]});
        policy(&changes)
    };
    let patch = json!({"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}});
    create(ADMISSION, "MutatingAdmissionPolicy", mutating(patch), &[]);
    create(
        ADMISSION,
        "MutatingAdmissionPolicy",
        mutating(json!({"patchType": "ApplyConfiguration"})),
        &[
            "spec.mutations[0].applyConfiguration: Required value: must be specified when patchType is ApplyConfiguration",
        ],
    );
}

#[test]
fn bindings() {
    let check = |spec: Value, expected: &[&str]| {
        create(ADMISSION, "ValidatingAdmissionPolicyBinding", json!({"spec": spec}), expected);
    };
    check(json!({"policyName": "p", "validationActions": ["Deny"]}), &[]);
    check(
        json!({"paramRef": {"parameterNotFoundAction": "Skip"}, "validationActions": ["Deny", "Warn", "Deny"]}),
        &[
            "spec.policyName: Required value",
            "spec.paramRef: Required value: one of name or selector must be specified",
            "spec.paramRef.parameterNotFoundAction: Unsupported value: \"Skip\": supported values: \"Deny\", \"Allow\"",
            "spec.validationActions[2]: Duplicate value: \"Deny\"",
            "spec.validationActions: Invalid value: [\"Deny\",\"Warn\",\"Deny\"]: must not contain both Deny and Warn \
             (repeating the same validation failure information in the API response and headers serves no purpose)",
        ],
    );
    change(
        ADMISSION,
        "ValidatingAdmissionPolicy",
        Some("status"),
        policy(&json!({})),
        json!({"metadata": {"name": "p"}, "status": {"typeChecking": {"expressionWarnings": [{"fieldRef": " "}]}}}),
        &[
            "status.typeChecking.expressionWarnings[0].warning: Required value",
            "status.typeChecking.expressionWarnings[0].fieldRef: Required value",
        ],
    );
}
