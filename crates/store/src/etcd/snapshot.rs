//! Snapshots of what is in etcd: read at one revision, and written below a prefix that has nothing yet.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use crate::error::OpenError;
use crate::object::{Facets, Record, Revision};
use crate::snapshot::Snapshot;
use crate::splice;

use super::client::CallError;
use super::proto::{DeleteRangeRequest, PutRequest, RangeRequest, Request, TxnRequest, revision};
use super::{EtcdConfig, Inner};

/// How many writes are under way at once.
const AT_ONCE: usize = 64;

/// The key that says that a restore has begun and not ended.
pub(super) const UNFINISHED: &str = "restoring";

/// All objects of a cluster at one revision.
pub async fn read_etcd(config: EtcdConfig) -> Result<Snapshot, OpenError> {
    let inner = Inner::new(config, |_, _| Facets::default())?;
    let loaded = inner.load(inner.layout.everything(), 0).await.map_err(refused)?;
    Ok(Snapshot { revision: Revision(loaded.at), records: loaded.records })
}

/// Writes a snapshot below the prefix, where nothing may be yet. Answers the revision afterwards.
///
/// A cluster's revisions cannot leap, so as many small writes are made first as bring it above the snapshot's: clients that
/// have seen the old cluster's revisions find them too old.
pub async fn restore_etcd(config: EtcdConfig, snapshot: Snapshot) -> Result<Revision, OpenError> {
    let inner = Inner::new(config, |_, _| Facets::default())?;
    let (key, range_end) = inner.layout.everything();
    let request = RangeRequest { key, range_end, limit: 1, keys_only: true, ..RangeRequest::default() };
    let found = inner.client.range(request).await.map_err(refused)?;
    if let Some(kv) = found.kvs.first() {
        return Err(OpenError::NotEmpty { key: String::from_utf8_lossy(&kv.key).into_owned() });
    }
    let now = revision(found.header.as_ref());
    let unfinished = inner.layout.own(UNFINISHED);
    let behind = snapshot.revision.0.saturating_sub(now) + 1;
    let marks = (0..behind).map(|_| (unfinished.clone(), Bytes::new()));
    put_all(&inner, marks).await?;
    let mut objects = Vec::with_capacity(snapshot.records.len());
    for record in &snapshot.records {
        objects.push((inner.layout.path(&record.key), stored(&inner, record)?));
    }
    put_all(&inner, objects.into_iter()).await?;
    let delete = Request::Delete(DeleteRangeRequest { key: unfinished });
    let txn = TxnRequest { success: vec![delete.into()], ..TxnRequest::default() };
    let done = inner.client.txn_once(txn).await.map_err(refused)?;
    Ok(Revision(revision(done.header.as_ref())))
}

fn stored(inner: &Inner, record: &Record) -> Result<Bytes, OpenError> {
    let place = splice::version_place(&record.value).expect("records of a snapshot were checked for it");
    let plain = splice::with_version(&record.value, &place, "").into();
    inner.seal(&record.key, &plain).map_err(|error| OpenError::Etcd { source: Arc::new(error) })
}

async fn put_all(inner: &Inner, pairs: impl Iterator<Item = (Bytes, Bytes)>) -> Result<(), OpenError> {
    let puts = pairs.map(|(key, value)| async move {
        let put = Request::Put(PutRequest { key, value });
        let txn = TxnRequest { success: vec![put.into()], ..TxnRequest::default() };
        inner.client.txn_once(txn).await.map(drop)
    });
    stream::iter(puts).buffer_unordered(AT_ONCE).try_collect().await.map_err(refused)
}

pub(super) fn refused(error: CallError) -> OpenError {
    match error {
        CallError::Foreign(key) => OpenError::Foreign { key },
        other => OpenError::Etcd { source: other.cause() },
    }
}
