//! The bodies of the fuzz targets, which the replay in `encap/tests/fuzz_replay.rs` runs too.
//!
//! Each takes any bytes, and holds what the crate makes of them against what has to be true of it. The first
//! [`KNOBS_LEN`] bytes of most are [`Knobs`], the rest is the frame.

use std::net::IpAddr;

use weft_encap::checksum::{self, Verified};
use weft_encap::fragment::{self, Fragmenter};
use weft_encap::outer::{self, UdpChecksum};
use weft_encap::probe::{self, Kind, Probe};
use weft_encap::recover::{partial_checksum, recover};
use weft_encap::too_big::{self, Source};
use weft_encap::{
    Checksum, Ecn, Encapsulation, FlowHash, FragmentError, Gso, GsoKind, Inner, L4, MacAddr, Merger, Network, Offload,
    Outer, SplitError, Splitter, Vni, clamp_mss, ecn, geneve, merge as merging, neighbour, recover_offload,
    split as splitting,
};

/// A target's name and body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 11] = [
    ("inner", inner),
    ("vxlan", vxlan),
    ("geneve", geneve),
    ("outer", outer),
    ("split", split),
    ("merge", merge),
    ("recover", recover_frame),
    ("too_big", too_big),
    ("mss", mss),
    ("fragment", fragment),
    ("probe", probe),
];

/// Bytes of [`Knobs`].
pub const KNOBS_LEN: usize = 8;

/// What a frame comes with.
#[derive(Clone, Copy, Debug)]
pub struct Knobs {
    /// Which [`GsoKind`]; 3 and above: the one that fits.
    kind: u8,
    /// A segment size, in bytes.
    size: u16,
    /// An MTU, in bytes.
    mtu: u16,
    /// For whatever else.
    other: u16,
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
fn take(data: &[u8]) -> Option<(Knobs, Vec<u8>)> {
    let (&[mend, kind, s0, s1, m0, m1, o0, o1], frame) = data.split_first_chunk::<KNOBS_LEN>()?;
    let word = |high, low| u16::from_be_bytes([high, low]);
    let knobs = Knobs { kind, size: word(s0, s1), mtu: word(m0, m1), other: word(o0, o1) };
    let mut frame = frame.to_vec();
    mend_frame(&mut frame, mend);
    Some((knobs, frame))
}

/// Chance hardly ever makes right lengths and checksums, and behind them is most of the code.
fn mend_frame(frame: &mut [u8], what: u8) {
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

fn mend_l4(frame: &mut [u8], what: u8) {
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

fn offload(knobs: Knobs, frame: &[u8]) -> Offload {
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
fn packet_end(inner: &Inner<'_>) -> usize {
    match &inner.network {
        Network::Ipv4(ip) => ip.end,
        Network::Ipv6(ip) => ip.end,
        Network::Arp(_) | Network::Other => inner.bytes.len(),
    }
}

fn verified(frame: &[u8]) -> Option<Verified> {
    Inner::parse(frame).ok().and_then(|inner| checksum::verify(&inner).ok())
}

fn header_is_right(frame: &[u8]) -> Option<bool> {
    let inner = Inner::parse(frame).ok()?;
    match &inner.network {
        Network::Ipv4(ip) => Some(checksum::ipv4_header_is_right(&frame[inner.l3..ip.l4])),
        Network::Ipv6(_) | Network::Arp(_) | Network::Other => None,
    }
}

/// The dissector, what is asked of every frame, and ECN.
pub fn inner(data: &[u8]) {
    let Some((knobs, mut frame)) = take(data) else { return };
    let Ok(inner) = Inner::parse(&frame) else {
        assert!(frame.len() < 14);
        return;
    };
    assert!(matches!(inner.l3, 14 | 18 | 22) && inner.l3 <= frame.len());
    match &inner.network {
        Network::Ipv4(ip) => assert!(inner.l3 + 20 <= ip.l4 && ip.l4 <= ip.end && ip.end <= frame.len()),
        Network::Ipv6(ip) => assert!(inner.l3 + 40 <= ip.l4 && ip.l4 <= ip.end && ip.end <= frame.len()),
        Network::Arp(_) => assert!(inner.l3 + 28 <= frame.len()),
        Network::Other => assert_eq!(inner.ports(), None),
    }
    if let Ok(l4) = L4::of(&inner) {
        assert!(l4.l3 < l4.start && l4.start < l4.payload && l4.payload <= l4.end && l4.end <= frame.len());
    }
    let ports = usize::from(knobs.other);
    assert!(FlowHash::of(&inner).index(ports) < ports.max(1));
    let _ = outer::udp_destination(&inner);
    answer_neighbour(&inner);

    let (before, field) = (ecn::outer_tos(&inner, weft_encap::Dscp::Inherit), Ecn::of(&inner));
    assert_eq!(ecn::outer_tos(&inner, weft_encap::Dscp::Fixed(knobs.kind)) & 3, before & 3);
    let _ = ecn::decap_frame(&inner, knobs.kind);
    let (right, l4) = (header_is_right(&frame), verified(&frame));
    let wanted = Ecn::of_tos(knobs.kind);
    assert_eq!(ecn::apply_ecn(&mut frame, wanted), field.is_some());
    assert_eq!((header_is_right(&frame), verified(&frame)), (right, l4));
    assert_eq!(Inner::parse(&frame).ok().and_then(|inner| Ecn::of(&inner)), field.map(|_| wanted));
}

/// What asks for a neighbour gets one answer, which asks nothing itself.
fn answer_neighbour(frame: &Inner<'_>) {
    let mut out = [0; neighbour::MAX_ANSWER_LEN];
    let len = neighbour::answer(frame, MacAddr([2, 0, 0, 0, 0, 9]), &mut out);
    assert_eq!(len.is_some(), neighbour::question(frame).is_some());
    if let Some(len) = len {
        let answer = Inner::parse(&out[..len]).expect("our own frame");
        assert_eq!((neighbour::question(&answer), answer.l3), (None, frame.l3));
    }
}

/// VXLAN's header.
pub fn vxlan(data: &[u8]) {
    decap(Encapsulation::Vxlan, data);
}

/// Geneve's header and options.
pub fn geneve(data: &[u8]) {
    decap(Encapsulation::Geneve, data);
    assert!(geneve::Options::new(data).count() <= 64);
    if let Ok(parsed) = geneve::parse(data) {
        let options = parsed.options.as_bytes().len();
        assert_eq!(geneve::BASE_LEN + options + parsed.payload.len(), data.len());
        let walked: Result<Vec<_>, _> = parsed.options.collect();
        if let Ok(walked) = walked {
            assert_eq!(walked.iter().map(|option| option.data.len() + 4).sum::<usize>(), options);
        }
    }
}

fn decap(encapsulation: Encapsulation, data: &[u8]) {
    if let Ok((vni, frame)) = encapsulation.decap(data) {
        assert!(vni <= Vni::MAX && data.ends_with(frame));
        let again = [encapsulation.header(vni).as_bytes(), frame].concat();
        assert_eq!(encapsulation.decap(&again), Ok((vni, frame)));
    }
}

/// Outer headers: what was read and is written again reads the same.
pub fn outer(data: &[u8]) {
    let Some((_, frame)) = take(data) else { return };
    let Ok(received) = Outer::read(&frame) else { return };
    let udp = UdpChecksum::Complete { payload: checksum::sum(received.payload) };
    let mut headers = [0; outer::MAX_LEN];
    let link = received.link.write(&mut headers, &received.outer.addresses).expect("room");
    let len = received.outer.write(&mut headers[link..], received.payload.len(), udp).expect("room and length");
    let again = [&headers[..link + len], received.payload].concat();
    let read = Outer::read(&again).expect("our own packet");
    assert_eq!((read.outer, read.link, read.payload), (received.outer, received.link, received.payload));
    assert_eq!(read.verify(), Verified::Right);
    let _ = received.verify();
    for encapsulation in [Encapsulation::Vxlan, Encapsulation::Geneve] {
        let _ = encapsulation.decap(received.payload).map(|(_, frame)| Inner::parse(frame).map(|inner| inner.ports()));
    }
}

/// The segments of a superframe.
fn segments(frame: &[u8], offload: &Offload) -> Result<Vec<Vec<u8>>, SplitError> {
    let mut splitter = Splitter::new(frame, offload)?;
    let mut headers = [0; splitting::MAX_HEADER_LEN];
    let mut out = Vec::new();
    while let Some(payload) = splitter.next_segment(&mut headers) {
        out.push([&headers[..splitter.header_len()], &frame[payload]].concat());
    }
    assert_eq!(out.len(), splitter.segments());
    Ok(out)
}

/// Splitting: every segment is right, and together they are the superframe's payload.
pub fn split(data: &[u8]) {
    let Some((knobs, frame)) = take(data) else { return };
    let offload = offload(knobs, &frame);
    let Ok(segments) = segments(&frame, &offload) else { return };
    let l4 = Inner::parse(&frame).ok().and_then(|inner| L4::of(&inner).ok()).expect("a superframe");
    let mut at = l4.payload;
    for (index, segment) in segments.iter().enumerate() {
        let own = Inner::parse(segment).ok().and_then(|inner| L4::of(&inner).ok()).expect("a segment");
        assert_eq!((own.l3, own.start, own.payload, own.end), (l4.l3, l4.start, l4.payload, segment.len()));
        assert_eq!(verified(segment), Some(Verified::Right));
        assert_ne!(header_is_right(segment), Some(false));
        let payload = &segment[own.payload..];
        assert!(payload.len() == usize::from(knobs.size) || index + 1 == segments.len());
        assert_eq!(payload, &frame[at..at + payload.len()]);
        at += payload.len();
    }
    assert_eq!(at, frame.len());
}

/// Merging: of segments that were split it makes groups that split into them again; of any frames it loses none.
pub fn merge(data: &[u8]) {
    let Some((knobs, frame)) = take(data) else { return };
    if knobs.kind & 0x80 != 0 {
        let mut frames = Vec::new();
        let mut rest = &data[KNOBS_LEN..];
        while let Some((&[mend, vouched, len], tail)) = rest.split_first_chunk::<3>() {
            let (bytes, tail) = tail.split_at(usize::from(len).min(tail.len()));
            let mut bytes = bytes.to_vec();
            mend_frame(&mut bytes, mend);
            let checksum = if vouched == 1 { Checksum::Valid } else { Checksum::Unknown };
            frames.push((bytes, Offload { checksum, gso: None }));
            rest = tail;
        }
        regroup(&frames);
    } else if let Ok(segments) = segments(&frame, &offload(knobs, &frame)) {
        let frames: Vec<_> = segments.into_iter().map(|segment| (segment, Offload::NONE)).collect();
        let groups = regroup(&frames);
        // The first is as good as any: what merges at all merges as a whole, up to the limits.
        if let [(only, count)] = &groups[..]
            && *count > 1
        {
            let mut wanted = frame.clone();
            mend_frame(&mut wanted, 2 | 8);
            assert_eq!(*only, wanted);
        }
    }
}

/// Merges frames and checks each group; returns the groups' bytes and how many frames each holds.
fn regroup(frames: &[(Vec<u8>, Offload)]) -> Vec<(Vec<u8>, usize)> {
    let mut arena = Vec::new();
    let mut merger = Merger::with_capacity(frames.len());
    let ranges: Vec<_> = frames
        .iter()
        .map(|(bytes, _)| {
            arena.extend_from_slice(bytes);
            arena.len() - bytes.len()..arena.len()
        })
        .collect();
    for (range, (_, offload)) in ranges.iter().zip(frames) {
        merger.push(&arena, range.clone(), 1, *offload).expect("room");
    }
    let mut seen = 0;
    let mut out = Vec::new();
    for group in merger.groups() {
        seen += group.frames();
        let mut headers = [0; merging::MAX_HEADER_LEN];
        let (len, offload) = group.finish(&arena, &mut headers);
        let pieces: Vec<_> = group.pieces().collect();
        assert_eq!(pieces.len(), group.frames());
        let mut bytes = headers[..len].to_vec();
        pieces.iter().for_each(|piece| bytes.extend_from_slice(&arena[piece.clone()]));
        assert_eq!(bytes.len(), group.len());
        if group.is_damaged() {
            assert_eq!(group.frames(), 1);
            assert!(verified(&bytes) == Some(Verified::Wrong) || header_is_right(&bytes) == Some(false));
        }
        if group.frames() > 1 {
            check_group(&bytes, &offload, &pieces, &ranges, frames);
        }
        out.push((bytes, group.frames()));
    }
    assert_eq!(seen, frames.len());
    out
}

/// A merged frame splits into what it was made of.
fn check_group(
    bytes: &[u8],
    offload: &Offload,
    pieces: &[std::ops::Range<usize>],
    ranges: &[std::ops::Range<usize>],
    frames: &[(Vec<u8>, Offload)],
) {
    let members: Vec<_> = pieces
        .iter()
        .map(|piece| {
            ranges.iter().position(|range| range.start <= piece.start && piece.end <= range.end).expect("a frame")
        })
        .collect();
    assert!(members.is_sorted());
    let again = segments(bytes, offload).expect("a superframe");
    assert_eq!(again.len(), members.len());
    for (member, segment) in members.iter().zip(&again) {
        let (frame, given) = &frames[*member];
        let end = Inner::parse(frame).map_or(0, |inner| packet_end(&inner));
        let (mut wanted, mut segment) = (frame[..end].to_vec(), segment.clone());
        if let Ok(Network::Ipv4(ip)) = Inner::parse(frame).map(|inner| inner.network)
            && ip.dont_fragment
        {
            // Identifications mean nothing then, and may have been all the same.
            let l3 = ip.l4 - 20;
            for bytes in [&mut wanted, &mut segment] {
                bytes[l3 + 4..l3 + 6].fill(0);
                bytes[l3 + 10..l3 + 12].fill(0);
            }
        }
        if given.checksum == Checksum::Valid {
            // Somebody vouched for a checksum, right or not.
            for bytes in [&mut wanted, &mut segment] {
                mend_l4(bytes, 4);
            }
        }
        assert_eq!(wanted, segment);
    }
}

/// The Offload found again in a frame from a socket.
pub fn recover_frame(data: &[u8]) {
    let Some((knobs, mut frame)) = take(data) else { return };
    let before = frame.clone();
    if let Ok(inner) = Inner::parse(&frame) {
        let _ = (recover_offload(&inner, knobs.mtu), partial_checksum(&inner));
    }
    let Ok(offload) = recover(&mut frame, knobs.mtu) else {
        assert_eq!(frame, before);
        return;
    };
    if offload.gso.is_some() {
        match segments(&frame, &offload) {
            Ok(segments) => {
                for segment in segments {
                    let inner = Inner::parse(&segment).expect("a segment");
                    assert!(packet_end(&inner) - inner.l3 <= usize::from(knobs.mtu));
                }
            }
            Err(error) => assert!(
                matches!(
                    error,
                    SplitError::Trailing { .. }
                        | SplitError::SegmentTooSmall { .. }
                        | SplitError::HeadersTooLong { .. }
                ),
                "{error:?}"
            ),
        }
    } else if let Checksum::Needed { start, offset } = offload.checksum {
        checksum::complete(&mut frame, start, offset).expect("in the frame");
        assert_eq!(verified(&frame), Some(Verified::Right));
    }
}

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

/// Probes: what is read and written again is the same.
pub fn probe(data: &[u8]) {
    let Ok(read) = Probe::parse(data) else { return };
    // The overhead that makes the frame as long as it was.
    let overhead = match read.kind {
        Kind::Request => read.size - data.len() as u16 + 14,
        Kind::Echo => 50,
    };
    let mut again = vec![0; data.len()];
    assert_eq!(read.write(overhead, &mut again), Ok(data.len()));
    assert_eq!((&again[..6], &again[12..]), (&data[..6], &data[12..]));
    if let Some(echo) = read.echo() {
        let mut bytes = [0; probe::LEN];
        assert_eq!(echo.write(overhead, &mut bytes), Ok(probe::LEN));
        assert_eq!(Probe::parse(&bytes), Ok(echo));
    }
}
