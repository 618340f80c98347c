//! Role-based access control over an index that follows the store.

mod escalation;
mod index;
mod rule;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kobune_store::{At, Event, EventKind, Range, Store, StoreError, Watch, WatchError};
use parking_lot::RwLock;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::attributes::{Attributes, Decision};
use super::user::User;

pub(crate) use escalation::{check_escalation, escalation_right};
pub(crate) use index::{COLLECTIONS, Index};
pub(crate) use rule::Rule;

/// The rules of the desired role that the stored one does not cover.
pub(crate) fn missing_rules(stored: &Value, desired: &Value) -> Vec<Value> {
    rule::uncovered(&rule::rules_of(stored), &rule::rules_of(desired)).iter().map(Rule::to_value).collect()
}

/// The subjects of the desired binding that the stored one does not name.
pub(crate) fn missing_subjects(stored: &Value, desired: &Value) -> Vec<Value> {
    let list = |binding: &Value| binding.get("subjects").and_then(Value::as_array).cloned().unwrap_or_default();
    let identity = |subject: &Value| ["kind", "namespace", "name"].map(|key| subject.get(key).cloned());
    let present = list(stored);
    let is_missing = |subject: &Value| !present.iter().any(|known| identity(known) == identity(subject));
    list(desired).into_iter().filter(is_missing).collect()
}

/// Decides by roles and bindings.
#[derive(Debug, Default)]
pub(crate) struct Rbac {
    /// Held for the microseconds of one decision or one change, never across a wait.
    index: RwLock<Index>,
    /// Whether the watches have broken for good.
    broken: AtomicBool,
}

impl Rbac {
    /// Fills the index from the store and keeps it current until `shutdown`.
    pub(crate) async fn follow(store: Arc<dyn Store>, shutdown: CancellationToken) -> Result<Arc<Rbac>, StoreError> {
        let rbac = Arc::new(Rbac::default());
        let watches = rbac.fill(store.as_ref()).await?;
        let follower = rbac.clone();
        tokio::spawn(async move {
            tokio::select! {
                // Dropping the loop loses nothing: the index goes with the server.
                () = shutdown.cancelled() => {}
                () = follower.keep_current(store, watches) => follower.broken.store(true, Ordering::Relaxed),
            }
        });
        Ok(rbac)
    }

    pub(crate) fn authorize(&self, user: &User, attributes: &Attributes<'_>) -> Decision {
        self.index.read().authorize(user, attributes)
    }

    /// Whether changes of roles and bindings still arrive.
    pub(crate) fn is_current(&self) -> bool {
        !self.broken.load(Ordering::Relaxed)
    }

    /// Decides, and names the binding that decided.
    pub(crate) fn explain(&self, user: &User, attributes: &Attributes<'_>) -> Decision {
        self.index.read().explain(user, attributes)
    }

    /// Runs a question about the index; it must not wait for anything.
    pub(crate) fn with_index<T>(&self, question: impl FnOnce(&Index) -> T) -> T {
        question(&self.index.read())
    }

    /// Reads everything anew and gives the watches that continue from there.
    async fn fill(&self, store: &dyn Store) -> Result<[Watch; 4], StoreError> {
        let mut index = Index::default();
        let mut watches = Vec::with_capacity(COLLECTIONS.len());
        for collection in COLLECTIONS {
            let range = Range::all(collection);
            let listing = store.list(&range, At::Latest).await?;
            for record in listing.iter() {
                insert(&mut index, &record.key, &record.value);
            }
            watches.push(store.watch(&range, listing.revision())?);
        }
        *self.index.write() = index;
        watches.try_into().map_err(|_| StoreError::Closed)
    }

    async fn keep_current(&self, store: Arc<dyn Store>, mut watches: [Watch; 4]) {
        loop {
            let [cluster_roles, roles, cluster_bindings, bindings] = &mut watches;
            // Each arm only waits for an event and takes it when it is there: dropping the others loses none.
            let event = tokio::select! {
                event = cluster_roles.next() => event,
                event = roles.next() => event,
                event = cluster_bindings.next() => event,
                event = bindings.next() => event,
            };
            match event {
                Ok(event) => self.take(&event),
                Err(WatchError::Closed) => return,
                Err(WatchError::Lagged { .. }) => match self.fill(store.as_ref()).await {
                    Ok(fresh) => watches = fresh,
                    Err(error) => {
                        // Only a closed store fails a list of the latest state; then nothing is served any more.
                        tracing::warn!(%error, "roles and bindings are not followed any longer");
                        return;
                    }
                },
            }
        }
    }

    fn take(&self, event: &Event) {
        let key = &event.record.key;
        match event.kind {
            EventKind::Deleted => self.index.write().remove(&key.collection, &key.namespace, &key.name),
            EventKind::Created | EventKind::Updated => insert(&mut self.index.write(), key, &event.record.value),
        }
    }
}

fn insert(index: &mut Index, key: &kobune_store::Key, bytes: &[u8]) {
    match serde_json::from_slice::<Value>(bytes) {
        Ok(object) => index.insert(&key.collection, &key.namespace, &key.name, &object),
        Err(error) => {
            // The store holds what the API server encoded. Should one be damaged, it must not go on granting rights.
            tracing::error!(%key, %error, "a stored role or binding is unreadable and counts for nothing");
            index.remove(&key.collection, &key.namespace, &key.name);
        }
    }
}

#[cfg(test)]
impl Rbac {
    /// An index of these objects (collection, object), for tests of what stands on it.
    pub(crate) fn of(objects: &[(&str, Value)]) -> Arc<Rbac> {
        let rbac = Rbac::default();
        for (collection, object) in objects {
            let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
            rbac.index.write().insert(collection, &text("namespace"), &text("name"), object);
        }
        Arc::new(rbac)
    }
}
