//! The kubelet's plugin registration API, as prost messages.
//!
//! Written down from the public field numbers of `pluginregistration/v1/api.proto`, which cannot change, so that building needs
//! no `protoc`.

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
