//! Reads that are as new as every write acknowledged by any server before.
//!
//! The cluster is asked for its revision by a linearizable read of a key that is not there, and the memory is waited for.
//! All who ask while a question is under way share the next one, so a thousand readers cost as many questions as one.
//!
//! etcd's progress notifications would do without the wait for an event, but the versions that Debian 12 and PyPI offer
//! (3.4.23, 3.5.1) may send them before the events they cover. So where the revision was reached by a write outside our
//! prefix, which shows us no event, one small write of our own follows.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::error::StoreError;

use super::Inner;
use super::client::CallError;
use super::proto::{PutRequest, RangeRequest, Request, TxnRequest, revision};

/// How long an event may take from the cluster to here before the revision is taken for one without an event.
const EVENT: Duration = Duration::from_millis(100);
/// How long the memory may take to catch up, reconnecting included.
const CATCH_UP: Duration = Duration::from_secs(10);

type Answer = Result<u64, CallError>;

/// Those who wait for the next question, and whether one is under way.
#[derive(Default)]
pub(super) struct Questions {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    asking: bool,
    waiting: Vec<oneshot::Sender<Answer>>,
}

impl Inner {
    /// The cluster's revision, asked after this was called.
    async fn cluster_revision(self: &std::sync::Arc<Self>) -> Answer {
        let (reply, answer) = oneshot::channel();
        let first = {
            let mut state = self.questions.state.lock();
            state.waiting.push(reply);
            !std::mem::replace(&mut state.asking, true)
        };
        if first {
            // A task of its own: whoever asked first may go away.
            tokio::spawn(self.clone().ask());
        }
        answer.await.unwrap_or_else(|_| Err(tonic::Status::cancelled("the store is closed").into()))
    }

    async fn ask(self: std::sync::Arc<Self>) {
        loop {
            let waiting = {
                let mut state = self.questions.state.lock();
                if state.waiting.is_empty() {
                    state.asking = false;
                    return;
                }
                std::mem::take(&mut state.waiting)
            };
            let request = RangeRequest { key: self.layout.own("sync"), keys_only: true, ..RangeRequest::default() };
            let answer = self.client.range(request).await.map(|range| revision(range.header.as_ref()));
            for reply in waiting {
                // Whoever has gone needs no answer.
                drop(reply.send(answer.clone()));
            }
        }
    }

    /// Waits until reads from memory are as new as the cluster is now.
    pub(super) async fn fresh(self: &std::sync::Arc<Self>) -> Result<(), StoreError> {
        let wanted = self.cluster_revision().await.map_err(unavailable)?;
        self.reach(wanted).await
    }

    /// Waits until the memory has everything up to a revision.
    pub(super) async fn reach(self: &std::sync::Arc<Self>, wanted: u64) -> Result<(), StoreError> {
        if self.wait_for(wanted, EVENT).await? {
            return Ok(());
        }
        let put = PutRequest { key: self.layout.own("sync"), value: bytes::Bytes::new() };
        let txn = TxnRequest { success: vec![Request::Put(put).into()], ..TxnRequest::default() };
        self.client.txn_once(txn).await.map_err(unavailable)?;
        if self.wait_for(wanted, CATCH_UP).await? {
            return Ok(());
        }
        Err(unavailable(tonic::Status::unavailable("the watch of the cluster is behind").into()))
    }

    /// Whether the memory has reached a revision in time.
    async fn wait_for(&self, wanted: u64, time: Duration) -> Result<bool, StoreError> {
        let mut applied = self.applied.subscribe();
        let reached = applied.wait_for(|applied| applied.revision >= wanted || applied.closed);
        match tokio::time::timeout(time, reached).await {
            Ok(Ok(applied)) if applied.closed => Err(StoreError::Closed),
            Ok(Ok(_)) => Ok(true),
            Ok(Err(_)) => Err(StoreError::Closed),
            Err(_) => Ok(false),
        }
    }
}

pub(super) fn unavailable(error: CallError) -> StoreError {
    StoreError::Unavailable { source: error.cause() }
}
