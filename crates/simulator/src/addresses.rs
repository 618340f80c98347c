//! Addresses of pods on one node, out of the ranges that the cluster gave it.

use std::net::IpAddr;

use ipnet::IpNet;

/// Addresses a node has at most, however large its ranges are: more than any node takes pods.
const MOST: u16 = 4096;

/// The ranges of a node, and which places in them are taken.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    ranges: Vec<IpNet>,
    taken: Vec<u64>,
    /// Where the search goes on: an address that was freed is not given out again at once.
    next: u16,
}

impl Addresses {
    /// Takes the node's ranges, `spec.podCIDRs`. What was given out of others stays with its pods.
    pub fn set_ranges(&mut self, ranges: Vec<IpNet>) {
        if self.ranges != ranges {
            *self = Self { ranges, taken: Vec::new(), next: 0 };
        }
    }

    /// Whether the node has no range yet.
    pub fn is_unset(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many pods can have an address: the network's own and the first, the node's, are not theirs.
    fn places(&self) -> u16 {
        let one = |range: &IpNet| match u32::from(range.max_prefix_len() - range.prefix_len()) {
            bits @ 0..12 => (1_u16 << bits).saturating_sub(3),
            _ => MOST,
        };
        self.ranges.iter().map(one).min().unwrap_or(0)
    }

    fn at(&self, place: u16) -> Vec<IpAddr> {
        let offset = u32::from(place) + 2;
        let one = |range: &IpNet| match range.network() {
            IpAddr::V4(first) => IpAddr::from((u32::from(first) + offset).to_be_bytes()),
            IpAddr::V6(first) => IpAddr::from((u128::from(first) + u128::from(offset)).to_be_bytes()),
        };
        self.ranges.iter().map(one).collect()
    }

    fn word(&mut self, place: u16) -> (&mut u64, u64) {
        let (at, bit) = (usize::from(place / 64), place % 64);
        if self.taken.len() <= at {
            self.taken.resize(at + 1, 0);
        }
        (&mut self.taken[at], 1 << bit)
    }

    /// Addresses for a pod, one of each range; `None` while there are none.
    pub fn take(&mut self) -> Option<Vec<IpAddr>> {
        let places = self.places();
        for step in 0..places {
            let place = (self.next + step) % places;
            let (word, bit) = self.word(place);
            if *word & bit == 0 {
                *word |= bit;
                self.next = (place + 1) % places;
                return Some(self.at(place));
            }
        }
        None
    }

    fn place_of(&self, address: IpAddr) -> Option<u16> {
        let range = self.ranges.iter().find(|range| range.contains(&address))?;
        let offset = match (range.network(), address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => u128::from(u32::from(address) - u32::from(first)),
            (IpAddr::V6(first), IpAddr::V6(address)) => u128::from(address) - u128::from(first),
            _ => return None,
        };
        u16::try_from(offset.checked_sub(2)?).ok().filter(|place| *place < self.places())
    }

    /// An address is in use by a pod that was there before.
    pub fn occupy(&mut self, address: IpAddr) {
        if let Some(place) = self.place_of(address) {
            let (word, bit) = self.word(place);
            *word |= bit;
        }
    }

    /// A pod with this address is gone.
    pub fn free(&mut self, address: IpAddr) {
        if let Some(place) = self.place_of(address) {
            let (word, bit) = self.word(place);
            *word &= !bit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_is_given_once_until_it_is_free() {
        let mut node = Addresses::default();
        assert_eq!(node.take(), None, "without ranges there is nothing to give");
        node.set_ranges(vec!["10.0.0.0/29".parse().expect("a range"), "fd00::/64".parse().expect("a range")]);
        let given: Vec<Vec<IpAddr>> = std::iter::from_fn(|| node.take()).collect();
        let texts: Vec<String> = given.iter().map(|pair| format!("{} {}", pair[0], pair[1])).collect();
        assert_eq!(
            texts,
            ["10.0.0.2 fd00::2", "10.0.0.3 fd00::3", "10.0.0.4 fd00::4", "10.0.0.5 fd00::5", "10.0.0.6 fd00::6"]
        );
        node.free(given[2][0]);
        assert_eq!(node.take().as_ref(), Some(&given[2]));
        node.occupy("192.0.2.1".parse().expect("an address"));
        node.set_ranges(vec!["10.0.1.0/29".parse().expect("a range")]);
        node.occupy("10.0.1.2".parse().expect("an address"));
        assert_eq!(node.take(), Some(vec!["10.0.1.3".parse().expect("an address")]));
    }
}
