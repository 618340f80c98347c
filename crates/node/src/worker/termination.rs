//! The message that a container leaves when it ends: its termination file, or the end of its log.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use k8s_openapi::api::core::v1::Container;
use kobune_runtime::ContainerStatus;

use crate::log::line::parse;

/// Upstream's limits.
const MESSAGE_BYTES: u64 = 4096;
const FALLBACK_BYTES: usize = 2048;
const FALLBACK_LINES: usize = 80;

/// Reads the message; empty when there is none. Blocks for two small reads.
pub fn message(pod_dir: &Path, container: &Container, ended: &ContainerStatus) -> String {
    let path =
        container.termination_message_path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/dev/termination-log");
    // Also right when the container mounts a volume of its own at this path.
    let file = ended.mounts.iter().find(|mount| mount.container_path == Path::new(path)).map_or_else(
        || super::start::termination_file(pod_dir, &ended.name, ended.attempt),
        |mount| mount.host_path.clone(),
    );
    let mut text = Vec::new();
    // A container that never started has no such file; that is no news.
    if let Ok(file) = File::open(file)
        && let Err(error) = file.take(MESSAGE_BYTES).read_to_end(&mut text)
    {
        tracing::debug!(error = &error as &dyn std::error::Error, "a termination message could not be read");
    }
    let fall_back = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    if text.is_empty() && fall_back && ended.exit_code != Some(0) {
        return ended.log_path.as_deref().map(end_of_log).unwrap_or_default();
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn end_of_log(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        // Each line carries a time stamp besides its text: read enough for both.
        file.seek(SeekFrom::Start(size.saturating_sub(16 * 1024)))?;
        let mut bytes = Vec::new();
        file.take(16 * 1024).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => tail(&bytes),
        Err(error) => format!("Error reading termination message from logs: {error}"),
    }
}

/// The text of the last lines of a CRI log. Pure.
fn tail(log: &[u8]) -> String {
    let lines: Vec<_> = log.split_inclusive(|byte| *byte == b'\n').filter_map(parse).collect();
    let mut text = Vec::new();
    for line in lines.iter().skip(lines.len().saturating_sub(FALLBACK_LINES)) {
        text.extend_from_slice(line.text);
        if !line.partial {
            text.push(b'\n');
        }
    }
    let start = text.len().saturating_sub(FALLBACK_BYTES);
    String::from_utf8_lossy(&text[start..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log() {
        let check = |log: &str, expected: &str| assert_eq!(tail(log.as_bytes()), expected);
        check("", "");
        check(
            "2026-01-01T00:00:00.000000000Z stdout F one\n2026-01-01T00:00:00.000000000Z stderr F two\n",
            "one\ntwo\n",
        );
        check("00Z stdout\n2026-01-01T00:00:00.0Z stdout P par\n2026-01-01T00:00:00.0Z stdout F tial\n", "partial\n");
        let many: String = (0..100).map(|index| format!("2026-01-01T00:00:00.0Z stdout F {index}\n")).collect();
        assert!(tail(many.as_bytes()).starts_with("20\n"));
    }
}
