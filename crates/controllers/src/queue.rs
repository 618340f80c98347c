//! Work queues: which objects a controller has to look at.
//!
//! A key waits at most once, is never worked on twice at a time, and comes back with growing delays while its passes fail.
//!
//! ```text
//!   add ──> ready ──> running ──ok──> (nothing | revisit after a while)
//!             ^          │ └─ added meanwhile: ready again
//!             └─ delayed ┴─ failed
//! ```

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::object::ObjectKey;

/// First delay after a failed pass; it doubles.
const FIRST_RETRY: Duration = Duration::from_millis(20);
/// Longest delay after a failed pass.
const LONGEST_RETRY: Duration = Duration::from_secs(120);

/// What made a pass fail.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// A request was refused or got no answer.
    #[error("{doing} failed")]
    Request {
        /// What was attempted.
        doing: &'static str,
        /// Why it did not work.
        source: kube::Error,
    },
    /// Something in the object cannot be worked with.
    #[error("{what}")]
    Object {
        /// What is wrong with it.
        what: String,
    },
}

/// Names what was attempted when a request fails.
pub trait Doing<T> {
    /// Adds what was attempted.
    fn doing(self, doing: &'static str) -> Result<T, PassError>;
}

impl<T> Doing<T> for Result<T, kube::Error> {
    fn doing(self, doing: &'static str) -> Result<T, PassError> {
        self.map_err(|source| PassError::Request { doing, source })
    }
}

/// Whether the API server said that the object is not there.
pub fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_not_found())
}

/// Whether the API server said that the object exists already.
pub fn is_already_exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_already_exists())
}

/// Whether the API server said that the object has changed in between.
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_conflict())
}

/// When to look again although nothing has changed; `None` for never.
pub type Revisit = Option<Duration>;

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<ObjectKey>,
    waiting: HashSet<ObjectKey>,
    running: HashSet<ObjectKey>,
    again: HashSet<ObjectKey>,
    delayed: BTreeSet<(Instant, ObjectKey)>,
    delay_of: HashMap<ObjectKey, Instant>,
    failures: HashMap<ObjectKey, u32>,
    /// Nobody works on it: keys would only gather.
    closed: bool,
}

impl State {
    fn add(&mut self, key: ObjectKey) {
        if self.closed {
            return;
        }
        if self.running.contains(&key) {
            self.again.insert(key);
        } else if self.waiting.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn delay(&mut self, key: ObjectKey, until: Instant) {
        self.undelay(&key);
        self.delayed.insert((until, key.clone()));
        self.delay_of.insert(key, until);
    }

    fn undelay(&mut self, key: &ObjectKey) {
        if let Some(until) = self.delay_of.remove(key) {
            self.delayed.remove(&(until, key.clone()));
        }
    }

    fn next(&mut self, now: Instant) -> Option<ObjectKey> {
        while self.delayed.first().is_some_and(|(until, _)| *until <= now) {
            let Some((_, key)) = self.delayed.pop_first() else { break };
            self.delay_of.remove(&key);
            self.add(key);
        }
        let key = self.ready.pop_front()?;
        self.waiting.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }

    fn done(&mut self, key: ObjectKey, result: Result<Revisit, ()>, now: Instant) {
        self.running.remove(&key);
        let revisit = match result {
            Ok(revisit) => {
                self.failures.remove(&key);
                revisit
            }
            Err(()) => {
                let failures = self.failures.entry(key.clone()).or_default();
                *failures += 1;
                Some((FIRST_RETRY * (1 << (*failures - 1).min(16))).min(LONGEST_RETRY))
            }
        };
        match revisit {
            Some(after) => self.delay(key.clone(), now + after),
            None => self.undelay(&key),
        }
        if self.again.remove(&key) {
            self.add(key);
        }
    }
}

/// A queue of keys; shared by the handlers that fill it and the worker that empties it.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

impl Queue {
    /// Has the object looked at.
    pub fn add(&self, key: ObjectKey) {
        self.state.lock().add(key);
        self.changed.notify_one();
    }

    /// Nobody will work on it: whatever waits, and whatever comes, is forgotten.
    pub fn close(&self) {
        *self.state.lock() = State { closed: true, ..State::default() };
    }
}

/// Runs `pass` over the keys of `queue`, over so many at a time as there are `workers`, until `token` is cancelled.
pub async fn work<P, F>(controller: &'static str, queue: Arc<Queue>, token: CancellationToken, workers: usize, pass: P)
where
    P: Fn(ObjectKey) -> F,
    F: Future<Output = Result<Revisit, PassError>> + Send + 'static,
{
    let mut passes: JoinSet<Result<Revisit, PassError>> = JoinSet::new();
    let mut keys: HashMap<tokio::task::Id, ObjectKey> = HashMap::new();
    loop {
        let mut next_delay = None;
        while passes.len() < workers {
            let mut state = queue.state.lock();
            let Some(key) = state.next(Instant::now()) else {
                next_delay = state.delayed.first().map(|(until, _)| *until);
                break;
            };
            drop(state);
            let handle = passes.spawn(pass(key.clone()));
            keys.insert(handle.id(), key);
        }
        // All arms are safe to drop: a notification stays stored, a finished pass stays in the set, a timer is made anew.
        tokio::select! {
            biased;
            () = token.cancelled() => return,
            () = queue.changed.notified(), if passes.len() < workers => {}
            () = tokio::time::sleep_until(next_delay.unwrap_or_else(Instant::now)), if next_delay.is_some() => {}
            Some(finished) = passes.join_next_with_id() => {
                let (id, result) = match finished {
                    Ok((id, result)) => (id, Ok(result)),
                    Err(panicked) => (panicked.id(), Err(panicked)),
                };
                let Some(key) = keys.remove(&id) else { continue };
                let result = match result {
                    Ok(Ok(revisit)) => Ok(revisit),
                    Ok(Err(error)) => {
                        report(controller, &key, &error);
                        Err(())
                    }
                    Err(panicked) => {
                        tracing::error!(controller, %key, error = &panicked as &dyn std::error::Error, "a pass panicked");
                        Err(())
                    }
                };
                queue.state.lock().done(key, result, Instant::now());
            }
        }
    }
}

fn report(controller: &str, key: &ObjectKey, error: &PassError) {
    let error_value = error as &dyn std::error::Error;
    match error {
        // Somebody else wrote in between; the retry sees it.
        PassError::Request { source, .. } if is_conflict(source) || is_not_found(source) => {
            tracing::debug!(controller, %key, error = error_value, "a pass is tried again");
        }
        _ => tracing::warn!(controller, %key, error = error_value, "a pass failed and is tried again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_wait_once_and_run_once() {
        let (mut state, now) = (State::default(), Instant::now());
        let key = ObjectKey::new("default", "a");
        state.add(key.clone());
        state.add(key.clone());
        assert_eq!(state.next(now), Some(key.clone()));
        assert_eq!(state.next(now), None);
        state.add(key.clone());
        assert_eq!(state.next(now), None, "it runs already");
        state.done(key.clone(), Ok(None), now);
        assert_eq!(state.next(now), Some(key.clone()), "it was added while it ran");
        state.done(key.clone(), Err(()), now);
        assert_eq!(state.next(now), None);
        assert_eq!(state.next(now + FIRST_RETRY), Some(key.clone()));
        state.done(key.clone(), Err(()), now);
        assert_eq!(state.next(now + FIRST_RETRY), None, "the delay has doubled");
        assert_eq!(state.next(now + FIRST_RETRY * 2), Some(key.clone()));
        state.done(key.clone(), Ok(Some(Duration::from_secs(5))), now);
        state.add(key.clone());
        assert_eq!(state.next(now), Some(key.clone()));
        state.done(key, Ok(None), now);
        assert_eq!(state.next(now + Duration::from_secs(6)), None, "the last pass asked for no revisit");
    }

    #[test]
    fn a_closed_queue_keeps_nothing() {
        let queue = Queue::default();
        queue.add(ObjectKey::new("default", "a"));
        queue.close();
        queue.add(ObjectKey::new("default", "b"));
        assert_eq!(queue.state.lock().next(Instant::now()), None);
    }
}
