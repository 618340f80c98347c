//! What upstream sets where a client says nothing: its `SetDefaults_*` functions, kind by kind.
//!
//! The functions take the part of the object that they are about and put values where none are. Their order within a
//! type is upstream's where one value follows from another.

mod pod;
mod storage;
mod workload;

use serde_json::{Value, json};

use crate::kind::Kind;
use crate::path::{at, list, size, text};
use crate::schema::Shape;

/// Puts `value` at `key` unless something stands there.
fn put(object: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(fields) = object.as_object_mut()
        && fields.get(key).is_none_or(Value::is_null)
    {
        fields.insert(key.to_owned(), value.into());
    }
}

/// Puts `value` at `key` unless a text other than the empty one stands there.
fn put_text(object: &mut Value, key: &str, value: &str) {
    if object.get(key).is_some_and(|text| text.as_str() == Some("")) {
        object[key] = Value::Null;
    }
    put(object, key, value);
}

/// Puts `value` at `key` unless a number other than zero stands there.
fn put_number(object: &mut Value, key: &str, value: i64) {
    if object.get(key).is_some_and(|number| number.as_i64() == Some(0)) {
        object[key] = Value::Null;
    }
    put(object, key, value);
}

/// Runs `set` on the object at `key`, if there is one.
fn within(object: &mut Value, key: &str, set: impl FnOnce(&mut Value)) {
    if let Some(part) = object.get_mut(key).filter(|part| part.is_object()) {
        set(part);
    }
}

/// Runs `set` on the object at `key`, which is made if there is none.
fn always(object: &mut Value, key: &str, set: impl FnOnce(&mut Value)) {
    put(object, key, json!({}));
    within(object, key, set);
}

/// Runs `set` on every item of the list at `key`.
fn each(object: &mut Value, key: &str, set: impl FnMut(&mut Value)) {
    if let Some(items) = object.get_mut(key).and_then(Value::as_array_mut) {
        items.iter_mut().for_each(set);
    }
}

/// Defaults of the spec of an autoscaler's second version.
pub(crate) fn autoscaler(spec: &mut Value) {
    workload::autoscaler_spec(spec);
}

pub(crate) fn set(kind: &Kind, object: &mut Value) {
    if let Some(custom) = kind.custom() {
        put(object, "metadata", json!({}));
        return crate::custom::defaults::set(object, custom.schema());
    }
    if kind.schema().field("metadata").is_some() {
        put(object, "metadata", json!({}));
    }
    if kind.schema().field("spec").is_some_and(|spec| spec.shape() == Shape::Object) {
        put(object, "spec", json!({}));
    }
    match (&*kind.group, &*kind.kind) {
        ("", "Pod") => pod::pod(object),
        ("", "PodTemplate") => within(object, "template", pod::template),
        ("", "ReplicationController") => workload::replication_controller(object),
        ("apps", "Deployment") => within(object, "spec", workload::deployment),
        ("apps", "ReplicaSet") => within(object, "spec", workload::replica_set),
        ("apps", "StatefulSet") => within(object, "spec", workload::stateful_set),
        ("apps", "DaemonSet") => within(object, "spec", workload::daemon_set),
        ("batch", "Job") => workload::job(object),
        ("batch", "CronJob") => within(object, "spec", workload::cron_job),
        ("autoscaling", "HorizontalPodAutoscaler") => workload::autoscaler(kind, object),
        ("", "Service") => {
            within(object, "spec", service);
            if text(object, "spec.type") == "LoadBalancer" {
                within(object, "status", |status| within(status, "loadBalancer", balancer_addresses));
            }
        }
        ("", "Endpoints") => each(object, "subsets", |subset| {
            each(subset, "ports", |port| put_text(port, "protocol", "TCP"));
        }),
        ("discovery.k8s.io", "EndpointSlice") => each(object, "ports", |port| {
            put(port, "name", "");
            put(port, "protocol", "TCP");
        }),
        ("", "Namespace") => namespace(object),
        ("", "Node") => node(object),
        ("", "Secret") => put_text(object, "type", "Opaque"),
        ("", "LimitRange") => within(object, "spec", |spec| each(spec, "limits", limit_range_item)),
        ("", "PersistentVolume") => storage::volume(object),
        ("", "PersistentVolumeClaim") => storage::claim(object),
        ("storage.k8s.io", "StorageClass") => {
            put(object, "reclaimPolicy", "Delete");
            put(object, "volumeBindingMode", "Immediate");
        }
        ("storage.k8s.io", "CSIDriver") => within(object, "spec", storage::csi_driver),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => binding(object),
        ("networking.k8s.io", "NetworkPolicy") => within(object, "spec", network_policy),
        ("networking.k8s.io", "IngressClass") => within(object, "spec", |spec| {
            within(spec, "parameters", |parameters| put(parameters, "scope", "Cluster"));
        }),
        ("scheduling.k8s.io", "PriorityClass") => put(object, "preemptionPolicy", "PreemptLowerPriority"),
        ("admissionregistration.k8s.io", name) => admission(name, object),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => within(object, "spec", custom_resource_definition),
        ("apiregistration.k8s.io", "APIService") => within(object, "spec", |spec| {
            within(spec, "service", |service| put(service, "port", 443));
        }),
        ("flowcontrol.apiserver.k8s.io", name) => flow_control(name, object),
        ("resource.k8s.io", "ResourceClaim") => within(object, "spec", resource_claim),
        ("resource.k8s.io", "ResourceClaimTemplate") => within(object, "spec", |spec| {
            put(spec, "metadata", json!({}));
            within(spec, "spec", resource_claim);
        }),
        _ => {}
    }
}

fn service(spec: &mut Value) {
    put_text(spec, "sessionAffinity", "None");
    match text(spec, "sessionAffinity") {
        "ClientIP" => always(spec, "sessionAffinityConfig", |config| {
            always(config, "clientIP", |client| put(client, "timeoutSeconds", 10800));
        }),
        "None" => {
            if let Some(fields) = spec.as_object_mut() {
                fields.remove("sessionAffinityConfig");
            }
        }
        _ => {}
    }
    put_text(spec, "type", "ClusterIP");
    each(spec, "ports", |port| {
        put_text(port, "protocol", "TCP");
        let target = port.get("targetPort");
        if target.is_none_or(|target| target.is_null() || *target == 0 || *target == "") {
            let number = at(port, "port").clone();
            port["targetPort"] = number;
        }
    });
    let kind = text(spec, "type").to_owned();
    let external =
        matches!(&*kind, "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && size(spec, "externalIPs") > 0);
    if external {
        put_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(&*kind, "NodePort" | "LoadBalancer" | "ClusterIP") {
        put(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        put(spec, "allocateLoadBalancerNodePorts", true);
    }
}

/// An address of a load balancer is one that packets keep as their destination, unless somebody says otherwise.
fn balancer_addresses(status: &mut Value) {
    each(status, "ingress", |point| {
        if !text(point, "ip").is_empty() {
            put(point, "ipMode", "VIP");
        }
    });
}

fn namespace(object: &mut Value) {
    let name = text(object, "metadata.name").to_owned();
    if !name.is_empty() {
        within(object, "metadata", |metadata| {
            always(metadata, "labels", |labels| labels["kubernetes.io/metadata.name"] = Value::from(name));
        });
    }
}

fn node(object: &mut Value) {
    within(object, "status", |status| {
        let capacity = at(status, "capacity").clone();
        if !capacity.is_null() {
            put(status, "allocatable", capacity);
        }
    });
}

fn limit_range_item(item: &mut Value) {
    if text(item, "type") != "Container" {
        return;
    }
    for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
        let values = at(item, from).as_object().cloned().unwrap_or_default();
        if !values.is_empty() {
            always(item, to, |target| values.into_iter().for_each(|(key, value)| put(target, &key, value)));
        }
    }
}

const RBAC: &str = "rbac.authorization.k8s.io";

fn binding(object: &mut Value) {
    within(object, "roleRef", |role| put_text(role, "apiGroup", RBAC));
    each(object, "subjects", |subject| {
        if matches!(text(subject, "kind"), "User" | "Group") {
            put_text(subject, "apiGroup", RBAC);
        }
    });
}

fn network_policy(spec: &mut Value) {
    for direction in ["ingress", "egress"] {
        each(spec, direction, |rule| each(rule, "ports", |port| put(port, "protocol", "TCP")));
    }
    put(spec, "podSelector", json!({}));
    let types = if size(spec, "egress") > 0 { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    put(spec, "policyTypes", types);
}

/// Resources that a webhook or a policy is about.
fn matched(resources: &mut Value) {
    put(resources, "matchPolicy", "Equivalent");
    put(resources, "namespaceSelector", json!({}));
    put(resources, "objectSelector", json!({}));
    for rules in ["resourceRules", "excludeResourceRules"] {
        each(resources, rules, |rule| put(rule, "scope", "*"));
    }
}

fn admission(kind: &str, object: &mut Value) {
    match kind {
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => each(object, "webhooks", |webhook| {
            put(webhook, "failurePolicy", "Fail");
            put(webhook, "matchPolicy", "Equivalent");
            put(webhook, "namespaceSelector", json!({}));
            put(webhook, "objectSelector", json!({}));
            put(webhook, "timeoutSeconds", 10);
            if kind == "MutatingWebhookConfiguration" {
                put(webhook, "reinvocationPolicy", "Never");
            }
            each(webhook, "rules", |rule| put(rule, "scope", "*"));
            within(webhook, "clientConfig", |config| {
                within(config, "service", |service| put(service, "port", 443));
            });
        }),
        "ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy" => within(object, "spec", |spec| {
            put(spec, "failurePolicy", "Fail");
            within(spec, "matchConstraints", matched);
        }),
        _ => within(object, "spec", |spec| within(spec, "matchResources", matched)),
    }
}

fn custom_resource_definition(spec: &mut Value) {
    // Go does not write what is false here, so nobody ever sees it.
    if let Some(fields) = spec.as_object_mut()
        && fields.get("preserveUnknownFields") == Some(&Value::Bool(false))
    {
        fields.remove("preserveUnknownFields");
    }
    within(spec, "names", |names| {
        let kind = text(names, "kind").to_owned();
        if !kind.is_empty() {
            put_text(names, "singular", &kind.to_lowercase());
            put_text(names, "listKind", &format!("{kind}List"));
        }
    });
    always(spec, "conversion", |conversion| {
        put_text(conversion, "strategy", "None");
        within(conversion, "webhook", |webhook| {
            within(webhook, "clientConfig", |config| {
                within(config, "service", |service| put(service, "port", 443));
            });
        });
    });
}

fn flow_control(kind: &str, object: &mut Value) {
    within(object, "spec", |spec| match kind {
        "FlowSchema" => {
            if at(spec, "matchingPrecedence") == 0 {
                spec["matchingPrecedence"] = Value::Null;
            }
            put(spec, "matchingPrecedence", 1000);
        }
        _ => {
            if text(spec, "type") == "Exempt" {
                always(spec, "exempt", |exempt| {
                    put(exempt, "nominalConcurrencyShares", 0);
                    put(exempt, "lendablePercent", 0);
                });
            }
            within(spec, "limited", |limited| {
                put(limited, "nominalConcurrencyShares", 30);
                put(limited, "lendablePercent", 0);
                within(limited, "limitResponse", |response| {
                    within(response, "queuing", |queuing| {
                        put_number(queuing, "queues", 64);
                        put_number(queuing, "handSize", 8);
                        put_number(queuing, "queueLengthLimit", 50);
                    });
                });
            });
        }
    });
}

fn resource_claim(spec: &mut Value) {
    let exact = |request: &mut Value| {
        put_text(request, "allocationMode", "ExactCount");
        if text(request, "allocationMode") == "ExactCount" {
            put(request, "count", 1);
        }
        each(request, "tolerations", |toleration| put_text(toleration, "operator", "Equal"));
    };
    within(spec, "devices", |devices| {
        each(devices, "requests", |request| {
            within(request, "exactly", exact);
            each(request, "firstAvailable", exact);
        });
    });
}

/// Labels that an object takes over from its template when it has none itself.
fn labels_from_template(object: &mut Value) {
    let labels = at(object, "spec.template.metadata.labels").clone();
    if size(object, "metadata.labels") == 0 && labels.as_object().is_some_and(|labels| !labels.is_empty()) {
        within(object, "metadata", |metadata| metadata["labels"] = labels);
    }
}

/// Whether any item of the list at `path` has `key`.
fn any_has(object: &Value, path: &str, key: &str) -> bool {
    list(object, path).iter().any(|item| item.get(key).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Catalogue;

    fn check(api_version: &str, kind: &str, mut object: Value, expected: Value) {
        let catalogue = Catalogue::builtin();
        let kind = catalogue.by_kind(api_version, kind).expect("built in");
        kind.default(&mut object);
        assert_eq!(object, expected, "{}", kind.kind);
        kind.default(&mut object);
        assert_eq!(object, expected, "defaults of {} change nothing the second time", kind.kind);
    }

    #[test]
    fn pods() {
        check(
            "v1",
            "Pod",
            json!({"spec": {"containers": [{
                "name": "a", "image": "nginx",
                "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "1"}},
                "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                "livenessProbe": {"httpGet": {"port": 80}}}, {"name": "b", "image": "x.io:5000/b:1.0"}],
                "serviceAccountName": "sa",
                "volumes": [{"name": "v"}, {"name": "c", "configMap": {"name": "c"}}]}}),
            json!({"metadata": {}, "spec": {
                "containers": [{
                    "name": "a", "image": "nginx", "imagePullPolicy": "Always",
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                    "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP", "apiVersion": "v1"}}}],
                    "livenessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                        "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"},
                    {"name": "b", "image": "x.io:5000/b:1.0", "imagePullPolicy": "IfNotPresent", "resources": {},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
                "volumes": [{"name": "v", "emptyDir": {}}, {"name": "c", "configMap": {"name": "c", "defaultMode": 420}}],
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {},
                "schedulerName": "default-scheduler", "terminationGracePeriodSeconds": 30, "enableServiceLinks": true,
                "serviceAccountName": "sa", "serviceAccount": "sa"}}),
        );
    }

    #[test]
    fn services() {
        check(
            "v1",
            "Service",
            json!({"spec": {"type": "NodePort", "ports": [{"port": 80}]}}),
            json!({"metadata": {}, "spec": {"type": "NodePort", "sessionAffinity": "None",
                "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster",
                "ports": [{"port": 80, "targetPort": 80, "protocol": "TCP"}]}}),
        );
        check(
            "v1",
            "Service",
            json!({"spec": {"type": "ExternalName", "externalName": "a.b"}}),
            json!({"metadata": {}, "spec": {"type": "ExternalName", "externalName": "a.b", "sessionAffinity": "None"}}),
        );
    }

    #[test]
    fn workloads() {
        let template = |spec: Value| json!({"metadata": {}, "spec": spec});
        let spec = json!({"dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {},
            "schedulerName": "default-scheduler", "terminationGracePeriodSeconds": 30});
        check(
            "apps/v1",
            "Deployment",
            json!({"spec": {"template": {}}}),
            json!({"metadata": {}, "spec": {"replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
                "template": template(spec.clone())}}),
        );
        check(
            "apps/v1",
            "Deployment",
            json!({"spec": {"replicas": 0, "strategy": {"type": "Recreate"}, "template": {}}}),
            json!({"metadata": {}, "spec": {"replicas": 0, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
                "strategy": {"type": "Recreate"}, "template": template(spec.clone())}}),
        );
        check(
            "batch/v1",
            "Job",
            json!({"spec": {"template": {"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "Never"}}}}),
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"completions": 1, "parallelism": 1, "backoffLimit": 6,
                "completionMode": "NonIndexed", "suspend": false, "podReplacementPolicy": "TerminatingOrFailed",
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"dnsPolicy": "ClusterFirst",
                    "restartPolicy": "Never", "securityContext": {}, "schedulerName": "default-scheduler",
                    "terminationGracePeriodSeconds": 30}}}}),
        );
    }

    #[test]
    fn others() {
        check(
            "rbac.authorization.k8s.io/v1",
            "RoleBinding",
            json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s"}]}),
            json!({"metadata": {}, "roleRef": {"kind": "Role", "name": "r", "apiGroup": RBAC},
                "subjects": [{"kind": "User", "name": "u", "apiGroup": RBAC}, {"kind": "ServiceAccount", "name": "s"}]}),
        );
        check(
            "v1",
            "Namespace",
            json!({"metadata": {"name": "a"}}),
            json!({"metadata": {"name": "a", "labels": {"kubernetes.io/metadata.name": "a"}}, "spec": {}}),
        );
        check(
            "networking.k8s.io/v1",
            "NetworkPolicy",
            json!({"spec": {"egress": [{"ports": [{"port": 1}]}]}}),
            json!({"metadata": {}, "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"],
                "egress": [{"ports": [{"port": 1, "protocol": "TCP"}]}]}}),
        );
    }
}
