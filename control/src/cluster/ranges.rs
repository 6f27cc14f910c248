//! The addresses of the cluster's pods: one network that all share, of which each node gets ranges of its own.
//!
//! A cluster range is cut into node ranges of one length. The first of them is the cluster's own, with the gateway in
//! it, and is given to nobody; each other one is given to a node by writing a row under the range, if there is none. So
//! nobody has to keep count, and two nodes that want the same one cannot both get it. Where a node begins to look
//! follows from its name, so that many that start at once seldom meet.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_encap::{MacAddr, Vni};

use super::record::{Network, RECORD_VERSION};

/// Bits of a node range's own that are left at least: its first address is no host's, the second is the node's.
const LEAST_HOST_BITS: u8 = 2;

/// A range of the cluster's, and how it is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRange {
    /// All its addresses.
    pub range: IpNet,
    /// Prefix length, in bits, of the ranges that nodes get of it.
    pub node_prefix: u8,
}

/// Why a node has no ranges.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRanges {
    /// Its configuration says other than the cluster's row.
    #[error(
        "this node's `[network]` is {own}, and the cluster's is {cluster}: make them alike, or end all agents and delete the store's row {row} to begin anew"
    )]
    Disagrees {
        /// What its configuration says.
        own: Network,
        /// What the row says.
        cluster: Network,
        /// The row's key.
        row: String,
    },
    /// The cluster's row cannot be read.
    #[error("the store's row {row}: {reason}")]
    Unreadable {
        /// Its key.
        row: String,
        /// What is wrong.
        reason: String,
    },
    /// All are given away.
    #[error(
        "{cluster} has no range left for this node, {given} are given: `weft show nodes` says to whom; give those back of nodes that are gone by `weft node remove NAME`"
    )]
    Exhausted {
        /// The range that is used up.
        cluster: ClusterRange,
        /// How many nodes have one.
        given: usize,
    },
}

impl ClusterRange {
    /// Whether it can be cut so: what is wrong, if it cannot.
    #[must_use]
    pub fn wrong(&self) -> Option<String> {
        let (own, most) = (self.range.prefix_len(), self.range.max_prefix_len() - LEAST_HOST_BITS);
        if self.range != self.range.trunc() {
            Some(format!("has {}, whose network is {}", self.range, self.range.trunc()))
        } else if !(own < self.node_prefix && self.node_prefix <= most) {
            Some(format!("has {self}: nodes' prefixes are {} to {most} bits long here", own + 1))
        } else {
            None
        }
    }

    /// The address of the gateway, the same on all nodes: the second of all.
    #[must_use]
    pub fn gateway(&self) -> IpAddr {
        plus(self.range.network(), 1)
    }

    /// Whether nodes' ranges come from here.
    #[must_use]
    pub fn has(&self, node_range: &IpNet) -> bool {
        self.range.contains(node_range) && node_range.prefix_len() == self.node_prefix
    }

    /// A range for this node: the one that it had if that is free, and none if all are taken.
    #[must_use]
    pub fn choose(&self, node: &str, had: Option<IpNet>, taken: &BTreeSet<IpNet>) -> Option<IpNet> {
        if let Some(had) = had.filter(|had| self.has(had) && *had != self.nth(0) && !taken.contains(had)) {
            return Some(had);
        }
        // The first is the cluster's own.
        let count = (1_u128 << (self.node_prefix - self.range.prefix_len())) - 1;
        let start = u128::from(hash(node)) % count;
        // More steps than there are taken ones always find one that is not.
        let steps = count.min(taken.len() as u128 + 1);
        (0..steps).map(|step| self.nth(1 + (start + step) % count)).find(|range| !taken.contains(range))
    }

    fn nth(&self, number: u128) -> IpNet {
        let bits = self.range.max_prefix_len() - self.node_prefix;
        let start = plus(self.range.network(), number << bits);
        IpNet::new(start, self.node_prefix).unwrap_or(self.range)
    }
}

/// The address of a node in its range, by which it reaches all pods: the second.
#[must_use]
pub fn overlay_address(node_range: IpNet) -> IpAddr {
    plus(node_range.network(), 1)
}

/// The MAC of a network's gateway, the same on all nodes: locally administered, `WG`, and the VNI.
#[must_use]
pub fn gateway_mac(vni: Vni) -> MacAddr {
    MacAddr::from_u64(0x0257_4700_0000 | u64::from(vni.get()))
}

impl Network {
    /// These ranges in this virtual network.
    #[must_use]
    pub fn new(vni: Vni, ranges: Vec<ClusterRange>) -> Self {
        Self { version: RECORD_VERSION, vni, ranges }
    }
}

impl std::fmt::Display for ClusterRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in /{}", self.range, self.node_prefix)
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ranges: Vec<_> = self.ranges.iter().map(ToString::to_string).collect();
        write!(f, "{} of VNI {}", ranges.join(" and "), self.vni)
    }
}

fn plus(address: IpAddr, number: u128) -> IpAddr {
    match address {
        // No more than the range has, which is checked to be one of the family.
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits().wrapping_add(number as u32)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().wrapping_add(number)).into(),
    }
}

/// FNV-1a.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(range: &str, node_prefix: u8) -> ClusterRange {
        ClusterRange { range: range.parse().unwrap(), node_prefix }
    }

    #[test]
    fn every_range_but_the_first_is_given_once_and_then_none() {
        for (cluster, count) in [
            (cluster("10.244.0.0/16", 24), 255),
            (cluster("10.0.0.0/24", 26), 3),
            (cluster("fd00:1::/60", 64), 15),
            (cluster("192.168.0.0/24", 25), 1),
        ] {
            let mut taken = BTreeSet::new();
            for node in 0..count {
                let range = cluster.choose(&format!("n{node}"), None, &taken).unwrap();
                assert!(cluster.has(&range) && !range.contains(&cluster.gateway()), "{range}");
                assert!(taken.insert(range), "{range} is given twice");
            }
            assert_eq!(cluster.choose("one-more", None, &taken), None);
            let free = *taken.iter().nth(count / 2).unwrap();
            taken.remove(&free);
            assert_eq!(cluster.choose("one-more", None, &taken), Some(free), "the last one is found");
        }
    }

    #[test]
    fn a_node_prefers_what_it_had() {
        let cluster = cluster("10.244.0.0/16", 24);
        let had = "10.244.77.0/24".parse().unwrap();
        assert_eq!(cluster.choose("n1", Some(had), &BTreeSet::new()), Some(had));
        assert_ne!(cluster.choose("n1", Some(had), &[had].into()), Some(had));
        for foreign in ["10.245.1.0/24", "10.244.1.0/25", "10.244.0.0/24"] {
            let foreign = foreign.parse().unwrap();
            assert_ne!(cluster.choose("n1", Some(foreign), &BTreeSet::new()), Some(foreign), "{foreign}");
        }
    }

    #[test]
    fn addresses_follow_from_ranges() {
        assert_eq!(cluster("10.244.0.0/16", 24).gateway(), IpAddr::from([10, 244, 0, 1]));
        assert_eq!(overlay_address("10.244.3.0/24".parse().unwrap()), IpAddr::from([10, 244, 3, 1]));
        assert_eq!(overlay_address("fd00:1:2:3::/64".parse().unwrap()), "fd00:1:2:3::1".parse::<IpAddr>().unwrap());
        let huge = cluster("::/0", 126);
        assert!(huge.wrong().is_none() && huge.choose("n1", None, &BTreeSet::new()).is_some());
        let mac = gateway_mac(Vni::MAX);
        assert_eq!(mac.to_string(), "02:57:47:ff:ff:ff");
    }

    #[test]
    fn what_cannot_be_cut_is_refused() {
        for (range, node_prefix, word) in
            [("10.0.0.1/16", 24, "10.0.0.0/16"), ("10.0.0.0/24", 24, "25 to 30"), ("10.0.0.0/24", 31, "25 to 30")]
        {
            let wrong = cluster(range, node_prefix).wrong().unwrap();
            assert!(wrong.contains(word), "{wrong}");
        }
        assert_eq!(cluster("fd00::/48", 64).wrong(), None);
    }
}
