//! Revisioned objects: the store trait, its SQLite implementation and the watch window.
//!
//! The whole current state is in memory ([`Memory`]): lists are snapshots taken in constant time, values are shared by
//! reference count with the watch window, and reads never touch the disk. An implementation of [`Store`] only adds
//! durability: [`SqliteStore`] gathers the writes that wait, decides them in order, writes one transaction, and answers
//! after the one fsync that covers them all.
//!
//! What is deliberately absent: knowledge of Kubernetes. The store sees keys, bytes and [`Facets`]; what an object means
//! is the API server's business.

mod error;
mod intern;
mod listing;
mod memory;
mod object;
mod seal;
mod sqlite;
mod store;
mod watch;

pub use error::{CommitError, OpenError, StoreError, WatchError};
pub use intern::intern;
pub use listing::Listing;
pub use memory::{Limits, Memory};
pub use object::{Draft, Durability, Facets, Key, Op, Range, Record, RecordParts, Revision, Write};
pub use seal::{Opened, SEALED_PREFIX, Seal, SealError};
pub use sqlite::{Config, SqliteStore};
pub use store::{At, Store};
pub use watch::{Event, EventKind, Watch};
