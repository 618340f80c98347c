//! The queue between the callers and the writer thread. Its length is bounded by the permits that requests hold.

use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use crate::error::CommitError;
use crate::intern::intern;
use crate::object::{Durability, Key, Op, Record, Revision, Write};
use crate::proposal::Proposal;

/// What is to be done to the key.
pub(super) enum Action {
    Create(Proposal),
    Update(Revision, Proposal),
    Delete(Revision, Proposal),
}

/// A write and the one who waits for it.
pub(super) struct Request {
    pub(super) key: Key,
    pub(super) action: Action,
    pub(super) durability: Durability,
    pub(super) reply: oneshot::Sender<Result<Record, CommitError>>,
    _permit: OwnedSemaphorePermit,
}

impl Request {
    pub(super) fn new(
        write: Write,
        reply: oneshot::Sender<Result<Record, CommitError>>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Request, CommitError> {
        let action = match write.op {
            Op::Create(draft) => Action::Create(Proposal::new(draft)?),
            Op::Update { expected, draft } => Action::Update(expected, Proposal::new(draft)?),
            Op::Delete { expected, last } => Action::Delete(expected, Proposal::new(last)?),
        };
        // The stored key outlives the request: its repeated parts share memory with those of all other keys.
        let key = Key {
            collection: intern(&write.key.collection),
            namespace: intern(&write.key.namespace),
            name: write.key.name,
        };
        Ok(Request { key, action, durability: write.durability, reply, _permit: permit })
    }

    /// What a write takes in the queue.
    pub(super) fn bytes(write: &Write) -> usize {
        match &write.op {
            Op::Create(draft) | Op::Update { draft, .. } | Op::Delete { last: draft, .. } => draft.bytes.len(),
        }
    }
}

/// Why the writer was woken.
pub(super) enum Wake {
    /// Requests, in the order of their arrival.
    Requests(Vec<Request>),
    /// The time has come.
    Due,
    /// There will be no more requests.
    Closed,
}

struct Waiting {
    requests: Vec<Request>,
    closed: bool,
}

pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Condvar,
    /// True when the writer has ended.
    finished: watch::Sender<bool>,
}

impl Queue {
    pub(super) fn new() -> Queue {
        Queue {
            waiting: Mutex::new(Waiting { requests: Vec::new(), closed: false }),
            filled: Condvar::new(),
            finished: watch::Sender::new(false),
        }
    }

    pub(super) fn push(&self, request: Request) -> Result<(), CommitError> {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(CommitError::Closed);
        }
        waiting.requests.push(request);
        self.filled.notify_one();
        Ok(())
    }

    /// Waits for requests and takes all of them.
    pub(super) fn wait(&self, due: Option<Instant>) -> Wake {
        let mut waiting = self.waiting.lock();
        loop {
            if !waiting.requests.is_empty() {
                return Wake::Requests(std::mem::take(&mut waiting.requests));
            }
            if waiting.closed {
                return Wake::Closed;
            }
            match due {
                None => self.filled.wait(&mut waiting),
                Some(due) if due <= Instant::now() => return Wake::Due,
                Some(due) => {
                    self.filled.wait_until(&mut waiting, due);
                }
            }
        }
    }

    /// Refuses further requests; those that wait are still done.
    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.filled.notify_one();
    }

    /// Called by the writer at its end, also when it panics: nobody may be left waiting.
    pub(super) fn finish(&self) {
        let mut waiting = self.waiting.lock();
        waiting.closed = true;
        waiting.requests.clear();
        self.finished.send_replace(true);
    }

    /// Waits for the writer's end.
    pub(super) async fn finished(&self) {
        let mut finished = self.finished.subscribe();
        if finished.wait_for(|finished| *finished).await.is_err() {
            unreachable!("the sender lives as long as the queue");
        }
    }
}
