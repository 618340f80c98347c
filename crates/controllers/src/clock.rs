//! What time it is.

use jiff::Timestamp;

/// The time of day.
#[cfg(not(test))]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// The time of day; in a simulation that of its own clock, which jumps to whatever comes next.
#[cfg(test)]
pub fn now() -> Timestamp {
    simulated::now().unwrap_or_else(Timestamp::now)
}

/// The clock of a simulation.
#[cfg(test)]
pub mod simulated {
    use std::cell::Cell;

    use jiff::{SignedDuration, Timestamp};
    use tokio::time::Instant;

    thread_local! {
        static BEGAN: Cell<Option<(Timestamp, Instant)>> = const { Cell::new(None) };
    }

    /// Lets this thread have the time of the runtime that it runs, from `start` on.
    pub fn begin(start: Timestamp) {
        BEGAN.set(Some((start, Instant::now())));
    }

    /// This thread has the time of everybody again.
    pub fn end() {
        BEGAN.set(None);
    }

    /// The time, if it is simulated.
    pub fn now() -> Option<Timestamp> {
        let (start, began) = BEGAN.get()?;
        let passed = SignedDuration::try_from(began.elapsed()).ok()?;
        start.checked_add(passed).ok()
    }
}
