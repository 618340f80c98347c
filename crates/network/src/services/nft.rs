//! Running `nft`, the Debian nftables program: one run is one atomic transaction.

use std::{io, process::Stdio};

use tokio::{io::AsyncWriteExt, process::Command};

/// Why rules could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program did not start.
    #[error("run nft (Debian package nftables)")]
    Run {
        /// The cause.
        source: io::Error,
    },
    /// The program or the kernel refused the transaction; nothing changed.
    #[error("nft refused the rules: {message}")]
    Refused {
        /// What it wrote, shortened.
        message: String,
    },
}

/// Applies one transaction: all of it, or nothing.
pub async fn apply(transaction: &str) -> Result<(), NftError> {
    let mut child = Command::new(program())
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| NftError::Run { source })?;
    let mut input = child.stdin.take().expect("stdin was asked for");
    // It reads everything before it writes anything, so that this cannot wait for each other. When it ends early its
    // own message says why; the broken pipe adds nothing.
    let written = input.write_all(transaction.as_bytes()).await;
    drop(input);
    let output = child.wait_with_output().await.map_err(|source| NftError::Run { source })?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let message = text.lines().take(6).collect::<Vec<_>>().join(" | ");
        return Err(NftError::Refused { message });
    }
    written.map_err(|source| NftError::Run { source })
}

/// Removes a table; one that is not there is fine.
pub async fn remove_table(table: &str) -> Result<(), NftError> {
    apply(&format!("add table inet {table}\ndelete table inet {table}\n")).await
}

/// Where Debian puts it, which is not in every user's search path.
fn program() -> &'static str {
    ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"]
        .into_iter()
        .find(|path| std::path::Path::new(path).exists())
        .unwrap_or("nft")
}
