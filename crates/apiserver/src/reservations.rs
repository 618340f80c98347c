//! Addresses and ports that services hold, each as a record that only one can make: an `IPAddress` for an address, as
//! upstream has it, and a record of the server's own for a node port. So two servers of one cluster cannot give the same
//! away, and a choice that somebody else was faster with is made again.
//!
//! A record is made before the service is written and removed after the service is gone. A server that dies in between
//! leaves a record without a service, which the next start of any server removes.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use kobune_kinds::{Catalogue, Kind};
use kobune_store::{At, CommitError, Draft, Durability, Facets, Key, Op, Range, Record, Store, StoreError, Write};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    ApiServer, call,
    create::meta,
    encode,
    error::{Answer, ApiError},
    services::{Allocator, Holdings, View, held, ready_ranges},
};

/// The collection of reserved node ports, which is no resource.
pub(crate) const PORTS: &str = "kobune/nodeports";
const ADDRESSES: &str = "networking.k8s.io/ipaddresses";
const SERVICES: &str = "core/services";
const RANGES: &str = "networking.k8s.io/servicecidrs";

/// How often a choice is made again after somebody else was faster.
const ATTEMPTS: usize = 32;
/// How long a write whose caller has gone may still be on its way.
const UNDER_WAY: Duration = Duration::from_secs(5);
/// How long a record may be without its service: longer than any request takes.
const ORPHANED: Duration = Duration::from_secs(90);

/// The records of one store.
#[derive(Clone)]
pub(crate) struct Reservations {
    store: Arc<dyn Store>,
    kind: Arc<Kind>,
}

/// One thing that is reserved.
#[derive(Copy, Clone)]
enum Thing {
    Address(IpAddr),
    Port(u16),
}

fn things(holdings: &Holdings) -> impl Iterator<Item = Thing> + use<'_> {
    let addresses = holdings.addresses.iter().copied().map(Thing::Address);
    addresses.chain(holdings.ports.iter().copied().map(Thing::Port))
}

impl Thing {
    fn key(self) -> Key {
        match self {
            Thing::Address(address) => Key::new(ADDRESSES, "", &address.to_string()),
            Thing::Port(port) => Key::new(PORTS, "", &port.to_string()),
        }
    }
}

/// The service that a record is for, as `namespace/name`.
fn owner_of(record: &Record) -> Option<String> {
    let object: Value = serde_json::from_slice(&record.value).ok()?;
    let parent = &object["spec"]["parentRef"];
    (parent["resource"] == "services").then(|| owner(parent))
}

fn owner(reference: &Value) -> String {
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    format!("{}/{}", text("namespace"), text("name"))
}

impl Reservations {
    pub(crate) fn new(store: Arc<dyn Store>, catalogue: &Catalogue) -> Option<Reservations> {
        let kind = Arc::clone(catalogue.by_resource("networking.k8s.io", "v1", "ipaddresses")?);
        Some(Reservations { store, kind })
    }

    async fn view(&self, also: &Holdings) -> Result<View, StoreError> {
        let addresses = self.store.list(&Range::all(ADDRESSES), At::Latest).await?;
        let ports = self.store.list(&Range::all(PORTS), At::Latest).await?;
        Ok(View { addresses, ports, also: also.clone() })
    }

    /// What services may have now: the server's own ranges, and those that ServiceCIDRs add.
    async fn allocator(&self, own: &Allocator) -> Result<Allocator, StoreError> {
        let mut more = Vec::new();
        for record in self.store.list(&Range::all(RANGES), At::Latest).await?.iter() {
            match serde_json::from_slice::<Value>(&record.value) {
                Ok(range) => more.extend(ready_ranges(&range)),
                Err(error) => tracing::warn!(key = %record.key, %error, "a stored range of services is damaged"),
            }
        }
        Ok(own.with(more))
    }

    fn draft(&self, thing: Thing, namespace: &str, name: &str) -> Draft {
        let parent = json!({"group": "", "resource": "services", "namespace": namespace, "name": name});
        match thing {
            Thing::Address(address) => {
                let object = json!({
                    "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
                    "metadata": {
                        "name": address.to_string(),
                        "uid": uuid::Uuid::new_v4().to_string(),
                        "creationTimestamp": call::now_text(),
                        "labels": {
                            "ipaddress.kubernetes.io/ip-family": if address.is_ipv4() { "IPv4" } else { "IPv6" },
                            "ipaddress.kubernetes.io/managed-by": "ipallocator",
                        },
                    },
                    "spec": {"parentRef": parent},
                });
                encode::draft(&self.kind, &object)
            }
            Thing::Port(port) => {
                let object = json!({"metadata": {"name": port.to_string()}, "spec": {"parentRef": parent}});
                let (bytes, splice) = encode::canonical(&object);
                Draft { bytes, splice, facets: Facets::default() }
            }
        }
    }

    /// Makes a record. Answers whose it is if there is one already.
    async fn make(&self, thing: Thing, namespace: &str, name: &str) -> Result<Result<(), Record>, CommitError> {
        let op = Op::Create(self.draft(thing, namespace, name));
        match self.store.commit(Write { key: thing.key(), op, durability: Durability::Synced }).await {
            Ok(_) => Ok(Ok(())),
            Err(CommitError::Exists(record)) => Ok(Err(record)),
            Err(error) => Err(error),
        }
    }

    async fn remove(&self, record: &Record) -> Result<(), CommitError> {
        let object: Value = serde_json::from_slice(&record.value).unwrap_or_default();
        let (bytes, splice) = encode::canonical(&object);
        let last = Draft { bytes, splice, facets: Facets::default() };
        let op = Op::Delete { expected: record.revision, last };
        match self.store.commit(Write { key: record.key.clone(), op, durability: Durability::Synced }).await {
            // Somebody else has removed or replaced it.
            Ok(_) | Err(CommitError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes the records of what a service no longer holds. What cannot be removed now is found at the next start.
    async fn give_back(&self, holdings: &Holdings, service: &str) {
        for thing in things(holdings) {
            let found = match self.store.get(&thing.key()).await {
                Ok(Some(record)) if owner_of(&record).as_deref() == Some(service) => record,
                Ok(_) => continue,
                Err(error) => {
                    tracing::warn!(service, %error, "cannot give back what a service held");
                    continue;
                }
            };
            if let Err(error) = self.remove(&found).await {
                tracing::warn!(service, key = %found.key, %error, "cannot give back what a service held");
            }
        }
    }

    /// What a stored service holds now.
    async fn held_by(&self, service: &str) -> Result<Holdings, StoreError> {
        let (namespace, name) = service.split_once('/').unwrap_or(("", service));
        let record = self.store.get(&Key::new(SERVICES, namespace, name)).await?;
        let object = record.and_then(|record| serde_json::from_slice::<Value>(&record.value).ok());
        Ok(object.as_ref().map(held).unwrap_or_default())
    }

    /// Makes the records of services that have none, as those of earlier versions and of restored snapshots.
    pub(crate) async fn adopt(&self) -> Result<(), StoreError> {
        let view = self.view(&Holdings::default()).await?;
        for record in self.store.list(&Range::all(SERVICES), At::Latest).await?.iter() {
            let Ok(service) = serde_json::from_slice::<Value>(&record.value) else { continue };
            for thing in things(&held(&service)) {
                let key = thing.key();
                let listing = if &*key.collection == ADDRESSES { &view.addresses } else { &view.ports };
                if listing.get("", &key.name).is_some() {
                    continue;
                }
                match self.make(thing, &record.key.namespace, &record.key.name).await {
                    Ok(Ok(())) => {}
                    Ok(Err(other)) => tracing::debug!(key = %other.key, "another server has made this record"),
                    Err(error) => tracing::warn!(%key, %error, "cannot note what a service holds"),
                }
            }
        }
        Ok(())
    }

    /// The records whose service does not hold them.
    async fn orphans(&self) -> Result<Vec<Record>, StoreError> {
        let mut wanted = HashSet::new();
        for record in self.store.list(&Range::all(SERVICES), At::Latest).await?.iter() {
            if let Ok(service) = serde_json::from_slice::<Value>(&record.value) {
                wanted.extend(things(&held(&service)).map(Thing::key));
            }
        }
        let view = self.view(&Holdings::default()).await?;
        let ours = |record: &&Record| {
            let label = record.facets.label("ipaddress.kubernetes.io/managed-by");
            &*record.key.collection == PORTS || label == Some("ipallocator")
        };
        let records = view.addresses.iter().chain(view.ports.iter()).filter(ours);
        Ok(records.filter(|record| !wanted.contains(&record.key)).cloned().collect())
    }

    /// Once after a start: removes what servers that died have left. A record whose service is just being made is one too,
    /// so they are looked at twice.
    pub(crate) async fn tidy(self, shutdown: CancellationToken) {
        let work = async {
            let before = self.orphans().await?;
            if before.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(ORPHANED).await;
            self.store.fresh().await?;
            for record in self.orphans().await?.iter().filter(|record| before.iter().any(|old| old.same(record))) {
                tracing::info!(key = %record.key, "no service holds this any more");
                if let Err(error) = self.remove(record).await {
                    tracing::warn!(key = %record.key, %error, "cannot remove what no service holds");
                }
            }
            Ok::<(), StoreError>(())
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            done = work => if let Err(error) = done {
                tracing::warn!(%error, "cannot look for addresses that no service holds");
            }
        }
    }
}

/// What a write has reserved beyond what the service had before.
#[must_use]
#[derive(Default)]
pub(crate) struct Claim(Option<Reserved>);

struct Reserved {
    reservations: Reservations,
    service: String,
    taken: Holdings,
    /// What the old state held and the new one does not.
    freed: Holdings,
}

impl Claim {
    /// The write is done: what it left is free.
    pub(crate) async fn keep(mut self) {
        if let Some(reserved) = self.0.take() {
            reserved.reservations.give_back(&reserved.freed, &reserved.service).await;
        }
    }

    /// The write was not done: what it took is free again.
    pub(crate) async fn give_back(mut self) {
        if let Some(reserved) = self.0.take() {
            reserved.reservations.give_back(&reserved.taken, &reserved.service).await;
        }
    }
}

impl Drop for Claim {
    /// The caller has gone while the write was under way: what came of it is looked at a little later.
    fn drop(&mut self) {
        let Some(Reserved { reservations, service, taken, .. }) = self.0.take() else { return };
        if taken == Holdings::default() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                tokio::time::sleep(UNDER_WAY).await;
                match reservations.held_by(&service).await {
                    Ok(now) => reservations.give_back(&taken.without(&now), &service).await,
                    Err(error) => tracing::warn!(service, %error, "cannot see what a service holds"),
                }
            });
        }
    }
}

impl ApiServer {
    /// Takes what a new or changed object needs from ranges that all objects share, and fills it in. `old` is its state
    /// before. A dry run takes nothing.
    pub(crate) async fn claim(
        &self,
        kind: &Kind,
        object: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
    ) -> Answer<Claim> {
        if &*kind.collection != SERVICES {
            return Ok(Claim::default());
        }
        let before = old.map(held).unwrap_or_default();
        let (namespace, name) = (meta(object, "namespace").to_owned(), meta(object, "name").to_owned());
        let service = format!("{namespace}/{name}");
        let mut lost = Holdings::default();
        let allocator = self.reservations.allocator(&self.allocator).await;
        let allocator = allocator.map_err(|error| ApiError::from_store(&error))?;
        for _ in 0..ATTEMPTS {
            let mut view = self.reservations.view(&lost).await.map_err(|error| ApiError::from_store(&error))?;
            let mut candidate = object.clone();
            let chosen = allocator.choose(kind, &mut candidate, &before, &mut view)?;
            let freed = before.without(&held(&candidate));
            let reserved = |taken| {
                let reservations = self.reservations.clone();
                Claim(Some(Reserved { reservations, service: service.clone(), taken, freed: freed.clone() }))
            };
            if dry_run {
                *object = candidate;
                return Ok(Claim::default());
            }
            let mut taken = Holdings::default();
            let mut raced = false;
            for thing in things(&chosen) {
                match self.reservations.make(thing, &namespace, &name).await {
                    Ok(Ok(())) => match thing {
                        Thing::Address(address) => taken.addresses.push(address),
                        Thing::Port(port) => taken.ports.push(port),
                    },
                    Ok(Err(_)) => {
                        raced = true;
                        match thing {
                            Thing::Address(address) => lost.addresses.push(address),
                            Thing::Port(port) => lost.ports.push(port),
                        }
                        break;
                    }
                    Err(error) => {
                        reserved(taken).give_back().await;
                        return Err(ApiError::from_commit(kind, &name, &error));
                    }
                }
            }
            if !raced {
                *object = candidate;
                return Ok(reserved(taken));
            }
            reserved(taken).give_back().await;
        }
        Err(ApiError::internal_words("no address or port could be reserved: others were always faster"))
    }

    /// Notes a deletion that is done.
    pub(crate) async fn deleted(&self, kind: &Kind, record: &Record) {
        if &*kind.collection != SERVICES {
            return;
        }
        if let Ok(service) = serde_json::from_slice::<Value>(&record.value) {
            let name = format!("{}/{}", record.key.namespace, record.key.name);
            self.reservations.give_back(&held(&service), &name).await;
        }
    }
}
