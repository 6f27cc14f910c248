//! Who is cabled to what, and which way packets go: all of it follows from the specification.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::spec::{Family, LabSpec, NODE_INTERFACE};

/// A cable of the underlay: a veth pair with one end on a bridge. Its name is that of the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cable {
    /// Its interface at the bridge.
    pub(crate) name: String,
    /// Which of the lab's cables it is, from zero.
    pub(crate) number: usize,
    /// The segment it leads to.
    pub(crate) segment: usize,
    /// The node or router at its other end.
    pub(crate) member: String,
    /// Its interface there.
    pub(crate) interface: String,
    /// In bytes.
    pub(crate) mtu: u16,
    /// IPv4 and IPv6, as far as the prefixes reach.
    pub(crate) addresses: Vec<IpNet>,
}

/// A way to a segment that is not one's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) destination: IpNet,
    pub(crate) via: IpAddr,
    /// The interface.
    pub(crate) dev: String,
}

/// The name of a segment's bridge.
pub(crate) fn bridge(segment: usize) -> String {
    format!("br{segment}")
}

/// A router's interface in the segment that it names at that place.
fn router_interface(place: usize) -> String {
    format!("eth{place}")
}

impl LabSpec {
    /// The cables, those of nodes first.
    pub(crate) fn cables(&self) -> impl Iterator<Item = Cable> {
        let nodes = self.nodes.iter().enumerate().map(|(index, node)| Cable {
            name: node.name.clone(),
            number: 0,
            segment: node.segment,
            member: node.name.clone(),
            interface: NODE_INTERFACE.to_owned(),
            mtu: node.mtu.unwrap_or(self.segments[node.segment].mtu),
            addresses: self.both(|family| self.node_address(index, family)),
        });
        let routers = self.routers.iter().enumerate().flat_map(move |(index, router)| {
            router.segments.iter().enumerate().map(move |(place, segment)| Cable {
                name: format!("{}.{}", router.name, router_interface(place)),
                number: 0,
                segment: *segment,
                member: router.name.clone(),
                interface: router_interface(place),
                mtu: self.segments[*segment].mtu,
                addresses: self.both(|family| self.router_address(index, *segment, family)),
            })
        });
        nodes.chain(routers).enumerate().map(|(number, cable)| Cable { number, ..cable })
    }

    /// The names of the links: those of the nodes, and `ROUTER.ethN` for a router's.
    pub fn links(&self) -> impl Iterator<Item = String> {
        self.cables().map(|cable| cable.name)
    }

    /// The address of a node on the underlay, counted from zero; none beyond the end of the prefix.
    #[must_use]
    pub fn node_address(&self, node: usize, family: Family) -> Option<IpNet> {
        let segment = self.nodes.get(node)?.segment;
        let place = self.nodes[..node].iter().filter(|other| other.segment == segment).count();
        self.host(segment, place, family)
    }

    /// Routers come after the nodes of their segments.
    pub(crate) fn router_address(&self, router: usize, segment: usize, family: Family) -> Option<IpNet> {
        let nodes = self.nodes.iter().filter(|node| node.segment == segment).count();
        let before = self.routers[..router].iter().filter(|other| other.segments.contains(&segment)).count();
        self.host(segment, nodes + before, family)
    }

    /// The store's address in a segment: the last one that a host can have.
    pub(crate) fn store_address(&self, segment: usize) -> Ipv4Net {
        let prefix = self.segments[segment].ipv4;
        let (last, length) = (prefix.broadcast(), prefix.prefix_len());
        let edge = u32::from(length < 31);
        Ipv4Net::new_assert(Ipv4Addr::from_bits(last.to_bits() - edge), length)
    }

    /// The addresses by which a pod, a node or a router is reached.
    pub(crate) fn addresses_of(&self, member: &str) -> Vec<IpAddr> {
        let pod = self.pod(member).map(|pod| pod.addresses.clone()).unwrap_or_default();
        let cabled = self.cables().filter(|cable| cable.member == member).flat_map(|cable| cable.addresses);
        pod.into_iter().chain(cabled).map(|net| net.addr()).collect()
    }

    /// The first address of `to` that is of a family of `from`'s.
    pub(crate) fn common_address(&self, from: &str, to: &str) -> Option<IpAddr> {
        let own = self.addresses_of(from);
        let suits = |address: &IpAddr| own.iter().any(|own| own.is_ipv4() == address.is_ipv4());
        self.addresses_of(to).into_iter().find(suits)
    }

    /// The prefix of a segment.
    fn prefix(&self, segment: usize, family: Family) -> IpNet {
        let segment = &self.segments[segment];
        match family {
            Family::Ipv4 => segment.ipv4.trunc().into(),
            Family::Ipv6 => segment.ipv6.trunc().into(),
        }
    }

    fn host(&self, segment: usize, place: usize, family: Family) -> Option<IpNet> {
        let prefix = self.prefix(segment, family);
        let address: IpAddr = match prefix {
            IpNet::V4(prefix) => prefix.hosts().nth(place)?.into(),
            IpNet::V6(prefix) => prefix.hosts().nth(place + 1)?.into(),
        };
        IpNet::new(address, prefix.prefix_len()).ok()
    }

    /// Whether a segment has so many addresses.
    pub(crate) fn has_room(&self, segment: usize, members: usize, family: Family) -> bool {
        members == 0 || self.host(segment, members - 1, family).is_some()
    }

    /// Whether packets get from one segment to another.
    pub(crate) fn is_reachable(&self, from: usize, to: usize) -> bool {
        self.distances(to)[from].is_some()
    }

    fn both(&self, address: impl Fn(Family) -> Option<IpNet>) -> Vec<IpNet> {
        [Family::Ipv4, Family::Ipv6].into_iter().filter_map(address).collect()
    }

    /// The routes that a node or router needs to reach the segments it is not in, by the fewest routers.
    pub(crate) fn routes(&self, member: &str) -> Vec<Route> {
        let own: Vec<Cable> = self.cables().filter(|cable| cable.member == member).collect();
        let others = (0..self.segments.len()).filter(|segment| own.iter().all(|cable| cable.segment != *segment));
        others.flat_map(|segment| self.ways(&own, member, segment)).collect()
    }

    fn ways(&self, own: &[Cable], member: &str, destination: usize) -> Vec<Route> {
        let distances = self.distances(destination);
        let distances = &distances;
        let hops = own.iter().flat_map(|cable| {
            let others = self.routers.iter().enumerate().filter(|(_, router)| router.name != member);
            others.filter_map(move |(index, router)| {
                let near = router.segments.contains(&cable.segment);
                let distance = router.segments.iter().filter_map(|segment| distances[*segment]).min()?;
                near.then_some((distance, index, cable))
            })
        });
        let Some((_, router, cable)) = hops.min_by_key(|(distance, index, _)| (*distance, *index)) else {
            return Vec::new();
        };
        let families = [Family::Ipv4, Family::Ipv6].into_iter();
        let routes = families.filter_map(|family| {
            let via = self.router_address(router, cable.segment, family)?.addr();
            Some(Route { destination: self.prefix(destination, family), via, dev: cable.interface.clone() })
        });
        routes.collect()
    }

    /// Routers between each segment and that one; none where no way leads.
    fn distances(&self, destination: usize) -> Vec<Option<usize>> {
        let mut distances = vec![None; self.segments.len()];
        distances[destination] = Some(0);
        let mut waiting = VecDeque::from([destination]);
        while let Some(segment) = waiting.pop_front() {
            let next = distances[segment].map(|distance| distance + 1);
            for router in self.routers.iter().filter(|router| router.segments.contains(&segment)) {
                for other in &router.segments {
                    if distances[*other].is_none() {
                        distances[*other] = next;
                        waiting.push_back(*other);
                    }
                }
            }
        }
        distances
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAIN: &str = "
        segments:
          - {name: east, ipv4: 10.1.0.0/24, ipv6: 'fd01::/64'}
          - {name: middle, ipv4: 10.2.0.0/24, ipv6: 'fd02::/64', mtu: 1400}
          - {name: west, ipv4: 10.3.0.0/24, ipv6: 'fd03::/64'}
        routers: [{name: r1, segments: [east, middle]}, {name: r2, segments: [middle, west]}]
        nodes: [{name: n1}, {name: n2, segment: west, mtu: 9000}, {name: n3, segment: middle}, {name: n4}]
    ";

    fn chain() -> LabSpec {
        LabSpec::parse(CHAIN, "lab.yaml").unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn cables_and_addresses_are_counted_in_their_segments() {
        let spec = chain();
        let told: Vec<String> = spec
            .cables()
            .map(|Cable { name, number, segment, mtu, addresses, .. }| {
                format!("{number} {name} br{segment} {mtu} {} {}", addresses[0], addresses[1])
            })
            .collect();
        let expected = [
            "0 n1 br0 1500 10.1.0.1/24 fd01::1/64",
            "1 n2 br2 9000 10.3.0.1/24 fd03::1/64",
            "2 n3 br1 1400 10.2.0.1/24 fd02::1/64",
            "3 n4 br0 1500 10.1.0.2/24 fd01::2/64",
            "4 r1.eth0 br0 1500 10.1.0.3/24 fd01::3/64",
            "5 r1.eth1 br1 1400 10.2.0.2/24 fd02::2/64",
            "6 r2.eth0 br1 1400 10.2.0.3/24 fd02::3/64",
            "7 r2.eth1 br2 1500 10.3.0.2/24 fd03::2/64",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn routes_lead_to_every_other_segment() {
        let spec = chain();
        let routes = |member: &str| -> Vec<String> {
            let ipv4 = spec.routes(member).into_iter().filter(|route| route.via.is_ipv4());
            ipv4.map(|Route { destination, via, dev }| format!("{destination} {via} {dev}")).collect()
        };
        assert_eq!(routes("n1"), ["10.2.0.0/24 10.1.0.3 eth0", "10.3.0.0/24 10.1.0.3 eth0"]);
        assert_eq!(routes("n3"), ["10.1.0.0/24 10.2.0.2 eth0", "10.3.0.0/24 10.2.0.3 eth0"]);
        assert_eq!(routes("r1"), ["10.3.0.0/24 10.2.0.3 eth1"]);
        assert_eq!(spec.routes("n2").len(), 4);
        let alone = LabSpec::parse("nodes: [{name: n1}]", "lab.yaml").unwrap();
        assert_eq!(alone.routes("n1"), []);
    }
}
