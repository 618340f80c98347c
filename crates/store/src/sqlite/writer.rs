//! The one thread that writes: group commit, relaxed writes, revisions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::CommitError;
use crate::memory::Memory;
use crate::object::{Durability, Key, Record, Revision};
use crate::watch::{Event, EventKind};

use super::Config;
use super::checkpoint::Checkpointer;
use super::database::{self, Database};
use super::decide::{Decision, decide};
use super::lock::Lock;
use super::queue::{Queue, Request, Wake};

/// How many revisions are reserved on disk at a time. After an unclean stop at most so many numbers are skipped.
const RESERVE: u64 = 1 << 14;

/// The cause of a failed transaction, shared by all the writes of a batch.
type Failed = Arc<rusqlite::Error>;

/// The newest state of keys, `None` for deleted ones, that is not on disk yet.
type Pending = BTreeMap<Key, Option<Record>>;

/// Relaxed writes that have been answered and wait for the disk.
#[derive(Default)]
struct Relaxed {
    pending: Pending,
    bytes: usize,
    due: Option<Instant>,
}

/// The decisions of a batch, before any of it is on disk or visible.
#[derive(Default)]
struct Batch {
    pending: Pending,
    events: Vec<Event>,
    /// What each request is answered once the batch is done.
    answers: Vec<Result<Record, CommitError>>,
    synced: bool,
    /// A relaxed create or delete is among them.
    relaxed_news: bool,
    last: u64,
}

pub(super) struct Writer {
    queue: Arc<Queue>,
    memory: Memory,
    database: Database,
    checkpoints: Checkpointer,
    /// The last revision handed out.
    last: u64,
    /// The last revision that may be handed out.
    reserved: u64,
    relaxed: Relaxed,
    relaxed_delay: Duration,
    renewal_delay: Duration,
    relaxed_bytes: usize,
    /// An estimate of the log's size, and the size at which a checkpoint is wanted.
    logged: u64,
    checkpoint_bytes: u64,
    checkpointing: bool,
    /// Whether the last write to disk failed; failures are logged when they begin and when they end.
    failing: bool,
    _lock: Lock,
}

/// Tells everyone who waits that the writer has ended, also by a panic.
struct Ended(Arc<Queue>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.finish();
    }
}

impl Writer {
    pub(super) fn new(
        queue: Arc<Queue>,
        memory: Memory,
        database: Database,
        checkpoints: Checkpointer,
        lock: Lock,
        config: &Config,
        reserved: Revision,
    ) -> Writer {
        Writer {
            queue,
            last: memory.revision().0,
            memory,
            database,
            checkpoints,
            reserved: reserved.0,
            relaxed: Relaxed::default(),
            relaxed_delay: config.relaxed_delay,
            renewal_delay: config.renewal_delay,
            relaxed_bytes: config.relaxed_bytes,
            logged: 0,
            checkpoint_bytes: config.checkpoint_bytes,
            checkpointing: false,
            failing: false,
            _lock: lock,
        }
    }

    pub(super) fn run(mut self) {
        let ended = Ended(self.queue.clone());
        let queue = self.queue.clone();
        loop {
            match queue.wait(self.relaxed.due) {
                Wake::Requests(requests) => self.commit(requests),
                Wake::Due => self.flush(),
                Wake::Closed => break,
            }
            self.checkpoint();
        }
        self.stop();
        // Whoever waits for the end may open the file again: the lock is given back first.
        drop(self);
        drop(ended);
    }

    /// Does a batch: all of it in one transaction, or, if that fails, request by request so that one that does not fit
    /// takes no other with it.
    fn commit(&mut self, requests: Vec<Request>) {
        let batch = self.decide(&requests);
        match self.put(batch) {
            Ok(answers) => {
                for (request, answer) in requests.into_iter().zip(answers) {
                    reply(request, answer);
                }
            }
            Err(error) if requests.len() == 1 => {
                for request in requests {
                    reply(request, Err(error_of(error.clone())));
                }
            }
            Err(_) => {
                for request in requests {
                    let batch = self.decide(std::slice::from_ref(&request));
                    let answer = match self.put(batch) {
                        Ok(mut answers) => answers.pop().expect("one request, one answer"),
                        Err(error) => Err(error_of(error)),
                    };
                    reply(request, answer);
                }
            }
        }
    }

    /// Decides requests in their order, each on top of those before it.
    fn decide(&self, requests: &[Request]) -> Batch {
        let mut batch = Batch { last: self.last, ..Batch::default() };
        for request in requests {
            let current = match batch.pending.get(&request.key) {
                Some(pending) => pending.clone(),
                None => self.memory.get(&request.key),
            };
            let answer = match decide(request, current, Revision(batch.last + 1)) {
                Decision::Refuse(error) => Err(error),
                Decision::Unchanged(record) => Ok(record),
                Decision::Change { .. } if self.too_much_waits(request) => Err(CommitError::Full { source: None }),
                Decision::Change { record, kind, previous } => {
                    batch.last += 1;
                    match request.durability {
                        Durability::Synced => batch.synced = true,
                        Durability::Relaxed => batch.relaxed_news |= kind != EventKind::Updated,
                    }
                    let state = (kind != EventKind::Deleted).then(|| record.clone());
                    batch.pending.insert(record.key.clone(), state);
                    batch.events.push(self.memory.event(record.clone(), kind, previous));
                    Ok(record)
                }
            };
            batch.answers.push(answer);
        }
        batch
    }

    fn too_much_waits(&self, request: &Request) -> bool {
        request.durability == Durability::Relaxed && self.relaxed.bytes > self.relaxed_bytes
    }

    /// Puts a batch on disk, if it must be there, and makes it visible.
    fn put(&mut self, batch: Batch) -> Result<Vec<Result<Record, CommitError>>, Failed> {
        // Whatever happens, these numbers are used up: a transaction that failed may still have reached the log.
        let first = self.last + 1;
        self.last = batch.last;
        if batch.last >= first {
            if batch.synced || batch.last > self.reserved {
                self.write(&batch.pending)?;
            } else {
                self.defer(&batch);
            }
            self.memory.publish(batch.events);
        }
        Ok(batch.answers)
    }

    /// Writes a batch together with the relaxed writes that wait. If those do not fit, the batch is tried alone.
    fn write(&mut self, pending: &Pending) -> Result<(), Failed> {
        let reserve = (self.last > self.reserved).then(|| Revision(self.last + RESERVE));
        let waiting = self.relaxed.pending.iter().filter(|(key, _)| !pending.contains_key(*key));
        let mut result = self.database.write(waiting.chain(pending), reserve);
        match &result {
            Ok(()) => {
                let relaxed = std::mem::take(&mut self.relaxed);
                self.note_logged(&relaxed.pending);
                self.note_logged(pending);
                self.note_success();
            }
            Err(error) => {
                self.note_failure(error);
                if !pending.is_empty() && !self.relaxed.pending.is_empty() {
                    result = self.database.write(pending, reserve);
                    if result.is_ok() {
                        for key in pending.keys() {
                            self.relaxed.remove(key);
                        }
                        self.note_logged(pending);
                    }
                }
            }
        }
        result.map_err(Arc::new)?;
        if let Some(reserve) = reserve {
            self.reserved = reserve.0;
        }
        Ok(())
    }

    /// Keeps relaxed writes for later.
    fn defer(&mut self, batch: &Batch) {
        let delay = if batch.relaxed_news { self.relaxed_delay } else { self.renewal_delay };
        let due = Instant::now() + delay;
        self.relaxed.due = Some(self.relaxed.due.map_or(due, |earlier| earlier.min(due)));
        for (key, state) in &batch.pending {
            self.relaxed.insert(key.clone(), state.clone());
        }
    }

    /// Puts the relaxed writes on disk.
    fn flush(&mut self) {
        if self.relaxed.pending.is_empty() {
            self.relaxed.due = None;
            return;
        }
        if self.write(&Pending::new()).is_err() {
            self.relaxed.due = Some(Instant::now() + self.relaxed_delay);
        }
    }

    fn note_logged(&mut self, pending: &Pending) {
        self.logged += pending.values().map(|record| database::logged_bytes(record.as_ref())).sum::<u64>();
    }

    fn note_failure(&mut self, error: &rusqlite::Error) {
        if !self.failing {
            self.failing = true;
            tracing::error!(%error, "cannot write the database; reads go on");
        }
    }

    fn note_success(&mut self) {
        if self.failing {
            self.failing = false;
            tracing::info!("the database can be written again");
        }
    }

    /// Keeps the log short: a background pass for the bulk, then a short pass here so that the log can start again.
    fn checkpoint(&mut self) {
        if self.checkpointing {
            if self.checkpoints.take_passed() {
                self.checkpointing = false;
                match self.database.checkpoint() {
                    // A reader in another process may pin the log; passes without end would not help.
                    Ok(left) => self.logged = left.min(self.checkpoint_bytes / 2),
                    Err(error) => {
                        self.logged = 0;
                        tracing::warn!(%error, "cannot checkpoint the database");
                    }
                }
            }
        } else if self.logged >= self.checkpoint_bytes {
            self.checkpointing = self.checkpoints.request();
        }
    }

    /// Leaves the file complete and the revisions without a gap.
    fn stop(&mut self) {
        let reserve = (self.last != self.reserved).then_some(Revision(self.last));
        let result = if self.relaxed.pending.is_empty() && reserve.is_none() {
            Ok(())
        } else {
            self.database.write(&self.relaxed.pending, reserve)
        };
        if let Err(error) = result {
            tracing::error!(%error, "cannot put the last relaxed writes on disk");
        }
        self.memory.close();
    }
}

impl Relaxed {
    fn insert(&mut self, key: Key, state: Option<Record>) {
        self.bytes += weight(state.as_ref());
        if let Some(old) = self.pending.insert(key, state) {
            self.bytes -= weight(old.as_ref());
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(old) = self.pending.remove(key) {
            self.bytes -= weight(old.as_ref());
        }
    }
}

/// What a waiting write takes, including what a map entry does.
fn weight(state: Option<&Record>) -> usize {
    200 + state.map_or(0, |record| record.value.len())
}

fn error_of(source: Failed) -> CommitError {
    if database::is_full(&source) { CommitError::Full { source: Some(source) } } else { CommitError::Io { source } }
}

fn reply(request: Request, answer: Result<Record, CommitError>) {
    // A caller that has gone away does not need its answer; the write stands.
    drop(request.reply.send(answer));
}
