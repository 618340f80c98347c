//! Which pod address is taken and which is next: pure, one [`Pool`] a range.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

/// The addresses of one range. The first one after the network's own is the gateway's.
#[derive(Debug)]
pub(crate) struct Pool {
    range: IpNet,
    taken: HashSet<u128>,
    /// The offset handed out last: the search goes on after it, so that a vanished pod's address stays unused for as
    /// long as possible and no stale connection meets a new pod.
    last: u128,
}

impl Pool {
    pub(crate) fn new(range: IpNet) -> Pool {
        Pool { range: range.trunc(), taken: HashSet::new(), last: 1 }
    }

    pub(crate) fn gateway(&self) -> IpAddr {
        self.at(1)
    }

    /// Offsets 2 to this one are the pods'. IPv4's last address is the broadcast address.
    fn highest(&self) -> u128 {
        let bits = u32::from(self.range.max_prefix_len() - self.range.prefix_len());
        let size = 1u128.checked_shl(bits).unwrap_or(u128::MAX);
        match self.range {
            IpNet::V4(_) => size.saturating_sub(2),
            IpNet::V6(_) => size.saturating_sub(1),
        }
    }

    fn at(&self, offset: u128) -> IpAddr {
        match self.range.network() {
            IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from(u32::from(v4).wrapping_add(offset as u32))),
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6).wrapping_add(offset))),
        }
    }

    fn offset(&self, address: IpAddr) -> Option<u128> {
        if !self.range.contains(&address) {
            return None;
        }
        match (self.range.network(), address) {
            (IpAddr::V4(base), IpAddr::V4(v4)) => Some(u128::from(u32::from(v4) - u32::from(base))),
            (IpAddr::V6(base), IpAddr::V6(v6)) => Some(u128::from(v6) - u128::from(base)),
            _ => None,
        }
    }

    /// A free address, or none when the range is full.
    pub(crate) fn take(&mut self) -> Option<IpAddr> {
        let highest = self.highest();
        if highest < 2 || self.taken.len() as u128 >= highest - 1 {
            return None;
        }
        loop {
            self.last = if self.last >= highest { 2 } else { self.last + 1 };
            if self.taken.insert(self.last) {
                return Some(self.at(self.last));
            }
        }
    }

    /// Marks an address that is already in use. False when it is not of this range or already marked.
    pub(crate) fn adopt(&mut self, address: IpAddr) -> bool {
        match self.offset(address) {
            Some(offset) if (2..=self.highest()).contains(&offset) => {
                self.last = self.last.max(offset);
                self.taken.insert(offset)
            }
            _ => false,
        }
    }

    pub(crate) fn release(&mut self, address: IpAddr) {
        if let Some(offset) = self.offset(address) {
            self.taken.remove(&offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(range: &str) -> Pool {
        Pool::new(range.parse().expect("a range"))
    }

    fn check(range: &str, count: usize, expected: &[&str]) {
        let mut pool = pool(range);
        let taken: Vec<String> = (0..count).map_while(|_| pool.take()).map(|address| address.to_string()).collect();
        assert_eq!(taken, expected, "{range}");
    }

    #[test]
    fn hands_out_in_order_until_the_range_is_full() {
        check("10.244.0.0/24", 2, &["10.244.0.2", "10.244.0.3"]);
        check("10.244.0.0/29", 99, &["10.244.0.2", "10.244.0.3", "10.244.0.4", "10.244.0.5", "10.244.0.6"]);
        check("10.244.0.0/31", 1, &[]);
        check("10.244.0.0/32", 1, &[]);
        check("fd00:1::/126", 9, &["fd00:1::2", "fd00:1::3"]);
        check("fd00:1::/64", 1, &["fd00:1::2"]);
    }

    #[test]
    fn the_first_address_is_the_gateways() {
        assert_eq!(pool("10.244.3.0/24").gateway().to_string(), "10.244.3.1");
        assert_eq!(pool("fd00:1::/64").gateway().to_string(), "fd00:1::1");
    }

    #[test]
    fn a_released_address_comes_last() {
        let mut pool = pool("10.244.0.0/29");
        let first = pool.take().expect("free");
        pool.release(first);
        let rest: Vec<String> = (0..5).map_while(|_| pool.take()).map(|address| address.to_string()).collect();
        assert_eq!(rest, ["10.244.0.3", "10.244.0.4", "10.244.0.5", "10.244.0.6", "10.244.0.2"]);
    }

    #[test]
    fn adopts_only_what_is_of_the_range_and_free() {
        let mut pool = pool("10.244.0.0/24");
        assert!(pool.adopt("10.244.0.9".parse().expect("an address")));
        assert!(!pool.adopt("10.244.0.9".parse().expect("an address")));
        assert!(!pool.adopt("10.244.1.9".parse().expect("an address")));
        assert!(!pool.adopt("10.244.0.1".parse().expect("an address")));
        assert_eq!(pool.take().map(|address| address.to_string()).as_deref(), Some("10.244.0.10"));
    }
}
