//! The fields that field selectors may name, as flat lists of paths.

use serde_json::Value;

use crate::kind::Kind;
use crate::path::at;

const POD: &[(&str, &str)] = &[
    ("spec.nodeName", "spec.nodeName"),
    ("spec.restartPolicy", "spec.restartPolicy"),
    ("spec.schedulerName", "spec.schedulerName"),
    ("spec.serviceAccountName", "spec.serviceAccountName"),
    ("spec.hostNetwork", "spec.hostNetwork"),
    ("status.phase", "status.phase"),
    ("status.podIP", "status.podIP"),
    ("status.podIPs", "status.podIPs"),
    ("status.nominatedNodeName", "status.nominatedNodeName"),
];

const EVENT: &[(&str, &str)] = &[
    ("involvedObject.kind", "involvedObject.kind"),
    ("involvedObject.namespace", "involvedObject.namespace"),
    ("involvedObject.name", "involvedObject.name"),
    ("involvedObject.uid", "involvedObject.uid"),
    ("involvedObject.apiVersion", "involvedObject.apiVersion"),
    ("involvedObject.resourceVersion", "involvedObject.resourceVersion"),
    ("involvedObject.fieldPath", "involvedObject.fieldPath"),
    ("reason", "reason"),
    ("reportingComponent", "reportingComponent"),
    ("source", "source.component"),
    ("type", "type"),
];

/// `events.k8s.io` has its own names for the same fields; those of core are taken too.
const NEW_EVENT: &[(&str, &str)] = &[
    ("involvedObject.kind", "regarding.kind"),
    ("involvedObject.namespace", "regarding.namespace"),
    ("involvedObject.name", "regarding.name"),
    ("involvedObject.uid", "regarding.uid"),
    ("involvedObject.apiVersion", "regarding.apiVersion"),
    ("involvedObject.resourceVersion", "regarding.resourceVersion"),
    ("involvedObject.fieldPath", "regarding.fieldPath"),
    ("regarding.kind", "regarding.kind"),
    ("regarding.namespace", "regarding.namespace"),
    ("regarding.name", "regarding.name"),
    ("regarding.uid", "regarding.uid"),
    ("regarding.apiVersion", "regarding.apiVersion"),
    ("regarding.resourceVersion", "regarding.resourceVersion"),
    ("regarding.fieldPath", "regarding.fieldPath"),
    ("reason", "reason"),
    ("reportingComponent", "reportingController"),
    ("reportingController", "reportingController"),
    ("source", "deprecatedSource.component"),
    ("type", "type"),
];

fn table(kind: &Kind) -> &'static [(&'static str, &'static str)] {
    match (&*kind.group, &*kind.kind) {
        ("", "Pod") => POD,
        ("", "Event") => EVENT,
        ("events.k8s.io", "Event") => NEW_EVENT,
        ("", "Node") => &[("spec.unschedulable", "spec.unschedulable")],
        ("", "Namespace") => &[("status.phase", "status.phase"), ("name", "metadata.name")],
        ("", "PersistentVolume") => &[("name", "metadata.name")],
        ("", "PersistentVolumeClaim") => &[("name", "metadata.name")],
        ("", "Secret") => &[("type", "type")],
        ("", "Service") => &[("spec.clusterIP", "spec.clusterIP"), ("spec.type", "spec.type")],
        ("", "ReplicationController") | ("apps", "ReplicaSet") => &[("status.replicas", "status.replicas")],
        ("batch", "Job") => &[("status.successful", "status.succeeded")],
        ("certificates.k8s.io", "CertificateSigningRequest") => &[("spec.signerName", "spec.signerName")],
        ("networking.k8s.io", "IPAddress") => &[],
        ("resource.k8s.io", "ResourceSlice") => &[("spec.nodeName", "spec.nodeName"), ("spec.driver", "spec.driver")],
        _ => &[],
    }
}

/// Names whose value is a number or a truth: absent means zero or false.
fn absent(name: &str) -> &'static str {
    match name {
        "spec.unschedulable" | "spec.hostNetwork" => "false",
        "status.replicas" | "status.successful" => "0",
        _ => "",
    }
}

pub(crate) fn names(kind: &Kind) -> Vec<&str> {
    let mut names = vec!["metadata.name"];
    if kind.namespaced {
        names.push("metadata.namespace");
    }
    names.extend(table(kind).iter().map(|(name, _)| *name));
    names.extend(kind.custom().into_iter().flat_map(|custom| &custom.selectable).map(|(name, _)| &**name));
    names
}

pub(crate) fn fields(kind: &Kind, object: &Value) -> Vec<(&'static str, String)> {
    let mut fields = Vec::with_capacity(4);
    let mut add = |name: &'static str, path: &str| {
        let value = match at(object, path) {
            Value::String(text) => text.clone(),
            Value::Null => absent(name).to_owned(),
            // `status.podIPs` selects by the first addresses joined, as upstream does.
            Value::Array(items) => items.iter().map(|item| crate::path::text(item, "ip")).collect::<Vec<_>>().join(","),
            other => other.to_string(),
        };
        fields.push((name, value));
    };
    add("metadata.name", "metadata.name");
    if kind.namespaced {
        add("metadata.namespace", "metadata.namespace");
    }
    for (name, path) in table(kind) {
        // An event of the new group has no source but its controller.
        let component = || crate::path::text(object, path).is_empty();
        match *name {
            "source" if component() && kind.group.is_empty() => add(name, "reportingComponent"),
            "source" if component() => add(name, "reportingController"),
            _ => add(name, path),
        }
    }
    fields
}
