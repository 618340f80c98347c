//! The priority levels and flow schemas of every cluster: upstream's mandatory and suggested ones.

use serde_json::{Value, json};

/// The annotation that says whether the server keeps an object as it comes with it.
pub(super) const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// Name, shares, lent percentage and number of queues of a limited level, and how many of the queues one flow uses. No
/// queues: requests beyond the limit are refused.
const LEVELS: [(&str, i32, i32, i32, i32); 7] = [
    ("catch-all", 5, 0, 0, 0),
    ("system", 30, 33, 64, 6),
    ("node-high", 40, 25, 64, 6),
    ("leader-election", 10, 0, 16, 4),
    ("workload-high", 40, 50, 128, 6),
    ("workload-low", 100, 90, 128, 6),
    ("global-default", 20, 50, 128, 6),
];

const MANAGER: &str = "user:system:kube-controller-manager";
const SCHEDULER: &str = "user:system:kube-scheduler";
const SYSTEM_ACCOUNTS: &str = "account:kube-system/*";
const EVERYBODY: &[&str] = &["group:system:unauthenticated", "group:system:authenticated"];

/// Name, level, precedence, distinguisher (`User`, `Namespace` or none), subjects and what their requests are about.
type Schema = (&'static str, &'static str, i32, &'static str, &'static [&'static str], About);

#[derive(Clone, Copy)]
enum About {
    Everything,
    Health,
    Leases,
    Nodes,
}

const SCHEMAS: [Schema; 11] = [
    ("exempt", "exempt", 1, "", &["group:system:masters"], About::Everything),
    ("catch-all", "catch-all", 10_000, "User", EVERYBODY, About::Everything),
    ("probes", "exempt", 2, "", EVERYBODY, About::Health),
    ("system-leader-election", "leader-election", 100, "User", &[MANAGER, SCHEDULER, SYSTEM_ACCOUNTS], About::Leases),
    ("system-node-high", "node-high", 400, "User", &["group:system:nodes"], About::Nodes),
    ("system-nodes", "system", 500, "User", &["group:system:nodes"], About::Everything),
    ("kube-controller-manager", "workload-high", 800, "Namespace", &[MANAGER], About::Everything),
    ("kube-scheduler", "workload-high", 800, "Namespace", &[SCHEDULER], About::Everything),
    ("kube-system-service-accounts", "workload-high", 900, "Namespace", &[SYSTEM_ACCOUNTS], About::Everything),
    ("service-accounts", "workload-low", 9000, "User", &["group:system:serviceaccounts"], About::Everything),
    ("global-default", "global-default", 9900, "User", EVERYBODY, About::Everything),
];

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": kind,
        "metadata": {"name": name, "annotations": {AUTOUPDATE: "true"}}, "spec": spec,
    })
}

/// The priority levels.
pub(super) fn levels() -> Vec<Value> {
    let exempt = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    let limited = LEVELS.into_iter().map(|(name, shares, lent, queues, hand)| {
        let response = match queues {
            0 => json!({"type": "Reject"}),
            _ => json!({"type": "Queue", "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": 50}}),
        };
        let limited = json!({"nominalConcurrencyShares": shares, "lendablePercent": lent, "limitResponse": response});
        object("PriorityLevelConfiguration", name, json!({"type": "Limited", "limited": limited}))
    });
    std::iter::once(object("PriorityLevelConfiguration", "exempt", exempt)).chain(limited).collect()
}

fn subject(text: &str) -> Value {
    match text.split_once(':') {
        Some(("group", name)) => json!({"kind": "Group", "group": {"name": name}}),
        Some(("user", name)) => json!({"kind": "User", "user": {"name": name}}),
        Some((_, account)) => {
            let (namespace, name) = account.split_once('/').unwrap_or_default();
            json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": namespace, "name": name}})
        }
        None => Value::Null,
    }
}

fn rule(subjects: &[&str], about: About) -> Value {
    let on = |verbs: &[&str], group: &str, resources: &[&str], cluster: bool| {
        let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"]});
        if cluster {
            rule["clusterScope"] = true.into();
        }
        rule
    };
    let lease = "coordination.k8s.io";
    let mut rule = match about {
        About::Everything => json!({
            "resourceRules": [on(&["*"], "*", &["*"], true)],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        }),
        About::Health => {
            json!({"nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]})
        }
        About::Leases => json!({"resourceRules": [on(&["get", "create", "update"], lease, &["leases"], false)]}),
        About::Nodes => json!({
            "resourceRules": [on(&["*"], "", &["nodes", "nodes/status"], true), on(&["*"], lease, &["leases"], false)],
        }),
    };
    rule["subjects"] = subjects.iter().map(|text| subject(text)).collect();
    rule
}

/// The flow schemas.
pub(super) fn schemas() -> Vec<Value> {
    SCHEMAS
        .into_iter()
        .map(|(name, level, precedence, distinguisher, subjects, about)| {
            let mut spec = json!({
                "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence,
                "rules": [rule(subjects, about)],
            });
            if !distinguisher.is_empty() {
                spec["distinguisherMethod"] = json!({"type": format!("By{distinguisher}")});
            }
            object("FlowSchema", name, spec)
        })
        .collect()
}
