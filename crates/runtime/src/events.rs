//! What the shims tell: a container has started, ended or run out of memory.

use tokio::sync::broadcast;

use crate::id::{ContainerId, SandboxId};

/// Something happened to a container.
#[derive(Clone, Debug)]
pub struct ContainerEvent {
    /// The container.
    pub id: ContainerId,
    /// Its sandbox.
    pub sandbox: SandboxId,
    /// Uid of its pod.
    pub pod_uid: String,
    /// What happened.
    pub kind: ContainerEventKind,
}

/// What happened to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerEventKind {
    /// Its first process runs.
    Started,
    /// Its first process has ended with this code.
    Exited(i32),
    /// The kernel ended one of its processes because its memory ran out.
    Oom,
    /// Its sandbox was lost with the shim.
    SandboxLost,
}

/// How many events a slow receiver may be behind before it is told to look at everything again (an event is about 250 bytes).
pub(crate) const EVENT_BACKLOG: usize = 1024;

/// The receiving end of [`crate::Runtime::events`].
#[derive(Debug)]
pub struct EventReceiver(pub(crate) broadcast::Receiver<ContainerEvent>);

impl EventReceiver {
    /// Receives from this channel.
    pub fn new(events: broadcast::Receiver<ContainerEvent>) -> Self {
        Self(events)
    }

    /// The next event; `Ok(None)` when some were missed and everything must be looked at again; `Err` when the runtime is gone.
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<ContainerEvent>, RuntimeGone> {
        match self.0.recv().await {
            Ok(event) => Ok(Some(event)),
            Err(broadcast::error::RecvError::Lagged(_)) => Ok(None),
            Err(broadcast::error::RecvError::Closed) => Err(RuntimeGone),
        }
    }
}

/// The runtime that sent events has been dropped.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the runtime is gone")]
pub struct RuntimeGone;
