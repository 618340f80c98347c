//! Messages of DRA's plugin API, written down from the public field numbers of
//! `k8s.io/kubelet/pkg/apis/dra/v1/api.proto`, which are those of v1beta1 too.

use std::collections::HashMap;

/// Claims to prepare, or to give up.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ClaimsRequest {
    /// Each of them.
    #[prost(message, repeated, tag = "1")]
    pub claims: Vec<WireClaim>,
}

/// A claim.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WireClaim {
    /// Its namespace.
    #[prost(string, tag = "1")]
    pub namespace: String,
    /// Its uid.
    #[prost(string, tag = "2")]
    pub uid: String,
    /// Its name.
    #[prost(string, tag = "3")]
    pub name: String,
}

/// What became of claims that were to be prepared.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PrepareResponse {
    /// By the claim's uid.
    #[prost(map = "string, message", tag = "1")]
    pub claims: HashMap<String, Prepared>,
}

/// What became of one.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Prepared {
    /// The devices that it stands for.
    #[prost(message, repeated, tag = "1")]
    pub devices: Vec<PreparedDevice>,
    /// Why it can't be had.
    #[prost(string, tag = "2")]
    pub error: String,
}

/// A device.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PreparedDevice {
    /// The claim's requests that it is for; none for all.
    #[prost(string, repeated, tag = "1")]
    pub request_names: Vec<String>,
    /// Its pool.
    #[prost(string, tag = "2")]
    pub pool_name: String,
    /// Its name.
    #[prost(string, tag = "3")]
    pub device_name: String,
    /// Its CDI names.
    #[prost(string, repeated, tag = "4")]
    pub cdi_device_ids: Vec<String>,
}

/// What became of claims that were to be given up.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UnprepareResponse {
    /// By the claim's uid.
    #[prost(map = "string, message", tag = "1")]
    pub claims: HashMap<String, Unprepared>,
}

/// What became of one.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Unprepared {
    /// Why it is still there.
    #[prost(string, tag = "1")]
    pub error: String,
}
