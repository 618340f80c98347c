//! Acting in the name of somebody else with the `Impersonate-*` headers.

use std::collections::BTreeMap;

use http::HeaderMap;
use percent_encoding::percent_decode_str;

use super::attributes::Attributes;
use super::refusal::Refusal;
use super::user::{ANONYMOUS, SERVICE_ACCOUNT_PREFIX, SERVICE_ACCOUNTS, UNAUTHENTICATED, User};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// A user to become, and what must be allowed for that, in the order in which it is asked.
#[derive(Debug)]
pub(super) struct Assumed {
    pub(super) user: User,
    pub(super) rights: Vec<Right>,
}

/// The right to take over one part of a user.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Right {
    group: &'static str,
    resource: &'static str,
    subresource: String,
    namespace: String,
    name: String,
}

impl Right {
    pub(super) fn attributes(&self) -> Attributes<'_> {
        Attributes {
            verb: "impersonate",
            group: self.group,
            version: "v1",
            resource: self.resource,
            subresource: &self.subresource,
            namespace: &self.namespace,
            name: &self.name,
            ..Attributes::default()
        }
    }
}

/// The user that the headers ask for, if they do.
pub(super) fn assumed(headers: &HeaderMap) -> Result<Option<Assumed>, Refusal> {
    let Some(wanted) = wanted(headers)? else { return Ok(None) };
    let mut rights = Vec::new();
    let mut ask = |group, resource, subresource: &str, namespace: &str, name: &str| {
        let (subresource, namespace, name) = (subresource.to_owned(), namespace.to_owned(), name.to_owned());
        rights.push(Right { group, resource, subresource, namespace, name });
    };
    let mut groups = wanted.groups.clone();
    match service_account(&wanted.name) {
        Some((namespace, name)) => {
            ask("", "serviceaccounts", "", namespace, name);
            if groups.is_empty() {
                groups = vec![SERVICE_ACCOUNTS.to_owned(), format!("{SERVICE_ACCOUNTS}:{namespace}")];
            }
        }
        None => ask("", "users", "", "", &wanted.name),
    }
    for group in &wanted.groups {
        ask("", "groups", "", "", group);
    }
    for (key, values) in &wanted.extra {
        for value in values {
            ask("authentication.k8s.io", "userextras", key, "", value);
        }
    }
    if !wanted.uid.is_empty() {
        ask("authentication.k8s.io", "uids", "", "", &wanted.uid);
    }
    let mut user = User { groups, ..wanted };
    if user.name == ANONYMOUS {
        if !user.is_in(UNAUTHENTICATED) {
            user.groups.push(UNAUTHENTICATED.to_owned());
        }
    } else {
        user.complete();
    }
    Ok(Some(Assumed { user, rights }))
}

fn wanted(headers: &HeaderMap) -> Result<Option<User>, Refusal> {
    let unreadable = || Refusal::bad_request("an Impersonate header is not valid text");
    let mut wanted = User::default();
    let mut any = false;
    for (name, value) in headers {
        let name = name.as_str();
        if !name.starts_with("impersonate-") {
            continue;
        }
        let value = std::str::from_utf8(value.as_bytes()).map_err(|_| unreadable())?.to_owned();
        match name {
            USER => wanted.name = value,
            UID => wanted.uid = value,
            GROUP => wanted.groups.push(value),
            _ => {
                let Some(key) = name.strip_prefix(EXTRA) else { continue };
                // Keys such as example.com/scope cannot stand in a header's name and come percent-encoded.
                let key = percent_decode_str(key).decode_utf8().map_err(|_| unreadable())?.into_owned();
                extend(&mut wanted.extra, key, value);
            }
        }
        any = true;
    }
    if !any {
        return Ok(None);
    }
    if wanted.name.is_empty() {
        let message = "requested impersonation without impersonating a user";
        return Err(Refusal::internal(format_args!("{message}")));
    }
    Ok(Some(wanted))
}

fn extend(extra: &mut BTreeMap<String, Vec<String>>, key: String, value: String) {
    extra.entry(key).or_default().push(value);
}

fn service_account(name: &str) -> Option<(&str, &str)> {
    let (namespace, account) = name.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    (!namespace.is_empty() && !account.is_empty() && !account.contains(':')).then_some((namespace, account))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    /// What was asked for, and who it became.
    fn ask(headers: &[(&str, &str)]) -> (Vec<String>, Result<Option<User>, String>) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::from_bytes(name.to_lowercase().as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        match assumed(&map) {
            Ok(None) => (Vec::new(), Ok(None)),
            Err(refusal) => (Vec::new(), Err(refusal.message)),
            Ok(Some(assumed)) => {
                let asked = assumed.rights.iter().map(|right| {
                    let attributes = right.attributes();
                    format!("{}/{} {}", attributes.resource, attributes.subresource, attributes.name)
                });
                (asked.collect(), Ok(Some(assumed.user)))
            }
        }
    }

    #[test]
    fn every_part_is_asked_for() {
        assert_eq!(ask(&[("Accept", "*/*")]), (vec![], Ok(None)));
        let (asked, user) = ask(&[
            ("Impersonate-User", "jane"),
            ("Impersonate-Group", "dev"),
            ("Impersonate-Group", "ops"),
            ("Impersonate-Uid", "7"),
            ("Impersonate-Extra-example.com%2fscope", "view"),
        ]);
        assert_eq!(
            asked,
            ["users/ jane", "groups/ dev", "groups/ ops", "userextras/example.com/scope view", "uids/ 7"]
        );
        let user = user.unwrap().unwrap();
        assert_eq!(user.name, "jane");
        assert_eq!(user.groups, ["dev", "ops", "system:authenticated"]);
        assert_eq!(user.extra["example.com/scope"], ["view"]);

        let (asked, user) = ask(&[("Impersonate-User", "system:serviceaccount:a:bot")]);
        assert_eq!(asked, ["serviceaccounts/ bot"]);
        assert_eq!(user.unwrap().unwrap(), User::service_account("a", "bot", ""));

        let (_, user) = ask(&[("Impersonate-User", "system:anonymous")]);
        assert_eq!(user.unwrap().unwrap(), User::anonymous());
        assert!(ask(&[("Impersonate-Group", "dev")]).1.is_err());
    }
}
