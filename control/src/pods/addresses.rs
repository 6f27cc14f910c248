//! Which address of a node's range a pod gets: pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// What comes before a range's first address for pods: the one that is no host's, and the node's own.
const FIRST: u128 = 2;

/// The offsets of a range's addresses for pods, first and last; none in one that is too small.
fn bounds(range: IpNet) -> Option<(u128, u128)> {
    let bits = range.max_prefix_len() - range.prefix_len();
    let last = if bits == 128 { u128::MAX } else { (1 << bits) - 1 };
    // The last of an IPv4 network is its broadcast address (RFC 919).
    let last = if range.addr().is_ipv4() { last.checked_sub(1)? } else { last };
    (FIRST <= last).then_some((FIRST, last))
}

fn offset(range: IpNet, address: IpAddr) -> Option<u128> {
    range.contains(&address).then(|| number(address) - number(range.network()))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn address(range: IpNet, offset: u128) -> IpAddr {
    match range.network() {
        // Offsets are checked to be the range's.
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits().wrapping_add(offset as u32)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().wrapping_add(offset)).into(),
    }
}

/// Whether an address of a range may be a pod's at all.
pub(super) fn is_for_pods(range: IpNet, wanted: IpAddr) -> bool {
    let within = |offset| bounds(range).is_some_and(|(first, last)| (first..=last).contains(&offset));
    offset(range, wanted).is_some_and(within)
}

/// The next free one after that which was given last, so that one which became free rests as long as can be.
pub(super) fn choose(
    range: IpNet,
    given_last: Option<IpAddr>,
    taken: &BTreeSet<IpAddr>,
    reserved: &[IpNet],
) -> Option<IpAddr> {
    let (first, last) = bounds(range)?;
    let after = given_last.and_then(|given| offset(range, given)).map(|offset| offset.saturating_add(1));
    let start = after.filter(|start| (first..=last).contains(start)).unwrap_or(first);
    let free = |from: u128, to: u128| {
        let mut at = from;
        // Each step passes a taken address, or all that is left of a reserved range.
        while at <= to {
            let candidate = address(range, at);
            if let Some(reserved) = reserved.iter().find(|reserved| reserved.contains(&candidate)) {
                at = offset(range, reserved.broadcast()).map_or(last, |end| end).checked_add(1)?;
            } else if taken.contains(&candidate) {
                at = at.checked_add(1)?;
            } else {
                return Some(candidate);
            }
        }
        None
    };
    free(start, last).or_else(|| free(first, start.checked_sub(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn every_address_for_pods_is_given_once_and_the_others_never() {
        for (range, count) in [("10.0.0.0/30", 1), ("10.0.0.0/24", 253), ("fd00::/120", 254), ("10.0.0.0/31", 0)] {
            let (range, mut taken, mut last) = (net(range), BTreeSet::new(), None);
            while let Some(given) = choose(range, last, &taken, &[]) {
                assert!(is_for_pods(range, given) && taken.insert(given), "{given}");
                last = Some(given);
            }
            assert_eq!(taken.len(), count, "{range}");
            if let Some(free) = taken.iter().nth(count / 2).copied() {
                taken.remove(&free);
                assert_eq!(choose(range, last, &taken, &[]), Some(free), "the one that is free is found");
            }
        }
    }

    #[test]
    fn an_address_that_became_free_is_given_last() {
        let range = net("10.0.0.0/29");
        assert_eq!(choose(range, Some(ip("10.0.0.3")), &BTreeSet::new(), &[]), Some(ip("10.0.0.4")));
        assert_eq!(choose(range, Some(ip("10.0.0.6")), &BTreeSet::new(), &[]), Some(ip("10.0.0.2")));
        let elsewhere = Some(ip("10.9.0.3"));
        assert_eq!(choose(range, elsewhere, &BTreeSet::new(), &[]), Some(ip("10.0.0.2")), "the range is another now");
    }

    #[test]
    fn reserved_ranges_are_passed_at_once_however_large() {
        let range = net("fd00::/64");
        let reserved = [net("fd00::/65"), net("fd00::8000:0:0:1/128")];
        assert_eq!(choose(range, None, &BTreeSet::new(), &reserved), Some(ip("fd00::8000:0:0:0")));
        let after = choose(range, Some(ip("fd00::8000:0:0:0")), &BTreeSet::new(), &reserved);
        assert_eq!(after, Some(ip("fd00::8000:0:0:2")));
        assert_eq!(choose(range, None, &BTreeSet::new(), &[net("fd00::/60")]), None);
        assert_eq!(choose(net("10.0.0.0/24"), None, &BTreeSet::new(), &[net("10.0.0.0/24")]), None);
    }

    #[test]
    fn addresses_that_are_nobodys_or_the_nodes_are_not_for_pods() {
        let range = net("10.0.0.0/24");
        for no in ["10.0.0.0", "10.0.0.1", "10.0.0.255", "10.0.1.2", "fd00::2"] {
            assert!(!is_for_pods(range, ip(no)), "{no}");
        }
        assert!(is_for_pods(range, ip("10.0.0.2")) && is_for_pods(net("fd00::/64"), ip("fd00::ffff:ffff:ffff:ffff")));
    }
}
