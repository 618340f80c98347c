//! `kobune csi`: the driver of local volumes by itself, for whoever speaks CSI.

use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;
use kobune_node::{LocalDriver, LocalVolumes, local_driver_socket, serve_local_driver};
use tokio_util::sync::CancellationToken;

use crate::cli::InstanceOptions;

/// The flags of `csi`.
#[derive(Debug, Clone, Args)]
pub struct CsiOptions {
    #[command(flatten)]
    pub instance: InstanceOptions,
    /// The socket to answer at, a path or unix:// with a path [default: node/plugins/local.kobune.dev/csi.sock in the data
    /// folder, where a running node answers by itself]
    #[arg(long, value_name = "ENDPOINT", env = "CSI_ENDPOINT")]
    pub endpoint: Option<String>,
    /// The name of the node that the volumes are on [default: the host name]
    #[arg(long, value_name = "NAME", env = "KOBUNE_NODE_NAME")]
    pub node_name: Option<String>,
}

/// Answers until it is told to stop.
pub async fn run(options: CsiOptions, token: CancellationToken) -> Result<()> {
    let data_dir = std::path::absolute(&options.instance.data_dir).context("find the data folder")?;
    let node_dir = data_dir.join("node");
    let socket = match &options.endpoint {
        Some(endpoint) => path(endpoint)?,
        None => local_driver_socket(&node_dir),
    };
    let name = crate::settings::node_name(options.node_name.as_deref())?;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&data_dir);
    made.with_context(|| format!("make the data folder {}", data_dir.display()))?;
    let volumes = Arc::new(LocalVolumes::of(&data_dir));
    let tidied = Arc::clone(&volumes);
    let tidied = tokio::task::spawn_blocking(move || tidied.finish_deletions()).await;
    tidied.context("clean up")?.context("take away what was being made or deleted")?;
    tracing::info!(endpoint = %socket.display(), node = name, "the driver of local volumes answers");
    let driver = Arc::new(LocalDriver::new(volumes, name, &node_dir));
    serve_local_driver(socket, driver, token).await.context("serve the driver of local volumes")
}

/// The path of an endpoint as drivers are given it.
fn path(endpoint: &str) -> Result<PathBuf> {
    let path = endpoint.strip_prefix("unix://").or_else(|| endpoint.strip_prefix("unix:")).unwrap_or(endpoint);
    if path.is_empty() || path.contains("://") || path.starts_with("tcp:") {
        bail!("--endpoint {endpoint:?} is not a socket of this machine; expected unix:///path or a path");
    }
    std::path::absolute(path).with_context(|| format!("find {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        for (endpoint, expected) in [
            ("unix:///run/csi.sock", Some("/run/csi.sock")),
            ("unix:/run/csi.sock", Some("/run/csi.sock")),
            ("/run/csi.sock", Some("/run/csi.sock")),
            ("tcp://127.0.0.1:1", None),
            ("", None),
        ] {
            assert_eq!(path(endpoint).ok(), expected.map(PathBuf::from), "{endpoint}");
        }
    }
}
