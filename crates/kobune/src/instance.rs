//! One process at a time on a data folder, and who it is.
//!
//! `<data-dir>/kobune.lock` is locked (`flock`) by the process that has the folder and holds its process id. The lock
//! goes with the process, however it ends, so it never lies; a stale process id is never signalled. The file is also
//! the mark by which `down --purge` recognises a folder as kobune's.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

/// The right to use a data folder, until it is dropped.
#[derive(Debug)]
pub struct Instance {
    _lock: Flock<File>,
}

fn lock_path(data_dir: &Path) -> PathBuf {
    data_dir.join("kobune.lock")
}

/// Whether the folder is one that kobune has used.
pub fn is_kobunes(data_dir: &Path) -> bool {
    lock_path(data_dir).is_file()
}

/// Takes the data folder, making it if it is not there.
pub fn take(data_dir: &Path) -> Result<Instance> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir)
        .with_context(|| format!("make the data folder {}", data_dir.display()))?;
    match try_take(data_dir)? {
        Ok(instance) => Ok(instance),
        Err(Some(id)) => {
            bail!("{} is in use by process {id}; stop it with `kobune down --data-dir {0}`", data_dir.display())
        }
        Err(None) => bail!("{} is in use by another process", data_dir.display()),
    }
}

/// Takes the data folder, or says which process has it.
pub fn try_take(data_dir: &Path) -> Result<std::result::Result<Instance, Option<i32>>> {
    let path = lock_path(data_dir);
    let attempt = || format!("open {}", path.display());
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(attempt)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            lock.set_len(0)
                .and_then(|()| lock.rewind())
                .and_then(|()| write!(*lock, "{}", std::process::id()))
                .with_context(attempt)?;
            Ok(Ok(Instance { _lock: lock }))
        }
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut text = String::new();
            file.read_to_string(&mut text).with_context(attempt)?;
            Ok(Err(text.trim().parse().ok()))
        }
        Err((_, error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_names_its_holder_and_goes_with_it() {
        let folder = std::env::temp_dir().join(format!("kobune-instance-{}", std::process::id()));
        let first = take(&folder).expect("the folder is free");
        assert!(is_kobunes(&folder));
        let second = try_take(&folder).expect("the lock can be tried");
        assert_eq!(second.expect_err("the folder is taken"), i32::try_from(std::process::id()).ok());
        drop(first);
        assert!(try_take(&folder).expect("the lock can be tried").is_ok());
        std::fs::remove_dir_all(&folder).expect("the folder goes");
    }
}
