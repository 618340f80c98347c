//! What runtimes tell by themselves: CRI's events, and containerd's own, which older versions of it have instead.
//!
//! Source of the latter: `api/services/events/v1/events.proto` and `api/events/task.proto` of containerd.

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ContainerEventResponse {
    #[prost(string, tag = "1")]
    pub container_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SubscribeRequest {
    #[prost(string, repeated, tag = "1")]
    pub filters: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Envelope {
    #[prost(string, tag = "2")]
    pub namespace: String,
    #[prost(string, tag = "3")]
    pub topic: String,
    #[prost(message, optional, tag = "4")]
    pub event: Option<Any>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Any {
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// The beginning of `TaskExit`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TaskExit {
    /// The container, or a sandbox.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// The process: the container's own, or one that was run in it.
    #[prost(string, tag = "2")]
    pub id: String,
}
