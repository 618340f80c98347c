//! hostPath volumes: what the type promises is checked, and made where the type says so.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Why a host path can't be used. The texts are upstream's.
#[derive(Debug, thiserror::Error)]
pub enum HostPathError {
    /// The path is something else.
    #[error("hostPath type check failed: {path} is not {what}")]
    Type {
        /// The path.
        path: String,
        /// What it should be.
        what: &'static str,
    },
    /// The path can't be looked at or made.
    #[error("hostPath {path} can't be used: {source}")]
    Io {
        /// The path.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Checks or makes the path.
pub fn prepare(path: &str, kind: &str) -> Result<(), HostPathError> {
    let failed = |source| HostPathError::Io { path: path.to_owned(), source };
    let wrong = |what| HostPathError::Type { path: path.to_owned(), what };
    let found = match fs::metadata(path) {
        Ok(metadata) => Some(metadata.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    match (kind, found) {
        ("", Some(_)) => Ok(()),
        ("" | "DirectoryOrCreate", None) => {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(failed)
        }
        ("DirectoryOrCreate" | "Directory", Some(found)) if found.is_dir() => Ok(()),
        ("DirectoryOrCreate" | "Directory", _) => Err(wrong("a directory")),
        ("FileOrCreate", None) if Path::new(path).parent().is_some_and(Path::is_dir) => {
            fs::OpenOptions::new().create(true).append(true).mode(0o644).open(path).map(drop).map_err(failed)
        }
        ("FileOrCreate" | "File", Some(found)) if found.is_file() => Ok(()),
        ("FileOrCreate" | "File", _) => Err(wrong("a file")),
        ("Socket", Some(found)) if found.is_socket() => Ok(()),
        ("Socket", _) => Err(wrong("a socket file")),
        ("CharDevice", Some(found)) if found.is_char_device() => Ok(()),
        ("CharDevice", _) => Err(wrong("a character device")),
        ("BlockDevice", Some(found)) if found.is_block_device() => Ok(()),
        ("BlockDevice", _) => Err(wrong("a block device")),
        (_, _) => Err(wrong("a known type")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().to_str().expect("a path").to_owned();
        fs::write(format!("{root}/file"), "x").expect("written");
        let check = |name: &str, kind: &str, expected: &str| {
            let actual = prepare(&format!("{root}/{name}"), kind)
                .err()
                .map(|error| error.to_string().replace(&root, ""))
                .unwrap_or_default();
            assert_eq!(actual, expected, "{name} {kind}");
        };
        check("file", "", "");
        check("file", "File", "");
        check("file", "Directory", "hostPath type check failed: /file is not a directory");
        check("none", "Directory", "hostPath type check failed: /none is not a directory");
        check("none", "File", "hostPath type check failed: /none is not a file");
        check("file", "Socket", "hostPath type check failed: /file is not a socket file");
        check("made/deep", "DirectoryOrCreate", "");
        check("made/deep", "Directory", "");
        check("made/new", "FileOrCreate", "");
        check("made/new", "File", "");
        check("any", "", "");
        check("any", "Directory", "");
    }
}
