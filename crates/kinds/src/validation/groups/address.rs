//! IP addresses and networks: the strict forms of new fields and the tolerant ones of old fields.
//!
//! Upstream reads addresses tolerantly (leading zeros in IPv4 as nothing special), then refuses what could be read in
//! two ways. Fields that were always strict want the canonical spelling besides.

use std::net::{IpAddr, Ipv4Addr};

use crate::field_error::FieldError;
use crate::path::Path;
use crate::validation::Errors;

/// An address, also with leading zeros.
pub(super) fn tolerant(text: &str) -> Option<IpAddr> {
    text.parse().ok().or_else(|| zeros(text).map(IpAddr::V4))
}

/// An IPv4 address with leading zeros, which are read as nothing special.
fn zeros(text: &str) -> Option<Ipv4Addr> {
    let parts: Vec<&str> = text.split('.').collect();
    let mut octets = [0; 4];
    if parts.len() != 4 {
        return None;
    }
    for (octet, part) in octets.iter_mut().zip(parts) {
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let significant = part.trim_start_matches('0');
        *octet = if significant.is_empty() { 0 } else { significant.parse().ok()? };
    }
    Some(Ipv4Addr::from(octets))
}

/// Whether an IPv6 address only wraps an IPv4 one.
fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

/// An address in a field that predates strict validation. Values that the old object had pass.
pub(super) fn legacy(text: &str, path: &Path<'_>, known: &[&str], errors: &mut Errors) -> Option<IpAddr> {
    if known.contains(&text) {
        return tolerant(text);
    }
    let Some(address) = tolerant(text) else {
        let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        errors.push(FieldError::invalid(path, text, detail));
        return None;
    };
    if text.parse::<IpAddr>().is_err() {
        errors.push(FieldError::invalid(path, text, "must not have leading 0s"));
    }
    if is_mapped(address) {
        errors.push(FieldError::invalid(path, text, "must not be an IPv4-mapped IPv6 address"));
    }
    Some(address)
}

/// An address in its canonical spelling.
pub(super) fn strict(text: &str, path: &Path<'_>, errors: &mut Errors) -> Option<IpAddr> {
    let before = errors.len();
    let address = legacy(text, path, &[], errors)?;
    if errors.len() == before && address.to_string() != text {
        let detail = format!("must be in canonical form (\"{address}\")");
        errors.push(FieldError::invalid(path, text, detail));
    }
    Some(address)
}

/// A network: its first address and the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network {
    /// The address with the bits beyond the prefix cleared.
    pub(super) first: IpAddr,
    /// How many bits the prefix has.
    pub(super) length: u8,
}

impl Network {
    /// Whether an address is in the network.
    pub(super) fn contains(self, address: IpAddr) -> bool {
        masked(address, self.length) == self.first
    }

    fn shown(self) -> String {
        format!("{}/{}", self.first, self.length)
    }
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}

/// The network that a text names, read tolerantly, with the address as it is written.
pub(super) fn network(text: &str) -> Option<(IpAddr, Network)> {
    let (address, length) = text.split_once('/')?;
    let address = tolerant(address)?;
    if length.is_empty() || length.len() > 3 || !length.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let length: u8 = length.parse().ok()?;
    if length > if address.is_ipv4() { 32 } else { 128 } {
        return None;
    }
    Some((address, Network { first: masked(address, length), length }))
}

/// A network in a field that predates strict validation. Values that the old object had pass.
pub(super) fn legacy_network(text: &str, path: &Path<'_>, known: &[&str], errors: &mut Errors) -> Option<Network> {
    let found = network(text);
    if known.contains(&text) {
        return found.map(|(_, network)| network);
    }
    let Some((address, network)) = found else {
        let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        errors.push(FieldError::invalid(path, text, detail));
        return None;
    };
    let (written, length) = text.split_once('/').unwrap_or_default();
    if written.parse::<IpAddr>().is_err() || (length.len() > 1 && length.starts_with('0')) {
        errors.push(FieldError::invalid(path, text, "must not have leading 0s in IP or prefix length"));
    } else if is_mapped(address) {
        errors.push(FieldError::invalid(path, text, "must not have an IPv4-mapped IPv6 address"));
    } else if address != network.first {
        errors.push(FieldError::invalid(path, text, "must not have bits set beyond the prefix length"));
    }
    Some(network)
}

/// A network in its canonical spelling.
pub(super) fn strict_network(text: &str, path: &Path<'_>, errors: &mut Errors) -> Option<Network> {
    let before = errors.len();
    let network = legacy_network(text, path, &[], errors)?;
    if errors.len() == before && network.shown() != text {
        let detail = format!("must be in canonical form (\"{}\")", network.shown());
        errors.push(FieldError::invalid(path, text, detail));
    }
    Some(network)
}

/// An address together with the length of its network's prefix, as interfaces have it.
pub(super) fn interface(text: &str, path: &Path<'_>, errors: &mut Errors) {
    let Some((address, network)) = network(text) else {
        let detail = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
        errors.push(FieldError::invalid(path, text, detail));
        return;
    };
    let canonical = match address {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => format!("{v4}/{}", network.length.saturating_sub(96)),
            None => format!("{v6}/{}", network.length),
        },
        IpAddr::V4(v4) => format!("{v4}/{}", network.length),
    };
    if canonical != text {
        errors.push(FieldError::invalid(path, text, format!("must be in canonical form (\"{canonical}\")")));
    }
}

/// An address that other machines may send to: an endpoint's.
pub(super) fn not_special(address: IpAddr, path: &Path<'_>, text: &str, errors: &mut Errors) {
    let (link_local, local_multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    if address.is_unspecified() {
        let detail = format!("may not be unspecified ({text})");
        errors.push(FieldError::invalid(path, text, detail));
    }
    if address.is_loopback() {
        let detail = "may not be in the loopback range (127.0.0.0/8, ::1/128)";
        errors.push(FieldError::invalid(path, text, detail));
    }
    if link_local {
        let detail = "may not be in the link-local range (169.254.0.0/16, fe80::/10)";
        errors.push(FieldError::invalid(path, text, detail));
    }
    if local_multicast {
        let detail = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)";
        errors.push(FieldError::invalid(path, text, detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(run: impl FnOnce(&Path<'_>, &mut Errors)) -> Vec<String> {
        let mut errors = Errors::new();
        run(&Path::new("x"), &mut errors);
        errors.into_iter().map(|error| error.detail).collect()
    }

    #[test]
    fn addresses() {
        let check = |text: &str, old: &str, new: &str| {
            let details = found(|path, errors| {
                legacy(text, path, &[], errors);
            });
            assert_eq!(details.join("; "), old, "{text} in an old field");
            let details = found(|path, errors| {
                strict(text, path, errors);
            });
            assert_eq!(details.join("; "), new, "{text} in a new field");
        };
        check("10.9.8.7", "", "");
        check("010.9.8.7", "must not have leading 0s", "must not have leading 0s");
        let mapped = "must not be an IPv4-mapped IPv6 address";
        check("::ffff:1.2.3.4", mapped, mapped);
        check("2001:DB8::1", "", "must be in canonical form (\"2001:db8::1\")");
        let bad = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        for text in ["", "x", "1.2.3", "1.2.3.256", "1.2.3.4.5", "::1::"] {
            check(text, bad, bad);
        }
        assert!(
            found(|path, errors| {
                legacy("01.2.3.4", path, &["01.2.3.4"], errors);
            })
            .is_empty()
        );
    }

    #[test]
    fn networks() {
        let check = |text: &str, expected: &str| {
            let details = found(|path, errors| {
                strict_network(text, path, errors);
            });
            assert_eq!(details.join("; "), expected, "{text}");
        };
        check("10.9.8.0/24", "");
        check("0.0.0.0/0", "");
        check("::/0", "");
        check("10.9.8.1/24", "must not have bits set beyond the prefix length");
        check("10.9.8.0/024", "must not have leading 0s in IP or prefix length");
        check("2001:DB8::/64", "must be in canonical form (\"2001:db8::/64\")");
        check("10.9.8.0/33", "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
        check("10.9.8.0", "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
        assert!(found(|path, errors| interface("10.9.8.7/24", path, errors)).is_empty());
        assert_eq!(found(|path, errors| interface("::ffff:1.2.3.4/120", path, errors)).len(), 1);
    }
}
