//! Events go away some time after they were last written: `--event-ttl`.
//!
//! What was written when is told by revisions: every now and then the store's revision is noted together with the time,
//! and once a note is as old as events may become, all events of its revision or an older one go. So however many events
//! there are, a handful of notes is all that is remembered, and nothing is written but the removals. What was there
//! before the server started goes by the times that stand in it; wherever the clock has been set to, an event of the
//! future is a new one.
//!
//! Source: the lease that upstream's storage gives to events (`pkg/registry/core/event/storage`).

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::{StreamExt, stream};
use kobune_store::{
    At, CommitError, Draft, Durability, Op, Range, Record, Revision, Store, StoreError, Write, version_place,
};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Where events are stored.
const COLLECTION: &str = "core/events";

/// How many notes there are at most: an event lives this part of its time longer than it must.
const NOTES: u32 = 12;

/// The longest time between two notes.
const LONGEST_STEP: Duration = Duration::from_secs(300);

/// How many events are removed at once: enough to fill a batch of the store.
const AT_ONCE: usize = 256;

/// Which revisions are how old.
#[derive(Debug, Default)]
struct Ages {
    /// Times with the revision that the store had then, the oldest first.
    notes: VecDeque<(Instant, Revision)>,
}

impl Ages {
    fn note(&mut self, now: Instant, revision: Revision) {
        if self.notes.back().is_none_or(|(_, last)| *last < revision) {
            self.notes.push_back((now, revision));
        }
    }

    /// The revision up to which everything was written at least `ttl` ago, if that has become true of any since the last
    /// time.
    fn expired(&mut self, now: Instant, ttl: Duration) -> Option<Revision> {
        let mut found = None;
        while let Some((_, revision)) = self.notes.pop_front_if(|(noted, _)| now.duration_since(*noted) >= ttl) {
            found = Some(revision);
        }
        found
    }
}

/// How long ago an event was last written, by the times that stand in it.
fn age(event: &Value, now: SystemTime) -> Duration {
    let managed = event["metadata"]["managedFields"].as_array().into_iter().flatten().map(|entry| &entry["time"]);
    let times = [
        &event["metadata"]["creationTimestamp"],
        &event["eventTime"],
        &event["lastTimestamp"],
        &event["series"]["lastObservedTime"],
    ];
    let times = times.into_iter().chain(managed).filter_map(|time| time.as_str()?.parse::<jiff::Timestamp>().ok());
    // One without any time is as good as new.
    let last = times.max().map_or(now, SystemTime::from);
    now.duration_since(last).unwrap_or_default()
}

/// An event from before the start, and when its time is over.
type Old = (Instant, Record);

/// Removes events as their time comes, until the server stops.
pub(crate) async fn expire(store: Arc<dyn Store>, ttl: Duration, shutdown: CancellationToken) {
    let work = async {
        let mut ages = Ages::default();
        let mut old = before(&*store, ttl, &mut ages).await;
        let step = (ttl / NOTES).clamp(Duration::from_millis(100), LONGEST_STEP);
        loop {
            tokio::time::sleep(step).await;
            let now = Instant::now();
            let mut due = Vec::new();
            while let Some((_, record)) = old.pop_front_if(|(end, _)| *end <= now) {
                due.push(record);
            }
            if let Some(revision) = ages.expired(now, ttl) {
                match store.list(&Range::all(COLLECTION), At::Latest).await {
                    Ok(listing) => due.extend(listing.iter().filter(|event| event.revision <= revision).cloned()),
                    Err(error) => {
                        // The next note that comes of age covers these too.
                        tracing::warn!(error = &error as &dyn std::error::Error, "the events cannot be read");
                    }
                }
            }
            ages.note(now, store.revision());
            remove(&*store, due).await;
        }
    };
    tokio::select! {
        // What was not removed goes after the next start, by its times.
        () = shutdown.cancelled() => {}
        () = work => {}
    }
}

/// The events that are there at the start, the first to go first.
async fn before(store: &dyn Store, ttl: Duration, ages: &mut Ages) -> VecDeque<Old> {
    let start = Instant::now();
    let listing = match store.list(&Range::all(COLLECTION), At::Latest).await {
        Ok(listing) => listing,
        Err(StoreError::Closed) => return VecDeque::new(),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "the events cannot be read; they count as new");
            ages.note(start, store.revision());
            return VecDeque::new();
        }
    };
    let now = SystemTime::now();
    let mut old: Vec<Old> = Vec::with_capacity(listing.count());
    for record in listing.iter() {
        // What cannot be read is as good as new, and goes in its time.
        let age = serde_json::from_slice(&record.value).map(|event| age(&event, now)).unwrap_or_default();
        old.push((start + ttl.saturating_sub(age), record.clone()));
    }
    old.sort_by_key(|(end, _)| *end);
    old.into()
}

/// Removes events, except those that were written again meanwhile.
async fn remove(store: &dyn Store, due: Vec<Record>) {
    let removals = due.into_iter().filter_map(|record| {
        let place = version_place(&record.value)?;
        let mut bytes = record.value.to_vec();
        bytes.drain(place.clone());
        let last = Draft { bytes, splice: place.start, facets: (*record.facets).clone() };
        let op = Op::Delete { expected: record.revision, last };
        Some(store.commit(Write { key: record.key.clone(), op, durability: Durability::Relaxed }))
    });
    let mut outcomes = stream::iter(removals).buffer_unordered(AT_ONCE);
    while let Some(outcome) = outcomes.next().await {
        match outcome {
            // Another server or a client was faster.
            Ok(_) | Err(CommitError::Conflict { .. } | CommitError::Closed) => {}
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "an event whose time is over was not removed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn revisions_come_of_age() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let ttl = Duration::from_secs(60);
        let mut ages = Ages::default();
        for (second, revision) in [(0, 5), (10, 5), (20, 9), (30, 12)] {
            assert_eq!(ages.expired(at(second), ttl), None);
            ages.note(at(second), Revision(revision));
        }
        assert_eq!(ages.notes.len(), 3, "a revision is noted when it is first seen");
        assert_eq!(ages.expired(at(59), ttl), None);
        assert_eq!(ages.expired(at(60), ttl), Some(Revision(5)));
        assert_eq!(ages.expired(at(61), ttl), None);
        assert_eq!(ages.expired(at(95), ttl), Some(Revision(12)), "all that are due at once");
        assert!(ages.notes.is_empty());
    }

    #[test]
    fn ages_by_the_newest_time() {
        let now: jiff::Timestamp = "2026-01-01T01:00:00Z".parse().expect("a time");
        let check = |event: Value, minutes: u64| {
            assert_eq!(age(&event, now.into()), Duration::from_secs(60 * minutes), "{event}");
        };
        check(json!({"metadata": {"creationTimestamp": "2026-01-01T00:10:00Z"}}), 50);
        check(
            json!({"metadata": {"creationTimestamp": "2026-01-01T00:10:00Z"}, "lastTimestamp": "2026-01-01T00:30:00Z"}),
            30,
        );
        check(
            json!({"eventTime": "2026-01-01T00:20:00.5Z", "series": {"lastObservedTime": "2026-01-01T00:40:00.000000Z"}}),
            20,
        );
        let managed = json!([{"time": "2026-01-01T00:59:00Z"}, {"manager": "m"}]);
        check(json!({"metadata": {"creationTimestamp": "2026-01-01T00:10:00Z", "managedFields": managed}}), 1);
        check(json!({"metadata": {"creationTimestamp": "2040-01-01T00:00:00Z"}}), 0);
        check(json!({}), 0);
    }
}
