//! Rows as kubectl prints them.

use serde_json::{Value, json};

use crate::Catalogue;

/// Compares a row, cells joined by `|`.
fn check(api_version: &str, kind: &str, object: &Value, expected: &str) {
    let catalogue = Catalogue::builtin();
    let kind = catalogue.by_kind(api_version, kind).expect("a built-in kind");
    let now = "2026-01-02T00:00:00Z".parse().expect("a time");
    let mut object = object.clone();
    object["metadata"]["creationTimestamp"] = "2026-01-01T23:50:00Z".into();
    object["metadata"]["name"] = "a".into();
    let cells = kind.row(&object, now);
    assert_eq!(cells.len(), kind.columns().len());
    assert_eq!(cells.iter().map(super::cell::shown).collect::<Vec<_>>().join("|"), expected);
}

#[test]
fn every_kind_has_as_many_cells_as_columns() {
    for kind in Catalogue::builtin().kinds() {
        assert_eq!(kind.row(&json!({}), jiff::Timestamp::UNIX_EPOCH).len(), kind.columns().len(), "{}", kind.kind);
    }
}

#[test]
fn pods() {
    let pod = |spec: Value, status: Value, expected: &str| {
        let expected = format!("a|{expected}|10m|<none>|<none>|<none>|<none>");
        check("v1", "Pod", &json!({"metadata": {}, "spec": spec, "status": status}), &expected);
    };
    let spec = json!({"containers": [{"name": "c"}], "initContainers": [{"name": "i"}, {"name": "j"}]});
    let running = json!({"name": "c", "ready": true, "state": {"running": {}}});
    pod(spec.clone(), json!({"phase": "Pending"}), "0/1|Pending|0");
    pod(
        spec.clone(),
        json!({"phase": "Pending", "initContainerStatuses": [
            {"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "state": {"running": {}}}]}),
        "0/1|Init:1/2|0",
    );
    pod(
        spec.clone(),
        json!({"phase": "Pending", "initContainerStatuses": [
            {"name": "i", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
        "0/1|Init:CrashLoopBackOff|2",
    );
    pod(
        spec.clone(),
        json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 3}}}]}),
        "0/1|Init:ExitCode:3|0",
    );
    pod(spec.clone(), json!({"phase": "Running", "containerStatuses": [running]}), "1/1|Running|0");
    pod(
        spec.clone(),
        json!({"phase": "Running", "containerStatuses": [{"name": "c", "restartCount": 1,
            "lastState": {"terminated": {"finishedAt": "2026-01-01T23:55:00Z"}},
            "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
        "0/1|CrashLoopBackOff|1 (5m ago)",
    );
    let completed = json!({"name": "d", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
    pod(spec.clone(), json!({"phase": "Succeeded", "containerStatuses": [completed]}), "0/1|Completed|0");
    pod(spec, json!({"phase": "Running", "containerStatuses": [completed, running]}), "1/1|NotReady|0");
    let sidecar = json!({"containers": [{"name": "c"}], "initContainers": [{"name": "s", "restartPolicy": "Always"}]});
    pod(
        sidecar,
        json!({"phase": "Running", "containerStatuses": [running],
            "initContainerStatuses": [{"name": "s", "started": true, "ready": true, "state": {"running": {}}}]}),
        "2/2|Running|0",
    );
    let leaving = json!({"metadata": {"deletionTimestamp": "2026-01-01T23:59:00Z"}, "status": {"phase": "Running"},
        "spec": {"nodeName": "n", "readinessGates": [{"conditionType": "x"}]}});
    check("v1", "Pod", &leaving, "a|0/0|Terminating|0|10m|<none>|n|<none>|0/1");
}

#[test]
fn workloads() {
    let template = json!({"spec": {"containers": [{"name": "c", "image": "i"}, {"name": "d", "image": "j"}]}});
    let selector =
        json!({"matchLabels": {"b": "c"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["y", "x"]}]});
    let object = json!({"metadata": {}, "spec": {"replicas": 3, "template": template, "selector": selector},
        "status": {"replicas": 2, "readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1}});
    check("apps/v1", "Deployment", &object, "a|1/3|2|1|10m|c,d|i,j|a in (x,y),b=c");
    check("apps/v1", "ReplicaSet", &object, "a|3|2|1|10m|c,d|i,j|a in (x,y),b=c");
    check("apps/v1", "StatefulSet", &object, "a|1/3|10m|c,d|i,j");
    let job = json!({"metadata": {}, "spec": {"completions": 1},
        "status": {"startTime": "2026-01-01T23:50:00Z", "completionTime": "2026-01-01T23:50:07Z", "succeeded": 1,
            "conditions": [{"type": "Complete", "status": "True"}]}});
    check("batch/v1", "Job", &job, "a|Complete|1/1|7s|10m|||<none>");
    let cron = json!({"metadata": {}, "spec": {"schedule": "* * * * *", "suspend": false}, "status": {"active": [{}]}});
    check("batch/v1", "CronJob", &cron, "a|* * * * *|<none>|False|1|<none>|10m|||<none>");
}

#[test]
fn networks() {
    let service = |spec: Value, expected: &str| {
        check("v1", "Service", &json!({"metadata": {}, "spec": spec}), expected);
    };
    service(
        json!({"type": "NodePort", "clusterIP": "10.96.0.9", "selector": {"a": "b"},
            "ports": [{"port": 80, "nodePort": 30001, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}),
        "a|NodePort|10.96.0.9|<none>|80:30001/TCP,53/UDP|10m|a=b",
    );
    service(json!({"type": "LoadBalancer", "clusterIP": "None"}), "a|LoadBalancer|None|<pending>|<none>|10m|<none>");
    service(json!({"type": "ExternalName", "externalName": "x.y"}), "a|ExternalName|<none>|x.y|<none>|10m|<none>");
    let addresses: Vec<Value> = (1..=5).map(|last| json!({"ip": format!("10.0.0.{last}")})).collect();
    let endpoints = json!({"metadata": {}, "subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]});
    check("v1", "Endpoints", &endpoints, "a|10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more...|10m");
    let slice = json!({"metadata": {}, "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}]});
    check("discovery.k8s.io/v1", "EndpointSlice", &slice, "a|IPv4|<unset>|10.0.0.1|10m");
    let ingress = json!({"metadata": {}, "spec": {"rules": [{"host": "h"}], "tls": [{}]}});
    check("networking.k8s.io/v1", "Ingress", &ingress, "a|<none>|h||80, 443|10m");
}

#[test]
fn clusters() {
    let node = json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}},
        "spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1.36.0"},
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}});
    check(
        "v1",
        "Node",
        &node,
        "a|Ready,SchedulingDisabled|control-plane|10m|v1.36.0|10.0.0.1|<none>|<unknown>|<unknown>|<unknown>",
    );
    check("v1", "Secret", &json!({"metadata": {}, "type": "Opaque", "data": {"a": ""}}), "a|Opaque|1|10m");
    check("rbac.authorization.k8s.io/v1", "ClusterRole", &json!({"metadata": {}}), "a|2026-01-01T23:50:00Z");
    let binding = json!({"metadata": {}, "roleRef": {"kind": "Role", "name": "r"},
        "subjects": [{"kind": "ServiceAccount", "namespace": "n", "name": "s"}]});
    check("rbac.authorization.k8s.io/v1", "RoleBinding", &binding, "a|Role/r|10m|||n/s");
    let event = json!({"metadata": {}, "type": "Normal", "reason": "R", "message": "m\n",
        "involvedObject": {"kind": "Pod", "name": "p"}, "source": {"component": "c", "host": "h"},
        "firstTimestamp": "2026-01-01T23:50:00Z", "lastTimestamp": "2026-01-01T23:59:00Z", "count": 4});
    check("v1", "Event", &event, "60s|Normal|R|pod/p||c, h|m|10m|4|a");
    let event = json!({"metadata": {}, "type": "Normal", "reason": "R", "note": "m", "eventTime": "2026-01-01T23:59:00.5Z",
        "regarding": {"kind": "Pod", "name": "p"}, "reportingController": "c"});
    check("events.k8s.io/v1", "Event", &event, "59s|Normal|R|pod/p||c|m|59s|1|a");
    let claim = json!({"metadata": {}, "spec": {"volumeName": "v"},
        "status": {"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}}});
    check("v1", "PersistentVolumeClaim", &claim, "a|Bound|v|1Gi|RWO||<unset>|10m|<unset>");
    let hpa = json!({"metadata": {}, "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "maxReplicas": 5,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}}]}});
    check("autoscaling/v2", "HorizontalPodAutoscaler", &hpa, "a|Deployment/d|cpu: <unknown>/80%|<unset>|5|0|10m");
}

#[test]
fn drivers_and_attachments() {
    let driver = json!({"metadata": {}, "spec": {"attachRequired": true, "tokenRequests": [{"audience": "a"}, {"audience": "b"}],
        "volumeLifecycleModes": ["Persistent", "Ephemeral"]}});
    check("storage.k8s.io/v1", "CSIDriver", &driver, "a|true|false|false|a,b|false|Persistent,Ephemeral|10m");
    check("storage.k8s.io/v1", "CSIDriver", &json!({"metadata": {}}), "a|false|false|false|<unset>|false||10m");
    check("storage.k8s.io/v1", "CSINode", &json!({"metadata": {}, "spec": {"drivers": [{}]}}), "a|1|10m");
    let attachment = json!({"metadata": {}, "spec": {"attacher": "d", "nodeName": "n", "source": {"persistentVolumeName": "v"}},
        "status": {"attached": true}});
    check("storage.k8s.io/v1", "VolumeAttachment", &attachment, "a|d|v|n|true|10m");
    check(
        "storage.k8s.io/v1",
        "CSIStorageCapacity",
        &json!({"metadata": {}, "storageClassName": "c", "capacity": "1Gi"}),
        "a|c|1Gi|10m",
    );
    check("storage.k8s.io/v1", "VolumeAttributesClass", &json!({"metadata": {}, "driverName": "d"}), "a|d|10m");
}

#[test]
fn admission_and_flow() {
    let group = "admissionregistration.k8s.io/v1";
    check(group, "ValidatingWebhookConfiguration", &json!({"metadata": {}, "webhooks": [{}, {}]}), "a|2|10m");
    let policy =
        json!({"metadata": {}, "spec": {"validations": [{}], "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}}});
    check(group, "ValidatingAdmissionPolicy", &policy, "a|1|v1/ConfigMap|10m");
    check(group, "MutatingAdmissionPolicy", &json!({"metadata": {}, "spec": {"mutations": [{}]}}), "a|1|<unset>|10m");
    let binding = |reference: Value| json!({"metadata": {}, "spec": {"policyName": "p", "paramRef": reference}});
    check(group, "ValidatingAdmissionPolicyBinding", &binding(json!({"name": "x"})), "a|p|*/x|10m");
    check(group, "MutatingAdmissionPolicyBinding", &binding(json!({"name": "x", "namespace": "n"})), "a|p|n/x|10m");
    check(
        group,
        "MutatingAdmissionPolicyBinding",
        &binding(json!({"selector": {"matchLabels": {"k": "v"}}})),
        "a|p|k=v|10m",
    );
    let group = "flowcontrol.apiserver.k8s.io/v1";
    let schema =
        json!({"metadata": {}, "spec": {"priorityLevelConfiguration": {"name": "l"}, "matchingPrecedence": 7}});
    check(group, "FlowSchema", &schema, "a|l|7|<none>|10m|?");
    let limited = json!({"nominalConcurrencyShares": 30, "limitResponse": {"queuing": {"queues": 64, "handSize": 8, "queueLengthLimit": 50}}});
    let level = json!({"metadata": {}, "spec": {"type": "Limited", "limited": limited}});
    check(group, "PriorityLevelConfiguration", &level, "a|Limited|30|64|8|50|10m");
    let exempt = json!({"metadata": {}, "spec": {"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0}}});
    check(group, "PriorityLevelConfiguration", &exempt, "a|Exempt|0|<none>|<none>|<none>|10m");
}

#[test]
fn devices_and_addresses() {
    let claim = |status: Value, expected: &str| {
        check(
            "resource.k8s.io/v1",
            "ResourceClaim",
            &json!({"metadata": {}, "status": status}),
            &format!("a|{expected}|10m"),
        );
    };
    claim(json!({}), "pending");
    claim(json!({"allocation": {}}), "allocated");
    claim(json!({"allocation": {}, "reservedFor": [{}]}), "allocated,reserved");
    let slice = json!({"metadata": {}, "spec": {"nodeName": "n", "driver": "d", "pool": {"name": "p"}}});
    check("resource.k8s.io/v1", "ResourceSlice", &slice, "a|n|d|p|10m");
    let address =
        json!({"metadata": {}, "spec": {"parentRef": {"resource": "services", "namespace": "n", "name": "s"}}});
    check("networking.k8s.io/v1", "IPAddress", &address, "a|services/n/s|10m");
    let component = json!({"metadata": {}, "conditions": [{"type": "Healthy", "status": "True", "message": "ok"}]});
    check("v1", "ComponentStatus", &component, "a|Healthy|ok|");
}
