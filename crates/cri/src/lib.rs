//! Runs pods through another container runtime: containerd or CRI-O, by CRI v1 (`--container-runtime-endpoint`).
//!
//! [`CriRuntime`] is a [`kobune_runtime::ContainerRuntime`] like the one built in. What it knows of sandboxes and containers is
//! a copy in memory of what the runtime has; calls that change something bring it up to date, and so does what the runtime
//! tells by itself (`watch`). It sees only what carries the instance's label, so that others may use the same runtime.
//!
//! Everything that comes from the runtime is taken for what a stranger says: it may be malformed, late or not come at all,
//! and then the call that asked fails and nothing else.
//!
//! The pod's network stays kobune's own: `cni` hands its namespaces over to the runtime.

mod calls;
mod cni;
mod container_config;
mod failure;
mod images;
mod log_rotation;
mod own_image;
mod proto;
mod purge;
mod resources;
mod runtime;
mod sandbox_config;
mod state;
mod stats;
mod streaming;
mod watch;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use cni::{is_plugin_call, plugin_main};
pub use purge::{end_all, left_behind};
pub use runtime::CriRuntime;

/// What a CRI runtime is to be used with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The runtime's socket.
    pub socket: PathBuf,
    /// The folder of the whole instance.
    pub data_dir: PathBuf,
    /// The instance's name: the value of the label that its sandboxes and containers carry.
    pub instance: String,
    /// Absolute cgroup below which the pods' are.
    pub cgroup_parent: String,
    /// The program that the runtime calls for a pod's network, and whose image it is given.
    pub executable: PathBuf,
}

/// The socket of an endpoint: `unix:///run/containerd/containerd.sock`, or the bare path.
pub fn socket_of(endpoint: &str) -> Result<PathBuf, OpenError> {
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    if path.starts_with('/') { Ok(path.into()) } else { Err(OpenError::Endpoint(endpoint.to_owned())) }
}

/// Why a container runtime can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not the address of a socket.
    #[error("{0:?} is not a container runtime's endpoint: unix:///path/to/socket is expected")]
    Endpoint(String),
    /// Nobody answers.
    #[error("the container runtime at {} does not answer: {cause}", socket.display())]
    Unreachable {
        /// Where it was looked for.
        socket: PathBuf,
        /// What the last attempt said.
        cause: String,
    },
    /// It is there and speaks something else.
    #[error(
        "what answers at {} does not speak CRI v1 ({cause}): containerd has it from 1.6 on, unless its configuration lists \
         cri under disabled_plugins, as Docker's does",
        socket.display()
    )]
    NoCri {
        /// Where it is.
        socket: PathBuf,
        /// What it said.
        cause: String,
    },
    /// It can't be used the way it is configured.
    #[error("{0}")]
    Setup(String),
    /// Something of this machine can't be used.
    #[error("failed to {action} {}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The machine's control groups can't be used.
    #[error(transparent)]
    Runtime(#[from] kobune_runtime::Error),
}

/// Binds a path and an attempt to a system call's error.
fn io_error(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> OpenError {
    let path = path.to_path_buf();
    move |source| OpenError::Io { action, path, source }
}
