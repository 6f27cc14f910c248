//! Superframes: cut, merged, and found again.

use weft_encap::checksum::{self, Verified};
use weft_encap::recover::{partial_checksum, recover};
use weft_encap::{
    Checksum, Inner, L4, Merger, Network, Offload, SplitError, Splitter, merge as merging, recover_offload,
    split as splitting,
};

use super::knobs::{KNOBS_LEN, header_is_right, mend_frame, mend_l4, offload, packet_end, take, verified};

/// The segments of a superframe.
pub(super) fn segments(frame: &[u8], offload: &Offload) -> Result<Vec<Vec<u8>>, SplitError> {
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
