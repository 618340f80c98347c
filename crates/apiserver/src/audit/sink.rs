//! Where events go: a bounded queue before a thread that writes lines to a file, so that a slow disk holds up no request.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::Mutex;

use super::log_file::LogFile;

/// The bytes of events that may wait; further ones are dropped and counted.
const QUEUE_BYTES: usize = 8 << 20;

/// How many bytes wait, and what became of the events.
#[derive(Debug, Default)]
struct Counts {
    waiting: AtomicUsize,
    dropped: AtomicU64,
}

/// The way to the log.
pub(crate) struct Sink {
    queue: Mutex<Option<mpsc::Sender<Bytes>>>,
    counts: std::sync::Arc<Counts>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Sink {
    /// Starts the writer of a log.
    pub(super) fn start(mut log: LogFile, path: &std::path::Path) -> Result<Sink, super::AuditError> {
        let (queue, lines) = mpsc::channel::<Bytes>();
        let counts = std::sync::Arc::<Counts>::default();
        let own = counts.clone();
        let run = move || {
            let mut failing = false;
            while let Ok(line) = lines.recv() {
                own.waiting.fetch_sub(line.len(), Ordering::Relaxed);
                let mut result = log.write(&line);
                // What else waits is written before the file is flushed once.
                while let Ok(line) = lines.try_recv() {
                    own.waiting.fetch_sub(line.len(), Ordering::Relaxed);
                    result = result.and_then(|()| log.write(&line));
                }
                match result.and_then(|()| log.flush()) {
                    Ok(()) => failing = false,
                    Err(error) => {
                        own.dropped.fetch_add(1, Ordering::Relaxed);
                        if !std::mem::replace(&mut failing, true) {
                            tracing::error!(%error, "cannot write the audit log");
                        }
                    }
                }
            }
        };
        let writer = std::thread::Builder::new()
            .name("audit-writer".to_owned())
            .spawn(run)
            .map_err(|source| super::AuditError::Log { path: PathBuf::from(path), source })?;
        Ok(Sink { queue: Mutex::new(Some(queue)), counts, writer: Mutex::new(Some(writer)) })
    }

    /// Puts an event into the queue.
    pub(super) fn send(&self, line: Bytes) {
        let length = line.len();
        if self.counts.waiting.fetch_add(length, Ordering::Relaxed) > QUEUE_BYTES {
            self.counts.waiting.fetch_sub(length, Ordering::Relaxed);
            if self.counts.dropped.fetch_add(1, Ordering::Relaxed) == 0 {
                tracing::error!("the audit log cannot keep up: events are dropped");
            }
            return;
        }
        let sent = self.queue.lock().as_ref().is_some_and(|queue| queue.send(line).is_ok());
        if !sent {
            self.counts.waiting.fetch_sub(length, Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many events were lost.
    pub(super) fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }

    /// Writes what waits and ends.
    pub(super) fn close(&self) {
        drop(self.queue.lock().take());
        let writer = self.writer.lock().take();
        if writer.is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the writer of the audit log has panicked");
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.close();
    }
}
