//! Internet checksums (RFC 1071).
//!
//! A *partial sum* is a `u32`: the one's complement sum of big-endian 16-bit words, not inverted, its carries
//! not necessarily folded in. [`sum`] gives at most 0xffff, so that some 65,000 of them can be added with `+`
//! before [`fold`]. A piece can be followed by another if it has an even number of bytes; the sum of a piece
//! that starts at an odd place goes through [`at_odd_offset`] first.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use crate::bytes::{array, put};
use crate::l4::L4;
use crate::{Inner, InnerError, L4Error, Network};

/// Where UDP's checksum stands in its header, in bytes (RFC 768).
pub const UDP_OFFSET: u16 = 6;
/// Where TCP's checksum stands in its header, in bytes (RFC 9293 section 3.1).
pub const TCP_OFFSET: u16 = 16;

/// Below this many bytes the choice of a vector variant costs more than it gains.
const VECTOR_MIN_LEN: usize = 128;
/// Bytes that the vector loop takes at a time, unrolled as it is: it leaves no remainder of its own.
const BLOCK: usize = 128;

/// A checksum request that points where no checksum of TCP, UDP or the like can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumError {
    /// The field, or where summing starts, lies beyond the end of the IP packet, or of a frame that is not IP.
    OutOfFrame {
        /// Where summing starts, in bytes from the start of the frame.
        start: u16,
        /// Where the field is, in bytes from `start`.
        offset: u16,
        /// Bytes up to that end.
        have: usize,
    },
    /// Summing starts in the Ethernet or IP header, so that filling the field could change addresses.
    InHeaders {
        /// Where summing starts, in bytes from the start of the frame.
        start: u16,
        /// Where those headers end, in bytes from the start of the frame.
        min: usize,
    },
    /// Not an Ethernet frame.
    Frame(InnerError),
}

/// What a frame's TCP or UDP checksum is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    /// It covers header and payload correctly.
    Right,
    /// It does not.
    Wrong,
    /// UDP without a checksum: the field is zero (RFC 768).
    Absent,
}

/// The partial sum of some bytes, at most 0xffff. An odd last byte counts as the high half of a word.
#[inline]
#[must_use]
pub fn sum(bytes: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if bytes.len() >= VECTOR_MIN_LEN && is_x86_feature_detected!("avx2") {
        #[expect(unsafe_code, reason = "a function for a processor feature can only be called so")]
        // SAFETY: the processor has AVX2, the line above asked it.
        return unsafe { sum_avx2(bytes) };
    }
    sum_anywhere(bytes)
}

/// The partial sum of a piece that starts at an odd number of bytes (RFC 1071 section 2 (B)).
#[inline]
#[must_use]
pub const fn at_odd_offset(partial: u32) -> u32 {
    fold(partial).swap_bytes() as u32
}

/// The 16-bit one's complement sum of a partial sum, not inverted: what a field holds that is not filled yet.
#[inline]
#[must_use]
pub const fn fold(partial: u32) -> u16 {
    let once = (partial & 0xffff) + (partial >> 16);
    let twice = (once & 0xffff) + (once >> 16);
    (twice & 0xffff) as u16
}

/// The value of a checksum field: folded and inverted (RFC 1071 section 1).
#[inline]
#[must_use]
pub const fn finish(partial: u32) -> u16 {
    !fold(partial)
}

/// The value of UDP's checksum field: zero would mean "none", so that it is sent as 0xffff (RFC 768).
#[inline]
#[must_use]
pub const fn finish_udp(partial: u32) -> u16 {
    match finish(partial) {
        0 => 0xffff,
        value => value,
    }
}

/// The partial sum of the IPv4 pseudo-header (RFC 9293 section 3.1). `l4_len`: bytes of L4 header and payload.
#[inline]
#[must_use]
pub fn pseudo_header_v4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, l4_len: u16) -> u32 {
    let (src, dst) = (src.to_bits(), dst.to_bits());
    (src >> 16) + (src & 0xffff) + (dst >> 16) + (dst & 0xffff) + u32::from(protocol) + u32::from(l4_len)
}

/// The partial sum of the IPv6 pseudo-header (RFC 8200 section 8.1). `l4_len`: bytes of L4 header and payload.
#[inline]
#[must_use]
pub fn pseudo_header_v6(src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, l4_len: u16) -> u32 {
    sum(&src.octets()) + sum(&dst.octets()) + u32::from(protocol) + u32::from(l4_len)
}

/// The bytes that an unfilled checksum covers (`VIRTIO_NET_HDR_F_NEEDS_CSUM`): from `start`, in bytes from the start of
/// the frame, to the end of the IP packet, so that Ethernet padding does not count. `offset` is where the field is, in
/// bytes from `start`. Summing may start deeper than at the packet's own TCP or UDP header: a tunnel of the pod's own
/// leaves the checksum unfilled in the packet that it carries.
///
/// # Errors
/// [`ChecksumError::InHeaders`], [`ChecksumError::OutOfFrame`].
#[inline]
pub fn covered(inner: &Inner<'_>, start: u16, offset: u16) -> Result<Range<usize>, ChecksumError> {
    let (min, end) = match &inner.network {
        Network::Ipv4(ip) => (ip.l4, ip.end),
        Network::Ipv6(ip) => (ip.l4, ip.end),
        Network::Arp(_) | Network::Other => (inner.l3, inner.bytes.len()),
    };
    let first = usize::from(start);
    if first < min {
        return Err(ChecksumError::InHeaders { start, min });
    }
    if first + usize::from(offset) + 2 > end {
        return Err(ChecksumError::OutOfFrame { start, offset, have: end });
    }
    Ok(first..end)
}

/// Fills the checksum of a frame that asks for it, in place.
///
/// The field must hold the folded pseudo-header sum, as a pod's TAP delivers it; what is summed is [`covered`]. An
/// `offset` of 6 is taken for UDP, where a result of zero becomes 0xffff.
///
/// # Errors
/// [`ChecksumError`]; the frame is unchanged.
pub fn complete(frame: &mut [u8], start: u16, offset: u16) -> Result<(), ChecksumError> {
    let inner = Inner::parse(frame).map_err(ChecksumError::Frame)?;
    let covered = covered(&inner, start, offset)?;
    let covered = frame.get_mut(covered).unwrap_or_default();
    let partial = sum(covered);
    let value = if offset == UDP_OFFSET { finish_udp(partial) } else { finish(partial) };
    put(covered, offset.into(), value.to_be_bytes());
    Ok(())
}

/// The value of a checksum field after one 16-bit word that it covers went from `before` to `after` (RFC 1624
/// section 3, equation 3). A field that was wrong stays wrong, by as much. A word at an odd place goes in with its
/// bytes swapped. Zero can come out: for UDP, write 0xffff then.
#[inline]
#[must_use]
pub const fn update(field: u16, before: u16, after: u16) -> u16 {
    finish(!field as u32 + !before as u32 + after as u32)
}

/// Checks the TCP or UDP checksum of a frame. Padding after the IP packet does not count.
///
/// # Errors
/// [`L4Error`] where there is nothing to check: not TCP or UDP, a fragment, malformed, or source-routed.
#[inline]
pub fn verify(inner: &Inner<'_>) -> Result<Verified, L4Error> {
    let l4 = L4::of(inner)?;
    Ok(l4.verify(inner.bytes))
}

/// Whether an IPv4 header's checksum is right (RFC 791 section 3.1); false if the header is cut off.
#[inline]
#[must_use]
pub fn ipv4_header_is_right(header: &[u8]) -> bool {
    match array::<20>(header, 0) {
        Some(fixed) if header.len() == fixed.len() => fold(sum_20(fixed)) == 0xffff,
        Some(_) => fold(sum(header)) == 0xffff,
        None => false,
    }
}

/// The sum of an IPv4 header without options.
#[inline]
fn sum_20(header: &[u8; 20]) -> u32 {
    let (words, _) = header.as_chunks::<4>();
    let wide: u64 = words.iter().map(|word| u64::from(u32::from_be_bytes(*word))).sum();
    fold_wide(wide)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(bytes: &[u8]) -> u32 {
    sum_anywhere(bytes)
}

/// One source for every processor: the compiler makes vectors of the loop over whole blocks, as wide as it may. What
/// is left goes word by word with the carry taken round, beside the vectors. Words are summed as little-endian ones,
/// which gives the same sum with its bytes swapped (RFC 1071 section 2).
#[inline(always)]
fn sum_anywhere(bytes: &[u8]) -> u32 {
    let (blocks, rest) = bytes.split_at(bytes.len() / BLOCK * BLOCK);
    // Both halves of each word in three operations: the low ones are what wraps around, less the high.
    let (mut all, mut high) = (0u64, 0u64);
    for word in blocks.as_chunks::<8>().0 {
        let word = u64::from_le_bytes(*word);
        all = all.wrapping_add(word);
        high += word >> 32;
    }
    let (words, mut tail) = rest.as_chunks::<8>();
    let carried = words.iter().fold(0u64, |sum, word| {
        let (sum, carry) = sum.overflowing_add(u64::from_le_bytes(*word));
        sum + u64::from(carry)
    });
    let mut total = all.wrapping_sub(high << 32) + high + (carried & 0xffff_ffff) + (carried >> 32);
    if let Some((four, rest)) = tail.split_first_chunk() {
        total += u64::from(u32::from_le_bytes(*four));
        tail = rest;
    }
    if let Some((two, rest)) = tail.split_first_chunk() {
        total += u64::from(u16::from_le_bytes(*two));
        tail = rest;
    }
    if let Some(one) = tail.first() {
        total += u64::from(*one);
    }
    u32::from(fold(fold_wide(total)).swap_bytes())
}

/// Folds 64 bits so far that no more than 17 are left.
#[inline(always)]
const fn fold_wide(total: u64) -> u32 {
    let once = (total & 0xffff_ffff) + (total >> 32);
    let twice = (once & 0xffff) + (once >> 16 & 0xffff) + (once >> 32);
    (((twice & 0xffff) + (twice >> 16)) & 0x1_ffff) as u32
}

impl fmt::Display for ChecksumError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfFrame { start, offset, have } => {
                write!(f, "checksum field at {start}+{offset} in a frame of {have} bytes")
            }
            Self::InHeaders { start, min } => write!(f, "checksum from {start} on, and headers up to {min}"),
            Self::Frame(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ChecksumError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(bytes: &[u8]) -> u16 {
        let mut total = 0u64;
        for pair in bytes.chunks(2) {
            total += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
        }
        while total > 0xffff {
            total = (total & 0xffff) + (total >> 16);
        }
        u16::try_from(total).unwrap()
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn sums_like_the_definition_at_every_length_and_alignment() {
        let bytes = noise(700);
        for start in 0..9 {
            for end in start..bytes.len() {
                assert_eq!(fold(sum(&bytes[start..end])), plain(&bytes[start..end]), "{start}..{end}");
            }
        }
    }

    #[test]
    fn the_vector_variant_agrees_with_the_portable_one() {
        let bytes = noise(4096);
        for len in VECTOR_MIN_LEN..bytes.len() {
            assert_eq!(sum(&bytes[..len]), sum_anywhere(&bytes[..len]), "{len}");
        }
        assert_eq!(sum(&[0xff; 65_536]), 0xffff);
        assert_eq!(sum(&[]), 0);
    }

    #[test]
    fn pieces_compose() {
        let bytes = noise(301);
        let whole = fold(sum(&bytes));
        for cut in 0..bytes.len() {
            let (a, b) = bytes.split_at(cut);
            let second = if cut % 2 == 0 { sum(b) } else { at_odd_offset(sum(b)) };
            assert_eq!(fold(sum(a) + second), whole, "{cut}");
        }
    }

    #[test]
    fn rfc_1071_example() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
    }

    #[test]
    fn an_update_is_what_summing_again_gives() {
        // RFC 1624 section 4.
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
        for value in [0, 1, 0xfffe, 0xffff, 0x1234] {
            for at in (0..40).step_by(2) {
                let mut bytes = noise(40);
                let before = [bytes[at], bytes[at + 1]];
                let field = finish(sum(&bytes));
                put(&mut bytes, at, u16::to_be_bytes(value));
                assert_eq!(update(field, u16::from_be_bytes(before), value), finish(sum(&bytes)));
            }
        }
    }

    /// A frame that is not IP: everything behind 14 bytes may be summed.
    fn opaque(bytes: &[u8]) -> Vec<u8> {
        [&[2; 12][..], &[0x88, 0xb5], bytes].concat()
    }

    #[test]
    fn complete_fills_the_field_or_refuses() {
        let mut frame = opaque(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0, 0]);
        assert_eq!(complete(&mut frame, 14, 6), Ok(()));
        assert_eq!(frame[20..], finish(sum(&[0, 1, 0xf2, 3, 0xf4, 0xf5])).to_be_bytes());
        let before = frame.clone();
        for (start, offset) in [(14, 7), (22, 0), (23, 0), (21, 0), (0xffff, 0xffff)] {
            assert_eq!(complete(&mut frame, start, offset), Err(ChecksumError::OutOfFrame { start, offset, have: 22 }));
        }
        for start in 0..14 {
            assert_eq!(complete(&mut frame, start, 6), Err(ChecksumError::InHeaders { start, min: 14 }));
        }
        assert!(matches!(complete(&mut frame[..13], 14, 6), Err(ChecksumError::Frame(_))));
        assert_eq!(frame, before);
    }

    #[test]
    fn udp_is_never_sent_with_a_zero_checksum() {
        let mut frame = opaque(&[0xff, 0xff, 0, 0, 0, 0, 0, 0]);
        complete(&mut frame, 14, UDP_OFFSET).unwrap();
        assert_eq!(frame[20..], [0xff, 0xff]);
        complete(&mut frame[..20], 14, 4).unwrap();
        assert_eq!(frame[18..20], [0, 0]);
    }
}
