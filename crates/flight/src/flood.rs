//! Requests without a valid token, counted by address, so that nobody can fill the ledger from outside.
//!
//! What holds here: every such request is counted in an entry; the first hundred of an address in a minute in one of
//! their own, those beyond it together.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

/// Entries an address gets in a minute.
const EACH: u64 = 100;
/// How many requests beyond that one entry counts for.
const TOGETHER: u64 = 1_000;
/// Addresses that are told apart; all others count as one.
const ADDRESSES: usize = 10_000;

/// What was refused, by address.
#[derive(Default)]
pub(crate) struct Flood {
    by: Mutex<HashMap<Option<IpAddr>, Minute>>,
}

#[derive(Default)]
struct Minute {
    began: u64,
    seen: u64,
    /// Not in any entry yet.
    waiting: u64,
}

impl Flood {
    /// Counts a refused request of an address at a second. Gives how many an entry is to count for now; 0: none.
    pub(crate) fn count(&self, from: Option<IpAddr>, second: u64) -> u64 {
        let mut by = self.by.lock().unwrap_or_else(PoisonError::into_inner);
        let key = from.map(network);
        let key = if by.len() < ADDRESSES || by.contains_key(&key) { key } else { None };
        let minute = by.entry(key).or_default();
        if second.abs_diff(minute.began) >= 60 {
            *minute = Minute { began: second, seen: 0, waiting: minute.waiting };
        }
        minute.seen += 1;
        minute.waiting += 1;
        let due = minute.seen <= EACH || minute.waiting >= TOGETHER;
        if due { std::mem::take(&mut minute.waiting) } else { 0 }
    }

    /// What is in no entry yet.
    pub(crate) fn rest(&self) -> u64 {
        self.by.lock().unwrap_or_else(PoisonError::into_inner).drain().map(|(_, m)| m.waiting).sum()
    }
}

/// Of IPv6 the part that one customer gets: its owner has all addresses below.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

    #[test]
    fn a_hundred_a_minute_have_entries_of_their_own_and_none_is_lost() {
        let flood = Flood::default();
        let first: u64 = (0..EACH).map(|_| flood.count(HERE, 5)).sum();
        assert_eq!(first, EACH);
        let beyond: Vec<u64> = (0..2_500).map(|_| flood.count(HERE, 6)).filter(|n| *n > 0).collect();
        assert_eq!(beyond, [TOGETHER, TOGETHER]);
        assert_eq!(flood.count(Some([1, 2, 3, 4].into()), 6), 1);
        // The next minute takes along what waited.
        assert_eq!(flood.count(HERE, 65), 501);
        assert_eq!(flood.count(HERE, 66), 1);
        assert_eq!(flood.rest(), 0);
    }

    #[test]
    fn what_waits_at_the_end_is_told() {
        let flood = Flood::default();
        let told: u64 = (0..EACH + 7).map(|_| flood.count(HERE, 5)).sum();
        assert_eq!((told, flood.rest()), (EACH, 7));
    }

    #[test]
    fn one_customer_is_one_address() {
        let flood = Flood::default();
        let told: u64 = (0..EACH + 50)
            .map(|n| flood.count(Some(IpAddr::V6((0x2001_0db8_u128 << 96 | u128::from(n)).into())), 5))
            .sum();
        assert_eq!((told, flood.rest()), (EACH, 50));
    }
}
