//! Who a driver is.

use std::collections::HashMap;

use super::CapabilityKind;

/// Who the driver is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetPluginInfoResponse {
    /// What it is called.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Which version it is.
    #[prost(string, tag = "2")]
    pub vendor_version: String,
    /// Whatever else it says of itself.
    #[prost(map = "string, string", tag = "3")]
    pub manifest: HashMap<String, String>,
}

/// What the driver can do.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetPluginCapabilitiesResponse {
    /// What it can do.
    #[prost(message, repeated, tag = "1")]
    pub capabilities: Vec<PluginCapability>,
}

/// Something the driver can do.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PluginCapability {
    /// A service it has.
    #[prost(message, optional, tag = "1")]
    pub service: Option<CapabilityKind>,
    /// How its volumes grow.
    #[prost(message, optional, tag = "2")]
    pub volume_expansion: Option<CapabilityKind>,
}

/// Whether the driver is ready.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ProbeResponse {
    /// Whether it can be used; unsaid is yes.
    #[prost(message, optional, tag = "1")]
    pub ready: Option<BoolValue>,
}

/// `google.protobuf.BoolValue`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BoolValue {
    /// The value.
    #[prost(bool, tag = "1")]
    pub value: bool,
}
