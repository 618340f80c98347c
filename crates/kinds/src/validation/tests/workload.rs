//! Deployments, replica sets, stateful sets, daemon sets, replication controllers and their scalers.

use serde_json::{Value, json};

use super::{create, update};

fn base(version: &str, kind: &str, spec: Value) -> Value {
    let mut object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    super::merge(&mut object["spec"], spec);
    object
}

fn deployment() -> Value {
    base("apps/v1", "Deployment", json!({}))
}

const UNMATCHED: &str =
    "spec.template.metadata.labels: Invalid value: {\"a\":\"c\"}: `selector` does not match template `labels`";

#[test]
fn selectors_match() {
    let other = || json!({"spec": {"template": {"metadata": {"labels": {"a": "c"}}}}});
    for kind in ["Deployment", "ReplicaSet", "StatefulSet", "DaemonSet"] {
        let base = base("apps/v1", kind, json!({}));
        create(&base, json!({}), &[]);
        create(&base, other(), &[UNMATCHED]);
        update(&base, json!({"spec": {"minReadySeconds": 5}}), None, &[]);
    }
    for kind in ["Deployment", "ReplicaSet", "DaemonSet"] {
        let change = json!({"spec": {"selector": {"matchLabels": {"a": "c"}},
            "template": {"metadata": {"labels": {"a": "c"}}}}});
        update(
            &base("apps/v1", kind, json!({})),
            change,
            None,
            &["spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"c\"}}: field is immutable"],
        );
    }
}

#[test]
fn deployments() {
    let spec = |change: Value, expected: &[&str]| create(&deployment(), json!({"spec": change}), expected);
    spec(json!({"replicas": -1}), &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]);
    spec(
        json!({"selector": {"matchLabels": null}}),
        &["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
    );
    spec(
        json!({"strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}}),
        &["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
    );
    spec(
        json!({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}}),
        &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"],
    );
    spec(
        json!({"strategy": {"rollingUpdate": {"maxUnavailable": "150%"}}}),
        &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"150%\": must not be greater than 100%"],
    );
    spec(
        json!({"progressDeadlineSeconds": 5, "minReadySeconds": 5}),
        &["spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds"],
    );
    spec(
        json!({"template": {"spec": {"restartPolicy": "Never"}}}),
        &["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""],
    );
    update(
        &deployment(),
        json!({"status": {"replicas": 1, "readyReplicas": 2}}),
        Some("status"),
        &["status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas"],
    );
}

#[test]
fn stateful_sets() {
    let base = base("apps/v1", "StatefulSet", json!({"serviceName": "s"}));
    let spec = |change: Value, expected: &[&str]| create(&base, json!({"spec": change}), expected);
    spec(
        json!({"podManagementPolicy": "Some"}),
        &["spec.podManagementPolicy: Invalid value: \"Some\": must be 'OrderedReady' or 'Parallel'"],
    );
    spec(
        json!({"ordinals": {"start": -1}}),
        &["spec.ordinals.start: Invalid value: -1: must be greater than or equal to 0"],
    );
    update(
        &base,
        json!({"spec": {"serviceName": "t"}}),
        None,
        &["spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
         'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"],
    );
    update(&base, json!({"spec": {"replicas": 3, "ordinals": {"start": 2}}}), None, &[]);
}

#[test]
fn daemon_sets() {
    let base = base("apps/v1", "DaemonSet", json!({}));
    create(
        &base,
        json!({"spec": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0}}}}),
        &["spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0"],
    );
    create(
        &base,
        json!({"spec": {"template": {"spec": {"activeDeadlineSeconds": 5}}}}),
        &["spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in DaemonSet is not Supported"],
    );
}

#[test]
fn replication_controllers() {
    let mut base = base("v1", "ReplicationController", json!({}));
    base["spec"]["selector"] = json!({"a": "b"});
    create(&base, json!({}), &[]);
    create(
        &base,
        json!({"spec": {"selector": {"a": "c"}}}),
        &["spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`"],
    );
}

#[test]
fn revisions() {
    let base = json!({"apiVersion": "apps/v1", "kind": "ControllerRevision",
        "metadata": {"name": "x", "namespace": "default"}, "revision": 1, "data": {"a": 1}});
    create(&base, json!({}), &[]);
    create(&base, json!({"data": null}), &["data: Required value: data is mandatory"]);
    create(&base, json!({"revision": -1}), &["revision: Invalid value: -1: must be greater than or equal to 0"]);
    update(&base, json!({"data": {"a": 2}}), None, &["data: Invalid value: {\"a\":2}: field is immutable"]);
}

#[test]
fn scalers() {
    let base = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "x", "namespace": "default"},
        "spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}});
    let spec = |change: Value, expected: &[&str]| create(&base, json!({"spec": change}), expected);
    spec(json!({}), &[]);
    spec(
        json!({"minReplicas": 0}),
        &[
            "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
            "spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas",
        ],
    );
    spec(
        json!({"minReplicas": 5}),
        &["spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`"],
    );
    spec(json!({"scaleTargetRef": {"name": null}}), &["spec.scaleTargetRef.name: Required value"]);
    spec(
        json!({"metrics": [{"type": "Resource"}]}),
        &["spec.metrics[0].resource: Required value: must populate information for the given metric source"],
    );
    spec(
        json!({"metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization"}}}]}),
        &[
            "spec.metrics[0].resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization",
        ],
    );
    spec(
        json!({"behavior": {"scaleDown": {"stabilizationWindowSeconds": 4000}}}),
        &[
            "spec.behavior.scaleDown.stabilizationWindowSeconds: Invalid value: 4000: must be less than or equal to 3600",
        ],
    );
    let old = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "x", "namespace": "default"},
        "spec": {"maxReplicas": 0, "scaleTargetRef": {"kind": "Deployment", "name": "d"}}});
    create(
        &old,
        json!({}),
        &[
            "spec.maxReplicas: Invalid value: 0: must be greater than 0",
            "spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`",
        ],
    );
}
