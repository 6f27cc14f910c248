//! A superframe into the wire packets it stands for, as the kernel cuts it (`tcp_gso_segment`, net/ipv4/tcp_offload.c;
//! `__udp_gso_segment`, net/ipv4/udp_offload.c).
//!
//! Scatter style: each segment gets its own finished headers, and its payload stays where it is. All is derived
//! from the packet itself and the segment size; `header_len` and `csum_start` of the Offload are not trusted.

use std::fmt;
use std::ops::Range;

use crate::bytes::{array, be16, be32, len16, put};
use crate::checksum;
use crate::inner::IPV6_LEN;
use crate::l4::{L4, L4Error};
use crate::{Checksum, Gso, GsoKind, Inner, InnerError, Offload};

/// Bytes of headers that a superframe can have at most: what to allow for in `next_segment`.
pub const MAX_HEADER_LEN: usize = 256;
/// The smallest TCP segment size, in bytes, that is followed (`TCP_MIN_GSO_SIZE`, Linux include/net/tcp.h):
/// bounds the segments.
pub const MIN_TCP_SEGMENT: u16 = 8;
/// The most datagrams in a UDP superframe (`UDP_MAX_SEGMENTS`, Linux include/linux/udp.h).
pub const MAX_UDP_SEGMENTS: usize = 128;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Cuts one superframe.
#[derive(Clone, Debug)]
pub struct Splitter<'a> {
    frame: &'a [u8],
    l4: L4,
    /// Payload bytes in each segment but the last.
    size: usize,
    segments: usize,
    /// Segments handed out.
    done: usize,
    sequence: u32,
    tcp_flags: u8,
    identification: u16,
    /// Partial sum of the IPv4 header without what differs from segment to segment.
    ip_sum: u32,
    /// The same of the TCP or UDP header.
    l4_sum: u32,
}

/// Why a superframe cannot be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitError {
    /// The Offload names no segmentation.
    NotSuperframe,
    /// Not an Ethernet frame.
    Frame(InnerError),
    /// No TCP or UDP, or one whose lengths disagree.
    L4(L4Error),
    /// The packet is of another kind than the Offload says.
    KindMismatch {
        /// What the Offload says.
        claimed: GsoKind,
        /// What the packet is.
        seen: GsoKind,
    },
    /// Bytes behind the IP packet.
    Trailing {
        /// How many bytes.
        bytes: usize,
    },
    /// A segment size below [`MIN_TCP_SEGMENT`] or of zero.
    SegmentTooSmall {
        /// The size seen, in bytes.
        seen: u16,
        /// The smallest size followed, in bytes.
        min: u16,
    },
    /// More datagrams than [`MAX_UDP_SEGMENTS`].
    TooManySegments {
        /// How many datagrams there would be.
        seen: usize,
        /// How many datagrams are allowed: [`MAX_UDP_SEGMENTS`].
        max: usize,
    },
    /// Headers longer than [`MAX_HEADER_LEN`].
    HeadersTooLong {
        /// Their length, in bytes.
        seen: usize,
        /// The allowed length, in bytes.
        max: usize,
    },
}

impl<'a> Splitter<'a> {
    /// Checks the superframe.
    ///
    /// # Errors
    /// [`SplitError`]; a frame that is refused here cannot be sent in pieces and has to be dropped.
    pub fn new(frame: &'a [u8], offload: &Offload) -> Result<Self, SplitError> {
        let gso = offload.gso.ok_or(SplitError::NotSuperframe)?;
        let inner = Inner::parse(frame).map_err(SplitError::Frame)?;
        let l4 = L4::of(&inner).map_err(SplitError::L4)?;
        let seen = match (l4.tcp, l4.ipv6) {
            (true, false) => GsoKind::Tcp4,
            (true, true) => GsoKind::Tcp6,
            (false, _) => GsoKind::Udp,
        };
        if gso.kind != seen {
            return Err(SplitError::KindMismatch { claimed: gso.kind, seen });
        }
        if l4.end != frame.len() {
            return Err(SplitError::Trailing { bytes: frame.len().saturating_sub(l4.end) });
        }
        if l4.payload > MAX_HEADER_LEN {
            return Err(SplitError::HeadersTooLong { seen: l4.payload, max: MAX_HEADER_LEN });
        }
        let min = if l4.tcp { MIN_TCP_SEGMENT } else { 1 };
        if gso.size < min {
            return Err(SplitError::SegmentTooSmall { seen: gso.size, min });
        }
        let size = usize::from(gso.size);
        let segments = l4.payload_len().div_ceil(size).max(1);
        if !l4.tcp && segments > MAX_UDP_SEGMENTS {
            return Err(SplitError::TooManySegments { seen: segments, max: MAX_UDP_SEGMENTS });
        }
        let (ip, header) = (&frame[l4.l3..l4.start], &frame[l4.start..l4.payload]);
        let tcp_flags = array::<1>(header, 13).map_or(0, |[flags]| *flags);
        let l4_sum = if l4.tcp {
            sum_without(header, [4, 6, 16]) + u32::from(!u16::from(tcp_flags))
        } else {
            sum_without(header, [4, 6])
        };
        Ok(Self {
            frame,
            l4,
            ip_sum: sum_without(ip, [2, 4, 10]),
            l4_sum,
            size,
            segments,
            done: 0,
            sequence: be32(frame, l4.start + 4).unwrap_or_default(),
            tcp_flags,
            identification: be16(frame, l4.l3 + 4).unwrap_or_default(),
        })
    }

    /// Bytes of each segment's headers, Ethernet to TCP or UDP: 42 to [`MAX_HEADER_LEN`].
    #[must_use]
    pub const fn header_len(&self) -> usize {
        self.l4.payload
    }

    /// How many segments there are in all: 1 to [`MAX_UDP_SEGMENTS`] of UDP, to some 8,200 of TCP ([`MIN_TCP_SEGMENT`]).
    #[must_use]
    pub const fn segments(&self) -> usize {
        self.segments
    }

    /// Payload bytes of the longest segment: of every one but the last.
    pub(crate) fn longest_payload(&self) -> usize {
        self.size.min(self.l4.payload_len())
    }

    /// Payload bytes of the last segment.
    pub(crate) fn last_payload(&self) -> usize {
        self.l4.payload_len() - (self.segments - 1) * self.size
    }

    /// The Offload with which the frame could go on whole: the sender's segment size, and the rest as the frame's
    /// own headers say, whatever the sender said.
    #[must_use]
    pub fn offload(&self) -> Offload {
        let kind = match (self.l4.tcp, self.l4.ipv6) {
            (true, false) => GsoKind::Tcp4,
            (true, true) => GsoKind::Tcp6,
            (false, _) => GsoKind::Udp,
        };
        let checksum = Checksum::Needed { start: len16(self.l4.start), offset: self.l4.checksum_offset() };
        let gso =
            Gso { kind, size: len16(self.size), header_len: len16(self.l4.payload), ecn: self.tcp_flags & CWR != 0 };
        Offload { checksum, gso: Some(gso) }
    }

    /// Writes the next segment's headers to the first [`Self::header_len`] bytes of `headers` and returns where
    /// its payload lies in the frame, in bytes from its start; none after the last.
    ///
    /// # Panics
    /// If `headers` is shorter than that; [`MAX_HEADER_LEN`] bytes always do.
    pub fn next_segment(&mut self, headers: &mut [u8]) -> Option<Range<usize>> {
        if self.done == self.segments {
            return None;
        }
        let index = self.done;
        self.done += 1;
        let start = self.l4.payload + index * self.size;
        let end = (start + self.size).min(self.l4.end);
        let headers = &mut headers[..self.l4.payload];
        headers.copy_from_slice(&self.frame[..self.l4.payload]);

        let l4_len = len16(self.l4.payload - self.l4.start + (end - start));
        self.write_ip(headers, index, l4_len);
        let payload = checksum::sum(&self.frame[start..end]) + self.l4.pseudo_header(l4_len) + self.l4_sum;
        if self.l4.tcp {
            self.write_tcp(headers, index, payload);
        } else {
            put(headers, self.l4.start + 4, l4_len.to_be_bytes());
            let value = checksum::finish_udp(payload + u32::from(l4_len));
            put(headers, self.l4.start + 6, value.to_be_bytes());
        }
        Some(start..end)
    }

    #[inline]
    fn write_ip(&self, headers: &mut [u8], index: usize, l4_len: u16) {
        let at = self.l4.l3;
        let total = self.l4.start - at + usize::from(l4_len);
        if self.l4.ipv6 {
            put(headers, at + 4, len16(total - IPV6_LEN).to_be_bytes());
            return;
        }
        let total = len16(total);
        let identification = self.identification.wrapping_add(len16(index));
        let value = checksum::finish(self.ip_sum + u32::from(total) + u32::from(identification));
        put(headers, at + 2, total.to_be_bytes());
        put(headers, at + 4, identification.to_be_bytes());
        put(headers, at + 10, value.to_be_bytes());
    }

    #[inline]
    fn write_tcp(&self, headers: &mut [u8], index: usize, payload: u32) {
        let at = self.l4.start;
        let mut flags = self.tcp_flags;
        if index > 0 {
            flags &= !CWR;
        }
        if index + 1 < self.segments {
            flags &= !(FIN | PSH);
        }
        #[expect(clippy::cast_possible_truncation, reason = "a frame is far shorter than 4 GiB")]
        let sequence = self.sequence.wrapping_add((index * self.size) as u32);
        let varying = u32::from(flags) + (sequence >> 16) + (sequence & 0xffff);
        put(headers, at + 4, sequence.to_be_bytes());
        put(headers, at + 13, [flags]);
        put(headers, at + 16, checksum::finish(payload + varying).to_be_bytes());
    }
}

/// The partial sum of a header without the fields at some even places, which differ from segment to segment.
fn sum_without<const N: usize>(header: &[u8], fields: [usize; N]) -> u32 {
    let fields = fields.iter().map(|at| u32::from(!be16(header, *at).unwrap_or_default()));
    u32::from(checksum::fold(checksum::sum(header) + fields.sum::<u32>()))
}

impl fmt::Display for SplitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSuperframe => f.write_str("not a superframe"),
            Self::Frame(error) => error.fmt(f),
            Self::L4(error) => error.fmt(f),
            Self::KindMismatch { claimed, seen } => write!(f, "superframe of kind {seen:?} marked as {claimed:?}"),
            Self::Trailing { bytes } => write!(f, "superframe with {bytes} bytes behind its IP packet"),
            Self::SegmentTooSmall { seen, min } => write!(f, "segment size {seen}, at least {min} is needed"),
            Self::TooManySegments { seen, max } => write!(f, "superframe of {seen} datagrams, at most {max} are cut"),
            Self::HeadersTooLong { seen, max } => write!(f, "superframe with {seen} bytes of headers, limit {max}"),
        }
    }
}

impl std::error::Error for SplitError {}
