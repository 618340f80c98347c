//! What one object uses of a quota, which quotas it falls under, and what a pod needs in all.
//!
//! Admission refuses by it, and the controller of quotas fills in their status by it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::quantity::Quantity;

/// Resources by name.
pub type Resources = BTreeMap<String, Quantity>;

/// Reads a map of quantities; what is no quantity cannot have passed validation.
pub fn resources(value: Option<&Value>) -> Resources {
    let map = value.and_then(Value::as_object).into_iter().flatten();
    map.filter_map(|(name, quantity)| {
        let quantity = match quantity {
            Value::String(text) => text.parse().ok()?,
            number => number.to_string().parse().ok()?,
        };
        Some((name.clone(), quantity))
    })
    .collect()
}

/// What a pod needs at most at one time: the sum of its containers (and of init containers that go on running), or the
/// largest init container beside those that run already.
pub fn pod_total(spec: &Value, field: &str) -> Resources {
    let own = |container: &Value| resources(container.get("resources").and_then(|all| all.get(field)));
    let add = |total: &mut Resources, more: &Resources| {
        for (name, quantity) in more {
            let sum = total.get(name).map_or(*quantity, |own| *own + *quantity);
            total.insert(name.clone(), sum);
        }
    };
    let raise = |total: &mut Resources, other: &Resources| {
        for (name, quantity) in other {
            let largest = total.get(name).map_or(*quantity, |own| (*own).max(*quantity));
            total.insert(name.clone(), largest);
        }
    };
    let mut total = Resources::new();
    for container in items(spec, "containers") {
        add(&mut total, &own(container));
    }
    let (mut sidecars, mut starting) = (Resources::new(), Resources::new());
    for container in items(spec, "initContainers") {
        let mut at_once = own(container);
        if text(container, "restartPolicy") == "Always" {
            add(&mut total, &at_once);
            add(&mut sidecars, &at_once);
            raise(&mut starting, &sidecars);
        } else {
            add(&mut at_once, &sidecars);
            raise(&mut starting, &at_once);
        }
    }
    raise(&mut total, &starting);
    // Resources that the pod itself names stand in place of the sum.
    for (name, quantity) in resources(spec.get("resources").and_then(|all| all.get(field))) {
        total.insert(name, quantity);
    }
    let overhead = resources(spec.get("overhead"));
    if field == "requests" {
        add(&mut total, &overhead);
    } else {
        for (name, quantity) in overhead {
            if let Some(own) = total.get_mut(&name) {
                *own = *own + quantity;
            }
        }
    }
    total
}

/// The resources that every container must name when a quota bounds them.
const COMPUTE: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

/// What follows the name of a device class in the name of its resource.
pub const DEVICES_OF_CLASS: &str = ".deviceclass.resource.k8s.io/devices";
/// What a request for all devices counts: no claim is given more (`AllocationResultsMaxSize` of `resource.k8s.io`).
const MOST_DEVICES: i64 = 32;

/// An object's use of quotas.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Measured {
    /// How much of each resource it uses.
    pub used: Resources,
    /// What scopes ask for.
    scopes: Scopes,
}

/// What scopes ask of an object.
#[derive(Debug, Clone, Default, PartialEq)]
enum Scopes {
    /// An object that no scope takes in.
    #[default]
    None,
    Pod(PodScopes),
    /// The volume attributes classes that a claim of storage has, had or is to have.
    Claim(BTreeSet<String>),
}

#[derive(Debug, Clone, Default, PartialEq)]
struct PodScopes {
    terminating: bool,
    best_effort: bool,
    priority_class: String,
    cross_namespace_affinity: bool,
    /// For each compute resource, the containers that do not name it.
    silent: BTreeMap<String, Vec<String>>,
}

/// Measures an object of a resource.
pub fn measure(group: &str, resource: &str, object: &Value) -> Measured {
    let mut used = Resources::new();
    let one = Quantity::from_milli(1000);
    let qualified = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
    used.insert(format!("count/{qualified}"), one);
    let mut scopes = Scopes::None;
    match (group, resource) {
        ("", "pods") => {
            measure_pod(object, &mut used, one);
            scopes = Scopes::Pod(scopes_of(object));
        }
        ("", "services") => {
            used.insert("services".into(), one);
            measure_service(&object["spec"], &mut used, one);
        }
        ("", "persistentvolumeclaims") => {
            measure_claim(object, &mut used, one);
            scopes = Scopes::Claim(attributes_classes(object));
        }
        ("resource.k8s.io", "resourceclaims") => measure_devices(object, &mut used),
        ("", "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas") => {
            used.insert(resource.into(), one);
        }
        _ => {}
    }
    Measured { used, scopes }
}

fn measure_pod(pod: &Value, used: &mut Resources, one: Quantity) {
    if matches!(text(&pod["status"], "phase"), "Succeeded" | "Failed") {
        // A pod that has ended occupies its name only.
        return;
    }
    used.insert("pods".into(), one);
    for (name, quantity) in pod_total(&pod["spec"], "requests") {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-") {
            used.insert(name.clone(), quantity);
        }
        used.insert(format!("requests.{name}"), quantity);
    }
    for (name, quantity) in pod_total(&pod["spec"], "limits") {
        used.insert(format!("limits.{name}"), quantity);
    }
}

fn measure_service(spec: &Value, used: &mut Resources, one: Quantity) {
    let ports = items(spec, "ports").len() as i64;
    let node_ports = match text(spec, "type") {
        "NodePort" => ports,
        "LoadBalancer" => {
            used.insert("services.loadbalancers".into(), one);
            if spec["allocateLoadBalancerNodePorts"] == false {
                items(spec, "ports").iter().filter(|port| port["nodePort"].as_i64().unwrap_or_default() != 0).count()
                    as i64
            } else {
                ports
            }
        }
        _ => 0,
    };
    if node_ports > 0 {
        used.insert("services.nodeports".into(), Quantity::from_milli(node_ports * 1000));
    }
}

fn measure_claim(claim: &Value, used: &mut Resources, one: Quantity) {
    let class = claim
        .pointer("/metadata/annotations/volume.beta.kubernetes.io~1storage-class")
        .and_then(Value::as_str)
        .unwrap_or_else(|| text(&claim["spec"], "storageClassName"));
    // Storage is counted in whole bytes, and an enlargement that was called off while it was under way still has its room.
    let storage = |pointer: &str| resources(claim.pointer(pointer)).get("storage").copied();
    let allocated = storage("/status/allocatedResources");
    let storage = storage("/spec/resources/requests").map(|asked| {
        let most = allocated.map_or(asked, |allocated| asked.max(allocated));
        if most.is_integer() { most } else { Quantity::from_milli(most.value().saturating_mul(1000)) }
    });
    used.insert("persistentvolumeclaims".into(), one);
    if let Some(storage) = storage {
        used.insert("requests.storage".into(), storage);
    }
    if !class.is_empty() {
        used.insert(format!("{class}.storageclass.storage.k8s.io/persistentvolumeclaims"), one);
        if let Some(storage) = storage {
            used.insert(format!("{class}.storageclass.storage.k8s.io/requests.storage"), storage);
        }
    }
}

/// The classes that count for a claim: the one it asks for, the one it has, and the one it is being changed to.
fn attributes_classes(claim: &Value) -> BTreeSet<String> {
    let status = &claim["status"];
    let names = [
        text(&claim["spec"], "volumeAttributesClassName"),
        text(status, "currentVolumeAttributesClassName"),
        text(&status["modifyVolumeStatus"], "targetVolumeAttributesClassName"),
    ];
    names.into_iter().filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Devices by class; of requests that can be met one way or another, the most that any way takes of a class.
///
/// Upstream: <https://github.com/kubernetes/kubernetes/blob/master/pkg/quota/v1/evaluator/core/resource_claims.go>.
fn measure_devices(claim: &Value, used: &mut Resources) {
    for request in items(&claim["spec"]["devices"], "requests") {
        let exactly = request.get("exactly").filter(|exactly| !exactly.is_null()).map(std::slice::from_ref);
        let mut most: BTreeMap<&str, i64> = BTreeMap::new();
        for way in exactly.unwrap_or_else(|| items(request, "firstAvailable")) {
            let devices = match text(way, "allocationMode") {
                "All" => MOST_DEVICES,
                _ => way.get("count").and_then(Value::as_i64).unwrap_or(1),
            };
            let of_class = most.entry(text(way, "deviceClassName")).or_default();
            *of_class = devices.max(*of_class);
        }
        for (class, devices) in most.into_iter().filter(|(class, _)| !class.is_empty()) {
            let sum = used.entry(format!("{class}{DEVICES_OF_CLASS}")).or_insert_with(|| Quantity::from_milli(0));
            *sum = *sum + Quantity::from_milli(devices.saturating_mul(1000));
        }
    }
}

fn scopes_of(pod: &Value) -> PodScopes {
    let spec = &pod["spec"];
    let mut scopes = PodScopes {
        terminating: is_set(spec, "activeDeadlineSeconds"),
        best_effort: true,
        priority_class: text(spec, "priorityClassName").to_owned(),
        ..PodScopes::default()
    };
    // Resources of the pod itself stand for those of its containers, which then need not name any.
    let of_pod = ["requests", "limits"].into_iter().map(|field| resources(spec["resources"].get(field)));
    let of_pod: Vec<Resources> = of_pod.collect();
    let whole_pod = of_pod.iter().flatten().any(|(name, _)| is_compute(name));
    if of_pod.iter().flatten().any(|(name, quantity)| is_compute(name) && !quantity.is_zero()) {
        scopes.best_effort = false;
    }
    for container in items(spec, "containers").iter().chain(items(spec, "initContainers")) {
        let own = container.get("resources").unwrap_or(&Value::Null);
        for (field, prefixes) in [("requests", ["", "requests."].as_slice()), ("limits", &["limits."])] {
            let named = resources(own.get(field));
            for name in ["cpu", "memory"] {
                // Nothing of a resource is as good as no word about it, but it is a word.
                if !whole_pod && named.get(name).is_some_and(|quantity| !quantity.is_zero()) {
                    scopes.best_effort = false;
                }
                if whole_pod || named.contains_key(name) {
                    continue;
                }
                for prefix in prefixes {
                    let silent = scopes.silent.entry(format!("{prefix}{name}")).or_default();
                    silent.push(text(container, "name").to_owned());
                }
            }
        }
    }
    let terms = ["podAffinity", "podAntiAffinity"].into_iter().flat_map(|kind| {
        let affinity = &spec["affinity"][kind];
        let required = items(affinity, "requiredDuringSchedulingIgnoredDuringExecution").iter();
        let preferred = items(affinity, "preferredDuringSchedulingIgnoredDuringExecution").iter();
        required.chain(preferred.filter_map(|term| term.get("podAffinityTerm")))
    });
    scopes.cross_namespace_affinity =
        terms.into_iter().any(|term| !items(term, "namespaces").is_empty() || is_set(term, "namespaceSelector"));
    scopes
}

impl Measured {
    /// Whether a quota's scopes take the object in. Only pods and claims of storage fall under quotas with scopes.
    pub fn in_scope(&self, quota: &Value) -> bool {
        let spec = &quota["spec"];
        let plain = items(spec, "scopes").iter().filter_map(Value::as_str).map(|scope| (scope, "Exists", &[][..]));
        let chosen = items(&spec["scopeSelector"], "matchExpressions").iter().map(|expression| {
            (text(expression, "scopeName"), text(expression, "operator"), items(expression, "values"))
        });
        plain.chain(chosen).all(|(scope, operator, values)| match &self.scopes {
            Scopes::None => false,
            Scopes::Pod(pod) => pod.is_in(scope, operator, values),
            Scopes::Claim(_) if scope != "VolumeAttributesClass" => false,
            Scopes::Claim(classes) if classes.is_empty() => named("", operator, values),
            Scopes::Claim(classes) => classes.iter().any(|class| named(class, operator, values)),
        })
    }

    /// The compute resources that a quota bounds and some containers do not name, as upstream's message lists them.
    pub fn unspecified(&self, hard: &Resources) -> Option<String> {
        let Scopes::Pod(pod) = &self.scopes else { return None };
        let mut parts: Vec<String> = Vec::new();
        for name in COMPUTE.iter().filter(|name| hard.contains_key(**name)) {
            if let Some(containers) = pod.silent.get(*name) {
                let mut containers = containers.clone();
                containers.sort();
                containers.dedup();
                parts.push(format!("{name} for: {}", containers.join(",")));
            }
        }
        parts.sort();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

impl PodScopes {
    fn is_in(&self, scope: &str, operator: &str, values: &[Value]) -> bool {
        match scope {
            "Terminating" => self.terminating,
            "NotTerminating" => !self.terminating,
            "BestEffort" => self.best_effort,
            "NotBestEffort" => !self.best_effort,
            "CrossNamespacePodAffinity" => self.cross_namespace_affinity,
            "PriorityClass" => named(&self.priority_class, operator, values),
            _ => false,
        }
    }
}

/// Whether an operator of a scope's selector takes a name in; the empty text is no name.
fn named(name: &str, operator: &str, values: &[Value]) -> bool {
    let listed = values.iter().any(|value| value.as_str() == Some(name));
    match operator {
        "In" => listed,
        "NotIn" => !listed,
        "DoesNotExist" => name.is_empty(),
        _ => !name.is_empty(),
    }
}

fn is_compute(resource: &str) -> bool {
    matches!(resource, "cpu" | "memory")
}

/// A text field, or the empty text.
fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// A list field, or no items.
fn items<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Whether a field is there and not null.
fn is_set(value: &Value, key: &str) -> bool {
    value.get(key).is_some_and(|field| !field.is_null())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(group: &str, resource: &str, object: Value, expected: &[(&str, &str)]) {
        let found = measure(group, resource, &object).used;
        let found: Vec<(String, String)> = found.iter().map(|(name, one)| (name.clone(), one.to_string())).collect();
        let expected: Vec<(String, String)> =
            expected.iter().map(|(name, one)| ((*name).to_owned(), (*one).to_owned())).collect();
        assert_eq!(found, expected);
    }

    fn pod(resources: Value) -> Value {
        json!({ "spec": { "containers": [{ "name": "a", "resources": resources }] } })
    }

    #[test]
    fn objects_are_measured() {
        check(
            "",
            "pods",
            pod(json!({ "requests": { "cpu": "500m", "nvidia.com/gpu": "1" }, "limits": { "memory": "1Gi" } })),
            &[
                ("count/pods", "1"),
                ("cpu", "500m"),
                ("limits.memory", "1Gi"),
                ("pods", "1"),
                ("requests.cpu", "500m"),
                ("requests.nvidia.com/gpu", "1"),
            ],
        );
        let mut ended = pod(json!({ "requests": { "cpu": "1" } }));
        ended["status"]["phase"] = "Succeeded".into();
        check("", "pods", ended, &[("count/pods", "1")]);
        check("apps", "deployments", json!({}), &[("count/deployments.apps", "1")]);
        check("", "secrets", json!({}), &[("count/secrets", "1"), ("secrets", "1")]);
        check(
            "",
            "services",
            json!({ "spec": { "type": "NodePort", "ports": [{}, {}] } }),
            &[("count/services", "1"), ("services", "1"), ("services.nodeports", "2")],
        );
        check(
            "",
            "persistentvolumeclaims",
            json!({ "spec": { "storageClassName": "fast", "resources": { "requests": { "storage": "5Gi" } } } }),
            &[
                ("count/persistentvolumeclaims", "1"),
                ("fast.storageclass.storage.k8s.io/persistentvolumeclaims", "1"),
                ("fast.storageclass.storage.k8s.io/requests.storage", "5Gi"),
                ("persistentvolumeclaims", "1"),
                ("requests.storage", "5Gi"),
            ],
        );
    }

    #[test]
    fn devices_are_counted_by_class() {
        let exactly = |class: &str, more: Value| {
            let mut request = json!({ "deviceClassName": class });
            more.as_object().expect("an object").iter().for_each(|(key, value)| request[key] = value.clone());
            request
        };
        let requests = json!([
            { "name": "a", "exactly": exactly("gpu", json!({ "allocationMode": "ExactCount", "count": 2 })) },
            { "name": "b", "exactly": exactly("nic", json!({ "allocationMode": "All" })) },
            { "name": "c", "firstAvailable": [
                exactly("gpu", json!({ "count": 1 })), exactly("gpu", json!({ "count": 3 })), exactly("tpu", json!({})),
            ] },
        ]);
        check(
            "resource.k8s.io",
            "resourceclaims",
            json!({ "spec": { "devices": { "requests": requests } } }),
            &[
                ("count/resourceclaims.resource.k8s.io", "1"),
                ("gpu.deviceclass.resource.k8s.io/devices", "5"),
                ("nic.deviceclass.resource.k8s.io/devices", "32"),
                ("tpu.deviceclass.resource.k8s.io/devices", "1"),
            ],
        );
    }

    #[test]
    fn storage_is_counted_whole_and_as_allocated() {
        let check = |asked: &str, allocated: Option<&str>, expected: &str| {
            let claim = json!({
                "spec": { "resources": { "requests": { "storage": asked } } },
                "status": { "allocatedResources": { "storage": allocated } },
            });
            let used = measure("", "persistentvolumeclaims", &claim).used;
            assert_eq!(used["requests.storage"].to_string(), expected, "{asked} {allocated:?}");
        };
        check("5Gi", None, "5Gi");
        check("1500m", None, "2");
        check("5Gi", Some("8Gi"), "8Gi");
        check("5Gi", Some("2Gi"), "5Gi");
    }

    #[test]
    fn claims_are_in_scope_by_the_classes_they_touch() {
        let silver = json!({ "spec": { "volumeAttributesClassName": "silver" } });
        let changing = json!({
            "spec": { "volumeAttributesClassName": "gold" },
            "status": { "currentVolumeAttributesClassName": "silver",
                "modifyVolumeStatus": { "targetVolumeAttributesClassName": "copper" } },
        });
        let check = |claim: &Value, operator: &str, values: Value, expected: bool| {
            let quota = json!({ "spec": { "scopeSelector": { "matchExpressions": [
                { "scopeName": "VolumeAttributesClass", "operator": operator, "values": values },
            ] } } });
            let found = measure("", "persistentvolumeclaims", claim).in_scope(&quota);
            assert_eq!(found, expected, "{claim} {operator} {values}");
        };
        check(&silver, "In", json!(["silver"]), true);
        check(&silver, "In", json!(["gold"]), false);
        check(&silver, "NotIn", json!(["gold"]), true);
        check(&silver, "Exists", json!([]), true);
        check(&json!({ "spec": {} }), "Exists", json!([]), false);
        check(&json!({ "spec": {} }), "DoesNotExist", json!([]), true);
        check(&json!({ "spec": {} }), "NotIn", json!(["gold"]), true);
        for class in ["gold", "silver", "copper"] {
            check(&changing, "In", json!([class]), true);
        }
        let plain = json!({ "spec": { "scopes": ["VolumeAttributesClass"] } });
        assert!(measure("", "persistentvolumeclaims", &silver).in_scope(&plain));
        assert!(!measure("", "pods", &pod(json!({}))).in_scope(&plain));
        let pods_only = json!({ "spec": { "scopes": ["NotTerminating"] } });
        assert!(!measure("", "persistentvolumeclaims", &silver).in_scope(&pods_only));
    }

    #[test]
    fn scopes() {
        let quota = |scope: &str| json!({ "spec": { "scopes": [scope] } });
        let check = |object: &Value, scope: &str, expected: bool| {
            assert_eq!(measure("", "pods", object).in_scope(&quota(scope)), expected, "{scope} {object}");
        };
        let best_effort = pod(json!({}));
        let burstable = pod(json!({ "requests": { "cpu": "1" } }));
        check(&best_effort, "BestEffort", true);
        check(&best_effort, "NotBestEffort", false);
        check(&burstable, "NotBestEffort", true);
        check(&burstable, "NotTerminating", true);
        // Nothing asked for is nothing, and what the pod itself asks for counts for its containers.
        check(&pod(json!({ "requests": { "cpu": "0" } })), "BestEffort", true);
        let mut whole = best_effort.clone();
        whole["spec"]["resources"] = json!({ "requests": { "memory": "1Gi" } });
        check(&whole, "BestEffort", false);
        let mut urgent = burstable;
        urgent["spec"]["priorityClassName"] = "high".into();
        let classes = |operator: &str, values: Value| {
            json!({ "spec": { "scopeSelector": { "matchExpressions": [
                { "scopeName": "PriorityClass", "operator": operator, "values": values },
            ] } } })
        };
        let urgent = measure("", "pods", &urgent);
        assert!(urgent.in_scope(&classes("In", json!(["high"]))));
        assert!(!urgent.in_scope(&classes("NotIn", json!(["high"]))));
        assert!(urgent.in_scope(&classes("Exists", json!([]))));
        assert!(!measure("", "secrets", &json!({})).in_scope(&quota("BestEffort")));
    }

    #[test]
    fn bounded_resources_must_be_named() {
        let hard = resources(Some(&json!({ "limits.memory": "1Gi", "cpu": "1", "pods": "3" })));
        let check = |object: Value, expected: Option<&str>| {
            assert_eq!(measure("", "pods", &object).unspecified(&hard).as_deref(), expected);
        };
        check(pod(json!({})), Some("cpu for: a; limits.memory for: a"));
        check(pod(json!({ "requests": { "cpu": "1" } })), Some("limits.memory for: a"));
        check(pod(json!({ "requests": { "cpu": "1" }, "limits": { "memory": "1Gi" } })), None);
        let mut whole = pod(json!({}));
        whole["spec"]["resources"] = json!({ "limits": { "cpu": "1" } });
        check(whole, None);
    }

    #[test]
    fn totals_of_pods() {
        let container = |cpu: &str| json!({ "resources": { "requests": { "cpu": cpu } } });
        let mut sidecar = container("1");
        sidecar["restartPolicy"] = "Always".into();
        let check = |spec: Value, expected: &str| {
            assert_eq!(pod_total(&spec, "requests")["cpu"].to_string(), expected, "{spec}");
        };
        check(json!({ "containers": [container("1"), container("2")] }), "3");
        check(json!({ "containers": [container("1")], "initContainers": [container("4")] }), "4");
        check(json!({ "containers": [container("2")], "initContainers": [sidecar, container("1")] }), "3");
        check(json!({ "containers": [container("2")], "initContainers": [sidecar, container("4")] }), "5");
        check(json!({ "containers": [container("1")], "overhead": { "cpu": "250m" } }), "1250m");
    }
}
