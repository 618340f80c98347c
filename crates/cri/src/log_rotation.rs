//! Logs that grow too long: the runtime writes them, the node moves them away and has it open new ones.
//!
//! Upstream looks every ten seconds (`pkg/kubelet/logs/container_log_manager.go`); here one `stat` for each running container
//! once in half a minute, and nothing while none runs.

use std::sync::Weak;
use std::time::Duration;

use kobune_runtime::{ContainerState, LOG_MAX_SIZE, shift_logs};

use crate::failure;
use crate::proto::ById;
use crate::runtime::Inner;

const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Looks until nobody uses the runtime any more.
pub(crate) async fn run(runtime: Weak<Inner>) {
    loop {
        let Some(inner) = runtime.upgrade() else { return };
        let (over, mut changed) = (inner.over.clone(), inner.changed.subscribe());
        let runs = inner.state.read().anything_runs();
        drop(inner);
        // Dropping either loses nothing.
        tokio::select! {
            () = over.cancelled() => return,
            _ = changed.changed(), if !runs => continue,
            () = tokio::time::sleep(LOOK_EVERY), if runs => {}
        }
        if let Some(inner) = runtime.upgrade() {
            inner.rotate_logs().await;
        }
    }
}

impl Inner {
    /// Looks at the logs of all running containers.
    pub(crate) async fn rotate_logs(&self) {
        let running: Vec<_> = {
            let known = self.state.read();
            let running = known.containers.values().filter(|known| known.state == ContainerState::Running);
            running.filter_map(|known| Some((known.id.clone(), known.log_path.clone()?))).collect()
        };
        for (id, path) in running {
            let moved = tokio::task::spawn_blocking(move || {
                let long = std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LOG_MAX_SIZE);
                if long { shift_logs(&path).map(|()| true) } else { Ok(false) }
            });
            match moved.await {
                Ok(Ok(false)) => {}
                Ok(Ok(true)) => {
                    // Until it does, the runtime writes into the file that was moved: nothing is lost.
                    if let Err(status) =
                        self.calls.reopen_container_log(ById { id: id.to_string(), verbose: false }).await
                    {
                        tracing::warn!(container = %id, "a log was not opened anew: {}", failure::text(&status));
                    }
                }
                Ok(Err(error)) => tracing::warn!(container = %id, %error, "a log was not moved away"),
                Err(error) => tracing::error!(%error, "moving a log away panicked"),
            }
        }
    }
}
