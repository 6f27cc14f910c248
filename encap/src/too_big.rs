//! The answer to a packet that is too long for the path: ICMP "fragmentation needed", ICMPv6 "packet too big".
//!
//! A tunnel endpoint does not fragment its own packets (RFC 7348 section 4.3), so that the sender has to be told
//! what fits: by ICMP type 3 code 4 with the next-hop MTU (RFC 792, RFC 1191 section 4) or ICMPv6 type 2
//! (RFC 4443 section 3.2). This writes the whole Ethernet frame; how often one may be sent is the caller's
//! business (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 (f)).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::bytes::{array, len16, put};
use crate::checksum;
use crate::inner::{ETHERNET_LEN, IPV4_LEN, IPV6_LEN, MAX_TAGS, TAG_LEN, is_extension};
use crate::mtu::{MIN_IPV4, MIN_IPV6};
use crate::outer::DEFAULT_TTL;
use crate::{Inner, Ipv4View, Ipv6View, Network};

/// Bytes of the longest IPv4 answer, IP header included (RFC 1812 section 4.3.2.3).
pub const MAX_IPV4_LEN: usize = 576;
/// Bytes of the longest IPv6 answer, IP header included: what every link carries (RFC 4443 section 2.4 (c)).
pub const MAX_IPV6_LEN: usize = 1280;
/// Bytes of the longest answer: Ethernet, two tags and [`MAX_IPV6_LEN`]. So much room always does.
pub const MAX_LEN: usize = ETHERNET_LEN + MAX_TAGS * TAG_LEN + MAX_IPV6_LEN;

const ICMP_LEN: usize = 8;
const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_ICMPV6: u8 = 58;
const UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
const PACKET_TOO_BIG: u8 = 2;
const REDIRECT_V6: u8 = 137;
/// Precedence of errors: internetwork control (RFC 1812 section 4.3.2.5).
const TOS: u8 = 0xc0;
const DONT_FRAGMENT: [u8; 2] = [0x40, 0];

/// Who the answer claims to come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// This address, for instance the gateway's. If it is of the other family, or no address of a single host,
    /// it is as if there were none: [`Self::Destination`].
    Address(IpAddr),
    /// The destination of the packet that is too long, as if the other pod had answered. Senders accept that:
    /// they look at the packet quoted and not at who quotes it.
    Destination,
}

/// Why a packet gets no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoReply {
    /// Neither IPv4 nor IPv6, or a malformed header of one.
    NotIp {
        /// The frame's EtherType after its tags.
        ethertype: u16,
    },
    /// The packet is no longer than the MTU: there is nothing to complain of.
    Fits {
        /// Bytes of the IP packet.
        have: usize,
        /// The MTU, in bytes.
        mtu: u16,
    },
    /// IPv4 without DF: it has to be fragmented instead (RFC 791 section 2.3). This comes before all that follows:
    /// what gets no answer can still be fragmented.
    MayFragment,
    /// An ICMP error, a redirect included, or what cannot be told from one (RFC 1122 section 3.2.2, RFC 4443
    /// section 2.4 (e)).
    IcmpError,
    /// To a group or to all, at the link or at IP. RFC 4443 section 2.4 (e.3) would allow it for IPv6; but the
    /// copies of one frame would each bring an answer.
    Group,
    /// From no single host: a source that is unspecified, loopback, multicast or broadcast, at the link or at IP
    /// (RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e.6)). Class E addresses count as hosts: pods have them.
    Source,
    /// To an unspecified or loopback address.
    Destination,
    /// A fragment other than the first (RFC 1122 section 3.2.2). The first is as long, and gets the answer.
    LaterFragment,
    /// The MTU is less than what the family needs: a sender would not believe it (RFC 8201 section 4).
    MtuTooSmall {
        /// The MTU asked for, in bytes.
        mtu: u16,
        /// The smallest one allowed, in bytes: [`MIN_IPV4`] or [`MIN_IPV6`].
        min: u16,
    },
    /// The room for the answer is too short.
    NoRoom {
        /// Bytes there.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
}

/// Writes to the start of `out` the frame that tells the sender of `frame` to send at most `mtu` bytes of IP, and
/// returns its length, at most [`MAX_LEN`].
///
/// It goes back on the same link: the frame's MAC addresses the other way round, its VLAN tags unchanged. It
/// quotes as much of the packet as fits, as it is: of a superframe the headers of the whole, with whatever its
/// checksum field holds. Both checksums are complete.
///
/// # Errors
/// [`NoReply`] says why none may be sent; nothing is written.
pub fn too_big(frame: &Inner<'_>, mtu: u16, source: Source, out: &mut [u8]) -> Result<usize, NoReply> {
    match &frame.network {
        Network::Ipv4(ip) => answer_v4(frame, ip, mtu, source, out),
        Network::Ipv6(ip) => answer_v6(frame, ip, mtu, source, out),
        Network::Arp(_) | Network::Other => Err(NoReply::NotIp { ethertype: frame.ethertype }),
    }
}

fn answer_v4(frame: &Inner<'_>, ip: &Ipv4View, mtu: u16, source: Source, out: &mut [u8]) -> Result<usize, NoReply> {
    let packet = too_long(frame, ip.end, mtu)?;
    if !ip.dont_fragment {
        return Err(NoReply::MayFragment);
    }
    check_mtu(mtu, MIN_IPV4)?;
    check_link(frame)?;
    if !is_host_v4(ip.src) {
        return Err(NoReply::Source);
    }
    if ip.dst.is_multicast() || ip.dst.is_broadcast() {
        return Err(NoReply::Group);
    }
    if !is_host_v4(ip.dst) {
        return Err(NoReply::Destination);
    }
    let &[f0, f1] = array(frame.bytes, frame.l3 + 6).ok_or(NoReply::NotIp { ethertype: frame.ethertype })?;
    if u16::from_be_bytes([f0, f1]) & 0x1fff != 0 {
        return Err(NoReply::LaterFragment);
    }
    if ip.protocol == PROTOCOL_ICMP && !first_byte(frame, ip.l4, ip.end).is_some_and(is_query_v4) {
        return Err(NoReply::IcmpError);
    }
    let src = match source {
        Source::Address(IpAddr::V4(address)) if is_host_v4(address) => address,
        Source::Address(_) | Source::Destination => ip.dst,
    };
    let quoted = quote(packet, MAX_IPV4_LEN - IPV4_LEN - ICMP_LEN);
    let (len, header, icmp) = lay_out(frame, IPV4_LEN, quoted, out)?;
    put(header, 0, [0x45, TOS]);
    put(header, 2, len16(IPV4_LEN + icmp.len()).to_be_bytes());
    put(header, 4, [0, 0]);
    put(header, 6, DONT_FRAGMENT);
    put(header, 8, [DEFAULT_TTL, PROTOCOL_ICMP, 0, 0]);
    put(header, 12, src.octets());
    put(header, 16, ip.src.octets());
    let value = checksum::finish(checksum::sum(header));
    put(header, 10, value.to_be_bytes());
    let [m0, m1] = mtu.to_be_bytes();
    put(icmp, 0, [UNREACHABLE, FRAGMENTATION_NEEDED, 0, 0, 0, 0, m0, m1]);
    let value = checksum::finish(checksum::sum(icmp));
    put(icmp, 2, value.to_be_bytes());
    Ok(len)
}

fn answer_v6(frame: &Inner<'_>, ip: &Ipv6View, mtu: u16, source: Source, out: &mut [u8]) -> Result<usize, NoReply> {
    let packet = too_long(frame, ip.end, mtu)?;
    check_mtu(mtu, MIN_IPV6)?;
    check_link(frame)?;
    if !is_host_v6(ip.src) {
        return Err(NoReply::Source);
    }
    if ip.dst.is_multicast() {
        return Err(NoReply::Group);
    }
    if !is_host_v6(ip.dst) {
        return Err(NoReply::Destination);
    }
    // A fragment header is the last that is walked: it ends where the upper header starts.
    if ip.fragment {
        let &[o0, o1] = array(frame.bytes, ip.l4.saturating_sub(6)).ok_or(NoReply::LaterFragment)?;
        if u16::from_be_bytes([o0, o1]) & 0xfff8 != 0 {
            return Err(NoReply::LaterFragment);
        }
    }
    // Behind more extension headers than are walked, or behind those in a first fragment, anything may follow.
    let unknown = is_extension(ip.protocol);
    if unknown || ip.protocol == PROTOCOL_ICMPV6 && !first_byte(frame, ip.l4, ip.end).is_some_and(is_query_v6) {
        return Err(NoReply::IcmpError);
    }
    let src = match source {
        Source::Address(IpAddr::V6(address)) if is_host_v6(address) => address,
        Source::Address(_) | Source::Destination => ip.dst,
    };
    let quoted = quote(packet, MAX_IPV6_LEN - IPV6_LEN - ICMP_LEN);
    let (len, header, icmp) = lay_out(frame, IPV6_LEN, quoted, out)?;
    let icmp_len = len16(icmp.len());
    put(header, 0, [0x60, 0, 0, 0]);
    put(header, 4, icmp_len.to_be_bytes());
    put(header, 6, [PROTOCOL_ICMPV6, DEFAULT_TTL]);
    put(header, 8, src.octets());
    put(header, 24, ip.src.octets());
    put(icmp, 0, [PACKET_TOO_BIG, 0, 0, 0]);
    put(icmp, 4, u32::from(mtu).to_be_bytes());
    let pseudo = checksum::pseudo_header_v6(src, ip.src, PROTOCOL_ICMPV6, icmp_len);
    let value = checksum::finish(pseudo + checksum::sum(icmp));
    put(icmp, 2, value.to_be_bytes());
    Ok(len)
}

fn check_link(frame: &Inner<'_>) -> Result<(), NoReply> {
    if frame.dst.is_multicast() {
        return Err(NoReply::Group);
    }
    if frame.src.is_multicast() {
        return Err(NoReply::Source);
    }
    Ok(())
}

/// The IP packet, if it is too long for the MTU.
fn too_long<'a>(frame: &Inner<'a>, end: usize, mtu: u16) -> Result<&'a [u8], NoReply> {
    let packet = frame.bytes.get(frame.l3..end).unwrap_or_default();
    if packet.len() <= usize::from(mtu) {
        return Err(NoReply::Fits { have: packet.len(), mtu });
    }
    Ok(packet)
}

const fn check_mtu(mtu: u16, min: u16) -> Result<(), NoReply> {
    if mtu < min { Err(NoReply::MtuTooSmall { mtu, min }) } else { Ok(()) }
}

fn quote(packet: &[u8], max: usize) -> &[u8] {
    packet.get(..max).unwrap_or(packet)
}

/// Writes the link header and the quotation; returns the answer's length, its IP header of `ip_len` bytes, as yet
/// unwritten, and its ICMP message, of which the first [`ICMP_LEN`] bytes are as yet unwritten.
fn lay_out<'a>(
    frame: &Inner<'_>,
    ip_len: usize,
    quoted: &[u8],
    out: &'a mut [u8],
) -> Result<(usize, &'a mut [u8], &'a mut [u8]), NoReply> {
    let need = frame.l3 + ip_len + ICMP_LEN + quoted.len();
    let room = NoReply::NoRoom { have: out.len(), need };
    let out = out.get_mut(..need).ok_or(room)?;
    let (link, rest) = out.split_at_mut_checked(frame.l3).ok_or(room)?;
    let (header, icmp) = rest.split_at_mut_checked(ip_len).ok_or(room)?;
    put(link, 0, frame.src.0);
    put(link, 6, frame.dst.0);
    if let (Some(to), Some(from)) = (link.get_mut(12..), frame.bytes.get(12..frame.l3)) {
        to.copy_from_slice(from);
    }
    if let Some(to) = icmp.get_mut(ICMP_LEN..) {
        to.copy_from_slice(quoted);
    }
    Ok((need, header, icmp))
}

fn first_byte(frame: &Inner<'_>, at: usize, end: usize) -> Option<u8> {
    frame.bytes.get(..end)?.get(at).copied()
}

/// Whether an ICMP type is one that asks or answers: everything else may be an error (RFC 792, 950, 1256, 8335).
const fn is_query_v4(kind: u8) -> bool {
    matches!(kind, 0 | 8..=10 | 13..=18 | 42 | 43)
}

/// The same for ICMPv6: errors are below 128, and a redirect counts as one (RFC 4443 sections 2.1 and 2.4 (e)).
const fn is_query_v6(kind: u8) -> bool {
    kind >= 128 && kind != REDIRECT_V6
}

fn is_host_v4(address: Ipv4Addr) -> bool {
    // All of 0.0.0.0/8 is "this network" (RFC 1122 section 3.2.1.3).
    let [first, ..] = address.octets();
    first != 0 && !address.is_loopback() && !address.is_multicast() && !address.is_broadcast()
}

fn is_host_v6(address: Ipv6Addr) -> bool {
    !address.is_unspecified() && !address.is_loopback() && !address.is_multicast()
}

impl fmt::Display for NoReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotIp { ethertype } => write!(f, "no IP packet (type {ethertype:#06x})"),
            Self::Fits { have, mtu } => write!(f, "packet of {have} bytes fits the MTU {mtu}"),
            Self::MayFragment => f.write_str("IPv4 packet that may be fragmented"),
            Self::IcmpError => f.write_str("ICMP error"),
            Self::Group => f.write_str("packet to a group or to all"),
            Self::Source => f.write_str("packet from no single host"),
            Self::Destination => f.write_str("packet to an unspecified or loopback address"),
            Self::LaterFragment => f.write_str("fragment other than the first"),
            Self::MtuTooSmall { mtu, min } => write!(f, "MTU {mtu}, no sender goes below {min}"),
            Self::NoRoom { have, need } => write!(f, "answer of {need} bytes, room for {have}"),
        }
    }
}

impl std::error::Error for NoReply {}
