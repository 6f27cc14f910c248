//! Whether two frames may become one.

use crate::bytes::{array, be16, be32};
use crate::checksum::{self, Verified};
use crate::inner::{self, ETHERNET_LEN, IPV4_LEN, IPV6_LEN, PROTOCOL_TCP, PROTOCOL_UDP, TAG_LEN};
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

pub(super) const fn is_plain(offload: &Offload) -> bool {
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
        if !is_plain(offload) || !agree(mine, headers, mask(l4)?) {
            return None;
        }
        let (end, identification) = if l4.ipv6 {
            (l4.start + usize::from(be16(headers, l4.l3 + 4)?), 0)
        } else {
            (l4.l3 + usize::from(be16(headers, l4.l3 + 2)?), be16(headers, l4.l3 + 4)?)
        };
        if end <= l4.payload || end > bytes.len() {
            return None;
        }
        let &[_, _, _, _, s0, s1, s2, s3] = array::<8>(headers, l4.start)?;
        let (mut sequence, mut push) = (0, false);
        if l4.tcp {
            sequence = u32::from_be_bytes([s0, s1, s2, s3]);
            push = array::<1>(headers, l4.start + 13)?[0] & PSH != 0;
        } else if usize::from(u16::from_be_bytes([s0, s1])) != end - l4.start || [s2, s3] == [0, 0] {
            return None;
        }
        let vouched = offload.checksum == Checksum::Valid;
        Some(Next { len: end - l4.payload, sequence, identification, push, vouched })
    }

    /// Whether this frame's checksums are right.
    pub(super) fn is_right(&self, bytes: &[u8]) -> bool {
        let l4 = &self.l4;
        let header_is_right = l4.ipv6 || bytes.get(l4.l3..l4.start).is_some_and(checksum::ipv4_header_is_right);
        header_is_right && (self.vouched || l4.verify(bytes) == Verified::Right)
    }

    /// Whether the checksums of a frame that follows are right, given that those of this one, `mine`, are.
    #[inline]
    pub(super) fn next_is_right(&self, mine: &[u8], next: &Next, bytes: &[u8]) -> bool {
        let l4 = L4 { end: self.l4.payload + next.len, ..self.l4 };
        let header_is_right = l4.ipv6 || varying_sum(mine, l4.l3) == varying_sum(bytes, l4.l3);
        header_is_right && (next.vouched || l4.verify(bytes) == Verified::Right)
    }
}

/// The sum of the IPv4 header words that differ between segments. All others being equal, either both headers'
/// checksums are right or neither.
#[inline]
fn varying_sum(bytes: &[u8], l3: usize) -> Option<u16> {
    let sum = u32::from(be16(bytes, l3 + 2)?) + u32::from(be16(bytes, l3 + 4)?) + u32::from(be16(bytes, l3 + 10)?);
    Some(checksum::fold(sum))
}

const MASK_LEN: usize = 128;
const _: () = assert!(super::MAX_HEADER_LEN <= MASK_LEN);

/// Which header bits must be equal, for each number of tags, IPv4 and IPv6, UDP and TCP.
static MASKS: [[[[u8; MASK_LEN]; 2]; 2]; 3] = {
    let mut masks = [[[[0xff; MASK_LEN]; 2]; 2]; 3];
    let mut index = 0;
    while index < 12 {
        let (tags, ipv6, tcp) = (index / 4, index / 2 % 2, index % 2);
        let mask = &mut masks[tags][ipv6][tcp];
        let l3 = ETHERNET_LEN + tags * TAG_LEN;
        let l4 = if ipv6 == 1 {
            clear(mask, l3 + 4, 2); // payload length
            l3 + IPV6_LEN
        } else {
            clear(mask, l3 + 2, 4); // total length, identification
            clear(mask, l3 + 10, 2); // header checksum
            l3 + IPV4_LEN
        };
        clear(mask, l4 + 4, 4); // UDP length and checksum, TCP sequence number
        if tcp == 1 {
            mask[l4 + 13] = !PSH;
            clear(mask, l4 + 16, 2); // checksum
        }
        index += 1;
    }
    masks
};

const fn clear(mask: &mut [u8; MASK_LEN], at: usize, len: usize) {
    let mut index = at;
    while index < at + len {
        mask[index] = 0;
        index += 1;
    }
}

#[inline]
fn mask(l4: &L4) -> Option<&'static [u8; MASK_LEN]> {
    let of_tags = MASKS.get(l4.l3.checked_sub(ETHERNET_LEN)? / TAG_LEN)?;
    Some(&of_tags[usize::from(l4.ipv6)][usize::from(l4.tcp)])
}

/// Whether two headers of one length agree in all masked bits.
#[inline]
fn agree(a: &[u8], b: &[u8], mask: &[u8; MASK_LEN]) -> bool {
    let word = |bytes: &[u8; 8]| u64::from_ne_bytes(*bytes);
    let differ = |a: &[u8; 8], b: &[u8; 8], mask: &[u8; 8]| (word(a) ^ word(b)) & word(mask);
    let ((heads, _), (others, _), (masks, _)) = (a.as_chunks(), b.as_chunks(), mask.as_chunks());
    let all = heads.iter().zip(others).zip(masks).fold(0, |all, ((a, b), mask)| all | differ(a, b, mask));
    // The last word may overlap the one before.
    match (a.last_chunk(), b.last_chunk(), mask.get(..a.len()).and_then(<[u8]>::last_chunk)) {
        (Some(a), Some(b), Some(mask)) => all | differ(a, b, mask) == 0,
        _ => false,
    }
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
