//! A small valid object of every kind, and a status that its endpoint takes.

use kobune_kinds::Kind;
use serde_json::{Value, json};

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "example.com/app:v1"}]}})
}

fn selected() -> Value {
    json!({"spec": {"selector": {"matchLabels": {"app": "a"}}, "template": template()}})
}

fn role() -> Value {
    json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]})
}

fn binding() -> Value {
    json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "u"}]})
}

fn webhook() -> Value {
    json!({"webhooks": [{"name": "hook.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
        "failurePolicy": "Ignore", "clientConfig": {"service": {"namespace": "default", "name": "none"}},
        "rules": [{"operations": ["CREATE"], "apiGroups": ["example.com"], "apiVersions": ["v1"], "resources": ["none"]}]}]})
}

fn matched() -> Value {
    json!({"resourceRules": [{"operations": ["CREATE"], "apiGroups": ["example.com"], "apiVersions": ["v1"],
        "resources": ["none"]}]})
}

fn devices() -> Value {
    json!({"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "example.com"}}]}})
}

/// A request for a certificate of `CN=a` (its key was thrown away).
const REQUEST: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlISE1HNENBUUF3RERFS01BZ0dBMVVFQXd3QllUQlpNQk1HQnlxR1NNNDlBZ0VHQ0NxR1NNNDlBd0VIQTBJQQpCQkgrMG5namVwYTNDMEZuaFpnUzVDVmt0dUQ2cmlRbmpTZWpJUk9yQUt0c0xpaHJsYVVJQzF4N1N5dmVlL1gvCmtkKzQzOFNONHp3Z3U4NnhhemFpaFdlZ0FEQUtCZ2dxaGtqT1BRUURBZ05KQURCR0FpRUF4MFhXRXN5WTJCWVoKdzR2c0krbVJ5NHdIYWw3WUlJakZ3YmFXdTdhSU9ISUNJUUNrZFhoTzdwOENMWU1HdXlqd0k5dkZqZjZGUEY5cAp4cUxDelZBK244YlRxUT09Ci0tLS0tRU5EIENFUlRJRklDQVRFIFJFUVVFU1QtLS0tLQo=";

/// The content of an object of `kind`; name, type and label are the caller's.
pub(crate) fn object(kind: &Kind) -> Value {
    match (&*kind.group, &*kind.kind) {
        ("", "ConfigMap" | "Secret" | "ServiceAccount" | "Namespace" | "Node") => json!({}),
        ("", "Endpoints") => json!({"subsets": [{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 80}]}]}),
        ("", "Event") => json!({"involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
            "reason": "Tested", "message": "m", "type": "Normal"}),
        ("events.k8s.io", "Event") => json!({"metadata": {"name": "new"}, "eventTime": "2026-01-01T00:00:00.000000Z",
            "regarding": {"kind": "Pod", "namespace": "default", "name": "p"}, "reportingController": "example.com/c",
            "reportingInstance": "i", "action": "Do", "reason": "Tested", "note": "n", "type": "Normal"}),
        ("", "LimitRange") => json!({"spec": {"limits": [{"type": "Pod", "max": {"cpu": "100"}}]}}),
        ("", "PersistentVolumeClaim") => json!({"spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "",
            "resources": {"requests": {"storage": "1Gi"}}}}),
        ("", "PersistentVolume") => json!({"spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
            "hostPath": {"path": "/tmp/life"}}}),
        ("", "Pod") => json!({"spec": template()["spec"]}),
        ("", "PodTemplate") => json!({"template": template()}),
        ("", "ReplicationController") => json!({"spec": {"selector": {"app": "a"}, "template": template()}}),
        ("", "ResourceQuota") => json!({"spec": {"hard": {"count/widgets.example.com": "5"}}}),
        ("", "Service") => json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}),
        // Local and available already, so that the aggregator has nothing to write in between.
        ("apiregistration.k8s.io", "APIService") => json!({"metadata": {"name": "v1.life.example.com"},
            "spec": {"group": "life.example.com", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10},
            "status": {"conditions": [condition("Available")]}}),
        ("apps", "ControllerRevision") => json!({"revision": 1, "data": {"a": "b"}}),
        ("apps", "StatefulSet") => {
            let mut object = selected();
            object["spec"]["serviceName"] = "s".into();
            object
        }
        ("apps", _) => selected(),
        ("authentication.k8s.io", "SelfSubjectReview") => json!({}),
        ("authentication.k8s.io", "TokenReview") => json!({"spec": {"token": "none"}}),
        ("authorization.k8s.io", "SelfSubjectRulesReview") => json!({"spec": {"namespace": "default"}}),
        ("authorization.k8s.io", "SelfSubjectAccessReview") => {
            json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}})
        }
        ("authorization.k8s.io", _) => {
            json!({"spec": {"user": "u", "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "default"}}})
        }
        ("autoscaling", _) => json!({"spec": {"maxReplicas": 3,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}}),
        ("batch", "CronJob") => json!({"spec": {"schedule": "0 0 * * *", "jobTemplate": {"spec": {"template": {
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "example.com/app:v1"}]}}}}}}),
        ("batch", "Job") => json!({"spec": {"template": {
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "example.com/app:v1"}]}}}}),
        ("certificates.k8s.io", _) => json!({"spec": {"request": REQUEST, "signerName": "example.com/life",
            "usages": ["client auth"]}}),
        ("networking.k8s.io", "IngressClass") => json!({"spec": {"controller": "example.com/c"}}),
        ("networking.k8s.io", "Ingress") => {
            json!({"spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}})
        }
        ("networking.k8s.io", "IPAddress") => json!({"metadata": {"name": "10.200.1.2"},
            "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "s"}}}),
        ("networking.k8s.io", "NetworkPolicy") => json!({"spec": {"podSelector": {}}}),
        ("networking.k8s.io", "ServiceCIDR") => json!({"spec": {"cidrs": ["10.201.0.0/24"]}}),
        ("policy", _) => json!({"spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}}}),
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => role(),
        ("rbac.authorization.k8s.io", _) => binding(),
        ("storage.k8s.io", "CSIDriver") => json!({"metadata": {"name": "csi.example.com"}, "spec": {}}),
        ("storage.k8s.io", "CSINode") => json!({"spec": {"drivers": [{"name": "csi.example.com", "nodeID": "n"}]}}),
        ("storage.k8s.io", "CSIStorageCapacity") => json!({"storageClassName": "s", "capacity": "1Gi"}),
        ("storage.k8s.io", "StorageClass") => json!({"provisioner": "csi.example.com"}),
        ("storage.k8s.io", "VolumeAttachment") => json!({"spec": {"attacher": "csi.example.com", "nodeName": "n",
            "source": {"persistentVolumeName": "v"}}}),
        ("storage.k8s.io", "VolumeAttributesClass") => {
            json!({"driverName": "csi.example.com", "parameters": {"a": "b"}})
        }
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration") => {
            webhook()
        }
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => {
            json!({"spec": {"matchConstraints": matched(), "validations": [{"expression": "true"}]}})
        }
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => {
            json!({"spec": {"matchConstraints": matched(), "reinvocationPolicy": "Never", "mutations": [{
                "patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: \"remove\", path: \"/spec/a\"}]"}}]}})
        }
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding") => {
            json!({"spec": {"policyName": "none", "validationActions": ["Deny"]}})
        }
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding") => json!({"spec": {"policyName": "none"}}),
        ("apiextensions.k8s.io", _) => json!({"metadata": {"name": "lives.example.com"}, "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "lives", "kind": "Life"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}]}}),
        ("scheduling.k8s.io", _) => json!({"value": 5}),
        ("coordination.k8s.io", _) => json!({"spec": {"holderIdentity": "h"}}),
        ("node.k8s.io", _) => json!({"handler": "runc"}),
        ("discovery.k8s.io", _) => json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.1.2.3"]}]}),
        ("resource.k8s.io", "DeviceClass") => json!({"spec": {}}),
        ("resource.k8s.io", "ResourceClaim") => json!({"spec": devices()}),
        ("resource.k8s.io", "ResourceClaimTemplate") => json!({"spec": {"spec": devices()}}),
        ("resource.k8s.io", "ResourceSlice") => json!({"spec": {"driver": "example.com", "nodeName": "n",
            "pool": {"name": "n", "resourceSliceCount": 1, "generation": 1}, "devices": [{"name": "d"}]}}),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => {
            json!({"spec": {"matchingPrecedence": 9000, "priorityLevelConfiguration": {"name": "life"}}})
        }
        ("flowcontrol.apiserver.k8s.io", _) => {
            json!({"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}})
        }
        (group, kind) => panic!("no sample of {kind} in {group:?}: add one"),
    }
}

fn condition(kind: &str) -> Value {
    json!({"type": kind, "status": "True", "reason": "Tested", "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

/// A status that the endpoint of `kind` takes, with fields that no controller of this process writes.
pub(crate) fn status(kind: &Kind) -> Value {
    match &*kind.kind {
        "Pod" => json!({"message": "m", "reason": "Tested"}),
        "Node" | "Namespace" | "PersistentVolumeClaim" => json!({"conditions": [condition("Life")]}),
        "PersistentVolume" => json!({"message": "m", "reason": "Tested"}),
        "ReplicationController" | "ReplicaSet" | "StatefulSet" | "Deployment" => {
            json!({"observedGeneration": 1, "replicas": 1})
        }
        "DaemonSet" => json!({"observedGeneration": 1, "desiredNumberScheduled": 1}),
        "ResourceQuota" => json!({"hard": {"count/widgets.example.com": "5"}}),
        "Service" | "Ingress" => json!({"loadBalancer": {"ingress": [{"hostname": "example.com"}]}}),
        "HorizontalPodAutoscaler" => json!({"currentReplicas": 1, "desiredReplicas": 2}),
        "CronJob" => json!({"lastScheduleTime": "2026-01-01T00:00:00Z"}),
        "Job" => json!({"startTime": "2026-01-01T00:00:00Z", "active": 1}),
        "PodDisruptionBudget" => json!({"expectedPods": 2, "disruptionsAllowed": 1}),
        "VolumeAttachment" => json!({"attached": true, "attachmentMetadata": {"a": "b"}}),
        "ResourceClaim" => json!({"allocation": {"devices": {"results": [
            {"request": "r", "driver": "example.com", "pool": "n", "device": "d"}]}}}),
        "ValidatingAdmissionPolicy" => json!({"observedGeneration": 1}),
        "CertificateSigningRequest" => {
            json!({"conditions": [{"type": "Failed", "status": "True", "reason": "Tested", "message": "m",
                "lastUpdateTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}]})
        }
        "CustomResourceDefinition" => json!({"storedVersions": ["v1"]}),
        "APIService" => json!({"conditions": [condition("Available"), condition("Life")]}),
        "FlowSchema" | "PriorityLevelConfiguration" | "ServiceCIDR" => {
            json!({"conditions": [condition("Life")]})
        }
        other => panic!("no sample of the status of {other}: add one"),
    }
}
