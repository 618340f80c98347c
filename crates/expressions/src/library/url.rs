//! URLs, as Go's `net/url` reads request URIs: absolute, or a path from the root.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use crate::catalogue::{Arguments, Rows};
use crate::library::opaque::Held;
use crate::library::{fail, mismatch, only_text};
use crate::meter::Price::{Fixed, Length};
use crate::value::{Evaluated, Key, Map, Value};

/// A URL in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    text: String,
    scheme: String,
    /// With the port.
    host: String,
    path: String,
    query: String,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Reads a URL; the error says why it is none.
pub(crate) fn parse(text: &str) -> Result<Url, &'static str> {
    if text.is_empty() {
        return Err("empty url");
    }
    if text.chars().any(|character| character.is_control()) {
        return Err("net/url: invalid control character in URL");
    }
    let mut url = Url {
        text: text.to_owned(),
        scheme: String::new(),
        host: String::new(),
        path: String::new(),
        query: String::new(),
    };
    let mut rest = text;
    if let Some((scheme, after)) = scheme(text)? {
        url.scheme = scheme.to_ascii_lowercase();
        rest = after;
    }
    if url.scheme.is_empty() && !rest.starts_with('/') {
        return Err("invalid URI for request");
    }
    if let Some((before, query)) = rest.split_once('?') {
        url.query = query.to_owned();
        rest = before;
    }
    if !rest.starts_with('/') {
        return if url.scheme.is_empty() { Err("invalid URI for request") } else { Ok(url) };
    }
    if let Some(after) = rest.strip_prefix("//").filter(|after| !url.scheme.is_empty() || !after.starts_with('/')) {
        let end = after.find('/').unwrap_or(after.len());
        let (authority, path) = after.split_at(end);
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        check_host(host)?;
        url.host = host.to_owned();
        rest = path;
    }
    check_escapes(rest)?;
    url.path = rest.to_owned();
    Ok(url)
}

fn scheme(text: &str) -> Result<Option<(&str, &str)>, &'static str> {
    for (at, character) in text.char_indices() {
        match character {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return Err("missing protocol scheme"),
            ':' => return Ok(Some((&text[..at], &text[at + 1..]))),
            _ => return Ok(None),
        }
    }
    Ok(None)
}

fn check_host(host: &str) -> Result<(), &'static str> {
    let after = if host.starts_with('[') {
        host.rfind(']').map(|end| &host[end + 1..]).ok_or("missing ']' in host")?
    } else {
        host.rfind(':').map_or("", |colon| &host[colon..])
    };
    let port = after.strip_prefix(':').or_else(|| after.is_empty().then_some(""));
    if port.is_none_or(|port| !port.chars().all(|digit| digit.is_ascii_digit())) {
        return Err("invalid port after host");
    }
    if host.contains([' ', '<', '>', '"', '\\', '^', '`', '{', '}', '|']) {
        return Err("invalid character in host name");
    }
    Ok(())
}

fn check_escapes(path: &str) -> Result<(), &'static str> {
    let bytes = path.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    let wrong = (0..bytes.len()).any(|at| bytes[at] == b'%' && !(digit(at + 1) && digit(at + 2)));
    if wrong { Err("invalid URL escape") } else { Ok(()) }
}

/// Undoes `%41`, and `+` for a space; `None` for a broken escape.
fn decode(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let digits = bytes.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok())?;
                decoded.push(u8::from_str_radix(digits, 16).ok()?);
                at += 3;
                continue;
            }
            b'+' => decoded.push(b' '),
            other => decoded.push(other),
        }
        at += 1;
    }
    String::from_utf8(decoded).ok()
}

fn url<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let text = only_text(arguments)?;
    match parse(text) {
        Ok(url) => Ok(Value::Held(Rc::new(Held::Url(url)))),
        Err(why) => fail(format!("URL parse error during conversion from string: parse {text:?}: {why}")),
    }
}

fn is_url<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    Ok(Value::Bool(parse(only_text(arguments)?).is_ok()))
}

fn part<'a>(arguments: &Arguments<'_, 'a>, part: fn(&Url) -> String) -> Evaluated<'a> {
    match arguments.values {
        [Value::Held(held)] => match &**held {
            Held::Url(url) => Ok(Value::text(part(url))),
            _ => mismatch(),
        },
        _ => mismatch(),
    }
}

fn get_scheme<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    part(arguments, |url| url.scheme.clone())
}

fn host<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    part(arguments, |url| url.host.clone())
}

/// The host and the port after it.
fn split_host(host: &str) -> (&str, &str) {
    match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => (&host[..colon], &host[colon + 1..]),
        _ => (host, ""),
    }
}

fn hostname<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    part(arguments, |url| split_host(&url.host).0.trim_matches(['[', ']']).to_owned())
}

fn port<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    part(arguments, |url| split_host(&url.host).1.to_owned())
}

fn path<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    part(arguments, |url| url.path.clone())
}

fn query<'a>(arguments: &Arguments<'_, 'a>) -> Evaluated<'a> {
    let [Value::Held(held)] = arguments.values else { return mismatch() };
    let Held::Url(url) = &**held else { return mismatch() };
    let mut found: BTreeMap<String, Vec<Value<'a>>> = BTreeMap::new();
    for pair in url.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if let (Some(key), Some(value)) = (decode(key), decode(value)) {
            found.entry(key).or_default().push(Value::text(value));
        }
    }
    let entries = found.into_iter().map(|(key, values)| {
        let place = Key::String(key.as_str().into());
        (place, (Value::text(key), Value::list(values)))
    });
    Ok(Value::Map(Map::Owned(Rc::new(entries.collect()))))
}

pub(crate) const FUNCTIONS: Rows = &[
    ("url", url, &[("(string) url", Length(0, 0.1))]),
    ("isURL", is_url, &[("(string) bool", Fixed(1))]),
    ("getScheme", get_scheme, &[("url.() string", Fixed(1))]),
    ("getHost", host, &[("url.() string", Fixed(1))]),
    ("getHostname", hostname, &[("url.() string", Fixed(1))]),
    ("getPort", port, &[("url.() string", Fixed(1))]),
    ("getEscapedPath", path, &[("url.() string", Fixed(1))]),
    ("getQuery", query, &[("url.() map(string, list(string))", Fixed(1))]),
];
