//! Ending everything that an instance runs in another runtime: `kobune down`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::calls::Calls;
use crate::proto::sandbox::{ListPodSandboxRequest, PodSandboxFilter};
use crate::proto::{ById, StatusRequest};
use crate::sandbox_config::INSTANCE;
use crate::{Config, OpenError, cni, failure, io_error};

/// What is kept of the last runtime that pods were run with.
#[derive(Serialize, Deserialize)]
struct Note {
    socket: PathBuf,
}

fn note(data_dir: &Path) -> PathBuf {
    data_dir.join("cri").join("runtime.json")
}

/// Keeps which runtime it is, for `kobune down`.
pub(crate) fn remember(config: &Config) -> Result<(), OpenError> {
    config.make_folder()?;
    if let Some(other) = left_behind(&config.data_dir)?.filter(|other| *other != config.socket) {
        return Err(OpenError::Setup(format!(
            "pods of this instance may still run in the container runtime at {}: `kobune down` ends them",
            other.display()
        )));
    }
    let file = note(&config.data_dir);
    let text = serde_json::to_string(&Note { socket: config.socket.clone() }).unwrap_or_default();
    fs::write(&file, text).map_err(io_error("write", &file))
}

/// The socket of another runtime that may still run pods of the instance in this data folder.
pub fn left_behind(data_dir: &Path) -> Result<Option<PathBuf>, OpenError> {
    let file = note(data_dir);
    match fs::read(&file) {
        Ok(text) => serde_json::from_slice::<Note>(&text)
            .map(|note| Some(note.socket))
            .map_err(|error| io_error("read", &file)(error.into())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", &file)(error)),
    }
}

/// How long a sandbox may refuse to go, and how soon it is asked again.
const REFUSES: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(200);

/// Ends a sandbox with its containers. A container that was just being started when kobune ended can only be removed once
/// the runtime has finished or given up its start.
async fn end(calls: &Calls, id: &str) -> Result<(), kobune_runtime::Error> {
    let by_id = || ById { id: id.to_owned(), verbose: false };
    let until = Instant::now() + REFUSES;
    loop {
        failure::unless_gone(calls.stop_pod_sandbox(by_id()).await)?;
        match failure::unless_gone(calls.remove_pod_sandbox(by_id()).await) {
            Err(error) if Instant::now() < until => {
                tracing::debug!(error = &error as &dyn std::error::Error, id, "a sandbox is not removed yet");
                tokio::time::sleep(AGAIN).await;
            }
            ended => return ended.map(|_| ()),
        }
    }
}

/// Removes all sandboxes of the instance, and what was set up for the runtime.
pub async fn end_all(config: &Config) -> Result<(), OpenError> {
    let calls = Calls::new(config.socket.clone());
    let failed = |status| OpenError::Setup(failure::text(&status));
    let label_selector = [(INSTANCE.to_owned(), config.instance.clone())].into();
    let filter = Some(PodSandboxFilter { label_selector });
    let listed = calls.list_pod_sandbox(ListPodSandboxRequest { filter }).await.map_err(failed)?;
    for sandbox in listed.items {
        if sandbox.labels.get(INSTANCE).is_none_or(|instance| *instance != config.instance) {
            continue;
        }
        end(&calls, &sandbox.id).await?;
    }
    let status = calls.status(StatusRequest { verbose: true }).await.map_err(failed)?;
    cni::uninstall(config, &cni::places(&status.info))?;
    let folder = config.folder();
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error("remove", &folder)(error)),
        _ => Ok(()),
    }
}
