//! Images, sandboxes, containers and their shims.
//!
//! The words are CRI's: a *sandbox* holds what the containers of one pod share (namespaces, `/dev/shm`, the name), a
//! *container* is one run of one image in it. [`Runtime`] keeps the records and speaks with the shims; each pod has one
//! shim process (`kobune shim`, see [`shim_main`]), which outlives the runtime, so that a `kill -9` of kobune stops nothing.
//!
//! On disk, below the data folder:
//!
//! ```text
//! images/blobs/sha256/<hex>   manifests, configs and compressed layers, named by their digest
//! images/tags.json            which name stands for which manifest
//! snapshots/<chain id>/fs     an unpacked layer; appears by one rename
//! sandboxes/<id>/             sandbox.json, hostname, resolv.conf, shm
//! containers/<id>/            container.json, config.json (OCI), upper and work of the overlay, exit.json
//! ```

mod archive;
mod blobs;
mod cgroup;
mod config;
mod container;
mod container_runtime;
mod digest;
mod disk;
mod error;
mod events;
mod id;
mod images;
mod log;
mod manifest;
mod mapped;
mod pod_groups;
mod pressure;
mod protocol;
mod reference;
mod registry;
mod runtime;
mod sandbox;
mod seccomp;
mod selfimage;
mod shim;
mod shim_client;
mod snapshots;
mod spec;
mod stats;
mod streams;
mod unpack;
mod users;

pub use config::{Config, OWN_HANDLERS, installed_handlers};
pub use container::{
    ContainerConfig, ContainerState, ContainerStatus, Device, Hook, ImageMount, Mount, MountPropagation, Resources,
    SeccompProfile, SecurityContext,
};
pub use container_runtime::ContainerRuntime;
pub use error::{Error, Result};
pub use events::{ContainerEvent, ContainerEventKind, EventReceiver, RuntimeGone};
pub use id::{ContainerId, SandboxId};
pub use images::{Auth, Image, ImageConfig, ImageError, Images};
pub use log::{MAX_SIZE as LOG_MAX_SIZE, shift as shift_logs, total_size as log_size};
pub use pod_groups::PodGroups;
pub use pressure::{Pressure, Pressures, Stall};
pub use reference::{Reference, ReferenceError};
pub use runtime::{Resize, ResizeError, Runtime, unmount_below, usage_below};
pub use sandbox::{SandboxConfig, SandboxState, SandboxStatus};
pub use selfimage::{PAUSE_IMAGE, SELF_IMAGE, archive as self_archive};
pub use shim::shim_main;
pub use spec::{MASKED as MASKED_PATHS, READ_ONLY as READ_ONLY_PATHS};
pub use stats::{ContainerStats, DiskUsage, FilesystemUsage};
pub use streams::{ExecOptions, ExecResult, ExitHandle, StreamControl, Streams};
