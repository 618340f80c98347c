//! The part of CSI's and of the kubelet's plugin registration API that a node uses, as prost messages.
//!
//! Written down from the public field numbers of `csi.proto` (v1) and `pluginregistration/v1/api.proto`, which cannot change,
//! so that building needs no `protoc`. Fields that are not used here are left out; prost skips them.

use std::collections::HashMap;

/// `InfoRequest`, and every other message without fields.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Nothing {}

/// What a plugin says of itself when it registers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PluginInfo {
    /// `CSIPlugin`, `DevicePlugin` or `DRAPlugin`.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// The driver's name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// The socket that serves it; empty when it is the one that answers.
    #[prost(string, tag = "3")]
    pub endpoint: String,
    /// Versions of the API it speaks.
    #[prost(string, repeated, tag = "4")]
    pub supported_versions: Vec<String>,
}

/// What a plugin is told about its registration.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RegistrationStatus {
    /// It is registered.
    #[prost(bool, tag = "1")]
    pub plugin_registered: bool,
    /// Why it is not.
    #[prost(string, tag = "2")]
    pub error: String,
}

/// What a driver knows about the node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeGetInfoResponse {
    /// How the driver calls the node.
    #[prost(string, tag = "1")]
    pub node_id: String,
    /// How many volumes it takes; 0 for no limit.
    #[prost(int64, tag = "2")]
    pub max_volumes_per_node: i64,
    /// Where the node is.
    #[prost(message, optional, tag = "3")]
    pub accessible_topology: Option<Topology>,
}

/// A place.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Topology {
    /// Names of levels with their values.
    #[prost(map = "string, string", tag = "1")]
    pub segments: HashMap<String, String>,
}

/// What a driver can do on nodes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeGetCapabilitiesResponse {
    /// Each ability.
    #[prost(message, repeated, tag = "1")]
    pub capabilities: Vec<NodeServiceCapability>,
}

/// One ability.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeServiceCapability {
    /// A call that it answers.
    #[prost(message, optional, tag = "1")]
    pub rpc: Option<Rpc>,
}

/// A call.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Rpc {
    /// One of the numbers below.
    #[prost(int32, tag = "1")]
    pub kind: i32,
}

/// `STAGE_UNSTAGE_VOLUME`.
pub const STAGE_UNSTAGE_VOLUME: i32 = 1;
/// `VOLUME_MOUNT_GROUP`.
pub const VOLUME_MOUNT_GROUP: i32 = 6;

/// How a volume is to be used.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VolumeCapability {
    /// As a file system.
    #[prost(message, optional, tag = "2")]
    pub mount: Option<MountVolume>,
    /// By whom.
    #[prost(message, optional, tag = "3")]
    pub access_mode: Option<AccessMode>,
}

/// A file system.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MountVolume {
    /// Its type; empty leaves it to the driver.
    #[prost(string, tag = "1")]
    pub fs_type: String,
    /// Mount options.
    #[prost(string, repeated, tag = "2")]
    pub mount_flags: Vec<String>,
    /// The group that may use it.
    #[prost(string, tag = "3")]
    pub volume_mount_group: String,
}

/// Who uses a volume at once.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AccessMode {
    /// One of CSI's numbers.
    #[prost(int32, tag = "1")]
    pub mode: i32,
}

/// Makes a volume ready on the node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeStageVolumeRequest {
    /// The volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// What attaching it said.
    #[prost(map = "string, string", tag = "2")]
    pub publish_context: HashMap<String, String>,
    /// Where it is made ready.
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
    /// The volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// Where it was made ready.
    #[prost(string, tag = "2")]
    pub staging_target_path: String,
}

/// Mounts a volume for a pod.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodePublishVolumeRequest {
    /// The volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// What attaching it said.
    #[prost(map = "string, string", tag = "2")]
    pub publish_context: HashMap<String, String>,
    /// Where it was made ready; empty when the driver does not stage.
    #[prost(string, tag = "3")]
    pub staging_target_path: String,
    /// Where the pod will see it.
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
    /// What making it said, and who the pod is.
    #[prost(map = "string, string", tag = "8")]
    pub volume_context: HashMap<String, String>,
}

/// Undoes publishing.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeUnpublishVolumeRequest {
    /// The volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// Where the pod saw it.
    #[prost(string, tag = "2")]
    pub target_path: String,
}
