//! CSI's messages (v1), as prost messages for those who call drivers and for the driver of local volumes.
//!
//! Written down from the public field numbers of `csi.proto`, which cannot change, so that building needs no `protoc`. Of
//! `oneof`s each member is a field of its own, which is the same on the wire. Fields that nobody here uses are left out; prost
//! skips them. <https://github.com/container-storage-interface/spec/blob/master/csi.proto>

pub mod controller;
pub mod identity;
pub mod node;

use std::collections::HashMap;

/// The annotation of a CSINode that names the drivers whose controllers are called through that node, as a JSON object with the
/// numbers of what each can do. Those drivers have no sidecars: their own socket is the one that registered them.
pub const CONTROLLERS: &str = "csi.kobune.dev/controllers";

/// A plugin capability: the driver has a controller.
pub const CONTROLLER_SERVICE: i32 = 1;
/// A plugin capability: volumes can't be reached from everywhere.
pub const VOLUME_ACCESSIBILITY_CONSTRAINTS: i32 = 2;
/// A plugin capability: volumes grow while they are used.
pub const ONLINE_EXPANSION: i32 = 1;

/// What a controller can do, by CSI's numbers.
pub mod controller_can {
    /// Make and delete volumes.
    pub const CREATE_DELETE_VOLUME: i32 = 1;
    /// Attach volumes to nodes.
    pub const PUBLISH_UNPUBLISH_VOLUME: i32 = 2;
    /// List volumes.
    pub const LIST_VOLUMES: i32 = 3;
    /// Say how much room there is.
    pub const GET_CAPACITY: i32 = 4;
    /// Take and delete snapshots.
    pub const CREATE_DELETE_SNAPSHOT: i32 = 5;
    /// List snapshots.
    pub const LIST_SNAPSHOTS: i32 = 6;
    /// Make volumes from volumes.
    pub const CLONE_VOLUME: i32 = 7;
    /// Attach volumes that nobody may write.
    pub const PUBLISH_READONLY: i32 = 8;
    /// Let volumes grow.
    pub const EXPAND_VOLUME: i32 = 9;
    /// Look up one volume.
    pub const GET_VOLUME: i32 = 12;
    /// Tell several writers on one node from a single one.
    pub const SINGLE_NODE_MULTI_WRITER: i32 = 13;
    /// Look up one snapshot.
    pub const GET_SNAPSHOT: i32 = 15;
}

/// What a node can do, by CSI's numbers.
pub mod node_can {
    /// Make volumes ready before they are mounted for pods.
    pub const STAGE_UNSTAGE_VOLUME: i32 = 1;
    /// Say how full volumes are.
    pub const GET_VOLUME_STATS: i32 = 2;
    /// Let volumes grow.
    pub const EXPAND_VOLUME: i32 = 3;
    /// Tell several writers on one node from a single one.
    pub const SINGLE_NODE_MULTI_WRITER: i32 = 5;
    /// Give files to the pod's group.
    pub const VOLUME_MOUNT_GROUP: i32 = 6;
}

/// Who uses a volume at once, by CSI's numbers.
pub mod access {
    /// One node, which writes.
    pub const SINGLE_NODE_WRITER: i32 = 1;
    /// One node, which reads.
    pub const SINGLE_NODE_READER_ONLY: i32 = 2;
    /// Many nodes, which read.
    pub const MULTI_NODE_READER_ONLY: i32 = 3;
    /// Many nodes, of which one writes.
    pub const MULTI_NODE_SINGLE_WRITER: i32 = 4;
    /// Many nodes, which write.
    pub const MULTI_NODE_MULTI_WRITER: i32 = 5;
    /// One pod on one node, which writes.
    pub const SINGLE_NODE_SINGLE_WRITER: i32 = 6;
    /// Many pods on one node, which write.
    pub const SINGLE_NODE_MULTI_WRITER: i32 = 7;
}

impl Capabilities {
    /// That these can be done.
    pub fn of(kinds: &[i32]) -> Capabilities {
        let capability = |kind: &i32| Capability { rpc: Some(CapabilityKind { kind: *kind }) };
        Capabilities { capabilities: kinds.iter().map(capability).collect() }
    }

    /// Whether this can be done.
    pub fn can(&self, kind: i32) -> bool {
        self.capabilities.iter().any(|able| able.rpc.as_ref().is_some_and(|rpc| rpc.kind == kind))
    }
}

/// A message without fields.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Nothing {}

/// How a volume is used.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VolumeCapability {
    /// It is used as a block device.
    #[prost(message, optional, tag = "1")]
    pub block: Option<Nothing>,
    /// It is used as a file system.
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

/// How large something is to be.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CapacityRange {
    /// At least so many bytes; 0 leaves it to the driver.
    #[prost(int64, tag = "1")]
    pub required_bytes: i64,
    /// At most so many bytes; 0 for no limit.
    #[prost(int64, tag = "2")]
    pub limit_bytes: i64,
}

/// A place.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Topology {
    /// Names of levels with their values.
    #[prost(map = "string, string", tag = "1")]
    pub segments: HashMap<String, String>,
}

/// Something a controller or a node can do.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Capability {
    /// A call.
    #[prost(message, optional, tag = "1")]
    pub rpc: Option<CapabilityKind>,
}

/// What it is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CapabilityKind {
    /// One of CSI's numbers.
    #[prost(int32, tag = "1")]
    pub kind: i32,
}

/// The answer to `ControllerGetCapabilities` and `NodeGetCapabilities`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Capabilities {
    /// What it can do.
    #[prost(message, repeated, tag = "1")]
    pub capabilities: Vec<Capability>,
}
