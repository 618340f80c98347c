//! ResourceQuota: a namespace holds no more than its quotas allow.
//!
//! What is used is counted from what exists, not from the quota's status, which trails behind. Writes that were admitted but are not
//! stored yet count too, so that a burst of creations cannot slip past together: those of this server by a note in memory, and
//! where several servers share the store, those of all by a note there ([`shared`]).

pub(crate) mod shared;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use kobune_kinds::quantity::Quantity;
use kobune_kinds::quota::{Measured, Resources, measure, resources};
use kobune_store::{EventKind, Key, Record, Revision, Store, Watch};
use parking_lot::Mutex;
use serde_json::Value;

use super::fields::text;
use super::{Operation, Request};
use crate::security::Refusal;
use crate::security::lookup::Lookup;

const COLLECTION: &str = "core/resourcequotas";
/// How long an admitted creation may take to be stored before its share is free again. It takes milliseconds; one that failed blocks
/// its share for this long.
const RESERVATION: Duration = Duration::from_secs(2);
/// How often it is counted again after another server was faster.
const ATTEMPTS: usize = 64;
/// How many measured objects are kept: those of the namespaces that have quotas.
const MEASURED: usize = 8192;

/// The account of namespaces with quotas.
#[derive(Default)]
pub(in crate::security) struct QuotaBook {
    /// Held from counting to reserving, so that of two creations that fit only alone, one is refused. In between only the store's
    /// memory is read. Namespaces without a quota never come here.
    turn: tokio::sync::Mutex<shared::Sightings>,
    /// Entries of what all servers know about whose object was stored, or will not be.
    over: Mutex<HashSet<String>>,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    next: u64,
    reserved: HashMap<u64, Reservation>,
    measured: HashMap<Key, (Revision, Arc<Measured>)>,
}

/// The share of an admitted creation that may not be stored yet.
struct Reservation {
    collection: Arc<str>,
    namespace: Arc<str>,
    name: String,
    measured: Arc<Measured>,
}

/// Waits until an object is stored, for [`RESERVATION`] at most.
async fn appears(mut watch: Watch, name: &str) {
    let stored = async {
        // A watch that breaks frees the share early: then the store is closing.
        while let Ok(event) = watch.next().await {
            if event.kind == EventKind::Created && *event.record.key.name == *name {
                return;
            }
        }
    };
    if tokio::time::timeout(RESERVATION, stored).await.is_err() {
        tracing::debug!(name, "an admitted object was not stored");
    }
}

impl QuotaBook {
    /// Reserves a share until the object shows up in `watch`, or for [`RESERVATION`] at most.
    fn reserve(self: &Arc<QuotaBook>, reservation: Reservation, watch: Watch) {
        let name = reservation.name.clone();
        let number = {
            let mut entries = self.entries.lock();
            entries.next += 1;
            let number = entries.next;
            entries.reserved.insert(number, reservation);
            number
        };
        let book = self.clone();
        tokio::spawn(async move {
            appears(watch, &name).await;
            book.entries.lock().reserved.remove(&number);
        });
    }

    /// Takes an entry of what all servers know about out when its object shows up in `watch`, or after [`RESERVATION`].
    fn follow(self: &Arc<QuotaBook>, store: Arc<dyn Store>, namespace: String, name: String, id: String, watch: Watch) {
        let book = self.clone();
        tokio::spawn(async move {
            appears(watch, &name).await;
            book.over.lock().insert(id);
            // Whoever comes first takes out what is over for all who wait here.
            let mut sightings = book.turn.lock().await;
            sightings.are_over(&mut book.over.lock());
            let tidied = match shared::Page::read(&*store, &namespace).await {
                Ok(page) => page.tidy(&*store, &mut sightings).await,
                Err(error) => Err(error),
            };
            if let Err(error) = tidied {
                tracing::debug!(namespace, error = error.message, "what was admitted is not taken out yet");
            }
        });
    }

    fn measure(&self, group: &str, resource: &str, record: &Record) -> Result<Arc<Measured>, Refusal> {
        if let Some((revision, measured)) = self.entries.lock().measured.get(&record.key)
            && *revision == record.revision
        {
            return Ok(measured.clone());
        }
        let object: Value = serde_json::from_slice(&record.value).map_err(|error| {
            tracing::error!(key = %record.key, %error, "a stored object is unreadable");
            Refusal::internal(format_args!("cannot read {}", record.key))
        })?;
        let measured = Arc::new(measure(group, resource, &object));
        let mut entries = self.entries.lock();
        if entries.measured.len() >= MEASURED {
            entries.measured.clear();
        }
        entries.measured.insert(record.key.clone(), (record.revision, measured.clone()));
        Ok(measured)
    }

    /// What the objects of the collection in the namespace use, with what is on its way into the store: by the reservations
    /// here, and by `waiting`.
    async fn existing(
        &self,
        lookup: &Lookup,
        request: &Request<'_>,
        collection: &str,
        mut waiting: Vec<(String, Arc<Measured>)>,
    ) -> Result<Vec<Arc<Measured>>, Refusal> {
        // The reservations are read before the store: what is stored in between is found in both and counted once.
        {
            let entries = self.entries.lock();
            let of_place = entries.reserved.values().filter(|reservation| {
                &*reservation.collection == collection && &*reservation.namespace == request.namespace
            });
            waiting.extend(of_place.map(|reservation| (reservation.name.clone(), reservation.measured.clone())));
        }
        let mut found = Vec::new();
        for record in lookup.records(collection, Some(request.namespace)).await? {
            waiting.retain(|(name, _)| **name != *record.key.name);
            found.push(self.measure(request.group, request.resource, &record)?);
        }
        found.extend(waiting.into_iter().map(|(_, measured)| measured));
        Ok(found)
    }
}

/// Refuses what would exceed a quota of the namespace.
pub(super) async fn validate(
    lookup: &Lookup,
    book: &Arc<QuotaBook>,
    request: &Request<'_>,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), Refusal> {
    let relevant = request.subresource.is_empty() || (request.resource == "pods" && request.subresource == "resize");
    if request.namespace.is_empty() || !relevant || !request.writes() {
        return Ok(());
    }
    let quotas = lookup.all(COLLECTION, Some(request.namespace)).await?;
    if quotas.is_empty() {
        return Ok(());
    }
    let wanted = Arc::new(measure(request.group, request.resource, object));
    let before = old.filter(|_| request.operation == Operation::Update);
    let before = before.map(|old| measure(request.group, request.resource, old));
    let mut growing = Vec::new();
    for quota in quotas.iter().filter(|quota| wanted.in_scope(quota)) {
        let hard = resources(quota.pointer("/spec/hard"));
        if request.creates()
            && let Some(missing) = wanted.unspecified(&hard)
        {
            let name = text(&quota["metadata"], "name");
            return Err(request.forbid(Some(object), format!("failed quota: {name}: must specify {missing}")));
        }
        let before = before.as_ref().filter(|before| before.in_scope(quota));
        let grown = growth(&hard, &wanted, before);
        if !grown.is_empty() {
            growing.push((quota, hard, grown));
        }
    }
    if growing.is_empty() {
        return Ok(());
    }

    let group = if request.group.is_empty() { "core" } else { request.group };
    let collection = format!("{group}/{}", request.resource);
    let reserves = request.creates() && !request.dry_run;
    let mut sightings = book.turn.lock().await;
    for attempt in 1.. {
        let mut page = None;
        let mut waiting = Vec::new();
        let store = lookup.store();
        if store.is_shared() {
            sightings.are_over(&mut book.over.lock());
            let page = page.insert(shared::Page::read(&**store, request.namespace).await?);
            waiting = page.waiting(&**store, &mut sightings, request).await?;
        }
        let existing = book.existing(lookup, request, &collection, waiting).await?;
        for (quota, hard, grown) in &growing {
            let of_quota = existing.iter().filter(|measured| measured.in_scope(quota));
            if let Some(excess) = excess(hard, grown, of_quota.map(Arc::as_ref)) {
                let name = text(&quota["metadata"], "name");
                return Err(request.forbid(Some(object), format!("exceeded quota: {name}, {excess}")));
            }
        }
        let Some(page) = page else { break };
        if !reserves {
            return Ok(());
        }
        let watch = lookup.watch(&collection, request.namespace)?;
        if let Some(id) = page.admit(&**store, request, object).await? {
            let name = text(&object["metadata"], "name").to_owned();
            book.follow(Arc::clone(store), request.namespace.to_owned(), name, id, watch);
            return Ok(());
        }
        if attempt == ATTEMPTS {
            return Err(Refusal::internal("the quotas are counted by other servers all the time"));
        }
    }
    if reserves {
        let reservation = Reservation {
            collection: collection.as_str().into(),
            namespace: request.namespace.into(),
            name: text(&object["metadata"], "name").to_owned(),
            measured: wanted,
        };
        book.reserve(reservation, lookup.watch(&collection, request.namespace)?);
    }
    Ok(())
}

/// What a write adds to the bounded resources.
fn growth(hard: &Resources, now: &Measured, before: Option<&Measured>) -> Resources {
    let more = |key: &String| {
        let now = *now.used.get(key)?;
        let more = before.and_then(|before| before.used.get(key)).map_or(now, |then| now - *then);
        (!more.is_zero() && !more.is_negative()).then(|| (key.clone(), more))
    };
    hard.keys().filter_map(more).collect()
}

/// What would be too much, in upstream's words.
fn excess<'a>(hard: &Resources, grown: &Resources, existing: impl Iterator<Item = &'a Measured>) -> Option<String> {
    let mut used: Resources = grown.keys().map(|key| (key.clone(), Quantity::from_milli(0))).collect();
    for measured in existing {
        for (key, sum) in &mut used {
            if let Some(more) = measured.used.get(key) {
                *sum = *sum + *more;
            }
        }
    }
    let over: Vec<&String> = grown.keys().filter(|key| used[*key] + grown[*key] > hard[*key]).collect();
    let list = |from: &Resources| over.iter().map(|key| format!("{key}={}", from[*key])).collect::<Vec<_>>().join(",");
    (!over.is_empty()).then(|| format!("requested: {}, used: {}, limited: {}", list(grown), list(&used), list(hard)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn excess_is_listed() {
        let hard = resources(Some(&json!({ "pods": "2", "requests.cpu": "1", "services": "1" })));
        let pod = |cpu: &str| {
            let object = json!({ "spec": { "containers": [{ "resources": { "requests": { "cpu": cpu } } }] } });
            measure("", "pods", &object)
        };
        let check = |existing: &[&str], wanted: &str, expected: Option<&str>| {
            let existing: Vec<Measured> = existing.iter().map(|cpu| pod(cpu)).collect();
            let grown = growth(&hard, &pod(wanted), None);
            assert_eq!(excess(&hard, &grown, existing.iter()).as_deref(), expected);
        };
        check(&["500m"], "500m", None);
        check(
            &["500m"],
            "600m",
            Some("requested: requests.cpu=600m, used: requests.cpu=500m, limited: requests.cpu=1"),
        );
        check(
            &["500m", "500m"],
            "100m",
            Some("requested: pods=1,requests.cpu=100m, used: pods=2,requests.cpu=1, limited: pods=2,requests.cpu=1"),
        );
        assert!(growth(&hard, &pod("500m"), Some(&pod("500m"))).is_empty());
    }
}
