//! A CRI server over a real socket, for tests: it keeps sandboxes and containers in memory, and can be bad at it.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use kobune_grpc::Status;
use kobune_grpc::server::{Service, decode, encode, listen, serve};
use parking_lot::Mutex;
use prost::Message;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::proto::container::{
    Container, ContainerStatus, ContainerStatusResponse, CreateContainerRequest, CreateContainerResponse, ExecRequest,
    ExecSyncRequest, ExecSyncResponse, ListContainersResponse, StopContainerRequest, StreamingResponse,
    UpdateContainerResourcesRequest, state,
};
use crate::proto::image::{Image, ImageRequest, ImageStatusResponse, ListImagesResponse};
use crate::proto::sandbox::{
    ListPodSandboxResponse, PodSandbox, PodSandboxStatus, PodSandboxStatusResponse, READY, RunPodSandboxRequest,
    RunPodSandboxResponse,
};
use crate::proto::{ById, Nothing, RuntimeCondition, RuntimeHandler, RuntimeStatus, StatusResponse, VersionResponse};

/// How a method is answered instead of as it should be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// Not at all.
    Hang,
    /// With bytes that are no message.
    Malformed,
    /// With a message that says nothing.
    Empty,
    /// With this code.
    Code(kobune_grpc::Code),
}

/// What the server has and does.
#[derive(Default)]
pub(crate) struct Books {
    /// How often a sandbox is not removed yet.
    pub refusals: u32,
    pub sandboxes: HashMap<String, PodSandboxStatus>,
    pub containers: HashMap<String, (String, ContainerStatus)>,
    pub faults: HashMap<&'static str, Fault>,
    pub asked: Vec<String>,
    pub limits: Vec<UpdateContainerResourcesRequest>,
    pub version: String,
    pub streaming: String,
    pub not_ready: bool,
    removed: HashSet<String>,
    next: u32,
}

/// A running server.
pub(crate) struct Fake {
    pub books: Arc<Mutex<Books>>,
    pub folder: tempfile::TempDir,
    token: CancellationToken,
}

struct Answering(Arc<Mutex<Books>>);

impl Fake {
    /// Starts one.
    pub(crate) fn start() -> Fake {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(folder.path().join("bin")).expect("a folder");
        std::fs::write(folder.path().join("bin/loopback"), "").expect("a file");
        let books = Books { version: "v1".to_owned(), ..Books::default() };
        let mut fake = Fake { books: Arc::new(Mutex::new(books)), folder, token: CancellationToken::new() };
        fake.books.lock().streaming = fake.folder.path().join("bin").display().to_string();
        fake.listen();
        fake
    }

    /// Listens again, as after a restart.
    pub(crate) fn listen(&mut self) {
        self.token = CancellationToken::new();
        let listener = listen(&self.socket()).expect("a socket");
        tokio::spawn(serve(listener, Arc::new(Answering(Arc::clone(&self.books))), self.token.clone()));
    }

    /// Ends without a word.
    pub(crate) fn die(&self) {
        self.token.cancel();
    }

    /// Below this are the groups of its pods.
    fn groups(&self) -> String {
        let name = self.folder.path().file_name().expect("a folder has a name").to_string_lossy();
        format!("/kobune-cri-test{name}")
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("cri.sock")
    }

    /// How a runtime uses it.
    pub(crate) fn config(&self) -> Config {
        Config {
            socket: self.socket(),
            data_dir: self.folder.path().join("data"),
            instance: "kobune-test".to_owned(),
            cgroup_parent: self.groups(),
            executable: "/proc/self/exe".into(),
        }
    }

    /// Answers a method badly from now on.
    pub(crate) fn fault(&self, method: &'static str, fault: Fault) {
        self.books.lock().faults.insert(method, fault);
    }

    /// Answers it as it should be again.
    pub(crate) fn mend(&self, method: &'static str) {
        self.books.lock().faults.remove(method);
    }

    /// A container ends by itself; nobody is told.
    pub(crate) fn end_container(&self, id: &str, code: i32) {
        let mut books = self.books.lock();
        let (_, status) = books.containers.get_mut(id).expect("a container");
        status.state = state::EXITED;
        status.exit_code = code;
        status.finished_at = 3;
        status.reason = "Error".to_owned();
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let removed = kobune_runtime::PodGroups::detect().and_then(|groups| groups.remove(&self.groups()));
        if let Err(error) = removed {
            eprintln!("control groups of a test stay: {error}");
        }
    }
}

impl Service for Answering {
    async fn call(&self, method: &str, message: Bytes) -> Result<Bytes, Status> {
        let name = method.rsplit('/').next().unwrap_or_default().to_owned();
        let fault = {
            let mut books = self.0.lock();
            books.asked.push(name.clone());
            books.faults.get(name.as_str()).copied()
        };
        match fault {
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Malformed) => Ok(Bytes::from_static(b"\x0a\xff\xff\xff\xff\x01")),
            Some(Fault::Empty) => Ok(Bytes::new()),
            Some(Fault::Code(code)) => Err(Status::new(code, "so it is")),
            None => self.0.lock().answer(&name, message),
        }
    }
}

fn gone(id: &str) -> Status {
    Status::not_found(format!("{id:?} is not there"))
}

impl Books {
    fn answer(&mut self, name: &str, message: Bytes) -> Result<Bytes, Status> {
        match name {
            "Version" => Ok(encode(&VersionResponse {
                runtime_name: "fake".into(),
                runtime_version: "1".into(),
                runtime_api_version: self.version.clone(),
            })),
            "Status" => Ok(encode(&self.status())),
            "RunPodSandbox" => {
                let asked: RunPodSandboxRequest = decode(message)?;
                let config = asked.config.unwrap_or_default();
                self.next += 1;
                let id = format!("s{}", self.next);
                let status = PodSandboxStatus {
                    id: id.clone(),
                    metadata: config.metadata,
                    state: READY,
                    created_at: 1,
                    labels: config.labels,
                    annotations: config.annotations,
                };
                self.sandboxes.insert(id.clone(), status);
                Ok(encode(&RunPodSandboxResponse { pod_sandbox_id: id }))
            }
            "StopPodSandbox" => {
                let id = decode::<ById>(message)?.id;
                self.sandboxes.get_mut(&id).ok_or_else(|| gone(&id))?.state = 1;
                for (_, status) in self.containers.values_mut().filter(|(sandbox, _)| *sandbox == id) {
                    status.state = state::EXITED;
                    status.exit_code = 137;
                }
                Ok(Bytes::new())
            }
            "RemovePodSandbox" => {
                if self.refusals > 0 {
                    self.refusals -= 1;
                    return Err(Status::unknown("container is in starting state, can't be removed"));
                }
                let id = decode::<ById>(message)?.id;
                self.containers.retain(|_, (sandbox, _)| *sandbox != id);
                self.sandboxes.remove(&id);
                Ok(Bytes::new())
            }
            "PodSandboxStatus" => {
                let id = decode::<ById>(message)?.id;
                let status = self.sandboxes.get(&id).cloned().ok_or_else(|| gone(&id))?;
                Ok(encode(&PodSandboxStatusResponse { status: Some(status), info: HashMap::new() }))
            }
            "ListPodSandbox" => {
                let items = self.sandboxes.values().map(|known| PodSandbox {
                    id: known.id.clone(),
                    state: known.state,
                    labels: known.labels.clone(),
                });
                Ok(encode(&ListPodSandboxResponse { items: items.collect() }))
            }
            "ListContainers" => {
                let containers = self.containers.values().map(|(sandbox, known)| Container {
                    id: known.id.clone(),
                    pod_sandbox_id: sandbox.clone(),
                    state: known.state,
                    labels: known.labels.clone(),
                });
                Ok(encode(&ListContainersResponse { containers: containers.collect() }))
            }
            "CreateContainer" => {
                let asked: CreateContainerRequest = decode(message)?;
                let config = asked.config.unwrap_or_default();
                self.next += 1;
                let id = format!("c{}", self.next);
                let status = ContainerStatus {
                    id: id.clone(),
                    metadata: config.metadata,
                    state: state::CREATED,
                    created_at: 1,
                    image: config.image,
                    labels: config.labels,
                    annotations: config.annotations,
                    ..ContainerStatus::default()
                };
                self.containers.insert(id.clone(), (asked.pod_sandbox_id, status));
                Ok(encode(&CreateContainerResponse { container_id: id }))
            }
            "StartContainer" => {
                let status = self.container(&decode::<ById>(message)?.id)?;
                (status.state, status.started_at) = (state::RUNNING, 2);
                Ok(Bytes::new())
            }
            "StopContainer" => {
                let status = self.container(&decode::<StopContainerRequest>(message)?.container_id)?;
                (status.state, status.exit_code) = (state::EXITED, 143);
                Ok(Bytes::new())
            }
            "RemoveContainer" => {
                let id = decode::<ById>(message)?.id;
                self.containers.remove(&id);
                self.removed.insert(id);
                Ok(Bytes::new())
            }
            "ContainerStatus" => {
                let status = self.container(&decode::<ById>(message)?.id)?.clone();
                Ok(encode(&ContainerStatusResponse { status: Some(status), info: HashMap::new() }))
            }
            "UpdateContainerResources" => {
                self.limits.push(decode(message)?);
                Ok(Bytes::new())
            }
            "ExecSync" => {
                let asked: ExecSyncRequest = decode(message)?;
                let stdout = asked.cmd.join(" ").into_bytes();
                Ok(encode(&ExecSyncResponse { stdout, stderr: Vec::new(), exit_code: 7 }))
            }
            "Exec" => {
                decode::<ExecRequest>(message)?;
                Ok(encode(&StreamingResponse { url: self.streaming.clone() }))
            }
            "ListImages" => Ok(encode(&ListImagesResponse { images: vec![image()] })),
            "ImageStatus" => {
                let wanted = decode::<ImageRequest>(message)?.image.unwrap_or_default().image;
                let found = Some(image()).filter(|image| image.id == wanted || image.repo_tags.contains(&wanted));
                Ok(encode(&ImageStatusResponse { image: found, info: HashMap::new() }))
            }
            "RemoveImage" | "ReopenContainerLog" => Ok(encode(&Nothing {})),
            _ => Err(Status::unimplemented(format!("unknown method {name}"))),
        }
    }

    fn container(&mut self, id: &str) -> Result<&mut ContainerStatus, Status> {
        self.containers.get_mut(id).map(|(_, status)| status).ok_or_else(|| gone(id))
    }

    fn status(&self) -> StatusResponse {
        let condition = |kind: &str| RuntimeCondition {
            kind: kind.into(),
            status: kind != "NetworkReady" || !self.not_ready,
            reason: "Because".into(),
            message: "it is so".into(),
        };
        let bin = self.streaming.clone();
        let config = serde_json::json!({"cni": {"confDir": format!("{bin}/../conf"), "binDir": bin}});
        StatusResponse {
            status: Some(RuntimeStatus { conditions: vec![condition("RuntimeReady"), condition("NetworkReady")] }),
            info: [("config".to_owned(), config.to_string())].into(),
            runtime_handlers: vec![RuntimeHandler { name: "gvisor".into() }],
        }
    }
}

fn image() -> Image {
    Image { id: "sha256:1".into(), repo_tags: vec!["kobune.local/kobune:latest".into()], size: 5, ..Image::default() }
}

/// Whether a message survives its own encoding; messages are written down by hand.
pub(crate) fn survives<M: Message + Default + PartialEq>(message: &M) -> bool {
    M::decode(encode(message)).is_ok_and(|read| read == *message)
}
