//! What is done to packets that are too long: answers, clamps, fragments.

use std::net::IpAddr;

use weft_encap::checksum;
use weft_encap::fragment::{self, Fragmenter};
use weft_encap::too_big::{self, Source};
use weft_encap::{Checksum, FragmentError, Inner, L4, Network, Offload, clamp_mss};

use super::knobs::{header_is_right, offload, packet_end, take, verified};
use super::superframes::segments;

/// Answers to packets that are too long.
pub fn too_big(data: &[u8]) {
    let Some((knobs, frame)) = take(data) else { return };
    let Ok(inner) = Inner::parse(&frame) else { return };
    let [a, b] = knobs.other.to_be_bytes();
    let source = match knobs.kind {
        0 => Source::Destination,
        1 => Source::Address(IpAddr::from([a, b, 0, 1])),
        _ => Source::Address(IpAddr::from([a, b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])),
    };
    let mut out = [0; too_big::MAX_LEN];
    let Ok(len) = too_big::too_big(&inner, knobs.mtu, source, &mut out) else {
        assert_eq!(out, [0; too_big::MAX_LEN]);
        return;
    };
    let answer = &out[..len];
    let read = Inner::parse(answer).expect("a frame");
    assert_eq!((read.dst, read.src, read.l3), (inner.src, inner.dst, inner.l3));
    let (kind, quotation) = match (&read.network, &inner.network) {
        (Network::Ipv4(ours), Network::Ipv4(theirs)) => {
            assert_eq!((ours.dst, ours.end, ours.protocol), (theirs.src, len, 1));
            assert!(len - read.l3 <= 576 && checksum::ipv4_header_is_right(&answer[read.l3..ours.l4]));
            assert_eq!(checksum::fold(checksum::sum(&answer[ours.l4..])), 0xffff);
            assert!(ours.src == theirs.dst || knobs.kind == 1);
            ([3, 4], ours.l4 + 8)
        }
        (Network::Ipv6(ours), Network::Ipv6(theirs)) => {
            assert_eq!((ours.dst, ours.end, ours.protocol), (theirs.src, len, 58));
            assert!(len - read.l3 <= 1280);
            let pseudo = checksum::pseudo_header_v6(ours.src, ours.dst, 58, (len - ours.l4) as u16);
            assert_eq!(checksum::fold(pseudo + checksum::sum(&answer[ours.l4..])), 0xffff);
            assert!(ours.src == theirs.dst || knobs.kind > 1);
            ([2, 0], ours.l4 + 8)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(answer[quotation - 8..quotation - 6], kind);
    assert_eq!(answer[quotation - 2..quotation], knobs.mtu.to_be_bytes());
    assert!(frame[inner.l3..packet_end(&inner)].starts_with(&answer[quotation..]));
    assert!(packet_end(&inner) - inner.l3 > usize::from(knobs.mtu));
    let mut silence = [0; too_big::MAX_LEN];
    assert!(too_big::too_big(&read, 68, source, &mut silence).is_err());
}

/// The clamp: it changes the option and the checksum, and what was right or wrong stays so.
pub fn mss(data: &[u8]) {
    let Some((knobs, mut frame)) = take(data) else { return };
    let before = frame.clone();
    let partial = Checksum::Needed { start: 0, offset: 16 };
    let checksum = if knobs.kind & 1 != 0 { partial } else { Checksum::Unknown };
    let offload = Offload { checksum, gso: None };
    let changed = clamp_mss(&mut frame, knobs.mtu, &offload);
    assert_eq!(changed, frame != before);
    assert_eq!(frame.len(), before.len());
    if !changed {
        return;
    }
    let l4 = Inner::parse(&frame).ok().and_then(|inner| L4::of(&inner).ok()).expect("a SYN");
    assert!(l4.tcp && frame[l4.start + 13] & 2 != 0);
    for (at, (old, new)) in before.iter().zip(&frame).enumerate() {
        let may = (l4.start + 20..l4.payload).contains(&at)
            || (l4.start + 16..l4.start + 18).contains(&at) && checksum == Checksum::Unknown;
        assert!(may || old == new, "{at}");
    }
    if checksum == Checksum::Unknown {
        assert_eq!(verified(&frame), verified(&before));
    }
    assert!(!clamp_mss(&mut frame, knobs.mtu, &offload));
}

/// Fragments: they fit, they are right, and together they are the packet. Those of a superframe are those of its
/// segments.
pub fn fragment(data: &[u8]) {
    let Some((knobs, frame)) = take(data) else { return };
    check_fragments(&frame, knobs.mtu, true);
    let offload = offload(knobs, &frame);
    if let Ok(cut) = fragments(&frame, &offload, knobs.mtu) {
        let segments = segments(&frame, &offload).expect("what is fragmented can be split");
        let alone = segments.into_iter().flat_map(|segment| {
            fragments(&segment, &Offload::NONE, knobs.mtu).unwrap_or_else(|error| {
                assert!(matches!(error, FragmentError::Fits { .. }), "{error}");
                vec![segment]
            })
        });
        assert!(cut.into_iter().eq(alone));
    }
}

/// As frames of their own.
fn fragments(frame: &[u8], offload: &Offload, mtu: u16) -> Result<Vec<Vec<u8>>, FragmentError> {
    let mut fragmenter = Fragmenter::new(frame, offload, mtu)?;
    let mut headers = [0; fragment::MAX_HEADER_LEN];
    let mut out = Vec::with_capacity(fragmenter.fragments());
    while let Some(piece) = fragmenter.next_fragment(&mut headers) {
        out.push([&headers[..piece.header_len], &frame[piece.payload]].concat());
    }
    assert_eq!(out.len(), fragmenter.fragments());
    Ok(out)
}

fn check_fragments(frame: &[u8], mtu: u16, again: bool) {
    let mut fragmenter = match Fragmenter::new(frame, &Offload::NONE, mtu) {
        Ok(fragmenter) => fragmenter,
        Err(FragmentError::TooManyFragments { seen, max }) => {
            assert!(seen > max);
            return;
        }
        Err(_) => return,
    };
    let inner = Inner::parse(frame).expect("a packet");
    let Network::Ipv4(whole) = inner.network else { panic!("IPv4") };
    let flags = |frame: &[u8]| u16::from_be_bytes([frame[inner.l3 + 6], frame[inner.l3 + 7]]);
    let (count, mut seen) = (fragmenter.fragments(), 0);
    let mut at = whole.l4;
    let mut headers = [0; fragment::MAX_HEADER_LEN];
    while let Some(piece) = fragmenter.next_fragment(&mut headers) {
        seen += 1;
        let bytes = [&headers[..piece.header_len], &frame[piece.payload.clone()]].concat();
        assert_eq!(piece.payload.start, at);
        at = piece.payload.end;
        let read = Inner::parse(&bytes).expect("a fragment");
        let Network::Ipv4(ip) = read.network else { panic!("IPv4") };
        assert_eq!((ip.l4, ip.end), (piece.header_len, bytes.len()));
        assert!(ip.end - read.l3 <= usize::from(mtu) && !ip.dont_fragment);
        assert_eq!(header_is_right(&bytes), Some(true));
        let offset = usize::from(flags(&bytes) & 0x1fff) - usize::from(flags(frame) & 0x1fff);
        assert_eq!(offset * 8, piece.payload.start - whole.l4);
        let more = flags(&bytes) & 0x2000 != 0;
        assert_eq!(more, seen < count || flags(frame) & 0x2000 != 0);
        assert_eq!((ip.src, ip.dst, ip.protocol), (whole.src, whole.dst, whole.protocol));
        assert_eq!((ip.identification, ip.tos, ip.ttl), (whole.identification, whole.tos, whole.ttl));
        if again {
            check_fragments(&bytes, mtu / 2, false);
        }
    }
    assert_eq!((seen, at), (count, whole.end));
    assert!(count > 1);
}
