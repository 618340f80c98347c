//! Revisioned objects: the store trait, its implementations on SQLite and etcd, and the watch window.
//!
//! The whole current state is in memory ([`Memory`]): lists are snapshots taken in constant time, values are shared by
//! reference count with the watch window, and reads never touch the disk. An implementation of [`Store`] only adds
//! durability: [`SqliteStore`] gathers the writes that wait, decides them in order, writes one transaction, and answers
//! after the one fsync that covers them all; [`EtcdStore`] writes to a cluster and follows it by one watch.
//!
//! What is deliberately absent: knowledge of Kubernetes. The store sees keys, bytes and [`Facets`]; what an object means
//! is the API server's business.

mod error;
mod etcd;
mod intern;
mod label_mask;
mod listing;
mod memory;
mod object;
mod proposal;
mod seal;
mod snapshot;
mod splice;
mod sqlite;
mod store;
mod watch;

pub use error::{Cause, CommitError, OpenError, StoreError, WatchError};
pub use etcd::{EtcdConfig, EtcdStore, read_etcd, restore_etcd};
pub use intern::intern;
pub use label_mask::LabelMask;
pub use listing::Listing;
pub use memory::{Limits, Memory};
pub use object::{Draft, Durability, Facets, Key, Op, Range, Record, RecordParts, Revision, Write};
pub use seal::{Opened, SEALED_PREFIX, Seal, SealError};
pub use snapshot::{EPOCH, Snapshot, SnapshotError};
pub use splice::version_place;
pub use sqlite::{Config, SqliteStore};
pub use store::{At, Store};
pub use watch::{Event, EventKind, Watch};
