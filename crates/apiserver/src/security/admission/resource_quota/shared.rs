//! What several servers of one store have admitted and not stored yet, so that of two creations on two servers that fit
//! only alone, one is refused.
//!
//! A record for each namespace with quotas lists such creations. Who admits one adds it there, against the revision of the
//! record that it has counted with, so admissions follow each other, and takes it out when the object is stored or will not
//! be. An entry counts until its object is seen; one of a server that has died, until it has been seen for [`RESERVATION`],
//! by the clock of whoever looks.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use kobune_kinds::quota::{Measured, measure};
use kobune_store::{CommitError, Draft, Durability, Facets, Key, Op, Record, Store, Write};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::RESERVATION;
use crate::{
    encode,
    security::{Refusal, admission::Request},
};

/// Where the records are, which are no resource.
pub(crate) const COLLECTION: &str = "kobune/quotas";

/// How many creations may be on their way in one namespace; further ones are asked to come again.
const MOST: usize = 1024;

/// A creation that was admitted.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    id: String,
    group: String,
    resource: String,
    name: String,
    /// What it uses is measured from the object.
    object: Value,
}

/// What a record says.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Admitted {
    #[serde(default)]
    entries: Vec<Entry>,
}

/// The record of a namespace as it was read.
pub(super) struct Page {
    key: Key,
    record: Option<Record>,
    entries: Vec<Entry>,
}

/// What is known here of entries.
#[derive(Debug, Default)]
pub(in crate::security) struct Sightings {
    /// When they were first seen.
    seen: HashMap<String, Instant>,
    /// Those of this server whose object was stored, or will not be.
    over: HashSet<String>,
}

impl Sightings {
    /// Takes over which entries of this server are over.
    pub(super) fn are_over(&mut self, ids: &mut HashSet<String>) {
        self.over.extend(ids.drain());
    }

    /// Forgets entries that are gone and keeps those whose time is not over. `stored` says whether the object of an entry
    /// is there.
    fn keep(&mut self, entries: &mut Vec<Entry>, now: Instant, stored: impl Fn(&Entry) -> bool) {
        entries.retain(|entry| {
            let first = *self.seen.entry(entry.id.clone()).or_insert(now);
            !self.over.contains(&entry.id) && !stored(entry) && now.duration_since(first) < RESERVATION
        });
        if self.seen.len() > 2 * MOST {
            self.seen.retain(|_, first| now.duration_since(*first) < RESERVATION);
            // An entry that has not been seen for so long is in no record any more.
            let seen = &self.seen;
            self.over.retain(|id| seen.contains_key(id));
        }
    }
}

impl Page {
    /// Reads the record of a namespace, as new as any server's admission before.
    pub(super) async fn read(store: &dyn Store, namespace: &str) -> Result<Page, Refusal> {
        store.fresh().await.map_err(Refusal::internal)?;
        let key = Key::new(COLLECTION, "", namespace);
        let record = store.get(&key).await.map_err(Refusal::internal)?;
        let admitted: Admitted = match &record {
            None => Admitted::default(),
            Some(record) => serde_json::from_slice(&record.value)
                .map_err(|error| Refusal::internal(format_args!("the record {key} is damaged: {error}")))?,
        };
        Ok(Page { key, record, entries: admitted.entries })
    }

    /// The names of the creations of the request's resource that are on their way, and what they use. Entries that are over
    /// are taken out.
    pub(super) async fn waiting(
        &mut self,
        store: &dyn Store,
        sightings: &mut Sightings,
        request: &Request<'_>,
    ) -> Result<Vec<(String, Arc<Measured>)>, Refusal> {
        let mut there = Vec::new();
        for entry in &self.entries {
            let group = if entry.group.is_empty() { "core" } else { &entry.group };
            let key = Key::new(&format!("{group}/{}", entry.resource), request.namespace, &entry.name);
            if store.get(&key).await.map_err(Refusal::internal)?.is_some() {
                there.push(entry.id.clone());
            }
        }
        sightings.keep(&mut self.entries, Instant::now(), |entry| there.contains(&entry.id));
        let same =
            self.entries.iter().filter(|entry| entry.group == request.group && entry.resource == request.resource);
        let measured = |entry: &Entry| Arc::new(measure(&entry.group, &entry.resource, &entry.object));
        Ok(same.map(|entry| (entry.name.clone(), measured(entry))).collect())
    }

    /// Adds a creation and gives the identity of its entry; `None` when another server was faster and everything has to be
    /// counted again.
    pub(super) async fn admit(
        mut self,
        store: &dyn Store,
        request: &Request<'_>,
        object: &Value,
    ) -> Result<Option<String>, Refusal> {
        if self.entries.len() >= MOST {
            return Err(Refusal::internal(format_args!(
                "too many creations are on their way in {}",
                request.namespace
            )));
        }
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        let id = uuid::Uuid::new_v4().to_string();
        self.entries.push(Entry {
            id: id.clone(),
            group: request.group.to_owned(),
            resource: request.resource.to_owned(),
            name: super::text(&object["metadata"], "name").to_owned(),
            object,
        });
        Ok(self.write(store).await?.then_some(id))
    }

    /// Takes out what is over, if anything is.
    pub(super) async fn tidy(mut self, store: &dyn Store, sightings: &mut Sightings) -> Result<(), Refusal> {
        let before = self.entries.len();
        sightings.keep(&mut self.entries, Instant::now(), |_| false);
        if self.entries.len() < before {
            // Should somebody else write meanwhile, the next one here finds the same to be over.
            self.write(store).await?;
        }
        Ok(())
    }

    /// Writes the entries, unless somebody else has done so since they were read.
    async fn write(self, store: &dyn Store) -> Result<bool, Refusal> {
        let (bytes, splice) =
            encode::canonical(&json!({"metadata": {"name": &*self.key.name}, "entries": self.entries}));
        let draft = Draft { bytes, splice, facets: Facets::default() };
        let op = match &self.record {
            None => Op::Create(draft),
            Some(record) => Op::Update { expected: record.revision, draft },
        };
        // It is about the next seconds only: after a power cut there is nothing on its way.
        match store.commit(Write { key: self.key, op, durability: Durability::Relaxed }).await {
            Ok(_) => Ok(true),
            Err(CommitError::Conflict { .. } | CommitError::Exists(_)) => Ok(false),
            Err(error) => Err(Refusal::internal(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn entries_count_until_they_are_over() {
        let entry = |id: &str| Entry {
            id: id.to_owned(),
            group: String::new(),
            resource: "pods".to_owned(),
            name: id.to_owned(),
            object: Value::Null,
        };
        let start = Instant::now();
        let mut sightings = Sightings::default();
        let mut entries = vec![entry("a"), entry("b")];
        sightings.keep(&mut entries, start, |entry| entry.id == "a");
        assert_eq!(entries.iter().map(|entry| entry.id.as_str()).collect::<Vec<_>>(), ["b"]);
        entries.push(entry("c"));
        sightings.keep(&mut entries, start + RESERVATION - Duration::from_millis(1), |_| false);
        assert_eq!(entries.len(), 2);
        sightings.keep(&mut entries, start + RESERVATION, |_| false);
        assert_eq!(entries.iter().map(|entry| entry.id.as_str()).collect::<Vec<_>>(), ["c"], "each by its own time");
        sightings.are_over(&mut HashSet::from(["c".to_owned()]));
        sightings.keep(&mut entries, start + RESERVATION, |_| false);
        assert!(entries.is_empty());
    }
}
