//! Container logs in CRI's format: `<time> <stream> <F|P> <text>`, one line a line, with a bound on the space they take.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Longer lines are cut into parts marked `P`; the reader joins them. containerd's figure.
const MAX_LINE: usize = 16 << 10;
/// When the log is larger it is renamed to `.1`. The kubelet's default for `containerLogMaxSize`.
pub const MAX_SIZE: u64 = 10 << 20;
/// The log and its predecessors: the kubelet's default for `containerLogMaxFiles`.
const MAX_FILES: u32 = 5;

/// Cuts a stream of bytes into lines.
#[derive(Default)]
pub(crate) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Takes bytes and calls `line` with each complete line (or part of a long one) and whether it is complete.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8], bool)) {
        while !bytes.is_empty() {
            let room = MAX_LINE - self.rest.len();
            let window = &bytes[..bytes.len().min(room + 1)];
            match window.iter().position(|byte| *byte == b'\n') {
                Some(end) if self.rest.is_empty() => {
                    line(&bytes[..end], true);
                    bytes = &bytes[end + 1..];
                }
                Some(end) => {
                    self.rest.extend_from_slice(&bytes[..end]);
                    line(&self.rest, true);
                    self.rest.clear();
                    bytes = &bytes[end + 1..];
                }
                None if bytes.len() > room => {
                    self.rest.extend_from_slice(&bytes[..room]);
                    line(&self.rest, false);
                    self.rest.clear();
                    bytes = &bytes[room..];
                }
                None => {
                    self.rest.extend_from_slice(bytes);
                    return;
                }
            }
        }
    }

    /// Ends the stream: what is left is a part without its end.
    pub(crate) fn finish(&mut self, mut line: impl FnMut(&[u8], bool)) {
        if !self.rest.is_empty() {
            line(&self.rest, false);
        }
        self.rest = Vec::new();
    }
}

/// An open log file.
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    size: u64,
}

impl Log {
    /// Opens or makes the file, and the folder it is in.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_path_buf(), file, size })
    }

    /// Writes lines that are already in CRI's form. A full disk loses lines, never the container.
    pub(crate) fn write(&mut self, formatted: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size + formatted.len() as u64 > MAX_SIZE {
            self.rotate()?;
        }
        self.file.write_all(formatted)?;
        self.size += formatted.len() as u64;
        Ok(())
    }

    /// Starts a new file under the old name.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        *self = Self::open(&self.path)?;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        shift(&self.path)?;
        self.reopen()
    }
}

/// Moves a log and its predecessors on by one name; the oldest is dropped. Whoever writes it has to open it anew.
pub fn shift(path: &Path) -> io::Result<()> {
    for number in (1..MAX_FILES).rev() {
        let from = if number == 1 { path.to_path_buf() } else { numbered(path, number - 1) };
        match std::fs::rename(&from, numbered(path, number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn open(path: &Path) -> io::Result<File> {
    let options = || OpenOptions::new().create(true).append(true).mode(0o640).open(path);
    match options() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            options()
        }
        other => other,
    }
}

/// The name of a log's predecessor: `0.log.1`.
pub(crate) fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// Size of a log and its predecessors.
pub fn total_size(path: &Path) -> u64 {
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    size(path) + (1..MAX_FILES).map(|number| size(&numbered(path, number))).sum::<u64>()
}

/// Appends one line in CRI's form.
pub(crate) fn format(out: &mut Vec<u8>, time: &str, stream: &str, line: &[u8], complete: bool) {
    for part in [time.as_bytes(), b" ", stream.as_bytes(), if complete { b" F " } else { b" P " }, line, b"\n"] {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(chunks: &[&str], expected: &[(&str, bool)]) {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        let mut note = |line: &[u8], complete: bool| found.push((String::from_utf8_lossy(line).into_owned(), complete));
        for chunk in chunks {
            lines.push(chunk.as_bytes(), &mut note);
        }
        lines.finish(&mut note);
        let found: Vec<(&str, bool)> = found.iter().map(|(line, complete)| (line.as_str(), *complete)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn lines_are_joined_and_cut() {
        let long = "x".repeat(MAX_LINE);
        check(&["a\nb"], &[("a", true), ("b", false)]);
        check(&["a", "b\n", "\n"], &[("ab", true), ("", true)]);
        check(&[&long, "\n"], &[(&long, true)]);
        check(&[&long, "y\n"], &[(&long, false), ("y", true)]);
        check(&[&format!("{long}{long}z\n")], &[(&long, false), (&long, false), ("z", true)]);
        check(&[""], &[]);
    }

    #[test]
    fn a_full_log_is_renamed() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let path = folder.path().join("deep/0.log");
        let mut log = Log::open(&path).expect("it can be opened");
        let block = vec![b'x'; (MAX_SIZE / 2) as usize];
        for _ in 0..5 {
            log.write(&block).expect("it can be written");
        }
        let size = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.len()).ok();
        assert_eq!(size(&path), Some(MAX_SIZE / 2));
        assert_eq!(size(&numbered(&path, 1)), Some(MAX_SIZE));
        assert_eq!(size(&numbered(&path, 2)), Some(MAX_SIZE));
        assert_eq!(size(&numbered(&path, 3)), None);
    }

    #[test]
    fn the_form_is_cris() {
        let mut out = Vec::new();
        format(&mut out, "2026-01-01T00:00:00Z", "stdout", b"hello", true);
        format(&mut out, "2026-01-01T00:00:00Z", "stderr", b"", false);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "2026-01-01T00:00:00Z stdout F hello\n2026-01-01T00:00:00Z stderr P \n"
        );
    }
}
