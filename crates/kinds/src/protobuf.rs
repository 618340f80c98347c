//! Kubernetes' protobuf encoding, in both directions, for every type that has field numbers.
//!
//! There is no generated code: the schema table knows each field's number, and the same walk serves all kinds. Objects
//! are stored as JSON, so encoding goes from JSON text to protobuf in one pass without an object in between.

mod decode;
mod encode;
mod envelope;
mod read;
pub(crate) mod write;

pub use decode::{ProtobufError, decode};
pub use encode::EncodeError;
pub use envelope::{item, list_head, object, partial, partial_item, value, watch_frame};

/// The media type.
pub const MEDIA: &str = "application/vnd.kubernetes.protobuf";

/// What every object begins with, outside of the frames of a watch.
const MAGIC: &[u8] = b"k8s\0";

#[cfg(test)]
mod tests;
