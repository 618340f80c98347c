//! The controller's calls: volumes and snapshots come, grow and go.

use std::time::{SystemTime, UNIX_EPOCH};

use kobune_grpc::Status;
use kobune_grpc::csi::controller::{
    Confirmed, ControllerExpandVolumeRequest, ControllerExpandVolumeResponse, ControllerGetVolumeRequest,
    ControllerGetVolumeResponse, CreateSnapshotRequest, CreateVolumeRequest, CreateVolumeResponse, DeleteVolumeRequest,
    GetCapacityRequest, GetCapacityResponse, Int64Value, ListSnapshotsRequest, ListSnapshotsResponse,
    ListVolumesRequest, ListVolumesResponse, Snapshot as Answer, SnapshotRequest, SnapshotResponse, SnapshotSource,
    Timestamp, TopologyRequirement, ValidateVolumeCapabilitiesRequest, ValidateVolumeCapabilitiesResponse,
    Volume as VolumeAnswer, VolumeContentSource, VolumeEntry, VolumeSource, VolumeStatus,
};
use kobune_grpc::csi::{Capabilities, Nothing, Topology, controller_can};

use super::uses::Uses;
use super::{LocalDriver, TOPOLOGY, check, failed, use_failed};
use crate::volumes::claims;
use crate::volumes::local::{LocalError, Origin, Snapshot, Volume};

pub(super) fn capabilities() -> Capabilities {
    Capabilities::of(&[
        controller_can::CREATE_DELETE_VOLUME,
        controller_can::LIST_VOLUMES,
        controller_can::GET_CAPACITY,
        controller_can::CREATE_DELETE_SNAPSHOT,
        controller_can::LIST_SNAPSHOTS,
        controller_can::CLONE_VOLUME,
        controller_can::EXPAND_VOLUME,
        controller_can::GET_VOLUME,
        controller_can::SINGLE_NODE_MULTI_WRITER,
        controller_can::GET_SNAPSHOT,
    ])
}

/// The disk's size and what is left of it, in bytes.
struct Disk {
    size: u64,
    left: u64,
}

fn source(origin: &Origin) -> VolumeContentSource {
    let (snapshot, volume) = match origin {
        Origin::Snapshot(id) => (Some(SnapshotSource { snapshot_id: id.clone() }), None),
        Origin::Volume(id) => (None, Some(VolumeSource { volume_id: id.clone() })),
    };
    VolumeContentSource { snapshot, volume }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn snapshot_answer(id: String, snapshot: &Snapshot) -> Answer {
    Answer {
        size_bytes: signed(snapshot.bytes),
        snapshot_id: id,
        source_volume_id: snapshot.volume.clone(),
        creation_time: Some(Timestamp { seconds: snapshot.taken, nanos: 0 }),
        ready_to_use: true,
    }
}

impl LocalDriver {
    fn disk(&self) -> Result<Disk, Status> {
        // The folder comes with the first volume; what it will be in has the room.
        let there = self.volumes.folder().ancestors().find(|path| path.exists());
        let room = there.map(nix::sys::statvfs::statvfs).transpose();
        let room = room.map_err(|error| Status::internal(format!("the disk can't be looked at: {error}")))?;
        Ok(room.map_or(Disk { size: 0, left: 0 }, |room| Disk {
            size: room.blocks() * room.fragment_size(),
            left: room.blocks_available() * room.fragment_size(),
        }))
    }

    fn volume_answer(&self, id: &str, volume: &Volume) -> VolumeAnswer {
        VolumeAnswer {
            capacity_bytes: signed(volume.bytes),
            volume_id: id.to_owned(),
            volume_context: [("node".to_owned(), self.node.clone())].into(),
            content_source: volume.origin.as_ref().map(source),
            accessible_topology: vec![self.place()],
        }
    }

    /// The volume of this id; ids that can't be are those of volumes that are not there.
    pub(super) fn volume(&self, id: &str) -> Result<Volume, Status> {
        let missing = || Status::not_found(format!("volume {id:?} does not exist"));
        check::given(id, "volume_id")?;
        self.volumes.get(id).map_err(|error| failed(&error))?.ok_or_else(missing)
    }

    fn reaches(&self, place: &Topology) -> bool {
        // A place without a word about nodes is none of ours.
        place.segments.get(TOPOLOGY) == Some(&self.node)
    }

    fn check_place(&self, wanted: Option<&TopologyRequirement>) -> Result<(), Status> {
        let Some(wanted) = wanted else { return Ok(()) };
        let mut places = wanted.requisite.iter().chain(&wanted.preferred).peekable();
        if places.peek().is_none() || places.any(|place| self.reaches(place)) {
            return Ok(());
        }
        Err(Status::resource_exhausted(format!("volumes are made on node {:?} only", self.node)))
    }

    /// What a new volume begins with, its size and whether it is a device.
    fn origin(&self, wanted: Option<&VolumeContentSource>) -> Result<Option<(Origin, u64, bool)>, Status> {
        let Some(wanted) = wanted else { return Ok(None) };
        let not_found = |kind: &str, id: &str| Status::not_found(format!("{kind} {id:?} does not exist"));
        match (&wanted.snapshot, &wanted.volume) {
            (Some(SnapshotSource { snapshot_id: id }), None) => {
                check::given(id, "snapshot_id")?;
                let found = self.volumes.snapshot(id).map_err(|error| failed(&error))?;
                let found = found.ok_or_else(|| not_found("snapshot", id))?;
                Ok(Some((Origin::Snapshot(id.clone()), found.bytes, found.block)))
            }
            (None, Some(VolumeSource { volume_id: id })) => {
                let found = self.volume(id)?;
                Ok(Some((Origin::Volume(id.clone()), found.bytes, found.block)))
            }
            _ => Err(Status::invalid_argument("volume_content_source is neither a snapshot nor a volume")),
        }
    }

    pub(super) fn create_volume(&self, request: CreateVolumeRequest) -> Result<CreateVolumeResponse, Status> {
        let id = check::id(&request.name)?;
        let block = check::usages(&request.volume_capabilities)?;
        check::parameters(&request.parameters)?;
        check::parameters(&request.mutable_parameters)?;
        let range = check::range(request.capacity_range.as_ref())?;
        if let Some(known) = self.volumes.get(&id).map_err(|error| failed(&error))? {
            let same = known.name == request.name
                && known.block == block
                && check::fits(range, known.bytes)
                && known.origin.as_ref().map(source) == request.volume_content_source;
            return if same {
                Ok(CreateVolumeResponse { volume: Some(self.volume_answer(&id, &known)) })
            } else {
                Err(Status::already_exists(format!("volume {id:?} exists and is another than what is asked for")))
            };
        }
        self.check_place(request.accessibility_requirements.as_ref())?;
        let from = self.origin(request.volume_content_source.as_ref())?;
        if from.as_ref().is_some_and(|(_, _, device)| *device != block) {
            return Err(Status::invalid_argument("what the volume is made from is not of the same mode"));
        }
        let least = from.as_ref().map_or(0, |(_, bytes, _)| *bytes);
        let bytes = check::size(range, least, self.disk()?.size, block)?;
        let volume = Volume { name: request.name, bytes, block, origin: from.map(|(origin, _, _)| origin) };
        self.volumes.make(&id, &volume).map_err(|error| failed(&error))?;
        Ok(CreateVolumeResponse { volume: Some(self.volume_answer(&id, &volume)) })
    }

    /// Whether a pod or a caller of this driver has the volume.
    fn in_use(&self, id: &str) -> Result<bool, Status> {
        let place = self.volumes.place(id).map_err(|error| failed(&error))?;
        let by_pod = claims::any_pod_has(
            &self.pods_dir,
            None,
            |found| matches!(&found.source, claims::Source::Own { name, .. } if name == id),
        );
        Ok(by_pod || Uses::of(&place).map_err(|error| use_failed(&error))?.any())
    }

    pub(super) fn delete_volume(&self, request: &DeleteVolumeRequest) -> Result<Nothing, Status> {
        let id = check::given(&request.volume_id, "volume_id")?;
        match self.volumes.place(id) {
            // Nothing of that name was ever made.
            Err(LocalError::Name(_)) => return Ok(Nothing {}),
            _ if self.in_use(id)? => return Err(failed(&LocalError::InUse)),
            _ => {}
        }
        self.volumes.delete(id).map(|()| Nothing {}).map_err(|error| failed(&error))
    }

    pub(super) fn validate(
        &self,
        request: ValidateVolumeCapabilitiesRequest,
    ) -> Result<ValidateVolumeCapabilitiesResponse, Status> {
        check::given(&request.volume_id, "volume_id")?;
        if request.volume_capabilities.is_empty() {
            return Err(Status::invalid_argument("volume_capabilities are missing"));
        }
        let volume = self.volume(&request.volume_id)?;
        let possible = check::usages(&request.volume_capabilities)
            .and_then(|block| check::parameters(&request.parameters).map(|()| block))
            .and_then(|block| check::parameters(&request.mutable_parameters).map(|()| block));
        let message = match possible {
            Ok(block) if block == volume.block => {
                let confirmed = Confirmed {
                    volume_context: request.volume_context,
                    volume_capabilities: request.volume_capabilities,
                    parameters: request.parameters,
                    mutable_parameters: request.mutable_parameters,
                };
                return Ok(ValidateVolumeCapabilitiesResponse { confirmed: Some(confirmed), message: String::new() });
            }
            Ok(_) => "the volume is of the other mode, block or mount".to_owned(),
            Err(status) => status.message().to_owned(),
        };
        Ok(ValidateVolumeCapabilitiesResponse { confirmed: None, message })
    }

    pub(super) fn list_volumes(&self, request: &ListVolumesRequest) -> Result<ListVolumesResponse, Status> {
        let all = self.volumes.list().map_err(|error| failed(&error))?;
        let (page, next_token) = check::page(all, request.max_entries, &request.starting_token)?;
        let entry = |(id, volume): &(String, Volume)| VolumeEntry { volume: Some(self.volume_answer(id, volume)) };
        Ok(ListVolumesResponse { entries: page.iter().map(entry).collect(), next_token })
    }

    pub(super) fn get_volume(
        &self,
        request: &ControllerGetVolumeRequest,
    ) -> Result<ControllerGetVolumeResponse, Status> {
        let volume = self.volume(&request.volume_id)?;
        let volume = Some(self.volume_answer(&request.volume_id, &volume));
        Ok(ControllerGetVolumeResponse { volume, status: Some(VolumeStatus::default()) })
    }

    pub(super) fn capacity(&self, request: &GetCapacityRequest) -> Result<GetCapacityResponse, Status> {
        let elsewhere = request.accessible_topology.as_ref().is_some_and(|place| !self.reaches(place));
        let possible = (request.volume_capabilities.is_empty() || check::usages(&request.volume_capabilities).is_ok())
            && check::parameters(&request.parameters).is_ok();
        if elsewhere || !possible {
            return Ok(GetCapacityResponse::default());
        }
        let Disk { size, left } = self.disk()?;
        let maximum_volume_size = Some(Int64Value { value: signed(size) });
        Ok(GetCapacityResponse { available_capacity: signed(left), maximum_volume_size, minimum_volume_size: None })
    }

    pub(super) fn expand(
        &self,
        request: &ControllerExpandVolumeRequest,
    ) -> Result<ControllerExpandVolumeResponse, Status> {
        check::given(&request.volume_id, "volume_id")?;
        if request.capacity_range.is_none() {
            return Err(Status::invalid_argument("capacity_range is missing"));
        }
        let range = check::range(request.capacity_range.as_ref())?;
        let volume = self.volume(&request.volume_id)?;
        // The node's part needs nothing more: folders have no file system to grow, and devices see their new size.
        Ok(ControllerExpandVolumeResponse {
            capacity_bytes: signed(self.grow(&request.volume_id, &volume, range)?),
            node_expansion_required: false,
        })
    }

    /// Lets a volume grow into a range, and says how large it is then.
    pub(super) fn grow(&self, id: &str, volume: &Volume, range: (u64, u64)) -> Result<u64, Status> {
        if volume.bytes >= range.0 {
            return if check::fits(range, volume.bytes) {
                Ok(volume.bytes)
            } else {
                Err(Status::out_of_range(format!("the volume has {} bytes already", volume.bytes)))
            };
        }
        let bytes = check::size(range, volume.bytes, self.disk()?.size, volume.block)?;
        self.volumes.ensure(id, bytes, volume.block).map_err(|error| failed(&error))?;
        Ok(bytes)
    }

    pub(super) fn create_snapshot(&self, request: CreateSnapshotRequest) -> Result<SnapshotResponse, Status> {
        let of = check::given(&request.source_volume_id, "source_volume_id")?;
        let id = check::id(&request.name)?;
        check::parameters(&request.parameters)?;
        if let Some(known) = self.volumes.snapshot(&id).map_err(|error| failed(&error))? {
            return if known.name == request.name && known.volume == of {
                Ok(SnapshotResponse { snapshot: Some(snapshot_answer(id, &known)) })
            } else {
                Err(Status::already_exists(format!("snapshot {id:?} exists and is of another volume")))
            };
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let taken = self.volumes.take_snapshot(&id, of, &request.name, signed(now)).map_err(|error| failed(&error))?;
        Ok(SnapshotResponse { snapshot: Some(snapshot_answer(id, &taken)) })
    }

    pub(super) fn delete_snapshot(&self, request: &SnapshotRequest) -> Result<Nothing, Status> {
        let id = check::given(&request.snapshot_id, "snapshot_id")?;
        match self.volumes.delete_snapshot(id) {
            Err(LocalError::Name(_)) | Ok(()) => Ok(Nothing {}),
            Err(error) => Err(failed(&error)),
        }
    }

    pub(super) fn get_snapshot(&self, request: &SnapshotRequest) -> Result<SnapshotResponse, Status> {
        let id = check::given(&request.snapshot_id, "snapshot_id")?;
        let found = self.volumes.snapshot(id).map_err(|error| failed(&error))?;
        let found = found.ok_or_else(|| Status::not_found(format!("snapshot {id:?} does not exist")))?;
        Ok(SnapshotResponse { snapshot: Some(snapshot_answer(id.to_owned(), &found)) })
    }

    pub(super) fn list_snapshots(&self, request: &ListSnapshotsRequest) -> Result<ListSnapshotsResponse, Status> {
        let mut all = self.volumes.snapshots().map_err(|error| failed(&error))?;
        all.retain(|(id, snapshot)| {
            (request.snapshot_id.is_empty() || request.snapshot_id == *id)
                && (request.source_volume_id.is_empty() || request.source_volume_id == snapshot.volume)
        });
        let (page, next_token) = check::page(all, request.max_entries, &request.starting_token)?;
        let entry = |(id, snapshot)| SnapshotResponse { snapshot: Some(snapshot_answer(id, &snapshot)) };
        Ok(ListSnapshotsResponse { entries: page.into_iter().map(entry).collect(), next_token })
    }
}
