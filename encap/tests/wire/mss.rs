//! `clamp_mss` against a reference that rewrites the option and sums again.

use etherparse::{SlicedPacket, TcpOptionElement, TransportSlice};
use proptest::prelude::*;
use weft_encap::checksum::{self, Verified};
use weft_encap::{Checksum, Inner, Offload, clamp_mss};

use crate::packet::{Ip, L4, Packet, Sum};
use crate::strategies::packet;

/// Options of a SYN, padded to words.
#[derive(Clone, Debug)]
enum Part {
    Nop,
    Mss(u16),
    WindowScale,
    SackPermitted,
    Timestamps,
    Unknown,
    /// Of a length that a maximum segment size does not have.
    OddMss,
}

fn bytes(part: &Part) -> Vec<u8> {
    match part {
        Part::Nop => vec![1],
        Part::Mss(value) => [&[2, 4], &value.to_be_bytes()[..]].concat(),
        Part::WindowScale => vec![3, 3, 7],
        Part::SackPermitted => vec![4, 2],
        Part::Timestamps => vec![8, 10, 0, 1, 2, 3, 0, 0, 0, 0],
        Part::Unknown => vec![253, 5, 2, 4, 0xff],
        Part::OddMss => vec![2, 3, 0xff],
    }
}

fn options(parts: &[Part], end: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        let part = bytes(part);
        if out.len() + part.len() <= 40 {
            out.extend(part);
        }
    }
    // What follows the end of options is not an option.
    if end && out.len() <= 35 {
        out.extend([0, 2, 4, 0xff, 0xff]);
    }
    while !out.len().is_multiple_of(4) {
        out.push(0);
    }
    out
}

fn parts() -> impl Strategy<Value = Vec<Part>> {
    let part = prop_oneof![
        2 => Just(Part::Nop),
        3 => any::<u16>().prop_map(Part::Mss),
        1 => Just(Part::WindowScale),
        1 => Just(Part::SackPermitted),
        1 => Just(Part::Timestamps),
        1 => Just(Part::Unknown),
        1 => Just(Part::OddMss),
    ];
    prop::collection::vec(part, 0..8)
}

fn syn(mut packet: Packet, with: Vec<u8>, value: u8) -> Packet {
    packet.l4 =
        L4::Tcp { ports: (40_000, 443), seq: 7, ack: 0, flags: value, window: 0xffff, urgent: 0, options: with };
    packet
}

fn needed(packet: &Packet) -> Offload {
    Offload { checksum: Checksum::Needed { start: packet.l4_offset() as u16, offset: 16 }, gso: None }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn lowers_the_option_and_nothing_else(packet in packet(60), parts in parts(), end in any::<bool>(),
                                          flags in prop::sample::select(vec![2u8, 0x12, 0xc2]), max in any::<u16>()) {
        let before = syn(packet, options(&parts, end), flags);
        let lowered: Vec<_> = parts
            .iter()
            .map(|part| match part {
                Part::Mss(value) => Part::Mss(*value.min(&max)),
                other => other.clone(),
            })
            .collect();
        let after = syn(before.clone(), options(&lowered, end), flags);
        for (sum, offload) in
            [(Sum::Right, Offload::NONE), (Sum::Right, Offload { checksum: Checksum::Valid, gso: None }), (Sum::Partial, needed(&before))]
        {
            let mut frame = before.bytes(sum);
            prop_assert_eq!(clamp_mss(&mut frame, max, &offload), before != after);
            prop_assert_eq!(&frame, &after.bytes(sum));
            prop_assert!(!clamp_mss(&mut frame, max, &offload));
        }
    }

    #[test]
    fn the_checksum_is_right_afterwards_and_a_wrong_one_wrong(packet in packet(60), parts in parts(), max in any::<u16>()) {
        let packet = syn(packet, options(&parts, false), 2);
        for (sum, wanted) in [(Sum::Right, Verified::Right), (Sum::Wrong, Verified::Wrong)] {
            let mut frame = packet.bytes(sum);
            clamp_mss(&mut frame, max, &Offload::NONE);
            prop_assert_eq!(checksum::verify(&Inner::parse(&frame).unwrap()), Ok(wanted));
        }
        let mut frame = packet.bytes(Sum::Partial);
        let offset = packet.l4_offset() as u16;
        clamp_mss(&mut frame, max, &needed(&packet));
        checksum::complete(&mut frame, offset, 16).unwrap();
        prop_assert_eq!(checksum::verify(&Inner::parse(&frame).unwrap()), Ok(Verified::Right));
    }

    #[test]
    fn a_segment_without_syn_stays(packet in packet(60), parts in parts(), flags in any::<u8>()) {
        let mut frame = syn(packet, options(&parts, false), flags & !2).bytes(Sum::Right);
        let before = frame.clone();
        prop_assert!(!clamp_mss(&mut frame, 0, &Offload::NONE));
        prop_assert_eq!(frame, before);
    }

    #[test]
    fn no_options_make_it_panic(packet in packet(10), options in prop::collection::vec(any::<u8>(), 0..10), max in any::<u16>()) {
        let options: Vec<u8> = options.iter().flat_map(|byte| [2, *byte, 4, byte % 5]).collect();
        let mut frame = syn(packet.clone(), options, 2).bytes(Sum::Right);
        let len = frame.len();
        clamp_mss(&mut frame, max, &Offload::NONE);
        prop_assert_eq!(frame.len(), len);
        prop_assert_eq!(checksum::verify(&Inner::parse(&frame).unwrap()), Ok(Verified::Right));
    }
}

fn sample(options: Vec<u8>) -> Packet {
    let ip = Ip::V4 { src: [10; 4], dst: [11; 4], tos: 0, ttl: 64, id: 1, df: true, fragment: 0, options: vec![] };
    let l4 = L4::Udp { ports: (0, 0) };
    syn(Packet { macs: [2; 12], tags: vec![], ip, l4, payload: vec![] }, options, 2)
}

#[test]
fn the_dissector_reads_the_lowered_value() {
    let mut frame = sample(vec![1, 2, 4, 5, 0xb4, 1, 3, 3, 7, 4, 2, 0]).bytes(Sum::Right);
    assert!(clamp_mss(&mut frame, 1410, &Offload::NONE));
    let parsed = SlicedPacket::from_ethernet(&frame).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = parsed.transport else { panic!("TCP") };
    let seen: Vec<_> = tcp.options_iterator().map(Result::unwrap).collect();
    assert_eq!(seen[1], TcpOptionElement::MaximumSegmentSize(1410));
    assert_eq!(seen.len(), 5);
}

#[test]
fn authenticated_options_and_fragments_stay() {
    let mut frame = sample(vec![2, 4, 5, 0xb4, 29, 4, 1, 1]).bytes(Sum::Right);
    assert!(!clamp_mss(&mut frame, 1410, &Offload::NONE));
    let mut fragment = sample(vec![2, 4, 5, 0xb4]);
    if let Ip::V4 { fragment, .. } = &mut fragment.ip {
        *fragment = 0x2000;
    }
    assert!(!clamp_mss(&mut fragment.bytes(Sum::Right), 1410, &Offload::NONE));
    assert!(!clamp_mss(&mut [], 1410, &Offload::NONE));
}
