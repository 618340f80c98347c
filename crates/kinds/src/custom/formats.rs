//! The formats of texts that custom resources are checked against; others say nothing.

use base64::Engine as _;

/// Whether a text has a format; one that is not known always fits.
pub(crate) fn fits(format: &str, text: &str) -> bool {
    match format {
        "date" => text.parse::<jiff::civil::Date>().is_ok() && text.len() == 10,
        "datetime" | "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "duration" => is_duration(text),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "cidr" => crate::name::cidr(text).is_empty(),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "mac" => is_mac(text),
        "uuid" => is_uuid(text, None),
        "uuid3" => is_uuid(text, Some(b"3")),
        "uuid4" => is_uuid(text, Some(b"4")),
        "uuid5" => is_uuid(text, Some(b"5")),
        "email" => text.rsplit_once('@').is_some_and(|(name, host)| !name.is_empty() && is_hostname(host)),
        "hostname" => is_hostname(text),
        "uri" => is_uri(text),
        "hexcolor" => {
            let digits = text.strip_prefix('#').unwrap_or(text);
            matches!(digits.len(), 3 | 6) && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        }
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "isbn10" => isbn10(text),
        "isbn13" => isbn13(text),
        "isbn" => isbn10(text) || isbn13(text),
        "k8s-short-name" => crate::name::dns1123_label(text).is_empty(),
        "k8s-long-name" => crate::name::dns1123_subdomain(text).is_empty(),
        _ => true,
    }
}

/// What Go's `time.ParseDuration` takes.
fn is_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    let mut any = false;
    while !rest.is_empty() {
        let number = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (digits, unit) = rest.split_at(number);
        if !digits.bytes().any(|byte| byte.is_ascii_digit()) || digits.matches('.').count() > 1 {
            return false;
        }
        let Some(unit) = ["ns", "us", "µs", "μs", "ms", "s", "m", "h"].iter().find(|known| {
            unit.strip_prefix(**known).is_some_and(|after| !after.starts_with(|next: char| next.is_alphabetic()))
        }) else {
            return false;
        };
        rest = &rest[number + unit.len()..];
        any = true;
    }
    any
}

fn is_mac(text: &str) -> bool {
    let separator = if text.contains('-') { '-' } else { ':' };
    let parts: Vec<&str> = text.split(separator).collect();
    matches!(parts.len(), 6 | 8 | 20)
        && parts.iter().all(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn is_uuid(text: &str, version: Option<&[u8; 1]>) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 36
        && bytes.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
        && version.is_none_or(|version| bytes[14] == version[0])
}

fn is_hostname(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 255 && text.split('.').all(label)
}

/// What Go's `url.ParseRequestURI` takes: an absolute URI or an absolute path.
fn is_uri(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return false;
    }
    if text.starts_with('/') {
        return true;
    }
    text.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
    })
}

fn digits(text: &str) -> Vec<u8> {
    text.bytes().filter(|byte| !matches!(byte, b'-' | b' ')).collect()
}

fn isbn10(text: &str) -> bool {
    let digits = digits(text);
    let value = |(at, byte): (usize, &u8)| match byte {
        b'0'..=b'9' => Some(u32::from(byte - b'0')),
        b'X' | b'x' if at == 9 => Some(10),
        _ => None,
    };
    let values: Option<Vec<u32>> = digits.iter().enumerate().map(value).collect();
    digits.len() == 10
        && values.is_some_and(|values| values.iter().zip((1..=10).rev()).map(|(v, w)| v * w).sum::<u32>() % 11 == 0)
}

fn isbn13(text: &str) -> bool {
    let digits = digits(text);
    digits.len() == 13
        && digits.iter().all(u8::is_ascii_digit)
        && digits.iter().zip([1u32, 3].iter().cycle()).map(|(digit, w)| u32::from(digit - b'0') * w).sum::<u32>() % 10
            == 0
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn formats() {
        let check = |format: &str, good: &[&str], bad: &[&str]| {
            good.iter().for_each(|text| assert!(fits(format, text), "{format} {text}"));
            bad.iter().for_each(|text| assert!(!fits(format, text), "{format} {text}"));
        };
        check("date", &["2024-02-29"], &["2023-02-29", "x", "20240229"]);
        check("date-time", &["2024-01-02T03:04:05Z"], &["2024-01-02", ""]);
        check("duration", &["1h30m", "5s"], &["5", "x"]);
        check("ipv4", &["10.0.0.1"], &["::1", "10.0.0"]);
        check("uuid4", &["6ba7b810-9dad-41d1-80b4-00c04fd430c8"], &["6ba7b810-9dad-11d1-80b4-00c04fd430c8"]);
        check("email", &["a@example.com"], &["a", "@x"]);
        check("uri", &["https://example.com/x", "/x"], &["x", "", "a b:c"]);
        check("byte", &["YQ=="], &["%"]);
        check("mac", &["01:23:45:67:89:ab"], &["01:23"]);
        check("isbn", &["0-306-40615-2", "978-0-306-40615-7"], &["123"]);
        check("somebody's own", &["anything"], &[]);
    }
}
