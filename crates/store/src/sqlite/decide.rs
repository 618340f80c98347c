//! Whether a write may happen, given the state that it meets.

use crate::error::CommitError;
use crate::object::{Record, Revision};
use crate::proposal::Proposal;
use crate::watch::EventKind;

use super::queue::{Action, Request};

/// What becomes of a write.
pub(super) enum Decision {
    /// It happens.
    Change { record: Record, kind: EventKind, previous: Option<Record> },
    /// It would change nothing.
    Unchanged(Record),
    /// It may not happen.
    Refuse(CommitError),
}

/// Decides a write against the current record of its key; if it happens, it is given the revision.
pub(super) fn decide(request: &Request, current: Option<Record>, revision: Revision) -> Decision {
    let made = |proposal: &Proposal, previous: Option<&Record>| {
        // Keys and facets that stay the same go on sharing memory with the record before.
        let key = previous.map_or_else(|| request.key.clone(), |record| record.key.clone());
        let facets = match previous {
            Some(record) if record.facets == proposal.facets => record.facets.clone(),
            _ => proposal.facets.clone(),
        };
        Record::new(key, revision, proposal.value(revision), facets)
    };
    match (&request.action, current) {
        (Action::Create(_), Some(current)) => Decision::Refuse(CommitError::Exists(current)),
        (Action::Create(proposal), None) => {
            Decision::Change { record: made(proposal, None), kind: EventKind::Created, previous: None }
        }
        (Action::Update(expected, proposal), Some(current)) if current.revision == *expected => {
            if proposal.equals(&current) {
                return Decision::Unchanged(current);
            }
            Decision::Change {
                record: made(proposal, Some(&current)),
                kind: EventKind::Updated,
                previous: Some(current),
            }
        }
        (Action::Delete(expected, proposal), Some(current)) if current.revision == *expected => Decision::Change {
            record: made(proposal, Some(&current)),
            kind: EventKind::Deleted,
            previous: Some(current),
        },
        (Action::Update(..) | Action::Delete(..), current) => Decision::Refuse(CommitError::Conflict { current }),
    }
}
