//! The outer headers of a tunnel packet: Ethernet (IEEE 802.3), IPv4 (RFC 791) or IPv6 (RFC 8200), UDP (RFC 768), as
//! RFC 7348 section 5 and RFC 8926 section 3 want them.
//!
//! The writer puts them before a payload it never reads; the reader is strict: no tags, no IP options, no
//! extension headers, no fragments, a right IPv4 header checksum, and lengths that agree. Bytes behind the IP
//! packet are Ethernet padding and allowed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::bytes::{len16, put};
use crate::checksum::{self, Verified};
use crate::inner::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_LEN, IPV6_LEN, PROTOCOL_UDP};
use crate::l4::{L4, L4Error, UDP_LEN};
use crate::{Inner, InnerError, MacAddr, Network};

/// Bytes of the longest outer headers: Ethernet, IPv6 and UDP.
pub const MAX_LEN: usize = ETHERNET_LEN + IPV6_LEN + UDP_LEN;
/// The hop limit, in hops, that Linux tunnels start with (`net.ipv4.ip_default_ttl`).
pub const DEFAULT_TTL: u8 = 64;

/// Where the TTL, or hop limit, of outer headers comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// From the inner header; [`DEFAULT_TTL`] for what is not IP.
    Inherit,
    /// Always this, 1 to 255 hops; 0 counts as 1.
    Fixed(u8),
}

const DONT_FRAGMENT: [u8; 2] = [0x40, 0];

/// The addresses of the outer Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Destination: the next hop.
    pub dst: MacAddr,
    /// Source: the uplink.
    pub src: MacAddr,
}

/// The outer IP addresses, both of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// An IPv4 underlay.
    V4 {
        /// Source VTEP.
        src: Ipv4Addr,
        /// Destination VTEP.
        dst: Ipv4Addr,
    },
    /// An IPv6 underlay.
    V6 {
        /// Source VTEP.
        src: Ipv6Addr,
        /// Destination VTEP.
        dst: Ipv6Addr,
    },
}

/// What the outer headers of a packet say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Between which VTEPs.
    pub addresses: Addresses,
    /// UDP source port: entropy (RFC 7348 section 5, RFC 8926 section 3.3).
    pub src_port: u16,
    /// UDP destination port.
    pub dst_port: u16,
    /// DSCP and ECN, as the IPv4 TOS or IPv6 traffic class byte (RFC 2474 section 3).
    pub tos: u8,
    /// IPv4 TTL or IPv6 hop limit, 1 to 255 hops.
    pub ttl: u8,
    /// IPv4 identification; not sent on IPv6. DF is always sent, so any value will do (RFC 6864).
    pub identification: u16,
}

/// What to write into the outer UDP checksum field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpChecksum {
    /// Zero: none. Receivers may refuse it on IPv6 (RFC 8200 section 8.1, RFC 6935).
    Zero,
    /// The folded pseudo-header sum: whoever takes the packet off the machine fills it.
    Partial,
    /// The whole checksum (RFC 768).
    Complete {
        /// Partial sum of the UDP payload (see [`mod@crate::checksum`]).
        payload: u32,
    },
}

/// A tunnel packet, read.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// Its Ethernet addresses.
    pub link: Link,
    /// What its headers say.
    pub outer: Outer,
    /// The UDP payload: tunnel header and inner frame.
    pub payload: &'a [u8],
    frame: &'a [u8],
    l4: L4,
}

/// Outer headers that cannot be written, or that are not those of a plain tunnel packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OuterError {
    /// The room for the headers is too short.
    NoRoom {
        /// Bytes there.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// The payload does not fit an IP packet.
    TooLong {
        /// Bytes of payload.
        have: usize,
        /// Bytes of payload allowed.
        max: usize,
    },
    /// Not an Ethernet frame.
    Frame(InnerError),
    /// A VLAN tag.
    Tagged,
    /// No UDP, or one whose lengths disagree.
    L4(L4Error),
    /// TCP.
    NotUdp,
    /// IPv4 options or IPv6 extension headers.
    Options {
        /// How many bytes of them.
        bytes: usize,
    },
    /// The IPv4 header checksum is wrong.
    HeaderChecksum,
}

impl Link {
    /// Writes the Ethernet header to the start of `headers` and returns its length, [`ETHERNET_LEN`].
    ///
    /// # Errors
    /// [`OuterError::NoRoom`].
    #[inline]
    pub fn write(&self, headers: &mut [u8], addresses: &Addresses) -> Result<usize, OuterError> {
        let have = headers.len();
        let header =
            headers.first_chunk_mut::<ETHERNET_LEN>().ok_or(OuterError::NoRoom { have, need: ETHERNET_LEN })?;
        let ethertype = match addresses {
            Addresses::V4 { .. } => ETHERTYPE_IPV4,
            Addresses::V6 { .. } => ETHERTYPE_IPV6,
        };
        put(header, 0, self.dst.0);
        put(header, 6, self.src.0);
        put(header, 12, ethertype.to_be_bytes());
        Ok(ETHERNET_LEN)
    }
}

impl Addresses {
    /// The source VTEP.
    #[must_use]
    pub const fn src(&self) -> IpAddr {
        match self {
            Self::V4 { src, .. } => IpAddr::V4(*src),
            Self::V6 { src, .. } => IpAddr::V6(*src),
        }
    }

    /// The destination VTEP.
    #[must_use]
    pub const fn dst(&self) -> IpAddr {
        match self {
            Self::V4 { dst, .. } => IpAddr::V4(*dst),
            Self::V6 { dst, .. } => IpAddr::V6(*dst),
        }
    }
}

impl Outer {
    /// Bytes of IP and UDP header: 28 or 48.
    #[must_use]
    pub const fn header_len(&self) -> usize {
        match self.addresses {
            Addresses::V4 { .. } => IPV4_LEN + UDP_LEN,
            Addresses::V6 { .. } => IPV6_LEN + UDP_LEN,
        }
    }

    /// Writes IP and UDP header for a UDP payload of `payload_len` bytes to the start of `headers`, and returns
    /// their length.
    ///
    /// # Errors
    /// [`OuterError::NoRoom`], [`OuterError::TooLong`]; nothing is written.
    #[inline]
    pub fn write(&self, headers: &mut [u8], payload_len: usize, udp: UdpChecksum) -> Result<usize, OuterError> {
        let (have, need) = (headers.len(), self.header_len());
        let headers = headers.get_mut(..need).ok_or(OuterError::NoRoom { have, need })?;
        let max = match self.addresses {
            Addresses::V4 { .. } => usize::from(u16::MAX) - IPV4_LEN - UDP_LEN,
            Addresses::V6 { .. } => usize::from(u16::MAX) - UDP_LEN,
        };
        if payload_len > max {
            return Err(OuterError::TooLong { have: payload_len, max });
        }
        let udp_len = len16(UDP_LEN + payload_len);
        let (ip_len, pseudo) = match self.addresses {
            Addresses::V4 { src, dst } => {
                self.write_ipv4(headers, src, dst, udp_len);
                (IPV4_LEN, checksum::pseudo_header_v4(src, dst, PROTOCOL_UDP, udp_len))
            }
            Addresses::V6 { src, dst } => {
                self.write_ipv6(headers, src, dst, udp_len);
                (IPV6_LEN, checksum::pseudo_header_v6(src, dst, PROTOCOL_UDP, udp_len))
            }
        };
        put(headers, ip_len, self.src_port.to_be_bytes());
        put(headers, ip_len + 2, self.dst_port.to_be_bytes());
        put(headers, ip_len + 4, udp_len.to_be_bytes());
        let field = match udp {
            UdpChecksum::Zero => 0,
            UdpChecksum::Partial => checksum::fold(pseudo),
            UdpChecksum::Complete { payload } => {
                let header = u32::from(self.src_port) + u32::from(self.dst_port) + u32::from(udp_len);
                checksum::finish_udp(pseudo + header + u32::from(checksum::fold(payload)))
            }
        };
        put(headers, ip_len + 6, field.to_be_bytes());
        Ok(need)
    }

    #[inline]
    fn write_ipv4(&self, headers: &mut [u8], src: Ipv4Addr, dst: Ipv4Addr, udp_len: u16) {
        let total = udp_len + len16(IPV4_LEN);
        put(headers, 0, [0x45, self.tos]);
        put(headers, 2, total.to_be_bytes());
        put(headers, 4, self.identification.to_be_bytes());
        put(headers, 6, DONT_FRAGMENT);
        put(headers, 8, [self.ttl, PROTOCOL_UDP, 0, 0]);
        put(headers, 12, src.octets());
        put(headers, 16, dst.octets());
        let value = checksum::finish(checksum::sum(headers.get(..IPV4_LEN).unwrap_or_default()));
        put(headers, 10, value.to_be_bytes());
    }

    #[inline]
    fn write_ipv6(&self, headers: &mut [u8], src: Ipv6Addr, dst: Ipv6Addr, udp_len: u16) {
        put(headers, 0, [0x60 | self.tos >> 4, self.tos << 4, 0, 0]);
        put(headers, 4, udp_len.to_be_bytes());
        put(headers, 6, [PROTOCOL_UDP, self.ttl]);
        put(headers, 8, src.octets());
        put(headers, 24, dst.octets());
    }

    /// Reads the outer headers of an Ethernet frame. The UDP checksum is left to [`Received::verify`].
    ///
    /// # Errors
    /// [`OuterError`] for whatever is not a plain UDP packet.
    #[inline]
    pub fn read(frame: &[u8]) -> Result<Received<'_>, OuterError> {
        let inner = Inner::parse(frame).map_err(OuterError::Frame)?;
        if inner.tagged {
            return Err(OuterError::Tagged);
        }
        let l4 = L4::of(&inner).map_err(OuterError::L4)?;
        if l4.tcp {
            return Err(OuterError::NotUdp);
        }
        let header = frame.get(l4.l3..l4.start).unwrap_or_default();
        let (addresses, tos, ttl, identification, plain) = match inner.network {
            Network::Ipv4(ip) => {
                (Addresses::V4 { src: ip.src, dst: ip.dst }, ip.tos, ip.ttl, ip.identification, IPV4_LEN)
            }
            Network::Ipv6(ip) => {
                (Addresses::V6 { src: ip.src, dst: ip.dst }, ip.traffic_class, ip.hop_limit, 0, IPV6_LEN)
            }
            Network::Arp(_) | Network::Other => {
                return Err(OuterError::L4(L4Error::NotIp { ethertype: inner.ethertype }));
            }
        };
        if header.len() != plain {
            return Err(OuterError::Options { bytes: header.len().saturating_sub(plain) });
        }
        if !l4.ipv6 && !checksum::ipv4_header_is_right(header) {
            return Err(OuterError::HeaderChecksum);
        }
        let (src_port, dst_port) = inner.ports().unwrap_or_default();
        Ok(Received {
            link: Link { dst: inner.dst, src: inner.src },
            outer: Self { addresses, src_port, dst_port, tos, ttl, identification },
            payload: frame.get(l4.payload..l4.end).unwrap_or_default(),
            frame,
            l4,
        })
    }
}

impl Received<'_> {
    /// Checks the UDP checksum; [`Verified::Absent`] if it is zero.
    #[must_use]
    pub fn verify(&self) -> Verified {
        self.l4.verify(self.frame)
    }
}

/// The TTL, or hop limit, of the outer header, 1 to 255 hops: sockets send no packet with 0, so that an inner 0 counts as 1.
#[inline]
#[must_use]
pub fn outer_ttl(inner: &Inner<'_>, ttl: Ttl) -> u8 {
    let hops = match (ttl, &inner.network) {
        (Ttl::Fixed(hops), _) => hops,
        (Ttl::Inherit, Network::Ipv4(ip)) => ip.ttl,
        (Ttl::Inherit, Network::Ipv6(ip)) => ip.hop_limit,
        (Ttl::Inherit, Network::Arp(_) | Network::Other) => DEFAULT_TTL,
    };
    hops.max(1)
}

impl Default for Ttl {
    fn default() -> Self {
        Self::Fixed(DEFAULT_TTL)
    }
}

/// Where a frame's UDP packet goes, if it holds one in one piece: the question of loop detection.
#[inline]
#[must_use]
pub fn udp_destination(inner: &Inner<'_>) -> Option<(IpAddr, u16)> {
    let (dst, protocol) = match &inner.network {
        Network::Ipv4(ip) => (IpAddr::V4(ip.dst), ip.protocol),
        Network::Ipv6(ip) => (IpAddr::V6(ip.dst), ip.protocol),
        Network::Arp(_) | Network::Other => return None,
    };
    let (_, port) = inner.ports().filter(|_| protocol == PROTOCOL_UDP)?;
    Some((dst, port))
}

impl fmt::Display for OuterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoom { have, need } => write!(f, "outer headers need {need} bytes, there are {have}"),
            Self::TooLong { have, max } => write!(f, "UDP payload of {have} bytes, at most {max} fit"),
            Self::Frame(error) => error.fmt(f),
            Self::Tagged => f.write_str("VLAN tag outside the tunnel"),
            Self::L4(error) => error.fmt(f),
            Self::NotUdp => f.write_str("TCP where UDP is expected"),
            Self::Options { bytes } => write!(f, "{bytes} bytes of IP options or extension headers"),
            Self::HeaderChecksum => f.write_str("wrong IPv4 header checksum"),
        }
    }
}

impl std::error::Error for OuterError {}
