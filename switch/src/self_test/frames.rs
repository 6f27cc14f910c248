//! The test's frames, built and read: pure.

use std::net::{IpAddr, SocketAddr};

use weft_encap::checksum::{self, Verified};
use weft_encap::inner::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, PROTOCOL_TCP, PROTOCOL_UDP};
use weft_encap::l4::{TCP_LEN, UDP_LEN};
use weft_encap::{Checksum, Gso, GsoKind, Inner, L4, Network, Offload};

use super::failure::{Failure, same};
use super::{MAC, SIZE};

pub(super) const SYN: u8 = 0x02;
pub(super) const PSH: u8 = 0x08;
pub(super) const ACK: u8 = 0x10;

/// Hops that a frame may still go, and the receive window of the far end, in bytes.
const TTL: u8 = 64;
const WINDOW: u16 = 65_535;
/// Maximum segment size, as an option of the SYN (RFC 9293 section 3.2).
const MSS_OPTION: [u8; 4] = [2, 4, SIZE.to_be_bytes()[0], SIZE.to_be_bytes()[1]];

/// Between a socket of the scratch namespace and a far end that the test plays.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    pub(super) near: SocketAddr,
    pub(super) far: SocketAddr,
    pub(super) tcp: bool,
}

/// What a TCP header says besides the ports.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tcp {
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
}

/// How a socket's checksum has to reach us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// Complete.
    Yes,
    /// As the pseudo-header sum, with word of where it belongs.
    No,
}

/// A packet of the flow that a socket sent.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) payload: Vec<u8>,
    /// Zero for UDP.
    pub(super) seq: u32,
    pub(super) flags: u8,
    pub(super) gso: Option<(GsoKind, u16)>,
}

impl Flow {
    pub(super) fn kind(&self) -> GsoKind {
        match (self.tcp, self.near.is_ipv6()) {
            (false, _) => GsoKind::Udp,
            (true, false) => GsoKind::Tcp4,
            (true, true) => GsoKind::Tcp6,
        }
    }

    /// The same flow, seen from its other end.
    pub(super) fn turned(self) -> Self {
        Self { near: self.far, far: self.near, tcp: self.tcp }
    }

    /// A frame from the far end, its checksum left to the receiver; a superframe if the payload is longer than
    /// [`SIZE`].
    pub(super) fn frame(&self, tcp: Tcp, payload: &[u8]) -> (Vec<u8>, Offload) {
        let options = if tcp.flags & SYN != 0 { &MSS_OPTION[..] } else { &[] };
        let l4_len = if self.tcp { TCP_LEN + options.len() } else { UDP_LEN } + payload.len();
        let mut frame = Vec::with_capacity(ETHERNET_LEN + 40 + l4_len);
        frame.extend([MAC.0, MAC.0].concat());
        let pseudo = self.push_ip(&mut frame, l4_len as u16);
        let start = frame.len();
        frame.extend([self.far.port().to_be_bytes(), self.near.port().to_be_bytes()].concat());
        let field = checksum::fold(pseudo).to_be_bytes();
        let offset = if self.tcp {
            frame.extend([tcp.seq.to_be_bytes(), tcp.ack.to_be_bytes()].concat());
            frame.extend([(TCP_LEN + options.len()) as u8 / 4 * 16, tcp.flags]);
            frame.extend([WINDOW.to_be_bytes(), field, [0; 2]].concat());
            frame.extend(options);
            checksum::TCP_OFFSET
        } else {
            frame.extend([(l4_len as u16).to_be_bytes(), field].concat());
            checksum::UDP_OFFSET
        };
        let gso = (payload.len() > usize::from(SIZE)).then_some(Gso {
            kind: self.kind(),
            size: SIZE,
            header_len: frame.len() as u16,
            ecn: false,
        });
        frame.extend(payload);
        (frame, Offload { checksum: Checksum::Needed { start: start as u16, offset }, gso })
    }

    /// Writes type and IP header; returns the pseudo-header's sum.
    fn push_ip(&self, frame: &mut Vec<u8>, l4_len: u16) -> u32 {
        let protocol = if self.tcp { PROTOCOL_TCP } else { PROTOCOL_UDP };
        match (self.far.ip(), self.near.ip()) {
            (IpAddr::V4(far), IpAddr::V4(near)) => {
                let [len0, len1] = (20 + l4_len).to_be_bytes();
                let mut ip = [0x45, 0, len0, len1, 0, 0, 0x40, 0, TTL, protocol, 0, 0].to_vec();
                ip.extend([far.octets(), near.octets()].concat());
                let sum = checksum::finish(checksum::sum(&ip));
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                frame.extend(ETHERTYPE_IPV4.to_be_bytes());
                frame.extend(ip);
                checksum::pseudo_header_v4(far, near, protocol, l4_len)
            }
            (far, near) => {
                let (far, near) = (to_v6(far), to_v6(near));
                let [len0, len1] = l4_len.to_be_bytes();
                frame.extend(ETHERTYPE_IPV6.to_be_bytes());
                frame.extend([0x60, 0, 0, 0, len0, len1, protocol, TTL]);
                frame.extend([far.octets(), near.octets()].concat());
                checksum::pseudo_header_v6(far, near, protocol, l4_len)
            }
        }
    }

    /// Reads a frame that a socket sent, and checks its checksum. None if it is not of this flow.
    pub(super) fn read(&self, frame: &[u8], offload: &Offload, filled: Filled) -> Result<Option<Sent>, Failure> {
        let Ok(inner) = Inner::parse(frame) else { return Ok(None) };
        let Ok(l4) = L4::of(&inner) else { return Ok(None) };
        let ips: Option<(IpAddr, IpAddr)> = match &inner.network {
            Network::Ipv4(ip) => Some((ip.src.into(), ip.dst.into())),
            Network::Ipv6(ip) => Some((ip.src.into(), ip.dst.into())),
            Network::Arp(_) | Network::Other => None,
        };
        let ports = inner.ports();
        let own = (Some((self.near.ip(), self.far.ip())), Some((self.near.port(), self.far.port())));
        if (ips, ports) != own || l4.tcp != self.tcp {
            return Ok(None);
        }
        if !l4.ipv6 {
            same("the IPv4 header's checksum", &checksum::ipv4_header_is_right(&frame[l4.l3..l4.start]), &true)?;
        }
        match filled {
            Filled::Yes => {
                same("the offload of a frame", offload, &Offload::NONE)?;
                same("a filled checksum", &l4.verify(frame), &Verified::Right)?;
            }
            Filled::No => {
                let expected = Checksum::Needed { start: l4.start as u16, offset: l4.checksum_offset() };
                same("the place of an unfilled checksum", &offload.checksum, &expected)?;
                let pseudo = checksum::fold(l4.pseudo_header(l4.len() as u16));
                same("an unfilled checksum", &l4.checksum_field(frame), &Some(pseudo))?;
            }
        }
        let header = &frame[l4.start..l4.payload];
        let word = |at: usize| header.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_be_bytes);
        Ok(Some(Sent {
            payload: frame[l4.payload..l4.end].to_vec(),
            seq: if self.tcp { word(4).unwrap_or_default() } else { 0 },
            flags: if self.tcp { header.get(13).copied().unwrap_or_default() } else { 0 },
            gso: offload.gso.map(|gso| (gso.kind, gso.size)),
        }))
    }
}

pub(super) fn to_v6(ip: IpAddr) -> std::net::Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FAR, GROUP_BYTES, NEAR, pattern};
    use super::*;

    /// All four flows, as seen by the one who sends the frames of the other's tests.
    fn flows() -> impl Iterator<Item = Flow> {
        [false, true].into_iter().flat_map(|tcp| {
            let ends = NEAR.into_iter().zip(FAR);
            ends.map(move |(near, far)| Flow { near: (near, 1000).into(), far: (far, 2000).into(), tcp })
        })
    }

    #[test]
    fn what_is_built_is_read_and_cut_to_right_packets() {
        let bytes = pattern(GROUP_BYTES);
        for flow in flows() {
            let tcp = Tcp { seq: 7, ack: 9, flags: ACK };
            let (frame, offload) = flow.frame(tcp, &bytes);
            let sent = flow.turned().read(&frame, &offload, Filled::No).unwrap().unwrap();
            assert_eq!((sent.gso, &sent.payload), (Some((flow.kind(), SIZE)), &bytes));
            assert_eq!((sent.seq, sent.flags), if flow.tcp { (7, ACK) } else { (0, 0) });
            let mut splitter = weft_encap::Splitter::new(&frame, &offload).unwrap();
            let (mut headers, mut whole) = ([0; weft_encap::split::MAX_HEADER_LEN], Vec::new());
            while let Some(payload) = splitter.next_segment(&mut headers) {
                let packet = [&headers[..splitter.header_len()], &frame[payload]].concat();
                let sent = flow.turned().read(&packet, &Offload::NONE, Filled::Yes).unwrap().unwrap();
                whole.extend(sent.payload);
            }
            assert!(whole == bytes, "{flow:?}");
        }
    }

    #[test]
    fn frames_of_others_are_passed_over() {
        for flow in flows() {
            let (frame, offload) = flow.frame(Tcp::default(), b"some");
            assert!(flow.read(&frame, &offload, Filled::No).unwrap().is_none(), "sent by the far end itself");
            let other = Flow { near: (flow.far.ip(), 2001).into(), far: flow.near, tcp: flow.tcp };
            assert!(other.read(&frame, &offload, Filled::No).unwrap().is_none());
        }
    }

    #[test]
    fn a_wrong_checksum_is_told() {
        for flow in flows() {
            let (mut frame, offload) = flow.frame(Tcp::default(), b"some");
            let read = |frame: &[u8], offload, filled| {
                flow.turned().read(frame, &offload, filled).map(|_| ()).map_err(|failure| failure.to_string())
            };
            let told = read(&frame, Offload::NONE, Filled::No).unwrap_err();
            assert!(told.starts_with("the place of an unfilled checksum is Unknown"), "{told}");
            let told = read(&frame, Offload::NONE, Filled::Yes).unwrap_err();
            assert_eq!(told, "a filled checksum is Wrong, and should be Right");
            let told = read(&frame, offload, Filled::Yes).unwrap_err();
            assert!(told.starts_with("the offload of a frame"), "{told}");
            let Checksum::Needed { start, offset } = offload.checksum else { panic!("{offload:?}") };
            frame[usize::from(start + offset)] ^= 1;
            let told = read(&frame, offload, Filled::No).unwrap_err();
            assert!(told.starts_with("an unfilled checksum is"), "{told}");
        }
    }
}
