//! What can be wrong with a patch or a configuration, in upstream's words, since clients match on them.

use crate::conflict::{Conflict, message};

/// Why a patch was not applied.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// A JSON patch has too many operations: 413.
    #[error("The allowed maximum operations in a JSON patch is {most}, got {count}")]
    TooManyOperations {
        /// The limit.
        most: usize,
        /// What the patch has.
        count: usize,
    },
    /// The patch is not well formed: 400.
    #[error("{message}")]
    Malformed {
        /// What is wrong with it.
        message: String,
    },
    /// The patch does not fit the object: 422.
    #[error("{message}")]
    Unprocessable {
        /// What does not fit.
        message: String,
    },
}

impl PatchError {
    pub(crate) fn malformed(message: impl Into<String>) -> PatchError {
        PatchError::Malformed { message: message.into() }
    }

    pub(crate) fn unprocessable(message: impl Into<String>) -> PatchError {
        PatchError::Unprocessable { message: message.into() }
    }

    /// The HTTP status that upstream answers with.
    pub fn status(&self) -> u16 {
        match self {
            PatchError::TooManyOperations { .. } => 413,
            PatchError::Malformed { .. } => 400,
            PatchError::Unprocessable { .. } => 422,
        }
    }
}

/// Why a configuration was not applied.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Others own fields to which the configuration gives other values: 409, reason Conflict, one cause a conflict with
    /// reason FieldManagerConflict.
    #[error("{}", message(conflicts))]
    Conflicts {
        /// The fields and who owns them, by manager and then in the order of fields.
        conflicts: Vec<Conflict>,
    },
    /// A list of the configuration has items that cannot be told apart: 400.
    #[error("{path}: {problem}")]
    Invalid {
        /// The list, such as `.spec.containers`.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
}
