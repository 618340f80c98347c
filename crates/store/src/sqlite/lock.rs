//! One opener a database: a lock on a file beside it, which the kernel gives back however the process ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::OpenError;

/// Held while the database is open.
pub(super) struct Lock {
    file: File,
}

impl Drop for Lock {
    /// Closing the file is not enough: a process that this one is just starting still has it until it becomes another
    /// program.
    fn drop(&mut self) {
        if let Err(error) = self.file.unlock() {
            tracing::debug!(%error, "the lock of a database was not given back, the kernel does it");
        }
    }
}

impl Lock {
    pub(super) fn take(database: &Path) -> Result<Lock, OpenError> {
        let path = database.with_extension("lock");
        let failed = |source| OpenError::Lock { path: path.clone(), source };
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { file }),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: database.to_owned() }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_back_though_a_copy_is_open() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = folder.path().join("state.db");
        let lock = Lock::take(&database).expect("nobody has it");
        assert!(matches!(Lock::take(&database), Err(OpenError::InUse { .. })));
        let copy = lock.file.try_clone().expect("another descriptor of the same open file");
        drop(lock);
        Lock::take(&database).expect("it was given back");
        drop(copy);
    }
}
