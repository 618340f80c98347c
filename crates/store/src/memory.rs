//! The current state and the watch window, in memory. Every store implementation reads from here and publishes its
//! durable writes to it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::error::StoreError;
use crate::listing::{Listing, Objects, Place, Placed};
use crate::object::{Key, Range, Record, Revision};
use crate::store::At;
use crate::watch::{Event, EventKind, Watch, Window};

/// What the memory may hold beyond the current state.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The bytes that past values, deleted values and encoded lines in the watch windows of all collections may take.
    /// The collection that holds most gives way first, so a busy one cannot push out a quiet one's events.
    pub window_bytes: usize,
    /// How many listings are kept for following pages.
    pub kept_listings: usize,
    /// How long a listing is kept after its last use.
    pub kept_for: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            window_bytes: 24 << 20,
            kept_listings: 64,
            // As upstream's etcd compaction interval, which is what clients expect of a continue token.
            kept_for: Duration::from_secs(300),
        }
    }
}

/// One collection: its objects, its last events, and the bell of its watchers.
pub(crate) struct Collection {
    objects: Objects,
    /// The last write to this collection, as far as this process knows.
    changed: Revision,
    pub(crate) window: Window,
    wake: Arc<watch::Sender<()>>,
}

impl Collection {
    fn new(start: Revision) -> Collection {
        Collection {
            objects: Objects::new(),
            changed: start,
            window: Window::new(start),
            wake: Arc::new(watch::Sender::new(())),
        }
    }
}

/// Everything behind the one lock, so that a revision and the objects read together belong together.
pub(crate) struct State {
    pub(crate) revision: Revision,
    start: Revision,
    pub(crate) collections: HashMap<Arc<str>, Collection>,
    window_bytes: usize,
    pub(crate) closed: bool,
}

struct Kept {
    used: Instant,
    listing: Listing,
}

pub(crate) struct Shared {
    pub(crate) state: RwLock<State>,
    limits: Limits,
    /// The least recently used first.
    kept: Mutex<VecDeque<Kept>>,
    encoded: Arc<AtomicUsize>,
}

/// The current state, the watch window and the kept listings. A clone is another handle to the same memory.
#[derive(Clone)]
pub struct Memory {
    shared: Arc<Shared>,
}

impl Memory {
    /// A memory that starts with these objects at that revision, which must be at least that of every object. Nothing is
    /// known of what happened before, so watches and lists of older revisions are refused as expired.
    pub fn new(limits: Limits, start: Revision, records: impl IntoIterator<Item = Record>) -> Memory {
        let mut collections: HashMap<Arc<str>, Collection> = HashMap::new();
        for record in records {
            collections
                .entry(record.key.collection.clone())
                .or_insert_with(|| Collection::new(start))
                .objects
                .insert(Placed::new(record));
        }
        Memory {
            shared: Arc::new(Shared {
                state: RwLock::new(State { revision: start, start, collections, window_bytes: 0, closed: false }),
                limits,
                kept: Mutex::new(VecDeque::new()),
                encoded: Arc::new(AtomicUsize::new(0)),
            }),
        }
    }

    /// The object at a key.
    pub fn get(&self, key: &Key) -> Option<Record> {
        let state = self.shared.state.read();
        let place = Place { namespace: &key.namespace, name: &key.name };
        let placed = state.collections.get(&key.collection)?.objects.get(&place)?;
        Some(placed.0.clone())
    }

    /// The newest revision.
    pub fn revision(&self) -> Revision {
        self.shared.state.read().revision
    }

    /// A snapshot of a range.
    pub fn list(&self, range: &Range, at: At) -> Result<Listing, StoreError> {
        let (newest, oldest) = {
            let state = self.shared.state.read();
            if state.closed {
                return Err(StoreError::Closed);
            }
            let collection = state.collections.get(&range.collection);
            let changed = collection.map_or(state.start, |collection| collection.changed);
            let revision = match at {
                At::Latest => Some(state.revision),
                At::Exact(requested) if requested > state.revision => {
                    return Err(StoreError::Future { requested, current: state.revision });
                }
                // Nothing in the collection has changed since, so this is what it was then.
                At::Exact(requested) if requested >= changed => Some(requested),
                At::Exact(_) => None,
            };
            let listing = revision.map(|revision| Listing {
                range: range.clone(),
                revision,
                objects: collection.map(|collection| collection.objects.clone()).unwrap_or_default(),
            });
            (listing, changed)
        };
        match (newest, at) {
            (Some(listing), _) => Ok(listing),
            (None, At::Exact(requested)) => {
                self.kept(range, requested).ok_or(StoreError::Expired { requested, oldest })
            }
            (None, At::Latest) => unreachable!("the latest state is always there"),
        }
    }

    fn kept(&self, range: &Range, revision: Revision) -> Option<Listing> {
        let mut kept = self.shared.kept.lock();
        self.expire(&mut kept);
        let index = kept
            .iter()
            .position(|kept| kept.listing.revision == revision && kept.listing.range.collection == range.collection)?;
        let mut found = kept.remove(index)?;
        found.used = Instant::now();
        let listing = Listing { range: range.clone(), revision, objects: found.listing.objects.clone() };
        kept.push_back(found);
        Some(listing)
    }

    /// Keeps a listing for its following pages.
    pub fn keep(&self, listing: &Listing) {
        let mut kept = self.shared.kept.lock();
        kept.retain(|kept| {
            kept.listing.revision != listing.revision || kept.listing.range.collection != listing.range.collection
        });
        kept.push_back(Kept { used: Instant::now(), listing: listing.clone() });
        self.expire(&mut kept);
    }

    /// Drops what is kept too long or too much.
    fn expire(&self, kept: &mut VecDeque<Kept>) {
        let limits = &self.shared.limits;
        while kept.len() > limits.kept_listings
            || kept.front().is_some_and(|kept| kept.used.elapsed() >= limits.kept_for)
        {
            kept.pop_front();
        }
    }

    /// The events of a range after a revision.
    pub fn watch(&self, range: &Range, after: Revision) -> Result<Watch, StoreError> {
        let mut state = self.shared.state.write();
        if state.closed {
            return Err(StoreError::Closed);
        }
        if after > state.revision {
            return Err(StoreError::Future { requested: after, current: state.revision });
        }
        let start = state.start;
        let collection = state.collections.entry(range.collection.clone()).or_insert_with(|| Collection::new(start));
        if after < collection.window.floor {
            return Err(StoreError::Expired { requested: after, oldest: collection.window.floor });
        }
        Ok(Watch::new(self.shared.clone(), range.clone(), after, &collection.window, collection.wake.subscribe()))
    }

    /// An event for [`publish`](Memory::publish).
    pub fn event(&self, record: Record, kind: EventKind, previous: Option<Record>) -> Event {
        Event::new(record, kind, previous, self.shared.encoded.clone())
    }

    /// Makes writes visible to reads and watchers, all at once. Their revisions must not fall.
    pub fn publish(&self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        let mut bells: Vec<Arc<watch::Sender<()>>> = Vec::new();
        // Values are freed, and watchers woken, after the lock is given back.
        let mut left = Vec::new();
        {
            let mut guard = self.shared.state.write();
            let state = &mut *guard;
            for event in events {
                let record = &event.record;
                debug_assert!(record.revision >= state.revision, "revisions rise");
                state.revision = record.revision;
                let start = state.start;
                let collection = match state.collections.get_mut(&record.key.collection) {
                    Some(collection) => collection,
                    None => {
                        state.collections.entry(record.key.collection.clone()).or_insert_with(|| Collection::new(start))
                    }
                };
                collection.changed = record.revision;
                match event.kind {
                    EventKind::Created | EventKind::Updated => {
                        collection.objects.insert(Placed::new(record.clone()));
                    }
                    EventKind::Deleted => {
                        collection.objects.remove(&Place { namespace: &record.key.namespace, name: &record.key.name });
                    }
                }
                if !bells.iter().any(|bell| Arc::ptr_eq(bell, &collection.wake)) {
                    bells.push(collection.wake.clone());
                }
                state.window_bytes += collection.window.push(Arc::new(event));
            }
            self.shrink(state, &mut left);
        }
        for bell in bells {
            bell.send_replace(());
        }
        drop(left);
        if let Some(mut kept) = self.shared.kept.try_lock() {
            self.expire(&mut kept);
        }
    }

    /// Says that there are no further writes up to a revision.
    pub fn advance(&self, revision: Revision) {
        let mut state = self.shared.state.write();
        state.revision = state.revision.max(revision);
    }

    /// Starts over with these objects at that revision. What happened in between is not known, so all watches end.
    pub fn rebuild(&self, revision: Revision, records: impl IntoIterator<Item = Record>) {
        let mut objects: HashMap<Arc<str>, Objects> = HashMap::new();
        for record in records {
            objects.entry(record.key.collection.clone()).or_default().insert(Placed::new(record));
        }
        let mut guard = self.shared.state.write();
        let state = &mut *guard;
        state.revision = revision;
        state.start = revision;
        for name in objects.keys() {
            state.collections.entry(name.clone()).or_insert_with(|| Collection::new(revision));
        }
        for (name, collection) in &mut state.collections {
            collection.objects = objects.remove(name).unwrap_or_default();
            collection.changed = revision;
            state.window_bytes -= collection.window.bytes();
            collection.window.restart(revision);
            collection.wake.send_replace(());
        }
    }

    /// Takes events out of the fullest windows until the limit is kept.
    fn shrink(&self, state: &mut State, left: &mut Vec<Arc<Event>>) {
        let limit = self.shared.limits.window_bytes;
        let encoded = self.shared.encoded.load(Ordering::Relaxed);
        let mut over = (state.window_bytes + encoded).saturating_sub(limit);
        while over > 0 {
            let Some(fullest) = state.collections.values_mut().max_by_key(|collection| collection.window.bytes())
            else {
                return;
            };
            // A sixteenth at a time, so that the fullest need not be looked for with each event.
            let share = over.min(fullest.window.bytes() / 16 + 1);
            let mut freed = 0;
            while freed < share {
                let Some((event, weight)) = fullest.window.pop() else {
                    return;
                };
                let line = event.encoded_len();
                state.window_bytes -= weight;
                freed += weight + line;
                left.push(event);
            }
            over = over.saturating_sub(freed);
        }
    }

    /// Ends all watches and refuses new reads of lists.
    pub fn close(&self) {
        let mut state = self.shared.state.write();
        state.closed = true;
        for collection in state.collections.values() {
            collection.wake.send_replace(());
        }
    }
}
