//! What a plan says, as data: what the reports print and what `--output json` writes.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fields::Owner;
use crate::namespace::NamespaceFrom;
use crate::object::ObjectRef;

/// What would happen to all objects.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The API server's address.
    pub server: String,
    /// The kubeconfig's context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// The set of objects that this belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apply_set: Option<String>,
    /// The objects, in the order in which they are applied.
    pub items: Vec<Item>,
}

/// What would happen to one object.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// The object.
    #[serde(flatten)]
    pub object: ObjectRef,
    /// What happens to it.
    pub action: Action,
    /// `file:line` of its manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// Who said its namespace.
    pub namespace_from: NamespaceFrom,
    /// The fields that change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// What the changes lead to: restarts, other numbers of pods, resizes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub effects: Vec<String>,
    /// What else there is to say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What the server warns of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Why `apply` would refuse, and what would let it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked: Vec<String>,
    /// What a new object is made of; what is secret is hidden.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Value>,
    /// The version of the object that this is about; none if it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

/// What happens to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It is not there yet.
    Create,
    /// Fields change.
    Change,
    /// A field changes that cannot: the object must be deleted and made again.
    Recreate,
    /// It is a member of the set and no longer in the manifests.
    Prune,
    /// No field changes, but the manager is noted as an owner of fields.
    Adopt,
    /// Nothing.
    Unchanged,
}

impl Action {
    /// Whether the object differs afterwards.
    pub fn is_change(self) -> bool {
        !matches!(self, Action::Adopt | Action::Unchanged)
    }

    /// What happened, once it has.
    pub fn done(self) -> &'static str {
        match self {
            Action::Create => "created",
            Action::Change => "changed",
            Action::Recreate => "recreated",
            Action::Prune => "pruned",
            Action::Adopt => "adopted",
            Action::Unchanged => "unchanged",
        }
    }
}

/// A field that changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// The field.
    pub path: String,
    /// Its value now; none if it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<Value>,
    /// Its value then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<Value>,
    /// Who owns it now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<Owner>,
    /// Why it changes.
    pub why: Why,
}

/// Why a field changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// The manifest has it, the object did not.
    YouAddedIt,
    /// The manifest has another value than before.
    YouChangedIt,
    /// The manifest had it before and has it no more.
    YouRemovedIt,
    /// The same, and the server puts its default there.
    BackToDefault,
    /// Another manager holds it: it changes only with `--force-conflicts`.
    AnotherHoldsIt,
    /// Another manager held it, and it is taken from it.
    TakenOver,
    /// A manager that is taken over had it, and the manifest does not.
    LeftBehind,
    /// The server fills it in.
    Default,
    /// The server changes it in consequence.
    Server,
}

impl Why {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Why::YouAddedIt => "you added it",
            Why::YouChangedIt => "you changed it",
            Why::YouRemovedIt => "you removed it",
            Why::BackToDefault => "you removed it, back to the default",
            Why::AnotherHoldsIt => "another manager holds it",
            Why::TakenOver => "taken over",
            Why::LeftBehind => "not in your manifest",
            Why::Default => "a default",
            Why::Server => "the server sets it",
        }
    }
}

impl Plan {
    /// How many objects have an action.
    pub fn count(&self, action: Action) -> usize {
        self.items.iter().filter(|item| item.action == action).count()
    }

    /// Whether any object differs afterwards.
    pub fn has_changes(&self) -> bool {
        self.items.iter().any(|item| item.action.is_change())
    }

    /// Whether apply would refuse.
    pub fn is_blocked(&self) -> bool {
        self.items.iter().any(|item| !item.blocked.is_empty())
    }

    /// `2 to create, 1 to change`.
    pub fn summary(&self) -> String {
        self.counts(|action| match action {
            Action::Create => "to create",
            Action::Change => "to change",
            Action::Recreate => "to recreate",
            Action::Prune => "to prune",
            Action::Adopt => "to adopt",
            Action::Unchanged => "unchanged",
        })
    }

    /// `2 created, 1 changed`.
    pub fn done(&self) -> String {
        self.counts(Action::done)
    }

    fn counts(&self, words: impl Fn(Action) -> &'static str) -> String {
        let parts: Vec<String> =
            [Action::Create, Action::Change, Action::Recreate, Action::Prune, Action::Adopt, Action::Unchanged]
                .into_iter()
                .map(|action| (self.count(action), words(action)))
                .filter(|(count, _)| *count > 0)
                .map(|(count, words)| format!("{count} {words}"))
                .collect();
        if parts.is_empty() { "nothing to do".to_owned() } else { parts.join(", ") }
    }
}
