//! Moves the write-ahead log into the database file beside the writes, on a thread and connection of its own.
//!
//! A passive checkpoint holds up no writer. What was written meanwhile is left in the log, so the writer follows with a
//! short pass of its own: only when the whole log has been moved can it start again from its beginning.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use super::database;

/// The handle of the checkpoint thread, which ends when this is dropped.
pub(super) struct Checkpointer {
    /// `None` only while dropping.
    wanted: Option<SyncSender<()>>,
    passed: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    pub(super) fn start(path: &Path) -> std::io::Result<Checkpointer> {
        let (wanted, receiver) = sync_channel(1);
        let passed = Arc::new(AtomicBool::new(false));
        let path = path.to_owned();
        let thread = std::thread::Builder::new().name("store-checkpoint".to_owned()).spawn({
            let passed = passed.clone();
            move || run(&path, &receiver, &passed)
        })?;
        Ok(Checkpointer { wanted: Some(wanted), passed, thread: Some(thread) })
    }

    /// Asks for a pass. Answers whether the thread is there to do it.
    pub(super) fn request(&self) -> bool {
        match self.wanted.as_ref().map(|wanted| wanted.try_send(())) {
            Some(Ok(()) | Err(TrySendError::Full(()))) => true,
            Some(Err(TrySendError::Disconnected(()))) | None => false,
        }
    }

    /// Whether a pass has ended since this was last asked.
    pub(super) fn take_passed(&self) -> bool {
        self.passed.swap(false, Ordering::AcqRel)
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.wanted = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the checkpoint thread of the database has panicked");
        }
    }
}

fn run(path: &Path, wanted: &Receiver<()>, passed: &AtomicBool) {
    let mut connection = None;
    while wanted.recv().is_ok() {
        // Opened when first needed: a store that writes little never needs it.
        let result = match &connection {
            Some(connection) => database::checkpoint(connection),
            None => database::connect(path).and_then(|new| {
                let result = database::checkpoint(&new);
                connection = Some(new);
                result
            }),
        };
        if let Err(error) = result {
            tracing::warn!(path = %path.display(), %error, "cannot checkpoint the database");
        }
        passed.store(true, Ordering::Release);
    }
}
