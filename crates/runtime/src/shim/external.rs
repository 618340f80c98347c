//! Lets an OCI runtime of its own (`runc`, `crun`, `youki`) start a container: create, then start.
//!
//! It runs in the forked child whose mount namespace holds the container's root, so that this root is seen by nobody else.
//! The container's first process is left to the shim, which has made itself the reaper of what is left behind; everything
//! after the start (signals, commands, the end) goes without the runtime.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use super::launch::receive_terminal;
use crate::disk;

/// Starts the container; the number of its first process and the master side of its terminal.
pub(super) fn run(
    runtime: &Path,
    id: &str,
    folder: &Path,
    stdio: Option<[OwnedFd; 3]>,
) -> Result<(i32, Option<OwnedFd>), String> {
    let (log, pid_file) = (folder.join("oci.log"), folder.join("oci.pid"));
    let call = |verb: &str| {
        let mut command = Command::new(runtime);
        command.arg("--root").arg(folder.join("oci")).arg("--log").arg(&log).args(["--log-format", "json", verb]);
        command
    };
    let mut create = call("create");
    create.arg("--bundle").arg(folder).arg("--pid-file").arg(&pid_file);
    let mut console = None;
    match stdio {
        Some([stdin, stdout, stderr]) => {
            create.stdin(Stdio::from(stdin)).stdout(Stdio::from(stdout)).stderr(Stdio::from(stderr));
        }
        None => {
            let open =
                std::fs::File::open(folder).map_err(|error| format!("failed to open {}: {error}", folder.display()))?;
            let listener = UnixListener::bind(disk::below(&open, "console.sock"))
                .map_err(|error| format!("failed to make the console's socket: {error}"))?;
            create.arg("--console-socket").arg(folder.join("console.sock"));
            create.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            console = Some(listener);
        }
    }
    create.arg(id);
    wait(runtime, create, "create", &log)?;
    let text = std::fs::read_to_string(&pid_file)
        .map_err(|error| format!("{} left no process id: {error}", runtime.display()))?;
    let pid = text.trim().parse().map_err(|_| format!("{} left {text:?} for a process id", runtime.display()))?;
    let terminal = console.as_ref().map(receive_terminal).transpose()?;
    let mut start = call("start");
    start.arg(id).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    wait(runtime, start, "start", &log)?;
    Ok((pid, terminal))
}

fn wait(runtime: &Path, mut command: Command, verb: &str, log: &Path) -> Result<(), String> {
    let status = command.status().map_err(|error| format!("failed to run {}: {error}", runtime.display()))?;
    if status.success() {
        return Ok(());
    }
    let text = std::fs::read_to_string(log).unwrap_or_default();
    // One that cannot even be loaded leaves no log.
    let why = last_error(&text).or_else(|| broken(runtime)).unwrap_or_else(|| status.to_string());
    Err(format!("{} {verb} failed: {why}", runtime.display()))
}

/// What a runtime says that does not work at all, such as one whose libraries are missing.
fn broken(runtime: &Path) -> Option<String> {
    let output = Command::new(runtime).arg("--version").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    (!output.status.success() && !text.is_empty()).then_some(text)
}

/// The last error of a runtime's log: one JSON object a line.
fn last_error(log: &str) -> Option<String> {
    log.lines().rev().find_map(|line| {
        let entry: serde_json::Value = serde_json::from_str(line).ok()?;
        let level = entry["level"].as_str().unwrap_or("error");
        (matches!(level, "error" | "fatal")).then(|| entry["msg"].as_str().map(str::to_owned))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_is_told() {
        let log = "{\"level\":\"error\",\"msg\":\"first\"}\nnonsense\n{\"level\":\"error\",\"msg\":\"exec: \\\"x\\\": not found\"}\n{\"level\":\"warning\",\"msg\":\"w\"}\n";
        assert_eq!(last_error(log).as_deref(), Some("exec: \"x\": not found"));
        assert_eq!(last_error(""), None);
    }
}
