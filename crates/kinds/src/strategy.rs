//! What happens to an object between decoding and validation: which parts the endpoint keeps, and the generation.

mod pod;
mod service;

use serde_json::{Map, Value, json};

use crate::kind::Kind;
use crate::path::{at, int, text};
use crate::validation::job::{NAME_LABELS, UID_LABELS};

/// How a kind counts `metadata.generation`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counts {
    /// Not at all.
    Never,
    /// When the spec changes.
    Spec,
    /// When anything but metadata changes.
    Content,
    /// When anything but metadata changes, or the labels do.
    ContentAndLabels,
    /// Once, at birth.
    Birth,
}

fn counts(kind: &Kind) -> Counts {
    match (&*kind.group, &*kind.kind) {
        ("apps", "ControllerRevision") => Counts::Never,
        ("apps", _) | ("batch", _) | ("policy", _) | ("flowcontrol.apiserver.k8s.io", _) => Counts::Spec,
        ("", "Pod" | "ReplicationController" | "PodTemplate") => Counts::Spec,
        ("networking.k8s.io", "Ingress" | "NetworkPolicy" | "IngressClass") => Counts::Spec,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => Counts::Spec,
        ("discovery.k8s.io", "EndpointSlice") => Counts::ContentAndLabels,
        ("admissionregistration.k8s.io", _) => Counts::Content,
        ("scheduling.k8s.io", "PriorityClass") => Counts::Birth,
        ("resource.k8s.io", "DeviceClass" | "ResourceSlice") => Counts::Spec,
        _ => Counts::Never,
    }
}

/// Whether the kind has a status that only its own endpoint may write.
fn has_status(kind: &Kind) -> bool {
    kind.subresource("status").is_some()
}

fn insert(object: &mut Value, key: &str, value: Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(key.to_owned(), value);
    }
}

fn remove(object: &mut Value, key: &str) {
    if let Some(fields) = object.as_object_mut() {
        fields.remove(key);
    }
}

/// The status with which an object is born.
fn first_status(kind: &Kind) -> Value {
    match (&*kind.group, &*kind.kind) {
        ("", "Pod") => json!({"phase": "Pending"}),
        ("", "Namespace") => json!({"phase": "Active"}),
        ("", "PersistentVolume" | "PersistentVolumeClaim") => json!({"phase": "Pending"}),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            json!({"acceptedNames": {"kind": "", "plural": ""}, "conditions": [], "storedVersions": []})
        }
        ("", "Service") | ("networking.k8s.io", "Ingress") => json!({"loadBalancer": {}}),
        _ => json!({}),
    }
}

pub(crate) fn prepare_create(kind: &Kind, object: &mut Value) {
    if kind.custom().is_some() {
        return crate::custom::strategy::prepare_create(kind, object);
    }
    if counts(kind) == Counts::Never {
        if let Some(metadata) = object.get_mut("metadata") {
            remove(metadata, "generation");
        }
    } else if let Some(metadata) = object.get_mut("metadata") {
        insert(metadata, "generation", Value::from(1));
    }
    if has_status(kind) {
        // A kubelet registers its Node together with the status; upstream keeps it too.
        let keeps = matches!((&*kind.group, &*kind.kind), ("", "Node") | ("apiregistration.k8s.io", _));
        if !keeps || !object.get("status").is_some_and(Value::is_object) {
            insert(object, "status", first_status(kind));
        }
    }
    match (&*kind.group, &*kind.kind) {
        ("", "Pod") => pod::create(object),
        ("", "Secret") => write_string_data(object),
        ("", "Namespace") => namespace_finalizer(object),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => note_storage_version(object),
        ("", "Service") => service::create(object),
        ("batch", "Job") => generate_selector(object),
        _ => {}
    }
    finish(kind, object);
}

/// A job selects its pods by its own uid, unless its author sees to that.
fn generate_selector(job: &mut Value) {
    if job["spec"]["manualSelector"] == true {
        return;
    }
    let (uid, name) = (job["metadata"]["uid"].clone(), job["metadata"]["name"].clone());
    let labels = &mut job["spec"]["template"]["metadata"]["labels"];
    for label in NAME_LABELS {
        fill(labels, label, &name);
    }
    for label in UID_LABELS {
        fill(labels, label, &uid);
    }
    fill(&mut job["spec"]["selector"]["matchLabels"], UID_LABELS[1], &uid);
}

/// Puts `value` at `key` unless something stands there; makes the object if there is none.
fn fill(object: &mut Value, key: &str, value: &Value) {
    if object.is_null() {
        *object = json!({});
    }
    if let Some(fields) = object.as_object_mut() {
        fields.entry(key).or_insert_with(|| value.clone());
    }
}

pub(crate) fn prepare_update(kind: &Kind, object: &mut Value, old: &Value, subresource: Option<&str>) {
    if kind.custom().is_some() {
        return crate::custom::strategy::prepare_update(kind, object, old, subresource);
    }
    match subresource {
        None => {
            if has_status(kind) {
                keep(object, old, "status");
            }
            if (&*kind.group, &*kind.kind) == ("", "Secret") {
                write_string_data(object);
            }
            if (&*kind.group, &*kind.kind) == ("apiextensions.k8s.io", "CustomResourceDefinition") {
                note_storage_version(object);
            }
            if (&*kind.group, &*kind.kind) == ("", "Service") {
                service::update(object, old);
            }
            if (&*kind.group, &*kind.kind) == ("", "Namespace") {
                // Only the `finalize` endpoint may take finalizers of the spec away.
                keep(object, old, "spec");
            }
            if &*kind.kind == "CertificateSigningRequest" {
                // What somebody asked to have signed, and who it was, never changes.
                keep(object, old, "spec");
            }
        }
        Some("status" | "approval") => {
            let status = object.get_mut("status").map(Value::take);
            let approval = subresource == Some("approval");
            let metadata = object.get_mut("metadata").map(Value::take).unwrap_or_default();
            let mut next = old.clone();
            let status = match approval {
                // Approval writes the conditions alone, and keeps what else the status has.
                true => {
                    let conditions = status.map(|mut status| status["conditions"].take()).unwrap_or_default();
                    let mut kept = at(old, "status").as_object().cloned().unwrap_or_default();
                    kept.remove("conditions");
                    if !conditions.is_null() {
                        kept.insert("conditions".to_owned(), conditions);
                    }
                    Some(Value::Object(kept))
                }
                false => status.filter(|status| !status.is_null()),
            };
            let status = match &*kind.kind {
                "CertificateSigningRequest" if !approval => status.map(|status| keep_approval(status, old)),
                _ => status,
            };
            match status {
                Some(status) => insert(&mut next, "status", status),
                None => remove(&mut next, "status"),
            }
            // A status endpoint takes labels, annotations, finalizers and owners along, but never the generation.
            let generation = at(old, "metadata.generation").clone();
            insert(&mut next, "metadata", metadata);
            restore_metadata(&mut next, &generation);
            *object = next;
        }
        Some("finalize") => {
            let finalizers = at(object, "spec.finalizers").clone();
            let status = at(old, "status").clone();
            insert(object, "status", status);
            if finalizers.is_null() {
                insert(object, "spec", json!({}));
            } else {
                insert(object, "spec", json!({"finalizers": finalizers}));
            }
        }
        Some("ephemeralcontainers") => narrow(object, old, |next, asked| {
            let wanted = at(asked, "spec.ephemeralContainers").clone();
            insert(&mut next["spec"], "ephemeralContainers", wanted);
        }),
        Some("resize") => narrow(object, old, |next, asked| {
            for list in ["containers", "initContainers"] {
                resize(&mut next["spec"][list], at(asked, "spec").get(list).unwrap_or(&Value::Null));
            }
            match at(asked, "spec.resources") {
                Value::Null => {}
                resources => insert(&mut next["spec"], "resources", resources.clone()),
            }
        }),
        Some(_) => {}
    }
    let before = int(old, "metadata.generation").unwrap_or(0);
    let changed = match (counts(kind), subresource) {
        (Counts::Never | Counts::Birth, _) | (_, Some("status" | "approval" | "finalize")) => false,
        (Counts::Spec, _) => at(object, "spec") != at(old, "spec"),
        (Counts::Content, _) => content(object).ne(content(old)),
        (Counts::ContentAndLabels, _) => {
            content(object).ne(content(old)) || at(object, "metadata.labels") != at(old, "metadata.labels")
        }
    };
    // The start of a graceful deletion counts as a change of the spec for those that count.
    let dying = at(old, "metadata.deletionTimestamp").is_null() && !at(object, "metadata.deletionTimestamp").is_null();
    if counts(kind) != Counts::Never {
        let next = if changed || dying { before + 1 } else { before };
        if let Some(metadata) = object.get_mut("metadata") {
            if next > 0 {
                insert(metadata, "generation", Value::from(next));
            } else {
                remove(metadata, "generation");
            }
        }
    }
    finish(kind, object);
}

/// The status endpoint of a signing request neither approves nor denies: those conditions stay as they were.
fn keep_approval(mut status: Value, old: &Value) -> Value {
    let decides = |condition: &Value| matches!(condition["type"].as_str(), Some("Approved" | "Denied"));
    let before =
        at(old, "status.conditions").as_array().into_iter().flatten().filter(|condition| decides(condition)).cloned();
    let now = status["conditions"].as_array().into_iter().flatten().filter(|condition| !decides(condition)).cloned();
    let conditions: Vec<Value> = before.chain(now).collect();
    if conditions.is_empty() {
        remove(&mut status, "conditions");
    } else {
        insert(&mut status, "conditions", Value::from(conditions));
    }
    status
}

/// An endpoint that may change one part of an object: all else stays as it was.
fn narrow(object: &mut Value, old: &Value, change: impl FnOnce(&mut Value, &Value)) {
    let mut next = old.clone();
    // Managed fields and the version that the client has seen belong to the request.
    for field in ["managedFields", "resourceVersion"] {
        let value = object["metadata"][field].take();
        if !value.is_null() {
            insert(&mut next["metadata"], field, value);
        }
    }
    change(&mut next, object);
    *object = next;
}

/// Takes the resources of containers over, by name, in the order of the request: validation says what is wrong with
/// another order or another name.
///
/// Source: `dropNonResizeUpdates` in `pkg/registry/core/pod/strategy.go`.
fn resize(containers: &mut Value, asked: &Value) {
    let (Some(known), Some(asked)) = (containers.as_array(), asked.as_array()) else { return };
    let taken = |other: &Value| {
        let Some(container) = known.iter().find(|container| container["name"] == other["name"]) else {
            return other.clone();
        };
        let mut container = container.clone();
        for field in ["resources", "resizePolicy"] {
            match &other[field] {
                Value::Null => {}
                value => insert(&mut container, field, value.clone()),
            }
        }
        container
    };
    *containers = asked.iter().map(taken).collect();
}

fn restore_metadata(object: &mut Value, generation: &Value) {
    if let Some(metadata) = object.get_mut("metadata") {
        if generation.is_null() {
            remove(metadata, "generation");
        } else {
            insert(metadata, "generation", generation.clone());
        }
    }
}

/// The fields of an object that are neither its metadata nor its status.
fn content(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    let fields = object.as_object().into_iter().flat_map(Map::iter);
    fields.filter(|(name, _)| !matches!(name.as_str(), "metadata" | "status"))
}

fn keep(object: &mut Value, old: &Value, key: &str) {
    match old.get(key) {
        Some(value) => insert(object, key, value.clone()),
        None => remove(object, key),
    }
}

fn finish(kind: &Kind, object: &mut Value) {
    let schema = kind.schema();
    if let Some(fields) = object.as_object_mut() {
        schema.complete(fields);
    }
    if let (Some(Value::Object(status)), Some(schema)) = (object.get_mut("status"), schema.field("status")) {
        schema.complete(status);
    }
}

/// `stringData` is only for writing: it goes into `data`.
fn write_string_data(object: &mut Value) {
    use base64::Engine as _;
    let Some(fields) = object.as_object_mut() else { return };
    let Some(Value::Object(texts)) = fields.remove("stringData") else { return };
    if texts.is_empty() {
        return;
    }
    let data = fields.entry("data").or_insert_with(|| json!({}));
    for (key, text) in texts {
        let encoded = base64::engine::general_purpose::STANDARD.encode(text.as_str().unwrap_or_default());
        data[key] = Value::from(encoded);
    }
}

/// A definition remembers every version in which objects may have been stored.
fn note_storage_version(object: &mut Value) {
    let versions = crate::path::list(object, "spec.versions");
    let Some(name) = versions.iter().find(|version| version["storage"] == true).map(|version| version["name"].clone())
    else {
        return;
    };
    if !object["status"].is_object() {
        insert(object, "status", json!({}));
    }
    let stored = &mut object["status"]["storedVersions"];
    match stored.as_array_mut() {
        Some(stored) if stored.contains(&name) => {}
        Some(stored) => stored.push(name),
        None => *stored = json!([name]),
    }
}

fn namespace_finalizer(object: &mut Value) {
    let listed = at(object, "spec.finalizers").as_array().is_some_and(|list| list.iter().any(|f| f == "kubernetes"));
    if listed {
        return;
    }
    let mut finalizers = at(object, "spec.finalizers").as_array().cloned().unwrap_or_default();
    finalizers.push(Value::from("kubernetes"));
    insert(object, "spec", json!({"finalizers": finalizers}));
}

/// `Guaranteed` when every container limits CPU and memory to what it requests, `BestEffort` when none asks for any.
pub(crate) fn quality_of_service(spec: &Value) -> &'static str {
    use crate::quantity::Quantity;
    let amount = |container: &Value, which: &str, resource: &str| -> Option<Quantity> {
        let quantity: Quantity = text(at(container, "resources"), &format!("{which}.{resource}")).parse().ok()?;
        (!quantity.is_zero()).then_some(quantity)
    };
    let mut guaranteed = true;
    let mut best_effort = true;
    let containers = ["initContainers", "containers"].iter().flat_map(|key| crate::path::list(spec, key));
    // Resources of the pod itself, where they are given, decide alone.
    let pod_level =
        ["requests", "limits"].iter().any(|which| crate::path::size(spec, &format!("resources.{which}")) > 0);
    let whole = std::iter::once(spec);
    let judged: Vec<&Value> = if pod_level { whole.collect() } else { containers.collect() };
    for container in judged {
        for resource in ["cpu", "memory"] {
            let (request, limit) = (amount(container, "requests", resource), amount(container, "limits", resource));
            best_effort &= request.is_none() && limit.is_none();
            guaranteed &= limit.is_some() && request == limit;
        }
    }
    match (best_effort, guaranteed) {
        (true, _) => "BestEffort",
        (_, true) => "Guaranteed",
        _ => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Catalogue;

    fn kind(api_version: &str, name: &str) -> std::sync::Arc<Kind> {
        std::sync::Arc::clone(Catalogue::builtin().by_kind(api_version, name).expect("built in"))
    }

    #[test]
    fn creates() {
        let check = |api_version: &str, name: &str, mut object: Value, expected: Value| {
            kind(api_version, name).prepare_create(&mut object);
            assert_eq!(object, expected);
        };
        check(
            "apps/v1",
            "Deployment",
            json!({"metadata": {"generation": 7}, "spec": {}, "status": {"replicas": 9}}),
            json!({"metadata": {"generation": 1}, "spec": {}, "status": {}}),
        );
        check(
            "apps/v1",
            "ReplicaSet",
            json!({"metadata": {}, "spec": {}}),
            json!({"metadata": {"generation": 1}, "spec": {}, "status": {"replicas": 0}}),
        );
        check(
            "v1",
            "Secret",
            json!({"metadata": {}, "data": {"a": "YQ=="}, "stringData": {"b": "b"}}),
            json!({"metadata": {}, "data": {"a": "YQ==", "b": "Yg=="}}),
        );
        check(
            "v1",
            "Namespace",
            json!({"metadata": {}}),
            json!({"metadata": {}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}),
        );
    }

    #[test]
    fn updates() {
        let deployment = kind("apps/v1", "Deployment");
        let old =
            json!({"metadata": {"generation": 2, "labels": {"a": "b"}}, "spec": {"replicas": 1}, "status": {"x": 1}});
        let check = |mut new: Value, subresource: Option<&str>, expected: Value| {
            deployment.prepare_update(&mut new, &old, subresource);
            assert_eq!(new, expected);
        };
        check(
            json!({"metadata": {"generation": 9}, "spec": {"replicas": 1}, "status": {"x": 2}}),
            None,
            json!({"metadata": {"generation": 2}, "spec": {"replicas": 1}, "status": {"x": 1}}),
        );
        check(
            json!({"metadata": {}, "spec": {"replicas": 2}}),
            None,
            json!({"metadata": {"generation": 3}, "spec": {"replicas": 2}, "status": {"x": 1}}),
        );
        check(
            json!({"metadata": {"labels": {"c": "d"}}, "spec": {"replicas": 9}, "status": {"x": 2}}),
            Some("status"),
            json!({"metadata": {"generation": 2, "labels": {"c": "d"}}, "spec": {"replicas": 1}, "status": {"x": 2}}),
        );
    }

    #[test]
    fn generations() {
        let check = |api_version: &str, name: &str, change: &str, value: Value, expected: i64| {
            let old = json!({"metadata": {"generation": 1}});
            let mut new = merged(old.clone(), change, value);
            kind(api_version, name).prepare_update(&mut new, &old, None);
            assert_eq!(new["metadata"]["generation"], expected, "{name} {change}");
        };
        fn merged(mut object: Value, at: &str, value: Value) -> Value {
            match at.split_once('.') {
                Some((first, rest)) => object[first] = merged(object[first].take(), rest, value),
                None => object[at] = value,
            }
            object
        }
        check("discovery.k8s.io/v1", "EndpointSlice", "metadata.labels", json!({"a": "b"}), 2);
        check("discovery.k8s.io/v1", "EndpointSlice", "metadata.annotations", json!({"a": "b"}), 1);
        check("discovery.k8s.io/v1", "EndpointSlice", "endpoints", json!([{}]), 2);
        check("scheduling.k8s.io/v1", "PriorityClass", "description", json!("d"), 1);
        check("networking.k8s.io/v1", "IngressClass", "spec", json!({"controller": "c"}), 2);
        check("networking.k8s.io/v1", "Ingress", "metadata.labels", json!({"a": "b"}), 1);
    }

    #[test]
    fn classes_of_service() {
        let check = |resources: &[Value], expected: &str| {
            let containers: Vec<Value> = resources.iter().map(|r| json!({"resources": r})).collect();
            assert_eq!(quality_of_service(&json!({"containers": containers})), expected, "{resources:?}");
        };
        let full = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}});
        check(&[json!({})], "BestEffort");
        check(std::slice::from_ref(&full), "Guaranteed");
        check(&[full.clone(), json!({})], "Burstable");
        check(&[json!({"requests": {"cpu": "1"}})], "Burstable");
        check(&[json!({"requests": {"cpu": "0"}})], "BestEffort");
    }
}
