//! A store whose work for a traced request has spans.

use std::sync::Arc;

use futures::future::BoxFuture;
use kobune_store::{At, CommitError, Key, Listing, Op, Range, Record, Revision, Store, StoreError, Watch, Write};

use super::{Fact, Side, begin};

/// A store as it is, with spans.
pub(crate) struct Traced(pub(crate) Arc<dyn Store>);

/// Waits for a piece of work below the request's span.
async fn within<T, E: std::fmt::Display>(
    name: &str,
    collection: &str,
    work: BoxFuture<'_, Result<T, E>>,
) -> Result<T, E> {
    let mut span = begin(name, Side::Internal);
    let outcome = work.await;
    if let Some(span) = &mut span {
        if !collection.is_empty() {
            span.fact("collection", Fact::Text(collection.to_owned()));
        }
        if let Err(error) = &outcome {
            span.failed(error);
        }
    }
    outcome
}

impl Store for Traced {
    fn fresh(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(within("store fresh", "", self.0.fresh()))
    }

    fn is_shared(&self) -> bool {
        self.0.is_shared()
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Record>, StoreError>> {
        Box::pin(within("store get", &key.collection, self.0.get(key)))
    }

    fn list<'a>(&'a self, range: &'a Range, at: At) -> BoxFuture<'a, Result<Listing, StoreError>> {
        Box::pin(within("store list", &range.collection, self.0.list(range, at)))
    }

    fn keep(&self, listing: &Listing) {
        self.0.keep(listing);
    }

    fn commit(&self, write: Write) -> BoxFuture<'_, Result<Record, CommitError>> {
        let name = match &write.op {
            Op::Create(_) => "store create",
            Op::Update { .. } => "store update",
            Op::Delete { .. } => "store delete",
        };
        let collection = write.key.collection.to_string();
        Box::pin(async move { within(name, &collection, self.0.commit(write)).await })
    }

    fn watch(&self, range: &Range, after: Revision) -> Result<Watch, StoreError> {
        self.0.watch(range, after)
    }

    fn revision(&self) -> Revision {
        self.0.revision()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.0.close()
    }
}
