//! Messages of the device plugin API (`pluginregistration` aside), written down from the public field numbers of
//! `k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1/api.proto`, which cannot change. What is not used here is left out.

use std::collections::HashMap;

/// Where the kubelet listens, in the folder of device plugins.
pub const SOCKET: &str = "kubelet.sock";
/// The version of the API.
pub const VERSION: &str = "v1beta1";
/// What a plugin says of a device that can be used.
pub const HEALTHY: &str = "Healthy";

/// A plugin that comes by itself.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RegisterRequest {
    /// The version of the API that it speaks.
    #[prost(string, tag = "1")]
    pub version: String,
    /// Its socket, in the same folder.
    #[prost(string, tag = "2")]
    pub endpoint: String,
    /// What it has.
    #[prost(string, tag = "3")]
    pub resource_name: String,
    /// What it wants to be asked.
    #[prost(message, optional, tag = "4")]
    pub options: Option<PluginOptions>,
}

/// What a plugin wants to be asked.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct PluginOptions {
    /// Before each start of a container.
    #[prost(bool, tag = "1")]
    pub pre_start_required: bool,
}

/// All devices of a plugin.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeviceList {
    /// Each of them.
    #[prost(message, repeated, tag = "1")]
    pub devices: Vec<PluginDevice>,
}

/// A device.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PluginDevice {
    /// Its name.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Whether it can be used.
    #[prost(string, tag = "2")]
    pub health: String,
    /// Where it is.
    #[prost(message, optional, tag = "3")]
    pub topology: Option<Topology>,
}

/// Where a device is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Topology {
    /// Close to these.
    #[prost(message, repeated, tag = "1")]
    pub nodes: Vec<NumaNode>,
}

/// A part of the machine's memory.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct NumaNode {
    /// Its number.
    #[prost(int64, tag = "1")]
    pub id: i64,
}

/// Devices are given to containers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AllocateRequest {
    /// One for each container.
    #[prost(message, repeated, tag = "1")]
    pub containers: Vec<Ids>,
}

/// Devices by name; also what `PreStartContainer` is asked with.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Ids {
    /// Their names.
    #[prost(string, repeated, tag = "1")]
    pub ids: Vec<String>,
}

/// What containers need for their devices.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AllocateResponse {
    /// One for each container.
    #[prost(message, repeated, tag = "1")]
    pub containers: Vec<ContainerNeeds>,
}

/// What a container needs for its devices.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerNeeds {
    /// Variables.
    #[prost(map = "string, string", tag = "1")]
    pub envs: HashMap<String, String>,
    /// Files and folders.
    #[prost(message, repeated, tag = "2")]
    pub mounts: Vec<NeededMount>,
    /// Device nodes.
    #[prost(message, repeated, tag = "3")]
    pub devices: Vec<NeededDevice>,
    /// Annotations for the runtime.
    #[prost(map = "string, string", tag = "4")]
    pub annotations: HashMap<String, String>,
    /// Devices by their CDI names.
    #[prost(message, repeated, tag = "5")]
    pub cdi_devices: Vec<CdiName>,
}

/// A mount.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NeededMount {
    /// Path in the container.
    #[prost(string, tag = "1")]
    pub container_path: String,
    /// Path on the host.
    #[prost(string, tag = "2")]
    pub host_path: String,
    /// Shown read-only.
    #[prost(bool, tag = "3")]
    pub read_only: bool,
}

/// A device node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NeededDevice {
    /// Path in the container.
    #[prost(string, tag = "1")]
    pub container_path: String,
    /// Path on the host.
    #[prost(string, tag = "2")]
    pub host_path: String,
    /// Any of `rwm`.
    #[prost(string, tag = "3")]
    pub permissions: String,
}

/// A CDI name: `vendor.example.com/class=name`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CdiName {
    /// The name.
    #[prost(string, tag = "1")]
    pub name: String,
}
