//! Volumes and snapshots.

use std::collections::BTreeSet;
use std::fs;

use kobune_grpc::csi::Topology;
use kobune_grpc::csi::controller::{
    ControllerExpandVolumeRequest, ControllerExpandVolumeResponse, ControllerGetVolumeRequest,
    ControllerGetVolumeResponse, CreateSnapshotRequest, DeleteVolumeRequest, GetCapacityRequest, GetCapacityResponse,
    ListSnapshotsRequest, ListSnapshotsResponse, ListVolumesRequest, ListVolumesResponse, Snapshot, SnapshotRequest,
    SnapshotResponse, SnapshotSource, TopologyRequirement, ValidateVolumeCapabilitiesRequest,
    ValidateVolumeCapabilitiesResponse, VolumeContentSource, VolumeSource,
};

use super::*;
use crate::csi::local::TOPOLOGY;

impl Running {
    async fn delete(&self, id: &str) -> Result<Nothing, Status> {
        let request = DeleteVolumeRequest { volume_id: id.to_owned(), ..Default::default() };
        self.call("/csi.v1.Controller/DeleteVolume", request).await
    }

    async fn list(&self, max_entries: i32, token: &str) -> Result<ListVolumesResponse, Status> {
        let request = ListVolumesRequest { max_entries, starting_token: token.to_owned() };
        self.call("/csi.v1.Controller/ListVolumes", request).await
    }

    async fn take(&self, name: &str, of: &str) -> Result<Snapshot, Status> {
        let request =
            CreateSnapshotRequest { source_volume_id: of.to_owned(), name: name.to_owned(), ..Default::default() };
        let taken: SnapshotResponse = self.call("/csi.v1.Controller/CreateSnapshot", request).await?;
        Ok(taken.snapshot.expect("an answer has a snapshot"))
    }

    async fn drop_snapshot(&self, id: &str) -> Result<Nothing, Status> {
        let request = SnapshotRequest { snapshot_id: id.to_owned(), ..Default::default() };
        self.call("/csi.v1.Controller/DeleteSnapshot", request).await
    }

    async fn snapshots(&self, request: ListSnapshotsRequest) -> Result<ListSnapshotsResponse, Status> {
        self.call("/csi.v1.Controller/ListSnapshots", request).await
    }

    async fn expand(&self, id: &str, range: Option<(i64, i64)>) -> Result<ControllerExpandVolumeResponse, Status> {
        let capacity_range = range.map(|(required_bytes, limit_bytes)| CapacityRange { required_bytes, limit_bytes });
        let request = ControllerExpandVolumeRequest { volume_id: id.to_owned(), capacity_range, ..Default::default() };
        self.call("/csi.v1.Controller/ControllerExpandVolume", request).await
    }
}

fn from_snapshot(id: &str) -> Option<VolumeContentSource> {
    Some(VolumeContentSource { snapshot: Some(SnapshotSource { snapshot_id: id.to_owned() }), volume: None })
}

fn from_volume(id: &str) -> Option<VolumeContentSource> {
    Some(VolumeContentSource { snapshot: None, volume: Some(VolumeSource { volume_id: id.to_owned() }) })
}

fn range(required_bytes: i64, limit_bytes: i64) -> Option<CapacityRange> {
    Some(CapacityRange { required_bytes, limit_bytes })
}

#[tokio::test]
async fn create_refuses_what_makes_no_sense() {
    let driver = Running::start();
    let check = async |what: &str, expected: Code, change: &dyn Fn(&mut CreateVolumeRequest)| {
        let mut request = volume("v");
        change(&mut request);
        assert_eq!(code(driver.create(request).await), expected, "{what}");
    };
    use Code::{InvalidArgument, NotFound, OutOfRange, ResourceExhausted};
    check("no name", InvalidArgument, &|request| request.name.clear()).await;
    check("no capabilities", InvalidArgument, &|request| request.volume_capabilities.clear()).await;
    check("neither block nor mount", InvalidArgument, &|request| request.volume_capabilities[0].mount = None).await;
    check("no access mode", InvalidArgument, &|request| request.volume_capabilities[0].access_mode = None).await;
    check("many nodes", InvalidArgument, &|request| {
        request.volume_capabilities = vec![as_mode(false, access::MULTI_NODE_MULTI_WRITER)];
    })
    .await;
    check("both modes", InvalidArgument, &|request| request.volume_capabilities.push(as_device())).await;
    check("a file system of its own", InvalidArgument, &|request| {
        request.volume_capabilities[0].mount = Some(MountVolume { fs_type: "ext4".to_owned(), ..Default::default() });
    })
    .await;
    check("unknown parameter", InvalidArgument, &|request| {
        request.parameters.insert("speed".to_owned(), "high".to_owned());
    })
    .await;
    check("unknown mutable parameter", InvalidArgument, &|request| {
        request.mutable_parameters.insert("speed".to_owned(), "high".to_owned());
    })
    .await;
    check("below zero", InvalidArgument, &|request| request.capacity_range = range(-1, 0)).await;
    check("limit below required", InvalidArgument, &|request| request.capacity_range = range(2, 1)).await;
    check("larger than the disk", OutOfRange, &|request| request.capacity_range = range(i64::MAX, 0)).await;
    check("no such snapshot", NotFound, &|request| request.volume_content_source = from_snapshot("none")).await;
    check("no such volume", NotFound, &|request| request.volume_content_source = from_volume("none")).await;
    check("a snapshot that can't be", NotFound, &|request| {
        request.volume_content_source = from_snapshot("../../etc");
    })
    .await;
    check("no source", InvalidArgument, &|request| request.volume_content_source = Some(Default::default())).await;
    check("another node", ResourceExhausted, &|request| {
        let segments = [(TOPOLOGY.to_owned(), "there".to_owned())].into();
        let requisite = vec![Topology { segments }];
        request.accessibility_requirements = Some(TopologyRequirement { requisite, preferred: Vec::new() });
    })
    .await;
    check("a name of a megabyte", InvalidArgument, &|request| request.name = "n".repeat(1 << 19)).await;
    assert_eq!(driver.list(0, "").await.expect("a list").entries.len(), 0, "nothing is left of any");
}

#[tokio::test]
async fn create_is_idempotent_and_names_are_unique() {
    let driver = Running::start();
    let limited = |bytes: i64| CreateVolumeRequest { capacity_range: range(bytes, bytes), ..volume("twice") };
    let made = driver.create(limited(SIZE)).await.expect("made");
    assert_eq!(made.capacity_bytes, SIZE);
    assert_eq!(driver.create(limited(SIZE)).await.expect("found"), made);
    assert_eq!(driver.create(volume("twice")).await.expect("found"), made, "a range that it fits");
    assert_eq!(code(driver.create(limited(2 * SIZE)).await), Code::AlreadyExists);
    assert_eq!(code(driver.create(device("twice")).await), Code::AlreadyExists);
    let cloned = CreateVolumeRequest { volume_content_source: from_volume("other"), ..volume("twice") };
    assert_eq!(code(driver.create(cloned).await), Code::AlreadyExists);
    assert_eq!(made.accessible_topology[0].segments[TOPOLOGY], "here");
    let unsized_one = CreateVolumeRequest { capacity_range: None, ..volume("unsized") };
    assert_eq!(driver.create(unsized_one).await.expect("made").capacity_bytes, 1 << 30);
    let odd = CreateVolumeRequest { capacity_range: range(5000, 0), ..device("odd") };
    assert_eq!(driver.create(odd).await.expect("made").capacity_bytes, 8192, "devices have whole pages");
}

#[tokio::test]
async fn names_may_be_long_and_odd_and_stay_inside() {
    let driver = Running::start();
    let mut ids = BTreeSet::new();
    for name in
        ["n".repeat(128), "../../escape".to_owned(), "ü b/c\n".to_owned(), "a\u{0}b".to_owned(), "x".repeat(1000)]
    {
        let made = driver.create(volume(&name)).await.expect("made");
        assert_eq!(driver.create(volume(&name)).await.expect("found").volume_id, made.volume_id);
        assert!(ids.insert(made.volume_id));
    }
    assert!(!driver.folder.path().join("escape").exists());
    assert_eq!(fs::read_dir(driver.volumes.folder()).expect("a folder").count(), ids.len());
    for id in ids {
        driver.delete(&id).await.expect("deleted");
    }
    assert_eq!(fs::read_dir(driver.volumes.folder()).expect("a folder").count(), 0);
}

#[tokio::test]
async fn delete_is_idempotent() {
    let driver = Running::start();
    assert_eq!(code(driver.delete("").await), Code::InvalidArgument);
    for never in ["fake-vol-id", "../../etc", ".snapshots"] {
        driver.delete(never).await.expect("there is none");
    }
    driver.create(volume("v")).await.expect("made");
    driver.delete("v").await.expect("deleted");
    driver.delete("v").await.expect("it is gone already");
    assert_eq!(driver.list(0, "").await.expect("a list").entries.len(), 0);
}

#[tokio::test]
async fn a_volume_that_a_pod_of_the_node_has_stays() {
    let driver = Running::start();
    driver.create(volume("v")).await.expect("made");
    let found = crate::volumes::claims::Found {
        volume: "pv".to_owned(),
        block: false,
        read_only: false,
        source: crate::volumes::claims::Source::Own { name: "v".to_owned(), bytes: 1 },
        path: PathBuf::new(),
        group: None,
    };
    let pod = driver.folder.path().join("pods/uid");
    crate::volumes::claims::keep(&pod, "data", &found).expect("kept");
    assert_eq!(code(driver.delete("v").await), Code::FailedPrecondition);
    crate::volumes::claims::tear_down(&pod).expect("the pod ends");
    driver.delete("v").await.expect("deleted");
}

#[tokio::test]
async fn validate_says_what_can_be() {
    let driver = Running::start();
    driver.create(volume("v")).await.expect("made");
    let ask = async |id: &str, capabilities: &[VolumeCapability]| {
        let request = ValidateVolumeCapabilitiesRequest {
            volume_id: id.to_owned(),
            volume_capabilities: capabilities.to_vec(),
            ..Default::default()
        };
        let answer: Result<ValidateVolumeCapabilitiesResponse, Status> =
            driver.call("/csi.v1.Controller/ValidateVolumeCapabilities", request).await;
        answer
    };
    assert_eq!(code(ask("", &[as_files()]).await), Code::InvalidArgument);
    assert_eq!(code(ask("v", &[]).await), Code::InvalidArgument);
    assert_eq!(code(ask("none", &[as_files()]).await), Code::NotFound);
    let confirmed = ask("v", &[as_files()]).await.expect("an answer").confirmed.expect("it can be");
    assert_eq!(confirmed.volume_capabilities, [as_files()]);
    for impossible in [as_device(), as_mode(false, access::MULTI_NODE_READER_ONLY)] {
        let answer = ask("v", &[impossible]).await.expect("an answer");
        assert!(answer.confirmed.is_none() && !answer.message.is_empty());
    }
}

#[tokio::test]
async fn volumes_are_listed_in_pages() {
    let driver = Running::start();
    for name in ["a", "b", "c", "d", "e"] {
        driver.create(volume(name)).await.expect("made");
    }
    assert_eq!(code(driver.list(0, "invalid-token").await), Code::Aborted);
    assert_eq!(code(driver.list(-1, "").await), Code::InvalidArgument);
    let first = driver.list(2, "").await.expect("a page");
    assert_eq!(first.entries.len(), 2);
    // What the token was made from goes away, and something new comes.
    driver.delete("b").await.expect("deleted");
    driver.create(volume("f")).await.expect("made");
    let rest = driver.list(0, &first.next_token).await.expect("a page");
    let ids: Vec<String> = rest.entries.into_iter().map(|entry| entry.volume.expect("a volume").volume_id).collect();
    assert_eq!((ids.as_slice(), rest.next_token.as_str()), (&["c", "d", "e", "f"].map(str::to_owned)[..], ""));
    let one = ControllerGetVolumeRequest { volume_id: "c".to_owned() };
    let one: ControllerGetVolumeResponse =
        driver.call("/csi.v1.Controller/ControllerGetVolume", one).await.expect("an answer");
    assert_eq!(one.volume.expect("a volume").capacity_bytes, SIZE);
    let none = ControllerGetVolumeRequest { volume_id: "none".to_owned() };
    let none = driver.call::<_, ControllerGetVolumeResponse>("/csi.v1.Controller/ControllerGetVolume", none).await;
    assert_eq!(code(none), Code::NotFound);
}

#[tokio::test]
async fn capacity_is_that_of_the_disk_here() {
    let driver = Running::start();
    let ask = async |request: GetCapacityRequest| {
        let answer: GetCapacityResponse =
            driver.call("/csi.v1.Controller/GetCapacity", request).await.expect("an answer");
        answer.available_capacity
    };
    assert!(ask(GetCapacityRequest::default()).await > 0);
    let at = |node: &str| Topology { segments: [(TOPOLOGY.to_owned(), node.to_owned())].into() };
    assert!(ask(GetCapacityRequest { accessible_topology: Some(at("here")), ..Default::default() }).await > 0);
    assert_eq!(ask(GetCapacityRequest { accessible_topology: Some(at("there")), ..Default::default() }).await, 0);
}

#[tokio::test]
async fn volumes_grow() {
    let driver = Running::start();
    driver.create(volume("v")).await.expect("made");
    driver.create(device("d")).await.expect("made");
    assert_eq!(code(driver.expand("", Some((SIZE, 0))).await), Code::InvalidArgument);
    assert_eq!(code(driver.expand("v", None).await), Code::InvalidArgument);
    assert_eq!(code(driver.expand("none", Some((SIZE, 0))).await), Code::NotFound);
    assert_eq!(code(driver.expand("v", Some((i64::MAX, 0))).await), Code::OutOfRange);
    assert_eq!(code(driver.expand("v", Some((0, SIZE / 2))).await), Code::OutOfRange);
    for id in ["v", "d"] {
        let grown = driver.expand(id, Some((2 * SIZE, 0))).await.expect("grown");
        assert_eq!((grown.capacity_bytes, grown.node_expansion_required), (2 * SIZE, false));
        let again = driver.expand(id, Some((SIZE, 0))).await.expect("it is larger already");
        assert_eq!(again.capacity_bytes, 2 * SIZE);
    }
    let disk = driver.volumes.place("d").expect("a place").join("disk");
    assert_eq!(fs::metadata(disk).expect("there").len(), u64::try_from(2 * SIZE).expect("a size"));
    let listed = driver.list(0, "").await.expect("a list").entries;
    assert!(listed.iter().all(|entry| entry.volume.as_ref().is_some_and(|volume| volume.capacity_bytes == 2 * SIZE)));
}

#[tokio::test]
async fn snapshots_come_and_go() {
    let driver = Running::start();
    driver.create(volume("one")).await.expect("made");
    driver.create(volume("two")).await.expect("made");
    assert_eq!(code(driver.take("", "one").await), Code::InvalidArgument);
    assert_eq!(code(driver.take("s", "").await), Code::InvalidArgument);
    assert_eq!(code(driver.take("s", "none").await), Code::NotFound);
    let taken = driver.take("s", "one").await.expect("taken");
    assert!(taken.ready_to_use && taken.creation_time.is_some());
    assert_eq!((taken.source_volume_id.as_str(), taken.size_bytes), ("one", SIZE));
    assert_eq!(driver.take("s", "one").await.expect("found"), taken);
    assert_eq!(code(driver.take("s", "two").await), Code::AlreadyExists);
    let long = driver.take(&"l".repeat(200), "two").await.expect("taken");
    assert_eq!(driver.take(&"l".repeat(200), "two").await.expect("found"), long);
    let get = async |id: &str| {
        let request = SnapshotRequest { snapshot_id: id.to_owned(), ..Default::default() };
        code(driver.call::<_, SnapshotResponse>("/csi.v1.Controller/GetSnapshot", request).await)
    };
    assert_eq!(get("s").await, Code::Ok);
    assert_eq!(get("none").await, Code::NotFound);
    assert_eq!(get("").await, Code::InvalidArgument);
    assert_eq!(code(driver.drop_snapshot("").await), Code::InvalidArgument);
    driver.drop_snapshot("reallyfakesnapshotid").await.expect("there is none");
    driver.drop_snapshot("s").await.expect("deleted");
    driver.drop_snapshot("s").await.expect("it is gone already");
    assert_eq!(get("s").await, Code::NotFound);
}

#[tokio::test]
async fn snapshots_are_listed_by_what_is_asked() {
    let driver = Running::start();
    for (name, of) in [("s1", "a"), ("s2", "b"), ("s3", "a"), ("s4", "c"), ("s5", "a")] {
        driver.create(volume(of)).await.expect("made");
        driver.take(name, of).await.expect("taken");
    }
    let list = async |request: ListSnapshotsRequest| {
        let answer = driver.snapshots(request).await.expect("a list");
        let ids: Vec<String> =
            answer.entries.into_iter().map(|entry| entry.snapshot.expect("a snapshot").snapshot_id).collect();
        (ids, answer.next_token)
    };
    let of = |volume: &str| ListSnapshotsRequest { source_volume_id: volume.to_owned(), ..Default::default() };
    let one = |id: &str| ListSnapshotsRequest { snapshot_id: id.to_owned(), ..Default::default() };
    assert_eq!(list(of("a")).await.0, ["s1", "s3", "s5"]);
    assert_eq!(list(of("none")).await.0, Vec::<String>::new());
    assert_eq!(list(one("s2")).await.0, ["s2"]);
    assert_eq!(list(one("none-exist-id")).await.0, Vec::<String>::new());
    let (first, token) = list(ListSnapshotsRequest { max_entries: 2, ..Default::default() }).await;
    assert_eq!(first, ["s1", "s2"]);
    let (rest, end) = list(ListSnapshotsRequest { starting_token: token, ..Default::default() }).await;
    assert_eq!((rest.len(), end.as_str()), (3, ""));
    let wrong = ListSnapshotsRequest { starting_token: "x".to_owned(), ..Default::default() };
    assert_eq!(code(driver.snapshots(wrong).await), Code::Aborted);
}

#[tokio::test]
async fn volumes_are_made_from_snapshots_and_volumes() {
    let driver = Running::start();
    driver.create(volume("one")).await.expect("made");
    driver.create(device("disk")).await.expect("made");
    let data = |id: &str| driver.volumes.place(id).expect("a place").join("data/file");
    fs::write(data("one"), "before").expect("written");
    driver.take("s", "one").await.expect("taken");
    fs::write(data("one"), "after").expect("written");
    let from = |name: &str, source| CreateVolumeRequest { volume_content_source: source, ..volume(name) };
    let restored = driver.create(from("restored", from_snapshot("s"))).await.expect("made");
    assert_eq!(restored.content_source, from_snapshot("s"));
    assert_eq!(fs::read_to_string(data("restored")).expect("read"), "before");
    assert_eq!(driver.create(from("restored", from_snapshot("s"))).await.expect("found"), restored);
    driver.create(from("cloned", from_volume("one"))).await.expect("made");
    assert_eq!(fs::read_to_string(data("cloned")).expect("read"), "after");
    let small = CreateVolumeRequest { capacity_range: range(SIZE / 2, 0), ..from("small", from_snapshot("s")) };
    assert_eq!(code(driver.create(small).await), Code::OutOfRange);
    assert_eq!(code(driver.create(from("other", from_volume("disk"))).await), Code::InvalidArgument);
    let unsized_one = CreateVolumeRequest { capacity_range: None, ..from("unsized", from_snapshot("s")) };
    assert_eq!(driver.create(unsized_one).await.expect("made").capacity_bytes, SIZE);
}

#[tokio::test]
async fn a_full_disk_leaves_nothing_behind() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: a disk of its own needs root");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Mounted::memory(folder.path().join("disk"), "8m");
    let driver = Running::over(folder, disk.0.join("volumes"));
    driver.create(volume("one")).await.expect("made");
    let file = driver.volumes.place("one").expect("a place").join("data/file");
    fs::write(&file, vec![7; 5 << 20]).expect("it fits");
    let clone = CreateVolumeRequest { volume_content_source: from_volume("one"), ..volume("two") };
    assert_eq!(code(driver.create(clone.clone()).await), Code::ResourceExhausted);
    assert_eq!(code(driver.take("s", "one").await), Code::ResourceExhausted);
    let names: BTreeSet<_> =
        fs::read_dir(driver.volumes.folder()).expect("a folder").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names.into_iter().collect::<Vec<_>>(), [".snapshots", "one"], "no half is left");
    // With room again, the same calls succeed.
    fs::write(&file, "small").expect("written");
    driver.create(clone).await.expect("made");
    driver.take("s", "one").await.expect("taken");
    drop(driver);
    drop(disk);
}

/// Memory that is mounted until this is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn memory(path: PathBuf, size: &str) -> Mounted {
        fs::create_dir_all(&path).expect("a folder");
        let options = format!("size={size}");
        let none = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), &path, Some("tmpfs"), none, Some(options.as_str())).expect("mounted");
        Mounted(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH) {
            eprintln!("{} stays mounted: {error}", self.0.display());
        }
    }
}
