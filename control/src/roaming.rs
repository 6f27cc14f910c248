//! MACs behind this node's learning ports, as the others are told of them.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use weft_bridge::Attachment;
use weft_bridge::fdb::FLAP_HOLD_SECONDS;
use weft_encap::{MacAddr, Vni};
use weft_switch::Switch;

use crate::agent::AttachedPort;
use crate::cluster::OwnEndpoint;
use crate::cluster::record::Attached;

/// Learned MACs that one node publishes at most. What is beyond is found by flooding.
const MAX_PUBLISHED: usize = 4096;
/// How long a MAC that another node took over stays unpublished, though it is seen here: one that is in two places moves
/// this seldom.
const HOLD: Duration = Duration::from_secs(FLAP_HOLD_SECONDS as u64);

/// A MAC of a virtual network.
pub(crate) type Mac = (Vni, MacAddr);

/// What is published of them.
#[derive(Debug, Default)]
pub(crate) struct Roaming {
    /// With the names of their ports.
    published: BTreeMap<Mac, String>,
    taken_over: HashMap<Mac, Instant>,
    is_full: bool,
}

impl Roaming {
    /// Publishes what is seen here, and nothing else. What was taken over has to be withdrawn before: until then,
    /// `in_store` says of it that the store has the older row.
    pub(crate) fn look(&mut self, seen: BTreeMap<Mac, String>, now: Instant, in_store: impl Fn(&Mac) -> bool) {
        self.taken_over.retain(|mac, since| now.duration_since(*since) < HOLD || in_store(mac));
        self.published.retain(|mac, port| seen.get(mac).inspect(|seen| port.clone_from(seen)).is_some());
        for (mac, port) in seen {
            if self.published.len() >= MAX_PUBLISHED {
                break;
            }
            if !self.taken_over.contains_key(&mac) {
                self.published.insert(mac, port);
            }
        }
        let is_full = self.published.len() >= MAX_PUBLISHED;
        if is_full && !self.is_full {
            tracing::warn!(limit = MAX_PUBLISHED, "so many learned MACs are published; others are found by flooding");
        }
        self.is_full = is_full;
    }

    /// Another node has it by now.
    pub(crate) fn lose(&mut self, mac: Mac, now: Instant) {
        self.published.remove(&mac);
        self.taken_over.insert(mac, now);
    }

    /// What to publish.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = (Mac, OwnEndpoint)> {
        let endpoint = |port: &String| OwnEndpoint { ips: Vec::new(), port: port.clone(), attached: Attached::Learned };
        self.published.iter().map(move |(mac, port)| (*mac, endpoint(port)))
    }
}

/// The MACs that were learned behind ports of this node, other than the ports' own, with the ports' names.
pub(crate) fn seen(ports: &[AttachedPort], switch: &Switch) -> BTreeMap<Mac, String> {
    let fdb = switch.fdb();
    let learning = ports.iter().filter(|port| port.config.learn_limit.is_some());
    let learning: HashMap<Attachment, &AttachedPort> = learning
        .map(|port| (Attachment::Port(port.id), port))
        .filter(|(attachment, _)| fdb.len_behind(*attachment) > 0)
        .collect();
    if learning.is_empty() {
        return BTreeMap::new();
    }
    let rows = fdb.rows(switch.now()).filter_map(|row| {
        let port = learning.get(&row.attachment).filter(|port| port.config.mac != row.mac)?;
        Some(((port.config.vni, row.mac), port.config.name.clone()))
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(last: u32) -> Mac {
        (Vni::new(7).unwrap(), MacAddr::from_u64(0x0200_0000_0000 + u64::from(last)))
    }

    fn seen(macs: impl IntoIterator<Item = u32>) -> BTreeMap<Mac, String> {
        macs.into_iter().map(|last| (mac(last), "router".to_owned())).collect()
    }

    fn published(roaming: &Roaming) -> Vec<Mac> {
        roaming.endpoints().map(|(mac, _)| mac).collect()
    }

    #[test]
    fn what_is_seen_is_published_and_what_aged_is_withdrawn() {
        let (mut roaming, now) = (Roaming::default(), Instant::now());
        roaming.look(seen([1, 2]), now, |_| false);
        assert_eq!(published(&roaming), [mac(1), mac(2)]);
        roaming.look(seen([2]), now, |_| true);
        assert_eq!(published(&roaming), [mac(2)]);
        assert!(roaming.endpoints().all(|(_, row)| row.attached == Attached::Learned && row.port == "router"));
    }

    #[test]
    fn what_was_taken_over_is_published_again_after_a_while_and_once_the_older_row_is_gone() {
        let (mut roaming, now) = (Roaming::default(), Instant::now());
        roaming.look(seen([1]), now, |_| false);
        roaming.lose(mac(1), now);
        for (later, in_store) in [(HOLD / 2, false), (HOLD, true)] {
            roaming.look(seen([1]), now + later, |_| in_store);
            assert_eq!(published(&roaming), []);
        }
        roaming.look(seen([1]), now + HOLD, |_| false);
        assert_eq!(published(&roaming), [mac(1)]);
    }

    #[test]
    fn what_is_beyond_the_limit_does_not_displace_what_is_published() {
        let (mut roaming, now) = (Roaming::default(), Instant::now());
        let limit = MAX_PUBLISHED as u32;
        roaming.look(seen(1..=limit), now, |_| false);
        roaming.look(seen(0..=limit), now, |_| true);
        assert_eq!(roaming.endpoints().count(), MAX_PUBLISHED);
        assert!(!published(&roaming).contains(&mac(0)));
        roaming.look(seen(0..limit), now, |_| true);
        assert!(published(&roaming).contains(&mac(0)), "there is room again");
    }
}
