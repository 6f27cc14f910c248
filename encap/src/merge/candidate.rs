//! Whether two frames may become one.

use crate::bytes::{array, be16, be32};
use crate::checksum::{self, Verified};
use crate::inner::{IPV4_LEN, IPV6_LEN};
use crate::l4::L4;
use crate::{Checksum, Inner, Network, Offload};

const ACK: u8 = 0x10;
pub(super) const PSH: u8 = 0x08;

/// What a frame is to the merger.
#[derive(Clone, Copy, Debug)]
pub(super) enum Class {
    /// May merge with frames of its flow.
    Candidate { flow: u32, pair: u32, candidate: Candidate },
    /// Stays alone and ends what its flow has merged so far.
    Barrier { flow: u32 },
    /// A piece of we know not which flow: ends what was merged between these two addresses.
    Fragment { pair: u32 },
    /// Stays alone and concerns nobody.
    Stranger,
}

/// The facts of a frame that may merge.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) l4: L4,
    /// Zero for UDP.
    pub(super) sequence: u32,
    /// Zero for IPv6.
    pub(super) identification: u16,
    pub(super) dont_fragment: bool,
    pub(super) push: bool,
    /// Whether somebody else has verified the checksum.
    pub(super) vouched: bool,
}

pub(super) fn classify(bytes: &[u8], egress: u32, offload: &Offload) -> Class {
    let Ok(inner) = Inner::parse(bytes) else { return Class::Stranger };
    let (addresses, protocol) = match &inner.network {
        Network::Ipv4(ip) => (u64::from(ip.src.to_bits()) << 32 | u64::from(ip.dst.to_bits()), ip.protocol),
        Network::Ipv6(ip) => (mix_v6(ip.src.to_bits(), ip.dst.to_bits()), ip.protocol),
        Network::Arp(_) | Network::Other => return Class::Stranger,
    };
    let pair = mix(addresses, u64::from(egress));
    let Some((from, to)) = inner.ports() else { return Class::Fragment { pair } };
    let flow =
        mix(addresses, u64::from(egress) << 32 ^ u64::from(from) << 16 ^ u64::from(to) ^ u64::from(protocol) << 40);
    match candidate(&inner, offload) {
        Some(candidate) => Class::Candidate { flow, pair, candidate },
        None => Class::Barrier { flow },
    }
}

fn candidate(inner: &Inner<'_>, offload: &Offload) -> Option<Candidate> {
    if offload.gso.is_some() || matches!(offload.checksum, Checksum::Needed { .. }) {
        return None;
    }
    let l4 = L4::of(inner).ok()?;
    let ip_len = if l4.ipv6 { IPV6_LEN } else { IPV4_LEN };
    if l4.start - l4.l3 != ip_len || l4.is_empty() {
        return None;
    }
    let (identification, dont_fragment) = match &inner.network {
        Network::Ipv4(ip) => (ip.identification, ip.dont_fragment),
        Network::Ipv6(_) | Network::Arp(_) | Network::Other => (0, true),
    };
    let mut candidate = Candidate {
        l4,
        sequence: 0,
        identification,
        dont_fragment,
        push: false,
        vouched: offload.checksum == Checksum::Valid,
    };
    if l4.tcp {
        let &[reserved, flags] = array(inner.bytes, l4.start + 12)?;
        if flags & !PSH != ACK || reserved & 0x0f != 0 {
            return None;
        }
        candidate.sequence = be32(inner.bytes, l4.start + 4)?;
        candidate.push = flags & PSH != 0;
    } else if l4.checksum_field(inner.bytes) == Some(0) {
        return None;
    }
    Some(candidate)
}

impl Candidate {
    /// Whether the frame's own checksums are right: IPv4 header, and TCP or UDP unless vouched for.
    pub(super) fn is_right(&self, bytes: &[u8]) -> bool {
        let l4 = &self.l4;
        let header_is_right = l4.ipv6 || bytes.get(l4.l3..l4.start).is_some_and(checksum::ipv4_header_is_right);
        header_is_right && (self.vouched || l4.verify(bytes) == Verified::Right)
    }

    /// Whether all header bytes agree that have to be the same in each segment of a superframe.
    pub(super) fn headers_agree(&self, mine: &[u8], other: &Self, others: &[u8]) -> bool {
        let (a, b) = (&self.l4, &other.l4);
        if (a.l3, a.start, a.payload, a.ipv6, a.tcp) != (b.l3, b.start, b.payload, b.ipv6, b.tcp) {
            return false;
        }
        let (Some(mine), Some(others)) = (mine.get(..a.payload), others.get(..a.payload)) else { return false };
        let l3_agrees = if a.ipv6 { same_ipv6(mine, others, a.l3) } else { same_ipv4(mine, others, a.l3) };
        l3_agrees
            && (if a.tcp { same_tcp(mine, others, a.start) } else { same::<4>(mine, others, a.start) })
            && mine.get(..a.l3) == others.get(..a.l3)
    }
}

/// All but total length, identification and header checksum.
fn same_ipv4(a: &[u8], b: &[u8], l3: usize) -> bool {
    same::<2>(a, b, l3) && same::<4>(a, b, l3 + 6) && same::<8>(a, b, l3 + 12)
}

/// All but the payload length.
fn same_ipv6(a: &[u8], b: &[u8], l3: usize) -> bool {
    same::<4>(a, b, l3) && same::<34>(a, b, l3 + 6)
}

/// All but sequence number, PSH and checksum; the window too, since the merged frame can carry only one.
fn same_tcp(a: &[u8], b: &[u8], l4: usize) -> bool {
    const PSH_WORD: u16 = PSH as u16;
    let (Some(flags), Some(others)) = (be16(a, l4 + 12), be16(b, l4 + 12)) else { return false };
    (flags ^ others) & !PSH_WORD == 0
        && same::<4>(a, b, l4)
        && same::<4>(a, b, l4 + 8)
        && same::<2>(a, b, l4 + 14)
        && same::<2>(a, b, l4 + 18)
        && a.get(l4 + 20..) == b.get(l4 + 20..)
}

#[inline]
fn same<const N: usize>(a: &[u8], b: &[u8], at: usize) -> bool {
    matches!((array::<N>(a, at), array::<N>(b, at)), (Some(a), Some(b)) if a == b)
}

fn mix_v6(src: u128, dst: u128) -> u64 {
    let folded = src.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835) ^ dst;
    let [a, b, c, d, e, f, g, h, low @ ..] = folded.to_be_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h]) ^ u64::from_be_bytes(low).rotate_left(29)
}

/// Only to find flows again: which frames merge is decided by comparing their bytes.
fn mix(a: u64, b: u64) -> u32 {
    let mixed = (a ^ b.rotate_left(31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 32 ^ b).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let [high @ .., _, _, _, _] = mixed.to_be_bytes();
    u32::from_be_bytes(high)
}
