//! The Offload of a frame that lost it on the way.
//!
//! A tunnel packet of a sender on the same machine, or across a veth, can reach a UDP socket whole: up to 64 KiB
//! long, the inner checksum unfilled, and no word about either. What the field holds tells: Linux leaves the
//! folded pseudo-header sum there, not inverted, with the L4 length of the whole superframe added in
//! (`tcp_v4_check`, include/net/tcp.h, `udp4_hwcsum`, net/ipv4/udp.c) or, from some GSO code paths
//! (`tcp_v6_gso_csum_prep`, include/net/ip6_checksum.h), with a length of zero.
//!
//! A complete checksum equals one of the two by chance in about 3 of 100,000 frames. Nothing breaks then: the
//! sum over such a frame, field included, yields that same value again.

use std::fmt;

use crate::bytes::{array, len16, put};
use crate::checksum::fold;
use crate::l4::L4;
use crate::{Checksum, Gso, GsoKind, Inner, InnerError, Network, Offload};

/// How an unfilled checksum field was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Partial {
    /// As a `virtio_net_hdr` reader expects it: with the L4 length.
    WithLength,
    /// Without: the length must be added before the frame is handed on.
    WithoutLength,
}

/// Why a frame cannot be handed to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoverError {
    /// Not an Ethernet frame.
    Frame(InnerError),
    /// A UDP superframe: where one datagram ended and the next began is lost.
    SegmentSizeUnknown {
        /// Bytes of the IP packet.
        have: usize,
        /// The egress pod's MTU, in bytes.
        mtu: u16,
    },
    /// Longer than the pod's MTU and no superframe.
    TooLong {
        /// Bytes of the IP packet, or, if it is not IP, of what follows the Ethernet header and its tags.
        have: usize,
        /// The egress pod's MTU, in bytes.
        mtu: u16,
    },
}

/// What a frame from a tunnel socket has to say in its `virtio_net_hdr`. `mtu`: the egress pod's IP MTU in bytes.
///
/// The frame's checksum field must then hold the pseudo-header sum *with* the L4 length of the whole packet, the
/// form which a `virtio_net_hdr` reader expects (Linux derives each segment's checksum from it). If
/// [`partial_checksum`] gives a value, the field holds the other form and that value must be written first.
/// [`recover`] does both.
///
/// # Errors
/// [`RecoverError::SegmentSizeUnknown`] and [`RecoverError::TooLong`]: the frame has to be dropped.
#[inline]
pub fn recover_offload(inner: &Inner<'_>, mtu: u16) -> Result<Offload, RecoverError> {
    recovered(inner, mtu).map(|(offload, _)| offload)
}

/// Where a checksum field lies, in bytes from the start of the frame, and what it has to hold.
type Field = (usize, [u8; 2]);

/// The Offload, and what [`partial_checksum`] says.
#[inline]
fn recovered(inner: &Inner<'_>, mtu: u16) -> Result<(Offload, Option<Field>), RecoverError> {
    let have = packet_len(inner);
    let fits = have <= usize::from(mtu);
    let too_long = RecoverError::TooLong { have, mtu };
    let found = L4::of(inner).ok().and_then(|l4| Some((l4, partial(&l4, inner.bytes)?)));
    let Some((l4, partial)) = found else {
        return if fits { Ok((Offload::NONE, None)) } else { Err(too_long) };
    };
    let checksum = Checksum::Needed { start: len16(l4.start), offset: l4.checksum_offset() };
    let sum = completed(&l4, partial);
    if fits {
        return Ok((Offload { checksum, gso: None }, sum));
    }
    if !l4.tcp {
        return Err(RecoverError::SegmentSizeUnknown { have, mtu });
    }
    let headers = l4.payload - l4.l3;
    let size = usize::from(mtu).checked_sub(headers).filter(|size| *size > 0).ok_or(too_long)?;
    let kind = if l4.ipv6 { GsoKind::Tcp6 } else { GsoKind::Tcp4 };
    let ecn = array::<1>(inner.bytes, l4.start + 13).is_some_and(|[flags]| flags & 0x80 != 0);
    let gso = Some(Gso { kind, size: len16(size), header_len: len16(l4.payload), ecn });
    Ok((Offload { checksum, gso }, sum))
}

/// Where the checksum field lies (bytes from the start of the frame) and what it has to hold, if it holds a
/// pseudo-header sum without the length; none for every other frame.
#[must_use]
pub fn partial_checksum(inner: &Inner<'_>) -> Option<(usize, [u8; 2])> {
    let l4 = L4::of(inner).ok()?;
    completed(&l4, partial(&l4, inner.bytes)?)
}

fn completed(l4: &L4, partial: Partial) -> Option<Field> {
    match partial {
        Partial::WithLength => None,
        Partial::WithoutLength => {
            let value = fold(l4.pseudo_header(len16(l4.len())));
            Some((l4.start + usize::from(l4.checksum_offset()), value.to_be_bytes()))
        }
    }
}

/// [`recover_offload`], with the checksum field put right where that is needed.
///
/// # Errors
/// Those of [`recover_offload`], and [`RecoverError::Frame`]; the frame is then unchanged.
pub fn recover(frame: &mut [u8], mtu: u16) -> Result<Offload, RecoverError> {
    let inner = Inner::parse(frame).map_err(RecoverError::Frame)?;
    let (offload, sum) = recovered(&inner, mtu)?;
    if let Some((at, value)) = sum {
        put(frame, at, value);
    }
    Ok(offload)
}

/// What a UDP superframe has to say in its `virtio_net_hdr`, if this is one, whole and with its checksum unfilled,
/// of datagrams with `size` bytes of payload. As for [`recover_offload`], [`partial_checksum`] says what its field
/// must hold.
#[must_use]
pub fn udp_superframe(inner: &Inner<'_>, size: usize) -> Option<Offload> {
    let size = u16::try_from(size).ok().filter(|size| *size > 0)?;
    let l4 = L4::of(inner).ok().filter(|l4| !l4.tcp && l4.end == inner.bytes.len())?;
    partial(&l4, inner.bytes)?;
    if l4.end - l4.payload <= usize::from(size) {
        return None;
    }
    let checksum = Checksum::Needed { start: len16(l4.start), offset: l4.checksum_offset() };
    let gso = Gso { kind: GsoKind::Udp, size, header_len: len16(l4.payload), ecn: false };
    Some(Offload { checksum, gso: Some(gso) })
}

/// Puts the length into a pseudo-header sum that lacks it; everything else stays.
pub fn complete_partial_checksum(frame: &mut [u8]) {
    let Ok(inner) = Inner::parse(frame) else { return };
    if let Some((at, value)) = partial_checksum(&inner) {
        put(frame, at, value);
    }
}

fn partial(l4: &L4, frame: &[u8]) -> Option<Partial> {
    let field = l4.checksum_field(frame)?;
    if field == fold(l4.pseudo_header(len16(l4.len()))) {
        Some(Partial::WithLength)
    } else if field == fold(l4.pseudo_header(0)) {
        Some(Partial::WithoutLength)
    } else {
        None
    }
}

fn packet_len(inner: &Inner<'_>) -> usize {
    let end = match &inner.network {
        Network::Ipv4(ip) => ip.end,
        Network::Ipv6(ip) => ip.end,
        Network::Arp(_) | Network::Other => inner.bytes.len(),
    };
    end.saturating_sub(inner.l3)
}

impl fmt::Display for RecoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(error) => error.fmt(f),
            Self::SegmentSizeUnknown { have, mtu } => {
                write!(f, "UDP superframe of {have} bytes (MTU {mtu}) whose datagram size is lost")
            }
            Self::TooLong { have, mtu } => write!(f, "packet of {have} bytes, MTU {mtu}"),
        }
    }
}

impl std::error::Error for RecoverError {}
