//! Files that survive a power cut: a temporary name, `fsync`, rename, `fsync` of the folder.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Writes a file that only its owner may read (0600). After it returns, the file has either the old or the new
/// content whatever happens to the power, and never a wider mode for a moment.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, bytes, 0o600)
}

/// Writes a file that everybody may read (0644), as durably as [`write_private`].
pub fn write_public(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, bytes, 0o644)
}

/// Reads a whole text file; a file that is not there is `None`.
pub(crate) fn read_if_present(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}

/// Makes a folder that only its owner may enter, with its parents.
pub(crate) fn private_folder(path: &Path) -> Result<()> {
    let made = || -> io::Result<()> {
        fs::create_dir_all(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o700))
    };
    made().map_err(|source| Error::Write { path: path.to_owned(), source })
}

fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let temporary = temporary_name(path);
    let written = write_whole(&temporary, bytes, mode).and_then(|()| {
        fs::rename(&temporary, path)?;
        // The rename itself lives in the folder: without this a power cut can take it back.
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    });
    if written.is_err() && fs::exists(&temporary).unwrap_or(false) {
        // The write's own error is what the caller must learn; a left-over temporary file is replaced next time.
        if let Err(error) = fs::remove_file(&temporary) {
            tracing::debug!(path = %temporary.display(), %error, "temporary file stays behind");
        }
    }
    written.map_err(|source| Error::Write { path: path.to_owned(), source })
}

fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    path.with_file_name(name)
}

fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    // The mode given at opening is cut by the umask and ignored for a file that is left over from a crash.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_replaced_with_their_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for (content, mode) in [("first", 0o600), ("second", 0o600), ("third", 0o644)] {
            if mode == 0o600 {
                write_private(&path, content.as_bytes()).unwrap();
            } else {
                write_public(&path, content.as_bytes()).unwrap();
            }
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing temporary stays");
        }
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = write_private(Path::new("/nonexistent-kobune/key"), b"x").unwrap_err();
        assert_eq!(error.to_string(), "cannot write /nonexistent-kobune/key");
    }
}
