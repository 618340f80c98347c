//! A storage driver of its own kind, in the test: it speaks CSI over its socket, mounts memory, and remembers what it was asked.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kobune_testbed::eventually;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use prost::Message;

use crate::{SETTLE, cluster, wait_for};

const NAME: &str = "memory.example.com";

/// The fields that all requests of a node have in common, by the numbers of each.
#[derive(Clone, PartialEq, Message)]
struct Stage {
    #[prost(string, tag = "1")]
    volume: String,
    #[prost(string, tag = "3")]
    staging: String,
}

#[derive(Clone, PartialEq, Message)]
struct Publish {
    #[prost(string, tag = "1")]
    volume: String,
    #[prost(string, tag = "3")]
    staging: String,
    #[prost(string, tag = "4")]
    target: String,
    #[prost(map = "string, string", tag = "8")]
    context: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct Undo {
    #[prost(string, tag = "1")]
    volume: String,
    #[prost(string, tag = "2")]
    path: String,
}

#[derive(Clone, PartialEq, Message)]
struct Info {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, repeated, tag = "4")]
    versions: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct NodeInfo {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(int64, tag = "2")]
    most: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Able {
    #[prost(message, repeated, tag = "1")]
    each: Vec<Ability>,
}

#[derive(Clone, PartialEq, Message)]
struct Ability {
    #[prost(message, optional, tag = "1")]
    rpc: Option<Kind>,
}

#[derive(Clone, PartialEq, Message)]
struct Kind {
    #[prost(int32, tag = "1")]
    kind: i32,
}

/// What was asked, in words.
type Asked = Arc<Mutex<Vec<String>>>;

fn decode<M: Message + Default>(body: &[u8]) -> Result<M, String> {
    M::decode(body).map_err(|error| error.to_string())
}

fn mount_at(source: Option<&str>, target: &str) -> Result<(), String> {
    std::fs::create_dir_all(target).map_err(|error| error.to_string())?;
    let done = match source {
        Some(source) => mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>),
        None => mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::empty(), Some("mode=777")),
    };
    done.map_err(|error| format!("mount at {target}: {error}"))
}

/// Whether something is mounted exactly there: calls come again after a crash.
fn is_mounted(path: &str) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().any(|line| line.split(' ').nth(4) == Some(path))
}

fn unmount(path: &str) -> Result<(), String> {
    if is_mounted(path) {
        umount2(path, MntFlags::empty()).map_err(|error| format!("unmount {path}: {error}"))?;
    }
    Ok(())
}

fn act(method: &str, body: &[u8], asked: &Asked) -> Result<Vec<u8>, String> {
    let note = |words: String| asked.lock().expect("not poisoned").push(words);
    let nothing = Ok(Vec::new());
    match method {
        "/pluginregistration.Registration/GetInfo" => {
            let versions = vec!["1.0.0".to_owned()];
            Ok(Info { kind: "CSIPlugin".to_owned(), name: NAME.to_owned(), versions }.encode_to_vec())
        }
        "/pluginregistration.Registration/NotifyRegistrationStatus" => nothing,
        "/csi.v1.Node/NodeGetInfo" => Ok(NodeInfo { id: "host-7".to_owned(), most: 9 }.encode_to_vec()),
        "/csi.v1.Node/NodeGetCapabilities" => {
            Ok(Able { each: vec![Ability { rpc: Some(Kind { kind: 1 }) }] }.encode_to_vec())
        }
        "/csi.v1.Node/NodeStageVolume" => {
            let Stage { volume, staging } = decode(body)?;
            if !is_mounted(&staging) {
                note(format!("stage {volume}"));
                mount_at(None, &staging)?;
            }
            nothing
        }
        "/csi.v1.Node/NodePublishVolume" => {
            let Publish { volume, staging, target, context } = decode(body)?;
            if !is_mounted(&target) {
                let volume = if staging.is_empty() { "inline" } else { &volume };
                let pod = context.get("csi.storage.k8s.io/pod.name").cloned().unwrap_or_default();
                note(format!("publish {volume} for {pod}"));
                mount_at(Some(staging.as_str()).filter(|staging| !staging.is_empty()), &target)?;
            }
            nothing
        }
        "/csi.v1.Node/NodeUnpublishVolume" => {
            let Undo { path, .. } = decode(body)?;
            unmount(&path)?;
            note("unpublish".to_owned());
            nothing
        }
        "/csi.v1.Node/NodeUnstageVolume" => {
            let Undo { volume, path } = decode(body)?;
            unmount(&path)?;
            note(format!("unstage {volume}"));
            nothing
        }
        other => Err(format!("{other} is not known")),
    }
}

async fn answer(
    request: Request<Incoming>,
    asked: Asked,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, hyper::Error> {
    let method = request.uri().path().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    // A gRPC message has a flag and its length in front.
    let done = act(&method, body.get(5..).unwrap_or_default(), &asked);
    let mut trailers = HeaderMap::new();
    let mut frames: Vec<Result<Frame<Bytes>, Infallible>> = Vec::new();
    let code = match done {
        Ok(message) => {
            let mut framed = BytesMut::from(&[0][..]);
            framed.extend_from_slice(&u32::try_from(message.len()).expect("a short message").to_be_bytes());
            framed.extend_from_slice(&message);
            frames.push(Ok(Frame::data(framed.freeze())));
            "0"
        }
        Err(words) => {
            trailers.insert("grpc-message", words.parse().expect("plain words"));
            if words.ends_with("is not known") { "12" } else { "13" }
        }
    };
    trailers.insert("grpc-status", code.parse().expect("a number"));
    frames.push(Ok(Frame::trailers(trailers)));
    let mut response = Response::new(StreamBody::new(stream::iter(frames)));
    response.headers_mut().insert("content-type", "application/grpc".parse().expect("a type"));
    Ok(response)
}

/// The driver, until it is dropped.
struct Driver {
    asked: Asked,
    socket: PathBuf,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Driver {
    fn start(registry: &Path) -> Driver {
        let (asked, socket) = (Asked::default(), registry.join(format!("{NAME}-reg.sock")));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (shared, path) = (asked.clone(), socket.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = listen(&path, shared) => {}
                }
            });
        });
        Driver { asked, socket, stop: Some(stop), thread: Some(thread) }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("not poisoned").clone()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the driver has not panicked");
        }
    }
}

async fn listen(path: &Path, asked: Asked) {
    let listener = tokio::net::UnixListener::bind(path).expect("a socket");
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let asked = asked.clone();
        let service = hyper::service::service_fn(move |request| answer(request, asked.clone()));
        tokio::spawn(async move {
            let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
            // The other side goes away without a word when it is killed.
            drop(served);
        });
    }
}

#[test]
fn a_driver_registers_mounts_and_unmounts() {
    let mut cluster = cluster();
    let registry = cluster.data_dir().join("node/plugins_registry");
    eventually(
        "the registry is there",
        SETTLE,
        || if registry.is_dir() { Ok(()) } else { Err("no folder".to_owned()) },
    );
    let driver = Driver::start(&registry);
    let node = cluster.kubectl(["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]).unwrap().ok();
    wait_for(&cluster, &["csinode", &node], ".spec.drivers[0].nodeID", "host-7");
    wait_for(&cluster, &["csinode", &node], ".spec.drivers[0].allocatable.count", "9");
    let pod = |name: &str| {
        format!(
            r#"
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: kobune.local/kobune
      imagePullPolicy: IfNotPresent
      command: [sleep, infinity]
      volumeMounts: [{{name: data, mountPath: /data}}, {{name: inline, mountPath: /inline}}]
  volumes:
    - {{name: data, persistentVolumeClaim: {{claimName: data}}}}
    - {{name: inline, csi: {{driver: {NAME}}}}}
"#
        )
    };
    let objects = r#"
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: NAME}
spec: {attachRequired: false, podInfoOnMount: true, volumeLifecycleModes: [Persistent, Ephemeral]}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: data}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: by-hand
  csi: {driver: NAME, volumeHandle: handle-1}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], storageClassName: by-hand, resources: {requests: {storage: 1Gi}}}
"#;
    cluster.apply(&(objects.replace("NAME", NAME) + &pod("one")));
    wait_for(&cluster, &["pod", "one"], ".status.phase", "Running");
    cluster.kubectl(["exec", "one", "--", "write-file", "/data/shared", "from one"]).unwrap().ok();
    cluster.kubectl(["exec", "one", "--", "write-file", "/inline/own", "from one"]).unwrap().ok();
    let asked = driver.asked();
    for words in ["stage handle-1", "publish handle-1 for one", "publish inline for one"] {
        assert_eq!(asked.iter().filter(|known| *known == words).count(), 1, "{words} in {asked:?}");
    }

    // A second pod shares what is staged; a crash in between changes nothing.
    cluster.kill().unwrap();
    cluster.start_again().unwrap();
    cluster.apply(&pod("two"));
    wait_for(&cluster, &["pod", "two"], ".status.phase", "Running");
    assert_eq!(cluster.kubectl(["exec", "two", "--", "cat", "/data/shared"]).unwrap().ok(), "from one\n");
    assert_eq!(cluster.kubectl(["exec", "two", "--", "ls", "/inline"]).unwrap().ok(), "");
    assert_eq!(driver.asked().iter().filter(|words| words.starts_with("stage")).count(), 1);
    cluster.kubectl(["delete", "pod", "one", "--timeout=60s"]).unwrap().ok();
    assert!(!driver.asked().iter().any(|words| words.starts_with("unstage")), "the second pod still has it");
    cluster.kubectl(["delete", "pod", "two", "--timeout=60s"]).unwrap().ok();
    let asked = driver.asked();
    for (words, times) in [("unpublish", 4), ("unstage handle-1", 1)] {
        assert_eq!(asked.iter().filter(|known| *known == words).count(), times, "{words} in {asked:?}");
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let marker = cluster.data_dir().join("node").to_str().expect("a path").to_owned();
    assert!(!mounts.lines().any(|line| line.contains(&marker) && line.contains("csi")), "{mounts}");

    // When its socket goes, the driver is forgotten.
    std::fs::remove_file(&driver.socket).unwrap();
    wait_for(&cluster, &["csinode", &node], ".spec.drivers", "[]");
}
