//! Conflicts of server-side apply, worded as upstream words them.

use crate::managed::{Entry, Verb};

/// A field that another manager owns and to which the configuration gives another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The manager that owns the field.
    pub manager: String,
    /// The API version of its last update; empty when it owns the field by apply.
    pub api_version: String,
    /// The subresource through which it came to own the field; empty for the object itself.
    pub subresource: String,
    /// The field, such as `.spec.containers[name="web"].image`.
    pub field: String,
}

impl Conflict {
    pub(crate) fn new(entry: &Entry, field: String) -> Conflict {
        Conflict {
            manager: entry.manager.clone(),
            api_version: match entry.verb {
                Verb::Apply => String::new(),
                Verb::Update => entry.api_version.clone(),
            },
            subresource: entry.subresource.clone(),
            field,
        }
    }

    /// The message of the conflict's cause: `conflict with "kubectl" using apps/v1`.
    pub fn cause(&self) -> String {
        format!("conflict with {}", self.owner())
    }

    fn owner(&self) -> String {
        let mut owner = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            owner.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if !self.api_version.is_empty() {
            owner.push_str(&format!(" using {}", self.api_version));
        }
        owner
    }
}

/// The message of the Status.
pub(crate) fn message(conflicts: &[Conflict]) -> String {
    if let [only] = conflicts {
        return format!("Apply failed with 1 conflict: {}: {}", only.cause(), only.field);
    }
    let mut lines = Vec::new();
    let mut last = None;
    for conflict in conflicts {
        let owner = conflict.owner();
        if last.as_ref() != Some(&owner) {
            lines.push(format!("conflicts with {owner}:"));
            last = Some(owner);
        }
        lines.push(format!("- {}", conflict.field));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}
