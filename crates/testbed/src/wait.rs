//! Waiting for conditions that say what is missing.

use std::time::{Duration, Instant};

/// A point in time until which something must have happened.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    start: Instant,
    limit: Duration,
}

impl Deadline {
    /// The deadline `limit` from now.
    pub fn after(limit: Duration) -> Self {
        Self { start: Instant::now(), limit }
    }

    /// Whether the time is over.
    pub fn is_over(&self) -> bool {
        self.start.elapsed() > self.limit
    }
}

/// Asks `condition` again and again until it gives a value; after `limit` the test fails with what was missing last.
#[track_caller]
pub fn eventually<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Deadline::after(limit);
    loop {
        match condition() {
            Ok(value) => return value,
            Err(missing) if deadline.is_over() => panic!("{what}: not within {limit:?}: {missing}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
