//! Frames that a kernel sender on the same machine delivers to a tunnel socket.

use proptest::prelude::*;
use weft_encap::recover::{RecoverError, partial_checksum, recover};
use weft_encap::{Checksum, Inner, Offload, checksum, recover_offload};

use crate::packet::{ACK, CWR, Ip, L4, PSH, Packet, Sum};
use crate::split::cut;
use crate::strategies::packet;

fn superframe(len: usize) -> Packet {
    Packet {
        macs: [2; 12],
        tags: vec![],
        ip: Ip::V4 {
            src: [10, 0, 0, 1],
            dst: [10, 0, 0, 2],
            tos: 0,
            ttl: 64,
            id: 1,
            df: true,
            fragment: 0,
            options: vec![],
        },
        l4: L4::Tcp { ports: (1, 2), seq: 1, ack: 1, flags: ACK | PSH, window: 1, urgent: 0, options: vec![1; 12] },
        payload: vec![7; len],
    }
}

/// The field as some GSO paths of the kernel leave it: the pseudo-header with a length of zero.
fn without_length(packet: &Packet) -> Vec<u8> {
    let mut frame = packet.bytes(Sum::Partial);
    let len = (frame.len() - packet.l4_offset()) as u16;
    let at = packet.l4_offset() + if packet.is_tcp() { 16 } else { 6 };
    let field = u16::from_be_bytes([frame[at], frame[at + 1]]);
    let without = checksum::fold(u32::from(field) + u32::from(!len));
    frame[at..at + 2].copy_from_slice(&without.to_be_bytes());
    frame
}

#[test]
fn tcp_behind_a_kernel_sender_on_the_same_machine_gets_its_offload_back() {
    let packet = superframe(30_000);
    let mut frame = packet.bytes(Sum::Partial);
    let offload = recover(&mut frame, 1450).unwrap();
    assert_eq!(offload.checksum, Checksum::Needed { start: 34, offset: 16 });
    let gso = offload.gso.unwrap();
    assert_eq!((gso.size, gso.header_len, gso.ecn), (1450 - 20 - 32, 66, false));
    assert_eq!(frame, packet.bytes(Sum::Partial));
    for segment in cut(&frame, &offload).unwrap() {
        assert!(segment.len() <= 14 + 1450);
    }
}

#[test]
fn a_sum_without_the_length_is_put_right() {
    let packet = superframe(30_000);
    let mut frame = without_length(&packet);
    let inner = Inner::parse(&frame).unwrap();
    let offload = recover_offload(&inner, 1450).unwrap();
    let (at, value) = partial_checksum(&inner).unwrap();
    assert_eq!(at, 34 + 16);
    assert_eq!(recover(&mut frame, 1450), Ok(offload));
    assert_eq!(frame[at..at + 2], value);
    assert_eq!(frame, packet.bytes(Sum::Partial));
}

#[test]
fn what_cannot_be_recovered_is_refused_by_name() {
    let mut udp = superframe(3000);
    udp.l4 = L4::Udp { ports: (1, 2) };
    let have = 20 + 8 + 3000;
    assert_eq!(recover(&mut udp.bytes(Sum::Partial), 1450), Err(RecoverError::SegmentSizeUnknown { have, mtu: 1450 }));
    assert_eq!(recover(&mut udp.bytes(Sum::Right), 1450), Err(RecoverError::TooLong { have, mtu: 1450 }));
    assert!(recover(&mut udp.bytes(Sum::Partial), 3028).is_ok());
    let tcp = superframe(1400).bytes(Sum::Right);
    assert_eq!(recover(&mut tcp.clone(), 1451), Err(RecoverError::TooLong { have: 1452, mtu: 1451 }));
    assert_eq!(recover(&mut tcp.clone(), 1452), Ok(Offload::NONE));
    let partial = superframe(1400).bytes(Sum::Partial);
    assert_eq!(recover(&mut partial.clone(), 52), Err(RecoverError::TooLong { have: 1452, mtu: 52 }));
}

#[test]
fn a_congestion_mark_on_a_superframe_is_told() {
    let mut packet = superframe(3000);
    if let L4::Tcp { flags, .. } = &mut packet.l4 {
        *flags |= CWR;
    }
    assert!(recover(&mut packet.bytes(Sum::Partial), 1450).unwrap().gso.unwrap().ecn);
}

proptest! {
    #[test]
    fn unfilled_checksums_are_marked_and_filled_ones_are_left(packet in packet(1000)) {
        let needed = Checksum::Needed {
            start: packet.l4_offset() as u16,
            offset: if packet.is_tcp() { 16 } else { 6 },
        };
        for unfilled in [packet.bytes(Sum::Partial), without_length(&packet)] {
            let mut frame = unfilled;
            let Checksum::Needed { start, offset } = recover(&mut frame, 9000).unwrap().checksum else { panic!() };
            prop_assert_eq!(Checksum::Needed { start, offset }, needed);
            checksum::complete(&mut frame, start, offset).unwrap();
            prop_assert_eq!(&frame, &packet.bytes(Sum::Right));
        }
        // By chance a filled checksum looks unfilled: filling it again must change nothing.
        let mut frame = packet.bytes(Sum::Right);
        if let Checksum::Needed { start, offset } = recover(&mut frame, 9000).unwrap().checksum {
            checksum::complete(&mut frame, start, offset).unwrap();
        }
        prop_assert_eq!(frame, packet.bytes(Sum::Right));
    }
}
