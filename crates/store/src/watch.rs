//! Events and the watchers that follow them. All watchers of a collection read the same ring of shared events.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::sync::watch;

use crate::error::WatchError;
use crate::memory::Shared;
use crate::object::{Range, Record, Revision};

/// What an event did to its object.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The object is new.
    Created,
    /// The object has a new state.
    Updated,
    /// The object is gone; the record shows its last state with the deleting revision.
    Deleted,
}

/// One write, as all watchers see it.
pub struct Event {
    /// The object after the write.
    pub record: Record,
    /// What happened.
    pub kind: EventKind,
    /// The object before the write, for watchers whose selector may have matched only then.
    pub previous: Option<Record>,
    encoded: OnceLock<Bytes>,
    /// The bytes of all encoded lines of the store, which its window's limit takes into account.
    gauge: Arc<AtomicUsize>,
}

/// What an event without any value takes: itself, its place in the ring, and its record's key and facets.
const EVENT_OVERHEAD: usize = 400;

impl Event {
    pub(crate) fn new(record: Record, kind: EventKind, previous: Option<Record>, gauge: Arc<AtomicUsize>) -> Event {
        Event { record, kind, previous, encoded: OnceLock::new(), gauge }
    }

    /// The revision of the write.
    pub fn revision(&self) -> Revision {
        self.record.revision
    }

    /// The event's encoded form, made by the first watcher that asks and shared by all others. There is one slot: all
    /// callers must encode alike.
    pub fn encoded(&self, encode: impl FnOnce(&Event) -> Bytes) -> &Bytes {
        self.encoded.get_or_init(|| {
            let line = encode(self);
            self.gauge.fetch_add(line.len(), Ordering::Relaxed);
            line
        })
    }

    /// The bytes of the encoded form, if it has been made.
    pub(crate) fn encoded_len(&self) -> usize {
        self.encoded.get().map_or(0, Bytes::len)
    }

    /// The bytes that stay in memory only because this event is in the window. A value that is current is held by the
    /// state anyway; the value before it is what the event keeps alive.
    fn weight(&self) -> usize {
        let own = match self.kind {
            EventKind::Deleted => self.record.value.len(),
            EventKind::Created | EventKind::Updated => 0,
        };
        let previous = self.previous.as_ref().map_or(0, |record| record.value.len());
        EVENT_OVERHEAD + own + previous
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Some(line) = self.encoded.get() {
            self.gauge.fetch_sub(line.len(), Ordering::Relaxed);
        }
    }
}

impl std::fmt::Debug for Event {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Event").field("kind", &self.kind).field("record", &self.record).finish()
    }
}

/// The last events of one collection.
pub(crate) struct Window {
    /// A watch can start after this revision or any later one.
    pub(crate) floor: Revision,
    /// The number of events that have left the window, so that a watcher's place is a count that stays valid.
    left: u64,
    events: VecDeque<Arc<Event>>,
    bytes: usize,
}

impl Window {
    pub(crate) fn new(floor: Revision) -> Window {
        Window { floor, left: 0, events: VecDeque::new(), bytes: 0 }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds an event; answers how many bytes it weighs.
    pub(crate) fn push(&mut self, event: Arc<Event>) -> usize {
        let weight = event.weight();
        self.bytes += weight;
        self.events.push_back(event);
        weight
    }

    /// Removes the oldest event; answers it with its weight.
    pub(crate) fn pop(&mut self) -> Option<(Arc<Event>, usize)> {
        let event = self.events.pop_front()?;
        let weight = event.weight();
        self.bytes -= weight;
        self.left += 1;
        self.floor = event.revision();
        if self.events.capacity() > 64 && self.events.len() < self.events.capacity() / 4 {
            self.events.shrink_to(self.events.capacity() / 2);
        }
        Some((event, weight))
    }

    /// Forgets all events and leaves every watcher behind, also those that had seen all of them.
    pub(crate) fn restart(&mut self, floor: Revision) {
        self.left += self.events.len() as u64 + 1;
        self.events = VecDeque::new();
        self.bytes = 0;
        self.floor = floor;
    }

    /// The place of the first event after a revision that is not below the floor.
    fn place_after(&self, revision: Revision) -> u64 {
        self.left + self.events.partition_point(|event| event.revision() <= revision) as u64
    }

    /// The events from a place on; `None` when some of them have left.
    fn from(&self, place: u64) -> Option<impl Iterator<Item = &Arc<Event>>> {
        let skip =
            usize::try_from(place.checked_sub(self.left)?).expect("a place is at most one past the events in memory");
        Some(self.events.range(skip.min(self.events.len())..))
    }
}

/// A watcher's place in the events of a range. It holds no events of its own.
pub struct Watch {
    shared: Arc<Shared>,
    range: Range,
    /// The watcher has seen everything up to here.
    seen: Revision,
    place: u64,
    wake: watch::Receiver<()>,
}

impl Watch {
    pub(crate) fn new(
        shared: Arc<Shared>,
        range: Range,
        after: Revision,
        window: &Window,
        wake: watch::Receiver<()>,
    ) -> Watch {
        Watch { shared, range, seen: after, place: window.place_after(after), wake }
    }

    /// The next event; waits until there is one. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Arc<Event>, WatchError> {
        loop {
            self.wake.mark_unchanged();
            if let Some(event) = self.try_next()? {
                return Ok(event);
            }
            if self.wake.changed().await.is_err() {
                return Err(WatchError::Closed);
            }
        }
    }

    /// The next event, if there is one already.
    pub fn try_next(&mut self) -> Result<Option<Arc<Event>>, WatchError> {
        let state = self.shared.state.read();
        let Some(collection) = state.collections.get(&self.range.collection) else {
            return Err(WatchError::Closed);
        };
        let Some(events) = collection.window.from(self.place) else {
            return Err(WatchError::Lagged { after: self.seen });
        };
        for event in events {
            self.place += 1;
            self.seen = event.revision();
            if self.range.admits(&event.record.key) {
                return Ok(Some(event.clone()));
            }
        }
        if state.closed {
            return Err(WatchError::Closed);
        }
        self.seen = state.revision;
        Ok(None)
    }

    /// The revision up to which this watcher has been given everything: what a bookmark may say.
    pub fn progress(&self) -> Revision {
        let state = self.shared.state.read();
        let pending = state
            .collections
            .get(&self.range.collection)
            .and_then(|collection| collection.window.from(self.place))
            .is_none_or(|mut events| events.any(|event| self.range.admits(&event.record.key)));
        if pending { self.seen } else { state.revision }
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Watch").field("range", &self.range).field("seen", &self.seen.0).finish()
    }
}
