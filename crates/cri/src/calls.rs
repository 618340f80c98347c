//! The calls of CRI's two services, and how long each may take.

use std::path::PathBuf;
use std::time::Duration;

use kobune_grpc::Status;
use kobune_grpc::client::Client;

use crate::proto::container::{
    AttachRequest, ContainerStatusResponse, CreateContainerRequest, CreateContainerResponse, ExecRequest,
    ExecSyncRequest, ExecSyncResponse, ListContainersRequest, ListContainersResponse, StopContainerRequest,
    StreamingResponse, UpdateContainerResourcesRequest,
};
use crate::proto::events::{ContainerEventResponse, Envelope, SubscribeRequest};
use crate::proto::image::{
    ImageFsInfoResponse, ImageRequest, ImageStatusResponse, ListImagesResponse, PullImageRequest, PullImageResponse,
};
use crate::proto::sandbox::{
    ListPodSandboxRequest, ListPodSandboxResponse, PodSandboxStatusResponse, RunPodSandboxRequest,
    RunPodSandboxResponse,
};
use crate::proto::stats::ContainerStatsResponse;
use crate::proto::{
    ById, Nothing, RuntimeConfigResponse, StatusRequest, StatusResponse, VersionRequest, VersionResponse,
};

/// For questions.
pub(crate) const QUESTION: Duration = Duration::from_secs(15);
/// For work; the kubelet's `runtimeRequestTimeout`.
pub(crate) const WORK: Duration = Duration::from_secs(120);
/// For work on whole sandboxes, as upstream twice of that.
const SANDBOX: Duration = Duration::from_secs(240);
/// For pulls: the runtime itself gives up those that stand still.
const PULL: Duration = Duration::from_secs(3600);
/// For what ends by itself.
const ENDLESS: Duration = Duration::from_secs(10 * 365 * 86400);
/// Longer answers are refused; upstream's bound. What a command wrote may be as long.
const LONGEST: usize = 16 << 20;

/// A runtime behind its socket.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    client: Client,
}

macro_rules! calls {
    ($($name:ident($path:literal, $patience:ident): $question:ty => $answer:ty;)*) => {
        $(pub(crate) async fn $name(&self, question: $question) -> Result<$answer, Status> {
            self.client.call($path, question, $patience).await
        })*
    };
}

impl Calls {
    pub(crate) fn new(socket: PathBuf) -> Calls {
        Calls { client: Client::new(socket).reading_up_to(LONGEST) }
    }

    calls! {
        version("/runtime.v1.RuntimeService/Version", QUESTION): VersionRequest => VersionResponse;
        status("/runtime.v1.RuntimeService/Status", QUESTION): StatusRequest => StatusResponse;
        runtime_config("/runtime.v1.RuntimeService/RuntimeConfig", QUESTION): Nothing => RuntimeConfigResponse;
        run_pod_sandbox("/runtime.v1.RuntimeService/RunPodSandbox", SANDBOX): RunPodSandboxRequest => RunPodSandboxResponse;
        stop_pod_sandbox("/runtime.v1.RuntimeService/StopPodSandbox", SANDBOX): ById => Nothing;
        remove_pod_sandbox("/runtime.v1.RuntimeService/RemovePodSandbox", SANDBOX): ById => Nothing;
        pod_sandbox_status("/runtime.v1.RuntimeService/PodSandboxStatus", QUESTION): ById => PodSandboxStatusResponse;
        list_pod_sandbox("/runtime.v1.RuntimeService/ListPodSandbox", QUESTION): ListPodSandboxRequest => ListPodSandboxResponse;
        create_container("/runtime.v1.RuntimeService/CreateContainer", WORK): CreateContainerRequest => CreateContainerResponse;
        start_container("/runtime.v1.RuntimeService/StartContainer", WORK): ById => Nothing;
        remove_container("/runtime.v1.RuntimeService/RemoveContainer", WORK): ById => Nothing;
        list_containers("/runtime.v1.RuntimeService/ListContainers", QUESTION): ListContainersRequest => ListContainersResponse;
        container_status("/runtime.v1.RuntimeService/ContainerStatus", QUESTION): ById => ContainerStatusResponse;
        update_container_resources("/runtime.v1.RuntimeService/UpdateContainerResources", WORK): UpdateContainerResourcesRequest => Nothing;
        reopen_container_log("/runtime.v1.RuntimeService/ReopenContainerLog", QUESTION): ById => Nothing;
        exec("/runtime.v1.RuntimeService/Exec", QUESTION): ExecRequest => StreamingResponse;
        attach("/runtime.v1.RuntimeService/Attach", QUESTION): AttachRequest => StreamingResponse;
        container_stats("/runtime.v1.RuntimeService/ContainerStats", QUESTION): ById => ContainerStatsResponse;
        list_images("/runtime.v1.ImageService/ListImages", QUESTION): Nothing => ListImagesResponse;
        image_status("/runtime.v1.ImageService/ImageStatus", QUESTION): ImageRequest => ImageStatusResponse;
        pull_image("/runtime.v1.ImageService/PullImage", PULL): PullImageRequest => PullImageResponse;
        remove_image("/runtime.v1.ImageService/RemoveImage", WORK): ImageRequest => Nothing;
        image_fs_info("/runtime.v1.ImageService/ImageFsInfo", QUESTION): Nothing => ImageFsInfoResponse;
    }

    /// `StopContainer` takes as long as the container may.
    pub(crate) async fn stop_container(&self, question: StopContainerRequest, grace: Duration) -> Result<(), Status> {
        let answer: Result<Nothing, Status> =
            self.client.call("/runtime.v1.RuntimeService/StopContainer", question, grace.saturating_add(WORK)).await;
        answer.map(drop)
    }

    /// `ExecSync` takes as long as the command may, or for ever.
    pub(crate) async fn exec_sync(
        &self,
        question: ExecSyncRequest,
        timeout: Duration,
    ) -> Result<ExecSyncResponse, Status> {
        let patience = if timeout.is_zero() { ENDLESS } else { timeout.saturating_add(QUESTION) };
        self.client.call("/runtime.v1.RuntimeService/ExecSync", question, patience).await
    }

    /// CRI's events. Servers may send nothing at all, not even the call's beginning, before the first one.
    pub(crate) async fn events(&self) -> Result<kobune_grpc::Streaming<ContainerEventResponse>, Status> {
        self.client.stream("/runtime.v1.RuntimeService/GetContainerEvents", Nothing {}, ENDLESS).await
    }

    /// containerd's own events of processes that have ended.
    pub(crate) async fn containerd_exits(&self) -> Result<kobune_grpc::Streaming<Envelope>, Status> {
        let question = SubscribeRequest { filters: vec!["topic==\"/tasks/exit\"".to_owned()] };
        self.client.stream("/containerd.services.events.v1.Events/Subscribe", question, ENDLESS).await
    }
}
