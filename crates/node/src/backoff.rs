//! Growing delays before something that failed is tried again.

use std::collections::HashMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// The first delay, upstream's.
const FIRST: Duration = Duration::from_secs(10);
/// The longest delay, upstream's.
const LONGEST: Duration = Duration::from_secs(300);
/// After this long without a failure a key starts from the first delay again.
const FORGET: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug)]
struct Entry {
    delay: Duration,
    updated: Timestamp,
}

/// Delays by key. Pure: the time is an argument.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    entries: HashMap<String, Entry>,
}

/// The time from one moment to a later one; nothing when the clock went back.
pub fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    to.duration_since(from).max(SignedDuration::ZERO).unsigned_abs()
}

impl Backoff {
    /// Whether `key` still has to wait after an end at `since`; with the whole delay and what is left of it.
    pub fn waiting(&self, key: &str, since: Timestamp, now: Timestamp) -> Option<(Duration, Duration)> {
        let entry = self.entries.get(key)?;
        if elapsed(entry.updated, now) > FORGET {
            return None;
        }
        let left = entry.delay.checked_sub(elapsed(since, now))?;
        (!left.is_zero()).then_some((entry.delay, left))
    }

    /// Notes that `key` is tried now after an end at `since`: the next delay is longer.
    pub fn next(&mut self, key: &str, since: Timestamp, now: Timestamp) {
        let entry = self.entries.get(key).copied();
        let delay = match entry {
            Some(entry) if elapsed(entry.updated, since) <= FORGET => (entry.delay * 2).min(LONGEST),
            _ => FIRST,
        };
        self.entries.insert(key.to_owned(), Entry { delay, updated: now });
    }

    /// Takes up the delays of a key that was tried `attempts` times before this program ran, the last time at `updated`.
    pub fn resume(&mut self, key: &str, attempts: u32, updated: Timestamp) {
        let doubled = FIRST.saturating_mul(1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX));
        self.entries.insert(key.to_owned(), Entry { delay: doubled.min(LONGEST), updated });
    }

    /// Forgets a key.
    pub fn reset(&mut self, key: &str) {
        self.entries.remove(key);
    }
}

/// A duration as Go prints it, rounded to milliseconds: `10s`, `1m20s`, `5m0s`, `1.234s`, `12ms`.
pub fn go_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    if milliseconds == 0 {
        return "0s".to_owned();
    }
    if milliseconds < 1000 {
        return format!("{milliseconds}ms");
    }
    let (seconds, rest) = (milliseconds / 1000, milliseconds % 1000);
    let fraction = if rest == 0 { String::new() } else { format!(".{rest:03}").trim_end_matches('0').to_owned() };
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}{fraction}s"),
        (0, minutes) => format!("{minutes}m{seconds}{fraction}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn delays_grow_and_are_forgotten() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.waiting("c", at(0), at(0)), None, "the first end is followed at once");
        backoff.next("c", at(0), at(0));
        assert_eq!(backoff.waiting("c", at(1), at(1)), Some((Duration::from_secs(10), Duration::from_secs(10))));
        assert_eq!(backoff.waiting("c", at(1), at(8)), Some((Duration::from_secs(10), Duration::from_secs(3))));
        assert_eq!(backoff.waiting("c", at(1), at(11)), None);
        let mut now = 11;
        for expected in [20, 40, 80, 160, 300, 300] {
            backoff.next("c", at(now), at(now));
            assert_eq!(
                backoff.waiting("c", at(now), at(now)).map(|(delay, _)| delay),
                Some(Duration::from_secs(expected))
            );
            now += 300;
        }
        assert_eq!(backoff.waiting("c", at(now + 601), at(now + 601)), None);
        backoff.next("c", at(now + 1000), at(now + 1000));
        assert_eq!(backoff.waiting("c", at(now + 1000), at(now + 1000)).map(|(delay, _)| delay), Some(FIRST));
    }

    #[test]
    fn delays_go_on_after_a_restart() {
        let check = |attempts: u32, expected: u64| {
            let mut backoff = Backoff::default();
            backoff.resume("c", attempts, at(100));
            assert_eq!(
                backoff.waiting("c", at(100), at(100)).map(|(delay, _)| delay.as_secs()),
                Some(expected),
                "{attempts}"
            );
        };
        check(1, 10);
        check(2, 20);
        check(5, 160);
        check(6, 300);
        check(100, 300);
    }

    #[test]
    fn a_clock_that_steps_back_only_waits_the_delay() {
        let mut backoff = Backoff::default();
        backoff.next("c", at(1000), at(1000));
        assert_eq!(backoff.waiting("c", at(1000), at(5)), Some((FIRST, FIRST)));
    }

    #[test]
    fn durations_as_go_prints_them() {
        let check =
            |milliseconds: u64, expected: &str| assert_eq!(go_duration(Duration::from_millis(milliseconds)), expected);
        check(0, "0s");
        check(12, "12ms");
        check(1500, "1.5s");
        check(10_000, "10s");
        check(80_000, "1m20s");
        check(300_000, "5m0s");
        check(3_600_000, "1h0m0s");
    }
}
