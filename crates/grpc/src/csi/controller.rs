//! The calls about volumes and snapshots of the whole cluster.

use std::collections::HashMap;

use super::{CapacityRange, Topology, VolumeCapability};

/// Makes a volume.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CreateVolumeRequest {
    /// What it is called.
    #[prost(string, tag = "1")]
    pub name: String,
    /// How large it is to be.
    #[prost(message, optional, tag = "2")]
    pub capacity_range: Option<CapacityRange>,
    /// How it will be used.
    #[prost(message, repeated, tag = "3")]
    pub volume_capabilities: Vec<VolumeCapability>,
    /// The class's parameters.
    #[prost(map = "string, string", tag = "4")]
    pub parameters: HashMap<String, String>,
    /// What the driver has to know and nobody else.
    #[prost(map = "string, string", tag = "5")]
    pub secrets: HashMap<String, String>,
    /// What is in it from the beginning.
    #[prost(message, optional, tag = "6")]
    pub volume_content_source: Option<VolumeContentSource>,
    /// From where it has to be reached.
    #[prost(message, optional, tag = "7")]
    pub accessibility_requirements: Option<TopologyRequirement>,
    /// Parameters that can change later.
    #[prost(map = "string, string", tag = "8")]
    pub mutable_parameters: HashMap<String, String>,
}

/// The volume that was made.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CreateVolumeResponse {
    /// The volume.
    #[prost(message, optional, tag = "1")]
    pub volume: Option<Volume>,
}

/// What a volume begins with: one of the two.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VolumeContentSource {
    /// The snapshot.
    #[prost(message, optional, tag = "1")]
    pub snapshot: Option<SnapshotSource>,
    /// The volume.
    #[prost(message, optional, tag = "2")]
    pub volume: Option<VolumeSource>,
}

/// A snapshot.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SnapshotSource {
    /// How the driver calls the snapshot.
    #[prost(string, tag = "1")]
    pub snapshot_id: String,
}

/// Another volume.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VolumeSource {
    /// How the driver calls the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
}

/// Where a volume has to be.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TopologyRequirement {
    /// The places it has to be reached from, any of them.
    #[prost(message, repeated, tag = "1")]
    pub requisite: Vec<Topology>,
    /// The same, best first.
    #[prost(message, repeated, tag = "2")]
    pub preferred: Vec<Topology>,
}

/// A volume.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Volume {
    /// How many bytes it holds; 0 when that is not known.
    #[prost(int64, tag = "1")]
    pub capacity_bytes: i64,
    /// How the driver calls the volume.
    #[prost(string, tag = "2")]
    pub volume_id: String,
    /// What making it said.
    #[prost(map = "string, string", tag = "3")]
    pub volume_context: HashMap<String, String>,
    /// What was in it from the beginning.
    #[prost(message, optional, tag = "4")]
    pub content_source: Option<VolumeContentSource>,
    /// From where it can be reached.
    #[prost(message, repeated, tag = "5")]
    pub accessible_topology: Vec<Topology>,
}

/// Deletes a volume.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeleteVolumeRequest {
    /// How the driver calls the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// What the driver has to know and nobody else.
    #[prost(map = "string, string", tag = "2")]
    pub secrets: HashMap<String, String>,
}

/// Attaches a volume to a node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ControllerPublishVolumeRequest {
    /// How the driver calls the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// How the driver calls the node.
    #[prost(string, tag = "2")]
    pub node_id: String,
    /// How it will be used.
    #[prost(message, optional, tag = "3")]
    pub volume_capability: Option<VolumeCapability>,
    /// Nobody may write.
    #[prost(bool, tag = "4")]
    pub readonly: bool,
    /// What the driver has to know and nobody else.
    #[prost(map = "string, string", tag = "5")]
    pub secrets: HashMap<String, String>,
    /// What making it said.
    #[prost(map = "string, string", tag = "6")]
    pub volume_context: HashMap<String, String>,
}

/// What attaching gave.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ControllerPublishVolumeResponse {
    /// What attaching it said.
    #[prost(map = "string, string", tag = "1")]
    pub publish_context: HashMap<String, String>,
}

/// Detaches a volume from a node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ControllerUnpublishVolumeRequest {
    /// How the driver calls the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// How the driver calls the node.
    #[prost(string, tag = "2")]
    pub node_id: String,
    /// What the driver has to know and nobody else.
    #[prost(map = "string, string", tag = "3")]
    pub secrets: HashMap<String, String>,
}

/// Asks whether a volume can be used so.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ValidateVolumeCapabilitiesRequest {
    /// How the driver calls the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// What making it said.
    #[prost(map = "string, string", tag = "2")]
    pub volume_context: HashMap<String, String>,
    /// How it will be used.
    #[prost(message, repeated, tag = "3")]
    pub volume_capabilities: Vec<VolumeCapability>,
    /// The class's parameters.
    #[prost(map = "string, string", tag = "4")]
    pub parameters: HashMap<String, String>,
    /// What the driver has to know and nobody else.
    #[prost(map = "string, string", tag = "5")]
    pub secrets: HashMap<String, String>,
    /// Parameters that can change later.
    #[prost(map = "string, string", tag = "6")]
    pub mutable_parameters: HashMap<String, String>,
}

/// Whether a volume can be used so.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ValidateVolumeCapabilitiesResponse {
    /// What was found to be so; nothing when something is not.
    #[prost(message, optional, tag = "1")]
    pub confirmed: Option<Confirmed>,
    /// Words about it.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// What was confirmed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Confirmed {
    /// What making it said.
    #[prost(map = "string, string", tag = "1")]
    pub volume_context: HashMap<String, String>,
    /// How it will be used.
    #[prost(message, repeated, tag = "2")]
    pub volume_capabilities: Vec<VolumeCapability>,
    /// The class's parameters.
    #[prost(map = "string, string", tag = "3")]
    pub parameters: HashMap<String, String>,
    /// Parameters that can change later.
    #[prost(map = "string, string", tag = "4")]
    pub mutable_parameters: HashMap<String, String>,
}

/// Lists volumes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListVolumesRequest {
    /// At most so many entries; 0 for all.
    #[prost(int32, tag = "1")]
    pub max_entries: i32,
    /// Where an earlier answer ended.
    #[prost(string, tag = "2")]
    pub starting_token: String,
}

/// Volumes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListVolumesResponse {
    /// The entries.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<VolumeEntry>,
    /// Where the next answer begins; empty at the end.
    #[prost(string, tag = "2")]
    pub next_token: String,
}

/// One of the volumes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VolumeEntry {
    /// The volume.
    #[prost(message, optional, tag = "1")]
    pub volume: Option<Volume>,
}

/// Asks for one volume.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ControllerGetVolumeRequest {
    /// How the driver calls the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
}

/// One volume.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ControllerGetVolumeResponse {
    /// The volume.
    #[prost(message, optional, tag = "1")]
    pub volume: Option<Volume>,
    /// How it is doing.
    #[prost(message, optional, tag = "2")]
    pub status: Option<VolumeStatus>,
}

/// How a volume is doing.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VolumeStatus {
    /// The nodes it is attached to.
    #[prost(string, repeated, tag = "1")]
    pub published_node_ids: Vec<String>,
}

/// Asks how much room there is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetCapacityRequest {
    /// How it will be used.
    #[prost(message, repeated, tag = "1")]
    pub volume_capabilities: Vec<VolumeCapability>,
    /// The class's parameters.
    #[prost(map = "string, string", tag = "2")]
    pub parameters: HashMap<String, String>,
    /// From where it can be reached.
    #[prost(message, optional, tag = "3")]
    pub accessible_topology: Option<Topology>,
}

/// How much room there is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetCapacityResponse {
    /// So many bytes are left.
    #[prost(int64, tag = "1")]
    pub available_capacity: i64,
    /// The largest volume there can be.
    #[prost(message, optional, tag = "2")]
    pub maximum_volume_size: Option<Int64Value>,
    /// The smallest volume there can be.
    #[prost(message, optional, tag = "3")]
    pub minimum_volume_size: Option<Int64Value>,
}

/// `google.protobuf.Int64Value`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Int64Value {
    /// The value.
    #[prost(int64, tag = "1")]
    pub value: i64,
}

/// Takes a snapshot.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CreateSnapshotRequest {
    /// The volume it is of.
    #[prost(string, tag = "1")]
    pub source_volume_id: String,
    /// What it is called.
    #[prost(string, tag = "2")]
    pub name: String,
    /// What the driver has to know and nobody else.
    #[prost(map = "string, string", tag = "3")]
    pub secrets: HashMap<String, String>,
    /// The class's parameters.
    #[prost(map = "string, string", tag = "4")]
    pub parameters: HashMap<String, String>,
}

/// The answer to `CreateSnapshot` and `GetSnapshot`, and one of a list.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SnapshotResponse {
    /// The snapshot.
    #[prost(message, optional, tag = "1")]
    pub snapshot: Option<Snapshot>,
}

/// A snapshot.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Snapshot {
    /// The size of a volume that is made from it.
    #[prost(int64, tag = "1")]
    pub size_bytes: i64,
    /// How the driver calls the snapshot.
    #[prost(string, tag = "2")]
    pub snapshot_id: String,
    /// The volume it is of.
    #[prost(string, tag = "3")]
    pub source_volume_id: String,
    /// When it was taken.
    #[prost(message, optional, tag = "4")]
    pub creation_time: Option<Timestamp>,
    /// Volumes can be made from it.
    #[prost(bool, tag = "5")]
    pub ready_to_use: bool,
}

/// `google.protobuf.Timestamp`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Timestamp {
    /// Since 1970.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// And so many billionths.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// Deletes a snapshot, or asks for one.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SnapshotRequest {
    /// How the driver calls the snapshot.
    #[prost(string, tag = "1")]
    pub snapshot_id: String,
    /// What the driver has to know and nobody else.
    #[prost(map = "string, string", tag = "2")]
    pub secrets: HashMap<String, String>,
}

/// Lists snapshots.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListSnapshotsRequest {
    /// At most so many entries; 0 for all.
    #[prost(int32, tag = "1")]
    pub max_entries: i32,
    /// Where an earlier answer ended.
    #[prost(string, tag = "2")]
    pub starting_token: String,
    /// The volume it is of.
    #[prost(string, tag = "3")]
    pub source_volume_id: String,
    /// How the driver calls the snapshot.
    #[prost(string, tag = "4")]
    pub snapshot_id: String,
    /// What the driver has to know and nobody else.
    #[prost(map = "string, string", tag = "5")]
    pub secrets: HashMap<String, String>,
}

/// Snapshots.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListSnapshotsResponse {
    /// The entries.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<SnapshotResponse>,
    /// Where the next answer begins; empty at the end.
    #[prost(string, tag = "2")]
    pub next_token: String,
}

/// Lets a volume grow.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ControllerExpandVolumeRequest {
    /// How the driver calls the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// How large it is to be.
    #[prost(message, optional, tag = "2")]
    pub capacity_range: Option<CapacityRange>,
    /// What the driver has to know and nobody else.
    #[prost(map = "string, string", tag = "3")]
    pub secrets: HashMap<String, String>,
    /// How it will be used.
    #[prost(message, optional, tag = "4")]
    pub volume_capability: Option<VolumeCapability>,
}

/// How large it is now.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ControllerExpandVolumeResponse {
    /// How many bytes it holds; 0 when that is not known.
    #[prost(int64, tag = "1")]
    pub capacity_bytes: i64,
    /// The node has to be told too.
    #[prost(bool, tag = "2")]
    pub node_expansion_required: bool,
}
