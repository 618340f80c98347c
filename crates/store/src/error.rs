//! What can go wrong, one enum an operation.

use std::path::PathBuf;
use std::sync::Arc;

use crate::object::{Record, Revision};
use crate::seal::SealError;

/// The cause of a failed operation, shared by all who wait for it.
pub type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// Why a write was not done. Nothing of it is visible to anyone.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A create found the key taken.
    #[error("the object exists already at revision {}", .0.revision)]
    Exists(Record),
    /// An update or delete expected another revision, or an object where there is none.
    #[error("the object is not at the expected revision")]
    Conflict {
        /// The state that was found.
        current: Option<Record>,
    },
    /// There is no room on the disk (or below the configured limit). Reads go on; writes succeed again once there is room.
    #[error("no room left for the database")]
    Full {
        /// What SQLite or etcd said; absent when too much waits to be written.
        source: Option<Cause>,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The disk failed.
    #[error("cannot write the database")]
    Io {
        /// What SQLite said.
        source: Cause,
    },
    /// The cluster of the store does not answer. The write may have happened.
    #[error("the store does not answer")]
    Unavailable {
        /// What the last attempt met.
        source: Cause,
    },
    /// The cluster of the store refuses the write, for example because the object is too large for it.
    #[error("the store refuses the write")]
    Refused {
        /// What it said.
        source: Cause,
    },
    /// The draft's splice offset is not between two quotation marks: a mistake of the caller.
    #[error("the draft has no empty resourceVersion at offset {splice}")]
    Splice {
        /// The offset that was given.
        splice: usize,
    },
}

/// Why a read was not answered.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store no longer knows the state, or the events since, that revision. The client gets 410 Gone.
    #[error("revision {requested} is too old: the oldest that is still known is {oldest}")]
    Expired {
        /// What was asked for.
        requested: Revision,
        /// The oldest revision that would have been answered.
        oldest: Revision,
    },
    /// The revision has not been reached yet.
    #[error("revision {requested} is in the future: the current one is {current}")]
    Future {
        /// What was asked for.
        requested: Revision,
        /// The newest revision.
        current: Revision,
    },
    /// The cluster of the store does not answer.
    #[error("the store does not answer")]
    Unavailable {
        /// What the last attempt met.
        source: Cause,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// Why a watch ended.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The watcher was so slow that events it has not seen left the window. The client gets 410 Gone and lists again.
    #[error("the watcher fell behind the window after revision {after}")]
    Lagged {
        /// The last revision that the watcher is complete to.
        after: Revision,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another part of this one, has it open.
    #[error("the database {} is in use by another kobune", path.display())]
    InUse {
        /// The database file.
        path: PathBuf,
    },
    /// The lock file beside the database could not be made or locked.
    #[error("cannot lock {}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is damaged or is no database at all.
    #[error("the database {} is corrupt: {problem}", path.display())]
    Corrupt {
        /// The database file.
        path: PathBuf,
        /// What the integrity check found.
        problem: String,
    },
    /// The file was made by a newer kobune, or by another program.
    #[error("the database {} has format {found}, this kobune knows {known}", path.display())]
    Format {
        /// The database file.
        path: PathBuf,
        /// The format in the file.
        found: i64,
        /// The format that this program writes.
        known: i64,
    },
    /// An object on disk is encrypted and cannot be read.
    #[error("cannot decrypt {key} in the database {}", path.display())]
    Sealed {
        /// The database file.
        path: PathBuf,
        /// The object's key.
        key: String,
        /// Why.
        source: SealError,
    },
    /// SQLite failed.
    #[error("cannot open the database {}", path.display())]
    Sqlite {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The writer's thread could not be started.
    #[error("cannot start the writer of the database {}", path.display())]
    Thread {
        /// The database file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No address of an etcd member was given.
    #[error("there is no address of an etcd member")]
    NoEtcd,
    /// The address of an etcd member, or the keys for it, are not understood.
    #[error("cannot use the etcd member {url}")]
    EtcdAddress {
        /// The address as given.
        url: String,
        /// Why.
        source: tonic::transport::Error,
    },
    /// The etcd cluster does not answer, or refuses.
    #[error("cannot read from etcd")]
    Etcd {
        /// What it said.
        source: Cause,
    },
    /// Below the prefix there are objects that another Kubernetes has stored.
    #[error("etcd holds objects of another Kubernetes, such as {key}: choose another prefix")]
    Foreign {
        /// The key of one of them.
        key: String,
    },
    /// A snapshot can only be restored where nothing is.
    #[error("etcd holds {key} already: choose another prefix, or delete what is there")]
    NotEmpty {
        /// A key that is there.
        key: String,
    },
    /// A restore was cut off.
    #[error("a snapshot was restored into etcd only in part: delete everything below the prefix and restore it again")]
    Unfinished,
}
