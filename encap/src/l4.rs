//! TCP (RFC 9293) and UDP (RFC 768) inside a frame: where their headers lie and whether the lengths agree.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::bytes::{array, be16};
use crate::checksum::{self, Verified};
use crate::inner::{PROTOCOL_TCP, PROTOCOL_UDP};
use crate::{Inner, Network};

/// Bytes of a TCP header without options (RFC 9293 section 3.1).
pub const TCP_LEN: usize = 20;
/// Bytes of a UDP header (RFC 768).
pub const UDP_LEN: usize = 8;

/// A TCP segment or UDP datagram, in one piece, whose lengths all agree. Offsets are bytes from the start of
/// the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct L4 {
    /// Where the IP header starts, in bytes.
    pub l3: usize,
    /// Where the TCP or UDP header starts, in bytes.
    pub start: usize,
    /// Where the payload starts, in bytes.
    pub payload: usize,
    /// Where the IP packet ends, in bytes; padding comes after.
    pub end: usize,
    /// Whether the packet is IPv6.
    pub ipv6: bool,
    /// TCP, else UDP.
    pub tcp: bool,
    /// Partial sum of the pseudo-header without the length.
    pub(crate) pseudo: u32,
}

/// Why a frame holds no TCP or UDP that could be worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4Error {
    /// Neither IPv4 nor IPv6, or a malformed header of one.
    NotIp {
        /// The frame's EtherType after its tags.
        ethertype: u16,
    },
    /// A fragment.
    Fragment,
    /// A routing header names further hops: the checksum's pseudo-header is not that of the IP header.
    SourceRouted,
    /// Neither TCP nor UDP.
    Protocol {
        /// The IP protocol number seen.
        seen: u8,
    },
    /// The L4 header is cut off.
    Truncated {
        /// Bytes from the L4 header to the end of the IP packet.
        have: usize,
        /// Bytes the L4 header needs.
        need: usize,
    },
    /// TCP's data offset is below a header's length (RFC 9293 section 3.1).
    TcpDataOffset {
        /// The header length seen, in bytes.
        seen: usize,
    },
    /// UDP's length disagrees with the IP packet's.
    UdpLength {
        /// The length seen, in bytes.
        seen: u16,
        /// Bytes from the UDP header to the end of the IP packet.
        have: usize,
    },
}

impl L4 {
    /// Finds TCP or UDP in a frame.
    ///
    /// # Errors
    /// [`L4Error`] for all else, and where lengths disagree.
    #[inline]
    pub fn of(inner: &Inner<'_>) -> Result<Self, L4Error> {
        let (protocol, start, end, fragment) = match &inner.network {
            Network::Ipv4(ip) => (ip.protocol, ip.l4, ip.end, ip.fragment),
            Network::Ipv6(ip) if ip.source_routed => return Err(L4Error::SourceRouted),
            Network::Ipv6(ip) => (ip.protocol, ip.l4, ip.end, ip.fragment),
            Network::Arp(_) | Network::Other => return Err(L4Error::NotIp { ethertype: inner.ethertype }),
        };
        if fragment {
            return Err(L4Error::Fragment);
        }
        let have = end.saturating_sub(start);
        let (tcp, header_len) = match protocol {
            PROTOCOL_TCP => (true, tcp_header_len(inner.bytes, start, have)?),
            PROTOCOL_UDP => (false, udp_header_len(inner.bytes, start, have)?),
            seen => return Err(L4Error::Protocol { seen }),
        };
        let (ipv6, pseudo) = match &inner.network {
            Network::Ipv6(ip) => (true, pseudo_v6(ip.src, ip.dst, protocol)),
            Network::Ipv4(ip) => (false, pseudo_v4(ip.src, ip.dst, protocol)),
            Network::Arp(_) | Network::Other => (false, 0),
        };
        Ok(Self { l3: inner.l3, start, payload: start + header_len, end, ipv6, tcp, pseudo })
    }

    /// Bytes of L4 header and payload.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.end.saturating_sub(self.start)
    }

    /// Whether there is no payload.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.payload >= self.end
    }

    /// Bytes of payload.
    #[inline]
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.end.saturating_sub(self.payload)
    }

    /// Where the checksum field stands, in bytes from [`Self::start`].
    #[inline]
    #[must_use]
    pub const fn checksum_offset(&self) -> u16 {
        if self.tcp { checksum::TCP_OFFSET } else { checksum::UDP_OFFSET }
    }

    /// The checksum field's value.
    #[inline]
    #[must_use]
    pub fn checksum_field(&self, frame: &[u8]) -> Option<u16> {
        be16(frame, self.start + usize::from(self.checksum_offset()))
    }

    /// Partial sum of the pseudo-header for an L4 length in bytes.
    #[inline]
    #[must_use]
    pub const fn pseudo_header(&self, l4_len: u16) -> u32 {
        self.pseudo + l4_len as u32
    }

    /// Checks the checksum of the frame this was found in.
    #[inline]
    #[must_use]
    pub fn verify(&self, frame: &[u8]) -> Verified {
        if !self.tcp && self.checksum_field(frame) == Some(0) {
            return Verified::Absent;
        }
        let covered = frame.get(self.start..self.end).unwrap_or_default();
        let partial = checksum::sum(covered) + self.pseudo_header(crate::bytes::len16(covered.len()));
        if checksum::fold(partial) == 0xffff { Verified::Right } else { Verified::Wrong }
    }
}

#[inline]
fn pseudo_v4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8) -> u32 {
    checksum::pseudo_header_v4(src, dst, protocol, 0)
}

#[inline]
fn pseudo_v6(src: Ipv6Addr, dst: Ipv6Addr, protocol: u8) -> u32 {
    checksum::pseudo_header_v6(src, dst, protocol, 0)
}

#[inline]
fn tcp_header_len(bytes: &[u8], start: usize, have: usize) -> Result<usize, L4Error> {
    let truncated = L4Error::Truncated { have, need: TCP_LEN };
    if have < TCP_LEN {
        return Err(truncated);
    }
    let &[offset] = array(bytes, start + 12).ok_or(truncated)?;
    let len = usize::from(offset >> 4) * 4;
    if len < TCP_LEN {
        return Err(L4Error::TcpDataOffset { seen: len });
    }
    if len > have {
        return Err(L4Error::Truncated { have, need: len });
    }
    Ok(len)
}

#[inline]
fn udp_header_len(bytes: &[u8], start: usize, have: usize) -> Result<usize, L4Error> {
    let truncated = L4Error::Truncated { have, need: UDP_LEN };
    if have < UDP_LEN {
        return Err(truncated);
    }
    let seen = be16(bytes, start + 4).ok_or(truncated)?;
    if usize::from(seen) != have {
        return Err(L4Error::UdpLength { seen, have });
    }
    Ok(UDP_LEN)
}

impl fmt::Display for L4Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotIp { ethertype } => write!(f, "no IP packet (type {ethertype:#06x})"),
            Self::Fragment => f.write_str("a fragment"),
            Self::SourceRouted => f.write_str("a source-routed packet"),
            Self::Protocol { seen } => write!(f, "IP protocol {seen}, neither TCP nor UDP"),
            Self::Truncated { have, need } => write!(f, "L4 header needs {need} bytes, there are {have}"),
            Self::TcpDataOffset { seen } => write!(f, "TCP header length of {seen} bytes"),
            Self::UdpLength { seen, have } => write!(f, "UDP length {seen} in {have} bytes"),
        }
    }
}

impl std::error::Error for L4Error {}
