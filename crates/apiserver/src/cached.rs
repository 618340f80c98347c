//! What is made of a small collection, kept until the collection changes.
//!
//! Whether it has changed is asked when it is used, which costs one short lock: so nothing runs in the background, and
//! a request that follows a write always sees it.

use std::sync::Arc;

use kobune_store::{At, Range, Record, Store, StoreError, Watch};
use parking_lot::Mutex;

/// A value made of all objects of a collection.
pub(crate) struct Cached<T> {
    collection: &'static str,
    make: fn(&[Record]) -> T,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Arc<T>,
    /// The changes after the listing that `value` was made of.
    watch: Option<Watch>,
    /// Whether there was such a change.
    stale: bool,
}

impl<T> Cached<T> {
    /// Nothing is read before the first use.
    pub(crate) fn new(collection: &'static str, make: fn(&[Record]) -> T) -> Self {
        let state = State { value: Arc::new(make(&[])), watch: None, stale: true };
        Self { collection, make, state: Mutex::new(state) }
    }

    /// The value for the collection as it is now.
    pub(crate) async fn get(&self, store: &dyn Store) -> Result<Arc<T>, StoreError> {
        {
            let mut state = self.state.lock();
            if !state.stale {
                // Whatever it is, also a watch that has fallen behind: it is no longer certain that nothing changed.
                state.stale = !matches!(state.watch.as_mut().map(Watch::try_next), Some(Ok(None)));
            }
            if !state.stale {
                return Ok(Arc::clone(&state.value));
            }
        }
        let range = Range::all(self.collection);
        let listing = store.list(&range, At::Latest).await?;
        let records: Vec<Record> = listing.iter().cloned().collect();
        let value = Arc::new((self.make)(&records));
        let watch = store.watch(&range, listing.revision())?;
        // Should somebody else have read a newer state meanwhile, this one's watch will find what it missed.
        *self.state.lock() = State { value: Arc::clone(&value), watch: Some(watch), stale: false };
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use kobune_store::{Config, Durability, Facets, Key, Op, SqliteStore, Write};
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn follows_every_write() {
        let folder = tempfile::tempdir().expect("a folder");
        let facets = |_: &Key, _: &[u8]| Facets::default();
        let store = SqliteStore::open(folder.path().join("s.db"), Config::default(), facets).expect("a store");
        let cached = Cached::new("core/things", |records| records.len());
        assert_eq!(*cached.get(&*store).await.expect("a value"), 0);
        for count in 1..=3 {
            let catalogue = kobune_kinds::Catalogue::builtin();
            let kind = catalogue.by_kind("v1", "ConfigMap").expect("a kind");
            let draft = crate::encode::draft(kind, &json!({"metadata": {"name": "a"}}));
            let key = Key::new("core/things", "", &format!("a{count}"));
            store.commit(Write { key, op: Op::Create(draft), durability: Durability::Relaxed }).await.expect("a write");
            assert_eq!(*cached.get(&*store).await.expect("a value"), count);
            assert_eq!(*cached.get(&*store).await.expect("a value"), count);
        }
        store.close().await;
    }
}
