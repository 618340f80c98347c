//! How soon after a piece the next one is put together.
//!
//! A watcher is told of an event at once. Under a flood that means a wake-up of its task, of its connection's task and of its
//! client, and a system call, for every one or two events. So a watcher that has been sent many pieces one right after the
//! other rests a little before the next, in which the events of that time then go out together.

use std::time::Duration;

use tokio::time::Instant;

/// How long a rest lasts. It delays events of a flood by so much at most.
const REST: Duration = Duration::from_millis(4);

/// Pieces that follow within this are close.
const CLOSE: Duration = Duration::from_millis(2);

/// After so many close pieces in a row it is a flood. What a controller does for one object takes fewer.
const FLOOD: u32 = 16;

/// The pace of one watcher.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<Instant>,
    close: u32,
}

impl Pace {
    /// Notes that a piece with so many events is sent.
    pub(super) fn sent(&mut self, now: Instant, events: usize) {
        let goes_on = if self.close >= FLOOD {
            // It goes on as long as resting brings events together.
            events > 1
        } else {
            self.last.is_some_and(|last| now.duration_since(last) <= CLOSE)
        };
        self.close = if goes_on { (self.close + 1).min(FLOOD) } else { 0 };
        self.last = Some(now);
    }

    /// Until when to rest before the next piece.
    pub(super) fn rest(&self) -> Option<Instant> {
        self.last.filter(|_| self.close >= FLOOD).map(|last| last + REST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_in_a_flood_only() {
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let mut pace = Pace::default();
        for millis in 0..=16 {
            assert_eq!(pace.rest(), None, "after {millis} pieces");
            pace.sent(at(millis), 1);
        }
        assert_eq!(pace.rest(), Some(at(20)));
        // The flood goes on, whatever the time between its pieces.
        pace.sent(at(21), 9);
        assert_eq!(pace.rest(), Some(at(25)));
        // A rest that has brought but one event was the last.
        pace.sent(at(26), 1);
        assert_eq!(pace.rest(), None);
        for millis in (30..90).step_by(3) {
            pace.sent(at(millis), 5);
            assert_eq!(pace.rest(), None, "pieces that are not close");
        }
    }
}
