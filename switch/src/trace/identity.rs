//! By what a frame is known again on another node; docs/trace.md has the definition.

use weft_encap::inner::{IPV6_LEN, PROTOCOL_TCP, PROTOCOL_UDP};
use weft_encap::{Inner, L4, Network, Offload, Vni};

/// Bytes at the start of a payload that make its mark: enough for what tells the packets of a flow apart.
pub const MARK_BYTES: usize = 64;

/// Bytes of an ARP packet for IPv4 over Ethernet (RFC 826): what follows is padding.
const ARP_LEN: usize = 28;
/// SYN, FIN and RST of TCP.
const CONTROL_FLAGS: u8 = 0b111;

/// By what a frame is known again: made of inner fields that no node changes on the way, and such that the parts of a
/// superframe, or of a packet that was fragmented, are known as parts of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// A hash of VNI, MACs, type, IP addresses and protocol: 64 bits.
    pub hosts: u64,
    /// A hash of these and the ports, and TCP's acknowledgment number: 64 bits.
    pub flow: u64,
    /// Identification of IPv4, 16 bits (RFC 791 section 3.1).
    pub ip_id: Option<u16>,
    /// Whether this is a fragment.
    pub fragment: bool,
    /// Packets that the frame stands for.
    pub packets: u16,
    /// Which part of its flow it is.
    pub place: Place,
}

/// Which part of its flow a frame is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// TCP: the bytes from this sequence number on.
    Bytes {
        /// Sequence number of the first byte (RFC 9293 section 3.4).
        from: u32,
        /// How many bytes.
        len: u32,
        /// The flags SYN, FIN and RST, where there are no bytes (RFC 9293 section 3.1).
        flags: u8,
    },
    /// All else: a digest of each packet's payload.
    Marks {
        /// A hash of the first packet's payload: 32 bits.
        first: u32,
        /// A hash of each other packet's payload, where it is a superframe.
        others: Box<[u32]>,
    },
}

impl Identity {
    /// That of a frame in a virtual network.
    #[must_use]
    pub fn of(vni: Vni, inner: &Inner<'_>, offload: &Offload) -> Self {
        let mut hosts = Digest::new();
        hosts.bytes(&vni.to_bytes()).bytes(&inner.dst.0).bytes(&inner.src.0).bytes(&inner.ethertype.to_be_bytes());
        let (ip_id, fragment, payload) = match &inner.network {
            Network::Ipv4(ip) => {
                hosts.bytes(&ip.src.octets()).bytes(&ip.dst.octets()).bytes(&[ip.protocol]);
                // DF is no fragment, and `fragment` says so.
                (Some(ip.identification), ip.fragment, ip.l4..ip.end)
            }
            Network::Ipv6(ip) => {
                hosts.bytes(&ip.src.octets()).bytes(&ip.dst.octets()).bytes(&[ip.protocol]);
                (None, ip.fragment, inner.l3 + IPV6_LEN..ip.end)
            }
            Network::Arp(_) => (None, false, inner.l3..inner.l3 + ARP_LEN),
            Network::Other => (None, false, inner.l3..inner.bytes.len()),
        };
        let payload = inner.bytes.get(payload).unwrap_or_default();
        let mut flow = Digest(hosts.0);
        if let Some((from, to)) = inner.ports() {
            flow.bytes(&from.to_be_bytes()).bytes(&to.to_be_bytes());
        }
        let segment = offload.gso.map(|gso| usize::from(gso.size).max(1));
        let (packets, place) = match L4::of(inner) {
            Ok(l4) if inner.network.protocol() == Some(PROTOCOL_TCP) => {
                let word = |at: usize| inner.bytes.get(at..).and_then(|bytes| bytes.first_chunk::<4>()).copied();
                let (from, ack) = (word(l4.start + 4).unwrap_or_default(), word(l4.start + 8).unwrap_or_default());
                flow.bytes(&ack);
                let len = l4.end.saturating_sub(l4.payload);
                let flags = inner.bytes.get(l4.start + 13).map_or(0, |flags| flags & CONTROL_FLAGS);
                let flags = if len == 0 { flags } else { 0 };
                (parts(len, segment), Place::Bytes { from: u32::from_be_bytes(from), len: len as u32, flags })
            }
            Ok(l4) if inner.network.protocol() == Some(PROTOCOL_UDP) => {
                let payload = inner.bytes.get(l4.payload..l4.end).unwrap_or_default();
                (parts(payload.len(), segment), marks(payload, segment.unwrap_or(usize::MAX)))
            }
            _ => (1, marks(payload, usize::MAX)),
        };
        Self { hosts: hosts.0, flow: flow.0, ip_id, fragment, packets, place }
    }

    /// Whether the one is the other, or they are parts of one frame.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        if self.hosts != other.hosts {
            return false;
        }
        match (self.fragment, other.fragment) {
            (false, false) => self.flow == other.flow && self.place.meets(&other.place),
            (true, true) => self.ip_id == other.ip_id && self.place.meets(&other.place),
            (true, false) => other.is_cut_to(self),
            (false, true) => self.is_cut_to(other),
        }
    }

    /// Whether this fragment is one of the packets that the whole stands for: the identifications of a superframe's
    /// segments follow each other.
    fn is_cut_to(&self, fragment: &Self) -> bool {
        match (self.ip_id, fragment.ip_id) {
            (Some(first), Some(id)) => id.wrapping_sub(first) < self.packets.max(1),
            _ => false,
        }
    }
}

impl Place {
    fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bytes { from: a, len: 0, flags }, Self::Bytes { from: b, len: 0, flags: others }) => {
                a == b && flags == others
            }
            (Self::Bytes { from: a, len: a_len, .. }, Self::Bytes { from: b, len: b_len, .. }) => {
                b.wrapping_sub(*a) < *a_len && *b_len > 0 || a.wrapping_sub(*b) < *b_len && *a_len > 0
            }
            (Self::Marks { .. }, Self::Marks { .. }) => self.marks().any(|mark| other.marks().any(|own| own == mark)),
            (Self::Bytes { .. }, Self::Marks { .. }) | (Self::Marks { .. }, Self::Bytes { .. }) => false,
        }
    }

    fn marks(&self) -> impl Iterator<Item = u32> {
        let (first, others) = match self {
            Self::Bytes { .. } => (None, [].as_slice()),
            Self::Marks { first, others } => (Some(*first), &**others),
        };
        first.into_iter().chain(others.iter().copied())
    }
}

/// Packets that so much payload makes.
fn parts(len: usize, segment: Option<usize>) -> u16 {
    segment.map_or(1, |segment| len.div_ceil(segment).max(1) as u16)
}

fn marks(payload: &[u8], segment: usize) -> Place {
    let mut marks = payload.chunks(segment).map(mark);
    let first = marks.next().unwrap_or_else(|| mark(&[]));
    Place::Marks { first, others: marks.collect() }
}

fn mark(payload: &[u8]) -> u32 {
    let mut digest = Digest::new();
    digest.bytes(&(payload.len() as u32).to_be_bytes()).bytes(&payload[..payload.len().min(MARK_BYTES)]);
    (digest.0 >> 32) as u32 ^ digest.0 as u32
}

/// FNV-1a of 64 bits: short, and the same everywhere.
struct Digest(u64);

impl Digest {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self
    }
}
