//! What the benchmarks work on.
#![allow(dead_code, reason = "none of them uses all")]

use std::ops::Range;

use weft_encap::{Checksum, Gso, GsoKind, Offload, Splitter, checksum, split};

/// Payload of a TCP segment with timestamps at a pod MTU of 1450.
pub(crate) const SEGMENT: u16 = 1398;
pub(crate) const SEGMENTS: usize = 44;
/// Ethernet, IPv4 and TCP with timestamps.
pub(crate) const TCP4_HEADERS: usize = 14 + 20 + 32;

/// A TCP frame over IPv4 with timestamps, its checksum unfilled.
pub(crate) fn tcp4(payload: usize) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(u16::try_from(52 + payload).unwrap_or(u16::MAX).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let header = checksum::finish(checksum::sum(&frame[14..34]));
    frame[24..26].copy_from_slice(&header.to_be_bytes());
    frame.extend([0x9c, 0x40, 0x14, 0x51, 0, 0, 0, 1, 0, 0, 0, 1, 0x80, 0x10, 1, 0xf5, 0, 0, 0, 0]);
    frame.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    frame.extend((0..payload).map(|byte| byte.to_le_bytes()[0]));
    let l4_len = u16::try_from(32 + payload).unwrap_or(u16::MAX);
    let partial = checksum::pseudo_header_v4([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 6, l4_len);
    frame[50..52].copy_from_slice(&checksum::fold(partial).to_be_bytes());
    frame
}

/// A UDP frame over IPv6, without payload.
pub(crate) fn udp6() -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64]);
    frame.extend([0xfd; 32]);
    frame.extend([0x9c, 0x40, 0, 53, 0, 8, 0, 1]);
    frame
}

pub(crate) fn superframe() -> (Vec<u8>, Offload) {
    let gso = Gso { kind: GsoKind::Tcp4, size: SEGMENT, header_len: 66, ecn: false };
    let offload = Offload { checksum: Checksum::Needed { start: 34, offset: 16 }, gso: Some(gso) };
    (tcp4(usize::from(SEGMENT) * SEGMENTS), offload)
}

/// The superframe's segments, one after the other in an arena.
pub(crate) fn segments() -> (Vec<u8>, Vec<Range<usize>>) {
    let (frame, offload) = superframe();
    let (mut arena, mut ranges) = (Vec::new(), Vec::new());
    if let Ok(mut splitter) = Splitter::new(&frame, &offload) {
        let mut headers = [0; split::MAX_HEADER_LEN];
        while let Some(payload) = splitter.next_segment(&mut headers) {
            let start = arena.len();
            arena.extend_from_slice(&headers[..splitter.header_len()]);
            arena.extend_from_slice(&frame[payload]);
            ranges.push(start..arena.len());
        }
    }
    (arena, ranges)
}
