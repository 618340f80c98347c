//! The pod resources API (v1): what monitoring agents ask a node's socket: which pod has which devices, claims, CPUs and
//! memory for itself.
//!
//! Written down from the public field numbers of `k8s.io/kubelet/pkg/apis/podresources/v1/api.proto`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::Grants;
use super::assign::Places;
use super::proto::{CdiName, NumaNode, Topology};
use crate::context::Context;
use crate::dra::{self, Record};
use crate::placement::CpuSet;
use crate::pod::{self, Member};
use crate::pods::Pods;
use kobune_grpc::server::{self, Service};

/// All pods, or one.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodList {
    /// Each of them.
    #[prost(message, repeated, tag = "1")]
    pub pods: Vec<PodResources>,
}

/// A pod.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodResources {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its namespace.
    #[prost(string, tag = "2")]
    pub namespace: String,
    /// Its containers.
    #[prost(message, repeated, tag = "3")]
    pub containers: Vec<ContainerResources>,
}

/// A container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerResources {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its devices.
    #[prost(message, repeated, tag = "2")]
    pub devices: Vec<ContainerDevices>,
    /// CPUs that it has for itself.
    #[prost(int64, repeated, tag = "3")]
    pub cpu_ids: Vec<i64>,
    /// Memory that it has for itself.
    #[prost(message, repeated, tag = "4")]
    pub memory: Vec<ContainerMemory>,
    /// Its claims.
    #[prost(message, repeated, tag = "5")]
    pub dynamic_resources: Vec<DynamicResource>,
}

/// Devices of one resource that are close to the same memory nodes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerDevices {
    /// The resource.
    #[prost(string, tag = "1")]
    pub resource_name: String,
    /// Their names.
    #[prost(string, repeated, tag = "2")]
    pub device_ids: Vec<String>,
    /// Those memory nodes.
    #[prost(message, optional, tag = "3")]
    pub topology: Option<Topology>,
}

/// Memory of one kind.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerMemory {
    /// `memory` or `hugepages-2Mi`.
    #[prost(string, tag = "1")]
    pub memory_type: String,
    /// Bytes.
    #[prost(uint64, tag = "2")]
    pub size: u64,
    /// The nodes that it is from.
    #[prost(message, optional, tag = "3")]
    pub topology: Option<Topology>,
}

/// A claim.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DynamicResource {
    /// Its name.
    #[prost(string, tag = "2")]
    pub claim_name: String,
    /// Its namespace.
    #[prost(string, tag = "3")]
    pub claim_namespace: String,
    /// Its devices.
    #[prost(message, repeated, tag = "4")]
    pub claim_resources: Vec<ClaimResource>,
}

/// A device of a claim.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ClaimResource {
    /// What CDI knows of it.
    #[prost(message, repeated, tag = "1")]
    pub cdi_devices: Vec<CdiName>,
    /// Its driver.
    #[prost(string, tag = "2")]
    pub driver_name: String,
    /// Its pool.
    #[prost(string, tag = "3")]
    pub pool_name: String,
    /// Its name.
    #[prost(string, tag = "4")]
    pub device_name: String,
}

/// What of the node can be given.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Allocatable {
    /// Devices.
    #[prost(message, repeated, tag = "1")]
    pub devices: Vec<ContainerDevices>,
    /// CPUs that a container can have for itself.
    #[prost(int64, repeated, tag = "2")]
    pub cpu_ids: Vec<i64>,
    /// Memory that a container can have for itself.
    #[prost(message, repeated, tag = "3")]
    pub memory: Vec<ContainerMemory>,
}

/// Which pod.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Which {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its namespace.
    #[prost(string, tag = "2")]
    pub namespace: String,
}

/// One pod.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OnePod {
    /// The pod.
    #[prost(message, optional, tag = "1")]
    pub pod: Option<PodResources>,
}

struct Lister {
    context: Arc<Context>,
    pods: Arc<Pods>,
}

fn topology(nodes: &CpuSet) -> Option<Topology> {
    let nodes: Vec<NumaNode> = nodes.iter().map(|node| NumaNode { id: i64::from(node) }).collect();
    (!nodes.is_empty()).then_some(Topology { nodes })
}

fn numbers(set: &CpuSet) -> Vec<i64> {
    set.iter().map(i64::from).collect()
}

fn memory(resource: &str, bytes: i64, nodes: &CpuSet) -> ContainerMemory {
    ContainerMemory {
        memory_type: resource.to_owned(),
        size: u64::try_from(bytes).unwrap_or(0),
        topology: topology(nodes),
    }
}

/// Devices of a resource, those close to the same memory nodes together.
fn devices<'a>(
    resource: &str,
    ids: impl Iterator<Item = &'a String>,
    places: &BTreeMap<String, CpuSet>,
) -> Vec<ContainerDevices> {
    let mut groups: BTreeMap<CpuSet, Vec<String>> = BTreeMap::new();
    for id in ids {
        groups.entry(places.get(id).cloned().unwrap_or_default()).or_default().push(id.clone());
    }
    let group = |(nodes, device_ids): (CpuSet, Vec<String>)| ContainerDevices {
        resource_name: resource.to_owned(),
        device_ids,
        topology: topology(&nodes),
    };
    groups.into_iter().map(group).collect()
}

impl Lister {
    fn container(
        &self,
        uid: &str,
        member: &Member,
        grants: &Grants,
        claims: &Record,
        places: &Places,
    ) -> ContainerResources {
        let name = &member.container.name;
        let nowhere = BTreeMap::new();
        let own = grants.get(name).into_iter().flatten();
        let devices = own.flat_map(|(resource, grant)| {
            devices(resource, grant.ids.iter(), places.get(resource).unwrap_or(&nowhere))
        });
        let blocks = self.context.placement.own_memory(uid, name);
        let blocks =
            blocks.iter().map(|block| memory(&block.resource, block.size, &block.nodes.parse().unwrap_or_default()));
        ContainerResources {
            name: name.clone(),
            devices: devices.collect(),
            cpu_ids: numbers(&self.context.placement.own_cpus(uid, name)),
            memory: blocks.collect(),
            dynamic_resources: dra::of_container(claims, &member.container),
        }
    }

    async fn list(&self) -> Vec<PodResources> {
        let places = self.context.devices.places();
        let mut list = Vec::new();
        for owner in self.pods.all().into_iter().filter(|owner| !pod::is_terminal(owner)) {
            let uid = pod::uid(&owner);
            let grants = self.context.devices.grants(uid);
            let claims = if pod::spec(&owner).resource_claims.is_some() {
                dra::record(&self.context.pod_dir(uid)).await.unwrap_or_else(|message| {
                    tracing::warn!(pod = pod::full_name(&owner), message, "nobody can ask which claims a pod has");
                    Record::new()
                })
            } else {
                Record::new()
            };
            let members = pod::members(pod::spec(&owner));
            let long = members.iter().filter(|member| matches!(member.role, pod::Role::Main | pod::Role::Sidecar));
            list.push(PodResources {
                name: pod::name(&owner).to_owned(),
                namespace: pod::namespace(&owner).to_owned(),
                containers: long.map(|member| self.container(uid, member, &grants, &claims, &places)).collect(),
            });
        }
        list
    }

    fn allocatable(&self) -> Allocatable {
        let placement = &self.context.placement;
        let places = self.context.devices.places();
        let by_node = placement.allocatable_memory();
        let blocks = by_node.iter().flat_map(|(node, own)| {
            let nodes: CpuSet = [*node].into_iter().collect();
            let some = own.iter().filter(|(_, bytes)| **bytes > 0);
            some.map(move |(resource, bytes)| memory(resource, *bytes, &nodes)).collect::<Vec<_>>()
        });
        Allocatable {
            devices: places.iter().flat_map(|(resource, own)| devices(resource, own.keys(), own)).collect(),
            cpu_ids: numbers(&placement.allocatable_cpus()),
            memory: blocks.collect(),
        }
    }
}

impl Service for Lister {
    async fn call(&self, method: &str, message: Bytes) -> Result<Bytes, Status> {
        match method.strip_prefix("/v1.PodResourcesLister/") {
            Some("List") => Ok(server::encode(&PodList { pods: self.list().await })),
            Some("GetAllocatableResources") => Ok(server::encode(&self.allocatable())),
            Some("Get") => {
                let wanted: Which = server::decode(message)?;
                let found = self
                    .list()
                    .await
                    .into_iter()
                    .find(|pod| pod.name == wanted.name && pod.namespace == wanted.namespace);
                let missing =
                    || Status::not_found(format!("pod {} in namespace {} not found", wanted.name, wanted.namespace));
                Ok(server::encode(&OnePod { pod: Some(found.ok_or_else(missing)?) }))
            }
            _ => Err(Status::unimplemented(format!("{method} is not known"))),
        }
    }
}

/// Serves until the token is cancelled.
pub async fn run(context: Arc<Context>, pods: Arc<Pods>, token: CancellationToken) {
    let path = context.config.node_dir().join("pod-resources").join("kubelet.sock");
    match server::listen(&path) {
        Ok(listener) => server::serve(listener, Arc::new(Lister { context, pods }), token).await,
        Err(error) => tracing::error!(
            path = %path.display(),
            error = &error as &dyn std::error::Error,
            "nobody can ask which pod has which devices: the socket can't be made"
        ),
    }
}
