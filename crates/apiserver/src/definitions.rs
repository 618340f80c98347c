//! CustomResourceDefinitions at work: they become kinds of the catalogue, get their conditions, and take their objects
//! along when they go.
//!
//! One task follows the stored definitions. On each change it first exchanges the catalogue, so that whoever sees a
//! definition established can use it, and then writes what the change means for the status of the definitions.
//!
//! ```text
//!   stored ──> names accepted ──> established (served) ──> terminating ──> gone
//!                  └─ name taken: waits for the other one to go
//! ```

mod cleanup;
mod plan;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use kobune_kinds::{
    Catalogue, Kind,
    custom::{self, Definition, Taken},
};
use kobune_store::{
    At, CommitError, Event, EventKind, Key, Op, Range, Record, Revision, StoreError, Watch, WatchError, Write,
};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    ApiServer,
    call::Call,
    create::durability,
    encode,
    respond::{Made, Produced},
};

/// Where definitions are stored.
pub(crate) const COLLECTION: &str = "apiextensions.k8s.io/customresourcedefinitions";

/// What requests need to know of the definitions beside the catalogue.
#[derive(Debug)]
pub(crate) struct Definitions {
    /// The catalogue shows every change of definitions up to this revision.
    seen: watch::Sender<u64>,
    /// What ends the watches of a collection of custom resources.
    ends: Mutex<HashMap<Arc<str>, CancellationToken>>,
}

impl Default for Definitions {
    fn default() -> Self {
        Self { seen: watch::Sender::new(0), ends: Mutex::default() }
    }
}

impl Definitions {
    /// What ends watches of a kind that comes from a definition: the end of the definition, or a change of its schema.
    pub(crate) fn end_of(&self, kind: &Kind) -> Option<CancellationToken> {
        kind.custom()?;
        self.ends.lock().get(&kind.collection).cloned()
    }

    /// Waits until the catalogue shows a write of a definition.
    pub(crate) async fn seen(&self, revision: Revision, shutdown: &CancellationToken) {
        let mut seen = self.seen.subscribe();
        tokio::select! {
            // Dropping either wait loses nothing.
            () = shutdown.cancelled() => {}
            result = seen.wait_for(|seen| *seen >= revision.0) => {
                debug_assert!(result.is_ok(), "the sender lives as long as the server");
            }
        }
    }
}

/// A stored definition.
struct Known {
    definition: Definition,
    record: Record,
    kinds: Vec<Arc<Kind>>,
    /// Ends the removal of its objects.
    cleanup: Option<CancellationToken>,
}

/// The one who follows the definitions.
struct Follower {
    server: Arc<ApiServer>,
    known: BTreeMap<Arc<str>, Known>,
}

/// Reads all definitions, puts their kinds into the catalogue, and follows their changes until the server stops.
pub(crate) async fn start(server: &Arc<ApiServer>) -> Result<(), StoreError> {
    let mut follower = Follower { server: Arc::clone(server), known: BTreeMap::new() };
    let watch = follower.read().await?;
    let shutdown = server.shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = follower.run(watch) => {}
        }
    });
    Ok(())
}

impl Follower {
    /// Reads all definitions anew.
    async fn read(&mut self) -> Result<Watch, StoreError> {
        let range = Range::all(COLLECTION);
        let listing = self.server.store.list(&range, At::Latest).await?;
        let gone: Vec<Arc<str>> = {
            let there: BTreeSet<&str> = listing.iter().map(|record| &*record.key.name).collect();
            self.known.keys().filter(|name| !there.contains(&***name)).cloned().collect()
        };
        gone.iter().for_each(|name| self.forget(name));
        for record in listing.iter() {
            self.note(record);
        }
        self.publish(listing.revision());
        self.server.store.watch(&range, listing.revision())
    }

    async fn run(&mut self, mut watch: Watch) {
        loop {
            self.settle().await;
            match watch.next().await {
                Ok(event) => {
                    let mut last = self.take(&event);
                    // Definitions come in numbers: all that are there make one new catalogue.
                    while let Ok(Some(event)) = watch.try_next() {
                        last = self.take(&event);
                    }
                    self.publish(last);
                }
                Err(WatchError::Lagged { .. }) => loop {
                    match self.read().await {
                        Ok(anew) => {
                            watch = anew;
                            break;
                        }
                        Err(error) => {
                            tracing::error!(%error, "the definitions of custom resources cannot be read");
                            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                        }
                    }
                },
                Err(WatchError::Closed) => return,
            }
        }
    }

    fn take(&mut self, event: &Event) -> Revision {
        match event.kind {
            EventKind::Deleted => self.forget(&event.record.key.name),
            EventKind::Created | EventKind::Updated => self.note(&event.record),
        }
        event.record.revision
    }

    fn forget(&mut self, name: &str) {
        if let Some(Known { cleanup: Some(cleanup), .. }) = self.known.remove(name) {
            cleanup.cancel();
        }
    }

    fn note(&mut self, record: &Record) {
        let definition = match Definition::read(&record.value) {
            Ok(definition) => definition,
            Err(error) => {
                tracing::error!(key = %record.key, %error, "a stored definition is unreadable");
                return;
            }
        };
        let before = self.known.remove(&record.key.name);
        let (kinds, cleanup) = before.map_or_else(Default::default, |known| (known.kinds, known.cleanup));
        let kinds = if definition.holds("Established") {
            serve(&definition, &record.value, record.revision, &kinds)
        } else {
            Vec::new()
        };
        self.known.insert(Arc::clone(&record.key.name), Known { definition, record: record.clone(), kinds, cleanup });
    }

    /// Makes the kinds of all definitions the catalogue, ends the watches whose schema has changed, and tells who waits.
    fn publish(&self, revision: Revision) {
        let server = &self.server;
        let mut kinds: Vec<Arc<Kind>> = self.known.values().flat_map(|known| known.kinds.iter().cloned()).collect();
        kinds.sort_by(|a, b| {
            (&a.group, custom::compare_versions(&b.version, &a.version), &a.plural).cmp(&(
                &b.group,
                std::cmp::Ordering::Equal,
                &b.plural,
            ))
        });
        let before = server.catalogue.load_full();
        let mut groups: BTreeSet<Box<str>> = BTreeSet::new();
        let mut changed: BTreeSet<Arc<str>> = BTreeSet::new();
        let find = |catalogue: &[Arc<Kind>], kind: &Kind| {
            catalogue.iter().find(|other| other.collection == kind.collection && other.version == kind.version).cloned()
        };
        for kind in before.kinds().iter().filter(|kind| kind.custom().is_some()) {
            if find(&kinds, kind).is_none() {
                groups.insert(kind.group.clone());
                changed.insert(Arc::clone(&kind.collection));
            }
        }
        for kind in &kinds {
            match find(before.kinds(), kind) {
                Some(same) if Arc::ptr_eq(&same, kind) => {}
                Some(other) => {
                    groups.insert(kind.group.clone());
                    let alike = kind.custom().zip(other.custom()).is_some_and(|(new, old)| new.reads_like(old));
                    if !alike {
                        changed.insert(Arc::clone(&kind.collection));
                    }
                }
                None => {
                    groups.insert(kind.group.clone());
                }
            }
        }
        let collections: BTreeSet<Arc<str>> = kinds.iter().map(|kind| Arc::clone(&kind.collection)).collect();
        if !groups.is_empty() {
            server.catalogue.store(Arc::new(Catalogue::with(kinds)));
            server.documents.forget(&groups);
        }
        {
            let mut ends = server.definitions.ends.lock();
            for collection in &changed {
                if let Some(end) = ends.remove(collection) {
                    end.cancel();
                }
            }
            for collection in collections {
                ends.entry(collection).or_insert_with(|| server.shutdown.child_token());
            }
        }
        server.definitions.seen.send_replace(revision.0);
    }

    /// Writes the statuses that follow from the definitions as they are, and begins what has to be removed.
    async fn settle(&mut self) {
        let names: Vec<Arc<str>> = self.known.keys().cloned().collect();
        for name in names {
            let taken = self.taken(&name);
            let Some(known) = self.known.get_mut(&name) else { continue };
            if known.definition.is_dying() {
                if known.cleanup.is_none() && known.definition.waits() {
                    let token = self.server.shutdown.child_token();
                    known.cleanup = Some(token.clone());
                    let served = known.definition.holds("Established");
                    cleanup::start(
                        Arc::clone(&self.server),
                        Arc::clone(&name),
                        known.definition.collection(),
                        served,
                        token,
                    );
                }
                continue;
            }
            let Some(status) = plan::status(&known.definition, &taken, &crate::call::now_text()) else { continue };
            let mut object: Value = match serde_json::from_slice(&known.record.value) {
                Ok(object) => object,
                Err(error) => {
                    tracing::error!(key = %known.record.key, %error, "a stored definition is unreadable");
                    continue;
                }
            };
            let old = object.clone();
            object["status"] = status;
            // Served first, said afterwards: whoever reads that it is established can use it.
            let established = Definition::read(object.to_string().as_bytes()).ok().filter(|it| it.holds("Established"));
            if let Some(established) = established
                && known.kinds.is_empty()
            {
                let source = Bytes::from(object.to_string());
                known.kinds = serve(&established, &source, known.record.revision, &[]);
                let revision = Revision(*self.server.definitions.seen.borrow());
                self.publish(revision);
            }
            let Some(known) = self.known.get(&name) else { continue };
            if !self.server.write_definition(&known.record, object, &old).await {
                tracing::debug!(%name, "a definition changed while its status was written");
            }
        }
    }

    /// The names in a definition's group that others have.
    fn taken(&self, name: &str) -> Taken {
        let mut taken = Taken::default();
        let Some(own) = self.known.get(name) else { return taken };
        let group = own.definition.group();
        for kind in Catalogue::builtin().kinds().iter().filter(|kind| &*kind.group == group) {
            taken.add_kind(kind);
        }
        for (other, known) in &self.known {
            if &**other != name && known.definition.group() == group {
                taken.add(known.definition.accepted_names());
            }
        }
        taken
    }
}

/// The kinds of a definition, except those that Kubernetes itself has.
fn serve(definition: &Definition, source: &Bytes, revision: Revision, before: &[Arc<Kind>]) -> Vec<Arc<Kind>> {
    custom::kinds(definition, source, revision.0, before)
}

/// Makes a definition that is to be deleted wait for its objects.
pub(crate) fn mark_dying(object: &mut Value) {
    let finalizers = &mut object["metadata"]["finalizers"];
    match finalizers.as_array_mut() {
        Some(list) if list.iter().any(|finalizer| finalizer == custom::CLEANUP) => {}
        Some(list) => list.push(custom::CLEANUP.into()),
        None => *finalizers = serde_json::json!([custom::CLEANUP]),
    }
    let words = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    cleanup::condition(object, "True", "InstanceDeletionPending", words);
}

impl ApiServer {
    /// Lets a write of a definition be answered when it is in force.
    pub(crate) async fn settle_definition(&self, call: &Call, made: &Made) {
        if &*call.kind.collection == COLLECTION
            && let Produced::Stored(record) = &made.produced
        {
            self.definitions.seen(record.revision, &self.shutdown).await;
        }
    }

    /// Writes a definition that the server itself has changed; `false` when somebody else was faster. The event of that
    /// write comes by, and what is still to be done can be done then.
    async fn write_definition(&self, record: &Record, mut object: Value, old: &Value) -> bool {
        let catalogue = self.catalogue.load();
        let Some(kind) = catalogue.by_resource("apiextensions.k8s.io", "v1", "customresourcedefinitions").cloned()
        else {
            return true;
        };
        drop(catalogue);
        kobune_merge::track_update(
            Some(old),
            &mut object,
            kind.schema(),
            "kube-apiserver",
            &kind.api_version(),
            Some("status"),
            crate::patch::now(),
        );
        let draft = encode::draft(&kind, &object);
        let dying = object["metadata"]["deletionTimestamp"].is_string();
        let held = object["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
        let op = if dying && !held {
            Op::Delete { expected: record.revision, last: draft }
        } else {
            Op::Update { expected: record.revision, draft }
        };
        let key = Key::new(COLLECTION, "", &record.key.name);
        match self.store.commit(Write { key, op, durability: durability(&kind) }).await {
            Ok(_) | Err(CommitError::Closed) => true,
            Err(CommitError::Conflict { .. }) => false,
            Err(error) => {
                tracing::error!(
                    name = &*record.key.name,
                    error = &error as &dyn std::error::Error,
                    "a definition's status was not written"
                );
                true
            }
        }
    }
}
