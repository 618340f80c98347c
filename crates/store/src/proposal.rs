//! A new state of an object that lacks only its revision.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::CommitError;
use crate::object::{Draft, Facets, Record, Revision};
use crate::splice;

/// A checked [`Draft`].
pub(crate) struct Proposal {
    bytes: Bytes,
    splice: usize,
    pub(crate) facets: Arc<Facets>,
}

impl Proposal {
    pub(crate) fn new(draft: Draft) -> Result<Proposal, CommitError> {
        let around =
            draft.splice.checked_sub(1).and_then(|start| draft.bytes.get(start..)).and_then(|rest| rest.get(..2));
        if around != Some(b"\"\"".as_slice()) {
            return Err(CommitError::Splice { splice: draft.splice });
        }
        Ok(Proposal { bytes: draft.bytes.into(), splice: draft.splice, facets: Arc::new(draft.facets) })
    }

    /// The object with an empty `resourceVersion`.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The value with the revision's digits in place, in exactly as much memory as it takes.
    pub(crate) fn value(&self, revision: Revision) -> Bytes {
        splice::with_version(&self.bytes, &(self.splice..self.splice), &revision.to_string()).into()
    }

    /// Whether the record says the same, apart from the revision that both carry in the same place.
    pub(crate) fn equals(&self, record: &Record) -> bool {
        let digits = record.revision.to_string();
        let after = self.splice + digits.len();
        let value = &record.value;
        value.len() == self.bytes.len() + digits.len()
            && value[..self.splice] == self.bytes[..self.splice]
            && value[self.splice..after] == *digits.as_bytes()
            && value[after..] == self.bytes[self.splice..]
    }
}
