//! The one dissector of Ethernet frames: tags (IEEE 802.1Q), ARP (RFC 826), IPv4 (RFC 791), IPv6 and its extension headers
//! (RFC 8200), and the ports of what is inside (RFC 768, RFC 9293, RFC 9260).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::MacAddr;
use crate::bytes::{array, be16};

/// Bytes of an Ethernet header without tags (IEEE 802.3 section 3).
pub const ETHERNET_LEN: usize = 14;
/// Bytes that one VLAN tag adds (IEEE 802.1Q).
pub const TAG_LEN: usize = 4;
/// Tags that are looked through; a frame with more is [`Network::Other`].
pub const MAX_TAGS: usize = 2;
/// IPv6 extension headers that are walked (RFC 8200 section 4). What follows is taken as the upper protocol:
/// [`Ipv6View::is_walked`].
pub const MAX_EXTENSION_HEADERS: usize = 8;
/// Bytes of an IPv4 header without options (RFC 791 section 3.1).
pub const IPV4_LEN: usize = 20;
/// Bytes of an IPv6 header without extensions (RFC 8200 section 3).
pub const IPV6_LEN: usize = 40;

/// EtherType of IPv4 (RFC 894).
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP (RFC 826).
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of IPv6 (RFC 2464 section 3).
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherType of a customer VLAN tag (IEEE 802.1Q).
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// EtherType of a service VLAN tag (IEEE 802.1ad).
pub const ETHERTYPE_QINQ: u16 = 0x88a8;
/// EtherType of a service VLAN tag before 802.1ad (`ETH_P_QINQ1`, include/uapi/linux/if_ether.h).
pub const ETHERTYPE_QINQ_OLD: u16 = 0x9100;

/// IP protocol number of TCP (RFC 9293 section 3.1).
pub const PROTOCOL_TCP: u8 = 6;
/// IP protocol number of UDP (RFC 768).
pub const PROTOCOL_UDP: u8 = 17;
/// IP protocol number of SCTP (RFC 9260).
pub const PROTOCOL_SCTP: u8 = 132;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// An Ethernet frame, taken apart as far as forwarding needs it.
#[derive(Clone, Copy, Debug)]
pub struct Inner<'a> {
    /// The whole frame.
    pub bytes: &'a [u8],
    /// Destination address.
    pub dst: MacAddr,
    /// Source address.
    pub src: MacAddr,
    /// Whether the outermost type is a VLAN tag (0x8100, 0x88a8 or 0x9100).
    pub tagged: bool,
    /// The EtherType after at most [`MAX_TAGS`] tags.
    pub ethertype: u16,
    /// Where the network header starts, in bytes from the start of the frame.
    pub l3: usize,
    /// The network header. A malformed one is [`Network::Other`]: the frame is still a frame.
    pub network: Network,
}

/// What the frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// A well-formed IPv4 packet.
    Ipv4(Ipv4View),
    /// A well-formed IPv6 packet.
    Ipv6(Ipv6View),
    /// ARP for IPv4 over Ethernet.
    Arp(ArpView),
    /// Another type, or a malformed packet of one of these.
    Other,
}

impl Network {
    /// The number of the protocol that IP carries; none for what is not IP.
    #[inline]
    #[must_use]
    pub const fn protocol(&self) -> Option<u8> {
        match self {
            Self::Ipv4(ip) => Some(ip.protocol),
            Self::Ipv6(ip) => Some(ip.protocol),
            Self::Arp(_) | Self::Other => None,
        }
    }
}

/// An IPv4 header whose lengths fit the frame. Its checksum has not been verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4View {
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// Upper protocol, as IANA numbers them.
    pub protocol: u8,
    /// Where the upper header starts, in bytes from the start of the frame.
    pub l4: usize,
    /// Where the packet ends by its own length, in bytes from the start of the frame: padding comes after.
    pub end: usize,
    /// Whether this is a fragment, the first included (RFC 791 section 3.1: MF set, or an offset).
    pub fragment: bool,
    /// The DF bit (RFC 791 section 3.1).
    pub dont_fragment: bool,
    /// DSCP in the high six bits, ECN in the low two (RFC 2474 section 3, RFC 3168 section 5).
    pub tos: u8,
    /// Time to live, 0 to 255 hops.
    pub ttl: u8,
    /// Identification, 16 bits, by which fragments find each other (RFC 791 section 3.1).
    pub identification: u16,
}

/// An IPv6 header and its extension headers, whose lengths fit the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6View {
    /// Source address.
    pub src: Ipv6Addr,
    /// Destination address.
    pub dst: Ipv6Addr,
    /// Upper protocol: the first next-header value that is no extension header we walk. At a fragment header
    /// the walk ends, and this is the value which that header holds.
    pub protocol: u8,
    /// Where the upper header starts, in bytes from the start of the frame.
    pub l4: usize,
    /// Where the packet ends by its own length, in bytes from the start of the frame: padding comes after.
    pub end: usize,
    /// Whether there is a fragment header, even one of a packet in one piece (RFC 6946).
    pub fragment: bool,
    /// Whether a routing header names further hops, so that `dst` is not the last destination (RFC 8200 section 4.4).
    pub source_routed: bool,
    /// DSCP in the high six bits, ECN in the low two (RFC 8200 section 7).
    pub traffic_class: u8,
    /// Hop limit, 0 to 255 hops.
    pub hop_limit: u8,
}

impl Ipv6View {
    /// Whether all extension headers were walked, so that the protocol is what a receiver takes it for. Behind a fragment
    /// header that is known only once the packet is whole again.
    #[inline]
    #[must_use]
    pub const fn is_walked(&self) -> bool {
        self.fragment || !is_extension(self.protocol)
    }
}

/// An ARP packet for IPv4 over Ethernet (RFC 826).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpView {
    /// 1 asks, 2 answers (RFC 826, `ar$op`).
    pub operation: u16,
    /// Sender hardware address.
    pub sender_mac: MacAddr,
    /// Sender protocol address.
    pub sender_ip: Ipv4Addr,
    /// Target hardware address.
    pub target_mac: MacAddr,
    /// Target protocol address.
    pub target_ip: Ipv4Addr,
}

/// Bytes that are no Ethernet frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InnerError {
    /// Shorter than an Ethernet header.
    Runt {
        /// Bytes there.
        have: usize,
        /// Bytes needed: [`ETHERNET_LEN`].
        need: usize,
    },
}

impl<'a> Inner<'a> {
    /// Takes a frame apart.
    ///
    /// # Errors
    /// [`InnerError::Runt`] below 14 bytes; nothing else is refused.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, InnerError> {
        let Some(&[d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1]) = bytes.first_chunk::<ETHERNET_LEN>()
        else {
            return Err(InnerError::Runt { have: bytes.len(), need: ETHERNET_LEN });
        };
        let mut ethertype = u16::from_be_bytes([t0, t1]);
        let mut l3 = ETHERNET_LEN;
        let tagged = is_tag(ethertype);
        if tagged {
            (ethertype, l3) = behind_tags(bytes, ethertype);
        }
        let network = match ethertype {
            ETHERTYPE_IPV4 => ipv4(bytes, l3).map(Network::Ipv4),
            ETHERTYPE_IPV6 => ipv6(bytes, l3).map(Network::Ipv6),
            ETHERTYPE_ARP => arp(bytes, l3).map(Network::Arp),
            _ => None,
        };
        Ok(Self {
            bytes,
            dst: MacAddr([d0, d1, d2, d3, d4, d5]),
            src: MacAddr([s0, s1, s2, s3, s4, s5]),
            tagged,
            ethertype,
            l3,
            network: network.unwrap_or(Network::Other),
        })
    }

    /// Whether there are more tags than are looked through, or one that is cut off: what is behind them is not known.
    #[inline]
    #[must_use]
    pub const fn hides_behind_tags(&self) -> bool {
        is_tag(self.ethertype)
    }

    /// Source and destination port of TCP, UDP or SCTP, 0 to 65,535 each; none for fragments, the first included.
    #[inline]
    #[must_use]
    pub fn ports(&self) -> Option<(u16, u16)> {
        let (protocol, l4, end, fragment) = match &self.network {
            Network::Ipv4(ip) => (ip.protocol, ip.l4, ip.end, ip.fragment),
            Network::Ipv6(ip) => (ip.protocol, ip.l4, ip.end, ip.fragment),
            Network::Arp(_) | Network::Other => return None,
        };
        if fragment || !matches!(protocol, PROTOCOL_TCP | PROTOCOL_UDP | PROTOCOL_SCTP) || l4 + 4 > end {
            return None;
        }
        let &[s0, s1, d0, d1] = array(self.bytes, l4)?;
        Some((u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])))
    }
}

const fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_QINQ | ETHERTYPE_QINQ_OLD)
}

/// Whether a next-header value is of an extension header that is walked.
pub(crate) const fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION)
}

/// The type behind the tags and where its header starts. A tag that is cut off stays the type.
fn behind_tags(bytes: &[u8], mut ethertype: u16) -> (u16, usize) {
    let mut l3 = ETHERNET_LEN;
    for _ in 0..MAX_TAGS {
        let Some(behind) = be16(bytes, l3 + 2).filter(|_| is_tag(ethertype)) else { break };
        ethertype = behind;
        l3 += TAG_LEN;
    }
    (ethertype, l3)
}

#[inline]
fn ipv4(bytes: &[u8], l3: usize) -> Option<Ipv4View> {
    let &[version, tos, n0, n1, i0, i1, f0, f1, ttl, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] =
        array::<IPV4_LEN>(bytes, l3)?;
    let header = usize::from(version & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([n0, n1]));
    if version >> 4 != 4 || header < IPV4_LEN || total < header || l3 + total > bytes.len() {
        return None;
    }
    let flags = u16::from_be_bytes([f0, f1]);
    Some(Ipv4View {
        src: Ipv4Addr::new(s0, s1, s2, s3),
        dst: Ipv4Addr::new(d0, d1, d2, d3),
        protocol,
        l4: l3 + header,
        end: l3 + total,
        fragment: flags & 0x3fff != 0,
        dont_fragment: flags & 0x4000 != 0,
        tos,
        ttl,
        identification: u16::from_be_bytes([i0, i1]),
    })
}

#[inline]
fn ipv6(bytes: &[u8], l3: usize) -> Option<Ipv6View> {
    let header = array::<IPV6_LEN>(bytes, l3)?;
    let &[v0, v1, _, _, n0, n1, next, hop_limit, ..] = header;
    let end = l3 + IPV6_LEN + usize::from(u16::from_be_bytes([n0, n1]));
    if v0 >> 4 != 6 || end > bytes.len() {
        return None;
    }
    let mut view = Ipv6View {
        src: Ipv6Addr::from(*array::<16>(header, 8)?),
        dst: Ipv6Addr::from(*array::<16>(header, 24)?),
        protocol: next,
        l4: l3 + IPV6_LEN,
        end,
        fragment: false,
        source_routed: false,
        traffic_class: v0 << 4 | v1 >> 4,
        hop_limit,
    };
    if is_extension(next) {
        extensions(bytes.get(..end)?, &mut view)?;
    }
    Some(view)
}

/// Walks the extension headers (RFC 8200 section 4); none if one overruns the packet.
fn extensions(packet: &[u8], view: &mut Ipv6View) -> Option<()> {
    for _ in 0..MAX_EXTENSION_HEADERS {
        if !is_extension(view.protocol) {
            break;
        }
        let &[next, words, _, left, ..] = array::<8>(packet, view.l4)?;
        let len = match view.protocol {
            FRAGMENT => 8,
            AUTHENTICATION => (usize::from(words) + 2) * 4,
            _ => (usize::from(words) + 1) * 8,
        };
        view.source_routed |= view.protocol == ROUTING && left != 0;
        view.fragment = view.protocol == FRAGMENT;
        view.protocol = next;
        view.l4 += len;
        if view.l4 > packet.len() {
            return None;
        }
        if view.fragment {
            break;
        }
    }
    Some(())
}

fn arp(bytes: &[u8], l3: usize) -> Option<ArpView> {
    let &[0, 1, 8, 0, 6, 4, o0, o1, a, b, c, d, e, f, s0, s1, s2, s3, ta, tb, tc, td, te, tf, t0, t1, t2, t3] =
        array::<28>(bytes, l3)?
    else {
        return None;
    };
    Some(ArpView {
        operation: u16::from_be_bytes([o0, o1]),
        sender_mac: MacAddr([a, b, c, d, e, f]),
        sender_ip: Ipv4Addr::new(s0, s1, s2, s3),
        target_mac: MacAddr([ta, tb, tc, td, te, tf]),
        target_ip: Ipv4Addr::new(t0, t1, t2, t3),
    })
}

impl fmt::Display for InnerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Runt { have, need } = self;
        write!(f, "frame of {have} bytes, an Ethernet header has {need}")
    }
}

impl std::error::Error for InnerError {}
