//! Who may do what: role bindings and certificate signing requests.

use jiff::Timestamp;
use serde_json::Value;

use super::cell::{NONE, age, holds, int, list, name, text};
use super::{AGE, Column, NAME, Table};
use crate::duration::human;

const USERS: Column = Column::string("Users", "Users in the binding").wide();
const GROUPS: Column = Column::string("Groups", "Groups in the binding").wide();
const ACCOUNTS: Column = Column::string("ServiceAccounts", "ServiceAccounts in the binding").wide();
const ROLE: &str = "RoleRef contains information that points to the role being used";
const BINDING: &[Column] = &[NAME, Column::string("Role", ROLE), AGE, USERS, GROUPS, ACCOUNTS];

pub(super) const ROLE_BINDINGS: Table = (BINDING, binding);
pub(super) const CLUSTER_ROLE_BINDINGS: Table = (BINDING, binding);

fn binding(object: &Value, now: Timestamp) -> Vec<Value> {
    let role = format!("{}/{}", text(object, "/roleRef/kind"), text(object, "/roleRef/name"));
    let subjects = |kind: &str| -> Value {
        let of_kind = list(object, "/subjects").iter().filter(|subject| subject["kind"] == kind);
        let named = of_kind.map(|subject| match kind {
            "ServiceAccount" => format!("{}/{}", text(subject, "/namespace"), text(subject, "/name")),
            _ => text(subject, "/name").to_owned(),
        });
        named.collect::<Vec<_>>().join(", ").into()
    };
    let cells = [subjects("User"), subjects("Group"), subjects("ServiceAccount")];
    [vec![name(object), role.into(), age(object, now)], cells.into()].concat()
}

pub(super) const SIGNING_REQUESTS: Table = (
    &[
        NAME,
        AGE,
        Column::string("SignerName", "signerName indicates the requested signer, and is a qualified name."),
        Column::string(
            "Requestor",
            "username contains the name of the user that created the CertificateSigningRequest.",
        ),
        Column::string(
            "RequestedDuration",
            "expirationSeconds is the requested duration of validity of the issued certificate.",
        ),
        Column::string("Condition", "Whether the request is approved, and whether its certificate is issued."),
    ],
    |object, now| {
        let duration = match int(object, "/spec/expirationSeconds") {
            0 => NONE.to_owned(),
            seconds => human(seconds),
        };
        let mut condition = match (holds(object, "Denied"), holds(object, "Approved")) {
            (true, _) => "Denied".to_owned(),
            (false, true) => "Approved".to_owned(),
            (false, false) => "Pending".to_owned(),
        };
        if holds(object, "Failed") {
            condition.push_str(",Failed");
        }
        if !text(object, "/status/certificate").is_empty() {
            condition.push_str(",Issued");
        }
        vec![
            name(object),
            age(object, now),
            text(object, "/spec/signerName").into(),
            text(object, "/spec/username").into(),
            duration.into(),
            condition.into(),
        ]
    },
);
