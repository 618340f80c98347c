//! Roles, bindings, priority classes, runtime classes, leases and API services.

use serde_json::{Value, json};

use super::{change, create};

const RBAC: &str = "rbac.authorization.k8s.io/v1";

#[test]
fn roles() {
    let rules = |rule: Value| json!({"metadata": {"name": "a:b", "namespace": "c"}, "rules": [rule]});
    let check = |kind: &str, rule: Value, expected: &[&str]| create(RBAC, kind, rules(rule), expected);
    check("Role", json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}), &[]);
    check(
        "Role",
        json!({"verbs": ["get"], "nonResourceURLs": ["/x"]}),
        &["rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs"],
    );
    check(
        "ClusterRole",
        json!({"nonResourceURLs": ["/x"], "resources": ["pods"]}),
        &[
            "rules[0].verbs: Required value: verbs must contain at least one value",
            "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: rules cannot apply to both regular resources and non-resource URLs",
        ],
    );
    check(
        "ClusterRole",
        json!({"verbs": ["get"]}),
        &[
            "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
            "rules[0].resources: Required value: resource rules must supply at least one resource",
        ],
    );
    create(
        RBAC,
        "ClusterRole",
        json!({"metadata": {"name": "a"}, "aggregationRule": {}}),
        &[
            "aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil",
        ],
    );
}

#[test]
fn bindings() {
    let binding = |role: &str, subjects: Value| json!({"roleRef": {"kind": role, "name": "r"}, "subjects": subjects});
    create(RBAC, "RoleBinding", binding("Role", json!([{"kind": "User", "name": "u"}])), &[]);
    create(
        RBAC,
        "ClusterRoleBinding",
        binding(
            "Role",
            json!([{"kind": "ServiceAccount", "name": "a"}, {"kind": "Robot", "name": "r"}, {"kind": "User"}]),
        ),
        &[
            "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
            "subjects[0].namespace: Required value",
            "subjects[1].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
            "subjects[2].name: Required value",
            "subjects[2].name: Invalid value: \"\": user name cannot be empty",
        ],
    );
    let to = |name: &str| json!({"roleRef": {"kind": "ClusterRole", "name": name}});
    change(
        RBAC,
        "RoleBinding",
        None,
        to("a"),
        to("b"),
        &[
            "roleRef: Invalid value: {\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"ClusterRole\",\"name\":\"b\"}: cannot change roleRef",
        ],
    );
}

#[test]
fn priorities() {
    let class = |name: &str, value: i64| json!({"metadata": {"name": name}, "value": value});
    let check = |object: Value, expected: &[&str]| create("scheduling.k8s.io/v1", "PriorityClass", object, expected);
    check(class("a", 1_000_000_000), &[]);
    check(class("system-node-critical", 2_000_001_000), &[]);
    check(
        class("a", 1_000_000_001),
        &["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"],
    );
    check(
        class("system-x", 1),
        &["metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. \
           error: system-x is not a known system priority class"],
    );
    change(
        "scheduling.k8s.io/v1",
        "PriorityClass",
        None,
        class("a", 1),
        class("a", 2),
        &["value: Forbidden: may not be changed in an update."],
    );
}

#[test]
fn runtime_classes_and_leases() {
    let check = |object: Value, expected: &[&str]| create("node.k8s.io/v1", "RuntimeClass", object, expected);
    check(json!({"handler": "runc", "overhead": {"podFixed": {"cpu": "100m"}}}), &[]);
    check(
        json!({"handler": "runc", "overhead": {"podFixed": {"cpu": "-1"}}, "scheduling": {"tolerations": [{"value": "x"}]}}),
        &[
            "overhead.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
            "scheduling.tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty, \
             which means \"match all values and all keys\"",
        ],
    );
    change(
        "node.k8s.io/v1",
        "RuntimeClass",
        None,
        json!({"handler": "a"}),
        json!({"handler": "b"}),
        &["handler: Invalid value: \"b\": field is immutable"],
    );
    let check = |spec: Value, expected: &[&str]| {
        create("coordination.k8s.io/v1", "Lease", json!({"spec": spec}), expected);
    };
    check(json!({"leaseDurationSeconds": 1}), &[]);
    check(
        json!({"leaseDurationSeconds": 0, "leaseTransitions": -1, "preferredHolder": "x"}),
        &[
            "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
            "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
            "spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined",
        ],
    );
}

#[test]
fn api_services() {
    let service = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let check = |object: Value, expected: &[&str]| create("apiregistration.k8s.io/v1", "APIService", object, expected);
    let good = json!({"group": "x.io", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1,
        "service": {"namespace": "a", "name": "b"}});
    check(service("v1.x.io", good.clone()), &[]);
    check(
        service("v2.x.io", good.clone()),
        &["metadata.name: Invalid value: \"v2.x.io\": must be `spec.version+\".\"+spec.group`: \"v1.x.io\""],
    );
    let mut local = good;
    local["service"] = Value::Null;
    local["caBundle"] = "YWJj".into();
    local["versionPriority"] = 1001.into();
    check(
        service("v1.x.io", local),
        &[
            "spec.versionPriority: Invalid value: 1001: must be positive and less than 1000",
            "spec.caBundle: Invalid value: \"3 bytes\": local APIServices may not have a caBundle",
        ],
    );
}
