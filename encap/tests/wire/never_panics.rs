//! No bytes make a reader panic.

use proptest::collection::vec;
use proptest::prelude::*;
use weft_encap::recover::{partial_checksum, recover};
use weft_encap::{
    Checksum, Encapsulation, FlowHash, Gso, GsoKind, Inner, L4, Merger, Offload, Outer, Splitter, Vni, checksum,
    geneve, merge, outer, recover_offload, split,
};

use crate::packet::Sum;
use crate::strategies::packet;

fn offload() -> impl Strategy<Value = Offload> {
    let kind = prop::sample::select(vec![GsoKind::Tcp4, GsoKind::Tcp6, GsoKind::Udp]);
    (any::<[u16; 4]>(), prop::option::of(kind), any::<bool>()).prop_map(
        |([start, offset, size, header_len], kind, ecn)| {
            let gso = kind.map(|kind| Gso { kind, size, header_len, ecn });
            Offload { checksum: Checksum::Needed { start, offset }, gso }
        },
    )
}

/// Noise, or a packet with some bytes changed and its end cut off or extended.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let damaged =
        (packet(200), vec((0..150usize, any::<u8>()), 0..6), 0..400usize).prop_map(|(packet, damage, len)| {
            let mut bytes = packet.bytes(Sum::Partial);
            for (at, value) in damage {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            if len < 300 {
                bytes.resize(len, 0x45);
            }
            bytes
        });
    prop_oneof![vec(any::<u8>(), 0..120), damaged]
}

fn split_all(bytes: &[u8], offload: &Offload) {
    if let Ok(mut splitter) = Splitter::new(bytes, offload) {
        let mut headers = [0; split::MAX_HEADER_LEN];
        let mut payload = 0;
        while let Some(range) = splitter.next_segment(&mut headers) {
            payload += bytes[range].len();
        }
        assert_eq!(splitter.header_len() + payload, bytes.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6000))]

    #[test]
    fn readers(bytes in bytes(), offload in offload(), mtu in any::<u16>(), at in any::<(u16, u16)>()) {
        for encapsulation in [Encapsulation::Vxlan, Encapsulation::Geneve] {
            if let Ok((vni, frame)) = encapsulation.decap(&bytes) {
                prop_assert!(vni <= Vni::MAX && frame.len() + 8 <= bytes.len());
            }
        }
        prop_assert!(geneve::Options::new(&bytes).count() <= 64);
        let _ = Outer::read(&bytes).map(|received| received.verify());
        split_all(&bytes, &offload);
        if let Ok(inner) = Inner::parse(&bytes) {
            let _ = (FlowHash::of(&inner).index(7), checksum::verify(&inner), L4::of(&inner));
            let _ = (recover_offload(&inner, mtu), partial_checksum(&inner), outer::udp_destination(&inner));
        }
        let mut changed = bytes.clone();
        let _ = recover(&mut changed, mtu);
        let before = changed.clone();
        if checksum::complete(&mut changed, at.0 % 200, at.1 % 200).is_err() {
            prop_assert_eq!(changed, before);
        }
    }

    #[test]
    fn what_recover_makes_can_be_split(packet in packet(5000), mtu in 100..3000u16) {
        let mut frame = packet.bytes(Sum::Partial);
        if let Ok(offload) = recover(&mut frame, mtu) {
            split_all(&frame, &offload);
        }
    }

    #[test]
    fn the_merger(frames in vec((bytes(), 0..2u32, prop::option::of(offload())), 0..30)) {
        let mut arena = Vec::new();
        let mut merger = Merger::with_capacity(30);
        let mut ranges = Vec::new();
        for (bytes, ..) in &frames {
            ranges.push(arena.len()..arena.len() + bytes.len());
            arena.extend_from_slice(bytes);
        }
        for ((_, egress, offload), range) in frames.iter().zip(ranges) {
            merger.push(&arena, range, *egress, offload.unwrap_or(Offload::NONE)).unwrap();
        }
        let mut seen = 0;
        for group in merger.groups() {
            seen += group.frames();
            let (len, offload) = group.finish(&arena, &mut [0; merge::MAX_HEADER_LEN]);
            prop_assert_eq!(len > 0, group.frames() > 1);
            prop_assert!(group.frames() == 1 || offload.gso.is_some());
        }
        prop_assert_eq!(seen, frames.len());
    }
}
