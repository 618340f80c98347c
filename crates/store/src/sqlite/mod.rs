//! The store on this machine: state in memory, durability by SQLite.
//!
//! ```text
//! commit() -> queue -> writer thread: decide in order -> one transaction, one fsync -> memory, watchers -> answers
//!                                                                |
//!                          checkpoint thread: moves the log into the database file while writes go on
//! ```

mod checkpoint;
mod database;
mod decide;
mod lock;
mod queue;
mod snapshot;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

use crate::error::{CommitError, OpenError, StoreError};
use crate::listing::Listing;
use crate::memory::{Limits, Memory};
use crate::object::{Facets, Key, Range, Record, Revision, Write};
use crate::seal::Seal;
use crate::store::{At, Store};
use crate::watch::Watch;

use queue::{Queue, Request};

/// How a [`SqliteStore`] behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the memory may hold beyond the current state.
    pub limits: Limits,
    /// How long a relaxed create or delete may wait for a synced write to share the disk with.
    pub relaxed_delay: Duration,
    /// How long a relaxed update may wait. It loses only a renewal, and a heartbeat each ten seconds would otherwise cost
    /// a flush each ten seconds.
    pub renewal_delay: Duration,
    /// The bytes of drafts that may wait in the queue; further writers wait before it.
    pub queue_bytes: usize,
    /// The bytes of relaxed writes that may wait for the disk while it is full; further ones are refused.
    pub relaxed_bytes: usize,
    /// The size of the write-ahead log at which a checkpoint starts.
    pub checkpoint_bytes: u64,
    /// The most that the database file may grow to; `None` leaves it to the disk.
    pub max_bytes: Option<u64>,
    /// What encrypts values on their way to the disk; `None` writes them as they are.
    pub seal: Option<Arc<dyn Seal>>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            limits: Limits::default(),
            relaxed_delay: Duration::from_secs(5),
            renewal_delay: Duration::from_secs(60),
            queue_bytes: 32 << 20,
            relaxed_bytes: 16 << 20,
            checkpoint_bytes: 4 << 20,
            max_bytes: None,
            seal: None,
        }
    }
}

/// A queue permit stands for this many bytes.
const PERMIT_BYTES: usize = 1024;

/// Revisioned objects in one SQLite file.
pub struct SqliteStore {
    memory: Memory,
    queue: Arc<Queue>,
    room: Arc<Semaphore>,
    permits: usize,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl SqliteStore {
    /// Opens or makes the database file, checks it, and reads all objects. `facets` takes out of a stored value what
    /// selectors need.
    ///
    /// This blocks; call it before the runtime is busy or on a blocking thread.
    pub fn open(
        path: impl AsRef<Path>,
        config: Config,
        facets: impl Fn(&Key, &[u8]) -> Facets,
    ) -> Result<Arc<SqliteStore>, OpenError> {
        let path = path.as_ref();
        let lock = lock::Lock::take(path)?;
        let mut database = database::Database::open(path, config.max_bytes, config.seal.clone())?;
        let loaded = database.load(path, facets)?;
        let memory = Memory::new(config.limits.clone(), loaded.revision, loaded.records);
        let queue = Arc::new(Queue::new());
        let permits = (config.queue_bytes / PERMIT_BYTES).max(1);
        let thread = |source| OpenError::Thread { path: path.to_owned(), source };
        let checkpoints = checkpoint::Checkpointer::start(path).map_err(thread)?;
        let writer =
            writer::Writer::new(queue.clone(), memory.clone(), database, checkpoints, lock, &config, loaded.reserved);
        let writer =
            std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || writer.run()).map_err(thread)?;
        Ok(Arc::new(SqliteStore {
            memory,
            queue,
            room: Arc::new(Semaphore::new(permits)),
            permits,
            writer: Mutex::new(Some(writer)),
        }))
    }

    /// Finishes the writes that wait, puts relaxed ones on disk, and ends all watches. Later writes are refused.
    pub async fn close(&self) {
        self.queue.close();
        self.queue.finished().await;
        self.join();
    }

    fn join(&self) {
        let Some(writer) = self.writer.lock().take() else {
            return;
        };
        if writer.join().is_err() {
            tracing::error!("the writer of the database has panicked");
        }
    }

    async fn submit(&self, write: Write) -> Result<Record, CommitError> {
        let bytes = Request::bytes(&write);
        let permits = (bytes / PERMIT_BYTES + 1).min(self.permits);
        let permit = self.room.clone().acquire_many_owned(permits as u32).await.map_err(|_| CommitError::Closed)?;
        let (reply, answer) = oneshot::channel();
        self.queue.push(Request::new(write, reply, permit)?)?;
        answer.await.unwrap_or(Err(CommitError::Closed))
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.queue.close();
        self.join();
    }
}

impl Store for SqliteStore {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Record>, StoreError>> {
        std::future::ready(Ok(self.memory.get(key))).boxed()
    }

    fn list<'a>(&'a self, range: &'a Range, at: At) -> BoxFuture<'a, Result<Listing, StoreError>> {
        std::future::ready(self.memory.list(range, at)).boxed()
    }

    fn keep(&self, listing: &Listing) {
        self.memory.keep(listing);
    }

    fn commit(&self, write: Write) -> BoxFuture<'_, Result<Record, CommitError>> {
        self.submit(write).boxed()
    }

    fn watch(&self, range: &Range, after: Revision) -> Result<Watch, StoreError> {
        self.memory.watch(range, after)
    }

    fn revision(&self) -> Revision {
        self.memory.revision()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        SqliteStore::close(self).boxed()
    }
}
