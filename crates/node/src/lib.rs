//! What a kubelet does: pod workers, probes, volumes, status and the node's own HTTP API.
//!
//! ```text
//!  watch of the node's pods ─▶ pods ─▶ one worker a pod ─▶ runtime, network
//!                                        │   ▲  ▲
//!                 status, events ◀───────┘   │  └─ probes, operations
//!                        runtime's events ───┘
//! ```
//!
//! Decisions are pure functions ([`plan`], [`status`], [`env`] and so on); tasks only carry news to them and act.

mod admission;
mod allocation;
mod app_armor;
mod backoff;
mod cdi;
mod config;
mod context;
mod credential_provider;
mod csi;
mod devices;
mod dra;
mod env;
mod errors;
mod events;
mod eviction;
mod folder_watch;
mod hooks;
mod http;
mod image;
mod image_garbage;
mod ledger;
mod log;
mod machine;
mod node;
mod node_events;
mod offline;
mod placement;
mod plan;
mod plugins;
mod pod;
mod pods;
mod probe_counts;
mod probe_tls;
mod probes;
mod quantity;
mod references;
mod register;
mod resize;
mod resolv;
mod resources;
mod security;
mod services;
mod static_pods;
mod status;
mod usage;
mod user_namespaces;
mod volumes;
mod worker;

pub use config::Config;
pub use credential_provider::{CredentialProviders, ProviderError};
pub use csi::local::{LocalDriver, ServeError, serve as serve_local_driver, socket as local_driver_socket};
pub use eviction::{Threshold, ThresholdError, defaults as default_eviction};
pub use folder_watch::FolderWatch;
pub use node::{Node, NodeError};
pub use placement::{
    AlignPolicy, AlignScope, CpuOptions, CpuOptionsError, CpuSet, CpuSetError, PlacementError, PlacementSettings,
    Reserved, ReservedError, ReservedMemory, ReservedMemoryError,
};
pub use user_namespaces::UsersError;
pub use volumes::local::{LocalError, LocalVolumes};
