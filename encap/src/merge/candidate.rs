//! Whether two frames may become one.

use crate::bytes::{array, be16, be32};
use crate::checksum::{self, Verified};
use crate::inner::{self, IPV4_LEN, IPV6_LEN, PROTOCOL_TCP, PROTOCOL_UDP};
use crate::l4::L4;
use crate::{Checksum, Inner, Network, Offload};

const ACK: u8 = 0x10;
pub(super) const PSH: u8 = 0x08;

/// What a frame is to the merger.
#[derive(Clone, Copy, Debug)]
pub(super) enum Class {
    /// May merge with frames of its flow.
    Candidate(Key, First),
    /// Stays alone and ends what its flow has merged so far.
    Barrier(Key),
    /// Of an unknown flow of these hosts and this protocol: ends what was merged for any of them.
    Hosts { hosts: u32 },
    /// Of an unknown flow of these hosts, TCP or UDP.
    Unwalked { hosts: [u32; 2] },
    /// Stays alone and concerns nobody.
    Stranger,
}

/// To find a flow again: which frames merge is decided by comparing their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) flow: u32,
    /// The same for all flows of one protocol between two addresses.
    pub(super) hosts: u32,
}

/// The facts of a frame that others may join.
#[derive(Clone, Copy, Debug)]
pub(super) struct First {
    pub(super) l4: L4,
    /// Zero for UDP.
    pub(super) sequence: u32,
    /// Zero for IPv6.
    pub(super) identification: u16,
    /// True for IPv6.
    pub(super) dont_fragment: bool,
    pub(super) push: bool,
    /// Whether somebody else has verified the checksum.
    vouched: bool,
}

/// The facts of a frame with the same headers as another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Next {
    /// Payload bytes.
    pub(super) len: usize,
    pub(super) sequence: u32,
    pub(super) identification: u16,
    pub(super) push: bool,
    vouched: bool,
}

#[inline]
pub(super) fn classify(bytes: &[u8], egress: u32, offload: &Offload) -> Class {
    let Ok(inner) = Inner::parse(bytes) else { return Class::Stranger };
    let (addresses, protocol) = match &inner.network {
        Network::Ipv4(ip) => (u64::from(ip.src.to_bits()) << 32 | u64::from(ip.dst.to_bits()), ip.protocol),
        Network::Ipv6(ip) => (mix_v6(ip.src.to_bits(), ip.dst.to_bits()), ip.protocol),
        Network::Arp(_) | Network::Other => return Class::Stranger,
    };
    let hosts = |protocol: u8| mix(addresses, u64::from(egress) << 8 | u64::from(protocol));
    let Some((from, to)) = inner.ports() else {
        return match protocol {
            PROTOCOL_TCP | PROTOCOL_UDP => Class::Hosts { hosts: hosts(protocol) },
            _ if inner::is_extension(protocol) => Class::Unwalked { hosts: [hosts(PROTOCOL_TCP), hosts(PROTOCOL_UDP)] },
            _ => Class::Stranger,
        };
    };
    let hosts = hosts(protocol);
    let key = Key { flow: mix(u64::from(hosts), u64::from(from) << 16 | u64::from(to)), hosts };
    match First::of(&inner, offload) {
        Some(first) => Class::Candidate(key, first),
        None => Class::Barrier(key),
    }
}

const fn is_plain(offload: &Offload) -> bool {
    offload.gso.is_none() && !matches!(offload.checksum, Checksum::Needed { .. })
}

impl First {
    #[inline]
    fn of(inner: &Inner<'_>, offload: &Offload) -> Option<Self> {
        if !is_plain(offload) {
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
        let (mut sequence, mut push) = (0, false);
        if l4.tcp {
            let &[reserved, flags] = array(inner.bytes, l4.start + 12)?;
            if flags & !PSH != ACK || reserved & 0x0f != 0 {
                return None;
            }
            sequence = be32(inner.bytes, l4.start + 4)?;
            push = flags & PSH != 0;
        } else if l4.checksum_field(inner.bytes) == Some(0) {
            return None;
        }
        let vouched = offload.checksum == Checksum::Valid;
        Some(Self { l4, sequence, identification, dont_fragment, push, vouched })
    }

    /// The facts of a frame whose headers agree with this one's wherever segments of one superframe must; what was
    /// found in this frame then holds for that one, and it need not be taken apart.
    #[inline]
    pub(super) fn followed_by(&self, mine: &[u8], bytes: &[u8], offload: &Offload) -> Option<Next> {
        let l4 = &self.l4;
        let (mine, headers) = (mine.get(..l4.payload)?, bytes.get(..l4.payload)?);
        if !is_plain(offload) || !same_ethernet(mine, headers, l4.l3) {
            return None;
        }
        let (end, identification) = if l4.ipv6 {
            if !same_ipv6(mine, headers, l4.l3) {
                return None;
            }
            (l4.start + usize::from(be16(headers, l4.l3 + 4)?), 0)
        } else {
            if !same_ipv4(mine, headers, l4.l3) {
                return None;
            }
            (l4.l3 + usize::from(be16(headers, l4.l3 + 2)?), be16(headers, l4.l3 + 4)?)
        };
        if end <= l4.payload || end > bytes.len() {
            return None;
        }
        let (mut sequence, mut push) = (0, false);
        if l4.tcp {
            if !same_tcp(mine, headers, l4.start) {
                return None;
            }
            sequence = be32(headers, l4.start + 4)?;
            push = array::<1>(headers, l4.start + 13)?[0] & PSH != 0;
        } else {
            let &[_, _, _, _, n0, n1, c0, c1] = array::<8>(headers, l4.start)?;
            let len_agrees = usize::from(u16::from_be_bytes([n0, n1])) == end - l4.start;
            if !len_agrees || [c0, c1] == [0, 0] || !same::<4>(mine, headers, l4.start) {
                return None;
            }
        }
        let vouched = offload.checksum == Checksum::Valid;
        Some(Next { len: end - l4.payload, sequence, identification, push, vouched })
    }

    /// Whether this frame's checksums are right.
    pub(super) fn is_right(&self, bytes: &[u8]) -> bool {
        is_right(&self.l4, self.vouched, bytes)
    }

    /// Whether the checksums of a frame that follows are right.
    #[inline]
    pub(super) fn next_is_right(&self, next: &Next, bytes: &[u8]) -> bool {
        is_right(&L4 { end: self.l4.payload + next.len, ..self.l4 }, next.vouched, bytes)
    }
}

/// The IPv4 header checksum, and that of TCP or UDP unless vouched for.
#[inline]
fn is_right(l4: &L4, vouched: bool, bytes: &[u8]) -> bool {
    let header_is_right = l4.ipv6 || bytes.get(l4.l3..l4.start).is_some_and(checksum::ipv4_header_is_right);
    header_is_right && (vouched || l4.verify(bytes) == Verified::Right)
}

#[inline]
fn same_ethernet(a: &[u8], b: &[u8], l3: usize) -> bool {
    same::<14>(a, b, 0) && (l3 == 14 || a.get(14..l3) == b.get(14..l3))
}

/// All but total length, identification and header checksum.
#[inline]
fn same_ipv4(a: &[u8], b: &[u8], l3: usize) -> bool {
    same::<2>(a, b, l3) && same::<4>(a, b, l3 + 6) && same::<8>(a, b, l3 + 12)
}

/// All but the payload length.
#[inline]
fn same_ipv6(a: &[u8], b: &[u8], l3: usize) -> bool {
    same::<4>(a, b, l3) && same::<2>(a, b, l3 + 6) && same::<32>(a, b, l3 + 8)
}

/// All but sequence number, PSH and checksum; the window too, since the merged frame can carry only one.
#[inline]
fn same_tcp(a: &[u8], b: &[u8], l4: usize) -> bool {
    const PSH_WORD: u32 = (PSH as u32) << 16;
    let (Some(flags), Some(others)) = (be32(a, l4 + 12), be32(b, l4 + 12)) else { return false };
    (flags ^ others) & !PSH_WORD == 0
        && same::<4>(a, b, l4)
        && same::<4>(a, b, l4 + 8)
        && same::<2>(a, b, l4 + 18)
        && same_words(a, b, l4 + 20)
}

/// The rest, a whole number of 32-bit words.
#[inline]
fn same_words(a: &[u8], b: &[u8], at: usize) -> bool {
    let (Some(a), Some(b)) = (a.get(at..), b.get(at..)) else { return false };
    let ((a, _), (b, _)) = (a.as_chunks::<4>(), b.as_chunks::<4>());
    a.iter().zip(b).all(|(a, b)| a == b)
}

#[inline]
fn same<const N: usize>(a: &[u8], b: &[u8], at: usize) -> bool {
    matches!((array::<N>(a, at), array::<N>(b, at)), (Some(a), Some(b)) if a == b)
}

#[inline]
fn mix_v6(src: u128, dst: u128) -> u64 {
    let folded = src.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835) ^ dst;
    let [a, b, c, d, e, f, g, h, low @ ..] = folded.to_be_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h]) ^ u64::from_be_bytes(low).rotate_left(29)
}

#[inline]
fn mix(a: u64, b: u64) -> u32 {
    let mixed = (a ^ b.rotate_left(31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 32 ^ b).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let [high @ .., _, _, _, _] = mixed.to_be_bytes();
    u32::from_be_bytes(high)
}
