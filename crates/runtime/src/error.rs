//! What can go wrong with a sandbox or a container.

use std::io;
use std::path::{Path, PathBuf};

use crate::images::ImageError;

/// Answer of the runtime.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the runtime could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No sandbox has this name.
    #[error("sandbox {0} not found")]
    SandboxNotFound(String),
    /// No container has this name.
    #[error("container {0} not found")]
    ContainerNotFound(String),
    /// The sandbox has been stopped or lost.
    #[error("sandbox {0} is not ready")]
    SandboxNotReady(String),
    /// The container is in a state in which this cannot be done.
    #[error("container {id} is {state}, not {wanted}")]
    WrongState {
        /// The container.
        id: String,
        /// What it is.
        state: &'static str,
        /// What it would have to be.
        wanted: &'static str,
    },
    /// The request contradicts itself or the image.
    #[error("{0}")]
    Invalid(String),
    /// The image cannot be had.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A system call on a path failed.
    #[error("failed to {action} {}", path.display())]
    Io {
        /// What was attempted: `create`, `read`, `mount`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A record on disk is not what was written there.
    #[error("damaged record {}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was wrong with it.
        source: serde_json::Error,
    },
    /// The shim could not be started.
    #[error("failed to start the sandbox's shim: {0}")]
    ShimStart(String),
    /// The shim does not answer.
    #[error("the shim of sandbox {sandbox} does not answer")]
    ShimGone {
        /// Its sandbox.
        sandbox: String,
        /// What the socket said.
        source: io::Error,
    },
    /// The shim tried and failed.
    #[error("{0}")]
    Shim(String),
    /// A runtime of another program refused, failed or gave no sensible answer.
    #[error("{0}")]
    Remote(String),
    /// A command took longer than it was given.
    #[error("command timed out after {0:?}")]
    Timeout(std::time::Duration),
}

impl Error {
    /// Binds a path and an attempt to a system call's error.
    pub(crate) fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { action, path, source }
    }

    /// Whether the thing asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(
            self,
            Error::SandboxNotFound(_) | Error::ContainerNotFound(_) | Error::Image(ImageError::NotFound { .. })
        )
    }
}
