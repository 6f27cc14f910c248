//! Random packets.

use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use weft_encap::{Checksum, Gso, GsoKind, Offload};

use crate::packet::{ACK, CWR, FIN, Ip, L4, PSH, Packet};

pub(crate) fn ipv4() -> impl Strategy<Value = Ip> {
    let options = prop_oneof![4 => Just(vec![]), 1 => Just(vec![148, 4, 0, 0])];
    (any::<[u32; 2]>(), any::<(u8, u8, bool)>(), id(), options).prop_map(|(addresses, (tos, ttl, df), id, options)| {
        let [src, dst] = addresses.map(u32::to_be_bytes);
        Ip::V4 { src, dst, tos, ttl, id, df, fragment: 0, options }
    })
}

pub(crate) fn ipv6() -> impl Strategy<Value = Ip> {
    (any::<[u128; 2]>(), any::<(u8, u8)>(), 0..0x10_0000u32, prop::bool::weighted(0.2)).prop_map(
        |(addresses, (class, hops), label, destination_options)| {
            let [src, dst] = addresses.map(u128::to_be_bytes);
            Ip::V6 { src, dst, class, label, hops, destination_options }
        },
    )
}

/// Identifications, often about to wrap.
fn id() -> impl Strategy<Value = u16> {
    prop_oneof![any::<u16>(), 0xfff0..=0xffffu16, Just(0)]
}

pub(crate) fn tcp() -> impl Strategy<Value = L4> {
    let timestamps = any::<u64>().prop_map(|times| [&[1, 1, 8, 10][..], &times.to_be_bytes()].concat());
    let sack = any::<u64>().prop_map(|edges| [&[1, 1, 5, 10][..], &edges.to_be_bytes()].concat());
    let options = prop_oneof![
        Just(vec![]),
        timestamps.clone(),
        sack.clone(),
        (timestamps, sack).prop_map(|(a, b)| [a, b].concat()),
        Just(vec![1; 40]),
    ];
    let flags = prop_oneof![
        3 => Just(ACK),
        3 => Just(ACK | PSH),
        1 => Just(ACK | PSH | FIN),
        1 => Just(ACK | CWR),
        1 => any::<u8>(),
    ];
    let seq = prop_oneof![any::<u32>(), 0xffff_f000..=u32::MAX];
    (any::<(u16, u16)>(), seq, any::<u32>(), flags, any::<u16>(), weighted(0.1, any::<u16>()), options).prop_map(
        |(ports, seq, ack, flags, window, urgent, options)| L4::Tcp {
            ports,
            seq,
            ack,
            flags,
            window,
            urgent: urgent.unwrap_or(0),
            options,
        },
    )
}

pub(crate) fn udp() -> impl Strategy<Value = L4> {
    any::<(u16, u16)>().prop_map(|ports| L4::Udp { ports })
}

pub(crate) fn tags() -> impl Strategy<Value = Vec<(u16, u16)>> {
    let kind = prop::sample::select(vec![0x8100u16, 0x88a8, 0x9100]);
    prop_oneof![3 => Just(vec![]), 2 => vec((kind, any::<u16>()), 1..=2)]
}

pub(crate) fn payload(max: usize) -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![4 => 0..=max, 2 => 0..=max.min(100), 1 => Just(max)];
    (len, any::<u64>()).prop_map(|(len, seed)| noise(len, seed))
}

/// Bytes that look like nothing in particular; now and then all ones or all zero, where sums have their edges.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    match seed % 11 {
        0 => vec![0; len],
        1 => vec![0xff; len],
        _ => {
            let (mut state, mut out) = (seed | 1, vec![0; len]);
            for bytes in out.chunks_mut(4) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                bytes.copy_from_slice(&((state >> 32) as u32).to_le_bytes()[..bytes.len()]);
            }
            out
        }
    }
}

pub(crate) fn packet(max_payload: usize) -> impl Strategy<Value = Packet> {
    let macs = any::<u128>().prop_map(|macs| std::array::from_fn(|at| macs.to_be_bytes()[at]));
    (macs, tags(), prop_oneof![ipv4(), ipv6()], prop_oneof![2 => tcp(), 1 => udp()], payload(max_payload))
        .prop_map(|(macs, tags, ip, l4, payload)| Packet { macs, tags, ip, l4, payload })
}

/// The Offload that a pod's TAP gives with this packet.
pub(crate) fn superframe(packet: &Packet, size: u16) -> Offload {
    let kind = match (packet.is_tcp(), packet.is_v6()) {
        (true, false) => GsoKind::Tcp4,
        (true, true) => GsoKind::Tcp6,
        (false, _) => GsoKind::Udp,
    };
    let offset = if packet.is_tcp() { 16 } else { 6 };
    let header_len = packet.header_len() as u16;
    Offload {
        checksum: Checksum::Needed { start: packet.l4_offset() as u16, offset },
        gso: Some(Gso { kind, size, header_len, ecn: false }),
    }
}
