//! Reading the store's memory on the way of a request: an object is parsed once a revision, not once a request.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kobune_store::{At, EventKind, Key, Range, Record, Revision, Store, Watch};
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::refusal::Refusal;

/// How many parsed objects are kept: namespaces, service accounts, priority classes, limits and quotas in use.
const OBJECTS: usize = 256;
/// How many identities are kept: the pods, secrets and nodes that the tokens in use are bound to.
const IDENTITIES: usize = 2048;

/// What a token's binding needs to know of an object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Identity {
    /// The object's uid.
    pub(crate) uid: String,
    /// When its deletion began, if so, in seconds since 1970.
    pub(crate) deleted_at: Option<i64>,
}

#[derive(Deserialize)]
struct Envelope {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    uid: String,
    deletion_timestamp: Option<jiff::Timestamp>,
}

/// Results of parsing, each good for one revision of its object.
struct Memo<T> {
    limit: usize,
    entries: Mutex<HashMap<Key, (Revision, T)>>,
}

impl<T: Clone> Memo<T> {
    fn new(limit: usize) -> Memo<T> {
        Memo { limit, entries: Mutex::new(HashMap::new()) }
    }

    fn get(&self, record: &Record, parse: impl FnOnce(&[u8]) -> Result<T, serde_json::Error>) -> Result<T, Refusal> {
        if let Some((revision, value)) = self.entries.lock().get(&record.key)
            && *revision == record.revision
        {
            return Ok(value.clone());
        }
        let value = parse(&record.value).map_err(|error| {
            tracing::error!(key = %record.key, %error, "a stored object is unreadable");
            Refusal::internal(format_args!("cannot read {}", record.key))
        })?;
        let mut entries = self.entries.lock();
        if entries.len() >= self.limit {
            // What is in use comes back with the next requests; keeping an order of use would cost every one of them.
            entries.clear();
        }
        entries.insert(record.key.clone(), (record.revision, value.clone()));
        Ok(value)
    }
}

/// Reads single objects, always as they are now.
pub(crate) struct Lookup {
    store: Arc<dyn Store>,
    objects: Memo<Arc<Value>>,
    identities: Memo<Identity>,
}

impl Lookup {
    pub(crate) fn new(store: Arc<dyn Store>) -> Lookup {
        Lookup { store, objects: Memo::new(OBJECTS), identities: Memo::new(IDENTITIES) }
    }

    /// A small object that many requests ask for.
    pub(crate) async fn object(
        &self,
        collection: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Value>>, Refusal> {
        let Some(record) = self.record(collection, namespace, name).await? else { return Ok(None) };
        self.objects.get(&record, |bytes| serde_json::from_slice(bytes).map(Arc::new)).map(Some)
    }

    /// The identity of an object of any size.
    pub(crate) async fn identity(
        &self,
        collection: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Identity>, Refusal> {
        let Some(record) = self.record(collection, namespace, name).await? else { return Ok(None) };
        let parse = |bytes: &[u8]| {
            serde_json::from_slice::<Envelope>(bytes).map(|envelope| Identity {
                uid: envelope.metadata.uid,
                deleted_at: envelope.metadata.deletion_timestamp.map(jiff::Timestamp::as_second),
            })
        };
        self.identities.get(&record, parse).map(Some)
    }

    /// An object that is read seldom, in the shape that the caller needs.
    pub(crate) async fn once<T: DeserializeOwned>(
        &self,
        collection: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<T>, Refusal> {
        let Some(record) = self.record(collection, namespace, name).await? else { return Ok(None) };
        serde_json::from_slice(&record.value).map(Some).map_err(|error| {
            tracing::error!(key = %record.key, %error, "a stored object is unreadable");
            Refusal::internal(format_args!("cannot read {}", record.key))
        })
    }

    /// All objects of a small collection, or of one namespace of it.
    pub(crate) async fn all(&self, collection: &str, namespace: Option<&str>) -> Result<Vec<Arc<Value>>, Refusal> {
        self.records(collection, namespace)
            .await?
            .iter()
            .map(|record| self.objects.get(record, |bytes| serde_json::from_slice(bytes).map(Arc::new)))
            .collect()
    }

    /// The records of a collection, or of one namespace of it, unparsed.
    pub(crate) async fn records(&self, collection: &str, namespace: Option<&str>) -> Result<Vec<Record>, Refusal> {
        let range = match namespace {
            Some(namespace) => Range::namespace(collection, namespace),
            None => Range::all(collection),
        };
        let listing = self.store.list(&range, At::Latest).await.map_err(Refusal::internal)?;
        Ok(listing.iter().cloned().collect())
    }

    /// The changes of a namespace's objects from now on.
    pub(crate) fn watch(&self, collection: &str, namespace: &str) -> Result<Watch, Refusal> {
        self.store.watch(&Range::namespace(collection, namespace), self.store.revision()).map_err(Refusal::internal)
    }

    /// Waits until an object exists, at most so long. Says nothing about whether it does.
    pub(crate) async fn wait_for(
        &self,
        collection: &str,
        namespace: &str,
        name: &str,
        longest: Duration,
    ) -> Result<(), Refusal> {
        let mut watch = self.watch(collection, namespace)?;
        if self.record(collection, namespace, name).await?.is_some() {
            return Ok(());
        }
        let appears = async {
            // A watch that breaks ends the wait early, which the caller sees as an object that is not there.
            while let Ok(event) = watch.next().await {
                if &*event.record.key.name == name && event.kind != EventKind::Deleted {
                    return;
                }
            }
        };
        let waited = tokio::time::timeout(longest, appears).await;
        tracing::debug!(collection, namespace, name, found = waited.is_ok(), "waited for an object");
        Ok(())
    }

    /// The store itself, for records that are the server's own.
    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    async fn record(&self, collection: &str, namespace: &str, name: &str) -> Result<Option<Record>, Refusal> {
        let key = Key::new(collection, namespace, name);
        self.store.get(&key).await.map_err(Refusal::internal)
    }
}
