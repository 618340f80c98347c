//! A snapshot of a collection, to read objects from at leisure.

use std::cmp::Ordering;
use std::ops::Bound;

use equivalent::{Comparable, Equivalent};
use imbl::OrdSet;

use crate::label_mask::LabelMask;
use crate::object::{Range, Record, Revision};

/// A record that sorts by its namespace and name within its collection, and its labels' bits.
#[derive(Clone)]
pub(crate) struct Placed(pub(crate) Record, LabelMask);

/// A place in a collection to look up or start from.
#[derive(Copy, Clone)]
pub(crate) struct Place<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

/// The objects of one collection.
pub(crate) type Objects = OrdSet<Placed>;

impl Placed {
    pub(crate) fn new(record: Record) -> Placed {
        let mask = LabelMask::of(&record.facets);
        Placed(record, mask)
    }

    fn place(&self) -> Place<'_> {
        Place { namespace: &self.0.key.namespace, name: &self.0.key.name }
    }
}

impl Place<'_> {
    fn order(&self, other: &Place<'_>) -> Ordering {
        // Keys of one namespace share its text, so that most comparisons need not look at it.
        let same = std::ptr::eq(self.namespace, other.namespace);
        let namespaces = if same { Ordering::Equal } else { self.namespace.cmp(other.namespace) };
        namespaces.then_with(|| self.name.cmp(other.name))
    }
}

impl PartialEq for Placed {
    fn eq(&self, other: &Placed) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Placed {}

impl PartialOrd for Placed {
    fn partial_cmp(&self, other: &Placed) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Placed {
    fn cmp(&self, other: &Placed) -> Ordering {
        self.place().order(&other.place())
    }
}

impl Equivalent<Placed> for Place<'_> {
    fn equivalent(&self, placed: &Placed) -> bool {
        self.order(&placed.place()).is_eq()
    }
}

impl Comparable<Placed> for Place<'_> {
    fn compare(&self, placed: &Placed) -> Ordering {
        self.order(&placed.place())
    }
}

/// The objects of a range as they were at one revision. A clone costs one reference count.
#[derive(Clone)]
pub struct Listing {
    pub(crate) range: Range,
    pub(crate) revision: Revision,
    pub(crate) objects: Objects,
}

impl Listing {
    /// The store's revision at the time of the snapshot: the one to start a watch from.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The range that was asked for.
    pub fn range(&self) -> &Range {
        &self.range
    }

    /// The object at a place of the range.
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Record> {
        let record = &self.objects.get(&Place { namespace, name })?.0;
        self.range.admits(&record.key).then_some(record)
    }

    /// All objects of the range, in the order of namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.iter_after("", "")
    }

    /// The objects of the range after the given namespace and name, which need not exist any more.
    pub fn iter_after<'a>(&'a self, namespace: &str, name: &str) -> impl Iterator<Item = &'a Record> + use<'a> {
        self.iter_labelled(namespace, name, LabelMask::default())
    }

    /// The same without most of those that lack a label of `wanted`.
    pub fn iter_labelled<'a>(
        &'a self,
        namespace: &str,
        name: &str,
        wanted: LabelMask,
    ) -> impl Iterator<Item = &'a Record> + use<'a> {
        let after = Place { namespace, name };
        let first = Place { namespace: self.range.namespace.as_deref().unwrap_or_default(), name: "" };
        let start = if after.order(&first).is_lt() { Bound::Included(first) } else { Bound::Excluded(after) };
        // What sorts next after a namespace is its name with a NUL. The end is looked up once, so that no object has to be
        // fetched to see whether it is one of the range.
        let next = self.range.namespace.as_ref().map(|namespace| format!("{namespace}\0"));
        let past = next.as_deref().map(|namespace| Place { namespace, name: "" });
        // A start beyond the end is an empty range, which the set would not take.
        let empty = past.is_some_and(|past| past.order(&after).is_le());
        let end = if empty { None } else { Some(past.map_or(Bound::Unbounded, Bound::Excluded)) };
        end.map(|end| self.objects.range((start, end)))
            .into_iter()
            .flatten()
            .filter(move |placed| placed.1.may_have(wanted))
            .map(|placed| &placed.0)
    }

    /// The number of objects in the range: at once for a whole collection, by counting for a namespace.
    pub fn count(&self) -> usize {
        match self.range.namespace {
            None => self.objects.len(),
            Some(_) => self.iter().count(),
        }
    }
}

impl std::fmt::Debug for Listing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Listing")
            .field("range", &self.range)
            .field("revision", &self.revision.0)
            .field("collection_size", &self.objects.len())
            .finish()
    }
}
