//! The words of the store: keys, revisions, records, and the writes that make them.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;

use crate::intern::intern;

/// The number of a write. It rises by at least one with each write and is never handed out twice, also after a crash.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Where an object lives. Keys sort by collection, then namespace, then name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// `"<group or core>/<plural>"`, for example `core/pods` or `apps/deployments`.
    pub collection: Arc<str>,
    /// The namespace; empty for objects of the cluster.
    pub namespace: Arc<str>,
    /// The object's name.
    pub name: Arc<str>,
}

impl Key {
    /// A key whose collection and namespace share memory with all other keys of the same collection and namespace.
    pub fn new(collection: &str, namespace: &str, name: &str) -> Key {
        Key { collection: intern(collection), namespace: intern(namespace), name: Arc::from(name) }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(formatter, "{}/{}", self.collection, self.name)
        } else {
            write!(formatter, "{}/{}/{}", self.collection, self.namespace, self.name)
        }
    }
}

/// What selectors need of an object, taken out once when it is written so that reads never parse the value.
///
/// The key's namespace and name need not be repeated here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facets {
    /// The object's labels, sorted by key.
    pub labels: Box<[(Arc<str>, Arc<str>)]>,
    /// The fields that a field selector may name, with their values, sorted by path.
    pub fields: Box<[(Arc<str>, Arc<str>)]>,
}

impl Facets {
    /// Builds facets from pairs in any order; equal strings of all objects share memory.
    pub fn new<'a>(
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        fields: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Facets {
        Facets { labels: sorted(labels), fields: sorted(fields) }
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        find(&self.labels, key)
    }

    /// The value of a selectable field.
    pub fn field(&self, path: &str) -> Option<&str> {
        find(&self.fields, path)
    }
}

fn sorted<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Box<[(Arc<str>, Arc<str>)]> {
    let mut pairs: Vec<_> = pairs.into_iter().map(|(key, value)| (intern(key), intern(value))).collect();
    pairs.sort_unstable();
    pairs.into_boxed_slice()
}

fn find<'a>(pairs: &'a [(Arc<str>, Arc<str>)], key: &str) -> Option<&'a str> {
    let index = pairs.binary_search_by(|(candidate, _)| (**candidate).cmp(key)).ok()?;
    Some(&pairs[index].1)
}

/// An object on its way into the store, whose revision is not known yet.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// Canonical JSON in which `metadata.resourceVersion` is the empty string `""`.
    pub bytes: Vec<u8>,
    /// The offset between those two quotation marks, where the store writes the revision's digits.
    pub splice: usize,
    /// What selectors need of this object.
    pub facets: Facets,
}

/// A stored object at one revision. A clone costs one reference count.
#[derive(Clone)]
pub struct Record(Arc<RecordParts>);

/// The parts of a [`Record`], which dereferences to them.
#[derive(Debug)]
pub struct RecordParts {
    /// Where the object lives.
    pub key: Key,
    /// The revision that wrote this state; for the record of a deletion, the deleting revision.
    pub revision: Revision,
    /// The object's JSON, with its `metadata.resourceVersion`.
    pub value: Bytes,
    /// What selectors need of the object.
    pub facets: Arc<Facets>,
}

impl Record {
    /// Makes a record of its parts.
    pub fn new(key: Key, revision: Revision, value: Bytes, facets: Arc<Facets>) -> Record {
        Record(Arc::new(RecordParts { key, revision, value, facets }))
    }

    /// Whether both are the same record in memory.
    pub fn same(&self, other: &Record) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Deref for Record {
    type Target = RecordParts;

    fn deref(&self) -> &RecordParts {
        &self.0
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Record")
            .field("key", &format_args!("{}", self.key))
            .field("revision", &self.revision.0)
            .field("bytes", &self.value.len())
            .finish()
    }
}

/// What a write does to its key.
#[derive(Clone, Debug)]
pub enum Op {
    /// Writes an object that must not exist yet.
    Create(Draft),
    /// Replaces an object, if it is still at the expected revision. A draft that equals what is stored writes nothing
    /// and is answered with the stored record.
    Update {
        /// The revision that the writer has read.
        expected: Revision,
        /// The new state.
        draft: Draft,
    },
    /// Removes an object, if it is still at the expected revision.
    Delete {
        /// The revision that the writer has read.
        expected: Revision,
        /// The object's last state, which watchers are shown with the deleting revision.
        last: Draft,
    },
}

/// When an answered write is on disk.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Before it is answered.
    Synced,
    /// Soon after: with the next synced write, or within the delays of the store's configuration. For what may be lost
    /// in a power cut: events, leases.
    Relaxed,
}

/// A change of one key.
#[derive(Clone, Debug)]
pub struct Write {
    /// The key to change.
    pub key: Key,
    /// The change.
    pub op: Op,
    /// When the answered write is on disk.
    pub durability: Durability,
}

/// What a list or watch covers: a collection, or one namespace of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    /// The collection, as in [`Key`].
    pub collection: Arc<str>,
    /// The namespace; `None` for all.
    pub namespace: Option<Arc<str>>,
}

impl Range {
    /// A whole collection.
    pub fn all(collection: &str) -> Range {
        Range { collection: intern(collection), namespace: None }
    }

    /// One namespace of a collection.
    pub fn namespace(collection: &str, namespace: &str) -> Range {
        Range { collection: intern(collection), namespace: Some(intern(namespace)) }
    }

    /// Whether an object of this range's collection is in its namespace.
    pub(crate) fn admits(&self, key: &Key) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| **namespace == *key.namespace)
    }
}
