//! Keeps the memory as the cluster is: one read of everything, then one watch of everything.
//!
//! ```text
//! load at R -> watch from R+1 -> event -> memory, watchers
//!    ^              | broken: again from the last event, at the next member
//!    +--------------+ compacted meanwhile: read everything again; watchers get 410 and list anew
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;

use crate::object::{Key, Record, Revision};
use crate::seal::{self, SealError};
use crate::splice;
use crate::watch::EventKind;

use super::client::CallError;
use super::proto::{Event, EventType, KeyValue, RangeRequest, WatchResponse, revision};
use super::{Applied, Inner};

/// What upstream's stored objects begin with.
const PROTOBUF: &[u8] = b"k8s\0";
/// How many objects are read at once.
const PAGE: i64 = 1000;
/// The pause after a broken watch, which doubles up to the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// What a read of many objects has found.
pub(super) struct Loaded {
    pub(super) records: Vec<Record>,
    /// Those of them that would be sealed in another way today.
    pub(super) stale: Vec<Record>,
    /// The revision at which all of this was so.
    pub(super) at: u64,
}

/// An object whose seal cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("the object at {key} cannot be read")]
struct Unreadable {
    key: String,
    source: SealError,
}

/// Why the watch ended.
enum End {
    Broken(CallError),
    Compacted,
}

impl Inner {
    /// The objects between two keys at a revision, 0 for the newest.
    pub(super) async fn load(&self, (mut start, end): (Bytes, Bytes), mut at: u64) -> Result<Loaded, CallError> {
        let mut records = Vec::new();
        let mut stale = Vec::new();
        loop {
            let request = RangeRequest {
                key: start,
                range_end: end.clone(),
                limit: PAGE,
                revision: at.cast_signed(),
                ..RangeRequest::default()
            };
            let page = self.client.range(request).await?;
            if at == 0 {
                at = revision(page.header.as_ref());
            }
            let last = page.kvs.last().map(|kv| kv.key.clone());
            if let Some(kv) = page.kvs.iter().find(|kv| kv.value.starts_with(PROTOBUF)) {
                return Err(CallError::Foreign(String::from_utf8_lossy(&kv.key).into_owned()));
            }
            for kv in &page.kvs {
                let record = self.record(kv, None).map_err(|source| {
                    CallError::Refused(Arc::new(Unreadable {
                        key: String::from_utf8_lossy(&kv.key).into_owned(),
                        source,
                    }))
                })?;
                let Some((record, is_stale)) = record else { continue };
                if is_stale {
                    stale.push(record.clone());
                }
                records.push(record);
            }
            match last {
                Some(last) if page.more => {
                    let mut next = last.to_vec();
                    next.push(0);
                    start = next.into();
                }
                _ => return Ok(Loaded { records, stale, at }),
            }
        }
    }

    /// The record of a stored value, and whether it would be sealed in another way today. What is not of kobune's
    /// form is left out. Keys and facets that stay the same go on
    /// sharing memory with the record before.
    pub(super) fn record(&self, kv: &KeyValue, previous: Option<&Record>) -> Result<Option<(Record, bool)>, SealError> {
        let key = match previous {
            Some(previous) => previous.key.clone(),
            None => match self.layout.key(&kv.key) {
                Some(key) => key,
                None => return Ok(None),
            },
        };
        let revision = Revision(kv.mod_revision.cast_unsigned());
        let own = self.own(&kv.key, |own| own.deletes.is_none() && own.stored == kv.value);
        let (value, facets, stale) = match own {
            Some(own) => (own.proposal.value(revision), own.proposal.facets.clone(), false),
            None => {
                let opened = seal::open(self.seal.as_deref(), &key, &kv.value)?;
                let Some(place) = splice::version_place(&opened.value) else {
                    tracing::error!(%key, "a stored value is no JSON object with metadata.resourceVersion: it is left out");
                    return Ok(None);
                };
                let value = Bytes::from(splice::with_version(&opened.value, &place, &revision.to_string()));
                let facets = Arc::new((self.facets)(&key, &value));
                (value, facets, opened.stale)
            }
        };
        let facets = match previous {
            Some(previous) if previous.facets == facets => previous.facets.clone(),
            _ => facets,
        };
        Ok(Some((Record::new(key, revision, value, facets), stale)))
    }

    /// Follows the cluster until the store is closed.
    pub(super) async fn follow(self: Arc<Self>) {
        let mut pause = PAUSE.0;
        loop {
            let before = self.applied.borrow().revision;
            match self.watch().await {
                End::Compacted => match self.load(self.layout.everything(), 0).await {
                    Ok(Loaded { records, at, .. }) => {
                        tracing::warn!(revision = at, "etcd has compacted what was not seen yet; watchers list again");
                        self.memory.rebuild(Revision(at), records);
                        self.advance(at);
                    }
                    Err(error) => self.broken(error),
                },
                End::Broken(error) => self.broken(error),
            }
            pause = if self.applied.borrow().revision > before { PAUSE.0 } else { (pause * 2).min(PAUSE.1) };
            tokio::time::sleep(pause).await;
        }
    }

    fn broken(&self, error: CallError) {
        self.client.leave_current();
        tracing::info!(error = %error.cause(), "the watch of etcd has ended; it is taken up again");
    }

    async fn watch(&self) -> End {
        let start = self.applied.borrow().revision + 1;
        let mut parts = match self.client.watch(self.layout.everything(), start.cast_signed()).await {
            Ok(parts) => parts,
            Err(error) => return End::Broken(error),
        };
        // Events of one revision may come in several parts; only whole revisions become visible.
        let mut events: Vec<Event> = Vec::new();
        while let Some(part) = parts.next().await {
            let part: WatchResponse = match part {
                Ok(part) => part,
                Err(error) => return End::Broken(error),
            };
            if part.compact_revision > 0 {
                return End::Compacted;
            }
            if part.canceled {
                return End::Broken(tonic::Status::unavailable(part.cancel_reason).into());
            }
            events.extend(part.events);
            if !part.fragment {
                self.apply(&std::mem::take(&mut events));
            }
        }
        End::Broken(tonic::Status::unavailable("the member has closed the watch").into())
    }

    /// Makes events visible.
    fn apply(&self, events: &[Event]) {
        let mut changes = Vec::with_capacity(events.len());
        let mut newest = self.applied.borrow().revision;
        // Several events of one key may come together.
        let mut latest: std::collections::HashMap<Key, Option<Record>> = std::collections::HashMap::new();
        for event in events {
            let Some(kv) = &event.kv else { continue };
            let at = kv.mod_revision.cast_unsigned();
            newest = newest.max(at);
            let Some(key) = self.layout.key(&kv.key) else { continue };
            let previous = match latest.get(&key) {
                Some(known) => known.clone(),
                None => self.memory.get(&key),
            };
            if event.r#type() == EventType::Delete {
                let Some(previous) = previous else { continue };
                let record = self.last_state(&kv.key, &previous, Revision(at));
                latest.insert(key, None);
                changes.push(self.memory.event(record, EventKind::Deleted, Some(previous)));
                continue;
            }
            let record = self.record(kv, previous.as_ref()).unwrap_or_else(|error| {
                tracing::error!(%key, %error, "a stored value cannot be read: it is left out");
                None
            });
            if let Some((record, _)) = record {
                let kind = if previous.is_some() { EventKind::Updated } else { EventKind::Created };
                latest.insert(key, Some(record.clone()));
                changes.push(self.memory.event(record, kind, previous));
            }
        }
        self.memory.publish(changes);
        self.advance(newest);
    }

    /// What watchers are shown of a deleted object: as this server was told when it deleted it, or as it was.
    fn last_state(&self, path: &Bytes, previous: &Record, at: Revision) -> Record {
        if let Some(own) = self.own(path, |own| own.deletes == Some(previous.revision)) {
            return Record::new(previous.key.clone(), at, own.proposal.value(at), own.proposal.facets.clone());
        }
        let value = match splice::version_place(&previous.value) {
            Some(place) => splice::with_version(&previous.value, &place, &at.to_string()).into(),
            None => previous.value.clone(),
        };
        Record::new(previous.key.clone(), at, value, previous.facets.clone())
    }

    /// Everything up to a revision is visible.
    pub(super) fn advance(&self, revision: u64) {
        self.memory.advance(Revision(revision));
        self.applied.send_modify(|applied: &mut Applied| applied.revision = revision);
    }
}
