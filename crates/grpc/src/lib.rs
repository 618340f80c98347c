//! gRPC over sockets of this machine: calls to plugins (of the node, and of the API server's key management), and the few
//! calls that plugins make. Messages are written down by hand (prost), so that building needs no `protoc`.

pub mod client;
pub mod csi;
pub mod server;

pub use tonic::{Code, Status, Streaming};
