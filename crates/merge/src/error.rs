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
    /// The configuration does not fit its type.
    #[error("{}", listed(problems))]
    Untyped {
        /// What does not fit, each with its place, such as `.spec: expected map, got &{1}`.
        problems: Vec<String>,
    },
    /// The configuration names what only changes as a whole where it may not.
    #[error("may not mutate atomic arrays, maps or structs: {}", paths.join(", "))]
    Atomic {
        /// The places.
        paths: Vec<String>,
    },
}

/// Mistakes as upstream lists them.
fn listed(problems: &[String]) -> String {
    match problems {
        [one] => one.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    }
}
