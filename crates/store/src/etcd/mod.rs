//! The store of several servers: an etcd cluster holds the objects, every server has all of them in memory.
//!
//! ```text
//! commit() -> transaction at etcd -> its event comes by the watch -> memory, watchers -> answer
//! fresh()  -> etcd's revision (one question for all who ask) -> memory has reached it
//! ```
//!
//! docs/decisions says why reads come from memory, why each write is a transaction of its own, and what several servers
//! may rely on.

mod client;
mod compact;
mod follow;
mod fresh;
mod layout;
mod proto;
mod snapshot;
mod write;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::error::{CommitError, OpenError, StoreError};
use crate::listing::{Listing, Placed};
use crate::memory::{Limits, Memory};
use crate::object::{Facets, Key, Range, Record, Revision, Write};
use crate::seal::Seal;
use crate::store::{At, Store};
use crate::watch::Watch;

use client::{CallError, Client};
use fresh::Questions;
use layout::Layout;
use proto::RangeRequest;
pub use snapshot::{read_etcd, restore_etcd};
use write::Own;

/// How an [`EtcdStore`] finds its cluster and behaves.
#[derive(Clone)]
pub struct EtcdConfig {
    /// The members' URLs, such as `https://10.0.0.1:2379`.
    pub servers: Vec<String>,
    /// The certificates of the authority that the members' certificates come from, as PEM.
    pub ca_pem: Option<Vec<u8>>,
    /// The certificate and key to show to the members, as PEM.
    pub identity_pem: Option<(Vec<u8>, Vec<u8>)>,
    /// What all keys begin with; upstream's is `/registry`.
    pub prefix: String,
    /// The collections whose path below the prefix is not their own name, with that path.
    pub paths: Vec<(String, String)>,
    /// What the memory may hold beyond the current state.
    pub limits: Limits,
    /// What encrypts values on their way to etcd; `None` writes them as they are.
    pub seal: Option<Arc<dyn Seal>>,
    /// How long etcd remembers what is no longer current.
    pub compaction: Duration,
}

impl EtcdConfig {
    /// Members without TLS, upstream's prefix and times.
    pub fn new(servers: Vec<String>) -> EtcdConfig {
        EtcdConfig {
            servers,
            ca_pem: None,
            identity_pem: None,
            prefix: "/registry".to_owned(),
            paths: Vec::new(),
            limits: Limits::default(),
            seal: None,
            compaction: Duration::from_secs(300),
        }
    }
}

impl std::fmt::Debug for EtcdConfig {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("EtcdConfig")
            .field("servers", &self.servers)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// Takes out of a stored value what selectors need.
type FacetsOf = Box<dyn Fn(&Key, &[u8]) -> Facets + Send + Sync>;

/// How far the memory is.
struct Applied {
    revision: u64,
    closed: bool,
}

struct Inner {
    client: Client,
    layout: Layout,
    memory: Memory,
    facets: FacetsOf,
    seal: Option<Arc<dyn Seal>>,
    /// Writes of this server whose events are still to come, by etcd's key.
    drafts: Mutex<HashMap<Bytes, Vec<Arc<Own>>>>,
    applied: watch::Sender<Applied>,
    questions: Questions,
}

impl Inner {
    /// Everything but the tasks; nothing is sent.
    fn new(
        config: EtcdConfig,
        facets: impl Fn(&Key, &[u8]) -> Facets + Send + Sync + 'static,
    ) -> Result<Inner, OpenError> {
        Ok(Inner {
            client: Client::new(&config)?,
            layout: Layout::new(&config.prefix, &config.paths),
            memory: Memory::new(config.limits, Revision(0), []),
            facets: Box::new(facets),
            seal: config.seal,
            drafts: Mutex::default(),
            applied: watch::Sender::new(Applied { revision: 0, closed: false }),
            questions: Questions::default(),
        })
    }
}

/// Revisioned objects in an etcd cluster.
pub struct EtcdStore {
    inner: Arc<Inner>,
    tasks: Mutex<JoinSet<()>>,
}

impl EtcdStore {
    /// Reads all objects and begins to follow the cluster. `facets` takes out of a stored value what selectors need.
    pub async fn open(
        config: EtcdConfig,
        facets: impl Fn(&Key, &[u8]) -> Facets + Send + Sync + 'static,
    ) -> Result<Arc<EtcdStore>, OpenError> {
        let compaction = config.compaction;
        let inner = Arc::new(Inner::new(config, facets)?);
        let loaded = inner.load(inner.layout.everything(), 0).await.map_err(snapshot::refused)?;
        let mark = RangeRequest { key: inner.layout.own(snapshot::UNFINISHED), ..RangeRequest::default() };
        if !inner.client.range(mark).await.map_err(snapshot::refused)?.kvs.is_empty() {
            return Err(OpenError::Unfinished);
        }
        inner.memory.rebuild(Revision(loaded.at), loaded.records);
        inner.advance(loaded.at);
        inner.seal_anew(loaded.stale).await.map_err(|error| OpenError::Etcd { source: Arc::new(error) })?;
        let mut tasks = JoinSet::new();
        tasks.spawn(inner.clone().follow());
        tasks.spawn(inner.clone().compact(compaction));
        Ok(Arc::new(EtcdStore { inner, tasks: Mutex::new(tasks) }))
    }

    /// Ends all watches. Later writes are refused.
    pub fn close(&self) {
        self.tasks.lock().abort_all();
        self.inner.memory.close();
        self.inner.applied.send_modify(|applied| applied.closed = true);
    }

    /// The objects of a collection as they were at a revision that is only known to etcd.
    async fn list_past(&self, range: &Range, requested: Revision, oldest: Revision) -> Result<Listing, StoreError> {
        let inner = &self.inner;
        match inner.load(inner.layout.collection(&range.collection), requested.0).await {
            Ok(loaded) => {
                let objects = loaded.records.into_iter().map(Placed::new).collect();
                let listing = Listing { range: range.clone(), revision: requested, objects };
                inner.memory.keep(&listing);
                Ok(listing)
            }
            Err(CallError::Compacted) => Err(StoreError::Expired { requested, oldest }),
            Err(error) => Err(fresh::unavailable(error)),
        }
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.close();
    }
}

impl Store for EtcdStore {
    fn fresh(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.fresh().boxed()
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Record>, StoreError>> {
        std::future::ready(Ok(self.inner.memory.get(key))).boxed()
    }

    fn list<'a>(&'a self, range: &'a Range, at: At) -> BoxFuture<'a, Result<Listing, StoreError>> {
        async move {
            match (self.inner.memory.list(range, at), at) {
                (Err(StoreError::Expired { requested, oldest }), At::Exact(_)) => {
                    self.list_past(range, requested, oldest).await
                }
                (answer, _) => answer,
            }
        }
        .boxed()
    }

    fn keep(&self, listing: &Listing) {
        self.inner.memory.keep(listing);
    }

    fn commit(&self, write: Write) -> BoxFuture<'_, Result<Record, CommitError>> {
        async move {
            if self.inner.applied.borrow().closed {
                return Err(CommitError::Closed);
            }
            // A task of its own: what was begun is brought to an end, also when the caller goes away.
            let inner = self.inner.clone();
            match tokio::spawn(async move { inner.write(write).await }).await {
                Ok(answer) => answer,
                Err(_) => Err(CommitError::Closed),
            }
        }
        .boxed()
    }

    fn watch(&self, range: &Range, after: Revision) -> Result<Watch, StoreError> {
        self.inner.memory.watch(range, after)
    }

    fn revision(&self) -> Revision {
        self.inner.memory.revision()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        EtcdStore::close(self);
        std::future::ready(()).boxed()
    }
}
