//! Snapshots of the SQLite file: read beside a running store, and made into a new file.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use crate::error::OpenError;
use crate::object::{Key, Record, Revision};
use crate::seal::Seal;
use crate::snapshot::{EPOCH, Snapshot};

use super::SqliteStore;
use super::database::Database;

impl SqliteStore {
    /// All objects of a database, as they are on disk at one moment. Another process may have it open and go on writing;
    /// relaxed writes that have not reached the disk yet are not seen.
    pub fn read_file(path: &Path, seal: Option<Arc<dyn Seal>>) -> Result<Snapshot, OpenError> {
        let loaded = Database::read_only(path, seal)?;
        Ok(Snapshot { revision: loaded.revision, records: loaded.records })
    }

    /// Makes a database of a snapshot. It appears under its name only when it is whole and on disk. Revisions go on above
    /// the answered one, which no client can have seen before.
    pub fn restore(path: &Path, snapshot: Snapshot, seal: Option<Arc<dyn Seal>>) -> Result<Revision, OpenError> {
        let unfinished = path.with_extension("restoring");
        let failed = |source| OpenError::Lock { path: unfinished.clone(), source };
        for leftover in [unfinished.clone(), path.with_extension("restoring-wal"), path.with_extension("restoring-shm")]
        {
            match std::fs::remove_file(&leftover) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
        let revision = Revision(snapshot.revision.0 + EPOCH);
        let states: Vec<(Key, Option<Record>)> =
            snapshot.records.into_iter().map(|record| (record.key.clone(), Some(record))).collect();
        let mut database = Database::open(&unfinished, None, seal)?;
        let written = database.write(states.iter().map(|(key, state)| (key, state)), Some(revision));
        written
            .and_then(|()| database.into_one_file())
            .map_err(|source| OpenError::Sqlite { path: unfinished.clone(), source })?;
        std::fs::rename(&unfinished, path).map_err(failed)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        Ok(revision)
    }
}
