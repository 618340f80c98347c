//! What may pass, as sets and chains of the table.

use std::{collections::BTreeMap, net::IpAddr};

use super::plan::{Isolation, Match, PeerMatch, PortMatch, Verdict};
use crate::services::table::{Chain, Set, SetKind, Table};

/// The chain that looks at the source; to be jumped to from `forward`.
pub const ENTRY: &str = "policy-from";
/// The chain that looks at the destination.
const DESTINATION: &str = "policy-to";

/// The words of one family.
#[derive(Clone, Copy)]
struct Family {
    digit: char,
    ip: &'static str,
    address: &'static str,
}

const V4: Family = Family { digit: '4', ip: "ip", address: "ipv4_addr" };
const V6: Family = Family { digit: '6', ip: "ip6", address: "ipv6_addr" };

/// Puts the rules into the table. `forward` has to jump to [`ENTRY`].
pub fn add(table: &mut Table, isolation: &Isolation) {
    let set = |definition: String, kind: SetKind, elements: BTreeMap<String, Option<String>>| Set {
        kind,
        definition,
        elements,
    };
    let (mut entry, mut destination) = (Vec::new(), Vec::new());
    for family in [V4, V6] {
        let Family { digit, ip, address } = family;
        for (direction, chains, looked_at, rules) in
            [("from", &isolation.from, "saddr", &mut entry), ("to", &isolation.to, "daddr", &mut destination)]
        {
            let of_family = chains.iter().filter(|(pod, _)| pod.is_ipv4() == (digit == '4'));
            let elements = of_family.map(|(pod, chain)| (pod.to_string(), Some(format!("goto {chain}")))).collect();
            let name = format!("policy-{direction}{digit}");
            rules.push(format!("{ip} {looked_at} vmap @{name}"));
            table.sets.insert(name, set(format!("type {address} : verdict;"), SetKind::Map, elements));
        }
    }
    entry.push(format!("goto {DESTINATION}"));
    table.chains.insert(ENTRY.to_owned(), Chain { base: None, rules: entry });
    table.chains.insert(DESTINATION.to_owned(), Chain { base: None, rules: destination });

    let family_of = |name: &str| if name.split('-').next().is_some_and(|word| word.ends_with('4')) { V4 } else { V6 };
    for (name, members) in &isolation.pods {
        let elements = members.iter().map(|member| (member.to_string(), None)).collect();
        let definition = format!("type {};", family_of(name).address);
        table.sets.insert(name.clone(), set(definition, SetKind::Set, elements));
    }
    for (name, spans) in &isolation.blocks {
        let elements = spans.iter().map(|(first, last)| (span(first, last), None)).collect();
        let definition = format!("type {}; flags interval;", family_of(name).address);
        table.sets.insert(name.clone(), set(definition, SetKind::Set, elements));
    }
    for (name, members) in &isolation.named {
        let element = |(address, protocol, port): &(IpAddr, crate::network::Protocol, u16)| {
            (format!("{address} . {} . {port}", protocol.lower()), None)
        };
        let definition = format!("type {} . inet_proto . inet_service;", family_of(name).address);
        table.sets.insert(name.clone(), set(definition, SetKind::Set, members.iter().map(element).collect()));
    }
    for (name, steps) in &isolation.chains {
        let family = family_of(name);
        let (other, pass) = if name.starts_with("from") {
            ("daddr", format!("goto {DESTINATION}"))
        } else {
            ("saddr", "accept".to_owned())
        };
        let word = |verdict: &Verdict| match verdict {
            Verdict::Pass => pass.clone(),
            Verdict::Drop => "drop".to_owned(),
            Verdict::Goto(chain) => format!("goto {chain}"),
        };
        let rule =
            |(found, verdict): &(Match, Verdict)| format!("{}{}", condition(found, family, other), word(verdict));
        let mut rules: Vec<String> = steps.matches.iter().map(rule).collect();
        rules.push(word(&steps.otherwise));
        table.chains.insert(name.clone(), Chain { base: None, rules });
    }
}

fn span(first: &impl ToString, last: &impl ToString) -> String {
    let (first, last) = (first.to_string(), last.to_string());
    if first == last { first } else { format!("{first}-{last}") }
}

/// The condition of a rule, with a space behind it when there is one.
fn condition(found: &Match, family: Family, other: &str) -> String {
    let ip = family.ip;
    let peer = match &found.peer {
        PeerMatch::Anyone => String::new(),
        PeerMatch::Itself => format!("{ip} saddr . {ip} daddr @hairpins{} ", family.digit),
        PeerMatch::Pods(set) | PeerMatch::Blocks(set) => format!("{ip} {other} @{set} "),
    };
    let port = match &found.port {
        PortMatch::Any => String::new(),
        PortMatch::Numbers(protocol, spans) if spans.as_slice() == [(0, u16::MAX)] => {
            format!("meta l4proto {} ", protocol.lower())
        }
        PortMatch::Numbers(protocol, spans) => {
            let spans: Vec<String> = spans.iter().map(|(first, last)| span(first, last)).collect();
            format!("meta l4proto {} th dport {{ {} }} ", protocol.lower(), spans.join(", "))
        }
        PortMatch::Named(set) => format!("{ip} daddr . meta l4proto . th dport @{set} "),
    };
    peer + &port
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Protocol;

    #[test]
    fn conditions() {
        let check = |peer: PeerMatch, port: PortMatch, expected: &str| {
            assert_eq!(condition(&Match { peer, port }, V4, "saddr"), expected);
        };
        check(PeerMatch::Anyone, PortMatch::Any, "");
        check(PeerMatch::Itself, PortMatch::Any, "ip saddr . ip daddr @hairpins4 ");
        check(PeerMatch::Pods("peers4-1".into()), PortMatch::Any, "ip saddr @peers4-1 ");
        check(
            PeerMatch::Blocks("blocks4-1".into()),
            PortMatch::Numbers(Protocol::Tcp, vec![(80, 80), (8000, 9000)]),
            "ip saddr @blocks4-1 meta l4proto tcp th dport { 80, 8000-9000 } ",
        );
        check(PeerMatch::Anyone, PortMatch::Numbers(Protocol::Sctp, vec![(0, 65_535)]), "meta l4proto sctp ");
        check(
            PeerMatch::Anyone,
            PortMatch::Named("named4-tcp-1".into()),
            "ip daddr . meta l4proto . th dport @named4-tcp-1 ",
        );
    }
}
