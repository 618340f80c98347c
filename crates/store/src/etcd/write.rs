//! One write: a transaction that compares the key's revision, tried until its outcome is known.
//!
//! A write is a transaction of its own, so that every object has a revision of its own and a watcher can go on from any of
//! them. etcd gathers the transactions that arrive together into one fsync, so writes that run side by side share it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::error::{CommitError, StoreError};
use crate::object::{Key, Op, Record, Revision, Write};
use crate::proposal::Proposal;
use crate::splice;

use super::Inner;
use super::client::CallError;
use super::proto::{
    Against, Compare, DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, Request, Target, TxnRequest, revision,
};

/// A write of this server whose event is still to come. What it knows need not be taken out of the stored bytes again.
pub(super) struct Own {
    pub(super) proposal: Proposal,
    /// The bytes that etcd is given, which are sealed if the store has a seal. A deletion has none.
    pub(super) stored: Bytes,
    /// The revision it deletes.
    pub(super) deletes: Option<Revision>,
}

/// Takes a write out of those whose events are awaited when its caller goes away.
struct Awaited<'a> {
    inner: &'a Inner,
    path: Bytes,
    own: Arc<Own>,
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        let mut drafts = self.inner.drafts.lock();
        if let Some(owns) = drafts.get_mut(&self.path) {
            owns.retain(|own| !Arc::ptr_eq(own, &self.own));
            if owns.is_empty() {
                drafts.remove(&self.path);
            }
        }
    }
}

impl Inner {
    /// A write whose event is awaited and that passes the test.
    pub(super) fn own(&self, path: &Bytes, is_it: impl Fn(&Own) -> bool) -> Option<Arc<Own>> {
        self.drafts.lock().get(path)?.iter().find(|own| is_it(own)).cloned()
    }

    pub(super) async fn write(self: &Arc<Self>, write: Write) -> Result<Record, CommitError> {
        let Write { key, op, durability: _ } = write;
        let path = self.layout.path(&key);
        let (expected, deletes, draft) = match op {
            Op::Create(draft) => (None, false, draft),
            Op::Update { expected, draft } => (Some(expected), false, draft),
            Op::Delete { expected, last } => (Some(expected), true, last),
        };
        let proposal = Proposal::new(draft)?;
        let stored = if deletes { Bytes::new() } else { self.seal(&key, proposal.bytes())? };
        let own = Arc::new(Own { proposal, stored, deletes: expected.filter(|_| deletes) });
        if let Some(current) = self.memory.get(&key)
            && !deletes
            && expected == Some(current.revision)
            && own.proposal.equals(&current)
        {
            return Ok(current);
        }
        self.drafts.lock().entry(path.clone()).or_default().push(own.clone());
        let _awaited = Awaited { inner: self, path: path.clone(), own: own.clone() };
        let at = self.transact(&path, expected, &own).await?;
        let revision = match at {
            Ok(revision) => revision,
            Err(found) => return Err(self.refusal(&path, expected, found).await),
        };
        if let Err(error) = self.reach(revision).await {
            // It is written. Whoever reads next waits for it again, with an error of its own.
            tracing::debug!(%error, revision, "a write is not visible yet");
        }
        let seen = self.memory.get(&key).filter(|record| record.revision.0 == revision);
        Ok(seen.unwrap_or_else(|| {
            let at = Revision(revision);
            Record::new(key, at, own.proposal.value(at), own.proposal.facets.clone())
        }))
    }

    /// What etcd is given of an object.
    pub(super) fn seal(&self, key: &Key, plain: &Bytes) -> Result<Bytes, CommitError> {
        let Some(seal) = &self.seal else { return Ok(plain.clone()) };
        match seal.seal(key, plain) {
            Ok(Cow::Borrowed(_)) => Ok(plain.clone()),
            Ok(Cow::Owned(sealed)) => Ok(sealed.into()),
            Err(error) => Err(CommitError::Refused { source: Arc::new(error) }),
        }
    }

    /// Writes values as they are sealed today, unless somebody else has written them since.
    pub(super) async fn seal_anew(&self, stale: Vec<Record>) -> Result<(), CommitError> {
        let count = stale.len();
        for record in stale {
            let place = splice::version_place(&record.value).expect("records are made of objects that have one");
            let plain = splice::with_version(&record.value, &place, "").into();
            let path = self.layout.path(&record.key);
            let expected = Against::ModRevision(record.revision.0.cast_signed());
            let put = PutRequest { value: self.seal(&record.key, &plain)?, key: path.clone() };
            let txn = TxnRequest {
                compare: vec![Compare { target: Target::Mod.into(), key: path, against: Some(expected) }],
                success: vec![Request::Put(put).into()],
                failure: Vec::new(),
            };
            self.client.txn_once(txn).await.map_err(|error| CommitError::Unavailable { source: error.cause() })?;
        }
        if count > 0 {
            tracing::info!(objects = count, "has encrypted anew what is in etcd");
        }
        Ok(())
    }

    /// Does the write. Answers its revision, or what was found in its way with the revision of the answer.
    async fn transact(
        &self,
        path: &Bytes,
        expected: Option<Revision>,
        own: &Own,
    ) -> Result<Result<u64, (Option<KeyValue>, u64)>, CommitError> {
        let (target, against) = match expected {
            None => (Target::Version, Against::Version(0)),
            Some(revision) => (Target::Mod, Against::ModRevision(revision.0.cast_signed())),
        };
        let change = match own.deletes {
            Some(_) => Request::Delete(DeleteRangeRequest { key: path.clone() }),
            None => Request::Put(PutRequest { key: path.clone(), value: own.stored.clone() }),
        };
        let txn = TxnRequest {
            compare: vec![Compare { target: target.into(), key: path.clone(), against: Some(against) }],
            success: vec![change.into()],
            failure: vec![Request::Range(RangeRequest { key: path.clone(), ..RangeRequest::default() }).into()],
        };
        let started = Instant::now();
        let mut unsure = false;
        loop {
            let error = match self.client.txn_once(txn.clone()).await {
                Ok(answer) => {
                    let now = revision(answer.header.as_ref());
                    if answer.succeeded {
                        return Ok(Ok(now));
                    }
                    let found = answer.read();
                    // An attempt that was not answered may have been the one that made this so.
                    return Ok(match &found {
                        Some(kv) if unsure && own.deletes.is_none() && kv.value == own.stored => {
                            Ok(kv.mod_revision.cast_unsigned())
                        }
                        None if unsure && own.deletes.is_some() => Ok(now),
                        _ => Err((found, now)),
                    });
                }
                Err(error) => error,
            };
            match error {
                CallError::Unavailable(source) => {
                    unsure = true;
                    if !self.client.pause(started).await {
                        return Err(CommitError::Unavailable { source });
                    }
                }
                CallError::Full(source) => return Err(CommitError::Full { source: Some(source) }),
                other => return Err(CommitError::Refused { source: other.cause() }),
            }
        }
    }

    /// Why the write was not done. Whoever tries again reads from memory, so that has what was in the way first.
    async fn refusal(
        self: &Arc<Self>,
        path: &Bytes,
        expected: Option<Revision>,
        (found, now): (Option<KeyValue>, u64),
    ) -> CommitError {
        match self.reach(now).await {
            Ok(()) => {}
            Err(StoreError::Unavailable { source }) => return CommitError::Unavailable { source },
            Err(_) => return CommitError::Closed,
        }
        let current = found.and_then(|kv| {
            let key = self.layout.key(path)?;
            let read = self.record(&kv, self.memory.get(&key).as_ref());
            // What cannot be read is in the way all the same, and was reported when it came.
            read.unwrap_or_default().map(|(record, _)| record)
        });
        match (expected, current) {
            (None, Some(current)) => CommitError::Exists(current),
            (_, current) => CommitError::Conflict { current },
        }
    }
}
