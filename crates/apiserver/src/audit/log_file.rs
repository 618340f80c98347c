//! The audit log's file: lines of JSON, a new file when it has grown, old ones removed by number and age.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

/// How a log is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// The file, or `-` for standard output.
    pub path: PathBuf,
    /// The size at which a new file begins.
    pub max_bytes: u64,
    /// How many old files stay; 0 for all.
    pub max_backups: usize,
    /// How long old files stay; zero for ever.
    pub max_age: Duration,
}

/// Where lines go.
enum Target {
    Stdout,
    File { writer: BufWriter<File>, bytes: u64 },
}

/// The open log.
pub(super) struct LogFile {
    options: LogOptions,
    target: Target,
}

impl LogFile {
    pub(super) fn open(options: LogOptions) -> io::Result<LogFile> {
        let target = if options.path == Path::new("-") { Target::Stdout } else { open(&options.path)? };
        Ok(LogFile { options, target })
    }

    /// Writes a line, into a new file when this one is full.
    pub(super) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if let Target::File { bytes, .. } = &self.target
            && *bytes > 0
            && *bytes + line.len() as u64 > self.options.max_bytes
        {
            self.rotate(Timestamp::now())?;
        }
        match &mut self.target {
            Target::Stdout => io::stdout().write_all(line),
            Target::File { writer, bytes } => {
                *bytes += line.len() as u64;
                writer.write_all(line)
            }
        }
    }

    /// Hands everything to the operating system.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match &mut self.target {
            Target::Stdout => io::stdout().flush(),
            Target::File { writer, .. } => writer.flush(),
        }
    }

    fn rotate(&mut self, now: Timestamp) -> io::Result<()> {
        self.flush()?;
        std::fs::rename(&self.options.path, backup_name(&self.options.path, now))?;
        self.target = open(&self.options.path)?;
        self.prune(now)
    }

    /// Removes the files that are too many or too old.
    fn prune(&self, now: Timestamp) -> io::Result<()> {
        let mut backups = backups(&self.options.path)?;
        backups.sort_by(|one, other| other.cmp(one));
        for (place, (made, path)) in backups.iter().enumerate() {
            let too_many = self.options.max_backups > 0 && place >= self.options.max_backups;
            let age = now.duration_since(*made).unsigned_abs();
            let too_old = !self.options.max_age.is_zero() && age > self.options.max_age;
            if too_many || too_old {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<Target> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    // Events may show Secrets that somebody was allowed to read.
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let bytes = file.metadata()?.len();
    Ok(Target::File { writer: BufWriter::with_capacity(64 << 10, file), bytes })
}

const TIME: &str = "%Y-%m-%dT%H-%M-%S.%3f";

/// `audit-2026-01-31T10-00-00.000.log`, as upstream's log rotation names it.
fn backup_name(path: &Path, now: Timestamp) -> PathBuf {
    let (stem, ending) = parts(path);
    path.with_file_name(format!("{stem}-{}{ending}", now.strftime(TIME)))
}

fn parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
    let ending = text(path.extension()).map(|ending| format!(".{ending}")).unwrap_or_default();
    (text(path.file_stem()).unwrap_or_default(), ending)
}

/// The old files beside a log, with the time that their name tells.
fn backups(path: &Path) -> io::Result<Vec<(Timestamp, PathBuf)>> {
    let (stem, ending) = parts(path);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?.path();
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let time = name.strip_prefix(&format!("{stem}-")).and_then(|rest| rest.strip_suffix(ending.as_str()));
        let time = time.and_then(|time| jiff::civil::DateTime::strptime(TIME, time).ok());
        if let Some(time) = time.and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC).ok()) {
            found.push((time.timestamp(), entry));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_files_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep").join("audit.log");
        let options =
            LogOptions { path: path.clone(), max_bytes: 20, max_backups: 2, max_age: Duration::from_secs(3600) };
        let old = folder.path().join("deep").join("audit-2001-01-01T00-00-00.000.log");
        std::fs::create_dir_all(old.parent().unwrap()).unwrap();
        std::fs::write(&old, "old").unwrap();
        std::fs::write(folder.path().join("deep").join("audit-notes.log"), "kept").unwrap();
        let mut log = LogFile::open(options.clone()).unwrap();
        for number in 0..3u8 {
            log.write(format!("{{\"number\":{number}}}\n").as_bytes()).unwrap();
        }
        log.flush().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"number\":2}\n");
        assert!(!old.exists(), "it is older than an hour");
        let found = backups(&path).unwrap();
        assert!(!found.is_empty() && found.len() <= 2, "{found:?}");
        assert!(folder.path().join("deep").join("audit-notes.log").exists(), "only what is named by time is ours");
        drop(log);
        let mut again = LogFile::open(options).unwrap();
        again.write(b"{}\n").unwrap();
        again.flush().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"number\":2}\n{}\n", "an open log is gone on with");
    }
}
