//! The calls about volumes on one node.

use std::collections::HashMap;

use super::{CapacityRange, Topology, VolumeCapability};

/// What a driver knows about the node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeGetInfoResponse {
    /// How the driver calls the node.
    #[prost(string, tag = "1")]
    pub node_id: String,
    /// How many volumes it takes; 0 for no limit.
    #[prost(int64, tag = "2")]
    pub max_volumes_per_node: i64,
    /// From where it can be reached.
    #[prost(message, optional, tag = "3")]
    pub accessible_topology: Option<Topology>,
}

/// Makes a volume ready on the node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeStageVolumeRequest {
    /// How the driver calls the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// What attaching it said.
    #[prost(map = "string, string", tag = "2")]
    pub publish_context: HashMap<String, String>,
    /// Where it was made ready; empty when the driver does not stage.
    #[prost(string, tag = "3")]
    pub staging_target_path: String,
    /// How it will be used.
    #[prost(message, optional, tag = "4")]
    pub volume_capability: Option<VolumeCapability>,
    /// What the driver has to know and nobody else.
    #[prost(map = "string, string", tag = "5")]
    pub secrets: HashMap<String, String>,
    /// What making it said.
    #[prost(map = "string, string", tag = "6")]
    pub volume_context: HashMap<String, String>,
}

/// Undoes staging.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeUnstageVolumeRequest {
    /// How the driver calls the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// Where it was made ready; empty when the driver does not stage.
    #[prost(string, tag = "2")]
    pub staging_target_path: String,
}

/// Mounts a volume for a pod.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodePublishVolumeRequest {
    /// How the driver calls the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// What attaching it said.
    #[prost(map = "string, string", tag = "2")]
    pub publish_context: HashMap<String, String>,
    /// Where it was made ready; empty when the driver does not stage.
    #[prost(string, tag = "3")]
    pub staging_target_path: String,
    /// Where the pod sees it.
    #[prost(string, tag = "4")]
    pub target_path: String,
    /// How it will be used.
    #[prost(message, optional, tag = "5")]
    pub volume_capability: Option<VolumeCapability>,
    /// Nobody may write.
    #[prost(bool, tag = "6")]
    pub readonly: bool,
    /// What the driver has to know and nobody else.
    #[prost(map = "string, string", tag = "7")]
    pub secrets: HashMap<String, String>,
    /// What making it said.
    #[prost(map = "string, string", tag = "8")]
    pub volume_context: HashMap<String, String>,
}

/// Undoes publishing.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeUnpublishVolumeRequest {
    /// How the driver calls the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// Where the pod sees it.
    #[prost(string, tag = "2")]
    pub target_path: String,
}

/// Asks how full a volume is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeGetVolumeStatsRequest {
    /// How the driver calls the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// Where the pod, or the node, sees it.
    #[prost(string, tag = "2")]
    pub volume_path: String,
    /// Where it was made ready; empty when the driver does not stage.
    #[prost(string, tag = "3")]
    pub staging_target_path: String,
}

/// How full a volume is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeGetVolumeStatsResponse {
    /// How much is used.
    #[prost(message, repeated, tag = "1")]
    pub usage: Vec<VolumeUsage>,
}

/// How much of something is used.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VolumeUsage {
    /// Left.
    #[prost(int64, tag = "1")]
    pub available: i64,
    /// In all.
    #[prost(int64, tag = "2")]
    pub total: i64,
    /// Used.
    #[prost(int64, tag = "3")]
    pub used: i64,
    /// Of what: 1 bytes, 2 inodes.
    #[prost(int32, tag = "4")]
    pub unit: i32,
}

/// Lets a volume grow on the node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeExpandVolumeRequest {
    /// How the driver calls the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// Where the pod, or the node, sees it.
    #[prost(string, tag = "2")]
    pub volume_path: String,
    /// How large it is to be.
    #[prost(message, optional, tag = "3")]
    pub capacity_range: Option<CapacityRange>,
    /// Where it was made ready; empty when the driver does not stage.
    #[prost(string, tag = "4")]
    pub staging_target_path: String,
    /// How it will be used.
    #[prost(message, optional, tag = "5")]
    pub volume_capability: Option<VolumeCapability>,
    /// What the driver has to know and nobody else.
    #[prost(map = "string, string", tag = "6")]
    pub secrets: HashMap<String, String>,
}

/// How large it is now.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeExpandVolumeResponse {
    /// How many bytes it holds; 0 when that is not known.
    #[prost(int64, tag = "1")]
    pub capacity_bytes: i64,
}
