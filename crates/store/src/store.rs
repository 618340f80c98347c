//! The trait that every store implements. It is asynchronous so that a store beyond this machine can implement it.

use futures::future::BoxFuture;

use crate::error::{CommitError, StoreError};
use crate::listing::Listing;
use crate::object::{Key, Range, Record, Revision, Write};
use crate::watch::Watch;

/// Which state a list shows.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// The newest.
    Latest,
    /// The state at exactly that revision: the next pages of a list that was [kept](Store::keep), or any list of a
    /// collection that has not changed since.
    Exact(Revision),
}

/// Revisioned objects.
pub trait Store: Send + Sync + 'static {
    /// Waits until reads are as new as every write that was acknowledged before this was called, by whichever server of
    /// the store. A store that has only one server is so at all times.
    fn fresh(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Whether other servers may write to the store too.
    fn is_shared(&self) -> bool {
        false
    }

    /// The object at a key.
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Record>, StoreError>>;

    /// The objects of a range, as they were at one revision. Taking the snapshot costs the same for any number of objects.
    fn list<'a>(&'a self, range: &'a Range, at: At) -> BoxFuture<'a, Result<Listing, StoreError>>;

    /// Keeps a listing for the following pages, which ask for it with [`At::Exact`] and the listing's revision. Only so
    /// many are kept and only for so long; then those pages are answered with [`StoreError::Expired`].
    fn keep(&self, listing: &Listing);

    /// Does a write and answers when it is as durable as the write asks for.
    ///
    /// Once the returned future has been polled, the write may happen even when the future is dropped.
    fn commit(&self, write: Write) -> BoxFuture<'_, Result<Record, CommitError>>;

    /// The events of a range after a revision, in order and without gaps.
    fn watch(&self, range: &Range, after: Revision) -> Result<Watch, StoreError>;

    /// The newest revision: every write up to it is visible to reads.
    fn revision(&self) -> Revision;

    /// Finishes the writes that wait and ends all watches. Later writes are refused.
    fn close(&self) -> BoxFuture<'_, ()>;
}
