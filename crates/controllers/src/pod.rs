//! What the controllers keep of a pod: a tenth of what a whole `Pod` takes.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Affinity, ContainerPort, ObjectReference, Pod as ApiPod, PodCondition, PodIP, PodSchedulingGate, Toleration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kobune_partial::Partial;
use kobune_scheduler::claims::{ClaimUse, DeviceClaimInput, VolumeInput};
use kobune_scheduler::labels::Labels;
use serde::Deserialize;

use crate::object::{Cached, ObjectKey};

/// Annotations that a controller reads.
const ANNOTATIONS: [&str; 3] = [
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/job-index-failure-count",
    "controller.kubernetes.io/pod-deletion-cost",
];

/// The fields of a Pod that the watch decodes.
pub type PodInput = Partial<ApiPod, SpecInput, StatusInput>;

/// What the controllers read of a pod's `spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SpecInput {
    node_name: Option<String>,
    hostname: Option<String>,
    subdomain: Option<String>,
    containers: Vec<ContainerInput>,
    init_containers: Option<Vec<ContainerInput>>,
    tolerations: Option<Vec<Toleration>>,
    affinity: Option<Affinity>,
    scheduling_gates: Option<Vec<PodSchedulingGate>>,
    volumes: Option<Vec<VolumeInput>>,
    resource_claims: Option<Vec<DeviceClaimInput>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ContainerInput {
    ports: Option<Vec<ContainerPort>>,
    restart_policy: Option<String>,
}

/// What the controllers read of a pod's `status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StatusInput {
    phase: Option<String>,
    conditions: Option<Vec<PodCondition>>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIP>>,
    start_time: Option<Time>,
    resource_claim_statuses: Option<Vec<DeviceClaimInput>>,
    container_statuses: Option<Vec<ContainerStatusInput>>,
    init_container_statuses: Option<Vec<ContainerStatusInput>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ContainerStatusInput {
    restart_count: i32,
    state: ContainerStateInput,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ContainerStateInput {
    terminated: Option<TerminatedInput>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct TerminatedInput {
    finished_at: Option<Time>,
}

/// `status.phase`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Accepted, not all containers have started.
    #[default]
    Pending,
    /// At least one container runs.
    Running,
    /// All containers ended well.
    Succeeded,
    /// All containers ended, one of them badly.
    Failed,
    /// The node does not tell.
    Unknown,
}

/// A port a container declares by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    /// Its name.
    pub name: Box<str>,
    /// Its number.
    pub port: i32,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Box<str>,
}

/// A claim on devices that a pod names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceClaim {
    /// The name that the pod's containers use.
    pub name: Box<str>,
    /// The template that the claim is made out of.
    pub template: Option<Box<str>>,
    /// The claim, once it is known.
    pub claim: Option<Box<str>>,
    /// Whether the pod's status tells of it, be it that none is needed.
    pub told: bool,
}

/// One pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pod {
    /// Namespace and name.
    pub key: Option<ObjectKey>,
    /// Unique id.
    pub uid: Box<str>,
    /// `resourceVersion` as a number.
    pub version: u64,
    /// Labels.
    pub labels: Labels,
    /// The few annotations that a controller reads.
    pub annotations: Labels,
    /// What it belongs to.
    pub owners: Box<[OwnerReference]>,
    /// Finalizers.
    pub finalizers: Box<[String]>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// `deletionTimestamp`.
    pub deletion: Option<Timestamp>,
    /// `deletionGracePeriodSeconds`.
    pub deletion_grace: Option<i64>,
    /// The node it is bound to.
    pub node: Option<Box<str>>,
    /// The one node that its affinity names, as that of a DaemonSet's pod does.
    pub target: Option<Box<str>>,
    /// Its phase.
    pub phase: Phase,
    /// Whether condition `Ready` is True, and since when.
    pub ready: Option<Timestamp>,
    /// Whether condition `DisruptionTarget` is True.
    pub disrupted: bool,
    /// Its addresses.
    pub ips: Box<[Box<str>]>,
    /// `spec.hostname`.
    pub hostname: Option<Box<str>>,
    /// `spec.subdomain`.
    pub subdomain: Option<Box<str>>,
    /// Ports with names, those of sidecars among them.
    pub ports: Box<[NamedPort]>,
    /// Most restarts of a container.
    pub restarts: i32,
    /// Restarts of all containers together.
    pub all_restarts: i32,
    /// `status.startTime`.
    pub started: Option<Timestamp>,
    /// When the last container ended, once all have.
    pub finished: Option<Timestamp>,
    /// Tolerations of taints that evict.
    pub tolerations: Box<[Toleration]>,
    /// Claims that it uses.
    pub claims: Box<[ClaimUse]>,
    /// Claims on devices.
    pub device_claims: Box<[DeviceClaim]>,
}

impl From<PodInput> for Pod {
    fn from(input: PodInput) -> Self {
        let PodInput { metadata, spec, status, .. } = input;
        let condition = |name: &str| {
            let conditions = status.conditions.iter().flatten();
            conditions.clone().find(|condition| condition.type_ == name && condition.status == "True")
        };
        let created = metadata.creation_timestamp.as_ref().map(|time| time.0);
        let ready = condition("Ready")
            .map(|ready| ready.last_transition_time.as_ref().map_or(created.unwrap_or_default(), |time| time.0));
        let sidecars = spec
            .init_containers
            .iter()
            .flatten()
            .filter(|container| container.restart_policy.as_deref() == Some("Always"));
        let ports =
            spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten()).filter_map(
                |port| {
                    let name = port.name.as_deref()?.into();
                    Some(NamedPort {
                        name,
                        port: port.container_port,
                        protocol: port.protocol.as_deref().unwrap_or("TCP").into(),
                    })
                },
            );
        let ips: Box<[Box<str>]> = match &status.pod_ips {
            Some(ips) if !ips.is_empty() => ips.iter().map(|ip| ip.ip.as_str().into()).collect(),
            _ => status.pod_ip.iter().filter(|ip| !ip.is_empty()).map(|ip| ip.as_str().into()).collect(),
        };
        let annotations = metadata.annotations.as_ref().map(|all| {
            all.iter()
                .filter(|(key, _)| ANNOTATIONS.contains(&key.as_str()))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        });
        let name = metadata.name.as_deref().unwrap_or_default();
        let claims = spec.volumes.iter().flatten().filter_map(|volume| volume.claim(name));
        let claims = claims.collect();
        let device_claims = spec.resource_claims.iter().flatten().map(|wanted| {
            let told = status.resource_claim_statuses.iter().flatten().find(|told| told.name == wanted.name);
            let claim =
                wanted.resource_claim_name.as_deref().or(told.and_then(|told| told.resource_claim_name.as_deref()));
            DeviceClaim {
                name: wanted.name.as_str().into(),
                template: wanted.resource_claim_template_name.as_deref().map(Box::from),
                claim: claim.map(Box::from),
                told: told.is_some(),
            }
        });
        let device_claims = device_claims.collect();
        let statuses = status.container_statuses.as_deref().unwrap_or_default();
        let text = |text: Option<String>| text.filter(|text| !text.is_empty()).map(String::into_boxed_str);
        Self {
            key: Some(ObjectKey::new(
                metadata.namespace.as_deref().unwrap_or_default(),
                metadata.name.as_deref().unwrap_or_default(),
            )),
            uid: metadata.uid.unwrap_or_default().into(),
            version: metadata.resource_version.and_then(|version| version.parse().ok()).unwrap_or(0),
            labels: metadata.labels.as_ref().into(),
            annotations: annotations.as_ref().into(),
            owners: metadata.owner_references.unwrap_or_default().into(),
            finalizers: metadata.finalizers.unwrap_or_default().into(),
            created,
            deletion: metadata.deletion_timestamp.map(|time| time.0),
            deletion_grace: metadata.deletion_grace_period_seconds,
            phase: match status.phase.as_deref() {
                Some("Running") => Phase::Running,
                Some("Succeeded") => Phase::Succeeded,
                Some("Failed") => Phase::Failed,
                Some("Unknown") => Phase::Unknown,
                _ => Phase::Pending,
            },
            ready,
            disrupted: condition("DisruptionTarget").is_some(),
            ports: ports.collect(),
            ips,
            restarts: statuses.iter().map(|container| container.restart_count).max().unwrap_or(0),
            all_restarts: statuses
                .iter()
                .chain(status.init_container_statuses.as_deref().unwrap_or_default())
                .fold(0, |sum, container| sum.saturating_add(container.restart_count)),
            started: status.start_time.map(|time| time.0),
            finished: statuses.iter().filter_map(|c| Some(c.state.terminated.as_ref()?.finished_at.as_ref()?.0)).max(),
            claims,
            device_claims,
            target: spec.affinity.as_ref().and_then(target),
            node: text(spec.node_name),
            hostname: text(spec.hostname),
            subdomain: text(spec.subdomain),
            tolerations: spec
                .tolerations
                .unwrap_or_default()
                .into_iter()
                .filter(|t| t.effect.as_deref().is_none_or(|e| e.is_empty() || e == "NoExecute"))
                .collect(),
        }
    }
}

/// The node that a required affinity names by its name.
fn target(affinity: &Affinity) -> Option<Box<str>> {
    let required = affinity.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let mut names = fields.filter(|field| field.key == "metadata.name" && field.operator == "In");
    Some(names.next()?.values.as_ref()?.first()?.as_str().into())
}

impl Cached for Pod {
    fn key(&self) -> ObjectKey {
        self.key.clone().unwrap_or_else(|| ObjectKey::new("", ""))
    }

    fn uid(&self) -> &str {
        &self.uid
    }

    fn revision(&self) -> u64 {
        self.version
    }

    fn owners(&self) -> &[OwnerReference] {
        &self.owners
    }

    fn deleting(&self) -> bool {
        self.deletion.is_some()
    }
}

impl Pod {
    /// Its namespace.
    pub fn namespace(&self) -> &str {
        self.key.as_ref().map_or("", |key| &key.namespace)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.key.as_ref().map_or("", |key| &key.name)
    }

    /// Whether it has ended.
    pub fn ended(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    /// Whether it counts as one of its controller's pods: it has not ended and is not going away.
    pub fn active(&self) -> bool {
        !self.ended() && self.deletion.is_none()
    }

    /// Whether it is going away and has not ended yet.
    pub fn deleting_alive(&self) -> bool {
        self.deletion.is_some() && !self.ended()
    }

    /// Whether it has been ready for `min_ready_seconds`.
    pub fn available(&self, min_ready_seconds: i32, now: Timestamp) -> bool {
        self.available_at(min_ready_seconds).is_some_and(|at| at <= now)
    }

    /// When it has been, or will have been, ready for `min_ready_seconds`.
    pub fn available_at(&self, min_ready_seconds: i32) -> Option<Timestamp> {
        let ready = self.ready?;
        ready.checked_add(jiff::SignedDuration::from_secs(i64::from(min_ready_seconds))).ok()
    }

    /// The reference that events and endpoints carry.
    pub fn reference(&self) -> ObjectReference {
        ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some(self.namespace().to_owned()),
            name: Some(self.name().to_owned()),
            uid: Some(self.uid.to_string()),
            ..ObjectReference::default()
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A pod as the watch would deliver it; `object` holds metadata, spec and status.
    pub(crate) fn pod(name: &str, mut object: serde_json::Value) -> Pod {
        for (field, value) in [("name", name), ("namespace", "default"), ("uid", name)] {
            if object["metadata"][field].is_null() {
                object["metadata"][field] = value.into();
            }
        }
        Pod::from(serde_json::from_value::<PodInput>(object).expect("a pod"))
    }

    #[test]
    fn read() {
        let found = pod(
            "p",
            serde_json::json!({
                "metadata": {"resourceVersion": "12", "annotations": {"x": "y", "controller.kubernetes.io/pod-deletion-cost": "5"}},
                "spec": {"nodeName": "n", "containers": [{"ports": [{"name": "http", "containerPort": 80}, {"containerPort": 81}]}]},
                "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                    "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
                    "containerStatuses": [{"restartCount": 2, "state": {"running": {}}}]},
            }),
        );
        assert_eq!((found.version, found.ips.len(), found.ports.len(), found.restarts), (12, 2, 1, 2));
        assert_eq!(found.annotations.iter().count(), 1);
        let ready = found.ready.expect("ready");
        assert!(found.available(0, ready) && !found.available(1, ready) && found.active());
    }
}
