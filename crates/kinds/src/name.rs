//! The grammars of names, label keys and label values, with upstream's words for what breaks them.
//!
//! Each function returns what is wrong; an empty list means nothing is.

use std::net::{IpAddr, Ipv4Addr};

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// `must be no more than n bytes`: the words for labels' keys and values.
pub fn max_len(length: usize) -> String {
    format!("must be no more than {length} bytes")
}

/// `must be no more than n characters`: the words for names.
pub fn max_characters(length: usize) -> String {
    format!("must be no more than {length} characters")
}

fn regex(message: &str, format: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|example| format!("'{example}'")).collect();
    let examples = match examples.is_empty() {
        true => String::new(),
        false => format!("e.g. {}, ", examples.join(" or ")),
    };
    format!("{message} ({examples}regex used for validation is '{format}')")
}

fn lower_or_digit(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) => {
            lower_or_digit(first) && lower_or_digit(last) && bytes.iter().all(|&b| b == b'-' || lower_or_digit(b))
        }
        _ => false,
    }
}

fn is_qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            first.is_ascii_alphanumeric()
                && last.is_ascii_alphanumeric()
                && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        }
        _ => false,
    }
}

/// An RFC 1123 label of at most 63 bytes: names of namespaces, containers and volumes.
pub fn dns1123_label(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 63 {
        errors.push(max_characters(63));
    }
    if !is_label(text) {
        if text.len() <= 253 && text.split('.').all(is_label) {
            errors.push("must not contain dots".to_owned());
        } else {
            errors.push(regex(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                 and end with an alphanumeric character",
                LABEL,
                &["my-name", "123-abc"],
            ));
        }
    }
    errors
}

/// An RFC 1123 subdomain of at most 253 bytes: most objects' names.
pub fn dns1123_subdomain(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 253 {
        errors.push(max_characters(253));
    }
    if !text.split('.').all(is_label) {
        errors.push(regex(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character",
            &format!("{LABEL}(\\.{LABEL})*"),
            &["example.com"],
        ));
    }
    errors
}

/// An RFC 1035 label of at most 63 bytes: the names of services.
pub fn dns1035_label(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 63 {
        errors.push(max_characters(63));
    }
    if !is_label(text) || !text.as_bytes().first().is_some_and(u8::is_ascii_lowercase) {
        errors.push(regex(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    errors
}

/// A subdomain whose first part may be `*`: hosts of ingresses.
pub fn wildcard_dns1123_subdomain(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 253 {
        errors.push(max_characters(253));
    }
    if !text.strip_prefix("*.").is_some_and(|rest| rest.split('.').all(is_label)) {
        errors.push(regex(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist \
             of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!("\\*\\.{LABEL}(\\.{LABEL})*"),
            &["*.example.com"],
        ));
    }
    errors
}

/// A label's key: `name` or `prefix/name`.
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let name = match text.split_once('/') {
        None => text,
        Some((_, name)) if name.contains('/') => {
            let message = regex(
                "a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
                 with an alphanumeric character",
                QUALIFIED,
                &["MyName", "my.name", "123-abc"],
            );
            return vec![format!(
                "{message} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
        Some((prefix, name)) => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                let wrong = dns1123_subdomain(prefix).into_iter();
                errors
                    .extend(wrong.map(|error| format!("prefix part {}", error.replace("253 characters", "253 bytes"))));
            }
            name
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        errors.push(format!("name part {}", max_len(63)));
    }
    if !is_qualified(name) {
        errors.push(regex(
            "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
             alphanumeric character",
            QUALIFIED,
            &["MyName", "my.name", "123-abc"],
        ));
    }
    errors
}

/// A label's value: at most 63 bytes, may be empty.
pub fn label_value(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 63 {
        errors.push(max_len(63));
    }
    if !text.is_empty() && !is_qualified(text) {
        errors.push(regex(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character",
            &format!("({QUALIFIED})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    errors
}

/// What can be one part of a path: the names of RBAC objects.
pub fn path_segment(text: &str) -> Vec<String> {
    if matches!(text, "." | "..") {
        return vec![format!("may not be '{text}'")];
    }
    ["/", "%"].iter().filter(|bad| text.contains(**bad)).map(|bad| format!("may not contain '{bad}'")).collect()
}

/// The key of a ConfigMap or Secret.
pub fn config_map_key(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 253 {
        errors.push(max_characters(253));
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        errors.push(regex(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    if text == "." {
        errors.push("must not be '.'".to_owned());
    } else if text == ".." {
        errors.push("must not be '..'".to_owned());
    } else if text.starts_with("..") {
        errors.push("must not start with '..'".to_owned());
    }
    errors
}

/// The name of an environment variable: printable ASCII other than `=`.
pub fn env_var_name(text: &str) -> Vec<String> {
    if text.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=') {
        return Vec::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned()]
}

/// A subdomain in which underscores are welcome: search paths of resolvers.
pub fn dns1123_subdomain_with_underscore(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 253 {
        errors.push(max_characters(253));
    }
    let is_part = |part: &str| {
        let part = part.strip_prefix('_').unwrap_or(part);
        let bytes = part.as_bytes();
        bytes.first().is_some_and(|&b| lower_or_digit(b))
            && bytes.last().is_some_and(|&b| lower_or_digit(b))
            && bytes.iter().all(|&b| matches!(b, b'-' | b'_') || lower_or_digit(b))
    };
    if !text.split('.').all(is_part) {
        const PART: &str = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
        errors.push(regex(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and \
             must start and end with an alphanumeric character",
            &format!("{PART}(\\.{PART})*"),
            &["example.com"],
        ));
    }
    errors
}

/// The name of an HTTP header.
pub fn http_header_name(text: &str) -> Vec<String> {
    if !text.is_empty() && text.bytes().all(|b| b == b'-' || b.is_ascii_alphanumeric()) {
        return Vec::new();
    }
    let message = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![regex(message, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// A percentage: digits and a percent sign.
pub fn percent(text: &str) -> Vec<String> {
    let digits = text.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Vec::new();
    }
    let message = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![regex(message, "[0-9]+%", &["1%", "93%"])]
}

/// The id of a user or group.
pub fn user_or_group_id(id: i64) -> Vec<String> {
    if (0..=i64::from(i32::MAX)).contains(&id) { Vec::new() } else { vec![inclusive_range(0, i64::from(i32::MAX))] }
}

/// `must be between a and b, inclusive`.
pub fn inclusive_range(from: i64, to: i64) -> String {
    format!("must be between {from} and {to}, inclusive")
}

/// An IANA service name: the names of container and service ports where they are referred to.
pub fn port_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 15 {
        errors.push(max_characters(15));
    }
    if text.is_empty() || !text.bytes().all(|b| b == b'-' || lower_or_digit(b)) {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// A port's number.
pub fn port_number(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) { Vec::new() } else { vec![inclusive_range(1, 65535)] }
}

/// An IPv4 address as old readers took it: with leading zeros.
fn without_zeros(text: &str) -> Option<Ipv4Addr> {
    let mut parts = [0; 4];
    let mut count = 0;
    for part in text.split('.') {
        let good = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let slot = parts.get_mut(count).filter(|_| good)?;
        *slot = part.parse().ok()?;
        count += 1;
    }
    (count == 4).then(|| Ipv4Addr::from(parts))
}

/// An IP address, IPv4 or IPv6, in any notation that is not ambiguous.
pub fn ip(text: &str) -> Vec<String> {
    let message = match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => "must not be an IPv4-mapped IPv6 address",
        Ok(_) => return Vec::new(),
        Err(_) if without_zeros(text).is_some() => "must not have leading 0s",
        Err(_) => "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
    };
    vec![message.to_owned()]
}

/// An IP address in the one notation that is preferred.
pub fn canonical_ip(text: &str) -> Vec<String> {
    let errors = ip(text);
    match text.parse::<IpAddr>() {
        Ok(address) if errors.is_empty() && address.to_string() != text => {
            vec![format!("must be in canonical form ({:?})", address.to_string())]
        }
        _ => errors,
    }
}

/// An address that other machines can reach: neither unspecified nor loopback nor of the link alone.
pub fn non_special_ip(text: &str) -> Vec<String> {
    let Ok(address) = text.parse::<IpAddr>() else { return vec!["must be a valid IP address".to_owned()] };
    let mut errors = Vec::new();
    let (link_local, link_multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    if address.is_unspecified() {
        errors.push(format!("may not be unspecified ({text})"));
    }
    if address.is_loopback() {
        errors.push("may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned());
    }
    if link_local {
        errors.push("may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned());
    }
    if link_multicast {
        errors.push("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned());
    }
    errors
}

/// A network's first address and the length of its prefix.
pub fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let length: u8 = length.parse().ok().filter(|_| length == "0" || !length.starts_with(['0', '+']))?;
    (length <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, length))
}

/// The first address of the network that `address` is in.
pub fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
            IpAddr::V6(std::net::Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}

/// A network in CIDR notation.
pub fn cidr(text: &str) -> Vec<String> {
    let mapped = |address: IpAddr| matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    let sloppy = || {
        let (address, length) = text.split_once('/')?;
        let v4 = without_zeros(address).is_some();
        let known = v4 || address.parse::<IpAddr>().is_ok();
        let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
        let length: u8 = length.parse().ok()?;
        (known && digits && length <= if v4 { 32 } else { 128 }).then_some(())
    };
    let message = match parse_cidr(text) {
        Some((address, _)) if mapped(address) => "must not have an IPv4-mapped IPv6 address",
        Some((address, length)) if masked(address, length) != address => {
            "must not have bits set beyond the prefix length"
        }
        Some(_) => return Vec::new(),
        None if sloppy().is_some() => "must not have leading 0s in IP or prefix length",
        None => "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
    };
    vec![message.to_owned()]
}

/// A path that begins with a domain: `acme.io/foo`. `None` stands for a text that is missing altogether.
pub fn domain_prefixed_path(text: &str) -> Option<Vec<String>> {
    if text.is_empty() {
        return None;
    }
    let Some((host, path)) = text.split_once('/').filter(|(host, path)| !host.is_empty() && !path.is_empty()) else {
        return Some(vec!["must be a domain-prefixed path (such as \"acme.io/foo\")".to_owned()]);
    };
    let mut errors = dns1123_subdomain(host);
    let good = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
    if !path.bytes().all(good) {
        errors.push(regex("Invalid path", "[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+", &[]));
    }
    Some(errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_and_refuses() {
        let check = |grammar: fn(&str) -> Vec<String>, good: &[&str], bad: &[&str]| {
            for text in good {
                assert_eq!(grammar(text), Vec::<String>::new(), "{text:?} is good");
            }
            for text in bad {
                assert!(!grammar(text).is_empty(), "{text:?} is bad");
            }
        };
        let long = "a".repeat(64);
        check(dns1123_label, &["a", "0", "a-b"], &["", "A", "-a", "a-", "a.b", &long]);
        check(dns1123_subdomain, &["a", "a.b", "1.2", &long], &["", "a..b", ".a", "a_b"]);
        check(dns1035_label, &["a", "a1"], &["1a", "a.", ""]);
        check(qualified_name, &["a", "A.b_c-1", "x.io/Name"], &["", "/a", "a/", "a/b/c", "_a", "X/a"]);
        check(label_value, &["", "a", "A_b.c"], &["-", "a b", &long]);
        check(config_map_key, &["a", "_", ".a", "A.b-c"], &["", ".", "..", "..a", "a/b"]);
        check(env_var_name, &["A", "a.b", "1 2"], &["", "a=b", "é"]);
        check(port_name, &["http", "a-1"], &["", "1", "a--b", "-a", "HTTP", "aaaaaaaaaaaaaaaa"]);
        check(path_segment, &["a:b", "System"], &[".", "..", "a/b", "a%"]);
        check(ip, &["1.2.3.4", "::1"], &["1.2.3", "x", "01.2.3.4", "::ffff:1.2.3.4"]);
        check(canonical_ip, &["1.2.3.4", "::1"], &["0::1", "::A"]);
        check(
            non_special_ip,
            &["1.2.3.4", "fd00::1"],
            &["0.0.0.0", "127.0.0.1", "169.254.1.1", "224.0.0.1", "fe80::1"],
        );
        check(cidr, &["1.2.3.0/24", "::/0", "0.0.0.0/0"], &["1.2.3.4", "1.2.3.4/33", "1.2.3.4/24", "1.2.3.0/024"]);
        check(percent, &["0%", "100%"], &["", "%", "1", "-1%", "1%%"]);
        check(http_header_name, &["X-A"], &["", "a b"]);
        check(dns1123_subdomain_with_underscore, &["_tcp.a", "a_b"], &["", "a_", "A"]);
        check(wildcard_dns1123_subdomain, &["*.a.b"], &["a.b", "*a.b", "*"]);
    }

    #[test]
    fn reads_as_upstream() {
        assert_eq!(
            dns1123_subdomain("A"),
            ["a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and \
              must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"]
        );
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
    }
}
