//! The SQLite file: its form, how it is opened and checked, and the one transaction that writes a batch.
//!
//! One table with one index holds the objects as JSON text, so `sqlite3 file 'select value from objects'` shows them; those
//! that are [sealed](Seal) are bytes.

use std::borrow::Cow;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, ToSql, params};

use crate::error::OpenError;
use crate::intern::intern;
use crate::object::{Facets, Key, Record, Revision};
use crate::seal::{self, SEALED_PREFIX, Seal, SealError};

/// The form of the file, in SQLite's `user_version`.
const FORMAT: i64 = 1;

/// The page size; SQLite's default, and the unit in which flash and file systems write.
const PAGE_BYTES: u64 = 4096;

/// The free part of the file from which on it is rebuilt at start, if that is more than half of it. Free pages are
/// reused, so shrinking the file at other times would only wear the flash.
const REBUILD_FREE_BYTES: u64 = 16 << 20;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS objects (
        id INTEGER PRIMARY KEY,
        collection TEXT NOT NULL,
        namespace TEXT NOT NULL,
        name TEXT NOT NULL,
        revision INTEGER NOT NULL,
        value TEXT NOT NULL,
        UNIQUE (collection, namespace, name)
    );
    CREATE TABLE IF NOT EXISTS numbers (
        name TEXT PRIMARY KEY,
        value INTEGER NOT NULL
    ) WITHOUT ROWID;
";

const UPSERT: &str = "
    INSERT INTO objects (collection, namespace, name, revision, value) VALUES (?1, ?2, ?3, ?4, ?5)
    ON CONFLICT (collection, namespace, name) DO UPDATE SET revision = excluded.revision, value = excluded.value";

const DELETE: &str = "DELETE FROM objects WHERE collection = ?1 AND namespace = ?2 AND name = ?3";

const RESERVE: &str = "
    INSERT INTO numbers (name, value) VALUES ('reserved_revision', ?1)
    ON CONFLICT (name) DO UPDATE SET value = excluded.value";

/// What the file held when it was opened.
pub(super) struct Loaded {
    pub(super) records: Vec<Record>,
    /// At or above every revision that was ever handed out.
    pub(super) revision: Revision,
    /// The revisions that may be handed out before more are reserved on disk.
    pub(super) reserved: Revision,
}

/// The writer's connection.
pub(super) struct Database {
    connection: Connection,
    seal: Option<Arc<dyn Seal>>,
}

/// Why the objects could not be read.
enum ReadError {
    Sqlite(rusqlite::Error),
    Sealed { key: String, source: SealError },
}

impl From<rusqlite::Error> for ReadError {
    fn from(error: rusqlite::Error) -> ReadError {
        ReadError::Sqlite(error)
    }
}

/// A value as a column: JSON as text, what is sealed as bytes.
struct Column<'a>(Cow<'a, [u8]>);

impl ToSql for Column<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let sealed = self.0.starts_with(SEALED_PREFIX);
        Ok(ToSqlOutput::Borrowed(if sealed { ValueRef::Blob(&self.0) } else { ValueRef::Text(&self.0) }))
    }
}

/// Opens a connection with the settings that every connection needs.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    // Someone may look into the file with sqlite3 while it is in use.
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA wal_autocheckpoint = 0;
         PRAGMA journal_size_limit = 16777216;
         PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -1024;",
    )?;
    Ok(connection)
}

/// Moves what it can of the log into the database file without holding up anyone. Answers how many bytes remain.
pub(super) fn checkpoint(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        let frames: i64 = row.get(1)?;
        let moved: i64 = row.get(2)?;
        Ok(u64::try_from(frames - moved).unwrap_or(0) * PAGE_BYTES)
    })
}

/// An estimate of what one row adds to the log: the page of the table, one of the index, and further pages for a value
/// that does not fit into one.
pub(super) fn logged_bytes(record: Option<&Record>) -> u64 {
    let value = record.map_or(0, |record| record.value.len() as u64);
    (2 + value / PAGE_BYTES) * PAGE_BYTES
}

/// Whether an error means that there is no room.
pub(super) fn is_full(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => {
            failure.code == ErrorCode::DiskFull
                // The log's index is a memory-mapped file, whose growth reports a full disk as an I/O error.
                || failure.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE
        }
        _ => false,
    }
}

fn is_corrupt(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

fn open_error(path: &Path, source: rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    if is_corrupt(&source) {
        let problem = source.to_string();
        OpenError::Corrupt { path, problem }
    } else {
        OpenError::Sqlite { path, source }
    }
}

impl Database {
    /// Opens the file, makes it if there is none, and brings it into form.
    pub(super) fn open(
        path: &Path,
        max_bytes: Option<u64>,
        seal: Option<Arc<dyn Seal>>,
    ) -> Result<Database, OpenError> {
        // The objects include Secrets. SQLite gives its other files the mode of this one.
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|source| OpenError::Lock { path: path.to_owned(), source })?;
        let failed = |source| open_error(path, source);
        let connection = connect(path).map_err(failed)?;
        let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
        match found {
            FORMAT => {}
            0 => {
                connection
                    .execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;"))
                    .map_err(failed)?;
            }
            found => {
                return Err(OpenError::Format { path: path.to_owned(), found, known: FORMAT });
            }
        }
        if seal.is_some() {
            // What is deleted or replaced must not stay readable in free parts of the file.
            connection.execute_batch("PRAGMA secure_delete = ON").map_err(failed)?;
        }
        let database = Database { connection, seal };
        database.rebuild().map_err(failed)?;
        if let Some(bytes) = max_bytes {
            let pages = (bytes / PAGE_BYTES).max(1);
            database
                .connection
                .query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
                .map_err(failed)?;
        }
        Ok(database)
    }

    /// Rebuilds a file that is mostly free space.
    fn rebuild(&self) -> rusqlite::Result<()> {
        let number = |pragma: &str| -> rusqlite::Result<u64> {
            self.connection
                .query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, i64>(0))
                .map(|number| u64::try_from(number).unwrap_or(0))
        };
        let free = number("freelist_count")?;
        if free * PAGE_BYTES < REBUILD_FREE_BYTES || free * 2 < number("page_count")? {
            return Ok(());
        }
        match self.connection.execute_batch("VACUUM") {
            // It needs room for a copy; the file serves as well as it is.
            Err(error) if is_full(&error) => Ok(()),
            result => result,
        }
    }

    /// Reads all objects, while another connection checks the file's structure.
    pub(super) fn load(&mut self, path: &Path, facets: impl Fn(&Key, &[u8]) -> Facets) -> Result<Loaded, OpenError> {
        let (checked, loaded) = std::thread::scope(|scope| {
            let check = scope.spawn(|| quick_check(path));
            let loaded = self.read(facets);
            (check.join(), loaded)
        });
        let problem =
            checked.expect("the integrity check does not panic").map_err(|source| open_error(path, source))?;
        if let Some(problem) = problem {
            return Err(OpenError::Corrupt { path: path.to_owned(), problem });
        }
        let (loaded, stale) = loaded.map_err(|error| match error {
            ReadError::Sqlite(source) => open_error(path, source),
            ReadError::Sealed { key, source } => OpenError::Sealed { path: path.to_owned(), key, source },
        })?;
        self.seal_anew(&loaded.records, &stale).map_err(|source| open_error(path, source))?;
        Ok(loaded)
    }

    /// Writes values as they are sealed today, and leaves nothing behind of what they looked like before.
    fn seal_anew(&mut self, records: &[Record], stale: &[usize]) -> rusqlite::Result<()> {
        if stale.is_empty() {
            return Ok(());
        }
        let states: Vec<(Key, Option<Record>)> =
            stale.iter().map(|index| (records[*index].key.clone(), Some(records[*index].clone()))).collect();
        self.write(states.iter().map(|(key, record)| (key, record)), None)?;
        // Free pages of earlier times and the log still have what was plain.
        match self.connection.execute_batch("VACUUM") {
            Err(error) if is_full(&error) => {
                tracing::warn!("no room to rebuild the database: old free pages of it may hold values in plain text");
            }
            result => result?,
        }
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        tracing::info!(objects = stale.len(), "has encrypted what was on disk anew");
        Ok(())
    }

    /// All objects, and the places of those that would be sealed differently today.
    fn read(&self, facets: impl Fn(&Key, &[u8]) -> Facets) -> Result<(Loaded, Vec<usize>), ReadError> {
        let mut records: Vec<Record> = Vec::new();
        let mut stale = Vec::new();
        let mut newest = 0;
        let mut statement =
            self.connection.prepare("SELECT collection, namespace, name, revision, value FROM objects")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let text = |index| row.get_ref(index).and_then(|value| Ok(value.as_str()?));
            let key = Key { collection: intern(text(0)?), namespace: intern(text(1)?), name: text(2)?.into() };
            let revision = row.get::<_, i64>(3)?.cast_unsigned();
            newest = newest.max(revision);
            let stored = row.get_ref(4)?.as_bytes().map_err(rusqlite::Error::from)?;
            let opened = seal::open(self.seal.as_deref(), &key, stored)
                .map_err(|source| ReadError::Sealed { key: key.to_string(), source })?;
            if opened.stale {
                stale.push(records.len());
            }
            let facets = facets(&key, &opened.value).into();
            let value = match opened.value {
                Cow::Borrowed(value) => Bytes::copy_from_slice(value),
                Cow::Owned(value) => Bytes::from(value.into_boxed_slice()),
            };
            records.push(Record::new(key, Revision(revision), value, facets));
        }
        let reserved = self
            .connection
            .query_row("SELECT value FROM numbers WHERE name = 'reserved_revision'", [], |row| row.get::<_, i64>(0))
            .optional()?
            .unwrap_or(0)
            .cast_unsigned();
        self.connection.execute_batch("PRAGMA shrink_memory")?;
        // An unclean stop may have lost relaxed writes that someone has seen. All of them were below the reservation.
        let revision = Revision(newest.max(reserved));
        Ok((Loaded { records, revision, reserved: revision }, stale))
    }

    /// Writes a batch in one transaction; when this returns, it is on disk. `None` deletes the key.
    pub(super) fn write<'a>(
        &mut self,
        changes: impl IntoIterator<Item = (&'a Key, &'a Option<Record>)>,
        reserve: Option<Revision>,
    ) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        {
            let mut upsert = transaction.prepare_cached(UPSERT)?;
            let mut delete = transaction.prepare_cached(DELETE)?;
            for (key, record) in changes {
                match record {
                    Some(record) => upsert.execute(params![
                        key.collection,
                        key.namespace,
                        key.name,
                        record.revision.0.cast_signed(),
                        column(self.seal.as_deref(), key, &record.value)?,
                    ])?,
                    None => delete.execute(params![key.collection, key.namespace, key.name])?,
                };
            }
            if let Some(revision) = reserve {
                transaction.prepare_cached(RESERVE)?.execute([revision.0.cast_signed()])?;
            }
        }
        transaction.commit()
    }

    /// Reads all objects of a file that another process may be writing, as they are at one moment.
    pub(super) fn read_only(path: &Path, seal: Option<Arc<dyn Seal>>) -> Result<Loaded, OpenError> {
        let failed = |source| open_error(path, source);
        if let Some(problem) = quick_check(path).map_err(failed)? {
            return Err(OpenError::Corrupt { path: path.to_owned(), problem });
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        connection
            .busy_timeout(Duration::from_secs(5))
            .and_then(|()| connection.execute_batch("BEGIN"))
            .map_err(failed)?;
        let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
        if found != FORMAT {
            return Err(OpenError::Format { path: path.to_owned(), found, known: FORMAT });
        }
        let database = Database { connection, seal };
        match database.read(|_, _| Facets::default()) {
            Ok((loaded, _)) => Ok(loaded),
            Err(ReadError::Sqlite(source)) => Err(failed(source)),
            Err(ReadError::Sealed { key, source }) => Err(OpenError::Sealed { path: path.to_owned(), key, source }),
        }
    }

    /// Moves the whole log into the file and closes it, so that the file alone is the database.
    pub(super) fn into_one_file(self) -> rusqlite::Result<()> {
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        self.connection.close().map_err(|(_, error)| error)
    }

    /// A short pass over what a background checkpoint has left.
    pub(super) fn checkpoint(&self) -> rusqlite::Result<u64> {
        checkpoint(&self.connection)
    }
}

/// A value as it stands on disk.
fn column<'v>(seal: Option<&dyn Seal>, key: &Key, value: &'v [u8]) -> rusqlite::Result<Column<'v>> {
    match seal {
        None => Ok(Column(Cow::Borrowed(value))),
        Some(seal) => {
            seal.seal(key, value).map(Column).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
        }
    }
}

/// Checks the file's structure; answers what is wrong.
fn quick_check(path: &Path) -> rusqlite::Result<Option<String>> {
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    let answer: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    Ok((answer != "ok").then_some(answer))
}
