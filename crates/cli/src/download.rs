//! One file from a web server.

use anyhow::{Context, Result};
use std::process::{Command, Stdio};

/// What a URL answers, through the program `curl`: few builds need it, and none should bring a web client of its own.
pub(crate) fn get(url: &str) -> Result<Vec<u8>> {
    /// No manifest is larger, in bytes.
    const LARGEST: &str = "67108864";
    let output = Command::new("curl")
        .args(["--fail", "--silent", "--show-error", "--location", "--proto", "=http,https", "--max-redirs", "10"])
        .args(["--max-filesize", LARGEST, "--max-time", "60", "--", url])
        .stdin(Stdio::null())
        .output()
        .context("curl cannot be run; it is needed for resources on web servers")?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    anyhow::bail!("{}", String::from_utf8_lossy(&output.stderr).trim())
}
