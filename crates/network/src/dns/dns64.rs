//! DNS64: addresses of the sixth version for names that have only some of the fourth. Pure.
//!
//! In a network of IPv6 alone a NAT64 translates what is sent to its prefix, with the IPv4 address in it (RFC 6052); a name
//! that has no address of the sixth version is answered with such ones (RFC 6147).

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{RData, Record, RecordType},
};
use ipnet::Ipv6Net;

/// The lengths of prefix that RFC 6052 knows.
pub const LENGTHS: [u8; 6] = [32, 40, 48, 56, 64, 96];

/// The address in the prefix that stands for `v4`.
fn embed(prefix: &Ipv6Net, v4: Ipv4Addr) -> Ipv6Addr {
    let mut bytes = prefix.network().octets();
    let mut at = usize::from(prefix.prefix_len() / 8);
    for octet in v4.octets() {
        // Bits 64 to 71 are kept zero.
        if at == 8 {
            at += 1;
        }
        bytes[at] = octet;
        at += 1;
    }
    Ipv6Addr::from(bytes)
}

/// Whether an answer to a question for addresses of the sixth version leaves the client without any, though the name is
/// there.
pub(super) fn lacks_addresses(answer: &Message) -> bool {
    answer.metadata.response_code == ResponseCode::NoError
        && answer.answers.iter().all(|record| record.record_type() != RecordType::AAAA)
}

/// The answer for the sixth version out of that for the fourth; none where that has no address either.
pub(super) fn translated(prefix: &Ipv6Net, answer: &Message) -> Option<Message> {
    let mut found = answer.clone();
    found.answers = answer.answers.iter().filter_map(|record| translate(prefix, record)).collect();
    let has_address = found.answers.iter().any(|record| record.record_type() == RecordType::AAAA);
    has_address.then(|| {
        found.authorities.clear();
        found.additionals.clear();
        found
    })
}

fn translate(prefix: &Ipv6Net, record: &Record) -> Option<Record> {
    match &record.data {
        RData::A(address) => {
            let data = RData::AAAA(embed(prefix, address.0).into());
            Some(Record::from_rdata(record.name.clone(), record.ttl, data))
        }
        RData::CNAME(_) => Some(record.clone()),
        // A signature would not fit what was made.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of RFC 6052, section 2.4.
    #[test]
    fn addresses_are_embedded() {
        let check = |prefix: &str, expected: &str| {
            let prefix: Ipv6Net = prefix.parse().expect("a prefix");
            assert!(LENGTHS.contains(&prefix.prefix_len()));
            assert_eq!(embed(&prefix, Ipv4Addr::new(192, 0, 2, 33)).to_string(), expected);
        };
        check("2001:db8::/32", "2001:db8:c000:221::");
        check("2001:db8:100::/40", "2001:db8:1c0:2:21::");
        check("2001:db8:122::/48", "2001:db8:122:c000:2:2100::");
        check("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::");
        check("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100:0");
        check("64:ff9b::/96", "64:ff9b::c000:221");
    }
}
