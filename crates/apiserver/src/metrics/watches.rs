//! How many events watchers were sent, under upstream's name.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use kobune_kinds::Kind;
use parking_lot::Mutex;

use super::{Labels, Writer};

/// How many kinds are counted apart. Custom ones come and go; those that nobody watches are forgotten beyond it.
const SERIES: usize = 2000;

/// Group, version and resource.
type Watched = (Box<str>, Box<str>, Box<str>);

/// The counters of all kinds.
#[derive(Debug, Default)]
pub(crate) struct WatchEvents(Mutex<BTreeMap<Watched, Arc<AtomicU64>>>);

impl WatchEvents {
    /// The counter of a kind, for a watch that begins.
    pub(crate) fn of(&self, kind: &Kind) -> Arc<AtomicU64> {
        let mut counters = self.0.lock();
        if counters.len() >= SERIES {
            counters.retain(|_, counter| Arc::strong_count(counter) > 1);
        }
        Arc::clone(counters.entry((kind.group.clone(), kind.version.clone(), kind.plural.clone())).or_default())
    }

    pub(super) fn write(&self, out: &mut Writer) {
        let name = "apiserver_watch_events_total";
        out.family(name, "counter", "Number of events sent in watch clients");
        for ((group, version, resource), counter) in self.0.lock().iter() {
            let labels = Labels::new().with("group", group).with("resource", resource).with("version", version);
            out.value(name, &labels, counter.load(Ordering::Relaxed));
        }
    }
}
