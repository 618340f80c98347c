//! The pod resources API (v1): what monitoring agents ask a node's socket: which pod has which devices.
//!
//! Written down from the public field numbers of `k8s.io/kubelet/pkg/apis/podresources/v1/api.proto`.

use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::context::Context;
use crate::pod;
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
}

/// Devices of one resource.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerDevices {
    /// The resource.
    #[prost(string, tag = "1")]
    pub resource_name: String,
    /// Their names.
    #[prost(string, repeated, tag = "2")]
    pub device_ids: Vec<String>,
}

/// What of the node can be given.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Allocatable {
    /// Devices.
    #[prost(message, repeated, tag = "1")]
    pub devices: Vec<ContainerDevices>,
    /// CPUs.
    #[prost(int64, repeated, tag = "2")]
    pub cpu_ids: Vec<i64>,
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

impl Lister {
    fn list(&self) -> Vec<PodResources> {
        let active = self.pods.all().into_iter().filter(|owner| !pod::is_terminal(owner));
        active
            .map(|owner| {
                let grants = self.context.devices.grants(pod::uid(&owner));
                let members = pod::members(pod::spec(&owner));
                let long = members.iter().filter(|member| matches!(member.role, pod::Role::Main | pod::Role::Sidecar));
                let containers = long.map(|member| {
                    let name = member.container.name.clone();
                    let own = grants.get(&name).into_iter().flatten();
                    let devices = own.map(|(resource, grant)| ContainerDevices {
                        resource_name: resource.clone(),
                        device_ids: grant.ids.iter().cloned().collect(),
                    });
                    ContainerResources { devices: devices.collect(), name }
                });
                PodResources {
                    name: pod::name(&owner).to_owned(),
                    namespace: pod::namespace(&owner).to_owned(),
                    containers: containers.collect(),
                }
            })
            .collect()
    }
}

impl Service for Lister {
    async fn call(&self, method: &str, message: Bytes) -> Result<Bytes, Status> {
        match method.strip_prefix("/v1.PodResourcesLister/") {
            Some("List") => Ok(server::encode(&PodList { pods: self.list() })),
            Some("GetAllocatableResources") => {
                let devices = self
                    .context
                    .devices
                    .all()
                    .into_iter()
                    .map(|(resource_name, device_ids)| ContainerDevices { resource_name, device_ids });
                let cpus = i64::try_from(self.context.machine.cpus).unwrap_or(i64::MAX);
                Ok(server::encode(&Allocatable { devices: devices.collect(), cpu_ids: (0..cpus).collect() }))
            }
            Some("Get") => {
                let wanted: Which = server::decode(message)?;
                let found =
                    self.list().into_iter().find(|pod| pod.name == wanted.name && pod.namespace == wanted.namespace);
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
