//! A block of addresses less its exceptions, as blocks that do not overlap. Pure.

use std::net::IpAddr;

use ipnet::IpNet;

/// Addresses as numbers, first and last, of one family.
type Span = (u128, u128);

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn span(range: &IpNet) -> Span {
    (number(range.network()), number(range.broadcast()))
}

/// What is in one of `blocks` and not in that block's exceptions, as ranges `first-last` that neither overlap nor touch.
/// Only blocks of the asked family count.
pub(crate) fn without<'a>(blocks: impl Iterator<Item = (&'a IpNet, &'a [IpNet])>, v4: bool) -> Vec<(IpAddr, IpAddr)> {
    let is_v4 = |range: &IpNet| matches!(range, IpNet::V4(_));
    let mut spans: Vec<Span> = Vec::new();
    for (block, except) in blocks.filter(|(block, _)| is_v4(block) == v4) {
        let mut holes: Vec<Span> = except.iter().filter(|hole| is_v4(hole) == v4).map(span).collect();
        holes.sort_unstable();
        let (mut first, last) = span(block);
        let mut full = true;
        for (hole_first, hole_last) in holes {
            if hole_last < first || hole_first > last {
                continue;
            }
            if hole_first > first {
                spans.push((first, hole_first - 1));
            }
            if hole_last >= last {
                full = false;
                break;
            }
            first = first.max(hole_last + 1);
        }
        if full {
            spans.push((first, last));
        }
    }
    let address = |number: u128| match v4 {
        // Numbers of the fourth version come from 32 bits.
        true => IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into()),
        false => IpAddr::V6(number.into()),
    };
    merged(spans).into_iter().map(|(first, last)| (address(first), address(last))).collect()
}

/// Ranges of ports that neither overlap nor touch.
pub(crate) fn merged_ports(ports: &[(u16, u16)]) -> Vec<(u16, u16)> {
    let spans = ports.iter().map(|(first, last)| (u128::from(*first), u128::from(*last))).collect();
    let port = |number: u128| u16::try_from(number).unwrap_or(u16::MAX);
    merged(spans).into_iter().map(|(first, last)| (port(first), port(last))).collect()
}

fn merged(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    let mut all: Vec<Span> = Vec::new();
    for (first, last) in spans {
        match all.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => all.push((first, last)),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_with_holes() {
        let check = |blocks: &[(&str, &[&str])], expected: &[&str]| {
            let parse = |text: &&str| text.parse::<IpNet>().expect("a range");
            let blocks: Vec<(IpNet, Vec<IpNet>)> =
                blocks.iter().map(|(block, except)| (parse(block), except.iter().map(parse).collect())).collect();
            let v4 = matches!(blocks[0].0, IpNet::V4(_));
            let found = without(blocks.iter().map(|(block, except)| (block, except.as_slice())), v4);
            let found: Vec<String> = found.iter().map(|(first, last)| format!("{first}-{last}")).collect();
            assert_eq!(found, expected, "{blocks:?}");
        };
        check(&[("10.0.0.0/24", &[])], &["10.0.0.0-10.0.0.255"]);
        check(&[("10.0.0.0/24", &["10.0.0.0/25"])], &["10.0.0.128-10.0.0.255"]);
        check(&[("10.0.0.0/24", &["10.0.0.128/25"])], &["10.0.0.0-10.0.0.127"]);
        check(&[("10.0.0.0/24", &["10.0.0.5/32", "10.0.0.4/31"])], &["10.0.0.0-10.0.0.3", "10.0.0.6-10.0.0.255"]);
        check(&[("10.0.0.0/24", &["10.0.0.0/24"])], &[]);
        check(&[("10.0.0.0/24", &["10.9.0.0/24"])], &["10.0.0.0-10.0.0.255"]);
        // Each block has exceptions of its own: what one leaves out another may let in.
        check(
            &[("10.0.0.0/24", &["10.0.0.0/25"]), ("10.0.0.0/26", &[])],
            &["10.0.0.0-10.0.0.63", "10.0.0.128-10.0.0.255"],
        );
        check(&[("0.0.0.0/0", &["10.0.0.0/8"])], &["0.0.0.0-9.255.255.255", "11.0.0.0-255.255.255.255"]);
        check(
            &[("::/0", &["fd00::/8"])],
            &["::-fcff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fe00::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
        );
    }

    #[test]
    fn ports_are_merged() {
        assert_eq!(
            merged_ports(&[(80, 80), (8000, 9000), (81, 90), (8500, 9500), (65_535, 65_535)]),
            [(80, 90), (8000, 9500), (65_535, 65_535)]
        );
    }
}
