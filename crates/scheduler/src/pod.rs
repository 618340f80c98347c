//! What the scheduler keeps of a pod.
//!
//! A whole `Pod` takes some ten kilobytes as a Rust value. The watch decodes only the fields that matter (`PodInput`), and what
//! stays is smaller still (`PodInfo`): of a pod that runs, its amounts, ports, labels and its affinity terms if it has any.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Affinity, ContainerPort, ObjectReference, Pod, PodCondition, PodSchedulingGate, ResourceRequirements, Toleration,
    TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kobune_partial::Partial;
use serde::Deserialize;

use crate::claims::{ClaimUse, DeviceClaimInput, VolumeInput};
use crate::devices::DeviceClaimUse;
use crate::labels::Labels;
use crate::profile::Profile;
use crate::resources::Resources;

/// CPU that a container without a request counts with when nodes are compared, as upstream.
const DEFAULT_CPU: i64 = 100;
/// Memory that a container without a request counts with when nodes are compared, as upstream.
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Owners whose pods spread over nodes and zones without being told, as upstream.
const SPREADING: [&str; 3] = ["ReplicaSet", "ReplicationController", "StatefulSet"];

/// The fields of a Pod that scheduling reads.
pub type PodInput = Partial<Pod, SpecInput, StatusInput>;

/// What scheduling reads of a pod's `spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SpecInput {
    node_name: Option<String>,
    scheduler_name: Option<String>,
    containers: Vec<ContainerInput>,
    init_containers: Option<Vec<ContainerInput>>,
    resources: Option<ResourceRequirements>,
    overhead: Option<BTreeMap<String, Quantity>>,
    node_selector: Option<BTreeMap<String, String>>,
    affinity: Option<Affinity>,
    tolerations: Option<Vec<Toleration>>,
    topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
    scheduling_gates: Option<Vec<PodSchedulingGate>>,
    priority: Option<i32>,
    preemption_policy: Option<String>,
    host_network: Option<bool>,
    volumes: Option<Vec<VolumeInput>>,
    resource_claims: Option<Vec<DeviceClaimInput>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ContainerInput {
    name: String,
    image: Option<String>,
    ports: Option<Vec<ContainerPort>>,
    resources: Option<ResourceRequirements>,
    restart_policy: Option<String>,
}

/// What scheduling reads of a pod's `status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StatusInput {
    phase: Option<String>,
    conditions: Option<Vec<PodCondition>>,
    nominated_node_name: Option<String>,
    container_statuses: Option<Vec<ContainerStatusInput>>,
    init_container_statuses: Option<Vec<ContainerStatusInput>>,
    resource_claim_statuses: Option<Vec<DeviceClaimInput>>,
    start_time: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ContainerStatusInput {
    name: String,
    allocated_resources: Option<BTreeMap<String, Quantity>>,
    resources: Option<ResourceRequirements>,
}

/// A port on the node that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The port number.
    pub port: i32,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Box<str>,
    /// The node's address it is taken on; `0.0.0.0` stands for all.
    pub address: Box<str>,
}

impl HostPort {
    /// Whether both cannot be taken on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        let anywhere = |address: &str| address == "0.0.0.0" || address == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address || anywhere(&self.address) || anywhere(&other.address))
    }
}

/// What a pod asks of the node it goes to and of the pods around it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Constraints {
    /// Labels the node must have.
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Node and pod affinity.
    pub affinity: Option<Affinity>,
    /// Taints the pod bears.
    pub tolerations: Vec<Toleration>,
    /// How the pod spreads with its like.
    pub spread: Vec<TopologySpreadConstraint>,
    /// Images of all containers, for nodes that have them already.
    pub images: Vec<String>,
    /// `preemptionPolicy: Never`.
    pub never_preempts: bool,
}

/// One pod, as small as the decision allows.
#[derive(Clone, Debug, PartialEq)]
pub struct PodInfo {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Box<str>,
    /// Unique id.
    pub uid: Arc<str>,
    /// Labels.
    pub labels: Labels,
    /// What it is judged by.
    pub profile: Arc<Profile>,
    /// The uid of the ReplicaSet, ReplicationController or StatefulSet that it belongs to.
    pub owner: Option<Arc<str>>,
    /// The node it is bound to.
    pub node: Option<Arc<str>>,
    /// What it asks for.
    pub requests: Resources,
    /// CPU and memory with defaults for containers that ask for nothing.
    pub weight: (i64, i64),
    /// Ports it takes on the node.
    pub ports: Box<[HostPort]>,
    /// Priority.
    pub priority: i32,
    /// When it began to run.
    pub started: Option<Timestamp>,
    /// Whether deletion has begun.
    pub terminating: bool,
    /// Whether scheduling gates hold it back.
    pub gated: bool,
    /// Claims it uses as volumes.
    pub claims: Box<[ClaimUse]>,
    /// Claims on devices; of a bound pod nobody asks for them again.
    pub device_claims: Box<[DeviceClaimUse]>,
    /// `None` on a bound pod without pod affinity, where nothing reads it again.
    pub constraints: Option<Box<Constraints>>,
}

impl PodInfo {
    /// The reference that events about the pod carry.
    pub fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(self.namespace.to_string()),
            name: Some(self.name.to_string()),
            uid: Some(self.uid.to_string()),
            ..ObjectReference::default()
        }
    }

    /// Forgets what nobody reads once the pod has a node.
    pub fn settle(&mut self) {
        self.device_claims = Box::default();
        let needed = self.constraints.as_ref().and_then(|constraints| constraints.affinity.as_ref());
        if needed.is_none_or(|affinity| affinity.pod_affinity.is_none() && affinity.pod_anti_affinity.is_none()) {
            self.constraints = None;
        }
    }
}

/// Where a pod is in its life, as far as scheduling cares.
#[derive(Clone, Debug, PartialEq, Eq, Copy)]
pub enum Stage {
    /// It waits for a node, and for us.
    Pending,
    /// It has a node.
    Bound,
    /// It has ended or is somebody else's: nothing to do, nothing to count.
    Over,
}

/// The `PodScheduled` condition a pod shows now: its reason and message when it is False.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// `reason` of the condition.
    pub reason: String,
    /// `message` of the condition.
    pub message: String,
    /// `status.nominatedNodeName`.
    pub nominated: Option<String>,
}

/// Where the pod is, what it is and what it shows.
///
/// Pods of schedulers that are not ours only take room; the first profile stands for theirs.
pub fn read(pod: PodInput, profiles: &[Arc<Profile>]) -> (Stage, PodInfo, Shown) {
    let PodInput { metadata, spec, status, .. } = pod;
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let node = spec.node_name.as_deref().filter(|name| !name.is_empty()).map(Arc::from);
    let scheduler = spec.scheduler_name.as_deref().unwrap_or("default-scheduler");
    let profile = profiles.iter().find(|profile| profile.name == scheduler);
    let ours = profile.is_some();
    let profile = profile.or(profiles.first()).cloned().unwrap_or_default();
    let terminating = metadata.deletion_timestamp.is_some();
    let stage = match (&node, ended) {
        (_, true) => Stage::Over,
        (Some(_), false) => Stage::Bound,
        (None, false) if ours && !terminating => Stage::Pending,
        (None, false) => Stage::Over,
    };
    let (requests, weight) = requests(&spec, &status);
    let owners = metadata.owner_references.iter().flatten();
    let owner = owners
        .filter(|owner| owner.controller == Some(true) && SPREADING.contains(&owner.kind.as_str()))
        .map(|owner| Arc::from(owner.uid.as_str()))
        .next();
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let sidecars = init.iter().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let host_network = spec.host_network == Some(true);
    let ports =
        spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten()).filter_map(
            |port| {
                let number =
                    port.host_port.filter(|number| *number > 0).or(host_network.then_some(port.container_port))?;
                Some(HostPort {
                    port: number,
                    protocol: port.protocol.as_deref().unwrap_or("TCP").into(),
                    address: port.host_ip.as_deref().filter(|address| !address.is_empty()).unwrap_or("0.0.0.0").into(),
                })
            },
        );
    let ports = ports.collect();
    let images = init.iter().chain(&spec.containers).filter_map(|container| container.image.as_deref().map(tagged));
    let images = images.collect();
    let name = metadata.name.unwrap_or_default();
    let claims = spec.volumes.iter().flatten().filter_map(|volume| volume.claim(&name));
    let claims = claims.collect();
    let device_claims = device_claims(&spec, &status);
    let mut info = PodInfo {
        namespace: metadata.namespace.unwrap_or_default().into(),
        name: name.into(),
        claims,
        device_claims,
        uid: metadata.uid.unwrap_or_default().into(),
        labels: metadata.labels.as_ref().into(),
        profile,
        owner,
        node,
        requests,
        weight,
        ports,
        priority: spec.priority.unwrap_or(0),
        started: status.start_time.map(|time| time.0),
        terminating,
        gated: spec.scheduling_gates.is_some_and(|gates| !gates.is_empty()),
        constraints: Some(Box::new(Constraints {
            node_selector: spec.node_selector,
            affinity: spec.affinity,
            tolerations: spec.tolerations.unwrap_or_default(),
            spread: spec.topology_spread_constraints.unwrap_or_default(),
            images,
            never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
        })),
    };
    if stage != Stage::Pending {
        info.settle();
    }
    let condition = status
        .conditions
        .into_iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    let (reason, message) =
        condition.map(|c| (c.reason.unwrap_or_default(), c.message.unwrap_or_default())).unwrap_or_default();
    (stage, info, Shown { reason, message, nominated: status.nominated_node_name.filter(|name| !name.is_empty()) })
}

/// Claims on devices: those that are named, and those that are made out of templates. A template may need none.
fn device_claims(spec: &SpecInput, status: &StatusInput) -> Box<[DeviceClaimUse]> {
    let one = |wanted: &DeviceClaimInput| {
        if let Some(name) = &wanted.resource_claim_name {
            return Some(DeviceClaimUse { claim: Some(name.as_str().into()), generated: false });
        }
        let told = status.resource_claim_statuses.iter().flatten().find(|told| told.name == wanted.name);
        let claim = told.map(|told| told.resource_claim_name.as_deref().map(Box::from));
        match claim {
            Some(None) => None,
            Some(claim) => Some(DeviceClaimUse { claim, generated: true }),
            None => Some(DeviceClaimUse { claim: None, generated: true }),
        }
    };
    spec.resource_claims.iter().flatten().filter_map(one).collect()
}

/// An image's name as nodes list it, with the tag that is meant when none is given.
fn tagged(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}

/// What a container asks for, or has on its node while a resize is under way, whichever is more.
fn of_container(container: &ContainerInput, status: &StatusInput, resize_fails: bool) -> Resources {
    let asked = Resources::from_list(container.resources.as_ref().and_then(|resources| resources.requests.as_ref()));
    let statuses = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let Some(found) = statuses.into_iter().find(|found| found.name == container.name) else { return asked };
    let mut has = Resources::from_list(found.allocated_resources.as_ref());
    has.raise_to(&Resources::from_list(found.resources.as_ref().and_then(|resources| resources.requests.as_ref())));
    if has == Resources::default() {
        return asked;
    }
    if !resize_fails {
        has.raise_to(&asked);
    }
    has
}

/// What a pod asks for: all containers and sidecars together, or an init container with the sidecars started before it when
/// that is more, plus the overhead. Amounts for the whole pod take the place of the sum.
fn requests(spec: &SpecInput, status: &StatusInput) -> (Resources, (i64, i64)) {
    let resize_fails =
        status.conditions.iter().flatten().any(|condition| {
            condition.type_ == "PodResizePending" && condition.reason.as_deref() == Some("Infeasible")
        });
    let read = |container: &ContainerInput| {
        let list = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let mut weighed = of_container(container, status, resize_fails);
        let plain = weighed.clone();
        let given = |name: &str| list.is_some_and(|list| list.contains_key(name));
        if !given("cpu") {
            weighed.cpu = DEFAULT_CPU;
        }
        if !given("memory") {
            weighed.memory = DEFAULT_MEMORY;
        }
        (plain, weighed)
    };
    let (mut total, mut weighed) = (Resources::default(), Resources::default());
    for container in &spec.containers {
        let (plain, heavy) = read(container);
        total.add(&plain);
        weighed.add(&heavy);
    }
    let (mut sidecars, mut heavy_sidecars) = (Resources::default(), Resources::default());
    let (mut peak, mut heavy_peak) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let (mut plain, mut heavy) = read(container);
        if container.restart_policy.as_deref() == Some("Always") {
            total.add(&plain);
            weighed.add(&heavy);
            sidecars.add(&plain);
            heavy_sidecars.add(&heavy);
            peak.raise_to(&sidecars);
            heavy_peak.raise_to(&heavy_sidecars);
        } else {
            plain.add(&sidecars);
            heavy.add(&heavy_sidecars);
            peak.raise_to(&plain);
            heavy_peak.raise_to(&heavy);
        }
    }
    total.raise_to(&peak);
    weighed.raise_to(&heavy_peak);
    let whole = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    if let Some(list) = whole {
        let amounts = Resources::from_list(Some(list));
        if list.contains_key("cpu") {
            (total.cpu, weighed.cpu) = (amounts.cpu, amounts.cpu);
        }
        if list.contains_key("memory") {
            (total.memory, weighed.memory) = (amounts.memory, amounts.memory);
        }
    }
    let overhead = Resources::from_list(spec.overhead.as_ref());
    total.add(&overhead);
    weighed.add(&overhead);
    (total, (weighed.cpu, weighed.memory))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A pod with this spec, as the watch would deliver it.
    pub(crate) fn pod(name: &str, spec: serde_json::Value) -> PodInfo {
        labelled(name, serde_json::json!({}), spec)
    }

    /// The same with labels.
    pub(crate) fn labelled(name: &str, labels: serde_json::Value, spec: serde_json::Value) -> PodInfo {
        let object = serde_json::json!({"metadata": {"name": name, "namespace": "default", "uid": name, "labels": labels}, "spec": spec});
        let input: PodInput = serde_json::from_value(object).expect("a pod");
        read(input, &[Arc::default()]).1
    }

    #[test]
    fn requests_of_init_containers_sidecars_and_overhead() {
        let cpu = |amount: &str| serde_json::json!({"resources": {"requests": {"cpu": amount}}});
        let sidecar =
            |amount: &str| serde_json::json!({"restartPolicy": "Always", "resources": {"requests": {"cpu": amount}}});
        let check = |spec: serde_json::Value, expected: i64| {
            assert_eq!(pod("p", spec.clone()).requests.cpu, expected, "{spec}")
        };
        check(serde_json::json!({"containers": [cpu("100m"), cpu("1")]}), 1100);
        check(serde_json::json!({"containers": [cpu("100m")], "initContainers": [cpu("2"), cpu("1")]}), 2000);
        check(serde_json::json!({"containers": [cpu("100m")], "initContainers": [sidecar("300m"), cpu("2")]}), 2300);
        check(serde_json::json!({"containers": [cpu("100m")], "initContainers": [cpu("50m"), sidecar("300m")]}), 400);
        check(serde_json::json!({"containers": [cpu("100m")], "overhead": {"cpu": "10m"}}), 110);
        check(serde_json::json!({"containers": [cpu("100m")], "resources": {"requests": {"cpu": "3"}}}), 3000);
        assert_eq!(pod("p", serde_json::json!({"containers": [{}]})).weight, (DEFAULT_CPU, DEFAULT_MEMORY));
    }

    #[test]
    fn resizes_count_with_the_greater_amount() {
        let check = |asked: &str, has: &str, pending: &str, expected: i64| {
            let object = serde_json::json!({
                "spec": {"nodeName": "n", "containers": [{"name": "c", "resources": {"requests": {"cpu": asked}}}]},
                "status": {"containerStatuses": [{"name": "c", "allocatedResources": {"cpu": has}}],
                    "conditions": [{"type": "PodResizePending", "status": "True", "reason": pending}]},
            });
            let input: PodInput = serde_json::from_value(object).expect("a pod");
            assert_eq!(read(input, &[Arc::default()]).1.requests.cpu, expected, "{asked} {has} {pending}");
        };
        check("1", "1", "", 1000);
        check("2", "1", "Deferred", 2000);
        check("1", "2", "", 2000);
        check("9", "1", "Infeasible", 1000);
        assert_eq!(tagged("a/b"), "a/b:latest");
        assert_eq!(tagged("host:5000/a/b"), "host:5000/a/b:latest");
        assert_eq!(tagged("a/b:v1"), "a/b:v1");
    }

    #[test]
    fn host_ports() {
        let port = |address: &str| HostPort { port: 80, protocol: "TCP".into(), address: address.into() };
        assert!(port("0.0.0.0").conflicts(&port("10.0.0.1")));
        assert!(!port("10.0.0.2").conflicts(&port("10.0.0.1")));
        let ports = |spec| pod("p", spec).ports;
        assert_eq!(ports(serde_json::json!({"containers": [{"ports": [{"containerPort": 80}]}]})).len(), 0);
        assert_eq!(
            ports(serde_json::json!({"hostNetwork": true, "containers": [{"ports": [{"containerPort": 80}]}]})).len(),
            1
        );
        assert_eq!(
            ports(serde_json::json!({"containers": [{"ports": [{"containerPort": 80, "hostPort": 8080}]}]}))[0].port,
            8080
        );
    }

    #[test]
    fn stages() {
        let check = |object: serde_json::Value, expected: Stage| {
            let input: PodInput = serde_json::from_value(object.clone()).expect("a pod");
            assert_eq!(read(input, &[Arc::default()]).0, expected, "{object}");
        };
        check(serde_json::json!({"spec": {"containers": []}}), Stage::Pending);
        check(serde_json::json!({"spec": {"nodeName": "n"}}), Stage::Bound);
        check(serde_json::json!({"spec": {"nodeName": "n"}, "status": {"phase": "Failed"}}), Stage::Over);
        check(serde_json::json!({"spec": {"schedulerName": "other"}}), Stage::Over);
        check(serde_json::json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), Stage::Over);
    }
}
