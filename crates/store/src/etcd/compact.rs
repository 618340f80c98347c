//! Lets etcd forget what is older than five minutes, as upstream's API servers do and by the same key, so that of several
//! servers (of both kinds) only one does it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Inner;
use super::client::CallError;
use super::proto::{Against, Compare, PutRequest, RangeRequest, Request, Target, TxnRequest, revision};

/// Upstream's key: its version counts the compactions, its value is the revision of the last one.
const KEY: Bytes = Bytes::from_static(b"compact_rev_key");

impl Inner {
    /// Compacts in intervals until the store is closed.
    pub(super) async fn compact(self: Arc<Self>, interval: Duration) {
        let mut known = (0, 0);
        loop {
            tokio::time::sleep(interval).await;
            // Nothing was written since: nothing to forget, and nothing to write down.
            if self.applied.borrow().revision <= known.1 + 1 {
                continue;
            }
            match self.compact_once(known).await {
                Ok(next) => known = next,
                Err(error) => tracing::warn!(error = %error.cause(), "cannot compact etcd"),
            }
        }
    }

    /// `known` is the version of the key and the revision at that time, which is forgotten now if nobody else has been
    /// faster. Answers both as they are now.
    async fn compact_once(&self, (version, old): (i64, u64)) -> Result<(i64, u64), CallError> {
        let compare = Compare { target: Target::Version.into(), key: KEY, against: Some(Against::Version(version)) };
        let put = PutRequest { key: KEY, value: self.applied.borrow().revision.to_string().into() };
        let txn = TxnRequest {
            compare: vec![compare],
            success: vec![Request::Put(put).into()],
            failure: vec![Request::Range(RangeRequest { key: KEY, ..RangeRequest::default() }).into()],
        };
        let answer = self.client.txn_once(txn).await?;
        let now = revision(answer.header.as_ref());
        if !answer.succeeded {
            return Ok((answer.read().map_or(0, |kv| kv.version), now));
        }
        if old > 0 {
            match self.client.compact(old.cast_signed()).await {
                Ok(()) | Err(CallError::Compacted) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((version + 1, now))
    }
}
