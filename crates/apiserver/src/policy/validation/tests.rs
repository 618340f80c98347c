//! Policies and bindings with their mistakes, in upstream's words.

use kobune_kinds::Catalogue;
use serde_json::json;

use super::*;

fn check(kind: &str, spec: Value, expected: &[&str]) {
    let catalogue = Catalogue::builtin();
    let kind = catalogue.by_kind("admissionregistration.k8s.io/v1", kind).expect("a kind");
    let mut object = json!({"metadata": {"name": "p.example.com"}, "spec": spec});
    kind.default(&mut object);
    let errors: Vec<String> = validate(kind, &object).iter().map(FieldError::to_string).collect();
    assert_eq!(errors, expected, "{object}");
}

fn policy_with(fields: Value) -> Value {
    let mut spec = json!({
        "matchConstraints": {"resourceRules": [{
            "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"],
        }]},
    });
    spec.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
    spec
}

#[test]
fn policies() {
    let kind = "ValidatingAdmissionPolicy";
    check(kind, policy_with(json!({"validations": [{"expression": "object.spec.x > 1", "reason": "Forbidden"}]})), &[]);
    check(
        kind,
        json!({"failurePolicy": "Maybe"}),
        &[
            "spec.failurePolicy: Unsupported value: \"Maybe\": supported values: \"Fail\", \"Ignore\"",
            "spec.matchConstraints: Required value",
            "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
            "spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item",
        ],
    );
    check(
        kind,
        policy_with(json!({
            "variables": [{"name": "a", "expression": "1"}, {"name": "b-c", "expression": "variables.a + 'x'"}],
            "validations": [{"expression": "variables.a"}, {"expression": "params.x == 1", "message": "a\nb"}],
        })),
        &[
            "spec.variables[1].name: Invalid value: \"b-c\": name is not a valid CEL identifier",
            "spec.variables[1].expression: Invalid value: \"variables.a + 'x'\": compilation failed: ERROR: <input>:1:13: found no matching overload for '_+_' applied to '(int, string)'\n | variables.a + 'x'\n | ............^",
            "spec.validations[0].expression: Invalid value: \"variables.a\": must evaluate to bool but got int",
            "spec.validations[1].expression: Invalid value: \"params.x == 1\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'params' (in container '')\n | params.x == 1\n | ^",
            "spec.validations[1].message: Invalid value: \"a\\nb\": message must not contain line breaks",
        ],
    );
    check(
        kind,
        policy_with(json!({
            "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "matchConditions": [{"name": "a", "expression": "params.data.a == 'x'"}, {"name": "a", "expression": ""}],
            "auditAnnotations": [{"key": "k", "valueExpression": "1"}],
        })),
        &[
            "spec.matchConditions[1].expression: Required value",
            "spec.matchConditions[1].name: Duplicate value: \"a\"",
            "spec.auditAnnotations[0].valueExpression: Invalid value: \"1\": must evaluate to one of [string null] but got int",
        ],
    );
}

#[test]
fn mutations() {
    let kind = "MutatingAdmissionPolicy";
    let apply = "Object{metadata: Object.metadata{labels: {'a': 'b'}}}";
    check(
        kind,
        policy_with(json!({"reinvocationPolicy": "Never", "mutations": [
            {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": apply}},
            {"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'add', path: '/a', value: 1}]"}},
        ]})),
        &[],
    );
    check(
        kind,
        policy_with(json!({"reinvocationPolicy": "Sometimes", "mutations": [
            {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "1"}},
            {"patchType": "JSONPatch", "applyConfiguration": {"expression": "1"}},
        ]})),
        &[
            "spec.reinvocationPolicy: Unsupported value: \"Sometimes\": supported values: \"IfNeeded\", \"Never\"",
            "spec.mutations[0].applyConfiguration.expression: Invalid value: \"1\": must evaluate to Object but got int",
            "spec.mutations[1].applyConfiguration: Invalid value: {\"expression\":\"1\"}: must not be specified when patchType is not ApplyConfiguration",
            "spec.mutations[1].jsonPatch: Required value: must be specified when patchType is JSONPatch",
        ],
    );
}

#[test]
fn bindings() {
    let kind = "ValidatingAdmissionPolicyBinding";
    check(kind, json!({"policyName": "a", "validationActions": ["Deny"]}), &[]);
    check(
        kind,
        json!({"paramRef": {"name": "a", "selector": {}}, "validationActions": ["Deny", "Warn", "No"]}),
        &[
            "spec.policyName: Required value",
            "spec.paramRef.name: Forbidden: name and selector are mutually exclusive",
            "spec.paramRef.selector: Forbidden: name and selector are mutually exclusive",
            "spec.paramRef.parameterNotFoundAction: Required value",
            "spec.validationActions[2]: Unsupported value: \"No\": supported values: \"Audit\", \"Deny\", \"Warn\"",
            "spec.validationActions: Invalid value: [\"Deny\",\"Warn\",\"No\"]: must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)",
        ],
    );
}
