//! What a target takes from its bytes, and what it asks of frames.

use weft_encap::checksum::{self, Verified};
use weft_encap::{Checksum, Gso, GsoKind, Inner, L4, Network, Offload};

/// Bytes of [`Knobs`].
pub const KNOBS_LEN: usize = 8;

/// What a frame comes with.
#[derive(Clone, Copy, Debug)]
pub struct Knobs {
    /// Which [`GsoKind`]; 3 and above: the one that fits.
    pub(super) kind: u8,
    /// A segment size, in bytes.
    pub(super) size: u16,
    /// An MTU, in bytes.
    pub(super) mtu: u16,
    /// For whatever else.
    pub(super) other: u16,
}

impl Knobs {
    /// The bytes that stand for these. Bits of `mend`: 1 mends the lengths of the frame, 2 its IPv4 header checksum, 4
    /// its L4 checksum, and 8 leaves that partial.
    #[must_use]
    pub const fn bytes(mend: u8, kind: u8, size: u16, mtu: u16, other: u16) -> [u8; KNOBS_LEN] {
        let ([s0, s1], [m0, m1], [o0, o1]) = (size.to_be_bytes(), mtu.to_be_bytes(), other.to_be_bytes());
        [mend, kind, s0, s1, m0, m1, o0, o1]
    }
}

/// The knobs and the frame, mended.
pub(super) fn take(data: &[u8]) -> Option<(Knobs, Vec<u8>)> {
    let (&[mend, kind, s0, s1, m0, m1, o0, o1], frame) = data.split_first_chunk::<KNOBS_LEN>()?;
    let word = |high, low| u16::from_be_bytes([high, low]);
    let knobs = Knobs { kind, size: word(s0, s1), mtu: word(m0, m1), other: word(o0, o1) };
    let mut frame = frame.to_vec();
    mend_frame(&mut frame, mend);
    Some((knobs, frame))
}

/// Chance hardly ever makes right lengths and checksums, and behind them is most of the code.
pub(super) fn mend_frame(frame: &mut [u8], what: u8) {
    let mut l3 = 14;
    let type_at = |frame: &[u8], at: usize| frame.get(at..at + 2).map(|bytes| [bytes[0], bytes[1]]);
    while l3 < 22 && matches!(type_at(frame, l3 - 2), Some([0x81, 0] | [0x88, 0xa8] | [0x91, 0])) {
        l3 += 4;
    }
    let Some(len) = frame.len().checked_sub(l3).and_then(|len| u16::try_from(len).ok()) else { return };
    let v4 = type_at(frame, l3 - 2) == Some([8, 0]) && len >= 20;
    let v6 = type_at(frame, l3 - 2) == Some([0x86, 0xdd]) && len >= 40;
    if what & 1 != 0 && v4 {
        frame[l3] = 0x40 | (frame[l3] & 15).clamp(5, (len / 4).min(15) as u8);
        frame[l3 + 2..l3 + 4].copy_from_slice(&len.to_be_bytes());
    }
    if what & 1 != 0 && v6 {
        frame[l3] = 0x60 | frame[l3] & 15;
        frame[l3 + 4..l3 + 6].copy_from_slice(&(len - 40).to_be_bytes());
    }
    let header = usize::from(frame.get(l3).map_or(0, |first| first & 15)) * 4;
    if what & 2 != 0 && v4 && (20..=usize::from(len)).contains(&header) {
        frame[l3 + 10..l3 + 12].fill(0);
        let value = checksum::finish(checksum::sum(&frame[l3..l3 + header]));
        frame[l3 + 10..l3 + 12].copy_from_slice(&value.to_be_bytes());
    }
    mend_l4(frame, what);
}

pub(super) fn mend_l4(frame: &mut [u8], what: u8) {
    let Ok(inner) = Inner::parse(frame) else { return };
    let place = match &inner.network {
        Network::Ipv4(ip) if !ip.fragment => Some((ip.protocol, ip.l4, ip.end)),
        Network::Ipv6(ip) if !ip.fragment => Some((ip.protocol, ip.l4, ip.end)),
        Network::Ipv4(_) | Network::Ipv6(_) | Network::Arp(_) | Network::Other => None,
    };
    if let Some((17, start, end)) = place.filter(|(_, start, end)| what & 1 != 0 && start + 8 <= *end) {
        frame[start + 4..start + 6].copy_from_slice(&((end - start) as u16).to_be_bytes());
    }
    if what & 12 == 0 {
        return;
    }
    let Some(l4) = Inner::parse(frame).ok().and_then(|inner| L4::of(&inner).ok()) else { return };
    let partial = checksum::fold(l4.pseudo_header(l4.len() as u16));
    let at = l4.start + usize::from(l4.checksum_offset());
    frame[at..at + 2].copy_from_slice(&partial.to_be_bytes());
    if what & 4 != 0 {
        let value = checksum::sum(&frame[l4.start..l4.end]);
        let value = if l4.tcp { checksum::finish(value) } else { checksum::finish_udp(value) };
        frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }
}

pub(super) fn offload(knobs: Knobs, frame: &[u8]) -> Offload {
    let l4 = Inner::parse(frame).ok().and_then(|inner| L4::of(&inner).ok());
    let kind = match (knobs.kind, l4) {
        (0, _) => GsoKind::Tcp4,
        (1, _) => GsoKind::Tcp6,
        (2, _) => GsoKind::Udp,
        (_, Some(l4)) if l4.tcp => [GsoKind::Tcp4, GsoKind::Tcp6][usize::from(l4.ipv6)],
        (_, _) => GsoKind::Udp,
    };
    let checksum =
        Checksum::Needed { start: l4.map_or(0, |l4| l4.start as u16), offset: if knobs.kind == 2 { 6 } else { 16 } };
    Offload { checksum, gso: Some(Gso { kind, size: knobs.size, header_len: knobs.other, ecn: false }) }
}

/// The end of the frame's IP packet.
pub(super) fn packet_end(inner: &Inner<'_>) -> usize {
    match &inner.network {
        Network::Ipv4(ip) => ip.end,
        Network::Ipv6(ip) => ip.end,
        Network::Arp(_) | Network::Other => inner.bytes.len(),
    }
}

pub(super) fn verified(frame: &[u8]) -> Option<Verified> {
    Inner::parse(frame).ok().and_then(|inner| checksum::verify(&inner).ok())
}

pub(super) fn header_is_right(frame: &[u8]) -> Option<bool> {
    let inner = Inner::parse(frame).ok()?;
    match &inner.network {
        Network::Ipv4(ip) => Some(checksum::ipv4_header_is_right(&frame[inner.l3..ip.l4])),
        Network::Ipv6(_) | Network::Arp(_) | Network::Other => None,
    }
}
