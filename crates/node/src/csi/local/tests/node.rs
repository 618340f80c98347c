//! Volumes on the node.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use kobune_grpc::csi::controller::DeleteVolumeRequest;
use kobune_grpc::csi::node::{
    NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetInfoResponse, NodeGetVolumeStatsRequest,
    NodeGetVolumeStatsResponse, NodePublishVolumeRequest, NodeStageVolumeRequest, NodeUnpublishVolumeRequest,
    NodeUnstageVolumeRequest,
};

use super::*;
use crate::csi::local::TOPOLOGY;
use crate::csi::local::uses::mount_points;
use crate::volumes::loops;

impl Running {
    async fn stage(&self, id: &str, capability: Option<VolumeCapability>) -> Result<Nothing, Status> {
        let request = NodeStageVolumeRequest {
            volume_id: id.to_owned(),
            staging_target_path: self.path("staging"),
            volume_capability: capability,
            ..Default::default()
        };
        self.call("/csi.v1.Node/NodeStageVolume", request).await
    }

    async fn unstage(&self, id: &str) -> Result<Nothing, Status> {
        let request = NodeUnstageVolumeRequest { volume_id: id.to_owned(), staging_target_path: self.path("staging") };
        self.call("/csi.v1.Node/NodeUnstageVolume", request).await
    }

    fn to_publish(&self, id: &str, target: &str, capability: VolumeCapability) -> NodePublishVolumeRequest {
        NodePublishVolumeRequest {
            volume_id: id.to_owned(),
            staging_target_path: self.path("staging"),
            target_path: self.path(target),
            volume_capability: Some(capability),
            ..Default::default()
        }
    }

    async fn publish(&self, request: NodePublishVolumeRequest) -> Result<Nothing, Status> {
        self.call("/csi.v1.Node/NodePublishVolume", request).await
    }

    async fn unpublish(&self, id: &str, target: &str) -> Result<Nothing, Status> {
        let request = NodeUnpublishVolumeRequest { volume_id: id.to_owned(), target_path: self.path(target) };
        self.call("/csi.v1.Node/NodeUnpublishVolume", request).await
    }

    async fn stats(&self, id: &str, path: &str) -> Result<NodeGetVolumeStatsResponse, Status> {
        let request =
            NodeGetVolumeStatsRequest { volume_id: id.to_owned(), volume_path: path.to_owned(), ..Default::default() };
        self.call("/csi.v1.Node/NodeGetVolumeStats", request).await
    }

    async fn remove(&self, id: &str) -> Result<Nothing, Status> {
        let request = DeleteVolumeRequest { volume_id: id.to_owned(), ..Default::default() };
        self.call("/csi.v1.Controller/DeleteVolume", request).await
    }

    /// How often something is mounted at a path.
    fn is_mounted(&self, name: &str) -> bool {
        mount_points().expect("a table").contains(Path::new(&self.path(name)))
    }
}

/// A driver that may mount, or nothing with a word why.
fn mounting() -> Option<Undone> {
    if nix::unistd::geteuid().is_root() {
        return Some(Undone(Running::start()));
    }
    eprintln!("skipped: mounting needs root");
    None
}

/// Leaves no mounts and devices behind, also when a test fails.
struct Undone(Running);

impl std::ops::Deref for Undone {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.0
    }
}

impl Drop for Undone {
    fn drop(&mut self) {
        let root = self.path("");
        for path in mount_points().into_iter().flatten().filter(|path| path.starts_with(&root)) {
            if let Err(error) = nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH) {
                eprintln!("{} stays mounted: {error}", path.display());
            }
        }
        if let Err(error) = self.volumes.detach_all() {
            eprintln!("a device stays: {error}");
        }
    }
}

#[tokio::test]
async fn the_node_is_known() {
    let driver = Running::start();
    let info: NodeGetInfoResponse = driver.call("/csi.v1.Node/NodeGetInfo", Nothing {}).await.expect("an answer");
    assert_eq!((info.node_id.as_str(), info.max_volumes_per_node), ("here", 0));
    assert_eq!(info.accessible_topology.expect("a place").segments[TOPOLOGY], "here");
}

#[tokio::test]
async fn missing_fields_are_refused() {
    let driver = Running::start();
    driver.create(volume("v")).await.expect("made");
    use Code::{FailedPrecondition, InvalidArgument, NotFound};
    assert_eq!(code(driver.stage("", Some(as_files())).await), InvalidArgument);
    assert_eq!(code(driver.stage("v", None).await), InvalidArgument);
    assert_eq!(code(driver.stage("v", Some(as_device())).await), InvalidArgument, "it is no device");
    assert_eq!(code(driver.stage("none", Some(as_files())).await), NotFound);
    let nowhere =
        NodeStageVolumeRequest { volume_id: "v".to_owned(), volume_capability: Some(as_files()), ..Default::default() };
    assert_eq!(code(driver.call::<_, Nothing>("/csi.v1.Node/NodeStageVolume", nowhere).await), InvalidArgument);
    assert_eq!(code(driver.unstage("").await), InvalidArgument);
    let nowhere = NodeUnstageVolumeRequest { volume_id: "v".to_owned(), staging_target_path: String::new() };
    assert_eq!(code(driver.call::<_, Nothing>("/csi.v1.Node/NodeUnstageVolume", nowhere).await), InvalidArgument);
    let change = async |expected: Code, change: &dyn Fn(&mut NodePublishVolumeRequest)| {
        let mut request = driver.to_publish("v", "target", as_files());
        change(&mut request);
        assert_eq!(code(driver.publish(request).await), expected);
    };
    change(InvalidArgument, &|request| request.volume_id.clear()).await;
    change(InvalidArgument, &|request| request.target_path.clear()).await;
    change(InvalidArgument, &|request| request.target_path = "some/path".to_owned()).await;
    change(InvalidArgument, &|request| request.target_path = "/a/../b".to_owned()).await;
    change(InvalidArgument, &|request| request.volume_capability = None).await;
    change(NotFound, &|request| request.volume_id = "none".to_owned()).await;
    change(FailedPrecondition, &|_| {}).await;
    assert_eq!(code(driver.unpublish("", "target").await), InvalidArgument);
    let nowhere = NodeUnpublishVolumeRequest { volume_id: "v".to_owned(), target_path: String::new() };
    assert_eq!(code(driver.call::<_, Nothing>("/csi.v1.Node/NodeUnpublishVolume", nowhere).await), InvalidArgument);
    assert_eq!(code(driver.stats("", "some/path").await), InvalidArgument);
    assert_eq!(code(driver.stats("v", "").await), InvalidArgument);
    assert_eq!(code(driver.stats("none", "some/path").await), NotFound);
    assert_eq!(code(driver.stats("v", "some/path").await), NotFound);
    for (id, path, expected) in [("", "/p", InvalidArgument), ("v", "", InvalidArgument), ("none", "/p", NotFound)] {
        let request =
            NodeExpandVolumeRequest { volume_id: id.to_owned(), volume_path: path.to_owned(), ..Default::default() };
        let answer = driver.call::<_, NodeExpandVolumeResponse>("/csi.v1.Node/NodeExpandVolume", request).await;
        assert_eq!(code(answer), expected);
    }
}

#[tokio::test]
async fn files_are_mounted_and_unmounted_each_as_often_as_asked() {
    let Some(driver) = mounting() else { return };
    driver.create(volume("v")).await.expect("made");
    for _ in 0..3 {
        driver.stage("v", Some(as_files())).await.expect("staged");
    }
    for _ in 0..3 {
        driver.publish(driver.to_publish("v", "target", as_files())).await.expect("published");
    }
    fs::write(driver.path("target/file"), "text").expect("written");
    let data = driver.volumes.place("v").expect("a place").join("data/file");
    assert_eq!(fs::read_to_string(&data).expect("read"), "text");
    let read_only = NodePublishVolumeRequest { readonly: true, ..driver.to_publish("v", "second", as_files()) };
    driver.publish(read_only.clone()).await.expect("published");
    let refused = fs::write(driver.path("second/file"), "other").expect_err("nobody may write there");
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    let other = NodePublishVolumeRequest { readonly: true, ..driver.to_publish("v", "target", as_files()) };
    assert_eq!(code(driver.publish(other).await), Code::AlreadyExists);
    let stats = driver.stats("v", &driver.path("target")).await.expect("an answer");
    assert!(stats.usage.iter().any(|usage| usage.unit == 1 && usage.total > 0));
    let grow = NodeExpandVolumeRequest {
        volume_id: "v".to_owned(),
        volume_path: driver.path("target"),
        capacity_range: Some(CapacityRange { required_bytes: 2 * SIZE, limit_bytes: 0 }),
        ..Default::default()
    };
    let grown: NodeExpandVolumeResponse = driver.call("/csi.v1.Node/NodeExpandVolume", grow).await.expect("grown");
    assert_eq!(grown.capacity_bytes, 2 * SIZE);
    assert_eq!(code(driver.remove("v").await), Code::FailedPrecondition, "it is in use");
    assert_eq!(code(driver.unstage("v").await), Code::FailedPrecondition, "it is published");
    for _ in 0..2 {
        driver.unpublish("v", "target").await.expect("unpublished");
        driver.unpublish("v", "second").await.expect("unpublished");
    }
    assert!(!Path::new(&driver.path("target")).exists(), "the driver takes away what it made");
    for _ in 0..2 {
        driver.unstage("v").await.expect("unstaged");
    }
    assert!(!driver.is_mounted("staging") && data.exists());
    driver.remove("v").await.expect("deleted");
}

#[tokio::test]
async fn devices_are_attached_and_detached() {
    let Some(driver) = mounting() else { return };
    driver.create(device("d")).await.expect("made");
    driver.stage("d", Some(as_device())).await.expect("staged");
    for _ in 0..2 {
        driver.publish(driver.to_publish("d", "pod/device", as_device())).await.expect("published");
    }
    let target = driver.path("pod/device");
    assert!(fs::metadata(&target).expect("there").file_type().is_block_device());
    fs::OpenOptions::new()
        .write(true)
        .open(&target)
        .and_then(|mut device| {
            std::io::Write::write_all(&mut device, b"on the device")?;
            device.sync_all()
        })
        .expect("written");
    let disk = driver.volumes.place("d").expect("a place").join("disk");
    assert!(fs::read(&disk).expect("read").starts_with(b"on the device"));
    assert_eq!(driver.stats("d", &target).await.expect("an answer").usage[0].total, SIZE);
    driver.unpublish("d", "pod/device").await.expect("unpublished");
    assert!(!Path::new(&target).exists());
    driver.unstage("d").await.expect("unstaged");
    assert_eq!(loops::device_of(&disk).expect("a look"), None);
    driver.remove("d").await.expect("deleted");
}

#[tokio::test]
async fn a_single_writer_is_the_only_one() {
    let Some(driver) = mounting() else { return };
    driver.create(volume("v")).await.expect("made");
    let alone = as_mode(false, access::SINGLE_NODE_SINGLE_WRITER);
    driver.stage("v", Some(alone.clone())).await.expect("staged");
    driver.publish(driver.to_publish("v", "target", alone.clone())).await.expect("published");
    assert_eq!(code(driver.publish(driver.to_publish("v", "other", alone)).await), Code::FailedPrecondition);
    assert!(!Path::new(&driver.path("other")).exists());
}

#[tokio::test]
async fn a_volume_deleted_underneath_can_still_be_unmounted() {
    let Some(driver) = mounting() else { return };
    driver.create(volume("v")).await.expect("made");
    driver.stage("v", Some(as_files())).await.expect("staged");
    driver.publish(driver.to_publish("v", "target", as_files())).await.expect("published");
    fs::remove_dir_all(driver.volumes.place("v").expect("a place")).expect("somebody was here");
    assert_eq!(code(driver.publish(driver.to_publish("v", "target", as_files())).await), Code::NotFound);
    assert_eq!(code(driver.stats("v", &driver.path("target")).await), Code::NotFound);
    driver.unpublish("v", "target").await.expect("unpublished");
    driver.unstage("v").await.expect("unstaged");
    assert!(!driver.is_mounted("target") && !driver.is_mounted("staging"));
}

#[tokio::test]
async fn what_a_crash_left_is_put_right() {
    let Some(driver) = mounting() else { return };
    driver.create(volume("v")).await.expect("made");
    driver.stage("v", Some(as_files())).await.expect("staged");
    driver.publish(driver.to_publish("v", "target", as_files())).await.expect("published");
    // A reboot takes the mounts and leaves the records.
    for name in ["target", "staging"] {
        nix::mount::umount(Path::new(&driver.path(name))).expect("unmounted");
    }
    let early = driver.publish(driver.to_publish("v", "target", as_files())).await;
    assert_eq!(code(early), Code::FailedPrecondition, "it has to be staged again");
    driver.stage("v", Some(as_files())).await.expect("staged");
    driver.publish(driver.to_publish("v", "target", as_files())).await.expect("published");
    // A process that ended between mounting and its answer leaves a mount that no record knows.
    fs::remove_file(driver.volumes.place("v").expect("a place").join("uses.json")).expect("removed");
    driver.stage("v", Some(as_files())).await.expect("staged");
    driver.publish(driver.to_publish("v", "target", as_files())).await.expect("published");
    driver.unpublish("v", "target").await.expect("unpublished");
    driver.unstage("v").await.expect("unstaged");
    assert!(!driver.is_mounted("target") && !driver.is_mounted("staging"));
    driver.remove("v").await.expect("deleted");
}
