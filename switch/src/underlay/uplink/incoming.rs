//! What a packet off the uplink is: pure.

use std::net::{IpAddr, Ipv4Addr};

use weft_encap::checksum::Verified;
use weft_encap::inner::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use weft_encap::outer::{Outer, Received};
use weft_encap::{Checksum, Encapsulation, Gso, GsoKind, Offload, TunnelOffload, VIRTIO_NET_HDR_TUNNEL_LEN};

use crate::underlay::{Datagram, Form, Listen};

/// What is taken.
#[derive(Clone, Debug)]
pub(crate) struct Accepted {
    pub(crate) listen: Vec<Listen>,
    /// Take packets without a UDP checksum over IPv6 (RFC 6935); over IPv4 they are always taken.
    pub(crate) zero_checksums_over_ipv6: bool,
}

impl Accepted {
    /// Reads a packet that begins at `start` in the arena. None if its outer headers or its outer checksum are
    /// wrong, or if it is for nobody here.
    pub(crate) fn read(
        &self,
        header: &[u8; VIRTIO_NET_HDR_TUNNEL_LEN],
        packet: &[u8],
        start: usize,
    ) -> Option<Datagram> {
        let TunnelOffload { offload, tunnel } = TunnelOffload::from_bytes(header).ok()?;
        let received = Outer::read(packet).ok()?;
        let outer = received.outer;
        let to = (outer.addresses.dst(), outer.dst_port);
        let listen = self.listen.iter().find(|listen| (listen.at.ip(), listen.at.port()) == to)?;
        let at = ETHERNET_LEN + outer.header_len();
        let without = packet[at - 2..at] == [0, 0];
        if without && to.0.is_ipv6() && !self.zero_checksums_over_ipv6 {
            return None;
        }
        // What the kernel marks was verified by it, or never was on a wire.
        if offload.checksum == Checksum::Unknown && received.verify() == Verified::Wrong {
            return None;
        }
        let payload = received.payload;
        let (segment, form) = match (offload.gso, tunnel) {
            (None, _) => (payload.len(), Form::Packets),
            (Some(Gso { kind: GsoKind::Udp, size, .. }), None) => (usize::from(size), Form::Packets),
            (Some(_), None) => return None,
            (Some(gso), Some(_)) => {
                let inner = listen.encapsulation.decap(payload).map_or(0, |(_, frame)| payload.len() - frame.len());
                let of_frame = of_frame(&offload, gso, (at + inner) as u16)?;
                (payload.len(), Form::Packet(of_frame))
            }
        };
        let range = start + at..start + at + payload.len();
        let (source, encapsulation) = (outer.addresses.src(), listen.encapsulation);
        let source_port = outer.src_port;
        Some(Datagram { range, segment, source, source_port, encapsulation, tos: outer.tos, form })
    }

    /// What can be said of a packet that [`Self::read`] refuses. Behind headers that are wrong there is no payload.
    #[cold]
    pub(crate) fn malformed(&self, packet: &[u8], start: usize) -> Datagram {
        let known = Outer::read(packet).ok().and_then(|received| {
            let listen = self.listen.iter().find(|listen| listen.at.port() == received.outer.dst_port)?;
            Some((received, listen.encapsulation))
        });
        let (range, source_port, tos, encapsulation) = known.map_or_else(
            || (start..start, 0, 0, Encapsulation::default()),
            |(Received { outer, payload, .. }, encapsulation)| {
                let at = start + ETHERNET_LEN + outer.header_len();
                (at..at + payload.len(), outer.src_port, outer.tos, encapsulation)
            },
        );
        let source = source(packet).unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        Datagram { segment: range.len(), range, source, source_port, encapsulation, tos, form: Form::Malformed }
    }
}

/// The sender as the IP header has it (RFC 791 section 3.1, RFC 8200 section 3), whatever is wrong with the rest.
fn source(packet: &[u8]) -> Option<IpAddr> {
    let (ethernet, ip) = packet.split_first_chunk::<ETHERNET_LEN>()?;
    match u16::from_be_bytes([ethernet[12], ethernet[13]]) {
        ETHERTYPE_IPV4 => ip.get(12..)?.first_chunk::<4>().map(|source| (*source).into()),
        ETHERTYPE_IPV6 => ip.get(8..)?.first_chunk::<16>().map(|source| (*source).into()),
        _ => None,
    }
}

/// An Offload with offsets from the start of the inner frame, which begins at `frame`.
fn of_frame(offload: &Offload, gso: Gso, frame: u16) -> Option<Offload> {
    let Checksum::Needed { start, offset } = offload.checksum else { return None };
    let checksum = Checksum::Needed { start: start.checked_sub(frame)?, offset };
    let gso = Gso { header_len: gso.header_len.saturating_sub(frame), ..gso };
    Some(Offload { checksum, gso: Some(gso) })
}
