//! The underlay: a link for each node, all joined in one place.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use weft_channel::{Channel, ChannelCounters, Direction, ImpairmentError, Impairments};
use weft_encap::checksum::{self, Verified};
use weft_encap::inner::ETHERNET_LEN;
use weft_encap::outer::{self, Addresses, Link as Macs, Outer, UdpChecksum};
use weft_encap::{Encapsulation, MacAddr};
use weft_switch::memory::MemoryDatagram;

use crate::trace::{Event, Trace};

/// The first of the ports from which nodes send: the dynamic ones (RFC 6335 section 6).
const FIRST_SOURCE_PORT: u16 = 49_152;
/// Encapsulations, each at its own port.
const ENCAPSULATIONS: [Encapsulation; 2] = [Encapsulation::Vxlan, Encapsulation::Geneve];

/// The underlay network. Every node has a link of its own; one that was not changed loses nothing and takes no time.
#[derive(Debug)]
pub struct Wire {
    seed: u64,
    links: BTreeMap<IpAddr, Link>,
    counters: WireCounters,
}

/// Packets that no channel lost, and that reached no node all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WireCounters {
    /// Packets to an address that no node has.
    pub unreachable: u64,
    /// Packets with a wrong checksum, or headers that cannot be read.
    pub damaged: u64,
    /// Frames on a link that was cut.
    pub cut: u64,
}

#[derive(Debug)]
struct Link {
    impairments: Impairments,
    from: Channel,
    to: Channel,
    cut: bool,
}

/// A tunnel packet that has reached a node.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) to: IpAddr,
    pub(crate) from: IpAddr,
    pub(crate) encapsulation: Encapsulation,
    pub(crate) tos: u8,
    pub(crate) payload: Vec<u8>,
}

impl Wire {
    pub(crate) const fn new(seed: u64) -> Self {
        Self { seed, links: BTreeMap::new(), counters: WireCounters { unreachable: 0, damaged: 0, cut: 0 } }
    }

    /// Changes the link of a node in both directions, or in one, as `KEY=VALUE` says: `loss=3%`, `delay=20ms`, `mtu=1400`.
    ///
    /// # Errors
    /// [`ImpairmentError`]; nothing is changed then.
    pub fn impair(&mut self, node: IpAddr, direction: Option<Direction>, text: &str) -> Result<(), ImpairmentError> {
        let link = self.link(node);
        link.impairments.set(direction, text)?;
        link.from.change(link.impairments.from.clone());
        link.to.change(link.impairments.to.clone());
        Ok(())
    }

    /// Cuts a node off, or joins it again. What is on its way on its link is lost.
    pub fn cut(&mut self, node: IpAddr, cut: bool) {
        self.link(node).cut = cut;
    }

    /// What became of packets from a node, and of those to it.
    #[must_use]
    pub fn link_counters(&self, node: IpAddr) -> Option<(ChannelCounters, ChannelCounters)> {
        self.links.get(&node).map(|link| (link.from.counters(), link.to.counters()))
    }

    /// What was lost elsewhere than in the links.
    #[must_use]
    pub const fn counters(&self) -> WireCounters {
        self.counters
    }

    fn link(&mut self, node: IpAddr) -> &mut Link {
        // Each direction has chances of its own.
        let seed = self.seed.wrapping_add(2 * self.links.len() as u64);
        self.links.entry(node).or_insert_with(|| Link {
            impairments: Impairments::default(),
            from: Channel::new(Impairments::default().from, seed),
            to: Channel::new(Impairments::default().to, seed.wrapping_add(1)),
            cut: false,
        })
    }

    /// Takes what a node sent, packet by packet.
    pub(crate) fn send(&mut self, node: IpAddr, datagram: &MemoryDatagram, now: Duration, trace: &mut Trace) {
        for payload in datagram.bytes.chunks(datagram.segment.max(1)) {
            let Some(frame) = packet(node, datagram, payload) else {
                self.counters.damaged += 1;
                continue;
            };
            trace.note(now, Event::FromNode, datagram.lane as u64, &frame);
            let link = self.link(node);
            if link.cut {
                self.counters.cut += 1;
            } else {
                // Whatever it loses, it counts.
                let _ = link.from.offer(&frame, now);
            }
        }
    }

    /// When the next packet gets somewhere.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.links.values().flat_map(|link| [link.from.next(), link.to.next()]).flatten().min()
    }

    /// The next packet that has reached a node by now.
    pub(crate) fn take(&mut self, now: Duration, trace: &mut Trace) -> Option<Arrival> {
        self.exchange(now);
        let counters = &mut self.counters;
        self.links.iter_mut().find_map(|(node, link)| {
            while let Some(frame) = link.to.take(now) {
                if link.cut {
                    counters.cut += 1;
                    continue;
                }
                let Some(arrival) = read(*node, &frame) else {
                    counters.damaged += 1;
                    continue;
                };
                trace.note(now, Event::ToNode, arrival.encapsulation as u64, &frame);
                return Some(arrival);
            }
            None
        })
    }

    /// From the links of senders to those of receivers.
    fn exchange(&mut self, now: Duration) {
        let mut crossing = Vec::new();
        for link in self.links.values_mut() {
            while let Some(frame) = link.from.take(now) {
                crossing.push((link.cut, frame));
            }
        }
        for (cut, frame) in crossing {
            if cut {
                self.counters.cut += 1;
                continue;
            }
            match Outer::read(&frame).map(|received| received.outer.addresses.dst()) {
                Ok(dst) => match self.links.get_mut(&dst) {
                    Some(link) if !link.cut => {
                        let _ = link.to.offer(&frame, now);
                    }
                    Some(_) => self.counters.cut += 1,
                    None => self.counters.unreachable += 1,
                },
                Err(_) => self.counters.damaged += 1,
            }
        }
    }

    /// Makes sure that a node can be reached.
    pub(crate) fn join(&mut self, node: IpAddr) {
        let _ = self.link(node);
    }

    pub(crate) const fn nobody_there(&mut self) {
        self.counters.unreachable += 1;
    }
}

/// A tunnel packet with its outer headers, as a NIC would see it.
fn packet(node: IpAddr, datagram: &MemoryDatagram, payload: &[u8]) -> Option<Vec<u8>> {
    let addresses = match (node, datagram.peer.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => Addresses::V4 { src, dst },
        (IpAddr::V6(src), IpAddr::V6(dst)) => Addresses::V6 { src, dst },
        _ => return None,
    };
    let outer = Outer {
        addresses,
        src_port: FIRST_SOURCE_PORT.wrapping_add(datagram.lane as u16),
        dst_port: datagram.peer.port(),
        tos: datagram.tos,
        ttl: datagram.ttl,
        identification: 0,
    };
    let mut frame = vec![0; outer::MAX_LEN];
    let macs = Macs { src: MacAddr([2, 0, 0, 0, 0, 1]), dst: MacAddr([2, 0, 0, 0, 0, 2]) };
    macs.write(&mut frame, &addresses).ok()?;
    let udp = UdpChecksum::Complete { payload: checksum::sum(payload) };
    let header_len = outer.write(&mut frame[ETHERNET_LEN..], payload.len(), udp).ok()?;
    frame.truncate(ETHERNET_LEN + header_len);
    frame.extend_from_slice(payload);
    Some(frame)
}

fn read(node: IpAddr, frame: &[u8]) -> Option<Arrival> {
    let received = Outer::read(frame).ok()?;
    if received.verify() != Verified::Right || received.outer.addresses.dst() != node {
        return None;
    }
    let port = received.outer.dst_port;
    Some(Arrival {
        to: node,
        from: received.outer.addresses.src(),
        encapsulation: ENCAPSULATIONS.into_iter().find(|known| known.default_port() == port)?,
        tos: received.outer.tos,
        payload: received.payload.to_vec(),
    })
}
