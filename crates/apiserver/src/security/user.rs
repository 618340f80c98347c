//! Who sends a request.

use std::collections::BTreeMap;

/// Every user that proved who it is belongs to this group.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
/// The group of requests that brought no credentials.
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The user of requests that brought no credentials.
pub(crate) const ANONYMOUS: &str = "system:anonymous";
/// May do everything, whatever the roles say.
pub(crate) const MASTERS: &str = "system:masters";
/// The group of node agents.
pub(crate) const NODES: &str = "system:nodes";
/// The beginning of every node agent's user name.
pub(crate) const NODE_PREFIX: &str = "system:node:";
/// The beginning of every service account's user name.
pub(crate) const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
/// The group of all service accounts, and with `:<namespace>` of those of a namespace.
pub(crate) const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";

/// A user as authentication found it: what authorization, admission and the audit trail see.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// The name, unique at one time.
    pub name: String,
    /// The identity, unique for ever; empty when there is none.
    pub uid: String,
    /// The groups.
    pub groups: Vec<String>,
    /// More facts, like the pod that a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user with this name and these groups, which are completed by `system:authenticated`.
    pub fn new(name: &str, groups: &[&str]) -> User {
        let mut user = User {
            name: name.to_owned(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            ..User::default()
        };
        user.complete();
        user
    }

    /// The user of requests without credentials.
    pub fn anonymous() -> User {
        User { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..User::default() }
    }

    /// The user `system:serviceaccount:<namespace>:<name>` with its groups.
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> User {
        User {
            name: format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"),
            uid: uid.to_owned(),
            groups: vec![
                SERVICE_ACCOUNTS.to_owned(),
                format!("{SERVICE_ACCOUNTS}:{namespace}"),
                AUTHENTICATED.to_owned(),
            ],
            extra: BTreeMap::new(),
        }
    }

    /// Whether the user belongs to a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// The node's name when this is a node agent.
    pub fn node(&self) -> Option<&str> {
        let name = self.name.strip_prefix(NODE_PREFIX)?;
        (!name.is_empty() && self.is_in(NODES)).then_some(name)
    }

    /// Adds `system:authenticated`, unless the user is one that brought no credentials.
    pub(crate) fn complete(&mut self) {
        if self.name != ANONYMOUS && !self.is_in(AUTHENTICATED) && !self.is_in(UNAUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
    }
}
