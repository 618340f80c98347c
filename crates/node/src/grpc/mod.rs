//! gRPC over sockets of this machine: calls to plugins, and the few calls that plugins make. Messages are written down by
//! hand (prost), so that building needs no `protoc`.

pub mod client;
pub mod server;
