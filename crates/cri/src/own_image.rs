//! Gives containerd the image that kobune makes of itself, so that it runs without a registry as with the runtime built in.
//!
//! CRI has no words for it; containerd's own `ctr`, which comes with it, has.

use std::process::Stdio;
use std::sync::Arc;

use kobune_runtime::SELF_IMAGE;
use tokio::process::Command;

use crate::runtime::Inner;

/// Brings the image in unless the same program did before. What goes wrong is told: all other images are there as before.
pub(crate) async fn provide(inner: &Arc<Inner>) {
    match import(inner).await {
        Ok(()) => {}
        Err(why) => tracing::warn!("{SELF_IMAGE} is not in the container runtime: {why}"),
    }
}

async fn import(inner: &Inner) -> Result<(), String> {
    let config = &inner.config;
    let identity = identity(&config.executable)?;
    let note = config.folder().join("own-image");
    let there = inner.image_status(SELF_IMAGE).await.map_err(|error| error.to_string())?.is_some();
    if there && std::fs::read_to_string(&note).is_ok_and(|known| known == identity) {
        return Ok(());
    }
    let archive = config.folder().join("own-image.tar");
    let (executable, target) = (config.executable.clone(), archive.clone());
    let written = tokio::task::spawn_blocking(move || kobune_runtime::self_archive(&executable, &target)).await;
    written.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    let imported = run(inner, &archive).await;
    let removed = std::fs::remove_file(&archive);
    imported?;
    removed.map_err(|error| format!("remove {}: {error}", archive.display()))?;
    std::fs::write(&note, identity).map_err(|error| format!("write {}: {error}", note.display()))
}

async fn run(inner: &Inner, archive: &std::path::Path) -> Result<(), String> {
    let mut command = Command::new("ctr");
    command.arg("--address").arg(&inner.config.socket).args(["--namespace", "k8s.io", "images", "import"]).arg(archive);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.map_err(|error| format!("ctr, which comes with containerd: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ctr images import: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Changes with the program.
fn identity(executable: &std::path::Path) -> Result<String, String> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(executable).map_err(|error| format!("{}: {error}", executable.display()))?;
    Ok(format!("{} {} {} {}", metadata.dev(), metadata.ino(), metadata.size(), metadata.mtime()))
}
