//! Other people's network plug-ins: their folder is followed, and while there is no network the node says so and pods wait.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::events::Severity;
use crate::folder_watch::FolderWatch;

/// A folder that cannot be watched is tried again after this long.
const RETRY: Duration = Duration::from_secs(10);

/// Keeps what is known of the network in step with the folder of its configurations, until the token is cancelled.
pub async fn follow(context: Arc<Context>, token: CancellationToken) {
    token.run_until_cancelled(follow_folder(&context)).await;
}

async fn follow_folder(context: &Context) {
    let network = &context.config.network;
    let Some(plugins) = network.plugins() else { return };
    let folder = &plugins.folders().configurations;
    loop {
        let watch = match FolderWatch::new(folder) {
            Ok(watch) => watch,
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "the folder of network configurations cannot be watched");
                network.refresh_plugins().await;
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        loop {
            let ask_again = network.refresh_plugins().await;
            let due = async {
                match ask_again {
                    Some(after) => tokio::time::sleep(after).await,
                    None => pending().await,
                }
            };
            // Dropping either loses nothing: the folder is looked at anew whichever ends first.
            tokio::select! {
                result = watch.changed() => if let Err(error) = result {
                    tracing::warn!(folder = %folder.display(), %error, "the folder of network configurations is not watched");
                    break;
                },
                () = due => {}
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Why pods cannot be attached, in the words of the kubelet's condition (`pkg/kubelet/runtime.go`, `networkErrors`, around
/// what containerd says).
pub fn problem(context: &Context) -> Option<String> {
    let plugins = context.config.network.plugins()?;
    let problem = plugins.status().borrow().as_ref().err().cloned();
    problem.map(|problem| in_words(&problem))
}

fn in_words(problem: &str) -> String {
    format!(
        "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin \
         returns error: {problem}"
    )
}

/// Returns when what [`problem`] says may have changed.
pub async fn changed(status: Option<&mut watch::Receiver<Result<(), String>>>) {
    let Some(status) = status else { return pending().await };
    if status.changed().await.is_err() {
        pending().await
    }
}

/// Waits until pods can be attached, and tells the pod that it waits. Ends with an error when the token is cancelled.
pub async fn wait_until_ready(context: &Context, owner: &Pod, token: &CancellationToken) -> Result<(), String> {
    let Some(plugins) = context.config.network.plugins() else { return Ok(()) };
    let mut status = plugins.status();
    let Some(problem) = problem(context) else { return Ok(()) };
    let text = format!("network is not ready: {problem}");
    context.events.pod(owner, Severity::Warning, "NetworkNotReady", text.clone());
    tokio::select! {
        // Dropping the wait loses nothing.
        () = token.cancelled() => Err(text),
        ready = status.wait_for(Result::is_ok) => ready.map(drop).map_err(|_| text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_words() {
        assert_eq!(
            in_words("cni plugin not initialized"),
            "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin \
             returns error: cni plugin not initialized"
        );
    }
}
