//! The user of a request, in the headers by which a front proxy tells another server.

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::{outgoing::forward, security::User};

/// What cannot stand in the name of a header, and the escape itself.
const NOT_IN_NAMES: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'%')
    .add(b'(')
    .add(b')')
    .add(b',')
    .add(b'/')
    .add(b':')
    .add(b';')
    .add(b'<')
    .add(b'=')
    .add(b'>')
    .add(b'?')
    .add(b'@')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'{')
    .add(b'}');

/// Replaces whatever the client said about a user by the user that it proved to be.
///
/// What cannot be written into a header is an error: a user whose name or group were lost on the way would be another.
pub(super) fn identify(headers: &mut HeaderMap, user: &User) -> Result<(), http::Error> {
    forward::remove_with_prefix(headers, "x-remote-");
    let value = |text: &str| HeaderValue::from_bytes(text.as_bytes());
    headers.insert("x-remote-user", value(&user.name)?);
    if !user.uid.is_empty() {
        headers.insert("x-remote-uid", value(&user.uid)?);
    }
    for group in &user.groups {
        headers.append("x-remote-group", value(group)?);
    }
    for (key, values) in &user.extra {
        let name = format!("x-remote-extra-{}", utf8_percent_encode(key, NOT_IN_NAMES));
        let name: HeaderName = name.to_ascii_lowercase().parse()?;
        for one in values {
            headers.append(name.clone(), value(one)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_in_headers() {
        let mut user = User::new("jane", &["devs"]);
        user.uid = "u".to_owned();
        user.extra.insert("authentication.kubernetes.io/pod-name".to_owned(), vec!["p".to_owned(), "q".to_owned()]);
        let mut headers = HeaderMap::new();
        headers.insert("x-remote-user", HeaderValue::from_static("forged"));
        headers.insert("x-remote-group", HeaderValue::from_static("system:masters"));
        identify(&mut headers, &user).expect("it can be written");
        let all = |name: &str| headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(all("x-remote-user"), ["jane"]);
        assert_eq!(all("x-remote-group"), ["devs", "system:authenticated"]);
        assert_eq!(all("x-remote-uid"), ["u"]);
        assert_eq!(all("x-remote-extra-authentication.kubernetes.io%2fpod-name"), ["p", "q"]);
        user.name = "a\nb".to_owned();
        assert!(identify(&mut headers, &user).is_err());
    }
}
