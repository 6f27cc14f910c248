//! The endpoints of one node, in order and in one piece: a cluster has very many.

use std::net::IpAddr;
use std::ops::Deref;

use weft_encap::{MacAddr, Vni};

use super::Row;
use crate::cluster::record::{Attached, Endpoint};

/// What counts of an endpoint's row, whose node is that under which it stands. There are very many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownEndpoint {
    /// The virtual network.
    pub vni: Vni,
    /// The MAC.
    pub mac: MacAddr,
    /// Whose the MAC is.
    pub attached: Attached,
    /// Its addresses.
    pub ips: Ips,
    pub(super) incarnation: i64,
    /// The revision at which its node first published it.
    pub sequence: i64,
}

/// Addresses, of which there is one as a rule: that one lies in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ips {
    /// One.
    One(IpAddr),
    /// None, or several.
    Other(Box<[IpAddr]>),
}

/// By which a node has it once.
pub(super) type EndpointKey = (Vni, MacAddr);

/// Endpoints by their keys.
#[derive(Clone, Debug, Default)]
pub(super) struct Endpoints(Vec<KnownEndpoint>);

impl KnownEndpoint {
    pub(super) fn of(Row { record, created, .. }: Row<Endpoint>) -> Self {
        let Endpoint { vni, mac, ips, incarnation, sequence, attached, .. } = record;
        let sequence = if sequence == 0 { created } else { sequence };
        Self { vni, mac, attached, ips: Ips::of(ips), incarnation, sequence }
    }

    pub(super) fn key(&self) -> EndpointKey {
        (self.vni, self.mac)
    }
}

impl Ips {
    fn of(ips: Vec<IpAddr>) -> Self {
        match *ips {
            [one] => Self::One(one),
            _ => Self::Other(ips.into()),
        }
    }
}

impl Deref for Ips {
    type Target = [IpAddr];

    fn deref(&self) -> &[IpAddr] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Other(all) => all,
        }
    }
}

impl Endpoints {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &KnownEndpoint> + Clone {
        self.0.iter()
    }

    pub(super) fn get(&self, key: EndpointKey) -> Option<&KnownEndpoint> {
        self.place(key).ok().map(|place| &self.0[place])
    }

    pub(super) fn insert(&mut self, endpoint: KnownEndpoint) {
        match self.place(endpoint.key()) {
            Ok(place) => self.0[place] = endpoint,
            Err(place) => {
                // Room for an eighth more, where a vector would take twice what it has.
                if self.0.len() == self.0.capacity() {
                    self.0.reserve_exact(1 + self.0.len() / 8);
                }
                self.0.insert(place, endpoint);
            }
        }
    }

    pub(super) fn remove(&mut self, key: EndpointKey) -> Option<KnownEndpoint> {
        self.place(key).ok().map(|place| self.0.remove(place))
    }

    /// Where it is, or has to be. Rows come in order as a rule.
    fn place(&self, key: EndpointKey) -> Result<usize, usize> {
        match self.0.last() {
            Some(last) if last.key() < key => Err(self.0.len()),
            _ => self.0.binary_search_by_key(&key, KnownEndpoint::key),
        }
    }
}

impl<'a> FromIterator<&'a KnownEndpoint> for Endpoints {
    fn from_iter<T: IntoIterator<Item = &'a KnownEndpoint>>(endpoints: T) -> Self {
        let mut all: Vec<KnownEndpoint> = endpoints.into_iter().cloned().collect();
        all.sort_by_key(KnownEndpoint::key);
        all.shrink_to_fit();
        Self(all)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn endpoint(number: u32, sequence: i64) -> KnownEndpoint {
        let [.., a, b] = number.to_be_bytes();
        KnownEndpoint {
            vni: Vni::new(1 + number % 3).unwrap(),
            mac: MacAddr([2, 0, 0, 0, a, b]),
            attached: Attached::Bound,
            ips: Ips::of(Vec::new()),
            incarnation: 1,
            sequence,
        }
    }

    /// Beside a map, with keys in no order: 7 is prime to 400.
    #[test]
    fn they_are_what_a_map_would_have() {
        let (mut endpoints, mut map) = (Endpoints::default(), BTreeMap::new());
        for number in (0..600).map(|number| number * 7 % 400) {
            let one = endpoint(number, i64::from(number));
            map.insert(one.key(), one.clone());
            endpoints.insert(one);
            let gone = endpoint(number / 2, 0).key();
            if number % 5 == 0 {
                endpoints.remove(gone);
                map.remove(&gone);
            }
            assert_eq!(endpoints.get(gone), map.get(&gone));
        }
        assert!(endpoints.iter().eq(map.values()) && map.len() > 100, "{}", map.len());
        assert!(endpoints.0.capacity() <= endpoints.0.len() * 5 / 4, "there is not much room that nobody uses");
        let again: Endpoints = map.values().rev().collect();
        assert!(again.iter().eq(map.values()));
    }
}
