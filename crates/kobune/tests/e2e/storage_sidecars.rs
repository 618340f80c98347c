//! A storage driver that comes without sidecars: kobune makes, attaches, grows and deletes its volumes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use kobune_grpc::Status;
use kobune_grpc::csi::controller::{
    ControllerExpandVolumeRequest, ControllerExpandVolumeResponse, ControllerPublishVolumeRequest,
    ControllerPublishVolumeResponse, ControllerUnpublishVolumeRequest, CreateVolumeRequest, CreateVolumeResponse,
    DeleteVolumeRequest, Volume,
};
use kobune_grpc::csi::identity::{GetPluginCapabilitiesResponse, GetPluginInfoResponse, PluginCapability};
use kobune_grpc::csi::node::{
    NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetInfoResponse, NodePublishVolumeRequest,
    NodeStageVolumeRequest, NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest,
};
use kobune_grpc::csi::{CONTROLLER_SERVICE, Capabilities, CapabilityKind, Nothing, Topology, controller_can, node_can};
use kobune_grpc::server::{Service, decode, encode, listen, serve};
use kobune_testbed::eventually;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tokio_util::sync::CancellationToken;

use crate::{SETTLE, cluster, wait_for};

const NAME: &str = "whole.example.com";
const ZONE: &str = "topology.whole.example.com/zone";

/// What it was asked, in words, and what it gets wrong next.
#[derive(Default)]
struct Memory {
    asked: Mutex<Vec<String>>,
    faults: Mutex<Vec<Fault>>,
}

/// What goes wrong with one call of `CreateVolume`.
#[derive(Clone, Copy)]
enum Fault {
    /// The answer is no message.
    Malformed,
    /// The answer names no volume.
    Nameless,
    /// There is no room.
    Full,
}

/// A part of the driver's memory for each process of it.
struct Calls(Arc<Memory>);

fn mount_at(source: Option<&str>, target: &str) -> Result<(), Status> {
    let failed = |error: String| Status::internal(format!("mount at {target}: {error}"));
    std::fs::create_dir_all(target).map_err(|error| failed(error.to_string()))?;
    let done = match source {
        Some(source) => mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>),
        None => mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::empty(), Some("mode=777")),
    };
    done.map_err(|error| failed(error.to_string()))
}

fn is_mounted(path: &str) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().any(|line| line.split(' ').nth(4) == Some(path))
}

fn unmount(path: &str) -> Result<(), Status> {
    if is_mounted(path) {
        umount2(path, MntFlags::empty()).map_err(|error| Status::internal(format!("unmount {path}: {error}")))?;
    }
    Ok(())
}

/// A device file where a pod is to find it: of the first loop device, which nobody opens.
fn device_at(target: &str) -> Result<(), Status> {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    if Path::new(target).exists() {
        return Ok(());
    }
    let made = mknod(target, SFlag::S_IFBLK, Mode::S_IRUSR | Mode::S_IWUSR, makedev(7, 0));
    made.map_err(|error| Status::internal(format!("make {target}: {error}")))
}

impl Calls {
    fn note(&self, words: String) {
        let mut asked = self.0.asked.lock().expect("not poisoned");
        // Calls may come more than once.
        if asked.last() != Some(&words) {
            asked.push(words);
        }
    }

    fn create(&self, message: Bytes) -> Result<Bytes, Status> {
        let request: CreateVolumeRequest = decode(message)?;
        match self.0.faults.lock().expect("not poisoned").pop() {
            Some(Fault::Malformed) => return Ok(Bytes::from_static(b"\x0a\xff\xff\xff\xff\xff")),
            Some(Fault::Nameless) => return Ok(encode(&CreateVolumeResponse { volume: Some(Volume::default()) })),
            Some(Fault::Full) => return Err(Status::unavailable("the shelf is full, ü")),
            None => {}
        }
        let secret = request.secrets.get("key").cloned().unwrap_or_default();
        let kind = request.parameters.get("kind").cloned().unwrap_or_default();
        let places = request.accessibility_requirements.unwrap_or_default().preferred;
        let zone = places.first().and_then(|place| place.segments.get(ZONE)).cloned().unwrap_or_default();
        self.note(format!("create kind {kind} with {secret} in {zone}, {} parameters", request.parameters.len()));
        let volume = Volume {
            capacity_bytes: request.capacity_range.unwrap_or_default().required_bytes,
            volume_id: format!("handle-{}", request.name.len()),
            volume_context: [("made".to_owned(), "here".to_owned())].into(),
            content_source: None,
            accessible_topology: places,
        };
        Ok(encode(&CreateVolumeResponse { volume: Some(volume) }))
    }

    fn act(&self, method: &str, message: Bytes) -> Result<Bytes, Status> {
        let done = Ok(encode(&Nothing {}));
        let service = CapabilityKind { kind: CONTROLLER_SERVICE };
        match method {
            "/csi.v1.Identity/GetPluginInfo" => {
                Ok(encode(&GetPluginInfoResponse { name: NAME.to_owned(), ..Default::default() }))
            }
            "/csi.v1.Identity/GetPluginCapabilities" => Ok(encode(&GetPluginCapabilitiesResponse {
                capabilities: vec![PluginCapability { service: Some(service), volume_expansion: None }],
            })),
            "/csi.v1.Controller/ControllerGetCapabilities" => Ok(encode(&Capabilities::of(&[
                controller_can::CREATE_DELETE_VOLUME,
                controller_can::PUBLISH_UNPUBLISH_VOLUME,
                controller_can::EXPAND_VOLUME,
            ]))),
            "/csi.v1.Controller/CreateVolume" => self.create(message),
            "/csi.v1.Controller/DeleteVolume" => {
                let request: DeleteVolumeRequest = decode(message)?;
                let secret = request.secrets.get("key").cloned().unwrap_or_default();
                self.note(format!("delete {} with {secret}", request.volume_id));
                done
            }
            "/csi.v1.Controller/ControllerPublishVolume" => {
                let request: ControllerPublishVolumeRequest = decode(message)?;
                self.note(format!("attach {} to {}", request.volume_id, request.node_id));
                let publish_context = [("slot".to_owned(), "7".to_owned())].into();
                Ok(encode(&ControllerPublishVolumeResponse { publish_context }))
            }
            "/csi.v1.Controller/ControllerUnpublishVolume" => {
                let request: ControllerUnpublishVolumeRequest = decode(message)?;
                self.note(format!("detach {} from {}", request.volume_id, request.node_id));
                done
            }
            "/csi.v1.Controller/ControllerExpandVolume" => {
                let request: ControllerExpandVolumeRequest = decode(message)?;
                let capacity_bytes = request.capacity_range.unwrap_or_default().required_bytes;
                self.note(format!("expand {} to {capacity_bytes}", request.volume_id));
                Ok(encode(&ControllerExpandVolumeResponse { capacity_bytes, node_expansion_required: true }))
            }
            "/csi.v1.Node/NodeGetInfo" => Ok(encode(&NodeGetInfoResponse {
                node_id: "host-7".to_owned(),
                max_volumes_per_node: 9,
                accessible_topology: Some(Topology { segments: [(ZONE.to_owned(), "z1".to_owned())].into() }),
            })),
            "/csi.v1.Node/NodeGetCapabilities" => {
                Ok(encode(&Capabilities::of(&[node_can::STAGE_UNSTAGE_VOLUME, node_can::EXPAND_VOLUME])))
            }
            "/csi.v1.Node/NodeStageVolume" => {
                let request: NodeStageVolumeRequest = decode(message)?;
                if request.volume_capability.is_some_and(|usage| usage.block.is_some()) {
                    return done;
                }
                if !is_mounted(&request.staging_target_path) {
                    let slot = request.publish_context.get("slot").cloned().unwrap_or_default();
                    let made = request.volume_context.get("made").cloned().unwrap_or_default();
                    self.note(format!("stage {} of slot {slot}, made {made}", request.volume_id));
                    mount_at(None, &request.staging_target_path)?;
                }
                done
            }
            "/csi.v1.Node/NodePublishVolume" => {
                let request: NodePublishVolumeRequest = decode(message)?;
                if request.volume_capability.is_some_and(|usage| usage.block.is_some()) {
                    self.note(format!("publish device {}", request.volume_id));
                    return device_at(&request.target_path).map(|()| encode(&Nothing {}));
                }
                if !is_mounted(&request.target_path) {
                    mount_at(Some(&request.staging_target_path), &request.target_path)?;
                }
                done
            }
            "/csi.v1.Node/NodeExpandVolume" => {
                let request: NodeExpandVolumeRequest = decode(message)?;
                let there = is_mounted(&request.volume_path) && is_mounted(&request.staging_target_path);
                self.note(format!("expand {} on its node: {there}", request.volume_id));
                Ok(encode(&NodeExpandVolumeResponse::default()))
            }
            "/csi.v1.Node/NodeUnpublishVolume" => {
                let request: NodeUnpublishVolumeRequest = decode(message)?;
                unmount(&request.target_path)?;
                if request.target_path.ends_with("/device") && Path::new(&request.target_path).exists() {
                    self.note(format!("unpublish device {}", request.volume_id));
                    std::fs::remove_file(&request.target_path).map_err(|error| Status::internal(error.to_string()))?;
                }
                done
            }
            "/csi.v1.Node/NodeUnstageVolume" => {
                let request: NodeUnstageVolumeRequest = decode(message)?;
                unmount(&request.staging_target_path)?;
                self.note(format!("unstage {}", request.volume_id));
                done
            }
            other => Err(Status::unimplemented(format!("{other} is not known"))),
        }
    }
}

impl Service for Calls {
    async fn call(&self, method: &str, message: Bytes) -> Result<Bytes, Status> {
        self.act(method, message)
    }
}

/// A process of the driver, until it is dropped.
struct Driver {
    socket: PathBuf,
    token: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Driver {
    fn start(registry: &Path, memory: &Arc<Memory>) -> Driver {
        let (socket, token) = (registry.join(format!("{NAME}.sock")), CancellationToken::new());
        let (path, stop, calls) = (socket.clone(), token.clone(), Arc::new(Calls(memory.clone())));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async { serve(listen(&path).expect("a socket"), calls, stop).await });
        });
        Driver { socket, token, thread: Some(thread) }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.token.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the driver has not panicked");
        }
    }
}

const OBJECTS: &str = r#"
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: whole.example.com}
spec: {attachRequired: true}
---
apiVersion: v1
kind: Secret
metadata: {name: shelf-key}
stringData: {key: swordfish}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: shelf}
provisioner: whole.example.com
volumeBindingMode: WaitForFirstConsumer
allowVolumeExpansion: true
parameters:
  kind: oak
  csi.storage.k8s.io/provisioner-secret-name: shelf-key
  csi.storage.k8s.io/provisioner-secret-namespace: ${pvc.namespace}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: books}
spec: {accessModes: [ReadWriteOnce], storageClassName: shelf, resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: reader}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: kobune.local/kobune
      imagePullPolicy: IfNotPresent
      command: [sleep, infinity]
      volumeMounts: [{name: books, mountPath: /books}]
  volumes: [{name: books, persistentVolumeClaim: {claimName: books}}]
"#;

#[test]
fn a_driver_without_sidecars_is_served_whole() {
    let cluster = cluster();
    let registry = cluster.data_dir().join("node/plugins_registry");
    let there = || if registry.is_dir() { Ok(()) } else { Err("no folder".to_owned()) };
    eventually("the registry is there", SETTLE, there);
    // The first answers make no sense; the pod gets its volume all the same.
    let memory = Arc::new(Memory::default());
    *memory.faults.lock().unwrap() = vec![Fault::Full, Fault::Nameless, Fault::Malformed];
    let driver = Driver::start(&registry, &memory);
    cluster.apply(OBJECTS);
    wait_for(&cluster, &["pod", "reader"], ".status.phase", "Running");
    cluster.kubectl(["exec", "reader", "--", "write-file", "/books/page", "one"]).unwrap().ok();
    wait_for(&cluster, &["pvc", "books"], ".status.phase", "Bound");
    let asked = memory.asked.lock().unwrap().clone();
    assert_eq!(
        asked,
        [
            "create kind oak with swordfish in z1, 1 parameters",
            "attach handle-40 to host-7",
            "stage handle-40 of slot 7, made here"
        ]
    );
    let events = cluster.kubectl(["get", "events", "-o", "jsonpath={.items[*].message}"]).unwrap().ok();
    for words in ["is no message", "names no volume", "code = Unavailable desc = the shelf is full, ü"] {
        assert!(events.contains(words), "{words} in {events}");
    }

    // The driver dies and comes back; a claim that asks for more meanwhile waits for it.
    let socket = driver.socket.clone();
    drop(driver);
    let more = r#"{"spec": {"resources": {"requests": {"storage": "2Mi"}}}}"#;
    cluster.kubectl(["patch", "pvc", "books", "-p", more]).unwrap().ok();
    eventually("the claim says what it waits for", SETTLE, || {
        let events = cluster.kubectl(["get", "events", "-o", "jsonpath={.items[*].reason}"]);
        let events = events.map_err(|error| error.to_string())?.stdout;
        if events.contains("VolumeResizeFailed") { Ok(()) } else { Err(events) }
    });
    std::fs::remove_file(&socket).unwrap();
    let driver = Driver::start(&registry, &memory);
    wait_for(&cluster, &["pvc", "books"], ".status.capacity.storage", "2Mi");
    wait_for(&cluster, &["pvc", "books"], ".status.conditions", "");
    let asked = memory.asked.lock().unwrap().clone();
    assert_eq!(asked[3..], ["expand handle-40 to 2097152", "expand handle-40 on its node: true"]);

    cluster.kubectl(["delete", "pod", "reader", "--timeout=60s"]).unwrap().ok();
    cluster.kubectl(["delete", "pvc", "books", "--timeout=60s"]).unwrap().ok();
    eventually("volume and attachment are gone", SETTLE, || {
        let left = cluster.kubectl(["get", "pv,volumeattachments", "-o", "name"]).map_err(|error| error.to_string())?;
        if left.stdout.is_empty() { Ok(()) } else { Err(left.stdout) }
    });
    let asked = memory.asked.lock().unwrap().clone();
    assert_eq!(asked[5..], ["unstage handle-40", "detach handle-40 from host-7", "delete handle-40 with swordfish"]);

    // A claim for a device gets one.
    cluster.apply(DEVICE);
    wait_for(&cluster, &["pod", "raw"], ".status.phase", "Running");
    assert!(cluster.kubectl(["exec", "raw", "--", "ls", "-l", "/dev/raw"]).unwrap().ok().starts_with('b'));
    cluster.kubectl(["delete", "pod", "raw", "--timeout=60s"]).unwrap().ok();
    // A pod without a grace period is gone before its volumes are.
    eventually("the device is given back", SETTLE, || {
        let asked = memory.asked.lock().expect("not poisoned").clone();
        let wanted = ["publish device handle-40", "unpublish device handle-40", "unstage handle-40"];
        let all = wanted.iter().all(|words| asked.iter().skip(8).any(|known| known == words));
        if all { Ok(()) } else { Err(format!("{asked:?}")) }
    });
    drop(driver);
}

const DEVICE: &str = r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: raw}
spec: {accessModes: [ReadWriteOnce], volumeMode: Block, storageClassName: shelf, resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: raw}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: kobune.local/kobune
      imagePullPolicy: IfNotPresent
      command: [sleep, infinity]
      volumeDevices: [{name: raw, devicePath: /dev/raw}]
  volumes: [{name: raw, persistentVolumeClaim: {claimName: raw}}]
"#;
