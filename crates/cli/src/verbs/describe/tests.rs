//! Whatever the server says, a description comes out: no object makes it panic, and no text steers the terminal.

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// JSON of any shape whose fields are often those that descriptions look at.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop_oneof!["[ -~]{0,12}", "\\PC{0,6}", Just("\u{1b}[31m\r\n\t\u{c}".to_owned())].prop_map(Value::from),
        prop::sample::select(&["9e99", "-1Gi", "1", "2026-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "In", "true"][..])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 96, 6, |inner| {
        let names = prop::sample::select(
            &[
                "metadata",
                "spec",
                "status",
                "template",
                "containers",
                "initContainers",
                "volumes",
                "name",
                "labels",
                "annotations",
                "conditions",
                "ports",
                "env",
                "valueFrom",
                "fieldRef",
                "fieldPath",
                "resources",
                "limits",
                "requests",
                "cpu",
                "memory",
                "state",
                "terminated",
                "rules",
                "http",
                "paths",
                "backend",
                "service",
                "metrics",
                "type",
                "resource",
                "target",
                "endpoints",
                "addresses",
                "hard",
                "used",
                "min",
                "selector",
                "matchExpressions",
                "key",
                "operator",
                "values",
                "ownerReferences",
                "controller",
                "uid",
                "taints",
                "allocatable",
                "capacity",
                "nodeInfo",
                "data",
                "subsets",
                "livenessProbe",
                "httpGet",
                "sizeLimit",
                "projected",
                "sources",
                "csi",
                "ephemeral",
                "volumeClaimTemplate",
                "creationTimestamp",
                "request",
                "ingress",
                "from",
                "ipBlock",
                "verbs",
                "apiGroups",
                "resourceFieldRef",
                "divisor",
                "completedIndexes",
            ][..],
        );
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(names.prop_map(str::to_owned), inner, 0..8)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn everything(object: &Value, around: &Value) -> Vec<String> {
    let list = vec![around.clone(), object.clone()];
    let related = || Related {
        events: Some(list.clone()),
        pods: list.clone(),
        replica_sets: list.clone(),
        slices: list.clone(),
        backends: [("a".to_owned(), Ok((around.clone(), list.clone())))].into(),
        quotas: Some(list.clone()),
        limit_ranges: Some(list.clone()),
        lease: Some(Ok(around.clone())),
        ..Related::default()
    };
    let kinds = KINDS.iter().map(|(group, kind, ..)| (*group, *kind)).chain([("x.io", "Boat")]);
    kinds.map(|(group, kind)| text(group, kind, object, &related(), Timestamp::UNIX_EPOCH)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_object_is_too_much(object in any_json(), around in any_json()) {
        for text in everything(&object, &around) {
            prop_assert!(!text.contains('\u{1b}') && !text.contains('\r'), "{text:?}");
        }
    }
}

#[test]
fn odd_objects() {
    let deep = (0..100).fold(json!(1), |inner, _| json!({"spec": inner}));
    for object in
        [Value::Null, json!([]), json!("x"), json!({}), json!({"metadata": null, "spec": [], "status": 1}), deep]
    {
        assert!(everything(&object, &Value::Null).iter().all(|text| !text.is_empty()));
    }
}

#[test]
fn a_pod_with_everything() {
    let pod = json!({
        "metadata": {"name": "p", "namespace": "n", "deletionTimestamp": "1970-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30,
            "ownerReferences": [{"controller": true, "kind": "ReplicaSet", "name": "r"}], "labels": {"a": "b"}},
        "spec": {"priority": 0, "nodeName": "m", "serviceAccountName": "default",
            "containers": [{"name": "c", "image": "i", "command": ["sh", "-c", "a\nb"], "ports": [{"containerPort": 80, "protocol": "TCP", "name": "web"}],
                "env": [{"name": "P", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
                    {"name": "M", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
                    {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": true}}}],
                "envFrom": [{"prefix": "X_", "configMapRef": {"name": "cm"}}],
                "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "x", "readOnly": true}]}],
            "volumes": [{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}, {"name": "w", "nfs": {"server": "s", "path": "/"}}],
            "tolerations": [{"operator": "Exists"}, {"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]},
        "status": {"phase": "Running", "hostIP": "10.0.0.1", "podIP": "10.1.0.1", "podIPs": [{"ip": "10.1.0.1"}],
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "c", "ready": true, "restartCount": 2, "containerID": "x://1", "imageID": "y",
                "state": {"running": {"startedAt": "1970-01-01T00:00:00Z"}},
                "lastState": {"terminated": {"reason": "Error", "exitCode": 1}}}]},
    });
    let related = Related { events: Some(Vec::new()), ..Related::default() };
    let now = Timestamp::from_second(60).unwrap();
    let got = text("", "Pod", &pod, &related, now);
    let started = read::moment(&json!("1970-01-01T00:00:00Z"));
    let expected = format!(
        "Name:                      p
Namespace:                 n
Priority:                  0
Service Account:           default
Node:                      m/10.0.0.1
Labels:                    a=b
Annotations:               <none>
Status:                    Terminating (lasts 60s)
Termination Grace Period:  30s
IP:                        10.1.0.1
IPs:
  IP:           10.1.0.1
Controlled By:  ReplicaSet/r
Containers:
  c:
    Container ID:  x://1
    Image:         i
    Image ID:      y
    Port:          80/TCP (web)
    Host Port:     0/TCP (web)
    Command:
      sh
      -c
      a
      b
    State:          Running
      Started:      {started}
    Last State:     Terminated
      Reason:       Error
      Exit Code:    1
      Started:      Mon, 01 Jan 0001 00:00:00 +0000
      Finished:     Mon, 01 Jan 0001 00:00:00 +0000
    Ready:          True
    Restart Count:  2
    Environment Variables from:
      cm  ConfigMap with prefix 'X_'  Optional: false
    Environment:
      P:  p (v1:metadata.name)
      M:  node allocatable (limits.memory)
      S:  <set to the key 'k' in secret 's'>  Optional: true
    Mounts:
      /v from v (ro,path=\"x\")
Conditions:
  Type    Status
  Ready   True 
Volumes:
  v:
    Type:       EmptyDir (a temporary directory that shares a pod's lifetime)
    Medium:     Memory
    SizeLimit:  1Mi
  w:
    Type:        NFS (an NFS mount that lasts the lifetime of a pod)
    Server:      s
    Path:        /
    ReadOnly:    false
QoS Class:       BestEffort
Node-Selectors:  <none>
Tolerations:     op=Exists
                 k:NoExecute op=Exists for 300s
Events:          <none>
"
    );
    assert_eq!(got, expected, "{got}");
}
