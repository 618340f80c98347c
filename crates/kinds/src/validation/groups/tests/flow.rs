//! flowcontrol.apiserver.k8s.io.

use serde_json::{Value, json};

use super::create;

const FLOW: &str = "flowcontrol.apiserver.k8s.io/v1";

#[test]
fn schemas() {
    let schema = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let check = |object: Value, expected: &[&str]| create(FLOW, "FlowSchema", object, expected);
    let level = json!({"name": "l"});
    let rule = json!({"subjects": [{"kind": "User", "user": {"name": "u"}}],
        "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["*"]}]});
    check(schema("a", json!({"priorityLevelConfiguration": level, "rules": [rule]})), &[]);
    check(
        schema("a", json!({"matchingPrecedence": 1, "priorityLevelConfiguration": {}, "rules": [{}]})),
        &[
            "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
            "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
            "spec.rules[0].subjects: Required value: subjects must contain at least one value",
            "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
        ],
    );
    check(
        schema(
            "a",
            json!({"priorityLevelConfiguration": level, "rules": [{
            "subjects": [{"kind": "Group", "user": {"name": "u"}}, {"kind": "Robot"}],
            "resourceRules": [{"verbs": ["look"], "apiGroups": ["*", "a"], "resources": ["pods"]}],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["a", "/a*b", "//"]}]}]}),
        ),
        &[
            "spec.rules[0].subjects[0].user: Forbidden: user is forbidden when subject kind is not 'User'",
            "spec.rules[0].subjects[0].group: Required value: group is required when subject kind is 'Group'",
            "spec.rules[0].subjects[1].kind: Unsupported value: \"Robot\": supported values: \"Group\", \"ServiceAccount\", \"User\"",
            "spec.rules[0].resourceRules[0].verbs: Unsupported value: [\"look\"]: supported values: \"create\", \
             \"delete\", \"deletecollection\", \"get\", \"list\", \"patch\", \"proxy\", \"update\", \"watch\"",
            "spec.rules[0].resourceRules[0].apiGroups: Invalid value: [\"*\",\"a\"]: if '*' is present, must not specify other api groups",
            "spec.rules[0].resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace",
            "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"a\": must start with slash",
            "spec.rules[0].nonResourceRules[0].nonResourceURLs[1]: Invalid value: \"/a*b\": wildcard can only do suffix matching",
            "spec.rules[0].nonResourceRules[0].nonResourceURLs[2]: Invalid value: \"//\": must not contain double slash",
        ],
    );
    check(schema("exempt", super::super::flow::mandatory_schema("exempt").expect("it is mandatory")), &[]);
}

#[test]
fn levels() {
    let level = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let check = |object: Value, expected: &[&str]| create(FLOW, "PriorityLevelConfiguration", object, expected);
    check(level("a", json!({"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}})), &[]);
    check(level("exempt", json!({"type": "Exempt"})), &[]);
    check(
        level("a", json!({"type": "Exempt", "limited": {"limitResponse": {"type": "Reject"}}})),
        &[
            "spec.type: Invalid value: \"Exempt\": type must be 'Exempt' if and only if name is 'exempt'",
            "spec.limited: Forbidden: must be nil if the type is not Limited",
        ],
    );
    check(
        level(
            "a",
            json!({"type": "Limited", "limited": {"lendablePercent": 101, "limitResponse": {"type": "Queue",
            "queuing": {"queues": 4096, "handSize": 8, "queueLengthLimit": -1}}}}),
        ),
        &[
            "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive",
            "spec.limited.limitResponse.queuing.queueLengthLimit: Invalid value: -1: must be positive",
            "spec.limited.limitResponse.queuing.handSize: Invalid value: 8: required entropy bits of deckSize 4096 and handSize 8 should not be greater than 60",
        ],
    );
    let mut wrong = super::super::flow::catch_all();
    check(level("catch-all", wrong.clone()), &[]);
    wrong["limited"]["nominalConcurrencyShares"] = 6.into();
    check(
        level("catch-all", wrong.clone()),
        &[&*format!("spec: Invalid value: {wrong}: spec of 'catch-all' must equal the fixed value")],
    );
}
