//! `Splitter` on what a few superframes show; on millions of flows it is in `flows`.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use weft_encap::split::MAX_HEADER_LEN;
use weft_encap::{Checksum, Gso, GsoKind, L4Error, Offload, SplitError, Splitter};

use crate::packet::{Ip, Packet, Sum};
use crate::strategies::{packet, superframe};

/// All segments as frames of their own.
pub(crate) fn cut(frame: &[u8], offload: &Offload) -> Result<Vec<Vec<u8>>, SplitError> {
    let mut splitter = Splitter::new(frame, offload)?;
    let mut headers = [0xee; MAX_HEADER_LEN];
    let mut out = Vec::new();
    while let Some(payload) = splitter.next_segment(&mut headers) {
        out.push([&headers[..splitter.header_len()], &frame[payload]].concat());
    }
    assert_eq!(out.len(), splitter.segments());
    assert_eq!(splitter.next_segment(&mut headers), None);
    Ok(out)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn hints_of_the_pod_change_nothing(packet in packet(3000), size in 100..2000u16, hints in any::<[u16; 3]>()) {
        let mut hinted = superframe(&packet, size);
        hinted.checksum = Checksum::Needed { start: hints[0], offset: hints[1] };
        hinted.gso.as_mut().unwrap().header_len = hints[2];
        let frame = packet.bytes(Sum::Partial);
        prop_assert_eq!(cut(&frame, &hinted), cut(&frame, &superframe(&packet, size)));
    }

    #[test]
    fn what_is_cut_short_or_padded_is_refused(packet in packet(500), at in any::<prop::sample::Index>()) {
        let frame = packet.bytes(Sum::Partial);
        let offload = superframe(&packet, 100);
        let short = &frame[..at.index(frame.len())];
        prop_assert!(cut(short, &offload).is_err());
        let padded = [&frame[..], &[0; 3]].concat();
        prop_assert_eq!(cut(&padded, &offload), Err(SplitError::Trailing { bytes: 3 }));
    }
}

fn sample(tcp: bool, v6: bool) -> Packet {
    let (mut runner, fits) = (proptest::test_runner::TestRunner::deterministic(), packet(1000));
    loop {
        let packet = fits.new_tree(&mut runner).unwrap().current();
        if packet.is_tcp() == tcp && packet.is_v6() == v6 && packet.payload.len() > 500 {
            return packet;
        }
    }
}

#[test]
fn refuses_by_name() {
    let packet = sample(true, false);
    let frame = packet.bytes(Sum::Partial);
    let offload = superframe(&packet, 100);
    let with = |gso: Gso| Offload { gso: Some(gso), ..offload };
    let gso = offload.gso.unwrap();
    assert_eq!(cut(&frame, &Offload::NONE), Err(SplitError::NotSuperframe));
    assert_eq!(
        cut(&frame, &with(Gso { kind: GsoKind::Tcp6, ..gso })),
        Err(SplitError::KindMismatch { claimed: GsoKind::Tcp6, seen: GsoKind::Tcp4 })
    );
    for size in [0, 7] {
        let error = SplitError::SegmentTooSmall { seen: size, min: 8 };
        assert_eq!(cut(&frame, &with(Gso { size, ..gso })), Err(error));
    }
    let mut fragment = packet.clone();
    if let Ip::V4 { fragment, .. } = &mut fragment.ip {
        *fragment = 0x2000;
    }
    assert_eq!(cut(&fragment.bytes(Sum::Partial), &offload), Err(SplitError::L4(L4Error::Fragment)));

    let packet = sample(false, true);
    let mut frame = packet.bytes(Sum::Partial);
    let at = packet.l4_offset() + 5;
    frame[at] ^= 1;
    let have = frame.len() - packet.l4_offset();
    let seen = have as u16 ^ 1;
    assert_eq!(cut(&frame, &superframe(&packet, 100)), Err(SplitError::L4(L4Error::UdpLength { seen, have })));
}

#[test]
fn the_longest_packets_are_cut() {
    for (tcp, v6) in [(true, false), (true, true), (false, false), (false, true)] {
        let mut packet = sample(tcp, v6);
        let ip_len = if v6 { packet.l3_offset() + 40 } else { packet.l3_offset() };
        packet.payload = vec![0xff; 65_535 - (packet.header_len() - ip_len)];
        let frame = packet.bytes(Sum::Partial);
        for size in [u16::MAX, 40_000, 1400] {
            let wanted: Vec<_> = packet.split(size.into()).iter().map(|segment| segment.bytes(Sum::Right)).collect();
            assert_eq!(cut(&frame, &superframe(&packet, size)).unwrap(), wanted);
        }
    }
}

#[test]
fn a_superframe_without_payload_is_one_segment() {
    for (tcp, v6) in [(true, false), (true, true), (false, false), (false, true)] {
        let mut packet = sample(tcp, v6);
        packet.payload.clear();
        let segments = cut(&packet.bytes(Sum::Partial), &superframe(&packet, 100)).unwrap();
        assert_eq!(segments, [packet.bytes(Sum::Right)]);
    }
}

#[test]
fn the_offload_of_the_whole_is_told_by_its_own_headers() {
    for (tcp, v6) in [(true, false), (true, true), (false, false), (false, true)] {
        let packet = sample(tcp, v6);
        let frame = packet.bytes(Sum::Partial);
        let said = superframe(&packet, 100);
        let wrong = Checksum::Needed { start: 3, offset: 5 };
        let gso = Gso { header_len: 1, ..said.gso.unwrap() };
        let told = Splitter::new(&frame, &Offload { checksum: wrong, gso: Some(gso) }).unwrap().offload();
        let (start, offset) = (packet.l4_offset() as u16, if tcp { 16 } else { 6 });
        assert_eq!(told.checksum, Checksum::Needed { start, offset });
        assert_eq!(told.gso, Some(Gso { header_len: packet.header_len() as u16, ..said.gso.unwrap() }));
    }
}
