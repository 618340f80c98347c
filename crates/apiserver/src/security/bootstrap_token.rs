//! Bootstrap tokens: how a machine that has nothing but a short text gets its first certificate.
//!
//! A token is `<id>.<secret>`; it is a Secret `bootstrap-token-<id>` in `kube-system`.

use jiff::Timestamp;
use serde_json::Value;
use subtle::ConstantTimeEq as _;

use super::lookup::Lookup;
use super::refusal::Refusal;
use super::user::User;

/// Every bearer of a good token is in this group.
const GROUP: &str = "system:bootstrappers";

/// The parts of a token, if the text has the form of one.
pub(super) fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let good = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    (good(id, 6) && good(secret, 16)).then_some((id, secret))
}

/// The user of a token, or why it is no good.
pub(super) async fn user(lookup: &Lookup, id: &str, secret: &str) -> Result<Result<User, &'static str>, Refusal> {
    let name = format!("bootstrap-token-{id}");
    let Some(object) = lookup.object("core/secrets", "kube-system", &name).await? else {
        return Ok(Err("there is no such bootstrap token"));
    };
    Ok(user_of(&object, id, secret, Timestamp::now()))
}

fn user_of(object: &Value, id: &str, secret: &str, now: Timestamp) -> Result<User, &'static str> {
    use base64::Engine as _;
    let data = |key: &str| -> String {
        let encoded = object["data"][key].as_str().unwrap_or_default();
        let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap_or_default();
        String::from_utf8(bytes).unwrap_or_default()
    };
    if object["type"] != "bootstrap.kubernetes.io/token" {
        return Err("the Secret of the bootstrap token is of another type");
    }
    if object["metadata"].get("deletionTimestamp").is_some_and(|time| !time.is_null()) {
        return Err("the bootstrap token is being deleted");
    }
    let stored = data("token-secret");
    if data("token-id") != id || stored.is_empty() || !bool::from(stored.as_bytes().ct_eq(secret.as_bytes())) {
        return Err("the bootstrap token is wrong");
    }
    let expiration = data("expiration");
    if !expiration.is_empty() {
        // What cannot be read as a time has ended: upstream errs on the same side.
        let end = expiration.parse::<Timestamp>().map_err(|_| "the bootstrap token has an unreadable expiration")?;
        if end <= now {
            return Err("the bootstrap token has expired");
        }
    }
    if data("usage-bootstrap-authentication") != "true" {
        return Err("the bootstrap token is not for authentication");
    }
    let mut groups = vec![GROUP.to_owned()];
    for group in data("auth-extra-groups").split(',').map(str::trim).filter(|group| !group.is_empty()) {
        if !is_group(group) {
            return Err("the bootstrap token has a group that is none of system:bootstrappers:…");
        }
        groups.push(group.to_owned());
    }
    groups[1..].sort();
    groups.dedup();
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    Ok(User::new(&format!("system:bootstrap:{id}"), &groups))
}

/// `system:bootstrappers:` and then lower-case letters, digits, colons and hyphens, ending in a letter or digit.
fn is_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else { return false };
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    rest.len() <= 256
        && rest.bytes().last().is_some_and(plain)
        && rest.bytes().all(|byte| plain(byte) || byte == b':' || byte == b'-')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn forms() {
        assert_eq!(parse("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for text in [
            "",
            ".",
            "abcdef",
            "abcdeF.0123456789abcdef",
            "abcdef.0123456789abcde",
            "a.b.c",
            "abcdef.0123456789abcdef.",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn tokens_make_users() {
        use base64::Engine as _;
        let now: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        let check = |changes: &[(&str, &str)], expected: Result<&[&str], &str>| {
            let mut data = serde_json::Map::new();
            for (key, value) in [
                ("token-id", "abcdef"),
                ("token-secret", "0123456789abcdef"),
                ("usage-bootstrap-authentication", "true"),
                ("expiration", "2026-06-02T00:00:00Z"),
            ]
            .iter()
            .chain(changes)
            {
                data.insert((*key).to_owned(), base64::engine::general_purpose::STANDARD.encode(value).into());
            }
            let object = json!({"type": "bootstrap.kubernetes.io/token", "metadata": {}, "data": data});
            let found = user_of(&object, "abcdef", "0123456789abcdef", now);
            match (&found, expected) {
                (Ok(user), Ok(groups)) => {
                    assert_eq!(user.name, "system:bootstrap:abcdef");
                    assert_eq!(user.groups, groups);
                }
                (Err(problem), Err(part)) => assert!(problem.contains(part), "{problem}"),
                _ => panic!("{changes:?}: {found:?}"),
            }
        };
        check(&[], Ok(&[GROUP, "system:authenticated"]));
        check(
            &[("auth-extra-groups", "system:bootstrappers:kubeadm:default-node-token")],
            Ok(&[GROUP, "system:bootstrappers:kubeadm:default-node-token", "system:authenticated"]),
        );
        check(&[("expiration", "2026-05-31T00:00:00Z")], Err("expired"));
        check(&[("expiration", "soon")], Err("unreadable"));
        check(&[("token-secret", "fedcba9876543210")], Err("wrong"));
        check(&[("token-secret", "")], Err("wrong"));
        check(&[("usage-bootstrap-authentication", "false")], Err("not for authentication"));
        check(&[("auth-extra-groups", "system:masters")], Err("none of system:bootstrappers"));
    }
}
