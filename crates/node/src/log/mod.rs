//! Container logs: the files, their lines, and reading them as clients ask.

pub mod line;
pub mod reader;

use std::io;
use std::path::{Path, PathBuf};

/// A log and its predecessors (`0.log.4` ... `0.log.1`, `0.log`), oldest first, as far as they exist.
pub fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for entry in entries {
        let entry = entry?;
        let file = entry.file_name();
        let Some(rest) = file.to_str().and_then(|file| file.strip_prefix(name)) else { continue };
        let age = match rest.strip_prefix('.') {
            None if rest.is_empty() => 0,
            Some(number) => match number.parse() {
                Ok(number) => number,
                Err(_) => continue,
            },
            None => continue,
        };
        found.push((age, entry.path()));
    }
    found.sort();
    Ok(found.into_iter().rev().map(|(_, path)| path).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_first() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["0.log", "0.log.1", "0.log.10", "0.log.2", "0.log.x", "1.log", "0.logx"] {
            std::fs::write(folder.path().join(name), "").expect("written");
        }
        let found = files(&folder.path().join("0.log")).expect("listed");
        let names: Vec<_> =
            found.iter().map(|path| path.file_name().expect("a name").to_str().expect("text")).collect();
        assert_eq!(names, ["0.log.10", "0.log.2", "0.log.1", "0.log"]);
        assert!(files(Path::new("/nonexistent/0.log")).expect("listed").is_empty());
    }
}
